"""Losses on token vectors compared by MaxSim, and the loss on a matrix of scores that they use."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base


def score_ranking(scores: Any, scale: float = 1.0) -> Any:
    """In-batch softmax over any matrix of scores: row i should score column i highest.

    `logsumexp_j scale * s_ij - scale * s_ii`.

    Args:
        scores: float tensor `(batch, documents >= batch)`. The scores of each query for all documents of the batch;
            document i belongs to query i.
        scale: float > 0. The inverse temperature.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `scores` is not a matrix with at least as many columns as rows.

    >>> [round(float(x), 4) for x in score_ranking(np.zeros((2, 2), "float32"))]  # log 2
    [0.6931, 0.6931]
    """
    shape = tuple(scores.shape)
    if len(shape) != 2 or (None not in shape and shape[1] < shape[0]):
        remedy = "Score all queries of the batch against all documents; for one query's own see `distill_kl_div`."
        raise _check.invalid("scores", "a tensor (batch, documents >= batch)", shape, remedy)
    rows, columns = ops.shape(scores)
    own = ops.expand_dims(ops.arange(rows), 1) == ops.expand_dims(ops.arange(columns), 0)
    logits = scale * scores
    reached = ops.sum(ops.where(own, logits, ops.zeros_like(logits)), axis=1)
    return ops.logsumexp(logits, axis=1) - reached


def maxsim_ranking(y_pred: Any, scale: float = 1.0, *, chunk_size: int = 8) -> Any:
    """In-batch negatives by MaxSim: each query should score its own document above all others in the batch.

    `score_ranking` of the MaxSim of all queries with all documents, including those in further columns.

    Args:
        y_pred: float tensor `(batch, columns >= 2, length, dim)`: query, document, hard negatives. Ignored tokens are
            vectors of zeros.
        scale: float > 0. The inverse temperature. MaxSim grows with the number of query tokens: 1 suits 32 tokens.
        chunk_size: int. The number of queries compared at a time. `chunk_size * documents * length^2` products are held
            at once, also in the backward pass, which recomputes them.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `y_pred` does not have 4 axes and at least 2 columns.

    >>> tokens = np.array([[[[1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 1.0]], [[1.0, 0.0]]]], "float32")
    >>> [round(float(x), 4) for x in maxsim_ranking(tokens)]  # both documents are alike: log 2
    [0.6931, 0.6931]
    """
    y_pred = _tokens(y_pred, 2, "maxsim_ranking")
    shape = ops.shape(y_pred)
    documents = ops.reshape(ops.transpose(y_pred[:, 1:], (1, 0, 2, 3)), (-1, shape[2], shape[3]))
    return score_ranking(_ops.maxsim(y_pred[:, 0], documents, chunk_size), scale)


def maxsim_distillation(
    y_true: Any, y_pred: Any, student_temperature: float = 1.0, *, teacher_temperature: float = 1.0
) -> Any:
    """KL divergence of the MaxSim distribution over a row's documents from the teacher's.

    `Ts^2 * sum p * (log p - log q)`, `p = softmax(y / Tt)`, `q = softmax(MaxSim / Ts)`.

    Args:
        y_true: float tensor `(batch, documents)`. The teacher's scores of positive and negatives.
        y_pred: float tensor `(batch, 1 + documents, length, dim)`: query, positive, negatives, at least two documents.
            Ignored tokens are vectors of zeros.
        student_temperature: float > 0, `Ts`.
        teacher_temperature: float > 0, `Tt`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `y_pred` does not have 4 axes and at least 3 columns, or `y_true` does not hold a score for each
            document.

    >>> tokens = np.array([[[[1.0, 0.0]], [[0.8, 0.6]], [[0.6, 0.8]]]], "float32")
    >>> [round(float(x), 4) for x in maxsim_distillation(np.array([[0.2, 0.0]], "float32"), tokens)]
    [0.0]
    """
    y_pred = _tokens(y_pred, 3, "maxsim_distillation")
    shape, expected = tuple(y_true.shape), (y_pred.shape[0], y_pred.shape[1] and y_pred.shape[1] - 1)
    fits = len(shape) == 2 and all(a is None or b is None or a == b for a, b in zip(shape, expected, strict=True))
    if not fits:
        remedy = "The query's column needs no score."
        raise _check.invalid("y_true", f"the teacher's score of each document, shape {expected}", shape, remedy)
    queries, documents = ops.expand_dims(y_pred[:, 0], 1), y_pred[:, 1:]
    products = ops.matmul(queries, ops.transpose(documents, (0, 1, 3, 2)))
    keep = ops.expand_dims(ops.any(documents != 0, axis=-1), 2)
    scores = ops.sum(_ops.masked_max(products, keep), axis=-1)
    student = ops.log_softmax(scores / student_temperature, axis=1)
    teacher = ops.log_softmax(ops.cast(y_true, scores.dtype) / teacher_temperature, axis=1)
    return student_temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=1)


def _tokens(y_pred, least, name):
    """Returns `y_pred` if it is `(batch, columns, length, dim)` with enough columns; raises for any other shape."""
    if len(y_pred.shape) != 4 or (y_pred.shape[1] is not None and y_pred.shape[1] < least):
        raise _check.invalid(
            "y_pred",
            f"a tensor (batch, columns, length, dim) with at least {least} columns for {name}",
            tuple(y_pred.shape),
            "Train a `models.Siamese` over a `models.LateInteractionEmbedder`; other embedders need other losses.",
        )
    return y_pred


@keras.saving.register_keras_serializable("tfxfer")
class MaxSimRankingLoss(_base.CheckedLoss):
    """Each query should score its own document above all others in the batch by MaxSim (`maxsim_ranking`).

    Rows with equal texts in one batch become false negatives of each other.

    Rows: two texts that belong together, query first, further columns hold hard negatives; `y_true` is ignored.
    `y_pred` is `(batch, columns, length, dim)`, the output of a `models.Siamese` over a
    `models.LateInteractionEmbedder`.

    Choose it: to train late interaction for search, without a teacher.

    See also: `MaxSimDistillationLoss` learns a teacher's scores; `MultipleNegativesRankingLoss` is the same for one
    vector per text.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 1, as in ColBERT: MaxSim is a sum over the query's
            tokens. For queries of few tokens, without mask tokens, choose 5 or more.
        chunk_size: int. The number of queries compared at a time; `chunk_size * documents * length^2` products are held
            at once. Defaults to 8.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `scale` is not above 0, `chunk_size` is not an int >= 1, or `y_pred` has another shape.

    Example:

    ```python
    model = tx.models.Siamese(late_interaction_embedder)
    model.compile("adamw", loss=tx.losses.MaxSimRankingLoss())
    ```

    Reference: Khattab and Zaharia, 2020, ColBERT, https://arxiv.org/abs/2004.12832.
    """

    labels = None

    def __init__(self, scale: float = 1.0, *, chunk_size: int = 8, name: str = "maxsim_ranking", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.chunk_size = _check.integer("chunk_size", chunk_size)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return maxsim_ranking(y_pred, self.scale, chunk_size=self.chunk_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "chunk_size": self.chunk_size}


@keras.saving.register_keras_serializable("tfxfer")
class MaxSimDistillationLoss(_base.CheckedLoss):
    """KL divergence of the MaxSim distribution over documents from the teacher's (`maxsim_distillation`).

    Rows: three texts or more: query, positive, negatives; `y_true` the teacher's scores `(batch, documents)`. `y_pred`
    is `(batch, columns, length, dim)`, the output of a `models.Siamese` over a `models.LateInteractionEmbedder`.

    Choose it: to teach late interaction a cross-encoder's ranking of several documents per query, as ColBERTv2 does.

    See also: `MaxSimRankingLoss` needs no teacher; `DistillKLDivLoss` is the same for one vector per text.

    Args:
        student_temperature: float > 0. Defaults to 1: MaxSim is a sum over the query's tokens.
        teacher_temperature: float > 0. Defaults to 1, for logits; choose 0.05 if the teacher's scores are cosines.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if a temperature is not above 0, `y_pred` has another shape, or `y_true` does not hold a score for
            each document.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.MaxSimDistillationLoss())
    model.fit((queries, positives, negatives), np.stack([positive_scores, negative_scores], axis=1))
    ```

    Reference: Santhanam et al., 2022, ColBERTv2, https://arxiv.org/abs/2112.01488.
    """

    def __init__(
        self,
        student_temperature: float = 1.0,
        *,
        teacher_temperature: float = 1.0,
        name: str = "maxsim_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.student_temperature = _check.number("student_temperature", student_temperature, above=0.0)
        self.teacher_temperature = _check.number("teacher_temperature", teacher_temperature, above=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return maxsim_distillation(
            y_true, y_pred, self.student_temperature, teacher_temperature=self.teacher_temperature
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
        }
