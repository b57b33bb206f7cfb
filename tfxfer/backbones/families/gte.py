"""GTE v1.5 and gte-multilingual (Zhang et al., 2024, https://arxiv.org/abs/2407.19669)."""

import numpy as np

from tfxfer.backbones._heads import HeadFormat, rate
from tfxfer.backbones.families.bert import CONFIG
from tfxfer.backbones.families.nomic_bert import NomicBert


class Gte(NomicBert):
    """Nomic BERT's block with biases in the attention.

    All tokens are in segment 0. If a checkpoint has a vector for it, the vector is added to each token's.
    """

    name = "gte"
    model_types = ("gte", "new")
    architecture = "GteModel"
    examples = ("Alibaba-NLP/gte-multilingual-base", "Alibaba-NLP/gte-base-en-v1.5")
    tokenizer = "XLMRoberta"
    has_segment_ids = False
    has_attention_bias = True
    has_feed_forward_output_bias = True
    activation = "gelu"
    options = {"rope_theta": 10000.0}
    config = {
        **CONFIG,
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    }
    require = {
        "layer_norm_type": (None, "layer_norm"),
        "position_embedding_type": (None, "rope"),
        "pack_qkv": (None, True),
        "type_vocab_size": (None, 0, 1),
        "logn_attention_scale": (None, False),
    }
    prefixes = ("new.", "gte.")
    tensors = {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.LayerNorm": "embeddings.norm",
    }
    segments = "embeddings.token_type_embeddings.weight"
    ignored = (r"embeddings\.token_type_embeddings\.weight",)
    block_prefix = "encoder.layer.{0}."
    block_tensors = {
        "attention.qkv_proj": ("attention.query", "attention.key", "attention.value"),
        "attention.o_proj": "attention.output_dense",
        "attn_ln": "attention_norm",
        "mlp.up_gate_proj": ("feed_forward.intermediate", "feed_forward.gate"),
        "mlp.down_proj": "feed_forward.output_dense",
        "mlp_ln": "feed_forward_norm",
    }

    def to_config(self, arguments):
        """Also declares a single segment."""
        return {**super().to_config(arguments), "type_vocab_size": 1}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "classifier_dropout", "hidden_dropout_prob", default=0.1))

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        """Adds the vector of segment 0 to the token table."""
        if part == "embeddings.token_embedding" and checkpoint.has(self.segments):
            return value + checkpoint.take(self.segments, (None, value.shape[1]))[0]
        return value

    def extra_tensors(self, arguments):
        """Returns a zero vector for segment 0."""
        return {self.segments: np.zeros((1, arguments["hidden_dim"]), "float32")}


FAMILY = Gte()
