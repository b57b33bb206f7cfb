"""Configurations of models that share layers: each shared layer is written once and shared again after reading."""

from typing import Any

import keras

_NAME = "tfxfer>shared_{}"


def shared_configs(models: list, backbone: Any) -> tuple[list, list]:
    """Returns the configurations of shared parts, and those of the models with references to these parts.

    The shared parts are the backbone, preprocessors, and embedders (`tower()`).

    Args:
        models: task models on one backbone.
        backbone: the backbone.

    Returns:
        (shared, configs), two lists of results of `keras.saving.serialize_keras_object`.
    """
    shared: list = []
    known: dict[int, tuple] = {}

    def place_of(part, inner):
        """The configuration of a part, and its reference."""
        if id(part) not in known:
            config = keras.saving.serialize_keras_object(part)
            marker = {
                "module": None,
                "class_name": _NAME.format(len(shared)),
                "config": {},
                "registered_name": _NAME.format(len(shared)),
            }
            shared.append(_with_places(config, inner))
            known[id(part)] = (config, marker)
        return known[id(part)]

    configs = []
    for model in models:
        places = [place_of(backbone, [])]
        tower = model.tower()
        # The configuration identifies a part: two preprocessors, or two embedders, may have the same one.
        if model.preprocessor is not None:
            places.append(place_of(model.preprocessor, []))
        if tower is not model or any(each.tower() is model for each in models if each is not model):
            places.append(place_of(tower, places))
        configs.append(_with_places(keras.saving.serialize_keras_object(model), places))
    return shared, configs


def _with_places(config, places):
    """Replaces parts in a configuration by their references, the largest parts first."""
    for found, marker in reversed(places):
        if config == found:
            return marker
    if isinstance(config, dict):
        return {key: _with_places(value, places) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_with_places(value, places) for value in config]
    return config


def from_shared(shared: list, configs: list) -> list:
    """Makes the models from the result of `shared_configs`."""
    scope: dict[str, Any] = {}

    def read(config):
        with keras.saving.custom_object_scope(scope):
            return keras.saving.deserialize_keras_object(config)

    for number, config in enumerate(shared):
        part = read(config)
        scope[_NAME.format(number)] = type("Shared", (), {"from_config": staticmethod(lambda _, part=part: part)})
    return [read(config) for config in configs]
