"""Pairs of texts that mean the same."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts

Paraphrases = collections.namedtuple("Paraphrases", ["ids", "scores"])
Paraphrases.__doc__ = "What `paraphrases` returns: int64 ids `(pairs, 2)` and float scores `(pairs,)`, the best first."


def paraphrases(
    embedder: Any,
    texts: Sequence[str],
    *,
    k: int = 100,
    max_pairs: int = 500_000,
    min_score: float | None = None,
    similarity: str = "cosine",
    prompt: str | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Paraphrases:
    """Finds the pairs of texts that are most alike.

    Args:
        embedder: `models.TextEmbedder`, or anything with `encode(list of strings) -> (texts, dim)`.
        texts: list of strings. Equal texts make pairs of score 1, too.
        k: int. The most neighbours of one text that are looked at, so that a large group of like texts does not fill
            the result.
        max_pairs: int. The most pairs to return.
        min_score: float. The least score of a pair; by default any.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        prompt: string set before each text; by default the embedder's own.
        batch_size: int. Texts computed at a time.
        progress: bool. Whether to show progress bars; by default on long work.

    Returns:
        `Paraphrases(ids, scores)`: the places of two texts, the lower first, and how alike they are; the best pair
        first, and of equal scores the one whose places are lower.

    Raises:
        ValueError: for fewer than two texts, or something that is no text.

    Example:

    ```python
    ids, scores = tx.search.paraphrases(embedder, texts, min_score=0.8)
    for (i, j), score in zip(ids, scores):
        print(round(score, 2), texts[i], "|", texts[j])
    ```
    """
    texts = _texts.strings("texts", texts)
    vectors = _texts.encode(embedder, texts, batch_size=batch_size, prompt=prompt, progress=progress)
    return nearest_pairs(
        vectors, k=k, max_pairs=max_pairs, min_score=min_score, similarity=similarity, progress=progress
    )


def nearest_pairs(
    embeddings: ArrayLike,
    *,
    k: int = 100,
    max_pairs: int = 500_000,
    min_score: float | None = None,
    similarity: str = "cosine",
    progress: bool | None = None,
) -> Paraphrases:
    """Finds the pairs of vectors that are most alike; what `paraphrases` does, for vectors that are there already.

    Args:
        embeddings: float array `(rows, dim)`.
        k: int. The most neighbours of one row that are looked at.
        max_pairs: int. The most pairs to return.
        min_score: float. The least score of a pair; by default any.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        progress: bool. Whether to show a progress bar; by default over more than 100,000 rows, in a terminal.

    Returns:
        `Paraphrases(ids, scores)`.

    Raises:
        ValueError: for fewer than two rows, or vectors that are not finite.

    Example:

    >>> ids, scores = nearest_pairs([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], max_pairs=1)
    >>> ids.tolist(), scores.round(3).tolist()
    ([[0, 2]], [0.995])
    """
    embeddings = _neighbours.matrix("embeddings", embeddings)
    rows = len(embeddings)
    if rows < 2:
        raise _check.invalid("embeddings", "at least two rows", embeddings.shape)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    k, max_pairs = min(_check.integer("k", k), rows - 1), _check.integer("max_pairs", max_pairs)
    min_score = -np.inf if min_score is None else _check.number("min_score", min_score)
    report = _texts.reporter(rows, progress, "row")
    if similarity == "cosine":  # once, not for each block of rows
        embeddings, similarity = _neighbours.unit(embeddings), "dot"
    keys, scores = np.zeros(0, "int64"), np.zeros(0, "float32")
    for start in range(0, rows, _neighbours.QUERY_CHUNK):
        own = np.arange(start, min(start + _neighbours.QUERY_CHUNK, rows))
        # One more than asked for, as a row finds itself, unless equal rows before it fill the places.
        ids, found = _neighbours.top_k(embeddings[own], embeddings, k + 1, similarity)
        other = ids != own[:, None]
        other &= np.cumsum(other, axis=1) <= k
        row, place = np.nonzero(other & (found >= min_score))
        first, second = own[row], ids[row, place]
        keys = np.concatenate([keys, np.minimum(first, second) * rows + np.maximum(first, second)])
        scores = np.concatenate([scores, found[row, place]])
        if len(keys) > 4 * max_pairs + 4 * k * _neighbours.QUERY_CHUNK:
            keys, scores = _best(keys, scores, max_pairs)
        if report is not None:
            report(len(own))
    keys, scores = _best(keys, scores, max_pairs)
    return Paraphrases(np.stack(np.divmod(keys, rows), axis=1), scores)


def _best(keys, scores, count):
    """The best pairs, each once: the two rows of a pair may have found each other, at scores a rounding apart."""
    order = np.lexsort((-scores, keys))
    keys, scores = keys[order], scores[order]
    once = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool)
    keys, scores = keys[once], scores[once]
    order = np.lexsort((keys, -scores))[:count]
    return keys[order], scores[order]
