"""Qwen2, and gte-Qwen2 (Yang et al., 2024, https://arxiv.org/abs/2407.10671)."""

from tfxfer.backbones.families.llama import Llama


class Qwen2(Llama):
    """Llama's blocks with a bias on query, key and value."""

    name = "qwen2"
    model_types = ("qwen2",)
    architecture = "Qwen2Model"
    examples = ("Qwen/Qwen2-0.5B",)
    tokenizer = "Qwen2"
    has_attention_bias = True
    keras_hub = "QwenBackbone"
    keras_hub_length = 32768
    require = {"use_sliding_window": (None, False)}


FAMILY = Qwen2()
