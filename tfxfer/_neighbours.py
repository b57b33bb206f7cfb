"""Exact nearest rows of one matrix to the rows of another, in blocks that bound the memory."""

import numpy as np

from tfxfer import _check

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# The most scores in a block: 32 MB in float32.
QUERY_CHUNK = 1024
CORPUS_CHUNK = 8192
# Queries whose codes are compared at once, so that the temporary arrays of `_hamming` fit the caches.
_HAMMING_QUERIES = 32


def paired(first, second, similarity):
    """Returns the similarity of each row of one array with the same row of another, as float64 `(rows,)`.

    Distances are negated, so larger is closer for every name in `SIMILARITIES`.
    """
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
    if similarity == "cosine":
        first, second = unit(first), unit(second)
    if similarity in ("cosine", "dot"):
        return np.sum(first * second, axis=-1)
    if similarity == "euclidean":
        return -np.linalg.norm(first - second, axis=-1)
    return -np.abs(first - second).sum(axis=-1)


def pairwise(first, second, similarity):
    """Returns the similarity of each row of one array with each row of another, float32 `(rows, rows)`.

    Computed in float64, so the distance between equal vectors is 0. Distances are negated.
    """
    first, second = first.astype("float64"), second.astype("float64")
    if similarity == "cosine":
        first, second = unit(first), unit(second)
    if similarity in ("cosine", "dot"):
        return (first @ second.T).astype("float32")
    rows = [paired(row[None], second, similarity) for row in first]
    return np.stack(rows).astype("float32") if rows else np.zeros((0, len(second)), "float32")


def unit(vectors):
    """Returns the rows scaled to length 1; a row of zeros is unchanged."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def matrix(argument, vectors):
    """Returns vectors as a float array `(rows, dim)`; raises for another shape, no columns, NaN or infinity."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise _check.invalid(argument, "an array of vectors (rows, dim)", vectors.shape)
    if vectors.dtype.kind in "STU" or isinstance(vectors.flat[0] if vectors.size else None, (str, bytes)):
        remedy = "Encode texts first: `embedder.encode(texts)`."
        raise _check.invalid(argument, "an array of vectors (rows, dim)", vectors.flat[0], remedy)
    if vectors.dtype not in (np.float32, np.float64):
        vectors = vectors.astype("float32")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise _check.invalid(argument, "finite numbers", vectors[row], f"They are in row {row}.")
    return vectors


class Nearest:
    """The `k` best rows for each query from a corpus that is added in parts.

    Memory holds only the queries, one block of scores and the best rows so far. Of equal scores the lower row is
    better, whatever the parts.

    Args:
        queries: float array `(queries, dim)`; for `"hamming"` uint64 codes `(queries, words)`.
        k: int.
        similarity: one of `SIMILARITIES`, or `"hamming"` (negated number of unequal bits).
    """

    def __init__(self, queries, k, similarity):
        self.similarity = similarity
        self.queries = _prepare(queries, similarity)
        self.scores = np.full((len(queries), k), -np.inf, "float64" if self.queries.dtype == "float64" else "float32")
        self.ids = np.full((len(queries), k), -1, "int64")
        self.seen = 0

    def add(self, corpus, report=None):
        """Adds rows of the corpus; `report`, if given, is called with their number."""
        for start in range(0, len(corpus), CORPUS_CHUNK):
            part = _prepare(corpus[start : start + CORPUS_CHUNK], self.similarity)
            for first in range(0, len(self.queries), QUERY_CHUNK):
                rows = slice(first, first + QUERY_CHUNK)
                block = _block(self.queries[rows], part, self.similarity)
                self.scores[rows], self.ids[rows] = _merge(self.scores[rows], self.ids[rows], block, self.seen)
            self.seen += len(part)
            if report is not None:
                report(len(part))
        return self

    def result(self):
        """Returns ids int64 and scores `(queries, k)`, best first."""
        scores = self.scores
        if self.similarity == "euclidean":  # the blocks hold q.c - |c|^2 / 2, which ranks like the distance
            squares = np.sum(np.square(self.queries), axis=1, keepdims=True) - 2.0 * scores
            scores = -np.sqrt(np.maximum(squares, 0.0))
        return self.ids, scores.astype("float32") if self.similarity == "euclidean" else scores


class Best:
    """The `k` best rows for each query, from scores that are added in blocks, in the order of the corpus.

    Of equal scores the lower row is better, whatever the blocks.

    Args:
        queries: int.
        k: int.
    """

    def __init__(self, queries, k):
        self.scores = np.full((queries, k), -np.inf, "float32")
        self.ids = np.full((queries, k), -1, "int64")
        self.seen = 0

    def add(self, block):
        """Adds the scores `(queries, rows)` of the next rows."""
        self.scores, self.ids = _merge(self.scores, self.ids, block, self.seen)
        self.seen += block.shape[1]

    def result(self):
        """Returns ids int64 and scores float32 `(queries, k)`, best first; id -1 if there were fewer rows."""
        return self.ids, self.scores


def top_k(queries, corpus, k, similarity, report=None):
    """Returns ids and scores `(queries, k)` of the nearest rows of `corpus`, an array."""
    return Nearest(queries, k, similarity).add(corpus, report).result()


def nearest_pairs(embeddings, k, max_pairs, min_score, similarity, report=None):
    """Returns the most similar pairs of different rows, int64 ids `(pairs, 2)`, and their scores, best first.

    Args:
        embeddings: float array `(rows, dim)` of at least two rows.
        k: int, less than the number of rows. The most neighbors of one row to consider.
        max_pairs: int. The most pairs to return.
        min_score: float. The least score of a pair.
        similarity: one of `SIMILARITIES`.
        report: optional function that is called with the number of rows done.
    """
    rows = len(embeddings)
    if similarity == "cosine":  # once, not for each block of rows
        embeddings, similarity = unit(embeddings), "dot"
    keys, scores = np.zeros(0, "int64"), np.zeros(0, "float32")
    for start in range(0, rows, QUERY_CHUNK):
        own = np.arange(start, min(start + QUERY_CHUNK, rows))
        # One more than requested, because a row finds itself, unless equal rows before it fill the results.
        ids, found = top_k(embeddings[own], embeddings, k + 1, similarity)
        other = ids != own[:, None]
        other &= np.cumsum(other, axis=1) <= k
        row, place = np.nonzero(other & (found >= min_score))
        first, second = own[row], ids[row, place]
        keys = np.concatenate([keys, np.minimum(first, second) * rows + np.maximum(first, second)])
        scores = np.concatenate([scores, found[row, place]])
        if len(keys) > 4 * max_pairs + 4 * k * QUERY_CHUNK:
            keys, scores = _best_pairs(keys, scores, max_pairs)
        if report is not None:
            report(len(own))
    keys, scores = _best_pairs(keys, scores, max_pairs)
    return np.stack(np.divmod(keys, rows), axis=1), scores


def _best_pairs(keys, scores, count):
    """Returns the best pairs, each once: both rows may have found each other, with scores that differ by rounding."""
    order = np.lexsort((-scores, keys))
    keys, scores = keys[order], scores[order]
    once = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool)
    keys, scores = keys[once], scores[once]
    order = np.lexsort((keys, -scores))[:count]
    return keys[order], scores[order]


def _prepare(vectors, similarity):
    if similarity == "cosine":
        return unit(vectors)
    # In float32 the difference of two squares would leave a distance of 3e-4 between equal unit vectors.
    return vectors.astype("float64") if similarity == "euclidean" else vectors


def _block(queries, corpus, similarity):
    """Returns scores `(queries, rows)`; larger is closer."""
    if similarity == "hamming":
        return _hamming(queries, corpus)
    if similarity == "manhattan":
        return np.stack([-np.abs(corpus - query).sum(axis=1) for query in queries])
    scores = queries @ corpus.T
    if similarity == "euclidean":
        scores -= 0.5 * np.sum(np.square(corpus), axis=1)
    return scores


def _hamming(queries, corpus):
    words = np.ascontiguousarray(corpus.T)
    scores = np.empty((len(queries), len(corpus)), "float32")
    for start in range(0, len(queries), _HAMMING_QUERIES):
        part = queries[start : start + _HAMMING_QUERIES]
        unequal = np.zeros((len(part), len(corpus)), "uint16")
        for word in range(len(words)):
            unequal += np.bitwise_count(part[:, word, None] ^ words[word])
        np.negative(unequal, out=scores[start : start + len(part)], dtype="float32", casting="unsafe")
    return scores


def _merge(scores, ids, block, first_id):
    """Merges the best rows so far with a block of rows that come later in the corpus."""
    rows, k = scores.shape
    # A later row never wins a tie, so only scores above the worst one found matter: few, after the first blocks.
    better = block > scores[:, -1:]
    if k < block.shape[1] and np.count_nonzero(better) > 4 * k * rows:
        better &= block >= np.partition(block, -k, axis=1)[:, -k, None]
    row, column = np.divmod(np.flatnonzero(better), block.shape[1])  # many times faster than nonzero in 2 dimensions
    counts = np.bincount(row, minlength=rows)
    if not len(row):
        return scores, ids
    place = k + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_scores = np.full((rows, k + counts.max()), -np.inf, scores.dtype)
    all_ids = np.full(all_scores.shape, -1, "int64")
    all_scores[:, :k], all_ids[:, :k] = scores, ids
    all_scores[row, place], all_ids[row, place] = block[row, column], column + first_id
    # Columns are in the order of ids within equal scores, which a stable sort keeps.
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_ids, order, axis=1)
