"""Losses over the states of all layers, so that the top ones can be dropped after training."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check
from tfxfer.losses._wrappers import MatryoshkaLoss, _is_loss, _sizes, _Wrapper, matryoshka

# The weight of layer l, of those below the last.
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
    """A loss on the embeddings of the last layer, and on those of the layers below, which should follow the last one's.

    `e_l` are the embeddings of layer l, `K` the number of layers below that count:

        last_layer_weight * L(e_last)
            + sum over these layers of (prior_layers_weight * w(l) / K * L(e_l) + kl_weight * T * KL_l)

    `KL_l` is the mean over all texts of `KL(softmax(e_last / T) || softmax(e_l / T))`, over the components; no gradient
    goes through `e_last` there.

    Args:
        loss: function of `(y_true, y_pred)`, of `(batch, columns, dim)`.
        y_true: what `loss` takes.
        y_pred: float tensor `(batch, columns, layers, dim)`: of each text the embedding of every layer, from the input
            upwards, as `models.Siamese(all_layers=True)` gives it.
        layers: optional ints from 0. Which of the layers below the last count; by default all.
        weighting: string, `w(l)` of the layer with number l: `"uniform"` 1, `"log"` `1 / (1 + ln(1 + l))`, `"linear"`
            `1 / (1 + l)`.
        last_layer_weight: float >= 0.
        prior_layers_weight: float >= 0.
        kl_weight: float >= 0.
        kl_temperature: float >= 0, `T`; 0 leaves the divergence out.

    Returns:
        What `loss` returns.

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
    """`adaptive_layer` of `matryoshka`: a loss on the first components of the embeddings of all layers.

    Args:
        loss: function of `(y_true, y_pred)`, of `(batch, columns, dim)`.
        y_true: what `loss` takes.
        y_pred: float tensor `(batch, columns, layers, dim)`.
        dims: ints from 1 to `dim`. How many components to keep.
        weights: optional floats, one for each of `dims`; 1 by default.
        **kwargs: as `adaptive_layer` has them. The divergence is over all components.

    Returns:
        What `loss` returns.

    >>> stack = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]], "float32")
    >>> distance = lambda y, x: 1.0 - ops.sum(x[:, 0] * x[:, 1], axis=-1)
    >>> [round(float(x), 4) for x in matryoshka_2d(distance, None, stack, (2, 1), kl_temperature=0.0)]  # 2 + 0
    [2.0]
    """
    return adaptive_layer(lambda y, e: matryoshka(loss, y, e, dims, weights), y_true, y_pred, **kwargs)


def over_layers(value, y_pred, layers, weighting, last_weight, prior_weight, kl_weight, temperature):
    """The sum of `adaptive_layer`; `value` is a function of a layer's number and its embeddings."""
    shape = tuple(y_pred.shape)
    if len(shape) != 4 or shape[2] is None or shape[2] < 2:
        expected = "a tensor (batch, columns, layers, dim) of at least two layers for adaptive_layer"
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
    """Returns numbers of layers as a list; raises for none, for equal ones, and for the last one or beyond."""
    if not isinstance(layers, list | tuple) or not layers or len(set(layers)) < len(layers):
        raise _check.invalid("layers", "a list of different ints >= 0, or None for all", layers)
    found = [_check.integer("layers", layer, minimum=0) for layer in layers]
    if last is not None and max(found) >= last:
        raise _check.invalid("layers", f"ints below {last}, the last layer, which always counts", layers)
    return found


@keras.saving.register_keras_serializable("tfxfer")
class AdaptiveLayerLoss(_Wrapper):
    """Trains the embeddings of all layers, so that the top ones can be dropped (`adaptive_layer`).

    Rows: those of the loss inside, `y_true` too, through a `models.Siamese` with `all_layers=True`.

    Choose it: when a model should be cut to fewer blocks afterwards, `embedder.with_blocks(3)`, as speed asks for.

    Neighbours: `Matryoshka2dLoss` cuts the vectors as well; `models.Siamese(embedder.with_blocks(3))` trains one size
    alone, which is then a little better.

    sentence-transformers draws one layer a step by default; here all count in each step, which is the same on average
    but for the divergence: it is a sum over the layers, of which one of `n` was drawn there. The encoder computes all
    of them in any case.

    Args:
        loss: `keras.losses.Loss` on `(batch, columns, dim)`, such as `MultipleNegativesRankingLoss()`. Its own
            `reduction` and `dtype` do not count.
        layers: optional list of ints. Which layers below the last one count, 0 the embeddings of tokens, then each
            block's output. Defaults to all.
        weighting: string. `"uniform"` (default), `"log"` or `"linear"`: the lower layers count more in the last two.
        last_layer_weight: float >= 0. Defaults to 1.
        prior_layers_weight: float >= 0. Defaults to 1.
        kl_weight: float >= 0. The weight of the divergence from the last layer. Defaults to 1.
        kl_temperature: float >= 0. Defaults to 0.3; 0 leaves the divergence out.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: for `y_pred` without an axis of layers, a layer that is not there, and whatever the loss inside
            raises.

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

    Rows: those of the loss inside, `y_true` too, through a `models.Siamese` with `all_layers=True`.

    Choose it: when both blocks and components may be cut afterwards: `embedder.with_blocks(3)` with
    `encode(truncate_dim=128)`.

    Neighbours: `AdaptiveLayerLoss` and `MatryoshkaLoss` do one of both; this is the one around the other.

    Args:
        loss: `keras.losses.Loss` on `(batch, columns, dim)`, such as `MultipleNegativesRankingLoss()`. Its own
            `reduction` and `dtype` do not count.
        dims: list of ints, such as `[384, 256, 128, 64]`; name the full size too, unless only cut vectors matter.
        weights: optional list of floats >= 0, one for each of `dims`. Defaults to 1 each.
        layers, weighting, last_layer_weight, prior_layers_weight, kl_weight, kl_temperature: as `AdaptiveLayerLoss`
            has them.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: as `AdaptiveLayerLoss` and `MatryoshkaLoss`.

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
