"""Tag schemes: seqeval's spans, the constraints of the CRF reference, and invariants.

References: seqeval 1.2.2 (golden/seqeval); enumerated constraints of BIO and BIOES (golden/crf).
"""

import gzip
import itertools
import json
import pathlib

import numpy as np
import pytest

# Private: taggers, data and scores use schemes internally, and each relies on all of this module.
from tfxfer import _schemes

SEQEVAL = pathlib.Path(__file__).parent / "golden" / "seqeval" / "cases.json.gz"
PREFIXES = {"IOB1": "BI", "IOB2": "BI", "IOE1": "IE", "IOE2": "IE", "IOBES": "BIES", "BILOU": "BILU"}
# Where we differ from seqeval on purpose: hyphens in a type, and a scheme that seqeval marks as unfinished.
OTHERWISE = {
    ("hyphens_around_type", "gold", "strict_IOB1"): [["-x-", 1, 2]],
    ("hyphens_around_type", "gold", "strict_IOB2"): [["-x-", 0, 2]],
    ("bioes_E_E", "pred", "strict_IOE1"): [["PER", 0, 1]],
}


@pytest.fixture(scope="module")
def seqeval():
    return json.loads(gzip.decompress(SEQEVAL.read_bytes()))


def rows(scheme, longest):
    """All rows of a scheme's tags of two types up to a length, legal or not."""
    tags = ["O", *(f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in "xy")]
    for length in range(longest + 1):
        yield from map(list, itertools.product(tags, repeat=length))


def span_sets(length):
    """All sets of spans of two types that do not overlap."""
    yield []
    for start in range(length):
        for end in range(start + 1, length + 1):
            for kind in "xy":
                for others in span_sets(length - end):
                    yield [(kind, start, end), *((k, s + end, e + end) for k, s, e in others)]


@pytest.mark.parametrize("mode", ["default", *(f"strict_{name}" for name in _schemes.SCHEMES)])
def test_spans_are_those_of_seqeval_on_every_sequence(seqeval, mode):
    scheme = None if mode == "default" else mode.removeprefix("strict_")
    for case, side in itertools.product(seqeval["cases"], ("gold", "pred")):
        expected = OTHERWISE.get((case["id"], side, mode), case[f"{side}_entities"][mode])
        if isinstance(expected, dict):
            assert expected["error"] == "ValueError"
            with pytest.raises(ValueError, match=r"`tags`.*It is at index \d"):
                _schemes.spans(case[side], scheme)
        else:
            assert [list(span) for span in _schemes.spans(case[side], scheme)] == expected, case["id"]


def test_neighbours_of_one_type_are_apart_in_bilou_without_a_scheme_as_well():
    tags = ["U-x", "U-x", "B-x", "L-x", "B-x", "I-x", "L-x"]
    expected = [("x", 0, 1), ("x", 1, 2), ("x", 2, 4), ("x", 4, 7)]
    assert _schemes.spans(tags) == _schemes.spans(tags, "BILOU") == expected


def test_a_stray_b_is_skipped_in_iob1_and_e_marks_spans_of_one_word_in_ioe1():
    assert _schemes.spans(["B-x", "I-x", "O", "B-x"], "IOB1") == [("x", 1, 2)]
    assert _schemes.spans(["I-x", "B-x", "B-y", "I-y"], "IOB1") == [("x", 0, 1), ("y", 3, 4)]
    assert _schemes.spans(["E-x", "E-x", "I-x", "I-y", "E-y"], "IOE1") == [("x", 0, 1), ("x", 1, 2), ("x", 2, 3)]


@pytest.mark.parametrize(
    "tag", ["b-PER", "PER", "PER-B", "BPER", "X-PER", "", "-PER", "O-PER", "O-", "o", None, 3, b"O"]
)
def test_what_is_no_tag_is_an_error_in_both_readings(tag):
    for scheme in (None, "IOB2"):
        with pytest.raises(ValueError, match=r"`tags`.*It is at index 1 of its row"):
            _schemes.spans(["O", tag], scheme)


@pytest.mark.parametrize("tags", ["B-PER", b"O", None, 3])
def test_what_is_no_row_of_tags_is_an_error(tags):
    for read in (_schemes.spans, lambda tags: _schemes.first_error(tags, "IOB2"), lambda tags: _schemes.guess([tags])):
        with pytest.raises(ValueError, match="a list of tags"):
            read(tags)


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_spans_come_back_from_tags_and_fit_their_scheme(scheme):
    for length in range(5):
        for spans in span_sets(length):
            tags = _schemes.tags_of(reversed(spans), length, scheme)
            assert _schemes.first_error(tags, scheme) is None
            assert _schemes.spans(tags, scheme) == _schemes.spans(tags) == spans
            assert _schemes.repair(tags, scheme) == (tags, 0)


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_the_rows_that_a_scheme_allows_are_those_that_spans_are_written_as(scheme):
    written = {tuple(_schemes.tags_of(spans, length, scheme)) for length in range(5) for spans in span_sets(length)}
    allowed = {tuple(row) for row in rows(scheme, 4) if _schemes.first_error(row, scheme) is None}
    assert allowed == written


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_the_first_error_is_the_first_tag_after_which_no_row_can_be_mended(scheme):
    legal = {tuple(row) for row in rows(scheme, 4) if _schemes.first_error(row, scheme) is None}
    # A row of three tags needs at most one more to end its span.
    beginnings = {row[:k] for row in legal for k in range(len(row) + 1)}
    for row in rows(scheme, 3):
        error = _schemes.first_error(row, scheme)
        if error is None:
            continue
        index, reason = error
        assert tuple(row[:index]) in beginnings and scheme in reason
        if tuple(row) in beginnings:
            assert index == len(row) - 1 and "the row ends" in reason
        else:
            assert tuple(row[: index + 1]) not in beginnings


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_a_repaired_row_is_legal_and_has_the_lenient_spans(scheme):
    for row in rows(scheme, 3):
        repaired, changed = _schemes.repair(row, scheme)
        assert _schemes.first_error(repaired, scheme) is None
        assert _schemes.spans(repaired, scheme) == _schemes.spans(row)
        assert changed == sum(a != b for a, b in zip(row, repaired, strict=True))


@pytest.mark.parametrize("source", _schemes.SCHEMES)
@pytest.mark.parametrize("target", _schemes.SCHEMES)
def test_conversion_keeps_the_spans(source, target):
    spans = [("x", 0, 1), ("x", 1, 3), ("y", 3, 6), ("x", 7, 8), ("y", 8, 9), ("y", 9, 11)]
    tags = _schemes.convert(_schemes.tags_of(spans, 12, source), source, target)
    assert tags == _schemes.tags_of(spans, 12, target)


def test_each_scheme_by_hand():
    spans = [("a", 0, 2), ("a", 2, 3), ("b-c", 3, 4), ("b-c", 5, 8)]
    by_hand = {
        "IOB1": "I-a I-a B-a I-b-c O I-b-c I-b-c I-b-c",
        "IOB2": "B-a I-a B-a B-b-c O B-b-c I-b-c I-b-c",
        "IOE1": "I-a E-a I-a I-b-c O I-b-c I-b-c I-b-c",
        "IOE2": "I-a E-a E-a E-b-c O I-b-c I-b-c E-b-c",
        "IOBES": "B-a E-a S-a S-b-c O B-b-c I-b-c E-b-c",
        "BILOU": "B-a L-a U-a U-b-c O B-b-c I-b-c L-b-c",
    }
    assert {name: " ".join(_schemes.tags_of(spans, 8, name)) for name in _schemes.SCHEMES} == by_hand


@pytest.mark.parametrize(
    ("tags", "scheme", "index", "said"),
    [
        (["O", "I-x"], "IOB2", 1, "'I-x' comes after 'O', but IOB2 allows it only after 'B-x' or 'I-x'"),
        (["I-x"], "BIO", 0, "'I-x' starts the row, but IOB2 allows it only after 'B-x' or 'I-x'"),
        (["B-x", "O"], "BIOES", 1, "'O' comes after 'B-x', but IOBES allows only 'I-x' or 'E-x' there"),
        (["O", "B-x"], "BILOU", 1, "the row ends after 'B-x', but BILOU allows only 'I-x' or 'L-x' there"),
        (["E-x", "O"], "IOE1", 1, "'O' comes after 'E-x', but IOE1 allows only 'I-x' or 'E-x' there"),
        (["O", "B-x"], "IOB1", 1, "'B-x' comes after 'O', but IOB1 allows it only after 'B-x' or 'I-x'"),
        (["O", "S-x"], "IOB2", 1, "'S-x' is no tag of IOB2, which has 'O' or a tag 'B-...' or 'I-...'"),
        (["B-x", "B"], "IOB2", 1, "'B' has no type: 'B-TYPE' is expected"),
    ],
)
def test_the_first_error_says_why(tags, scheme, index, said):
    assert _schemes.first_error(tags, scheme) == (index, said)


def test_conversion_of_a_row_with_an_error_is_refused():
    with pytest.raises(ValueError, match=r"At index 0: 'I-x' starts the row.*Repair the row first"):
        _schemes.convert(["I-x"], "IOB2", "IOBES")


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([("x", 0, 2), ("y", 1, 3)], "do not overlap"),
        ([("x", 0, 2), ("x", 0, 2)], "do not overlap"),
        ([("x", 2, 5)], "0 <= start < end <= 4"),
        ([("x", -1, 2)], "0 <= start < end <= 4"),
        ([("x", 2, 2)], "0 <= start < end <= 4"),
        ([(0, 2, "x")], "the type a string"),
        ([("", 0, 2)], "the type a string"),
        ([("x", 0, 2.0)], "two ints"),
        ([("x", False, True)], "two ints"),
        (["x"], "the type a string"),
    ],
)
def test_spans_that_no_tags_can_say_are_an_error(spans, said):
    with pytest.raises(ValueError, match=said):
        _schemes.tags_of(spans, 4, "IOB2")


def test_spans_may_be_of_numpys_ints():
    assert _schemes.tags_of([["x", *np.array([0, 1])]], 1, "IOB2") == ["B-x"]


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_allowed_transitions_are_those_of_the_legal_rows(scheme):
    tags = _schemes.tag_names(["y", "x"], scheme)
    start, transitions, end = _schemes.allowed(tags, scheme)
    assert start.dtype == transitions.dtype == end.dtype == bool
    for row in rows(scheme, 3):
        places = [tags.index(tag) for tag in row]
        if places:
            steps = all(transitions[a, b] for a, b in itertools.pairwise(places))
            assert (start[places[0]] and steps and end[places[-1]]) == (_schemes.first_error(row, scheme) is None)


def test_allowed_transitions_are_those_of_the_crfs_reference(golden):
    cases = json.loads((golden / "crf" / "cases.json").read_text(encoding="utf-8"))
    constrained = {name: case for name, case in cases.items() if case["constrained"]}
    assert len(constrained) in (4, 7)  # those in `tests/golden`, or all
    assert {case["scheme"] for case in constrained.values()} == {"BIO", "BIOES"}
    for name, case in constrained.items():
        start, transitions, end = _schemes.allowed(case["tags"], case["scheme"])
        with np.load(golden / "crf" / f"{name}.npz") as expected:
            np.testing.assert_array_equal(start, expected["allowed_start"])
            np.testing.assert_array_equal(transitions, expected["allowed_transitions"])
            np.testing.assert_array_equal(end, expected["allowed_end"])
        assert _schemes.tag_names(case["span_types"], case["scheme"]) == case["tags"]


@pytest.mark.parametrize("tags", [[], ["O", "O"], ["O", "S-x"], ["O", "B"], ["O", 1]])
def test_allowed_takes_distinct_tags_of_the_scheme(tags):
    with pytest.raises(ValueError, match="`tags`"):
        _schemes.allowed(tags, "IOB2")


@pytest.mark.parametrize("types", ["PER", ["x", "x"], [""], [1], [None]])
def test_types_are_distinct_strings(types):
    with pytest.raises(ValueError, match="`types`"):
        _schemes.tag_names(types, "IOB2")


@pytest.mark.parametrize("scheme", _schemes.SCHEMES)
def test_guess_gives_the_schemes_that_allow_every_row(scheme):
    rng = np.random.default_rng(4)
    legal = [row for row in rows(scheme, 3) if _schemes.first_error(row, scheme) is None]
    for _ in range(30):
        some = [legal[i] for i in rng.integers(len(legal), size=2)]
        expected = [name for name in PREFIXES if all(_schemes.first_error(row, name) is None for row in some)]
        assert list(_schemes.guess(some)) == expected and scheme in expected


def test_guess_of_broken_or_mixed_rows_is_empty():
    assert _schemes.guess([]) == _schemes.guess([[]]) == _schemes.guess([["O"]]) == _schemes.SCHEMES
    assert _schemes.guess([["B-x", "E-x"], ["U-x"]]) == _schemes.guess([["x"]]) == ()
    assert _schemes.guess([["B"]]) == _schemes.guess([[""]]) == ()


def test_schemes_have_other_names():
    assert [_schemes.scheme("scheme", name) for name in ("BIO", "BIOES", *PREFIXES)] == ["IOB2", "IOBES", *PREFIXES]
    for name in ("IOB", "bio", None, 2):
        with pytest.raises(ValueError, match=r"`kind`.*IOB may mean IOB1 or IOB2"):
            _schemes.scheme("kind", name)
