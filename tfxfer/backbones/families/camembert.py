"""CamemBERT (Martin et al., 2020, https://arxiv.org/abs/1911.03894)."""

from tfxfer.backbones.families.roberta import Roberta


class Camembert(Roberta):
    """RoBERTa's encoder with a French Unigram tokenizer."""

    name = "camembert"
    model_types = ("camembert",)
    architecture = "CamembertModel"
    examples = ("almanach/camembert-base",)
    tokenizer = "Camembert"
    keras_hub = None


FAMILY = Camembert()
