"""Heads as linear models on frozen features: the implementation of `freezing.probe` and `head="probe"`."""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _regression, data, losses

# Losses of logits whose minimum a logistic regression approximates; for numbers, a ridge regression.
_LOSSES: dict[str, tuple] = {
    "classes": (
        losses.ClassCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
    ),
    "labels": (
        losses.WeightedBinaryCrossentropy,
        losses.PointwiseCrossentropyLoss,
        keras.losses.BinaryCrossentropy,
        keras.losses.BinaryFocalCrossentropy,
    ),
    "numbers": (
        keras.losses.MeanSquaredError,
        keras.losses.MeanAbsoluteError,
        keras.losses.Huber,
        keras.losses.LogCosh,
        losses.PointwiseMSELoss,
    ),
}


# Losses of tags whose minimum a logistic regression on words approximates.
_TAG_LOSSES = (losses.TagCrossentropy, keras.losses.SparseCategoricalCrossentropy)

# The same losses as functions, to which Keras resolves strings.
_NUMBER_LOSSES = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")


@dataclasses.dataclass(frozen=True)
class Probe:
    """The result of `freezing.probe`.

    Args:
        penalty: float. The chosen L2 penalty.
        losses: dict of penalty to the mean loss of a held-out row: the cross-entropy in nats, or half the squared
            error. Empty if there was nothing to choose.
        scores: dict of scores on held-out rows: `accuracy` (for tags, of words); with several labels per row,
            `micro_f1` at a probability of 0.5; for numbers, `mae` and `r2`. Empty if there was nothing to choose.
        rows: int. The number of rows, or words, in the fit.

    Example:

    ```python
    found = tx.freezing.probe(classifier, texts, labels)
    print(found.penalty, found.scores["accuracy"])  # the chosen penalty, and the accuracy on held-out rows
    ```
    """

    penalty: float
    losses: Mapping[float, float]
    scores: Mapping[str, float]
    rows: int


def kind_of(model: Any) -> str | None:
    """Returns the kind of a task's outputs, as in `_regression.fit`; `None` if it is unknown.

    `"tags"` are classes of words, of which a row has several. The loss determines the kind. If the model is not
    compiled, or if its loss does not determine it, the labels do.
    """
    loss, column = getattr(model, "loss", None), model.target_columns()
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if isinstance(column, data.LabelColumn):
        return "labels" if column.multi_label else "classes"
    if isinstance(column, data.TagsColumn):
        return "tags" if loss is None or isinstance(loss, _TAG_LOSSES) else None
    if loss is None or getattr(loss, "__name__", None) in _NUMBER_LOSSES:
        return "numbers" if isinstance(column, data.ValuesColumn) else None
    for kind, known in _LOSSES.items():
        of_outputs = getattr(loss, "from_logits", True) and getattr(loss, "activation", None) is None
        if isinstance(loss, known) and of_outputs:
            return kind
    return None


def check(model: Any, argument: str = "model") -> Any:
    """Returns (features, dense, kind) of a task model; raises if its head cannot be a linear model."""
    found, kind = model.linear_head(), kind_of(model)
    if found is None or kind is None:
        expected = (
            "a task whose output comes from one linear layer, on labels, tags or numbers, with a loss on logits or "
            "values"
        )
        remedy = "A regression cannot start hidden layers, gates or convolutions: train such a head."
        raise _check.invalid(argument, expected, model.name, remedy if found is None else None)
    return *found, kind


def probe(
    model: Any,
    batches: Any,
    below: Any = None,
    *,
    limit: int | None = None,
    assign: bool = True,
    stronger: float = 1.0,
    class_weight: Mapping[int, float] | None = None,
    **options: Any,
) -> Probe:
    """Fits a linear model on the features below a task's head and assigns it to the head.

    Args:
        model: task model with a linear head; see `check`.
        batches: iterable of batches (x, y) or (x, y, sample_weight), in the form that model and loss take.
        below: Keras model from x of the batches to the features below the head; by default from the model's inputs.
        limit: int. The number of rows to use at most, from the first; of their words a sample, see `Words`.
        assign: bool. Whether to set the head.
        stronger: float. The factor by which to multiply the chosen penalty for the head.
        class_weight: dict of class index to weight, for one label per row.
        **options: `penalties`, `folds`; see `_regression.fit`.

    Returns:
        `Probe`.

    Raises:
        ValueError: if the batches have no targets or no rows.
    """
    _, dense, kind = check(model)
    found, targets, weights = computed(below_head(model, below), batches, limit, of_words=kind == "tags")
    kind = "classes" if kind == "tags" else kind
    targets = _shares(targets, dense.units, kind)
    if class_weight is not None:
        weights = weights * [class_weight.get(index, 1.0) for index in targets.argmax(axis=1)]
    common = {"kind": kind, "use_bias": dense.use_bias}
    fit = _regression.fit(found, targets, weights, **common, **options)
    if assign:
        chosen = fit
        if stronger != 1.0:
            chosen = _regression.fit(found, targets, weights, **common, penalties=(fit.penalty * stronger,))
        dense.kernel.assign(chosen.kernel)
        if dense.use_bias:
            dense.bias.assign(chosen.bias)
    scores = {} if fit.held_out is None else _scores(kind, fit.held_out, targets[fit.rows], weights[fit.rows])
    return Probe(fit.penalty, fit.losses, scores, len(found))


def probe_rows(
    model: Any, x: Any, y: Any = None, sample_weight: Any = None, batch_size: int = 32, **options: Any
) -> Any:
    """Fits the head on rows as `fit` takes them, and records it; see `freezing.probe`."""
    check(model)
    gate = data.Gate(model)
    form, found = gate.read(x, y, sample_weight)
    if form == "arrays":
        batches = slices(found, batch_size)
    else:
        made = {} if form == "batches" else model._batch_options(shuffle=False, bucket=form == "rows")
        batches = None if gate.is_endless(found) else gate.again(gate.batches(form, found, batch_size, **made))
    if batches is None:
        raise _check.invalid("x", "rows, or a finite dataset", x, "If the dataset is infinite, pass `.take(n)` of it.")
    fitted = probe(model, batches, **options)
    model.mark_probed_head()
    return fitted


def below_head(model: Any, below: Any = None) -> Any:
    """Returns the Keras model from a task's inputs to the features that its head reads; `below`, if it is given."""
    return keras.Model(model.input, model.linear_head()[0]) if below is None else below


def slices(arrays: Any, batch_size: int) -> list:
    """Splits arrays (x, y, sample_weight) into batches."""
    count = len(next(iter(arrays[0].values())))
    found = []
    for start in range(0, count, batch_size):
        take = operator.itemgetter(slice(start, start + batch_size))
        found.append(tuple(None if part is None else keras.tree.map_structure(take, part) for part in arrays))
    return found


def computed(model: Any, batches: Any, limit: int | None = None, *, of_words: bool = False) -> Any:
    """Returns arrays (features, targets, weights) of the rows of batches or, with `of_words`, of their words."""
    run, rows, found = None, 0, Words() if of_words else Rows()
    for batch in batches:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None:
            raise _check.invalid("y", "a target for each row", y)
        run = data.forward(model, x) if run is None else run
        features = np.asarray(run(x), "float32")
        found.add(features, np.asarray(y), np.ones(len(features)) if weight is None else np.asarray(weight))
        rows += len(features)
        if limit is not None and rows >= limit:
            break
    if not rows:
        raise _check.invalid("x", "at least one row", batches)
    return found.arrays()


class Rows:
    """Features, targets and weights of all rows."""

    def __init__(self) -> None:
        self._parts: list[tuple] = []

    def add(self, features: Any, targets: Any, weights: Any) -> None:
        """Adds a batch; flattens features of more than one dimension.

        Targets of lists, `(lists, n)` with NaN after their ends, become the documents' targets one after another.
        """
        if len(targets) != len(features):
            is_document = ~np.isnan(targets)
            targets = targets[is_document]
            if len(weights) == len(is_document):
                weights = np.repeat(weights, is_document.sum(axis=1))
            features, weights = features[: len(targets)], weights[: len(targets)]
        self._parts.append((features.reshape(len(features), -1), targets, weights))

    def arrays(self) -> tuple:
        """Returns (features, targets, weights)."""
        return tuple(np.concatenate(part) for part in zip(*self._parts, strict=True))


class Words:
    """Features, tags and weights of a sample of words, in which rare tags keep all their words.

    Most words of a text are outside entities. Up to `MOST` words, all are kept. Beyond that, tags share `MOST` places:
    a rare tag keeps all its words, and the frequent tags get an equal number each, drawn at random. Each kept word is
    weighted by the number of words that it represents, so the expected sum of losses is that of all words. At most
    `MOST` words of a tag are held at a time. The sample is deterministic.
    """

    MOST = 20_000

    def __init__(self) -> None:
        self._parts: list[tuple] = []
        self._counts: dict[int, int] = {}
        self._random = np.random.default_rng(0)
        self._added = 0

    def add(self, features: Any, targets: Any, weights: Any) -> None:
        """Adds a batch: `(batch, words, dim)`, tags `(batch, words)`, -1 for none, and weights `(batch,)`."""
        if features.ndim != 3 or targets.shape != features.shape[:2]:
            expected = f"tags of shape {features.shape[:2]}, one for each word, -1 for none"
            raise _check.invalid("y", expected, targets.shape)
        has_tag = targets >= 0
        tags = targets[has_tag].astype("int64")
        weights = np.broadcast_to(weights.reshape(len(weights), -1)[:, :1], targets.shape)[has_tag]
        self._parts.append((features[has_tag], tags, weights, self._random.random(len(tags))))
        for tag, count in zip(*np.unique(tags, return_counts=True), strict=True):
            self._counts[int(tag)] = self._counts.get(int(tag), 0) + int(count)
        self._added += len(tags)
        if self._added > self.MOST:
            self._thin(dict.fromkeys(self._counts, self.MOST))

    def _thin(self, most):
        """Keeps at most `most` words of each tag: those with the smallest random numbers."""
        parts = [np.concatenate(part) for part in zip(*self._parts, strict=True)]
        tags, drawn = parts[1], parts[3]
        kept = np.zeros(len(tags), bool)
        for tag, count in most.items():
            own = np.flatnonzero(tags == tag)
            kept[own[np.argsort(drawn[own], kind="stable")[:count]]] = True
        self._parts, self._added = [tuple(part[kept] for part in parts)], 0

    def arrays(self) -> tuple:
        """Returns (features, tags, weights) of the sample."""
        if not self._counts:
            raise _check.invalid("y", "at least one word with a tag", "none")
        most, left, room = {}, dict(self._counts), self.MOST
        while left:  # from the rarest tag up: the others share the places that it does not need
            tag = min(left, key=left.__getitem__)
            most[tag] = min(left[tag], max(room // len(left), 1))
            room -= most[tag]
            del left[tag]
        self._thin(most)
        features, tags, weights, _ = self._parts[0]
        kept = {tag: min(most[tag], count) for tag, count in self._counts.items()}
        factors = np.array([self._counts.get(tag, 0) / max(kept.get(tag, 0), 1) for tag in range(max(kept) + 1)])
        return features, tags, weights * factors[tags]


def _shares(targets, units, kind):
    """Targets as floats `(rows, outputs)`."""
    if kind == "classes" and targets.reshape(len(targets), -1).shape[1] == 1:
        return np.eye(units)[targets.reshape(-1).astype("int64")]
    return targets.reshape(len(targets), units).astype("float64")


def _scores(kind, outputs, targets, weights):
    if kind == "classes":
        is_right = outputs.argmax(axis=1) == targets.argmax(axis=1)
        return {"accuracy": float(np.average(is_right, weights=weights if weights.any() else None))}
    if kind == "labels":
        given, right = outputs > 0, targets > 0.5
        both = np.sum(given & right)
        return {"micro_f1": float(2 * both / max(np.sum(given) + np.sum(right), 1))}
    errors = outputs - targets
    spread = np.sum((targets - targets.mean(axis=0)) ** 2)
    return {"mae": float(np.abs(errors).mean()), "r2": float(1 - np.sum(errors**2) / spread) if spread else 0.0}
