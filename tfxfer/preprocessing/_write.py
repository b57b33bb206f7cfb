"""Writes a tokenizer as the files of Hugging Face's `tokenizers`: the inverse of `_files` and `_json`."""

import json

from tfxfer import _check, _disk
from tfxfer.preprocessing import _files, _spec, _write_parts

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"


def write(spec, folder, sequence_length=None, padding_side="right"):
    """Writes `tokenizer.json` and `tokenizer_config.json`.

    Args:
        spec: a `Spec`.
        folder: path of a directory, created if it is missing.
        sequence_length: int or `None`. The maximum number of tokens in a row, special tokens included.
        padding_side: `"right"` or `"left"`.

    Raises:
        ValueError: if the files would be read as a different tokenizer.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    names = ["input_ids", *(["token_type_ids"] if spec.segments else []), "attention_mask"]
    config = {
        # For this class, transformers uses `tokenizer.json` unchanged; for others it builds the tokenizer again.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": names,
        # An explicit null for a role without a token: otherwise a reader might guess one.
        **{f"{role}_token": spec.tokens[spec.special[role]] if role in spec.special else None for role in _spec.ROLES},
        "padding_side": padding_side,
        "clean_up_tokenization_spaces": False,
    }
    if sequence_length is not None:
        config["model_max_length"] = sequence_length
    contents = {TOKENIZER: _tokenizer(spec, sequence_length, padding_side), CONFIG: config}
    with _disk.replacing_folder(folder) as staged:
        for name, content in contents.items():
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            (staged / name).write_text(text, encoding="utf-8")
        differing = _differing(spec, _files.read(staged))
        if differing:
            remedy = "Copy the files of the checkpoint that it was read from."
            expected = "a tokenizer that Hugging Face's files can represent"
            raise _check.invalid("folder", expected, ", ".join(differing), remedy)


def _tokenizer(spec, sequence_length, padding_side):
    truncation = None
    if sequence_length is not None:
        truncation = {"direction": "Right", "max_length": sequence_length, "strategy": "LongestFirst", "stride": 0}
    flags = [name for name in _spec.FLAGS if name != "in_model"]
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
        "added_tokens": [
            {"id": token["id"], "content": token["content"], **{name: token[name] for name in flags}}
            for token in sorted(spec.added, key=_id)
        ],
        "post_processor": _post_processor(spec),
        **_write_parts.parts(spec),
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


def _differing(spec, again):
    """Returns the names of the attributes that are not read back unchanged."""
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
    if name == "ranks":  # only their order matters; a token that is never made may have no rank
        order = {rank: i for i, rank in enumerate(sorted({rank for rank in value if rank is not None}))}
        value = [rank if rank is None else order[rank] for rank in value]
        return {i: rank for i, rank in enumerate(value) if rank is not None}
    if name == "scores":
        return [float(score) for score in value]
    if name in ("normalizer", "splits"):
        return [list(step) for step in value]
    return value
