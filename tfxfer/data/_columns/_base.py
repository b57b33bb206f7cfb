"""What every kind of column does: check values, store them, and make the tensors of a batch."""

import collections.abc
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check


class Column:
    """A kind of column: how the values of a row become tensors of a batch.

    A value takes three steps. `read` checks Python values and turns them into tensors, one entry a row. `encode` runs
    in a graph and turns a batch of these into what is kept in memory, token ids for example. `batch` runs in a graph
    and pads what is kept of the rows of one batch. The graphs are made without AutoGraph: what depends on the value of
    a tensor is a `tf.cond` or `tf.where`. A new kind is a subclass that overrides what it needs.

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

    # What `read` expects, for errors.
    expected = "a value for each row"

    def read(self, values: Any, argument: str) -> Any:
        """Checks the values of a column, outside any graph.

        Args:
            values: what the user gave for the column.
            argument: string. The name that errors use for it.

        Returns:
            A structure of arrays, tensors or ragged tensors whose first dimension is the rows.

        Raises:
            ValueError: for a value that is not of this kind; it names the row.
        """
        raise NotImplementedError

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec` of one row as `read` gives it."""
        raise NotImplementedError

    def encode(self, rows: Any) -> Any:
        """Turns a batch of what `read` gave into what is kept in memory; runs in a graph."""
        return rows

    def split(self, rows: Any, augmentation: Any) -> Any:
        """Turns a batch of what `read` gave into what `augment` takes; runs in a graph. By default it stays.

        Of rows in memory it is done once.

        Args:
            rows: what `read` gave.
            augmentation: as for `augment`.
        """
        return rows

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes the texts of a batch at random; runs in a graph. By default there are none.

        A kind with texts overrides it; `data.batches(..., augment=...)` asks no other.

        Args:
            rows: what `split` gave.
            augmentation: `augmentation.Augmentation`; of several texts a row, perhaps a dict of their numbers to one.
            seeds: int64 `(rows,)`.
            tags: tuple of (ragged indices of the tags of words, `augmentation.TagSet`).

        Returns:
            (rows, tags): rows as `read` gave them, with other texts, and the tags in step with them, without `TagSet`.
        """
        return rows, tuple(indices for indices, _ in tags)

    def lengths(self, kept: Any) -> Any:
        """Returns how long each row is once it is padded, int `(rows,)`; `None` for kinds without a length."""
        return None

    def sequences(self, kept: Any) -> Any:
        """Returns how many sequences each row brings into a batch, int64 `(rows,)`; `None` where it is always one."""
        return None

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Makes the tensors of one batch; runs in a graph.

        Args:
            kept: what `encode` gave, for the rows of the batch.
            name: string. The column's name.
            multiple: int. Lengths are rounded up to a multiple of it.

        Returns:
            A dict of name to tensor.
        """
        return {name: kept}

    def check_inputs(self, targets: Any, inputs: Any, argument: str) -> None:
        """Checks targets against the inputs of their rows, outside any graph; by default anything goes.

        Args:
            targets: what `read` gave.
            inputs: dict of input column to what its `read` gave, for the same rows.
            argument: string. The name that errors use for the targets.

        Raises:
            ValueError: where the two do not go together; it names the row.
        """

    def check_read(self, targets: Any, argument: str) -> None:
        """Checks targets that a column of this kind has read with other settings; by default anything goes.

        Args:
            targets: what `read` gave.
            argument: string. The name that errors use for the targets.

        Raises:
            ValueError: for targets that this column would not read; it names the row.
        """

    def align(self, targets: Any, inputs: Any) -> Any:
        """Fits the targets of a batch to what is left of its inputs; runs in a graph. By default they stay.

        Args:
            targets: what `batch` gave.
            inputs: dict of the tensors that the model takes.
        """
        return targets

    def beside(self, kept: Any, name: str) -> dict[str, Any]:
        """Makes those tensors of a batch that an encoder does not read; runs in a graph. By default there are none.

        Padding is behind the tokens, whatever `batch` makes: so it is where stored token vectors are laid out.

        Args:
            kept: what `encode` gave, for the rows of the batch.
            name: string. The column's name.
        """
        return {}

    @property
    def draws(self) -> bool:
        """Whether the column makes inputs and targets at random, by `draw`; rows then have no targets."""
        return False

    def draw(self, tensors: Any, seeds: Any, multiple: int = 1) -> tuple[Any, Any]:
        """Makes inputs and targets out of the tensors of a batch, at random; runs in a graph.

        Args:
            tensors: dict of the tensors that `batch` gave.
            seeds: int64 `(batch,)`, what all that is drawn for a row depends on.
            multiple: int. Lengths are rounded up to a multiple of it.

        Returns:
            (tensors, targets): the dict that the model takes, and what the loss does.
        """
        raise NotImplementedError

    def token_ids(self, kept: Any) -> Any:
        """Returns the token ids of each row, a tuple of ragged tensors; empty for kinds without text."""
        return ()

    @property
    def trackables(self) -> Any:
        """TensorFlow's resources that `encode` uses, such as tables: they are written with an export."""
        return ()

    def sequence(self, values: Any, argument: str) -> list:
        """Returns values as a list; raises for what is no sequence of rows."""
        return as_list(values, argument, self.expected)


def as_list(values, argument, expected):
    """Returns a sized sequence (list, array, Series, Arrow column, tensor ...) as a list of Python values.

    Raises:
        ValueError: for a string, a mapping, a scalar, or an array of more than one dimension.
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    if isinstance(values, (str, bytes)):
        raise _check.invalid(argument, expected, values, "Put the one value into a list.")
    if isinstance(values, (set, frozenset, collections.abc.Mapping)):
        raise _check.invalid(argument, expected, values, "A set and a dict have no order of rows.")
    if isinstance(values, tf.RaggedTensor):
        return values.to_list()
    if hasattr(values, "to_pylist"):  # Arrow
        return values.to_pylist()
    if hasattr(values, "__array__") and not hasattr(values, "column_names"):  # numpy, pandas, tensors
        array = np.asarray(values)
        if array.ndim == 0:
            raise _check.invalid(argument, expected, values, "Put the one value into a list.")
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
        ValueError: for a text that is missing, no string, or one that UTF-8 cannot hold; it names the row.
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
        shape: tuple of the sizes of one row; `None` is any size.
        missing: float, or NaN, that stands for `None`, NaN and empty strings; by default these are errors.

    Raises:
        ValueError: for a value that is no finite number, with its row, or rows of another shape.
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
            raise bad_value(argument, "a number in every row", value, row, "Fill it in or leave the row out.")
        return missing
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise bad_value(argument, "numbers", value, row) from error


def read_list(argument: str, values: Any) -> list[str]:
    """Returns a column of texts as a list of `str`; raises as `read_strings`."""
    found = as_list(values, argument, "a list of strings")
    for row, value in enumerate(found):
        _check.text(argument, value, row)
    return [value.decode() if isinstance(value, bytes) else value for value in found]


def with_prefix(texts: Any, prefix: str) -> Any:
    """Returns texts, a string tensor, with a string before each."""
    return tf.strings.join([prefix, texts]) if prefix else texts
