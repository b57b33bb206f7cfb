"""RoBERTa (Liu et al., 2019, https://arxiv.org/abs/1907.11692)."""

import numpy as np

from tfxfer import _check
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate
from tfxfer.backbones._positions import PositionIds
from tfxfer.backbones.families.bert import CONFIG, Bert


class Roberta(Bert):
    """BERT without segments; positions count from `pad_token_id + 1`, and the padding token has its own position.

    The position table here begins with the row of `pad_token_id`. All tokens are in segment 0, whose vector is added to
    each position.
    """

    name = "roberta"
    model_types = ("roberta",)
    architecture = "RobertaModel"
    examples = (
        "FacebookAI/roberta-base",
        "sentence-transformers/all-distilroberta-v1",
        "cardiffnlp/twitter-roberta-base",
    )
    tokenizer = "Roberta"
    has_segment_ids = False
    activation = "gelu"
    layer_norm_epsilon = 1e-5
    options = {"pad_token_id": 1}
    may_be_zero = ("pad_token_id",)
    config = {
        **CONFIG,
        "layer_norm_epsilon": ("layer_norm_eps", 1e-5),
        "pad_token_id": ("pad_token_id", 1),
    }
    prefixes = ("roberta.",)
    tensors = {name: part for name, part in Bert.tensors.items() if part != "embeddings.segment_embedding"}
    segment_config = {"type_vocab_size": 1}
    segments = "embeddings.token_type_embeddings.weight"
    ignored = (r"embeddings\.token_type_embeddings\.weight",)
    keras_hub = "RobertaBackbone"
    keras_hub_weights = {
        "embeddings.token_embedding": "embeddings/token_embedding",
        "embeddings.position_embedding": "embeddings/position_embedding",
        "embeddings.norm": "embeddings_layer_norm",
    }

    def num_positions(self, a):
        """Returns one row per position and one for padding."""
        return a.max_sequence_length + 1

    def position_ids(self, a):
        """Returns a layer that counts from 1, with 0 for padding."""
        return PositionIds(a.pad_token_id)

    def from_config(self, config, file):
        """Also subtracts the rows up to the padding token's from the maximum length in the file."""
        arguments = super().from_config(config, file)
        # A config may contain null; it is then unknown which id has its own position.
        _check.integer("pad_token_id", arguments["pad_token_id"], minimum=0)
        arguments["max_sequence_length"] -= arguments["pad_token_id"] + 1
        return arguments

    def to_config(self, arguments):
        """Adds these rows to the maximum length, and declares a single segment."""
        config = super().to_config(arguments)
        longest = arguments["max_sequence_length"] + arguments["pad_token_id"] + 1
        return {**config, "max_position_embeddings": longest, **self.segment_config}

    def head(self, config):
        """Returns a hidden tanh layer on the first token, and a dense output layer."""
        dropout = rate(config, "classifier_dropout", "hidden_dropout_prob", default=0.1)
        return HeadFormat(
            output="classifier.out_proj",
            hidden="classifier.dense",
            dropout=dropout,
            hidden_dropout=dropout,
        )

    def tensor_shape(self, part, kind, shape, arguments):
        """Adds the rows before the padding token's to the position table."""
        rows, *rest = shape
        return (rows + arguments["pad_token_id"], *rest) if part == "embeddings.position_embedding" else shape

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        """Removes these rows, and adds the vector of segment 0 to each position."""
        if part != "embeddings.position_embedding":
            return value
        value = value[arguments["pad_token_id"] :]
        if self.segment_config and checkpoint.has(self.segments):
            value = value + checkpoint.take(self.segments, (None, value.shape[1]))[0]
        return value

    def to_tensor(self, part, kind, value, arguments):
        """Fills these rows with zeros."""
        if part != "embeddings.position_embedding":
            return value
        return np.pad(value, ((arguments["pad_token_id"], 0), (0, 0)))

    def from_keras_hub(self, part, kind, value):
        """Adds the row for padding to the position table."""
        # KerasHub's table has no row for padding.
        return np.pad(value, ((1, 0), (0, 0))) if part == "embeddings.position_embedding" else value

    def extra_tensors(self, arguments):
        """Returns a zero vector for segment 0, if the family's files have one."""
        if not self.segment_config:
            return {}
        return {self.segments: np.zeros((1, arguments["hidden_dim"]), "float32")}

    def masked_head(self, config):
        """Returns the layers of `lm_head`."""
        return MaskedHeadFormat(
            dense="lm_head.dense",
            norm="lm_head.layer_norm",
            bias=("lm_head.bias", "lm_head.decoder.bias"),
            norm_epsilon=config.get("layer_norm_eps", self.layer_norm_epsilon),
        )


FAMILY = Roberta()
