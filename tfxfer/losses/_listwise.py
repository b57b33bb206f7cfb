"""Losses that compare all documents of a query by their grades or by a teacher's scores."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _list_pairs, _lists

DISCOUNTS = ("exponential", "log2", "reciprocal")


def list_net(y_true: Any, y_pred: Any, *, activation: str | None = None) -> Any:
    """Cross-entropy between the softmax of the grades and the softmax of the scores of a list.

    `-sum softmax(y)_i log softmax(s)_i`.

    Args:
        y_true: tensor `(lists, documents)` of grades or a teacher's scores, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`. The target of a list of equal grades is the uniform distribution.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> found = list_net(np.array([[1.0, 1.0], [3.0, np.nan]], "float32"), np.zeros((3, 1), "float32"))
    >>> [round(float(x), 4) for x in found]
    [0.6931, 0.0]
    """
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "list_net")
    target = ops.exp(ops.where(is_document, -_surprise(grades, is_document), ops.zeros_like(grades)))
    found = target * _surprise(scores, is_document)
    return ops.sum(ops.where(is_document, found, ops.zeros_like(found)), axis=1)


def _surprise(values, keep):
    """Returns the negative logarithm of the softmax over the entries in `keep`."""
    return ops.expand_dims(_ops.masked_logsumexp(values, keep), 1) - values


def list_mle(y_true: Any, y_pred: Any, *, by_grade: bool = True, activation: str | None = None) -> Any:
    """The negative log-likelihood of the correct order under the Plackett-Luce model of the scores.

    `-sum_i (s_i - log sum exp(s_i ... s_n))`, with the documents in the correct order.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        by_grade: bool. If True, the correct order is by descending grade, and ties keep the order of the list. If
            False, it is the order of the list.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A tensor `(lists,)`: the sum over the documents of each list.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> found = list_mle(np.array([[0.0, 2.0, 1.0]], "float32"), np.zeros((3, 1), "float32"))
    >>> round(float(found[0]), 4)  # log 6
    1.7918
    """
    losses, _, is_document = _likelihoods(y_true, y_pred, by_grade, activation, "list_mle")
    return ops.sum(ops.where(is_document, losses, ops.zeros_like(losses)), axis=1)


def _likelihoods(y_true, y_pred, by_grade, activation, name):
    """Returns each document's negative log-likelihood, its place in the correct order, and the mask of documents."""
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, name)
    places = _list_pairs.ranks(grades if by_grade else ops.zeros_like(grades), is_document)
    own, other = _list_pairs.pairs_of(places)
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
    """`list_mle` with larger weights for documents at the top of the correct order.

    Each term is multiplied by `v_i / sum v`, where `i` from 1 to `n` is the document's place in the correct order.

    | discount | `v_i` |
    |---|---|
    | `"exponential"` | `2^(n - i) - 1` |
    | `"log2"` | `1 / log2(1 + i)` |
    | `"reciprocal"` | `1 / i` |
    | `None` | no factor: `list_mle` |

    Args:
        y_true: see `list_mle`.
        y_pred: see `list_mle`.
        discount: optional string. One of the table.
        by_grade: see `list_mle`.
        activation: see `list_mle`.

    Returns:
        A tensor `(lists,)`.

    Raises:
        ValueError: if `discount` or `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

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
    # Divided by 2^n, which would overflow for lists of a few hundred documents.
    least = 1e-10 * ops.power(two, -count) if discount == "exponential" else 1e-10
    if discount == "exponential":
        found = ops.power(two, -places) - ops.power(two, -count)
    else:
        found = 1.0 / (_list_pairs.log2(1.0 + places) if discount == "log2" else places)
    found = ops.where(is_document, found, ops.zeros_like(found))
    total = ops.sum(found, axis=1, keepdims=True)
    # In half precision `least` is 0, and a list of one document has no weight at all.
    divisor = ops.where(total > 0, total + least, ops.ones_like(total))
    return found / divisor


def adr_mse(y_true: Any, y_pred: Any, *, alpha: float = 1.0, activation: str | None = None) -> Any:
    """The squared error of each document's soft rank, discounted by its correct rank.

    `(r_i - a_i)^2 / log2(1 + r_i)`, averaged over all documents of the batch. `r_i` is the rank of document `i` by
    descending grade, where ties share their mean rank; `a_i = 1 + sum over j != i of sigmoid(alpha (s_j - s_i))`.

    Args:
        y_true: tensor `(lists, documents)` of grades, NaN past the end of a list.
        y_pred: float tensor `(documents, 1)`, `(documents,)` or `(lists, documents)`.
        alpha: float > 0. The sharpness of soft ranks.
        activation: `"sigmoid"` or `"tanh"`, applied to `y_pred` first; `None` for none.

    Returns:
        A scalar.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

    >>> found = adr_mse(np.array([[2.0, 2.0]], "float32"), np.zeros((2, 1), "float32"))
    >>> float(found)  # both have the rank 1.5
    0.0
    """
    grades, scores, is_document = _lists.lists(y_true, y_pred, activation, "adr_mse")
    (y_i, y_j), (s_i, s_j) = _list_pairs.pairs_of(grades), _list_pairs.pairs_of(scores)
    others = ops.expand_dims(is_document, -2)
    dtype = scores.dtype
    greater = ops.sum(ops.cast(ops.logical_and(others, y_j > y_i), dtype), axis=-1)
    equal = ops.sum(ops.cast(ops.logical_and(others, y_j == y_i), dtype), axis=-1)
    right = ops.where(is_document, greater + 0.5 * (equal + 1.0), ops.ones_like(greater))
    is_other = ops.logical_and(others, ops.expand_dims(ops.eye(ops.shape(scores)[1], dtype=dtype) == 0, 0))
    soft = ops.sigmoid(alpha * (s_j - s_i))
    found = 1.0 + ops.sum(ops.where(is_other, soft, ops.zeros_like(soft)), axis=-1)
    errors = ops.square(right - found) / _list_pairs.log2(1.0 + right)
    return _ops.masked_mean(errors, is_document)


@keras.saving.register_keras_serializable("tfxfer")
class ListNetLoss(_lists.ListLoss):
    """Cross-entropy between the softmax of the grades and of the scores (`list_net`).

    Rows: lists with grades, or with a teacher's scores.

    Choose it: to teach a reranker a teacher's distribution over the documents of a query; with grades, when rows need
    sample weights.

    See also: `DistillKLDivLoss` does the same for embedders; `LambdaLoss` suits grades; `ScoreMarginMSELoss` uses
    only a teacher's margins, and `ADRMSELoss` only its ranks.

    Args:
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `activation` is unknown, or the shape of `y_true` or `y_pred` does not fit.

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
    """The negative log-likelihood of the correct order of a list (`list_mle`).

    Its value grows with the length of the lists, because it sums over documents. By default sentence-transformers
    treats the order of the list as correct and ignores the grades; here that is `by_grade=False`.

    Rows: lists with grades; or lists in the correct order, with any numbers.

    Choose it: when the whole order is known, from a teacher's ranking or from fine-grained grades.

    See also: `PositionListMLELoss` gives the top more weight; `ListNetLoss` treats equal grades equally, while here
    they keep the order of the list.

    Args:
        by_grade: bool. Whether the correct order is by descending grade (default), or that of the list.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `by_grade` is not a bool, `activation` is unknown, or the shape of `y_true` or `y_pred` does not
            fit.

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
    """The negative log-likelihood of the correct order, with most weight at the top (`position_list_mle`).

    This is sentence-transformers' `PListMLELoss` with two differences: the correct order is by grade unless
    `by_grade=False`, and discounts ignore the padding of shorter lists.

    Rows: lists with grades; or lists in the correct order, with any numbers.

    Choose it: when the order is known and its top matters most.

    See also: `ListMLELoss` has no weights; `LambdaLoss` targets nDCG.

    Args:
        discount: optional string. `"exponential"` (default, the paper's), `"log2"` or `"reciprocal"`; `None` for no
            weights.
        by_grade: bool. Whether the correct order is by descending grade (default), or that of the list.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `discount` or `activation` is unknown, `by_grade` is not a bool, or the shape of `y_true` or
            `y_pred` does not fit.

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
    """The squared error of soft ranks, discounted by the correct ranks (`adr_mse`).

    Rows: lists with a teacher's scores or ranks (larger is better), or with grades.

    Choose it: to teach a reranker a large language model's ranking, of which only the ranks are reliable.

    See also: `ListNetLoss` and `ScoreMarginMSELoss` use the teacher's scores; `LambdaLoss` suits grades.

    Args:
        alpha: float > 0. The sharpness of soft ranks: scores farther apart than about `1 / alpha` count as ordered.
            Defaults to 1.
        activation: `"sigmoid"` or `"tanh"`, applied to the logits first. Defaults to `None`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `alpha` is not above 0, `activation` is unknown, the shape of `y_true` or `y_pred` does not fit,
            or `sample_weight` is not a scalar.

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
