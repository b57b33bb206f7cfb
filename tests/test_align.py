"""Alignment of a new embedder with an old index: the map between them, what it costs in recall, and saving it."""

import functools
import types

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import sklearn.linear_model
import tensorflow as tf
import tiny

import tfxfer as tx

TEXTS = [
    f"{a} {b} {c}" for a in ("my card", "the loan", "a bank") for b in ("was", "is not") for c in tiny.WORDS.split()
]
orthogonal = functools.partial(tx.search.align, method="orthogonal")
ROTATION = scipy.stats.ortho_group.rvs(8, random_state=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("align")


@pytest.fixture(scope="module")
def new(folder):
    return tiny.embedder(folder)


@pytest.fixture(scope="module")
def old(new):
    """The same encoder with rotated embeddings."""
    dense = {"class": "Dense", "units": 8, "use_bias": False, "kernel": ROTATION.astype("float32")}
    return tx.models.TextEmbedder(new.backbone, new.preprocessor, modules=[dense, {"class": "Normalize"}])


@pytest.fixture(scope="module")
def alignment(old, new):
    return orthogonal(old, new, TEXTS, ks=(1, 5))


def arrays(rows=120, new_dim=6, old_dim=6, noise=0.0, seed=0, unit=True):
    """Returns old vectors, new vectors and a rotation; the old vectors are the rotated new ones plus noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, new_dim)) + 0.5
    q = scipy.stats.ortho_group.rvs(max(new_dim, old_dim), random_state=seed)[:new_dim, :old_dim]
    y = x @ q + noise * rng.normal(size=(rows, old_dim))
    if unit:
        x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    return y, x, q


def test_a_turned_embedder_is_turned_back_exactly(alignment, old, new):
    np.testing.assert_allclose(alignment.kernel, ROTATION, atol=1e-3)
    np.testing.assert_allclose(alignment(new.encode(TEXTS)), old.encode(TEXTS), atol=1e-5)
    assert alignment.scores["recall@1"] == alignment.scores["recall@5"] == 1.0
    assert alignment.scores["cosine"] == pytest.approx(1.0) and alignment.scores["unaligned_recall@5"] < 0.7
    assert (alignment.scores["texts"], alignment.scores["queries"]) == (len(TEXTS), round(0.2 * len(TEXTS)))
    assert alignment.bias is None and alignment.normalize


@pytest.mark.parametrize(("new_dim", "old_dim"), [(6, 6), (4, 7), (7, 4)])
def test_the_orthogonal_map_is_scipys_or_has_orthonormal_sides(new_dim, old_dim):
    y, x, q = arrays(new_dim=new_dim, old_dim=old_dim, noise=0.1)
    found = orthogonal(y, x)
    if new_dim == old_dim:
        np.testing.assert_allclose(found.kernel, scipy.linalg.orthogonal_procrustes(x, y)[0], atol=1e-5)
    small = found.kernel @ found.kernel.T if new_dim < old_dim else found.kernel.T @ found.kernel
    np.testing.assert_allclose(small, np.eye(min(new_dim, old_dim)), atol=1e-5)
    # No other map of this kind fits the old vectors better.
    rng = np.random.default_rng(1)
    best = np.sum((x @ found.kernel) * y)
    for _ in range(50):
        other = (
            np.linalg.qr(found.kernel + 0.1 * rng.normal(size=q.shape).astype("float32"))[0]
            if new_dim >= old_dim
            else None
        )
        other = np.linalg.qr((found.kernel + 0.1 * rng.normal(size=q.shape)).T)[0].T if other is None else other
        assert np.sum((x @ other) * y) <= best + 1e-9
    assert (found.scores["unaligned_recall@1"] is None) == (new_dim != old_dim)
    assert found(x).shape == y.shape and found(x).dtype == "float32"


def test_lengths_that_count_are_kept_by_a_factor():
    y, x, q = arrays(unit=False)
    found = orthogonal(3.0 * y, x)
    assert not found.normalize
    np.testing.assert_allclose(found.kernel, 3.0 * q, atol=1e-4)
    np.testing.assert_allclose(found(x), 3.0 * y, atol=1e-3)


def test_the_affine_map_is_a_ridge_regression_and_bends_what_a_rotation_cannot():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x @ rng.normal(size=(5, 7)) + rng.normal(size=7) + 0.01 * rng.normal(size=(300, 7))
    found = tx.search.align(y, x)
    assert found.bias.shape == (7,) and found.scores["recall@1"] > 0.9
    assert orthogonal(y, x).scores["recall@1"] < found.scores["recall@1"]
    reference = sklearn.linear_model.Ridge(alpha=1e-3).fit(x, y)
    np.testing.assert_allclose(found(x), reference.predict(x), atol=0.05)


def test_recall_is_that_of_texts_that_the_map_has_not_seen():
    y, x, _ = arrays(rows=60, noise=0.5)
    found = orthogonal(y, x, held_out=0.25, ks=(1, 4), seed=3)
    order = np.random.default_rng(3).permutation(60)
    out, kept = sorted(order[:15]), sorted(order[15:])
    kernel = scipy.linalg.orthogonal_procrustes(x[kept], y[kept])[0]
    shares = {1: [], 4: []}
    for i in out:
        others = [j for j in range(60) if j != i]
        by_old = sorted(others, key=lambda j: -(y[j] @ y[i]))
        by_map = sorted(others, key=lambda j: -(y[j] @ (x[i] @ kernel)))
        for k, each in shares.items():
            each.append(len(set(by_old[:k]) & set(by_map[:k])) / k)
    for k, each in shares.items():
        assert found.scores[f"recall@{k}"] == pytest.approx(np.mean(each)) and 0 < np.mean(each) < 1
    same = orthogonal(y, x, held_out=0.5, seed=9)
    np.testing.assert_array_equal(same.kernel, found.kernel, "the map itself is fitted on all texts")


def test_equal_texts_count_once(old, new, alignment):
    twice = orthogonal(old.encode(TEXTS + TEXTS[::-1]), new, TEXTS + TEXTS[::-1], ks=(1, 5))
    assert twice.scores == pytest.approx(alignment.scores, abs=1e-5)


def test_an_aligned_embedder_searches_the_old_index(old, new, alignment, tmp_path):
    index = tx.search.SemanticIndex(old, TEXTS)
    np.testing.assert_allclose(index.vectors, old.encode(TEXTS), atol=1e-6)
    found = orthogonal(index, new, ks=(1, 5))
    np.testing.assert_allclose(found.kernel, alignment.kernel, atol=1e-4)
    before, aligned = new.encode(TEXTS[:2]), found.embedder(new)
    np.testing.assert_allclose(aligned.encode(TEXTS), old.encode(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(new.encode(TEXTS[:2]), before)
    index.save(tmp_path / "index")
    queries = ["where is my card", "the money was lost"]
    hits = tx.search.SemanticIndex.load(tmp_path / "index", aligned).search(queries, k=3)
    assert hits.ids.tolist() == index.search(queries, k=3).ids.tolist()
    aligned.save(tmp_path / "aligned.keras")
    again = keras.saving.load_model(tmp_path / "aligned.keras")
    np.testing.assert_array_equal(again.encode(queries), aligned.encode(queries))


@pytest.mark.slow
def test_an_aligned_embedder_is_shipped_with_the_old_index(old, new, alignment, tmp_path):
    index = tx.search.SemanticIndex(old, TEXTS, precision="int8")
    aligned = alignment.embedder(new)
    aligned.save_to_preset(tmp_path / "preset")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(again.encode(TEXTS[:3]), aligned.encode(TEXTS[:3]))
    shipped = {"texts": index.texts, "embeddings": index.vectors}
    path = tx.export.saved_model(aligned, tmp_path / "faq", index=shipped, max_k=3)
    search = tf.saved_model.load(path).signatures["search"]
    found = search(query=tf.constant(["where is my card"]), k=tf.constant([3]))["texts"].numpy()[0]
    assert [text.decode() for text in found] == index.search("where is my card", k=3).texts


@pytest.mark.slow
def test_several_layers_and_modules_stay_below_the_map(old, folder):
    parts = tiny.backbone(num_layers=2), tiny.preprocessor(folder)
    kernel = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    modules = [{"class": "Dense", "units": 5, "activation": "tanh", "kernel": kernel}, {"class": "Normalize"}]
    options = {"pooling": "max", "layer_start": 1, "layer_weights": [0.3, 0.9], "prompts": {"query": "where is "}}
    new = tx.models.TextEmbedder(*parts, modules=modules, **options)
    found = tx.search.align(old, new, TEXTS)
    aligned = found.embedder(new)
    assert aligned.embedding_dim == 8 and aligned.prompts == new.prompts
    np.testing.assert_allclose(aligned.encode(TEXTS[:9]), found(new.encode(TEXTS[:9])), atol=1e-5)
    siamese = types.SimpleNamespace(embedder=new)
    np.testing.assert_allclose(found.embedder(siamese).encode(TEXTS[:2]), aligned.encode(TEXTS[:2]), atol=1e-6)


def test_binary_codes_alone_give_no_vectors(old):
    with pytest.raises(ValueError, match="float32 or int8"):
        _ = tx.search.SemanticIndex(old, TEXTS[:9], precision="binary").vectors
    coded = tx.search.SemanticIndex(old, TEXTS[:9], precision="binary", rescore="int8").vectors
    np.testing.assert_allclose(coded, old.encode(TEXTS[:9]), atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "linear"}, "`method`"),
        ({"held_out": 1.0}, "`held_out`"),
        ({"ks": (200,)}, "at least 201 different texts"),
        ({"ks": ()}, "`texts`"),
        ({"texts": ["a"]}, "1 vectors"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(arguments, message):
    y, x, _ = arrays()
    with pytest.raises(ValueError, match=message):
        orthogonal(y, x, **arguments)


def test_sides_that_do_not_fit_are_errors(new, alignment):
    y, x, _ = arrays()
    with pytest.raises(ValueError, match="`new`"):
        orthogonal(y, x[:50])
    with pytest.raises(ValueError, match="different texts"):
        orthogonal(y[:4], x[:4])
    with pytest.raises(ValueError, match="`texts`"):
        orthogonal(y, new)
    with pytest.raises(ValueError, match="`vectors`"):
        alignment(x)
    with pytest.raises(ValueError, match="`new`"):
        orthogonal(y, x).embedder(new)
    with pytest.raises(ValueError, match="`new`"):
        alignment.embedder(object())
