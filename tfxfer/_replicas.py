"""Replicas of `tf.distribute`: what a loss must know about the rows on the other replicas of a step.

A strategy gives each replica a part of a batch, and sums gradients over replicas. If parts differ in size, the means
over the parts do not average to the mean over the batch, and a loss that compares rows sees only its own part.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


def count() -> int:
    """Returns the number of replicas that share this step; 1 outside of a step, and on other backends."""
    if keras.config.backend() != "tensorflow" or not tf.distribute.has_strategy():
        return 1
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def total(value: Any) -> Any:
    """Returns the sum of a tensor over all replicas, without a gradient."""
    if count() == 1:
        return value
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))


def gathered(value: Any) -> Any:
    """Returns the rows of all replicas, `(rows of all, ...)`, in their order in the batch.

    All replicas compute the same from the gathered rows, and strategies sum their gradients. So the gradients of a
    replica's own rows are multiplied by the number of replicas, to match a loss that is divided by it, and the rows of
    other replicas have no gradient.
    """
    value = tf.convert_to_tensor(value)
    if value.dtype == tf.bool:
        return tf.cast(gathered(tf.cast(value, tf.int32)), tf.bool)
    if value.dtype.size < 4:  # cannot be sent: 16 bits are exact in 32
        value = tf.cast(value, tf.float32 if value.dtype.is_floating else tf.int32)
    context = _context()
    number = context.replica_id_in_sync_group
    counts = context.all_gather(tf.shape(value)[:1], axis=0)
    start = tf.reduce_sum(tf.where(tf.range(tf.size(counts)) < number, counts, 0))
    everything = tf.stop_gradient(context.all_gather(tf.stop_gradient(value), axis=0))
    if not value.dtype.is_floating:
        return everything
    fixed = tf.stop_gradient(value)
    own = fixed + count() * (value - fixed)  # the value, exactly
    end = start + tf.shape(value)[0]
    return tf.concat([everything[:start], own, everything[end:]], axis=0)


def weighed(value: Any, rows: Any) -> Any:
    """Turns a mean over a replica's rows, divided by the number of replicas, into its part of the mean over all rows.

    Args:
        value: float scalar. The mean, divided by the number of replicas.
        rows: scalar. The number of rows in the mean, or the sum of their weights.

    Returns:
        A float scalar: on each replica the mean over all rows, divided by the number of replicas, with the gradient of
        the replica's own part.
    """
    rows = ops.cast(rows, value.dtype)
    share = ops.divide_no_nan(rows * count(), total(rows))
    own = value * share
    fixed = ops.stop_gradient(own)
    return total(fixed) / count() + (own - fixed)


def _context():
    return tf.distribute.get_replica_context()
