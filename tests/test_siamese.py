"""Towers, their chunks, decoders, and the models built from them."""

import json

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import tfxfer as tx

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(4, 3, 5)).astype("float32")
PAIRS = (tiny.TEXTS, tiny.TEXTS[::-1])


def gradients_of(model, x, training, graph=True):
    """The vectors of the towers, and the gradients of a loss over the whole batch."""
    import tensorflow as tf

    loss = tx.losses.MultipleNegativesRankingLoss()

    def compute():
        with tf.GradientTape() as tape:
            vectors = model(x, training=training)
            value = loss(np.zeros(len(x["token_ids"]), "float32"), vectors)
        return vectors, [tf.convert_to_tensor(g) for g in tape.gradient(value, model.trainable_variables)]

    vectors, gradients = (tf.function(compute) if graph else compute)()
    return vectors.numpy(), [g.numpy() for g in gradients]


@pytest.mark.parametrize("size", [1, 3, 16, 100])
def test_chunks_give_the_vectors_and_gradients_of_one_pass(tmp_path, size):
    embedder = tiny.embedder(tmp_path)
    one, many = tx.models.Siamese(embedder), tx.models.Siamese(embedder, chunk_size=size)
    x = one.preprocess_samples(PAIRS)
    vectors, gradients = gradients_of(one, x, False)
    chunked, chunked_gradients = gradients_of(many, x, False)
    np.testing.assert_allclose(chunked, vectors, atol=1e-6)
    for found, expected in zip(chunked_gradients, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_in_chunks_is_the_same_in_both_computations(tmp_path, monkeypatch):
    embedder = tiny.embedder(tmp_path)
    model = tx.models.Siamese(embedder, chunk_size=3)
    x = model.preprocess_samples(PAIRS)
    seeds = [v for v in embedder.non_trainable_variables if v.name == "seed_generator_state"]
    states = [seed.numpy() for seed in seeds]
    vectors, gradients = gradients_of(model, x, True)
    assert all(np.array_equal(seed.numpy() - state, [0, 6]) for seed, state in zip(seeds, states, strict=True))
    assert np.abs(gradients_of(model, x, False)[0] - vectors).max() > 1e-2

    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)
    # Without recomputation there is only one dropout mask, so the gradients must belong to it.
    monkeypatch.setattr(keras, "remat", lambda function: function)
    kept, kept_gradients = gradients_of(model, x, True)
    np.testing.assert_allclose(vectors, kept, atol=1e-6)
    for found, expected in zip(gradients, kept_gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(gradients_of(model, x, True)[0] - vectors).max() > 1e-2, "the next step has other masks"


def test_chunks_train_with_frozen_layers_and_mixed_precision(tmp_path):
    embedder = tiny.embedder(tmp_path, "mixed_bfloat16", trainable=["block_0"])
    model = tx.models.Siamese(embedder, chunk_size=5)
    model.compile(keras.optimizers.SGD(0.1), loss=tx.losses.MultipleNegativesRankingLoss())
    before = {w.path: w.numpy() for w in embedder.weights}
    history = model.fit(PAIRS, np.zeros(8), epochs=4, batch_size=8, verbose=0, seed=0).history["loss"]
    assert history[-1] < history[0]
    for weight in embedder.weights:
        if "seed_generator" not in weight.path:
            assert np.array_equal(weight.numpy(), before[weight.path]) == (not weight.trainable), weight.path


def test_chunk_size_is_checked(tmp_path):
    with pytest.raises(ValueError, match="`chunk_size`"):
        tx.models.Siamese(tiny.embedder(tmp_path), chunk_size=0)


@pytest.mark.parametrize(
    ("measure", "formula"),
    [
        ("cosine", lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
        ("dot", lambda a, b: a @ b),
        ("euclidean", lambda a, b: -np.linalg.norm(a - b)),
        ("cosine_distance", lambda a, b: 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
        ("squared_euclidean_distance", lambda a, b: np.sum((a - b) ** 2)),
        ("manhattan_distance", lambda a, b: np.abs(a - b).sum()),
    ],
)
def test_comparison_measures_the_first_column_against_each_other(measure, formula):
    expected = [[formula(row[0], other) for other in row[1:]] for row in ROWS]
    np.testing.assert_allclose(tx.layers.Comparison(measure)(ROWS), expected, atol=1e-5)


def test_comparison_refuses_a_single_column_and_an_unknown_measure():
    with pytest.raises(ValueError, match="columns >= 2"):
        tx.layers.Comparison()(ROWS[:, :1])
    with pytest.raises(ValueError, match="'cosine_distance'"):
        tx.layers.Comparison("angle")


def test_softmax_decoder_equals_its_formula():
    decoder = tx.layers.SoftmaxDecoder(4, features=("|u-v|", "u", "u*v"))
    u, v = ROWS[:, 0], ROWS[:, 1]
    logits = decoder(ROWS[:, :2])
    kernel, bias = (w.numpy() for w in decoder.weights)
    np.testing.assert_allclose(logits, np.concatenate([np.abs(u - v), u, u * v], axis=1) @ kernel + bias, atol=1e-6)


def test_softmax_decoder_gives_the_references_loss(golden):
    # sentence-transformers 6.2.0, SoftmaxLoss.
    file = json.loads((golden / "losses.json").read_text(encoding="utf-8"))
    inputs = {name: np.array(values) for name, values in file["inputs"].items()}
    decoder = tx.layers.SoftmaxDecoder(3)
    decoder.build((None, 2, 6))
    decoder.set_weights([inputs["W"].T, inputs["b"]])
    logits = decoder(np.stack([inputs["A"], inputs["P"]], axis=1).astype("float32"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(inputs["y"], logits)
    assert float(loss) == pytest.approx(file["values"]["softmax/(u,v,|u-v|)"], rel=1e-6)


def test_softmax_decoder_refuses_triplets_and_unknown_features():
    with pytest.raises(ValueError, match="pairs for SoftmaxDecoder"):
        tx.layers.SoftmaxDecoder(2)(ROWS)
    with pytest.raises(ValueError, match=r"'\|u-v\|'"):
        tx.layers.SoftmaxDecoder(2, features=("u", "u+v"))
    with pytest.raises(ValueError, match="`features`"):
        tx.layers.SoftmaxDecoder(2, features=())


def test_siamese_classifier_learns_names_and_shares_its_embedder(tmp_path):
    embedder = tiny.embedder(tmp_path, normalize=False)
    model = tx.models.SiameseClassifier(embedder, labels=["card", "loan", "other"], features=("u", "v"))
    pairs = ([text for text in tiny.TEXTS for _ in tiny.TEXTS], tiny.TEXTS * len(tiny.TEXTS))
    names = [name for name in tiny.LABELS for _ in tiny.TEXTS]
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(pairs, names, epochs=8, batch_size=16, verbose=0, seed=0)
    assert tx.evaluation.classification(model, pairs, names)["accuracy"] > 0.8
    assert model.embedder is embedder
    vectors = embedder.encode(tiny.TEXTS)
    np.testing.assert_allclose(model.get_layer("towers")(model.preprocess_samples(PAIRS))[:, 0], vectors, atol=1e-5)


def test_siamese_classifier_names_an_unknown_label(tmp_path):
    model = tx.models.SiameseClassifier(tiny.embedder(tmp_path), labels=["a", "b"])
    with pytest.raises(ValueError, match="label"):
        model.fit(PAIRS, ["a", "b", "c", "a", "a", "a", "a", "a"], verbose=0)


def test_a_decoder_makes_scores_of_the_towers(tmp_path):
    embedder = tiny.embedder(tmp_path)
    vectors = tx.models.Siamese(embedder).predict(PAIRS, verbose=0)
    model = tx.models.Siamese(embedder, decoder="cosine")
    expected = (vectors[:, 0] * vectors[:, 1]).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(model.predict(PAIRS, verbose=0), expected, atol=1e-5)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
    model.fit(PAIRS, np.ones(8), epochs=2, verbose=0)
    assert model.predict(PAIRS, verbose=0).mean() > expected.mean()


def test_a_decoder_may_be_any_layer_and_comes_back(tmp_path):
    model = tx.models.Siamese(tiny.embedder(tmp_path), decoder=keras.layers.Flatten())
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    expected = model.predict(PAIRS, verbose=0)
    assert expected.shape == (8, 16)
    np.testing.assert_allclose(again.predict(PAIRS, verbose=0), expected, atol=1e-6)


def test_an_unknown_decoder_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="'cosine_distance'"):
        tx.models.Siamese(tiny.embedder(tmp_path), decoder="softmax")
    with pytest.raises(ValueError, match="TextEmbedder"):
        tx.models.Siamese(tiny.backbone())


@pytest.mark.parametrize("columns", [2, 3, 5])
def test_any_number_of_columns_goes_through_one_pass(tmp_path, columns):
    embedder = tiny.embedder(tmp_path)
    model = tx.models.Siamese(embedder)
    texts = tuple(tiny.TEXTS[i:] + tiny.TEXTS[:i] for i in range(columns))
    vectors = embedder.encode(tiny.TEXTS)
    expected = np.stack([np.roll(vectors, -i, axis=0) for i in range(columns)], axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(model.predict(texts, verbose=0)), expected, atol=1e-5)


def test_an_embedder_that_was_trained_by_itself_leaves_its_metrics_behind(tmp_path):
    embedder = tiny.embedder(tmp_path)
    embedder.compile("sgd", loss="mse", metrics=["mae"], run_eagerly=True)
    embedder.fit(tiny.TEXTS, np.zeros((8, 8), "float32"), verbose=0)
    model = tx.models.Siamese(embedder)
    model.compile("sgd", loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    history = model.fit(PAIRS, np.arange(8.0), verbose=0).history
    assert set(history) == {"loss"} and history["loss"][0] > 0


def test_from_preset_takes_the_arguments_of_both(tmp_path):
    tiny.embedder(tmp_path).save_to_preset(tmp_path / "saved")
    made = tx.models.Siamese.from_preset(tmp_path / "saved", chunk_size=3, decoder="cosine", sequence_length=7)
    assert (made.chunk_size, made.preprocessor.sequence_length, made.output_shape[-1]) == (3, 7, None)
    made = tx.models.SiameseClassifier.from_preset(tmp_path / "saved", labels=["a", "b"], features=("u*v",))
    assert made.labels == ["a", "b"] and made.get_layer("decoder").features == ("u*v",)
