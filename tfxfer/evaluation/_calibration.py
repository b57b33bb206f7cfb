"""Whether predicted probabilities match observed frequencies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check
from tfxfer.evaluation import _labels, _weighted


def calibration_scores(
    y_true: Any,
    probabilities: ArrayLike,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    bins: int = 15,
) -> dict[str, Any]:
    """Compares a classifier's confidence with its accuracy.

    Rows are grouped into bins of equal width by their confidence, the probability of the predicted class. With several
    labels per row, every decision is grouped by the probability of its label. Each bin compares the mean confidence
    with the fraction of right rows (with several labels: of labels that are present):

        ece = sum over bins of (rows in bin / rows) * |right - confidence|

    Args:
        y_true: the labels of the rows, as in `classification_scores`; indices if `labels` is not given. With several
            labels per row, a list or set of labels for each row, or an array `(rows, classes)` of 0 and 1.
        probabilities: float array `(rows, classes)` in `[0, 1]`.
        labels: sequence of class names in column order; required if `y_true` holds names.
        bins: int. Number of bins. Defaults to 15, as in the paper.

    Returns:
        A dict: `ece`, the expected calibration error, and `mce`, the largest difference in any bin, both in `[0, 1]`;
        `confidence` and `right`, the means over all rows; `rows`; `bins`, a list of dicts with `lower`, `upper` (the
        bin is `(lower, upper]`; the first also contains 0), `rows`, `confidence` and `right` (`None` in an empty bin).

    Raises:
        ValueError: if `probabilities` is empty or holds values outside `[0, 1]`, if shapes do not match, or as in
            `classification_scores` for the targets.

    Example:

    >>> found = calibration_scores([0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.1, 0.9]], bins=2)
    >>> round(found["ece"], 3), found["confidence"], found["right"]
    (0.125, 0.875, 0.75)

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.
    """
    probabilities = np.asarray(probabilities, "float64")
    count = _check.integer("bins", bins)
    if probabilities.ndim != 2 or not len(probabilities):
        raise _check.invalid("probabilities", "an array (rows, classes), at least one row", probabilities.shape)
    if not (np.isfinite(probabilities).all() and 0 <= probabilities.min() and probabilities.max() <= 1 + 1e-6):
        raise _check.invalid("probabilities", "numbers in [0, 1]", probabilities, "Apply a softmax to logits first.")
    y_true = _labels.encode(y_true, labels, probabilities.shape[1])
    if y_true.shape not in (probabilities.shape[:1], probabilities.shape):
        expected = f"of shape {probabilities.shape[:1]} or {probabilities.shape}, as `probabilities` has rows"
        raise _check.invalid("y_true", expected, y_true.shape)
    if y_true.ndim == 2:
        confidence, right = probabilities.ravel(), y_true.ravel().astype("float64")
    else:
        confidence, right = probabilities.max(axis=1), (probabilities.argmax(axis=1) == y_true).astype("float64")
    return binned(confidence, right, count)


def binned(confidence, right, count):
    """Computes the dict of `calibration_scores` from decisions.

    Args:
        confidence: floats in `[0, 1]`, `(decisions,)`, at least one.
        right: floats `(decisions,)`: 1 for a right decision, 0 for a wrong one.
        count: int. Number of bins.
    """
    confidence, right = np.asarray(confidence, "float64"), np.asarray(right, "float64")
    edges, place = np.linspace(0, 1, count + 1), _weighted.places(confidence, count)
    found, ece, mce = [], 0.0, 0.0
    for k in range(count):
        inside = place == k
        rows = int(inside.sum())
        each = {"lower": float(edges[k]), "upper": float(edges[k + 1]), "rows": rows, "confidence": None, "right": None}
        if rows:
            sure, often = float(confidence[inside].mean()), float(right[inside].mean())
            each.update(confidence=sure, right=often)
            ece, mce = ece + abs(sure - often) * rows / len(confidence), max(mce, abs(sure - often))
        found.append(each)
    return {
        "ece": float(ece),
        "mce": float(mce),
        "confidence": float(confidence.mean()),
        "right": float(right.mean()),
        "rows": len(confidence),
        "bins": found,
    }
