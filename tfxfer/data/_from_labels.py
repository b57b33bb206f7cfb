"""Pairs and triplets made from labeled rows."""

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
_LIMIT = 10_000_000  # the most rows without an explicit maximum


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
    """Makes pairs of labeled texts: 1 if both have the same label, 0 otherwise.

    A few labeled texts become many rows for a contrastive loss: n texts of two equally large classes yield n (n - 2) /
    4 positive and n^2 / 4 negative pairs. A pair has two different texts, in either order; a text that occurs twice
    with the same label counts once. Pairs are sampled by index and never all materialized, so a maximum makes large
    data cheap. With P positive and N negative pairs available:

    | strategy | positive | negative | |
    |---|---|---|---|
    | `"oversampling"` | max(P, N) | max(P, N) | balanced; the rarer kind repeats, each pair about equally often |
    | `"undersampling"` | min(P, N) | min(P, N) | balanced; no pair repeats |
    | `"unique"` | P | N | each pair once |

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        text: string. The name of the text column.
        label: string. The name of the label column: one label per row, a string or a whole number.
        strategy: see above. Defaults to `"oversampling"`, which uses every pair and suits a few dozen texts.
        max_pairs: optional int >= 2. The maximum number of pairs, drawn at random: half of each kind for balanced
            strategies, otherwise in proportion. Without it more than ten million pairs are an error.
        seed: int >= 0. By default drawn from numpy's global generator, which `keras.utils.set_random_seed` seeds.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((a, b), y) in random order; a, b: string scalars; y: float32 1 or 0.

    Raises:
        ValueError: if no positive or no negative pair is possible (only one class, or no class with two texts), a text
            has two labels, a row has several labels, or as `labelled`; the message names file, line and column.

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
    """Makes (anchor, positive, negative) triplets of labeled texts.

    Every text whose class has another text is an anchor equally often. Its positives are other texts of its class, its
    negatives texts of other classes; each triplet combines a different pair of them, all pairs being equally likely. A
    text that occurs twice with the same label counts once.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        text: string. The name of the text column.
        label: string. The name of the label column: one label per row, a string or a whole number.
        per_anchor: int. Triplets per anchor; fewer if fewer are possible, (size of its class - 1) x (texts of other
            classes).
        max_triplets: optional int. The maximum number of triplets, drawn at random and spread evenly over the anchors.
            Without it more than ten million triplets are an error.
        seed: int >= 0. By default drawn from numpy's global generator, which `keras.utils.set_random_seed` seeds.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((anchor, positive, negative), y) in random order; y is a float32 0,
        because Keras computes no loss without a y.

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
    # Per text: the start of its class, its number of positives, and its number of triplets.
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
    """Returns (distinct texts, class by class; the end of each class in them; the errors)."""
    faults = Faults(on_error)
    _check.instance("text", text, str, "the name of the text column")
    several, found = read_labels(rows, label, None, faults)
    if several:
        remedy = "It is undefined whether two rows with several labels belong together; give each row one label."
        raise _check.invalid("label", "a column with one label a row", label, remedy)
    found = with_texts(rows, [text], found, faults)
    first = {}
    for i, name in found.items():
        j = first.setdefault(rows[text][i], i)
        if found[j] != name:
            detail = f": {shown(rows[text][i])} is {name!r} here, {found[j]!r} in {rows.place(j)}"
            remedy = "Fix one of the rows, drop it, or pass `on_error='skip'`."
            faults.add(rows.place(i), text, "a text with two labels", detail, remedy)
    classes = {}
    for value, i in first.items():
        classes.setdefault(found[i], []).append(value)
    if len(classes) < 2:
        remedy = f"All rows have the label {next(iter(classes))!r}."
        raise _check.invalid("rows", "rows of at least two classes", rows, remedy)
    sizes = [len(values) for values in classes.values()]
    if max(sizes) < 2:
        remedy = f"Each of the {len(sizes)} classes has one text, so there are no positive pairs."
        raise _check.invalid("rows", "at least two different texts of one class", rows, remedy)
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
        remedy = f"The rows would make {total}; set a maximum."
        raise _check.invalid(argument, f"an int, for more than {_LIMIT} rows", None, remedy)


def _draw(rng, population, count):
    """`count` numbers below `population`; no number repeats before all have come."""
    rounds, rest = divmod(count, population)
    return np.concatenate([rng.permutation(population) for _ in range(rounds)] + [_sample(rng, population, rest)])


def _sample(rng, population, count):
    """`count` different numbers below `population`, in random order, at a cost proportional to `count`."""
    if 2 * count >= population:
        return rng.permutation(population)[:count]
    drawn = np.empty(0, "int64")
    while len(drawn) < count:
        drawn = np.union1d(drawn, rng.integers(population, size=count - len(drawn)))
    return rng.permutation(drawn)


def _pairs_within(numbers, counts, starts):
    """The pairs (i > j) within one class, by index; classes of `counts` pairs start at `starts`."""
    ends = np.cumsum(counts)
    k = np.searchsorted(ends, numbers, side="right")
    number = numbers - (ends - counts)[k]
    i = ((1 + np.sqrt(1 + 8 * number.astype("float64"))) // 2).astype("int64")
    # The root may be off by one if the number has more digits than a float64.
    i -= i * (i - 1) // 2 > number
    i += (i + 1) * i // 2 <= number
    return starts[k] + i, starts[k] + number - i * (i - 1) // 2


def _pairs_between(numbers, counts, starts, ends, rows):
    """The pairs of a row of one class and a row of a later class, by index."""
    last = np.cumsum(counts)
    k = np.searchsorted(last, numbers, side="right")
    number, later = numbers - (last - counts)[k], rows - ends[k]
    return starts[k] + number // later, ends[k] + number % later


def _gathered(texts, numbers, y, faults):
    with tf.device("CPU:0"):
        column = tf.constant(texts, tf.string)
        return Examples(tuple(tf.gather(column, each) for each in numbers), y, skipped=faults.counts)
