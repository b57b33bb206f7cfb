"""Finds a tokenizer in a folder: `tokenizer.json`, or an older vocabulary with the files that say how to use it."""

import json
import pathlib

from tfxfer import _check
from tfxfer.preprocessing import _bpe, _json, _spec

# File of the vocabulary -> what it is the mark of, in the order in which they are looked for.
SENTENCEPIECE_FILES = {"spiece.model": "albert", "spm.model": "deberta-v2", "sentencepiece.bpe.model": "xlm-roberta"}
LOOKED_FOR = ("tokenizer.json", "vocab.txt", "vocab.json and merges.txt", *SENTENCEPIECE_FILES)

BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_TOKENS = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
GPT2_TOKENS = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
# The roles that a token has in a family where the folder does not say.
FAMILY_TOKENS = {
    "bert": BERT_TOKENS,
    "distilbert": BERT_TOKENS,
    "electra": BERT_TOKENS,
    "roberta": ROBERTA_TOKENS,
    "xlm-roberta": ROBERTA_TOKENS,
    "gpt2": GPT2_TOKENS,
    "albert": {**BERT_TOKENS, "pad": "<pad>", "unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]"},
    "deberta-v2": {**BERT_TOKENS, "bos": "[CLS]", "eos": "[SEP]"},
}
CLASS_FAMILIES = {
    "Bert": "bert",
    "DistilBert": "distilbert",
    "Electra": "electra",
    "Roberta": "roberta",
    "XLMRoberta": "xlm-roberta",
    "GPT2": "gpt2",
    "Albert": "albert",
    "DebertaV2": "deberta-v2",
}


def read(folder):
    """Returns the `Spec` of the tokenizer in a folder of Hugging Face's format.

    Args:
        folder: path. `tokenizer.json` is read where it is there, otherwise the older files.

    Raises:
        ValueError: there is no tokenizer in the folder, or one with a part that is not supported.
    """
    folder = pathlib.Path(folder)
    notes = _notes(folder)
    if (folder / "tokenizer.json").is_file():
        family = _family(notes)
        data = _load(folder / "tokenizer.json")
        names = _names(data)
        return finish(_json.parse(data, _roles(notes, family, names), family))
    if (folder / "vocab.txt").is_file():
        tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        tokens = [token.rstrip("\r") for token in (tokens[:-1] if tokens[-1] == "" else tokens)]
        return finish(wordpiece(tokens, notes, _family(notes) or "bert"))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
        vocabulary = _load(folder / "vocab.json")
        family = _family(notes) or ("roberta" if "<s>" in vocabulary else "gpt2")
        return finish(byte_pair(vocabulary, merges, notes, family))
    for name, family in SENTENCEPIECE_FILES.items():
        if (folder / name).is_file():
            return finish(sentencepiece((folder / name).read_bytes(), notes, _family(notes) or family))
    raise _check.invalid("folder", f"a folder that holds one of {', '.join(LOOKED_FOR)}", str(folder))


def finish(spec):
    """Completes a `Spec`: a padding token for the families without one, and the ranks of merges."""
    if "pad" not in spec.special:
        substitute = spec.special.get("eos", spec.special.get("bos"))
        if substitute is None:
            raise _json.unsupported("padding token", None)
        spec.special["pad"] = substitute
    if "merges" in spec.options:
        spec.options["ranks"] = _bpe.ranks(spec.tokens, spec.options.pop("merges"))
    return spec


def _load(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _check.invalid("folder", f"valid JSON in {path.name} ({error})", str(path.parent)) from error


def _notes(folder):
    """Returns what the small JSON files of a folder say, by the name of the file."""
    names = ("config", "tokenizer_config", "special_tokens_map", "added_tokens")
    return {name: _load(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else {} for name in names}


def _family(notes):
    """Returns the family that a folder names, or `None` where it names none; raises where it names an unknown one."""
    name = notes["config"].get("model_type", notes["tokenizer_config"].get("model_type"))
    if name is None:
        kind = notes["tokenizer_config"].get("tokenizer_class") or ""
        kind = kind.removesuffix("Fast").removesuffix("Tokenizer")
        return CLASS_FAMILIES.get(kind)
    return name


def _names(data):
    """Returns the names of all tokens in a parsed tokenizer.json."""
    vocabulary = data.get("model", {}).get("vocab") or ()
    names = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    return names | {token["content"] for token in data.get("added_tokens") or ()}


def _content(token):
    return token["content"] if isinstance(token, dict) else token


def _roles(notes, family, names):
    """Returns which token has which role: what the folder says, then the family's custom, as far as they exist."""
    roles = {}
    for role in _spec.ROLES:
        for source in (notes["tokenizer_config"], notes["special_tokens_map"]):
            token = _content(source.get(f"{role}_token"))
            if token is not None and role not in roles:
                roles[role] = token
    guesses = [FAMILY_TOKENS[family]] if family in FAMILY_TOKENS else list(FAMILY_TOKENS.values())
    for guess in guesses:
        for role, token in guess.items():
            if token in names:
                roles.setdefault(role, token)
    return roles


def _added(tokens, roles, notes):
    """Appends the tokens that the vocabulary lacks, in Hugging Face's order, and returns all that are special."""
    extra = dict(notes["added_tokens"])
    flags = {}
    for i, token in notes["tokenizer_config"].get("added_tokens_decoder", {}).items():
        extra.setdefault(token["content"], int(i))
        flags[token["content"]] = token
    for source in (notes["special_tokens_map"], notes["tokenizer_config"]):
        for role in _spec.ROLES:
            if isinstance(source.get(f"{role}_token"), dict):
                flags.setdefault(source[f"{role}_token"]["content"], source[f"{role}_token"])
    index = {token: i for i, token in enumerate(tokens)}
    for token, i in sorted(extra.items(), key=lambda item: item[1]):
        if token not in index:
            _json.place(tokens, [{"id": i, "content": token}])
            index[token] = i
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        token = roles.get(role)
        if token is not None and token not in index:
            index[token] = len(tokens)
            tokens.append(token)
    added = []
    for token in dict.fromkeys([*roles.values(), *extra]):
        flag = flags.get(token, {})
        special = token in roles.values() or flag.get("special", False)
        if not special and (flag.get("normalized", True) or flag.get("single_word", False)):
            raise _json.unsupported("added token (neither special nor matched in the raw text)", token)
        strips = {name: bool(flag.get(name, False)) for name in ("lstrip", "rstrip")}
        added.append({"content": token, "id": index[token], **strips, "special": special})
    return {role: index[token] for role, token in roles.items()}, sorted(added, key=lambda token: token["id"])


def wordpiece(tokens, notes, family):
    """Returns the `Spec` of a WordPiece vocabulary, a list in the order of the ids."""
    if family not in ("bert", "distilbert", "electra"):
        raise _json.unsupported("family with vocab.txt", family)
    config, tokens = notes["tokenizer_config"], list(tokens)
    if config.get("tokenize_chinese_chars", True) is not True or config.get("do_basic_tokenize", True) is not True:
        raise _json.unsupported("tokenizer_config.json", "tokenize_chinese_chars or do_basic_tokenize is false")
    special, added = _added(tokens, {**FAMILY_TOKENS[family], **_roles(notes, family, set(tokens))}, notes)
    options = _json.wordpiece_options(config.get("do_lower_case", True), config.get("strip_accents"), special["unk"])
    single, pair = _json.bert_templates(special["cls"], special["sep"])
    segments = family in _json.SEGMENT_FAMILIES
    return _spec.Spec("wordpiece", tokens, special, added, single, pair, segments, options)


def byte_pair(vocabulary, merges, notes, family):
    """Returns the `Spec` of a byte-level BPE vocabulary, a dict from token to id, and its merges."""
    if family not in ("roberta", "gpt2"):
        raise _json.unsupported("family with vocab.json and merges.txt", family)
    tokens = _json.in_order(vocabulary)
    special, added = _added(tokens, {**FAMILY_TOKENS[family], **_roles(notes, family, set(tokens))}, notes)
    if family == "roberta":
        single, pair = _json.roberta_templates(special["cls"], special["sep"])
        if not any(isinstance(notes[n].get("mask_token"), dict) for n in ("special_tokens_map", "tokenizer_config")):
            for token in added:  # as RobertaTokenizer does: the mask stands for the space before it, too
                token["lstrip"] = token["lstrip"] or token["id"] == special["mask"]
    else:
        single, pair = [["A", 0]], [["A", 0], ["B", 0]]
    prefix = bool(notes["tokenizer_config"].get("add_prefix_space", False))
    options = {"add_prefix_space": prefix, "unk_id": None, "merges": [list(merge) for merge in merges]}
    return _spec.Spec("bpe", tokens, special, added, single, pair, False, options)


def sentencepiece(proto, notes, family):
    """Returns the `Spec` of a SentencePiece Unigram model, the bytes of its file, in one of three families."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(proto)
    if model.trainer_spec.model_type != model.trainer_spec.UNIGRAM or model.trainer_spec.byte_fallback:
        raise _json.unsupported("SentencePiece model", "a model other than Unigram, or one with byte_fallback")
    if family not in SENTENCEPIECE_FILES.values():
        raise _json.unsupported("family with a SentencePiece model", family)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    unknown = next(i for i, piece in enumerate(model.pieces) if piece.type == piece.UNKNOWN)
    if family == "xlm-roberta":
        # The ids of fairseq: four tokens of its own instead of SentencePiece's three, and the mask at the end.
        pieces = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + pieces[3:] + [("<mask>", 0.0)]
        unknown = 3
    tokens, scores = [piece for piece, _ in pieces], [score for _, score in pieces]
    special, added = _added(tokens, {**FAMILY_TOKENS[family], **_roles(notes, family, set(tokens))}, notes)
    for i, piece in enumerate(model.pieces if family != "xlm-roberta" else ()):
        if piece.type in (piece.CONTROL, piece.UNKNOWN) and all(token["id"] != i for token in added):
            added.append({"content": piece.piece, "id": i, "lstrip": False, "rstrip": False, "special": True})
    config = notes["tokenizer_config"]
    if config.get("split_by_punct"):
        raise _json.unsupported("tokenizer_config.json", "split_by_punct")
    steps = [["Precompiled", _json.charsmap(model.normalizer_spec.precompiled_charsmap)]]
    if not model.normalizer_spec.precompiled_charsmap:
        steps = []
    steps = _family_steps(family, config) + steps
    options = {"normalizer": steps, "whitespace_split": True, "unk_id": unknown, "scores": scores}
    options["pieces"] = len(pieces)
    if family == "xlm-roberta":
        single, pair = _json.roberta_templates(special["cls"], special["sep"])
    else:
        single, pair = _json.bert_templates(special["cls"], special["sep"])
    return _spec.Spec("unigram", tokens, special, added, single, pair, family in _json.SEGMENT_FAMILIES, options)


def _family_steps(family, config):
    """Returns what a family's tokenizer does to a text before the model's own normalisation."""
    steps = []
    if family == "albert":
        steps += [["Replace", "``", '"'], ["Replace", "''", '"']]
        if not config.get("keep_accents", False):
            steps += [["NFKD"], ["StripAccents"]]
    if family != "xlm-roberta" and config.get("do_lower_case", family == "albert"):
        steps += [["Lowercase"]]
    return steps
