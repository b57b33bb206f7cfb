"""Epochs that resume in the middle, and hashes of the rows of batches."""

import hashlib

import numpy as np
import tensorflow as tf

from tfxfer.data._graph import as_it_is


class Remainder:
    """Batches whose next epoch may resume in the middle, without computing the skipped batches.

    Each skipped batch is replaced by the first one that is not skipped, so that counts of batches stay correct; the
    consumer must ignore the replacements.

    Args:
        batches: `Batches`.
        epoch: int. The number of the epoch to resume.
        batch: int. The number of its batches to skip.

    Attributes:
        dataset: `tf.data.Dataset`. Yields the resumed epoch in its first iteration after `arm`, and otherwise the
            epochs of `batches`.
    """

    def __init__(self, batches, epoch, batch):
        self._batches, self._epoch = batches, epoch
        self._is_armed = False
        rest = batches.rest(epoch, batch)
        first = rest.take(1).cache().repeat(batch).concatenate(rest)

        @as_it_is
        def choose(_):
            counts = tf.ensure_shape(tf.numpy_function(self._counts, [], tf.int64), (2,))
            return first.take(counts[0]).concatenate(batches.take(counts[1]))

        dataset = tf.data.Dataset.from_tensors(0).flat_map(choose)
        steps = int(batches.cardinality())
        if steps >= 0:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
        self.dataset = dataset  # both parts are prefetched

    def arm(self):
        """Makes the next iteration yield the resumed epoch."""
        self._is_armed = True

    def _counts(self):
        if not self._is_armed:
            return np.array([0, -1], "int64")
        self._is_armed = False
        if not self._batches.is_held:
            self._batches.epoch = self._epoch + 1
        return np.array([-1, 0], "int64")


def digest(batches):
    """Returns a hexadecimal hash of the rows of `Batches` with cached ids, including targets and weights.

    Args:
        batches: `Batches`, or anything else.

    Returns:
        A string; `None` if not all rows are cached.
    """
    source = getattr(batches, "_source", None)
    sources = getattr(source, "_sources", [source])
    rows = [getattr(each, "_rows", None) for each in sources]
    if any(each is None for each in rows):
        return None
    made = hashlib.blake2b(digest_size=16)
    for values in tf.nest.flatten(rows, expand_composites=True):
        array = np.asarray(values)
        made.update(f"{array.dtype}{array.shape}".encode())
        if array.dtype == object:
            for value in array.ravel():
                value = value if isinstance(value, bytes) else repr(value).encode()
                made.update(len(value).to_bytes(8, "little") + value)
        else:
            made.update(np.ascontiguousarray(array).view("uint8").data if array.size else b"")
    return made.hexdigest()
