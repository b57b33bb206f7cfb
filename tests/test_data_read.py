"""Reading files of other programs: delimiters, encodings, JSON layouts, compression, URLs."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import fsspec
import pandas as pd
import pytest
import tensorflow as tf
from test_data_rows import write

from tfxfer import data

FRAME = pd.DataFrame({"text": ["a, b", "é;ü", 'say "hi"\n\tme'], "label": ["x", "y", "x"]})
ROWS = FRAME.to_dict("records")


# === CSV ===


def test_an_index_as_pandas_writes_it_is_a_column_called_index(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv")
    rows = data.read(tmp_path / "a.csv")
    assert rows.columns == ["index", "text", "label"] and rows["index"] == ["0", "1", "2"]
    assert list(data.read(tmp_path / "a.csv", columns=["text", "label"])) == ROWS
    FRAME.rename(columns={"label": "index"}).to_csv(tmp_path / "b.tsv", sep="\t")
    rows = data.read(tmp_path / "b.tsv")
    assert rows.columns == ["level_0", "text", "index"] and rows["index"] == ["x", "y", "x"]
    FRAME.set_index("label").to_csv(tmp_path / "c.csv")
    assert data.read(tmp_path / "c.csv").columns == ["label", "text"]


@pytest.mark.parametrize(
    "content",
    [
        ",label\na,x\n,y\n",  # the column without a name is not an index
        "text,\na,x\n",
        ",,label\n0,a,x\n",
    ],
)
def test_another_column_without_a_name_is_an_error(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.csv, line 1: a column without a name.*header=\["):
        data.read(write(tmp_path / "a.csv", content))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_what_parts_a_csv_file_is_found(tmp_path, delimiter):
    FRAME.to_csv(tmp_path / "a.csv", sep=delimiter, index=False)
    assert list(data.read(tmp_path / "a.csv")) == ROWS
    FRAME.to_csv(tmp_path / "b.csv", sep=delimiter, index=False, header=False)
    assert list(data.read(tmp_path / "b.csv", header=["text", "label"])) == ROWS
    FRAME.to_csv(tmp_path / "c.csv", sep=delimiter)
    assert data.read(tmp_path / "c.csv")["index"] == ["0", "1", "2"]


def test_a_broken_row_does_not_hide_what_parts_the_others(tmp_path):
    path = write(tmp_path / "a.csv", "text;label\na, b;x\nbroken\nc, d, e;y\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: wrong number of fields: 1 instead of 2 \(text, label\)"):
        data.read(path)
    with pytest.warns(UserWarning, match="skipped 1"):
        assert data.read(path, on_error="skip")["text"] == ["a, b", "c, d, e"]


def test_the_delimiter_that_excel_names_is_taken(tmp_path):
    path = write(tmp_path / "a.csv", "sep=;\r\ntext;label\r\na,b;x\r\n")
    rows = data.read(path)
    assert list(rows) == [{"text": "a,b", "label": "x"}] and rows.place(0) == f"{path}, line 3"


def test_one_column_with_delimiters_in_its_texts_stays_one(tmp_path):
    assert data.read(write(tmp_path / "a.csv", "text\na;b\nc|d;e\n"))["text"] == ["a;b", "c|d;e"]
    path = write(tmp_path / "b.csv", "a;b\nc;d\n")
    assert data.read(path, header=["text"])["text"] == ["a;b", "c;d"]
    assert data.read(path, delimiter=",").columns == ["a;b"]
    path = write(tmp_path / "c.csv", "text;label,n\na;b,1\n")  # the delimiter is the comma, despite the semicolons
    assert data.read(path).columns == ["text;label", "n"]


# === Encodings ===


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding, ending):
    if ending in (".csv", ".tsv"):
        content = FRAME.to_csv(index=False, sep="\t" if ending == ".tsv" else ",")
    else:
        content = FRAME.to_json(orient="records", lines=ending == ".jsonl", force_ascii=False)
    path = write(tmp_path / f"a{ending}", content.encode(encoding))
    assert list(data.read(path)) == ROWS
    assert list(data.read(path, encoding=encoding)) == ROWS


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
def test_either_order_of_bytes_is_read(tmp_path, mark):
    content = "\ufefftext,label\nä,x\n".encode(mark)
    assert data.read(write(tmp_path / "a.csv", content))["text"] == ["ä"]
    assert data.read(write(tmp_path / "a.csv", content), encoding=mark)["text"] == ["ä"]


def test_an_encoding_that_is_given_goes_before_what_looks_like_a_mark(tmp_path):
    assert data.read(write(tmp_path / "a.csv", b"\xff\xfe\nx\n"), encoding="latin-1").columns == ["ÿþ"]


def test_bytes_of_another_encoding_are_an_error_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nabc,x\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"a\.csv, line 1: NUL characters.*encoding='utf-16-le'"):
        data.read(path)
    assert data.read(path, encoding="utf-16-le")["text"] == ["abc"]
    half = "text,label\nabc,x\nd,y\n".encode("utf-16")[:-3]
    with pytest.raises(ValueError, match=r"b\.csv, line 3: bytes that are not utf-16 \(truncated data, at byte"):
        data.read(write(tmp_path / "b.csv", half))
    for encoding in ("no-such", None, 8):
        with pytest.raises(ValueError, match="`encoding`"):
            data.read(path, encoding=encoding)


# === JSON ===


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(map(json.dumps, ROWS)),
        FRAME.to_json(),
        FRAME.to_json(orient="columns", indent=1),
        json.dumps(FRAME.to_dict("list")),
    ],
    ids=["array", "indented array", "lines", "columns by index", "the same, indented", "columns"],
)
def test_a_json_file_may_have_any_form(tmp_path, content):
    rows = data.read(write(tmp_path / "a.json", content))
    assert list(rows) == ROWS
    assert data.read(write(tmp_path / "a.txt", content), format="json", columns=["label"]).columns == ["label"]


def test_rows_of_json_know_their_places_and_may_lack_keys(tmp_path):
    path = write(tmp_path / "a.json", '[{"text": "a"}, {"n": 1, "text": null}]')
    rows = data.read(path)
    assert list(rows) == [{"text": "a", "n": None}, {"text": None, "n": 1}]
    assert rows.place(1) == f"{path}, row 1 (counting from 0)"
    one = data.read(write(tmp_path / "b.json", '{\n"text": "a",\n"n": 1\n}\n'))
    assert list(one) == [{"text": "a", "n": 1}]
    lines = data.read(write(tmp_path / "c.json", '{"text": "a"}\n{"text": "b"}\n'))
    assert lines.place(1).endswith("c.json, line 2")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '[{"text": "a"}, {"text": "b"}]', r"a\.jsonl: a JSON array, .*format='json'"),
        ("a.jsonl", '[\n  {"text": "a"}\n]', r"a\.jsonl: a JSON array, .*format='json'"),
        ("a.json", '[{"text": "a"},\n {"text": }]', r"a\.json, line 2: bad JSON \(Expecting value, at column 11\)"),
        ("a.json", "text,label\n", r"a\.json, line 1: bad JSON \(.*orient='records'"),
        ("a.json", '{"text": "a"}\n{"text": \n', r"a\.json, line 2: bad JSON \("),
        (
            "a.json",
            '[{"text": "a"}, 5]',
            r"row 1 \(counting from 0\): an element that is not a JSON object: 5",
        ),
        ("a.json", '[{"text": "\\ud800"}]', r"a\.json, row 0 .*column 'text': bytes that are not text"),
        (
            "a.json",
            '{"version": 1, "data": [{"text": "a"}]}',
            r"JSON that does not hold rows.*array of objects",
        ),
        ("a.json", '{"text": ["a"], "label": ["x", "y"]}', r"a\.json: JSON that does not hold rows"),
        ("a.json", '"text"', r"a\.json: JSON that does not hold rows: 'text'"),
        ("a.json", "[]", r"a\.json: no rows"),
        ("a.json", "{}", r"a\.json: JSON that does not hold rows"),
        ("a.json", "[{}]", r"a\.json: no column in any row"),
        ("a.json", "\n", r"a\.json: the file is empty"),
        ("a.json", "[" * 100_000, r"a\.json, line 1: bad JSON"),
    ],
)
def test_json_that_is_no_rows_is_an_error_with_its_place(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.read(write(tmp_path / name, content))


def test_broken_elements_of_json_can_be_skipped(tmp_path):
    path = write(tmp_path / "a.json", '[{"text": "a"}, 5, {"text": "b"}, "c"]')
    with pytest.warns(UserWarning, match="skipped 2"):
        rows = data.read(path, on_error="skip")
    assert rows["text"] == ["a", "b"] and rows.place(1).endswith("row 2 (counting from 0)")


# === Compressed files ===


def zipped(**files):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return held.getvalue()


CSV = FRAME.to_csv(index=False).encode()
# Without the current time, because the bytes become part of the test names.
GZIPPED = gzip.compress(CSV, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", GZIPPED),
        ("a.csv.GZ", GZIPPED),
        ("a.csv.bz2", bz2.compress(CSV)),
        ("a.csv.xz", lzma.compress(CSV)),
        ("a.csv.zip", zipped(**{"any.txt": CSV})),
        ("a.zip", zipped(**{"folder/": b"", "folder/a.csv": CSV, "__MACOSX/._a.csv": b"x"})),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode("utf-16"), mtime=0)),
    ],
)
def test_packed_files_are_unpacked(tmp_path, name, content):
    assert list(data.read(write(tmp_path / name, content))) == ROWS


def test_a_packed_parquet_file_is_read(tmp_path):
    FRAME.to_parquet(tmp_path / "a.parquet")
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
    assert list(data.read(write(tmp_path / "a.parquet.gz", packed))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv.gz", CSV, r"not a whole \.gz file"),
        ("a.csv.gz", GZIPPED[:-5], r"not a whole \.gz file"),
        ("a.csv.bz2", bz2.compress(CSV)[:-5], r"not a whole \.bz2 file"),
        ("a.csv.bz2", CSV, r"not a whole \.bz2 file"),
        ("a.csv.xz", lzma.compress(CSV)[:-5], r"not a whole \.xz file"),
        ("a.csv.zip", zipped(a=CSV)[:-5], "not a readable zip file"),
        ("a.csv.zip", zipped(**{"a.csv": CSV, "b.csv": CSV}), r"a zip file with 2 files \(a\.csv, b\.csv\)"),
        ("a.zip", zipped(**{"a.doc": CSV}), "`path`.*a name that ends in"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
    ],
)
def test_a_damaged_or_strange_packing_is_an_error(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=said):
        data.read(write(tmp_path / name, content))


# === URLs ===


@pytest.fixture
def bucket():
    """fsspec's in-memory filesystem with an empty directory `/bucket`."""
    held = fsspec.filesystem("memory")
    held.makedirs("/bucket", exist_ok=True)
    yield held
    held.rm("/bucket", recursive=True)


def test_a_url_is_read_by_fsspec(bucket, tmp_path):
    FRAME.to_parquet(tmp_path / "a.parquet")
    with fsspec.open("memory://bucket/a.csv.gz", "wb") as file:
        file.write(GZIPPED)
    bucket.put(str(tmp_path / "a.parquet"), "/bucket/a.parquet")
    rows = data.read("memory://bucket/a.csv.gz")
    assert list(rows) == ROWS and rows.place(0) == "memory://bucket/a.csv.gz, line 2"
    assert list(data.read(["memory://bucket/a.parquet", "memory://bucket/a.csv.gz"])) == ROWS * 2
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/b\.csv: no such file"):
        data.read("memory://bucket/b.csv")


def test_a_url_that_fsspec_does_not_know_is_read_by_tensorflow():
    with tf.io.gfile.GFile("ram://a.csv", "wb") as file:
        file.write(CSV)
    assert list(data.read("ram://a.csv")) == ROWS
    with pytest.raises(FileNotFoundError, match=r"ram://b\.csv: no such file"):
        data.read("ram://b.csv")


def test_a_url_of_the_local_disk_is_a_path(tmp_path):
    path = write(tmp_path / "my file.csv", CSV)
    assert list(data.read(path.as_uri())) == ROWS
    with pytest.raises(FileNotFoundError, match=r"b\.csv: no such file"):
        data.read((tmp_path / "b.csv").as_uri())


def test_a_url_that_nothing_reads_says_what_to_install(monkeypatch):
    with pytest.raises(ValueError, match=r"`path`.*fsspec or TensorFlow.*nowhere://a\.csv"):
        data.read("nowhere://a.csv")

    def fail(*args):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open", fail)
    with pytest.raises(ImportError, match=r"Reading s3://a/b\.csv needs a package.*Install s3fs"):
        data.read("s3://a/b.csv")
    with pytest.raises(ValueError, match=r"a name that ends in"):  # before anything is downloaded
        data.read("s3://a/b")
