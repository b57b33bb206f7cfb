"""Decoders as classifiers, embedders and towers: GPT-2 and GPT, in which only the last token sees the whole text."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
from keras import ops

import tfxfer as tx

FAMILIES = ("families/gpt2", "families2/openai_gpt")
TEXTS = ["my card", "Where is my card? I lost it somewhere in town.", "a"]


def outputs(model, texts):
    return ops.convert_to_numpy(model(tx.data.Gate(model).encode_batch((texts,))))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_reads_the_last_token_on_whichever_side_the_padding_is(golden, family):
    if not (golden / family).is_dir():
        pytest.skip(f"no folder {family}")
    classifier = tx.models.TextClassifier.from_preset(golden / family, labels=["a", "b"])
    for model in (
        classifier,
        tx.models.TextEmbedder.from_model(classifier, backbone_only=True),
        tx.models.Siamese.from_model(classifier, backbone_only=True),
        tx.models.TextRegressor.from_model(classifier, backbone_only=True),
    ):
        assert model.tower().pooling == ("last",)
        x = (TEXTS, TEXTS[::-1]) if model.text_form == "separate" else TEXTS
        right = outputs(model, x)
        model.preprocessor.padding_side = "left"
        np.testing.assert_allclose(outputs(model, x), right, atol=1e-5)
        model.preprocessor.padding_side = "right"
    # There is no padding token, and the ids at padding positions have no effect.
    packed = {name: value.numpy() for name, value in classifier.preprocessor(TEXTS).items()}
    other = np.where(packed["padding_mask"] == 1, packed["token_ids"], 7)
    found = ops.convert_to_numpy(classifier({**packed, "token_ids": other}))
    np.testing.assert_allclose(found, outputs(classifier, TEXTS), atol=1e-6)
    # A token does not see later tokens.
    states = [
        ops.convert_to_numpy(classifier.backbone(classifier.preprocessor([text]))) for text in ("my card", "my card is")
    ]
    length = states[0].shape[1]
    np.testing.assert_allclose(states[0], states[1][:, :length], atol=1e-5)
    assert np.isfinite(outputs(classifier, ["", "my card"])).all()  # the first text has no tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_of_a_decoder_answers_as_it_does(golden, family, tmp_path):
    model = tx.models.TextClassifier.from_preset(golden / family, labels=["a", "b"])
    served = tf.saved_model.load(tx.export.saved_model(model, tmp_path / "served")).signatures["serving_default"]
    expected = model.classify(TEXTS).probabilities
    np.testing.assert_allclose(served(text=tf.constant(TEXTS))["probabilities"], expected, atol=1e-5)
    embedder = tx.models.TextEmbedder.from_preset(golden / family)
    served = tf.saved_model.load(tx.export.saved_model(embedder, tmp_path / "vectors")).signatures["embed"]
    np.testing.assert_allclose(served(text=tf.constant(TEXTS))["embedding"], embedder.encode(TEXTS), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_decoder_learns_real_rows(golden, real_data, family):
    keras.utils.set_random_seed(0)
    splits = {}
    for split in ("train", "dev"):
        with open(real_data / "banking77" / f"{split}.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        names = sorted({row["label"] for row in rows})[:8]
        splits[split] = [row for row in rows if row["label"] in names]
    model = tx.models.TextClassifier.from_preset(golden / family, labels=names, sequence_length=32)
    model.compile(tx.optimizers.Auto(2e-3))
    train, dev = ({key: [row[key] for row in rows] for key in ("text", "label")} for rows in splits.values())
    model.fit(train["text"], train["label"], batch_size=32, epochs=4, seed=0, verbose=0)
    scores = model.evaluate(dev["text"], dev["label"], verbose=0, return_dict=True)
    assert scores["accuracy"] > 0.5  # chance is 0.13; the initial weights are random
