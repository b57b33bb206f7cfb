"""The share of each batch that one of several processes trains on."""

from typing import Any

import tensorflow as tf

from tfxfer import _check
from tfxfer.data._batches import Batches
from tfxfer.data._graph import as_it_is

_MARK = "is_own_part"


def part_of_batches(dataset: Any, count: int, index: int) -> Any:
    """Returns the rows of each batch that belong to one of several processes, which all read the same batches.

    All parts of a batch have the same padded length; concatenated, they are the batch. `fit` of task models calls this
    under a `keras.distribution` of several processes.

    Args:
        dataset: `tf.data.Dataset` of batches, structures of tensors `(batch, ...)`; the number of rows of every batch
            must be a multiple of `count`.
        count: int. The number of processes.
        index: int from 0 to `count - 1`. The index of this process.

    Returns:
        A `tf.data.Dataset`. Iterating over it raises `tf.errors.InvalidArgumentError` if a batch cannot be divided
        evenly.

    Example:

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


def as_part(dataset: Any) -> Any:
    """Marks batches as this process's own part, if each process reads its own rows.

    By default every process reads all rows, and `fit` selects its part: cheap for rows in memory, but it multiplies the
    work for rows that are read and tokenized again in each epoch. With this function each process reads its own files.
    The batches of all processes, concatenated, are then the batch of a step, so all processes need the same number of
    batches, of the same number of rows, with the same padded length.

    Args:
        dataset: `tf.data.Dataset` of batches, such as `data.batches` returns; it is marked, not copied.

    Returns:
        `dataset`.

    Raises:
        ValueError: for `data.Batches` that are padded to their longest row, which differs between processes.

    Example:

    ```python
    preprocessor = model.preprocessor  # of sequence_length=64, pad_to_multiple_of=64: one length for all batches
    own = rows.shard(keras.distribution.distribution().num_processes, jax.process_index())
    model.fit(tx.data.as_part(tx.data.batches(own, model, 256, drop_remainder=True, cache=False, seed=0)))
    ```
    """
    _check.instance("dataset", dataset, tf.data.Dataset, "a `tf.data.Dataset` of batches")
    if isinstance(dataset, Batches):
        for length, multiple in dataset.text_lengths():
            if multiple % length:
                remedy = f"Make the preprocessor with `pad_to_multiple_of={length}`."
                raise _check.invalid("dataset", "batches of one padded length", f"multiples of {multiple}", remedy)
    setattr(dataset, _MARK, True)
    return dataset


def is_part(dataset: Any) -> bool:
    """Returns whether `as_part` has marked a dataset.

    Args:
        dataset: `tf.data.Dataset` of batches.

    Returns:
        A bool.

    Example:

    >>> batches = tf.data.Dataset.range(6).batch(2)
    >>> is_part(batches), is_part(as_part(batches))
    (False, True)
    """
    return getattr(dataset, _MARK, False)
