"""Attention layers over unpadded tokens."""

import math

import keras
from keras import ops

from tfxfer import _tensors
from tfxfer.backbones._parts import Dropout, dense, norm
from tfxfer.backbones._positions import rotate
from tfxfer.backbones._unpadding import HeadRows

# The length in tokens from which cuDNN's kernel is faster. It works in tiles of 64 queries by 128 keys, however short
# the rows are. On an H100, in bfloat16 with heads of 32, it takes 3.4 times as long as XLA's operations at 16 tokens,
# 1.9 times at 32, and 0.4 times at 128 (`benchmarks/gpu.py`).
_LONG = 64


class Attention(keras.layers.Layer):
    """Self-attention: `output_dense(softmax(query key^T * scale + bias) value)`.

    The dense layers are plain matrix products over the real tokens; TensorFlow fuses each with its bias and activation
    into one kernel. Only the scores and the weighted sum use padded rows. If the backend has a fused kernel (JAX), both
    run through `keras.ops.dot_product_attention`, except in training with dropout on the probabilities.

    Args:
        hidden_dim: int. Size of the input and the output.
        num_heads: int. Number of query heads.
        head_dim: int. Size of a head. Defaults to `hidden_dim / num_heads`.
        num_key_value_heads: int. Number of key and value heads, a divisor of `num_heads`: each serves
            `num_heads / num_key_value_heads` query heads (Ainslie et al., 2023, https://arxiv.org/abs/2305.13245).
            Defaults to `num_heads`.
        use_bias: bool. Whether query, key and value have a bias.
        output_bias: bool. Whether the output has a bias. Defaults to `use_bias`.
        scale: float. Factor on the scores. Defaults to `head_dim ** -0.5`.
        head_norm_epsilon: float. If given, an RMS norm with this epsilon is applied to each head's query and key.
            Defaults to `None`: no norm.
        dropout: float. Dropout rate on the attention probabilities.

    Call arguments:
        inputs: float tensor `(real tokens, hidden_dim)`.
        layout: the output of `TokenLayout`, the padding mask and, if rows may be grouped, the output of `LengthGroups`.
        bias: the output of `AttentionBias`.
        rotary: the output of `Rotary`, for rotary positions.
        training: bool. Whether dropout is active.

    Returns:
        A tensor of the shape of `inputs`.
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        *,
        head_dim=None,
        num_key_value_heads=None,
        use_bias=True,
        output_bias=None,
        scale=None,
        head_norm_epsilon=None,
        dropout=0.0,
        dtype=None,
        name="attention",
    ):
        super().__init__(dtype=dtype, name=name)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.scale = 1.0 / math.sqrt(self.head_dim) if scale is None else scale
        policy = self.dtype_policy
        wide, narrow = self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        self.query = dense(hidden_dim, wide, use_bias=use_bias, dtype=policy, name="query")
        self.key = dense(hidden_dim, narrow, use_bias=use_bias, dtype=policy, name="key")
        self.value = dense(hidden_dim, narrow, use_bias=use_bias, dtype=policy, name="value")
        output_bias = use_bias if output_bias is None else output_bias
        self.output_dense = dense(wide, hidden_dim, use_bias=output_bias, dtype=policy, name="output_dense")
        self.query_norm = self.key_norm = None
        if head_norm_epsilon is not None:
            self.query_norm = norm("rms", self.head_dim, head_norm_epsilon, dtype=policy, name="query_norm")
            self.key_norm = norm("rms", self.head_dim, head_norm_epsilon, dtype=policy, name="key_norm")
        self.dropout = Dropout(dropout, dtype=policy, name="dropout")

    def build(self, *shapes, **named_shapes):
        """Builds the layers; their sizes are known."""
        for layer in (self.query, self.key, self.value):
            layer.build((None, self.hidden_dim))
        self.output_dense.build((None, self.num_heads * self.head_dim))
        for layer in (self.query_norm, self.key_norm):
            if layer is not None:
                layer.build((None, None, self.head_dim))
        self.built = True

    def call(self, inputs, layout, bias, rotary=None, training=None):
        """Computes attention; see the call arguments of the class."""
        query = self._heads(self.query(inputs), self.query_norm, rotary)
        key = self._heads(self.key(inputs), self.key_norm, rotary)
        attend = self._attend_fused if self._is_fused(training) else self._attend
        projected = (query, key, self._heads(self.value(inputs)))
        return self.output_dense(_within_rows(projected, layout, training, attend, bias))

    def compute_output_spec(self, inputs, *args, **kwargs):
        """Returns the symbolic output: the shape of `inputs`."""
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def _heads(self, x, norm=None, rotary=None):
        """Splits `(real tokens, heads * head_dim)` into heads, and normalizes and rotates each."""
        x = ops.reshape(x, (-1, x.shape[-1] // self.head_dim, self.head_dim))
        x = x if norm is None else norm(x)
        return x if rotary is None else rotate(x, rotary)

    def _is_fused(self, training):
        # TensorFlow has no fused kernel, and the fused kernels have no dropout.
        return keras.config.backend() != "tensorflow" and not (training and self.dropout.rate)

    def _attend_fused(self, query, key, value, bias, training):
        length = ops.shape(query)[2]
        query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))  # as the kernels take them
        # cuDNN's kernel takes one bias per pair of query and key; with one bias per row, Keras does not use the kernel.
        # Its gradients require even lengths.
        is_long = length >= _LONG and length % 2 == 0
        if is_long:
            bias = ops.broadcast_to(bias, (*ops.shape(bias)[:2], length, length))
        flash = None if is_long else False  # for long rows, Keras detects whether there is a kernel
        context = ops.dot_product_attention(query, key, value, bias=bias, scale=self.scale, flash_attention=flash)
        return ops.swapaxes(context, 1, 2)

    def _attend(self, query, key, value, bias, training):
        """Computes attention within padded rows; inputs and output are `(batch, heads, length, head_dim)`."""
        heads, size, shared = self.num_key_value_heads, self.head_dim, self.num_heads // self.num_key_value_heads
        query, key = query * self.scale, ops.swapaxes(key, 2, 3)
        if shared > 1:  # query heads that share a key head are adjacent: treat them as one long query
            batch, _, length, _ = ops.shape(query)
            query = ops.reshape(query, (batch, heads, shared * length, size))
        matmul = _tensors.matmul if training else ops.matmul
        scores = matmul(query, key)
        if shared > 1:
            scores = ops.reshape(scores, (batch, heads * shared, length, length))
        weights = self.dropout(ops.softmax(scores + bias), training=training)
        if shared > 1:
            weights = ops.reshape(weights, (batch, heads, shared * length, length))
        context = matmul(weights, value)
        if shared > 1:
            context = ops.reshape(context, (batch, heads * shared, length, size))
        return context


class DisentangledAttention(Attention):
    """DeBERTa's attention: content to content, content to position, position to content.

    The `2 * length - 1` distances of a batch are projected once per block, and their scores are shifted into place
    without a gather.

    Args:
        position_dropout: float. Dropout rate on the relative position vectors.
        **kwargs: arguments of `Attention`.

    Call arguments:
        relative: the output of `RelativePositions`.

    Reference: He et al., 2021, https://arxiv.org/abs/2006.03654.
    """

    def __init__(self, hidden_dim, num_heads, *, position_dropout=0.0, **kwargs):
        # Three kinds of scores are summed.
        super().__init__(hidden_dim, num_heads, scale=1.0 / math.sqrt(3 * hidden_dim / num_heads), **kwargs)
        self.position_dropout = Dropout(position_dropout, dtype=self.dtype_policy, name="position_dropout")

    def call(self, inputs, layout, bias, relative=None, training=None):
        """Attends with three kinds of scores; see the call arguments of the class."""
        projected = [self._heads(layer(inputs)) for layer in (self.query, self.key, self.value)]
        return self.output_dense(_within_rows(projected, layout, training, self._attend_apart, bias, relative))

    def _attend_apart(self, query, key, value, bias, relative, training):
        relative = self.position_dropout(relative, training=training)
        relative_query, relative_key = (self._heads(layer(relative)) for layer in (self.query, self.key))
        scores = ops.einsum("bhqd,bhkd->bhqk", query, key)
        # Content to position: row q at distance q - k. Position to content: row k, the distances in reverse.
        scores += _shift(ops.einsum("bhqd,rhd->bhqr", query, relative_key))
        relative_query = ops.flip(relative_query, axis=0)
        scores += ops.swapaxes(_shift(ops.einsum("bhkd,rhd->bhkr", key, relative_query)), 2, 3)
        # In float32: sums of three products cancel, and bfloat16 would leave two digits.
        probabilities = ops.softmax(ops.cast(scores, "float32") * self.scale + ops.cast(bias, "float32"))
        probabilities = self.dropout(ops.cast(probabilities, value.dtype), training=training)
        return ops.einsum("bhqk,bhkd->bhqd", probabilities, value)


def _within_rows(projected, layout, training, attend, *shared):
    """Calls `attend` on the rows of a batch, or of each of its groups.

    Args:
        projected: query, key and value, float tensors `(real tokens, heads, head_dim)`.
        layout: see `Attention`.
        training: bool.
        attend: function of query, key and value `(rows, heads, length, head_dim)`, of an element of each of `shared`,
            and of `training`; returns a tensor of the query's shape.
        *shared: lists with an element for the batch and for each group.

    Returns:
        A float tensor `(real tokens, dim)`.
    """
    whole, *grouped = zip(*shared, strict=True)
    query, key, value = projected
    queries = keys = HeadRows(layout, query.shape[1], training)
    if key.shape[1] != query.shape[1]:
        keys = HeadRows(layout, key.shape[1], training)
    rows = zip(queries.pad(query), keys.pad(key), keys.pad(value), strict=True)
    shared = grouped if queries.is_grouped else [whole]
    return queries.unpad([attend(*x, *each, training) for x, each in zip(rows, shared, strict=True)])


def _shift(scores):
    """Takes the n entries from n - 1 - i on from row i of `(..., n, 2 n - 1)`: `(..., n, n)`.

    With one extra column, row i begins at offset 2 n i in memory and its entries at (2 n - 1) i + n - 1. A reshape that
    starts at offset n - 1 therefore aligns them in columns.
    """
    batch, heads, length = ops.shape(scores)[:3]
    width = 2 * length - 1
    flat = ops.reshape(ops.pad(scores, ((0, 0), (0, 0), (0, 0), (0, 1))), (batch, heads, 2 * length * length))
    flat = flat[:, :, length - 1 : length - 1 + length * width]
    return ops.reshape(flat, (batch, heads, length, width))[:, :, :, :length]
