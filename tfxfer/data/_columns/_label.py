"""Labels by name: one per row, or any number of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, as_list, bad_value

_SUM = 1e-3  # the tolerance of a row's sum of shares around 1


class LabelColumn(Column):
    """The labels of rows, as targets: one of a fixed set, or any number of them with `multi_label`.

    | values | one label per row | `multi_label` |
    |---|---|---|
    | names, as in `labels` | index, int32 `(rows,)` | lists of names: 0 and 1, float32 `(rows, labels)` |
    | ints, if labels are ints | names | lists of names |
    | ints, if labels are strings | indices | lists of indices |
    | numbers `(rows, labels)` | shares that sum to 1, float32 | values in `[0, 1]`, float32 |

    If labels are strings that hold numbers, an int could be an index or a name. If both are possible and differ, an
    error reports both; a bool is also an error, unless the labels are 0 and 1, or "True" and "False".

    Args:
        labels: list or array of distinct strings or ints, in the order of the model's outputs.
        multi_label: bool. Whether a row may have any number of labels.

    Raises:
        ValueError: if there are no labels, labels are repeated, of other types, or in a string or set; in `read`, for a
            value that is not a label, with its row.

    Example:

    >>> column = LabelColumn(["card", "loan"])
    >>> column.read(["loan", "card"], "y").tolist()
    [1, 0]
    >>> column.decode([1, 0])
    ['loan', 'card']
    >>> LabelColumn(["card", "loan"], multi_label=True).read([["loan"], []], "y").tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    expected = "a label for each row"

    def __init__(self, labels: Sequence[str] | Sequence[int] | np.ndarray, multi_label: bool = False) -> None:
        self.labels = check_labels(labels)
        self.multi_label = bool(multi_label)
        self._index = {label: i for i, label in enumerate(self.labels)}
        self._table = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self):
        return {**vars(self), "_table": None}  # a TensorFlow table is recreated when needed

    # === Outside the graph ===

    def read(self, values: Any, argument: str) -> Any:
        """Returns labels as indices, int32 `(rows,)`, or as float32 `(rows, labels)`; see the table in the class."""
        matrix = _matrix(values)
        if matrix is not None:
            return self._shares(matrix, argument)
        if self.multi_label:
            return self._several(as_list(values, argument, "a list of labels for each row"), argument)
        values = [_plain(value) for value in as_list(values, argument, self.expected)]
        if values and all(isinstance(value, (list, tuple)) for value in values):
            return self._shares(_as_matrix(values, argument, len(self)), argument)
        return np.array(self._indices(values, range(len(values)), argument), "int32")

    def _shares(self, matrix, argument):
        count = len(self)
        what = "values in [0, 1]" if self.multi_label else "shares that sum to 1"
        expected = f"labels, or {what} of shape (rows, {count})"
        if self.multi_label and matrix.shape[1:] == (0,):  # an array of lists that are all empty
            return np.zeros((len(matrix), count), "float32")
        if matrix.ndim != 2 or matrix.shape[1] != count:
            raise _check.invalid(argument, expected, f"an array of shape {matrix.shape}")
        found = matrix.astype("float64")
        good = (np.isfinite(found) & (found >= 0) & (found <= 1)).all(axis=1)
        if not self.multi_label:
            good &= np.abs(found.sum(axis=1) - 1) <= _SUM
        if not good.all():
            row = int(np.argmin(good))
            raise bad_value(argument, expected, matrix[row].tolist(), row)
        return found.astype("float32")

    def _several(self, rows, argument):
        rows = [_plain(row) for row in rows]
        for i, row in enumerate(rows):
            if not isinstance(row, (list, tuple, set, frozenset)):
                remedy = "A row without labels has an empty list."
                raise bad_value(argument, "a list of labels in every row", row, i, remedy)
        has_sets = any(isinstance(row, (set, frozenset)) for row in rows)
        rows = [[_plain(value) for value in row] for row in rows]
        flat = [value for row in rows for value in row]
        places = [i for i, row in enumerate(rows) for _ in row]
        hot = np.zeros((len(rows), len(self)), "float32")
        is_matrix = (
            bool(rows)
            and all(len(row) == len(self) for row in rows)
            and all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in flat)
        )
        # A list with a repeated label is not a list of labels.
        may_be_lists = all(len(set(row)) == len(row) for row in rows)
        is_matrix = is_matrix and not has_sets
        if is_matrix:
            try:
                indices = self._indices(flat, places, argument) if may_be_lists else None
            except ValueError:
                indices = None
            if indices is not None:
                hot[places, indices] = 1.0
                if not np.array_equal(hot, np.array(rows, "float32")):
                    remedy = (
                        f"Its numbers are labels (row 0 has {self.decode(indices[: len(self)])}) or 0 and 1 for each "
                        "label: pass names for the first, `np.array(y)` for the second."
                    )
                    raise _check.invalid(argument, "lists of names, or an array of 0 and 1", rows[0], remedy)
            return np.array(rows, "float32")
        if flat:
            hot[places, self._indices(flat, places, argument)] = 1.0
        return hot

    def _indices(self, values, places, argument):
        """The index of each value; `places` are the rows to name in errors."""
        for value, row in zip(values, places, strict=True):
            if _check.is_missing(value) or value == "":
                if _check.is_missing(value) or value not in self._index:
                    remedy = "Give the row a label or drop it."
                    raise bad_value(argument, "a label in every row", value, row, remedy)
        if values and all(isinstance(value, bool) for value in values):
            values = self._bools(values, places, argument)
        elif values and all(isinstance(value, (int, float)) for value in values) and isinstance(self.labels[0], str):
            return self._by_number(values, places, argument)
        return [self._lookup(value, row, argument) for value, row in zip(values, places, strict=True)]

    def _bools(self, values, places, argument):
        if set(self.labels) <= {0, 1}:
            return [int(value) for value in values]
        for names in (("False", "True"), ("false", "true"), ("FALSE", "TRUE")):
            if set(names) & set(self.labels):
                return [names[value] for value in values]
        number = int(values[0])
        as_index = repr(self.labels[number]) if number < len(self) else "out of range"
        remedy = f"As an index it is {as_index}, and it is not the name of a label. Pass the labels' names."
        raise bad_value(argument, f"labels such as {self.labels[0]!r}", values[0], places[0], remedy)

    def _by_number(self, values, places, argument):
        """Numbers for labels that are strings: indices, or the numbers that the labels spell."""
        spelled, found, readings = spelled_numbers(self.labels), [], set()
        for value, row in zip(values, places, strict=True):
            number = int(value) if math.isfinite(value) and value == int(value) else -1
            as_index = number if 0 <= number < len(self) else None
            as_name = spelled.get(number)
            if as_index is None and as_name is None:
                raise bad_value(argument, f"labels, or indices from 0 to {len(self) - 1}", value, row)
            if as_index != as_name:
                readings.add("name" if as_index is None else "index")
                if None not in (as_index, as_name) or len(readings) > 1:
                    remedy = both_readings(self.labels, number)
                    raise bad_value(argument, "labels by name", number, row, remedy)
            found.append(as_name if as_index is None else as_index)
        return found

    def _lookup(self, value, row, argument):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas converts ints to floats if a value is missing
        if isinstance(value, bool) or value not in self._index:
            shown = ", ".join(map(repr, self.labels[:5])) + (", ..." if len(self) > 5 else "")
            remedy = "Build the model with all labels: `data.labels(rows, column)` finds them."
            if isinstance(value, str) != isinstance(self.labels[0], str):
                remedy = f"The labels are {'strings' if isinstance(self.labels[0], str) else 'ints'}."
            raise bad_value(argument, f"one of the {len(self)} labels ({shown})", value, row, remedy)
        return self._index[value]

    def decode(self, indices: Any) -> list:
        """Returns the names of `indices`, a list."""
        return [self.labels[int(index)] for index in indices]

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec((len(self),), tf.float32) if self.multi_label else tf.TensorSpec((), tf.int32)

    # === In a pipeline ===

    def encode(self, rows: Any) -> Any:
        """Turns a tensor of a pipeline into targets; see the table in the class.

        Raises:
            ValueError: when the pipeline is built, for ints that could be indices or names.
            tf.errors.InvalidArgumentError: when it runs, for an unknown label or index.
        """
        if isinstance(rows, tf.RaggedTensor):
            return self._encode_ragged(rows)
        rows = tf.convert_to_tensor(rows)
        if rows.dtype.is_floating or (self.multi_label and rows.dtype != tf.string and rows.shape.rank != 1):
            return self._encode_shares(rows)
        if self.multi_label:
            expected = f"numbers (batch, {len(self)}), or ragged labels"
            raise _check.invalid("y", expected, f"{rows.dtype.name} of shape {rows.shape}")
        return self._encode_indices(rows)

    def _encode_shares(self, rows):
        if rows.shape.rank != 2 or rows.shape[1] not in (None, len(self)):
            expected = f"labels, or numbers of shape (batch, {len(self)})"
            raise _check.invalid("y", expected, f"{rows.dtype.name} of shape {rows.shape}")
        return tf.ensure_shape(tf.cast(rows, tf.float32), (None, len(self)))

    def _encode_ragged(self, rows):
        if not self.multi_label:
            raise _check.invalid("y", "one label a row", "ragged labels", "Make the model with `multi_label=True`.")
        hot = tf.one_hot(rows.with_values(self._encode_indices(rows.values)).to_tensor(-1), len(self))
        return tf.reduce_max(tf.pad(hot, [[0, 0], [0, 1], [0, 0]]), axis=1)

    def _encode_indices(self, rows):
        if rows.shape.rank not in (None, 1):
            raise _check.invalid("y", "one label a row, of shape (batch,)", f"shape {rows.shape}")
        are_names = isinstance(self.labels[0], str)
        if rows.dtype == tf.bool and are_names:
            raise _check.invalid("y", f"labels such as {self.labels[0]!r}", "bools", "Pass the labels' names.")
        if rows.dtype == tf.string and not are_names:
            raise _check.invalid("y", f"labels such as {self.labels[0]!r}", "strings", "The labels are ints.")
        if rows.dtype != tf.string and are_names:
            spelled = spelled_numbers(self.labels)
            unlike = [number for number, i in spelled.items() if number != i]
            if unlike:
                raise _check.invalid(
                    "y", "labels by name", f"{rows.dtype.name}s", both_readings(self.labels, unlike[0])
                )
            rows = tf.cast(rows, tf.int32)
            good = tf.reduce_all((rows >= 0) & (rows < len(self)))
            message = f"Targets in `y` must be indices from 0 to {len(self) - 1}:"
            with tf.control_dependencies([tf.debugging.Assert(good, [message, rows], summarize=5)]):
                return tf.identity(rows)
        names = rows if rows.dtype == tf.string else tf.strings.as_string(tf.cast(rows, tf.int64))
        indices = tf.cast(self._lookup_table().lookup(names), tf.int32)
        unknown = tf.boolean_mask(names, indices < 0)
        known = tf.equal(tf.size(unknown), 0)
        with tf.control_dependencies([tf.debugging.Assert(known, ["Unknown labels in `y`:", unknown], summarize=5)]):
            return tf.identity(indices)

    def _lookup_table(self):
        if self._table is None:
            with tf.init_scope():
                keys = tf.constant([str(label) for label in self.labels])
                values = tf.range(len(self), dtype=tf.int64)
                self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
        return self._table


def check_labels(labels):
    """Returns labels as a list of strings or of ints; raises for anything else."""
    remedy = "Pass each class's name once, in the order of the outputs."
    expected = "a list of distinct strings or ints"
    if isinstance(labels, (str, bytes)) or labels is None or isinstance(labels, (set, frozenset, dict)):
        raise _check.invalid("labels", expected, labels, remedy)
    if not hasattr(labels, "__len__") or not hasattr(labels, "__iter__"):
        raise _check.invalid("labels", expected, labels, remedy)
    found = [label.item() if isinstance(label, np.generic) else label for label in labels]
    if len(found) < 1 or len(set(map(str, found))) != len(found):
        raise _check.invalid("labels", expected, labels, remedy)
    are_strings = all(isinstance(label, str) for label in found)
    are_ints = all(isinstance(label, int) and not isinstance(label, bool) for label in found)
    if not (are_strings or are_ints):
        raise _check.invalid("labels", expected, labels, remedy)
    return found


def spelled_numbers(labels):
    """Returns the ints that labels spell ("7" is 7), as a dict to the label's index."""
    found = {}
    for i, label in enumerate(labels):
        try:
            number = float(label)
        except ValueError:
            continue
        if number.is_integer():
            found[int(number)] = i
    return found


def both_readings(labels, number):
    """Returns the sentence about an int that could be an index or a name."""
    as_index = repr(labels[number]) if 0 <= number < len(labels) else "none"
    return (
        f"The labels are strings that hold numbers, so {number} could be an index (label {as_index}) or a name (label "
        f"{str(number)!r}). Pass strings, `[str(value) for value in y]` for names or `[labels[i] for i in y]` for "
        "indices."
    )


def _plain(value):
    """Converts a numpy value to a Python value, and bytes to a string."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


def _matrix(values):
    """Returns two-dimensional numbers as an array; `None` for anything else."""
    if isinstance(values, (list, tuple)) or not hasattr(values, "__array__") or hasattr(values, "column_names"):
        return None
    if isinstance(values, tf.RaggedTensor):
        return None
    array = np.asarray(values)
    return array if array.ndim == 2 and array.dtype.kind in "biuf" else None


def _as_matrix(values, argument, count):
    try:
        matrix = np.asarray(values)
    except ValueError:
        matrix = None
    if matrix is None or matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        remedy = "For several labels per row, make the model with `multi_label=True`."
        raise _check.invalid(argument, f"one label a row, or shares (rows, {count})", values[0], remedy)
    return matrix
