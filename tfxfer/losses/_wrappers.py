"""Losses around other losses: several embedding sizes at once, and a regularizer."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base
from tfxfer.losses._distillation import EmbeddingDistillationLoss


def matryoshka(
    loss: Callable, y_true: Any, y_pred: Any, dims: Sequence[int], weights: Sequence[float] | None = None
) -> Any:
    """The weighted sum of a loss on the embeddings truncated to several sizes.

    `sum over dims of w_d * L(normalize(x[..., :d]))`.

    Args:
        loss: function of `(y_true, y_pred)`.
        y_true: targets for `loss`.
        y_pred: float tensor `(..., dim)`.
        dims: ints from 1 to `dim`. The numbers of components to keep.
        weights: optional floats, one for each of `dims`; 1 by default.

    Returns:
        The weighted sum, in the shape that `loss` returns.

    Raises:
        ValueError: if `dims` are not distinct ints from 1 to `dim`, or `weights` does not hold a number >= 0 for each
            of them.

    >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> matryoshka(lambda y, x: _ops.cosine_distance(x[:, 0], x[:, 1]), None, pairs, dims=(2, 1)).numpy().tolist()
    [2.0]
    """
    dims, weights = _sizes(dims, weights)
    if y_pred.shape[-1] is not None and max(dims) > y_pred.shape[-1]:
        raise _check.invalid("dims", f"ints up to the embedding's dimension {y_pred.shape[-1]}", dims)
    return sum(
        weight * loss(y_true, _ops.unit_norm(y_pred[..., :dim])) for dim, weight in zip(dims, weights, strict=True)
    )


def _sizes(dims, weights):
    """Checks sizes and weights; returns both as tuples."""
    if not isinstance(dims, list | tuple) or not dims or len(set(dims)) < len(dims):
        raise _check.invalid("dims", "a list of different ints >= 1, such as [384, 256, 128, 64]", dims)
    dims = tuple(_check.integer("dims", dim) for dim in dims)
    if weights is None:
        return dims, (1.0,) * len(dims)
    if not isinstance(weights, list | tuple) or len(weights) != len(dims):
        raise _check.invalid("weights", f"a list of {len(dims)} numbers, one for each of `dims`", weights)
    return dims, tuple(_check.number("weights", weight, minimum=0.0) for weight in weights)


def global_orthogonal_regularization(y_pred: Any, mean_weight: float = 1.0, second_moment_weight: float = 1.0) -> Any:
    """Spreads unrelated embeddings over the sphere, as if they were drawn uniformly.

    `mean_weight * m^2 + second_moment_weight * max(0, v - 1 / dim)`, where `m` is the mean and `v` the mean square of
    the cosines of different rows; computed for each column, then averaged over columns.

    Args:
        y_pred: float tensor `(batch, dim)` or `(batch, columns, dim)`.
        mean_weight: float >= 0.
        second_moment_weight: float >= 0.

    Returns:
        A scalar; 0 for a batch of one row.

    Raises:
        ValueError: if `y_pred` does not have 2 or 3 axes.

    >>> float(global_orthogonal_regularization(np.array([[1.0, 0.0], [1.0, 0.0]], "float32")))
    1.5
    """
    _base.texts(y_pred, "global_orthogonal_regularization")
    columns = ops.expand_dims(y_pred, 0) if len(y_pred.shape) == 2 else ops.transpose(y_pred, (1, 0, 2))
    unit = _ops.unit_norm(columns)
    cosines = ops.matmul(unit, ops.transpose(unit, (0, 2, 1)))
    batch = ops.shape(cosines)[1]
    position = ops.arange(batch)
    cosines = ops.where(ops.expand_dims(position, 0) != ops.expand_dims(position, 1), cosines, ops.zeros_like(cosines))
    count = ops.maximum(ops.cast(batch * (batch - 1), cosines.dtype), 1.0)
    mean = ops.sum(cosines, axis=(1, 2)) / count
    second_moment = ops.sum(ops.square(cosines), axis=(1, 2)) / count
    excess = ops.relu(second_moment - 1.0 / y_pred.shape[-1])
    return ops.mean(mean_weight * ops.square(mean) + second_moment_weight * excess)


class _Wrapper(_base.CheckedLoss):
    """A loss around another, with the same checks of labels and weights."""

    def __init__(self, loss: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = loss
        self.per_row = loss is not None and getattr(loss, "per_row", True)
        self.compares_rows = self.compares_rows or getattr(loss, "compares_rows", True)

    def targets(self, y_true: Any) -> Any:
        return self.loss.targets(y_true) if isinstance(self.loss, _base.CheckedLoss) else y_true

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def _is_loss(loss):
    remedy = "Pass an instance, tx.losses.CoSENTLoss(), not a class or a name."
    return _check.instance("loss", loss, keras.losses.Loss, "a keras.losses.Loss", remedy)


@keras.saving.register_keras_serializable("tfxfer")
class MatryoshkaLoss(_Wrapper):
    """Trains embeddings whose first components are good embeddings too (`matryoshka`).

    Rows: those of the wrapped loss, including `y_true`.

    Choose it: when vectors will be truncated (`encode(truncate_dim=...)`) to save memory and search time.

    See also: any loss on embeddings is cheaper by itself, but truncated vectors then lose more quality.

    Args:
        loss: `keras.losses.Loss`, such as `CoSENTLoss()`. Its own `reduction` and `dtype` are ignored, because its
            values are summed first.
        dims: list of ints, for example `[384, 256, 128, 64]`; include the full size unless only truncated vectors
            matter.
        weights: optional list of floats >= 0, one for each of `dims`. Defaults to 1 each.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Truncated embeddings are normalized to unit length. The teacher's embeddings of an `EmbeddingDistillationLoss` are
    truncated and normalized in the same way.

    Raises:
        ValueError: if a size exceeds the embedding's, or the wrapped loss raises.

    Example:

    ```python
    loss = tx.losses.MatryoshkaLoss(tx.losses.MultipleNegativesRankingLoss(), dims=[384, 256, 128, 64])
    model.compile("adamw", loss=loss)
    ```

    Reference: Kusupati et al., 2022, Matryoshka Representation Learning, https://arxiv.org/abs/2205.13147.
    """

    compares_rows = False  # unless the wrapped loss does

    def __init__(
        self,
        loss: keras.losses.Loss,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        name: str = "matryoshka",
        **kwargs: Any,
    ) -> None:
        super().__init__(_is_loss(loss), name=name, **kwargs)
        self.dims, self.weights = _sizes(dims, weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return matryoshka(self._inside, y_true, y_pred, self.dims, self.weights)

    def _inside(self, y_true, y_pred):
        if isinstance(self.loss, EmbeddingDistillationLoss):
            y_true = _ops.unit_norm(y_true[..., : y_pred.shape[-1]])
        return self.loss.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dims": list(self.dims), "weights": list(self.weights)}


@keras.saving.register_keras_serializable("tfxfer")
class GlobalOrthogonalRegularizationLoss(_Wrapper):
    """A loss plus a term that spreads unrelated texts over the sphere (`global_orthogonal_regularization`).

    Rows: those of the wrapped loss, including `y_true`; rows of one batch are treated as unrelated.

    Choose it: on top of a loss on pairs or triplets, when all cosines drift together (every two texts have a cosine of
    0.8), or before vectors are quantized.

    See also: `MultipleNegativesRankingLoss` already spreads embeddings, so this term adds little.

    Args:
        loss: optional `keras.losses.Loss`. The term is added to each of its values, so it counts once in their mean.
            Its own `reduction` and `dtype` are ignored. By default the loss is the term alone, for a separate output:
            one number for the whole batch.
        mean_weight: float >= 0. The weight of the squared mean cosine. Defaults to 1.
        second_moment_weight: float >= 0. The weight of the mean squared cosine above `1 / dim`. Defaults to 1.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `loss` is not a `keras.losses.Loss`, a weight is negative, or the wrapped loss raises.

    Example:

    ```python
    loss = tx.losses.GlobalOrthogonalRegularizationLoss(tx.losses.TripletLoss())
    model.compile("adamw", loss=loss)
    ```

    Reference: Zhang et al., 2017, Learning Spread-out Local Feature Descriptors, https://arxiv.org/abs/1708.06320.
    """

    def __init__(
        self,
        loss: keras.losses.Loss | None = None,
        mean_weight: float = 1.0,
        second_moment_weight: float = 1.0,
        *,
        name: str = "global_orthogonal_regularization",
        **kwargs: Any,
    ) -> None:
        super().__init__(None if loss is None else _is_loss(loss), name=name, **kwargs)
        self.mean_weight = _check.number("mean_weight", mean_weight, minimum=0.0)
        self.second_moment_weight = _check.number("second_moment_weight", second_moment_weight, minimum=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        spread = global_orthogonal_regularization(y_pred, self.mean_weight, self.second_moment_weight)
        return self.whole(spread) if self.loss is None else self.loss.call(y_true, y_pred) + spread

    def get_config(self) -> dict[str, Any]:
        weights = {"mean_weight": self.mean_weight, "second_moment_weight": self.second_moment_weight}
        return {**super().get_config(), **weights}
