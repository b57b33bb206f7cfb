"""The transformer block, assembled from parts."""

import keras
from keras import ops

from tfxfer import _tensors
from tfxfer._freezable import Freezable
from tfxfer._lengths import are_mixed, mixed_lengths
from tfxfer._recompute import recomputed
from tfxfer.backbones._fused import fused
from tfxfer.backbones._parts import Dropout, dense, norm, normed_sum, trains
from tfxfer.backbones._unpadding import MOST_DRAWS

ORDERS = ("post", "pre", "sandwich")


class FeedForward(keras.layers.Layer):
    """The feed-forward part: `output_dense(activation(intermediate(x)))`, or a gated variant.

    With a gate, `output_dense(intermediate(x) * activation(gate(x)))` (Shazeer, 2020,
    https://arxiv.org/abs/2002.05202).

    Args:
        hidden_dim: int. Size of the input and the output.
        intermediate_dim: int. Size between the two dense layers.
        activation: string, one of `_parts.ACTIVATIONS`.
        gated: bool. Whether there is a gate.
        use_bias: bool. Whether the layers before the activation have a bias.
        output_bias: bool. Whether the output layer has a bias. Defaults to `use_bias`.
        dropout: float. Dropout rate before the output layer.

    Call arguments:
        inputs: float tensor `(real tokens, hidden_dim)`.
        training: bool. Whether dropout is active.
    """

    def __init__(
        self,
        hidden_dim,
        intermediate_dim,
        activation,
        *,
        gated=False,
        use_bias=True,
        output_bias=None,
        dropout=0.0,
        dtype=None,
        name="feed_forward",
    ):
        super().__init__(dtype=dtype, name=name)
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        sizes, options = (hidden_dim, intermediate_dim), {"use_bias": use_bias, "dtype": self.dtype_policy}
        self.gate = dense(*sizes, activation=activation, name="gate", **options) if gated else None
        activation = None if gated else activation
        self.intermediate = dense(*sizes, activation=activation, name="intermediate", **options)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        options["use_bias"] = use_bias if output_bias is None else output_bias
        self.output_dense = dense(intermediate_dim, hidden_dim, name="output_dense", **options)

    def build(self, *shapes, **named_shapes):
        """Builds the layers; their sizes are known."""
        for layer in (self.intermediate, self.gate):
            if layer is not None:
                layer.build((None, self.hidden_dim))
        self.output_dense.build((None, self.intermediate_dim))
        self.built = True

    def call(self, inputs, training=None):
        """Computes the feed-forward part; see the call arguments of the class."""
        with trains(training):  # as the block has said, where there is one
            x = self.intermediate(inputs)
            if self.gate is not None:
                x = x * self.gate(inputs)
        return self.output_dense(self.dropout(x, training=training))

    def compute_output_spec(self, inputs, training=None):
        """Returns the symbolic output: the shape of `inputs`."""
        return keras.KerasTensor(inputs.shape, self.compute_dtype)


class TransformerBlock(Freezable, keras.layers.Layer):
    """Attention and feed-forward parts, each with a norm, dropout and a residual connection.

    | order | |
    |---|---|
    | `"post"` | `x = norm(x + part(x))` (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762) |
    | `"pre"` | `x = x + part(norm(x))` (Xiong et al., 2020, https://arxiv.org/abs/2002.04745) |
    | `"sandwich"` | `x = x + output_norm(part(norm(x)))` (Ding et al., 2021, https://arxiv.org/abs/2105.13290) |

    Args:
        attention: `Attention`.
        feed_forward: `FeedForward`.
        order: one of `ORDERS`.
        norm: kind of norm; see `_parts.norm`.
        epsilon: float. Epsilon of the norms.
        dropout: float. Dropout rate after each part.
        attention_output_dropout: float. Dropout rate after attention, if it differs.
        has_attention_norm: bool. `False` in ModernBERT's first block, which has no norm before attention.
        takes: dict that maps this layer's call arguments to names of the encoder's shared layers.

    Call arguments:
        inputs: float tensor `(real tokens, hidden_dim)`.
        layout: the output of `TokenLayout`, followed by the padding mask.
        training: bool. Whether dropout is active, unless the block is frozen.
        **positions: arguments of the attention: `bias`, and `rotary` or `relative`.

    Attributes:
        gradient_checkpointing: bool. Whether training steps keep only the block's input and compute the block again in
            the backward pass. `False` by default.
        fused_elementwise: bool. Whether XLA compiles what lies between the matrix products of training steps on batches
            without padding. `False` by default.

    Returns:
        A tensor of the shape of `inputs`.
    """

    gradient_checkpointing = False
    fused_elementwise = False

    def __init__(
        self,
        attention,
        feed_forward,
        *,
        order="post",
        norm="layer",
        epsilon=1e-12,
        dropout=0.0,
        attention_output_dropout=None,
        has_attention_norm=True,
        takes=None,
        dtype=None,
        name=None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.attention = attention
        self.feed_forward = feed_forward
        self.order = order
        self.takes = {"bias": "attention_bias"} if takes is None else dict(takes)
        self.hidden_dim = attention.hidden_dim
        policy = self.dtype_policy

        def make(name):
            return _norm(norm, self.hidden_dim, epsilon, dtype=policy, name=name)

        self.attention_norm = make("attention_norm") if has_attention_norm else None
        self.feed_forward_norm = make("feed_forward_norm")
        is_sandwich = order == "sandwich"
        self.attention_output_norm = make("attention_output_norm") if is_sandwich else None
        self.feed_forward_output_norm = make("feed_forward_output_norm") if is_sandwich else None
        rate = dropout if attention_output_dropout is None else attention_output_dropout
        self.attention_dropout = Dropout(rate, dtype=policy, name="attention_dropout")
        self.feed_forward_dropout = Dropout(dropout, dtype=policy, name="feed_forward_dropout")

    def build(self, *shapes, **named_shapes):
        """Builds both parts and the norms."""
        self.attention.build()
        self.feed_forward.build()
        for layer in self.norms():
            layer.build((None, self.hidden_dim))
        self.built = True

    def norms(self):
        """Returns the norms over the hidden dimension."""
        norms = (
            self.attention_norm,
            self.attention_output_norm,
            self.feed_forward_norm,
            self.feed_forward_output_norm,
        )
        return [layer for layer in norms if layer is not None]

    def call(self, inputs, layout, training=None, **positions):
        """Computes both parts with their residuals; see the call arguments of the class."""
        if not (training and self.gradient_checkpointing):
            return self._compute(inputs, layout, self.is_training(training), positions)
        mixed = are_mixed()  # the backward pass is traced outside of the context

        def compute(inputs, positions):
            with mixed_lengths(mixed):
                return self._compute(inputs, layout, self.is_training(training), positions)

        return recomputed(self, compute, inputs, positions, draws=MOST_DRAWS if mixed else 1)

    def _compute(self, inputs, layout, training, positions):
        norms = (self.attention_norm, self.attention_output_norm)

        def attend(x):
            return self.attention(x, layout, training=training, **positions)

        def feed(x):
            return self.feed_forward(x, training=training)

        with trains(training), fused(training and self.fused_elementwise, inputs, layout[2]):
            x = self._residual(inputs, attend, *norms, self.attention_dropout, training)
            norms = (self.feed_forward_norm, self.feed_forward_output_norm)
            return self._residual(x, feed, *norms, self.feed_forward_dropout, training)

    def _residual(self, x, part, norm, output_norm, dropout, training):
        if self.order == "post":
            return normed_sum(part(x), x, dropout, norm, training)
        y = part(x if norm is None else norm(x))
        y = y if output_norm is None else output_norm(y)
        return (_tensors.add if training else ops.add)(x, dropout(y, training=training))

    def compute_output_spec(self, inputs, *args, **kwargs):
        """Returns the symbolic output: the shape of `inputs`."""
        return keras.KerasTensor(inputs.shape, self.compute_dtype)


_norm = norm  # the argument of `TransformerBlock` has the same name
