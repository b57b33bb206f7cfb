"""What all augmentations are: functions of texts and seeds, and how they are put together."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer._random import fold, row_seeds, uniform
from tfxfer.augmentation._rows import TagSet, WordRows

# The numbers under which a row's seed becomes those of its parts.
_TEXT, _WHETHER, _HOW = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random change of texts that keeps their labels right; the base of all of them.

    What happens to a row is a function of the seed, the epoch, the row's number and the row itself: it does not depend
    on the other rows, on the order or on the size of batches. Objects are immutable and round-trip through `get_config`
    (`keras.saving.serialize_keras_object`).

    An augmentation of your own is a subclass that overrides `apply`. All of it runs in a graph, on many rows at once,
    without AutoGraph.

    Args:
        probability: float in `[0, 1]`. The share of rows that are changed, others in each epoch. Defaults to 1.

    Raises:
        ValueError: for an argument out of its range.

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
        """Sets a field while the object is made."""
        object.__setattr__(self, name, value)

    def _rate(self, name, value):
        self._set(name, _check.number(name, value, minimum=0.0, maximum=1.0))

    # === To override ===

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        """Changes rows; runs in a graph.

        Args:
            rows: `WordRows`.
            seeds: int64 `(rows,)`. `rows.draw(seeds, number)` makes one for each word of them.
            active: bool `(rows,)`. The rows that may change.

        Returns:
            `WordRows`, as many.
        """
        raise NotImplementedError

    # === In a pipeline ===

    def change(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        """Applies this to the share of the active rows that `probability` says; see `apply`."""
        if self.probability < 1.0:
            active &= uniform(fold(seeds, _WHETHER)) < self.probability
        return self.apply(rows, fold(seeds, _HOW), active)

    def on_texts(self, texts: Any, seeds: Any) -> Any:
        """Changes texts, a string tensor `(rows,)`, by the seeds of their rows, int64 `(rows,)`; runs in a graph."""
        return tf.ensure_shape(self.on_parts(*WordRows.from_texts(texts).parts(), seeds), texts.shape)

    def on_parts(self, words: Any, gaps: Any, tails: Any, seeds: Any) -> Any:
        """Changes texts that are split already, as `WordRows.parts` has it; see `on_texts`."""
        rows = WordRows.from_parts(words, gaps, tails)
        return self.change(rows, seeds, tf.ones_like(seeds, tf.bool)).texts()

    def on_words(self, words: Any, seeds: Any, tags: Any = (), tag_sets: Sequence[TagSet] = ()) -> Any:
        """Changes lists of words and keeps their tags in step; runs in a graph.

        Args:
            words: ragged string tensor `(rows, None)`.
            seeds: int64 `(rows,)`.
            tags: tuple of ragged int tensors, the indices of the words' tags.
            tag_sets: a `TagSet` for each of these.

        Returns:
            (words, tags), as given.
        """
        rows = WordRows.from_words(words, tags, tag_sets)
        rows = self.change(rows, seeds, tf.ones_like(seeds, tf.bool))
        return rows.ragged(rows.words), tuple(rows.ragged(each) for each in rows.tags)

    # === Directly ===

    def __call__(self, texts: Any, seed: int = 0, *, epoch: int = 0, text: int = 0) -> Any:
        """Returns what `fit(texts, ..., seed=seed, augment=this)` trains on in an epoch, in the order of the rows.

        Args:
            texts: list, array or string tensor `(n,)`.
            seed: int >= 0.
            epoch: int >= 0.
            text: int >= 0. Which text of its row this is, where rows have several.

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
        """Returns what a tagger is trained on in an epoch: other words, and tags in step with them.

        Args:
            words: list of lists of strings.
            tags: list of lists of as many tags.
            scheme: the scheme of the tags; `None` for tags that mark no entities.
            seed: int >= 0.
            epoch: int >= 0.

        Returns:
            (words, tags), lists of lists of strings.

        Raises:
            ValueError: for rows of another number of tags than of words.

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
        """Returns the arguments, as JSON can hold them."""
        return {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes an augmentation of what `get_config` gave."""
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
        raise _check.invalid("texts", "a list of strings", texts, "Put the one text into a list.")
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
    """Returns the seeds of one of several texts of rows, out of the rows' seeds."""
    return fold(fold(seeds, _TEXT), text)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Compose(Augmentation):
    """Applies several augmentations one after the other; a list is read as this.

    Args:
        augmentations: sequence of augmentations.
        probability: float in `[0, 1]`. The share of rows that any of them changes. Defaults to 1.

    Raises:
        ValueError: for none, or something that is no augmentation.

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
    """Applies one of several augmentations to each row, chosen at random.

    Args:
        augmentations: sequence of augmentations.
        weights: optional sequence of floats >= 0, how often each is chosen. By default all alike.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: for none, something that is no augmentation, or weights of another number or that sum to 0.

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
            expected = f"{len(self.augmentations)} weights, one for each augmentation, of which one is > 0"
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
    """Returns an augmentation as it is, and a list of them as a `Compose`.

    Raises:
        ValueError: for anything else; it names the argument.
    """
    if isinstance(value, (list, tuple)) and value:
        return as_augmentation(value[0], argument) if len(value) == 1 else Compose([*value])
    remedy = None
    if isinstance(value, type) and issubclass(value, Augmentation):
        remedy = f"Make one: `{value.__name__}(...)`."
    return _check.instance(argument, value, Augmentation, "an augmentation of `tfxfer.augmentation`, or a list", remedy)
