"""Accuracy on targets of either form."""

from typing import Any

import keras
from keras import ops

from tfxfer import _ops


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
