"""Gemma 3 as a text encoder, EmbeddingGemma (Schechter Vera et al., 2025, https://arxiv.org/abs/2509.20354)."""

from tfxfer.backbones._family import read_rope
from tfxfer.backbones.families.llama import Llama
from tfxfer.backbones.families.modernbert import FULL, LOCAL, check_layer_types, ropes, shared_by_kind, takes


class Gemma3Text(Llama):
    """Norms before and after each part, scaled embeddings, local and global layers, each with its own rotary base.

    A checkpoint's norms multiply by 1 + weight; here, a norm's scale is that sum.
    """

    name = "gemma3_text"
    model_types = ("gemma3_text",)
    architecture = "Gemma3TextModel"
    keras_hub = None
    examples = ("google/embeddinggemma-300m",)
    tokenizer = "Gemma"
    activation = "gelu_approximate"
    pooling = "mean"
    order = "sandwich"
    has_head_norms = True
    options = {
        "num_key_value_heads": lambda a: a["num_heads"],
        "head_dim": 256,
        "query_scale_dim": lambda a: a["head_dim"],
        "sliding_window": 4096,
        "layer_types": lambda a: [LOCAL if (i + 1) % 6 else FULL for i in range(a["num_layers"])],
        "rope_theta": 1000000.0,
        "local_rope_theta": 10000.0,
        "is_causal": True,
    }
    config = {
        **Llama.config,
        "max_sequence_length": ("max_position_embeddings", 131072),
        "activation": ("hidden_activation", "gelu_pytorch_tanh"),
        "head_dim": ("head_dim", 256),
        "query_scale_dim": ("query_pre_attn_scalar", 256),
        "sliding_window": ("sliding_window", 4096),
    }
    require = {
        "attention_bias": (None, False),
        "attn_logit_softcapping": (None,),
    }
    block_tensors = {
        **Llama.block_tensors,
        "post_attention_layernorm": "attention_output_norm",
        "pre_feedforward_layernorm": "feed_forward_norm",
        "post_feedforward_layernorm": "feed_forward_output_norm",
    }

    def from_config(self, config, file):
        """Also reads the layer types and the rotary base of each."""
        arguments = super().from_config({**config, "rope_parameters": None, "rope_scaling": None}, file)
        period = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        kinds = [LOCAL if (i + 1) % period else FULL for i in range(arguments["num_layers"])]
        arguments["layer_types"] = config.get("layer_types") or kinds
        arguments["rope_theta"] = read_rope(config, file, kind=FULL, default=1000000.0)
        arguments["local_rope_theta"] = read_rope(config, file, kind=LOCAL, key="rope_local_base_freq")
        arguments["is_causal"] = not config.get("use_bidirectional_attention", False)
        return arguments

    def to_config(self, arguments):
        """Also returns the layer types and their rotary bases."""
        config = super().to_config(arguments)
        del config["is_causal"]
        return {
            **config,
            "layer_types": arguments["layer_types"],
            "rope_parameters": ropes(arguments),
            "use_bidirectional_attention": not arguments["is_causal"],
        }

    def token_head(self, config):
        """Returns `None`: transformers has no such class."""
        return None

    def check(self, a):
        """Also checks the layer types."""
        super().check(a)
        check_layer_types(a)

    def embeddings_scale(self, a):
        """Returns the square root of the hidden size."""
        return a.hidden_dim**0.5

    def shared(self, a):
        """Returns an attention bias and rotary positions for each layer type."""
        # The reference halves the window if attention is bidirectional.
        window = a.sliding_window - 1 if a.is_causal else a.sliding_window // 2
        return shared_by_kind(a, a.head_dim, window, causal=a.is_causal)

    def attention_options(self, a):
        """Also sets the factor on the scores."""
        return {**super().attention_options(a), "scale": a.query_scale_dim**-0.5}

    def block_options(self, a, number):
        """Selects the bias and the positions that the block takes."""
        return {"takes": takes(a.layer_types[number])}

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        """Adds 1 to a norm's scale."""
        return value + 1.0 if kind == "scale" else value

    def to_tensor(self, part, kind, value, arguments):
        """Subtracts 1 from a norm's scale."""
        return value - 1.0 if kind == "scale" else value


FAMILY = Gemma3Text()
