"""Losses on labeled texts that weight every similarity of the batch: circle, multi-similarity and N-pairs."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

FORMS = ("joint", "separate")


def _texts(y_true, y_pred, function):
    """Returns the texts of a batch and the masks of each text's positives and negatives."""
    return _base.texts(y_pred, function), *_base.relations(_base.classes(y_true, y_pred))


def circle(y_true: Any, y_pred: Any, margin: float = 0.4, scale: float = 80.0, *, form: str = "joint") -> Any:
    """Pulls cosines within a class above `1 - margin` and pushes others below `margin`, the worst ones hardest.

    `s` are the cosines of an anchor with its positives P and negatives N. The weights `[1 + m - s]+` and `[s + m]+`
    grow with the distance of a cosine from its optimum:

        joint:     softplus(lse_P(-scale [1 + m - s]+ (s - 1 + m)) + lse_N(scale [s + m]+ (s - m)))
        separate:  softplus(lse_P(...)) + softplus(lse_N(...))

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        margin: float, `m`.
        scale: float > 0.
        form: string. `"joint"`, as in the paper: weights without gradient, averaged over the anchors with a loss above
            0. `"separate"`, as in TensorFlow Similarity: weights with gradient, averaged over all texts.

    Returns:
        A scalar. A text without a positive or without a negative counts as 0.

    Raises:
        ValueError: if `form` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
    >>> round(float(circle(np.array([0, 0, 1]), texts, margin=0.5, scale=1.0)), 4)  # softplus(-0.25 - 0.25)
    0.4741
    """
    texts, positive, negative = _texts(y_true, y_pred, "circle")
    return _circle(_ops.pairwise_cosine_similarity(texts, texts), positive, negative, margin, scale, form)


def _circle(s, positive, negative, margin, scale, form):
    pull, push = ops.relu(1.0 + margin - s), ops.relu(s + margin)
    if _check.one_of("form", form, FORMS) == "joint":
        pull, push = ops.stop_gradient(pull), ops.stop_gradient(push)
    pulled = _ops.masked_logsumexp(-scale * pull * (s - 1.0 + margin), positive)
    pushed = _ops.masked_logsumexp(scale * push * (s - margin), negative)
    counts = ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1))
    joint = form == "joint"
    losses = ops.softplus(pulled + pushed) if joint else ops.softplus(pulled) + ops.softplus(pushed)
    losses = ops.where(counts, losses, ops.zeros_like(losses))
    return _ops.masked_mean(losses, losses > 0.0) if joint else ops.mean(losses)


def multi_similarity(
    y_true: Any,
    y_pred: Any,
    alpha: float = 2.0,
    beta: float = 50.0,
    *,
    base: float = 0.5,
    mining_margin: float | None = 0.1,
) -> Any:
    """Weights each cosine by its own value and by the anchor's other cosines, after dropping easy pairs.

    `log(1 + sum_P exp(-alpha (s - base))) / alpha + log(1 + sum_N exp(beta (s - base))) / beta`. The miner keeps a
    positive if `s - mining_margin < max_N s`, and a negative if `s + mining_margin > min_P s`.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        alpha: float > 0. The sharpness of the weights of positives.
        beta: float > 0. The sharpness of the weights of negatives.
        base: float. The cosine that separates positives from negatives.
        mining_margin: optional float. `None` keeps all pairs.

    Returns:
        A tensor `(batch,)`, averaged over a row's columns. With the miner, a text without a positive or without a
        negative has a loss of 0.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], "float32")
    >>> [round(float(x), 4) for x in multi_similarity(np.array([0, 0, 1]), texts, beta=2.0, mining_margin=None)]
    [0.4557, 0.8178, 0.58]
    """
    texts, positive, negative = _texts(y_true, y_pred, "multi_similarity")
    s = _ops.pairwise_cosine_similarity(texts, texts)
    return _base.mean_over_columns(
        _multi_similarity(s, positive, negative, alpha, beta, base=base, mining_margin=mining_margin), y_pred
    )


def _multi_similarity(s, positive, negative, alpha, beta, *, base, mining_margin):
    if mining_margin is not None:
        opposed, paired = (ops.any(mask, axis=1, keepdims=True) for mask in (negative, positive))
        hardest = ops.expand_dims(_ops.masked_max(s, negative), 1), ops.expand_dims(_ops.masked_min(s, positive), 1)
        positive = ops.logical_and(positive, ops.logical_and(opposed, s - mining_margin < hardest[0]))
        negative = ops.logical_and(negative, ops.logical_and(paired, s + mining_margin > hardest[1]))
    losses = 0.0
    for mask, slope in ((positive, -alpha), (negative, beta)):
        part = ops.softplus(_ops.masked_logsumexp(slope * (s - base), mask)) / abs(slope)
        losses += ops.where(ops.any(mask, axis=1), part, ops.zeros_like(part))
    return losses


def n_pairs(y_true: Any, y_pred: Any, similarity: str = "dot") -> Any:
    """One pair per class: each anchor should score its own positive above those of all other classes.

    `logsumexp_j a_i.p_j - a_i.p_i`, over the classes with at least two texts in the batch: the first is the anchor, the
    second the positive. Further texts of a class are ignored.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, dim)`, or `(batch, columns, dim)` where all texts of a row belong to its class.
        similarity: string. `"dot"`, as in the paper, `"cosine"`, or the name of a distance, which is negated.

    Returns:
        A scalar, the mean over the classes; 0 if there is no pair.

    Raises:
        ValueError: if `similarity` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], "float32")
    >>> round(float(n_pairs(np.array([0, 0, 1, 1]), texts)), 4)  # both positives are alike: log 2
    0.6931
    """
    _check.one_of("similarity", similarity, _ops.SIMILARITIES)
    texts, ids = _base.texts(y_pred, "n_pairs"), _base.classes(y_true, y_pred)
    same = ops.expand_dims(ids, 1) == ops.expand_dims(ids, 0)
    position = ops.arange(ops.shape(same)[0])
    earlier = ops.logical_and(same, ops.expand_dims(position, 0) < ops.expand_dims(position, 1))
    before = ops.sum(ops.cast(earlier, "int32"), axis=1)
    # The mask of the second text of each class; that of the row's own class is the positive.
    second = before == 1
    candidates = ops.logical_and(ops.ones_like(same), ops.expand_dims(second, 0))
    own = ops.logical_and(same, candidates)
    anchors = ops.logical_and(before == 0, ops.any(own, axis=1))
    scores = _ops.PAIRWISE_SIMILARITIES[similarity](texts, texts)
    return _ops.masked_mean(_ops.masked_logsumexp(scores, candidates) - _ops.masked_max(scores, own), anchors)


def _cross_entropy(y_pred, shares, similarity, name):
    """Returns the cross-entropy of each anchor's scores for all positives `(batch, batch)` with the target shares."""
    _check.one_of("similarity", similarity, _ops.SIMILARITIES)
    anchors, positives = _base.pair(y_pred, name)
    scores = _ops.PAIRWISE_SIMILARITIES[similarity](anchors, positives)
    total = ops.sum(shares, axis=1, keepdims=True)
    shares = shares / ops.where(total > 0, total, ops.ones_like(total))
    return ops.sum(shares * -ops.log_softmax(scores, axis=1), axis=1)


def n_pairs_rows(y_true: Any, y_pred: Any, similarity: str = "dot") -> Any:
    """Softmax cross-entropy over all positives; those of the anchor's class share the target equally.

    Cross-entropy of `softmax_j(a_i.p_j)` with a target of `1 / count` for each row j of the anchor's class.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)`. The class of each row.
        y_pred: float tensor `(batch, 2, dim)`: anchor and positive.
        similarity: string. `"dot"`, `"cosine"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `similarity` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], "float32")
    >>> [round(float(x), 4) for x in n_pairs_rows(np.array([0, 1]), pairs)]
    [0.6931, 0.6931]
    """
    ids = _base.one_a_row(y_true, y_pred, "class ids")
    same = ops.cast(ops.expand_dims(ids, 1) == ops.expand_dims(ids, 0), y_pred.dtype)
    return _cross_entropy(y_pred, same, similarity, "n_pairs_rows")


def n_pairs_multilabel(y_true: Any, y_pred: Any, similarity: str = "dot") -> Any:
    """Softmax cross-entropy over all positives; targets are proportional to the number of shared labels.

    Args:
        y_true: int or bool tensor `(batch, labels)`: 1 for each label that a row has, else 0. Other values make the row
            NaN.
        y_pred: float tensor `(batch, 2, dim)`: anchor and positive.
        similarity: string. `"dot"`, `"cosine"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`; 0 for a row without labels.

    Raises:
        ValueError: if `similarity` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], "float32")
    >>> [round(float(x), 4) for x in n_pairs_multilabel(np.array([[1, 1], [0, 0]]), pairs)]
    [0.6931, 0.0]
    """
    shape = tuple(y_true.shape)
    if len(shape) != 2 or not (shape[0] is None or y_pred.shape[0] is None or shape[0] == y_pred.shape[0]):
        expected = "labels 0 or 1, shape (batch, labels), one row for each row of y_pred"
        raise _check.invalid("y_true", expected, shape, "For one class per row use NPairsRowsLoss.")
    labels = ops.cast(y_true, y_pred.dtype)
    labels = ops.where(ops.logical_or(labels == 0, labels == 1), labels, ops.full_like(labels, float("nan")))
    return _cross_entropy(y_pred, ops.matmul(labels, ops.transpose(labels)), similarity, "n_pairs_multilabel")


@keras.saving.register_keras_serializable("tfxfer")
class CircleLoss(_base.CheckedLoss):
    """Pulls and pushes each cosine by its distance from its optimum (`circle`).

    Returns one number for the whole batch, so a sample weight for each row raises an error.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and two texts of
    one of them.

    Choose it: for labeled texts in batches of many classes, when a triplet loss plateaus: nearly correct pairs get
    little weight, and wrong pairs get much.

    See also: `MultiSimilarityLoss` weights a cosine also by the anchor's other cosines; `SupervisedContrastiveLoss`
    has a temperature instead of a margin.

    Args:
        margin: float. Cosines within a class should exceed `1 - margin`, and all others should stay below `margin`.
            Defaults to 0.4.
        scale: float > 0. Defaults to 80; for faces, the paper uses 256 with a margin of 0.25.
        form: string. `"joint"` (default), as in the paper and PyTorch Metric Learning, or `"separate"`, as in
            TensorFlow Similarity.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.CircleLoss())
    ```

    Reference: Sun et al., 2020, Circle Loss, https://arxiv.org/abs/2002.10857.
    """

    labels = "classes"
    per_row = False

    def __init__(
        self, margin: float = 0.4, scale: float = 80.0, *, form: str = "joint", name: str = "circle", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.margin = _check.number("margin", margin)
        self.scale = _check.number("scale", scale, above=0.0)
        self.form = _check.one_of("form", form, FORMS)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(circle(y_true, y_pred, self.margin, self.scale, form=self.form))

    def between(self, texts: Any, others: Any, positive: Any, negative: Any) -> Any:
        """Returns the loss of `texts` against `others` under the masks `positive` and `negative`.

        See `CrossBatchMemoryLoss`, which calls this method.
        """
        s = _ops.pairwise_cosine_similarity(texts, others)
        return self.whole(_circle(s, positive, negative, self.margin, self.scale, self.form))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "scale": self.scale, "form": self.form}


@keras.saving.register_keras_serializable("tfxfer")
class MultiSimilarityLoss(_base.CheckedLoss):
    """Weights each cosine by its own value and by the anchor's other cosines (`multi_similarity`).

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two classes and several texts
    of each.

    Choose it: for labeled texts with many classes, e.g. intents; the first choice among the losses on class ids if
    batches hold several texts of each class.

    See also: `CircleLoss` weights a cosine only by its own value; `BatchHardTripletLoss` uses only the hardest pair;
    `CrossBatchMemoryLoss` adds the texts of earlier batches to this loss.

    Args:
        alpha: float > 0. The sharpness of the weights of positives. Defaults to 2.
        beta: float > 0. The sharpness of the weights of negatives. Defaults to 50; TensorFlow Similarity uses 40.
        base: float. The cosine that separates positives from negatives. Defaults to 0.5.
        mining_margin: optional float. Pairs that are correct by more than this margin are dropped. Defaults to 0.1, as
            in the paper; `None` keeps all pairs, as PyTorch Metric Learning does without a miner.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.MultiSimilarityLoss())
    batches = tx.data.batches(rows, embedder, 64, examples_per_class=4)
    ```

    Reference: Wang et al., 2019, Multi-Similarity Loss, https://arxiv.org/abs/1904.06627.
    """

    labels = "classes"

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        *,
        base: float = 0.5,
        mining_margin: float | None = 0.1,
        name: str = "multi_similarity",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.alpha = _check.number("alpha", alpha, above=0.0)
        self.beta = _check.number("beta", beta, above=0.0)
        self.base = _check.number("base", base)
        self.mining_margin = None if mining_margin is None else _check.number("mining_margin", mining_margin)

    def _options(self):
        return {"base": self.base, "mining_margin": self.mining_margin}

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return multi_similarity(y_true, y_pred, self.alpha, self.beta, **self._options())

    def between(self, texts: Any, others: Any, positive: Any, negative: Any) -> Any:
        """Returns the loss of `texts` against `others` under the masks `positive` and `negative`.

        See `CrossBatchMemoryLoss`, which calls this method.
        """
        s = _ops.pairwise_cosine_similarity(texts, others)
        return _multi_similarity(s, positive, negative, self.alpha, self.beta, **self._options())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "beta": self.beta, **self._options()}


class _PairsLoss(_base.CheckedLoss):
    """A loss on the similarities of anchors and positives."""

    def __init__(self, similarity: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "similarity": self.similarity}


@keras.saving.register_keras_serializable("tfxfer")
class NPairsLoss(_PairsLoss):
    """One pair per class; each anchor is scored against the positives of all classes (`n_pairs`).

    Returns one number for the whole batch, so a sample weight for each row raises an error. Only the first two texts of
    each class in the batch count, so the order of rows matters.

    Rows: one text (or several of one class); `y_true` an int class id. Every batch needs two texts each of several
    classes.

    Choose it: for labeled texts of very many classes, with two texts per class in a batch (`examples_per_class=2`).

    See also: `NPairsRowsLoss` takes the pairs as rows; `MultipleNegativesRankingLoss` is the same for pairs without
    classes; `MultiSimilarityLoss` uses all texts of a class.

    Args:
        similarity: string. `"dot"` (default), as in the paper, which equals `"cosine"` on unit vectors; or the name of
            a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype, or `sample_weight` is not a scalar.

    Example:

    ```python
    embedder.compile("adamw", loss=tx.losses.NPairsLoss())
    batches = tx.data.batches(rows, embedder, 64, examples_per_class=2)
    ```

    Reference: Sohn, 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    https://papers.nips.cc/paper/6200.
    """

    labels = "classes"
    per_row = False

    def __init__(self, similarity: str = "dot", *, name: str = "n_pairs", **kwargs: Any) -> None:
        super().__init__(similarity, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(n_pairs(y_true, y_pred, self.similarity))


@keras.saving.register_keras_serializable("tfxfer")
class NPairsRowsLoss(_PairsLoss):
    """Softmax cross-entropy in which the positives of the anchor's class share the target (`n_pairs_rows`).

    Rows: two texts of one class; `y_true` an int class id.

    Choose it: for pairs that belong together, if several rows of a batch can share a class: such rows are then not
    false negatives.

    See also: `NPairsLoss` takes single texts; `NPairsMultilabelLoss` takes several labels per row; without class ids
    use `MultipleNegativesRankingLoss` or `GISTEmbedLoss`. This loss equals TensorFlow Addons' `NpairsLoss`.

    Args:
        similarity: string. `"dot"` (default), `"cosine"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has a float dtype.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.NPairsRowsLoss())
    ```

    Reference: Sohn, 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    https://papers.nips.cc/paper/6200.
    """

    labels = "classes"

    def __init__(self, similarity: str = "dot", *, name: str = "n_pairs_rows", **kwargs: Any) -> None:
        super().__init__(similarity, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return n_pairs_rows(y_true, y_pred, self.similarity)


@keras.saving.register_keras_serializable("tfxfer")
class NPairsMultilabelLoss(_PairsLoss):
    """Softmax cross-entropy with targets proportional to the number of shared labels (`n_pairs_multilabel`).

    Rows: two texts that belong together; `y_true` 0 or 1 for each label, `(batch, labels)`.

    Choose it: for pairs with several labels each, such as topics, so that rows are similar by degrees.

    See also: `NPairsRowsLoss` takes one class per row. This loss equals TensorFlow Addons' `NpairsMultilabelLoss`,
    except that a row without labels is 0 here and NaN there.

    Args:
        similarity: string. `"dot"` (default), `"cosine"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` has another shape, or is known to hold values other than 0 and 1. In a traced function,
            as in `fit`, such rows make the loss NaN.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.NPairsMultilabelLoss())
    ```

    Reference: Sohn, 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    https://papers.nips.cc/paper/6200.
    """

    labels = "binary"

    def __init__(self, similarity: str = "dot", *, name: str = "n_pairs_multilabel", **kwargs: Any) -> None:
        super().__init__(similarity, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return n_pairs_multilabel(y_true, y_pred, self.similarity)
