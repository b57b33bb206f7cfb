"""Top-k, codes, the index and paraphrases against naive loops."""

import re
import sys
import tracemalloc
import types

import numpy as np
import pytest
import scipy.spatial.distance
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfxfer import data, evaluation, models, search

RNG = np.random.default_rng(2)


def scores_of(queries, corpus, name):
    """All similarities, from SciPy's distances."""
    if name == "dot":
        return queries @ corpus.T
    if name == "cosine":
        return 1 - scipy.spatial.distance.cdist(queries, corpus, "cosine")
    return -scipy.spatial.distance.cdist(queries, corpus, {"euclidean": "euclidean", "manhattan": "cityblock"}[name])


def stable_sort(scores, k):
    """Ids from a stable sort of all scores: ties go to the lower id."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.fixture(params=[(3, 4), (1000, 1000)], ids=["small blocks", "one block"])
def in_blocks(request, blocks):
    with blocks(*request.param):
        yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
def test_top_k_equals_a_sort_of_all_scores(name, dtype, in_blocks):
    queries, corpus = RNG.normal(size=(10, 5)).astype(dtype), RNG.normal(size=(60, 5)).astype(dtype)
    expected = scores_of(queries.astype("float64"), corpus.astype("float64"), name)
    for k in (1, 7, 60):
        ids, scores = search.top_k(queries, corpus, k, similarity=name)
        assert ids.dtype == np.int64 and ids.shape == scores.shape == (10, k)
        np.testing.assert_allclose(scores, np.take_along_axis(expected, ids, axis=1), atol=3e-6)
        np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :k], atol=3e-6)
        assert (np.diff(scores, axis=1) <= 0).all()


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays("float64", (3, 2), elements=st.integers(-2, 2)),
    hnp.arrays("float64", st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(-2, 2)),
    st.integers(1, 8),
    st.integers(1, 4),
    st.sampled_from(["dot", "euclidean", "manhattan"]),
    st.data(),
)
def test_ties_go_to_the_lower_id_whatever_the_blocks(blocks, queries, corpus, corpus_chunk, query_chunk, name, draw):
    k = draw.draw(st.integers(1, len(corpus)))
    with blocks(query_chunk, corpus_chunk):
        ids, _ = search.top_k(queries, corpus, k, similarity=name)
    np.testing.assert_array_equal(ids, stable_sort(scores_of(queries, corpus, name), k))


def test_corpus_in_ascending_order_of_score_is_no_worst_case_for_correctness(in_blocks):
    corpus = np.arange(50.0)[:, None]
    ids, scores = search.top_k([[1.0], [-1.0]], corpus, 5, similarity="dot")
    assert ids.tolist() == [[49, 48, 47, 46, 45], [0, 1, 2, 3, 4]] and scores[0, 0] == 49.0


def test_equal_vectors_have_distance_0():
    vectors = RNG.normal(size=(20, 64)).astype("float32")
    ids, scores = search.top_k(vectors, vectors, 1, similarity="euclidean")
    assert (ids[:, 0] == np.arange(20)).all() and np.abs(scores).max() < 1e-6


def test_memory_is_bounded_by_the_blocks():
    queries, corpus = RNG.normal(size=(3000, 4)).astype("float32"), RNG.normal(size=(40_000, 4)).astype("float32")
    tracemalloc.start()
    search.top_k(queries, corpus, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < queries.shape[0] * corpus.shape[0] * 4 / 4  # all scores at once would take 480 MB


def test_progress_is_shown_on_demand(capsys):
    search.top_k([[1.0]], [[1.0], [2.0]], 1)
    assert not capsys.readouterr().out
    search.top_k([[1.0]], [[1.0], [2.0]], 1, progress=True)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[1.0]], np.zeros((0, 1)), 1), "nothing to find"),
        (([[1.0]], [[1.0], [2.0]], 3), r"an int <= 2, the size of the corpus.*min\(k, len\(corpus\)\)"),
        (([[1.0]], [[1.0]], 0), "`k`"),
        (([[1.0, 2.0]], [[1.0]], 1), "1 components"),
        (([[np.nan]], [[1.0]], 1), "`queries`.*finite"),
        (([[1.0]], [[np.inf]], 1), "`corpus`.*finite"),
        (([1.0], [[1.0]], 1), r"\(rows, dim\)"),
    ],
)
def test_bad_input_of_top_k_is_an_error(arguments, said):
    with pytest.raises(ValueError, match=said):
        search.top_k(*arguments)


# === Codes ===


@settings(max_examples=60, deadline=None)
@given(hnp.arrays("float32", st.tuples(st.integers(1, 9), st.integers(1, 70)), elements=st.floats(-9, 9, width=32)))
def test_int8_is_off_by_half_a_step_and_binary_keeps_the_signs(vectors):
    codes = search.quantize(vectors)
    step = (vectors.max(axis=0) - vectors.min(axis=0)) / 254
    assert codes.codes.dtype == np.int8 and codes.shape == vectors.shape and codes.nbytes == vectors.size
    assert (np.abs(codes.dequantize() - vectors) <= step / 2 + 1e-5).all()
    bits = search.quantize(vectors, "binary")
    np.testing.assert_array_equal(bits.dequantize(), np.where(vectors > 0, 1.0, -1.0))
    np.testing.assert_array_equal(bits[[0]].dequantize(), bits.dequantize()[:1])
    assert bits.nbytes == len(vectors) * 8 * -(-vectors.shape[1] // 64)


def test_calibration_gives_the_ranges_and_cuts_what_is_outside():
    codes = search.quantize([[3.0], [0.0]], calibration=[[-1.0], [1.0]])
    assert codes.codes.tolist() == [[127], [0]]
    again = search.quantize([[-1.0]], calibration=codes)
    assert again.codes.tolist() == [[-127]] and again.scale is codes.scale


@pytest.mark.parametrize("dim", [5, 64, 100])
def test_binary_search_equals_counting_equal_signs(dim, in_blocks):
    queries, corpus = RNG.normal(size=(9, dim)), RNG.normal(size=(40, dim))
    ids, scores = search.top_k(search.quantize(queries, "binary"), search.quantize(corpus, "binary"), 12)
    expected = np.sign(queries) @ np.sign(corpus).T / dim
    np.testing.assert_array_equal(ids, stable_sort(np.round(expected, 9), 12))
    np.testing.assert_allclose(scores, np.take_along_axis(expected, ids, axis=1), atol=1e-6)
    mixed, _ = search.top_k(queries, search.quantize(corpus, "binary"), 12)
    np.testing.assert_array_equal(mixed, stable_sort(scores_of(queries, np.sign(corpus), "cosine"), 12))


@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
def test_int8_search_equals_a_search_of_the_values(name, in_blocks):
    queries, corpus = RNG.normal(size=(9, 8)).astype("float32"), RNG.normal(size=(40, 8)).astype("float32")
    codes = search.quantize(corpus)
    found = search.top_k(queries, codes, 5, similarity=name)
    expected = search.top_k(queries, codes.dequantize(), 5, similarity=name)
    np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: search.quantize([[1.0]], "int4"), "`precision`"),
        (lambda: search.quantize([[1.0]], calibration=[[1.0, 2.0]]), "`calibration`"),
        (lambda: search.quantize([[1.0]], calibration=search.quantize([[1.0]], "binary")), "`calibration`"),
        (lambda: search.quantize([[1.0]], calibration=np.zeros((0, 1))), "`calibration`"),
        (lambda: search.top_k([[1.0]], search.quantize([[1.0]], "binary"), 1, similarity="dot"), "`similarity`"),
    ],
)
def test_codes_that_do_not_fit_are_errors(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# === The index ===


class Encoder:
    """Encodes each text as a random vector, the same each time."""

    prompts = {}

    def __init__(self, dim=48):
        self.dim, self.prompted = dim, []

    def encode(self, texts, prompt="", **kwargs):
        self.prompted.append(prompt)
        return np.stack([np.random.default_rng(sum(map(ord, text))).normal(size=self.dim) for text in texts]).astype(
            "float32"
        )


TEXTS = [f"text {chr(97 + i) * (i + 1)}" for i in range(26)]
RESCORE = {"float32": [None], "int8": [None, "float32"], "binary": [None, "binary", "int8", "float32"]}
SETTINGS = [(precision, rescore) for precision, options in RESCORE.items() for rescore in options]


def test_the_precisions_and_what_their_hits_are_scored_again_by_are_all_tested():
    def options(**settings):
        with pytest.raises(ValueError, match="one of") as caught:
            search.SemanticIndex(Encoder(), ["a"], **settings)
        return [None if name == "None" else name for name in re.findall(r"None|(?<=')\w+(?=')", listed(caught))]

    def listed(caught):
        return str(caught.value).partition("one of ")[2].partition(". Received")[0].partition(" for precision")[0]

    assert options(precision="int4") == list(RESCORE)
    assert {precision: options(precision=precision, rescore="int4") for precision in RESCORE} == RESCORE


@pytest.mark.parametrize(("precision", "rescore"), SETTINGS)
def test_index_finds_its_own_texts_at_any_precision(precision, rescore, tmp_path):
    embedder = Encoder()
    index = search.SemanticIndex(embedder, TEXTS, precision=precision, rescore=rescore)
    hits = index.search(TEXTS[5:9], 3)
    assert [row[0] for row in hits.texts] == TEXTS[5:9] and hits.ids[:, 0].tolist() == [5, 6, 7, 8]
    one = index.search(TEXTS[5], 3)
    assert one.ids.tolist() == hits.ids[0].tolist() and one.texts == hits.texts[0] and one.scores.shape == (3,)
    np.testing.assert_array_equal(index.search(embedder.encode(TEXTS[5:9]), 3).ids, hits.ids)
    np.testing.assert_array_equal(index.search(embedder.encode(TEXTS[5:6])[0], 3).ids, hits.ids[0])
    index.save(tmp_path / "index")
    loaded = search.SemanticIndex.load(tmp_path / "index", embedder)
    for each in (index, loaded):
        each.add(["text of later"])
        assert len(each) == 27 and each.search("text of later", 1).texts == ["text of later"]
    np.testing.assert_array_equal(loaded.search(TEXTS, 5).scores, index.search(TEXTS, 5).scores)


def test_rescoring_with_float_vectors_of_all_candidates_is_the_exact_search():
    embedder = Encoder()
    exact = search.SemanticIndex(embedder, TEXTS).search(["query"], 6)
    for precision in ("int8", "binary"):
        index = search.SemanticIndex(embedder, TEXTS, precision=precision, rescore="float32", multiplier=5)
        found = index.search(["query"], 6)
        np.testing.assert_array_equal(found.ids, exact.ids)
        np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


def test_memory_is_that_of_the_codes():
    sizes = {p: search.SemanticIndex(Encoder(128), TEXTS, precision=p).nbytes for p in ("float32", "int8", "binary")}
    assert sizes == {"float32": 26 * 512, "int8": 26 * 128, "binary": 26 * 16}


def test_given_embeddings_and_prompts_are_used():
    embedder = Encoder()
    embedder.prompts = {"query": "q: ", "document": "d: "}
    vectors = embedder.encode(TEXTS)
    embedder.prompted.clear()
    index = search.SemanticIndex(embedder, TEXTS, embeddings=vectors)
    assert embedder.prompted == []
    index.add(["more"])
    index.search("a", 1)
    assert embedder.prompted == ["d: ", "q: "]
    alone = search.SemanticIndex(None, TEXTS, embeddings=vectors)
    assert alone.search(vectors[3], 1).texts == [TEXTS[3]]
    with pytest.raises(ValueError, match="`embedder`"):
        alone.search("a", 1)


def test_cross_encoder_puts_the_candidates_in_order(tmp_path):
    index = search.SemanticIndex(Encoder(), TEXTS, multiplier=3)
    hits = index.search(["a", "b"], 2, reranker=lambda a, b: [-len(text) for text in b])
    candidates = index.search(["a", "b"], 6).texts
    assert hits.texts == [sorted(row, key=len)[:2] for row in candidates]
    tiny_index = search.SemanticIndex(tiny.embedder(tmp_path), tiny.TEXTS)
    regressor = models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    scores = tiny_index.search("my card", 8, reranker=regressor).scores
    expected = regressor.predict((["my card"] * 8, tiny.TEXTS), verbose=0)[:, 0]
    np.testing.assert_allclose(scores, -np.sort(-expected), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: search.SemanticIndex(Encoder(), []), "at least one text"),
        (lambda: search.SemanticIndex(Encoder(), "text"), "list of strings"),
        (lambda: search.SemanticIndex(Encoder(), [None]), "row 0"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], precision="float16"), "`precision`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], rescore="int8"), "`rescore`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], precision="binary", similarity="dot"), "`similarity`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], factory="HNSW32"), "`factory`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], backend="annoy"), "`backend`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"], embeddings=np.ones((2, 3))), "1 vectors"),
        (lambda: search.SemanticIndex(object(), ["a"]), "`embedder`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"]).search("b", 2), "the size of the corpus"),
        (lambda: search.SemanticIndex(Encoder(), ["a"]).search([], 1), "`queries`"),
        (lambda: search.SemanticIndex(Encoder(), ["a"]).search(np.ones(3), 1), "48 components"),
        (lambda: search.SemanticIndex(Encoder(), ["a"]).search(np.ones(48), 1, reranker=len), "`queries`"),
        (lambda: search.SemanticIndex.load("nowhere", None), "`folder`"),
    ],
)
def test_bad_input_of_the_index_is_an_error(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# === faiss ===


class FakeIndex:
    """The part of a faiss index that the package uses, with exhaustive search."""

    is_trained = True

    def __init__(self, score):
        self.score, self.vectors = score, None

    @property
    def ntotal(self):
        return len(self.vectors)

    def add(self, vectors):
        self.vectors = vectors if self.vectors is None else np.concatenate([self.vectors, vectors])

    def search(self, queries, k):
        scores = self.score(queries, self.vectors)
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.abs(np.take_along_axis(scores, ids, axis=1)), ids


def fake_faiss():
    def hamming(queries, vectors):
        return -np.bitwise_count(queries[:, None] ^ vectors[None]).sum(axis=-1).astype("int32")

    def squares(queries, vectors):
        return -scipy.spatial.distance.cdist(queries, vectors, "sqeuclidean")

    made = types.ModuleType("faiss")
    made.METRIC_L2, made.METRIC_INNER_PRODUCT = 1, 0
    made.index_binary_factory = lambda dim, factory: FakeIndex(hamming)
    made.index_factory = lambda dim, factory, metric: FakeIndex(squares if metric else lambda q, v: np.abs(q @ v.T))
    return made


@pytest.fixture(params=["real", "fake"])
def faiss(request, monkeypatch):
    if request.param == "real":
        return pytest.importorskip("faiss", reason="package faiss-cpu is not installed")
    monkeypatch.setitem(sys.modules, "faiss", fake_faiss())
    return None


class Positive(Encoder):
    """Vectors without negative products, because the fake index ignores the sign."""

    def encode(self, texts, **kwargs):
        return np.abs(super().encode(texts))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean"])
def test_faiss_gives_what_the_exact_search_gives(faiss, name):
    exact = search.SemanticIndex(Positive(), TEXTS, similarity=name)
    index = search.SemanticIndex(Positive(), TEXTS, similarity=name, backend="faiss")
    found, expected = index.search(["a", "b"], 5), exact.search(["a", "b"], 5)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert found.texts == expected.texts


@pytest.mark.parametrize("rescore", ["binary", "int8", "float32"])
def test_faiss_searches_binary_codes(faiss, rescore):
    settings = {"precision": "binary", "rescore": rescore, "multiplier": 7}
    found = search.SemanticIndex(Encoder(), TEXTS, backend="faiss", **settings).search(TEXTS, 4)
    expected = search.SemanticIndex(Encoder(), TEXTS, **settings).search(TEXTS, 4)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "int8"},
        {"precision": "int8", "rescore": "float32"},
        {"precision": "binary"},
        {"factory": "IVF2,Flat"},
    ],
)
def test_real_faiss_finds_saves_and_loads(settings, tmp_path):
    pytest.importorskip("faiss", reason="package faiss-cpu is not installed")
    index = search.SemanticIndex(Encoder(), TEXTS * 4, backend="faiss", **settings)
    assert index.search(TEXTS[3], 4).texts == [TEXTS[3]] * 4
    index.save(tmp_path)
    loaded = search.SemanticIndex.load(tmp_path, Encoder())
    np.testing.assert_array_equal(loaded.search(TEXTS, 3).scores, index.search(TEXTS, 3).scores)


def test_without_faiss_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        search.SemanticIndex(Encoder(), TEXTS, backend="faiss")


# === Paraphrases ===


def naive_pairs(vectors, k, max_pairs, min_score, name):
    """Every pair in which one row is among the k nearest of the other, the best first."""
    scores = np.round(scores_of(vectors, vectors, name), 9)
    found = set()
    for i, row in enumerate(scores):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j: (-row[j], j))[:k]
        found |= {(min(i, j), max(i, j)) for j in others if row[j] >= min_score}
    return sorted(found, key=lambda pair: (-scores[pair], pair))[:max_pairs]


@pytest.mark.parametrize("name", ["dot", "euclidean"])
@pytest.mark.parametrize(("k", "max_pairs", "min_score"), [(3, 1000, -np.inf), (100, 20, -np.inf), (2, 9, -1.0)])
def test_nearest_pairs_equal_a_loop_with_ties(name, k, max_pairs, min_score, in_blocks):
    vectors = RNG.integers(-2, 3, (40, 2)).astype(float)
    limit = None if min_score == -np.inf else min_score
    ids, scores = search.nearest_pairs(vectors, k=k, max_pairs=max_pairs, min_score=limit, similarity=name)
    assert [tuple(pair) for pair in ids.tolist()] == naive_pairs(vectors, k, max_pairs, min_score, name)
    expected = [scores_of(vectors[[i]], vectors[[j]], name)[0, 0] for i, j in ids]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_no_pair_comes_twice_and_none_with_itself(in_blocks):
    vectors = np.repeat(RNG.normal(size=(5, 3)), 8, axis=0).astype("float32")
    ids, scores = search.nearest_pairs(vectors, k=4, max_pairs=25)
    assert len({tuple(pair) for pair in ids.tolist()}) == len(ids) == 25
    assert (ids[:, 0] < ids[:, 1]).all() and np.allclose(scores, 1.0)


def test_paraphrases_are_pairs_of_texts(tmp_path):
    embedder, texts = tiny.embedder(tmp_path), ["my card", "the loan", "my card", "my cards"]
    ids, scores = search.paraphrases(embedder, texts, max_pairs=2)
    assert ids[0].tolist() == [0, 2] and scores[0] == pytest.approx(1.0) and len(ids) == 2
    none = search.paraphrases(embedder, texts, min_score=2.0)
    assert none.ids.shape == (0, 2) and none.scores.shape == (0,)
    with pytest.raises(ValueError, match="at least two"):
        search.paraphrases(embedder, ["alone"])


# === Real weights ===


def test_codes_lose_little_on_the_sts_benchmark(minilm_folder, real_data):
    embedder = models.TextEmbedder.from_preset("all_minilm_l6_v2")
    rows = data.read(real_data / "stsb" / "test.tsv")
    scores = [float(score) for score in rows["score"]]
    first, second = (embedder.encode(rows[name]) for name in ("sentence1", "sentence2"))

    def spearman(precision):
        vectors = (search.quantize(each, precision, calibration=calibration).dequantize() for each in (first, second))
        return evaluation.similarity_scores(*vectors, scores)["spearman"]

    calibration = np.concatenate([first, second])
    whole = evaluation.similarity_scores(first, second, scores)["spearman"]
    assert whole == pytest.approx(0.8203, abs=2e-4)
    assert spearman("int8") > 0.8190  # published for codes compared as numbers: 0.8140
    assert spearman("binary") == pytest.approx(0.8086, abs=1e-3)
    one_sided = evaluation.similarity_scores(first, search.quantize(second, "binary").dequantize(), scores)["spearman"]
    assert spearman("binary") < one_sided < whole


def test_by_default_a_small_corpus_is_found_whole():
    class Two:
        prompts = {}

        def encode(self, texts, **_):
            return np.array([[1.0, len(text)] for text in texts], "float32")

    index = search.SemanticIndex(Two(), ["a", "bbb"])
    assert sorted(index.search("aa").texts) == ["a", "bbb"]
    with pytest.raises(ValueError, match=r"`k`.*an int <= 2"):
        index.search("aa", k=3)


@pytest.mark.parametrize("vectors", [["a text"], np.array([["1.0", "2.0"]]), np.array([["a", 1]], object)])
def test_texts_in_place_of_vectors_are_refused(vectors):
    with pytest.raises(ValueError, match=r"`embeddings`.*vectors.*(Encode texts first|\(1,\))"):
        search.community_detection(vectors)
