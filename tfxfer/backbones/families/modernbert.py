"""ModernBERT (Warner et al., 2024, https://arxiv.org/abs/2412.13663)."""

import dataclasses

from tfxfer import _check
from tfxfer.backbones._family import ACTIVATION_NAMES, Family, read_rope, write_rope
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, Rotary

FULL, LOCAL = "full_attention", "sliding_attention"


def every(period):
    """Returns a function that makes every `period`-th layer, starting with the first, attend to all tokens."""
    return lambda a: [FULL if i % period == 0 else LOCAL for i in range(a["num_layers"])]


class ModernBert(Family):
    """Rotary positions, gated feed-forward, no biases, and a window in most layers; block 0 has no attention norm."""

    name = "modernbert"
    model_types = ("modernbert",)
    architecture = "ModernBertModel"
    examples = ("answerdotai/ModernBERT-base", "nomic-ai/modernbert-embed-base", "Alibaba-NLP/gte-modernbert-base")
    tokenizer = None  # tokenizer.json is complete
    has_position_table = False
    order = "pre"
    norm = "layer_without_bias"
    has_final_norm = True
    layer_norm_epsilon = 1e-5
    options = {
        "local_attention": 128,
        "layer_types": every(3),
        "rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    }
    config = {
        **Family.config,
        "activation": ("hidden_activation", "gelu"),
        "layer_norm_epsilon": ("norm_eps", 1e-5),
        "dropout": ("mlp_dropout", 0.0),
        "attention_dropout": ("attention_dropout", 0.0),
        "embeddings_dropout": ("embedding_dropout", 0.0),
        "local_attention": ("local_attention", 128),
    }
    require = {"attention_bias": (None, False), "mlp_bias": (None, False), "norm_bias": (None, False)}
    anchor = "embeddings.tok_embeddings.weight"
    prefixes = ("model.",)
    tensors = {
        "embeddings.tok_embeddings": "embeddings.token_embedding",
        "embeddings.norm": "embeddings.norm",
        "final_norm": "final_norm",
    }
    block_prefix = "layers.{0}."
    block_tensors = {
        "attn.Wqkv": ("attention.query", "attention.key", "attention.value"),
        "attn.Wo": "attention.output_dense",
        "attn_norm": "attention_norm",
        "mlp.Wi": ("feed_forward.gate", "feed_forward.intermediate"),
        "mlp.Wo": "feed_forward.output_dense",
        "mlp_norm": "feed_forward_norm",
    }
    ignored = (r"(head|decoder|classifier)\..*",)

    def from_config(self, config, file):
        """Also reads the layer types and the rotary base of each."""
        arguments = super().from_config(config, file)
        period = _check.integer("global_attn_every_n_layers", config.get("global_attn_every_n_layers", 3))
        arguments["layer_types"] = config.get("layer_types") or every(period)(arguments)
        arguments["rope_theta"] = read_rope(config, file, kind=FULL, key="global_rope_theta", default=160000.0)
        arguments["local_rope_theta"] = read_rope(config, file, kind=LOCAL, key="local_rope_theta")
        return arguments

    def to_config(self, arguments):
        """Also returns the layer types and their rotary bases."""
        return {
            **super().to_config(arguments),
            "layer_types": arguments["layer_types"],
            "rope_parameters": ropes(arguments),
            "attention_bias": False,
            "mlp_bias": False,
            "norm_bias": False,
        }

    def head(self, config):
        """Returns the hidden layer with its norm, and its pooling."""
        return HeadFormat(
            hidden="head.dense",
            norm="head.norm",
            pooling=config.get("classifier_pooling", "cls"),
            activation=config.get("classifier_activation", "gelu"),
            dropout=rate(config, "classifier_dropout"),
            hidden_use_bias=bool(config.get("classifier_bias", False)),
            norm_epsilon=config.get("norm_eps", 1e-5),
        )

    def head_to_config(self, found):
        """Returns the head's settings."""
        return {
            "classifier_pooling": found.pooling,
            "classifier_activation": found.activation,
            "classifier_bias": found.hidden_use_bias,
            "classifier_dropout": found.dropout,
        }

    def token_head(self, config):
        """Returns the hidden layer with its norm, applied to every token."""
        return dataclasses.replace(self.head(config), pooling="cls")

    def token_head_to_config(self, found):
        """Returns the head's settings except the pooling."""
        return {key: value for key, value in self.head_to_config(found).items() if key != "classifier_pooling"}

    def check(self, a):
        """Also checks the layer types."""
        super().check(a)
        check_layer_types(a)

    def shared(self, a):
        """Returns an attention bias and rotary positions for each layer type."""
        return shared_by_kind(a, a.hidden_dim // a.num_heads, a.local_attention // 2)

    def attention_options(self, a):
        """Removes the biases."""
        return {"use_bias": False}

    def feed_forward_options(self, a):
        """Selects a gated part without biases, with dropout before the output."""
        return {"gated": True, "use_bias": False, "dropout": a.dropout}

    def block_options(self, a, number):
        """Selects the bias and the positions that the block takes, and removes the first attention norm."""
        return {
            "dropout": 0.0,
            "attention_output_dropout": a.attention_dropout,
            "has_attention_norm": number > 0,
            "takes": takes(a.layer_types[number]),
        }

    def masked_head(self, config):
        """Returns the hidden layer with its norm; by default, neither has a bias."""
        return MaskedHeadFormat(
            dense="head.dense",
            norm="head.norm",
            bias=("decoder.bias",),
            activation=ACTIVATION_NAMES.get(config.get("classifier_activation", "gelu")),
            norm_epsilon=config.get("norm_eps", 1e-5),
            transform_bias=bool(config.get("classifier_bias", False)),
            norm_bias=False,
        )


def shared_by_kind(a, head_dim, window, *, causal=False):
    """Returns the shared layers of an encoder with both layer types: their biases and rotary positions.

    Args:
        a: namespace of `Backbone`'s arguments.
        head_dim: int. Size of a head.
        window: int. The largest distance, in real tokens, at which a local layer sees a token.
        causal: bool. Whether a token sees only itself and the tokens before it.
    """
    return {
        f"bias_{FULL}": AttentionBias(causal=causal, dtype=a.dtype, name=f"bias_{FULL}"),
        f"bias_{LOCAL}": AttentionBias(causal=causal, window=window, dtype=a.dtype, name=f"bias_{LOCAL}"),
        f"rotary_{FULL}": Rotary(head_dim, a.rope_theta, name=f"rotary_{FULL}"),
        f"rotary_{LOCAL}": Rotary(head_dim, a.local_rope_theta, name=f"rotary_{LOCAL}"),
    }


def takes(kind):
    """Returns the names of the shared layers that a block of this type takes."""
    return {"bias": f"bias_{kind}", "rotary": f"rotary_{kind}"}


def ropes(arguments):
    """Returns the entry `rope_parameters` of a config.json, with a base for each layer type."""
    return {FULL: write_rope(arguments["rope_theta"]), LOCAL: write_rope(arguments["local_rope_theta"])}


def check_layer_types(a):
    """Raises unless `layer_types` has one valid type for each layer."""
    if len(a.layer_types) != a.num_layers or not set(a.layer_types) <= {FULL, LOCAL}:
        raise _check.invalid("layer_types", f"{a.num_layers} items, each {FULL!r} or {LOCAL!r}", a.layer_types)


FAMILY = ModernBert()
