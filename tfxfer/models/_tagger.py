"""Words to tags, and texts to entities."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import keras

from tfxfer import _check, _schemes, backbones, data, layers, losses, optimizers
from tfxfer import metrics as own_metrics
from tfxfer.layers._entities import EntityDecoder
from tfxfer.models import _entities, _restoring, _save, _token_entities, _trained_tagger, _usage
from tfxfer.models._from_preset import TaggerFromPreset
from tfxfer.models._search_space import WordSearch
from tfxfer.models._signatures import Signature
from tfxfer.models._suggest import SuggestsWords
from tfxfer.models._task import TextTask
from tfxfer.models._trained_tagger import SCHEMES
from tfxfer.preprocessing import SPLITS

HEADS = ("linear", "probe", "crf")
# How many tags a model card lists.
_MOST_TAGS = 200
# Where a file of weights keeps the tags.
_TAGS = "tags"


@keras.saving.register_keras_serializable("tfxfer")
class TokenTagger(TaggerFromPreset, SuggestsWords, WordSearch, TextTask):
    """Tags each word of a text, and finds entities: names of people, places, products.

    backbone -> one vector a word -> head -> a score for each tag. It trains on words with tags (`data.tagged`,
    `data.read_conll`, `data.read_entities`), and answers for words (`tag`) as well as for raw texts (`extract`), with
    the places of entities in them.

    Words are tokenized one by one, so that a tag never slips to another word. A word without a token (of zero-width
    characters alone, say) counts for no loss, and its tag is "O" unless it lies within an entity. In training, words
    beyond the preprocessor's `sequence_length` count for no loss either; in prediction longer texts are read in
    overlapping windows, and each word is answered by the window in which it has the most context.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        tags: sequence of the tags, distinct strings, in the order of the outputs; `data.tag_names` finds them.
        scheme: how tags mark entities: `"IOB2"` (also called BIO), `"IOBES"` or `"BILOU"`; `data.convert_tags` turns
            others into them. Sequences that it forbids are never given. `None` for tags that mark no entities, such as
            parts of speech. `from_preset` reads it off the tags of a trained token classifier; see there.
        head: `"linear"`, a softmax over the tags of each word; `"probe"`, the same, which the first `fit` makes a
            logistic regression on the frozen vectors of words before it trains (see `freezing.probe`; with
            `optimizer="auto"` a linear head starts so as well); or `"crf"`, a `layers.CRF` above it, which learns what
            tags follow one another and gives the probability of an entity as a whole; or a `layers.Head`, for hidden
            layers below the softmax.
        word_pooling: one of `layers.WORD_POOLING`. Defaults to `"first"`.
        split: how `extract` splits texts into words, see `preprocessing.split_words`: as the words of the training data
            were split.
        stride: int. Tokens from one window of a long text to the next. Defaults to half of what the model has room for.
        dropout: float in `[0, 1)`. Rate before the head. Defaults to 0.1; a `layers.Head` has its own.
        temperature: float > 0. What scores are divided by for probabilities; see `calibrate`. Defaults to 1.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of int32: `token_ids`, `padding_mask`, perhaps `segment_ids` and `word_ids` `(batch, length)`, and
    `word_mask` `(batch, words)`; see `data.WordsColumn`. Output: float32 scores `(batch, words, tags)`.

    `from_preset` takes a trained token classifier over as a whole, its scores those of the reference: Hugging Face's
    `*ForTokenClassification`, whose tags are `id2label`; a folder by `save_to_preset`.

    | `tags` for a trained tagger | result |
    |---|---|
    | none | the preset's tags |
    | the preset's, in any order | the outputs in this order |
    | a dict of the preset's tags to other names | the preset's outputs under these names |
    | others | a new head on the backbone, and a warning; none with `backbone_only=True` |
    | some of the preset's and others, with `keep_labels=True` | the head; new tags start at random |

    | `id2label` holds | `scheme`, where none is given |
    |---|---|
    | `B-`, `I-` and `O` | `"IOB2"`; IOB1 has the same tags and is rare today: `scheme=None` for a model of it |
    | `B-`, `I-`, `E-`, `S-`, or `B-`, `I-`, `L-`, `U-` | `"IOBES"`, `"BILOU"` |
    | no prefixes | `None` |
    | anything else, such as `I-` alone, or prefixes on some tags | an error that names the readings |

    `extract` and `tag` answer for words. `extract_tokens` answers for tokens, and merges them as transformers' pipeline
    does.

    Raises:
        ValueError: for missing or equal tags, tags that are not of the scheme, an unknown head, pooling or layer group;
            in `from_preset`, for tags that can be read in several ways, and a head other than the trained one.

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
        """Whether the first `fit` makes the new head a regression on the frozen features, whatever the optimizer."""
        return self._head_argument == "probe"

    def _auto_optimizer(self):
        # The rates of a new head: for one that starts as a probe on words, no others have been measured.
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
        """The types of entities, in the order of the tags; none without a scheme."""
        if self.scheme is None:
            return []
        return list(dict.fromkeys(kind for _, kind in map(_schemes.split, self.tags) if kind))

    @property
    def temperature(self) -> float:
        """What scores are divided by for probabilities; can be set, and is saved."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature = _check.number("temperature", value, minimum=1e-6)

    @property
    def stride(self) -> int | None:
        """Tokens from one window of a long text to the next; `None` for half of a window. Can be set, and is saved."""
        return self._stride

    @stride.setter
    def stride(self, value: int | None) -> None:
        self._stride = _check.integer("stride", value, optional=True)

    def window(self) -> tuple[int, int]:
        """Returns (room, stride): the tokens of a window, beside special tokens, and those to the next one."""
        room = self.preprocessor.room
        if self.stride is not None and self.stride > room:
            raise _check.invalid("stride", f"an int from 1 to {room}, the tokens of a window", self.stride)
        return room, self.stride or -(-room // 2)

    def input_columns(self) -> dict[str, Any]:
        """Returns the one column `"words"`: a list of words for each row."""
        return {"words": data.WordsColumn(self.preprocessor)}

    def target_columns(self) -> Any:
        """Returns the `data.TagsColumn` of the model's tags."""
        return self._tag_column

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns where the encoder ends; nothing that is pooled can be stored, as words are not pooled alike."""
        sequence = self.get_layer("pooling").input[0]
        return sequence, self.input["padding_mask"], None

    def output_weights(self) -> list[tuple[Any, tuple]]:
        """Returns the weights that have a row for each tag, each with the axes along which: `(variable, axes)`."""
        found: list[tuple[Any, tuple]] = [(weight, (-1,)) for weight in self.head.denses[-1].weights]
        if self.crf is not None:
            found += [(self.crf.transitions, (-2, -1)), (self.crf.start, (-1,)), (self.crf.end, (-1,))]
        return found

    # === Training ===

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; as `keras.Model.compile`, with defaults.

        Args:
            optimizer: `"auto"`, the default, is an `optimizers.Auto` whose rate is ten times as high for the head; with
                it a new linear head starts as a regression on the frozen vectors of words (`freezing.probe`), where
                `fit` can go through the data twice.
            loss: defaults to `losses.TagCrossentropy`, or `losses.ChainCrossentropy` for a CRF, both a mean over all
                words. Weights by the name of a tag (`tag_weights`) are put into the order of the model's tags.
            metrics: defaults to the share of words whose likeliest tag is right.
            **kwargs: as `keras.Model.compile` has them.
        """
        if loss == "auto":
            loss = losses.TagCrossentropy() if self.crf is None else losses.ChainCrossentropy()
        if hasattr(loss, "for_tags"):
            loss = loss.for_tags(self.tags)
        if hasattr(loss, "for_layer"):
            if self.crf is None:
                remedy = "Make the model with `head='crf'`, or use `losses.TagCrossentropy`."
                raise _check.invalid("loss", "a loss for a linear head", type(loss).__name__, remedy)
            loss = loss.for_layer(self.crf)
        metrics = [own_metrics.TagAccuracy(name="accuracy")] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    # === Answers ===

    def tag(self, words: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the tags of texts that are split into words.

        Args:
            words: list of lists of words, or another form that `fit` takes. For a generator of rows the answers come as
                a generator of parts.
            batch_size: int. Windows computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of tags for each row: the best sequence that the scheme allows.

        Example:

        ```python
        tagger.tag([["Anna", "lives", "in", "Oslo"]])  # [["B-person", "O", "O", "B-location"]]
        ```
        """
        return self.answer(words, batch_size, verbose=verbose)

    def decode(self, outputs: Any) -> list[list[str]]:
        """Turns scores, as `predict` gives them, into tags; see `tag`."""
        return _entities.names(self, outputs)

    def spans(self, words: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Finds the entities of texts that are split into words, with their probabilities.

        They are those that `tag` marks.

        Args:
            words: as `tag`.
            batch_size: int. Windows computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `Span(label, start, end, probability)` for each row, in the order of the words: the
            first word, from 0, and the word after the last one. The probability is as in `extract`.

        Raises:
            ValueError: for a tagger without a scheme.

        Example:

        ```python
        tagger.spans([["Anna", "Berg", "lives", "in", "Oslo"]])
        # [[Span(label='person', start=0, end=2, probability=0.98), Span(label='location', start=4, end=5, ...)]]
        ```
        """
        self._check_scheme()
        return self._answers(words, batch_size, verbose, lambda scores: _entities.word_spans(self, scores))

    def _check_scheme(self, remedy="Use `tag`, on words."):
        if self.scheme is None:
            raise _check.invalid("scheme", "a scheme that marks entities", None, remedy)

    def probabilities(self, words: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the probability of each tag of each word: a softmax, or the marginals of the CRF.

        Args:
            words: as `tag`.
            batch_size: int. Windows computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a float32 array `(words, tags)` for each row; zeros for a word without a token.
        """
        return self._answers(words, batch_size, verbose, self._decoders.probabilities)

    def extract(self, texts: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Finds the entities of raw texts.

        Texts are split into words (`preprocessing.split_words`), tagged, and the entities given with their places. A
        text of any length is read, in windows, in memory that does not grow with them.

        Args:
            texts: list or another sequence of strings; or an iterator of strings, for which the answers come as an
                iterator, in constant memory.
            batch_size: int. Windows computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `Entity(label, start, end, text, probability)` for each text, in the order in which
            they stand in it. The probability is that of exactly this entity, all its words and no more of them: with a
            CRF by summing over all tags of the other words; with a linear head the product over its words.

        Raises:
            ValueError: for a text that is no string, with its row; for a tagger without a scheme.

        Example:

        ```python
        for entity in tagger.extract(["Anna Berg lives in Oslo."])[0]:
            print(entity.label, entity.text, entity.start, entity.end, round(entity.probability, 2))
        ```
        """
        self._check_scheme("Use `tag`, on words, or `extract_tokens`.")
        return self._extracted(functools.partial(_entities.found, self), texts, batch_size, verbose)

    def _extracted(self, answers, texts, batch_size, verbose):
        """Answers for raw texts, or for an iterator of them, by a function of a list of texts and the batch size."""
        _check.integer("batch_size", batch_size)
        if self.preprocessor is None:
            raise _check.invalid("texts", "ids, for a model without a preprocessor", texts, "Set `model.preprocessor`.")
        if isinstance(texts, Iterator):
            return _entities.streamed(answers, texts, batch_size)
        texts = data.read_list("texts", texts)
        progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
        return list(_entities.extracted(answers, texts, batch_size, progress))

    def table_inputs(self) -> dict[str, Any]:
        """Returns the column of raw texts, which `extract` reads."""
        return {"text": data.TextColumn(self.preprocessor)}

    def table_columns(self, x: Any, batch_size: int = 32, **options: Any) -> dict[str, tuple[str, Any]]:
        """Returns `entities`, what `extract` returns; see `WritesTables.table_columns`."""
        if options:
            raise _check.invalid(next(iter(options)), "no further argument for a tagger", options)
        return {"entities": ("json", [[each._asdict() for each in row] for row in self.extract(x, batch_size)])}

    def extract_tokens(
        self,
        texts: Any,
        aggregation: Literal["none", "simple", "first", "average", "max"] = "none",
        batch_size: int = 32,
        *,
        verbose: int | str = 0,
    ) -> Any:
        """Finds entities in raw texts token by token, as transformers' pipeline for token classification does.

        Each token gets its likeliest tag, whether or not the scheme allows it there. Use this method to compare with
        that pipeline or to migrate from it. `extract` tags words instead, gives only sequences that the scheme allows,
        and gives the probability of each entity.

        | `aggregation` | answer |
        |---|---|
        | `"none"` | each token by itself |
        | `"simple"` | neighbouring tokens of one type; a tag `B-...` begins another entity |
        | `"first"` | the same with words, each with the tag of its first token |
        | `"average"` | with the tag that is likeliest in the mean over its tokens |
        | `"max"` | with the tag of the token that is surest of its own |

        Tokens and entities tagged `O` are left out. A word is a token with those that continue it (`##` in WordPiece);
        with other tokenizers, the text between two spaces. As in transformers, only `B-` and `I-` count as prefixes: in
        other schemes, an entity comes in parts.

        Labels, scores and places are those of transformers, with three differences:

        - Places leave out the white space around tokens; see `preprocessing.token_offsets`. Some tokenizers of
          transformers count the space before a word as part of it.
        - A long text is read as a whole, in windows; transformers cuts it off.
        - Scores are divided by `temperature`.

        Args:
            texts: as `extract`.
            aggregation: see the table.
            batch_size: int. Windows computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `TokenEntity(label, start, end, text, score, index)` for each text. With `"none"`,
            `label` is a tag and `index` the token's place in the row, special tokens included. Otherwise `label` is a
            type, `score` the mean over the entity's parts, and `index` is `None`.

        Raises:
            ValueError: as `extract`; for a tagger with a CRF, whose tags depend on one another; for a text whose tokens
                cannot be found in it.

        Example:

        ```python
        tagger = tx.models.TokenTagger.from_preset("hf://dslim/bert-base-NER")
        tagger.extract_tokens(["Anna Berg lives in Oslo."], "first")
        # [[TokenEntity(label='PER', start=0, end=9, text='Anna Berg', score=0.99, index=None), ...]]
        ```
        """
        if self.crf is not None:
            remedy = "`extract` and `tag` answer with it."
            raise _check.invalid("head", "a tagger without a CRF, which sees words as a sequence", "crf", remedy)
        _check.one_of("aggregation", aggregation, _token_entities.AGGREGATIONS)
        answers = functools.partial(_token_entities.found, self, aggregation=aggregation)
        return self._extracted(answers, texts, batch_size, verbose)

    def calibrate(self, x: Any, y: Any = None, batch_size: int = 32) -> float:
        """Sets `temperature` so that probabilities fit what is right, on rows that the model was not trained on.

        It is the temperature at which the tags of these rows are likeliest; the tags that the model gives do not
        change.

        Args:
            x: rows in memory, as `fit` takes them.
            y: tags, for rows that do not bring them along.
            batch_size: int. Rows computed at a time.

        Returns:
            The temperature.

        Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.
        """
        self.temperature = _entities.fitted_temperature(self, x, y, batch_size)
        return self.temperature

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
            x: rows of words, or batches, as `fit` takes them. For a generator of rows the answers come as a generator
                of parts.
            batch_size: int. Windows computed at a time. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.
            steps: int. Batches to read, for batches.
            callbacks: `None`; the windows of long rows are no batches that a callback could count.

        Returns:
            A list with a float32 array `(words, tags)` for each row; zeros for a word without a token. In batches of
            ids the words behind the last one with a token are not known, and left out.

        Raises:
            ValueError: as `fit`, and for callbacks.
        """
        if callbacks:
            raise _check.invalid("callbacks", "None for a tagger", callbacks, "Read progress by `verbose=1`.")
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
        """Returns what a search can choose: `word_pooling`, `head` and others; see `tuning.HyperModel`."""
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
        """Returns the code of the model card: how the libraries load and ask the model."""
        return _usage.tagger(self, format, repo_id)

    def card_rows(self) -> dict[str, str]:
        """Returns the tags and their scheme for the model card."""
        shown = ", ".join(f"`{tag}`" for tag in self.tags[:_MOST_TAGS])
        more = f" and {len(self.tags) - _MOST_TAGS} more" if len(self.tags) > _MOST_TAGS else ""
        return {"Tags": shown + more, "Scheme": self.scheme or "none"}

    def save_own_variables(self, store: Any) -> None:
        """Writes the tags beside the weights, so that weights for another order of tags are noticed."""
        super().save_own_variables(store)
        _restoring.keep_names(store, _TAGS, self.tags)

    def load_own_variables(self, store: Any) -> None:
        """Checks that weights belong to the model's tags."""
        remedy = "Make the model with the tags of the file."
        rest = _restoring.without_names(store, _TAGS, self.tags, remedy)
        super().load_own_variables(rest)

    def _with(self, arguments):
        return _trained_tagger.changed(self, arguments, self._changeable())

    def _changeable(self):
        named = isinstance(self._head_argument, str)
        return (*super()._changeable(), "split", "stride", "temperature", *(("dropout",) if named else ()))

    def get_config(self) -> dict[str, Any]:
        head = self._head_argument
        return {
            **super().get_config(),
            "tags": self.tags,
            "scheme": self.scheme,
            "head": head if isinstance(head, str) else keras.saving.serialize_keras_object(head),
            "new_head": self._head_sum() if self.has_new_head() else None,
            "word_pooling": self.word_pooling,
            "split": self.split,
            "stride": self.stride,
            "dropout": self.dropout,
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if isinstance(config.get("head"), dict):
            config["head"] = keras.saving.deserialize_keras_object(config["head"])
        new_head = config.pop("new_head", None)
        model = super().from_config(config)
        model._new_heads |= {new_head} - {None}  # a head that is saved before it trains is new when it is loaded
        return model


def _make_head(head, num_tags, dropout):
    """Returns the layer for `head`: a name out of `HEADS`, or a `layers.Head` that is taken as it is."""
    if not isinstance(head, layers.Head):
        _check.one_of("head", head, HEADS, "Or give a `layers.Head`.")
        return layers.Head(num_tags, dropout=dropout, name="head")
    if head.num_outputs != num_tags:
        raise _check.invalid("head", f"a layers.Head of {num_tags} outputs, one for each tag", head.num_outputs)
    return head


def _tag_column(tags, scheme):
    """Checks tags and scheme of a model; returns their column."""
    if scheme is not None:
        scheme = _schemes.scheme("scheme", scheme)
        if scheme not in SCHEMES:
            remedy = "Convert the tags to one of these first: `data.convert_tags`."
            raise _check.invalid("scheme", f"one of {', '.join(map(repr, SCHEMES))}, or None", scheme, remedy)
    return data.TagsColumn(tags, scheme=scheme)
