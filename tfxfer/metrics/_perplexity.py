"""Perplexity of a language model."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check


@keras.saving.register_keras_serializable("tfxfer")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean cross-entropy of tokens: the number of equally likely tokens a model chooses among.

    For the targets of `losses.TagCrossentropy`, with -1 at positions to ignore.

    Args:
        name: string. Defaults to `"perplexity"`.
        dtype: dtype of the result. Defaults to float32.

    Raises:
        ValueError: in `update_state`, if `y_true` has another shape.

    Example:

    >>> metric = Perplexity()
    >>> float(metric(np.array([[0, 1, -1]]), np.zeros((1, 3, 4), "float32")))
    4.0

    Reference: Jelinek et al., 1977, https://doi.org/10.1121/1.2016299.
    """

    def __init__(self, name: str = "perplexity", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Accumulates a batch.

        Args:
            y_true: int tensor `(batch, length)` of token ids, negative at positions to ignore.
            y_pred: float tensor `(batch, length, tokens)`, logits.
            sample_weight: optional tensor `(batch,)` or `(batch, length)`.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        expected, shape = tuple(y_pred.shape)[:-1], tuple(y_true.shape)
        pairs = zip(shape, expected, strict=False)
        if len(expected) != 2 or len(shape) != 2 or not all(a is None or b is None or a == b for a, b in pairs):
            received = f"shape {shape}, with y_pred of shape {tuple(y_pred.shape)}"
            raise _check.invalid("y_true", "token ids (batch, length) for a y_pred (batch, length, tokens)", received)
        weights = ops.cast(y_true >= 0, self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            weights *= ops.expand_dims(sample_weight, -1) if len(sample_weight.shape) == 1 else sample_weight
        tokens = ops.expand_dims(ops.maximum(ops.cast(y_true, "int32"), 0), -1)
        logs = ops.take_along_axis(ops.log_softmax(ops.cast(y_pred, self.dtype)), tokens, axis=-1)
        return super().update_state(ops.reshape(-logs, (-1,)), ops.reshape(weights, (-1,)))

    def result(self) -> Any:
        """Returns the perplexity of all batches; 1 before the first."""
        return ops.exp(super().result())
