"""Running a model over texts that are in memory, and packing one batch of columns inside a pipeline."""

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._forms import strings
from tfxfer.data._packer import Packer
from tfxfer.data._sources import CHUNK

_RAGGED = tf.RaggedTensorSpec([None, None], tf.int32)
_ROWS = tf.TensorSpec([None], tf.int64)


class TextRunner:
    """Runs a model over texts: tokenised at once, batched by length, outputs in the order of the texts.

    Everything is traced once, in the first call, for batches of any shape; a further call costs no set-up, so that one
    short text takes some milliseconds.

    Args:
        model: a Keras model from a dict of ids to one tensor `(batch, ...)`.
        preprocessor: `preprocessing.TextPreprocessor`.
        count: int. Text columns.
        columns: what several columns become, `"joint"` or `"separate"`; see `batches`.
        pad_to_multiple_of: int from 1 to 8; see `batches`.

    Raises:
        ValueError: as `batches` does.
    """

    def __init__(self, model, preprocessor, count=1, *, columns="joint", pad_to_multiple_of=1):
        _check.one_of("columns", columns, ("joint", "separate"))
        self._packer = Packer(preprocessor, count, columns, pad_to_multiple_of)
        ids = tuple([_RAGGED] * count)
        if keras.config.backend() == "tensorflow":
            forward = lambda x: model(x, training=False)  # noqa: E731
            if model.jit_compile:
                # A graph of its own, which is compiled by XLA; ragged ids around it cannot be.
                forward = tf.function(forward, jit_compile=True, autograph=False)
            self._step = tf.function(
                lambda ids, rows: forward(self._pack(ids, rows)), input_signature=[ids, _ROWS], autograph=False
            )
        else:
            pack = tf.function(self._pack, input_signature=[ids, _ROWS], autograph=False)
            self._step = lambda ids, rows: keras.Model.predict_on_batch(
                model, {key: value.numpy() for key, value in pack(ids, rows).items()}
            )

    def _pack(self, ids, rows):
        with tf.device("CPU:0"):
            return self._packer.pack(tuple(tf.gather(column, rows) for column in ids), ())

    def __call__(self, x, batch_size=32, progress=False):
        """Returns the model's outputs for texts.

        Args:
            x: list or array of strings, or a tuple of such columns.
            batch_size: int. Rows computed at a time.
            progress: bool. Whether to show a progress bar.

        Returns:
            A float array `(rows, ...)`.

        Raises:
            ValueError: for something that is no text, with its row, or columns that differ in length.
        """
        _check.integer("batch_size", batch_size)
        columns = [strings(column) for column in (x if isinstance(x, tuple) else (x,))]
        if len({len(column) for column in columns}) > 1:
            raise _check.invalid("x", "columns of one length", [len(column) for column in columns])
        ids, lengths = self._tokenize(columns)
        order = np.argsort(-lengths, kind="stable")
        bar = keras.utils.Progbar(len(order), unit_name="text") if progress else None
        outputs = []
        for start in range(0, max(len(order), 1), batch_size):
            rows = order[start : start + batch_size]
            outputs.append(np.asarray(self._step(ids, tf.constant(rows, tf.int64))))
            if bar is not None:
                bar.add(len(rows))
        outputs = np.concatenate(outputs)
        restored = np.empty_like(outputs)
        restored[order] = outputs
        return restored

    def _tokenize(self, columns):
        parts = []
        for start in range(0, max(len(columns[0]), 1), CHUNK):
            chunk = tuple(column[start : start + CHUNK] for column in columns)
            parts.append(self._packer.tokenize(chunk)[:2])
        if len(parts) == 1:
            return parts[0][0], parts[0][1].numpy()
        ids = tuple(tf.concat(column, axis=0) for column in zip(*(part[0] for part in parts), strict=True))
        return ids, np.concatenate([part[1].numpy() for part in parts])


def pack_columns(x, preprocessor):
    """Tokenises one batch of several text columns and lays them side by side, for Siamese towers.

    Args:
        x: tuple of string tensors `(batch,)`.
        preprocessor: `preprocessing.TextPreprocessor`.

    Returns:
        A dict of int32 `(batch, columns, length)`, with one length for all columns.
    """
    packer = Packer(preprocessor, len(x), "separate", 1)
    return packer.pack(packer.tokenize(x)[0], ())
