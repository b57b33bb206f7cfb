"""Static embeddings: a table of token vectors and their mean, without any block.

Model2Vec (Tulkens and van Dongen, 2024, https://github.com/MinishLab/model2vec) and the `StaticEmbedding` module of
sentence-transformers (Aarsen, 2025, https://huggingface.co/blog/static-embeddings).
"""

import pathlib

from tfxfer import _check
from tfxfer.backbones import _checkpoint
from tfxfer.backbones._family import Family


class Static(Family):
    """A token's vector does not depend on its neighbors; texts have no special tokens.

    Model2Vec excludes unknown tokens from the mean; sentence-transformers does not.
    """

    name = "static"
    model_types = ("model2vec", "static")
    architecture = "StaticModel"
    first_module = "StaticEmbedding"
    examples = ("minishlab/potion-base-8M", "sentence-transformers/static-retrieval-mrl-en-v1")
    tokenizer = None
    has_position_table = False
    has_embeddings_norm = False
    options = {
        "num_layers": 0,
        "num_heads": 1,
        "intermediate_dim": 0,
        "max_sequence_length": 512,
        "dropout": 0.0,
    }
    may_be_zero = ("num_layers", "intermediate_dim")
    config: dict = {}
    anchor = "embedding.weight"
    tensors = {"embedding": "embeddings.token_embedding"}
    same = {"embedding.weight": ("embeddings",)}
    block_prefix = ""

    def from_config(self, config, file):
        """Reads the sizes from the tensors."""
        # Such a config does not specify the table's size.
        tensors = _checkpoint.open_tensors(pathlib.Path(file).parent)
        names = [name for name in ("embedding.weight", "embeddings") if name in tensors]
        if not names or len(tensors[names[0]].shape) != 2:
            raise _check.invalid("preset", "a table `embedding.weight` or `embeddings`", sorted(tensors), f"For {file}")
        rows, hidden_dim = tensors[names[0]].shape
        rows = tensors["mapping"].shape[0] if "mapping" in tensors else rows
        # sentence-transformers does not truncate; Model2Vec truncates at 512 tokens.
        longest = 512 if config["model_type"] == "model2vec" else 2**20
        return {"vocabulary_size": rows, "hidden_dim": hidden_dim, "max_sequence_length": longest}

    def to_config(self, arguments):
        """Returns Model2Vec's config."""
        return {"model_type": "model2vec", "architectures": [self.architecture], "hidden_dim": arguments["hidden_dim"]}

    def spec_from_config(self, config):
        """Returns mean pooling, normalized if the config requires it."""
        return {"pooling": ("mean",), "normalize": bool(config.get("normalize", False))}

    def preprocessing_options(self, config):
        """Disables special tokens and, for Model2Vec, unknown tokens."""
        return {"add_special_tokens": False, "drop_unknown_tokens": config.get("model_type") == "model2vec"}

    def check(self, a):
        """Rejects blocks."""
        for name in ("num_layers", "intermediate_dim"):
            if getattr(a, name):
                raise _check.invalid(name, "0: static embeddings have no blocks", getattr(a, name))

    def shared(self, a):
        """Returns no layers: there are no blocks."""
        return {}

    def tensor_shape(self, part, kind, shape, arguments):
        """Allows any number of rows."""
        return (None, shape[1])  # tokens may share rows, by `mapping`

    def from_tensor(self, part, kind, value, arguments, checkpoint):
        """Gives each token its own row, scaled by its weight."""
        if checkpoint.has("mapping"):
            rows = checkpoint.load("mapping")
            if rows.ndim != 1 or (rows.size and not 0 <= rows.min() <= rows.max() < len(value)):
                raise _check.invalid("mapping", f"rows of the table, 0 to {len(value) - 1}", rows, checkpoint.source)
            value = value[rows.astype("int64")]
        if checkpoint.has("weights"):
            value = value * checkpoint.take("weights", (None,))[:, None]
        if value.shape[0] != arguments["vocabulary_size"]:
            raise _check.invalid(
                "preset", f"a table of {arguments['vocabulary_size']} rows", value.shape, f"In {checkpoint.source}"
            )
        return value


FAMILY = Static()
