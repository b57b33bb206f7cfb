"""Models with calibration, rejection and conformal sets: answers, files, presets, exports."""

import copy
import pathlib
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import test_contracts
import tiny

import tfxfer as tx
from tfxfer.decisions import ConformalSets, Decisions, Rejection, Scaling, Thresholds

LABELS = ["card", "loan", "other"]
DISTANT = ("mahalanobis", "neighbours", "combined")


class Own(tx.models.TextClassifier):
    """A custom subclass with an additional argument."""

    def __init__(self, *args, note="", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


keras.saving.register_keras_serializable("tests")(Own)


def texts_of(seed, count=60):
    rng = np.random.default_rng(seed)
    words = tiny.WORDS.split()
    return [" ".join(rng.choice(words, size=rng.integers(2, 9))) for _ in range(count)]


DEV, TRAIN, TEST = texts_of(0), texts_of(1), texts_of(2, 24)


def in_form(model, texts):
    """Converts texts to rows in the form that the model takes."""
    if "age" in model.input_columns():
        ages = [20 + len(text) for text in texts]
        return {"text": texts, "age": ages, "kind": [tiny.KINDS[len(text) % 8] for text in texts]}
    return (texts, texts[1:] + texts[:1]) if model.text_form == "separate" else texts


def randomised(model, seed=3):
    """Gives the model a random head, so that its probabilities differ."""
    rng = np.random.default_rng(seed)
    for layer in model.layer_groups()["head"]:
        for weight in layer.weights:
            weight.assign(rng.normal(0, 1.0, weight.shape))
    return model


def likely(model, texts, seed=4):
    """Labels that the model predicts correctly more often than not."""
    rng = np.random.default_rng(seed)
    found = model.predict(in_form(model, texts), verbose=0)
    if model.multi_label:
        return [
            [label for label, z in zip(LABELS, row, strict=True) if rng.random() < 1 / (1 + np.exp(-z / 2))]
            for row in found
        ]
    names = np.array(LABELS)[found.argmax(axis=1)]
    return [str(name) if rng.random() < 0.7 else str(rng.choice(LABELS)) for name in names]


def of_kind(kind, folder, **kwargs):
    parts = (tiny.backbone(), tiny.preprocessor(folder))
    if kind == "own":
        return Own(*parts, labels=LABELS, note="mine", **kwargs)
    if kind == "mlp":
        return tx.models.TextClassifier(*parts, labels=LABELS, head="mlp", **kwargs)
    if kind == "siamese":
        return tx.models.SiameseClassifier(tiny.embedder(folder), labels=LABELS, hidden_dims=(5,), **kwargs)
    if kind == "multimodal":
        return tx.models.MultimodalClassifier(*parts, columns=tiny.columns(), labels=LABELS, **kwargs)
    return tx.models.TextClassifier(*parts, labels=LABELS, **kwargs)


def decided(model, reject="combined", sets=None, scaling="vector"):
    """The model with all decisions fitted."""
    sets = ConformalSets("aps", coverage=0.6) if sets is None else sets
    x = in_form(model, DEV)
    y = likely(model, DEV)
    model.calibrate(x, y, scaling)
    train = (in_form(model, TRAIN), likely(model, TRAIN)) if reject in DISTANT else None
    outside = in_form(model, texts_of(9, 5))
    model.fit_decisions(x, y, reject=Rejection(reject, keep=0.7, k=3), sets=sets, train=train, outside=outside)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def model(folder):
    """A classifier with all decisions fitted; tests do not change it."""
    return decided(randomised(of_kind("linear", folder)))


def assert_alike(found, expected):
    assert found.labels == expected.labels and found.sets == expected.sets
    np.testing.assert_array_equal(found.in_scope, expected.in_scope)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_answers_are_what_the_parts_say(model):
    found = model.classify(TEST)
    labels, probabilities = found
    parts = model.decisions
    logits = model.predict(TEST, verbose=0)
    features = keras.Model(model.input, model.decision_features()).predict(model.preprocess_samples(TEST), verbose=0)
    scaled = keras.ops.convert_to_numpy(parts.scaling(logits))
    np.testing.assert_allclose(probabilities, keras.ops.convert_to_numpy(keras.ops.softmax(scaled)), atol=1e-6)
    in_scope = keras.ops.convert_to_numpy(parts.rejection.accepts(scaled, features))
    assert 0 < in_scope.sum() < len(TEST)
    np.testing.assert_array_equal(found.in_scope, in_scope)
    likeliest = [LABELS[i] for i in probabilities.argmax(axis=1)]
    assert labels == [name if known else None for name, known in zip(likeliest, in_scope, strict=True)]
    members = keras.ops.convert_to_numpy(parts.sets.members(probabilities))
    for given, row, p in zip(found.sets, members, probabilities, strict=True):
        assert given == [LABELS[i] for i in np.argsort(-p, kind="stable") if row[i]]
    assert len({tuple(each) for each in found.sets}) > 1


def test_answers_do_not_depend_on_the_form_the_batch_or_the_neighbours(model):
    expected = model.classify(TEST)
    assert_alike(model.classify(TEST, batch_size=5), expected)
    assert_alike(model.answer(TEST), expected)
    assert_alike(model.classify(tx.data.batches(TEST, model, 7, shuffle=False)), expected)
    ids = {name: np.asarray(value) for name, value in model.preprocess_samples(TEST).items()}
    assert_alike(model.classify(ids), expected)
    parts = list(model.classify(iter(TEST), batch_size=1))
    assert [label for part in parts for label in part.labels] == expected.labels
    order = np.random.default_rng(0).permutation(len(TEST))
    shuffled = model.classify([TEST[i] for i in order])
    assert shuffled.labels == [expected.labels[i] for i in order]
    one = model.classify(TEST[:1])
    assert (one.labels, one.sets) == (expected.labels[:1], expected.sets[:1])
    none = model.classify([])
    assert none.labels == [] and none.sets == [] and none.in_scope.shape == (0,)
    assert_alike(pickle.loads(pickle.dumps(expected)), expected)
    assert_alike(copy.copy(expected), expected)


@pytest.mark.parametrize("kind", ["own", "mlp", "siamese", "multimodal"])
def test_other_classifiers_decide_are_saved_and_exported_alike(kind, folder, tmp_path):
    model = decided(randomised(of_kind(kind, folder)), sets=ConformalSets(coverage=0.8))
    x = in_form(model, TEST)
    expected = model.classify(x)
    assert 0 < expected.in_scope.sum() < len(TEST)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_alike(loaded.classify(x), expected)
    assert not loaded.has_stale_decisions() and getattr(loaded, "note", "mine") == "mine"
    path = tx.export.saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["classify"]
    names = {"siamese": ("text_a", "text_b")}.get(kind, ("text",))
    columns = x if isinstance(x, dict) else dict(zip(names, x if isinstance(x, tuple) else (x,), strict=True))
    dtypes = {"age": tf.float32}
    answer = served(**{name: tf.constant(values, dtypes.get(name)) for name, values in columns.items()})
    assert_served(answer, expected)


def assert_served(answer, expected):
    """Compares an export's answer with that of `classify`."""
    np.testing.assert_allclose(answer["probabilities"], expected.probabilities, atol=1e-6)
    assert ("in_scope" in answer) == (expected.in_scope is not None)
    assert ("set" in answer) == (expected.sets is not None)
    if expected.in_scope is not None:
        np.testing.assert_array_equal(answer["in_scope"], expected.in_scope)
        for row, label in zip(answer["labels"].numpy(), expected.labels, strict=True):
            assert label is None or row[0].decode() == label
    if expected.sets is not None:
        for row, members, given in zip(answer["labels"].numpy(), answer["set"].numpy(), expected.sets, strict=True):
            assert [name.decode() for name in row if members[LABELS.index(name.decode())]] == given


def test_presets_keep_decisions_reorder_and_rename_them(model, tmp_path):
    model.save_to_preset(tmp_path / "saved")
    expected = model.classify(TEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = tx.models.TextClassifier.from_preset(tmp_path / "saved")
        assert_alike(same.classify(TEST), expected)
        other = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=["other", "card", "loan"])
        found = other.classify(TEST)
        assert found.labels == expected.labels and found.sets == expected.sets
        np.testing.assert_allclose(found.probabilities[:, [1, 2, 0]], expected.probabilities, atol=1e-6)
        names = {"card": "Karte", "loan": "Kredit", "other": "sonst"}
        renamed = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=names)
        assert renamed.classify(TEST).sets == [[names[label] for label in row] for row in expected.sets]
        copied = tx.models.TextClassifier.from_model(model, dropout=0.3)
        assert_alike(copied.classify(TEST), expected)
    with pytest.warns(UserWarning, match="New labels start at random"):
        more = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=[*LABELS, "new"], keep_labels=True)
    assert more.decisions is None and more.classify(TEST).in_scope is None


def test_training_makes_decisions_stale(folder, tmp_path):
    model = decided(randomised(of_kind("linear", folder)), "margin", scaling="temperature")
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    logits = model.evaluate(DEV, likely(model, DEV), verbose=0)
    model.decisions = None
    assert model.evaluate(DEV, likely(model, DEV), verbose=0) == pytest.approx(logits)  # losses see plain logits
    decided(model, "margin", scaling="temperature")
    model.set_trainable(["block_0"])
    model.fit(DEV[:8], likely(model, DEV[:8]), verbose=0)
    assert model.has_stale_decisions()
    with pytest.warns(UserWarning, match="have changed since its decisions were fitted") as told:
        model.classify(TEST)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.classify(TEST)  # warns only once
    for refuse in (
        lambda: tx.export.saved_model(model, tmp_path / "served"),
        lambda: model.fit_decisions(DEV, likely(model, DEV), sets="lac"),
    ):
        with pytest.raises(ValueError, match=r"decisions fitted for its weights.*`model.decisions = None`"):
            refuse()
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").has_stale_decisions()
    with pytest.warns(UserWarning, match="rejection, sets of the decisions are removed"):
        model.calibrate(DEV, likely(model, DEV))
    assert not model.has_stale_decisions() and list(model.decisions.parts) == ["scaling"]


def test_several_labels_have_thresholds_of_their_own(folder, tmp_path):
    model = randomised(of_kind("linear", folder, multi_label=True))
    y = likely(model, DEV)
    model.calibrate(DEV, y)
    expected = keras.ops.convert_to_numpy(keras.ops.sigmoid(model.decisions.scaling(model.predict(TEST, verbose=0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit_decisions(DEV, y, thresholds=Thresholds("recall", at=0.8))
    thresholds = model.threshold
    assert list(thresholds) == LABELS and len(set(thresholds.values())) == 3
    found = model.classify(TEST)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    given = expected >= np.array(list(thresholds.values()), "float32")
    assert [set(row) for row in found.labels] == [{LABELS[i] for i in np.flatnonzero(row)} for row in given]
    assert found.sets is None and found.in_scope is None
    scores = tx.evaluation.classification(model, DEV, y)
    assert scores == tx.evaluation.classification(model, DEV, y, threshold=thresholds)
    assert all(row["recall"] >= 0.8 for row in scores["per_class"].values())
    assert scores != tx.evaluation.classification(model, DEV, y, threshold=0.5)
    model.save_to_preset(tmp_path / "saved")
    other = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=["other", "card", "loan"])
    assert other.threshold == thresholds and other.classify(TEST).labels == found.labels
    path = tx.export.saved_model(model, tmp_path / "served")
    answer = tf.saved_model.load(path).signatures["classify"](text=tf.constant(TEST))
    np.testing.assert_array_equal(answer["set"].numpy(), given)
    described = tx.export.describe(path)["decisions"]
    assert described["threshold"] == list(thresholds.values()) and described["thresholds"]["goal"] == "recall"
    # Set by hand: one number for all labels removes the fitted thresholds; one per label is a dict or a list.
    model.threshold = 0.4
    assert model.threshold == 0.4 and model.decisions.thresholds is None
    by_hand = {"loan": 0.2, "card": 0.9, "other": 0.5}
    model.threshold = by_hand
    assert model.classify(TEST).labels == model.classify(TEST, threshold=[0.9, 0.2, 0.5]).labels
    model.save_to_preset(tmp_path / "by_hand")
    for labels in (["other", "card", "loan"], {"card": "a", "loan": "b", "other": "c"}):
        other = tx.models.TextClassifier.from_preset(tmp_path / "by_hand", labels=labels)
        expected = by_hand if isinstance(labels, list) else {labels[name]: value for name, value in by_hand.items()}
        assert other.threshold == expected


def test_a_threshold_for_one_label_a_text_rejects(folder, tmp_path):
    model = randomised(of_kind("linear", folder))
    assert model.threshold is None and model.classify(TEST).in_scope is None
    largest = model.classify(TEST).probabilities.max(axis=1)
    cut = float(np.median(largest))
    found = model.classify(TEST, threshold=cut)
    np.testing.assert_array_equal(found.in_scope, largest >= np.float32(cut))
    assert [label is None for label in found.labels] == (~found.in_scope).tolist()
    model.threshold = cut
    assert model.classify(TEST).labels == found.labels
    y = likely(model, TEST)
    scores = tx.evaluation.classification(model, TEST, y)
    right = [a == b for a, b in zip(found.labels, y, strict=True) if a is not None]
    assert scores["coverage"] == found.in_scope.mean() and scores["answered_accuracy"] == np.mean(right)
    assert scores["accuracy"] == tx.evaluation.classification(model, TEST, y, threshold=0.0)["accuracy"]
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").threshold == cut
    path = tx.export.saved_model(model, tmp_path / "served")
    answer = tf.saved_model.load(path).signatures["classify"](text=tf.constant(TEST))
    assert_served(answer, found)
    readme = (pathlib.Path(path).parent / "README.md").read_text()
    assert "If `in_scope` is false" in readme and "| output | `in_scope` | bool | (batch,) |" in readme
    assert of_kind("siamese", folder, threshold=0.25).threshold == 0.25
    with pytest.raises(ValueError, match=r"`threshold`.*a number, or None"):
        model.threshold = {"card": 0.5, "loan": 0.5, "other": 0.5}
    # In older files, the threshold of such a model has no effect.
    config = {**model.get_config(), "threshold": 0.5}
    del config["decisions"], config["decided_for"]
    assert type(model).from_config(config).threshold is None


def test_tasks_decide_each_for_itself_and_suggestions_use_calibrated_probabilities(folder, tmp_path):
    parts = (tiny.backbone(), tiny.preprocessor(folder))
    tasks = {
        "intent": randomised(tx.models.TextClassifier(*parts, labels=LABELS, name="intent")),
        "tone": tx.models.TextClassifier(*parts, labels=["good", "bad"], name="tone"),
    }
    before = tasks["intent"].suggest(TEST, 30)
    decided(tasks["intent"], "neighbours", scaling="temperature")
    after = tasks["intent"].suggest(TEST, 30)
    top = np.sort(tasks["intent"].classify([after[0].text]).probabilities[0])
    assert after[0].score == pytest.approx(1 - (top[-1] - top[-2]), abs=1e-5) and after[0].score != before[0].score
    multi = tx.models.MultiTask(tasks)
    expected = multi["intent"].classify(TEST)
    assert_alike(multi.answer({"intent": TEST})["intent"], expected)
    multi.save(tmp_path / "multi.keras")
    assert_alike(keras.saving.load_model(tmp_path / "multi.keras")["intent"].classify(TEST), expected)
    path = tx.export.saved_model(multi, tmp_path / "served")
    signatures = tf.saved_model.load(path).signatures
    assert_served(signatures["intent_classify"](text=tf.constant(TEST)), expected)
    assert "set" not in signatures["tone_classify"](text=tf.constant(TEST))
    assert tx.export.describe(path)["tasks"]["intent"]["decisions"]["rejection"]["method"] == "neighbours"


def test_what_does_not_fit_the_model_is_refused(folder, model):
    several = randomised(of_kind("linear", folder, multi_label=True))
    y, many = likely(model, DEV), likely(several, DEV)
    head = tx.layers.SeparableConvHead(3, (2,), 4)
    tokens = tx.models.TextClassifier(tiny.backbone(), tiny.preprocessor(folder), labels=LABELS, head=head)
    for call, said in (
        (lambda: model.fit_decisions(DEV, y), "something to fit"),
        (lambda: model.fit_decisions(DEV, y, thresholds="f1"), "`thresholds`.*one label"),
        (lambda: several.fit_decisions(DEV, many, reject="margin"), "`reject`.*several labels"),
        (lambda: several.fit_decisions(DEV, many, sets="lac"), "`sets`.*several labels"),
        (lambda: model.fit_decisions(DEV, y, reject="combined"), "`train`.*training rows"),
        (lambda: model.fit_decisions(DEV, y, reject="margin", train=(DEV, y)), "`train`.*None without"),
        (lambda: model.fit_decisions(DEV, y, sets="lac", outside=TEST), "`outside`.*without `reject`"),
        (lambda: model.fit_decisions(DEV, y, reject="margin", outside=iter(TEST)), "`outside`.*in memory"),
        (lambda: model.fit_decisions(DEV, y, reject="nearest"), "`method`.*'neighbours'"),
        (lambda: model.fit_decisions(DEV, y, reject=Scaling()), "`reject`.*decisions.Rejection"),
        (lambda: tokens.fit_decisions(DEV, y, reject="neighbours", train=(DEV, y)), "the head reads several vectors"),
        (lambda: setattr(several, "decisions", model.decisions), "`rejection`.*one label per text"),
        (lambda: setattr(model, "decisions", Decisions(["a", "b", "c"])), "`decisions`.*for the labels"),
        (lambda: setattr(several, "threshold", {"card": 0.5}), "`threshold`.*a number for each of 'card'"),
        (lambda: several.classify(TEST, threshold=[0.1, 0.2]), "`threshold`.*3 numbers"),
        (lambda: model.classify(TEST, threshold=1.5), "`threshold`"),
        (lambda: model.decode(model.predict(TEST, verbose=0)), "`outputs`.*Call `classify`"),
        (lambda: model.calibrate([], []), "at least one row|rows"),
        (lambda: model.calibrate(DEV, ["card"] * 59 + ["none"]), "`y`"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.slow
def test_onnx_has_the_scaling_and_says_what_it_lacks(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    path = pathlib.Path(tx.export.onnx(model, tmp_path / "onnx"))
    text = (path / "README.md").read_text()
    assert "the scaling is in the graph" in text and "not in the graph: rejection, sets" in text
    session = onnxruntime.InferenceSession(path / "model.onnx")
    ids = {name: np.asarray(value) for name, value in model.preprocess_samples(TEST).items()}
    [found] = session.run(None, {each.name: ids[each.name] for each in session.get_inputs()})
    np.testing.assert_allclose(found, model.classify(TEST).probabilities, atol=1e-5)


@pytest.mark.slow
def test_decisions_are_the_same_on_jax_and_in_half_precision(model, folder, tmp_path):
    model.save(tmp_path / "model.keras")
    expected = model.classify(TEST)
    np.savez(tmp_path / "expected.npz", in_scope=expected.in_scope, probabilities=expected.probabilities)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, test_deciding, warnings
        model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        expected = np.load({str(tmp_path / "expected.npz")!r})
        found = model.classify(test_deciding.TEST)
        np.testing.assert_allclose(found.probabilities, expected["probabilities"], atol=1e-5)
        np.testing.assert_array_equal(found.in_scope, expected["in_scope"])
        assert not model.has_stale_decisions()
        test_deciding.decided(model, "mahalanobis", "raps")
    """)
    half = tx.models.TextClassifier(tiny.backbone(dtype="mixed_bfloat16"), tiny.preprocessor(folder), labels=LABELS)
    decided(randomised(half))
    half.save(tmp_path / "half.keras")
    assert_alike(keras.saving.load_model(tmp_path / "half.keras").classify(TEST), half.classify(TEST))


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_explanations_are_of_the_scaled_probabilities(method, tmp_path):
    model = randomised(tiny.classifier(tmp_path))
    model.calibrate(DEV, likely(model, DEV), method)
    probabilities = model.classify(TEST[:6]).probabilities
    explained = model.explain(TEST[:6], steps=64)
    for row, found in zip(probabilities, explained, strict=True):
        best = row.argmax()
        assert found.target == model.labels[best]
        assert found.score == pytest.approx(np.log(row[best] / (1 - row[best])), abs=1e-3)
    path = tx.export.saved_model(model, tmp_path / "served", explain=True, warmup="none")
    served = tf.saved_model.load(path).signatures["explain"](text=tf.constant(TEST[:6]))
    np.testing.assert_allclose(served["score"], [found.score for found in explained], atol=1e-4)


def test_a_model_that_rejects_by_distance_is_watched(tmp_path):
    model = randomised(tiny.classifier(tmp_path))
    labels = likely(model, DEV)
    model.fit_decisions(DEV, labels, reject=Rejection("mahalanobis", keep=0.9), train=(TRAIN, likely(model, TRAIN)))
    reference = tx.evaluation.reference(model, DEV)
    found = tx.evaluation.drift(reference, DEV, model=model)
    assert not found["drifted"]
    mean = model.classify(DEV).probabilities.max(axis=1).mean()
    assert reference["means"]["confidence"] == pytest.approx(mean, abs=1e-5)
