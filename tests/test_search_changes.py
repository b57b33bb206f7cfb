"""Indexes that grow and forget, filter, stay on disk, and search with other packages; clusters."""

import json
import re
import sys
import tracemalloc

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import export, search

RNG = np.random.default_rng(11)
DIM = 16


class Encoder:
    """Maps each text to its own vector, the same in every call."""

    prompts = {}

    def __init__(self, dim=DIM):
        self.dim = dim

    def encode(self, texts, **kwargs):
        return np.stack([np.random.default_rng(sum(map(ord, text))).normal(size=self.dim) for text in texts]).astype(
            "float32"
        )


TEXTS = [f"text {chr(97 + i) * (i + 1)}" for i in range(26)]
METADATA = {
    "language": ["en", "de", None] * 8 + ["fr", "en"],
    "year": [2000 + i % 5 for i in range(26)],
    "price": [None if i % 4 == 0 else i / 2 for i in range(26)],
    "is_new": [i % 2 == 0 for i in range(26)],
}
PRECISIONS = [("float32", None), ("int8", None), ("int8", "float32"), ("binary", None), ("binary", "int8")]


def index_of(texts=TEXTS, **settings):
    return search.SemanticIndex(Encoder(), texts, **settings)


def are_alike(hits, other):
    return (
        np.array_equal(hits.ids, other.ids) and np.array_equal(hits.scores, other.scores) and hits.texts == other.texts
    )


# === Ids ===


@pytest.mark.parametrize(("precision", "rescore"), PRECISIONS)
@pytest.mark.parametrize(
    "ids", [None, list(range(100, 126)), [f"d{i}" for i in range(26)]], ids=["counted", "ints", "strings"]
)
def test_an_index_that_forgot_is_one_of_what_is_left(ids, precision, rescore, tmp_path):
    options = {"precision": precision, "rescore": rescore, "multiplier": 3, "calibration": Encoder().encode(TEXTS)}
    index = index_of(ids=ids, **options)
    known = index.ids.tolist()
    gone = [0, 7, 8, 25]
    index.remove([known[i] for i in gone])
    left = [i for i in range(26) if i not in gone]
    fresh = index_of([TEXTS[i] for i in left], ids=[known[i] for i in left], **options)
    assert index.ids.tolist() == fresh.ids.tolist() and index.texts == fresh.texts and index.nbytes == fresh.nbytes
    assert are_alike(index.search(["q", TEXTS[3]], 22), fresh.search(["q", TEXTS[3]], 22))
    for each in (index, fresh):
        each.add(["later"], ids=["later"] if isinstance(known[0], str) else None)
    # New ids continue from the highest id that was ever used.
    assert index.ids.tolist()[-1] == ("later" if ids and isinstance(ids[0], str) else known[-1] + 1)
    index.save(tmp_path)
    again = search.SemanticIndex.load(tmp_path, Encoder())
    assert are_alike(again.search(TEXTS, 9), index.search(TEXTS, 9)) and again.ids.dtype == index.ids.dtype
    again.remove(again.ids[:1])
    mapped = search.SemanticIndex.load(tmp_path, Encoder(), mmap=True)
    assert are_alike(mapped.search(TEXTS, 9), index.search(TEXTS, 9))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.remove([99]), "`ids`.*in the index"),
        (lambda index: index.remove([True]), "`ids`.*in the index"),
        (lambda index: index.remove(["0"]), "`ids`.*in the index"),
        (lambda index: index.remove([1, 1]), "unique ids"),
        (lambda index: index.remove(3), "list of ids"),
        (lambda index: index.remove(range(26)), "leave a text"),
        (lambda index: index.add(["a"], ids=[3]), "unique ids"),
        (lambda index: index.add(["a"], ids=["x"]), "ints, as for the existing texts"),
        (lambda index: index.add(["a"], ids=[-1]), "ints >= 0"),
        (lambda index: index.add(["a", "b"], ids=[50]), "2 ids"),
        (lambda index: index.add(["a"], ids=[1.5]), "ints or strings"),
        (lambda index: index.add(["a"], metadata={"year": [1]}), "columns of the existing texts"),
        (lambda index: index.add(["a"], embeddings=np.ones((1, 5))), "16 components"),
        (lambda index: index.add(["a"], embeddings=np.full((1, DIM), np.nan)), "finite"),
        (lambda index: index.add(["a", None]), "row 1"),
    ],
)
def test_a_change_that_is_wrong_leaves_the_index_as_it_was(change, said):
    for backend in ("exact", "usearch"):
        if backend == "usearch":
            pytest.importorskip("usearch", reason="package usearch is not installed")
        index = index_of(backend=backend)
        before = index.search(TEXTS[:5], 4)
        with pytest.raises(ValueError, match=said):
            change(index)
        assert len(index) == 26 and are_alike(index.search(TEXTS[:5], 4), before)
        index.add(["later"])
        assert index.search("later", 1).ids.tolist() == [26]


def test_removing_nothing_is_nothing_and_empty_ids_are_errors():
    index = index_of()
    index.remove([])
    assert len(index) == 26
    with pytest.raises(ValueError, match="not empty"):
        index_of(["a", "b"], ids=["x", ""])
    with pytest.raises(ValueError, match="all of one kind"):
        index_of(["a", "b"], ids=["x", 1])


# === Filters ===

FILTERS = {
    "one value": ({"language": "en"}, lambda row: row["language"] == "en"),
    "several": ({"language": ["de", "fr"]}, lambda row: row["language"] in ("de", "fr")),
    "missing": ({"language": None}, lambda row: row["language"] is None),
    "missing or": ({"language": ("en", None)}, lambda row: row["language"] in ("en", None)),
    "missing number": ({"price": None}, lambda row: row["price"] is None),
    "number": ({"price": 2.5}, lambda row: row["price"] == 2.5),
    "both": ({"year": 2001, "is_new": False}, lambda row: row["year"] == 2001 and not row["is_new"]),
    "numpy": ({"year": np.array([2001, 2003])}, lambda row: row["year"] in (2001, 2003)),
    "nothing": ({"language": "it"}, lambda row: False),
    "all": ({}, lambda row: True),
    "function": (lambda c: (c["year"] >= 2002) & c["is_new"], lambda row: row["year"] >= 2002 and row["is_new"]),
    "range": (lambda c: c["price"] < 4, lambda row: row["price"] is not None and row["price"] < 4),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("precision", "rescore"), PRECISIONS)
def test_a_filtered_search_is_the_search_of_what_it_lets_through(name, precision, rescore, blocks):
    where, passes = FILTERS[name]
    options = {"precision": precision, "rescore": rescore, "calibration": Encoder().encode(TEXTS)}
    index = index_of(metadata=METADATA, **options)
    rows = [i for i in range(26) if passes({key: values[i] for key, values in METADATA.items()})]
    with blocks(3, 4):
        hits = index.search(["a query", TEXTS[4]], 26, where=where)
    assert hits.ids.shape == (2, 26) and (hits.ids[:, len(rows) :] == -1).all()
    assert (hits.scores[:, len(rows) :] == -np.inf).all() and hits.texts[0][len(rows) :] == [None] * (26 - len(rows))
    if rows:
        expected = index_of([TEXTS[i] for i in rows], ids=rows, **options).search(["a query", TEXTS[4]], len(rows))
        assert hits.ids[:, : len(rows)].tolist() == expected.ids.tolist()
        np.testing.assert_allclose(hits.scores[:, : len(rows)], expected.scores, atol=1e-6)


def test_metadata_follow_their_texts_and_come_back(tmp_path):
    index = index_of(metadata=METADATA)
    index.remove([0, 1])
    index.add(["later"], metadata={"language": ["it"], "year": [1.5], "price": [3], "is_new": [True]})
    index.save(tmp_path)
    again = search.SemanticIndex.load(tmp_path, Encoder())
    for each in (index, again):
        assert each.search("later", 1, where={"language": "it"}).ids.tolist() == [26]
        assert each.metadata["language"].tolist() == [*METADATA["language"][2:], "it"]
        assert each.metadata["year"].tolist() == [*METADATA["year"][2:], 1.5]
        assert each.metadata["is_new"].dtype == bool and np.isnan(each.metadata["price"][2])
    plain = index_of(["a", "b"], metadata={"none": [None, None], "flag": [True, None], "n": [2**60, 1]})
    plain.save(tmp_path)
    again = search.SemanticIndex.load(tmp_path, Encoder())
    assert again.search("a", 1, where={"n": 2**60, "flag": True, "none": None}).ids.tolist() == [0]
    assert {name: column.dtype.name for name, column in again.metadata.items()} == {
        "none": "object", "flag": "object", "n": "int64"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"a": [1, 2]}, "26 values"),
        ({"a": "x" * 26}, "lists, one value"),
        ([1] * 26, "`metadata`.*dict"),
        ({"a": [1, "x"] * 13}, r"one kind.*row 1"),
        ({"a": [None, [1]] * 13}, r"one kind.*row 1"),
        ({"a": [True, 1] * 13}, r"one kind.*row 1"),
        ({"a": [1.0, float("inf")] * 13}, r"finite.*row 1"),
        ({"a": [None, 2**60] * 13}, r"beyond 2\*\*53.*row 1"),
        ({"a": [1, 2**70] * 13}, r"64 bits.*row 1"),
    ],
)
def test_metadata_that_would_be_misread_are_errors(metadata, said):
    with pytest.raises(ValueError, match=said):
        index_of(metadata=metadata)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"languages": "en"}, "one of 'language', 'year', 'price', 'is_new'"),
        ({"year": "2001"}, "a number for 'year'"),
        ({"language": 3}, "a text for 'language'"),
        ({"is_new": 1}, "a bool for 'is_new'"),
        ({"year": {"min": 3}}, "a string, number or bool"),
        (lambda c: c["year"], "bool array"),
        (lambda c: np.ones(3, bool), "bool array"),
        ("year > 3", "`where`"),
    ],
)
def test_filters_that_do_not_fit_are_errors(where, said):
    with pytest.raises(ValueError, match=said):
        index_of(metadata=METADATA).search("a", 1, where=where)


def test_a_filter_without_metadata_is_an_error():
    for where in ({"language": "en"}, {}):
        with pytest.raises(ValueError, match=r"`where`.*without metadata"):
            index_of().search("a", 1, where=where)


def test_a_filter_cannot_change_the_columns():
    index = index_of(metadata=METADATA)
    with pytest.raises(ValueError, match="read-only"):
        index.search("a", 1, where=lambda c: c["year"].fill(3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 4), st.data())
def test_top_k_within_a_mask_equals_a_loop(blocks, mask, chunk, k, draw):
    vectors = np.array(draw.draw(st.lists(st.integers(-2, 2), min_size=len(mask), max_size=len(mask))), "float32")
    texts, k = [f"t{i}" for i in range(len(mask))], min(k, len(mask))
    index = search.SemanticIndex(None, texts, embeddings=vectors[:, None], similarity="dot", metadata={"m": mask})
    with blocks(1, chunk):
        hits = index.search(np.array([1.0]), k, where={"m": True})
    expected = sorted((i for i in range(len(mask)) if mask[i]), key=lambda i: (-vectors[i], i))[:k]
    assert hits.ids.tolist() == expected + [-1] * (k - len(expected))


def test_a_reranker_sees_what_a_filter_lets_through():
    index = index_of(metadata=METADATA)
    seen = []

    def reranker(queries, documents):
        seen.extend(documents)
        return [len(text) for text in documents]

    hits = index.search("a", 5, where={"language": "fr"}, reranker=reranker)
    assert seen == [TEXTS[24]] == hits.texts[:1] and hits.ids.tolist() == [24, -1, -1, -1, -1]
    assert index.search(["a"], 1, where={"language": "it"}, reranker=reranker).texts == [[None]]


@pytest.mark.slow
def test_an_export_finds_by_the_ids_of_an_index(tmp_path):
    import tensorflow as tf

    embedder = tiny.embedder(tmp_path)
    index = search.SemanticIndex(embedder, tiny.TEXTS, ids=[f"d{i}" for i in range(8)])
    index.remove(["d1"])
    path = export.saved_model(embedder, tmp_path / "export", index=index)
    found = tf.saved_model.load(path).signatures["search"](query=tf.constant([tiny.TEXTS[4]]), k=tf.constant([2]))
    assert found["ids"].numpy()[0, :2].tolist() == [each.encode() for each in index.search(tiny.TEXTS[4], 2).ids]


# === On disk ===


@pytest.mark.parametrize(("precision", "rescore"), [*PRECISIONS, ("binary", "binary"), ("binary", "float32")])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_an_index_that_is_built_part_by_part_is_the_same(precision, rescore, similarity, tmp_path):
    if precision == "binary" and similarity != "cosine":
        pytest.skip("binary codes know the cosine only")
    options = {"precision": precision, "rescore": rescore, "similarity": similarity}
    options["calibration"] = Encoder().encode(TEXTS)
    expected = index_of(metadata=METADATA, **options)
    vectors = Encoder().encode(TEXTS)
    np.save(tmp_path / "a.npy", vectors[:11])
    np.save(tmp_path / "b.npy", vectors[11:])
    forms = {
        "texts": None,
        "array": vectors,
        "iterator": iter([vectors[:7], vectors[7:8], vectors[8:8], vectors[8:]]),
        "files": [tmp_path / "a.npy", str(tmp_path / "b.npy")],
    }
    for name, given_vectors in forms.items():
        index = search.SemanticIndex.build(
            tmp_path / name, Encoder(), iter(TEXTS), embeddings=given_vectors, metadata=METADATA, **options
        )
        for where in (None, {"language": "en"}):
            hits, others = (each.search(["a query", *TEXTS[:3]], 5, where=where) for each in (index, expected))
            assert hits.ids.tolist() == others.ids.tolist()
            np.testing.assert_allclose(hits.scores, others.scores, atol=1e-6)
        assert not [path for path in (tmp_path / name).iterdir() if "part" in path.name]
        held = search.SemanticIndex.load(tmp_path / name, Encoder())
        held.remove([0])
        for change in (lambda index=index: index.add(["x"]), lambda index=index: index.remove([0])):
            with pytest.raises(ValueError, match="without `mmap`"):
                change()


@pytest.mark.slow
def test_texts_and_arrays_beyond_one_part_are_all_there(tmp_path):
    texts = [f"text {i}" for i in range(40_000)]
    vectors = RNG.normal(size=(40_000, 4)).astype("float32")
    places = {text: i for i, text in enumerate(texts)}

    class Known:
        def encode(self, texts, **kwargs):
            return vectors[[places[text] for text in texts]]

    for name, given_vectors in (("texts", None), ("array", vectors)):
        index = search.SemanticIndex.build(tmp_path / name, Known(), iter(texts), embeddings=given_vectors)
        ids = index.search(vectors[::999], 1).ids
        assert ids.ravel().tolist() == list(range(0, 40_000, 999)) and index.texts == texts


@pytest.mark.parametrize(
    ("texts", "embeddings", "said"),
    [
        (TEXTS[:3], np.ones((4, 2)), "3 vectors"),
        (TEXTS[:3], [np.ones((2, 2))], "further texts"),
        (TEXTS[:3], [np.ones((2, 2)), np.ones((1, 3))], "2 components"),
        (TEXTS[:3], ["nowhere.npy"], "`.npy` file"),
        (TEXTS[:3], "vectors.npy", "a list of `.npy` files"),
        (TEXTS[:3], [np.ones(2)], r"\(rows, dim\)"),
        (TEXTS[:3], np.full((3, 2), np.inf), "finite"),
        ("text", None, "iterable of strings"),
        (["a", 3], None, "row 1"),
        ([], None, "at least one text"),
    ],
)
def test_a_build_that_fails_leaves_what_was_there(texts, embeddings, said, tmp_path):
    index_of(["old"]).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=said):
        search.SemanticIndex.build(tmp_path, Encoder(), texts, embeddings=embeddings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="`backend`"):
        search.SemanticIndex.build(tmp_path, Encoder(), TEXTS, backend="faiss")


def test_a_file_that_was_cut_is_noticed_without_reading_it(tmp_path):
    index_of().save(tmp_path)
    [file] = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"npz has \d+ bytes, not"):
        search.SemanticIndex.load(tmp_path, None, mmap=True)


@pytest.mark.slow
def test_memory_stays_flat_while_an_index_is_built_and_searched(tmp_path):
    def peak(rows):
        def vectors():
            rng = np.random.default_rng(0)
            for _ in range(rows // 20_000):
                yield rng.normal(size=(20_000, 64)).astype("float32")

        tracemalloc.start()
        texts = ["t"] * rows
        index = search.SemanticIndex.build(tmp_path / str(rows), None, texts, embeddings=vectors())
        built = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        index.search(np.ones((3, 64), "float32"), 10)
        searched = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return built, searched

    small, large = peak(100_000), peak(1_000_000)  # 26 and 256 MB of vectors
    # Only the list of texts and the ids grow, by about 60 bytes per text.
    assert large[0] - small[0] < 900_000 * 100 and large[1] - small[1] < 900_000 * 60


# === Other packages ===


@pytest.fixture(params=["faiss", "usearch"])
def backend(request):
    pytest.importorskip(request.param, reason=f"package {request.param} is not installed")
    return request.param


SETTINGS = [
    {},
    {"similarity": "dot"},
    {"similarity": "euclidean"},
    {"precision": "int8", "rescore": "float32", "multiplier": 5},
    {"precision": "binary", "rescore": "int8", "multiplier": 7},
    {"precision": "binary", "rescore": None},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_other_packages_give_the_same_hits_filter_and_forget(options, backend, tmp_path):
    exact = index_of(metadata=METADATA, calibration=Encoder().encode(TEXTS), **options)
    index = index_of(metadata=METADATA, calibration=Encoder().encode(TEXTS), backend=backend, **options)

    def check(index, exact):
        for where in (None, {"language": "en"}, {"language": "it"}):
            found, expected = (each.search(["a query", TEXTS[5]], 6, where=where) for each in (index, exact))
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
            if options.get("rescore", "") is not None:  # codes without rescoring have ties, in any order
                assert found.ids.tolist() == expected.ids.tolist() and found.texts == expected.texts

    check(index, exact)
    assert index.search(Encoder().encode(TEXTS[:1])[0], 1).ids.tolist() == [0]
    for each in (index, exact):
        each.remove([0, 3, 25])
    check(index, exact)
    for each in (index, exact):
        each.add(["later", "a query"], metadata={name: values[:2] for name, values in METADATA.items()})
        each.remove([5])
    check(index, exact)
    assert index.ids.tolist() == exact.ids.tolist() and len(index) == 24
    index.save(tmp_path)
    again = search.SemanticIndex.load(tmp_path, Encoder())
    check(again, exact)
    for each in (again, exact):
        each.remove([1])
    check(again, exact)


def test_usearch_takes_its_settings_and_lies_on_the_disk(tmp_path):
    pytest.importorskip("usearch", reason="package usearch is not installed")
    settings = "connectivity=8, expansion_add=64,expansion_search=32"
    index = index_of(TEXTS * 20, backend="usearch", factory=settings)
    assert index.search(TEXTS[3], 20).texts == [TEXTS[3]] * 20
    index.save(tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["factory"] == settings
    mapped = search.SemanticIndex.load(tmp_path, Encoder(), mmap=True)
    assert mapped.search(TEXTS[3], 20).texts == [TEXTS[3]] * 20
    with pytest.raises(ValueError, match="without `mmap`"):
        mapped.add(["x"])
    for factory in ("M=3", "connectivity=0", "connectivity=8,connectivity=9", "HNSW32"):
        with pytest.raises(ValueError, match="`factory`"):
            index_of(backend="usearch", factory=factory)
    with pytest.raises(ValueError, match="`similarity`"):
        index_of(backend="usearch", precision="int8", similarity="dot")
    with pytest.raises(ValueError, match="`similarity`"):
        index_of(backend="usearch", similarity="manhattan")
    [file] = tmp_path.glob("*.usearch")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=re.escape(file.name)):
        search.SemanticIndex.load(tmp_path, None)


@pytest.mark.parametrize("factory", ["SQ8", "HNSW16", "IVF2,Flat"])
def test_approximate_indexes_of_faiss_find_only_what_a_filter_lets_through(factory):
    pytest.importorskip("faiss", reason="package faiss-cpu is not installed")
    index = index_of(
        TEXTS * 4, backend="faiss", factory=factory, metadata={"is_even": [i % 2 == 0 for i in range(104)]}
    )
    index.remove([6])
    ids = set(index.search(TEXTS, 5, where={"is_even": True}).ids.ravel().tolist())
    assert len(ids) > 10 and all(i % 2 == 0 and i != 6 for i in ids if i >= 0)


def test_an_index_of_faiss_that_cannot_leave_rows_out_says_so(tmp_path):
    pytest.importorskip("faiss", reason="package faiss-cpu is not installed")
    index = index_of(TEXTS * 20, backend="faiss", factory="PQ4x4")
    with pytest.raises(ValueError, match=r"`factory`.*leave rows out.*PQ4x4.*backend='exact'"):
        index.search("a", 1, where=lambda c: np.arange(520) > 3)
    index.save(tmp_path)
    with pytest.raises(ValueError, match="`mmap`"):
        search.SemanticIndex.load(tmp_path, None, mmap=True)


def test_without_usearch_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ImportError, match="pip install usearch"):
        index_of(backend="usearch")


# === Clusters ===


def naive_communities(vectors, threshold, min_size):
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near = [[j for j in range(len(unit)) if unit[i] @ unit[j] >= threshold] for i in range(len(unit))]
    free, found = set(range(len(unit))), []
    for i in sorted(range(len(unit)), key=lambda i: (-len(near[i]), i)):
        group = [j for j in near[i] if j in free]
        if i in free and len(near[i]) >= min_size and len(group) >= min_size:
            found.append([i, *sorted(set(group) - {i}, key=lambda j: (-unit[i] @ unit[j], j))])
            free -= set(group)
    return sorted(found, key=len, reverse=True)


@pytest.mark.parametrize(("threshold", "min_size"), [(0.5, 1), (0.8, 3), (0.95, 2), (-1.0, 5), (1.0, 2)])
def test_communities_equal_a_loop_whatever_the_blocks(threshold, min_size, blocks):
    vectors = RNG.normal(size=(60, 3)).astype("float32")
    for queries, rows in ((7, 11), (1000, 1000)):
        with blocks(queries, rows):
            found = search.community_detection(vectors, threshold=threshold, min_size=min_size)
        assert [group.tolist() for group in found] == naive_communities(vectors, threshold, min_size)
    assert search.community_detection(np.zeros((0, 3)), threshold=threshold) == []
    assert search.community_detection(vectors, min_size=100) == []


def test_memory_of_communities_is_bounded():
    vectors = np.repeat(RNG.normal(size=(10, 4)), 1000, axis=0).astype("float32")
    tracemalloc.start()
    found = search.community_detection(vectors, threshold=0.9999)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(group) for group in found] == [1000] * 10 and peak < 150e6  # all similarities would take 400 MB


TOPICS = {
    "loan": ["The rate of the loan is high", "A loan for the house", "My loan was paid", "the loan of the bank"],
    "card": ["My card is lost", "the card was stolen", "a new card please", "card lost and found"],
    "東京": ["東京の天気", "東京に行く", "東京は大きい"],
}


class Topical(Encoder):
    """Encodes texts of the same topic close to each other."""

    def encode(self, texts, **kwargs):
        places = [next(i for i, key in enumerate(TOPICS) if key in text) for text in texts]
        return np.eye(3, DIM, dtype="float32")[places] + 0.1 * super().encode(texts) / 4


@pytest.mark.parametrize(
    "options",
    [{"num_clusters": 3}, {"method": "communities", "threshold": 0.6, "min_size": 2}],
    ids=["kmeans", "communities"],
)
def test_clusters_are_named_by_their_most_telling_words(options):
    texts = [text for topic in zip(*(texts[:3] for texts in TOPICS.values()), strict=True) for text in topic]
    texts += [TOPICS["loan"][3], TOPICS["card"][3]]
    found = search.clusters(Topical(), texts, **options)
    assert [cluster.words[0] for cluster in found.clusters] == ["loan", "card", "東京"]
    assert [sorted(texts[i] for i in cluster.ids) for cluster in found.clusters] == [sorted(t) for t in TOPICS.values()]
    assert all((found.labels[cluster.ids] == i).all() for i, cluster in enumerate(found.clusters))
    assert found.clusters[0].name.startswith("loan, ") and found.clusters[0].name.count(",") == 2
    again = search.clusters(None, texts, embeddings=Topical().encode(texts), **options)
    assert np.array_equal(again.labels, found.labels)
    assert [each.name for each in again.clusters] == [each.name for each in found.clusters]
    without = search.clusters(Topical(), texts, stopwords=["LOAN"], num_words=2, **options).clusters[0]
    assert "loan" not in without.words and len(without.words) == 2


def test_odd_texts_are_clustered_too():
    vectors = np.ones((5, 2), "float32")
    found = search.clusters(None, ["", "?", "a", "a", ""], 4, embeddings=vectors)
    assert [len(cluster.ids) for cluster in found.clusters] == [5] and found.clusters[0].name == "a"
    split = search.clusters(None, ["same", "same"], 2, embeddings=np.eye(2))
    assert [cluster.name for cluster in split.clusters] == ["same", "same (2)"]
    none = search.clusters(None, ["a", "b"], method="communities", embeddings=np.eye(2), min_size=2)
    assert none.labels.tolist() == [-1, -1] and none.clusters == []
    assert search.clusters(None, ["?"], embeddings=np.eye(1)).clusters[0].name == "no words"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"texts": []}, "at least one text"),
        ({"num_clusters": 3}, "the number of texts"),
        ({"num_clusters": 0}, "`num_clusters`"),
        ({"num_clusters": 2, "method": "communities"}, "`num_clusters`"),
        ({"method": "dbscan"}, "`method`"),
        ({"embeddings": np.ones((3, 2))}, "2 vectors"),
        ({"method": "communities", "threshold": 2.0}, "`threshold`"),
        ({"method": "communities", "min_size": 0}, "`min_size`"),
        ({"num_words": 0}, "`num_words`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_input_of_clusters_is_an_error(arguments, said):
    arguments = {"texts": ["a", "b"], "embeddings": np.eye(2), **arguments}
    with pytest.raises(ValueError, match=said):
        search.clusters(None, **arguments)
