"""Text classification."""

import os
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from tfxfer import _check, backbones, data, layers, losses
from tfxfer import metrics as own_metrics
from tfxfer.models import _logits, _reading, _restoring, _save, _usage
from tfxfer.models._deciding import Decides
from tfxfer.models._explaining import Explained, first, log_odds, picked
from tfxfer.models._from_preset import ClassifierFromPreset
from tfxfer.models._mixup import MixesRows
from tfxfer.models._ranking import Ranks
from tfxfer.models._search_space import PooledSearch
from tfxfer.models._signatures import Signature
from tfxfer.models._stored_head import StoresHead
from tfxfer.models._suggest import SuggestsTexts
from tfxfer.models._task import TextTask

HEADS: dict[str, tuple[int, ...] | None] = {"linear": (), "probe": (), "mlp": None}
# The key of the labels in a weights file.
_LABELS = "labels"


def make_head(head, num_outputs, dropout, hidden_dim):
    """Returns the layer for `head`: a name from `HEADS`, or a Keras layer, which is returned as is."""
    if isinstance(head, keras.layers.Layer):
        return head
    _check.one_of("head", head, HEADS, "Or pass a Keras layer from (batch, features) to (batch, outputs).")
    hidden_dims: Any = (hidden_dim,) if HEADS[head] is None else HEADS[head]
    return layers.Head(num_outputs, hidden_dims, dropout=dropout, name="head")


class PooledTask(StoresHead, PooledSearch, TextTask):
    """A task with pooled features and a head: the base of classifiers and regressors."""

    _layer_arguments = ("head", "pooling")

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any,
        *,
        pooling: Any,
        dropout: float,
        head: Any,
        num_outputs: int,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None,
        **kwargs: Any,
    ) -> None:
        # Set before the other layers, so that the weights have the same order as in `keras.models.clone_model`.
        self.backbone = backbone = backbones.adopt(backbone)

        # === Layers ===
        is_new_head = isinstance(head, str) or not head.built
        self._read_layers = _reading.layers_of(head, backbone)
        features = _reading.pooling_layer(pooling, _reading.of(head))
        inner = features.pooling if isinstance(features, layers.BlockPooling) else features
        self.pooling = inner.modes if isinstance(inner, layers.Pooling) else inner
        self.dropout = dropout
        self._head_argument = head
        self.head = make_head(head, num_outputs, dropout, backbone.hidden_dim)

        # === Functional Model ===
        inputs, mask = backbone.input, {"padding_mask": backbone.input["padding_mask"]}
        states = _reading.states(backbone, self._read_layers)
        outputs = self.head(states, **mask) if features is None else self.head(features(states, **mask))
        if len(outputs.shape) != 2 or outputs.shape[-1] != num_outputs:
            raise _check.invalid("head", f"a layer with outputs (batch, {num_outputs})", tuple(outputs.shape))
        super().__init__(
            inputs,
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[*([features] if features is not None and features.weights else []), self.head],
            trainable=trainable,
            **kwargs,
        )
        if is_new_head:
            self._mark_new_head()

    @property
    def starts_as_probe(self) -> bool:
        """Whether the first `fit` starts the new head as a regression on frozen features, with any optimizer."""
        return self._head_argument == "probe"

    def read_layers(self) -> tuple[int, ...] | None:
        """Returns the indices of the layers whose states the head reads; see `DescribesItself.read_layers`."""
        return self._read_layers

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns the tensors at the end of the encoder; the pooled one is `None` if the head reads token states."""
        if self.pooling is not None:
            return super().boundary()
        *sequence, mask = self.head.input
        return sequence[0] if self._read_layers is None else sequence, mask, None

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns the pooling as a `backbones.EmbeddingSpec`, without the layers above it."""
        modes = self.pooling if isinstance(self.pooling, tuple) else getattr(self.pooling, "modes", ("mean",))
        return backbones.EmbeddingSpec(pooling=modes)

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        if _reading.of(arguments.get("head")) in ("sequence", "blocks"):
            return arguments  # such a head reads no pooled features
        return super()._preset_arguments(embedding, arguments)

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        spec: Any = None
        own: Any = None
        if not backbone_only and pretrained.read_head is not None:
            spec, own = cls._match(pretrained, pretrained.read_head(), arguments)
        if spec is None:
            model, notice = super()._from_pretrained(pretrained, arguments, backbone_only)
            return model, own or notice
        for name in ("pooling", "head"):
            if arguments.get(name) is not None:
                expected = f"None for a `{pretrained.trained_task}`, whose trained head is reused"
                raise _check.invalid(name, expected, arguments[name], "Pass `backbone_only=True` for a new head")
        arguments = {**_restoring.without_keeping(arguments), **own}
        head, pooling = spec.head(arguments.pop("dropout", None)), spec.pooling()
        parts = {"backbone": pretrained.backbone, "preprocessor": pretrained.preprocessor, "head": head}
        model = cls(**parts, pooling=pooling, dropout=head.dropout, **arguments)
        spec.assign(model.get_layer("pooling"), model.head)
        return model, None

    @classmethod
    def _match(cls, pretrained, spec, arguments):
        """Compares the trained head of a checkpoint with the constructor's arguments.

        Args:
            pretrained: `backbones.Pretrained`.
            spec: `backbones.HeadSpec`.
            arguments: dict of the constructor's arguments.

        Returns:
            (spec, own): the reused head and the constructor arguments that follow from it; or `(None, notice)` if the
            head is new, with the text of the warning.
        """
        return None, _restoring.notice(cls, pretrained.trained_task)

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes a `*ForSequenceClassification` or a `CrossEncoder`; see `TextTask.write_checkpoint`."""
        _save.write_classifier(self, folder, format, dtype)

    pipeline_tag = "text-classification"
    score_activation: str | None = None

    @property
    def problem_type(self) -> str:
        """The `problem_type` in transformers' `config.json`."""
        return "regression"

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the code of the model card: how each library loads and calls the model."""
        return _usage.classifier(self, format, repo_id)

    def _changeable(self):
        named = isinstance(self._head_argument, str) or hasattr(self._head_argument, "with_dropout")
        return (*super()._changeable(), *(("dropout",) if named else ()))

    def _with(self, arguments):
        head, dropout = self._head_argument, arguments.get("dropout")
        if hasattr(head, "with_dropout") and dropout not in (None, self.dropout):
            # The layer holds the rate, so it is rebuilt with the same weights.
            rest = {name: value for name, value in arguments.items() if name != "dropout"}
            config = {**self.get_config(), "backbone": self.backbone, "preprocessor": self.preprocessor}
            made = type(self).from_config({**config, "head": head.with_dropout(dropout), "dropout": dropout})
            made.set_weights(self.get_weights())
            return made._with(rest)
        return super()._with(arguments)


# Keras replaces the bases of functional models, which fails if a base is reached twice: at run time this is a mixin.
if typing.TYPE_CHECKING:
    _Task = TextTask
else:
    _Task = object


class Classifying(Decides, _Task):
    """What classifiers add to `TextTask`: named labels, a default loss and metrics, `classify`.

    A subclass must set `_label_column` before it builds the model.
    """

    _label_column: data.LabelColumn

    @property
    def labels(self) -> list:
        """List of the class names, in the order of the outputs."""
        return list(self._label_column.labels)

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self._label_column.multi_label

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; like `keras.Model.compile`, with defaults.

        Args:
            optimizer: Defaults to `"auto"`: `optimizers.Auto`, which `fit` configures. With it, a new linear head
                starts as a regression on the frozen features (`freezing.probe`), if `fit` can iterate over the data
                twice.
            loss: Defaults to the cross-entropy on logits, `losses.ClassCrossentropy`, which accepts labels and shares
                of classes; with `multi_label`, to the binary cross-entropy. A loss with weights by label name
                (`losses.WeightedBinaryCrossentropy`) receives them in the order of the model's labels.
                Names of Keras's crossentropies mean the losses on logits, which are the model's outputs.
            metrics: Defaults to accuracy. Metrics see logits as well; `callbacks.EvaluateClassification` computes those
                of probabilities.
            **kwargs: passed to `keras.Model.compile`.

        Raises:
            ValueError: if a loss or a metric of Keras reads probabilities (`from_logits=False`, a threshold of 0.5), or
                targets that the model does not have.
        """
        if loss == "auto":
            loss = keras.losses.BinaryCrossentropy(from_logits=True) if self.multi_label else losses.ClassCrossentropy()
        if hasattr(loss, "for_labels"):
            loss = loss.for_labels(self.labels)
        kind: _logits.Kind = "labels" if self.multi_label else "classes"
        loss = _logits.loss_on_logits(loss, kind)
        if metrics == "auto":
            metrics = (
                [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
                if self.multi_label
                else [own_metrics.ClassAccuracy(name="accuracy")]
            )
        metrics = _logits.metrics_on_logits(metrics, kind)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def target_columns(self) -> Any:
        """Returns the `data.LabelColumn` of the model's labels."""
        return self._label_column

    def save_own_variables(self, store: Any) -> None:
        """Saves the labels with the weights, so that loading detects weights for another order of labels."""
        super().save_own_variables(store)
        _restoring.keep_names(store, _LABELS, self.labels)

    def load_own_variables(self, store: Any) -> None:
        """Loads the weights; raises if they belong to other labels or another order of them."""
        remedy = "Create the model with the labels of the file. `from_preset` can reorder them."
        rest = _restoring.without_names(store, _LABELS, self.labels, remedy)
        super().load_own_variables(rest)

    def score_pairs(self, first: Any, second: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the probability of the second label for each pair of texts, float `(rows,)`.

        Args:
            first: the first texts of the pairs.
            second: the second texts of the pairs.
            batch_size: int. Batch size for inference. Defaults to 32.
            verbose: 0, 1 or `"auto"`. Whether to show a progress bar.

        Raises:
            ValueError: if the model does not have exactly two labels, or is `multi_label`.
        """
        if len(self.labels) != 2 or self.multi_label:
            remedy = "For another classifier: `model.classify((a, b)).probabilities[:, i]`."
            raise _check.invalid("model", "a classifier of two labels", self.labels, remedy)
        return self.classify((first, second), batch_size=batch_size, verbose=verbose).probabilities[:, 1]

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `classify` and, for pairs with two labels, `rank`; see `DescribesItself.signatures`."""
        subject = "pair of texts" if pairs else "text"
        found = [self._classes(f"The classes of each {subject}", "`assets/labels.txt`", api="classify")]
        if pairs and len(self.labels) == 2 and not self.multi_label:
            found.append(Signature("rank", "rank", finish=lambda logits: self.probabilities(logits)[:, 1]))
        return found

    def explained(self) -> Explained:
        """Explains the log-odds of a label: by default the most likely label, or the only label of `multi_label`.

        They match the probabilities of `classify`, including any scaling by `calibrate`.
        """
        if len(self.labels) == 1 and not self.multi_label:
            raise _check.invalid("model", "a classifier of two labels or more", self.labels)
        if self.multi_label:  # a sigmoid's logits are log-odds
            return Explained("log-odds", self._of_scaled(picked), self.labels, first if len(self.labels) == 1 else None)
        return Explained(
            "log-odds",
            self._of_scaled(log_odds),
            self.labels,
            lambda logits: keras.ops.argmax(self._scaled(logits), axis=1),
        )

    def _of_scaled(self, number):
        """Returns a function of (logits, targets) that applies `number` to the scaled logits."""
        return lambda logits, targets: number(self._scaled(logits), targets)

    def _classes(self, subject, place, api=None):
        """Returns the signature `classify`, including the model's decisions."""
        part, decided = self._decided_part(), self._decisions
        several = "each probability by itself" if self.multi_label else "which sum to 1"
        purpose = (
            f"{subject}: `labels` and `scores`, the most likely first, and `probabilities` in the order of {place}, "
            f"{several}."
        )
        count = len(self.labels)
        return Signature(
            "classify",
            "classes",
            purpose + self._decisions_purpose(place),
            finish=lambda outputs: self.probabilities(outputs[:, :count]),
            decide=None if decided is None and self._threshold is None else self._decided_beside,
            labels=self.labels,
            api=api,
            forward=None if part is None else self._part(part),
        )

    @property
    def problem_type(self) -> str:
        """The `problem_type` in transformers' `config.json`."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    def _output_dense(self):
        """Returns the dense layer that computes the logits, or `None` if a custom head computes them."""
        return None

    def output_weights(self) -> list[tuple[Any, tuple]]:
        """Returns a list of `(variable, axes)`: the weights with one slice per label, and their label axes."""
        return [(weight, (-1,)) for weight in self._output_dense().weights]

    def _with(self, arguments):
        rest = _restoring.without_keeping(arguments)
        labels = rest.pop("labels", None)
        if labels is None or (not isinstance(labels, dict) and list(labels) == self.labels):
            return super()._with(rest)
        if isinstance(labels, dict):
            names = _renamed(labels, self.labels)
            other = {"labels": names, **self._with_other_labels(names, None)}
            return _restoring.changed(self, other, tuple(other))._with(rest)
        names = list(labels)
        are_same = len(names) == len(self.labels) and set(names) == set(self.labels)
        if not are_same and not arguments.get("keep_labels"):
            return None
        places = _restoring.places_of("labels", names, self.labels)
        if self._output_dense() is None:
            remedy = "Omit `labels`, or pass them in this order: the head is a layer of your own."
            raise _check.invalid("labels", repr(self.labels), names, remedy)
        trained = super()._with(rest)
        made = _restoring.with_outputs(trained, "labels", names, places, trained._with_other_labels(names, places))
        if made.decisions is not None and not trained.has_stale_decisions():
            made._decide_by(made.decisions)  # they were fitted for the same weights in another order
        return made

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "labels": self.labels, "multi_label": self.multi_label}
        return {**config, **self._decisions_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if "decisions" not in config and not config.get("multi_label"):
            config.pop("threshold", None)  # older files have one that had no effect with one label per text
        made, decided_for = config.pop("decisions", None), config.pop("decided_for", None)
        model = super().from_config(config)
        model._take_decisions(made, decided_for)
        return model


def _renamed(names, labels):
    """Returns the labels under their new names, from a dict of old to new names."""
    if set(names) != set(labels):
        raise _check.invalid("labels", f"a new name for each of {', '.join(map(repr, labels))}", names)
    return [names[label] for label in labels]


@keras.saving.register_keras_serializable("tfxfer")
class TextClassifier(ClassifierFromPreset, Ranks, SuggestsTexts, MixesRows, Classifying, PooledTask):
    """Classifies texts, or pairs of texts: one label per text, or any number with `multi_label`.

    backbone -> pooling -> head -> logits. Labels are passed and returned by name; the model stores them.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        labels: sequence of the class names, strings or ints, in the order of the outputs. `data.labels` finds them.
            `from_preset` defaults to the labels of a trained classifier; see the table below.
        multi_label: bool. Whether a text may have any number of labels: sigmoids instead of one softmax. Defaults to
            `False`.
        threshold: float in `[0, 1]`: the lowest probability at which `classify` returns a label. With `multi_label` it
            defaults to 0.5, and a dict of label to float sets one for each label. With one label per text, a text whose
            most likely label is below the threshold gets `None`; by default every text gets a label. See also
            `fit_decisions`.
        pooling: one of `layers.POOLING`, or several, or a Keras layer from `(batch, length, features)` and
            `padding_mask` to `(batch, features)`. Defaults to `"mean"`; `from_preset` defaults to the checkpoint's
            pooling. Not used by a head that reads token states, which pools them itself.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0.1.
        head: `"linear"`; `"probe"`, a linear head that the first `fit` initializes by a logistic regression on the
            frozen features before it trains (see `freezing.probe`; with `optimizer="auto"` a linear head starts the
            same way); `"mlp"`, one hidden layer of the backbone's size; or a Keras layer from `(batch, features)` to
            `(batch, classes)`. A layer with an attribute `reads` can read several blocks or the token states instead;
            see `layers.DenselyConnectedHead` and `layers.SeparableConvHead`. Defaults to `"linear"`.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, the backbone keeps its flags (all of it trains, unless it was frozen), and everything above trains.
        mixup: float >= 0. Above 0, a training step computes the loss on mixtures of two rows' features and targets,
            with shares drawn from Beta(mixup, mixup) for each batch; small values mix little. Evaluation, predictions
            and training metrics use unmixed rows. Requires a loss that is a mean over rows, and a head that ends in a
            linear layer. Defaults to 0 (off); the papers use 0.1 to 1.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 logits `(batch, classes)`; `classify` converts them to names and probabilities.

    `from_preset` loads a trained classifier with its head, and reproduces the logits of the reference: Hugging Face's
    `*ForSequenceClassification` (labels from `id2label`, `multi_label` from `problem_type`), a cross-encoder with
    several labels, or a folder written by `save_to_preset`.

    | `labels` for a trained classifier | result |
    |---|---|
    | none | the preset's labels |
    | the preset's, in any order | the outputs in this order |
    | a dict of the preset's labels to other names | the preset's outputs under these names |
    | others | a new head on the backbone, with a warning (no warning with `backbone_only=True`) |
    | some of the preset's and others, with `keep_labels=True` | the trained head; new labels start at random |

    Raises:
        ValueError: if labels are missing or repeated, or a pooling, head or layer group is unknown; in `from_preset`,
            if the preset is a regression, or arguments contradict the trained head.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("hf://distilbert/distilbert-base-uncased-finetuned-sst-2-english")
    model.classify(["A lovely film"]).labels  # ["POSITIVE"]

    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    model.compile(tx.optimizers.AdamW(1e-4))
    model.fit(["Where is my card?", "Can I borrow 500?"], ["card", "loan"], epochs=3)
    model.classify(["My card is gone"]).labels  # ["card"]
    ```

    References:
        - [Devlin et al., 2019](https://arxiv.org/abs/1810.04805), section 4
        - [Zhang et al., 2018](https://arxiv.org/abs/1710.09412), mixup
        - [Guo et al., 2019](https://arxiv.org/abs/1905.08941), mixup of sentence embeddings
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        labels: Sequence[str] | Sequence[int] | np.ndarray,
        multi_label: bool = False,
        threshold: float | Mapping[Any, float] | Sequence[float] | None = None,
        pooling: str | Sequence[str] | keras.layers.Layer = "mean",
        dropout: float = 0.1,
        head: str | keras.layers.Layer = "linear",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        mixup: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._label_column = data.LabelColumn(labels, multi_label)
        self.threshold = threshold
        super().__init__(
            backbone,
            preprocessor,
            pooling=pooling,
            dropout=dropout,
            head=head,
            num_outputs=len(self._label_column),
            trainable=trainable,
            **kwargs,
        )
        self.mixup = mixup

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        has_labels = pretrained.read_head is not None or isinstance(pretrained.task, cls)
        if arguments.get("labels") is None and (backbone_only or not has_labels):
            reason = "`backbone_only=True` ignores the preset's labels" if backbone_only else "The preset has none"
            if pretrained.trained_task and not has_labels:
                reason = f"The preset is a `{pretrained.trained_task}`, whose head is not reused"
            raise _check.invalid("labels", "the names of the classes", None, reason)
        return super()._from_pretrained(pretrained, arguments, backbone_only)

    @classmethod
    def _match(cls, pretrained, spec, arguments):
        labels = arguments.get("labels")
        if spec.problem_type == "regression":
            if labels is None:
                expected = "a preset with classes, or `labels` for a new head on its backbone"
                remedy = "It is a regression model or scores pairs: load it with `models.TextRegressor.from_preset`."
                raise _check.invalid("preset", expected, pretrained.trained_task, remedy)
            return None, _restoring.notice(cls, pretrained.trained_task)
        if labels is not None:
            same = len(labels) == len(spec.labels) and set(labels) == set(spec.labels)
            if same or isinstance(labels, dict):
                spec = spec.with_labels(labels)
            elif arguments.get("keep_labels"):
                spec = spec.with_outputs(labels, _restoring.places_of("labels", labels, spec.labels))
            else:
                return None, _restoring.notice(cls, pretrained.trained_task, spec.labels)
        multi_label = spec.problem_type == "multi_label_classification"
        if arguments.get("multi_label", multi_label) != multi_label:
            expected = f"{multi_label}, as the preset was trained"
            raise _check.invalid("multi_label", expected, arguments["multi_label"], "Omit it.")
        return spec, {"labels": list(spec.labels), "multi_label": multi_label}

    def _output_dense(self):
        return getattr(self.head, "output_dense", None)

    def _changeable(self):
        return (*super()._changeable(), "threshold", "mixup")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mixup": self.mixup}
