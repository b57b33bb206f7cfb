"""Parts of a TensorFlow graph that XLA compiles, if a condition of the step holds."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer._gradients import custom_gradient


def can_compile() -> bool:
    """Returns whether the code is being traced into a graph of TensorFlow."""
    return keras.config.backend() == "tensorflow" and not tf.executing_eagerly()


def compiled_if(
    condition: Any,
    function: Callable[..., Any],
    plain: Callable[..., Any],
    *tensors: Any,
    given: Sequence[Any] = (),
    **constants: float,
) -> Any:
    """Returns `plain(*tensors, *given)`; where the condition holds, programs of XLA compute and differentiate it.

    XLA compiles a program for each shape that it meets. The backward pass computes the function again, which costs less
    than to read what it would keep.

    Args:
        condition: bool tensor `()`.
        function: function at the top of a module, which XLA compiles: `function(*tensors, *given, **constants)` is what
            `plain` returns, but for rounding.
        plain: function that reads no other tensors and changes no variable, such as a seed.
        *tensors: float tensors; they get a gradient.
        given: tensors that get none.
        **constants: numbers.
    """
    forward, backward = _programs(function, len(tensors), tuple(constants.items()))

    @custom_gradient
    def compute(*tensors):
        every = (*tensors, *given)

        def gradient(*args, upstream=None):
            (upstream,) = args or (upstream,)

            def differentiate():
                # A tape in a branch does not see tensors from outside.
                return _gradients(plain, len(tensors), upstream, *map(tf.identity, every))

            return tuple(tf.cond(condition, lambda: backward(upstream, *every), differentiate))

        return tf.cond(condition, lambda: forward(*every), lambda: plain(*every)), gradient

    return compute(*tensors)


@functools.cache
def _programs(function, count, constants):
    """Returns the programs that compute `function` and the gradients of its first `count` arguments."""
    function = functools.partial(function, **dict(constants))
    backward = functools.partial(_gradients, function, count)
    return tuple(tf.function(each, jit_compile=True, autograph=False) for each in (function, backward))


def _gradients(function, count, upstream, *tensors):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors[:count])
        found = function(*tensors)
    return tape.gradient(found, tensors[:count], upstream)
