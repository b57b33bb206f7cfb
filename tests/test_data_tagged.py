"""Tagged words: CoNLL files, texts with character spans, datasets of both, and conversions between tag schemes."""

import gzip
import json
import re

import fsspec
import numpy as np
import pandas
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_rows import write

import tfxfer as tx
from tfxfer import data

SENTENCES = [["Ada", "Lovelace", "wrote"], ["Hello"], ["in", "Rome"]]
TAGS = [["B-PER", "I-PER", "O"], ["O"], ["O", "B-LOC"]]
CONLL = "Ada\tB-PER\nLovelace\tI-PER\nwrote\tO\n\nHello\tO\n\nin\tO\nRome\tB-LOC\n"


def conll(folder, content, **options):
    return data.read_conll(write(folder / "a.conll", content), **options)


def refuses(message, call, *arguments, **options):
    """Checks that a call raises a ValueError that contains `message`; returns the whole message."""
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(*arguments, **options)
    return str(caught.value)


# === CoNLL files ===


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.rstrip("\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text.replace("\n\n", "\n \t\n\n\n") + "\n  \n\n",
        lambda text: text.replace("\t", " "),
        lambda text: text.replace("\t", "   "),
        lambda text: text.replace("\t", "\t\t", 2),
        lambda text: text.replace("\t", " \t "),
        lambda text: text.replace("\t", " ", 2),
        lambda text: text.replace("\tO", " O ").replace("\nin", "\n  in"),
        lambda text: text.encode("utf-16"),
    ],
)
def test_what_parts_words_lines_and_sentences_does_not_matter(tmp_path, change):
    rows = conll(tmp_path, change(CONLL))
    assert rows.columns == ["words", "tags"] and rows["words"] == SENTENCES and rows["tags"] == TAGS
    assert rows.skipped == {} and rows.repaired == {}


def test_a_row_knows_the_line_of_its_first_word(tmp_path):
    rows = conll(tmp_path, "\n-DOCSTART- O\n\n" + CONLL)
    assert [rows.place(i) for i in range(3)] == [f"{tmp_path / 'a.conll'}, line {line}" for line in (4, 8, 10)]


def test_a_file_with_tabs_may_have_spaces_in_its_words(tmp_path):
    rows = conll(tmp_path, "New York\tB-LOC\nis\tO\n.\u00a0.\tO\n")
    assert rows["words"] == [["New York", "is", ".\u00a0."]]


def test_white_space_other_than_space_and_tab_is_part_of_a_word(tmp_path):
    rows = conll(tmp_path, "a\u00a0b O\n\u2028 O\n\u3000 O\n")
    assert rows["words"] == [["a\u00a0b", "\u2028", "\u3000"]]


def test_a_file_that_can_be_read_both_ways_is_an_error_that_names_both(tmp_path):
    path = write(tmp_path / "a.conll", "EU NNP\tB-ORG\nsay VBZ\tO\n")
    said = refuses("a.conll, line 1: columns that can be read in two ways", data.read_conll, path)
    assert "['EU NNP', 'B-ORG'] by tabs, ['EU', 'B-ORG'] by whitespace" in said
    assert r"`separator='\t'` or `separator=' '`" in said
    assert data.read_conll(path, separator="\t")["words"] == [["EU NNP", "say VBZ"]]
    assert data.read_conll(path, separator=" ")["words"] == [["EU", "say"]]
    assert data.read_conll(path, columns={"pos": 1}, separator=" ")["pos"] == [["NNP", "VBZ"]]
    # If both separators give the same words and tags, either will do.
    assert conll(tmp_path, "EU\t_ _\tO\nsay\t_ _\tO\n")["words"] == [["EU", "say"]]


def test_other_separators_can_be_given(tmp_path):
    assert conll(tmp_path, "a, b | O\nc|B-X\n", separator="|")["words"] == [["a, b", "c"]]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_hashtags_are_words_whatever_the_separator(tmp_path, separator):
    lines = ["# O", "#tag B-X", "## O", "", "#NFL O", "# O"]
    rows = conll(tmp_path, "\n".join(lines).replace(" ", separator))
    assert rows["words"] == [["#", "#tag", "##"], ["#NFL", "#"]]
    assert conll(tmp_path, f"#{separator}O\n")["words"] == [["#"]]


def test_comments_that_cannot_be_words_are_left_out_of_a_file_with_tabs(tmp_path):
    content = "# newdoc\n# text = Ada wrote\n1\tAda\tB-PER\n2\t#\tO\n\n# x\n\n#\tHi\tO\n"
    rows = conll(tmp_path, content, words=1)
    assert rows["words"] == [["Ada", "#"], ["Hi"]] and rows.place(0).endswith("line 3")
    # Errors: a comment inside a sentence, one without the space, and one in a file without tabs.
    wrong, forbids = "wrong number of columns", "a tag that IOB2 forbids"
    for text, line, problem in (
        ("a\tO\n# b c\n", 2, wrong),
        ("a\tO\n# b\n", 2, forbids),
        ("#b\na\tO\nc\tO\n", 1, wrong),
        ("# id = 1\na O\nb O\n", 1, wrong),
        ("# 1\na O\nb O\n", 1, forbids),
    ):
        said = refuses(f"a.conll, line {line}: {problem}", conll, tmp_path, text)
        assert said.endswith("If it is a comment, pass the start of comments: `comments='# '`.")


def test_comments_on_request_are_left_out_but_for_what_may_be_a_word(tmp_path):
    assert conll(tmp_path, "# id = 1\na O\n# x\n#b O\n", comments="# ")["words"] == [["a", "#b"]]
    assert conll(tmp_path, "// x\n//y O Z\na O\n\n// O.\n", comments="//")["words"] == [["a"]]
    assert conll(tmp_path, "# 1\na X\n", comments="# ", scheme=None)["words"] == [["a"]]
    said = refuses("a.conll, line 2: a line that starts like a comment", conll, tmp_path, "a O\n#b B-X\n", comments="#")
    assert "may be the word '#b' with the tag 'B-X'. Pass a longer start of comments" in said


def test_marks_of_documents_are_no_words_and_number_the_documents(tmp_path):
    content = "a O\n-DOCSTART- -X- -X- O\n-DOCSTART- O\n\nb O\n\nc O\n-DOCSTART-\td O\n\n-DOCSTART-\n\n"
    rows = conll(tmp_path, content, document="doc")
    assert rows["words"] == [["a"], ["b"], ["c"]] and rows["doc"] == [0, 1, 1]
    assert conll(tmp_path, content).columns == ["words", "tags"]
    assert conll(tmp_path, "-DOCSTART- O\na O\n\nb O\n", document="doc")["doc"] == [0, 0]
    path = tmp_path / "a.conll"
    assert data.read_conll([path, path], document="doc")["doc"] == [0, 0, 1, 1]
    assert conll(tmp_path, "-DOCSTART-s O\n")["words"] == [["-DOCSTART-s"]]


def test_columns_are_counted_from_either_end_and_further_ones_have_names(tmp_path):
    content = "1 Ada NNP B-NP B-PER\n2 wrote VBD B-VP O\n"
    rows = conll(tmp_path, content, words=1, columns={"pos": 2, "chunk": -2}, document="n")
    assert rows.columns == ["words", "tags", "pos", "chunk", "n"]
    assert rows[0] == {
        "words": ["Ada", "wrote"],
        "tags": ["B-PER", "O"],
        "pos": ["NNP", "VBD"],
        "chunk": ["B-NP", "B-VP"],
        "n": 0,
    }
    assert conll(tmp_path, content, words=-4, tags=3)["tags"] == [["B-NP", "B-VP"]]
    assert conll(tmp_path, content, words=1, tags=2, scheme=None)["tags"] == [["NNP", "VBD"]]
    assert conll(tmp_path, content, words=1, tags=None).columns == ["words"]
    assert conll(tmp_path, "Ada\nwrote\n", tags=None)["words"] == [["Ada", "wrote"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": "0"}, "`words`. Expected the index of a column, an int"),
        ({"tags": True}, "`tags`. Expected the index of a column, an int"),
        ({"words": 2}, "`words`. Expected the index of a column, from -2 to 1. Received: words=2"),
        ({"columns": {"pos": -3}}, "`columns`. Expected the index of a column, from -2 to 1. Received: columns=-3"),
        ({"columns": ["pos"]}, "`columns`. Expected a dict of column name to number"),
        ({"columns": {"tags": 1}}, "`columns`. Expected names other than 'words', 'tags'"),
        ({"document": "words"}, "`document`. Expected a name other than 'words', 'tags'"),
        ({"scheme": "IOB"}, "`scheme`. Expected one of 'IOB1', 'IOB2'"),
        ({"to": "bio"}, "`to`. Expected one of 'IOB1', 'IOB2'"),
        ({"to": "IOB1", "scheme": None}, "`scheme`. Expected the scheme of the file's tags, for `to`"),
        ({"to": "IOB1", "tags": None}, "`to`. Expected None without tags"),
        ({"separator": ""}, "`separator`. Expected a string of at least one character"),
        ({"comments": True}, "`comments`. Expected a string of at least one character"),
        ({"on_error": "drop"}, "`on_error`. Expected one of 'raise', 'skip', 'repair'"),
        ({"encoding": "no"}, "`encoding`"),
    ],
)
def test_arguments_of_the_reader_are_checked(tmp_path, options, message):
    refuses(message, conll, tmp_path, CONLL, **options)


def test_paths_of_the_reader_are_checked(tmp_path):
    refuses("`path`. Expected a path or a list of at least one path", data.read_conll, [])
    with pytest.raises(FileNotFoundError, match=r"no\.conll: no such file"):
        data.read_conll(tmp_path / "no.conll")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\nc O\n", r"line 2: wrong number of columns: 1 instead of 2 by ' ', in 'b'"),
        ("a\nb O\nc O\n", r"line 1: wrong number of columns: 1 instead of 2"),
        ("a\tO\nb\tX\tO\nc d\tO\n", r"line 2: wrong number of columns: 3 instead of 2 by '\t', in 'b\tX\tO'"),
        ("a O\nb X O\nc O\n", r"line 2: wrong number of columns: 3 instead of 2"),
        ("a\tO\n\tO\n", r"line 2: an empty word, in '\tO'"),
        ("a b c\tO\nb c\t\n", r"line 2: an empty tag, in 'b c\t'"),
        (b"a O\nb\xff O\n", r"line 2, column 'words': bytes that are not text in the encoding, in 'b\udcff'"),
    ],
)
def test_a_broken_line_is_an_error_with_its_line_or_its_sentence_is_skipped(tmp_path, content, message):
    said = refuses(f"{tmp_path / 'a.conll'}, {message}", conll, tmp_path, content)
    assert "`on_error='skip'`" in said
    refuses(message, conll, tmp_path, content, on_error="repair")  # which repairs only tags
    more = content + ("\nx y\tO\n" if "\t" in str(content) else "\nx O\n" if isinstance(content, str) else b"\nx O\n")
    with pytest.warns(UserWarning, match=r"a\.conll: skipped 1 broken rows \(1 x .*The first: "):
        rows = conll(tmp_path, more, on_error="skip")
    assert len(rows) == 1 and sum(rows.skipped.values()) == 1 and rows.repaired == {}
    with pytest.raises(ValueError, match=r"no sentence; all were skipped, the first because: .*line \d"):
        conll(tmp_path, content, on_error="skip")


def test_a_file_of_one_column_or_without_sentences_is_an_error(tmp_path):
    said = refuses("line 1: 1 column by ' ', so that words and tags are the same, in 'a'", conll, tmp_path, "a\nb\n")
    assert "`separator=...`; or read a file of words only with `tags=None`" in said
    refuses("a.conll: no sentence.", conll, tmp_path, "-DOCSTART- O\n\n \n")
    refuses("a.conll: the file is empty", conll, tmp_path, "\n\n")


def test_a_tag_that_the_scheme_forbids_is_an_error_with_line_and_the_schemes_that_fit(tmp_path):
    content = "I O\n\nAda I-PER\nmet O\nBob I-PER\nEve B-PER\n"
    said = refuses("a.conll, line 3: a tag that IOB2 forbids: 'I-PER' starts the row", conll, tmp_path, content)
    assert "All the tags fit `scheme='IOB1'`. `on_error='repair'` changes" in said
    assert conll(tmp_path, content, scheme="IOB1", to="BIO")["tags"] == [["O"], ["B-PER", "O", "B-PER", "B-PER"]]
    said = refuses("line 2: a tag that IOB2 forbids", conll, tmp_path, "a B-X\nb I-Y\nc S-Z\n")
    assert "All the tags together fit no scheme. `on_error='repair'`" in said
    said = refuses("line 1: a tag that IOB2 forbids: 'NN' is no tag of IOB2", conll, tmp_path, "a NN\n")
    assert "For tags that mark no spans, such as parts of speech: `scheme=None`" in said
    refuses("line 2: a tag that IOBES forbids: the row ends after", conll, tmp_path, "a B-X\nb I-X\n", scheme="BIOES")


def test_forbidden_tags_are_repaired_and_counted(tmp_path):
    content = "I O\n\nAda I-PER\nL I-PER\nRome I-LOC\n\nx O\ny I-X\n"
    message = (
        r"a\.conll: repaired 3 x a tag that IOB2 forbids\. The first: .*a\.conll, line 3: a tag that IOB2 forbids: 'I-P"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        rows = conll(tmp_path, content, on_error="repair")
    assert caught[0].filename == __file__
    assert rows["tags"] == [["O"], ["B-PER", "I-PER", "B-LOC"], ["O", "B-X"]]
    assert rows.repaired == rows[:1].repaired == {"a tag that IOB2 forbids": 3} and rows.skipped == {}
    path = tmp_path / "a.conll"
    with pytest.warns(UserWarning):
        assert data.read_conll([path, path], on_error="repair").repaired == {"a tag that IOB2 forbids": 6}
    with pytest.warns(UserWarning, match="skipped 2"):
        assert conll(tmp_path, content, on_error="skip")["words"] == [["I"]]


@pytest.mark.parametrize("tag", ["NN", "B", "b-PER", "O-PER", "I-"])
def test_a_tag_of_no_scheme_cannot_be_repaired(tmp_path, tag):
    refuses("line 2: a tag that IOB2 forbids", conll, tmp_path, f"a O\nb {tag}\n", on_error="repair")


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIO", "IOE1", "IOE2", "BIOES", "BILOU"])
def test_a_file_of_any_scheme_is_read_and_converted(tmp_path, scheme):
    bio = [["B-A", "I-A", "B-A", "O", "B-B", "B-A"], ["O", "B-A", "I-A", "I-A"]]
    tags = data.convert_tags(bio, "BIO", scheme)
    content = "\n\n".join("\n".join(f"w {tag}" for tag in row) for row in tags)
    assert conll(tmp_path, content, scheme=scheme)["tags"] == tags
    assert conll(tmp_path, content, scheme=scheme, to="IOB2")["tags"] == bio


def test_the_reader_takes_what_read_takes(tmp_path):
    (tmp_path / "a.conll.gz").write_bytes(gzip.compress(CONLL.encode()))
    with fsspec.open("memory://bucket/a.conll", "wb") as file:
        file.write(CONLL.encode())
    found = data.read_conll([tmp_path / "a.conll.gz", "memory://bucket/a.conll", str(tmp_path / "a.conll.gz")])
    assert found["words"] == SENTENCES * 3 and found.place(3) == "memory://bucket/a.conll, line 1"
    assert conll(tmp_path, "é O\n".encode("latin-1"), encoding="latin-1")["words"] == [["é"]]


@pytest.mark.parametrize(
    ("name", "sentences", "entities"), [("train", 3394, 1975), ("dev", 1009, 836), ("test", 1287, 1079)]
)
def test_wnut17_keeps_its_sentences_and_entities_in_every_scheme(real_data, name, sentences, entities):
    path = real_data / "wnut17" / f"{name}.conll"
    rows = data.read_conll(path)
    content = "".join(
        "".join(f"{w}\t{t}\n" for w, t in zip(row["words"], row["tags"], strict=True)) + "\n" for row in rows
    )
    assert content == path.read_text(encoding="utf-8")
    assert len(rows) == sentences and sum(tag[0] == "B" for row in rows["tags"] for tag in row) == entities
    for scheme in ("IOB1", "BIOES", "BILOU"):
        assert data.convert_tags(data.convert_tags(rows["tags"], "IOB2", scheme), scheme, "IOB2") == rows["tags"]
    assert len(data.tagged(rows).labels) == 13


# === Texts with spans ===

ROWS = [
    {"text": "Ada Lovelace (née Byron) wrote.", "entities": [{"start": 0, "end": 12, "label": "PER"}]},
    {
        "text": "🙂 In Köln, Ada said: Köln!",
        "entities": [
            {"start": 21, "end": 25, "label": "LOC"},
            {"start": 5, "end": 9, "label": "LOC"},
            {"start": 11, "end": 14, "label": "PER"},
        ],
    },
    {"text": "Nothing", "entities": []},
]
WORDS = [
    ["Ada", "Lovelace", "(", "née", "Byron", ")", "wrote", "."],
    ["🙂", "In", "Köln", ",", "Ada", "said", ":", "Köln", "!"],
    ["Nothing"],
]
SPAN_TAGS = [
    ["B-PER", "I-PER", "O", "O", "O", "O", "O", "O"],
    ["O", "O", "B-LOC", "O", "B-PER", "O", "O", "B-LOC", "O"],
    ["O"],
]


def check(rows):
    assert rows.columns == ["text", "words", "tags", "starts", "ends"]
    assert rows["words"] == WORDS and rows["tags"] == SPAN_TAGS
    for row in rows:
        places = zip(row["starts"], row["ends"], strict=True)
        assert [row["text"][start:end] for start, end in places] == row["words"]


def test_spans_are_read_from_files_and_from_python(tmp_path):
    lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ROWS)))
    array = write(tmp_path / "a.json", json.dumps(ROWS, indent=1))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    for rows in (lines, str(array), tmp_path / "a.jsonl.gz", ROWS, data.read(lines), pandas.DataFrame(ROWS)):
        check(data.read_entities(rows))
    assert data.read_entities(lines).place(2) == f"{lines}, line 3"
    both = data.read_entities([lines, array])
    assert len(both) == 6 and both.place(4) == f"{array}, row 1 (counting from 0)"


def renamed(row, text="text", entities="entities", span=lambda each: each):
    return {text: row["text"], entities: [span(each) for each in row["entities"]]}


def test_keys_can_be_named_even_those_inside_of_others():
    def inside(each):
        return {"at": [each["start"], each["end"]], "is": {"label": [each["label"]]}}

    rows = [{"doc": renamed(row, "body", "marks", inside)} for row in ROWS]
    keys = {"text": "doc.body", "entities": "doc.marks", "start": "at.0", "end": "at.1", "label": "is.label"}
    check(data.read_entities(rows, **keys))
    dotted = [{"a.b": row["text"], "entities": row["entities"]} for row in ROWS]
    check(data.read_entities(dotted, "a.b"))


def test_lists_of_start_end_and_label_are_spans():
    rows = [renamed(row, "text", "label", lambda s: [s["start"], s["end"], s["label"]]) for row in ROWS]
    check(data.read_entities(rows, entities="label"))


def test_rows_of_prodigy_are_read_without_those_not_accepted():
    rows = [
        {**renamed(row, entities="spans"), "tokens": [{"text": "x"}], "answer": "accept", "_task_hash": 1}
        for row in ROWS
    ]
    del rows[2]["spans"]
    refused = [{**rows[0], "answer": answer} for answer in ("reject", "ignore", "reject")]
    found = data.read_entities([refused[0], *rows, *refused[1:]], format="prodigy")
    check(found)
    assert found.skipped == {"answer 'reject'": 2, "answer 'ignore'": 1} and found.place(0).startswith(
        "the list, row 1"
    )
    check(data.read_entities([{**row, "spans": row.get("spans", [])} for row in rows], entities="spans"))


def studio(row):
    results = [
        {
            "type": "labels",
            "value": {
                "start": each["start"],
                "end": each["end"],
                "text": row["text"][each["start"] : each["end"]],
                "labels": [each["label"]],
            },
        }
        for each in row["entities"]
    ]
    other = {"type": "choices", "value": {"choices": ["news"]}}
    cancelled = {"was_cancelled": True, "result": [other]}
    return {"id": 7, "data": {"text": row["text"]}, "annotations": [cancelled, {"result": [*results, other]}]}


def test_an_export_of_label_studio_is_read(tmp_path):
    tasks = list(map(studio, ROWS))
    check(data.read_entities(write(tmp_path / "a.json", json.dumps(tasks)), format="label_studio"))
    for task in tasks:
        task["data"]["words"] = task["data"].pop("text")
    message = "row 0 (counting from 0): no 'text' for 'data.text', in {'words': 'Ada"
    refuses(message, data.read_entities, tasks, format="label_studio")
    check(data.read_entities(tasks, "data.words", format="label_studio"))
    flat = [renamed(row, entities="label", span=lambda s: {**s, "labels": [s["label"]]}) for row in ROWS]
    check(data.read_entities(flat, entities="label", label="labels"))  # Label Studio's smaller export


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "row 0 (counting from 0): not one annotation but 0. Keep the one to train on."),
        ({"annotations": [{"result": []}, {"result": []}]}, "not one annotation but 2"),
        ({"annotations": [{}]}, "no 'result' for 'result'"),
        ({"annotations": None}, "no list of annotations: None"),
    ],
)
def test_a_task_of_label_studio_needs_one_annotation(change, message):
    refuses(message, data.read_entities, [{**studio(ROWS[0]), **change}], format="label_studio")


def test_two_labels_of_a_span_are_an_error():
    task = studio(ROWS[0])
    task["annotations"][1]["result"][0]["value"]["labels"] = ["PER", "LOC"]
    message = "row 0 (counting from 0), span 0 (counting from 0): a span whose label is not a string: ['PER', 'LOC']"
    refuses(message, data.read_entities, [task], format="label_studio")


def entities(*spans, text="Ada Lovelace, née Byron.", **options):
    rows = [{"text": "x", "entities": []}, {"text": text, "entities": [list(span) for span in spans]}]
    return data.read_entities(rows, **options)


WHERE = "the list, row 1 (counting from 0), span {} (counting from 0): "


@pytest.mark.parametrize(
    ("spans", "number", "message", "remedy"),
    [
        (
            [(0, 3, "A"), (5, 12, "B")],
            1,
            "a span that cuts a word: 5..12, 'ovelace' (B), of 'Lovelace' at 4..12",
            "`on_error='align'`",
        ),
        ([(0, 6, "A")], 0, "a span that cuts a word: 0..6, 'Ada Lo' (A), of 'Ada Lovelace' at 0..12", "'align'"),
        (
            [(4, 12, "B"), (0, 12, "A")],
            0,
            "a span that overlaps another: 'Lovelace' (B) and 'Ada Lovelace' (A), span 1",
            "'drop'",
        ),
        ([(0, 3, "A"), (0, 3, "A")], 1, "a span that overlaps another: 'Ada' (A) and 'Ada' (A), span 0", "one tag"),
        ([(18, 25, "A")], 0, "a span outside of the text: 18..25 (A), in a text of 24 code points", "code points"),
        ([(-1, 3, "A")], 0, "a span outside of the text: -1..3 (A)", "'drop'"),
        ([(4, 4, "A")], 0, "an empty span: 4..4 (A)", "'drop'"),
        ([(4, 2, "A")], 0, "an empty span: 4..2 (A)", "'drop'"),
        ([(3, 4, "A")], 0, "a span without a word: 3..4, ' ' (A)", "'drop'"),
    ],
)
def test_a_span_that_words_cannot_hold_is_an_error_or_dropped(spans, number, message, remedy):
    said = refuses(WHERE.format(number) + message, entities, *spans)
    assert remedy in said.partition(message)[2]
    with pytest.warns(UserWarning, match=r"read_entities\(.*: repaired 1 x .*, dropped\. The first: the list, row 1"):
        rows = entities(*spans, on_error="drop")
    rest = [span for i, span in enumerate(spans) if i != number]
    assert rows["tags"] == entities(*rest)["tags"] and len(rows) == 2
    [(reason, count)] = rows.repaired.items()
    assert message.startswith(reason.removesuffix(", dropped")) and count == 1
    with pytest.warns(UserWarning, match="skipped 1 broken rows"):
        assert entities(*spans, on_error="skip")["text"] == ["x"]
    if "cuts" not in message:
        refuses(message, entities, *spans, on_error="align")


def test_spans_that_cut_words_are_widened_and_counted_on_request():
    with pytest.warns(
        UserWarning, match=r"repaired 2 x a span that cuts a word, widened\. The first: .*span 1"
    ) as caught:
        rows = entities((18, 23, "B"), (1, 5, "A"), (12, 16, "C"), on_error="align")
    assert caught[0].filename == __file__
    assert rows["tags"][1] == ["B-A", "I-A", "B-C", "I-C", "B-B", "O"]
    assert rows.repaired == {"a span that cuts a word, widened": 2}
    refuses(
        "a span that overlaps another: 'elace' (B) and 'da L' (A)",
        entities,
        (1, 5, "A"),
        (7, 12, "B"),
        on_error="align",
    )


def test_white_space_at_the_ends_of_a_span_cuts_no_word():
    assert entities((3, 13, "A"))["tags"][1] == ["O", "B-A", "I-A", "O", "O", "O"]


def test_texts_can_be_split_at_white_space_alone():
    rows = entities((0, 13, "A"), split="whitespace")
    assert rows["words"][1] == ["Ada", "Lovelace,", "née", "Byron."]
    said = refuses("a span that cuts a word: 0..12", entities, (0, 12, "A"), split="whitespace")
    assert "`split='punctuation'` makes words without the punctuation" in said
    refuses("`split`. Expected one of", entities, split="words")


def test_a_span_must_have_the_text_that_it_says():
    span = {"start": 21, "end": 25, "label": "LOC", "text": "köln "}
    row = {"text": ROWS[1]["text"], "entities": [span]}
    assert data.read_entities([row])["tags"][0].index("B-LOC") == 7
    span.update(start=22, end=26)  # offsets in JavaScript's UTF-16 units
    said = refuses(
        "a span with another text than the one in its place: 'köln ', but 22..26 is 'öln!'", data.read_entities, [row]
    )
    assert "not bytes, nor JavaScript's UTF-16 units (an emoji is two)" in said


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None, "entities": []}, "row 1 (counting from 0), column 'text': no text"),
        ({"text": 7, "entities": []}, "column 'text': a text that is not a string: 7"),
        ({"text": "\ud800", "entities": []}, "column 'text': a text that UTF-8 cannot hold"),
        ({"text": " \n", "entities": []}, r"column 'text': a text without a word: ' \n'"),
        ({"text": "a", "entities": None}, "no list of spans: None. A text without spans has an empty list."),
        ({"text": "a", "entities": {"start": 0}}, "no list of spans: {'start': 0}"),
        (
            {"text": "a", "entities": ["PER"]},
            "span 0 (counting from 0): a span that is neither an object nor a list of",
        ),
        ({"text": "a", "entities": [{"start": 0, "end": 1}]}, "no 'label' for 'label', in {'start': 0, 'end': 1}"),
        ({"text": "a", "entities": [[0, 1, ""]]}, "a span whose label is not a string: ''"),
        ({"text": "a", "entities": [[0, 1.0, "A"]]}, "a span whose start or end is not a whole number: 1.0"),
        ({"text": "a", "entities": [["0", 1, "A"]]}, "a span whose start or end is not a whole number: '0'"),
    ],
)
def test_a_row_that_is_no_text_with_spans_is_an_error_or_skipped(row, message):
    rows = [{"text": "x", "entities": []}, row]
    said = refuses(message, data.read_entities, rows)
    assert said.startswith("the list, row 1 (counting from 0)")
    refuses(message, data.read_entities, rows, on_error="drop")
    with pytest.warns(UserWarning, match="skipped 1 broken rows"):
        found = data.read_entities(rows, on_error="skip")
    assert found["text"] == ["x"] and sum(found.skipped.values()) == 1
    with pytest.raises(ValueError, match=r"at least one row that can be used.*The first fault: the list, row 0"):
        data.read_entities([row], on_error="skip")


def test_arguments_for_spans_are_checked(tmp_path):
    refuses(
        "`column`. Expected the name of a column. Received: column='spans'", data.read_entities, ROWS, entities="spans"
    )
    refuses("`text`. Expected a key, a string", data.read_entities, ROWS, 3)
    refuses("`format`. Expected one of 'prodigy', 'label_studio'", data.read_entities, ROWS, format="spacy")
    refuses("`scheme`. Expected one of", data.read_entities, ROWS, scheme=None)
    refuses("`on_error`. Expected one of 'raise', 'skip', 'drop', 'align'", data.read_entities, ROWS, on_error="repair")
    with pytest.raises(FileNotFoundError):
        data.read_entities(tmp_path / "a.jsonl")
    said = refuses("`rows`. Expected a name that ends in .tsv", data.read_entities, write(tmp_path / "a.conll", CONLL))
    assert "`data.read(path, format='jsonl')`; or a CoNLL file with `data.read_conll(path)`" in said
    refuses("or with `read_conll(path)`", data.tagged, tmp_path / "a.conll")


@st.composite
def texts_with_spans(draw):
    """Draws a text, and spans of whole words that do not overlap."""
    words = draw(st.lists(st.sampled_from(["Ada", "é", "🙂", "東", "a.b", "#x", "née"]), min_size=1, max_size=8))
    gaps = draw(st.lists(st.sampled_from([" ", "  ", "\n"]), min_size=len(words), max_size=len(words)))
    starts = np.cumsum([0, *(len(word) + len(gap) for word, gap in zip(words, gaps, strict=True))])[:-1].tolist()
    spans, at = [], 0
    while at < len(words):
        size = draw(st.integers(0, 3))
        last = min(at + size, len(words))
        if size:
            spans.append([starts[at], starts[last - 1] + len(words[last - 1]), draw(st.sampled_from(["A", "B-x"]))])
        at = last + (0 if size and draw(st.booleans()) else 1)
    return "".join(word + gap for word, gap in zip(words, gaps, strict=True)), spans


@settings(deadline=None, max_examples=60)
@given(texts_with_spans(), st.sampled_from(["IOB1", "IOB2", "IOE1", "IOE2", "BIOES", "BILOU"]))
def test_spans_become_tags_and_the_same_spans_again(row, scheme):
    text, spans = row
    [found] = data.read_entities([{"text": text, "entities": spans[::-1]}], scheme=scheme)
    [tags] = data.convert_tags([found["tags"]], scheme, "BILOU")
    starts = [at for at, tag in zip(found["starts"], tags, strict=True) if tag[0] in "BU"]
    ends = [at for at, tag in zip(found["ends"], tags, strict=True) if tag[0] in "LU"]
    types = [tag[2:] for tag in tags if tag[0] in "BU"]
    assert [list(each) for each in zip(starts, ends, types, strict=True)] == spans


# === Conversions and tag names ===


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from(["O", "U-A", "U-B", "BL-A", "BIL-A", "BL-B"]), max_size=6), max_size=4),
    st.sampled_from(["IOB1", "IOB2", "IOE1", "IOE2", "BIOES"]),
    st.sampled_from(["IOB1", "IOB2", "IOE1", "IOE2", "BIOES"]),
)
def test_tags_come_back_through_any_schemes(pieces, first, second):
    rows = [
        [tag for piece in row for tag in ([piece] if piece == "O" else [f"{p}{piece[-2:]}" for p in piece[:-2]])]
        for row in pieces
    ]
    there = data.convert_tags(data.convert_tags(rows, "BILOU", first), first, second)
    assert data.convert_tags(there, second, "BILOU") == rows


def test_conversion_names_the_row_of_what_it_refuses():
    message = "`sequences`. Expected tags as IOB2 allows them. Received: sequences=['O', 'I-A']. It is in row 1"
    said = refuses(message, data.convert_tags, [["B-A"], ["O", "I-A"]], "IOB2", "BIOES")
    assert "(counting from 0), at index 1: 'I-A' comes after 'O'" in said
    said = refuses("in row 0", data.convert_tags, [["I-A", "B-A"]], "IOB2", "BIOES")
    assert said.endswith("All the tags fit `source='IOB1'`.")
    refuses("a list of tags in every row. Received: sequences='O'", data.convert_tags, ["O", "B-A"], "BIO", "IOB1")
    refuses("tags that are strings. Received: sequences=1. It is in row 0", data.convert_tags, [[1]], "BIO", "IOB1")
    refuses("`source`. Expected one of", data.convert_tags, [["O"]], "BIO2", "IOB1")
    refuses("`target`. Expected one of", data.convert_tags, [["O"]], "BIO", None)
    ragged = tf.ragged.constant([["B-A", "I-A"], ["O"]])
    assert data.convert_tags(ragged, "BIO", "IOB1") == [["I-A", "I-A"], ["O"]]
    assert data.convert_tags([[], np.array(["B-A"])], "BIO", "IOB1") == [[], ["I-A"]]


def test_names_of_tags_are_those_of_all_types_in_the_scheme():
    rows = {"tags": TAGS}
    assert data.tag_names(rows) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    bioes = {"ner": data.convert_tags(TAGS, "BIO", "BIOES")}
    names = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES")]
    assert data.tag_names(bioes, "ner", "BIOES") == names
    assert data.tag_names({"tags": [["VERB", "NOUN"], ["VERB"]]}, scheme=None) == ["NOUN", "VERB"]


def test_names_of_tags_are_refused_where_rows_have_others():
    bioes = {"tags": [["O"], *data.convert_tags(TAGS, "BIO", "BIOES")]}
    said = refuses(
        "the columns, row 1 (counting from 0), column 'tags': 'E-PER', which is not a tag of IOB2",
        data.tag_names,
        bioes,
    )
    assert "All the tags fit `scheme='IOBES'`" in said
    refuses("row 0 (counting from 0), column 'tags': no tag but 'O' in any row", data.tag_names, {"tags": [["O"]]})
    refuses("row 0 (counting from 0), column 'tags': no tags: None", data.tag_names, [{"tags": None}])
    refuses("`column`. Expected the name of a column", data.tag_names, {"ner": TAGS})


# === Datasets ===

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_a_dataset_holds_words_and_tags_by_the_models_labels():
    rows = {"words": SENTENCES, "tags": TAGS}
    made = data.tagged(rows)
    assert made.labels == LABELS and made.skipped == made.repaired == {} and isinstance(made.targets, data.TagsColumn)
    found = [([word.decode() for word in x], y.tolist()) for x, y in made.as_numpy_iterator()]
    assert found == [(words, [LABELS.index(tag) for tag in tags]) for words, tags in zip(SENTENCES, TAGS, strict=True)]
    labels = LABELS[::-1]
    made = data.tagged({"tokens": SENTENCES, "ner": TAGS}, "tokens", "ner", labels=labels)
    assert made.labels == labels
    assert [y.tolist() for _, y in made.as_numpy_iterator()] == [[labels.index(t) for t in tags] for tags in TAGS]


@pytest.mark.parametrize("kind", ["conll", "entities", "dicts", "frame", "bytes", "arrays"])
def test_a_dataset_is_made_of_rows_of_every_kind(tmp_path, kind):
    rows = {
        "conll": lambda: conll(tmp_path, CONLL),
        "entities": lambda: data.read_entities(
            [
                {"text": "Ada Lovelace wrote", "entities": [[0, 12, "PER"]]},
                {"text": "Hello", "entities": []},
                {"text": "in Rome", "entities": [[3, 7, "LOC"]]},
            ]
        ),
        "dicts": lambda: [{"words": w, "tags": t} for w, t in zip(SENTENCES, TAGS, strict=True)],
        "frame": lambda: pandas.DataFrame({"words": SENTENCES, "tags": TAGS}),
        "bytes": lambda: {"words": [[w.encode() for w in row] for row in SENTENCES], "tags": TAGS},
        "arrays": lambda: {"words": [np.array(row) for row in SENTENCES], "tags": [np.array(row) for row in TAGS]},
    }[kind]()
    made = data.tagged(rows)
    assert made.x.to_list() == [[word.encode() for word in row] for row in SENTENCES]
    assert made.y.to_list() == [[LABELS.index(tag) for tag in row] for row in TAGS]


def test_a_dataset_becomes_batches_that_keep_its_labels(tmp_path):
    columns = {"words": data.WordsColumn(tiny.preprocessor(tmp_path))}
    made = data.tagged({"words": SENTENCES, "tags": TAGS})
    for cache in (True, False):
        batches = data.batches(made, columns, 3, shuffle=False, cache=cache)
        [(x, y)] = list(batches)
        assert batches.labels == LABELS and x["word_ids"].shape[0] == 3
        assert y.dtype == tf.int32 and y.to_list() == [[3, 4, 0], [0], [0, 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((["a", "b"], ["O"]), "column 'tags': words and tags that differ in count: 2 and 1, in ['a', 'b'] and ['O']"),
        (([], []), "column 'words': no words: []"),
        ((None, ["O"]), "column 'words': no words: None"),
        ((["a"], []), "column 'tags': no tags: []"),
        (("a b", ["O", "O"]), "column 'words': words that are not a list: 'a b'"),
        ((["a"], "O"), "column 'tags': tags that are not a list: 'O'"),
        ((["a", 1], ["O", "O"]), "column 'words': a word that is not a string, at index 1: 1"),
        ((["a", "\ud800"], ["O", "O"]), "column 'words': a word that UTF-8 cannot hold, at index 1"),
        (
            (["a"], [3]),
            "column 'tags': a tag that is not a string, at index 0: 3. Convert the column to strings first",
        ),
        ((["a"], ["B-Loc"]), "column 'tags': unknown tag 'B-Loc', at index 0. Did you mean 'B-LOC'"),
        ((["a", "b"], ["O", "I-PER"]), "column 'tags': a tag that IOB2 forbids, at index 1: 'I-PER' comes after 'O'"),
        ((["a"], ["NN"]), "column 'tags': a tag that IOB2 forbids, at index 0: 'NN' is no tag of IOB2"),
    ],
)
def test_a_broken_row_is_an_error_with_its_place_or_skipped(row, message):
    rows = [{"words": ["x"], "tags": ["O"]}, {"words": row[0], "tags": row[1]}]
    refuses(f"the list, row 1 (counting from 0), {message}", data.tagged, rows, labels=LABELS)
    if "I-PER" not in message:
        refuses(message, data.tagged, rows, labels=LABELS, on_error="repair")
    with pytest.warns(UserWarning, match=r"tagged\(.*skipped 1 broken rows"):
        made = data.tagged(rows, labels=LABELS, on_error="skip")
    assert made.x.to_list() == [[b"x"]] and sum(made.skipped.values()) == 1
    with pytest.raises(ValueError, match=r"at least one row that can be used.*The first fault: the list, row 0"):
        data.tagged(rows[1:], labels=LABELS, on_error="skip")


def test_tags_of_another_scheme_are_refused_with_the_way_out():
    bioes = {"words": SENTENCES, "tags": data.convert_tags(TAGS, "BIO", "BIOES")}
    said = refuses(
        "row 0 (counting from 0), column 'tags': a tag that IOB2 forbids, at index 1: 'E-PER'", data.tagged, bioes
    )
    assert "All the tags fit `scheme='IOBES'`" in said
    assert data.tagged(bioes, scheme="BIOES").labels[:3] == ["O", "B-LOC", "I-LOC"]
    said = refuses("a tag that IOB2 forbids", data.tagged, bioes, labels=LABELS)
    assert "`data.convert_tags(tags, 'IOBES', 'IOB2')`" in said
    said = refuses(
        "`labels`. Expected tags of IOBES, 'O' among them. Received: labels=",
        data.tagged,
        bioes,
        labels=["O", "L-X"],
        scheme="BIOES",
    )
    assert "Such tags are those of `scheme='BILOU'`" in said
    refuses("`labels`. Expected a list of distinct strings", data.tagged, bioes, labels="O")


def test_a_dataset_of_parts_of_speech_has_no_scheme():
    made = data.tagged({"words": [["a", "b"]], "tags": [["NOUN", "ADJ"]]}, scheme=None)
    assert made.labels == ["ADJ", "NOUN"] and made.y.to_list() == [[1, 0]]


def test_forbidden_tags_of_a_dataset_are_repaired_and_counted():
    rows = {"words": [["a", "b"], ["c"]], "tags": [["I-PER", "I-PER"], ["I-LOC"]]}
    message = r"tagged\(Rows\(2 rows .*repaired 2 x a tag that IOB2 forbids\. The first: the columns, row 0"
    with pytest.warns(UserWarning, match=message) as caught:
        made = data.tagged(rows, labels=LABELS, on_error="repair")
    assert caught[0].filename == __file__
    assert made.y.to_list() == [[3, 4], [1]] and made.repaired == {"a tag that IOB2 forbids": 2} and not made.skipped


def test_tags_of_words_have_no_class_weights():
    refuses("Tags of words have no class weights", data.class_weights, data.tagged({"words": SENTENCES, "tags": TAGS}))


# === The column of a model ===


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([["O"], ["O", "X"]], "`y`. Expected tags as IOB2 allows them. Received: y=['O', 'X']. It is in row 1"),
        ([["O"], ["O", "I-PER"]], "It is in row 1 (counting from 0). At index 1: 'I-PER' comes after 'O'"),
        ([["O"], ["O", "B-Per"]], "one of 5 tags ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER', ...). Received: y='B-Per'"),
        ([["O"], []], "at least one of the tags in every row. Received: y=[]. It is in row 1"),
        ([["O"], [1]], "tags that are strings. Received: y=1. It is in row 1 (counting from 0). At index 0."),
        ([["O"], "O"], "a list of tags in every row. Received: y='O'. It is in row 1"),
        ("O", "a list of tags for each row"),
    ],
)
def test_a_column_of_tags_refuses_what_a_dataset_refuses(tags, message):
    column = data.TagsColumn(LABELS, "BIO")
    assert column.scheme == "IOB2" and column.labels == column.tags == LABELS
    refuses(message, column.read, tags, "y")


def test_a_column_names_the_scheme_that_tags_fit():
    said = refuses("tags as IOB2 allows them", data.TagsColumn(LABELS, "IOB2").read, [["I-PER", "O"]], "y")
    assert "All the tags fit 'IOB1' or 'IOE1'" in said and "`data.convert_tags(tags, 'IOB1', 'IOB2')`" in said
    assert data.TagsColumn(LABELS).read([["I-PER", "O"]], "y").to_list() == [[4, 0]]
    refuses(
        "`tags`. Expected tags of IOBES, 'O' among them. Received: tags='L-X'", data.TagsColumn, ["O", "L-X"], "BIOES"
    )
    refuses("`scheme`. Expected one of", data.TagsColumn, LABELS, "IOB")


class Task:
    """The parts of a tagger that `Gate` uses."""

    def __init__(self, preprocessor):
        self.preprocessor = preprocessor
        self.input = {"token_ids": None}

    def input_columns(self):
        return {"words": data.WordsColumn(self.preprocessor)}

    def target_columns(self):
        return data.TagsColumn(LABELS, "IOB2")


def test_words_and_tags_given_to_fit_must_be_of_one_number(tmp_path):
    task = Task(tiny.preprocessor(tmp_path))
    gate = data.Gate(task)
    form, found = gate.read(SENTENCES, TAGS)
    assert form == "rows" and found.labels == LABELS and found.y.to_list() == [[3, 4, 0], [0], [0, 1]]
    wrong = [TAGS[0], ["O", "O"], TAGS[2]]
    message = "`{}`. Expected 1 tags, one for each word. Received: {}='2 tags'. It is in row 1 (counting from 0)"
    in_y = message.format("y", "y")
    refuses(in_y, gate.read, SENTENCES, wrong)
    refuses(message.format("ner", "ner"), data.examples, {"words": SENTENCES, "ner": wrong}, task, "ner")
    refuses(in_y, gate.encode_batch, (SENTENCES, wrong))
    rows = data.examples({"words": SENTENCES, "ner": TAGS}, task, "ner")
    [(x, y)] = list(gate.ready(data.batches(rows, task, 3, shuffle=False)))
    assert y.numpy().tolist() == [[3, 4, 0], [0, -1, -1], [0, 1, -1]]
    x, y = gate.encode_batch((SENTENCES, TAGS))
    assert y.tolist() == [[3, 4, 0], [0, -1, -1], [0, 1, -1]] and "word_ids" in x
    other = data.tagged({"words": SENTENCES, "tags": TAGS}, labels=LABELS[::-1])
    refuses("`x`. Expected rows whose labels are the model's", gate.read, other)


def test_readers_are_public():
    for name in ("read_conll", "read_entities", "tagged", "tag_names", "convert_tags"):
        assert name in tx.data.__all__
