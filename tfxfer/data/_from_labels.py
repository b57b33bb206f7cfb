"""Pairs and triplets made from labelled rows."""

import itertools
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._datasets import with_texts
from tfxfer.data._examples import Examples
from tfxfer.data._labels import read_labels
from tfxfer.data._rows import Faults, Rows, shown

_STRATEGIES = ("oversampling", "undersampling", "unique")
_LIMIT = 10_000_000  # rows that are made without being asked for by a cap


def pairs_from_labels(
    rows: Any,
    text: str,
    label: str,
    *,
    strategy: str = "oversampling",
    max_pairs: int | None = None,
    seed: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes pairs of labelled texts: 1 where both have the same label, 0 where they have not.

    So a few labelled texts become many rows for a contrastive loss: n texts of two equal classes give n (n - 2) / 4
    pairs of one and n^2 / 4 of the other kind. A pair is of two different texts, whichever comes first; a text that
    comes twice with one label counts once. Pairs are drawn by their number and never all written down, so that a cap
    makes large data cheap. With P positive and N negative pairs to be had:

    | strategy | positive | negative | |
    |---|---|---|---|
    | `"oversampling"` | max(P, N) | max(P, N) | balanced; the rarer kind is repeated, each pair about equally often |
    | `"undersampling"` | min(P, N) | min(P, N) | balanced; no pair twice |
    | `"unique"` | P | N | each pair once |

    Args:
        rows: `Rows` or what `Rows.from_any` takes.
        text: string. The name of the text column.
        label: string. The name of the label column: one label a row, a string or a whole number.
        strategy: see above. By default `"oversampling"`, which leaves no pair out, as suits some tens of texts.
        max_pairs: optional int >= 2. The most pairs to make: half of them of each kind where these are balanced, else
            in proportion. Which ones is random. Without it more than ten million are an error.
        seed: int >= 0. By default one is drawn from numpy's global generator, which `keras.utils.set_random_seed`
            seeds.
        on_error: `"raise"` or `"skip"` (leaves out broken rows, warns once, counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((a, b), y) in random order; a, b: string scalars; y: float32 1 or 0.

    Raises:
        ValueError: if no pair of one kind is possible (one class only, or no class with two texts), a text has two
            labels, several labels a row, or as `labelled`; it names file, line and column.

    Example:

    >>> rows = {"text": ["hi", "hello", "bye", "ciao"], "label": ["meet", "meet", "part", "part"]}
    >>> data = pairs_from_labels(rows, "text", "label", seed=0)
    >>> len(data), sorted(float(y) for _, y in data.as_numpy_iterator())
    (8, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])

    Reference: Tunstall et al., 2022, SetFit, https://arxiv.org/abs/2209.11055.
    """
    _check.one_of("strategy", strategy, _STRATEGIES)
    if max_pairs is not None:
        _check.integer("max_pairs", max_pairs, minimum=2)
    rng, rows = _generator(seed), Rows.from_any(rows)
    texts, ends, faults = _by_class(rows, text, label, on_error)
    sizes = np.diff(ends, prepend=0)
    within, between = sizes * (sizes - 1) // 2, sizes * (len(texts) - ends)
    positive, negative = int(within.sum()), int(between.sum())
    count, others = _how_many(positive, negative, strategy, max_pairs)
    _check_limit("max_pairs", count + others)
    first, second = zip(
        _pairs_within(_draw(rng, positive, count), within, ends - sizes),
        _pairs_between(_draw(rng, negative, others), between, ends - sizes, ends, len(texts)),
        strict=True,
    )
    pairs = rng.permuted([np.concatenate(first), np.concatenate(second)], axis=0)
    order = rng.permutation(count + others)
    faults.warn(f"pairs_from_labels({rows!r})")
    return _gathered(texts, pairs[:, order], (order < count).astype("float32"), faults)


def triplets_from_labels(
    rows: Any,
    text: str,
    label: str,
    *,
    per_anchor: int = 1,
    max_triplets: int | None = None,
    seed: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes (anchor, positive, negative) triplets of labelled texts.

    Each text whose class has another one is an anchor equally often, with another positive and negative each time: a
    text of its class, and a text of any other, all pairs of them being equally likely. A text that comes twice with one
    label counts once.

    Args:
        rows: `Rows` or what `Rows.from_any` takes.
        text: string. The name of the text column.
        label: string. The name of the label column: one label a row, a string or a whole number.
        per_anchor: int. Triplets of each anchor; fewer where fewer are possible, (size of its class - 1) x (texts of
            other classes).
        max_triplets: optional int. The most triplets to make, random ones, spread evenly over the anchors. Without it
            more than ten million are an error.
        seed: int >= 0. By default one is drawn from numpy's global generator, which `keras.utils.set_random_seed`
            seeds.
        on_error: `"raise"` or `"skip"` (leaves out broken rows, warns once, counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((anchor, positive, negative), y) in random order; y is a float32 0:
        Keras calls no loss without a y.

    Raises:
        ValueError: as `pairs_from_labels`.

    Example:

    >>> rows = {"text": ["hi", "hello", "bye"], "label": ["meet", "meet", "part"]}
    >>> sorted(x for x, _ in triplets_from_labels(rows, "text", "label", seed=0).as_numpy_iterator())
    [(b'hello', b'hi', b'bye'), (b'hi', b'hello', b'bye')]
    """
    _check.integer("per_anchor", per_anchor)
    _check.integer("max_triplets", max_triplets, optional=True)
    rng, rows = _generator(seed), Rows.from_any(rows)
    texts, ends, faults = _by_class(rows, text, label, on_error)
    sizes = np.diff(ends, prepend=0)
    # Of each text: where its class starts, the number of its positives, and of its triplets.
    starts, positives = np.repeat(ends - sizes, sizes), np.repeat(sizes - 1, sizes)
    possible = positives * (len(texts) - 1 - positives)
    counts = np.minimum(possible, per_anchor)
    if max_triplets is not None and max_triplets < counts.sum():
        anchors = np.repeat(np.arange(len(texts)), counts)
        rounds = np.arange(len(anchors)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = np.lexsort((rng.random(len(anchors)), rounds))[:max_triplets]
        counts = np.bincount(anchors[kept], minlength=len(texts))
    _check_limit("max_triplets", int(counts.sum()))
    anchors = np.repeat(np.arange(len(texts)), counts)
    if counts.max() == 1:
        drawn = rng.integers(possible[anchors])
    else:
        drawn = np.concatenate([_sample(rng, int(n), int(k)) for n, k in zip(possible, counts, strict=True) if k])
    other, negative = drawn % positives[anchors], drawn // positives[anchors]
    positive = starts[anchors] + other + (other >= anchors - starts[anchors])
    negative = negative + np.where(negative >= starts[anchors], positives[anchors] + 1, 0)
    triplets = np.stack([anchors, positive, negative])[:, rng.permutation(len(anchors))]
    faults.warn(f"triplets_from_labels({rows!r})")
    return _gathered(texts, triplets, np.zeros(len(anchors), "float32"), faults)


def _generator(seed):
    _check.integer("seed", seed, minimum=0, optional=True)
    return np.random.default_rng(np.random.randint(2**31) if seed is None else seed)


def _by_class(rows, text, label, on_error):
    """(distinct texts, class after class; where each class ends in them; the faults)."""
    faults = Faults(on_error)
    _check.instance("text", text, str, "the name of the text column")
    several, found = read_labels(rows, label, None, faults)
    if several:
        remedy = "Whether two rows with several labels belong together is not defined; give them one."
        raise _check.invalid("label", "a column with one label a row", label, remedy)
    found = with_texts(rows, [text], found, faults)
    first = {}
    for i, name in found.items():
        j = first.setdefault(rows[text][i], i)
        if found[j] != name:
            detail = f": {shown(rows[text][i])} is {name!r} here, {found[j]!r} in {rows.place(j)}"
            remedy = "Mend one of the rows, leave it out, or pass `on_error='skip'`."
            faults.add(rows.place(i), text, "a text with two labels", detail, remedy)
    classes = {}
    for value, i in first.items():
        classes.setdefault(found[i], []).append(value)
    if len(classes) < 2:
        remedy = f"All have the label {next(iter(classes))!r}, so there is nothing to tell apart."
        raise _check.invalid("rows", "rows of two classes at least", rows, remedy)
    sizes = [len(values) for values in classes.values()]
    if max(sizes) < 2:
        remedy = f"Each of the {len(sizes)} classes has one text, so none has a positive."
        raise _check.invalid("rows", "two different texts of one class at least", rows, remedy)
    return list(itertools.chain.from_iterable(classes.values())), np.cumsum(sizes), faults


def _how_many(positive, negative, strategy, most):
    """The numbers of positive and negative pairs to make."""
    if strategy == "unique":
        total = positive + negative
        if most is None or most >= total:
            return positive, negative
        share = min(max(round(most * positive / total), 1), most - 1)
        return share, most - share
    count = max(positive, negative) if strategy == "oversampling" else min(positive, negative)
    return (count, count) if most is None else (min(count, most - most // 2), min(count, most // 2))


def _check_limit(argument, total):
    if total > _LIMIT:
        remedy = f"The rows would make {total}; say how many there shall be."
        raise _check.invalid(argument, f"an int, for more than {_LIMIT} rows", None, remedy)


def _draw(rng, population, count):
    """`count` numbers below `population`, none one more time before all have come."""
    rounds, rest = divmod(count, population)
    return np.concatenate([rng.permutation(population) for _ in range(rounds)] + [_sample(rng, population, rest)])


def _sample(rng, population, count):
    """`count` different numbers below `population`, in random order, at a cost that goes by `count`."""
    if 2 * count >= population:
        return rng.permutation(population)[:count]
    drawn = np.empty(0, "int64")
    while len(drawn) < count:
        drawn = np.union1d(drawn, rng.integers(population, size=count - len(drawn)))
    return rng.permutation(drawn)


def _pairs_within(numbers, counts, starts):
    """The pairs (i > j) of one class by their number; classes of `counts` pairs start at `starts`."""
    ends = np.cumsum(counts)
    k = np.searchsorted(ends, numbers, side="right")
    number = numbers - (ends - counts)[k]
    i = ((1 + np.sqrt(1 + 8 * number.astype("float64"))) // 2).astype("int64")
    # The root may be off by one where the number has more digits than a float64.
    i -= i * (i - 1) // 2 > number
    i += (i + 1) * i // 2 <= number
    return starts[k] + i, starts[k] + number - i * (i - 1) // 2


def _pairs_between(numbers, counts, starts, ends, rows):
    """The pairs of a row of one class and a row of a later class by their number."""
    last = np.cumsum(counts)
    k = np.searchsorted(last, numbers, side="right")
    number, later = numbers - (last - counts)[k], rows - ends[k]
    return starts[k] + number // later, ends[k] + number % later


def _gathered(texts, numbers, y, faults):
    with tf.device("CPU:0"):
        column = tf.constant(texts, tf.string)
        return Examples(tuple(tf.gather(column, each) for each in numbers), y, skipped=faults.counts)
