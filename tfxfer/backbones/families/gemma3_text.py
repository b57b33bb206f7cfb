"""Gemma 3 as a text encoder, EmbeddingGemma (Schechter Vera et al., 2025, https://arxiv.org/abs/2509.20354)."""

from tfxfer.backbones._attention import Attention
from tfxfer.backbones._block import FeedForward, TransformerBlock
from tfxfer.backbones._family import read_rope, write_rope
from tfxfer.backbones._parts import Embeddings
from tfxfer.backbones._positions import AttentionBias, Rotary
from tfxfer.backbones.families.llama import Llama
from tfxfer.backbones.families.modernbert import FULL, LOCAL, check_layer_types


class Gemma3Text(Llama):
    """Norms before and after each part, scaled embeddings, local and global layers with a base of positions each.

    A checkpoint's norms multiply by 1 + weight; here a norm's scale is that sum.
    """

    name = "gemma3_text"
    model_types = ("gemma3_text",)
    architecture = "Gemma3TextModel"
    keras_hub = None
    examples = ("google/embeddinggemma-300m",)
    tokenizer = "Gemma"
    activation = "gelu_approximate"
    pooling = "mean"
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
        arguments = super().from_config({**config, "rope_parameters": None, "rope_scaling": None}, file)
        period = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        kinds = [LOCAL if (i + 1) % period else FULL for i in range(arguments["num_layers"])]
        arguments["layer_types"] = config.get("layer_types") or kinds
        arguments["rope_theta"] = read_rope(config, file, kind=FULL, default=1000000.0)
        arguments["local_rope_theta"] = read_rope(config, file, kind=LOCAL, key="rope_local_base_freq")
        arguments["is_causal"] = not config.get("use_bidirectional_attention", False)
        return arguments

    def to_config(self, arguments):
        config = super().to_config(arguments)
        del config["is_causal"]
        ropes = {FULL: write_rope(arguments["rope_theta"]), LOCAL: write_rope(arguments["local_rope_theta"])}
        return {
            **config,
            "layer_types": arguments["layer_types"],
            "rope_parameters": ropes,
            "use_bidirectional_attention": not arguments["is_causal"],
        }

    def check(self, a):
        super().check(a)
        check_layer_types(a)

    def embeddings(self, a):
        sizes = (a.vocabulary_size, a.hidden_dim, a.hidden_dim)
        return Embeddings(*sizes, dropout=a.embeddings_dropout, scale=a.hidden_dim**0.5, dtype=a.dtype)

    def shared(self, a):
        # The reference halves the window where attention sees both ways.
        window = a.sliding_window - 1 if a.is_causal else a.sliding_window // 2
        return {
            f"bias_{FULL}": AttentionBias(causal=a.is_causal, dtype=a.dtype, name=f"bias_{FULL}"),
            f"bias_{LOCAL}": AttentionBias(causal=a.is_causal, window=window, dtype=a.dtype, name=f"bias_{LOCAL}"),
            f"rotary_{FULL}": Rotary(a.head_dim, a.rope_theta, name=f"rotary_{FULL}"),
            f"rotary_{LOCAL}": Rotary(a.head_dim, a.local_rope_theta, name=f"rotary_{LOCAL}"),
        }

    def block(self, a, number, name):
        kind = a.layer_types[number]
        return TransformerBlock(
            Attention(
                a.hidden_dim,
                a.num_heads,
                head_dim=a.head_dim,
                num_key_value_heads=a.num_key_value_heads,
                use_bias=False,
                scale=a.query_scale_dim**-0.5,
                head_norm_epsilon=a.layer_norm_epsilon,
                dropout=a.attention_dropout,
                dtype=a.dtype,
            ),
            FeedForward(a.hidden_dim, a.intermediate_dim, a.activation, gated=True, use_bias=False, dtype=a.dtype),
            order="sandwich",
            norm="rms",
            epsilon=a.layer_norm_epsilon,
            dropout=a.dropout,
            takes={"bias": f"bias_{kind}", "rotary": f"rotary_{kind}"},
            dtype=a.dtype,
            name=name,
        )

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        return value + 1.0 if kind == "scale" else value

    def to_tensor(self, part, kind, value, arguments):
        return value - 1.0 if kind == "scale" else value


FAMILY = Gemma3Text()
