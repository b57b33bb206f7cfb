"""A copy of a model in another runtime, to compute on a processor in its place."""

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, data, models
from tfxfer.export import _ids, _litert, _saved_model

# Places of each weight that are looked at to find whether it changed.
_PLACES = 16


class Engine:
    """A copy of a model's weights in LiteRT, which computes in the model's place on a processor.

    ```python
    embedder.engine = tx.export.Engine(embedder, "int8")
    vectors = embedder.encode(texts)
    ```

    From then on all that goes through texts in memory is computed by the engine: `encode`, `predict`, `classify`,
    `rank`, searches, evaluations. Training and `evaluate` are the model's own. `model.engine = None` ends it.

    A row's numbers are the same bits alone, in a batch of any size and in any order: rows of one padded length are
    computed together, lengths go in steps of 8, and no product sums in another order where there are more rows. Without
    an engine that holds on processors with AVX-512.

    | all-MiniLM-L6-v2, two threads | texts/s | lowest cosine | Spearman, STS-B test | bytes |
    |---|---|---|---|---|
    | the model itself | 343 | 1 | 0.8203 | 90.3 MB |
    | `Engine(model)` | 375 | 1 | 0.8203 | 90.4 MB |
    | `Engine(model, "int8")` | 749 | 0.9955 | 0.8197 | 61.4 MB |

    Texts are short questions (Banking77), on a processor with products of eight bits (AVX-512 VNNI);
    `benchmarks/engines.py` measures it. Cosines are those to the reference's vectors, the lowest of 266 texts in many
    scripts. In eight bits a dense layer's weights have a scale for each output, and its inputs a scale for each token.
    The value projections of attention stay in float32: they are a twelfth of the products, and cause a third of the
    error. A SavedModel cannot compute so: TensorFlow's own products of eight bits have one scale for a whole batch,
    which would make a text's numbers depend on its neighbours. `saved_model(weights_dtype="int8")` stores eight bits
    and computes in float32.

    Args:
        model: a task model of one output for rows of texts, in float32.
        dtype: `"float32"` or `"int8"`: of the products of dense layers.
        threads: int. Defaults to the processors that there are.
        float_layers: regular expression of the names of the layers whose products stay in float32, for `"int8"`; an
            empty string for none.
        examples: list of usual texts, which the engine is compared with the model on; for towers a tuple of two lists.
            Defaults to five.
        tolerance: float. The largest difference allowed; where an output is larger than 1, relative to the largest.
            Defaults to 1e-5, for `"int8"` to 0.1.

    Attributes:
        dtype: string.
        difference: float. The largest difference to the model on the examples.

    Raises:
        ImportError: without ai-edge-litert, which `pip install "tfxfer[litert]"` brings.
        ValueError: for a model that cannot be converted or is not computed alike, has several outputs, or reads words
            or other columns; for an argument out of range. When it is used, if the model's weights have changed.

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
        if not len(found[self._names[0]]):  # the runtime plans no memory for nothing
            return np.zeros((0, *self._model().output_shape[1:]), "float32")
        return self._run(found)

    def check(self, model: Any) -> None:
        """Raises a ValueError if the engine is not one of this model as it is now."""
        if self._model() is not model:
            raise _check.invalid("engine", "an engine that was made of this model", "one of another model")
        if not self._sampled.is_same(model) or not np.array_equal(self._sample, self._sampled.now(), equal_nan=True):
            remedy = "Make it again, `model.engine = tx.export.Engine(model, ...)`, or set `model.engine = None`."
            raise _check.invalid("engine", "an engine of the model's weights", "weights that have changed", remedy)


class _Samples:
    """Some numbers of each of a model's weights, in one call."""

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

        self._sample = tf.function(sample, autograph=False)

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
