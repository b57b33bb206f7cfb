"""Reads vocabulary, special tokens and family out of KerasHub's tokenizers."""

import keras_hub

from tfxfer import _check
from tfxfer.preprocessing import _files

# A class of keras_hub.tokenizers -> the family's name in Hugging Face's config.json.
FAMILIES = {
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "distilbert",
    "ElectraTokenizer": "electra",
    "RobertaTokenizer": "roberta",
    "GPT2Tokenizer": "gpt2",
    "AlbertTokenizer": "albert",
    "DebertaV3Tokenizer": "deberta-v2",
    "XLMRobertaTokenizer": "xlm-roberta",
}


def read(tokenizer):
    """Returns the `Spec` of a KerasHub tokenizer."""
    kinds = {getattr(keras_hub.tokenizers, name): family for name, family in FAMILIES.items()}
    family = next((family for kind, family in kinds.items() if isinstance(tokenizer, kind)), None)
    if family is None:
        raise _check.invalid("tokenizer", f"one of keras_hub.tokenizers' {', '.join(FAMILIES)}", tokenizer)
    notes = {"config": {}, "tokenizer_config": {}, "special_tokens_map": {}, "added_tokens": {}}
    if isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer):
        notes["tokenizer_config"]["do_lower_case"] = bool(tokenizer.lowercase)
        return _files.wordpiece(list(tokenizer.get_vocabulary()), notes, family)
    if isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in tokenizer.merges]
        notes["tokenizer_config"]["add_prefix_space"] = bool(tokenizer.add_prefix_space)
        return _files.byte_pair(dict(tokenizer.vocabulary), merges, notes, family)
    return _files.sentencepiece(tokenizer.proto, notes, family)
