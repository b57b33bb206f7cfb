"""Texts: one sequence of tokens per row, or one for each text of a row."""

from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check
from tfxfer.augmentation import WordRows, text_seeds
from tfxfer.data._columns._base import Column, read_strings

FORMS = ("joint", "separate")


class TextColumn(Column):
    """One or several texts per row, as token ids.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.
        form: how to encode several texts per row: `"joint"`, one sequence per pair, as cross-encoders read it; or
            `"separate"`, one sequence per text, as Siamese towers read them. Defaults to `"joint"`.
        count: int. The number of texts per row. By default any number that the form allows: one or two if joint, at
            least one if separate.

    Values: a column of strings, or a tuple of such columns. Batch: dict of int32 `(batch, length)`, or
    `(batch, texts, length)` with one length for all texts if they are separate: `token_ids`, `padding_mask` and, for
    families that have them, `segment_ids`.

    Raises:
        ValueError: for an unknown form, or a count that it does not allow; in `read`, for another number of texts, or a
            text that is missing or not a string, with its row.

    Example:

    ```python
    column = tx.data.TextColumn(preprocessor, "separate", count=2)
    rows = column.read((["a question"], ["an answer"]), "text")
    column.batch(column.encode(rows), "text")["token_ids"].shape  # (1, 2, length)
    ```
    """

    expected = "a list of strings"

    def __init__(
        self, preprocessor: Any, form: Literal["joint", "separate"] = "joint", *, count: int | None = None
    ) -> None:
        self.preprocessor = preprocessor
        self.form = _check.one_of("form", form, FORMS)
        self.count = _check.integer("count", count, optional=True)
        if form == "joint" and count is not None and count > 2:
            raise _check.invalid("count", 'at most 2 with form="joint"', count)
        self._settings = settings(preprocessor)

    @property
    def is_current(self) -> bool:
        """Whether the preprocessor's settings are unchanged since this was made: pipelines keep traced functions."""
        return self._settings == settings(self.preprocessor)

    @property
    def separate(self) -> bool:
        """Whether each text of a row is a separate sequence."""
        return self.form == "separate"

    def read(self, values: Any, argument: str) -> Any:
        """Returns texts as a string tensor `(rows,)`, or a tuple of such tensors for several texts a row."""
        columns = text_columns(values)
        if columns is None:
            self.check_count(1, argument)
            return read_strings(values, argument, "a list of strings, or a tuple of such lists")
        self.check_count(len(columns), argument)
        found = tuple(read_strings(column, f"{argument}[{i}]") for i, column in enumerate(columns))
        lengths = [len(column) for column in found]
        if len(set(lengths)) > 1:
            raise _check.invalid(argument, "columns of one length", lengths)
        return found

    def check_count(self, count: int, argument: str) -> None:
        """Checks the number of texts per row.

        Args:
            count: int. The number of texts per row.
            argument: string. The name of the texts in errors.

        Raises:
            ValueError: if the column does not accept this number of texts.
        """
        if self.count is not None and count != self.count:
            raise _check.invalid(argument, f"{self.count} text columns", f"{count} text columns")
        if not self.separate and count > 2:
            remedy = 'Pass `columns="separate"` for towers, or make pairs.'
            raise _check.invalid(argument, 'one or two text columns with columns="joint"', f"{count} columns", remedy)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        one = tf.TensorSpec((), tf.string)
        return tuple([one] * self.count) if self.count is not None and self.count > 1 else one

    def encode(self, rows: Any) -> Any:
        """Tokenizes: a tuple with one int32 ragged tensor `(rows, None)` for each text of a row."""
        texts = rows if isinstance(rows, tuple) else (rows,)
        return tuple(self.preprocessor.tokenizer(text) for text in texts)

    def split(self, rows: Any, augmentation: Any) -> Any:
        """Splits the texts to change into words and gaps: a tuple with each text of the rows."""
        texts = rows if isinstance(rows, tuple) else (rows,)
        chosen = augmentation if isinstance(augmentation, dict) else range(len(texts))
        if max(chosen) >= len(texts):
            raise _check.invalid("augment", f"indices of texts < {len(texts)}", max(chosen))
        return tuple(WordRows.from_texts(text).parts() if i in chosen else text for i, text in enumerate(texts))

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes each text of the rows, each with its own seed."""
        made = []
        for i, parts in enumerate(rows):
            if isinstance(parts, tuple):
                change = augmentation[i] if isinstance(augmentation, dict) else augmentation
                parts = change.on_parts(*parts, text_seeds(seeds, i))
            made.append(parts)
        return (tuple(made) if len(made) > 1 else made[0]), tags

    def lengths(self, kept: Any) -> Any:
        """Returns the truncated length of each row, or of its longest text, in tokens: int32 `(rows,)`."""
        lengths = self.preprocessor.lengths
        if self.separate:
            return tf.reduce_max(tf.stack([lengths(column) for column in kept]), axis=0)
        return lengths(kept if len(kept) > 1 else kept[0])

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads the ids; returns int32 `(batch, length)`, or `(batch, texts, length)` if texts are separate."""
        count = len(kept)
        packed = self.preprocessor.pack(tf.concat(kept, axis=0) if self.separate else kept if count > 1 else kept[0])
        packed = round_up(packed, multiple, self.preprocessor)
        return {key: self._shaped(value, count) for key, value in packed.items()}

    def _shaped(self, value, count):
        if not self.separate:
            return tf.ensure_shape(value, (None, None))
        value = tf.reshape(value, (count, -1, tf.shape(value)[1]))
        return tf.ensure_shape(tf.transpose(value, (1, 0, 2)), (None, count, None))

    def token_ids(self, kept: Any) -> Any:
        """Returns the token ids as returned by `encode`."""
        return kept


def settings(preprocessor):
    """Returns the settings of a preprocessor that affect padding."""
    names = ("sequence_length", "padding_side", "pad_to_multiple_of", "segment_ids")
    return [getattr(preprocessor, name, None) for name in names]


def text_columns(values):
    """Returns the columns of a tuple or a frame of texts; `None` for one column."""
    if isinstance(values, tuple) and not all(isinstance(value, (str, bytes)) for value in values):
        return values
    if hasattr(values, "iloc") and hasattr(values, "columns"):  # a pandas frame
        return tuple(values.iloc[:, i] for i in range(values.shape[1]))
    if hasattr(values, "column_names") and hasattr(values, "__getitem__"):  # an Arrow table, a Hugging Face dataset
        return tuple(values[name] for name in values.column_names)
    return None


def round_up(packed, multiple, preprocessor, aligned=()):
    """Pads a batch `(batch, length)` to a multiple in length, at most the preprocessor's `sequence_length`.

    Keys in `aligned` are padded with -1.
    """
    if multiple == 1:
        return packed
    length = tf.shape(packed["token_ids"])[1]
    wanted = -(-length // multiple) * multiple
    missing = tf.maximum(tf.minimum(wanted, preprocessor.sequence_length) - length, 0)
    sides = [[0, 0], [missing, 0] if preprocessor.padding_side == "left" else [0, missing]]
    values = {"token_ids": preprocessor.tokenizer.pad_token_id or 0, **dict.fromkeys(aligned, -1)}
    return {key: tf.pad(value, sides, constant_values=values.get(key, 0)) for key, value in packed.items()}
