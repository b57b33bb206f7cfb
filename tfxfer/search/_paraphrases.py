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
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

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
    return Paraphrases(*_neighbours.nearest_pairs(embeddings, k, max_pairs, min_score, similarity, report))
