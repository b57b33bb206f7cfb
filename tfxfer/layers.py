"""Layers between an encoder and a loss: pooling, unit length, heads, Siamese towers."""

import keras
from keras import ops

from tfxfer import _check, _ops


def _positions(mask):
    """1, 2, ... along the real tokens of each row, whichever side the padding is on; 0 at padding."""
    return ops.cumsum(mask, axis=-1) * mask


def _first(x, mask):
    return _ops.masked_sum(x, ops.cast(_positions(mask) == 1, x.dtype))


def _last(x, mask):
    positions = _positions(mask)
    return _ops.masked_sum(x, ops.cast(positions == ops.sum(mask, axis=-1, keepdims=True), x.dtype) * mask)


def _max(x, mask):
    highest = ops.max(ops.where(ops.expand_dims(mask, -1) > 0, x, _ops.LOWEST), axis=1)
    return ops.where(ops.any(mask > 0, axis=-1, keepdims=True), highest, ops.zeros_like(highest))


def _mean(x, mask):
    return _ops.masked_sum(x, mask) / ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0)


def _mean_sqrt_len(x, mask):
    return _ops.masked_sum(x, mask) / ops.sqrt(ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0))


def _weighted_mean(x, mask):
    weights = _positions(mask)
    return _ops.masked_sum(x, weights) / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)


POOLING = {
    "cls": _first,
    "mean": _mean,
    "max": _max,
    "last": _last,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
}


def pooling_modes(mode):
    """Returns `mode`, one name or several, as a tuple of names out of `POOLING`; raises on a name not there."""
    modes = (mode,) if isinstance(mode, str) else tuple(mode) if isinstance(mode, (list, tuple)) else (mode,)
    if not modes:
        raise _check.invalid("mode", f"one of {', '.join(map(repr, POOLING))}, or several", mode)
    for name in modes:
        _check.one_of("mode", name, POOLING)
    return modes


@keras.saving.register_keras_serializable("tfxfer")
class Pooling(keras.layers.Layer):
    """One vector a text out of its token vectors.

    | mode | value |
    |---|---|
    | `"cls"` | the first real token |
    | `"mean"` | mean over the real tokens |
    | `"max"` | maximum over the real tokens, component by component |
    | `"last"` | the last real token (decoders such as GPT-2) |
    | `"mean_sqrt_len"` | sum over the real tokens / sqrt(their number) |
    | `"weighted_mean"` | mean with weights 1, 2, ... n along the real tokens (Muennighoff, 2022, arXiv:2202.08904) |

    Several modes together are concatenated in the order given. Padding is masked, on whichever side it lies; a row
    without any real token gives zeros. It computes in float32 under every dtype policy, so that long sums stay exact.

    Args:
        mode: string, or a sequence of them. Defaults to `"mean"`, the choice of Sentence-BERT (Reimers and Gurevych,
            2019, https://arxiv.org/abs/1908.10084).

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.

    Returns:
        A float32 tensor `(batch, hidden_dim * number of modes)`.

    Example:

    >>> import numpy as np
    >>> tokens = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]], "float32")
    >>> Pooling("mean")(tokens, padding_mask=np.array([[1, 1, 0]])).numpy().tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, mode="mean", **kwargs):
        # Not under the caller's dtype policy: in bfloat16 a mean over hundreds of tokens keeps two digits.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.modes = pooling_modes(mode)
        self.supports_masking = True

    def build(self, inputs_shape, padding_mask_shape=None):
        self.built = True

    def call(self, inputs, padding_mask):
        mask = ops.cast(padding_mask, inputs.dtype)
        pooled = [POOLING[mode](inputs, mask) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        dim = inputs_shape[-1]
        return (inputs_shape[0], None if dim is None else dim * len(self.modes))

    def get_config(self):
        return {**super().get_config(), "mode": list(self.modes)}


@keras.saving.register_keras_serializable("tfxfer")
class UnitNorm(keras.layers.Layer):
    """Scales each vector to Euclidean length 1: `x / max(||x||, 1e-12)`.

    As `keras.layers.UnitNormalization`, but in float32 under every dtype policy and with a finite gradient at the zero
    vector.

    Call arguments:
        inputs: float tensor `(..., dim)`.

    Returns:
        A float32 tensor of the same shape.

    Example:

    >>> float(UnitNorm()(keras.ops.array([[3.0, 4.0]]))[0, 0])  # 3 / 5, in float32
    0.6000000238418579
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return _ops.unit_norm(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("tfxfer")
class Head(keras.layers.Layer):
    """The new top of a model: dropout, optional hidden layers, a linear output, in float32.

    `outputs = W_k a(... a(W_1 dropout(x) + b_1) ...) + b_k`, dropout before each dense layer.

    Args:
        num_outputs: int. Size of the output: the number of classes, or of values to regress on.
        hidden_dims: sequence of ints. Sizes of the hidden layers; none by default, which is BERT's linear head (Devlin
            et al., 2019, https://arxiv.org/abs/1810.04805).
        activation: activation of the hidden layers, `"gelu"` by default.
        dropout: float in `[0, 1)`. Defaults to 0.1, the rate that BERT is fine-tuned with.

    Call arguments:
        inputs: float tensor `(batch, features)`.

    Returns:
        A float32 tensor `(batch, num_outputs)`: logits, or values.

    Example:

    >>> Head(3, hidden_dims=(8,))(keras.ops.ones((2, 4))).shape
    TensorShape([2, 3])
    """

    def __init__(self, num_outputs, hidden_dims=(), activation="gelu", dropout=0.1, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        self.hidden_dims = tuple(_check.integer("hidden_dims", size) for size in hidden_dims)
        self.activation = keras.activations.get(activation)
        self.dropout = _check.number("dropout", dropout, minimum=0.0, maximum=1.0)
        if self.dropout == 1.0:
            raise _check.invalid("dropout", "a number >= 0.0 and < 1.0", dropout)
        sizes = (*self.hidden_dims, self.num_outputs)
        self.dropouts = [keras.layers.Dropout(self.dropout, dtype="float32") for _ in sizes]
        self.denses = [
            keras.layers.Dense(
                size,
                activation=self.activation if i < len(self.hidden_dims) else None,
                # BERT's initializer: a head that starts small leaves the pretrained features in place.
                kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                dtype="float32",
            )
            for i, size in enumerate(sizes)
        ]

    def build(self, input_shape):
        for dense in self.denses:
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)
        self.built = True

    def call(self, inputs, training=None):
        x = inputs
        for dropout, dense in zip(self.dropouts, self.denses, strict=True):
            x = dense(dropout(x, training=training))
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "hidden_dims": list(self.hidden_dims),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable("tfxfer")
class SiameseTowers(keras.layers.Layer):
    """Runs every text column through ONE shared encoder in one pass (Siamese network, Bromley et al., 1993).

    The columns of a row (the two texts of a pair, the three of a triplet) lie side by side in one tensor; they are laid
    under one another, encoded as one batch of `batch * columns` texts and laid side by side again.

    Args:
        encoder: a model from a dict of `(rows, length)` tensors to `(rows, dim)` vectors, such as
            `models.TextEmbedder`.

    Call arguments:
        inputs: dict of int tensors `(batch, columns, length)` with the encoder's keys: `token_ids`, `padding_mask`, and
            `segment_ids` where it has them. The number of columns may vary from call to call.

    Returns:
        A float tensor `(batch, columns, dim)`.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    pairs = {"token_ids": ids, "padding_mask": mask, "segment_ids": zeros}  # each (32, 2, length)
    tx.layers.SiameseTowers(embedder)(pairs).shape  # (32, 2, 384)
    ```
    """

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        shape = ops.shape(inputs["token_ids"])
        rows = {key: ops.reshape(value, (-1, shape[2])) for key, value in inputs.items()}
        vectors = self.encoder(rows, training=training)
        return ops.reshape(vectors, (shape[0], shape[1], vectors.shape[-1]))

    def compute_output_shape(self, input_shape):
        batch, columns, _ = input_shape["token_ids"]
        return (batch, columns, self.encoder.output_shape[-1])

    def get_config(self):
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)
