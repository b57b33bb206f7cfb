"""The real weights of all-MiniLM-L6-v2, compared with the reference.

Reference: sentence-transformers 6.2.0, tokenizers 0.23.3, torch 2.15 (golden/minilm_*).
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import processor
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
    # Here, special tokens that a user types stay plain text; the reference parses them.
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


# The precision of bfloat16 depends on the kernels that multiply matrices. With AVX-512, TensorFlow uses oneDNN's;
# bfloat16 instructions change their speed but not their results. Otherwise it uses Eigen's, which are less precise.
# The bounds are for the 1 % quantile and the minimum of the cosines. Measured: 0.99993 and 0.99992 with oneDNN, 0.99973
# and 0.99957 with Eigen.
LEAST_COSINES = {"oneDNN": (0.9999, 0.9998), "Eigen": (0.9996, 0.9994)}


def bfloat16_vectors(texts):
    return tx.models.TextEmbedder.from_preset("all_minilm_l6_v2", dtype="mixed_bfloat16").encode(texts)


def bfloat16_vectors_without_onednn(file):
    """Encodes in a separate process with the kernels that TensorFlow uses on a processor with only AVX2."""
    code = "import sys, numpy, test_minilm as t, json; texts = json.load(open(sys.argv[1] + '.json')); "
    code += "numpy.save(sys.argv[1], t.bfloat16_vectors(texts))"
    here = pathlib.Path(__file__).resolve().parent
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    subprocess.run([sys.executable, "-c", code, str(file)], env=environment, check=True, capture_output=True)
    return np.load(file.with_suffix(".npy"))


@pytest.mark.parametrize("where", ["here", pytest.param("with AVX2 alone", marks=pytest.mark.slow)])
def test_bfloat16_is_as_exact_as_the_kernels_of_the_processor(minilm_folder, reference, tmp_path, where):
    texts, vectors, _ = reference
    kernels = processor.kernels() if where == "here" else None
    if kernels:
        found = bfloat16_vectors(texts)
    else:
        (tmp_path / "vectors.json").write_text(json.dumps(texts), encoding="utf-8")
        found = bfloat16_vectors_without_onednn(tmp_path / "vectors")
    cosines = np.sum(found * vectors, axis=1)
    quantile, least = LEAST_COSINES[kernels or "Eigen"]
    assert np.quantile(cosines, 0.01) > quantile and cosines.min() > least


@pytest.mark.slow
def test_linear_probe_on_cached_embeddings_repeats_its_accuracy(embedder, real_data):
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, test = (tx.data.read(real_data / "banking77" / f"{name}.tsv") for name in ("train", "test"))
    x_train, x_test = embedder.encode(train["text"]), embedder.encode(test["text"])
    probe = linear_model.LogisticRegression(C=10, max_iter=1000).fit(x_train, train["label"])
    assert probe.score(x_test, test["label"]) == pytest.approx(0.928, abs=2e-3)
