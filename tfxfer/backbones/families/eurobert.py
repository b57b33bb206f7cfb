"""EuroBERT (Boizard et al., 2025, https://arxiv.org/abs/2503.05500)."""

from tfxfer.backbones.families.llama import Llama


class EuroBert(Llama):
    """Llama's blocks, in both directions."""

    name = "eurobert"
    model_types = ("eurobert",)
    architecture = "EuroBertModel"
    pooling = "mean"
    layer_norm_epsilon = 1e-5
    options = {**Llama.options, "rope_theta": 250000.0, "is_causal": False}
    config = {**Llama.config, "layer_norm_epsilon": ("rms_norm_eps", 1e-5)}


FAMILY = EuroBert()
