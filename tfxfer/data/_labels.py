"""The labels of a column, and weights for their classes."""

import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns import TagsColumn
from tfxfer.data._rows import Faults, Rows, fault, shown

_LISTS = (list, tuple, set)


def labels(rows: Any, column: str, separator: str | None = None) -> list:
    """Returns the distinct labels of a column.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        column: string. The column's name. Its values are strings or whole numbers, or lists of them.
        separator: optional string that separates several labels in one string, e.g. `" "` or `","`.

    Returns:
        Sorted list of the distinct labels. Numbers stay numbers and are sorted numerically; if all strings are numeric,
        they are sorted numerically too ("2" before "10"), but stay strings.

    Raises:
        ValueError: if a label is missing, empty or of another type, or strings and numbers are mixed; the message names
            file, line and column.

    Example:

    >>> labels({"label": ["b", "a", "b"]}, "label"), labels({"label": ["x y", "z", ""]}, "label", separator=" ")
    (['a', 'b'], ['x', 'y', 'z'])
    """
    rows = Rows.from_any(rows)
    return distinct(rows, column, read_labels(rows, column, separator, Faults("raise"))[1])


def class_weights(
    y: Any,
    label: str | None = None,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    separator: str | None = None,
) -> dict[Any, float]:
    """Computes weights that make rare classes count as much as common ones.

    One label per row: weight = n / (classes * count of the class), over the classes that occur ("balanced" in
    scikit-learn; King & Zeng, Logistic Regression in Rare Events Data, 2001,
    https://doi.org/10.1093/oxfordjournals.pan.a004868). Several labels per row: weight = (n - count) / count, the
    weight of a label's positive entries relative to its negative ones. A class without a row gets 1.

    Args:
        y: rows (with `label`), the result of `labelled`, any finite dataset of (x, y), or the labels: a list or array
            `(n,)` of strings or ints, or `(n, num_classes)` of 0 and 1.
        label: name of the label column, if `y` is rows.
        labels: optional list of all labels. Defaults to the dataset's, or else to the distinct labels in the order of
            `data.labels`; pass them if a class may have no row.
        separator: optional string that separates several labels in one string, if `y` is rows.

    Returns:
        Dict of label to weight (float), in the order of `labels`; of index to weight if `y` is 0 and 1 without labels.
        For one label per row, pass it to `fit(class_weight=...)` of this package's classifiers, whatever the order of
        their labels; for several labels per row, to `losses.WeightedBinaryCrossentropy`.

    Raises:
        ValueError: if a label is unknown, missing or invalid, or `y` is empty.

    Example:

    >>> class_weights(["a", "a", "a", "b"])
    {'a': 0.6666666666666666, 'b': 2.0}
    """
    if label is None:
        if isinstance(getattr(y, "targets", None), TagsColumn):
            raise _check.invalid("y", "rows with labels", "words with tags", "Tags of words have no class weights.")
        rows, label = _label_rows(y), "label"
        labels = getattr(y, "labels", None) if labels is None else labels
        if isinstance(rows, np.ndarray):
            names = list(range(rows.shape[1]) if labels is None else labels)
            if len(names) != rows.shape[1]:
                raise _check.invalid("labels", f"{rows.shape[1]} labels, one for each column of `y`", names)
            return _weights(names, rows.astype("float64").sum(axis=0), len(rows), several=True)
        if getattr(y, "targets", None) is not None:  # indices into the dataset's labels
            own = y.labels
            counts = np.bincount(np.asarray(rows["label"]), minlength=len(own)).astype("float64")
            return _weights(own, counts, len(rows), several=False)
    else:
        rows = Rows.from_any(y)
    several, found = read_labels(rows, label, separator, Faults("raise"))
    known = {name: k for k, name in enumerate(distinct(rows, label, found) if labels is None else labels)}
    counts = np.zeros(len(known))
    for i, each in found.items():
        for one in each if several else [each]:
            if one not in known:
                raise fault(rows.place(i), label, f"unknown label {one!r}", near(one, known))
            counts[known[one]] += 1
    return _weights(list(known), counts, len(rows), several)


def _label_rows(y):
    """The labels of a dataset or list as rows of one column; labels of 0 and 1 as an array `(n, num_classes)`."""
    if isinstance(y, tf.data.Dataset):
        if not isinstance(y.element_spec, tuple) or len(y.element_spec) < 2:
            raise _check.invalid("y", "a dataset of (x, y)", y.element_spec)
        batches = y.map(lambda *row: row[1]).batch(1024).as_numpy_iterator()
        parts = list(batches)
        y = np.concatenate(parts) if parts else []
    elif isinstance(y, (Rows, dict, str)) or (hasattr(y, "iloc") and hasattr(y, "columns")):
        raise _check.invalid("label", "the name of the label column, since `y` is rows", None)
    values = np.asarray(y)
    if not values.size:
        raise _check.invalid("y", "at least one row", y)
    if values.ndim == 1:
        return Rows({"label": values}, source="y")
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise _check.invalid("y", "labels of shape (n,), or 0 and 1 of shape (n, num_classes)", y)
    return values


def _weights(names, counts, rows, several):
    present = np.count_nonzero(counts)
    return {
        name: float((rows - count) / count if several else rows / (present * count)) if count else 1.0
        for name, count in zip(names, counts, strict=True)
    }


def read_labels(rows, column, separator, faults):
    """Reads a label column.

    Returns:
        (several, found): whether rows have lists of labels; dict of row index to label, or list of labels. Rows with an
        error are not in it.
    """
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise _check.invalid("separator", "a string that is not empty, or None", separator)
    values = rows[column]
    several = separator is not None or any(isinstance(value, _LISTS) for value in values)
    found: dict[int, Any] = {}
    for i, value in enumerate(values):
        if type(value) is str and value and not several:  # almost all rows of almost all files
            found[i] = value
            continue
        try:
            found[i] = [_label(one) for one in _parts(value, separator)] if several else _label(value)
        except _NoLabel as error:
            faults.add(rows.place(i), column, *error.args)
    return several, found


class _NoLabel(Exception):
    """The reason why a value is not a label, and details of this case."""


def _parts(value, separator):
    if _check.is_missing(value):
        raise _NoLabel("no label", "", "For a row without labels, use an empty string or list.")
    if separator is None:
        if not isinstance(value, _LISTS):
            raise _NoLabel("not a list of labels", f": {shown(value)}", "Other rows of the column hold lists.")
        return value
    if not isinstance(value, str):
        raise _NoLabel("not a string of labels", f": {shown(value)}", "With `separator` the column must hold strings.")
    return [part for part in map(str.strip, value.split(separator)) if part]


def _label(value):
    if _check.is_missing(value) or value == "":
        raise _NoLabel("no label", "", "Give the row a label, drop it, or pass `on_error='skip'`.")
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)  # pandas converts ints to floats if a value is missing
    raise _NoLabel("not a label", f": {shown(value)}", "A label is a string or a whole number.")


def distinct(rows, column, found):
    """The sorted distinct labels among those that `read_labels` found."""
    first = {}
    for i, each in found.items():
        for one in each if isinstance(each, list) else [each]:
            first.setdefault(one, i)
    kinds = {type(one): i for one, i in reversed(first.items())}
    if len(kinds) > 1:
        i = max(kinds.values())
        raise fault(rows.place(i), column, "strings and numbers mixed as labels", "Convert them all to strings.")
    if not first:
        raise fault(rows.place(0), column, "no label in any row", "Check the column and the separator.")
    return sorted(first, key=_sort_key if all(map(_is_number, first)) else None)


def _sort_key(label):
    return float(label), str(label)


def _is_number(label):
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def known_labels(names):
    """The argument `labels` as a dict of label to index; `None` is returned as `None`."""
    if names is None:
        return None
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, (list, tuple)) or not names or len({type(name) for name in names}) > 1:
        raise _check.invalid("labels", "a list of strings or of ints", names)
    if not isinstance(names[0], (str, int)):
        raise _check.invalid("labels", "a list of strings or of ints", names)
    if len(set(names)) < len(names):
        raise _check.invalid("labels", "distinct labels", names)
    return {name: k for k, name in enumerate(names)}


def near(label, known):
    """The remedy for an unknown label, with similar known labels."""
    names = list(known)
    if type(names[0]) is not type(label):
        kinds = ("strings", "numbers") if isinstance(names[0], str) else ("numbers", "strings")
        return f"The labels given are {kinds[0]}, the column holds {kinds[1]}."
    alike = difflib.get_close_matches(str(label), map(str, names), n=3)
    examples = f"Did you mean {' or '.join(map(repr, alike))}?" if alike else f"The known labels are {shown(names)}."
    return f"{examples} Add it to `labels`, fix the row, or pass `on_error='skip'`."
