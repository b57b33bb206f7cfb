"""Rejects texts that a classifier with one label per text should not answer."""

from typing import Any, Self

import keras
import numpy as np
import sklearn.covariance
import sklearn.linear_model
from keras import ops

from tfxfer import _check
from tfxfer.decisions._part import Part, checked_classes, checked_logits
from tfxfer.decisions._thresholds import between, cuts

METHODS = ("probability", "margin", "mahalanobis", "neighbours", "combined")
# Methods that measure the distance of a text from the training texts.
DISTANT = ("mahalanobis", "neighbours", "combined")
DEFAULT_KEEP = 0.95


@keras.saving.register_keras_serializable("tfxfer", name="decisions.Rejection")
class Rejection(Part):
    """Accepts rows whose score is at least a threshold and rejects the others.

    | method | score of a row, larger is safer |
    |---|---|
    | `"probability"` | the largest probability |
    | `"margin"` | the largest probability minus the second |
    | `"mahalanobis"` | minus the Mahalanobis distance of its features to the nearest class mean (shared covariance) |
    | `"neighbours"` | the cosine between its features and the k-th nearest training row of its most probable class |
    | `"combined"` | the log-odds of the largest probability plus that cosine, both standardized |

    The features are the inputs of the model's head. The covariance is shrunk toward a multiple of the identity (Ledoit
    and Wolf). At most `max_rows` training rows are kept, spread evenly over the classes. A class with fewer than k rows
    uses its farthest row, a class without rows the nearest of all rows. `"combined"` weights its two parts equally or,
    given out-of-scope rows, by a logistic regression that separates them from the others.

    `"combined"`, the default, is the best on average over other intents, other domains and other genres
    (`docs/decisions.md`). `"probability"` needs no training rows and is nearly as good if out-of-scope texts resemble
    the texts of the classes.

    One of three goals determines the threshold:

    | goal | threshold |
    |---|---|
    | `keep` | the highest that accepts this fraction of the rows with a label |
    | `coverage` | the highest that accepts this fraction of all rows, including out-of-scope rows |
    | `accuracy` | the lowest at which this fraction of the accepted rows is right; out-of-scope rows are wrong |

    Args:
        method: one of the methods in the table. Defaults to `"combined"`.
        keep: float in `(0, 1]`. Defaults to 0.95 if no other goal is given.
        coverage: float in `(0, 1]`.
        accuracy: float in `(0, 1]`.
        k: int. The rank of the nearest row that counts, for `"neighbours"` and `"combined"`. Defaults to 3.
        max_rows: int. Maximum number of training rows kept for these methods. Defaults to 4000: 6 MB for 384 features.
        seed: int. Seed of the choice of these rows.

    Raises:
        ValueError: if `method` is unknown, two goals are given, or a number is out of range.

    Example:

    >>> logits = np.array([[3.0, 0.0], [0.0, 2.0], [0.1, 0.0], [0.0, 0.2]])
    >>> rejection = Rejection("margin", accuracy=1.0).fit(logits, [0, 1, 1, 1])
    >>> keras.ops.convert_to_numpy(rejection.accepts(logits)).tolist()
    [True, True, False, True]

    References:
        - [Chow, 1970](https://doi.org/10.1109/TIT.1970.1054406), rejection by probability
        - [Hendrycks and Gimpel, 2017](https://arxiv.org/abs/1610.02136), out-of-scope detection by probability
        - [Lee et al., 2018](https://arxiv.org/abs/1807.03888), by Mahalanobis distance
        - [Sun et al., 2022](https://arxiv.org/abs/2204.06507), by nearest neighbors
        - [Ledoit and Wolf, 2004](https://doi.org/10.1016/S0047-259X(03)00096-4), the covariance
    """

    _settings = ("method", "keep", "coverage", "accuracy", "k", "max_rows", "seed")

    def __init__(
        self,
        method: str = "combined",
        *,
        keep: float | None = None,
        coverage: float | None = None,
        accuracy: float | None = None,
        k: int = 3,
        max_rows: int = 4000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.method = _check.one_of("method", method, METHODS)
        goals = {"keep": keep, "coverage": coverage, "accuracy": accuracy}
        given = {name: value for name, value in goals.items() if value is not None}
        if len(given) > 1:
            raise _check.invalid(list(given)[1], f"None if `{next(iter(given))}` is given", list(given.values())[1])
        for name, value in (given or {"keep": DEFAULT_KEEP}).items():
            goals[name] = _check.number(name, value, above=0.0, maximum=1.0)
        self.keep, self.coverage, self.accuracy = goals.values()
        self.k = _check.integer("k", k)
        self.max_rows = _check.integer("max_rows", max_rows)
        self.seed = _check.integer("seed", seed, minimum=0)

    @property
    def needs_features(self) -> bool:
        """Whether the score uses features, and `fit` needs those of the training rows."""
        return self.method in DISTANT

    @property
    def is_fitted(self) -> bool:
        """Whether the rejection is ready to use."""
        return "threshold" in self._arrays

    @property
    def threshold(self) -> float:
        """The lowest accepted score."""
        self._check_fitted()
        return float(self._arrays["threshold"])

    def fit(
        self,
        logits: Any,
        targets: Any,
        *,
        features: Any = None,
        train: Any = None,
        outside: Any = None,
        outside_features: Any = None,
    ) -> Self:
        """Fits the score and chooses the threshold on rows that the model was not trained on.

        Args:
            logits: float array `(rows, classes)`.
            targets: int array `(rows,)`, the class index of each row.
            features: float array `(rows, dim)`, for methods that need them.
            train: tuple (features, targets) of the training rows, for methods that need features.
            outside: float array `(rows, classes)`: logits of out-of-scope rows, which belong to no class.
            outside_features: float array `(rows, dim)`, the features of these rows.

        Returns:
            The fitted rejection (`self`).

        Raises:
            ValueError: if shapes do not match, features are missing, or no threshold reaches the accuracy.
        """
        logits = checked_logits(logits)
        if self.method in ("margin", "combined") and logits.shape[1] < 2:
            raise _check.invalid("method", "a method that needs no second class", self.method)
        targets = checked_classes(targets, *logits.shape)
        if outside is not None:
            outside = checked_logits(outside, "outside")
        self._arrays = {}
        if self.needs_features:
            features = _features("features", features, len(logits))
            outside_features = (
                None if outside is None else _features("outside_features", outside_features, len(outside))
            )
            self._fit_distances(train, logits.shape[1])
        if self.method == "combined":
            self._fit_weights(logits, features, outside, outside_features)
        scores = ops.convert_to_numpy(self._scores(logits, features))
        right = (logits.argmax(axis=1) == targets).astype("float64")
        inside = np.ones(len(scores))
        if outside is not None:
            beyond = ops.convert_to_numpy(self._scores(outside, outside_features))
            scores = np.concatenate([scores, beyond])
            right, inside = (np.concatenate([each, np.zeros(len(beyond))]) for each in (right, inside))
        return self._fitted(**self._arrays, threshold=self._threshold(scores, right, inside))

    def _threshold(self, scores, right, inside):
        if self.accuracy is not None:
            values, hits, given = cuts(scores, right)
            reached = np.flatnonzero(hits >= self.accuracy * given - 1e-9)
            if not len(reached):
                best = float((hits / given).max())
                remedy = f"The best that a threshold reaches on these rows is {best:.4f}."
                raise _check.invalid("accuracy", "an accuracy that some threshold reaches", self.accuracy, remedy)
            return between(values, int(reached[-1]))
        counted = inside if self.keep is not None else np.ones(len(scores))
        wanted = self.keep if self.coverage is None else self.coverage
        values, hits, _ = cuts(scores, counted)
        return between(values, int(np.argmax(hits >= wanted * counted.sum() - 1e-9)))

    def _fit_distances(self, train, classes):
        if not isinstance(train, tuple) or len(train) != 2:
            expected = f"(features, targets) of training rows for {self.method!r}"
            raise _check.invalid("train", expected, train)
        features = _features("train", train[0])
        targets = checked_classes(train[1], len(features), classes)
        if self.method == "mahalanobis":
            present = np.unique(targets)
            means = np.stack([features[targets == each].mean(axis=0) for each in present]).astype("float64")
            centred = features - means[np.searchsorted(present, targets)]
            covariance = sklearn.covariance.LedoitWolf(assume_centered=True).fit(centred).covariance_
            values, vectors = np.linalg.eigh(covariance)
            centre = features.mean(axis=0, dtype="float64")
            whitening = vectors / np.sqrt(np.maximum(values, 1e-12 * max(values.max(), 1e-12)))
            self._arrays |= {
                "centre": centre.astype("float32"),
                "whitening": whitening.astype("float32"),
                "means": ((means - centre) @ whitening).astype("float32"),
            }
        else:
            chosen = _spread(targets, self.max_rows, self.seed)
            self._arrays |= {"rows": _unit(features[chosen]), "classes": targets[chosen].astype("float32")}

    def _fit_weights(self, logits, features, outside, outside_features):
        parts = ops.convert_to_numpy(self._parts(logits, features)).astype("float64")
        mean, scale = parts.mean(axis=0), np.maximum(parts.std(axis=0), 1e-6)
        weights = np.full(parts.shape[1], 1 / parts.shape[1])
        if outside is not None:
            beyond = ops.convert_to_numpy(self._parts(outside, outside_features)).astype("float64")
            both = (np.concatenate([parts, beyond]) - mean) / scale
            kinds = np.repeat([1, 0], [len(parts), len(beyond)])
            found = sklearn.linear_model.LogisticRegression(class_weight="balanced").fit(both, kinds).coef_[0]
            found = np.maximum(found, 0)  # neither part may count against acceptance
            weights = found / found.sum() if found.any() else weights
        self._arrays |= {"factors": (weights / scale).astype("float32")}
        self._arrays["offset"] = np.asarray(-np.sum(mean * weights / scale), "float32")

    def _parts(self, logits, features):
        """Returns the two scores to combine, float32 `(rows, 2)`."""
        logits = ops.cast(logits, "float32")
        return ops.stack([_log_odds(logits), self._neighbours(logits, features)], axis=-1)

    def _mahalanobis(self, features):
        white = ops.matmul(ops.cast(features, "float32") - self._arrays["centre"], self._arrays["whitening"])
        means = self._arrays["means"]
        squares = ops.sum(ops.square(white), axis=-1, keepdims=True) + np.sum(np.square(means), axis=-1)
        squares -= 2.0 * ops.matmul(white, means.T)
        return -ops.sqrt(ops.maximum(-largest(-squares), 0.0))

    def _neighbours(self, logits, features):
        features, classes = ops.cast(features, "float32"), self._arrays["classes"].astype("int32")
        norm = ops.maximum(ops.sqrt(ops.sum(ops.square(features), axis=-1, keepdims=True)), 1e-12)
        cosines = ops.matmul(features / norm, self._arrays["rows"].T)
        counts = np.bincount(classes, minlength=logits.shape[-1])
        likeliest = ops.cast(ops.argmax(logits, axis=-1), "int32")
        # A class without rows uses all rows.
        counted = np.where(counts, counts, len(classes))
        no_rows = ops.expand_dims(ops.take(counts == 0, likeliest), -1)
        is_own = ops.logical_or(ops.equal(ops.expand_dims(likeliest, -1), classes), no_rows)
        most = min(self.k, len(classes))
        nearest = ops.top_k(ops.where(is_own, cosines, -2.0), most)[0]
        place = ops.take(np.minimum(counted, most).astype("int32") - 1, likeliest)
        return ops.take_along_axis(nearest, ops.expand_dims(place, -1), axis=-1)[:, 0]

    def reordered(self, places: list[int]) -> Self:
        """Returns the rejection with its classes in another order; see `Part.reordered`."""
        made = super().reordered(places)
        if "classes" in made._arrays:
            made._arrays["classes"] = np.argsort(places)[made._arrays["classes"].astype("int64")].astype("float32")
        return made

    def scores(self, logits: Any, features: Any = None) -> Any:
        """Returns the scores of rows, float32 `(rows,)`; larger is safer.

        Args:
            logits: float `(rows, classes)`, scaled in the same way as for the probabilities.
            features: float `(rows, dim)`, for methods that need them.
        """
        self._check_fitted()
        return self._scores(logits, features)

    def _scores(self, logits, features):
        if self.method == "mahalanobis":
            return self._mahalanobis(features)
        if self.method == "neighbours":
            return self._neighbours(ops.cast(logits, "float32"), features)
        if self.method == "combined":
            return ops.sum(self._parts(logits, features) * self._arrays["factors"], axis=-1) + self._arrays["offset"]
        probabilities = ops.softmax(ops.cast(logits, "float32"), axis=-1)
        if self.method == "probability":
            return largest(probabilities)
        two = ops.top_k(probabilities, 2)[0]
        return two[:, 0] - two[:, 1]

    def accepts(self, logits: Any, features: Any = None) -> Any:
        """Returns whether each row is accepted, a bool tensor `(rows,)`.

        Args:
            logits: as in `scores`.
            features: as in `scores`.
        """
        return self.scores(logits, features) >= self._arrays["threshold"]


def _log_odds(logits):
    """The log-odds of the largest probability, which do not saturate as the probability does in float32."""
    is_largest = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="bool")
    return largest(logits) - ops.logsumexp(ops.where(is_largest, -1e9, logits), axis=-1)


def largest(values):
    """Returns the largest number of each row, `(rows,)`; unlike `ops.max`, it also works without rows."""
    return ops.top_k(values, 1)[0][:, 0]


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _features(argument, features, rows=None):
    """Checks features and returns them as float32 `(rows, dim)`."""
    if features is None:
        raise _check.invalid(argument, "the features of the rows, which distances need", None)
    features = np.asarray(features, "float32")
    if features.ndim != 2 or not features.size or (rows is not None and len(features) != rows):
        raise _check.invalid(argument, f"an array ({'rows' if rows is None else rows}, dim)", features.shape)
    if not np.isfinite(features).all():
        raise _check.invalid(argument, "finite numbers", features)
    return features


def _spread(targets, most, seed):
    """Returns the rows to keep: at most `most`, drawn at random within each class, taking the classes in turn."""
    order = np.random.default_rng(seed).permutation(len(targets))
    seen: dict[int, int] = {}
    turns = []
    for row in order:
        turns.append(seen.get(int(targets[row]), 0))
        seen[int(targets[row])] = turns[-1] + 1
    return np.sort(order[np.argsort(turns, kind="stable")[:most]])
