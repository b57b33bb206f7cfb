"""Numeric targets without encoding."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, bad_value, read_numbers


class ValuesColumn(Column):
    """Targets of any shape that the loss reads unchanged: scores, class indices, embeddings of another model.

    Args:
        size: int. Numbers per row, as a separate dimension: `(rows,)` is read as `(rows, 1)` for a size of 1. By
            default any shape.

    Values: numbers `(rows, ...)`; ints stay ints. Batch: `(batch, ...)`.

    Raises:
        ValueError: in `read`, for strings and other values that are not numbers, and numbers that are not finite, with
            their row.

    Example:

    >>> ValuesColumn(size=1).read([0.5, 1], "y").tolist()
    [[0.5], [1.0]]
    """

    expected = "a number, or an array of numbers, for each row"

    def __init__(self, size: int | None = None) -> None:
        self.size = _check.integer("size", size, optional=True)

    def read(self, values: Any, argument: str) -> Any:
        """Returns numbers `(rows, ...)`: ints as int64, bools as int32, others as float32."""
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise _check.invalid(argument, self.expected, values)
        if self.size is not None:
            array = _array(values, argument, self.expected)
            if array.ndim == 1:
                array = read_numbers(array if array.dtype.kind in "biuf" else values, argument, self.expected)
                if self.size == 1 or not len(array):
                    return array.reshape(-1, self.size)
            return read_numbers(array if array.ndim > 1 else values, argument, self.expected, (self.size,))
        array = _array(values, argument, self.expected)
        if array.dtype.kind in "biu":
            return array.astype("int64") if array.dtype.kind != "b" else array.astype("int32")
        return read_numbers(array.astype("float64"), argument, self.expected, array.shape[1:])

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec(() if self.size is None else (self.size,), tf.float32)

    def encode(self, rows: Any) -> Any:
        """Turns targets of a pipeline into the targets of the loss."""
        rows = tf.convert_to_tensor(rows)
        if rows.dtype == tf.string:
            raise _check.invalid("y", "numbers", "strings", _REMEDY)
        if self.size is None:
            return rows
        rows = tf.cast(rows, tf.float32)
        if rows.shape.rank == 1 and self.size == 1:
            rows = rows[:, tf.newaxis]
        if rows.shape.rank != 2 or rows.shape[1] not in (None, self.size):
            raise _check.invalid("y", f"numbers of shape (batch, {self.size})", rows.shape)
        return tf.ensure_shape(rows, (None, self.size))


_REMEDY = "To train by class, give each class a number: `sorted(set(names)).index(name)`, or `data.labelled`."


def _array(values, argument, expected):
    """Returns numbers as an array; raises for any other value, with its row."""
    if hasattr(values, "to_pylist"):
        values = values.to_pylist()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _check.invalid(argument, expected, values, "All rows need the same shape.") from error
    if array.dtype.kind in "biuf":
        return array
    rows = array.tolist() if array.dtype == object else list(values)
    for row, value in enumerate(rows):
        if isinstance(value, (str, bytes)) or _check.is_missing(value):
            remedy = _REMEDY if isinstance(value, (str, bytes)) else "Fill it in or drop the row."
            raise bad_value(argument, expected, value, row, remedy)
    try:
        return np.asarray(rows, "float64")
    except (TypeError, ValueError) as error:
        raise _check.invalid(argument, expected, values, "All rows need the same shape.") from error
