"""Training from a few labeled rows, and from unlabeled texts by encoding each text twice."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import tfxfer as tx
from tfxfer import backbones, models

TEXTS = [f"{text} {word}" for text in tiny.TEXTS for word in ("today", "money")]
LABELS = [label for label in tiny.LABELS for _ in range(2)]


# === The same text twice ===


def test_dropout_makes_the_two_passes_differ_and_training_moves_the_encoder(tmp_path):
    keras.utils.set_random_seed(0)
    embedder = tiny.embedder(tmp_path)
    towers = models.Siamese(embedder)
    x = tx.data.Gate(towers).encode_batch(((TEXTS, TEXTS),))
    apart = [ops.convert_to_numpy(towers(x, training=flag)) for flag in (True, False)]
    distances = [np.abs(found[:, 0] - found[:, 1]).max(axis=1) for found in apart]
    assert (distances[0] > 1e-3).all() and (distances[1] < 1e-6).all()
    before = embedder.backbone.get_weights()
    history = models.simcse(embedder, [*TEXTS, TEXTS[0]], epochs=2, batch_size=8, seed=0, verbose=0)
    assert len(history.history["loss"]) == 2 and np.isfinite(history.history["loss"]).all()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(embedder.backbone.get_weights(), before, strict=True))
    assert embedder.encode(TEXTS[:2]).shape == (2, 8)


def test_an_encoder_without_dropout_is_an_error(tmp_path):
    frozen = tiny.embedder(tmp_path, trainable=False)
    config = {**tiny.backbone().get_config(), "dropout": 0.0, "attention_dropout": 0.0, "embeddings_dropout": 0.0}
    none = models.TextEmbedder(backbones.Backbone.from_config(config), tiny.preprocessor(tmp_path))
    for embedder in (none, frozen):
        with pytest.raises(ValueError, match=r"`embedder`.*dropout.*both passes are the same"):
            models.simcse(embedder, TEXTS)
    with pytest.raises(ValueError, match="`temperature`"):
        models.simcse(tiny.embedder(tmp_path), TEXTS, temperature=0.0)
    with pytest.raises(ValueError, match=r"`texts`.*two different"):
        models.simcse(tiny.embedder(tmp_path), ["a", "a"])
    with pytest.raises(ValueError, match=r"`texts`.*row 1"):
        models.simcse(tiny.embedder(tmp_path), ["a", None])
    with pytest.raises(ValueError, match="`embedder`"):
        models.simcse(tiny.classifier(tmp_path), TEXTS)


# === Few rows ===


@pytest.mark.parametrize("way", ["setfit", "probe", "probe_then_finetune", "lora"])
def test_every_way_gives_a_classifier(way, tmp_path):
    keras.utils.set_random_seed(0)
    start = tiny.embedder(tmp_path, pooling=("cls", "mean"))
    before = start.get_weights()
    more = {"way": way, **({} if way == "probe" else {"epochs": 2})}
    if way == "setfit":
        more["num_pairs"] = 2
    if way == "probe_then_finetune":
        del more["way"]  # the default
    model = models.few_shot(start, TEXTS, LABELS, seed=0, **more)
    assert type(model) is models.TextClassifier and model.labels == ["card", "loan", "other"]
    assert model.pooling == ("cls", "mean")
    right = np.mean([a == b for a, b in zip(model.classify(TEXTS).labels, LABELS, strict=True)])
    assert right > 0.6
    for a, b in zip(start.get_weights(), before, strict=True):  # the given model does not change
        np.testing.assert_array_equal(a, b)
    weights = [ops.convert_to_numpy(w) for w in model.backbone.get_weights()] if way != "lora" else [before[0]]
    moved = any(np.abs(a - b).max() > 0 for a, b in zip(weights, before, strict=False))
    assert moved == (way in ("setfit", "probe_then_finetune"))
    assert (model.backbone.lora is not None) == (way == "lora")


def test_a_probe_is_that_of_freezing_and_starts_from_a_folder(tmp_path):
    start = tiny.embedder(tmp_path)
    start.save_to_preset(tmp_path / "saved")
    labels = [["card", "loan", "other"].index(label) for label in LABELS]
    found = models.few_shot(tmp_path / "saved", TEXTS, np.array(labels), way="probe", sequence_length=9)
    assert found.labels == [0, 1, 2] and found.preprocessor.sequence_length == 9
    other = models.TextClassifier.from_preset(tmp_path / "saved", labels=[0, 1, 2], sequence_length=9)
    tx.freezing.probe(other, TEXTS, labels)
    np.testing.assert_allclose(tiny.outputs(found, TEXTS), tiny.outputs(other, TEXTS), atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (LABELS, {"way": "magic"}, r"`way`.*'setfit', 'probe'"),
        (LABELS[:-1], {}, r"`labels`.*16 labels"),
        (["card"] * 16, {}, r"`labels`.*two different labels"),
        ([["card"]] * 16, {}, r"`labels`.*row 0.*several labels"),
        ([1, *LABELS[1:]], {}, r"`labels`.*not both"),
        (LABELS, {"way": "probe", "epochs": 2}, r"`epochs`.*None for way='probe'"),
        (LABELS, {"way": "probe", "learning_rate": 1e-3}, r"`learning_rate`.*None"),
        (LABELS, {"num_pairs": 0, "way": "setfit"}, "`num_pairs`"),
        (LABELS, {"num_pairs": 2}, "`num_pairs`.*None for way='probe_then_finetune'.*Only way='setfit'"),
        ([f"label {i}" for i in range(16)], {"way": "setfit"}, r"`rows`.*two different texts of one class"),
    ],
)
def test_what_cannot_be_is_an_error(labels, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        models.few_shot(tiny.embedder(tmp_path), TEXTS, labels, **arguments)


def test_an_argument_that_the_class_does_not_have_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"'poling'.*`pooling`"):
        models.few_shot(tiny.embedder(tmp_path), TEXTS, LABELS, poling="cls")
