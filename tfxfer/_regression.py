"""Linear models on fixed features, with an L2 penalty chosen by cross-validation."""

import dataclasses

import numpy as np
import scipy.optimize
import scipy.special
import threadpoolctl

# Strongest first: few rows need a strong penalty, and each fit starts from the previous solution.
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
FOLDS = 5
# The most rows used to choose the penalty; with more rows, the best penalty on a sum of losses changes little.
_MOST_TO_CHOOSE = 2000
# Relative decrease of the objective at which a fit ends: for the choice among penalties, and for the final fit.
_ROUGH, _FINE = 1e-5, 1e-7
# A loss that has risen by this factor above the best one will not fall again.
_RISEN = 1.1
# On the bias, which is practically unpenalized but stays finite for a class without rows.
_BIAS_PENALTY = 1e-3


@dataclasses.dataclass(frozen=True)
class Fit:
    """A linear model of features.

    Args:
        kernel: float array `(features, outputs)`.
        bias: float array `(outputs,)`.
        penalty: float. The chosen L2 penalty.
        losses: dict of penalty to the mean loss of a held-out row; empty if there was nothing to choose.
        rows: int array: the rows that were held out in turn; `None` if there was nothing to choose.
        held_out: array `(len(rows), outputs)`: the outputs for these rows with the chosen penalty; `None` if there was
            nothing to choose.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    losses: dict
    rows: np.ndarray | None
    held_out: np.ndarray | None


def fit(features, targets, weights=None, *, kind, penalties=PENALTIES, folds=FOLDS, use_bias=True):
    """Fits a linear model of features, with the penalty that predicts held-out rows best.

    It minimizes the sum over rows of weight times loss, plus penalty / 2 times the squared kernel, on features that are
    centered (with a bias) and scaled, all by one number, to a mean square length of 1. The bias is practically
    unpenalized.

    Args:
        features: float array `(rows, features)`.
        targets: float array `(rows, outputs)`: shares of classes, which sum to 1 per row; shares of labels; numbers.
        weights: float array `(rows,)`.
        kind: `"classes"`, with a softmax; `"labels"`, with a sigmoid for each; or `"numbers"`, with half the squared
            error.
        penalties: floats to choose from.
        folds: int. The number of parts of the rows that are held out in turn.
        use_bias: bool. Whether the model has a bias.

    Returns:
        `Fit`.
    """
    # Products this small are slower on several cores, and much slower if other processes use the cores.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        return _fit(features, targets, weights, kind, penalties, folds, use_bias)


def out_of_fold(features, targets, groups, *, kind, folds=FOLDS, seed=0):
    """Returns the outputs of linear models for held-out rows, float64 `(rows, outputs)`, and the penalty.

    The rows of a group are held out together. The penalty is the one that `fit` would choose.

    Args:
        features: float array `(rows, features)`.
        targets: float array `(rows, outputs)`; see `fit`.
        groups: int array `(rows,)`. Rows with the same text have the same number.
        kind: `"classes"` or `"labels"`; see `fit`.
        folds: int. The number of parts that are held out in turn, stratified by class.
        seed: int. The seed of the split.
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        targets = np.asarray(targets, "float64")
        problem, _, _ = _problem(features, targets, np.ones(len(features)), kind, True)
        penalty, _, _, _ = _chosen(problem, targets, kind, PENALTIES, FOLDS)
        _, first = np.unique(groups, return_index=True)
        order = np.random.default_rng(seed).permutation(first)
        if kind == "classes":
            order = order[np.argsort(targets.argmax(axis=1)[order], kind="stable")]
        outputs, every = np.zeros(targets.shape), np.arange(len(targets))
        for k in range(folds):
            part = np.flatnonzero(np.isin(groups, groups[order[k::folds]]))
            if len(part):
                solution = problem.solver(np.setdiff1d(every, part), _ROUGH)(penalty)
                outputs[part] = problem.outputs(part, solution)
    return outputs, penalty


def _fit(features, targets, weights, kind, penalties, folds, use_bias):
    targets = np.asarray(targets, "float64")
    weights = np.ones(len(features)) if weights is None else np.asarray(weights, "float64")
    problem, mean, scale = _problem(features, targets, weights, kind, use_bias)
    penalty, losses, rows, held_out = _chosen(problem, targets, kind, penalties, folds)
    solution = problem.solver(np.arange(len(features)), _FINE)(penalty)
    kernel, bias = solution[:-1] / scale, solution[-1]
    bias = bias - mean @ kernel if use_bias else bias
    return Fit(kernel, bias, penalty, losses, rows, held_out)


def _problem(features, targets, weights, kind, use_bias):
    """Returns the problem with centered and scaled rows, the mean and the scale."""
    mean = np.average(features, axis=0, weights=weights) if use_bias and weights.any() else 0.0
    centred = np.asarray(features, "float64") - mean
    scale = np.sqrt(np.mean(np.sum(centred**2, axis=1))) or 1.0
    return _Problem((centred / scale).astype("float32"), targets, weights, kind, use_bias), mean, scale


def _chosen(problem, targets, kind, penalties, folds):
    """Returns the penalty that predicts held-out rows best, with `losses`, `rows` and `held_out` of `Fit`."""
    penalties = sorted(penalties, reverse=True)
    parts = _folds(targets if kind == "classes" else None, len(targets), folds)
    rows = np.sort(np.concatenate(parts)) if parts else np.arange(0)
    losses, outputs = {}, {}
    if len(penalties) > 1 and len(parts) > 1:
        solvers = [problem.solver(np.setdiff1d(rows, part), _ROUGH) for part in parts]
        for penalty in penalties:
            outputs[penalty] = found = np.zeros(targets.shape)
            for part, solve in zip(parts, solvers, strict=True):
                found[part] = problem.outputs(part, solve(penalty))
            losses[penalty] = problem.mean_loss(rows, found[rows])
            if losses[penalty] > _RISEN * min(losses.values()):
                break
        penalty = min(losses, key=losses.__getitem__)
        return penalty, losses, rows, outputs[penalty][rows]
    return (penalties[0] if len(penalties) == 1 else 1.0), losses, None, None


class _Problem:
    """Rows, and solvers for linear models of them."""

    def __init__(self, features, targets, weights, kind, use_bias):
        self._features, self._targets, self._weights = features, targets, weights
        self._kind, self._has_bias = kind, use_bias

    def outputs(self, rows, solution):
        return self._features[rows] @ solution[:-1] + solution[-1]

    def mean_loss(self, rows, outputs):
        weights = self._weights[rows]
        return float(_loss(self._kind, outputs, self._targets[rows], weights)[0] / max(weights.sum(), 1e-12))

    def solver(self, rows, tolerance):
        """Returns the function from a penalty to the kernel, with the bias as its last row, for some of the rows."""
        features, targets, weights = self._features[rows], self._targets[rows], self._weights[rows]
        # Solutions are in the span of the rows: with fewer rows than features, use coordinates in that span.
        basis = None
        if len(rows) < features.shape[1]:
            basis, _ = np.linalg.qr(features.T)
            features = features @ basis
        if self._kind == "numbers":
            find = self._closed(features, targets, weights)
        else:
            find = self._iterated(features, targets, weights, tolerance)

        def solve(penalty):
            found = find(penalty)
            return found if basis is None else np.concatenate([basis @ found[:-1], found[-1:]])

        return solve

    def _closed(self, features, targets, weights):
        total = max(weights.sum(), 1e-12)
        features = features.astype("float64")
        middle = weights @ features / total if self._has_bias else np.zeros(features.shape[1])
        level = weights @ targets / total if self._has_bias else np.zeros(targets.shape[1])
        centred = features - middle
        values, vectors = np.linalg.eigh(centred.T @ (weights[:, None] * centred))
        moments = vectors.T @ (centred.T @ (weights[:, None] * (targets - level)))

        def find(penalty):
            """Solves for one penalty in the basis of the eigenvectors."""
            kernel = vectors @ (moments / (np.maximum(values, 0.0) + penalty)[:, None])
            return np.concatenate([kernel, (level - middle @ kernel)[None]])

        return find

    def _iterated(self, features, targets, weights, tolerance):
        shape = (features.shape[1] + 1, targets.shape[1])
        last = np.zeros(shape)

        def find(penalty):
            """Solves for one penalty, starting from the previous solution."""
            nonlocal last

            def objective(flat):
                solution = flat.reshape(shape)
                outputs = features @ solution[:-1].astype("float32") + solution[-1]
                loss, slopes = _loss(self._kind, outputs, targets, weights)
                gradient = np.empty(shape)
                gradient[:-1] = features.T @ slopes.astype("float32") + penalty * solution[:-1]
                gradient[-1] = slopes.sum(axis=0) + _BIAS_PENALTY * solution[-1] if self._has_bias else 0.0
                squares = penalty * np.sum(solution[:-1] ** 2) + _BIAS_PENALTY * np.sum(solution[-1] ** 2)
                return loss + squares / 2, gradient.ravel()

            options = {"maxiter": 500, "ftol": tolerance, "gtol": 1e-5 * max(weights.sum(), 1e-12)}
            found = scipy.optimize.minimize(objective, last.ravel(), jac=True, method="L-BFGS-B", options=options)
            last = found.x.reshape(shape)
            return last

        return find


def _loss(kind, outputs, targets, weights):
    """Returns the weighted sum of losses and its derivative with respect to each output."""
    if kind == "numbers":
        slopes = outputs - targets
        losses = 0.5 * slopes**2
    elif kind == "labels":
        losses = np.logaddexp(0.0, outputs) - targets * outputs
        slopes = scipy.special.expit(outputs) - targets
    else:
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        shares = np.exp(shifted)
        totals = shares.sum(axis=1, keepdims=True)
        losses = targets * (np.log(totals) - shifted)
        slopes = shares / totals - targets
    return float(weights @ losses.sum(axis=1)), slopes * weights[:, None]


def _folds(classes, count, folds):
    """Splits the rows, or a sample of many rows, into parts stratified by class; always the same parts."""
    folds = min(folds, count)
    if folds < 2:
        return []
    order = np.random.default_rng(0).permutation(count)[:_MOST_TO_CHOOSE]
    if classes is not None:
        order = order[np.argsort(classes.argmax(axis=1)[order], kind="stable")]
    return [np.sort(order[i::folds]) for i in range(folds)]
