"""Scoring documents for queries: a cross-encoder that reranks search results."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfxfer import data, losses
from tfxfer.models._from_preset import RerankerFromPreset
from tfxfer.models._regressor import TextRegressor
from tfxfer.models._signatures import Signature


@keras.saving.register_keras_serializable("tfxfer")
class Reranker(RerankerFromPreset, TextRegressor):
    """A cross-encoder that scores and ranks documents by how well they answer a query.

    A `TextRegressor` with one output on pairs that can also train on lists: the same graph reads each query with each
    of its documents, and losses compare the scores within a list.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        pooling: one of `layers.POOLING`, or several, or a Keras layer, as in `TextClassifier`. `from_preset` uses
            the checkpoint's.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0.
        head: `"linear"`, `"probe"` or `"mlp"`, or a Keras layer to `(batch, 1)`, as in `TextClassifier`.
        score_activation: `"sigmoid"` or `"tanh"`, which `scores`, `rank` and the export apply to the output, but losses
            do not. `"sigmoid"` gives probabilities if the model was trained with `losses.PointwiseCrossentropyLoss`.
            Defaults to `None`, which keeps scores distinct that a sigmoid would round to 1. A checkpoint sets its own.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`, each row a pair of query and document: `token_ids`, `padding_mask`, and
    `segment_ids` for families that have them. Output: float32 `(batch, 1)`, the logit.

    | `fit` on | targets | losses |
    |---|---|---|
    | `data.rankings(rows)`, or (queries, lists of documents) | a list of numbers for each row | those on lists |
    | `data.pairs(rows, ("query", "document"), target="label")`, or two columns | a number for each pair | pointwise |

    `batch_size` counts lists; `data.batches(rows, model, max_documents=64)` limits the documents of a batch. `predict`
    and `scores` take pairs or lists; for lists, they return a list of arrays.

    `from_preset` loads a cross-encoder of one output with its head: Hugging Face's `*ForSequenceClassification`, one of
    sentence-transformers, a saved `Reranker`, or a saved `TextRegressor` with one output.

    Raises:
        ValueError: if a pooling, head, activation or layer group is unknown; in `fit`, if a list is empty, if targets
            and documents differ in number, if targets are not finite, or if lists meet a loss that reads pairs.

    Example:

    ```python
    reranker = tx.models.Reranker.from_preset("hf://cross-encoder/ms-marco-MiniLM-L6-v2")
    best = reranker.rank("lost card", ["What is a loan?", "My card is gone"], k=1)[0]  # index, score, text

    reranker.compile(loss=tx.losses.LambdaLoss())
    train = tx.data.rankings(tx.data.read("train.jsonl"), "query", "documents", "grades")
    reranker.fit(tx.data.batches(train, reranker, max_documents=64), epochs=2)
    ```

    Reference: Nogueira and Cho, 2019, Passage Re-ranking with BERT, https://arxiv.org/abs/1901.04085.
    """

    text_count = 2
    pipeline_tag = "text-ranking"

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        pooling: str | Sequence[str] | keras.layers.Layer = "mean",
        dropout: float = 0.0,
        head: str | keras.layers.Layer = "linear",
        score_activation: str | None = None,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            backbone,
            preprocessor,
            num_outputs=1,
            pooling=pooling,
            dropout=dropout,
            head=head,
            score_activation=score_activation,
            trainable=trainable,
            **kwargs,
        )

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training like `keras.Model.compile`, with other defaults.

        Args:
            optimizer: the default, `"auto"`, is `optimizers.Auto`, which `fit` plans.
            loss: defaults to `losses.PointwiseCrossentropyLoss`, for targets in `[0, 1]`. Losses without the
                attribute `takes_lists = True`, such as those of Keras, train only on pairs.
            metrics: by default, there are none; `callbacks.EvaluateReranking` writes nDCG, MRR and MAP.
            **kwargs: as in `keras.Model.compile`.
        """
        super().compile(
            optimizer=optimizer,
            loss=losses.PointwiseCrossentropyLoss() if isinstance(loss, str) and loss == "auto" else loss,
            metrics=None if isinstance(metrics, str) and metrics == "auto" else metrics,
            **kwargs,
        )

    def reads_pairs(self) -> bool:
        """Returns True: each row is a query with a document."""
        return True

    def input_columns(self) -> dict[str, Any]:
        """Returns a `data.RankingColumn`: queries with lists of documents, or with one document each."""
        return {"text": data.RankingColumn(self.preprocessor)}

    def prediction_columns(self) -> dict[str, Any]:
        """Returns a `data.TextColumn` of pairs."""
        return {"text": data.TextColumn(self.preprocessor, self.text_form, count=self.text_count)}

    def target_columns(self) -> Any:
        """Returns a `data.GradesColumn`."""
        loss = getattr(self, "loss", None)
        takes_lists = loss is None or getattr(loss, "takes_lists", False)
        return data.GradesColumn(takes_lists, target_range=getattr(loss, "target_range", None))

    def _answers(self, x, batch_size, verbose, finish, steps=None, callbacks=None, part=None):
        found = data.ranking_pairs(x)
        if found is None:
            return super()._answers(x, batch_size, verbose, finish, steps, callbacks, part)
        pairs, counts = found
        answers = super()._answers(pairs, batch_size, verbose, finish, steps, callbacks, part)
        return np.split(answers, np.cumsum(counts)[:-1])

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `regress` on pairs, and `rank`; see `DescribesItself.signatures`."""
        return [dataclasses.replace(each, pairs=True) for each in super().signatures(True)]

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        task = pretrained.task
        if isinstance(task, TextRegressor) and not isinstance(task, cls) and task.num_outputs == 1:
            parts = {"backbone": task.backbone, "preprocessor": task.preprocessor}
            made = cls.from_config({**{k: v for k, v in task.get_config().items() if k != "name"}, **parts})
            made.set_weights(task.get_weights())
            pretrained = dataclasses.replace(pretrained, task=made)
        return super()._from_pretrained(pretrained, arguments, backbone_only)

    @classmethod
    def _match(cls, pretrained, spec, arguments):
        spec, own = super()._match(pretrained, spec, {**arguments, "num_outputs": 1})
        if spec is not None:
            own = {name: value for name, value in own.items() if name != "num_outputs"}
        return spec, own

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["num_outputs"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return super().from_config({name: value for name, value in config.items() if name != "num_outputs"})
