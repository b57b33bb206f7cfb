"""Gradients with respect to a model's inputs, which `keras.ops` does not have."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check

BACKENDS = ("tensorflow", "jax")


def check_backend() -> None:
    """Raises on a backend whose gradients are not taken here."""
    backend = keras.config.backend()
    if backend not in BACKENDS:
        raise _check.invalid("KERAS_BACKEND", "'tensorflow' or 'jax', for gradients", backend)


def value_and_gradient(function: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """Returns what a function of `keras.ops` gives for a tensor, and the gradient of its sum.

    Where each value depends on a part of `x` of its own, as the rows of a batch do, these are the gradients of all of
    them. It can be called within a graph: TensorFlow writes the gradient into a SavedModel as plain operations.

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
    # A function that does not read `x` has none.
    return values, tf.zeros_like(x) if gradient is None else tf.convert_to_tensor(gradient)


def compiled(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Returns a function of dicts of arrays that is traced once for batches of any shape, and gives numpy arrays.

    Args:
        function: function of a dict of tensors `(rows, ...)` to a structure of tensors.
        variables: the `keras.Variable`s that it reads. Their values of the moment count in each call.
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
            functions[key] = tf.function(function, input_signature=[spec], autograph=False)
        return keras.tree.map_structure(lambda value: value.numpy(), functions[key](x))

    return call
