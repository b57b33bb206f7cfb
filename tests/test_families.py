"""Every family as embedder and classifier, from the reference's folders with small random weights."""

import json
import shutil

import families
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfxfer as tx

# The two that differ most from BERT, which all other tests train and export; the slow tests run the others.
FEW = ("deberta_v3", "gemma3")
MODES = ("cls", "mean", "max", "last", "mean_sqrt_len", "weighted_mean")


def pooled(tokens):
    """All poolings of one row's token vectors, concatenated in the order of `MODES`."""
    n = len(tokens)
    weights = np.arange(1, n + 1)[:, None]
    return np.concatenate(
        [
            tokens[0],
            tokens.mean(axis=0),
            tokens.max(axis=0),
            tokens[-1],
            tokens.sum(axis=0) / np.sqrt(n),
            (tokens * weights).sum(axis=0) / weights.sum(),
        ]
    )


def call(model, texts):
    """A model's outputs for texts, computed eagerly: no graph is traced first."""
    return keras.ops.convert_to_numpy(model(model.preprocessor(texts)))


def names(fast):
    """All folders as parameters, slow except those in `fast`."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in families.NAMES]


@pytest.mark.parametrize("name", families.NAMES)
def test_family_embeds_with_every_pooling_and_either_padding_side(golden, name):
    family = families.folder(golden, name)
    texts = json.loads((family.parent / "texts.json").read_text(encoding="utf-8"))["texts"]
    rows, _, masks, states = families.expected(golden, name)
    expected = [pooled(hidden[mask == 1]) for hidden, mask in zip(states, masks, strict=True)]
    texts = [texts[i] for i in rows]
    embedder = tx.models.TextEmbedder.from_preset(family, sequence_length=48, pooling=MODES, normalize=False)
    options = {"padding_side": "left", "segment_ids": embedder.backbone.has_segment_ids}
    left = tx.preprocessing.TextPreprocessor(embedder.preprocessor.tokenizer, 48, **options)
    size = 4 * embedder.backbone.hidden_dim
    for vectors in (embedder.encode(texts, batch_size=5), keras.ops.convert_to_numpy(embedder(left(texts)))):
        # With 48 tokens, the sum over sqrt(length) is seven times as large as a token's vector, and so is its rounding.
        np.testing.assert_allclose(vectors, expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(vectors[:, :size], [row[:size] for row in expected], atol=2e-5)


@pytest.mark.parametrize("name", names(FEW))
def test_family_classifies_after_a_step_of_training(golden, name, tmp_path):
    family = families.folder(golden, name)
    texts = ["where is my card", "the loan was paid", "hello there", "my card again"]
    model = tx.models.TextClassifier.from_preset(family, labels=["card", "loan"], sequence_length=16)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(texts, ["card", "loan", "loan", "card"], seed=0, verbose=0)
    still = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(w.numpy(), old)]
    # A key bias adds the same value to all scores of a query, and the softmax cancels it.
    assert not [path for path in still if "key" not in path], still
    labels, probabilities = model.classify(texts)
    assert set(labels) <= {"card", "loan"} and np.isfinite(probabilities).all()
    path = tx.export.saved_model(model, tmp_path / family.name)
    import tensorflow as tf

    served = tf.saved_model.load(path).signatures["serving_default"]
    np.testing.assert_allclose(served(text=tf.constant(texts))["probabilities"], probabilities, atol=1e-5)


@pytest.mark.parametrize("name", names(("gemma3",)))
def test_adapters_and_kept_output_work_on_every_block(golden, name):
    texts = ["where is my card", "the loan was paid", "hello there", "my card again"]
    folder = families.folder(golden, name)
    model = tx.models.TextClassifier.from_preset(folder, labels=["card", "loan"], sequence_length=16)
    last = len(model.backbone.layer_groups()) - 2
    # The lower blocks are frozen and their output is cached; the last block has adapters.
    tx.freezing.add_lora(model, rank=2, targets="*", groups=f"block_{last}")
    model.compile(keras.optimizers.SGD(0.1))
    before = {name: weight.numpy() for name, weight in model.backbone.lora_variables().items()}
    tx.freezing.AboveFrozen(model, progress=False).fit(texts, ["card", "loan", "loan", "card"], verbose=0)
    moved = [name for name, weight in model.backbone.lora_variables().items() if np.any(weight.numpy() != before[name])]
    assert any(name.endswith("value/b") for name in moved)
    expected = call(model, texts)
    tx.freezing.merge_lora(model)
    np.testing.assert_allclose(call(model, texts), expected, atol=2e-5)


@pytest.mark.parametrize(("folder", "model_type"), [("xlm_roberta", "camembert")])
def test_families_of_one_encoder_read_the_same_files(golden, tmp_path, folder, model_type):
    shutil.copytree(golden / "families" / folder, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    made = tx.models.TextEmbedder.from_preset(tmp_path / "copy")
    assert made.backbone.family == model_type
    expected = tx.models.TextEmbedder.from_preset(golden / "families" / folder)
    np.testing.assert_array_equal(call(made, ["une phrase", "a b"]), call(expected, ["une phrase", "a b"]))


def test_modernbert_with_gemmas_tokenizer_is_mmbert(golden, tmp_path):
    theirs, folder = families.folder(golden, "gemma3"), tmp_path / "mmbert"
    folder.mkdir()
    for file in theirs.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)
    config = json.loads((families.folder(golden, "modernbert") / "config.json").read_text(encoding="utf-8"))
    size = json.loads((theirs / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    ids = {"bos_token_id": 2, "cls_token_id": 1, "eos_token_id": 1, "sep_token_id": 1, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**config, **ids, "vocab_size": size}))
    # ModernBERT's own weights, except for a token table of Gemma's size.
    weights = load_file(families.folder(golden, "modernbert") / "model.safetensors")
    (table,) = (name for name in weights if name.endswith("tok_embeddings.weight"))
    weights[table] = np.random.default_rng(0).normal(size=(size, weights[table].shape[1])).astype("float32")
    save_file(weights, folder / "model.safetensors")

    embedder = tx.models.TextEmbedder.from_preset(folder, sequence_length=48)
    assert (embedder.backbone.family, embedder.backbone.vocabulary_size) == ("modernbert", size)
    texts = json.loads((theirs.parent / "texts.json").read_text(encoding="utf-8"))["texts"]
    rows, expected, masks, _ = families.expected(golden, "gemma3")
    texts = [texts[i] for i in rows]
    x = {name: keras.ops.convert_to_numpy(value) for name, value in embedder.preprocessor(texts).items()}
    length = x["token_ids"].shape[1]
    assert not masks[:, length:].any()
    np.testing.assert_array_equal(x["padding_mask"], masks[:, :length])
    np.testing.assert_array_equal(x["token_ids"] * masks[:, :length], (expected * masks)[:, :length])
    vectors = call(embedder, texts)
    assert vectors.shape == (len(rows), 32) and np.linalg.matrix_rank(vectors) == len(rows)
    embedder.save_to_preset(tmp_path / "saved")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "saved")
    np.testing.assert_array_equal(call(again, texts), vectors)
    embedder.save_to_preset(tmp_path / "back", format="huggingface")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "back", sequence_length=48)
    np.testing.assert_array_equal(call(again, texts), vectors)
