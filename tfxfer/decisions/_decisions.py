"""All parts of a model's decisions in one object."""

from collections.abc import Sequence
from typing import Any, Self

import keras

from tfxfer import _check
from tfxfer.decisions._conformal import ConformalSets
from tfxfer.decisions._part import Part
from tfxfer.decisions._rejection import Rejection
from tfxfer.decisions._scaling import Scaling
from tfxfer.decisions._thresholds import Thresholds

PARTS = {"scaling": Scaling, "thresholds": Thresholds, "rejection": Rejection, "sets": ConformalSets}


@keras.saving.register_keras_serializable("tfxfer", name="decisions.Decisions")
class Decisions:
    """Bundles the fitted parts of a classifier's decisions; each part is optional.

    `calibrate` and `fit_decisions` of a classifier create it, and the model stores it as `model.decisions`.

    Args:
        labels: sequence of class names, in the order of the outputs.
        scaling: `Scaling`, from logits to logits.
        thresholds: `Thresholds`, for several labels per row.
        rejection: `Rejection`, for one label per row.
        sets: `ConformalSets`, for one label per row.

    Raises:
        ValueError: if a part has the wrong type, is not fitted, or has another number of classes.

    Example:

    >>> scaling = Scaling().fit([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]], [0, 1, 1])
    >>> Decisions(["card", "loan"], scaling=scaling)
    Decisions(scaling=temperature)
    """

    def __init__(
        self,
        labels: Sequence[Any],
        *,
        scaling: Scaling | None = None,
        thresholds: Thresholds | None = None,
        rejection: Rejection | None = None,
        sets: ConformalSets | None = None,
    ) -> None:
        self.labels = list(labels)
        given = {"scaling": scaling, "thresholds": thresholds, "rejection": rejection, "sets": sets}
        for name, part in given.items():
            if part is None:
                continue
            _check.instance(name, part, PARTS[name], f"a `decisions.{PARTS[name].__name__}`")
            if not part.is_fitted:
                raise _check.invalid(name, "a fitted part", part, "Call its `fit`.")
            for array in part.class_arrays():
                if len(part.arrays[array]) != len(self.labels):
                    expected = f"a part of {len(self.labels)} classes"
                    raise _check.invalid(name, expected, len(part.arrays[array]))
        self.scaling, self.thresholds, self.rejection, self.sets = scaling, thresholds, rejection, sets

    @property
    def parts(self) -> dict[str, Part]:
        """Dict of the existing parts by name."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}

    def with_parts(self, **parts: Any) -> "Decisions":
        """Returns decisions with some parts replaced.

        Args:
            **parts: the new `scaling`, `thresholds`, `rejection` or `sets`; `None` removes a part.
        """
        return Decisions(self.labels, **{**self.parts, **parts})

    def with_labels(self, labels: Sequence[Any], places: Sequence[int] | None = None) -> "Decisions":
        """Returns decisions for the same classes with other names or in another order.

        Args:
            labels: the class names, in the order of the outputs.
            places: the index of each class in the current order. By default the order stays the same.
        """
        parts: dict[str, Any] = self.parts
        if places is not None:
            parts = {name: part.reordered(list(places)) for name, part in parts.items()}
        return Decisions(labels, **parts)

    def describe(self) -> dict[str, Any]:
        """Returns the parts as a few plain values: method, settings, and single numbers such as a threshold."""
        found = {}
        for name, part in self.parts.items():
            config = part.get_config()
            arrays = config.pop("arrays")
            numbers = {key: value for key, value in arrays.items() if isinstance(value, float)}
            found[name] = {**{key: value for key, value in config.items() if value is not None}, **numbers}
        return found

    def get_config(self) -> dict[str, Any]:
        """Returns the labels and the parts as JSON-serializable values."""
        serialize = keras.saving.serialize_keras_object
        return {"labels": self.labels, **{name: serialize(part) for name, part in self.parts.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates decisions from a configuration.

        Args:
            config: the result of `get_config`.
        """
        read = keras.saving.deserialize_keras_object
        return cls(**{name: read(value) if isinstance(value, dict) else value for name, value in config.items()})

    def __repr__(self) -> str:
        shown = (
            f"{name}={getattr(part, 'method', None) or getattr(part, 'goal', '')}" for name, part in self.parts.items()
        )
        return f"Decisions({', '.join(shown)})"
