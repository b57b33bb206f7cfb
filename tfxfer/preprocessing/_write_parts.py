"""The model, normalizer, pre-tokenizer and decoder of a `tokenizer.json`, from a `Spec`."""

import itertools

from tfxfer.preprocessing import _json_parts, _merges, _patterns

META_SPACE = _json_parts.META_SPACE
# Below any trained piece, so that a name for an unused id is never chosen.
_LEAST_SCORE = -1e4
_WHITESPACE = {name: pattern for pattern, name in _json_parts.WHITESPACE_RUNS.items()}
_BEHAVIORS = {"isolated": ("Isolated", False), "removed": ("Removed", False), "matches": ("Removed", True)}
_METASPACE = {"type": "Metaspace", "replacement": META_SPACE, "prepend_scheme": "always", "split": True}


def parts(spec):
    """Returns the entries `normalizer`, `pre_tokenizer`, `model` and `decoder`."""
    normalizer, splitter, model, decoder = _PARTS[spec.kind](spec)
    return {"normalizer": normalizer, "pre_tokenizer": splitter, "decoder": decoder, "model": model}


def _sequence(steps, key):
    """Combines a list of parts into one."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", key: steps}


def _normalizer(spec, *more):
    steps = [_normalizer_step(*step) for step in (*spec.options.get("normalizer", []), *more)]
    return _sequence(steps, "normalizers")


def _normalizer_step(kind, *arguments):
    if kind == "Precompiled":
        return {"type": kind, "precompiled_charsmap": arguments[0]}
    if kind == "Strip":
        return {"type": kind, "strip_left": arguments[0], "strip_right": arguments[1]}
    if kind == "Replace":
        return {"type": kind, "pattern": {"String": arguments[0]}, "content": arguments[1]}
    if kind == "Prepend":
        return {"type": kind, "prepend": arguments[0]}
    if kind == "Whitespace":
        return {"type": "Replace", "pattern": {"Regex": _WHITESPACE[arguments[0]]}, "content": " "}
    if kind == "Bert":
        return {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": arguments[1],
            "lowercase": arguments[0],
        }
    return {"type": kind}


def _vocabulary(spec):
    outside = spec.outside
    return {token: i for i, token in enumerate(spec.tokens) if token not in outside}


def _wordpiece(spec):
    options = spec.options
    model = {
        "type": "WordPiece",
        "unk_token": spec.tokens[spec.unk_id],
        "continuing_subword_prefix": options["prefix"],
        "max_input_chars_per_word": options["max_input_chars_per_word"],
        "vocab": _vocabulary(spec),
    }
    normalizer = _normalizer(spec, ["Bert", options["lowercase"], options["strip_accents"]])
    decoder = {"type": "WordPiece", "prefix": options["prefix"], "cleanup": True}
    return normalizer, {"type": "BertPreTokenizer"}, model, decoder


def _unigram(spec):
    scores = spec.options["scores"]
    added = {token["id"] for token in spec.added}
    count = max([spec.options["pieces"], *(i + 1 for i in range(len(spec.tokens)) if i not in added)])
    pieces = itertools.zip_longest(spec.tokens[:count], scores[:count], fillvalue=_LEAST_SCORE)
    splitters = [{"type": "WhitespaceSplit"}, _METASPACE] if spec.options["whitespace_split"] else [_METASPACE]
    model = {"type": "Unigram", "unk_id": spec.unk_id, "vocab": list(map(list, pieces)), "byte_fallback": False}
    return _normalizer(spec), _sequence(splitters, "pretokenizers"), model, _METASPACE


def _bpe(spec):
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if spec.unk_id is None else spec.tokens[spec.unk_id],
        "continuing_subword_prefix": "",
        "end_of_word_suffix": spec.options.get("suffix", ""),
        "fuse_unk": spec.options.get("fuse_unk", False),
        "byte_fallback": spec.options.get("byte_fallback", False),
        "ignore_merges": spec.options.get("ignore_merges", False),
        "vocab": _vocabulary(spec),
        "merges": _merges.pairs(spec.tokens, spec.options["ranks"], spec.options.get("suffix", "")),
    }


def _byte_pair(spec):
    splits = [list(split) for split in spec.options.get("splits", [["isolated", _patterns.GPT2]])]
    use_regex = splits[-1:] == [["isolated", _patterns.GPT2]]
    steps = [_split(*split) for split in splits[: -1 if use_regex else None]]
    last = {"type": "ByteLevel", "add_prefix_space": spec.options["add_prefix_space"], "trim_offsets": True}
    decoder = {**last, "use_regex": True}
    splitter = _sequence([*steps, {**last, "use_regex": use_regex}], "pretokenizers")
    return _normalizer(spec), splitter, _bpe(spec), decoder


def _split(behavior, pattern):
    name, invert = _BEHAVIORS[behavior]
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": name, "invert": invert}


def _character_pair(spec):
    if spec.options["words"] == "bert":
        decoder = {"type": "BPEDecoder", "suffix": spec.options["suffix"]}
        return _normalizer(spec), {"type": "BertPreTokenizer"}, _bpe(spec), decoder
    steps = [{"type": "Replace", "pattern": {"String": META_SPACE}, "content": " "}, {"type": "ByteFallback"}]
    decoder = {"type": "Sequence", "decoders": [*steps, {"type": "Fuse"}]}
    return _normalizer(spec), None, _bpe(spec), decoder


_PARTS = {"wordpiece": _wordpiece, "unigram": _unigram, "bpe": _byte_pair, "character_bpe": _character_pair}
