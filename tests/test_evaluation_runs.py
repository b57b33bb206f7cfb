"""Scores of searches, translations, paraphrases and students, compared with common programs, including their ties.

References (golden/measures): pytrec_eval-terrier 0.5.11, ranx 0.3.21, sentence-transformers 6.2.0.
"""

import types

import numpy as np
import pytest
import reference
import test_data_retrieval_files as files

from tfxfer import data, evaluation

KS = (1, 3, 5, 10, 20)


@pytest.fixture(scope="module")
def numbers(golden):
    return reference.read(golden, "measures/retrieval")


def per_query(found):
    """The scores of each query, as a dict from query to a dict from score to value."""
    columns = dict(found["per_query"])
    queries = columns.pop("query")
    return {query: {key: values[i] for key, values in columns.items()} for i, query in enumerate(queries)}


def order(scores, ties):
    """The documents of a query, best first, ordered by the rank that each has as the only relevant one."""
    places = {one: 1 / evaluation.run_scores({"q": scores}, {"q": {one: 1}}, ks=1, ties=ties)["mrr"] for one in scores}
    return sorted(places, key=places.get)


# === The references' numbers ===

TREC = {"map": "map", "Rprec": "r_precision", "bpref": "bpref", "recip_rank": "mrr", "ndcg": "ndcg"}
TREC |= {"set_recall": "recall"}
for _k in KS:
    TREC |= {f"P_{_k}": f"precision@{_k}", f"recall_{_k}": f"recall@{_k}", f"ndcg_cut_{_k}": f"ndcg@{_k}"}
    TREC |= {f"map_cut_{_k}": f"map@{_k}", f"success_{_k}": f"accuracy@{_k}"}
RANX = {"r-precision": "r_precision"}
# Scores that depend on how many documents were retrieved, and scores that follow from precision and recall.
LEFT_OUT = {"precision", "hit_rate", "rbp.95", "f1@5", "f1@10"}


@pytest.mark.parametrize("level", [1, 2])
def test_scores_are_those_of_trec_eval(numbers, level):
    expected = numbers["pytrec_eval"][f"relevance_level_{level}"]
    found = evaluation.run_scores(numbers["run"], numbers["qrels"], ks=KS, relevance_level=level, rows=True)
    each = per_query(found)
    assert set(each) == set(expected)
    # The other scores are counts, or follow from these.
    left = {"num_ret", "num_rel", "num_rel_ret", "set_P", "set_F"}
    for query, scores in expected.items():
        assert left <= set(scores) and set(scores) - left <= set(TREC)
        for key in set(scores) - left:
            assert each[query][TREC[key]] == pytest.approx(scores[key], abs=1e-12), (query, key)
    if level == 1:
        means = numbers["pytrec_eval"]["mean_over_answered_queries"]
        for key, name in TREC.items():
            if key in means:
                assert found[name] == pytest.approx(means[key], abs=1e-12), key
        assert (found["queries"], found["unanswered"], found["not_judged"]) == (10, 1, 1)
        assert found["without_relevant"] == 1
    for query, expected in numbers["pytrec_eval"]["order"].items():
        assert order(numbers["run"][query], "trec_eval") == expected


@pytest.mark.parametrize("level", [1, 2])
def test_scores_are_those_of_ranx(numbers, level):
    expected, suffix = numbers["ranx"], "" if level == 1 else "-l2"
    options = {"ks": KS, "rules": "ranx", "relevance_level": level, "rows": True}
    plain = evaluation.run_scores(numbers["run"], numbers["qrels"], **options)
    burges = evaluation.run_scores(numbers["run"], numbers["qrels"], gains="exponential", **options)
    checked = 0
    for key, values in expected["per_query"].items():
        if key.endswith("-l2") != (level == 2):
            continue
        name = key.removesuffix("-l2")
        if name in LEFT_OUT:
            continue
        each = per_query(burges if name.startswith("ndcg_burges") else plain)
        name = RANX.get(name, name.replace("ndcg_burges", "ndcg").replace("hit_rate@", "accuracy@"))
        for query, value in values.items():
            assert each[query][name] == pytest.approx(value, abs=1e-12), (query, key)
        means = burges if "burges" in key else plain
        assert means[name] == pytest.approx(expected["mean"][f"{key.removesuffix('-l2')}{suffix}"], abs=1e-12)
        checked += 1
    assert checked > 30 and plain["queries"] == 11
    for query, ranked in expected["order"].items():
        assert order(numbers["run"].get(query, {}), "order") == ranked


def test_scores_are_those_of_sentence_transformers(numbers):
    options = {"ks": KS, "rules": "sentence_transformers", "rows": True, "unanswered": "skip"}
    found = evaluation.run_scores(numbers["run"], numbers["qrels"], **options)
    each = per_query(found)
    assert set(each) == set(numbers["sentence_transformers"])
    for query, scores in numbers["sentence_transformers"].items():
        for name, values in scores.items():
            for k, value in values.items():
                assert each[query][f"{name.removesuffix('@k')}@{k}"] == pytest.approx(value, abs=1e-12), (query, name)


def test_reranking_scores_are_those_of_sentence_transformers(golden):
    given = reference.read(golden, "measures/reranking")
    samples = {each["query"]: each for each in given["samples"]}
    checked = 0
    for case in given["cases"]:
        if "error" in case:
            continue
        rows = [samples[query] for query in case["samples"]]
        relevant = [[1] * len(row["positive_scores"]) + [0] * len(row["negative_scores"]) for row in rows]
        scores = [row["positive_scores"] + row["negative_scores"] for row in rows]
        found = evaluation.reranking_scores(relevant, scores, k=case["at_k"])
        for key, value in case["result"].items():
            assert found[key] == pytest.approx(value, abs=1e-12), (case, key)
        checked += 1
    assert checked


def test_translations_are_found_as_by_sentence_transformers(golden):
    for case in reference.read(golden, "measures/bitext"):
        texts = case["source_texts"], case["target_texts"]
        found = evaluation.translation_scores(case["source"], case["target"], texts)
        expected = case["result"]
        assert found["source_to_target"] == pytest.approx(expected["src2trg_accuracy"]), case["name"]
        assert found["target_to_source"] == pytest.approx(expected["trg2src_accuracy"]), case["name"]
        assert found["accuracy"] == pytest.approx(expected["mean_accuracy"]), case["name"]
        strict = evaluation.translation_scores(case["source"], case["target"])
        assert [strict["source_to_target"], strict["target_to_source"]] == pytest.approx(case["strict_by_position"])


def test_paraphrases_are_found_as_by_sentence_transformers(golden):
    for case in reference.read(golden, "measures/paraphrase_mining"):
        if not case["pairs"]:  # the reference gives 0, but ours is an error: see below
            continue
        config = dict(case["config"])
        options = {"transitive": config.pop("add_transitive_closure", False)}
        options |= {new: config.pop(old) for old, new in (("top_k", "k"), ("max_pairs", "max_pairs")) if old in config}
        assert set(config) <= {"query_chunk_size", "corpus_chunk_size"}, config
        found = evaluation.paraphrase_mining_scores(case["vectors"], case["pairs"], **options)
        for key, value in case["result"].items():
            assert found[key] == pytest.approx(value, abs=1e-6), (case["name"], key)  # cosines in float32 there
        assert found["pairs"] == case["total_pairs"]
        if case.get("own_average_precision") is not None:
            assert found["average_precision"] == pytest.approx(case["own_average_precision"], abs=1e-9)


# === Rules ===

RUN = {"q1": {"b": 1.0, "a": 1.0, "c": 0.5}, "q2": {"a": 2.0}, "q4": {"a": 1.0}, "q5": {}}
JUDGED = {"q1": {"a": 1, "c": 2, "z": 0}, "q2": {"a": 0}, "q3": {"b": 1}, "q5": {"c": 1}}


@pytest.mark.parametrize(
    ("ties", "expected"), [("trec_eval", ["b", "a", "c"]), ("id", ["a", "b", "c"]), ("order", ["b", "a", "c"])]
)
def test_each_rule_of_ties_orders_equal_scores_its_way(ties, expected):
    assert order(RUN["q1"], ties) == expected


def test_scores_that_differ_in_float64_alone_tie_for_trec_eval():
    scores = {"a": 0.7000000001, "b": 0.7}
    assert [order(scores, ties)[0] for ties in ("trec_eval", "id", "order")] == ["b", "a", "a"]


def test_ids_that_are_ints_order_as_ints_and_as_strings_for_trec_eval():
    scores = {10: 1.0, 9: 1.0}
    assert order(scores, "id") == [9, 10] and order(scores, "trec_eval") == [9, 10]
    assert order({100: 1.0, 9: 1.0, 20: 1.0}, "trec_eval") == [9, 20, 100]


@pytest.mark.parametrize(
    ("rules", "queries"),
    [
        ({}, ["q1", "q2"]),
        ({"unanswered": "zero"}, ["q1", "q2", "q3", "q5"]),
        ({"no_relevant": "skip"}, ["q1"]),
        ({"rules": "sentence_transformers"}, ["q1", "q3", "q5"]),
        ({"rules": "ranx"}, ["q1", "q2", "q3", "q5"]),
    ],
)
def test_what_counts_is_said_and_numbered(rules, queries):
    found = evaluation.run_scores(RUN, JUDGED, ks=2, rows=True, **rules)
    assert found["per_query"]["query"] == queries and found["queries"] == len(queries)
    assert (found["unanswered"], found["without_relevant"], found["not_judged"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"unanswered": "raise"}, "documents in the run.*'q3'"),
        ({"no_relevant": "raise"}, "relevant ones.*'q2'"),
        ({"rules": "beir"}, "`rules`.*'ranx'"),
        ({"ties": "random"}, "`ties`.*'order'"),
        ({"gains": "log"}, "`gains`"),
        ({"map_divisor": "k"}, "`map_divisor`"),
        ({"low_grades_gain": 1}, "`low_grades_gain`"),
        ({"relevance_level": 0}, "`relevance_level`"),
        ({"relevance_level": 9, "no_relevant": "skip"}, "Of 4 judged queries, 2 have no documents.*4 no relevant"),
        ({"ks": [0]}, "`ks`"),
        ({"intervals": 1.0}, "`intervals`"),
        ({"run": {"q1": {"a": "1"}}}, "finite score"),
        ({"run": {"q1": {1: 1.0}}}, "documents with ids of the type.*a string.*read from files"),
        ({"run": {1: {"a": 1.0}}}, "queries with ids of the type"),
        ({"run": {}}, "at least one query"),
        ({"relevant": {"q1": "a"}}, "documents with grades"),
        ({"relevant": [{"a"}]}, "`relevant`"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments, said):
    arguments = {"run": RUN, "relevant": JUDGED, **arguments}
    with pytest.raises(ValueError, match=f"(?s){said}"):
        evaluation.run_scores(arguments.pop("run"), arguments.pop("relevant"), **arguments)


def test_intervals_are_those_of_means_over_resampled_queries(numbers):
    options = {"ks": 10, "rows": True, "intervals": 0.9, "resamples": 300, "seed": 5}
    found = evaluation.run_scores(numbers["run"], numbers["qrels"], **options)
    values = np.array(found["per_query"]["ndcg@10"])
    rng = np.random.default_rng(5)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(300)]
    np.testing.assert_allclose(found["intervals"]["ndcg@10"], np.quantile(means, [0.05, 0.95]))
    ids, relevant = [[0, 1], [1, 0], [2, 0]], [{0}, {0}, {0, 2}]
    given = evaluation.retrieval_scores(ids, relevant, ks=2, intervals=0.5, resamples=50)["intervals"]["recall@2"]
    assert 0.0 <= given[0] <= given[1] <= 1.0


def test_two_runs_are_compared_query_by_query(numbers):
    rows = {"rows": True, "unanswered": "zero", "ks": 10}
    one = evaluation.run_scores(numbers["run"], numbers["qrels"], **rows)
    worse = {query: {document: -score for document, score in each.items()} for query, each in numbers["run"].items()}
    other = evaluation.run_scores(worse, numbers["qrels"], **rows)
    found = evaluation.compare(one, other, scores="mrr")["scores"]["mrr"]
    assert found["difference"] == pytest.approx(one["mrr"] - other["mrr"])


# === Folders ===

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def encode(texts, **kwargs):
    """Counts of letters."""
    return np.array([[text.lower().count(letter) + 0.01 for letter in LETTERS] for text in texts], "float32")


ENCODER = types.SimpleNamespace(encode=encode)


def test_a_folder_is_scored_by_an_embedder_and_by_any_other_search(tmp_path):
    folder = files.folder(tmp_path / "faq")
    found = evaluation.beir(ENCODER, folder, ks=(1, 2), run_file=tmp_path / "a.run", rows=True, intervals=0.9)
    assert found["documents"] == 2 and found["queries"] == 2 and set(found["intervals"]) >= {"ndcg@2"}
    run = data.read_run(tmp_path / "a.run")
    task = data.read_beir(folder)
    direct = evaluation.search_run(ENCODER, task.queries, task.corpus)
    assert {query: list(each) for query, each in run.items()} == {query: list(each) for query, each in direct.items()}
    assert evaluation.run_scores(run, task.relevant, ks=(1, 2))["ndcg@2"] == found["ndcg@2"]
    seen = []

    def search(queries, corpus):
        seen.append((queries, corpus))
        return direct

    other = evaluation.beir(search, folder, ks=(1, 2))
    assert seen == [(task.queries, task.corpus)] and other["ndcg@2"] == found["ndcg@2"]
    with pytest.raises(ValueError, match=r"`batch_size`.*search of your own"):
        evaluation.beir(search, folder, batch_size=2)
    with pytest.raises(ValueError, match="`model`"):
        evaluation.beir("bm25", folder)


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path):
    corpus = [{"_id": "q1", "text": "aaa"}, {"_id": "d1", "text": "aab"}, {"_id": "d2", "text": "zzz"}]
    qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"
    folder = files.folder(tmp_path, corpus, [{"_id": "q1", "text": "aaa"}], qrels)
    assert evaluation.beir(ENCODER, folder, ks=1, k=1)["ndcg@1"] == 1.0
    assert evaluation.beir(ENCODER, folder, ks=1, k=1, ignore_identical_ids=False)["ndcg@1"] == 0.0


def test_several_folders_count_the_same_in_the_mean(tmp_path):
    files.folder(tmp_path / "all" / "one")
    files.folder(tmp_path / "all" / "two", qrels="query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    found = evaluation.nano_beir(ENCODER, tmp_path / "all")
    each = {
        name: evaluation.beir(ENCODER, tmp_path / "all" / name, rules="sentence_transformers")
        for name in ("one", "two")
    }
    assert found["datasets"]["two"]["queries"] == 1
    for key in ("ndcg@10", "map@100", "mrr@10"):
        assert found[key] == pytest.approx((each["one"][key] + each["two"][key]) / 2)
    listed = evaluation.nano_beir(ENCODER, [tmp_path / "all" / "one", tmp_path / "all" / "two"])
    assert listed["ndcg@10"] == found["ndcg@10"]
    said = []

    def prompted(texts, prompt=None, **kwargs):
        said.append(prompt)
        return encode(texts)

    model = types.SimpleNamespace(encode=prompted)
    evaluation.nano_beir(model, {"a": tmp_path / "all" / "one"}, query_prompts={"a": "query: "})
    assert said == ["query: ", None]
    with pytest.raises(ValueError, match=r"`query_prompts`.*'a'"):
        evaluation.nano_beir(model, {"a": tmp_path / "all" / "one"}, query_prompts={"b": "query: "})
    with pytest.raises(ValueError, match="`run_file`"):
        evaluation.nano_beir(model, tmp_path / "all", run_file=tmp_path / "a.run")
    with pytest.raises(ValueError, match="at least one data set"):
        evaluation.nano_beir(model, tmp_path)
    with pytest.raises(ValueError, match="different last parts"):
        evaluation.nano_beir(model, [tmp_path / "all" / "one", tmp_path / "all" / "one"])


def test_lists_have_their_places_as_ids():
    run = evaluation.search_run(ENCODER, ["aa"], ["zz", "ab"], k=1)
    assert list(run) == [0] and list(run[0]) == [1]
    assert evaluation.run_scores(run, {0: [1]}, ks=1)["mrr"] == 1.0


# === Translations, paraphrases, students ===


def test_equal_translations_count_as_texts_and_not_as_places():
    texts = (["a", "b", "c"], ["x", "x", "y"])
    vectors = {"a": [1.0, 0.0], "b": [1.0, 0.1], "c": [0.0, 1.0], "x": [1.0, 0.0], "y": [0.0, 1.0]}
    model = types.SimpleNamespace(encode=lambda texts, **_: np.array([vectors[text] for text in texts]))
    found = evaluation.translation(model, texts)
    assert (found["source_to_target"], found["target_to_source"]) == (1.0, 2 / 3)
    assert evaluation.translation(model, texts, match="position")["source_to_target"] == 2 / 3
    with pytest.raises(ValueError, match="`match`"):
        evaluation.translation(model, texts, match="id")
    with pytest.raises(ValueError, match="without a target"):
        evaluation.translation(model, data.pairs({"a": ["x"], "b": ["y"], "s": [1]}, ("a", "b"), target="s"))
    with pytest.raises(ValueError, match="two texts"):
        evaluation.translation(model, (["a"], ["x"], ["y"]))


def test_paraphrases_by_ids_equal_those_by_places():
    texts = {"p": "abc", "q": "cab", "r": "zzz", "s": "zzy"}
    found = evaluation.paraphrase_mining(ENCODER, texts, [("q", "p")])
    assert found == evaluation.paraphrase_mining(ENCODER, list(texts.values()), [(0, 1)])
    assert found["average_precision"] == 1.0 and found["pairs"] == 1
    with pytest.raises(ValueError, match=r"ids of `texts`.*pair 0"):
        evaluation.paraphrase_mining(ENCODER, texts, [("q", "x")])


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "at least one pair"),
        ([(0, 0)], "two different rows.*pair 0"),
        ([(0, 1), (0, 3)], "from 0 to 2.*pair 1"),
        ([(0, -1)], "two different rows"),
        ([(0.0, 1.0)], "int array"),
    ],
)
def test_pairs_that_are_none_are_errors(pairs, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        evaluation.paraphrase_mining_scores(np.eye(3), pairs)


def test_a_student_is_held_against_its_teacher_and_its_vectors():
    english, german = ["ab", "cd"], ["ac", "cd"]
    expected = np.mean((encode(english).astype("float64") - encode(german)) ** 2)
    found = evaluation.embedding_mse(ENCODER, ENCODER, (english, german))
    assert found["mse"] == pytest.approx(expected) and found["negative_mse"] == -found["mse"]
    assert evaluation.embedding_mse(ENCODER, encode(english), (english, german)) == found
    assert evaluation.embedding_mse(ENCODER, ENCODER, english)["cosine"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two arrays of one shape"):
        evaluation.embedding_mse(ENCODER, np.ones((2, 3)), english)
    with pytest.raises(ValueError, match="`teacher`"):
        evaluation.embedding_mse(ENCODER, "teacher", english)
