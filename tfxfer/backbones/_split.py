"""States of several layers, encoders split at a layer, and stopped gradients."""

import keras
from keras import ops

from tfxfer import _check


class Join(keras.layers.Layer):
    """Concatenates the vectors of several layers: a list of `(..., dim)` to `(..., k * dim)`."""

    def call(self, inputs):
        return ops.concatenate(inputs, axis=-1)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs[0].shape[:-1], sum(x.shape[-1] for x in inputs)), inputs[0].dtype)


class Separate(keras.layers.Layer):
    """Inverts `Join`: returns a list of `count` tensors.

    Call arguments:
        inputs: float tensor `(..., count * dim)`.
        padding_mask: int tensor. Not read; in a model of inputs and mask, both must be connected to the output.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, inputs, padding_mask):
        dim = inputs.shape[-1] // self.count
        return [inputs[..., i * dim : (i + 1) * dim] for i in range(self.count)]

    def compute_output_spec(self, inputs, padding_mask):
        shape = (*inputs.shape[:-1], inputs.shape[-1] // self.count)
        return [keras.KerasTensor(shape, inputs.dtype) for _ in range(self.count)]


class States(keras.Model):
    """A functional model of an encoder's layers through which no gradient flows while all of them are frozen."""

    def call(self, inputs, training=None, mask=None):
        """Computes the states."""
        return stopped(self, super().call(inputs, training=training, mask=mask))


def stopped(encoder, states):
    """Returns states, as constants if nothing in the encoder trains, so that no backward pass is built below."""
    # TensorFlow records everything that reads a variable created as trainable, regardless of Keras's current flag.
    return states if encoder.trainable_variables else keras.tree.map_structure(ops.stop_gradient, states)


def check_layers(argument, states, count):
    """Returns layer numbers as a list; raises if they are not ascending or a layer does not exist."""
    states = [_check.integer(argument, each, minimum=0) for each in states]
    if not states or states != sorted(set(states)) or states[-1] >= count:
        raise _check.invalid(argument, f"ints from 0 to {count - 1} in ascending order", states)
    return states


def models(inputs, kept, cut, mask, upper, padding):
    """Returns the two models of `Backbone.split` with `states`.

    Args:
        inputs: the backbone's inputs.
        kept: list of the states that are read below the cut.
        cut: the states at which the upper part begins.
        mask: the backbone's padding mask.
        upper: list of the states that are read above, padded; they depend only on `cut` and `mask`.
        padding: function that pads states below the cut.
    """
    stored = [*kept, cut] if upper else kept
    options = {"dtype": cut.dtype}
    joined = Join(name="join", **options)(stored) if len(stored) > 1 else stored[0]
    fresh = keras.Input(batch_shape=joined.shape, dtype=joined.dtype, name="states")
    parts = Separate(len(stored), name="separate", **options)(fresh, mask)
    found = [padding(part) for part in parts[: len(kept)]]
    if upper and upper[0] is cut:
        found.append(parts[-1])
    rest = [states for states in upper if states is not cut]
    if rest:
        above = keras.Model([cut, mask], rest, name="upper")([parts[-1], mask])
        found += above if isinstance(above, (list, tuple)) else [above]
    return keras.Model(inputs, joined, name="below"), keras.Model([fresh, mask], found, name="above")
