"""A schedule for optimizers with a plain learning rate."""

from typing import Any

import keras

from tfxfer import _check, schedules


class WarmupCosine(keras.callbacks.Callback):
    """Sets the learning rate before each batch: `schedules.warmup_cosine` for an optimizer with a plain rate.

    If you can construct the optimizer with a schedule, that is simpler and faster. This callback is for an optimizer
    whose rate is a number, such as one loaded with a model, and for training whose length only `fit` knows. The step is
    the optimizer's own count of batches, so training that resumes with a restored optimizer keeps its rates. With
    `steps_per_execution`, the rate is set once per execution.

    The rate of the last batch is written into the epoch's logs as `learning_rate`.

    Args:
        learning_rate: float > 0. The peak; the optimizer's own rate is not used.
        steps: int. The number of batches of all epochs together. Defaults to that of the running `fit`, if it is
            known.
        warmup: int, or float in `[0, 1)`. The number of warmup steps, or their fraction of `steps`. Defaults to 0.1.
        minimum: float. The final rate. Defaults to 0.0.
        cycles: int. How many times the rate decays. Defaults to 1.

    Raises:
        ValueError: as `schedules.warmup_cosine`, on construction; when `fit` starts, if the optimizer has a schedule or
            the number of steps is unknown.

    Example:

    ```python
    model.compile(keras.optimizers.AdamW(2e-5))
    model.fit(batches, epochs=3, callbacks=[tx.callbacks.WarmupCosine(2e-5)])
    ```
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int | None = None,
        warmup: float = 0.1,
        *,
        minimum: float = 0.0,
        cycles: int = 1,
    ) -> None:
        super().__init__()
        self._arguments = (learning_rate, warmup, minimum, cycles)
        self._steps = steps
        self._make(10**9 if steps is None else steps)  # raises its errors now

    def _make(self, steps):
        learning_rate, warmup, minimum, cycles = self._arguments
        return schedules.warmup_cosine(learning_rate, steps, warmup, minimum=minimum, cycles=cycles)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares for a new run; Keras calls it."""
        self._optimizer = plain_optimizer(self.model)
        steps = self._steps
        if steps is None:
            batches = self.params.get("steps")
            if batches is None:
                remedy = "Keras does not know the number of batches: give `steps`."
                raise _check.invalid("steps", "the number of batches of all epochs", None, remedy)
            steps = batches * self.params["epochs"]
        self._schedule = self._make(steps)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the learning rate of the step; Keras calls it."""
        sync(self.model)
        self._optimizer.learning_rate = float(self._schedule(int(self._optimizer._iterations)))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the learning rate into the epoch's logs; Keras calls it."""
        if logs is not None:
            logs["learning_rate"] = float(self._optimizer.learning_rate)


def plain_optimizer(model):
    """Returns the innermost optimizer of a model; raises unless its learning rate is a plain number."""
    optimizer = model.optimizer
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    if optimizer is None or not has_plain_rate(optimizer):
        rate = None if optimizer is None else optimizer.get_config()["learning_rate"]
        remedy = "Compile the model with a float, or leave this callback out."
        raise _check.invalid("learning_rate", "an optimizer with a plain learning rate", rate, remedy)
    return optimizer


def has_plain_rate(optimizer):
    """Whether the learning rate of an optimizer is a number and not a schedule."""
    return isinstance(optimizer.get_config()["learning_rate"], float)


def sync(model):
    """Copies the values of a running epoch into the model's variables, and back at its next step.

    Only the JAX backend keeps them elsewhere during an epoch.
    """
    if keras.config.backend() == "jax":
        model.jax_state_sync()
