"""Keras losses and metrics on models that output logits: correct, or an error that names the alternatives."""

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

TAGS = [["card"], [], ["loan", "other"], ["loan"], ["other"], [], ["card", "loan"], ["loan"]]
CLASSES = ["card", "loan", "other"]
INDICES = np.array([CLASSES.index(label) for label in tiny.LABELS])
MULTI_HOT = np.array([[float(label in tags) for label in CLASSES] for tags in TAGS])


def named(loss):
    """Returns a name without a memory address, because addresses differ between processes."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A classifier, a multi-label classifier and a regressor; the outputs of all are far from probabilities."""
    folder = tmp_path_factory.mktemp("logits")
    regressor = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    of_labels = tiny.classifier(folder, multi_label=True)
    made = {"classes": tiny.classifier(folder), "labels": of_labels, "numbers": regressor}
    for model in made.values():
        model.head.set_weights([5 * weight for weight in model.head.get_weights()])
    return made


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def evaluated(model, y):
    return model.evaluate(tiny.TEXTS, y, verbose=0, return_dict=True)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        "categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
    ids=named,
)
def test_crossentropies_of_classes_are_those_of_the_logits(models, loss):
    model = models["classes"]
    model.compile("sgd", loss)
    shares = softmax(model.predict(tiny.TEXTS, verbose=0).astype("float64"))
    expected = -np.log(shares[np.arange(len(INDICES)), INDICES]).mean()
    assert evaluated(model, tiny.LABELS)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "BinaryCrossentropy", keras.losses.binary_crossentropy], ids=named)
def test_the_binary_crossentropy_of_labels_is_that_of_the_logits(models, loss):
    model = models["labels"]
    model.compile("sgd", loss)
    logits = model.predict(tiny.TEXTS, verbose=0).astype("float64")
    shares = 1 / (1 + np.exp(-logits))
    expected = -(MULTI_HOT * np.log(shares) + (1 - MULTI_HOT) * np.log(1 - shares)).mean()
    assert evaluated(model, TAGS)["loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_by_name_are_those_of_the_logits(models):
    model = models["labels"]
    model.compile("sgd", metrics=["accuracy", "binary_accuracy", "precision", "recall", "auc"])
    logits = model.predict(tiny.TEXTS, verbose=0)
    said, found = logits > 0, evaluated(model, TAGS)
    assert found["accuracy"] == found["binary_accuracy"] == pytest.approx((said == MULTI_HOT).mean())
    assert found["precision"] == pytest.approx(MULTI_HOT[said].mean())
    assert found["recall"] == pytest.approx(said[MULTI_HOT > 0].mean())
    # Keras's AUC has 200 thresholds. Probabilities between two of them count as equal, so that counting pairs of rows
    # would give another value.
    auc = keras.metrics.AUC()
    auc.update_state(MULTI_HOT, 1 / (1 + np.exp(-logits)))
    assert found["auc"] == pytest.approx(float(auc.result()))
    model = models["classes"]
    model.compile("sgd", metrics=["acc", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")])
    logits, found = model.predict(tiny.TEXTS, verbose=0), evaluated(model, tiny.LABELS)
    assert found["acc"] == pytest.approx((logits.argmax(axis=-1) == INDICES).mean())
    is_among = [i in np.argsort(-row)[:2] for row, i in zip(logits, INDICES, strict=True)]
    assert found["top_2"] == pytest.approx(np.mean(is_among))


def test_a_regressor_takes_the_binary_crossentropy_of_logits(models):
    model, y = models["numbers"], np.linspace(0, 1, len(tiny.TEXTS))
    model.compile("sgd", "binary_crossentropy")
    shares = 1 / (1 + np.exp(-model.predict(tiny.TEXTS, verbose=0).astype("float64")[:, 0]))
    expected = -(y * np.log(shares) + (1 - y) * np.log(1 - shares)).mean()
    assert evaluated(model, y)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "loss", "expected"),
    [
        ("classes", keras.losses.SparseCategoricalCrossentropy(), "`loss`.*logits.*from_logits=True"),
        ("classes", "binary_crossentropy", "`loss`.*class indices"),
        ("classes", "mse", "`loss`.*class indices"),
        ("classes", keras.losses.MeanAbsoluteError(), "`loss`.*class indices"),
        ("classes", "kl_divergence", "`loss`.*class indices"),
        ("labels", keras.losses.BinaryCrossentropy(), "`loss`.*logits.*from_logits=True"),
        ("labels", tx.losses.WeightedBinaryCrossentropy(from_logits=False), "`loss`.*logits"),
        ("labels", "sparse_categorical_crossentropy", "`loss`.*present or absent"),
        ("labels", keras.losses.CategoricalCrossentropy(from_logits=True), "`loss`.*present or absent"),
        ("labels", keras.losses.Dice(), "`loss`.*present or absent"),
        ("numbers", "sparse_categorical_crossentropy", "`loss`.*on numbers"),
        ("numbers", keras.losses.BinaryCrossentropy(), "`loss`.*logits.*from_logits=True"),
    ],
)
def test_losses_on_probabilities_or_other_targets_are_refused(models, kind, loss, expected):
    with pytest.raises(ValueError, match=expected):
        models[kind].compile("sgd", loss)


@pytest.mark.parametrize(
    ("kind", "metric", "expected"),
    [
        ("labels", keras.metrics.BinaryAccuracy(), "threshold=0.0"),
        ("labels", keras.metrics.Precision(), "EvaluateClassification"),
        ("labels", keras.metrics.AUC(), "from_logits=True"),
        ("labels", "f1_score", "EvaluateClassification"),
        ("labels", keras.metrics.TruePositives(), "EvaluateClassification"),
        ("labels", "crossentropy", "from_logits=True"),
        ("classes", "auc", "one class per row"),
        ("classes", "precision", "EvaluateClassification"),
        ("classes", keras.metrics.SparseCategoricalCrossentropy(), "from_logits=True"),
        ("numbers", keras.metrics.BinaryCrossentropy(), "from_logits=True"),
    ],
)
def test_metrics_on_probabilities_are_refused(models, kind, metric, expected):
    with pytest.raises(ValueError, match=f"(?s)`metrics`.*{expected}"):
        models[kind].compile("sgd", metrics=[metric])


def test_taggers_and_language_models_refuse_losses_that_count_words_without_a_target(tmp_path):
    parts = tiny.backbone(), tiny.preprocessor(tmp_path)
    tagger = tx.models.TokenTagger(*parts, tags=["O", "B-a"])
    for model in (tagger, tx.models.MaskedLanguageModel(*parts), tx.models.DenoisingAutoencoder(*parts)):
        for loss in ("sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True)):
            with pytest.raises(ValueError, match=r"`loss`.*TagCrossentropy"):
                model.compile("sgd", loss)


def test_losses_of_ones_own_and_settings_for_logits_stay(models, tmp_path):
    def own(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1)

    model = models["labels"]
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.3), keras.metrics.Precision(thresholds=0.0)]
    model.compile("sgd", own, metrics=metrics)
    assert model.loss is own
    assert {metric.name for metric in metrics} < evaluated(model, TAGS).keys()
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    expected = evaluated(model, TAGS)
    model.save(tmp_path / "model.keras")
    assert evaluated(keras.saving.load_model(tmp_path / "model.keras"), TAGS) == pytest.approx(expected)


def test_tasks_of_several_read_their_losses_by_name_alike(models):
    other = tx.models.TextRegressor(models["classes"].backbone, models["classes"].preprocessor)
    multi = tx.models.MultiTask({"topic": models["classes"], "number": other})
    multi.compile("sgd", loss={"topic": "sparse_categorical_crossentropy", "number": "mse"})
    assert models["classes"].loss.from_logits
    with pytest.raises(ValueError, match="from_logits=True"):
        multi.compile("sgd", loss={"topic": keras.losses.SparseCategoricalCrossentropy()})
