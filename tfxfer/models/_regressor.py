"""Regression on texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfxfer import _check, data
from tfxfer.models import _logits, _restoring
from tfxfer.models._classifier import PooledTask
from tfxfer.models._from_preset import RegressorFromPreset
from tfxfer.models._ranking import Ranks
from tfxfer.models._signatures import Signature

SCORE_ACTIVATIONS = {"sigmoid": keras.ops.sigmoid, "tanh": keras.ops.tanh}


@keras.saving.register_keras_serializable("tfxfer")
class TextRegressor(RegressorFromPreset, Ranks, PooledTask):
    """Predicts numbers from texts, or from pairs of texts.

    backbone -> pooling -> head -> values, without an activation.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        num_outputs: int. The number of values for each text. Defaults to 1.
        pooling: one of `layers.POOLING`, or several, or a Keras layer, as in `TextClassifier`. `from_preset` uses the
            checkpoint's.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0, as dropout shifts the scale
            of a regression's input.
        head: `"linear"`, `"probe"` or `"mlp"`, or a Keras layer to `(batch, num_outputs)`, as in
            `TextClassifier`.
        score_activation: name of the Keras activation that `scores` applies to the outputs, such as `"sigmoid"`, with
            which cross-encoders are trained. Defaults to `None`, no activation.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, the backbone keeps its flags (all train unless it was frozen), and all groups above it train.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, num_outputs)`.

    `from_preset` loads a trained regression with its head: Hugging Face's `*ForSequenceClassification` with one label
    or the `problem_type` "regression"; a cross-encoder of sentence-transformers with one score per pair; a folder
    written by `save_to_preset`. With another `num_outputs`, the head is new and a warning reports it.

    Raises:
        ValueError: if a pooling, head, activation or layer group is unknown; in `fit`, if targets are not finite
            numbers; in `from_preset`, if arguments contradict the trained head.

    Example:

    ```python
    model = tx.models.TextRegressor.from_preset("all_minilm_l6_v2")
    model.compile(tx.optimizers.AdamW(1e-4))
    model.fit(["What is a loan?", "loan what"], [1.0, 0.2], epochs=3)

    reranker = tx.models.TextRegressor.from_preset("hf://cross-encoder/ms-marco-MiniLM-L6-v2")
    reranker.scores((["lost card", "lost card"], ["My card is gone", "What is a loan?"]))  # (2,), larger is better
    ```
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        num_outputs: int = 1,
        pooling: str | Sequence[str] | keras.layers.Layer = "mean",
        dropout: float = 0.0,
        head: str | keras.layers.Layer = "linear",
        score_activation: str | None = None,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        if score_activation is not None:
            _check.one_of("score_activation", score_activation, SCORE_ACTIVATIONS)
        self.score_activation = score_activation
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

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training like `keras.Model.compile`, with other defaults.

        Args:
            optimizer: the default, `"auto"`, is `optimizers.Auto`, which `fit` plans.
            loss: defaults to the mean squared error.
            metrics: defaults to the mean absolute error, `mae`.
            **kwargs: as in `keras.Model.compile`.

        Raises:
            ValueError: if a crossentropy of Keras reads probabilities (`from_logits=False`) or class indices; the
                outputs are numbers or logits.
        """
        super().compile(
            optimizer=optimizer,
            loss=keras.losses.MeanSquaredError() if loss == "auto" else _logits.loss_on_logits(loss, "numbers"),
            metrics=_logits.metrics_on_logits(
                [keras.metrics.MeanAbsoluteError(name="mae")] if metrics == "auto" else metrics, "numbers"
            ),
            **kwargs,
        )

    def target_columns(self) -> Any:
        """Returns a `data.ValuesColumn` of `num_outputs` numbers."""
        return data.ValuesColumn(self.num_outputs)

    def to_scores(self, values: Any) -> Any:
        """Applies `score_activation` to outputs, a tensor `values`, and returns scores of the same shape."""
        return values if self.score_activation is None else SCORE_ACTIVATIONS[self.score_activation](values)

    def scores(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the scores of texts or pairs: `predict` with `score_activation` applied.

        Args:
            x: list or array of strings, a tuple of two such columns for pairs, or batches as `predict` takes them.
            batch_size: int. Texts per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A float32 array `(rows,)`, or `(rows, num_outputs)` for several outputs.

        Example:

        ```python
        reranker.scores((["lost card"] * len(documents), documents)).argsort()[::-1]  # best first
        ```
        """
        return self._answers(x, batch_size, verbose, self.decode)

    def decode(self, outputs: Any) -> np.ndarray:
        """Converts outputs `(rows, num_outputs)` to scores; see `scores`."""
        found = keras.ops.convert_to_numpy(self.to_scores(outputs))
        return found[:, 0] if self.num_outputs == 1 else found

    def score_pairs(self, first: Any, second: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the score of each pair of texts, float `(rows,)`.

        Raises:
            ValueError: if the model has several outputs.
        """
        if self.num_outputs != 1:
            raise _check.invalid("model", "a regressor with one output", self.num_outputs)
        return self.scores((first, second), batch_size=batch_size, verbose=verbose)

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `regress` and, on pairs with one output, `rank`; see `DescribesItself.signatures`."""
        what = "each pair of texts" if pairs else "each text"
        purpose = f"The model's numbers for {what}, `(batch, {self.num_outputs})`."
        found = [Signature("regress", "values", purpose, api="regress" if self.num_outputs == 1 else None)]
        if pairs and self.num_outputs == 1:
            found.append(Signature("rank", "rank", finish=lambda outputs: self.to_scores(outputs)[:, 0]))
        return found

    @classmethod
    def _match(cls, pretrained, spec, arguments):
        if spec.problem_type != "regression" or arguments.get("num_outputs") not in (None, len(spec.labels)):
            return None, _restoring.notice(cls, pretrained.trained_task)
        own = {"num_outputs": len(spec.labels)}
        if "score_activation" not in arguments:
            own["score_activation"] = spec.score_activation
        return spec, own

    def _with(self, arguments):
        if arguments.get("num_outputs") not in (None, self.num_outputs):
            return None
        return super()._with({name: value for name, value in arguments.items() if name != "num_outputs"})

    def _changeable(self):
        return (*super()._changeable(), "score_activation")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "score_activation": self.score_activation,
        }
