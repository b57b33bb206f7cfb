"""Scores, errors, calibration and reports of spans; the scores are compared with seqeval's.

Reference: seqeval 1.2.2 (golden/seqeval).
"""

import csv
import gzip
import json
import pathlib
import types

import numpy as np
import pytest
from matplotlib import image

from tfxfer import evaluation
from tfxfer.evaluation import _plots  # private: the content of a plot cannot be read from its PNG

SEQEVAL = pathlib.Path(__file__).parent / "golden" / "seqeval" / "cases.json.gz"
SCHEMES = ("IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")
GOLD = [[("PER", 0, 2), ("LOC", 4, 5)], [], [("ORG", 1, 4)]]
PREDICTED = [[("PER", 0, 2), ("ORG", 4, 5)], [("LOC", 2, 3)], [("ORG", 1, 3)]]


@pytest.fixture(scope="module")
def seqeval():
    return json.loads(gzip.decompress(SEQEVAL.read_bytes()))


def assert_equal(found, expected, where):
    """Asserts that scores equal seqeval's, with 0 where seqeval gives NaN."""
    for average in ("micro", "macro", "weighted"):
        values = [found[f"{average}_{key}"] for key in ("precision", "recall", "f1")]
        numbers = [0.0 if value == "nan" else value for value in expected[average]]
        assert values == pytest.approx(numbers, abs=1e-12), (where, average)
    per_type = {
        kind: [each[key] for key in ("precision", "recall", "f1", "support")]
        for kind, each in found["per_type"].items()
    }
    assert list(per_type) == sorted(expected["per_type"]), where
    for kind, values in per_type.items():
        assert values == pytest.approx(expected["per_type"][kind], abs=1e-12), (where, kind)


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_scores_are_those_of_seqeval_on_every_pair_and_on_its_corpora(seqeval, scheme):
    mode = "default" if scheme is None else f"strict_{scheme}"
    pairs = {case["id"]: (case["gold"], case["pred"]) for case in seqeval["cases"]}
    if scheme is not None:  # seqeval's strict mode strips hyphens at the ends of a type
        pairs["hyphens_around_type"] = (["B-x", "I-x", "O"],) * 2
    cases = [([case["id"]], case["metrics"][mode]) for case in seqeval["cases"]]
    cases += [(corpus["ids"], corpus["metrics"][mode]) for corpus in seqeval["corpora"].values()]
    assert len(cases) == 71
    for ids, expected in cases:
        gold, predicted = ([pairs[each][k] for each in ids] for k in range(2))
        if "error" in expected:
            with pytest.raises(ValueError, match=r"That is row \d+ of `(gold|predicted)`"):
                evaluation.entity_scores(gold, predicted, scheme=scheme)
        else:
            assert_equal(evaluation.entity_scores(gold, predicted, scheme=scheme), expected, (ids, mode))


def test_the_accuracy_of_tags_is_that_of_seqeval(seqeval):
    for case in seqeval["cases"]:
        expected = case["metrics"]["default"]["accuracy"]
        found = evaluation.entity_scores([case["gold"]], [case["pred"]])
        if case["gold"]:
            assert found["tag_accuracy"] == pytest.approx(expected, abs=1e-12)
        else:
            assert "error" in expected and "tag_accuracy" not in found


def test_tags_and_their_spans_give_the_same_scores():
    gold = [["B-PER", "I-PER", "O", "O", "B-LOC"], ["O"], ["O", "B-ORG", "I-ORG", "I-ORG"]]
    predicted = [["B-PER", "I-PER", "O", "O", "B-ORG"], ["B-LOC"], ["O", "B-ORG", "I-ORG", "O"]]
    of_tags = evaluation.entity_scores(gold, predicted, scheme="BIO")
    assert of_tags.pop("tag_accuracy") == 0.7
    assert of_tags.pop("broken_gold_rows") == of_tags.pop("broken_predicted_rows") == 0
    spans = [GOLD[0], [], GOLD[2]], [PREDICTED[0], [("LOC", 0, 1)], PREDICTED[2]]
    assert evaluation.entity_scores(*spans) == of_tags
    assert of_tags["correct"] == 1 and of_tags["gold"] == 3 and of_tags["predicted"] == 4 and of_tags["rows"] == 3
    assert of_tags["per_type"]["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 1}


def forms(label, start, end):
    """One span in every accepted form."""
    return [
        (label, start, end),
        [label, np.int64(start), np.int32(end)],
        (start, end, label),
        (label, start, end, 0.5),
        {"label": label, "start": start, "end": end, "text": "x"},
        types.SimpleNamespace(label=label, start=start, end=end),
    ]


@pytest.mark.parametrize("k", range(6))
def test_spans_may_have_several_forms(k):
    gold = [[forms(*span)[k] for span in row] for row in GOLD]
    predicted = [[forms(*span)[-k] for span in reversed(row)] for row in PREDICTED]
    assert evaluation.entity_scores(gold, predicted) == evaluation.entity_scores(GOLD, PREDICTED)
    rows = (tuple(row) for row in gold), tuple(predicted)
    assert evaluation.entity_scores(*rows) == evaluation.entity_scores(GOLD, PREDICTED)


def test_spans_may_overlap_and_count_each():
    gold = [[("PER", 0, 3), ("LOC", 1, 2), ("LOC", 0, 3)]]
    scores = evaluation.entity_scores(gold, [[("LOC", 0, 3), ("LOC", 1, 2)]])
    assert (scores["micro_precision"], scores["micro_recall"]) == (1.0, pytest.approx(2 / 3))


def test_rows_that_break_the_scheme_are_counted():
    gold, predicted = [["I-x", "O"], ["O", "I-x"], ["B-x", "I-x"]], [["B-x", "O"], ["O", "I-x"], ["B-x", "I-y"]]
    scores = evaluation.entity_scores(gold, predicted, scheme="IOB2")
    assert (scores["broken_gold_rows"], scores["broken_predicted_rows"]) == (2, 2)
    assert scores["gold"] == 1 and evaluation.entity_scores(gold, predicted)["gold"] == 3


@pytest.mark.parametrize(
    ("gold", "predicted", "said"),
    [
        ([], [], "at least one"),
        ([["O"]], [["O"], ["O"]], r"`predicted`.*1 rows as in `gold`"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], r"`predicted`.*2 tags in row 1 "),
        ([["O"], []], [["O"], ["O"]], r"`predicted`.*0 tags in row 1 "),
        ("O", "O", "`gold`.*the tags or the spans of each row"),
        (["B-x"], ["B-x"], r"`gold`.*in every row.*It is in row 0.*Wrap a single row"),
        ([["O"]], [None], r"`predicted`.*in every row.*It is in row 0"),
        ([("x", 0, 2)], [("x", 0, 2)], r"`gold`.*It is in row 0.*If it is a span"),
        ([["x", 0, 2]], [["x", 0, 2]], "`gold`.*only spans"),
        ([["O"], [("x", 0, 1)]], [["O"], ["O"]], r"`gold`.*only spans.*in rows 0 and 1 "),
        ([["B-x"]], [[("x", 0, 1)]], "`predicted`.*the same kind of rows.*characters"),
        ([["O"], ["x-B"]], [["O"], ["O"]], r"Received: tags='x-B'.*That is row 1 of `gold`"),
        ([["O"]], [[b"O"]], r"strings.*That is row 0 of `predicted`"),
        ([[("x", 0, 1)], [("x", 2, 2)]], [[], []], r"`gold`.*0 <= start < end.*row 1 .*exclusive"),
        ([[("x", -1, 1)]], [[]], "`gold`.*0 <= start < end"),
        ([[("x", 0, 1.0)]], [[]], "`gold`.*ints as the others"),
        ([[("x", False, True)]], [[]], "`gold`.*ints as the others"),
        ([[("", 0, 1)]], [[]], "`gold`.*non-empty string"),
        ([[(1, 0, 1)]], [[]], "`gold`.*non-empty string"),
        ([[("x", "y", 1)]], [[]], "`gold`.*ints as the others"),
        ([[("x", 0)]], [[]], "`gold`.*spans: "),
        ([[{"entity": "x", "start": 0, "end": 1}]], [[]], "`gold`.*with `label`, `start` and `end`"),
        ([[3]], [[]], "`gold`.*spans: "),
        ([[]], [[("x", 0, 1), ("y", 0, 1), ("x", 0, 1)]], r"`predicted`.*each span once.*row 0 "),
        ([[]], [[("x", 0, 1, 1.5)]], r"`predicted`.*probabilities in \[0, 1\]"),
        ([[]], [[("x", 0, 1, float("nan"))]], r"`predicted`.*probabilities in \[0, 1\]"),
        ([[]], [[("x", 0, 1, "y")]], r"`predicted`.*probabilities in \[0, 1\]"),
    ],
)
def test_what_could_be_misread_is_an_error_that_names_the_row(gold, predicted, said):
    with pytest.raises(ValueError, match=said):
        evaluation.entity_scores(gold, predicted)


def test_a_scheme_is_one_of_those_known_and_is_for_tags():
    with pytest.raises(ValueError, match=r"`scheme`.*IOB may mean"):
        evaluation.entity_scores([["O"]], [["O"]], scheme="IOB")
    with pytest.raises(ValueError, match=r"`scheme`.*None for spans"):
        evaluation.entity_scores(GOLD, PREDICTED, scheme="IOB2")


# === Errors ===


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        (["x 0 2"], ["x 0 2"], ["correct x 0 2 = x 0 2"]),
        (["x 0 2"], ["y 0 2"], ["type x 0 2 = y 0 2"]),
        (["x 0 2"], ["x 1 3"], ["boundary x 0 2 = x 1 3"]),
        (["x 0 2"], ["y 0 3"], ["boundary_and_type x 0 2 = y 0 3"]),
        (["x 0 2"], ["x 2 3"], ["missed x 0 2", "spurious x 2 3"]),
        (["x 0 4"], ["x 0 1", "x 1 4"], ["spurious x 0 1", "boundary x 0 4 = x 1 4"]),  # the larger overlap wins
        (["x 0 4"], ["x 0 2", "x 2 4"], ["boundary x 0 4 = x 0 2", "spurious x 2 4"]),  # or the first, if equal
        (["x 0 1", "x 1 4"], ["x 0 4"], ["missed x 0 1", "boundary x 1 4 = x 0 4"]),
        (["x 0 4"], ["x 0 1", "y 1 4"], ["boundary x 0 4 = x 0 1", "spurious y 1 4"]),  # the type outranks the overlap
        (["x 0 2"], ["y 0 2", "x 0 3"], ["type x 0 2 = y 0 2", "spurious x 0 3"]),  # equal bounds outrank the type
        (["x 0 2", "y 0 2"], ["y 0 2", "z 0 2"], ["correct y 0 2 = y 0 2", "type x 0 2 = z 0 2"]),
        (["x 0 3", "x 2 5"], ["x 2 4"], ["missed x 0 3", "boundary x 2 5 = x 2 4"]),
    ],
)
def test_each_span_is_in_one_pair_or_error(gold, predicted, expected):
    spans = [[(s[0], int(s[2]), int(s[4])) for s in side] for side in (gold, predicted)]
    found = evaluation.entity_errors([spans[0]], [spans[1]])
    listed = [
        " ".join([each["kind"], " = ".join(" ".join(map(str, each[s])) for s in ("gold", "predicted") if each[s])])
        for each in found["errors"]
    ]
    assert sorted(listed) == sorted(each for each in expected if not each.startswith("correct"))
    for kind, count in found["counts"].items():
        assert count == sum(each.split()[0] == kind for each in expected)


def random_rows(seed, rows=40):
    rng = np.random.default_rng(seed)

    def some():
        spans = {
            (str(rng.choice(list("abc"))), s, s + int(rng.integers(1, 4))) for s in map(int, rng.integers(9, size=4))
        }
        return [sorted(spans)[i] for i in rng.permutation(len(spans))]

    return [some() for _ in range(rows)], [some() for _ in range(rows)]


@pytest.mark.parametrize("seed", range(5))
def test_errors_add_up_to_all_spans_and_agree_with_the_scores(seed):
    gold, predicted = random_rows(seed)
    found, scores = evaluation.entity_errors(gold, predicted), evaluation.entity_scores(gold, predicted)
    counts, confusion = found["counts"], np.array(found["confusion"])
    paired = counts["correct"] + counts["boundary"] + counts["type"] + counts["boundary_and_type"]
    assert paired + counts["missed"] == scores["gold"] and paired + counts["spurious"] == scores["predicted"]
    assert counts["correct"] == scores["correct"] and sum(counts.values()) == counts["correct"] + len(found["errors"])
    assert found["labels"] == [*scores["per_type"], None] and confusion[-1, -1] == 0
    assert confusion[:-1, -1].sum() == counts["missed"] and confusion[-1, :-1].sum() == counts["spurious"]
    assert np.trace(confusion) == counts["correct"] + counts["boundary"]
    for i, (kind, each) in enumerate(scores["per_type"].items()):
        sides = found["per_type"][kind]
        assert confusion[i].sum() == each["support"] == sum(sides["gold"].values())
        assert confusion[:, i].sum() == each["predicted"] == sum(sides["predicted"].values())
        assert sides["gold"]["correct"] == sides["predicted"]["correct"] == round(each["recall"] * each["support"])
    for row in range(len(gold)):
        of_row = [each for each in found["errors"] if each["row"] == row]
        for side, spans in (("gold", gold[row]), ("predicted", predicted[row])):
            wrong = [each[side] for each in of_row if each[side]]
            assert len({*wrong}) == len(wrong) and {*wrong} <= {*spans}
            assert {*spans} - {*wrong} == {*gold[row]} & {*predicted[row]}
        starts = [min(span[1] for span in (each["gold"], each["predicted"]) if span) for each in of_row]
        assert starts == sorted(starts)


def test_errors_show_words_or_characters():
    words = "The late Ada King met Mr Babbage in London , England in 1833 .".split()
    gold, predicted = [[("PER", 2, 4), ("LOC", 8, 11)]], [[("PER", 1, 4)]]
    [person, place] = evaluation.entity_errors(gold, predicted, texts=[np.array(words)])["errors"]
    assert person["gold_text"] == "Ada King" and person["predicted_text"] == "late Ada King"
    assert person["context"] == "The late Ada King met Mr Babbage in London"
    assert place["gold_text"] == "London , England" and place["predicted_text"] is None
    text = " ".join(words)
    spans = [("PER", text.index("Ada"), text.index(" met"))]
    [error] = evaluation.entity_errors([spans], [[]], texts=[text])["errors"]
    assert error["gold_text"] == "Ada King" and error["context"] == text[: text.index(" met") + 40]
    tags = [["O", "B-PER"]], [["O", "O"]]
    assert evaluation.entity_errors(*tags, texts=[["Hi", "Ada"]])["errors"][0]["gold_text"] == "Ada"
    assert "gold_text" not in evaluation.entity_errors(*tags)["errors"][0]


@pytest.mark.parametrize(
    ("gold", "texts", "said"),
    [
        ([["O", "O"]], [["a"]], "2 words in row 0 .*one for each tag"),
        ([["O", "O"]], ["ab"], "2 words in row 0 .*one for each tag"),
        ([["O", "O"]], [["a", "b"], ["c"]], "1 rows"),
        ([[("x", 0, 3)]], ["ab"], "at least 3 characters"),
        ([[("x", 0, 3)]], [["a", "b"]], "at least 3 words.*row 0 "),
        ([[("x", 0, 3)]], [None], "a string, or a list of words"),
        ([[("x", 0, 1)]], [[1]], "a string, or a list of words"),
        ([[("x", 0, 1)]], "ab", "a list with the text"),
    ],
)
def test_texts_that_do_not_fit_the_spans_are_an_error(gold, texts, said):
    with pytest.raises(ValueError, match=f"`texts`.*{said}"):
        evaluation.entity_errors(gold, gold, texts=texts)


def test_errors_of_tags_are_read_by_the_scheme():
    gold, predicted = [["B-x", "I-x"]], [["I-x", "I-x"]]
    assert evaluation.entity_errors(gold, predicted)["counts"]["correct"] == 1
    assert evaluation.entity_errors(gold, predicted, scheme="IOB2")["counts"]["missed"] == 1


# === Calibration ===


def with_probabilities(rows, seed):
    rng = np.random.default_rng(seed)
    return [[(*span, float(rng.integers(21)) / 20) for span in row] for row in rows]


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_of_spans_is_that_of_decisions_that_are_right_or_not(bins):
    gold, predicted = random_rows(7)
    predicted = with_probabilities(predicted, 7)
    sure = [span[3] for row in predicted for span in row]
    right = [span[:3] in ours for ours, row in zip(gold, predicted, strict=True) for span in row]
    found = evaluation.entity_calibration(gold, predicted, bins=bins)
    # With multi-label targets, `calibration_scores` makes one decision per label; here there is one label.
    expected = evaluation.calibration_scores(np.array(right)[:, None].astype(int), np.array(sure)[:, None], bins=bins)
    assert found == expected and found["rows"] == len(sure)
    assert found["right"] == pytest.approx(evaluation.entity_scores(gold, predicted)["micro_precision"])


@pytest.mark.parametrize(
    ("gold", "predicted", "said"),
    [
        ([["O"]], [["O"]], "`predicted`.*tags have none"),
        ([[("x", 0, 1)]], [[]], "at least one span"),
        ([[]], [[]], "at least one span"),
        ([[], []], [[("x", 0, 1, 0.5)], [("x", 0, 1)]], "a probability.*row 1 "),
        ([[]], [[{"label": "x", "start": 0, "end": 1, "score": 0.5}]], "a probability.*row 0 "),
    ],
)
def test_what_has_no_probability_cannot_be_calibrated(gold, predicted, said):
    with pytest.raises(ValueError, match=said):
        evaluation.entity_calibration(gold, predicted)
    with pytest.raises(ValueError, match="`bins`"):
        evaluation.entity_calibration([[]], [[("x", 0, 1, 0.5)]], bins=0)


# === Reports ===


def test_a_report_of_spans_holds_scores_pictures_and_errors(tmp_path):
    gold, predicted = random_rows(1)
    predicted = with_probabilities(predicted, 1)
    texts = [[f'"w{k}|\t' for k in range(12)] for _ in gold]
    history, more = {"loss": [2.0, 1.0]}, {"search": {"mrr": 0.5}}
    found = evaluation.report_entities(
        tmp_path / "a", gold, iter(predicted), texts=texts, history=history, scores=more, tensorboard=True
    )
    assert found == json.loads((tmp_path / "a" / "metrics.json").read_text(encoding="utf-8"))
    errors = evaluation.entity_errors(gold, predicted, texts=texts)
    listed = errors.pop("errors")
    assert found["entities"] == evaluation.entity_scores(gold, predicted) and found["errors"] == errors
    assert found["calibration"] == evaluation.entity_calibration(gold, predicted)
    assert found["history"] == history and found["search"] == more["search"]
    pictures = {path.stem: image.imread(path) for path in (tmp_path / "a").glob("*.png")}
    assert set(pictures) == {"curves", "confusion", "outcomes", "reliability"}
    assert all(min(pixels.shape[:2]) > 150 and pixels.std() > 0.01 for pixels in pictures.values())
    page = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    for shown in (
        f"| entities | micro_f1 | {found['entities']['micro_f1']:.4f} |",
        f"| errors | boundary and type | {errors['counts']['boundary_and_type']} |",
        "![outcomes](outcomes.png)",
        f"| a | nothing | {errors['confusion'][0][-1]} |",
        "## Errors: spurious",
        '"w1\\| "w2\\|',
    ):
        assert shown in page, shown
    with open(tmp_path / "a" / "errors.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(listed)
    for row, error in zip(rows, listed, strict=True):
        assert (row["row"], row["kind"]) == (str(error["row"]), error["kind"])
        place = tuple(row[f"gold_{part}"] for part in ("type", "start", "end"))
        assert place == tuple(map(str, error["gold"] or ("", "", "")))
        assert row["predicted_text"].split() == (error["predicted_text"] or "").split()


def test_a_report_of_tags_without_spans_has_no_pictures_of_them(tmp_path):
    found = evaluation.report_entities(tmp_path, [["O", "O"], []], [["O", "O"], []], scheme="BIO")
    assert not [*tmp_path.glob("*.png")] and "calibration" not in found and found["entities"]["tag_accuracy"] == 1.0
    assert len((tmp_path / "errors.tsv").read_text(encoding="utf-8").splitlines()) == 1


def test_a_report_keeps_its_own_names(tmp_path):
    with pytest.raises(ValueError, match=r"other names than.*'entities'"):
        evaluation.report_entities(tmp_path / "a", GOLD, PREDICTED, scores={"entities": {}})
    assert not (tmp_path / "a").exists()


def test_outcomes_show_the_most_frequent_types_and_shares_of_all_their_spans():
    gold = [[(f"t{k}", 0, 1)] for k in range(60)] + [[("t59", 0, 2)], [("t59", 4, 5)]]
    predicted = [[] for _ in range(60)] + [[("t59", 0, 1)], [("t59", 4, 5)]]
    drawing = _plots.outcomes(evaluation.entity_errors(gold, predicted)["per_type"])
    ours, theirs = drawing.axes
    assert [text.get_text() for text in ours.get_yticklabels()][:2] == ["t59 (3)", "t0 (1)"]
    assert [text.get_text() for text in theirs.get_yticklabels()][:2] == ["(2)", "(0)"]
    assert ours.get_title() == "gold spans: 50 of 60 types"
    widths = [bars[0].get_width() for bars in ours.containers]
    assert widths == pytest.approx([100 / 3, 100 / 3, 0, 0, 100 / 3])
    assert [bars[0].get_width() for bars in theirs.containers] == pytest.approx([50, 50, 0, 0, 0])
    [legend] = drawing.legends
    kinds = ["correct", "boundary", "type", "boundary and type", "missed", "spurious"]
    assert [text.get_text() for text in legend.get_texts()] == kinds
