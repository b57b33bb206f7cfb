"""Reads `tokenizer.json`, the file of Hugging Face's `tokenizers`.

Every part of the file is either understood or an error that names it; nothing is passed over.
"""

import base64

from tfxfer import _check
from tfxfer.preprocessing import _spec

SEGMENT_FAMILIES = ("bert", "albert", "electra")


def unsupported(what, value):
    """Makes the error for a part of a tokenizer that is not supported."""
    return _check.invalid(
        "folder", f"a tokenizer whose {what} is supported", value, "Convert the tokenizer, or tokenise outside tfxfer"
    )


def expect(what, part, **options):
    """Raises unless `part`, a dict, holds these options and no others; a set gives the values allowed.

    An option that is missing has its first allowed value.
    """
    for name, value in part.items():
        if name == "type":
            continue
        allowed = options.get(name, ())
        if name not in options or (allowed is not any and value not in allowed):
            raise unsupported(f"{what} {part.get('type', '')}".strip(), {name: value})


def parse(data, roles, family):
    """Returns the `Spec` of a parsed `tokenizer.json`.

    Args:
        data: dict.
        roles: dict from a role to a token, as `special_tokens` reads it from the other files.
        family: string or `None`; the value of `model_type` in config.json.
    """
    kind = data["model"].get("type")
    if kind not in PARSERS:
        raise unsupported("model", kind)
    options, tokens = PARSERS[kind](data)
    added = [_added(token) for token in data.get("added_tokens") or ()]
    place(tokens, added)
    single, pair = _templates(data.get("post_processor"))
    index = {token: i for i, token in enumerate(tokens)}
    special = {role: index[token] for role, token in roles.items() if token in index}
    if "unk" not in special and options.get("unk_id") is not None:
        special["unk"] = options["unk_id"]
    segments = family in SEGMENT_FAMILIES if family else any(item[1] for item in pair)
    return _spec.Spec(KINDS[kind], tokens, special, added, single, pair, segments, options)


KINDS = {"WordPiece": "wordpiece", "Unigram": "unigram", "BPE": "bpe"}


def place(tokens, added):
    """Puts added tokens into the list of tokens at their ids; ids that nothing has get a name of their own."""
    for token in added:
        while len(tokens) <= token["id"]:
            tokens.append(f"[unused id {len(tokens)}]")
        tokens[token["id"]] = token["content"]


def _added(token):
    if token.get("single_word"):
        raise unsupported("added token", token)
    if token.get("normalized") and not token.get("special"):
        raise unsupported("added token (neither special nor matched in the raw text)", token)
    return {name: token.get(name, False) for name in ("content", "id", "lstrip", "rstrip", "special")}


def in_order(vocabulary):
    """Returns the tokens of a dict from token to id in the order of the ids, holes filled with unique names."""
    tokens = [f"[unused id {i}]" for i in range(max(vocabulary.values()) + 1)]
    for token, i in vocabulary.items():
        tokens[i] = token
    return tokens


def _wordpiece(data):
    model, normalizer, splitter = data["model"], data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        raise unsupported("normalizer", normalizer)
    expect(
        "normalizer",
        normalizer,
        clean_text=(True,),
        handle_chinese_chars=(True,),
        strip_accents=(None, True, False),
        lowercase=(True, False),
    )
    if splitter.get("type") != "BertPreTokenizer":
        raise unsupported("pre_tokenizer", splitter)
    expect("model", model, unk_token=any, continuing_subword_prefix=any, max_input_chars_per_word=any, vocab=any)
    unk_id = model["vocab"].get(model["unk_token"])
    if unk_id is None:
        raise unsupported("unk_token", model["unk_token"])
    return wordpiece_options(
        normalizer["lowercase"],
        normalizer.get("strip_accents"),
        unk_id,
        model.get("continuing_subword_prefix", "##"),
        model.get("max_input_chars_per_word", 100),
    ), in_order(model["vocab"])


def wordpiece_options(lowercase, strip_accents, unk_id, prefix="##", word_length=100):
    """Returns the options of a WordPiece `Spec`; accents go with the case unless said otherwise."""
    return {
        "lowercase": bool(lowercase),
        "strip_accents": bool(lowercase if strip_accents is None else strip_accents),
        "unk_id": unk_id,
        "prefix": prefix,
        "max_input_chars_per_word": word_length,
    }


def _steps(part, key):
    """Returns the steps of a normalizer or pre-tokenizer, a sequence or one alone, flat."""
    if not part:
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part[key] for step in _steps(inner, key)]
    return [part]


# Before the pieces are looked for, in this order; what a step does is in `_unigram`.
WHITESPACE_RUNS = {r"\s{2,}|[\n\r\t]": "unicode", " {2,}": "spaces", r"\s{2,}": "unicode_runs"}


def _unigram(data):
    model = data["model"]
    expect("model", model, unk_id=any, vocab=any, byte_fallback=(False,))
    if model.get("unk_id") is None:
        raise unsupported("model without unk_id", "Unigram")
    normalizer = [_unigram_step(step) for step in _steps(data.get("normalizer"), "normalizers")]
    splitters = _steps(data.get("pre_tokenizer"), "pretokenizers")
    names = [step["type"] for step in splitters]
    if names not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]):
        raise unsupported("pre_tokenizer", data.get("pre_tokenizer"))
    expect(
        "pre_tokenizer",
        splitters[-1],
        replacement=("\u2581",),
        prepend_scheme=("always",),
        add_prefix_space=(True,),
        split=(True,),
        str_rep=any,
    )
    pieces = model["vocab"]
    options = {
        "normalizer": normalizer,
        "whitespace_split": len(names) == 2,
        "unk_id": model["unk_id"],
        "scores": [score for _, score in pieces],
        "pieces": len(pieces),
    }
    check_whitespace(options)
    return options, [piece for piece, _ in pieces]


def _unigram_step(step):
    """Returns a step of the normalizer as a list: its name and what it needs."""
    kind = step.get("type")
    if kind in ("NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase"):
        return [kind]
    if kind == "Precompiled":
        return [kind, step["precompiled_charsmap"]]
    if kind == "Strip":
        return [kind, bool(step["strip_left"]), bool(step["strip_right"])]
    if kind == "Replace" and "String" in step["pattern"]:
        return [kind, step["pattern"]["String"], step["content"]]
    if kind == "Replace" and step["pattern"].get("Regex") in WHITESPACE_RUNS and step["content"] in (" ", "\u2581"):
        return ["Whitespace", WHITESPACE_RUNS[step["pattern"]["Regex"]]]
    raise unsupported("normalizer", step)


def check_whitespace(options):
    """Raises where runs of spaces would become tokens, which `_unigram` does not make."""
    if options["whitespace_split"]:
        return
    steps = options["normalizer"]
    if not any(step[0] == "Whitespace" for step in steps):
        raise unsupported(
            "pre_tokenizer", "Metaspace without WhitespaceSplit, where the normalizer leaves double spaces"
        )
    if not any(step[0] == "Strip" and step[2] for step in steps):
        raise unsupported(
            "pre_tokenizer", "Metaspace without WhitespaceSplit, where the normalizer leaves final spaces"
        )


def charsmap(data):
    """Returns base64 text for the bytes of a precompiled map of characters."""
    return base64.b64encode(data).decode("ascii")


def _bpe(data):
    model, splitter = data["model"], data.get("pre_tokenizer") or {}
    expect(
        "model",
        model,
        dropout=(None, 0.0),
        unk_token=any,
        continuing_subword_prefix=(None, ""),
        end_of_word_suffix=(None, ""),
        fuse_unk=any,
        byte_fallback=(False,),
        ignore_merges=(False,),
        vocab=any,
        merges=any,
    )
    if data.get("normalizer"):
        raise unsupported("normalizer", data["normalizer"])
    if splitter.get("type") != "ByteLevel":
        raise unsupported("pre_tokenizer", splitter)
    expect("pre_tokenizer", splitter, add_prefix_space=any, trim_offsets=any, use_regex=(True,))
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    options = {"add_prefix_space": bool(splitter["add_prefix_space"]), "unk_id": None, "merges": merges}
    return options, in_order(model["vocab"])


PARSERS = {"WordPiece": _wordpiece, "Unigram": _unigram, "BPE": _bpe}


def _templates(processor):
    """Returns the templates of one and of two texts."""
    processors = [processor] if processor else []
    if processor and processor["type"] == "Sequence":
        processors = processor["processors"]
    processors = [part for part in processors if part["type"] != "ByteLevel"]  # moves offsets, no ids
    if len(processors) > 1:
        raise unsupported("post_processor", [part["type"] for part in processors])
    if not processors:
        return [["A", 0]], [["A", 0], ["B", 0]]
    processor = processors[0]
    if processor["type"] == "TemplateProcessing":
        ids = {name: token["ids"] for name, token in processor["special_tokens"].items()}
        return tuple(check_template(_template(processor[key], ids), key) for key in ("single", "pair"))
    cls, sep = processor["cls"][1] if "cls" in processor else None, processor["sep"][1] if "sep" in processor else None
    if processor["type"] == "BertProcessing":
        return bert_templates(cls, sep)
    if processor["type"] == "RobertaProcessing":
        return roberta_templates(cls, sep)
    raise unsupported("post_processor", processor["type"])


def _template(parts, ids):
    items = []
    for part in parts:
        ((kind, value),) = part.items()
        if kind == "Sequence":
            items.append([value["id"], value["type_id"]])
        else:
            items.extend([token, value["type_id"]] for token in ids[value["id"]])
    return items


def check_template(items, key):
    """Returns a template that has each text once and in order; raises otherwise."""
    texts = [item[0] for item in items if isinstance(item[0], str)]
    if texts != (["A"] if key == "single" else ["A", "B"]):
        raise unsupported("post_processor", {key: items})
    return items


def bert_templates(cls, sep):
    """Returns the templates `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text being segment 1."""
    single = [[cls, 0], ["A", 0], [sep, 0]]
    return single, [*single, ["B", 1], [sep, 1]]


def roberta_templates(cls, sep):
    """Returns the templates `<s> A </s>` and `<s> A </s></s> B </s>`, all of it segment 0."""
    single = [[cls, 0], ["A", 0], [sep, 0]]
    return single, [*single, [sep, 0], ["B", 0], [sep, 0]]
