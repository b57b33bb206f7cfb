"""Replacement of entities by others of their type."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer._random import below, uniform
from tfxfer.augmentation._base import Augmentation
from tfxfer.augmentation._rows import WordRows, before, true_at


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class ReplaceMentions(Augmentation):
    """Replaces entities of tagged words by others of the same type, and rewrites their tags.

    An entity of one word can be replaced by one of three: rows change in length, and the new words get the tags of the
    scheme. All other words and tags stay.

    Args:
        mentions: dict of type to a list of entities, each a list of words. `from_rows` collects those of training rows.
        rate: float in `[0, 1]`. The probability for each entity. Defaults to 0.3; the paper searches 0.1 to 0.7.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if there are no mentions, or one is empty; in a pipeline, if rows are not words with tags of a
            scheme.

    Example:

    >>> words, tags = [["Ada", "lives", "in", "Oslo"]], [["B-PER", "O", "O", "B-LOC"]]
    >>> swap = ReplaceMentions({"PER": [["Alan", "Turing"]]}, rate=1.0)
    >>> swap.tagged(words, tags)
    ([['Alan', 'Turing', 'lives', 'in', 'Oslo']], [['B-PER', 'I-PER', 'O', 'O', 'B-LOC']])

    Reference: Dai and Adel, 2020, https://arxiv.org/abs/2010.11683.
    """

    mentions: Mapping[str, Sequence[Sequence[str]]]
    rate: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)
        _check.instance("mentions", self.mentions, Mapping, "a dict of type to a list of entities")
        made = {}
        for kind, entities in self.mentions.items():
            for entity in entities:
                if isinstance(entity, str) or not len(entity) or not all(isinstance(word, str) for word in entity):
                    remedy = f"It is one of {kind!r}. An entity of one word is also a list."
                    raise _check.invalid("mentions", "entities that are lists of words", entity, remedy)
            if len(entities):
                made[kind] = tuple(dict.fromkeys(tuple(entity) for entity in entities))
        if not made:
            raise _check.invalid("mentions", "at least one entity", self.mentions)
        self._set("mentions", made)

    def __hash__(self) -> int:
        return hash((tuple(self.mentions.items()), self.rate, self.probability))

    @classmethod
    def from_rows(
        cls,
        words: Sequence[Sequence[str]],
        tags: Sequence[Sequence[str]],
        scheme: str = "IOB2",
        *,
        rate: float = 0.3,
        probability: float = 1.0,
    ) -> Self:
        """Collects the entities of tagged rows; use only training rows, never evaluation rows.

        Args:
            words: list of lists of strings.
            tags: list of lists of strings, one tag for each word.
            scheme: string. The scheme of the tags; see `data.read_conll`.
            rate: see the class.
            probability: see the class.

        Returns:
            `ReplaceMentions`.

        Raises:
            ValueError: if a row has different numbers of words and tags, a tag does not belong to the scheme, or no row
                has an entity.

        Example:

        >>> ReplaceMentions.from_rows([["Ada", "Byron", "wrote"]], [["B-PER", "I-PER", "O"]]).mentions
        {'PER': (('Ada', 'Byron'),)}
        """
        mentions: dict[str, list] = {}
        for i, (row, theirs) in enumerate(zip(words, tags, strict=True)):
            if len(row) != len(theirs):
                remedy = f"It is in row {i} (counting from 0)."
                raise _check.invalid("tags", f"{len(row)} tags, one for each word", list(theirs), remedy)
            for kind, start, end in _schemes.spans(list(theirs), scheme):
                mentions.setdefault(kind, []).append(tuple(row[start:end]))
        if not mentions:
            raise _check.invalid("tags", "rows with at least one entity", "none in any row")
        return cls(mentions, rate, probability=probability)

    @functools.cached_property
    def _tensors(self):
        """The words of all mentions, the start of each mention in them, and of each type in the mentions."""
        entities = [entity for found in self.mentions.values() for entity in found]
        with tf.init_scope(), tf.device("CPU:0"):
            words = tf.constant([word for entity in entities for word in entity], tf.string)
            splits = tf.constant(np.cumsum([0, *map(len, entities)]).astype("int64"))
            return words, splits, np.cumsum([0, *map(len, self.mentions.values())]).astype("int64")

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_tensors"}

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        if len(rows.tag_sets) != 1 or rows.tag_sets[0].scheme is None:
            remedy = "It replaces entities, which are not marked in texts or by tags without a scheme."
            raise _check.invalid("augment", "`ReplaceMentions` only for words with tags of a scheme", self, remedy)
        words, splits, of_type = self._tensors
        (tags,), [names] = rows.tags, rows.tag_sets
        about = _Tags(names, list(self.mentions), of_type)

        # Segments are entities and single words outside entities.
        opens = about.opens(tags, before(tags), rows.places == 0)
        start = true_at(opens)
        size = tf.size(rows.words, tf.int64)
        end = tf.concat([start[1:], [size]], axis=0)[: tf.size(start)]
        kind = about.kind(tf.gather(tags, start))  # -1 if the type has no mentions
        first, count = (tf.gather(tf.constant(each), tf.maximum(kind, 0)) for each in about.choices)
        chosen = (kind >= 0) & tf.gather(rows.of_row(active), start)
        chosen &= uniform(tf.gather(rows.draw(seeds, 0), start)) < self.rate
        mention = first + below(tf.gather(rows.draw(seeds, 1), start), count)

        # The words of each segment, from a pool of the rows' words followed by the mentions' words.
        pool = tf.concat([rows.words, words], axis=0)
        begin = tf.where(chosen, size + tf.gather(splits, mention), start)
        length = tf.where(chosen, tf.gather(splits, mention + 1) - tf.gather(splits, mention), end - start)
        index = tf.ragged.range(begin, begin + length)
        place = tf.ragged.range(length).values
        segment = index.value_rowids()
        is_new = tf.gather(chosen, segment)
        old = tf.gather(tags, tf.minimum(index.values, tf.maximum(size - 1, 0)))
        ends = [tf.gather(tf.gather(tags, each), segment) for each in (start, end - 1)]
        new = about.written(ends, place, tf.gather(length, segment))
        lengths = tf.math.unsorted_segment_sum(length, tf.gather(rows.rows, start), rows.count)
        return dataclasses.replace(
            rows,
            words=tf.gather(pool, index.values),
            splits=tf.concat([[0], tf.cumsum(lengths)], axis=0),
            tags=(tf.where(is_new, new, old),),
        )


class _Tags:
    """What a model's tags mean for spans, as arrays indexed by tag.

    Args:
        names: `TagSet` with a scheme.
        types: list of the types that have mentions.
        splits: int64 array. The start of the mentions of each of these types, and the end of the last.
    """

    def __init__(self, names, types, splits):
        index = {name: i for i, name in enumerate(names.names)}
        kinds = [_schemes.split(name)[1] for name in names.names]
        pairs = [[_schemes.spans([a, b]) for b in names.names] for a in names.names]
        self._goes_on = np.array([[any(z - a == 2 for _, a, z in found) for found in row] for row in pairs])
        self._kinds = np.array([types.index(kind) if kind in types else -1 for kind in kinds], "int64")
        # By entity type: the tags of a first, an inner, a last and a single word, and those of two adjacent entities.
        written, touching = [], []
        for i, kind in enumerate(kinds):
            first, inner, last = _schemes.tags_of([(kind, 0, 3)], 3, names.scheme) if kind else 3 * ["O"]
            [only] = _schemes.tags_of([(kind, 0, 1)], 1, names.scheme) if kind else ["O"]
            needed = [name for name in (first, inner, last, only) if kind in types and name not in index]
            if needed:
                remedy = "Create the model with all tags of its types: `data.tag_names` finds them."
                raise _check.invalid("augment", f"a model with the tag {needed[0]!r}", list(names.names), remedy)
            written.append([index.get(name, i) for name in (first, inner, last, only)])
            both = _schemes.tags_of([(kind, 0, 1), (kind, 1, 2)], 2, names.scheme) if kind else 2 * ["O"]
            touching.append([index[name] if name != only and name in index else -1 for name in both])
        self._written, self._touching = np.array(written, "int32"), np.array(touching, "int32")
        self.choices = splits[:-1], np.diff(splits)

    def opens(self, tags, previous, is_first):
        """Returns whether a segment, an entity or a word outside, begins at each word."""
        return is_first | ~tf.gather_nd(tf.constant(self._goes_on), tf.stack([previous, tags], axis=1))

    def kind(self, tags):
        return tf.gather(tf.constant(self._kinds), tags)

    def written(self, ends, place, length):
        """Returns the tag of each word of a new span, given the first and last tag of the old one."""
        first, inner, last, only = tf.unstack(tf.gather(tf.constant(self._written), ends[0]), axis=1)
        made = tf.where(place == 0, first, tf.where(place == length - 1, last, inner))
        made = tf.where(length == 1, only, made)
        # IOB1 and IOE1 mark an entity that is adjacent to another of its type at its first or last word.
        end, begin = tf.unstack(tf.gather(tf.constant(self._touching), ends[0]), axis=1)
        made = tf.where((place == 0) & (ends[0] == begin), begin, made)
        return tf.where((place == length - 1) & (ends[1] == end), end, made)
