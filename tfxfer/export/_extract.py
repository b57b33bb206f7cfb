"""Entities of raw texts, in the graph: words, windows, scores, the best tags, positions."""

from typing import Any

import tensorflow as tf

from tfxfer import data
from tfxfer.preprocessing import split_words, windows

# Windows computed at a time, which bounds the memory for a long document.
_WINDOWS = 64
# The number of columns of an answer is a multiple of this. A server that splits a request of many rows can concatenate
# the answers only if their widths are equal.
COLUMNS = 16
# Bytes of one word that are read; see `_signatures.LEAST_BYTES`.
_WORD_BYTES = 32_768


class Extractor:
    """Maps texts `(n,)` to their padded entities.

    Args:
        tagger: `models.TokenTagger`.
        forward: function from the dict of ids of some windows to scores `(windows, words, tags)`.
    """

    def __init__(self, tagger: Any, forward: Any) -> None:
        self._forward = forward
        self._split, (self._room, self._stride) = tagger.split, tagger.window()
        self._column = data.WordsColumn(tagger.preprocessor)
        self._decoder = tagger.entity_decoder()
        self._types = tagger.tags if tagger.scheme is None else [tag.partition("-")[2] for tag in tagger.tags]
        self._tags = len(tagger.tags)

    def __call__(self, texts: Any) -> dict[str, Any]:
        """Returns a dict of padded tensors `(n, most)`, and `counts` `(n,)`."""
        words = split_words(texts, self._split)
        pieces = self._column.encode(words.words.with_values(tf.strings.substr(words.words.values, 0, _WORD_BYTES)))
        scores = pieces.with_values(self._scores(pieces))
        mask = pieces.with_values(tf.cast(pieces.values.row_lengths() > 0, tf.int32))
        # At least one column, so that no dimension is 0.
        width = tf.maximum(pieces.bounding_shape(1), 1)
        decoded = self._decoder(
            emissions=_dense(scores.to_tensor(0.0), width, (self._tags,)), word_mask=_dense(mask.to_tensor(0), width)
        )
        if "is_start" not in decoded:
            decoded |= self._each_word(words, decoded)
        return self._answers(texts, words, decoded)

    def _each_word(self, words, decoded):
        """Treats every word as an entity, for tags without an entity scheme."""
        tags = decoded["tags"]
        is_word = tf.sequence_mask(words.words.row_lengths(), tf.shape(tags)[1])
        scores = tf.gather(decoded["probabilities"], tf.maximum(tags, 0)[..., tf.newaxis], batch_dims=2)[..., 0]
        places = tf.broadcast_to(tf.range(tf.shape(tags)[1]), tf.shape(tags))
        return {"is_start": is_word, "ends": places, "log_probabilities": tf.math.log(scores)}

    def _scores(self, pieces):
        """Returns the scores `(words, tags)` of all words."""
        made = windows(pieces, self._room, self._stride)
        count = made.pieces.nrows()
        parts = -(-count // _WINDOWS)

        def compute(part, found):
            chosen = made.pieces[part * _WINDOWS : (part + 1) * _WINDOWS]
            scores = tf.cast(self._forward(self._column.batch(chosen, "words")), tf.float32)
            lengths = chosen.row_lengths()
            flat = tf.boolean_mask(scores, tf.sequence_mask(lengths, tf.shape(scores)[1]))
            return part + 1, found.write(tf.cast(part, tf.int32), tf.ensure_shape(flat, [None, self._tags]))

        found = tf.TensorArray(
            tf.float32, tf.cast(parts, tf.int32), infer_shape=False, element_shape=[None, self._tags]
        )
        _, found = tf.while_loop(
            lambda part, _: part < parts, compute, (tf.constant(0, tf.int64), found), parallel_iterations=1
        )
        flat = tf.concat([found.concat(), tf.zeros([1, self._tags])], axis=0)
        offsets = tf.cumsum(made.pieces.row_lengths(), exclusive=True)
        places = tf.gather(offsets, made.number.values) + tf.cast(made.place.values, tf.int64)
        is_known = pieces.values.row_lengths() > 0
        return tf.gather(flat, tf.where(is_known, places, tf.shape(flat, tf.int64)[0] - 1))

    def _answers(self, texts, words, decoded):
        starts = decoded["is_start"]
        places = tf.where(starts)  # (entities, 2)
        rows, first = places[:, 0], places[:, 1]
        last = tf.cast(tf.gather_nd(decoded["ends"], places), tf.int64)
        counts = tf.reduce_sum(tf.cast(starts, tf.int32), axis=1)
        row_starts = words.starts.row_starts()
        of_first = tf.gather(row_starts, rows) + first
        of_last = tf.gather(row_starts, rows) + last
        begin, end = tf.gather(words.byte_starts.values, of_first), tf.gather(words.byte_ends.values, of_last)
        columns = {
            "labels": (tf.gather(tf.constant(self._types), tf.maximum(tf.gather_nd(decoded["tags"], places), 0)), ""),
            "starts": (tf.gather(words.starts.values, of_first), -1),
            "ends": (tf.gather(words.ends.values, of_last), -1),
            "byte_starts": (begin, -1),
            "byte_ends": (end, -1),
            "texts": (tf.strings.substr(tf.gather(texts, rows), begin, end - begin), ""),
            "scores": (tf.minimum(tf.exp(tf.gather_nd(decoded["log_probabilities"], places)), 1.0), 0.0),
        }
        lengths = tf.cast(counts, tf.int64)
        width = -(-tf.reduce_max(tf.concat([lengths, [1]], axis=0)) // COLUMNS) * COLUMNS
        found = {
            name: _dense(
                tf.RaggedTensor.from_row_lengths(values, lengths, validate=False).to_tensor(pad), width, (), pad
            )
            for name, (values, pad) in columns.items()
        }
        return {**found, "counts": counts}


def _dense(values, width, rest=(), pad=None):
    """Pads the second dimension of a tensor to a width."""
    missing = tf.cast(width, tf.int32) - tf.shape(values)[1]
    pad = tf.zeros([], values.dtype) if pad is None else pad
    values = tf.pad(values, [[0, 0], [0, missing], *[[0, 0]] * len(rest)], constant_values=pad)
    return tf.ensure_shape(values, [None, None, *rest])
