"""EuroBERT (Boizard et al., 2025, https://arxiv.org/abs/2503.05500)."""

from tfxfer.backbones._heads import HeadFormat
from tfxfer.backbones.families.llama import Llama


class EuroBert(Llama):
    """Llama's blocks with bidirectional attention."""

    name = "eurobert"
    model_types = ("eurobert",)
    architecture = "EuroBertModel"
    examples = ("EuroBERT/EuroBERT-210m",)
    keras_hub = None
    pooling = "mean"
    layer_norm_epsilon = 1e-5
    options = {**Llama.options, "rope_theta": 250000.0, "is_causal": False}
    config = {**Llama.config, "layer_norm_epsilon": ("rms_norm_eps", 1e-5)}

    def head(self, config):
        """Returns the hidden layer and its pooling."""
        pooling = config.get("classifier_pooling") or config.get("clf_pooling") or "late"
        modes = {"bos": "cls", "late": "mean"}  # late: the hidden layer on every token, then the mean
        return HeadFormat(
            hidden="dense", pooling=modes.get(pooling, pooling), is_late=pooling == "late", activation="gelu"
        )

    def head_to_config(self, found):
        """Returns the head's pooling."""
        pooling = {"cls": "bos"}.get(found.pooling, found.pooling)
        return {"classifier_pooling": "late" if found.is_late else pooling}

    def token_head(self, config):
        """Returns a dense layer without dropout."""
        return HeadFormat()

    def token_head_to_config(self, found):
        """Returns no entries: the head has no settings."""
        return {}


FAMILY = EuroBert()
