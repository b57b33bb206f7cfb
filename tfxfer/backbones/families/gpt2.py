"""GPT-2 (Radford et al., 2019, https://cdn.openai.com/better-language-models/language-models.pdf)."""

from tfxfer.backbones._family import Family
from tfxfer.backbones._heads import HeadFormat, rate


class GPT2(Family):
    """A decoder: causal pre-norm blocks, and a norm after the last one."""

    name = "gpt2"
    model_types = ("gpt2",)
    architecture = "GPT2Model"
    examples = ("openai-community/gpt2", "distilbert/distilgpt2")
    tokenizer = "GPT2"
    pooling = "last"  # the only token that has seen the whole text
    is_causal = True
    activation = "gelu_approximate"
    layer_norm_epsilon = 1e-5
    order = "pre"
    has_embeddings_norm = False
    has_final_norm = True
    config = {
        "vocabulary_size": "vocab_size",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "hidden_dim": "n_embd",
        "intermediate_dim": ("n_inner", None),
        "max_sequence_length": "n_positions",
        "activation": ("activation_function", "gelu_new"),
        "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
        "dropout": ("resid_pdrop", 0.1),
        "attention_dropout": ("attn_pdrop", 0.1),
        "embeddings_dropout": ("embd_pdrop", 0.1),
    }
    require = {
        "scale_attn_weights": (None, True),
        "scale_attn_by_inverse_layer_idx": (None, False),
        "add_cross_attention": (None, False),
    }
    anchor = "wte.weight"
    prefixes = ("transformer.",)
    tensors = {
        "wte": "embeddings.token_embedding",
        "wpe": "embeddings.position_embedding",
        "ln_f": "final_norm",
    }
    block_prefix = "h.{0}."
    block_tensors = {
        "attn.c_attn": ("attention.query", "attention.key", "attention.value"),
        "attn.c_proj": "attention.output_dense",
        "ln_1": "attention_norm",
        "mlp.c_fc": "feed_forward.intermediate",
        "mlp.c_proj": "feed_forward.output_dense",
        "ln_2": "feed_forward_norm",
    }
    stores_kernels_by_input = True
    ignored = (r"h\.\d+\.attn\.(masked_)?bias",)
    keras_hub = "GPT2Backbone"
    keras_hub_weights = {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding": "position_embedding",
        "final_norm": "layer_norm",
    }
    keras_hub_block_weights = {
        part: path.replace("self_attention_layer/", "self_attention/")
        for part, path in Family.keras_hub_block_weights.items()
    }

    def from_config(self, config, file):
        """Also sets a missing intermediate size to four times the hidden size."""
        arguments = super().from_config(config, file)
        if arguments.get("intermediate_dim") is None:
            arguments["intermediate_dim"] = 4 * arguments["hidden_dim"]
        return arguments

    def head(self, config):
        """Returns a dense layer on the last token."""
        return HeadFormat(output="score", pooling="last", use_bias=False)

    def head_to_config(self, found):
        """Returns no entries: the head has no settings."""
        return {}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "classifier_dropout", "hidden_dropout", default=0.1))


FAMILY = GPT2()
