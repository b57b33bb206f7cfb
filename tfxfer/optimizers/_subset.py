"""Optimizers that are applied to a part of the variables that they were built on."""

import keras
from keras import ops

from tfxfer import _check

_NAME = "_tfxfer_subset"


def allow_subsets(optimizer, variables=None, *, starts=None):
    """Makes an optimizer right when it is applied to a subset of the variables that it was built on.

    That is how a model thaws within one `fit`: the optimizer is built once on all variables that will ever train, and
    at any step is applied to those that train just then. Moments, iterations and schedule go on. Keras's own optimizers
    take a subset, but go wrong in four places, which this cures on the instance:

    - `finalize_variable_values`, at the end of `fit`, gives a variable the moving average of another one (TensorFlow)
      or refuses (elsewhere); `ema_overwrite_frequency` overwrites frozen variables too, which moves them by rounding.
    - `stateless_apply`, the way of the JAX backend, refuses a subset.
    - Gradients that were accumulated for a variable when it was frozen are added when it thaws.
    - Adam and its kin correct moments that start at zero for the number of steps made by *all*. For a variable that
      starts late the correction has worn off: its first steps come out up to 6.5 times too large (`beta_1` 0.9,
      `beta_2` 0.999). Here the steps of each variable count from its own start, as they do in PyTorch.

    Call it once before training, and again with `variables` whenever another set begins to train; it returns the same
    optimizer, and calling it twice changes nothing.

    Args:
        optimizer: `keras.optimizers.Optimizer`; a wrapper (`keras.optimizers.LossScaleOptimizer`,
            `optimizers.Layerwise`) is looked through.
        variables: the model variables that train from now on, in the order of `model.trainable_variables`; the
            optimizer must be built on all of them. `None` leaves open which, and is enough on TensorFlow unless a
            variable starts late: then all count from the first step, as in Keras. On the JAX backend, call
            `model.jax_state_sync()` first, as values are read and set.
        starts: ints, one for each of `variables`: the batch (0 for the first that the optimizer saw) with which it
            began to train. By default a variable that was not named before begins now, and all begin at 0 where the
            optimizer had made steps before the first `variables` came: give `starts` where a training goes on in a
            new process.

    Returns:
        The optimizer that was given.

    Raises:
        ValueError: for an optimizer that is not built on `variables`, or `starts` of another number.

    Example:

    ```python
    optimizer.build(model.trainable_variables)
    model.set_trainable(["head"])
    tx.optimizers.allow_subsets(optimizer, model.trainable_variables)
    ```
    """
    inner = _check.instance("optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer")
    while isinstance(getattr(inner, "inner_optimizer", None), keras.optimizers.Optimizer):
        inner = inner.inner_optimizer
    subset = vars(inner).get(_NAME)
    if subset is None:
        subset = Subset(inner)
    if variables is not None:
        subset.set(list(variables), starts)
    return optimizer


class Subset:
    """What replaces the methods of one optimizer.

    The methods are replaced on the instance, as a subclass would be saved under its own name; attributes go past
    `__setattr__`, which would take the variables for the optimizer's own state.
    """

    _METHODS = (
        "update_step",
        "stateless_apply",
        "_backend_apply_gradients",
        "_update_model_variables_moving_average",
        "_overwrite_model_variables_with_average_value",
    )

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.variables = None
        self.applied = None
        self.starts = {}
        self.is_fresh = True
        self.originals = {name: getattr(optimizer, name) for name in self._METHODS}
        vars(optimizer).update({name: getattr(self, name) for name in self._METHODS})
        vars(optimizer)[_NAME] = self

    def set(self, variables, starts):
        optimizer = self.optimizer
        if not optimizer.built:
            remedy = "Build it on all variables that will ever train: `optimizer.build(variables)`."
            raise _check.invalid("optimizer", "a built optimizer", optimizer, remedy)
        known = set(map(optimizer._var_key, optimizer._trainable_variables))
        for variable in variables:
            if optimizer._var_key(variable) not in known:
                remedy = "Build the optimizer on all variables that will ever train: `optimizer.build(variables)`."
                raise _check.invalid("variables", "variables that the optimizer was built on", variable.path, remedy)
        now = int(optimizer._iterations)
        if self.variables is None:
            # What an optimizer in mid-training has trained so far is not known; moments that are not zero must not be
            # corrected as if they were.
            self.is_fresh = now == 0
        if starts is None:
            default = now if self.is_fresh else 0
            starts = [self.starts.get(optimizer._var_key(variable), default) for variable in variables]
        starts = [_check.integer("starts", start, minimum=0) for start in starts]
        if len(starts) != len(variables):
            raise _check.invalid("starts", f"{len(variables)} ints, one for each variable", starts)
        self.starts.update(zip(map(optimizer._var_key, variables), starts, strict=True))
        if optimizer.gradient_accumulation_steps and self.variables is not None:
            known = set(map(optimizer._var_key, self.variables))
            for variable in variables:
                if optimizer._var_key(variable) not in known:
                    accumulator = optimizer._accumulated_gradients[_index(optimizer, variable)]
                    accumulator.assign(ops.zeros(accumulator.shape, accumulator.dtype))
        self.variables = variables

    def _since_start(self, variable):
        """Returns the steps that were made since the variable began, as the optimizer counts its iterations."""
        optimizer = self.optimizer
        batches = optimizer._iterations - self.starts.get(optimizer._var_key(variable), 0)
        steps = optimizer.gradient_accumulation_steps
        return ops.floor_divide(batches, steps) if steps else batches

    def update_step(self, gradient, variable, learning_rate):
        optimizer = self.optimizer
        start = self.starts.get(optimizer._var_key(variable), 0)
        if not start:
            return self.originals["update_step"](gradient, variable, learning_rate)
        # An optimizer reads its step from `iterations`, a property of its class that reads `_iterations`.
        iterations = vars(optimizer)["_iterations"]
        # Loss scaling skips batches, so that a start counted in batches may lie ahead of the optimizer's own count.
        vars(optimizer)["_iterations"] = ops.maximum(iterations - start, 0)
        try:
            return self.originals["update_step"](gradient, variable, learning_rate)
        finally:
            vars(optimizer)["_iterations"] = iterations

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        optimizer = self.optimizer
        if self.variables is None:
            return self.originals["stateless_apply"](optimizer_variables, grads, trainable_variables)
        if len(trainable_variables) != len(self.variables):
            remedy = "Tell the optimizer which variables train: `optimizers.allow_subsets(optimizer, variables)`."
            expected = f"{len(self.variables)} values, one for each variable that trains"
            raise _check.invalid("trainable_variables", expected, len(trainable_variables), remedy)
        mapping = [
            *zip(self.variables, trainable_variables, strict=True),
            *zip(optimizer.variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            optimizer.apply(grads, self.variables)
        return (
            [scope.get_current_value(variable) for variable in self.variables],
            [scope.get_current_value(variable) for variable in optimizer.variables],
        )

    def _backend_apply_gradients(self, grads, trainable_variables):
        self.applied = trainable_variables
        if not self.optimizer.use_ema or keras.config.backend() != "jax":
            return self.originals["_backend_apply_gradients"](grads, trainable_variables)
        # Keras's code for JAX averages all variables in line; frozen ones have no value in a step there.
        vars(self.optimizer)["use_ema"] = False
        try:
            self.originals["_backend_apply_gradients"](grads, trainable_variables)
        finally:
            vars(self.optimizer)["use_ema"] = True
        self._update_model_variables_moving_average(self.optimizer._trainable_variables)
        frequency = self.optimizer.ema_overwrite_frequency
        if frequency:
            due = ops.equal((self.optimizer.iterations + 1) % frequency, 0)
            for variable, average in self._averages(trainable_variables):
                variable.assign(ops.where(due, average.value, variable.value))

    def _averages(self, variables):
        optimizer = self.optimizer
        averages = optimizer._model_variables_moving_average
        pairs = ((variable, averages[_index(optimizer, variable)]) for variable in variables)
        return [(variable, average) for variable, average in pairs if average is not None]

    def _update_model_variables_moving_average(self, trainable_variables):
        optimizer = self.optimizer
        if not optimizer.use_ema:
            return
        # Where it is not known which variables train, all are averaged: an average that was left at zero while its
        # variable was frozen would drag it there later.
        if self.variables is not None:
            trainable_variables = self.variables
        for variable, average in self._averages(trainable_variables):
            begun = ops.cast(ops.not_equal(self._since_start(variable), 0), variable.dtype)
            momentum = begun * optimizer.ema_momentum
            average.assign(momentum * average + (1 - momentum) * variable)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        # Within a step Keras names all variables that the optimizer was built on; at the end of `fit` those that train.
        if trainable_variables is self.optimizer._trainable_variables:
            trainable_variables = self.applied
        for variable, average in self._averages(trainable_variables):
            # On JAX the two would share memory, which the next `fit` gives away twice.
            variable.assign(ops.copy(average))


def _index(optimizer, variable):
    """The place of a variable among those that an optimizer was built on."""
    return optimizer._trainable_variables_indices[optimizer._var_key(variable)]
