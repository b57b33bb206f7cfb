"""Scales logits so that the probabilities are calibrated."""

from typing import Any, Self

import keras
import numpy as np
import scipy.optimize
import scipy.special
from keras import ops

from tfxfer import _check
from tfxfer.decisions._part import Part, checked_classes, checked_flags, checked_logits

METHODS = ("temperature", "vector")
# Temperatures are searched from the inverse of this number to this number.
_WIDEST = 1e3


@keras.saving.register_keras_serializable("tfxfer", name="decisions.Scaling")
class Scaling(Part):
    """Scales logits to maximize the likelihood of the right labels on held-out rows.

        "temperature":  z / T
        "vector":       scale * z + bias, a scale and a bias for each class

    Both minimize the negative log-likelihood of a softmax or, with several labels per row, of one sigmoid per label. A
    temperature is a single number; with a softmax it changes the confidence but never the predicted class. A vector has
    two numbers per class, so it needs more rows (for example, a hundred per class) and can change the predicted class.
    A regularizer keeps it near the temperature: `penalty / 2` times the squares of the biases and of the relative
    deviations of the scales, added to the sum of the losses over rows. Losses and metrics in training use unscaled
    logits.

    Args:
        method: `"temperature"` (default) or `"vector"`.
        penalty: float >= 0, for `"vector"`. Defaults to 100: with about ten rows per class, as in Banking77, smaller
            penalties overfit the held-out rows.

    Raises:
        ValueError: if `method` is unknown, or if `penalty` is below 0.

    Example:

    >>> logits = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    >>> scaling = Scaling().fit(logits, [0, 1, 0, 0])  # three of four are right
    >>> round(scaling.temperature, 3)  # log 3 makes a probability of 3/4
    3.641

    References:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), temperature and vector scaling
        - [Platt, 1999](https://www.researchgate.net/publication/2594015), a sigmoid's scale and bias
    """

    _settings = ("method", "penalty")

    def __init__(self, method: str = "temperature", *, penalty: float = 100.0) -> None:
        super().__init__()
        self.method = _check.one_of("method", method, METHODS)
        self.penalty = _check.number("penalty", penalty, minimum=0.0)

    def class_arrays(self) -> tuple[str, ...]:
        """Returns the names of the arrays with one number per class."""
        return ("scale", "bias") if self.method == "vector" else ()

    @property
    def temperature(self) -> float:
        """The divisor of the logits; for `"vector"`, the temperature that the scales are kept near."""
        self._check_fitted()
        return float(self._arrays["temperature"])

    def fit(self, logits: Any, targets: Any, *, multi_label: bool = False) -> Self:
        """Fits the scaling to rows that the model was not trained on.

        Args:
            logits: float array `(rows, classes)`.
            targets: int array `(rows,)`, the class index of each row; or class proportions `(rows, classes)`. With
                `multi_label`, 0 and 1 `(rows, classes)`.
            multi_label: bool. Whether a row may have any number of labels. Defaults to `False`.

        Returns:
            The fitted scaling (`self`).

        Raises:
            ValueError: if shapes do not match, or if there is no best temperature: either every row is right at any
                temperature (more rows are needed), or the logits are no better than constant ones.
        """
        logits = checked_logits(logits).astype("float64")
        targets = _shares(targets, logits.shape, multi_label)
        activation = scipy.special.expit if multi_label else _row_softmax
        factor = _factor(logits, targets, activation)
        if self.method == "temperature":
            return self._fitted(temperature=1 / factor)
        scale, bias = self._vector(logits, targets, activation, factor, multi_label)
        return self._fitted(temperature=1 / factor, scale=scale, bias=bias)

    def _vector(self, logits, targets, activation, factor, multi_label):
        classes = logits.shape[1]

        def objective(values):
            relative, bias = values.reshape(2, classes)
            scaled = factor * relative * logits + bias
            if multi_label:
                loss = np.sum(np.logaddexp(0, scaled) - targets * scaled)
            else:
                loss = np.sum(scipy.special.logsumexp(scaled, axis=1)) - np.sum(targets * scaled)
            slope = activation(scaled) - targets
            loss += self.penalty / 2 * (np.sum(np.square(relative - 1)) + np.sum(np.square(bias)))
            by_scale = factor * np.sum(slope * logits, axis=0) + self.penalty * (relative - 1)
            by_bias = np.sum(slope, axis=0) + self.penalty * bias
            return loss / len(logits), np.concatenate([by_scale, by_bias]) / len(logits)

        start = np.concatenate([np.ones(classes), np.zeros(classes)])
        options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
        found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        relative, bias = found.x.reshape(2, classes)
        return factor * relative, bias

    def __call__(self, logits: Any) -> Any:
        """Returns the scaled logits, float32 `(rows, classes)`, for logits of that shape."""
        self._check_fitted()
        logits = ops.cast(logits, "float32")
        if self.method == "temperature":
            return logits / self._arrays["temperature"]
        return logits * self._arrays["scale"] + self._arrays["bias"]


def _row_softmax(logits):
    return scipy.special.softmax(logits, axis=1)


def _shares(targets, shape, multi_label):
    """Returns targets as float64 proportions `(rows, classes)`."""
    targets = np.asarray(targets)
    if multi_label:
        return checked_flags(targets, shape).astype("float64")
    if targets.ndim == 2:
        if targets.shape != shape or not np.allclose(targets.sum(axis=1), 1, atol=1e-3) or targets.min() < 0:
            raise _check.invalid("targets", f"proportions of shape {shape} that sum to 1 in each row", targets)
        return targets.astype("float64")
    return np.eye(shape[1])[checked_classes(targets, *shape)]


def _factor(logits, targets, activation):
    """Returns the factor of maximum likelihood: the root of the derivative, which increases with the factor."""

    def slope(log_factor):
        return float(np.sum((activation(np.exp(log_factor) * logits) - targets) * logits)) / len(logits)

    bound = float(np.log(_WIDEST))
    if slope(-bound) >= 0:
        remedy = "The logits do not predict these targets: check that the rows and their labels match."
        raise _check.invalid("targets", "labels that the logits predict better than chance", targets, remedy)
    if slope(bound) <= 0:
        remedy = "All rows are right at any temperature: pass more rows, or omit the scaling."
        raise _check.invalid("targets", "at least some rows that are wrong", targets, remedy)
    return float(np.exp(scipy.optimize.brentq(slope, -bound, bound, xtol=1e-10)))
