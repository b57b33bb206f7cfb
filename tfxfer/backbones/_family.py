"""The description of a family of encoders."""

from typing import Any

from tfxfer import _check
from tfxfer.backbones._attention import Attention
from tfxfer.backbones._block import FeedForward, TransformerBlock
from tfxfer.backbones._parts import ACTIVATIONS, Embeddings, norm
from tfxfer.backbones._positions import AttentionBias

# config.json's names of activations -> ours. "gelu" is the exact one (erf), as in Hugging Face's libraries and Keras.
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
REQUIRED = object()


class Family:
    """How to read, build and write one family of checkpoints.

    A subclass sets the attributes below and overrides the methods in which its encoders differ from BERT's. Sizes come
    as a namespace `a` of `Backbone`'s arguments, with the dtype policy in `a.dtype`.

    Attributes:
        name: string. The value of `Backbone(family=...)`.
        model_types: tuple of config.json's `model_type`s; empty for a family without checkpoints.
        architecture: string. The transformers class that loads the encoder.
        first_module: string. The sentence-transformers module that runs the encoder; transformers has a class for it if
            this is `"Transformer"`.
        examples: tuple of checkpoints on the Hugging Face hub.
        pooling: string. The pooling mode for sentence vectors, used if a checkpoint does not specify one.
        tokenizer: string. The convention of its tokenizers, used if a directory does not name one; `None` if the files
            are complete.
        has_segment_ids: bool. Whether the encoder takes `segment_ids`.
        has_position_table: bool. Whether a position table limits the sequence length.
        is_causal: bool. Whether a token sees only itself and the tokens before it.
        attention: the class of the blocks' attention.
        order: string. Order of the blocks; see `TransformerBlock`.
        norm: string. The kind of all norms; see `_parts.norm`.
        has_embeddings_norm: bool. Whether the embeddings are normalized.
        has_projection: bool. Whether a dense layer follows the embeddings even if it does not change their size.
        has_final_norm: bool. Whether there is a norm after the last block.
        activation: string. The default activation.
        layer_norm_epsilon: float. The default epsilon.
        options: dict of further arguments of `Backbone` and their defaults; `REQUIRED` for no default, or a function of
            a dict of the preceding arguments.
        may_be_zero: tuple of sizes that may be 0.
        config: dict that maps `Backbone`'s arguments to config.json's keys; a tuple is (key, value if absent).
        require: dict that maps config.json's keys to the supported values; any other value raises.
        anchor: string. A tensor that every checkpoint of the family has, without the task model's prefix.
        prefixes: tuple of the task models' prefixes; the last one is transformers' own.
        tensors: dict that maps tensor names, without `.weight` and `.bias`, to parts of the encoder outside the blocks,
            as dotted attributes of `Parts`.
        block_prefix: format string for the prefix of a block's tensors, from the group number and the block number
            within the group.
        block_tensors: dict that maps tensor names to parts of a block; a tuple of parts is stored in one tensor.
        module_prefix: format string for the prefix of a block's modules in transformers; `None` for `block_prefix`.
        modules: dict that maps a block's dense modules in transformers to parts, if they differ from `block_tensors`.
        stores_kernels_by_input: bool. Whether dense kernels are stored as (inputs, outputs).
        same: dict that maps tensor names to alternative names of the same tensor.
        ignored: tuple of regular expressions for full names: tensors of a checkpoint that the encoder does not need.
        keras_hub: string. The class in `keras_hub.models` whose presets belong to this family, or `None`.
        keras_hub_weights: dict that maps parts to the paths of the KerasHub backbone's weights.
        keras_hub_block_weights: the same within a block.
        keras_hub_block: format string for the prefix of a block's weights in KerasHub.
    """

    name: str
    model_types: tuple = ()
    architecture: str = ""
    first_module = "Transformer"
    examples: tuple = ()
    pooling = "mean"
    tokenizer: str | None = "Bert"
    has_segment_ids = False
    has_position_table = True
    is_causal = False
    attention: type[Attention] = Attention
    order = "post"
    norm = "layer"
    has_embeddings_norm = True
    has_projection = False
    has_final_norm = False
    activation = "gelu"
    layer_norm_epsilon = 1e-12
    options: dict[str, Any] = {}
    may_be_zero: tuple = ()

    # The names that most families use for the sizes; `config` starts with them.
    config: dict[str, Any] = {
        "vocabulary_size": "vocab_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "hidden_dim": "hidden_size",
        "intermediate_dim": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
    }
    require: dict[str, tuple] = {}

    anchor: str
    prefixes: tuple = ()
    tensors: dict[str, Any] = {}
    block_prefix: str
    block_tensors: dict[str, Any] = {}
    module_prefix: str | None = None
    modules: dict[str, Any] = {}
    stores_kernels_by_input = False
    same: dict[str, tuple] = {}
    ignored: tuple = ()

    keras_hub: str | None = None
    keras_hub_weights: dict[str, str] = {}
    keras_hub_block = "transformer_layer_{0}/"
    keras_hub_block_weights = {
        "attention.query": "self_attention_layer/query",
        "attention.key": "self_attention_layer/key",
        "attention.value": "self_attention_layer/value",
        "attention.output_dense": "self_attention_layer/attention_output",
        "attention_norm": "self_attention_layer_norm",
        "feed_forward.intermediate": "feedforward_intermediate_dense",
        "feed_forward.output_dense": "feedforward_output_dense",
        "feed_forward_norm": "feedforward_layer_norm",
    }

    # === Around the encoder ===

    def spec_from_config(self, config):
        """Returns the arguments of `EmbeddingSpec` for a checkpoint in which no other file specifies the pooling."""
        return {"pooling": (self.pooling,)}

    def preprocessing_options(self, config):
        """Returns the arguments of `TextPreprocessor` that the family needs."""
        return {}

    # === Parts ===

    def embeddings(self, a):
        """Returns the `Embeddings` with the tables that the arguments and the family's attributes require."""
        return Embeddings(
            a.vocabulary_size,
            getattr(a, "embedding_dim", a.hidden_dim),
            a.hidden_dim,
            num_positions=self.num_positions(a),
            num_segments=getattr(a, "num_segments", 0),
            norm=self.norm if self.has_embeddings_norm else None,
            epsilon=a.layer_norm_epsilon,
            dropout=a.embeddings_dropout,
            scale=self.embeddings_scale(a),
            projected=self.has_projection,
            dtype=a.dtype,
        )

    def num_positions(self, a):
        """Returns the number of rows of the position table; 0 for no table."""
        return a.max_sequence_length if self.has_position_table else 0

    def embeddings_scale(self, a):
        """Returns the factor on the token vectors."""
        return 1.0

    def position_ids(self, a):
        """Returns a layer that maps padding mask and token ids to position ids; `None` counts positions from 0."""
        return None

    def shared(self, a):
        """Returns the layers that are computed once for all blocks, by name; see `_positions`."""
        return {"attention_bias": AttentionBias(causal=self.is_causal, dtype=a.dtype)}

    def groups(self, a):
        """Returns the layer groups as lists of blocks. A group's blocks repeat until there are `a.num_layers`."""
        return [[self.block(a, i, f"block_{i}")] for i in range(a.num_layers)]

    def block(self, a, number, name):
        """Returns one `TransformerBlock`.

        Families set the attributes and override the option methods below instead of this method.

        Args:
            a: namespace of `Backbone`'s arguments.
            number: int. The number of the block, or of its group if blocks repeat.
            name: string. The layer's name.
        """
        attention = {"dropout": a.attention_dropout, **self.attention_options(a)}
        sizes = (a.hidden_dim, a.intermediate_dim, a.activation)
        options = {"dropout": a.dropout, **self.block_options(a, number)}
        return TransformerBlock(
            self.attention(a.hidden_dim, a.num_heads, dtype=a.dtype, **attention),
            FeedForward(*sizes, dtype=a.dtype, **self.feed_forward_options(a)),
            order=self.order,
            norm=self.norm,
            epsilon=a.layer_norm_epsilon,
            dtype=a.dtype,
            name=name,
            **options,
        )

    def attention_options(self, a):
        """Returns the arguments of the attention in addition to its sizes."""
        return {}

    def feed_forward_options(self, a):
        """Returns the arguments of `FeedForward` in addition to its sizes and activation."""
        return {}

    def block_options(self, a, number):
        """Returns the arguments of `TransformerBlock` in addition to its parts, for block `number`."""
        return {}

    def final_norm(self, a):
        """Returns the norm after the last block, or `None`."""
        if not self.has_final_norm:
            return None
        return norm(self.norm, a.hidden_dim, a.layer_norm_epsilon, dtype=a.dtype, name="final_norm")

    # === config.json ===

    def from_config(self, config, file):
        """Reads a Hugging Face `config.json`.

        Args:
            config: dict. The content of the file.
            file: path of the file, for error messages.

        Returns:
            The arguments of `Backbone`.

        Raises:
            ValueError: if a value is missing, or the activation or another setting is not supported.
        """
        where = f"In {file}"
        for key, allowed in self.require.items():
            if config.get(key) not in allowed:
                expected = f"one of {', '.join(map(repr, allowed))} for {self.name}"
                raise _check.invalid(key, expected, config.get(key), where)
        arguments = {}
        for argument, key in self.config.items():
            key, *default = key if isinstance(key, tuple) else (key,)
            value = config.get(key, default[0] if default else None)
            if value is None and not default:
                raise _check.invalid(key, "a value in config.json", None, where)
            arguments[argument] = value
        key = self.config["activation"]
        key = key[0] if isinstance(key, tuple) else key
        _check.one_of(key, arguments["activation"], ACTIVATION_NAMES, where)
        arguments["activation"] = ACTIVATION_NAMES[arguments["activation"]]
        return arguments

    def to_config(self, arguments):
        """Returns a `config.json` of an encoder with these arguments, readable by `from_config`."""
        names = {ours: theirs for theirs, ours in reversed(ACTIVATION_NAMES.items())}
        config = {"model_type": self.model_types[0], "architectures": [self.architecture]}
        for argument, key in self.config.items():
            value = arguments[argument]
            config[key[0] if isinstance(key, tuple) else key] = names[value] if argument == "activation" else value
        fixed = {key: allowed for key, allowed in self.require.items() if None not in allowed}
        return {**config, **{key: allowed[0] for key, allowed in fixed.items()}}

    def check(self, a):
        """Raises if arguments of `Backbone` are inconsistent with each other."""
        if a.hidden_dim % a.num_heads and getattr(a, "head_dim", None) is None:
            raise _check.invalid("num_heads", f"a divisor of hidden_dim={a.hidden_dim}", a.num_heads)
        _check.one_of("activation", a.activation, ACTIVATIONS)

    def head(self, config):
        """Returns the `HeadFormat` of the family's sequence classifiers with this config.json.

        Returns `None` if the family's trained heads are not supported.
        """
        return None

    def head_to_config(self, found):
        """Returns the entries of a `config.json` from which `head` creates this `HeadFormat`."""
        return {"classifier_dropout": found.dropout}

    def token_head(self, config):
        """Returns the `HeadFormat` of the family's token classifiers with this config.json.

        Returns `None` if transformers has no such class, or it is not supported.
        """
        return None

    def token_head_to_config(self, found):
        """Returns the entries of a `config.json` from which `token_head` creates this `HeadFormat`."""
        return {"classifier_dropout": found.dropout}

    def masked_head(self, config):
        """Returns the `MaskedHeadFormat` of the family's masked language models with this config.json.

        Returns `None` if transformers has no such class, or it is not supported.
        """
        return None

    # === Tensors ===

    def tensors_in_block(self, arguments):
        """Returns `block_tensors` for an encoder with these arguments."""
        return self.block_tensors

    def tensor_shape(self, part, kind, shape, arguments):
        """Returns the shape of the checkpoint's tensor for a weight of shape `shape`; see `from_tensor`."""
        return shape

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        """Converts a checkpoint's tensor, already in the weight's layout, to the weight of a part.

        Args:
            part: string. The part, as named in `tensors`.
            kind: string. `"kernel"`, `"bias"`, `"gamma"`, `"beta"`, `"scale"` or `"embeddings"`.
            value: float32 array.
            arguments: dict of `Backbone`'s arguments.
            checkpoint: `Checkpoint`, to read further tensors from.
        """
        return value

    def to_tensor(self, part, kind, value, arguments):
        """Returns the tensor that `from_tensor` converts to `value`."""
        return value

    def keras_hub_arguments(self, hub):
        """Returns the arguments of `Backbone` for a KerasHub backbone.

        Returns `None` for an unsupported variant, which is wrapped instead.
        """
        config = {name: value for name, value in hub.get_config().items() if name not in ("name", "trainable", "dtype")}
        if "vocab_size" in config:  # the name in ELECTRA
            config["vocabulary_size"] = config.pop("vocab_size")
        return config

    def from_keras_hub(self, part, kind, value):
        """Converts the weight of a KerasHub backbone, which may have other axes, to the weight of a part."""
        return value

    def extra_tensors(self, arguments):
        """Returns tensors in the family's files other than the encoder's weights: a dict of name to array."""
        return {}


def read_rope(config, file, *, kind=None, key="rope_theta", default=10000.0):
    """Reads the base of rotary positions from a `config.json`, in the form of transformers 5 or an older one.

    Args:
        config: dict. The content of the file.
        file: path of the file, for error messages.
        kind: string. The kind of layer under which the newer form stores it; `None` if all layers are the same.
        key: string. The older form's key.
        default: float. The base if the file does not specify one.

    Raises:
        ValueError: for scaled rotary positions, which are not supported.
    """
    where = f"In {file}"
    parameters = config.get("rope_parameters") or {}
    if kind is not None:
        parameters = parameters.get(kind) or {}
    for name, found in (("rope_parameters", parameters), ("rope_scaling", config.get("rope_scaling") or {})):
        scaling = found.get("rope_type", found.get("type", "default"))
        if scaling != "default":
            raise _check.invalid(name, "rotary positions of the type 'default'", scaling, where)
    theta = parameters.get("rope_theta", config.get(key, default))
    return _check.number(key, default if theta is None else theta, above=0)


def write_rope(theta):
    """Returns the entry of a `config.json` that `read_rope` reads."""
    return {"rope_type": "default", "rope_theta": theta}
