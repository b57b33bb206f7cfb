"""The learning-rate range test."""

import os
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _disk
from tfxfer.callbacks._warmup import plain_optimizer, sync


class LearningRateRange(keras.callbacks.Callback):
    """Raises the learning rate from batch to batch, to see at which rates the loss falls, and puts everything back.

        rate(k) = minimum * (maximum / minimum) ** (k / (steps - 1))        k = 0 ... steps - 1

    The `fit` in which it stands is the test, not a training: it stops after `steps` batches, or as soon as the loss
    diverges, and leaves the model as it was: weights, the optimizer's state and rate, random seeds. The losses are
    those of single batches, smoothed by a running mean without the start's bias; the validation set plays no part. A
    rate is worth trying somewhat below the one at which the loss falls fastest, which is `suggestion`.

    With `optimizers.Layerwise` the rates are those of the optimizer, before the factors of the layer groups.

    Args:
        minimum: float > 0. The first rate.
        maximum: float > `minimum`. The last one.
        steps: int >= 2. Batches; give `fit` as many epochs as these take.
        smoothing: float in `[0, 1)`. The weight of the past in the running mean of the loss.
        divergence: float > 1. The test stops when the smoothed loss is so many times its best (and at NaN at once).

    Attributes:
        rates: float array `(batches,)`, the rate of each batch that was seen.
        losses: float array `(batches,)`, the loss of each.
        smoothed: float array `(batches,)`, the running mean.
        suggestion: float, the rate at which the smoothed loss falls fastest (in the logarithm of the rate), or `None`
            where it never falls.

    Raises:
        ValueError: for arguments out of range, at once; when `fit` starts, for an optimizer with a schedule, if its
            epochs have fewer batches than `steps`, and for a model that is compiled with `steps_per_execution`.

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
        """Keeps the weights and the state of the optimizer, and starts at the lowest rate; Keras calls it."""
        self._optimizer = plain_optimizer(self.model)
        batches = self.params.get("steps")
        if batches is not None and batches * self.params["epochs"] < self.steps:
            remedy = f"The data hold {batches} batches: give `fit` more epochs."
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
        # Keras's loss is the mean over the epoch so far, from which that of a batch cannot be had exactly.
        self.model.reset_metrics()
        part = min(len(self.rates) / (self.steps - 1), 1.0)
        rate = float(self.minimum * (self.maximum / self.minimum) ** part)
        self._optimizer.learning_rate = rate
        self.rates = np.append(self.rates, rate)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss of the step, and stops where it has grown too large; Keras calls it."""
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
        """Gives the model its weights back, and the optimizer its state; Keras calls it."""
        self.restore()

    def restore(self) -> None:
        """Puts the state back that the model had before the test; done by itself, except after an interrupt."""
        for variable, value in self._state:
            variable.assign(value)
        self._state = []

    @property
    def suggestion(self) -> Any:
        """The rate at which the loss falls fastest, or `None`."""
        smoothed = self.smoothed[np.isfinite(self.smoothed)]
        # The first means are of few batches, whose noise would pass for a fall; what comes behind the lowest point is
        # the rise to divergence.
        first = min(round(1 / (1 - self.smoothing)), len(smoothed) // 4)
        last = int(np.argmin(smoothed)) + 1 if len(smoothed) else 0
        if last - first < 2:
            return None
        slopes = np.gradient(smoothed, np.log(self.rates[: len(smoothed)]))
        best = first + int(np.argmin(slopes[first:last]))
        return float(self.rates[best]) if slopes[best] < 0 else None

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the losses over the rates, the smoothed ones with them, and marks the suggestion.

        Args:
            path: string or path of the picture; its ending says which kind (`.png`, `.svg`, `.pdf`). Without
                an ending, `.png` is added.

        Raises:
            ValueError: before the test has run.
            ImportError: without matplotlib; it names the package.
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
        # Without pyplot there is no window, no global state, and nothing to close.
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
