"""ALBERT (Lan et al., 2020, https://arxiv.org/abs/1909.11942)."""

from tfxfer import _check
from tfxfer.backbones._family import ACTIVATION_NAMES
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate
from tfxfer.backbones.families.bert import Bert


class Albert(Bert):
    """BERT with small projected embeddings, and groups of blocks that repeat with the same weights."""

    name = "albert"
    model_types = ("albert",)
    architecture = "AlbertModel"
    has_projection = True
    examples = ("albert/albert-base-v2", "sentence-transformers/paraphrase-albert-small-v2")
    tokenizer = "Albert"
    options = {"num_segments": 2, "embedding_dim": 128, "num_groups": 1, "num_inner_repetitions": 1}
    config = {
        **Bert.config,
        "activation": ("hidden_act", "gelu_new"),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
        "embedding_dim": "embedding_size",
        "num_groups": ("num_hidden_groups", 1),
        "num_inner_repetitions": ("inner_group_num", 1),
    }
    prefixes = ("albert.",)
    tensors = {**Bert.tensors, "encoder.embedding_hidden_mapping_in": "embeddings.projection"}
    block_prefix = "encoder.albert_layer_groups.{0}.albert_layers.{1}."
    block_tensors = {
        "attention.query": "attention.query",
        "attention.key": "attention.key",
        "attention.value": "attention.value",
        "attention.dense": "attention.output_dense",
        "attention.LayerNorm": "attention_norm",
        "ffn": "feed_forward.intermediate",
        "ffn_output": "feed_forward.output_dense",
        "full_layer_layer_norm": "feed_forward_norm",
    }
    keras_hub = "AlbertBackbone"
    keras_hub_weights = {**Bert.keras_hub_weights, "embeddings.projection": "embedding_projection"}
    keras_hub_block = "group_{0}_inner_layer_{1}/"

    def groups(self, a):
        """Returns `num_groups` groups of `num_inner_repetitions` blocks."""
        return [
            [self.block(a, i, f"block_{i}_{j}") for j in range(a.num_inner_repetitions)] for i in range(a.num_groups)
        ]

    def head(self, config):
        """Returns the pooler and a dense output layer, with ALBERT's config key for the dropout rate."""
        return HeadFormat(hidden="{}pooler", dropout=rate(config, "classifier_dropout_prob", default=0.1))

    def head_to_config(self, found):
        """Returns the dropout rate under ALBERT's key."""
        return {"classifier_dropout_prob": found.dropout}

    def token_head(self, config):
        """Returns a dense layer, with ALBERT's config key for the dropout rate."""
        return HeadFormat(dropout=rate(config, "classifier_dropout_prob", default=0.1))

    def token_head_to_config(self, found):
        """Returns the dropout rate under ALBERT's key."""
        return {"classifier_dropout_prob": found.dropout}

    def check(self, a):
        """Also checks the number of groups."""
        super().check(a)
        if a.num_layers % a.num_groups:
            raise _check.invalid("num_groups", f"a divisor of num_layers={a.num_layers}", a.num_groups)

    def masked_head(self, config):
        """Returns the layers of `predictions`, which are as wide as the embeddings."""
        return MaskedHeadFormat(
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            bias=("predictions.bias", "predictions.decoder.bias"),
            activation=ACTIVATION_NAMES.get(config.get("hidden_act", "gelu_new")),
            norm_epsilon=config.get("layer_norm_eps", 1e-12),
        )


FAMILY = Albert()
