"""What a tagger answers for words and for raw texts."""

import functools
from collections.abc import Iterator
from typing import Any, Literal

import keras

from tfxfer import _check, data
from tfxfer.models import _entities, _token_entities

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model


class TagsWords(_Mixin):
    """Mixin with `tag`, `spans` and `extract`, for taggers."""

    def tag(self, words: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns the tags of texts that are split into words.

        Args:
            words: list of lists of words, or another form that `fit` takes. For a generator of rows, the results come
                as a generator of parts.
            batch_size: int. Windows per batch.
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
        """Converts scores from `predict` to tags; see `tag`."""
        return _entities.names(self, outputs)

    def spans(self, words: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Finds the entities of texts that are split into words, with their probabilities.

        They are the entities that `tag` marks.

        Args:
            words: as in `tag`.
            batch_size: int. Windows per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `Span(label, start, end, probability)` for each row, in the order of the words.
            `start` is the first word, from 0, and `end` the word after the last. The probability is as in `extract`.

        Raises:
            ValueError: if the tagger has no scheme.

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
            words: as in `tag`.
            batch_size: int. Windows per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a float32 array `(words, tags)` for each row; zeros for a word without a token.
        """
        return self._answers(words, batch_size, verbose, self._decoders.probabilities)

    def extract(self, texts: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Finds the entities of raw texts.

        Texts are split into words (`preprocessing.split_words`) and tagged, and the entities are returned with their
        positions. Texts of any length are read in windows, in constant memory.

        Args:
            texts: list or another sequence of strings; or an iterator of strings, for which the results come as an
                iterator, in constant memory.
            batch_size: int. Windows per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `Entity(label, start, end, text, probability)` for each text, in the order of
            the text. The probability is that of exactly this entity, with all its words and no others: with a CRF, by
            summing over all tags of the other words; with a linear head, the product over its words.

        Raises:
            ValueError: if a text is not a string (the error names the row), or if the tagger has no scheme.

        Example:

        ```python
        for entity in tagger.extract(["Anna Berg lives in Oslo."])[0]:
            print(entity.label, entity.text, entity.start, entity.end, round(entity.probability, 2))
        ```
        """
        self._check_scheme("Use `tag`, on words, or `extract_tokens`.")
        return self._extracted(functools.partial(_entities.found, self), texts, batch_size, verbose)

    def _extracted(self, answers, texts, batch_size, verbose):
        """Applies a function of a list of texts and the batch size to raw texts, or to an iterator of them."""
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

        Each token gets its most likely tag, whether or not the scheme allows it there. Use this method to compare with
        that pipeline or to migrate from it. `extract` tags words instead, returns only sequences that the scheme
        allows, and returns the probability of each entity.

        | `aggregation` | result |
        |---|---|
        | `"none"` | each token separately |
        | `"simple"` | adjacent tokens of one type; a tag `B-...` begins another entity |
        | `"first"` | the same for words, each with the tag of its first token |
        | `"average"` | with the most likely tag in the mean over its tokens |
        | `"max"` | with the tag of its most certain token |

        Tokens and entities tagged `O` are left out. A word is a token with its continuation tokens (`##` in WordPiece);
        with other tokenizers, it is the text between two spaces. As in transformers, only `B-` and `I-` count as
        prefixes; in other schemes, an entity comes in parts.

        Labels, scores and positions are those of transformers, with three differences:

        - Positions exclude the whitespace around tokens; see `preprocessing.token_offsets`. Some tokenizers of
          transformers count the space before a word as part of the word.
        - A long text is read completely, in windows; transformers truncates it.
        - Scores are divided by `temperature`.

        Args:
            texts: as in `extract`.
            aggregation: see the table.
            batch_size: int. Windows per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list with a list of `TokenEntity(label, start, end, text, score, index)` for each text. With `"none"`,
            `label` is a tag and `index` the token's position in the row, counting special tokens. Otherwise `label` is
            a type, `score` the mean over the entity's parts, and `index` is `None`.

        Raises:
            ValueError: as `extract`, if the tagger has a CRF, whose tags depend on each other, or if the tokens of a
                text cannot be found in it.

        Example:

        ```python
        tagger = tx.models.TokenTagger.from_preset("hf://dslim/bert-base-NER")
        tagger.extract_tokens(["Anna Berg lives in Oslo."], "first")
        # [[TokenEntity(label='PER', start=0, end=9, text='Anna Berg', score=0.99, index=None), ...]]
        ```
        """
        if self.crf is not None:
            remedy = "`extract` and `tag` support a CRF."
            raise _check.invalid("head", "a tagger without a CRF, which reads words as a sequence", "crf", remedy)
        _check.one_of("aggregation", aggregation, _token_entities.AGGREGATIONS)
        answers = functools.partial(_token_entities.found, self, aggregation=aggregation)
        return self._extracted(answers, texts, batch_size, verbose)

    def calibrate(self, x: Any, y: Any = None, batch_size: int = 32) -> float:
        """Sets `temperature` to calibrate the probabilities on rows that were not in the training data.

        It is the temperature that maximizes the likelihood of these rows' tags. The predicted tags do not
        change.

        Args:
            x: rows in memory, as `fit` takes them.
            y: tags, for rows without tags.
            batch_size: int. Rows per batch.

        Returns:
            The temperature.

        Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.
        """
        self.temperature = _entities.fitted_temperature(self, x, y, batch_size)
        return self.temperature
