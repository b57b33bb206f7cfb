"""Splits documents that are too long for a model into overlapping windows of whole words."""

from typing import Any, NamedTuple

import tensorflow as tf


class Windows(NamedTuple):
    """The result of `windows`.

    Attributes:
        pieces: int32 `RaggedTensor` `(windows, words, pieces)`. The ids of the words in each window, row 0 first.
        number: int32 `RaggedTensor` `(n, words)`. The window that gives each word's answer.
        place: int32 `RaggedTensor` `(n, words)`. The word's index in that window.
    """

    pieces: Any
    number: Any
    place: Any


def windows(pieces: Any, room: int, stride: int) -> Windows:
    """Splits rows of words into windows that fit a model.

    A row that fits is one window. Otherwise, window k holds the words whose tokens are all among the `room` tokens from
    token `k * stride`. The window whose middle is nearest to a word gives its answer, as there the shorter side of its
    context is longest. Words of more than `room - stride + 1` pieces are truncated, so that every word fits in a
    window.

    Args:
        pieces: int32 `RaggedTensor` `(n, words, pieces)`, the ids of each word.
        room: int. Tokens in a window.
        stride: int from 1 to `room`. Tokens from the start of one window to the start of the next.

    Returns:
        `Windows(pieces, number, place)`.

    Example:

    >>> pieces = tf.ragged.constant([[[1], [2, 3], [4], [5], [6]]])  # one row of five words, six tokens
    >>> found = windows(pieces, room=4, stride=2)
    >>> found.pieces.to_list()
    [[[1], [2, 3], [4]], [[4], [5], [6]]]
    >>> found.number.to_list(), found.place.to_list()  # of each word: its window, and its index there
    ([[0, 0, 1, 1, 1]], [[0, 1, 0, 1, 2]])
    """
    room, stride = tf.cast(room, tf.int64), tf.cast(stride, tf.int64)
    words = pieces.row_lengths()
    is_long = tf.repeat(pieces.merge_dims(1, 2).row_lengths() > room, words)  # for each word
    sizes = tf.minimum(pieces.values.row_lengths(), tf.where(is_long, room - stride + 1, tf.int64.max))
    flat = pieces.values
    flat = tf.ragged.boolean_mask(flat, tf.ragged.range(flat.row_lengths()) < sizes[:, tf.newaxis])
    ends = pieces.with_values(tf.cumsum(sizes))
    before = tf.concat([[0], ends.values], axis=0)
    row_start = tf.gather(before, pieces.row_splits[:-1])
    totals = tf.gather(before, pieces.row_splits[1:]) - row_start
    ends = ends.values - tf.repeat(row_start, words)
    starts = ends - sizes
    counts = tf.maximum(-(-(totals - room) // stride), 0) + 1
    last = tf.repeat(counts, words) - 1

    # Positions on one axis, with a separate range for each row, so that one search finds the words of all windows.
    stretch = tf.reduce_max(tf.concat([totals, [0]], axis=0)) + room + stride + 1
    line = tf.repeat(tf.range(pieces.nrows()) * stretch, words)
    firsts = (tf.ragged.range(counts) * stride + (tf.range(pieces.nrows()) * stretch)[:, tf.newaxis]).values
    begin = tf.searchsorted(line + starts, firsts, side="left")
    end = tf.searchsorted(line + ends, firsts + room, side="right")
    row_of = tf.repeat(tf.range(pieces.nrows()), counts)
    end = tf.minimum(end, tf.cast(tf.gather(pieces.row_splits, row_of + 1), end.dtype))
    begin = tf.maximum(begin, tf.cast(tf.gather(pieces.row_splits, row_of), begin.dtype))

    middle = starts + sizes // 2
    best = (middle - room // 2 + stride // 2) // stride
    least, most = -(-tf.maximum(ends - room, 0) // stride), starts // stride
    best = tf.clip_by_value(tf.clip_by_value(best, least, most), 0, last)
    number = best + tf.repeat(tf.cumsum(counts) - counts, words)
    place = tf.range(tf.size(number, tf.int64)) - tf.cast(tf.gather(begin, number), tf.int64)
    return Windows(
        tf.gather(flat, tf.ragged.range(begin, tf.maximum(end, begin))),
        pieces.with_values(tf.cast(number, tf.int32)),
        pieces.with_values(tf.cast(place, tf.int32)),
    )
