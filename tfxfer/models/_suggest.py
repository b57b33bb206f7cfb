"""Active learning: a diverse choice of the texts that a model is most uncertain about."""

import collections
import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _neighbours, data, layers, preprocessing
from tfxfer.models import _entities

Suggestion = collections.namedtuple("Suggestion", ["index", "text", "score"])
Suggestion.__doc__ = (
    "A text that `suggest` chose: its index in the given texts, the text, and the model's uncertainty about it, "
    "from 0 to 1."
)

# The number of candidates for each chosen text, the most uncertain ones.
_CANDIDATES = 10
# The number of texts read at a time: enough to sort by length, few to hold in memory.
_PART = 2048
# The number of candidates whose gain is computed at a time.
_BLOCK = 32
# The weight of a text about which the model is certain.
_LEAST = 1e-6
# The name of the part of a model that computes the mean of a text's token vectors.
_MEAN = "mean"

_Mixin: Any = object  # classes that use the mixin have the methods of a task model


class Suggests(_Mixin):
    """Mixin with `suggest`, for models that know how certain they are about a text.

    A task has `_pool`, which returns the rows of a collection; `_kind` of a row (0 for a string); `_rows`, which
    converts rows to the input of its columns; and `_doubts` of rows, from 0 to 1.
    """

    def suggest(
        self, texts: Any, budget: int, batch_size: int = 32, *, features: Any = None, verbose: int | str = 0
    ) -> list[Suggestion]:
        """Returns the texts whose labels would help the model most. Label them, train again, and repeat.

        The candidates are the `10 * budget` texts about which the model is least certain. The chosen texts are those
        that cover the candidates best (facility location). Greedily, each is the one that adds most to

            sum over candidates i of score_i * max(0, largest cosine of i with a chosen one)

        where vectors are the means of the encoder's token vectors (of a long text, of its first `sequence_length`
        tokens). The choice thus avoids both ten wordings of the same question and outliers, which are often the most
        uncertain texts.

        | model | score, from 0 to 1 |
        |---|---|
        | classifier | 1 - (largest probability - second largest) |
        | classifier with `multi_label` | for the label with the probability p nearest to 0.5: 1 - 2 abs(p - 0.5) |
        | tagger | 1 - probability of the least certain entity; without entities, of the least certain word's tag |

        (The probability of a text's whole sequence of tags would prefer long texts.)

        Args:
            texts: list or another sequence of strings; for a classifier of pairs, a tuple of two; for a tagger, also a
                list of lists of words. Or an iterator of such rows, which is read in parts; only candidates stay in
                memory.
            budget: int. The number of texts to label.
            batch_size: int. Texts per batch.
            features: for a classifier, float array `(texts, features)`: the result of `head_features` for these texts,
                valid as long as nothing below the head trains. The encoder then does not run: the head computes outputs
                from the features, which also replace the vectors, so each round of labels takes little time.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.

        Returns:
            A list of `Suggestion(index, text, score)`, in the order of the choice. If there are fewer texts than
            `budget`, it is shorter and starts with the most uncertain text. Equal texts are chosen once, with the index
            of the first; empty texts are never chosen.

        Raises:
            ValueError: if a row is not a text (the error names the row), `budget` is below 1, or `features` do not fit.

        Example:

        ```python
        for index, text, score in model.suggest(unlabeled, budget=50):
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
        if features is not None:
            features = self._checked_features(texts, features)
        kept, bar = _Candidates(_CANDIDATES * budget), _bar(texts, verbose)
        for first, rows in self._parts(texts):
            new: dict[Any, int] = {}
            for number, row in enumerate(rows, first):
                if row not in kept.found and "".join(row).strip():
                    new.setdefault(row, number)
            if new:
                if features is None:
                    doubts = np.asarray(self._doubts(list(new), batch_size))
                else:
                    doubts = self._doubts_of_features(features[list(new.values())])
                if not np.isfinite(doubts).all():
                    raise _check.invalid("model", "a model whose outputs are finite numbers", self.name)
                kept.add(zip(new.items(), doubts.tolist(), strict=True))
            if bar is not None:
                bar.add(len(rows))
        candidates = kept.best()
        if len(candidates) > budget:
            if features is None:
                x = self._rows([text for _, text, _ in candidates])
                vectors = np.asarray(self._runner(x, _MEAN)(x, batch_size), "float32")
            else:
                vectors = features[[number for number, _, _ in candidates]]
            weights = np.maximum([score for _, _, score in candidates], _LEAST)
            candidates = [candidates[i] for i in cover(vectors, weights, budget)]
        return [Suggestion(number, self._given(row), score) for number, row, score in candidates]

    def _parts(self, texts):
        """Yields (index of the first row, rows) of texts; rows are strings or tuples of strings."""
        rows = texts if isinstance(texts, Iterator) else iter(self._pool(texts))
        first, kind = 0, None
        while part := list(itertools.islice(rows, _PART)):
            kind = self._kind(part[0]) if kind is None else kind
            read = []
            for number, row in enumerate(part, first):
                if self._kind(row) != kind:
                    where = f"It is in row {number} (counting from 0)."
                    raise _check.invalid("texts", "rows of the same kind as row 0", row, where)
                read.append(tuple(_text(each, number) for each in row) if kind else _text(row, number))
            yield first, read
            first += len(part)

    def _part(self, part):
        """The model from inputs to the mean of the token vectors."""
        if part != _MEAN:
            return super()._part(part)
        sequence, mask, _ = self.boundary()
        return keras.Model(self.input, layers.Pooling("mean")(sequence, padding_mask=mask))

    def _checked_features(self, texts, features):
        """Returns features as float32; raises if the model has none, or if they do not fit the texts."""
        raise _check.invalid("features", f"None for a {type(self).__name__}, which reads the states of words", features)

    def _given(self, row):
        """A row in the form that the user passed."""
        return row


class SuggestsTexts(Suggests):
    """Mixin with `suggest`, for classifiers."""

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
        return self._doubts_of(self._runner(x)(x, batch_size))

    def _checked_features(self, texts, features):
        features, size = _neighbours.matrix("features", features), math.prod(self.feature_tensor().shape[1:])
        if isinstance(texts, Iterator) or not hasattr(texts, "__len__"):
            raise _check.invalid("texts", "a list of texts if `features` are given", texts)
        count = len(texts[0]) if isinstance(texts, tuple) and not isinstance(texts[0], (str, bytes)) else len(texts)
        if features.shape != (count, size):
            remedy = "Compute them with `model.head_features(texts)`."
            raise _check.invalid("features", f"an array {(count, size)}, a row for each text", features.shape, remedy)
        return features

    def _doubts_of_features(self, features):
        return self._doubts_of(self.head_outputs(features))

    def _doubts_of(self, logits):
        """The model's uncertainty about rows with these logits."""
        if len(self.labels) == 1 and not self.multi_label:
            return np.zeros(len(logits))
        found = np.asarray(keras.ops.convert_to_numpy(self.probabilities(logits)), "float64")
        if self.multi_label:
            return 1 - 2 * np.abs(found - 0.5).min(axis=1)
        second, largest = np.partition(found, -2, axis=1)[:, -2:].T
        return 1 - (largest - second)


class SuggestsWords(Suggests):
    """Mixin with `suggest`, for taggers. Rows are strings or tuples of words."""

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
    """A text as a string; raises if it is not one."""
    _check.text("texts", text, row)
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _bar(texts, verbose):
    progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
    if not progress:
        return None
    count = None if isinstance(texts, Iterator) or not hasattr(texts, "__len__") else len(texts)
    return keras.utils.Progbar(count, unit_name="text")


class _Candidates:
    """Collects the most uncertain of many rows, each once.

    Args:
        size: int. The number of rows to keep.
    """

    def __init__(self, size):
        self._size = size
        self.found = {}  # row -> (negated score, number)

    def add(self, rows):
        """Adds ((row, number), score) of rows; ignores scores below 0."""
        for (row, number), score in rows:
            if score >= 0:
                self.found[row] = (-score, number)
        if len(self.found) > 2 * self._size:
            self.found = dict(self._ordered())

    def best(self):
        """Returns (number, row, score), most uncertain first; on ties, the first row comes first."""
        return [(number, row, -negated) for row, (negated, number) in self._ordered()]

    def _ordered(self):
        return sorted(self.found.items(), key=lambda each: each[1])[: self._size]


def cover(vectors: np.ndarray, weights: np.ndarray, count: int) -> list[int]:
    """Chooses rows that together are close to all rows, by greedy facility location.

    Each chosen row adds most to `sum_i weights_i max(0, max over chosen j of cos(i, j))`; the sum is at least
    1 - 1/e of the largest sum possible with `count` rows.

    Args:
        vectors: float array `(rows, dim)`.
        weights: float array `(rows,)`, > 0.
        count: int.

    Returns:
        A list of at most `count` row numbers, in the order of the choice.

    Reference: Nemhauser et al., 1978, https://doi.org/10.1007/BF01588971; lazy evaluation of gains, which can only
    fall: Minoux, 1978, https://doi.org/10.1007/BFb0006528.
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
