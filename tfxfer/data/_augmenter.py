"""Random changes to the texts of rows."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check, augmentation
from tfxfer.data._columns import Column, TagsColumn, TextColumn, WordsColumn


class Augmenter:
    """Changes the texts of rows, each with the seed of its row; see `batches`.

    Args:
        augment: the `augment` argument of `batches`: an augmentation, a list of them, or a dict of them by column or
            text.
        columns: dict of name to `Column`.
        targets: the `Column` that encoded y, or a dict of them; `None` if y is not encoded.
        spec: the spec of a row, (x,), (x, y) or (x, y, sample_weight).
        seed: int.

    Raises:
        ValueError: if `augment` is invalid, the rows have no texts, or tags cannot be kept aligned with their words.
    """

    def __init__(self, augment, columns, targets, spec, seed):
        self._columns, self._seed = columns, seed
        self._by_column = _by_column(augment, columns)
        self._tags = self._tag_columns(targets, spec)

    def _tag_columns(self, targets, spec):
        """The tags of the words: a dict of the target's name (`None` for a single target) to its `TagSet`."""
        words = [name for name in self._by_column if isinstance(self._columns[name], WordsColumn)]
        if not words or len(spec) < 2:
            return {}
        by_name = targets if isinstance(targets, dict) else {None: targets}
        if targets is None and any(each.shape.rank != 0 for each in tf.nest.flatten(spec[1])):
            remedy = "Make the rows with `data.tagged`, or pass words and tags to `fit`."
            raise _check.invalid("dataset", "rows with encoded tags, to change with words", spec[1], remedy)
        found = {
            name: augmentation.TagSet(tuple(each.tags), each.scheme)
            for name, each in by_name.items()
            if isinstance(each, TagsColumn)
        }
        if found and len(words) > 1:
            remedy = "Name the column that the tags belong to: `augment={name: ...}`."
            raise _check.invalid("augment", "augmentations for one column of tagged words", words, remedy)
        return found

    @property
    def identity(self):
        """A string that identifies the augmentations: their names, and a hash of all settings."""
        config = {name: _config(each) for name, each in self._by_column.items()}
        names = sorted({type(each).__name__ for found in self._by_column.values() for each in _each(found)})
        return f"{', '.join(names)} ({hashlib.blake2b(json.dumps(config).encode(), digest_size=8).hexdigest()})"

    def split(self, x):
        """Turns the inputs of rows into the input of `__call__`: a dict of the columns' split values."""
        return {
            name: column.split(value, self._by_column[name]) if name in self._by_column else value
            for (name, column), value in self._named(x)
        }

    def _named(self, x):
        values = x if isinstance(x, dict) else {next(iter(self._columns)): x}
        return [((name, column), values[name]) for name, column in self._columns.items()]

    def __call__(self, x, rest, numbers, epoch):
        """Changes a batch of rows; runs in a graph.

        Args:
            x: inputs of the rows, as `split` returns them.
            rest: tuple of targets and weights.
            numbers: int64 `(rows,)`. The rows' indices in the data.
            epoch: int64 scalar.

        Returns:
            (x, rest), where x is a dict by column.
        """
        seeds = augmentation.row_seeds(self._seed, epoch, numbers)
        y: Any = rest[0] if rest else None
        tags = tuple((y if name is None else y[name], names) for name, names in self._tags.items())
        for place, (name, column) in enumerate(self._columns.items()):
            if name not in self._by_column:
                continue
            theirs = augmentation.text_seeds(seeds, -place) if place else seeds
            has_tags = isinstance(column, WordsColumn)
            made, changed = column.augment(x[name], self._by_column[name], theirs, tags if has_tags else ())
            x = {**x, name: made}
            if has_tags:
                for key, each in zip(self._tags, changed, strict=True):
                    y = each if key is None else {**y, key: each}
        return x, ((y, *rest[1:]) if rest else rest)


def _by_column(augment, columns):
    """The augmentation of each augmented column: one, or a dict of the index of a text to one."""
    able = [name for name, column in columns.items() if type(column).augment is not Column.augment]
    if not able:
        raise _check.invalid("augment", "None for rows without texts", augment)
    if not isinstance(augment, Mapping):
        found = augmentation.as_augmentation(augment)
        return dict.fromkeys(able, found)
    if augment and all(isinstance(key, int) and not isinstance(key, bool) for key in augment):
        texts = [name for name in able if isinstance(columns[name], TextColumn)]
        if len(texts) != 1:
            remedy = "Give a dict by column: `{name: {0: ...}}`."
            raise _check.invalid("augment", "indices of texts only for rows with one text column", augment, remedy)
        augment = {texts[0]: augment}
    found = {}
    for name, value in augment.items():
        _check.one_of("augment", name, able, "Or use the indices of a row's texts, from 0.")
        if isinstance(value, Mapping):
            if not isinstance(columns[name], TextColumn):
                raise _check.invalid(f"augment[{name!r}]", "an augmentation; a row has one text here", value)
            value = {
                _check.integer("augment", key, minimum=0): augmentation.as_augmentation(each, f"augment[{key!r}]")
                for key, each in value.items()
                if each is not None
            }
        elif value is not None:
            value = augmentation.as_augmentation(value, f"augment[{name!r}]")
        if value:
            found[name] = value
    if not found:
        raise _check.invalid("augment", "an augmentation for at least one column or text", augment)
    return found


def _each(value):
    return list(value.values()) if isinstance(value, dict) else [value]


def _config(value):
    if isinstance(value, dict):
        return {str(key): _config(each) for key, each in value.items()}
    return keras.saving.serialize_keras_object(value)
