"""Losses on rows of two texts with a label or a score."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

# sentence-transformers adds this to the difference before it takes the norm, as torch's pairwise distance does. Without
# it the results would differ in the seventh digit.
SHIFT = 1e-6


def _distance(distance, u, v):
    _check.one_of("distance", distance, _ops.DISTANCES)
    return _ops.DISTANCES[distance](u + SHIFT if distance in ("euclidean", "manhattan") else u, v)


def contrastive(y_true: Any, y_pred: Any, margin: float = 0.5, distance: str = "cosine") -> Any:
    """Pulls similar texts together and pushes dissimilar texts apart, up to a margin.

    `0.5 * (y * d^2 + (1 - y) * max(0, margin - d)^2)`, where `d` is the distance between the two texts.

    Args:
        y_true: tensor `(batch,)` or `(batch, 1)`. 1 for similar texts, 0 for dissimilar texts; any other label makes
            its row NaN.
        y_pred: float tensor `(batch, 2, dim)`.
        margin: float. The distance beyond which dissimilar texts contribute no loss.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], "float32")
    >>> contrastive(np.array([1, 0]), pairs).numpy().tolist()
    [0.5, 0.125]
    """
    y = _base.binary(y_true, y_pred)
    d = _distance(distance, *_base.pair(y_pred, "contrastive"))
    return 0.5 * (y * ops.square(d) + (1.0 - y) * ops.square(ops.relu(margin - d)))


def online_contrastive(y_true: Any, y_pred: Any, margin: float = 0.5, distance: str = "cosine") -> Any:
    """The contrastive loss over the hard pairs of the batch only.

    `sum of d^2 over hard positives + sum of max(0, margin - d)^2 over hard negatives`. A positive pair is hard if it is
    farther apart than the closest negative pair (without negatives: than the mean positive pair). A negative pair is
    hard if it is closer than the farthest positive pair (without positives: than the mean negative pair).

    Args:
        y_true: tensor `(batch,)` or `(batch, 1)`. 1 for similar texts, 0 for dissimilar texts; any other label makes
            the loss NaN.
        y_pred: float tensor `(batch, 2, dim)`.
        margin: float. The distance beyond which dissimilar texts contribute no loss.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A scalar: the sum over the batch; 0 if no pair is hard.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], "float32")
    >>> float(online_contrastive(np.array([1, 0]), pairs))
    1.25
    """
    y = _base.binary(y_true, y_pred)
    d = _distance(distance, *_base.pair(y_pred, "online_contrastive"))
    positive, negative = y == 1, y == 0
    far = ops.where(ops.any(negative), _ops.masked_min(d, negative), _ops.masked_mean(d, positive))
    close = ops.where(ops.any(positive), _ops.masked_max(d, positive), _ops.masked_mean(d, negative))
    pull = ops.where(ops.logical_and(positive, d > far), ops.square(d), ops.zeros_like(d))
    push = ops.where(ops.logical_and(negative, d < close), ops.square(ops.relu(margin - d)), ops.zeros_like(d))
    return ops.sum(ops.where(ops.isnan(y), y, pull + push))


def cosine_mse(y_true: Any, y_pred: Any) -> Any:
    """Squared error of each pair's cosine against its score: `(cos(u, v) - y)^2`.

    Args:
        y_true: float tensor `(batch,)` or `(batch, 1)`. Scores in `[-1, 1]`, the range of the cosine.
        y_pred: float tensor `(batch, 2, dim)`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> cosine_mse(np.array([0.5], "float32"), pairs).numpy().tolist()
    [0.25]
    """
    u, v = _base.pair(y_pred, "cosine_mse")
    scores = ops.cast(_base.one_a_row(y_true, y_pred, "scores"), y_pred.dtype)
    return ops.square(_ops.cosine_similarity(u, v) - scores)


def _ranked(y_true, y_pred, similarities):
    """`log(1 + sum over i, j with y_i < y_j of exp(s_i - s_j))`."""
    scores = _base.one_a_row(y_true, y_pred, "scores")
    lower = ops.expand_dims(scores, 1) < ops.expand_dims(scores, 0)
    return _ops.logsumexp_where(ops.expand_dims(similarities, 1) - ops.expand_dims(similarities, 0), lower)


def cosent(y_true: Any, y_pred: Any, scale: float = 20.0, similarity: str = "cosine") -> Any:
    """CoSENT: trains pairs with a higher score to have a higher cosine; scores can have any unit.

    `log(1 + sum over i, j with y_i < y_j of exp(scale * (s_i - s_j)))`, where `s` is the cosine of each pair.

    Args:
        y_true: tensor `(batch,)` or `(batch, 1)`. Scores; only their order counts.
        y_pred: float tensor `(batch, 2, dim)`. The embeddings of both texts.
        scale: float > 0. The inverse temperature, 20 by default.
        similarity: string. `"cosine"`, `"dot"`, or the name of a distance, which is negated.

    Returns:
        A scalar; 0 if all scores of the batch are equal.

    Raises:
        ValueError: if `similarity` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> round(float(cosent(np.array([0.0, 1.0], "float32"), pairs)), 4)
    20.0
    """
    u, v = _base.pair(y_pred, "cosent")
    _check.one_of("similarity", similarity, _ops.SIMILARITIES)
    return _ranked(y_true, y_pred, scale * _ops.SIMILARITIES[similarity](u, v))


def angle(y_true: Any, y_pred: Any, scale: float = 20.0) -> Any:
    """AnglE: CoSENT on the angle between two texts in complex space, whose gradient does not vanish near cosine 1.

    The halves of an embedding are the real and imaginary parts of complex numbers `z = a + bi`, `w = c + di`;
    `s = |sum(ac + bd) + sum(bc - ad)| / (||z|| ||w||)`, then as in `cosent`. An odd `dim` is padded with a zero.

    Args:
        y_true: tensor `(batch,)` or `(batch, 1)`. Scores; only their order counts.
        y_pred: float tensor `(batch, 2, dim)`.
        scale: float > 0. The inverse temperature, 20 by default.

    Returns:
        A scalar; 0 if all scores of the batch are equal.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, -1.0]]], "float32")
    >>> round(float(angle(np.array([1.0, 0.0], "float32"), pairs)), 4)  # both are similar by 1
    0.6931
    """
    u, v = (_ops.unit_norm(x) for x in _base.pair(y_pred, "angle"))
    if y_pred.shape[-1] % 2:
        u, v = (ops.pad(x, ((0, 0), (0, 1))) for x in (u, v))
    (a, b), (c, d) = ops.split(u, 2, axis=-1), ops.split(v, 2, axis=-1)
    similarities = ops.abs(ops.sum(a * c + b * d + b * c - a * d, axis=-1))
    return _ranked(y_true, y_pred, scale * similarities)


@keras.saving.register_keras_serializable("tfxfer")
class ContrastiveLoss(_base.MarginLoss):
    """Pulls similar texts together and pushes dissimilar texts apart, up to a margin (`contrastive`).

    Rows: two texts; `y_true` 1 (similar) or 0 (not).

    Choose it: for pairs with a yes/no label, such as duplicate questions, when every pair of the batch should count.

    See also: `OnlineContrastiveLoss` uses only the hard pairs and usually performs better;
    `MultipleNegativesRankingLoss` suits positive pairs only; `CoSENTLoss` suits graded scores.

    Args:
        margin: float. Defaults to 0.5: dissimilar unit vectors contribute no loss below cosine 0.5.
        distance: string. `"cosine"` (default), `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if labels are known to be neither 0 nor 1. In a traced function, as in `fit`, values are not known,
            and such labels make the loss NaN.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.ContrastiveLoss())
    ```

    Reference: Hadsell, Chopra and LeCun, 2006, Dimensionality Reduction by Learning an Invariant Mapping,
    https://doi.org/10.1109/CVPR.2006.100.
    """

    labels = "binary"
    compares_rows = False

    def __init__(
        self, margin: float = 0.5, distance: str = "cosine", *, name: str = "contrastive", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return contrastive(y_true, y_pred, self.margin, self.distance)


@keras.saving.register_keras_serializable("tfxfer")
class OnlineContrastiveLoss(_base.MarginLoss):
    """The contrastive loss over the hard pairs of the batch only (`online_contrastive`).

    Returns one sum for the whole batch: it grows with the batch size, and a sample weight for each row raises an error.

    Rows: two texts; `y_true` 1 (similar) or 0 (not).

    Choose it: for pairs with a yes/no label and batches of 32 or more, which contain hard pairs.

    See also: `ContrastiveLoss` counts every pair and suits small batches and noisy labels.

    Args:
        margin: float. Defaults to 0.5: dissimilar unit vectors contribute no loss below cosine 0.5.
        distance: string. `"cosine"` (default), `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: in the same cases as `ContrastiveLoss`, and if `sample_weight` is not a scalar.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.OnlineContrastiveLoss(margin=0.4))
    ```

    Reference: Reimers and Gurevych, 2019, Sentence-BERT (its code: OnlineContrastiveLoss),
    https://arxiv.org/abs/1908.10084.
    """

    labels = "binary"
    per_row = False

    def __init__(
        self, margin: float = 0.5, distance: str = "cosine", *, name: str = "online_contrastive", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(online_contrastive(y_true, y_pred, self.margin, self.distance))


@keras.saving.register_keras_serializable("tfxfer")
class CosineMSELoss(_base.CheckedLoss):
    """Squared error of each pair's cosine against its score (`cosine_mse`).

    Rows: two texts; `y_true` a score in -1..1, usually 0..1.

    Choose it: for graded pairs when the cosine itself must match the score, for example to apply a threshold to it.

    See also: `CoSENTLoss` and `AnglELoss` accept any range, rank pairs and usually reach a higher Spearman
    correlation. `data.pairs` scales scores of another range.

    Args:
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Example:

    ```python
    rows = tx.data.pairs(rows, ("sentence1", "sentence2"), target="score", target_range=(0, 5))
    model.compile("adamw", loss=tx.losses.CosineMSELoss())
    ```

    Reference: Reimers and Gurevych, 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084.
    """

    compares_rows = False

    def __init__(self, *, name: str = "cosine_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return cosine_mse(y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class CoSENTLoss(_base.CheckedLoss):
    """Ranks the pairs of a batch, so that a higher score means a higher cosine (`cosent`).

    Returns one number for the whole batch, so a sample weight for each row raises an error.

    Rows: two texts; `y_true` a score of any range.

    Choose it: for graded pairs, such as STS-B's scores from 0 to 5, as the first choice.

    See also: `CosineMSELoss` needs scores in the range of the cosine and fits them one by one; this loss ranks the
    batch and usually reaches a higher Spearman correlation. `AnglELoss` is the same on an angle in complex space.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.
        similarity: string. `"cosine"` (default), `"dot"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `sample_weight` is not a scalar.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.CoSENTLoss())
    ```

    Reference: Su, 2022, CoSENT, https://kexue.fm/archives/8847.
    """

    per_row = False

    def __init__(self, scale: float = 20.0, similarity: str = "cosine", *, name: str = "cosent", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(cosent(y_true, y_pred, self.scale, self.similarity))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "similarity": self.similarity}


@keras.saving.register_keras_serializable("tfxfer")
class AnglELoss(_base.CheckedLoss):
    """Ranks the pairs of a batch by their angle in complex space (`angle`).

    Returns one number for the whole batch, so a sample weight for each row raises an error.

    Rows: two texts; `y_true` a score of any range.

    Choose it: for graded pairs many of which are nearly alike, where the gradient of the cosine vanishes.

    See also: `CoSENTLoss` is the same on the cosine. The similarity here has no sign: texts with cosine -1 count as
    similar.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `sample_weight` is not a scalar.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.AnglELoss())
    ```

    Reference: Li and Li, 2023, AnglE-optimized Text Embeddings, https://arxiv.org/abs/2309.12871.
    """

    per_row = False

    def __init__(self, scale: float = 20.0, *, name: str = "angle", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(angle(y_true, y_pred, self.scale))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}
