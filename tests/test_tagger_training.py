"""Every way to train taggers: adapters, gradual unfreezing, rates by layer, half precision, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

import tfxfer as tx

WORDS, TAGS = tiny.WORD_ROWS, tiny.TAG_ROWS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


def made(folder, dtype=None, **kwargs):
    keras.utils.set_random_seed(0)
    return tiny.tagger(folder, dtype, **{"head": "crf", **kwargs})


def weights_of(model):
    """The values of each group's weights."""
    return {name: [w.numpy() for layer in found for w in layer.weights] for name, found in model.layer_groups().items()}


def moved(before, after):
    """The groups in which at least one weight changed."""
    return [
        name for name in before if any(not np.array_equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    ]


def fit(model, *callbacks, epochs=1, **kwargs):
    options = {"batch_size": 6, "epochs": epochs, "verbose": 0, "seed": 0, **kwargs}
    before = weights_of(model)
    loss = model.fit(WORDS, TAGS, callbacks=list(callbacks), **options).history["loss"]
    assert np.isfinite(loss).all()
    return moved(before, weights_of(model))


def test_the_head_is_a_group_with_the_crf(folder):
    model = made(folder)
    assert [layer.name for layer in model.layer_groups()["head"]] == ["head", "crf"]
    tx.freezing.freeze(model, below=1)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    start = model.crf.get_weights()
    assert fit(model) == ["head"]
    assert all(not np.array_equal(a, b) for a, b in zip(start, model.crf.get_weights(), strict=True))


def test_accuracy_is_the_share_of_words_whatever_the_batches(folder):
    model = made(folder, head="linear")
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    likeliest = [[tiny.TAGS[i] for i in row.argmax(axis=1)] for row in model.predict(WORDS, verbose=0)]
    hits = [a == b for found, tags in zip(likeliest, TAGS, strict=True) for a, b in zip(found, tags, strict=True)]
    for batch_size in (1, 2, 6):
        found = model.evaluate(WORDS, TAGS, batch_size=batch_size, verbose=0, return_dict=True)
        assert found["accuracy"] == pytest.approx(np.mean(hits)) and 0 < sum(hits) < len(hits)


def test_generators_of_rows_and_of_batches_train_as_the_rows_do(folder):
    halves = [(WORDS[:3], TAGS[:3]), (WORDS[3:], TAGS[3:])]
    sources = {"rows": lambda: zip(WORDS, TAGS, strict=True), "batches": lambda: iter(halves)}
    losses = {}
    for name, source in sources.items():
        model = made(folder)
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        losses[name] = model.evaluate(source(), batch_size=3, verbose=0)
        model.fit(source(), batch_size=3, verbose=0)
        assert int(model.optimizer.iterations) == 2
    np.testing.assert_allclose(losses["rows"], losses["batches"], rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one for each word"):
        model.evaluate(iter([(["a", "b"], ["O"])]), verbose=0)


def test_validation_is_the_evaluation_of_the_same_rows_with_words_that_have_no_token(folder):
    model = made(folder)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    words, tags = (
        [["\u200b", "my", "\u200b", "card"], ["day"] * 40],
        [["O", "B-thing", "I-thing", "I-thing"], ["O"] * 40],
    )
    history = model.fit(WORDS, TAGS, validation_data=(words, tags), verbose=0).history
    loss, accuracy = model.evaluate(words, tags, verbose=0)
    rows = tx.data.tagged({"words": words, "tags": tags}, labels=model.tags)
    batches = rows.batch(2).map(model.preprocess_samples)  # with -1 between the tags
    assert model.evaluate(batches, verbose=0) == pytest.approx([loss, accuracy])
    assert history["val_loss"] == [pytest.approx(loss)] and history["val_accuracy"] == [pytest.approx(accuracy)]


def test_adapters_train_merge_and_are_loaded_with_the_head(folder, tmp_path):
    model = made(folder)
    tx.freezing.add_lora(model, rank=2)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    fixed = {w.path: w.numpy() for w in model.weights if not w.trainable}
    assert fit(model, epochs=2) == ["block_0", "head"]
    assert all(np.array_equal(w.numpy(), fixed[w.path]) for w in model.weights if w.path in fixed)
    x = tiny.inputs(model)
    expected = ops.convert_to_numpy(model(x))
    tx.freezing.save_adapters(model, tmp_path / "a.safetensors", head=True)
    other = made(folder)
    for layer in (other.head, other.crf):
        layer.set_weights([0 * weight for weight in layer.get_weights()])
    tx.freezing.load_adapters(other, tmp_path / "a.safetensors")
    np.testing.assert_allclose(ops.convert_to_numpy(other(x)), expected, atol=1e-5)
    for found, wanted in zip(other.crf.get_weights(), model.crf.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    tx.freezing.merge_lora(model)
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), expected, atol=1e-5)


def test_groups_thaw_at_rates_that_fall_with_depth(folder):
    model = made(folder)
    model.compile(tx.optimizers.Layerwise(keras.optimizers.SGD(0.1), {"head": 10.0}, decay=0.5), run_eagerly=True)
    seen = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights_of(model)))
    fit(model, tx.callbacks.GradualUnfreezing(), look, epochs=3)
    assert moved(seen[0], seen[1]) == ["block_0", "head"] and moved(seen[1], seen[2]) == [*model.layer_groups()]
    assert model.optimizer.group_multipliers == {"embeddings": 0.25, "block_0": 0.5, "head": 10.0}


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_trains_on_a_loss_in_full(folder, dtype):
    model = made(folder, dtype)
    model.compile(keras.optimizers.Adam(0.02), run_eagerly=True)
    assert moved(weights_of(model), weights_of(model)) == []
    assert fit(model, epochs=2)[-2:] == ["block_0", "head"]
    assert {w.dtype for w in model.weights} == {"float32"} and model.crf.compute_dtype == "float32"


@pytest.mark.parametrize("head", ["crf", pytest.param("linear", marks=pytest.mark.slow)])
def test_xla_trains_to_the_same_weights(folder, head):
    found = []
    for jit_compile in (False, True):
        model = made(folder, head=head, dropout=0.0)
        backbone = model.backbone.get_config() | dict.fromkeys(
            ("dropout", "attention_dropout", "embeddings_dropout"), 0.0
        )
        plain = tx.backbones.Backbone.from_config(backbone)
        plain.set_weights(model.backbone.get_weights())
        still = tx.models.TokenTagger(plain, model.preprocessor, tags=tiny.TAGS, head=head, dropout=0.0)
        still.set_weights(model.get_weights())
        still.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        fit(still, epochs=2)
        found.append(still.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
