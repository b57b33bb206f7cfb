"""Scores of classifiers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike

from tfxfer import _check, data
from tfxfer.evaluation import _labels, _weighted


def classification(
    model: Any,
    texts: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    threshold: Any = None,
    intervals: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    rows: bool = False,
    verbose: int | str = 0,
) -> dict[str, Any]:
    """Scores a classifier on labeled texts.

    Args:
        model: `models.TextClassifier`.
        texts: a dataset from `data.labelled`, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names or indices.
        batch_size: int. Number of texts encoded at a time.
        threshold: as in `model.classify`. Defaults to the model's own.
        intervals: float between 0 and 1, for example 0.95. Adds confidence intervals; see `classification_scores`.
        resamples: int. Number of resamples for the intervals.
        seed: int. Seed of the resampling.
        rows: bool. Whether to add the outcome of each row; see `classification_scores`.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `classification_scores`. For a model that rejects texts (by `threshold` or `fit_decisions`), all
        scores use the most probable label of every text. Two more describe the rejection: `coverage`, the fraction of
        texts that the model answers, and `answered_accuracy`, the fraction of these that is right (`None` if it
        answers none). For a model with conformal sets, `set_coverage` is the fraction of texts whose set contains the
        right label, and `set_size` the mean size of a set.

    Raises:
        ValueError: if a label is unknown to the model, `y` is missing, or `texts` is empty.

    Example:

    ```python
    test = tx.data.labelled(tx.data.read("test.tsv"), "text", "label", labels=model.labels)
    tx.evaluation.classification(model, test)["macro_f1"]
    tx.evaluation.classification(model, test, intervals=0.95)["intervals"]["macro_f1"]  # e.g. [0.91, 0.93]
    ```
    """
    texts, targets = data.Gate(model, ("texts", "y", "sample_weight")).in_memory(texts, y)
    names = _labels.decode(targets, model.labels)
    several = getattr(model, "multi_label", False)
    own = {} if several or threshold is None else {"threshold": threshold}
    found = model.classify(texts, batch_size=batch_size, verbose=verbose, **own)
    options: dict[str, Any] = {"intervals": intervals, "resamples": resamples, "seed": seed, "rows": rows}
    if several:
        options["threshold"] = getattr(model, "threshold", 0.5) if threshold is None else threshold
    scores = classification_scores(names, found.probabilities, model.labels, **options)
    return scores if several else {**scores, **_decided(found, names)}


def _decided(found, names):
    """Returns the scores of a `Classification` whose model rejects texts or predicts sets."""
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
    y_true: Any,
    probabilities: ArrayLike,
    labels: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    threshold: Any = 0.5,
    intervals: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    rows: bool = False,
) -> dict[str, Any]:
    """Scores predicted probabilities against the true labels.

    Args:
        y_true: the labels of the rows: names, or int indices if the class names are non-numeric strings. If the class
            names are ints, ints are names. With several labels per row, a list or set of labels for each row, or an
            array `(rows, classes)` of 0 and 1.
        probabilities: float array `(rows, classes)`.
        labels: sequence of class names, strings or ints, in column order.
        threshold: float in `[0, 1]`, for several labels per row: a label is predicted if its probability is at least
            this. One threshold for all labels, or one per label: a dict of label to float, or a sequence in label
            order.
        intervals: float between 0 and 1, for example 0.95. Adds an interval to each score that contains this fraction
            of its values over bootstrap resamples of the rows. The interval measures the uncertainty from the limited
            number of test rows, not the variation between training seeds.
        resamples: int. Number of resamples. 1,000 determine an interval to about a twentieth of its width.
        seed: int. Seed of the resampling.
        rows: bool. Whether to add the outcome of each row.

    Returns:
        A dict:

        - `accuracy`: fraction of rows that are right (with several labels: in every label);
        - `macro_f1`: mean F1 of the classes that occur in `y_true` or are predicted;
        - `micro_f1`: F1 over all decisions (several labels only);
        - `auc`: mean over the classes of the area under the ROC curve, one class against the rest: the fraction of
          pairs of a row of the class and a row of another in which the first has the higher probability; ties count
          half;
        - `average_precision`: mean over the classes of the area under the precision-recall curve, as a step function
          with a step at each probability;
        - `log_loss`: mean of `-log p` of the true label (several labels: of all decisions), in nats; probabilities are
          at least 2.2e-16;
        - `brier`: mean squared difference between probabilities and 0 or 1, summed over the classes, in
          `[0, 2]` (several labels: averaged over all decisions, in `[0, 1]`);
        - `ece`: the expected calibration error of `calibration_scores`, with 15 bins;
        - `per_class`: dict of label to `precision`, `recall`, `f1`, `auc` and `average_precision` in `[0, 1]`, and
          `support` (rows);
        - `confusion`: list of rows (truth) of ints (prediction); with several labels, `[[tn, fp], [fn, tp]]` per label;
        - `labels`, `rows`: the class names and the number of rows; with several labels, also `threshold`;
        - `intervals`: if requested, a dict of score to `[low, high]`; each class in `per_class` also has one;
        - `per_row`: if `rows`, a dict of lists in row order: `label`, `predicted` (with several labels, lists of
          names), `probability` (of the prediction; with several labels, of the least confident decision), `right`,
          `loss` (the row's log loss), and `probabilities`, lists in the order of `labels`.

        A precision, recall or F1 with a zero denominator is 0. The areas of a class without rows are `None`, as is the
        `auc` of a class that all rows belong to; the means are over the other classes (`None` if there are none).

        The intervals are percentiles over the resamples, with linear interpolation. (Bias-corrected intervals, BCa,
        also need the score without each single row: for 10,000 rows, ten times the work of 1,000 resamples.) The
        interval of `ece` is too high if bins hold few rows: noise increases a sum of absolute values, and resamples
        are noisier.

    Raises:
        ValueError: if shapes do not match; if `probabilities` is empty, holds values outside `[0, 1]` or, with one
            label per row, rows that do not sum to 1; or if targets are not labels, are ambiguous (ints with labels
            `["1", "2", "3"]`, bools with labels `["yes", "no"]`) or are class proportions. The message names the row.

    Example:

    >>> scores = classification_scores(["card", "loan", "loan"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], ["card", "loan"])
    >>> round(scores["accuracy"], 3), round(scores["macro_f1"], 3), scores["confusion"]
    (0.667, 0.667, [[1, 0], [1, 1]])
    >>> scores["auc"], round(scores["log_loss"], 3), round(scores["brier"], 3)
    (1.0, 0.415, 0.273)

    References:
        - [Hanley and McNeil, 1982](https://doi.org/10.1148/radiology.143.1.7063747), the area and its meaning
        - [Brier, 1950](https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2)
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), the calibration error
        - [Efron, 1979](https://doi.org/10.1214/aos/1176344552), the bootstrap
    """
    dtype = getattr(probabilities, "dtype", None)
    y_true, probabilities, labels = read(y_true, probabilities, labels)
    threshold = _labels.thresholds(threshold, labels, dtype)
    level = None if intervals is None else _weighted.check_level(intervals)
    weighted = _weighted.Weighted(y_true, probabilities, threshold=threshold)
    wanted = [*weighted.names, *(("class", name) for name in _weighted.PER_CLASS)]
    found = weighted(np.ones((len(y_true), 1), "int64"), wanted)
    scores: dict[str, Any] = {name: _weighted.plain(found[name][0]) for name in weighted.names}
    support = y_true.sum(axis=0) if y_true.ndim == 2 else np.bincount(y_true, minlength=len(labels))
    scores["per_class"] = {
        label: {
            **{name: _weighted.plain(found["class", name][k, 0]) for name in _weighted.PER_CLASS},
            "support": int(support[k]),
        }
        for k, label in enumerate(labels)
    }
    if y_true.ndim == 2:
        # scikit-learn reads a single column as two classes. Padding with a label that no row has makes it two.
        both = (np.pad(each, ((0, 0), (0, int(len(labels) == 1)))) for each in (y_true, weighted.given))
        confusion = sklearn.metrics.multilabel_confusion_matrix(*both)[: len(labels)]
    else:
        confusion = sklearn.metrics.confusion_matrix(y_true, weighted.given, labels=np.arange(len(labels)))
    scores["confusion"] = confusion.tolist()
    scores["labels"] = labels
    scores["rows"] = len(y_true)
    if y_true.ndim == 2:
        scores["threshold"] = _labels.named_thresholds(threshold, labels)
    if level is not None:
        _add_intervals(scores, weighted, wanted, level, resamples, seed)
    if rows:
        scores["per_row"] = _per_row(y_true, probabilities, labels, weighted)
    return scores


def read(y_true, probabilities, labels):
    """Returns the targets as indices or 0 and 1 (several labels), float64 probabilities, and the labels as a list.

    Without labels, the classes are numbered.
    """
    probabilities = _weighted.probabilities_of("probabilities", probabilities)
    y_true = _labels.encode(y_true, labels, probabilities.shape[1])
    labels = list(range(probabilities.shape[1])) if labels is None else _labels.check(labels, probabilities.shape[1])
    if len(y_true) != len(probabilities) or len(y_true) == 0:
        raise _check.invalid("y_true", f"{len(probabilities)} rows as in `probabilities`, at least one", y_true.shape)
    return y_true, _weighted.probabilities_of("probabilities", probabilities, several=y_true.ndim == 2), labels


def _add_intervals(scores, weighted, wanted, level, resamples, seed):
    """Adds the intervals of all scores, overall and per class."""
    _check.integer("seed", seed, minimum=0)
    draws: dict[Any, Any] = {name: [] for name in wanted}
    for counts in _weighted.resampled(weighted.rows, _check.integer("resamples", resamples, minimum=2), seed):
        for name, values in weighted(counts, wanted).items():
            draws[name].append(values)
    draws = {name: np.concatenate(parts, axis=-1) for name, parts in draws.items()}
    scores["intervals"] = {name: _weighted.interval(draws[name], level) for name in weighted.names}
    for k, found in enumerate(scores["per_class"].values()):
        found["intervals"] = {name: _weighted.interval(draws["class", name][k], level) for name in _weighted.PER_CLASS}


def _per_row(y_true, probabilities, labels, weighted):
    """Returns the outcome of each row, as columns."""
    return {
        "label": _labels.named(y_true, labels),
        "predicted": _labels.named(weighted.given, labels),
        "probability": weighted.confidence.tolist(),
        "right": weighted.right.tolist(),
        "loss": weighted.losses.tolist(),
        "probabilities": probabilities.tolist(),
    }
