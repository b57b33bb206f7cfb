"""Scores on pairs of texts: graded similarity, or whether two texts belong together."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.evaluation import _measures

SIMILARITY_KEYS = ("spearman", "pearson")
PAIR_KEYS = (
    "accuracy",
    "accuracy_threshold",
    "f1",
    "f1_threshold",
    "precision",
    "recall",
    "average_precision",
    "mcc",
    "mcc_threshold",
)


def similarity(
    embedder: Any,
    texts: Any,
    scores: ArrayLike | None = None,
    *,
    similarity: str | Sequence[str] = "cosine",
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on graded pairs: how well its similarities correlate with the given scores.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder. Or a cross-encoder: a `models.TextRegressor` over pairs, or a
            function of two lists of strings.
        texts: a dataset from `data.pairs`, or a tuple of two lists of strings.
        scores: float array `(rows,)`, required for a tuple of lists: larger for more similar texts.
        similarity: `"cosine"`, `"dot"`, `"euclidean"`, `"manhattan"`, a list of several, or `"all"`. Distances are
            negated. Defaults to the cosine, which most models are trained for.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `similarity_scores`.

    Raises:
        ValueError: if scores are missing, if there are fewer than two rows, or if all scores are equal, which leaves
            the correlation undefined.

    Example:

    ```python
    test = tx.data.pairs(tx.data.read("test.tsv"), ("sentence1", "sentence2"), target="score")
    tx.evaluation.similarity(embedder, test)  # {"spearman": 0.8203, "pearson": 0.8274, "rows": 1379}
    ```

    References:
        - [Cer et al., 2017](https://arxiv.org/abs/1708.00055), STS benchmark
        - [Reimers et al., 2016](https://aclanthology.org/C16-1009), on Spearman's correlation
    """
    measures = _measures.names(similarity)
    columns, scores = graded_pairs(texts, scores)
    paired = _measures.pair_similarities(embedder, columns, measures, batch_size, progress)
    return {**_measures.named(lambda name: correlations(paired(name), scores), measures), "rows": len(scores)}


def similarity_scores(
    first: ArrayLike, second: ArrayLike, scores: ArrayLike, *, similarity: str | Sequence[str] = "cosine"
) -> dict[str, Any]:
    """Scores the vectors of graded pairs.

    Args:
        first: float array `(rows, dim)`.
        second: float array `(rows, dim)`.
        scores: float array `(rows,)`: larger for more similar texts.
        similarity: as in `similarity`.

    Returns:
        A dict: `spearman` (rank correlation; ties share their mean rank) and `pearson` in `[-1, 1]`, and `rows`. With
        several similarities, these are those of the first one, and each also has its own: `spearman_dot`,
        `pearson_dot`... If a model gives every pair the same similarity, the undefined correlation counts as 0.

    Raises:
        ValueError: as in `similarity`, or if vectors are not finite or differ in shape.

    Example:

    >>> first, second = np.eye(3), np.array([[1.0, 0.1, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> similarity_scores(first, second, [5.0, 3.0, 0.0])["spearman"]
    1.0

    Reference: Spearman, 1904; SciPy's `spearmanr` and `pearsonr` compute the values.
    """
    measures = _measures.names(similarity)
    first, second = _measures.vectors("first", first, second)
    scores = graded(scores, len(first))
    found = _measures.named(lambda name: correlations(_neighbours.paired(first, second, name), scores), measures)
    return {**found, "rows": len(scores)}


def graded_pairs(texts, scores=None):
    """Returns two lists of strings and float scores; raises if they do not match or leave correlations undefined."""
    columns, scores = _pairs_with("scores", "numbers", texts, scores)
    return columns, graded(scores, len(columns[0]))


def _pairs_with(argument, kind, texts, given):
    """Returns two lists of strings, and `given` or, by default, the targets of the dataset."""
    columns, y = _texts.text_columns("texts", texts, 2, "data.pairs")
    if len(columns) != 2:
        raise _check.invalid("texts", "two texts per row", len(columns))
    if given is None and y is None:
        raise _check.invalid(argument, f"{len(columns[0])} {kind}, one for each pair", given)
    return columns, y if given is None else given


def graded(scores, rows):
    """Returns scores as floats; raises unless there is one per row and correlations are defined."""
    scores = np.asarray(scores, "float64").reshape(-1)
    if len(scores) != rows:
        raise _check.invalid("scores", f"{rows} numbers, one for each pair", scores.shape)
    if len(scores) < 2 or not np.isfinite(scores).all() or np.ptp(scores) == 0:
        remedy = "Without scores a correlation is undefined: did you pass `target=...` to `data.pairs`?"
        raise _check.invalid("scores", "finite numbers, at least two of them different", scores, remedy)
    return scores


def correlations(similarities, scores):
    """Returns a dict of the Spearman and Pearson correlations of two arrays."""
    # A collapsed model's similarities differ only by rounding, which must not be ranked.
    if np.ptp(similarities) <= 1e-12 * max(1.0, np.abs(similarities).max()):
        return {"spearman": 0.0, "pearson": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
        pearson = scipy.stats.pearsonr(similarities, scores).statistic
    return {"spearman": float(scipy.stats.spearmanr(similarities, scores).statistic), "pearson": float(pearson)}


def pair_classification(
    embedder: Any,
    texts: Any,
    labels: ArrayLike | None = None,
    *,
    similarity: str | Sequence[str] = "cosine",
    threshold: float | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on pairs that belong together or not: duplicates, paraphrases, questions with answers.

    Args:
        embedder: as in `similarity`. A cross-encoder may also be a `models.TextClassifier` with two labels, the second
            of them for pairs that belong together.
        texts: a dataset from `data.pairs` with a target of 0 and 1, or a tuple of two lists of strings.
        labels: array `(rows,)` of 0 and 1 (or bool), required for a tuple of lists: 1 if the two texts belong together.
        similarity: as in `similarity`.
        threshold: float. Pairs with at least this similarity are predicted positive; for example, the `f1_threshold`
            of other rows. By default each score uses the best threshold on these rows, which is optimistic.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `pair_classification_scores`. With several similarities, the scores are those of the first one, and
        each also has its own: `average_precision_dot`...

    Raises:
        ValueError: if labels are missing, not 0 or 1, or all equal.

    Example:

    ```python
    dev, test = (tx.data.pairs(tx.data.read(f), ("question1", "question2"), target="same") for f in files)
    found = tx.evaluation.pair_classification(embedder, dev)
    tx.evaluation.pair_classification(embedder, test, threshold=found["f1_threshold"])["f1"]
    ```

    Reference: Dolan and Brockett, 2005, paraphrase corpus, https://aclanthology.org/I05-5002.
    """
    measures = _measures.names(similarity)
    columns, labels = labelled_pairs(texts, labels)
    paired = _measures.pair_similarities(embedder, columns, measures, batch_size, progress)
    scores = _measures.named(lambda name: _decisions(labels, paired(name), threshold), measures)
    return {**scores, "rows": len(labels), "positives": int(labels.sum())}


def labelled_pairs(texts, labels=None):
    """Returns two lists of strings and the labels as a bool array; raises if they do not match."""
    columns, labels = _pairs_with("labels", "labels", texts, labels)
    return columns, _binary(labels, len(columns[0]))


def _binary(labels, rows):
    labels = np.asarray(labels).reshape(-1)
    if len(labels) != rows:
        raise _check.invalid("labels", f"{rows} labels, one for each pair", labels.shape)
    if not np.isin(labels, (0, 1)).all():
        raise _check.invalid("labels", "0 and 1", np.unique(labels), "For graded scores, use `similarity`.")
    labels = labels.astype(bool)
    if labels.all() or not labels.any():
        raise _check.invalid("labels", "labels of both kinds, 0 and 1", labels)
    return labels


def pair_classification_scores(
    y_true: ArrayLike, similarities: ArrayLike, *, threshold: float | None = None
) -> dict[str, Any]:
    """Scores similarities of pairs against labels that tell whether the pairs belong together.

    A pair is predicted positive if its similarity is at least the threshold. No threshold separates equal similarities.

    Args:
        y_true: array `(rows,)` of 0 and 1 (or bool).
        similarities: float array `(rows,)`, larger for closer texts (negate distances).
        threshold: float, or `None` for the best on these rows, chosen separately for each score.

    Returns:
        A dict:

        - `accuracy`, `f1`, `mcc` (Matthews correlation coefficient): at `threshold`, or the best over all thresholds;
        - `accuracy_threshold`, `f1_threshold`, `mcc_threshold`: `threshold`, or the best one: the midpoint between two
          similarities, and the highest if several are equally good;
        - `precision`, `recall`: at `f1_threshold`;
        - `average_precision`: over all thresholds; pairs of equal similarity count as one step, as in scikit-learn;
        - `rows`, `positives`: the number of pairs, and the number that belong together.

        A score with a zero denominator is 0.

    Raises:
        ValueError: if labels are not 0 or 1, or all equal, or if similarities are not finite.

    Example:

    >>> scores = pair_classification_scores([1, 0, 1, 0], [0.9, 0.8, 0.6, 0.1])
    >>> round(scores["f1"], 3), round(scores["f1_threshold"], 3), round(scores["average_precision"], 3)
    (0.8, 0.35, 0.833)

    Reference: Matthews, 1975, https://doi.org/10.1016/0005-2795(75)90109-9.
    """
    similarities = np.asarray(similarities, "float64").reshape(-1)
    labels = _binary(y_true, len(similarities))
    if not np.isfinite(similarities).all():
        raise _check.invalid("similarities", "finite numbers", similarities)
    scores = _decisions(labels, similarities, threshold)
    return {**scores, "rows": len(labels), "positives": int(labels.sum())}


def _decisions(labels, similarities, threshold):
    if threshold is None:
        thresholds = _thresholds(similarities)
    else:
        thresholds = np.array([_check.number("threshold", threshold)])
    order = np.sort(similarities)
    positive = np.sort(similarities[labels])
    # The numbers of predicted positives and of true positives at each threshold.
    taken = len(order) - np.searchsorted(order, thresholds, side="left")
    right = (len(positive) - np.searchsorted(positive, thresholds, side="left")).astype("float64")
    wrong, missed = taken - right, len(positive) - right
    refused = len(order) - len(positive) - wrong
    accuracy = (right + refused) / len(order)
    f1 = 2 * right / (len(positive) + taken)
    # Take roots of the factors, because the product of four counts of a large set overflows 64 bits.
    margins = np.sqrt(taken * float(len(positive))), np.sqrt((len(order) - taken) * (wrong + refused))
    mcc = _ratio(right * refused - wrong * missed, margins[0] * margins[1])
    best = {name: int(np.argmax(values)) for name, values in (("accuracy", accuracy), ("f1", f1), ("mcc", mcc))}
    scores = {
        "accuracy": accuracy[best["accuracy"]],
        "accuracy_threshold": thresholds[best["accuracy"]],
        "f1": f1[best["f1"]],
        "f1_threshold": thresholds[best["f1"]],
        "precision": _ratio(right, taken)[best["f1"]],
        "recall": right[best["f1"]] / len(positive),
        "average_precision": sklearn.metrics.average_precision_score(labels, similarities),
        "mcc": mcc[best["mcc"]],
        "mcc_threshold": thresholds[best["mcc"]],
    }
    return {key: float(value) for key, value in scores.items()}


def _thresholds(similarities):
    """Returns every threshold that separates rows, from the highest (above all) down to the lowest similarity."""
    values = np.unique(similarities)[::-1]
    between = (values[:-1] + values[1:]) / 2
    between = np.where(between > values[1:], between, values[:-1])  # adjacent floats have no midpoint
    return np.concatenate([[np.nextafter(values[0], np.inf)], between, values[-1:]])


def _ratio(numerator, denominator):
    denominator = np.asarray(denominator, "float64")
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
