"""Contrastive tension: the pairs, the two encoders, and the model after training."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from tfxfer import data, freezing, losses, models

TEXTS = [*tiny.TEXTS, tiny.TEXTS[0]]  # one text occurs twice


def rows_of(dataset):
    return [(a.decode(), b.decode(), float(y)) for (a, b), y in dataset.as_numpy_iterator()]


def test_each_text_is_paired_with_itself_and_with_others_that_differ():
    found = rows_of(data.tension_pairs(TEXTS, 3, seed=1))
    assert len(found) == 4 * len(TEXTS)
    for i, text in enumerate(TEXTS):
        group = found[4 * i : 4 * i + 4]
        assert group[0] == (text, text, 1.0)
        assert all(a == text and b != text and y == 0.0 for a, b, y in group[1:])
    assert found == rows_of(data.tension_pairs(TEXTS, 3, seed=1)) != rows_of(data.tension_pairs(TEXTS, 3, seed=2))
    assert {b for _, b, _ in rows_of(data.tension_pairs(["a", "a", "b"], 5)) if b != "a"} == {"b"}


@pytest.mark.parametrize(
    ("texts", "negatives", "said"),
    [(["a", "a"], 1, "two different texts"), (["a", None], 1, "row 1"), ("ab", 1, "`texts`"), (["a", "b"], 0, "`neg")],
)
def test_texts_that_make_no_pairs_are_errors(texts, negatives, said):
    with pytest.raises(ValueError, match=said):
        data.tension_pairs(texts, negatives)


def test_both_encoders_start_alike_with_weights_of_their_own(tmp_path):
    model = models.ContrastiveTension(tiny.embedder(tmp_path, normalize=False))
    x = model.preprocess_samples((tiny.TEXTS, tiny.TEXTS))
    vectors = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(vectors[:, 0], vectors[:, 1])
    np.testing.assert_allclose(vectors[:, 0], model.embedder.encode(tiny.TEXTS), atol=1e-5)
    groups = model.layer_groups()
    assert list(groups)[-1] == "twin" and groups["twin"] == [model.twin]
    model.twin.set_weights([2 * weight for weight in model.twin.get_weights()])
    changed = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(changed[:, 0], vectors[:, 0])
    assert np.abs(changed[:, 1] - vectors[:, 1]).max() > 1e-3


@pytest.mark.slow
def test_both_encoders_train_apart_and_come_back_from_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    model = models.ContrastiveTension(tiny.embedder(tmp_path, normalize=False))
    x = model.preprocess_samples((tiny.TEXTS, tiny.TEXTS))
    model.compile(keras.optimizers.Adam(0.01), loss=losses.ContrastiveTensionLoss())
    history = model.fit(data.batches(data.tension_pairs(TEXTS, 2), model, 8, seed=0), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    vectors = ops.convert_to_numpy(model(x))
    assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 1e-3
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(again(x), vectors)
    np.testing.assert_allclose(again.embedder.encode(tiny.TEXTS), vectors[:, 0], atol=1e-5)


def test_what_two_encoders_cannot_do_is_refused(tmp_path):
    embedder = tiny.embedder(tmp_path)
    with pytest.raises(ValueError, match=r"`models\.TextEmbedder`"):
        models.ContrastiveTension(tiny.classifier(tmp_path))
    model = models.ContrastiveTension(embedder)
    model.compile("sgd", loss=losses.ContrastiveTensionInBatchLoss())
    with pytest.raises(ValueError, match="2"):
        model.fit((tiny.TEXTS, tiny.TEXTS, tiny.TEXTS), np.ones(8), verbose=0)
    freezing.freeze(model, groups=["embeddings"], dropout=False)
    with pytest.raises(ValueError, match="towers without `twin`"):
        freezing.AboveFrozen(model).fit((tiny.TEXTS, tiny.TEXTS), np.ones(8), verbose=0)
