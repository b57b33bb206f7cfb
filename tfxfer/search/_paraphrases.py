"""Finds pairs of texts with the same meaning."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts

Paraphrases = collections.namedtuple("Paraphrases", ["ids", "scores"])
Paraphrases.__doc__ = "The result of `paraphrases`: int64 ids `(pairs, 2)` and float scores `(pairs,)`, best first."


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
    """Finds the most similar pairs of texts.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`.
        texts: list of strings. Equal texts also form pairs, with score 1.
        k: int. Maximum number of neighbors considered per text, so that a large group of similar texts does not fill
            the result. Defaults to 100.
        max_pairs: int. Maximum number of pairs to return. Defaults to 500,000.
        min_score: float. Minimum score of a pair. By default there is none.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        prompt: string prepended to each text. Defaults to the embedder's own.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        `Paraphrases(ids, scores)`: the indices of two texts, the lower first, and their similarity. Best first; ties
        are ordered by index.

    Raises:
        ValueError: if there are fewer than two texts, or a text is not a string.

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
    """Finds the most similar pairs of vectors: `paraphrases` for existing vectors.

    Args:
        embeddings: float array `(rows, dim)`.
        k: int. Maximum number of neighbors considered per row. Defaults to 100.
        max_pairs: int. Maximum number of pairs to return. Defaults to 500,000.
        min_score: float. Minimum score of a pair. By default there is none.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        progress: bool. Whether to show a progress bar. By default, one is shown for more than 100,000 rows in a
            terminal or notebook.

    Returns:
        `Paraphrases(ids, scores)`.

    Raises:
        ValueError: if there are fewer than two rows, or vectors are not finite.

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
