"""From the texts of a batch to its tensors."""

import tensorflow as tf

from tfxfer import _check


class Packer:
    """Texts to ids, and ids to batches."""

    def __init__(self, preprocessor, count, columns, multiple):
        if columns == "joint" and count > 2:
            remedy = 'Pass `columns="separate"` for towers, or make pairs.'
            raise _check.invalid("columns", f'"separate" for rows of {count} texts', columns, remedy)
        self.preprocessor = preprocessor
        self._settings = self._current()
        self.count = count
        self.separate = columns == "separate"
        self.multiple = multiple

    def _current(self):
        names = ("sequence_length", "padding_side", "pad_to_multiple_of", "segment_ids")
        return [getattr(self.preprocessor, name, None) for name in names]

    @property
    def is_current(self):
        """Whether the preprocessor still packs as it did when this was made: pipelines keep what they have traced."""
        return self._settings == self._current()

    def tokenize(self, *row):
        """Rows, batched -> (ids, one ragged tensor a column; lengths that decide the padding; what is not text)."""
        texts = row[0] if isinstance(row[0], tuple) else (row[0],)
        ids = tuple(self.preprocessor.tokenizer(text) for text in texts)
        return ids, self.lengths(ids), row[1:]

    def lengths(self, ids):
        """Ids, one ragged tensor a column -> the length of each row once it is packed."""
        lengths = self.preprocessor.lengths
        if self.separate:
            return tf.reduce_max(tf.stack([lengths(column) for column in ids]), axis=0)
        return lengths(ids if self.count > 1 else ids[0])

    def pack(self, ids, rest):
        """Ids of the rows of one batch, and what is not text -> the batch."""
        if self.separate:
            packed = self.preprocessor.pack(tf.concat(ids, axis=0))
        else:
            packed = self.preprocessor.pack(ids if self.count > 1 else ids[0])
        packed = {key: self._shaped(value) for key, value in round_up(packed, self.multiple, self.preprocessor).items()}
        return (packed, *rest) if rest else packed

    def _shaped(self, value):
        if self.separate:
            value = tf.reshape(value, (self.count, -1, tf.shape(value)[1]))
            return tf.ensure_shape(tf.transpose(value, (1, 0, 2)), (None, self.count, None))
        return tf.ensure_shape(value, (None, None))


def round_up(packed, multiple, preprocessor):
    """Pads packed rows `(batch, length)` until the length is a multiple, or the preprocessor's `sequence_length`."""
    if multiple == 1:
        return packed
    length = tf.shape(packed["token_ids"])[1]
    wanted = -(-length // multiple) * multiple
    missing = tf.maximum(tf.minimum(wanted, preprocessor.sequence_length) - length, 0)
    sides = [[0, 0], [missing, 0] if preprocessor.padding_side == "left" else [0, missing]]
    pad_id = preprocessor.tokenizer.pad_token_id or 0
    return {
        key: tf.pad(value, sides, constant_values=pad_id if key == "token_ids" else 0) for key, value in packed.items()
    }
