"""The accepted forms of rows: arrays, and datasets of rows."""

import collections.abc

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns import RankingColumn, TextColumn
from tfxfer.data._examples import Examples, read_weights
from tfxfer.data._rows import Rows

_EXPECTED = (
    "a dataset of rows x, (x, y) or (x, y, sample_weight), where x is a string scalar, a tuple of them or a dict of "
    "columns; or arrays of the same form"
)


def read_inputs(x, columns, argument="x"):
    """Returns the inputs of rows in memory as `Examples` stores them.

    Args:
        x: the values of the only column, or a dict (or frame) of column name to values.
        columns: dict of name to `Column`.
        argument: string, for errors.

    Raises:
        ValueError: if a column is missing or unknown, or a value does not suit its column; names the row.
    """
    if isinstance(x, list) and x and isinstance(x[0], collections.abc.Mapping):
        rows = Rows.from_any(x)  # by name; other columns are ignored
        x = {name: rows[name] for name in rows.columns if name in columns} or {name: [] for name in rows.columns}
    if is_mapping(x, columns):
        names = column_names(x)
        missing = [name for name in columns if name not in names]
        if missing:
            raise _check.invalid(argument, f"columns {', '.join(map(repr, columns))}", names)
        if isinstance(x, collections.abc.Mapping) and len(names) > len(columns):
            extra = [name for name in names if name not in columns]
            raise _check.invalid(argument, f"no columns other than {', '.join(map(repr, columns))}", extra)
        found = {name: column.read(x[name], f"{argument}[{name!r}]") for name, column in columns.items()}
        lengths = {name: row_count(values) for name, values in found.items()}
        if len(set(lengths.values())) > 1:
            raise _check.invalid(argument, "columns of one length", lengths)
        return found if len(columns) > 1 else next(iter(found.values()))
    if len(columns) > 1:
        raise _check.invalid(argument, f"a dict of the columns {', '.join(map(repr, columns))}", x)
    return next(iter(columns.values())).read(x, argument)


def is_mapping(x, columns):
    """Whether inputs are given by column name."""
    if isinstance(x, collections.abc.Mapping):
        return True
    names = column_names(x)
    return names is not None and (len(columns) > 1 or names == list(columns))


def column_names(x):
    """Returns the names of the columns of a dict, a frame, `Rows` or a table; `None` for anything else."""
    if isinstance(x, collections.abc.Mapping):
        return list(x)
    for name in ("column_names", "columns"):
        if hasattr(x, name) and hasattr(x, "__getitem__") and not isinstance(x, tf.data.Dataset):
            return [str(each) for each in getattr(x, name)]
    return None


def row_count(values):
    """Returns the number of rows of a structure of tensors."""
    first = tf.nest.flatten(values)[0]
    return int(first.nrows()) if isinstance(first, tf.RaggedTensor) else len(first)


def from_arrays(arrays, columns):
    """Makes `Examples` from arrays (x,), (x, y) or (x, y, sample_weight), or of x alone."""
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    if not 0 < len(arrays) <= 3:
        raise _check.invalid("dataset", _EXPECTED, arrays)
    x = read_inputs(arrays[0], columns, "dataset")
    y = weights = None
    if len(arrays) > 1:
        y = tf.nest.map_structure(_array, arrays[1]) if isinstance(arrays[1], dict) else _array(arrays[1])
    count = row_count(x)
    if not count:
        raise _check.invalid("dataset", "at least one row", arrays[0])
    for values in tf.nest.flatten(y) if y is not None else ():
        if row_count(values) != count:
            raise _check.invalid("dataset", "arrays of one length", [count, row_count(values)])
    if len(arrays) > 2:
        weights = read_weights(arrays[2], "sample_weight", count)
    return Examples(x, y, weights)


def _array(values):
    if isinstance(values, (tf.Tensor, tf.RaggedTensor)):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        remedy = "For lists of documents: `data.rankings`; for words with tags: `data.tagged`."
        raise _check.invalid("dataset", "targets of one shape in every row", values, remedy) from error
    if not array.ndim:
        raise _check.invalid("dataset", "arrays of one length", values)
    return tf.constant(array.tolist()) if array.dtype == object else array


def check_rows(spec, columns):
    """Raises if a dataset's elements are not rows of these columns."""
    x = spec[0] if isinstance(spec, tuple) and 0 < len(spec) <= 3 else spec
    if isinstance(x, dict):
        if set(x) != set(columns):
            raise _check.invalid("dataset", f"rows of the columns {', '.join(map(repr, columns))}", list(x))
        return
    if len(columns) > 1:
        raise _check.invalid("dataset", f"rows whose x is a dict of {', '.join(map(repr, columns))}", spec)
    column = next(iter(columns.values()))
    if isinstance(column, RankingColumn):
        column.check_row(x)
        return
    if not isinstance(column, TextColumn):
        return
    texts = x if isinstance(x, tuple) else (x,)
    if not texts or not all(isinstance(each, tf.TensorSpec) and each.dtype == tf.string for each in texts):
        raise _check.invalid("dataset", _EXPECTED, spec)
    if any(each.shape.rank != 0 for each in texts):
        raise _check.invalid("dataset", _EXPECTED, spec, "If the rows are already batched: `dataset.unbatch()`.")
    column.check_count(len(texts), "dataset")
