"""Loading saved and trained models in `from_preset` and `from_model`: unchanged, changed, or only the backbone."""

import json

import keras
import numpy as np

from tfxfer import _check, data

_REMEDY = "Leave it out, or pass `backbone_only=True`, which creates a new head on the backbone"


def keep_names(store, key, names):
    """Writes the names of a model's outputs into a file of weights."""
    store[key] = np.frombuffer(json.dumps(names).encode(), "uint8")


def without_names(store, key, names, remedy):
    """Returns a weight file's contents without the names of outputs; raises if they are not the model's."""
    rest = {name: store[name] for name in store.keys()}
    saved = rest.pop(key, None)
    found = None if saved is None else json.loads(np.asarray(saved).tobytes())
    if found is not None and found != names:
        raise _check.invalid("filepath", f"weights for the {key} {names}, in this order", found, remedy)
    return rest


def part_of(kind, task):
    """Returns a saved model if it is of a class, or its embedder if that is; otherwise `None`."""
    return next((part for part in (task, getattr(task, "embedder", None)) if isinstance(part, kind)), None)


def changed(task, arguments, changeable):
    """Returns a saved model with changed constructor arguments.

    Args:
        task: `TextTask`.
        arguments: dict of the constructor's arguments.
        changeable: names of the arguments that may differ from the saved ones.

    Returns:
        `task`, or a new model on its backbone with its weights.

    Raises:
        ValueError: if an argument contradicts the trained model's, or if the model does not have it.
    """
    saved = task.get_config()
    other = {}
    for name, value in arguments.items():
        if name == "trainable":
            continue
        if name not in saved:
            expected = f"an argument of the saved `{type(task).__name__}`: {', '.join(saved)}"
            raise _check.invalid(name, expected, value)
        if _plain(value, saved[name]) != _plain(saved[name], None):
            if name not in changeable:
                expected = f"{saved[name]!r}, which the saved `{type(task).__name__}` has"
                raise _check.invalid(name, expected, value, _REMEDY)
            other[name] = value
    if other:
        own = {name: getattr(task, name) for name in ("backbone", "preprocessor", "embedder") if name in saved}
        made = type(task).from_config({**saved, **own, **other})
        made.set_weights(task.get_weights())
        task = made
    if arguments.get("trainable") is not None:
        task.set_trainable(arguments["trainable"])
    return task


def without_keeping(arguments):
    """Returns the arguments of `from_preset` that are those of the constructor, i.e. without `keep_labels`."""
    return {name: value for name, value in arguments.items() if name != "keep_labels"}


def check_not_keeping(arguments):
    """Raises for `keep_labels=True` if a new head is created."""
    if arguments.get("keep_labels"):
        expected = "False if the preset has no trained outputs of this class, or with `backbone_only=True`"
        raise _check.invalid("keep_labels", expected, True)


def places_of(argument, names, known):
    """Returns the index of each name in the outputs of a trained head, `None` for a new name.

    Args:
        argument: string. The name of the caller's argument, for errors.
        names: sequence of the names of the new outputs.
        known: sequence of the names of the trained outputs.

    Raises:
        ValueError: if the head knows none of them.
    """
    known = list(known)
    places = [known.index(name) if name in known else None for name in names]
    if all(place is None for place in places):
        expected = f"some of the trained {', '.join(map(repr, known))}, with `keep_labels=True`"
        raise _check.invalid(argument, expected, list(names))
    return places


def with_outputs(task, argument, names, places, other=None):
    """Returns a copy of a trained model with other outputs, on its backbone and with its weights.

    Args:
        task: `TextTask` with `output_weights()`.
        argument: string. The constructor's argument for the names of outputs.
        names: list of the names.
        places: list of the index of each name in `task`; `None` for outputs that are initialized randomly.
        other: dict of other changes to the configuration.
    """
    config = {**task.get_config(), **(other or {})}
    parts = {name: getattr(task, name) for name in ("backbone", "preprocessor", "embedder") if name in config}
    if isinstance(config.get("head"), dict):  # a `layers.Head`, which stores its number of outputs
        parts["head"] = type(task.head).from_config({**task.head.get_config(), "num_outputs": len(names)})
    made = type(task).from_config({**config, **parts, argument: names})
    outputs = {id(weight): axes for weight, axes in made.output_weights()}
    for ours, theirs in zip(made.weights, task.weights, strict=True):
        ours.assign(placed(ours, theirs, places, outputs[id(ours)]) if id(ours) in outputs else theirs)
    return made


def placed(new, old, places, axes=(-1,)):
    """Returns the values of `new`, replaced along some axes by the values of `old` that `places` assigns."""
    old = keras.ops.convert_to_tensor(old)
    is_known = keras.ops.ones((), "bool")
    for axis in axes:
        flags = np.array([place is not None for place in places])
        is_known = keras.ops.logical_and(is_known, flags.reshape(-1, *[1] * (-1 - axis)))
        old = keras.ops.take(old, np.array([place or 0 for place in places]), axis=axis)
    return keras.ops.where(is_known, old, new)


def _plain(value, like):
    """A value of a constructor's argument as `get_config` writes it."""
    if isinstance(value, (keras.layers.Layer, data.Column)):
        value = keras.saving.serialize_keras_object(value)
    if isinstance(like, list) and isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each, None) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each, None) for name, each in value.items() if name != "build_config"}
    return value.item() if isinstance(value, np.generic) else value


def left_out(kind, pretrained):
    """Returns the name of the trained task whose head a class does not load from a preset, or `None`.

    Args:
        kind: the class to create.
        pretrained: `backbones.Pretrained`.
    """
    task = pretrained.task
    if task is None or not hasattr(task, "layer_groups"):
        return pretrained.trained_task
    if task.is_pretraining:
        return None
    kept = set()
    if kind.keeps_embedding:  # its `EmbeddingSpec` covers the layers after an embedder's pooling
        embedder = getattr(task, "embedder", task)
        kept = _head_weights(embedder) if getattr(embedder, "keeps_embedding", False) else set()
    return pretrained.trained_task if _head_weights(task) - kept else None


def _head_weights(task):
    return {id(weight) for layer in task.layer_groups().get("head", ()) for weight in layer.weights}


def notice(kind, name, labels=None):
    """Returns the warning that a class loads only the backbone of a trained task.

    Args:
        kind: the class to create.
        name: string. The class of the trained task; if it is `None`, there is no warning and the result is `None`.
        labels: the labels of the task, if they are the reason.
    """
    if name is None:
        return None
    reason = "" if labels is None else f" with the labels {', '.join(map(repr, labels))}"
    return (
        f"`{kind.__name__}.from_preset` loads only the backbone: the preset is a trained `{name}`{reason}, whose "
        "head is left out. Pass `backbone_only=True` if this is intended."
    )
