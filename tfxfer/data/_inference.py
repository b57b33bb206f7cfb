"""Running a model over rows in memory, and encoding one batch of texts inside a pipeline."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer._cores import cores, limits
from tfxfer._narrow import narrow_kernels, replaced
from tfxfer._tracing import traced
from tfxfer.data._columns import TextColumn
from tfxfer.data._forms import row_count
from tfxfer.data._packer import Packer
from tfxfer.data._sources import CHUNK

_ROWS = tf.TensorSpec([None], tf.int64)
# Values that TensorFlow computes at a time.
ROWS_MULTIPLE = 8
_MOST_IN_FLIGHT = 8
# Places in all batches that are computed at a time: 32 texts of 512 tokens. It bounds memory; larger batches keep all
# cores busy alone.
_PLACES = 16_384


class Runner:
    """Runs a model over rows in memory: tokenizes once, batches by length, returns outputs in row order.

    Everything is traced once, in the first call, for batches of any shape; later calls have no setup cost, so one short
    text takes a few milliseconds.

    Args:
        model: a Keras model from the dict of the columns' tensors to one tensor `(batch, ...)`, or a dict of tensors.
        columns: dict of name to `Column`.
        pad_to_multiple_of: int from 1 to 8; see `batches`.
        engine: function from the model's inputs, as arrays, to its outputs, which replaces the model. It receives rows
            of one padded length at a time, so that a row's length does not depend on the other rows.
        rows_multiple_of: int >= 1. Batches are padded with empty rows to a multiple of it, so that the outputs of a row
            do not depend on its batch.

    Example:

    >>> age = keras.Input((), name="age")
    >>> runner = Runner(keras.Model({"age": age}, 2 * age), {"age": tx.data.NumberColumn()})
    >>> runner(np.array([1.0, 2.0, 3.0], "float32")).tolist()
    [2.0, 4.0, 6.0]
    """

    def __init__(
        self,
        model: Any,
        columns: Mapping[str, Any],
        pad_to_multiple_of: int = 1,
        engine: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None,
        rows_multiple_of: int = ROWS_MULTIPLE,
    ) -> None:
        self._model = model
        self._packer = Packer(columns, pad_to_multiple_of)
        self._engine = engine
        self._rows_multiple_of = rows_multiple_of
        self._steps: dict[bool, Callable[..., Any]] = {}
        self._kernels: list | None = None
        self._cast: Callable[[], list] = list

    def _traced(self, kept, kernels):
        """Returns the function from cached values, row indices and values of `kernels` to the model's outputs."""
        signature = [tf.nest.map_structure(_any_rows, kept), _ROWS]
        model, run = self._model, self._engine
        if run is None and keras.config.backend() != "tensorflow":
            run = functools.partial(keras.Model.predict_on_batch, model)
        if run is not None:
            pack = traced(self._pack, signature)
            return lambda kept, rows, _: run({key: value.numpy() for key, value in pack(kept, rows).items()})
        forward = functools.partial(_forward, model, [kernel for kernel, _ in kernels])
        if model.jit_compile:
            # A separate graph, compiled by XLA; the ragged ids around it cannot be compiled.
            forward = tf.function(forward, jit_compile=True, autograph=False)
        signature.append([tf.TensorSpec(kernel.shape, dtype) for kernel, dtype in kernels])
        step = tf.function(_Step(self._pack_whole, forward), input_signature=signature, autograph=False)
        step.get_concrete_function()  # traced here: Keras keeps scopes and settings for each thread
        return step

    def _pack(self, kept, rows):
        with tf.device("CPU:0"):
            return self._packer.pack(tf.nest.map_structure(lambda values: tf.gather(values, rows), kept))

    def _pack_whole(self, kept, rows):
        with tf.device("CPU:0"):
            return whole(self._pack(kept, rows), self._rows_multiple_of)

    def __call__(
        self, x: Any, batch_size: int = 32, progress: bool = False, finish: Callable[[Any], list] | None = None
    ) -> Any:
        """Returns the model's outputs for rows.

        Args:
            x: inputs as read by the columns; see `Examples`.
            batch_size: int. Rows computed at a time.
            progress: bool. Whether to show a progress bar.
            finish: function from the outputs of a batch, as arrays, to a list with one entry per row, for outputs whose
                rows differ in shape. By default the outputs stay arrays.

        Returns:
            Float array `(rows, ...)`, or the structure of arrays that the model returns; with `finish`, a list.
        """
        _check.integer("batch_size", batch_size)
        kept, lengths = self._tokenize(x)
        order = np.argsort(-lengths, kind="stable")
        batches = list(self._batches(order, lengths, batch_size))
        step, values = self._prepared(kept, len(batches) > 1)
        bar = keras.utils.Progbar(len(order), unit_name="text") if progress and len(order) else None
        parts = []

        def run(rows):
            return keras.tree.map_structure(np.asarray, step(kept, tf.constant(rows, tf.int64), values))

        def places(rows):
            return len(rows) * int(lengths[rows].max(initial=1))

        at_once = in_flight() if self._engine is None and len(batches) > 1 else 1
        for rows, outputs in in_order(run, batches, places, at_once):
            parts.append(outputs if finish is None else finish(outputs))
            if bar is not None:
                bar.add(len(rows))
        if finish is not None:
            flat = [row for part in parts for row in part]
            found = [None] * len(order)
            for place, row in zip(order, flat[: len(order)], strict=True):
                found[place] = row
            return found
        return keras.tree.map_structure(lambda *arrays: _restored(np.concatenate(arrays), order), *parts)

    def _prepared(self, kept, is_many):
        """Returns the step, and the values of the kernels that it reads.

        Several batches share kernels in 16 bits, which are cast once. In a single batch, casts run alongside the other
        operations.
        """
        if self._kernels is None:
            shares = self._engine is None and keras.config.backend() == "tensorflow"
            self._kernels = found = narrow_kernels(self._model) if shares else []
            self._cast = traced(lambda: [tf.cast(kernel.value, dtype) for kernel, dtype in found])
        kernels = self._kernels if is_many else []
        if bool(kernels) not in self._steps:
            self._steps[bool(kernels)] = self._traced(kept, kernels)
        return self._steps[bool(kernels)], self._cast() if kernels else []

    def batches(self, x: Any, batch_size: int = 32) -> list[np.ndarray]:
        """Returns the row indices of each batch that a call computes, in the order of computation.

        Args:
            x: inputs as read by the columns.
            batch_size: int. Rows computed at a time.
        """
        _, lengths = self._tokenize(x)
        return list(self._batches(np.argsort(-lengths, kind="stable"), lengths, batch_size))

    def _batches(self, order, lengths, batch_size):
        """Yields the rows of each batch; at least one batch, so that the outputs of no rows have the right shape."""
        groups = [order]
        if self._engine is not None:
            padded = -(-lengths[order] // self._packer.multiple)
            groups = np.split(order, np.flatnonzero(np.diff(padded)) + 1)
        for group in groups:
            for start in range(0, max(len(group), 1), batch_size):
                yield group[start : start + batch_size]

    def _tokenize(self, x):
        parts = []
        for start in range(0, max(row_count(x), 1), CHUNK):
            chunk = tf.nest.map_structure(lambda values, start=start: values[start : start + CHUNK], x)
            parts.append(self._packer.tokenize(chunk)[:2])
        if len(parts) == 1:
            return parts[0][0], parts[0][1].numpy()
        kept = tf.nest.map_structure(lambda *values: tf.concat(values, axis=0), *(part[0] for part in parts))
        return kept, np.concatenate([part[1].numpy() for part in parts])


def in_flight() -> int:
    """Returns how many batches TensorFlow computes at a time, at most 8, 1 on a GPU.

    Most operations on a batch of short texts are too small for all cores, and those that are split wait for the slowest
    core. A second batch fills the gaps. By default, this is one more than there are cores; where the number of
    TensorFlow's threads is set, it is that number.

    Example:

    >>> 1 <= in_flight() <= 8
    True
    """
    if keras.config.backend() != "tensorflow" or tf.config.functions_run_eagerly():
        return 1
    if tf.config.list_logical_devices("GPU"):
        return 1
    threading = tf.config.threading
    set_here = (threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
    chosen = [*filter(None, set_here), *limits("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")]
    return min(*(chosen or [cores() + (cores() > 1)]), _MOST_IN_FLIGHT)


def in_order(
    run: Callable[[Any], Any], items: Iterable[Any], places: Callable[[Any], int], at_once: int
) -> Iterator[tuple[Any, Any]]:
    """Yields items and the results of a function on them, in order, with several computed at a time.

    Args:
        run: function of an item, which other threads call. A graph that it runs has to be traced before: Keras keeps
            scopes and settings for each thread.
        items: batches of rows.
        places: function of an item that returns its number of places, padding included. It bounds memory: items that
            are computed at a time have at most 16,384 together, such as 32 texts of 512 tokens.
        at_once: int >= 1.

    Example:

    >>> list(in_order(len, ["a", "abc"], places=len, at_once=2))
    [('a', 1), ('abc', 3)]
    """
    if at_once == 1:
        yield from ((item, run(item)) for item in items)
        return
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for item in items:
            size = places(item)
            while waiting and (len(waiting) > at_once or size + sum(each for *_, each in waiting) > _PLACES):
                first, found, _ = waiting.popleft()
                yield first, found.result()
            waiting.append((item, pool.submit(run, item), size))
        while waiting:
            first, found, _ = waiting.popleft()
            yield first, found.result()


def forward(model: Any, x: Any) -> Callable[[Any], Any]:
    """Returns a function that runs a model over batches of any shape, traced once for inputs like `x`.

    Args:
        model: Keras model.
        x: dict of arrays, the inputs of one batch.

    Returns:
        A function from a dict of tensors to the model's outputs.

    Example:

    >>> inputs = keras.Input((2,), name="x")
    >>> run = forward(keras.Model({"x": inputs}, keras.ops.sum(inputs, axis=1)), {"x": np.ones((3, 2), "float32")})
    >>> np.asarray(run({"x": tf.constant([[1.0, 2.0]])})).tolist()
    [3.0]
    """
    if keras.config.backend() != "tensorflow":
        return lambda x: model.predict_on_batch(keras.tree.map_structure(np.asarray, x))
    inputs = model.input if isinstance(model.input, dict) else {}
    spec = {
        name: tf.TensorSpec(inputs[name].shape if name in inputs else [None] * np.ndim(value), value.dtype)
        for name, value in x.items()
    }
    return tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)


def _forward(model, kernels, x, values):
    """Runs a model with other values for some of its kernels."""
    with replaced(kernels, values):
        return model(x, training=False)


class _Step:
    """Packs rows and runs a model on them, with kernels that were cast before.

    This is an object rather than a function, because TensorFlow counts the traces of a function's code over all models
    that share it, and warns after a few models.
    """

    def __init__(self, pack, forward):
        self._pack = pack
        self._forward = forward

    def __call__(self, kept, rows, kernels):
        outputs, count = self._forward(self._pack(kept, rows), kernels), tf.size(rows)
        return tf.nest.map_structure(lambda values: values[:count], outputs)


def whole(batch: Any, multiple_of: int = ROWS_MULTIPLE) -> Any:
    """Returns a batch with rows of padding after its own, until their number is a multiple of `multiple_of`.

    TensorFlow computes eight values at a time, and the remaining ones differently. Without this padding the scores of a
    batch's last rows would differ in their last bits from their scores in other positions.

    Args:
        batch: a structure of tensors `(rows, ...)`.
        multiple_of: int >= 1. With 1 the batch is unchanged, for encoders that read padding.
    """

    def pad(values):
        missing = -tf.shape(values)[0] % multiple_of
        return tf.pad(values, [[0, missing], *[[0, 0]] * (values.shape.rank - 1)])

    return batch if multiple_of == 1 else tf.nest.map_structure(pad, batch)


def _restored(outputs, order):
    """Outputs in the order of the rows."""
    restored = np.empty_like(outputs)
    restored[order] = outputs
    return restored


def _any_rows(values):
    """The spec of a tensor for any number of rows."""
    if isinstance(values, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None] * values.shape.rank, values.dtype, values.ragged_rank)
    return tf.TensorSpec([None, *values.shape[1:]], values.dtype)


def pack_columns(x: Any, preprocessor: Any) -> dict[str, Any]:
    """Tokenizes one batch of several text columns and stacks them along axis 1, for Siamese towers.

    Args:
        x: tuple of string tensors `(batch,)`.
        preprocessor: `preprocessing.TextPreprocessor`.

    Returns:
        A dict of int32 `(batch, columns, length)`, with one length for all columns.

    Example:

    ```python
    x = pack_columns((tf.constant(["a question"]), tf.constant(["an answer"])), embedder.preprocessor)
    x["token_ids"].shape  # (1, 2, length)
    ```
    """
    column = TextColumn(preprocessor, "separate")
    return column.batch(column.encode(x), "text")
