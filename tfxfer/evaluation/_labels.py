"""Targets by name or by index as the scores of classifiers need them."""

import re

import numpy as np

from tfxfer import _check

_NUMERIC = re.compile(r"\s*[+-]?\d+(\.\d*)?\s*")
_NUMBERS = (bool, int, float, np.number, np.bool_)
_LISTS = (list, tuple, set, frozenset, np.ndarray)


def encode(y_true, labels, classes):
    """Returns targets as indices, int64 `(rows,)`, or as 0 and 1 for several labels a row, int64 `(rows, classes)`.

    | a row of `y_true` | labels are strings | labels are ints | no labels |
    |---|---|---|---|
    | a string | a label | an error | an error |
    | an int | an index; an error where labels are numbers in other places | a label | an index |
    | a bool | an error | a label, if they are 0 and 1 | 0 or 1, of two classes |
    | a list, tuple, set or array of these | several labels | several labels | several indices |

    Rows of as many 0 and 1 as there are classes are multi-hot.

    Args:
        y_true: sequence or array.
        labels: sequence of distinct strings or ints, or `None`.
        classes: int. The number of columns of the probabilities.

    Raises:
        ValueError: for targets that are none of these, with their row, and for labels that do not fit.
    """
    labels = None if labels is None else check(labels, classes)
    y_true = np.asarray(y_true) if hasattr(y_true, "__array__") else y_true
    if isinstance(y_true, (str, bytes)) or not hasattr(y_true, "__len__") or isinstance(y_true, (set, dict)):
        raise _check.invalid("y_true", "a list or array with the label of each row", y_true)
    if isinstance(y_true, np.ndarray):
        y_true = y_true[:, 0] if y_true.ndim == 2 and y_true.shape[1] == 1 != classes else y_true
        if y_true.ndim not in (1, 2):
            raise _check.invalid("y_true", f"labels (rows,), or 0 and 1 of shape (rows, {classes})", y_true.shape)
        rows, is_matrix = y_true.tolist(), y_true.ndim == 2 and y_true.dtype.kind in "biuf"
    else:
        rows, is_matrix = list(y_true), False
    if not any(isinstance(row, _LISTS) for row in rows):
        read = _reader(rows, labels, classes)
        return np.array([read(row, i) for i, row in enumerate(rows)], "int64")
    for i, row in enumerate(rows):
        if not isinstance(row, _LISTS):
            raise _invalid("a list of labels in each row, or in none", row, i)
    return _multi_hot(rows, labels, classes, is_matrix)


def check(labels, classes):
    """Returns the labels as a list; raises where they are not one distinct string or int for each class."""
    if isinstance(labels, (str, bytes, set, frozenset, dict)) or not hasattr(labels, "__len__"):
        raise _check.invalid("labels", "a list of the class names, in the order of the columns", labels)
    found = [label.item() if isinstance(label, np.generic) else label for label in labels]
    if len(found) != classes or len(set(map(str, found))) != classes:
        raise _check.invalid("labels", f"{classes} distinct names, one for each column of `probabilities`", found)
    kinds = {type(label) for label in found}
    if kinds not in ({str}, {int}):
        raise _check.invalid("labels", "strings, or ints", found)
    return found


def decode(targets, labels):
    """Turns a model's targets back into names, which can be misread by nobody; 0 and 1 for several labels pass."""
    targets = np.asarray(targets)
    return targets if targets.ndim == 2 else [labels[i] for i in targets.astype("int64").tolist()]


def _multi_hot(rows, labels, classes, is_matrix):
    """Several labels a row as 0 and 1; `is_matrix` where an array of numbers came in."""
    values = [value for row in rows for value in row]
    is_wide = all(len(row) == classes and not isinstance(row, (set, frozenset)) for row in rows)
    if is_matrix or (is_wide and all(isinstance(value, _NUMBERS) for value in values)):
        expected = f"labels, or 0 and 1 of shape (rows, {classes})"
        if any(value != int(value) for value in values if value == value):
            remedy = "Shares of the classes have no right answer to score: `y_true.argmax(axis=1)` gives the likeliest."
            raise _check.invalid("y_true", expected, rows[0], remedy)
        is_hot = is_wide and set(values) <= {0, 1}
        if is_hot and not is_matrix and {0, 1} <= set(labels or ()) and all(len(set(row)) == len(row) for row in rows):
            remedy = "Give an array of 0 and 1, `np.array(y_true)`, or sets of labels."
            raise _check.invalid("y_true", "rows that are either 0 and 1 or labels, not both", rows[0], remedy)
        if is_hot:
            return np.array(rows, "int64")
        if is_matrix and values:
            raise _check.invalid("y_true", expected, rows[0])
    read = _reader(values, labels, classes)
    found = np.zeros((len(rows), classes), "int64")
    for i, row in enumerate(rows):
        found[i, [read(value, i) for value in row]] = 1
    return found


def _reader(values, labels, classes):
    """Returns a function of a value and its row to an index; raises where values could be read in two ways."""
    index = {label: i for i, label in enumerate(labels or range(classes))}
    named = labels is not None and isinstance(labels[0], str)
    if named and any(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in values):
        strange = [i for i, label in enumerate(labels) if _NUMERIC.fullmatch(label) and label != str(i)]
        if strange:
            row, label = strange[0], labels[strange[0]]
            expected = f"names, as these labels are numbers: {row} could be index {row}, the label {label!r}, or a name"
            remedy = "Give names, `[str(y) for y in y_true]`, or, of indices, `[labels[y] for y in y_true]`."
            raise _check.invalid("y_true", expected, next(v for v in values if not isinstance(v, str)), remedy)

    def read(value, row):
        value = value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool):
            if named or len(index) > 2 or not set(index) <= {0, 1}:
                raise _invalid(f"one of the labels {_some(index)}", value, row, "Is `True` the first or the second?")
            return index[int(value)]
        if isinstance(value, float) and value == value and value == int(value):
            value = int(value)  # as pandas has ints beside missing values
        if named and isinstance(value, int):
            if not 0 <= value < classes:
                raise _invalid(f"labels, or indices 0 to {classes - 1}", value, row)
            return value
        if isinstance(value, (str, int)) and value in index:
            return index[value]
        expected = f"indices 0 to {classes - 1}" if labels is None else f"one of the labels {_some(index)}"
        remedy = "For names, give `labels=` too." if labels is None and isinstance(value, str) else None
        raise _invalid(expected, value, row, remedy)

    return read


def _some(labels):
    shown = ", ".join(map(repr, list(labels)[:5]))
    return f"{shown}, ..." if len(labels) > 5 else shown


def _invalid(expected, value, row, remedy=None):
    where = f"It is in row {row} (counting from 0)."
    return _check.invalid("y_true", expected, value, f"{where} {remedy}" if remedy else where)
