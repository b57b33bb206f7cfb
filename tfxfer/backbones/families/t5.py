"""T5's encoder, sentence-t5 and GTR (Raffel et al., 2020, https://arxiv.org/abs/1910.10683)."""

from tfxfer import _check
from tfxfer.backbones._family import Family
from tfxfer.backbones._heads import HeadFormat, rate
from tfxfer.backbones._positions import AttentionBias, RelativeBias


class T5(Family):
    """Pre-norm blocks with RMS norms, no biases, unscaled scores, and one table of relative biases."""

    name = "t5"
    model_types = ("t5",)
    architecture = "T5EncoderModel"
    examples = ("sentence-transformers/sentence-t5-base", "sentence-transformers/gtr-t5-base", "google-t5/t5-small")
    tokenizer = "T5"
    has_position_table = False
    order = "pre"
    norm = "rms"
    has_embeddings_norm = False
    has_final_norm = True
    activation = "relu"
    layer_norm_epsilon = 1e-6
    options = {
        "head_dim": lambda a: a["hidden_dim"] // a["num_heads"],
        "is_gated": False,
        "num_buckets": 32,
        "max_distance": 128,
    }
    config = {
        "vocabulary_size": "vocab_size",
        "num_layers": "num_layers",
        "num_heads": "num_heads",
        "hidden_dim": "d_model",
        "intermediate_dim": "d_ff",
        "max_sequence_length": ("n_positions", 512),
        "activation": ("activation", "relu"),
        "layer_norm_epsilon": ("layer_norm_epsilon", 1e-6),
        "dropout": ("dropout_rate", 0.1),
        "head_dim": ("d_kv", 64),
        "num_buckets": ("relative_attention_num_buckets", 32),
        "max_distance": ("relative_attention_max_distance", 128),
    }
    anchor = "encoder.final_layer_norm.weight"
    prefixes = ("transformer.",)
    tensors = {
        "shared": "embeddings.token_embedding",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": "shared.attention_bias.relative.table",
        "encoder.final_layer_norm": "final_norm",
    }
    # Files contain the token table once or several times.
    same = {"shared.weight": ("encoder.embed_tokens.weight",)}
    block_prefix = "encoder.block.{0}."
    block_tensors = {
        "layer.0.SelfAttention.q": "attention.query",
        "layer.0.SelfAttention.k": "attention.key",
        "layer.0.SelfAttention.v": "attention.value",
        "layer.0.SelfAttention.o": "attention.output_dense",
        "layer.0.layer_norm": "attention_norm",
        "layer.1.DenseReluDense.wo": "feed_forward.output_dense",
        "layer.1.layer_norm": "feed_forward_norm",
    }
    ignored = (r"encoder\.embed_tokens\.weight", r"decoder\..*", r"lm_head\..*")

    def from_config(self, config, file):
        """Reads activation and gate from one key."""
        way = config.get("feed_forward_proj", "relu")
        activation = way.removeprefix("gated-")
        if way == "gated-gelu":
            activation = "gelu_new"  # as in the reference
        arguments = super().from_config({**config, "activation": activation}, file)
        return {**arguments, "is_gated": way.startswith("gated-")}

    def to_config(self, arguments):
        """Returns activation and gate under one key."""
        config = super().to_config(arguments)
        activation = config.pop("activation")
        way = "gelu" if activation == "gelu_new" and arguments["is_gated"] else activation
        return {**config, "feed_forward_proj": f"gated-{way}" if arguments["is_gated"] else way}

    def tensors_in_block(self, arguments):
        """Returns the tensors, including the gate's if there is one."""
        before = {"layer.1.DenseReluDense.wi": "feed_forward.intermediate"}
        if arguments["is_gated"]:
            before = {
                "layer.1.DenseReluDense.wi_0": "feed_forward.gate",
                "layer.1.DenseReluDense.wi_1": "feed_forward.intermediate",
            }
        return {**self.block_tensors, **before}

    def token_head(self, config):
        """Returns a dense layer."""
        return HeadFormat(dropout=rate(config, "classifier_dropout"))

    def check(self, a):
        """Also checks the maximum distance."""
        super().check(a)
        if a.max_distance > 100_000:
            raise _check.invalid("max_distance", "an int <= 100000", a.max_distance)

    def shared(self, a):
        """Returns the attention bias with relative biases."""
        relative = RelativeBias(a.num_buckets, a.max_distance, a.num_heads, dtype=a.dtype)
        return {"attention_bias": AttentionBias(relative=relative, dtype=a.dtype)}

    def attention_options(self, a):
        """Removes the biases and the scaling of the scores."""
        return {"head_dim": a.head_dim, "use_bias": False, "scale": 1.0}

    def feed_forward_options(self, a):
        """Selects whether the part is gated; no biases, with dropout before the output."""
        return {"gated": a.is_gated, "use_bias": False, "dropout": a.dropout}


FAMILY = T5()
