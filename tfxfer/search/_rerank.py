"""Candidates put in order by a cross-encoder."""

import numpy as np

from tfxfer import _check, _texts
from tfxfer.search import _top_k


def queries_of(queries, reranker=None):
    """Returns queries as a list of strings, and whether there was but one."""
    is_one = isinstance(queries, (str, bytes))
    return _texts.strings("queries", [queries] if is_one else queries), is_one


def reranked(names, rows, texts, reranker, k, *, batch_size=32, progress=None):
    """Returns the `k` best of some candidates by a cross-encoder, of equal scores the lower row first.

    Args:
        names: list of strings, the queries.
        rows: int array `(queries, candidates)`; -1 where there is none.
        texts: list of strings that the rows are places in.
        reranker: what `_texts.pair_scores` takes.
        k: int.
        batch_size: int. Pairs computed at a time.
        progress: bool.

    Returns:
        int64 rows and float32 scores `(queries, k)`; -1 and -inf where there are fewer.
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
    """Raises where the queries of a reranker are vectors."""
    if names is None:
        raise _check.invalid("queries", "texts where `reranker` is given", queries)
