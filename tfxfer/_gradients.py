"""Gradients with respect to a model's inputs, which `keras.ops` lacks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check

BACKENDS = ("tensorflow", "jax")


def check_backend() -> None:
    """Raises if gradients are not supported on the backend."""
    backend = keras.config.backend()
    if backend not in BACKENDS:
        raise _check.invalid("KERAS_BACKEND", "'tensorflow' or 'jax', for gradients", backend)


def value_and_gradient(function: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """Returns the values of a function of `keras.ops` for a tensor, and the gradient of their sum.

    If each value depends on a separate part of `x`, such as a row of a batch, this is the gradient of every value. It
    can be called in a graph: TensorFlow writes the gradient into a SavedModel as plain operations.

    Args:
        function: function from a float tensor to a float tensor `(n,)`.
        x: float tensor.

    Returns:
        (values, gradient): `(n,)`, and a tensor of the shape of `x`.
    """
    if keras.config.backend() == "jax":
        import jax

        def summed(x):
            values = function(x)
            return keras.ops.sum(values), values

        (_, values), gradient = jax.value_and_grad(summed, has_aux=True)(x)
        return values, gradient
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        values = function(x)
    gradient = tape.gradient(values, x)
    # A function that does not read `x` has no gradient.
    return values, tf.zeros_like(x) if gradient is None else tf.convert_to_tensor(gradient)


def compiled(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Returns a function from dicts of arrays to numpy arrays that is traced once for batches of any shape.

    Args:
        function: function from a dict of tensors `(rows, ...)` to a structure of tensors.
        variables: the `keras.Variable`s that it reads. Each call uses their current values.
    """
    if keras.config.backend() == "jax":
        import jax

        def stateless(values, x):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(x)

        traced = jax.jit(stateless)
        return lambda x: keras.tree.map_structure(
            keras.ops.convert_to_numpy, traced([variable.value for variable in variables], x)
        )
    functions: dict[Any, Any] = {}

    def call(x):
        key = tuple((name, value.dtype.str, value.ndim) for name, value in x.items())
        if key not in functions:
            spec = {name: tf.TensorSpec([None] * value.ndim, value.dtype) for name, value in x.items()}
            # A partial, so that TensorFlow counts the traces of this object alone, and does not warn of many models.
            functions[key] = tf.function(functools.partial(function), input_signature=[spec], autograph=False)
        return keras.tree.map_structure(lambda value: value.numpy(), functions[key](x))

    return call
