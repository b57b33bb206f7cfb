"""Losses on rows of an anchor, a positive and one or more negatives: three forms of the triplet loss."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base


def _gaps(metrics, argument, name, y_pred, function):
    """Returns the metric of (anchor, positive) `(batch, 1)` and of (anchor, each negative) `(batch, negatives)`."""
    _check.one_of(argument, name, metrics)
    anchors, positives, negatives = _base.triplet(y_pred, function)
    return metrics[name](anchors, positives), metrics[name](anchors, negatives)


def triplet(y_pred: Any, margin: float = 0.5, distance: str = "euclidean") -> Any:
    """The hinge form: the negative should be farther from the anchor than the positive, by a margin.

    `max(0, d(a, p) - d(a, n) + margin)`, averaged over the negatives of a row.

    Args:
        y_pred: float tensor `(batch, columns >= 3, dim)`: anchor, positive, negatives.
        margin: float.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `distance` is unknown, or `y_pred` has fewer than 3 columns.

    >>> rows = np.array([[[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]]], "float32")
    >>> [round(float(x), 4) for x in triplet(rows, margin=1.0)]
    [0.1056]
    """
    positive, negative = _gaps(_ops.DISTANCES, "distance", distance, y_pred, "triplet")
    return ops.mean(ops.relu(positive - negative + margin), axis=1)


def triplet_cross_entropy(y_pred: Any, scale: float = 10.0, distance: str = "euclidean") -> Any:
    """The cross-entropy form: a softmax over negated distances with the positive as target.

    `log(1 + sum over negatives of exp(scale * (d(a, p) - d(a, n))))`: with one negative, the `softplus` of the scaled
    difference.

    Args:
        y_pred: float tensor `(batch, columns >= 3, dim)`: anchor, positive, negatives.
        scale: float > 0. The inverse temperature; the paper's formula has 1.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `distance` is unknown, or `y_pred` has fewer than 3 columns.

    >>> rows = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]], "float32")
    >>> [round(float(x), 4) for x in triplet_cross_entropy(rows)]  # log 2
    [0.6931]
    """
    positive, negative = _gaps(_ops.DISTANCES, "distance", distance, y_pred, "triplet_cross_entropy")
    differences = scale * (positive - negative)
    return ops.logsumexp(ops.concatenate([ops.zeros_like(positive), differences], axis=1), axis=1)


def triplet_margin_ranking(y_pred: Any, margin: float = 0.2, similarity: str = "cosine") -> Any:
    """The margin ranking form: the positive's similarity should exceed the negative's by a margin.

    `max(0, margin - (s(a, p) - s(a, n)))`, averaged over the negatives of a row.

    Args:
        y_pred: float tensor `(batch, columns >= 3, dim)`: anchor, positive, negatives.
        margin: float.
        similarity: string. `"cosine"`, `"dot"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `similarity` is unknown, or `y_pred` has fewer than 3 columns.

    >>> rows = np.array([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]], "float32")
    >>> [round(float(x), 4) for x in triplet_margin_ranking(rows, margin=1.0)]
    [0.4]
    """
    positive, negative = _gaps(_ops.SIMILARITIES, "similarity", similarity, y_pred, "triplet_margin_ranking")
    return ops.mean(ops.relu(margin - (positive - negative)), axis=1)


@keras.saving.register_keras_serializable("tfxfer")
class TripletLoss(_base.MarginLoss):
    """The negative should be farther from the anchor than the positive, by a margin (`triplet`).

    Rows: three texts or more: anchor, positive, negatives; `y_true` is ignored.

    Choose it: for ready-made triplets, when triplets that already satisfy the margin should contribute no gradient.

    See also: `TripletCrossEntropyLoss` has no margin, so every triplet keeps contributing; `TripletMarginRankingLoss`
    is the same on similarities. `MultipleNegativesRankingLoss` also uses the other rows of the batch as negatives, and
    usually performs better. `BatchHardTripletLoss` and its neighbors take texts with class ids instead of triplets.

    Args:
        margin: float. Defaults to 0.5. Euclidean distances of unit vectors are at most 2, so sentence-transformers' 5
            is never reached.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `margin` is not a number, `distance` is unknown, or `y_pred` has fewer than 3 columns.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.TripletLoss())
    ```

    Reference: Schroff, Kalenichenko and Philbin, 2015, FaceNet, https://arxiv.org/abs/1503.03832.
    """

    labels = None
    compares_rows = False

    def __init__(
        self, margin: float = 0.5, distance: str = "euclidean", *, name: str = "triplet", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return triplet(y_pred, self.margin, self.distance)


@keras.saving.register_keras_serializable("tfxfer")
class TripletCrossEntropyLoss(_base.CheckedLoss):
    """A softmax over the negated distances of a row, with the positive as target (`triplet_cross_entropy`).

    Rows: three texts or more: anchor, positive, negatives; `y_true` is ignored.

    Choose it: for ready-made triplets, when no good margin is known; every triplet keeps contributing a little.

    See also: `TripletLoss` stops at its margin; `MultipleNegativesRankingLoss` adds the other rows of the batch to
    the same softmax.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 10; with the paper's 1 the loss is almost linear on unit
            vectors, whose Euclidean distances are at most 2.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `scale` is not above 0, `distance` is unknown, or `y_pred` has fewer than 3 columns.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.TripletCrossEntropyLoss())
    ```

    Reference: Hoffer and Ailon, 2015, Deep Metric Learning Using Triplet Network, https://arxiv.org/abs/1412.6622.
    """

    labels = None
    compares_rows = False

    def __init__(
        self, scale: float = 10.0, distance: str = "euclidean", *, name: str = "triplet_cross_entropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.distance = _check.one_of("distance", distance, _ops.DISTANCES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return triplet_cross_entropy(y_pred, self.scale, self.distance)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "distance": self.distance}


@keras.saving.register_keras_serializable("tfxfer")
class TripletMarginRankingLoss(_base.CheckedLoss):
    """The positive's similarity to the anchor should exceed the negative's by a margin (`triplet_margin_ranking`).

    Rows: three texts or more: anchor, positive, negatives; `y_true` is ignored.

    Choose it: for ready-made triplets when texts will be compared by cosine or dot product.

    See also: with the cosine this equals `TripletLoss(margin, distance="cosine")`; `MarginMSELoss` takes each row's
    margin from a teacher.

    Args:
        margin: float. Defaults to 0.2.
        similarity: string. `"cosine"` (default), `"dot"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `margin` is not a number, `similarity` is unknown, or `y_pred` has fewer than 3 columns.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.TripletMarginRankingLoss())
    ```

    Reference: Wang et al., 2014, Learning Fine-grained Image Similarity with Deep Ranking,
    https://arxiv.org/abs/1404.4661.
    """

    labels = None
    compares_rows = False

    def __init__(
        self, margin: float = 0.2, similarity: str = "cosine", *, name: str = "triplet_margin_ranking", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.margin = _check.number("margin", margin)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return triplet_margin_ranking(y_pred, self.margin, self.similarity)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "similarity": self.similarity}
