"""Positions of tokens: position ids, rotations, and biases on the attention scores.

Each layer here is computed once per batch and shared by the blocks. Their call arguments are the same:

    padding_masks: list of int tensors `(rows, length)`, 1 at real tokens: the mask of the batch, and those of its
        `LengthGroups`. Layers whose result depends on them return a list.
    positions: int tensor `(real tokens,)`, the number of real tokens before each one in its row.
"""

import math

import keras
import numpy as np
from keras import ops

from tfxfer._freezable import Freezable
from tfxfer.backbones._parts import embedding, norm
from tfxfer.backbones._unpadding import for_each

# Replaces minus infinity at masked keys; twice this value is still within float16's range.
MASKED = -3e4


def count_positions(padding_mask):
    """Returns the number of real tokens before each position, int `(batch, length)`."""
    return ops.maximum(ops.cumsum(padding_mask, axis=1) - 1, 0)  # -1 at padding before the first token


class PositionIds(keras.layers.Layer):
    """Position ids that start at 1, with 0 for the padding token (RoBERTa's, shifted so that padding has row 0).

    RoBERTa counts the tokens whose id is not the padding id, anywhere in the row. Its position table has a separate row
    for the padding id.

    Args:
        padding_id: int.
    """

    def __init__(self, padding_id, name="position_ids"):
        super().__init__(dtype="int32", name=name)
        self.padding_id = padding_id

    def call(self, padding_mask, token_ids):
        """Counts the tokens that are not padding, int `(batch, length)`."""
        counted = padding_mask * ops.cast(token_ids != self.padding_id, padding_mask.dtype)
        return ops.cumsum(counted, axis=1) * counted

    def compute_output_spec(self, padding_mask, token_ids):
        """Returns the symbolic output: the shape of `padding_mask`."""
        return keras.KerasTensor(padding_mask.shape, padding_mask.dtype)


class Rotary(keras.layers.Layer):
    """Cosine and sine of each token's rotation, for queries and keys.

    Pair `i` of a head's components is rotated by the angle `position / theta^(2 i / head_dim)`, in radians.

    Args:
        head_dim: int. Size of a head.
        theta: float. The base.

    Returns:
        (cosine, sine): float32 tensors `(real tokens, head_dim / 2)`.

    Reference: Su et al., 2021, https://arxiv.org/abs/2104.09864.
    """

    def __init__(self, head_dim, theta, *, dtype=None, name="rotary"):
        super().__init__(dtype="float32", name=name)
        self.head_dim = head_dim
        self.theta = theta

    def build(self, *shapes, **named_shapes):
        """Computes the frequency of each pair of components."""
        exponents = np.arange(0, self.head_dim, 2, dtype="float32") / self.head_dim
        self.frequencies = (1.0 / np.float32(self.theta) ** exponents).astype("float32")
        self.built = True

    def call(self, padding_masks, positions):
        """Computes both tensors; see the call arguments in the module docstring."""
        angles = ops.expand_dims(ops.cast(positions, "float32"), 1) * ops.convert_to_tensor(self.frequencies)
        return ops.cos(angles), ops.sin(angles)

    def compute_output_spec(self, padding_masks, positions):
        """Returns the symbolic output: two tensors of size `head_dim / 2` for each token."""
        shape = (*positions.shape, self.head_dim // 2)
        return keras.KerasTensor(shape, "float32"), keras.KerasTensor(shape, "float32")


def rotate(x, rotary):
    """Rotates heads `(real tokens, heads, head_dim)`: component `i` of the first half with `i` of the second."""
    cosine, sine = (ops.cast(ops.expand_dims(part, 1), x.dtype) for part in rotary)
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


class AttentionBias(keras.layers.Layer):
    """The bias on attention scores: a large negative number where a query must not see a key, plus relative biases.

    Args:
        causal: bool. Whether a token sees only itself and the tokens before it.
        window: int. The largest distance, in real tokens, at which a token is visible; `None` for no limit.
        relative: optional `RelativeBias`.

    Returns:
        A list with a float tensor for each mask, in the layer's compute dtype. It broadcasts to `(rows, heads, length,
        length)`.
    """

    def __init__(self, *, causal=False, window=None, relative=None, dtype=None, name="attention_bias"):
        super().__init__(dtype=dtype, name=name)
        self.causal = causal
        self.window = window
        self.relative = relative

    def build(self, *shapes, **named_shapes):
        """Builds the relative bias, if there is one."""
        if self.relative is not None:
            self.relative.build()
        self.built = True

    def call(self, padding_masks, positions):
        """Computes the biases; see the call arguments in the module docstring."""
        return for_each(self._bias, padding_masks)

    def _bias(self, padding_mask):
        seen = ops.expand_dims(padding_mask, (1, 2)) > 0
        if self.causal:
            places = ops.arange(ops.shape(padding_mask)[1])
            seen = ops.logical_and(seen, ops.expand_dims(places, 1) >= places)
        if self.window is not None:
            place = count_positions(padding_mask)
            distance = ops.abs(ops.expand_dims(place, 2) - ops.expand_dims(place, 1))
            seen = ops.logical_and(seen, ops.expand_dims(distance <= self.window, 1))
        bias = (1.0 - ops.cast(seen, self.compute_dtype)) * MASKED
        return bias if self.relative is None else bias + self.relative(padding_mask)

    def compute_output_spec(self, padding_masks, positions):
        """Returns the symbolic output; dimensions are 1 if all rows or heads are the same."""
        has_rows = self.causal or self.window is not None or self.relative is not None
        heads = 1 if self.relative is None else self.relative.num_heads
        return [
            keras.KerasTensor((batch, heads, length if has_rows else 1, length), self.compute_dtype)
            for batch, length in (mask.shape for mask in padding_masks)
        ]


class RelativeBias(keras.layers.Layer):
    """One learned number per head for each bucket of distances between key and query.

    Half of the buckets are for keys after the query. Distances below a quarter of `num_buckets` have one bucket each.
    For larger distances, buckets grow logarithmically up to `max_distance`.

    Args:
        num_buckets: int. Number of buckets.
        max_distance: int. All distances from this one on share the last bucket.
        num_heads: int. Number of heads.

    Call arguments:
        padding_mask: int tensor `(batch, length)`.

    Returns:
        A float tensor `(heads, length, length)`; the last two axes are query and key.

    Reference: Raffel et al., 2020, https://arxiv.org/abs/1910.10683, section 2.1.
    """

    def __init__(self, num_buckets, max_distance, num_heads, *, dtype=None, name="relative"):
        super().__init__(dtype=dtype, name=name)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.num_heads = num_heads
        self.table = embedding(num_buckets, num_heads, dtype=self.dtype_policy, name="table")

    def _buckets(self):
        """Returns the bucket of each distance from `-max_distance` to `max_distance`; float32 as in the reference."""
        half = self.num_buckets // 2
        exact = half // 2
        distances = np.arange(-self.max_distance, self.max_distance + 1)
        far = np.maximum(np.abs(distances), 1).astype("float32")
        logarithmic = np.log(far / np.float32(exact)) / np.float32(math.log(self.max_distance / exact))
        logarithmic = exact + (logarithmic * np.float32(half - exact)).astype("int32")
        near = np.abs(distances)
        return (np.where(near < exact, near, np.minimum(logarithmic, half - 1)) + half * (distances > 0)).astype(
            "int32"
        )

    def build(self, *shapes):
        """Computes the bucket of each distance and builds the table."""
        self.rows = self._buckets()
        self.table.build((None,))
        self.built = True

    def call(self, padding_mask):
        """Looks up the biases; see the call arguments of the class."""
        places = ops.arange(ops.shape(padding_mask)[1], dtype="int32")
        distances = ops.expand_dims(places, 0) - ops.expand_dims(places, 1)
        distances = ops.clip(distances, -self.max_distance, self.max_distance) + self.max_distance
        rows = ops.take(ops.convert_to_tensor(self.rows), distances)
        return ops.transpose(self.table(rows), (2, 0, 1))


class RelativePositions(Freezable, keras.layers.Layer):
    """DeBERTa's relative positions: one vector for each distance from `length - 1` down to `1 - length`.

    Args:
        bucket_size: int. Half of the table's rows.
        max_distance: int. The distance at which the last row begins.
        hidden_dim: int. Size of the vectors.
        epsilon: float. Epsilon of the layer norm.

    Returns:
        A list with a float tensor `(2 * length - 1, hidden_dim)` for each mask.

    Reference: He et al., 2021, https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543.
    """

    def __init__(self, bucket_size, max_distance, hidden_dim, epsilon, *, dtype=None, name="relative_positions"):
        super().__init__(dtype=dtype, name=name)
        self.bucket_size = bucket_size
        self.max_distance = max_distance
        self.hidden_dim = hidden_dim
        self.table = embedding(2 * bucket_size, hidden_dim, dtype=self.dtype_policy, name="table")
        self.norm = norm("layer", hidden_dim, epsilon, dtype=self.dtype_policy, name="norm")

    def build(self, *shapes, **named_shapes):
        """Computes the row of each distance, and builds the table and its norm."""
        self.rows = relative_rows(self.bucket_size, self.max_distance)
        self.table.build((None,))
        self.norm.build((None, self.hidden_dim))
        self.built = True

    def call(self, padding_masks, positions):
        """Looks up and normalizes the vectors; see the call arguments in the module docstring."""
        return for_each(self._vectors, padding_masks)

    def _vectors(self, padding_mask):
        length = ops.shape(padding_mask)[1]
        distances = ops.arange(length - 1, -length, -1, dtype="int32")
        distances = ops.clip(distances, -self.max_distance, self.max_distance)
        rows = ops.take(ops.convert_to_tensor(self.rows), distances + self.max_distance)
        return self.norm(self.table(rows))

    def compute_output_spec(self, padding_masks, positions):
        """Returns the symbolic output: a vector of size `hidden_dim` for each distance."""
        lengths = [mask.shape[1] for mask in padding_masks]
        rows = [None if length is None else 2 * length - 1 for length in lengths]
        return [keras.KerasTensor((each, self.hidden_dim), self.compute_dtype) for each in rows]


def relative_rows(bucket_size, max_distance):
    """Returns the row of DeBERTa's table for each distance from `-max_distance` to `max_distance`.

    Distances below half of `bucket_size` have their own row; larger ones share rows, in groups that grow with distance.
    Computed in float32 and in the order of the reference implementation, so that distances at the border of a bucket
    fall into the same bucket.

    Args:
        bucket_size: int. Half of the table's rows.
        max_distance: int. The distance at which the last row begins.

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
