"""A decoder that reconstructs a text from one vector, using an encoder's embeddings."""

import keras
from keras import ops

from tfxfer import _check
from tfxfer._freezable import Freezable
from tfxfer.backbones._attention import Attention
from tfxfer.backbones._block import FeedForward, TransformerBlock
from tfxfer.backbones._parts import dense, embedding, norm
from tfxfer.backbones._positions import AttentionBias, count_positions
from tfxfer.backbones._unpadding import TokenLayout, pad, unpad


class TextDecoder(Freezable, keras.layers.Layer):
    """Causal transformer blocks that attend to one vector per text.

    Attention to a single vector returns that vector for every query. It is therefore a dense layer on the vector, added
    before each block and normalized. The encoder's own layer embeds the tokens and remains part of the encoder.

    Args:
        backbone: built `Backbone`. The decoder uses its embeddings and sizes.
        num_layers: int. Number of blocks.
        vector_dim: int. Size of the vector.
        dropout: float. Dropout rate within and after the parts of a block.

    Call arguments:
        decoder_ids: int tensor `(batch, length)`.
        decoder_mask: int tensor `(batch, length)`, 1 at tokens.
        vector: float tensor `(batch, vector_dim)`.
        training: bool. Whether dropout is active, unless the layer is frozen.

    Returns:
        A tensor `(batch, length, hidden_dim)`, zeros at padding.
    """

    def __init__(self, backbone, num_layers, vector_dim, dropout, *, name="decoder"):
        super().__init__(dtype=backbone.dtype_policy, name=name)
        parts, a = backbone.parts, backbone.arguments
        self._parts = lambda: parts  # hidden from Keras, which would count these layers as this layer's own
        self.hidden_dim, self.vector_dim = a["hidden_dim"], vector_dim
        policy = self.dtype_policy
        heads = a["num_heads"] if self.hidden_dim % a["num_heads"] == 0 else 1
        sizes = (self.hidden_dim, a["intermediate_dim"] or 4 * self.hidden_dim, a["activation"])
        self.positions = None
        if not backbone.has_position_table:
            rows = _check.integer("max_sequence_length", a["max_sequence_length"])
            self.positions = embedding(rows, self.hidden_dim, dtype=policy, name="positions")
        self.bias = AttentionBias(causal=True, dtype=policy)
        self.layout = TokenLayout(name="decoder_layout")
        self.blocks = [
            TransformerBlock(
                Attention(self.hidden_dim, heads, dropout=dropout, dtype=policy),
                FeedForward(*sizes, dtype=policy),
                dropout=dropout,
                dtype=policy,
                name=f"decoder_block_{i}",
            )
            for i in range(num_layers)
        ]
        self.crosses = [dense(vector_dim, self.hidden_dim, dtype=policy, name=f"cross_{i}") for i in range(num_layers)]
        self.norms = [
            norm("layer", self.hidden_dim, 1e-12, dtype=policy, name=f"cross_norm_{i}") for i in range(num_layers)
        ]

    def build(self, *shapes, **named_shapes):
        """Builds the parts; their sizes are known."""
        if self.positions is not None:
            self.positions.build((None,))
        for block, cross, normed in zip(self.blocks, self.crosses, self.norms, strict=True):
            block.build()
            cross.build((None, self.vector_dim))
            normed.build((None, self.hidden_dim))
        self.built = True

    def call(self, decoder_ids, decoder_mask, vector, training=None):
        """Decodes; see the call arguments of the class."""
        training, parts = self.is_training(training), self._parts()
        layout = (*self.layout(decoder_mask), decoder_mask)

        def taken(values):
            return unpad(ops.expand_dims(values, -1), layout)[:, 0]

        counted = taken(count_positions(decoder_mask))
        positions = counted
        if parts.position_ids is not None:
            positions = taken(parts.position_ids(decoder_mask, decoder_ids))
        segments = [] if parts.embeddings.segment_embedding is None else [ops.zeros_like(counted)]
        x = parts.embeddings(taken(decoder_ids), positions, *segments, training=training)
        if self.positions is not None:
            x = x + self.positions(ops.minimum(counted, self.positions.input_dim - 1))
        bias = self.bias([decoder_mask], counted)
        rows = layout[0] // ops.shape(decoder_mask)[1]
        vector = ops.take(ops.cast(vector, x.dtype), rows, axis=0)
        for block, cross, normed in zip(self.blocks, self.crosses, self.norms, strict=True):
            x = block(normed(x + cross(vector)), layout, bias=bias, training=training)
        x = pad(x, layout, training)
        return ops.where(ops.expand_dims(decoder_mask, -1) > 0, x, ops.zeros_like(x))

    def compute_output_spec(self, decoder_ids, decoder_mask, vector, training=None):
        """Returns the symbolic output: a vector of size `hidden_dim` for each token."""
        return keras.KerasTensor((*decoder_ids.shape, self.hidden_dim), self.compute_dtype)
