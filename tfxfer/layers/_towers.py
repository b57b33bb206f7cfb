"""One shared encoder for all texts of a row."""

from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check
from tfxfer._freezable import TrainsInPart
from tfxfer._gradients import remat
from tfxfer._lengths import mixed_lengths
from tfxfer._recompute import advanced, is_seed


@keras.saving.register_keras_serializable("tfxfer")
class SiameseTowers(TrainsInPart, keras.layers.Layer):
    """Encodes every text column with one shared encoder in one pass (Siamese network, Bromley et al., 1993).

    One tensor holds the columns of a row (the two texts of a pair, the three of a triplet). The layer reshapes it to
    one batch of `batch * columns` texts, encodes them and reshapes the result back to columns.

    With `chunk_size`, the encoder processes that many texts at a time, and the backward pass recomputes each chunk. A
    training step then needs the memory of one chunk, regardless of the batch size, which allows thousands of in-batch
    negatives (gradient caching, Gao et al., 2021, https://arxiv.org/abs/2101.06983). Loss and gradients equal those of
    a single pass (with dropout, of a single pass with other random numbers). A step costs one extra forward pass. Texts
    of similar length share a chunk.

    Args:
        encoder: a model from a dict of `(rows, length)` tensors to `(rows, dim)` vectors, such as
            `models.TextEmbedder`; or to several vectors per text, `(rows, layers, dim)`.
        chunk_size: optional int. The number of texts in a chunk; 64 works well on CPU. By default all texts are encoded
            at once.

    Call arguments:
        inputs: dict of int tensors `(batch, columns, length)` with the encoder's keys: `token_ids`, `padding_mask`, and
            `segment_ids` if the encoder uses them. The number of columns can vary between calls.

    Returns:
        A float tensor `(batch, columns, dim)`, or `(batch, columns, layers, dim)`.

    Raises:
        ValueError: if `chunk_size` is less than 1.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    pairs = {"token_ids": ids, "padding_mask": mask, "segment_ids": zeros}  # each (32, 2, length)
    tx.layers.SiameseTowers(embedder)(pairs).shape  # (32, 2, 384)
    ```
    """

    def __init__(self, encoder: Any, chunk_size: int | None = None, **kwargs: Any) -> None:
        # Ignores the caller's dtype policy: the chunks' gradients are summed in this layer's dtype.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.encoder = encoder
        self.chunk_size = _check.integer("chunk_size", chunk_size, optional=True)

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        shape = ops.shape(inputs["token_ids"])
        rows = {key: ops.reshape(value, (-1, shape[2])) for key, value in inputs.items()}
        if self.chunk_size is None:
            with mixed_lengths():
                vectors = self.encoder(rows, training=training)
        else:
            vectors = _chunked(self.encoder, rows, self.chunk_size, training)
        return ops.reshape(vectors, (shape[0], shape[1], *vectors.shape[1:]))

    @property
    def metrics(self) -> list:
        """An empty list: metrics of an encoder that was trained by itself are not metrics of the towers."""
        return []

    def compute_output_shape(self, input_shape: Any) -> tuple:
        batch, columns, _ = input_shape["token_ids"]
        return (batch, columns, *self.encoder.output_shape[1:])

    def get_config(self) -> dict[str, Any]:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "chunk_size": self.chunk_size}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)


def _chunked(encoder, rows, size, training):
    """Computes `encoder(rows)`, `size` rows at a time, and keeps only the vectors for the backward pass."""
    count = ops.shape(rows["token_ids"])[0]
    chunks = -(-count // size)
    order = ops.argsort(ops.sum(rows["padding_mask"], axis=-1))
    # The rows that pad the first chunk have no tokens, so they are placed with the short texts.
    filled = {
        key: ops.reshape(
            ops.pad(ops.take(value, order, axis=0), ((chunks * size - count, 0), (0, 0))),
            (chunks, size, ops.shape(value)[1]),
        )
        for key, value in rows.items()
    }
    # The encoder as a function of its weights' values: a recomputation must not read variables that change, such as the
    # seeds of dropout. Each chunk has its own seed, the same in both computations.
    trainable = [variable.value for variable in encoder.trainable_variables]
    others = encoder.non_trainable_variables
    values = [ops.stop_gradient(variable) for variable in others]

    def encode(_, number):
        states = [
            advanced(value, number) if is_seed(variable) else value
            for variable, value in zip(others, values, strict=True)
        ]
        x = _trimmed({key: ops.take(value, number, axis=0) for key, value in filled.items()})

        def compute(x, weights):
            return encoder.stateless_call(weights, states, x, training=training)[0]

        vectors = (remat(compute) if training else compute)(x, trainable)
        return vectors, vectors

    start = ops.zeros((size, *encoder.output_shape[1:]), encoder.outputs[0].dtype)
    _, vectors = ops.scan(encode, start, ops.arange(chunks, dtype="int32"))
    for variable, value in zip(others, values, strict=True):
        if training and is_seed(variable):
            variable.assign(advanced(value, chunks))
    vectors = ops.reshape(vectors, (-1, *encoder.output_shape[1:]))
    return ops.take(vectors, ops.argsort(order) + (chunks * size - count), axis=0)


def _trimmed(x):
    """Removes the positions at which all rows are padding, if the backend supports shapes that depend on values."""
    if keras.config.backend() != "tensorflow":
        return x
    mask = x["padding_mask"]
    real = ops.any(mask > 0, axis=0)
    places = ops.arange(ops.shape(mask)[1], dtype="int32")
    start = ops.minimum(ops.min(ops.where(real, places, ops.shape(mask)[1])), ops.shape(mask)[1] - 1)
    end = ops.maximum(ops.max(ops.where(real, places + 1, 0)), start + 1)
    return {key: value[:, start:end] for key, value in x.items()}
