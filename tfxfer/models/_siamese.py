"""Shared towers over several texts a row."""

import keras

from tfxfer import data, layers
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._task import TextTask


@keras.saving.register_keras_serializable("tfxfer")
class Siamese(TextTask):
    """Encodes all texts of a row with one embedder, to be trained by a loss on how they lie to one another.

    The embedder is shared, not copied: after training, `model.embedder` is the fine-tuned one.

    Args:
        embedder: `TextEmbedder`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, columns, length)`, as `data.batches(..., columns="separate")` makes them; `fit` takes
    a tuple of string columns as well. Output: float32 `(batch, columns, dim)`.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile(keras.optimizers.AdamW(2e-5), loss=tx.losses.CoSENTLoss())
    model.fit((["a man eats", "a dog"], ["a person eats", "a cat"]), [4.5, 1.0])
    ```

    Reference: Bromley et al., 1993; Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084.
    """

    _columns = "separate"

    def __init__(self, embedder, *, trainable=None, **kwargs):
        self.embedder = embedder
        inputs = {name: keras.Input((None, None), dtype="int32", name=name) for name in embedder.input}
        outputs = layers.SiameseTowers(embedder, name="towers")(inputs)
        kwargs.setdefault("compile", False)  # the loss is the user's choice
        super().__init__(
            inputs,
            outputs,
            backbone=embedder.backbone,
            preprocessor=embedder.preprocessor,
            top=embedder._top,
            trainable={} if trainable is None else trainable,
            **kwargs,
        )

    def embedding_spec(self):
        return self.embedder.embedding_spec()

    def _preprocess_texts(self, x):
        return data.pack_columns(x, self.preprocessor)

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Makes the towers over `TextEmbedder.from_preset(preset, **kwargs)`."""
        return cls(TextEmbedder.from_preset(preset, **kwargs))

    def get_config(self):
        return {
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "trainable": self._trainable_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["embedder"] = keras.saving.deserialize_keras_object(config["embedder"])
        return cls(**config)
