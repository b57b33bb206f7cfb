"""The shipped reference numbers: few enough, and the same as in the whole set."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import reference

FOLDER = pathlib.Path(__file__).parent / "golden"
EXPECTED = [path.relative_to(FOLDER).as_posix() for path in sorted(FOLDER.glob("families*/*/expected.npz"))]
LEFT_OUT = [4, 5, 6, 7]  # texts of the STS benchmark


def texts(folder, kind):
    return json.loads((folder / kind / "texts.json").read_text(encoding="utf-8"))["texts"]


def test_the_shipped_numbers_are_few_and_hold_no_text_that_may_not_be_passed_on():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(EXPECTED) == 8 and sum(path.stat().st_size for path in files) < 3_000_000
    for name in EXPECTED:
        with np.load(FOLDER / name) as found:
            rows = {key: len(found[key]) for key in found}
        assert set(rows.values()) <= {12, 2} and not [key for key in rows if key.startswith(("pair_", "words_"))]
    assert len(texts(FOLDER, "families")) == len(texts(FOLDER, "families2")) == 12


@pytest.mark.parametrize("name", EXPECTED)
def test_the_shipped_numbers_are_those_of_the_whole_set(golden, name):
    whole = golden / "minilm_texts.json"  # skips in a plain clone: nothing to compare with
    kind = name.split("/")[0]
    all_texts = texts(whole.parent, kind)
    assert texts(FOLDER, kind) == [text for i, text in enumerate(all_texts) if i not in LEFT_OUT]
    with np.load(FOLDER / name) as found, np.load(whole.parent / name) as given:
        for key in found:
            out = LEFT_OUT if len(given[key]) == len(all_texts) else [0]
            np.testing.assert_array_equal(found[key], np.delete(given[key], out, axis=0))
    for file in (FOLDER / name).parent.iterdir():
        other = whole.parent / kind / file.parent.name / file.name
        if file.suffix == ".json":
            assert json.loads(file.read_text(encoding="utf-8")) == json.loads(other.read_text(encoding="utf-8"))
        elif file.name != "expected.npz":
            assert file.read_bytes() == other.read_bytes()


def test_the_shipped_spans_of_seqeval_are_those_of_the_whole_set(golden):
    whole = golden / "minilm_texts.json"  # skips in a plain clone: nothing to compare with
    shipped = gzip.decompress((FOLDER / "seqeval" / "cases.json.gz").read_bytes())
    assert shipped == (whole.parent / "seqeval" / "cases.json").read_bytes()


def test_the_shipped_numbers_of_chains_are_those_of_the_whole_set(golden):
    whole = (golden / "minilm_texts.json").parent / "crf"
    names = json.loads((FOLDER / "crf" / "cases.json").read_text(encoding="utf-8"))
    given = json.loads((whole / "cases.json").read_text(encoding="utf-8"))
    assert {f"{name}.npz" for name in names} == {path.name for path in (FOLDER / "crf").glob("*.npz")}
    for name, case in names.items():
        assert case.items() <= given[name].items()
        with np.load(FOLDER / "crf" / f"{name}.npz") as found, np.load(whole / f"{name}.npz") as expected:
            for key in found:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name} {key}")


def test_the_shipped_numbers_of_rerankers_are_those_of_the_whole_set(golden):
    whole = (golden / "minilm_texts.json").parent / "rerank"  # skips in a plain clone: nothing to compare with
    for name, shipped in json.loads(gzip.decompress((FOLDER / "rerank" / "cases.json.gz").read_bytes())).items():
        given = json.loads((whole / f"{name}.json").read_text(encoding="utf-8"))
        if name == "listwise":
            assert shipped["batches"].items() <= given["batches"].items()
            shipped, given = shipped["cases"], given["cases"]
        assert shipped and all(any(case.items() <= each.items() for each in given) for case in shipped)


@pytest.mark.parametrize(
    "name",
    [
        "dense_more/adaptive_layer",
        "dense_more/contrastive_tension",
        "measures/bitext",
        "measures/paraphrase_mining",
        "measures/reranking",
        "measures/retrieval",
    ],
)
def test_the_shipped_numbers_of_losses_and_measures_are_those_of_the_whole_set(golden, name):
    whole = golden / "minilm_texts.json"  # skips in a plain clone: nothing to compare with
    assert gzip.decompress(reference.shipped(name)) == (whole.parent / f"{name}.json").read_bytes()


def test_the_shipped_numbers_of_metric_learning_are_those_of_the_whole_set(golden):
    whole = (golden / "minilm_texts.json").parent / "dense_more" / "metric_learning.json"
    shipped = json.loads(gzip.decompress(reference.shipped("dense_more/metric_learning")))
    given = json.loads(whole.read_bytes())
    for one, other in zip(shipped.pop("cases"), given.pop("cases"), strict=True):
        assert one.items() <= other.items() and set(other) - set(one) <= {"grad"}
    assert shipped == given


def test_the_shipped_scores_of_bm25_are_those_of_the_whole_set(golden):
    whole = (golden / "minilm_texts.json").parent / "measures" / "bm25.json"
    shipped, given = (
        json.loads(path.read_text(encoding="utf-8")) for path in (FOLDER / "measures" / "bm25.json", whole)
    )
    assert shipped["documents"] == given["documents"] and shipped["queries"] == given["queries"]
    assert len(shipped["cases"]) == 5 and all(case in given["cases"] for case in shipped["cases"])
