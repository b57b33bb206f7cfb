"""Contrastive tension: trains two encoders to agree on a text, without labels."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base
from tfxfer.losses._ranking import multiple_negatives_ranking


def contrastive_tension(y_true: Any, y_pred: Any) -> Any:
    """Binary cross-entropy on the dot product of two encoders' embeddings of a pair of texts.

    `softplus(z) - y * z` with `z = a . b`.

    Args:
        y_true: tensor `(batch,)` or `(batch, 1)`: 1 if both texts are the same, else 0; other values make their row
            NaN.
        y_pred: float tensor `(batch, 2, dim)`, one column from each encoder.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> [round(float(x), 4) for x in contrastive_tension(np.array([1, 0]), pairs)]
    [0.1269, 0.6931]
    """
    first, second = _base.pair(y_pred, "contrastive_tension")
    logits = _ops.dot_similarity(first, second)
    return ops.softplus(logits) - _base.binary(y_true, y_pred) * logits


def contrastive_tension_in_batch(y_pred: Any, scale: Any = 20.0, similarity: str = "cosine") -> Any:
    """Each text should find itself, embedded by the other encoder, among the texts of the batch, in both directions.

    `(lse_j S_ij + lse_j S_ji) / 2 - S_ii` with `S = scale * cos(A, B)`: `multiple_negatives_ranking` of two columns
    with `directions="symmetric"`.

    Args:
        y_pred: float tensor `(batch, 2, dim)`, one column from each encoder.
        scale: float > 0, or a scalar tensor, which can be trainable.
        similarity: string. `"cosine"`, `"dot"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `similarity` is unknown, or `y_pred` does not have 2 columns.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], "float32")
    >>> [round(float(x), 4) for x in contrastive_tension_in_batch(pairs, scale=1.0)]
    [0.3133, 0.3133]
    """
    _base.pair(y_pred, "contrastive_tension_in_batch")
    return multiple_negatives_ranking(y_pred, scale, similarity=similarity, directions="symmetric")


@keras.saving.register_keras_serializable("tfxfer")
class ContrastiveTensionLoss(_base.CheckedLoss):
    """Two encoders should agree on a text and differ on two texts (`contrastive_tension`).

    Rows: two texts, from two encoders (`models.ContrastiveTension`); `y_true` 1 (the same text) or 0 (different texts).

    Choose it: to turn an encoder into an embedder from texts without labels, with `models.ContrastiveTension` on
    `data.tension_pairs`.

    See also: `ContrastiveTensionInBatchLoss` takes its negatives from the batch and learns faster; `models.simcse`
    needs only one encoder; `models.DenoisingAutoencoder` reconstructs texts.

    The paper and sentence-transformers sum over the batch, which is `reduction="sum"` here. The default is the mean, as
    in other losses, so that the learning rate does not depend on the batch size.

    Args:
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if labels are known to be neither 0 nor 1. In a traced function, as in `fit`, such rows make the
            loss NaN.

    Example:

    ```python
    model = tx.models.ContrastiveTension(embedder)
    model.compile("rmsprop", loss=tx.losses.ContrastiveTensionLoss(reduction="sum"))
    ```

    Reference: Carlsson et al., 2021, Semantic Re-tuning with Contrastive Tension,
    https://openreview.net/forum?id=Ov_sMNau-PF.
    """

    labels = "binary"

    def __init__(self, *, name: str = "contrastive_tension", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return contrastive_tension(y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class ContrastiveTensionInBatchLoss(_base.CheckedLoss):
    """Each text should find itself, embedded by the other encoder, in the batch (`contrastive_tension_in_batch`).

    Rows: the same text twice, from two encoders (`models.ContrastiveTension`); `y_true` is ignored.

    Choose it: like `ContrastiveTensionLoss`, with batches of 16 or more distinct texts.

    See also: with one encoder and dropout this is `models.simcse` in both directions.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20, the initial value in sentence-transformers, which
            trains it; here it is fixed.
        similarity: string. `"cosine"` (default), `"dot"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `scale` is not above 0, `similarity` is unknown, or `y_pred` does not have 2 columns.

    Example:

    ```python
    model = tx.models.ContrastiveTension(embedder)
    model.compile("adamw", loss=tx.losses.ContrastiveTensionInBatchLoss())
    model.fit((texts, texts), np.ones(len(texts)))
    ```

    Reference: Carlsson et al., 2021, Semantic Re-tuning with Contrastive Tension,
    https://openreview.net/forum?id=Ov_sMNau-PF.
    """

    labels = None

    def __init__(
        self,
        scale: float = 20.0,
        similarity: str = "cosine",
        *,
        name: str = "contrastive_tension_in_batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return contrastive_tension_in_batch(y_pred, self.scale, self.similarity)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "similarity": self.similarity}
