"""Rows in memory, ready to become batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns import Column, LabelColumn, TagsColumn
from tfxfer.data._columns._base import bad_value, read_numbers
from tfxfer.data._rows import Rows


class Examples(tf.data.Dataset):
    """A finite `tf.data.Dataset` of rows in memory; `labelled`, `examples` and related functions return it.

    Use it like any dataset; mapping, shuffling or filtering it returns a plain dataset. `batches` tokenizes an
    `Examples` once, and a plain dataset again in each epoch, so that random maps stay random.

    Args:
        x: inputs: a string tensor `(n,)`, a tuple of such tensors, or a dict of column name to the values that its
            column read.
        y: targets `(n, ...)`, or a dict of them; `None` for rows without targets.
        sample_weight: float array `(n,)`, or `None`.
        targets: the `LabelColumn` (or another column, or a dict of them) that encoded `y`; `None` if `y` is not
            encoded.
        skipped: dict of reason to number of rows that `on_error="skip"` skipped.
        repaired: dict of reason to number of tags that `on_error="repair"` changed.

    Attributes:
        x, y, sample_weight: as tensors.
        columns: tuple of the string tensors `(n,)` of an `x` that is text.
        labels: list of label names in the order of their indices in `y`; `None` if `y` is not encoded.
        skipped, repaired: as given.

    Raises:
        ValueError: if `x` is empty, the columns differ in length, or there are weights without `y`.

    Example:

    >>> rows = Examples(np.array(["first", "second"]), np.array([1, 0]))
    >>> next(rows.as_numpy_iterator()), len(rows)
    ((b'first', np.int64(1)), 2)
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        targets: Any = None,
        skipped: Mapping[str, int] | None = None,
        repaired: Mapping[str, int] | None = None,
    ) -> None:
        with tf.device("CPU:0"):
            self.x = _tensors(x)
            self.y = None if y is None else _tensors(y)
            self.sample_weight = None if sample_weight is None else _tensors(sample_weight)
            parts = [self.x, *(part for part in (self.y, self.sample_weight) if part is not None)]
            lengths = {int(_rows(tensor)) for tensor in tf.nest.flatten(parts)}
            if len(lengths) != 1 or not lengths - {0}:
                counts = [int(_rows(tensor)) for tensor in tf.nest.flatten(parts)]
                raise _check.invalid("x", "columns of one length, with at least one row", counts)
            if self.y is None and self.sample_weight is not None:
                raise _check.invalid("sample_weight", "None without `y`", sample_weight)
            self._dataset = tf.data.Dataset.from_tensor_slices(tuple(parts))
        self.targets = targets
        self.skipped = dict(skipped or {})
        self.repaired = dict(repaired or {})
        super().__init__(self._dataset._variant_tensor)

    @property
    def columns(self) -> Any:
        """The text columns."""
        return self.x if isinstance(self.x, tuple) else (self.x,)

    @property
    def labels(self) -> list | None:
        """The label names in the order of their indices in `y`; `None` if it is not encoded."""
        return list(self.targets.labels) if isinstance(self.targets, (LabelColumn, TagsColumn)) else None

    def _inputs(self):
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        """The spec of one row."""
        return self._dataset.element_spec


def examples(
    rows: Any, inputs: Any, target: str | Mapping[str, str] | None = None, *, sample_weight: str | None = None
) -> Examples:
    """Makes a dataset of rows with columns of any kind, for a task or for named columns.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        inputs: a task model, whose columns are looked up by name; or a dict of column name to column, for example
            `{"review": data.TextColumn(preprocessor), "age": data.NumberColumn()}`.
        target: name of the target's column, encoded as the task requires; for a task with several targets, a dict of
            the target's name to the name of a column. By default the rows have no targets.
        sample_weight: name of a column of weights.

    Returns:
        `Examples` of (x, y, sample_weight), without those that are not given; x is a dict of column name to tensor, or
        a single tensor for a task with one column.

    Raises:
        ValueError: if a column does not exist, or a value does not suit its column; the message names the row.

    Example:

    >>> from tfxfer import data
    >>> found = data.examples({"age": [39, 41], "class": ["a", "b"]}, {"age": data.NumberColumn()})
    >>> next(found.as_numpy_iterator())
    ({'age': np.float32(39.0)},)
    """
    rows = Rows.from_any(rows)
    kinds, targets = columns_of(inputs), None
    read = {name: kind.read(rows[name], name) for name, kind in kinds.items()}
    x = read if isinstance(inputs, dict) or len(read) > 1 else next(iter(read.values()))
    y = None
    if target is not None:
        if isinstance(inputs, dict):
            remedy = "Columns alone do not determine how to encode a target: pass a task model as `inputs`."
            raise _check.invalid("target", "None if `inputs` is a dict", target, remedy)
        targets = inputs.target_columns()
        if isinstance(targets, dict) != isinstance(target, dict):
            expected = (
                "a dict of the target's name to a column" if isinstance(targets, dict) else "the name of a column"
            )
            raise _check.invalid("target", expected, target)
        if isinstance(target, dict):
            for name in target:
                _check.one_of("target", name, targets)
            y = {name: targets[name].read(rows[column], column) for name, column in target.items()}
            for name, column in target.items():
                targets[name].check_inputs(y[name], read, column)
        else:
            y = targets.read(rows[target], target)
            targets.check_inputs(y, read, target)
    weights = None if sample_weight is None else read_weights(rows[sample_weight], sample_weight, len(rows))
    return Examples(x, y, weights, targets=targets)


def columns_of(inputs):
    """Returns the input columns of a task model, or a dict of columns unchanged."""
    found = inputs.input_columns() if hasattr(inputs, "input_columns") else inputs
    if not isinstance(found, dict) or not found or not all(isinstance(kind, Column) for kind in found.values()):
        expected = "a task model, a `preprocessing.TextPreprocessor`, or a dict of column name to kind"
        raise _check.invalid("inputs", expected, inputs)
    return found


def read_weights(values, argument, count):
    """Returns sample weights as float32 `(rows,)`; raises for a negative or non-finite weight, with its row."""
    found = read_numbers(values, argument, "a weight for each row")
    if len(found) != count:
        raise _check.invalid(argument, f"{count} weights, one for each row", f"{len(found)} weights")
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise bad_value(argument, "weights >= 0", float(found[row]), row)
    return found


def _tensors(values):
    if isinstance(values, dict):
        return {name: _tensors(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(map(_tensors, values))
    return values if isinstance(values, (tf.Tensor, tf.RaggedTensor)) else tf.convert_to_tensor(values)


def _rows(tensor):
    return tensor.nrows() if isinstance(tensor, tf.RaggedTensor) else tensor.shape[0]
