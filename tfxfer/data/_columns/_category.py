"""Categories: one of a fixed set of names."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, bad_value


@keras.saving.register_keras_serializable("tfxfer")
class CategoryColumn(Column):
    """One of a fixed set of names per row, as an index; an input. For targets use a `LabelColumn`.

    Args:
        names: list of distinct strings or ints.
        unknown: `"raise"`, or `"index"`: any other value, including a missing one, gets the index after the last name.

    Values: names. Batch: int32 `(batch,)`, from 0 to `size - 1`.

    Raises:
        ValueError: if names are not distinct or differ in type; in `read`, for another value, with its row.

    Example:

    >>> column = CategoryColumn(["Dresses", "Knits"], unknown="index")
    >>> column.encode(column.read(["Knits", "Hats"], "class")).numpy().tolist()
    [1, 2]
    """

    expected = "a list of names"

    def __init__(
        self, names: Sequence[str] | Sequence[int] | np.ndarray, *, unknown: Literal["raise", "index"] = "raise"
    ) -> None:
        names = [name.item() if isinstance(name, np.generic) else name for name in _check_names(names)]
        self.names = names
        self.unknown = _check.one_of("unknown", unknown, ("raise", "index"))
        self._index = {str(name): i for i, name in enumerate(names)}
        self._table: Any = None

    def __getstate__(self):
        return {**vars(self), "_table": None}  # a TensorFlow table is recreated when needed

    @property
    def size(self) -> int:
        """The number of indices."""
        return len(self.names) + (self.unknown == "index")

    @property
    def trackables(self) -> Any:
        """The lookup table, once `encode` has been traced."""
        return () if self._table is None else (self._table,)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"names": self.names, "unknown": self.unknown}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CategoryColumn":
        """Makes the column from `config`, the result of `get_config`."""
        return cls(**config)

    def read(self, values: Any, argument: str) -> Any:
        """Returns names as a string tensor `(rows,)`; raises `ValueError` for an unknown name, with its row."""
        found = []
        for row, value in enumerate(self.sequence(values, argument)):
            value = value.decode() if isinstance(value, bytes) else value
            if self.unknown == "index" and _check.is_missing(value):
                value = ""
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # pandas converts ints to floats if a value is missing
            if isinstance(value, str):
                _check.text(argument, value, row)
            if str(value) not in self._index and self.unknown == "raise":
                shown = ", ".join(map(repr, self.names[:5]))
                remedy = 'Add it to `names`, or pass `unknown="index"`.'
                raise bad_value(argument, f"one of {len(self.names)} names ({shown}, ...)", value, row, remedy)
            found.append(str(value))
        with tf.device("CPU:0"):
            return tf.constant(found, tf.string, shape=(len(found),))

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec((), tf.string)

    def encode(self, rows: Any) -> Any:
        """Turns a string tensor `(rows,)` into indices, int32 `(rows,)`."""
        if self._table is None:
            with tf.init_scope():
                keys = tf.constant(list(self._index))
                values = tf.range(len(self.names), dtype=tf.int64)
                initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
                self._table = tf.lookup.StaticHashTable(initializer, len(self.names))
        found = tf.cast(self._table.lookup(rows), tf.int32)
        if self.unknown == "raise":
            tf.debugging.assert_less(found, len(self.names), "Unknown category: it is not in the column's names.")
        return found


def _check_names(names):
    listed = isinstance(names, (list, tuple, np.ndarray)) and len(names)
    if not listed or len(set(map(str, names))) < len(names):
        raise _check.invalid("names", "a list of distinct names", names)
    return names
