"""Losses that compare the documents of a query with one another, by their grades or a teacher's scores."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _lists

WEIGHTINGS = ("none", "ndcg_loss1", "ndcg_loss2", "lambda_rank", "ndcg_loss2pp")
LOGARITHMS = ("binary", "natural")
DISCOUNTS = ("exponential", "log2", "reciprocal")


def _pairs_of(values):
    """The values of both documents of each pair `(i, j)`: `(lists, n)` -> `(lists, n, 1)`, `(lists, 1, n)`."""
    return ops.expand_dims(values, -1), ops.expand_dims(values, -2)


def _ranks(values, is_document):
    """The rank of each document by falling value, from 1, int32 `(lists, n)`; of equal values the first comes first.

    It costs a comparison of each two documents, which a loss on pairs makes in any case, and is exact on any backend.
    """
    (own, other), (_, other_is) = _pairs_of(values), _pairs_of(is_document)
    place = ops.arange(ops.shape(values)[1])
    comes_first = ops.expand_dims(ops.expand_dims(place, 0) < ops.expand_dims(place, 1), 0)
    before = ops.logical_or(other > own, ops.logical_and(other == own, comes_first))
    return 1 + ops.sum(ops.cast(ops.logical_and(before, other_is), "int32"), axis=-1)


def _log2(values):
    """The logarithm to the base 2."""
    return ops.log(values) / float(np.log(2.0))


def lambda_loss(
    y_true: Any,
    y_pred: Any,
    *,
    weighting: str = "ndcg_loss2pp",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    eps: float = 1e-10,
    reduction_log: str = "binary",
    activation: str | None = None,
) -> Any:
    """The logistic loss of each pair of documents in the wrong order, weighted by what their exchange is worth.

    `-sum w_ij log sigmoid(sigma (s_i - s_j))` over the pairs of a list with `y_i > y_j`, divided by the number of such
    pairs in the whole batch, and by `log 2` for the binary logarithm. `p_i` is the rank of document `i` by score,
    `D_i = log2(1 + p_i)`, `G_i = (2^y_i - 1) / max(ideal DCG, eps)`, where a grade below 0 counts as 0.

    | weighting | `w_ij` |
    |---|---|
    | `"none"` | 1 |
    | `"ndcg_loss1"` | `G_i / D_i`, of all pairs of documents |
    | `"ndcg_loss2"` | `abs(1 / log2(1 + g) - 1 / log2(2 + g)) * abs(G_i - G_j)`, `g = abs(p_i - p_j)` |
    | `"lambda_rank"` | `abs(1 / D_i - 1 / D_j) * abs(G_i - G_j)` |
    | `"ndcg_loss2pp"` | `mu` times the weight of `"ndcg_loss2"`, plus that of `"lambda_rank"` |

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN where a list has ended.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        weighting: one of the table.
        k: int. Only pairs count of which one document is among the first `k` by score; `None` for all.
        sigma: float > 0.
        mu: float >= 0, for `"ndcg_loss2pp"`.
        eps: float > 0. What an ideal DCG is taken for at least.
        reduction_log: `"binary"` or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A scalar; 0 for a batch without such a pair.

    >>> grades, scores = np.array([[1.0, 0.0]], "float32"), np.zeros((2, 1), "float32")
    >>> float(lambda_loss(grades, scores, weighting="none"))
    1.0
    """
    _check.one_of("weighting", weighting, WEIGHTINGS)
    _check.one_of("reduction_log", reduction_log, LOGARITHMS)
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "lambda_loss")
    positions = _ranks(scores, is_document)
    (y_i, y_j), (s_i, s_j) = _pairs_of(grades), _pairs_of(scores)
    keep = ops.logical_and(*_pairs_of(is_document))
    if weighting != "ndcg_loss1":
        keep = ops.logical_and(keep, y_i > y_j)
    if k is not None:
        keep = ops.logical_and(keep, ops.logical_or(*_pairs_of(positions <= k)))
    losses = ops.softplus(-sigma * (s_i - s_j))
    if weighting != "none":
        weights = _weights(weighting, _gains(grades, is_document, k, eps), positions, scores.dtype, mu)
        losses *= ops.stop_gradient(weights)
    total = ops.sum(ops.where(keep, losses, ops.zeros_like(losses)))
    count = ops.maximum(ops.sum(ops.cast(keep, scores.dtype)), 1.0)
    return total / count / (float(np.log(2.0)) if reduction_log == "binary" else 1.0)


def _gains(grades, is_document, k, eps):
    """The gain of each document over the DCG of the best order."""
    gains = ops.power(ops.cast(2.0, grades.dtype), ops.maximum(grades, 0.0)) - 1.0
    ideal = _ranks(grades, is_document)
    counts = is_document if k is None else ops.logical_and(is_document, ideal <= k)
    discounted = gains / _log2(1.0 + ops.cast(ideal, grades.dtype))
    best = ops.sum(ops.where(counts, discounted, ops.zeros_like(gains)), axis=1, keepdims=True)
    return gains / ops.maximum(best, eps)


def _weights(weighting, gains, positions, dtype, mu):
    positions = ops.cast(positions, dtype)
    discounts = _log2(1.0 + positions)
    if weighting == "ndcg_loss1":
        return ops.expand_dims(gains / discounts, -1)
    (g_i, g_j), (d_i, d_j), (p_i, p_j) = map(_pairs_of, (gains, 1.0 / discounts, positions))
    worth, found = ops.abs(g_i - g_j), ops.zeros_like(p_i - p_j)
    if weighting != "lambda_rank":
        gap = ops.maximum(ops.abs(p_i - p_j), 1.0)  # 0 for a document with itself, which is no pair
        step = 1.0 / _log2(1.0 + gap) - 1.0 / _log2(2.0 + gap)
        found = (mu if weighting == "ndcg_loss2pp" else 1.0) * ops.abs(step)
    if weighting != "ndcg_loss2":
        found = found + ops.abs(d_i - d_j)
    return found * worth


def rank_net(
    y_true: Any,
    y_pred: Any,
    *,
    k: int | None = None,
    sigma: float = 1.0,
    reduction_log: str = "binary",
    activation: str | None = None,
) -> Any:
    """The logistic loss of each pair of documents in the wrong order: `lambda_loss` without weights.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN where a list has ended.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        k: as `lambda_loss` has it.
        sigma: as `lambda_loss` has it.
        reduction_log: as `lambda_loss` has it.
        activation: as `lambda_loss` has it.

    Returns:
        A scalar; 0 for a batch without two documents of different grades.

    >>> float(rank_net(np.array([[1.0, 0.0]], "float32"), np.zeros((2, 1), "float32")))
    1.0
    """
    options: dict[str, Any] = {"k": k, "sigma": sigma, "reduction_log": reduction_log, "activation": activation}
    return lambda_loss(y_true, y_pred, weighting="none", **options)


def list_net(y_true: Any, y_pred: Any, *, activation: str | None = None) -> Any:
    """Cross-entropy of the scores' softmax with the grades' softmax, over the documents of a list.

    `-sum softmax(y)_i log softmax(s)_i`.

    Args:
        y_true: tensor `(lists, documents)` of grades or a teacher's scores, NaN where a list has ended.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`. A list of equal grades has the uniform distribution as its target.

    >>> found = list_net(np.array([[1.0, 1.0], [3.0, np.nan]], "float32"), np.zeros((3, 1), "float32"))
    >>> [round(float(x), 4) for x in found]
    [0.6931, 0.0]
    """
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "list_net")
    target = ops.exp(ops.where(is_document, -_surprise(grades, is_document), ops.zeros_like(grades)))
    found = target * _surprise(scores, is_document)
    return ops.sum(ops.where(is_document, found, ops.zeros_like(found)), axis=1)


def _surprise(values, keep):
    """The negative logarithm of the softmax over what is kept."""
    return ops.expand_dims(_ops.masked_logsumexp(values, keep), 1) - values


def list_mle(y_true: Any, y_pred: Any, *, by_grade: bool = True, activation: str | None = None) -> Any:
    """The negative log-likelihood of the right order, documents being drawn one after another by their scores.

    `-sum_i (s_i - log sum exp(s_i ... s_n))`, the documents in the right order.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN where a list has ended.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        by_grade: bool. Whether the right order is that of falling grades, equal ones as they are given; or that of the
            list as it is given.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`: the sum over the documents of each list.

    >>> found = list_mle(np.array([[0.0, 2.0, 1.0]], "float32"), np.zeros((3, 1), "float32"))
    >>> round(float(found[0]), 4)  # log 6
    1.7918
    """
    losses, _, is_document = _likelihoods(y_true, y_pred, by_grade, activation, "list_mle")
    return ops.sum(ops.where(is_document, losses, ops.zeros_like(losses)), axis=1)


def _likelihoods(y_true, y_pred, by_grade, activation, name):
    """(what each document adds to the negative log-likelihood, its place in the right order, which are documents)."""
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, name)
    places = _ranks(grades if by_grade else ops.zeros_like(grades), is_document)
    own, other = _pairs_of(places)
    remaining = ops.logical_and(other >= own, ops.expand_dims(is_document, -2))
    wide = ops.broadcast_to(ops.expand_dims(scores, -2), ops.shape(remaining))
    return _ops.masked_logsumexp(wide, remaining) - scores, places, is_document


def position_list_mle(
    y_true: Any,
    y_pred: Any,
    *,
    discount: str | None = "exponential",
    by_grade: bool = True,
    activation: str | None = None,
) -> Any:
    """`list_mle` in which the documents at the top of the right order count more.

    Each term times `v_i / sum v`; `i` is the document's place in the right order, from 1, of `n`.

    | discount | `v_i` |
    |---|---|
    | `"exponential"` | `2^(n - i) - 1` |
    | `"log2"` | `1 / log2(1 + i)` |
    | `"reciprocal"` | `1 / i` |
    | `None` | no factor at all: `list_mle` |

    Args:
        y_true: as `list_mle` has it.
        y_pred: as `list_mle` has it.
        discount: one of the table.
        by_grade: as `list_mle` has it.
        activation: as `list_mle` has it.

    Returns:
        A tensor `(lists,)`.

    >>> found = position_list_mle(np.array([[0.0, 1.0]], "float32"), np.zeros((2, 1), "float32"))
    >>> round(float(found[0]), 4)  # the last document alone has no choice: the first has all weight
    0.6931
    """
    losses, places, is_document = _likelihoods(y_true, y_pred, by_grade, activation, "position_list_mle")
    if discount is not None:
        losses *= _discounts(discount, ops.cast(places, losses.dtype), is_document)
    return ops.sum(ops.where(is_document, losses, ops.zeros_like(losses)), axis=1)


def _discounts(discount, places, is_document):
    _check.one_of("discount", discount, DISCOUNTS)
    count = ops.sum(ops.cast(is_document, places.dtype), axis=1, keepdims=True)
    two = ops.cast(2.0, places.dtype)
    # Over 2^n, which a list of some hundred documents would make infinite.
    least = 1e-10 * ops.power(two, -count) if discount == "exponential" else 1e-10
    if discount == "exponential":
        found = ops.power(two, -places) - ops.power(two, -count)
    else:
        found = 1.0 / (_log2(1.0 + places) if discount == "log2" else places)
    found = ops.where(is_document, found, ops.zeros_like(found))
    total = ops.sum(found, axis=1, keepdims=True)
    # In half precision the least is 0: a list of one document has no weight at all.
    divisor = ops.where(total > 0, total + least, ops.ones_like(total))
    return found / divisor


def adr_mse(y_true: Any, y_pred: Any, *, alpha: float = 1.0, activation: str | None = None) -> Any:
    """The squared error of each document's soft rank, discounted by its right one.

    `(r_i - a_i)^2 / log2(1 + r_i)`, the mean over all documents of the batch. `r_i` is the rank of document `i` by
    falling grade, the mean of the ranks of equal ones; `a_i = 1 + sum over j != i of sigmoid(alpha (s_j - s_i))`.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN where a list has ended.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        alpha: float > 0. How sharp soft ranks are.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A scalar.

    >>> found = adr_mse(np.array([[2.0, 2.0]], "float32"), np.zeros((2, 1), "float32"))
    >>> float(found)  # both have the rank 1.5
    0.0
    """
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "adr_mse")
    (y_i, y_j), (s_i, s_j) = _pairs_of(grades), _pairs_of(scores)
    others = ops.expand_dims(is_document, -2)
    dtype = scores.dtype
    greater = ops.sum(ops.cast(ops.logical_and(others, y_j > y_i), dtype), axis=-1)
    equal = ops.sum(ops.cast(ops.logical_and(others, y_j == y_i), dtype), axis=-1)
    right = ops.where(is_document, greater + 0.5 * (equal + 1.0), ops.ones_like(greater))
    is_other = ops.logical_and(others, ops.expand_dims(ops.eye(ops.shape(scores)[1], dtype=dtype) == 0, 0))
    soft = ops.sigmoid(alpha * (s_j - s_i))
    found = 1.0 + ops.sum(ops.where(is_other, soft, ops.zeros_like(soft)), axis=-1)
    errors = ops.square(right - found) / _log2(1.0 + right)
    return _ops.masked_mean(errors, is_document)


class _PairsLoss(_lists.ListLoss):
    """What the losses on pairs of documents share."""

    per_row = False
    _arguments: tuple[str, ...] = ("k", "sigma", "reduction_log", "activation")

    def _set(self, k, sigma, reduction_log, activation):
        self.k = _check.integer("k", k, optional=True)
        self.sigma = _check.number("sigma", sigma, above=0.0)
        self.reduction_log = _check.one_of("reduction_log", reduction_log, LOGARITHMS)
        self.activation = _lists.check_activation(activation)


@keras.saving.register_keras_serializable("tfxfer")
class LambdaLoss(_PairsLoss):
    """Pairs of documents in the wrong order, weighted by what their exchange is worth in nDCG (`lambda_loss`).

    Formulas are sentence-transformers', which follow the paper: with `"ndcg_loss1"` every pair of documents of a list
    counts, a document with itself too. `k=0` there is `k=None` here.

    Rows: lists with grades: at least two documents of different grades in some of them.

    Choose it: for graded judgements, where nDCG counts; the first choice for lists of a reranker.

    Neighbours: `RankNetLoss` has no weights; `ListNetLoss` has a value for each list and takes a teacher's scores;
    `ListSoftmaxLoss` for one positive a list.

    Args:
        weighting: `"none"`, `"ndcg_loss1"`, `"ndcg_loss2"`, `"lambda_rank"` or `"ndcg_loss2pp"`, the default and the
            paper's best.
        k: int. Only pairs count of which one document is among the first `k` by score, which is where an exchange
            shows. Defaults to `None`, all pairs.
        sigma: float > 0. What differences of scores are multiplied by. Defaults to 1.
        mu: float >= 0. The weight of `"ndcg_loss2"` within `"ndcg_loss2pp"`. Defaults to 10.
        eps: float > 0. What the DCG of the best order is taken for at least. Defaults to 1e-10.
        reduction_log: `"binary"` (default) or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker = tx.models.Reranker.from_preset("all_minilm_l6_v2")
    reranker.compile(loss=tx.losses.LambdaLoss())
    reranker.fit(tx.data.rankings(rows, target="grades"), batch_size=8)
    ```

    Reference: Wang et al., 2018, The LambdaLoss Framework for Ranking Metric Optimization,
    https://doi.org/10.1145/3269206.3271784.
    """

    _arguments = ("weighting", "mu", "eps", *_PairsLoss._arguments)

    def __init__(
        self,
        weighting: str = "ndcg_loss2pp",
        *,
        k: int | None = None,
        sigma: float = 1.0,
        mu: float = 10.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation: str | None = None,
        name: str = "lambda_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.weighting = _check.one_of("weighting", weighting, WEIGHTINGS)
        self.mu = _check.number("mu", mu, minimum=0.0)
        self.eps = _check.number("eps", eps, above=0.0)
        self._set(k, sigma, reduction_log, activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(self._call(lambda_loss, y_true, y_pred))


@keras.saving.register_keras_serializable("tfxfer")
class RankNetLoss(_PairsLoss):
    """Pairs of documents in the wrong order, each counted alike (`rank_net`).

    Rows: lists with grades: at least two documents of different grades in some of them.

    Choose it: where every wrong pair is as bad as any other, at the end of a list too.

    Neighbours: `LambdaLoss` weighs pairs by their ranks; `ListMLELoss` has a value for each list.

    Args:
        k: int. As `LambdaLoss` has it. Defaults to `None`.
        sigma: float > 0. What differences of scores are multiplied by. Defaults to 1.
        reduction_log: `"binary"` (default) or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker.compile(loss=tx.losses.RankNetLoss())
    ```

    Reference: Burges et al., 2005, Learning to Rank using Gradient Descent, https://doi.org/10.1145/1102351.1102363.
    """

    def __init__(
        self,
        k: int | None = None,
        *,
        sigma: float = 1.0,
        reduction_log: str = "binary",
        activation: str | None = None,
        name: str = "rank_net",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self._set(k, sigma, reduction_log, activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(self._call(rank_net, y_true, y_pred))


@keras.saving.register_keras_serializable("tfxfer")
class ListNetLoss(_lists.ListLoss):
    """Cross-entropy of the scores' softmax with the grades' softmax (`list_net`).

    Rows: lists with grades, or with a teacher's scores.

    Choose it: to teach a reranker a teacher's distribution over the documents of a query; with grades, where rows need
    weights of their own.

    Neighbours: `DistillKLDivLoss` does the same for embedders; `LambdaLoss` for grades; `ScoreMarginMSELoss` and
    `ADRMSELoss` for a teacher whose margins, or whose ranks alone, count.

    Args:
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker.compile(loss=tx.losses.ListNetLoss())
    reranker.fit(tx.data.rankings(rows, targets=tx.search.teacher_scores(teacher, rows, ("query", "documents"))))
    ```

    Reference: Cao et al., 2007, Learning to Rank: From Pairwise Approach to Listwise Approach,
    https://doi.org/10.1145/1273496.1273513.
    """

    def __init__(self, activation: str | None = None, *, name: str = "list_net", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.activation = _lists.check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(list_net, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class ListMLELoss(_lists.ListLoss):
    """The negative log-likelihood of the right order of a list (`list_mle`).

    Its size grows with the length of the lists, as their documents are summed. sentence-transformers takes the order
    of the list as it is given for the right one unless told otherwise, whatever the grades; here that is
    `by_grade=False`.

    Rows: lists with grades; or lists in the right order, with any numbers.

    Choose it: where the whole order is known: a teacher's ranking, or fine grades.

    Neighbours: `PositionListMLELoss` cares more for the top; `ListNetLoss` gives equal grades equal shares, where here
    their order is the given one.

    Args:
        by_grade: bool. Whether the right order is that of falling grades (default), or that of the list.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker.compile(loss=tx.losses.ListMLELoss())
    ```

    Reference: Xia et al., 2008, Listwise Approach to Learning to Rank: Theory and Algorithm,
    https://doi.org/10.1145/1390156.1390306.
    """

    _arguments = ("by_grade", "activation")

    def __init__(
        self, by_grade: bool = True, *, activation: str | None = None, name: str = "list_mle", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.by_grade = _check.instance("by_grade", by_grade, bool, "a bool")
        self.activation = _lists.check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(list_mle, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class PositionListMLELoss(_lists.ListLoss):
    """The likelihood of the right order of a list, its top weighted most (`position_list_mle`).

    sentence-transformers' `PListMLELoss`, but for two things: the right order is that of the grades unless
    `by_grade=False`, and a discount never counts what only fills up shorter lists of a batch.

    Rows: lists with grades; or lists in the right order, with any numbers.

    Choose it: where the order is known and its top matters most.

    Neighbours: `ListMLELoss` without weights; `LambdaLoss` for nDCG.

    Args:
        discount: `"exponential"` (default and the paper's), `"log2"` or `"reciprocal"`; `None` for no weights.
        by_grade: bool. Whether the right order is that of falling grades (default), or that of the list.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker.compile(loss=tx.losses.PositionListMLELoss())
    ```

    Reference: Lan et al., 2014, Position-Aware ListMLE: A Sequential Learning Process for Ranking,
    https://auai.org/uai2014/proceedings/individuals/164.pdf.
    """

    _arguments = ("discount", "by_grade", "activation")

    def __init__(
        self,
        discount: str | None = "exponential",
        *,
        by_grade: bool = True,
        activation: str | None = None,
        name: str = "position_list_mle",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.discount = None if discount is None else _check.one_of("discount", discount, DISCOUNTS)
        self.by_grade = _check.instance("by_grade", by_grade, bool, "a bool")
        self.activation = _lists.check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._call(position_list_mle, y_true, y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class ADRMSELoss(_lists.ListLoss):
    """The squared error of soft ranks, discounted by the right ones (`adr_mse`).

    Rows: lists with a teacher's scores or ranks (larger is better), or with grades.

    Choose it: to teach a reranker the order that a large language model gave, of which only the ranks can be trusted.

    Neighbours: `ListNetLoss` and `ScoreMarginMSELoss` read the teacher's scores themselves; `LambdaLoss` for grades.

    Args:
        alpha: float > 0. How sharp soft ranks are: the scores that lie further apart than `1 / alpha` count as ordered.
            Defaults to 1.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Example:

    ```python
    reranker.compile(loss=tx.losses.ADRMSELoss())
    ```

    Reference: Schlatt et al., 2025, Rank-DistiLLM: Closing the Effectiveness Gap Between Cross-Encoders and LLMs for
    Passage Re-ranking, https://arxiv.org/abs/2405.07920.
    """

    per_row = False
    _arguments = ("alpha", "activation")

    def __init__(
        self, alpha: float = 1.0, *, activation: str | None = None, name: str = "adr_mse", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.alpha = _check.number("alpha", alpha, above=0.0)
        self.activation = _lists.check_activation(activation)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.whole(self._call(adr_mse, y_true, y_pred))
