"""Connections between a new head and the blocks of the encoder below it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check
from tfxfer._freezable import Freezable
from tfxfer.layers._heads import Head
from tfxfer.layers._pooling import Pooling

CONNECTIONS = ("concat", "gated", "scalar_mix", "ladder")
# The values of `reads`, the attribute of a task's head.
READS = ("pooled", "sequence", "pooled_blocks", "blocks")
# The divisor of a sigmoid's argument, as in the ladder paper: gates open and close within few steps.
_GATE_TEMPERATURE = 0.1
_NUM_SIDE_HEADS = 4


@keras.saving.register_keras_serializable("tfxfer")
class BlockPooling(keras.layers.Layer):
    """Applies one pooling to the states of several blocks: one vector per text and block.

    Task models place it below a head that reads `"pooled_blocks"`, such as `DenselyConnectedHead`.

    Args:
        pooling: `Pooling`, or another layer from `(batch, length, hidden_dim)` and `padding_mask` to
            `(batch, features)`. Defaults to the mean. All blocks share its weights, if it has any.

    Call arguments:
        inputs: list of float tensors `(batch, length, hidden_dim)`, the states of blocks.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.

    Returns:
        A tensor `(batch, blocks, features)`, float32 with `Pooling`.

    Example:

    >>> states = [keras.ops.ones((2, 5, 4)), 3.0 * keras.ops.ones((2, 5, 4))]
    >>> BlockPooling()(states, padding_mask=keras.ops.ones((2, 5))).shape
    TensorShape([2, 2, 4])
    """

    def __init__(self, pooling: keras.layers.Layer | None = None, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.pooling = Pooling() if pooling is None else pooling

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        if not self.pooling.built:
            self.pooling.build(inputs_shape[0], padding_mask_shape)
        self.built = True

    def call(self, inputs: Any, padding_mask: Any) -> Any:
        return ops.stack([self.pooling(states, padding_mask=padding_mask) for states in inputs], axis=1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        batch, features = self.pooling.compute_output_shape(inputs_shape[0], padding_mask_shape)
        return (batch, len(inputs_shape), features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": keras.saving.serialize_keras_object(self.pooling)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "pooling": keras.saving.deserialize_keras_object(config["pooling"])})


@keras.saving.register_keras_serializable("tfxfer")
class DenselyConnectedHead(Freezable, keras.layers.Layer):
    """A head that reads several blocks of the encoder instead of only the last.

    The last block of an encoder is specialized to its training task. Lower blocks keep features that the last has
    dropped and that a new task may need; this head learns which to use. `p_k` is the pooled vector of the k-th block
    that is read, from the input upward; `h_k` are its token states.

    | connection | what the output layer reads | weights |
    |---|---|---|
    | `"concat"` | `[p_1; ...; p_K]`, as DenseNet's layers read all previous layers | none |
    | `"gated"` | `g_K`, where `g_1 = p_1`, `g_k = t_k * p_k + (1 - t_k) * g_(k-1)`, `t_k = sigmoid(a_k * p_k + b_k)` | two vectors per block |
    | `"scalar_mix"` | `gamma * sum_k softmax(w)_k p_k` | K + 1 numbers |
    | `"ladder"` | `[p_K; pooled s_K]`: a narrow network alongside the encoder, `s_k = block_k(m_k * D_k h_k + (1 - m_k) * s_(k-1))`, `m_k = sigmoid(c_k / 0.1)` | a small transformer |

    Gates are highway gates with a weight for each feature. Gates and the scalar mix start as the mean of all blocks;
    the ladder's gates start at 1/2. A side block has self-attention and a feed-forward part, each with a layer norm
    before it and a residual, at `hidden_dim / reduction` features. It differs from the paper in two ways: the output
    layer also reads the encoder's last vector, so the start is no worse than without a ladder, and side blocks start at
    random. Connections only read from the encoder: if it is frozen, no backward pass runs through it.

    In a task, the head's attribute `reads` selects its inputs, and `blocks` the blocks they come from. Any Keras layer
    with these attributes can be the head of a task:

    | `reads` | the head is called on |
    |---|---|
    | `"pooled"`, or no attribute | `(batch, features)` |
    | `"pooled_blocks"` | `(batch, blocks, features)`, pooled as the task specifies |
    | `"sequence"` | `(batch, length, hidden_dim)`, and `padding_mask=` |
    | `"blocks"` | a list of `(batch, length, hidden_dim)`, and `padding_mask=` |

    `freezing.AboveFrozen` caches the pooled vectors of all blocks that are read (texts x blocks x features), or for a
    ladder their token states (tokens x blocks x hidden_dim): six blocks take six times the space of one. With
    `"concat"` and no hidden layers the output is linear in these vectors, so `freezing.probe` can initialize it; the
    other connections learn what they read, so it cannot.

    Args:
        num_outputs: int. The number of classes, or of values.
        connection: string. One of the table. Defaults to `"concat"`.
        blocks: `"all"`, or a list of the indices of the blocks to read, from 0 as in the layer groups `"block_0"`,
            `"block_1"`, .... Blocks above the highest are not computed then; `model.with_blocks` drops them.
        hidden_dims: sequence of ints. The sizes of hidden layers before the output. Defaults to none.
        activation: activation of the hidden layers and, in a ladder, of the side blocks. Defaults to `"gelu"`.
        dropout: float in `[0, 1)`. The rate before each dense layer of the output. Defaults to 0.1, as in `Head`.
        reduction: int. For a ladder, the divisor of the hidden size. Defaults to 8, as in the paper.

    Call arguments:
        inputs: float tensor `(batch, blocks, features)`; for a ladder a list of `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens, for a ladder.

    Returns:
        A float32 tensor `(batch, num_outputs)`.

    Raises:
        ValueError: if `connection` is unknown, `blocks` do not ascend, a size is less than 1, or `dropout` is out of
            range; in a task, if the encoder does not have a block.

    Example:

    >>> DenselyConnectedHead(3, connection="gated")(keras.ops.ones((2, 6, 4))).shape
    TensorShape([2, 3])

    ```python
    head = tx.layers.DenselyConnectedHead(77, connection="concat", blocks=[0, 3, 5])
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=labels, head=head, trainable=["head"])
    ```

    References:
        - [Huang et al., 2017](https://arxiv.org/abs/1608.06993), dense connections
        - [Srivastava et al., 2015](https://arxiv.org/abs/1505.00387), highway gates
        - [Peters et al., 2018](https://arxiv.org/abs/1802.05365), ELMo's scalar mix of layers
        - [Sung et al., 2022](https://arxiv.org/abs/2206.06522), ladder side-tuning
    """  # noqa: E501  (a table's row)

    def __init__(
        self,
        num_outputs: int,
        connection: str = "concat",
        blocks: str | Sequence[int] = "all",
        *,
        hidden_dims: Sequence[int] = (),
        activation: str | Callable = "gelu",
        dropout: float = 0.1,
        reduction: int = 8,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.connection = _check.one_of("connection", connection, CONNECTIONS)
        self.blocks = block_numbers("blocks", blocks)
        self.reduction = _check.integer("reduction", reduction)
        self.head = Head(num_outputs, hidden_dims, activation, dropout, name="head")
        self.num_outputs = self.head.num_outputs
        self.side_blocks: list = []

    @property
    def reads(self) -> str:
        """The inputs that a task passes to this head: `"blocks"` for a ladder, otherwise `"pooled_blocks"`."""
        return "blocks" if self.connection == "ladder" else "pooled_blocks"

    @property
    def output_dense(self) -> keras.layers.Layer:
        """The dense layer that computes the outputs."""
        return self.head.output_dense

    def linear_output(self) -> keras.layers.Layer | None:
        """Returns the output layer if it is applied directly to the blocks' concatenated vectors; otherwise `None`."""
        return self.head.linear_output() if self.connection == "concat" else None

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        is_ladder = self.connection == "ladder"
        if is_ladder == (len(inputs_shape) == 3 and not isinstance(inputs_shape[0], (list, tuple))):
            expected = "a list of (batch, length, hidden_dim)" if is_ladder else "a tensor (batch, blocks, features)"
            raise _check.invalid("inputs", f"{expected} for {self.connection!r}", inputs_shape)
        if is_ladder:
            batch, _, features = inputs_shape[0]
            self.input_spec = [keras.InputSpec(ndim=3, axes={2: features})] * len(inputs_shape)
            features += self._build_ladder(len(inputs_shape), features)
        else:
            batch, count, features = inputs_shape
            self.input_spec = keras.InputSpec(ndim=3, axes={1: count, 2: features})
            self._build_mix(count, features)
            features *= count if self.connection == "concat" else 1
        self.head.build((batch, features))
        self.built = True

    def _build_mix(self, count, features):
        if self.connection == "scalar_mix":
            self.mix_weights = self.add_weight(shape=(count,), initializer="zeros", name="mix_weights")
            self.mix_scale = self.add_weight(shape=(), initializer="ones", name="mix_scale")
        elif self.connection == "gated" and count > 1:
            shape = (count - 1, features)
            self.gate_weights = self.add_weight(shape=shape, initializer="zeros", name="gate_weights")
            # sigmoid(-log(k)) = 1 / (k + 1): the mean of all blocks so far.
            start = ops.repeat(ops.array([[-math.log(k)] for k in range(1, count)], "float32"), features, axis=1)
            self.gate_bias = self.add_weight(shape=shape, initializer=lambda *_, **__: start, name="gate_bias")

    def _build_ladder(self, count, features):
        width = max(features // self.reduction, 1)
        activation = self.head.activation
        self.side_blocks = [
            _SideBlock(width, activation, is_first=i == 0, dtype="float32", name=f"side_{i}") for i in range(count)
        ]
        for block in self.side_blocks:
            block.build((None, None, features))
        self.pooling = Pooling("mean", name="pooling")
        return width

    def call(self, inputs: Any, padding_mask: Any = None, training: bool | None = None) -> Any:
        return self.head(self.connected(inputs, padding_mask), training=self.is_training(training))

    def connected(self, inputs: Any, padding_mask: Any = None) -> Any:
        """Returns the inputs of the output layers, `(batch, features)`; `inputs` and `padding_mask` as for a call."""
        if self.connection == "ladder":
            return self._ladder(inputs, padding_mask)
        inputs = ops.cast(inputs, "float32")
        if self.connection == "concat":
            return ops.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2]))
        if self.connection == "scalar_mix":
            weights = ops.reshape(ops.softmax(self.mix_weights), (1, -1, 1))
            return self.mix_scale * ops.sum(weights * inputs, axis=1)
        found = inputs[:, 0]
        for k in range(1, inputs.shape[1]):
            gate = ops.sigmoid(self.gate_weights[k - 1] * inputs[:, k] + self.gate_bias[k - 1])
            found = gate * inputs[:, k] + (1.0 - gate) * found
        return found

    def _ladder(self, inputs, padding_mask):
        side = None
        for block, states in zip(self.side_blocks, inputs, strict=True):
            side = block(ops.cast(states, "float32"), side, padding_mask)
        pooled = [self.pooling(states, padding_mask=padding_mask) for states in (inputs[-1], side)]
        return ops.concatenate([ops.cast(each, "float32") for each in pooled], axis=-1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return ((inputs_shape[0] if self.connection != "ladder" else inputs_shape[0][0]), self.num_outputs)

    def with_dropout(self, dropout: float) -> Self:
        """Returns a new head with the same configuration and another `dropout` rate."""
        return type(self).from_config({**self.get_config(), "dropout": dropout})

    def get_config(self) -> dict[str, Any]:
        head = self.head
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "connection": self.connection,
            "blocks": self.blocks if self.blocks == "all" else list(self.blocks),
            "hidden_dims": list(head.hidden_dims),
            "activation": keras.activations.serialize(head.activation),
            "dropout": head.dropout,
            "reduction": self.reduction,
        }


def block_numbers(argument: str, blocks: Any) -> Any:
    """Returns `"all"`, or block indices as a tuple; raises for other values."""
    if isinstance(blocks, str):
        return _check.one_of(argument, blocks, ("all",), "Or pass a list of numbers, such as [0, 3, 5].")
    if not isinstance(blocks, (list, tuple)) or not blocks:
        raise _check.invalid(argument, "'all', or a list of numbers of blocks", blocks)
    found = tuple(_check.integer(argument, each, minimum=0) for each in blocks)
    if list(found) != sorted(set(found)):
        raise _check.invalid(argument, "numbers of blocks in rising order, each once", blocks)
    return found


class _SideBlock(keras.layers.Layer):
    """One step of a ladder: narrows the encoder's states, gates them in, then applies attention and dense layers.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        side: float tensor `(batch, length, width)`, the output of the previous step; `None` for the first.
        padding_mask: int or bool tensor `(batch, length)`.

    Returns:
        A tensor `(batch, length, width)`.
    """

    def __init__(self, width, activation, *, is_first, **kwargs):
        super().__init__(**kwargs)
        self.width, self.is_first = width, is_first
        heads = min(_NUM_SIDE_HEADS, width)
        options = {"dtype": self.dtype_policy}
        self.narrow = keras.layers.Dense(width, name="narrow", **options)
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="attention_norm", **options)
        self.attention = keras.layers.MultiHeadAttention(heads, max(width // heads, 1), name="attention", **options)
        self.feed_forward_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="feed_forward_norm", **options)
        self.intermediate = keras.layers.Dense(4 * width, activation=activation, name="intermediate", **options)
        self.output_dense = keras.layers.Dense(width, name="output_dense", **options)

    def build(self, inputs_shape, side_shape=None, padding_mask_shape=None):
        """Builds the layers; the width is known."""
        side = (None, None, self.width)
        self.narrow.build(inputs_shape)
        for layer in (self.attention_norm, self.feed_forward_norm, self.intermediate):
            layer.build(side)
        self.attention.build(side, side)
        self.output_dense.build((None, None, 4 * self.width))
        if not self.is_first:
            self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")
        self.built = True

    def call(self, inputs, side, padding_mask):
        """Takes one step; see the call arguments of the class."""
        x = self.narrow(inputs)
        if side is not None:
            gate = ops.sigmoid(self.gate / _GATE_TEMPERATURE)
            x = gate * x + (1.0 - gate) * side
        y = self.attention_norm(x)
        mask = ops.expand_dims(ops.cast(padding_mask, "bool"), 1)
        x = x + self.attention(y, y, attention_mask=mask)
        return x + self.output_dense(self.intermediate(self.feed_forward_norm(x)))
