"""The common interface of all encoders."""

import contextlib
import contextvars
import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from tfxfer import _check
from tfxfer.backbones import _groups, _lora, _positions, _split, _unpadding
from tfxfer.backbones._family import REQUIRED
from tfxfer.backbones._precision import computing
from tfxfer.backbones.families import FAMILIES

SIZES = ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_sequence_length")
RATES = ("dropout", "attention_dropout", "embeddings_dropout")


# The dtype policy that encoders are loaded with; Keras's file format has no argument for one.
_RECAST: contextvars.ContextVar[Any] = contextvars.ContextVar("recast", default=None)


@contextlib.contextmanager
def recast(dtype):
    """Gives this dtype policy to encoders created from a config in this context; `None` keeps their own."""
    token = _RECAST.set(dtype)
    try:
        yield
    finally:
        _RECAST.reset(token)


def recast_to():
    """Returns the dtype policy set by `recast`, or `None`."""
    return _RECAST.get()


@dataclasses.dataclass(frozen=True)
class Parts:
    """The layers of an encoder.

    Args:
        embeddings: `Embeddings`.
        position_ids: layer that maps padding mask and token ids to position ids, or `None`.
        shared: dict of layers that are computed once for all blocks; see `_positions`.
        groups: list of layer groups, each a list of blocks.
        final_norm: the norm after the last block, or `None`.
    """

    embeddings: Any
    position_ids: Any
    shared: dict
    groups: list
    final_norm: Any

    def build(self):
        """Builds all layers; their sizes are known."""
        self.embeddings.build()
        for layer in [*self.shared.values(), *(block for group in self.groups for block in group)]:
            layer.build()
        if self.final_norm is not None:
            self.final_norm.build((None, *self.final_norm.input_spec.axes.values()))


def make_parts(family, arguments, dtype=None):
    """Returns the unbuilt `Parts` of an encoder, for arguments as returned by `complete`."""
    a = types.SimpleNamespace(**arguments, dtype=dtype)
    return Parts(family.embeddings(a), family.position_ids(a), family.shared(a), family.groups(a), family.final_norm(a))


def complete(family, given):
    """Validates the arguments of an encoder and fills in their defaults.

    Args:
        family: `Family`.
        given: dict of arguments.

    Raises:
        ValueError: if an argument is missing, out of range, or not one of the family's.
    """
    defaults = {
        **dict.fromkeys(SIZES, REQUIRED),
        "activation": family.activation,
        "layer_norm_epsilon": family.layer_norm_epsilon,
        "dropout": 0.1,
        "attention_dropout": lambda a: a["dropout"],
        "embeddings_dropout": lambda a: a["dropout"],
        **family.options,
    }
    for name, value in given.items():
        if name not in defaults:
            options = ", ".join(defaults)
            raise _check.invalid(name, f"an argument of the family {family.name!r}", value, f"It has {options}.")
    found: dict[str, Any] = {}
    for name, default in defaults.items():
        value = given.get(name)
        if value is None:
            if default is REQUIRED:
                raise _check.invalid(name, "a value", None, f"The family {family.name!r} has no default for it.")
            value = default(found) if callable(default) else default
        found[name] = value
    for name in SIZES:
        found[name] = _check.integer(name, found[name], minimum=0 if name in family.may_be_zero else 1)
    for name in family.options:
        if isinstance(found[name], int) and not isinstance(found[name], bool):
            found[name] = _check.integer(name, found[name], minimum=0 if name in family.may_be_zero else 1)
    for name in RATES:
        _check.number(name, found[name], minimum=0, maximum=1)
    _check.number("layer_norm_epsilon", found["layer_norm_epsilon"], above=0)
    family.check(types.SimpleNamespace(**found))
    return found


@keras.saving.register_keras_serializable("tfxfer")
class Backbone(_groups.LayerGroups, keras.Model):
    """A transformer encoder of any family: token ids in, one vector per token out.

    A functional model built from this package's own layers. Inputs are a dict of int32 tensors `(batch, length)`:
    `token_ids`, `padding_mask` (1 at real tokens), and `segment_ids` if `has_segment_ids`. The output is the tensor
    `(batch, length, hidden_dim)` of the last layer. Poolers, which some families have, are left out, so every weight
    has a gradient.

    A token's position is the number of real tokens before it. Neither the amount nor the side of the padding changes
    the output at real tokens. The output at padding is finite and meaningless.

    Args:
        family: string, a key of `families.FAMILIES`: `"bert"`, `"roberta"`, `"modernbert"`, ...
        vocabulary_size: int. Rows of the token embedding.
        num_layers: int. Number of transformer blocks that a token passes through.
        num_heads: int. Number of attention heads.
        hidden_dim: int. Size of a token's vector.
        intermediate_dim: int. Size of the feed-forward layer.
        max_sequence_length: int. Rows of the position table. For families without a table, the length they were
            designed for (longer input is allowed).
        activation: string. Activation of the feed-forward layer: `"gelu"` (exact, erf), `"gelu_approximate"` (tanh),
            `"relu"` or `"silu"`. Defaults to the family's.
        layer_norm_epsilon: float. Epsilon of the norms. Defaults to the family's.
        dropout: float. Dropout rate after attention, after the feed-forward layer, and after the embeddings. Defaults
            to 0.1.
        attention_dropout: float. Dropout rate on the attention probabilities. Defaults to `dropout`.
        embeddings_dropout: float. Dropout rate after the embeddings. Defaults to `dropout`.
        **options: arguments that only some families have; see the `options` of the family's module.
        frozen: names of layers, and paths of weights, to freeze.
        frozen_dropout: bool. Whether frozen layers keep their dropout, as in Keras. Defaults to `False`: a frozen layer
            is a fixed function.
        gradient_checkpointing: bool. Whether training steps compute each block again in the backward pass to save
            memory; see the property. Defaults to `False`.
        fused_elementwise: bool. Whether XLA compiles what lies between the matrix products of training steps on batches
            without padding; see the property. Defaults to `False`.
        lora: dict of arguments of `enable_lora`, to create the backbone with adapters.
        quantization: dict that describes quantized layers, as in `get_config`.
        dtype: dtype policy. Defaults to Keras's global policy. With `mixed_bfloat16` or `mixed_float16` on a CPU where
            that is slower than float32, the encoder computes in float32, and a warning says so.
        name: string.

    Attributes:
        arguments: dict of the family-specific and common arguments, with defaults filled in.
        parts: `Parts`. The layers: `embeddings`, `shared`, `groups` of `TransformerBlock`s, `final_norm`.

    Raises:
        ValueError: if an argument is unknown or not supported by the family, or if the static sequence length of a
            call exceeds `max_sequence_length`.

    Example:

    ```python
    backbone = Backbone(
        "bert", vocabulary_size=99, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=32
    )
    ids = np.ones((1, 5), "int32")
    backbone({"token_ids": ids, "padding_mask": ids, "segment_ids": 0 * ids}).shape  # (1, 5, 8)
    ```

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, and the papers cited in the families' modules.
    """

    def __init__(
        self,
        family: str,
        *,
        frozen: Sequence[str] = (),
        frozen_dropout: bool = False,
        gradient_checkpointing: bool = False,
        fused_elementwise: bool = False,
        lora: Mapping[str, Any] | None = None,
        quantization: Mapping[str, Any] | None = None,
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
        **arguments: Any,
    ) -> None:
        entry = FAMILIES[_check.one_of("family", family, FAMILIES)]
        arguments = complete(entry, arguments)

        # === Layers ===
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        parts = make_parts(entry, arguments, computing(policy))
        parts.build()

        # === Functional Model ===
        names = ("token_ids", "padding_mask") + (("segment_ids",) if entry.has_segment_ids else ())
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        cuts, states, outputs = _connect(parts, inputs, arguments["num_layers"], policy.compute_dtype)
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)
        # Hidden from Keras, which searches lists for weights.
        self._hidden = lambda: (parts, cuts, states)
        self.dtype_policy = policy

        # === Config ===
        self.family = family
        self.has_segment_ids = entry.has_segment_ids
        self.arguments = arguments
        for argument, value in arguments.items():
            setattr(self, argument, value)
        self._adapters = _lora.Adapters(self.blocks)
        self._restore_quantization(quantization)
        if lora is not None:
            self.enable_lora(**lora)
        self._freeze(frozen)
        self._hold()
        self.frozen_dropout = frozen_dropout
        self.gradient_checkpointing = gradient_checkpointing
        self.fused_elementwise = fused_elementwise

    @property
    def parts(self) -> Any:
        """`Parts`: the layers of the encoder."""
        return self._hidden()[0]

    @property
    def pooling(self) -> str:
        """The family's pooling mode for sentence vectors, used if a checkpoint does not specify one."""
        return FAMILIES[self.family].pooling

    @property
    def has_position_table(self) -> bool:
        """Whether a position table limits the sequence length."""
        return FAMILIES[self.family].has_position_table

    def layer_groups(self) -> dict[str, list]:
        """Returns the layers by group, from the input upwards. Groups are the unit of freezing and of learning rates.

        Returns:
            An ordered dict that maps `"embeddings"`, `"block_0"`, `"block_1"`, ... to lists of layers. Each weight is
            in exactly one group. Blocks that share weights (ALBERT) form one group. A norm after the last block (GPT-2)
            belongs to that block's group. Relative positions shared by all blocks (DeBERTa, T5, MPNet) belong to
            `"embeddings"`.
        """
        parts = self.parts
        below = [parts.embeddings, *(layer for layer in parts.shared.values() if layer.weights)]
        groups = {"embeddings": below, **{f"block_{i}": list(group) for i, group in enumerate(parts.groups)}}
        if parts.final_norm is not None:
            list(groups.values())[-1].append(parts.final_norm)
        return groups

    def blocks(self) -> list[tuple[Any, int, int]]:
        """Returns the transformer blocks from the input upwards, as `(layer, group, index within the group)`."""
        return [(block, i, j) for i, group in enumerate(self.parts.groups) for j, block in enumerate(group)]

    def split(self, number: int, states: Sequence[int] | None = None) -> tuple[keras.Model, keras.Model]:
        """Cuts the backbone before one of its groups of blocks, or after the last one.

        Args:
            number: int. The group at which the upper part begins: 0 leaves only the embeddings below, the number of
                groups puts all blocks below.
            states: optional sequence of ints in ascending order. Layers, numbered as in `hidden_states`, whose states
                the upper part returns instead of this backbone's output.

        Returns:
            (below, above): two functional models on this backbone's own layers. `below` takes this backbone's inputs
            and returns the states before the group. `above` takes the list of these states and the padding mask, and
            returns this backbone's output. States are `(real tokens, hidden_dim)`, ordered by row and token, or
            `(batch * length, hidden_dim)` if the backend does not unpad.

            With `states`, `below` returns `(real tokens, k * hidden_dim)`: the states of the given layers below the
            cut, concatenated, followed by the states before the group. `above` returns a list of tensors `(batch,
            length, hidden_dim)`, one for each of `states`.

        Raises:
            ValueError: if the group or a layer does not exist.
        """
        _, cuts, hidden = self._hidden()
        if _check.integer("number", number, minimum=0) >= len(cuts):
            raise _check.invalid("number", f"an int < {len(cuts)}, the number of groups of blocks plus one", number)
        mask = self.input["padding_mask"]
        if states is None:
            below = keras.Model(self.input, cuts[number], name="below")
            return below, keras.Model([cuts[number], mask], self.output, name="above")
        states = _split.check_layers("states", states, len(hidden))
        place = next(i for i, state in enumerate(hidden) if state is cuts[number])
        layout, padding = (*self.get_layer("layout").output, mask), self.get_layer("pad")

        def padded(state):
            return padding(state, layout)

        # The last layer's states come after the final norm, which is in the upper part.
        upper = [self.output if i == len(hidden) - 1 else padded(hidden[i]) for i in states if i >= place]
        kept = [hidden[i] for i in states if i < place]
        return _split.models(self.input, kept, cuts[number], mask, upper, padded)

    def hidden_states(self, layers: Sequence[int] | None = None) -> keras.Model:
        """Returns a functional model on this backbone's own layers that outputs the states of its layers.

        While the whole backbone is frozen, no gradient flows through the model.

        Args:
            layers: optional sequence of ints in ascending order: the layers to output. Defaults to all.

        Returns:
            A `keras.Model` from this backbone's inputs to a list of `num_layers + 1` tensors `(batch, length,
            hidden_dim)`, or only those selected by `layers`: 0 is the embeddings, followed by each block's output. The
            last tensor is this backbone's output, after the final norm.

        Raises:
            ValueError: if a layer does not exist.
        """
        _, _, states = self._hidden()
        layout = (*self.get_layer("layout").output, self.input["padding_mask"])
        padding = self.get_layer("pad")
        found = [*(padding(state, layout) for state in states[:-1]), self.output]
        if layers is not None:
            found = [found[number] for number in _split.check_layers("layers", layers, len(found))]
        return _split.States(self.input, list(found), name="hidden_states")

    @property
    def token_embedding(self) -> keras.layers.Layer:
        """The layer that embeds token ids."""
        return self.parts.embeddings.token_embedding

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Encodes a dict of ids.

        Args:
            inputs: dict of int32 tensors `(batch, length)`; see the class.
            training: bool. Whether dropout is active, in layers that train or keep their dropout.
            mask: passed to `keras.Model.call`; padding is read from `padding_mask`.

        Returns:
            A tensor `(batch, length, hidden_dim)`.

        Raises:
            ValueError: if the static length exceeds the position table.
        """
        length = inputs["token_ids"].shape[1] if isinstance(inputs, dict) and "token_ids" in inputs else None
        if self.has_position_table and isinstance(length, int) and length > self.max_sequence_length:
            raise _check.invalid(
                "token_ids",
                f"at most max_sequence_length={self.max_sequence_length} tokens",
                (None, length),
                "Use a smaller sequence_length in the preprocessor",
            )
        return _split.stopped(self, super().call(inputs, training=training, mask=mask))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments and the frozen, LoRA and quantization state, as JSON-serializable values."""
        return {
            "family": self.family,
            **self.arguments,
            "frozen": self._frozen(),
            "frozen_dropout": self.frozen_dropout,
            "gradient_checkpointing": self.gradient_checkpointing,
            "fused_elementwise": self.fused_elementwise,
            "lora": self.lora,
            "quantization": self.quantization,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Creates a backbone from the output of `get_config`, in the dtype policy set by `recast`."""
        config = {**config, "dtype": _RECAST.get() or config.get("dtype")}
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.get(config["dtype"])
        return cls(**config)


def _connect(parts, inputs, num_layers, dtype):
    """Connects the layers into the functional graph from ids to the last layer's output.

    Returns:
        (cuts, states, output): the input tensors of the groups of blocks and the tensor after the last group; the
        tensors before and after every block; the output tensor of the last layer.
    """
    mask = inputs["padding_mask"]
    layout = (*_unpadding.TokenLayout(name="layout")(mask), mask)
    unpad = _unpadding.Unpad(name="unpad")
    counted = unpad(_positions.count_positions(mask), layout)
    positions = counted
    if parts.position_ids is not None:
        positions = unpad(parts.position_ids(mask, inputs["token_ids"]), layout)
    segments = [unpad(inputs["segment_ids"], layout)] if "segment_ids" in inputs else []
    x = parts.embeddings(unpad(inputs["token_ids"], layout), positions, *segments)
    wide = _unpadding.Widen(name="widen")(mask)
    tokens, slots = _unpadding.TokenLayout(name="wide_layout")(wide)
    grouped = _unpadding.LengthGroups(name="length_groups")(wide, tokens, slots)
    within = (tokens, slots, wide, grouped)
    shared = {name: layer([wide, *grouped[-1]], counted) for name, layer in parts.shared.items()}
    cuts, states = [], [x]
    for group in parts.groups:
        cuts.append(x)
        for _ in range(num_layers // len(parts.groups)):
            for block in group:
                x = block(x, within, **{argument: shared[name] for argument, name in block.takes.items()})
                states.append(x)
    cuts.append(x)
    if parts.final_norm is not None:
        x = parts.final_norm(x)
    return cuts, states, _unpadding.Pad(name="pad", dtype=dtype)(x, layout)
