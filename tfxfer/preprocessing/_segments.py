"""Added tokens inside a text: found before everything else, as Hugging Face does."""

import re

import tensorflow as tf

from tfxfer.preprocessing import _words

# What the regular expressions of `tokenizers` take for white space.
WHITESPACE = r"\p{Z}\t\n\x0b\f\r\x{85}"
# No byte of valid UTF-8.
SEPARATOR = b"\xff"


def with_added_tokens(encode, added):
    """Makes a tokenising function that maps some tokens in a text to their ids and hands what lies between to another.

    Args:
        encode: function from a string tensor `(n,)` to an int32 `RaggedTensor` `(n, None)`.
        added: list of dicts `content`, `id`, `lstrip`, `rstrip` (whether the token takes in the white space beside it).

    Returns:
        A function as `encode`.
    """
    longest_first = sorted(added, key=lambda token: -len(token["content"]))
    pattern = "|".join(_pattern(token) for token in longest_first)

    def tokenize(texts):
        marked = tf.strings.regex_replace(_words.valid_utf8(texts), pattern, SEPARATOR + rb"\0" + SEPARATOR)
        segments = tf.strings.split(marked, SEPARATOR)
        parts = segments.values
        is_token = tf.strings.regex_full_match(parts, pattern)
        token_ids = tf.zeros_like(parts, tf.int32)
        for token in longest_first[::-1]:
            token_ids = tf.where(tf.strings.regex_full_match(parts, _pattern(token)), token["id"], token_ids)
        tokens = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(token_ids, is_token), tf.cast(is_token, tf.int64), validate=False
        )
        ids = tf.concat([tokens, encode(tf.where(is_token, "", parts))], axis=1)
        return tf.RaggedTensor.from_row_splits(
            ids.values, tf.gather(ids.row_splits, segments.row_splits), validate=False
        )

    return tokenize


def _pattern(token):
    left = f"[{WHITESPACE}]*" if token["lstrip"] else ""
    right = f"[{WHITESPACE}]*" if token["rstrip"] else ""
    return left + re.sub(r"([^\w\s])", r"\\\1", token["content"]) + right
