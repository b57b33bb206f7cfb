"""Several datasets in one training run."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import data

SIZES = (6, 3, 9)


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tiny"))


def parts(preprocessor, sizes=SIZES, **options):
    """Batches of 2 whose targets encode the dataset (hundreds) and the row."""
    rows = [{"t": tiny.WORDS.split()[:size], "y": range(100 * k, 100 * k + size)} for k, size in enumerate(sizes)]
    return [
        data.batches(data.regression(each, "t", "y"), preprocessor, 2, seed=k, **options) for k, each in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def own(preprocessor):
    """The first six epochs of each part."""
    return [[targets(part) for _ in range(6)] for part in parts(preprocessor)]


def targets(dataset):
    """The targets of each batch."""
    return [y.astype(int).tolist() for _, y in dataset.as_numpy_iterator()]


def sources(epoch):
    """The dataset of each batch; checks that no batch has rows from two datasets."""
    assert all(len({y // 100 for y in batch}) == 1 for batch in epoch)
    return [batch[0] // 100 for batch in epoch]


def test_in_proportion_every_batch_of_every_data_set_comes_once_in_random_order(preprocessor, own):
    mixed = data.mix(parts(preprocessor), seed=0)
    epochs = [targets(mixed) for _ in range(3)]
    assert len(mixed) == 10 and mixed.epoch == 3
    for e, epoch in enumerate(epochs):
        assert sorted(epoch) == sorted(batch for part in own for batch in part[e])
        assert sorted(sources(epoch)) == [0] * 3 + [1] * 2 + [2] * 5
    assert len({tuple(sources(epoch)) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("stop", "order"),
    [("all", [0, 1, 2, 0, 1, 2, 0, 2, 2, 2]), ("first", [0, 1, 2, 0, 1, 2]), ("last", [0, 1, 2] * 5)],
)
def test_by_turns_each_data_set_gives_its_own_epochs_in_order(preprocessor, own, stop, order):
    mixed = data.mix(parts(preprocessor), strategy="round_robin", stop=stop, seed=0)
    epochs = [targets(mixed) for _ in range(2)]
    assert len(mixed) == len(order) and [sources(epoch) for epoch in epochs] == [order] * 2
    # The number of its own epochs that each dataset begins in one epoch of the mixture.
    passes = [2, 3, 1] if stop == "last" else [1, 1, 1]
    for k, part in enumerate(own):
        for e, epoch in enumerate(epochs):
            expected = [batch for number in range(passes[k]) for batch in part[e * passes[k] + number]]
            found = [batch for batch in epoch if batch[0] // 100 == k]
            assert found == expected[: len(found)]


@pytest.mark.parametrize("options", [{}, {"strategy": "round_robin", "stop": "last"}])
def test_a_mixture_is_taken_up_where_it_stopped(preprocessor, options):
    mixed = data.mix(parts(preprocessor), seed=4, **options)
    epochs = [targets(mixed) for _ in range(2)]
    for batch in (1, len(mixed) - 2):
        rest = mixed.rest(1, batch)
        assert targets(rest) == epochs[1][batch:] and len(rest) == len(mixed) - batch
    mixed.epoch = 0
    assert targets(mixed) == epochs[0]
    with pytest.raises(ValueError, match="`batch`"):
        mixed.rest(0, len(mixed))


def test_a_seed_fixes_the_mixture_and_the_data_sets_keep_their_own_epoch(preprocessor):
    made = parts(preprocessor)
    orders = [targets(data.mix(made, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert [part.epoch for part in made] == [0, 0, 0]
    seeds = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        seeds.append(data.mix(made).seed)
    assert seeds[0] == seeds[1]


def test_streams_mapped_batches_and_mixtures_can_be_mixed(preprocessor):
    first, second, third = parts(preprocessor, cache=False)
    mapped = second.map(lambda x, y: (x, y + 1000))
    inner = data.mix([first, third], strategy="round_robin", stop="first", seed=0)
    mixed = data.mix([inner, mapped], seed=0)
    epoch = targets(mixed)
    assert len(mixed) == len(epoch) == 8
    assert sorted(sources(epoch)) == [0] * 3 + [2] * 3 + [11] * 2
    order = sources(epoch)
    assert [k for k in order if k != 11] == [0, 2] * 3


def test_mixtures_outlive_the_objects_that_made_them(preprocessor):
    mapped = data.mix(parts(preprocessor), seed=0).map(lambda x, y: y)
    gc.collect()
    orders = [np.concatenate(list(mapped.as_numpy_iterator())).tolist() for _ in range(2)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_fit_takes_a_mixture_without_a_warning(preprocessor, tmp_path):
    model = tiny.models.Siamese(tiny.embedder(tmp_path))
    loss = lambda y, embeddings: keras.ops.mean(keras.ops.square(embeddings), axis=(1, 2))  # noqa: E731
    model.compile("sgd", loss, run_eagerly=True)
    words = tiny.WORDS.split()
    pairs = [data.pairs({"a": words[:n], "b": words[:n]}, ("a", "b")) for n in (4, 8)]
    mixed = data.mix([data.batches(each, preprocessor, 4, columns="separate", seed=0) for each in pairs], seed=0)
    model.fit(mixed, epochs=2, verbose=0, shuffle=False)
    assert mixed.epoch == 2 and model.optimizer.iterations == 6


def test_what_cannot_be_mixed_is_an_error(preprocessor):
    made = parts(preprocessor)
    words = tiny.WORDS.split()[:4]
    pairs = data.batches(data.pairs({"a": words, "b": words}, ("a", "b")), preprocessor, 2, columns="separate")
    triplets = {"a": words, "b": words, "c": words}
    triplets = data.batches(data.triplets(triplets, ("a", "b", "c")), preprocessor, 2, columns="separate")
    for datasets, options, message in [
        (made[:1], {}, "`datasets`.*two or more"),
        (made[0], {}, "`datasets`.*two or more"),
        (made, {"strategy": "by_size"}, "`strategy`.*'proportional', 'round_robin'"),
        (made, {"strategy": "round_robin", "stop": "never"}, "`stop`.*'all', 'first', 'last'"),
        (made, {"stop": "first"}, r'`stop`.*None with strategy="proportional"'),
        (made, {"seed": -1}, "`seed`"),
        ([made[0], words], {}, r"`datasets\[1\]`.*tf\.data\.Dataset of batches"),
        ([made[0], made[1].repeat()], {}, r"`datasets\[1\]`.*known, finite.*take\(n\)"),
        ([made[0], made[1].filter(lambda x, y: True)], {}, r"`datasets\[1\]`.*known, finite"),
        ([pairs, triplets], {}, r"`datasets\[1\]`.*the structure of"),
        ([made[0], made[1].map(lambda x, y: (x, tf.cast(y, "int32")))], {}, r"`datasets\[1\]`.*the structure of"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.mix(datasets, **options)
