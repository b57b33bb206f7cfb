"""Scores on triplets: whether the anchor is closer to the positive than to the negatives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.evaluation import _measures

TRIPLET_KEYS = ("triplet_accuracy", "triplet_margin")


def triplets(
    embedder: Any,
    texts: Any,
    *,
    similarity: str | Sequence[str] = "cosine",
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on triplets: how often the anchor is closer to the positive than to every negative.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder.
        texts: a dataset from `data.triplets`, or a tuple of three or more lists of strings: anchors, positives,
            negatives.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"`, `"manhattan"`, a list of several, or `"all"`.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `triplet_scores`. With several similarities, the scores are those of the first one, and each also
        has its own: `triplet_accuracy_dot`...

    Raises:
        ValueError: if there are fewer than three texts per row, columns differ in length, or `texts` is empty.

    Example:

    ```python
    test = tx.data.triplets(tx.data.read("test.tsv"), ("anchor", "positive", "negative"))
    tx.evaluation.triplets(embedder, test)["triplet_accuracy"]
    ```

    Reference: Dor et al., 2018, https://aclanthology.org/P18-2009.
    """
    measures = _measures.names(similarity)
    columns = triplet_columns(texts)
    vectors = _measures.column_vectors(embedder, columns, batch_size, progress)
    return {**_measures.named(lambda name: _scores(vectors, name), measures), "rows": len(columns[0])}


def triplet_scores(
    anchors: ArrayLike, positives: ArrayLike, negatives: ArrayLike, *, similarity: str | Sequence[str] = "cosine"
) -> dict[str, Any]:
    """Scores the vectors of triplets.

    Args:
        anchors: float array `(rows, dim)`.
        positives: float array `(rows, dim)`.
        negatives: float array `(rows, dim)`, or `(rows, negatives, dim)`.
        similarity: as in `triplets`.

    Returns:
        A dict: `triplet_accuracy`, the fraction of rows whose positive is closer to the anchor than every negative (a
        tie is a miss); `triplet_margin`, the mean similarity of the positive minus that of the closest negative; and
        `rows`.

    Raises:
        ValueError: if shapes do not match, or vectors are empty or not finite.

    Example:

    >>> triplet_scores([[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]])["triplet_accuracy"]
    1.0
    """
    measures = _measures.names(similarity)
    anchors, positives = _measures.vectors("positives", anchors, positives)
    negatives = np.asarray(negatives)
    negatives = negatives[:, None] if negatives.ndim == 2 else negatives
    expected = (len(anchors), "negatives", anchors.shape[1])
    if negatives.ndim != 3 or negatives.shape[::2] != anchors.shape or not negatives.shape[1] or not len(anchors):
        raise _check.invalid("negatives", f"an array {expected}, with at least one row", negatives.shape)
    columns = [anchors, positives, *(_measures.vectors("negatives", anchors, n)[1] for n in negatives.swapaxes(0, 1))]
    return {**_measures.named(lambda name: _scores(columns, name), measures), "rows": len(anchors)}


def triplet_columns(texts):
    """Returns three or more lists of strings; raises if their lengths do not match."""
    return _texts.text_columns("texts", texts, 3, "data.triplets")[0]


def _scores(vectors, similarity):
    anchors, positives, *negatives = vectors
    near = _neighbours.paired(anchors, positives, similarity)
    far = np.max([_neighbours.paired(anchors, each, similarity) for each in negatives], axis=0)
    return {"triplet_accuracy": float(np.mean(near > far)), "triplet_margin": float(np.mean(near - far))}
