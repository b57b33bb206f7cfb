"""Scores for each token of the vocabulary from token vectors."""

import functools
from typing import Any

import keras
from keras import ops

from tfxfer import _ops

ACTIVATIONS = {
    "gelu": _ops.gelu,
    "gelu_approximate": functools.partial(_ops.gelu, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
}


class TakeTokens(keras.layers.Layer):
    """Gathers the vectors of some tokens of each row, in float32.

    Call arguments:
        inputs: float tensor `(batch, length, dim)`.
        positions: int tensor `(batch, count)`, the tokens' positions; a position below 0 gives zeros.

    Returns:
        A float32 tensor `(batch, count, dim)`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs: Any, positions: Any) -> Any:
        positions = ops.expand_dims(positions, -1)
        taken = ops.take_along_axis(inputs, ops.maximum(positions, 0), axis=1)
        return ops.where(positions < 0, ops.zeros_like(taken), taken)

    def compute_output_shape(self, inputs_shape: Any, positions_shape: Any) -> tuple:
        return (*positions_shape, inputs_shape[-1])


class TokenLogits(keras.layers.Layer):
    """`norm(activation(W x + b)) E^T + c`, in float32: a masked language model's head, tied to the embedding table E.

    The table belongs to the encoder: this layer uses it, but it is not one of its weights.

    Args:
        embedding: built `keras.layers.Embedding`, the embedding table.
        activation: string. A key of `ACTIVATIONS`.
        norm_epsilon: float. The epsilon of the layer norm.
        transform_bias: bool. Whether the dense layer has a bias.
        norm_bias: bool. Whether the norm has a bias.

    Call arguments:
        inputs: float tensor `(..., hidden_dim)`.

    Returns:
        A float32 tensor `(..., vocabulary_size)`.
    """

    # Code that computes with only some rows of the token table checks this.
    reads_token_table = True

    def __init__(
        self,
        embedding: Any,
        activation: str,
        norm_epsilon: float,
        transform_bias: bool,
        norm_bias: bool,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self._table = lambda: embedding  # hidden from Keras, which would track it as this layer's weight
        self.vocabulary_size, units = embedding.input_dim, embedding.output_dim
        options = {"dtype": "float32", "kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.02)}
        self.dense = keras.layers.Dense(units, use_bias=transform_bias, name="dense", **options)
        self.activation = ACTIVATIONS[activation]
        norm = {"epsilon": norm_epsilon, "center": norm_bias, "dtype": "float32"}
        self.norm = keras.layers.LayerNormalization(name="norm", **norm)

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)
        self.norm.build((*input_shape[:-1], self.dense.units))
        self.bias = self.add_weight(shape=(self.vocabulary_size,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = self.norm(self.activation(self.dense(inputs)))
        table = ops.cast(ops.convert_to_tensor(self._table().embeddings), "float32")
        return ops.matmul(x, ops.transpose(table)) + self.bias

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (*input_shape[:-1], self.vocabulary_size)
