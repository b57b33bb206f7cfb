"""Reorders candidates with a cross-encoder."""

import numpy as np

from tfxfer import _check, _texts
from tfxfer.search import _top_k


def queries_of(queries, reranker=None):
    """Returns the queries as a list of strings, and whether there was a single one."""
    is_one = isinstance(queries, (str, bytes))
    return _texts.strings("queries", [queries] if is_one else queries), is_one


def reranked(names, rows, texts, reranker, k, *, batch_size=32, progress=None):
    """Returns the `k` best of some candidates by a cross-encoder; the lower row wins ties.

    Args:
        names: list of strings, the queries.
        rows: int array `(queries, candidates)`, padded with -1.
        texts: list of strings that the rows index.
        reranker: a cross-encoder, as in `_texts.pair_scores`.
        k: int.
        batch_size: int. Number of pairs computed at a time.
        progress: bool.

    Returns:
        int64 rows and float32 scores `(queries, k)`, padded with -1 and -inf.
    """
    query, place = np.nonzero(rows >= 0)
    scores = np.full(rows.shape, -np.inf)
    if len(query):
        first = [names[i] for i in query]
        second = [texts[row] for row in rows[query, place]]
        found = _texts.pair_scores(reranker, first, second, batch_size=batch_size, progress=progress)
        scores[query, place] = found
    rows, scores = _top_k.best(rows, scores, k)
    return _top_k.filled(rows, scores, k)


def check_texts(names, queries):
    """Raises if the queries of a reranker are vectors."""
    if names is None:
        raise _check.invalid("queries", "texts if `reranker` is given", queries)
