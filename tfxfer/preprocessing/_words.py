"""Shared by all kinds of tokenizers: each distinct word of a batch is encoded once."""

import hashlib

import tensorflow as tf
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer as _OPS

# An empty character map. Without one, SentencePiece logs a line whenever a model is loaded.
EMPTY_MAP = (1024).to_bytes(4, "little") + bytes(1024) + b"\0"
# The name of a SentencePiece model's unknown piece, which no text may contain.
NO_PIECE = "\U0010ffff<unk>"
# Whitespace in the regular expressions of `tokenizers`; the inside of a character class.
WHITESPACE = r"\p{Z}\t\n\x0b\f\r\x{85}"
# Not a byte of valid UTF-8, so no regular expression matches it.
SEPARATOR = b"\xff"


def encode_by_word(texts, encode, split=None):
    """Encodes texts word by word, each distinct word once.

    Words of natural text repeat: a batch of 512 sentences has about six times fewer distinct words than words.
    Everything slow (Unicode normalization, merging) runs only on the distinct words. There is no state between calls.

    Args:
        texts: string tensor `(n,)`.
        encode: function from a string tensor `(u,)` to an int32 `RaggedTensor` `(u, None)`.
        split: optional function from `texts` to a string `RaggedTensor` `(n, None)`; at each single space by default.

    Returns:
        An int32 `RaggedTensor` `(n, None)`.
    """
    words = tf.strings.split(texts, " ") if split is None else split(texts)
    unique, index = tf.unique(words.values)
    ids = tf.gather(encode(unique), index)
    return tf.RaggedTensor.from_row_splits(ids.values, tf.gather(ids.row_splits, words.row_splits), validate=False)


def where(mask, strings, function):
    """Applies a function of strings to the entries of a string tensor `(n,)` for which `mask` is true."""
    index = tf.where(mask)
    return tf.tensor_scatter_nd_update(strings, index, function(tf.gather(strings, index[:, 0])))


def valid_utf8(texts):
    """Replaces each byte that is not part of valid UTF-8 with U+FFFD."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


class SentencePiece(tf.saved_model.experimental.TrackableResource):
    """A SentencePiece model in TensorFlow's graph, under a name made from its contents.

    TF Text's own class has no such name. Its model then belongs to a kernel, in a cache that
    `keras.utils.set_random_seed` clears: a tokenizer made earlier would fail with "Resource does not exist". And a
    SavedModel with two such models would load the first one twice.

    Args:
        model: a `ModelProto` of SentencePiece.
        out_type: dtype of the pieces: `tf.int32`, their ids, or `tf.string`.
    """

    def __init__(self, model, out_type=tf.int32):
        self._data = model.SerializeToString()
        self._out_type = out_type
        super().__init__()
        _ = self.resource_handle  # creates it, as TF Text does

    def _create_resource(self):
        name = f"sentencepiece_{hashlib.sha256(self._data).hexdigest()[:32]}"
        return _OPS.sentencepiece_op(model=self._data, shared_name=name)

    def tokenize(self, strings):
        """Returns the pieces of strings `(n,)`: a `RaggedTensor` `(n, None)`."""
        options = {"nbest_size": 0, "alpha": 1.0, "add_bos": False, "add_eos": False, "reverse": False}
        values, splits = _OPS.sentencepiece_tokenize_op(
            self.resource_handle, strings, **options, return_nbest=False, out_type=self._out_type
        )
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def escaped(text):
    """Returns a regular expression that matches a string."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def drop(ids, keep):
    """Returns a `RaggedTensor` `(u, None)` without the values for which `keep`, one bool per value, is false."""
    kept = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], axis=0)
    values = tf.boolean_mask(ids.values, keep)
    return tf.RaggedTensor.from_row_splits(values, tf.gather(kept, ids.row_splits), validate=False)


class Shortcut:
    """An encoding function that looks up words of a single token, and calls another function for the rest.

    With a large vocabulary, most words of a text are a single token; a table finds them about fifty times faster than
    SentencePiece. The table is filled once, with the results of the other function, and never changes.

    Args:
        encode: function from a string tensor `(u,)` to an int32 `RaggedTensor` `(u, None)`.
        candidates: list of strings or bytes; those for which `encode` returns a single id are kept.
        whole: optional dict from a word to its id, for words that bypass `encode`.
    """

    def __init__(self, encode, candidates, whole=None):
        self._encode = encode
        whole = whole or {}
        words = tf.constant([word for word in candidates if word not in whole], tf.string)
        ids = encode(words)
        single = tf.equal(ids.row_lengths(), 1)
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.concat([tf.boolean_mask(words, single), tf.constant(list(whole), tf.string)], axis=0),
            tf.concat(
                [tf.ragged.boolean_mask(ids, single).values, tf.constant(list(whole.values()), tf.int32)], axis=0
            ),
        )
        self.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

    def __call__(self, words):
        """Returns the ids, int32 `RaggedTensor` `(u, None)`, of words `(u,)`."""
        found = self.table.lookup(words)
        rare = tf.less(found, 0)
        common = tf.boolean_mask(found, ~rare)
        count = tf.size(common, tf.int64)
        ids = self._encode(tf.boolean_mask(words, rare))
        rows = tf.RaggedTensor.from_row_splits(
            tf.concat([common, ids.values], axis=0),
            tf.concat([tf.range(count), count + ids.row_splits], axis=0),
            validate=False,
        )
        place = tf.where(rare, count + tf.cumsum(tf.cast(rare, tf.int64)), tf.cumsum(tf.cast(~rare, tf.int64)))
        return tf.gather(rows, place - 1)
