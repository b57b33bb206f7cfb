"""Splitting raw texts into words, and the position of each word."""

import itertools
import unicodedata

import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfxfer.preprocessing import split_words

ENGLISH = "Anna's U.S. trip (3.14 km), e.g. by x-ray — “to @user's #tag...!!” costs 5%."
WORDS = {
    ENGLISH: "Anna 's U.S. trip ( 3.14 km ) , e.g. by x-ray — “ to @user 's #tag ... !! ” costs 5 % .".split(),
    "http://a.b/c?d=1, AT&T don't a@b.c": "http://a.b/c?d=1 , AT&T don't a@b.c".split(),
    "'tis 'quoted' dogs' __init__ @ # @@ ...": "' tis ' quoted ' dogs ' __init__ @ # @@ ...".split(),
    "我爱北京。OK": ["我", "爱", "北", "京", "。", "OK"],
    "東京タワー": list("東京タワー"),
    "สวัสดี": ["ส", "วั", "ส", "ดี"],
    "नमस्ते दुनिया।": ["नमस्ते", "दुनिया", "।"],
    "cafe\u0301 e\u0301te\u0301!": ["cafe\u0301", "e\u0301te\u0301", "!"],
    "👨‍👩‍👧👍🏽🇩🇪🇫🇷 London😀": ["👨‍👩‍👧", "👍🏽", "🇩🇪", "🇫🇷", "London", "😀"],
    "a\u00a0b\u3000c\u2028d\te\u200bf": ["a", "b", "c", "d", "e\u200bf"],
    "": [],
    " \n\u3000": [],
    "\u0301a": ["\u0301a"],
}


def split(text, **options):
    """The words of one text as strings."""
    return [word.decode() for word in split_words([text], **options).words.to_list()[0]]


@pytest.mark.parametrize("text", WORDS)
def test_words_are_those_that_people_see(text):
    assert split(text) == WORDS[text]


def test_white_space_alone_leaves_punctuation_in_words():
    assert split("“London,” 我爱OK x-ray.", split="whitespace") == ["“London,”", "我", "爱", "OK", "x-ray."]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4), st.booleans())
@example(["a", "", " 'x'", "\U0001f1e9"], True)
@example(["👍", "🏽", "\u200d"], True)
@settings(deadline=None, max_examples=100)
def test_places_are_those_of_the_words_and_what_is_left_is_space(texts, by_punctuation):
    found = split_words(texts, "punctuation" if by_punctuation else "whitespace")
    for text, *columns in zip(texts, *(part.to_list() for part in found), strict=True):
        data, covered, end = text.encode(), [False] * len(text), 0
        for word, start, stop, first, last in zip(*columns, strict=True):
            assert text[start:stop].encode() == data[first:last] == word
            assert end <= start < stop
            end = stop
            covered[start:stop] = [True] * (stop - start)
        assert all(character.isspace() for character, known in zip(text, covered, strict=True) if not known)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=40)
def test_the_words_of_a_text_do_not_depend_on_its_neighbours(first, second):
    assert split_words([first, second]).words.to_list() == [
        each for text in (first, second) for each in split_words([text]).words.to_list()
    ]


def test_a_mark_never_begins_a_word_but_at_the_start_of_a_text_or_after_space():
    text = "".join(chr(c) for c in range(0x20, 0x3000) if unicodedata.category(chr(c)) != "Cs")
    spaces = [c.isspace() for c in text]
    for start in itertools.chain(*split_words([text]).starts.to_list()):
        assert not unicodedata.category(text[start]).startswith("M") or start == 0 or spaces[start - 1]


def test_bytes_that_are_no_utf8_are_one_character_each():
    found = split_words(tf.constant([b"a\xff b", b"\xc3"]))
    assert found.words.to_list() == [[b"a", b"\xef\xbf\xbd", b"b"], [b"\xef\xbf\xbd"]]
    assert found.byte_starts.to_list() == [[0, 1, 3], [0]]
    assert found.byte_ends.to_list() == [[1, 2, 4], [1]]


def test_it_runs_in_a_graph_on_texts_of_any_number():
    run = tf.function(split_words, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    assert run(tf.constant(["a b", ""])).words.to_list() == [[b"a", b"b"], []]
    assert run(tf.constant([], tf.string)).words.to_list() == []


def test_other_ways_to_split_and_other_inputs_are_refused():
    with pytest.raises(ValueError, match=r"`split`.*'punctuation', 'whitespace'"):
        split_words(["a"], "sentences")
    with pytest.raises(ValueError, match="`texts`"):
        split_words([1])
