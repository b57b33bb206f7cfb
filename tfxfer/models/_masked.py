"""Masked language modeling: unsupervised training of an encoder on texts."""

import collections
import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check, backbones, data, layers, losses, optimizers
from tfxfer import metrics as own_metrics
from tfxfer.backbones import _masked_heads, _write
from tfxfer.layers._token_logits import ACTIVATIONS, TakeTokens, TokenLogits
from tfxfer.models import _vocabulary
from tfxfer.models._from_preset import MaskedFromPreset
from tfxfer.models._predicts_rows import PredictsRows
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask

Filling = collections.namedtuple("Filling", ["token", "probability"])
Filling.__doc__ = "A token that `MaskedLanguageModel.fill_mask` predicts for a mask, with its probability."

# The number of tokens that an export returns for each mask.
_MOST = 5


@keras.saving.register_keras_serializable("tfxfer")
class MaskedLanguageModel(MaskedFromPreset, PredictsRows, TextTask):
    """Continues the pretraining of an encoder by masked language modeling, on texts without labels.

    backbone -> vectors of the masked tokens -> dense, activation, norm -> embedding table -> logits. Logits are
    computed only at masked positions. Each epoch masks other tokens, depending on seed, epoch and row; see
    `data.MaskedTextColumn`. Evaluation always masks the same tokens.

    Pretraining on texts from a task's domain improves the encoder on that task (Gururangan et al., 2020). Afterwards,
    any other class can reuse the encoder: with `from_model`, or with `from_preset` from the directory that
    `save_to_preset` wrote. Add new words to the vocabulary before training, with `with_added_tokens`.

    Texts longer than the preprocessor's `sequence_length` are truncated: split documents first, for example into
    paragraphs.

    Args:
        backbone: `backbones.Backbone`, not quantized, with bidirectional attention.
        preprocessor: `preprocessing.TextPreprocessor` whose tokenizer has a mask token.
        mask_rate: float in `(0, 1)`. The share of a text's tokens to mask, at least one token. Defaults to 0.15.
        whole_words: bool. Whether to mask all tokens of a word together. Defaults to `False`.
        mask_share: float in `[0, 1]`. The share of masked tokens that become the mask token. Defaults to 0.8.
        random_share: float in `[0, 1]`. The share of masked tokens that become a random token; the rest are unchanged.
            Defaults to 0.1.
        head: dict of the head's settings: `activation` (one that the backbone supports, or `"tanh"`), `norm_epsilon`,
            and the bools `transform_bias` and `norm_bias`. Omitted settings default to those of the family's models.
        pooling: one of `layers.POOLING`, or several: the pooling of models created from this one. The model itself does
            not pool. Defaults to `"mean"`; `from_preset` defaults to the checkpoint's.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them;
    and `mask_positions` `(batch, predictions)`, padded with -1. Output: float32 logits `(batch, predictions,
    vocabulary_size)`, undefined at positions of -1.

    `from_preset` reuses the head of a checkpoint that has one, with the same outputs as Hugging Face's `*ForMaskedLM`:
    BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ALBERT, ELECTRA's generator, MPNet, DeBERTa-v2 and ModernBERT.
    Otherwise the head is new, except for the embedding table.

    Raises:
        ValueError: if a share is out of range, the tokenizer has no mask token, or the backbone is quantized or has
            causal attention (GPT-2).

    Example:

    ```python
    model = tx.models.MaskedLanguageModel.from_preset("hf://google-bert/bert-base-uncased", sequence_length=128)
    model.compile()
    model.fit(texts, epochs=3, validation_split=0.1)
    model.fill_mask(["Where is my [MASK]?"], k=2)  # [[[Filling(token='card', probability=0.4), ...]]]
    classifier = tx.models.TextClassifier.from_model(model, labels=["card", "loan"])
    ```

    References:
        - [Devlin et al., 2019](https://arxiv.org/abs/1810.04805), masked language modeling
        - [Gururangan et al., 2020](https://arxiv.org/abs/2004.10964), pretraining continued on a task's domain
    """

    is_pretraining = True

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        mask_rate: float = 0.15,
        whole_words: bool = False,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        head: Mapping[str, Any] | None = None,
        pooling: str | Sequence[str] = "mean",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone = backbones.adopt(backbone)
        check_backbone(backbone)
        self._masking: dict[str, Any] = {
            "whole_words": whole_words,
            "mask_share": mask_share,
            "random_share": random_share,
        }
        self.mask_rate = _check.number("mask_rate", mask_rate, above=0.0)
        data.MaskedTextColumn(preprocessor, mask_rate, **self._masking)  # validates the arguments
        self.pooling = layers.pooling_modes(pooling)
        self._head_options = head_options(head, backbone)

        # === Layers ===
        states = TakeTokens(name="hidden_tokens")
        self.head = TokenLogits(_masked_heads.table_of(backbone), **self._head_options, name="head")

        # === Functional Model ===
        positions = keras.Input((None,), dtype="int32", name="mask_positions")
        outputs = self.head(states(backbone(backbone.input), positions))
        super().__init__(
            {**backbone.input, "mask_positions": positions},
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.head],
            trainable=trainable,
            **kwargs,
        )
        self._count_rows(ops.cast(positions >= 0, "int32"))
        self._mark_new_head()

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        if backbone_only or pretrained.read_masked_head is None:
            return super()._from_pretrained(pretrained, arguments, backbone_only)
        spec = pretrained.read_masked_head()
        if arguments.get("head") is not None:
            expected = "None for a checkpoint with a head, which is reused"
            raise _check.invalid("head", expected, arguments["head"], "Pass `backbone_only=True` for a new head")
        arguments = cls._preset_arguments(pretrained.embedding, {**arguments, "head": spec.options})
        model = cls(backbone=pretrained.backbone, preprocessor=pretrained.preprocessor, **arguments)
        spec.assign(model.head)
        model.compile()  # again: the head is not new
        return model, None

    def _changeable(self):
        return (*super()._changeable(), "mask_rate", "whole_words", "mask_share", "random_share", "pooling")

    # === Description ===

    def input_columns(self) -> dict[str, Any]:
        """Returns the column `"text"`, with tokens masked at random."""
        return {"text": data.MaskedTextColumn(self.preprocessor, self.mask_rate, **self._masking)}

    def prediction_columns(self) -> dict[str, Any]:
        """Returns the column `"text"`: nothing is masked, and the mask token's string in a text becomes the token."""
        return {"text": data.MaskedTextColumn(self._asking(), 0.0)}

    def _asking(self):
        """Returns the preprocessor for `fill_mask`: of special tokens, it parses only the mask token in texts."""
        old = self.preprocessor
        if old is None or old.tokenizer.special_tokens_in_strings:
            return old

        def make():
            spec = copy.copy(old.tokenizer.spec)
            mask = old.tokenizer.mask_token_id
            added = [token for token in spec.added if not token["special"] or token["id"] == mask]
            spec = dataclasses.replace(spec, added=added)
            tokenizer = type(old.tokenizer)._from_spec(spec, special_tokens_in_strings=True)
            made = type(old)(tokenizer, **_vocabulary.options_of(old))
            return lambda: made  # hidden from Keras, which would track it

        return self._made_once("asking", id(old.tokenizer.spec), make)()

    def _head_sum(self):
        # The value that `has_new_head` compares: there is no linear head.
        kernel = keras.ops.convert_to_numpy(self.head.dense.kernel)
        return hash(np.ascontiguousarray(kernel).tobytes())

    # === Training ===

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; like `keras.Model.compile`, with defaults.

        Args:
            optimizer: Defaults to `"auto"`: `optimizers.Auto` with a peak of 5e-5, and ten times that for a new head.
            loss: Defaults to the mean cross-entropy over the masked tokens, `losses.TagCrossentropy`.
            metrics: Defaults to the perplexity and the share of correctly predicted masked tokens.
            **kwargs: passed to `keras.Model.compile`.
        """
        loss = losses.TagCrossentropy() if isinstance(loss, str) and loss == "auto" else loss
        if isinstance(metrics, str) and metrics == "auto":
            metrics = [own_metrics.Perplexity(name="perplexity"), own_metrics.TagAccuracy(name="accuracy")]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def _auto_optimizer(self):
        is_new = not hasattr(self, "_new_heads") or self.has_new_head()  # KerasHub's constructor compiles
        return optimizers.Auto(5e-5, multipliers={"head": 10.0} if is_new else None)

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None) -> None:
        """Not supported: the head uses the embedding table directly.

        `mode`, `config` and `filters` are those of `TextTask.quantize`.
        """
        raise NotImplementedError(
            "A masked language model trains its encoder's weights, and quantized weights cannot be trained. Quantize "
            "the model created from it: `TextClassifier.from_model(model, ...).quantize(...)`. Received: "
            f"mode={mode!r}"
        )

    # === Answers ===

    def fill_mask(self, texts: Any, k: int = 5, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Predicts the most likely tokens for each mask in texts.

        Args:
            texts: list or other sequence of strings, each with at least one mask token of the tokenizer, for example
                `"[MASK]"` or `"<mask>"`. For a generator of texts, the result is a generator of parts.
            k: int. The number of tokens to return for each mask. Defaults to 5.
            batch_size: int. Batch size for inference. Defaults to 32.
            verbose: 0, 1 or `"auto"`. Whether to show a progress bar.

        Returns:
            A list with one entry per text: for each of its masks, a list of `k` `Filling(token, probability)`, the most
            likely first. Tokens are written as in the vocabulary.

        Raises:
            ValueError: if a text has no mask token; the error names its row.

        Example:

        ```python
        model.fill_mask(["Where is my [MASK]?"], k=1)[0][0]  # [Filling(token='card', probability=0.4)]
        ```
        """
        k = min(_check.integer("k", k), self.head.vocabulary_size)
        return self._answers(texts, batch_size, verbose, lambda rows: self._fillings(rows, k, "texts"))

    def decode(self, outputs: Any) -> list:
        """Converts the logits of `predict` to the five most likely tokens for each mask; see `fill_mask`."""
        return self._fillings(outputs, _MOST)

    def _fillings(self, rows, k, argument=None):
        vocabulary, found = self.preprocessor.tokenizer.vocabulary, []
        for row, logits in enumerate(rows):
            if argument is not None and not len(logits):
                mask = vocabulary[self.preprocessor.tokenizer.mask_token_id]
                expected = f"texts with the mask token {mask!r} among their first tokens"
                raise _check.invalid(argument, expected, f"none in row {row} (counting from 0)")
            shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits)) if len(logits) else logits
            best = np.argsort(-shares, axis=-1, kind="stable")[:, :k]
            # A table may have more rows than the vocabulary has tokens.
            names = [[vocabulary[i] if i < len(vocabulary) else f"[{i}]" for i in ids] for ids in best.tolist()]
            chosen = np.take_along_axis(shares, best, axis=-1).tolist()
            found.append([list(map(Filling, *each)) for each in zip(names, chosen, strict=True)])
        return found

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `fill_mask`; see `DescribesItself.signatures`."""
        purpose = (
            f"The {_MOST} most likely tokens for each mask token in each text, `(batch, masks, {_MOST})`: their ids "
            "`token_ids`, numbers of lines in the vocabulary, and `scores`, their probabilities. Undefined after the "
            "last mask of a text."
        )

        def finish(logits):
            scores, ids = keras.ops.top_k(keras.ops.softmax(logits), min(_MOST, self.head.vocabulary_size))
            return {"token_ids": ids, "scores": scores}

        return [Signature("fill_mask", "values", purpose, finish=finish)]

    # === Saving ===

    pipeline_tag = "fill-mask"

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes `*ForMaskedLM`; see `TextTask.write_checkpoint`."""
        if format != "huggingface":
            super().write_checkpoint(folder, format, dtype)
        head, reason = _masked_heads.written(self.backbone, self.head, self._head_options)
        if head is None:
            raise _check.invalid("format", f"'tfxfer' for this model: {reason}", format)
        _write.write(folder, self.backbone, self.preprocessor, head=head, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mask_rate": self.mask_rate,
            **self._masking,
            "head": dict(self._head_options),
            "pooling": list(self.pooling),
        }


def check_backbone(backbone):
    """Raises if the encoder does not support a head on the embedding table, or has causal attention."""
    if backbone.quantization is not None:
        raise _check.invalid("backbone", "an encoder that is not quantized", backbone.quantization)
    if not _masked_heads.sees_both_sides(backbone):
        remedy = "A decoder predicts the next token, which is another task."
        raise _check.invalid("backbone", "an encoder with bidirectional attention", backbone.family, remedy)
    if backbone.num_layers == 0:
        raise _check.invalid(
            "backbone", "an encoder with blocks: static embeddings ignore other tokens", backbone.family
        )


def head_options(head, backbone):
    """Checks the settings of the head, and completes them with defaults."""
    options = _masked_heads.default_options(backbone)
    if head is None:
        return options
    _check.instance("head", head, Mapping, f"a dict with some of {', '.join(options)}")
    for name in head:
        _check.one_of("head", name, options)
    found = {**options, **head}
    _check.one_of("activation", found["activation"], ACTIVATIONS)
    _check.number("norm_epsilon", found["norm_epsilon"], above=0)
    for name in ("transform_bias", "norm_bias"):
        _check.instance(name, found[name], bool, "a bool")
    return found
