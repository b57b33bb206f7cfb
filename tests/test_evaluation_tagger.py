"""Taggers: scores, reports and evaluation during training."""

import copy
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

WORDS, TAGS = tiny.WORD_ROWS, tiny.TAG_ROWS
# A word without tokens.
NOTHING = "\u200b"
KEYS = ("val_entity_f1", "val_entity_precision", "val_entity_recall")


def examples(model, words=WORDS, tags=TAGS):
    return tx.data.tagged({"words": words, "tags": tags}, labels=model.tags, scheme=model.scheme)


def found_by(tags):
    """Finds the spans of a row of IOB2 tags with a plain loop."""
    spans, start = [], None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag[:2] != "I-":
            spans.append((tags[start][2:], start, place))
            start = None
        start = place if tag[:2] == "B-" else start
    return spans


@pytest.fixture(scope="module")
def taggers(tmp_path_factory):
    """Taggers with random weights: one for each kind of head, and one whose tags mark no entities."""
    folder = tmp_path_factory.mktemp("taggers")
    keras.utils.set_random_seed(0)
    made = {head: tiny.tagger(folder, head=head) for head in ("linear", "crf")}
    return {**made, "plain": tiny.tagger(folder, tags=["NOUN", "VERB", "X"], scheme=None)}


@pytest.fixture(params=["linear", "crf"])
def tagger(request, taggers):
    return taggers[request.param]


# === Spans ===


def test_spans_are_those_of_the_tags_with_the_probabilities_of_extract(tagger):
    spans, tags = tagger.spans(WORDS), tagger.tag(WORDS)
    assert sum(map(len, spans)) > 5 and any(end - start > 1 for row in spans for _, start, end, _ in row)
    for row, expected in zip(spans, tags, strict=True):
        assert [span[:3] for span in row] == found_by(expected)
    texts = tagger.extract([" ".join(words) for words in WORDS])
    for words, row, entities in zip(WORDS, spans, texts, strict=True):
        for span, entity in zip(row, entities, strict=True):
            assert entity.text == " ".join(words[span.start : span.end]) and entity.label == span.label
            assert entity.probability == pytest.approx(span.probability, abs=1e-6)


def test_a_word_without_a_token_within_an_entity_does_not_break_it(tagger):
    rows = [[NOTHING, *words[:1], NOTHING, NOTHING, *words[1:], NOTHING] for words in WORDS] + [[NOTHING]]
    tags, spans = tagger.tag(rows), tagger.spans(rows)
    assert any(span.start == 1 and span.end > 4 for row in spans for span in row), "some entity goes around the gap"
    assert [[span[:3] for span in row] for row in spans] == [found_by(row) for row in tags]
    assert {row[0] for row in tags} == {row[-1] for row in tags} == {"O"} and tags[-1] == ["O"]


def test_a_gap_in_an_entity_has_the_tag_of_what_is_inside(tmp_path):
    tagger = tiny.tagger(tmp_path, tags=["O", "B-a", "I-a", "L-a", "U-a"], scheme="BILOU")
    wanted = ["B", None, None, "L", None, "U", "O", None, "B", "I", None, "L", None]
    scores = np.array([[5.0 * (tag[0] == each) for tag in tagger.tags] for each in wanted])
    given = tagger.decode([scores])[0]
    assert [tag[0] for tag in given] == list("BIILOUOOBIILO")


def test_spans_of_a_generator_come_in_parts_and_plain_tags_have_none(taggers):
    expected = taggers["linear"].spans(WORDS)
    for rows in (WORDS, [{"words": row} for row in WORDS]):
        assert [row for part in taggers["linear"].spans(iter(rows)) for row in part] == expected
    with pytest.raises(ValueError, match=r"`scheme`.*Use `tag`"):
        taggers["plain"].spans(WORDS)


# === Scores ===


def test_entities_are_scored_as_their_tags_are(tagger):
    found = tx.evaluation.entities(tagger, WORDS, TAGS)
    assert found == tx.evaluation.entity_scores(TAGS, tagger.tag(WORDS), scheme="IOB2")
    assert found["gold"] == 6 and found["rows"] == 6 and found["predicted"] > 5
    for rows in (
        examples(tagger),
        examples(tagger).take(9),
        tx.data.examples({"words": WORDS, "t": TAGS}, tagger, "t"),
    ):
        assert tx.evaluation.entities(tagger, rows, batch_size=2) == found
    assert tx.evaluation.entities(tagger, {"words": WORDS}, TAGS) == found


def test_what_the_model_is_right_about_has_a_score_of_one(tagger):
    rows = [words * 9 for words in WORDS] + [[NOTHING, "the", NOTHING, "bank", NOTHING]]  # long; without tokens
    found = tx.evaluation.entities(tagger, rows, tagger.tag(rows))
    assert found["micro_f1"] == found["tag_accuracy"] == 1.0 and found["gold"] > 40


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (WORDS, None, "`y`"),
        (WORDS, TAGS[:5], "`y`"),
        (WORDS, [*TAGS[:5], ["B-person"]], r"B-person.*row 5"),
        (WORDS, [*TAGS[:5], ["O", "O"]], "row 5"),
        (WORDS, [*TAGS[:5], ["I-thing"]], "row 5"),
        ([], [], "`x`"),
        (tiny.TEXTS, tiny.LABELS, "row 0"),
    ],
)
def test_rows_that_cannot_be_scored_are_errors(taggers, x, y, named):
    with pytest.raises(ValueError, match=named):
        tx.evaluation.entities(taggers["linear"], x, y)


def test_models_that_mark_no_entities_are_errors(taggers, tmp_path):
    with pytest.raises(ValueError, match=r"`model`.*tags words"):
        tx.evaluation.entities(tiny.classifier(tmp_path), tiny.TEXTS, tiny.LABELS)
    with pytest.raises(ValueError, match=r"`model`.*with a scheme"):
        tx.evaluation.entities(taggers["plain"], WORDS, TAGS)
    other = tx.data.tagged({"words": WORDS, "tags": TAGS}, labels=["O", "B-thing", "I-thing", "B-place", "I-place"])
    with pytest.raises(ValueError, match="labels are the model's"):
        tx.evaluation.entities(taggers["linear"], other)


# === Reports ===


def test_the_report_of_a_tagger_has_scores_errors_and_calibration_of_spans(tagger, tmp_path):
    found = tx.evaluation.report(tmp_path, tagger, examples(tagger), history={"loss": [2.0, 1.0]}, scores={"own": {}})
    assert found["entities"] == tx.evaluation.entities(tagger, WORDS, TAGS)
    gold = [found_by(tags) for tags in TAGS]
    assert found["calibration"] == tx.evaluation.entity_calibration(gold, tagger.spans(WORDS))
    expected = tx.evaluation.entity_errors(TAGS, tagger.tag(WORDS), scheme="IOB2", texts=WORDS)
    assert found["errors"]["counts"] == expected["counts"] and "own" in found
    assert found == json.loads((tmp_path / "metrics.json").read_text())
    lines = (tmp_path / "errors.tsv").read_text().splitlines()
    assert len(lines) == 1 + len(expected["errors"]) and any("my card" in line for line in lines)
    names = {"README.md", "report.html", "metrics.json", "errors.tsv"}
    names |= {f"{name}.png" for name in ("curves", "confusion", "outcomes", "reliability")}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(ValueError, match="`y`"):
        tx.evaluation.report(tmp_path, tagger, WORDS)


def test_plain_tags_are_reported_word_by_word(taggers, tmp_path):
    model = taggers["plain"]
    words = [["my", "card", NOTHING], ["lost"]]
    found = tx.evaluation.report(tmp_path, model, words, [["X", "NOUN", "X"], ["VERB"]])
    flat = np.concatenate(model.probabilities([["my", "card"], ["lost"]]))
    expected = tx.evaluation.classification_scores(["X", "NOUN", "VERB"], flat, model.tags)
    assert found["classification"]["accuracy"] == expected["accuracy"] and found["calibration"]["rows"] == 3


# === During training ===


@pytest.fixture(scope="module")
def training(taggers):
    """A compiled tagger, whose step is traced once, with its variables and their values before training."""
    model = taggers["linear"]
    model.compile(keras.optimizers.Adam(0.03))
    model.optimizer.build(model.trainable_variables)
    return model, [(v, v.numpy()) for v in (*model.variables, *model.optimizer.variables)]


@pytest.fixture
def fit(training):
    """A function that trains the tagger from its initial weights and returns the history."""
    model, fresh = training

    def reset():
        for variable, value in fresh:
            variable.assign(value)

    def fit(*callbacks, epochs=2):
        reset()
        options = {"batch_size": 3, "seed": 0, "epochs": epochs, "verbose": 0}
        return model.fit(WORDS, TAGS, callbacks=list(callbacks), **options).history

    fit.model = model
    yield fit
    reset()


def test_values_are_those_of_the_evaluation_and_are_followed(fit):
    evaluate = tx.callbacks.EvaluateEntities(WORDS, TAGS, at_start=True, keep_best=True)
    stop = keras.callbacks.EarlyStopping("val_entity_f1", mode="max", patience=9)
    before = tx.evaluation.entities(fit.model, WORDS, TAGS)
    history = fit(evaluate, stop, epochs=8)
    assert evaluate.before == {key: before[key.replace("val_entity", "micro")] for key in KEYS}
    assert stop.best == max(history["val_entity_f1"]) > before["micro_f1"] + 0.2, "the tagger learns its rows"
    found = tx.evaluation.entities(fit.model, WORDS, TAGS)
    best = int(np.argmax(history["val_entity_f1"][::-1]))
    for key in KEYS:
        assert found[key.replace("val_entity", "micro")] == history[key][::-1][best]


def test_early_stopping_stops_on_entities_that_are_not_found_better(fit, taggers):
    evaluate = tx.callbacks.EvaluateEntities(WORDS, TAGS, model=taggers["crf"])  # a model that does not train
    stop = keras.callbacks.EarlyStopping("val_entity_f1", mode="max", patience=1)
    assert len(fit(evaluate, stop, epochs=9)["loss"]) == 2
    with pytest.raises(ValueError, match="put EvaluateEntities first"):
        fit(stop, evaluate)


class Kill(keras.callbacks.Callback):
    """Interrupts `fit` after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self._left = [None] * steps

    def on_train_batch_end(self, batch, logs=None):
        self._left.pop()
        if not self._left:
            raise KeyboardInterrupt


def test_a_killed_training_resumes_with_its_evaluations(fit, tmp_path):
    def run(*callbacks):
        evaluate = copy.deepcopy(tx.callbacks.EvaluateEntities(examples(fit.model), every=1, name="dev"))
        return fit(evaluate, *callbacks), evaluate.results, fit.model.get_weights(), evaluate.keys()

    whole = run()
    assert [row["step"] for row in whole[1]] == [1, 2, 3, 4]
    assert whole[0]["val_dev_entity_f1"] == [row["val_dev_entity_f1"] for row in whole[1][1::2]]
    assert whole[3] == [key.replace("val_", "val_dev_") for key in KEYS]
    with pytest.raises(KeyboardInterrupt):
        run(tx.callbacks.Resume(tmp_path / "run", every=1), Kill(3))
    resume = tx.callbacks.Resume(tmp_path / "run", every=1)
    history, results, weights, _ = run(resume)
    assert resume.resumed_at is not None and (history, results) == whole[:2]
    for found, expected in zip(weights, whole[2], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_model_or_tags_that_do_not_fit_are_errors_when_fit_starts(fit, taggers, tmp_path):
    with pytest.raises(ValueError, match="person"):
        fit(tx.callbacks.EvaluateEntities([["Ada"]], [["B-person"]]))
    for model in (tiny.classifier(tmp_path), taggers["plain"]):
        with pytest.raises(ValueError, match="`model`"):
            tx.callbacks.EvaluateEntities([["Ada"]], [["O"]]).set_model(model)


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (WORDS, None, "`y`"),
        (WORDS, TAGS[:3], "`y`.*6 lists"),
        (WORDS, "O", "`y`"),
        ([["a", "b"]], [["O"]], "2 tags in row 0"),
        ([["a", "b"]], ["OO"], "2 tags in row 0"),
        (["a b"], [["O"]], "row 0"),
        ([], [], "`y`.*at least one"),
    ],
)
def test_rows_that_do_not_fit_are_errors_at_construction(x, y, named):
    with pytest.raises(ValueError, match=named):
        tx.callbacks.EvaluateEntities(x, y)


@pytest.mark.slow
def test_taggers_are_trained_evaluated_and_resumed_on_jax(tmp_path):
    tagger = tiny.tagger(tmp_path, head="crf", dropout=0.0)
    tagger.save(tmp_path / "model.keras")
    expected = [[span.probability for span in row] for row in tagger.spans(WORDS)]
    (tmp_path / "expected.json").write_text(json.dumps([tagger.tag(WORDS), expected]))
    code = f"""
        import json, keras, numpy as np, tiny, tfxfer as tx
        folder = {str(tmp_path)!r}
        tagger = keras.saving.load_model(folder + "/model.keras")
        tags, expected = json.load(open(folder + "/expected.json"))
        assert keras.config.backend() == "jax" and tagger.tag(tiny.WORD_ROWS) == tags
        found = [[span.probability for span in row] for row in tagger.spans(tiny.WORD_ROWS)]
        for row, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(row, other, atol=1e-5)
        tagger.compile(keras.optimizers.Adam(0.05))
        evaluate = tx.callbacks.EvaluateEntities(tiny.WORD_ROWS, tiny.TAG_ROWS, every=1)
        options = {{"batch_size": 6, "epochs": 8, "verbose": 0, "seed": 0}}
        resume = tx.callbacks.Resume(folder + "/run", every=3)
        tagger.fit(tiny.WORD_ROWS, tiny.TAG_ROWS, callbacks=[evaluate, resume], **options)
        scores = [row["val_entity_f1"] for row in evaluate.results]
        assert len(scores) == 8 and scores[-1] > max(scores[0], 0.5), scores
        assert scores[-1] == tx.evaluation.entities(tagger, tiny.WORD_ROWS, tiny.TAG_ROWS)["micro_f1"]
        assert len(tagger.suggest(tiny.TEXTS, 3)) == 3 and len(tagger.extract(tiny.TEXTS)) == 8
    """
    paths = [str(pathlib.Path(tiny.__file__).parent), str(pathlib.Path(tx.__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
