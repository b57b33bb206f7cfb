"""BEIR folders, TREC judgments and TREC runs: what is read, and what raises an error."""

import gzip
import json

import numpy as np
import pytest
from test_data_rows import write

from tfxfer import data

CORPUS = [{"_id": "d1", "title": "Cards", "text": "Press the button."}, {"_id": "d2", "text": "We are closed."}]
QUERIES = [{"_id": "q1", "text": "how to reset"}, {"_id": "q2", "text": "hours"}, {"_id": "q3", "text": "other split"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t1\nq2\td1\t0\n"


def folder(path, corpus=CORPUS, queries=QUERIES, qrels=QRELS, split="test"):
    """Writes a folder in BEIR's layout."""
    (path / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        write(path / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(path / "qrels" / f"{split}.tsv", qrels)
    return path


def test_a_folder_gives_queries_of_the_split_the_corpus_and_the_grades(tmp_path):
    task = data.read_beir(folder(tmp_path))
    assert task.queries == {"q1": "how to reset", "q2": "hours"}
    assert task.corpus == {"d1": "Cards Press the button.", "d2": "We are closed."}
    assert task.relevant == {"q1": {"d1": 2}, "q2": {"d2": 1, "d1": 0}}
    assert data.read_beir(tmp_path, title=None).corpus["d1"] == "Press the button."
    assert data.read_beir(tmp_path, title=". ").corpus["d1"] == "Cards. Press the button."


def test_packed_files_and_parquet_folders_read_alike(tmp_path):
    expected = data.read_beir(folder(tmp_path / "plain"))
    packed = folder(tmp_path / "packed")
    for file in (packed / "corpus.jsonl", packed / "qrels" / "test.tsv"):
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert data.read_beir(packed) == expected
    pd = pytest.importorskip("pandas")
    hub = tmp_path / "hub"
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        (hub / name).mkdir(parents=True)
        for part, half in enumerate((rows[:1], rows[1:])):
            frame = pd.DataFrame(half, columns=["_id", "title", "text"])
            frame.to_parquet(hub / name / f"train-0000{part}-of-00002.parquet")
    (hub / "qrels").mkdir()
    pairs = pd.DataFrame({"query-id": ["q1", "q2"], "corpus-id": ["d1", "d2"]})
    pairs.to_parquet(hub / "qrels" / "test-00000-of-00001.parquet")
    found = data.read_beir(hub)
    assert (found.queries, found.corpus) == (expected.queries, expected.corpus)
    assert found.relevant == {"q1": {"d1": 1}, "q2": {"d2": 1}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpus": [*CORPUS, CORPUS[1]]}, r"corpus\.jsonl, line 3, column '_id': id 'd2' appears twice"),
        ({"corpus": [{"_id": "d1", "text": None}]}, r"corpus\.jsonl, line 1, column 'text': an invalid text, None"),
        ({"corpus": [{"_id": "d1", "title": 3, "text": ""}]}, r"column 'title': an invalid text, 3"),
        ({"queries": [{"_id": 1.5, "text": "a"}]}, r"queries\.jsonl, line 1, column '_id': an invalid id, 1\.5"),
        ({"queries": QUERIES[:1]}, r"Query 'q2' is judged, but has no text"),
        ({"corpus": CORPUS[:1]}, r"Query 'q2' has a judgment of 'd2', which is missing.*missing='keep'"),
        ({"qrels": QRELS + "q2\td2\t3\n"}, r"document 'd2' has the grades 1 and 3 for query 'q2'"),
        ({"qrels": QRELS + "q2\td2\n"}, r"test\.tsv, line 5: 2 columns instead of 3"),
        ({"qrels": QRELS + "q2\td7\thigh\n"}, r"line 5: a grade that is not a number: 'high'"),
        ({"qrels": QRELS + "\nq2\td2\t1\n"}, r"line 5: an empty line"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, r"no judgments"),
        ({"qrels": "who\twhat\tscore\nq1\td1\t1\n"}, r"line 1: columns 'who', 'what', 'score'.*query-id"),
        ({"qrels": "a b c d e\n"}, r"line 1: 5 columns"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_its_place(tmp_path, change, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.read_beir(folder(tmp_path, **change))


def test_missing_files_other_splits_and_two_files_of_one_role_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.read_beir(tmp_path / "none")
    folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dev\.tsv.*The available splits are 'test'"):
        data.read_beir(tmp_path, split="dev")
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="one file of the corpus"):
        data.read_beir(tmp_path)


def test_a_judged_document_that_is_missing_is_kept_where_asked(tmp_path):
    task = data.read_beir(folder(tmp_path, corpus=CORPUS[:1]), missing="keep")
    assert task.relevant["q2"] == {"d2": 1, "d1": 0} and list(task.corpus) == ["d1"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("q1 0 d7 2\nq1 0 d8 -1\n", {"q1": {"d7": 2, "d8": -1}}),
        ("q1\t0\td7\t2\r\nq2\t0\td8\t0.5\r\n", {"q1": {"d7": 2}, "q2": {"d8": 0.5}}),
        ("q1\td7\t2\n1\t0\t1\n", {"q1": {"d7": 2}, "1": {"0": 1}}),
        ("query-id\tcorpus-id\nq1\td 7\n", {"q1": {"d 7": 1}}),
        ("corpus-id\tquery-id\tscore\nd7\tq1\t3\n", {"q1": {"d7": 3}}),
        ("q1 0 d7 2\nq1 0 d7 2\n", {"q1": {"d7": 2}}),
    ],
)
def test_judgements_of_both_forms(tmp_path, content, expected):
    assert data.read_qrels(write(tmp_path / "qrels", content)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 0 7\n1 0 8\n", "second is always 0.*header line.*four columns"),
        ("q1 d7\n", "columns 'q1', 'd7'"),
        ("q1 0 d7 nan\n", "grade that is not a number"),
        ("q1 7\n", "2 columns"),
    ],
)
def test_judgements_that_can_be_read_in_two_ways_or_none_are_errors(tmp_path, content, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.read_qrels(write(tmp_path / "qrels", content))


def test_a_run_comes_back_as_it_was_written(tmp_path):
    run = {"q1": {"d3": np.float32(0.1), "d7": 1 / 3, 12: -2}, 5: {"a": 1e-300, "b": 1e-300}}
    data.write_run(tmp_path / "a.run", run, name="mine")
    assert data.read_run(tmp_path / "a.run") == {
        "q1": {"d7": 1 / 3, "d3": float(np.float32(0.1)), "12": -2.0},
        "5": {"a": 1e-300, "b": 1e-300},
    }
    first = (tmp_path / "a.run").read_text().splitlines()[0]
    assert first == f"q1 Q0 d7 1 {1 / 3!r} mine"


def test_ranks_that_contradict_scores_need_a_word(tmp_path):
    file = write(tmp_path / "a.run", "q1 Q0 d1 2 9.0 x\nq1 Q0 d2 1 3.0 x\nq1 Q0 d3 3 9.0 x\n")
    with pytest.raises(ValueError, match=r"line 1: rank 2 of query 'q1' has a higher score than rank 1.*order='score'"):
        data.read_run(file)
    assert data.read_run(file, order="score") == {"q1": {"d2": 3.0, "d1": 9.0, "d3": 9.0}}
    assert data.read_run(file, order="rank") == {"q1": {"d2": -1.0, "d1": -2.0, "d3": -3.0}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("q1 Q0 d1 1 9.0\n", r"line 1: 5 columns.*the name of the run"),
        ("q1 Q0 d1 1 9.0 x\nq1 Q0 d1 2 8.0 x\n", r"line 2: document 'd1' appears twice"),
        ("q1 Q0 d1 one 9.0 x\n", "a rank that is not a number"),
        ("q1 Q0 d1 1 inf x\n", "a score that is not a number"),
    ],
)
def test_a_broken_run_is_an_error(tmp_path, content, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.read_run(write(tmp_path / "a.run", content))


@pytest.mark.parametrize(
    ("run", "name", "said"),
    [
        ({}, "x", "at least one query"),
        ({"q": ["d1"]}, "x", "document id to score for query 'q'"),
        ({"q": {"d1": float("nan")}}, "x", "finite score of document 'd1'"),
        ({"q": {"d1": "1"}}, "x", "finite score of document 'd1'"),
        ({"q 1": {"d1": 1}}, "x", "one word each"),
        ({"q": {"": 1}}, "x", "one word each"),
        ({"q": {"d1": 1}}, "my run", "`name`"),
        ({"q": {"d1\n": 1}}, "x", "without spaces"),
        ({"q": {"1": 1, 1: 2}}, "x", "differ as strings"),
        ({"1": {"d": 1}, 1: {"d": 2}}, "x", "differ as strings"),
    ],
)
def test_a_run_that_such_a_file_cannot_hold_is_an_error(tmp_path, run, name, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.write_run(tmp_path / "a.run", run, name=name)
    assert not list(tmp_path.iterdir())
