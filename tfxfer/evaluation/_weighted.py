"""Scores of a classifier as functions of the weight of each row, for the bootstrap."""

import numpy as np
import scipy.sparse

from tfxfer import _check

# Scores over all rows, and per class.
SCORES = ("accuracy", "macro_f1", "micro_f1", "auc", "average_precision", "log_loss", "brier", "ece")
PER_CLASS = ("precision", "recall", "f1", "auc", "average_precision")
# For these, lower is better.
LOSSES = ("log_loss", "brier", "ece")
# The lowest probability in a logarithm, as in scikit-learn for float64.
EPSILON = np.finfo("float64").eps
# Number of counts held at a time: 32 MB as float64.
_CELLS = 4_000_000
# Tolerance for the sum of a row's probabilities: bfloat16 has two and a half digits.
_SUM = 0.02


def probabilities_of(argument, probabilities, *, several=None):
    """Returns probabilities as float64 `(rows, classes)`; raises if they are invalid.

    Args:
        argument: string. The caller's name for the argument.
        probabilities: array.
        several: bool. Whether a row may have several labels; `None` if unknown. If `False`, rows must sum to 1.
    """
    probabilities = np.asarray(probabilities, "float64")
    if probabilities.ndim != 2 or not probabilities.shape[1]:
        raise _check.invalid(argument, "an array (rows, classes)", probabilities.shape)
    is_valid = (probabilities >= 0) & (probabilities <= 1 + 1e-6)  # false for NaN
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid.all(axis=1))[0])
        remedy = f"They are in row {row} (counting from 0). Apply a softmax to logits first."
        raise _check.invalid(argument, "numbers in [0, 1]", probabilities[row].tolist(), remedy)
    sums = probabilities.sum(axis=1)
    if several is False and (np.abs(sums - 1) > _SUM).any():
        row = int(np.argmax(np.abs(sums - 1) > _SUM))
        remedy = f"That is row {row} (counting from 0). For several labels per row, pass lists of labels or 0 and 1."
        raise _check.invalid(argument, "rows that sum to 1, for one label per row", float(sums[row]), remedy)
    return np.minimum(probabilities, 1.0)


class Weighted:
    """Scores of probabilities against the true labels, with an integer weight for each row.

    Args:
        y_true: int64 `(rows,)`, or 0 and 1 `(rows, classes)` for several labels per row.
        probabilities: float64 `(rows, classes)` in `[0, 1]`.
        threshold: float, or float array `(classes,)`. The lowest probability of a predicted label, for several labels
            per row.
        bins: int. Number of bins of the expected calibration error.

    Attributes:
        names: list of the available names in `SCORES`.
        given: the prediction for each row, in the form of `y_true`.
        right: bool `(rows,)`.
        confidence: float64 `(rows,)`: the probability of the predicted class; with several labels, of the least
            confident decision.
        losses: float64 `(rows,)`: the log loss of each row.
    """

    def __init__(self, y_true, probabilities, *, threshold=0.5, bins=15):
        self._several = y_true.ndim == 2
        self.rows, self._classes = probabilities.shape
        self.names = [name for name in SCORES if name != "micro_f1" or self._several]
        if self._several:
            truth, self.given = y_true, (probabilities >= threshold).astype("int64")
            self.right = (truth == self.given).all(axis=1)
            # The probability of the decision, which is below 0.5 for some decisions if the threshold is not 0.5.
            sure = np.where(self.given > 0, probabilities, 1 - probabilities)
            self.confidence = sure.min(axis=1)
            chosen = np.where(truth > 0, probabilities, 1 - probabilities)
            self.losses = -np.log(np.maximum(chosen, EPSILON)).mean(axis=1)
            self._briers = np.square(probabilities - truth).mean(axis=1)
            given = self.given
            sure, often = probabilities, truth
        else:
            places, self.given = np.arange(self.rows), probabilities.argmax(axis=1)
            truth, given = np.zeros((2, *probabilities.shape), "int8")
            truth[places, y_true], given[places, self.given] = 1, 1
            self.right = y_true == self.given
            self.confidence = probabilities[places, self.given]
            self.losses = -np.log(np.maximum(probabilities[places, y_true], EPSILON))
            self._briers = np.square(probabilities - truth).sum(axis=1)
            sure, often = self.confidence[:, None], self.right[:, None]
        self._truth, self._probabilities = truth, probabilities
        self._cells = [scipy.sparse.csr_matrix(part.T, dtype="float64") for part in (truth * given, truth, given)]
        self._gaps = _gaps(sure, np.asarray(often, "float64"), bins)
        self._decisions = sure.shape[1]
        self._ranks = None

    def __call__(self, counts, names):
        """Returns the scores of weighted rows, for several sets of weights at once.

        Args:
            counts: int array `(rows, n)`, each column a set of weights with a sum above 0.
            names: names out of `self.names`, or `("class", name)` for one of `PER_CLASS`.

        Returns:
            A dict of name to a float64 array: `(n,)`, or `(classes, n)` for scores per class. Undefined values are NaN:
            the area of a class that has no rows, or all of them.
        """
        counts, total = np.asarray(counts), counts.sum(axis=0)
        found = {}
        if {"macro_f1", "micro_f1", *(("class", name) for name in PER_CLASS[:3])} & set(names):
            found |= self._of_decisions(counts)
        if {"auc", "average_precision", ("class", "auc"), ("class", "average_precision")} & set(names):
            found |= self._of_ranks(counts, total)
        means = {"accuracy": self.right, "log_loss": self.losses, "brier": self._briers}
        asked = [name for name in means if name in names]
        if asked:
            sums = np.stack([means[name] for name in asked]).astype("float64") @ counts
            found |= dict(zip(asked, sums / total, strict=True))
        if "ece" in names:
            found["ece"] = np.abs(self._gaps @ counts).sum(axis=0) / (total * self._decisions)
        return {name: found[name] for name in names}

    def _of_decisions(self, counts):
        hits, support, given = (cells @ counts for cells in self._cells)
        f1 = _ratio(2 * hits, support + given)
        is_present = support + given > 0
        return {
            ("class", "precision"): _ratio(hits, given),
            ("class", "recall"): _ratio(hits, support),
            ("class", "f1"): f1,
            "macro_f1": _ratio(f1.sum(axis=0), is_present.sum(axis=0)),
            "micro_f1": _ratio(2 * hits.sum(axis=0), (support + given).sum(axis=0)),
        }

    def _of_ranks(self, counts, total):
        """Returns the areas under the curves of each class; ties count half, and precision is taken at their end."""
        if self._ranks is None:
            self._ranks = [_Ranks(self._probabilities[:, k], self._truth[:, k] > 0) for k in range(self._classes)]
        areas, precisions = np.full((2, self._classes, counts.shape[1]), np.nan)
        for k, ranks in enumerate(self._ranks):
            areas[k], precisions[k] = ranks(counts, total)
        found = {("class", "auc"): areas, ("class", "average_precision"): precisions}
        return {**found, "auc": _mean_defined(areas), "average_precision": _mean_defined(precisions)}


class _Ranks:
    """The two areas of one class, computed from the rows sorted by score."""

    def __init__(self, scores, is_positive):
        self._order = np.argsort(scores, kind="stable")
        scores, is_positive = scores[self._order], is_positive[self._order]
        positions = np.flatnonzero(is_positive)
        self._positives = self._order[positions]
        # The rows with the same score as a positive one: [start, end).
        self._start = np.searchsorted(scores, scores[positions], side="left")
        self._end = np.searchsorted(scores, scores[positions], side="right")
        self._before = np.searchsorted(positions, self._start)

    def __call__(self, counts, total):
        if not len(self._positives):
            return np.full((2, counts.shape[1]), np.nan)
        until = np.zeros((self._order.size + 1, counts.shape[1]), "int64")
        np.cumsum(counts[self._order], axis=0, out=until[1:])
        own = counts[self._positives].astype("float64")
        positives = own.sum(axis=0)
        below, through = until[self._start], until[self._end]
        # Pairs of two positives count half of their square, regardless of their order.
        wins = (own * (below + through)).sum(axis=0) / 2 - positives**2 / 2
        at_least = np.zeros((len(own) + 1, counts.shape[1]))
        np.cumsum(own, axis=0, out=at_least[1:])
        precision = (positives - at_least[self._before]) / np.maximum(total - below, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wins / (positives * (total - positives)), (own * precision).sum(axis=0) / positives


def _ratio(above, below):
    """The quotient, 0 where it is undefined."""
    return above / np.maximum(below, 1) * (below > 0)


def _mean_defined(values):
    """The mean over the first axis without NaN; NaN if all are."""
    is_defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_defined, values, 0.0).sum(axis=0) / is_defined.sum(axis=0)


def places(confidence, count):
    """Returns the bin index of each confidence, for `count` bins `(lower, upper]` of equal width."""
    edges = np.linspace(0, 1, count + 1)
    # A confidence exactly on an edge belongs to the bin below, regardless of the rounding of the edges.
    return np.clip(np.searchsorted(edges[1:-1], confidence, side="left"), 0, count - 1)


def _gaps(sure, often, bins):
    """The sparse matrix `(bins, rows)` of confidence minus correctness, summed over a row's decisions in a bin."""
    rows = np.repeat(np.arange(len(sure)), sure.shape[1])
    where = places(sure.ravel(), bins)
    return scipy.sparse.csr_matrix(((sure - often).ravel(), (where, rows)), shape=(bins, len(sure)))


def resampled(rows, resamples, seed):
    """Yields how often each row is drawn, int32 `(rows, some of the resamples)`; chunks do not affect the result."""
    rng, size = np.random.default_rng(seed), max(1, _CELLS // rows)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = np.stack([np.bincount(rng.integers(rows, size=rows), minlength=rows) for _ in range(count)])
        yield np.ascontiguousarray(drawn.T.astype("int32"))


def interval(draws, level):
    """Returns [low, high] over the last axis: quantiles with linear interpolation; `None` if nothing is defined."""
    draws = np.asarray(draws, "float64")
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    return [float(value) for value in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])]


def of_means(found, intervals, resamples, seed):
    """Returns the interval of the mean of each score over resamples of the rows, a dict of score to [low, high].

    Args:
        found: dict of score to a float array `(rows,)`.
        intervals: float. The fraction of resamples inside an interval.
        resamples: int. Number of resamples.
        seed: int. Seed of the resampling.
    """
    level = check_level(intervals)
    resamples = _check.integer("resamples", resamples, minimum=2)
    values = np.stack(list(found.values()))
    rows, seed = values.shape[1], _check.integer("seed", seed, minimum=0)
    draws = np.concatenate([values @ counts / rows for counts in resampled(rows, resamples, seed)], axis=1)
    return {name: interval(draws[i], level) for i, name in enumerate(found)}


def check_level(intervals):
    """Returns the fraction of resamples inside an interval; raises unless it is between 0 and 1."""
    level = _check.number("intervals", intervals, above=0.0)
    if level >= 1:
        raise _check.invalid("intervals", "a number > 0 and < 1, for example 0.95", intervals)
    return level


def plain(value):
    """Returns a number as a float, or `None` if it is undefined."""
    return None if np.isnan(value) else float(value)
