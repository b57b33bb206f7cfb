"""Scores runs, the scored results of a search for each query, by the rules of trec_eval, ranx and others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check, data
from tfxfer.evaluation import _retrieval, _weighted

TIES = ("trec_eval", "id", "order")
GAINS = ("grade", "exponential", "binary")
MISSING = ("zero", "skip", "raise")
# The behavior of existing programs where they differ; `run_scores` documents each rule.
RULES: dict[str, dict[str, Any]] = {
    "trec_eval": {
        "ties": "trec_eval",
        "gains": "grade",
        "low_grades_gain": True,
        "map_divisor": "relevant",
        "unanswered": "skip",
        "no_relevant": "zero",
    },
    "ranx": {
        "ties": "order",
        "gains": "grade",
        "low_grades_gain": False,
        "map_divisor": "relevant",
        "unanswered": "zero",
        "no_relevant": "zero",
    },
    "sentence_transformers": {
        "ties": "id",
        "gains": "binary",
        "low_grades_gain": False,
        "map_divisor": "cut",
        "unanswered": "zero",
        "no_relevant": "skip",
    },
}
WHOLE_KEYS = ("mrr", "map", "ndcg", "recall", "r_precision", "bpref")


def run_scores(
    run: Any,
    relevant: Any,
    *,
    ks: Sequence[int] = _retrieval.KS,
    rules: str = "trec_eval",
    ties: str | None = None,
    gains: str | None = None,
    low_grades_gain: bool | None = None,
    map_divisor: str | None = None,
    unanswered: str | None = None,
    no_relevant: str | None = None,
    relevance_level: float = 1,
    rows: bool = False,
    intervals: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores the results of a search against relevance judgments, as trec_eval, ranx or sentence-transformers do.

    The three agree in most points; rules decide the others. `rules` selects the set of one program, and each rule can
    be overridden:

    | rule | `"trec_eval"` | `"ranx"` | `"sentence_transformers"` |
    |---|---|---|---|
    | `ties`, the order of equal scores | `"trec_eval"` | `"order"` | `"id"` |
    | `gains` of nDCG | `"grade"` | `"grade"` | `"binary"` |
    | `low_grades_gain` | `True` | `False` | `False` |
    | `map_divisor` of `map@k` | `"relevant"` | `"relevant"` | `"cut"` |
    | `unanswered` queries | `"skip"` | `"zero"` | `"zero"` |
    | `no_relevant` documents for a query | `"zero"` | `"zero"` | `"skip"` |

    As in all three, queries of the run without judgments are ignored, and unjudged documents are not relevant.

    Args:
        run: dict of query id to a dict of document id to score; larger is better. `data.read_run` reads one.
        relevant: dict of query id to a dict of document id to grade, as returned by `data.read_qrels`, or to a
            collection of ids.
        ks: ints. Rank cutoffs of the scores. A run may contain fewer documents; the missing ranks count as empty.
        rules: string; see the table.
        ties: string. The order of equal scores. `"trec_eval"` rounds scores to float32 and sorts ties by decreasing id,
            as strings; `"id"` sorts ties by increasing id; `"order"` keeps the order of the run. This rule and the next
            five default to those of `rules`.
        gains: string. The gain of a relevant document in nDCG: its `"grade"`; `"exponential"`, 2^grade - 1 (ranx's
            `ndcg_burges`); or `"binary"`, 1. Grades below 0 gain nothing.
        low_grades_gain: bool. Whether grades above 0 but below `relevance_level` also gain in nDCG.
        map_divisor: string. Whether `map@k` divides by the number of `"relevant"` documents, or by k if that is smaller
            (`"cut"`).
        unanswered: string. Whether a judged query without documents in the run counts as 0 (`"zero"`), is excluded
            from the means (`"skip"`), or raises an error (`"raise"`).
        no_relevant: string. The same for a query with judged documents, none of them relevant.
        relevance_level: number > 0. The lowest grade of a relevant document.
        rows: bool. Whether to add the scores of each query, for `compare`.
        intervals: float between 0 and 1, for example 0.95. Adds `intervals`, a dict of score to `[low, high]`,
            percentiles of the mean over resamples of the queries.
        resamples: int. Number of resamples.
        seed: int. Seed of the resampling.

    Returns:
        A dict with the mean over the queries that count:

        - for each k, `accuracy@k`, `precision@k`, `recall@k`, `mrr@k`, `ndcg@k` and `map@k`, as in `retrieval_scores`
          but under the rules;
        - over all retrieved documents: `mrr`, `map`, `ndcg`, `recall`; `r_precision`, the precision at the number of
          relevant documents; and `bpref`, the mean fraction of the judged non-relevant documents that rank below each
          relevant one;
        - `queries`, the number of queries that count; `unanswered` and `without_relevant`, the numbers of judged
          queries without documents in the run and without relevant documents; `not_judged`, the number of queries of
          the run without judgments.

        With `rows`, `per_query` is a dict of lists: `query` and each score.

    Raises:
        ValueError: if a rule is unknown, no query counts, ids of the run and the judgments differ in type, scores are
            not finite, or a rule is `"raise"` and applies.

    Example:

    >>> run, relevant = {"q1": {"d1": 0.5, "d2": 0.5, "d3": 0.1}}, {"q1": {"d1": 1, "d3": 2}}
    >>> [run_scores(run, relevant, ks=(1,), ties=ties)["precision@1"] for ties in TIES]
    [0.0, 1.0, 1.0]
    >>> round(run_scores(run, relevant, ks=(3,), rules="ranx")["ndcg@3"], 4)
    0.7602

    ```python
    found = [tx.evaluation.run_scores(run, relevant, rows=True, unanswered="zero") for run in (bm25, dense)]
    tx.evaluation.compare(*found, scores="ndcg@10")
    ```

    References:
        - [trec_eval](https://github.com/usnistgov/trec_eval), whose results `rules="trec_eval"` reproduces
        - [Van Gysel and de Rijke, 2018](https://doi.org/10.1145/3209978.3210065), pytrec_eval
        - [Bassani, 2022](https://doi.org/10.1007/978-3-030-99739-7_30), ranx
        - [Buckley and Voorhees, 2004](https://doi.org/10.1145/1008992.1009000), bpref
    """
    ks = _retrieval.check_ks(ks)
    chosen = {
        "ties": ties,
        "gains": gains,
        "low_grades_gain": low_grades_gain,
        "map_divisor": map_divisor,
        "unanswered": unanswered,
        "no_relevant": no_relevant,
    }
    rule = check_rules(rules, chosen)
    level = _check.number("relevance_level", relevance_level, above=0.0)
    run, relevant = data.check_run("run", run), _judgements(relevant)
    _check_types(run, relevant)
    counted, skipped = _counted(run, relevant, rule, level)
    found: dict[str, Any] = {}
    for query in counted:
        ranked = ranking(run.get(query, {}), rule["ties"])
        for key, value in _of_query(ranked, relevant[query], ks, rule, level).items():
            found.setdefault(key, []).append(value)
    found = {key: np.array(values, "float64") for key, values in found.items()}
    scores: dict[str, Any] = {key: float(values.mean()) for key, values in found.items()}
    scores |= {"queries": len(counted), **skipped}
    if intervals is not None:
        scores["intervals"] = _weighted.of_means(found, intervals, resamples, seed)
    if rows:
        scores["per_query"] = {"query": list(counted), **{key: values.tolist() for key, values in found.items()}}
    return scores


def check_rules(rules, chosen):
    """Returns a set of rules, with those in `chosen` that are not `None` overridden."""
    rule = {**RULES[_check.one_of("rules", rules, RULES)], **{k: v for k, v in chosen.items() if v is not None}}
    for name, options in (("ties", TIES), ("gains", GAINS), ("map_divisor", ("relevant", "cut"))):
        _check.one_of(name, rule[name], options)
    for name in ("unanswered", "no_relevant"):
        _check.one_of(name, rule[name], MISSING)
    _check.instance("low_grades_gain", rule["low_grades_gain"], bool, "a bool")
    return rule


def _judgements(relevant):
    """Returns the judgments as a dict of query id to a dict of document id to grade, a float."""
    if not hasattr(relevant, "items") or not len(relevant):
        raise _check.invalid("relevant", "a dict of query id to a dict of document id to grade", relevant)
    found = {}
    for query, given in relevant.items():
        if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
            raise _check.invalid("relevant", f"documents with grades, or ids, for query {query!r}", given)
        grades = given if hasattr(given, "items") else dict.fromkeys(given, 1.0)
        found[query] = {document: _check.number("relevant", grade) for document, grade in grades.items()}
    return found


def _check_types(run, relevant):
    """Raises if ids cannot match: ints on one side and strings on the other."""
    sides = {
        "queries": (list(run), list(relevant)),
        "documents": ([d for each in run.values() for d in each], [d for each in relevant.values() for d in each]),
    }
    for name, (one, other) in sides.items():
        kinds = [{"a string" if isinstance(x, str) else "an int" for x in side} for side in (one, other)]
        if all(kinds) and not kinds[0] & kinds[1]:
            expected = f"{name} with ids of the type that they have in `relevant`, {kinds[1].pop()}"
            raise _check.invalid("run", expected, one[0], "Ids read from files are strings.")


def _counted(run, relevant, rule, level):
    """Returns the judged queries that count, and the numbers of those that may not."""
    counted, skipped = [], {"unanswered": 0, "without_relevant": 0, "not_judged": sum(q not in relevant for q in run)}
    for query, grades in relevant.items():
        cases = (
            ("unanswered", "unanswered", not run.get(query), "documents in the run"),
            ("no_relevant", "without_relevant", not any(grade >= level for grade in grades.values()), "relevant ones"),
        )
        keep = True
        for name, key, applies, what in cases:
            skipped[key] += applies
            if applies and rule[name] == "raise":
                raise _check.invalid("relevant", f"queries with {what}", query, f"Or pass `{name}='zero'` or 'skip'.")
            keep &= not (applies and rule[name] == "skip")
        if keep:
            counted.append(query)
    if not counted:
        remedy = f"Of {len(relevant)} judged queries, {skipped['unanswered']} have no documents in the run and "
        remedy += f"{skipped['without_relevant']} no relevant one."
        raise _check.invalid("run", "documents for a judged query with a relevant one", list(run)[:5], remedy)
    return counted, skipped


def ranking(scores, ties):
    """Returns the documents of one query, best first.

    Args:
        scores: dict of document id to score.
        ties: one of `TIES`.
    """
    documents = list(scores)
    if ties == "trec_eval":
        documents.sort(key=str, reverse=True)
        return sorted(documents, key=lambda one: -np.float32(scores[one]))
    if ties == "id":
        documents.sort(key=str if any(isinstance(one, str) for one in documents) else None)
    return sorted(documents, key=lambda one: -scores[one])


def _gain(grade, rule, level):
    if grade <= 0 or (grade < level and not rule["low_grades_gain"]):
        return 0.0
    if rule["gains"] == "binary":
        return 1.0 if grade >= level else 0.0
    return grade if rule["gains"] == "grade" else 2.0**grade - 1.0


def _of_query(ranked, grades, ks, rule, level):
    """Returns the scores of one query, a dict of floats."""
    total = sum(grade >= level for grade in grades.values())
    judged = [grades.get(document) for document in ranked]
    hits = np.array([grade is not None and grade >= level for grade in judged], bool)
    gains = np.array([0.0 if grade is None else _gain(grade, rule, level) for grade in judged])
    ideal = np.sort([_gain(grade, rule, level) for grade in grades.values()])[::-1]
    found = np.cumsum(hits)
    precisions = np.cumsum(hits * found / np.arange(1, len(hits) + 1))
    first = 1 + int(np.argmax(hits)) if hits.any() else np.inf
    scores = {}
    for k in ks:
        count = int(found[:k][-1]) if len(hits) else 0
        divisor = total if rule["map_divisor"] == "relevant" else min(k, total)
        scores[f"accuracy@{k}"] = float(count > 0)
        scores[f"precision@{k}"] = count / k
        scores[f"recall@{k}"] = count / total if total else 0.0
        scores[f"mrr@{k}"] = 1 / first if first <= k else 0.0
        scores[f"ndcg@{k}"] = _ndcg(gains[:k], ideal[:k])
        scores[f"map@{k}"] = precisions[:k][-1] / divisor if len(hits) and total else 0.0
    scores["mrr"] = 1 / first
    scores["map"] = precisions[-1] / total if len(hits) and total else 0.0
    scores["ndcg"] = _ndcg(gains, ideal)
    scores["recall"] = hits.sum() / total if total else 0.0
    scores["r_precision"] = hits[:total].sum() / total if total else 0.0
    scores["bpref"] = _bpref(judged, grades, level, total)
    return scores


def _ndcg(gains, ideal):
    best = np.sum(ideal / np.log2(np.arange(len(ideal)) + 2.0))
    return float(np.sum(gains / np.log2(np.arange(len(gains)) + 2.0)) / best) if best > 0 else 0.0


def _bpref(judged, grades, level, total):
    """Computes bpref; grades below 0 count as unjudged, as in trec_eval."""
    others = sum(0 <= grade < level for grade in grades.values())
    before, sum_ = 0, 0.0
    for grade in judged:
        if grade is None or grade < 0:
            continue
        if grade < level:
            before += 1
        else:
            sum_ += 1.0 - min(before, total) / min(others, total) if before else 1.0
    return sum_ / total if total else 0.0
