"""Scores, errors and calibration of spans: named entities, chunks, slots."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from tfxfer import _check, _schemes
from tfxfer.evaluation import _calibration, _span_rows

# What becomes of a span, but for one that is missed, if it is a gold one, or spurious, if it is predicted.
_PAIRED = ("correct", "boundary", "type", "boundary_and_type")
GOLD_KINDS, PREDICTED_KINDS = (*_PAIRED, "missed"), (*_PAIRED, "spurious")
ERRORS = ("boundary", "type", "boundary_and_type", "missed", "spurious")
# Of the text around an error, on either side.
_WORDS, _CHARACTERS = 5, 40


def entity_scores(gold: Iterable[Any], predicted: Iterable[Any], *, scheme: str | None = None) -> dict[str, Any]:
    """Scores predicted spans against the gold ones.

    A span counts as correct if type, start and end are all right:

        precision = correct / predicted,  recall = correct / gold,  f1 = 2 * correct / (predicted + gold)

    The averages are `micro`, over all spans; `macro`, the mean of the types; and `weighted`, their mean by gold spans.

    Args:
        gold: the rows. Either the tags of each row, such as `["B-PER", "I-PER", "O"]`, or its spans, in any order:
            `(type, start, end)`, `(start, end, type)`, or dicts or objects with `label`, `start` and `end`, the end
            exclusive. Spans may overlap.
        predicted: the same rows in the same form: as many tags in each, or spans that count the same units.
        scheme: how tags are read. By default leniently, as conlleval and seqeval do: a stray `I` starts a span. With
            the name of a scheme (`"IOB1"`, `"IOB2"` or `"BIO"`, `"IOE1"`, `"IOE2"`, `"IOBES"` or `"BIOES"`,
            `"BILOU"`) strictly: only spans that the scheme writes so count.

    Returns:
        A dict:

        - `micro_precision`, `micro_recall`, `micro_f1`, the same for `macro` and `weighted`: floats in `[0, 1]`;
        - `per_type`: dict of each type, in alphabetical order, to `precision`, `recall`, `f1`, `support` (gold spans)
          and `predicted` (predicted spans);
        - `correct`, `gold`, `predicted`, `rows`: the numbers of spans and of rows;
        - `tag_accuracy` (of tags only): share of tags that are right, `O` included;
        - `broken_gold_rows`, `broken_predicted_rows` (of tags with a scheme only): rows with a tag that the scheme
          forbids. Many broken gold rows mean that they are in another scheme.

        A score that would divide by 0 is 0. seqeval gives the same, in its mode `default` without a scheme and in
        `strict` with one, but for the tags that it reads otherwise: unfinished `IOE1`, hyphens at the ends of a type,
        `L` and `U` without a scheme.

    Raises:
        ValueError: for no rows, different numbers of rows or of tags in a row, what is neither tags nor spans, both
            mixed, a tag that the scheme does not have, or a span given twice; it names the row.

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
    """Returns the dict of `entity_scores` of rows that are read, by `scheme` if they are tags."""
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
    """Returns the scores of the tags themselves; none of rows of spans."""
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
    """Says what is wrong with predicted spans: each span is in one correct pair or in one error.

    | kind | gold span | predicted span |
    |---|---|---|
    | `boundary` | overlaps the predicted one | of the same type, from or to another place |
    | `type` | in the same place | of another type |
    | `boundary_and_type` | overlaps the predicted one | of another type, from or to another place |
    | `missed` | overlaps no predicted one that is still free | |
    | `spurious` | | overlaps no gold one that is still free |

    Spans of a row are paired one to one: first those that are equal, then those in the same place, then those that
    overlap and have the same type, at last those that just overlap; of several, those that share most.

    Args:
        gold: rows of tags or of spans, as `entity_scores` takes them.
        predicted: the same rows.
        scheme: as in `entity_scores`.
        texts: the text of each row, to be read in the errors: its words, where spans count words (as those of tags do),
            or a string, where they count characters.

    Returns:
        A dict:

        - `counts`: dict of `correct` and each kind of error to its number;
        - `per_type`: dict of each type to `gold` and `predicted`, two dicts: what became of the gold spans of that type
          (kinds up to `missed`) and of the predicted ones (kinds up to `spurious`);
        - `confusion`: list of rows (gold types) of ints (types of their predicted spans), wrong boundaries included;
          the last column counts missed spans, the last row spurious ones;
        - `labels`: the types of its rows and columns, `None` last;
        - `errors`: list of dicts, in the order of the text: `row`, `kind`, `gold` and `predicted`, each `(type, start,
          end)` or `None`; with texts also `gold_text`, `predicted_text` and `context`, the text around both;
        - `rows`: the number of rows.

    Raises:
        ValueError: as `entity_scores`, and for texts that do not fit.

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
    """Returns the dict of `entity_errors` of rows that are read."""
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
    """Returns (kind, gold span, predicted span) of all spans of a row, in the order of the text."""
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
    """Returns what an error shows of its row's text."""
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
    """Compares the probabilities of predicted spans with how often they are right in type, start and end.

    Spans are put into bins by their probability, as `calibration_scores` does with rows. Gold spans that are missed
    do not count: for those there is the recall.

    Args:
        gold: the spans of each row, as `entity_scores` takes them.
        predicted: the same rows; each span with its probability in `[0, 1]`: as `probability` of a dict or object, or
            as the last of four, `(type, start, end, probability)`.
        bins: int. Their number.

    Returns:
        The dict of `calibration_scores`: `rows` are spans.

    Raises:
        ValueError: as `entity_scores`; for tags, which have no probability; and for no predicted spans.

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
    """Returns the dict of `entity_calibration` of rows that are read."""
    if rows.tags is not None:
        remedy = "Give the spans of both, with their probabilities: tags have none."
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
