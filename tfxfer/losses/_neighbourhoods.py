"""Losses on labeled texts based on neighborhoods: soft nearest neighbors, PN, lifted structure."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

POSITIVES = ("hard", "easy")
NEGATIVES = ("hard", "semi_hard", "easy")


def _batch(y_true, y_pred, distance, function):
    """Returns the distances of all texts `(n, n)` and the masks of each text's positives and negatives."""
    _check.one_of("distance", distance, _ops.DISTANCES)
    texts = _base.texts(y_pred, function)
    return _ops.PAIRWISE_DISTANCES[distance](texts, texts), *_base.relations(_base.classes(y_true, y_pred))


def soft_nearest_neighbours(
    y_true: Any,
    y_pred: Any,
    temperature: float = 1.0,
    distance: str = "squared_euclidean",
    *,
    epsilon: float = 0.0,
) -> Any:
    """The negative log-probability of drawing a neighbor of the anchor's class, where nearer texts are likelier.

    `-log(epsilon + sum over positives of exp(-d / T) / sum over all other texts of exp(-d / T))`, where `d` is the
    distance to the anchor.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        temperature: float > 0, `T`.
        distance: string. `"squared_euclidean"`, the paper's, `"euclidean"`, `"cosine"`, `"manhattan"` or `"dot"`.
        epsilon: float >= 0. Bounds the loss of a text by `-log(epsilon)`.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns; 0 for a text that is alone in its class.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], "float32")
    >>> [round(float(x), 4) for x in soft_nearest_neighbours(np.array([0, 0, 1]), texts)]  # log 2, twice
    [0.6931, 0.6931, 0.0]
    """
    d, positive, negative = _batch(y_true, y_pred, distance, "soft_nearest_neighbours")
    return _base.mean_over_columns(_soft_nearest(d, positive, negative, temperature, epsilon), y_pred)


def _soft_nearest(d, positive, negative, temperature, epsilon):
    nearness, either = -d / temperature, ops.logical_or(positive, negative)
    losses = _ops.masked_logsumexp(nearness, either) - _ops.masked_logsumexp(nearness, positive)
    if epsilon:
        losses = -ops.log(epsilon + ops.exp(-losses))
    return ops.where(ops.any(positive, axis=1), losses, ops.zeros_like(losses))


def pn(
    y_true: Any,
    y_pred: Any,
    margin: float | None = 1.0,
    distance: str = "cosine",
    *,
    positive: str = "hard",
    negative: str = "semi_hard",
) -> Any:
    """A triplet loss that also keeps the positive away from the negative.

    `max(0, d(a, p) - min(d(a, n), d(p, n)) + margin)`; without a margin, `log(1 + exp(d(a, p) - min(...)))`.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: optional float. `None` gives a smooth hinge.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive: string. The anchor's farthest positive (`"hard"`) or its nearest (`"easy"`).
        negative: string. The anchor's nearest negative (`"hard"`), its farthest (`"easy"`), or the nearest one beyond
            the farthest positive, and the farthest negative if there is none (`"semi_hard"`).

    Returns:
        A scalar: the mean over the texts that have a positive and a negative; 0 if there are none.

    Raises:
        ValueError: if `distance`, `positive` or `negative` is unknown, or the shape of `y_true` or `y_pred` does not
            fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
    >>> float(pn(np.array([0, 0, 1]), texts, margin=1.5))
    0.5
    """
    _check.one_of("positive", positive, POSITIVES)
    _check.one_of("negative", negative, NEGATIVES)
    d, alike, unlike = _batch(y_true, y_pred, distance, "pn")
    chosen = _place(d, alike, farthest=positive == "hard")
    if negative == "semi_hard":
        beyond = ops.logical_and(unlike, d > ops.expand_dims(_ops.masked_max(d, alike), 1))
        nearest = _place(d, beyond, farthest=False)
        opposed = ops.where(ops.any(beyond, axis=1), nearest, _place(d, unlike, farthest=True))
    else:
        opposed = _place(d, unlike, farthest=negative == "easy")
    pulled = _picked(d, chosen)
    # The distance from the positive to the anchor's negative.
    pushed = ops.minimum(_picked(d, opposed), _picked(ops.take(d, chosen, axis=0), opposed))
    losses = pulled - pushed
    losses = ops.softplus(losses) if margin is None else ops.relu(losses + margin)
    return _ops.masked_mean(losses, ops.logical_and(ops.any(alike, axis=1), ops.any(unlike, axis=1)))


def _place(d, keep, *, farthest):
    """Returns the index of the farthest or nearest entry of each row within `keep`; ties go to the first."""
    d = ops.stop_gradient(d if farthest else -d)
    return ops.argmax(ops.where(keep, d, ops.min(d, axis=1, keepdims=True) - 1.0), axis=1)


def _picked(d, places):
    return ops.squeeze(ops.take_along_axis(d, ops.expand_dims(places, 1), axis=1), axis=1)


def lifted_structure(
    y_true: Any,
    y_pred: Any,
    margin: float = 1.0,
    distance: str = "euclidean",
    *,
    positive_margin: float = 0.0,
) -> Any:
    """The squared hinge of each positive pair against a smooth maximum over all negatives of both texts.

    `max(0, J)^2 / 2` with `J = logsumexp over the negatives of i and of j of (margin - d) + d(i, j) - positive_margin`,
    averaged over all positive pairs.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float. The distance below which a negative contributes most.
        distance: string. `"euclidean"`, `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive_margin: float. The distance allowed within a positive pair.

    Returns:
        A scalar; 0 if the batch has no positive pair or no negative.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], "float32")
    >>> round(float(lifted_structure(np.array([0, 0, 1]), texts)), 4)  # log(2)^2 / 2
    0.2402
    """
    d, positive, negative = _batch(y_true, y_pred, distance, "lifted_structure")
    pushed = _ops.masked_logsumexp(margin - d, negative)
    both = ops.logaddexp(ops.expand_dims(pushed, 1), ops.expand_dims(pushed, 0))
    losses = ops.square(ops.relu(both + d - positive_margin)) / 2.0
    opposed = ops.any(negative, axis=1, keepdims=True)
    return _ops.masked_mean(ops.where(opposed, losses, ops.zeros_like(losses)), positive)


def generalized_lifted_structure(
    y_true: Any,
    y_pred: Any,
    margin: float = 1.0,
    distance: str = "euclidean",
    *,
    positive_margin: float = 0.0,
) -> Any:
    """The hinge of each text's positives against its negatives, with smooth maxima over both.

    `max(0, logsumexp_P(d - positive_margin) + logsumexp_N(margin - d))`; an empty sum counts as 0.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float. The distance below which a negative contributes most.
        distance: string. `"euclidean"`, `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive_margin: float. The distance allowed within a positive pair.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], "float32")
    >>> [round(float(x), 4) for x in generalized_lifted_structure(np.array([0, 0, 1]), texts, margin=1.5)]
    [0.5, 0.5, 1.1931]
    """
    d, positive, negative = _batch(y_true, y_pred, distance, "generalized_lifted_structure")
    return _base.mean_over_columns(_generalized(d, positive, negative, margin, positive_margin), y_pred)


def _generalized(d, positive, negative, margin, positive_margin):
    pulled = _ops.masked_logsumexp(d - positive_margin, positive)
    return ops.relu(pulled + _ops.masked_logsumexp(margin - d, negative))


@keras.saving.register_keras_serializable("tfxfer")
class SoftNearestNeighboursLoss(_base.CheckedLoss):
    """Negative log-probability of drawing a neighbor of the anchor's class (`soft_nearest_neighbours`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs several texts of each class.

    Choose it: for labeled texts whose classes form several clusters, before a nearest-neighbor classifier: a text need
    only be near some texts of its class.

    See also: `SupervisedContrastiveLoss` pulls a text toward all texts of its class. This loss equals TensorFlow
    Similarity's `SoftNearestNeighborLoss`.

    Args:
        temperature: float > 0. Defaults to 1, for vectors of any norm; about 0.1 suits unit vectors.
        distance: string. `"squared_euclidean"` (default), `"euclidean"`, `"cosine"`, `"manhattan"` or `"dot"`.
        epsilon: float >= 0. Bounds the loss of a text by `-log(epsilon)`. Defaults to 0; TensorFlow Similarity uses
            1e-9.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.SoftNearestNeighboursLoss(temperature=0.1))
    ```

    Reference: Frosst, Papernot and Hinton, 2019, Analyzing and Improving Representations with the Soft Nearest Neighbor
    Loss, https://arxiv.org/abs/1902.01889.
    """

    labels = "classes"

    def __init__(
        self,
        temperature: float = 1.0,
        distance: str = "squared_euclidean",
        *,
        epsilon: float = 0.0,
        name: str = "soft_nearest_neighbours",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = _check.number("temperature", temperature, above=0.0)
        self.distance = _check.one_of("distance", distance, _ops.DISTANCES)
        self.epsilon = _check.number("epsilon", epsilon, minimum=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return soft_nearest_neighbours(y_true, y_pred, self.temperature, self.distance, epsilon=self.epsilon)

    def between(self, texts: Any, others: Any, positive: Any, negative: Any) -> Any:
        """Returns the loss of each of `texts` against `others` under the masks `positive` and `negative`.

        See `CrossBatchMemoryLoss`, which calls this method.
        """
        d = _ops.PAIRWISE_DISTANCES[self.distance](texts, others)
        return _soft_nearest(d, positive, negative, self.temperature, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "distance": self.distance, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfxfer")
class PNLoss(_base.CheckedLoss):
    """An in-batch triplet loss that also keeps the positive away from the negative (`pn`).

    Returns one number for the whole batch, so a sample weight for each row raises an error.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and two texts of
    one of them.

    Choose it: like `BatchHardTripletLoss`, when classes overlap and positives end up nearer to other classes than their
    anchors.

    See also: `BatchHardTripletLoss` and `BatchSemiHardTripletLoss` use only the anchor's distances. This loss equals
    TensorFlow Similarity's `PNLoss`.

    Args:
        margin: optional float. Defaults to 1; `None` gives a smooth hinge.
        distance: string. `"cosine"` (default), `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive: string. `"hard"` (default) or `"easy"`.
        negative: string. `"semi_hard"` (default), `"hard"` or `"easy"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.PNLoss(margin=0.5))
    ```

    Reference: Szubert et al., 2019, Structure-preserving visualisation of high dimensional single-cell datasets (ivis),
    https://doi.org/10.1038/s41598-019-45301-0.
    """

    labels = "classes"
    per_row = False

    def __init__(
        self,
        margin: float | None = 1.0,
        distance: str = "cosine",
        *,
        positive: str = "hard",
        negative: str = "semi_hard",
        name: str = "pn",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.margin = None if margin is None else _check.number("margin", margin)
        self.distance = _check.one_of("distance", distance, _ops.DISTANCES)
        self.positive = _check.one_of("positive", positive, POSITIVES)
        self.negative = _check.one_of("negative", negative, NEGATIVES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        chosen = {"positive": self.positive, "negative": self.negative}
        return self.whole(pn(y_true, y_pred, self.margin, self.distance, **chosen))

    def get_config(self) -> dict[str, Any]:
        own = {"margin": self.margin, "distance": self.distance, "positive": self.positive, "negative": self.negative}
        return {**super().get_config(), **own}


class _LiftedLoss(_base.MarginLoss):
    """A loss with one margin for negatives and one for positives."""

    labels = "classes"

    def __init__(self, margin: float, distance: str, *, positive_margin: float, **kwargs: Any) -> None:
        super().__init__(margin, distance, **kwargs)
        self.positive_margin = _check.number("positive_margin", positive_margin)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "positive_margin": self.positive_margin}


@keras.saving.register_keras_serializable("tfxfer")
class LiftedStructureLoss(_LiftedLoss):
    """The squared hinge of each positive pair against all negatives of both texts (`lifted_structure`).

    Returns one number for the whole batch, so a sample weight for each row raises an error.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and two texts of
    one of them.

    Choose it: for labeled texts on which `BatchHardTripletLoss` jumps between a few hard pairs: here all negatives
    count, smoothly.

    See also: `GeneralizedLiftedStructureLoss` has one term per text instead of one per pair. This loss equals
    TensorFlow Addons' `LiftedStructLoss` on vectors of any norm; PyTorch Metric Learning normalizes vectors first.

    Args:
        margin: float. The distance below which a negative contributes most. Defaults to 1.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive_margin: float. The distance allowed within a positive pair. Defaults to 0.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.LiftedStructureLoss())
    ```

    Reference: Song et al., 2016, Deep Metric Learning via Lifted Structured Feature Embedding,
    https://arxiv.org/abs/1511.06452.
    """

    per_row = False

    def __init__(
        self,
        margin: float = 1.0,
        distance: str = "euclidean",
        *,
        positive_margin: float = 0.0,
        name: str = "lifted_structure",
        **kwargs: Any,
    ) -> None:
        super().__init__(margin, distance, positive_margin=positive_margin, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        options = {"positive_margin": self.positive_margin}
        return self.whole(lifted_structure(y_true, y_pred, self.margin, self.distance, **options))


@keras.saving.register_keras_serializable("tfxfer")
class GeneralizedLiftedStructureLoss(_LiftedLoss):
    """The hinge between smooth maxima over positives and over negatives (`generalized_lifted_structure`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and several texts
    of each.

    Choose it: like `BatchHardTripletLoss`, with smooth maxima instead of the single hardest texts.

    See also: `LiftedStructureLoss` has one term per pair; `BatchHardSoftMarginTripletLoss` has hard maxima and a
    smooth hinge.

    Args:
        margin: float. The distance below which a negative contributes most. Defaults to 1.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        positive_margin: float. The distance allowed within a positive pair. Defaults to 0.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.GeneralizedLiftedStructureLoss())
    ```

    Reference: Hermans, Beyer and Leibe, 2017, In Defense of the Triplet Loss, section 3.2,
    https://arxiv.org/abs/1703.07737.
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance: str = "euclidean",
        *,
        positive_margin: float = 0.0,
        name: str = "generalized_lifted_structure",
        **kwargs: Any,
    ) -> None:
        super().__init__(margin, distance, positive_margin=positive_margin, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        options = {"positive_margin": self.positive_margin}
        return generalized_lifted_structure(y_true, y_pred, self.margin, self.distance, **options)

    def between(self, texts: Any, others: Any, positive: Any, negative: Any) -> Any:
        """Returns the loss of each of `texts` against `others` under the masks `positive` and `negative`.

        See `CrossBatchMemoryLoss`, which calls this method.
        """
        d = _ops.PAIRWISE_DISTANCES[self.distance](texts, others)
        return _generalized(d, positive, negative, self.margin, self.positive_margin)
