"""Static embeddings: sentence-transformers' module matches its numbers, Model2Vec matches a mean computed by hand.

Texts and numbers are in golden/families and golden/static.
"""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

import tfxfer as tx

FOLDER = pathlib.Path(__file__).parent / "golden" / "static"


@pytest.fixture(scope="module")
def texts():
    return json.loads((FOLDER.parent / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected_st.npz") as loaded:
        return loaded["encode"]


def model2vec(folder, **tensors):
    """A Model2Vec folder with the tokenizer of the reference folder."""
    shutil.copy(FOLDER / "tokenizer.json", folder)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def by_hand(folder, table, texts):
    """The mean of the vectors of a text's known tokens, scaled to unit length."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    unknown = tokenizer.token_to_id("[UNK]")
    rows = []
    for text in texts:
        ids = [i for i in tokenizer.encode(text, add_special_tokens=False).ids if i != unknown]
        mean = table[ids].mean(axis=0) if ids else np.zeros(table.shape[1])
        rows.append(mean / max(np.linalg.norm(mean), 1e-12))
    return np.array(rows)


def test_a_static_embedding_gives_the_references_vectors(texts, expected):
    embedder = tx.models.TextEmbedder.from_preset(FOLDER)
    np.testing.assert_allclose(embedder.encode(texts), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(texts[3]), expected[3], atol=1e-6)
    assert embedder.backbone.family == "static"
    long = " ".join(texts) * 20  # nothing is truncated
    assert int(embedder.preprocessor([long])["padding_mask"].numpy().sum()) > 512


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_model2vec_leaves_unknown_tokens_out_and_folds_mapping_and_weights(texts, tmp_path, dtype):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 8)).astype(dtype)
    mapping, weights = rng.integers(0, 50, 640), rng.random(640).astype("float32")
    folder = model2vec(tmp_path, embeddings=table, mapping=mapping, weights=weights)
    embedder = tx.models.TextEmbedder.from_preset(folder)
    whole = table.astype("float32")[mapping] * weights[:, None]
    np.testing.assert_allclose(embedder.encode(texts), by_hand(folder, whole, texts), atol=1e-6)
    embedder.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.encode(texts), embedder.encode(texts))


def test_a_static_encoder_trains_freezes_and_is_served(texts, tmp_path):
    import tensorflow as tf

    model = tx.models.TextClassifier.from_preset(FOLDER, labels=["a", "b"])
    before = model.backbone.token_embedding.embeddings.numpy()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.fit(texts[:4], ["a", "b", "a", "b"], verbose=0)
    assert not np.array_equal(model.backbone.token_embedding.embeddings.numpy(), before)
    tx.freezing.freeze(model, below=0)
    assert len(model.trainable_weights) == 2
    path = tx.export.saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(texts))["probabilities"]
    np.testing.assert_allclose(served, model.classify(texts).probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": np.zeros((4, 2), "float32")}, "embedding.weight"),
        ({"embeddings": np.zeros(4, "float32")}, "embedding.weight"),
        ({"embeddings": np.zeros((4, 2), "float32"), "mapping": np.array([0, 4] * 320)}, "rows of the table, 0 to 3"),
        ({"embeddings": np.zeros((4, 2), "float32")}, "a tokenizer with at most vocabulary_size=4 tokens"),
        ({"embeddings": np.full((640, 2), np.nan, "float32")}, "embeddings"),
    ],
)
def test_tables_that_do_not_fit_are_errors(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        tx.models.TextEmbedder.from_preset(model2vec(tmp_path, **tensors))


def test_what_needs_blocks_says_so(tmp_path):
    embedder = tx.models.TextEmbedder.from_preset(FOLDER)
    with pytest.raises(ValueError, match="an encoder with blocks"):
        tx.freezing.add_lora(embedder)
    with pytest.raises(ValueError, match="static embeddings have no blocks"):
        tx.backbones.Backbone("static", vocabulary_size=9, hidden_dim=4, num_layers=2)
