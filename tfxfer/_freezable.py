"""Dropout that stops when the weights are frozen."""

from typing import Any

import keras


class Freezable:
    """Mixin for layers that disable their dropout while they are frozen.

    Keras's `trainable = False` freezes the weights but leaves dropout on. A frozen layer is a fixed function, and noise
    in it only gives the layers above worse features; without dropout, its output can also be cached.

    The flag is read when a step is traced, as Keras itself reads it to find the trainable weights: a step traced after
    a layer is unfrozen has its dropout.
    """

    trainable: bool
    # Whether dropout stays on while the layer is frozen, as in Keras.
    frozen_dropout = False

    def is_training(self, training: Any) -> Any:
        """Returns the `training` argument for the dropouts in this layer."""
        return training if self.trainable or self.frozen_dropout else False


class TrainsInPart:
    """Mixin for models and layers that train if any of their weights does.

    Keras has one flag for the whole. Once it is off, no weight inside trains, whatever its own flag.
    """

    weights: list

    @property
    def trainable(self) -> bool:
        """Whether any weight trains. Setting it sets the flags of all layers and weights inside."""
        return any(weight.trainable for weight in self.weights)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)


def layers_within(layer):
    """Returns a layer and every layer in its attributes, including lists and dicts of layers, each once."""
    found, waiting = {}, [layer]
    while waiting:
        layer = waiting.pop()
        if id(layer) in found:
            continue
        found[id(layer)] = layer
        waiting.extend(reversed([each for value in vars(layer).values() for each in _layers_in(value)]))
        waiting.extend(reversed(layer.layers if isinstance(layer, keras.Model) else []))
    return list(found.values())


def _layers_in(value):
    if isinstance(value, keras.layers.Layer):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _layers_in(each)


def switch(layer, flag):
    """Sets `trainable` on a layer, its sublayers and all their weights.

    On TensorFlow, Keras ignores setting a flag to its current value, even if sublayers and weights differ.
    """
    layer.trainable = not flag
    layer.trainable = bool(flag)
