"""Converts targets, given by name or by index, for the scores of classifiers."""

from collections.abc import Mapping

import numpy as np

from tfxfer import _check, data

_LISTS = (list, tuple, set, frozenset, np.ndarray)


def encode(y_true, labels, classes):
    """Returns targets as indices, int64 `(rows,)`, or with several labels per row as 0 and 1, int64 `(rows, classes)`.

    Targets are read as in `data.LabelColumn`; without labels, ints are indices.

    Args:
        y_true: sequence or array.
        labels: sequence of distinct strings or ints, or `None`.
        classes: int. Number of columns of the probabilities.

    Raises:
        ValueError: if a target is not a label (the message names the row), or if the labels do not match the columns.
    """
    if isinstance(y_true, (str, bytes)) or not hasattr(y_true, "__len__"):
        raise _check.invalid("y_true", "a list or array with the label of each row", y_true)
    array = np.asarray(y_true) if hasattr(y_true, "__array__") else None
    if array is not None and array.ndim == 2 and array.shape[1] == 1 != classes:
        y_true, array = array[:, 0], array[:, 0]
    if array is not None and array.ndim > 2:
        raise _check.invalid("y_true", f"labels (rows,), or 0 and 1 of shape (rows, {classes})", array.shape)
    several = any(isinstance(row, _LISTS) for row in (y_true if array is None or array.ndim < 2 else array))
    column = data.LabelColumn(list(range(classes)) if labels is None else check(labels, classes), several)
    try:
        found = column.read(y_true, "y_true")
    except ValueError as error:
        if labels is None and any(isinstance(value, (str, bytes)) for value in y_true):
            raise ValueError(f"{error} To pass names, also pass `labels=`.") from error
        raise
    if not np.isin(found, (0, 1)).all() and found.ndim == 2:
        remedy = "Class proportions have no single right answer: `y_true.argmax(axis=1)` gives the most probable one."
        raise _check.invalid("y_true", f"labels, or 0 and 1 of shape (rows, {classes})", found[0].tolist(), remedy)
    return found.astype("int64")


def check(labels, classes):
    """Returns the labels as a list; raises unless they are one distinct string or int per class."""
    found = data.LabelColumn(labels).labels
    if len(found) != classes:
        raise _check.invalid("labels", f"{classes} distinct names, one for each column of `probabilities`", found)
    return found


def decode(targets, labels):
    """Converts a model's targets back to names, which are unambiguous; 0 and 1 for several labels stay as they are."""
    targets = np.asarray(targets)
    return targets if targets.ndim == 2 else [labels[i] for i in targets.astype("int64").tolist()]


def named(targets, labels):
    """Returns the name of each row, or a list of names with several labels per row.

    Args:
        targets: int array `(rows,)`, or 0 and 1 `(rows, classes)`.
        labels: list of class names.
    """
    if targets.ndim == 2:
        return [[label for label, one in zip(labels, row, strict=True) if one] for row in targets.tolist()]
    return [labels[i] for i in targets.tolist()]


def thresholds(threshold, labels, dtype=None):
    """Returns the thresholds of labels: a float, or a float64 array `(classes,)`.

    Args:
        threshold: float in `[0, 1]`, or one per label: a dict of label to float, or a sequence in label order.
        labels: list of the labels.
        dtype: dtype of the probabilities. Thresholds are rounded to it, so that equal numbers compare as equal.
    """
    if isinstance(threshold, Mapping):
        if set(threshold) != set(labels):
            raise _check.invalid("threshold", f"a number for each of {', '.join(map(repr, labels))}", threshold)
        threshold = [threshold[label] for label in labels]
    # By name: tensors of the backends have dtypes of their own.
    name = getattr(dtype, "name", None)
    rounded = np.dtype(name if name in ("float16", "float32") else "float64").type
    if not isinstance(threshold, (list, tuple, np.ndarray)):
        return float(rounded(_check.number("threshold", threshold, minimum=0.0, maximum=1.0)))
    if len(threshold) != len(labels):
        raise _check.invalid("threshold", f"{len(labels)} numbers, one per label, in label order", threshold)
    # 1.01 is the threshold of a label that is never predicted; see `decisions.Thresholds`.
    found = [_check.number(f"threshold[{i}]", value, minimum=0.0, maximum=1.01) for i, value in enumerate(threshold)]
    return np.asarray(found, rounded).astype("float64")


def named_thresholds(threshold, labels):
    """Returns the result of `thresholds` as plain values: a float, or a dict of label to float."""
    return threshold if isinstance(threshold, float) else dict(zip(labels, threshold.tolist(), strict=True))
