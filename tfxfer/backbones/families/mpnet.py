"""MPNet (Song et al., 2020, https://arxiv.org/abs/2004.09297)."""

from tfxfer.backbones._heads import HeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, RelativeBias
from tfxfer.backbones.families.bert import CONFIG
from tfxfer.backbones.families.roberta import Roberta


class MPNet(Roberta):
    """RoBERTa's embeddings, without segments, and a bias on the scores for each bucket of distances."""

    name = "mpnet"
    model_types = ("mpnet",)
    architecture = "MPNetModel"
    examples = ("sentence-transformers/all-mpnet-base-v2", "microsoft/mpnet-base")
    tokenizer = "MPNet"
    layer_norm_epsilon = 1e-12
    # The reference counts positions from padding id 1, regardless of config.json.
    options = {"pad_token_id": 1, "num_buckets": 32, "max_distance": 128}
    config = {
        **CONFIG,
        "pad_token_id": "pad_token_id",
        "num_buckets": ("relative_attention_num_buckets", 32),
    }
    require = {}
    prefixes = ("mpnet.",)
    tensors = {**Roberta.tensors, "encoder.relative_attention_bias": "shared.attention_bias.relative.table"}
    block_tensors = {
        "attention.attn.q": "attention.query",
        "attention.attn.k": "attention.key",
        "attention.attn.v": "attention.value",
        "attention.attn.o": "attention.output_dense",
        "attention.LayerNorm": "attention_norm",
        "intermediate.dense": "feed_forward.intermediate",
        "output.dense": "feed_forward.output_dense",
        "output.LayerNorm": "feed_forward_norm",
    }
    ignored = ()
    segment_config = {}
    keras_hub = None

    def from_config(self, config, file):
        """Also fixes the padding id from which positions count to 1."""
        return super().from_config({**config, "pad_token_id": 1}, file)

    def head(self, config):
        """Returns a hidden tanh layer on the first token, and a dense output layer."""
        dropout = rate(config, "hidden_dropout_prob", default=0.1)
        return HeadFormat(
            output="classifier.out_proj",
            hidden="classifier.dense",
            dropout=dropout,
            hidden_dropout=dropout,
        )

    def head_to_config(self, found):
        """Returns no entries: the dropout rate is the encoder's."""
        return {}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "hidden_dropout_prob", default=0.1))

    def token_head_to_config(self, found):
        """Returns no entries: the dropout rate is the encoder's."""
        return {}

    def shared(self, a):
        """Returns the attention bias with relative biases."""
        relative = RelativeBias(a.num_buckets, a.max_distance, a.num_heads, dtype=a.dtype)
        return {"attention_bias": AttentionBias(relative=relative, dtype=a.dtype)}


FAMILY = MPNet()
