"""Texts to numbers."""

import keras
import numpy as np

from tfxfer import _check, optimizers
from tfxfer.models._classifier import PooledTask


@keras.saving.register_keras_serializable("tfxfer")
class TextRegressor(PooledTask):
    """Predicts numbers from texts, or from pairs of texts.

    backbone -> pooling -> head -> values, without an activation.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        num_outputs: int. Values for each text. Defaults to 1.
        pooling: one of `layers.POOLING`, or several. `from_preset` takes the checkpoint's.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0: dropout shifts the scale of
            what a regression reads.
        head: `"linear"`, `"mlp"`, or a Keras layer from `(batch, features)` to `(batch, num_outputs)`.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, those of the backbone that its flags say (all, unless it was frozen), and all above.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, num_outputs)`.

    Raises:
        ValueError: for an unknown pooling, head or layer group; in `fit`, for targets that are no finite numbers.

    Example:

    ```python
    model = tx.models.TextRegressor.from_preset("all_minilm_l6_v2")
    model.compile(tx.optimizers.AdamW(1e-4))
    model.fit(["What is a loan?", "loan what"], [1.0, 0.2], epochs=3)
    ```
    """

    def __init__(
        self,
        backbone,
        preprocessor=None,
        *,
        num_outputs=1,
        pooling="mean",
        dropout=0.0,
        head="linear",
        trainable=None,
        **kwargs,
    ):
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        super().__init__(
            backbone,
            preprocessor,
            pooling=pooling,
            dropout=dropout,
            head=head,
            num_outputs=self.num_outputs,
            trainable=trainable,
            **kwargs,
        )

    def compile(self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs):
        """Configures training; as `keras.Model.compile`, with AdamW(2e-5), mean squared error and mean absolute error
        as defaults.
        """
        super().compile(
            optimizer=optimizers.AdamW(2e-5) if optimizer == "auto" else optimizer,
            loss=keras.losses.MeanSquaredError() if loss == "auto" else loss,
            metrics=[keras.metrics.MeanAbsoluteError(name="mae")] if metrics == "auto" else metrics,
            **kwargs,
        )

    def _encode_raw_targets(self, y):
        targets = np.asarray(y, "float32").reshape(-1, self.num_outputs)
        bad = np.flatnonzero(~np.isfinite(targets).all(axis=1))
        if bad.size:
            raise _check.invalid("y", "finite numbers", targets[bad[0]].tolist(), f"It stands in row {bad[0]}.")
        return targets

    def get_config(self):
        return {**super().get_config(), "num_outputs": self.num_outputs}
