"""Pairs and triplets against SciPy and scikit-learn, including ties."""

import functools
import types

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data, evaluation, models

RNG = np.random.default_rng(11)
SCIPY = {"cosine": "cosine", "dot": None, "euclidean": "euclidean", "manhattan": "cityblock"}


class Digits:
    """Encodes a text of numbers as the vector of these numbers."""

    prompts = {}

    def encode(self, texts, **kwargs):
        return np.array([[float(part) for part in text.split()] for text in texts])


def texts(vectors):
    return [" ".join(map(str, vector)) for vector in vectors]


def oracle(first, second, name):
    """The similarity of each pair by SciPy's distances, one pair at a time."""
    if name == "dot":
        return np.array([np.dot(a, b) for a, b in zip(first, second, strict=True)])
    distance = getattr(scipy.spatial.distance, SCIPY[name])
    return -np.array([distance(a, b) for a, b in zip(first, second, strict=True)])


@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
def test_similarity_scores_equal_scipy_for_each_similarity_with_ties(name):
    first, second = RNG.integers(1, 4, (60, 3)).astype(float), RNG.integers(1, 4, (60, 3)).astype(float)
    scores = RNG.integers(0, 5, 60)
    expected = np.round(oracle(first, second, name), 12)  # equal cosines may differ in the last bit
    found = evaluation.similarity_scores(first, second, scores, similarity=name)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(expected, scores).statistic, abs=5e-3)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(expected, scores).statistic, abs=1e-9)
    assert found == evaluation.similarity(Digits(), (texts(first), texts(second)), scores, similarity=name)


def test_several_similarities_have_their_own_keys():
    first, second = RNG.normal(size=(9, 3)), RNG.normal(size=(9, 3))
    scores = RNG.normal(size=9)
    found = evaluation.similarity_scores(first, second, scores, similarity="all")
    assert set(found) == {"spearman", "pearson", "rows"} | {
        f"{key}_{name}" for key in ("spearman", "pearson") for name in evaluation.SIMILARITIES
    }
    assert found["spearman"] == found["spearman_cosine"]
    alone = evaluation.similarity_scores(first, second, scores, similarity="manhattan")
    assert found["pearson_manhattan"] == alone["pearson"]
    with pytest.raises(ValueError, match="`similarity`"):
        evaluation.similarity_scores(first, second, scores, similarity=["cosine", "cosine"])


def test_a_model_that_gives_all_pairs_one_similarity_scores_0():
    found = evaluation.similarity_scores(np.ones((4, 2)), np.ones((4, 2)), [1, 2, 3, 4])
    assert found == {"spearman": 0.0, "pearson": 0.0, "rows": 4}


def test_similarity_takes_a_siamese_and_cross_encoders(tmp_path):
    embedder = tiny.embedder(tmp_path)
    pairs, scores = (tiny.TEXTS, tiny.TEXTS[::-1]), np.arange(8)
    assert evaluation.similarity(models.Siamese(embedder), pairs, scores) == evaluation.similarity(
        embedder, pairs, scores
    )
    regressor = models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    expected = scipy.stats.spearmanr(regressor.predict(pairs, verbose=0)[:, 0], scores).statistic
    assert evaluation.similarity(regressor, pairs, scores)["spearman"] == pytest.approx(expected)
    assert evaluation.similarity(lambda a, b: np.arange(8), pairs, scores)["spearman"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"`model`.*two labels"):
        evaluation.similarity(tiny.classifier(tmp_path), pairs, scores)
    with pytest.raises(ValueError, match="`similarity`"):
        evaluation.similarity(regressor, pairs, scores, similarity="dot")


def test_a_view_of_an_embedder_can_be_scored(tmp_path):
    embedder, pairs, scores = tiny.embedder(tmp_path), (tiny.TEXTS, tiny.TEXTS[::-1]), np.arange(8)
    small = types.SimpleNamespace(encode=functools.partial(embedder.encode, truncate_dim=4))
    cut = [embedder.encode(column)[:, :4] for column in pairs]
    assert evaluation.similarity(small, pairs, scores)["pearson"] == pytest.approx(
        evaluation.similarity_scores(*cut, scores)["pearson"]
    )


def best(metric, labels, similarities):
    """The best value of a scikit-learn metric over all thresholds."""
    thresholds = [*np.unique(similarities), np.inf]
    return max(metric(labels, similarities >= threshold) for threshold in thresholds)


def f1(labels, decisions):
    return sklearn.metrics.f1_score(labels, decisions, zero_division=0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=30))
def test_pair_classification_equals_scikit_learn_with_ties(rows):
    labels, similarities = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 4
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="both kinds"):
            evaluation.pair_classification_scores(labels, similarities)
        return
    found = evaluation.pair_classification_scores(labels, similarities)
    assert found["accuracy"] == pytest.approx(best(sklearn.metrics.accuracy_score, labels, similarities))
    assert found["f1"] == pytest.approx(best(f1, labels, similarities))
    assert found["mcc"] == pytest.approx(max(0.0, best(sklearn.metrics.matthews_corrcoef, labels, similarities)))
    assert found["average_precision"] == pytest.approx(
        sklearn.metrics.average_precision_score(labels, similarities), abs=1e-12
    )
    for key, metric in (("accuracy", sklearn.metrics.accuracy_score), ("f1", f1)):
        assert metric(labels, similarities >= found[f"{key}_threshold"]) == pytest.approx(found[key])
    decisions = similarities >= found["f1_threshold"]
    assert found["precision"] == pytest.approx(sklearn.metrics.precision_score(labels, decisions, zero_division=0.0))
    assert found["recall"] == pytest.approx(sklearn.metrics.recall_score(labels, decisions))


def test_a_threshold_of_other_rows_is_taken_as_it_is():
    labels, similarities = RNG.integers(0, 2, 50), RNG.normal(size=50)
    found = evaluation.pair_classification_scores(labels, similarities, threshold=0.3)
    decisions = similarities >= 0.3
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, decisions))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, decisions))
    assert found["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, decisions))
    assert found["accuracy_threshold"] == found["f1_threshold"] == found["mcc_threshold"] == 0.3


def test_neighbouring_floats_are_told_apart():
    low = 0.1
    high = np.nextafter(low, 1.0)
    found = evaluation.pair_classification_scores([0, 1], [low, high])
    assert found["accuracy"] == found["f1"] == 1.0 and found["f1_threshold"] == high


def test_pair_classification_takes_models_and_datasets(tmp_path):
    first, second, labels = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3)), RNG.integers(0, 2, 20)
    columns = {"a": texts(first), "b": texts(second), "same": labels.tolist()}
    found = evaluation.pair_classification(Digits(), data.pairs(columns, ("a", "b"), target="same"))
    expected = evaluation.pair_classification_scores(labels, oracle(first, second, "cosine"))
    assert found["average_precision"] == pytest.approx(expected["average_precision"])
    assert found["rows"] == 20 and found["positives"] == labels.sum()
    everything = evaluation.pair_classification(Digits(), (columns["a"], columns["b"]), labels, similarity="all")
    assert everything["f1_euclidean"] == pytest.approx(
        evaluation.pair_classification_scores(labels, oracle(first, second, "euclidean"))["f1"]
    )
    classifier = tiny.classifier(tmp_path, labels=["other", "same"])
    pairs = (tiny.TEXTS, tiny.TEXTS[::-1])
    found = evaluation.pair_classification(classifier, pairs, [0, 1] * 4)
    assert found["average_precision"] == pytest.approx(
        sklearn.metrics.average_precision_score([0, 1] * 4, classifier.classify(pairs).probabilities[:, 1])
    )


@pytest.mark.parametrize(
    ("labels", "said"), [([1, 2], "0 and 1"), ([1, 1], "both kinds"), ([1], "2 labels"), (None, "one for each pair")]
)
def test_labels_that_do_not_fit_are_an_error(labels, said):
    with pytest.raises(ValueError, match=said):
        evaluation.pair_classification(Digits(), (["1", "2"], ["1", "2"]), labels)


@pytest.mark.parametrize("name", evaluation.SIMILARITIES)
def test_triplet_accuracy_equals_a_loop(name):
    anchors, positives, some, more = RNG.normal(size=(4, 40, 3))
    expected = [
        oracle([a], [p], name)[0] - max(oracle([a, a], [n, m], name))
        for a, p, n, m in zip(anchors, positives, some, more, strict=True)
    ]
    found = evaluation.triplet_scores(anchors, positives, np.stack([some, more], axis=1), similarity=name)
    assert found["triplet_accuracy"] == pytest.approx(np.mean(np.array(expected) > 0))
    assert found["triplet_margin"] == pytest.approx(np.mean(expected))
    columns = {"a": texts(anchors), "p": texts(positives), "n": texts(some), "m": texts(more)}
    dataset = data.triplets(columns, ("a", "p", "n", "m"))
    assert evaluation.triplets(Digits(), dataset, similarity=name)["triplet_margin"] == pytest.approx(np.mean(expected))


def test_a_tie_of_positive_and_negative_is_a_miss():
    vectors = np.ones((3, 2))
    assert evaluation.triplet_scores(vectors, vectors, vectors)["triplet_accuracy"] == 0.0


@pytest.mark.parametrize(
    "columns", [(["1"], ["2"]), (["1"], ["2"], ["3", "4"]), ([], [], []), "text", (["1"], [2], ["3"])]
)
def test_triplets_that_do_not_fit_are_an_error(columns):
    with pytest.raises(ValueError, match="`texts`"):
        evaluation.triplets(Digits(), columns)


def test_vectors_that_are_not_finite_are_an_error():
    class Broken(Digits):
        def encode(self, texts, **kwargs):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(ValueError, match="finite; the vector of '1'"):
        evaluation.triplets(Broken(), (["1"], ["2"], ["3"]))
    with pytest.raises(ValueError, match=r"`first`.*finite"):
        evaluation.similarity_scores([[np.nan], [1.0]], [[1.0], [2.0]], [1, 2])
    with pytest.raises(ValueError, match="`embedder`"):
        evaluation.triplets(object(), (["1"], ["2"], ["3"]))
