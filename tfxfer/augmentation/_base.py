"""The base of all augmentations, functions of texts and seeds, and their combinations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer._random import fold, row_seeds, uniform
from tfxfer.augmentation._rows import TagSet, WordRows

# The numbers that derive the seeds of a row's parts from its seed.
_TEXT, _WHETHER, _HOW = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random change of texts that preserves their labels; the base class of all augmentations.

    The change of a row depends on the seed, the epoch, the row's index and the row itself, but not on other rows or on
    the order or size of batches. Objects are immutable and round-trip through `get_config`
    (`keras.saving.serialize_keras_object`).

    To write your own augmentation, subclass this class and override `apply`. It runs in a graph, on many rows at once,
    without AutoGraph.

    Args:
        probability: float in `[0, 1]`. The share of rows that are changed; each epoch selects different rows. Defaults
            to 1.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> @dataclasses.dataclass(frozen=True)
    ... class Shout(Augmentation):
    ...     '''Adds an exclamation mark to words.'''
    ...     rate: float = 0.5
    ...     def apply(self, rows, seeds, active):
    ...         chosen = rows.is_word & rows.of_row(active) & (uniform(rows.draw(seeds, 0)) < self.rate)
    ...         index = tf.where(chosen)[:, 0]
    ...         return rows.with_words(index, tf.strings.join([tf.gather(rows.words, index), "!"]))
    >>> Shout(rate=1.0)(["so it is"]).numpy().tolist()
    [b'so! it! is!']
    """

    probability: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        self._set("probability", _check.number("probability", self.probability, minimum=0.0, maximum=1.0))

    def _set(self, name, value):
        """Sets a field during construction."""
        object.__setattr__(self, name, value)

    def _rate(self, name, value):
        self._set(name, _check.number(name, value, minimum=0.0, maximum=1.0))

    # === To override ===

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        """Changes rows; runs in a graph.

        Args:
            rows: `WordRows`.
            seeds: int64 `(rows,)`. `rows.draw(seeds, number)` derives a seed for each word.
            active: bool `(rows,)`. The rows to change.

        Returns:
            `WordRows`, with the same number of rows.
        """
        raise NotImplementedError

    # === In a pipeline ===

    def change(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        """Applies this to a share `probability` of the rows that are `active`; see `apply` for `rows` and `seeds`."""
        if self.probability < 1.0:
            active &= uniform(fold(seeds, _WHETHER)) < self.probability
        return self.apply(rows, fold(seeds, _HOW), active)

    def on_texts(self, texts: Any, seeds: Any) -> Any:
        """Changes `texts`, a string tensor `(rows,)`, using the rows' `seeds`, int64 `(rows,)`; runs in a graph."""
        return tf.ensure_shape(self.on_parts(*WordRows.from_texts(texts).parts(), seeds), texts.shape)

    def on_parts(self, words: Any, gaps: Any, tails: Any, seeds: Any) -> Any:
        """Changes texts given as the `words`, `gaps` and `tails` of `WordRows.parts`; see `on_texts` for `seeds`."""
        rows = WordRows.from_parts(words, gaps, tails)
        return self.change(rows, seeds, tf.ones_like(seeds, tf.bool)).texts()

    def on_words(self, words: Any, seeds: Any, tags: Any = (), tag_sets: Sequence[TagSet] = ()) -> Any:
        """Changes lists of words and adapts their tags; runs in a graph.

        Args:
            words: ragged string tensor `(rows, None)`.
            seeds: int64 `(rows,)`.
            tags: tuple of ragged int tensors, the indices of the words' tags.
            tag_sets: sequence with a `TagSet` for each of `tags`.

        Returns:
            (words, tags), in the form they were passed.
        """
        rows = WordRows.from_words(words, tags, tag_sets)
        rows = self.change(rows, seeds, tf.ones_like(seeds, tf.bool))
        return rows.ragged(rows.words), tuple(rows.ragged(each) for each in rows.tags)

    # === Directly ===

    def __call__(self, texts: Any, seed: int = 0, *, epoch: int = 0, text: int = 0) -> Any:
        """Returns the texts that `fit(texts, ..., seed=seed, augment=this)` trains on in an epoch, in row order.

        Args:
            texts: list, array or string tensor `(n,)`.
            seed: int >= 0.
            epoch: int >= 0.
            text: int >= 0. The column of the texts, for rows of several texts.

        Returns:
            A string tensor `(n,)`.
        """
        texts = _texts(texts)
        with tf.device("CPU:0"):
            return self.on_texts(texts, _seeds(seed, epoch, text, tf.size(texts, tf.int64)))

    def tagged(
        self,
        words: Sequence[Sequence[str]],
        tags: Sequence[Sequence[str]],
        scheme: str | None = "IOB2",
        seed: int = 0,
        *,
        epoch: int = 0,
    ) -> tuple[list, list]:
        """Returns the words and tags that a tagger is trained on in an epoch.

        Args:
            words: list of lists of strings.
            tags: list of lists of strings, one tag for each word.
            scheme: optional string. The scheme of the tags; `None` for tags that do not mark entities.
            seed: int >= 0.
            epoch: int >= 0.

        Returns:
            (words, tags), lists of lists of strings.

        Raises:
            ValueError: if a row has different numbers of words and tags, or a tag does not belong to `scheme`.

        Example:

        >>> from tfxfer.augmentation import Delete
        >>> Delete(rate=1.0).tagged([["Ada", "Byron", "wrote"]], [["B-PER", "I-PER", "O"]])
        ([['Ada', 'Byron']], [['B-PER', 'I-PER']])
        """
        for i, (row, theirs) in enumerate(zip(words, tags, strict=True)):
            if len(row) != len(theirs):
                remedy = f"It is in row {i} (counting from 0)."
                raise _check.invalid("tags", f"{len(row)} tags, one for each word", list(theirs), remedy)
        names = sorted({"O", *(tag for row in tags for tag in row)})
        if scheme is not None:
            names = _schemes.tag_names(TagSet(tuple(names), scheme).types, scheme)
            for i, row in enumerate(tags):
                strange = [tag for tag in row if tag not in names]
                if strange:
                    remedy = f"It is in row {i} (counting from 0)."
                    raise _check.invalid("tags", f"tags of {scheme}", strange[0], remedy)
        index = {name: i for i, name in enumerate(names)}
        with tf.device("CPU:0"):
            ragged = tf.ragged.constant([list(row) for row in words], dtype=tf.string, ragged_rank=1)
            indices = tf.ragged.constant([[index[tag] for tag in row] for row in tags], tf.int32, ragged_rank=1)
            seeds = _seeds(seed, epoch, 0, ragged.nrows())
            ragged, [indices] = self.on_words(ragged, seeds, (indices,), (TagSet(tuple(names), scheme),))
        found = [[word.decode() for word in row] for row in ragged.to_list()]
        return found, [[names[i] for i in row] for row in indices.to_list()]

    # === Saving ===

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments in a form for JSON."""
        return {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates an augmentation from `config`, the output of `get_config`."""
        return cls(**{name: _read(value) for name, value in config.items()})


def _plain(value):
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return keras.saving.serialize_keras_object(value) if hasattr(value, "get_config") else value


def _read(value):
    if isinstance(value, list):
        return [_read(each) for each in value]
    is_object = isinstance(value, dict) and "class_name" in value
    return keras.saving.deserialize_keras_object(value) if is_object else value


def _texts(texts):
    if isinstance(texts, (str, bytes)):
        raise _check.invalid("texts", "a list of strings", texts, "Wrap a single text in a list.")
    if not isinstance(texts, tf.Tensor):
        texts = tf.constant(_check.strings("texts", list(texts)), tf.string, shape=(len(texts),))
    if texts.dtype != tf.string or texts.shape.rank != 1:
        raise _check.invalid("texts", "strings (n,)", f"{texts.dtype.name} of shape {texts.shape}")
    return texts


def _seeds(seed, epoch, text, count):
    seed = _check.integer("seed", seed, minimum=0)
    epoch = _check.integer("epoch", epoch, minimum=0)
    return text_seeds(row_seeds(seed, epoch, tf.range(count)), _check.integer("text", text, minimum=0))


def text_seeds(seeds: Any, text: Any) -> Any:
    """Derives the seeds of one text column from the seeds of the rows.

    Args:
        seeds: int64 tensor `(n,)`, for example from `row_seeds`.
        text: int, or int64 scalar tensor. The index of the column, from 0.

    Returns:
        An int64 tensor `(n,)`.

    >>> seeds = row_seeds(0, 1, [0, 1])
    >>> [len(set(text_seeds(seeds, text).numpy())) for text in (0, 1)]  # a different seed for each row
    [2, 2]
    """
    return fold(fold(seeds, _TEXT), text)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Compose(Augmentation):
    """Applies several augmentations in sequence; a list of augmentations means the same.

    Args:
        augmentations: sequence of augmentations.
        probability: float in `[0, 1]`. The share of rows that the sequence changes. Defaults to 1.

    Raises:
        ValueError: if `augmentations` is empty or holds something that is not an augmentation.

    Example:

    >>> from tfxfer.augmentation import Case, DropPunctuation
    >>> plain = Compose([Case("lower", probability=1.0), DropPunctuation(probability=1.0)])
    >>> plain(["Where IS my card?"]).numpy().tolist()
    [b'where is my card']
    """

    augmentations: Sequence[Augmentation]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("augmentations", _several(self.augmentations))

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        for i, each in enumerate(self.augmentations):
            rows = each.change(rows, fold(seeds, i), active)
        return rows


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class OneOf(Augmentation):
    """Applies a randomly chosen augmentation to each row.

    Args:
        augmentations: sequence of augmentations.
        weights: optional sequence of floats >= 0. The relative frequency of each. By default all are equally likely.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if `augmentations` is empty or holds something that is not an augmentation, or if `weights` differ
            in number or sum to 0.

    Example:

    >>> from tfxfer.augmentation import Case
    >>> choice = OneOf([Case(("upper",), probability=1.0), Case(("lower",), probability=1.0)])
    >>> choice(["Where is it?"] * 4, seed=1).numpy().tolist()
    [b'where is it?', b'WHERE IS IT?', b'where is it?', b'WHERE IS IT?']
    """

    augmentations: Sequence[Augmentation]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("augmentations", _several(self.augmentations))
        if self.weights is None:
            return
        weights = tuple(_check.number("weights", weight, minimum=0.0) for weight in self.weights)
        if len(weights) != len(self.augmentations) or not sum(weights):
            expected = f"{len(self.augmentations)} weights, one for each augmentation, at least one > 0"
            raise _check.invalid("weights", expected, self.weights)
        self._set("weights", weights)

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        weights = self.weights or (1.0,) * len(self.augmentations)
        drawn = uniform(fold(seeds, len(weights))) * sum(weights)
        start = 0.0
        for i, (each, weight) in enumerate(zip(self.augmentations, weights, strict=True)):
            end = float("inf") if i == len(weights) - 1 else start + weight
            rows = each.change(rows, fold(seeds, i), active & (drawn >= start) & (drawn < end))
            start = end
        return rows


def _several(augmentations):
    if isinstance(augmentations, Augmentation) or not isinstance(augmentations, Sequence) or not augmentations:
        raise _check.invalid("augmentations", "a list of augmentations, at least one", augmentations)
    return tuple(as_augmentation(each, "augmentations") for each in augmentations)


def as_augmentation(value: Any, argument: str = "augment") -> Augmentation:
    """Returns an augmentation unchanged, and a list of augmentations as a `Compose`.

    Args:
        value: `Augmentation`, or a list or tuple of augmentations.
        argument: string. The name of the argument in errors. Defaults to `"augment"`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: if `value` is anything else.

    >>> from tfxfer.augmentation import Delete, Swap
    >>> [each.rate for each in as_augmentation([Delete(), Swap(0.2)]).augmentations]
    [0.1, 0.2]
    """
    if isinstance(value, (list, tuple)) and value:
        return as_augmentation(value[0], argument) if len(value) == 1 else Compose([*value])
    remedy = None
    if isinstance(value, type) and issubclass(value, Augmentation):
        remedy = f"Pass an instance: `{value.__name__}(...)`."
    return _check.instance(argument, value, Augmentation, "an augmentation of `tfxfer.augmentation`, or a list", remedy)
