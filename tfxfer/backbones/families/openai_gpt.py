"""GPT (Radford et al., 2018, https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf)."""

from tfxfer.backbones.families.gpt2 import GPT2


class OpenAIGPT(GPT2):
    """GPT-2's parts with the norms after each part instead of before, and without a final norm."""

    name = "openai_gpt"
    model_types = ("openai-gpt",)
    architecture = "OpenAIGPTModel"
    examples = ("openai-community/openai-gpt",)
    tokenizer = "OpenAIGPT"
    order = "post"
    has_final_norm = False
    config = {
        **{argument: key for argument, key in GPT2.config.items() if argument != "intermediate_dim"},
        "activation": ("afn", "gelu"),
    }
    require = {}
    anchor = "tokens_embed.weight"
    tensors = {
        "tokens_embed": "embeddings.token_embedding",
        "positions_embed": "embeddings.position_embedding",
    }
    keras_hub = None

    def from_config(self, config, file):
        """Also reads the activation under GPT's names."""
        # The reference's "gelu" is the tanh form in this family.
        afn = {"gelu": "gelu_new"}.get(config.get("afn", "gelu"), config.get("afn"))
        return super().from_config({**config, "afn": afn}, file)

    def to_config(self, arguments):
        """Also returns the activation under GPT's names."""
        config = super().to_config(arguments)
        return {**config, "afn": {"gelu_new": "gelu"}.get(config["afn"], config["afn"])}

    def token_head(self, config):
        """Returns `None`: transformers has no such class."""
        return None


FAMILY = OpenAIGPT()
