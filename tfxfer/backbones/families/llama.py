"""Llama as a text encoder (Dubey et al., 2024, https://arxiv.org/abs/2407.21783)."""

from tfxfer import _check
from tfxfer.backbones._family import Family, read_rope, write_rope
from tfxfer.backbones._heads import HeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, Rotary


class Llama(Family):
    """Pre-norm blocks with RMS norms, rotary positions, shared key and value heads, a gated feed-forward part.

    `"is_causal": false` in config.json makes its attention bidirectional.
    """

    name = "llama"
    model_types = ("llama",)
    architecture = "LlamaModel"
    examples = ("HuggingFaceTB/SmolLM2-135M",)
    tokenizer = None  # tokenizer.json is complete
    pooling = "last"
    has_position_table = False
    order = "pre"
    norm = "rms"
    has_embeddings_norm = False
    has_final_norm = True
    activation = "silu"
    layer_norm_epsilon = 1e-6
    has_head_norms = False
    has_attention_bias = False  # of query, key and value
    options = {
        "num_key_value_heads": lambda a: a["num_heads"],
        "head_dim": lambda a: a["hidden_dim"] // a["num_heads"],
        "rope_theta": 10000.0,
        "is_causal": True,
    }
    config = {
        **Family.config,
        "max_sequence_length": ("max_position_embeddings", 2048),
        "activation": ("hidden_act", "silu"),
        "layer_norm_epsilon": ("rms_norm_eps", 1e-6),
        "attention_dropout": ("attention_dropout", 0.0),
        "num_key_value_heads": ("num_key_value_heads", None),
        "head_dim": ("head_dim", None),
    }
    require = {"attention_bias": (None, False), "mlp_bias": (None, False)}
    anchor = "embed_tokens.weight"
    prefixes = ("model.",)
    tensors = {"embed_tokens": "embeddings.token_embedding", "norm": "final_norm"}
    block_prefix = "layers.{0}."
    block_tensors = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output_dense",
        "self_attn.q_norm": "attention.query_norm",
        "self_attn.k_norm": "attention.key_norm",
        "input_layernorm": "attention_norm",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.intermediate",
        "mlp.down_proj": "feed_forward.output_dense",
        "post_attention_layernorm": "feed_forward_norm",
    }
    keras_hub = "LlamaBackbone"
    keras_hub_weights = {"embeddings.token_embedding": "token_embedding", "final_norm": "sequence_output_layernorm"}
    keras_hub_block_weights = {
        "attention.query": "self_attention/query",
        "attention.key": "self_attention/key",
        "attention.value": "self_attention/value",
        "attention.output_dense": "self_attention/attention_output",
        "attention.query_norm": "self_attention/query_dense_layernorm",
        "attention.key_norm": "self_attention/key_dense_layernorm",
        "attention_norm": "self_attention_layernorm",
        "feed_forward.gate": "feedforward_gate_dense",
        "feed_forward.intermediate": "feedforward_intermediate_dense",
        "feed_forward.output_dense": "feedforward_output_dense",
        "feed_forward_norm": "feedforward_layernorm",
    }
    # The length that KerasHub's backbones are designed for; they do not store it. A window of this size is no limit.
    keras_hub_length = 2048

    def keras_hub_arguments(self, hub):
        """Returns the sizes; `None` for scaled positions or a window shorter than the maximum length."""
        config = hub.get_config()
        same = ("vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim", "num_key_value_heads", "head_dim")
        scaling = (config.get(f"rope_{name}scaling_factor", 1.0) for name in ("", "position_"))
        window = config.get("sliding_window_size") if config.get("use_sliding_window_attention", True) else None
        is_scaled = any(factor != 1.0 for factor in scaling) or config.get("rope_frequency_adjustment_factor")
        if is_scaled or (window is not None and window < self.keras_hub_length):
            return None
        return {
            **{name: config[name] for name in same if name in config},
            "num_heads": config["num_query_heads"],
            "max_sequence_length": self.keras_hub_length,
            "layer_norm_epsilon": config["layer_norm_epsilon"],
            "rope_theta": float(config["rope_max_wavelength"]),
            "dropout": config["dropout"],
            "embeddings_dropout": 0.0,
        }

    def from_config(self, config, file):
        """Also reads the rotary base and whether attention is causal."""
        arguments = super().from_config(config, file)
        arguments["dropout"] = 0.0  # the only dropout is on the attention probabilities
        arguments["rope_theta"] = read_rope(config, file, default=self.options["rope_theta"])
        arguments["is_causal"] = bool(config.get("is_causal", self.options["is_causal"]))
        return arguments

    def to_config(self, arguments):
        """Also returns the rotary base and whether attention is causal."""
        return {
            **super().to_config(arguments),
            "rope_parameters": write_rope(arguments["rope_theta"]),
            "is_causal": arguments["is_causal"],
        }

    def head(self, config):
        """Returns a dense layer on the last token."""
        return HeadFormat(output="score", pooling="last", use_bias=False)

    def head_to_config(self, found):
        """Returns no entries: the head has no settings."""
        return {}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(
            output="score",
            dropout=rate(config, "classifier_dropout", "hidden_dropout", default=0.1),
            use_bias=bool(config.get("token_classification_bias", True)),
        )

    def token_head_to_config(self, found):
        """Returns the dropout rate, and whether there is a bias."""
        return {"classifier_dropout": found.dropout, "token_classification_bias": found.use_bias}

    def check(self, a):
        """Also checks the number of key and value heads."""
        super().check(a)
        if a.num_heads % a.num_key_value_heads:
            raise _check.invalid("num_key_value_heads", f"a divisor of num_heads={a.num_heads}", a.num_key_value_heads)

    def shared(self, a):
        """Adds the rotary positions."""
        return {
            "attention_bias": AttentionBias(causal=a.is_causal, dtype=a.dtype),
            "rotary": Rotary(a.head_dim, a.rope_theta),
        }

    def attention_options(self, a):
        """Sets heads, biases and head norms."""
        return {
            "head_dim": a.head_dim,
            "num_key_value_heads": a.num_key_value_heads,
            "use_bias": self.has_attention_bias,
            "output_bias": False,
            "head_norm_epsilon": a.layer_norm_epsilon if self.has_head_norms else None,
        }

    def feed_forward_options(self, a):
        """Selects a gated part without biases."""
        return {"gated": True, "use_bias": False}

    def block_options(self, a, number):
        """Makes the blocks take the rotary positions."""
        return {"takes": {"bias": "attention_bias", "rotary": "rotary"}}


FAMILY = Llama()
