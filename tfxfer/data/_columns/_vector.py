"""Vectors from another model."""

from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, read_numbers


@keras.saving.register_keras_serializable("tfxfer")
class VectorColumn(Column):
    """A vector for each row, for example an embedding from another model.

    Args:
        dim: int. Size of the vectors.

    Values: float array `(rows, dim)`. Batch: float32 `(batch, dim)`.

    Raises:
        ValueError: if `dim` is not a positive int; in `read`, for another size, or numbers that are not finite.

    Example:

    >>> VectorColumn(2).read([[0.5, 1]], "embedding").tolist()
    [[0.5, 1.0]]
    """

    expected = "a vector for each row"

    def __init__(self, dim: int) -> None:
        self.dim = _check.integer("dim", dim)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"dim": self.dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VectorColumn":
        """Makes the column from `config`, the result of `get_config`."""
        return cls(**config)

    def read(self, values: Any, argument: str) -> Any:
        """Returns vectors as float32 `(rows, dim)`."""
        return read_numbers(values, argument, self.expected, (self.dim,))

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec((self.dim,), tf.float32)
