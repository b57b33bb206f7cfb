"""Batches: the rows of an epoch, their order and their padding."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data, preprocessing


class Tokenizer:
    """A fake tokenizer: one token per word, whose id is the word's number."""

    pad_token_id = 0

    def __call__(self, texts):
        return tf.ragged.map_flat_values(lambda words: tf.strings.to_number(words, tf.int32), tf.strings.split(texts))


class Preprocessor:
    """A fake preprocessor: returns 1 and the ids of a text, or of both texts of a pair."""

    def __init__(self, sequence_length=40, padding_side="right"):
        self.tokenizer = Tokenizer()
        self.sequence_length = sequence_length
        self.padding_side = padding_side

    def lengths(self, ids):
        count = sum(part.row_lengths() for part in ids) if isinstance(ids, tuple) else ids.row_lengths()
        return tf.minimum(tf.cast(count, tf.int32) + 1, self.sequence_length)

    def pack(self, ids):
        rows = (tf.concat(ids, axis=1) if isinstance(ids, tuple) else ids)[:, : self.sequence_length - 1]
        dense = tf.pad(rows.to_tensor(), [[0, 0], [1, 0]], constant_values=1)
        if self.padding_side == "left":
            dense = tf.reverse(tf.reverse_sequence(dense, rows.row_lengths() + 1, seq_axis=1), [1])
        return {"token_ids": dense, "padding_mask": tf.cast(dense > 0, tf.int32)}


def text(number, rng):
    """Returns a text whose first token is its number plus 10, followed by up to 11 other tokens."""
    return " ".join(map(str, [number + 10, *rng.integers(10, 1000, rng.integers(0, 12))]))


def rows_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return data.regression(
        {"a": [text(i, rng) for i in range(count)], "b": [text(i, rng) for i in range(count)], "y": range(count)},
        "a",
        "y",
    )


def epoch_of(batches):
    """Returns one epoch as a list of (x, y), both numpy arrays."""
    return list(batches.as_numpy_iterator())


def numbers(epoch):
    """Returns the row numbers of an epoch; checks each against its text."""
    for x, y in epoch:
        np.testing.assert_array_equal(x["token_ids"][:, 1] - 10, y)
    return [int(number) for _, y in epoch for number in y]


def padding_ratio(dataset, preprocessor, **options):
    """Returns the number of tokens with padding per real token in an epoch."""
    masks = [x["padding_mask"] for x, _ in epoch_of(data.batches(dataset, preprocessor, seed=0, **options))]
    return sum(mask.size for mask in masks) / sum(mask.sum() for mask in masks)


# What an epoch contains.


@settings(max_examples=5, deadline=None)  # each example traces its own pipeline, which takes a second
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    window=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    cache=st.booleans(),
    options=st.fixed_dictionaries({"drop_remainder": st.booleans(), "shuffle": st.booleans(), "bucket": st.booleans()}),
)
def test_an_epoch_contains_every_row_exactly_once(count, batch_size, window, seed, cache, options):
    if options["drop_remainder"] and count < batch_size:
        return
    batches = data.batches(rows_of(count), Preprocessor(), batch_size, window=window, seed=seed, cache=cache, **options)
    for _ in range(2):
        epoch = epoch_of(batches)
        seen = numbers(epoch)
        assert len(seen) == len(set(seen)) == (count - count % batch_size if options["drop_remainder"] else count)
        assert len(epoch) == len(batches) and all(len(y) == batch_size for _, y in epoch[:-1])


@pytest.mark.parametrize("cache", [True, False])
def test_without_shuffling_rows_keep_their_order(cache):
    batches = data.batches(rows_of(50), Preprocessor(), 8, shuffle=False, cache=cache, window=2)
    assert numbers(epoch_of(batches)) == list(range(50)) == numbers(epoch_of(batches))


def test_sorting_without_shuffling_puts_the_longest_first():
    epoch = epoch_of(data.batches(rows_of(50), Preprocessor(), 8, shuffle=False, bucket=True))
    lengths = [length for x, _ in epoch for length in x["padding_mask"].sum(axis=1)]
    assert lengths == sorted(lengths, reverse=True) and sorted(numbers(epoch)) == list(range(50))


@pytest.mark.parametrize("cache", [True, False])
def test_batches_say_whether_their_rows_are_shuffled(cache):
    for shuffle in (True, False):
        made = data.batches(rows_of(10), Preprocessor(), 4, shuffle=shuffle, cache=cache)
        assert made.is_shuffled is shuffle
    assert data.mix([made, made]).is_shuffled


def test_the_rows_dropped_differ_from_epoch_to_epoch():
    batches = data.batches(rows_of(20), Preprocessor(), 8, seed=0, drop_remainder=True)
    left_out = [frozenset(range(20)) - set(numbers(epoch_of(batches))) for _ in range(4)]
    assert all(len(rows) == 4 for rows in left_out) and len(set(left_out)) > 1


# Order.


@pytest.mark.parametrize("cache", [True, False])
def test_a_seed_fixes_every_epoch_and_no_two_epochs_are_alike(cache):
    make = lambda seed: data.batches(rows_of(64), Preprocessor(), 4, seed=seed, window=3, cache=cache)  # noqa: E731
    first, again, other = make(5), make(5), make(6)
    orders = [[numbers(epoch_of(batches)) for _ in range(3)] for batches in (first, again, other)]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders[0] + orders[2]}) == 6


@pytest.mark.parametrize("cache", [True, False])
def test_the_global_seed_does_not_change_the_order(cache):
    orders = []
    for global_seed in (0, 1):
        tf.random.set_seed(global_seed)
        orders.append(numbers(epoch_of(data.batches(rows_of(30), Preprocessor(), 4, seed=3, window=3, cache=cache))))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("cache", [True, False])
def test_an_epoch_can_be_set_and_taken_up_in_its_middle(cache):
    batches = data.batches(rows_of(30), Preprocessor(), 4, seed=1, window=3, cache=cache)
    orders = [numbers(epoch_of(batches)) for _ in range(3)]
    assert batches.epoch == 3
    batches.epoch = 1
    assert numbers(epoch_of(batches)) == orders[1] and batches.epoch == 2
    rest = batches.rest(1, 5)
    assert len(rest) == 3 and numbers(epoch_of(rest)) == orders[1][20:] == numbers(epoch_of(rest))
    assert numbers(epoch_of(batches)) == orders[2]
    with pytest.raises(ValueError, match=r"`batch`.*< 8"):
        batches.rest(0, 8)
    with pytest.raises(ValueError, match="`epoch`"):
        batches.epoch = -1


def test_a_seed_is_drawn_from_the_global_generator_if_none_is_given():
    seeds = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        seeds.append([data.batches(rows_of(8), Preprocessor(), 4).seed for _ in range(2)])
    assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]


def test_an_iterator_that_is_not_used_costs_no_epoch():
    # Keras creates one at the end of each epoch and does not use it.
    batches = data.batches(rows_of(8), Preprocessor(), 4, seed=0)
    iter(batches)
    assert batches.epoch == 0


def test_batches_outlive_the_object_that_made_them():
    iterator = iter(data.batches(rows_of(8), Preprocessor(), 4, seed=0))
    mapped = data.batches(rows_of(8), Preprocessor(), 4, seed=0).map(lambda x, y: y)
    gc.collect()
    assert len(list(iterator)) == 2
    orders = [np.concatenate(epoch_of(mapped)).tolist() for _ in range(2)]
    assert orders[0] != orders[1] and sorted(orders[0]) == list(range(8))


def test_two_iterators_at_once_do_not_disturb_each_other():
    batches = data.batches(rows_of(16), Preprocessor(), 4, seed=0)
    expected = [numbers(epoch_of(batches.rest(e))) for e in (0, 1)]
    both = list(zip(iter(batches), iter(batches), strict=True))
    for e in (0, 1):
        assert [int(n) for pair in both for n in pair[e][1].numpy()] == expected[e]


def test_a_random_map_is_run_anew_each_epoch():
    draw = np.random.default_rng(0).random
    source = rows_of(40).map(lambda x, y: (x, tf.ensure_shape(tf.numpy_function(draw, [], tf.float64), ())))
    batches = data.batches(source, Preprocessor(), 40, shuffle=False)
    (_, first), (_, second) = (epoch_of(batches)[0] for _ in range(2))
    assert (first != second).all()
    kept = data.batches(source, Preprocessor(), 40, shuffle=False, cache=True)
    (_, first), (_, second) = (epoch_of(kept)[0] for _ in range(2))
    assert (first == second).all()


def test_rows_are_tokenised_once_if_they_are_in_memory():
    calls = []

    class Counting(Tokenizer):
        def __call__(self, texts):
            return super().__call__(tf.numpy_function(self._count, [texts], tf.string))

        def _count(self, texts):
            calls.append(len(texts))
            return texts

    preprocessor = Preprocessor()
    preprocessor.tokenizer = Counting()
    batches = data.batches(rows_of(20), preprocessor, 4)
    for _ in range(3):
        epoch_of(batches)
    assert calls == [20]
    # The same rows are not tokenized again for another batch size, sequence length and order.
    shorter = Preprocessor(sequence_length=8)
    shorter.tokenizer = preprocessor.tokenizer
    again = data.batches(batches, shorter, 6, seed=3)
    fresh = data.batches(rows_of(20), shorter, 6, seed=3)
    calls.clear()
    for (x, y), (x_fresh, y_fresh) in zip(epoch_of(again), epoch_of(fresh), strict=True):
        assert (x["token_ids"] == x_fresh["token_ids"]).all()
        assert (y == y_fresh).all()
    assert not calls
    two = data.pairs(pairs_of(20), ("a", "b"))
    mined = data.batches(data.batches(two, preprocessor, 4), preprocessor, 4, columns="separate", unique_texts=True)
    assert epoch_of(mined)[0][0]["token_ids"].shape[:2] == (4, 2)


# Padding and shapes.


@pytest.mark.parametrize(
    ("cache", "side", "multiple"), [(1, "right", 1), (1, "left", 8), (0, "left", 1), (0, "right", 4)]
)
def test_a_batch_is_padded_to_its_longest_row_and_no_further(cache, side, multiple):
    preprocessor = Preprocessor(sequence_length=11, padding_side=side)
    rows = rows_of(30)
    texts = [[int(token) for token in row.split()] for row in rows.columns[0].numpy()]
    batches = data.batches(rows, preprocessor, 4, seed=0, pad_to_multiple_of=multiple, cache=cache, window=2)
    for x, y in epoch_of(batches):
        expected = [[1, *texts[int(number)]][:11] for number in y]
        longest = min(-(-max(map(len, expected)) // multiple) * multiple, 11)
        for row, ids, mask in zip(expected, x["token_ids"], x["padding_mask"], strict=True):
            padding = [0] * (longest - len(row))
            assert ids.tolist() == (row + padding if side == "right" else padding + row)
            assert mask.tolist() == [int(token > 0) for token in ids]


def test_rows_of_like_length_come_together():
    rows = rows_of(2000)
    assert padding_ratio(rows, Preprocessor()) < 1.05 < 1.4 < padding_ratio(rows, Preprocessor(), bucket=False)


def test_rows_of_separate_columns_come_in_random_order_unless_asked_for():
    rows = rows_of(2000)
    separate = padding_ratio(rows, Preprocessor(), columns="separate")
    assert separate == padding_ratio(rows, Preprocessor(), columns="separate", bucket=False) > 1.4
    assert padding_ratio(rows, Preprocessor(), columns="separate", bucket=True) < 1.05


def test_batches_of_a_window_are_not_sorted_by_length():
    epoch = epoch_of(data.batches(rows_of(800), Preprocessor(), 16, seed=0))
    lengths = np.array([x["token_ids"].shape[1] for x, _ in epoch])
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.4


@pytest.mark.parametrize("cache", [True, False])
def test_shapes_are_open_and_nothing_is_traced_anew(cache):
    batches = data.batches(rows_of(40), Preprocessor(), 8, cache=cache)
    open_spec = tf.TensorSpec((None, None), tf.int32)
    spec = ({"token_ids": open_spec, "padding_mask": open_spec}, tf.TensorSpec((None,), tf.float32))
    assert batches.element_spec == spec
    traces = []

    @tf.function
    def step(iterator):
        traces.append(1)
        return next(iterator)

    for _ in range(2):
        iterator = iter(batches)
        for _ in range(len(batches)):
            step(iterator)
    assert len(traces) == 1


# Columns.


def pairs_of(count):
    rng = np.random.default_rng(0)
    columns = {name: [text(i, rng) for i in range(count)] for name in "abc"}
    return {**columns, "y": range(count)}


@pytest.mark.parametrize("cache", [True, False])
def test_joint_columns_are_one_sequence(cache):
    rows = pairs_of(20)
    batches = data.batches(data.pairs(rows, ("a", "b"), "y"), Preprocessor(), 6, cache=cache)
    for x, y in epoch_of(batches):
        for ids, number in zip(x["token_ids"], y.astype(int), strict=True):
            first, second = (list(map(int, rows[name][number].split())) for name in "ab")
            assert [token for token in ids.tolist() if token] == [1, *first, *second]


@pytest.mark.parametrize("cache", [True, False])
def test_separate_columns_are_sequences_of_one_length(cache):
    rows = pairs_of(20)
    batches = data.batches(data.triplets(rows, ("a", "b", "c")), Preprocessor(), 6, columns="separate", cache=cache)
    assert batches.element_spec[0]["token_ids"].shape.as_list() == [None, 3, None]
    seen = []
    for x, _ in epoch_of(batches):
        assert x["token_ids"].shape == x["padding_mask"].shape
        assert x["padding_mask"].sum(axis=2).max() == x["token_ids"].shape[2]
        for row in x["token_ids"]:
            number = row[0, 1] - 10
            seen.append(int(number))
            for name, ids in zip("abc", row, strict=True):
                expected = [1, *map(int, rows[name][number].split())]
                assert [token for token in ids.tolist() if token] == expected
    assert sorted(seen) == list(range(20))


def test_a_single_text_can_be_a_column_of_its_own():
    batches = data.batches(rows_of(5), Preprocessor(), 5, columns="separate", shuffle=False)
    [(x, _)] = epoch_of(batches)
    [(flat, _)] = epoch_of(data.batches(rows_of(5), Preprocessor(), 5, shuffle=False))
    np.testing.assert_array_equal(x["token_ids"][:, 0], flat["token_ids"])


# Input formats.


def test_data_come_as_datasets_or_arrays():
    texts, y = ["11 5", "12", "13 6 7"], [1, 2, 3]
    plain = tf.data.Dataset.from_tensor_slices((texts, y))
    for form in [(texts, y), (np.array(texts), np.array(y)), (tf.constant(texts), tf.constant(y)), plain]:
        [(x, found)] = epoch_of(data.batches(form, Preprocessor(), 4, shuffle=False))
        assert x["token_ids"][:, 1].tolist() == [11, 12, 13] and found.tolist() == y
    for form in [texts, (texts,), tf.data.Dataset.from_tensor_slices(texts)]:
        [x] = epoch_of(data.batches(form, Preprocessor(), 4, shuffle=False))
        assert x["token_ids"][:, 1].tolist() == [11, 12, 13]
    [(x, names, weights)] = epoch_of(
        data.batches((texts, ["a", "b", "c"], [1.0, 0.5, 2.0]), Preprocessor(), 4, shuffle=False)
    )
    assert names.tolist() == [b"a", b"b", b"c"] and weights.tolist() == [1.0, 0.5, 2.0]
    [(x, _)] = epoch_of(data.batches(((texts, texts), y), Preprocessor(), 4, shuffle=False))
    assert x["token_ids"][1].tolist()[:3] == [1, 12, 12]


def test_several_targets_and_multi_hot_targets_come_along():
    y = {"a": np.arange(6), "b": np.eye(6, dtype="float32")}
    source = tf.data.Dataset.from_tensor_slices(([f"{i + 10}" for i in range(6)], y))
    for cache in (True, False):
        for x, found in epoch_of(data.batches(source, Preprocessor(), 4, seed=0, cache=cache)):
            np.testing.assert_array_equal(found["a"], x["token_ids"][:, 1] - 10)
            np.testing.assert_array_equal(found["b"].argmax(axis=1), found["a"])


def test_a_dataset_of_unknown_or_endless_length_streams():
    source = rows_of(10)
    unknown = data.batches(source.filter(lambda x, y: y < 7), Preprocessor(), 4, seed=0, window=1)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert sorted(numbers(epoch_of(unknown))) == list(range(7))
    endless = data.batches(source.repeat(), Preprocessor(), 4, seed=0, window=1)
    assert len(epoch_of(endless.take(9))) == 9
    with pytest.raises(ValueError, match=r"`cache`.*infinite dataset"):
        data.batches(source.repeat(), Preprocessor(), 4, cache=True)


def test_a_stream_taken_up_in_its_middle_gives_the_rest():
    source = rows_of(31).map(lambda x, y: (x, y))
    for options in ({}, {"drop_remainder": True}, {"shuffle": False}):
        stream = data.batches(source, Preprocessor(), 4, seed=2, window=3, bucket=True, cache=False, **options)
        whole = list(stream.rest(1).as_numpy_iterator())
        assert len(whole) == 8 - options.get("drop_remainder", 0)
        for left_out in range(len(whole)):
            found = list(stream.rest(1, left_out).as_numpy_iterator())
            assert [y.tolist() for _, y in found] == [y.tolist() for _, y in whole[left_out:]]
            for (x, _), (other, _) in zip(found, whole[left_out:], strict=True):
                np.testing.assert_array_equal(x["token_ids"], other["token_ids"])


def test_batches_that_are_held_give_one_epoch_until_its_number_is_set():
    held = data.batches(rows_of(12), Preprocessor(), 4, seed=0)
    epochs = [numbers(epoch_of(held.rest(epoch))) for epoch in range(3)]
    with held.held():
        assert held.is_held
        assert [numbers(epoch_of(held)) for _ in range(2)] == [epochs[0]] * 2
        held.epoch += 1
        assert numbers(epoch_of(held)) == epochs[1]
    assert not held.is_held and held.epoch == 1
    assert [numbers(epoch_of(held)) for _ in range(2)] == epochs[1:]


def test_parts_of_batches_are_the_batches_one_after_another():
    batches = data.batches(rows_of(14), Preprocessor(), 6, seed=0, drop_remainder=True)
    parts = [list(data.part_of_batches(batches.rest(0), 3, i).as_numpy_iterator()) for i in range(3)]
    for number, (x, y) in enumerate(batches.rest(0).as_numpy_iterator()):
        np.testing.assert_array_equal(np.concatenate([part[number][1] for part in parts]), y)
        ids = [part[number][0]["token_ids"] for part in parts]
        np.testing.assert_array_equal(np.concatenate(ids), x["token_ids"])
        assert {len(each) for each in ids} == {2}
    uneven = data.part_of_batches(data.batches(rows_of(7), Preprocessor(), 6, seed=0), 3, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"3 processes.*drop_remainder"):
        list(uneven)


@pytest.mark.parametrize("cache", [True, False])
def test_whether_batches_can_be_shared_evenly_is_known_before_they_are_made(cache):
    def shared(rows, batch_size, number, **options):
        source = rows_of(rows).map(lambda x, y: (x, y))
        return data.batches(source, Preprocessor(), batch_size, cache=cache, **options).has_multiples_of(number)

    assert shared(12, 4, 2) and shared(14, 4, 2) and shared(13, 4, 4, drop_remainder=True)
    assert not shared(13, 4, 2) and not shared(12, 4, 3) and not shared(14, 4, 4)
    unknown = rows_of(12).filter(lambda x, y: True)
    assert data.batches(unknown, Preprocessor(), 4, cache=cache).has_multiples_of(2) is cache
    assert data.batches(unknown, Preprocessor(), 4, cache=cache, drop_remainder=True).has_multiples_of(2)
    mixed = data.mix([data.batches(rows_of(rows), Preprocessor(), 4) for rows in (8, 6)])
    assert mixed.has_multiples_of(2) and not mixed.has_multiples_of(4)


def test_arguments_and_data_are_checked():
    rows, pre = rows_of(4), Preprocessor()
    texts = ["10", "11"]
    for arguments, options, message in [
        ((rows, pre, 0), {}, "`batch_size`"),
        ((rows, pre), {"window": 0}, "`window`"),
        ((rows, pre), {"columns": "both"}, "`columns`.*'joint', 'separate'"),
        ((rows, pre), {"seed": -1}, "`seed`"),
        ((rows, pre), {"pad_to_multiple_of": 16}, "`pad_to_multiple_of`.*1 to 8"),
        ((rows, pre, 8), {"drop_remainder": True}, "`batch_size`.*at most 4"),
        ((rows.map(lambda x, y: (x, y)), pre, 8), {"drop_remainder": True}, "at least one batch"),
        ((data.triplets(pairs_of(4), ("a", "b", "c")), pre), {}, '`dataset`.*3 columns.*columns="separate"'),
        ((rows.batch(2), pre), {}, r"`dataset`.*unbatch\(\)"),
        ((rows.map(lambda x, y: (y, x)), pre), {}, "`dataset`.*string scalar"),
        ((rows.map(lambda x, y: {"body": x}), pre), {}, "`dataset`.*'text'.*body"),
        ((rows.take(0), pre), {}, "`dataset`.*at least one batch"),
        ((rows.filter(lambda x, y: False), pre), {"cache": True}, "`dataset`.*at least one row"),
        ((([], []), pre), {}, "`dataset`.*at least one row"),
        (((texts, [1]), pre), {}, "`dataset`.*one length"),
        (((texts, 1), pre), {}, "`dataset`.*one length"),
        (((["10", None], [1, 2]), pre), {}, "`dataset`.*a text in every row.*row 1"),
        ((("10", [1]), pre), {}, "`dataset`.*into a list"),
        (((), pre), {}, "`dataset`"),
        ((5, pre), {}, "`dataset`"),
        ((data.batches(rows, pre), pre), {"cache": False}, "`dataset`.*ids are kept"),
        ((data.batches(rows, pre, cache=False), pre), {}, "`dataset`.*ids are kept"),
        ((data.batches(rows, pre), Preprocessor()), {}, "`inputs`.*tokenizer of the batches"),
        ((np.array([["10"]]), pre), {}, "`dataset`"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.batches(*arguments, **options)


# With Keras.


def test_fit_takes_batches_without_a_warning_and_begins_each_epoch_once():
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in ("token_ids", "padding_mask")}
    vectors = keras.layers.Embedding(1100, 4)(inputs["token_ids"])
    mask = keras.ops.cast(inputs["padding_mask"], "float32")[..., None]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.sum(vectors * mask, axis=1)))
    model.compile("sgd", "mse")
    train = data.batches(rows_of(30), Preprocessor(), 8, seed=0)
    validation = data.batches(rows_of(10), Preprocessor(), 8, shuffle=False, bucket=True)
    history = model.fit(train, validation_data=validation, epochs=3, verbose=0, shuffle=False)
    assert train.epoch == 3 and len(history.history["val_loss"]) == 3
    assert model.optimizer.iterations == 12
    model.fit(train, class_weight=dict.fromkeys(range(30), 1.0), verbose=0, shuffle=False)
    assert train.epoch == 4


# With the real preprocessor and real texts.


@pytest.fixture(scope="module")
def preprocessor(minilm_folder):
    tokenizer = preprocessing.Tokenizer.from_folder(minilm_folder)
    return preprocessing.TextPreprocessor(tokenizer, sequence_length=32)


@pytest.mark.parametrize("cache", [True, False])
def test_batches_are_what_the_preprocessor_makes_of_the_same_rows(preprocessor, real_data, cache):
    rows = data.read(real_data / "stsb" / "dev.tsv")[:200]
    first, second = np.array(rows["sentence1"]), np.array(rows["sentence2"])
    order = {"y": range(200)}
    pairs = data.pairs({"a": first, "b": second, **order}, ("a", "b"), "y")
    for x, y in epoch_of(data.batches(pairs, preprocessor, 16, seed=0, cache=cache)):
        same_arrays(x, preprocessor((first[y.astype(int)].tolist(), second[y.astype(int)].tolist())))
    for x, y in epoch_of(data.batches(pairs, preprocessor, 16, seed=0, cache=cache, columns="separate")):
        both = np.stack([first[y.astype(int)], second[y.astype(int)]], axis=1).ravel().tolist()
        expected = {key: np.reshape(value, x[key].shape) for key, value in preprocessor(both).items()}
        same_arrays(x, expected)


def same_arrays(x, expected):
    assert set(x) == set(expected) == {"token_ids", "padding_mask", "segment_ids"}
    for key, value in x.items():
        np.testing.assert_array_equal(value, expected[key])


def test_real_questions_need_little_padding(preprocessor, real_data):
    rows = data.read(real_data / "banking77" / "train.tsv")
    dataset = data.labelled(rows, "text", "label", labels=data.labels(rows, "label"))
    assert padding_ratio(dataset, preprocessor) <= 1.35 < 2 < padding_ratio(dataset, preprocessor, bucket=False)
