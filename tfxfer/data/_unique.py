"""Batches in which no text comes twice: numpy only, a pure function of its arguments."""

import collections
import itertools
import random

import numpy as np

from tfxfer import _check

_TRIES = 3  # orders to try before adding batches
_LOOKS = 200  # swaps to try for a row that fits nowhere
_FAILURES = 20  # failed swaps before no more are tried


class ByText:
    """Rows in random order, with rows that share a text in different batches; see `batches`."""

    def __init__(self, *, batch_size, seed, drop_remainder):
        self.batch_size = batch_size
        self.seed = seed
        self._drop_remainder = drop_remainder

    def prepare(self, rows):
        """Returns (batches per epoch of `Tokenized` rows, function from the epoch's number to (order, ends))."""
        shared = Shared(rows.ids)
        # The first plan fixes the number of batches in an epoch; it is also the fallback.
        sizes, plan = self._first(shared)
        return len(sizes), lambda epoch: self._epoch(shared, sizes, plan, int(epoch))

    def _first(self, shared):
        for sizes in _sizes(shared, self.batch_size, self._drop_remainder):
            plan = _plan(shared, sizes, np.random.default_rng([self.seed]))
            if plan is not None:
                return sizes, plan
        expected = "enough rows for one full batch without a repeated text"
        remedy = "Make the batches smaller, or keep those that are not full: `drop_remainder=False`."
        raise _check.invalid("batch_size", expected, self.batch_size, remedy)

    def _epoch(self, shared, sizes, plan, epoch):
        rng = np.random.default_rng([self.seed, epoch])
        batch_of = _plan(shared, sizes, rng)
        batch_of = plan if batch_of is None else batch_of
        # Permute the batches, keeping a smaller one last, and the rows within each batch.
        sizes = np.bincount(batch_of[batch_of >= 0], minlength=len(sizes))
        small = (sizes < self.batch_size) & (sizes.max() == self.batch_size)
        place = np.empty(len(sizes), "int64")
        place[np.lexsort((rng.random(len(sizes)), small))] = np.arange(len(sizes))
        kept = np.flatnonzero(batch_of >= 0)
        order = kept[np.lexsort((rng.random(len(kept)), place[batch_of[kept]]))]
        return order.astype("int64"), np.cumsum(sizes[np.argsort(place)]).astype("int64")


class Shared:
    """Which rows share a text, in any of their columns.

    Args:
        ids: ragged int tensors `(rows, None)`, one a column.

    Attributes:
        texts: list of a tuple for each row: the indices of those of its texts that another row shares.
        most: int array `(rows,)`: the number of rows with the most frequent of these texts; 0 if there is none.
    """

    def __init__(self, ids):
        numbers, columns = {}, []
        for column in ids:
            values, splits = column.values.numpy(), column.row_splits.numpy().tolist()
            column = (values[start:end].tobytes() for start, end in itertools.pairwise(splits))
            columns.append([numbers.setdefault(text, len(numbers)) for text in column])
        rows = [set(row) for row in zip(*columns, strict=True)]
        counts = collections.Counter(text for row in rows for text in row)
        self.texts = [tuple(sorted(text for text in row if counts[text] > 1)) for row in rows]
        self.most = np.array([max((counts[text] for text in row), default=0) for row in self.texts])
        self._counts = np.array([count for count in counts.values() if count > 1], "int64")
        self._in_row = np.sort([len(row) for row in self.texts])

    def may_fill(self, batches, batch_size):
        """Whether the texts may suffice for this many full batches; `False` is certain, `True` is not."""
        return self._in_row[: batches * batch_size].sum() <= np.minimum(self._counts, batches).sum()


def _sizes(shared, batch_size, drop_remainder):
    """The batch sizes to try, the best first: int arrays."""
    rows = len(shared.texts)
    if drop_remainder:
        steps = rows // batch_size
        while steps:
            if shared.may_fill(steps, batch_size):
                yield np.full(steps, batch_size)
            steps = min(steps - 1, int(steps * 0.95))
        return
    steps, most = -(-rows // batch_size), int(shared.most.max())
    if steps >= most:
        yield np.diff(np.minimum(np.arange(steps + 1) * batch_size, rows))
        steps += 1
    steps = min(rows, max(steps, most))
    while True:
        # A frequent text, or overlaps between rows, may require more batches: these have nearly equal sizes.
        yield np.full(steps, rows // steps) + (np.arange(steps) < rows % steps)
        if steps == rows:
            return
        steps = min(rows, max(steps + 1, int(steps * 1.05)))


def _plan(shared, sizes, rng):
    """`place_rows`, tried a few times."""
    for _ in range(_TRIES):
        batch_of = place_rows(shared, sizes, rng)
        if batch_of is not None:
            return batch_of
    return None


def place_rows(shared, sizes, rng):
    """Assigns rows to batches so that no batch has a text twice.

    Rows that share no text fit anywhere, so the others are placed first, each in a random batch with room and without
    its texts; rows with the most frequent texts come first. If there is no such batch, a row of a full batch moves to
    another batch to make room.

    Args:
        shared: `Shared`.
        sizes: int array, the number of rows of each batch; the sum is at most the number of rows.
        rng: `numpy.random.Generator`.

    Returns:
        Int array, the batch of each row, -1 for dropped rows; `None` if no assignment was found in this order.
    """
    rows, room = len(shared.texts), int(sizes.sum())
    shelf = _Shelf(shared.texts, sizes, random.Random(int(rng.integers(2**63))))
    order = rng.permutation(rows)
    # Rows to drop come after all others, as substitutes for rows that do not fit.
    waits = np.zeros(rows, bool)
    waits[order[room:]] = True
    free = order[shared.most[order] == 0]
    tied = order[shared.most[order] > 0]
    tied = tied[np.argsort(-shared.most[tied], kind="stable")]
    for row in tied[~waits[tied]].tolist():
        if not shelf.put(row) and room == rows:
            return None
    shelf.fill(free[np.argsort(waits[free], kind="stable")])
    for row in tied[waits[tied]].tolist():
        if not shelf.open:
            break
        shelf.put(row)
    return None if shelf.open else shelf.batch_of


class _Shelf:
    """The batches while they are filled."""

    def __init__(self, texts, sizes, rng):
        self.batch_of = np.full(len(texts), -1)
        self.open = list(range(len(sizes)))
        self._at = list(self.open)  # the position of a batch in `open`
        self._texts = texts
        self._room = sizes.tolist()
        self._rows = [[] for _ in self.open]
        self._batches = collections.defaultdict(set)  # per text
        self._rng = rng
        self._failures = 0

    def put(self, row):
        """Finds a place for a row; returns whether there is one."""
        batch = self._open_batch(row)
        if batch is None:
            return self._swap(row)
        self._add(row, batch)
        return True

    def fill(self, rows):
        """Puts rows that fit anywhere, in random order, into the remaining room; the last ones may find none."""
        slots = np.repeat(self.open, [self._room[batch] for batch in self.open]).astype("int64")
        if len(slots) <= len(rows):
            self.batch_of[rows[: len(slots)]] = slots
            self.open = []
            return
        for row in rows.tolist():
            self.put(row)

    def _open_batch(self, row):
        """A random batch with room and without the texts of the row; `None` if there is none."""
        for _ in range(8 if self.open else 0):
            batch = self.open[int(self._rng.random() * len(self.open))]
            if self._fits(row, batch):
                return batch
        batches = [batch for batch in self.open if self._fits(row, batch)]
        return self._rng.choice(batches) if batches else None

    def _swap(self, row):
        """Puts the row into a full batch, moving one of its rows to a batch with room; returns whether it succeeded."""
        for _ in range(_LOOKS if self._failures < _FAILURES else 0):
            batch = int(self._rng.random() * len(self._rows))
            if not self._fits(row, batch):
                continue
            others = self._rows[batch]
            at = int(self._rng.random() * len(others))
            target = self._open_batch(others[at])
            if target is not None:
                others[at], others[-1] = others[-1], others[at]
                other = others.pop()
                for text in self._texts[other]:
                    self._batches[text].remove(batch)
                self._room[batch] += 1
                self._add(row, batch, was_full=True)
                self._add(other, target)
                return True
        self._failures += 1
        return False

    def _fits(self, row, batch):
        return all(batch not in self._batches[text] for text in self._texts[row])

    def _add(self, row, batch, was_full=False):
        self._rows[batch].append(row)
        self._room[batch] -= 1
        self.batch_of[row] = batch
        for text in self._texts[row]:
            self._batches[text].add(batch)
        if not self._room[batch] and not was_full:
            last = self.open.pop()
            if last != batch:
                self.open[self._at[batch]] = last
                self._at[last] = self._at[batch]
