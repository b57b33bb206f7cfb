"""Lists of texts: any number per row."""

from typing import Any

import tensorflow as tf

from tfxfer import _check
from tfxfer.augmentation import text_seeds
from tfxfer.data._columns._base import Column, bad_value
from tfxfer.data._columns._text import round_up


class TextListColumn(Column):
    """Any number of texts per row, for example the documents of a query, as a padded list of sequences.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.

    Values: a list of strings for each row; an empty list is allowed. Batch: dict of int32 `(batch, texts, length)`,
    `token_ids`, `padding_mask` and, for families that have them, `segment_ids`, and `list_mask` `(batch, texts)`, 1 at
    texts and 0 at padding.

    Raises:
        ValueError: in `read`, for a row that is not a list of strings.

    Example:

    ```python
    column = tx.data.TextListColumn(preprocessor)
    rows = column.read([["first", "second"], []], "documents")
    column.batch(column.encode(rows), "documents")["list_mask"]  # [[1, 1], [0, 0]]
    ```
    """

    expected = "a list of strings for each row"

    def __init__(self, preprocessor: Any) -> None:
        self.preprocessor = preprocessor

    def read(self, values: Any, argument: str) -> Any:
        """Returns the lists as a ragged string tensor `(rows, None)`."""
        rows = self.sequence(values, argument)
        for i, row in enumerate(rows):
            if isinstance(row, (str, bytes)) or not hasattr(row, "__len__"):
                raise bad_value(argument, "a list of strings in every row", row, i)
            for text in row:
                _check.text(argument, text, i)
        with tf.device("CPU:0"):
            flat = tf.constant([text for row in rows for text in row], tf.string, shape=(sum(map(len, rows)),))
            return tf.RaggedTensor.from_row_lengths(flat, tf.constant([len(row) for row in rows], tf.int64))

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.RaggedTensorSpec((None,), tf.string, ragged_rank=0)

    def encode(self, rows: Any) -> Any:
        """Tokenizes: an int32 ragged tensor `(rows, None, None)`."""
        return rows.with_values(self.preprocessor.tokenizer(rows.values))

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes each text of the rows, each with its own seed."""
        places = tf.ragged.range(rows.row_lengths()).values
        seeds = text_seeds(tf.gather(seeds, rows.value_rowids()), places)
        return rows.with_values(augmentation.on_texts(rows.values, seeds)), tags

    def lengths(self, kept: Any) -> Any:
        """Returns the truncated length of each row's longest text in tokens: int32 `(rows,)`; 0 for an empty list."""
        flat = self.preprocessor.lengths(kept.values)
        return tf.maximum(tf.reduce_max(kept.with_values(flat), axis=1), 0)

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads texts and lists: int32 `(batch, texts, length)`, and `list_mask` `(batch, texts)`."""
        packed = round_up(self.preprocessor.pack(kept.values), multiple, self.preprocessor)
        counts = tf.cast(kept.row_lengths(), tf.int32)
        most = tf.maximum(tf.reduce_max(counts), 1)
        places = tf.where(tf.sequence_mask(counts, most))
        found = {}
        for key, value in packed.items():
            shape = tf.stack([tf.size(counts), most, tf.shape(value)[1]])
            pad = (self.preprocessor.tokenizer.pad_token_id or 0) if key == "token_ids" else 0
            filled = tf.tensor_scatter_nd_update(tf.fill(shape, pad), places, value)
            found[key] = tf.ensure_shape(filled, (None, None, None))
        found["list_mask"] = tf.ensure_shape(tf.sequence_mask(counts, most, tf.int32), (None, None))
        return found

    def token_ids(self, kept: Any) -> Any:
        """Returns the concatenated tokens of all texts of each row."""
        return (kept.merge_dims(1, 2),)
