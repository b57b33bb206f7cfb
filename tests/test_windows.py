"""Long rows of words are split into windows in which every word has context."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data
from tfxfer.preprocessing import windows

WORDS = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=12)
run = tf.function(
    windows,
    input_signature=[
        tf.RaggedTensorSpec([None, None, None], tf.int32, 2),
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([], tf.int64),
    ],
    autograph=False,
)


def cut(rows, room, stride):
    """Applies `windows` to rows of words, each a list of ids; returns lists."""
    words = [word for row in rows for word in row]
    flat = tf.constant([piece for word in words for piece in word], tf.int32)
    inner = tf.RaggedTensor.from_row_lengths(flat, tf.constant([len(word) for word in words], tf.int64))
    pieces = tf.RaggedTensor.from_row_lengths(inner, tf.constant([len(row) for row in rows], tf.int64))
    return [part.to_list() for part in run(pieces, tf.constant(room, tf.int64), tf.constant(stride, tf.int64))]


@given(st.lists(WORDS, min_size=1, max_size=3), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=80)
def test_every_word_stands_whole_in_the_window_that_answers_it(rows, room, drawn):
    stride = drawn.draw(st.integers(1, room))
    pieces, numbers, places = cut(rows, room, stride)
    assert all(sum(map(len, window)) <= room for window in pieces)
    for row, number, place in zip(rows, numbers, places, strict=True):
        is_long = sum(map(len, row)) > room
        assert is_long or len(set(number)) <= 1
        for word, window, at in zip(row, number, place, strict=True):
            assert pieces[window][at] == (word[: room - stride + 1] if is_long else word)


def test_a_word_is_answered_where_its_poorer_side_has_most_context():
    room, stride, count = 8, 3, 40
    _, [numbers], [places] = cut([[[i] for i in range(count)]], room, stride)
    last = -(-(count - room) // stride)
    for word, (number, place) in enumerate(zip(numbers, places, strict=True)):
        sizes = {k: min(room, count - k * stride) for k in range(last + 1)}
        holding = [k for k in sizes if 0 <= word - k * stride < sizes[k]]

        def poorer(k, word=word):
            left = np.inf if k == 0 else word - k * stride
            return min(left, np.inf if k == last else k * stride + room - 1 - word)

        assert number in holding and place == word - number * stride
        assert poorer(number) >= max(map(poorer, holding)) - 1


def test_runner_gives_the_scores_of_each_row_whatever_its_neighbours(tmp_path):
    tagger = tiny.tagger(tmp_path)
    rows = [["my", "card"] * 20, ["bank"], ["\u200b"], ["loan", "\u200b", "day"]]
    words = tagger.input_columns()["words"].read(rows, "x")
    runner = data.WordRunner(tagger, tagger.preprocessor, 14, 7)
    together = runner(words).rows()
    for i, scores in enumerate(together):
        np.testing.assert_allclose(runner(words[i : i + 1]).rows()[0], scores, atol=1e-5)
        assert len(scores) == len(rows[i])
    assert not together[2].any() and not together[3][1].any() and together[3][0].any()


def test_what_is_far_away_changes_no_answer(tmp_path):
    tagger = tiny.tagger(tmp_path)
    row = ["my", "card", "was", "lost", "in", "the", "bank"] * 12
    runner = data.WordRunner(tagger, tagger.preprocessor, 14, 7)
    read = tagger.input_columns()["words"].read
    alone = runner(read([row], "x")).rows()[0]
    longer = runner(read([row + ["loan"] * 30], "x")).rows()[0]
    np.testing.assert_allclose(longer[: len(row) - 14], alone[: len(row) - 14], atol=1e-5)


@pytest.mark.parametrize("stride", [1, 3, 14])
def test_any_stride_answers_every_word(tmp_path, stride):
    tagger = tiny.tagger(tmp_path, stride=stride)
    assert [len(row) for row in tagger.predict([["card"] * 50, ["day"]])] == [50, 1]
    tagger.stride = 15
    with pytest.raises(ValueError, match=r"`stride`.*from 1 to 14"):
        tagger.tag([["card"]])
