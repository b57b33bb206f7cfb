"""Losses on the logits of classifiers, for targets that Keras's losses do not accept."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base, _weights

# How far the shares of a row may sum from 1: float16 rounds thousands of them.
_TOLERANCE = 0.01
# The minimum base of the focal power: a power below 1 has no finite slope at 0.
_LEAST = 1e-20


def class_crossentropy(y_true: Any, y_pred: Any, label_smoothing: float = 0.0) -> Any:
    """Softmax cross-entropy with class indices, or with a share for each class.

    `-sum over classes of q * log(softmax(logits))`; `q` is the target distribution, or `(1 - s) * q + s / classes` with
    label smoothing `s`.

    Args:
        y_true: int tensor `(batch,)` or `(batch, 1)` of class indices, or float tensor `(batch, classes)` of shares
            that sum to 1: a teacher's probabilities, or the share of annotators that chose each class. Rows that are
            neither give NaN.
        y_pred: float tensor `(batch, classes)`. Logits.
        label_smoothing: float in `[0, 1]`.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if the shape of `y_true` does not fit `y_pred`.

    >>> logits = np.array([[0.0, 0.0], [0.0, 0.0]], "float32")
    >>> [round(float(x), 4) for x in class_crossentropy(np.array([0, 1]), logits)]  # log 2
    [0.6931, 0.6931]
    >>> [round(float(x), 4) for x in class_crossentropy(np.array([[0.5, 0.5], [1.0, 0.0]], "float32"), logits)]
    [0.6931, 0.6931]
    """
    shares = ops.cast(_shares(y_true, y_pred), y_pred.dtype)
    if label_smoothing:
        shares = (1.0 - label_smoothing) * shares + label_smoothing / y_pred.shape[-1]
    logs = ops.log_softmax(y_pred, axis=-1)
    # A class with share 0 is ignored even if its logit is minus infinity.
    return -ops.sum(ops.where(shares == 0.0, ops.zeros_like(logs), shares * logs), axis=-1)


def _shares(y_true, y_pred):
    """Returns targets as a share of each class; NaN in rows that are neither a class nor a distribution."""
    classes = y_pred.shape[-1]
    if not _ops.holds_shares(y_true, y_pred):
        indices = ops.reshape(y_true, ops.shape(y_pred)[:-1])
        whole = ops.cast(indices, "int32")
        # Checked before a cast to a dtype that cannot hold every index.
        known = ops.logical_and(ops.logical_and(whole >= 0, whole < classes), ops.cast(whole, indices.dtype) == indices)
        shares = ops.one_hot(ops.where(known, whole, ops.zeros_like(whole)), classes, dtype="float32")
    else:
        shares = y_true if keras.backend.is_float_dtype(_base.kind(y_true)) else ops.cast(y_true, "float32")
        total = ops.sum(ops.cast(shares, "float32"), axis=-1)
        known = ops.logical_and(ops.abs(total - 1.0) <= _TOLERANCE, ops.all(shares >= 0, axis=-1))
    return ops.where(ops.expand_dims(known, -1), shares, ops.full_like(shares, float("nan")))


def weighted_binary_crossentropy(
    y_true: Any,
    y_pred: Any,
    positive_weights: Sequence[float] | Mapping[Any, float] | np.ndarray | None = None,
    *,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
    from_logits: bool = True,
) -> Any:
    """Binary cross-entropy of each label, with weights for present labels and a focal factor for easy ones.

    `(1 - p_t)^gamma * -(w * y * log(p) + (1 - y) * log(1 - p))`, averaged over the labels;
    `p_t = y * p + (1 - y) * (1 - p)` is the probability of the correct value. With label smoothing `s`, `y` becomes
    `(1 - s) * y + s / 2`.

    Args:
        y_true: tensor `(batch, labels)` of 0 and 1, or floats between them. Values outside make their row NaN.
        y_pred: float tensor `(batch, labels)`. Logits, or probabilities.
        positive_weights: optional floats `(labels,)`: `w`.
        gamma: float >= 0. The focal parameter; 0 turns it off.
        label_smoothing: float in `[0, 1]`.
        from_logits: bool. Whether `y_pred` holds logits instead of probabilities.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if the shapes of `y_true` and `y_pred` differ.

    >>> logits = np.array([[0.0, 0.0]], "float32")
    >>> [round(float(x), 4) for x in weighted_binary_crossentropy(np.array([[1, 0]]), logits, [3.0, 1.0])]  # 2 log 2
    [1.3863]
    """
    if tuple(y_true.shape)[1:] != tuple(y_pred.shape)[1:] or len(y_true.shape) != len(y_pred.shape):
        raise _check.invalid("y_true", f"0 and 1 for each label, shape {tuple(y_pred.shape)}", tuple(y_true.shape))
    y = ops.cast(y_true, y_pred.dtype)
    y = ops.where(ops.logical_and(y >= 0, y <= 1), y, ops.full_like(y, float("nan")))
    y = (1.0 - label_smoothing) * y + 0.5 * label_smoothing
    if from_logits:
        present, absent = ops.softplus(-y_pred), ops.softplus(y_pred)
        wrong = y * ops.sigmoid(-y_pred) + (1.0 - y) * ops.sigmoid(y_pred)
    else:
        p = ops.clip(y_pred, keras.config.epsilon(), 1.0 - keras.config.epsilon())
        present, absent = -ops.log(p), -ops.log(1.0 - p)
        wrong = y * (1.0 - p) + (1.0 - y) * p
    if positive_weights is not None:
        present *= ops.convert_to_tensor(positive_weights, y_pred.dtype)
    losses = y * present + (1.0 - y) * absent
    if gamma:
        losses *= ops.power(ops.maximum(wrong, _LEAST), gamma)
    return ops.mean(losses, axis=-1)


@keras.saving.register_keras_serializable("tfxfer")
class ClassCrossentropy(_base.CheckedLoss):
    """Softmax cross-entropy with class indices, or with a share for each class (`class_crossentropy`).

    Rows: class indices `(batch,)`, or shares `(batch, classes)` that sum to 1.

    Choose it: for classifiers with probabilities as targets: a teacher's, or the share of annotators that chose each
    class.

    See also: Keras's `SparseCategoricalCrossentropy` takes only indices and `CategoricalCrossentropy` only shares;
    the values are the same. `metrics.ClassAccuracy` takes the same targets. `WeightedBinaryCrossentropy` is for several
    labels per text.

    Args:
        label_smoothing: float in `[0, 1]`. The fraction of each target that is spread over all classes. Defaults to 0.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    `y_pred` holds logits `(batch, classes)`.

    Raises:
        ValueError: if the shape of the targets does not fit; if their values are known and hold indices outside the
            classes, negative shares, or shares that do not sum to 1 (within 0.01). In a traced function, as in `fit`,
            such rows make the loss NaN.

    Example:

    ```python
    teacher = model.classify(texts).probabilities
    student.compile("adamw", loss=tx.losses.ClassCrossentropy(), metrics=[tx.metrics.ClassAccuracy()])
    student.fit(texts, teacher)
    ```

    Reference: Szegedy et al., 2016, Rethinking the Inception Architecture, on smoothing,
    https://arxiv.org/abs/1512.00567.
    """

    compares_rows = False

    def __init__(self, label_smoothing: float = 0.0, *, name: str = "class_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.label_smoothing = _check.number("label_smoothing", label_smoothing, minimum=0.0, maximum=1.0)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true, y_pred = ops.convert_to_tensor(self.targets(y_true)), ops.convert_to_tensor(y_pred)
        shares = _shares(y_true, y_pred)
        values = _base.known(shares)
        if values is not None and np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values).reshape(-1, values.shape[-1]).any(axis=-1))[0])
            given = _base.known(y_true).reshape((-1, *y_true.shape[len(y_pred.shape) - 1 :]))[row].tolist()
            expected = f"class indices 0 to {y_pred.shape[-1] - 1}, or shares >= 0 that sum to 1"
            remedy = f"This is row {row} of the batch. For several labels per row use `WeightedBinaryCrossentropy`."
            raise _check.invalid("y_true", expected, given, remedy)
        return super().__call__(shares, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return class_crossentropy(y_true, y_pred, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("tfxfer")
class WeightedBinaryCrossentropy(_base.CheckedLoss):
    """Binary cross-entropy with positive weights and a focal parameter (`weighted_binary_crossentropy`).

    Rows: 0 or 1 (or a share) for each label, `(batch, labels)`.

    Choose it: for texts with any number of labels, most of them rare: if a tenth of the texts have a label, a weight of
    9 makes them count as much as the rest. `gamma` shifts the weight to labels that the model still gets wrong.

    See also: Keras's `BinaryCrossentropy` has one weight for all labels; `BinaryFocalCrossentropy` has one `alpha`.
    Without weights the values equal theirs. `ClassCrossentropy` with `class_weight` is for one label per text.

    Args:
        positive_weights: optional sequence of floats > 0 in the order of the labels, or dict of label name to float;
            also the output of `data.class_weights` for several labels per text. `for_labels` orders named weights for a
            model.
        gamma: float >= 0. The focal parameter. Defaults to 0 (off); the paper uses 2.
        label_smoothing: float in `[0, 1]`. The fraction of each target that is moved to 0.5. Defaults to 0.
        from_logits: bool. Whether `y_pred` holds logits (default), or probabilities.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if weights are not numbers > 0; if their number differs from the number of labels, or they are named
            and not ordered yet; if targets are known to be outside 0 to 1. In a traced function, as in `fit`, such
            targets make the loss NaN.

    Example:

    ```python
    loss = tx.losses.WeightedBinaryCrossentropy({"card": 4.0, "loan": 12.5}, gamma=2.0)
    model.compile("adamw", loss=loss.for_labels(model.labels))
    ```

    Reference: Lin et al., 2017, Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002; the weights
    are `pos_weight` of torch's `BCEWithLogitsLoss`.
    """

    compares_rows = False

    def __init__(
        self,
        positive_weights: Sequence[float] | Mapping[Any, float] | np.ndarray | None = None,
        *,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        name: str = "weighted_binary_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.positive_weights = _weights.checked("positive_weights", positive_weights)
        self.gamma = _check.number("gamma", gamma, minimum=0.0)
        self.label_smoothing = _check.number("label_smoothing", label_smoothing, minimum=0.0, maximum=1.0)
        self.from_logits = _check.instance("from_logits", from_logits, bool, "a bool")

    def for_labels(self, labels: Sequence[str] | Sequence[int] | np.ndarray) -> Any:
        """Returns a loss with the weights in the order of a model's labels.

        Args:
            labels: sequence of the label names, in the order of the outputs.

        Returns:
            A `WeightedBinaryCrossentropy`; this loss itself if its weights are not named.

        Raises:
            ValueError: if a label has no weight, a name is not a label, the number of weights differs, or names are
                ints that could also be positions.

        Example:

        >>> WeightedBinaryCrossentropy({"card": 4.0, "loan": 12.5}).for_labels(["loan", "card"]).positive_weights
        (12.5, 4.0)
        """
        if self.positive_weights is None:
            return self
        ordered = _weights.ordered("positive_weights", self.positive_weights, list(labels))
        if ordered is self.positive_weights:
            return self
        return type(self)(**{**super().get_config(), **self._arguments(), "positive_weights": ordered})

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        values = _base.known(self.targets(y_true))
        if values is not None and not ((values >= 0) & (values <= 1)).all():
            wrong = values[~((values >= 0) & (values <= 1))].ravel()[:8].tolist()
            raise _check.invalid("y_true", "0 or 1, or a share between them, for each label", wrong)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        arguments = {**self._arguments(), "positive_weights": self._in_order(y_pred.shape[-1])}
        return weighted_binary_crossentropy(y_true, y_pred, **arguments)

    def _in_order(self, count):
        """Returns the weights in the order of `count` outputs."""
        remedy = "Order them by the model's labels first: `loss.for_labels(model.labels)`."
        return _weights.by_output("positive_weights", self.positive_weights, count, remedy)

    def _arguments(self):
        names = ("positive_weights", "gamma", "label_smoothing", "from_logits")
        return {name: getattr(self, name) for name in names}

    def get_config(self) -> dict[str, Any]:
        weights = _weights.to_json(self.positive_weights)
        return {**super().get_config(), **self._arguments(), "positive_weights": weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "positive_weights": _weights.from_json(config.get("positive_weights"))})
