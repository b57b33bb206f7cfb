"""BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805)."""

from tfxfer.backbones._family import ACTIVATION_NAMES, Family
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate

# Config keys of BERT and its relatives without segments.
CONFIG = {
    **Family.config,
    "activation": ("hidden_act", "gelu"),
    "layer_norm_epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}


class Bert(Family):
    """Token, position and segment tables with a norm; post-norm blocks."""

    name = "bert"
    model_types = ("bert",)
    architecture = "BertModel"
    examples = (
        "google-bert/bert-base-uncased",
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        "BAAI/bge-small-en-v1.5",
        "intfloat/multilingual-e5-small",
        "cross-encoder/ms-marco-MiniLM-L6-v2",
    )
    has_segment_ids = True
    # KerasHub's own BERT, ALBERT and ELECTRA presets come from Google's checkpoints, whose code uses the tanh GELU.
    activation = "gelu_approximate"
    options = {"num_segments": 2}

    config = {**CONFIG, "num_segments": ("type_vocab_size", 2)}
    require = {"position_embedding_type": (None, "absolute"), "is_decoder": (None, False)}

    anchor = "embeddings.word_embeddings.weight"
    prefixes = ("bert.",)
    tensors = {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.token_type_embeddings": "embeddings.segment_embedding",
        "embeddings.LayerNorm": "embeddings.norm",
    }
    block_prefix = "encoder.layer.{0}."
    block_tensors = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.output_dense",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "feed_forward.intermediate",
        "output.dense": "feed_forward.output_dense",
        "output.LayerNorm": "feed_forward_norm",
    }

    keras_hub = "BertBackbone"
    keras_hub_weights = {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding": "position_embedding",
        "embeddings.segment_embedding": "segment_embedding",
        "embeddings.norm": "embeddings_layer_norm",
    }

    def head(self, config):
        """Returns the pooler, a tanh layer on the first token, and a dense output layer."""
        dropout = rate(config, "classifier_dropout", "hidden_dropout_prob", default=0.1)
        return HeadFormat(hidden="{}pooler.dense", dropout=dropout)

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "classifier_dropout", "hidden_dropout_prob", default=0.1))

    def masked_head(self, config):
        """Returns the layers of `cls.predictions`."""
        return MaskedHeadFormat(
            activation=ACTIVATION_NAMES.get(config.get("hidden_act", "gelu")),
            norm_epsilon=config.get("layer_norm_eps", 1e-12),
        )


FAMILY = Bert()
