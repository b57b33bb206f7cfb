"""Losses on a reranker's scores for the documents of a query: one document at a time, and softmax over a list."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

# What can be applied to the scores before the loss.
ACTIVATIONS: dict[str, Callable] = {"sigmoid": ops.sigmoid, "tanh": ops.tanh}
# The maximum number of filler documents in batches with compiled shapes, see `data.RankingColumn`.
_MOST_FILLERS = 7


def lists(y_true: Any, y_pred: Any, activation: str | None, name: str) -> tuple[Any, Any, Any]:
    """Returns the grades, the scores and the mask of real documents, each `(lists, documents)`.

    Args:
        y_true: tensor `(lists, documents)`, NaN past the end of a list; or `(pairs,)`, lists of one document each.
        y_pred: float tensor of scores: `(lists, documents)`; or `(documents,)` or `(documents, 1)`, the output of
            rerankers, with the lists one after another.
        activation: a key of `ACTIVATIONS`, or `None`.
        name: string. The loss's name for errors.

    Raises:
        ValueError: for other shapes. If the number of scores differs from the number of grades, which only the values
            show, the scores become NaN.
    """
    grades = ops.cast(y_true, y_pred.dtype)
    grades = ops.expand_dims(grades, 1) if len(grades.shape) == 1 else grades
    if len(grades.shape) != 2:
        expected = f"grades (lists, documents) for {name}, NaN past the end of a list"
        raise _check.invalid("y_true", expected, tuple(y_true.shape), _REMEDY)
    if len(y_pred.shape) not in (1, 2):
        raise _check.invalid("y_pred", f"scores (documents, 1) or (lists, documents) for {name}", tuple(y_pred.shape))
    is_document = ops.logical_not(ops.isnan(grades))
    if len(y_pred.shape) == 1 or y_pred.shape[1] == 1:
        scores = _of_lists(ops.reshape(y_pred, (-1,)), is_document)
    else:
        expected, found = tuple(y_pred.shape), tuple(grades.shape)
        if not all(a is None or b is None or a == b for a, b in zip(expected, found, strict=True)):
            raise _check.invalid("y_true", f"a grade for each score, shape {expected}", tuple(y_true.shape), _REMEDY)
        scores = y_pred
    zeros = ops.zeros_like(grades)
    # Masked before any arithmetic: the padding of a list may be infinite.
    scores = ops.where(is_document, scores, zeros)
    if activation is not None:
        scores = ACTIVATIONS[_check.one_of("activation", activation, ACTIVATIONS)](scores)
    return ops.where(is_document, grades, zeros), scores, is_document


_REMEDY = "Train a `models.Reranker` on `data.rankings`, or on pairs with one number each."


def _of_lists(flat, is_document):
    """Returns the scores of all documents arranged by list."""
    count, total = ops.shape(flat)[0], ops.sum(ops.cast(is_document, "int32"))
    places = ops.reshape(ops.cumsum(ops.cast(ops.reshape(is_document, (-1,)), "int32")) - 1, ops.shape(is_document))
    # One extra entry, for the padding of lists.
    padded = ops.concatenate([flat, ops.zeros((1,), dtype=flat.dtype)])
    scores = ops.take(padded, ops.where(is_document, ops.minimum(places, count), count))
    surplus = count - total
    fits = ops.logical_and(surplus >= 0, surplus <= _MOST_FILLERS)
    return ops.where(fits, scores, ops.full_like(scores, float("nan")))


def check_activation(activation: str | None) -> str | None:
    """Returns `activation` if it is a known name or `None`; raises otherwise."""
    return None if activation is None else _check.one_of("activation", activation, ACTIVATIONS)


class ListLoss(_base.CheckedLoss):
    """A loss on grades and scores; `_arguments` names the arguments of a subclass."""

    # Whether the loss separates the lists of documents by its targets; see `models.Reranker`.
    takes_lists = True
    # The minimum and maximum of a target, if bounded.
    target_range: tuple[float, float] | None = None
    # The arguments of both the function and the constructor.
    _arguments: tuple[str, ...] = ("activation",)

    def _call(self, function: Callable, y_true: Any, y_pred: Any) -> Any:
        return function(y_true, y_pred, **{name: getattr(self, name) for name in self._arguments})

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self._arguments}}


def pointwise_crossentropy(
    y_true: Any, y_pred: Any, *, positive_weight: float = 1.0, activation: str | None = None
) -> Any:
    """The binary cross-entropy of each document's logit, averaged over the documents of a list.

    `w * y * softplus(-x) + (1 - y) * softplus(x)`, where `x` is the score.

    Args:
        y_true: tensor `(lists, documents)` or `(pairs,)` of numbers in `[0, 1]`, NaN past the end of a list. Numbers
            outside make the loss NaN.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)` of logits.
        positive_weight: float > 0, `w`.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first; `None` for none.

    Returns:
        A tensor `(lists,)`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> found = pointwise_crossentropy(np.array([[1.0, 0.0], [1.0, np.nan]], "float32"), np.zeros((3, 1), "float32"))
    >>> [round(float(x), 4) for x in found]  # log 2
    [0.6931, 0.6931]
    """
    grades, scores, is_document = lists(y_true, y_pred, activation, "pointwise_crossentropy")
    grades = ops.where(ops.logical_and(grades >= 0, grades <= 1), grades, ops.full_like(grades, float("nan")))
    found = positive_weight * grades * ops.softplus(-scores) + (1.0 - grades) * ops.softplus(scores)
    return _ops.masked_mean(found, is_document, axis=1)


def pointwise_mse(y_true: Any, y_pred: Any, *, activation: str | None = None) -> Any:
    """The squared error of each document's score, averaged over the documents of a list.

    `(a(x) - y)^2`, where `a` is the activation.

    Args:
        y_true: tensor `(lists, documents)` or `(pairs,)`, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> pointwise_mse(np.array([[1.0, 0.0], [1.0, np.nan]], "float32"), np.zeros((3, 1), "float32")).numpy().tolist()
    [0.5, 1.0]
    """
    grades, scores, is_document = lists(y_true, y_pred, activation, "pointwise_mse")
    return _ops.masked_mean(ops.square(scores - grades), is_document, axis=1)


def score_margin_mse(y_true: Any, y_pred: Any, *, activation: str | None = None) -> Any:
    """Regresses the margins between the first document and every other onto the teacher's.

    `((s_0 - s_j) - (y_0 - y_j))^2`, averaged over the other documents of a list; 0 for a list of one document.

    Args:
        y_true: tensor `(lists, documents)` of the teacher's scores, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> teacher, scores = np.array([[4.0, 1.0, 0.0]], "float32"), np.array([[1.0, 0.0, 0.0]], "float32")
    >>> score_margin_mse(teacher, scores).numpy().tolist()
    [6.5]
    """
    grades, scores, is_document = lists(y_true, y_pred, activation, "score_margin_mse")
    errors = (scores[:, :1] - scores) - (grades[:, :1] - grades)
    others = ops.logical_and(is_document, ops.expand_dims(ops.arange(ops.shape(scores)[1]) > 0, 0))
    return _ops.masked_mean(ops.square(errors), others, axis=1)


def list_softmax(y_true: Any, y_pred: Any, *, scale: float = 10.0, activation: str | None = "sigmoid") -> Any:
    """Softmax cross-entropy of each positive document against the negatives of its list.

    `log(exp(z_p) + sum exp(z_n)) - z_p`, `z = scale * a(x)`, averaged over the positives `p` of a list; 0 for a list
    without positives.

    Args:
        y_true: tensor `(lists, documents)`, above 0 for positives, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)` of logits.
        scale: float > 0. The inverse temperature.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first; `None` for none.

    Returns:
        A tensor `(lists,)`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> found = list_softmax(np.array([[1.0, 0.0]], "float32"), np.zeros((2, 1), "float32"))
    >>> round(float(found[0]), 4)  # log 2
    0.6931
    """
    grades, scores, is_document = lists(y_true, y_pred, activation, "list_softmax")
    logits = scale * scores
    positive = ops.logical_and(is_document, grades > 0)
    negative = ops.logical_and(is_document, grades <= 0)
    # log(1 + sum exp(z_n - z_p)) by the logarithm of the sum, so that no exponential overflows.
    total = ops.expand_dims(_ops.masked_logsumexp(logits, negative), 1)
    has_negative = ops.any(negative, axis=1, keepdims=True)
    found = ops.where(has_negative, ops.softplus(total - logits), ops.zeros_like(logits))
    return _ops.masked_mean(found, positive, axis=1)


@keras.saving.register_keras_serializable("tfxfer")
class PointwiseCrossentropyLoss(ListLoss):
    """The binary cross-entropy of each document's logit (`pointwise_crossentropy`).

    The default of `models.Reranker`. All lists have equal weight, regardless of their length.

    Rows: pairs of query and document with a number from 0 to 1; or lists of documents with such numbers.

    Choose it: for binary judgments, or for one document per row. The sigmoid of the score is then a probability, to
    which a threshold can be applied.

    See also: `LambdaLoss` and `ListNetLoss` compare the documents of a list and order them better; `PointwiseMSELoss`
    regresses onto a teacher's scores; `WeightedBinaryCrossentropy` has a focal parameter and takes rows of pairs.

    Args:
        positive_weight: float > 0. The weight of relevant documents. Defaults to 1; set it to the number of negatives
            per positive to balance the two.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits before the loss, which still treats the result as
            logits, as sentence-transformers can; `"sigmoid"` therefore applies two sigmoids. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if grades are outside `[0, 1]` and their values are known. Within `fit` they make the loss NaN.

    Example:

    ```python
    reranker.compile(loss=tx.losses.PointwiseCrossentropyLoss(positive_weight=4.0))
    reranker.fit((queries, documents), clicked)
    ```

    Reference: Nogueira and Cho, 2019, Passage Re-ranking with BERT, https://arxiv.org/abs/1901.04085.
    """

    target_range = (0.0, 1.0)
    _arguments = ("positive_weight", "activation")

    def __init__(
        self,
        positive_weight: float = 1.0,
        *,
        activation: str | None = None,
        name: str = "pointwise_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.positive_weight = _check.number("positive_weight", positive_weight, above=0.0)
        self.activation = check_activation(activation)

    def targets(self, y_true: Any) -> Any:
        """Returns the grades of `y_true`; raises if known values are outside `[0, 1]`."""
        y_true = super().targets(y_true)
        values = _base.known(y_true)
        if values is not None:
            values = values.astype("float64")
            outside = values[(values < 0) | (values > 1)]
            if outside.size:
                remedy = "For grades use `LambdaLoss` or `ListNetLoss`, for a teacher's scores `PointwiseMSELoss`."
                expected = "numbers in [0, 1] for PointwiseCrossentropyLoss"
                raise _check.invalid("y_true", expected, outside.ravel()[:8].tolist(), remedy)
        return y_true

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(pointwise_crossentropy, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class PointwiseMSELoss(ListLoss):
    """The squared error of each document's score (`pointwise_mse`).

    Rows: pairs of query and document with one number each; or lists of documents with such numbers.

    Choose it: to copy a teacher's scores, including their scale.

    See also: `ScoreMarginMSELoss` and `ListNetLoss` copy differences of scores and leave their level free, which is
    easier; `keras.losses.MeanSquaredError` takes pairs and has no activation.

    Args:
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first: `"sigmoid"` for a teacher that outputs
            probabilities, `"tanh"` for cosines. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    Example:

    ```python
    reranker.compile(loss=tx.losses.PointwiseMSELoss(activation="sigmoid"))
    ```

    Reference: Cossock and Zhang, 2006, Subset Ranking Using Regression, https://doi.org/10.1007/11776420_44.
    """

    def __init__(self, activation: str | None = None, *, name: str = "pointwise_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.activation = check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(pointwise_mse, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class ScoreMarginMSELoss(ListLoss):
    """Regresses the margins of a list's first document onto the teacher's (`score_margin_mse`).

    This is sentence-transformers' `MarginMSELoss` for cross-encoders, except that the targets are always the teacher's
    scores. For margins `m` to the first document, pass `[0, -m_1, -m_2, ...]`.

    Rows: lists whose first document is the positive; `y_true` the teacher's score of each document.

    Choose it: to teach a small reranker a large one's scores of mined negatives. The two may differ in the level of
    their scores, but not in their spread.

    See also: `MarginMSELoss` does the same for embedders; `ListNetLoss` and `ADRMSELoss` compare all documents with
    one another.

    Args:
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    Example:

    ```python
    scores = tx.search.teacher_scores(teacher, rows, ("query", "documents"))
    reranker.compile(loss=tx.losses.ScoreMarginMSELoss())
    reranker.fit(tx.data.rankings(rows, targets=scores))
    ```

    Reference: Hofstätter et al., 2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation, https://arxiv.org/abs/2010.02666.
    """

    def __init__(self, activation: str | None = None, *, name: str = "score_margin_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.activation = check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(score_margin_mse, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class ListSoftmaxLoss(ListLoss):
    """Softmax cross-entropy of each positive document against the negatives of its list (`list_softmax`).

    With negatives drawn from other queries (`data.rankings(..., random_negatives=4)`) this is sentence-transformers'
    `MultipleNegativesRankingLoss` for cross-encoders, whose negatives come from the batch. A reranker encodes each pair
    of query and document separately, so documents of the same batch save nothing, and negatives drawn from all rows are
    a better sample. The softmax of one positive excludes the other positives of its list.

    Rows: lists with grades, above 0 for positives.

    Choose it: for binary judgments with mined or random negatives, when one document is sought.

    See also: `MultipleNegativesRankingLoss` for embedders; `PointwiseCrossentropyLoss` yields scores that are
    probabilities; `LambdaLoss` uses grades.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 10, for scores in `[0, 1]`; 1 without activation.
        activation: `"sigmoid"` (default) or `"tanh"`, applied to the logits first; `None` for none.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `scale` is not above 0, `activation` is unknown, or the shape of `y_true` or `y_pred` does not
            fit.

    Example:

    ```python
    reranker.compile(loss=tx.losses.ListSoftmaxLoss())
    reranker.fit(tx.data.rankings(rows, random_negatives=4, seed=0))
    ```

    Reference: Gao, Dai and Callan, 2021, Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline,
    https://arxiv.org/abs/2101.08751.
    """

    _arguments = ("scale", "activation")

    def __init__(
        self,
        scale: float = 10.0,
        *,
        activation: str | None = "sigmoid",
        name: str = "list_softmax",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.activation = check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(list_softmax, y_true, y_pred)
