"""DistilBERT (Sanh et al., 2019, https://arxiv.org/abs/1910.01108)."""

from tfxfer.backbones._family import ACTIVATION_NAMES, Family
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate


class DistilBert(Family):
    """BERT without segments, and without dropout between attention and residual."""

    name = "distil_bert"
    model_types = ("distilbert",)
    architecture = "DistilBertModel"
    examples = ("distilbert/distilbert-base-uncased", "distilbert/distilbert-base-uncased-finetuned-sst-2-english")
    tokenizer = "DistilBert"
    config = {
        "vocabulary_size": "vocab_size",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "hidden_dim": "dim",
        "intermediate_dim": "hidden_dim",
        "max_sequence_length": "max_position_embeddings",
        "activation": ("activation", "gelu"),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
    }
    anchor = "embeddings.word_embeddings.weight"
    prefixes = ("distilbert.",)
    tensors = {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.LayerNorm": "embeddings.norm",
    }
    block_prefix = "transformer.layer.{0}."
    block_tensors = {
        "attention.q_lin": "attention.query",
        "attention.k_lin": "attention.key",
        "attention.v_lin": "attention.value",
        "attention.out_lin": "attention.output_dense",
        "sa_layer_norm": "attention_norm",
        "ffn.lin1": "feed_forward.intermediate",
        "ffn.lin2": "feed_forward.output_dense",
        "output_layer_norm": "feed_forward_norm",
    }
    keras_hub = "DistilBertBackbone"
    keras_hub_weights = {
        "embeddings.token_embedding": "token_and_position_embedding/token_embedding",
        "embeddings.position_embedding": "token_and_position_embedding/position_embedding",
        "embeddings.norm": "embeddings_layer_norm",
    }

    def head(self, config):
        """Returns a hidden layer with ReLU instead of the pooler's tanh, and a dense output layer."""
        dropout = rate(config, "seq_classif_dropout", default=0.2)
        return HeadFormat(hidden="pre_classifier", activation="relu", dropout=dropout)

    def head_to_config(self, found):
        """Returns the dropout rate under DistilBERT's key."""
        return {"seq_classif_dropout": found.dropout}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "dropout", default=0.1))

    def token_head_to_config(self, found):
        """Returns no entries: the dropout rate is the encoder's."""
        return {}

    def block_options(self, a, number):
        """Removes the dropout between attention and residual."""
        return {"attention_output_dropout": 0.0}

    def masked_head(self, config):
        """Returns the layers whose names begin with `vocab`."""
        return MaskedHeadFormat(
            dense="vocab_transform",
            norm="vocab_layer_norm",
            bias=("vocab_projector.bias",),
            activation=ACTIVATION_NAMES.get(config.get("activation", "gelu")),
        )


FAMILY = DistilBert()
