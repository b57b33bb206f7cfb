"""Operations without the parts that `keras.ops` adds for cases that do not occur here, which cost time to trace."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


def rows(x: Any, indices: Any) -> Any:
    """Returns `keras.ops.take(x, indices, axis=0)` for indices that are not negative."""
    return tf.gather(x, indices) if _is_plain(x, indices) else ops.take(x, indices, axis=0)


def shape(x: Any) -> Any:
    """Returns the shape of a tensor as one tensor on TensorFlow, and as `keras.ops.shape` does elsewhere."""
    return tf.shape(x) if _is_plain(x) else ops.shape(x)


def add(x: Any, y: Any) -> Any:
    """Returns `x + y` of tensors of one shape; TensorFlow's gradient of another sum looks for axes to sum over."""
    return tf.add_n([x, y]) if _is_plain(x, y) and x.dtype == y.dtype else ops.add(x, y)


def matmul(x: Any, y: Any) -> Any:
    """Returns `keras.ops.matmul(x, y)` of tensors with the same leading axes, of which there are some; see `add`."""
    return tf.raw_ops.BatchMatMul(x=x, y=y) if _is_plain(x, y) and x.dtype == y.dtype else ops.matmul(x, y)


def uniform(shape: Any, generator: Any) -> Any:
    """Returns `keras.random.uniform(shape, dtype="float32", seed=generator)` of a `keras.random.SeedGenerator`."""
    if not _is_plain(shape):
        return keras.random.uniform(shape, dtype="float32", seed=generator)
    seed = generator.next()
    if seed.dtype != tf.int32:
        seed = tf.cast(tf.math.floormod(seed, tf.int32.max - 1), tf.int32)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    algorithm = tf.random.Algorithm.AUTO_SELECT.value
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=counter, alg=algorithm, dtype=tf.float32)


def _is_plain(*tensors):
    return keras.config.backend() == "tensorflow" and all(tf.is_tensor(each) for each in tensors)
