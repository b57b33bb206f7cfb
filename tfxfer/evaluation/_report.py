"""Writes a directory that shows the results of a run."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _disk, _neighbours, _texts, data
from tfxfer.evaluation import (
    _labels,
    _pairs,
    _plots,
    _report_entities,
    _report_folder,
    _report_page,
    _tagging,
    _tensorboard,
)
from tfxfer.evaluation._calibration import calibration_scores
from tfxfer.evaluation._classification import classification_scores
from tfxfer.evaluation._curves import coverage_curve, precision_recall_curve

_BANDS = 5
# For each curve of precision and recall, because a page has one per class.
_POINTS = 50


def report(
    folder: str | os.PathLike[str],
    model: Any = None,
    texts: Any = None,
    y: Any = None,
    *,
    history: Any = None,
    scores: Mapping[str, Any] | None = None,
    similarity: str = "cosine",
    batch_size: int = 32,
    intervals: float | None = None,
    progress: bool | None = None,
    tensorboard: bool = False,
    explain: bool = True,
) -> dict[str, Any]:
    """Writes the results of a run to a directory: scores, plots, and pages that show them.

    | file | requires | content |
    |---|---|---|
    | `README.md` | | the main scores and all plots |
    | `report.html` | | one page that works offline; see below |
    | `metrics.json` | | all scores; a number that is not finite is `null` |
    | `curves.png` | `history` | each value over the epochs |
    | `confusion.png` | a classifier | the confusion matrix, each true class as fractions of its rows |
    | `per_class.png` | a classifier with several labels per text | precision, recall and F1 of each label |
    | `reliability.png` | a classifier | accuracy by confidence; see `calibration_scores` |
    | `coverage.png` | a classifier | accuracy on its most confident rows; see `coverage_curve` |
    | `precision_recall.png` | a classifier | all decisions, and the hardest classes; see `precision_recall_curve` |
    | `similarity.png` | a model of pairs, a regressor | similarities, or predictions, by label or band of scores |
    | `errors.tsv`, `outcomes.png` and others | a tagger | see `report_entities` |
    | `tensorboard/` | `tensorboard=True` | the history, the plots, and an embedder's texts in the projector |

    `report.html` needs no network and no other file. It shows all scores, a sortable table of classes, and curves. It
    also shows

    - the rows of each confusion, for classifiers;
    - the worst errors with the words that explain them (`TextClassifier.explain`), for classifiers, regressors and
      embedders;
    - a map of up to 1,000 texts, their vectors in two principal components, for classifiers and embedders;
    - the rows with errors, with their entities marked, for taggers.

    The page contains texts: for a classifier up to 3,000 rows, the errors first.

    Existing files with these names are replaced, either all of them or, if writing fails, none. Other files are kept.

    Args:
        folder: string or path on the local disk. Created if it does not exist.
        model: the model to evaluate on `texts`: a `models.TextClassifier` or `models.SiameseClassifier`; a
            `models.TextEmbedder` or `models.Siamese` (or any object with `encode`) on pairs with a score, or with 0 and
            1; a `models.TextRegressor` on texts or pairs with a score; a `models.TokenTagger` on words with tags. A
            tagger with a scheme is reported by entity, one without by word. Defaults to `None`, which reports only
            history and scores.
        texts: a dataset from `data.labelled`, `data.pairs`, `data.regression` or `data.tagged`, or a list (or a tuple
            of columns) of strings; for a tagger, a list of lists of words.
        y: targets of a list of strings, or of words.
        history: the result of `fit`, or a dict of name to list of numbers.
        scores: dict of further results for `metrics.json`, for example `{"search": evaluation.retrieval(...)}`.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`, for an embedder.
        batch_size: int. Number of texts encoded at a time.
        intervals: float between 0 and 1, for example 0.95. For a classifier, adds confidence intervals; see
            `classification_scores`.
        progress: bool. Whether to show a progress bar. By default, one is shown in a terminal or notebook.
        tensorboard: bool. Whether to write files for TensorBoard.
        explain: bool. Whether `report.html` explains the worst errors, at most 12. Each takes as long as about 50
            texts.

    Returns:
        The dict in `metrics.json`: `history`; `classification`, `calibration`, `coverage` and `precision_recall`;
        `pair_classification` or `similarity`; for a tagger, the results of `report_entities`; and those of `scores`.

    Raises:
        ValueError: if there is nothing to report, or if the model's evaluation does not accept the texts and targets.
        ImportError: if matplotlib, or tensorboard when requested, is not installed; raised before anything is computed.

    Example:

    ```python
    history = model.fit(train, epochs=3)
    tx.evaluation.report("runs/banking", model, test, history=history)["classification"]["accuracy"]
    ```

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599, on the reliability diagram.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    if model is None:
        if texts is not None or y is not None:
            raise _check.invalid("model", "a model for the texts", model, "For predictions, use `report_scores`.")
        return report_scores(folder, history=history, scores=scores, tensorboard=tensorboard)
    if texts is None:
        raise _check.invalid("texts", "rows to evaluate the model on", texts)
    _report_folder.require(tensorboard)
    if hasattr(model, "tag") and model.scheme is not None:
        verbose = int(_texts.is_watched() if progress is None else progress)
        return _report_entities.of_tagger(
            folder, model, texts, y, batch_size, verbose, history=history, scores=scores, tensorboard=tensorboard
        )
    y, predicted, options, points, details = _predictions(model, texts, y, similarity, batch_size, progress, explain)
    options.update(history=history, scores=scores, tensorboard=tensorboard, intervals=intervals)
    found = _of_predictions(folder, y, predicted, details, **options)
    if tensorboard and points is not None:
        _tensorboard.projector(folder / _report_folder.TENSORBOARD, *points)
    return found


def _predictions(model, texts, y, similarity, batch_size, progress, explain):
    """Returns targets, predictions, options for `report_scores`, vectors with their texts, and details."""
    verbose = int(_texts.is_watched() if progress is None else progress)
    if hasattr(model, "classify"):
        texts, y = data.Gate(model, ("texts", "y", "sample_weight")).in_memory(texts, y)
        y = _labels.decode(y, model.labels)
        found = model.classify(texts, batch_size=batch_size, verbose=verbose).probabilities
        several = {"threshold": model.threshold} if getattr(model, "multi_label", False) else {}
        details = _report_page.of_classifier(model, texts, batch_size, explain)
        return y, found, {"labels": model.labels, **several}, None, details
    if hasattr(model, "tag"):  # without a scheme: each word is classified as one of the tags
        words, y = _tagging.read(model, texts, y, ("texts", "y"))
        found = np.concatenate(model.probabilities(words, batch_size, verbose=verbose))
        has_token = np.asarray(found.any(axis=1))
        tags = [tag for row in y for tag in row]
        return (
            [tag for tag, known in zip(tags, has_token, strict=True) if known],
            found[has_token],
            {"labels": model.tags},
            None,
            None,
        )
    if _texts.embedder_of(model) is not None:
        _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
        columns, y = _pairs.graded_pairs(texts, y)
        unique = list(dict.fromkeys(text for column in columns for text in column))
        vectors = _texts.encode(model, unique, batch_size=batch_size, progress=progress)
        place = {text: i for i, text in enumerate(unique)}
        first, second = (vectors[[place[text] for text in column]] for column in columns)
        found = _neighbours.paired(first, second, similarity)
        points = (vectors, unique)
        details = _report_page.of_pairs(model, columns, points, similarity, batch_size, explain)
        return y, found, {"name": f"{similarity} similarity"}, points, details
    if not hasattr(model, "predict"):
        raise _check.invalid("model", "a model of this package, or any object with `encode`", model)
    if y is None:
        texts, y = _texts.columns(texts)
    details = _report_page.of_model(model, texts, batch_size, explain)
    return y, model.predict(texts, batch_size=batch_size, verbose=verbose), {"name": "prediction"}, None, details


def report_scores(
    folder: str | os.PathLike[str],
    y_true: Any = None,
    predicted: ArrayLike | None = None,
    *,
    labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
    threshold: Any = 0.5,
    name: str = "similarity",
    texts: Any = None,
    history: Any = None,
    scores: Mapping[str, Any] | None = None,
    intervals: float | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Writes the report of existing predictions.

    Args:
        folder: string or path on the local disk. Created if it does not exist.
        y_true: with `labels`, names or indices as in `classification_scores`. Without, float array `(rows,)`: 0 and 1
            for pairs that belong together or not, or scores.
        predicted: float array: probabilities `(rows, classes)`, or similarities or predictions `(rows,)`.
        labels: the class names, in column order.
        threshold: as in `classification_scores`, for several labels per row.
        name: string. What the values of `predicted` are, if they are not probabilities.
        texts: list of strings, or a tuple of such columns: the rows' texts, for `report.html`.
        history: as in `report`.
        scores: as in `report`.
        intervals: as in `report`.
        tensorboard: as in `report`.

    Returns:
        As in `report`.

    Raises:
        ValueError: as in `classification_scores`, `pair_classification_scores` or `similarity_scores`, or if there is
            nothing to report.
        ImportError: as in `report`.

    Example:

    ```python
    probabilities = model.classify(texts).probabilities
    tx.evaluation.report_scores("runs/banking", y_true, probabilities, labels=model.labels)
    ```
    """
    details = None
    if texts is not None:
        parts = texts if isinstance(texts, tuple) else (texts,)
        rows = list(zip(*(_texts.strings("texts", part) for part in parts), strict=False))
        if y_true is None or any(len(part) != len(y_true) for part in parts):
            raise _check.invalid("texts", "a text for each row of `y_true`", f"{len(rows)} texts")
        details = _report_page.Details(rows)
    options: dict[str, Any] = {"labels": labels, "name": name, "history": history, "scores": scores}
    options.update(threshold=threshold, intervals=intervals, tensorboard=tensorboard)
    return _of_predictions(folder, y_true, predicted, details, **options)


def _of_predictions(
    folder,
    y_true,
    predicted,
    details,
    *,
    labels=None,
    threshold=0.5,
    name="similarity",
    history=None,
    scores=None,
    intervals=None,
    tensorboard=False,
):
    """Writes the report of predictions, with the `Details` on its page."""
    folder, history = _report_folder.begin(folder, history, scores, tensorboard)
    if (y_true is None) != (predicted is None):
        raise _check.invalid("predicted", "predictions and their targets, or neither", predicted)
    if y_true is None and not history and not scores:
        raise _check.invalid("history", "something to report: a history, scores, or a model and texts", history)
    metrics, drawings = {}, {}
    if labels is not None:
        _report_classes(metrics, drawings, y_true, predicted, list(labels), threshold, intervals)
    elif y_true is not None:
        _report_pairs(metrics, drawings, y_true, predicted, name)
    page = functools.partial(
        _report_page.page, y_true=y_true, predicted=predicted, labels=labels, name=name, details=details
    )
    return _report_folder.write(folder, metrics, drawings, history, scores, tensorboard, page=page)


def _report_classes(metrics, drawings, y_true, probabilities, labels, threshold, intervals):
    metrics["classification"] = scores = classification_scores(
        y_true, probabilities, labels, threshold=threshold, intervals=intervals
    )
    metrics["calibration"] = calibration_scores(y_true, probabilities, labels=labels)
    metrics["coverage"] = coverage_curve(y_true, probabilities, labels=labels, threshold=threshold)
    metrics["precision_recall"] = precision_recall_curve(y_true, probabilities, labels=labels, points=_POINTS)
    if "micro_f1" in scores:  # several labels per row
        drawings["per_class"] = _plots.per_class(scores["per_class"])
    else:
        drawings["confusion"] = _plots.confusion(scores["confusion"], labels)
    drawings["reliability"] = _plots.reliability(metrics["calibration"])
    drawings["coverage"] = _plots.coverage(metrics["coverage"])
    drawings["precision_recall"] = _plots.precision_recall(metrics["precision_recall"])


def _report_pairs(metrics, drawings, y_true, predicted, name):
    predicted = np.asarray(predicted, "float64")
    if predicted.ndim == 2 and predicted.shape[1] == 1:
        predicted = predicted[:, 0]
    if predicted.ndim != 1 or not np.isfinite(predicted).all():
        raise _check.invalid("predicted", "one finite number for each row", predicted)
    y_true = _pairs.graded(y_true, len(predicted))
    threshold = None
    if np.isin(y_true, (0, 1)).all():
        metrics["pair_classification"] = scores = _pairs.pair_classification_scores(y_true, predicted)
        threshold = scores["f1_threshold"]
        groups = {"label 0": y_true == 0, "label 1": y_true == 1}
    else:
        metrics["similarity"] = {**_pairs.correlations(predicted, y_true), "rows": len(y_true)}
        groups = _bands(y_true)
    drawings["similarity"] = _plots.similarities(predicted, groups, name=name, threshold=threshold)


def _bands(y):
    """Groups the rows by score, or by bands of scores if there are many different ones."""
    found = np.unique(y)
    if len(found) <= _BANDS + 1:
        return {f"score {value:g}": y == value for value in found}
    edges = np.linspace(y.min(), y.max(), _BANDS + 1)
    place = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, _BANDS - 1)
    digits = 1 - math.floor(math.log10(float(np.ptp(y))))
    shown = [f"{round(float(edge), digits):g}" for edge in edges]
    return {f"score {shown[k]} to {shown[k + 1]}": place == k for k in range(_BANDS)}
