"""Insertion and removal of punctuation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check
from tfxfer._random import below, fold, uniform
from tfxfer.augmentation._base import Augmentation
from tfxfer.augmentation._rows import WordRows
from tfxfer.augmentation._words import without

MARKS = (".", ";", "?", ":", "!", ",")
_MARK = r"\p{P}+"


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Punctuation(Augmentation):
    """AEDA: inserts punctuation marks before random words.

    A row gets 1 to `rate * words + 1` marks, all numbers equally likely, each before a different word. All words stay
    in order. Among tagged words a mark is a word with the tag `O`, and no mark is inserted within an entity.

    Args:
        rate: float in `[0, 1]`. Limits the number of marks. Defaults to 0.3, as in the paper.
        marks: sequence of strings. Defaults to the six of the paper, `. ; ? : ! ,`.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if marks are not strings or contain whitespace; in a pipeline, if tags have no scheme.

    Example:

    >>> Punctuation()(["Where is my card?"], seed=1).numpy().tolist()
    [b', Where is my ; card?']

    Reference: Karimi et al., 2021, AEDA, https://arxiv.org/abs/2108.13194.
    """

    rate: float = 0.3
    marks: Sequence[str] = MARKS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)
        marks = tuple(self.marks)
        if not marks or not all(isinstance(mark, str) and mark and not any(map(str.isspace, mark)) for mark in marks):
            raise _check.invalid("marks", "strings without whitespace, at least one", self.marks)
        self._set("marks", marks)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        most = tf.cast(tf.floor(self.rate * tf.cast(rows.total(rows.is_word), tf.float64)), tf.int64) + 1
        counts = tf.where(active, 1 + below(fold(seeds, 0), most), 0)
        places = rows.chosen(rows.is_place, counts, seeds, 1)
        marks = tf.gather(tf.constant(self.marks), below(tf.gather(rows.draw(seeds, 2), places), len(self.marks)))
        return rows.insert(places, marks)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class DropPunctuation(Augmentation):
    """Drops punctuation marks, as hasty typing does.

    Marks within a word stay ("3.14", "x-ray"), and a text that consists of marks keeps one. Among tagged words, only
    marks outside entities are dropped.

    Args:
        rate: float in `[0, 1]`. The probability for each mark. Defaults to 1, all marks.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 0.1.

    Example:

    >>> DropPunctuation(probability=1.0)(["Well, where is my card (the new one)?"]).numpy().tolist()
    [b'Well where is my card the new one']
    """

    rate: float = 1.0
    probability: float = dataclasses.field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        lost = tf.strings.regex_full_match(rows.words, _MARK) & rows.is_removable & rows.of_row(active)
        lost &= uniform(rows.draw(seeds, 0)) < self.rate
        return without(rows, lost, rows.draw(seeds, 1), tf.ones_like(lost))
