"""Explanations: their sums, the formula, words and their positions, what must not change them, and what they find.

Reference: a closed form for linear models, and a loop over the path with one text at a time.
"""

import html.parser
import os
import pathlib
import subprocess
import sys
import textwrap

import families
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

import tfxfer as tx

PAIRS = (tiny.TEXTS[:4], tiny.TEXTS[4:])
TRICKY = [
    "naïve CAFÉ, re\u0301sume\u0301 card",
    "罗马 is 龥漢、ありがとう",
    "loan 😀👍🏽 👩\u200d👩\u200d👧 🇩🇪 ﬁne",
    "  two  spaces\tand\nlines. don't",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


def sharpened(model):
    """Gives the model's head weights with which outputs differ between texts; returns the model."""
    kernel = model.linear_head()[1].kernel
    kernel.assign(np.random.default_rng(3).normal(0, 3.0, kernel.shape))
    return model


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return sharpened(tiny.classifier(folder))


@pytest.fixture(scope="module")
def embedder(folder):
    return tiny.embedder(folder)


def log_odds(logits, column):
    rest = np.delete(logits, column)
    return logits[column] - np.logaddexp.reduce(rest)


def values(explanation):
    return [word.value for word in explanation.words]


def check_sums(explanations):
    """Checks that the values of each side and the rest sum to the score minus the baseline, within the error."""
    for each in explanations:
        for side, (baseline, rest) in enumerate(zip(each.baselines, each.rest, strict=True)):
            is_whole = len(each.baselines) == 1
            words = [word.value for word in each.words if is_whole or word.column == side]
            tokens = [token.value for token in each.tokens if is_whole or token.column == side]
            assert sum(words) + rest == pytest.approx(each.score - baseline, abs=each.error + 1e-5)
            assert sum(words) == pytest.approx(sum(tokens), abs=1e-5) or rest
        for part in (*each.words, *each.tokens):
            assert each.texts[part.column][part.start : part.end] == part.text


# === Sums ===


def test_a_label_is_explained_by_its_log_odds(classifier):
    found = classifier.explain(tiny.TEXTS)
    logits = tiny.outputs(classifier, tiny.TEXTS)
    for each, row, text in zip(found, logits, tiny.TEXTS, strict=True):
        best = int(row.argmax())
        assert each.texts == (text,) and each.target == classifier.labels[best] and each.of == "log-odds"
        assert each.score == pytest.approx(log_odds(row, best), abs=1e-4)
    check_sums(found)
    assert [word.text for word in found[0].words] == ["Where", "is", "my", "card", "?"]
    assert not found[5].words and found[5].score == pytest.approx(found[5].baselines[0], abs=1e-5)
    assert max(each.error for each in found) < 1e-3


def test_targets_are_for_all_rows_or_for_each(classifier):
    logits = tiny.outputs(classifier, tiny.TEXTS[:3])
    names = ["other", "card", "loan"]
    for given, expected in (("loan", ["loan"] * 3), (names, names), (np.array(names), names)):
        found = classifier.explain(tiny.TEXTS[:3], given, steps=8)
        assert [each.target for each in found] == expected
        for each, row in zip(found, logits, strict=True):
            assert each.score == pytest.approx(log_odds(row, classifier.labels.index(each.target)), abs=1e-4)


@pytest.mark.slow
def test_several_labels_are_explained_one_by_one(folder):
    model = sharpened(tiny.classifier(folder, multi_label=True))
    found = model.explain(tiny.TEXTS[:3], "loan")
    logits = tiny.outputs(model, tiny.TEXTS[:3])
    assert [each.score for each in found] == pytest.approx(logits[:, 1].tolist(), abs=1e-4)
    check_sums(found)
    with pytest.raises(ValueError, match=r"`target`.*'card', 'loan', 'other'"):
        model.explain(tiny.TEXTS[:3])


@pytest.mark.slow
def test_a_pair_is_explained_in_both_texts_at_once(classifier):
    found = classifier.explain(PAIRS, "card")
    check_sums(found)
    assert {word.column for word in found[0].words} == {0, 1}
    assert [word.text for word in found[0].words if word.column == 1] == ["good", "day", "!"]
    assert len(found[0].baselines) == 1 and found[0].texts == (tiny.TEXTS[0], tiny.TEXTS[4])


@pytest.mark.slow
def test_a_regressor_is_explained_by_its_output(folder):
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder), num_outputs=2)
    sharpened(model)
    expected = tiny.outputs(model, tiny.TEXTS[:3])
    found = model.explain(tiny.TEXTS[:3], 1)
    assert [each.score for each in found] == pytest.approx(expected[:, 1].tolist(), abs=1e-4)
    assert found[0].of == "value" and found[0].target == 1 and "of output 1" in found[0].title()
    check_sums(found)
    with pytest.raises(ValueError, match="`target`"):
        model.explain(tiny.TEXTS[:3])


# === The formula ===


def test_without_blocks_and_with_two_labels_values_have_a_closed_form(folder):
    sizes = {"num_layers": 0, "num_heads": 1, "hidden_dim": 8, "intermediate_dim": 0, "max_sequence_length": 16}
    backbone = tx.backbones.Backbone("static", vocabulary_size=len(tiny.VOCABULARY), **sizes)
    preprocessor = tiny.preprocessor(folder, segment_ids=False, add_special_tokens=False)
    model = sharpened(tx.models.TextClassifier(backbone, preprocessor, labels=["a", "b"]))
    table = np.random.default_rng(1).normal(0, 1, (len(tiny.VOCABULARY), 8))
    backbone.token_embedding.weights[0].assign(table)
    kernel = ops.convert_to_numpy(model.linear_head()[1].kernel)
    text = "my card was lost ?"
    for baseline, stand_in in (("mask", table[4]), ("pad", table[0]), ("unknown", table[1]), ("zero", np.zeros(8))):
        found = model.explain([text], "b", steps=1, baseline=baseline)[0]
        ids = [tiny.VOCABULARY.index(word) for word in text.split()]
        expected = (table[ids] - stand_in) @ (kernel[:, 1] - kernel[:, 0]) / len(ids)
        np.testing.assert_allclose(values(found), expected, atol=1e-5)
        assert found.error < 1e-5


def looped(model, text, column, points):
    """The values of a text's tokens by the midpoint rule, starting at the padding token's embeddings."""
    below, blocks = model.backbone.split(0)
    head = keras.Model([*model.get_layer("pooling").input], model.output)
    x = model.preprocessor([text] * points)
    special = np.isin(x["token_ids"].numpy(), [2, 3])
    states = below(x).numpy()
    base = below({**x, "token_ids": tf.where(special, x["token_ids"], 0)}).numpy()
    shares = np.repeat((np.arange(points) + 0.5) / points, special.shape[1])[:, np.newaxis]
    point = tf.Variable(base + shares * (states - base))
    with tf.GradientTape() as tape:
        logits = head([blocks([point, x["padding_mask"]]), x["padding_mask"]])
        others = tf.concat([logits[:, :column], logits[:, column + 1 :]], axis=1)
        number = logits[:, column] - tf.reduce_logsumexp(others, axis=1)
    slopes = tf.convert_to_tensor(tape.gradient(number, point)).numpy()
    products = (slopes * (states - base)).sum(axis=-1).reshape(points, -1)
    return products.mean(axis=0)[~special[0]]


def test_values_are_those_of_a_loop_over_the_path(classifier):
    text = "The bank losts my money."
    found = classifier.explain([text, *tiny.TEXTS], "loan")[0]
    np.testing.assert_allclose([t.value for t in found.tokens], looped(classifier, text, 1, 200), atol=2e-4)
    pieces = [token.value for token in found.tokens if token.text in ("lost", "s")]  # two tokens, one word
    assert len(pieces) == 2 and found.words[2].text == "losts"
    assert found.words[2].value == pytest.approx(sum(pieces), abs=1e-6)


def test_more_steps_make_the_error_smaller_where_asked(classifier):
    with pytest.warns(UserWarning, match="off by more than 0.0001"):
        few = classifier.explain(tiny.TEXTS, steps=1, tolerance=1e-4)
    more = classifier.explain(tiny.TEXTS, steps=1, max_steps=64, tolerance=1e-3)
    assert max(each.error for each in more) < max(each.error for each in few)
    assert few[0].steps == 1 and {each.steps for each in more} > {1}


# === What must not change explanations ===


def check_same(explanations, others):
    for one, other in zip(explanations, others, strict=True):
        np.testing.assert_allclose(values(one), values(other), atol=2e-5)
        falls = [[word.erased for word in each.words] for each in (one, other)]
        np.testing.assert_allclose(*falls, atol=2e-5)


def test_neighbours_order_and_padding_change_nothing(classifier):
    together = classifier.explain(tiny.TEXTS, erasure=True)
    alone = [classifier.explain([text], erasure=True, batch_size=5)[0] for text in tiny.TEXTS[:3]]
    check_same(together[:3], alone)
    check_same(together, classifier.explain(tiny.TEXTS[::-1], erasure=True)[::-1])


@pytest.mark.slow
def test_the_side_of_the_padding_changes_nothing(classifier, folder):
    preprocessor = tiny.preprocessor(folder, padding_side="left")
    left = tx.models.TextClassifier(classifier.backbone, preprocessor, labels=classifier.labels)
    left.set_weights(classifier.get_weights())
    check_same(classifier.explain(tiny.TEXTS, erasure=True), left.explain(tiny.TEXTS, erasure=True))


def test_a_frozen_encoder_has_gradients_too(classifier):
    before = values(classifier.explain(tiny.TEXTS[:1])[0])
    classifier.backbone.trainable = False
    np.testing.assert_allclose(values(classifier.explain(tiny.TEXTS[:1])[0]), before, atol=1e-6)
    classifier.backbone.trainable = True
    assert np.abs(before).max() > 1e-3


@pytest.mark.slow
def test_new_weights_are_explained_at_once(classifier, folder):
    model = sharpened(tiny.classifier(folder))
    before = values(model.explain(tiny.TEXTS[:1], "card")[0])
    dense = model.linear_head()[1]
    dense.kernel.assign(-dense.kernel)
    after = model.explain(tiny.TEXTS[:1], "card")[0]
    assert after.score == pytest.approx(log_odds(tiny.outputs(model, tiny.TEXTS[:1])[0], 0), abs=1e-4)
    assert not np.allclose(before, values(after))


def test_no_rows_give_no_explanations(classifier, embedder):
    assert classifier.explain([]) == [] and embedder.explain([], []) == []


# === Erasure ===


def test_erasing_a_word_is_reading_the_text_without_it(classifier):
    text = "The bank lost my cards."
    found = classifier.explain([text], "loan", erasure=True)[0]
    for word in found.words:
        rest = f"{text[: word.start]} {text[word.end :]}"
        expected = log_odds(tiny.outputs(classifier, [rest])[0], 1)
        assert word.erased == pytest.approx(found.score - expected, abs=1e-4), word
    falls = [word.erased for word in found.words]
    ranks = [np.argsort(np.argsort(each)) for each in (values(found), falls)]
    assert found.agreement == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert classifier.explain(["cost"], erasure=True)[0].agreement is None
    assert classifier.explain([text])[0].words[0].erased is None


# === Words ===


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "roberta",
                "xlm_roberta",
                "gpt2",
                "t5",
                "qwen3",
                "gemma3",
                "deberta_v3",
                "openai_gpt",
                "modernbert",
                "mpnet",
            )
        ),
    ],
)
def test_every_kind_of_tokenizer_gives_words_of_the_users_string(golden, name):
    kind = next(kind for kind, names in families.SETS.items() if name in names)
    source = golden / kind / name
    model = tx.models.TextClassifier.from_preset(source, labels=["a", "b"], backbone_only=True, sequence_length=48)
    found = model.explain(TRICKY, "a", steps=4, max_steps=256)
    check_sums(found)
    assert {"naïve", "CAFÉ", ",", "re\u0301sume\u0301"} <= {word.text for word in found[0].words}
    assert {"罗", "马", "is", "龥"} <= {word.text for word in found[1].words}
    assert "loan" in {word.text for word in found[2].words}
    assert {"two", "spaces", "lines", "don't"} <= {word.text for word in found[3].words}
    assert found[4].words == []
    coarse = model.explain(TRICKY, "a", steps=4, max_steps=256, split="whitespace")
    assert "CAFÉ," in {word.text for word in coarse[0].words}


def test_words_that_are_cut_off_are_left_out(classifier):
    found = classifier.explain(["my card " * 20], "card")[0]
    assert [word.text for word in found.words] == ["my", "card"] * 7  # sixteen tokens, two of them special


# === Two texts encoded separately ===


@pytest.mark.parametrize(
    "name", ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dot", "euclidean", "manhattan"))]
)
def test_a_similarity_is_explained_on_both_sides(folder, name):
    model = tiny.embedder(folder, similarity_fn_name=name, normalize=name != "dot")
    found = model.explain(*PAIRS, max_steps=1024, tolerance=0.02, erasure=True)
    expected = np.diag(model.similarity(model.encode(PAIRS[0]), model.encode(PAIRS[1])))
    assert [each.score for each in found] == pytest.approx(expected.tolist(), abs=1e-4)
    check_sums(found)
    rest = model.encode([PAIRS[0][0].replace("Where ", ""), PAIRS[1][0]])
    fall = expected[0] - model.similarity(rest[:1], rest[1:])[0, 0]
    assert found[0].words[0].erased == pytest.approx(fall, abs=1e-4)
    assert {word.column for word in found[0].words} == {0, 1} and found[0].target is None


@pytest.mark.slow
def test_a_prompt_is_no_word_and_may_be_left_out_of_the_pooling(folder):
    prompts = {"query": "my bank: "}
    for include in (True, False):
        model = tiny.embedder(folder, prompts=prompts, default_prompt_name="query", include_prompt=include)
        found = model.explain(tiny.TEXTS[0], tiny.TEXTS[1])[0]
        vectors = model.encode(tiny.TEXTS[:2])
        assert found.score == pytest.approx(model.similarity(vectors[0], vectors[1])[0, 0], abs=1e-4)
        assert found.texts == (tiny.TEXTS[0], tiny.TEXTS[1])
        assert [word.text for word in found.words][:5] == ["Where", "is", "my", "card", "?"]
        assert found.words[0].start == 0
        check_sums([found])
    plain = model.explain(tiny.TEXTS[0], tiny.TEXTS[1], prompt=("", "my bank: "))[0]
    vectors = model.encode(tiny.TEXTS[0], prompt=""), model.encode(tiny.TEXTS[1], prompt="my bank: ")
    assert plain.score == pytest.approx(model.similarity(*vectors)[0, 0], abs=1e-4)


@pytest.mark.slow
def test_towers_explain_their_similarity_or_their_class(embedder):
    siamese = tx.models.Siamese(embedder)
    assert siamese.explain(*PAIRS)[0].score == pytest.approx(embedder.explain(*PAIRS)[0].score, abs=1e-6)
    keras.utils.set_random_seed(0)
    model = tx.models.SiameseClassifier(embedder, labels=["x", "y", "z"], features=("u", "v", "u*v"))
    found = model.explain(PAIRS, "y")
    logits = model.predict(PAIRS, verbose=0)
    assert [each.score for each in found] == pytest.approx([log_odds(row, 1) for row in logits], abs=1e-4)
    check_sums(found)
    turned = model.explain(PAIRS[::-1], "y")
    assert not np.allclose(values(found[0]), values(turned[0])[::-1], atol=1e-6)  # the sides differ


# === What cannot be explained ===


@pytest.mark.parametrize(
    ("arguments", "kwargs", "said"),
    [
        ((["a card"], "nothing"), {}, "`target`.*'card'"),
        ((["a card"], True), {}, "`target`"),
        ((["a card", "b"], ["card"]), {}, "2 rows"),
        ((["a", "b"], ["card", "cards"]), {}, "row 1"),
        (("a card",), {}, "`x`.*list"),
        (([1],), {}, "strings"),
        ((["a"],), {"steps": 0}, "`steps`"),
        ((["a"],), {"steps": 8, "max_steps": 4}, "`max_steps`"),
        ((["a"],), {"tolerance": 0.0}, "`tolerance`"),
        ((["a"],), {"baseline": "blank"}, "`baseline`"),
        ((["a"],), {"split": "letters"}, "`split`"),
        ((["a"],), {"erasure": "yes"}, "`erasure`"),
        ((["a"],), {"batch_size": 0}, "`batch_size`"),
    ],
)
def test_what_cannot_be_explained_is_an_error(classifier, arguments, kwargs, said):
    with pytest.raises(ValueError, match=said):
        classifier.explain(*arguments, **kwargs)


def test_models_of_other_outputs_or_inputs_say_that_they_are_not_explained(folder, embedder):
    with pytest.raises(ValueError, match=r"`b`.*as many texts"):
        embedder.explain(["a", "b"], ["a"])
    for model in (tiny.tagger(folder), tiny.masked(folder)):
        with pytest.raises(ValueError, match="`model`"):
            model.explain(tiny.TEXTS[:1])
    mixed = tx.models.MultimodalRegressor(tiny.backbone(), tiny.preprocessor(folder), columns=tiny.columns())
    with pytest.raises(ValueError, match="only texts"):
        mixed.explain(tiny.TEXTS[:1])


class Nearness(tx.models.TextRegressor):
    """A user's own task, which explains the square of its output."""

    def explained(self):
        return tx.models.Explained("square", lambda outputs, _: ops.square(outputs[:, 0]), ["square"], None)


@pytest.mark.slow
def test_a_users_task_says_what_is_explained(folder):
    model = sharpened(Nearness(tiny.backbone(), tiny.preprocessor(folder)))
    found = model.explain(tiny.TEXTS[:2], "square")
    expected = np.square(tiny.outputs(model, tiny.TEXTS[:2])[:, 0])
    assert [each.score for each in found] == pytest.approx(expected.tolist(), abs=1e-4)
    check_sums(found)


# === Views ===

EVIL = "</script><b onclick='x'>\"card\" & \u202eloan \x1b[31m"


class Reader(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_html_shows_the_text_as_it_is_and_no_more(classifier):
    found = classifier.explain([EVIL], "card", erasure=True)[0]
    page = Reader(found.to_html())
    assert EVIL in page.text and {tag for tag, _ in page.tags} == {"div", "small", "span"}
    assert found._repr_html_() == found.to_html()
    marked = [attrs for tag, attrs in page.tags if tag == "span"]
    assert len(marked) == len(found.words)
    assert all(attrs["title"].startswith(f"{w.value:+.4f}") for attrs, w in zip(marked, found.words, strict=True))
    assert any("isolate" in attrs.get("style", "") for tag, attrs in page.tags)


def test_a_terminal_gets_colours_only_where_it_is_one(classifier):
    found = classifier.explain([EVIL], "card")[0]
    for color in (None, False):
        shown = found.to_terminal(color)
        assert "\x1b" not in shown and "\u202e" not in shown and "card[" in shown
    shown = found.to_terminal(True)
    assert "\x1b[31m" not in shown and shown.count("\x1b[30;48;5;") == shown.count("\x1b[0m") > 0
    largest = found.top(1)[0]
    assert f"{largest.text}[{largest.value:+.2f}]" in found.to_terminal(False)
    assert abs(largest.value) == max(map(abs, values(found)))


# === Other forms of models ===


@pytest.mark.slow
def test_half_precision_saved_models_and_adapters_are_explained(folder, tmp_path):
    model = sharpened(tiny.classifier(folder, dtype="mixed_bfloat16"))
    found = model.explain(tiny.TEXTS, tolerance=1.0)
    assert all(np.isfinite(values(each)).all() for each in found)
    model = sharpened(tiny.classifier(folder))
    before = model.explain(tiny.TEXTS, "loan")
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for same in (
        keras.saving.load_model(tmp_path / "model.keras"),
        tx.models.TextClassifier.from_preset(tmp_path / "preset"),
    ):
        for one, other in zip(before, same.explain(tiny.TEXTS, "loan"), strict=True):
            np.testing.assert_allclose(values(one), values(other), atol=1e-5)
    tx.freezing.add_lora(model, rank=2)
    np.testing.assert_allclose(values(model.explain(tiny.TEXTS, "loan")[0]), values(before[0]), atol=1e-5)
    tx.freezing.merge_lora(model)
    model.quantize("int8")
    assert np.isfinite(values(model.explain(tiny.TEXTS, "loan")[0])).all()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mlp", "densely", "convolutions"])
def test_heads_that_read_several_blocks_or_tokens_are_explained(folder, head):
    heads = {
        "mlp": "mlp",
        "densely": tx.layers.DenselyConnectedHead(3, "ladder", reduction=2),
        "convolutions": tx.layers.SeparableConvHead(3, (2, 3), 4),
    }
    keras.utils.set_random_seed(0)
    backbone = tiny.backbone(num_layers=2)
    model = tx.models.TextClassifier(backbone, tiny.preprocessor(folder), labels=["a", "b", "c"], head=heads[head])
    found = model.explain(tiny.TEXTS, "b", max_steps=1024)
    logits = tiny.outputs(model, tiny.TEXTS)
    assert [each.score for each in found] == pytest.approx([log_odds(row, 1) for row in logits], abs=1e-4)
    check_sums(found)


@pytest.mark.slow
def test_a_backbone_of_keras_hub_is_explained_and_erased_only_where_masks_hold(folder):
    import keras_hub

    for name in ("OPTBackbone", "FNetBackbone"):
        sizes = {"vocabulary_size": 40, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 16}
        sizes |= {"num_heads": 2} if name == "OPTBackbone" else {}
        hub = getattr(keras_hub.models, name)(**sizes, max_sequence_length=32)
        model = tx.models.TextClassifier(hub, tiny.preprocessor(folder), labels=["a", "b"])
        found = model.explain(tiny.TEXTS, "a", max_steps=512)
        check_sums(found)
        if name == "FNetBackbone":
            with pytest.raises(ValueError, match="`erasure`"):
                model.explain(tiny.TEXTS, "a", erasure=True)
        else:
            assert model.explain(tiny.TEXTS[:1], "a", erasure=True, max_steps=512)[0].words[0].erased is not None


@pytest.mark.slow
def test_jax_explains_as_tensorflow_does(classifier, embedder, tmp_path):
    classifier.save(tmp_path / "model.keras")
    embedder.save(tmp_path / "embedder.keras")
    found = classifier.explain(tiny.TEXTS, "loan", erasure=True)
    np.save(tmp_path / "values.npy", [word.value for each in found for word in each.words])
    np.save(tmp_path / "erased.npy", [word.erased for each in found for word in each.words])
    np.save(tmp_path / "pairs.npy", [word.value for each in embedder.explain(*PAIRS) for word in each.words])
    code = f"""
        import keras, numpy as np, tiny, tfxfer as tx
        folder = {str(tmp_path)!r}
        model = keras.saving.load_model(folder + "/model.keras")
        found = model.explain(tiny.TEXTS, "loan", erasure=True)
        for name in ("value", "erased"):
            expected = np.load(f"{{folder}}/{{name}}s.npy" if name == "value" else folder + "/erased.npy")
            made = [getattr(word, name) for each in found for word in each.words]
            np.testing.assert_allclose(made, expected, atol=1e-4)
        embedder = keras.saving.load_model(folder + "/embedder.keras")
        pairs = (tiny.TEXTS[:4], tiny.TEXTS[4:])
        made = [word.value for each in embedder.explain(*pairs) for word in each.words]
        np.testing.assert_allclose(made, np.load(folder + "/pairs.npy"), atol=1e-4)
        dense = model.linear_head()[1]
        dense.kernel.assign(-dense.kernel)
        turned = model.explain(tiny.TEXTS[:1], "loan")[0]
        assert abs(turned.score - found[0].score) > 1e-3  # weights of the moment, not of the trace
    """
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


# === Real texts ===


@pytest.mark.slow
def test_planted_words_come_first_and_random_weights_do_not_find_them(minilm_folder, real_data):
    import random

    def planted(rows, seed):
        draw, found, labels = random.Random(seed), [], []
        for row in rows:
            labels.append(draw.choice("ab"))
            words = row.split()
            words.insert(draw.randint(0, len(words)), {"a": "velvet", "b": "copper"}[labels[-1]])
            found.append(" ".join(words))
        return found, labels

    rows = {part: list(tx.data.read(real_data / "banking77" / f"{part}.tsv")["text"]) for part in ("train", "test")}
    draw = random.Random(0)
    texts, labels = planted(draw.sample(rows["train"], 300), 1)
    keras.utils.set_random_seed(0)
    model = tx.models.TextClassifier.from_preset(minilm_folder, labels=["a", "b"], sequence_length=48)
    tx.freezing.probe(model, texts, labels)
    texts, labels = planted(draw.sample(rows["test"], 60), 2)
    assert model.classify(texts).labels == labels

    def first(found):
        return np.mean([max(each.words, key=lambda w: w.value).text in ("velvet", "copper") for each in found])

    found = model.explain(texts, labels)
    assert first(found) >= 0.95
    off = [each.error / sum(abs(token.value) for token in each.tokens) for each in found]
    assert np.mean(off) < 0.01
    # Adebayo et al., 2018: an explanation that random weights also give would say nothing about the model.
    shuffle = np.random.default_rng(0)
    model.backbone.set_weights(
        [shuffle.permutation(w.reshape(-1)).reshape(w.shape) for w in model.backbone.get_weights()]
    )
    assert first(model.explain(texts, labels, tolerance=100.0)) < 0.5
