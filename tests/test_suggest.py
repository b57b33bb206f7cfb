"""Suggesting texts to label next: their uncertainty, their diversity, and the supported input."""

import weakref

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

POOL = [f"{a} {b} {c}" for a in ("my card", "the loan", "a bank") for b in ("was", "is") for c in tiny.WORDS.split()]
PAIRS = (POOL, POOL[::-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("suggest")


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return tiny.classifier(folder)


@pytest.fixture(scope="module")
def taggers(folder):
    keras.utils.set_random_seed(0)
    made = {head: tiny.tagger(folder, head=head) for head in ("linear", "crf")}
    return {**made, "plain": tiny.tagger(folder, tags=["X", "Y", "Z"], scheme=None)}


def means(model, texts):
    """Returns the mean token vector of each text, scaled to length 1."""
    return tx.models.TextEmbedder(model.backbone, model.preprocessor).encode(texts)


def chosen_by_loops(vectors, weights, count):
    """Chooses in each step the text that adds most to the weighted closeness of all texts to the chosen ones."""
    closeness, chosen = np.maximum(vectors @ vectors.T, 0.0), []
    for _ in range(count):
        totals = []
        for j in range(len(vectors)):
            best = closeness[:, [*chosen, j]].max(axis=1)
            totals.append(-1.0 if j in chosen else sum(w * c for w, c in zip(weights, best, strict=True)))
        chosen.append(int(np.argmax(totals)))
    return chosen


# === Uncertainty ===


def test_a_classifier_doubts_by_the_margin_of_its_two_best_labels(classifier):
    found = classifier.suggest(POOL, len(POOL))
    ordered = np.sort(classifier.classify(POOL).probabilities, axis=1)
    expected = 1 - (ordered[:, -1] - ordered[:, -2])
    assert sorted(each.index for each in found) == list(range(len(POOL)))
    for index, text, score in found:
        assert text == POOL[index] and score == pytest.approx(expected[index], abs=1e-5)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_with_several_labels_the_label_nearest_to_a_half_counts(folder):
    model = tiny.classifier(folder, multi_label=True)
    expected = 1 - 2 * np.abs(model.classify(POOL[:9]).probabilities - 0.5).min(axis=1)
    for index, _, score in model.suggest(POOL[:9], 9):
        assert score == pytest.approx(expected[index], abs=1e-5)


@pytest.mark.parametrize("head", ["linear", "crf"])
def test_a_tagger_doubts_by_its_least_sure_entity_or_else_tag(taggers, head):
    tagger = taggers[head]
    texts = [*tiny.WORDS.split(), *POOL[:20]]  # many texts of one word have no entity, few of four words
    tagger.head.denses[-1].bias.assign([2.0, 0, 0, 0, 0])
    entities, words = tagger.extract(texts), [text.split() for text in texts]
    least = [float(row.max(axis=1).min()) for row in tagger.probabilities(words)]
    found = tagger.suggest(texts, 99)
    assert len(found) == len(texts) and 5 < sum(map(bool, entities)) < len(texts) - 5
    for index, text, score in found:
        sure = min((each.probability for each in entities[index]), default=least[index])
        assert text == texts[index] and score == pytest.approx(1 - sure, abs=1e-5)


def test_a_tagger_without_a_scheme_doubts_by_its_least_sure_tag(taggers):
    words = [text.split() for text in POOL[:9]]
    expected = [1 - float(row.max(axis=1).min()) for row in taggers["plain"].probabilities(words)]
    for index, text, score in taggers["plain"].suggest(words, 9):
        assert text == words[index] and score == pytest.approx(expected[index], abs=1e-5)


def test_a_whole_long_text_is_doubted(taggers):
    rows = [["day"] * 60, ["day"] * 60 + ["bank"] * 40]  # longer than the model's sequence length
    entities = taggers["linear"].spans(rows)
    for index, _, score in taggers["linear"].suggest(rows, 2):
        if entities[index]:
            assert score == pytest.approx(1 - min(span.probability for span in entities[index]), abs=1e-5)


# === Selection ===


@pytest.mark.parametrize("budget", [1, 4, 9])
def test_the_most_doubtful_are_candidates_and_the_choice_covers_them(classifier, taggers, budget):
    for model in (classifier, taggers["linear"]):
        scores = {each.index: each.score for each in model.suggest(POOL, len(POOL))}
        candidates = sorted(scores, key=lambda i: (-scores[i], i))[: 10 * budget]
        vectors = means(model, [POOL[i] for i in candidates])  # tokenizing word by word gives the same tokens here
        expected = chosen_by_loops(vectors, [scores[i] for i in candidates], budget)
        assert [each.index for each in model.suggest(POOL, budget)] == [candidates[i] for i in expected]


def test_texts_come_in_any_form(classifier):
    expected = classifier.suggest(POOL, 3)
    assert classifier.suggest(np.array(POOL), 3) == expected == classifier.suggest(tuple(POOL), 3)
    for texts in (iter(POOL), (text.encode() for text in POOL)):
        found = classifier.suggest(texts, 3)
        assert [each[:2] for each in found] == [each[:2] for each in expected]
        np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], atol=1e-6)


def test_pairs_are_suggested_as_pairs(classifier):
    found = classifier.suggest(PAIRS, 3)
    assert all(text == (POOL[i], POOL[::-1][i]) for i, text, _ in found)
    assert classifier.suggest(zip(*PAIRS, strict=True), 3) == found


def test_a_tagger_takes_texts_and_words(taggers):
    texts = taggers["linear"].suggest(POOL, 3)
    words = taggers["linear"].suggest([text.split() for text in POOL], 3)
    assert [each.index for each in words] == [each.index for each in texts]
    assert [each.text for each in words] == [each.text.split() for each in texts]
    assert taggers["linear"].suggest((text.split() for text in POOL), 3) == words


def test_equal_texts_are_suggested_once_and_empty_ones_never(classifier, taggers):
    texts = ["", "my card", "  \n", "my card", "the loan", "", "my card"]
    for model in (classifier, taggers["linear"]):
        for given in (texts, iter(texts)):
            assert sorted(each[:2] for each in model.suggest(given, 5)) == [(1, "my card"), (4, "the loan")]
        assert model.suggest(["", " "], 2) == model.suggest([], 2) == model.suggest(iter([]), 2) == []
    assert classifier.suggest((["", "a"], ["", ""]), 5)[0].index == 1, "a pair is empty if both texts are"
    assert taggers["linear"].suggest([[], [""], ["\u200b"], ["card"]], 5)[0].index == 3
    assert len(taggers["linear"].suggest([[], [""], ["\u200b"], ["card"]], 5)) == 1


class Text(str):
    """A string that supports weak references."""

    __slots__ = ("__weakref__",)


def test_of_a_long_stream_candidates_alone_are_kept_each_once(classifier):
    words = tiny.WORDS.split()
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words][:5000] + POOL
    alive, most = weakref.WeakSet(), []

    def stream():
        for text in texts:
            alive.add(made := Text(text))
            yield made
            del made
            most.append(len(alive))

    found = classifier.suggest(stream(), 3, batch_size=1024)
    assert max(most) < 0.9 * len(texts) and len({each.text for each in found}) == 3
    expected = classifier.suggest(texts, 3, batch_size=1024)
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    everything = classifier.suggest(texts, 9999, batch_size=1024)
    assert sorted(each.index for each in everything) == [i for i, t in enumerate(texts) if t not in texts[:i]]


def test_a_sure_model_still_spreads_its_choice(folder):
    model = tiny.classifier(folder)
    model.head.denses[-1].bias.assign([1e4, 0, 0])
    found = model.suggest(POOL, 3)
    assert [each.score for each in found] == [0, 0, 0]
    assert [each.index for each in found] == chosen_by_loops(means(model, POOL[:30]), np.ones(30), 3)


@pytest.mark.parametrize(
    ("kind", "texts", "budget", "named"),
    [
        ("classifier", POOL, 0, "`budget`"),
        ("classifier", POOL, 2.0, "`budget`"),
        ("classifier", "a text", 2, "`texts`"),
        ("classifier", {"a": 1}, 2, "`texts`"),
        ("classifier", ["a", None], 2, "`texts`.*row 1"),
        ("classifier", (each for each in ["a", 3]), 2, "`texts`.*row 1"),
        ("classifier", (each for each in [("a", "b"), "ab"]), 2, "`texts`.*row 1"),
        ("classifier", (["a"], ["b", "c"]), 2, "`texts`"),
        ("linear", "a text", 2, "`texts`"),
        ("linear", ["a", ["b"]], 2, "`texts`.*row 1"),
        ("linear", [["a"], ["b", 3]], 2, "`texts`.*row 1"),
        ("linear", (each for each in [{"words": ["a"]}]), 2, "`texts`.*row 0"),
    ],
)
def test_what_cannot_be_chosen_from_is_an_error(classifier, taggers, kind, texts, budget, named):
    with pytest.raises(ValueError, match=named):
        (classifier if kind == "classifier" else taggers[kind]).suggest(texts, budget)


def test_models_that_cannot_say_how_sure_they_are_are_errors(folder):
    model = tx.models.TextClassifier(tiny.backbone(), labels=["a", "b"])
    with pytest.raises(ValueError, match=r"`texts`.*model\.preprocessor"):
        model.suggest(["a"], 1)
    broken = tiny.classifier(folder)
    broken.head.denses[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match=r"`model`.*finite"):
        broken.suggest(["a card"], 1)


def test_one_label_leaves_no_doubt_and_half_precision_is_no_matter(folder):
    assert tiny.classifier(folder, labels=["a"]).suggest(POOL[:3], 2)[0].score == 0
    half = tiny.classifier(folder, dtype="mixed_bfloat16").suggest(POOL[:30], 2)
    assert all(0 <= each.score <= 1 for each in half) and len(half) == 2


@pytest.mark.slow
def test_labels_that_are_suggested_teach_more_than_random_ones(minilm_folder, real_data):
    """Adds 77 labels to 154 on Banking77; compares the mean accuracies over two seeds."""
    rows = {name: tx.data.read(real_data / "banking77" / f"{name}.tsv") for name in ("train", "test")}
    labels = sorted(set(rows["train"]["label"]))
    texts, names = rows["train"]["text"], rows["train"]["label"]
    scores = {"suggested": [], "random": []}
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(texts))[:1500]
        first, pool = order[:154], order[154:]
        model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=labels, sequence_length=64)
        tx.freezing.probe(model, [texts[i] for i in first], [names[i] for i in first])
        chosen = model.suggest([texts[i] for i in pool], 77)
        for kind, more in (("suggested", [pool[each.index] for each in chosen]), ("random", pool[:77])):
            taught = [*first, *more]
            tx.freezing.probe(model, [texts[i] for i in taught], [names[i] for i in taught])
            found = model.classify(rows["test"]["text"][:1000]).labels
            scores[kind].append(np.mean([a == b for a, b in zip(found, rows["test"]["label"], strict=False)]))
            keras.backend.clear_session()
    assert np.mean(scores["suggested"]) > np.mean(scores["random"]) + 0.03, scores
