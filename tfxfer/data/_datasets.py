"""Datasets of texts and targets from rows: labeled, regression, pairs, triplets."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check
from tfxfer.data._columns import LabelColumn
from tfxfer.data._examples import Examples
from tfxfer.data._labels import distinct, known_labels, near, read_labels
from tfxfer.data._rows import Faults, Rows, shown
from tfxfer.data._targets import read_targets


def labelled(
    rows: Any,
    text: str | Sequence[str],
    label: str,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    separator: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes a dataset of texts with labels.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        text: name of the text column, or a tuple of names for rows of several texts, e.g. `("premise",
            "hypothesis")`; `batches` makes one sequence of two, or with `columns="separate"` one of each.
        label: name of the label column. Its values are strings or whole numbers; for several labels per row (possibly
            none), lists of them, or strings split at `separator`.
        labels: optional list of all labels, e.g. `data.labels(rows, "label")` or a model's. Every row is then checked
            against it immediately.
        separator: optional string that separates several labels in one string; it makes the rows multi-label.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of (x, y), in the order of the rows. x: string scalar, or a tuple of them.
        y: for one label per row, the label itself (string or int64), which a `TextClassifier` encodes; or the int32
        index into `labels` if these are given and are strings (an int could be mistaken for either); for several,
        float32 `(num_classes,)` of 0 and 1, in the order of `labels` or, by default, of
        `data.labels(rows, label, separator)`.

    Raises:
        ValueError: if a column does not exist, a text is missing (`None`, NaN; an empty string is a text) or not a
            string, or a label is missing, empty or unknown; the message names file, line and column.

    Example:

    >>> data = labelled({"text": ["hi", "bye"], "label": ["b", "a"]}, "text", "label", labels=["a", "b"])
    >>> [(x.decode(), int(y)) for x, y in data.as_numpy_iterator()]
    [('hi', 1), ('bye', 0)]
    """
    rows, names, faults = Rows.from_any(rows), text_names("text", text), Faults(on_error)
    known: Any = known_labels(labels)
    several, found = read_labels(rows, label, separator, faults)
    if known is not None:
        for i, each in list(found.items()):
            unknown = [one for one in (each if several else [each]) if one not in known]
            if unknown:
                faults.add(rows.place(i), label, "unknown label", f" {unknown[0]!r}", near(unknown[0], known))
                del found[i]
    found = with_texts(rows, names, found, faults)
    if known is None:
        ordered = distinct(rows, label, found)
        known = {name: k for k, name in enumerate(ordered)} if several else None
    values = list(found.values())
    if several:
        y = np.zeros((len(values), len(known)), "float32")
        for row, each in zip(y, values, strict=True):
            row[[known[one] for one in each]] = 1.0
    elif known is not None and not isinstance(values[0], int):
        y = np.array([known[each] for each in values], "int32")
    else:
        y = np.array(values, "int64") if isinstance(values[0], int) else values
    faults.warn(f"labelled({rows!r})")
    is_encoded = known is not None and (several or not isinstance(values[0], int))
    targets = LabelColumn(list(known or ()), several) if is_encoded else None
    return _texts(rows, names, found, y, faults, targets)


def regression(
    rows: Any,
    text: str | Sequence[str],
    target: str | Sequence[str],
    *,
    target_range: tuple[float, float] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes a dataset of texts with numbers to predict.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        text: name of the text column, or a tuple of names for rows of several texts.
        target: name of the column of numbers, or a tuple of names for several numbers per row.
        target_range: optional (low, high) of the numbers, e.g. `(0, 5)`; they are then scaled to 0..1, and a number
            outside is an error. By default numbers are not scaled.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of (x, y), in the order of the rows. x: string scalar, or a tuple of them;
        y: float32 scalar, or `(number of targets,)` for a tuple of names.

    Raises:
        ValueError: if a column does not exist, a text is missing or not a string, or a target is not a finite number or
            out of range; the message names file, line and column.

    Example:

    >>> data = regression({"text": ["fine", "bad"], "stars": ["4", "1"]}, "text", "stars", target_range=(0, 5))
    >>> [round(float(y), 3) for _, y in data.as_numpy_iterator()]
    [0.8, 0.2]
    """
    rows, names, faults = Rows.from_any(rows), text_names("text", text), Faults(on_error)
    targets = text_names("target", target)
    bounds = _bounds(target_range)
    found = {}
    for i, values in enumerate(zip(*(rows[name] for name in targets), strict=True)):
        numbers = [_number(rows, i, name, value, bounds, faults) for name, value in zip(targets, values, strict=True)]
        if None not in numbers:
            found[i] = numbers
    found = with_texts(rows, names, found, faults)
    y = np.array(list(found.values()), "float64")
    y = y if bounds is None else (y - bounds[0]) / (bounds[1] - bounds[0])
    faults.warn(f"regression({rows!r})")
    return _texts(rows, names, found, (y[:, 0] if isinstance(target, str) else y).astype("float32"), faults)


def pairs(
    rows: Any,
    texts: Sequence[str],
    target: str | Sequence[str] | None = None,
    *,
    targets: ArrayLike | None = None,
    target_range: tuple[float, float] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes a dataset of text pairs, optionally with their similarity.

    Rows with a target suit CoSENT, AnglE, contrastive losses (0 or 1) and cosine regression (`target_range` scales
    scores to 0..1); rows without suit the in-batch losses, where every pair is positive. Distillation losses take the
    teacher's output for each row as `targets`: its scores, or its embeddings, as returned by `data.embeddings`.
    For pairs with a label, such as NLI, use `labelled(rows, ("premise", "hypothesis"), "label")`.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        texts: two names of text columns.
        target: optional name of the column of numbers, or a tuple of names for several numbers per row.
        targets: optional float array with one entry for each of `rows`, instead of `target`: `(rows,)`, `(rows, n)` or
            `(rows, columns, dim)`, an embedding for each text.
        target_range: optional (low, high) of the column's numbers; they are then scaled to 0..1.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((a, b), y), in the order of the rows; a, b: string scalars; y:
        float32, a scalar or the row's part of `targets`; 0 without a target (Keras computes no loss without a y).

    Raises:
        ValueError: as `regression`; also if `targets` has an unsupported shape or values that are not finite.

    Example:

    >>> data = pairs({"a": ["A plane."], "b": ["A jet."], "score": [4.5]}, ("a", "b"), target="score")
    >>> next(data.as_numpy_iterator())
    ((b'A plane.', b'A jet.'), np.float32(4.5))
    """
    names = text_names("texts", texts)
    if len(names) != 2:
        raise _check.invalid("texts", "two names of text columns", texts)
    return _with_targets(pairs, rows, names, target, targets, target_range, on_error)


def triplets(
    rows: Any,
    texts: Sequence[str],
    target: str | Sequence[str] | None = None,
    *,
    targets: ArrayLike | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes a dataset of (anchor, positive, negative) texts.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        texts: three or more names of text columns: anchor, positive, negative, further negatives.
        target: optional name of a column of numbers, or a tuple of names, for distillation losses: for example the
            teacher's score of each text, or its margin between the positive and each negative.
        targets: optional float array with one entry for each of `rows`, instead of `target`: `(rows,)`, `(rows, n)` or
            `(rows, columns, dim)`, an embedding for each text, as returned by `data.embeddings`.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((anchor, positive, negative, ...), y), in the order of the rows; y:
        float32, a scalar, `(n,)` or `(columns, dim)`; 0 without a target (Keras computes no loss without a y).

    Raises:
        ValueError: if a column does not exist, a text is missing or not a string, or a target is not a finite number;
            the message names file, line and column. Also if `targets` has an unsupported shape or is not finite.

    Example:

    >>> data = triplets({"a": ["cat"], "p": ["kitten"], "n": ["car"]}, ("a", "p", "n"))
    >>> next(data.as_numpy_iterator())
    ((b'cat', b'kitten', b'car'), np.float32(0.0))
    """
    names = text_names("texts", texts)
    if len(names) < 3:
        raise _check.invalid("texts", "three or more names of text columns", texts)
    return _with_targets(triplets, rows, names, target, targets, None, on_error)


def _with_targets(function, rows, names, target, targets, target_range, on_error):
    """Rows of several texts, with targets from a column, from an array, or without."""
    if target is not None and targets is not None:
        raise _check.invalid("targets", "None with `target`", targets, "Pass a column or an array.")
    if target is not None:
        return regression(rows, tuple(names), target, target_range=target_range, on_error=on_error)
    if target_range is not None:
        raise _check.invalid("target_range", "None without `target`", target_range)
    rows, faults = Rows.from_any(rows), Faults(on_error)
    y = np.zeros(len(rows), "float32") if targets is None else read_targets(rows, targets, len(names))
    found = with_texts(rows, names, dict.fromkeys(range(len(rows))), faults)
    faults.warn(f"{function.__name__}({rows!r})")
    return _texts(rows, names, found, y if len(found) == len(rows) else y[list(found)], faults)


def text_names(argument, names):
    listed = [names] if isinstance(names, str) else list(names) if isinstance(names, (list, tuple)) else []
    if not listed or not all(isinstance(name, str) for name in listed):
        raise _check.invalid(argument, "the name of a column or a tuple of names", names)
    return listed


def with_texts(rows, names, found, faults):
    """The entries of `found` (a dict by row index) that have a text in each of the columns `names`."""
    bad = set()
    for name in names:
        for i, value in enumerate(rows[name]):
            if type(value) is str and (value.isascii() or _is_encodable(value)):
                continue
            if i in bad or i not in found:
                continue
            bad.add(i)
            remedy = "Fill it in (an empty string is a text), leave the row out, or pass `on_error='skip'`."
            if _check.is_missing(value):
                faults.add(rows.place(i), name, "no text", "", remedy)
            elif isinstance(value, str):
                faults.add(rows.place(i), name, "a text that UTF-8 cannot hold", f": {shown(value)}", remedy)
            else:
                remedy = "Convert the column to strings first."
                faults.add(rows.place(i), name, "a text that is not a string", f": {shown(value)}", remedy)
    found = {i: value for i, value in found.items() if i not in bad} if bad else found
    if not found:
        raise _check.invalid("rows", "at least one row that can be used", rows, f"The first fault: {faults.first}")
    return found


def _is_encodable(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _bounds(target_range):
    if target_range is None:
        return None
    if not isinstance(target_range, (list, tuple)) or len(target_range) != 2 or not target_range[0] < target_range[1]:
        raise _check.invalid("target_range", "(low, high) with low < high, or None", target_range)
    return float(target_range[0]), float(target_range[1])


def _number(rows, i, column, value, bounds, faults):
    """A target as a float; `None` if it is invalid (the error is recorded)."""
    remedy = "Fix the row, drop it, or pass `on_error='skip'`."
    if _check.is_missing(value) or value == "":
        return faults.add(rows.place(i), column, "no target", "", remedy)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return faults.add(rows.place(i), column, "a target that is not a number", f": {shown(value)}", remedy)
    if not math.isfinite(number):
        return faults.add(rows.place(i), column, "a target that is not finite", f": {shown(value)}", remedy)
    if bounds is not None and not bounds[0] <= number <= bounds[1]:
        detail = f" {bounds[0]:g}..{bounds[1]:g}: {shown(value)}"
        return faults.add(rows.place(i), column, "a target outside `target_range`", detail, remedy)
    return number


def _texts(rows, names, found, y, faults, targets=None):
    columns = [rows[name] for name in names]
    if len(found) < len(rows):
        columns = [[column[i] for i in found] for column in columns]
    x = tuple(columns) if len(columns) > 1 else columns[0]
    return Examples(x, y, targets=targets, skipped=faults.counts)
