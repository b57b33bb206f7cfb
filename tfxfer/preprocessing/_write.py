"""Writes a tokenizer as the files of Hugging Face's `tokenizers`: what `_files` and `_json` read, the other way."""

import itertools
import json
import pathlib

from tfxfer import _check
from tfxfer.preprocessing import _files

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Below any piece that was trained, so that a name which only fills a hole is never chosen.
_LEAST_SCORE = -1e4


def write(spec, folder, sequence_length=None, padding_side="right"):
    """Writes `tokenizer.json` and `tokenizer_config.json`.

    Args:
        spec: a `Spec`.
        folder: path of a folder, made where it is missing.
        sequence_length: int or `None`. The most tokens of a row, special tokens included.
        padding_side: `"right"` or `"left"`.

    Raises:
        ValueError: for a tokenizer whose files would be read as another one.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    roles = {f"{role}_token": spec.tokens[i] for role, i in spec.special.items()}
    config = {
        # transformers takes `tokenizer.json` as it is for this class; for a family's it builds the tokenizer anew.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_type": _model_type(spec),
        **roles,
        "padding_side": padding_side,
        "clean_up_tokenization_spaces": False,
    }
    if sequence_length is not None:
        config["model_max_length"] = sequence_length
    for name, content in ((TOKENIZER, _tokenizer(spec, sequence_length, padding_side)), (CONFIG, config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    differing = _differing(spec, _files.read(folder))
    if differing:
        remedy = "Write the files of the checkpoint that it was read from."
        raise _check.invalid("folder", "a tokenizer that Hugging Face's files can hold", ", ".join(differing), remedy)


def _model_type(spec):
    """A family that has this kind's segments and templates."""
    if spec.kind == "wordpiece":
        return "bert" if spec.segments else "distilbert"
    if spec.kind == "bpe":
        return "roberta" if len(spec.single) > 1 else "gpt2"
    if spec.segments:
        return "albert"
    return "xlm-roberta" if len(spec.pair) > 5 else "deberta-v2"


def _tokenizer(spec, sequence_length, padding_side):
    normalizer, splitter, model, decoder = _PARTS[spec.kind](spec)
    truncation = None
    if sequence_length is not None:
        truncation = {"direction": "Right", "max_length": sequence_length, "strategy": "LongestFirst", "stride": 0}
    return {
        "version": "1.0",
        "truncation": truncation,
        "padding": {
            "strategy": "BatchLongest",
            "direction": padding_side.title(),
            "pad_to_multiple_of": None,
            "pad_id": spec.special["pad"],
            "pad_type_id": 0,
            "pad_token": spec.tokens[spec.special["pad"]],
        },
        "added_tokens": [{**token, "single_word": False, "normalized": False} for token in spec.added],
        "normalizer": normalizer,
        "pre_tokenizer": splitter,
        "post_processor": _post_processor(spec),
        "decoder": decoder,
        "model": model,
    }


def _post_processor(spec):
    ids = {part for part, _ in (*spec.single, *spec.pair) if not isinstance(part, str)}
    return {
        "type": "TemplateProcessing",
        "single": [_template_part(spec, *part) for part in spec.single],
        "pair": [_template_part(spec, *part) for part in spec.pair],
        "special_tokens": {
            spec.tokens[i]: {"id": spec.tokens[i], "ids": [i], "tokens": [spec.tokens[i]]} for i in sorted(ids)
        },
    }


def _template_part(spec, part, segment):
    if isinstance(part, str):
        return {"Sequence": {"id": part, "type_id": segment}}
    return {"SpecialToken": {"id": spec.tokens[part], "type_id": segment}}


def _wordpiece(spec):
    options = spec.options
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": options["strip_accents"],
        "lowercase": options["lowercase"],
    }
    model = {
        "type": "WordPiece",
        "unk_token": spec.tokens[spec.unk_id],
        "continuing_subword_prefix": options["prefix"],
        "max_input_chars_per_word": options["max_input_chars_per_word"],
        "vocab": {token: i for i, token in enumerate(spec.tokens)},
    }
    decoder = {"type": "WordPiece", "prefix": options["prefix"], "cleanup": True}
    return normalizer, {"type": "BertPreTokenizer"}, model, decoder


def _unigram(spec):
    scores = spec.options["scores"]
    added = {token["id"] for token in spec.added}
    count = max([spec.options["pieces"], *(i + 1 for i in range(len(spec.tokens)) if i not in added)])
    pieces = itertools.zip_longest(spec.tokens[:count], scores[:count], fillvalue=_LEAST_SCORE)
    splitter = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    parts = [{"type": "WhitespaceSplit"}, splitter] if spec.options["whitespace_split"] else [splitter]
    steps = [_normalizer_step(*step) for step in spec.options["normalizer"]]
    model = {"type": "Unigram", "unk_id": spec.unk_id, "vocab": list(map(list, pieces)), "byte_fallback": False}
    return (
        {"type": "Sequence", "normalizers": steps} if steps else None,
        {"type": "Sequence", "pretokenizers": parts},
        model,
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    )


_WHITESPACE = {
    name: pattern
    for pattern, name in (
        (r"\s{2,}|[\n\r\t]", "unicode"),
        (" {2,}", "spaces"),
        (r"\s{2,}", "unicode_runs"),
    )
}


def _normalizer_step(kind, *arguments):
    if kind == "Precompiled":
        return {"type": kind, "precompiled_charsmap": arguments[0]}
    if kind == "Strip":
        return {"type": kind, "strip_left": arguments[0], "strip_right": arguments[1]}
    if kind == "Replace":
        return {"type": kind, "pattern": {"String": arguments[0]}, "content": arguments[1]}
    if kind == "Whitespace":
        return {"type": "Replace", "pattern": {"Regex": _WHITESPACE[arguments[0]]}, "content": " "}
    return {"type": kind}


def _byte_pair(spec):
    splitter = {"add_prefix_space": spec.options["add_prefix_space"], "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(spec.tokens)},
        "merges": _merges(spec.tokens, spec.options["ranks"]),
    }
    return None, {"type": "ByteLevel", **splitter}, model, {"type": "ByteLevel", **splitter}


def _merges(tokens, ranks):
    """Returns the pairs that tokens are made from, the first to be applied first.

    The last merge that makes a token joins the two parts that the earlier ones leave of its own bytes.
    """
    rank_of = {token: rank for token, rank in zip(tokens, ranks, strict=True) if rank is not None and rank >= 0}
    found = []
    for token, rank in sorted(rank_of.items(), key=lambda item: item[1]):
        parts = list(token)
        while len(parts) > 2:
            joined = [(rank_of.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
            _, i = min(joined)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found.append(parts)
    return found


_PARTS = {"wordpiece": _wordpiece, "unigram": _unigram, "bpe": _byte_pair}


def _differing(spec, again):
    """The names of what is not read back as it was."""
    found = [name for name in ("kind", "tokens", "special", "segments") if getattr(spec, name) != getattr(again, name)]
    for name in ("single", "pair"):
        if [list(part) for part in getattr(spec, name)] != [list(part) for part in getattr(again, name)]:
            found.append(name)
    if sorted(spec.added, key=_id) != sorted(again.added, key=_id):
        found.append("added")
    return found + [name for name in spec.options if _option(spec, name) != _option(again, name)]


def _id(token):
    return token["id"]


def _option(spec, name):
    value = spec.options.get(name)
    if name == "ranks":  # their order is what counts
        order = {rank: i for i, rank in enumerate(sorted({rank for rank in value if rank is not None}))}
        return [rank if rank is None else order[rank] for rank in value]
    if name == "scores":
        return [float(score) for score in value]
    if name == "normalizer":
        return [list(step) for step in value]
    return value
