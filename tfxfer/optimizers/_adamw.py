"""AdamW in fewer passes over memory."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfxfer import _check

# The attribute of a graph that holds what all updates of a step share.
_SHARED = "_tfxfer_shared"


@keras.saving.register_keras_serializable("tfxfer")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with the same arguments and results, in fewer passes over memory.

    An update does little arithmetic; moving arrays of the weights' size takes the time, and Keras moves about twenty of
    them because each of its operations makes a new one. On the TensorFlow backend, this class uses one kernel for
    moments and step and one for the decay, and takes 0.4 of the time. On other backends and with `amsgrad`, it runs
    Keras's implementation.

    In one case the results follow the paper (and PyTorch) rather than Keras: if a token occurs in a batch more than
    once, its gradient is the sum over its positions, and this class squares the sum, for its moments and for the norms
    of `clipnorm` and `global_clipnorm`. Keras squares the parts separately, and so takes larger steps on the embeddings
    of frequent tokens and clips by another norm.

    With `weight_decay=0` it is Adam.

    **Large vocabularies.** The gradient of a token table has values only for the tokens of the batch. Adam still moves
    every row, by its decaying moments, and `weight_decay` shrinks every row, which takes time proportional to the
    table: with 250,000 tokens, a fifth of a small encoder's step. With `lazy_embeddings`, a step touches
    only the rows of tokens that occur in the batch, like `torch.optim.SparseAdam`: the other rows, their moments and
    their decay wait. Results differ from Adam's; see `benchmarks/large_vocabulary.py` for speed.

    Args:
        learning_rate: float, `keras.optimizers.schedules.LearningRateSchedule`, or callable. Defaults to 0.001.
        weight_decay: float. Decoupled: each step subtracts `weight_decay * learning_rate` of a weight. Defaults to
            0.004, as in Keras; 0.01 is usual for transformers.
        beta_1: float in `[0, 1)`. Decay rate of the running mean of the gradients. Defaults to 0.9.
        beta_2: float in `[0, 1)`. Decay rate of the running mean of the squared gradients. Defaults to 0.999.
        epsilon: float. Added to the square root of the latter. Defaults to 1e-7.
        amsgrad: bool. Whether to divide by the largest mean of squares so far. Defaults to `False`.
        lazy_embeddings: bool. Whether a step leaves the rows of embedding tables alone that the batch does not contain.
            Tables whose gradient has a value for every row, such as one tied to a language model's output, are updated
            as a whole. Defaults to `False`. Only on the TensorFlow backend, without `amsgrad`, accumulated gradients
            and distribution strategies.
        **kwargs: `clipnorm`, `global_clipnorm`, `use_ema`, ...: as in `keras.optimizers.AdamW`.

    Raises:
        ValueError: if `lazy_embeddings` is set on another backend or with what it does not support.

    Example:

    ```python
    model.compile(tx.optimizers.AdamW(tx.schedules.warmup_cosine(2e-5, steps=720), weight_decay=0.01))
    ```

    Reference: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float | None = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        lazy_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, amsgrad, **kwargs)
        self.lazy_embeddings = _check.instance("lazy_embeddings", lazy_embeddings, bool, "True or False")
        # Of the step that is traced: the keys of tables with gradients for some rows, and of those among them to decay.
        self._tables: frozenset = frozenset()
        self._decayed_tables: set = set()
        if not lazy_embeddings:
            return
        backend = keras.config.backend()
        for is_unsupported, reason in (
            (backend != "tensorflow", f"the backend {backend!r}, where gradients of tables have a value for every row"),
            (amsgrad, "`amsgrad`"),
            (self.gradient_accumulation_steps, "`gradient_accumulation_steps`, which adds up whole tables"),
        ):
            if is_unsupported:
                raise _check.invalid("lazy_embeddings", f"False with {reason}", lazy_embeddings)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies gradients; the rows of a table's gradient are summed by token first."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        super().apply(self.summed(grads, variables), trainable_variables)

    def summed(self, grads: Any, variables: Any) -> list:
        """Returns gradients in which each row of a table occurs once. Optimizers that wrap this one call it in `apply`.

        Args:
            grads: list of gradients, or `None`, one for each variable.
            variables: list of variables.
        """
        renew()
        grads = [_summed(gradient) for gradient in grads]
        if self.lazy_embeddings:
            if tf.distribute.has_strategy():
                expected = "False in a distribution strategy, whose replicas have gradients for other rows"
                raise _check.invalid("lazy_embeddings", expected, True)
            self._tables = frozenset(
                self._var_key(variable)
                for gradient, variable in zip(grads, variables, strict=False)
                if isinstance(gradient, tf.IndexedSlices) and self._is_fused(_unwrapped(variable))
            )
            self._decayed_tables = set()
        return grads

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, initializer: Any = "zeros") -> Any:
        """Creates the moments as Keras does, and also indexes them by variable."""
        made = super().add_optimizer_variables(trainable_variables, name, initializer)
        slots = dict(vars(self).get("slots", {}))
        for each, variables in [(name, made)] if isinstance(name, str) else zip(name, made, strict=True):
            slots[each] = dict(zip(map(self._var_key, trainable_variables), variables, strict=True))
        # Bypasses Keras's tracking, which would save them twice.
        object.__setattr__(self, "slots", slots)
        return made

    def _clip_gradients(self, grads):
        if not (self.global_clipnorm and self.global_clipnorm > 0) or keras.config.backend() != "tensorflow":
            return super()._clip_gradients(grads)
        # Keras's product with a number makes the rows of a table's gradient dense, two passes over the whole table.
        found = [_values(gradient) for gradient in grads if gradient is not None]
        norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(tf.cast(values, "float32")) for values in found]))
        # The last term is 0, or NaN if the norm is not finite, as in Keras.
        scale = tf.minimum(self.global_clipnorm / norm, 1.0) + (norm - norm)
        return [None if gradient is None else _scaled(gradient, scale) for gradient in grads]

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        if keras.config.backend() != "tensorflow" or tf.distribute.has_strategy():
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        # In place, where Keras's sum is a new array, and for the rows of a table that have a gradient.
        for gradient, total in zip(grads, acc_grads, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                values = tf.cast(gradient.values, total.dtype)
                tf.raw_ops.ResourceScatterAdd(resource=total.value.handle, indices=gradient.indices, updates=values)
            else:
                total.value.assign_add(tf.cast(gradient, total.dtype))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Updates one variable: moments and step in one kernel if they are float32 on TensorFlow."""
        if not self._is_fused(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        key = self._var_key(variable)
        if key in self._tables:
            if isinstance(gradient, tf.IndexedSlices):
                self._update_rows(gradient, variable, learning_rate)
                return
            if key in self._decayed_tables:
                self._decay(variable, ops.cast(learning_rate, "float32") * self.weight_decay)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.slots["momentum"][key].value.handle,
            v=self.slots["velocity"][key].value.handle,
            lr=ops.cast(learning_rate, "float32"),
            **self._arguments(key),
            grad=tf.cast(tf.convert_to_tensor(gradient), "float32"),  # makes the rows of an embedding's gradient dense
        )

    def powers(self, steps: Any) -> tuple[Any, Any]:
        """Returns `beta_1` and `beta_2` to the power of the next step, after `steps` steps: two float32 tensors."""
        step = ops.cast(steps + 1, "float32")
        return tf.pow(tf.constant(self.beta_1, "float32"), step), tf.pow(tf.constant(self.beta_2, "float32"), step)

    def _arguments(self, key):
        """Returns the numbers that the kernel takes, each made once per update of a graph."""
        made = shared()
        if self not in made:
            numbers = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
            made[self] = {name: tf.constant(value, "float32") for name, value in numbers.items()}
        # Those of one variable if a `Subset`, which counts steps by variable, has left them.
        powers = made.get((self, key)) or made.get((self, None))
        if powers is None:
            powers = made[self, None] = self.powers(self.iterations)
        return {**made[self], "beta1_power": powers[0], "beta2_power": powers[1]}

    def _update_rows(self, gradient, variable, learning_rate):
        """Updates the rows of a table that its gradient has values for."""
        key = self._var_key(variable)
        rows, values = gradient.indices, tf.cast(gradient.values, "float32")
        handles = [variable.handle, *(self.slots[name][key].value.handle for name in ("momentum", "velocity"))]
        weight, first, second = (tf.raw_ops.ResourceGather(resource=h, indices=rows, dtype=tf.float32) for h in handles)
        rate, arguments = ops.cast(learning_rate, "float32"), self._arguments(key)
        first += (values - first) * (1.0 - self.beta_1)
        second += (tf.square(values) - second) * (1.0 - self.beta_2)
        if key in self._decayed_tables:
            weight -= weight * (rate * self.weight_decay)
        alpha = rate * tf.sqrt(1.0 - arguments["beta2_power"]) / (1.0 - arguments["beta1_power"])
        weight -= alpha * first / (tf.sqrt(second) + self.epsilon)
        for handle, updates in zip(handles, (weight, first, second), strict=True):
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=rows, updates=updates)

    def _apply_weight_decay(self, variables):
        if keras.config.backend() != "tensorflow" or tf.distribute.has_strategy() or not self.weight_decay:
            super()._apply_weight_decay(variables)
            return
        rate = ops.cast(self.learning_rate, "float32") * self.weight_decay
        for variable in filter(self._use_weight_decay, variables):
            if self._var_key(variable) in self._tables:
                self._decayed_tables.add(self._var_key(variable))
            elif self._is_fused(variable.value):
                self._decay(variable.value, rate)
            else:
                super()._apply_weight_decay([variable])

    def _decay(self, variable, rate):
        # A gradient descent step along the weight itself.
        value = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=value)

    def _is_fused(self, variable):
        return isinstance(variable, tf.Variable) and variable.dtype == tf.float32 and not self.amsgrad

    def get_config(self) -> dict[str, Any]:
        """Returns Keras's arguments and `lazy_embeddings`."""
        return {**super().get_config(), "lazy_embeddings": self.lazy_embeddings}


def renew() -> None:
    """Begins an update: what the one before in the same graph has left in `shared` is dropped."""
    if not tf.executing_eagerly():
        setattr(tf.compat.v1.get_default_graph(), _SHARED, {})


def shared() -> dict[Any, Any]:
    """Returns a dict for what the variables of an update share, kept by its graph; eagerly, a new dict."""
    if tf.executing_eagerly():
        return {}
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _SHARED):
        setattr(graph, _SHARED, {})
    return getattr(graph, _SHARED)


def _unwrapped(variable):
    """Returns the TensorFlow variable of a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _values(gradient):
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _scaled(gradient, scale):
    values = _values(gradient)
    values = values * tf.cast(scale, values.dtype)
    if not isinstance(gradient, tf.IndexedSlices):
        return values
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _summed(gradient):
    """Returns the gradient of an embedding table with one row for each token, the sum over its positions."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
