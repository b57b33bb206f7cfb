"""Hard negatives, compared with a naive loop."""

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfxfer import data, models, search


class Places:
    """Embeds a text, which is a number, as that point on a line."""

    prompts = {}

    def encode(self, texts, **kwargs):
        return np.array([[float(text.rstrip("abc"))] for text in texts])


def mine(pairs, corpus=None, **kwargs):
    """Negatives by distance on the line, as tuples."""
    rows = search.hard_negatives(Places(), pairs, corpus, similarity="euclidean", **kwargs)
    return list(zip(rows["anchor"], rows["positive"], rows["negative"], strict=True))


def naive(pairs, corpus, num_negatives, ranks, absolute=None, relative=None, low=-np.inf, high=np.inf):
    """Every step of the definition as a loop."""
    found = []
    for anchor, positive in zip(*pairs, strict=True):
        excluded = {anchor} | {p for a, p in zip(*pairs, strict=True) if a == anchor}
        near = sorted(corpus, key=lambda text: (abs(float(text) - float(anchor)), corpus.index(text)))
        near = [text for text in near if text not in excluded][ranks[0] : ranks[1]]
        limit = -abs(float(positive) - float(anchor))
        kept = []
        for text in near:
            score = -abs(float(text) - float(anchor))
            if not low <= score <= high:
                continue
            if absolute is not None and score > limit - absolute:
                continue
            if relative is not None and score > limit - relative * abs(limit):
                continue
            kept.append(text)
        found += [(anchor, positive, text) for text in kept[:num_negatives]]
    return found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.lists(st.integers(0, 20), min_size=3, max_size=20, unique=True),
    st.integers(1, 4),
    st.tuples(st.integers(0, 2), st.integers(1, 9)),
    st.sampled_from([{}, {"absolute": 1.0}, {"relative": 0.5}, {"absolute": 2.0, "relative": 0.1}, {"high": -2.0}]),
)
def test_negatives_equal_a_loop(rows, corpus, num_negatives, ranks, bounds):
    ranks = (ranks[0], ranks[0] + ranks[1])
    pairs = tuple([str(value) for value in column] for column in zip(*rows, strict=True))
    corpus = [str(value) for value in corpus]
    expected = naive(pairs, corpus, num_negatives, ranks, **bounds)
    arguments = {
        {"absolute": "absolute_margin", "relative": "relative_margin", "high": "max_score"}[key]: value
        for key, value in bounds.items()
    }
    if expected:
        assert mine(pairs, corpus, num_negatives=num_negatives, ranks=ranks, **arguments) == expected
    else:
        with pytest.raises(ValueError, match="Widen `ranks`"):
            mine(pairs, corpus, num_negatives=num_negatives, ranks=ranks, **arguments)


def test_scores_stand_beside_the_texts_and_what_is_left_out_is_counted():
    pairs = data.pairs({"q": ["0", "10"], "a": ["1", "12"]}, ("q", "a"))
    rows = search.hard_negatives(Places(), pairs, similarity="euclidean", max_score=-11)
    assert dict(rows[0]) == {
        "anchor": "0", "positive": "1", "negative": "12", "positive_score": -1.0, "negative_score": -12.0
    }  # fmt: skip
    assert len(rows) == 1 and rows.skipped == {"too few negatives": 1}
    assert next(data.triplets(rows, ("anchor", "positive", "negative")).as_numpy_iterator())[0] == (b"0", b"1", b"12")


def test_wide_rows_have_a_column_for_each_negative():
    pairs, corpus = (["0", "20"], ["1", "21"]), ["2", "3", "4", "21"]
    rows = search.hard_negatives(
        Places(), pairs, corpus, similarity="euclidean", num_negatives=3, layout="wide", min_score=-17
    )
    assert rows.columns[:5] == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert rows[0]["negative_3"] == "4" and rows[0]["negative_3_score"] == -4.0
    assert len(rows) == 1 and rows.skipped == {"too few negatives": 1}
    data.triplets(rows, rows.columns[:5])


def test_random_negatives_are_repeatable_and_within_the_ranks():
    pairs, corpus = (["0"] * 30, [str(100 + i) for i in range(30)]), [str(i) for i in range(1, 60)]
    first = mine(pairs, corpus, ranks=(5, 15), sampling="random", num_negatives=2)
    assert first == mine(pairs, corpus, ranks=(5, 15), sampling="random", num_negatives=2, seed=0)
    assert first != mine(pairs, corpus, ranks=(5, 15), sampling="random", num_negatives=2, seed=1)
    assert {negative for *_, negative in first} == {str(i) for i in range(6, 16)}
    assert all(a[2] != b[2] for a, b in zip(first[::2], first[1::2], strict=True))


def test_scorer_judges_order_bounds_and_margins(tmp_path):
    pairs, corpus = (["0"], ["5"]), ["1", "2", "3", "5", "8"]

    def scorer(queries, documents):
        return [{"1": 9.0, "2": 0.5, "3": 1.0, "5": 2.0}[text] for text in documents]

    rows = search.hard_negatives(
        Places(),
        pairs,
        corpus,
        similarity="euclidean",
        ranks=(0, 3),
        scorer=scorer,
        relative_margin=0.1,
        num_negatives=3,
    )
    assert (
        rows["negative"] == ["3", "2"] and rows["negative_score"] == [1.0, 0.5] and rows["positive_score"] == [2.0] * 2
    )
    embedder, regressor = tiny.embedder(tmp_path), models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    rows = search.hard_negatives(embedder, (tiny.TEXTS[:4], tiny.TEXTS[4:]), scorer=regressor)
    assert len(rows) == 4
    expected = regressor.predict((rows["anchor"], rows["negative"]), verbose=0)[:, 0]
    np.testing.assert_allclose(rows["negative_score"], expected, atol=1e-5)


def test_prompts_go_before_anchors_and_texts():
    class Prompted(Places):
        prompts = {"query": "q", "passage": "p"}
        seen = []

        def encode(self, texts, prompt=None, **kwargs):
            self.seen.append((prompt, list(texts)))
            return super().encode(texts)

    embedder = Prompted()
    search.hard_negatives(embedder, (["1"], ["2"]), ["3", "4"])
    assert embedder.seen == [("q", ["1"]), ("p", ["3", "4", "2"])]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pairs": (["1"], ["2", "3"])}, "`pairs`.*equal length"),
        ({"pairs": ["1", "2"]}, "`pairs`"),
        ({"corpus": []}, "`corpus`.*at least one"),
        ({"ranks": (3, 3)}, "`ranks`"),
        ({"ranks": (9, 12)}, "low rank < 2"),
        ({"ranks": 5}, "two ints"),
        ({"num_negatives": 0}, "`num_negatives`"),
        ({"absolute_margin": -1.0}, "`absolute_margin`"),
        ({"relative_margin": 1.5}, "`relative_margin`"),
        ({"sampling": "best"}, "`sampling`"),
        ({"layout": "square"}, "`layout`"),
        ({"scorer": lambda a, b: [1.0]}, "`scorer`.*one finite number"),
        ({"scorer": 3}, "`scorer`"),
        ({"corpus": ["1", "2"]}, "Widen `ranks`"),
    ],
)
def test_bad_input_is_an_error(changed, said):
    arguments = {"pairs": (["1"], ["2"]), "corpus": ["3", "4"], **changed}
    with pytest.raises(ValueError, match=said):
        search.hard_negatives(Places(), arguments.pop("pairs"), arguments.pop("corpus"), **arguments)
