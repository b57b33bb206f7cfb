"""Batches of cached features instead of token ids: the same rows in the same order, without the frozen layers."""

import copy
import hashlib
import weakref

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._batches import Batches
from tfxfer.data._columns import Column
from tfxfer.data._mix import Mixed
from tfxfer.data._sources import CHUNK, Kept, _cut

# Positions per call of a model: enough for efficient matrix products, few enough to stay in the cache.
_PLACES = 2048
_ROWS = 64


class Sequences:
    """The distinct sequences of ids in the rows of batches, as the model reads them, longest first.

    Their order depends only on the sequences, not on the rows, their number or their order.

    Args:
        batches: `Batches` of ids.

    Attributes:
        lengths: int64 array `(sequences,)`: the number of real tokens of each.
        numbers: list with an int64 array for each source of the batches: the sequence of each row, `(rows,)` or
            `(rows, columns)`.
        separate: bool. Whether the columns of a row are separate sequences.

    Raises:
        ValueError: if the ids of the batches are not kept, or they are not batches of ids.
    """

    def __init__(self, batches):
        sources = kept_sources(batches)
        self.separate = sources[0].packer.text()[1].separate
        found, numbers = {}, []
        for source in sources:
            rows, self._keys = _sequences(source)
            numbers.append(np.array([found.setdefault(row, len(found)) for row in rows], "int64"))
        order = sorted(found, key=lambda row: (-len(row), row))
        places = np.empty(len(order), "int64")
        places[[found[row] for row in order]] = np.arange(len(order))
        self._ids = np.frombuffer(b"".join(order), "int32")
        self.lengths = np.array([len(row) for row in order], "int64") // (4 * len(self._keys))
        counts = [source.texts if self.separate else 1 for source in sources]
        self.numbers = [
            places[part].reshape((-1, count) if self.separate else (-1,))
            for part, count in zip(numbers, counts, strict=True)
        ]

    @property
    def tokens(self):
        """The total number of real tokens."""
        return int(self.lengths.sum())

    def digest(self):
        """Returns a hash of the sequences, bytes."""
        made = hashlib.blake2b(repr(self._keys).encode())
        made.update(self.lengths.tobytes())
        made.update(self._ids.tobytes())
        return made.digest()

    def batches(self):
        """Yields the sequences in order, as dicts of int32 arrays `(sequences, length)` padded on the right."""
        is_dynamic = keras.config.backend() == "tensorflow"
        starts = np.cumsum(self.lengths) - self.lengths
        start = 0
        while start < len(self.lengths):
            # Other backends compile each shape, so there should be few.
            length = max(int(self.lengths[start]), 1)
            if not is_dynamic:
                length = max(min(-(-length // 8) * 8, int(self.lengths[0])), 1)
            size = max(_PLACES // length, 1) if is_dynamic else _ROWS
            lengths = self.lengths[start : start + size]
            filled = np.pad(lengths, (0, 0 if is_dynamic else size - len(lengths)))
            mask = np.arange(length) < filled[:, np.newaxis]
            first, end = len(self._keys) * starts[start], len(self._keys) * (starts[start] + lengths.sum())
            values = self._ids[first:end].reshape(-1, len(self._keys))
            made = {"padding_mask": mask.astype("int32")}
            for i, key in enumerate(self._keys):
                made[key] = np.zeros(mask.shape, "int32")
                made[key][mask] = values[:, i]
            yield made
            start += size


class Inputs:
    """One input of the model for all rows of batches, in the order in which the rows are kept.

    Args:
        batches: `Batches` of ids.
        name: string. The name of the column and of the input.

    Attributes:
        counts: list of int: the number of rows of each source of the batches.
    """

    def __init__(self, batches, name):
        self._name = name
        self._parts = [(source.packer.columns[name], source._rows[0][name]) for source in kept_sources(batches)]
        self.counts = [_count(kept) for _, kept in self._parts]

    def batches(self):
        """Yields the values of the rows, as arrays of a few rows each."""
        for (column, kept), count in zip(self._parts, self.counts, strict=True):
            for start in range(0, count, _ROWS):
                part = tf.nest.map_structure(lambda values, start=start: values[start : start + _ROWS], kept)
                yield np.asarray(column.batch(part, self._name)[self._name])

    def digest(self):
        """Returns a hash of the values, bytes; files are read for it."""
        made = hashlib.blake2b(repr(self.counts).encode())
        for values in self.batches():
            made.update(f"{values.shape}{values.dtype}".encode())
            made.update(np.ascontiguousarray(values).view("uint8").data)
        return made.digest()


def kept_sources(batches):
    """Returns the sources of batches of ids, several for a mix; raises if one does not keep its ids."""
    if not isinstance(batches, Batches):
        raise _check.invalid("batches", "`data.Batches`, as `data.batches` makes them", batches)
    source = batches._source
    sources = source._sources if isinstance(source, Mixed) else [source]
    for each in sources:
        if getattr(each, "augmenter", None) is not None:
            remedy = "Omit `augment`, or train the whole model: texts that change each epoch have no fixed features."
            raise _check.invalid("batches", "batches without augmentation", each.augmenter.identity, remedy)
        if not isinstance(each, Kept):
            remedy = (
                "Make them with `data.batches(..., cache=True)`: rows that change each epoch have no fixed features."
            )
            raise _check.invalid("batches", "batches of rows whose ids are kept", batches, remedy)
        if not each.packer.is_current:
            expected = "batches made with the preprocessor as it is now"
            raise _check.invalid("batches", expected, batches, "Its settings have changed: make the batches again.")
    return sources


def with_features(batches, sequences, features, fixed, encode=None):
    """Returns batches of cached features, with the rows, targets, order and epoch counter of `batches`.

    Args:
        batches: `Batches` of ids.
        sequences: their `Sequences`.
        features: `Tokens` or `Vectors` of these.
        fixed: dict of the name of another input to `Vectors` of its `Inputs`.
        encode: function from the targets of a batch to the targets of the loss.

    Returns:
        `Batches`.
    """
    source = batches._source
    made, first = [], 0
    for each, numbers in zip(kept_sources(batches), sequences.numbers, strict=True):
        made.append(_Featured(each, numbers, features, fixed, first, encode))
        first += made[-1].rows
    return Batches(_replaced(source, made), batches._prefetch, batches._counter, batches.targets)


def _replaced(source, made):
    if not isinstance(source, Mixed):
        return made[0]
    mixed = copy.copy(source)
    mixed._sources = made
    return mixed


class _Featured:
    """The rows of a `Kept` source, given by the indices of their sequences; `first` is the number of its first row."""

    def __init__(self, kept, numbers, features, fixed, first, encode):
        self.seed, self.steps, self._plan = kept.seed, kept.steps, kept._plan
        self._packer, self._rest = kept.packer, kept._rows[1]
        name, text = self._packer.text()
        self._others = {
            other: values for other, values in kept._rows[0].items() if other != name and other not in fixed
        }
        self._text = (name, text, kept._rows[0][name])
        self._fixed, self._first, self.rows = fixed, first, _count(kept._rows[0][name])
        self._numbers = tf.constant(numbers)
        counts = self._packer.sequences(kept._rows[0])
        if counts is not None:
            self._numbers = tf.RaggedTensor.from_row_lengths(self._numbers, counts)
        self._features, self._encode = features, encode
        self._multiples = (getattr(text.preprocessor, "pad_to_multiple_of", 1), self._packer.multiple)
        self._sequence_length = text.preprocessor.sequence_length

    def epoch(self, epoch, skip=0):
        order, ends = tf.numpy_function(self._plan, [epoch], (tf.int64, tf.int64))
        return _cut(order, ends, self._batch, skip)

    def _batch(self, rows):
        numbers = tf.gather(self._numbers, rows)
        # The sequences of a row are concatenated.
        x = self._features(numbers.values if isinstance(numbers, tf.RaggedTensor) else numbers, self._round_up)
        others, rest = tf.nest.map_structure(lambda values: tf.gather(values, rows), (self._others, self._rest))
        x |= self._packer.merge(others, others)
        x |= {name: vectors.read(self._first + rows) for name, vectors in self._fixed.items()}
        name, text, kept = self._text
        if type(text).beside is not Column.beside:
            x |= text.beside(tf.nest.map_structure(lambda values: tf.gather(values, rows), kept), name)
        if rest and self._encode is not None:
            rest = (self._encode(rest[0], x), *rest[1:])
        return (x, *rest) if rest else x

    def _round_up(self, length):
        """The length of a batch as if its ids were padded, so that dropout draws the same number of values."""
        for multiple in self._multiples:
            if multiple > 1:
                length = tf.minimum(-(-length // multiple) * multiple, tf.maximum(length, self._sequence_length))
        return length


class Vectors:
    """One cached vector per sequence, or per row.

    Args:
        values: array `(sequences, dim)`.
        dtype: string. The dtype of the batches.
    """

    def __init__(self, values, dtype):
        self._values, self._dtype = np.asarray(values), dtype

    def __call__(self, numbers, round_up):
        return {"vectors": self.read(numbers)}

    def read(self, numbers):
        """Returns the vectors with these numbers."""
        flat = tf.reshape(numbers, (-1,))
        vectors = tf.numpy_function(_weakly(self._read), [flat], self._values.dtype)
        vectors.set_shape((None, self._values.shape[1]))
        return tf.reshape(tf.cast(vectors, self._dtype), (*_shape(numbers), self._values.shape[1]))

    def _read(self, numbers):
        return self._values[numbers]


class Tokens:
    """A cached vector for each real token of each sequence.

    Args:
        values: array `(real tokens, dim)`, the sequences concatenated.
        lengths: int64 array `(sequences,)`.
        dtype: string. The dtype of the batches.
        form: `"packed"`, the real tokens of a batch concatenated, `(real tokens, dim)`; `"flat"`, all positions
            `(batch * length, dim)`, zeros at padding; or `"padded"`, `(batch, length, dim)`.
    """

    def __init__(self, values, lengths, dtype, form):
        self._values, self._lengths, self._dtype, self._form = np.asarray(values), lengths, dtype, form
        self._starts = np.cumsum(lengths) - lengths

    def __call__(self, numbers, round_up):
        flat = tf.reshape(numbers, (-1,))
        tokens, lengths = tf.numpy_function(_weakly(self._read), [flat], (self._values.dtype, tf.int32))
        dim = self._values.shape[1]
        tokens.set_shape((None, dim))
        lengths.set_shape((None,))
        tokens = tf.cast(tokens, self._dtype)
        length = round_up(tf.maximum(tf.reduce_max(lengths), 1))
        mask = tf.reshape(tf.sequence_mask(lengths, length, tf.int32), (*_shape(numbers), length))
        if self._form != "packed":
            ragged = tf.RaggedTensor.from_row_lengths(tokens, lengths, validate=False)
            padded = ragged.to_tensor(shape=tf.stack([-1, length, dim]))
            shape = (-1, dim) if self._form == "flat" else (-1, length, dim)
            tokens = tf.ensure_shape(tf.reshape(padded, shape), (*[None] * (len(shape) - 1), dim))
        return {"padding_mask": tf.ensure_shape(mask, (*numbers.shape, None)), "token_states": tokens}

    def _read(self, numbers):
        """The tokens of some sequences, concatenated, and their lengths."""
        lengths = self._lengths[numbers]
        ends = np.cumsum(lengths)
        places = np.repeat(self._starts[numbers] - (ends - lengths), lengths) + np.arange(ends[-1])
        tokens = self._values[places]
        if self._form == "packed" and not lengths[0]:
            # Encoders always count the first position as a token, so that no batch is empty.
            tokens = np.concatenate([np.zeros((1, tokens.shape[1]), tokens.dtype), tokens])
        return tokens, lengths.astype("int32")


def _weakly(method):
    """A function that calls a method without keeping its object alive.

    TensorFlow keeps the argument of `numpy_function` for the lifetime of the process. The dataset keeps the functions
    that it maps with, and through them the object, alive.
    """
    reference, function = weakref.ref(method.__self__), method.__func__
    return lambda *arguments: function(reference(), *arguments)


def _count(kept):
    """Returns the number of rows of the values of a column."""
    first = tf.nest.flatten(kept)[0]
    return int(first.nrows() if isinstance(first, tf.RaggedTensor) else first.shape[0])


def _shape(numbers):
    shape = tf.shape(numbers)
    return [shape[i] if size is None else size for i, size in enumerate(numbers.shape)]


def _sequences(source):
    """The sequences of all rows, row by row and column by column, as bytes, and the keys of their content."""
    name, text = source.packer.text()
    kept = source._rows[0][name]
    found, names = [], ()
    for start in range(0, int(tf.nest.flatten(kept)[0].nrows()), CHUNK):
        part = tf.nest.map_structure(lambda values, start=start: values[start : start + CHUNK], kept)
        packed = text.batch(part, name)
        names = tuple(sorted(set(packed) - {"padding_mask", *text.beside(part, name)}))
        mask = packed["padding_mask"].numpy()
        mask = mask.reshape(-1, mask.shape[-1]) > 0
        values = np.stack([packed[name].numpy().reshape(mask.shape)[mask] for name in names], axis=-1)
        ends = np.cumsum(mask.sum(axis=1)).tolist()
        found += [values[a:b].tobytes() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return found, names
