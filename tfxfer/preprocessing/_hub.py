"""Reads the vocabulary, special tokens and convention of KerasHub's tokenizers."""

import keras_hub

from tfxfer import _check
from tfxfer.preprocessing import _conventions, _files, _older

# A class of keras_hub.tokenizers -> the convention that it follows.
CONVENTIONS = {
    "BertTokenizer": "Bert",
    "DistilBertTokenizer": "DistilBert",
    "ElectraTokenizer": "Electra",
    "RobertaTokenizer": "Roberta",
    "BartTokenizer": "Bart",
    "GPT2Tokenizer": "GPT2",
    "AlbertTokenizer": "Albert",
    "DebertaV3Tokenizer": "DebertaV2",
    "XLMRobertaTokenizer": "XLMRoberta",
    "T5Tokenizer": "T5",
    "GemmaTokenizer": "Gemma",
    "Gemma3Tokenizer": "Gemma",
    "LlamaTokenizer": "Llama",
    "MistralTokenizer": "Llama",
    "Llama3Tokenizer": "Llama3",
    "QwenTokenizer": "Qwen2",
    "Qwen3Tokenizer": "Qwen2",
}


def kinds():
    """Returns the tokenizer classes that `read` supports."""
    return tuple(getattr(keras_hub.tokenizers, name) for name in CONVENTIONS)


def read(tokenizer):
    """Returns the `Spec` of a KerasHub tokenizer."""
    kinds = {getattr(keras_hub.tokenizers, name): convention for name, convention in CONVENTIONS.items()}
    name = next((name for kind, name in kinds.items() if isinstance(tokenizer, kind)), None)
    if name is None:
        raise _check.invalid("tokenizer", f"one of keras_hub.tokenizers' {', '.join(CONVENTIONS)}", tokenizer)
    convention = _conventions.CONVENTIONS[name]
    settings = {name: {} for name in _files.SETTINGS}
    if isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer):
        settings["tokenizer_config"]["do_lower_case"] = bool(tokenizer.lowercase)
        spec = _older.wordpiece(list(tokenizer.get_vocabulary()), settings, convention)
    elif isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in tokenizer.merges]
        settings["tokenizer_config"]["add_prefix_space"] = bool(tokenizer.add_prefix_space)
        spec = _older.byte_pair(dict(tokenizer.vocabulary), merges, settings, convention)
    else:
        settings["tokenizer_config"]["extra_ids"] = 0  # KerasHub's T5 has only the pieces
        model = _older.load_sentencepiece(tokenizer.proto, "the KerasHub tokenizer")
        spec = _older.sentencepiece(model, settings, convention)
    return _files.finish(spec)
