"""Labels are read by name or index; values that could be misread raise."""

import copy
import pickle

import numpy as np
import pandas
import pytest
import tensorflow as tf

from tfxfer import data

STARS = ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("labels", "y", "expected"),
    [
        (["no", "yes"], ["yes", "no"], [1, 0]),
        (["no", "yes"], [b"yes", b"no"], [1, 0]),
        (["no", "yes"], np.array([1, 0], "int32"), [1, 0]),
        (["no", "yes"], np.array([1, 0], "int64"), [1, 0]),
        (["no", "yes"], np.array([1.0, 0.0]), [1, 0]),
        (["no", "yes"], pandas.Series([1, 0]), [1, 0]),
        (["False", "True"], [True, False], [1, 0]),
        (["true", "false"], np.array([True, False]), [0, 1]),
        (STARS, ["5", "1"], [4, 0]),
        (STARS, [5, 5], [4, 4]),  # 5 is not an index
        (STARS, [0], [0]),  # 0 is not a name
        (["0", "1", "2"], [0, 2], [0, 2]),  # both readings agree
        (["10", "20"], [20, 10], [1, 0]),
        ([1, 2, 3], [3, 1], [2, 0]),
        ([1, 2, 3], np.array([3, 1], "int32"), [2, 0]),
        ([1, 2, 3], [3.0, 1.0], [2, 0]),
        ([3, 2, 1], pandas.Series([3, 1]), [0, 2]),
        (["a"], [], []),
    ],
)
def test_labels_are_read_by_name_or_index(labels, y, expected):
    found = data.LabelColumn(labels).read(y, "y")
    assert found.dtype == np.int32 and found.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "y", "message"),
    [
        (STARS, [5, 1], "row 1.*could be an index"),
        (STARS, [0, 5], "row 1.*could be an index"),
        (STARS, [0, 4], "row 1.*could be an index"),
        ([1, 2, 3], [True, False], "As an index it is 2"),
        (STARS, [1, 2], "row 0.*1 could be an index .label '2'. or a name .label '1'"),
        (STARS, np.array([4, 3]), "could be an index"),
        (STARS, pandas.Series([1, 4]), "could be an index"),
        (["yes", "no"], [True, False], "As an index it is 'no'"),
        (["1", "0"], [1, 0], "could be an index"),
        ([1, 2, 3], [0, 1], "one of the 3 labels.*row 0"),
        ([1, 2, 3], ["1"], "The labels are ints"),
        (["a", "b"], [2], "indices from 0 to 1.*row 0"),
        (["a", "b"], [0, -1], "indices from 0 to 1.*row 1"),
        (["a", "b"], [0.5], "row 0"),
        (["a", "b"], ["a", 1], "row 1"),
        (["a", "b"], "a", "Put the single value into a list"),
        (["a", "b"], {"a"}, "no order"),
        (["a", "b"], [["a"], ["b"]], "multi_label=True"),
    ],
)
def test_what_could_be_misread_is_an_error_that_says_so(labels, y, message):
    with pytest.raises(ValueError, match=f"`y`.*{message}"):
        data.LabelColumn(labels).read(y, "y")


@pytest.mark.parametrize(
    ("labels", "y", "expected"),
    [
        (["a", "b", "c"], [["a", "c"], []], [[1, 0, 1], [0, 0, 0]]),
        (["a", "b", "c"], [{"b"}, ("a",)], [[0, 1, 0], [1, 0, 0]]),
        (["a", "b", "c"], [np.array(["b", "c"])], [[0, 1, 1]]),
        (["a", "b", "c"], [[0, 2], [1]], [[1, 0, 1], [0, 1, 0]]),
        (["a", "b", "c"], [[], []], [[0, 0, 0], [0, 0, 0]]),
        (["a", "b", "c"], [[1, 0, 1], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]]),
        (["a", "b", "c"], np.array([[1, 0, 1]]), [[1, 0, 1]]),
        (["a", "b", "c"], np.array([[0.5, 0, 1]]), [[0.5, 0, 1]]),
        ([1, 2, 3], [[3, 1], [2]], [[1, 0, 1], [0, 1, 0]]),
        ([1, 2, 3], np.array([[0, 1, 1]]), [[0, 1, 1]]),
    ],
)
def test_several_labels_a_row_in_any_form(labels, y, expected):
    found = data.LabelColumn(labels, True).read(y, "y")
    assert found.dtype == np.float32 and found.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "y", "message"),
    [
        ([0, 1], [[0, 1], [1, 0]], "lists of names, or an array of 0 and 1"),
        (["a", "b"], ["a", "b"], "a list of labels in every row.*row 0"),
        (["a", "b"], [["a"], "b"], "row 1"),
        (["a", "b"], [["a"], None], "row 1"),
        (["a", "b"], [["a"], ["z"]], "row 1"),
        (["a", "b"], np.array([[0, 2]]), "values in .0, 1.*row 0"),
        (["a", "b"], np.array([[0, 1, 0]]), r"shape \(rows, 2\)"),
        (["0", "2", "1"], [[0, 2]], "could be an index"),
    ],
)
def test_several_labels_that_could_be_misread_are_an_error(labels, y, message):
    with pytest.raises(ValueError, match=f"`y`.*{message}"):
        data.LabelColumn(labels, True).read(y, "y")


def test_shares_are_targets_too():
    column = data.LabelColumn(["a", "b"])
    shares = np.array([[0.25, 0.75], [1, 0]])
    assert column.read(shares, "y").tolist() == shares.tolist()
    assert column.read(shares.tolist(), "y").tolist() == shares.tolist()
    assert column.encode(tf.constant(shares)).numpy().tolist() == shares.tolist()
    with pytest.raises(ValueError, match=r"sum to 1.*row 1"):
        column.read(np.array([[0.5, 0.5], [0.5, 0.6]]), "y")


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_pipeline_reads_ints_of_any_width_alike(dtype):
    values = tf.constant([2, 0], dtype)
    assert data.LabelColumn(["a", "b", "c"]).encode(values).numpy().tolist() == [2, 0]
    assert data.LabelColumn([0, 1, 2]).encode(values).numpy().tolist() == [2, 0]
    assert data.LabelColumn([2, 1, 0]).encode(values).numpy().tolist() == [0, 2]
    with pytest.raises(ValueError, match="could be an index"):
        data.LabelColumn(STARS).encode(values)
    with pytest.raises(tf.errors.InvalidArgumentError, match="indices from 0 to 1"):
        data.LabelColumn(["a", "b"]).encode(values)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown labels"):
        data.LabelColumn([1, 2]).encode(values)


def test_a_pipeline_reads_names_and_refuses_what_is_unclear():
    column = data.LabelColumn(["a", "b"])
    assert column.encode(tf.constant(["b", "a"])).numpy().tolist() == [1, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown labels"):
        column.encode(tf.constant(["z"]))
    for bad in (tf.constant([True]), tf.constant([[1]]), tf.ragged.constant([["a"]])):
        with pytest.raises(ValueError, match="`y`"):
            column.encode(bad)
    with pytest.raises(ValueError, match="The labels are ints"):
        data.LabelColumn([1, 2]).encode(tf.constant(["1"]))
    several = data.LabelColumn(["a", "b"], True)
    assert several.encode(tf.ragged.constant([["b"], [], ["a", "b"]])).numpy().tolist() == [[0, 1], [0, 0], [1, 1]]
    with pytest.raises(ValueError, match="`y`"):
        several.encode(tf.constant(["a"]))


@pytest.mark.parametrize(
    "labels", ["card", {"a", "b"}, None, [], ["a", "a"], [1, "a"], [True, False], [1.5], 3, {"a": 1}]
)
def test_labels_are_a_list_of_names(labels):
    with pytest.raises(ValueError, match="`labels`"):
        data.LabelColumn(labels)


def test_a_column_is_copied_and_pickled():
    column = data.LabelColumn(["a", "b"])
    column.encode(tf.constant(["b"]))
    for made in (copy.deepcopy(column), pickle.loads(pickle.dumps(column))):
        assert made.encode(tf.constant(["b", "a"])).numpy().tolist() == [1, 0]
