"""What a model decides by, as one object."""

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
    """What a classifier decides by: parts that are fitted, each of which may be missing.

    `calibrate` and `fit_decisions` of a classifier make it; the model keeps it as `model.decisions`.

    Args:
        labels: sequence of the class names, in the order of the outputs.
        scaling: `Scaling`: from logits to logits.
        thresholds: `Thresholds`, for several labels a row.
        rejection: `Rejection`, for one label a row.
        sets: `ConformalSets`, for one label a row.

    Raises:
        ValueError: for a part of another kind, or one that is not fitted.

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
                raise _check.invalid(name, "a part that is fitted", part, "Call its `fit`.")
            for array in part.class_arrays():
                if len(part.arrays[array]) != len(self.labels):
                    expected = f"a part of {len(self.labels)} classes"
                    raise _check.invalid(name, expected, len(part.arrays[array]))
        self.scaling, self.thresholds, self.rejection, self.sets = scaling, thresholds, rejection, sets

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}

    def with_parts(self, **parts: Any) -> "Decisions":
        """Returns decisions with other parts in place of some; `None` takes one away."""
        return Decisions(self.labels, **{**self.parts, **parts})

    def with_labels(self, labels: Sequence[Any], places: Sequence[int] | None = None) -> "Decisions":
        """Returns decisions for other names, or another order, of the same classes.

        Args:
            labels: the class names, in the order of the outputs.
            places: where each of them is in the present order. By default the order stays.
        """
        parts: dict[str, Any] = self.parts
        if places is not None:
            parts = {name: part.reordered(list(places)) for name, part in parts.items()}
        return Decisions(labels, **parts)

    def describe(self) -> dict[str, Any]:
        """Returns the parts in a few plain values: method, settings, and single numbers such as a threshold."""
        found = {}
        for name, part in self.parts.items():
            config = part.get_config()
            arrays = config.pop("arrays")
            numbers = {key: value for key, value in arrays.items() if isinstance(value, float)}
            found[name] = {**{key: value for key, value in config.items() if value is not None}, **numbers}
        return found

    def get_config(self) -> dict[str, Any]:
        """Returns labels and parts as JSON knows them."""
        serialize = keras.saving.serialize_keras_object
        return {"labels": self.labels, **{name: serialize(part) for name, part in self.parts.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the decisions of what `get_config` returned."""
        read = keras.saving.deserialize_keras_object
        return cls(**{name: read(value) if isinstance(value, dict) else value for name, value in config.items()})

    def __repr__(self) -> str:
        shown = (
            f"{name}={getattr(part, 'method', None) or getattr(part, 'goal', '')}" for name, part in self.parts.items()
        )
        return f"Decisions({', '.join(shown)})"
