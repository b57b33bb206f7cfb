"""Numbers, one or several per row."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, read_numbers


@keras.saving.register_keras_serializable("tfxfer")
class NumberColumn(Column):
    """Numbers: one per row, or `size` of them.

    Args:
        size: int. Numbers per row. By default one, without its own dimension.
        missing: float that replaces missing numbers (`None`, NaN, an empty string); or `"nan"`, which leaves them NaN
            for a model that handles NaN (`models.MultimodalClassifier`). By default they are errors.
        mean: float, or a list of `size` floats, for the model to subtract. The column does not change the values.
        scale: float > 0, or a list of such floats, for the model to divide by. `data.tabular_columns` computes both.

    Values: numbers, or strings that hold numbers. Batch: float32 `(batch,)`, or `(batch, size)`.

    Raises:
        ValueError: if an argument is out of range; in `read`, for a value that is not a finite number, with its row.

    Example:

    >>> NumberColumn(missing=0.0).read(["39", None, 4], "age").tolist()
    [39.0, 0.0, 4.0]
    """

    expected = "a list of numbers"

    def __init__(
        self,
        size: int | None = None,
        *,
        missing: float | Literal["nan"] | None = None,
        mean: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        self.size = _check.integer("size", size, optional=True)
        if isinstance(missing, str):
            _check.one_of("missing", missing, ("nan",), "Or pass the number to use instead.")
        self.missing = missing if missing is None or isinstance(missing, str) else _check.number("missing", missing)
        self.mean = self._statistic("mean", mean)
        self.scale = self._statistic("scale", scale)
        if any(each <= 0 for each in (self.scale if isinstance(self.scale, list) else [self.scale])):
            raise _check.invalid("scale", "numbers above 0", scale)

    def _statistic(self, argument, values):
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, (list, tuple)):
            found = _check.number(argument, values)
            if not math.isfinite(found):
                raise _check.invalid(argument, "a finite number", values)
            return found
        if len(values) != self.size:
            expected = "a number" if self.size is None else f"a number, or {self.size} numbers"
            raise _check.invalid(argument, expected, values)
        return [self._statistic(argument, each) for each in values]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"size": self.size, "missing": self.missing, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NumberColumn":
        """Makes the column from `config`, the result of `get_config`."""
        return cls(**config)

    def read(self, values: Any, argument: str) -> Any:
        """Returns numbers as float32 `(rows,)` or `(rows, size)`."""
        shape = () if self.size is None else (self.size,)
        missing = math.nan if self.missing == "nan" else self.missing
        return read_numbers(values, argument, self.expected, shape, missing)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec(() if self.size is None else (self.size,), tf.float32)
