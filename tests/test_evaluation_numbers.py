"""Scores of classifiers with intervals, curves and comparisons, against scikit-learn, SciPy, loops and golden numbers.

Reference: golden/calibration (scikit-learn 1.9.1, SciPy 1.17.1); its README gives the formula of each number.
"""

import json
import math
import types

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tiny

from tfxfer import evaluation

LABELS = ["card", "loan", "other", "rest"]


def softmax(logits):
    return scipy.special.softmax(logits, axis=1)


def rows_of(seed, rows=80, classes=4, several=False, ties=True):
    """True labels and probabilities; with `ties`, some probabilities are equal."""
    rng = np.random.default_rng(seed)
    if several:
        y = rng.integers(0, 2, (rows, classes))
        p = np.clip(0.3 * y + rng.uniform(0, 0.7, (rows, classes)), 0, 1)
        return y, p.round(1) if ties else p
    y = rng.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), y] += 1.0
    return y, softmax(logits.round(0) if ties else logits)


# === Scores ===


def expected_scores(y, p):
    """All scores, from scikit-learn where it has them, otherwise by definition."""
    truth = y if y.ndim == 2 else np.eye(p.shape[1])[y]
    found = {
        "auc": np.mean([sklearn.metrics.roc_auc_score(truth[:, k], p[:, k]) for k in range(p.shape[1])]),
        "average_precision": sklearn.metrics.average_precision_score(truth, p),
        "ece": evaluation.calibration_scores(y, p)["ece"],
    }
    if y.ndim == 2:
        columns = range(p.shape[1])
        found["log_loss"] = np.mean([sklearn.metrics.log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in columns])
        found["brier"] = np.mean([sklearn.metrics.brier_score_loss(y[:, k], p[:, k]) for k in columns])
    else:
        found["log_loss"] = sklearn.metrics.log_loss(y, p, labels=range(p.shape[1]))
        found["brier"] = np.mean(np.sum((p - truth) ** 2, axis=1))
    return found


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_equal_scikit_learn(several, ties):
    y, p = rows_of(1, several=several, ties=ties)
    found = evaluation.classification_scores(y, p, LABELS)
    assert {name: found[name] for name in expected_scores(y, p)} == pytest.approx(expected_scores(y, p), rel=1e-12)
    truth = y if several else np.eye(4)[y]
    for k, label in enumerate(LABELS):
        each = found["per_class"][label]
        assert each["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth[:, k], p[:, k]), rel=1e-12)
        expected = sklearn.metrics.average_precision_score(truth[:, k], p[:, k])
        assert each["average_precision"] == pytest.approx(expected, rel=1e-12)


def test_scores_equal_the_golden_numbers(golden):
    scores = json.loads((golden / "calibration" / "scores.json").read_text())
    logits = {
        each["name"]: each for each in json.loads((golden / "calibration" / "temperature.json").read_text())["cases"]
    }
    checked = 0
    for each in scores:
        if "probabilities" in each:
            p = np.array(each["probabilities"])
        elif "probabilities_are_softmax_of" in each:
            p = softmax(np.array(logits[each["name"]]["logits"]))
        else:
            continue
        y = np.array(each["labels"])
        found = evaluation.classification_scores(y, p, list(map(str, range(p.shape[1]))))
        assert found["accuracy"] == pytest.approx(each["accuracy"], rel=1e-12)
        assert found["brier"] == pytest.approx(each["brier_sum_over_classes"], rel=1e-12)
        assert found["log_loss"] == pytest.approx(
            each.get("log_loss", each.get("log_loss_clipped_at_float64_eps")), rel=1e-9
        )
        area = each.get("auroc_ovr_macro", each.get("sklearn_auroc"))
        if area is not None:
            assert found["auc"] == pytest.approx(area, rel=1e-12)
        for bins in each["calibration_error"]:
            if (bins["kind"], bins.get("closed"), bins["bins"]) == ("equal_width", "right", 15):
                assert found["ece"] == pytest.approx(bins["ece"], rel=1e-9)
                checked += 1
    assert checked >= 3


def test_areas_with_ties_equal_the_golden_numbers(golden):
    for each in json.loads((golden / "calibration" / "detection.json").read_text()):
        y, scores = np.array(each["labels"]), np.array(each["scores"], "float64")
        # Only ranks matter, so any increasing map into [0, 1] works.
        p = np.searchsorted(np.unique(scores), scores) / len(scores)
        found = evaluation.classification_scores(y[:, None], p[:, None], ["in"])
        assert found["auc"] == pytest.approx(each["auroc"], rel=1e-12)
        assert found["average_precision"] == pytest.approx(each["average_precision"], rel=1e-12)


def test_areas_of_a_class_without_rows_are_none_and_left_out_of_the_mean():
    y, p = [0, 1, 0], softmax(np.arange(9.0).reshape(3, 3) % 4)
    found = evaluation.classification_scores(y, p, list("abc"))
    assert found["per_class"]["c"]["auc"] is found["per_class"]["c"]["average_precision"] is None
    assert found["auc"] == pytest.approx(np.mean([found["per_class"][label]["auc"] for label in "ab"]))
    alone = evaluation.classification_scores([0], [[0.7, 0.3]], ["a", "b"], intervals=0.9, resamples=5)
    assert alone["auc"] is alone["intervals"]["auc"] is None and alone["intervals"]["accuracy"] == [1.0, 1.0]
    assert alone["average_precision"] == 1.0
    json.dumps(alone, allow_nan=False)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([[2.0, -1.0]], "Apply a softmax to logits"),
        ([[0.5, math.nan]], r"numbers in \[0, 1\]"),
        ([[0.9, 0.9]], "rows that sum to 1"),
    ],
)
def test_what_is_no_probability_is_an_error(p, message):
    with pytest.raises(ValueError, match=message):
        evaluation.classification_scores([0], p, ["a", "b"])


# === Intervals ===


@pytest.mark.parametrize("several", [False, True])
def test_intervals_are_percentiles_of_scores_of_resamples(several):
    y, p = rows_of(2, rows=30, several=several)
    found = evaluation.classification_scores(y, p, LABELS, intervals=0.8, resamples=40, seed=5, threshold=0.4)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(40):
        index = rng.integers(30, size=30)
        draws.append(evaluation.classification_scores(y[index], p[index], LABELS, threshold=0.4))
    for name, interval in found["intervals"].items():
        expected = np.quantile([each[name] for each in draws], [0.1, 0.9])
        assert interval == pytest.approx(expected.tolist(), rel=1e-9), name
    for label in LABELS:
        for name, interval in found["per_class"][label]["intervals"].items():
            values = [each["per_class"][label][name] for each in draws if each["per_class"][label][name] is not None]
            assert interval == pytest.approx(np.quantile(values, [0.1, 0.9]).tolist(), rel=1e-9), (label, name)
    assert set(found["intervals"]) == {
        *expected_scores(y, p),
        "accuracy",
        "macro_f1",
        *(["micro_f1"] if several else []),
    }


def test_intervals_hold_the_score_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for trial in range(80):
        right = rng.uniform(size=60) < 0.8
        p = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        found = evaluation.classification_scores([0] * 60, p, ["a", "b"], intervals=0.9, resamples=100, seed=trial)
        low, high = found["intervals"]["accuracy"]
        held += low <= 0.8 <= high
    assert 0.8 <= held / 80 <= 0.99  # three standard errors around 0.9


@pytest.mark.parametrize(("name", "value"), [("intervals", 95), ("intervals", 1.0), ("resamples", 1), ("seed", -1)])
def test_options_of_intervals_out_of_range_are_errors(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        evaluation.classification_scores([0], [[0.5, 0.5]], ["a", "b"], **{"intervals": 0.9, name: value})


# === Rows ===


def test_rows_say_what_became_of_each():
    y, p = ["loan", "card", "card"], [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    found = evaluation.classification_scores(y, p, ["card", "loan"], rows=True)
    assert "per_row" not in evaluation.classification_scores(y, p, ["card", "loan"])
    rows = found["per_row"]
    assert rows["label"] == y and rows["predicted"] == ["card", "card", "loan"]
    assert rows["probability"] == [0.6, 0.7, 0.8] and rows["right"] == [False, True, False]
    np.testing.assert_allclose(rows["loss"], -np.log([0.4, 0.7, 0.2]))
    assert np.mean(rows["loss"]) == pytest.approx(found["log_loss"]) and rows["probabilities"] == p
    several = evaluation.classification_scores([["a"], [], ["a", "b"]], p, ["a", "b"], rows=True, threshold=0.45)[
        "per_row"
    ]
    assert several["label"] == [["a"], [], ["a", "b"]] and several["predicted"] == [["a"], ["a"], ["b"]]
    np.testing.assert_allclose(several["probability"], [0.6, 0.7, 0.8])
    np.testing.assert_allclose(several["loss"][2], -np.log([0.2, 0.8]).mean())


@pytest.mark.parametrize("with_ids", [False, True])
def test_a_search_is_scored_query_by_query(with_ids):
    ids = [[2, 0, 1], [1, 0, 2], [0, 1, 2]]
    relevant = [{0}, {1: 2.0, 2: 1.0}, {2}]
    found = evaluation.retrieval_scores(ids, relevant, ks=(1, 3), rows=True)
    assert found["per_query"]["query"] == [0, 1, 2]
    for name, values in found["per_query"].items():
        if name != "query":
            assert found[name] == pytest.approx(np.mean(values))
            singles = [
                evaluation.retrieval_scores(ids[i : i + 1], relevant[i : i + 1], ks=(1, 3))[name] for i in range(3)
            ]
            assert values == pytest.approx(singles)
    texts = {"q7": "0.1", "q2": "3.0"} if with_ids else ["0.1", "3.0"]
    answers = {"q7": [0], "q2": [0]} if with_ids else [[0], [0]]
    angles = types.SimpleNamespace(
        encode=lambda texts, **_: np.array([[math.cos(float(t)), math.sin(float(t))] for t in texts])
    )
    found = evaluation.retrieval(angles, texts, ["0.0", "3.1"], answers, ks=(1,), rows=True)
    assert found["per_query"]["query"] == (["q7", "q2"] if with_ids else [0, 1])
    assert found["per_query"]["accuracy@1"] == [1.0, 0.0]


# === Comparisons ===


def test_mcnemar_equals_the_golden_numbers(golden):
    for each in json.loads((golden / "calibration" / "comparison.json").read_text())["mcnemar"]:
        b, c = each["b"], each["c"]
        rows = b + c + 3
        only_a, only_b = np.arange(rows) < b, (np.arange(rows) >= b) & (np.arange(rows) < b + c)
        one, other = (np.where(wrong[:, None], [0.1, 0.9], [0.9, 0.1]) for wrong in (only_b, only_a))
        [found] = evaluation.compare_scores([0] * rows, one, other, ["a", "b"], resamples=2)["mcnemar"]
        assert (found["only_a"], found["only_b"]) == (b, c)
        expected = each["p_exact"] if b + c < 25 else each["p_chi2_corrected"]
        assert found["method"] == ("exact" if b + c < 25 else "chi2")
        assert found["p_value"] == pytest.approx(expected, rel=1e-9)


class Drawn:
    """A random generator that returns given row indices, and draws the first run where there is only one."""

    def __init__(self, index):
        self._index = iter(index)

    def integers(self, high, size):
        return next(self._index) if size == 120 else np.zeros(size, int)


def test_bootstrap_equals_the_golden_numbers(golden, monkeypatch):
    # Uses the reference's resamples, because our random numbers differ.
    reference = json.loads((golden / "calibration" / "comparison.json").read_text())
    index = np.load(golden / "calibration" / "comparison_resamples.npz")["index"].astype(int)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Drawn(index))
    classes = 1 + max(reference["gold"])
    one, other = (np.eye(classes)[reference[side]] for side in ("first", "second"))
    for level in (0.9, 0.95):
        options = {"intervals": level, "resamples": len(index)}
        found = evaluation.compare_scores(reference["gold"], one, other, range(classes), **options)["scores"]
        for name in ("accuracy", "macro_f1"):
            expected = reference["bootstrap"][name]
            assert found[name]["a"] == pytest.approx(expected["first"], rel=1e-12)
            assert found[name]["difference"] == pytest.approx(expected["difference"], rel=1e-9)
            assert found[name]["interval"] == pytest.approx(expected[f"percentile_{level}"], rel=1e-9)
            assert found[name]["better"] == "a"


def test_a_comparison_over_runs_is_that_of_their_means():
    y, first = rows_of(3, rows=50, ties=False)
    runs = [softmax(np.log(first) + np.random.default_rng(seed).normal(0, 0.7, first.shape)) for seed in range(5)]
    found = evaluation.compare_scores(y, runs[:2], np.array(runs[2:]), LABELS, scores="all", resamples=20, seed=9)
    each = [evaluation.classification_scores(y, run, LABELS) for run in runs]
    rng, chooser = np.random.default_rng(9), np.random.default_rng([9, 1])
    draws = [
        evaluation.classification_scores(y[i], run[i], LABELS)["brier"]
        for _ in range(20)
        for i in [rng.integers(50, size=50)]
        for run in runs
    ]
    draws = np.array(draws).reshape(20, 5).T
    chosen = [chooser.integers(count, size=(count, 1, 20))[:, 0] for count in (2, 3)]
    means = [
        np.take_along_axis(part, places, axis=0).mean(axis=0)
        for part, places in zip((draws[:2], draws[2:]), chosen, strict=True)
    ]
    for name, scores in found["scores"].items():
        assert scores["runs"][1] == pytest.approx([one[name] for one in each[2:]])
        assert scores["difference"] == pytest.approx(np.mean(scores["runs"][0]) - np.mean(scores["runs"][1]))
    expected = np.quantile(means[0] - means[1], [0.025, 0.975])
    assert found["scores"]["brier"]["interval"] == pytest.approx(expected.tolist(), rel=1e-9)
    assert found["mcnemar"] == [] and found["rows"] == 50


def test_the_better_side_has_the_smaller_loss():
    y = [0, 1] * 30
    sure, unsure = np.eye(2)[y] * 0.9 + 0.05, np.eye(2)[y] * 0.2 + 0.4
    found = evaluation.compare_scores(y, unsure, sure, [0, 1], scores=["log_loss", "accuracy"], resamples=50)["scores"]
    assert found["log_loss"]["difference"] > 0 and found["log_loss"]["better"] == "b" and found["log_loss"]["real"]
    assert found["log_loss"]["p_value"] == pytest.approx(2 / 51)
    assert found["accuracy"]["better"] is None and found["accuracy"]["p_value"] == 1.0 and not found["accuracy"]["real"]


def test_equal_models_are_found_different_as_seldom_as_they_should():
    rng, false = np.random.default_rng(1), 0
    for trial in range(100):
        y = rng.integers(2, size=80)
        one, other = (softmax(np.eye(2)[y] * 1.0 + rng.normal(0, 1, (80, 2))) for _ in range(2))
        scores = evaluation.compare_scores(y, one, other, [0, 1], scores="accuracy", resamples=200, seed=trial)[
            "scores"
        ]
        false += scores["accuracy"]["real"]
    assert false <= 13  # 5 of 100 expected, plus three and a half standard errors


def test_models_results_and_searches_are_compared(tmp_path):
    model = tiny.classifier(tmp_path)
    result = evaluation.classification(model, tiny.TEXTS, tiny.LABELS, rows=True)
    found = evaluation.compare(model, result, tiny.TEXTS, tiny.LABELS, resamples=20)
    assert found["scores"]["accuracy"]["difference"] == 0 and found["mcnemar"][0]["p_value"] == 1
    assert evaluation.compare([model, result], [result], tiny.TEXTS, tiny.LABELS, resamples=20)["mcnemar"] == []
    best, worst = ([[0, 1]] * 20, [[1, 0]] * 20)
    searches = [evaluation.retrieval_scores(ids, [{0}] * 20, ks=(1, 2), rows=True) for ids in (best, worst)]
    found = evaluation.compare(*searches, resamples=20)
    assert found["scores"]["mrr@2"]["better"] == "a" and found["scores"]["recall@2"]["better"] is None
    assert found["queries"] == 20 and "mcnemar" not in found


def test_results_are_compared_at_their_own_threshold():
    y, p = rows_of(11, rows=30, several=True)
    low, high = (evaluation.classification_scores(y, p, LABELS, threshold=t, rows=True) for t in (0.3, 0.6))
    found = evaluation.compare(low, low, resamples=5)["scores"]
    assert found["micro_f1"]["a"] == low["micro_f1"] != high["micro_f1"]
    assert evaluation.compare(low, low, threshold=0.6, resamples=5)["scores"]["micro_f1"]["a"] == high["micro_f1"]
    with pytest.raises(ValueError, match="`threshold`"):
        evaluation.compare(low, high)


def test_curves_without_labels_take_numbers_and_say_so():
    with pytest.raises(ValueError, match="`labels=`"):
        evaluation.coverage_curve(["a", "b"], [[0.9, 0.1], [0.2, 0.8]])
    assert list(evaluation.precision_recall_curve([0, 1], [[0.9, 0.1], [0.2, 0.8]])["per_class"]) == [0, 1]


def test_what_cannot_be_compared_is_an_error():
    y, p = rows_of(4, rows=6)
    one = evaluation.classification_scores(y, p, LABELS, rows=True)
    for other, message in (
        (evaluation.classification_scores(y, p, LABELS), "rows=True"),
        (evaluation.classification_scores(y[::-1], p, LABELS, rows=True), "same rows"),
        (evaluation.classification_scores(y, p, LABELS[::-1], rows=True), "labels"),
        ([], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.compare(one, other)
    with pytest.raises(ValueError, match="`scores`"):
        evaluation.compare(one, one, scores="micro_f1")
    with pytest.raises(ValueError, match="`texts`"):
        evaluation.compare(types.SimpleNamespace(classify=None), one)
    with pytest.raises(ValueError, match="`y_true`"):
        evaluation.compare_scores(y, p, p[:5], LABELS)


# === Curves ===


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_coverage_is_the_share_of_the_surest_rows_and_ties_go_together(several, ties):
    y, p = rows_of(6, rows=40, several=several, ties=ties)
    found = evaluation.coverage_curve(y, p, points=None)
    if several:
        given = p >= 0.5
        right, sure = (given == y).all(axis=1), np.maximum(p, 1 - p).min(axis=1)
    else:
        right, sure = p.argmax(axis=1) == y, p.max(axis=1)
    points = [(np.mean(sure >= t), right[sure >= t].mean(), t) for t in sorted(set(sure), reverse=True)]
    assert [found[key] for key in ("coverage", "accuracy", "confidence")] == [
        pytest.approx([point[k] for point in points]) for k in range(3)
    ]
    assert (len(points) < 40) == ties
    # The area is the mean over orders of tied rows.
    rng, areas = np.random.default_rng(0), []
    for _ in range(400 if ties else 1):
        order = np.lexsort((rng.uniform(size=40), -sure))
        areas.append(np.mean(np.cumsum(~right[order]) / np.arange(1, 41)))
    assert found["aurc"] == pytest.approx(np.mean(areas), abs=0.004 if ties else 1e-12)
    last = np.sort(~right)
    assert found["excess_aurc"] == pytest.approx(found["aurc"] - np.mean(np.cumsum(last) / np.arange(1, 41)))


def test_a_coverage_curve_takes_other_confidences_and_is_thinned():
    y, p = rows_of(7, rows=300, ties=False)
    right = p.argmax(axis=1) == y
    found = evaluation.coverage_curve(y, p, confidence=right + 0.0)
    assert found["accuracy"] == [1.0, pytest.approx(right.mean())] and found["excess_aurc"] < 0.02
    found, whole = (evaluation.coverage_curve(y, p, points=points) for points in (20, None))
    assert len(found["coverage"]) == 20 and len(whole["coverage"]) == 300 and found["aurc"] == whole["aurc"]
    assert found["coverage"][0] == 1 / 300 and found["coverage"][-1] == 1.0
    assert set(zip(found["coverage"], found["accuracy"], strict=True)) <= set(
        zip(whole["coverage"], whole["accuracy"], strict=True)
    )
    with pytest.raises(ValueError, match="`confidence`"):
        evaluation.coverage_curve(y, p, confidence=[1.0])


@pytest.mark.parametrize("several", [False, True])
def test_precision_and_recall_equal_scikit_learn(several):
    y, p = rows_of(8, rows=60, several=several)
    found = evaluation.precision_recall_curve(y, p, labels=LABELS, points=None)
    truth = y if several else np.eye(4, dtype=int)[y]
    pairs = [(truth[:, k], p[:, k], found["per_class"][label]) for k, label in enumerate(LABELS)]
    for y_true, scores, curve in [*pairs, (truth.ravel(), p.ravel(), found["micro"])]:
        precision, recall, thresholds = sklearn.metrics.precision_recall_curve(y_true, scores)
        kept = np.flatnonzero(recall[:-1] < 1)[0] - 1  # the largest threshold with full recall
        assert curve["precision"] == pytest.approx(precision[kept:-1][::-1])
        assert curve["recall"] == pytest.approx(recall[kept:-1][::-1])
        assert curve["threshold"] == pytest.approx(thresholds[kept:][::-1])
        assert curve["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(y_true, scores))
    thin = evaluation.precision_recall_curve(y, p, labels=LABELS, points=3)["micro"]
    assert len(thin["recall"]) == 3 and thin["recall"][-1] == 1.0
    assert thin["average_precision"] == found["micro"]["average_precision"]
    empty = evaluation.precision_recall_curve([0, 0], [[0.5, 0.5], [1.0, 0.0]])["per_class"][1]
    assert empty["recall"] == [] and empty["average_precision"] is None


def test_a_report_shows_intervals(tmp_path):
    y, p = rows_of(9, rows=50)
    found = evaluation.report_scores(tmp_path, y, p, labels=LABELS, intervals=0.9)
    low, high = found["classification"]["intervals"]["accuracy"]
    page = (tmp_path / "README.md").read_text()
    assert (
        f"| classification | accuracy | {found['classification']['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in page
    )
    assert "| coverage | aurc |" in page and "![precision_recall](precision_recall.png)" in page
    assert found["coverage"]["rows"] == 50 and "| coverage | accuracy |" not in page  # a curve is not a number
