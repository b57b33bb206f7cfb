"""Functions that TensorFlow traces only once."""

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_Mixin: Any = object  # the classes that use the mixin have the methods of a Keras model


def traced(function: Callable[..., Any], input_signature: Any = None) -> Any:
    """Returns a `tf.function` whose traces are counted on their own.

    TensorFlow counts the traces of a Python function over all objects that trace it: many models in one process would
    make it warn of retracing.

    Args:
        function: function of tensors.
        input_signature: as in `tf.function`.
    """
    return tf.function(functools.partial(function), input_signature=input_signature, autograph=False)


class TracesOnce(_Mixin):
    """Mixin for models that create the variables of optimizer and metrics before the first step is traced.

    On TensorFlow, Keras creates these variables inside the trace of the first step. TensorFlow then traces the whole
    step a second time, and adds a condition around the initial value of each variable. On other backends, the mixin
    changes nothing.
    """

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function that `fit` calls for each step; see `keras.Model.make_train_function`."""
        return self._traced_once("train_function", super().make_train_function, force)

    def make_test_function(self, force: bool = False) -> Any:
        """Makes the function that `evaluate` calls for each step; see `keras.Model.make_test_function`."""
        return self._traced_once("test_function", super().make_test_function, force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Makes the function that `predict` calls for each batch; see `keras.Model.make_predict_function`."""
        return self._traced_once("predict_function", super().make_predict_function, force)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Creates variables before the first step under a strategy; called by Keras.

        Keras takes the mean of the replicas' parts of a batch for the shapes, which fails if parts differ in size.
        """
        if iterator is not None and is_distributed(self):
            strategy = self.distribute_strategy
            for _, _, batches in iterator:
                batch = next(batches)
                data_batch = keras.tree.map_structure(lambda each: strategy.experimental_local_results(each)[0], batch)
                break
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _traced_once(self, name, make, force):
        before = getattr(self, name)
        found = make(force)
        made = getattr(self, name)
        is_new = keras.config.backend() == "tensorflow" and made is not None and made is not before
        if is_new and not is_distributed(self):
            setattr(self, name, _Step(self, made, name))
        return found


def is_distributed(model: Any) -> bool:
    """Whether a model trains under a strategy, or was created under one and trains outside its scope."""
    if keras.config.backend() != "tensorflow":
        return False
    return tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy()


def unsupported_strategy(model: Any) -> Any:
    """Returns the strategy of a model if it is one that Keras 3 cannot train with; otherwise `None`."""
    if keras.config.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    refused = (tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.ParameterServerStrategy)
    return strategy if isinstance(strategy, refused) else None


class _Step:
    """A step of a model, which is traced on the first call; variables are created just before.

    They are not created earlier, so that flags set by callbacks have taken effect.
    """

    def __init__(self, model, function, name):
        self._model = model
        self._function = function
        self._name = name
        self._is_new = True

    def __call__(self, batches):
        if not self._is_new:
            return self._function(batches)
        if self._name != "predict_function":
            self._build(batches)
        with _first_trace():
            found = self._function(batches)
        self._is_new = False
        return found

    def _build(self, batches):
        if self._name == "train_function":
            _build_optimizer(self._model)
        spec = getattr(batches, "element_spec", None)
        if isinstance(spec, tuple) and 2 <= len(spec) <= 3:
            build_metrics(self._model, spec[1])


class StepByParts:
    """A step of a model with several parts that computes only the parts with rows in a batch; traced once per set.

    TensorFlow's datasets have one structure for all batches. An absent part has zero rows; the step sees that in the
    static shape and skips it, so the graph of a step contains only the parts that it computes.

    Args:
        model: `keras.Model` whose batches are ({part: inputs}, {part: targets}), optionally with weights.
        step: function of a batch: `model.train_step` or `model.test_step`.
        trains: bool. Whether the step needs the optimizer.
    """

    def __init__(self, model: Any, step: Any, trains: bool) -> None:
        self._model = model
        self._step = step
        self._trains = trains
        self._functions: dict[Any, Any] = {}

    def __call__(self, batches: Any) -> Any:
        """Runs the steps of one execution on batches from an iterator; raises `StopIteration` when it is exhausted."""
        outputs = None
        for _ in range(self._model.steps_per_execution):
            try:
                batch = next(batches)
            except StopIteration:
                if outputs is None:
                    raise
                break
            outputs = self._run(batch, getattr(batches, "element_spec", None))
        return outputs

    def _run(self, batch, spec):
        present = {part for part, x in batch[0].items() if keras.tree.flatten(x)[0].shape[0] != 0}
        key = (*sorted(present), str(spec))
        function = self._functions.get(key)
        if function is not None:
            return function(batch)
        if self._trains:
            _build_optimizer(self._model)
        options: dict[str, Any] = {
            "jit_compile": bool(self._model.jit_compile),
            "autograph": False,
            "reduce_retracing": True,
        }
        if spec is not None:
            options["input_signature"] = [_with_rows(batch, spec, present)]
        function = self._functions[key] = tf.function(lambda batch: self._step(batch), **options)
        with _first_trace():
            return function(batch)


def _with_rows(batch, spec, present):
    """Returns the spec of batches in which some parts have rows, with zero rows for the others."""
    found = []
    for values, specs in zip(batch, spec, strict=True):
        found.append(
            {
                part: specs[part]
                if part in present
                else keras.tree.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), values[part])
                for part in specs
            }
        )
    return tuple(found)


def _build_optimizer(model):
    optimizer = model.optimizer
    if optimizer is None or optimizer.built:
        return
    weights = model.trainable_weights
    if weights:  # without weights, there is no step
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(weights)


def build_metrics(model: Any, targets: Any) -> None:
    """Creates the variables of a model's metrics, outside of any step.

    Args:
        model: compiled `keras.Model`.
        targets: the targets of a batch, or objects with their shapes and dtypes. For anything else, such as `None`,
            nothing is created.
    """
    metrics = model._compile_metrics
    if metrics is None or metrics.built:
        return
    shapes = _shapes(model, targets)
    if shapes is not None:
        metrics.build(*shapes)


@contextlib.contextmanager
def _first_trace():
    """Context in which TensorFlow does not warn about a function that is traced again.

    It counts the traces of one function in Keras's code over all models, and would warn on the first step of the fifth
    model. It still warns about a function that is traced again after its first call.
    """
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_no_retrace)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_retrace)


def _is_no_retrace(record):
    return "triggered tf.function retracing" not in record.getMessage()


def _shapes(model, targets):
    """Returns symbolic targets and outputs of a batch; `None` if their shapes are unknown before the step."""
    if targets is None:
        return None
    try:
        return keras.tree.map_structure(lambda each: keras.KerasTensor(tuple(each.shape), each.dtype.name), targets), (
            model.output
        )
    except (AttributeError, ValueError):  # of another kind, or of unknown rank
        return None
