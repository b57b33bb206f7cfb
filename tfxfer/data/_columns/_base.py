"""The base of all columns: checks values, encodes them, and makes the tensors of a batch."""

import collections.abc
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check


class Column:
    """A kind of column: converts the values of rows to tensors of a batch.

    Values take three steps. `read` checks Python values and converts them to tensors, with one entry per row. `encode`
    runs in a graph and turns a batch of these into the values to cache, for example token ids. `batch` runs in a graph
    and pads the cached values of the rows of one batch. The graphs are traced without AutoGraph: use `tf.cond` or
    `tf.where` for anything that depends on the value of a tensor. A new kind of column is a subclass that overrides
    what it needs.

    Example:

    >>> class Hours(Column):
    ...     '''Times such as "13:30", as hours.'''
    ...     expected = 'times such as "13:30"'
    ...     def read(self, values, argument):
    ...         values = self.sequence(values, argument)
    ...         return np.array([float(v[:2]) + float(v[3:]) / 60 for v in values], "float32")
    ...     def spec(self):
    ...         return tf.TensorSpec((), tf.float32)
    >>> Hours().read(["13:30"], "opens").tolist()
    [13.5]
    """

    # The input that `read` expects, for errors.
    expected = "a value for each row"

    def read(self, values: Any, argument: str) -> Any:
        """Checks the values of a column, outside any graph.

        Args:
            values: the user's values of the column.
            argument: string. Its name in errors.

        Returns:
            A structure of arrays, tensors or ragged tensors whose first dimension is the rows.

        Raises:
            ValueError: if a value does not suit the column; the message names the row.
        """
        raise NotImplementedError

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec` of one row as returned by `read`."""
        raise NotImplementedError

    def encode(self, rows: Any) -> Any:
        """Turns a batch of rows into the values to cache; runs in a graph.

        Args:
            rows: a batch of the result of `read`.
        """
        return rows

    def split(self, rows: Any, augmentation: Any) -> Any:
        """Prepares a batch of rows for `augment`; runs in a graph. By default returns them unchanged.

        For rows in memory it runs once.

        Args:
            rows: a batch of the result of `read`.
            augmentation: as for `augment`.
        """
        return rows

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes the texts of a batch at random; runs in a graph. By default there are none.

        Columns with texts override it; `data.batches(..., augment=...)` calls only those.

        Args:
            rows: the result of `split`.
            augmentation: `augmentation.Augmentation`; for several texts per row, optionally a dict of text index to
                augmentation.
            seeds: int64 `(rows,)`.
            tags: tuple of (ragged indices of the tags of words, `augmentation.TagSet`).

        Returns:
            (rows, tags): rows as from `read`, with changed texts, and the aligned tags, without `TagSet`.
        """
        return rows, tuple(indices for indices, _ in tags)

    def lengths(self, kept: Any) -> Any:
        """Returns the padded length of each row, int `(rows,)`; `None` for columns without a length.

        Args:
            kept: the result of `encode`.
        """
        return None

    def sequences(self, kept: Any) -> Any:
        """Returns the number of sequences per row in a batch, int64 `(rows,)`; `None` if it is always one.

        Args:
            kept: the result of `encode`.
        """
        return None

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Makes the tensors of one batch; runs in a graph.

        Args:
            kept: the result of `encode`, for the rows of the batch.
            name: string. The column's name.
            multiple: int. Lengths are rounded up to a multiple of it.

        Returns:
            A dict of name to tensor.
        """
        return {name: kept}

    def check_inputs(self, targets: Any, inputs: Any, argument: str) -> None:
        """Checks targets against the inputs of their rows, outside any graph; by default accepts everything.

        Args:
            targets: the result of `read`.
            inputs: dict of input column to the result of its `read`, for the same rows.
            argument: string. The name of the targets in errors.

        Raises:
            ValueError: if the two do not match; the message names the row.
        """

    def check_read(self, targets: Any, argument: str) -> None:
        """Checks targets that a column of this kind read with other settings; by default accepts everything.

        Args:
            targets: the result of `read`.
            argument: string. The name of the targets in errors.

        Raises:
            ValueError: if this column's `read` would raise for them; the message names the row.
        """

    def align(self, targets: Any, inputs: Any) -> Any:
        """Aligns the targets of a batch with its possibly truncated inputs; runs in a graph. By default unchanged.

        Args:
            targets: the result of `batch`.
            inputs: dict of the tensors that the model reads.
        """
        return targets

    def beside(self, kept: Any, name: str) -> dict[str, Any]:
        """Makes the tensors of a batch that an encoder does not read; runs in a graph. By default there are none.

        Padding comes after the tokens, regardless of `batch`, because cached token vectors are stored that way.

        Args:
            kept: the result of `encode`, for the rows of the batch.
            name: string. The column's name.
        """
        return {}

    @property
    def draws(self) -> bool:
        """Whether the column draws inputs and targets at random, with `draw`; rows then have no targets."""
        return False

    def draw(self, tensors: Any, seeds: Any, multiple: int = 1) -> tuple[Any, Any]:
        """Makes inputs and targets from the tensors of a batch, at random; runs in a graph.

        Args:
            tensors: dict of the tensors from `batch`.
            seeds: int64 `(batch,)`. They determine everything that is drawn for a row.
            multiple: int. Lengths are rounded up to a multiple of it.

        Returns:
            (tensors, targets): the dict that the model reads, and the targets of the loss.
        """
        raise NotImplementedError

    def token_ids(self, kept: Any) -> Any:
        """Returns the token ids of each row, a tuple of ragged tensors; empty for columns without text.

        Args:
            kept: the result of `encode`.
        """
        return ()

    @property
    def trackables(self) -> Any:
        """TensorFlow resources that `encode` uses, such as tables: an export saves them."""
        return ()

    def sequence(self, values: Any, argument: str) -> list:
        """Returns values as a list.

        Args:
            values: the user's values of the column.
            argument: string. Its name in errors.

        Raises:
            ValueError: if `values` is not a sequence of rows.
        """
        return as_list(values, argument, self.expected)


def as_list(values, argument, expected):
    """Returns a sized sequence (list, array, Series, Arrow column, tensor ...) as a list of Python values.

    Raises:
        ValueError: for a string, a mapping, a scalar, or an array of more than one dimension.
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    if isinstance(values, (str, bytes)):
        raise _check.invalid(argument, expected, values, "Put the single value into a list.")
    if isinstance(values, (set, frozenset, collections.abc.Mapping)):
        raise _check.invalid(argument, expected, values, "A set and a dict have no order of rows.")
    if isinstance(values, tf.RaggedTensor):
        return values.to_list()
    if hasattr(values, "to_pylist"):  # Arrow
        return values.to_pylist()
    if hasattr(values, "__array__") and not hasattr(values, "column_names"):  # numpy, pandas, tensors
        array = np.asarray(values)
        if array.ndim == 0:
            raise _check.invalid(argument, expected, values, "Put the single value into a list.")
        return array.tolist() if array.ndim == 1 else list(array)
    if isinstance(values, collections.abc.Sequence) or (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
        return [values[i] for i in range(len(values))]
    raise _check.invalid(argument, expected, values)


def bad_value(argument, expected, value, row, remedy=""):
    """Makes the error for the value of one row."""
    return _check.invalid(argument, expected, value, f"It is in row {row} (counting from 0). {remedy}".strip())


def read_strings(values, argument, expected="a list of strings"):
    """Returns a column of texts as a string tensor `(rows,)`.

    Raises:
        ValueError: if a text is missing, not a string, or not encodable in UTF-8; the message names the row.
    """
    if isinstance(values, tf.Tensor) and values.dtype == tf.string and values.shape.rank == 1:
        return values
    values = as_list(values, argument, expected)
    for row, value in enumerate(values):
        if type(value) is str and value.isascii():
            continue
        _check.text(argument, value, row)
    with tf.device("CPU:0"):
        return tf.constant(values, tf.string, shape=(len(values),))


def read_numbers(values, argument, expected="a list of numbers", shape=(), missing=None):
    """Returns numbers as float32 `(rows, *shape)`.

    Args:
        values: sequence of numbers, or of strings that hold numbers.
        argument: string, for errors.
        expected: string, for errors.
        shape: tuple of the dimensions of one row; `None` is any size.
        missing: float, or NaN, that replaces `None`, NaN and empty strings; by default these are errors.

    Raises:
        ValueError: if a value is not a finite number, with its row, or rows have another shape.
    """
    array = values if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" else None
    if array is None:
        array = np.asarray(
            [
                _row_of_numbers(v, argument, i, shape, missing)
                for i, v in enumerate(as_list(values, argument, expected))
            ],
            "float64",
        )
        array = array.reshape((-1, *[0 if size is None else size for size in shape])) if not array.size else array
    if array.ndim != 1 + len(shape) or any(b not in (None, a) for a, b in zip(array.shape[1:], shape, strict=True)):
        wanted = ", ".join(["rows", *("n" if size is None else str(size) for size in shape)])
        raise _check.invalid(argument, f"numbers of shape ({wanted})", f"an array of shape {array.shape}")
    array = array.astype("float64")
    if missing is not None:
        array = np.where(np.isnan(array), missing, array)
    finite = np.isfinite(array) | (np.isnan(array) if missing is not None and math.isnan(missing) else False)
    finite = finite.reshape(len(array), int(np.prod(array.shape[1:]))).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise bad_value(argument, "finite numbers", array[row].tolist(), row)
    return array.astype("float32")


def _row_of_numbers(value, argument, row, shape, missing):
    if shape:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            raise bad_value(argument, f"{shape[0] or 'several'} numbers in every row", value, row)
        found = [_row_of_numbers(each, argument, row, shape[1:], missing) for each in value]
        if shape[0] is not None and len(found) != shape[0]:
            raise bad_value(argument, f"{shape[0]} numbers in every row", value, row)
        return found
    if _check.is_missing(value) or value == "":
        if missing is None:
            raise bad_value(argument, "a number in every row", value, row, "Fill it in or drop the row.")
        return missing
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise bad_value(argument, "numbers", value, row) from error


def read_list(argument: str, values: Any) -> list[str]:
    """Returns a column of texts as a list of `str`.

    Args:
        argument: string. The name of the texts in errors.
        values: sequence of strings, or of UTF-8 bytes.

    Returns:
        A list of strings.

    Raises:
        ValueError: if a text is missing, not a string, or not encodable in UTF-8; the message names the row.

    Example:

    >>> read_list("texts", np.array(["first", "second"]))
    ['first', 'second']
    """
    found = as_list(values, argument, "a list of strings")
    for row, value in enumerate(found):
        _check.text(argument, value, row)
    return [value.decode() if isinstance(value, bytes) else value for value in found]


def with_prefix(texts: Any, prefix: str) -> Any:
    """Prepends a string to each text.

    Args:
        texts: string tensor of any shape.
        prefix: string. If empty, the texts are returned unchanged.

    Returns:
        A string tensor of the same shape.

    Example:

    >>> with_prefix(tf.constant(["lost card"]), "query: ").numpy().tolist()
    [b'query: lost card']
    """
    return tf.strings.join([prefix, texts]) if prefix else texts
