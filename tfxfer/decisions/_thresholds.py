"""Thresholds of the probability of each label, for several labels per row."""

import warnings
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check
from tfxfer.decisions._part import Part, checked_flags

GOALS = ("f1", "precision", "recall")


@keras.saving.register_keras_serializable("tfxfer", name="decisions.Thresholds")
class Thresholds(Part):
    """Predicts each label at a probability of at least its threshold, chosen on held-out rows.

    | goal | threshold of a label | if no threshold reaches the goal |
    |---|---|---|
    | `"f1"` | the one with the largest F1 | a label without rows keeps 0.5 |
    | `"precision"` | the lowest with a precision of at least `at` | the label is never predicted, at 1.01 |
    | `"recall"` | the highest with a recall of at least `at` | a label without rows keeps 0.5 |

    These choices keep the most recall for `"precision"`, and the most precision for `"recall"`. A warning names the
    labels whose goal no threshold reaches. A threshold is the midpoint of the two probabilities that it separates. With
    few rows of a label the choice is uncertain: check the scores on test rows.

    Args:
        goal: `"f1"` (default), `"precision"` or `"recall"`; see the table.
        at: float in `(0, 1]`: the required precision or recall; `None` for `"f1"`.

    Raises:
        ValueError: if `goal` is unknown, or if `at` is missing or superfluous.

    Example:

    >>> thresholds = Thresholds().fit([[0.9], [0.4], [0.3], [0.1]], [[1], [1], [0], [0]])
    >>> [round(value, 3) for value in thresholds.values.tolist()]
    [0.35]

    Reference: Lipton et al., 2014, on thresholds for F1, https://arxiv.org/abs/1402.1892.
    """

    _settings = ("goal", "at")

    def __init__(self, goal: str = "f1", *, at: float | None = None) -> None:
        super().__init__()
        self.goal = _check.one_of("goal", goal, GOALS)
        if (at is None) != (goal == "f1"):
            expected = 'None for "f1"' if goal == "f1" else f"the required {goal}, a number in (0, 1]"
            raise _check.invalid("at", expected, at)
        self.at = None if at is None else _check.number("at", at, above=0.0, maximum=1.0)

    def class_arrays(self) -> tuple[str, ...]:
        """Returns the names of the arrays with one number per class."""
        return ("thresholds",)

    @property
    def values(self) -> np.ndarray:
        """The thresholds, float32 `(classes,)`."""
        self._check_fitted()
        return self._arrays["thresholds"].copy()

    def fit(self, probabilities: Any, targets: Any, *, labels: Any = None) -> Self:
        """Chooses the thresholds on rows that the model was not trained on.

        Args:
            probabilities: float array `(rows, classes)`.
            targets: 0 and 1 `(rows, classes)`.
            labels: list of class names, for warnings.

        Returns:
            The fitted thresholds (`self`).
        """
        probabilities = np.asarray(probabilities, "float32")
        if probabilities.ndim != 2 or not probabilities.size:
            expected = "an array (rows, classes), at least one row"
            raise _check.invalid("probabilities", expected, probabilities.shape)
        targets = checked_flags(targets, probabilities.shape)
        found = [self._of_label(p, y) for p, y in zip(probabilities.T, targets.T, strict=True)]
        missed = [i if labels is None else labels[i] for i, each in enumerate(found) if each is None]
        fallback = NEVER if self.goal == "precision" else 0.5
        if missed:
            names = ", ".join(map(repr, missed))
            reason = f"no threshold has a precision of {self.at:g}" if self.goal == "precision" else "no row has them"
            then = "They are never given." if self.goal == "precision" else "Their thresholds are 0.5."
            warnings.warn(f"Labels whose {self.goal} cannot be reached, as {reason}: {names}. {then}", stacklevel=2)
        return self._fitted(thresholds=[fallback if each is None else each for each in found])

    def _of_label(self, probabilities, targets):
        """Returns the threshold of one label, or `None` if none reaches its goal."""
        positives = int(targets.sum())
        if not positives:
            return None
        values, hits, given = cuts(probabilities, targets)
        if self.at is None:
            place = int(np.argmax(2 * hits / (given + positives)))
        elif self.goal == "recall":
            place = int(np.argmax(hits >= self.at * positives - 1e-9))
        else:
            reached = np.flatnonzero(hits >= self.at * given - 1e-9)
            if not len(reached):
                return None
            place = int(reached[-1])
        return between(values, place)

    def given(self, probabilities: Any) -> Any:
        """Returns which labels are predicted.

        Args:
            probabilities: float `(rows, classes)`.

        Returns:
            bool tensor `(rows, classes)`.
        """
        self._check_fitted()
        return ops.cast(probabilities, "float32") >= self._arrays["thresholds"]


# Above any probability.
NEVER = 1.01


def cuts(scores, targets):
    """Counts the accepted rows at each distinct score, in decreasing order of the scores.

    Args:
        scores: float array `(rows,)`.
        targets: array `(rows,)` of values to sum over the accepted rows.

    Returns:
        (values, hits, given): the distinct scores, in decreasing order; the sum of `targets` over the rows with at
        least that score; the number of these rows.
    """
    order = np.argsort(-scores, kind="stable")
    values, targets = scores[order], np.asarray(targets, "float64")[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    return values[last], np.cumsum(targets)[last], last + 1


def between(values, place):
    """Returns a threshold that accepts `values[place]` and nothing below; `values` are decreasing.

    It is the midpoint to the next value, so that rounding decides no row; for the last value, slightly below it.
    """
    value = float(values[place])
    below = float(values[place + 1]) if place + 1 < len(values) else value - 1e-6 * max(1.0, abs(value))
    middle = np.float32((value + below) / 2)
    return float(middle if middle > np.float32(below) else np.float32(value))
