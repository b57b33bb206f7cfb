"""Unsupervised training of sentence encoders with a denoising autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfxfer import _check, backbones, data, layers, losses, optimizers
from tfxfer import metrics as own_metrics
from tfxfer.backbones import _masked_heads
from tfxfer.backbones._decoder import TextDecoder
from tfxfer.layers._token_logits import TokenLogits
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._from_preset import DenoisingFromPreset
from tfxfer.models._predicts_rows import PredictsRows
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask


@keras.saving.register_keras_serializable("tfxfer")
class DenoisingAutoencoder(DenoisingFromPreset, PredictsRows, TextTask):
    """Trains an encoder to produce vectors from which a decoder can reconstruct the texts (TSDAE).

    The text with some tokens deleted -> backbone -> pooling -> one vector; the vector and the previous tokens ->
    decoder -> the next token. The decoder sees nothing else of the text, so the vector must represent it. After
    training, discard the decoder: `TextEmbedder.from_model(model)` keeps encoder and pooling. The deleted tokens depend
    on seed, epoch and row; see `data.DeletedTextColumn`.

    The decoder differs from the paper: here it is new and small, there it is a copy of the encoder. In both, encoder,
    decoder and output share one embedding table. Attention to a single vector reduces to a dense layer.

    Args:
        backbone: `backbones.Backbone`, not quantized.
        preprocessor: `preprocessing.TextPreprocessor`.
        deletion_rate: float in `(0, 1)`. The probability that a token is deleted. Defaults to 0.6, the paper's.
        num_layers: int. Blocks of the decoder. Defaults to 1.
        dropout: float in `[0, 1)`. Rate in the decoder. Defaults to 0.1.
        pooling: one of `layers.POOLING`, or several. Defaults to `"mean"`; `from_preset` defaults to the checkpoint's.
        trainable: which layer groups train; see `set_trainable`. Decoder and output are the group `"head"`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them;
    and `decoder_ids`, `decoder_mask` `(batch, whole length - 1)`. Output: float32 logits of each next token, `(batch,
    whole length - 1, vocabulary_size)`, undefined at padding.

    Raises:
        ValueError: if an argument is out of range, or the backbone is quantized or a wrapped KerasHub backbone.

    Example:

    ```python
    model = tx.models.DenoisingAutoencoder.from_preset("all_minilm_l6_v2", sequence_length=64)
    model.compile()
    model.fit(texts, batch_size=8, seed=0)
    embedder = tx.models.TextEmbedder.from_model(model)
    ```

    Reference: Wang et al., 2021, https://arxiv.org/abs/2104.06979.
    """

    is_pretraining = True

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        deletion_rate: float = 0.6,
        num_layers: int = 1,
        dropout: float = 0.1,
        pooling: str | Sequence[str] = "mean",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone = backbones.adopt(backbone)
        if not isinstance(backbone, backbones.Backbone) or backbone.quantization is not None:
            expected = "a backbone of this package, not quantized"
            raise _check.invalid("backbone", expected, backbone.quantization or type(backbone).__name__)
        self.deletion_rate = _check.number("deletion_rate", deletion_rate, above=0.0)
        data.DeletedTextColumn(preprocessor, deletion_rate)  # validates the arguments
        self.num_layers = _check.integer("num_layers", num_layers)
        self.dropout = _check.number("dropout", dropout, minimum=0.0, maximum=1.0)
        self.pooling = layers.pooling_modes(pooling)

        # === Layers ===
        features = layers.Pooling(self.pooling, name="pooling")
        vector_dim = backbone.hidden_dim * len(self.pooling)
        self.decoder = TextDecoder(backbone, self.num_layers, vector_dim, self.dropout)
        options: dict[str, Any] = {
            "activation": "gelu",
            "norm_epsilon": 1e-12,
            "transform_bias": True,
            "norm_bias": True,
        }
        self.head = TokenLogits(_masked_heads.table_of(backbone), **options, name="head")

        # === Functional Model ===
        inputs = backbone.input
        ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("decoder_ids", "decoder_mask"))
        vector = features(backbone(inputs), padding_mask=inputs["padding_mask"])
        outputs = self.head(self.decoder(ids, mask, vector))
        super().__init__(
            {**inputs, "decoder_ids": ids, "decoder_mask": mask},
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.decoder, self.head],
            trainable=trainable,
            **kwargs,
        )
        self._count_rows(mask)

    def input_columns(self) -> dict[str, Any]:
        """Returns the column `"text"`, with tokens deleted at random."""
        return {"text": data.DeletedTextColumn(self.preprocessor, self.deletion_rate)}

    def prediction_columns(self) -> dict[str, Any]:
        """Returns the column `"text"`, with all tokens."""
        return {"text": data.DeletedTextColumn(self.preprocessor, 0.0)}

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; like `keras.Model.compile`, with defaults.

        Args:
            optimizer: Defaults to `"auto"`: `optimizers.Auto` with the paper's peak of 3e-5, and ten times that for the
                new decoder.
            loss: Defaults to the mean cross-entropy over all tokens, `losses.TagCrossentropy`.
            metrics: Defaults to the perplexity and the share of correctly predicted tokens.
            **kwargs: passed to `keras.Model.compile`.
        """
        loss = losses.TagCrossentropy() if isinstance(loss, str) and loss == "auto" else loss
        if isinstance(metrics, str) and metrics == "auto":
            metrics = [own_metrics.Perplexity(name="perplexity"), own_metrics.TagAccuracy(name="accuracy")]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def _auto_optimizer(self):
        return optimizers.Auto(3e-5, multipliers={"head": 10.0})

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None) -> None:
        """Not supported: decoder and output use the embedding table directly.

        `mode`, `config` and `filters` are those of `TextTask.quantize`.
        """
        raise NotImplementedError(
            "An autoencoder trains its encoder's weights, and quantized weights cannot be trained. Quantize the model "
            f"created from it: `TextEmbedder.from_model(model).quantize(...)`. Received: mode={mode!r}"
        )

    def served_model(self) -> Any:
        """Returns an embedder on this model's layers, without the decoder."""
        return TextEmbedder(self.backbone, self.preprocessor, pooling=self.pooling)

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns the signatures of the embedder."""
        return self.served_model().signatures(pairs)

    def _changeable(self):
        return (*super()._changeable(), "deletion_rate", "dropout")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "deletion_rate": self.deletion_rate,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "pooling": list(self.pooling),
        }
