"""Fuses several rankings of the same queries into one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfxfer import _check
from tfxfer.search._records import Hits

METHODS = ("reciprocal_rank", "weighted")
NORMALIZE = ("min_max", "z_score", "none")
_FORM = "a list of rankings of one form: `Hits`, dicts of id to score, or dicts of query to such dicts"


def fuse(
    rankings: Sequence[Any],
    k: int | None = None,
    *,
    method: Literal["reciprocal_rank", "weighted"] = "reciprocal_rank",
    weights: Sequence[float] | None = None,
    rank_constant: float = 60.0,
    normalize: Literal["min_max", "z_score", "none"] = "min_max",
) -> Any:
    """Fuses the results of several searches for the same queries into one ranking.

    `"reciprocal_rank"` adds `weight / (rank_constant + rank)` over the rankings that contain a document, with ranks
    from 1; scores need not be comparable. `"weighted"` adds `weight * score`, where the scores of each query and
    ranking are normalized:

    | `normalize` | score | of a document that is missing from a ranking |
    |---|---|---|
    | `"min_max"` | (s - min) / (max - min); 1 if all are equal | 0, the same as for its last document |
    | `"z_score"` | (s - mean) / deviation over the documents found; 0 if all are equal | the lowest of the ranking |
    | `"none"` | s, which must be >= 0 | 0 |

    Documents are ordered by score, in each ranking and in the result; the lower id wins ties.

    Args:
        rankings: list of search results, all of one form: `Hits` for one query or for several; dicts of document id to
            score; or runs, dicts of query id to such dicts.
        k: int. Maximum number of documents to return. Defaults to all that were found.
        method: `"reciprocal_rank"` (default) or `"weighted"`; see above.
        weights: list of numbers > 0, one for each ranking. Defaults to ones.
        rank_constant: number >= 0. The smaller it is, the more the first ranks count. Defaults to 60, as in the paper.
        normalize: `"min_max"` (default), `"z_score"` or `"none"`, for `"weighted"`; see the table.

    Returns:
        The form of the rankings: `Hits` with float64 scores, as wide as the most documents of a query (or `k`), padded
        with id -1 (`""` for strings), score -inf and text `None`; or dicts with the best document first.

    Raises:
        ValueError: if the rankings differ in form or queries, an id occurs twice in one ranking, or scores are not
            finite.

    Example:

    >>> fuse([{"a": 9.0, "b": 8.0}, {"c": 0.9, "b": 0.8}], 2)
    {'b': 0.03225806451612903, 'a': 0.01639344262295082}
    >>> fuse([{"a": 9.0, "b": 8.0}, {"c": 0.9, "b": 0.8}], method="weighted", weights=[1, 2])
    {'c': 2.0, 'a': 1.0, 'b': 0.0}

    ```python
    hits = tx.search.fuse([words.search(queries, 100), vectors.search(queries, 100)], 10)
    ```

    Reference: Cormack et al., 2009, https://doi.org/10.1145/1571941.1572114.
    """
    rankings = list(rankings) if isinstance(rankings, (list, tuple)) and not hasattr(rankings, "_fields") else rankings
    if not isinstance(rankings, list) or not rankings:
        raise _check.invalid("rankings", _FORM, rankings)
    fusion = Fusion(len(rankings), method, weights, rank_constant, normalize)
    k = _check.integer("k", k, optional=True)
    if all(isinstance(each, Mapping) for each in rankings):
        return _fuse_dicts(rankings, k, fusion)
    if not all(hasattr(each, "ids") and hasattr(each, "scores") for each in rankings):
        raise _check.invalid("rankings", _FORM, rankings)
    return _fuse_hits(rankings, k, fusion)


class Fusion:
    """Fuses the rankings of one query.

    Args:
        count: int. Number of rankings.
        method, weights, rank_constant, normalize: as in `fuse`.
    """

    def __init__(
        self, count: int, method: Any, weights: Sequence[float] | None, rank_constant: float, normalize: Any
    ) -> None:
        self.method = _check.one_of("method", method, METHODS)
        self.normalize = _check.one_of("normalize", normalize, NORMALIZE)
        self.rank_constant = _check.number("rank_constant", rank_constant, minimum=0.0)
        given = [1.0] * count if weights is None else list(weights)
        if len(given) != count:
            raise _check.invalid("weights", f"{count} numbers, one for each ranking", weights)
        self.weights = [_check.number("weights", weight, above=0.0) for weight in given]

    def __call__(self, rankings: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
        """Returns the documents of several dicts of id to score with their new scores, best first."""
        total: dict[Any, float] = {}
        for i, (ranking, weight) in enumerate(zip(rankings, self.weights, strict=True)):
            for score in ranking.values():
                if not np.isfinite(score) or (score < 0 and self.method == "weighted" and self.normalize == "none"):
                    is_negative = bool(np.isfinite(score))
                    expected = "scores >= 0 with normalize='none'" if is_negative else "finite scores"
                    raise _check.invalid("rankings", expected, score, f"It is in ranking {i} (counting from 0).")
            ordered = [each for _, each in sorted((-score, each) for each, score in ranking.items())]
            if self.method == "reciprocal_rank":
                values = {each: 1 / (self.rank_constant + rank) for rank, each in enumerate(ordered, 1)}
                absent = 0.0
            else:
                values, absent = self._normalized({each: float(ranking[each]) for each in ordered})
            if absent:
                values |= {each: absent for other in rankings for each in other if each not in values}
            for each, value in values.items():
                total[each] = total.get(each, 0.0) + weight * value
        return {each: total[each] for each in sorted(total, key=lambda each: (-total[each], each))}

    def _normalized(self, ranking):
        if self.normalize == "none" or not ranking:
            return ranking, 0.0
        scores = np.array(list(ranking.values()))
        if self.normalize == "min_max":
            low, width = scores.min(), np.ptp(scores)
            return {each: float((s - low) / width) if width else 1.0 for each, s in ranking.items()}, 0.0
        mean, deviation = scores.mean(), scores.std()
        if scores.max() == scores.min():
            return dict.fromkeys(ranking, 0.0), 0.0
        found = {each: float((s - mean) / deviation) for each, s in ranking.items()}
        return found, min(found.values())


def _fuse_dicts(rankings, k, fusion):
    is_run = [any(isinstance(value, Mapping) for value in each.values()) for each in rankings]
    if not any(is_run):
        return _cut(fusion([_read(each, i) for i, each in enumerate(rankings)]), k)
    if not all(is_run):
        raise _check.invalid("rankings", _FORM, rankings)
    queries = dict.fromkeys(query for each in rankings for query in each)
    made = {}
    for query in queries:
        found = [each.get(query, {}) for each in rankings]
        if not all(isinstance(each, Mapping) for each in found):
            raise _check.invalid("rankings", _FORM, rankings)
        made[query] = _cut(fusion([_read(each, i) for i, each in enumerate(found)]), k)
    return made


def _read(ranking, i):
    where = f"It is in ranking {i} (counting from 0)."
    kinds = {isinstance(each, str) for each in ranking}
    if len(kinds) > 1:
        raise _check.invalid("rankings", "ids of one kind, ints or strings", list(ranking)[:5], where)
    for score in ranking.values():
        if isinstance(score, (str, bytes)) or np.ndim(score):
            raise _check.invalid("rankings", "numbers as scores", score, where)
    return ranking


def _cut(ranking, k):
    return dict(list(ranking.items())[:k])


def _fuse_hits(rankings, k, fusion):
    dims = {np.ndim(each.ids) for each in rankings}
    is_one = dims == {1}
    if not is_one and (dims != {2} or len({len(each.ids) for each in rankings}) > 1):
        raise _check.invalid("rankings", "hits of the same queries", [np.shape(each.ids) for each in rankings])
    are_strings = {np.asarray(each.ids).dtype.kind in "OU" for each in rankings}
    if len(are_strings) > 1:
        raise _check.invalid(
            "rankings", "ids of one kind, ints or strings", [np.asarray(e.ids).dtype for e in rankings]
        )
    per_ranking = [_rows_of(each, is_one, i) for i, each in enumerate(rankings)]
    names = [
        {each: text for found, texts in per for each, text in texts.items()} for per in zip(*per_ranking, strict=True)
    ]
    fused = [_cut(fusion([found for found, _ in per]), k) for per in zip(*per_ranking, strict=True)]
    width = max([len(each) for each in fused], default=0) if k is None else k
    no_id = "" if are_strings == {True} else -1
    ids = np.full((len(fused), width), no_id, object if no_id == "" else "int64")
    scores = np.full((len(fused), width), -np.inf)
    texts = [[None] * width for _ in fused]
    for row, found in enumerate(fused):
        for place, (each, score) in enumerate(found.items()):
            ids[row, place], scores[row, place], texts[row][place] = each, score, names[row].get(each)
    return Hits(ids[0], scores[0], texts[0]) if is_one else Hits(ids, scores, texts)


def _rows_of(hits, is_one, i):
    """Returns the documents of each query as a dict of id to score, and a dict of id to text."""
    ids, scores, texts = hits.ids, hits.scores, getattr(hits, "texts", None)
    if is_one:
        ids, scores, texts = [ids], [scores], None if texts is None else [texts]
    found = []
    for row, (own, of_own) in enumerate(zip(ids, scores, strict=True)):
        own, made, named = np.asarray(own).tolist(), {}, {}
        for place, (each, score) in enumerate(zip(own, np.asarray(of_own).tolist(), strict=True)):
            if each in (-1, ""):
                continue
            if each in made:
                where = f"It occurs twice in query {row} of ranking {i}."
                raise _check.invalid("rankings", "unique ids within a query", each, where)
            made[each] = score
            if texts is not None:
                named[each] = texts[row][place]
        found.append((made, named))
    return found
