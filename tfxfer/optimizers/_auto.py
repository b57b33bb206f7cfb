"""The optimizer of `optimizer="auto"`: `fit` plans its learning rates from the number of steps."""

from collections.abc import Mapping
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check
from tfxfer.optimizers._adamw import AdamW
from tfxfer.optimizers._layerwise import Layerwise

# The fraction of the steps; the number of steps if their total is unknown.
_WARMUP, _WARMUP_STEPS = 0.1, 100
# Used instead of a number of steps.
_UNKNOWN, _CONSTANT = 0, -1


class Planned(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises and then falls linearly, with parameters that can change between steps.

    Args:
        peak: float > 0.

    Attributes:
        values: float32 variable `(3,)`: the first step of the plan, its number of steps, its peak.
    """

    def __init__(self, peak: float) -> None:
        self.values = keras.Variable(
            [0.0, _UNKNOWN, peak], trainable=False, dtype="float32", aggregation="only_first_replica", name="plan"
        )

    def __call__(self, step: Any) -> Any:
        start, steps, peak = ops.unstack(ops.convert_to_tensor(self.values), 3)
        step = ops.cast(step, "float32") - start
        warmup = ops.where(steps > 0, ops.maximum(ops.floor(steps * _WARMUP), 1.0), float(_WARMUP_STEPS))
        rise = ops.minimum((step + 1) / warmup, 1.0)
        fall = ops.clip((steps - step) / ops.maximum(steps - warmup, 1.0), 0.0, 1.0)
        return peak * ops.where(steps > 0, ops.minimum(rise, fall), ops.where(steps < 0, 1.0, rise))

    def get_config(self) -> dict[str, Any]:
        return {"peak": float(ops.convert_to_numpy(self.values)[2])}


@keras.saving.register_keras_serializable("tfxfer")
class Auto(Layerwise):
    """AdamW with a learning rate that `fit` plans: warmup over a tenth of the steps, then linear decay to zero.

    Models of `tfxfer.models` use it if they are compiled without an optimizer or with `optimizer="auto"`. Their `fit`
    knows the number of batches and epochs and calls `plan`; each further `fit` makes a new plan. Without a plan, or if
    the number of steps is unknown (a generator), the rate rises over 100 steps and then stays constant.

    Everything else follows the fine-tuning of BERT: weight decay that excludes biases and the weights of normalization
    layers, and gradients clipped to a global norm of 1.

    Setting `learning_rate` ends the plan: the rate stays at that number. `keras.callbacks.ReduceLROnPlateau` and
    `LearningRateScheduler` therefore work.

    Args:
        peak: float > 0. The highest rate. Defaults to 1e-4.
        weight_decay: float >= 0, as in `AdamW`. Defaults to 0.01.
        multipliers: dict of layer group to float; see `Layerwise`. Defaults to none.
        name: string.

    Raises:
        ValueError: if `peak` is not positive, `weight_decay` is negative, or `learning_rate` is set to a schedule.

    Example:

    ```python
    model.compile()  # optimizers.Auto()
    model.compile(tx.optimizers.Auto(5e-5))
    model.fit(texts, labels, epochs=4)
    ```

    Reference: [Devlin et al., 2019](https://arxiv.org/abs/1810.04805), appendix A.2, for everything but the peak.
    """

    def __init__(
        self,
        peak: float = 1e-4,
        *,
        weight_decay: float = 0.01,
        multipliers: Mapping[str, float] | None = None,
        name: str = "auto",
    ) -> None:
        planned = Planned(float(_check.number("peak", peak, above=0.0)))
        weight_decay = float(_check.number("weight_decay", weight_decay, minimum=0.0))
        super().__init__(AdamW(planned, weight_decay=weight_decay, global_clipnorm=1.0), multipliers, name=name)
        self._planned, self._peak = planned, float(peak)

    def plan(self, steps: int | None, *, done: int = 0) -> None:
        """Plans the rate over the coming steps.

        Args:
            steps: int > 0. All steps of the training; `None` if their number is unknown.
            done: int >= 0. The steps already done: those of the epochs before `initial_epoch`. Defaults to 0.
        """
        steps = _UNKNOWN if steps is None else _check.integer("steps", steps)
        start = int(ops.convert_to_numpy(self._iterations)) - _check.integer("done", done, minimum=0)
        self._planned.values.assign([start, steps, self._peak])

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        if callable(learning_rate):
            remedy = "To use a schedule, compile with `optimizers.AdamW(schedule)`."
            raise _check.invalid("learning_rate", "a number for `optimizers.Auto`", learning_rate, remedy)
        if "_planned" in vars(self):  # Keras's constructor sets a default
            self._planned.values.assign(ops.stack([0.0, _CONSTANT, ops.cast(learning_rate, "float32")]))

    @property
    def _counts(self):
        return [*super()._counts, self._planned.values]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {
            "peak": self._peak,
            "weight_decay": self.inner_optimizer.weight_decay,
            "multipliers": config["multipliers"],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        return cls(**config)
