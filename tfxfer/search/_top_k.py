"""The nearest vectors of a corpus."""

import collections
from typing import Any

import numpy as np

from tfxfer import _check, _neighbours, _texts
from tfxfer.search import _quantize

TopK = collections.namedtuple("TopK", ["ids", "scores"])
TopK.__doc__ = "What `top_k` returns: int64 ids and float scores `(queries, k)`, the best first."

# Vectors that are looked at again at a time: 25 MB at 384 components in float64.
_RESCORED = 8192


def top_k(queries: Any, corpus: Any, k: int, *, similarity: str = "cosine", progress: bool | None = None) -> TopK:
    """Finds the `k` nearest vectors of a corpus for each query, exactly.

    Scores are computed in blocks of 1024 queries and 8192 vectors, so that what is held beside queries and corpus is
    some 32 MB and the result. Of equal scores the lower id comes first, as in a stable sort of all scores.

    Args:
        queries: float array `(queries, dim)`, or `Quantized`.
        corpus: float array `(rows, dim)`, or `Quantized`: int8 codes are compared by their values. Binary codes are
            compared with float queries by `query . sign`, with binary queries by the number of equal bits.
        k: int, at most the number of rows.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`. Distances come negated, so that larger is
            closer. Binary codes know the cosine only.
        progress: bool. Whether to show a progress bar; by default over more than 100,000 rows, in a terminal.

    Returns:
        `TopK(ids, scores)`: int64 and float `(queries, k)`, the best first; scores in the vectors' dtype.

    Raises:
        ValueError: for an empty corpus, a k larger than it, vectors that are not finite or of different sizes.

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
    """Returns `TopK` of what has been checked; `corpus` may lie on the disk and is read in blocks.

    Args:
        queries: float array or `Quantized`.
        corpus: float array or `Quantized`.
        k: int, at most the number of rows.
        similarity: as `top_k` has it.
        progress: bool.
        allowed: bool `(rows,)`, the rows that may be found, or `None` for all. Where fewer than k may, the id is -1 and
            the score -inf.
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
    """Returns ids and scores with `k` columns; what is missing has id -1 and score -inf."""
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
    """Returns the `k` best of some candidates; of equal scores the lower id first."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1).astype("float32")


def check_k(k, size):
    """Returns k; raises where a corpus of `size` has not as many rows."""
    if not size:
        raise _check.invalid("corpus", "at least one row", size, "There is nothing to be found.")
    if _check.integer("k", k) > size:
        raise _check.invalid("k", f"an int <= {size}, the size of the corpus", k, "Use `min(k, len(corpus))`.")
    return int(k)


def check_dim(argument, vectors, dim):
    """Raises where vectors have another number of components than the corpus."""
    if vectors.shape[1] != dim:
        remedy = "Queries and corpus come from one embedder, cut to one `truncate_dim`."
        raise _check.invalid(argument, f"vectors of {dim} components, as the corpus has", vectors.shape, remedy)


def _vectors(argument, vectors):
    return vectors if isinstance(vectors, _quantize.Quantized) else _neighbours.matrix(argument, vectors)
