"""The data that augmentations change: the words of rows and the gaps between them."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer._random import fold, uniform
from tfxfer.preprocessing import split_words
from tfxfer.preprocessing._split_words import UNSPACED

# Matches words with a letter or a digit, except a part such as the `'s` that `split_words` splits off.
_WORD = r"(?s)[\p{L}\p{N}].*|[^'\x{2019}].*[\p{L}\p{N}].*"
_UNSPACED_WORD = rf"(?s)[{UNSPACED}].*"
# In these schemes only a word between two entities of one type separates them.
_BORDERED = ("IOB1", "IOE1")


@dataclasses.dataclass(frozen=True)
class TagSet:
    """The tags of a model; words hold indices into them.

    Args:
        names: tuple of strings, in the order of the indices.
        scheme: optional string, see `data.read_conll`; `None` for tags that do not mark entities.

    Example:

    >>> tags = TagSet(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"), "IOB2")
    >>> tags.types, tags.outside
    (['LOC', 'PER'], 0)
    """

    names: tuple[str, ...]
    scheme: str | None = None

    @property
    def is_entity(self) -> np.ndarray:
        """Whether each tag belongs to an entity, bool `(tags,)`."""
        return np.array([self.scheme is not None and name != "O" for name in self.names])

    @property
    def outside(self) -> int:
        """The index of the tag of inserted words; raises if there is none."""
        if self.scheme is None or "O" not in self.names:
            remedy = "Use augmentations that do not insert words, such as `Replace`, `Swap` or `Typos`."
            expected = "tags with a scheme, whose 'O' is the tag of an inserted word"
            raise _check.invalid("augment", expected, f"tags {self.names} with scheme={self.scheme}", remedy)
        return self.names.index("O")

    @property
    def types(self) -> list[str]:
        """The types of entities, in the order of their first tags."""
        return list(dict.fromkeys(_schemes.split(name)[1] for name in self.names if name != "O"))


@dataclasses.dataclass(frozen=True)
class WordRows:
    """The words of rows, one row after another; the input and output of an augmentation.

    Rows are texts or lists of words. For texts, `gaps` and `tails` hold the strings between the words, so that `texts`
    restores them byte for byte. All methods run in a graph and return new rows; nothing is changed in place.

    Args:
        words: string tensor `(words,)`.
        splits: int64 tensor `(rows + 1,)`. The index in `words` at which each row begins, and the end of the last row.
        gaps: string tensor `(words,)`. The string before each word; `None` for lists of words.
        tails: string tensor `(rows,)`. The string after the last word; `None` for lists of words.
        tags: tuple of int32 tensors `(words,)`. The indices of the words' tags.
        tag_sets: tuple with a `TagSet` for each of `tags`.

    Example:

    >>> rows = WordRows.from_texts(tf.constant(["Where is it?"]))
    >>> rows.words.numpy().tolist(), rows.is_word.numpy().tolist()
    ([b'Where', b'is', b'it', b'?'], [True, True, True, False])
    >>> rows.keep(rows.is_word).texts().numpy().tolist()
    [b'Where is it']
    """

    words: Any
    splits: Any
    gaps: Any = None
    tails: Any = None
    tags: tuple = ()
    tag_sets: tuple = ()

    # === In and out ===

    @classmethod
    def from_texts(cls, texts: Any) -> "WordRows":
        """Splits `texts`, a string tensor `(rows,)`, like `preprocessing.split_words`.

        Bytes that are not valid UTF-8 become U+FFFD, as in every tokenizer.
        """
        points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        found = split_words(texts)
        splits, limits = tf.cast(found.starts.row_splits, tf.int64), points.row_splits
        rows = found.starts.value_rowids()
        number = 2 * tf.range(tf.size(rows, tf.int64)) + rows
        begin = tf.gather(limits, rows)
        # Each row is gap, word, gap, word, ..., tail; these are the code points at which they end.
        places = tf.concat([number, number + 1, 2 * splits[1:] + tf.range(tf.size(limits, tf.int64) - 1)], axis=0)
        ends = [begin + tf.cast(found.starts.values, tf.int64), begin + tf.cast(found.ends.values, tf.int64)]
        ends = tf.scatter_nd(places[:, tf.newaxis], tf.concat([*ends, limits[1:]], axis=0), tf.shape(places, tf.int64))
        parts = tf.RaggedTensor.from_row_splits(points.values, tf.concat([[0], ends], axis=0), validate=False)
        parts = tf.strings.unicode_encode(parts, "UTF-8")
        tails = tf.gather(parts, places[2 * tf.size(rows) :])
        return cls(tf.gather(parts, number + 1), splits, tf.gather(parts, number), tails)

    @classmethod
    def from_words(cls, words: Any, tags: Any = (), tag_sets: Any = ()) -> "WordRows":
        """Takes `words`, a ragged string tensor `(rows, None)`, and ragged int `tags` with their `tag_sets`."""
        indices = tuple(tf.cast(each.values, tf.int32) for each in tags)
        return cls(words.values, tf.cast(words.row_splits, tf.int64), tags=indices, tag_sets=tuple(tag_sets))

    @classmethod
    def from_parts(cls, words: Any, gaps: Any, tails: Any) -> "WordRows":
        """Inverts `parts`: takes its `words`, `gaps` and `tails`, or a selection of their rows."""
        return cls(words.values, tf.cast(words.row_splits, tf.int64), gaps.values, tails)

    def parts(self) -> tuple[Any, Any, Any]:
        """Returns texts as (words, gaps, tails): two ragged string tensors `(rows, None)`, and one `(rows,)`."""
        return self.ragged(self.words), self.ragged(self.gaps), self.tails

    def texts(self) -> Any:
        """Returns the texts, a string tensor `(rows,)`."""
        joined = tf.strings.unsorted_segment_join(tf.strings.join([self.gaps, self.words]), self.rows, self.count)
        return tf.strings.join([joined, self.tails])

    def ragged(self, values: Any) -> Any:
        """Returns `values`, one per word, as a `RaggedTensor` `(rows, None)`."""
        return tf.RaggedTensor.from_row_splits(values, self.splits, validate=False)

    # === What rows are made of ===

    @functools.cached_property
    def count(self) -> Any:
        """The number of rows, int64."""
        return tf.size(self.splits, tf.int64) - 1

    @functools.cached_property
    def rows(self) -> Any:
        """The row of each word, int64 `(words,)`."""
        places = tf.range(tf.size(self.words, tf.int64))[tf.newaxis]
        # The number of rows that end before a word; this takes fewer operations than `tf.repeat`.
        ended = tf.raw_ops.UpperBound(sorted_inputs=self.splits[tf.newaxis, 1:], values=places, out_type=tf.int64)
        return tf.squeeze(ended, axis=0)

    @functools.cached_property
    def places(self) -> Any:
        """The index of each word in its row, from 0, int64 `(words,)`."""
        return tf.range(tf.size(self.words, tf.int64)) - tf.gather(self.splits, self.rows)

    @functools.cached_property
    def is_word(self) -> Any:
        """Whether each word has a letter or a digit, bool `(words,)`; a split-off `'s` does not count."""
        return tf.strings.regex_full_match(self.words, _WORD)

    @functools.cached_property
    def is_unspaced(self) -> Any:
        """Whether each word begins with a letter of a script without spaces, bool `(words,)`."""
        return tf.strings.regex_full_match(self.words, _UNSPACED_WORD)

    @functools.cached_property
    def is_entity(self) -> Any:
        """Whether each word belongs to an entity, bool `(words,)`; False for rows without tags."""
        found = tf.zeros_like(self.words, tf.bool)
        for tags, names in zip(self.tags, self.tag_sets, strict=True):
            found |= tf.gather(tf.constant(names.is_entity), tf.maximum(tags, 0)) & (tags >= 0)
        return found

    @functools.cached_property
    def is_removable(self) -> Any:
        """Whether each word can be removed without changing an entity, bool `(words,)`."""
        if not any(names.scheme in _BORDERED for names in self.tag_sets):
            return ~self.is_entity
        return ~self.is_entity & ~(before(self.is_entity) & (self.places > 0))

    @functools.cached_property
    def is_place(self) -> Any:
        """Whether a word can be inserted before each word: only before words that count, and not within entities."""
        return self.is_word & ~(self.is_entity & before(self.is_entity) & (self.places > 0))

    def total(self, mask: Any) -> Any:
        """Returns the number of words of each row in `mask`, int64 `(rows,)`."""
        return tf.math.unsorted_segment_sum(tf.cast(mask, tf.int64), self.rows, self.count)

    def of_row(self, values: Any) -> Any:
        """Returns the value of each word's row, from `values` `(rows,)`."""
        return tf.gather(values, self.rows)

    def draw(self, seeds: Any, number: int) -> Any:
        """Returns a seed for each word, from the rows' `seeds` `(rows,)`, the draw's `number` and the word's index."""
        return fold(self.of_row(fold(seeds, number)), self.places)

    def chosen(self, mask: Any, counts: Any, seeds: Any, number: int) -> Any:
        """Chooses words at random.

        Args:
            mask: bool `(words,)`. The words to choose from.
            counts: int64 `(rows,)`. The number of words to choose in each row, or all if there are fewer.
            seeds: int64 `(rows,)`.
            number: int. The number of the draw.

        Returns:
            int64 tensor: the indices of the chosen words, grouped by row, in random order within each row.
        """
        index = true_at(mask)
        rows = tf.gather(self.rows, index)
        keys = tf.cast(rows, tf.float64) + uniform(tf.gather(self.draw(seeds, number), index))
        index = tf.gather(index, tf.argsort(keys))
        total = self.total(mask)
        rank = tf.range(tf.size(rows, tf.int64)) - tf.gather(tf.cumsum(total, exclusive=True), rows)
        return tf.gather(index, true_at(rank < tf.gather(counts, rows)))

    # === Changes ===

    def keep(self, mask: Any) -> "WordRows":
        """Keeps the words for which `mask` is True; a removed word takes the gap before it along.

        If a kept word has an empty gap, it gets the gap of the words removed before it, so that it does not merge with
        another word. The beginning and the end of a text stay.
        """
        index = true_at(mask)
        kept = tf.concat([[0], tf.cumsum(tf.cast(mask, tf.int64))], axis=0)
        made = dataclasses.replace(
            self,
            words=tf.gather(self.words, index),
            splits=tf.gather(kept, self.splits),
            tags=tuple(tf.gather(tags, index) for tags in self.tags),
        )
        if self.gaps is None:
            return made
        last = tf.maximum(tf.concat([[0], index[:-1]], axis=0)[: tf.size(index)], 0)  # the previous kept word
        own, is_word = tf.gather(self.gaps, index), tf.gather(self.is_word, index)
        bare = (index - last > 1) & tf.equal(own, "") & is_word
        gaps = tf.where(bare, tf.gather(self.gaps, tf.minimum(last + 1, index)), own)
        spaced = self.is_word & ~self.is_unspaced
        grows = bare & tf.equal(gaps, "") & tf.gather(spaced, last) & tf.gather(spaced, index)
        first = tf.gather(tf.concat([self.gaps, [""]], axis=0), self.splits[:-1])
        gaps = tf.where(made.places == 0, made.of_row(first), tf.where(grows, " ", gaps))
        return dataclasses.replace(made, gaps=gaps)

    def with_words(self, index: Any, words: Any) -> "WordRows":
        """Returns rows with new `words` `(m,)` at the indices `index` `(m,)`."""
        return dataclasses.replace(self, words=tf.tensor_scatter_nd_update(self.words, index[:, tf.newaxis], words))

    def permuted(self, index: Any, sources: Any) -> "WordRows":
        """Moves the words of `sources` `(m,)` to `index` `(m,)`; tags that do not mark entities move along.

        A space is inserted between two words that would merge.
        """
        order = tf.range(tf.size(self.words, tf.int64))
        order = tf.tensor_scatter_nd_update(order, index[:, tf.newaxis], sources)
        tags = tuple(
            tf.gather(tags, order) if names.scheme is None else tags
            for tags, names in zip(self.tags, self.tag_sets, strict=True)
        )
        made = dataclasses.replace(self, words=tf.gather(self.words, order), tags=tags)
        if self.gaps is None:
            return made
        spaced = self.is_word & ~self.is_unspaced
        after = tf.gather(spaced, order)
        grows = after & before(after) & ~(spaced & before(spaced)) & (self.places > 0) & tf.equal(self.gaps, "")
        return dataclasses.replace(made, gaps=tf.where(grows, " ", self.gaps))

    def insert(self, places: Any, words: Any) -> "WordRows":
        """Inserts words, each before the word at its place.

        A new word takes the gap of the word it precedes, which gets a space, or nothing in a script without spaces. New
        words have the tag outside entities.

        Args:
            places: int64 `(m,)`. Indices of words.
            words: string `(m,)`.
        """
        size, count = tf.size(self.words, tf.int64), tf.size(places, tf.int64)
        order = tf.argsort(tf.concat([2 * places, 2 * tf.range(size) + 1], axis=0), stable=True)
        target = tf.gather(tf.concat([places, tf.range(size)], axis=0), order)
        is_new = tf.cast(order, tf.int64) < count
        added = tf.math.unsorted_segment_sum(tf.ones_like(places), tf.gather(self.rows, places), self.count)
        tags = tuple(
            tf.gather(tf.concat([tf.fill(tf.shape(words), names.outside), each], axis=0), order)
            for each, names in zip(self.tags, self.tag_sets, strict=True)
        )
        made = dataclasses.replace(
            self,
            words=tf.gather(tf.concat([words, self.words], axis=0), order),
            splits=self.splits + tf.concat([[0], tf.cumsum(added)], axis=0),
            tags=tags,
        )
        if self.gaps is None:
            return made
        space = tf.where(self.is_unspaced, "", " ")
        # If the gap was empty, the new word must not merge with the previous one.
        grows = before(self.is_word & ~self.is_unspaced) & (self.places > 0) & tf.equal(self.gaps, "")
        gap = tf.where(tf.gather(grows, target) & is_new, " ", tf.gather(self.gaps, target))
        is_first = tf.concat([[True], target[1:] != target[:-1]], axis=0)[: tf.size(target)]
        return dataclasses.replace(made, gaps=tf.where(is_first, gap, tf.gather(space, target)))


def true_at(mask):
    """Returns the indices at which a mask is True, int64 `(m,)`."""
    return tf.squeeze(tf.where(mask), axis=1)


def before(values):
    """Returns each value's predecessor; False for the first."""
    return tf.concat([tf.zeros_like(values[:1]), values[:-1]], axis=0)
