"""Losses over the outputs of all layers, so that the top layers can be dropped after training."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check
from tfxfer.losses._wrappers import MatryoshkaLoss, _is_loss, _sizes, _Wrapper, matryoshka

# The weight of layer l, one of the layers below the last.
WEIGHTINGS: dict[str, Callable] = {
    "uniform": lambda layer: 1.0,
    "log": lambda layer: 1.0 / (1.0 + math.log1p(layer)),
    "linear": lambda layer: 1.0 / (1.0 + layer),
}


def adaptive_layer(
    loss: Callable,
    y_true: Any,
    y_pred: Any,
    *,
    layers: Sequence[int] | None = None,
    weighting: str = "uniform",
    last_layer_weight: float = 1.0,
    prior_layers_weight: float = 1.0,
    kl_weight: float = 1.0,
    kl_temperature: float = 0.3,
) -> Any:
    """A loss on the embeddings of every layer, with a divergence that pulls the lower layers toward the last.

    `e_l` are the embeddings of layer l, and `K` is the number of lower layers that count:

        last_layer_weight * L(e_last)
            + sum over these layers of (prior_layers_weight * w(l) / K * L(e_l) + kl_weight * T * KL_l)

    `KL_l` is the mean over all texts of `KL(softmax(e_last / T) || softmax(e_l / T))`, over the components. No gradient
    flows through `e_last` in this term.

    Args:
        loss: function of `(y_true, y_pred)`, where `y_pred` is `(batch, columns, dim)`.
        y_true: targets for `loss`.
        y_pred: float tensor `(batch, columns, layers, dim)`: each text's embedding from every layer, from the input
            upward, the output of `models.Siamese(all_layers=True)`.
        layers: optional ints >= 0. The layers below the last that count; all by default.
        weighting: string, `w(l)` of layer l: `"uniform"` 1, `"log"` `1 / (1 + ln(1 + l))`, `"linear"` `1 / (1 + l)`.
        last_layer_weight: float >= 0.
        prior_layers_weight: float >= 0.
        kl_weight: float >= 0.
        kl_temperature: float >= 0, `T`; 0 omits the divergence.

    Returns:
        The weighted sum, in the shape that `loss` returns.

    Raises:
        ValueError: if `y_pred` is not `(batch, columns, layers, dim)` with at least two layers, or `layers` or
            `weighting` is invalid.

    >>> stack = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]], "float32")
    >>> distance = lambda y, x: 1.0 - ops.sum(x[:, 0] * x[:, 1], axis=-1)
    >>> [round(float(x), 4) for x in adaptive_layer(distance, None, stack, kl_temperature=0.0)]  # 1 + 0
    [1.0]
    """
    options = (weighting, last_layer_weight, prior_layers_weight, kl_weight, kl_temperature)
    return over_layers(lambda _, e: loss(y_true, e), y_pred, layers, *options)


def matryoshka_2d(
    loss: Callable,
    y_true: Any,
    y_pred: Any,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    **kwargs: Any,
) -> Any:
    """A loss on the first components of the embeddings of all layers: `adaptive_layer` around `matryoshka`.

    Args:
        loss: function of `(y_true, y_pred)`, where `y_pred` is `(batch, columns, dim)`.
        y_true: targets for `loss`.
        y_pred: float tensor `(batch, columns, layers, dim)`.
        dims: ints from 1 to `dim`. The numbers of components to keep.
        weights: optional floats, one for each of `dims`; 1 by default.
        **kwargs: passed to `adaptive_layer`. The divergence is over all components.

    Returns:
        The weighted sum, in the shape that `loss` returns.

    Raises:
        ValueError: in the same cases as `adaptive_layer` and `matryoshka`.

    >>> stack = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]], "float32")
    >>> distance = lambda y, x: 1.0 - ops.sum(x[:, 0] * x[:, 1], axis=-1)
    >>> [round(float(x), 4) for x in matryoshka_2d(distance, None, stack, (2, 1), kl_temperature=0.0)]  # 2 + 0
    [2.0]
    """
    return adaptive_layer(lambda y, e: matryoshka(loss, y, e, dims, weights), y_true, y_pred, **kwargs)


def over_layers(value, y_pred, layers, weighting, last_weight, prior_weight, kl_weight, temperature):
    """Returns the sum of `adaptive_layer`; `value` is a function of a layer's index and its embeddings."""
    shape = tuple(y_pred.shape)
    if len(shape) != 4 or shape[2] is None or shape[2] < 2:
        expected = "a tensor (batch, columns, layers, dim) with at least two layers for adaptive_layer"
        raise _check.invalid("y_pred", expected, shape, "Train a `models.Siamese` with `all_layers=True`.")
    last = shape[2] - 1
    layers = list(range(last)) if layers is None else _checked_layers(layers, last)
    weight = WEIGHTINGS[_check.one_of("weighting", weighting, WEIGHTINGS)]
    total = last_weight * value(last, y_pred[:, :, last])
    for layer in layers:
        total = total + prior_weight * weight(layer) / len(layers) * value(layer, y_pred[:, :, layer])
    if not (temperature and kl_weight):
        return total
    flat = ops.reshape(y_pred, (-1, shape[2], y_pred.shape[-1]))
    teacher = ops.log_softmax(ops.stop_gradient(flat[:, last]) / temperature, axis=-1)
    students = ops.log_softmax(ops.stack([flat[:, layer] for layer in layers], axis=1) / temperature, axis=-1)
    teacher = ops.expand_dims(teacher, 1)
    divergence = ops.sum(ops.exp(teacher) * (teacher - students), axis=(1, 2))
    return total + kl_weight * temperature * ops.mean(divergence)


def _checked_layers(layers, last=None):
    """Returns layer indices as a list; raises if there are none, if they repeat, or if one is not below the last."""
    if not isinstance(layers, list | tuple) or not layers or len(set(layers)) < len(layers):
        raise _check.invalid("layers", "a list of different ints >= 0, or None for all", layers)
    found = [_check.integer("layers", layer, minimum=0) for layer in layers]
    if last is not None and max(found) >= last:
        raise _check.invalid("layers", f"ints below {last}, the last layer, which always counts", layers)
    return found


@keras.saving.register_keras_serializable("tfxfer")
class AdaptiveLayerLoss(_Wrapper):
    """Trains the embeddings of all layers, so that the top ones can be dropped (`adaptive_layer`).

    Rows: those of the wrapped loss, including `y_true`, through a `models.Siamese` with `all_layers=True`.

    Choose it: to train one model that can later be cut to fewer blocks for speed, `embedder.with_blocks(3)`.

    See also: `Matryoshka2dLoss` also cuts the vectors; `models.Siamese(embedder.with_blocks(3))` trains a single
    size, which is then a little better.

    sentence-transformers draws one layer per step by default; here all layers count in each step. The two agree on
    average except for the divergence, which is summed over all layers here, but over one drawn layer of `n` there. The
    encoder computes all layers in any case.

    Args:
        loss: `keras.losses.Loss` on `(batch, columns, dim)`, such as `MultipleNegativesRankingLoss()`. Its own
            `reduction` and `dtype` are ignored.
        layers: optional list of ints. The layers below the last that count: 0 is the token embeddings, then come the
            outputs of the blocks. Defaults to all.
        weighting: string. `"uniform"` (default), `"log"` or `"linear"`; with the last two, lower layers count more.
        last_layer_weight: float >= 0. Defaults to 1.
        prior_layers_weight: float >= 0. Defaults to 1.
        kl_weight: float >= 0. The weight of the divergence from the last layer. Defaults to 1.
        kl_temperature: float >= 0. Defaults to 0.3; 0 omits the divergence.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_pred` has no axis of layers, a layer does not exist, or the wrapped loss raises.

    Example:

    ```python
    model = tx.models.Siamese(embedder, all_layers=True)
    model.compile("adamw", loss=tx.losses.AdaptiveLayerLoss(tx.losses.MultipleNegativesRankingLoss()))
    model.fit((questions, answers), np.ones(len(questions)))
    small = model.embedder.with_blocks(3)
    ```

    Reference: Li et al., 2024, 2D Matryoshka Sentence Embeddings, https://arxiv.org/abs/2402.14776.
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        *,
        layers: Sequence[int] | None = None,
        weighting: str = "uniform",
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_weight: float = 1.0,
        kl_temperature: float = 0.3,
        name: str = "adaptive_layer",
        **kwargs: Any,
    ) -> None:
        super().__init__(_is_loss(loss), name=name, **kwargs)
        self.layers = None if layers is None else _checked_layers(layers)
        self.weighting = _check.one_of("weighting", weighting, WEIGHTINGS)
        self.last_layer_weight = _check.number("last_layer_weight", last_layer_weight, minimum=0.0)
        self.prior_layers_weight = _check.number("prior_layers_weight", prior_layers_weight, minimum=0.0)
        self.kl_weight = _check.number("kl_weight", kl_weight, minimum=0.0)
        self.kl_temperature = _check.number("kl_temperature", kl_temperature, minimum=0.0)

    def _options(self):
        return {
            "layers": self.layers,
            "weighting": self.weighting,
            "last_layer_weight": self.last_layer_weight,
            "prior_layers_weight": self.prior_layers_weight,
            "kl_weight": self.kl_weight,
            "kl_temperature": self.kl_temperature,
        }

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return adaptive_layer(self.loss.call, y_true, y_pred, **self._options())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._options()}


@keras.saving.register_keras_serializable("tfxfer")
class Matryoshka2dLoss(AdaptiveLayerLoss):
    """Trains the first components of the embeddings of all layers (`matryoshka_2d`).

    Rows: those of the wrapped loss, including `y_true`, through a `models.Siamese` with `all_layers=True`.

    Choose it: to train one model that can later be cut in both blocks and components: `embedder.with_blocks(3)` with
    `encode(truncate_dim=128)`.

    See also: `AdaptiveLayerLoss` cuts only blocks and `MatryoshkaLoss` only components; this loss combines the two.

    Args:
        loss: `keras.losses.Loss` on `(batch, columns, dim)`, such as `MultipleNegativesRankingLoss()`. Its own
            `reduction` and `dtype` are ignored.
        dims: list of ints, for example `[384, 256, 128, 64]`; include the full size unless only truncated vectors
            matter.
        weights: optional list of floats >= 0, one for each of `dims`. Defaults to 1 each.
        layers, weighting, last_layer_weight, prior_layers_weight, kl_weight, kl_temperature: see `AdaptiveLayerLoss`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: in the same cases as `AdaptiveLayerLoss` and `MatryoshkaLoss`.

    Example:

    ```python
    model = tx.models.Siamese(embedder, all_layers=True)
    loss = tx.losses.Matryoshka2dLoss(tx.losses.MultipleNegativesRankingLoss(), dims=[384, 128])
    model.compile("adamw", loss=loss)
    ```

    Reference: Li et al., 2024, 2D Matryoshka Sentence Embeddings, https://arxiv.org/abs/2402.14776.
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        layers: Sequence[int] | None = None,
        weighting: str = "uniform",
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_weight: float = 1.0,
        kl_temperature: float = 0.3,
        name: str = "matryoshka_2d",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            loss,
            layers=layers,
            weighting=weighting,
            last_layer_weight=last_layer_weight,
            prior_layers_weight=prior_layers_weight,
            kl_weight=kl_weight,
            kl_temperature=kl_temperature,
            name=name,
            **kwargs,
        )
        self.dims, self.weights = _sizes(dims, weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        cut = MatryoshkaLoss(self.loss, self.dims, self.weights, dtype=self.dtype)
        return adaptive_layer(cut.call, y_true, y_pred, **self._options())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dims": list(self.dims), "weights": list(self.weights)}
