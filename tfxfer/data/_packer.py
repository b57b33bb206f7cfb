"""Turns the columns of rows into the tensors of a batch."""

import tensorflow as tf

from tfxfer import _check, _random
from tfxfer.data._columns import RankingColumn, TextColumn, WordsColumn


class Packer:
    """Encodes the columns of rows and pads them into batches.

    Args:
        columns: dict of name to `Column`.
        multiple: int. Lengths are rounded up to a multiple of it.
    """

    def __init__(self, columns, multiple=1):
        self.columns = columns
        self.multiple = multiple

    @property
    def is_current(self):
        """Whether the preprocessors' settings are unchanged since this was made: pipelines keep traced functions."""
        return all(getattr(column, "is_current", True) for column in self.columns.values())

    @property
    def is_separate(self):
        """Whether a row has several sequences, whose losses compare the rows of a batch."""
        return any(getattr(column, "separate", False) for column in self.columns.values())

    def text(self):
        """Returns the name and column of the only column of tokens; raises if there is none, or several."""
        kinds = (TextColumn, WordsColumn)
        found = [(name, column) for name, column in self.columns.items() if isinstance(column, kinds)]
        if len(found) != 1:
            raise _check.invalid("batches", "batches with one text column", f"{len(found)} text columns")
        return found[0]

    def tokenize(self, *row):
        """Turns batched rows into (cached values of each column, lengths for the padding, targets and weights)."""
        kept = self.encode(row[0])
        return kept, self.lengths(kept), row[1:]

    def encode(self, x):
        """Turns batched inputs into a dict of the cached values of each column."""
        return {name: column.encode(value) for (name, column), value in self.named(x)}

    def named(self, x):
        """Returns ((name, column), value) for each column, given its value or a dict of them."""
        if not isinstance(x, dict):
            x = {next(iter(self.columns)): x}
        return [((name, column), x[name]) for name, column in self.columns.items()]

    def lengths(self, kept):
        """Returns the padded length of each row from the cached values."""
        found = [column.lengths(kept[name]) for name, column in self.columns.items()]
        found = [tf.cast(lengths, tf.int32) for lengths in found if lengths is not None]
        if not found:
            return tf.zeros(tf.shape(tf.nest.flatten(kept)[0])[:1], tf.int32)
        return tf.add_n(found)

    @property
    def has_lists(self):
        """Whether rows may hold lists of texts that differ in length."""
        return any(isinstance(column, RankingColumn) for column in self.columns.values())

    def sequences(self, kept):
        """Returns the number of sequences of each row from the cached values, an int array; `None` if it is one."""
        found = [column.sequences(kept[name]) for name, column in self.columns.items()]
        return next((counts for counts in found if counts is not None), None)

    def token_ids(self, kept):
        """Returns the token ids of each text from the cached values, a tuple of ragged tensors."""
        return tuple(ids for name, column in self.columns.items() for ids in column.token_ids(kept[name]))

    @property
    def draws(self):
        """The column that draws inputs and targets at random, or `None`."""
        return next((column for column in self.columns.values() if column.draws), None)

    def pack(self, kept, rest=(), seeds=None):
        """Turns the cached values of the rows of one batch, and their targets and weights, into the batch.

        Args:
            kept: dict of the columns' cached values.
            rest: tuple of targets and weights; empty if a column draws its own.
            seeds: int64 `(rows,)` for such a column; by default from TensorFlow's global seed.
        """
        packed = self.merge(kept, self.columns)
        if self.draws is not None:
            return self.drawn(packed, seeds)
        return (packed, *rest) if rest else packed

    def drawn(self, packed, seeds=None):
        """Turns the tensors of a batch into (inputs, targets), if a column draws them; `seeds` as in `pack`."""
        if seeds is None:
            seeds = _random.new_seeds(tf.shape(tf.nest.flatten(packed)[0])[0])
        return self.draws.draw(packed, seeds, self.multiple)

    def merge(self, kept, names):
        """Returns the tensors of some columns of a batch in one dict."""
        found = {}
        for name in names:
            made = self.columns[name].batch(kept[name], name, self.multiple)
            # The column's name distinguishes the keys of a second text column.
            found |= {(f"{name}_{key}" if key in found else key): value for key, value in made.items()}
        return found
