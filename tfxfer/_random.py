"""Random numbers as functions of a seed, an epoch, a row and a position: without state or an order of calls.

A number is hashed, not drawn: the finalizer of SplitMix64 over a counter. So the numbers of a row do not depend on the
other rows of its batch, and an epoch can begin anywhere.

Reference: Steele, Lea and Flood, 2014, Fast Splittable Pseudorandom Number Generators,
https://doi.org/10.1145/2714064.2660195.
"""

from typing import Any

import tensorflow as tf

_STEP = 0x9E3779B97F4A7C15
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def row_seeds(seed: int, epoch: Any, rows: Any) -> Any:
    """Returns the seed of each row in an epoch.

    Args:
        seed: int >= 0.
        epoch: int, or int64 scalar tensor.
        rows: int tensor `(n,)`. The indices of the rows in the data.

    Returns:
        An int64 tensor `(n,)`.

    >>> seeds = row_seeds(0, 1, [0, 1, 2])
    >>> bool(seeds[2] == row_seeds(0, 1, [2])[0])  # a row's seed does not depend on the other rows
    True
    """
    of_data = tf.bitcast(tf.constant(seed % 2**64, tf.uint64), tf.int64)
    return fold(fold(of_data, epoch), rows)


def fold(seeds: Any, numbers: Any) -> Any:
    """Returns a new seed for each pair of a seed and a number, int64; the shapes broadcast."""
    seeds = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)
    numbers = tf.bitcast(tf.cast(numbers, tf.int64), tf.uint64)
    mixed = seeds + (numbers + _constant(1)) * _constant(_STEP)
    for shift, factor in _FACTORS:
        mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, _constant(shift))) * _constant(factor)
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, _constant(_LAST_SHIFT)))
    return tf.bitcast(mixed, tf.int64)


def uniform(seeds: Any) -> Any:
    """Returns a number in `[0, 1)` for each seed, float64 of 53 bits."""
    bits = tf.bitwise.right_shift(tf.bitcast(seeds, tf.uint64), _constant(11))
    return tf.cast(bits, tf.float64) * 2.0**-53


def below(seeds: Any, bounds: Any) -> Any:
    """Returns a whole number in `[0, bound)` for each seed, int64; 0 if the bound is 0."""
    bounds = tf.cast(bounds, tf.int64)
    found = tf.cast(uniform(seeds) * tf.cast(bounds, tf.float64), tf.int64)
    return tf.clip_by_value(found, 0, tf.maximum(bounds - 1, 0))


def new_seeds(count: Any) -> Any:
    """Returns seeds for rows without an index, int64 `(count,)`, from TensorFlow's global seed."""
    return fold(tf.random.uniform([count], maxval=tf.int64.max, dtype=tf.int64), 0)


def integers(seeds: Any, places: Any, stream: int) -> Any:
    """Returns random int64 `(rows, length)` from 0 to 2^62 - 1.

    Args:
        seeds: int64 `(rows,)`.
        places: int tensor `(rows, length)` or `(1, length)`: the position in the row that the number is for.
        stream: int. A different one for each purpose.
    """
    drawn = tf.bitcast(fold(fold(seeds, stream)[:, tf.newaxis], places), tf.uint64)
    return tf.cast(tf.bitwise.right_shift(drawn, _constant(2)), tf.int64)


def shares(seeds: Any, places: Any, stream: int) -> Any:
    """Returns random float32 in `[0, 1)`; arguments as in `integers`."""
    bits = tf.bitwise.right_shift(integers(seeds, places, stream), tf.constant(38, tf.int64))  # 24 bits are left
    return tf.cast(bits, tf.float32) * 2.0**-24


def _constant(value):
    return tf.constant(value, tf.uint64)
