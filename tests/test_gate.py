"""Every form of data that `fit`, `evaluate`, `predict`, `classify` and `encode` accept, and what raises an error."""

import functools
import operator

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx

pyarrow = pytest.importorskip("pyarrow")

TEXTS, LABELS = tiny.TEXTS, tiny.LABELS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def still(model, eager=True, **kwargs):
    """Compiles a model so that training changes nothing, and every form starts from the same weights."""
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=eager, **kwargs)
    return model


@pytest.fixture(scope="module")
def classifier(folder):
    return still(tiny.classifier(folder), eager=False)  # one trace serves many forms


@pytest.fixture(scope="module")
def regressor(folder):
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    return still(model)


@pytest.fixture(scope="module")
def embedder(folder):
    return tiny.embedder(folder)


class Batches(keras.utils.PyDataset):
    """Two batches of four rows."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, i):
        rows = slice(4 * i, 4 * i + 4)
        return self.x[rows], self.y[rows]


class Column:
    """A sized sequence and nothing more, like a column of another library's dataset."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]


def batches_of(model):
    return tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(4)


# Forms of (x, y): functions that take the model and return the arguments of `fit`.
FORMS = {
    "lists": lambda model: (TEXTS, LABELS),
    "tuples": lambda model: (tuple(TEXTS), tuple(LABELS)),
    "str arrays": lambda model: (np.array(TEXTS), np.array(LABELS)),
    "object arrays": lambda model: (np.array(TEXTS, object), np.array(LABELS, object)),
    "bytes": lambda model: ([text.encode() for text in TEXTS], [label.encode() for label in LABELS]),
    "tensors": lambda model: (tf.constant(TEXTS), tf.constant(LABELS)),
    "series": lambda model: (pandas.Series(TEXTS, index=range(3, 11)), pandas.Series(LABELS)),
    "string series": lambda model: (pandas.Series(TEXTS, dtype="string"), pandas.Series(LABELS, dtype="category")),
    "frame": lambda model: (pandas.DataFrame({"text": TEXTS}), LABELS),
    "arrow": lambda model: (pyarrow.chunked_array([TEXTS]), pyarrow.array(LABELS)),
    "table": lambda model: (pyarrow.table({"text": TEXTS}), LABELS),
    "columns": lambda model: (Column(TEXTS), Column(LABELS)),
    "dict": lambda model: ({"text": TEXTS}, LABELS),
    "rows": lambda model: (tx.data.Rows({"text": TEXTS}), LABELS),
    "dicts": lambda model: ([{"text": text, "id": i} for i, text in enumerate(TEXTS)], LABELS),
    "indices": lambda model: (TEXTS, [model.labels.index(label) for label in LABELS]),
    "labelled": lambda model: (tx.data.labelled({"t": TEXTS, "l": LABELS}, "t", "l"),),
    "labelled by index": lambda model: (tx.data.labelled({"t": TEXTS, "l": LABELS}, "t", "l", labels=model.labels),),
    "examples": lambda model: (tx.data.examples({"text": TEXTS, "label": LABELS}, model, "label"),),
    "dataset of rows": lambda model: (tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)),),
    "dataset of batches": lambda model: (batches_of(model),),
    "batches": lambda model: (tx.data.batches((TEXTS, LABELS), model, 4),),
    "dataset of ids": lambda model: (tx.data.batches((TEXTS, LABELS), model, 4).map(lambda x, y: (x, y)),),
    "PyDataset": lambda model: (Batches(TEXTS, LABELS),),
    "PyDataset of arrays": lambda model: (Batches(np.array(TEXTS), np.array(LABELS)),),
    "generator of rows": lambda model: (((text, label) for text, label in zip(TEXTS, LABELS, strict=True)),),
    "generator of batches": lambda model: ((Batches(TEXTS, LABELS)[i] for i in range(2)),),
    "ids": lambda model: (
        {name: value.numpy() for name, value in model.preprocessor(TEXTS).items()},
        LABELS,
    ),
}


@pytest.fixture(scope="module")
def expected(classifier):
    return classifier.evaluate(TEXTS, LABELS, verbose=0, return_dict=True)


@pytest.mark.parametrize("form", FORMS)
def test_fit_and_evaluate_take_every_form(classifier, expected, form):
    history = classifier.fit(*FORMS[form](classifier), verbose=0).history
    found = classifier.evaluate(*FORMS[form](classifier), verbose=0, return_dict=True)
    assert history["loss"][0] == pytest.approx(expected["loss"], abs=0.2)  # dropout
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-5)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith(("indices", "generator"))])
def test_predict_and_classify_take_every_form_of_texts(classifier, form):
    x = FORMS[form](classifier)[0]
    if form == "batches":
        x = tx.data.batches((TEXTS, LABELS), classifier, 4, shuffle=False)
    if form == "dataset of ids":
        x = tx.data.batches((TEXTS, LABELS), classifier, 4, shuffle=False).map(lambda x, y: (x, y))
    expected = classifier.predict(TEXTS)
    np.testing.assert_allclose(classifier.predict(x, verbose=0), expected, atol=1e-5)
    assert classifier.classify(x).labels == classifier.classify(TEXTS).labels


def test_a_generator_of_texts_gives_a_generator_of_answers(classifier, regressor, folder):
    whole = classifier.predict(TEXTS)
    np.testing.assert_allclose(np.concatenate(list(classifier.predict(iter(TEXTS)))), whole, atol=1e-5)
    parts = list(classifier.classify((text for text in TEXTS), batch_size=2))
    assert functools.reduce(operator.iadd, (part.labels for part in parts), []) == classifier.classify(TEXTS).labels
    pairs = zip(TEXTS, TEXTS[::-1], strict=True)
    found = np.concatenate(list(regressor.scores(pairs)))
    np.testing.assert_allclose(found, regressor.scores((TEXTS, TEXTS[::-1])), atol=1e-5)


@pytest.mark.parametrize("form", [list, tuple, np.array, pandas.Series, Column, pyarrow.array, tf.constant])
def test_encode_takes_every_sequence(embedder, form):
    np.testing.assert_allclose(embedder.encode(form(TEXTS)), embedder.encode(TEXTS), atol=1e-6)


def test_no_rows_give_no_answers(classifier, regressor, embedder):
    assert classifier.predict([]).shape == (0, 3)
    assert classifier.classify([]).labels == [] and classifier.classify([]).probabilities.shape == (0, 3)
    assert regressor.scores(([], [])).shape == (0,)
    assert embedder.encode([]).shape == (0, 8) and embedder.encode([], output="tokens") == []
    assert embedder.rank("a card", []) == []


@pytest.mark.parametrize("row", [0, 5])
@pytest.mark.parametrize("bad", [None, float("nan"), 7, "\ud800", pandas.NA, ["a"]])
def test_a_bad_text_is_an_error_with_its_row_everywhere(classifier, embedder, bad, row):
    texts = list(TEXTS)
    texts[row] = bad
    calls = [
        lambda: classifier.fit(texts, LABELS),
        lambda: classifier.evaluate(texts, LABELS),
        lambda: classifier.predict(texts),
        lambda: classifier.classify(texts),
        lambda: classifier.fit(TEXTS, LABELS, validation_data=(texts, LABELS)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"`(x|validation_data\[0\])`.*row {row}"):
            call()
    for call in (embedder.encode, lambda texts: tx.search.SemanticIndex(embedder, texts)):
        with pytest.raises(ValueError, match=rf"`texts`.*row {row}"):
            call(texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, LABELS), "`x`"),
        (("one text", LABELS), "`x`.*into a list"),
        ((set(TEXTS), LABELS), "`x`.*order"),
        ((TEXTS, None), "`y`.*a target for each row"),
        ((TEXTS, LABELS[:3]), "`y`.*8 targets.*3 targets"),
        ((TEXTS, [*LABELS[:7], "none"]), "`y`.*row 7"),
        (([], []), "`x`.*at least one row"),
        (((TEXTS, TEXTS, TEXTS), LABELS), "`x`.*one or two text columns.*3 columns"),
        (((TEXTS, TEXTS[:3]), LABELS), "`x`.*one length"),
        (([["a", "b"]] * 8, LABELS), "`x`.*row 0"),
        (([{"body": text} for text in TEXTS], LABELS), r"`x`.*'text'.*'body'"),
        (({"body": TEXTS}, LABELS), r"`x`.*'text'.*'body'"),
        ((np.array([["a", "b"]] * 8), LABELS), "`x`.*row 0"),
        ((tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)), LABELS), "`y`.*None if `x` is a dataset"),
        ((iter(TEXTS), LABELS), "`y`.*None if `x` is a generator"),
        ((iter([]),), "`x`.*at least one row"),
        ((5, LABELS), "`x`"),
    ],
)
def test_what_is_no_data_is_an_error_with_the_callers_names(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier.fit(*arguments, verbose=0)


def test_weights_beside_ids_are_checked_and_follow_the_labels(folder):
    model = tiny.classifier(folder, labels=["other", "card", "loan"], dropout=0.0)
    still(model)
    ids, y = FORMS["ids"](model)
    for weights in ([1.0] * 7, [float("nan")] * 8, [-1.0] * 8):
        for method in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="`sample_weight`"):
                method(ids, y, sample_weight=weights, verbose=0)
    assert model.fit(ids, y, class_weight=dict.fromkeys(model.labels, 0.0), verbose=0).history["loss"] == [0.0]
    found = tx.data.Gate(model).class_weights("balanced", (ids, model.read_targets(y), None))
    assert found == {0: 4 / 3, 1: 8 / 9, 2: 8 / 9}


@pytest.mark.parametrize("weights", [[1.0] * 7, [1.0, float("nan")] * 4, [1.0, -1.0] * 4, ["a"] * 8, [None] * 8])
def test_weights_are_finite_and_not_negative(classifier, weights):
    for method in (classifier.fit, classifier.evaluate):
        with pytest.raises(ValueError, match="`sample_weight`"):
            method(TEXTS, LABELS, sample_weight=weights, verbose=0)
    before = classifier.get_weights()
    assert all(np.isfinite(weight).all() for weight in before)


def test_weights_count_in_fit_evaluate_and_validation(classifier):
    weights = np.arange(8.0)
    model = classifier
    still(model, eager=False, metrics=None)
    found = model.evaluate(TEXTS, LABELS, sample_weight=weights, verbose=0)
    logits, y = model.predict(TEXTS), model.read_targets(LABELS)
    each = keras.ops.convert_to_numpy(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
    assert np.ravel(found)[0] == pytest.approx(float((each * weights).mean()), abs=1e-5)
    history = model.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS, weights), verbose=0).history
    assert history["val_loss"][0] == pytest.approx(float((each * weights).mean()), abs=1e-5)
    still(model, eager=False)


def test_a_call_that_failed_leaves_the_model_ready_for_the_right_one(folder):
    model = tiny.classifier(folder)
    model.compile(run_eagerly=True)
    for bad in (
        (TEXTS, [0.5] * 8),
        ((TEXTS, TEXTS, TEXTS), LABELS),
        (TEXTS, LABELS[:2]),
        (tf.constant(TEXTS), [9] * 8),
    ):
        with pytest.raises(ValueError, match=r"`[xy]`"):
            model.fit(*bad, verbose=0)
    assert "loss" in model.fit(TEXTS, LABELS, verbose=0).history


def test_a_share_of_the_rows_is_for_validation_the_last_ones(classifier):
    history = classifier.fit(TEXTS, LABELS, validation_split=0.25, verbose=0).history
    expected = classifier.evaluate(TEXTS[6:], LABELS[6:], verbose=0, return_dict=True)
    assert history["val_loss"][0] == pytest.approx(expected["loss"], abs=1e-5)
    for share in (1.0, -0.5):
        with pytest.raises(ValueError, match="`validation_split`"):
            classifier.fit(TEXTS, LABELS, validation_split=share, verbose=0)
    with pytest.raises(ValueError, match="`validation_split`"):
        classifier.fit(batches_of(classifier), validation_split=0.5, verbose=0)


def test_steps_per_epoch_go_on_where_the_last_epoch_stopped(folder):
    seen = []

    class See(tx.models.TextClassifier):
        def train_step(self, data):
            tf.py_function(lambda y: seen.extend(y.numpy().tolist()), [data[1]], [])
            return super().train_step(data)

    labels = [str(i) + "x" for i in range(8)]
    model = See(tiny.backbone(), tiny.preprocessor(folder), labels=labels)
    still(model)
    model.fit(TEXTS, labels, 2, 4, steps_per_epoch=2, verbose=0, seed=0)
    assert len(seen) == 16 and sorted(seen[:8]) == sorted(seen[8:]) == list(range(8))


def test_arguments_stand_where_keras_has_them(classifier):
    assert len(classifier.fit(TEXTS, LABELS, 4, 2, 0).history["loss"]) == 2
    with pytest.raises(ValueError, match=r"`x`.*whose labels are the model's"):
        classifier.fit(tx.data.labelled({"t": TEXTS, "l": LABELS}, "t", "l", labels=["other", "loan", "card"]))


@pytest.mark.parametrize("form", ["lists", "labelled", "labelled by index", "batches", "ids"])
def test_class_weights_go_by_name_or_are_balanced(classifier, form):
    given = FORMS[form](classifier)
    counts = {"card": 3, "loan": 3, "other": 2}
    balanced = {name: 8 / (3 * count) for name, count in counts.items()}
    still(classifier, eager=False)
    found = [
        classifier.fit(*FORMS[form](classifier), class_weight=weight, verbose=0, seed=0).history["loss"][0]
        for weight in (balanced, "balanced", dict(reversed(balanced.items())))
    ]
    assert found == pytest.approx([found[0]] * 3, abs=0.3)  # dropout
    with pytest.raises(ValueError, match="`class_weight`"):
        classifier.fit(*given, class_weight={"none": 1.0}, verbose=0)


@pytest.mark.parametrize("order", [["card", "loan", "other"], ["other", "card", "loan"]])
def test_class_weights_follow_the_labels_of_the_model(folder, order):
    model = tiny.classifier(folder, labels=order)
    weights = tx.data.class_weights(LABELS)
    found = tx.data.Gate(model).class_weights(weights, None)
    assert [found[order.index(name)] for name in ("card", "loan", "other")] == [8 / 9, 8 / 9, 4 / 3]
    numbers = tiny.classifier(folder, labels=[3, 1, 2])
    assert tx.data.Gate(numbers).class_weights({1: 5.0, 2: 6.0, 3: 7.0}, None) == {0: 7.0, 1: 5.0, 2: 6.0}
    spelled = tiny.classifier(folder, labels=["1", "2", "3"])
    with pytest.raises(ValueError, match=r"`class_weight`.*could be an index"):
        tx.data.Gate(spelled).class_weights({1: 5.0, 2: 6.0}, None)


def test_shares_and_weights_by_label_train(folder):
    model = tiny.classifier(folder)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    shares = np.full((8, 3), 1 / 3, "float32")
    assert np.isfinite(model.fit(TEXTS, shares, verbose=0).history["loss"][0])
    hot = np.eye(3)[[model.labels.index(label) for label in LABELS]]
    np.testing.assert_allclose(
        model.evaluate(TEXTS, hot, verbose=0), model.evaluate(TEXTS, LABELS, verbose=0), atol=1e-6
    )
    several = tiny.classifier(folder, multi_label=True)
    y = [[label] for label in LABELS]
    loss = tx.losses.WeightedBinaryCrossentropy(tx.data.class_weights({"l": y}, "l"))
    several.compile("sgd", loss, run_eagerly=True)
    assert several.loss.positive_weights == (5 / 3, 5 / 3, 3.0)
    assert np.isfinite(several.fit(TEXTS, y, verbose=0).history["loss"][0])


def test_class_weights_where_they_mean_nothing_are_refused(folder, regressor):
    several = tiny.classifier(folder, multi_label=True)
    several.compile(run_eagerly=True)
    y = [[label] for label in LABELS]
    with pytest.raises(ValueError, match=r"`class_weight`.*WeightedBinaryCrossentropy"):
        several.fit(TEXTS, y, class_weight={"card": 2.0}, verbose=0)
    with pytest.raises(ValueError, match="`class_weight`"):
        regressor.fit(TEXTS, [1.0] * 8, class_weight="balanced", verbose=0)


@pytest.mark.parametrize("labels", [[1, 2, 3], [3, 1, 2], [0, 1, 2]])
@pytest.mark.parametrize("mapped", [True, False])
def test_int_labels_stay_labels_whatever_becomes_of_the_dataset(folder, labels, mapped):
    model = tiny.classifier(folder, labels=labels)
    still(model)
    y = [labels[1], labels[2]] * 4  # without the first: an index would silently be taken for a label
    rows = tx.data.labelled({"t": TEXTS, "l": y}, "t", "l", labels=labels)
    rows = rows.map(lambda x, y: (x, y)) if mapped else rows
    expected = model.evaluate(TEXTS, y, verbose=0)
    assert model.evaluate(rows, verbose=0) == pytest.approx(expected, abs=1e-6)


def test_the_number_of_columns_is_checked_before_anything_is_traced(folder):
    pairs = tx.models.SiameseClassifier(tiny.embedder(folder), labels=["a", "b"])
    pairs.compile(run_eagerly=True)
    for x in (TEXTS, (TEXTS, TEXTS, TEXTS)):
        for call in (lambda x=x: pairs.fit(x, list("abababab")), lambda x=x: pairs.predict(x)):
            with pytest.raises(ValueError, match=r"`x`.*2 text columns"):
                call()


def test_a_model_without_a_preprocessor_says_so():
    model = tx.models.TextClassifier(tiny.backbone(), labels=["card", "loan", "other"])
    model.compile(run_eagerly=True)
    for call in (lambda: model.fit(TEXTS, LABELS), lambda: model.predict(TEXTS), lambda: model.fit(batches_of(model))):
        with pytest.raises(ValueError, match=r"`x`.*without a preprocessor"):
            call()


def test_token_vectors_are_those_of_the_encoder(embedder):
    found = embedder.encode(TEXTS, output="tokens")
    batch = embedder.preprocessor(TEXTS)
    states = keras.ops.convert_to_numpy(embedder.backbone(batch))
    for row, mask, tokens in zip(states, batch["padding_mask"].numpy(), found, strict=True):
        np.testing.assert_allclose(tokens, row[mask > 0], atol=1e-5)
    np.testing.assert_allclose(
        embedder.encode("my card", output="tokens"), embedder.encode(["my card"], output="tokens")[0]
    )
    for arguments in ({"normalize": True}, {"truncate_dim": 4}):
        with pytest.raises(ValueError, match='None with output="tokens"'):
            embedder.encode(TEXTS, output="tokens", **arguments)


def test_rank_orders_documents_from_the_best_down(folder, embedder, regressor):
    cosines = embedder.encode(TEXTS) @ embedder.encode("my card")
    found = embedder.rank("my card", TEXTS)
    assert [each.index for each in found] == np.argsort(-cosines, kind="stable").tolist()
    assert [each.text for each in found] == [TEXTS[each.index] for each in found]
    np.testing.assert_allclose([each.score for each in found], np.sort(cosines)[::-1], atol=1e-5)
    assert embedder.rank("my card", TEXTS, 3) == found[:3]
    pairs = tx.models.TextClassifier(tiny.backbone(), tiny.preprocessor(folder), labels=["no", "yes"])
    for model in (regressor, pairs):
        scores = model.score_pairs(["my card"] * 8, TEXTS)
        assert [each.index for each in model.rank("my card", TEXTS)] == np.argsort(-scores, kind="stable").tolist()
    with pytest.raises(ValueError, match="`query`"):
        embedder.rank(["my card"], TEXTS)
    with pytest.raises(ValueError, match="two labels"):
        tiny.classifier(folder).rank("my card", TEXTS)


def test_labels_in_another_order_are_noticed_on_loading_weights(folder, tmp_path):
    model = tiny.classifier(folder)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    same = tiny.classifier(folder)
    same.load_weights(path)
    np.testing.assert_array_equal(same.predict(TEXTS), model.predict(TEXTS))
    with pytest.raises(ValueError, match="weights for the labels"):
        tiny.classifier(folder, labels=["loan", "card", "other"]).load_weights(path)
