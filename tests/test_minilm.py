"""The real weights of all-MiniLM-L6-v2 against the reference's numbers.

Reference: sentence-transformers 6.2.0, tokenizers 0.23.3, torch 2.15 (golden/minilm_*).
"""

import json

import numpy as np
import pytest

import tfxfer as tx


@pytest.fixture(scope="module")
def reference(golden):
    texts = json.loads((golden / "minilm_texts.json").read_text(encoding="utf-8"))
    return texts["texts"], np.load(golden / "minilm_embeddings.npy"), texts["token_ids_untruncated"]


@pytest.fixture(scope="module")
def embedder(minilm_folder):
    return tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")


@pytest.mark.parametrize("batch_size", [1, 32, 300])
def test_embeddings_equal_the_reference_at_any_batch_size(embedder, reference, batch_size):
    texts, vectors, _ = reference
    part = slice(None, None, 4) if batch_size == 1 else slice(None)
    assert np.abs(embedder.encode(texts[part], batch_size=batch_size) - vectors[part]).max() < 2e-6


def test_embeddings_do_not_depend_on_order_or_padding(embedder, reference):
    texts, vectors, _ = reference
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.abs(embedder.encode([texts[i] for i in order]) - vectors[order]).max() < 2e-6
    preprocessor = tx.preprocessing.TextPreprocessor(
        embedder.preprocessor.tokenizer, sequence_length=256, padding_side="left", pad_to_multiple_of=64
    )
    assert np.abs(np.asarray(embedder(preprocessor(texts[:40]))) - vectors[:40]).max() < 2e-6


def test_token_ids_equal_the_reference(embedder, reference):
    texts, _, expected = reference
    ids = embedder.preprocessor.tokenizer(texts).to_list()
    differing = [text for text, ours, theirs in zip(texts, ids, expected, strict=True) if ours != theirs[1:-1]]
    # What a user types stays text: the reference reads special tokens in texts as such.
    assert all("[" in text and "]" in text for text in differing), differing


def test_special_tokens_in_strings_are_the_only_difference(minilm_folder, reference):
    texts, _, expected = reference
    tokenizer = tx.preprocessing.Tokenizer.from_folder(minilm_folder, special_tokens_in_strings=True)
    assert tokenizer(texts).to_list() == [ids[1:-1] for ids in expected]


def test_sts_benchmark_gives_the_published_correlation(embedder, real_data):
    rows = tx.data.read(real_data / "stsb" / "test.tsv")
    scores = tx.evaluation.similarity(embedder, tx.data.pairs(rows, ("sentence1", "sentence2"), target="score"))
    assert scores["spearman"] == pytest.approx(0.8203, abs=2e-4)
    assert scores["pearson"] == pytest.approx(0.8274, abs=2e-4)
    assert scores["rows"] == 1379


def test_bfloat16_stays_within_a_cosine_of_0_9999(minilm_folder, reference):
    texts, vectors, _ = reference
    half = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2", dtype="mixed_bfloat16")
    cosines = np.sum(half.encode(texts) * vectors, axis=1)
    assert np.quantile(cosines, 0.01) > 0.9999 and cosines.min() > 0.9995


@pytest.mark.slow
def test_linear_probe_on_cached_embeddings_repeats_its_accuracy(embedder, real_data):
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, test = (tx.data.read(real_data / "banking77" / f"{name}.tsv") for name in ("train", "test"))
    x_train, x_test = embedder.encode(train["text"]), embedder.encode(test["text"])
    probe = linear_model.LogisticRegression(C=10, max_iter=1000).fit(x_train, train["label"])
    assert probe.score(x_test, test["label"]) == pytest.approx(0.928, abs=2e-3)
