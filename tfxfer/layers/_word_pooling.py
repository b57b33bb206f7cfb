"""Pools token vectors to one vector per word."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops

WORD_POOLING = ("first", "last", "mean", "max")


@keras.saving.register_keras_serializable("tfxfer")
class WordPooling(keras.layers.Layer):
    """Pools the vectors of each word's tokens to one vector per word.

    | mode | value |
    |---|---|
    | `"first"` | the word's first token, as BERT tags entities (Devlin et al., 2019, section 5.3) |
    | `"last"` | its last token, the only one at which a decoder has read the whole word |
    | `"mean"` | mean over its tokens |
    | `"max"` | maximum over its tokens, component by component |

    A word without tokens gives zeros. The layer computes in float32 under every dtype policy.

    Args:
        mode: string. Defaults to `"first"`.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        word_ids: int tensor `(batch, length)`, the index of each token's word in its row, in ascending order; -1 at
            tokens that belong to no word.
        word_mask: int or bool tensor `(batch, words)`, 1 for words that have tokens.

    Returns:
        A float32 tensor `(batch, words, hidden_dim)`.

    Raises:
        ValueError: if `mode` is unknown.

    Example:

    >>> import numpy as np
    >>> tokens = np.array([[[1.0], [2.0], [4.0], [9.0]]], "float32")
    >>> WordPooling("mean")(tokens, word_ids=np.array([[0, 1, 1, -1]]), word_mask=np.array([[1, 1]])).numpy().tolist()
    [[[1.0], [3.0]]]

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805.
    """

    def __init__(self, mode: str = "first", **kwargs: Any) -> None:
        # Ignores the caller's dtype policy, like `Pooling`.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.mode = _check.one_of("mode", mode, WORD_POOLING)

    def build(self, inputs_shape: Any, word_ids_shape: Any = None, word_mask_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Any, word_ids: Any, word_mask: Any) -> Any:
        count = ops.shape(word_mask)[1]
        word_ids = ops.cast(word_ids, "int32")
        if self.mode == "max":
            return self._max(inputs, word_ids, count)
        chosen = word_ids
        edge = ops.full_like(word_ids[:, :1], -1)
        if self.mode == "first":
            chosen = ops.where(word_ids == ops.concatenate([edge, word_ids[:, :-1]], axis=1), -1, word_ids)
        elif self.mode == "last":
            chosen = ops.where(word_ids == ops.concatenate([word_ids[:, 1:], edge], axis=1), -1, word_ids)
        numbers = ops.reshape(ops.arange(count, dtype="int32"), (1, -1, 1))
        # A product with a matrix of zeros and ones is exact, and faster than a gather in both passes.
        belongs = ops.cast(ops.expand_dims(chosen, 1) == numbers, inputs.dtype)
        if self.mode == "mean":
            belongs = belongs / ops.maximum(ops.sum(belongs, axis=-1, keepdims=True), 1.0)
        return ops.matmul(belongs, inputs)

    def _max(self, inputs, word_ids, count):
        batch, dim = ops.shape(inputs)[0], inputs.shape[-1]
        rows = ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * count
        segments = ops.where(word_ids < 0, batch * count, rows + word_ids)  # one extra segment for tokens of no word
        found = ops.segment_max(ops.reshape(inputs, (-1, dim)), ops.reshape(segments, (-1,)), batch * count + 1)[:-1]
        return ops.reshape(ops.where(found > _ops.LOWEST, found, ops.zeros_like(found)), (batch, count, dim))

    def compute_output_shape(self, inputs_shape: Any, word_ids_shape: Any, word_mask_shape: Any) -> tuple:
        return (inputs_shape[0], word_mask_shape[1], inputs_shape[-1])

    def compute_output_spec(self, inputs: Any, word_ids: Any, word_mask: Any) -> Any:
        shape = self.compute_output_shape(inputs.shape, word_ids.shape, word_mask.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
