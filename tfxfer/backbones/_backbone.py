"""The one form of all encoders."""

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
from tfxfer.backbones.families import FAMILIES

SIZES = ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_sequence_length")
RATES = ("dropout", "attention_dropout", "embeddings_dropout")


# The dtype policy that encoders are read with; Keras's files have no argument for one.
_RECAST: contextvars.ContextVar[Any] = contextvars.ContextVar("recast", default=None)


@contextlib.contextmanager
def recast(dtype):
    """Encoders that are made from a config within get this dtype policy instead of theirs; `None` leaves them."""
    token = _RECAST.set(dtype)
    try:
        yield
    finally:
        _RECAST.reset(token)


def recast_to():
    """Returns the dtype policy that `recast` gives to encoders, or `None`."""
    return _RECAST.get()


@dataclasses.dataclass(frozen=True)
class Parts:
    """The layers of an encoder.

    Args:
        embeddings: `Embeddings`.
        position_ids: layer from padding mask and token ids to position ids, or `None`.
        shared: dict of layers that are computed once for all blocks; see `_positions`.
        groups: list of the blocks by layer group, a list each.
        final_norm: the norm after the last block, or `None`.
    """

    embeddings: Any
    position_ids: Any
    shared: dict
    groups: list
    final_norm: Any

    def build(self):
        """Builds all layers; each knows its sizes."""
        self.embeddings.build()
        for layer in [*self.shared.values(), *(block for group in self.groups for block in group)]:
            layer.build()
        if self.final_norm is not None:
            self.final_norm.build((None, *self.final_norm.input_spec.axes.values()))


def make_parts(family, arguments, dtype=None):
    """Returns the unbuilt `Parts` of an encoder; arguments as `complete` returns them."""
    a = types.SimpleNamespace(**arguments, dtype=dtype)
    return Parts(family.embeddings(a), family.position_ids(a), family.shared(a), family.groups(a), family.final_norm(a))


def complete(family, given):
    """Returns the arguments of an encoder, checked and with their defaults.

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
            raise _check.invalid(name, f"no such argument for the family {family.name!r}", value, f"It has {options}.")
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
    """A transformer encoder of any family: ids in, one vector a token out.

    A functional model of this package's own layers. Inputs are a dict of int32 tensors `(batch, length)`: `token_ids`,
    `padding_mask` (1 at real tokens), and `segment_ids` where `has_segment_ids`. The output is the tensor `(batch,
    length, hidden_dim)` of the last layer. The pooler of some families is left out: nothing here has weights without a
    gradient.

    A token's position is the number of real tokens before it, so that neither the amount nor the side of the padding
    changes the output at real tokens. The output at padding is finite and has no meaning.

    Args:
        family: string, a key of `families.FAMILIES`: `"bert"`, `"roberta"`, `"modernbert"`, ...
        vocabulary_size: int. Rows of the token embedding.
        num_layers: int. Transformer blocks that a token goes through.
        num_heads: int. Attention heads.
        hidden_dim: int. Size of a token's vector.
        intermediate_dim: int. Size of the feed-forward layer.
        max_sequence_length: int. Rows of the position table; for families without one, the length they were made for
            (longer input is allowed).
        activation: string, of the feed-forward layer: `"gelu"` (exact, erf), `"gelu_approximate"` (tanh), `"relu"` or
            `"silu"`. Defaults to the family's.
        layer_norm_epsilon: float. Defaults to the family's.
        dropout: float. Rate after attention and feed-forward layer, and after the embeddings. Defaults to 0.1.
        attention_dropout: float. Rate on the attention probabilities. Defaults to `dropout`.
        embeddings_dropout: float. Rate after the embeddings. Defaults to `dropout`.
        **options: what only some families have; see the `options` of the family's file.
        frozen: names of layers, and paths of weights, that do not train.
        frozen_dropout: bool. Whether frozen layers keep their dropout, as Keras's do. Off by default: a frozen layer is
            a fixed function.
        lora: dict of the arguments of `enable_lora`, for adapters from the beginning.
        quantization: dict of what `quantize` did, as `get_config` gives it.
        dtype: dtype policy. Defaults to Keras's global one.
        name: string.

    Attributes:
        arguments: dict of family-specific and common arguments, defaults filled in.
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

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, and the papers named in the families' files.
    """

    def __init__(
        self,
        family: str,
        *,
        frozen: Sequence[str] = (),
        frozen_dropout: bool = False,
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
        parts = make_parts(entry, arguments, dtype)
        parts.build()

        # === Functional Model ===
        names = ("token_ids", "padding_mask") + (("segment_ids",) if entry.has_segment_ids else ())
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        cuts, states, outputs = _connect(parts, inputs, arguments["num_layers"])
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)
        # Hidden from Keras, which would look for weights in a list.
        self._hidden = lambda: (parts, cuts, states)
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

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

    @property
    def parts(self) -> Any:
        """`Parts`. The layers of the encoder."""
        return self._hidden()[0]

    @property
    def pooling(self) -> str:
        """How the family's sentence vectors are pooled where a checkpoint does not say."""
        return FAMILIES[self.family].pooling

    @property
    def has_position_table(self) -> bool:
        """Whether a table of positions bounds the length."""
        return FAMILIES[self.family].has_position_table

    def layer_groups(self) -> dict[str, list]:
        """Returns the layers from the input upwards: the unit of freezing and of learning rates by layer.

        Returns:
            A dict in order: `"embeddings"`, `"block_0"`, `"block_1"`, ... to lists of layers. Each weight is in exactly
            one group. Blocks that share weights (ALBERT) are one group; a norm after the last block (GPT-2) is in that
            block's group; relative positions that all blocks share (DeBERTa, T5, MPNet) are in `"embeddings"`.
        """
        parts = self.parts
        below = [parts.embeddings, *(layer for layer in parts.shared.values() if layer.weights)]
        groups = {"embeddings": below, **{f"block_{i}": list(group) for i, group in enumerate(parts.groups)}}
        if parts.final_norm is not None:
            list(groups.values())[-1].append(parts.final_norm)
        return groups

    def blocks(self) -> list[tuple[Any, int, int]]:
        """Returns the transformer blocks from the input upwards, as `(layer, group, number in the group)`."""
        return [(block, i, j) for i, group in enumerate(self.parts.groups) for j, block in enumerate(group)]

    def split(self, number: int, states: Sequence[int] | None = None) -> tuple[keras.Model, keras.Model]:
        """Cuts the backbone before one of its groups of blocks, or after the last one.

        Args:
            number: int. The group that the upper part begins with: 0 leaves the embeddings alone below, the number of
                groups all blocks.
            states: optional sequence of ints in rising order. The layers, numbered as `hidden_states` numbers them,
                whose states the upper part gives instead of this backbone's output.

        Returns:
            (below, above): two functional models on this backbone's own layers. `below` takes this backbone's inputs
            and gives the states before the group; `above` takes the list of these states and the padding mask, and
            gives this backbone's output. States are `(real tokens, hidden_dim)` in the order of rows and tokens;
            `(batch * length, hidden_dim)` where the backend does not leave padding out.

            With `states`, `below` gives `(real tokens, k * hidden_dim)`: the states of those layers that lie below the
            cut, one after another, then those before the group. `above` gives a list of tensors `(batch, length,
            hidden_dim)`, one for each of `states`.

        Raises:
            ValueError: if there is no such group or layer.
        """
        _, cuts, hidden = self._hidden()
        if _check.integer("number", number, minimum=0) >= len(cuts):
            raise _check.invalid("number", f"an int < {len(cuts)}, the groups of blocks and one more", number)
        mask = self.input["padding_mask"]
        if states is None:
            below = keras.Model(self.input, cuts[number], name="below")
            return below, keras.Model([cuts[number], mask], self.output, name="above")
        states = _split.check_layers("states", states, len(hidden))
        place = next(i for i, state in enumerate(hidden) if state is cuts[number])
        layout, padding = (*self.get_layer("layout").output, mask), self.get_layer("pad")

        def padded(state):
            return padding(state, layout)

        # The last layer's states come after the final norm, which the upper part has.
        upper = [self.output if i == len(hidden) - 1 else padded(hidden[i]) for i in states if i >= place]
        kept = [hidden[i] for i in states if i < place]
        return _split.models(self.input, kept, cuts[number], mask, upper, padded)

    def hidden_states(self, layers: Sequence[int] | None = None) -> keras.Model:
        """Returns a functional model on this backbone's own layers that gives the states of its layers.

        While this backbone is frozen as a whole, no gradient goes through the model.

        Args:
            layers: optional sequence of ints in rising order: the layers to give. Defaults to all.

        Returns:
            A `keras.Model` from this backbone's inputs to a list of `num_layers + 1` tensors `(batch, length,
            hidden_dim)`, or of those that `layers` chooses: 0 is the embeddings, then comes each block's output. The
            last one is this backbone's output, after the final norm.

        Raises:
            ValueError: if there is no such layer.
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
        """Encodes a dict of ids; see the inputs in the class."""
        length = inputs["token_ids"].shape[1] if isinstance(inputs, dict) and "token_ids" in inputs else None
        if self.has_position_table and isinstance(length, int) and length > self.max_sequence_length:
            raise _check.invalid(
                "token_ids",
                f"at most max_sequence_length={self.max_sequence_length} tokens",
                (None, length),
                "Give the preprocessor a smaller sequence_length",
            )
        return _split.stopped(self, super().call(inputs, training=training, mask=mask))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, with what is frozen, adapted and quantized, as JSON holds them."""
        return {
            "family": self.family,
            **self.arguments,
            "frozen": self._frozen(),
            "frozen_dropout": self.frozen_dropout,
            "lora": self.lora,
            "quantization": self.quantization,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Makes a backbone from what `get_config` returned, in the dtype policy that `recast` gives."""
        config = {**config, "dtype": _RECAST.get() or config.get("dtype")}
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.get(config["dtype"])
        return cls(**config)


def _connect(parts, inputs, num_layers):
    """Puts the layers together: the functional graph from ids to the last layer's output.

    Returns:
        (cuts, states, output): the tensors that the groups of blocks begin with and that after the last one, those
        before and after every block, and that of the last layer.
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
    within = (*_unpadding.TokenLayout(name="wide_layout")(wide), wide)
    shared = {name: layer(wide, counted) for name, layer in parts.shared.items()}
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
    return cuts, states, _unpadding.Pad(name="pad", dtype=x.dtype)(x, layout)
