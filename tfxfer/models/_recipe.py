"""The preparation of `fit`: it initializes a new head, plans the rates, and warns of ineffective steps."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfxfer import _check, data, optimizers
from tfxfer.models import _probing, _training

# The rows used to initialize a head and to compute a warning: more would change little.
_MOST_ROWS, _MOST_TO_WARN = 5000, 1000
# Multiplies the best penalty if the encoder trains: a head that fits its rows exactly leaves no gradient.
_STRONGER = 10.0
# There is no warning with fewer rows than this, or if weights move further than this.
_LEAST_TO_WARN, _LONG_WAY = 50, 0.1
# `epochs="auto"`: the steps to reach, and the minimum and maximum number of epochs.
_STEPS, _EPOCHS = 300, (4, 10)
# Optimizers whose step size is about the learning rate.
_STEP_IS_RATE = (keras.optimizers.Adam, keras.optimizers.Adamax, keras.optimizers.Nadam, keras.optimizers.RMSprop)
# The fraction of the separating output that a head must be able to reach.
_REACH = 0.4


def begin(
    model: Any,
    source: Any,
    again: Callable[[], Any],
    *,
    below: Any = None,
    epochs: int | str,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    class_weight: Any = None,
) -> int:
    """Prepares a task model for `fit`.

    For `head="probe"` and for `optimizers.Auto`, an untrained head becomes a regression on the frozen features; the
    latter also plans its rates. For other optimizers, it warns if the steps are too few or too small for a new head.

    Args:
        model: compiled task model.
        source: the training data: batches, or anything else that Keras iterates over.
        again: function that returns the same data as batches to read outside the training (`Gate.again`), or `None` if
            that is impossible. It is called only if they are needed.
        below: Keras model from x of the batches to the features below the head; by default from the model's inputs.
        epochs: int, or `"auto"`.
        initial_epoch: int, as in `fit`.
        steps_per_epoch: int, as in `fit`.
        class_weight: dict of class index to weight, as in Keras.

    Returns:
        The number of epochs.

    Raises:
        ValueError: if the data cannot be iterated over twice but `epochs` is `"auto"` or the head must start as a
            probe.
    """
    steps = _steps(source) if steps_per_epoch is None else steps_per_epoch
    if epochs == "auto":
        if steps is None:
            remedy = "Give the number of epochs, or `steps_per_epoch`."
            raise _check.invalid("epochs", "an int for data whose number of batches is unknown", epochs, remedy)
        epochs = min(max(-(-_STEPS // steps), _EPOCHS[0]), _EPOCHS[1])
    epochs = _check.integer("epochs", epochs, minimum=0)
    optimizer = _training.subset_of(model.optimizer)
    is_auto, is_new = isinstance(optimizer, optimizers.Auto), model.has_new_head()
    start_head(model, source, again, is_auto=is_auto, below=below, class_weight=class_weight)
    if is_auto:
        total = None if steps is None else max(steps * epochs, 1)
        optimizer.plan(total, done=initial_epoch * (steps or 0))
    elif is_new and not model.starts_as_probe and steps is not None:
        _warn(model, again, below, steps * max(epochs - initial_epoch, 0), _limit(source, _MOST_TO_WARN))
    return epochs


def start_head(
    model: Any,
    source: Any,
    again: Callable[[], Any],
    *,
    is_auto: bool,
    below: Any = None,
    class_weight: Any = None,
    argument: str = "x",
) -> None:
    """Makes an untrained head a regression on the frozen features, if requested; see `begin`.

    Args:
        model: as in `begin`.
        source: as in `begin`.
        again: as in `begin`.
        is_auto: bool. Whether the optimizer is an `optimizers.Auto`.
        below: as in `begin`.
        class_weight: as in `begin`.
        argument: string. The name of the data in errors.

    Raises:
        ValueError: for a head that is to start as a probe, of what cannot be gone through twice.
    """
    can_start = model.has_new_head() or model.has_probed_head()
    # `head="probe"` requires it and raises if it is impossible.
    if not can_start or not (model.starts_as_probe or (is_auto and _probing.kind_of(model) is not None)):
        return
    batches = again()
    if batches is not None:
        stronger = _STRONGER if _trains_below(model) else 1.0
        options = {"limit": _limit(source), "class_weight": class_weight, "stronger": stronger}
        model.head_probe = _probing.probe(model, batches, below, **options)
    elif model.starts_as_probe:
        remedy = "Give rows in memory or a finite dataset, or create the model with `head='linear'`."
        raise _check.invalid(argument, "data that can be iterated over twice, for `head='probe'`", source, remedy)


def _steps(source):
    """The number of batches in an epoch, or `None` if it is unknown."""
    if hasattr(source, "cardinality"):
        count = int(source.cardinality())
        return count if count > 0 else None
    if isinstance(source, keras.utils.PyDataset):
        return source.num_batches
    return len(source) if hasattr(source, "__len__") else None


def _trains_below(model):
    """Whether a layer group other than the head trains."""
    groups = model.layer_groups()
    return any(layer.trainable_variables for name in groups if name != "head" for layer in groups[name])


def _limit(source, most=_MOST_ROWS):
    """The number of rows to use, from the first; all rows if they are in memory, as they may be sorted by class."""
    is_ordered = isinstance(source, data.Batches) and not source.is_shuffled and source.kept_targets() is not None
    return None if is_ordered else most


def _warn(model, again, below, steps, limit):
    """Warns if the training steps are too few and too small for a new head, and reports what a probe achieves."""
    travel = _travel(model, steps)
    if travel is None or travel > _LONG_WAY or any(not layer.trainable for layer in model.layer_groups()["head"]):
        return
    kind = _probing.kind_of(model)
    if kind is None:
        return
    batches = again()
    if batches is None or not _has_rows(batches, _LEAST_TO_WARN):
        return
    below = _probing.below_head(model, below)
    found, targets, _ = _probing.computed(below, batches, _LEAST_TO_WARN, of_words=kind == "tags")
    reach = travel * float(np.abs(found).sum(axis=1).mean())
    outputs = model.output.shape[-1]
    of_classes = math.log(outputs) if outputs > 1 else 0.0
    needed = {"classes": of_classes, "tags": of_classes, "labels": math.log(2)}
    wanted = needed.get(kind, float(np.std(targets)))
    if reach >= _REACH * wanted:
        return
    scores = _probing.probe(model, batches, below, limit=limit, assign=False).scores
    said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    warnings.warn(
        f"{steps} steps of this `fit` move an output of the new head by about {reach:.2g}; separating rows takes "
        f"about {wanted:.2g}. A regression on the frozen features reaches {said} on held-out rows. "
        'Compile with `optimizer="auto"`, which starts from it, or use more epochs or a higher rate for the head '
        "(`optimizers.Layerwise`).",
        stacklevel=4,
    )


def _has_rows(batches, count):
    """Whether batches have at least `count` rows in total."""
    for batch in batches:
        count -= keras.tree.flatten(batch)[0].shape[0]
        if count <= 0:
            return True
    return False


def _travel(model, steps):
    """The sum of the head's rates over the coming steps; `None` if the step size is not about the rate."""
    wrapped = _training.subset_of(model.optimizer)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer) if wrapped is None else wrapped.inner_optimizer
    if not isinstance(inner, _STEP_IS_RATE):
        return None
    rate = inner.get_config()["learning_rate"]
    if isinstance(rate, dict):
        try:
            rate = keras.optimizers.schedules.deserialize(rate)
        except (TypeError, ValueError):
            return None
    if callable(rate):
        first = int(keras.ops.convert_to_numpy(inner.iterations))
        places = np.unique(np.linspace(first, first + max(steps - 1, 0), num=32).astype("int64"))
        rate = float(np.mean([keras.ops.convert_to_numpy(rate(place)) for place in places]))
    multiplier = wrapped.group_multipliers.get("head", 1.0) if isinstance(wrapped, optimizers.Layerwise) else 1.0
    return float(rate) * steps * multiplier
