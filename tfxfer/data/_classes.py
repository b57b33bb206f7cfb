"""Batches of P classes and K examples of each: numpy only, a pure function of its arguments."""

import heapq
import math

import numpy as np

from tfxfer import _check


class ByClass:
    """Batches of P classes with K examples each; see `batches`."""

    def __init__(self, *, batch_size, examples_per_class, seed):
        expected = f"a multiple of examples_per_class={examples_per_class}, and at least twice that"
        if batch_size % examples_per_class or batch_size < 2 * examples_per_class:
            classes = max(2, round(batch_size / examples_per_class))
            remedy = f"A batch holds P classes x K examples: batch_size={classes * examples_per_class} has {classes}."
            raise _check.invalid("batch_size", expected, batch_size, remedy)
        self.batch_size = batch_size
        self.seed = seed
        self._examples = examples_per_class
        self._classes = batch_size // examples_per_class

    def prepare(self, rows):
        """Returns (batches per epoch of `Tokenized` rows, function from the epoch's number to (order, ends))."""
        y = rows.rest[0].numpy() if rows.rest and hasattr(rows.rest[0], "numpy") else None
        if y is None or y.ndim != 1 or y.dtype.kind not in "biuOS":
            shown = "no y" if y is None else f"y of shape {y.shape} and dtype {y.dtype}"
            remedy = "Make the rows with `data.labelled(rows, text, label)`."
            raise _check.invalid("dataset", "rows (x, y) with one label each, an int or a string", shown, remedy)
        _, numbers = np.unique(y, return_inverse=True)
        members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
        if len(members) < 2:
            raise _check.invalid("dataset", "rows of at least two classes", y[:1].tolist(), "All have this label.")
        if len(members) < self._classes:
            most = len(members) * self._examples
            expected = f"at most {most}, for {len(members)} classes x {self._examples} examples"
            raise _check.invalid("batch_size", expected, self.batch_size, "Or raise `examples_per_class`.")
        steps = count_batches([len(rows) for rows in members], self._classes, self._examples)
        return steps, lambda epoch: self._plan(members, steps, int(epoch))

    def _plan(self, members, steps, epoch):
        order = by_class(members, self._classes, self._examples, np.random.default_rng([self.seed, epoch]))
        return order.ravel().astype("int64"), np.arange(1, steps + 1) * self.batch_size


def count_batches(sizes, classes, examples):
    """The number of batches in an epoch, for classes of these sizes: the fewest that hold every row at least once."""
    groups = [math.ceil(size / examples) for size in sizes]
    return max(math.ceil(sum(groups) / classes), max(groups))


def by_class(members, classes, examples, rng):
    """Draws the batches of an epoch.

    A class contributes groups of K rows, at most one per batch, and each row is in at least one group. Groups that are
    missing for full batches come from the classes whose rows were used least so far.

    Args:
        members: list of int arrays, the rows of each class; at least `classes` of them.
        classes: int. P, the classes in a batch.
        examples: int. K, the rows of each class in it.
        rng: `numpy.random.Generator`.

    Returns:
        Int array `(batches, classes * examples)` of row numbers, the rows of a class next to each other.
    """
    sizes = [len(rows) for rows in members]
    batches = count_batches(sizes, classes, examples)
    left = _group_counts(sizes, classes, examples, batches, rng)
    groups = [_groups(rows, count, examples, rng) for rows, count in zip(members, left, strict=True)]
    order = np.empty((batches, classes, examples), "int64")
    for b in range(batches):
        # Classes with the most groups left are the most likely (weighted sampling without replacement: Efraimidis and
        # Spirakis, 2006); a class with a group for each remaining batch must be in all of them.
        with np.errstate(divide="ignore"):
            keys = np.log(rng.random(len(left))) / left
        keys[left == batches - b] = 1.0
        for place, k in enumerate(np.argpartition(-keys, classes - 1)[:classes]):
            left[k] -= 1
            order[b, place] = groups[k][left[k]]
    return order.reshape(batches, -1)


def _group_counts(sizes, classes, examples, batches, rng):
    """The number of groups of each class, an int array: `batches * classes` in total, at most `batches` each."""
    counts = np.array([math.ceil(size / examples) for size in sizes])
    ties = rng.random(len(sizes)).tolist()
    uses = [(counts[k] * examples / size, ties[k], k) for k, size in enumerate(sizes) if counts[k] < batches]
    heapq.heapify(uses)
    for _ in range(batches * classes - int(counts.sum())):
        use, tie, k = heapq.heappop(uses)
        counts[k] += 1
        if counts[k] < batches:
            heapq.heappush(uses, (use + examples / sizes[k], tie, k))
    return counts


def _groups(rows, count, examples, rng):
    """`count` groups of `examples` rows: no row repeats before all have come, and within a group only if it must."""
    wanted, made, parts, begun = count * examples, 0, [], rows[:0]
    while made < wanted:
        drawn = rng.permutation(rows)
        # Rows that are already in the group left unfinished by the last round come last.
        drawn = drawn[np.argsort((drawn[:, None] == begun).sum(axis=1), kind="stable")]
        parts.append(drawn)
        made += len(drawn)
        begun = np.concatenate([begun, drawn])
        begun = begun[len(begun) - made % examples :]
    return np.concatenate(parts)[:wanted].reshape(count, examples)
