"""What all parts of a decision share: settings, fitted arrays, and both as a configuration."""

import base64
from typing import Any, Self

import numpy as np

from tfxfer import _check

# Arrays of more numbers than this are written as base64, not as lists.
_MANY = 1024


class Part:
    """Settings out of the constructor, and arrays that `fit` finds.

    A subclass names its settings in `_settings`; its `fit` calls `_fitted` with the arrays.
    """

    _settings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What `fit` found, a dict of names to float32 arrays; empty before."""
        return dict(self._arrays)

    @property
    def is_fitted(self) -> bool:
        """Whether the part can answer."""
        return bool(self._arrays)

    def _fitted(self, **arrays):
        self._arrays = {name: np.asarray(value, "float32") for name, value in arrays.items()}
        return self

    def _check_fitted(self):
        if not self.is_fitted:
            raise _check.invalid("self", f"a fitted `{type(self).__name__}`", self, "Call `fit` first.")

    def settings(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {name: getattr(self, name) for name in self._settings}

    def class_arrays(self) -> tuple[str, ...]:
        """Returns the names of the arrays that have a number for each class."""
        return ()

    def reordered(self, places: list[int]) -> Self:
        """Returns the part for the classes in another order.

        Args:
            places: list of ints: where each class of the new order is in the present one.
        """
        made = type(self)(**self.settings())
        made._arrays = {
            name: value[np.asarray(places)] if name in self.class_arrays() else value
            for name, value in self._arrays.items()
        }
        return made

    def get_config(self) -> dict[str, Any]:
        """Returns settings and arrays as JSON knows them."""
        return {**self.settings(), "arrays": {name: _written(value) for name, value in self._arrays.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the part of what `get_config` returned."""
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
    """Returns logits as a float32 array `(rows, classes)`; raises for another shape, no rows, or NaN."""
    logits = np.asarray(logits, "float32")
    if logits.ndim != 2 or not logits.size:
        raise _check.invalid(argument, "an array (rows, classes), at least one row", logits.shape)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise _check.invalid(argument, "finite numbers", logits[row], f"They are in row {row} (counting from 0).")
    return logits


def checked_classes(targets, rows, classes):
    """Returns targets as ints `(rows,)`; raises where they are no indices of classes."""
    targets = np.asarray(targets)
    if targets.shape != (rows,) or targets.dtype.kind not in "iu":
        expected = f"ints ({rows},), the index of each row's class"
        remedy = (
            "Shares of classes have no single right answer: `targets.argmax(axis=1)`." if targets.ndim == 2 else None
        )
        raise _check.invalid("targets", expected, targets, remedy)
    if targets.min() < 0 or targets.max() >= classes:
        row = int(np.flatnonzero((targets < 0) | (targets >= classes))[0])
        remedy = f"It is in row {row} (counting from 0)."
        raise _check.invalid("targets", f"indices from 0 to {classes - 1}", targets[row], remedy)
    return targets.astype("int64")


def checked_flags(targets, shape):
    """Returns the labels of rows as bools `(rows, classes)`; raises where they are not 0 and 1."""
    targets = np.asarray(targets)
    if targets.shape != shape or not np.isin(targets, (0, 1)).all():
        raise _check.invalid("targets", f"0 and 1 of shape {shape}", targets)
    return targets.astype(bool)
