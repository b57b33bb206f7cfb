"""How `fit` of task models prepares optimizers."""

import keras

from tfxfer import _check, optimizers


def subset_of(optimizer):
    """Returns the `optimizers.Subset` in an optimizer, also within loss scaling; `None` if there is none."""
    while optimizer is not None and not isinstance(optimizer, optimizers.Subset):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


def with_subset(arguments, optimizer):
    """Updates the optimizer in the arguments of a model's `compile`, in place, if `fit` has wrapped it since."""
    if type(subset_of(optimizer)) is optimizers.Subset:
        arguments["optimizer"] = optimizer
    return arguments


def settle_optimizer(model):
    """Adapts a model's optimizer to the flags; called when `fit` starts and whenever flags change.

    An optimizer that was built on more variables than train becomes an `optimizers.Subset`, and the moving averages of
    frozen variables become their values. An optimizer that makes its steps in its own way stays unchanged.

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


# Before this version, `SwapEMAWeights` paired the averages of all variables with the trainable ones, in order.
_SWAPS_BY_VARIABLE = (3, 15)


def check_swaps(model, callbacks):
    """Raises if `keras.callbacks.SwapEMAWeights` would assign the averages of other variables.

    Args:
        model: the model whose `fit` starts.
        callbacks: as in `fit`.
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
        expected = "no `SwapEMAWeights` if only a part of the optimizer's variables trains"
        remedy = "Keras 3.15 pairs averages and variables correctly: install it."
        raise _check.invalid("callbacks", expected, f"Keras {keras.__version__}", remedy)
