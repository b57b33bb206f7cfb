"""Losses on labeled texts, which find positives and negatives in the batch by class id."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base


def _batch(y_true, y_pred, distance, function):
    """Returns the distances of all texts `(n, n)` and the masks of each text's positives and negatives."""
    _check.one_of("distance", distance, _ops.DISTANCES)
    texts, ids = _base.texts(y_pred, function), _base.classes(y_true, y_pred)
    return _ops.PAIRWISE_DISTANCES[distance](texts, texts), *_base.relations(ids)


def batch_all_triplet(y_true: Any, y_pred: Any, margin: float = 0.5, distance: str = "euclidean") -> Any:
    """The mean hinge loss over all triplets of the batch that violate the margin.

    `max(0, d(a, p) - d(a, n) + margin)` for every anchor, every other text of its class and every text of another
    class, averaged over the values above 0.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A scalar; 0 without a triplet. Memory grows with the cube of the number of texts: each tensor takes 64 MiB at
        256 texts.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "float32")
    >>> float(batch_all_triplet(np.array([0, 0, 1]), texts, distance="squared_euclidean"))
    0.5
    """
    d, positive, negative = _batch(y_true, y_pred, distance, "batch_all_triplet")
    losses = ops.relu(ops.expand_dims(d, 2) - ops.expand_dims(d, 1) + margin)
    valid = ops.logical_and(ops.expand_dims(positive, 2), ops.expand_dims(negative, 1))
    return _ops.masked_mean(losses, ops.logical_and(valid, losses > 1e-16))


def _hardest(y_true, y_pred, distance, function):
    """Returns each text's distance to its hardest positive and hardest negative `(n,)`, and which texts count.

    A text that is alone in its class is its own positive, as in the reference. A text counts only if the batch holds a
    text of another class, and no text counts in a batch without a valid triplet.
    """
    d, positive, negative = _batch(y_true, y_pred, distance, function)
    paired, opposed = ops.any(positive, axis=1), ops.any(negative, axis=1)
    farthest = ops.where(paired, _ops.masked_max(d, positive), ops.diagonal(d))
    counts = ops.logical_and(opposed, ops.any(ops.logical_and(paired, opposed)))
    return farthest, _ops.masked_min(d, negative), counts


def batch_hard_triplet(y_true: Any, y_pred: Any, margin: float = 0.5, distance: str = "euclidean") -> Any:
    """The hinge loss of each text's farthest positive against its closest negative.

    `max(0, max d(a, p) - min d(a, n) + margin)`. A text that is alone in its class is its own positive, so it still
    pushes its closest negative away. In a batch without a valid triplet all values are 0.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "float32")
    >>> batch_hard_triplet(np.array([0, 0, 1]), texts, distance="squared_euclidean").numpy().tolist()
    [0.5, 0.0, 0.0]
    """
    positive, negative, counts = _hardest(y_true, y_pred, distance, "batch_hard_triplet")
    losses = ops.relu(positive - negative + margin)
    return _base.mean_over_columns(ops.where(counts, losses, ops.zeros_like(losses)), y_pred)


def batch_hard_soft_margin_triplet(y_true: Any, y_pred: Any, scale: float = 10.0, distance: str = "euclidean") -> Any:
    """The batch-hard triplet loss with a smooth hinge instead of a margin.

    `log(1 + exp(scale * (max d(a, p) - min d(a, n))))`, over the same texts as `batch_hard_triplet`.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        scale: float > 0. The sharpness of the hinge; the paper's formula has 1.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "float32")
    >>> [round(float(x), 4) for x in batch_hard_soft_margin_triplet(np.array([0, 0, 1]), texts)]
    [0.6931, 0.0029, 0.0]
    """
    positive, negative, counts = _hardest(y_true, y_pred, distance, "batch_hard_soft_margin_triplet")
    losses = ops.softplus(scale * (positive - negative))
    return _base.mean_over_columns(ops.where(counts, losses, ops.zeros_like(losses)), y_pred)


def batch_semi_hard_triplet(y_true: Any, y_pred: Any, margin: float = 0.5, distance: str = "euclidean") -> Any:
    """The hinge loss of each positive pair against the closest negative that is farther away than the positive.

    `max(0, d(a, p) - d(a, n) + margin)`, where `n` is the closest negative with `d(a, n) > d(a, p)`, or the farthest
    negative if there is none; averaged over all positive pairs (each counts in both directions).

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float.
        distance: string. `"cosine"`, `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.

    Returns:
        A scalar; 0 without a triplet. Memory grows with the cube of the number of texts: each tensor takes 64 MiB at
        256 texts.

    Raises:
        ValueError: if `distance` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "float32")
    >>> float(batch_semi_hard_triplet(np.array([0, 0, 1]), texts, distance="squared_euclidean"))
    0.25
    """
    d, positive, negative = _batch(y_true, y_pred, distance, "batch_semi_hard_triplet")
    farther = ops.logical_and(ops.expand_dims(negative, 1), ops.expand_dims(d, 1) > ops.expand_dims(d, 2))
    closest = _ops.masked_min(ops.expand_dims(d, 1), farther)
    farthest = ops.expand_dims(_ops.masked_max(d, negative), 1)
    losses = ops.relu(d - ops.where(ops.any(farther, axis=2), closest, farthest) + margin)
    return _ops.masked_mean(losses, ops.logical_and(positive, ops.any(negative, axis=1, keepdims=True)))


def supervised_contrastive(y_true: Any, y_pred: Any, temperature: float = 0.07) -> Any:
    """Softmax cross-entropy over all other texts of the batch; the texts of the anchor's class are the targets.

    `-mean over positives p of log(exp(cos(a, p) / T) / sum over all others o of exp(cos(a, o) / T))`.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        temperature: float > 0.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns; 0 for a text that is alone in its class.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], "float32")
    >>> [round(float(x), 4) for x in supervised_contrastive(np.array([0, 0, 1]), texts)]  # log 2, twice
    [0.6931, 0.6931, 0.0]
    """
    texts, ids = _base.texts(y_pred, "supervised_contrastive"), _base.classes(y_true, y_pred)
    positive, negative = _base.relations(ids)
    others = ops.logical_or(positive, negative)
    logits = _ops.pairwise_cosine_similarity(texts, texts) / temperature
    losses = _ops.masked_logsumexp(logits, others) - _ops.masked_mean(logits, positive, axis=1)
    return _base.mean_over_columns(ops.where(ops.any(positive, axis=1), losses, ops.zeros_like(losses)), y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class BatchAllTripletLoss(_base.MarginLoss):
    """The mean over all triplets of the batch that violate the margin (`batch_all_triplet`).

    Returns one number for the whole batch, so a sample weight for each row raises an error. Memory grows with the cube
    of the number of texts: each tensor takes 64 MiB at 256 texts.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and two texts of
    one of them.

    Choose it: for labeled texts with noisy labels or outliers among the hardest examples: it averages over all
    triplets.

    See also: `BatchHardTripletLoss` (the hardest only, less memory), `BatchSemiHardTripletLoss` (between the two),
    `SupervisedContrastiveLoss` (a softmax instead of the margin).

    Args:
        margin: float. Defaults to 0.5; sentence-transformers' 5 exceeds any Euclidean distance between unit vectors.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.BatchAllTripletLoss())
    ```

    Reference: Hermans, Beyer and Leibe, 2017, In Defense of the Triplet Loss, https://arxiv.org/abs/1703.07737.
    """

    labels = "classes"
    per_row = False

    def __init__(
        self, margin: float = 0.5, distance: str = "euclidean", *, name: str = "batch_all_triplet", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(batch_all_triplet(y_true, y_pred, self.margin, self.distance))


@keras.saving.register_keras_serializable("tfxfer")
class BatchHardTripletLoss(_base.MarginLoss):
    """The hinge loss of each text's farthest positive against its closest negative (`batch_hard_triplet`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and several texts
    of each.

    Choose it: for texts with clean labels, in batches that hold several texts of each class.

    See also: `BatchHardSoftMarginTripletLoss` needs no margin; `BatchSemiHardTripletLoss` and `BatchAllTripletLoss`
    are better if the hardest examples are mislabeled, or if this loss collapses all texts into one point early in
    training.

    Args:
        margin: float. Defaults to 0.5; sentence-transformers' 5 exceeds any Euclidean distance between unit vectors.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.BatchHardTripletLoss())
    ```

    Reference: Hermans, Beyer and Leibe, 2017, In Defense of the Triplet Loss, https://arxiv.org/abs/1703.07737.
    """

    labels = "classes"

    def __init__(
        self, margin: float = 0.5, distance: str = "euclidean", *, name: str = "batch_hard_triplet", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return batch_hard_triplet(y_true, y_pred, self.margin, self.distance)


@keras.saving.register_keras_serializable("tfxfer")
class BatchSemiHardTripletLoss(_base.MarginLoss):
    """The hinge loss of each positive pair against the closest negative beyond it (`batch_semi_hard_triplet`).

    Returns one number for the whole batch, so a sample weight for each row raises an error. Memory grows with the cube
    of the number of texts: each tensor takes 64 MiB at 256 texts.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and two texts of
    one of them.

    Choose it: for labeled texts when `BatchHardTripletLoss` collapses or chases outliers.

    See also: `BatchHardTripletLoss` (harder negatives, less memory), `BatchAllTripletLoss` (all of them). This loss
    equals TensorFlow Addons' `TripletSemiHardLoss`.

    Args:
        margin: float. Defaults to 0.5; sentence-transformers' 5 exceeds any Euclidean distance between unit vectors.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.BatchSemiHardTripletLoss())
    ```

    Reference: Schroff, Kalenichenko and Philbin, 2015, FaceNet, https://arxiv.org/abs/1503.03832.
    """

    labels = "classes"
    per_row = False

    def __init__(
        self, margin: float = 0.5, distance: str = "euclidean", *, name: str = "batch_semi_hard_triplet", **kwargs: Any
    ) -> None:
        super().__init__(margin, distance, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(batch_semi_hard_triplet(y_true, y_pred, self.margin, self.distance))


@keras.saving.register_keras_serializable("tfxfer")
class BatchHardSoftMarginTripletLoss(_base.CheckedLoss):
    """The batch-hard triplet loss with a smooth hinge instead of a margin (`batch_hard_soft_margin_triplet`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and several texts
    of each.

    Choose it: like `BatchHardTripletLoss`, when no good margin is known: it keeps pulling classes together.

    See also: `BatchHardTripletLoss` leaves texts that satisfy its margin alone.

    Args:
        scale: float > 0. The sharpness of the hinge. Defaults to 10; with 1, as in the paper and in
            sentence-transformers, the loss is almost linear on unit vectors, whose Euclidean distances are at most 2.
        distance: string. `"euclidean"` (default), `"cosine"`, `"squared_euclidean"`, `"manhattan"` or `"dot"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.BatchHardSoftMarginTripletLoss())
    ```

    Reference: Hermans, Beyer and Leibe, 2017, In Defense of the Triplet Loss, https://arxiv.org/abs/1703.07737.
    """

    labels = "classes"

    def __init__(
        self,
        scale: float = 10.0,
        distance: str = "euclidean",
        *,
        name: str = "batch_hard_soft_margin_triplet",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.distance = _check.one_of("distance", distance, _ops.DISTANCES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return batch_hard_soft_margin_triplet(y_true, y_pred, self.scale, self.distance)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "distance": self.distance}


@keras.saving.register_keras_serializable("tfxfer")
class SupervisedContrastiveLoss(_base.CheckedLoss):
    """Softmax cross-entropy over the batch with the anchor's class as targets (`supervised_contrastive`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs several texts of each class.

    Choose it: for labeled texts with few classes and batches of 64 or more, e.g. before a linear classifier.

    See also: the triplet losses on class ids (`BatchHardTripletLoss` and others) look at one negative at a time;
    `MultipleNegativesRankingLoss` suits rows that bring their own positive and have no classes.

    Args:
        temperature: float > 0. Defaults to 0.07.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.SupervisedContrastiveLoss())
    ```

    Reference: Khosla et al., 2020, Supervised Contrastive Learning, https://arxiv.org/abs/2004.11362.
    """

    labels = "classes"

    def __init__(self, temperature: float = 0.07, *, name: str = "supervised_contrastive", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = _check.number("temperature", temperature, above=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return supervised_contrastive(y_true, y_pred, self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
