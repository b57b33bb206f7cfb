"""What `fit` of task models does for optimizers."""

import keras

from tfxfer import _check, optimizers


def subset_of(optimizer):
    """Returns the `optimizers.Subset` in an optimizer, which may scale the loss around it; `None` without one."""
    while optimizer is not None and not isinstance(optimizer, optimizers.Subset):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


def with_subset(arguments, optimizer):
    """Puts a model's optimizer among the arguments of its `compile`, in place, where `fit` has wrapped it since."""
    if type(subset_of(optimizer)) is optimizers.Subset:
        arguments["optimizer"] = optimizer
    return arguments


def settle_optimizer(model):
    """Makes the optimizer of a model fit the flags: called when `fit` starts, and whenever flags change.

    An optimizer that was built on more than what trains becomes an `optimizers.Subset`, the moving averages of what is
    frozen become its values. One that makes its steps in its own way is left as it is.

    Args:
        model: a `keras.Model`, compiled or not.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built or all(each.trainable for each in optimizer._trainable_variables):
        return
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    if subset_of(optimizer) is None:
        try:
            model.optimizer = optimizer = optimizers.allow_subsets(optimizer)
        except ValueError:
            return
    subset_of(optimizer).settle()


# Before, `SwapEMAWeights` paired the averages of all variables with those that train, in order.
_SWAPS_BY_VARIABLE = (3, 15)


def check_swaps(model, callbacks):
    """Raises where `keras.callbacks.SwapEMAWeights` would give variables the averages of others.

    Args:
        model: the model whose `fit` starts.
        callbacks: as `fit` has them.
    """
    if tuple(map(int, keras.__version__.split(".")[:2])) >= _SWAPS_BY_VARIABLE:
        return
    found = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    if not any(isinstance(callback, keras.callbacks.SwapEMAWeights) for callback in found):
        return
    optimizer = getattr(model, "optimizer", None)
    trained = model.trainable_variables
    built_on = optimizer._trainable_variables if optimizer is not None and optimizer.built else trained
    if len(built_on) != len(trained) or any(hasattr(callback, "groups_at") for callback in found):
        expected = "no `SwapEMAWeights` where a part of the optimizer's variables trains"
        remedy = "Keras 3.15 pairs averages and variables rightly: install it."
        raise _check.invalid("callbacks", expected, f"Keras {keras.__version__}", remedy)
