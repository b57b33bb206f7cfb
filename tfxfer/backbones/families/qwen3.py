"""Qwen3, and Qwen3-Embedding (Zhang et al., 2025, https://arxiv.org/abs/2506.05176)."""

from tfxfer import _check
from tfxfer._freezable import layers_within
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
    options = {**Llama.options, "head_dim": 128, "head_norm_epsilon": lambda a: a["layer_norm_epsilon"]}
    config = {**Llama.config, "head_dim": ("head_dim", 128)}
    require = {"attention_bias": (None, False), "use_sliding_window": (None, False)}

    def attention_options(self, a):
        """Also sets the epsilon of the head norms, which may differ from that of the other norms."""
        return {**super().attention_options(a), "head_norm_epsilon": a.head_norm_epsilon}

    def check(self, a):
        """Also checks the epsilon of the head norms."""
        super().check(a)
        _check.number("head_norm_epsilon", a.head_norm_epsilon, above=0)

    def keras_hub_arguments(self, hub):
        """Also reads the epsilon of the head norms from the layers: KerasHub's config does not determine it."""
        arguments = super().keras_hub_arguments(hub)
        if arguments is None:
            return None
        epsilon = next(layer.epsilon for layer in layers_within(hub) if layer.name == "query_dense_layernorm")
        return {**arguments, "head_norm_epsilon": epsilon}

    def to_config(self, arguments):
        """Rejects head norms with a separate epsilon, for which the format has no key."""
        if arguments["head_norm_epsilon"] != arguments["layer_norm_epsilon"]:
            expected = f"{arguments['layer_norm_epsilon']}, the layer_norm_epsilon"
            remedy = (
                "KerasHub's Qwen 3 normalizes the heads with another epsilon than the reference. Take the encoder from "
                "the Hugging Face hub, or save in the format 'tfxfer'"
            )
            raise _check.invalid("head_norm_epsilon", expected, arguments["head_norm_epsilon"], remedy)
        return super().to_config(arguments)


FAMILY = Qwen3()
