"""Whether one model is better than another, or the difference is due to chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from tfxfer import _check, data
from tfxfer.evaluation import _classification, _labels, _weighted

# McNemar's test is exact if fewer rows than this are right on only one side.
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
    """Tests whether the difference between two classifiers, or two searches, is real.

    Both sides are scored on the same rows and on the same resamples of these rows (a paired bootstrap). What is hard
    for both cancels out, so the interval of the difference is narrower than the intervals of the two scores suggest.

    The rows are one source of chance, the training seeds are another. To account for both, pass a list of runs for
    each side: their mean scores are compared, and each resample draws runs as well as rows. (With few runs, resampling
    underestimates their spread: with three runs, by about a fifth. The scores of all runs are returned.)

    Args:
        a: a `models.TextClassifier` or another model with `classify`; or the result of `evaluation.classification` or
            `classification_scores` with `rows=True`; or, for searches, the result of `retrieval`, `retrieval_scores`,
            `run_scores` or `beir` with `rows=True`; or a list of several of one kind, the runs.
        b: the other side, of the same kind.
        texts: labeled rows, as in `classification`; required for models.
        y: the labels of a list of strings.
        scores: name, list of names, or `"all"`: the scores to compare. For classifiers, the single-number scores of
            `classification_scores`; by default accuracy, macro-F1 and, with several labels per row, micro-F1. For
            searches, any of their scores; by default all. Of twenty scores, one differs at 0.95 by chance: decide
            beforehand which one counts.
        intervals: float between 0 and 1: the fraction of resamples inside an interval.
        resamples: int. Number of resamples.
        seed: int. Seed of the resampling.
        batch_size: int. Number of texts encoded at a time.
        threshold: as in `classification_scores`, for several labels per row. Defaults to that of the results and
            models, or 0.5.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `compare_scores`; for searches with `queries` instead of `rows`, and without `mcnemar`.

    Raises:
        ValueError: if models come without rows; if results differ in rows, labels or thresholds or lack `rows=True`;
            if a score is unknown; or as in `classification`.

    Example:

    ```python
    found = tx.evaluation.compare(tuned, probe, test["text"], test["label"])
    found["scores"]["macro_f1"]["difference"], found["scores"]["macro_f1"]["interval"]
    found["scores"]["macro_f1"]["better"]  # "a", "b", or None: no real difference
    ```

    References:
        - [Berg-Kirkpatrick et al., 2012](https://aclanthology.org/D12-1091/), the paired bootstrap for text tasks
        - [McNemar, 1947](https://doi.org/10.1007/BF02295996)
        - [Dietterich, 1998](https://doi.org/10.1162/089976698300017197), error rates of such tests
        - [Bouthillier et al., 2021](https://arxiv.org/abs/2103.03098), runs and rows as sources of variance
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
        raise _check.invalid("texts", "labeled rows to compare the models on", texts)
    if threshold is None:
        own = [each["threshold"] for each in every if isinstance(each, dict) and "threshold" in each]
        own += [each.threshold for each in every if getattr(each, "multi_label", False)]
        if any(each != own[0] for each in own):
            raise _check.invalid("threshold", "one threshold, because those of the results and models differ", own)
        threshold = own[0] if own else 0.5
    found: Any = []
    for name, side in zip("ab", sides, strict=True):
        found.append([_result(name, each, texts, y, batch_size, threshold, verbose) for each in side])
    first = found[0][0]
    for name, side in zip("ab", found, strict=True):
        for each in side:
            if each["labels"] != first["labels"]:
                remedy = "Compare models with the same labels in the same order."
                raise _check.invalid(name, f"results with the labels {first['labels']}", each["labels"], remedy)
            if each["per_row"]["label"] != first["per_row"]["label"]:
                raise _check.invalid(name, "results of the same rows in the same order", name)
    one, other = ([each["per_row"]["probabilities"] for each in side] for side in found)
    return compare_scores(first["per_row"]["label"], one, other, first["labels"], threshold=threshold, **options)


def _result(name, each, texts, y, batch_size, threshold, verbose):
    """Returns the labels and per-row results of a model or of its scores."""
    if isinstance(each, dict) and _PER_ROW in each:
        return each
    if not hasattr(each, "classify"):
        remedy = "Aggregated scores cannot be compared row by row: compute them with `rows=True`."
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
    """Tests whether the difference between two classifiers is real, given their probabilities.

    Args:
        y_true: the labels of the rows, as in `classification_scores`.
        a: float array `(rows, classes)`; or several runs, `(runs, rows, classes)` or a list.
        b: the other side, in the same form. Its number of runs may differ.
        labels: sequence of class names, in column order.
        scores: see `compare`.
        intervals: float between 0 and 1; see `compare`.
        resamples: int. Number of resamples.
        seed: int. Seed of the resampling.
        threshold: as in `classification_scores`, for several labels per row.

    Returns:
        A dict:

        - `scores`: dict of score to a dict: `a` and `b`, the mean scores of the runs; `runs`, two lists with the score
          of each run; `difference`, a - b; `interval`, `[low, high]` of the difference, percentiles of the resamples;
          `p_value`, two-sided: twice the fraction of resamples in which the difference has the opposite sign or is 0,
          at least 2 / (resamples + 1); `real`, whether the interval excludes 0; and `better`, `"a"` or `"b"` if the
          difference is real, else `None`. (Lower is better for `log_loss`, `brier` and `ece`.)
        - `mcnemar`: list with a dict for each pair of runs, in order; empty if the sides have different numbers of
          runs. `only_a` and `only_b` count the rows that only one side gets right (with several labels: in every
          label). `p_value` is that of McNemar's test that both are right equally often. `method` is `"exact"` for
          fewer than 25 such rows, else `"chi2"`, with continuity correction.
        - `labels`, `rows`.

        An undefined value, such as the `auc` of rows of a single class, is `None`.

    Raises:
        ValueError: if a score is unknown, if the sides differ in rows or classes, or as in `classification_scores`.

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
    """Returns the probabilities of one side as a list of arrays, one per run."""
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
        raise _check.invalid("scores", "the name of a score, a list of names, or 'all'", scores)
    return list(dict.fromkeys(_check.one_of("scores", name, known) for name in scores))


def _bootstrap(of_counts, rows, runs, wanted, level, resamples, seed):
    """Computes the dict `scores` of `compare_scores`.

    Args:
        of_counts: function that maps int counts `(rows, n)` to two arrays `(runs, scores, n)`.
        rows: int.
        runs: the numbers of runs of the two sides.
        wanted: list of score names.
        level: float.
        resamples: int.
        seed: int.
    """
    resamples = _check.integer("resamples", resamples, minimum=2)
    _check.integer("seed", seed, minimum=0)
    values = [each[..., 0] for each in of_counts(np.ones((rows, 1), "int64"))]
    # A separate generator from that of the rows, so that one run draws the same rows as several.
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
    """Compares the scores of searches, query by query."""
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
