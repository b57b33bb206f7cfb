"""The transformer block of the BERT-like families, laid out for speed, and dropout that stops in frozen layers."""

import math
from typing import Any

import keras
import keras_hub
from keras import ops

from tfxfer._freezable import Freezable
from tfxfer.backbones._packing import pack, unpack

# Stands for minus infinity on masked keys; within float16.
_MASKED = -3e4


class Dropout(Freezable, keras.layers.Dropout):
    """Keras's dropout, but for where it is frozen: behind the embeddings."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=self.is_training(training))


class TransformerDecoder(Freezable, keras_hub.layers.TransformerDecoder):
    """KerasHub's block with a causal mask (GPT-2), without dropout where it is frozen."""

    def call(self, decoder_sequence, decoder_padding_mask=None, training=None):
        training = self.is_training(training)
        return super().call(decoder_sequence, decoder_padding_mask=decoder_padding_mask, training=training)


class FlatTransformerEncoder(Freezable, keras_hub.layers.TransformerEncoder):
    """KerasHub's block with the same weights and the same numbers, on the matrix of real tokens instead of padded rows.

    Dense layers on `(real tokens, hidden_dim)` are plain matrix products with a bias and an activation behind them,
    which TensorFlow joins into one kernel each; on `(batch, length, hidden_dim)` they are einsums or tensor products
    with separate passes over the result. On CPU a forward pass takes 0.9x the time in float32 and 0.6x in bfloat16,
    where the error function alone, a pass of its own, costs more than the matrix product before it.

    Call arguments:
        inputs: float tensor `(real tokens, hidden_dim)`.
        packing: what `Packing` returned, and the padding mask.
        training: bool. Whether dropout is on, unless the block is frozen.

    Returns:
        A tensor of `inputs`' shape.
    """

    def call(self, inputs, packing, training=None):
        training = self.is_training(training)
        attended = self._attend(inputs, packing, training)
        x = self._self_attention_layer_norm(self._self_attention_dropout(attended, training=training) + inputs)
        fed = self._feedforward_output_dense(self._feedforward_intermediate_dense(x))
        return self._feedforward_layer_norm(self._feedforward_dropout(fed, training=training) + x)

    def _attend(self, x, packing, training):
        mask = packing[-1]
        batch, length = ops.shape(mask)
        attention = self._self_attention_layer
        heads, size = attention.num_heads, attention.key_dim

        def project(dense, order):
            return ops.transpose(ops.reshape(unpack(flat(dense, x), packing), (batch, length, heads, size)), order)

        query = project(attention._query_dense, (0, 2, 1, 3))
        key = project(attention._key_dense, (0, 2, 3, 1))
        value = project(attention._value_dense, (0, 2, 1, 3))
        masked = (1.0 - ops.cast(mask, x.dtype)) * _MASKED
        scores = ops.matmul(query * (1.0 / math.sqrt(size)), key) + ops.expand_dims(masked, (1, 2))
        weights = ops.softmax(scores)
        if attention._dropout:
            weights = attention._dropout_layer(weights, training=training)
        context = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        context = ops.reshape(context, (batch, length, heads * size))
        return flat(attention._output_dense, pack(context, packing))

    def compute_output_shape(self, inputs_shape, *args, **kwargs):
        return inputs_shape


def flat(dense, x):
    """Applies an einsum layer between `(..., dim)` and `(..., heads, size)` as one matrix product."""
    kernel = ops.reshape(dense.kernel, (x.shape[-1], -1))
    return ops.add(ops.matmul(x, kernel), ops.reshape(dense.bias, (-1,)))


_KINDS: dict[type, Any] = {
    keras_hub.layers.TransformerEncoder: FlatTransformerEncoder,
    keras_hub.layers.TransformerDecoder: TransformerDecoder,
}


def flatten(block, hidden_dim):
    """Returns this package's form of one of KerasHub's blocks, built, with weights of its own."""
    made = _KINDS[type(block)].from_config(block.get_config())
    if not made.built:  # a decoder's config says the shape that it was built for
        made.build((None, None, hidden_dim))
    return made
