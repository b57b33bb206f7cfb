"""Accuracy on targets of either form, and of words."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops


@keras.saving.register_keras_serializable("tfxfer")
class ClassAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of rows whose largest output is the right class.

    For the targets of `losses.ClassCrossentropy`: class indices, or a share of each class, of which the largest is the
    right one (the first of equal ones). With indices it is Keras's `SparseCategoricalAccuracy`, with one-hot rows its
    `CategoricalAccuracy`.

    Args:
        name: string. Defaults to `"accuracy"`.
        dtype: of the result. Defaults to float32.

    Raises:
        ValueError: for `y_true` that has neither shape.

    Example:

    >>> metric = ClassAccuracy()
    >>> shares, logits = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[2.0, 1.0], [1.0, 0.0]])
    >>> float(metric(shares, logits))
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Takes in a batch.

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
    """The share of words whose largest output is the right tag.

    For the targets of `losses.TagCrossentropy`, -1 at words that do not count. Of a `layers.CRF` it measures the
    emissions alone, not the sequences that `decode` gives.

    Args:
        name: string. Defaults to `"accuracy"`.
        dtype: of the result. Defaults to float32.

    Raises:
        ValueError: for `y_true` of another shape.

    Example:

    >>> metric = TagAccuracy()
    >>> logits = np.array([[[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]]])
    >>> float(metric(np.array([[0, 1, -1]]), logits))
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Takes in a batch.

        Args:
            y_true: int tensor `(batch, length)` of tag indices, negative at words that do not count.
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
        # Flat, as Keras's mean takes that of each row first, padding included, and so weighs batches by their widths.
        return super().update_state(ops.reshape(ops.cast(hits, self.dtype), (-1,)), ops.reshape(weights, (-1,)))
