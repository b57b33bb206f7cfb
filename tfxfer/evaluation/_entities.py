"""Scores, errors and calibration of spans: named entities, chunks, slots."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from tfxfer import _check, _schemes
from tfxfer.evaluation import _calibration, _span_rows

# The outcomes of a span that is paired. An unpaired span is missed, if it is gold, or spurious, if it is predicted.
_PAIRED = ("correct", "boundary", "type", "boundary_and_type")
GOLD_KINDS, PREDICTED_KINDS = (*_PAIRED, "missed"), (*_PAIRED, "spurious")
ERRORS = ("boundary", "type", "boundary_and_type", "missed", "spurious")
# Amount of text shown on either side of an error.
_WORDS, _CHARACTERS = 5, 40


def entity_scores(gold: Iterable[Any], predicted: Iterable[Any], *, scheme: str | None = None) -> dict[str, Any]:
    """Scores predicted spans against gold spans.

    A span is correct if its type, start and end are all right:

        precision = correct / predicted,  recall = correct / gold,  f1 = 2 * correct / (predicted + gold)

    The averages are `micro`, over all spans; `macro`, the mean over types; and `weighted`, the mean over types weighted
    by gold spans.

    Args:
        gold: the rows. Either the tags of each row, for example `["B-PER", "I-PER", "O"]`, or its spans, in any order:
            `(type, start, end)`, `(start, end, type)`, or dicts or objects with `label`, `start` and `end`, where the
            end is exclusive. Spans may overlap.
        predicted: the same rows in the same form: the same number of tags in each, or spans that count the same units.
        scheme: the tagging scheme. By default tags are read leniently, as in conlleval and seqeval: a stray `I` starts
            a span. With the name of a scheme (`"IOB1"`, `"IOB2"` or `"BIO"`, `"IOE1"`, `"IOE2"`, `"IOBES"` or
            `"BIOES"`, `"BILOU"`) they are read strictly: only spans that the scheme would write this way count.

    Returns:
        A dict:

        - `micro_precision`, `micro_recall`, `micro_f1`, the same for `macro` and `weighted`: floats in `[0, 1]`;
        - `per_type`: dict of each type, in alphabetical order, to `precision`, `recall`, `f1`, `support` (gold spans)
          and `predicted` (predicted spans);
        - `correct`, `gold`, `predicted`, `rows`: the numbers of spans and of rows;
        - `tag_accuracy` (only for tags): fraction of tags that are right, including `O`;
        - `broken_gold_rows`, `broken_predicted_rows` (only for tags with a scheme): number of rows with a tag that the
          scheme forbids. Many broken gold rows indicate that they use another scheme.

        A score with a zero denominator is 0. The scores equal those of seqeval, in its `default` mode without a scheme
        and in `strict` mode with one, except for tags that it reads differently: unfinished `IOE1`, hyphens at the ends
        of a type, and `L` and `U` without a scheme.

    Raises:
        ValueError: if `gold` is empty, if the numbers of rows or of tags in a row differ, if a row is neither tags
            nor spans, if tags and spans are mixed, if a tag is not in the scheme, or if a span occurs twice. The
            message names the row.

    Example:

    >>> gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    >>> predicted = [["B-PER", "I-PER", "O", "O"], ["O", "I-LOC"]]
    >>> scores = entity_scores(gold, predicted)
    >>> round(scores["micro_f1"], 3), round(scores["macro_f1"], 3), scores["per_type"]["LOC"]["recall"]
    (0.8, 0.833, 0.5)
    >>> round(entity_scores(gold, predicted, scheme="IOB2")["micro_f1"], 3)
    0.5

    Reference: Tjong Kim Sang and De Meulder, 2003, https://aclanthology.org/W03-0419; Nakayama, seqeval, 2018,
    https://github.com/chakki-works/seqeval.
    """
    return scores_of(_span_rows.read(gold, predicted, scheme), scheme)


def scores_of(rows: _span_rows.Rows, scheme: str | None) -> dict[str, Any]:
    """Computes the dict of `entity_scores` from parsed rows; `scheme` is that of their tags."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for ours, theirs in zip(rows.gold, rows.predicted, strict=True):
        found = {*theirs}
        for span in ours:
            counts[span[0]][1] += 1
            counts[span[0]][0] += span in found
        for span in theirs:
            counts[span[0]][2] += 1
    ordered = {kind: counts[kind] for kind in sorted(counts)}
    per_type = {kind: _ratios(*each) for kind, each in ordered.items()}
    correct, support, given = ([each[k] for each in ordered.values()] for k in range(3))
    micro = _ratios(sum(correct), sum(support), sum(given))
    scores: dict[str, Any] = {f"micro_{key}": micro[key] for key in _RATIOS}
    for name, weights in (("macro", [1] * len(ordered)), ("weighted", support)):
        for key in _RATIOS:
            values = [each[key] for each in per_type.values()]
            scores[f"{name}_{key}"] = _mean(values, weights)
    scores["per_type"] = {
        kind: {**per_type[kind], "support": gold_spans, "predicted": predicted_spans}
        for kind, (_, gold_spans, predicted_spans) in ordered.items()
    }
    totals = {"correct": sum(correct), "gold": sum(support), "predicted": sum(given), "rows": len(rows.gold)}
    return {**scores, **totals, **_of_tags(rows, scheme)}


_RATIOS = ("precision", "recall", "f1")


def _ratios(correct, support, given):
    return {
        "precision": correct / given if given else 0.0,
        "recall": correct / support if support else 0.0,
        "f1": 2 * correct / (given + support) if given + support else 0.0,
    }


def _mean(values, weights):
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0


def _of_tags(rows, scheme):
    """Returns the scores of the tags themselves; empty for rows of spans."""
    if rows.tags is None:
        return {}
    gold, predicted = rows.tags
    right = sum(a == b for ours, theirs in zip(gold, predicted, strict=True) for a, b in zip(ours, theirs, strict=True))
    total = sum(map(len, gold))
    found: dict[str, Any] = {"tag_accuracy": right / total if total else 0.0}
    if scheme is not None:
        for name, each in (("gold", gold), ("predicted", predicted)):
            broken = sum(_schemes.first_error(tags, scheme) is not None for tags in each)
            found[f"broken_{name}_rows"] = broken
    return found


# === Errors ===


def entity_errors(
    gold: Iterable[Any], predicted: Iterable[Any], *, scheme: str | None = None, texts: Sequence[Any] | None = None
) -> dict[str, Any]:
    """Classifies the errors in predicted spans: each span is in one correct pair or in one error.

    | kind | gold span | predicted span |
    |---|---|---|
    | `boundary` | overlaps the predicted one | same type, other boundaries |
    | `type` | has the same boundaries | other type |
    | `boundary_and_type` | overlaps the predicted one | other type, other boundaries |
    | `missed` | overlaps no predicted span that is still unpaired | |
    | `spurious` | | overlaps no gold span that is still unpaired |

    The spans of a row are paired one to one: first equal spans, then spans with the same boundaries, then overlapping
    spans of the same type, and finally spans that only overlap. Among several candidates, the largest overlap wins.

    Args:
        gold: rows of tags or of spans, as in `entity_scores`.
        predicted: the same rows.
        scheme: as in `entity_scores`.
        texts: the text of each row, shown in the errors: a list of words if spans count words (those of tags do), or a
            string if they count characters.

    Returns:
        A dict:

        - `counts`: dict of `correct` and each kind of error to its number;
        - `per_type`: dict of each type to `gold` and `predicted`, two dicts with the outcomes of the gold spans of that
          type (kinds up to `missed`) and of the predicted ones (those kinds, with `spurious` instead of `missed`);
        - `confusion`: list of rows (gold types) of ints (types of the paired predicted spans), including pairs with
          wrong boundaries; the last column counts missed spans, the last row spurious ones;
        - `labels`: the types of its rows and columns, `None` last;
        - `errors`: list of dicts, in text order: `row`, `kind`, `gold` and `predicted`, each `(type, start, end)` or
          `None`; if `texts` is given also `gold_text`, `predicted_text` and `context`, the text around both;
        - `rows`: the number of rows.

    Raises:
        ValueError: as in `entity_scores`, or if `texts` does not match the rows.

    Example:

    >>> words = [["Ada", "King", "Lovelace", "left", "Paris", "."]]
    >>> found = entity_errors([[("PER", 0, 3), ("LOC", 4, 5)]], [[("PER", 0, 2), ("ORG", 4, 5)]], texts=words)
    >>> found["counts"]["boundary"], found["counts"]["type"], found["confusion"]
    (1, 1, [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    >>> found["errors"][0]["gold_text"], found["errors"][0]["predicted_text"]
    ('Ada King Lovelace', 'Ada King')

    Reference: the kinds refine those of MUC-5: Chinchor and Sundheim, 1993, https://aclanthology.org/M93-1007.
    """
    return errors_of(_span_rows.read(gold, predicted, scheme), texts)


def errors_of(rows: _span_rows.Rows, texts: Sequence[Any] | None) -> dict[str, Any]:
    """Computes the dict of `entity_errors` from parsed rows."""
    texts = _span_rows.read_texts(texts, rows)
    types = sorted({span[0] for side in (rows.gold, rows.predicted) for row in side for span in row})
    place: dict[str | None, int] = {kind: i for i, kind in enumerate([*types, None])}
    confusion = [[0] * len(place) for _ in place]
    per_type = {
        kind: {"gold": dict.fromkeys(GOLD_KINDS, 0), "predicted": dict.fromkeys(PREDICTED_KINDS, 0)} for kind in types
    }
    counts = dict.fromkeys(("correct", *ERRORS), 0)
    errors = []
    for i, (ours, theirs) in enumerate(zip(rows.gold, rows.predicted, strict=True)):
        for kind, ours_span, theirs_span in _pairs(ours, theirs):
            counts[kind] += 1
            confusion[place[ours_span and ours_span[0]]][place[theirs_span and theirs_span[0]]] += 1
            if ours_span:
                per_type[ours_span[0]]["gold"][kind] += 1
            if theirs_span:
                per_type[theirs_span[0]]["predicted"][kind] += 1
            if kind != "correct":
                error = {"row": i, "kind": kind, "gold": ours_span, "predicted": theirs_span}
                errors.append(error | _shown(texts and texts[i], ours_span, theirs_span))
    return {
        "counts": counts,
        "per_type": per_type,
        "confusion": confusion,
        "labels": list(place),
        "errors": errors,
        "rows": len(rows.gold),
    }


def _pairs(gold, predicted):
    """Returns (kind, gold span, predicted span) of all spans of a row, in text order."""
    candidates = []
    for i, ours in enumerate(gold):
        for j, theirs in enumerate(predicted):
            shared = min(ours[2], theirs[2]) - max(ours[1], theirs[1])
            if shared > 0:
                rank = 2 * (ours[1:] != theirs[1:]) + (ours[0] != theirs[0])
                candidates.append((rank, -shared, i, j))
    found = []
    free_gold, free_predicted = dict(enumerate(gold)), dict(enumerate(predicted))
    for rank, _, i, j in sorted(candidates):
        if i in free_gold and j in free_predicted:
            kind = ("correct", "type", "boundary", "boundary_and_type")[rank]
            found.append((kind, free_gold.pop(i), free_predicted.pop(j)))
    found += [("missed", span, None) for span in free_gold.values()]
    found += [("spurious", None, span) for span in free_predicted.values()]
    return sorted(found, key=lambda each: min(span[1:] for span in each[1:] if span))


def _shown(text, gold, predicted):
    """Returns the parts of a row's text that an error shows."""
    if text is None:
        return {}
    around = _CHARACTERS if isinstance(text, str) else _WORDS
    join = str if isinstance(text, str) else " ".join
    both = [span for span in (gold, predicted) if span]
    begin, end = min(span[1] for span in both), max(span[2] for span in both)
    return {
        "gold_text": join(text[gold[1] : gold[2]]) if gold else None,
        "predicted_text": join(text[predicted[1] : predicted[2]]) if predicted else None,
        "context": join(text[max(0, begin - around) : end + around]),
    }


# === Calibration ===


def entity_calibration(gold: Iterable[Any], predicted: Iterable[Any], *, bins: int = 15) -> dict[str, Any]:
    """Compares the probabilities of predicted spans with how often their type, start and end are all right.

    Spans are grouped into bins by probability, as `calibration_scores` does with rows. Missed gold spans do not count;
    the recall measures those.

    Args:
        gold: the spans of each row, as in `entity_scores`.
        predicted: the same rows, each span with its probability in `[0, 1]`: the `probability` of a dict or object, or
            the last element of `(type, start, end, probability)`.
        bins: int. Number of bins.

    Returns:
        The dict of `calibration_scores`, where `rows` counts spans.

    Raises:
        ValueError: as in `entity_scores`; if rows are tags, which have no probability; or if no span is predicted.

    Example:

    >>> predicted = [[("PER", 0, 2, 0.9), ("LOC", 4, 5, 0.8)], [("PER", 1, 2, 0.6)]]
    >>> found = entity_calibration([[("PER", 0, 2), ("LOC", 4, 5)], []], predicted, bins=2)
    >>> round(found["ece"], 3), round(found["confidence"], 3), round(found["right"], 3)
    (0.1, 0.767, 0.667)

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599; on spans: Jagannatha and Yu, 2020,
    https://aclanthology.org/2020.acl-main.188.
    """
    count = _check.integer("bins", bins)
    return calibration_of(_span_rows.read(gold, predicted, None), count)


def calibration_of(rows: _span_rows.Rows, bins: int = 15) -> dict[str, Any]:
    """Computes the dict of `entity_calibration` from parsed rows."""
    if rows.tags is not None:
        remedy = "Pass the spans of both, with their probabilities: tags have none."
        raise _check.invalid("predicted", "spans with a probability", rows.tags[1], remedy)
    confidence, right = [], []
    for i, (ours, theirs, given) in enumerate(zip(rows.gold, rows.predicted, rows.probabilities, strict=True)):
        for span, probability in zip(theirs, given, strict=True):
            if probability is None:
                raise _check.invalid("predicted", "spans with a probability", span, _span_rows.where(i))
            confidence.append(probability)
            right.append(float(span in ours))
    if not confidence:
        raise _check.invalid("predicted", "at least one span", rows.predicted)
    return _calibration.binned(confidence, right, bins)
