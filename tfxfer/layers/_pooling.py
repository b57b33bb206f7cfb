"""Pools token vectors to one vector per text, and normalizes vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops


def _positions(mask):
    """Returns 1, 2, ... along the real tokens of each row, whichever side the padding is on; 0 at padding."""
    return ops.cumsum(mask, axis=-1) * mask


def _first(x, mask, positions):
    return _ops.masked_sum(x, ops.cast(_positions(mask) == 1, x.dtype))


def _last(x, mask, positions):
    last = ops.max(positions * mask, axis=-1, keepdims=True)
    return _ops.masked_sum(x, ops.cast(positions == last, x.dtype) * mask)


def _max(x, mask, positions):
    highest = ops.max(ops.where(ops.expand_dims(mask, -1) > 0, x, _ops.LOWEST), axis=1)
    return ops.where(ops.any(mask > 0, axis=-1, keepdims=True), highest, ops.zeros_like(highest))


def _mean(x, mask, positions):
    return _ops.masked_sum(x, mask) / ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0)


def _mean_sqrt_len(x, mask, positions):
    return _ops.masked_sum(x, mask) / ops.sqrt(ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0))


def _weighted_mean(x, mask, positions):
    weights = positions * mask
    return _ops.masked_sum(x, weights) / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)


# Functions of token vectors, the mask of the tokens to pool, and the positions of real tokens from 1.
POOLING = {
    "cls": _first,
    "mean": _mean,
    "max": _max,
    "last": _last,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
}


def pooling_modes(mode: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one pooling mode, or several, as a tuple of names.

    Args:
        mode: string, or list or tuple of strings: keys of `POOLING`.

    Returns:
        A tuple of strings.

    Raises:
        ValueError: if `mode` is empty or holds an unknown name.

    >>> pooling_modes("mean"), pooling_modes(["cls", "max"])
    (('mean',), ('cls', 'max'))
    """
    modes = (mode,) if isinstance(mode, str) else tuple(mode) if isinstance(mode, (list, tuple)) else (mode,)
    if not modes:
        raise _check.invalid("mode", f"one of {', '.join(map(repr, POOLING))}, or several", mode)
    for name in modes:
        _check.one_of("mode", name, POOLING)
    return modes


@keras.saving.register_keras_serializable("tfxfer")
class Pooling(keras.layers.Layer):
    """Pools token vectors to one vector per text.

    | mode | value |
    |---|---|
    | `"cls"` | the first real token |
    | `"mean"` | mean over the real tokens |
    | `"max"` | maximum over the real tokens, component by component |
    | `"last"` | the last real token (decoders such as GPT-2) |
    | `"mean_sqrt_len"` | sum over the real tokens / sqrt(their number) |
    | `"weighted_mean"` | mean with weights 1, 2, ... n along the real tokens (Muennighoff, 2022, arXiv:2202.08904) |

    Several modes are concatenated in the given order. Padding is masked on either side; a row without real tokens gives
    zeros. The layer computes in float32 under every dtype policy, so that long sums stay exact.

    Args:
        mode: string, or sequence of strings. Defaults to `"mean"`, as in Sentence-BERT (Reimers and Gurevych, 2019,
            https://arxiv.org/abs/1908.10084).

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.
        prompt_length: int. The number of real tokens at the start of each row to ignore: those of a prompt (INSTRUCTOR,
            Su et al., 2023, https://arxiv.org/abs/2212.09741). The other tokens keep their weights in
            `"weighted_mean"`; a row without other tokens gives zeros. Defaults to 0.

    Returns:
        A float32 tensor `(batch, hidden_dim * number of modes)`.

    Raises:
        ValueError: if `mode` is empty or holds an unknown name.

    Example:

    >>> import numpy as np
    >>> tokens = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]], "float32")
    >>> Pooling("mean")(tokens, padding_mask=np.array([[1, 1, 0]])).numpy().tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, mode: str | Sequence[str] = "mean", **kwargs: Any) -> None:
        # Ignores the caller's dtype policy: in bfloat16 a mean over hundreds of tokens keeps only two digits.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.modes = pooling_modes(mode)
        self.supports_masking = True

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Any, padding_mask: Any, prompt_length: int = 0) -> Any:
        mask = ops.cast(padding_mask, inputs.dtype)
        positions = _positions(mask)
        if prompt_length:
            mask = mask * ops.cast(positions > prompt_length, mask.dtype)
        pooled = [POOLING[mode](inputs, mask, positions) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        dim = inputs_shape[-1]
        return (inputs_shape[0], None if dim is None else dim * len(self.modes))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": list(self.modes)}


@keras.saving.register_keras_serializable("tfxfer")
class WeightedLayerPooling(keras.layers.Layer):
    """Averages the token vectors of several layers with learned weights, `sum_i w_i x_i / sum_i w_i`, in float32.

    As in sentence-transformers, the weights start at 1.

    Call arguments:
        inputs: list of float tensors `(batch, length, hidden_dim)`, the states of layers, for example from
            `Backbone.hidden_states`.

    Returns:
        A float32 tensor `(batch, length, hidden_dim)`.

    Example:

    >>> first, second = keras.ops.ones((1, 2, 3)), 3.0 * keras.ops.ones((1, 2, 3))
    >>> float(WeightedLayerPooling()([first, second])[0, 0, 0])
    2.0

    Reference: Peters et al., 2018, ELMo, https://arxiv.org/abs/1802.05365, on weighting the layers of an encoder.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def build(self, input_shape: Any) -> None:
        self.layer_weights = self.add_weight(shape=(len(input_shape),), initializer="ones", name="layer_weights")
        self.built = True

    def call(self, inputs: Any) -> Any:
        total = sum(self.layer_weights[i] * states for i, states in enumerate(inputs))
        return total / ops.sum(self.layer_weights)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return input_shape[0]


@keras.saving.register_keras_serializable("tfxfer")
class DensePooling(keras.layers.Layer):
    """Applies a dense layer to every token, then pools: `pool(activation(W x_t + b))`, in float32.

    The trained heads of some encoders (EuroBERT) work this way. In a task model this layer belongs to the layer group
    `"head"`.

    Args:
        units: int. The size of the result per mode.
        activation: activation of the dense layer. Defaults to `"gelu"`.
        mode: string, or sequence of strings: keys of `POOLING`. Defaults to `"mean"`.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.

    Returns:
        A float32 tensor `(batch, units * number of modes)`.

    Raises:
        ValueError: if `units` is less than 1, or `mode` is empty or holds an unknown name.

    Example:

    >>> DensePooling(8)(keras.ops.ones((2, 5, 4)), padding_mask=keras.ops.ones((2, 5))).shape
    TensorShape([2, 8])
    """

    def __init__(
        self, units: int, activation: str | Callable = "gelu", mode: str | Sequence[str] = "mean", **kwargs: Any
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.units = _check.integer("units", units)
        self.activation = keras.activations.get(activation)
        start = keras.initializers.TruncatedNormal(stddev=0.02)  # as in `Head`
        options = {"activation": self.activation, "kernel_initializer": start, "dtype": "float32"}
        self.dense = keras.layers.Dense(units, **options, name="dense")
        self.pooling = Pooling(mode)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes of the pooling."""
        return self.pooling.modes

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        self.dense.build(inputs_shape)
        self.built = True

    def call(self, inputs: Any, padding_mask: Any) -> Any:
        return self.pooling(self.dense(inputs), padding_mask=padding_mask)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (inputs_shape[0], self.units * len(self.pooling.modes))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "mode": list(self.pooling.modes),
        }


@keras.saving.register_keras_serializable("tfxfer")
class UnitNorm(keras.layers.Layer):
    """Scales each vector to Euclidean length 1: `x / max(||x||, 1e-12)`.

    Like `keras.layers.UnitNormalization`, but in float32 under every dtype policy and with a finite gradient at the
    zero vector.

    Call arguments:
        inputs: float tensor `(..., dim)`.

    Returns:
        A float32 tensor of the same shape.

    Example:

    >>> float(UnitNorm()(keras.ops.array([[3.0, 4.0]]))[0, 0])  # 3 / 5, in float32
    0.6000000238418579
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return _ops.unit_norm(inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return input_shape
