"""The sources of an epoch's batches: rows with ids or texts in memory, or a dataset that is read again."""

import collections
import copy

import tensorflow as tf

from tfxfer import _check, _random
from tfxfer.data._graph import as_it_is

# Rows per call of the tokenizer: enough to be efficient, few enough to use several cores.
CHUNK = 4096
# Rows that are augmented and tokenized per call; the first batch waits for them.
BLOCK = 1024

# ids: tuple of ragged int32, one per text; rest: tuple of targets and weights; lengths: int array, the lengths for the
# padding; sequences: int array, the number of sequences of each row, or `None` if it is one.
Tokenized = collections.namedtuple("Tokenized", ["ids", "rest", "lengths", "sequences"], defaults=[None])


class Kept:
    """Rows with their ids in memory; each epoch gathers its batches from them in the planned order."""

    _rows: tuple

    def __init__(self, dataset, packer, order):
        self.seed = order.seed
        self._packer, self._order = packer, order
        if isinstance(dataset, Kept):
            rows = dataset._rows
            lengths = packer.lengths(rows[0]).numpy()
        else:
            rows, lengths = _tokenized(dataset, packer)
        self._rows = rows
        found = Tokenized(packer.token_ids(rows[0]), rows[1], lengths, packer.sequences(rows[0]))
        self.steps, self._plan = order.prepare(found)

    @property
    def texts(self):
        """The number of texts in a row."""
        return len(self._packer.token_ids(self._rows[0]))

    @property
    def packer(self):
        """The `Packer` that encoded the rows."""
        return self._packer

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch (an int64 tensor, from 0) after the first `skip`: a `tf.data.Dataset`."""
        order, ends = tf.numpy_function(self._plan, [epoch], (tf.int64, tf.int64))
        return _cut(order, ends, lambda rows: self._batch(rows, epoch), skip)

    def _batch(self, rows, epoch):
        kept, rest = tf.nest.map_structure(lambda values: tf.gather(values, rows), self._rows)
        return self._packer.pack(kept, rest, _seeds(self._packer, self.seed, epoch, rows))


def _seeds(packer, seed, epoch, rows):
    """Seeds for the rows of a batch, if a column draws; otherwise `None`."""
    return None if packer.draws is None else _random.row_seeds(seed, epoch, rows)


def _tokenized(dataset, packer):
    """Returns ((cached values, targets and weights) of all rows, lengths for the padding)."""
    kept, lengths, rest = _in_memory(dataset, packer.tokenize, packer)
    return (kept, rest), lengths.numpy()


def _batched(dataset, size, packer):
    """Batches rows; lists of different lengths, which a map turns into plain tensors, become ragged again."""
    return dataset.ragged_batch(size) if packer.has_lists else dataset.batch(size)


def _in_memory(dataset, function, packer):
    """Applies a function to all rows, in batches."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise _check.invalid("cache", "False for an infinite dataset", True)
    made = _batched(dataset, CHUNK, packer).map(
        as_it_is(function), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    parts = list(made)
    if not parts:
        raise _check.invalid("dataset", "at least one row", dataset)
    with tf.device("CPU:0"):
        return tf.nest.map_structure(lambda *part: tf.concat(part, axis=0), *parts)


class Varied:
    """Rows in memory whose texts change in each epoch: batches are augmented and tokenized as they are made.

    The order is planned for the unchanged rows.

    Args:
        dataset: `tf.data.Dataset` of rows.
        packer: `Packer`.
        order: the object that plans the epochs.
        augmenter: `Augmenter`.
    """

    def __init__(self, dataset, packer, order, augmenter):
        self.seed = order.seed
        self.augmenter = augmenter
        self._packer, self._order = packer, order

        def read(*row):
            kept, lengths, rest = packer.tokenize(*row)
            counts = packer.sequences(kept)
            counts = () if counts is None else (counts,)
            return packer.token_ids(kept), rest, lengths, counts, row[0], augmenter.split(row[0])

        ids, rest, lengths, counts, x, self._split = _in_memory(dataset, read, packer)
        self._rows = (x, rest)
        self.steps, self._plan = order.prepare(Tokenized(ids, rest, lengths.numpy(), *(counts or (None,))))
        self._per_block = max(BLOCK // order.batch_size, 1)

    def plain(self):
        """Returns the same source without augmentation."""
        made = copy.copy(self)
        made.augmenter, made._split = None, self._rows[0]
        return made

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch (an int64 tensor, from 0) after the first `skip`: a `tf.data.Dataset`."""
        return self.made(self.planned(epoch, skip))

    def planned(self, epoch, skip=0):
        """Returns the input of `made` for an epoch: row indices, ends of batches, number of the epoch."""
        order, ends = tf.numpy_function(self._plan, [epoch], (tf.int64, tf.int64))
        order.set_shape((None,))
        ends.set_shape((None,))
        starts = tf.concat([[0], ends], axis=0)[:-1]
        blocks = tf.data.Dataset.from_tensor_slices((starts, ends)).skip(skip).batch(self._per_block)
        return blocks.map(as_it_is(lambda starts, ends: (order[starts[0] : ends[-1]], ends - starts[0], epoch)))

    def made(self, blocks):
        """Returns the batches of blocks, from one epoch or several.

        The augmentation function is large, and TensorFlow prepares it whenever an iterator is created, which takes
        twice as long inside the function of another dataset: so it is here, and not in the function of the epochs.
        """

        @as_it_is
        def encode(rows, ends, epoch):
            def taken(values):
                return tf.nest.map_structure(lambda values: tf.gather(values, rows), values)

            x, rest = taken(self._split), taken(self._rows[1])
            if self.augmenter is not None:
                x, rest = self.augmenter(x, rest, rows, epoch)
            seeds = _seeds(self._packer, self.seed, epoch, rows)
            return self._packer.encode(x), rest, () if seeds is None else (seeds,), ends

        @as_it_is
        def cut(kept, rest, seeds, ends):
            def batch(rows):
                found = tf.nest.map_structure(lambda values: tf.gather(values, rows), (kept, rest, seeds))
                return self._packer.pack(*found[:2], *found[2])

            return _cut(tf.range(ends[-1]), ends, batch, 0)

        return blocks.map(encode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).flat_map(cut)


class Streamed:
    """Rows that are read from a dataset again in each epoch, window by window, optionally augmented.

    Every window but the last is full, and makes as many batches as the order plans, so an epoch can start in the
    middle.
    """

    def __init__(self, dataset, packer, order, augmenter=None):
        self.seed = order.seed
        self.augmenter = augmenter
        self._order = order
        self._dataset = dataset
        self._packer = packer
        rows = int(dataset.cardinality())
        self._count = rows if rows >= 0 else None
        self.steps = order.steps(rows) if rows >= 0 else None
        if rows == 0 or self.steps == 0:
            raise _check.invalid("dataset", "rows for at least one batch", dataset)

    def has_multiples_of(self, number):
        """Whether every batch has a multiple of `number` rows."""
        size, rest = self._order.batch_size, 1 if self._count is None else self._count % self._order.batch_size
        return not size % number and (self._order.drop_remainder or not rest % number)

    def plain(self):
        """Returns the same source without augmentation."""
        return Streamed(self._dataset, self._packer, self._order)

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch (an int64 tensor, from 0) after the first `skip`: a `tf.data.Dataset`."""
        size = self._order.window * self._order.batch_size
        rows = self._dataset
        if self.augmenter is not None:
            rows = rows.map(as_it_is(lambda *row: row)).enumerate()
        if self._order.shuffle:
            seed = tf.numpy_function(self._order.shuffle_seed, [epoch], tf.int64)
            rows = _shuffled(rows, size, seed)

        @as_it_is
        def tokenize(*row):
            if self.augmenter is not None:
                numbers, (x, *rest) = row
                x, rest = self.augmenter(self.augmenter.split(x), tuple(rest), numbers, epoch)
                row = (x, *rest)
            return self._packer.tokenize(*row)

        # Whole windows are skipped as rows, which are read but not tokenized.
        skip = tf.cast(skip, tf.int64)
        before = skip // self._order.window
        rows = rows.skip(before * size)
        windows = _batched(rows, size, self._packer).map(
            tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

        @as_it_is
        def cut(number, window):
            kept, lengths, rest = window
            order, ends = tf.numpy_function(self._order.plan, [lengths, epoch, number], (tf.int64, tf.int64))

            def batch(rows):
                parts = tf.nest.map_structure(lambda values: tf.gather(values, rows), (kept, rest))
                return self._packer.pack(*parts, _seeds(self._packer, self.seed, epoch, number * size + rows))

            return _cut(order, ends, batch, 0)

        return windows.enumerate(before).flat_map(cut).skip(skip % self._order.window)


def _shuffled(dataset, size, seed):
    """`dataset.shuffle(size, seed)` for a seed in the graph.

    `Dataset.shuffle` mixes in TensorFlow's global seed, and fails for a tensor if that seed is 0.
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
    """The dataset of `batch(rows)`, with `order` cut into rows at `ends`."""
    order.set_shape((None,))
    ends.set_shape((None,))
    starts = tf.concat([[0], ends], axis=0)[:-1]
    cuts = tf.data.Dataset.from_tensor_slices((starts, ends)).skip(skip)
    batch_of = as_it_is(lambda start, end: batch(order[start:end]))
    return cuts.map(batch_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
