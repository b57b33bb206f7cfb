"""Scores over a whole data set, as plain dicts of floats."""

import numpy as np
import scipy.stats
import sklearn.metrics

from tfxfer import _check, data


def classification(model, texts, y=None, *, batch_size=32, threshold=0.5, verbose=0):
    """Scores a classifier on labelled texts.

    Args:
        model: `models.TextClassifier`.
        texts: what `data.labelled` made, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names, or indices.
        batch_size: int. Texts computed at a time.
        threshold: float in `[0, 1]`. With several labels a text, the least probability of a label that is given.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `classification_scores`.

    Raises:
        ValueError: for a label that the model does not know, missing `y`, or no rows.

    Example:

    ```python
    test = tx.data.labelled(tx.data.read("test.tsv"), "text", "label", labels=model.labels)
    tx.evaluation.classification(model, test)["macro_f1"]
    ```
    """
    if y is None:
        texts, y = _columns(texts, model.labels)
    targets = model._encode_raw_targets(y)
    probabilities = model.classify(texts, batch_size=batch_size, verbose=verbose).probabilities
    return classification_scores(targets, probabilities, model.labels, threshold=threshold)


def classification_scores(y_true, probabilities, labels, *, threshold=0.5):
    """Scores probabilities against the truth.

    Args:
        y_true: int array `(rows,)` of indices, or `(rows, classes)` of 0 and 1 where a row may have several labels.
        probabilities: float array `(rows, classes)`.
        labels: the class names in the order of the columns.
        threshold: float in `[0, 1]`, for several labels a row.

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
        ValueError: for no rows, or shapes that do not fit.

    Example:

    >>> scores = classification_scores([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], ["card", "loan"])
    >>> round(scores["accuracy"], 3), round(scores["macro_f1"], 3), scores["confusion"]
    (0.667, 0.667, [[1, 0], [1, 1]])
    """
    y_true, probabilities, labels = np.asarray(y_true), np.asarray(probabilities), list(labels)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels):
        raise _check.invalid("probabilities", f"an array (rows, {len(labels)})", probabilities.shape)
    if len(y_true) != len(probabilities) or len(y_true) == 0:
        raise _check.invalid("y_true", f"{len(probabilities)} rows as in `probabilities`, at least one", y_true.shape)
    several = y_true.ndim == 2
    indices = np.arange(len(labels))
    if several:
        y_pred = (probabilities >= _check.number("threshold", threshold, minimum=0.0, maximum=1.0)).astype(int)
        y_true = y_true.astype(int)
        confusion = sklearn.metrics.multilabel_confusion_matrix(y_true, y_pred)
    else:
        y_pred = probabilities.argmax(axis=1)
        confusion = sklearn.metrics.confusion_matrix(y_true, y_pred, labels=indices)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        y_true, y_pred, labels=indices, average=None, zero_division=0.0
    )
    present = (support > 0) | (y_pred.sum(axis=0) > 0 if several else np.isin(indices, y_pred))
    scores = {
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


def similarity(embedder, texts, scores=None, *, batch_size=32, progress=None):
    """Scores an embedder on graded pairs: how well cosines follow the scores.

    Args:
        embedder: `models.TextEmbedder`, or anything with `encode(list of strings) -> (texts, dim)`.
        texts: what `data.pairs` made, or a tuple of two lists of strings.
        scores: float array, for a tuple of lists: larger where the two texts are more alike.
        batch_size: int. Texts computed at a time.
        progress: bool. Whether to show a progress bar; by default on long work.

    Returns:
        A dict: `spearman` (rank correlation; ties share their mean rank) and `pearson` in `[-1, 1]`, and `rows`.

    Raises:
        ValueError: for missing scores, fewer than two rows, or scores that are all equal: no correlation is defined.

    Example:

    ```python
    test = tx.data.pairs(tx.data.read("test.tsv"), ("sentence1", "sentence2"), target="score")
    tx.evaluation.similarity(embedder, test)  # {"spearman": 0.8203, "pearson": 0.8274, "rows": 1379}
    ```

    Reference: Cer et al., 2017, STS benchmark, https://arxiv.org/abs/1708.00055; Reimers et al., 2016, on Spearman:
    https://aclanthology.org/C16-1009.
    """
    if scores is None:
        texts, scores = _columns(texts)
    if not isinstance(texts, tuple) or len(texts) != 2:
        raise _check.invalid("texts", "`data.pairs`, or a tuple of two lists of strings", texts)
    first, second = (list(column) for column in texts)
    scores = np.asarray(scores, "float64").reshape(-1)
    if len(first) != len(scores) or len(second) != len(scores):
        raise _check.invalid("scores", f"{len(first)} numbers, one for each pair", scores.shape)
    if len(scores) < 2 or np.ptp(scores) == 0:
        raise _check.invalid("scores", "at least two different scores", scores)
    # One call, so that all texts are sorted together; equal texts are computed once.
    unique = {text: i for i, text in enumerate(dict.fromkeys([*first, *second]))}
    positions = np.array([unique[text] for text in [*first, *second]])
    vectors = np.asarray(embedder.encode(list(unique), batch_size=batch_size, progress=progress), "float64")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    left, right = vectors[positions[: len(first)]], vectors[positions[len(first) :]]
    cosines = np.sum(left * right, axis=1)
    return {
        "spearman": float(scipy.stats.spearmanr(cosines, scores).statistic),
        "pearson": float(scipy.stats.pearsonr(cosines, scores).statistic),
        "rows": len(scores),
    }


def _columns(dataset, labels=None):
    """Returns the texts (a list, or a tuple of lists) and targets of a dataset of unbatched rows."""
    if isinstance(dataset, data.Texts):
        if labels is not None and dataset.labels is not None and list(dataset.labels) != list(labels):
            raise _check.invalid(
                "texts",
                "a dataset whose labels are the model's, in its order",
                dataset.labels,
                "Give `labels=model.labels` to `data.labelled`.",
            )
        columns = [column.numpy().tolist() for column in dataset.columns]
        return (tuple(columns) if len(columns) > 1 else columns[0]), dataset.y.numpy()
    if not hasattr(dataset, "as_numpy_iterator"):
        raise _check.invalid(
            "texts", "a dataset that `data.labelled` or `data.pairs` made", dataset, "Or give texts and their targets."
        )
    rows = list(dataset.as_numpy_iterator())
    if not rows or not isinstance(rows[0], tuple) or len(rows[0]) < 2:
        raise _check.invalid("texts", "a dataset of rows (x, y), at least one", dataset)
    x, y = [row[0] for row in rows], np.array([row[1] for row in rows])
    return (tuple(map(list, zip(*x, strict=True))) if isinstance(x[0], tuple) else x), y
