"""Every family as embedder and classifier, from the reference's folders of small random weights.

Reference: transformers 5.23.0, tokenizers 0.23.3, torch 2.15 (golden/families). Row 12 is the empty string, for GPT-2 a
row of padding alone, which the reference leaves undefined.
"""

import json

import keras
import numpy as np
import pytest

import tfxfer as tx

FAMILIES = (
    "albert",
    "bert",
    "bert_cased",
    "deberta_v3",
    "distil_bert",
    "electra",
    "gpt2",
    "roberta",
    "xlm_roberta",
)
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


@pytest.fixture(params=FAMILIES)
def family(request, golden):
    return golden / "families" / request.param


def test_family_embeds_with_every_pooling_and_either_padding_side(family):
    texts = json.loads((family.parent / "texts.json").read_text(encoding="utf-8"))["texts"]
    rows = [i for i in range(16) if not (family.name == "gpt2" and i == 12)]
    with np.load(family / "expected.npz") as loaded:
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
    left = tx.preprocessing.TextPreprocessor(embedder.preprocessor.tokenizer, 48, padding_side="left")
    np.testing.assert_allclose(embedder(left([texts[i] for i in rows])), expected, atol=1e-4, rtol=1e-4)


def test_family_classifies_after_a_step_of_training(family, tmp_path):
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
