"""Trained taggers taken over by `from_preset`: token classifiers of transformers, and saved taggers with changes."""

import re

import keras

from tfxfer import _check, _schemes, layers
from tfxfer.models import _restoring

# Schemes that say by the tags alone where an entity begins.
SCHEMES = ("IOB2", "IOBES", "BILOU")
# What looks like the place of a word in an entity: a prefix, alone or before a type.
_MARKED = re.compile("[BIESLU]([-_].*)?")


def with_tags(kind, pretrained, arguments, backbone_only):
    """Returns the constructor's arguments with the tags of a saved tagger where none are given.

    Args:
        kind: the class that is made.
        pretrained: `backbones.Pretrained`.
        arguments: dict of the constructor's arguments.
        backbone_only: whether what was trained above the backbone is left out.

    Raises:
        ValueError: if there are no tags anywhere.
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
        reason = f"The preset is a `{pretrained.trained_task}`, whose head is not taken over"
    raise _check.invalid("tags", "the names of the tags", None, f"{reason}; `data.tag_names` finds those of rows")


def matched(name, spec, arguments):
    """Compares the trained head of a token classifier with the constructor's arguments.

    Args:
        name: string. The class of the token classifier.
        spec: `backbones.HeadSpec`.
        arguments: dict of the constructor's arguments.

    Returns:
        (spec, own): the head as it is taken over and the arguments that follow from it; (`None`, `None`) where other
        tags are asked for.

    Raises:
        ValueError: if an argument contradicts the head, or the tags can be read in several ways.
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
        expected = f"'linear' for a `{name}`, whose trained head is taken over"
        raise _check.invalid("head", expected, arguments["head"], "Pass `backbone_only=True` for a new head")
    head = spec.head(arguments.get("dropout"))
    is_plain = not head.hidden_dims and head.use_bias
    own = {"tags": list(spec.labels), "dropout": head.dropout, "head": "linear" if is_plain else head}
    own["scheme"] = _checked(arguments["scheme"], spec.labels) if "scheme" in arguments else scheme_of(spec.labels)
    return spec, own


def _checked(scheme, tags):
    """Returns a scheme that was asked for; raises where some of the tags could never be given in it."""
    if scheme is None or _schemes.scheme("scheme", scheme) in (fitting := _schemes.fitting(tags)):
        return scheme
    expected = (
        f"a scheme in which each of the preset's tags can occur ({', '.join(fitting) or 'there is none'}), or None"
    )
    raise _check.invalid("scheme", expected, scheme)


def scheme_of(tags):
    """Returns the scheme of a trained tagger's tags, or `None` for tags without prefixes.

    Raises:
        ValueError: if they can be read in several ways.
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
        # What keeps them from being a scheme's: a bare prefix, or a tag without one.
        other = next((tag for tag in tags if tag != "O" and tag not in marked), None)
        reason = f"{marked[0]!r} may be a part of an entity or a tag of its own kind"
        reason += f", beside {other!r} without a prefix" if other else ""
    remedy = (
        f"{reason}. Pass `scheme=None` for tags that mark no entities (`tag` and `extract_tokens` work without one), "
        "or `tags`, a dict of the preset's to other names"
    )
    raise _check.invalid("scheme", "a scheme, or None", list(tags), remedy)


def changed(tagger, arguments, changeable):
    """Returns a saved tagger with other arguments of its constructor, or `None` where they need another head.

    Args:
        tagger: `TokenTagger`.
        arguments: dict of the constructor's arguments.
        changeable: names of those that may differ, beside the tags and what only a CRF depends on.
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
