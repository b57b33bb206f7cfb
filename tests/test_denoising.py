"""Denoising autoencoders: deletion, the decoder, training on unlabeled texts, and the encoder after training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny
from keras import ops
from test_masked import SPECIAL, drawn

import tfxfer as tx
from tfxfer import backbones, data, models
from tfxfer.backbones.families import FAMILIES


def model_of(folder, family="bert", preprocessor=None, **arguments):
    backbone = backbones.Backbone(
        family,
        vocabulary_size=len(tiny.VOCABULARY),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=24,
        **({"embedding_dim": 4} if family in ("albert", "electra") else {}),
    )
    has_segments = FAMILIES[family].has_segment_ids
    preprocessor = preprocessor or tiny.preprocessor(folder, segment_ids=has_segments)
    model = models.DenoisingAutoencoder(backbone, preprocessor, **arguments)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(0, 0.2, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(("side", "rate"), [("right", 0.6), ("left", 0.9)])
def test_what_is_deleted_is_a_function_of_seed_epoch_and_row(side, rate, tmp_path):
    preprocessor = tiny.preprocessor(tmp_path, padding_side=side)
    column = data.DeletedTextColumn(preprocessor, rate)
    plain = preprocessor(tiny.TEXTS)
    ids, mask = plain["token_ids"].numpy(), plain["padding_mask"].numpy()
    whole = [row[real == 1].tolist() for row, real in zip(ids, mask, strict=True)]
    for size in (3, 20):
        batches = data.batches(tiny.TEXTS, {"text": column}, size, seed=7)
        for epoch in (0, 1):
            seen = []
            for x, y in batches.rest(epoch):
                x, y = {key: value.numpy() for key, value in x.items()}, y.numpy()
                assert set(x) == {"token_ids", "padding_mask", "segment_ids", "decoder_ids", "decoder_mask"}
                for i in range(len(y)):
                    before = x["decoder_ids"][i][x["decoder_mask"][i] == 1].tolist()
                    after = y[i][y[i] >= 0].tolist()
                    row = whole.index([before[0], *after])
                    assert before == whole[row][:-1]
                    shares = {
                        place: (drawn(7, epoch, row, place, 1) >> 38) / 2**24
                        for place, token in enumerate(whole[row])
                        if token not in SPECIAL
                    }
                    stays = [
                        token
                        for place, token in enumerate(whole[row])
                        if place not in shares or shares[place] >= rate or shares[place] == max(shares.values())
                    ]
                    assert x["token_ids"][i][x["padding_mask"][i] == 1].tolist() == stays
                    seen.append(row)
            assert sorted(seen) == list(range(len(whole)))


def test_the_decoder_sees_the_vector_and_what_came_before_and_nothing_else(tmp_path):
    model = model_of(tmp_path, num_layers=2, pooling=("cls", "mean"))
    x = tiny.inputs(model)
    logits = ops.convert_to_numpy(model(x))
    changed = {**x, "decoder_ids": x["decoder_ids"].copy()}
    changed["decoder_ids"][:, 2] = 20
    other = ops.convert_to_numpy(model(changed))
    np.testing.assert_allclose(other[:, :2], logits[:, :2], atol=1e-5)
    assert np.abs(other[:3, 2] - logits[:3, 2]).max() > 1e-3
    texts = {**x, "token_ids": x["token_ids"].copy()}
    texts["token_ids"][0, 1] = 25  # changes the encoder's input in the first row
    other = ops.convert_to_numpy(model(texts))
    assert np.abs(other[0] - logits[0]).max() > 1e-3
    np.testing.assert_allclose(other[1:], logits[1:], atol=1e-5)


def test_attention_to_one_vector_is_the_dense_layer_that_stands_for_it():
    rng = np.random.default_rng(0)
    attention = keras.layers.MultiHeadAttention(2, 4)
    query, vector = rng.normal(size=(1, 5, 8)), rng.normal(size=(1, 1, 8))
    found = ops.convert_to_numpy(attention(query, vector))
    value, output = attention._value_dense, attention._output_dense
    np.testing.assert_allclose(found, np.repeat(output(value(vector)), 5, axis=1), atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = model_of(tmp_path_factory.mktemp("denoising"), pooling=("cls", "max"))
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(0.02))
    history = model.fit(tiny.TEXTS, batch_size=4, epochs=8, seed=0, verbose=0, validation_data=tiny.TEXTS)
    return model, before, history.history


def test_it_learns_and_trains_encoder_table_and_decoder(trained):
    model, before, history = trained
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    moved = [np.abs(a - b).max() > 0 for a, b in zip(model.get_weights(), before, strict=True)]
    assert all(moved[: len(model.backbone.weights)][:1]) and np.mean(moved) > 0.9
    scores = [model.evaluate(tiny.TEXTS, batch_size=4, verbose=0, return_dict=True) for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0]["perplexity"] == pytest.approx(history["val_perplexity"][-1], rel=1e-4)


def test_the_encoder_goes_on_without_the_decoder(trained, tmp_path):
    model, _, _ = trained
    model.save_to_preset(tmp_path / "saved")
    embedder = models.TextEmbedder.from_model(model)  # without a warning
    assert embedder.pooling == ("cls", "max")
    again = models.TextEmbedder.from_preset(tmp_path / "saved", normalize=False)
    vectors = keras.Model(model.input, model.get_layer("pooling").output)(tiny.inputs(model))
    np.testing.assert_allclose(again.encode(tiny.TEXTS[:5]), ops.convert_to_numpy(vectors), atol=1e-5)
    whole = models.DenoisingAutoencoder.from_preset(tmp_path / "saved", deletion_rate=0.3)
    assert whole.deletion_rate == 0.3
    np.testing.assert_allclose(
        ops.convert_to_numpy(whole(tiny.inputs(model))), ops.convert_to_numpy(model(tiny.inputs(model))), atol=1e-6
    )
    grown = model.with_added_tokens(["IBAN"])
    assert grown.head.vocabulary_size == len(tiny.VOCABULARY) + 1


@pytest.mark.slow
def test_an_export_is_that_of_the_embedder(trained, tmp_path):
    model, _, _ = trained
    served = tf.saved_model.load(tx.export.saved_model(model, tmp_path / "served")).signatures["embed"]
    expected = model.served_model().encode(tiny.TEXTS)
    np.testing.assert_allclose(served(text=tf.constant(tiny.TEXTS))["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "modernbert", "albert", "deberta_v3", "mpnet", "gpt2", "t5"])
def test_every_kind_of_embeddings_can_be_decoded_with(family, tmp_path):
    model = model_of(tmp_path, family)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(tiny.TEXTS)).all()
    assert [len(row) for row in model.predict(tiny.TEXTS[:3], verbose=0)] == [6, 5, 7]


def test_what_cannot_be_is_an_error(tmp_path):
    for arguments, message in (
        ({"deletion_rate": 0.0}, "`deletion_rate`"),
        ({"deletion_rate": 1.0}, "`rate`.*below 1"),
        ({"num_layers": 0}, "`num_layers`"),
        ({"dropout": 2.0}, "`dropout`"),
    ):
        with pytest.raises(ValueError, match=message):
            models.DenoisingAutoencoder(tiny.backbone(), tiny.preprocessor(tmp_path), **arguments)
    quantized = tiny.backbone()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match=r"`backbone`.*not quantized"):
        models.DenoisingAutoencoder(quantized)
    model = model_of(tmp_path)
    with pytest.raises(NotImplementedError, match="Quantize the model created from it"):
        model.quantize("int8")
    with pytest.raises(ValueError, match=r"`y`.*texts make the targets"):
        model.fit(tiny.TEXTS, tiny.LABELS)
    with pytest.raises(ValueError, match="`format`"):
        model.save_to_preset(tmp_path / "hf", format="huggingface")


@pytest.mark.slow
def test_jax_trains_and_gives_the_same_numbers(tmp_path):
    from test_contracts import run_afresh

    model = model_of(tmp_path)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "expected.npz", *model.predict(tiny.TEXTS, verbose=0))
    run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        expected = np.load({str(tmp_path / "expected.npz")!r})
        for name, row in zip(expected.files, model.predict(tiny.TEXTS, verbose=0), strict=True):
            np.testing.assert_allclose(row, expected[name], atol=1e-4)
        history = model.fit(tiny.TEXTS, epochs=1, batch_size=4, seed=0, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
    """)
