"""`TokenTagger`: words to tags, texts to entities with their offsets, in Python and from the export."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx
from tfxfer import data, export, models, preprocessing

WORDS = [
    ["my", "card", "was", "lost"],
    ["the", "bank", "lost", "my", "money", "!"],
    ["good", "day"],
    ["\u200b", "card"],
]
TAGS = [
    ["O", "B-thing", "O", "O"],
    ["O", "B-place", "O", "B-thing", "I-thing", "O"],
    ["O", "O"],
    ["O", "B-thing"],
]
TEXTS = [
    "My card was lost, the bank (my bank!) lost the money.",
    "",
    "  \n ",
    "the bank lost my cards. " * 30,
    "👨‍👩‍👧 my cafe\u0301 — 我的 card\u200b ไทย 🇩🇪bank",
    "😀" * 200,
    "card",
]
HEADS = ("linear", "crf")


@pytest.fixture(scope="module", params=HEADS)
def tagger(request, tmp_path_factory):
    """A tagger with random weights, which finds many entities."""
    return tiny.tagger(tmp_path_factory.mktemp("tagger"), head=request.param)


@pytest.fixture(scope="module", params=HEADS)
def trained(request, tmp_path_factory):
    """A tagger that has memorized four rows."""
    keras.utils.set_random_seed(0)
    preprocessor = tiny.preprocessor(tmp_path_factory.mktemp("trained"))
    model = models.TokenTagger(tiny.backbone(), preprocessor, tags=tiny.TAGS, head=request.param)
    model.compile(keras.optimizers.Adam(0.03))
    model.fit(WORDS, TAGS, batch_size=4, epochs=25, verbose=0, seed=0)
    return model


# === Training ===


def test_it_learns_tags_and_gives_them_for_words_and_for_texts(trained, tmp_path):
    assert trained.tag(WORDS) == TAGS
    found = trained.extract(["the bank lost my money!"])[0]
    assert [(e.label, e.start, e.end, e.text) for e in found] == [
        ("place", 4, 8, "bank"),
        ("thing", 14, 22, "my money"),
    ]
    assert all(0.3 < entity.probability <= 1 for entity in found)
    # With a CRF, the accuracy is that of the likeliest tag of each word by its emissions only.
    assert trained.evaluate(WORDS, TAGS, verbose=0)[1] >= (1.0 if trained.crf is None else 0.8)
    trained.temperature = 1.5
    trained.save(tmp_path / "tagger.keras")
    again = keras.models.load_model(tmp_path / "tagger.keras")
    assert again.extract(TEXTS) == trained.extract(TEXTS) and again.temperature == 1.5
    trained.save_to_preset(tmp_path / "folder")
    again = models.TokenTagger.from_preset(tmp_path / "folder")
    assert again.extract(TEXTS) == trained.extract(TEXTS)
    np.testing.assert_allclose(
        again.evaluate(WORDS, TAGS, verbose=0), trained.evaluate(WORDS, TAGS, verbose=0), atol=1e-6
    )
    with pytest.warns(UserWarning, match="head"):
        other = models.TokenTagger.from_preset(tmp_path / "folder", tags=["O", "B-x", "I-x"])
    assert other.tags == ["O", "B-x", "I-x"]


def test_words_without_a_token_count_for_no_loss(tmp_path):
    model = tiny.tagger(tmp_path)
    model.compile()
    with_word = model.evaluate([["\u200b", "card", "\u200b"]], [["B-thing", "O", "B-place"]], verbose=0)
    without = model.evaluate([["card"]], [["O"]], verbose=0)
    np.testing.assert_allclose(with_word, without, atol=1e-6)
    cut = model.evaluate([["card"] * 40], [["O"] * 14 + ["B-thing"] * 26], verbose=0)
    np.testing.assert_allclose(cut, model.evaluate([["card"] * 14], [["O"] * 14], verbose=0), atol=1e-6)


def test_pipelines_with_tags_by_name_are_read(tmp_path):
    model = tiny.tagger(tmp_path)
    model.compile()
    expected = model.evaluate(WORDS, TAGS, verbose=0)

    def rows(tags):
        ragged = tuple(tf.ragged.constant(each) for each in (WORDS, tags))
        return tf.data.Dataset.from_tensor_slices(ragged)

    np.testing.assert_allclose(model.evaluate(rows(TAGS).ragged_batch(4), verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(model.evaluate(rows(TAGS), verbose=0), expected, atol=1e-5)
    for wrong, match in (
        ([*TAGS[:3], ["O", "B-none"]], "Unknown tags"),
        ([*TAGS[:3], ["O"]], "a tag for each word"),
        ([["O"] * 9, *TAGS[1:]], "a tag for each word"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=match):
            model.evaluate(rows(wrong).ragged_batch(4), verbose=0)


def test_rows_in_every_form_give_the_same(tagger):
    expected = tagger.tag(WORDS)
    batches = data.batches((WORDS,), tagger, 2, shuffle=False)
    assert [row[: len(words)] for row, words in zip(tagger.tag(batches), WORDS, strict=True)] == expected
    rows = data.tagged({"words": WORDS, "tags": TAGS}, labels=tagger.tags)
    assert tagger.tag(rows) == expected
    assert [row for part in tagger.tag(iter(WORDS)) for row in part] == expected
    assert tagger.tag({"words": WORDS}) == expected
    assert tagger.tag([]) == []


@pytest.mark.parametrize("scheme", ["IOB2", "IOBES", "BILOU"])
def test_the_scheme_is_never_broken(tmp_path, scheme):
    rows = [["B-a", "I-a", "I-a", "B-a", "O", "B-b", "I-b", "I-b", "B-b"]]
    tags = data.tag_names({"tags": data.convert_tags(rows, "IOB2", scheme)}, scheme=scheme)
    words = [np.random.default_rng(i).choice(tiny.WORDS.split(), 9).tolist() for i in range(20)]
    for head in HEADS:
        found = tiny.tagger(tmp_path, tags=tags, scheme=scheme, head=head).tag(words)
        # Conversion raises for tags that the scheme forbids.
        assert data.convert_tags(found, scheme, scheme) == found
        assert len({tag for row in found for tag in row}) > len(tags) / 2


def test_tags_without_a_scheme_are_tags(tmp_path):
    model = tiny.tagger(tmp_path, tags=["noun", "verb"], scheme=None)
    assert {tag for row in model.tag(WORDS) for tag in row} <= {"noun", "verb"}
    path = export.saved_model(model, tmp_path / "export")
    found = tf.saved_model.load(path).signatures["tag"](text=tf.constant([" ".join(row) for row in WORDS[:3]]))
    for row, (words, tags) in enumerate(zip(WORDS[:3], model.tag(WORDS[:3]), strict=True)):
        assert [word.decode() for word in found["texts"].numpy()[row, : len(words)]] == words
        assert [tag.decode() for tag in found["labels"].numpy()[row, : len(words)]] == tags
        assert found["counts"].numpy()[row] == len(words)
    with pytest.raises(ValueError, match=r"`scheme`.*marks entities.*Use `tag`"):
        model.extract(["a"])


# === Entities ===


def test_entities_stand_where_they_say_in_any_script(tagger):
    found = tagger.extract(TEXTS)
    assert sum(map(len, found)) > 20
    for text, entities in zip(TEXTS, found, strict=True):
        assert [entity.text for entity in entities] == [text[entity.start : entity.end] for entity in entities]
        assert all(a.end <= b.start for a, b in itertools.pairwise(entities))
    assert found[1] == found[2] == []


def test_entities_are_those_of_the_words(tagger):
    for text in TEXTS:
        words = [word.decode() for word in preprocessing.split_words([text]).words.to_list()[0]]
        starts = preprocessing.split_words([text]).starts.to_list()[0]
        if not words:
            continue
        tags = tagger.tag([words])[0]
        begins = [starts[i] for i, tag in enumerate(tags) if tag.startswith("B-")]
        assert [entity.start for entity in tagger.extract([text])[0]] == begins


def test_a_stream_of_texts_gives_an_iterator_of_the_same(tagger):
    found = tagger.extract(iter(TEXTS))
    assert iter(found) is found
    assert list(found) == tagger.extract(TEXTS)
    assert tagger.extract([]) == [] and list(tagger.extract(iter([]))) == []
    with pytest.raises(ValueError, match=r"`texts`.*strings.*row 1"):
        list(tagger.extract(iter(["a", 5])))
    with pytest.raises(ValueError, match=r"`texts`.*row 1"):
        tagger.extract(["a", None])


def test_probabilities_are_those_of_the_best_tags(tmp_path):
    linear, crf = (tiny.tagger(tmp_path, head=head) for head in HEADS)
    words = [["my", "card", "was", "lost"]]
    scores = linear.predict(words)[0]
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear.probabilities(words)[0], softmax, atol=1e-6)
    for entity in linear.extract(["my card was lost"])[0]:
        places = [i for i, word in enumerate(words[0]) if entity.start <= "my card was lost".index(word) < entity.end]
        tags = [linear.tags.index(tag) for tag in np.array(linear.tag(words)[0])[places]]
        assert entity.probability == pytest.approx(np.prod(softmax[places, tags]), rel=1e-4)
    # For the CRF, enumerate all sequences.
    found = crf.extract(["my card was lost"])[0]
    scores, (transitions, start, end) = crf.predict(words)[0], map(np.asarray, crf.crf.potentials())
    paths = np.stack(np.meshgrid(*[range(5)] * 4, indexing="ij"), -1).reshape(-1, 4)
    total = start[paths[:, 0]] + end[paths[:, -1]] + scores[np.arange(4), paths].sum(axis=1)
    total = total + transitions[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    weights = np.exp(total - total.max()) / np.exp(total - total.max()).sum()
    best = crf.tag(words)[0]
    assert [crf.tags[i] for i in paths[weights.argmax()]] == best
    spans = [i for i, tag in enumerate(best) if tag.startswith("B-")]
    for first, entity in zip(spans, found, strict=True):
        last = first
        while last + 1 < 4 and best[last + 1].startswith("I-"):
            last += 1
        wanted = [crf.tags.index(tag) for tag in best[first : last + 1]]
        right = (paths[:, first : last + 1] == wanted).all(axis=1)
        if last + 1 < 4:
            right &= ~np.isin(paths[:, last + 1], [crf.tags.index(tag) for tag in crf.tags if tag[0] == "I"])
        assert entity.probability == pytest.approx(weights[right].sum(), rel=1e-4)


def test_calibration_finds_the_likeliest_temperature_and_changes_no_tag(trained):
    tags = [["B-thing", *row[1:]] if i == 2 else row for i, row in enumerate(TAGS)]  # some are wrong
    before = trained.tag(WORDS)
    found = trained.calibrate(WORDS, tags)
    assert found == trained.temperature and trained.tag(WORDS) == before
    losses = []
    for temperature in (found / 1.2, found, found * 1.2):
        scores = [np.asarray(row, "float64") / temperature for row in trained.predict(WORDS)]
        if trained.crf is None:
            logs = [row - np.log(np.exp(row).sum(axis=1, keepdims=True)) for row in scores]
            index = [[trained.tags.index(tag) for tag in row] for row in tags]
            losses.append(
                -sum(
                    log[i, tag]
                    for words, log, row in zip(WORDS, logs, index, strict=True)
                    for i, tag in enumerate(row)
                    if words[i] != "\u200b"
                )
            )
        else:
            losses.append(_crf_loss(trained, temperature, tags))
    assert losses[1] <= min(losses) + 1e-6


def _crf_loss(model, temperature, tags):
    weights = [weight / temperature for weight in model.crf.get_weights()]
    layer = tx.layers.CRF(len(model.tags), model.crf.allowed)
    layer.build((None, None, len(model.tags)))
    layer.set_weights(weights)
    total = 0.0
    for words, row in zip(WORDS, tags, strict=True):
        known = [i for i, word in enumerate(words) if word != "\u200b"]
        scores = model.predict([words])[0][known] / temperature
        index = [[model.tags.index(row[i]) for i in known]]
        total -= float(layer.log_likelihood(scores[None].astype("float32"), np.array(index, "int32"))[0])
    return total


# === Export ===


@pytest.fixture(scope="module")
def served(tagger, tmp_path_factory):
    path = export.saved_model(tagger, tmp_path_factory.mktemp("export") / "tagger")
    return tf.saved_model.load(path).signatures["serving_default"], path


def test_the_export_gives_what_extract_gives(tagger, served):
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:3]):
        found = {name: value.numpy() for name, value in served[0](text=tf.constant(texts)).items()}
        for row, (text, entities) in enumerate(zip(texts, tagger.extract(texts), strict=True)):
            assert found["counts"][row] == len(entities)
            for place, entity in enumerate(entities):
                of = {name: value[row, place] for name, value in found.items() if name != "counts"}
                assert (of["labels"].decode(), of["starts"], of["ends"]) == (entity.label, entity.start, entity.end)
                assert of["texts"].decode() == entity.text
                assert text.encode()[of["byte_starts"] : of["byte_ends"]].decode() == entity.text
                assert of["scores"] == pytest.approx(entity.probability, abs=1e-5)
            assert not found["scores"][row, len(entities) :].any()
            assert (found["starts"][row, len(entities) :] == -1).all()


def test_an_export_of_no_rows_and_bytes_that_are_no_text(served):
    assert served[0](text=tf.constant([], tf.string))["counts"].shape == (0,)
    found = served[0](text=tf.constant([b"\xff card \xc3\x28 bank", b"\x00"]))
    assert found["counts"].shape == (2,)


def test_what_it_says_of_itself(served):
    described = export.describe(served[1])
    signature = described["signatures"]["extract"]
    assert described["labels"] == ["place", "thing"] and list(signature["inputs"]) == ["text"]
    assert set(signature["outputs"]) == {
        "labels", "starts", "ends", "byte_starts", "byte_ends", "texts", "scores", "counts",
    }  # fmt: skip


# === Bad input ===


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(
    ("words", "tags", "match"),
    [
        (["a", "b"], ["O"], "`y`.*2 tags.*1 tags.*row {}"),
        (["a"], ["B-none"], "`y`.*one of 5 tags.*B-none.*row {}"),
        ([], [], "`x`.*at least one of the words.*row {}"),
        (["a", "b"], ["O", "I-thing"], "`y`.*IOB2.*row {}"),
        ("a b", ["O", "O"], "`x`.*a list of words.*row {}"),
        (["a", None], ["O", "O"], "`x`.*row {}"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it(tmp_path, row, words, tags, match):
    model = tiny.tagger(tmp_path)
    model.compile()
    rows, answers = [["card"], ["card"]], [["O"], ["O"]]
    rows[row], answers[row] = words, tags
    with pytest.raises(ValueError, match=match.format(row)):
        model.fit(rows, answers, verbose=0)


def test_bad_arguments_are_errors_that_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"`scheme`.*'IOB2', 'IOBES', 'BILOU'.*convert_tags"):
        tiny.tagger(tmp_path, scheme="IOB1")
    with pytest.raises(ValueError, match=r"`tags`"):
        tiny.tagger(tmp_path, tags=["O", "person"])
    with pytest.raises(ValueError, match=r"`head`.*'linear', 'probe', 'crf'"):
        tiny.tagger(tmp_path, head="mlp")
    with pytest.raises(ValueError, match=r"`loss`.*linear head.*TagCrossentropy"):
        tiny.tagger(tmp_path).compile(loss=tx.losses.ChainCrossentropy())
    model = tiny.tagger(tmp_path)
    model.save_weights(tmp_path / "a.weights.h5")
    other = tiny.tagger(tmp_path, tags=[tiny.TAGS[i] for i in (0, 3, 4, 1, 2)])
    with pytest.raises(ValueError, match="weights for the tags"):
        other.load_weights(tmp_path / "a.weights.h5")


# === Word ids ===


@pytest.mark.parametrize("family", ["bert", "albert", "roberta", "gpt2", "xlm_roberta", "deberta_v3"])
def test_words_have_the_ids_of_the_reference(golden, family):
    words = json.loads((golden / "families_words" / "words.json").read_text(encoding="utf-8"))["words"]
    expected = np.load(golden / "families_words" / f"{family}.npz")
    spaced = "words_spaced_" if "words_spaced_word_ids" in expected else "words_"
    tokenizer = preprocessing.Tokenizer.from_folder(golden / "families" / family)
    column = data.WordsColumn(preprocessing.TextPreprocessor(tokenizer, 48))
    # The reference's rows include an empty word. This package accepts it, and rejects only empty lists.
    batch = column.batch(column.encode(tf.ragged.constant([list(map(str, row)) for row in words])), "words")
    for row, (ids, numbers) in enumerate(zip(batch["token_ids"].numpy(), batch["word_ids"].numpy(), strict=True)):
        wanted = expected[f"{spaced}word_ids"][row]
        assert numbers[numbers >= 0].tolist() == wanted[wanted >= 0].tolist()
        assert ids[numbers >= 0].tolist() == expected[f"{spaced}input_ids"][row][wanted >= 0].tolist()


# === Real texts ===


@pytest.mark.slow
def test_offsets_are_right_in_ten_scripts(real_data, tagger, served):
    rows = tx.data.read(real_data / "tatoeba" / "test.tsv")
    texts = [text for i, text in enumerate(rows["text"]) if i % 10 == 0]
    for text, entities in zip(texts, tagger.extract(texts), strict=True):
        assert all(text[entity.start : entity.end] == entity.text != "" for entity in entities)
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        found = {name: value.numpy() for name, value in served[0](text=tf.constant(part)).items()}
        for row, text in enumerate(part):
            for place in range(found["counts"][row]):
                begin, end = found["starts"][row, place], found["ends"][row, place]
                assert text[begin:end] == found["texts"][row, place].decode() != ""


@pytest.mark.slow
def test_a_document_of_60000_words_is_one_call(tagger, served):
    text = "my card was lost in the bank . " * 7500
    found = tagger.extract([text])[0]
    assert all(text[entity.start : entity.end] == entity.text for entity in found)
    assert int(served[0](text=tf.constant([text]))["counts"][0]) == len(found)
