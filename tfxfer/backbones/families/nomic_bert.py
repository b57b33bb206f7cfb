"""Nomic BERT (Nussbaum et al., 2024, https://arxiv.org/abs/2402.01613)."""

from tfxfer import _check
from tfxfer.backbones._family import read_rope, write_rope
from tfxfer.backbones._heads import HeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, Rotary
from tfxfer.backbones.families.bert import Bert

# Keys of configs on the hub that belong to custom code there -> keys of transformers' class.
_HUB_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
    "rotary_emb_base": "rope_theta",
}
# Supported settings of that code (`None`: absent).
_HUB_REQUIRE = {
    "activation_function": ("swiglu",),
    "prenorm": (None, False),
    "parallel_block": (None, False),
    "causal": (None, False),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "rotary_emb_fraction": (1.0, 1),
    "rotary_emb_interleaved": (None, False),
    "rotary_emb_scale_base": (None,),
    "rotary_scaling_factor": (None, 1, 1.0),
    "use_rms_norm": (None, False),
    "num_experts": (None, 0),
}


class NomicBert(Bert):
    """BERT with rotary positions and a gated feed-forward part, without biases in the dense layers."""

    name = "nomic_bert"
    model_types = ("nomic_bert",)
    architecture = "NomicBertModel"
    examples = ("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-bert-2048")
    has_position_table = False
    has_attention_bias = False
    has_feed_forward_output_bias = False
    activation = "silu"
    options = {"num_segments": 2, "rope_theta": 10000.0}
    config = {
        **Bert.config,
        "activation": ("hidden_act", "silu"),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    }
    prefixes = ("bert.", "nomic_bert.")
    tensors = {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.token_type_embeddings": "embeddings.segment_embedding",
        "emb_ln": "embeddings.norm",
    }
    block_prefix = "encoder.layers.{0}."
    block_tensors = {
        "attn.Wqkv": ("attention.query", "attention.key", "attention.value"),
        "attn.out_proj": "attention.output_dense",
        "norm1": "attention_norm",
        "mlp.fc11": "feed_forward.intermediate",
        "mlp.fc12": "feed_forward.gate",
        "mlp.fc2": "feed_forward.output_dense",
        "norm2": "feed_forward_norm",
    }
    # On loading, transformers splits and renames the tensors in the files.
    module_prefix = "layers.{0}."
    modules = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output_dense",
        "mlp.up_proj": "feed_forward.intermediate",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.down_proj": "feed_forward.output_dense",
    }
    keras_hub = None

    def from_config(self, config, file):
        """Reads the config of transformers' class or of the hub's custom code."""
        if "n_embd" in config:
            for key, allowed in _HUB_REQUIRE.items():
                if config.get(key) not in allowed:
                    expected = f"one of {', '.join(map(repr, allowed))} for {self.name}"
                    raise _check.invalid(key, expected, config.get(key), f"In {file}")
            config = {**{_HUB_KEYS.get(key, key): value for key, value in config.items()}, "hidden_act": "silu"}
        return {**super().from_config(config, file), "rope_theta": read_rope(config, file)}

    def to_config(self, arguments):
        """Also returns the rotary base."""
        return {**super().to_config(arguments), "rope_parameters": write_rope(arguments["rope_theta"])}

    def head(self, config):
        """Returns the pooler, without dropout unless the config has a rate, and a dense output layer."""
        return HeadFormat(hidden="{}pooler.dense", dropout=rate(config, "classifier_dropout", "hidden_dropout_prob"))

    def token_head(self, config):
        """Returns a dense layer; `None` for configs of the hub's custom code, whose class is different."""
        if "n_embd" in config:
            return None
        return HeadFormat(dropout=rate(config, "classifier_dropout", "hidden_dropout_prob"))

    def shared(self, a):
        """Adds the rotary positions."""
        return {
            "attention_bias": AttentionBias(dtype=a.dtype),
            "rotary": Rotary(a.hidden_dim // a.num_heads, a.rope_theta),
        }

    def attention_options(self, a):
        """Sets whether there are biases."""
        return {"use_bias": self.has_attention_bias}

    def feed_forward_options(self, a):
        """Selects a gated part with a bias on the output at most."""
        return {"gated": True, "use_bias": False, "output_bias": self.has_feed_forward_output_bias}

    def block_options(self, a, number):
        """Makes the blocks take the rotary positions."""
        return {"takes": {"bias": "attention_bias", "rotary": "rotary"}}

    def masked_head(self, config):
        """Returns `None`: the heads of the hub's custom code are not supported."""
        return None


FAMILY = NomicBert()
