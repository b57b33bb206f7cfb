"""The data of a search: tokenized once for each preset, and batched with the batch size of each trial."""

import hashlib
import pickle

import numpy as np

from tfxfer import _check, data


class TrialBatches:
    """Rows for training or validation, tokenized once for each preset and batched for each trial.

    Args:
        argument: string. The name of the rows in errors.
    """

    def __init__(self, argument):
        self._argument = argument
        self._given = ()
        self._digest = None
        self._kept = {}

    def batches(self, given, preset, model, batch_size, **options):
        """Returns batches of rows.

        Args:
            given: tuple (x,), (x, y) or (x, y, sample_weight) of rows, as in `fit`, not batched.
            preset: string. Rows are tokenized once for each preset.
            model: the model of the trial; all trials with the preset share its preprocessor.
            batch_size: int.
            **options: passed to `data.batches`.

        Returns:
            `data.Batches`.

        Raises:
            ValueError: if the rows are already batched, or their labels are not the model's; and as in `data.batches`.
        """
        digest = _digest(given)
        if digest is None or digest != self._digest:
            # A dataset is identified by its id, which is unique while the dataset is kept.
            self._given, self._digest, self._kept = given, digest, {}
        rows = self._kept.get(preset)
        if rows is None:
            rows = self._checked(given, model)
        made = data.batches(rows, model, batch_size, **options)
        # Streamed rows are tokenized in each epoch, as random maps and augmentations require.
        if options.get("augment") is None and options.get(
            "cache", isinstance(given[0], data.Examples) or not hasattr(given[0], "element_spec")
        ):
            self._kept.setdefault(preset, made)
        return made

    def _checked(self, given, model):
        """Returns the rows in a form that `data.batches` accepts."""
        x = given[0]
        if isinstance(x, data.Batches) or isinstance(getattr(x, "element_spec", (None,))[0], dict):
            remedy = "Each trial chooses its batch size; pass options of `data.batches` in `batches={...}`."
            raise _check.invalid(self._argument, "rows, as returned by `data.labelled` or `data.pairs`", x, remedy)
        if hasattr(x, "element_spec"):
            labels, expected = getattr(x, "labels", None), getattr(model, "labels", None)
            if labels is not None and expected is not None and list(labels) != list(expected):
                remedy = "Pass the same `labels` to the hypermodel and to `data.labelled`."
                raise _check.invalid(self._argument, f"rows with the hypermodel's labels, {expected}", labels, remedy)
            return x
        if len(given) < 2 or given[1] is None:
            raise _check.invalid(self._argument, "texts and targets, or rows made by `tfxfer.data`", x)
        weights = [np.asarray(values) for values in given[2:] if values is not None]
        return (x, model.read_targets(given[1]), *weights)


def _digest(given):
    """Returns a hash of rows, which detects rows changed in place; `None` if they cannot be hashed."""
    parts = [id(part) if hasattr(part, "element_spec") else part for part in given]
    try:
        return hashlib.blake2b(pickle.dumps(parts, protocol=5), digest_size=16).digest()
    except Exception:  # any error of a user's own sequence: the rows are then tokenized for each trial
        return None
