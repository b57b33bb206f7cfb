"""Common base of the parts of decisions: settings, fitted arrays, and their configuration."""

import base64
from typing import Any, Self

import numpy as np

from tfxfer import _check

# Larger arrays are written as base64 instead of lists.
_MANY = 1024


class Part:
    """A part with settings from the constructor and arrays from `fit`.

    A subclass names its settings in `_settings`; its `fit` passes the arrays to `_fitted`.
    """

    _settings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays found by `fit`, a dict of name to float32 array; empty before `fit`."""
        return dict(self._arrays)

    @property
    def is_fitted(self) -> bool:
        """Whether the part is ready to use."""
        return bool(self._arrays)

    def _fitted(self, **arrays):
        self._arrays = {name: np.asarray(value, "float32") for name, value in arrays.items()}
        return self

    def _check_fitted(self):
        if not self.is_fitted:
            raise _check.invalid("self", f"a fitted `{type(self).__name__}`", self, "Call `fit` first.")

    def settings(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {name: getattr(self, name) for name in self._settings}

    def class_arrays(self) -> tuple[str, ...]:
        """Returns the names of the arrays with one number per class."""
        return ()

    def reordered(self, places: list[int]) -> Self:
        """Returns the part with its classes in another order.

        Args:
            places: list of ints: the index of each class of the new order in the current one.
        """
        made = type(self)(**self.settings())
        made._arrays = {
            name: value[np.asarray(places)] if name in self.class_arrays() else value
            for name, value in self._arrays.items()
        }
        return made

    def get_config(self) -> dict[str, Any]:
        """Returns the settings and arrays as JSON-serializable values."""
        return {**self.settings(), "arrays": {name: _written(value) for name, value in self._arrays.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates the part from a configuration.

        Args:
            config: the result of `get_config`.
        """
        config = dict(config)
        arrays = config.pop("arrays", {})
        made = cls(**config)
        made._arrays = {name: _read(value) for name, value in arrays.items()}
        return made


def _written(array):
    if array.size <= _MANY:
        return array.tolist()
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(data).decode()}


def _read(value):
    if not isinstance(value, dict):
        return np.asarray(value, "float32")
    found = np.frombuffer(base64.b64decode(value["float32"]), "<f4").astype("float32")
    return found.reshape(value["shape"])


def checked_logits(logits, argument="logits"):
    """Returns logits as a float32 array `(rows, classes)`; raises for other shapes, no rows, or NaN."""
    logits = np.asarray(logits, "float32")
    if logits.ndim != 2 or not logits.size:
        raise _check.invalid(argument, "an array (rows, classes), at least one row", logits.shape)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise _check.invalid(argument, "finite numbers", logits[row], f"They are in row {row} (counting from 0).")
    return logits


def checked_classes(targets, rows, classes):
    """Returns targets as ints `(rows,)`; raises if they are not class indices."""
    targets = np.asarray(targets)
    if targets.shape != (rows,) or targets.dtype.kind not in "iu":
        expected = f"ints ({rows},), the index of each row's class"
        remedy = (
            "Class proportions have no single right answer: `targets.argmax(axis=1)`." if targets.ndim == 2 else None
        )
        raise _check.invalid("targets", expected, targets, remedy)
    if targets.min() < 0 or targets.max() >= classes:
        row = int(np.flatnonzero((targets < 0) | (targets >= classes))[0])
        remedy = f"It is in row {row} (counting from 0)."
        raise _check.invalid("targets", f"indices from 0 to {classes - 1}", targets[row], remedy)
    return targets.astype("int64")


def checked_flags(targets, shape):
    """Returns the labels of rows as bools `(rows, classes)`; raises if they are not 0 and 1."""
    targets = np.asarray(targets)
    if targets.shape != shape or not np.isin(targets, (0, 1)).all():
        raise _check.invalid("targets", f"0 and 1 of shape {shape}", targets)
    return targets.astype(bool)
