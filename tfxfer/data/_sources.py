"""Where the batches of an epoch come from: rows whose ids are in memory, or a dataset that is run anew."""

import collections

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data import _random
from tfxfer.data._graph import as_it_is

# Rows tokenised in one call: large enough for the tokenizer's pace, small enough that the parts go to several cores.
CHUNK = 4096

# ids: tuple of ragged int32, one a text; rest: tuple of what is not input; lengths: int array, what padding goes by.
Tokenized = collections.namedtuple("Tokenized", ["ids", "rest", "lengths"])


class Kept:
    """Rows whose ids are in memory: an epoch is cut out of all of them, as the order plans it."""

    _rows: tuple

    def __init__(self, dataset, packer, order):
        self.seed = order.seed
        self._packer = packer
        if isinstance(dataset, Kept):
            rows = dataset._rows
            lengths = packer.lengths(rows[0]).numpy()
        else:
            rows, lengths = _tokenized(dataset, packer)
        self._rows = rows
        self.steps, self._plan = order.prepare(Tokenized(packer.token_ids(rows[0]), rows[1], lengths))

    @property
    def texts(self):
        """How many texts a row has."""
        return len(self._packer.token_ids(self._rows[0]))

    @property
    def packer(self):
        """What encoded the rows."""
        return self._packer

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch (an int64 tensor, from 0) but for the first `skip`: a `tf.data.Dataset`."""
        order, ends = tf.numpy_function(self._plan, [epoch], (tf.int64, tf.int64))
        return _cut(order, ends, lambda rows: self._batch(rows, epoch), skip)

    def _batch(self, rows, epoch):
        kept, rest = tf.nest.map_structure(lambda values: tf.gather(values, rows), self._rows)
        return self._packer.pack(kept, rest, _seeds(self._packer, self.seed, epoch, rows))


def _seeds(packer, seed, epoch, rows):
    """Seeds for the rows of a batch, where a column draws; `None` elsewhere."""
    return None if packer.draws is None else _random.row_seeds(seed, epoch, rows)


def _tokenized(dataset, packer):
    """((what is kept, what is not input) of all rows, lengths that decide the padding)."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise _check.invalid("cache", "False for a dataset without end", True)
    tokenize = as_it_is(packer.tokenize)
    tokenized = dataset.batch(CHUNK).map(tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    parts = list(tokenized)
    if not parts:
        raise _check.invalid("dataset", "at least one row", dataset)
    with tf.device("CPU:0"):
        rows = tf.nest.map_structure(lambda *part: tf.concat(part, axis=0), *((p[0], p[2]) for p in parts))
    return rows, np.concatenate([part[1].numpy() for part in parts])


class Streamed:
    """Rows that come from a dataset anew each epoch, one window after another."""

    def __init__(self, dataset, packer, order):
        self.seed = order.seed
        self._order = order
        self._dataset = dataset
        self._packer = packer
        rows = int(dataset.cardinality())
        self.steps = order.steps(rows) if rows >= 0 else None
        if rows == 0 or self.steps == 0:
            raise _check.invalid("dataset", "rows for at least one batch", dataset)

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch (an int64 tensor, from 0) but for the first `skip`: a `tf.data.Dataset`."""
        size = self._order.window * self._order.batch_size
        rows = self._dataset
        if self._order.shuffle:
            seed = tf.numpy_function(self._order.shuffle_seed, [epoch], tf.int64)
            rows = _shuffled(rows, size, seed)
        tokenize = as_it_is(self._packer.tokenize)
        windows = rows.batch(size).map(tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        @as_it_is
        def cut(number, window):
            kept, lengths, rest = window
            order, ends = tf.numpy_function(self._order.plan, [lengths, epoch, number], (tf.int64, tf.int64))

            def batch(rows):
                parts = tf.nest.map_structure(lambda values: tf.gather(values, rows), (kept, rest))
                return self._packer.pack(*parts, _seeds(self._packer, self.seed, epoch, number * size + rows))

            return _cut(order, ends, batch, 0)

        return windows.enumerate().flat_map(cut).skip(skip)


def _shuffled(dataset, size, seed):
    """`dataset.shuffle(size, seed)` for a seed in the graph.

    `Dataset.shuffle` mixes TensorFlow's global seed in, and fails on a tensor where that seed is 0.
    """
    shuffled = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=size,
        seed=tf.reshape(seed, ()),
        seed2=1,
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        output_types=[tensor.dtype for tensor in tf.nest.flatten(dataset.element_spec)],
        output_shapes=[tensor.shape for tensor in tf.nest.flatten(dataset.element_spec)],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, dataset.element_spec)


def _cut(order, ends, batch, skip):
    """The dataset of `batch(rows)`, the rows being cut out of `order` at `ends`."""
    order.set_shape((None,))
    ends.set_shape((None,))
    starts = tf.concat([[0], ends], axis=0)[:-1]
    cuts = tf.data.Dataset.from_tensor_slices((starts, ends)).skip(skip)
    batch_of = as_it_is(lambda start, end: batch(order[start:end]))
    return cuts.map(batch_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
