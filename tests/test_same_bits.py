"""A row has bitwise the same output whatever else is in the batch, if the processor's matrix products allow it."""

import json

import keras
import numpy as np
import processor
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx

# With AVX-512, oneDNN sums each row of a product in one order. With less, the order depends on the number of rows.
if processor.kernels() != "oneDNN":
    pytest.skip("a processor without AVX-512 sums products in an order of the batch", allow_module_level=True)

TEXTS = [*tiny.TEXTS, *(" ".join(tiny.WORDS.split()[i : i + n]) for n in (1, 3, 9, 14, 17, 30) for i in range(9))]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny.backbone(num_layers=2), tiny.preprocessor(tmp_path_factory.mktemp("bits"), sequence_length=32)


def assert_same_bits(run, texts, sizes, orders=2):
    """Asserts that `run(texts, batch_size)` gives a text the same output for any batch size and order."""
    expected, drawn = run(texts, 1), np.random.default_rng(0)
    for size in sizes:
        for number in range(orders):
            order = drawn.permutation(len(texts)) if number else np.arange(len(texts))
            found = run([texts[row] for row in order], size)
            np.testing.assert_array_equal(found, expected[order], err_msg=f"{size} rows at a time, order {number}")
    return expected


def test_vectors(parts):
    model = tx.models.TextEmbedder(*parts)
    found = assert_same_bits(lambda texts, size: model.encode(texts, batch_size=size), TEXTS, (2, 5, 8, 64))
    alone = np.stack([model.encode(text) for text in TEXTS[:9]])
    np.testing.assert_array_equal(alone, found[:9])


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_in_python_and_from_an_export(parts, tmp_path, multi_label):
    keras.utils.set_random_seed(0)
    model = tx.models.TextClassifier(*parts, labels=list("abcde"), multi_label=multi_label)
    expected = assert_same_bits(
        lambda texts, size: np.asarray(model.classify(texts, batch_size=size).probabilities), TEXTS, (3, 32), orders=1
    )
    served = tf.saved_model.load(str(tx.export.saved_model(model, tmp_path / "served"))).signatures["serving_default"]
    for size in (1, 7, len(TEXTS)):
        found = [served(text=TEXTS[i : i + size])["probabilities"] for i in range(0, len(TEXTS), size)]
        np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_vectors_of_real_weights(minilm_folder, golden, tmp_path, dtype):
    model = tx.models.TextEmbedder.from_preset(str(minilm_folder), dtype=dtype)
    texts = json.loads((golden / "minilm_texts.json").read_text())["texts"]
    assert len(texts) == 266
    expected = assert_same_bits(lambda texts, size: model.encode(texts, batch_size=size), texts, (2, 7, 32, 4096))
    served = tf.saved_model.load(str(tx.export.saved_model(model, tmp_path / "served"))).signatures["embed"]
    for size in (1, 32, len(texts)):
        found = [served(text=texts[i : i + size])["embedding"] for i in range(0, len(texts), size)]
        np.testing.assert_array_equal(np.concatenate(found), expected)
