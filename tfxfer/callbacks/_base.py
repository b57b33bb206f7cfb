"""Evaluation during training."""

import copy
import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfxfer import _check


class Evaluate(keras.callbacks.Callback):
    """Evaluates at the end of each epoch and writes the scores into the epoch's logs, as `val_<score>`.

    Every reader of logs then sees them: `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `History`, the
    progress bar, a Keras Tuner objective. Keras passes the logs from callback to callback, so put this one **before**
    the callbacks that monitor its scores. `fit` of this package's models raises on the wrong order when it starts; for
    any other `keras.Model`, `callbacks.introduce` checks the order.

    Args:
        score: function of the model that returns a dict of name to number; other values are ignored. Callbacks such as
            `EvaluateSimilarity` supply their own.
        every: int. Also evaluates every `every` steps and writes the values into these steps' logs, e.g. for
            `ModelCheckpoint(save_freq=every)`. By default, only at the end of each epoch.
        name: string inserted before the scores' names, `val_<name>_<score>`. Needed if two callbacks would write the
            same names. A value of the same name that Keras computed on `validation_data` is overwritten.
        model: the model to evaluate, if it is only a part of the model being trained.
        at_start: bool. Whether to also evaluate before the first epoch. By default, evaluations of embedders do.
        keep_best: bool. Whether the model ends with the weights that had the largest first value; with `at_start`,
            the weights before training count, too. By default, evaluations of embedders do, unless an earlier
            evaluation in the list or `EarlyStopping(restore_best_weights=True)` does.

    Attributes:
        results: list of dicts: `epoch`, `step` (training steps since `fit` began; counted with `every` only) and the
            values of each evaluation.
        before: dict of the values before the first epoch, with `at_start`; otherwise `None`.

    With `at_start`, training that leaves the model worse than before ends with a warning.

    Raises:
        ValueError: when `fit` starts: if a callback before this one monitors one of its values, if another writes the
            same values, if two have `keep_best=True`, or if the model does not support this evaluation.

    Example:

    ```python
    callbacks = [
        tx.callbacks.Evaluate(lambda model: {"words": count_words(model)}),
        keras.callbacks.EarlyStopping("val_words", mode="max"),
    ]
    ```
    """

    def __init__(
        self,
        score: Callable[[Any], Mapping[str, Any]],
        *,
        every: int | None = None,
        name: str | None = None,
        model: Any = None,
        at_start: bool | None = None,
        keep_best: bool | None = None,
    ) -> None:
        super().__init__()
        self._at_start = self._compares if at_start is None else bool(at_start)
        self._keep_best = keep_best if keep_best is None else bool(keep_best)
        self._keeps = self._compares if keep_best is None else bool(keep_best)
        self._others_restore = False
        if not callable(score):
            raise _check.invalid("score", "a function of the model to a dict of scores", score)
        if name is not None and (not isinstance(name, str) or not name):
            raise _check.invalid("name", "a string or None", name)
        self._score = score
        self._keys: Any = None  # all that are numbers
        self._every = _check.integer("every", every, optional=True)
        self._prefix = "val_" if name is None else f"val_{name}_"
        self._evaluated = model
        # Without `every`, Keras need not wait for each step's logs.
        self.async_safe = every is None
        self._start()

    # Whether the scores before training are a baseline worth comparing with.
    _compares = False

    def _start(self):
        self.results = []
        self.before = self._best = self._best_weights = None
        self._epoch = self._steps = self._steps_before = 0

    def keys(self) -> Any:
        """Returns the names of the values that this callback writes, as far as they are known before training."""
        return [f"{self._prefix}{key}" for key in self._keys or ()]

    def check(self, model: Any) -> None:
        """Raises if `model` does not support this evaluation; called when `fit` starts."""

    def set_model(self, model: Any) -> None:
        """Sets the model to train and checks that it can be evaluated; Keras calls it."""
        super().set_model(model)
        self.check(self._subject())

    def introduce(self, training: Any) -> None:
        """Checks the other callbacks of `training`; `fit` of this package's models calls it before training begins."""
        self._check_order(training.callbacks)
        restores = any(getattr(callback, "restore_best_weights", False) for callback in training.callbacks)
        self._others_restore = restores
        if self._keep_best is None:
            others = training.callbacks[: training.callbacks.index(self)]
            self._keeps = (
                self._compares
                and not restores
                and not any(isinstance(each, Evaluate) and each._keeps for each in others)
            )
        elif self._keep_best:
            for callback in training.callbacks:
                if isinstance(callback, Evaluate) and callback is not self and callback._keep_best:
                    raise _check.invalid("callbacks", "one evaluation with `keep_best`", training.callbacks)

    def _subject(self):
        trained = self.model  # on JAX, reading this updates the weights, including those of a part
        return trained if self._evaluated is None else self._evaluated

    def _check_order(self, callbacks):
        written, is_before = set(self.keys()), True
        for callback in callbacks:
            if callback is self:
                is_before = False
            elif isinstance(callback, Evaluate) and written & set(callback.keys()):
                both = sorted(written & set(callback.keys()))[0]
                remedy = f"Two callbacks would write {both!r}: give one a `name`."
                raise _check.invalid("callbacks", "evaluations whose values have different names", callbacks, remedy)
            elif is_before and getattr(callback, "monitor", None) in written:
                own, other = type(self).__name__, type(callback).__name__
                remedy = f"{other} follows {callback.monitor!r}, which {own} writes: put {own} first."
                raise _check.invalid("callbacks", f"{own} before {other}", callbacks, remedy)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares for a new run and, with `at_start`, evaluates the model; Keras calls it."""
        self._start()
        if self._at_start:
            self.before = self._values()
            self._note(self.before)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the best weights and warns if training made the model worse; Keras calls it."""
        key = next((key for key in (self.results or [{}])[-1] if key not in ("epoch", "step")), None)
        if key is None:
            return
        # Weights that another callback restores count as the best, too.
        best = max(result[key] for result in self.results)
        last = best if self._others_restore else self.results[-1][key]
        before = -math.inf if self.before is None else self.before[key]
        weights, self._best_weights = self._best_weights, None
        if self._keeps and weights is not None and last < max(best, before):
            self.model.set_weights(weights)
            last = max(best, before)
        if self._keeps and before > best:
            text = f"No evaluation found {key!r} at {before:.4f} again, where it was before training"
            warnings.warn(f"{text}: the model keeps the weights that it had.", stacklevel=2)
        elif last < before:
            text = f"{key!r} is {last:.4f} after training, and was {before:.4f} before"
            warnings.warn(f"{text}. `keep_best=True` keeps the best weights.", stacklevel=2)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prepares for an epoch; Keras calls it with the epoch's number, from 0."""
        self._epoch, self._steps_before = epoch, self._steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates every `every` steps and writes the values into that step's logs; Keras calls it."""
        if self._every is None:
            return
        # With `steps_per_execution` one call covers several steps; `batch` is the last of them.
        before, self._steps = self._steps, self._steps_before + batch + 1
        if before // self._every < self._steps // self._every:
            self._evaluate(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and writes the values into the epoch's logs; Keras calls it."""
        last = self.results[-1] if self.results else None
        if self._every is not None and last is not None and last["step"] == self._steps:
            if logs is not None:
                logs.update({key: value for key, value in last.items() if key not in ("epoch", "step")})
        else:
            self._evaluate(logs)

    def _values(self):
        scores = self._score(self._subject())
        return {
            f"{self._prefix}{key}": float(value)
            for key, value in scores.items()
            if (isinstance(value, numbers.Real) if self._keys is None else key in self._keys)
        }

    def _note(self, values):
        """Keeps the weights if they are the best so far; on a tie, the later ones win."""
        value = next(iter(values.values()), None)
        if self._keeps and value is not None and (self._best is None or value >= self._best):
            self._best, self._best_weights = value, self.model.get_weights()

    def _evaluate(self, logs):
        values = self._values()
        self._note(values)
        self.results.append({"epoch": self._epoch, "step": self._steps, **values})
        if logs is not None:
            logs.update(values)

    def __deepcopy__(self, memo):
        # Keras Tuner copies callbacks for each trial. The evaluation data never change, so the copies share them.
        made = copy.copy(self)
        keras.callbacks.Callback.set_model(made, None)
        made._start()
        return made
