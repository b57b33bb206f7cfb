"""Losses on embeddings: pure functions, and thin `keras.losses.Loss` classes around them.

Which one fits the rows?

| rows | loss |
|---|---|
| pairs with a graded score | `CoSENTLoss`; `CosineSimilarityLoss` where the score itself has to be met |
| pairs that belong together, nothing else | `MultipleNegativesRankingLoss` |

`y_pred` of every loss is what `models.Siamese` gives: float `(batch, columns, dim)`.
"""

import keras
from keras import ops

from tfxfer import _check, _ops


def _columns(y_pred, count, name):
    if len(y_pred.shape) != 3 or (y_pred.shape[1] is not None and y_pred.shape[1] < count):
        raise _check.invalid(
            "y_pred",
            f"a tensor (batch, columns, dim) with at least {count} columns for {name}",
            tuple(y_pred.shape),
            "Train through `models.Siamese` on rows of `data.pairs` or `data.triplets`.",
        )
    return y_pred


def cosent(y_true, y_pred, scale=20.0):
    """CoSENT: pairs with a higher score shall have a higher cosine, whatever the score's unit.

    `log(1 + sum over i, j with y_i < y_j of exp(scale * (s_i - s_j)))`, `s` the cosine of each pair.

    Args:
        y_true: float tensor `(batch,)` or `(batch, 1)`. Scores; only their order counts.
        y_pred: float tensor `(batch, 2, dim)`. The embeddings of both texts.
        scale: float > 0. The inverse temperature, 20 by default.

    Returns:
        A scalar; 0 where all scores of the batch are equal.

    Reference: Su, 2022, CoSENT, https://kexue.fm/archives/8847.

    >>> import numpy as np
    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> round(float(cosent(np.array([1.0, 0.0], "float32"), pairs)), 4)
    0.0
    """
    y_pred = _columns(y_pred, 2, "cosent")
    scores = ops.reshape(ops.cast(y_true, y_pred.dtype), (-1,))
    similarities = scale * _ops.cosine_similarity(y_pred[:, 0], y_pred[:, 1])
    differences = ops.expand_dims(similarities, 1) - ops.expand_dims(similarities, 0)
    return _ops.logsumexp_where(differences, ops.expand_dims(scores, 1) < ops.expand_dims(scores, 0))


def cosine_similarity(y_true, y_pred):
    """Squared error of each pair's cosine against its score: `(cos(u, v) - y)^2`.

    Args:
        y_true: float tensor `(batch,)` or `(batch, 1)`. Scores in `[-1, 1]`, as a cosine can meet them.
        y_pred: float tensor `(batch, 2, dim)`.

    Returns:
        A tensor `(batch,)`.

    Reference: Reimers and Gurevych, 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084.

    >>> import numpy as np
    >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> cosine_similarity(np.array([0.5], "float32"), pairs).numpy().tolist()
    [0.25]
    """
    y_pred = _columns(y_pred, 2, "cosine_similarity")
    scores = ops.reshape(ops.cast(y_true, y_pred.dtype), (-1,))
    return ops.square(_ops.cosine_similarity(y_pred[:, 0], y_pred[:, 1]) - scores)


def multiple_negatives_ranking(y_pred, scale=20.0):
    """In-batch negatives: each query shall find its own document among all documents of the batch.

    `logsumexp_j S_ij - S_ii`, `S = scale * cos(Q, [D1; D2; ...])`: column 0 holds the queries, column 1 their
    documents, further columns hard negatives.

    Args:
        y_pred: float tensor `(batch, columns >= 2, dim)`.
        scale: float > 0. The inverse temperature, 20 by default.

    Returns:
        A tensor `(batch,)`.

    Reference: Henderson et al., 2017, https://arxiv.org/abs/1705.00652.

    >>> import numpy as np
    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], "float32")
    >>> multiple_negatives_ranking(pairs).numpy().round(4).tolist()
    [0.0, 0.0]
    """
    y_pred = _columns(y_pred, 2, "multiple_negatives_ranking")
    queries = y_pred[:, 0]
    # Documents column by column, so that row i's own document is entry i.
    documents = ops.reshape(ops.transpose(y_pred[:, 1:], (1, 0, 2)), (-1, y_pred.shape[-1]))
    similarities = scale * _ops.pairwise_cosine_similarity(queries, documents)
    own = scale * _ops.cosine_similarity(queries, y_pred[:, 1])
    return ops.logsumexp(similarities, axis=-1) - own


class _ScaledLoss(keras.losses.Loss):
    """A loss with an inverse temperature."""

    def __init__(self, scale=20.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.scale = _check.number("scale", scale, above=0.0)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("tfxfer")
class CoSENTLoss(_ScaledLoss):
    """`cosent` as a Keras loss: for pairs with a graded score of any range, e.g. STS-B's 0 to 5.

    Neighbours: `CosineSimilarityLoss` wants scores that a cosine can meet and fits them one by one; this one ranks the
    batch, and usually ends higher in Spearman correlation.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.CoSENTLoss())
    ```
    """

    def __init__(self, scale=20.0, reduction="sum_over_batch_size", name="cosent", dtype=None):
        super().__init__(scale=scale, reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        return cosent(y_true, y_pred, self.scale)


@keras.saving.register_keras_serializable("tfxfer")
class CosineSimilarityLoss(keras.losses.Loss):
    """`cosine_similarity` as a Keras loss: for pairs with scores in `[-1, 1]` that the cosine shall meet.

    Neighbour: `CoSENTLoss` needs no range and ranks instead. For scores of another range, `data.pairs` scales.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.CosineSimilarityLoss())
    ```
    """

    def __init__(self, reduction="sum_over_batch_size", name="cosine_similarity", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        return cosine_similarity(y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class MultipleNegativesRankingLoss(_ScaledLoss):
    """`multiple_negatives_ranking` as a Keras loss: for pairs (or triplets) that belong together; `y_true` is not read.

    The larger the batch, the more negatives each query meets. Rows with equal texts in one batch are false negatives of
    each other.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.MultipleNegativesRankingLoss())
    ```
    """

    def __init__(self, scale=20.0, reduction="sum_over_batch_size", name="multiple_negatives_ranking", dtype=None):
        super().__init__(scale=scale, reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        return multiple_negatives_ranking(y_pred, self.scale)
