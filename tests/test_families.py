"""Every family as embedder and classifier, from the reference's folders of small random weights.

Reference: transformers 5.23.0 and 5.24.0, tokenizers 0.23.3, torch 2.15 and 2.14.1 (golden/families and families2). Row
12 is the empty string; for tokenizers without special tokens (GPT, GPT-2) a row of padding alone, which the reference
leaves undefined.
"""

import json
import shutil

import keras
import numpy as np
import pytest

import tfxfer as tx

FAMILIES = {
    "families": (
        "albert",
        "bert",
        "bert_cased",
        "deberta_v3",
        "distil_bert",
        "electra",
        "gpt2",
        "roberta",
        "xlm_roberta",
    ),
    "families2": (
        "bert_unigram",
        "eurobert",
        "gemma3",
        "gte",
        "llama_both_ways",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "openai_gpt",
        "qwen3",
        "t5",
        "t5_gated",
    ),
}
ALL = [(kind, name) for kind, names in FAMILIES.items() for name in names]
# One of each kind of block; the slow tests have the others.
FEW = ("bert", "deberta_v3", "gemma3", "modernbert", "t5")
NAMED = [(pair, pair[1]) for pair in ALL]
EACH = [pytest.param(pair, id=name, marks=() if name in FEW else pytest.mark.slow) for pair, name in NAMED]
MODES = ("cls", "mean", "max", "last", "mean_sqrt_len", "weighted_mean")


def pooled(tokens):
    """All poolings of one row's token vectors, side by side, in the order of `MODES`."""
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


@pytest.fixture(params=ALL, ids=lambda pair: pair[1])
def family(request, golden):
    return golden.joinpath(*request.param)


@pytest.fixture(
    params=[pytest.param(pair, id=name, marks=() if name == "gemma3" else pytest.mark.slow) for pair, name in NAMED]
)
def adapted_family(request, golden):
    return golden.joinpath(*request.param)


@pytest.fixture(params=EACH)
def trained_family(request, golden):
    return golden.joinpath(*request.param)


def test_family_embeds_with_every_pooling_and_either_padding_side(family):
    texts = json.loads((family.parent / "texts.json").read_text(encoding="utf-8"))["texts"]
    with np.load(family / "expected.npz") as loaded:
        rows = np.flatnonzero(loaded["attention_mask"].sum(axis=1))
        expected = [
            pooled(hidden[mask == 1])
            for hidden, mask in zip(
                loaded["last_hidden_state"][rows], loaded["attention_mask"][rows].astype(int), strict=True
            )
        ]
    embedder = tx.models.TextEmbedder.from_preset(family, sequence_length=48, pooling=MODES, normalize=False)
    # The sum over sqrt(length) of 48 tokens is seven times as large as a token's vector, and so is its rounding.
    np.testing.assert_allclose(embedder.encode([texts[i] for i in rows], batch_size=5), expected, atol=1e-4, rtol=1e-4)
    tokens = tx.models.TextEmbedder.from_preset(family, sequence_length=48, pooling=MODES[:4], normalize=False)
    size = 4 * tokens.backbone.hidden_dim
    np.testing.assert_allclose(tokens.encode([texts[i] for i in rows]), [row[:size] for row in expected], atol=2e-5)
    options = {"padding_side": "left", "segment_ids": embedder.backbone.has_segment_ids}
    left = tx.preprocessing.TextPreprocessor(embedder.preprocessor.tokenizer, 48, **options)
    np.testing.assert_allclose(embedder(left([texts[i] for i in rows])), expected, atol=1e-4, rtol=1e-4)


def test_family_classifies_after_a_step_of_training(trained_family, tmp_path):
    family = trained_family
    texts = ["where is my card", "the loan was paid", "hello there", "my card again"]
    model = tx.models.TextClassifier.from_preset(family, labels=["card", "loan"], sequence_length=16)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(texts, ["card", "loan", "loan", "card"], seed=0, verbose=0)
    still = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(w.numpy(), old)]
    # Key biases add the same to all scores of a query, which the softmax takes away again.
    assert not [path for path in still if "key" not in path], still
    labels, probabilities = model.classify(texts)
    assert set(labels) <= {"card", "loan"} and np.isfinite(probabilities).all()
    path = tx.export.saved_model(model, tmp_path / family.name)
    import tensorflow as tf

    served = tf.saved_model.load(path).signatures["serving_default"]
    np.testing.assert_allclose(served(text=tf.constant(texts))["probabilities"], probabilities, atol=1e-5)


def test_adapters_and_kept_output_work_on_every_block(adapted_family):
    texts = ["where is my card", "the loan was paid", "hello there", "my card again"]
    model = tx.models.TextClassifier.from_preset(adapted_family, labels=["card", "loan"], sequence_length=16)
    last = len(model.backbone.layer_groups()) - 2
    # The lower blocks are frozen, computed once and kept; the last one has adapters.
    tx.freezing.add_lora(model, rank=2, targets="*", groups=f"block_{last}")
    model.compile(keras.optimizers.SGD(0.1))
    before = {name: weight.numpy() for name, weight in model.backbone.lora_variables().items()}
    tx.freezing.AboveFrozen(model, progress=False).fit(texts, ["card", "loan", "loan", "card"], epochs=2, verbose=0)
    moved = [name for name, weight in model.backbone.lora_variables().items() if np.any(weight.numpy() != before[name])]
    assert any(name.endswith("value/b") for name in moved)
    expected = model.predict(texts)
    tx.freezing.merge_lora(model)
    np.testing.assert_allclose(model.predict(texts), expected, atol=2e-5)


@pytest.mark.parametrize(("folder", "model_type"), [("xlm_roberta", "camembert")])
def test_families_of_one_encoder_read_the_same_files(golden, tmp_path, folder, model_type):
    shutil.copytree(golden / "families" / folder, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    made = tx.models.TextEmbedder.from_preset(tmp_path / "copy")
    assert made.backbone.family == model_type
    expected = tx.models.TextEmbedder.from_preset(golden / "families" / folder)
    np.testing.assert_array_equal(made.encode(["une phrase", "a b"]), expected.encode(["une phrase", "a b"]))


def test_training_leaves_nothing_in_the_registry_of_gradients(golden):
    from tensorflow.python.framework import ops

    def entries():
        return {name for name in ops.gradient_registry.list() if name.startswith("CustomGradient-")}

    before = entries()
    model = tx.models.TextClassifier.from_preset(golden / "families" / "bert", labels=["a", "b"], sequence_length=16)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(["where is my card", "hello"], ["a", "b"], verbose=0)
    assert entries() == before
