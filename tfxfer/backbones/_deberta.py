"""DeBERTa's attention, on the layers of KerasHub's blocks.

KerasHub repeats the table of relative positions for each row of a batch and projects all of it in each block, gathers
scores of every bucket, and takes the logarithm's product before its quotient, which can round to another bucket. For
short texts that is most of the work. Here the distances that a batch has, 2 n - 1, are looked up and projected once a
block, and their scores are shifted into place without a gather.
"""

import keras
import numpy as np
from keras import ops

from tfxfer._freezable import Freezable
from tfxfer.backbones._encoder import flat
from tfxfer.backbones._packing import pack, unpack

_LOWEST = -1e9  # a score whose probability is 0 in float32, and finite where a whole row has it


def buckets(bucket_size, max_distance):
    """Returns the row of the table of relative positions for each distance from `-max_distance` to `max_distance`.

    Distances below half of `bucket_size` have a row each; larger ones share rows, the more the larger. In float32 and
    in the order of the reference implementation, so that distances at the border of a bucket fall into the same one.

    Args:
        bucket_size: int. Half of the table's rows.
        max_distance: int. The distance where the last row begins.

    Returns:
        An int32 array `(2 * max_distance + 1,)`.
    """
    half = bucket_size // 2
    distances = np.arange(-max_distance, max_distance + 1)
    far = np.maximum(np.abs(distances), max(half, 1)).astype("float32")
    scale = np.log(np.float32(max(max_distance - 1, half + 1) / half))
    logarithmic = np.ceil(np.log(far / np.float32(half)) / scale * np.float32(half - 1)) + half
    rows = np.where(np.abs(distances) <= half, distances, np.sign(distances) * logarithmic)
    return np.clip(rows + bucket_size, 0, 2 * bucket_size - 1).astype("int32")


class RelativePositions(keras.layers.Layer):
    """The relative positions of a batch: one vector for each distance from n - 1 down to 1 - n.

    Args:
        embedding: KerasHub's `RelativeEmbedding` layer.
        bucket_size: int. Half of the table's rows.
        max_distance: int. The distance where the last row begins.
    """

    def __init__(self, embedding, bucket_size, max_distance):
        super().__init__(name=embedding.name, dtype=embedding.dtype_policy)
        self.embedding = embedding
        self.max_distance = max_distance
        self.rows = buckets(bucket_size, max_distance)
        self.built = True

    def call(self, padding_mask):
        length = ops.shape(padding_mask)[1]
        distances = ops.arange(length - 1, -length, -1, dtype="int32")
        distances = ops.clip(distances, -self.max_distance, self.max_distance)
        rows = ops.take(ops.convert_to_tensor(self.rows), distances + self.max_distance)
        # KerasHub's layer repeats the table for each row of its input; one row is enough.
        return ops.take(self.embedding(padding_mask[:1]), rows, axis=1)

    def compute_output_spec(self, padding_mask):
        length = padding_mask.shape[1]
        width = None if length is None else 2 * length - 1
        return keras.KerasTensor((1, width, self.embedding.hidden_dim), self.compute_dtype)


class Block(Freezable, keras.layers.Layer):
    """One DeBERTa block.

    Args:
        block: KerasHub's `DisentangledAttentionEncoder`, whose layers are used.
    """

    def __init__(self, block):
        super().__init__(name=block.name, dtype=block.dtype_policy)
        self.block = block
        self.built = True

    def call(self, inputs, relative, packing, training=None):
        block, training = self.block, self.is_training(training)
        x = self._attend(block._self_attention_layer, inputs, relative, packing, training)
        x = block._self_attention_layer_norm(inputs + block._self_attention_dropout(x, training=training))
        y = block._feedforward_output_dense(block._feedforward_intermediate_dense(x))
        return block._feedforward_layer_norm(x + block._feedforward_dropout(y, training=training))

    def _attend(self, attention, x, relative, packing, training):
        mask = packing[-1]
        heads = (*ops.shape(mask), attention.num_heads, -1)
        query, key, value = (
            ops.reshape(unpack(flat(dense, x), packing), heads)
            for dense in (attention._query_dense, attention._key_dense, attention._value_dense)
        )
        relative = attention._position_dropout_layer(relative, training=training)
        relative_key = attention._key_dense(relative)[0]
        relative_query = ops.flip(attention._query_dense(relative)[0], axis=0)
        scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
        # Content to position: row q at distance q - k. Position to content: row k, the distances the other way round.
        scores += _shift(ops.einsum("bqhd,rhd->bhqr", query, relative_key))
        scores += ops.swapaxes(_shift(ops.einsum("bkhd,rhd->bhkr", key, relative_query)), 2, 3)
        scores = ops.cast(scores * attention.scale_factor, "float32")
        real = ops.expand_dims(ops.cast(mask, "bool"), (1, 2))
        probabilities = ops.softmax(ops.where(real, scores, _LOWEST), axis=-1)
        probabilities = attention._attn_dropout_layer(probabilities, training=training)
        x = ops.einsum("bhqk,bkhd->bqhd", probabilities, value)
        x = ops.reshape(x, (*ops.shape(mask), attention.hidden_dim))
        return flat(attention._output_dense, pack(x, packing))

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape


def _shift(scores):
    """Takes from row i of `(..., n, 2 n - 1)` the n entries from n - 1 - i on: `(..., n, n)`.

    With one column more, row i begins at 2 n i in memory, and its entries at (2 n - 1) i + n - 1: a reshape of what
    begins at n - 1 has them in columns.
    """
    batch, heads, length = ops.shape(scores)[:3]
    width = 2 * length - 1
    flat = ops.reshape(ops.pad(scores, ((0, 0), (0, 0), (0, 0), (0, 1))), (batch, heads, 2 * length * length))
    flat = flat[:, :, length - 1 : length - 1 + length * width]
    return ops.reshape(flat, (batch, heads, length, width))[:, :, :, :length]
