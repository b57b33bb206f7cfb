"""Combines several kinds of features of a row into one vector."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check

FUSIONS = ("concat", "gate", "attention")


@keras.saving.register_keras_serializable("tfxfer")
class ScaledNumbers(keras.layers.Layer):
    """Scales numbers to features, `(x - mean) / scale`, and optionally marks missing numbers.

    With `has_missing`, a missing number (NaN) becomes 0, the mean, and a second feature is 1 if the number is missing,
    else 0. Features are float32 under every dtype policy.

    Args:
        mean: float, or list of `size` floats. Defaults to 0.
        scale: float > 0, or list of `size` floats > 0. Defaults to 1.
        has_missing: bool. Whether to add the second features. Without them, NaN stays NaN. Defaults to `False`.

    Call arguments:
        inputs: float tensor `(batch,)` or `(batch, size)`.

    Returns:
        A float32 tensor `(batch, size)`, or `(batch, 2 * size)` with `has_missing`: first all numbers, then all marks.

    Raises:
        ValueError: if `scale` is not above 0, a number is not finite, or `has_missing` is not a bool.

    Example:

    >>> ScaledNumbers(40.0, 10.0, has_missing=True)(np.array([50.0, np.nan])).numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
        *,
        has_missing: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.mean = _numbers("mean", mean)
        self.scale = _numbers("scale", scale)
        if any(each <= 0 for each in _listed(self.scale)):
            raise _check.invalid("scale", "numbers above 0", scale)
        self.has_missing = _check.instance("has_missing", has_missing, bool, "True or False")

    def call(self, inputs: Any) -> Any:
        x = inputs if len(inputs.shape) == 2 else ops.expand_dims(inputs, -1)
        scaled = (ops.cast(x, "float32") - ops.array(self.mean, "float32")) / ops.array(self.scale, "float32")
        if not self.has_missing:
            return scaled
        is_missing = ops.isnan(scaled)
        present = ops.where(is_missing, ops.zeros_like(scaled), scaled)
        return ops.concatenate([present, ops.cast(is_missing, "float32")], axis=-1)

    def compute_output_spec(self, inputs: Any) -> Any:
        size = 1 if len(inputs.shape) == 1 else inputs.shape[-1]
        return keras.KerasTensor((inputs.shape[0], size * (2 if self.has_missing else 1)), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.mean, "scale": self.scale, "has_missing": self.has_missing}


@keras.saving.register_keras_serializable("tfxfer")
class OneHot(keras.layers.Layer):
    """One-hot encodes categories: 1 at the index, 0 elsewhere, in float32.

    A linear layer on top is an embedding, with one row of weights for each category.

    Args:
        size: int. The number of categories.

    Call arguments:
        inputs: int tensor `(batch,)`, from 0 to `size - 1`.

    Returns:
        A float32 tensor `(batch, size)`.

    Raises:
        ValueError: if `size` is less than 1.

    Example:

    >>> OneHot(3)(np.array([2, 0])).numpy().tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.size = _check.integer("size", size)

    def call(self, inputs: Any) -> Any:
        return ops.one_hot(ops.cast(inputs, "int32"), self.size, dtype="float32")

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], self.size), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("tfxfer")
class Fusion(keras.layers.Layer):
    """Combines the features of several modalities (text, numbers, categories, images) into one vector.

    | mode | output | size |
    |---|---|---|
    | `"concat"` | `[x_1; ...; x_k]` | the sum of all sizes |
    | `"gate"` | `sum_i sigmoid(G_i [x_1; ...; x_k]) * tanh(W_i x_i + b_i)` | `dim` |
    | `"attention"` | `sum_i a_i v_i`, `v_i = W_i x_i`, `a = softmax_i(leaky_relu(w . [v_1; v_i]))` | `dim` |

    `"concat"` has no weights: a linear head on top is a regression on all features and can be initialized by a probe.
    `"gate"` gates each feature depending on all features (a gated multimodal unit). `"attention"` weights whole
    modalities by how they relate to the first, the text. The last two need data to train: start with `"concat"`.

    Args:
        mode: string. `"concat"` (default), `"gate"` or `"attention"`.
        dim: optional int. The output size of `"gate"` and `"attention"`. Defaults to the size of the first input.

    Call arguments:
        inputs: list of at least two float tensors `(batch, size_i)`, the text's first.

    Returns:
        A float32 tensor `(batch, size)`.

    Raises:
        ValueError: if `mode` is unknown, `dim` is given with `"concat"`, or there are fewer than two inputs.

    Example:

    >>> Fusion("gate", dim=3)([keras.ops.ones((2, 4)), keras.ops.ones((2, 1))]).shape
    TensorShape([2, 3])

    Reference: Arevalo et al., 2017, Gated Multimodal Units, https://arxiv.org/abs/1702.01992; Gu and Budhkar, 2021, on
    tables and text with transformers, https://aclanthology.org/2021.maiworkshop-1.10/.
    """

    def __init__(self, mode: str = "concat", dim: int | None = None, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.mode = _check.one_of("mode", mode, FUSIONS)
        self.dim = _check.integer("dim", dim, optional=True)
        if mode == "concat" and dim is not None:
            raise _check.invalid("dim", 'None for "concat", which keeps all features', dim)
        self._values: list = []
        self._gates: list = []

    def build(self, input_shape: Any) -> None:
        sizes = [shape[-1] for shape in input_shape]
        if len(sizes) < 2:
            raise _check.invalid("inputs", "the features of at least two modalities", len(sizes))
        if self.mode != "concat":
            dim = self.dim or sizes[0]
            is_gate = self.mode == "gate"
            for i, size in enumerate(sizes):
                self._values.append(
                    keras.layers.Dense(
                        dim,
                        activation="tanh" if is_gate else None,
                        use_bias=is_gate,
                        dtype="float32",
                        name=f"value_{i}",
                    )
                )
                self._values[-1].build((None, size))
            if is_gate:
                for i in range(len(sizes)):
                    self._gates.append(keras.layers.Dense(dim, activation="sigmoid", dtype="float32", name=f"gate_{i}"))
                    self._gates[-1].build((None, sum(sizes)))
            else:
                self.scorer = self.add_weight(shape=(2, dim), initializer="glorot_uniform", name="scorer")
        self.built = True

    def call(self, inputs: Any) -> Any:
        inputs = [ops.cast(each, "float32") for each in inputs]
        whole = ops.concatenate(inputs, axis=-1)
        if self.mode == "concat":
            return whole
        values = [dense(x) for dense, x in zip(self._values, inputs, strict=True)]
        if self.mode == "gate":
            return sum(gate(whole) * value for gate, value in zip(self._gates, values, strict=True))
        values = ops.stack(values, axis=1)
        of_first = ops.sum(values[:, :1] * self.scorer[0], axis=-1)
        scores = ops.leaky_relu(of_first + ops.sum(values * self.scorer[1], axis=-1), negative_slope=0.2)
        return ops.sum(ops.expand_dims(ops.softmax(scores, axis=-1), -1) * values, axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        sizes = [shape[-1] for shape in input_shape]
        return (input_shape[0][0], sum(sizes) if self.mode == "concat" else self.dim or sizes[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode, "dim": self.dim}


def _listed(values):
    return values if isinstance(values, list) else [values]


def _numbers(argument, values):
    """Returns a float or a list of floats; raises if a value is not finite."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Mapping) or isinstance(values, (str, bytes)):
        raise _check.invalid(argument, "a number, or a list of numbers", values)
    many = isinstance(values, (list, tuple))
    found = [_check.number(argument, each) for each in (values if many else [values])]
    if not found or not all(map(math.isfinite, found)):
        raise _check.invalid(argument, "finite numbers", values)
    return [float(each) for each in found] if many else float(found[0])
