"""A model's record of its training runs, for its card and exports."""

import datetime
import math
from typing import Any

import keras
import numpy as np

from tfxfer._version import __version__

# The number of training runs to keep, the last ones.
_MOST = 20
# The number of texts kept for examples while the process lives, and their maximum length in characters.
_TEXTS, _LONGEST = 5, 300

_Mixin: Any = object  # classes that use the mixin have the methods of a task model


class KeepsRecord(_Mixin):
    """`training_record`, which `fit` extends; a mixin."""

    _record: tuple = ()
    _seen_texts: Any = None

    @property
    def training_record(self) -> list[dict[str, Any]]:
        """How the model was trained: a dict for each completed `fit`, the last 20; saved with the model.

        Keys: `rows` (`None` for data of unknown length), `epochs`, `steps` (those of the optimizer), `batch_size`,
        `seed`, `optimizer`, `learning_rate` (its peak with `"auto"`; `None` with a schedule), `loss`,
        `trainable` (the layer groups with weights that trained), `date` (UTC) and `tfxfer` (its version). It contains
        no text.
        """
        return [dict(each) for each in self._record]

    def _record_config(self):
        return {"training_record": self.training_record} if self._record else {}

    def record_lines(self) -> list[str]:
        """Returns a human-readable line for each training run."""
        found = []
        for each in self._record:
            rows = "rows of unknown number" if each["rows"] is None else f"{each['rows']:,} rows"
            rate = "" if each["learning_rate"] is None else f" at {each['learning_rate']:.3g}"
            epochs = "epoch" if each["epochs"] == 1 else "epochs"
            seed = "" if each["seed"] is None else f", seed {each['seed']}"
            found.append(
                f"{each['date'][:10]}: {rows}, {each['epochs']} {epochs} of batches of {each['batch_size']} "
                f"({each['steps']:,} steps), {each['optimizer']}{rate}, {each['loss']}{seed}; "
                f"trained: {', '.join(each['trainable'])}"
            )
        return found

    def _note_training(self, start, history):
        """Adds a completed training run to the record; `start` is the result of `_before_training`."""
        made = {
            **start,
            "epochs": len(history.epoch),
            "steps": int(np.asarray(self.optimizer.iterations)) - start["steps"],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tfxfer": __version__,
        }
        self._record = (*self._record, made)[-_MOST:]

    def _before_training(self, rows, batch_size, seed):
        """Returns what is known of a training run before it begins.

        Args:
            rows: the data of `fit`: `data.Examples`, arrays, batches.
            batch_size: int or `None`.
            seed: int or `None`.
        """
        x = getattr(rows, "x", None)
        optimizer = self.optimizer
        settings = optimizer.get_config()
        rate = settings.get("learning_rate", settings.get("peak"))
        self._seen_texts = _texts_of(x) or self._seen_texts
        return {
            "rows": None if x is None else _count(x),
            "batch_size": batch_size or 32,
            "seed": seed,
            "optimizer": type(optimizer).__name__,
            "learning_rate": float(rate) if isinstance(rate, (int, float)) and math.isfinite(rate) else None,
            "loss": _name_of(self.loss),
            "trainable": [
                name
                for name, found in self.layer_groups().items()
                if any(weight.trainable for layer in found for weight in layer.weights)
            ],
            "steps": int(np.asarray(optimizer.iterations)),
        }

    @property
    def example_texts(self) -> Any:
        """Some short texts of the last `fit` of this process, for examples in an export: a list, or `None`.

        For a model that reads pairs, a tuple of two lists. They are never saved with the model.
        """
        return self._seen_texts


def _texts_of(x):
    """A few short texts, evenly spaced over all of them; `None` if the rows are not texts."""
    columns = x if isinstance(x, tuple) else (x,)
    if x is None or not all(
        getattr(column, "dtype", None) == "string" and len(column.shape) == 1 for column in columns
    ):
        return None
    rows = [row for row in zip(*map(_spread, columns), strict=True) if all(map(_is_short, row))]
    if not rows:
        return None
    found = tuple(list(column) for column in zip(*rows[:_TEXTS], strict=True))
    return found if isinstance(x, tuple) else found[0]


def _count(x):
    first = keras.tree.flatten(x)[0]
    return int(first.nrows()) if hasattr(first, "nrows") else len(first)


def _spread(column):
    """Some texts of a column, evenly spaced over it."""
    count, most = len(column), 4 * _TEXTS
    places = sorted({i * count // most for i in range(most)}) if count else []
    return [column[place].numpy().decode(errors="replace") for place in places]


def _is_short(text):
    return isinstance(text, str) and 0 < len(text.strip()) and len(text) <= _LONGEST


def _name_of(loss):
    """The name of a loss, or of its class."""
    if loss is None or isinstance(loss, str):
        return loss
    if isinstance(loss, (list, tuple)):
        return ", ".join(str(_name_of(each)) for each in loss)
    if isinstance(loss, dict):
        return ", ".join(f"{name}: {_name_of(each)}" for name, each in loss.items())
    return getattr(loss, "__name__", None) or type(loss).__name__
