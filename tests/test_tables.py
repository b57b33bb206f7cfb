"""Tables of any size: columns that a function or a model adds, broken rows, and killed runs."""

import csv
import gzip
import json
import os
import signal
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfxfer import data

ROWS = 23  # parts of four rows; the last one has three
TEXTS = [f"text {i}, " + "äß\u2028"[i % 3] + ('"quoted"\n' if i % 5 == 0 else "") for i in range(ROWS)]


def lengths(values):
    """Returns two columns computed from the texts."""
    return {
        "length": ("number", [len(text) / 4 for text in values["text"]]),
        "upper": ("text", [text.upper() for text in values["text"]]),
    }


def frame():
    return pd.DataFrame({"id": range(100, 100 + ROWS), "text": TEXTS, "more": [f"m{i}" for i in range(ROWS)]})


def write(path, kind):
    """Writes the frame in a format."""
    if kind in ("csv", "tsv"):
        frame().to_csv(path, index=False, sep=",\t"[kind == "tsv"])
    elif kind == "jsonl":
        frame().to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame().to_parquet(path, row_group_size=5)
    return path


def read(path):
    """Returns the rows of a table as a frame of strings and numbers."""
    return pd.DataFrame(list(data.read(path)))


# === Formats ===


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a.csv", "b.csv"),
        ("a.csv", "b.tsv"),
        ("a.csv", "b.jsonl"),
        ("a.csv", "b.parquet"),
        ("a.tsv", "b.csv.gz"),
        ("a.jsonl", "b.jsonl"),
        ("a.jsonl", "b.jsonl.xz"),
        ("a.parquet", "b.parquet"),
        ("a.parquet", "b.csv"),
        ("a.parquet", "b.jsonl"),
    ],
)
def test_all_columns_stay_and_new_ones_come_in_the_order_of_the_rows(tmp_path, source, output):
    write(tmp_path / source, source.partition(".")[2])
    done = data.map_table(tmp_path / source, tmp_path / output, lengths, part_rows=4)
    found = read(tmp_path / output)
    assert list(found) == ["id", "text", "more", "length", "upper"] and len(found) == done["rows"] == ROWS
    assert found["text"].tolist() == TEXTS and found["upper"].tolist() == [text.upper() for text in TEXTS]
    assert list(map(int, found["id"])) == list(range(100, 100 + ROWS))
    assert list(map(float, found["length"])) == [len(text) / 4 for text in TEXTS]
    assert done["answered"] == ROWS and done["broken"] == {} and done["broken_file"] is None
    assert sorted(os.listdir(tmp_path)) == sorted([source, output])


def test_parquet_keeps_types_and_metadata(tmp_path):
    schema = pa.schema(
        [
            pa.field("text", pa.dictionary(pa.int32(), pa.string())),
            pa.field("when", pa.timestamp("ms", tz="UTC")),
            pa.field("nested", pa.struct([("a", pa.list_(pa.int16()))]), metadata={"unit": "m"}),
            pa.field("number", pa.decimal128(9, 2)),
        ],
        metadata={"made by": "a test"},
    )
    values = [{"text": "a", "when": 1, "nested": {"a": [1]}, "number": None}, {"text": "b", "when": None}] * 3
    pq.write_table(pa.Table.from_pylist(values, schema=schema), tmp_path / "a.parquet")

    def answer(values):
        return {
            "v": ("vector", [[len(t), 0.1] for t in values["text"]]),
            "is_a": ("flag", [t == "a" for t in values["text"]]),
            "all": ("texts", [[t, t] for t in values["text"]]),
            "said": ("json", [{"t": t} for t in values["text"]]),
        }

    data.map_table(tmp_path / "a.parquet", tmp_path / "b.parquet", answer, part_rows=4)
    found = pq.read_table(tmp_path / "b.parquet")
    assert found.schema.metadata[b"made by"] == b"a test"
    assert [found.schema.field(name).type for name in schema.names] == [field.type for field in schema]
    assert found.schema.field("nested").metadata == {b"unit": b"m"}
    assert found.select(schema.names).to_pylist() == pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert found.schema.field("v").type.value_type == pa.float32() and found["v"].to_pylist()[0][0] == 1.0
    assert found["is_a"].to_pylist() == [True, False] * 3 and found["all"].to_pylist()[1] == ["b", "b"]
    assert found["said"].to_pylist()[0] == '{"t": "a"}'


def test_lines_of_json_and_fields_of_csv_stay_as_they_are_written(tmp_path):
    lines = ['{"text":"a","x":1e400, "y" : [1 ,2]}', "{}", '  {"n": 12345678901234567890, "text": "b"} ']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    done = data.map_table(tmp_path / "a.jsonl", tmp_path / "b.jsonl", lengths, on_error="keep")
    found = (tmp_path / "b.jsonl").read_text().splitlines()
    assert found[0] == '{"text":"a","x":1e400, "y" : [1 ,2], "length": 0.25, "upper": "A"}'
    assert found[1] == '{"length": null, "upper": null}'
    assert found[2] == '{"n": 12345678901234567890, "text": "b", "length": 0.25, "upper": "B"}'
    assert done["broken"] == {"no text": 1} and done["answered"] == 2 and done["rows"] == 3
    (tmp_path / "a.csv").write_text(',text\n0,007\n1,\n2,"a\rb"\n', newline="")
    data.map_table(tmp_path / "a.csv", tmp_path / "b.csv", lengths)
    with open(tmp_path / "b.csv", newline="") as file:
        assert file.read() == ',text,length,upper\n0,007,0.75,007\n1,,0.0,\n"2","a\rb","0.75","A\rB"\n'


def test_delimiters_encodings_and_missing_headers(tmp_path):
    (tmp_path / "a.csv").write_bytes('text;n\n"a;b";1,5\né;2\n'.encode("cp1252"))
    data.map_table(tmp_path / "a.csv", tmp_path / "b.csv", lengths, encoding="cp1252")
    assert (tmp_path / "b.csv").read_text("utf-8").splitlines()[1:] == ['"a;b";1,5;0.75;"A;B"', "é;2;0.25;É"]
    assert list(read(tmp_path / "b.csv")["upper"]) == ["A;B", "É"]
    (tmp_path / "c.tsv").write_text('say "x\t1\n')
    data.map_table(tmp_path / "c.tsv", tmp_path / "d.tsv", lengths, header=["text", "n"], quoting=False)
    assert (tmp_path / "d.tsv").read_text() == 'text\tn\tlength\tupper\nsay "x\t1\t1.5\tSAY "X\n'
    (tmp_path / "e.csv").write_bytes("text,n\nä,1\n".encode("utf-16"))
    data.map_table(tmp_path / "e.csv", tmp_path / "f.jsonl", lengths)
    assert json.loads((tmp_path / "f.jsonl").read_text("utf-8"))["upper"] == "Ä"
    with gzip.open(tmp_path / "g.csv.gz", "wt") as file:
        file.write("sep=;\ntext;n\na;1\n")
    data.map_table(tmp_path / "g.csv.gz", tmp_path / "h.csv", lengths)
    assert (tmp_path / "h.csv").read_text() == "text;n;length;upper\na;1;0.25;A\n"


def test_a_table_without_rows_gives_one_without_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text,n\n")
    assert data.map_table(tmp_path / "a.csv", tmp_path / "b.csv", lengths)["rows"] == 0
    assert (tmp_path / "b.csv").read_text() == "text,n,length,upper\n"
    (tmp_path / "a.jsonl").write_text("")
    data.map_table(tmp_path / "a.jsonl", tmp_path / "b.jsonl", lengths)
    assert (tmp_path / "b.jsonl").read_text() == ""
    frame()[:0].to_parquet(tmp_path / "a.parquet")
    data.map_table(tmp_path / "a.parquet", tmp_path / "b.parquet", lengths)
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0
    assert "length" in pq.read_schema(tmp_path / "b.parquet").names


# === Broken rows ===

BROKEN_CSV = 'text,n\na,1\n\nb\nc,1,2\n"d"x,1\ne,5\n\xff,6\n\n\n'
REASONS = {
    "an empty line": 1,
    "wrong number of fields": 2,
    "broken quotes": 1,
    "bytes that are not text in the encoding": 1,
}


def test_broken_rows_raise_or_are_left_out_and_told(tmp_path):
    (tmp_path / "a.csv").write_bytes(BROKEN_CSV.encode("latin-1"))
    arguments = (tmp_path / "a.csv", tmp_path / "b.csv", lengths)
    with pytest.raises(ValueError, match=r"a\.csv, line 3: an empty line.*on_error='skip'"):
        data.map_table(*arguments)
    assert os.listdir(tmp_path) == ["a.csv"], "nothing was done, nothing stays"
    for on_error in ("skip", "keep"):  # `keep` cannot keep any of these rows
        done = data.map_table(*arguments, on_error=on_error, part_rows=2, overwrite=True)
        assert done["broken"] == REASONS and done["rows"] == done["answered"] == 2
        assert read(tmp_path / "b.csv")["text"].tolist() == ["a", "e"]
        told = [json.loads(line) for line in (tmp_path / "b.csv.broken.jsonl").read_text().splitlines()]
        assert [each["line"] for each in told] == [3, 4, 5, 6, 8]
        assert told[1]["content"] == ["b"] and told[4]["content"] == ["\udcff", "6"] and told[3]["content"] == '"d"x,1'
    (tmp_path / "a.csv").write_text("text,n\na,1\n")
    data.map_table(*arguments, overwrite=True)
    assert not (tmp_path / "b.csv.broken.jsonl").exists(), "the report of an earlier run is gone"


def test_a_row_of_json_or_parquet_without_a_text_is_broken(tmp_path):
    lines = ['{"text": "a"}', '{"text": null}', '{"text": 3}', "[1]", "{", '{"text": "\\ud800"}', '{"text": "b"}', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    arguments = (tmp_path / "a.jsonl", tmp_path / "b.jsonl", lengths)
    done = data.map_table(*arguments, on_error="keep")
    assert done["rows"] == 4 and done["answered"] == 2 and sum(done["broken"].values()) == 5
    assert [json.loads(line)["upper"] for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [
        "A",
        None,
        None,
        "B",
    ]
    done = data.map_table(*arguments, on_error="skip", overwrite=True)
    assert done["rows"] == 2
    pq.write_table(pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    arguments = (tmp_path / "a.parquet", tmp_path / "b.parquet", lengths)
    with pytest.raises(ValueError, match=r"a\.parquet, row 1 \(counting from 0\): no text: in column 'text'"):
        data.map_table(*arguments)
    data.map_table(*arguments, on_error="keep")
    assert pq.read_table(tmp_path / "b.parquet")["upper"].to_pylist() == ["A", None, "B"]
    data.map_table(*arguments, on_error="skip", overwrite=True)
    assert pq.read_table(tmp_path / "b.parquet")["n"].to_pylist() == [1, 3]


def test_a_quote_that_does_not_end_costs_one_line(tmp_path):
    (tmp_path / "a.csv").write_text('text,n\n"a,1\n' + "b,2\n" * 50)
    done = data.map_table(tmp_path / "a.csv", tmp_path / "b.csv", lengths, on_error="skip", part_rows=7)
    assert done["broken"] == {"broken quotes": 1} and done["rows"] == 50


# === Errors ===


def test_what_would_lose_or_mix_something_is_refused(tmp_path):
    source = write(tmp_path / "a.csv", "csv")

    def refused(error, said, *arguments, **options):
        with pytest.raises(error, match=said):
            data.map_table(*arguments, **options)

    refused(ValueError, "another file than `source`", source, source, lengths)
    os.link(source, tmp_path / "link.csv")
    refused(ValueError, "another file than `source`", source, tmp_path / "link.csv", lengths, overwrite=True)
    refused(ValueError, "no column 'txt'.*Did you mean 'text'", source, tmp_path / "b.csv", lengths, {"text": "txt"})
    refused(
        ValueError,
        "'more' is no column of the table",
        source,
        tmp_path / "b.csv",
        lambda v: {"more": ("text", v["text"])},
    )
    refused(ValueError, "ends in", source, tmp_path / "b.xlsx", lengths)
    refused(ValueError, "`output_format`", source, tmp_path / "b.csv", lengths, output_format="xlsx")
    refused(ValueError, "`format`", source, tmp_path / "b.csv", lengths, format="xlsx")
    refused(ValueError, "`on_error`", source, tmp_path / "b.csv", lengths, on_error="ignore")
    refused(ValueError, "`delimiter`", source, tmp_path / "b.csv", lengths, delimiter="::")
    refused(ValueError, "a part at a time.*jsonl", source, tmp_path / "b.json", lengths)
    refused(ValueError, r"\.gz, \.bz2", source, tmp_path / "b.csv.zip", lengths)
    refused(FileNotFoundError, "no such file", tmp_path / "none.csv", tmp_path / "b.csv", lengths)
    refused(ValueError, "local disk", source, "gs://bucket/b.csv", lengths)
    refused(ValueError, "start over", source, tmp_path / "b.csv", lengths, resume=True, overwrite=True)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "length": 3}\n')
    refused(ValueError, "'length' is no column.*Line 2", tmp_path / "a.jsonl", tmp_path / "b.jsonl", lengths)
    refused(ValueError, "write `.jsonl`", tmp_path / "a.jsonl", tmp_path / "b.csv", lengths)
    refused(ValueError, "no column 'txt'", tmp_path / "a.jsonl", tmp_path / "b.jsonl", lengths, {"text": "txt"})
    refused(ValueError, "one for each row", source, tmp_path / "b.csv", lambda v: {"x": ("text", v["text"][:1])})
    (tmp_path / "b.csv").write_text("mine")
    refused(FileExistsError, "overwrite=True", source, tmp_path / "b.csv", lengths)
    refused(FileExistsError, "nothing to resume", source, tmp_path / "b.csv", lengths, resume=True)
    assert (tmp_path / "b.csv").read_text() == "mine"
    data.map_table(source, tmp_path / "b.csv", lengths, prefix="model_", overwrite=True)
    assert "model_length" in read(tmp_path / "b.csv")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".parts")]


def test_an_encoding_that_is_wrong_is_said(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,n\na,1\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="utf-16-le"):
        data.map_table(tmp_path / "a.csv", tmp_path / "b.csv", lengths)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,n\n" + b"a,1\n" * 9999)[:-12])
    with pytest.raises(ValueError, match="not a whole packed file"):
        data.map_table(tmp_path / "a.csv.gz", tmp_path / "b.csv", lengths)


# === Killed runs ===


def killed(when, act):
    """Runs a function in a forked process that is killed just before or after it replaces a file.

    Args:
        when: float. `n` kills the process just before replacement `n + 1`, and `n + 0.5` just after it.
        act: function. The function to run.

    Returns:
        Whether the process was killed; otherwise it ran to completion.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the child does not use
        child = os.fork()
    if child == 0:
        replace, left = os.replace, [when]

        def counted(*names):
            left[0] -= 0.5
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)
            left[0] -= 0.5
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted
        try:
            act()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize(
    ("kind", "part_rows"),
    [
        ("csv", 12),
        pytest.param("csv", 4, marks=pytest.mark.slow),
        pytest.param("jsonl", 4, marks=pytest.mark.slow),
        pytest.param("parquet", 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_anywhere_continues_without_a_row_lost_or_twice(tmp_path, kind, part_rows, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the test does not cut the power
    source, whole, target = (tmp_path / f"{name}.{kind}" for name in ("a", "whole", "b"))
    write(source, kind)
    if kind != "parquet":
        with open(source, "a") as file:
            file.write("broken\n" if kind == "csv" else "{\n")
    options = {"part_rows": part_rows, "on_error": "skip"}
    data.map_table(source, whole, lengths, **options)
    parts, when, places = tmp_path / f"b.{kind}.parts", 0.0, set()

    def act():
        data.map_table(source, target, lengths, resume=True, **options)

    while killed(when, act):
        if part_rows == 4:
            killed(when / 2, act)  # kill the resumed run, too
        if parts.exists():  # otherwise the last run completed
            done = data.map_table(source, target, lengths, resume=True, **options)
            assert done["rows"] == ROWS
            places.add(done["continued_at"])
        assert read(target).equals(read(whole)), when
        if kind != "parquet":
            assert target.read_bytes() == whole.read_bytes()
            told = (tmp_path / f"{name}.{kind}.broken.jsonl" for name in ("b", "whole"))
            assert len({path.read_bytes() for path in told}) == 1
        target.unlink()
        when += 0.5
    assert 0 in places and len(places) >= len(range(0, ROWS, part_rows)) and when > 8, "in all states"
    assert not parts.exists()


def test_a_run_is_not_continued_with_something_else(tmp_path):
    source, target = write(tmp_path / "a.csv", "csv"), tmp_path / "b.csv"
    options = {"part_rows": 4, "identity": "one"}

    def fails(values):
        if any(text.startswith("text 9") for text in values["text"]):
            raise KeyError("power cut")
        return lengths(values)

    with pytest.raises(KeyError):
        data.map_table(source, target, fails, **options)
    assert not target.exists()
    with pytest.raises(FileExistsError, match=r"unfinished run.*resume"):
        data.map_table(source, target, lengths, **options)
    for change, said in (
        ({"identity": "two"}, "another model"),
        ({"prefix": "x_"}, "other arguments"),
        ({"output_format": "tsv"}, "other arguments"),
    ):
        with pytest.raises(ValueError, match=said):
            data.map_table(source, target, lengths, resume=True, **{**options, **change})
    content = source.read_bytes()
    source.write_bytes(content.replace(b"text 22", b"text 99"))
    with pytest.raises(ValueError, match="another source, or one that changed"):
        data.map_table(source, target, lengths, resume=True, **options)
    source.write_bytes(content)
    (tmp_path / "b.csv.parts" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="has no 'records'"):
        data.map_table(source, target, lengths, resume=True, **options)
    done = data.map_table(source, target, lengths, overwrite=True, **options)
    assert done["continued_at"] == 0 and read(target)["text"].tolist() == TEXTS


def test_parts_may_have_another_size_in_a_run_that_is_continued(tmp_path):
    source, target = write(tmp_path / "a.parquet", "parquet"), tmp_path / "b.parquet"
    calls = []

    def fails(values):
        calls.append(len(values["text"]))
        if len(calls) == 4:
            raise KeyError
        return lengths(values)

    with pytest.raises(KeyError):
        data.map_table(source, target, fails, part_rows=3)
    # Left over from a part of six rows whose process was killed while it was writing.
    (tmp_path / "b.parquet.parts" / "000000002.broken").write_text('{"row": 11}')
    done = data.map_table(source, target, lengths, part_rows=10, resume=True)
    assert done["continued_at"] == 6 and read(target)["text"].tolist() == TEXTS
    assert done["broken"] == {} and not (tmp_path / "b.parquet.broken.jsonl").exists()


def test_a_source_that_changes_meanwhile_and_a_second_writer_are_noticed(tmp_path):
    source, target = write(tmp_path / "a.csv", "csv"), tmp_path / "b.csv"

    def changes(values):
        if values["text"]:
            with open(source, "a") as file:
                file.write("1,a,b\n")
        return lengths(values)

    with pytest.raises(ValueError, match="does not change"):
        data.map_table(source, target, changes)
    source = write(tmp_path / "a.csv", "csv")

    def writes(values):
        if values["text"]:
            with pytest.raises(FileExistsError, match="Another process"):
                data.map_table(source, target, lengths, overwrite=True)
        return lengths(values)

    assert data.map_table(source, target, writes, overwrite=True)["rows"] == ROWS


def test_progress_is_one_line(tmp_path, capsys):
    source = write(tmp_path / "a.csv", "csv")
    data.map_table(source, tmp_path / "b.csv", lengths, progress=True, part_rows=4)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "23 rows, 100%" in said.err and "rows/s" in said.err
    data.map_table(source, tmp_path / "b.csv", lengths, overwrite=True)
    assert capsys.readouterr().err == "", "no terminal, no progress"


def test_csv_gives_back_each_vector(tmp_path):
    source = write(tmp_path / "a.csv", "csv")
    vectors = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    data.map_table(source, tmp_path / "b.csv", lambda v: {"v": ("vector", vectors[: len(v["text"])])})
    with open(tmp_path / "b.csv", newline="") as file:
        found = [json.loads(row["v"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(np.array(found, "float32"), vectors)
