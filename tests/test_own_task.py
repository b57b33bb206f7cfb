"""A custom task has everything that the package's own tasks have."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny

import tfxfer as tx

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples" / "own_task.py"
ROWS = {"review": tiny.TEXTS, "age": [20, 31, 42, 53, 64, 75, 86, 97], "rating": [5, 1, 3, 2, 5, 4, 1, 3]}
X = {"review": ROWS["review"], "age": ROWS["age"]}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_task", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(example, tmp_path):
    keras.utils.set_random_seed(0)
    made = example.StarRating(tiny.backbone(num_layers=2), tiny.preprocessor(tmp_path))
    made.compile(tx.optimizers.AdamW(1e-2), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return made


def test_it_trains_and_answers_on_raw_rows_in_every_form(model):
    history = model.fit(X, ROWS["rating"], 4, 20, verbose=0, seed=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    stars = model.answer(X)
    assert stars.shape == (8,) and set(stars) <= {1, 2, 3, 4, 5}
    examples = tx.data.examples(ROWS, model, "rating")
    assert model.evaluate(examples, verbose=0) == pytest.approx(model.evaluate(X, ROWS["rating"], verbose=0), abs=1e-5)
    np.testing.assert_array_equal(model.decode(model.predict(examples)), stars)
    with pytest.raises(ValueError, match=r"`x\['age'\]`.*row 5"):
        model.fit({**X, "age": [1, 2, 3, 4, 5, None, 7, 8]}, ROWS["rating"])
    with pytest.raises(ValueError, match=r"`x`.*'review', 'age'"):
        model.fit(ROWS["review"], ROWS["rating"])


@pytest.mark.parametrize("below", [1, 2])
def test_what_lies_above_frozen_layers_trains_to_the_same_weights(example, tmp_path, below):
    found = []
    for short in (False, True):
        keras.utils.set_random_seed(0)
        model = example.StarRating(tiny.backbone(num_layers=2), tiny.preprocessor(tmp_path))
        tx.freezing.freeze(model, below=below)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        trained = tx.freezing.AboveFrozen(model) if short else model
        trained.fit(tx.data.batches(tx.data.examples(ROWS, model, "rating"), model, 4, seed=0), epochs=3, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_it_resumes_and_comes_back_from_its_file(example, model, tmp_path):
    keras.utils.set_random_seed(0)
    whole = example.StarRating(tiny.backbone(num_layers=2), tiny.preprocessor(tmp_path))
    whole.compile(tx.optimizers.AdamW(1e-2), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    whole.fit(tx.data.batches(tx.data.examples(ROWS, whole, "rating"), whole, 4, seed=0), epochs=4, verbose=0)
    for epochs in (2, 4):
        batches = tx.data.batches(tx.data.examples(ROWS, model, "rating"), model, 4, seed=0)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[tx.callbacks.Resume(tmp_path / "resume")])
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    model.save(tmp_path / "stars.keras")
    again = keras.saving.load_model(tmp_path / "stars.keras")
    np.testing.assert_allclose(again.predict(X), model.predict(X), atol=1e-6)


def test_its_export_takes_its_columns_by_name_and_answers_as_it_does(model, tmp_path):
    path = tx.export.saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    ages = tf.constant(np.array(ROWS["age"], "float32"))
    np.testing.assert_array_equal(served(review=tf.constant(tiny.TEXTS), age=ages)["stars"], model.answer(X))
    found = tx.export.describe(path)
    assert set(found["signatures"]["rate"]["inputs"]) == {"review", "age"}
    with pytest.raises(tf.errors.InvalidArgumentError, match="one length"):
        served(review=tf.constant(tiny.TEXTS), age=ages[:3])
