"""The data of a search: tokenised once for each preset, and cut into batches of each trial's size."""

import hashlib
import pickle

import numpy as np

from tfxfer import _check, data


class TrialBatches:
    """Rows of one role (training, validation), tokenised once a preset and batched anew for each trial.

    Args:
        argument: string. What the rows are called in errors.
    """

    def __init__(self, argument):
        self._argument = argument
        self._given = ()
        self._digest = None
        self._kept = {}

    def batches(self, given, preset, model, batch_size, **options):
        """Makes batches of rows.

        Args:
            given: tuple (x,), (x, y) or (x, y, sample_weight), as `fit` takes them before they are batches.
            preset: string. Rows are tokenised once for each.
            model: the model of the trial; its preprocessor is that of all trials with the preset.
            batch_size: int.
            **options: of `data.batches`.

        Returns:
            `data.Batches`.

        Raises:
            ValueError: for batches, labels that are not the model's, and as `data.batches`.
        """
        digest = _digest(given)
        if digest is None or digest != self._digest:
            # Rows in a dataset go by its identity, which no other has while this one is kept.
            self._given, self._digest, self._kept = given, digest, {}
        rows = self._kept.get(preset)
        if rows is None:
            rows = self._checked(given, model)
        made = data.batches(rows, model, batch_size, **options)
        # What is streamed is tokenised in each epoch, as random maps and augmentations want it.
        if options.get("augment") is None and options.get(
            "cache", isinstance(given[0], data.Examples) or not hasattr(given[0], "element_spec")
        ):
            self._kept.setdefault(preset, made)
        return made

    def _checked(self, given, model):
        """Rows as `data.batches` takes them."""
        x = given[0]
        if isinstance(x, data.Batches) or isinstance(getattr(x, "element_spec", (None,))[0], dict):
            remedy = "The size of batches is a choice of each trial; options of `data.batches` go into `batches={...}`."
            raise _check.invalid(self._argument, "rows, as `data.labelled` or `data.pairs` gives them", x, remedy)
        if hasattr(x, "element_spec"):
            labels, expected = getattr(x, "labels", None), getattr(model, "labels", None)
            if labels is not None and expected is not None and list(labels) != list(expected):
                remedy = "Give the hypermodel and `data.labelled` the same `labels`."
                raise _check.invalid(self._argument, f"rows with the hypermodel's labels, {expected}", labels, remedy)
            return x
        if len(given) < 2 or given[1] is None:
            raise _check.invalid(self._argument, "texts and targets, or what `data` makes of them", x)
        weights = [np.asarray(values) for values in given[2:] if values is not None]
        return (x, model.read_targets(given[1]), *weights)


def _digest(given):
    """A hash of rows, which notices those that were changed in place; `None` for what cannot be hashed."""
    parts = [id(part) if hasattr(part, "element_spec") else part for part in given]
    try:
        return hashlib.blake2b(pickle.dumps(parts, protocol=5), digest_size=16).digest()
    except Exception:  # whatever a user's own sequence raises: the rows are then tokenised for each trial
        return None
