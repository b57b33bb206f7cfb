"""Sentence encoders trained on unlabeled texts by agreement with another encoder."""

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
    """Contrastive tension: trains two copies of an embedder to agree on equal texts and to differ on others.

    The first text of a row goes through the embedder, the second through a copy of it, which trains separately. Both
    start with equal weights. The loss pulls their vectors together for equal texts and apart for different texts, so
    both learn what distinguishes texts. After training, use only `model.embedder` and discard the copy.

    | loss | rows |
    |---|---|
    | `losses.ContrastiveTensionLoss` | `data.tension_pairs(texts)`: a text with itself (1) and with others (0) |
    | `losses.ContrastiveTensionInBatchLoss` | `(texts, texts)`: the other texts of a batch are the negatives |

    Args:
        embedder: `TextEmbedder`. The first tower shares it; the second is a copy.
        trainable: as in `TextEmbedder`; by default, the embedder keeps its flags. The copy, `model.twin`, is the group
            `"twin"`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, 2, length)`; `fit` also takes a tuple of two string columns. Output: float32
    `(batch, 2, dim)`.

    Raises:
        ValueError: if `embedder` is not a `TextEmbedder`, or if there are not exactly two columns.

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
        """Writes the embedder: the copy is not needed after training."""
        self.embedder.write_checkpoint(folder, format, dtype)

    _own = ()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in ("decoder", "chunk_size", "all_layers")}


def _copied(embedder):
    """Returns an independent embedder with the weights of an embedder."""
    backbone = type(embedder.backbone).from_config(embedder.backbone.get_config())
    parts = {"backbone": backbone, "preprocessor": embedder.preprocessor, "trainable": None}
    made = type(embedder).from_config({**embedder.get_config(), **parts, "name": "twin"})
    made.set_weights(embedder.get_weights())
    return made
