"""DeBERTa v3, and v2 with the same settings (He et al., 2021, https://arxiv.org/abs/2111.09543)."""

from tfxfer import _check
from tfxfer.backbones._attention import DisentangledAttention
from tfxfer.backbones._family import ACTIVATION_NAMES, Family
from tfxfer.backbones._heads import HeadFormat, MaskedHeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, RelativePositions
from tfxfer.backbones.families.bert import CONFIG, Bert


class DebertaV3(Family):
    """No position table: attention uses relative positions, whose vectors all blocks share."""

    name = "deberta_v3"
    model_types = ("deberta-v2",)
    architecture = "DebertaV2Model"
    examples = ("microsoft/deberta-v3-base", "microsoft/deberta-v3-small", "cross-encoder/nli-deberta-v3-base")
    tokenizer = "DebertaV2"
    has_position_table = False
    attention = DisentangledAttention
    layer_norm_epsilon = 1e-7
    options = {"bucket_size": 256}
    config = {
        **CONFIG,
        "layer_norm_epsilon": ("layer_norm_eps", 1e-7),
        "bucket_size": ("position_buckets", -1),
    }
    require = {
        "relative_attention": (True,),
        "position_biased_input": (False,),
        "share_att_key": (True,),
        "norm_rel_ebd": ("layer_norm",),
        "pos_att_type": ("p2c|c2p", "c2p|p2c", ["p2c", "c2p"], ["c2p", "p2c"]),
        "type_vocab_size": (None, 0),
        "conv_kernel_size": (None, 0),
        "max_relative_positions": (None, -1),
        "is_decoder": (None, False),
    }
    anchor = Bert.anchor
    prefixes = ("deberta.",)
    tensors = {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.LayerNorm": "embeddings.norm",
        "encoder.rel_embeddings": "shared.relative_positions.table",
        "encoder.LayerNorm": "shared.relative_positions.norm",
    }
    block_prefix = Bert.block_prefix
    block_tensors = {
        **{name: part for name, part in Bert.block_tensors.items() if "self" not in name},
        "attention.self.query_proj": "attention.query",
        "attention.self.key_proj": "attention.key",
        "attention.self.value_proj": "attention.value",
    }
    keras_hub = "DebertaV3Backbone"
    keras_hub_weights = {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.norm": "embeddings_layer_norm",
        "shared.relative_positions.table": "rel_embedding/rel_embedding",
        "shared.relative_positions.norm": "rel_embedding/rel_embeddings_layer_norm",
    }
    keras_hub_block = "disentangled_attention_encoder_layer_{0}/"

    def from_config(self, config, file):
        """Also rejects an embedding size that differs from the hidden size."""
        arguments = super().from_config(config, file)
        size = arguments["hidden_dim"]
        if config.get("embedding_size", size) != size:
            expected = f"{size}, the hidden_size: smaller embeddings are not supported"
            raise _check.invalid("embedding_size", expected, config["embedding_size"], f"In {file}")
        return arguments

    def check(self, a):
        """Also checks the size of the table of distances."""
        super().check(a)
        if a.max_sequence_length > 100_000:  # the largest distance for which a table is created
            raise _check.invalid("max_sequence_length", "an int <= 100000", a.max_sequence_length)

    def head(self, config):
        """Returns DeBERTa's pooler with its own activation and dropout rates."""
        return HeadFormat(
            hidden="pooler.dense",
            activation=config.get("pooler_hidden_act") or "gelu",
            dropout=rate(config, "cls_dropout", "hidden_dropout_prob", default=0.1),
            hidden_dropout=rate(config, "pooler_dropout"),
        )

    def head_to_config(self, found):
        """Returns the pooler's activation and dropout rates."""
        return {
            "pooler_hidden_act": found.activation,
            "cls_dropout": found.dropout,
            "pooler_dropout": found.hidden_dropout,
        }

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "hidden_dropout_prob", default=0.1))

    def token_head_to_config(self, found):
        """Returns no entries: the dropout rate is the encoder's."""
        return {}

    def shared(self, a):
        """Adds the relative position vectors."""
        sizes = (a.bucket_size, a.max_sequence_length, a.hidden_dim, a.layer_norm_epsilon)
        return {
            "attention_bias": AttentionBias(dtype=a.dtype),
            "relative_positions": RelativePositions(*sizes, dtype=a.dtype),
        }

    def attention_options(self, a):
        """Sets the dropout rate on the relative positions."""
        return {"position_dropout": a.dropout}

    def block_options(self, a, number):
        """Makes the blocks take the relative positions."""
        return {"takes": {"bias": "attention_bias", "relative": "relative_positions"}}

    def masked_head(self, config):
        """Returns the layers of `cls.predictions`, the older of two forms; the newer one has other names."""
        if config.get("legacy", True) is not True:
            return None
        return MaskedHeadFormat(
            activation=ACTIVATION_NAMES.get(config.get("hidden_act", "gelu")),
            norm_epsilon=config.get("layer_norm_eps", 1e-7),
        )


FAMILY = DebertaV3()
