"""Unpadding: the real tokens of a batch in one matrix, regardless of the lengths of its rows.

Everything in a transformer except attention processes each token independently. With unpadding, its cost is that of the
real tokens, and a batch can mix short and long rows. Only attention uses rows padded to one length.
"""

import contextlib
import contextvars

import keras
from keras import ops

# The number of values that TensorFlow sums at a time.
_GROUP = 16

_PADDED = contextvars.ContextVar("padded", default=False)


def leaves_padding_out():
    """Returns whether the backend supports a number of tokens that is known only at run time."""
    return keras.config.backend() == "tensorflow" and not _PADDED.get()


@contextlib.contextmanager
def padded():
    """Computes every position in code traced in this context, for runtimes that infer all shapes from their inputs."""
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
        (tokens, slots): `tokens`, int32 `(real tokens,)`, is the index of each real token in the flattened batch.
        `slots`, int32 `(batch, length)`, is the number of the token at each position; at padding, that of some other
        token. Together with the padding mask, they are the `layout` that the functions and layers below take.

        If shapes must be known before the values (every backend except TensorFlow), every position counts as a token.
    """

    def call(self, padding_mask):
        """Finds the tokens; see the call arguments of the class."""
        size = ops.size(padding_mask)
        places = ops.arange(size, dtype="int32")
        if not leaves_padding_out():
            return places, ops.reshape(places, ops.shape(padding_mask))
        # The first position always counts, so that a batch of padding only also has a token.
        real = ops.logical_or(ops.reshape(padding_mask, (-1,)) > 0, places == 0)
        slots = ops.cumsum(ops.cast(real, "int32")) - 1
        tokens = ops.cast(ops.nonzero(real)[0], "int32")
        return tokens, ops.reshape(slots, ops.shape(padding_mask))

    def compute_output_spec(self, padding_mask):
        """Returns the symbolic output: any number of tokens, and slots of the mask's shape."""
        return keras.KerasTensor((None,), "int32"), keras.KerasTensor(padding_mask.shape, "int32")


class Widen(keras.layers.Layer):
    """Pads the padding mask for attention to a multiple of 16, in inference on TensorFlow.

    Attention's softmax sums a row in groups of 16 numbers and a remainder. If lengths are multiples of 16, padding adds
    zeros at the end of the same sums: a row's results are bit-identical regardless of the other rows' lengths.
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
    """Extracts the real tokens from a padded int tensor: `(batch, length)` to `(real tokens,)`."""

    def call(self, inputs, layout):
        """Extracts the tokens from `inputs`; `layout` as in `TokenLayout`."""
        flat = ops.reshape(inputs, (-1,))
        return ops.take(flat, layout[0], axis=0) if leaves_padding_out() else flat

    def compute_output_spec(self, inputs, layout):
        """Returns the symbolic output: any number of tokens."""
        return keras.KerasTensor((None,), inputs.dtype)


class Pad(keras.layers.Layer):
    """Puts token vectors back into rows: `(real tokens, dim)` to `(batch, length, dim)`."""

    def call(self, inputs, layout, training=None):
        """Places the vectors `inputs` at their positions; `layout` as in `TokenLayout`."""
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

    The values at padding are finite and meaningless. No gradient may flow back from them: whatever reads the result
    must mask its padding.
    """
    tokens, slots, _ = layout
    shape = (*ops.shape(slots), x.shape[-1])
    if not leaves_padding_out():
        return ops.reshape(x, shape)
    if not training:
        return ops.take(x, slots, axis=0)
    # A scatter is slightly slower than that gather, but its gradient is a gather. The gradient of a gather is a sum
    # over positions, which takes twice as long.
    batch, length, dim = shape
    return ops.reshape(ops.scatter(ops.expand_dims(tokens, 1), x, (batch * length, dim)), shape)
