"""Wraps a KerasHub text backbone in the interface that task models expect of an encoder."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

import keras
import keras_hub
from keras import ops

from tfxfer import _check
from tfxfer._freezable import layers_within
from tfxfer.backbones import _backbone, _groups, _precision, _split

# Inputs that a wrapped backbone may take: the first three are passed in, the last is computed from the padding mask.
INPUTS = ("token_ids", "padding_mask", "segment_ids", "position_ids")
# Backbones that take no padding mask and recognize padding by this id instead; ESM's have an attribute for it.
_PADDING_IDS = {"RoformerV2Backbone": 0}
# FNet mixes all positions. In KerasHub 0.32, the masks of the others do not exclude padding.
_OPEN_TO_PADDING = ("FNetBackbone", "RoformerV2Backbone", "XLNetBackbone", "ESMBackbone", "ESM2Backbone")
# The maximum length for backbones that do not specify one: the length that most encoders were designed for.
_LENGTH = 512


class Part(keras.Model):
    """A functional model of a KerasHub backbone's layers whose frozen layers run without dropout.

    Args:
        inputs: dict or list of the backbone's tensors.
        outputs: one of its tensors, or a list.
        dropouts: list of pairs of a layer of the backbone and a `keras.layers.Dropout` within it.
        keeps_dropout: function without arguments that returns whether frozen layers keep their dropout.
        name: string.
    """

    def __init__(self, inputs, outputs, *, dropouts, keeps_dropout, name):
        super().__init__(inputs, outputs, name=name)
        # Hidden from Keras, which would track these layers as additional ones.
        self._dropouts = lambda: [] if keeps_dropout() else dropouts

    def call(self, inputs, training=None, mask=None):
        """Computes this part of the KerasHub backbone's graph."""
        with contextlib.ExitStack() as rates:
            for layer, dropout in self._dropouts() if training else ():
                if not layer.trainable:
                    rates.callback(setattr, dropout, "rate", dropout.rate)
                    dropout.rate = 0.0
            return super().call(inputs, training=training, mask=mask)


@keras.saving.register_keras_serializable("tfxfer")
class KerasHubBackbone(_groups.LayerGroups, keras.Model):
    """A KerasHub text backbone of a family that `Backbone` does not implement: FNet, RoFormerV2, XLNet, OPT, ...

    Task models wrap KerasHub backbones in this class (`backbones.adopt`). The layers are the backbone's own, not
    copies: training this model trains the backbone. The backbone's pooler, if any, is left out. Differences from
    `Backbone`:

    | | |
    |---|---|
    | cost | that of the padded batch: there is no unpadding |
    | padding | as the backbone handles it. Absolute positions count padding: pad on the right. Results depend on the amount of padding for FNet, which mixes all positions, and in KerasHub 0.32 for RoFormerV2, XLNet and ESM, whose masks do not exclude it (`depends_on_padding`): batches of texts of one length are safe |
    | dropout | frozen layers run without dropout, unless `frozen_dropout`; this covers `keras.layers.Dropout`, the only kind in KerasHub's text backbones |
    | adapters | not supported: `freezing.add_lora` raises |
    | `freezing.AboveFrozen` | supported if results do not depend on padding and blocks take only states and padding |

    Inputs are a dict of int32 tensors `(batch, length)`: `token_ids`, `padding_mask` (1 at real tokens), and
    `segment_ids` if the backbone takes them. The output is the backbone's sequence output, `(batch, length,
    hidden_dim)`.

    Args:
        backbone: a `keras_hub.models.Backbone` that maps token ids to token states.
        frozen: positions of layers and weights to freeze, as in `get_config`.
        frozen_dropout: bool. Whether frozen layers keep their dropout.
        quantization: dict that describes quantized layers, as in `get_config`.
        name: string. Defaults to the backbone's name.

    Attributes:
        family: string, the name of the backbone's class.
        depends_on_padding: bool. Whether the amount of padding changes the results for a text.

    Raises:
        ValueError: for a backbone with other inputs, such as images or a decoder's, or with another output.

    Example:

    ```python
    hub = keras_hub.models.FNetBackbone(30, num_layers=2, hidden_dim=8, intermediate_dim=16)
    model = models.TextClassifier(hub, labels=["card", "loan"])
    model.backbone.layer_groups().keys()  # embeddings, block_0, block_1
    ```
    """  # noqa: E501  (a table's row)

    def __init__(
        self,
        backbone: Any,
        *,
        frozen: Sequence[str] = (),
        frozen_dropout: bool = False,
        quantization: Mapping[str, Any] | None = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        sequence = sequence_output(backbone)

        # === Layers ===
        inner = keras.Model(backbone.input, sequence)
        blocks = _blocks(backbone, inner)
        groups = _groups_of(inner, blocks)
        dropouts = [
            (layer, found)
            for layers in groups.values()
            for layer in layers
            for found in layers_within(layer)
            if isinstance(found, keras.layers.Dropout) and found.rate
        ]
        # In a function, where Keras does not track it: the backbone may have weights that the output does not need.
        self._parts = lambda: (backbone, blocks, groups, dropouts)
        self._frozen_dropout = bool(frozen_dropout)

        # === Functional Model ===
        names = ("token_ids", "padding_mask", *(("segment_ids",) if "segment_ids" in backbone.input else ()))
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        outputs = self._part(backbone.input, sequence, backbone.name)(self._for_hub(inputs))
        super().__init__(inputs=inputs, outputs=outputs, name=name or backbone.name, trainable=trainable)
        self.dtype_policy = backbone.dtype_policy
        _precision.check(self.dtype_policy)

        # === Config ===
        self.family = type(backbone).__name__
        self.has_segment_ids = "segment_ids" in inputs
        self.depends_on_padding = self.family in _OPEN_TO_PADDING
        self.hidden_dim = sequence.shape[-1]
        self.num_layers = len(blocks)
        self.num_heads = getattr(backbone, "num_heads", None) or getattr(backbone, "num_query_heads", None)
        self.intermediate_dim = getattr(backbone, "intermediate_dim", None)
        table = next((each for each in layers_within(backbone) if _is_position_table(each)), None)
        self.has_position_table = table is not None
        self.max_sequence_length = table.sequence_length if table is not None else _length(backbone)
        self.vocabulary_size = _vocabulary_size(backbone, self.token_embedding)
        rates = {name: [found.rate for layer, found in dropouts if layer in groups[name]] for name in groups}
        self.embeddings_dropout = max(rates.pop("embeddings"), default=0.0)
        self.dropout = self.attention_dropout = max((rate for found in rates.values() for rate in found), default=0.0)
        self._restore_quantization(quantization)
        self._freeze(frozen)

    def hub(self) -> Any:
        """Returns the KerasHub backbone. A method, because Keras would save an attribute."""
        return self._parts()[0]

    @property
    def pooling(self) -> str:
        """The pooling mode for sentence vectors: `"last"` if KerasHub has a causal language model of the family.

        In a causal model, only the last token has seen the whole text. Otherwise `"mean"`.
        """
        is_causal = hasattr(keras_hub.models, f"{self.family.removesuffix('Backbone')}CausalLM")
        return "last" if is_causal else "mean"

    @property
    def token_embedding(self) -> keras.layers.Layer:
        """The layer that embeds token ids."""
        if self.hub().token_embedding is not None:
            return self.hub().token_embedding
        return next(
            each
            for layer in self.layer_groups()["embeddings"]
            for each in layers_within(layer)
            if isinstance(each, keras.layers.Embedding)
        )

    def layer_groups(self) -> dict[str, list]:
        """Returns the layers by group, from the input upwards. Groups are the unit of freezing and of learning rates.

        Returns:
            An ordered dict that maps `"embeddings"`, `"block_0"`, `"block_1"`, ... to lists of the backbone's layers.
            Each weight is in exactly one group. Layers after the last block are in that block's group.
        """
        return {name: list(layers) for name, layers in self._parts()[2].items()}

    def _part(self, inputs, outputs, name):
        dropouts = self._parts()[3]
        return Part(inputs, outputs, dropouts=dropouts, keeps_dropout=lambda: self._frozen_dropout, name=name)

    def _for_hub(self, inputs):
        """Converts this model's inputs to the backbone's inputs."""
        mask = inputs["padding_mask"]
        found = {name: inputs[name] for name in self.hub().input if name in inputs}
        # Computed in any case: Keras 3.13 rejects a model with an unused input, such as FNet's mask.
        positions = ops.maximum(ops.cumsum(mask, axis=1) - 1, 0)
        if "position_ids" in self.hub().input:
            found["position_ids"] = positions
        padding_id = _padding_id(self.hub())
        if padding_id is not None:
            found["token_ids"] = ops.where(mask > 0, inputs["token_ids"], padding_id)
        return found

    # === Parts of the graph ===

    def _cuts(self):
        """Returns the states before each block, followed by this backbone's output."""
        hub, blocks, _, _ = self._parts()
        cuts = []
        for i, block in enumerate(blocks):
            tensors = keras.tree.flatten(block.input)
            before = keras.tree.flatten(blocks[i - 1].output) if i else []
            states = [x for x in tensors if any(x is y for y in before)] or [x for x in tensors if self._is_states(x)]
            cuts.append(states[0])
        return [*cuts, sequence_output(hub)]

    def _is_states(self, tensor):
        return len(tensor.shape) == 3 and tensor.shape[-1] == self.hidden_dim and "float" in tensor.dtype

    def split(self, number: int, states: Sequence[int] | None = None) -> tuple[keras.Model, keras.Model]:
        """Cuts the backbone before one of its blocks, or after the last one.

        Args:
            number: int. The block at which the upper part begins: 0 leaves only the embeddings below, the number of
                blocks puts all blocks below.
            states: optional sequence of ints in ascending order. Layers, numbered as in `hidden_states`, whose states
                the upper part returns instead of this backbone's output.

        Returns:
            (below, above): two functional models on the backbone's own layers. `below` takes this backbone's inputs and
            returns the states before the block, `(batch, length, hidden_dim)`. `above` takes the list of these states
            and the padding mask, and returns this backbone's output.

            With `states`, `below` returns `(batch, length, k * hidden_dim)`: the states of the given layers below the
            cut, concatenated, followed by the states before the block. `above` returns a list of tensors `(batch,
            length, hidden_dim)`, one for each of `states`.

        Raises:
            ValueError: if the block or a layer does not exist, or the blocks take more than states and padding.
        """
        cuts, mask = self._cuts(), self.input["padding_mask"]
        if _check.integer("number", number, minimum=0) >= len(cuts):
            raise _check.invalid("number", f"an int < {len(cuts)}, the number of blocks plus one", number)
        wanted = [len(cuts) - 1] if states is None else _split.check_layers("states", states, len(cuts))
        upper = [cuts[i] for i in wanted if i >= number]
        stored = [*(cuts[i] for i in wanted if i < number), *([cuts[number]] if upper else [])]
        found = self._part(self.hub().input, stored, "lower")(self._for_hub(self.input))
        found = found if isinstance(found, (list, tuple)) else [found]
        kept, cut = (found[:-1], found[-1]) if upper else (found, found[-1])
        if upper:
            upper = self._above(cuts[number], upper, cut)
        below, above = _split.models(self.input, list(kept), cut, mask, upper, lambda state: state)
        if states is None:
            above = keras.Model(above.input, above.output[0], name="above")
        return below, above

    def _above(self, cut, outputs, given):
        """Returns the states above a cut, computed from `given` instead of the states `cut`."""
        rest = [each for each in outputs if each is not cut]
        made = []
        if rest:
            hub = self.hub()
            names = [name for name in ("padding_mask", "position_ids") if name in hub.input]
            try:
                upper = self._part([cut, *(hub.input[name] for name in names)], rest, "blocks")
            except ValueError as error:
                expected = "a backbone whose blocks take only states and padding"
                raise _check.invalid("backbone", expected, self.family, "Freeze the whole backbone, or none") from error
            inputs = self._for_hub(self.input)
            made = upper([given, *(inputs[name] for name in names)])
            made = list(made) if isinstance(made, (list, tuple)) else [made]
        return made if len(rest) == len(outputs) else [given, *made]

    def hidden_states(self, layers: Sequence[int] | None = None) -> keras.Model:
        """Returns a functional model on this backbone's own layers that outputs the states of its layers.

        While the whole backbone is frozen, no gradient flows through the model.

        Args:
            layers: optional sequence of ints in ascending order: the layers to output. Defaults to all.

        Returns:
            A `keras.Model` from this backbone's inputs to a list of `num_layers + 1` tensors `(batch, length,
            hidden_dim)`, or only those selected by `layers`: 0 is the embeddings, followed by each block's output. The
            last tensor is this backbone's output.

        Raises:
            ValueError: if a layer does not exist.
        """
        part = self._part(self.hub().input, self._cuts(), "hidden_states")
        found = part(self._for_hub(self.input))
        if layers is not None:
            found = [found[number] for number in _split.check_layers("layers", layers, len(found))]
        return _split.States(self.input, list(found), name="hidden_states")

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Calls the KerasHub backbone on a padded dict of ids.

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
            expected = f"at most max_sequence_length={self.max_sequence_length} tokens"
            remedy = "Use a smaller sequence_length in the preprocessor"
            raise _check.invalid("token_ids", expected, (None, length), remedy)
        return _split.stopped(self, super().call(inputs, training=training, mask=mask))

    # === Dropout and adapters ===

    def runs_dropout(self, layer: Any) -> bool:
        """Returns whether a layer applies dropout in training: it trains, or `frozen_dropout` is on."""
        return layer.trainable or self.frozen_dropout

    @property
    def lora(self) -> None:
        """`None`: a wrapped backbone has no adapters."""
        return None

    def enable_lora(self, rank: Any, **kwargs: Any) -> NoReturn:
        """Raises a `ValueError`: adapters require a family of `backbones.families_table()`, regardless of `rank`."""
        raise _check.invalid(
            "model",
            "an encoder of a family that `backbones.Backbone` implements",
            self.family,
            "Freeze its lower layers instead: `freezing.freeze(model, below=...)`",
        )

    def merge_lora(self) -> None:
        """Does nothing, since there are no adapters."""

    def lora_variables(self) -> dict[str, Any]:
        """Returns an empty dict."""
        return {}

    # === Saving ===

    def _places(self):
        """Returns layers and weights by position, such as `"block_0/0"` and `"block_0/0/3"`.

        Names are not reliable: some backbones prefix their layers' names with their own, some weights have no path.
        """
        layers = {f"{name}/{i}": layer for name, found in self.layer_groups().items() for i, layer in enumerate(found)}
        weights = {f"{place}/{i}": w for place, layer in layers.items() for i, w in enumerate(layer.weights)}
        return layers, weights

    def _frozen(self):
        layers, weights = self._places()
        frozen = [place for place, layer in layers.items() if not layer.trainable]
        parts = [place for place, weight in weights.items() if not weight.trainable]
        return frozen + [place for place in parts if place.rpartition("/")[0] not in frozen]

    def _freeze(self, places):
        layers, weights = self._places()
        known = {**layers, **weights}
        for place in places:
            known[_check.one_of("frozen", place, known)].trainable = False

    def get_config(self) -> dict[str, Any]:
        """Returns the KerasHub backbone's serialized config and the frozen and quantized state."""
        hub = keras.saving.serialize_keras_object(self.hub())
        # The flags are in `frozen`.
        config = {**hub["config"], "trainable": True}
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return {
            "backbone": {**hub, "config": {**config, "dtype": dtype}},
            "frozen": self._frozen(),
            "frozen_dropout": self.frozen_dropout,
            "quantization": self.quantization,
            "dtype": dtype,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Creates a backbone from the output of `get_config`."""
        config = dict(config)
        own = config.pop("dtype", None)
        dtype = _backbone.recast_to() or own
        if isinstance(config["backbone"], dict):
            hub = config["backbone"]
            dtype = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
            hub = {**hub, "config": {**hub["config"], "dtype": dtype}}
            config["backbone"] = keras.saving.deserialize_keras_object(hub, custom_objects=custom_objects)
        return cls(**config)


def sequence_output(backbone):
    """Returns the output tensor with a KerasHub backbone's token states.

    Raises:
        ValueError: for a backbone that does not map token ids to token states; the message gives the reason.
    """
    expected = "a KerasHub text backbone that maps token ids to token states"
    inputs, outputs = backbone.input, backbone.output
    names = list(inputs) if isinstance(inputs, dict) else []
    if any(name.startswith(("encoder_", "decoder_")) for name in names):
        remedy = "It has a decoder, which a task model has no input for; `backbones.presets()` lists encoders"
        raise _check.invalid("backbone", expected, type(backbone).__name__, remedy)
    others = [name for name in names if name not in INPUTS]
    if others or "token_ids" not in names:
        remedy = f"It takes {', '.join(others or names) or 'an input without a name'}"
        raise _check.invalid("backbone", expected, type(backbone).__name__, remedy)
    if isinstance(outputs, dict):
        outputs = outputs.get("sequence_output")
    width = getattr(backbone, "hidden_dim", None) or getattr(backbone, "hidden_size", None)
    shape = tuple(getattr(outputs, "shape", ()))
    if len(shape) != 3 or width not in (None, shape[-1]):
        size = "hidden_dim" if width is None else width
        remedy = f"Its output has the shape {shape}, not (batch, length, {size})"
        raise _check.invalid("backbone", expected, type(backbone).__name__, remedy)
    return outputs


def _blocks(backbone, inner):
    """Returns the blocks from the input upwards: those that the backbone lists, otherwise the layers of one class."""
    there = {id(layer) for layer in inner.layers}
    listed = getattr(backbone, "transformer_layers", None)
    if listed and all(id(layer) in there for layer in listed):
        return list(listed)
    by_class = {}
    for layer in inner.layers:
        tensors = keras.tree.flatten(layer.input)
        if layer.weights and tensors and len(tensors[0].shape) == 3 and "float" in tensors[0].dtype:
            by_class.setdefault(type(layer), []).append(layer)
    if not by_class:
        expected = "a backbone of blocks, in `transformer_layers` or as layers of one class"
        raise _check.invalid("backbone", expected, type(backbone).__name__)
    return max(by_class.values(), key=lambda layers: sum(layer.count_params() for layer in layers))


def _groups_of(inner, blocks):
    """Returns all layers by group; every layer except the inputs is in exactly one group."""
    below = keras.Model(inner.input, keras.tree.flatten(blocks[0].output)[0])
    first, chosen = {id(layer) for layer in below.layers}, {id(block) for block in blocks}
    rest = [layer for layer in inner.layers if id(layer) not in chosen and not _is_input(layer)]
    groups = {"embeddings": [layer for layer in rest if id(layer) in first]}
    groups.update({f"block_{i}": [block] for i, block in enumerate(blocks)})
    groups[f"block_{len(blocks) - 1}"] += [layer for layer in rest if id(layer) not in first]
    return groups


def _is_input(layer):
    return isinstance(layer, keras.layers.InputLayer)


def _is_position_table(layer):
    return isinstance(layer, keras_hub.layers.PositionEmbedding)


def _padding_id(backbone):
    """Returns the id by which a backbone without a padding mask recognizes padding, or `None`."""
    if "padding_mask" in backbone.input:
        return None
    return getattr(backbone, "pad_token_id", _PADDING_IDS.get(type(backbone).__name__))


def _length(backbone):
    names = ("max_sequence_length", "max_position_embeddings")
    return next((found for name in names if isinstance(found := getattr(backbone, name, None), int)), _LENGTH)


def _vocabulary_size(backbone, embedding):
    return getattr(backbone, "vocabulary_size", None) or embedding.input_dim
