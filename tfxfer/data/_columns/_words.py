"""Texts that are already split into words, and a tag for each word."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfxfer import _check
from tfxfer.augmentation import text_seeds
from tfxfer.data._columns._base import Column, bad_value
from tfxfer.data._columns._label import check_labels
from tfxfer.data._columns._text import round_up, settings
from tfxfer.data._tags import Checker, check_names, known_scheme, unknown


class WordsColumn(Column):
    """A list of words for each row, as token ids with the index of their word.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.

    Each word is tokenized separately. For the byte-level BPE of GPT-2 and RoBERTa a space is prepended, because "word"
    and " word" are different tokens.

    Values: a list of strings for each row, at least one. Batch: dict of int32 `(batch, length)`: `token_ids`,
    `padding_mask`, for families that have them `segment_ids`, and `word_ids`, the index of each token's word in its
    row, from 0, and -1 at special tokens and padding; and `word_mask` `(batch, words)`, 1 for words with a token, 0 for
    padding, for words that the tokenizer drops entirely, and for words beyond the preprocessor's `sequence_length`.

    Raises:
        ValueError: in `read`, for a row without words, or that is not a list of strings.

    Example:

    ```python
    column = tx.data.WordsColumn(preprocessor)
    rows = column.read([["Ada", "Lovelace", "wrote"]], "words")
    column.batch(column.encode(rows), "words")["word_mask"]  # [[1, 1, 1]]
    ```
    """

    expected = "a list of words for each row"

    def __init__(self, preprocessor: Any) -> None:
        self.preprocessor = preprocessor
        self._settings = settings(preprocessor)

    # A row is one sequence.
    separate = False

    @property
    def is_current(self) -> bool:
        """Whether the preprocessor's settings are unchanged since this was made: pipelines keep traced functions."""
        return self._settings == settings(self.preprocessor)

    def read(self, values: Any, argument: str) -> Any:
        """Returns the words as a ragged string tensor `(rows, None)`."""
        rows = _lists(self.sequence(values, argument), argument, "words")
        for i, row in enumerate(rows):
            for word in row:
                _check.text(argument, word, i)
        return ragged(rows, tf.string)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.RaggedTensorSpec((None,), tf.string, ragged_rank=0)

    def encode(self, rows: Any) -> Any:
        """Tokenizes each word separately: an int32 ragged tensor `(rows, words, pieces)`."""
        tokenizer, words = self.preprocessor.tokenizer, rows.values
        if tokenizer.spec.kind == "bpe":
            words = tf.where(tf.equal(words, ""), words, tf.strings.join([" ", words]))
        return rows.with_values(tokenizer(words))

    def augment(self, rows: Any, augmentation: Any, seeds: Any, tags: tuple = ()) -> tuple[Any, tuple]:
        """Changes the words of the rows, and their tags with them."""
        indices, tag_sets = tuple(indices for indices, _ in tags), [names for _, names in tags]
        return augmentation.on_words(rows, text_seeds(seeds, 0), indices, tag_sets)

    def lengths(self, kept: Any) -> Any:
        """Returns the truncated length of each row in tokens, special tokens included: int32 `(rows,)`."""
        return self.preprocessor.lengths(kept.merge_dims(1, 2))

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads the ids and the index of each token's word; returns int32 `(batch, length)` and `(batch, words)`."""
        if self.preprocessor.drop_unknown_tokens:
            expected = "one that keeps unknown tokens, for words"
            raise _check.invalid("preprocessor", expected, "drop_unknown_tokens=True")
        ids = kept.merge_dims(1, 2)
        words = tf.ragged.range(tf.cast(kept.row_lengths(), tf.int32))
        word_ids = ids.with_values(tf.repeat(words.values, kept.values.row_lengths()))
        packed = self.preprocessor.pack(ids, aligned={"word_ids": word_ids})
        packed = round_up(packed, multiple, self.preprocessor, aligned=("word_ids",))
        packed["word_mask"] = self._word_mask(kept, ids, multiple)
        return {key: tf.ensure_shape(value, (None, None)) for key, value in packed.items()}

    def beside(self, kept: Any, name: str) -> dict[str, Any]:
        """Returns `word_ids`, padded on the right, and `word_mask`."""
        packed = self.batch(kept, name)
        found = packed["word_ids"]
        if self.preprocessor.padding_side == "left":
            lengths = tf.reduce_sum(packed["padding_mask"], axis=1)
            found = tf.reverse_sequence(tf.reverse(found, [1]), lengths, seq_axis=1, batch_axis=0)
        return {"word_ids": found, "word_mask": packed["word_mask"]}

    def _word_mask(self, kept, ids, multiple):
        """Whether each word has a token that is not truncated."""
        sizes = kept.values.row_lengths()
        ends = tf.cumsum(sizes)
        starts = kept.with_values(ends - sizes - tf.repeat(ids.row_starts(), kept.row_lengths()))
        has_token = starts.with_values((sizes > 0) & (starts.values < self.preprocessor.room))
        found = has_token.with_values(tf.cast(has_token.values, tf.int32)).to_tensor(0)
        count = tf.shape(found)[1]
        return tf.pad(found, [[0, 0], [0, tf.maximum(-(-count // multiple), 1) * multiple - count]])

    def token_ids(self, kept: Any) -> Any:
        """Returns the concatenated tokens of all words of each row."""
        return (kept.merge_dims(1, 2),)


class TagsColumn(Column):
    """A tag for each word of a row, as targets.

    Args:
        tags: list of distinct strings, in the order of the model's outputs.
        scheme: optional string. The scheme of the tags, such as `"IOB2"`; see `data.tagged`. With it, `read` raises for
            tags that the scheme forbids in their position.

    Values: a list of tags for each row, as many as it has words. Batch: int32 `(batch, words)`, indices; -1 at padding
    and at words without a token, which the loss ignores (see `WordsColumn`).

    Raises:
        ValueError: for tags that are not in the scheme; in `read`, for a row without tags, an unknown tag, or one that
            the scheme forbids in its position, with its row.

    Example:

    >>> column = TagsColumn(["O", "B-PER", "I-PER"], "IOB2")
    >>> column.read([["B-PER", "I-PER", "O"], ["O"]], "y").to_list()
    [[1, 2, 0], [0]]
    >>> column.decode([1, 2, 0])
    ['B-PER', 'I-PER', 'O']
    """

    expected = "a list of tags for each row"

    def __init__(self, tags: Sequence[str], scheme: str | None = None) -> None:
        self.tags = check_labels(tags)
        self.scheme = known_scheme(scheme)
        check_names("tags", self.tags, self.scheme)
        self._index = {tag: i for i, tag in enumerate(self.tags)}

    @property
    def labels(self) -> list[str]:
        """The tags, under the attribute name of label columns."""
        return self.tags

    def read(self, values: Any, argument: str) -> Any:
        """Returns tags as indices, a ragged int32 tensor `(rows, None)`."""
        rows = _lists(self.sequence(values, argument), argument, "tags")
        for i, row in enumerate(rows):
            for k, tag in enumerate(row):
                if not isinstance(tag, str):
                    remedy = f"At index {k}. Pass the tags' names, `[tags[i] for i in row]` for indices."
                    raise bad_value(argument, "tags that are strings", tag, i, remedy)
        checker = Checker(self.scheme, rows, repairs=False, converts=True)
        for i, row in enumerate(rows):
            error = checker.error(row)
            if error is not None:
                remedy = f"At index {error[0]}: {error[1]}. {checker.remedy(row)}"
                raise bad_value(argument, f"tags as {self.scheme} allows them", row, i, remedy)
            for k, tag in enumerate(row):
                if tag not in self._index:
                    shown = ", ".join(map(repr, self.tags[:5]))
                    remedy = f"At index {k}. {unknown(tag, self.tags, self.scheme)}"
                    raise bad_value(argument, f"one of {len(self.tags)} tags ({shown}, ...)", tag, i, remedy)
        return ragged([[self._index[tag] for tag in row] for row in rows], tf.int32)

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.RaggedTensorSpec((None,), tf.int32, ragged_rank=0)

    def encode(self, rows: Any) -> Any:
        """Turns tags of a pipeline, strings or indices, ragged or padded with "" or -1, into indices.

        Raises:
            tf.errors.InvalidArgumentError: when the pipeline runs, for an unknown tag or index.
        """
        if not isinstance(rows, tf.RaggedTensor):
            if rows.dtype != tf.string:  # -1 may come between tags, at a word without a token
                return self._padded(tf.cast(rows, tf.int32))
            rows = tf.ragged.boolean_mask(rows, tf.not_equal(rows, ""))
        values = rows.values
        if values.dtype == tf.string:
            same = tf.equal(values[:, tf.newaxis], tf.constant(self.tags))
            known, indices = tf.reduce_any(same, axis=1), tf.argmax(same, axis=1, output_type=tf.int32)
        else:
            indices = tf.cast(values, tf.int32)
            known = (indices >= 0) & (indices < len(self.tags))
        unknown = tf.boolean_mask(values, ~known)
        message = ["Unknown tags in `y`:", unknown]
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(unknown), 0), message, summarize=5)]):
            return rows.with_values(tf.identity(indices))

    def _padded(self, indices):
        """Checks indices that are padded with -1."""
        unknown = tf.boolean_mask(indices, (indices < -1) | (indices >= len(self.tags)))
        message = ["Unknown tags in `y`:", unknown]
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(unknown), 0), message, summarize=5)]):
            return tf.identity(indices)

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads with -1: int32 `(batch, words)`; padded tags stay unchanged."""
        padded = kept.to_tensor(-1) if isinstance(kept, tf.RaggedTensor) else kept
        return {name: tf.ensure_shape(padded, (None, None))}

    def check_inputs(self, targets: Any, inputs: Any, argument: str) -> None:
        """Raises if the numbers of tags and words of a row differ."""
        for words in inputs.values():
            if not isinstance(words, tf.RaggedTensor) or words.dtype != tf.string:
                continue
            wanted, found = words.row_lengths().numpy(), targets.row_lengths().numpy()
            if len(wanted) == len(found) and (wanted != found).any():
                row = int((wanted != found).argmax())
                raise bad_value(argument, f"{wanted[row]} tags, one for each word", f"{found[row]} tags", row)

    def align(self, targets: Any, inputs: Any) -> Any:
        """Sets words without a token to -1, and pads or cuts the batch to the width of the words."""
        mask = inputs["word_mask"]
        missing = tf.maximum(tf.shape(mask)[1] - tf.shape(targets)[1], 0)
        targets = tf.pad(targets, [[0, 0], [0, missing]], constant_values=-1)
        width = tf.shape(mask)[1]
        has_tag = tf.reduce_all((targets[:, :width] >= 0) | (mask == 0))
        fits = has_tag & tf.reduce_all(targets[:, width:] < 0)
        message = ["`y` must have a tag for each word of a row; a row has more or fewer."]
        with tf.control_dependencies([tf.debugging.Assert(fits, message)]):
            return tf.where(mask > 0, targets[:, :width], -1)

    def decode(self, indices: Any) -> list:
        """Returns the tags of `indices`, a list."""
        return [self.tags[int(index)] for index in indices]


def _lists(rows, argument, what):
    for i, row in enumerate(rows):
        if isinstance(row, (str, bytes)) or not hasattr(row, "__len__"):
            raise bad_value(argument, f"a list of {what} in every row", row, i)
        if not len(row):
            raise bad_value(argument, f"at least one of the {what} in every row", row, i, "Drop the row.")
    return [[value.decode() if isinstance(value, bytes) else value for value in row] for row in rows]


def ragged(rows, dtype):
    """Returns lists as a ragged tensor `(rows, None)`."""
    with tf.device("CPU:0"):
        flat = tf.constant([value for row in rows for value in row], dtype, shape=(sum(map(len, rows)),))
        return tf.RaggedTensor.from_row_lengths(flat, tf.constant([len(row) for row in rows], tf.int64))
