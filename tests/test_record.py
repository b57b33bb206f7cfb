"""The training record of a model, and what model cards and exports report from it."""

import json
import pathlib

import keras
import pytest
import tiny

from tfxfer import evaluation, export, models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("record")


def fitted(model, x, y, **kwargs):
    model.compile(keras.optimizers.SGD(0.25), run_eagerly=True)
    model.fit(x, y, verbose=0, **kwargs)
    return model


@pytest.fixture(scope="module")
def classifier(folder):
    model = tiny.classifier(folder, trainable=["head"])
    return fitted(model, tiny.TEXTS, tiny.LABELS, batch_size=3, epochs=2, seed=7)


def test_a_fit_is_noted_with_its_settings_and_no_text(classifier):
    [record] = classifier.training_record
    known = {"rows": 8, "epochs": 2, "steps": 6, "batch_size": 3, "seed": 7, "optimizer": "SGD", "learning_rate": 0.25}
    assert record == {**record, **known, "loss": "ClassCrossentropy", "trainable": ["head"]}
    assert not any(text in json.dumps(record) for text in tiny.TEXTS if text)
    [line] = classifier.record_lines()
    assert "8 rows, 2 epochs of batches of 3 (6 steps), SGD at 0.25, ClassCrossentropy, seed 7; trained: head" in line


def test_each_fit_adds_one_and_one_that_fails_none(folder):
    model = fitted(tiny.classifier(folder), tiny.TEXTS, tiny.LABELS)
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), run_eagerly=True)
    model.fit(iter(zip(tiny.TEXTS, tiny.LABELS, strict=True)), batch_size=4, verbose=0)
    assert [(each["rows"], each["learning_rate"]) for each in model.training_record] == [(8, 0.25), (None, None)]

    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, callbacks=[Fails()])
    assert len(model.training_record) == 2


@pytest.mark.parametrize("kind", ["classifier", "siamese"])
def test_files_and_presets_keep_it_but_for_the_texts(kind, classifier, folder, tmp_path):
    model = classifier
    if kind == "siamese":
        model = models.SiameseClassifier(tiny.embedder(folder), labels=["same", "other"])
        fitted(model, (tiny.TEXTS[:4], tiny.TEXTS[1:5]), ["same", "other"] * 2)
    assert model.example_texts
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for again in (keras.models.load_model(tmp_path / "model.keras"), type(model).from_preset(tmp_path / "preset")):
        assert again.training_record == model.training_record and again.example_texts is None
    for file in pathlib.Path(tmp_path, "preset").glob("*.[jm]*"):
        assert tiny.TEXTS[3] not in file.read_text()


def test_an_export_says_what_was_trained_decided_and_measured_on_the_users_texts(folder, tmp_path):
    model = tiny.classifier(folder)
    assert model.example_texts is None
    fitted(model, tiny.TEXTS, tiny.LABELS)
    model.threshold = 0.25
    scores = evaluation.classification(model, tiny.TEXTS, tiny.LABELS, intervals=0.9, resamples=20)
    metadata = {"license": "cc0-1.0", "data": "Cards and\nloans", "metrics": {"cards": scores}}
    path = export.saved_model(model, tmp_path / "served", metadata=metadata, warmup="none")
    readme = (tmp_path / "served" / "README.md").read_text()
    low, high = scores["intervals"]["accuracy"]
    for line in (
        "- labels (3): `card`, `loan`, `other`",
        "- threshold: 0.25",
        "- license: cc0-1.0",
        "- data: Cards and loans",
        f"accuracy {scores['accuracy']:.4g} ({low:.4g} to {high:.4g})",
        "- trained 20",
    ):
        assert line in readme
    assert "Where is my card?" in readme and "parcel" not in readme
    assert export.describe(path)["training"] == model.training_record
    model.save_to_preset(tmp_path / "preset", metadata={"metrics": {"cards": scores}})
    card = (tmp_path / "preset" / "README.md").read_text()
    assert f"| cards | accuracy | {scores['accuracy']:.4g} ({low:.4g} to {high:.4g}) |" in card
    assert "- Threshold: 0.25" in card and "8 rows, 1 epoch of" in card
