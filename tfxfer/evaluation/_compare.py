"""Whether one model is better than another, or was luckier with the test rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from tfxfer import _check, data
from tfxfer.evaluation import _classification, _labels, _weighted

# Rows on which just one of two is right, below which McNemar's test is exact.
_FEW = 25
_DEFAULT = ("accuracy", "macro_f1", "micro_f1")
_PER_ROW, _PER_QUERY = "per_row", "per_query"


def compare(
    a: Any,
    b: Any,
    texts: Any = None,
    y: Any = None,
    *,
    scores: str | Sequence[str] | None = None,
    intervals: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    threshold: Any = None,
    verbose: int | str = 0,
) -> dict[str, Any]:
    """Says whether the difference between two classifiers, or two searches, is real.

    Both are scored on the same rows, and on the same resamples of these rows (a paired bootstrap): what is hard for
    both cancels out, so that the interval of the difference is narrower than those of the two scores suggest.

    The rows are one source of chance, the seeds of a training another. Give several runs on each side, a list each:
    their mean scores are then compared, and each resample draws runs as well as rows. (Of few runs it draws too little
    spread: of three, about a fifth less than there is. The scores of all runs are returned.)

    Args:
        a: a `models.TextClassifier` or another model with `classify`; or what `evaluation.classification` or
            `classification_scores` returned with `rows=True`; or, for searches, `retrieval`, `retrieval_scores`,
            `run_scores` or `beir` with `rows=True`; or a list of several of one kind, the runs.
        b: the other side, likewise.
        texts: for models: labelled rows, as `classification` takes them.
        y: the labels of a list of strings.
        scores: which scores are compared: a name, several, or `"all"`. Those of `classification_scores` that are one
            number, by default accuracy, macro-F1 and, with several labels a row, micro-F1; for searches any of theirs,
            by default all. Of twenty scores one differs at 0.95 by chance: decide beforehand which one counts.
        intervals: float between 0 and 1: the share of resamples within an interval.
        resamples: int. Their number.
        seed: int. Of the resamples.
        batch_size: int. Texts computed at a time.
        threshold: as `classification_scores` has it, for several labels a row. Defaults to that of the results and
            models, or 0.5.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `compare_scores`; for searches with `queries` in place of `rows`, and without `mcnemar`.

    Raises:
        ValueError: for models without rows, results of different rows, labels or thresholds or without `rows=True`, an
            unknown score, and as `classification`.

    Example:

    ```python
    found = tx.evaluation.compare(tuned, probe, test["text"], test["label"])
    found["scores"]["macro_f1"]["difference"], found["scores"]["macro_f1"]["interval"]
    found["scores"]["macro_f1"]["better"]  # "a", "b", or None: no real difference
    ```

    References:
        - [Berg-Kirkpatrick et al., 2012](https://aclanthology.org/D12-1091/), the paired bootstrap for texts
        - [McNemar, 1947](https://doi.org/10.1007/BF02295996)
        - [Dietterich, 1998](https://doi.org/10.1162/089976698300017197), which tests hold what they promise
        - [Bouthillier et al., 2021](https://arxiv.org/abs/2103.03098), runs and rows as sources of chance
    """
    sides = [each if isinstance(each, (list, tuple)) else [each] for each in (a, b)]
    for name, side in zip("ab", sides, strict=True):
        if not side:
            raise _check.invalid(name, "at least one model or result", side)
    options: dict[str, Any] = {"scores": scores, "intervals": intervals, "resamples": resamples, "seed": seed}
    every = [each for side in sides for each in side]
    if all(isinstance(each, dict) and _PER_QUERY in each for each in every):
        return _compare_queries(*sides, **options)
    if any(hasattr(each, "classify") for each in every) and texts is None:
        raise _check.invalid("texts", "labelled rows to compare the models on", texts)
    if threshold is None:
        own = [each["threshold"] for each in every if isinstance(each, dict) and "threshold" in each]
        own += [each.threshold for each in every if getattr(each, "multi_label", False)]
        if any(each != own[0] for each in own):
            raise _check.invalid("threshold", "one for results and models of different thresholds", own)
        threshold = own[0] if own else 0.5
    found: Any = []
    for name, side in zip("ab", sides, strict=True):
        found.append([_result(name, each, texts, y, batch_size, threshold, verbose) for each in side])
    first = found[0][0]
    for name, side in zip("ab", found, strict=True):
        for each in side:
            if each["labels"] != first["labels"]:
                remedy = "Compare models of the same labels in the same order."
                raise _check.invalid(name, f"results of the labels {first['labels']}", each["labels"], remedy)
            if each["per_row"]["label"] != first["per_row"]["label"]:
                raise _check.invalid(name, "results of the same rows in the same order", name)
    one, other = ([each["per_row"]["probabilities"] for each in side] for side in found)
    return compare_scores(first["per_row"]["label"], one, other, first["labels"], threshold=threshold, **options)


def _result(name, each, texts, y, batch_size, threshold, verbose):
    """Returns labels and per-row results of a model, or of what it gave."""
    if isinstance(each, dict) and _PER_ROW in each:
        return each
    if not hasattr(each, "classify"):
        remedy = "Scores alone cannot be compared row by row: give `rows=True` where they are computed."
        raise _check.invalid(name, "a classifier, or scores with `per_row`", each, remedy)
    rows, targets = data.Gate(each, ("texts", "y", "sample_weight")).in_memory(texts, y)
    truth = _labels.decode(targets, each.labels)
    probabilities = each.classify(rows, batch_size=batch_size, verbose=verbose).probabilities
    return _classification.classification_scores(truth, probabilities, each.labels, threshold=threshold, rows=True)


def compare_scores(
    y_true: Any,
    a: ArrayLike | Sequence[ArrayLike],
    b: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    scores: str | Sequence[str] | None = None,
    intervals: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    threshold: Any = 0.5,
) -> dict[str, Any]:
    """Says whether the difference between two classifiers is real, from probabilities that are there already.

    Args:
        y_true: the labels of the rows, as `classification_scores` takes them.
        a: float array `(rows, classes)`; or several of them, `(runs, rows, classes)` or a list.
        b: the other side, likewise; its number of runs may differ.
        labels: sequence of the class names in the order of the columns.
        scores: see `compare`.
        intervals: float between 0 and 1.
        resamples: int.
        seed: int.
        threshold: as `classification_scores` has it, for several labels a row.

    Returns:
        A dict:

        - `scores`: dict of score to a dict: `a` and `b`, the mean scores of the runs; `runs`, two lists with the score
          of each run; `difference`, a - b; `interval`, `[low, high]` of the difference, percentiles of the resamples;
          `p_value`, two-sided: twice the share of resamples in which the difference has the other sign or is 0, at
          least 2 / (resamples + 1); `real`, whether the interval leaves out 0; and `better`, `"a"` or `"b"` where it
          is real, else `None`. (Of `log_loss`, `brier` and `ece` the smaller one is better.)
        - `mcnemar`: a list with a dict for each pair of runs, in their order; empty if the sides differ in number.
          `only_a` and `only_b` are the rows that just one gets right (with several labels: in every label); `p_value`
          is that of McNemar's test, whether the two are right equally often: exact below 25 such rows, else by
          chi-squared with the correction for continuity, as `method` says.
        - `labels`, `rows`.

        What is not defined, such as the `auc` of rows of one class, is `None`.

    Raises:
        ValueError: for an unknown score, sides of other rows or classes, and as `classification_scores`.

    Example:

    >>> y, a = [0, 1] * 20, [[0.9, 0.1], [0.2, 0.8]] * 20
    >>> b = a[:20] + [[0.4, 0.6], [0.2, 0.8]] * 10
    >>> found = compare_scores(y, a, b, [0, 1], scores="accuracy")
    >>> found["scores"]["accuracy"]["difference"], found["scores"]["accuracy"]["better"]
    (0.25, 'a')
    >>> found["mcnemar"][0]["only_a"], round(found["mcnemar"][0]["p_value"], 4)
    (10, 0.002)
    """
    level = _weighted.check_level(intervals)
    sides: list[list[Any]] = []
    for name, side in (("a", a), ("b", b)):
        runs = _runs(name, side)
        found = []
        for each in runs:
            truth, probabilities, names = _classification.read(y_true, each, labels)
            least = _labels.thresholds(threshold, names, getattr(each, "dtype", None))
            found.append(_weighted.Weighted(truth, probabilities, threshold=least))
        sides.append(found)
    first = sides[0][0]
    wanted = _names(scores, first.names, [name for name in _DEFAULT if name in first.names])

    def of_counts(counts):
        return [np.stack([np.stack(list(run(counts, wanted).values())) for run in side]) for side in sides]

    found = _bootstrap(of_counts, first.rows, [len(side) for side in sides], wanted, level, resamples, seed)
    pairs = zip(*sides, strict=True) if len(sides[0]) == len(sides[1]) else ()
    mcnemar = [_mcnemar(one.right, other.right) for one, other in pairs]
    return {"scores": found, "mcnemar": mcnemar, "labels": names, "rows": first.rows}


def _runs(name, side):
    """Returns the probabilities of one side as a list of arrays, one a run."""
    if isinstance(side, (list, tuple)) and side and all(np.ndim(each) == 2 for each in side):
        return list(side)
    side = np.asarray(side)
    if side.ndim == 3 and len(side):
        return list(side)
    if side.ndim != 2:
        raise _check.invalid(name, "an array (rows, classes), or several runs of it", side.shape)
    return [side]


def _names(scores, known, default):
    if scores is None:
        return default
    if isinstance(scores, str):
        return list(known) if scores == "all" else [_check.one_of("scores", scores, known, "Or 'all'.")]
    if not isinstance(scores, (list, tuple)) or not scores:
        raise _check.invalid("scores", "the name of a score, several, or 'all'", scores)
    return list(dict.fromkeys(_check.one_of("scores", name, known) for name in scores))


def _bootstrap(of_counts, rows, runs, wanted, level, resamples, seed):
    """Returns the dict `scores` of `compare_scores`.

    Args:
        of_counts: function of int counts `(rows, n)` to two arrays `(runs, scores, n)`.
        rows: int.
        runs: the numbers of runs of the two sides.
        wanted: list of the names of the scores.
        level: float.
        resamples: int.
        seed: int.
    """
    resamples = _check.integer("resamples", resamples, minimum=2)
    _check.integer("seed", seed, minimum=0)
    values = [each[..., 0] for each in of_counts(np.ones((rows, 1), "int64"))]
    # Other random numbers than those of the rows, so that one run draws the same rows as several.
    rng, draws = np.random.default_rng([seed, 1]), []
    for counts in _weighted.resampled(rows, resamples, seed):
        means = []
        for found, count in zip(of_counts(counts), runs, strict=True):
            drawn = rng.integers(count, size=(count, 1, counts.shape[1]))
            means.append(np.take_along_axis(found, drawn, axis=0).mean(axis=0))
        draws.append(means[0] - means[1])
    differences = np.concatenate(draws, axis=1)
    return {
        name: _verdict(name, [value[:, k] for value in values], differences[k], level) for k, name in enumerate(wanted)
    }


def _verdict(name, values, draws, level):
    one, other = (float(value.mean()) for value in values)
    interval = _weighted.interval(draws, level)
    draws = draws[~np.isnan(draws)]
    found: dict[str, Any] = {
        "a": _weighted.plain(one),
        "b": _weighted.plain(other),
        "runs": [[_weighted.plain(each) for each in value] for value in values],
        "difference": _weighted.plain(one - other),
        "interval": interval,
        "p_value": None,
        "real": False,
        "better": None,
    }
    if interval is not None:
        tail = min(np.sum(draws <= 0), np.sum(draws >= 0))
        found["p_value"] = float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))
        found["real"] = bool(interval[0] > 0 or interval[1] < 0)
    if found["real"]:
        found["better"] = "a" if (interval[0] > 0) != (name in _weighted.LOSSES) else "b"
    return found


def _mcnemar(right, other):
    """McNemar's test of two bool arrays `(rows,)`."""
    only_a, only_b = int(np.sum(right & ~other)), int(np.sum(other & ~right))
    differing = only_a + only_b
    if differing < _FEW:
        p_value = min(1.0, 2 * float(scipy.stats.binom.cdf(min(only_a, only_b), differing, 0.5)))
        return {"only_a": only_a, "only_b": only_b, "p_value": p_value, "method": "exact"}
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / differing
    p_value = float(scipy.stats.chi2.sf(statistic, 1))
    return {"only_a": only_a, "only_b": only_b, "p_value": p_value, "method": "chi2"}


def _compare_queries(a, b, scores, intervals, resamples, seed):
    """Compares the scores of searches query by query."""
    level = _weighted.check_level(intervals)
    first = a[0][_PER_QUERY]
    for name, side in (("a", a), ("b", b)):
        for each in side:
            if each[_PER_QUERY]["query"] != first["query"]:
                raise _check.invalid(name, "results of the same queries in the same order", each[_PER_QUERY]["query"])
    known = [name for name in first if name != "query" and all(name in each[_PER_QUERY] for each in [*a, *b])]
    wanted, queries = _names(scores, known, known), len(first["query"])
    sides = [np.array([[each[_PER_QUERY][name] for name in wanted] for each in side], "float64") for side in (a, b)]

    def of_counts(counts):
        return [side @ counts / counts.sum(axis=0) for side in sides]

    found = _bootstrap(of_counts, queries, [len(a), len(b)], wanted, level, resamples, seed)
    return {"scores": found, "queries": queries}
