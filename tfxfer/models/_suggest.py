"""Which texts to label next: those that a model is unsure of, spread over all that it is unsure of."""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _neighbours, data, layers, preprocessing
from tfxfer.models import _entities

Suggestion = collections.namedtuple("Suggestion", ["index", "text", "score"])
Suggestion.__doc__ = (
    "A text that `suggest` chose: its place among those that were given, itself, and how unsure the model is of it, "
    "from 0 to 1."
)

# Candidates for each text that is chosen, the most doubtful of all.
_CANDIDATES = 10
# Texts that are read at a time: enough to sort by length, little to hold.
_PART = 2048
# Candidates whose gain is computed at a time.
_BLOCK = 32
# What a text is worth of which the model is certain.
_LEAST = 1e-6
# The name of the part of a model that gives the mean of a text's token vectors.
_MEAN = "mean"

_Mixin: Any = object  # what is mixed in here has the methods of a task model


class Suggests(_Mixin):
    """`suggest` of models that say how sure they are of a text; a mixin.

    A task has `_pool`, which gives the rows of a collection, `_kind` of a row (0 for a string), `_rows`, which turns
    rows into what its columns read, and `_doubts` of rows, from 0 to 1.
    """

    def suggest(self, texts: Any, budget: int, batch_size: int = 32, *, verbose: int | str = 0) -> list[Suggestion]:
        """Returns the texts whose labels would teach the model most: label them, train again, and ask again.

        Of all texts, the `10 * budget` that the model is least sure of are candidates. Out of these the chosen ones
        cover the others best (facility location): greedily, each is the one that adds most to

            sum over candidates i of score_i * max(0, largest cosine of i with a chosen one)

        where vectors are the means of the encoder's token vectors (of a long text, of its first `sequence_length`
        tokens). So a choice has neither the same question in ten wordings nor texts that are like no other, which the
        most doubtful ones alone often are.

        | model | score, from 0 to 1 |
        |---|---|
        | classifier | 1 - (largest probability - second largest) |
        | classifier with `multi_label` | of the label nearest to a probability p of 0.5: 1 - 2 abs(p - 0.5) |
        | tagger | 1 - probability of the least sure entity; without entities, of the least sure word's tag |

        (The probability of a text's whole sequence of tags would prefer long texts.)

        Args:
            texts: list or another sequence of strings; of a classifier of pairs, a tuple of two; of a tagger, also a
                list of lists of words. Or an iterator of such rows: it is read in parts, and only candidates stay in
                memory.
            budget: int. The number of texts that can be labelled.
            batch_size: int. Texts computed at a time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list of `Suggestion(index, text, score)`, in the order in which they were chosen. It is shorter than
            `budget` where there are fewer texts, and then has the most doubtful first. Equal texts are chosen once,
            with the index of the first; empty texts are never chosen.

        Raises:
            ValueError: for what is no text, with its row, or a budget below 1.

        Example:

        ```python
        for index, text, score in model.suggest(unlabelled, budget=50):
            print(index, round(score, 2), text)
        ```

        Reference: margins and least confidence: Settles, 2009, https://burrsettles.com/pub/settles.activelearning.pdf,
        section 3.1; the choice among doubtful candidates: Wei et al., 2015, https://proceedings.mlr.press/v37/wei15.html.
        On Banking77 it learns faster than by k-centers (Sener and Savarese, 2018, https://arxiv.org/abs/1708.00489).
        """
        budget = _check.integer("budget", budget)
        _check.integer("batch_size", batch_size)
        if self.preprocessor is None:
            raise _check.invalid("texts", "ids, for a model without a preprocessor", texts, "Set `model.preprocessor`.")
        kept, bar = _Candidates(_CANDIDATES * budget), _bar(texts, verbose)
        for first, rows in self._parts(texts):
            new: dict[Any, int] = {}
            for number, row in enumerate(rows, first):
                if row not in kept.found and "".join(row).strip():
                    new.setdefault(row, number)
            if new:
                doubts = np.asarray(self._doubts(list(new), batch_size))
                if not np.isfinite(doubts).all():
                    raise _check.invalid("model", "a model whose outputs are finite numbers", self.name)
                kept.add(zip(new.items(), doubts.tolist(), strict=True))
            if bar is not None:
                bar.add(len(rows))
        candidates = kept.best()
        if len(candidates) > budget:
            x = self._rows([text for _, text, _ in candidates])
            vectors = np.asarray(self._runner(x, _MEAN)(x, batch_size), "float32")
            weights = np.maximum([score for _, _, score in candidates], _LEAST)
            candidates = [candidates[i] for i in cover(vectors, weights, budget)]
        return [Suggestion(number, self._given(row), score) for number, row, score in candidates]

    def _parts(self, texts):
        """Yields (number of the first row, rows) of texts; rows are strings, or tuples of strings."""
        rows = texts if isinstance(texts, Iterator) else iter(self._pool(texts))
        first, kind = 0, None
        while part := list(itertools.islice(rows, _PART)):
            kind = self._kind(part[0]) if kind is None else kind
            read = []
            for number, row in enumerate(part, first):
                if self._kind(row) != kind:
                    where = f"It is in row {number} (counting from 0)."
                    raise _check.invalid("texts", "rows of one kind, that of row 0", row, where)
                read.append(tuple(_text(each, number) for each in row) if kind else _text(row, number))
            yield first, read
            first += len(part)

    def _part(self, part):
        """The model from inputs to the mean of the token vectors."""
        if part != _MEAN:
            return super()._part(part)
        sequence, mask, _ = self.boundary()
        return keras.Model(self.input, layers.Pooling("mean")(sequence, padding_mask=mask))

    def _given(self, row):
        """A row as the user gave it."""
        return row


class SuggestsTexts(Suggests):
    """`suggest` of a classifier; a mixin."""

    def _pool(self, texts):
        found = self.input_columns()["text"].read(texts, "texts")
        if not isinstance(found, tuple):
            return found.numpy().tolist()
        return list(zip(*(column.numpy().tolist() for column in found), strict=True))

    def _kind(self, row):
        return len(row) if isinstance(row, tuple) else 0

    def _rows(self, rows):
        texts = tuple(map(list, zip(*rows, strict=True))) if isinstance(rows[0], tuple) else rows
        return self.input_columns()["text"].read(texts, "texts")

    def _doubts(self, rows, batch_size):
        if len(self.labels) == 1 and not self.multi_label:
            return np.zeros(len(rows))
        x = self._rows(rows)
        found = np.asarray(keras.ops.convert_to_numpy(self.probabilities(self._runner(x)(x, batch_size))), "float64")
        if self.multi_label:
            return 1 - 2 * np.abs(found - 0.5).min(axis=1)
        second, largest = np.partition(found, -2, axis=1)[:, -2:].T
        return 1 - (largest - second)


class SuggestsWords(Suggests):
    """`suggest` of a tagger; a mixin. Rows are strings, or tuples of words."""

    def _pool(self, texts):
        return data.WordsColumn(None).sequence(texts, "texts")

    def _kind(self, row):
        return int(isinstance(row, (list, tuple, np.ndarray)))

    def _rows(self, rows):
        words = [list(row) for row in rows] if isinstance(rows[0], tuple) else None
        if words is None:
            return preprocessing.split_words(rows, self.split).words
        return data.WordsColumn(None).read(words, "texts")

    def _doubts(self, rows, batch_size):
        return _entities.doubts(self, _entities.runner(self)(self._rows(rows), batch_size))

    def _given(self, row):
        return list(row) if isinstance(row, tuple) else row


def _text(text, row):
    """A text as a string; raises where it is none."""
    _check.text("texts", text, row)
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _bar(texts, verbose):
    progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
    if not progress:
        return None
    count = None if isinstance(texts, Iterator) or not hasattr(texts, "__len__") else len(texts)
    return keras.utils.Progbar(count, unit_name="text")


class _Candidates:
    """The most doubtful of many rows, each once.

    Args:
        size: int. Their number.
    """

    def __init__(self, size):
        self._size = size
        self.found = {}  # row -> (negated score, number)

    def add(self, rows):
        """Takes in ((row, number), score) of rows; those with a score below 0 stay out."""
        for (row, number), score in rows:
            if score >= 0:
                self.found[row] = (-score, number)
        if len(self.found) > 2 * self._size:
            self.found = dict(self._ordered())

    def best(self):
        """Returns (number, row, score), the most doubtful first; of equal scores, the first row."""
        return [(number, row, -negated) for row, (negated, number) in self._ordered()]

    def _ordered(self):
        return sorted(self.found.items(), key=lambda each: each[1])[: self._size]


def cover(vectors: np.ndarray, weights: np.ndarray, count: int) -> list[int]:
    """Chooses rows that together are close to all: greedy facility location.

    Each row that is chosen adds most to `sum_i weights_i max(0, max over chosen j of cos(i, j))`; the sum is at least
    1 - 1/e of the largest that `count` rows can have.

    Args:
        vectors: float array `(rows, dim)`.
        weights: float array `(rows,)`, > 0.
        count: int.

    Returns:
        A list of at most `count` numbers of rows, in the order in which they were chosen.

    Reference: Nemhauser et al., 1978, https://doi.org/10.1007/BF01588971; gains that can only fall are computed when
    they matter: Minoux, 1978, https://doi.org/10.1007/BFb0006528.
    """
    vectors, rows = _neighbours.unit(vectors), len(vectors)
    covered, gains = np.zeros(rows), np.full(rows, np.inf)
    chosen: list[int] = []
    while len(chosen) < min(count, rows):
        is_stale = gains > -np.inf
        while is_stale[best := int(np.argmax(gains))]:
            block = np.argpartition(np.where(is_stale, -gains, np.inf), min(_BLOCK, rows) - 1)[:_BLOCK]
            block = np.union1d(block[is_stale[block]], [best])
            closeness = np.maximum(vectors @ vectors[block].T, 0.0)
            gains[block] = weights @ np.maximum(closeness - covered[:, None], 0.0)
            is_stale[block] = False
        chosen.append(best)
        covered = np.maximum(covered, vectors @ vectors[best])
        gains[best] = -np.inf
    return chosen
