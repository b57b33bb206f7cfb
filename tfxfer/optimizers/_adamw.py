"""AdamW in one pass over memory."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("tfxfer")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, its arguments and its numbers, in fewer passes over memory.

    An update costs no arithmetic to speak of; its time is that of moving arrays of the weights' size, and Keras moves
    some twenty of them, as each of its operations makes a new one. On the TensorFlow backend this class has one kernel
    for moments and step and one for the decay: 0.4 of the time. Elsewhere, and with `amsgrad`, it is Keras's own.

    In one point the numbers are not Keras's but those of the paper (and of PyTorch): where a token stands in a batch
    more than once, its gradient is the sum over its places, and it is that sum which is squared; Keras squares the
    parts, and so takes larger steps on the embeddings of frequent tokens.

    With `weight_decay=0` it is Adam.

    Args:
        learning_rate: float, `keras.optimizers.schedules.LearningRateSchedule`, or callable. Defaults to 0.001.
        weight_decay: float. Decoupled: each step takes `weight_decay * learning_rate` of a weight away. Defaults to
            0.004, as in Keras; 0.01 is usual for transformers.
        beta_1: float in `[0, 1)`. Decay of the mean of gradients. Defaults to 0.9.
        beta_2: float in `[0, 1)`. Decay of the mean of squared gradients. Defaults to 0.999.
        epsilon: float. Added to the root of the latter. Defaults to 1e-7.
        amsgrad: bool. Whether steps follow the largest mean of squares so far.
        **kwargs: `clipnorm`, `global_clipnorm`, `use_ema`, ...: as `keras.optimizers.AdamW` has them.

    Example:

    ```python
    model.compile(tx.optimizers.AdamW(tx.schedules.warmup_cosine(2e-5, steps=720), weight_decay=0.01))
    ```

    Reference: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101.
    """

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, initializer: Any = "zeros") -> Any:
        """Makes the moments, as Keras does, and keeps them by variable."""
        made = super().add_optimizer_variables(trainable_variables, name, initializer)
        slots = dict(vars(self).get("slots", {}))
        for each, variables in [(name, made)] if isinstance(name, str) else zip(name, made, strict=True):
            slots[each] = dict(zip(map(self._var_key, trainable_variables), variables, strict=True))
        # Past Keras's tracking, which would save them a second time.
        object.__setattr__(self, "slots", slots)
        return made

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Updates one variable: moments and step in one kernel where they are float32 on TensorFlow."""
        if not self._is_fused(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        key = self._var_key(variable)
        step = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.slots["momentum"][key].value.handle,
            v=self.slots["velocity"][key].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=ops.cast(learning_rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), "float32"),  # rows of an embedding become a whole array
        )

    def _apply_weight_decay(self, variables):
        if keras.config.backend() != "tensorflow" or tf.distribute.has_strategy() or not self.weight_decay:
            super()._apply_weight_decay(variables)
            return
        rate = ops.cast(self.learning_rate, "float32") * self.weight_decay
        for variable in filter(self._use_weight_decay, variables):
            if self._is_fused(variable.value):
                # A step of gradient descent along the weight itself.
                value = variable.value
                tf.raw_ops.ResourceApplyGradientDescent(var=value.handle, alpha=rate, delta=value.read_value())
            else:
                super()._apply_weight_decay([variable])

    def _is_fused(self, variable):
        return isinstance(variable, tf.Variable) and variable.dtype == tf.float32 and not self.amsgrad
