"""Losses that compare pairs of documents of a query by their grades."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check
from tfxfer.losses import _lists

WEIGHTINGS = ("none", "ndcg_loss1", "ndcg_loss2", "lambda_rank", "ndcg_loss2pp")
LOGARITHMS = ("binary", "natural")


def pairs_of(values):
    """Returns the values of both documents of each pair `(i, j)`: `(lists, n)` -> `(lists, n, 1)`, `(lists, 1, n)`."""
    return ops.expand_dims(values, -1), ops.expand_dims(values, -2)


def ranks(values, is_document):
    """Returns the rank of each document by descending value, from 1, int32 `(lists, n)`; ties keep their order.

    It compares all pairs of documents, as a loss on pairs does anyway, and is exact on every backend.
    """
    (own, other), (_, other_is) = pairs_of(values), pairs_of(is_document)
    place = ops.arange(ops.shape(values)[1])
    comes_first = ops.expand_dims(ops.expand_dims(place, 0) < ops.expand_dims(place, 1), 0)
    before = ops.logical_or(other > own, ops.logical_and(other == own, comes_first))
    return 1 + ops.sum(ops.cast(ops.logical_and(before, other_is), "int32"), axis=-1)


def log2(values):
    """Returns the base-2 logarithm."""
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
    """The logistic loss of each pair of documents, weighted by the change in nDCG if the two were swapped.

    `-sum w_ij log sigmoid(sigma (s_i - s_j))` over the pairs of a list with `y_i > y_j`, divided by the number of such
    pairs in the batch, and by `log 2` if `reduction_log="binary"`. `p_i` is the rank of document `i` by score,
    `D_i = log2(1 + p_i)`, `G_i = (2^y_i - 1) / max(ideal DCG, eps)`, where grades below 0 count as 0.

    | weighting | `w_ij` |
    |---|---|
    | `"none"` | 1 |
    | `"ndcg_loss1"` | `G_i / D_i`, of all pairs of documents |
    | `"ndcg_loss2"` | `abs(1 / log2(1 + g) - 1 / log2(2 + g)) * abs(G_i - G_j)`, `g = abs(p_i - p_j)` |
    | `"lambda_rank"` | `abs(1 / D_i - 1 / D_j) * abs(G_i - G_j)` |
    | `"ndcg_loss2pp"` | `mu` times the weight of `"ndcg_loss2"`, plus that of `"lambda_rank"` |

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        weighting: string. One of the table.
        k: optional int. Only pairs with a document among the top `k` by score count; `None` counts all pairs.
        sigma: float > 0.
        mu: float >= 0, for `"ndcg_loss2pp"`.
        eps: float > 0. The lower bound of the ideal DCG.
        reduction_log: string. The logarithm: `"binary"` or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A scalar; 0 for a batch without a pair that counts.

    Raises:
        ValueError: if `weighting`, `reduction_log` or `activation` is unknown, or the shape of `y_true` or `y_pred`
            does not fit.

    >>> grades, scores = np.array([[1.0, 0.0]], "float32"), np.zeros((2, 1), "float32")
    >>> float(lambda_loss(grades, scores, weighting="none"))
    1.0
    """
    _check.one_of("weighting", weighting, WEIGHTINGS)
    _check.one_of("reduction_log", reduction_log, LOGARITHMS)
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "lambda_loss")
    positions = ranks(scores, is_document)
    (y_i, y_j), (s_i, s_j) = pairs_of(grades), pairs_of(scores)
    keep = ops.logical_and(*pairs_of(is_document))
    if weighting != "ndcg_loss1":
        keep = ops.logical_and(keep, y_i > y_j)
    if k is not None:
        keep = ops.logical_and(keep, ops.logical_or(*pairs_of(positions <= k)))
    losses = ops.softplus(-sigma * (s_i - s_j))
    if weighting != "none":
        weights = _weights(weighting, _gains(grades, is_document, k, eps), positions, scores.dtype, mu)
        losses *= ops.stop_gradient(weights)
    total = ops.sum(ops.where(keep, losses, ops.zeros_like(losses)))
    count = ops.maximum(ops.sum(ops.cast(keep, scores.dtype)), 1.0)
    return total / count / (float(np.log(2.0)) if reduction_log == "binary" else 1.0)


def _gains(grades, is_document, k, eps):
    """Returns the gain of each document divided by the DCG of the best order."""
    gains = ops.power(ops.cast(2.0, grades.dtype), ops.maximum(grades, 0.0)) - 1.0
    ideal = ranks(grades, is_document)
    counts = is_document if k is None else ops.logical_and(is_document, ideal <= k)
    discounted = gains / log2(1.0 + ops.cast(ideal, grades.dtype))
    best = ops.sum(ops.where(counts, discounted, ops.zeros_like(gains)), axis=1, keepdims=True)
    return gains / ops.maximum(best, eps)


def _weights(weighting, gains, positions, dtype, mu):
    positions = ops.cast(positions, dtype)
    discounts = log2(1.0 + positions)
    if weighting == "ndcg_loss1":
        return ops.expand_dims(gains / discounts, -1)
    (g_i, g_j), (d_i, d_j), (p_i, p_j) = map(pairs_of, (gains, 1.0 / discounts, positions))
    worth, found = ops.abs(g_i - g_j), ops.zeros_like(p_i - p_j)
    if weighting != "lambda_rank":
        gap = ops.maximum(ops.abs(p_i - p_j), 1.0)  # 0 between a document and itself, which is not a pair
        step = 1.0 / log2(1.0 + gap) - 1.0 / log2(2.0 + gap)
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
    """The logistic loss of each pair of documents: `lambda_loss` without weights.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        k: see `lambda_loss`.
        sigma: see `lambda_loss`.
        reduction_log: see `lambda_loss`.
        activation: see `lambda_loss`.

    Returns:
        A scalar; 0 for a batch without two documents of different grades.

    Raises:
        ValueError: in the same cases as `lambda_loss`.

    >>> float(rank_net(np.array([[1.0, 0.0]], "float32"), np.zeros((2, 1), "float32")))
    1.0
    """
    options: dict[str, Any] = {"k": k, "sigma": sigma, "reduction_log": reduction_log, "activation": activation}
    return lambda_loss(y_true, y_pred, weighting="none", **options)


class _PairsLoss(_lists.ListLoss):
    """The base of the losses on pairs of documents."""

    per_row = False
    _arguments: tuple[str, ...] = ("k", "sigma", "reduction_log", "activation")

    def _set(self, k, sigma, reduction_log, activation):
        self.k = _check.integer("k", k, optional=True)
        self.sigma = _check.number("sigma", sigma, above=0.0)
        self.reduction_log = _check.one_of("reduction_log", reduction_log, LOGARITHMS)
        self.activation = _lists.check_activation(activation)


@keras.saving.register_keras_serializable("tfxfer")
class LambdaLoss(_PairsLoss):
    """The logistic loss of pairs of documents, weighted by the nDCG change of a swap (`lambda_loss`).

    The formulas are sentence-transformers', which follow the paper: with `"ndcg_loss1"` every pair of documents of a
    list counts, including each document with itself. Its `k=0` is `k=None` here.

    Rows: lists with grades, some of which hold documents of different grades.

    Choose it: for graded judgments evaluated by nDCG; the first choice for training a reranker on lists.

    See also: `RankNetLoss` has no weights; `ListNetLoss` has a value for each list and takes a teacher's scores;
    `ListSoftmaxLoss` suits one positive per list.

    Args:
        weighting: string. `"none"`, `"ndcg_loss1"`, `"ndcg_loss2"`, `"lambda_rank"` or `"ndcg_loss2pp"` (default), the
            best in the paper.
        k: optional int. Only pairs with a document among the top `k` by score count, as other swaps do not change
            nDCG@k. Defaults to `None`, all pairs.
        sigma: float > 0. The factor on differences of scores. Defaults to 1.
        mu: float >= 0. The weight of `"ndcg_loss2"` within `"ndcg_loss2pp"`. Defaults to 10.
        eps: float > 0. The lower bound of the DCG of the best order. Defaults to 1e-10.
        reduction_log: `"binary"` (default) or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if an argument is out of range, the shape of `y_true` or `y_pred` does not fit, or `sample_weight`
            is not a scalar.

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
    """The logistic loss of pairs of documents, all with equal weight (`rank_net`).

    Rows: lists with grades, some of which hold documents of different grades.

    Choose it: when every wrongly ordered pair matters equally, also at the end of a list.

    See also: `LambdaLoss` weights pairs by their ranks; `ListMLELoss` has a value for each list.

    Args:
        k: optional int, see `LambdaLoss`. Defaults to `None`.
        sigma: float > 0. The factor on differences of scores. Defaults to 1.
        reduction_log: `"binary"` (default) or `"natural"`.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: in the same cases as `LambdaLoss`.

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
