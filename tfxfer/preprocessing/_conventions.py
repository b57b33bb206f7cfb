"""Conventions of the tokenizer classes of Hugging Face's transformers that their older files do not store.

`tokenizer.json` is complete. A vocabulary, merges or a SentencePiece model store neither the roles of tokens nor the
tokens around a text: those are conventions of the class named in `tokenizer_config.json`.
"""

import dataclasses

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_GEMMA = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
_LLAMA3 = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}

# Templates for one text and for two: roles, and "A" and "B" for the texts; ":1" is segment 1.
_BERT_TEMPLATES = ("cls A sep", "cls A sep B:1 sep:1")
_ROBERTA_TEMPLATES = ("cls A sep", "cls A sep sep B sep")
_BARE_TEMPLATES = ("A", "A B")
_BOS_TEMPLATES = ("bos A", "bos A bos:1 B:1")

VOCAB_TXT, MERGES, SENTENCEPIECE = "vocab.txt", "vocab.json and merges.txt", "SentencePiece"


@dataclasses.dataclass(frozen=True)
class Convention:
    """The conventions of one tokenizer class.

    Attributes:
        file: the kind of vocabulary that the class reads: `VOCAB_TXT`, `MERGES` or `SENTENCEPIECE`.
        tokens: dict from a role to its token.
        templates: the templates for one text and for two.
        segments: whether the models take segment ids.
        mask_lstrip: whether the mask token includes the whitespace before it.
        lowercase: whether the class lowercases by default.
        bytes: whether merges are of bytes instead of characters.
        normalizer: the class's own steps of the normalizer, as in `_normalizers`.
        pattern: regular expression that splits texts into words; `None` for GPT-2's.
        ignore_merges: whether a word that is a token is used without merging.
        ids: the mapping from positions in a SentencePiece model to ids: `"positions"`, `"fairseq"` or `"camembert"`.
        extra_ids: number of tokens `<extra_id_0>` and so on at the end of the vocabulary.
    """

    file: str
    tokens: dict
    templates: tuple
    segments: bool = False
    mask_lstrip: bool = False
    lowercase: bool = False
    bytes: bool = True
    normalizer: tuple = ()
    pattern: str | None = None
    ignore_merges: bool = False
    ids: str = "positions"
    extra_ids: int = 0

    def template(self, pair, special):
        """Returns a template as a list of `[id, segment]` and of `["A", segment]`; `special` maps roles to ids."""
        items = [item.partition(":") for item in self.templates[pair].split()]
        return [[name if name in "AB" else special[name], int(segment or 0)] for name, _, segment in items]


_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PATTERN = _QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")
_bert = Convention(VOCAB_TXT, _BERT, _BERT_TEMPLATES, segments=True, lowercase=True)
_roberta = Convention(MERGES, _ROBERTA, _ROBERTA_TEMPLATES, mask_lstrip=True)

# The key is the class's name without "Tokenizer" and "Fast".
CONVENTIONS = {
    "Bert": _bert,
    "Electra": _bert,
    "DistilBert": dataclasses.replace(_bert, segments=False),
    "MPNet": Convention(VOCAB_TXT, {**_ROBERTA, "unk": "[UNK]"}, _ROBERTA_TEMPLATES, mask_lstrip=True, lowercase=True),
    "Roberta": _roberta,
    "Longformer": _roberta,
    "Bart": _roberta,
    "Deberta": Convention(MERGES, _BERT, _BERT_TEMPLATES, segments=True, mask_lstrip=True),
    "GPT2": Convention(MERGES, _GPT2, _BARE_TEMPLATES),
    "OpenAIGPT": Convention(MERGES, {"unk": "<unk>"}, _BARE_TEMPLATES, lowercase=True, bytes=False),
    "Qwen2": Convention(
        MERGES,
        {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
        _BARE_TEMPLATES,
        normalizer=(("NFC",),),
        pattern=_QWEN2_PATTERN,
    ),
    "Albert": Convention(
        SENTENCEPIECE,
        {**_BERT, "pad": "<pad>", "unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]"},
        _BERT_TEMPLATES,
        segments=True,
        mask_lstrip=True,
        lowercase=True,
        normalizer=(("Replace", "``", '"'), ("Replace", "''", '"')),
    ),
    "DebertaV2": Convention(SENTENCEPIECE, {**_BERT, "bos": "[CLS]", "eos": "[SEP]"}, _BERT_TEMPLATES),
    "XLMRoberta": Convention(SENTENCEPIECE, _ROBERTA, _ROBERTA_TEMPLATES, mask_lstrip=True, ids="fairseq"),
    "Camembert": Convention(SENTENCEPIECE, _ROBERTA, _ROBERTA_TEMPLATES, mask_lstrip=True, ids="camembert"),
    "T5": Convention(
        SENTENCEPIECE,
        {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        ("A eos", "A eos B eos"),
        extra_ids=100,
    ),
    "Llama": Convention(
        SENTENCEPIECE, _LLAMA, _BOS_TEMPLATES, normalizer=(("Prepend", "\u2581"), ("Replace", " ", "\u2581"))
    ),
    "Llama3": Convention(MERGES, _LLAMA3, _BOS_TEMPLATES, pattern=_LLAMA3_PATTERN, ignore_merges=True),
    "Gemma": Convention(SENTENCEPIECE, _GEMMA, _BOS_TEMPLATES, normalizer=(("Replace", " ", "\u2581"),)),
}

# The roles of tokens in a folder that names no class, for tokens in its vocabulary; the first that fits is used.
GUESSES = (
    _BERT,
    _ROBERTA,
    _GEMMA,
    {**_LLAMA3, "mask": "<|mask|>"},
    {"pad": "<|padding|>", "eos": "<|im_end|>"},
    _GPT2,
)


def named(name):
    """Returns the convention of a tokenizer class, `"BertTokenizerFast"` or `"Bert"`, or `None`."""
    return CONVENTIONS.get((name or "").removesuffix("Fast").removesuffix("Tokenizer"))
