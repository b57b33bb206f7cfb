"""Sets of labels that hold the right one as often as was asked for."""

import math
import warnings
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check
from tfxfer.decisions._part import Part, checked_classes

METHODS = ("lac", "aps", "raps")
# Thresholds are this much higher than the quantile: sums of probabilities near 1 differ by as much with the order of
# summation, and no set may depend on it. Sets only grow by it.
_SLACK = 2e-6


def conformal_scores(
    probabilities: Any, method: str = "lac", *, uniforms: Any = None, penalty: float = 0.01, free: int = 5
) -> Any:
    """Returns how strange each class would be for each row; smaller is more likely to be right.

    | method | score of class c with probability p_c |
    |---|---|
    | `"lac"` | 1 - p_c |
    | `"aps"` | sum of the probabilities from the largest down to p_c, it included |
    | `"raps"` | as `"aps"`, plus `penalty` for each rank of c beyond `free` |

    With `uniforms`, `"aps"` and `"raps"` subtract u p_c, u being the row's number: sets of the randomised form are
    smaller, and their coverage is exact instead of at least what was asked for. The deterministic form, without
    `uniforms`, gives the same set for a text each time.

    Args:
        probabilities: float `(rows, classes)`, which sum to 1 in a row.
        method: see the table.
        uniforms: float `(rows,)` in `[0, 1)`, drawn for each row; `None` for the deterministic form.
        penalty: float >= 0, for `"raps"`.
        free: int >= 0, for `"raps"`: ranks without a penalty.

    Returns:
        float32 `(rows, classes)`, in `keras.ops`. Of equal probabilities the lower class counts as the larger.

    Raises:
        ValueError: for another method, and uniforms with `"lac"`.

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
            raise _check.invalid("uniforms", 'None for "lac", which has no randomised form', uniforms)
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
    """Sets of labels that hold the right one in a stated share of rows.

    On n held-out rows, the score of each row's right class is taken (`conformal_scores`). The k-th smallest is the
    threshold, k = ceil((n + 1) * coverage), raised by 2e-6 against float rounding. The set of a row holds all classes
    with a score up to it. The right class is then in the set of a new row with a probability of at least `coverage`,
    whatever the model, as long as old and new rows are drawn alike. This holds over all rows, not for each text, and no
    longer when the texts change.

    | method | sets |
    |---|---|
    | `"lac"` | the smallest on average; empty where no class is likely |
    | `"aps"` | larger where a text is hard, smaller where it is easy |
    | `"raps"` | as `"aps"` without the long tail of many classes |

    These are the deterministic forms: a text gets the same set each time, here and in an export. with `"aps"` and
    `"raps"`, the set of a text that the model is very sure of may be empty, as its largest probability alone is beyond
    the threshold: `allow_empty=False` gives it its likeliest class. The randomised form is that with `uniforms`, in
    `fit` and `members`; a model does not take it.

    Args:
        method: see the table.
        coverage: float in `(0, 1)`. The share of rows whose set holds the right class. Defaults to 0.9.
        by_class: bool. Whether each class has a threshold of its own, of its own rows (Mondrian): the coverage then
            holds for each class, and sets grow. A class with fewer than coverage / (1 - coverage) rows is in every set;
            a warning names it.
        allow_empty: bool. Whether a set may be empty. `False` puts the likeliest class into an empty set, so that the
            coverage is higher than what was asked for. Defaults to `True`, for the stated coverage.
        penalty: float >= 0, for `"raps"`, see `conformal_scores`. Defaults to 0.01, as in the paper.
        free: int >= 0, likewise. Defaults to 5.

    Raises:
        ValueError: for another method, or a number out of range.

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
        """Returns the names of the arrays that have a number for each class."""
        return ("thresholds",) if self.by_class else ()

    def _scores(self, probabilities, uniforms):
        return conformal_scores(probabilities, self.method, uniforms=uniforms, penalty=self.penalty, free=self.free)

    def fit(self, probabilities: Any, targets: Any, *, uniforms: Any = None, labels: Any = None) -> Self:
        """Finds the thresholds on rows that neither the model nor its scaling was fitted on.

        Args:
            probabilities: float array `(rows, classes)`.
            targets: ints `(rows,)`, the index of each row's class.
            uniforms: float array `(rows,)` in `[0, 1)`, for the randomised form.
            labels: list of the class names, for warnings.

        Returns:
            The sets themselves.

        Raises:
            ValueError: for other shapes, and for fewer than coverage / (1 - coverage) rows, where each set would have
                to hold all classes.
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
                    "With fewer, every set would have to hold all classes.",
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
        """Returns which classes each set holds, bool `(rows, classes)`, for probabilities of that shape."""
        self._check_fitted()
        held = self._scores(probabilities, uniforms) <= self._arrays["thresholds"]
        if self.allow_empty:
            return held
        likeliest = ops.one_hot(ops.argmax(probabilities, axis=-1), held.shape[-1], dtype="bool")
        is_empty = ops.logical_not(ops.any(held, axis=-1, keepdims=True))
        return ops.logical_or(held, ops.logical_and(likeliest, is_empty))


def quantile(scores, coverage):
    """Returns the k-th smallest of n scores, k = ceil((n + 1) * coverage); infinity where k > n."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 of 10 is 9, whatever the rounding
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _least_rows(coverage):
    """The fewest rows that have a finite quantile."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)
