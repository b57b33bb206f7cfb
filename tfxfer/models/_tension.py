"""Sentence encoders that learn from texts alone, by agreeing with another encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._from_preset import ContrastiveTensionFromPreset
from tfxfer.models._siamese import Siamese


@keras.saving.register_keras_serializable("tfxfer")
class ContrastiveTension(ContrastiveTensionFromPreset, Siamese):
    """Two copies of an embedder that are to agree on equal texts and differ on others: contrastive tension.

    The first text of a row goes through the embedder, the second through a copy of it, which trains by itself. Both
    start alike; the loss pulls them together where the texts are equal and apart where they are not, so that what they
    share is what tells texts apart. After training `model.embedder` is used alone, and the copy is thrown away.

    | loss | rows |
    |---|---|
    | `losses.ContrastiveTensionLoss` | `data.tension_pairs(texts)`: a text with itself (1) and with some others (0) |
    | `losses.ContrastiveTensionInBatchLoss` | `(texts, texts)`: the other texts of a batch are the negatives |

    Args:
        embedder: `TextEmbedder`. It is shared, not copied; its copy is made here.
        trainable: as `TextEmbedder` has it; by default the embedder's flags stay. The copy, `model.twin`, is the group
            `"twin"`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, 2, length)`; `fit` takes a tuple of two string columns as well. Output: float32
    `(batch, 2, dim)`.

    Raises:
        ValueError: if `embedder` is no `TextEmbedder`; for another number of columns than two.

    Example:

    ```python
    model = tx.models.ContrastiveTension(embedder)
    model.compile(keras.optimizers.RMSprop(1e-5), loss=tx.losses.ContrastiveTensionLoss(reduction="sum"))
    model.fit(tx.data.batches(tx.data.tension_pairs(texts, seed=0), model, 16))
    model.embedder.encode(["Where is my card?"])
    ```

    Reference: Carlsson et al., 2021, Semantic Re-tuning with Contrastive Tension,
    https://openreview.net/forum?id=Ov_sMNau-PF.
    """

    text_count = 2
    _columns = 2

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        _check.instance("embedder", embedder, TextEmbedder, "a `models.TextEmbedder`")
        self.twin = _copied(embedder)
        super().__init__(embedder, trainable=trainable, **kwargs)

    def _between(self):
        return {"twin": [self.twin]}

    def _towers(self, embedder, inputs):
        columns = [{name: x[:, column] for name, x in inputs.items()} for column in range(2)]
        return ops.stack([embedder(columns[0]), self.twin(columns[1])], axis=1)

    def write_checkpoint(self, folder: Any, format: str, dtype: Any) -> None:
        """Writes the embedder: the copy is of no use after training."""
        self.embedder.write_checkpoint(folder, format, dtype)

    _own = ()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in ("decoder", "chunk_size", "all_layers")}


def _copied(embedder):
    """Returns an embedder of its own with an embedder's weights."""
    backbone = type(embedder.backbone).from_config(embedder.backbone.get_config())
    parts = {"backbone": backbone, "preprocessor": embedder.preprocessor, "trainable": None}
    made = type(embedder).from_config({**embedder.get_config(), **parts, "name": "twin"})
    made.set_weights(embedder.get_weights())
    return made
