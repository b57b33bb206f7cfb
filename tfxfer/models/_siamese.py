"""Shared towers over several texts per row."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from tfxfer import _check, backbones, data, layers
from tfxfer.models import _restoring
from tfxfer.models._attributions import Explanation
from tfxfer.models._classifier import Classifying
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._from_preset import SiameseClassifierFromPreset, SiameseFromPreset
from tfxfer.models._kinds import OtherKind
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask


@keras.saving.register_keras_serializable("tfxfer")
class Siamese(SiameseFromPreset, TextTask):
    """Encodes every text of a row with one shared embedder, for losses that compare the embeddings.

    The embedder is shared, not copied: after training, `model.embedder` is the fine-tuned one.

    Args:
        embedder: `TextEmbedder`, `SparseEmbedder` or `LateInteractionEmbedder`. For the last, the first column
            contains queries, and the output is `(batch, columns, tokens, dim)`.
        chunk_size: int. The number of texts per pass of the embedder, for batches too large for one pass; see
            `layers.SiameseTowers`. By default, all texts go through in one pass.
        decoder: the layer on the embeddings of a row: one of `layers.COMPARISONS`, such as `"cosine"` or
            `"euclidean_distance"`, which compares the first column with each of the others, or a Keras layer on
            `(batch, columns, dim)`. By default, there is none: the losses of this package work on the embeddings.
        all_layers: bool. Whether the output has an embedding from every layer of the encoder, from its token embeddings
            up, for `losses.AdaptiveLayerLoss`. That of layer l > 0 is the output of `embedder.with_blocks(l)`.
        trainable: as in `TextEmbedder`; by default, the embedder keeps its flags.
        **kwargs: `name`.

    Raises:
        ValueError: if `embedder` is not an embedder, a decoder or layer group is unknown, `decoder` is set with
            `all_layers` or for an embedder of token vectors, or `all_layers` for an embedder that is not a
            `TextEmbedder`.

    Input: dict of int32 `(batch, columns, length)`, from `data.batches(..., columns="separate")`; `fit` also takes
    a tuple of string columns. Output: float32 `(batch, columns, dim)`, or the output of the decoder; with
    `all_layers`, `(batch, columns, layers, dim)`, where `layers` is the number of blocks plus one.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile(tx.optimizers.AdamW(2e-5), loss=tx.losses.CoSENTLoss())
    model.fit((["a man eats", "a dog"], ["a person eats", "a cat"]), [4.5, 1.0])
    ```

    Reference: Bromley et al., 1993; Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084.
    """

    text_form = "separate"
    # The number of columns, if it is fixed.
    _columns: int | None = None

    def __init__(
        self,
        embedder: Any,
        *,
        decoder: str | keras.layers.Layer | None = None,
        chunk_size: int | None = None,
        all_layers: bool = False,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        kinds = "a `models.TextEmbedder`, `SparseEmbedder` or `LateInteractionEmbedder`"
        self.embedder = _check.instance("embedder", embedder, (TextEmbedder, OtherKind), kinds)
        self.chunk_size = chunk_size
        self._decoder_argument = decoder
        self.all_layers = _check.instance("all_layers", all_layers, bool, "a bool")
        if all_layers and isinstance(embedder, OtherKind):
            raise _check.invalid("all_layers", "False for an embedder that is not a `TextEmbedder`", True)
        if all_layers and decoder is not None:
            raise _check.invalid("decoder", "None with `all_layers`, whose losses read the embeddings", decoder)
        if isinstance(decoder, str):
            decoder = layers.Comparison(_check.one_of("decoder", decoder, layers.COMPARISONS), name="decoder")
        shape = (self._columns, None)
        inputs = {name: keras.Input(shape, dtype="int32", name=name) for name in embedder.input}
        outputs = self._towers(embedder, inputs)
        head = list(embedder.layer_groups().get("head", ()))
        if decoder is not None:
            if len(outputs.shape) != 3:
                remedy = "Its losses compare token vectors: `losses.MaxSimRankingLoss`."
                raise _check.invalid("decoder", "None for an embedder of token vectors", self._decoder_argument, remedy)
            outputs = decoder(outputs)
            head.append(decoder)
        kwargs.setdefault("compile", False)  # the loss is the user's choice
        super().__init__(
            inputs,
            outputs,
            backbone=embedder.backbone,
            preprocessor=embedder.preprocessor,
            top={**self._between(), "head": head},
            trainable=trainable,
            **kwargs,
        )

    def decoder_changes_embeddings(self) -> bool:
        """Returns whether the decoder changes the embeddings; a decoder that only adds a loss does not."""
        decoder = self._decoder_argument
        return decoder is not None and getattr(decoder, "changes_embeddings", True)

    def _between(self):
        """The layer groups between the embedder's encoder and its head: a dict of name to list of layers."""
        return {}

    def _towers(self, embedder, inputs):
        """Makes the layer that encodes the columns, and calls it."""
        if isinstance(embedder, OtherKind):
            return embedder.make_towers(self.chunk_size)(inputs)
        encoder = embedder.layer_embeddings() if self.all_layers else embedder
        return layers.SiameseTowers(encoder, self.chunk_size, name="towers")(inputs)

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns the specification of the embedder."""
        return self.embedder.embedding_spec()

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes the embedder; raises for a decoder with weights, which these formats cannot store."""
        # The base class raises.
        if len(self.weights) > len(self.embedder.weights) and self.decoder_changes_embeddings():
            super().write_checkpoint(folder, format, dtype)
        self.embedder.write_checkpoint(folder, format, dtype)

    pipeline_tag = "sentence-similarity"

    def card_rows(self) -> dict[str, str]:
        """Returns the rows of the embedder."""
        return self.embedder.card_rows()

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the usage of the embedder."""
        return self.embedder.usage(format, repo_id)

    def served_model(self) -> Any:
        """Returns the embedder: after training, its vectors compare texts."""
        return self.embedder

    def explain(self, a: Any, b: Any, **kwargs: Any) -> list[Explanation]:  # type: ignore[override]
        """Explains which words make two texts similar: `explain` of the embedder.

        Args:
            a: a string, or a list of strings.
            b: a string, or a list of equally many.
            **kwargs: as in `TextEmbedder.explain`.
        """
        return self.embedder.explain(a, b, **kwargs)

    def tower(self) -> Any:
        """Returns the embedder."""
        return self.embedder

    def _auto_optimizer(self):
        is_other = isinstance(self.embedder, OtherKind)
        return self.embedder._auto_optimizer() if is_other else super()._auto_optimizer()

    # Arguments of `from_preset` that are the constructor's; the others go to the embedder.
    _own: tuple[str, ...] = ("decoder", "chunk_size", "all_layers")
    # Whether the embedder may be sparse or return token vectors.
    _takes_other_kinds = True

    keeps_embedding = True

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        """Makes the towers over an embedder; arguments that are not the constructor's go to the embedder."""
        notice = None
        if not backbone_only:
            saved = pretrained.task if isinstance(pretrained.task, cls) else None
            model = None if saved is None else saved._with(arguments)
            if model is not None:
                return model, None
            labels = getattr(saved, "labels", None)
            notice = _restoring.notice(cls, _restoring.left_out(cls, pretrained), labels)
        own = {name: value for name, value in arguments.items() if name in cls._own}
        rest = {name: value for name, value in arguments.items() if name not in cls._own}
        # A dense embedder would load only the backbone of these.
        if cls._takes_other_kinds and not backbone_only and isinstance(pretrained.task, OtherKind):
            return cls(pretrained.task._with(rest), **own), None
        embedder, _ = TextEmbedder._from_pretrained(pretrained, rest, backbone_only)
        return cls(embedder, **own), notice

    def _with(self, arguments):
        own = {name: value for name, value in arguments.items() if name in (*self._own, "name", "trainable")}
        rest = {name: value for name, value in arguments.items() if name not in own}
        _restoring.changed(self.embedder, rest, ())  # raises if one differs
        return super()._with(own)

    def _changeable(self):
        return (*super()._changeable(), "chunk_size", "all_layers")

    def get_config(self) -> dict[str, Any]:
        decoder = self._decoder_argument
        named = decoder is None or isinstance(decoder, str)
        return {
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "decoder": decoder if named else keras.saving.serialize_keras_object(decoder),
            "chunk_size": self.chunk_size,
            "all_layers": self.all_layers,
            "trainable": self._trainable_config(),
            "name": self.name,
            **self._record_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        for name in ("embedder", "decoder"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


@keras.saving.register_keras_serializable("tfxfer")
class SiameseClassifier(SiameseClassifierFromPreset, Classifying, Siamese):
    """Classifies pairs of texts by their two embeddings: towers -> `layers.SoftmaxDecoder` -> logits.

    Each text is encoded separately, so after training, the embedder (`model.embedder`) can compare any two encoded
    texts without another pass. A cross-encoder, `TextClassifier` on two columns, reads both texts together: it is more
    accurate, but needs one pass for each pair.

    Args:
        embedder: `TextEmbedder`.
        labels: sequence of the class names, in the order of the outputs.
        features: the features of the embeddings `u` and `v` that the decoder reads, names from `layers.FEATURES`.
        hidden_dims: sequence of ints. Hidden layers of the decoder.
        dropout: float in `[0, 1)`. Rate before the decoder's dense layers.
        threshold: float in `[0, 1]`, as in `TextClassifier` for one label per text.
        chunk_size, trainable, **kwargs: as in `Siamese`.

    Input: dict of int32 `(batch, 2, length)`; strings as a tuple of two columns. Output: float32 logits
    `(batch, classes)`; `classify` turns them into names and probabilities.

    Raises:
        ValueError: if labels are missing or equal, or a feature is unknown.

    Example:

    ```python
    model = tx.models.SiameseClassifier(embedder, labels=["entailment", "neutral", "contradiction"])
    model.compile(tx.optimizers.AdamW(2e-5))
    model.fit((premises, hypotheses), labels)
    model.classify((["A man eats."], ["Somebody eats."])).labels
    ```

    Reference: Reimers and Gurevych, 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        labels: Sequence[str] | Sequence[int] | np.ndarray,
        features: Sequence[str] = ("u", "v", "|u-v|"),
        hidden_dims: Sequence[int] = (),
        dropout: float = 0.0,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        _check.instance("embedder", embedder, TextEmbedder, "a `models.TextEmbedder`")
        self._label_column = data.LabelColumn(labels)
        self.threshold = threshold
        decoder = layers.SoftmaxDecoder(len(self._label_column), features, hidden_dims, dropout, name="decoder")
        super().__init__(embedder, decoder=decoder, **kwargs)
        self._decoder = decoder
        self._mark_new_head()

    _takes_other_kinds = False
    _own = ("labels", "features", "hidden_dims", "dropout", "threshold", "chunk_size")
    text_count = 2

    def served_model(self) -> Any:
        """Returns this model: an export has the classes of pairs and the embedder's vectors."""
        return self

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `classify` on pairs and the signatures of the embedder."""
        return [*Classifying.signatures(self, True), *self.embedder.signatures()]

    def explain(  # type: ignore[override]
        self, x: Any, target: Any = None, **kwargs: Any
    ) -> list[Explanation]:
        """Explains which words of both texts support a class; the other text's vector is held fixed.

        Args:
            x: a tuple of two columns of strings.
            target: as in `TextClassifier.explain`.
            **kwargs: as in `TextClassifier.explain`.
        """
        return TextTask.explain(self, x, target, **kwargs)

    def _output_dense(self):
        return self._decoder.head.denses[-1]

    def linear_head(self) -> tuple[Any, Any] | None:
        """Returns the decoder's features of the two embeddings, and its dense layer if it has no hidden layers."""
        if self._decoder.head.hidden_dims:
            return None
        return self._decoder.compared(self.get_layer("towers").output), self._decoder.head.denses[0]

    def decision_features(self) -> Any:
        """Returns the decoder's features of the two embeddings; see `Decides.decision_features`."""
        return self._decoder.compared(self.get_layer("towers").output)

    def _changeable(self):
        return (*super()._changeable(), "dropout", "threshold")

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("decoder", "multi_label", "all_layers"):
            config.pop(name, None)
        decoder = self._decoder.get_config()
        return {**config, **{name: decoder[name] for name in ("features", "hidden_dims", "dropout")}}
