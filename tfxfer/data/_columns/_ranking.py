"""A query with its documents, and a number for each document."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.augmentation import text_seeds
from tfxfer.data._columns._base import Column, as_list, bad_value, read_strings
from tfxfer.data._columns._text import TextColumn, round_up, text_columns

_EXPECTED = "a tuple of two columns: queries, and a list of documents for each (or one document for each)"


class RankingColumn(TextColumn):
    """A query and any number of documents per row, with each (query, document) pair as one sequence of token ids.

    A batch has one axis for the documents of all its lists, concatenated: the encoder processes each document once, and
    no padding documents for shorter lists. The targets determine which documents belong together; see `GradesColumn`.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.

    Values: a tuple of two columns, queries and documents: a list of at least one string for each row. Or one string
    for each row: pairs, encoded as in a `TextColumn`. Batch: dict of int32 `(documents, length)`: `token_ids`,
    `padding_mask` and, for families that have them, `segment_ids`. If lengths are rounded up to a multiple (for
    compiled shapes), so is the number of documents of lists; the additional documents are padding only.

    Raises:
        ValueError: in `read`, for a row without documents, lists and strings in one column, or a text that is missing
            or not a string, with its row.

    Example:

    ```python
    columns = {"text": tx.data.RankingColumn(reranker.preprocessor)}
    tx.data.batches(tx.data.rankings(rows), columns, batch_size=8)
    ```
    """

    expected = _EXPECTED

    def __init__(self, preprocessor: Any) -> None:
        super().__init__(preprocessor, "joint", count=2)

    def read(self, values: Any, argument: str) -> Any:
        """Returns (queries, documents): a string tensor `(rows,)`, and a ragged one `(rows, None)` or one `(rows,)`."""
        columns = text_columns(values)
        if columns is None or len(columns) != 2:
            shown = values if columns is None else f"{len(columns)} columns"
            raise _check.invalid(argument, self.expected, shown, "`data.rankings` makes them from rows.")
        queries = read_strings(columns[0], f"{argument}[0]", "a list of strings, the queries")
        documents = _read_documents(columns[1], f"{argument}[1]")
        counts = [len(queries), _count(documents)]
        if counts[0] != counts[1]:
            raise _check.invalid(argument, "columns of one length", counts)
        return queries, documents

    def encode(self, rows: Any) -> Any:
        """Tokenizes: int32 ragged `(rows, None)` and `(rows, documents, None)`; for pairs, `(rows, None)` both."""
        queries, documents = rows
        if not isinstance(documents, tf.RaggedTensor) and documents.shape.rank == 2:
            documents = tf.RaggedTensor.from_tensor(documents)
        if not isinstance(documents, tf.RaggedTensor):
            return super().encode((queries, documents))
        tokenizer = self.preprocessor.tokenizer
        return tokenizer(queries), documents.with_values(tokenizer(documents.values))

    def check_row(self, spec: Any) -> None:
        """Raises if `spec`, the spec of a dataset's rows, is not that of a query and its documents."""
        parts = spec if isinstance(spec, tuple) else (spec,)
        ranks = [getattr(each.shape, "rank", None) for each in parts]
        strings = all(each.dtype == tf.string for each in parts)
        if len(parts) != 2 or not strings or ranks[0] != 0 or ranks[1] not in (0, 1):
            expected = "rows (query, documents): a string, and a list of strings or one"
            raise _check.invalid("dataset", expected, spec, "Make them with `data.rankings`.")

    def split(self, rows: Any, augmentation: Any) -> Any:
        """Returns the rows unchanged for lists, whose texts are split into words in `augment`."""
        if isinstance(rows[1], tf.RaggedTensor):
            if isinstance(augmentation, dict) and max(augmentation) > 1:
                raise _check.invalid("augment", "0 for queries, 1 for documents", max(augmentation))
            return rows
        return super().split(rows, augmentation)

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes each text of the rows, each with its own seed."""
        queries, documents = rows
        if not isinstance(documents, tf.RaggedTensor) or documents.dtype != tf.string:
            return super().augment(rows, augmentation, seeds, tags)
        of_query, of_documents = (
            augmentation.get(place) if isinstance(augmentation, dict) else augmentation for place in (0, 1)
        )
        if of_query is not None:
            queries = of_query.on_texts(queries, text_seeds(seeds, 0))
        if of_documents is not None:
            places = tf.ragged.range(documents.row_lengths()).values + 1
            flat = text_seeds(tf.gather(seeds, documents.value_rowids()), places)
            documents = documents.with_values(of_documents.on_texts(documents.values, flat))
        return (queries, documents), tags

    @staticmethod
    def _pairs(kept):
        """The (query, document) pairs of all lists, and the row index of each."""
        queries, documents = kept
        rows = documents.value_rowids()
        return (tf.gather(queries, rows), documents.values), rows

    @staticmethod
    def are_lists(kept: Any) -> bool:
        """Whether `kept`, the result of `encode`, holds lists of documents rather than pairs."""
        return kept[1].shape.rank == 3

    def lengths(self, kept: Any) -> Any:
        """Returns the truncated length of each row's longest pair in tokens: int32 `(rows,)`."""
        if not self.are_lists(kept):
            return super().lengths(kept)
        pairs, rows = self._pairs(kept)
        longest = tf.math.unsorted_segment_max(self.preprocessor.lengths(pairs), rows, kept[1].nrows())
        return tf.maximum(longest, 0)  # for a row without documents

    def sequences(self, kept: Any) -> Any:
        """Returns the number of sequences of each row, int64 `(rows,)`: its documents."""
        return kept[1].row_lengths() if self.are_lists(kept) else tf.ones([kept[1].nrows()], tf.int64)

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads the concatenated pairs of all lists: int32 `(documents, length)`."""
        if not self.are_lists(kept):
            return super().batch(kept, name, multiple)
        packed = round_up(self.preprocessor.pack(self._pairs(kept)[0]), multiple, self.preprocessor)
        count = tf.shape(packed["token_ids"])[0]
        missing = -(-count // multiple) * multiple - count
        values = {"token_ids": self.preprocessor.tokenizer.pad_token_id or 0}
        return {
            key: tf.ensure_shape(
                tf.pad(value, [[0, missing], [0, 0]], constant_values=values.get(key, 0)), (None, None)
            )
            for key, value in packed.items()
        }

    def token_ids(self, kept: Any) -> Any:
        """Returns the tokens of each row's query, and of its concatenated documents."""
        if not self.are_lists(kept):
            return super().token_ids(kept)
        return kept[0], kept[1].merge_dims(1, 2)


def ranking_pairs(x: Any) -> Any:
    """Returns rows of lists as rows of pairs, to compute one by one.

    Args:
        x: inputs for prediction: (queries, documents), or `Examples` of them, or anything else.

    Returns:
        ((queries, documents), counts): two string tensors `(pairs,)`, and an int array with the number of pairs of
        each row; `None` if `x` does not hold lists.

    Raises:
        ValueError: as `RankingColumn.read`.

    Example:

    >>> (_, documents), counts = ranking_pairs((["a", "b"], [["x", "y"], ["z"]]))
    >>> documents.numpy().tolist(), counts.tolist()
    ([b'x', b'y', b'z'], [2, 1])
    """
    if isinstance(x, tf.data.Dataset):
        x = getattr(x, "x", None)  # `Examples`
    columns = text_columns(x)
    if columns is None or len(columns) != 2:
        return None
    documents = columns[1]
    if not isinstance(documents, tf.RaggedTensor):
        first = next(iter(documents), None) if hasattr(documents, "__iter__") else None
        if not isinstance(first, (list, tuple, np.ndarray)):
            return None
    queries, documents = RankingColumn(None).read(x, "x")
    counts = documents.row_lengths()
    return (tf.repeat(queries, counts), documents.values), counts.numpy()


def _count(values):
    return int(values.nrows()) if isinstance(values, tf.RaggedTensor) else len(values)


def _read_documents(values, argument):
    """Documents as a ragged string tensor `(rows, None)`; one per row as a string tensor `(rows,)`."""
    if isinstance(values, tf.RaggedTensor) and values.dtype == tf.string and values.shape.rank == 2:
        lengths = values.row_lengths().numpy()
        if (lengths == 0).any():
            raise _no_documents(argument, [], int((lengths == 0).argmax()))
        return values
    if isinstance(values, tf.Tensor) and values.dtype == tf.string and values.shape.rank == 1:
        return values
    rows = as_list(values, argument, "a list of documents for each row, or one document for each")
    texts = [isinstance(row, (str, bytes)) for row in rows]
    if all(texts):
        return read_strings(rows, argument)
    if any(texts):
        row = texts.index(not texts[0])
        expected = "lists of documents in every row, or one document in every row"
        raise bad_value(argument, expected, rows[row], row, "Put a single document into a list.")
    made = []
    for i, row in enumerate(rows):
        if _check.is_missing(row) or not hasattr(row, "__len__") or hasattr(row, "keys"):
            raise bad_value(argument, "a list of strings in every row", row, i)
        row = as_list(row, argument, "a list of strings in every row")
        if not row:
            raise _no_documents(argument, row, i)
        for text in row:
            _check.text(argument, text, i)
        made.append(row)
    with tf.device("CPU:0"):
        flat = tf.constant([text for row in made for text in row], tf.string, shape=(sum(map(len, made)),))
        return tf.RaggedTensor.from_row_lengths(flat, tf.constant([len(row) for row in made], tf.int64))


def _no_documents(argument, received, row):
    return bad_value(argument, "at least one document in every row", received, row, "Drop the row.")


class GradesColumn(Column):
    """A number for each document of a row, as targets: grades, or a teacher's scores.

    Args:
        takes_lists: bool. Whether rows may have several documents. `False` is for losses on pairs, which would
            misinterpret a list.
        target_range: optional (low, high) of the numbers that a loss accepts.

    Values: a list of numbers for each row, one for each of its documents; or one number for each row, for pairs. Batch:
    float32 `(rows, documents)`, NaN after the end of a list. If shapes are compiled, the width is rounded up to a
    multiple of 8 to limit their number.

    Raises:
        ValueError: in `read`, for a value that is not a finite number, with its row; if the numbers of grades and
            documents differ.

    Example:

    >>> column = GradesColumn()
    >>> column.read([[3, 0], [1.5]], "y").to_list()
    [[3.0, 0.0], [1.5]]
    """

    expected = "a list of numbers for each row, one for each of its documents"

    def __init__(self, takes_lists: bool = True, *, target_range: tuple[float, float] | None = None) -> None:
        self.takes_lists = takes_lists
        self.target_range = target_range

    def read(self, values: Any, argument: str) -> Any:
        """Returns the numbers as a ragged float32 tensor `(rows, None)`."""
        if isinstance(values, tf.RaggedTensor):
            values = values.to_list()
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
            values = values[:, np.newaxis]
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "biuf":
            return self._ragged(values.ravel(), [values.shape[1]] * len(values), argument)
        rows = self.sequence(values, argument)
        lists = [_each(row, argument, self.expected) for row in rows]
        found = []
        for i, row in enumerate(lists):
            if not row:
                raise bad_value(argument, "at least one number in every row", row, i, "Drop the row.")
            found += [_number(value, argument, i, k) for k, value in enumerate(row)]
        return self._ragged(np.array(found, "float64"), [len(row) for row in lists], argument)

    def _ragged(self, flat, lengths, argument):
        with np.errstate(over="ignore"):  # a value too large for float32 is not finite either
            flat = np.asarray(flat, "float32")
        finite = np.isfinite(flat)
        if not finite.all():
            place = int(np.argmin(finite))
            row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
            raise bad_value(argument, "finite numbers", float(flat[place]), row)
        with tf.device("CPU:0"):
            found = tf.RaggedTensor.from_row_lengths(
                tf.constant(flat), tf.constant(lengths, tf.int64, shape=(len(lengths),))
            )
        self.check_read(found, argument)
        return found

    def check_read(self, targets: Any, argument: str) -> None:
        """Raises for rows of several numbers, or numbers out of range, if the loss does not accept them."""
        if not isinstance(targets, tf.RaggedTensor):
            return
        counts = targets.row_lengths().numpy()
        if not self.takes_lists and (counts > 1).any():
            row = int((counts > 1).argmax())
            raise bad_value(argument, "one number in every row", targets[row].numpy().tolist(), row, _NO_LISTS)
        values = targets.values.numpy()
        if self.target_range is not None:
            outside = (values < self.target_range[0]) | (values > self.target_range[1])
            if outside.any():
                place = int(outside.argmax())
                row = int(targets.value_rowids()[place])
                raise bad_value(argument, _in_range(*self.target_range), float(values[place]), row, _GRADES)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.RaggedTensorSpec((None,), tf.float32, ragged_rank=0)

    def encode(self, rows: Any) -> Any:
        """Turns targets of a pipeline, ragged, or padded with NaN, or one per row, into floats."""
        if isinstance(rows, tf.RaggedTensor):
            return tf.cast(rows, tf.float32)
        rows = tf.convert_to_tensor(rows)
        if rows.dtype == tf.string:
            raise _check.invalid("y", "numbers", "strings", "`data.rankings` reads numbers in strings.")
        rows = tf.cast(rows, tf.float32)
        rows = rows[:, tf.newaxis] if rows.shape.rank == 1 else rows
        if rows.shape.rank != 2:
            raise _check.invalid("y", "numbers (rows,) or (rows, documents)", rows.shape)
        return rows

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads with NaN: float32 `(rows, documents)`."""
        padded = kept.to_tensor(float("nan")) if isinstance(kept, tf.RaggedTensor) else kept
        checks = [] if self.takes_lists else [tf.debugging.Assert(tf.shape(padded)[1] <= 1, [f"y: {_NO_LISTS}"])]
        if self.target_range is not None:
            low, high = self.target_range
            fits = tf.reduce_all(tf.math.is_nan(padded) | ((padded >= low) & (padded <= high)))
            checks.append(tf.debugging.Assert(fits, [f"y: expected {_in_range(low, high)}. {_GRADES}"]))
        with tf.control_dependencies(checks):
            padded = tf.identity(padded)
        if keras.config.backend() == "jax":
            width = tf.shape(padded)[1]
            wanted = tf.where(width > 1, -(-width // 8) * 8, width)
            padded = tf.pad(padded, [[0, 0], [0, wanted - width]], constant_values=float("nan"))
        return {name: tf.ensure_shape(padded, (None, None))}

    def check_inputs(self, targets: Any, inputs: Any, argument: str) -> None:
        """Raises if the numbers of targets and documents of a row differ."""
        found = targets.row_lengths().numpy()
        for values in inputs.values():
            documents = values[1] if isinstance(values, tuple) else values
            if not isinstance(documents, (tf.Tensor, tf.RaggedTensor)) or documents.dtype != tf.string:
                continue
            is_ragged = isinstance(documents, tf.RaggedTensor)
            wanted = documents.row_lengths().numpy() if is_ragged else np.ones(len(documents), "int64")
            if len(wanted) == len(found) and (wanted != found).any():
                row = int((wanted != found).argmax())
                what = "one for each document" if is_ragged else "one for each pair"
                raise bad_value(argument, f"{wanted[row]} number(s), {what}", f"{found[row]} number(s)", row)


def _in_range(low, high):
    return f"numbers in [{low:g}, {high:g}], as the loss requires"


def _each(value, argument, expected):
    """The numbers of a row as a list."""
    is_list = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    return as_list(value, argument, expected) if is_list else [value]


_GRADES = "For grades, compile with `losses.LambdaLoss`; for a teacher's scores, with `losses.ListNetLoss`."
_NO_LISTS = "This loss reads pairs. For lists of documents, compile with a listwise loss, such as `losses.LambdaLoss`."


def _number(value, argument, row, place):
    where = f"At index {place}."
    if _check.is_missing(value) or value == "":
        raise bad_value(argument, "a number for each document", value, row, f"{where} Fill it in or drop it.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise bad_value(argument, "numbers", value, row, where) from error
