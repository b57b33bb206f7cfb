"""Detects mistakes in a call to `search` before three trials are trained in vain."""

import contextlib

import keras

from tfxfer import _check, callbacks
from tfxfer.tuning._keras_tuner import fatal


class Watch:
    """The callbacks of a trial: the user's, a watcher, and Keras Tuner's own.

    Args:
        given: the callbacks from `search`: the user's, then Keras Tuner's.
        metrics: the names of the model's metrics, or `None` if they are unknown before the first epoch.
        is_validated: bool. Whether there are validation data.

    Attributes:
        callbacks: list of all of them.
    """

    def __init__(self, given, metrics, is_validated):
        given = list(given or ())
        own = [callback for callback in given if type(callback).__module__.startswith("keras_tuner.")]
        users = [callback for callback in given if callback not in own]
        objectives = [name for callback in own for name in _objectives(callback)]
        written = ["loss", *(metrics or ())]
        written += [f"val_{name}" for name in written] if is_validated else []
        # Metrics passed to the tuner replace the model's.
        known = metrics is not None and not any(
            getattr(getattr(callback, "tuner", None), "metrics", None) for callback in own
        )
        self._watcher = _Watcher(objectives, users, written if known else None)
        self.callbacks = [*users, self._watcher, *own]

    @contextlib.contextmanager
    def first_step(self):
        """Wraps `fit`: a `ValueError` before the end of the first step is caused by the call, not by the trial."""
        try:
            yield
        except ValueError as error:
            if self._watcher.is_begun:
                raise
            with fatal():
                raise error


class _Watcher(keras.callbacks.Callback):
    """Records that training has begun, and checks that the objective is logged.

    Args:
        objectives: list of the names that the tuner reads from the logs.
        users: list of the user's callbacks.
        written: list of the names that Keras logs, or `None` if they are unknown.
    """

    def __init__(self, objectives, users, written):
        super().__init__()
        self._objectives = objectives
        self._users = users
        self._written = written
        self.is_begun = False

    def on_train_begin(self, logs=None):
        # By now the evaluations know the model, and thus what they will log.
        if "default_objective" in self._objectives:
            remedy = 'For example `keras_tuner.Objective("val_accuracy", "max")`.'
            raise _check.invalid("objective", "the name of a value that training logs", None, remedy)
        evaluations = [callback for callback in self._users if isinstance(callback, callbacks.Evaluate)]
        others = [c for c in self._users if not type(c).__module__.startswith(("keras.", "tfxfer."))]
        if self._written is not None and not others and all(callback.keys() for callback in evaluations):
            self._expect([*self._written, *(key for callback in evaluations for key in callback.keys())])

    def on_train_batch_end(self, batch, logs=None):
        self.is_begun = True

    def on_epoch_end(self, epoch, logs=None):
        with fatal():
            self._expect(list(logs or {}))

    def _expect(self, written):
        """Raises if an objective is not logged."""
        for name in self._objectives:
            if name not in written:
                expected = f"one of the values that training logs, {', '.join(written)}"
                remedy = "Pass `validation_data`, or an evaluation of `tfxfer.callbacks` that logs it, to `search`."
                raise _check.invalid("objective", expected, name, remedy)


def _objectives(callback):
    """Returns the names that a callback of Keras Tuner reads from the logs."""
    objective = getattr(callback, "objective", None)
    if objective is None:
        return []
    return list(getattr(objective, "name_to_direction", None) or [objective.name])
