"""BM25, fusion and hybrid search, against loops and reference numbers."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import search

# The spec is looked up because an import here would start JAX's threads.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("bm25s") is None, reason="package bm25s is not installed")

TEXTS = [
    "My card has not arrived",
    "Where is my card? My card is lost",
    "What is the interest rate of a loan",
    "",
    "The loan of 4711",
    "the the the the",
    "Transfer money to another account",
]


class Encoder:
    """Gives each text its own vector, the same in each call."""

    prompts = {}

    def encode(self, texts, **kwargs):
        return np.stack([np.random.default_rng(sum(map(ord, text))).normal(size=8) for text in texts]).astype("float32")


def naive_scores(query, documents, variant, k1, b, delta):
    """Computes the table in the docstring of `BM25Index` with loops over lists of words."""
    n, mean = len(documents), np.mean([len(document) for document in documents])
    found = np.zeros(n)
    for word in query:
        df = sum(word in document for document in documents)
        for i, document in enumerate(documents if df else []):
            tf, q = document.count(word), 1 - b + b * len(document) / mean
            if variant == "robertson":
                found[i] += np.log(max(1, (n - df + 0.5) / (df + 0.5))) * (tf / (tf + k1 * q) if tf else 0)
            elif variant == "lucene":
                found[i] += np.log(1 + (n - df + 0.5) / (df + 0.5)) * (tf / (tf + k1 * q) if tf else 0)
            elif variant == "atire":
                found[i] += np.log(n / df) * (tf * (k1 + 1) / (tf + k1 * q) if tf else 0)
            elif variant == "bm25l":
                c = tf / q if tf else 0
                found[i] += np.log((n + 1) / (df + 0.5)) * (k1 + 1) * (c + delta) / (k1 + c + delta)
            else:
                found[i] += np.log((n + 1) / df) * (delta + (tf * (k1 + 1) / (tf + k1 * q) if tf else 0))
    return found


# === Words ===


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ?!… — ", []),
        ("Don’t STOP, I'm l'été's", ["don't", "stop", "i'm", "l'été's"]),
        ("1,234.50 3.14. v2.0 a.b", ["1,234.50", "3.14", "v2", "0", "a", "b"]),
        ("ﬁne ＡＢＣ ½ Ⅳ", ["fine", "abc", "1", "2", "iv"]),
        ("Ärger STRASSE straße", ["ärger", "strasse", "strasse"]),
        ("ΣΊΣΥΦΟΣ Σίσυφος", ["σίσυφοσ", "σίσυφοσ"]),
        ("Привет, мир", ["привет", "мир"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("مَرْحَبًا بالعالم", ["مَرْحَبًا", "بالعالم"]),
        ("나는 학교에", ["나는", "학교에"]),
        ("我爱 东京 人", ["我爱", "东京", "人"]),
        ("ﾃｽﾄ", ["テス", "スト"]),
        ("ไทย", ["ไท", "ทย"]),
        ("東京2020オリンピック", ["東京", "2020", "オリ", "リン", "ンピ", "ピッ", "ック"]),
        ("snake_case e-mail@x.org", ["snake_case", "e", "mail", "x", "org"]),
        ("👍🏽 ok", ["ok"]),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert search.words(text) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_words_are_folded_and_the_same_for_every_form_of_a_text(text):
    found = search.words(text)
    assert search.words(text.upper().lower()) == search.words(text.upper().lower().casefold())
    assert search.words(unicodedata.normalize("NFD", text)) == search.words(unicodedata.normalize("NFC", text)) or any(
        unicodedata.normalize("NFD", each) != unicodedata.normalize("NFC", each) for each in text
    )
    assert all(word and not any(each.isspace() for each in word) for word in found)


# === BM25 ===


def test_scores_and_order_are_the_references(golden):
    expected = json.loads((golden / "measures" / "bm25.json").read_text(encoding="utf-8"))
    texts, queries = ([" ".join(words) for words in expected[key]] for key in ("documents", "queries"))
    cases = [case for case in expected["cases"] if case["library"] == "bm25s" and "idf_method" not in case]
    assert {case["variant"] for case in cases} == {"robertson", "lucene", "atire", "bm25l", "bm25+"}
    for case in cases:
        options = {key: case[key] for key in ("variant", "k1", "b", "delta")}
        index = search.BM25Index(texts, tokenizer=str.split, **options)
        scores = index.scores(queries)
        np.testing.assert_allclose(scores, case["scores"], atol=1e-12)
        assert np.argsort(-scores.round(12), axis=1, kind="stable")[:, :5].tolist() == case["top5"]
        hits = index.search(queries, 5)
        for query, ids, top, all_scores in zip(
            expected["queries"], hits.ids, case["top5"], case["scores"], strict=True
        ):
            shared = [i for i, words in enumerate(expected["documents"]) if set(words) & set(query)]
            best = sorted(shared, key=lambda i, s=all_scores: (-s[i], i))[:5]
            assert ids[: len(best)].tolist() == best and set(ids[len(best) :].tolist()) <= {-1}
            if case["variant"] not in ("bm25l", "bm25+"):  # these also score texts without the words
                assert set(top) >= {i for i in best if all_scores[i] > 0}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=9),
    st.lists(st.sampled_from("abcxyz"), max_size=4),
    st.sampled_from(["robertson", "lucene", "atire", "bm25l", "bm25+"]),
    st.sampled_from([(0.5, 0.0, 1.0), (1.2, 0.75, 0.5), (2.0, 1.0, 0.0)]),
    st.integers(1, 9),
)
def test_hits_equal_a_loop(documents, query, variant, numbers, k):
    k1, b, delta = numbers
    index = search.BM25Index(
        [" ".join(words) for words in documents], tokenizer=str.split, variant=variant, k1=k1, b=b, delta=delta
    )
    k = min(k, len(documents))
    hits = index.search(" ".join(query), k)
    expected = naive_scores(query, documents, variant, k1, b, delta)
    shared = [i for i, words in enumerate(documents) if set(words) & set(query)]
    best = sorted(shared, key=lambda i: (-round(expected[i], 10), i))[:k]
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float64
    np.testing.assert_allclose(hits.scores[: len(best)], expected[best], atol=1e-12)
    assert hits.ids[len(best) :].tolist() == [-1] * (k - len(best))
    assert hits.texts == [" ".join(documents[i]) for i in hits.ids[: len(best)]] + [None] * (k - len(best))
    assert (hits.scores[len(best) :] == -np.inf).all()
    if len({round(expected[i], 10) for i in shared}) == len(shared):
        assert hits.ids[: len(best)].tolist() == best


def test_an_empty_query_unknown_words_and_texts_without_words_give_no_hits():
    index = search.BM25Index(TEXTS)
    hits = index.search(["", "zebra", "zebra loan", "?!"], 3)
    assert hits.ids[[0, 1, 3]].tolist() == [[-1] * 3] * 3 and sorted(hits.ids[2].tolist()) == [-1, 2, 4]
    assert hits.texts[0] == [None] * 3 and index.scores("").tolist() == [0.0] * len(TEXTS)
    nothing = search.BM25Index(["", "?"])
    assert nothing.search("a", 2).ids.tolist() == [-1, -1] and nothing.scores(["a"]).shape == (1, 2)
    assert search.BM25Index(["a"], k1=0).search("a", 1).ids.tolist() == [0]
    assert search.BM25Index(TEXTS).search("Bank.", 1).ids.tolist() == [-1]


def test_stop_words_and_stems_count_as_the_tokenizer_folds_them():
    index = search.BM25Index(["The cars", "a car", "The day"], stopwords=["THE"], stemmer=lambda word: word.rstrip("s"))
    assert index.search("the CAR", 3).ids.tolist() in ([0, 1, -1], [1, 0, -1])
    assert index.search("the", 1).ids.tolist() == [-1]


def test_texts_come_and_go_and_others_keep_their_ids(tmp_path):
    index = search.BM25Index(TEXTS)
    index.remove([1, 3])
    index.add(["a lost card", "zebra"])
    left = [text for i, text in enumerate(TEXTS) if i not in (1, 3)] + ["a lost card", "zebra"]
    assert index.texts == left and index.ids.tolist() == [0, 2, 4, 5, 6, 7, 8]
    fresh = search.BM25Index(left, ids=index.ids)
    queries = ["my card", "zebra", "loan of money", "arrived"]
    for each in (index, fresh):
        each.save(tmp_path / "index")
        again = search.BM25Index.load(tmp_path / "index")
        for one, other in zip(again.search(queries, 7), fresh.search(queries, 7), strict=True):
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        assert repr(again) == repr(fresh)
        again.add(["more"])
        assert again.ids[-1] == 9
    before = index.scores("card")
    with pytest.raises(ValueError, match=r"row 1 \(counting from 0\)"):
        index.add(["fine", None])
    assert np.array_equal(index.scores("card"), before) and len(index) == 7


def test_a_reranker_puts_what_was_found_in_order():
    index = search.BM25Index(TEXTS, multiplier=5)
    hits = index.search(["my card", "zebra"], 2, reranker=lambda a, b: [-len(text) for text in b])
    assert hits.texts[0] == [TEXTS[0], TEXTS[1]] and hits.texts[1] == [None, None]


def test_a_filter_changes_no_weights_and_metadata_come_back(tmp_path):
    metadata = {"n": list(range(7)), "kind": ["a", None] * 3 + ["b"]}
    index = search.BM25Index(TEXTS, ids=[f"d{i}" for i in range(7)], metadata=metadata)
    index.save(tmp_path)
    expected = index.scores("my card is a loan")
    for each in (index, search.BM25Index.load(tmp_path)):
        hits = each.search("my card is a loan", 7, where=lambda columns: columns["n"] >= 1)
        best = sorted([1, 2, 4], key=lambda row: -expected[row])
        assert hits.ids.tolist() == [*(f"d{row}" for row in best), "", "", "", ""] and hits.texts[3:] == [None] * 4
        assert hits.scores[:3].tolist() == expected[best].tolist()
        assert each.search(["card"], 2, where={"kind": "a"}).ids.tolist() == [["d0", ""]]
        assert each.search("card", 1, where={"kind": "c"}).ids.tolist() == [""]


def test_functions_are_not_saved_and_asked_for(tmp_path):
    index = search.BM25Index(TEXTS, tokenizer=str.split, stopwords=["my"])
    index.save(tmp_path)
    with pytest.raises(ValueError, match=r"`tokenizer`.*made with"):
        search.BM25Index.load(tmp_path)
    with pytest.raises(ValueError, match=r"`stemmer`.*None"):
        search.BM25Index.load(tmp_path, tokenizer=str.split, stemmer=str.lower)
    again = search.BM25Index.load(tmp_path, tokenizer=str.split)
    assert np.array_equal(again.scores("My card my"), index.scores("My card my"))


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_disk_that_is_full_leaves_the_old_index(name, tmp_path, monkeypatch):
    search.BM25Index(["old"]).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    function, calls = getattr(os, name), []

    def called(*arguments, **kwargs):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, name, called)
        search.BM25Index(TEXTS).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    search.BM25Index(TEXTS).save(tmp_path)
    assert search.BM25Index.load(tmp_path).texts == TEXTS and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
@pytest.mark.parametrize("part", ["bm25.json", "*.texts.json", "*.words.json", "*.arrays.npz"])
def test_damage_is_an_error_that_names_the_file(part, damage, tmp_path):
    if (part, damage) == ("bm25.json", "other"):
        pytest.skip("may be another valid file")
    search.BM25Index(TEXTS).save(tmp_path)
    [file] = tmp_path.glob(part)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] + (b"" if damage == "cut" else content[len(content) // 2 + 1 :]))
    with pytest.raises(ValueError, match=rf"`folder`.*{file.name}.*Save the index again"):
        search.BM25Index.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: search.BM25Index([]), "at least one text"),
        (lambda: search.BM25Index("text"), "list of strings"),
        (lambda: search.BM25Index(["a", None]), "row 1"),
        (lambda: search.BM25Index(["a"], variant="bm25"), "`variant`"),
        (lambda: search.BM25Index(["a"], k1=-1), "`k1`"),
        (lambda: search.BM25Index(["a"], k1=0, variant="bm25+"), "`k1`.*0 / 0"),
        (lambda: search.BM25Index(["a"], b=1.5), "`b`"),
        (lambda: search.BM25Index(["a"], delta=-0.1), "`delta`"),
        (lambda: search.BM25Index(["a"], tokenizer=3), "`tokenizer`"),
        (lambda: search.BM25Index(["a", "b"], tokenizer=str.upper), r"`tokenizer`.*row 0"),
        (lambda: search.BM25Index(["a"], tokenizer=lambda text: [1]), "`tokenizer`"),
        (lambda: search.BM25Index(["a"], stopwords="the"), "`stopwords`"),
        (lambda: search.BM25Index(["a"], stemmer=len).search("a", 1), "`stemmer`"),
        (lambda: search.BM25Index(["a"]).search("a", 2), "the size of the corpus"),
        (lambda: search.BM25Index(["a"]).search([], 1), "`queries`"),
        (lambda: search.BM25Index(["a"]).search([3], 1), "row 0"),
        (lambda: search.BM25Index(["a"]).remove([0]), "leave a text"),
        (lambda: search.BM25Index.load("nowhere"), "`folder`"),
    ],
)
def test_bad_input_of_bm25_is_an_error(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_without_bm25s_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match="pip install bm25s"):
        search.BM25Index(TEXTS)


@pytest.mark.slow
def test_bm25s_does_not_start_jax():
    # JAX warns about a fork once it has threads. It would also take most of a GPU's memory.
    code = "import os; from tfxfer import search; search.BM25Index(['a']).search('a', 1); os.fork() or os._exit(0)"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "JAX" not in done.stderr, done.stderr


# === Fusion ===

# Lists, and their scores fused by ranx 0.3.21 with k = 60 and k = 1.
LISTS = [
    {"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0, "e": 5.0},
    {"c": 0.9, "a": 0.8, "f": 0.7},
    {"g": 30.0, "b": 20.0, "a": 10.0, "h": 5.0, "c": 1.0, "i": 0.5},
]
RANX = {
    60: [0.04839549075403121, 0.04765107388058208, 0.03225806451612903, 0.01639344262295082, 0.015873015873015872],
    1: [1.0833333333333333, 0.9166666666666666, 0.6666666666666666, 0.5, 0.25],
}


@pytest.mark.parametrize("constant", [60, 1])
def test_reciprocal_ranks_are_the_references(constant):
    fused = search.fuse(LISTS, rank_constant=constant)
    assert "".join(fused) == "acbgfdhei"
    np.testing.assert_allclose(list(fused.values())[:5], RANX[constant], rtol=1e-15)
    unsorted = search.fuse([{"x": 1.0, "y": 2.0}, {"y": 1.0, "z": 0.5}])
    assert list(unsorted) == ["y", "x", "z"] and unsorted["x"] == unsorted["z"] == 1 / 62


def naive_fusion(lists, method, weights, constant, normalize):
    total = {}
    every = {each for found in lists for each in found}
    for found, weight in zip(lists, weights, strict=True):
        ordered = sorted(found, key=lambda each, found=found: (-found[each], each))
        scores = np.array([found[each] for each in ordered])
        for each in every:
            if method == "reciprocal_rank":
                value = 1 / (constant + ordered.index(each) + 1) if each in found else 0
            elif not found:
                value = 0
            elif normalize == "none":
                value = found.get(each, 0)
            elif normalize == "min_max":
                equal = scores.max() == scores.min()
                value = 0 if each not in found else 1 if equal else (found[each] - scores.min()) / np.ptp(scores)
            else:
                equal = scores.max() == scores.min()
                value = 0 if equal else (found.get(each, scores.min()) - scores.mean()) / scores.std()
            total[each] = total.get(each, 0) + weight * value
    return total


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 5).map(float)), min_size=1, max_size=3),
    st.sampled_from(["reciprocal_rank", "weighted"]),
    st.sampled_from(["min_max", "z_score", "none"]),
    st.sampled_from([0, 1, 60]),
    st.data(),
)
def test_fusion_equals_a_loop(lists, method, normalize, constant, draw):
    weights = draw.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(lists), max_size=len(lists)))
    fused = search.fuse(lists, method=method, weights=weights, rank_constant=constant, normalize=normalize)
    expected = naive_fusion(lists, method, weights, constant, normalize)
    assert set(fused) == set(expected)
    np.testing.assert_allclose([fused[each] for each in expected], list(expected.values()), atol=1e-12)
    assert list(fused) == sorted(fused, key=lambda each: (-fused[each], each))
    hits = [
        search.Hits(
            np.array(ordered, "int64"), np.array([found[each] for each in ordered]), [str(each) for each in ordered]
        )
        for found in lists
        for ordered in [sorted(found, key=lambda each, found=found: (-found[each], each))]
    ]
    found = search.fuse(hits, method=method, weights=weights, rank_constant=constant, normalize=normalize)
    assert dict(zip(found.ids.tolist(), found.scores.tolist(), strict=True)) == fused
    assert found.texts == [str(each) for each in found.ids]


def test_rankings_of_several_queries_are_fused_query_by_query():
    first = search.Hits(np.array([[3, 1], [2, -1]]), np.array([[2.0, 1.0], [1.0, -np.inf]]), [["c", "a"], ["b", None]])
    second = search.Hits(np.array([[1], [-1]]), np.array([[9.0], [-np.inf]]), [["a"], [None]])
    fused = search.fuse([first, second])
    assert fused.ids.tolist() == [[1, 3], [2, -1]] and fused.texts == [["a", "c"], ["b", None]]
    assert fused.scores[1].tolist() == [1 / 61, -np.inf]
    assert search.fuse([first, second], 1).texts == [["a"], ["b"]]
    runs = search.fuse([{"q1": {"c": 2.0, "a": 1.0}, "q2": {"b": 1.0}}, {"q1": {"a": 9.0}}], 1)
    assert list(runs) == ["q1", "q2"] and list(runs["q1"]) == ["a"] and list(runs["q2"]) == ["b"]
    assert search.fuse([{}, {}]) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "`rankings`"),
        (({"a": 1.0},), "`rankings`"),
        (([{"a": 1.0}, 3],), "`rankings`"),
        (([{"a": float("nan")}],), "finite scores"),
        (([{"a": "1"}],), "numbers as scores"),
        (([{"a": 1.0, 2: 1.0}],), "ids of one kind"),
        (([{"a": {"b": 1.0}}, {"a": 1.0}],), "`rankings`"),
        (([search.Hits(np.array([1, 1]), np.ones(2), ["a", "a"])],), "twice in query 0"),
    ],
)
def test_rankings_that_cannot_be_fused_are_errors(arguments, said):
    with pytest.raises(ValueError, match=said):
        search.fuse(*arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "sum"}, "`method`"),
        ({"weights": [1.0]}, "2 numbers"),
        ({"weights": [1.0, 0.0]}, "`weights`"),
        ({"rank_constant": -1}, "`rank_constant`"),
        ({"normalize": "max"}, "`normalize`"),
        ({"k": 0}, "`k`"),
        ({"method": "weighted", "normalize": "none"}, "scores >= 0"),
    ],
)
def test_bad_options_of_a_fusion_are_errors(options, said):
    with pytest.raises(ValueError, match=said):
        search.fuse([{"a": 1.0}, {"a": -1.0}], **options)


# === Hybrid search ===


@pytest.mark.parametrize(
    "options", [{}, {"method": "weighted", "weights": [1, 2]}, {"method": "weighted", "normalize": "z_score"}]
)
def test_a_hybrid_index_fuses_what_its_indexes_find(options, tmp_path):
    metadata = {"kind": ["card", "card", "loan", None, "loan", None, "money"]}
    index = search.HybridIndex.from_texts(Encoder(), TEXTS, metadata=metadata, candidates=4, **options)
    queries = ["my card", "zebra", TEXTS[4]]
    both = [index.lexical.search(queries, 4), index.semantic.search(queries, 4)]
    expected = search.fuse(both, 3, **options)
    index.save(tmp_path)
    again = search.HybridIndex.load(tmp_path, Encoder())
    for each in (index, again):
        hits = each.search(queries, 3)
        assert hits.ids.tolist() == expected.ids.tolist() and np.array_equal(hits.scores, expected.scores)
        one = each.search(queries[0], 3)
        assert one.ids.tolist() == expected.ids[0].tolist() and one.texts == expected.texts[0]
        given = each.search(queries, 3, embeddings=Encoder().encode(queries))
        assert given.ids.tolist() == expected.ids.tolist()
        inside = each.search(queries, 3, where={"kind": ["loan", "money"]})
        assert set(inside.ids.ravel().tolist()) <= {2, 4, 6}
    assert repr(again) == repr(index)


def test_a_hybrid_index_reranks_all_candidates_and_changes_as_one(tmp_path):
    index = search.HybridIndex.from_texts(Encoder(), TEXTS, ids=[f"d{i}" for i in range(7)], candidates=3)
    seen = []

    def reranker(queries, documents):
        seen.extend(zip(queries, documents, strict=True))
        return [float(len(text)) for text in documents]

    hits = index.search(["my card", "loan"], 2, reranker=reranker)
    for query, row in zip(["my card", "loan"], hits.texts, strict=True):
        asked = {text for name, text in seen if name == query}
        both = {text for part in (index.lexical, index.semantic) for text in part.search(query, 3).texts} - {None}
        assert asked == both and row == sorted(both, key=lambda text: (-len(text), TEXTS.index(text)))[:2]
    index.remove(["d1", "d3"])
    index.add(["a zebra"], ids=["z"])
    assert index.search("zebra", 1).ids.tolist() == ["z"] and index.texts == index.lexical.texts
    for ids, vectors in ((["z", "y"], None), (["x", "y"], np.full((2, 8), np.nan))):
        with pytest.raises(ValueError, match=r"unique ids|finite"):
            index.add(["a", "b"], ids=ids, embeddings=vectors)
        assert len(index) == len(index.lexical) == 6
    index.save(tmp_path)
    index.remove(["z"])
    index.save(tmp_path)
    again = search.HybridIndex.load(tmp_path, Encoder(), mmap=True)
    assert again.ids.tolist() == index.ids.tolist() == ["d0", "d2", "d4", "d5", "d6"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_ids_of_a_hybrid_index_count_on_as_one_after_an_error():
    index = search.HybridIndex.from_texts(Encoder(), TEXTS)
    with pytest.raises(ValueError, match="finite"):
        index.add(["a", "b"], embeddings=np.full((2, 8), np.nan))
    index.add(["zebra"])
    assert index.ids.tolist() == index.lexical.ids.tolist() == [*range(7), 7]
    assert index.search("zebra", 1).ids.tolist() == [7]


def test_a_hybrid_save_that_fails_leaves_the_old_index(tmp_path, monkeypatch):
    index = search.HybridIndex.from_texts(Encoder(), TEXTS)
    index.save(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    index.remove([0])
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):

        def fails(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(index.semantic, "save", fails)
        index.save(tmp_path)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert search.HybridIndex.load(tmp_path, None).texts == TEXTS


def test_indexes_of_different_texts_make_no_hybrid():
    semantic = search.SemanticIndex(Encoder(), TEXTS)
    for lexical in (search.BM25Index(TEXTS[:-1]), search.BM25Index(TEXTS, ids=range(1, 8)), None):
        with pytest.raises(ValueError, match=r"`(semantic|lexical)`"):
            search.HybridIndex(lexical, semantic)
    with pytest.raises(ValueError, match="`normalize`"):
        search.HybridIndex(search.BM25Index(TEXTS), semantic, normalize="none")
    with pytest.raises(ValueError, match="3 vectors"):
        search.HybridIndex(search.BM25Index(TEXTS), semantic).search(["a"] * 3, 1, embeddings=np.ones((2, 8)))
    with pytest.raises(ValueError, match="`folder`"):
        search.HybridIndex.load("nowhere", None)
