"""Scores compared with scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import tiny
from keras import ops

from tfxfer import data, evaluation

RNG = np.random.default_rng(3)


def test_single_label_scores_equal_scikit_learn():
    y_true = RNG.integers(0, 4, 50)
    probabilities = RNG.dirichlet(np.ones(5), 50)  # class 4 is predicted but never occurs
    y_pred = probabilities.argmax(1)
    scores = evaluation.classification_scores(y_true, probabilities, list("abcde"))
    report = sklearn.metrics.classification_report(
        y_true, y_pred, labels=range(5), target_names=list("abcde"), output_dict=True, zero_division=0.0
    )
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y_true, y_pred))
    assert scores["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred, average="macro"))
    for label in "abcde":
        assert scores["per_class"][label]["f1"] == pytest.approx(report[label]["f1-score"])
        assert scores["per_class"][label]["support"] == report[label]["support"]
    assert np.sum(scores["confusion"]) == 50 and scores["rows"] == 50
    assert scores["confusion"][1][2] == np.sum((y_true == 1) & (y_pred == 2))


def test_tensors_of_the_backend_are_scored_like_arrays():
    y_true = RNG.integers(0, 3, 20)
    several = RNG.integers(0, 2, (20, 3))
    for dtype in ("float16", "float32", "float64"):
        probabilities = RNG.dirichlet(np.ones(3), 20).astype(dtype)
        tensor = ops.convert_to_tensor(probabilities)
        for truth in (y_true, several):
            options = {"threshold": 0.4} if truth is several else {}
            assert evaluation.classification_scores(
                ops.convert_to_tensor(truth), tensor, list("abc"), **options
            ) == evaluation.classification_scores(truth, probabilities, list("abc"), **options)
        for scored in (evaluation.coverage_curve, evaluation.precision_recall_curve):
            found, expected = scored(several, tensor), scored(several, probabilities)
            np.testing.assert_equal(found, expected)


def test_the_scores_of_a_single_label_are_those_of_rows_that_have_it():
    rng = np.random.default_rng(2)
    y_true, probabilities = rng.integers(0, 2, (60, 1)), rng.random((60, 1))
    scores = evaluation.classification_scores(y_true, probabilities, ["rare"], threshold=[0.7])
    y_pred = probabilities[:, 0] >= 0.7
    expected = sklearn.metrics.f1_score(y_true[:, 0], y_pred)
    assert scores["macro_f1"] == scores["micro_f1"] == scores["per_class"]["rare"]["f1"] == pytest.approx(expected)
    assert scores["per_class"]["rare"]["support"] == y_true.sum()
    assert scores["confusion"] == [sklearn.metrics.confusion_matrix(y_true[:, 0], y_pred).tolist()]
    assert scores["accuracy"] == pytest.approx((y_true[:, 0] == y_pred).mean())


def test_multi_label_scores_equal_scikit_learn():
    y_true = RNG.integers(0, 2, (40, 3))
    probabilities = RNG.uniform(size=(40, 3))
    y_pred = probabilities >= 0.3
    scores = evaluation.classification_scores(y_true, probabilities, list("abc"), threshold=0.3)
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y_true, y_pred))
    assert scores["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred, average="macro"))
    assert scores["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred, average="micro"))


def test_class_that_is_neither_true_nor_predicted_does_not_lower_macro_f1():
    scores = evaluation.classification_scores([0, 1], [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], list("abc"))
    assert scores["macro_f1"] == 1.0


class Encoder:
    """A fake encoder: a text is an angle, and its embedding is the unit vector at that angle."""

    def encode(self, texts, **kwargs):
        angles = np.array([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_similarity_equals_scipy_with_ties():
    first, second = [str(a) for a in RNG.uniform(0, 3, 30)], [str(a) for a in RNG.uniform(0, 3, 30)]
    scores = RNG.integers(0, 4, 30).astype(float)
    u, v = Encoder().encode(first), Encoder().encode(second)
    cosines = np.sum(u * v, axis=1)
    result = evaluation.similarity(Encoder(), (first, second), scores)
    assert result["spearman"] == pytest.approx(scipy.stats.spearmanr(cosines, scores).statistic, abs=1e-9)
    assert result["pearson"] == pytest.approx(scipy.stats.pearsonr(cosines, scores).statistic, abs=1e-9)


def test_similarity_takes_what_pairs_made():
    rows = {"a": ["0.1", "1.0", "2.0"], "b": ["0.1", "0.0", "0.3"], "score": [3.0, 2.0, 1.0]}
    dataset = data.pairs(rows, ("a", "b"), target="score")
    assert evaluation.similarity(Encoder(), dataset)["spearman"] == pytest.approx(1.0)
    assert evaluation.similarity(Encoder(), dataset.take(2))["rows"] == 2  # also a plain tf.data.Dataset


@pytest.mark.parametrize("scores", [[1.0, 1.0], [1.0], [1.0, 2.0, 3.0]])
def test_similarity_without_a_defined_correlation_is_an_error(scores):
    with pytest.raises(ValueError, match="`scores`"):
        evaluation.similarity(Encoder(), (["1", "2"], ["1", "2"]), scores)


def test_classification_takes_lists_and_datasets(tmp_path):
    model = tiny.classifier(tmp_path)
    rows = {"text": tiny.TEXTS, "label": tiny.LABELS}
    dataset = data.labelled(rows, "text", "label", labels=model.labels)
    from_dataset = evaluation.classification(model, dataset)
    from_names = evaluation.classification(model, data.labelled(rows, "text", "label"))
    from_lists = evaluation.classification(model, tiny.TEXTS, tiny.LABELS)
    assert from_dataset == from_lists == from_names
    assert from_lists["rows"] == 8 and from_lists["labels"] == ["card", "loan", "other"]


def test_labels_in_another_order_than_the_models_are_an_error(tmp_path):
    model = tiny.classifier(tmp_path)
    rows = {"text": tiny.TEXTS, "label": tiny.LABELS}
    dataset = data.labelled(rows, "text", "label", labels=["other", "loan", "card"])
    with pytest.raises(ValueError, match=r"labels=model\.labels"):
        evaluation.classification(model, dataset)
