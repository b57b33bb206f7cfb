"""XLM-RoBERTa (Conneau et al., 2020, https://arxiv.org/abs/1911.02116)."""

from tfxfer.backbones.families.roberta import Roberta


class XLMRoberta(Roberta):
    """RoBERTa's encoder with a Unigram tokenizer of a hundred languages."""

    name = "xlm_roberta"
    model_types = ("xlm-roberta",)
    architecture = "XLMRobertaModel"
    tokenizer = "XLMRoberta"
    keras_hub = "XLMRobertaBackbone"


FAMILY = XLMRoberta()
