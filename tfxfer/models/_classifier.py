"""Texts to labels."""

import collections
import typing

import keras
import numpy as np

from tfxfer import _check, layers, optimizers, preprocessing
from tfxfer.models._task import TextTask

Classification = collections.namedtuple("Classification", ["labels", "probabilities"])
Classification.__doc__ = "What `TextClassifier.classify` returns: label names and probabilities, in the texts' order."

HEADS = {"linear": (), "mlp": None}


def make_head(head, num_outputs, dropout, hidden_dim):
    """Returns the layer for `head`: a name out of `HEADS`, or a Keras layer that is taken as it is."""
    if isinstance(head, keras.layers.Layer):
        return head
    _check.one_of("head", head, HEADS, "Or give a Keras layer from (batch, features) to (batch, outputs).")
    hidden_dims = (hidden_dim,) if HEADS[head] is None else HEADS[head]
    return layers.Head(num_outputs, hidden_dims, dropout=dropout, name="head")


class PooledTask(TextTask):
    """A task with pooled features and a head: what classifier and regressor share."""

    def __init__(self, backbone, preprocessor, *, pooling, dropout, head, num_outputs, trainable, **kwargs):
        # === Layers ===
        self.pooling = layers.pooling_modes(pooling)
        self.dropout = dropout
        self._head_argument = head
        features = layers.Pooling(self.pooling, name="pooling")
        self.head = make_head(head, num_outputs, dropout, backbone.hidden_dim)

        # === Functional Model ===
        inputs = backbone.input
        outputs = self.head(features(backbone(inputs), padding_mask=inputs["padding_mask"]))
        if len(outputs.shape) != 2 or outputs.shape[-1] != num_outputs:
            raise _check.invalid("head", f"a layer with outputs (batch, {num_outputs})", tuple(outputs.shape))
        super().__init__(
            inputs,
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.head],
            trainable=trainable,
            **kwargs,
        )

    def get_config(self):
        head = self._head_argument
        return {
            **super().get_config(),
            "pooling": list(self.pooling),
            "dropout": self.dropout,
            "head": head if isinstance(head, str) else keras.saving.serialize_keras_object(head),
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("head"), dict):
            config = {**config, "head": keras.saving.deserialize_keras_object(config["head"])}
        return super().from_config(config)


# Keras replaces the bases of functional models, which fails where one is reached twice: at run time this is a mixin.
if typing.TYPE_CHECKING:
    _Task = TextTask
else:
    _Task = object


class Classifying(_Task):
    """What classifiers share beside `TextTask`: labels by name, default loss and metrics, `classify`.

    A subclass sets `_encoder` before it builds the model.
    """

    _encoder: preprocessing.LabelEncoder

    @property
    def labels(self):
        """The class names in the order of the outputs."""
        return list(self._encoder.labels)

    @property
    def multi_label(self):
        """Whether a text may have any number of labels."""
        return self._encoder.multi_label

    def compile(self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs):
        """Configures training; as `keras.Model.compile`, with defaults.

        Args:
            optimizer: defaults to `optimizers.AdamW(2e-5)`, BERT's smallest fine-tuning rate.
            loss: defaults to the cross-entropy on logits: categorical, or binary for `multi_label`.
            metrics: defaults to accuracy.
            **kwargs: as `keras.Model.compile` has them.
        """
        if optimizer == "auto":
            optimizer = optimizers.AdamW(2e-5)
        if loss == "auto":
            kind = keras.losses.BinaryCrossentropy if self.multi_label else keras.losses.SparseCategoricalCrossentropy
            loss = kind(from_logits=True)
        if metrics == "auto":
            metrics = (
                [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
                if self.multi_label
                else [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
            )
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def _encode_targets(self, y):
        return self._encoder(y)

    def _encode_raw_targets(self, y):
        return self._encoder.encode(y)

    def probabilities(self, logits):
        """Turns logits `(rows, classes)` into probabilities: a softmax, or sigmoids for `multi_label`."""
        return (keras.ops.sigmoid if self.multi_label else keras.ops.softmax)(logits)

    def classify(self, x, batch_size=32, *, threshold=0.5, verbose=0):
        """Returns label names and probabilities for texts.

        Args:
            x: list or array of strings, a tuple of two such columns for pairs, or batches as `predict` takes them.
            batch_size: int. Texts computed at a time.
            threshold: float in `[0, 1]`. With `multi_label`, the least probability of a label that is given.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            `Classification(labels, probabilities)`: a list with a name for each text (with `multi_label`, a list of
            names, the likeliest first, and possibly none), and a float32 array `(texts, classes)` in the order of the
            model's `labels`.

        Example:

        ```python
        labels, probabilities = model.classify(["My card is gone", "What does a loan cost?"])
        ```
        """
        _check.number("threshold", threshold, minimum=0.0, maximum=1.0)
        logits = self.predict(x, batch_size=batch_size, verbose=verbose)
        probabilities = keras.ops.convert_to_numpy(self.probabilities(logits))
        if not self.multi_label:
            return Classification(self._encoder.decode(np.argmax(probabilities, axis=-1)), probabilities)
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        names = [
            self._encoder.decode([i for i in indices if row[i] >= threshold])
            for indices, row in zip(order, probabilities, strict=True)
        ]
        return Classification(names, probabilities)

    def get_config(self):
        return {**super().get_config(), "labels": self.labels, "multi_label": self.multi_label}


@keras.saving.register_keras_serializable("tfxfer")
class TextClassifier(Classifying, PooledTask):
    """Sorts texts, or pairs of texts, into classes: one of them, or any number with `multi_label`.

    backbone -> pooling -> head -> logits. Labels go in and come out by name; the model keeps them.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        labels: sequence of the class names, strings or ints, in the order of the outputs. `data.labels` finds them.
        multi_label: bool. Whether a text may have any number of labels: sigmoids instead of one softmax.
        pooling: one of `layers.POOLING`, or several. `from_preset` takes the checkpoint's.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0.1.
        head: `"linear"`, `"mlp"` (one hidden layer of the backbone's size), or a Keras layer from `(batch, features)`
            to `(batch, classes)`.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, those of the backbone that its flags say (all, unless it was frozen), and all above.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 logits `(batch, classes)`; `classify` turns them into names and probabilities.

    Raises:
        ValueError: for missing or equal labels, an unknown pooling, head or layer group.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    model.compile(tx.optimizers.AdamW(1e-4))
    model.fit(["Where is my card?", "Can I borrow 500?"], ["card", "loan"], epochs=3)
    model.classify(["My card is gone"]).labels  # ["card"]
    ```

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 4.
    """

    def __init__(
        self,
        backbone,
        preprocessor=None,
        *,
        labels,
        multi_label=False,
        pooling="mean",
        dropout=0.1,
        head="linear",
        trainable=None,
        **kwargs,
    ):
        self._encoder = preprocessing.LabelEncoder(labels, multi_label, name="label_encoder")
        super().__init__(
            backbone,
            preprocessor,
            pooling=pooling,
            dropout=dropout,
            head=head,
            num_outputs=len(self._encoder.labels),
            trainable=trainable,
            **kwargs,
        )
