"""What augmentations change: the words of rows, and what stands between them."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer._random import fold, uniform
from tfxfer.preprocessing import split_words
from tfxfer.preprocessing._split_words import UNSPACED

# A letter or a digit, and not such as the `'s` that `split_words` splits off.
_WORD = r"(?s)[\p{L}\p{N}].*|[^'\x{2019}].*[\p{L}\p{N}].*"
_UNSPACED_WORD = rf"(?s)[{UNSPACED}].*"
# In these, a word between two entities of one type is all that keeps them apart.
_BORDERED = ("IOB1", "IOE1")


@dataclasses.dataclass(frozen=True)
class TagSet:
    """The tags of a model, which words have by their indices.

    Args:
        names: tuple of strings, in the order of the indices.
        scheme: string, see `data.read_conll`; `None` for tags that mark no entities.
    """

    names: tuple[str, ...]
    scheme: str | None = None

    @property
    def is_entity(self) -> np.ndarray:
        """Whether each tag belongs to an entity, bool `(tags,)`."""
        return np.array([self.scheme is not None and name != "O" for name in self.names])

    @property
    def outside(self) -> int:
        """The index of the tag of words that are inserted; raises where there is none."""
        if self.scheme is None or "O" not in self.names:
            remedy = "Take augmentations that insert no words, such as `Replace`, `Swap` or `Typos`."
            expected = "tags with a scheme, whose 'O' is the tag of an inserted word"
            raise _check.invalid("augment", expected, f"tags {self.names} with scheme={self.scheme}", remedy)
        return self.names.index("O")

    @property
    def types(self) -> list[str]:
        """The types of entities, in the order of their first tags."""
        return list(dict.fromkeys(_schemes.split(name)[1] for name in self.names if name != "O"))


@dataclasses.dataclass(frozen=True)
class WordRows:
    """The words of rows, one row after another; what an augmentation takes and gives.

    Rows are texts or lists of words. Of texts, `gaps` and `tails` hold what stands between the words, so that `texts`
    writes them byte for byte as they were. All methods run in a graph and return other rows; nothing is changed.

    Args:
        words: string tensor `(words,)`.
        splits: int64 tensor `(rows + 1,)`. Where each row begins in `words`, and where the last one ends.
        gaps: string tensor `(words,)`. What stands before each word; `None` for lists of words.
        tails: string tensor `(rows,)`. What stands after the last word; `None` for lists of words.
        tags: tuple of int32 tensors `(words,)`. Indices of the words' tags.
        tag_sets: tuple with a `TagSet` for each of `tags`.
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
        """Splits texts, a string tensor `(rows,)`, as `preprocessing.split_words` does.

        A byte that is not valid UTF-8 becomes U+FFFD, as it does in every tokenizer.
        """
        points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        found = split_words(texts)
        splits, limits = tf.cast(found.starts.row_splits, tf.int64), points.row_splits
        rows = found.starts.value_rowids()
        number = 2 * tf.range(tf.size(rows, tf.int64)) + rows
        begin = tf.gather(limits, rows)
        # Each row is gap, word, gap, word ... and a tail: the code points at which these end.
        places = tf.concat([number, number + 1, 2 * splits[1:] + tf.range(tf.size(limits, tf.int64) - 1)], axis=0)
        ends = [begin + tf.cast(found.starts.values, tf.int64), begin + tf.cast(found.ends.values, tf.int64)]
        ends = tf.scatter_nd(places[:, tf.newaxis], tf.concat([*ends, limits[1:]], axis=0), tf.shape(places, tf.int64))
        parts = tf.RaggedTensor.from_row_splits(points.values, tf.concat([[0], ends], axis=0), validate=False)
        parts = tf.strings.unicode_encode(parts, "UTF-8")
        tails = tf.gather(parts, places[2 * tf.size(rows) :])
        return cls(tf.gather(parts, number + 1), splits, tf.gather(parts, number), tails)

    @classmethod
    def from_words(cls, words: Any, tags: Any = (), tag_sets: Any = ()) -> "WordRows":
        """Takes a ragged string tensor `(rows, None)`, and ragged int tensors of the words' tags."""
        indices = tuple(tf.cast(each.values, tf.int32) for each in tags)
        return cls(words.values, tf.cast(words.row_splits, tf.int64), tags=indices, tag_sets=tuple(tag_sets))

    @classmethod
    def from_parts(cls, words: Any, gaps: Any, tails: Any) -> "WordRows":
        """Takes what `parts` gave, or a selection of its rows."""
        return cls(words.values, tf.cast(words.row_splits, tf.int64), gaps.values, tails)

    def parts(self) -> tuple[Any, Any, Any]:
        """Returns texts as (words, gaps, tails): two ragged string tensors `(rows, None)`, and one `(rows,)`."""
        return self.ragged(self.words), self.ragged(self.gaps), self.tails

    def texts(self) -> Any:
        """Returns the texts, a string tensor `(rows,)`."""
        joined = tf.strings.unsorted_segment_join(tf.strings.join([self.gaps, self.words]), self.rows, self.count)
        return tf.strings.join([joined, self.tails])

    def ragged(self, values: Any) -> Any:
        """Returns a tensor with one value a word as a `RaggedTensor` `(rows, None)`."""
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
        # How many rows have ended before a word: fewer operations than `tf.repeat`.
        ended = tf.raw_ops.UpperBound(sorted_inputs=self.splits[tf.newaxis, 1:], values=places, out_type=tf.int64)
        return tf.squeeze(ended, axis=0)

    @functools.cached_property
    def places(self) -> Any:
        """The place of each word in its row, from 0, int64 `(words,)`."""
        return tf.range(tf.size(self.words, tf.int64)) - tf.gather(self.splits, self.rows)

    @functools.cached_property
    def is_word(self) -> Any:
        """Whether each word has a letter or a digit, bool `(words,)`; a split-off `'s` counts as none."""
        return tf.strings.regex_full_match(self.words, _WORD)

    @functools.cached_property
    def is_unspaced(self) -> Any:
        """Whether each word begins with a letter of a script without spaces, bool `(words,)`."""
        return tf.strings.regex_full_match(self.words, _UNSPACED_WORD)

    @functools.cached_property
    def is_entity(self) -> Any:
        """Whether each word belongs to an entity, bool `(words,)`; false for rows without tags."""
        found = tf.zeros_like(self.words, tf.bool)
        for tags, names in zip(self.tags, self.tag_sets, strict=True):
            found |= tf.gather(tf.constant(names.is_entity), tf.maximum(tags, 0)) & (tags >= 0)
        return found

    @functools.cached_property
    def is_removable(self) -> Any:
        """Whether each word can go without changing an entity, bool `(words,)`."""
        if not any(names.scheme in _BORDERED for names in self.tag_sets):
            return ~self.is_entity
        return ~self.is_entity & ~(before(self.is_entity) & (self.places > 0))

    @functools.cached_property
    def is_place(self) -> Any:
        """Whether a word can be inserted before each word: before one that counts, and not within entities."""
        return self.is_word & ~(self.is_entity & before(self.is_entity) & (self.places > 0))

    def total(self, mask: Any) -> Any:
        """Returns how many words of each row a mask has, int64 `(rows,)`."""
        return tf.math.unsorted_segment_sum(tf.cast(mask, tf.int64), self.rows, self.count)

    def of_row(self, values: Any) -> Any:
        """Returns each word's share of values `(rows,)`."""
        return tf.gather(values, self.rows)

    def draw(self, seeds: Any, number: int) -> Any:
        """Returns a seed for each word, out of seeds of the rows `(rows,)`, the number of the draw, and its place."""
        return fold(self.of_row(fold(seeds, number)), self.places)

    def chosen(self, mask: Any, counts: Any, seeds: Any, number: int) -> Any:
        """Chooses words at random.

        Args:
            mask: bool `(words,)`. The words to choose from.
            counts: int64 `(rows,)`. How many to choose in each row, where there are as many.
            seeds: int64 `(rows,)`.
            number: int. The number of the draw.

        Returns:
            int64 tensor: the indices of the chosen words, those of a row side by side in random order.
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
        """Returns rows with those words for which a mask is true; a word that goes takes the gap before it along.

        Where nothing stood before a word that stays, it gets the gap of those that went before it, so that it does not
        grow onto another word. What a text begins and ends with stays.
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
        last = tf.maximum(tf.concat([[0], index[:-1]], axis=0)[: tf.size(index)], 0)  # the word before that stays
        own, is_word = tf.gather(self.gaps, index), tf.gather(self.is_word, index)
        bare = (index - last > 1) & tf.equal(own, "") & is_word
        gaps = tf.where(bare, tf.gather(self.gaps, tf.minimum(last + 1, index)), own)
        spaced = self.is_word & ~self.is_unspaced
        grows = bare & tf.equal(gaps, "") & tf.gather(spaced, last) & tf.gather(spaced, index)
        first = tf.gather(tf.concat([self.gaps, [""]], axis=0), self.splits[:-1])
        gaps = tf.where(made.places == 0, made.of_row(first), tf.where(grows, " ", gaps))
        return dataclasses.replace(made, gaps=gaps)

    def with_words(self, index: Any, words: Any) -> "WordRows":
        """Returns rows with other words at some indices `(m,)`."""
        return dataclasses.replace(self, words=tf.tensor_scatter_nd_update(self.words, index[:, tf.newaxis], words))

    def permuted(self, index: Any, sources: Any) -> "WordRows":
        """Returns rows with the words of `sources` `(m,)` at `index` `(m,)`; tags that mark no entities go along.

        Where nothing stands between two words that would grow together, there is a space.
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
        """Returns rows with further words, each before the word at its place.

        The word before which one goes gets a space, or nothing in a script without spaces; the new word gets its gap.
        Tags of new words are those outside of entities.

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
        # Where nothing stood between two words, the new one must not grow onto the first.
        grows = before(self.is_word & ~self.is_unspaced) & (self.places > 0) & tf.equal(self.gaps, "")
        gap = tf.where(tf.gather(grows, target) & is_new, " ", tf.gather(self.gaps, target))
        is_first = tf.concat([[True], target[1:] != target[:-1]], axis=0)[: tf.size(target)]
        return dataclasses.replace(made, gaps=tf.where(is_first, gap, tf.gather(space, target)))


def true_at(mask):
    """Returns the indices at which a mask is true, int64 `(m,)`."""
    return tf.squeeze(tf.where(mask), axis=1)


def before(values):
    """Each value's predecessor; false for the first one."""
    return tf.concat([tf.zeros_like(values[:1]), values[:-1]], axis=0)
