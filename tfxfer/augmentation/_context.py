"""Replacement of words by words that a language model proposes for their context."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer._random import below
from tfxfer.augmentation._base import Augmentation
from tfxfer.augmentation._candidates import constants
from tfxfer.augmentation._rows import WordRows
from tfxfer.augmentation._words import _counts, like
from tfxfer.preprocessing import split_words

_PART = 1024  # texts at a time
_MOST_PLACES = 2**20


class ProposesWords(Protocol):
    """The protocol of models for `ReplaceInContext.from_model`, such as a model with a head that fills in words.

    Raises:
        TypeError: if the protocol itself is instantiated.

    Example:

    >>> class Phones:
    ...     '''Proposes the same word everywhere.'''
    ...     def propose_words(self, texts, places, k):
    ...         return [["phone"] for text in texts]
    >>> ReplaceInContext.from_model(Phones(), ["Where is my card?"], places=1).proposals
    {'Where is my card?': ((2, ('phone',)),)}
    """

    def propose_words(self, texts: Sequence[str], places: Sequence[tuple[int, int]], k: int) -> Sequence[Sequence[str]]:
        """Returns words that fit at one place of each text.

        Args:
            texts: list of strings.
            places: list of (start, end), one for each text, in code points: `text[start:end]` is the word to replace.
            k: int. The maximum number of words for each text.

        Returns:
            A list with a list of strings for each text, the best first. Strings that are not single words are dropped
            later.
        """
        ...


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class ReplaceInContext(Augmentation):
    """Replaces words by words that fit their context, proposed by a masked language model.

    `from_model` queries the model once, before training, about some words of each training text; training looks up the
    answers by the text. In a sequence of augmentations this one must therefore come first: a changed text is not found
    and stays unchanged. A word that fits a text does not always preserve its label ("good" fits in place of "bad"): the
    models in the papers learn the labels first.

    Args:
        proposals: dict of text to a list of (place, words): the index of a word in `preprocessing.split_words(text)`,
            from 0, and its possible replacements. For rows that are lists of words, the text is the words joined by
            spaces, and the place is the index in the list.
        rate: float in `[0, 1]`. The share of the words to replace, at least one word. Defaults to 0.15, the share that
            BERT masks.
        entities: bool. Whether words within tagged entities are also replaced. Defaults to `False`.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if there are no proposals, places are not ints >= 0, or words contain whitespace.

    Example:

    >>> ReplaceInContext({"Where is my card?": [(3, ["phone", "money"])]})(["Where is my card?"]).numpy().tolist()
    [b'Where is my money?']

    References:
        - [Kobayashi, 2018](https://arxiv.org/abs/1805.06201), contextual augmentation
        - [Wu et al., 2019](https://arxiv.org/abs/1812.06705), with BERT
    """

    proposals: Mapping[str, Sequence[Any]]
    rate: float = 0.15
    entities: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)
        _check.instance("entities", self.entities, bool, "a bool")
        _check.instance("proposals", self.proposals, Mapping, "a dict of text to a list of (place, words)")
        made = {}
        for text, found in self.proposals.items():
            rows = []
            for place, words in found:
                _check.integer("proposals", place, minimum=0)
                if place >= _MOST_PLACES or isinstance(words, str) or not all(map(_is_word, words)):
                    expected = f"a place < {_MOST_PLACES} and a list of words without whitespace"
                    raise _check.invalid("proposals", expected, (place, words), f"They belong to {text!r}.")
                if words:
                    rows.append((int(place), tuple(words)))
            if rows:
                made[text] = tuple(rows)
        if not made:
            raise _check.invalid("proposals", "proposals for at least one text", self.proposals)
        self._set("proposals", made)

    def __hash__(self) -> int:
        return hash((tuple(self.proposals), self.rate, self.entities, self.probability))

    @classmethod
    def from_model(
        cls,
        model: ProposesWords | Any,
        rows: Sequence[Any],
        *,
        k: int = 5,
        places: int = 3,
        seed: int = 0,
        rate: float = 0.15,
        entities: bool = False,
        probability: float = 1.0,
    ) -> Self:
        """Queries a model for words, once for each chosen place of the rows.

        Args:
            model: a masked language model with `fill_mask(texts, k)` and a preprocessor, of whose answers only whole
                words are used; an object with `propose_words(texts, places, k)`, see `ProposesWords`; or a function of
                the same arguments.
            rows: the training texts, a list of strings or of lists of words.
            k: int. The maximum number of words per place. Defaults to 5.
            places: int. The number of randomly chosen words per row to query. Defaults to 3; more give more variety and
                take longer.
            seed: int >= 0. Selects the places.
            rate: see the class.
            entities: see the class.
            probability: see the class.

        Returns:
            `ReplaceInContext`.

        Raises:
            ValueError: if the model does not propose words, or returns another number of answers.

        Example:

        >>> def propose(texts, places, k):
        ...     return [["phone", "wallet"] if text[start:end] == "card" else [] for text, (start, end)
        ...             in zip(texts, places)]
        >>> found = ReplaceInContext.from_model(propose, ["Where is my card?"], places=4)
        >>> found.proposals
        {'Where is my card?': ((3, ('phone', 'wallet')),)}
        """
        propose = getattr(model, "propose_words", model)
        if propose is model and hasattr(model, "fill_mask"):
            propose = functools.partial(_filled, model)
        elif not callable(propose):
            expected = "an object with `fill_mask` or `propose_words(texts, places, k)`, or a function"
            raise _check.invalid("model", expected, model)
        for name, value in (("k", k), ("places", places)):
            _check.integer(name, value)
        rng = np.random.default_rng(_check.integer("seed", seed, minimum=0))
        proposals: dict[str, list] = {}
        asked = list(_asked(rows, places, rng))
        for start in range(0, len(asked), _PART):
            part = asked[start : start + _PART]
            texts, spans = [text for text, _, _ in part], [span for _, _, span in part]
            answers = propose(texts, spans, k)
            if len(answers) != len(part):
                raise _check.invalid("model", f"{len(part)} lists of words, one for each text", f"{len(answers)} lists")
            for (text, place, (a, b)), words in zip(part, answers, strict=True):
                fitting = [word for word in words if _is_word(word) and word.lower() != text[a:b].lower()]
                proposals.setdefault(text, []).append((place, fitting[:k]))
        return cls(proposals, rate, entities, probability=probability)

    @functools.cached_property
    def _tensors(self):
        keys, table = [], {}
        for number, found in enumerate(self.proposals.values()):
            for place, words in found:
                keys.append(number * _MOST_PLACES + place)
                table[str(keys[-1])] = words
        with tf.init_scope(), tf.device("CPU:0"):
            _, words, splits = constants(table)
            numbers = tf.range(len(self.proposals), dtype=tf.int64)
            texts = tf.lookup.KeyValueTensorInitializer(tf.constant(list(self.proposals), tf.string), numbers)
            places = tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.int64), tf.range(len(keys), dtype=tf.int64)
            )
            return tf.lookup.StaticHashTable(texts, -1), tf.lookup.StaticHashTable(places, -1), words, splits

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_tensors"}

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        texts, places, candidates, splits = self._tensors
        if rows.gaps is None:
            keys = tf.strings.reduce_join(rows.ragged(rows.words), axis=1, separator=" ")
        else:
            keys = rows.texts()
        number = rows.of_row(texts.lookup(keys))
        found = places.lookup(tf.where(number >= 0, number * _MOST_PLACES + rows.places, -1))
        mask = (found >= 0) & rows.of_row(active)
        mask = mask if self.entities else mask & ~rows.is_entity
        index = rows.chosen(mask, _counts(rows, self.rate, active), seeds, 0)
        number = tf.gather(found, index)
        start = tf.gather(splits, number)
        drawn = below(tf.gather(rows.draw(seeds, 1), index), tf.gather(splits, number + 1) - start)
        return rows.with_words(index, like(tf.gather(candidates, start + drawn), tf.gather(rows.words, index)))


def _filled(model, texts, places, k):
    """Proposes words with a model's `fill_mask`."""
    tokenizer, room = model.preprocessor.tokenizer, model.preprocessor.sequence_length
    vocabulary = tokenizer.vocabulary
    mask = vocabulary[tokenizer.mask_token_id]
    # If the mask would be beyond the tokens that the model reads, the text is cut to the context of the mask.
    before = tokenizer([text[:start] for text, (start, _) in zip(texts, places, strict=True)]).row_lengths().numpy()
    side = max((room - 8) // 2, 1)  # in characters; a token has at least one
    masked = []
    for text, (start, end), count in zip(texts, places, before.tolist(), strict=True):
        left, right = (text[:start], text[end:])
        if count + 4 > room:
            left, right = left[-side:], right[:side]
        masked.append(f"{left}{mask}{right}")
    # The prefix of tokens that begin a word; in WordPiece the other tokens have a prefix.
    sign = next((sign for sign in ("\u2581", "\u0120") if any(token.startswith(sign) for token in vocabulary)), "")
    found = []
    for answers in model.fill_mask(masked, k=4 * k):
        tokens = [answer[0] for answer in answers[0]]
        words = [token[len(sign) :] for token in tokens if token.startswith(sign)]
        # Non-ASCII characters of byte-level vocabularies are not letters.
        found.append([word for word in words if word.isalpha() and (sign != "\u0120" or word.isascii())])
    return found


def _is_word(value):
    return isinstance(value, str) and bool(value) and not any(map(str.isspace, value))


def _asked(rows, places, rng):
    """Yields the text, a word's index and its span in the text, for some words of each distinct row."""
    if isinstance(rows, (str, bytes)):
        raise _check.invalid("rows", "a list of texts, or of lists of words", rows, "Wrap a single text in a list.")
    texts = dict.fromkeys(tuple(row) if isinstance(row, (list, tuple)) else row for row in rows)
    for row in texts:
        if isinstance(row, tuple):
            text, ends = " ".join(row), np.cumsum([len(word) + 1 for word in row])
            spans = [(int(end) - 1 - len(word), int(end) - 1) for word, end in zip(row, ends, strict=True)]
        else:
            _check.text("rows", row, 0)
            text, found = row, split_words([row])
            spans = list(zip(found.starts[0].numpy().tolist(), found.ends[0].numpy().tolist(), strict=True))
        numbers = [i for i, (start, end) in enumerate(spans) if any(map(str.isalnum, text[start:end]))]
        chosen = rng.permutation(len(numbers))[:places]
        for i in sorted(numbers[j] for j in chosen):
            yield text, i, spans[i]
