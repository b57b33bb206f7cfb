"""The learning-rate range test."""

import os
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _disk
from tfxfer.callbacks._warmup import plain_optimizer, sync


class LearningRateRange(keras.callbacks.Callback):
    """Raises the learning rate from batch to batch to find the rates at which the loss falls, then restores everything.

        rate(k) = minimum * (maximum / minimum) ** (k / (steps - 1))        k = 0 ... steps - 1

    A `fit` with this callback is a test, not a training run. It stops after `steps` batches, or as soon as the loss
    diverges, and leaves the model unchanged: weights, the optimizer's state and rate, random seeds. The losses are
    those of single batches, smoothed by a bias-corrected running mean; the validation set is not used. `suggestion`
    is the rate at which the loss falls fastest; try rates somewhat below it.

    With `optimizers.Layerwise` the rates are those of the optimizer, before the factors of the layer groups.

    Args:
        minimum: float > 0. The first rate. Defaults to 1e-7.
        maximum: float > `minimum`. The last rate. Defaults to 1.0.
        steps: int >= 2. The number of batches; `fit` needs enough epochs for them. Defaults to 100.
        smoothing: float in `[0, 1)`. The weight of the past in the running mean of the loss. Defaults to 0.9.
        divergence: float > 1. The test stops when the smoothed loss exceeds `divergence` times its best value, or at
            NaN. Defaults to 4.0.

    Attributes:
        rates: float array `(batches,)`, the rate of each batch of the test.
        losses: float array `(batches,)`, the loss of each batch.
        smoothed: float array `(batches,)`, the running mean of the losses.
        suggestion: float, the rate at which the smoothed loss falls fastest (in the logarithm of the rate), or `None`
            if it never falls.

    Raises:
        ValueError: on construction, if an argument is out of range; when `fit` starts, if the optimizer has a schedule,
            if the epochs have fewer batches than `steps`, or if the model is compiled with `steps_per_execution` > 1.

    Example:

    ```python
    model.compile(keras.optimizers.AdamW(2e-5))
    test = tx.callbacks.LearningRateRange(minimum=1e-6, maximum=1e-1)
    model.fit(batches, epochs=2, callbacks=[test])
    test.plot("rates.png")
    model.optimizer.learning_rate = test.suggestion
    ```

    Reference: [Smith, 2017](https://arxiv.org/abs/1506.01186).
    """

    def __init__(
        self,
        minimum: float = 1e-7,
        maximum: float = 1.0,
        steps: int = 100,
        *,
        smoothing: float = 0.9,
        divergence: float = 4.0,
    ) -> None:
        super().__init__()
        self.minimum = _check.number("minimum", minimum, above=0.0)
        self.maximum = _check.number("maximum", maximum, above=self.minimum)
        self.steps = _check.integer("steps", steps, minimum=2)
        self.smoothing = _check.number("smoothing", smoothing, minimum=0.0)
        if self.smoothing >= 1:
            raise _check.invalid("smoothing", "a number in [0, 1)", smoothing)
        self.divergence = _check.number("divergence", divergence, above=1.0)
        self.rates = self.losses = self.smoothed = np.zeros(0)
        self._state = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Saves the weights and the optimizer's state, and starts at the lowest rate; Keras calls it."""
        self._optimizer = plain_optimizer(self.model)
        batches = self.params.get("steps")
        if batches is not None and batches * self.params["epochs"] < self.steps:
            remedy = f"The data have {batches} batches: give `fit` more epochs."
            raise _check.invalid("steps", "at most the batches of all epochs", self.steps, remedy)
        if self.model.steps_per_execution != 1:
            raise _check.invalid("steps_per_execution", "1, as each batch has its rate", self.model.steps_per_execution)
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._state = [(each, each.numpy()) for each in (*self.model.variables, *optimizer.variables)]
        self.rates = self.losses = self.smoothed = np.zeros(0)
        self._mean = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate of the next step; Keras calls it."""
        sync(self.model)
        # Keras's loss is the mean over the epoch so far; a batch's loss cannot be recovered from it exactly.
        self.model.reset_metrics()
        part = min(len(self.rates) / (self.steps - 1), 1.0)
        rate = float(self.minimum * (self.maximum / self.minimum) ** part)
        self._optimizer.learning_rate = rate
        self.rates = np.append(self.rates, rate)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the loss of the step and stops if it has diverged; Keras calls it."""
        loss = float((logs or {})["loss"])
        self.losses = np.append(self.losses, loss)
        count = len(self.losses)
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        self.smoothed = np.append(self.smoothed, self._mean / (1 - self.smoothing**count))
        best = np.min(self.smoothed)
        diverged = not np.isfinite(loss) or self.smoothed[-1] > best + (self.divergence - 1) * abs(best)
        if diverged or count >= self.steps:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the weights and the optimizer's state; Keras calls it."""
        self.restore()

    def restore(self) -> None:
        """Restores the model's state from before the test; it runs automatically, except after an interrupt."""
        for variable, value in self._state:
            variable.assign(value)
        self._state = []

    @property
    def suggestion(self) -> Any:
        """The rate at which the loss falls fastest, or `None`."""
        smoothed = self.smoothed[np.isfinite(self.smoothed)]
        # The first means cover few batches, whose noise could look like a fall. After the lowest point, the loss
        # rises to divergence.
        first = min(round(1 / (1 - self.smoothing)), len(smoothed) // 4)
        last = int(np.argmin(smoothed)) + 1 if len(smoothed) else 0
        if last - first < 2:
            return None
        slopes = np.gradient(smoothed, np.log(self.rates[: len(smoothed)]))
        best = first + int(np.argmin(slopes[first:last]))
        return float(self.rates[best]) if slopes[best] < 0 else None

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plots the losses and the smoothed losses against the rates, and marks the suggestion.

        Args:
            path: string or path of the image; its extension sets the format (`.png`, `.svg`, `.pdf`). `.png` is
                added if there is no extension.

        Raises:
            ValueError: if the test has not run yet.
            ImportError: if matplotlib is not installed; the error names the package.
        """
        path = _disk.local_path("path", path, kind="file")
        if not len(self.losses):
            raise _check.invalid("path", "a test that has run: give this callback to `fit` first", path)
        try:
            from matplotlib import figure
        except ImportError as error:
            raise ImportError(
                "`plot` needs the package matplotlib: `pip install matplotlib`, or the extra `plot`."
            ) from error
        # Without pyplot, there is no window, no global state and nothing to close.
        drawing = figure.Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = drawing.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.plot(self.rates, self.losses, color="0.75", label="batch")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, linestyle="--", color="0.3", label=f"falls fastest: {self.suggestion:.1e}")
        axes.legend()
        path = path if path.suffix else path.with_suffix(".png")
        with _disk.writing(path) as file:
            drawing.savefig(file, format=path.suffix[1:])
