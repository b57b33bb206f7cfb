"""Unpadding: the real tokens of a batch in one matrix, whatever the lengths of its rows.

Everything in a transformer except attention works on each token by itself. Without padding its cost is that of the real
tokens, and a batch can mix short and long rows. Only attention sees rows padded to one length.
"""

import contextlib
import contextvars

import keras
from keras import ops

# Numbers that TensorFlow's sums take at a time.
_GROUP = 16

_PADDED = contextvars.ContextVar("padded", default=False)


def leaves_padding_out():
    """Whether the backend can compute on a number of tokens that only the values tell."""
    return keras.config.backend() == "tensorflow" and not _PADDED.get()


@contextlib.contextmanager
def padded():
    """Code traced inside computes every place, for runtimes that derive shapes from those of their inputs."""
    token = _PADDED.set(True)
    try:
        yield
    finally:
        _PADDED.reset(token)


class TokenLayout(keras.layers.Layer):
    """Finds the real tokens of a batch.

    Call arguments:
        padding_mask: int tensor `(batch, length)`, 1 at real tokens.

    Returns:
        (tokens, slots): `tokens`, int32 `(real tokens,)`, is the place of each real token in the flattened batch;
        `slots`, int32 `(batch, length)`, is the number of the token at each place, and some other token's at padding.
        Together with the padding mask they are the `layout` that the functions and layers below take.

        Where shapes must be known before the values are (every backend except TensorFlow), every place counts as a
        token.
    """

    def call(self, padding_mask):
        """Finds the tokens; see the call arguments of the class."""
        size = ops.size(padding_mask)
        places = ops.arange(size, dtype="int32")
        if not leaves_padding_out():
            return places, ops.reshape(places, ops.shape(padding_mask))
        # The first place always counts, so that a batch of padding alone has a token as well.
        real = ops.logical_or(ops.reshape(padding_mask, (-1,)) > 0, places == 0)
        slots = ops.cumsum(ops.cast(real, "int32")) - 1
        tokens = ops.cast(ops.nonzero(real)[0], "int32")
        return tokens, ops.reshape(slots, ops.shape(padding_mask))

    def compute_output_spec(self, padding_mask):
        """Returns the symbolic output: any number of tokens, and slots of the mask's shape."""
        return keras.KerasTensor((None,), "int32"), keras.KerasTensor(padding_mask.shape, "int32")


class Widen(keras.layers.Layer):
    """Pads the padding mask for attention, in inference on TensorFlow, until its length is a multiple of 16.

    Attention's softmax sums a row in groups of 16 numbers and those left over. Where lengths are whole groups, padding
    adds zeros at the end of the same sums: a row's numbers do not depend on how long its neighbours are, to the bit.
    """

    def call(self, padding_mask, training=None):
        """Pads `(batch, length)`; see the class."""
        if training or not leaves_padding_out():
            return padding_mask
        missing = -ops.shape(padding_mask)[1] % _GROUP
        rows = ops.zeros((ops.shape(padding_mask)[0], missing), padding_mask.dtype)
        return ops.concatenate([padding_mask, rows], axis=1)

    def compute_output_spec(self, padding_mask, training=None):
        """Returns the symbolic output: any length."""
        return keras.KerasTensor((padding_mask.shape[0], None), padding_mask.dtype)


class Unpad(keras.layers.Layer):
    """Takes the real tokens out of a padded int tensor: `(batch, length)` to `(real tokens,)`."""

    def call(self, inputs, layout):
        """Takes the tokens out of `inputs`; `layout` as `TokenLayout` has it."""
        flat = ops.reshape(inputs, (-1,))
        return ops.take(flat, layout[0], axis=0) if leaves_padding_out() else flat

    def compute_output_spec(self, inputs, layout):
        """Returns the symbolic output: any number of tokens."""
        return keras.KerasTensor((None,), inputs.dtype)


class Pad(keras.layers.Layer):
    """Puts token vectors back into rows: `(real tokens, dim)` to `(batch, length, dim)`."""

    def call(self, inputs, layout, training=None):
        """Puts the vectors `inputs` in their places; `layout` as `TokenLayout` has it."""
        return pad(inputs, layout, training)

    def compute_output_spec(self, inputs, layout, training=None):
        """Returns the symbolic output: the batch's rows of vectors."""
        return keras.KerasTensor((*layout[1].shape, inputs.shape[-1]), inputs.dtype)


def unpad(x, layout):
    """Returns the real tokens of `(batch, length, dim)` as `(real tokens, dim)`."""
    flat = ops.reshape(x, (-1, x.shape[-1]))
    return ops.take(flat, layout[0], axis=0) if leaves_padding_out() else flat


def pad(x, layout, training=None):
    """Returns `(real tokens, dim)` as `(batch, length, dim)`.

    What is at padding is finite and has no meaning. No gradient may come back from there: what reads the result masks
    its padding.
    """
    tokens, slots, _ = layout
    shape = (*ops.shape(slots), x.shape[-1])
    if not leaves_padding_out():
        return ops.reshape(x, shape)
    if not training:
        return ops.take(x, slots, axis=0)
    # A scatter is a little slower than that gather, but its gradient is a gather; that of a gather is a sum over
    # places, which takes twice as long.
    batch, length, dim = shape
    return ops.reshape(ops.scatter(ops.expand_dims(tokens, 1), x, (batch * length, dim)), shape)
