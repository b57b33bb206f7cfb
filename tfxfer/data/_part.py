"""The part of each batch that one process of several trains on."""

from typing import Any

import tensorflow as tf

from tfxfer.data._graph import as_it_is


def part_of_batches(dataset: Any, count: int, index: int) -> Any:
    """Returns the rows of each batch that belong to one of several processes, which all read the same batches.

    All parts of a batch are padded alike, and are the batch, one after another.

    Args:
        dataset: `tf.data.Dataset` of batches, structures of tensors `(batch, ...)`; every batch has a multiple of
            `count` rows.
        count: int. How many processes there are.
        index: int from 0 to `count - 1`.

    Returns:
        A `tf.data.Dataset`. Running it raises where a batch cannot be shared evenly.

    `fit` of task models does this by itself under a `keras.distribution` of several processes.

    >>> batches = tf.data.Dataset.range(6).batch(4, drop_remainder=True)
    >>> [part.tolist() for part in part_of_batches(batches, 2, 1).as_numpy_iterator()]
    [[2, 3]]
    """

    def own(values):
        rows = tf.shape(values)[0]
        message = f"{count} processes cannot share a batch evenly: make the batches with `drop_remainder=True`"
        with tf.control_dependencies([tf.debugging.assert_equal(rows % count, 0, message=message)]):
            size = rows // count
        found = values[index * size : (index + 1) * size]
        found.set_shape([None, *values.shape[1:]])
        return found

    @as_it_is
    def part(*batch):
        found = tf.nest.map_structure(own, batch)
        return found if len(found) > 1 else found[0]

    made = dataset.map(part, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return made.prefetch(tf.data.AUTOTUNE)

