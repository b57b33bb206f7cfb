"""Checks whether a checkpoint belongs to the same training run."""

import json
import re

import keras

from tfxfer import optimizers
from tfxfer._freezable import layers_within


def identity(model, batches, params, digest):
    """Returns what must match for a checkpoint to fit, keyed by the names that errors use."""
    optimizer = model.optimizer
    if type(optimizer) is optimizers.Subset:  # `fit` wraps if only a part trains
        optimizer = optimizer.inner_optimizer
    return {
        "class of the model": type(model).__name__,
        "variables of the model": [signature(variable) for variable in model.variables],
        "labels": _labels(model),
        "dtype policies": sorted({layer.dtype_policy.name for layer in layers_within(model)}),
        "loss": _loss(model),
        "optimizer": type(optimizer).__name__,
        "settings of the optimizer": _settings(optimizer.get_config()),
        "seed of the data": None if batches is None else batches.seed,
        "augmentation of the data": getattr(batches, "augmentation", None),
        "batches of an epoch": params.get("steps"),
        "rows of the data": digest,
    }


def _labels(model):
    """The labels of a model; of a multi-task model, those of each task."""
    labels = getattr(getattr(model, "full_model", model), "labels", None)
    if labels is None and hasattr(model, "tasks"):
        return {name: _labels(task) for name, task in model.tasks.items()}
    return None if labels is None else list(labels)


def _loss(model):
    """The loss of a model and its weights, as far as they can be serialized."""
    tasks = getattr(model, "tasks", {})
    if tasks:
        weights = {name: model.compile_arguments[name] for name in ("loss_weights", "conflicts")}
        return {**{name: _loss(task) for name, task in tasks.items()}, "weights": _settings(weights)}
    arguments = getattr(getattr(model, "full_model", model), "compile_arguments", None) or {"loss": model.loss}
    serialized = []
    for name in ("loss", "loss_weights"):
        try:
            serialized.append(keras.saving.serialize_keras_object(arguments.get(name)))
        except (TypeError, ValueError):
            serialized.append(type(arguments[name]).__name__)
    return _settings(serialized)


def _settings(config):
    return _nameless(json.loads(json.dumps(config, default=lambda value: type(value).__name__)))


def _nameless(config):
    # Keras numbers the names of new objects by what the process has created before.
    if isinstance(config, dict):
        if config.get("registered_name") == "tfxfer>Subset":
            return _nameless(config["config"]["optimizer"])
        return {key: _nameless(value) for key, value in config.items() if key != "name"}
    return [_nameless(value) for value in config] if isinstance(config, list) else config


def name_of(variable):
    # As above.
    return re.sub(r"_\d+(?=_|/|$)", "", variable.path)


def signature(variable):
    return [name_of(variable), list(variable.shape), variable.dtype]


def difference(there, here):
    """Returns the smallest part in which two values differ, for an error."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = [name for name in [*there, *here] if there.get(name) != here.get(name)]
        return {names[0]: there.get(names[0])}, {names[0]: here.get(names[0])}
    if isinstance(there, list) and isinstance(here, list):
        if len(there) != len(here):
            return f"{len(there)}", f"{len(here)}"
        return next((was, now) for was, now in zip(there, here, strict=True) if was != now)
    return there, here
