"""Trade-offs of a threshold: coverage against accuracy, precision against recall."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check
from tfxfer.evaluation import _classification, _labels, _weighted


def coverage_curve(
    y_true: Any,
    probabilities: ArrayLike,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    confidence: ArrayLike | None = None,
    threshold: Any = 0.5,
    points: int | None = 200,
) -> dict[str, Any]:
    """Computes the accuracy of a classifier on the rows it is most confident about.

    A model that leaves the rows below some confidence to people answers a fraction of the rows, the coverage. The curve
    gives the accuracy of these answers; a good confidence ranks the errors last. Its area over the risk is

        aurc = mean over i = 1 .. rows of the fraction of errors among the i most confident rows

    No threshold separates rows of equal confidence, so the curve has no point between them, and the area spreads their
    errors evenly over them.

    Args:
        y_true: the labels of the rows, as in `classification_scores`; indices if `labels` is not given.
        probabilities: float array `(rows, classes)` in `[0, 1]`.
        labels: sequence of class names in column order; required if `y_true` holds names.
        confidence: float array `(rows,)`, larger for more certain answers, such as a margin or a negated distance.
            Defaults to the probability of the predicted class; with several labels, to that of the least confident
            decision.
        threshold: as in `classification_scores`, for several labels per row. A row is right if all its decisions are.
        points: int >= 2. Maximum number of points returned, spaced evenly over the coverage and including the first
            and the last. `None` for all. The areas always use all rows.

    Returns:
        A dict of floats and lists of floats: `coverage`, increasing to 1; for each coverage the `accuracy` of the
        answered rows and `confidence`, the lowest among them; `aurc`, in `[0, 1]`, 0 if there are no errors;
        `excess_aurc`, the part of it that a confidence which ranks all errors last would avoid; and `rows`.

    Raises:
        ValueError: as in `classification_scores`, or if `confidence` is not one finite number per row.

    Example:

    >>> found = coverage_curve([0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    >>> found["coverage"], found["accuracy"], found["aurc"]
    ([0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 1.0, 0.75], 0.0625)

    References:
        - [El-Yaniv and Wiener, 2010](https://www.jmlr.org/papers/v11/el-yaniv10a.html), risk and coverage
        - [Geifman et al., 2019](https://arxiv.org/abs/1805.08206), the areas
    """
    dtype = getattr(probabilities, "dtype", None)
    y_true, probabilities, labels = _classification.read(y_true, probabilities, labels)
    points = _check.integer("points", points, minimum=2, optional=True)
    threshold = _labels.thresholds(threshold, labels, dtype)
    weighted = _weighted.Weighted(y_true, probabilities, threshold=threshold)
    sure, rows = weighted.confidence, weighted.rows
    if confidence is not None:
        sure = np.asarray(confidence, "float64")
        if sure.shape != (rows,) or not np.isfinite(sure).all():
            raise _check.invalid("confidence", f"one finite number for each of {rows} rows", confidence)
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], 1.0 - weighted.right[order]
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True)) + 1
    starts = np.append(0, ends[:-1])
    sizes, number = ends - starts, np.arange(1, rows + 1)
    errors = np.add.reduceat(wrong, starts)
    aurc = float(np.mean(np.cumsum(np.repeat(errors / sizes, sizes)) / number))
    best = float(np.mean(np.maximum(number - (rows - wrong.sum()), 0) / number))
    kept = _thinned(ends / rows, points)
    accuracy = 1 - np.cumsum(errors) / ends
    return {
        "coverage": (ends[kept] / rows).tolist(),
        "accuracy": accuracy[kept].tolist(),
        "confidence": sure[ends[kept] - 1].tolist(),
        "aurc": aurc,
        "excess_aurc": max(aurc - best, 0.0),
        "rows": rows,
    }


def precision_recall_curve(
    y_true: Any,
    probabilities: ArrayLike,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    points: int | None = 200,
) -> dict[str, Any]:
    """Computes precision and recall over all thresholds, for each class and for all decisions together.

    At a threshold t, a class is predicted for the rows whose probability of it is at least t, regardless of the other
    classes.

    Args:
        y_true: the labels of the rows, as in `classification_scores`; indices if `labels` is not given.
        probabilities: float array `(rows, classes)` in `[0, 1]`.
        labels: sequence of class names in column order; required if `y_true` holds names.
        points: int >= 2. Maximum number of points returned per curve, spaced evenly over the recall and including the
            first and the last. `None` for all.

    Returns:
        A dict: `micro`, the curve of all decisions, and `per_class`, a dict of label to its curve. A curve is a dict of
        lists of floats, `threshold` (decreasing), `precision` and `recall` (increasing to 1), plus the float
        `average_precision`, computed from all points. A class without rows has empty lists and `None`.

    Raises:
        ValueError: as in `classification_scores`.

    Example:

    >>> found = precision_recall_curve(["a", "b", "a"], [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], labels=["a", "b"])
    >>> found["per_class"]["a"]["recall"], found["per_class"]["a"]["threshold"]
    ([0.5, 0.5, 1.0], [0.9, 0.8, 0.6])

    Reference: Davis and Goadrich, 2006, https://doi.org/10.1145/1143844.1143874.
    """
    y_true, probabilities, labels = _classification.read(y_true, probabilities, labels)
    points = _check.integer("points", points, minimum=2, optional=True)
    truth = y_true > 0 if y_true.ndim == 2 else y_true[:, None] == np.arange(probabilities.shape[1])
    columns = zip(labels, truth.T, probabilities.T, strict=True)
    return {
        "micro": _precision_recall(truth.ravel(), probabilities.ravel(), points),
        "per_class": {label: _precision_recall(found, scores, points) for label, found, scores in columns},
    }


def _precision_recall(is_positive, scores, points):
    positives = int(is_positive.sum())
    if not positives:
        return {"threshold": [], "precision": [], "recall": [], "average_precision": None}
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(is_positive[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    hits = hits[ends]
    precision, recall = hits / (ends + 1), hits / positives
    area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    # Points after the last row of the class lower the precision and leave the recall unchanged.
    last = int(np.argmax(hits == positives)) + 1
    kept = _thinned(recall[:last], points)
    return {
        "threshold": scores[ends[kept]].tolist(),
        "precision": precision[kept].tolist(),
        "recall": recall[kept].tolist(),
        "average_precision": area,
    }


def _thinned(rising, points):
    """Returns the indices of at most `points` of the increasing values, spaced evenly over their range."""
    if points is None or len(rising) <= points:
        return np.arange(len(rising))
    wanted = np.linspace(rising[0], rising[-1], points)
    found = np.unique(np.searchsorted(rising, wanted, side="left"))
    found[-1] = len(rising) - 1
    return found
