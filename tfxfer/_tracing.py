"""Steps of training and evaluation that TensorFlow traces once."""

import contextlib
import logging
from typing import Any

import keras
import tensorflow as tf

_Mixin: Any = object  # what is mixed in here has the methods of a Keras model


class TracesOnce(_Mixin):
    """What models share whose optimizer and metrics get their variables before the first step is traced; a mixin.

    On TensorFlow, Keras makes these variables within the trace of the first step. TensorFlow then traces the whole step
    a second time, and puts a condition around the first value of each variable. On other backends this changes nothing.
    """

    def make_train_function(self, force: bool = False) -> Any:
        """Makes what `fit` calls for each step, as `keras.Model.make_train_function`."""
        return self._traced_once("train_function", super().make_train_function, force)

    def make_test_function(self, force: bool = False) -> Any:
        """Makes what `evaluate` calls for each step, as `keras.Model.make_test_function`."""
        return self._traced_once("test_function", super().make_test_function, force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Makes what `predict` calls for each batch, as `keras.Model.make_predict_function`."""
        return self._traced_once("predict_function", super().make_predict_function, force)

    def _traced_once(self, name, make, force):
        before = getattr(self, name)
        found = make(force)
        made = getattr(self, name)
        is_new = keras.config.backend() == "tensorflow" and made is not None and made is not before
        if is_new and not _is_distributed(self):
            setattr(self, name, _Step(self, made, name))
        return found


def _is_distributed(model):
    """Whether a model trains under a strategy, or was made under one and trains outside its scope."""
    return tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy()


class _Step:
    """A step of a model, which is traced on the first call: what the trace must not make is made just before.

    Not earlier, so that flags which callbacks set have taken effect.
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
        optimizer, metrics = self._model.optimizer, self._model._compile_metrics
        if self._name == "train_function" and optimizer is not None and not optimizer.built:
            weights = self._model.trainable_weights
            if weights:  # with none there is no step
                with keras.name_scope(optimizer.name, caller=optimizer):
                    optimizer.build(weights)
        if metrics is not None and not metrics.built:
            shapes = _shapes(self._model, batches)
            if shapes is not None:
                metrics.build(*shapes)


@contextlib.contextmanager
def _first_trace():
    """Within, TensorFlow does not warn of a function that is traced once more.

    It counts the traces of one place in Keras's code over all models: the fifth model that makes its first step was to
    blame. What is traced again after its first call is still warned of.
    """
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_no_retrace)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_retrace)


def _is_no_retrace(record):
    return "triggered tf.function retracing" not in record.getMessage()


def _shapes(model, batches):
    """Returns targets and outputs of a batch by their shapes; `None` where they cannot be known before the step."""
    spec = getattr(batches, "element_spec", None)
    if not isinstance(spec, tuple) or not 2 <= len(spec) <= 3 or spec[1] is None:
        return None
    try:
        return keras.tree.map_structure(lambda each: keras.KerasTensor(tuple(each.shape), each.dtype.name), spec[1]), (
            model.output
        )
    except (AttributeError, ValueError):  # of another kind, or of unknown rank
        return None
