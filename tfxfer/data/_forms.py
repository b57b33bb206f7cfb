"""The forms that data may have: arrays, and datasets of rows."""

import numpy as np
import tensorflow as tf

from tfxfer import _check

_EXPECTED = (
    "a dataset of rows x, (x, y) or (x, y, sample_weight), x being a string scalar or a tuple of them; "
    "or arrays of the same form"
)


def from_arrays(arrays):
    """Arrays as a dataset of rows."""
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    if not 0 < len(arrays) <= 3:
        raise _check.invalid("dataset", _EXPECTED, arrays)
    columns = tuple(map(strings, arrays[0] if isinstance(arrays[0], tuple) else (arrays[0],)))
    rest = [np.asarray(values) for values in arrays[1:]]
    rest = [tf.constant(values.tolist()) if values.dtype == object else values for values in rest]
    lengths = [len(values) if values.shape else 0 for values in (*columns, *rest)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise _check.invalid("dataset", "arrays of one length, with at least one row", lengths)
    x = columns if isinstance(arrays[0], tuple) else columns[0]
    return tf.data.Dataset.from_tensor_slices((x, *rest) if rest else (x,))


def strings(column):
    """A column of texts as a tensor."""
    values = column
    if hasattr(column, "__array__"):  # numpy, pandas, tensors
        values = np.asarray(column)
        values = values.tolist() if values.ndim == 1 else None
    if not isinstance(values, (list, tuple)):
        raise _check.invalid("dataset", _EXPECTED, column)
    _check.strings("dataset", values)
    return tf.constant(values, tf.string, shape=(len(values),))


def count_columns(spec):
    """How many texts a row has; raises where the rows are of another form."""
    x = spec[0] if isinstance(spec, tuple) and 0 < len(spec) <= 3 else spec
    columns = x if isinstance(x, tuple) else (x,)
    if not columns or not all(isinstance(each, tf.TensorSpec) and each.dtype == tf.string for each in columns):
        raise _check.invalid("dataset", _EXPECTED, spec)
    if any(each.shape.rank != 0 for each in columns):
        raise _check.invalid("dataset", _EXPECTED, spec, "If the rows are in batches already: `dataset.unbatch()`.")
    return len(columns)
