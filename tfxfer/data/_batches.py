"""Batches of token ids, in an order that a seed fixes."""

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._datasets import Texts
from tfxfer.data._order import plan

# Rows tokenised in one call: large enough for the tokenizer's pace, small enough that the parts go to several cores.
_CHUNK = 4096
_EXPECTED = (
    "a dataset of rows x, (x, y) or (x, y, sample_weight), x being a string scalar or a tuple of them; "
    "or arrays of the same form"
)


def batches(
    dataset,
    preprocessor,
    batch_size=32,
    *,
    columns="joint",
    shuffle=True,
    bucket=None,
    seed=None,
    window=50,
    drop_remainder=False,
    pad_to_multiple_of=1,
    cache=None,
    prefetch=True,
):
    """Makes batches of token ids out of texts, each padded to its own longest row and no further.

    In an epoch every row comes exactly once, whatever the seed.

    **Buckets.** With `bucket=True` rows of like length come together: the rows are permuted, sorted by length within
    windows of `window` batches, cut into batches, and the batches of a window permuted. A batch then has
    about 1.03 to 1.15 places per real token, against 1.9 to 2.9 for rows in random order (more where separate columns
    are unlike in length, for they share one). It is the default for one sequence a row. It is not for separate columns: their losses
    compare the rows of a batch with one another, and a batch of rows alike in length is a poorer sample of the data; it
    would gain little there, for on the TensorFlow backend the encoders leave padding out of all but the attention. Pass
    `bucket=True` where padding is computed in full: other backends, and GPT-2.

    **Order.** The order of epoch e is a function of the data, the arguments, `seed` and e alone: the same seed gives
    the same epochs 0, 1, 2, ..., each another order. `Batches.epoch` is the number of the next one and can be set;
    `Batches.rest(epoch, batch)` gives an epoch from its middle on. So a run that stopped can be taken up at the row
    where it was.

    **Memory.** Rows in memory (a `Texts` as it is, or arrays) are tokenised here and now, and their ids kept: 4 bytes a
    token, before truncation, and 8 a text; epochs then only pack. Any other dataset (one that is mapped with a random
    augmentation, say) is run and tokenised anew each epoch, one window in memory at a time, and its rows are permuted
    only as far as a buffer of one window goes; `cache` decides otherwise.

    Args:
        dataset: what `labelled`, `regression`, `pairs` or `triplets` made, any `tf.data.Dataset` of single rows x,
            (x, y) or (x, y, sample_weight), or arrays in such a form, e.g. `(texts, y)` or `((a_texts, b_texts), y)`;
            x is a string, or a tuple of strings.
        preprocessor: `preprocessing.TextPreprocessor`.
        batch_size: int. Rows in a batch.
        columns: what several texts a row become: `"joint"`, one sequence for a pair, as cross-encoders want it; or
            `"separate"`, a sequence each, as Siamese towers want them.
        shuffle: bool. `False` keeps the order of the rows, as comparing predictions with rows needs it.
        bucket: bool. Whether rows of like length come together. By default as `shuffle` for `columns="joint"`, and
            `False` for `columns="separate"`. With `shuffle=False`, `bucket=True` sorts all rows, longest first: the
            quickest way to evaluate, where order does not matter.
        seed: int >= 0. By default one is drawn from numpy's global generator, which `keras.utils.set_random_seed`
            seeds.
        window: int. Batches in a window: more means less padding, fewer means batches more mixed in length.
        drop_remainder: bool. Whether to leave out the last batch if it is smaller; the rows in it are other ones each
            epoch.
        pad_to_multiple_of: int from 1 to 8. What the length of a batch is rounded up to (up to the preprocessor's
            `sequence_length`). More than 1 only pays where each shape is compiled on its own (XLA).
        cache: bool. Whether to tokenise once and keep the ids. By default for rows in memory only.
        prefetch: bool. Whether batches are made while the model is at work.

    Returns:
        `Batches`, a `tf.data.Dataset` of x, (x, y) or (x, y, sample_weight) with
        x = `{"token_ids", "padding_mask"[, "segment_ids"]}`, int32 `(batch, length)`, or `(batch, columns, length)`
        with one length for all columns where they are separate. The static shape of batch and length is `None`, so
        that nothing is traced anew. Its cardinality is known where that of `dataset` is.

    Raises:
        ValueError: for an argument out of range, rows of another form, no rows, or three or more texts a row with
            `columns="joint"`.

    Example:

    ```python
    train = tx.data.labelled(tx.data.read("train.tsv"), "text", "label", labels=classifier.labels)
    classifier.fit(tx.data.batches(train, classifier.preprocessor, batch_size=32, seed=0), epochs=3)
    ```
    """
    _check.integer("batch_size", batch_size)
    _check.integer("window", window)
    _check.one_of("columns", columns, ("joint", "separate"))
    _check.integer("seed", seed, minimum=0, optional=True)
    if _check.integer("pad_to_multiple_of", pad_to_multiple_of) > 8:
        raise _check.invalid("pad_to_multiple_of", "an int from 1 to 8", pad_to_multiple_of)
    in_memory = isinstance(dataset, Texts) or not isinstance(dataset, tf.data.Dataset)
    dataset = dataset if isinstance(dataset, tf.data.Dataset) else _from_arrays(dataset)
    packer = _Packer(preprocessor, _count_columns(dataset.element_spec), columns, pad_to_multiple_of)
    order = _Order(
        batch_size=int(batch_size),
        window=int(window),
        seed=int(np.random.randint(2**31) if seed is None else seed),
        shuffle=bool(shuffle),
        bucket=bool(shuffle and columns == "joint" if bucket is None else bucket),
        drop_remainder=bool(drop_remainder),
    )
    kind = _Kept if (in_memory if cache is None else cache) else _Streamed
    return Batches(kind(dataset, packer, order), prefetch)


class Batches(tf.data.Dataset):
    """The `tf.data.Dataset` that `batches` makes: each time that it is iterated over, it gives the next epoch.

    An epoch counts as begun when its first batch is asked for; looking at one batch, `next(iter(train))`, uses up an
    epoch number, and so does each batch that a `tf.distribute` strategy reads ahead of an epoch that never comes.
    Where the order must be exactly that of another run, set `epoch` before `fit`.

    Attributes:
        epoch: int. The number of the epoch that the next iteration gives, from 0.
        seed: int. The seed in use.
    """

    def __init__(self, source, prefetch=True):
        self._source = source
        self._prefetch = prefetch
        self._counter = _Counter()
        epochs = tf.data.Dataset.from_tensors(0).map(self._counter.next).flat_map(source.epoch)
        self._batches = self._finished(epochs, source.steps)
        super().__init__(self._batches._variant_tensor)

    def rest(self, epoch, batch=0):
        """Gives one epoch, from one of its batches on; `epoch` (the attribute) stays as it is.

        Args:
            epoch: int. The number of the epoch, from 0.
            batch: int. How many of its batches are left out.

        Returns:
            A `tf.data.Dataset`, which gives the same batches each time.

        Raises:
            ValueError: if a number is negative, or the epoch has not more than `batch` batches.
        """
        _check.integer("epoch", epoch, minimum=0)
        _check.integer("batch", batch, minimum=0)
        steps = self._source.steps
        if steps is not None and batch >= steps:
            raise _check.invalid("batch", f"an int < {steps}, the number of batches in an epoch", batch)
        left = self._source.epoch(tf.constant(epoch, tf.int64), skip=int(batch))
        return self._finished(left, None if steps is None else steps - int(batch))

    def _finished(self, dataset, steps):
        if steps is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
        return dataset.prefetch(tf.data.AUTOTUNE) if self._prefetch else dataset

    @property
    def epoch(self):
        """The number of the epoch that the next iteration gives."""
        return self._counter.value

    @epoch.setter
    def epoch(self, value):
        self._counter.value = _check.integer("epoch", value, minimum=0)

    @property
    def seed(self):
        """The seed in use."""
        return self._source.order.seed

    def _inputs(self):
        return [self._batches]

    @property
    def element_spec(self):
        return self._batches.element_spec


class _Counter:
    """Numbers the epochs. It lives in Python and not in the graph, so that it can be set between two of them."""

    def __init__(self):
        self.value = 0

    def next(self, _):
        epoch = tf.numpy_function(self._count, [], tf.int64)
        epoch.set_shape(())
        return epoch

    def _count(self):
        self.value += 1
        return np.int64(self.value - 1)


class _Order:
    """The arguments of `batches` that decide the order, and the plan that follows from them."""

    def __init__(self, *, batch_size, window, seed, shuffle, bucket, drop_remainder):
        self.batch_size = batch_size
        self.window = window
        self.seed = seed
        self.shuffle = shuffle
        self.bucket = bucket
        self.drop_remainder = drop_remainder

    def steps(self, rows):
        """The number of batches that so many rows make."""
        return rows // self.batch_size if self.drop_remainder else -(-rows // self.batch_size)

    def plan(self, lengths, *numbers):
        """(order, ends) of `_order.plan`, the randomness drawn from the seed and the numbers (epoch, window)."""
        rng = np.random.default_rng([self.seed, *map(int, numbers)]) if self.shuffle else None
        return plan(lengths, self.batch_size, self.window, rng, bucket=self.bucket, drop_remainder=self.drop_remainder)

    def shuffle_seed(self, epoch):
        """A seed for tf.data's own shuffling."""
        return np.random.SeedSequence([self.seed, int(epoch)]).generate_state(1, "uint64").astype("int64")[0]


class _Packer:
    """Texts to ids, and ids to batches."""

    def __init__(self, preprocessor, count, columns, multiple):
        if columns == "joint" and count > 2:
            remedy = 'Pass `columns="separate"` for towers, or make pairs.'
            raise _check.invalid("columns", f'"separate" for rows of {count} texts', columns, remedy)
        self.preprocessor = preprocessor
        self.count = count
        self.separate = columns == "separate"
        self.multiple = multiple

    def tokenize(self, *row):
        """Rows, batched -> (ids, one ragged tensor a column; lengths that decide the padding; what is not text)."""
        texts = row[0] if isinstance(row[0], tuple) else (row[0],)
        ids = tuple(self.preprocessor.tokenizer(text) for text in texts)
        lengths = self.preprocessor.lengths
        if self.separate:
            longest = tf.reduce_max(tf.stack([lengths(column) for column in ids]), axis=0)
        else:
            longest = lengths(ids if self.count > 1 else ids[0])
        return ids, longest, row[1:]

    def pack(self, ids, rest):
        """Ids of the rows of one batch, and what is not text -> the batch."""
        if self.separate:
            packed = self.preprocessor.pack(tf.concat(ids, axis=0))
        else:
            packed = self.preprocessor.pack(ids if self.count > 1 else ids[0])
        packed = {key: self._shaped(value) for key, value in round_up(packed, self.multiple, self.preprocessor).items()}
        return (packed, *rest) if rest else packed

    def _shaped(self, value):
        if self.separate:
            value = tf.reshape(value, (self.count, -1, tf.shape(value)[1]))
            return tf.ensure_shape(tf.transpose(value, (1, 0, 2)), (None, self.count, None))
        return tf.ensure_shape(value, (None, None))


class _Kept:
    """Rows whose ids are in memory: an epoch is a permutation of all of them."""

    def __init__(self, dataset, packer, order):
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise _check.invalid("cache", "False for a dataset without end", True)
        self.order = order
        self._packer = packer
        tokenized = dataset.batch(_CHUNK).map(packer.tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        parts = list(tokenized)
        if not parts:
            raise _check.invalid("dataset", "at least one row", dataset)
        with tf.device("CPU:0"):
            self._rows = tf.nest.map_structure(lambda *part: tf.concat(part, axis=0), *((p[0], p[2]) for p in parts))
        self.lengths = np.concatenate([part[1].numpy() for part in parts])
        self.steps = order.steps(len(self.lengths))
        if not self.steps:
            remedy = "Make the batches smaller, or keep the small one: `drop_remainder=False`."
            raise _check.invalid("batch_size", f"at most {len(self.lengths)}, the rows", order.batch_size, remedy)

    def epoch(self, epoch, skip=0):
        order, ends = tf.numpy_function(self._plan, [epoch], (tf.int64, tf.int64))
        return _cut(order, ends, self._batch, skip)

    def _plan(self, epoch):
        return self.order.plan(self.lengths, epoch)

    def _batch(self, rows):
        ids, rest = tf.nest.map_structure(lambda values: tf.gather(values, rows), self._rows)
        return self._packer.pack(ids, rest)


class _Streamed:
    """Rows that come from a dataset anew each epoch, one window after another."""

    def __init__(self, dataset, packer, order):
        self.order = order
        self._dataset = dataset
        self._packer = packer
        rows = int(dataset.cardinality())
        self.steps = order.steps(rows) if rows >= 0 else None
        if rows == 0 or self.steps == 0:
            raise _check.invalid("dataset", "rows for at least one batch", dataset)

    def epoch(self, epoch, skip=0):
        size = self.order.window * self.order.batch_size
        rows = self._dataset
        if self.order.shuffle:
            seed = tf.numpy_function(self.order.shuffle_seed, [epoch], tf.int64)
            rows = _shuffled(rows, size, seed)
        windows = rows.batch(size).map(self._packer.tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        def cut(number, window):
            ids, lengths, rest = window
            order, ends = tf.numpy_function(self.order.plan, [lengths, epoch, number], (tf.int64, tf.int64))

            def batch(rows):
                return self._packer.pack(*tf.nest.map_structure(lambda values: tf.gather(values, rows), (ids, rest)))

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
    return cuts.map(lambda start, end: batch(order[start:end]), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def round_up(packed, multiple, preprocessor):
    """Pads packed rows `(batch, length)` until the length is a multiple, or the preprocessor's `sequence_length`."""
    if multiple == 1:
        return packed
    length = tf.shape(packed["token_ids"])[1]
    wanted = -(-length // multiple) * multiple
    missing = tf.maximum(tf.minimum(wanted, preprocessor.sequence_length) - length, 0)
    sides = [[0, 0], [missing, 0] if preprocessor.padding_side == "left" else [0, missing]]
    pad_id = preprocessor.tokenizer.pad_token_id or 0
    return {
        key: tf.pad(value, sides, constant_values=pad_id if key == "token_ids" else 0) for key, value in packed.items()
    }


def _from_arrays(arrays):
    """Arrays as a dataset of rows."""
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    if not 0 < len(arrays) <= 3:
        raise _check.invalid("dataset", _EXPECTED, arrays)
    columns = tuple(map(_strings, arrays[0] if isinstance(arrays[0], tuple) else (arrays[0],)))
    rest = [np.asarray(values) for values in arrays[1:]]
    rest = [tf.constant(values.tolist()) if values.dtype == object else values for values in rest]
    lengths = [len(values) if values.shape else 0 for values in (*columns, *rest)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise _check.invalid("dataset", "arrays of one length, with at least one row", lengths)
    x = columns if isinstance(arrays[0], tuple) else columns[0]
    return tf.data.Dataset.from_tensor_slices((x, *rest) if rest else (x,))


def _strings(column):
    """A column of texts as a tensor."""
    values = column
    if hasattr(column, "__array__"):  # numpy, pandas, tensors
        values = np.asarray(column)
        values = values.tolist() if values.ndim == 1 else None
    if not isinstance(values, (list, tuple)):
        raise _check.invalid("dataset", _EXPECTED, column)
    for row, value in enumerate(values):
        if not isinstance(value, (str, bytes)):
            remedy = f"It stands in row {row} (counting from 0); fill in missing texts or leave the row out."
            raise _check.invalid("dataset", "texts that are strings", value, remedy)
    return tf.constant(values, tf.string, shape=(len(values),))


def _count_columns(spec):
    """How many texts a row has; raises where the rows are of another form."""
    x = spec[0] if isinstance(spec, tuple) and 0 < len(spec) <= 3 else spec
    columns = x if isinstance(x, tuple) else (x,)
    if not columns or not all(isinstance(each, tf.TensorSpec) and each.dtype == tf.string for each in columns):
        raise _check.invalid("dataset", _EXPECTED, spec)
    if any(each.shape.rank != 0 for each in columns):
        raise _check.invalid("dataset", _EXPECTED, spec, "If the rows are in batches already: `dataset.unbatch()`.")
    return len(columns)
