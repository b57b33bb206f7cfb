"""Plans of an epoch: rows by length, class or text, datasets in turn; and batches made from such plans."""

import collections
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data

# A plan is a function of numbers. Tests through `batches` take a second per pipeline, which allows only few examples.
from tfxfer.data import _by_documents, _classes, _mix, _order, _sources, _unique


def batches_of(plan):
    """Returns the rows of each batch of a plan (order, ends)."""
    order, ends = plan
    return [rows.tolist() for rows in np.split(order, ends[:-1])]


def tokenized(columns, y=None):
    """`Tokenized` rows; `columns` holds a list of lists of ids for each column."""
    ids = tuple(tf.ragged.constant(column, tf.int32, ragged_rank=1) for column in columns)
    return _sources.Tokenized(ids, () if y is None else (tf.constant(y),), np.ones(len(columns[0]), int))


# Rows by length.


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=200),
    batch_size=st.integers(1, 40),
    window=st.integers(1, 8),
    seed=st.none() | st.integers(0, 2**31),
    bucket=st.booleans(),
    drop_remainder=st.booleans(),
)
def test_the_plan_of_an_epoch_holds_every_row_once(lengths, batch_size, window, seed, bucket, drop_remainder):
    rng = None if seed is None else np.random.default_rng(seed)
    order, ends = _order.plan(np.array(lengths), batch_size, window, rng, bucket=bucket, drop_remainder=drop_remainder)
    count = len(lengths)
    kept = count - count % batch_size if drop_remainder else count
    assert len(order) == kept == len(set(order.tolist())) and set(order.tolist()) <= set(range(count))
    sizes = np.diff(ends, prepend=0).tolist()
    small = [count % batch_size] if count % batch_size and not drop_remainder else []
    assert sizes == [batch_size] * (count // batch_size) + small


def test_the_rows_of_the_small_batch_are_of_any_length():
    lengths = np.arange(100)
    means = []
    for seed in range(200):
        order, _ = _order.plan(lengths, 8, 50, np.random.default_rng(seed), bucket=True, drop_remainder=False)
        means.append(lengths[order[96:]].mean())
    assert 40 < np.mean(means) < 60  # about 98 if it always held the longest rows


# Datasets in turn.


def by_turns(steps, stop):
    """The oracle: a loop over the data sets."""
    order, left = [], list(steps)
    for k in range(10**6):
        turn = k % len(steps)
        if stop == "first" and turn == 0 and min(left) == 0:
            return order
        if stop == "last" and turn == 0 and k // len(steps) == max(steps):
            return order
        if stop == "all" and not any(left):
            return order
        if left[turn] or stop == "last":
            order.append(turn)
            left[turn] -= 1
    return None


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.integers(1, 9), min_size=2, max_size=5), stop=st.sampled_from(["all", "first", "last"]))
def test_turns_are_those_of_a_loop(steps, stop):
    assert _mix.turns(steps, stop).tolist() == by_turns(steps, stop)


# P classes x K examples.


def class_plan(labels, batch_size, examples, seed=0):
    order = _classes.ByClass(batch_size=batch_size, examples_per_class=examples, seed=seed)
    return order.prepare(tokenized([[[1]] * len(labels)], labels))


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=12),
    examples=st.integers(2, 6),
    classes=st.integers(2, 6),
    seed=st.integers(0, 2**31),
)
def test_every_batch_has_p_classes_and_k_examples_and_every_row_comes(sizes, examples, classes, seed):
    classes = min(classes, len(sizes))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    steps, plan = class_plan(labels, classes * examples, examples, seed)
    groups = [math.ceil(size / examples) for size in sizes]
    assert steps == max(math.ceil(sum(groups) / classes), max(groups))
    for epoch in range(2):
        batches = batches_of(plan(epoch))
        assert len(batches) == steps
        for rows in batches:
            by_label = np.reshape(labels[rows], (classes, examples))
            assert (by_label == by_label[:, :1]).all() and len(set(by_label[:, 0])) == classes
            for group in np.reshape(rows, (classes, examples)):
                uses = collections.Counter(group.tolist())
                size = sizes[labels[group[0]] // 3]
                assert len(uses) == min(size, examples) and max(uses.values()) - min(uses.values()) <= 1
        uses = np.bincount(np.concatenate(batches), minlength=len(labels))
        assert uses.min() >= 1
        for label in set(labels):
            assert np.ptp(uses[labels == label]) <= 1


def test_rows_of_equal_classes_are_used_once_each_where_that_is_possible():
    labels = np.repeat(np.arange(10), 12)
    _, plan = class_plan(labels, 20, 4)
    uses = np.bincount(plan(0)[0])
    assert len(plan(0)[1]) == 6 and (uses == 1).all()


def test_a_large_class_stands_in_every_batch_and_the_others_share_what_is_left():
    labels = np.repeat([0, 1, 2, 3, 4], [100, 20, 20, 20, 20])
    steps, plan = class_plan(labels, 8, 4)
    uses = np.bincount(plan(0)[0])
    assert steps == 25 and (uses[:100] == 1).all()
    assert (uses[100:] >= 1).all() and np.ptp(uses[100:]) <= 1  # 25 groups of 4 over 80 rows


def test_which_classes_meet_changes_from_batch_to_batch():
    members = np.split(np.arange(20 * 8), 20)
    order = _classes.by_class(members, 4, 2, np.random.default_rng(0))
    pairs = {tuple(sorted((a // 8, b // 8))) for batch in order for a in batch for b in batch if a // 8 != b // 8}
    assert len(pairs) > 75  # of 190; 20 batches of 6 random pairs hold 89 different pairs on average


def test_a_seed_fixes_the_batches_of_classes_and_epochs_differ():
    labels = np.repeat(np.arange(6), 7)
    plans = [class_plan(labels, 8, 2, seed)[1] for seed in (1, 1, 2)]
    orders = [tuple(plan(epoch)[0].tolist()) for plan in plans for epoch in (0, 1)]
    assert orders[:2] == orders[2:4] and len(set(orders)) == 4


# No text twice in a batch.


def text_plan(columns, batch_size, seed=0, drop_remainder=False):
    """Plans rows that are given by the numbers of their texts, one list per column."""
    ids = [[list(range(number + 1)) for number in column] for column in columns]
    return _unique.ByText(batch_size=batch_size, seed=seed, drop_remainder=drop_remainder).prepare(tokenized(ids))


def check_unique(batches, rows):
    for batch in batches:
        texts = [text for row in batch for text in set(rows[row])]
        assert len(texts) == len(set(texts))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30), st.integers(0, 60)), min_size=1, max_size=80),
    columns=st.integers(1, 3),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_no_text_comes_twice_in_a_batch_and_every_row_once_an_epoch(rows, columns, batch_size, seed):
    rows = [row[-columns:] for row in rows]
    steps, plan = text_plan(list(zip(*rows, strict=True)), batch_size, seed)
    most = max(collections.Counter(text for row in rows for text in set(row)).values())
    assert max(math.ceil(len(rows) / batch_size), most) <= steps <= len(rows)
    for epoch in range(3):
        batches = batches_of(plan(epoch))
        assert len(batches) == steps and all(0 < len(batch) <= batch_size for batch in batches)
        assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
        check_unique(batches, rows)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 99)), min_size=1, max_size=60),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_with_a_remainder_to_drop_all_batches_are_full(rows, batch_size, seed):
    try:
        steps, plan = text_plan(list(zip(*rows, strict=True)), batch_size, seed, drop_remainder=True)
    except ValueError as error:
        assert "enough rows for one full batch" in str(error)
        assert batch_size > min(len({first for first, _ in rows}), len({second for _, second in rows})) / 2
        return
    for epoch in range(2):
        batches = batches_of(plan(epoch))
        seen = [row for batch in batches for row in batch]
        assert len(batches) == steps and {len(batch) for batch in batches} == {batch_size}
        assert len(seen) == len(set(seen))
        check_unique(batches, rows)


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"),
    [
        # Each premise occurs three times: as many batches as without the constraint, with the small one last.
        ([(i // 3, 100 + i) for i in range(100)], 16, [16] * 6 + [4]),
        # Nothing collides.
        ([(i, 200 + i) for i in range(20)], 8, [8, 8, 4]),
        # One text in 12 of 36 rows: 12 batches of the same size.
        ([(0 if i < 12 else i, 100 + i) for i in range(36)], 16, [3] * 12),
        # The same text everywhere: one row per batch.
        ([(0, 1)] * 5, 4, [1] * 5),
        # Any two of the rows collide, although no text is in all of them.
        ([(0, 1), (1, 2), (0, 2)] * 2, 4, [1] * 6),
    ],
)
def test_batches_are_as_few_and_as_full_as_the_texts_allow(rows, batch_size, sizes):
    _, plan = text_plan(list(zip(*rows, strict=True)), batch_size)
    for epoch in range(5):
        batches = batches_of(plan(epoch))
        assert [len(batch) for batch in batches] == sizes
        check_unique(batches, rows)


def test_tight_data_are_solved_by_moving_rows():
    # 60 rows over 12 texts, each text in 10 rows. Each of the 15 batches of 4 rows holds 8 of the 12 texts.
    rows = [(a, 6 + (a + shift) % 6) for shift in range(5) for a in range(6)] * 2
    for seed in range(20):
        steps, plan = text_plan(list(zip(*rows, strict=True)), 4, seed)
        assert steps == 15
        check_unique(batches_of(plan(0)), rows)


def test_an_epoch_whose_own_order_does_not_work_out_has_the_batches_of_the_first_plan(monkeypatch):
    rows = [(i // 3, 100 + i) for i in range(20)]
    _, plan = text_plan(list(zip(*rows, strict=True)), 6)
    monkeypatch.setattr(_unique, "place_rows", lambda *arguments: None)
    epochs = [batches_of(plan(epoch)) for epoch in range(3)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [6, 6, 6, 2]
        assert sorted(row for batch in batches for row in batch) == list(range(20))
        check_unique(batches, rows)
    assert len({tuple(map(tuple, batches)) for batches in epochs}) == 3


def test_the_rows_left_out_for_full_batches_differ_from_epoch_to_epoch():
    rows = [(i // 3, 100 + i) for i in range(100)]
    _, plan = text_plan(list(zip(*rows, strict=True)), 16, drop_remainder=True)
    left_out = [frozenset(range(100)) - set(plan(epoch)[0].tolist()) for epoch in range(4)]
    assert all(len(rows) == 4 for rows in left_out) and len(set(left_out)) == 4


def test_the_small_batch_and_the_order_of_rows_are_random():
    rows = [(i // 2, 100 + i) for i in range(33)]
    _, plan = text_plan(list(zip(*rows, strict=True)), 8)
    assert len({batches_of(plan(epoch))[-1][0] for epoch in range(20)}) > 8
    _, again = text_plan(list(zip(*rows, strict=True)), 8)
    assert plan(3)[0].tolist() == again(3)[0].tolist() != plan(4)[0].tolist()


def test_many_rows_are_placed_quickly_and_in_as_few_batches_as_can_be():
    count = 20_000
    rows = tokenized([[[i // 3] for i in range(count)], [[i, i] for i in range(count)]])
    steps, plan = _unique.ByText(batch_size=128, seed=0, drop_remainder=False).prepare(rows)
    order, ends = plan(0)
    assert steps == math.ceil(count / 128) == len(ends)
    for batch in np.split(order, ends[:-1]):
        assert len(np.unique(batch // 3)) == len(batch)


# Through `batches`.


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tiny"))


def texts_of(x, preprocessor):
    """Returns the token ids of each text of a batch without padding: for each row, a list of tuples."""
    return [
        [tuple(int(i) for i, m in zip(ids, mask, strict=True) if m) for ids, mask in zip(*row, strict=True)]
        for row in zip(x["token_ids"], x["padding_mask"], strict=True)
    ]


WORDS = tiny.WORDS.split()


@pytest.mark.parametrize("names", [True, False])
def test_batches_by_class_through_the_pipeline_and_resumed(preprocessor, names):
    rows = {"text": [f"{word} card" for word in WORDS[:20]], "label": [f"class {i % 5}" for i in range(20)]}
    train = data.labelled(rows, "text", "label", labels=data.labels(rows, "label") if names else None)
    batches = data.batches(train, preprocessor, 6, examples_per_class=2, columns="separate", seed=3)
    epochs = [list(batches.as_numpy_iterator()) for _ in range(2)]
    assert len(batches) == 4 == len(epochs[0])  # 10 groups of 2, plus 2 groups to fill the batches
    for x, y in epochs[0] + epochs[1]:
        assert x["token_ids"].shape[:2] == (6, 1)
        assert (y[::2] == y[1::2]).all() and len(set(y.tolist())) == 3
    rest = list(batches.rest(1, 2).as_numpy_iterator())
    assert [y.tolist() for _, y in rest] == [y.tolist() for _, y in epochs[1][2:]]
    assert [y.tolist() for _, y in epochs[0]] != [y.tolist() for _, y in epochs[1]]


@pytest.mark.parametrize("columns", ["separate", "joint"])
def test_unique_texts_through_the_pipeline_by_the_ids_that_the_model_sees(preprocessor, columns):
    # "Card" and "card" are the same text in an uncased vocabulary. The two texts of a row may be equal.
    first = [WORDS[i // 2].upper() if i % 2 else WORDS[i // 2] for i in range(20)]
    rows = {"a": first, "b": [first[i] if i < 4 else f"{WORDS[i]} bad" for i in range(20)], "n": range(20)}
    source = data.pairs(rows, ("a", "b"), "n")
    batches = data.batches(source, preprocessor, 5, unique_texts=True, columns=columns, seed=0)
    assert len(batches) == 4
    epochs = [list(batches.as_numpy_iterator()) for _ in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate([y for _, y in epoch])) == list(range(20))
        assert all(len({int(n) // 2 for n in y}) == 5 for _, y in epoch)
        if columns == "separate":
            for x, _ in epoch:
                texts = [text for row in texts_of(x, preprocessor) for text in set(row)]
                assert len(texts) == len(set(texts))
    rest = list(batches.rest(0, 3).as_numpy_iterator())
    assert [y.tolist() for _, y in rest] == [epochs[0][3][1].tolist()]


def test_what_cannot_be_is_said_before_training(preprocessor):
    rows = {"text": WORDS[:12], "label": list("aaabbbccdddd")}
    train = data.labelled(rows, "text", "label")
    one = data.labelled({"text": WORDS[:3], "label": list("aaa")}, "text", "label")
    several = data.labelled({"text": WORDS[:2], "label": [["a"], ["a", "b"]]}, "text", "label")
    same = data.pairs({"a": ["card"] * 4, "b": WORDS[:4]}, ("a", "b"))
    by_class = {"examples_per_class": 2}
    for dataset, size, options, message in [
        (train, 4, {"examples_per_class": 3}, r"`batch_size`.*multiple of examples_per_class=3.*batch_size=6 has 2"),
        (train, 2, by_class, r"`batch_size`.*at least twice that.*P classes x K examples: batch_size=4"),
        (train, 9, by_class, r"`batch_size`.*multiple"),
        (train, 10, by_class, r"`batch_size`.*at most 8, for 4 classes x 2 examples"),
        (train, 8, {"examples_per_class": 1}, "`examples_per_class`.*>= 2"),
        (train, 8, {**by_class, "shuffle": False}, "`shuffle`.*True with `examples_per_class`"),
        (train, 8, {**by_class, "bucket": True}, "`bucket`.*`examples_per_class`"),
        (train, 8, {**by_class, "cache": False}, "`cache`.*True with `examples_per_class`"),
        (train, 8, {**by_class, "unique_texts": True}, "`unique_texts`.*False"),
        (train.map(lambda x, y: (x, y)), 8, by_class, "`cache`.*rows in memory"),
        (one, 4, by_class, "`dataset`.*at least two classes"),
        (several, 4, by_class, r"`dataset`.*one label each.*data\.labelled"),
        (train.map(lambda x, y: x), 4, {**by_class, "cache": True}, "`dataset`.*one label each.*no y"),
        (data.regression({"t": ["a"], "y": [0.5]}, "t", "y"), 4, by_class, "`dataset`.*one label each.*float32"),
        (same, 4, {"unique_texts": True, "shuffle": False, "columns": "separate"}, "`shuffle`.*`unique_texts`"),
        (same, 4, {"unique_texts": True, "drop_remainder": True}, "`batch_size`.*one full batch.*`drop_remainder=Fal"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.batches(dataset, preprocessor, size, **options)


def test_a_siamese_model_is_fitted_on_both(preprocessor, tmp_path):
    model = tiny.models.Siamese(tiny.embedder(tmp_path))
    loss = lambda y, embeddings: keras.ops.mean(keras.ops.square(embeddings), axis=(1, 2))  # noqa: E731
    model.compile("sgd", loss, run_eagerly=True)
    rows = {"text": WORDS[:12], "again": WORDS[:12], "label": [0, 1, 2] * 4}
    options = {"columns": "separate", "seed": 0}
    mined = data.batches(data.labelled(rows, "text", "label"), preprocessor, 4, examples_per_class=2, **options)
    ranked = data.batches(data.pairs(rows, ("text", "again")), preprocessor, 4, unique_texts=True, **options)
    for batches in (mined, ranked):
        model.fit(batches, epochs=2, verbose=0, shuffle=False)
        assert batches.epoch == 2


# === Lists bounded by documents ===


def test_batches_bounded_by_documents_are_as_many_in_each_epoch_and_nearly_full():
    sizes = np.random.default_rng(0).integers(1, 20, 300)
    order = _by_documents.ByDocuments(batch_size=8, max_documents=40, seed=0, shuffle=True)
    steps, plan = order.prepare(_sources.Tokenized((), (), None, sizes))
    assert steps <= -(-sizes.sum() // 40) + 3
    seen = set()
    for epoch in range(3):
        rows, ends = plan(epoch)
        assert len(ends) == steps and sorted(rows) == list(range(300)) and ends[-1] == 300
        for batch in np.split(rows, ends[:-1]):
            assert 0 < len(batch) <= 8 and sizes[batch].sum() <= 40
        seen.add(tuple(rows))
    assert len(seen) == 3 and tuple(plan(1)[0]) in seen
    few = _by_documents.ByDocuments(batch_size=2, max_documents=40, seed=0, shuffle=True).prepare(
        _sources.Tokenized((), (), None, sizes)
    )
    assert few[0] == 150 and np.diff([0, *few[1](0)[1]]).max() == 2
    kept = _by_documents.ByDocuments(batch_size=3, max_documents=9, seed=0, shuffle=False)
    steps, plan = kept.prepare(_sources.Tokenized((), (), None, np.array([4, 5, 1, 9, 2, 2, 2, 2])))
    assert steps == 5 and plan(7)[0].tolist() == list(range(8)) and plan(7)[1].tolist() == [2, 3, 4, 7, 8]
