"""Targets for several text columns: labels, numbers, and the outputs of another model."""

import keras
import numpy as np
import pytest
import tiny

from tfxfer import data

ROWS = {
    "a": ["card", "loan", "bank", "day"],
    "b": ["cards", "money", "card", "good day"],
    "c": ["day", "card", "a", "b"],
}
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tiny"))


class Encoder:
    """A fake model that returns [length, number of a's] and records its calls."""

    def __init__(self):
        self.calls = []

    def encode(self, texts, **kwargs):
        self.calls.append((list(texts), kwargs))
        return np.array([[len(text), text.count("a")] for text in texts], "float64")


# Precomputed targets.


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2), (4, 3, 5)])
def test_targets_of_any_rank_come_with_their_rows(shape, preprocessor):
    values = np.random.default_rng(0).normal(size=shape)
    dataset = data.triplets(ROWS, NAMES, targets=values)
    assert dataset.y.dtype == "float32" and dataset.element_spec[1].shape == shape[1:]
    np.testing.assert_array_equal([y for _, y in dataset.as_numpy_iterator()], values.astype("float32"))
    batches = data.batches(dataset, preprocessor, 3, columns="separate", shuffle=False)
    y = np.concatenate([y for _, y in batches.as_numpy_iterator()])
    np.testing.assert_array_equal(y, values.astype("float32"))


def test_targets_may_be_lists_ints_or_half_precision():
    for values in ([1, 2, 3, 4], np.arange(1, 5), np.arange(1, 5, dtype="float16"), keras.ops.arange(1, 5)):
        dataset = data.pairs(ROWS, ("a", "b"), targets=values)
        assert dataset.y.numpy().tolist() == [1.0, 2.0, 3.0, 4.0] and dataset.y.dtype == "float32"


def test_targets_of_rows_that_are_skipped_are_left_out_too():
    rows = {**ROWS, "b": ["cards", None, "card", "good day"]}
    with pytest.warns(UserWarning, match="skipped 1 broken rows"):
        dataset = data.pairs(rows, ("a", "b"), targets=[[0], [1], [2], [3]], on_error="skip")
    assert dataset.y.numpy().tolist() == [[0], [2], [3]]


def test_targets_of_triplets_come_from_columns_as_well():
    rows = {**ROWS, "m": ["1.5", "2", "0", "-1"], "n": [1, 2, 3, 4]}
    assert data.triplets(rows, NAMES, "m").y.numpy().tolist() == [1.5, 2, 0, -1]
    assert data.triplets(rows, NAMES, ("m", "n")).y.numpy().tolist() == [[1.5, 1], [2, 2], [0, 3], [-1, 4]]
    assert data.pairs(rows, ("a", "b"), ("n", "m")).y.numpy().tolist() == [[1, 1.5], [2, 2], [3, 0], [4, -1]]


def test_targets_are_checked():
    infinite = np.zeros((4, 2))
    infinite[2, 1] = np.inf
    for targets, message in [
        ([1, 2, 3], r"`targets`.*shape \(3,\).*There are 4 rows"),
        (np.zeros((4, 2, 5)), r"`targets`.*shape \(4, 2, 5\).*There are 3 text columns"),
        (np.zeros((4, 3, 5, 1)), r"`targets`.*\(rows, columns, dim\)"),
        (np.zeros((4, 0)), r"`targets`.*\(4, 0\)"),
        (1.0, "`targets`"),
        (["a", "b", "c", "d"], "`targets`.*float array"),
        ([[1], [2, 3], [4], [5]], "`targets`.*float array"),
        ([0, np.nan, 0, 0], "`targets`.*finite.*row 1 "),
        (infinite, "`targets`.*finite.*row 2 "),
    ]:
        with pytest.raises(ValueError, match=message):
            data.triplets(ROWS, NAMES, targets=targets)
    rows = {**ROWS, "y": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match=r"`targets`.*None with `target`"):
        data.pairs(rows, ("a", "b"), "y", targets=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"`target_range`.*None without `target`"):
        data.pairs(rows, ("a", "b"), targets=[1, 2, 3, 4], target_range=(0, 5))
    with pytest.raises(ValueError, match=r"column 'a': a target that is not a number: 'card'"):
        data.triplets(rows, NAMES, "a")


# Embeddings.


def test_each_distinct_text_is_encoded_once():
    encoder = Encoder()
    found = data.embeddings(ROWS, NAMES, encoder, batch_size=7)
    [(texts, kwargs)] = encoder.calls
    assert sorted(texts) == sorted({text for name in NAMES for text in ROWS[name]}) and kwargs == {"batch_size": 7}
    expected = [[[len(ROWS[name][i]), ROWS[name][i].count("a")] for name in NAMES] for i in range(4)]
    assert found.dtype == np.float32 and found.tolist() == expected
    assert data.embeddings(ROWS, "b", encoder).shape == (4, 1, 2)


def test_embeddings_are_targets(preprocessor, tmp_path):
    embedder = tiny.embedder(tmp_path)
    found = data.embeddings(ROWS, NAMES, embedder)
    np.testing.assert_allclose(found[:, 1], embedder.encode(ROWS["b"]), atol=1e-6)
    batches = data.batches(data.triplets(ROWS, NAMES, targets=found), preprocessor, 4, columns="separate", seed=0)
    model = tiny.models.Siamese(embedder)
    model.compile(loss="mse", run_eagerly=True)
    # The targets equal the model's outputs, because the model has not been trained since.
    assert model.evaluate(batches, verbose=0) < 1e-10


def test_embedders_and_texts_are_checked():
    class Bad:
        def __init__(self, found):
            self.encode = lambda texts: found

    for rows, embedder, message in [
        (ROWS, object(), "`embedder`.*method `encode`"),
        (ROWS, Bad(np.zeros((3, 2))), r"`embedder`.*encodes 9 texts.*shape \(3, 2\)"),
        (ROWS, Bad(np.zeros(9)), r"`embedder`.*\(9, dim\)"),
        (ROWS, Bad(np.full((9, 2), np.nan)), "`embedder`.*finite.*row 0 "),
        ({**ROWS, "b": ["x", None, "y", "z"]}, Encoder(), "row 1 .*column 'b': no text"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.embeddings(rows, NAMES, embedder)
    with pytest.raises(ValueError, match=r"`column`.*'z'"):
        data.embeddings(ROWS, ("a", "z"), Encoder())


# Labeled rows of several texts, through towers.


@pytest.mark.parametrize("labels", [["no", "yes"], None])
def test_labelled_rows_of_several_texts_are_separate_columns(preprocessor, tmp_path, labels):
    rows = {**ROWS, "label": ["yes", "no", "yes", "no"]}
    dataset = data.labelled(rows, ("a", "b"), "label", labels=labels)
    batches = data.batches(dataset, preprocessor, 2, columns="separate", seed=0)
    assert batches.element_spec[0]["token_ids"].shape.as_list() == [None, 2, None]
    batches_of_both = list(batches.as_numpy_iterator())
    first = {tuple(preprocessor([text])["token_ids"][0].numpy()): i for i, text in enumerate(ROWS["a"])}
    for x, y in batches_of_both:
        for (ids, _), (mask, _), label in zip(x["token_ids"], x["padding_mask"], y, strict=True):
            expected = rows["label"][first[tuple(ids[mask > 0])]]
            assert (labels[label] if labels else label.decode()) == expected
    if labels:
        towers = tiny.models.Siamese(tiny.embedder(tmp_path))
        both = keras.layers.Flatten()(towers.output[:, :2])
        model = keras.Model(towers.input, keras.layers.Dense(2)(keras.ops.reshape(both, (-1, 16))))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        model.fit(batches, verbose=0, shuffle=False)


def test_regression_on_three_texts_goes_through_towers(preprocessor):
    dataset = data.regression({**ROWS, "y": [0.5, 1, 1.5, 2]}, NAMES, "y")
    batches = data.batches(dataset, preprocessor, 4, columns="separate", shuffle=False)
    [(x, y)] = batches.as_numpy_iterator()
    assert x["token_ids"].shape[:2] == (4, 3) and y.tolist() == [0.5, 1, 1.5, 2]
