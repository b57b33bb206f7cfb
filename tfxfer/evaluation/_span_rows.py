"""Reads rows of gold and predicted spans from tags or spans in several forms, without ambiguity."""

import numbers
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfxfer import _check, _schemes

_ROWS = (list, tuple, np.ndarray)
_FORM = "`(type, start, end)`, `(start, end, type)`, or a dict or object with `label`, `start` and `end`"


class Rows(NamedTuple):
    """The spans `(type, start, end)` of each row, with their probabilities and tags.

    Args:
        gold: list of lists of spans.
        predicted: list of lists of spans.
        probabilities: list of lists: the probability of each predicted span, `None` if it has none.
        tags: gold and predicted rows of tags, if tags were given.
    """

    gold: list[list[_schemes.Span]]
    predicted: list[list[_schemes.Span]]
    probabilities: list[list[float | None]]
    tags: tuple[list, list] | None


def where(row):
    """Returns the part of a message that names a row."""
    return f"It is in row {row} (counting from 0)."


def read(gold, predicted, scheme):
    """Parses gold and predicted rows into `Rows`.

    Args:
        gold: rows of tags or spans.
        predicted: rows of tags or spans.
        scheme: name of a scheme for strict reading of tags, or `None`.

    Raises:
        ValueError: see `entity_scores`.
    """
    if scheme is not None:
        scheme = _schemes.scheme("scheme", scheme)
    gold, predicted = _rows("gold", gold), _rows("predicted", predicted)
    if len(gold) != len(predicted) or not gold:
        expected = f"{len(gold)} rows as in `gold`, at least one"
        raise _check.invalid("predicted", expected, f"{len(predicted)} rows")
    kinds = {kind for name, rows in (("gold", gold), ("predicted", predicted)) for kind in _kinds(name, rows)}
    if kinds == {"tags", "spans"}:
        remedy = "Tags count words, spans may count characters: pass both as tags, or both as spans."
        raise _check.invalid("predicted", "the same kind of rows as in `gold`", predicted, remedy)
    if kinds == {"spans"}:
        if scheme is not None:
            raise _check.invalid("scheme", "None for spans", scheme, "It only applies to tags.")
        ours, theirs = _read_spans("gold", gold), _read_spans("predicted", predicted)
        return Rows(_part(0, ours), _part(0, theirs), _part(1, theirs), None)
    for i, (ours, theirs) in enumerate(zip(gold, predicted, strict=True)):
        if len(ours) != len(theirs):
            expected = f"{len(ours)} tags in row {i} (counting from 0), as in `gold`"
            raise _check.invalid("predicted", expected, f"{len(theirs)} tags")
    ours, theirs = _read_tags("gold", gold, scheme), _read_tags("predicted", predicted, scheme)
    unknown: list[list[float | None]] = [[None] * len(row) for row in theirs]
    return Rows(ours, theirs, unknown, (gold, predicted) if "tags" in kinds else None)


def _part(k, rows):
    """Returns the spans (k = 0) or the probabilities (k = 1) from the result of `_read_spans`."""
    return [[each[k] for each in row] for row in rows]


def _rows(argument, rows):
    if isinstance(rows, (str, bytes, Mapping)) or not hasattr(rows, "__iter__"):
        raise _check.invalid(argument, "a list with the tags or the spans of each row", rows)
    found = list(rows)
    for i, row in enumerate(found):
        if not isinstance(row, _ROWS):
            remedy = f"{where(i)} Wrap a single row in a list: `[tags]`."
            raise _check.invalid(argument, "a list of tags, or of spans, in every row", row, remedy)
    return found


def _kinds(argument, rows):
    """Returns the kinds of rows, tags or spans; none if all rows are empty."""
    found = {}
    for i, row in enumerate(rows):
        if len(row) and isinstance(row, tuple) and len({isinstance(each, str) for each in row}) == 2:
            remedy = f"{where(i)} If it is a span, note that a row is a list of spans."
            raise _check.invalid(argument, "only tags, or only spans, in a row", row, remedy)
        for each in row:
            found.setdefault("tags" if isinstance(each, (str, bytes)) else "spans", (i, each))
    if len(found) == 2:
        (i, tag), (j, other) = found["tags"], found["spans"]
        expected = f"only tags, or only spans ({_FORM})"
        raise _check.invalid(argument, expected, (tag, other), f"They are in rows {i} and {j} (counting from 0).")
    return found


def _read_tags(argument, rows, scheme):
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(_schemes.spans(row, scheme))
        except ValueError as error:
            raise ValueError(f"{error} That is row {i} of `{argument}` (counting from 0).") from error
    return found


def _read_spans(argument, rows):
    """Returns (span, probability) for the spans of each row."""
    found = []
    for i, row in enumerate(rows):
        read = [_read_span(argument, span, i) for span in row]
        spans = [span for span, _ in read]
        for k, span in enumerate(spans) if len({*spans}) < len(spans) else ():
            if span in spans[:k]:
                raise _check.invalid(argument, "each span once", span, where(i))
        found.append(read)
    return found


def _read_span(argument, span, row):
    """Parses a span in any form into `(type, start, end)` and its probability or `None`."""
    label, start, end, probability = _parts(span)
    places = (start, end)
    whole = not any(isinstance(each, bool) or not isinstance(each, numbers.Integral) for each in places)
    if not isinstance(label, str) or not label or not whole:
        expected = f"spans: {_FORM}; with a non-empty string as the type and ints as the others"
        raise _check.invalid(argument, expected, span, where(row))
    if not 0 <= start < end:
        remedy = f"{where(row)} The end is exclusive."
        raise _check.invalid(argument, "spans with 0 <= start < end", span, remedy)
    if probability is not None:
        is_number = isinstance(probability, numbers.Real) and not isinstance(probability, bool)
        if not is_number or not 0 <= probability <= 1 + 1e-6:
            raise _check.invalid(argument, "probabilities in [0, 1]", span, where(row))
        probability = float(probability)
    return (label, int(start), int(end)), probability


def _parts(span):
    """Returns label, start, end and probability of a span, each `None` if it is missing; all `None` if not a span."""
    names = ("label", "start", "end", "probability")
    if isinstance(span, Mapping):
        return [span.get(name) for name in names]
    if all(hasattr(span, name) for name in names[:3]):
        return [getattr(span, name, None) for name in names]
    if isinstance(span, (list, tuple)) and len(span) in (3, 4):
        first, second, third, *probability = span
        parts = (third, first, second) if isinstance(third, str) else (first, second, third)
        return [*parts, *probability, None][:4]
    return [None] * 4


def read_texts(texts, rows):
    """Returns the text of each row, a string or a list of words, or `None`; raises if spans exceed their text."""
    if texts is None:
        return None
    if isinstance(texts, (str, bytes, Mapping)) or not hasattr(texts, "__iter__"):
        raise _check.invalid("texts", "a list with the text of each row", texts)
    texts = list(texts)
    if len(texts) != len(rows.gold):
        raise _check.invalid("texts", f"{len(rows.gold)} rows, as in `gold`", f"{len(texts)} rows")
    for i, text in enumerate(texts):
        _check_text(text, i, rows)
        texts[i] = text if isinstance(text, str) else list(text)
    return texts


def _check_text(text, i, rows):
    """Raises if a row's text has the wrong type, or if its spans exceed it."""
    if not isinstance(text, str) and not (isinstance(text, _ROWS) and all(isinstance(word, str) for word in text)):
        raise _check.invalid("texts", "a string, or a list of words, in every row", text, where(i))
    if rows.tags is not None and (isinstance(text, str) or len(text) != len(rows.tags[0][i])):
        expected = f"{len(rows.tags[0][i])} words in row {i} (counting from 0), one for each tag"
        raise _check.invalid("texts", expected, text)
    last = max((span[2] for span in (*rows.gold[i], *rows.predicted[i])), default=0)
    if last > len(text):
        unit = "characters" if isinstance(text, str) else "words"
        remedy = f"{where(i)} Spans count the characters of a string, or the words of a list."
        raise _check.invalid("texts", f"at least {last} {unit}, where the last span ends", text, remedy)
