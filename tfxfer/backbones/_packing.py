"""Leaving the padding out: the real tokens of a batch in one matrix, whatever the lengths of its rows.

All of a transformer but the attention works on each token by itself, so that its cost is that of the real tokens, and a
batch may mix short and long rows. The attention alone sees rows padded to one length.
"""

import contextlib
import contextvars

import keras
from keras import ops

_PADDED = contextvars.ContextVar("padded", default=False)


class Packing(keras.layers.Layer):
    """Says where the real tokens of a batch are.

    Call arguments:
        padding_mask: int tensor `(batch, length)`, 1 at real tokens.

    Returns:
        (tokens, slots): `tokens`, int32 `(real tokens,)`, the place of each real token in the flattened batch, and
        `slots`, int32 `(batch, length)`, the number of the token at each place, at padding some other token's. With the
        padding mask behind them they are the `packing` that the functions and layers below take.

        Where shapes must be known before the values are (any backend but TensorFlow), every place counts as a token.
    """

    def call(self, padding_mask):
        size = ops.size(padding_mask)
        places = ops.arange(size, dtype="int32")
        if not leaves_padding_out():
            return places, ops.reshape(places, ops.shape(padding_mask))
        # The first place counts in any case: a batch of padding alone has a token as well.
        real = ops.logical_or(ops.reshape(padding_mask, (-1,)) > 0, places == 0)
        slots = ops.cumsum(ops.cast(real, "int32")) - 1
        tokens = ops.cast(ops.nonzero(real)[0], "int32")
        return tokens, ops.reshape(slots, ops.shape(padding_mask))

    def compute_output_spec(self, padding_mask):
        slots = keras.KerasTensor(padding_mask.shape, "int32")
        return keras.KerasTensor((None,), "int32"), slots


class Pack(keras.layers.Layer):
    """Takes the real tokens out of a padded int tensor: `(batch, length)` to `(1, real tokens)`."""

    def call(self, inputs, packing):
        return pack(ops.expand_dims(inputs, -1), packing)[None, :, 0]

    def compute_output_spec(self, inputs, packing):
        return keras.KerasTensor((1, None), inputs.dtype)


class Unpack(keras.layers.Layer):
    """Puts the tokens back into rows: `(real tokens, dim)` to `(batch, length, dim)`."""

    def call(self, inputs, packing):
        return unpack(inputs, packing)

    def compute_output_spec(self, inputs, packing):
        return keras.KerasTensor((*packing[1].shape, inputs.shape[-1]), inputs.dtype)


def leaves_padding_out():
    """Whether the backend can work on a number of tokens that only the values tell."""
    return keras.config.backend() == "tensorflow" and not _PADDED.get()


@contextlib.contextmanager
def padded():
    """What is traced within computes every place: for runtimes that know shapes from those of their inputs."""
    token = _PADDED.set(True)
    try:
        yield
    finally:
        _PADDED.reset(token)


def pack(x, packing):
    """Returns the real tokens of `(batch, length, dim)` as `(real tokens, dim)`."""
    tokens, slots, mask = packing
    flat = ops.reshape(x, (-1, x.shape[-1]))
    if not leaves_padding_out():
        return flat

    @ops.custom_gradient
    def take(flat):
        def grad(upstream):
            # A gather and a mask: faster than the scatter that a gather's gradient is.
            spread = ops.take(upstream, ops.reshape(slots, (-1,)), axis=0)
            return spread * ops.cast(ops.reshape(mask, (-1, 1)), spread.dtype)

        return ops.take(flat, tokens, axis=0), grad

    return take(flat)


def unpack(x, packing):
    """Returns `(real tokens, dim)` as `(batch, length, dim)`; what stands at padding has no meaning, nor a gradient."""
    tokens, slots, _ = packing
    if not leaves_padding_out():
        return ops.reshape(x, (*ops.shape(slots), x.shape[-1]))

    @ops.custom_gradient
    def take(x):
        def grad(upstream):
            return ops.take(ops.reshape(upstream, (-1, upstream.shape[-1])), tokens, axis=0)

        return ops.take(x, slots, axis=0), grad

    return take(x)
