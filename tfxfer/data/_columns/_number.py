"""Numbers, one or several a row."""

from typing import Any

import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, read_numbers


class NumberColumn(Column):
    """Numbers: one a row, or `size` of them.

    Args:
        size: int. Numbers in a row. By default one, without a dimension of its own.
        missing: float that takes the place of missing numbers (`None`, NaN, an empty string). By default they are
            errors.

    Values: numbers, or strings that hold numbers. Batch: float32 `(batch,)`, or `(batch, size)`.

    Raises:
        ValueError: in `read`, for what is no finite number, with its row.

    Example:

    >>> NumberColumn(missing=0.0).read(["39", None, 4], "age").tolist()
    [39.0, 0.0, 4.0]
    """

    expected = "a list of numbers"

    def __init__(self, size: int | None = None, *, missing: float | None = None) -> None:
        self.size = _check.integer("size", size, optional=True)
        self.missing = None if missing is None else _check.number("missing", missing)

    def read(self, values: Any, argument: str) -> Any:
        """Returns numbers as float32 `(rows,)` or `(rows, size)`."""
        shape = () if self.size is None else (self.size,)
        return read_numbers(values, argument, self.expected, shape, self.missing)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec(() if self.size is None else (self.size,), tf.float32)
