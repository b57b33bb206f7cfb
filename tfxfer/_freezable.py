"""Dropout that stops where the weights do."""


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

    def is_training(self, training):
        """Returns `training` as the dropouts within this layer are to see it."""
        return training if self.trainable or self.frozen_dropout else False


def switch(layer, flag):
    """Sets `trainable` on a layer, its sublayers and all their weights.

    On TensorFlow, Keras ignores a flag that the layer has already, whatever flags its sublayers and weights have.
    """
    layer.trainable = not flag
    layer.trainable = bool(flag)
