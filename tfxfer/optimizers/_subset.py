"""Optimizers that update a subset of the variables that they were built on."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfxfer import _check
from tfxfer.optimizers._adamw import AdamW, renew, shared

# What `Optimizer.apply` calls to make the steps. Of Keras's own optimizers, only Nadam overrides one, to update a
# product that all variables share.
_ELSEWHERE = ("_backend_apply_gradients", "_backend_update_step")


def allow_subsets(optimizer: Any) -> Any:
    """Makes an optimizer correct for subsets of the variables that it was built on.

    Unfreezing a model within one `fit` needs this: the optimizer is built once on all variables that will ever train,
    and each step updates those that train at that time. Models of `tfxfer.models` and `callbacks.GradualUnfreezing`
    call it when needed; see `Subset` for the problems that it solves.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built or not.

    Returns:
        The optimizer to use: `Subset(optimizer)`. A `Subset` (`Layerwise` is one) is returned unchanged, and a
        `keras.optimizers.LossScaleOptimizer` with its inner optimizer wrapped in a `Subset`.

    Raises:
        ValueError: if the optimizer does not make its steps in `update_step`.

    Example:

    ```python
    model.compile(tx.optimizers.allow_subsets(keras.optimizers.Adam(1e-4)), "mse")
    model.optimizer.build(model.trainable_variables)
    model.layers[0].trainable = False
    ```
    """
    _check.instance("optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer")
    if isinstance(optimizer, Subset):
        return optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.inner_optimizer = allow_subsets(optimizer.inner_optimizer)
        return optimizer
    return Subset(optimizer)


def _delegated(name):
    """Makes a property that delegates to the wrapped optimizer's attribute of the same name."""

    def get(self: Any) -> Any:
        return getattr(self.inner_optimizer, name)

    def set(self: Any, value: Any) -> None:
        # Keras's constructor sets its defaults before there is an optimizer to delegate to.
        if "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)

    return property(get, set)


@keras.saving.register_keras_serializable("tfxfer")
class Subset(keras.optimizers.Optimizer):
    """Wraps an optimizer and counts steps per variable, so that any subset of the variables can train at any time.

    Keras's own optimizers accept a subset of the variables that they were built on, but have five problems:

    - Adam and its variants correct the bias of zero-initialized moments by the number of steps made by *all* variables.
      For a variable that starts late, the correction has worn off: its first steps are up to 6.5 times too large
      (`beta_1` 0.9, `beta_2` 0.999), those of Nadam too small. Here each variable counts its own steps, as in PyTorch,
      and a variable that joins late steps like a new one, with any optimizer. Learning rate schedules count all steps.
    - With `use_ema`, `finalize_variable_values` at the end of `fit` gives a variable the moving average of another one
      (TensorFlow) or raises (elsewhere); `ema_overwrite_frequency` also overwrites frozen variables, which changes them
      by rounding.
    - With `use_ema`, the average of a variable that has never trained is zero, and `keras.callbacks.SwapEMAWeights`
      puts it into the model. Here the average of a frozen variable is its value.
    - `stateless_apply`, which the JAX backend uses, raises for a subset.
    - Gradients accumulated for a variable before it was frozen are added when it trains again.

    The wrapped optimizer keeps its state (moments, iterations, averages), its settings and its class; nothing on it is
    replaced. If used alone afterwards, it continues from that state like any Keras optimizer. This class replaces its
    `apply` with one that calls `update_step`, so it rejects optimizers that make their steps elsewhere.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built or not, built-in or custom.
        name: string.

    Attributes:
        inner_optimizer: the wrapped optimizer.
        missed: int variable `(variables,)`: the number of batches in which each variable did not train; `None` until
            built.

    Raises:
        ValueError: if the optimizer does not make its steps in `update_step`, or if it scales the loss.

    Example:

    ```python
    optimizer = tx.optimizers.Subset(keras.optimizers.Adam(1e-4, use_ema=True))
    optimizer.build(model.trainable_variables)
    optimizer.apply(gradients, model.layers[-1].trainable_variables)
    ```
    """

    clipnorm = _delegated("clipnorm")
    clipvalue = _delegated("clipvalue")
    ema_momentum = _delegated("ema_momentum")
    ema_overwrite_frequency = _delegated("ema_overwrite_frequency")
    global_clipnorm = _delegated("global_clipnorm")
    gradient_accumulation_steps = _delegated("gradient_accumulation_steps")
    loss_scale_factor = _delegated("loss_scale_factor")
    weight_decay = _delegated("weight_decay")
    _accumulated_gradients = _delegated("_accumulated_gradients")
    _iterations = _delegated("_iterations")
    _model_variables_moving_average = _delegated("_model_variables_moving_average")
    _trainable_variables = _delegated("_trainable_variables")
    _trainable_variables_indices = _delegated("_trainable_variables_indices")
    # `use_ema` stays False here, as in `LossScaleOptimizer`: Keras's `apply` is not to average, `_average` does.

    def __init__(self, optimizer: Any, *, name: str = "subset") -> None:
        _check_optimizer(optimizer)
        super().__init__(learning_rate=0.0, name=name)
        self.missed: Any = None
        self._applied: Any = None
        self.inner_optimizer = optimizer
        if optimizer.built:
            self._add_counts()

    # === Building ===

    @property
    def built(self) -> bool:
        """Whether the wrapped optimizer and the counts of this one are built."""
        return "inner_optimizer" in vars(self) and self.inner_optimizer.built and self.missed is not None

    @built.setter
    def built(self, value: bool) -> None:
        pass  # Keras sets it, even before there is anything to build

    def build(self, variables: Any) -> None:
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
            for variable, average in self._averages():
                average.assign(_copy(variable))  # so an average that is never updated equals the variable
        if self.missed is None:
            self._add_counts()

    def _add_counts(self):
        options = {"shape": (len(self._trainable_variables),), "dtype": "int", "aggregation": "only_first_replica"}
        self.missed = self.add_variable(name="missed", **options)
        if self.gradient_accumulation_steps:
            # The number of batches up to and including the last one in which each variable trained.
            self._applied = self.add_variable(name="applied", **options)

    @property
    def _counts(self):
        return [each for each in (self.missed, self._applied) if each is not None]

    def _index(self, variable):
        return self._trainable_variables_indices[self._var_key(variable)]

    # === Steps ===

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies gradients to some of the variables; a variable without a gradient does not count the step."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                self.build(trainable_variables)
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        grads = list(grads)
        if isinstance(self.inner_optimizer, AdamW):
            grads = self.inner_optimizer.summed(grads, variables)
        elif keras.config.backend() == "tensorflow":
            renew()
        taken = {
            self._var_key(variable)
            for gradient, variable in zip(grads, variables, strict=False)
            if gradient is not None
        }
        applied = [self._var_key(variable) in taken for variable in self._trainable_variables]
        batch = ops.add(self._iterations, 0)  # a copy, as `apply` increments it
        self._forget(batch, applied)
        super().apply(grads, trainable_variables)
        self._average(batch, applied)
        self._count(batch, applied)

    def _local(self, batch, index):
        """The number of batches in which a variable has trained so far."""
        return ops.maximum(batch - self.missed[index], 0)

    def _own_steps(self, index):
        """The number of batches in which a variable has trained so far, counted for all variables at once in a graph.

        Leaves AdamW its powers, also computed at once.
        """
        inner = self.inner_optimizer
        if keras.config.backend() != "tensorflow" or tf.executing_eagerly():
            return self._local(self._iterations, index)
        made = shared()
        if self not in made:
            steps = ops.maximum(self._iterations - self.missed, 0)
            made[self] = tf.unstack(steps)
            if isinstance(inner, AdamW):
                powers = zip(*map(tf.unstack, inner.powers(self._updates(steps))), strict=True)
                keys = [(inner, self._var_key(each)) for each in self._trainable_variables]
                made.update(zip(keys, powers, strict=True))
        return made[self][index]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable with the wrapped optimizer, which reads the variable's own step count."""
        with self._at(self._own_steps(self._index(variable))):
            self.inner_optimizer.update_step(gradient, variable, learning_rate)

    @contextlib.contextmanager
    def _at(self, batch):
        """Makes the wrapped optimizer read a variable's own count instead of the global step count."""
        inner = self.inner_optimizer
        values = [(inner._iterations, batch)]
        if isinstance(inner, keras.optimizers.Nadam):
            step = self._updates(batch) + 1
            values.append((inner._u_product, ops.cast(_nadam_product(inner.beta_1, step), inner._u_product.dtype)))
        if keras.config.backend() == "tensorflow":
            with keras.StatelessScope(state_mapping=values) as scope:
                yield
            # Keras's optimizers bypass the scope and assign to TensorFlow's variables; others may not.
            for variable in inner.variables:
                value = scope.get_current_value(variable)
                if value is not None and all(variable is not each for each, _ in values):
                    variable.assign(value)
            return
        # On other backends a step only changes values in a scope, so nothing else sees these assignments.
        kept = [(variable, variable.value) for variable, _ in values]
        for variable, value in values:
            variable.assign(value)
        yield
        for variable, value in kept:
            variable.assign(value)

    def _updates(self, batches):
        """The number of updates in that many batches."""
        steps = self.gradient_accumulation_steps
        return ops.floor_divide(batches, steps) if steps else batches

    def _clip_gradients(self, grads):
        if isinstance(self.inner_optimizer, AdamW):
            return self.inner_optimizer._clip_gradients(grads)
        return super()._clip_gradients(grads)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        if isinstance(self.inner_optimizer, AdamW):
            self.inner_optimizer._backend_increment_gradient_accumulators(grads, acc_grads)
        else:
            super()._backend_increment_gradient_accumulators(grads, acc_grads)

    def _apply_weight_decay(self, variables):
        self.inner_optimizer._apply_weight_decay(variables)

    def _forget(self, batch, applied):
        """Clears gradients accumulated for variables that have missed batches since."""
        if self._applied is None:
            return
        chosen = [(i, each) for i, each in enumerate(self._accumulated_gradients) if applied[i] and each is not None]
        gaps = ops.not_equal(self._applied.value, batch)

        def clear():
            for i, accumulator in chosen:
                accumulator.assign(
                    ops.where(gaps[i], ops.zeros(accumulator.shape, accumulator.dtype), accumulator.value)
                )

        if keras.config.backend() == "tensorflow":
            due = ops.any(ops.logical_and(gaps, ops.convert_to_tensor(applied)))
            ops.cond(due, clear, lambda: None)
        else:
            clear()

    def _count(self, batch, applied):
        if not all(applied):
            self.missed.assign_add(ops.cast([not each for each in applied], self.missed.dtype))
        if self._applied is not None:
            self._applied.assign(ops.where(ops.convert_to_tensor(applied), batch + 1, self._applied.value))
        inner = self.inner_optimizer
        if isinstance(inner, keras.optimizers.Nadam):
            # The value that it would have if used alone.
            product = _nadam_product(inner.beta_1, self._updates(batch + 1))
            inner._u_product.assign(ops.cast(product, inner._u_product.dtype))

    # === Moving averages ===

    def _averages(self):
        """Pairs of a variable and its moving average."""
        if not self.inner_optimizer.use_ema:
            return []
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        return [(variable, average) for variable, average in pairs if average is not None]

    def _average(self, batch, applied):
        frequency, is_tensorflow = self.ema_overwrite_frequency, keras.config.backend() == "tensorflow"
        moving = []
        for variable, average in self._averages():
            index = self._index(variable)
            if applied[index]:
                begun = ops.not_equal(self._updates(self._local(batch, index)), 0)
                momentum = ops.cast(begun, average.dtype) * self.ema_momentum
                average.assign(ops.add(momentum * average, (1 - momentum) * ops.cast(variable, average.dtype)))
                moving.append((variable, average))
            elif is_tensorflow:  # on JAX, a frozen variable has no value within a step: see `settle`
                average.assign(variable)
        if not frequency or not moving:
            return
        due = ops.equal((self._updates(batch) + 1) % frequency, 0)

        def overwrite():
            for variable, average in moving:
                variable.assign(average)

        if is_tensorflow:
            ops.cond(due, overwrite, lambda: None)
        else:
            for variable, average in moving:
                variable.assign(ops.where(due, average.value, variable.value))

    def settle(self) -> None:
        """Sets the moving averages of frozen variables to the variables' values.

        Call it between steps after flags or weights have changed; models of `tfxfer.models` do.
        """
        for variable, average in self._averages() if self.built else ():
            if not variable.trainable:
                average.assign(_copy(variable))

    def finalize_variable_values(self, var_list: Any) -> None:
        """Assigns moving averages to the variables if `use_ema` is set; Keras calls it after `fit`."""
        trained = {self._var_key(variable) for variable in var_list}
        for variable, average in self._averages():
            if self._var_key(variable) in trained:
                variable.assign(_copy(average))
            else:
                average.assign(_copy(variable))

    # === Without state ===

    def stateless_apply(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
        """Applies gradients without side effects and returns (variables, optimizer variables), for JAX."""
        if keras.config.backend() == "tensorflow" or not self.built:
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)  # raises
        variables = self._trainable_variables
        if len(trainable_variables) != len(variables):
            variables = [variable for variable in variables if variable.trainable]
        if len(trainable_variables) != len(variables):
            remedy = "Build the optimizer on all variables that will ever train: `optimizer.build(variables)`."
            expected = f"{len(variables)} values, one for each variable that trains"
            raise _check.invalid("trainable_variables", expected, len(trainable_variables), remedy)
        mapping = [
            *zip(variables, trainable_variables, strict=True),
            *zip(self.variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self.apply(grads, variables)
        return (
            [scope.get_current_value(variable) for variable in variables],
            [scope.get_current_value(variable) for variable in self.variables],
        )

    # === Delegation ===

    @property
    def variables(self) -> Any:
        """The wrapped optimizer's variables and the counts of this one."""
        return [*self.inner_optimizer.variables, *self._counts]

    @property
    def iterations(self) -> Any:
        """The number of updates so far, an int scalar."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss: Any) -> Any:
        """Returns the loss as the wrapped optimizer scales it."""
        return self.inner_optimizer.scale_loss(loss)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Sequence[str] | None = None) -> None:
        """Excludes variables from the wrapped optimizer's weight decay."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    # === Saving ===

    def set_weights(self, weights: Any) -> None:
        """Sets the values of `variables`."""
        count = len(self.inner_optimizer.variables)
        self.inner_optimizer.set_weights(weights[:count])
        for variable, value in zip(self._counts, weights[count:], strict=False):
            variable.assign(value)

    def save_own_variables(self, store: Any) -> None:
        """Writes the counts; the wrapped optimizer writes its own."""
        # Keras saves the wrapped optimizer because it is an attribute, so the moments are saved only once.
        for i, variable in enumerate(self._counts):
            store[str(i)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Reads the counts."""
        # A file without them comes from training in which no variable missed a batch.
        for i, variable in enumerate(self._counts):
            if str(i) in store:
                variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        return {"optimizer": keras.saving.serialize_keras_object(self.inner_optimizer), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "optimizer": optimizer})


def _copy(variable):
    # On JAX, two variables that share an array would donate it twice in the next step.
    return ops.copy(variable.value)


def _nadam_product(beta_1, steps):
    """The product of Nadam's momentum coefficients over the first `steps` steps, in float32.

    Keras keeps it in one variable for all. The closed form of the logarithm of prod beta_1 (1 - 0.5 * 0.96^i) for
    i = 1 ... steps, with log(1 - x) = -sum x^k / k and a geometric sum over i for each k, is:

        steps log(beta_1) - sum_k 0.5^k / k * 0.96^k (1 - 0.96^(k steps)) / (1 - 0.96^k)
    """
    steps = ops.cast(steps, "float32")
    powers = ops.arange(1, 33, dtype="float32")  # 0.48^33 is 3e-11
    ratios = ops.power(0.96, powers)
    sums = ratios * (1 - ops.power(ratios, steps)) / (1 - ratios)
    series = ops.sum(ops.power(0.5, powers) / powers * sums)
    return ops.exp(steps * ops.log(ops.cast(beta_1, "float32")) - series)


def _check_optimizer(optimizer):
    _check.instance("optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer, e.g. `AdamW(2e-5)`")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        remedy = "Loss scaling wraps this optimizer: `LossScaleOptimizer(Layerwise(optimizer))`."
        raise _check.invalid("optimizer", "an optimizer without loss scaling", optimizer, remedy)
    several = getattr(keras.optimizers, "MultiOptimizer", Subset)  # Keras 3.13 does not have it
    if isinstance(optimizer, (Subset, several)):
        raise _check.invalid("optimizer", "an optimizer with one learning rate", optimizer)
    base, kind = keras.optimizers.Optimizer, type(optimizer)
    # What `AdamW.apply` does first, `Subset.apply` does too.
    known = {
        base.apply,
        AdamW.apply,
        keras.optimizers.Nadam._backend_update_step,
        *(getattr(base, name) for name in _ELSEWHERE),
    }
    for name in ("apply", *_ELSEWHERE):
        if getattr(kind, name) not in known:
            expected = f"an optimizer that makes its steps in `update_step`, not in `{name}`"
            raise _check.invalid("optimizer", expected, optimizer)
