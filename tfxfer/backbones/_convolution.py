"""Depthwise-separable convolutions over unpadded tokens."""

import keras
from keras import ops

from tfxfer.backbones._parts import Dropout, dense


class SeparableConvolution(keras.layers.Layer):
    """Mixes each token with its neighbors in the same text; replaces attention in a block.

    `output_dense(dropout(sum_j w_j * x_(t + j - (k - 1) // 2)))`: a depthwise convolution of width `k` with one weight
    per offset and feature, followed by a pointwise convolution (Chollet, 2017, https://arxiv.org/abs/1610.02357).
    Padding, and positions beyond the ends of a text, count as zeros.

    Args:
        hidden_dim: int. Size of the input and the output.
        num_heads: int. Unused; keeps the signature of `Attention`.
        kernel_size: int, `k`.
        dropout: float. Dropout rate before the pointwise convolution.

    Call arguments:
        inputs: float tensor `(real tokens, hidden_dim)`.
        layout: the output of `TokenLayout`, followed by the padding mask.
        training: bool. Whether dropout is active.
    """

    # Attention layers have these for adapters; convolutions do not.
    query = key = value = None

    def __init__(
        self,
        hidden_dim,
        num_heads,
        *,
        kernel_size,
        dropout=0.0,
        dtype=None,
        name="attention",
    ):
        super().__init__(dtype=dtype, name=name)
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.output_dense = dense(hidden_dim, hidden_dim, dtype=self.dtype_policy, name="output_dense")

    def build(self, *shapes, **named_shapes):
        """Builds the weights; their sizes are known."""
        start = keras.initializers.TruncatedNormal(stddev=self.kernel_size**-0.5)
        shape = (self.kernel_size, self.hidden_dim)
        self.depthwise = self.add_weight(shape=shape, initializer=start, name="depthwise")
        self.output_dense.build((None, self.hidden_dim))
        self.built = True

    def call(self, inputs, layout, training=None):
        """Computes the convolution; see the call arguments of the class."""
        return self.output_dense(self.dropout(self.mixed(inputs, layout), training=training))

    def mixed(self, inputs, layout):
        """Returns the depthwise convolution alone."""
        places, _, mask, *_ = layout
        count, length = ops.shape(inputs)[0], ops.shape(mask)[1]
        # If the batch is not unpadded, or consists of padding only, some places are not tokens.
        is_real = ops.take(ops.reshape(mask, (-1,)), places, axis=0) > 0
        x = ops.where(ops.expand_dims(is_real, 1), inputs, ops.zeros_like(inputs))
        before = (self.kernel_size - 1) // 2
        sides = (before, self.kernel_size - 1 - before)
        x, neighbours = ops.pad(x, (sides, (0, 0))), ops.pad(places, (sides,), constant_values=-1)
        found = 0.0
        for j in range(self.kernel_size):
            at = places + (j - before)
            # A neighbor is in the same row at exactly this distance, not at the end of the previous text.
            is_near = ops.logical_and(neighbours[j : j + count] == at, at // length == places // length)
            near = ops.cast(ops.expand_dims(is_near, 1), x.dtype)
            found = found + ops.cast(self.depthwise[j], x.dtype) * (near * x[j : j + count])
        return found

    def compute_output_spec(self, inputs, layout, training=None):
        """Returns the symbolic output: the shape of `inputs`."""
        return keras.KerasTensor(inputs.shape, self.compute_dtype)
