"""Trained taggers in `from_preset`: token classifiers of transformers, and saved taggers with changes."""

import re

import keras

from tfxfer import _check, _schemes, layers
from tfxfer.models import _restoring

# Schemes whose tags alone mark where an entity begins.
SCHEMES = ("IOB2", "IOBES", "BILOU")
# Matches the position of a word in an entity: a prefix, alone or before a type.
_MARKED = re.compile("[BIESLU]([-_].*)?")


def with_tags(kind, pretrained, arguments, backbone_only):
    """Returns the constructor's arguments, with the tags of a saved tagger if none are given.

    Args:
        kind: the class to create.
        pretrained: `backbones.Pretrained`.
        arguments: dict of the constructor's arguments.
        backbone_only: whether to omit the layers trained above the backbone.

    Raises:
        ValueError: if neither has tags.
    """
    saved = None if backbone_only else _restoring.part_of(kind, pretrained.task)
    if arguments.get("tags") is not None or (pretrained.read_token_head is not None and not backbone_only):
        return arguments
    if saved is not None:
        return {"scheme": saved.scheme, **arguments, "tags": saved.tags}
    reason = "The preset has none"
    if backbone_only:
        reason = "`backbone_only=True` leaves out those of the preset"
    elif pretrained.trained_task is not None:
        reason = f"The preset is a `{pretrained.trained_task}`, whose head is not loaded"
    raise _check.invalid("tags", "the names of the tags", None, f"{reason}; `data.tag_names` collects those of rows")


def matched(name, spec, arguments):
    """Compares the trained head of a token classifier with the constructor's arguments.

    Args:
        name: string. The class of the token classifier.
        spec: `backbones.HeadSpec`.
        arguments: dict of the constructor's arguments.

    Returns:
        (spec, own): the head to load and the arguments that follow from it; (`None`, `None`) if other tags are
        requested.

    Raises:
        ValueError: if an argument contradicts the head, or the tags are ambiguous.
    """
    tags = arguments.get("tags")
    if tags is not None:
        if isinstance(tags, dict) or set(tags) == set(spec.labels):
            spec = spec.with_labels(tags, "tags")
        elif arguments.get("keep_labels"):
            spec = spec.with_outputs(tags, _restoring.places_of("tags", tags, spec.labels))
        else:
            return None, None
    if arguments.get("head", "linear") != "linear":
        expected = f"'linear' for a `{name}`, whose trained head is loaded"
        raise _check.invalid("head", expected, arguments["head"], "Pass `backbone_only=True` for a new head")
    head = spec.head(arguments.get("dropout"))
    is_plain = not head.hidden_dims and head.use_bias
    own = {"tags": list(spec.labels), "dropout": head.dropout, "head": "linear" if is_plain else head}
    own["scheme"] = _checked(arguments["scheme"], spec.labels) if "scheme" in arguments else scheme_of(spec.labels)
    return spec, own


def _checked(scheme, tags):
    """Returns the requested scheme; raises if some of the tags could never occur in it."""
    if scheme is None or _schemes.scheme("scheme", scheme) in (fitting := _schemes.fitting(tags)):
        return scheme
    expected = (
        f"a scheme in which each of the preset's tags can occur ({', '.join(fitting) or 'there is none'}), or None"
    )
    raise _check.invalid("scheme", expected, scheme)


def scheme_of(tags):
    """Returns the scheme of a trained tagger's tags, or `None` for tags without prefixes.

    Raises:
        ValueError: if they are ambiguous.
    """
    marked = [tag for tag in tags if _MARKED.fullmatch(tag)]
    if not marked:
        return None
    found = _schemes.fitting(tags)
    fitting = next((name for name in SCHEMES if name in found), None)
    if fitting is not None:
        return fitting
    if found:
        reason = f"The tags are of {' or '.join(found)}, which is not decoded here"
    else:
        # The reason why they are not of a scheme: a bare prefix, or a tag without one.
        other = next((tag for tag in tags if tag != "O" and tag not in marked), None)
        reason = f"{marked[0]!r} may be part of an entity or a tag without a scheme"
        reason += f", next to {other!r} without a prefix" if other else ""
    remedy = (
        f"{reason}. Pass `scheme=None` for tags that mark no entities (`tag` and `extract_tokens` work without one), "
        "or `tags`, a dict of the preset's to other names"
    )
    raise _check.invalid("scheme", "a scheme, or None", list(tags), remedy)


def changed(tagger, arguments, changeable):
    """Returns a saved tagger with changed constructor arguments, or `None` if they need another head.

    Args:
        tagger: `TokenTagger`.
        arguments: dict of the constructor's arguments.
        changeable: names of arguments that may differ, besides the tags and those that only affect a CRF.
    """
    given, saved = _restoring.without_keeping(arguments), tagger.get_config()
    if given.get("scheme") is not None:
        given["scheme"] = _schemes.scheme("scheme", given["scheme"])
    if isinstance(given.get("head"), layers.Head):
        given["head"] = keras.saving.serialize_keras_object(given["head"])
    fixed = ("word_pooling", "head") if tagger.crf is None else ("word_pooling", "head", "scheme")
    if any(given.pop(name, saved[name]) != saved[name] for name in fixed):
        return None
    tags = given.pop("tags", None)
    if isinstance(tags, dict):
        if set(tags) != set(tagger.tags):
            expected = f"a new name for each of {', '.join(map(repr, tagger.tags))}"
            raise _check.invalid("tags", expected, tags)
        given["tags"] = [tags[tag] for tag in tagger.tags]
    elif tags is not None and list(tags) != tagger.tags:
        are_same = len(tags) == len(tagger.tags) and set(tags) == set(tagger.tags)
        if not are_same and not arguments.get("keep_labels"):
            return None
        places = _restoring.places_of("tags", tags, tagger.tags)
        tagger = _restoring.with_outputs(tagger, "tags", list(tags), places)
    return _restoring.changed(tagger, given, (*changeable, "tags", "scheme"))
