"""Scores of a classifier."""

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
    """Scores a classifier on labelled texts.

    Args:
        model: `models.TextClassifier`.
        texts: what `data.labelled` made, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names, or indices.
        batch_size: int. Texts computed at a time.
        threshold: as `model.classify` has it; defaults to the model's own.
        intervals: float between 0 and 1, such as 0.95. Adds confidence intervals; see `classification_scores`.
        resamples: int. Resamples of the rows for the intervals.
        seed: int. Of the resamples.
        rows: bool. Whether to add what became of each row; see `classification_scores`.
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
    tx.evaluation.classification(model, test, intervals=0.95)["intervals"]["macro_f1"]  # such as [0.91, 0.93]
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
    """Scores probabilities against the truth.

    Args:
        y_true: the labels of the rows: names, or int indices where labels are strings that are no numbers. Ints beside
            labels that are ints are names. Where a row may have several labels, a list or set of them in each row, or
            an array `(rows, classes)` of 0 and 1.
        probabilities: float array `(rows, classes)`.
        labels: sequence of the class names, strings or ints, in the order of the columns.
        threshold: float in `[0, 1]`, for several labels a row: the least probability of a label that is given; or one
            for each label: a dict of label to float, or a sequence in the order of the labels.
        intervals: float between 0 and 1, such as 0.95. Adds an interval to each score, in which it lies in this share
            of resamples: as many rows, drawn with replacement. They say how far the score may be off because there are
            no more test rows, and nothing of other seeds of the training.
        resamples: int. Their number. 1,000 settle an interval to about a twentieth of its width.
        seed: int. Of the resamples.
        rows: bool. Whether to add what became of each row.

    Returns:
        A dict:

        - `accuracy`: share of rows that are right (with several labels: in every label);
        - `macro_f1`: mean of the classes' F1, over the classes that occur in `y_true` or are predicted;
        - `micro_f1`: F1 over all decisions (several labels only);
        - `auc`: mean over the classes of the area under the ROC curve, each class against all others: the share of
          pairs of a row of the class and another one in which the first has the higher probability, ties half;
        - `average_precision`: mean over the classes of the area under the precision-recall curve, a step at each
          probability;
        - `log_loss`: mean of `-log p` of the true label (several labels: of all decisions), in nats; a probability of 0
          counts as 2.2e-16;
        - `brier`: mean of the squared differences between probabilities and 0 or 1, summed over the classes, in
          `[0, 2]` (several labels: the mean of all decisions, in `[0, 1]`);
        - `ece`: the expected calibration error of `calibration_scores`, in 15 bins;
        - `per_class`: dict of label to `precision`, `recall`, `f1`, `auc` and `average_precision` in `[0, 1]`, and
          `support` (rows);
        - `confusion`: list of rows (truth) of ints (prediction); with several labels, `[[tn, fp], [fn, tp]]` a label;
        - `labels`, `rows`: the class names; the number of rows; `threshold`, with several labels a row;
        - `intervals`: with `intervals`, a dict of score to `[low, high]`, and another one in each class of `per_class`;
        - `per_row`: with `rows`, a dict of lists in the order of the rows: `label`, `predicted` (with several labels,
          lists of names), `probability` (of what is predicted; with several labels, of the least sure decision),
          `right`, `loss` (the row's log loss), and `probabilities`, lists in the order of `labels`.

        A precision, recall or F1 that would divide by 0 is 0. The areas of a class that has no rows, or `auc` of one
        that has all, are `None`, and the means are over the others (`None` without any).

        The intervals are percentiles of the resamples, linear between them. (The bias-corrected kind, BCa, also scores
        the rows without each one of them: for 10,000 rows ten times the work of 1,000 resamples.) That of `ece` lies
        too high where bins hold few rows: a sum of absolute values grows with noise, which resamples have more of.

    Raises:
        ValueError: for no rows, shapes that do not fit, numbers that are no probabilities or, for one label a row, do
            not sum to 1; and targets that are no labels, could be read in two ways (ints beside `["1", "2", "3"]`,
            bools beside `["yes", "no"]`) or are shares of the classes; it names the row.

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
        # scikit-learn reads a single column as two classes: a label that no row has makes it two.
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
    """Returns targets as indices, or as 0 and 1 for several labels, probabilities as float64, and labels as a list.

    Without labels, they are numbers.
    """
    probabilities = _weighted.probabilities_of("probabilities", probabilities)
    y_true = _labels.encode(y_true, labels, probabilities.shape[1])
    labels = list(range(probabilities.shape[1])) if labels is None else _labels.check(labels, probabilities.shape[1])
    if len(y_true) != len(probabilities) or len(y_true) == 0:
        raise _check.invalid("y_true", f"{len(probabilities)} rows as in `probabilities`, at least one", y_true.shape)
    return y_true, _weighted.probabilities_of("probabilities", probabilities, several=y_true.ndim == 2), labels


def _add_intervals(scores, weighted, wanted, level, resamples, seed):
    """Adds the intervals of all scores, and of those of each class."""
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
    """What became of each row, as columns."""
    return {
        "label": _labels.named(y_true, labels),
        "predicted": _labels.named(weighted.given, labels),
        "probability": weighted.confidence.tolist(),
        "right": weighted.right.tolist(),
        "loss": weighted.losses.tolist(),
        "probabilities": probabilities.tolist(),
    }
