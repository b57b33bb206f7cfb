"""The results of a search: the table of its trials, and its best model."""

from typing import Any

from tfxfer import _check

# Values that Hyperband adds to the hyperparameters: the last epoch of a trial, and of the trial that it continues.
_TUNERS_OWN = "tuner/"
_EPOCHS = "tuner/epochs"
_INITIAL_EPOCH = "tuner/initial_epoch"


class Trials(list):
    """A list of trials as dicts, the best first. It prints as a table."""

    def __str__(self):
        if not self:
            return "no trials"
        names = list(dict.fromkeys(name for trial in self for name in trial))
        rows = {name: [trial.get(name) for trial in self] for name in names}
        fixed = {n: v[0] for n, v in rows.items() if n not in _RESULTS and len(self) > 1 and all(x == v[0] for x in v)}
        lines = _aligned({name: values for name, values in rows.items() if name not in fixed})
        if fixed:
            lines.append("in all trials: " + ", ".join(f"{name}={_shown(value)}" for name, value in fixed.items()))
        return "\n".join(lines)


_RESULTS = ("trial", "status", "score", "epoch", "seconds")


def trials(tuner: Any) -> list:
    """Lists the trials of a search, the best first.

    Args:
        tuner: a tuner of Keras Tuner, during or after `search`, or reloaded from its directory. In a distributed
            search, the chief's tuner.

    Returns:
        A list of dicts, which prints as a table: `trial`, the trial's id; `status`, its status in Keras Tuner
        (`"COMPLETED"`, `"FAILED"`, ...); `score`, the objective's value, or `None` unless completed; `epoch`, the epoch
        with that score, counted from 1; `seconds`, the duration of the training; then the active hyperparameters, and
        `epochs` under Hyperband.

    Raises:
        ValueError: if `tuner` is not a tuner, or belongs to a worker of a distributed search.

    Example:

    ```python
    found = tx.tuning.trials(tuner)
    print(found)
    found[0]["learning_rate"]
    ```
    """
    oracle = _oracle(tuner)
    sign = -1 if oracle.objective.direction == "max" else 1
    made = [_row(trial) for trial in oracle.trials.values()]
    return Trials(sorted(made, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0))))


def best_model(tuner: Any) -> Any:
    """Returns the model of the best trial, with the weights of its best epoch.

    The same as `tuner.get_best_models()[0]`, but raises if no trial was completed. The optimizer state is not restored:
    Keras Tuner keeps only the weights.

    Args:
        tuner: a tuner of Keras Tuner with a `HyperModel`.

    Returns:
        A model of `models`, ready for prediction, saving and export.

    Raises:
        ValueError: if `tuner` is not a tuner, belongs to a worker of a distributed search, or has no completed trial.

    Example:

    ```python
    model = tx.tuning.best_model(tuner)
    tx.export.saved_model(model, "serving/intents")
    ```
    """
    if not any(trial.status == "COMPLETED" for trial in _oracle(tuner).trials.values()):
        remedy = "Call `tuner.search(...)` first; `print(tx.tuning.trials(tuner))` shows the status of the trials."
        raise _check.invalid("tuner", "a tuner with a completed trial", tuner, remedy)
    return tuner.get_best_models()[0]


def _oracle(tuner):
    oracle = getattr(tuner, "oracle", None)
    if not hasattr(oracle, "trials"):
        remedy = "In a distributed search, only the chief knows the trials." if oracle is not None else None
        raise _check.invalid("tuner", "a tuner of Keras Tuner that knows its trials", tuner, remedy)
    return oracle


def _row(trial):
    values = trial.hyperparameters.values
    row = {
        "trial": trial.trial_id,
        "status": trial.status,
        "score": trial.score if trial.status == "COMPLETED" else None,
        # Keras Tuner counts the best step within the trial's own epochs.
        "epoch": values.get(_INITIAL_EPOCH, 0) + trial.best_step + 1 if trial.status == "COMPLETED" else None,
        "seconds": trial.metrics.get_last_value("seconds") if trial.metrics.exists("seconds") else None,
        **{name: value for name, value in values.items() if not name.startswith(_TUNERS_OWN)},
    }
    return {**row, "epochs": values[_EPOCHS]} if _EPOCHS in values else row


def _shown(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(columns):
    """Returns the lines of a table, with right-aligned numbers."""
    cells = {name: [name, *map(_shown, values)] for name, values in columns.items()}
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    left = {name for name, values in columns.items() if any(isinstance(value, str) for value in values)}
    lines = []
    for i in range(1 + len(next(iter(columns.values())))):
        parts = [
            cells[name][i].ljust(widths[name]) if name in left else cells[name][i].rjust(widths[name])
            for name in columns
        ]
        lines.append("  ".join(parts).rstrip())
    return lines
