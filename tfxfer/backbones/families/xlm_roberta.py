"""XLM-RoBERTa (Conneau et al., 2020, https://arxiv.org/abs/1911.02116)."""

from tfxfer.backbones.families.roberta import Roberta


class XLMRoberta(Roberta):
    """RoBERTa's encoder with a Unigram tokenizer for a hundred languages."""

    name = "xlm_roberta"
    model_types = ("xlm-roberta",)
    architecture = "XLMRobertaModel"
    examples = (
        "FacebookAI/xlm-roberta-base",
        "BAAI/bge-m3",
        "BAAI/bge-reranker-v2-m3",
        "intfloat/multilingual-e5-base",
    )
    tokenizer = "XLMRoberta"
    keras_hub = "XLMRobertaBackbone"


FAMILY = XLMRoberta()
