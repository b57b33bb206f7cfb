"""Gradients that `keras.ops` lacks: with respect to a model's inputs, and of our own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfxfer import _check
from tfxfer._tracing import traced

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
            return ops.sum(values), values

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

        run = jax.jit(stateless)
        return lambda x: keras.tree.map_structure(
            ops.convert_to_numpy, run([variable.value for variable in variables], x)
        )
    functions: dict[Any, Any] = {}

    def call(x):
        key = tuple((name, value.dtype.str, value.ndim) for name, value in x.items())
        if key not in functions:
            spec = {name: tf.TensorSpec([None] * value.ndim, value.dtype) for name, value in x.items()}
            functions[key] = traced(function, [spec])
        return keras.tree.map_structure(lambda value: value.numpy(), functions[key](x))

    return call


# === Gradients of our own ===

# `tf.custom_gradient` and `tf.recompute_grad` add an entry to a registry each time that a `tf.function` traces them.
# Nothing removes it, and it keeps the graph alive, with the weights. Here, the registry has one entry, and each graph
# holds its own gradients.
_CUSTOM = "TfxferCustomGradient"


def custom_gradient(function: Callable[..., tuple]) -> Callable[..., Any]:
    """Returns a function with a gradient of its own; replaces `keras.ops.custom_gradient`.

    Args:
        function: function of tensors that returns a tensor or a tuple of tensors, and the function of their gradients
            that returns those of the arguments. It must not read variables that need a gradient.
    """
    everywhere = ops.custom_gradient(function)

    @functools.wraps(function)
    def run(*tensors):
        if keras.config.backend() != "tensorflow" or tf.executing_eagerly():
            return everywhere(*tensors)
        return _recorded(function, tensors)

    return run


def _recorded(function, tensors):
    """Returns what `function` returns, in a graph."""
    tensors = [tf.convert_to_tensor(each) for each in tensors]  # Keras leaves variables as they are
    outputs, gradient = function(*tensors)
    flat = list(outputs) if isinstance(outputs, tuple) else [outputs]
    count = len(flat)

    def of_all(*upstream):
        # What reads rows, as `take` does, gives the gradient of these rows only.
        found = gradient(*map(tf.convert_to_tensor, upstream[:count]))
        return [*[None] * count, *(found if isinstance(found, tuple) else (found,))]

    _register()
    graph = tf.compat.v1.get_default_graph()
    inputs = [*flat, *tensors]
    with graph.gradient_override_map({"IdentityN": _CUSTOM}):
        results = tf.identity_n(inputs)
    if not hasattr(graph, "_tfxfer_gradients"):
        graph._tfxfer_gradients = {}
    graph._tfxfer_gradients[results[0].op.name] = of_all
    # The override is for gradients of a whole graph; a tape inside of the graph looks for the name of the operation.
    tf.__internal__.record_gradient(_CUSTOM, inputs, (), results)
    return tuple(results[:count]) if isinstance(outputs, tuple) else results[0]


@functools.cache
def _register():
    @tf.RegisterGradient(_CUSTOM)
    def gradients(operation, *upstream):
        made = operation.outputs[0].op  # a tape passes a copy without a graph
        return made.graph._tfxfer_gradients[made.name](*upstream)


def remat(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, computed again in the backward pass; replaces `keras.remat`.

    Args:
        function: function of tensors, or of lists, tuples and dicts of tensors, that returns a tensor. All that it
            computes must depend on its first argument. It must not read variables that need a gradient.
    """
    everywhere = keras.remat(function)

    @functools.wraps(function)
    def run(first, *others):
        if keras.config.backend() != "tensorflow" or tf.executing_eagerly():
            return everywhere(first, *others)
        arguments = (first, *others)
        size = len(keras.tree.flatten(first))

        def compute(*tensors):
            return function(*keras.tree.pack_sequence_as(arguments, list(tensors)))

        @custom_gradient
        def recomputed(*tensors):
            def gradient(upstream):
                # Neither TensorFlow nor XLA may take the values of the forward pass, which would then be kept: the
                # first argument waits for the upstream gradient. No number is above infinity: it adds 0.
                waits = ops.any(ops.reshape(upstream, (-1,))[:1] > float("inf"))
                again = [_after(waits, each) for each in tensors[:size]] + list(map(tf.identity, tensors[size:]))
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([each for each in again if each.dtype.is_floating])
                    output = compute(*again)
                found = tape.gradient(output, again, output_gradients=upstream)
                return tuple(found)

            return compute(*tensors), gradient

        return recomputed(*keras.tree.flatten(arguments))

    return run


def _after(waits, tensor):
    """Returns a tensor that is computed after `waits`, a boolean that is False."""
    if tensor.dtype.is_bool:
        return ops.logical_or(tensor, waits)
    return tensor + ops.cast(waits, tensor.dtype)
