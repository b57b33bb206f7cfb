"""Finds rows whose labels look wrong."""

import collections
from typing import Any

import keras
import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from tfxfer import _check, _regression, _texts, data
from tfxfer.evaluation import _labels, _weighted

PRUNE = ("class", "noise_rate", "both")
RANK = ("self_confidence", "normalized_margin")


def suspect_labels(
    model: Any,
    texts: Any,
    y: Any = None,
    *,
    features: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    prune: str = "class",
    rank: str = "self_confidence",
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    verbose: int | str = 0,
) -> dict[str, Any]:
    """Finds rows whose labels are probably wrong, by confident learning.

    A logistic regression on the features below the model's head predicts the label probabilities of each fold from the
    other folds; by default there are five. (Equal texts are held out together.) The threshold of a label is its mean
    probability over the rows with that label. The estimated true label of a row is the most probable among the labels
    whose thresholds it reaches. These counts, scaled to the number of rows of each label, estimate how many rows with
    label i should have label j. That many rows are selected:

    | `prune` | selected rows |
    |---|---|
    | `"class"` | for each label, those with the lowest probability of it |
    | `"noise_rate"` | for each pair of labels, those with the largest margin of j over i |
    | `"both"` | those in both: fewer rows, a larger fraction of them wrong |

    Rows whose given label is the most probable one are never selected. With several labels per row, each label is
    checked separately, as present or absent.

    On the 9,041 rows of Banking77 with 5 % of the labels changed at random, `"class"` finds 95 % of the changed labels,
    and 64 % of its suspects are changed; for `"noise_rate"` it is 75 and 62 %, for `"both"` 74 and 72 %. (The other
    suspects are rows that the model gets wrong, and labels that were already wrong in the data; of the first 100
    suspects, 99 were changed.) With precomputed features of all-MiniLM-L6-v2, one run takes 20 s on one core
    (`benchmarks/suspects.py`, three seeds).

    The encoder must not have been trained on these labels, because it would reproduce them: use a pretrained encoder
    with a new head. It does not matter whether the head was trained.

    Args:
        model: a `models.TextClassifier` or another classifier of this package. Only its labels and encoder are used,
            not its predictions.
        texts: a dataset from `data.labelled`, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names or indices.
        features: float array `(rows, features)`, the result of `model.head_features(texts)`. If given, the encoder
            does not run.
        probabilities: float array `(rows, classes)` in the order of the model's labels, computed for each row by models
            that were not trained on it. If given, nothing is fitted.
        prune: `"class"` (default), `"noise_rate"` or `"both"`; see the table.
        rank: the score that orders suspects: `"self_confidence"` (default), the probability of the given label; or
            `"normalized_margin"`, half of (that probability minus the largest other one plus 1).
        folds: int >= 2. Number of parts that are held out in turn.
        seed: int. Seed of the split into folds.
        batch_size: int. Number of texts encoded at a time.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        A dict:

        - `suspects`: list of dicts, the most suspicious first: `index`, the row's index; `text` (a tuple if there are
          several; a dict of the columns that contain strings); `label`, the given label; `suggested`, the most probable
          other label (with several labels, lists of names); `score` in `[0, 1]`, low if the label looks wrong (with
          several labels, the lowest among those that look wrong);
        - `noise`: the estimated fraction of rows (with several labels, of decisions) with a wrong label;
        - `confusions`: list of dicts `label`, `suggested`, `rows`: the estimated number of rows with one label whose
          true label is another, most frequent first; with several labels, `label`, `missing` and `spurious`;
        - `conflicts`: list of dicts `text`, `indices`, `labels`: rows that are equal except for their labels. At most
          one of these is right, regardless of the probabilities;
        - `agreement`: the fraction of rows (with several labels, of decisions) whose given label agrees with the
          held-out probabilities;
        - `rows`, `labels`.

        A row whose label no other text has is never a suspect, because there is nothing to compare it with.

    Raises:
        ValueError: if the model has no labels, if a label is unknown to it, if the shapes of features or probabilities
            do not match, or if there are fewer than two different texts.

    Example:

    ```python
    features = model.head_features(train["text"])  # once
    found = tx.evaluation.suspect_labels(model, train["text"], train["label"], features=features)
    for row in found["suspects"][:20]:
        print(row["index"], row["label"], "->", row["suggested"], row["text"])
    ```

    Reference: Northcutt et al., 2021, https://arxiv.org/abs/1911.00068.
    """
    _check.one_of("prune", prune, PRUNE)
    _check.one_of("rank", rank, RANK)
    folds, seed = _check.integer("folds", folds, minimum=2), _check.integer("seed", seed, minimum=0)
    if not hasattr(model, "classify"):
        raise _check.invalid("model", "a classifier", model)
    if features is not None and probabilities is not None:
        raise _check.invalid("features", "None if `probabilities` is given", np.shape(features))
    x, y = data.Gate(model, ("texts", "y", "sample_weight")).in_memory(texts, y)
    rows = _shown(x)
    y = _labels.encode(_labels.decode(y, model.labels), model.labels, len(model.labels))
    several = y.ndim == 2
    groups = _groups(x)
    if groups.max(initial=-1) < 1:
        raise _check.invalid("texts", "at least two different texts", rows)
    if probabilities is None:
        if features is None:
            features = model.head_features(x, batch_size=batch_size, verbose=verbose)
        probabilities = _held_out(features, y, len(model.labels), groups, folds, seed)
    else:
        probabilities = _weighted.probabilities_of("probabilities", probabilities, several=several)
        if probabilities.shape != (len(y), len(model.labels)):
            expected = f"an array {(len(y), len(model.labels))}, one row for each text"
            raise _check.invalid("probabilities", expected, probabilities.shape)
    judge = _several if several else _single
    suspects, summary = judge(y, probabilities, groups, model.labels, prune, rank)
    order = sorted(suspects, key=lambda each: (each["score"], each["index"]))
    names = _labels.named(y, model.labels)
    conflicts = [
        {"text": rows[found[0]], "indices": found, "labels": [names[i] for i in found]}
        for found in _members(groups)
        if len({str(names[i]) for i in found}) > 1
    ]
    return {
        "suspects": [{"index": each["index"], "text": rows[each["index"]], **each} for each in order],
        **summary,
        "conflicts": conflicts,
        "rows": len(rows),
        "labels": list(model.labels),
    }


def _shown(x):
    """Returns the texts of each row: a string, a tuple of several, or a dict of the columns that contain strings."""
    columns = _texts.columns_of(x)
    rows = list(zip(*columns.values(), strict=True))
    if isinstance(x, dict):
        return [dict(zip(columns, row, strict=True)) for row in rows]
    return rows if isinstance(x, tuple) else [row[0] for row in rows]


def _groups(x):
    """Numbers the rows from 0; rows that are equal in all columns share a number."""
    columns = [_hashable(column) for column in keras.tree.flatten(x)]
    found: dict[tuple, int] = {}
    return np.array([found.setdefault(row, len(found)) for row in zip(*columns, strict=True)], "int64")


def _hashable(column):
    """Returns the values of a column in a form that can be compared."""
    if hasattr(column, "to_list"):  # rows of different lengths
        return [repr(row) for row in column.to_list()]
    column = np.asarray(column)
    return column.tolist() if column.dtype == object else [row.tobytes() for row in column]


def _members(groups):
    """Returns the rows of each group as lists, in the order of their first rows."""
    found: dict[int, list] = collections.defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        found[group].append(row)
    return list(found.values())


def _held_out(features, y, classes, groups, folds, seed):
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(y) or not np.isfinite(features).all():
        remedy = "`model.head_features(texts)` computes them."
        raise _check.invalid("features", f"finite numbers (rows, features) of {len(y)} rows", features.shape, remedy)
    kind = "labels" if y.ndim == 2 else "classes"
    targets = y if y.ndim == 2 else np.eye(classes)[y]
    outputs, _ = _regression.out_of_fold(features, targets, groups, kind=kind, folds=folds, seed=seed)
    return scipy.special.expit(outputs) if y.ndim == 2 else scipy.special.softmax(outputs, axis=1)


def _single(y, probabilities, groups, labels, prune, rank):
    """Returns the suspects and the estimates for rows with one label each."""
    # Count different texts per label: a single one is held out with all the evidence for its label.
    texts = np.bincount(np.unique(np.stack([groups, y]), axis=1)[1], minlength=len(labels))
    is_judged = texts[y] != 1
    joint = confident_joint(y, probabilities)
    is_suspect = pruned(y, probabilities, joint, prune) & is_judged
    scores = scores_of(y, probabilities, rank)
    others = probabilities.copy()
    others[np.arange(len(y)), y] = -1.0
    suggested = others.argmax(axis=1)
    suspects = [
        {"index": int(i), "label": labels[y[i]], "suggested": labels[suggested[i]], "score": float(scores[i])}
        for i in np.flatnonzero(is_suspect)
    ]
    off = joint - np.diag(np.diag(joint))
    worst = np.argsort(-off.ravel(), kind="stable")
    pairs = [(*divmod(int(place), len(labels)), float(off.flat[place])) for place in worst if off.flat[place] > 0]
    return suspects, {
        "noise": float(off.sum() / max(joint.sum(), 1.0)),
        "confusions": [{"label": labels[i], "suggested": labels[j], "rows": rows} for i, j, rows in pairs],
        "agreement": float(np.mean(probabilities.argmax(axis=1) == y)),
    }


def _several(y, probabilities, groups, labels, prune, rank):
    """Returns the suspects and the estimates for rows with several labels each, label by label."""
    flagged, scores = np.zeros(y.shape, bool), np.ones(y.shape)
    confusions, wrong, total = [], 0.0, 0.0
    for k, label in enumerate(labels):
        both = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        joint = confident_joint(y[:, k], both)
        texts = [len(np.unique(groups[y[:, k] == value])) for value in (0, 1)]
        flagged[:, k] = pruned(y[:, k], both, joint, prune) & (np.array(texts)[y[:, k]] != 1)
        scores[:, k] = scores_of(y[:, k], both, rank)
        wrong, total = wrong + joint[0, 1] + joint[1, 0], total + joint.sum()
        confusions.append({"label": label, "missing": float(joint[0, 1]), "spurious": float(joint[1, 0])})
    names, changed = _labels.named(y, labels), _labels.named(np.where(flagged, 1 - y, y), labels)
    least = np.where(flagged, scores, np.inf).min(axis=1)
    suspects = [
        {"index": int(i), "label": names[i], "suggested": changed[i], "score": float(least[i])}
        for i in np.flatnonzero(flagged.any(axis=1))
    ]
    return suspects, {
        "noise": float(wrong / max(total, 1.0)),
        "confusions": sorted(confusions, key=lambda each: -each["missing"] - each["spurious"]),
        "agreement": float(np.mean((probabilities >= 0.5) == y)),
    }


def confident_joint(y, probabilities):
    """Estimates the number of rows with each given and each true label, float64 `(classes, classes)`.

    Args:
        y: int array `(rows,)`.
        probabilities: float array `(rows, classes)`.
    """
    classes = probabilities.shape[1]
    support = np.bincount(y, minlength=classes)
    own = np.bincount(y, weights=probabilities[np.arange(len(y)), y], minlength=classes)
    thresholds = np.where(support > 0, own / np.maximum(support, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    is_confident = reached.max(axis=1) >= 0
    counts = np.zeros((classes, classes))
    np.add.at(counts, (y[is_confident], reached.argmax(axis=1)[is_confident]), 1.0)
    totals = counts.sum(axis=1)
    for i in np.flatnonzero(totals == 0):  # no row reaches a threshold: keep the given label
        counts[i, i] = support[i]
    return counts * (support / np.maximum(counts.sum(axis=1), 1.0))[:, None]


def pruned(y, probabilities, joint, prune):
    """Returns which rows are selected, bool `(rows,)`; see `suspect_labels`.

    Args:
        y: int array `(rows,)`.
        probabilities: float array `(rows, classes)`.
        joint: the result of `confident_joint`.
        prune: one of `PRUNE`.
    """
    own = probabilities[np.arange(len(y)), y]
    by_rate, by_class = np.zeros((2, len(y)), bool)
    for i in np.unique(y):
        rows = np.flatnonzero(y == i)
        numbers = np.rint(joint[i]).astype(int)
        for j in np.flatnonzero(numbers):
            if j != i:
                margins = probabilities[rows, j] - own[rows]
                by_rate[rows[np.argsort(-margins, kind="stable")[: numbers[j]]]] = True
        wrong = int(np.rint(joint[i].sum() - joint[i, i]))
        by_class[rows[np.argsort(own[rows], kind="stable")[:wrong]]] = True
    found = {"noise_rate": by_rate, "class": by_class, "both": by_rate & by_class}[prune]
    return found & (probabilities.argmax(axis=1) != y)


def scores_of(y, probabilities, rank):
    """Returns how well each given label fits, float64 `(rows,)` in `[0, 1]`; see `suspect_labels`."""
    places = np.arange(len(y))
    own = probabilities[places, y]
    if rank == "self_confidence" or probabilities.shape[1] == 1:
        return own
    others = probabilities.copy()
    others[places, y] = -np.inf
    return (own - others.max(axis=1) + 1) / 2
