"""Losses that distill a teacher's margins, scores or embeddings into a model."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base


def _scores(y_pred, similarity, name):
    """Returns the query's similarity to each document: `(batch, columns, dim)` -> `(batch, documents)`."""
    _check.one_of("similarity", similarity, _ops.SIMILARITIES)
    y_pred = _base.columns(y_pred, 3, name)
    return _ops.SIMILARITIES[similarity](y_pred[:, :1], y_pred[:, 1:])


def _teacher(y_true, scores, what, remedy):
    """Checks the teacher's numbers against the student's `(batch, n)`; `(batch,)` means `(batch, 1)`."""
    shape, expected = tuple(y_true.shape), tuple(scores.shape)
    if len(shape) == 1:
        y_true, shape = ops.expand_dims(y_true, 1), (*shape, 1)
    fits = len(shape) == 2 and all(a is None or b is None or a == b for a, b in zip(shape, expected, strict=True))
    if not fits:
        raise _check.invalid("y_true", f"{what}, shape {expected}", shape, remedy)
    return ops.cast(y_true, scores.dtype)


def margin_mse(y_true: Any, y_pred: Any, scale: float = 1.0, similarity: str = "dot") -> Any:
    """Regresses the student's margin between positive and negative onto the teacher's.

    `(scale * (s(q, p) - s(q, n)) - y)^2`, averaged over the negatives of a row.

    Args:
        y_true: float tensor `(batch,)` for one negative, else `(batch, negatives)`: the teacher's score of the positive
            minus that of each negative.
        y_pred: float tensor `(batch, columns >= 3, dim)`: query, positive, negatives.
        scale: float > 0. The factor on the student's similarities.
        similarity: string. `"dot"`, `"cosine"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `similarity` is unknown, `y_pred` has fewer than 3 columns, or `y_true` does not hold a margin
            for each negative.

    >>> rows = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> margin_mse(np.array([0.5], "float32"), rows).numpy().tolist()
    [0.25]
    """
    scores = _scores(y_pred, similarity, "margin_mse")
    margins = scale * (scores[:, :1] - scores[:, 1:])
    remedy = "Compute it from the teacher's scores (batch, documents): scores[:, :1] - scores[:, 1:]."
    y_true = _teacher(y_true, margins, "the teacher's margin for each negative", remedy)
    return ops.mean(ops.square(margins - y_true), axis=1)


def distill_kl_div(
    y_true: Any,
    y_pred: Any,
    student_temperature: float = 0.05,
    *,
    teacher_temperature: float = 1.0,
    similarity: str = "dot",
) -> Any:
    """KL divergence of the student's distribution over the row's documents from the teacher's.

    `Ts^2 * sum p * (log p - log q)`, `p = softmax(y / Tt)`, `q = softmax(s(query, documents) / Ts)`.

    Args:
        y_true: float tensor `(batch, documents)`. The teacher's scores of positive and negatives.
        y_pred: float tensor `(batch, 1 + documents, dim)`: query, positive, negatives, at least two documents.
        student_temperature: float > 0, `Ts`.
        teacher_temperature: float > 0, `Tt`.
        similarity: string. `"dot"`, `"cosine"`, or the name of a distance, which is negated.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `similarity` is unknown, `y_pred` has fewer than 3 columns, or `y_true` does not hold a score for
            each document.

    >>> rows = np.array([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]], "float32")
    >>> [round(float(x), 4) for x in distill_kl_div(np.array([[4.0, 0.0]], "float32"), rows)]  # 4 = (0.8 - 0.6) / 0.05
    [0.0]
    """
    scores = _scores(y_pred, similarity, "distill_kl_div")
    y_true = _teacher(y_true, scores, "the teacher's score of each document", "The query's column needs no score.")
    student = ops.log_softmax(scores / student_temperature, axis=1)
    teacher = ops.log_softmax(y_true / teacher_temperature, axis=1)
    return student_temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=1)


def _mean_squared_error(x, y):
    return ops.mean(ops.square(x - y), axis=-1)


ERRORS = {"mse": _mean_squared_error, "cosine": _ops.cosine_distance}


def embedding_distillation(y_true: Any, y_pred: Any, error: str = "mse") -> Any:
    """Regresses each embedding onto the teacher's.

    `mean((x - y)^2)` over the components (`"mse"`) or `1 - cos(x, y)` (`"cosine"`), averaged over the texts of a row.

    Args:
        y_true: float tensor of `y_pred`'s shape. The teacher's embeddings of the same texts.
        y_pred: float tensor `(batch, dim)` or `(batch, columns, dim)`.
        error: string. `"mse"` or `"cosine"`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `error` is unknown, or the shapes of `y_true` and `y_pred` differ.

    >>> embedding_distillation(np.array([[1.0, 0.0]], "float32"), np.array([[0.0, 0.0]], "float32")).numpy().tolist()
    [0.5]
    """
    _check.one_of("error", error, ERRORS)
    flat = _base.texts(y_pred, "embedding_distillation")
    y_true = _base.embeddings(y_true, y_pred, "teacher")
    if None not in (y_true.shape[-1], y_pred.shape[-1]) and y_true.shape[-1] != y_pred.shape[-1]:
        raise _check.invalid(
            "y_true",
            f"teacher's embeddings with the student's {y_pred.shape[-1]} dimensions",
            tuple(y_true.shape),
            "Reduce the teacher's by PCA, give the student a dense layer of the teacher's size, or distill scores with "
            "MarginMSELoss or DistillKLDivLoss.",
        )
    return _base.mean_over_columns(ERRORS[error](flat, ops.reshape(y_true, ops.shape(flat))), y_pred)


@keras.saving.register_keras_serializable("tfxfer")
class MarginMSELoss(_base.CheckedLoss):
    """Regresses the margin between positive and negative onto the teacher's (`margin_mse`).

    Rows: three texts or more: query, positive, negatives; `y_true` the teacher's margins `(batch,)` or
    `(batch, negatives)`.

    Choose it: to teach an embedder a cross-encoder's scores of mined negatives. A false negative does no harm, because
    its margin is small.

    See also: `DistillKLDivLoss` matches the distribution over all documents of a row and does not depend on the range
    of the scores; `TripletMarginRankingLoss` has one fixed margin and no teacher.

    Args:
        scale: float > 0. The factor on the student's similarities. Defaults to 1, which suits a teacher whose scores
            have the student's range. The similarities of unit vectors differ by at most 2: for a teacher whose margins
            reach 10, choose 5 or more, or an embedder without normalization.
        similarity: string. `"dot"` (default), `"cosine"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` does not hold a margin for each negative.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.MarginMSELoss())
    model.fit((queries, positives, negatives), positive_scores - negative_scores)
    ```

    Reference: Hofstätter et al., 2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation, https://arxiv.org/abs/2010.02666.
    """

    compares_rows = False

    def __init__(self, scale: float = 1.0, similarity: str = "dot", *, name: str = "margin_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return margin_mse(y_true, y_pred, self.scale, self.similarity)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "similarity": self.similarity}


@keras.saving.register_keras_serializable("tfxfer")
class DistillKLDivLoss(_base.CheckedLoss):
    """KL divergence of the student's distribution over documents from the teacher's (`distill_kl_div`).

    Rows: three texts or more: query, positive, negatives; `y_true` the teacher's scores `(batch, documents)`.

    Choose it: to teach an embedder a cross-encoder's ranking of several documents per query.

    See also: `MarginMSELoss` matches differences of scores one by one; `EmbeddingDistillationLoss` needs a teacher's
    embeddings instead of scores.

    Args:
        student_temperature: float > 0. Defaults to 0.05. With sentence-transformers' 1, the softmax over dot products
            of unit vectors, which lie in -1..1, is almost flat and cannot follow a teacher.
        teacher_temperature: float > 0. Defaults to 1, for logits; choose 0.05 if the teacher's scores are cosines.
        similarity: string. `"dot"` (default), `"cosine"`, or the name of a distance, which is negated.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` does not hold a score for each document.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.DistillKLDivLoss())
    model.fit((queries, positives, negatives), np.stack([positive_scores, negative_scores], axis=1))
    ```

    Reference: Lin, Yang and Lin, 2020, Distilling Dense Representations for Ranking using Tightly-Coupled Teachers,
    https://arxiv.org/abs/2010.11386.
    """

    compares_rows = False

    def __init__(
        self,
        student_temperature: float = 0.05,
        *,
        teacher_temperature: float = 1.0,
        similarity: str = "dot",
        name: str = "distill_kl_div",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.student_temperature = _check.number("student_temperature", student_temperature, above=0.0)
        self.teacher_temperature = _check.number("teacher_temperature", teacher_temperature, above=0.0)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return distill_kl_div(
            y_true,
            y_pred,
            self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            similarity=self.similarity,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
            "similarity": self.similarity,
        }


@keras.saving.register_keras_serializable("tfxfer")
class EmbeddingDistillationLoss(_base.CheckedLoss):
    """Regresses each embedding onto the teacher's (`embedding_distillation`).

    Rows: one text or several; `y_true` the teacher's embeddings, in the shape of `y_pred`.

    Choose it: to distill a good embedder into a smaller, faster or multilingual one, from texts without labels. For
    another language, use rows of (text, translation) with the teacher's embedding of the text in both columns.

    See also: `MarginMSELoss` and `DistillKLDivLoss` for teachers that score, or whose embeddings have another
    dimension.

    Args:
        error: string. `"mse"` (default), averaged over the components, or `"cosine"`, which ignores the lengths of
            vectors.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if the shapes of `y_true` and `y_pred` differ.

    Example:

    ```python
    student.compile("adamw", loss=tx.losses.EmbeddingDistillationLoss())
    student.fit(texts, teacher.encode(texts))
    ```

    Reference: Reimers and Gurevych, 2020, Making Monolingual Sentence Embeddings Multilingual,
    https://arxiv.org/abs/2004.09813.
    """

    compares_rows = False

    def __init__(self, error: str = "mse", *, name: str = "embedding_distillation", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.error = _check.one_of("error", error, ERRORS)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return embedding_distillation(y_true, y_pred, self.error)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "error": self.error}
