"""The one form of all encoders."""

import keras
from keras import ops

from tfxfer import _check
from tfxfer._freezable import Freezable, switch
from tfxfer.backbones import _encoder, _families, _lora, _packing

_ACTIVATIONS = {
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_approximate": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}


@keras.saving.register_keras_serializable("tfxfer")
class Backbone(keras.Model):
    """A transformer encoder of any family: ids in, one vector a token out.

    A functional model built from the layers of the family's KerasHub backbone. Inputs are a dict of int32 tensors
    `(batch, length)`: `token_ids`, `padding_mask` (1 at real tokens), and `segment_ids` where `has_segment_ids`; the
    output is the tensor `(batch, length, hidden_dim)` of the last layer. What the pooler of some families would add is
    left out: nothing here has weights without a gradient.

    A token's position is the number of real tokens before it, so that neither amount nor side of the padding changes
    the output at real tokens. What stands at padding is finite and has no meaning.

    Args:
        family: string, one of `"bert"`, `"roberta"`, `"xlm_roberta"`, `"distil_bert"`, `"albert"`, `"electra"`,
            `"deberta_v3"`, `"gpt2"`.
        vocabulary_size: int. Rows of the token embedding.
        num_layers: int. Transformer blocks that a token goes through.
        num_heads: int. Attention heads; divides `hidden_dim`.
        hidden_dim: int. Size of a token's vector.
        intermediate_dim: int. Size of the feed-forward layer.
        max_sequence_length: int. Rows of the position table; for DeBERTa, which has none, the length that its
            logarithmic buckets were made for (longer input is allowed).
        activation: string, of the feed-forward layer: `"gelu"` (exact, erf), `"gelu_approximate"` (tanh), `"relu"` or
            `"silu"`. Defaults to the family's.
        layer_norm_epsilon: float. Defaults to the family's.
        dropout: float. Rate behind attention and feed-forward layer, and behind the embeddings.
        attention_dropout: float. Rate on the attention probabilities. Defaults to `dropout`.
        embeddings_dropout: float. Rate behind the embeddings. Defaults to `dropout`.
        embedding_dim: int. Size of the embeddings, ALBERT and ELECTRA only.
        num_segments: int. Rows of the segment embedding, BERT, ALBERT and ELECTRA only.
        num_groups: int. Groups of blocks that share weights, ALBERT only.
        num_inner_repetitions: int. Blocks in a group, ALBERT only.
        bucket_size: int. Buckets of relative distances, DeBERTa only.
        frozen: names of layers whose `trainable` is off.
        frozen_dropout: bool. Whether frozen layers keep their dropout, as Keras's do. Off by default: a frozen layer is
            a fixed function.
        lora: dict of the arguments of `enable_lora`, for adapters from the beginning.
        dtype: string or dtype policy, e.g. `"float32"`, `"mixed_bfloat16"`, `"bfloat16"`. Defaults to the global one.

    Raises:
        ValueError: an argument is none of these, or not one of the family's; on a call with more tokens than the
            position table has rows, where the length is known.

    Example:

    ```python
    backbone = Backbone(
        "bert", vocabulary_size=99, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=32
    )
    ids = np.ones((1, 5), "int32")
    backbone({"token_ids": ids, "padding_mask": ids, "segment_ids": 0 * ids}).shape  # (1, 5, 8)
    ```

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, and the papers of the other families.
    """

    def __init__(
        self,
        family,
        *,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        max_sequence_length,
        activation=None,
        layer_norm_epsilon=None,
        dropout=0.1,
        attention_dropout=None,
        embeddings_dropout=None,
        embedding_dim=None,
        num_segments=None,
        num_groups=None,
        num_inner_repetitions=None,
        bucket_size=None,
        frozen=(),
        frozen_dropout=False,
        lora=None,
        dtype=None,
        **kwargs,
    ):
        entry = _families.FAMILIES[_check.one_of("family", family, _families.FAMILIES)]
        sizes = {
            "vocabulary_size": vocabulary_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": intermediate_dim,
            "max_sequence_length": max_sequence_length,
        }
        details = {
            "embedding_dim": embedding_dim,
            "num_segments": num_segments,
            "num_groups": num_groups,
            "num_inner_repetitions": num_inner_repetitions,
            "bucket_size": bucket_size,
        }
        sizes.update(_details(family, entry, details, hidden_dim))
        sizes = {name: _check.integer(name, value) for name, value in sizes.items()}
        if hidden_dim % num_heads:
            raise _check.invalid("num_heads", f"a divisor of hidden_dim={hidden_dim}", num_heads)
        numbers = {
            "activation": _check.one_of("activation", activation or entry.activation, _ACTIVATIONS),
            "layer_norm_epsilon": entry.layer_norm_epsilon if layer_norm_epsilon is None else layer_norm_epsilon,
            "dropout": dropout,
            "attention_dropout": dropout if attention_dropout is None else attention_dropout,
            "embeddings_dropout": dropout if embeddings_dropout is None else embeddings_dropout,
        }
        for name in ("dropout", "attention_dropout", "embeddings_dropout"):
            _check.number(name, numbers[name], minimum=0, maximum=1)
        _check.number("layer_norm_epsilon", numbers["layer_norm_epsilon"], above=0)

        # === Layers ===
        hub = _make_hub(entry, sizes, numbers, dtype)
        blocks = entry.blocks(hub)
        _correct(family, entry, hub, blocks, numbers)

        # === Functional Model ===
        names = ("token_ids", "padding_mask") + (("segment_ids",) if entry.has_segment_ids else ())
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        cuts, outputs = _connect(entry, hub, blocks, inputs, num_layers)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._cuts = lambda: cuts  # hidden from Keras, which would look for weights in a list
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

        # === Config ===
        self.family = family
        self.has_segment_ids = entry.has_segment_ids
        for name, value in {**dict.fromkeys(details), **sizes, **numbers}.items():
            setattr(self, name, value)
        self._block_names = [[block.name for block in group] for group in blocks]
        self._adapters = _lora.Adapters(self.blocks)
        if lora is not None:
            self.enable_lora(**lora)
        for name in frozen:
            self.get_layer(name).trainable = False
        self._hold()
        self.frozen_dropout = frozen_dropout

    def layer_groups(self):
        """Returns the layers from the input upwards: the unit of freezing and of learning rates by layer.

        Returns:
            A dict in order: `"embeddings"`, `"block_0"`, `"block_1"`, ... to lists of layers. Each weight is in exactly
            one group. Blocks that share weights (ALBERT) are one group; a layer norm behind the last block (GPT-2) is
            in that block's group, DeBERTa's relative embeddings in `"embeddings"`.
        """
        blocks = {f"block_{i}": [self.get_layer(name) for name in names] for i, names in enumerate(self._block_names)}
        final = _families.FAMILIES[self.family].final
        if final:
            list(blocks.values())[-1].append(self.get_layer(final[0]))
        above = {id(layer) for layers in blocks.values() for layer in layers}
        below = [
            layer for layer in self.layers if not isinstance(layer, keras.layers.InputLayer) and id(layer) not in above
        ]
        return {"embeddings": below, **blocks}

    def blocks(self):
        """Returns the transformer blocks from the input upwards, as `(layer, group, number in the group)`."""
        names = enumerate(self._block_names)
        return [(self.get_layer(name), i, j) for i, group in names for j, name in enumerate(group)]

    def split(self, number):
        """Cuts the backbone before one of its groups of blocks.

        Args:
            number: int. The group that the upper part begins with: 0 leaves the embeddings alone below.

        Returns:
            (below, above): two functional models on this backbone's own layers. `below` takes this backbone's inputs
            and gives the states before the group; `above` takes the list of these states and the padding mask, and
            gives this backbone's output. States are `(real tokens, hidden_dim)` in the order of rows and tokens;
            `(batch * length, hidden_dim)` where the backend does not leave padding out; `(batch, length, hidden_dim)`
            for GPT-2.

        Raises:
            ValueError: if there is no such group.
        """
        cuts = self._cuts()
        if _check.integer("number", number, minimum=0) >= len(cuts):
            raise _check.invalid("number", f"an int < {len(cuts)}, the groups of blocks", number)
        below = keras.Model(self.input, cuts[number], name="below")
        return below, keras.Model([cuts[number], self.input["padding_mask"]], self.output, name="above")

    @property
    def trainable(self):
        """Whether weights train; see `set_trainable` for a part of them."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        self._hold()

    def set_trainable(self, flags):
        """Sets the trainable flags of layer groups, all the weights of a group alike; with adapters, theirs alone.

        Args:
            flags: dict of group name to bool. Groups that are not named stay as they are.
        """
        groups = self.layer_groups()
        for name, flag in flags.items():
            for layer in groups[name]:
                switch(layer, flag)
        # `backbone.trainable = False` switched it off as a whole as well.
        self._trainable = self.trainable or any(flags.values())
        self._hold()

    @property
    def frozen_dropout(self):
        """Whether frozen layers keep their dropout."""
        return self._frozen_dropout

    @frozen_dropout.setter
    def frozen_dropout(self, value):
        self._frozen_dropout = bool(value)
        for layers in self.layer_groups().values():
            for layer in layers:
                if isinstance(layer, Freezable):
                    layer.frozen_dropout = self._frozen_dropout

    @property
    def lora(self):
        """The arguments that `enable_lora` was called with, or `None` where there are no adapters."""
        return self._adapters.settings

    def enable_lora(self, rank, *, alpha=None, targets=("query", "value"), groups=None):
        """Adds low-rank adapters to dense layers of the blocks, and freezes all else; see `freezing.add_lora`."""
        adapted = self._adapters.add(rank, alpha, targets, groups)
        self.set_trainable({name: name in adapted for name in self.layer_groups()})

    def merge_lora(self):
        """Adds the adapters to the kernels and takes them away; groups that trained now train with all weights."""
        self._adapters.merge()
        for layers in self.layer_groups().values():
            for layer in layers:
                switch(layer, layer.trainable)

    def lora_variables(self):
        """Returns the adapters' variables by name: group, block in it, part, and `a` or `b`."""
        return self._adapters.variables_by_name()

    def _hold(self):
        """Keeps all weights but the adapters frozen where there are adapters: Keras's flags reach each weight."""
        adapters = getattr(self, "_adapters", None)
        if adapters is None or adapters.settings is None:
            return
        trained = {id(variable) for variable in adapters.variables_by_name().values()}
        for name, layers in self.layer_groups().items():
            for layer in layers:
                if name not in adapters.settings["groups"]:
                    layer.trainable = False
                for weight in layer.weights:
                    weight.trainable = layer.trainable and id(weight) in trained

    @property
    def token_embedding(self):
        """The layer that embeds token ids."""
        name, _, inner = next(iter(_families.FAMILIES[self.family].tensors)).partition(".")
        return getattr(self.get_layer(name), inner) if inner else self.get_layer(name)

    def call(self, inputs, training=None, mask=None):
        length = inputs["token_ids"].shape[1] if isinstance(inputs, dict) and "token_ids" in inputs else None
        absolute = _families.FAMILIES[self.family].has_absolute_positions
        if absolute and isinstance(length, int) and length > self.max_sequence_length:
            raise _check.invalid(
                "token_ids",
                f"at most max_sequence_length={self.max_sequence_length} tokens",
                (None, length),
                "Give the preprocessor a smaller sequence_length",
            )
        return super().call(inputs, training=training, mask=mask)

    def get_config(self):
        names = (
            "family vocabulary_size num_layers num_heads hidden_dim intermediate_dim max_sequence_length activation "
            "layer_norm_epsilon dropout attention_dropout embeddings_dropout embedding_dim num_segments num_groups "
            "num_inner_repetitions bucket_size"
        )
        return {
            **{name: getattr(self, name) for name in names.split()},
            "frozen": [
                layer.name for layers in self.layer_groups().values() for layer in layers if not layer.trainable
            ],
            "frozen_dropout": self.frozen_dropout,
            "lora": self.lora,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.get(config["dtype"])
        return cls(**config)


def _details(family, entry, given, hidden_dim):
    """Returns the arguments that only some families have, defaults filled in."""
    for name, value in given.items():
        if value is not None and name not in entry.details:
            raise _check.invalid(name, f"None for the family {family!r}", value)
    details = {name: default if given[name] is None else given[name] for name, default in entry.details.items()}
    if "embedding_dim" in details and details["embedding_dim"] is None:
        details["embedding_dim"] = hidden_dim
    return details


def _make_hub(entry, sizes, numbers, dtype):
    """Builds the KerasHub backbone whose layers are taken; the model itself is dropped."""
    arguments = dict(sizes)
    if entry.backbone.__name__ == "ElectraBackbone":  # alone in its name for it
        arguments["vocab_size"] = arguments.pop("vocabulary_size")
    # KerasHub has one rate for all dropouts; the largest makes all the layers that have a rate of their own below.
    rate = max(numbers["dropout"], numbers["attention_dropout"], numbers["embeddings_dropout"])
    return entry.backbone(dropout=rate, dtype=dtype, **arguments)


def _correct(family, entry, hub, blocks, numbers):
    """Sets in KerasHub's layers what it hard-codes and a checkpoint's config.json says.

    The one place that does so; it runs whenever a `Backbone` is built, from a checkpoint or from a `.keras` file.
    """
    epsilon = numbers["layer_norm_epsilon"]
    for name in ("embeddings_layer_norm", *entry.final[:1]):
        if getattr(hub, name, None) is not None:
            getattr(hub, name).epsilon = epsilon
    if getattr(hub, "relative_embeddings", None) is not None:
        hub.relative_embeddings.layer_norm.epsilon = epsilon
    hub.embeddings_dropout = _encoder.Dropout.from_config(hub.embeddings_dropout.get_config())
    hub.embeddings_dropout.rate = numbers["embeddings_dropout"]
    for block in (block for group in blocks for block in group):
        parts = _families.block_parts(block)
        parts["intermediate"].activation = _ACTIVATIONS[numbers["activation"]]
        parts["attention_norm"].epsilon = parts["output_norm"].epsilon = epsilon
        parts["output_dropout"].rate = numbers["dropout"]
        # DistilBERT alone has no dropout between attention and residual.
        parts["attention_dropout"].rate = 0.0 if family == "distil_bert" else numbers["dropout"]
        attention = parts["attention"]
        if family == "deberta_v3":
            attention._attn_dropout_layer.rate = numbers["attention_dropout"]
            attention._position_dropout_layer.rate = numbers["dropout"]
        else:
            attention._dropout = numbers["attention_dropout"]  # 0 chooses Keras's fused attention
            if numbers["attention_dropout"]:
                attention._dropout_layer.rate = numbers["attention_dropout"]


def _connect(entry, hub, blocks, inputs, num_layers):
    """Puts the layers together: the functional graph from ids to the last layer's output.

    Returns:
        (cuts, output): the tensors that the groups of blocks begin with, and that of the last layer.
    """
    mask, packing = inputs["padding_mask"], None
    # Number of real tokens before each; at padding before the first token it would be -1.
    positions = ops.maximum(ops.cumsum(mask, axis=1) - 1, 0)
    if entry.leaves_padding_out:
        packing = (*_packing.Packing(name="packing")(mask), mask)
        pack = _packing.Pack(name="pack")
        inputs = {name: pack(value, packing) for name, value in inputs.items()}
        positions = pack(positions, packing)
    x = entry.embed(hub, inputs, positions)
    if entry.leaves_padding_out:
        x = ops.squeeze(x, 0)
    arguments = entry.arguments(hub, mask, packing)
    cuts = []
    for group in blocks:
        cuts.append(x)
        for _ in range(num_layers // len(blocks)):
            for block in group:
                x = block(x, **arguments)
    if entry.final:
        x = getattr(hub, entry.final[0])(x)
    return cuts, _packing.Unpack(name="unpack", dtype=x.dtype)(x, packing) if entry.leaves_padding_out else x
