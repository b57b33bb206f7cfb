"""Qwen3, and Qwen3-Embedding (Zhang et al., 2025, https://arxiv.org/abs/2506.05176)."""

from tfxfer.backbones.families.llama import Llama


class Qwen3(Llama):
    """Llama's blocks with norms on each head's query and key."""

    name = "qwen3"
    model_types = ("qwen3",)
    architecture = "Qwen3Model"
    examples = ("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-0.6B")
    tokenizer = "Qwen2"
    has_head_norms = True
    keras_hub = "Qwen3Backbone"
    keras_hub_length = 32768
    options = {**Llama.options, "head_dim": 128}
    config = {**Llama.config, "head_dim": ("head_dim", 128)}
    require = {"attention_bias": (None, False), "use_sliding_window": (None, False)}


FAMILY = Qwen3()
