"""A copy of a model in another runtime, which replaces the model's inference on a CPU."""

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, data, models
from tfxfer._tracing import traced
from tfxfer.export import _ids, _litert, _saved_model

# Number of entries of each weight that are compared to detect a change.
_PLACES = 16


class Engine:
    """A copy of a model's weights in LiteRT, which replaces the model's inference on a CPU.

    ```python
    embedder.engine = tx.export.Engine(embedder, "int8")
    vectors = embedder.encode(texts)
    ```

    The engine then computes everything that reads texts in memory: `encode`, `predict`, `classify`, `rank`, searches,
    evaluations. Training and `evaluate` still use the model. Set `model.engine = None` to stop using the engine.

    A row's outputs have the same bits alone, in a batch of any size and in any order: rows are batched by padded
    length, lengths are rounded up to multiples of 8, and the order of summation does not depend on the number of rows.
    Without an engine, this holds only on CPUs with AVX-512.

    | all-MiniLM-L6-v2, two threads | texts/s | lowest cosine | Spearman, STS-B test | bytes |
    |---|---|---|---|---|
    | the model itself | 343 | 1 | 0.8203 | 90.3 MB |
    | `Engine(model)` | 375 | 1 | 0.8203 | 90.4 MB |
    | `Engine(model, "int8")` | 749 | 0.9955 | 0.8197 | 61.4 MB |

    Measured by `benchmarks/engines.py` on short questions (Banking77) and a CPU with 8-bit products (AVX-512 VNNI). The
    cosine compares with the reference's vectors; it is the lowest over 266 texts in many scripts. With `"int8"`, a
    dense layer's weights have one scale per output, and its inputs one scale per token. The value projections of
    attention stay in float32: they are a twelfth of the products and cause a third of the error. A SavedModel cannot
    do the same: TensorFlow's 8-bit products use one scale for a whole batch, so a text's outputs would depend on the
    other texts. `saved_model(weights_dtype="int8")` stores 8-bit weights and computes in float32.

    Args:
        model: a float32 task model that maps rows of texts to one output.
        dtype: `"float32"` or `"int8"`. The dtype of the products of dense layers.
        threads: int. Defaults to the number of CPUs.
        float_layers: regular expression of the names of layers whose products stay in float32 with `"int8"`; an empty
            string for none.
        examples: list of typical texts, on which the engine is compared with the model; for towers, a tuple of two
            lists. Defaults to five texts.
        tolerance: float. The largest difference allowed, relative to the largest output if that is above 1. Defaults
            to 1e-5, and to 0.1 for `"int8"`.

    Attributes:
        dtype: string. The dtype of the products.
        difference: float. The largest difference from the model on the examples.

    Raises:
        ImportError: if ai-edge-litert is missing; `pip install "tfxfer[litert]"` installs it.
        ValueError: if the model cannot be converted, differs by more than `tolerance`, has several outputs, or reads
            words or other columns; if an argument is out of range; on use, if the model's weights have changed.

    References:
        - https://ai.google.dev/edge/litert
        - [Jacob et al., 2018](https://arxiv.org/abs/1712.05877), products of integers
    """

    def __init__(
        self,
        model: Any,
        dtype: Literal["float32", "int8"] = "float32",
        *,
        threads: int | None = None,
        float_layers: str = _litert.FLOAT_LAYERS,
        examples: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
        tolerance: float | None = None,
    ) -> None:
        target = _litert.target(_check.one_of("dtype", dtype, _litert.DTYPES), float_layers)
        _ids.require(target)
        pairs = _check.instance("model", model, models.TextTask, "a task model").reads_pairs()
        _saved_model.check_model(model, False, None)
        _check_outputs(model)
        _ids.check_convertible(target, model)
        threads = _check.integer("threads", threads, optional=True) or os.cpu_count() or 1
        tolerance = _litert.TOLERANCES[dtype] if tolerance is None else _check.number("tolerance", tolerance, above=0)
        rows = _saved_model.example_rows(examples, pairs)
        graph = _ids.Graph(model, is_raw=True)
        with tempfile.TemporaryDirectory() as scratch:
            file = pathlib.Path(scratch) / target.file
            _ids.converted(target, graph, file)
            self._run = _litert.load(file, threads)
        self.dtype = dtype
        self._model = lambda: model  # hidden from Keras, which holds the engine
        self._names = list(model.input)
        self._sampled = _Samples(model)
        self._sample = self._sampled.now()
        self.difference = _ids.parity(target.name, model, self, rows, pairs, tolerance, tf.identity)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the outputs `(batch, ...)`, float32, for one batch of the model's inputs as arrays."""
        found = {name: np.asarray(inputs[name]) for name in self._names}
        if not len(found[self._names[0]]):  # the runtime cannot allocate an empty batch
            return np.zeros((0, *self._model().output_shape[1:]), "float32")
        return self._run(found)

    def check(self, model: Any) -> None:
        """Raises a ValueError if the engine was not made from `model`, or the weights of `model` have changed."""
        if self._model() is not model:
            raise _check.invalid("engine", "an engine made from this model", "one of another model")
        if not self._sampled.is_same(model) or not np.array_equal(self._sample, self._sampled.now(), equal_nan=True):
            remedy = "Make it again, `model.engine = tx.export.Engine(model, ...)`, or set `model.engine = None`."
            raise _check.invalid("engine", "an engine of the model's weights", "weights that have changed", remedy)


class _Samples:
    """Reads some entries of each weight of a model in one call."""

    def __init__(self, model):
        weights = model.weights
        self._ids = [id(weight) for weight in weights]
        sizes = [int(np.prod(weight.shape)) for weight in weights]
        places = [np.unique(np.linspace(0, size - 1, min(size, _PLACES)).astype("int64")) for size in sizes]
        values = [weight.value for weight in weights]

        def sample():
            return tf.concat(
                [
                    tf.cast(tf.gather(tf.reshape(value, [-1]), place), tf.float32)
                    for value, place in zip(values, places, strict=True)
                ],
                axis=0,
            )

        self._sample = traced(sample)

    def is_same(self, model):
        return self._ids == [id(weight) for weight in model.weights]

    def now(self):
        return self._sample().numpy()


def _check_outputs(model):
    columns = model.prediction_columns()
    if [type(column) for column in columns.values()] != [data.TextColumn] or not isinstance(
        model.output, keras.KerasTensor
    ):
        remedy = "`export.saved_model` serves any model."
        expected = "a model from texts alone to one output"
        raise _check.invalid("model", expected, f"a {type(model).__name__} that reads {', '.join(columns)}", remedy)
