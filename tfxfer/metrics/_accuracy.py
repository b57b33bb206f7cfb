"""Accuracy for indices or shares, and for tags of words."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops


@keras.saving.register_keras_serializable("tfxfer")
class ClassAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of rows whose largest output is the correct class.

    For the targets of `losses.ClassCrossentropy`: class indices, or a share of each class, of which the largest is the
    correct one (the first among equals). With indices it equals Keras's `SparseCategoricalAccuracy`, with one-hot rows
    `CategoricalAccuracy`.

    Args:
        name: string. Defaults to `"accuracy"`.
        dtype: dtype of the result. Defaults to float32.

    Raises:
        ValueError: in `update_state`, if `y_true` has neither shape.

    Example:

    >>> metric = ClassAccuracy()
    >>> shares, logits = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[2.0, 1.0], [1.0, 0.0]])
    >>> float(metric(shares, logits))
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Accumulates a batch.

        Args:
            y_true: int tensor `(batch,)` or `(batch, 1)` of indices, or float tensor `(batch, classes)` of shares.
            y_pred: float tensor `(batch, classes)`, logits or probabilities.
            sample_weight: optional tensor `(batch,)`.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if _ops.holds_shares(y_true, y_pred):
            y_true = ops.argmax(y_true, axis=-1)
        return super().update_state(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable("tfxfer")
class TagAccuracy(keras.metrics.Mean):
    """The share of words whose largest output is the correct tag.

    For the targets of `losses.TagCrossentropy`, with -1 at words to ignore. For a `layers.CRF` it measures only the
    emissions, not the sequences from `decode`.

    Args:
        name: string. Defaults to `"accuracy"`.
        dtype: dtype of the result. Defaults to float32.

    Raises:
        ValueError: in `update_state`, if `y_true` has another shape.

    Example:

    >>> metric = TagAccuracy()
    >>> logits = np.array([[[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]]])
    >>> float(metric(np.array([[0, 1, -1]]), logits))
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Accumulates a batch.

        Args:
            y_true: int tensor `(batch, length)` of tag indices, negative at words to ignore.
            y_pred: float tensor `(batch, length, tags)`, logits or probabilities.
            sample_weight: optional tensor `(batch,)` or `(batch, length)`.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        expected, shape = tuple(y_pred.shape)[:-1], tuple(y_true.shape)
        pairs = zip(shape, expected, strict=False)
        if len(expected) != 2 or len(shape) != 2 or not all(a is None or b is None or a == b for a, b in pairs):
            received = f"shape {shape}, with y_pred of shape {tuple(y_pred.shape)}"
            raise _check.invalid("y_true", "tag indices (batch, length) for a y_pred (batch, length, tags)", received)
        weights = ops.cast(y_true >= 0, self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            weights *= ops.expand_dims(sample_weight, -1) if len(sample_weight.shape) == 1 else sample_weight
        hits = ops.cast(y_true, "int32") == ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        # Flat, because Keras's mean averages each row first, padding included, which weights batches by width.
        return super().update_state(ops.reshape(ops.cast(hits, self.dtype), (-1,)), ops.reshape(weights, (-1,)))
