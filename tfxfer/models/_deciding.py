"""Calibration, rejection, thresholds and conformal sets of classifiers."""

import collections
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check, _ops, data
from tfxfer.decisions import ConformalSets, Decisions, Rejection, Scaling, Thresholds
from tfxfer.decisions._rejection import largest

# The name of the part of the model that outputs logits and features, concatenated.
_DECIDED = "decided"
# The maximum number of elements of a weight that counts as small.
_SMALL = 4096
_REMEDY = "Remove them (`model.decisions = None`) and fit them again on held-out rows."

_Mixin: Any = object  # the class that uses this mixin has the methods of a classifier


class Classification(collections.namedtuple("Classification", ["labels", "probabilities"])):
    """The result of `TextClassifier.classify`: label names and probabilities, in the order of the texts.

    Always a tuple of two, with two more attributes.

    Args:
        labels: list with the label of each text; with `multi_label`, a list of labels for each.
        probabilities: float32 array `(texts, classes)`.

    Attributes:
        in_scope: bool array `(texts,)`: whether the model accepts the text. `None` if the model rejects no texts.
        sets: list with a list of label names for each text, the most likely first; `None` without conformal sets.

    Example:

    >>> labels, probabilities = found = tx.models.Classification(["card"], np.array([[0.9, 0.1]]))
    >>> labels, found.in_scope, found.sets
    (['card'], None, None)
    """

    in_scope: Any = None
    sets: Any = None

    @classmethod
    def of(cls, labels: list, probabilities: np.ndarray, in_scope: Any = None, sets: Any = None) -> Self:
        """Returns a `Classification` of `labels` and `probabilities` with the attributes `in_scope` and `sets`."""
        made = cls(labels, probabilities)
        made.in_scope, made.sets = in_scope, sets
        return made


class Decides(_Mixin):
    """Mixin of `Classifying` with `calibrate`, `fit_decisions` and the decisions that they set."""

    _threshold: Any = None
    _decisions: Decisions | None = None
    # A checksum of the weights that the decisions were fitted for; `None` without fitted decisions.
    _decided_for: int | None = None
    _has_warned = False

    # === Settings ===

    @property
    def threshold(self) -> Any:
        """The lowest probability at which `classify` returns a label. It can be set, and is saved with the model.

        With `multi_label`, a float (default 0.5), or a dict of label to float. With one label per text, `None` (the
        default), or the float below which a text gets no label.
        """
        if self._decisions is not None and self._decisions.thresholds is not None:
            return dict(zip(self.labels, self._decisions.thresholds.values.tolist(), strict=True))
        if isinstance(self._threshold, tuple):
            return dict(zip(self.labels, self._threshold, strict=True))
        return 0.5 if self._threshold is None and self.multi_label else self._threshold

    @threshold.setter
    def threshold(self, value: Any) -> None:
        self._threshold = self._read_threshold(value)
        if self._decisions is not None and self._decisions.thresholds is not None:
            made = self._decisions.with_parts(thresholds=None)
            self._decisions, self._decided_for = (made, self._decided_for) if made.parts else (None, None)

    def _read_threshold(self, value):
        """Returns `None`, a float, or a tuple of floats in the order of the labels."""
        if value is None or not isinstance(value, (Mapping, list, tuple, np.ndarray)):
            return None if value is None else _check.number("threshold", value, minimum=0.0, maximum=1.0)
        labels = self.labels
        if not self.multi_label:
            raise _check.invalid("threshold", "a number, or None, for a model with one label per text", value)
        if isinstance(value, Mapping):
            if set(value) != set(labels):
                raise _check.invalid("threshold", f"a number for each of {', '.join(map(repr, labels))}", value)
            value = [value[label] for label in labels]
        if len(value) != len(labels):
            raise _check.invalid("threshold", f"{len(labels)} numbers, one for each label in their order", value)
        # 1.01 is the threshold of a label that is never returned; see `decisions.Thresholds`.
        return tuple(_check.number(f"threshold[{i}]", each, minimum=0.0, maximum=1.01) for i, each in enumerate(value))

    @property
    def decisions(self) -> Decisions | None:
        """The model's `decisions.Decisions`, or `None`. It can be set, and is saved with the model.

        `calibrate` and `fit_decisions` set it. Training, or any other change of the weights, makes it stale: `classify`
        then warns once, and `fit_decisions` and exports raise, until it is fitted again or removed. Decisions that are
        assigned directly count as fitted for the current weights.
        """
        return self._decisions

    @decisions.setter
    def decisions(self, value: Decisions | None) -> None:
        self._decide_by(value)

    def _decide_by(self, value):
        """Sets decisions for the current weights. (Keras skips a setter that receives the object already set.)"""
        if value is not None:
            _check.instance("decisions", value, Decisions, "a `decisions.Decisions`, or None")
            if value.labels != self.labels:
                remedy = "Reorder them: `decisions.with_labels(labels, places)`."
                raise _check.invalid("decisions", f"those for the labels {self.labels}", value.labels, remedy)
            self._check_parts(value)
        self._decisions = value if value is not None and value.parts else None
        self._decided_for = None if self._decisions is None else self._weights_sum()
        self._has_warned = False

    def _check_parts(self, value):
        for name in ("rejection", "sets") if self.multi_label else ("thresholds",):
            if getattr(value, name) is not None:
                other = "one label per text" if self.multi_label else "`multi_label`"
                raise _check.invalid(name, f"None: it is for models with {other}", getattr(value, name))
        if value.rejection is not None and value.rejection.needs_features:
            self.decision_features()

    # === Staleness ===

    def _weights_sum(self):
        """Returns a checksum of the head's weights and of the small weights of each layer group.

        Training a group always changes its biases, scales or adapters. Reading all matrices would take as long as
        classifying a text.
        """
        found = 0
        for name, layers in self.layer_groups().items():
            weights = list({id(weight): weight for layer in layers for weight in layer.weights}.values())
            small = [weight for weight in weights if np.prod(weight.shape) <= _SMALL]
            for weight in small if small and name != "head" else weights:
                values = np.asarray(ops.convert_to_tensor(weight))
                found = zlib.crc32(np.ascontiguousarray(values).reshape(-1).view("uint8").data, found)
        return found

    def has_stale_decisions(self) -> bool:
        """Whether the weights have changed since the decisions were fitted."""
        return self._decided_for is not None and self._weights_sum() != self._decided_for

    def check_decisions(self) -> None:
        """Raises a `ValueError` if the decisions are stale. Exports call it."""
        if self.has_stale_decisions():
            raise _check.invalid("model", "decisions fitted for its weights, which have changed", self.name, _REMEDY)

    def _warn_of_stale(self):
        if not self._has_warned and self.has_stale_decisions():
            self._has_warned = True
            warnings.warn(
                f"The weights of {self.name!r} have changed since its decisions were fitted ({self._decisions}): "
                f"probabilities, thresholds and coverage no longer hold. {_REMEDY}",
                stacklevel=3,
            )

    # === Fitting ===

    def calibrate(
        self,
        x: Any,
        y: Any = None,
        method: Literal["temperature", "vector"] | Scaling = "temperature",
        batch_size: int = 32,
    ) -> Scaling:
        """Calibrates the probabilities by scaling the logits, fitted on rows that the model was not trained on.

        Afterwards all probabilities of the model are scaled: in `classify`, `suggest`, evaluation and exports. The
        logits are unchanged, and so are losses and metrics in training. With `"temperature"` and one label per text, no
        predicted label changes.

        Thresholds, rejection and sets fitted before belong to the old probabilities: they are removed, with a warning.

        Args:
            x: rows in memory, as in `fit`.
            y: labels, for rows that do not include them.
            method: `"temperature"`, one number for all classes; `"vector"`, a scale and a bias for each; or a
                `decisions.Scaling`. Defaults to `"temperature"`.
            batch_size: int. Batch size for inference. Defaults to 32.

        Returns:
            The fitted `decisions.Scaling`.

        Raises:
            ValueError: as in `fit` and `decisions.Scaling.fit`.

        Example:

        ```python
        model.calibrate(dev["text"], dev["label"]).temperature  # 1.7
        ```

        Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.
        """
        made = Scaling(**method.settings()) if isinstance(method, Scaling) else Scaling(method)
        x, targets = data.Gate(self, ("x", "y", "sample_weight")).in_memory(x, y)
        logits = self._logits_and_features(x, batch_size, False)[0]
        made.fit(logits, targets, multi_label=self.multi_label)
        dropped = [name for name in ("thresholds", "rejection", "sets") if getattr(self._decisions, name, None)]
        if dropped:
            warnings.warn(
                f"The probabilities have changed: {', '.join(dropped)} of the decisions are removed. Fit them "
                "again with `fit_decisions`.",
                stacklevel=2,
            )
        self.decisions = Decisions(self.labels, scaling=made)
        return made

    def fit_decisions(
        self,
        x: Any,
        y: Any = None,
        *,
        thresholds: str | Thresholds | None = None,
        reject: str | Rejection | None = None,
        sets: str | ConformalSets | None = None,
        train: Any = None,
        outside: Any = None,
        batch_size: int = 32,
    ) -> Decisions:
        """Fits the model's decisions on rows that neither the model nor its scaling was fitted on.

        The parts that are passed replace the previous ones; the others are kept. Call `calibrate` first if the
        probabilities should be calibrated.

        | argument | for models with | result of `classify` |
        |---|---|---|
        | `thresholds` | several labels per text | labels selected by one threshold for each label |
        | `reject` | one label per text | `None` as the label of rejected texts, and `in_scope` |
        | `sets` | one label per text | `sets`, lists of labels with a stated coverage |

        Args:
            x: rows in memory, as in `fit`.
            y: labels, for rows that do not include them.
            thresholds: `"f1"`, or a `decisions.Thresholds`, for example `Thresholds("precision", at=0.9)`.
            reject: a method of `decisions.Rejection`, which then keeps 0.95 of the rows, or a `Rejection` with another
                goal, for example `Rejection("combined", accuracy=0.95)`.
            sets: a method of `decisions.ConformalSets`, with coverage 0.9, or a `ConformalSets` with another coverage.
            train: the rows the model was trained on, with their labels, for rejection by distance: (x, y), or the
                result of `data.labelled`.
            outside: rows that belong to no class, without labels, for `reject`: texts, or any input of `predict`.
            batch_size: int. Batch size for inference. Defaults to 32.

        Returns:
            The model's `decisions.Decisions`.

        Raises:
            ValueError: if there is nothing to fit, or a part does not apply to the model; if rejection by distance
                lacks `train`, or the head reads more than one vector per text; if training has made the decisions
                stale; and as in `fit` of the parts.

        Example:

        ```python
        model.calibrate(dev["text"], dev["label"])
        reject = tx.decisions.Rejection("combined", keep=0.95)
        model.fit_decisions(held_out, reject=reject, sets="aps", train=train)
        labels, probabilities = found = model.classify(["My card is gone", "Who won the match?"])
        labels, found.in_scope, found.sets  # ["card", None], [True, False], [["card"], ["loan", "card"]]
        ```
        """
        parts = {
            "thresholds": _made("thresholds", Thresholds, thresholds),
            "rejection": _made("reject", Rejection, reject),
            "sets": _made("sets", ConformalSets, sets),
        }
        self._check_asked(parts, train, outside)
        rejection = parts["rejection"]
        distant = rejection is not None and rejection.needs_features
        if distant:
            self.decision_features()
        self.check_decisions()
        x, targets = data.Gate(self, ("x", "y", "sample_weight")).in_memory(x, y)
        logits, features = self._logits_and_features(x, batch_size, distant)
        probabilities = ops.convert_to_numpy(self.probabilities(logits))
        if parts["thresholds"] is not None:
            parts["thresholds"].fit(probabilities, targets, labels=self.labels)
        if parts["sets"] is not None:
            parts["sets"].fit(probabilities, targets, labels=self.labels)
        if rejection is not None:
            beyond = (None, None) if outside is None else self._logits_and_features(outside, batch_size, distant)
            known = self._train_features(train, batch_size) if distant else None
            scaled = [
                None if each is None else ops.convert_to_numpy(self._scaled(each)) for each in (logits, beyond[0])
            ]
            rejection.fit(
                scaled[0], targets, features=features, train=known, outside=scaled[1], outside_features=beyond[1]
            )
        before = self._decisions or Decisions(self.labels)
        made = before.with_parts(**{name: part for name, part in parts.items() if part is not None})
        self.decisions = made
        return made

    def _check_asked(self, parts, train, outside):
        if not any(part is not None for part in parts.values()):
            raise _check.invalid("reject", "something to fit: `thresholds`, `reject` or `sets`", None)
        arguments = {"thresholds": "thresholds", "rejection": "reject", "sets": "sets"}
        for name in ("rejection", "sets") if self.multi_label else ("thresholds",):
            if parts[name] is not None:
                kind = "several labels" if self.multi_label else "one label"
                raise _check.invalid(arguments[name], f"None for a model with {kind} per text", parts[name])
        rejection = parts["rejection"]
        distant = rejection is not None and rejection.needs_features
        if outside is not None and rejection is None:
            raise _check.invalid("outside", "None without `reject`", outside)
        if isinstance(outside, Iterator):
            raise _check.invalid("outside", "rows in memory", outside, "Convert it to a list.")
        if (train is not None) != distant:
            expected = "the training rows with their labels" if distant else "None without rejection by distance"
            raise _check.invalid("train", expected, train)

    def _train_features(self, train, batch_size):
        gate = data.Gate(self, ("train[0]", "train[1]", "sample_weight"))
        pair = isinstance(train, tuple) and len(train) == 2
        rows, targets = gate.in_memory(*train) if pair else gate.in_memory(train)
        return self._logits_and_features(rows, batch_size, True)[1], targets

    def _logits_and_features(self, x, batch_size, distant):
        outputs = np.asarray(
            ops.convert_to_numpy(
                self._answers(x, batch_size, 0, lambda found: found, part=_DECIDED if distant else None)
            ),
            "float32",
        )
        count = len(self.labels)
        return outputs[:, :count], outputs[:, count:] if distant else None

    # === Answers ===

    def decision_features(self) -> Any:
        """Returns the features for distances to the training texts: a Keras tensor `(batch, dim)` of this model.

        By default, the input of the head. Override it in a custom task whose `head` does not read a single vector.

        Raises:
            ValueError: if the head reads several vectors per text.
        """
        linear = self.linear_head()
        found = linear[0] if linear is not None else getattr(getattr(self, "head", None), "input", None)
        shape = getattr(found, "shape", None)
        if shape is None or len(shape) < 2 or None in tuple(shape[1:]):
            remedy = "Reject by 'probability' or 'margin', or override `decision_features`."
            raise _check.invalid(
                "reject", "a score without features: the head reads several vectors", self.name, remedy
            )
        return found if len(shape) == 2 else ops.reshape(found, (-1, int(np.prod(shape[1:]))))

    def _part(self, part):
        if part != _DECIDED:
            return super()._part(part)
        both = [ops.cast(each, "float32") for each in (self.output, self.decision_features())]
        return keras.Model(self.input, ops.concatenate(both, axis=-1))

    def _decided_part(self):
        """Returns the name of the part that `classify` runs, or `None` for the model itself."""
        rejection = None if self._decisions is None else self._decisions.rejection
        return _DECIDED if rejection is not None and rejection.needs_features else None

    def _scaled(self, logits):
        scaling = None if self._decisions is None else self._decisions.scaling
        return logits if scaling is None else scaling(logits)

    def probabilities(self, logits: Any) -> Any:
        """Converts logits `(rows, classes)` to probabilities: a softmax, or sigmoids with `multi_label`.

        After `calibrate`, the logits are scaled first.
        """
        return (_ops.sigmoid if self.multi_label else ops.softmax)(self._scaled(logits))

    def decided(self, outputs: Any, threshold: Any = None) -> dict[str, Any]:
        """Applies the decisions to outputs, in `keras.ops`: the same in Python and in an export.

        Args:
            outputs: logits `(rows, classes)`; with rejection by distance, followed by the features.
            threshold: as in `classify`.

        Returns:
            A dict with `probabilities` `(rows, classes)`; `in_scope`, bool `(rows,)`, if rows can be rejected; and
            `set`, bool `(rows, classes)`, if there are conformal sets (the set) or with `multi_label` (the labels
            above their thresholds).
        """
        count, found, given = len(self.labels), {}, self._decisions
        if self._decided_part() and outputs.shape[-1] == count:
            remedy = "Call `classify`, which computes them."
            raise _check.invalid("outputs", "logits with features, for rejection by distance", outputs.shape, remedy)
        logits = outputs[:, :count]
        found["probabilities"] = probabilities = self.probabilities(logits)
        least = self._threshold if threshold is None else self._read_threshold(threshold)
        if self.multi_label:
            if threshold is None and given is not None and given.thresholds is not None:
                found["set"] = given.thresholds.given(probabilities)
            else:
                found["set"] = probabilities >= np.asarray(0.5 if least is None else least, "float32")
            return found
        if given is not None and given.rejection is not None:
            found["in_scope"] = given.rejection.accepts(self._scaled(logits), outputs[:, count:])
        if least is not None:
            is_sure = largest(probabilities) >= np.float32(least)
            found["in_scope"] = ops.logical_and(found["in_scope"], is_sure) if "in_scope" in found else is_sure
        if given is not None and given.sets is not None:
            found["set"] = given.sets.members(probabilities)
        return found

    def classify(self, x: Any, batch_size: int = 32, *, threshold: Any = None, verbose: int | str = 0) -> Any:
        """Predicts labels and probabilities for rows.

        Args:
            x: rows or batches, as in `predict`. For a generator of texts, the result is a generator of parts, computed
                in constant memory.
            batch_size: int. Batch size for inference. Defaults to 32.
            threshold: float in `[0, 1]`: the lowest probability at which a label is returned; defaults to the model's
                `threshold`. With `multi_label`, also a dict of label to float, or a list in the order of the labels.
                With one label per text, a text whose most likely label is below the threshold gets `None`.
            verbose: 0, 1 or `"auto"`. Whether to show a progress bar.

        Returns:
            `Classification(labels, probabilities)`: a list with a name for each text (with `multi_label`, a possibly
            empty list of names, the most likely first), and a float32 array `(texts, classes)` in the order of the
            model's `labels`. A text rejected by `threshold` or by `fit_decisions` has `None` instead of a name. Two
            more attributes: `in_scope`, a bool array that is `True` for accepted texts, or `None` if the model rejects
            no texts; and `sets`, the conformal sets, a list of names for each text, or `None`. Rejected texts have
            sets as well, so that the coverage holds.

        Raises:
            ValueError: as in `predict`, and if a threshold is out of range.

        Example:

        ```python
        labels, probabilities = model.classify(["My card is gone", "What does a loan cost?"])
        ```
        """
        if threshold is not None:
            self._read_threshold(threshold)
        self._warn_of_stale()
        part = self._decided_part()
        return self._answers(x, batch_size, verbose, lambda outputs: self.decode(outputs, threshold), part=part)

    def answer(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns `classify(x)`, with the same `batch_size` and `verbose`."""
        return self.classify(x, batch_size, verbose=verbose)

    def decode(self, outputs: Any, threshold: Any = None) -> Classification:
        """Converts logits `(rows, classes)` to a `Classification`; see `classify`.

        With rejection by distance, `outputs` also contain the features after the logits, as `classify` computes them.
        `threshold` is that of `classify`.
        """
        found = {name: ops.convert_to_numpy(value) for name, value in self.decided(outputs, threshold).items()}
        probabilities, members = found["probabilities"], found.get("set")
        if self.multi_label:
            return Classification.of(self._names_of(members, probabilities), probabilities)
        sets = None if members is None else self._names_of(members, probabilities)
        names = self._label_column.decode(np.argmax(probabilities, axis=-1))
        in_scope = found.get("in_scope")
        if in_scope is not None:
            names = [name if known else None for name, known in zip(names, in_scope, strict=True)]
        return Classification.of(names, probabilities, in_scope, sets)

    def _decided_beside(self, outputs):
        """Returns the results of `decided` without the probabilities."""
        return {name: value for name, value in self.decided(outputs).items() if name != "probabilities"}

    def _decisions_purpose(self, place):
        """Returns the description of the decisions for an export's signature."""
        made, found = self._decisions, []
        if self.multi_label and (made is not None or self._threshold is not None):
            found.append(f"`set` marks the predicted labels, in the order of {place}.")
        rejects = made is not None and made.rejection is not None
        if not self.multi_label and (rejects or self._threshold is not None):
            found.append(
                "If `in_scope` is false, the model rejects the text; `labels` still lists the most likely labels."
            )
        if made is not None and made.sets is not None:
            by_class = " of each class" if made.sets.by_class else ""
            found.append(
                f"`set` marks the labels, in the order of {place}, that the text may have: the true one is among them "
                f"for {made.sets.coverage:.0%} of texts{by_class} like those that it was fitted on."
            )
        if made is not None and made.scaling is not None:
            found.append("Probabilities are calibrated.")
        return "".join(f" {each}" for each in found)

    def _names_of(self, members, probabilities):
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        return [
            self._label_column.decode([i for i in indices if row[i]])
            for indices, row in zip(order, members, strict=True)
        ]

    # === Other labels, saving ===

    def card_rows(self) -> dict[str, str]:
        """Returns lines of the model card: a dict of names to strings."""
        found = {**super().card_rows()}
        if self.threshold is not None:
            found["Threshold"] = str(self.threshold)
        for name, settings in ({} if self._decisions is None else self._decisions.describe()).items():
            shown = (
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in settings.items()
            )
            found[name.capitalize()] = ", ".join(shown)
        return found

    def _with_other_labels(self, names: Sequence[Any], places: Sequence[Any] | None) -> dict[str, Any]:
        """Returns the label-dependent parts of the config, for renamed or reordered labels."""
        found: dict[str, Any] = {}
        if isinstance(self._threshold, tuple):
            found["threshold"] = list(self._threshold)
        if places is not None and None in places:
            if self._decisions is not None or found:
                warnings.warn(
                    "New labels start at random: the decisions of the trained model do not cover them and are "
                    "removed. Fit them again after training.",
                    stacklevel=6,
                )
            return {**dict.fromkeys(found), "decisions": None, "decided_for": None}
        if places is not None and "threshold" in found:
            found["threshold"] = [found["threshold"][place] for place in places]
        if self._decisions is not None:
            found["decisions"] = self._decisions.with_labels(names, places)
        return found

    def _decisions_config(self):
        made = self._decisions
        threshold = list(self._threshold) if isinstance(self._threshold, tuple) else self._threshold
        return {
            "threshold": threshold,
            "decisions": None if made is None else keras.saving.serialize_keras_object(made),
            "decided_for": self._decided_for,
        }

    def _take_decisions(self, made, decided_for):
        """Restores the decisions of a config, with the checksum of the weights that they were fitted for."""
        if isinstance(made, dict):
            made = keras.saving.deserialize_keras_object(made)
        if made is not None:
            self.decisions = made
            self._decided_for = decided_for


def _made(argument, kind, given):
    """Returns an unfitted part from the name of a method or from a part; `None` for `None`."""
    if given is None:
        return None
    if isinstance(given, str):
        return kind(given)
    expected = f"the name of a method, or a `decisions.{kind.__name__}`"
    return kind(**_check.instance(argument, given, kind, expected).settings())
