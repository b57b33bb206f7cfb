"""Shared by all losses on embeddings: input checks, and the class that adapts a function to Keras."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check, _ops, _replicas


def pair(y_pred, name):
    """Returns both columns of `y_pred` `(batch, 2, dim)`; raises for any other shape."""
    if len(y_pred.shape) != 3 or y_pred.shape[1] not in (2, None):
        raise _check.invalid(
            "y_pred",
            f"a tensor (batch, 2, dim) for {name}",
            tuple(y_pred.shape),
            "Train through `models.Siamese` on rows of two texts (`data.pairs`); use the triplet and ranking losses "
            "for rows of more texts.",
        )
    return y_pred[:, 0], y_pred[:, 1]


def columns(y_pred, least, name):
    """Returns `y_pred` `(batch, columns, dim)` if it has at least `least` columns; raises for any other shape."""
    if len(y_pred.shape) != 3 or (y_pred.shape[1] is not None and y_pred.shape[1] < least):
        makers = "`data.pairs` or `data.triplets`" if least == 2 else "`data.triplets`"
        raise _check.invalid(
            "y_pred",
            f"a tensor (batch, columns, dim) with at least {least} columns for {name}",
            tuple(y_pred.shape),
            f"Train through `models.Siamese` on rows of {makers}.",
        )
    return y_pred


def triplet(y_pred, name):
    """Returns anchors `(batch, 1, dim)`, positives `(batch, 1, dim)` and negatives `(batch, negatives, dim)`."""
    y_pred = columns(y_pred, 3, name)
    return y_pred[:, :1], y_pred[:, 1:2], y_pred[:, 2:]


def texts(y_pred, name):
    """Returns all texts as rows, in row order: `(batch, dim)` or `(batch, columns, dim)` -> `(texts, dim)`."""
    if len(y_pred.shape) not in (2, 3):
        raise _check.invalid(
            "y_pred",
            f"a tensor (batch, dim) or (batch, columns, dim) for {name}",
            tuple(y_pred.shape),
            "Train a `models.TextEmbedder` on rows of one text, or a `models.Siamese` on rows of several.",
        )
    return ops.reshape(y_pred, (-1, y_pred.shape[-1]))


def mean_over_columns(values, y_pred):
    """Averages the values of the rows of `texts` over each batch row: `(texts,)` -> `(batch,)`."""
    return values if len(y_pred.shape) == 2 else ops.mean(ops.reshape(values, ops.shape(y_pred)[:2]), axis=1)


def one_a_row(y_true, y_pred, what):
    """Returns `y_true` `(batch,)` or `(batch, 1)` as `(batch,)`; for other shapes raises an error that names `what`."""
    shape = tuple(y_true.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] not in (1, None)) or not _same(shape, y_pred):
        raise _check.invalid("y_true", f"{what}, shape (batch,) or (batch, 1), one for each row of y_pred", shape)
    return ops.reshape(y_true, (-1,))


def classes(y_true, y_pred):
    """Returns the class of every text of `texts(y_pred)`: `(batch,)` -> `(texts,)`."""
    y_true = one_a_row(y_true, y_pred, "class ids")
    if len(y_pred.shape) == 2:
        return y_true
    return ops.reshape(ops.broadcast_to(ops.expand_dims(y_true, 1), ops.shape(y_pred)[:2]), (-1,))


def relations(ids):
    """Returns masks of the other texts of each text's class, and of the texts of other classes: `(n,)` -> `(n, n)`."""
    same = ops.expand_dims(ids, 1) == ops.expand_dims(ids, 0)
    position = ops.arange(ops.shape(same)[0])
    another = ops.expand_dims(position, 1) != ops.expand_dims(position, 0)
    return ops.logical_and(same, another), ops.logical_not(same)


def binary(y_true, y_pred):
    """Returns 0/1 labels as floats `(batch,)`; other values become NaN, because a traced function cannot raise."""
    y_true = ops.cast(one_a_row(y_true, y_pred, "labels 0 or 1"), y_pred.dtype)
    return ops.where(ops.logical_or(y_true == 0, y_true == 1), y_true, ops.full_like(y_true, float("nan")))


def embeddings(y_true, y_pred, whose):
    """Returns `y_true`, the embeddings of `whose` for each text of `y_pred`; raises for any other shape."""
    expected, shape = tuple(y_pred.shape)[:-1], tuple(y_true.shape)
    fits = len(shape) == len(expected) + 1 and all(
        a is None or b is None or a == b for a, b in zip(shape[:-1], expected, strict=True)
    )
    if not fits:
        raise _check.invalid(
            "y_true",
            f"the {whose}'s embeddings of the same texts, shape {(*expected, 'dim')}",
            shape,
            f"Encode each column of texts with the {whose} and stack the results: np.stack([...], axis=1).",
        )
    return ops.cast(y_true, y_pred.dtype)


def _same(shape, y_pred):
    return shape[0] is None or y_pred.shape[0] is None or shape[0] == y_pred.shape[0]


class CheckedLoss(keras.losses.Loss):
    """A loss that checks its targets before Keras casts them, then calls the pure function in `call`.

    `labels` is the kind of values that `y_true` must hold: `"classes"`, `"binary"`, `"numbers"`, or `None` if it is
    ignored. `per_row` is False if the loss is one number for the whole batch. `compares_rows` is False if a row's value
    does not depend on other rows.

    Under a `tf.distribute` strategy a loss that compares rows sees the rows of all replicas: it computes the loss of
    the global batch, and the gradients equal those of a single process.
    """

    labels: str | None = "numbers"
    per_row = True
    compares_rows = True

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        weights = sample_weight if hasattr(sample_weight, "shape") else np.asarray(sample_weight)
        if len(weights.shape) and not self.per_row:
            raise _check.invalid(
                "sample_weight",
                f"None or a scalar, because {type(self).__name__} is one number for the whole batch",
                f"shape {tuple(weights.shape)}",
                "Omit sample and class weights, or choose a loss with a value for each row.",
            )
        if _replicas.count() > 1:
            return self._on_a_replica(y_true, y_pred, sample_weight)
        return super().__call__(self.targets(y_true), y_pred, sample_weight)

    def _on_a_replica(self, y_true, y_pred, sample_weight):
        """Returns the loss of one of several replicas; their sum is the loss of the whole batch."""
        is_mean = self.reduction not in (None, "none", "sum")
        if not self.compares_rows:
            value = super().__call__(self.targets(y_true), y_pred, sample_weight)
            if not is_mean:
                return value
            rows = ops.shape(y_pred)[0]
            if self.reduction == "mean_with_sample_weight" and len(np.shape(sample_weight)):
                rows = ops.sum(sample_weight)
            return _replicas.weighed(value, rows)
        if self.reduction in (None, "none"):
            remedy = "Rows are compared across replicas, so the loss has no value for each row of a replica."
            raise _check.invalid("reduction", "'sum_over_batch_size' or 'sum' on replicas", self.reduction, remedy)
        y_true, sample_weight = (
            _replicas.gathered(each) if len(np.shape(each)) else each for each in (y_true, sample_weight)
        )
        value = super().__call__(self.targets(y_true), _replicas.gathered(y_pred), sample_weight)
        return value if is_mean else value / _replicas.count()

    def targets(self, y_true: Any) -> Any:
        """Returns `y_true` in a form that the loss's dtype can hold; raises for the wrong kind of labels."""
        return _TARGETS[self.labels](y_true, type(self).__name__)

    def whole(self, value: Any) -> Any:
        """Returns `value`, a number for the whole batch, in the shape that `call` returns.

        Keras divides a loss by the number of replicas only if it has a batch axis. Without a reduction `value` stays a
        scalar.
        """
        return value if self.reduction in (None, "none") else ops.reshape(value, (1,))

    def get_config(self) -> dict[str, Any]:
        # Keras omits the dtype: a float64 loss would be restored in float32.
        return {**super().get_config(), "dtype": self.dtype}


class MarginLoss(CheckedLoss):
    """A loss with a margin on a distance."""

    def __init__(self, margin: float, distance: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin = _check.number("margin", margin)
        self.distance = _check.one_of("distance", distance, _ops.DISTANCES)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "distance": self.distance}


def known(y_true):
    """Returns the values of an array, a list or an eager tensor as an array; `None` for a symbolic tensor."""
    if hasattr(y_true, "numpy") or isinstance(y_true, list | tuple | np.ndarray):
        return np.asarray(y_true.numpy() if hasattr(y_true, "numpy") else y_true)
    return None


def kind(y_true):
    """Returns the name of the dtype of an array, a tensor or a list."""
    dtype = y_true.dtype if hasattr(y_true, "dtype") else np.asarray(y_true).dtype
    return str(getattr(dtype, "name", dtype))


def _numbers(y_true, name):
    if kind(y_true).startswith(("str", "object", "bytes")):
        raise _check.invalid(
            "y_true",
            f"numbers for {name}",
            kind(y_true),
            "Convert names to numbers first, with `data.labelled` or `data.LabelColumn`.",
        )
    return y_true


def _binary(y_true, name):
    y_true = _numbers(y_true, name)
    values = known(y_true)
    if values is not None:
        values = values.astype("float64")
        if not np.isin(values, (0, 1)).all():
            raise _check.invalid(
                "y_true",
                f"labels 1 (alike) or 0 for {name}",
                values[~np.isin(values, (0, 1))].ravel()[:8].tolist(),
                "For graded scores choose CoSENTLoss, AnglELoss or CosineMSELoss.",
            )
    return y_true


def class_ids(y_true, name):
    """Returns class ids as an int tensor; raises for other kinds of labels."""
    y_true = _numbers(y_true, name)
    if kind(y_true).startswith(("float", "bfloat")):
        raise _check.invalid(
            "y_true",
            f"class ids of an int dtype for {name}",
            kind(y_true),
            "For graded scores use CoSENTLoss; cast class ids stored as floats to int32.",
        )
    return ops.convert_to_tensor(y_true)


def _classes(y_true, name):
    """Replaces class ids by the index of the first row of the class: exact in any dtype, even if ids are hashes."""
    ids = class_ids(y_true, name)
    if len(ids.shape) not in (1, 2):
        return ids  # the function raises for this shape
    flat = ops.reshape(ids, (-1,))
    first = ops.argmax(ops.cast(ops.expand_dims(flat, 1) == ops.expand_dims(flat, 0), "int32"), axis=1)
    return ops.reshape(first, ops.shape(ids))


_TARGETS = {None: lambda y_true, name: y_true, "numbers": _numbers, "binary": _binary, "classes": _classes}
