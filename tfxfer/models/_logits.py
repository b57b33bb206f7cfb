"""Keras's losses and metrics for models whose outputs are logits, not probabilities."""

from typing import Any, Literal

import keras

from tfxfer import _check, losses
from tfxfer import metrics as own_metrics

Kind = Literal["classes", "labels", "numbers", "tokens"]

_SPARSE, _CATEGORICAL, _BINARY = "sparse", "categorical", "binary"
# Keras's losses that can read logits, and the targets that each reads.
_CROSSENTROPIES = {
    keras.losses.SparseCategoricalCrossentropy: _SPARSE,
    keras.losses.CategoricalCrossentropy: _CATEGORICAL,
    keras.losses.CategoricalFocalCrossentropy: _CATEGORICAL,
    keras.losses.BinaryCrossentropy: _BINARY,
    keras.losses.BinaryFocalCrossentropy: _BINARY,
}
_FUNCTIONS = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}
# Losses that read probabilities, or compare each output with one number, which a class index is not.
_OF_PROBABILITIES = {
    "kl_divergence": keras.losses.KLDivergence,
    "poisson": keras.losses.Poisson,
    "dice": keras.losses.Dice,
    "tversky": keras.losses.Tversky,
}
_OF_NUMBERS = {
    "mean_squared_error": keras.losses.MeanSquaredError,
    "mean_absolute_error": keras.losses.MeanAbsoluteError,
    "mean_absolute_percentage_error": keras.losses.MeanAbsolutePercentageError,
    "mean_squared_logarithmic_error": keras.losses.MeanSquaredLogarithmicError,
    "huber": keras.losses.Huber,
    "log_cosh": keras.losses.LogCosh,
    "cosine_similarity": keras.losses.CosineSimilarity,
    "hinge": keras.losses.Hinge,
    "squared_hinge": keras.losses.SquaredHinge,
    "categorical_hinge": keras.losses.CategoricalHinge,
}
_READS: dict[str, tuple[str, ...]] = {
    "classes": (_SPARSE, _CATEGORICAL),
    "labels": (_BINARY,),
    "numbers": (_BINARY, _CATEGORICAL),
    "tokens": (),
}
_EXPECTED = {
    "classes": "a loss on class indices, such as 'sparse_categorical_crossentropy' or `losses.ClassCrossentropy()`",
    "labels": "a loss on labels that are present or absent, such as 'binary_crossentropy'",
    "numbers": "a loss on numbers, such as 'mse'",
    "tokens": "a loss on tokens or words that ignores those without a target, such as `losses.TagCrossentropy()`",
}
_ON_LOGITS = "This model's outputs are logits. Pass `from_logits=True`."
_EVALUATE = "Add `callbacks.EvaluateClassification`, which computes it from the model's probabilities."


def loss_on_logits(loss: Any, kind: Kind) -> Any:
    """Returns a loss that reads the outputs of a model as logits.

    Keras's crossentropies read probabilities by default. A name, or the function of that name, says nothing about the
    outputs, so it becomes the loss on logits. A loss that was created for probabilities raises.

    Args:
        loss: loss, function or name, as in `keras.Model.compile`. Losses that are not Keras's are returned unchanged.
        kind: `"classes"` for one class per row, `"labels"` for several labels per row, `"numbers"` for regression,
            `"tokens"` for a class per token or word.

    Raises:
        ValueError: if the loss reads probabilities, or targets of another kind.
    """
    given, is_named = loss, isinstance(loss, str) or any(loss is each for each in _FUNCTIONS)
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if (kind != "numbers" and _is_one(loss, _OF_PROBABILITIES)) or (
        kind in ("classes", "tokens") and _is_one(loss, _OF_NUMBERS)
    ):
        raise _check.invalid("loss", _EXPECTED[kind], given)
    if is_named:
        made = next((cls for each, cls in _FUNCTIONS.items() if loss is each), type(loss))
        if made in _CROSSENTROPIES:
            loss = made(from_logits=True)
    targets = next((found for cls, found in _CROSSENTROPIES.items() if isinstance(loss, cls)), None)
    if targets is not None and targets not in _READS[kind]:
        raise _check.invalid("loss", _EXPECTED[kind], given)
    if is_named and type(loss) is keras.losses.CategoricalCrossentropy and kind == "classes":
        return losses.ClassCrossentropy()  # also reads indices
    if getattr(loss, "from_logits", None) is False:
        raise _check.invalid("loss", "a loss on logits", given, _ON_LOGITS)
    return loss


def metrics_on_logits(metrics: Any, kind: Kind) -> Any:
    """Returns metrics that read the outputs of a model as logits, in the structure of `metrics`; see `loss_on_logits`.

    Raises:
        ValueError: if a metric reads probabilities, such as `Precision()`, which counts those above 0.5.
    """
    if isinstance(metrics, dict):
        return {key: metrics_on_logits(each, kind) for key, each in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [metrics_on_logits(each, kind) for each in metrics]
    return _metric(metrics, kind)


def _metric(metric, kind):
    if isinstance(metric, str):
        return _named(metric, kind)
    if _of_probabilities(metric):
        raise _check.invalid("metrics", "metrics on logits", metric, _ON_LOGITS)
    if kind == "numbers":
        return metric
    if isinstance(metric, keras.metrics.BinaryAccuracy) and metric.threshold == 0.5:
        remedy = "This model's outputs are logits. Pass `threshold=0.0` for a probability of 0.5."
        raise _check.invalid("metrics", "a threshold for logits", "BinaryAccuracy(threshold=0.5)", remedy)
    counts = isinstance(metric, (keras.metrics.Precision, keras.metrics.Recall))
    is_binary = kind == "labels" and counts and metric.thresholds != [0.5]
    if not is_binary and (counts or isinstance(metric, (*_THRESHOLDS, keras.metrics.FBetaScore))):
        raise _check.invalid("metrics", "metrics on logits", type(metric).__name__, _EVALUATE)
    return metric


def _named(name, kind):
    """The metric of a name: with its settings for logits if there are such, else as Keras resolves the name."""
    if name in ("accuracy", "acc") and kind != "numbers":
        is_label = kind == "labels"
        return keras.metrics.BinaryAccuracy(name, threshold=0.0) if is_label else own_metrics.ClassAccuracy(name=name)
    if name in ("crossentropy", "ce"):
        raise _check.invalid("metrics", "the name of a metric on logits", name, _ON_LOGITS)
    if name in ("accuracy", "acc"):
        return name
    found = keras.metrics.get(name)
    if isinstance(found, keras.metrics.BinaryAccuracy) and kind == "labels":
        return keras.metrics.BinaryAccuracy(name, threshold=0.0)
    if isinstance(found, (keras.metrics.Precision, keras.metrics.Recall)) and kind == "labels":
        return type(found)(thresholds=0.0, name=name)
    if isinstance(found, keras.metrics.AUC) and kind == "labels":
        return keras.metrics.AUC(from_logits=True, name=name)
    if isinstance(found, keras.metrics.AUC) and kind == "classes":
        raise _check.invalid("metrics", "metrics of one class per row", name, _EVALUATE)
    if _of_probabilities(found):
        return type(found)(from_logits=True, name=name)
    _metric(found, kind)
    return name


_THRESHOLDS = (
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
)


def _of_probabilities(metric):
    """Whether a metric can read logits, but reads probabilities."""
    is_area = isinstance(metric, keras.metrics.AUC)
    return (metric.get_config()["from_logits"] if is_area else getattr(metric, "from_logits", None)) is False


def _is_one(loss, known):
    """Whether a loss is one of Keras's, given as an instance or a function."""
    return isinstance(loss, tuple(known.values())) or any(loss is keras.losses.get(name) for name in known)
