"""Scores of a classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike

from tfxfer import _check, data
from tfxfer.evaluation import _labels


def classification(
    model: Any, texts: Any, y: Any = None, *, batch_size: int = 32, threshold: Any = None, verbose: int | str = 0
) -> dict[str, Any]:
    """Scores a classifier on labelled texts.

    Args:
        model: `models.TextClassifier`.
        texts: what `data.labelled` made, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names, or indices.
        batch_size: int. Texts computed at a time.
        threshold: as `model.classify` has it; defaults to the model's own.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `classification_scores`. A model that rejects texts (by `threshold` or `fit_decisions`) is scored
        twice: all scores are those of the likeliest label of every text; `coverage` is the share of texts that it
        answers, and `answered_accuracy` the share of these that is right (`None` if it answers none). With conformal
        sets, `set_coverage` is the share of texts whose set holds the right label, `set_size` the mean size of a set.

    Raises:
        ValueError: for a label that the model does not know, missing `y`, or no rows.

    Example:

    ```python
    test = tx.data.labelled(tx.data.read("test.tsv"), "text", "label", labels=model.labels)
    tx.evaluation.classification(model, test)["macro_f1"]
    ```
    """
    texts, targets = data.Gate(model, ("texts", "y", "sample_weight")).in_memory(texts, y)
    names = _labels.decode(targets, model.labels)
    several = getattr(model, "multi_label", False)
    own = {} if several or threshold is None else {"threshold": threshold}
    found = model.classify(texts, batch_size=batch_size, verbose=verbose, **own)
    if not several:
        return {**classification_scores(names, found.probabilities, model.labels), **_decided(found, names)}
    threshold = getattr(model, "threshold", 0.5) if threshold is None else threshold
    return classification_scores(names, found.probabilities, model.labels, threshold=threshold)


def _decided(found, names):
    """Scores of a `Classification` whose model rejects texts or gives sets."""
    scores: dict[str, Any] = {}
    if getattr(found, "in_scope", None) is not None:
        right = [given == name for given, name in zip(found.labels, names, strict=True) if given is not None]
        scores = {"coverage": float(np.mean(found.in_scope)), "answered_accuracy": None}
        if right:
            scores["answered_accuracy"] = float(np.mean(right))
    if getattr(found, "sets", None) is not None:
        scores["set_coverage"] = float(np.mean([name in given for given, name in zip(found.sets, names, strict=True)]))
        scores["set_size"] = float(np.mean([len(given) for given in found.sets]))
    return scores


def classification_scores(
    y_true: Any, probabilities: ArrayLike, labels: Sequence[str] | Sequence[int] | np.ndarray, *, threshold: Any = 0.5
) -> dict[str, Any]:
    """Scores probabilities against the truth.

    Args:
        y_true: the labels of the rows: names, or int indices where labels are strings that are no numbers. Ints beside
            labels that are ints are names. Where a row may have several labels, a list or set of them in each row, or
            an array `(rows, classes)` of 0 and 1.
        probabilities: float array `(rows, classes)`.
        labels: sequence of the class names, strings or ints, in the order of the columns.
        threshold: float in `[0, 1]`, for several labels a row: the least probability of a label that is given; or one
            for each label: a dict of label to float, or a sequence in the order of the labels.

    Returns:
        A dict:

        - `accuracy`: share of rows that are right (with several labels: in every label);
        - `macro_f1`: mean of the classes' F1, over the classes that occur in `y_true` or are predicted;
        - `micro_f1`: F1 over all decisions (several labels only);
        - `per_class`: dict of label to `precision`, `recall`, `f1` in `[0, 1]` and `support` (rows);
        - `confusion`: list of rows (truth) of ints (prediction); with several labels, `[[tn, fp], [fn, tp]]` a label;
        - `labels`, `rows`: the class names; the number of rows.

        A score that would divide by 0 is 0.

    Raises:
        ValueError: for no rows, shapes that do not fit, and targets that are no labels, could be read in two ways
            (ints beside `["1", "2", "3"]`, bools beside `["yes", "no"]`) or are shares of the classes; it names the
            row.

    Example:

    >>> scores = classification_scores(["card", "loan", "loan"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], ["card", "loan"])
    >>> round(scores["accuracy"], 3), round(scores["macro_f1"], 3), scores["confusion"]
    (0.667, 0.667, [[1, 0], [1, 1]])
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or not probabilities.shape[1]:
        raise _check.invalid("probabilities", "an array (rows, classes)", probabilities.shape)
    labels = _labels.check(labels, probabilities.shape[1])
    y_true = _labels.encode(y_true, labels, probabilities.shape[1])
    if len(y_true) != len(probabilities) or len(y_true) == 0:
        raise _check.invalid("y_true", f"{len(probabilities)} rows as in `probabilities`, at least one", y_true.shape)
    several = y_true.ndim == 2
    indices = np.arange(len(labels))
    if several:
        y_pred = (probabilities >= _thresholds(threshold, labels, probabilities.dtype)).astype(int)
        if len(labels) == 1:  # scikit-learn reads a single column as two classes: a label that no row has stays out
            y_true, y_pred = (np.pad(each, ((0, 0), (0, 1))) for each in (y_true, y_pred))
        confusion = sklearn.metrics.multilabel_confusion_matrix(y_true, y_pred)[: len(labels)]
    else:
        y_pred = probabilities.argmax(axis=1)
        confusion = sklearn.metrics.confusion_matrix(y_true, y_pred, labels=indices)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        y_true, y_pred, labels=indices, average=None, zero_division=0.0
    )
    present = (support > 0) | (y_pred.sum(axis=0)[: len(labels)] > 0 if several else np.isin(indices, y_pred))
    scores: dict[str, Any] = {
        "accuracy": float((y_true == y_pred).all(axis=1).mean() if several else (y_true == y_pred).mean()),
        "macro_f1": float(f1[present].mean()) if present.any() else 0.0,
    }
    if several:
        scores["micro_f1"] = float(sklearn.metrics.f1_score(y_true, y_pred, average="micro", zero_division=0.0))
    scores["per_class"] = {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
    }
    scores["confusion"] = confusion.tolist()
    scores["labels"] = labels
    scores["rows"] = len(y_true)
    return scores


def _thresholds(threshold, labels, dtype):
    """A number, or an array `(classes,)` of the probabilities' dtype."""
    if isinstance(threshold, Mapping):
        if set(threshold) != set(labels):
            raise _check.invalid("threshold", f"a number for each of {', '.join(map(repr, labels))}", threshold)
        threshold = [threshold[label] for label in labels]
    if not isinstance(threshold, (list, tuple, np.ndarray)):
        return _check.number("threshold", threshold, minimum=0.0, maximum=1.0)
    if len(threshold) != len(labels):
        raise _check.invalid("threshold", f"{len(labels)} numbers, one for each label in their order", threshold)
    found = [_check.number(f"threshold[{i}]", value, minimum=0.0, maximum=1.01) for i, value in enumerate(threshold)]
    return np.asarray(found, dtype)
