"""Retrieval and reranking against naive loops and scikit-learn, ties included."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation_pairs import Digits, oracle, texts

from tfxfer import data, evaluation

RNG = np.random.default_rng(5)
KS = (1, 2, 5, 8)


def naive(ranked, grades, k):
    """Computes the scores of one query from their definitions; `ranked` holds ids, `grades` is a dict."""
    hits = [one in grades for one in ranked[:k]]
    dcg = sum(grades.get(one, 0) / math.log2(i + 2) for i, one in enumerate(ranked[:k]))
    ideal = sum(grade / math.log2(i + 2) for i, grade in enumerate(sorted(grades.values(), reverse=True)[:k]))
    return {
        "accuracy": float(any(hits)),
        "precision": sum(hits) / k,
        "recall": sum(hits) / len(grades),
        "mrr": next((1 / (i + 1) for i, hit in enumerate(hits) if hit), 0.0),
        "ndcg": dcg / ideal,
        "map": sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / min(k, len(grades)),
    }


def task(queries=12, documents=30, ties=False):
    """Returns queries, documents and graded relevance; with ties, the vectors are axes, whose cosines are exact."""
    make = (lambda n: np.eye(3)[RNG.integers(0, 3, n)]) if ties else (lambda n: RNG.normal(size=(n, 3)))
    relevant = [
        {int(i): int(RNG.integers(1, 4)) for i in RNG.choice(documents, RNG.integers(1, 12), replace=False)}
        for _ in range(queries)
    ]
    return make(queries), make(documents), relevant


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
def test_retrieval_equals_naive_loops(name, ties, blocks):
    queries, documents, relevant = task(ties=ties)
    with blocks(queries=5, rows=7):
        found = evaluation.retrieval(
            Digits(), texts(queries), texts(documents), relevant, ks=KS, similarity=name, corpus_chunk=11
        )
    rows = []
    for query, grades in zip(queries, relevant, strict=True):
        scores = np.round(oracle([query] * len(documents), documents, name), 9)
        ranked = sorted(range(len(documents)), key=lambda i: (-scores[i], i))
        rows.append({f"{key}@{k}": value for k in KS for key, value in naive(ranked, grades, k).items()})
    for key in rows[0]:
        assert found[key] == pytest.approx(np.mean([row[key] for row in rows])), key
    assert found["queries"] == 12 and found["documents"] == 30


def test_ndcg_and_map_equal_scikit_learn_over_a_whole_ranking():
    scores = RNG.normal(size=(20, 15))
    grades = RNG.integers(0, 3, (20, 15))
    grades[:, 0] = 1
    ids = np.argsort(-scores, axis=1)
    relevant = [dict(enumerate(row)) for row in grades.tolist()]
    found = evaluation.retrieval_scores(ids, relevant, ks=(4, 15))
    assert found["ndcg@4"] == pytest.approx(sklearn.metrics.ndcg_score(grades, scores, k=4))
    assert found["ndcg@15"] == pytest.approx(sklearn.metrics.ndcg_score(grades, scores))
    each = [sklearn.metrics.average_precision_score(g > 0, s) for g, s in zip(grades, scores, strict=True)]
    assert found["map@15"] == pytest.approx(np.mean(each))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_better_cut_never_lowers_accuracy_recall_or_mrr(draw):
    ids = np.array([draw.draw(st.permutations(range(8))) for _ in range(3)])
    relevant = [draw.draw(st.sets(st.integers(0, 7), min_size=1)) for _ in range(3)]
    found = evaluation.retrieval_scores(ids, relevant, ks=range(1, 9))
    for key in ("accuracy", "recall", "mrr"):
        values = [found[f"{key}@{k}"] for k in range(1, 9)]
        assert values == sorted(values)
    assert found["recall@8"] == pytest.approx(1.0) and found["accuracy@8"] == 1.0
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())


@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
@pytest.mark.parametrize("documents", [1, 2, 4])
def test_a_corpus_smaller_than_the_ranks_has_nothing_beyond_its_end(documents, name):
    queries, corpus, grades = (
        RNG.normal(size=(3, 3)),
        RNG.normal(size=(documents, 3)),
        [{0: 2}, {documents - 1: 1}, {0: 1}],
    )
    found = evaluation.retrieval(Digits(), texts(queries), texts(corpus), grades, similarity=name)
    given = evaluation.retrieval(Digits(), texts(queries), texts(corpus), grades, similarity=name, ks=(1, 3, 5, 10))
    assert found == given
    rows = []
    for query, grade in zip(queries, grades, strict=True):
        scores = oracle([query] * documents, corpus, name)
        ranked = sorted(range(documents), key=lambda i: -scores[i])
        rows.append({f"{key}@{k}": value for k in (1, 3, 5, 10) for key, value in naive(ranked, grade, k).items()})
    for key in rows[0]:
        assert found[key] == pytest.approx(np.mean([row[key] for row in rows])), key
    assert found["recall@10"] == 1.0 and found["precision@10"] == pytest.approx(0.1)


def test_results_of_few_ranks_are_scored_at_the_default_ks_that_they_reach():
    found = evaluation.retrieval_scores([[4, 7, 1, 0]], [{7}])
    assert [key for key in found if key.startswith("mrr")] == ["mrr@1", "mrr@3"] and found["mrr@3"] == 0.5
    with pytest.raises(ValueError, match="ints <= 4, the number of ranks"):
        evaluation.retrieval_scores([[4, 7, 1, 0]], [{7}], ks=5)


def test_ids_of_any_kind_and_places_give_the_same():
    queries, documents, relevant = task()
    by_place = evaluation.retrieval(Digits(), texts(queries), texts(documents), relevant)
    by_id = evaluation.retrieval(
        Digits(),
        {f"q{i}": text for i, text in enumerate(texts(queries))},
        {f"d{i}": text for i, text in enumerate(texts(documents))},
        {f"q{i}": {f"d{j}": grade for j, grade in each.items()} for i, each in enumerate(relevant)},
    )
    assert by_place == by_id
    without = evaluation.retrieval(Digits(), texts(queries), texts(documents), [np.array(list(r)) for r in relevant])
    assert without["recall@5"] == by_place["recall@5"]


def test_pairs_are_queries_with_their_answers():
    pairs = data.pairs({"a": ["1 0", "0 1", "1 0"], "b": ["1 1", "0 2", "2 0"]}, ("a", "b"))
    found = evaluation.retrieval(Digits(), pairs, ks=(1, 2))
    assert found["queries"] == 2 and found["documents"] == 3
    assert found["accuracy@1"] == 1.0 and found["recall@2"] == 1.0
    scored = data.pairs({"a": ["1 0"], "b": ["1 1"], "y": [1.0]}, ("a", "b"), target="y")
    with pytest.raises(ValueError, match="without a target"):
        evaluation.retrieval(Digits(), scored, ks=1)


def test_prompts_of_the_embedder_are_used():
    class Prompted(Digits):
        prompts = {"query": "q: ", "passage": "p: "}
        seen = []

        def encode(self, texts, prompt=None, **kwargs):
            self.seen.append(prompt)
            return super().encode(texts)

    embedder = Prompted()
    arguments = (["1 0"], ["1 1", "2 0"], [[0]])
    evaluation.retrieval(embedder, *arguments, ks=1)
    evaluation.retrieval(embedder, *arguments, ks=1, query_prompt="", document_prompt="d: ")
    assert embedder.seen == ["q: ", "p: ", "", "d: "]
    evaluation.reranking(embedder, [{"query": "1 0", "positives": "1 1", "negatives": "0 1"}])
    assert embedder.seen[4:] == ["q: ", "p: "]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"corpus": []}, "`corpus`.*at least one text"),
        ({"corpus": None}, "`corpus`.*at least one text"),
        ({"queries": []}, "`queries`.*at least one text"),
        ({"queries": "1 0"}, "`queries`.*list of strings"),
        ({"relevant": [[]]}, "has none: remove it"),
        ({"relevant": [{0: 0}]}, "has none: remove it"),
        ({"relevant": [[5]]}, "ids of `corpus`.*relevant=5"),
        ({"relevant": [[0], [1]]}, "an entry for each of 1 queries"),
        ({"relevant": {}}, "has none: remove it"),
        ({"relevant": {0: [0], 1: [0]}}, "ids of `queries`"),
        ({"relevant": [0]}, "a list of ids"),
        ({"relevant": None}, "`relevant`"),
        ({"ks": ()}, "at least one rank"),
        ({"ks": 0}, "`ks`"),
        ({"similarity": "cos"}, "`similarity`"),
    ],
)
def test_bad_tasks_are_errors(changed, said):
    arguments = {"queries": ["1 0"], "corpus": ["1 1", "2 0"], "relevant": [[0]], "ks": 1, **changed}
    with pytest.raises(ValueError, match=said):
        evaluation.retrieval(Digits(), **arguments)


def lists(ties):
    rows = []
    for _ in range(25):
        size = RNG.integers(2, 14)
        grades = RNG.integers(0, 3, size)
        grades[:2] = [1, 0]
        rows.append((grades, RNG.integers(0, 4, size) / 3 if ties else RNG.normal(size=size)))
    return [row[0] for row in rows], [row[1] for row in rows]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_reranking_equals_scikit_learn(k, ties):
    relevant, scores = lists(ties)
    found = evaluation.reranking_scores(relevant, scores, k=k)
    pairs = list(zip(relevant, scores, strict=True))
    each = [sklearn.metrics.average_precision_score(g > 0, s) for g, s in pairs]
    assert found["map"] == pytest.approx(np.mean(each))
    assert found[f"ndcg@{k}"] == pytest.approx(np.mean([sklearn.metrics.ndcg_score([g], [s], k=k) for g, s in pairs]))
    ranks = [min(int(np.sum(s >= s[i])) for i in np.flatnonzero(g)) for g, s in pairs]
    assert found[f"mrr@{k}"] == pytest.approx(np.mean([1 / rank if rank <= k else 0.0 for rank in ranks]))


def test_a_model_without_an_opinion_gains_nothing_by_the_order_of_candidates():
    relevant, scores = [np.array([1, 0, 0, 0])], [np.zeros(4)]
    assert evaluation.reranking_scores(relevant, scores)["mrr@10"] == 0.25
    assert evaluation.reranking_scores(relevant, scores) == evaluation.reranking_scores([relevant[0][::-1]], scores)


def test_reranking_takes_rows_triplets_and_cross_encoders():
    rows = [
        {"query": "1 0", "positives": ["1 0.1", "1 1"], "negatives": ["1 0.5", "0 1"]},
        {"query": "0 1", "positives": "1 0", "negatives": ["0 1"]},
    ]
    found = evaluation.reranking(Digits(), rows)
    first = sklearn.metrics.average_precision_score([1, 1, 0, 0], [3, 1, 2, 0])
    assert found["map"] == pytest.approx((first + 0.5) / 2) and found["rows"] == 2
    crossed = evaluation.reranking(lambda a, b: [len(text) for text in b], rows)
    assert crossed["mrr@10"] == pytest.approx((1 / 2 + 1 / 2) / 2)  # "1 0.1" ties with "1 0.5"; "1 0" with "0 1"
    triplets = data.triplets({"a": ["1 0"], "p": ["1 0.5"], "n": ["1 0.1"], "m": ["0 1"]}, ("a", "p", "n", "m"))
    assert evaluation.reranking(Digits(), triplets)["mrr@10"] == 0.5
    named = [{"q": "1 0", "good": "1 0", "bad": "0 1"}]
    assert evaluation.reranking(Digits(), named, columns=("q", "good", "bad"))["map"] == 1.0


@pytest.mark.parametrize("broken", [{"positives": []}, {"negatives": None}, {"positives": ["a", 3]}, {"query": None}])
def test_rows_without_a_part_are_errors(broken):
    rows = [{"query": "1", "positives": ["1"], "negatives": ["2"], **broken}]
    with pytest.raises(ValueError, match="row 0"):
        evaluation.reranking(Digits(), rows)


@pytest.mark.parametrize(
    ("relevant", "scores"), [([], []), ([[1, 0]], [[1.0]]), ([[1, 1]], [[1.0, 2.0]]), ([[0, 0]], [[1.0, 2.0]])]
)
def test_rankings_that_do_not_fit_are_errors(relevant, scores):
    with pytest.raises(ValueError, match=r"`scores`|`relevant`"):
        evaluation.reranking_scores(relevant, scores)
