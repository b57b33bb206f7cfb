"""How tasks store their heads."""

from typing import Any, Self

import keras

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model


class StoresHead(_Mixin):
    """Mixin that stores the argument `head`, the dropout before it, and whether it is still new, in the config."""

    # The arguments that may be Keras layers.
    _layer_arguments: tuple[str, ...] = ("head",)

    def get_config(self) -> dict[str, Any]:
        arguments = {name: getattr(self, name, None) for name in self._layer_arguments}
        arguments["head"] = self._head_argument
        return {
            **super().get_config(),
            **{name: _stored(value) for name, value in arguments.items()},
            "dropout": self.dropout,
            "new_head": self._head_sum() if self.has_new_head() else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        for name in cls._layer_arguments:
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        new_head = config.pop("new_head", None)
        model = super().from_config(config)
        model._new_heads |= {new_head} - {None}  # a head saved before training is still new after loading
        return model


def _stored(value):
    """Returns an argument as JSON: a name, a list of names, or the config of a layer."""
    if value is None or isinstance(value, str):
        return value
    return list(value) if isinstance(value, tuple) else keras.saving.serialize_keras_object(value)
