"""Conformal prediction: sets of labels that contain the right one with a given probability."""

import math
import warnings
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check
from tfxfer.decisions._part import Part, checked_classes

METHODS = ("lac", "aps", "raps")
# Added to the quantile: sums of probabilities near 1 differ by this much with the order of summation, and sets must not
# depend on that order. A higher threshold only makes sets larger.
_SLACK = 2e-6


def conformal_scores(
    probabilities: Any, method: str = "lac", *, uniforms: Any = None, penalty: float = 0.01, free: int = 5
) -> Any:
    """Computes the nonconformity score of each class for each row; smaller is more likely to be right.

    | method | score of class c with probability p_c |
    |---|---|
    | `"lac"` | 1 - p_c |
    | `"aps"` | sum of the probabilities from the largest down to and including p_c |
    | `"raps"` | like `"aps"`, plus `penalty` for each rank of c beyond `free` |

    With `uniforms`, `"aps"` and `"raps"` subtract u p_c, where u is the row's number. This randomized form yields
    smaller sets with exact coverage instead of at least the requested coverage. The deterministic form, without
    `uniforms`, always yields the same set for a text.

    Args:
        probabilities: float `(rows, classes)`; each row sums to 1.
        method: `"lac"` (default), `"aps"` or `"raps"`; see the table.
        uniforms: float `(rows,)` in `[0, 1)`, one random number per row; `None` for the deterministic form.
        penalty: float >= 0, for `"raps"`. Defaults to 0.01.
        free: int >= 0, for `"raps"`: number of ranks without a penalty. Defaults to 5.

    Returns:
        float32 tensor `(rows, classes)`. Among equal probabilities, the lower class ranks first.

    Raises:
        ValueError: if `method` is unknown, or if `uniforms` is passed with `"lac"`.

    Example:

    >>> scores = conformal_scores([[0.25, 0.5, 0.25]], "aps")
    >>> keras.ops.convert_to_numpy(scores).tolist()
    [[0.75, 0.5, 1.0]]

    References:
        - [Sadinle et al., 2019](https://arxiv.org/abs/1609.00451), LAC
        - [Romano et al., 2020](https://arxiv.org/abs/2006.02544), APS
        - [Angelopoulos et al., 2021](https://arxiv.org/abs/2009.14193), RAPS
    """
    _check.one_of("method", method, METHODS)
    probabilities = ops.cast(probabilities, "float32")
    if method == "lac":
        if uniforms is not None:
            raise _check.invalid("uniforms", 'None for "lac", which has no randomized form', uniforms)
        return 1.0 - probabilities
    order = ops.argsort(-probabilities, axis=-1)
    ranks = ops.argsort(order, axis=-1)
    cumulated = ops.cumsum(ops.take_along_axis(probabilities, order, axis=-1), axis=-1)
    scores = ops.take_along_axis(cumulated, ranks, axis=-1)
    if uniforms is not None:
        scores -= ops.expand_dims(ops.cast(uniforms, "float32"), -1) * probabilities
    if method == "raps":
        scores += penalty * ops.cast(ops.maximum(ranks + 1 - free, 0), "float32")
    return scores


@keras.saving.register_keras_serializable("tfxfer", name="decisions.ConformalSets")
class ConformalSets(Part):
    """Predicts sets of labels that contain the right one for a given fraction of rows.

    `fit` computes the scores (`conformal_scores`) of the right classes of n held-out rows. The threshold is the k-th
    smallest, k = ceil((n + 1) * coverage), plus 2e-6 against float rounding. The set of a row contains all classes
    with a score up to the threshold. The set of a new row contains the right class with a probability of at least
    `coverage`, for any model, provided that old and new rows come from the same distribution. The guarantee is an
    average over all rows, not for each text, and no longer holds when the distribution of texts changes.

    | method | sets |
    |---|---|
    | `"lac"` | the smallest on average; empty if no class is likely |
    | `"aps"` | larger for hard texts, smaller for easy ones |
    | `"raps"` | like `"aps"`, without the long tail of many classes |

    These are the deterministic forms: a text always gets the same set, here and in an export. With `"aps"` and
    `"raps"`, the set of a text may be empty if the model is very confident, because its largest probability alone
    exceeds the threshold; `allow_empty=False` then predicts the most probable class. For the randomized form, pass
    `uniforms` to `fit` and `members`; models do not support it.

    Args:
        method: `"lac"` (default), `"aps"` or `"raps"`; see the table.
        coverage: float in `(0, 1)`. The fraction of rows whose set contains the right class. Defaults to 0.9.
        by_class: bool. Whether each class has its own threshold, computed from its own rows (Mondrian). The coverage
            then holds for each class, and sets become larger. A class with fewer than coverage / (1 - coverage) rows
            is in every set, and a warning names it. Defaults to `False`.
        allow_empty: bool. Whether a set may be empty. With `False`, an empty set gets the most probable class, which
            makes the coverage higher than requested. Defaults to `True`, for the stated coverage.
        penalty: float >= 0, for `"raps"`; see `conformal_scores`. Defaults to 0.01, as in the paper.
        free: int >= 0, for `"raps"`; see `conformal_scores`. Defaults to 5.

    Raises:
        ValueError: if `method` is unknown, or if a number is out of range.

    Example:

    >>> sets = ConformalSets(coverage=0.75).fit(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), [0, 1, 1])
    >>> keras.ops.convert_to_numpy(sets.members([[0.5, 0.5], [0.95, 0.05]])).tolist()
    [[True, True], [True, False]]

    References:
        - [Vovk et al., 2005](https://doi.org/10.1007/b106715), split and Mondrian conformal prediction
        - [Sadinle et al., 2019](https://arxiv.org/abs/1609.00451), LAC, and its thresholds by class
        - [Romano et al., 2020](https://arxiv.org/abs/2006.02544), APS
        - [Angelopoulos et al., 2021](https://arxiv.org/abs/2009.14193), RAPS
    """

    _settings = ("method", "coverage", "by_class", "allow_empty", "penalty", "free")

    def __init__(
        self,
        method: str = "lac",
        *,
        coverage: float = 0.9,
        by_class: bool = False,
        allow_empty: bool = True,
        penalty: float = 0.01,
        free: int = 5,
    ) -> None:
        super().__init__()
        self.method = _check.one_of("method", method, METHODS)
        self.coverage = _check.number("coverage", coverage, above=0.0, maximum=1 - 1e-9)
        self.by_class = _check.instance("by_class", by_class, bool, "a bool")
        self.allow_empty = _check.instance("allow_empty", allow_empty, bool, "a bool")
        self.penalty = _check.number("penalty", penalty, minimum=0.0)
        self.free = _check.integer("free", free, minimum=0)

    def class_arrays(self) -> tuple[str, ...]:
        """Returns the names of the arrays with one number per class."""
        return ("thresholds",) if self.by_class else ()

    def _scores(self, probabilities, uniforms):
        return conformal_scores(probabilities, self.method, uniforms=uniforms, penalty=self.penalty, free=self.free)

    def fit(self, probabilities: Any, targets: Any, *, uniforms: Any = None, labels: Any = None) -> Self:
        """Computes the thresholds from rows that neither the model nor its scaling was fitted on.

        Args:
            probabilities: float array `(rows, classes)`; each row sums to 1.
            targets: int array `(rows,)`, the class index of each row.
            uniforms: float array `(rows,)` in `[0, 1)`, for the randomized form.
            labels: list of class names, for warnings.

        Returns:
            The fitted sets (`self`).

        Raises:
            ValueError: if shapes do not match, or if there are fewer than coverage / (1 - coverage) rows, so that
                every set would have to contain all classes.
        """
        probabilities = np.asarray(probabilities, "float32")
        if probabilities.ndim != 2 or not probabilities.size:
            expected = "an array (rows, classes), at least one row"
            raise _check.invalid("probabilities", expected, probabilities.shape)
        rows, classes = probabilities.shape
        targets = checked_classes(targets, rows, classes)
        scores = ops.convert_to_numpy(self._scores(probabilities, uniforms))[np.arange(rows), targets]
        if not self.by_class:
            threshold = quantile(scores, self.coverage)
            if not np.isfinite(threshold):
                raise _check.invalid(
                    "targets",
                    f"at least {_least_rows(self.coverage)} rows for a coverage of {self.coverage:g}",
                    rows,
                    "With fewer, every set would have to contain all classes.",
                )
            return self._fitted(thresholds=threshold + _SLACK)
        thresholds = np.array([quantile(scores[targets == each], self.coverage) for each in range(classes)])
        rare = np.flatnonzero(~np.isfinite(thresholds)).tolist()
        if rare:
            names = ", ".join(repr(each if labels is None else labels[each]) for each in rare)
            warnings.warn(
                f"Each set holds the classes {names}: they have fewer than {_least_rows(self.coverage)} of the rows, "
                f"which a coverage of {self.coverage:g} by class needs.",
                stacklevel=2,
            )
        return self._fitted(thresholds=thresholds + _SLACK)

    def members(self, probabilities: Any, *, uniforms: Any = None) -> Any:
        """Returns which classes each set contains.

        Args:
            probabilities: float `(rows, classes)`; each row sums to 1.
            uniforms: float `(rows,)` in `[0, 1)`, for the randomized form.

        Returns:
            bool tensor `(rows, classes)`.
        """
        self._check_fitted()
        held = self._scores(probabilities, uniforms) <= self._arrays["thresholds"]
        if self.allow_empty:
            return held
        likeliest = ops.one_hot(ops.argmax(probabilities, axis=-1), held.shape[-1], dtype="bool")
        is_empty = ops.logical_not(ops.any(held, axis=-1, keepdims=True))
        return ops.logical_or(held, ops.logical_and(likeliest, is_empty))


def quantile(scores, coverage):
    """Returns the k-th smallest of n scores, k = ceil((n + 1) * coverage); infinity if k > n."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 of 10 is 9, regardless of rounding
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _least_rows(coverage):
    """Returns the smallest number of rows with a finite quantile."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)
