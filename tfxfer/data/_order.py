"""The order and the batches of the rows of an epoch: numpy only, a pure function of its arguments."""

import math

import numpy as np

from tfxfer import _check


class Order:
    """Rows at random, by length, or in their order; see `batches`."""

    def __init__(self, *, batch_size, window, seed, shuffle, bucket, drop_remainder):
        self.batch_size = batch_size
        self.window = window
        self.seed = seed
        self.shuffle = shuffle
        self.bucket = bucket
        self.drop_remainder = drop_remainder

    def prepare(self, rows):
        """Returns (batches per epoch of `Tokenized` rows, function from the epoch's number to (order, ends))."""
        count = len(rows.lengths)
        steps = self.steps(count)
        if not steps:
            remedy = "Make the batches smaller, or keep the small one: `drop_remainder=False`."
            raise _check.invalid("batch_size", f"at most {count}, the rows", self.batch_size, remedy)
        return steps, lambda epoch: self.plan(rows.lengths, epoch)

    def steps(self, rows):
        """The number of batches of `rows` rows."""
        return rows // self.batch_size if self.drop_remainder else -(-rows // self.batch_size)

    def plan(self, lengths, *numbers):
        """(order, ends) of `plan`, seeded by the seed and the numbers (epoch, window)."""
        rng = np.random.default_rng([self.seed, *map(int, numbers)]) if self.shuffle else None
        return plan(lengths, self.batch_size, self.window, rng, bucket=self.bucket, drop_remainder=self.drop_remainder)

    def shuffle_seed(self, epoch):
        """A seed for the shuffling of tf.data."""
        return np.random.SeedSequence([self.seed, int(epoch)]).generate_state(1, "uint64").astype("int64")[0]


def plan(lengths, batch_size, window, rng, *, bucket, drop_remainder):
    """Orders rows and cuts them into batches.

    With `rng` and `bucket`: the rows are permuted and cut into windows of at most `window` batches, as equal as
    possible; within a window they are sorted by length (equal lengths stay in random order), cut into batches, and the
    batches permuted. The rows of the one smaller batch, which comes last, are taken from a random position in the last
    window's sorted rows, so that they are not always the longest. With `drop_remainder` random rows are dropped before
    sorting.

    With `rng` only, the rows are permuted; with `bucket` only, sorted, longest first; with neither, left unchanged.

    Args:
        lengths: int array `(n,)`, n > 0.
        batch_size: int. Rows in a batch.
        window: int. Batches in a window.
        rng: `numpy.random.Generator`, or `None` for no randomness.
        bucket: bool. Whether to batch rows of similar length.
        drop_remainder: bool. Whether to drop a last batch of fewer rows.

    Returns:
        (order, ends): int64 array of row numbers, and int64 array `(batches,)` of the end of each batch in it.
    """
    count = len(lengths)
    order = np.arange(count) if rng is None else rng.permutation(count)
    if drop_remainder:
        order = order[: count - count % batch_size]
    if bucket and rng is None:
        order = order[np.argsort(-lengths[order], kind="stable")]
    elif bucket and len(order):
        order = _bucketed(order, lengths, batch_size, window, rng)
    ends = np.minimum(np.arange(batch_size, len(order) + batch_size, batch_size), len(order))
    return order.astype("int64"), ends.astype("int64")


def _bucketed(order, lengths, batch_size, window, rng):
    batches = math.ceil(len(order) / batch_size)
    size = batch_size * math.ceil(batches / math.ceil(batches / window))
    parts = []
    for start in range(0, len(order), size):
        part = order[start : start + size]
        part = part[np.argsort(lengths[part], kind="stable")]
        full, rest = divmod(len(part), batch_size)
        small = np.arange(rest) + batch_size * rng.integers(full + 1)
        whole = np.delete(part, small).reshape(full, batch_size)
        parts += [whole[rng.permutation(full)].ravel(), part[small]]
    return np.concatenate(parts)
