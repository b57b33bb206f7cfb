"""Pairs and triplets made from labeled rows, compared with all possible ones."""

import collections
import itertools
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data


def labelled_texts(sizes, seed=0):
    """Shuffled rows with unique texts and classes of the given sizes."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return {"text": [f"t{i}" for i in range(len(labels))], "label": labels}


def listed(dataset):
    """The rows of a dataset as tuples of strings, and its y."""
    columns = [[text.decode() for text in column.numpy()] for column in dataset.columns]
    return list(zip(*columns, strict=True)), dataset.y.numpy()


def all_pairs(rows):
    """{frozenset of two texts: 1 or 0} by a double loop."""
    both = list(zip(rows["text"], rows["label"], strict=True))
    return {frozenset((a, b)): float(p == q) for (a, p), (b, q) in itertools.combinations(both, 2)}


def check_pairs(rows, dataset):
    """Checks that every pair is possible and has the right y; counts how often each occurs, by kind."""
    oracle = all_pairs(rows)
    uses = {1.0: collections.Counter(), 0.0: collections.Counter()}
    for texts, y in zip(*listed(dataset), strict=True):
        assert oracle[frozenset(texts)] == y
        uses[float(y)][frozenset(texts)] += 1
    return uses[1.0], uses[0.0]


SIZES = st.lists(st.integers(1, 8), min_size=2, max_size=5).filter(lambda sizes: max(sizes) > 1)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31))
def test_the_strategies_make_the_pairs_that_they_say(sizes, seed):
    rows = labelled_texts(sizes, seed)
    oracle = all_pairs(rows)
    positive, negative = int(sum(oracle.values())), int(len(oracle) - sum(oracle.values()))
    for strategy, counts in {
        "unique": (positive, negative),
        "undersampling": (min(positive, negative),) * 2,
        "oversampling": (max(positive, negative),) * 2,
    }.items():
        kinds = check_pairs(rows, data.pairs_from_labels(rows, "text", "label", strategy=strategy, seed=seed))
        for uses, count, possible in zip(kinds, counts, (positive, negative), strict=True):
            assert uses.total() == count and len(uses) == min(count, possible)
            assert max(uses.values()) - min(uses.values()) <= (1 if len(uses) == possible else 0)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), most=st.integers(2, 60))
def test_a_cap_holds_and_keeps_the_balance(sizes, seed, most):
    rows = labelled_texts(sizes, seed)
    for strategy in ("unique", "undersampling", "oversampling"):
        full = data.pairs_from_labels(rows, "text", "label", strategy=strategy, seed=seed)
        capped = data.pairs_from_labels(rows, "text", "label", strategy=strategy, max_pairs=most, seed=seed)
        ones, zeros = (uses.total() for uses in check_pairs(rows, capped))
        assert ones + zeros == min(most, len(full)) and ones and zeros
        if strategy != "unique":
            assert 0 <= ones - zeros <= 1
        elif most < len(full):
            share = most * sum(all_pairs(rows).values()) / len(full)
            assert abs(ones - share) <= 1


def test_pairs_are_in_random_order_and_either_text_comes_first():
    rows = labelled_texts([30, 30])
    texts, y = listed(data.pairs_from_labels(rows, "text", "label", strategy="unique", seed=0))
    assert 0.35 < y[:300].mean() < 0.65
    place = {text: i for i, text in enumerate(rows["text"])}
    assert 0.4 < np.mean([place[a] < place[b] for a, b in texts]) < 0.6


def test_every_pair_is_as_likely_as_any_other():
    rows = labelled_texts([5, 4, 2])
    uses = collections.Counter()
    for seed in range(400):
        dataset = data.pairs_from_labels(rows, "text", "label", max_pairs=10, strategy="undersampling", seed=seed)
        uses.update(frozenset(texts) for texts in listed(dataset)[0])
    for kind, pairs in itertools.groupby(sorted(all_pairs(rows).items(), key=lambda item: item[1]), lambda i: i[1]):
        counts = np.array([uses[pair] for pair, _ in pairs])
        expected = 400 * 5 / len(counts)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected), kind


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, per_anchor=st.integers(1, 6), seed=st.integers(0, 2**31), most=st.none() | st.integers(1, 40))
def test_triplets_have_a_positive_of_the_class_and_a_negative_of_another(sizes, per_anchor, seed, most):
    rows = labelled_texts(sizes, seed)
    dataset = data.triplets_from_labels(rows, "text", "label", per_anchor=per_anchor, max_triplets=most, seed=seed)
    label, count = dict(zip(rows["text"], rows["label"], strict=True)), len(rows["text"])
    triplets, y = listed(dataset)
    assert (y == 0).all() and y.dtype == np.float32 and len(set(triplets)) == len(triplets)
    for anchor, positive, negative in triplets:
        assert anchor != positive and label[anchor] == label[positive] != label[negative]
    possible = {text: (sizes[k] - 1) * (count - sizes[k]) for text, k in label.items()}
    wanted = {text: min(per_anchor, number) for text, number in possible.items()}
    uses = collections.Counter(anchor for anchor, _, _ in triplets)
    if most is None or most >= sum(wanted.values()):
        assert uses == collections.Counter(wanted)
    else:
        assert len(triplets) == most
        assert all(uses[text] >= min(max(uses.values()) - 1, wanted[text]) for text in wanted)


def test_all_triplets_come_if_asked_for():
    rows = labelled_texts([3, 2, 1])
    texts = list(zip(rows["text"], rows["label"], strict=True))
    oracle = {(a, p, n) for (a, i), (p, j), (n, k) in itertools.permutations(texts, 3) if i == j != k}
    assert set(listed(data.triplets_from_labels(rows, "text", "label", per_anchor=100, seed=0))[0]) == oracle


def test_a_seed_fixes_what_is_made():
    rows = labelled_texts([6, 5, 4])
    for make in (data.pairs_from_labels, data.triplets_from_labels):
        orders = [tuple(listed(make(rows, "text", "label", seed=seed))[0]) for seed in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]
        keras.utils.set_random_seed(4)
        first = listed(make(rows, "text", "label"))[0]
        keras.utils.set_random_seed(4)
        assert listed(make(rows, "text", "label"))[0] == first != listed(make(rows, "text", "label"))[0]


def test_the_same_text_counts_once_and_two_labels_are_an_error():
    rows = {"text": ["a", "a", "b", "c", "c"], "label": ["x", "x", "x", "y", "y"]}
    pairs = data.pairs_from_labels(rows, "text", "label", strategy="unique", seed=0)
    texts, y = listed(pairs)
    made = {frozenset(pair): one for pair, one in zip(texts, y, strict=True)}
    assert len(pairs) == 3 and made == {frozenset("ab"): 1.0, frozenset("ac"): 0.0, frozenset("bc"): 0.0}
    rows = {"text": ["a", "b", "c", "a"], "label": ["x", "x", "y", "y"]}
    message = r"row 3 .*column 'text': a text with two labels: 'a' is 'y' here, 'x' in .*row 0"
    with pytest.raises(ValueError, match=message):
        data.pairs_from_labels(rows, "text", "label")
    with pytest.warns(UserWarning, match="skipped 1 broken rows"):
        dataset = data.pairs_from_labels(rows, "text", "label", strategy="unique", on_error="skip")
    assert dataset.skipped == {"a text with two labels": 1} and len(dataset) == 3


def test_large_data_cost_what_their_cap_costs():
    count = 200_000  # 10^10 pairs of each kind
    rows = {"text": [str(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    start = time.monotonic()
    texts, y = listed(data.pairs_from_labels(rows, "text", "label", max_pairs=1000, seed=0))
    assert y.sum() == 500 and all((int(a) + int(b)) % 2 != same for (a, b), same in zip(texts, y, strict=True))
    texts, _ = listed(data.triplets_from_labels(rows, "text", "label", max_triplets=1000, seed=0))
    assert all(int(a) % 2 == int(p) % 2 != int(n) % 2 for a, p, n in texts)
    assert time.monotonic() - start < 20
    with pytest.raises(ValueError, match=r"`max_pairs`.*more than 10000000 rows.*20000000000"):
        data.pairs_from_labels(rows, "text", "label")
    with pytest.raises(ValueError, match=r"`max_triplets`.*more than 10000000 rows"):
        data.triplets_from_labels(rows, "text", "label", per_anchor=100)


def test_what_cannot_be_made_is_an_error():
    good = {"text": list("abc"), "label": list("xxy")}
    for make in (data.pairs_from_labels, data.triplets_from_labels):
        for rows, options, message in [
            ({"text": list("ab"), "label": list("xx")}, {}, "`rows`.*at least two classes.*label 'x'"),
            ({"text": list("ab"), "label": list("xy")}, {}, "`rows`.*two different texts of one class.*2 classes"),
            ({"text": list("aab"), "label": list("xxy")}, {}, "`rows`.*two different texts of one class"),
            ({"text": ["a", "b"], "label": [["x"], ["y", "x"]]}, {}, "`label`.*one label a row"),
            ({"text": ["a", None], "label": ["x", "y"]}, {}, "row 1 .*column 'text': no text"),
            ({"text": ["a", "b"], "label": ["x", None]}, {}, "row 1 .*column 'label': no label"),
            (good, {"seed": -1}, "`seed`"),
            (good, {"on_error": "drop"}, "`on_error`"),
        ]:
            with pytest.raises(ValueError, match=message):
                make(rows, "text", "label", **options)
        with pytest.raises(ValueError, match=r"`text`.*name of the text column"):
            make(good, ("text", "label"), "label")
    for options, message in [({"strategy": "all"}, "`strategy`.*'unique'"), ({"max_pairs": 1}, "`max_pairs`")]:
        with pytest.raises(ValueError, match=message):
            data.pairs_from_labels(good, "text", "label", **options)
    for options, message in [({"per_anchor": 0}, "`per_anchor`"), ({"max_triplets": 0}, "`max_triplets`")]:
        with pytest.raises(ValueError, match=message):
            data.triplets_from_labels(good, "text", "label", **options)
