"""The characters that tokens cover, compared with the reference's offsets and with `tokenizers`.

Reference: golden/families_words and golden/families2 (transformers 5.24.0, tokenizers 0.23.3), and the installed
`tokenizers` on the texts below. Offsets here exclude whitespace around a token; in the reference, only RoBERTa's do.
"""

import json
import pathlib

import families
import numpy as np
import pytest
import tensorflow as tf
import tiny
import tokenizers

# Private: offsets must also be correct for normalizations that no checkpoint uses.
from tfxfer.preprocessing import Tokenizer, _aligned, token_offsets

TRICKY = [
    "",
    "  ",
    "Hello\n world\t(x) ",
    "naïve CAFÉ, Ünïcödé İstanbul ẞ",
    "re\u0301sume\u0301 n\u0303o",
    "罗马 is 龥漢、ありがとう 한국어",
    "zero\u200bwidth \u00adsoft\ufeff \x00nul \x7f",
    "😀👍🏽 👩\u200d👩\u200d👧 🇩🇪 ﬁne ①½",
    "don't U.S.A. 3.14 -- ''quoted''",
    "Straße ΣΟΦΟΣ \ufffd ▁under▁score",
]


def trimmed(text, start, end):
    part = text[start:end]
    start = min(start + len(part) - len(part.lstrip()), end)
    return start, max(end - len(text[start:end]) + len(text[start:end].rstrip()), start)


@pytest.fixture(scope="module")
def tokenizer(golden):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Tokenizer.from_folder(families.folder(golden, name))
        return made[name]

    return get


def spans(tokenizer, texts):
    found = token_offsets(tokenizer, texts)
    starts, ends = found.starts.to_list(), found.ends.to_list()
    return found.token_ids.to_list(), [list(zip(*pair, strict=True)) for pair in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("name", families.NAMES)
def test_offsets_are_the_references(golden, tokenizer, name):
    texts = json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]
    folder = families.folder(golden, name)
    file = pathlib.Path(golden / "families_words" / f"{name}.npz") if "families2" not in str(folder) else None
    with np.load(folder / "expected.npz") as own, np.load(file or folder / "expected.npz") as words:
        if "offsets" not in words:
            pytest.skip("the reference's offsets are not shipped")
        ids, mask, offsets = own["input_ids"], own["attention_mask"], words["offsets"]
    before = [item[0] for item in tokenizer(name).spec.single].index("A")
    after = len(tokenizer(name).spec.single) - before - 1
    found_ids, found = spans(tokenizer(name), texts)
    for row, text in enumerate(texts):
        stop = mask[row].sum() - after
        assert ids[row, before:stop].tolist() == found_ids[row][: max(stop - before, 0)]
        expected = [trimmed(text, *map(int, span)) for span in offsets[row, before:stop]]
        assert found[row][: len(expected)] == expected


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta_v3", "gemma3", "modernbert"])
def test_offsets_are_those_of_tokenizers_on_tricky_texts(golden, tokenizer, name):
    reference = tokenizers.Tokenizer.from_file(str(families.folder(golden, name) / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    reference.encode_special_tokens = True
    texts = [text for text in TRICKY if name == "bert" or "\u0301" not in text]  # see the next test
    ids, found = spans(tokenizer(name), texts)
    for text, own_ids, own, expected in zip(
        texts, ids, found, reference.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        assert own_ids == expected.ids
        assert own == [trimmed(text, *span) for span in expected.offsets], text


def test_a_letter_keeps_its_mark_where_both_become_one_character(tokenizer):
    # `tokenizers` leaves the mark out: it gives (0, 1) for the bytes of "é".
    _, found = spans(tokenizer("modernbert"), ["e\u0301a"])
    assert found[0][0] == (0, 2) and found[0][-1] == (2, 3)


def test_special_and_added_tokens_cover_themselves(tmp_path):
    made = tiny.tokenizer(tmp_path)
    made.add_tokens(["Card Bank", "<x>"])
    texts = ["the CARD  bank<x>my [MASK] card", "<x><x>", "[MASK]"]
    ids, found = spans(made, texts)
    names = [[made.id_to_token(i) for i in row] for row in ids]
    assert [texts[0][start:end] for start, end in found[0]][:4] == ["the", "CARD", "bank", "<x>"]
    assert names[0][3] == "<x>" and found[1] == [(0, 3), (3, 6)]
    ids, found = spans(made, ["a card bank, a [mask]"])
    assert [made.id_to_token(i) for i in ids[0]][:3] == ["a", "Card Bank", ","] and found[0][1] == (2, 11)
    made.special_tokens_in_strings = True
    ids, found = spans(made, texts)
    assert [made.id_to_token(i) for i in ids[0]][-2:] == ["[MASK]", "card"]
    assert [texts[0][start:end] for start, end in found[0]][-2:] == ["[MASK]", "card"] and found[2] == [(0, 6)]


def test_runs_of_spaces_that_are_tokens_cover_nothing(tokenizer):
    ids, found = spans(tokenizer("modernbert"), ["a   b"])
    assert [tokenizer("modernbert").id_to_token(i) for i in ids[0]] == ["a", "   ", "b"]
    assert found[0] == [(0, 1), (4, 4), (4, 5)]


def test_a_text_whose_tokens_are_not_in_it_is_an_error_with_its_row(tmp_path, monkeypatch):
    made = tiny.tokenizer(tmp_path)
    wrong = tf.ragged.constant([[made.token_to_id("card")], [made.token_to_id("bank")]], dtype=tf.int32)
    monkeypatch.setattr(made, "tokenize", lambda texts: wrong)
    with pytest.raises(ValueError, match=r"`texts`.*tokens can be found.*'a loan'.*row 1"):
        token_offsets(made, ["my card"[3:], "a loan"])
    with pytest.raises(ValueError, match="`texts`"):
        token_offsets(made, [3])
    with pytest.raises(ValueError, match=r"`tokenizer`.*Tokenizer"):
        token_offsets("bert", ["a"])


@pytest.mark.parametrize(
    ("text", "pattern", "content", "expected"),
    [
        ("--abc++", "abc", "X", [(0, 1), (1, 2), (2, 5), (5, 6), (6, 7)]),
        ("xaby", "ab", "a_b", [(0, 1), (1, 2), (1, 2), (2, 3), (3, 4)]),
        ("ab", "ab", "", []),
        ("ababa", "aba", "X", [(0, 3), (3, 4), (4, 5)]),
        ("e\u0301x", "e\u0301", "é", [(0, 2), (2, 3)]),  # a character includes its marks
    ],
)
def test_what_is_not_normalized_by_character_is_of_all_that_it_may_be_made_of(text, pattern, content, expected):
    found = _aligned.through(
        [_aligned.Aligned.of(text)], lambda texts: tf.strings.regex_replace(texts, pattern, content)
    )
    assert list(zip(found[0].starts, found[0].ends, strict=True)) == expected
    assert found[0].text == text.replace(pattern, content)
