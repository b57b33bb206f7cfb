"""Common uses of the task models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from tfxfer import data, layers, losses, models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabulary")


@pytest.fixture(scope="module")
def embedder(folder):
    return tiny.embedder(folder, prompts={"query": "where is "})


def compiled(model, rate=0.1, eager=True):
    """Compiles a model; eager by default, which takes less time than tracing for few steps."""
    model.compile(keras.optimizers.SGD(rate), run_eagerly=eager)
    return model


# === Embedding ===


def test_encode_takes_a_string_a_list_an_array_and_a_tensor(embedder):
    vectors = embedder.encode(tiny.TEXTS)
    assert vectors.shape == (8, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(embedder.encode(tiny.TEXTS[1]), vectors[1], atol=1e-6)
    for texts in (tuple(tiny.TEXTS), np.array(tiny.TEXTS), np.array(tiny.TEXTS, object), tf.constant(tiny.TEXTS)):
        np.testing.assert_allclose(embedder.encode(texts), vectors, atol=1e-6)
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    np.testing.assert_allclose(embedder.encode(pandas.Series(tiny.TEXTS)), vectors, atol=1e-6)


def test_encode_does_not_depend_on_batch_size_or_order(embedder):
    vectors = embedder.encode(tiny.TEXTS, batch_size=1)
    np.testing.assert_allclose(embedder.encode(tiny.TEXTS, batch_size=3), vectors, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(tiny.TEXTS[::-1])[::-1], vectors, atol=1e-6)


def test_encode_streams_from_an_iterator_without_reading_ahead(embedder):
    taken = []

    def texts():
        for i in range(300):
            taken.append(i)
            yield tiny.TEXTS[i % 8]

    parts = embedder.encode(texts(), batch_size=2)
    first = next(parts)
    assert len(first) == len(taken) == 128
    everything = np.concatenate([first, *parts])
    np.testing.assert_allclose(everything, embedder.encode([tiny.TEXTS[i % 8] for i in range(300)]), atol=1e-6)


def test_encode_of_nothing_is_an_empty_matrix(embedder):
    assert embedder.encode([]).shape == (0, 8)
    assert list(embedder.encode(iter([]))) == []


def test_encode_normalizes_truncates_and_casts_on_demand(embedder):
    vectors = embedder.encode(tiny.TEXTS)
    cut = embedder.encode(tiny.TEXTS, truncate_dim=3)
    expected = vectors[:, :3] / np.linalg.norm(vectors[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    half = embedder.encode(tiny.TEXTS, dtype="float16")
    assert half.dtype == np.float16 and np.abs(half - vectors).max() < 1e-3
    assert embedder.encode(tiny.TEXTS, dtype="bfloat16").dtype.name == "bfloat16"


def test_encode_with_normalize_equals_dividing_by_the_length(folder):
    raw = tiny.embedder(folder, normalize=False)
    vectors = raw.encode(tiny.TEXTS)
    unit = raw.encode(tiny.TEXTS, normalize=True)
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(raw.encode(tiny.TEXTS, truncate_dim=3), vectors[:, :3], atol=1e-6)


def test_encode_without_normalize_gives_the_vectors_before_scaling(folder):
    model, raw = tiny.embedder(folder), tiny.embedder(folder, normalize=False)
    raw.backbone.set_weights(model.backbone.get_weights())
    expected = raw.encode(tiny.TEXTS)
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).max() > 0.1
    np.testing.assert_allclose(model.encode(tiny.TEXTS, normalize=False), expected, atol=1e-6)
    np.testing.assert_allclose(
        model.encode(tiny.TEXTS, normalize=False, truncate_dim=3, prompt=""), expected[:, :3], atol=1e-6
    )
    np.testing.assert_allclose(model.encode(tiny.TEXTS), raw.encode(tiny.TEXTS, normalize=True), atol=1e-6)
    # Training changes these vectors too: the intermediate model shares the weights.
    model.backbone.set_weights([w * 1.1 for w in model.backbone.get_weights()])
    raw.backbone.set_weights(model.backbone.get_weights())
    np.testing.assert_allclose(model.encode(tiny.TEXTS, normalize=False), raw.encode(tiny.TEXTS), atol=1e-6)


def test_prompt_stands_before_each_text(embedder):
    prompted = embedder.encode(["my card"], prompt_name="query")
    np.testing.assert_allclose(prompted, embedder.encode(["where is my card"]), atol=1e-6)
    np.testing.assert_allclose(embedder.encode(["my card"], prompt="where is "), prompted, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"texts": ["a", None]}, "row 1"),
        ({"texts": ["a", 3]}, "row 1"),
        ({"texts": 3}, "`texts`"),
        ({"texts": ["a"], "batch_size": 0}, "`batch_size`"),
        ({"texts": ["a"], "truncate_dim": 9}, "`truncate_dim`"),
        ({"texts": ["a"], "dtype": "int8"}, "`dtype`"),
        ({"texts": ["a"], "prompt_name": "document"}, "`prompt_name`"),
        ({"texts": ["a"], "prompt": "x", "prompt_name": "query"}, "`prompt_name`"),
    ],
)
def test_encode_refuses_what_it_cannot_do_and_says_where(embedder, arguments, named):
    with pytest.raises(ValueError, match=named):
        embedder.encode(**arguments)


def test_a_short_text_is_encoded_without_tracing_anew(embedder, monkeypatch):
    embedder.encode(tiny.TEXTS)
    calls, call = [], layers.Pooling.call
    monkeypatch.setattr(layers.Pooling, "call", lambda *args, **kwargs: calls.append(1) or call(*args, **kwargs))
    for texts in (["card"], tiny.TEXTS, ["the money"] * 5, [""]):
        embedder.encode(texts)
    assert not calls
    embedder(embedder.preprocessor(["card"]))
    assert calls, "what is not traced, or traced anew, is counted"


def test_encode_sees_weights_and_settings_that_change(folder):
    embedder = tiny.embedder(folder)
    before = embedder.encode(tiny.TEXTS)
    embedder.set_weights([w * 1.5 for w in embedder.get_weights()])
    assert np.abs(embedder.encode(tiny.TEXTS) - before).max() > 1e-3
    short = embedder.encode(["the card was lost"], batch_size=1)
    embedder.preprocessor.sequence_length = 4
    np.testing.assert_allclose(embedder.encode(["the card was lost"]), embedder.encode(["the card"]), atol=1e-6)
    assert np.abs(embedder.encode(["the card was lost"]) - short).max() > 1e-3


# === Classification ===


def test_classifier_learns_from_strings_and_names_labels(folder):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(folder, dropout=0.0)
    model.compile(keras.optimizers.Adam(0.1), run_eagerly=True)
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=12, batch_size=8, seed=0, verbose=0)
    answer = model.classify(tiny.TEXTS)
    assert np.mean([a == b for a, b in zip(answer.labels, tiny.LABELS, strict=True)]) >= 0.85
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1.0, atol=1e-5)
    softmax = ops.convert_to_numpy(ops.softmax(model.predict(tiny.TEXTS, verbose=0)))
    np.testing.assert_allclose(answer.probabilities, softmax, atol=1e-6)


@pytest.mark.slow
def test_strings_names_indices_and_ready_batches_train_alike(folder):
    weights = []
    indices = [["card", "loan", "other"].index(label) for label in tiny.LABELS]
    rows = {"text": tiny.TEXTS, "label": tiny.LABELS}
    for kind in ("names", "indices", "batches", "batches of names"):
        keras.utils.set_random_seed(1)
        model = compiled(tiny.classifier(folder, dropout=0.0))
        if kind.startswith("batches"):
            named = None if kind.endswith("names") else model.labels
            dataset = data.labelled(rows, "text", "label", labels=named)
            model.fit(data.batches(dataset, model.preprocessor, batch_size=4, seed=5), epochs=2, verbose=0)
        else:
            y = tiny.LABELS if kind == "names" else indices
            model.fit(tiny.TEXTS, y, epochs=2, batch_size=4, seed=5, verbose=0)
        weights.append(model.get_weights())
    for others in weights[1:]:
        for expected, got in zip(weights[0], others, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_dataset_of_string_batches_is_tokenised_on_the_way(folder):
    model = compiled(tiny.classifier(folder))
    dataset = tf.data.Dataset.from_tensor_slices((tiny.TEXTS, tiny.LABELS)).batch(4)
    assert model.evaluate(dataset, verbose=0) == pytest.approx(
        model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0), abs=1e-5
    )
    model.fit(dataset, validation_data=dataset, epochs=1, verbose=0)


def test_validation_data_of_strings_are_evaluated(folder):
    model = compiled(tiny.classifier(folder))
    history = model.fit(
        tiny.TEXTS, tiny.LABELS, validation_data=(tiny.TEXTS, tiny.LABELS), epochs=1, seed=0, verbose=0
    ).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0)[0], abs=1e-5)


def test_sample_weight_zero_takes_rows_out(folder):
    keras.utils.set_random_seed(0)
    model = compiled(tiny.classifier(folder, dropout=0.0))
    before = [w.numpy() for w in model.weights]
    model.fit(tiny.TEXTS, tiny.LABELS, sample_weight=np.zeros(8, "float32"), verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_allclose(weight.numpy(), old, atol=1e-7)


def test_class_weights_go_into_fit(folder):
    model = compiled(tiny.classifier(folder))
    weights = data.class_weights({"l": tiny.LABELS}, "l")
    history = model.fit(tiny.TEXTS, tiny.LABELS, class_weight=weights, epochs=1, seed=0, verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_multi_label_gives_every_label_over_the_threshold(folder):
    keras.utils.set_random_seed(0)
    model = compiled(tiny.classifier(folder, multi_label=True, dropout=0.0))
    several = [["card"], ["card", "other"], ["loan"], ["loan", "card"], [], ["other"], ["card", "other"], ["loan"]]
    model.fit(tiny.TEXTS, several, epochs=3, seed=0, verbose=0)
    labels, probabilities = model.classify(tiny.TEXTS, threshold=0.4)
    for names, row in zip(labels, probabilities, strict=True):
        assert set(names) == {name for name, p in zip(model.labels, row, strict=True) if p >= 0.4}
        assert [row[model.labels.index(n)] for n in names] == sorted((p for p in row if p >= 0.4), reverse=True)


def test_labels_may_be_numbers(folder):
    model = compiled(tiny.classifier(folder, labels=[5, 1, 3]))
    stars = [5, 1, 3, 5, 1, 3, 5, 1]
    model.fit(tiny.TEXTS, stars, epochs=1, seed=0, verbose=0)
    assert set(model.classify(tiny.TEXTS).labels) <= {5, 1, 3}
    dataset = data.labelled({"t": tiny.TEXTS, "l": stars}, "t", "l")
    by_names = model.evaluate(data.batches(dataset, model.preprocessor, shuffle=False), verbose=0)
    assert by_names == pytest.approx(model.evaluate(tiny.TEXTS, stars, verbose=0), abs=1e-6)


@pytest.mark.parametrize(
    ("y", "named"),
    [
        (["card"] * 7 + ["visa"], "row 7"),
        ([0, 1, 2, 3, 0, 0, 0, 0], "row 3"),
        (["card"] * 7, "8 targets.*7 targets"),
        (None, "`y`"),
    ],
)
def test_bad_labels_are_an_error_before_training(folder, y, named):
    model = compiled(tiny.classifier(folder))
    with pytest.raises(ValueError, match=named):
        model.fit(tiny.TEXTS, y, verbose=0)


def test_unknown_label_inside_a_pipeline_is_an_error(folder):
    model = compiled(tiny.classifier(folder))
    dataset = tf.data.Dataset.from_tensor_slices((tiny.TEXTS, ["visa"] * 8)).batch(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="visa"):
        model.fit(dataset, verbose=0)


@pytest.mark.parametrize("labels", [[], ["a", "a"], ["a", 1], [True, False], [1.5, 2.0]])
def test_labels_must_be_distinct_names(folder, labels):
    with pytest.raises(ValueError, match="`labels`"):
        tiny.classifier(folder, labels=labels)


def test_head_may_be_any_layer_and_comes_back_with_the_model(folder, tmp_path):
    model = tiny.classifier(folder, head=layers.Head(3, hidden_dims=(5, 4), activation="tanh"))
    assert [dense.units for dense in model.head.denses] == [5, 4, 3]
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(tiny.outputs(again, tiny.TEXTS), tiny.outputs(model, tiny.TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match=r"\(batch, 3\)"):
        tiny.classifier(folder, head=keras.layers.Dense(4))


def test_two_columns_make_one_sequence_for_a_cross_encoder(folder):
    keras.utils.set_random_seed(0)
    model = models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    pairs = (tiny.TEXTS, tiny.TEXTS[::-1])
    ids = model.preprocessor(pairs)
    np.testing.assert_allclose(model.predict(pairs, verbose=0), model.predict(ids, verbose=0), atol=1e-6)
    assert int(tf.reduce_max(ids["segment_ids"])) == 1
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    history = model.fit(pairs, np.linspace(0, 1, 8), epochs=3, seed=0, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_regressor_refuses_targets_that_are_no_numbers(folder):
    model = models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    with pytest.raises(ValueError, match="row 2"):
        model.fit(tiny.TEXTS, [0.0, 1.0, float("nan"), 0, 0, 0, 0, 0], verbose=0)


# === Towers, groups, precision ===


def test_training_the_towers_trains_the_embedder(folder):
    keras.utils.set_random_seed(0)
    embedder = tiny.embedder(folder)
    before = embedder.encode(tiny.TEXTS)
    siamese = models.Siamese(embedder)
    siamese.compile(keras.optimizers.SGD(0.1), loss=losses.CoSENTLoss(), run_eagerly=True)
    siamese.fit((tiny.TEXTS, tiny.TEXTS[::-1]), np.arange(8.0), seed=0, verbose=0)
    after = embedder.encode(tiny.TEXTS)
    assert np.abs(after - before).max() > 1e-4
    both = siamese.predict((tiny.TEXTS, tiny.TEXTS[::-1]), verbose=0)
    np.testing.assert_allclose(both, np.stack([after, after[::-1]], axis=1), atol=1e-6)


def test_towers_take_triplets_without_being_rebuilt(folder):
    siamese = models.Siamese(tiny.embedder(folder))
    triplets = (tiny.TEXTS[:4], tiny.TEXTS[4:], tiny.TEXTS[:4])
    assert siamese.predict(triplets, verbose=0).shape == (4, 3, 8)
    assert siamese.predict(triplets[:2], verbose=0).shape == (4, 2, 8)


def test_frozen_groups_do_not_move_and_others_do(folder):
    keras.utils.set_random_seed(0)
    model = compiled(tiny.classifier(folder, trainable=["block_0", "head"]))
    groups = {name: [layer.get_weights() for layer in found] for name, found in model.layer_groups().items()}
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, seed=0, verbose=0)
    for name, found in model.layer_groups().items():
        moved = [
            not np.array_equal(old, new)
            for layer, olds in zip(found, groups[name], strict=True)
            for old, new in zip(olds, layer.get_weights(), strict=True)
        ]
        assert any(moved) == (name in ("block_0", "head")), name


@pytest.mark.parametrize("trainable", ["head", ["block_9"], {"pooler": True}, 3])
def test_unknown_layer_group_is_an_error(folder, trainable):
    with pytest.raises(ValueError, match="`trainable`"):
        tiny.classifier(folder, trainable=trainable)


def test_bfloat16_trains_and_keeps_float32_weights(folder):
    keras.utils.set_random_seed(0)
    model = compiled(tiny.classifier(folder, "mixed_bfloat16", dropout=0.0), eager=False)
    history = model.fit(tiny.TEXTS, tiny.LABELS, epochs=10, seed=0, verbose=0).history["loss"]
    assert history[-1] < history[0]
    # `weights` excludes the states of the dropout layers' seed generators.
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}


def test_a_string_alone_and_rows_of_pairs_are_errors_that_say_what_to_do(folder):
    model = tiny.classifier(folder)
    with pytest.raises(ValueError, match="into a list"):
        model.predict("where is my card")
    with pytest.raises(ValueError, match="firsts, seconds"):
        model.predict([("a", "b"), ("c", "d")])
    with pytest.raises(ValueError, match="one length"):
        model.predict((["a"], ["b", "c"]))


def test_stopping_early_restores_the_best_weights(folder):
    keras.utils.set_random_seed(0)
    model = compiled(tiny.classifier(folder, dropout=0.0), rate=1.0, eager=False)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = model.fit(
        tiny.TEXTS,
        tiny.LABELS,
        validation_data=(tiny.TEXTS, tiny.LABELS),
        epochs=8,
        callbacks=[stop],
        seed=0,
        verbose=0,
    ).history["val_loss"]
    assert model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0)[0] == pytest.approx(min(history), rel=1e-4)


def test_trained_model_comes_back_with_its_optimizer_and_trains_on(folder, tmp_path):
    model = compiled(tiny.classifier(folder))
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, batch_size=4, seed=0, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert int(again.optimizer.iterations) == 4
    for old, new in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(new.numpy(), old.numpy())
    again.fit(tiny.TEXTS, tiny.LABELS, epochs=1, batch_size=4, seed=1, verbose=0)
    assert int(again.optimizer.iterations) == 6
