"""Exact search for the nearest vectors in a corpus."""

import collections
from typing import Any

import numpy as np

from tfxfer import _check, _neighbours, _texts
from tfxfer.search import _quantize

TopK = collections.namedtuple("TopK", ["ids", "scores"])
TopK.__doc__ = "The result of `top_k`: int64 ids and float scores `(queries, k)`, best first."

# Default number of results.
_MOST = 10
# Number of vectors rescored at a time: 25 MB at 384 components in float64.
_RESCORED = 8192


def top_k(queries: Any, corpus: Any, k: int, *, similarity: str = "cosine", progress: bool | None = None) -> TopK:
    """Finds the `k` nearest vectors of a corpus for each query, exactly.

    Scores are computed in blocks of 1024 queries and 8192 vectors, so the search takes about 32 MB and the size of the
    result in addition to queries and corpus. The lower id wins ties, as in a stable sort of all scores.

    Args:
        queries: float array `(queries, dim)`, or `Quantized`.
        corpus: float array `(rows, dim)`, or `Quantized`. int8 codes are compared by their values. Binary codes are
            compared with float queries by `query . sign`, and with binary queries by the number of equal bits.
        k: int, at most the number of rows.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`. Distances are negated, so that larger
            is closer. Binary codes support only the cosine.
        progress: bool. Whether to show a progress bar. By default, one is shown for more than 100,000 rows in a
            terminal or notebook.

    Returns:
        `TopK(ids, scores)`: int64 and float `(queries, k)`, best first; scores in the vectors' dtype.

    Raises:
        ValueError: if the corpus is empty or has fewer than k rows, or vectors are not finite or differ in size.

    Example:

    >>> ids, scores = top_k([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]], 2)
    >>> ids.tolist(), scores.round(2).tolist()
    ([[1, 2]], [[1.0, 0.71]])
    """
    queries, corpus = _vectors("queries", queries), _vectors("corpus", corpus)
    check_k(k, len(corpus))
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    check_dim("queries", queries, corpus.shape[1])
    is_binary = isinstance(corpus, _quantize.Quantized) and corpus.precision == "binary"
    if is_binary and similarity != "cosine":
        raise _check.invalid("similarity", "'cosine' for binary codes", similarity)
    return find(queries, corpus, k, similarity, progress)


def find(queries, corpus, k, similarity, progress=None, allowed=None):
    """Returns `TopK` for checked arguments; `corpus` may be on disk and is read in blocks.

    Args:
        queries: float array or `Quantized`.
        corpus: float array or `Quantized`.
        k: int, at most the number of rows.
        similarity: as in `top_k`.
        progress: bool.
        allowed: bool `(rows,)`, the rows to search, or `None` for all. If they are fewer than k, the rest has id -1 and
            score -inf.
    """
    is_coded = isinstance(corpus, _quantize.Quantized)
    is_hamming = is_coded and isinstance(queries, _quantize.Quantized) and queries.precision == "binary"
    report = _texts.reporter(len(corpus), progress, "row")
    selected = None if allowed is None else np.flatnonzero(allowed)
    count = k if selected is None else min(k, len(selected))
    if not count:
        return TopK(*filled(np.zeros((len(queries), 0), "int64"), np.zeros((len(queries), 0), "float32"), k))
    if is_hamming:
        nearest = _neighbours.Nearest(queries.codes, count, "hamming")
    else:
        nearest = _neighbours.Nearest(_quantize.floats(queries), count, similarity)
    for start in range(0, len(corpus), _neighbours.CORPUS_CHUNK):
        part = corpus[start : start + _neighbours.CORPUS_CHUNK]
        size = len(part)
        if allowed is not None:
            here = allowed[start : start + _neighbours.CORPUS_CHUNK]
            part = part if here.all() else part[here]
        if len(part):
            nearest.add(part.codes if is_hamming else _quantize.floats(part))
        if report is not None:
            report(size)
    ids, scores = nearest.result()
    if is_hamming:
        scores = 1 + 2 * scores / np.float32(corpus.dim)
    return TopK(*filled(ids if selected is None else selected[ids], scores, k))


def filled(ids, scores, k):
    """Returns ids and scores padded to `k` columns, with id -1 and score -inf."""
    missing = k - ids.shape[1]
    if missing <= 0:
        return ids, scores
    pad = ((0, 0), (0, missing))
    return np.pad(ids, pad, constant_values=-1), np.pad(scores, pad, constant_values=-np.inf)


def rescored(queries, corpus, ids, k, similarity):
    """Returns the `k` best of some candidates for each query, by the values of `corpus`, an array or `Quantized`."""
    scores = np.empty(ids.shape, "float64")
    step = max(1, _RESCORED // ids.shape[1])
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        vectors = _quantize.floats(corpus[some.ravel()]).reshape(*some.shape, -1)
        scores[start : start + step] = _neighbours.paired(queries[start : start + step, None], vectors, similarity)
    scores[ids < 0] = -np.inf
    return best(ids, scores, k)


def best(ids, scores, k):
    """Returns the `k` best of some candidates; the lower id wins ties."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1).astype("float32")


def check_k(k, size):
    """Returns k, by default 10 or the size of a smaller corpus; raises if a corpus of `size` has fewer rows."""
    if not size:
        raise _check.invalid("corpus", "at least one row", size, "There is nothing to find.")
    if k is None:
        return min(_MOST, size)
    if _check.integer("k", k) > size:
        raise _check.invalid("k", f"an int <= {size}, the size of the corpus", k, "Use `min(k, len(corpus))`.")
    return int(k)


def check_dim(argument, vectors, dim):
    """Raises if the vectors' number of components differs from the corpus."""
    if vectors.shape[1] != dim:
        remedy = "Queries and corpus must come from one embedder, with the same `truncate_dim`."
        raise _check.invalid(argument, f"vectors of {dim} components, as in the corpus", vectors.shape, remedy)


def _vectors(argument, vectors):
    return vectors if isinstance(vectors, _quantize.Quantized) else _neighbours.matrix(argument, vectors)
