"""Dropout that stops where the weights do."""

from typing import Any

import keras


class Freezable:
    """What layers with dropout share that run without it while they are frozen.

    Keras's `trainable = False` stops the weights and leaves the dropout on. A frozen layer is a fixed function, and
    noise in it only makes what stands above it learn from worse features; without it, its output can be kept too.

    The flag is read where a step is traced, as Keras itself reads it to see which weights train: a step that is traced
    after a layer thawed has its dropout.
    """

    trainable: bool
    # Whether dropout stays on while the layer is frozen, as in Keras.
    frozen_dropout = False

    def is_training(self, training: Any) -> Any:
        """Returns `training` as the dropouts within this layer are to see it."""
        return training if self.trainable or self.frozen_dropout else False


class TrainsInPart:
    """What models and layers share that train where any of the weights within does; a mixin.

    Keras has one flag for a whole. Once it is off, no weight within trains, whatever its own flag says.
    """

    weights: list

    @property
    def trainable(self) -> bool:
        """Whether any weight trains. Setting it sets the flags of all layers and weights within."""
        return any(weight.trainable for weight in self.weights)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)


def layers_within(layer):
    """Returns a layer and every layer in its attributes, lists and dicts of layers included; each once."""
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

    On TensorFlow, Keras ignores a flag that the layer has already, whatever flags its sublayers and weights have.
    """
    layer.trainable = not flag
    layer.trainable = bool(flag)
