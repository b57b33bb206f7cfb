"""Scores of runs: what a search found for each query, with its scores, against judgements; by the rules of any peer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check, data
from tfxfer.evaluation import _retrieval, _weighted

TIES = ("trec_eval", "id", "order")
GAINS = ("grade", "exponential", "binary")
MISSING = ("zero", "skip", "raise")
# What the programs in use do where they differ; `run_scores` says what each rule means.
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
    """Scores what a search found, with its scores, against judgements, as trec_eval, ranx or sentence-transformers do.

    These agree on most of it; where they differ, a rule decides. `rules` names the set of one of them, and each rule
    can be chosen by itself:

    | rule | `"trec_eval"` | `"ranx"` | `"sentence_transformers"` |
    |---|---|---|---|
    | `ties`, the order of equal scores | `"trec_eval"` | `"order"` | `"id"` |
    | `gains` of nDCG | `"grade"` | `"grade"` | `"binary"` |
    | `low_grades_gain` | `True` | `False` | `False` |
    | `map_divisor` of `map@k` | `"relevant"` | `"relevant"` | `"cut"` |
    | `unanswered` queries | `"skip"` | `"zero"` | `"zero"` |
    | `no_relevant` documents for a query | `"zero"` | `"zero"` | `"skip"` |

    A query of the run that is not judged is left out, and a document that is not judged is not relevant, as all three
    have it.

    Args:
        run: dict of query id to a dict of document id to score, larger is better; `data.read_run` reads one.
        relevant: dict of query id to a dict of document id to grade, as `data.read_qrels` returns it, or to a
            collection of ids.
        ks: ints. The ranks at which the scores are cut. A run may hold fewer documents: ranks beyond hold nothing.
        rules: string; see the table.
        ties: string. The order of equal scores. `"trec_eval"` rounds scores to float32 and puts equal ones in the
            falling order of their ids as strings; `"id"` puts equal scores in the rising order of their ids; `"order"`
            leaves them as they come in the run. This rule and the next five are by default those of `rules`.
        gains: string. What a relevant document adds to nDCG: its `"grade"`; `"exponential"`, 2^grade - 1 (ranx's
            `ndcg_burges`); or `"binary"`, 1. Grades below 0 add nothing.
        low_grades_gain: bool. Whether grades above 0 but below `relevance_level` add to nDCG, too.
        map_divisor: string. `map@k` divides by the number of `"relevant"` documents, or by k where that is less
            (`"cut"`).
        unanswered: string. A judged query without documents in the run counts 0 (`"zero"`), is left out of the means
            (`"skip"`), or is an error (`"raise"`).
        no_relevant: string. The same for a query of whose judged documents none is relevant.
        relevance_level: number > 0. The grade from which on a document is relevant.
        rows: bool. Whether to add the scores of each query, for `compare`.
        intervals: float between 0 and 1, such as 0.95: adds `intervals`, a dict of score to `[low, high]`, percentiles
            of the mean over resamples of the queries.
        resamples: int. Their number.
        seed: int. Of the resamples.

    Returns:
        A dict with the mean over the queries that count:

        - for each k, `accuracy@k`, `precision@k`, `recall@k`, `mrr@k`, `ndcg@k` and `map@k`, as `retrieval_scores` has
          them under the rules;
        - over all that was found: `mrr`, `map`, `ndcg`, `recall`; `r_precision`, the precision at the number of
          relevant documents; and `bpref`, of which share of judged documents that are not relevant each relevant one
          comes first;
        - `queries`, the number of queries that count; `unanswered` and `without_relevant`, how many judged ones have no
          documents in the run, or none that is relevant; `not_judged`, how many of the run have no judgements.

        With `rows`, `per_query` is a dict of lists: `query` and each score.

    Raises:
        ValueError: for an unknown rule, no query that counts, ids of other types in run and judgements, scores that are
            not finite, and where a rule says `"raise"`.

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
        - [trec_eval](https://github.com/usnistgov/trec_eval), whose numbers `rules="trec_eval"` gives
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
    """Returns a set of rules with some of them replaced by those that are no `None`."""
    rule = {**RULES[_check.one_of("rules", rules, RULES)], **{k: v for k, v in chosen.items() if v is not None}}
    for name, options in (("ties", TIES), ("gains", GAINS), ("map_divisor", ("relevant", "cut"))):
        _check.one_of(name, rule[name], options)
    for name in ("unanswered", "no_relevant"):
        _check.one_of(name, rule[name], MISSING)
    _check.instance("low_grades_gain", rule["low_grades_gain"], bool, "a bool")
    return rule


def _judgements(relevant):
    """Returns judgements as a dict of query id to a dict of document id to grade, a float."""
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
    """Raises where ids cannot meet: ints on one side and strings on the other."""
    sides = {
        "queries": (list(run), list(relevant)),
        "documents": ([d for each in run.values() for d in each], [d for each in relevant.values() for d in each]),
    }
    for name, (one, other) in sides.items():
        kinds = [{"a string" if isinstance(x, str) else "an int" for x in side} for side in (one, other)]
        if all(kinds) and not kinds[0] & kinds[1]:
            expected = f"{name} with ids of the type that they have in `relevant`, {kinds[1].pop()}"
            raise _check.invalid("run", expected, one[0], "Ids that are read from files are strings.")


def _counted(run, relevant, rule, level):
    """Returns the judged queries that count, and how many there are that may not."""
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
                raise _check.invalid("relevant", f"queries with {what}", query, f"Or give `{name}='zero'` or 'skip'.")
            keep &= not (applies and rule[name] == "skip")
        if keep:
            counted.append(query)
    if not counted:
        remedy = f"Of {len(relevant)} judged queries, {skipped['unanswered']} have no documents in the run and "
        remedy += f"{skipped['without_relevant']} no relevant one."
        raise _check.invalid("run", "documents for a judged query with a relevant one", list(run)[:5], remedy)
    return counted, skipped


def ranking(scores, ties):
    """Returns the documents of one query, the best first.

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
    """The scores of one query: a dict of floats."""
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
    """Grades below 0 count as not judged, as trec_eval has it."""
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
