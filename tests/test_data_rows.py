"""Readers, rows, and the datasets made from them."""

import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfxfer import data


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def xy(dataset):
    return list(dataset.as_numpy_iterator())


# Readers.


def test_tsv_is_read_with_normal_quoting(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"say ""hi""\tto\nme"\tx\nplain\u2028one\ty\n\n')
    rows = data.read(path)
    assert rows["text"] == ['say "hi"\tto\nme', "plain\u2028one"]
    assert rows["label"] == ["x", "y"] and rows.columns == ["text", "label"]
    assert rows.place(1) == f"{path}, line 4"  # the first row takes lines 2 and 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path, end):
    rows = data.read(write(tmp_path / "a.csv", f"\ufefftext,label{end}a,1{end}b,2{end}"))
    assert list(rows) == [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]


def test_every_format_gives_the_same_rows(tmp_path):
    frame = pd.DataFrame({"text": ["a", "é, ü", ""], "n": ["1", "2", "3"]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    expected = frame.to_dict("records")
    for name in ("a.parquet", "a.tsv", "a.csv", "a.jsonl"):
        assert list(data.read(tmp_path / name)) == expected, name
        assert data.read(str(tmp_path / name), columns=["n"]).columns == ["n"], name


def test_header_delimiter_quoting_and_format_can_be_given(tmp_path):
    path = write(tmp_path / "a.txt", '"a;1\nb";2\n')
    rows = data.read(path, format="csv", header=["text", "n"], delimiter=";", quoting=False)
    assert rows["text"] == ['"a', 'b"'] and rows["n"] == ["1", "2"] and rows.place(0).endswith("line 1")


def test_several_files_are_one_and_keep_their_places(tmp_path):
    a = write(tmp_path / "a.tsv", "text\tn\nx\t1\n")
    b = write(tmp_path / "b.csv", "n,text\n2,y\n3,z\n")
    rows = data.read([a, b])
    assert rows["text"] == ["x", "y", "z"] and rows["n"] == ["1", "2", "3"]
    assert [rows.place(i) for i in range(3)] == [f"{a}, line 2", f"{b}, line 2", f"{b}, line 3"]
    with pytest.raises(ValueError, match=r"c\.tsv: columns text, but .*a\.tsv has text, n"):
        data.read([a, write(tmp_path / "c.tsv", "text\nx\n")])


def test_a_key_that_a_json_line_lacks_is_none(tmp_path):
    rows = data.read(write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "n": 1}\n'))
    assert rows["n"] == [None, 1]


BROKEN = {
    "too few fields": ("a.tsv", b"text\tlabel\nx\ty\nz\n", r"a\.tsv, line 3: wrong number of fields: 1 instead of 2"),
    "too many fields": ("a.tsv", b"text\tlabel\nx\ty\tw\n", r"a\.tsv, line 2: wrong number .*3 instead of 2.*'w'"),
    "empty line": ("a.tsv", b"text\tlabel\n\nx\ty\n", r"a\.tsv, line 2: an empty line"),
    "open quote": ("a.tsv", b'text\tlabel\nx\ty\n"z\ty\n', r"a\.tsv, line 3: broken quotes.*quoting=False"),
    "text after quote": ("a.csv", b'text,label\n"z"a,y\n', r"a\.csv, line 2: broken quotes"),
    "bad bytes": ("a.tsv", b"text\tlabel\nx\ty\nx\xff\ty\n", r"a\.tsv, line 3, column 'text': bytes that are not text"),
    "bad JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: bad JSON \("),
    "no object": (
        "a.jsonl",
        b'{"text": "a"}\n[1, 2]\n',
        r"line 2: a line that is not a JSON object: \[1, 2\]",
    ),
    "empty JSON line": ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', r"a\.jsonl, line 2: an empty line"),
    "bad JSON bytes": ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl, line 1, column 'text': bytes that are not text"),
    "lone surrogate": (
        "a.jsonl",
        b'{"text": "\\ud800"}\n',
        r"a\.jsonl, line 1, column 'text': bytes that are not text",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_an_error_with_file_and_line(tmp_path, case):
    name, content, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        data.read(write(tmp_path / name, content))


EMPTY = {
    "no byte": ("a.tsv", b"", r"a\.tsv: the file is empty"),
    "only line ends": ("a.csv", b"\n\r\n", r"a\.csv: the file is empty"),
    "only a header": ("a.tsv", b"text\tlabel\n", r"a\.tsv: no rows"),
    "empty JSON lines": ("a.jsonl", b"", r"a\.jsonl: the file is empty"),
    "empty parquet": ("a.parquet", b"", r"a\.parquet: the file is empty"),
    "no parquet": ("a.parquet", b"text", r"a\.parquet: not a readable Parquet file"),
    "no gzip": ("a.tsv.gz", b"text\nx\n", r"a\.tsv\.gz: not a whole \.gz file"),
    "nameless column": ("a.tsv", b"text\t\nx\ty\n", r"a\.tsv, line 1: a column without a name.*header=\["),
    "empty first line": ("a.tsv", b"\nx\ty\n", r"a\.tsv, line 1: a column without a name"),
    "column twice": ("a.tsv", b"n\tn\nx\ty\n", r"a\.tsv, line 1: column 'n' appears twice"),
    "bad header": ("a.tsv", b"n\xff\tn\nx\ty\n", r"a\.tsv, line 1: bytes that are not text"),
    "no known ending": ("a.doc", b"x", r"argument `path`.*\.tsv"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_file_without_header_or_rows_is_an_error(tmp_path, case):
    name, content, message = EMPTY[case]
    with pytest.raises(ValueError, match=message):
        data.read(write(tmp_path / name, content))


def test_arguments_of_read_are_checked(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel\nx\ty\n")
    for options, message in [
        ({"columns": ["txt"]}, r"`column`.*'txt'.*The columns of .*a\.tsv are 'text', 'label'.*header="),
        ({"columns": "text"}, "`columns`"),
        ({"header": ["a", "a"]}, "`header`"),
        ({"delimiter": "ab"}, "`delimiter`"),
        ({"format": "xml"}, "`format`"),
        ({"encoding": "no-such"}, "`encoding`"),
        ({"encoding": "utf-32"}, "bytes that are not utf-32"),
        ({"on_error": "ignore"}, "`on_error`"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.read(path, **options)
    with pytest.raises(FileNotFoundError, match="nothing"):
        data.read(tmp_path / "nothing.tsv")
    with pytest.raises(ValueError, match="`path`"):
        data.read([])
    with pytest.raises(ValueError, match="`header`"):
        data.read(write(tmp_path / "a.jsonl", '{"a": 1}\n'), header=["a"])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"tfxfer\[parquet\]"):
        data.read(write(tmp_path / "a.parquet", "x"))


def test_skip_leaves_out_broken_rows_counts_them_and_warns_once(tmp_path):
    path = write(tmp_path / "a.tsv", b'text\tlabel\nx\ty\nz\n"w\tq\nv\xff\ty\nu\ty\n')
    with pytest.warns(
        UserWarning, match=r"a\.tsv: skipped 3 broken rows .*The first: .*line 3: wrong number"
    ) as caught:
        rows = data.read(path, on_error="skip")
    assert len(caught) == 1 and rows["text"] == ["x", "u"] and rows.place(1) == f"{path}, line 6"
    assert sorted(rows.skipped.values()) == [1, 1, 1] and rows.skipped["broken quotes"] == 1
    assert "3 skipped" in repr(rows)
    with pytest.raises(ValueError, match=r"no rows; all were skipped, the first because: .*line 1"):
        data.read(write(tmp_path / "b.jsonl", "x\ny\n"), on_error="skip")


def test_skipping_a_quote_without_end_costs_one_line_only(tmp_path):
    lines = ["text\tlabel", *(f"row {i}\tx" for i in range(50)), '"open\tx', *(f"more {i}\tx" for i in range(50))]
    path = write(tmp_path / "a.tsv", "\n".join(lines))
    with pytest.warns(UserWarning, match="skipped 1 broken"):
        rows = data.read(path, on_error="skip")
    assert len(rows) == 100 and rows.place(99) == f"{path}, line 102"


def test_a_field_may_be_longer_than_csv_allows_by_default(tmp_path):
    assert len(data.read(write(tmp_path / "a.tsv", "text\n" + "a" * 200_000))["text"][0]) == 200_000


# Rows.


def test_rows_come_from_any_usual_form():
    rows = [{"text": "a", "n": 1}, {"text": "é", "n": 2}]
    for form in (
        rows,
        iter(rows),
        {"text": np.array(["a", "é"]), "n": np.array([1, 2])},
        pd.DataFrame(rows, index=["i", "j"]),
        tf.data.Dataset.from_tensor_slices({"text": ["a", "é"], "n": [1, 2]}),
        data.Rows({"text": ["a", "é"], "n": [1, 2]}),
        data.Rows({"text": tf.constant(["a", "é"]), "n": (1, 2)}),
    ):
        assert list(data.Rows.from_any(form)) == rows


def test_missing_values_of_pandas_are_none():
    frame = pd.DataFrame({"text": ["a", None, "c"], "n": [1, 2, None], "k": pd.array([1, None, 3], dtype="Int64")})
    rows = data.Rows.from_any(frame)
    assert rows["text"] == ["a", None, "c"] and rows["n"] == [1.0, 2.0, None] and rows["k"] == [1, None, 3]


def test_rows_are_picked_by_slice_index_and_mask(tmp_path):
    path = write(tmp_path / "a.tsv", "text\n" + "\n".join("abcdef"))
    rows = data.read(path)
    assert rows[1:5:2]["text"] == ["b", "d"] and rows[[4, 0]]["text"] == ["e", "a"] and rows[-1] == {"text": "f"}
    assert rows[np.array([True, False] * 3)].place(2) == f"{path}, line 6" and len(rows[[]]) == 0
    with pytest.raises(ValueError, match="mask"):
        rows[np.array([True])]
    with pytest.raises(IndexError):
        rows[6]


def test_what_is_no_rows_is_an_error():
    for form, message in [
        ("train.tsv", r"`rows`.*read\(path\)"),
        (7, "`rows`"),
        ([], "`rows`"),
        ({}, "`columns`"),
        ({"a": []}, "at least one row"),
        ({"a": [1], "b": [1, 2]}, "columns of one length"),
        ({"a": "text"}, "column 'a'"),
        ([{"a": 1}, 5], "the list, row 1 .*not a dict but 5"),
        ({"a": [b"x", b"\xff"]}, r"row 1 \(counting from 0\), column 'a': bad UTF-8"),
        (pd.DataFrame({"a": []}), "at least one row"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "distinct column names"),
        (tf.data.Dataset.from_tensor_slices(["a"]), "dataset of dicts|Dataset of dicts"),
        (tf.data.Dataset.from_tensors({"a": 1}).repeat(), "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.Rows.from_any(form)


# Labels and datasets.


def test_labels_are_sorted_as_what_they_are():
    assert data.labels({"y": ["10", "9", "10"]}, "y") == ["9", "10"]
    assert data.labels({"y": ["10", "9", "x"]}, "y") == ["10", "9", "x"]
    assert data.labels({"y": np.array([10, 9])}, "y") == [9, 10]
    assert data.labels(pd.DataFrame({"y": [3.0, 1.0]}), "y") == [1, 3]
    assert data.labels({"y": ["b, a", "", "c"]}, "y", separator=",") == ["a", "b", "c"]
    assert data.labels({"y": [[2, 1], [], [3]]}, "y") == [1, 2, 3]
    for values, message in [
        (["a", None], "row 1 .*column 'y': no label"),
        (["a", ""], "row 1 .*column 'y': no label"),
        (["a", 1], "row 1 .*strings and numbers mixed"),
        ([0.5], r"not a label: 0\.5"),
        ([["a"], "b"], "row 1 .*not a list of labels: 'b'"),
        ([[]], "no label in any row"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.labels({"y": values}, "y")
    with pytest.raises(ValueError, match="not a string of labels: 5"):
        data.labels({"y": [5]}, "y", separator=" ")


def test_labelled_keeps_labels_or_encodes_them():
    rows = {"text": ["p", "q"], "s": ["b", "a"], "n": [7, 5]}
    assert xy(data.labelled(rows, "text", "s")) == [(b"p", b"b"), (b"q", b"a")]
    numbers = data.labelled(rows, "text", "n")
    assert xy(numbers) == [(b"p", 7), (b"q", 5)] and numbers.element_spec[1].dtype == tf.int64
    encoded = data.labelled(rows, ("text", "s"), "n", labels=[5, 7])
    assert xy(encoded) == [((b"p", b"b"), 7), ((b"q", b"a"), 5)] and encoded.element_spec[1].dtype == tf.int64
    assert encoded.labels is None and encoded.cardinality() == 2  # ints stay labels: an index could be mistaken for one
    named = data.labelled(rows, "text", "s", labels=["a", "b"])
    assert xy(named) == [(b"p", 1), (b"q", 0)] and named.element_spec[1].dtype == tf.int32
    assert named.labels == ["a", "b"]


def test_multi_label_rows_become_multi_hot():
    rows = {"text": ["p", "q", "r"], "y": ["c a", "", "b"]}
    dataset = data.labelled(rows, "text", "y", separator=" ")
    np.testing.assert_array_equal([y for _, y in xy(dataset)], [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert dataset.labels == ["a", "b", "c"] and dataset.element_spec[1] == tf.TensorSpec((3,), tf.float32)
    lists = data.labelled({"text": ["p", "q"], "y": [[3], [1, 3]]}, "text", "y", labels=[3, 2, 1])
    np.testing.assert_array_equal([y for _, y in xy(lists)], [[1, 0, 0], [1, 0, 1]])


def test_a_row_that_cannot_be_used_is_an_error_with_file_line_and_column(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"t": "x", "y": "a", "n": 1}\n{"t": null, "y": "d", "n": "x"}\n')
    rows = data.read(path)
    for make, message in [
        (lambda: data.labelled(rows, "t", "y"), r"a\.jsonl, line 2, column 't': no text"),
        (lambda: data.labelled(rows, "y", "t"), r"a\.jsonl, line 2, column 't': no label"),
        (
            lambda: data.labelled(rows, "y", "y", labels=["a", "ab", "dd"]),
            r"line 2, column 'y': unknown label 'd'.*'dd'",
        ),
        (lambda: data.labelled(rows, "y", "y", labels=[1, 2]), "labels given are numbers, the column holds strings"),
        (lambda: data.regression(rows, "y", "n"), r"a\.jsonl, line 2, column 'n': a target that is not a number: 'x'"),
        (lambda: data.regression(rows[:1], "n", "n"), r"line 1, column 'n': a text that is not a string: 1"),
        (
            lambda: data.regression(rows[:1], "y", "n", target_range=(2, 3)),
            r"line 1, column 'n': a target outside .*2\.\.3: 1",
        ),
        (lambda: data.pairs(rows, ("y", "t")), r"line 2, column 't': no text"),
        (lambda: data.triplets(rows, ("y", "y", "t")), r"line 2, column 't': no text"),
        (lambda: data.pairs(rows, ("y", "z")), r"`column`.*'z'.*'t', 'y', 'n'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    for number in (float("nan"), "nan", "inf", None, "", []):
        with pytest.raises(ValueError, match=r"row 0 .*column 'n': (no target|a target that is)"):
            data.regression({"t": ["x"], "n": [number]}, "t", "n")
    with pytest.raises(ValueError, match=r"row 0 .*column 't': a text that UTF-8 cannot hold"):
        data.pairs({"t": ["\udc80"]}, ("t", "t"))


def test_skip_in_datasets_leaves_out_counts_and_warns_once():
    rows = {"t": ["a", None, "c", "d"], "y": ["p", "p", "q", None]}
    with pytest.warns(UserWarning, match=r"skipped 3 broken rows") as caught:
        dataset = data.labelled(rows, "t", "y", labels=["p"], on_error="skip")
    assert len(caught) == 1 and xy(dataset) == [(b"a", 0)]
    assert dataset.skipped == {"no label": 1, "unknown label": 1, "no text": 1}
    with pytest.raises(ValueError, match=r"at least one row that can be used.*first fault: .*column 'y'"):
        data.labelled(rows, "t", "y", labels=["z"], on_error="skip")


def test_an_empty_string_is_a_text():
    assert xy(data.regression({"t": [""], "n": [1]}, "t", "n")) == [(b"", 1.0)]


def test_regression_and_pairs_give_float32_targets():
    rows = {"a": ["x", "y"], "b": ["u", "v"], "n": ["2.5", "5"], "m": [0, 10]}
    one = data.regression(rows, "a", "n")
    assert xy(one) == [(b"x", 2.5), (b"y", 5.0)] and one.element_spec[1] == tf.TensorSpec((), tf.float32)
    two = data.regression(rows, "a", ("n", "m"))
    np.testing.assert_array_equal([y for _, y in xy(two)], [[2.5, 0], [5, 10]])
    scored = data.pairs(rows, ("a", "b"), target="n", target_range=(0, 5))
    assert xy(scored) == [((b"x", b"u"), 0.5), ((b"y", b"v"), 1.0)]
    assert xy(data.pairs(rows, ("a", "b"))) == [((b"x", b"u"), 0.0), ((b"y", b"v"), 0.0)]
    assert xy(data.triplets(rows, ("a", "b", "n")))[1] == ((b"y", b"v", b"5"), 0.0)


def test_arguments_of_datasets_are_checked():
    rows = {"a": ["x"], "n": [1.0]}
    for make, message in [
        (lambda: data.pairs(rows, ("a",)), "`texts`.*two names"),
        (lambda: data.pairs(rows, ("a", "a"), target_range=(0, 1)), "`target_range`"),
        (lambda: data.triplets(rows, ("a", "a")), "`texts`.*three"),
        (lambda: data.labelled(rows, (), "n"), "`text`"),
        (lambda: data.labelled(rows, "a", "n", labels=[]), "`labels`"),
        (lambda: data.labelled(rows, "a", "n", labels=["a", "a"]), "`labels`"),
        (lambda: data.labelled(rows, "a", "n", labels=["a", 1]), "`labels`"),
        (lambda: data.labelled(rows, "a", "a", separator=""), "`separator`"),
        (lambda: data.regression(rows, "a", "n", target_range=(1, 1)), "`target_range`"),
        (lambda: data.labelled(rows, "a", "n", on_error="drop"), "`on_error`"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_a_dataset_of_rows_is_like_any_dataset():
    dataset = data.labelled({"t": list("abc"), "y": [1, 2, 3]}, "t", "y")
    assert [int(y) for _, y in dataset.map(lambda x, y: (x, y * 2)).take(2).as_numpy_iterator()] == [2, 4]
    assert isinstance(dataset.shuffle(3), tf.data.Dataset) and len(dataset) == 3


# Class weights.


def test_class_weights_are_scikit_learns_balanced_ones():
    from sklearn.utils.class_weight import compute_class_weight

    y = np.random.default_rng(0).choice(["c", "a", "b"], 50, p=[0.7, 0.2, 0.1])
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=y)
    rows = {"t": y, "y": y}
    forms = [
        data.class_weights(y),
        data.class_weights(list(y)),
        data.class_weights(pd.Series(y)),
        data.class_weights(rows, "y"),
        data.class_weights(data.labelled(rows, "t", "y")),
        data.class_weights(data.labelled(rows, "t", "y", labels=["a", "b", "c"])),
        data.class_weights(data.labelled(rows, "t", "y").map(lambda x, y: (x, y))),
        data.class_weights(pd.DataFrame(rows), "y", labels=["a", "b", "c"]),
    ]
    for weights in forms:
        assert list(weights) == ["a", "b", "c"]
        np.testing.assert_allclose(list(weights.values()), expected)


def test_a_class_without_rows_weighs_one():
    dataset = data.labelled({"t": ["x", "y", "z"], "y": ["a", "a", "c"]}, "t", "y", labels=["a", "b", "c"])
    assert data.class_weights(dataset) == {"a": 0.75, "b": 1.0, "c": 1.5}


def test_weights_of_several_labels_are_negatives_over_positives():
    rows = {"t": list("wxyz"), "y": ["a b", "a", "a", ""]}
    expected = {"a": 1 / 3, "b": 3.0}
    assert data.class_weights(rows, "y", separator=" ") == expected
    assert data.class_weights(data.labelled(rows, "t", "y", separator=" ")) == expected


def test_class_weights_refuse_what_is_no_label():
    for y, options, message in [
        ([], {}, "at least one row"),
        ([0.5, 1.0], {}, "row 0 .*not a label"),
        (["a"], {"labels": ["b"]}, "unknown label 'a'"),
        (np.array([[0.5]]), {}, "0 and 1"),
        ({"y": ["a"]}, {}, "`label`"),
        (tf.data.Dataset.from_tensor_slices(["a"]), {}, r"dataset of \(x, y\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.class_weights(y, **options)


# Real files.


def test_the_real_files_are_read_whole(real_data):
    for name, count in [("banking77/train", 9041), ("stsb/dev", 1500), ("clothing_reviews/train", 2047)]:
        assert len(data.read(real_data / f"{name}.tsv")) == count
    names = (real_data / "goemotions" / "labels.txt").read_text().split()
    rows = data.read(real_data / "goemotions" / "dev.tsv")
    assert data.labels(rows, "labels", separator=" ") == sorted(names)
    assert len(data.labelled(rows, "text", "labels", labels=names, separator=" ")) == 5426
