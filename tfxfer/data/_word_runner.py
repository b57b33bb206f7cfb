"""Running a model over the words of texts of any length."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfxfer._tracing import traced
from tfxfer.data._columns import WordsColumn
from tfxfer.data._inference import ROWS_MULTIPLE, Runner
from tfxfer.preprocessing import windows

# Words tokenized at a time.
_CHUNK = 65536


class WordScores(NamedTuple):
    """A model's outputs for the words of some rows, with the words of all rows concatenated.

    Attributes:
        scores: float array `(words, outputs)`; zeros for a word without a token.
        mask: bool array `(words,)`, whether a word has a token.
        splits: int64 array `(rows + 1,)`: row i has the words from `splits[i]` to `splits[i + 1]`.

    Example:

    >>> scores = WordScores(np.array([[1.0], [2.0], [3.0]]), np.array([True, False, True]), np.array([0, 2, 3]))
    >>> [row.tolist() for row in scores.rows()]
    [[[1.0], [2.0]], [[3.0]]]
    """

    scores: Any
    mask: Any
    splits: Any

    def rows(self) -> list:
        """Returns a list with the scores `(words, outputs)` of each row."""
        return [self.scores[a:b] for a, b in zip(self.splits[:-1], self.splits[1:], strict=True)]


class WordRunner:
    """Runs a model of words over rows of any length, in overlapping windows; see `preprocessing.windows`.

    Args:
        model: Keras model from the tensors of `WordsColumn` to one tensor `(batch, words, outputs)`.
        preprocessor: `preprocessing.TextPreprocessor`.
        room: int. Tokens of a window.
        stride: int. Tokens from the start of one window to the start of the next.
        pad_to_multiple_of: int from 1 to 8; see `batches`.
        rows_multiple_of: int; see `Runner`.

    Example:

    ```python
    runner = tx.data.WordRunner(model, preprocessor, room=126, stride=63)
    words = tx.data.WordsColumn(preprocessor).read([["Ada", "wrote"]], "words")
    runner(words).rows()[0]  # (2, outputs)
    ```
    """

    def __init__(
        self,
        model: Any,
        preprocessor: Any,
        room: int,
        stride: int,
        pad_to_multiple_of: int = 1,
        rows_multiple_of: int = ROWS_MULTIPLE,
    ) -> None:
        self._model = model
        self._column = WordsColumn(preprocessor)
        columns = {"words": _Pieces(preprocessor)}
        self._runner = Runner(model, columns, pad_to_multiple_of, rows_multiple_of=rows_multiple_of)
        self._encode: Any = traced(self._column.encode, [tf.RaggedTensorSpec([None, None], tf.string, 1)])
        self._windows = _cutter(room, stride)

    def __call__(self, words: Any, batch_size: int = 32, progress: bool = False) -> WordScores:
        """Returns `WordScores` for rows of words.

        Args:
            words: string `RaggedTensor` `(rows, None)`, as returned by `WordsColumn.read`.
            batch_size: int. Windows computed at a time.
            progress: bool. Whether to show a progress bar.
        """
        return self._scores(self._pieces(words), batch_size, progress)

    def of_tokens(self, ids: Any, batch_size: int = 32, progress: bool = False) -> WordScores:
        """Returns `WordScores` for tokenized texts, with each token as a word.

        Args:
            ids: int32 `RaggedTensor` `(rows, tokens)`, without special tokens.
            batch_size: int. Windows computed at a time.
            progress: bool. Whether to show a progress bar.
        """
        each = tf.RaggedTensor.from_row_splits(ids.values, tf.range(tf.size(ids.values, tf.int64) + 1))
        return self._scores(ids.with_values(each), batch_size, progress)

    def _scores(self, pieces, batch_size, progress):
        made = self._windows(pieces)
        found = self._runner(made.pieces, batch_size, progress, finish=list)
        counts = made.pieces.row_lengths().numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)])
        mask = pieces.values.row_lengths().numpy() > 0
        outputs = self._model.output.shape[-1]
        scores = np.zeros((len(mask), outputs), "float32")
        if found and offsets[-1]:
            flat = np.concatenate([row[:count] for row, count in zip(found, counts, strict=True)])
            places = offsets[made.number.values.numpy()] + made.place.values.numpy()
            scores[mask] = flat[places[mask]]
        return WordScores(scores, mask, pieces.row_splits.numpy())

    def _pieces(self, words):
        """The ids of each word, `(rows, words, pieces)`."""
        splits, flat = words.row_splits, words.values
        parts = [
            self._encode(tf.RaggedTensor.from_row_splits(part, [0, tf.size(part, tf.int64)])).values
            for part in (flat[start : start + _CHUNK] for start in range(0, max(len(flat), 1), _CHUNK))
        ]
        return tf.RaggedTensor.from_row_splits(tf.concat(parts, axis=0), splits)


@functools.lru_cache(maxsize=8)
def _cutter(room: int, stride: int) -> Any:
    """The function from pieces to windows, shared by all models: tracing it takes longer than a small model."""
    return tf.function(
        functools.partial(windows, room=room, stride=stride),
        input_signature=[tf.RaggedTensorSpec([None, None, None], tf.int32, 2)],
        autograph=False,
    )


class _Pieces(WordsColumn):
    """Words that are already tokenized."""

    def encode(self, rows: Any) -> Any:
        """Returns the ids unchanged."""
        return rows


def padded(scores: WordScores, rows: Any) -> tuple[Any, Any]:
    """Returns some rows of `WordScores` as padded arrays.

    Args:
        scores: `WordScores`.
        rows: ints. The indices of the rows.

    Returns:
        (scores, mask): float32 `(rows, words, outputs)` and int32 `(rows, words)`, 1 for words with a token. The width
        is that of the longest row, rounded up to a multiple of 8 on backends that compile each shape.

    Example:

    >>> scores = WordScores(np.array([[1.0], [2.0], [3.0]]), np.array([True, False, True]), np.array([0, 2, 3]))
    >>> values, mask = padded(scores, [1, 0])
    >>> values[:, :2].tolist(), mask[:, :2].tolist()
    ([[[3.0], [0.0]], [[1.0], [2.0]]], [[1, 0], [1, 0]])
    """
    sizes = [int(scores.splits[row + 1] - scores.splits[row]) for row in rows]
    width = max([*sizes, 1])
    if keras.config.backend() != "tensorflow":
        width = -(-width // 8) * 8
    values = np.zeros((len(sizes), width, scores.scores.shape[1]), "float32")
    mask = np.zeros((len(sizes), width), "int32")
    for place, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        start = scores.splits[row]
        values[place, :size] = scores.scores[start : start + size]
        mask[place, :size] = scores.mask[start : start + size]
    return values, mask
