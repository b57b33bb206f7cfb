"""Targets of classifiers by name and by index: they have one interpretation, or they raise an error."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tiny

from tfxfer import evaluation

RNG = np.random.default_rng(8)
P = RNG.dirichlet(np.ones(3), size=6)
INDICES = [2, 0, 1, 1, 0, 2]
NAMES = ["card", "loan", "other"]
SEVERAL = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]]


def named(labels, indices=INDICES):
    return [labels[i] for i in indices]


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (INDICES, NAMES),
        (np.array(INDICES, "int32"), NAMES),
        (np.array(INDICES, "uint8")[:, None], tuple(NAMES)),
        (tf.constant(INDICES), np.array(NAMES)),
        (pd.Series(INDICES, dtype="float64"), pd.Index(NAMES)),
        (pd.Series(INDICES, index=list("abcdef")), NAMES),
        (named(NAMES), NAMES),
        (tuple(named(NAMES)), NAMES),
        (np.array(named(NAMES)), NAMES),
        (np.array(named(NAMES), object), NAMES),
        (np.array([name.encode() for name in named(NAMES)]), NAMES),
        (tf.constant(named(NAMES)), NAMES),
        (pd.Series(named(NAMES), dtype="category"), NAMES),
        (named(["3", "1", "2"]), ["3", "1", "2"]),
        (named([3, 1, 2]), [3, 1, 2]),
        (np.array(named([2, 0, 1]), "float32"), [2, 0, 1]),  # ints are names if the labels are ints
        (INDICES, [0, 1, 2]),
        (INDICES, ["0", "1", "2"]),  # both interpretations are the same
        (INDICES, ["0", "1", "other"]),
    ],
)
def test_names_and_indices_give_the_same_scores(y, labels):
    expected = evaluation.classification_scores(INDICES, P, NAMES)
    found = evaluation.classification_scores(y, P, labels)
    for key in ("accuracy", "macro_f1", "confusion", "rows"):
        assert found[key] == expected[key]
    assert list(found["per_class"].values()) == list(expected["per_class"].values())
    assert evaluation.calibration_scores(y, P, labels=labels) == evaluation.calibration_scores(INDICES, P)


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (SEVERAL, NAMES),
        (np.array(SEVERAL, "float32"), NAMES),
        (np.array(SEVERAL, bool), NAMES),
        (np.array(SEVERAL), [5, 1, 0]),
        (SEVERAL, [5, 1, 0]),
        ([[name for name, there in zip(NAMES, row, strict=True) if there] for row in SEVERAL], NAMES),
        ([{name for name, there in zip(NAMES, row, strict=True) if there} for row in SEVERAL], NAMES),
        ([np.array([n for n, there in zip(NAMES, row, strict=True) if there]) for row in SEVERAL], NAMES),
        (pd.Series([tuple(n for n, there in zip(NAMES, row, strict=True) if there) for row in SEVERAL]), NAMES),
        ([[i for i, there in enumerate(row) if there] for row in SEVERAL], NAMES),
        ([{n for n, there in zip((5, 1, 0), row, strict=True) if there} for row in SEVERAL], [5, 1, 0]),
    ],
)
def test_several_labels_a_row_have_any_form(y, labels):
    expected = evaluation.classification_scores(np.array(SEVERAL), P, NAMES)
    found = evaluation.classification_scores(y, P, labels)
    for key in ("accuracy", "macro_f1", "micro_f1", "confusion", "rows"):
        assert found[key] == expected[key]
    assert found["per_class"][labels[0]]["support"] == 3
    calibration = evaluation.calibration_scores(np.array(SEVERAL), P)
    assert evaluation.calibration_scores(y, P, labels=labels) == calibration


def test_rows_without_any_label_are_rows():
    for y in ([[], []], [set(), []], np.zeros((2, 0))):
        found = evaluation.classification_scores(y, P[:2], NAMES)
        assert found["rows"] == 2 and [each["support"] for each in found["per_class"].values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("y", "labels", "said"),
    [
        ([1, 2, 3, 1, 2, 3], ["1", "2", "3"], r"1 could be an index .label '2'. or a name .label '1'.*str\(value\)"),
        (INDICES, ["1", "2", "3"], r"labels\[i\] for i in y"),
        (np.array(INDICES, "float64"), ["0", "2", "1"], "could be an index"),
        ([3, 0, 1, 0, 0, 0], ["3 ", "x", "y"], "could be an index"),
        ([[1], [2]] * 3, ["1", "2", "3"], "could be an index"),
        ([True, False] * 3, NAMES, r"True.*row 0.*As an index it is 'loan'"),
        (np.array([True, False] * 3), [1, 2, 3], r"row 0.*As an index it is 2"),
        ([[True], [False]] * 3, NAMES, r"As an index it is 'loan'"),
        (["card"] * 5 + ["cart"], NAMES, r"one of the 3 labels .'card', 'loan', 'other'.*'cart'.*row 5"),
        (["card", 1, None, 1, 1, 1], NAMES, r"None.*row 2"),
        ([float("nan"), 1, 1, 1, 1, 1], NAMES, r"nan.*row 0"),
        ([0.5, 1, 1, 1, 1, 1], NAMES, r"0\.5.*row 0"),
        ([0, 1, 3, 1, 1, 1], NAMES, r"indices from 0 to 2.*y_true=3.*row 2"),
        ([0, -1, 1, 1, 1, 1], NAMES, r"indices from 0 to 2.*y_true=-1.*row 1"),
        (["1", "2", "3"] * 2, [1, 2, 3], r"one of the 3 labels .1, 2, 3.*'1'.*row 0"),
        ([0, 1, 2] * 2, [1, 2, 3], r"one of the 3 labels .1, 2, 3.*y_true=0.*row 0"),
        (P, NAMES, r"Class proportions.*argmax"),
        (P.tolist(), NAMES, r"Class proportions.*argmax"),
        (np.eye(3)[INDICES] * 2, NAMES, r"values in .0, 1. of shape \(rows, 3\)"),
        (np.eye(4)[INDICES], NAMES, r"values in .0, 1. of shape \(rows, 3\)"),
        ([["card"], "loan"] * 3, NAMES, r"a list of labels in every row.*'loan'.*row 1"),
        ([["card", "cart"]] * 6, NAMES, r"'cart'.*row 0"),
        (np.zeros((6, 3, 1)), NAMES, r"`y_true`.*\(6, 3, 1\)"),
        ("card", NAMES, "`y_true`"),
        (None, NAMES, "`y_true`"),
        (5, NAMES, "`y_true`"),
        (INDICES[:5], NAMES, "`y_true`"),
        ([], NAMES, "`y_true`"),
        (INDICES, "abc", "`labels`"),
        (INDICES, {"a", "b", "c"}, "`labels`"),
        (INDICES, ["a", "b"], "`labels`.*distinct"),
        (INDICES, ["a", "b", "b"], "`labels`.*distinct"),
        (INDICES, ["a", "b", 1], "`labels`.*strings or ints"),
        (INDICES, [True, False, 2], "`labels`"),
    ],
)
def test_what_is_no_label_or_could_be_two_is_an_error(y, labels, said):
    for function in (evaluation.classification_scores, evaluation.calibration_scores):
        with pytest.raises(ValueError, match=f"(?s){said}"):
            function(y, P, labels=labels)


def test_bools_are_the_labels_0_and_1():
    p = RNG.dirichlet(np.ones(2), size=4)
    y = [True, False, True, True]
    found = evaluation.classification_scores(y, p, [1, 0])
    assert found["confusion"] == evaluation.classification_scores([1, 0, 1, 1], p, [1, 0])["confusion"]
    assert evaluation.calibration_scores(y, p) == evaluation.calibration_scores([1, 0, 1, 1], p)
    with pytest.raises(ValueError, match=r"row 0.*As an index it is 'no'"):
        evaluation.classification_scores(y, p, ["yes", "no"])


def test_rows_that_could_be_0_and_1_or_labels_are_an_error():
    p = RNG.dirichlet(np.ones(2), size=2)
    with pytest.raises(ValueError, match=r"lists of names, or an array of 0 and 1.*np\.array"):
        evaluation.classification_scores([[1, 0], [0, 1]], p, [0, 1])
    hot = evaluation.classification_scores(np.array([[1, 0], [0, 1]]), p, [0, 1])
    assert [each["support"] for each in hot["per_class"].values()] == [1, 1]
    both = evaluation.classification_scores([{1, 0}, {0, 1}], p, [0, 1])
    assert [each["support"] for each in both["per_class"].values()] == [2, 2]


def test_without_labels_names_are_an_error():
    with pytest.raises(ValueError, match=r"'other'.*row 0.*labels="):
        evaluation.calibration_scores(named(NAMES), P)
    with pytest.raises(ValueError, match=r"y_true=7.*row 0"):
        evaluation.calibration_scores([7] * 6, P)


@pytest.mark.parametrize("labels", [[7, 2, 0], ["3", "1", "2"], NAMES])
def test_a_model_whose_labels_are_numbers_is_scored_by_name(tmp_path, labels):
    model = tiny.classifier(tmp_path, labels=labels)
    order = {name: i for i, name in enumerate(NAMES)}
    y = [labels[order[name]] for name in tiny.LABELS]
    found = evaluation.classification(model, tiny.TEXTS, y)
    probabilities = model.classify(tiny.TEXTS).probabilities
    right = probabilities.argmax(axis=1) == [order[name] for name in tiny.LABELS]
    assert found["accuracy"] == right.mean()
    report = evaluation.report(tmp_path / "report", model, tiny.TEXTS, y)
    assert report["classification"]["accuracy"] == right.mean() == report["calibration"]["right"]
