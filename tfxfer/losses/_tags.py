"""Losses on the tags of words; targets of -1 are ignored."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _chain, _check, _replicas
from tfxfer.losses import _base, _weights

# The minimum base of the focal power: a power below 1 has no finite slope at 0.
_LEAST = 1e-20


def tag_crossentropy(
    y_true: Any, y_pred: Any, tag_weights: Sequence[float] | np.ndarray | None = None, *, gamma: float = 0.0
) -> Any:
    """Softmax cross-entropy of each word, averaged over all words of the batch.

    `w[y] * (1 - p)^gamma * -log(p)` for each word, where `p` is the probability of its tag. A row's value is the sum
    over its words, times the number of rows, divided by the sum of `w[y]` over the batch. The mean of the values is
    therefore the weighted mean over all words.

    Args:
        y_true: int tensor `(batch, length)` of tag indices; negative values are ignored, for padding and for words
            without tokens. Other values that are not indices below `tags` make their row NaN.
        y_pred: float tensor `(batch, length, tags)`. Logits.
        tag_weights: optional floats `(tags,)`: `w`.
        gamma: float >= 0. The focal parameter; 0 turns it off.

    Returns:
        A tensor `(batch,)`; 0 if no row has a word.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> logits = np.zeros((2, 3, 4), "float32")
    >>> values = tag_crossentropy(np.array([[0, 1, 2], [3, -1, -1]]), logits)
    >>> [round(float(x), 4) for x in values]  # 3 words and 1 word, each log 4: their mean is log 4
    [2.0794, 0.6931]
    """
    tags, mask, is_wrong = _words(y_true, y_pred)
    logs = ops.log_softmax(y_pred, axis=-1)
    logs = ops.take_along_axis(logs, ops.expand_dims(tags, -1), axis=-1)[..., 0]
    # Masked before the powers: padding may hold any values.
    logs = ops.where(mask, logs, ops.zeros_like(logs))
    losses = -logs
    if gamma:
        losses *= ops.power(ops.maximum(-ops.expm1(logs), _LEAST), gamma)
    weights = _word_weights(tags, mask, tag_weights, losses.dtype)
    return _or_nan(ops.sum(weights * losses, axis=-1), is_wrong)


def chain_crossentropy(
    y_true: Any,
    y_pred: Any,
    potentials: tuple,
    tag_weights: Sequence[float] | np.ndarray | None = None,
    *,
    gamma: float = 0.0,
) -> Any:
    """Cross-entropy of a conditional random field, averaged over all words of the batch.

    Like `tag_crossentropy`, but `p` is the probability of a word's tag given the previous word's tag and the whole
    text. Without weights and `gamma`, the sum over a text is its negative log-likelihood. The chain skips ignored
    words: it connects the word before to the word after.

    Args:
        y_true: int tensor `(batch, length)` of tag indices; negative values are ignored. Other values that are not
            indices below `tags` make their row NaN.
        y_pred: float tensor `(batch, length, tags)`. Emissions.
        potentials: tuple of float tensors: transitions `(tags, tags)` (from, to), start and end `(tags,)`, as
            `layers.CRF.potentials` returns them.
        tag_weights: optional floats `(tags,)`.
        gamma: float >= 0. The focal parameter; 0 turns it off.

    Returns:
        A tensor `(batch,)`, float32 or float64; 0 if no row has a word.

    Raises:
        ValueError: if the shape of `y_true` or `y_pred` does not fit.

    >>> emissions = np.array([[[1.0, 0.0], [0.0, 0.0]]], "float32")
    >>> zeros = np.zeros(2, "float32")
    >>> values = chain_crossentropy(np.array([[0, 1]]), emissions, (np.zeros((2, 2), "float32"), zeros, zeros))
    >>> [round(float(x), 4) for x in values]  # half of log(1 + 1/e) + log 2
    [0.5032]
    """
    tags, mask, is_wrong = _words(y_true, y_pred)
    chain = _chain.chain(y_pred, mask, *potentials)
    weights = _word_weights(tags, mask, tag_weights, chain.emissions.dtype)
    return _or_nan(_chain.focal_loss(chain, tags, weights, gamma), is_wrong)


def _words(y_true, y_pred):
    """Returns the tags (0 at ignored words), the mask of words that count, and the mask of rows with invalid tags."""
    expected, shape = tuple(y_pred.shape), tuple(y_true.shape)
    if len(expected) != 3:
        raise _check.invalid("y_pred", "a tensor (batch, length, tags)", expected)
    pairs = zip(shape, expected[:2], strict=False)
    if len(shape) != 2 or not all(a is None or b is None or a == b for a, b in pairs):
        raise _check.invalid("y_true", f"tag indices of shape {expected[:2]}, -1 for ignored words", shape)
    tags = ops.cast(y_true, "int32")
    mask = tags >= 0
    is_known = ops.logical_and(tags < expected[-1], ops.cast(tags, y_true.dtype) == y_true)
    is_wrong = ops.any(ops.logical_and(mask, ops.logical_not(is_known)), axis=-1)
    mask = ops.logical_and(mask, is_known)
    return ops.where(mask, tags, 0), mask, is_wrong


def _word_weights(tags, mask, tag_weights, dtype):
    """Returns word weights that sum to the number of rows of the batch; 0 at ignored words."""
    weights = ops.cast(mask, dtype)
    if tag_weights is not None:
        weights *= ops.take(ops.convert_to_tensor(tag_weights, dtype), tags)
    total = _replicas.total(ops.sum(weights))
    total = ops.where(total > 0, total, ops.ones_like(total))
    return weights * (_replicas.total(ops.cast(ops.shape(tags)[0], dtype)) / total)


def _or_nan(values, is_wrong):
    return ops.where(is_wrong, ops.full_like(values, float("nan")), values)


class _TagLoss(_base.CheckedLoss):
    """A loss on the tags of words, with tag weights and a focal parameter."""

    compares_rows = False

    def __init__(self, tag_weights: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tag_weights = _weights.checked("tag_weights", tag_weights)
        self.gamma = _check.number("gamma", gamma, minimum=0.0)

    def for_tags(self, tags: Sequence[str]) -> Any:
        """Returns a loss with the weights in the order of a model's tags.

        Args:
            tags: sequence of tag names, in the order of the outputs.

        Returns:
            A loss of this class; this loss itself if its weights are not named.

        Raises:
            ValueError: if a tag has no weight, a name is not a tag, or the number of weights differs.

        Example:

        >>> TagCrossentropy({"O": 0.5, "B-LOC": 2.0, "I-LOC": 1.0}).for_tags(["B-LOC", "I-LOC", "O"]).tag_weights
        (2.0, 1.0, 0.5)
        """
        if self.tag_weights is None:
            return self
        ordered = _weights.ordered("tag_weights", self.tag_weights, list(tags), "tag")
        return self if ordered is self.tag_weights else self._with(tag_weights=ordered)

    def _with(self, **changes):
        return type(self).from_config({**self.get_config(), **changes})

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        values, y_pred = _base.known(self.targets(y_true)), ops.convert_to_tensor(y_pred)
        if values is not None and len(y_pred.shape) == 3:
            _check_tags(values, y_pred.shape[-1])
        shape = tuple(getattr(sample_weight, "shape", np.shape(sample_weight)))
        if len(shape) > 1 and shape[1:] != (1,):
            remedy = "Set y_true to -1 at words to ignore."
            raise _check.invalid("sample_weight", "one number for each row, shape (batch,)", f"shape {shape}", remedy)
        # A copy, to drop Keras's mask of the outputs: it has a length axis, but row values have none. -1 marks ignored
        # words.
        return super().__call__(y_true, ops.copy(y_pred), sample_weight)

    def _in_order(self, count):
        remedy = "Order them by the model's tags first: `loss.for_tags(tags)`."
        return _weights.by_output("tag_weights", self.tag_weights, count, remedy)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tag_weights": _weights.to_json(self.tag_weights), "gamma": self.gamma}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "tag_weights": _weights.from_json(config.get("tag_weights"))})


def _check_tags(values, count):
    wrong = (values >= count) | ((values >= 0) & (values != np.floor(values))) | (values != values)
    if wrong.any():
        where = [int(each) for each in np.argwhere(wrong)[0]]
        remedy = f"It is at {where} of the batch (row, word). Use -1 for ignored words."
        raise _check.invalid("y_true", f"tag indices 0 to {count - 1}, or -1", values[tuple(where)].item(), remedy)


@keras.saving.register_keras_serializable("tfxfer")
class TagCrossentropy(_TagLoss):
    """Softmax cross-entropy of each word, averaged over all words of the batch (`tag_crossentropy`).

    Rows: a tag index for each word, `(batch, length)`; -1 for ignored words.

    Choose it: for word tags from a linear head. Each word has equal weight, regardless of the length of its text.

    See also: `ChainCrossentropy` is for a CRF, which models transitions between tags. Keras's
    `SparseCategoricalCrossentropy(ignore_class=-1)` also divides by the padding, so words of short texts count less.

    Args:
        tag_weights: optional sequence of floats > 0 in the order of the tags, or dict of tag name to float. `for_tags`
            orders named weights for a model.
        gamma: float >= 0. The focal parameter, which reduces the weight of easy words. Defaults to 0 (off); the paper
            uses 2.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    `y_pred` holds logits `(batch, length, tags)`.

    Raises:
        ValueError: if weights are not numbers > 0, their number differs from the number of tags, or they are named and
            not ordered yet; if the shape of the targets does not fit; if targets are known to hold invalid tag indices.
            In a traced function, as in `fit`, such rows make the loss NaN.

    Example:

    ```python
    loss = tx.losses.TagCrossentropy({"O": 0.5, "B-LOC": 2.0, "I-LOC": 2.0})
    model.compile("adamw", loss=loss.for_tags(["O", "B-LOC", "I-LOC"]), metrics=[tx.metrics.TagAccuracy()])
    ```

    Reference: Lin et al., 2017, Focal Loss for Dense Object Detection, on `gamma`, https://arxiv.org/abs/1708.02002.
    """

    def __init__(
        self,
        tag_weights: Sequence[float] | Mapping[Any, float] | np.ndarray | None = None,
        *,
        gamma: float = 0.0,
        name: str = "tag_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(tag_weights, gamma, name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tag_crossentropy(y_true, y_pred, self._in_order(y_pred.shape[-1]), gamma=self.gamma)


@keras.saving.register_keras_serializable("tfxfer")
class ChainCrossentropy(_TagLoss):
    """Cross-entropy of a conditional random field, averaged over the words of the batch (`chain_crossentropy`).

    Without weights and `gamma` this is the negative log-likelihood of the tags, per word.

    Rows: a tag index for each word, `(batch, length)`; -1 for ignored words.

    Choose it: for word tags from a `layers.CRF`, such as spans, whose tags only allow certain transitions.

    See also: `TagCrossentropy` is for a linear head and has the same scale: the two are equal for a CRF without
    transitions.

    Args:
        crf: optional `layers.CRF`, whose weights the loss reads and trains. The config omits it: `for_layer` binds a
            loaded loss to a layer.
        tag_weights: optional sequence of floats > 0 in the order of the tags, or dict of tag name to float: weights of
            words by their true tag. `for_tags` orders named weights for a model.
        gamma: float >= 0. The focal parameter, which reduces the weight of words that are easy given the previous tag.
            Defaults to 0 (off).
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    `y_pred` holds emissions `(batch, length, tags)`, the output of the layer.

    Raises:
        ValueError: if it is called without a layer, and in the same cases as `TagCrossentropy`. Transitions that the
            layer forbids make the loss about 1e30; `layers.CRF.forbidden_step` finds them before training.

    Example:

    ```python
    inputs = keras.Input((None,), dtype="int32")
    crf = tx.layers.CRF(3)
    outputs = crf(keras.layers.Dense(3)(keras.layers.Embedding(1000, 32)(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", loss=tx.losses.ChainCrossentropy(crf))
    ```

    Reference: Lafferty, McCallum and Pereira, 2001, Conditional Random Fields,
    https://repository.upenn.edu/cis_papers/159; Lin et al., 2017, Focal Loss for Dense Object Detection, on `gamma`,
    https://arxiv.org/abs/1708.02002.
    """

    def __init__(
        self,
        crf: Any = None,
        *,
        tag_weights: Sequence[float] | Mapping[Any, float] | np.ndarray | None = None,
        gamma: float = 0.0,
        name: str = "chain_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(tag_weights, gamma, name=name, **kwargs)
        if crf is not None and not callable(getattr(crf, "potentials", None)):
            raise _check.invalid("crf", "a `layers.CRF`, or another layer with its method `potentials`", crf)
        self._crf = crf

    @property
    def crf(self) -> Any:
        """The layer that the loss trains; `None` if it is not bound to one."""
        return self._crf

    def for_layer(self, crf: Any) -> Any:
        """Returns a copy of this loss that is bound to a layer.

        Args:
            crf: `layers.CRF`, the layer whose outputs the loss receives.

        Returns:
            A new `ChainCrossentropy`.
        """
        return self._with(crf=crf)

    def _with(self, **changes):
        return super()._with(**{"crf": self._crf, **changes})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if self._crf is None:
            remedy = "Bind the loss to the layer of the model: `loss.for_layer(crf)`."
            raise _check.invalid("crf", "a `layers.CRF` whose weights the loss reads", self._crf, remedy)
        weights = self._in_order(y_pred.shape[-1])
        return chain_crossentropy(y_true, y_pred, self._crf.potentials(), weights, gamma=self.gamma)
