"""Scores of a classifier as functions of how often each row counts: what a bootstrap asks for."""

import numpy as np
import scipy.sparse

from tfxfer import _check

# Scores of all rows, and of each class.
SCORES = ("accuracy", "macro_f1", "micro_f1", "auc", "average_precision", "log_loss", "brier", "ece")
PER_CLASS = ("precision", "recall", "f1", "auc", "average_precision")
# Of these the smaller one is the better.
LOSSES = ("log_loss", "brier", "ece")
# The least probability in a logarithm, as scikit-learn has it for float64.
EPSILON = np.finfo("float64").eps
# Counts that are held at a time: 32 MB as float64.
_CELLS = 4_000_000
# How far the probabilities of a row may be from a sum of 1: bfloat16 has two and a half digits.
_SUM = 0.02


def probabilities_of(argument, probabilities, *, several=None):
    """Returns probabilities as float64 `(rows, classes)`; raises where they are none.

    Args:
        argument: string. The caller's name for them.
        probabilities: array.
        several: bool. Whether a row may have several labels; `None` where it is not known. If not, rows sum to 1.
    """
    probabilities = np.asarray(probabilities, "float64")
    if probabilities.ndim != 2 or not probabilities.shape[1]:
        raise _check.invalid(argument, "an array (rows, classes)", probabilities.shape)
    is_valid = (probabilities >= 0) & (probabilities <= 1 + 1e-6)  # not of NaN
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid.all(axis=1))[0])
        remedy = f"They are in row {row} (counting from 0). Logits go through a softmax first."
        raise _check.invalid(argument, "numbers in [0, 1]", probabilities[row].tolist(), remedy)
    sums = probabilities.sum(axis=1)
    if several is False and (np.abs(sums - 1) > _SUM).any():
        row = int(np.argmax(np.abs(sums - 1) > _SUM))
        remedy = f"That is row {row} (counting from 0). For several labels a row, give lists of labels or 0 and 1."
        raise _check.invalid(argument, "rows that sum to 1, for one label a row", float(sums[row]), remedy)
    return np.minimum(probabilities, 1.0)


class Weighted:
    """Scores of probabilities against the truth, where each row counts a number of times.

    Args:
        y_true: int64 `(rows,)`, or 0 and 1 `(rows, classes)` for several labels a row.
        probabilities: float64 `(rows, classes)` in `[0, 1]`.
        threshold: float, or float array `(classes,)`. The least probability of a label that is given, for several
            labels a row.
        bins: int. Of the expected calibration error.

    Attributes:
        names: list of the names out of `SCORES` that there are.
        given: what is given to each row, in the form of `y_true`.
        right: bool `(rows,)`.
        confidence: float64 `(rows,)`: the probability of the class that is given; with several labels, of the decision
            that is least sure.
        losses: float64 `(rows,)`: the log loss of each row.
    """

    def __init__(self, y_true, probabilities, *, threshold=0.5, bins=15):
        self._several = y_true.ndim == 2
        self.rows, self._classes = probabilities.shape
        self.names = [name for name in SCORES if name != "micro_f1" or self._several]
        if self._several:
            truth, self.given = y_true, (probabilities >= threshold).astype("int64")
            self.right = (truth == self.given).all(axis=1)
            # Of the decision itself, which a threshold other than 0.5 may take against the odds.
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
        """Returns the scores of rows that count a number of times, for several such lists of numbers at once.

        Args:
            counts: int array `(rows, n)`, each column with a sum above 0.
            names: names out of `self.names`, or `("class", name)` for one of `PER_CLASS`.

        Returns:
            A dict of name to a float64 array: `(n,)`, or `(classes, n)` of the classes. What is not defined is NaN: the
            area of a class that has no rows, or all.
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
        """Areas under the curves of each class, ties counted half, and precision at the end of a tie."""
        if self._ranks is None:
            self._ranks = [_Ranks(self._probabilities[:, k], self._truth[:, k] > 0) for k in range(self._classes)]
        areas, precisions = np.full((2, self._classes, counts.shape[1]), np.nan)
        for k, ranks in enumerate(self._ranks):
            areas[k], precisions[k] = ranks(counts, total)
        found = {("class", "auc"): areas, ("class", "average_precision"): precisions}
        return {**found, "auc": _mean_defined(areas), "average_precision": _mean_defined(precisions)}


class _Ranks:
    """The two areas of one class, out of the rows in the order of their scores."""

    def __init__(self, scores, is_positive):
        self._order = np.argsort(scores, kind="stable")
        scores, is_positive = scores[self._order], is_positive[self._order]
        positions = np.flatnonzero(is_positive)
        self._positives = self._order[positions]
        # The rows of the same score as a positive one: [start, end).
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
        # Pairs of two positives are half of their square, whatever their order.
        wins = (own * (below + through)).sum(axis=0) / 2 - positives**2 / 2
        at_least = np.zeros((len(own) + 1, counts.shape[1]))
        np.cumsum(own, axis=0, out=at_least[1:])
        precision = (positives - at_least[self._before]) / np.maximum(total - below, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wins / (positives * (total - positives)), (own * precision).sum(axis=0) / positives


def _ratio(above, below):
    """The quotient, 0 where it is not defined."""
    return above / np.maximum(below, 1) * (below > 0)


def _mean_defined(values):
    """The mean over the first axis of what is not NaN; NaN where nothing is left."""
    is_defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_defined, values, 0.0).sum(axis=0) / is_defined.sum(axis=0)


def places(confidence, count):
    """Returns the number of the bin of each confidence, of `count` bins `(lower, upper]` of equal width."""
    edges = np.linspace(0, 1, count + 1)
    # A confidence that is just an edge belongs to the bin below, whatever the rounding of the edges.
    return np.clip(np.searchsorted(edges[1:-1], confidence, side="left"), 0, count - 1)


def _gaps(sure, often, bins):
    """The sparse matrix `(bins, rows)` of confidence minus what is right, summed over a row's decisions in a bin."""
    rows = np.repeat(np.arange(len(sure)), sure.shape[1])
    where = places(sure.ravel(), bins)
    return scipy.sparse.csr_matrix(((sure - often).ravel(), (where, rows)), shape=(bins, len(sure)))


def resampled(rows, resamples, seed):
    """Yields how often each row is drawn, int32 `(rows, some of the resamples)`; the same whatever the parts."""
    rng, size = np.random.default_rng(seed), max(1, _CELLS // rows)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = np.stack([np.bincount(rng.integers(rows, size=rows), minlength=rows) for _ in range(count)])
        yield np.ascontiguousarray(drawn.T.astype("int32"))


def interval(draws, level):
    """Returns [low, high] of the last axis: quantiles, linear between draws; `None` where nothing is defined."""
    draws = np.asarray(draws, "float64")
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    return [float(value) for value in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])]


def of_means(found, intervals, resamples, seed):
    """Returns the interval of the mean of each score over resamples of its rows, a dict of score to [low, high].

    Args:
        found: dict of score to a float array `(rows,)`.
        intervals: float. The share of resamples within an interval.
        resamples: int.
        seed: int.
    """
    level = check_level(intervals)
    resamples = _check.integer("resamples", resamples, minimum=2)
    values = np.stack(list(found.values()))
    rows, seed = values.shape[1], _check.integer("seed", seed, minimum=0)
    draws = np.concatenate([values @ counts / rows for counts in resampled(rows, resamples, seed)], axis=1)
    return {name: interval(draws[i], level) for i, name in enumerate(found)}


def check_level(intervals):
    """Returns the share of resamples within an interval; raises unless it lies between 0 and 1."""
    level = _check.number("intervals", intervals, above=0.0)
    if level >= 1:
        raise _check.invalid("intervals", "a number > 0 and < 1, such as 0.95", intervals)
    return level


def plain(value):
    """Returns a number as a float, or `None` for what is not defined."""
    return None if np.isnan(value) else float(value)
