"""Tagging words, and finding entities in texts."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from tfxfer import _check, _schemes, backbones, data, layers, losses, optimizers
from tfxfer import metrics as own_metrics
from tfxfer.layers._entities import EntityDecoder
from tfxfer.models import _entities, _logits, _restoring, _save, _trained_tagger, _usage
from tfxfer.models._from_preset import TaggerFromPreset
from tfxfer.models._search_space import WordSearch
from tfxfer.models._signatures import Signature
from tfxfer.models._stored_head import StoresHead
from tfxfer.models._suggest import SuggestsWords
from tfxfer.models._tagging import TagsWords
from tfxfer.models._task import TextTask
from tfxfer.models._trained_tagger import SCHEMES
from tfxfer.preprocessing import SPLITS

HEADS = ("linear", "probe", "crf")
# The number of tags that a model card lists.
_MOST_TAGS = 200
# The key of the tags in a weight file.
_TAGS = "tags"


@keras.saving.register_keras_serializable("tfxfer")
class TokenTagger(StoresHead, TagsWords, TaggerFromPreset, SuggestsWords, WordSearch, TextTask):
    """Tags each word of a text and finds entities, such as names of people, places and products.

    backbone -> one vector per word -> head -> a score for each tag. It trains on words with tags (`data.tagged`,
    `data.read_conll`, `data.read_entities`). It predicts the tags of words (`tag`) and the entities in raw texts with
    their positions (`extract`).

    Words are tokenized one by one, so tags stay aligned with words. The loss ignores a word without a token (for
    example, one of only zero-width characters), and its tag is "O" unless it is inside an entity. In training, the loss
    also ignores words beyond the preprocessor's `sequence_length`. In prediction, longer texts are read in overlapping
    windows, and each word gets its tag from the window with the most context.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        tags: sequence of the tags, distinct strings, in the order of the outputs; `data.tag_names` collects them.
        scheme: how tags mark entities: `"IOB2"` (also called BIO), `"IOBES"` or `"BILOU"`; `data.convert_tags`
            converts others to these. Predictions are always valid sequences. `None` for tags that do not mark entities,
            such as parts of speech. `from_preset` infers it from the tags of a trained token classifier; see below.
        head: `"linear"`, a softmax over the tags of each word; `"probe"`, the same, but the first `fit` initializes it
            with a logistic regression on the frozen vectors of words (see `freezing.probe`; with `optimizer="auto"`,
            a linear head starts this way, too); `"crf"`, a `layers.CRF` on top, which learns the transitions between
            tags and gives the probability of an entity as a whole; or a `layers.Head`, for hidden layers below the
            softmax.
        word_pooling: one of `layers.WORD_POOLING`. Defaults to `"first"`.
        split: how `extract` splits texts into words, as in `preprocessing.split_words`. It should match the training
            data.
        stride: int. The number of tokens from one window of a long text to the next. Defaults to half a window.
        dropout: float in `[0, 1)`. Rate before the head. Defaults to 0.1; a `layers.Head` has its own rate.
        temperature: float > 0. The divisor of scores for probabilities; see `calibrate`. Defaults to 1.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of int32: `token_ids`, `padding_mask`, optionally `segment_ids` and `word_ids` `(batch, length)`, and
    `word_mask` `(batch, words)`; see `data.WordsColumn`. Output: float32 scores `(batch, words, tags)`.

    `from_preset` loads a trained token classifier with its head and the same scores: Hugging Face's
    `*ForTokenClassification`, whose tags are `id2label`, or a folder written by `save_to_preset`.

    | `tags` for a trained tagger | result |
    |---|---|
    | none | the preset's tags |
    | the preset's, in any order | the outputs in this order |
    | a dict of the preset's tags to other names | the preset's outputs under these names |
    | others | a new head on the backbone, and a warning (no warning with `backbone_only=True`) |
    | some of the preset's and others, with `keep_labels=True` | the trained head; new tags start at random |

    | `id2label` contains | `scheme`, if not given |
    |---|---|
    | `B-`, `I-` and `O` | `"IOB2"`; IOB1 has the same tags but is rare today: pass `scheme=None` for such a model |
    | `B-`, `I-`, `E-`, `S-`, or `B-`, `I-`, `L-`, `U-` | `"IOBES"`, `"BILOU"` |
    | no prefixes | `None` |
    | anything else, such as only `I-`, or prefixes on some tags | an error that lists the interpretations |

    `extract` and `tag` work on words. `extract_tokens` works on tokens and merges them like transformers' pipeline.

    Raises:
        ValueError: if tags are missing, equal or not of the scheme, or a head, pooling or layer group is unknown; in
            `from_preset`, if tags are ambiguous, or the head is not the trained one.

    Example:

    ```python
    train = tx.data.read_conll("train.conll")
    tagger = tx.models.TokenTagger.from_preset("all_minilm_l6_v2", tags=tx.data.tag_names(train), head="crf")
    tagger.compile()
    tagger.fit(tx.data.tagged(train, labels=tagger.tags), epochs=5)
    tagger.extract(["Anna Berg lives in Oslo."])
    # [[Entity(label='person', start=0, end=9, text='Anna Berg', probability=0.98), ...]]
    ```

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 5.3; CRF: Lafferty et al., 2001,
    https://repository.upenn.edu/cis_papers/159.
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        tags: Sequence[str],
        scheme: str | None = "IOB2",
        head: Literal["linear", "probe", "crf"] | layers.Head = "linear",
        word_pooling: Literal["first", "last", "mean", "max"] = "first",
        split: Literal["punctuation", "whitespace"] = "punctuation",
        stride: int | None = None,
        dropout: float = 0.1,
        temperature: float = 1.0,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._tag_column = _tag_column(tags, scheme)
        self.scheme = self._tag_column.scheme
        self.split = _check.one_of("split", split, SPLITS)
        self.stride = stride
        self.temperature = temperature
        self.word_pooling = word_pooling
        self.backbone = backbone = backbones.adopt(backbone)
        count = len(self._tag_column.tags)

        # === Layers ===
        pooling = layers.WordPooling(word_pooling, name="pooling")
        self._head_argument = head
        is_new_head = isinstance(head, str) or not head.built
        self.head = _make_head(head, count, dropout)
        self.dropout = self.head.dropout
        self.crf = None
        if head == "crf":
            allowed = None if self.scheme is None else _schemes.allowed(self.tags, self.scheme)
            self.crf = layers.CRF(count, allowed, name="crf")

        # === Functional Model ===
        word_ids = keras.Input((None,), dtype="int32", name="word_ids")
        word_mask = keras.Input((None,), dtype="int32", name="word_mask")
        inputs = {**backbone.input, "word_ids": word_ids, "word_mask": word_mask}
        outputs = self.head(pooling(backbone(backbone.input), word_ids=word_ids, word_mask=word_mask))
        outputs = outputs if self.crf is None else self.crf(outputs)
        super().__init__(
            inputs,
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.head, *([] if self.crf is None else [self.crf])],
            trainable=trainable,
            **kwargs,
        )
        self._decoders: Any = _entities.Decoders(self)
        if is_new_head:
            self._mark_new_head()

    @property
    def starts_as_probe(self) -> bool:
        """Whether the first `fit` sets the new head to a regression on the frozen features, with any optimizer."""
        return self._head_argument == "probe"

    def _auto_optimizer(self):
        # These are the rates of a new head; no others have been measured for a head that starts as a probe on words.
        return optimizers.Auto(multipliers={"head": 10.0})

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        arguments = _trained_tagger.with_tags(cls, pretrained, arguments, backbone_only)
        if backbone_only or pretrained.read_token_head is None:
            return super()._from_pretrained(pretrained, arguments, backbone_only)
        trained = pretrained.read_token_head()
        spec, own = _trained_tagger.matched(pretrained.trained_task, trained, arguments)
        if spec is None:
            model, _ = super()._from_pretrained(pretrained, arguments, True)
            return model, _restoring.notice(cls, pretrained.trained_task, trained.labels)
        arguments = {**_restoring.without_keeping(arguments), **own}
        model = cls(pretrained.backbone, pretrained.preprocessor, **arguments)
        spec.assign(None, model.head)
        return model, None

    # === Description ===

    @property
    def tags(self) -> list[str]:
        """The tags in the order of the outputs."""
        return list(self._tag_column.tags)

    @property
    def entity_types(self) -> list[str]:
        """The types of entities, in the order of the tags; empty without a scheme."""
        if self.scheme is None:
            return []
        return list(dict.fromkeys(kind for _, kind in map(_schemes.split, self.tags) if kind))

    @property
    def temperature(self) -> float:
        """The divisor of scores for probabilities; can be set, and is saved."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature = _check.number("temperature", value, minimum=1e-6)

    @property
    def stride(self) -> int | None:
        """The tokens from one window of a long text to the next; `None` for half a window. Can be set, and is saved."""
        return self._stride

    @stride.setter
    def stride(self, value: int | None) -> None:
        self._stride = _check.integer("stride", value, optional=True)

    def window(self) -> tuple[int, int]:
        """Returns (room, stride): the tokens of a window without special tokens, and those to the next window."""
        room = self.preprocessor.room
        if self.stride is not None and self.stride > room:
            raise _check.invalid("stride", f"an int from 1 to {room}, the tokens of a window", self.stride)
        return room, self.stride or -(-room // 2)

    def input_columns(self) -> dict[str, Any]:
        """Returns the single column `"words"`: a list of words for each row."""
        return {"words": data.WordsColumn(self.preprocessor)}

    def target_columns(self) -> Any:
        """Returns the `data.TagsColumn` of the model's tags."""
        return self._tag_column

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns where the encoder ends; pooled states cannot be cached, as the pooling of words differs."""
        sequence = self.get_layer("pooling").input[0]
        return sequence, self.input["padding_mask"], None

    def output_weights(self) -> list[tuple[Any, tuple]]:
        """Returns the weights with an entry for each tag, and the axes of these entries: `(variable, axes)`."""
        found: list[tuple[Any, tuple]] = [(weight, (-1,)) for weight in self.head.denses[-1].weights]
        if self.crf is not None:
            found += [(self.crf.transitions, (-2, -1)), (self.crf.start, (-1,)), (self.crf.end, (-1,))]
        return found

    # === Training ===

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training like `keras.Model.compile`, with other defaults.

        Args:
            optimizer: the default, `"auto"`, is an `optimizers.Auto` with a ten times higher rate for the head. It
                initializes a new linear head with a regression on the frozen vectors of words (`freezing.probe`) if
                `fit` can iterate over the data twice.
            loss: defaults to `losses.TagCrossentropy`, or `losses.ChainCrossentropy` for a CRF, both a mean over all
                words. Weights by tag name (`tag_weights`) are sorted into the order of the model's tags.
            metrics: defaults to the fraction of words whose most likely tag is correct.
            **kwargs: as in `keras.Model.compile`.
        """
        if loss == "auto":
            loss = losses.TagCrossentropy() if self.crf is None else losses.ChainCrossentropy()
        if hasattr(loss, "for_tags"):
            loss = loss.for_tags(self.tags)
        if hasattr(loss, "for_layer"):
            if self.crf is None:
                remedy = "Create the model with `head='crf'`, or use `losses.TagCrossentropy`."
                raise _check.invalid("loss", "a loss for a linear head", type(loss).__name__, remedy)
            loss = loss.for_layer(self.crf)
        loss = _logits.loss_on_logits(loss, "tokens")
        metrics = [own_metrics.TagAccuracy(name="accuracy")] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    # === Answers ===

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the scores of the tags of each word.

        Args:
            x: rows of words, or batches, as `fit` takes them. For a generator of rows, the scores come as a generator
                of parts.
            batch_size: int. Windows per batch. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.
            steps: int. The number of batches to read, if `x` contains batches.
            callbacks: `None`; the windows of long rows are not batches that a callback could count.

        Returns:
            A list with a float32 array `(words, tags)` for each row; zeros for a word without a token. In batches of
            ids, the words after the last one with a token are unknown and left out.

        Raises:
            ValueError: as `fit`, and if callbacks are given.
        """
        if callbacks:
            raise _check.invalid("callbacks", "None for a tagger", callbacks, "Use `verbose=1` to see the progress.")
        return self._answers(x, batch_size or 32, verbose, lambda scores: scores.rows(), steps, callbacks)

    def _predicted(self, form, found, batch_size, verbose, steps=None, callbacks=None, part=None):
        progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
        if form == "rows":
            return _entities.scores(self, found.x, batch_size, progress)
        return _entities.scores_of_batches(self, form, found, batch_size, steps)

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `extract`, or `tag` without a scheme; see `DescribesItself.signatures`."""
        if self.scheme is None:
            return [Signature("tag", "tags", labels=self.tags)]
        return [Signature("extract", "entities", labels=self.entity_types)]

    def entity_decoder(self) -> Any:
        """Returns the Keras layer from scores and `word_mask` to tags and entities; see its docstring."""
        return EntityDecoder(self.tags, self.scheme, self.crf, self.temperature)

    @classmethod
    def search_space(cls, presets: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the search space: `word_pooling`, `head` and others; see `tuning.HyperModel`."""
        entries = super().search_space(presets, arguments)
        if "tags" in arguments:
            _tag_column(arguments["tags"], arguments.get("scheme", "IOB2"))
        return entries

    # === Saving ===

    pipeline_tag = "token-classification"

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes `*ForTokenClassification`; see `TextTask.write_checkpoint`."""
        _save.write_tagger(self, folder, format, dtype)

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the model card's code: how the libraries load and call the model."""
        return _usage.tagger(self, format, repo_id)

    def card_rows(self) -> dict[str, str]:
        """Returns the tags and their scheme for the model card."""
        shown = ", ".join(f"`{tag}`" for tag in self.tags[:_MOST_TAGS])
        more = f" and {len(self.tags) - _MOST_TAGS} more" if len(self.tags) > _MOST_TAGS else ""
        return {"Tags": shown + more, "Scheme": self.scheme or "none"}

    def save_own_variables(self, store: Any) -> None:
        """Writes the tags with the weights, to detect weights for another order of tags."""
        super().save_own_variables(store)
        _restoring.keep_names(store, _TAGS, self.tags)

    def load_own_variables(self, store: Any) -> None:
        """Checks that weights belong to the model's tags."""
        remedy = "Create the model with the tags of the file."
        rest = _restoring.without_names(store, _TAGS, self.tags, remedy)
        super().load_own_variables(rest)

    def _with(self, arguments):
        return _trained_tagger.changed(self, arguments, self._changeable())

    def _changeable(self):
        named = isinstance(self._head_argument, str)
        return (*super()._changeable(), "split", "stride", "temperature", *(("dropout",) if named else ()))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "tags": self.tags,
            "scheme": self.scheme,
            "word_pooling": self.word_pooling,
            "split": self.split,
            "stride": self.stride,
            "temperature": self.temperature,
        }


def _make_head(head, num_tags, dropout):
    """Returns the layer for `head`: one of `HEADS`, or a `layers.Head`, which is returned unchanged."""
    if not isinstance(head, layers.Head):
        _check.one_of("head", head, HEADS, "Or pass a `layers.Head`.")
        return layers.Head(num_tags, dropout=dropout, name="head")
    if head.num_outputs != num_tags:
        raise _check.invalid("head", f"a layers.Head with {num_tags} outputs, one for each tag", head.num_outputs)
    return head


def _tag_column(tags, scheme):
    """Checks tags and scheme of a model; returns their column."""
    if scheme is not None:
        scheme = _schemes.scheme("scheme", scheme)
        if scheme not in SCHEMES:
            remedy = "Convert the tags to one of these first: `data.convert_tags`."
            raise _check.invalid("scheme", f"one of {', '.join(map(repr, SCHEMES))}, or None", scheme, remedy)
    return data.TagsColumn(tags, scheme=scheme)
