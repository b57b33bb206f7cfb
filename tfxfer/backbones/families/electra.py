"""ELECTRA's discriminator (Clark et al., 2020, https://arxiv.org/abs/2003.10555)."""

from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate
from tfxfer.backbones.families.bert import Bert


class Electra(Bert):
    """BERT with a separate embedding size, projected if it differs from the blocks' size."""

    name = "electra"
    model_types = ("electra",)
    architecture = "ElectraModel"
    examples = ("google/electra-small-discriminator", "google/electra-base-discriminator")
    options = {"num_segments": 2, "embedding_dim": lambda a: a["hidden_dim"]}
    config = {**Bert.config, "embedding_dim": "embedding_size"}
    prefixes = ("electra.",)
    tensors = {**Bert.tensors, "embeddings_project": "embeddings.projection"}
    keras_hub = "ElectraBackbone"
    keras_hub_weights = {**Bert.keras_hub_weights, "embeddings.projection": "embeddings_projection"}

    def head(self, config):
        """Returns a hidden layer with GELU, and a dense output layer."""
        dropout = rate(config, "classifier_dropout", "hidden_dropout_prob", default=0.1)
        return HeadFormat(
            output="classifier.out_proj",
            hidden="classifier.dense",
            activation="gelu",
            dropout=dropout,
            hidden_dropout=dropout,
        )

    def masked_head(self, config):
        """Returns the generator's layers, which are as wide as the embeddings."""
        return MaskedHeadFormat(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            bias=("generator_lm_head.bias",),
            norm_epsilon=config.get("layer_norm_eps", 1e-12),
        )


FAMILY = Electra()
