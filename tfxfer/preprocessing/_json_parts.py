"""The model, normalizer and pre-tokenizer of a `tokenizer.json`."""

import base64

from tfxfer import _check
from tfxfer.preprocessing import _patterns, _words

META_SPACE = "\u2581"
# Normalizer steps of a Unigram model, before the search for pieces; `_unigram` describes them.
WHITESPACE_RUNS = {r"\s{2,}|[\n\r\t]": "unicode", " {2,}": "spaces", r"\s{2,}": "unicode_runs"}


def unsupported(what, value):
    """Makes the error for an unsupported part of a tokenizer."""
    return _check.invalid(
        "folder", f"a tokenizer whose {what} is supported", value, "Convert the tokenizer, or tokenize outside tfxfer"
    )


def expect(what, part, **options):
    """Raises unless `part`, a dict, has only these options; a tuple lists the allowed values.

    A missing option defaults to its first allowed value.
    """
    for name, value in part.items():
        if name == "type":
            continue
        allowed = options.get(name, ())
        if name not in options or (allowed is not any and value not in allowed):
            raise unsupported(f"{what} {part.get('type', '')}".strip(), {name: value})


def model(data):
    """Returns the kind of a tokenizer, its options and the list of the model's tokens, ordered by id."""
    kind = data["model"].get("type")
    parsers = {"WordPiece": _wordpiece, "Unigram": _unigram, "BPE": _bpe}
    if kind not in parsers:
        raise unsupported("model", kind)
    return parsers[kind](data)


def in_order(vocabulary):
    """Returns the tokens of a dict from token to id, ordered by id, with unique names for unused ids."""
    tokens = [f"[unused id {i}]" for i in range(max(vocabulary.values(), default=-1) + 1)]
    for token, i in vocabulary.items():
        tokens[i] = token
    return tokens


def _steps(part, key):
    """Returns the parts of a normalizer or pre-tokenizer, with sequences flattened."""
    if not part:
        return []
    if part["type"] == "Sequence":
        return [step for inner in part[key] for step in _steps(inner, key)]
    return [part]


def _normalizer_step(step):
    """Returns a step of a normalizer as a list of its name and arguments; see `_normalizers`."""
    kind = step.get("type")
    if kind in ("NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase"):
        return [kind]
    if kind == "Strip":
        return [kind, bool(step["strip_left"]), bool(step["strip_right"])]
    if kind == "Prepend":
        return [kind, step["prepend"]]
    if kind == "Replace" and "String" in step["pattern"]:
        return [kind, step["pattern"]["String"], step["content"]]
    if kind == "BertNormalizer":
        expect(
            "normalizer",
            step,
            clean_text=(True,),
            handle_chinese_chars=(True,),
            strip_accents=(None, True, False),
            lowercase=(True, False),
        )
        lowercase, accents = step.get("lowercase", True), step.get("strip_accents")
        return ["Bert", lowercase, lowercase if accents is None else accents]
    raise unsupported("normalizer", step)


def normalizer(data):
    """Returns the steps of the normalizer."""
    return [_normalizer_step(step) for step in _steps(data.get("normalizer"), "normalizers")]


def _wordpiece(data):
    part, splitter = data["model"], data.get("pre_tokenizer") or {}
    steps = normalizer(data)
    kinds = [step[0] for step in steps]
    if kinds.count("Bert") != 1 or set(kinds[kinds.index("Bert") + 1 :]) - {"Lowercase", "Strip"}:
        raise unsupported("normalizer", data.get("normalizer"))
    if splitter.get("type") != "BertPreTokenizer":
        raise unsupported("pre_tokenizer", splitter)
    expect("model", part, unk_token=any, continuing_subword_prefix=any, max_input_chars_per_word=any, vocab=any)
    unk_id = part["vocab"].get(part["unk_token"])
    if unk_id is None:
        raise unsupported("model without its unk_token", part["unk_token"])
    at = kinds.index("Bert")
    _, lowercase, accents = steps[at]
    options = wordpiece_options(lowercase or "Lowercase" in kinds[at:], accents, unk_id)
    options["normalizer"] = steps[:at]
    options["prefix"] = part.get("continuing_subword_prefix", "##")
    options["max_input_chars_per_word"] = part.get("max_input_chars_per_word", 100)
    return "wordpiece", options, in_order(part["vocab"])


def wordpiece_options(lowercase, strip_accents, unk_id):
    """Returns the options of a WordPiece vocabulary; by default, accents are stripped if texts are lowercased."""
    return {
        "lowercase": bool(lowercase),
        "strip_accents": bool(lowercase if strip_accents is None else strip_accents),
        "unk_id": unk_id,
        "prefix": "##",
        "max_input_chars_per_word": 100,
        "normalizer": [],
    }


def _unigram(data):
    part = data["model"]
    expect("model", part, unk_id=any, vocab=any, byte_fallback=(False,))
    if part.get("unk_id") is None:
        raise unsupported("model without unk_id", "Unigram")
    steps = [_unigram_step(step) for step in _steps(data.get("normalizer"), "normalizers")]
    splitters = _steps(data.get("pre_tokenizer"), "pretokenizers")
    names = [step["type"] for step in splitters]
    if names not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]):
        raise unsupported("pre_tokenizer", data.get("pre_tokenizer"))
    expect(
        "pre_tokenizer",
        splitters[-1],
        replacement=(META_SPACE,),
        prepend_scheme=("always",),
        add_prefix_space=(True,),
        split=(True,),
        str_rep=any,
    )
    options = {
        "normalizer": steps,
        "whitespace_split": len(names) == 2,
        "unk_id": part["unk_id"],
        "scores": [score for _, score in part["vocab"]],
        "pieces": len(part["vocab"]),
    }
    return "unigram", options, [piece for piece, _ in part["vocab"]]


def _unigram_step(step):
    """Returns a step of a Unigram model's normalizer as a list."""
    kind = step.get("type")
    if kind == "Precompiled":
        return [kind, step["precompiled_charsmap"]]
    if kind == "Replace" and step["pattern"].get("Regex") in WHITESPACE_RUNS and step["content"] in (" ", META_SPACE):
        return ["Whitespace", WHITESPACE_RUNS[step["pattern"]["Regex"]]]
    if kind in ("BertNormalizer", "Prepend"):
        raise unsupported("normalizer", step)
    return _normalizer_step(step)


def charsmap(data):
    """Returns base64 text for the bytes of a precompiled map of characters."""
    return base64.b64encode(data).decode("ascii")


def _bpe(data):
    part = data["model"]
    expect(
        "model",
        part,
        dropout=(None, 0.0),
        unk_token=any,
        continuing_subword_prefix=(None, ""),
        end_of_word_suffix=any,
        fuse_unk=any,
        byte_fallback=(False, True),
        ignore_merges=(False, True),
        vocab=any,
        merges=any,
    )
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in part["merges"]]
    splitters = _steps(data.get("pre_tokenizer"), "pretokenizers")
    if any(step["type"] == "ByteLevel" for step in splitters):
        options = _byte_level(data, part, splitters)
        kind = "bpe"
    else:
        options = _character_level(data, part, splitters)
        kind = "character_bpe"
    return kind, {**options, "merges": merges}, in_order(part["vocab"])


def _byte_level(data, part, splitters):
    """Returns the options of a BPE model of bytes."""
    if part.get("end_of_word_suffix") or part.get("byte_fallback"):
        raise unsupported("model BPE of bytes", "end_of_word_suffix or byte_fallback")
    last = splitters[-1]
    if [step["type"] for step in splitters].index("ByteLevel") != len(splitters) - 1:
        raise unsupported("pre_tokenizer", data["pre_tokenizer"])
    alone = len(splitters) == 1
    expect(
        "pre_tokenizer",
        last,
        add_prefix_space=(False, True) if alone else (False,),
        trim_offsets=any,
        use_regex=(True, False),
    )
    splits = [split for step in splitters[:-1] for split in _splits(step)]
    if last.get("use_regex", True):
        splits.append(["isolated", _patterns.GPT2])
    return {
        "normalizer": normalizer(data),
        "splits": splits,
        "add_prefix_space": bool(last.get("add_prefix_space", True)),
        "ignore_merges": bool(part.get("ignore_merges", False)),
        "unk_id": None,
    }


def _splits(step):
    """Returns a pre-tokenizer's steps in the form of `_splits.Splitter`."""
    kind = step["type"]
    if kind == "Digits":
        return [["isolated", r"\p{N}" if step.get("individual_digits") else r"\p{N}+"]]
    if kind == "Punctuation" and step.get("behavior", "Isolated") == "Isolated":
        return [["isolated", r"[!-/:-@\[-`{-~\p{P}]"]]
    if kind != "Split":
        raise unsupported("pre_tokenizer", step)
    pattern = step["pattern"].get("Regex")
    if pattern is None:
        pattern = _words.escaped(step["pattern"]["String"])
    behavior = {
        ("Isolated", False): "isolated",
        ("Removed", False): "removed",
        ("Isolated", True): "isolated",
        ("Removed", True): "matches",
    }.get((step["behavior"], bool(step.get("invert"))))
    if behavior is None:
        raise unsupported("pre_tokenizer", step)
    try:
        _patterns.translate(pattern)
    except _patterns.Unsupported as error:
        raise unsupported("pre_tokenizer Split", {"pattern": pattern}) from error
    return [[behavior, pattern]]


def _character_level(data, part, splitters):
    """Returns the options of a BPE model of characters."""
    suffix, unk_token = part.get("end_of_word_suffix") or "", part.get("unk_token")
    byte_fallback = bool(part.get("byte_fallback"))
    if part.get("ignore_merges"):
        raise unsupported("model BPE of characters", {"ignore_merges": True})
    if byte_fallback and (suffix or not {f"<0x{byte:02X}>" for byte in range(256)} <= set(part["vocab"])):
        raise unsupported("model BPE with byte_fallback", "no token for each byte, or end_of_word_suffix")
    steps, words = normalizer(data), "none"
    for splitter in splitters:
        if splitter["type"] == "BertPreTokenizer" and len(splitters) == 1 and _has_bert(steps):
            words = "bert"
        elif splitter["type"] != "Split" or not _never_found(splitter["pattern"].get("String"), steps):
            raise unsupported("pre_tokenizer", splitter)
    if suffix and words == "none":
        raise unsupported("pre_tokenizer", data.get("pre_tokenizer"))
    return {
        "normalizer": steps,
        "words": words,
        "suffix": suffix,
        "byte_fallback": byte_fallback,
        "fuse_unk": bool(part.get("fuse_unk")),
        "unk_id": None if unk_token is None else part["vocab"].get(unk_token),
    }


def _never_found(string, steps):
    """Whether the normalizer replaces a string, so a pre-tokenizer never finds it."""
    return bool(string) and any(step[0] == "Replace" and step[1] == string and string not in step[2] for step in steps)


def _has_bert(steps):
    return [step[0] for step in steps].count("Bert") == 1
