"""Random numbers in a graph that are a function of what they are drawn for, whatever the batch.

TensorFlow's own are a function of the seed and the shape: a row would get other numbers in another batch. These are a
hash of the row's seed and the place in it (SplitMix64's last step, Steele et al., 2014,
https://doi.org/10.1145/2660193.2660195).
"""

import tensorflow as tf

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mixed(x):
    """Mixes the bits of uint64 numbers, one to one."""
    shift = tf.bitwise.right_shift

    def word(value):
        return tf.constant(value, tf.uint64)

    x = x + word(_STEP)
    x = tf.bitwise.bitwise_xor(x, shift(x, word(30))) * word(_FIRST)
    x = tf.bitwise.bitwise_xor(x, shift(x, word(27))) * word(_SECOND)
    return tf.bitwise.bitwise_xor(x, shift(x, word(31)))


def row_seeds(seed, epoch, rows):
    """Returns a seed for each row, uint64 `(rows,)`.

    Args:
        seed: int >= 0.
        epoch: int64 tensor `()`.
        rows: int64 tensor `(rows,)`. The rows' numbers in the data set.
    """
    start = _mixed(_mixed(tf.constant(seed, tf.uint64)) + tf.cast(epoch, tf.uint64))
    return _mixed(start + tf.cast(rows, tf.uint64))


def new_seeds(count):
    """Returns seeds for rows that have no number, uint64 `(count,)`; TensorFlow's global seed decides them."""
    drawn = tf.random.uniform([count], maxval=tf.int64.max, dtype=tf.int64)
    return _mixed(tf.cast(drawn, tf.uint64))


def integers(seeds, places, stream):
    """Returns random int64 `(rows, length)` from 0 to 2^62 - 1.

    Args:
        seeds: uint64 `(rows,)`.
        places: int tensor `(rows, length)` or `(1, length)`: what in a row the number is for.
        stream: int. Numbers for another purpose have another one.
    """
    offset = _mixed(tf.constant(stream, tf.uint64))
    drawn = _mixed(_mixed(seeds[:, tf.newaxis] + offset) + tf.cast(places, tf.uint64))
    return tf.cast(tf.bitwise.right_shift(drawn, tf.constant(2, tf.uint64)), tf.int64)


def shares(seeds, places, stream):
    """Returns random float32 in `[0, 1)`; arguments as `integers` has them."""
    drawn = tf.bitwise.right_shift(integers(seeds, places, stream), tf.constant(38, tf.int64))  # 24 bits are left
    return tf.cast(drawn, tf.float32) / 2.0**24
