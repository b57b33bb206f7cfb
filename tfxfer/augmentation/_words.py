"""Deletion, swap, insertion and replacement of words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check
from tfxfer._random import below, fold, uniform
from tfxfer.augmentation._base import Augmentation, OneOf
from tfxfer.augmentation._candidates import Candidates
from tfxfer.augmentation._rows import WordRows, true_at


def _counts(rows, rate, active):
    """Returns `rate` times the number of words of each row, at least one as in EDA; 0 if `rate` is 0."""
    share = tf.cast(tf.floor(rate * tf.cast(rows.total(rows.is_word), tf.float64)), tf.int64)
    return tf.where(active, tf.maximum(share, 1 if rate else 0), 0)


def without(rows: WordRows, lost: Any, seeds: Any, needed: Any) -> WordRows:
    """Removes words from rows; if no needed word would remain, one of the lost words stays.

    Args:
        rows: `WordRows`.
        lost: bool `(words,)`. The words to remove.
        seeds: int64 `(words,)`. They decide which word stays.
        needed: bool `(words,)`. The words of which at least one must stay.
    """
    keys = tf.where(lost & needed, uniform(seeds), -1.0)
    last = tf.math.unsorted_segment_max(keys, rows.rows, rows.count)
    is_left = rows.total(needed & ~lost) > 0
    stays = ~lost | (~rows.of_row(is_left) & (keys >= 0) & (keys == rows.of_row(last)))
    return rows.keep(stays)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Delete(Augmentation):
    """Deletes each word with some probability.

    Words are those of `preprocessing.split_words` that contain a letter or a digit; in scripts without spaces,
    characters. A word is deleted with the whitespace before it, and the rest of the text stays byte for byte. If all
    words would be deleted, one stays, so that no text becomes empty. Among tagged words, only those outside entities
    are deleted.

    Args:
        rate: float in `[0, 1]`. The probability for each word. Defaults to 0.1, as in the paper.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if a number is outside `[0, 1]`.

    Example:

    >>> Delete(0.3)(["Where is my new card, please?"], seed=1).numpy().tolist()
    [b'Where is new card, please?']

    Reference: Wei and Zou, 2019, EDA, https://arxiv.org/abs/1901.11196.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        drawn = rows.draw(seeds, 0)
        lost = rows.is_word & rows.is_removable & rows.of_row(active) & (uniform(drawn) < self.rate)
        return without(rows, lost, rows.draw(seeds, 1), rows.is_word)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Swap(Augmentation):
    """Swaps random pairs of words.

    As in EDA, `max(1, rate * words)` pairs are swapped in a row of at least two words; unlike in EDA, no word is in two
    pairs. Whitespace and punctuation stay in place. Among tagged words, only those outside entities are swapped; tags
    that do not mark entities move with their words.

    Args:
        rate: float in `[0, 1]`. The number of pairs per word. Defaults to 0.1, as in the paper.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if a number is outside `[0, 1]`.

    Example:

    >>> Swap(0.1)(["Where is my card, please?"]).numpy().tolist()
    [b'is Where my card, please?']

    Reference: Wei and Zou, 2019, EDA, https://arxiv.org/abs/1901.11196.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        mask = rows.is_word & ~rows.is_entity & rows.of_row(active)
        pairs = tf.minimum(_counts(rows, self.rate, active), rows.total(mask) // 2)
        # An even number per row, with the words of a row next to each other.
        index = rows.chosen(mask, 2 * pairs, seeds, 0)
        partners = tf.reshape(tf.reverse(tf.reshape(index, (-1, 2)), axis=[1]), (-1,))
        return rows.permuted(index, partners)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Replace(Augmentation):
    """Replaces words by similar words from a table.

    As in EDA, `max(1, rate * words)` of the words in the table are replaced. A candidate takes the case of the word:
    all capitals or an initial capital. Tags stay.

    Args:
        candidates: `Candidates`, or a dict of word to a list of words.
        rate: float in `[0, 1]`. The share of the words. Defaults to 0.1, as in the paper.
        entities: bool. Whether words within tagged entities are also replaced. Defaults to `False`, because a similar
            name can have another type.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if a number is outside `[0, 1]`, or `candidates` are not words.

    Example:

    >>> Replace({"card": ["cards"], "where": ["when"]}, rate=1.0)(["Where is my  CARD?"]).numpy().tolist()
    [b'When is my  CARDS?']

    Reference: Wei and Zou, 2019, EDA, https://arxiv.org/abs/1901.11196.
    """

    candidates: Candidates | dict[str, Sequence[str]]
    rate: float = 0.1
    entities: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("candidates", Candidates.of(self.candidates))
        self._rate("rate", self.rate)
        self._set("entities", _check.instance("entities", self.entities, bool, "a bool"))

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        candidates = Candidates.of(self.candidates)
        found = candidates.find(rows.words)
        mask = rows.is_word & (found >= 0) & rows.of_row(active)
        mask = mask if self.entities else mask & ~rows.is_entity
        index = rows.chosen(mask, _counts(rows, self.rate, active), seeds, 0)
        words = candidates.draw(tf.gather(found, index), tf.gather(rows.draw(seeds, 1), index))
        return rows.with_words(index, like(words, tf.gather(rows.words, index)))


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Insert(Augmentation):
    """Inserts words similar to some of the row's at random positions.

    As in EDA, a candidate of a random word is inserted before another random word, `max(1, rate * words)` times. Among
    tagged words, only those outside entities provide candidates. No word is inserted within an entity or between two
    adjacent entities, and inserted words have the tag `O`.

    Args:
        candidates: `Candidates`, or a dict of word to a list of words.
        rate: float in `[0, 1]`. The share of the words. Defaults to 0.1, as in the paper.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: in a pipeline, if tags have no scheme, because a new word's tag is then unknown.

    Example:

    >>> Insert({"card": ["cards"]})(["Where is my card?"], seed=3).numpy().tolist()
    [b'Where cards is my card?']

    Reference: Wei and Zou, 2019, EDA, https://arxiv.org/abs/1901.11196.
    """

    candidates: Candidates | dict[str, Sequence[str]]
    rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("candidates", Candidates.of(self.candidates))
        self._rate("rate", self.rate)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        candidates = Candidates.of(self.candidates)
        found = candidates.find(rows.words)
        sources = rows.is_word & ~rows.is_entity & (found >= 0)
        counts, totals = _counts(rows, self.rate, active), [rows.total(sources), rows.total(rows.is_place)]
        counts = tf.where((totals[0] > 0) & (totals[1] > 0), counts, 0)
        row = tf.repeat(tf.range(rows.count), counts)
        number = tf.range(tf.size(row, tf.int64)) - tf.gather(tf.cumsum(counts, exclusive=True), row)
        drawn = fold(tf.gather(seeds, row), number)
        source, place = (
            tf.gather(
                true_at(mask),
                tf.gather(tf.cumsum(total, exclusive=True), row) + below(fold(drawn, i), tf.gather(total, row)),
            )
            for i, (mask, total) in enumerate(zip((sources, rows.is_place), totals, strict=True))
        )
        words = candidates.draw(tf.gather(found, source), fold(drawn, 2))
        return rows.insert(place, words)


def like(words: Any, models: Any) -> Any:
    """Returns words with the case of their models: all capitals, an initial capital, or unchanged."""
    upper, lower = (change(models, encoding="utf-8") for change in (tf.strings.upper, tf.strings.lower))
    zeros, ones = tf.zeros(tf.shape(models), tf.int32), tf.ones(tf.shape(models), tf.int32)
    first = (tf.strings.substr(each, zeros, ones, unit="UTF8_CHAR") for each in (models, lower))
    has_capital = tf.not_equal(*first)
    in_capitals = tf.equal(models, upper) & (tf.strings.length(models, unit="UTF8_CHAR") > 1) & has_capital
    all_upper = tf.strings.upper(words, encoding="utf-8")
    return tf.where(in_capitals, all_upper, tf.where(has_capital, capitalized(words), words))


def capitalized(words: Any) -> Any:
    """Returns words with an initial capital and the rest unchanged."""
    one = tf.minimum(tf.strings.length(words, unit="UTF8_CHAR"), 1)
    first = tf.strings.substr(words, tf.zeros_like(one), one, unit="UTF8_CHAR")
    rest = tf.strings.substr(words, one, tf.fill(tf.shape(one), LONG), unit="UTF8_CHAR")
    return tf.strings.join([tf.strings.upper(first, encoding="utf-8"), rest])


LONG = 2**30  # longer than any word


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class EasyData(Augmentation):
    """EDA: applies one of replacement, insertion, swap and deletion to each row.

    Args:
        candidates: `Candidates`, or a dict of word to a list of words; the paper uses WordNet's
            (`Candidates.from_wordnet`). Without candidates, only swaps and deletions are applied.
        rate: float in `[0, 1]`. The share of the words that change. Defaults to 0.1; the paper uses 0.05 for up to 500
            rows and 0.1 for more.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 0.8: the paper trains on four
            changed texts for each original (16 for up to 500 rows: 0.94).

    Raises:
        ValueError: if a number is outside `[0, 1]`, or `candidates` are not words.

    Example:

    >>> EasyData(rate=0.2)(["Where is my card, please?"], epoch=2).numpy().tolist()
    [b'Where card my is, please?']

    Reference: Wei and Zou, 2019, https://arxiv.org/abs/1901.11196, tables 1 and 3.
    """

    candidates: Candidates | dict[str, Sequence[str]] | None = None
    rate: float = 0.1
    probability: float = dataclasses.field(default=0.8, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)
        if self.candidates is not None:
            self._set("candidates", Candidates.of(self.candidates))

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        made: list[Augmentation] = [Swap(self.rate), Delete(self.rate)]
        if self.candidates is not None:
            made = [Replace(self.candidates, self.rate), Insert(self.candidates, self.rate), *made]
        return OneOf(made).apply(rows, seeds, active)
