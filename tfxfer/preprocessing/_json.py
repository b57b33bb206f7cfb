"""Reads `tokenizer.json`, the file of Hugging Face's `tokenizers`.

Every part of the file is either supported or raises an error that names it; nothing is ignored.
"""

from tfxfer.preprocessing import _json_parts, _spec

unsupported, expect = _json_parts.unsupported, _json_parts.expect


def parse(data):
    """Returns the `Spec` of a parsed `tokenizer.json`, without the roles of its tokens.

    Args:
        data: dict.
    """
    kind, options, tokens = _json_parts.model(data)
    names = set(tokens)
    added = [_added(token, names) for token in data.get("added_tokens") or ()]
    place(tokens, added)
    single, pair = _templates(data.get("post_processor"))
    segments = any(item[1] for item in pair)
    return _spec.Spec(kind, tokens, {}, added, single, pair, segments, options)


def place(tokens, added):
    """Inserts added tokens at their ids in the list of tokens; unused ids get a unique name."""
    for token in added:
        while len(tokens) <= token["id"]:
            tokens.append(f"[unused id {len(tokens)}]")
        tokens[token["id"]] = token["content"]


def _added(token, names):
    flags = {name: token.get(name, False) for name in _spec.FLAGS}
    return _spec.added_token(token["content"], token["id"], **{**flags, "in_model": token["content"] in names})


def _templates(processor):
    """Returns the templates for one text and for two."""
    processors = [processor] if processor else []
    if processor and processor["type"] == "Sequence":
        processors = processor["processors"]
    processors = [part for part in processors if part["type"] != "ByteLevel"]  # changes offsets, not ids
    if len(processors) > 1:
        raise unsupported("post_processor", [part["type"] for part in processors])
    if not processors:
        return [["A", 0]], [["A", 0], ["B", 0]]
    processor = processors[0]
    if processor["type"] == "TemplateProcessing":
        ids = {name: token["ids"] for name, token in processor["special_tokens"].items()}
        return tuple(check_template(_template(processor[key], ids), key) for key in ("single", "pair"))
    cls, sep = processor["cls"][1] if "cls" in processor else None, processor["sep"][1] if "sep" in processor else None
    single = [[cls, 0], ["A", 0], [sep, 0]]
    if processor["type"] == "BertProcessing":
        return single, [*single, ["B", 1], [sep, 1]]
    if processor["type"] == "RobertaProcessing":
        return single, [*single, [sep, 0], ["B", 0], [sep, 0]]
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
    """Returns a template; raises unless it has each text once, in order."""
    texts = [item[0] for item in items if isinstance(item[0], str)]
    if texts != (["A"] if key == "single" else ["A", "B"]):
        raise unsupported("post_processor", {key: items})
    return items
