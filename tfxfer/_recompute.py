"""Computing a layer again in the backward pass, instead of keeping what its gradient needs."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfxfer._gradients import remat


def is_seed(variable: Any) -> bool:
    """Returns whether a variable is the state of a seed generator."""
    return variable.name == "seed_generator_state"


def advanced(state: Any, draws: Any) -> Any:
    """Returns the state of a seed generator after `draws` draws."""
    return state + ops.cast(ops.stack([0, draws]), state.dtype)


def recomputed(layer: Any, compute: Callable[..., Any], *inputs: Any, draws: int = 1) -> Any:
    """Returns `compute(*inputs)`; its backward pass calls `compute` again, with the same dropout.

    Args:
        layer: the layer that holds all weights and seeds that `compute` reads.
        compute: function of the inputs that returns a tensor. It may read other tensors, which get no gradient.
        *inputs: tensors, or lists, tuples and dicts of tensors, that may need a gradient.
        draws: int. The largest number of times that `compute` draws from one seed generator.
    """
    trainable, others = layer.trainable_variables, layer.non_trainable_variables
    # Values of the weights, because a variable may change before the backward pass: a seed does in each draw. Read in
    # the layer's autocast scope, they have the dtype in which its sublayers, which share its policy, compute.
    values = [variable.value for variable in trainable]
    fixed = [ops.stop_gradient(variable) for variable in others]

    @remat
    def run(inputs, values):
        mapping = [*zip(trainable, values, strict=True), *zip(others, fixed, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            return compute(*inputs)

    outputs = run(list(inputs), values)
    for variable, value in zip(others, fixed, strict=True):
        if is_seed(variable):
            variable.assign(advanced(value, draws))
    return outputs
