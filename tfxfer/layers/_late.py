"""Layers for late interaction: token selection, unit token vectors, and towers for queries and documents."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _ops


class KeptTokens(keras.layers.Layer):
    """The mask of tokens that count: all real tokens except those with some ids.

    Args:
        left_out: ints. The ids to ignore.

    Call arguments:
        token_ids: int tensor `(batch, length)`.
        padding_mask: int tensor `(batch, length)`.

    Returns:
        An int32 tensor `(batch, length)`.
    """

    def __init__(self, left_out: Sequence[int], **kwargs: Any) -> None:
        kwargs["dtype"] = "int32"
        super().__init__(**kwargs)
        self.left_out = tuple(left_out)

    def call(self, token_ids: Any, padding_mask: Any) -> Any:
        mask = ops.cast(padding_mask > 0, "int32")
        if not self.left_out:
            return mask
        ids = ops.convert_to_tensor(self.left_out, dtype="int32")
        is_left_out = ops.any(ops.expand_dims(ops.cast(token_ids, "int32"), -1) == ids, axis=-1)
        return ops.where(is_left_out, ops.zeros_like(mask), mask)

    def compute_output_shape(self, token_ids_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return tuple(token_ids_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "left_out": list(self.left_out)}


class MarkedTokens(keras.layers.Layer):
    """Inserts a marker after the first token of each row, truncates rows, and fills them with mask tokens.

    The output is padded on the right. A truncated row keeps its last token, which is a special token in most families.
    A row without real tokens stays empty.

    Args:
        marker: optional int. The id of the marker; `None` for no marker.
        limit: optional int. The maximum number of tokens per row, including the marker; `None` for no limit.
        filling: optional int. The id with which rows are filled to `limit` tokens, which count as real; `None` for
            padding.

    Call arguments:
        inputs: dict of int tensors `(batch, length)`: `token_ids`, `padding_mask` and others of the same shape.

    Returns:
        A dict with the same keys.
    """

    def __init__(self, marker: int | None, limit: int | None, filling: int | None, **kwargs: Any) -> None:
        kwargs["dtype"] = "int32"
        super().__init__(**kwargs)
        self.marker, self.limit, self.filling = marker, limit, filling
        self._extra = 0 if marker is None else 1

    def call(self, inputs: Any) -> dict[str, Any]:
        mask = ops.cast(inputs["padding_mask"] > 0, "int32")
        length = ops.shape(mask)[1]
        count = ops.sum(mask, axis=1, keepdims=True)
        first = ops.expand_dims(ops.cast(ops.argmax(mask, axis=1), "int32"), 1)
        total = ops.where(count > 0, count + self._extra, ops.zeros_like(count))
        kept = total if self.limit is None else ops.minimum(total, self.limit)

        place = ops.expand_dims(ops.arange(self._width(length), dtype="int32"), 0)
        source = ops.where(place > 0, place - self._extra, place)
        is_last = ops.logical_and(total > kept, place == kept - 1)
        source = ops.where(is_last, count - 1, source)
        source = ops.clip(first + source, 0, length - 1)
        is_real = place < kept
        is_filled = ops.logical_and(ops.logical_not(is_real), count > 0)
        found = {}
        for name, value in inputs.items():
            taken = ops.take_along_axis(ops.cast(value, "int32"), source, axis=1)
            found[name] = ops.where(is_real, taken, ops.zeros_like(taken))
        found["padding_mask"] = ops.cast(is_real, "int32")
        ids = found["token_ids"]
        if self.marker is not None:
            is_marker = ops.logical_and(is_real, place == 1)
            ids = ops.where(is_marker, ops.full_like(ids, self.marker), ids)
        if self.filling is not None:
            ids = ops.where(is_filled, ops.full_like(ids, self.filling), ids)
            found["padding_mask"] = ops.cast(ops.logical_or(is_real, is_filled), "int32")
        return {**found, "token_ids": ids}

    def _width(self, length):
        """Returns the output length, including padding, for rows of `length` tokens."""
        if self.filling is not None:
            return self.limit
        longest = length + self._extra
        if self.limit is None:
            return longest
        return min(longest, self.limit) if isinstance(longest, int) else ops.minimum(longest, self.limit)

    def compute_output_spec(self, inputs: Any) -> dict[str, Any]:
        batch, length = inputs["token_ids"].shape
        width = self.limit if self.filling is not None else None if length is None else self._width(length)
        return {name: keras.KerasTensor((batch, width), "int32") for name in inputs}

    def get_config(self) -> dict[str, Any]:
        own = {"marker": self.marker, "limit": self.limit, "filling": self.filling}
        return {**super().get_config(), **own}


class UnitTokens(keras.layers.Layer):
    """Normalizes token vectors to length 1 and moves the tokens that count to the front; the rest are zeros.

    Call arguments:
        inputs: float tensor `(batch, length, dim)`.
        padding_mask: int tensor `(batch, length)`, 1 at tokens that count.

    Returns:
        A float32 tensor `(batch, length, dim)`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs: Any, padding_mask: Any) -> Any:
        keep = padding_mask > 0
        x = ops.where(ops.expand_dims(keep, -1), _ops.unit_norm(inputs), ops.zeros_like(inputs))
        place = ops.arange(ops.shape(keep)[1], dtype="int32")
        # The keys are distinct, so the sort need not be stable.
        order = ops.argsort(ops.where(keep, place, place + ops.shape(keep)[1]), axis=1)
        return ops.take_along_axis(x, ops.expand_dims(order, -1), axis=1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return tuple(inputs_shape)


class LateTowers(keras.layers.Layer):
    """Encodes the first text of each row as a query and all others as documents, with shared layers.

    Args:
        encoder: the document model, which holds the weights of both models and has a method `query_model()`.

    Call arguments:
        inputs: dict of int tensors `(batch, columns >= 2, length)`.

    Returns:
        A float32 tensor `(batch, columns, length of the longer side, dim)`, zeros at ignored tokens.
    """

    def __init__(self, encoder: Any, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.encoder = encoder

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        batch, columns, length = ops.shape(inputs["token_ids"])
        queries = {key: value[:, 0] for key, value in inputs.items()}
        documents = {key: ops.reshape(value[:, 1:], (-1, length)) for key, value in inputs.items()}
        queries = self.encoder.query_model()(queries, training=training)
        documents = self.encoder(documents, training=training)
        # Pads the shorter side to the length of the longer.
        sizes = [ops.shape(queries)[1], ops.shape(documents)[1]]
        longest = max(sizes) if all(isinstance(size, int) for size in sizes) else ops.maximum(*sizes)
        queries, documents = (
            ops.pad(x, ((0, 0), (0, longest - size), (0, 0)))
            for x, size in zip((queries, documents), sizes, strict=True)
        )
        dim = documents.shape[-1]
        documents = ops.reshape(documents, (batch, columns - 1, longest, dim))
        return ops.concatenate([ops.expand_dims(queries, 1), documents], axis=1)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        batch, columns, _ = inputs["token_ids"].shape
        return keras.KerasTensor((batch, columns, None, self.encoder.output_shape[-1]), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)

    @property
    def metrics(self) -> list:
        """An empty list: metrics of an encoder that was trained by itself are not metrics of the towers."""
        return []
