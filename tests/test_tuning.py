"""Searches with Keras Tuner: what is chosen, what is trained, what is found."""

import copy
import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import types

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow.python.framework import ops as framework

import tfxfer as tx

LABELS = ["card", "loan", "other"]
TEXTS, TARGETS = tiny.TEXTS * 2, tiny.LABELS * 2
FatalError = keras_tuner.errors.FatalValueError
# Keras Tuner itself causes these warnings.
pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def presets(folder):
    """A preset of one block that pools by mean, and one of two blocks that pools by max."""
    for name, blocks, pooling in (("small", 1, "mean"), ("deep", 2, "max")):
        embedder = tx.models.TextEmbedder(tiny.backbone(num_layers=blocks), tiny.preprocessor(folder), pooling=pooling)
        embedder.save_to_preset(folder / name)
    return [str(folder / name) for name in ("small", "deep")]


@pytest.fixture(scope="module")
def rows():
    return tx.data.labelled({"text": TEXTS, "label": TARGETS}, "text", "label", labels=LABELS)


@pytest.fixture(scope="module")
def small(presets):
    """A hypermodel whose space has a single point that is quick to train."""
    space = {"frozen": 0, "layer_decay": None, "pooling": None, "head": "linear", "dropout": 0.0, "batch_size": 8}
    space.update(head_multiplier=1.0, learning_rate=1e-3, warmup=0.0)
    return of_classifiers(presets[0], space=space, optimizer=sgd)


class CountedRows(tx.data.Examples):
    """Rows that count how often they are read."""

    reads = 0

    def batch(self, *args, **kwargs):
        self.reads += 1
        return super().batch(*args, **kwargs)


def counted(rows):
    return CountedRows(rows.x, rows.y, targets=rows.targets)


class Seen(keras.callbacks.Callback):
    """Records the training runs of all trials of a search."""

    def __init__(self):
        super().__init__()
        self.trials = []

    def __deepcopy__(self, memo):
        return self  # Keras Tuner copies callbacks for each trial

    def _state(self):
        variables = [*self.model.weights, *self.model.optimizer.variables]
        kept = [v for v in variables if v.name != "learning_rate"]
        assert len(kept) == len(variables) - 1
        return [v.numpy() for v in kept]

    def on_train_begin(self, logs=None):
        self.trials.append(
            {"steps": self.params["steps"], "start": self._state(), "rates": [], "flags": [], "logs": []}
        )

    def on_train_batch_begin(self, batch, logs=None):
        groups = self.model.layer_groups()
        self.trials[-1]["flags"].append([name for name, layers in groups.items() if layers[0].trainable])

    def on_train_batch_end(self, batch, logs=None):
        self.trials[-1]["rates"].append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        self.trials[-1]["logs"].append(dict(logs))

    def on_train_end(self, logs=None):
        self.trials[-1]["end"] = self._state()


def sgd(rate):
    """An optimizer with state whose step is traced faster than AdamW's."""
    return keras.optimizers.SGD(rate, momentum=0.9)


def of_classifiers(presets, **options):
    return tx.tuning.HyperModel(tx.models.TextClassifier, presets, labels=LABELS, **options)


def of_towers(presets, losses, **options):
    return tx.tuning.HyperModel(tx.models.Siamese, presets, losses=losses, **options)


def parameters(hypermodel, **values):
    """The first guesses of a hypermodel, with some values replaced."""
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    hp.values.update(values)
    hp.ensure_active_values()
    return hp


# === The space ===


def space_of(hypermodel, **values):
    """The names of the entries that are active with these values."""
    hp = parameters(hypermodel, **values)
    return {each.name for each in hp.space if hp.is_active(each)}


ALWAYS = {"preset", "frozen", "layer_decay", "pooling", "head", "dropout", "head_multiplier", "learning_rate"}
ALWAYS |= {"warmup", "batch_size"}


def test_an_entry_is_active_only_where_another_needs_it(presets):
    hypermodel = of_classifiers(presets)
    assert space_of(hypermodel) == ALWAYS
    assert space_of(hypermodel, frozen=1) == ALWAYS | {"unfreezing"}
    assert space_of(hypermodel, head="mlp") == ALWAYS | {"hidden_dim"}
    assert space_of(hypermodel, head="mlp", frozen=1) == ALWAYS | {"hidden_dim", "unfreezing"}


def test_the_first_guess_is_the_plain_fine_tuning_of_the_first_preset(presets):
    hp = parameters(of_classifiers(presets))
    expected = {"preset": presets[0], "frozen": 0, "layer_decay": 1.0, "pooling": "mean", "head": "linear"}
    expected |= {"dropout": 0.1, "head_multiplier": 1.0, "learning_rate": 1e-4, "warmup": 0.1, "batch_size": 32}
    assert hp.values == expected


def test_default_choices_come_from_the_presets(presets):
    spaces = {each.name: each for each in parameters(of_classifiers(presets)).space}
    assert spaces["preset"].values == presets
    assert spaces["frozen"].values == [0, 1]  # the most that both presets have
    assert spaces["pooling"].values == ["mean", "max", "cls"]
    deep = {each.name: each for each in parameters(of_classifiers(presets[1])).space}
    assert deep["frozen"].values == [0, 1, 2]
    towers = {each.name: each for each in parameters(of_towers(presets[1], "CoSENTLoss")).space}
    assert towers["frozen"].values == [0, 1]  # with every block frozen, nothing would train


def test_the_space_is_what_it_was_changed_to(presets):
    space = {
        "frozen": 1,
        "pooling": ["max", ("cls", "mean")],
        "head": None,
        "dropout": {"min_value": 0.1, "max_value": 0.5},
        "batch_size": {"min_value": 8, "max_value": 64, "step": 2, "sampling": "log"},
        "epochs": [2, 3],
    }
    hypermodel = of_classifiers(presets[1], space=space)
    spaces = {each.name: each for each in parameters(hypermodel).space}
    assert {"head", "hidden_dim"}.isdisjoint(spaces)
    assert (spaces["frozen"].value, spaces["unfreezing"].values) == (1, ["none", "gradual"])
    assert spaces["pooling"].values == ["max", "cls+mean"]
    assert (spaces["dropout"].min_value, spaces["dropout"].max_value) == (0.1, 0.5)
    assert (spaces["batch_size"].max_value, spaces["batch_size"].default, spaces["epochs"].values) == (64, 32, [2, 3])
    model = hypermodel.build(parameters(hypermodel, pooling="cls+mean"))
    assert model.pooling == ("cls", "mean") and len(model.head.denses) == 1


def test_what_the_tuner_has_of_the_space_goes_before(presets, folder):
    hypermodel = of_classifiers(presets[0])
    given = keras_tuner.HyperParameters()
    given.Choice("batch_size", [5, 6])
    tuner = keras_tuner.RandomSearch(hypermodel, "val_loss", hyperparameters=given, directory=folder / "given")
    spaces = {each.name: each for each in tuner.oracle.get_space().space}
    assert spaces["batch_size"].values == [5, 6]
    assert set(spaces) == ALWAYS | {"unfreezing", "hidden_dim"}


def losses_of(hypermodel, loss):
    """The loss that a model is compiled with, its searched arguments at their maxima, and the active entries."""
    hp = parameters(hypermodel, loss=loss)
    active = {each.name: each for each in hp.space if hp.is_active(each)}
    for name in ("margin", "scale", "temperature", "student_temperature"):
        if name in active:
            hp.values[name] = active[name].max_value
    return hypermodel.build(hp).loss, set(active)


def test_losses_are_made_with_the_arguments_that_they_have(presets):
    names = ["CoSENTLoss", "TripletLoss", "SupervisedContrastiveLoss", "CosineMSELoss"]
    hypermodel = of_towers(presets[0], names)
    cosent, active = losses_of(hypermodel, "CoSENTLoss")
    assert isinstance(cosent, tx.losses.CoSENTLoss) and cosent.scale == 2 * tx.losses.CoSENTLoss().scale
    assert {"margin", "temperature"}.isdisjoint(active)
    triplet, active = losses_of(hypermodel, "TripletLoss")
    assert isinstance(triplet, tx.losses.TripletLoss) and triplet.margin == 2 * tx.losses.TripletLoss().margin
    assert {"scale", "temperature"}.isdisjoint(active)
    contrastive, _ = losses_of(hypermodel, "SupervisedContrastiveLoss")
    assert contrastive.temperature == 2 * tx.losses.SupervisedContrastiveLoss().temperature
    cosine, active = losses_of(hypermodel, "CosineMSELoss")
    assert isinstance(cosine, tx.losses.CosineMSELoss)
    assert {"margin", "scale", "temperature"}.isdisjoint(active)


def test_any_loss_can_be_searched(presets):
    plain = {name for name, value in vars(tx.losses).items() if name.endswith("Loss")}
    wrapping = {"MatryoshkaLoss", "Matryoshka2dLoss", "AdaptiveLayerLoss", "CrossBatchMemoryLoss"}
    wrapping.add("GlobalOrthogonalRegularizationLoss")
    parameters(of_towers(presets[0], sorted(plain - wrapping)))
    own = {"matryoshka": lambda scale=4.0: tx.losses.MatryoshkaLoss(tx.losses.CoSENTLoss(scale), [8, 4])}
    loss, _ = losses_of(of_towers(presets[0], own), "matryoshka")
    assert isinstance(loss, tx.losses.MatryoshkaLoss) and loss.loss.scale == 8.0


# === Models ===


def test_the_model_is_what_the_values_say(presets):
    hypermodel = of_classifiers(presets, sequence_length=9, seed=3)
    values = {"preset": presets[1], "frozen": 1, "layer_decay": 0.8, "pooling": "cls", "head": "mlp", "hidden_dim": 256}
    hp = parameters(hypermodel, **values, unfreezing="none", dropout=0.3, head_multiplier=5.0, learning_rate=2e-3)
    model = hypermodel.build(hp)
    assert model.labels == LABELS and model.preprocessor.sequence_length == 9
    assert model.pooling == ("cls",) and model.head.hidden_dims == (256,) and model.head.dropout == 0.3
    flags = {name: layers[0].trainable for name, layers in model.layer_groups().items()}
    assert flags == {"embeddings": False, "block_0": False, "block_1": True, "head": True}
    optimizer = model.optimizer
    assert isinstance(optimizer, tx.optimizers.Layerwise)
    expected = {"embeddings": 0.8**3, "block_0": 0.8**2, "block_1": 0.8, "head": 5.0}
    assert optimizer.group_multipliers == pytest.approx(expected)
    assert float(optimizer.learning_rate) == pytest.approx(2e-3)
    pretrained = tx.backbones.load(presets[1]).backbone
    for one, other in zip(model.backbone.get_weights(), pretrained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = hypermodel.build(hp)  # the seed makes the build deterministic
    np.testing.assert_array_equal(again.head.denses[0].kernel.numpy(), model.head.denses[0].kernel.numpy())


def test_multi_label_and_the_way_to_pool_are_kept(presets):
    hypermodel = tx.tuning.HyperModel(
        tx.models.TextClassifier, presets, labels=LABELS, multi_label=True, space={"pooling": None}
    )
    for preset, pooling in zip(presets, ("mean", "max"), strict=True):
        model = hypermodel.build(parameters(hypermodel, preset=preset))
        assert model.pooling == (pooling,) and model.multi_label


def test_the_dtype_policy_outlives_what_the_tuner_clears(presets):
    hypermodel = of_classifiers(presets[0], dtype="mixed_float16")
    keras.backend.clear_session()
    model = hypermodel.build(parameters(hypermodel))
    assert model.backbone.dtype_policy.name == "mixed_float16"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert keras.config.dtype_policy().name == "float32"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        hypermodel = of_classifiers(presets[0])
        keras.backend.clear_session()
        keras.config.set_dtype_policy("float32")
        model = hypermodel.build(parameters(hypermodel))
        assert model.get_layer("token_ids").dtype_policy.name == "mixed_bfloat16"  # the preset was saved with its own
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("epochs", "unit", "times"),
    [
        (1, "steps", (1, 1, 1)),  # an epoch of two steps
        (2, "epochs", (1, 1, 1)),
        (3, "epochs", (1, 2, 2)),
        (4, "epochs", (1, 2, 3)),
        (7, "epochs", (2, 4, 6)),
    ],
)
def test_gradual_unfreezing_thaws_in_equal_parts_and_to_the_last(presets, rows, monkeypatch, epochs, unit, times):
    given = []

    def fit(self, x, callbacks, **kwargs):
        given.extend(callbacks)
        return types.SimpleNamespace(history={}, epoch=[])

    monkeypatch.setattr(tx.models.TextClassifier, "fit", fit)
    hypermodel = tx.tuning.HyperModel(
        tx.models.TextClassifier, presets[1], labels=LABELS, space={"pooling": None, "batch_size": 8}
    )
    hp = parameters(hypermodel, frozen=2, unfreezing="gradual")
    model = hypermodel.build(hp)
    assert [name for name, layers in model.layer_groups().items() if layers[0].trainable] == ["head"]
    hypermodel.fit(hp, model, rows, epochs=epochs)
    [thawing] = [callback for callback in given if isinstance(callback, tx.callbacks.GradualUnfreezing)]
    assert thawing.unit == unit
    assert thawing.at == dict(zip(("block_1", "block_0", "embeddings"), times, strict=True))


# === Tasks ===

SHARED = {"preset", "frozen", "layer_decay", "learning_rate", "warmup", "batch_size"}


@keras.saving.register_keras_serializable("tests")
class Rater(tx.models.TextTask):
    """A custom task that maps the mean of the tokens to a number between 0 and 1."""

    def __init__(self, backbone, preprocessor=None, *, activation, pooling=None, trainable=None, **kwargs):
        self.activation = activation
        top = keras.layers.Dense(1, activation=activation, dtype="float32", name="rating")
        states = tx.layers.Pooling("mean")(backbone(backbone.input), padding_mask=backbone.input["padding_mask"])
        parts = {"backbone": backbone, "preprocessor": preprocessor, "top": [top], "trainable": trainable}
        super().__init__(backbone.input, top(states), **parts, **kwargs)

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


class Compiled(Rater):
    """A `Rater` with its own entry and its own loss."""

    @classmethod
    def search_space(cls, presets, arguments):
        delta = tx.tuning.Entry({"min_value": 0.1, "max_value": 2.0}, instead=1.0)
        return {**super().search_space(presets, arguments), "delta": delta, "warmup": tx.tuning.Entry(0.0)}

    def compile_for_search(self, values, optimizer):
        self.compile(optimizer, loss=keras.losses.Huber(values["delta"]), metrics=["mae"])


def test_a_regressor_is_searched_as_a_classifier_is(presets):
    space = {"frozen": 1, "unfreezing": "none"}
    hypermodel = tx.tuning.HyperModel(tx.models.TextRegressor, presets[0], num_outputs=2, space=space)
    assert space_of(hypermodel) == ALWAYS | {"unfreezing"}
    hp = parameters(hypermodel, head="mlp", hidden_dim=128, head_multiplier=4.0)
    assert hp.values["dropout"] == 0.0  # the task's default
    model = hypermodel.build(hp)
    assert isinstance(model, tx.models.TextRegressor) and model.output.shape == (None, 2)
    assert model.head.hidden_dims == (128,) and model.optimizer.group_multipliers["head"] == 4.0
    y = np.linspace(0, 1, 2 * len(TEXTS)).reshape(-1, 2)
    history = hypermodel.fit(hp, model, TEXTS, y, validation_data=(TEXTS, y), epochs=2, verbose=0).history
    assert {"loss", "mae", "val_loss", "val_mae"} <= set(history) and len(history["loss"]) == 2


def of_taggers(presets, **options):
    return tx.tuning.HyperModel(tx.models.TokenTagger, presets, **{"tags": tiny.TAGS, **options})


class Renamed(tx.models.TokenTagger):
    """A task without a constructor of its own, whose signature Python 3.11.2 reads from `__new__`."""


def test_a_subclass_without_a_constructor_has_the_defaults_of_its_task(presets):
    hypermodel = tx.tuning.HyperModel(Renamed, presets, tags=tiny.TAGS)
    assert parameters(hypermodel).values == parameters(of_taggers(presets)).values
    assert parameters(hypermodel).values["dropout"] == 0.1


def test_a_tagger_is_searched_by_head_and_pooling_of_words(presets):
    hypermodel = of_taggers(presets, split="whitespace")
    own = {"word_pooling", "head", "dropout", "head_multiplier"}
    assert space_of(hypermodel, head="crf") == SHARED | own
    spaces = {each.name: each for each in parameters(hypermodel).space}
    assert spaces["word_pooling"].values == list(tx.layers.WORD_POOLING) and spaces["head"].values == ["linear", "crf"]
    values = parameters(hypermodel).values
    assert {name: values[name] for name in own} == {
        "word_pooling": "first",
        "head": "linear",
        "dropout": 0.1,
        "head_multiplier": 10.0,
    }
    hp = parameters(hypermodel, preset=presets[1], head="crf", word_pooling="max", dropout=0.3, frozen=1)
    model = hypermodel.build(hp)
    assert (model.crf is not None, model.word_pooling, model.dropout) == (True, "max", 0.3)
    assert model.split == "whitespace"
    assert model.tags == tiny.TAGS and isinstance(model.loss, tx.losses.ChainCrossentropy)
    assert training_groups(model) == ["block_1", "head"] and model.optimizer.group_multipliers["head"] == 10.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tags": None}, "`tags`. Expected a value"),
        ({"tags": ["O", "E-thing"]}, "`tags`"),
        ({"scheme": "IOB1"}, "`scheme`"),
        ({"head": "crf"}, "`head`. Expected no argument that is an entry"),
        ({"space": {"head": "mlp"}}, "`space['head']`. Expected one of 'linear', 'crf'"),
        ({"space": {"word_pooling": "cls"}}, "`space['word_pooling']`. Expected one of"),
        ({"space": {"pooling": "cls"}}, "`space`. Expected one of"),
    ],
)
def test_a_search_for_a_tagger_that_cannot_be_is_an_error_at_once(presets, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        of_taggers(presets[0], **arguments)


def training_groups(model):
    return [name for name, layers in model.layer_groups().items() if layers[0].trainable]


def test_a_tagger_of_a_trial_writes_the_entities_that_it_finds(presets):
    hypermodel = of_taggers(presets[0], space={"frozen": 0, "batch_size": 6}, optimizer=sgd)
    hp = parameters(hypermodel)
    model, rows = hypermodel.build(hp), (tiny.WORD_ROWS, tiny.TAG_ROWS)
    evaluate = tx.callbacks.EvaluateEntities(*rows)
    history = hypermodel.fit(hp, model, *rows, callbacks=[evaluate], verbose=0).history
    assert history["val_entity_f1"] == [tx.evaluation.entities(model, *rows)["micro_f1"]]


@pytest.mark.slow
def test_taggers_are_searched_by_the_entities_that_they_find(presets, folder):
    space = {"frozen": 0, "layer_decay": None, "batch_size": 6, "word_pooling": None, "dropout": 0.0, "warmup": 0.0}
    space |= {"head": "crf", "learning_rate": 0.2, "head_multiplier": 1.0}
    hypermodel = of_taggers(presets[0], space=space, optimizer=sgd)
    objective = keras_tuner.Objective("val_entity_f1", "max")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=1, directory=folder / "taggers")
    rows = tx.data.tagged({"words": tiny.WORD_ROWS, "tags": tiny.TAG_ROWS}, labels=tiny.TAGS)
    evaluate = tx.callbacks.EvaluateEntities(tiny.WORD_ROWS, tiny.TAG_ROWS)
    tuner.search(rows, validation_data=(tiny.WORD_ROWS, tiny.TAG_ROWS), callbacks=[evaluate], epochs=8, verbose=0)
    [row] = tx.tuning.trials(tuner)
    found = tx.evaluation.entities(tx.tuning.best_model(tuner), rows)
    assert row["status"] == "COMPLETED" and row["score"] == pytest.approx(found["micro_f1"]) and row["score"] > 0


def test_a_task_of_ones_own_has_the_entries_that_all_share(presets, folder):
    hypermodel = tx.tuning.HyperModel(
        Rater, presets[1], activation="sigmoid", losses={"mse": keras.losses.MeanSquaredError}, space={"frozen": [0, 2]}
    )
    assert space_of(hypermodel) == SHARED | {"loss"}
    model = hypermodel.build(parameters(hypermodel, frozen=2))
    assert type(model) is Rater and model.activation == "sigmoid"
    assert [name for name, layers in model.layer_groups().items() if layers[0].trainable] == ["head"]
    assert isinstance(model.loss, keras.losses.MeanSquaredError)


def test_a_task_of_ones_own_may_say_more_and_is_searched(presets, folder):
    space = {"frozen": 0, "layer_decay": None, "batch_size": 8, "delta": [0.5, 1.5], "learning_rate": 1e-3}
    hypermodel = tx.tuning.HyperModel(Compiled, presets[0], activation="sigmoid", space=space)
    assert space_of(hypermodel) == (SHARED - {"layer_decay"}) | {"delta"}
    tuner = keras_tuner.RandomSearch(hypermodel, "val_mae", max_trials=2, seed=1, directory=folder / "own")
    y = np.linspace(0, 1, len(TEXTS))
    tuner.search(TEXTS, y, validation_data=(TEXTS, y), verbose=0)
    table = tx.tuning.trials(tuner)
    assert [row["status"] for row in table] == ["COMPLETED"] * 2 and {row["delta"] for row in table} == {0.5, 1.5}
    best = tx.tuning.best_model(tuner)
    error = np.abs(best.predict(TEXTS, verbose=0)[:, 0] - y).mean()
    assert type(best) is Compiled and error == pytest.approx(table[0]["score"], rel=1e-4)


@pytest.mark.parametrize(
    ("task", "arguments", "entries"),
    [
        (tx.models.SiameseClassifier, {"labels": LABELS, "features": ("u", "v"), "chunk_size": 4}, set()),
        (tx.models.Siamese, {"losses": "CoSENTLoss", "chunk_size": 4, "normalize": False}, {"loss", "scale"}),
        (tx.models.TextEmbedder, {"losses": ["BatchHardTripletLoss"], "normalize": False}, {"loss", "margin"}),
    ],
)
def test_embedders_of_any_kind_pool_in_a_way_that_is_searched(presets, task, arguments, entries):
    hypermodel = tx.tuning.HyperModel(task, presets[1], **arguments)
    assert space_of(hypermodel) == SHARED | {"pooling"} | entries
    for pooling, expected in (("cls+mean", ("cls", "mean")), (None, ("max",))):
        hp = parameters(hypermodel)
        hp.values["pooling"] = pooling
        model = hypermodel.build(hp)
        embedder = getattr(model, "embedder", model)
        assert type(model) is task and embedder.pooling == expected
        assert getattr(model, "chunk_size", None) == arguments.get("chunk_size")
        assert embedder.embedding_spec().normalize == arguments.get("normalize", True)


def test_a_classifier_may_be_searched_over_losses(presets):
    losses = {
        "plain": tx.losses.ClassCrossentropy,
        "sharp": lambda scale=2.0: tx.losses.ClassCrossentropy(label_smoothing=1 / (10 * scale)),
    }
    hypermodel = of_classifiers(presets[0], losses=losses)
    assert space_of(hypermodel, loss="plain") == ALWAYS | {"loss"}
    assert space_of(hypermodel, loss="sharp") == ALWAYS | {"loss", "scale"}
    model = hypermodel.build(parameters(hypermodel, loss="sharp", scale=4.0))
    assert model.loss.label_smoothing == 1 / 40 and model.compile_arguments["metrics"][0].name == "accuracy"
    assert isinstance(hypermodel.build(parameters(hypermodel)).loss, tx.losses.ClassCrossentropy)


# === Searches ===


@pytest.fixture(scope="module")
def random_search(presets, rows, folder):
    """A search over both presets, with its recorded trials, reads of its data, and gradients left in the registry."""
    space = {"batch_size": [4, 8], "hidden_dim": [4, 6], "learning_rate": [1e-2, 1e-3], "warmup": [0.0, 0.5]}
    space.update(pooling=None, unfreezing="none", layer_decay=[0.8, 1.0], head_multiplier=1.0, dropout=0.0)
    hypermodel = of_classifiers(presets, space=space, optimizer=sgd)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_loss", max_trials=3, seed=9, directory=folder / "random")
    seen, train, dev = Seen(), counted(rows), counted(rows)
    registered = len(framework.gradient_registry._registry)
    tuner.search(train, validation_data=dev, epochs=2, callbacks=[seen], verbose=0)
    registered = len(framework.gradient_registry._registry) - registered
    return {"tuner": tuner, "seen": seen.trials, "reads": (train.reads, dev.reads), "registered": registered}


@pytest.fixture(scope="module")
def best(random_search):
    return tx.tuning.best_model(random_search["tuner"])


def in_order(tuner):
    """The rows of the table in the order of the trials."""
    return sorted(tx.tuning.trials(tuner), key=lambda trial: trial["trial"])


def test_the_table_tells_what_happened_best_first(random_search):
    table = tx.tuning.trials(random_search["tuner"])
    assert [row["status"] for row in table] == ["COMPLETED"] * 3
    scores = [row["score"] for row in table]
    assert scores == sorted(scores) and len(set(scores)) == 3
    for row, seen in zip(in_order(random_search["tuner"]), random_search["seen"], strict=True):
        losses = [logs["val_loss"] for logs in seen["logs"]]
        assert row["score"] == pytest.approx(min(losses))
        assert row["epoch"] == 1 + int(np.argmin(losses))
        assert row["seconds"] > 0
        assert ("unfreezing" in row) == (row["frozen"] > 0) and ("hidden_dim" in row) == (row["head"] == "mlp")
    lines = str(table).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[0].split()[:6] == ["trial", "status", "score", "epoch", "seconds", "preset"]
    assert f"{table[0]['score']:.4g}" in lines[1]
    assert lines[-1].startswith("in all trials: ") and "head_multiplier=1" in lines[-1]
    for name in ("preset", "batch_size", "head", "frozen"):
        assert len({row[name] for row in table}) == 2, f"the tests below say more with both of {name}"


def test_a_search_is_taken_up_from_its_folder_with_its_table(random_search, presets, folder):
    tuner = random_search["tuner"]
    again = keras_tuner.RandomSearch(tuner.hypermodel, "val_loss", max_trials=3, directory=folder / "random")
    assert tx.tuning.trials(again) == tx.tuning.trials(tuner)


def test_texts_are_tokenised_once_for_each_preset(random_search):
    assert random_search["reads"] == (2, 2)


@pytest.mark.parametrize("change", ["a text", "a target", "a weight", "nothing"])
def test_rows_that_were_changed_in_place_are_read_again(change, small, small_model, monkeypatch):
    texts, targets, weights = list(tiny.TEXTS), np.array(tiny.LABELS, object), np.ones(8)
    given, read, tokenize = [], [], tx.preprocessing.Tokenizer.__call__
    monkeypatch.setattr(tx.preprocessing.Tokenizer, "__call__", lambda *args: read.append(1) or tokenize(*args))

    def fit(model, batches, **kwargs):
        given.append(batches)
        return types.SimpleNamespace(history={}, epoch=[])

    monkeypatch.setattr(type(small_model), "fit", fit)

    def made():
        small.fit(parameters(small), small_model, texts, targets, weights)
        [(x, y, weight)] = given.pop()  # the eight rows, in any order
        ids = np.array(sorted(x["token_ids"].numpy().tolist()))
        return {"a text": ids, "a target": np.sort(y), "a weight": np.sort(weight)}

    before = made()
    assert read
    read.clear()
    texts[0] = "Another card" if change == "a text" else texts[0]
    targets[0] = "loan" if change == "a target" else targets[0]
    weights[0] = 2.0 if change == "a weight" else weights[0]
    after = made()
    assert [name for name in before if not np.array_equal(before[name], after[name])] == (
        [] if change == "nothing" else [change]
    )
    assert bool(read) == (change != "nothing")


def test_the_batch_size_is_that_of_the_trial(random_search):
    steps = [trial["steps"] for trial in random_search["seen"]]
    assert steps == [len(TEXTS) // row["batch_size"] for row in in_order(random_search["tuner"])]


def test_the_rate_rises_and_falls_over_the_whole_trial(random_search):
    for row, seen in zip(in_order(random_search["tuner"]), random_search["seen"], strict=True):
        np.testing.assert_allclose(seen["rates"], rates(row, 2 * seen["steps"]), rtol=1e-5, atol=1e-9)


def rates(row, steps, first=0):
    """The rates of all steps from `first`: linear up to the peak, then half a cosine down to 0."""
    up = round(row["warmup"] * steps)
    made = [(t / up if t < up else (1 + math.cos(math.pi * (t - up) / (steps - up))) / 2) for t in range(first, steps)]
    return np.array(made) * row["learning_rate"]


def test_trials_leave_no_gradients_behind_in_tensorflows_registry(random_search):
    # The package has one entry, made when a graph first needs it; three trials would leave three.
    assert random_search["registered"] <= 1


def test_the_best_model_repeats_its_score(random_search, best, rows):
    x = tx.data.batches(rows, best.preprocessor, shuffle=False)
    loss = best.evaluate(x, verbose=0)[0]
    assert loss == pytest.approx(tx.tuning.trials(random_search["tuner"])[0]["score"], rel=1e-5)


def test_the_best_model_is_exported(best, folder):
    path = tx.export.saved_model(best, folder / "serving")
    served = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(tiny.TEXTS))
    np.testing.assert_allclose(served["probabilities"], best.classify(tiny.TEXTS).probabilities, atol=1e-5)


@pytest.fixture(scope="module")
def hyperband(presets, rows, folder):
    """Trials of one and two epochs, one of which resumes where another stopped."""
    space = {"learning_rate": [1e-2, 1e-3], "frozen": 1, "unfreezing": "gradual", "head": None, "dropout": None}
    space.update(pooling=None, layer_decay=None, head_multiplier=None, warmup=0.25, batch_size=4)
    hypermodel = of_classifiers(presets[0], space=space, seed=5, optimizer=sgd)
    objective = keras_tuner.Objective("val_confidence", "max")
    tuner = keras_tuner.Hyperband(hypermodel, objective, max_epochs=2, factor=2, seed=0, directory=folder / "hyperband")
    seen, epochs = Seen(), []
    evaluate = tx.callbacks.Evaluate(lambda m: {"confidence": m.classify(TEXTS).probabilities.max(axis=-1).mean()})
    fit = tx.models.TextClassifier.fit

    def watched(self, x, **kwargs):
        epochs.append(x.epoch)
        return fit(self, x, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tx.models.TextClassifier, "fit", watched)
        tuner.search(rows, callbacks=[evaluate, seen], verbose=0)
    return tuner, seen.trials, epochs


def test_hyperband_decides_the_epochs_and_any_evaluation_is_an_objective(hyperband):
    tuner, seen, _ = hyperband
    table = in_order(tuner)
    assert [row["epochs"] for row in table] == [1, 1, 2]
    for row, trial in zip(table, seen, strict=True):
        confidences = [logs["val_confidence"] for logs in trial["logs"]]
        assert row["score"] == pytest.approx(max(confidences))
    best = tx.tuning.best_model(tuner)
    score = best.classify(TEXTS).probabilities.max(axis=-1).mean()
    assert score == pytest.approx(tx.tuning.trials(tuner)[0]["score"], rel=1e-5)


def test_a_trial_goes_on_where_another_stopped(hyperband):
    tuner, seen, epochs = hyperband
    trials = [tuner.oracle.trials[row["trial"]] for row in in_order(tuner)]
    numbers = [i for i, trial in enumerate(trials) if "tuner/trial_id" in trial.hyperparameters.values]
    assert numbers == [2]
    before = [trial.trial_id for trial in trials].index(trials[2].hyperparameters.values["tuner/trial_id"])
    assert len(seen[2]["start"]) == len(seen[before]["end"])
    for one, other in zip(seen[2]["start"], seen[before]["end"], strict=True):  # weights, moments, steps
        np.testing.assert_array_equal(one, other)
    row = in_order(tuner)[2]
    np.testing.assert_allclose(seen[2]["rates"], rates(row, 8, first=4), rtol=1e-5)
    assert (len(seen[2]["logs"]), row["epoch"]) == (1, 2)
    assert epochs == [0, 0, 1]


def test_what_is_frozen_thaws_within_a_trial(hyperband):
    _, seen, _ = hyperband
    everything = ["embeddings", "block_0", "head"]
    halves = [["head"]] * 2 + [everything] * 2
    assert [trial["flags"] for trial in seen] == [halves, halves, [everything] * 4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a Gaussian process fitted to two points
def test_bayesian_optimization_completes_on_texts_and_labels(presets, folder):
    space = {"frozen": [0, 1], "unfreezing": "none", "pooling": None, "hidden_dim": 4, "batch_size": 8, "epochs": 1}
    hypermodel = of_classifiers(presets[0], space=space)
    objective = keras_tuner.Objective("val_macro_f1", "max")
    options = {"max_trials": 3, "num_initial_points": 2, "seed": 1, "directory": folder / "bayesian"}
    tuner = keras_tuner.BayesianOptimization(hypermodel, objective, **options)
    callbacks = [tx.callbacks.EvaluateClassification(TEXTS, TARGETS)]
    weights = np.ones(len(TEXTS), "float32")
    tuner.search(TEXTS, TARGETS, weights, validation_data=(TEXTS, TARGETS), callbacks=callbacks, verbose=0)
    table = tx.tuning.trials(tuner)
    assert [row["status"] for row in table] == ["COMPLETED"] * 3
    found = tx.evaluation.classification(tx.tuning.best_model(tuner), TEXTS, TARGETS)
    assert found["macro_f1"] == table[0]["score"]


def test_embedders_are_searched_over_losses(presets, folder):
    space = {"frozen": 0, "pooling": None, "layer_decay": None, "batch_size": 4, "learning_rate": 1e-3}
    hypermodel = tx.tuning.HyperModel(
        tx.models.Siamese, presets[0], losses=["CoSENTLoss", "CosineMSELoss"], space=space, optimizer=sgd
    )
    scores = np.linspace(0, 1, 8, dtype="float32")
    pairs = tx.data.pairs({"a": tiny.TEXTS, "b": tiny.TEXTS[::-1], "score": scores}, ("a", "b"), target="score")
    objective = keras_tuner.Objective("val_spearman", "max")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=2, seed=1, directory=folder / "siamese")
    tuner.search(pairs, callbacks=[tx.callbacks.EvaluateSimilarity(pairs)], verbose=0)
    table = tx.tuning.trials(tuner)
    assert [row["status"] for row in table] == ["COMPLETED"] * 2
    assert {row["loss"] for row in table} == {"CoSENTLoss", "CosineMSELoss"}
    assert all(("scale" in row) == (row["loss"] == "CoSENTLoss") for row in table)
    embedder = tx.tuning.best_model(tuner).embedder
    assert tx.evaluation.similarity(embedder, pairs)["spearman"] == pytest.approx(table[0]["score"])


# === Errors ===


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"presets": "no_such_preset"}, "argument `preset`. Expected a built-in preset"),
        ({"presets": []}, "argument `presets`. Expected a preset, or a list of different presets"),
        ({"presets": ["same", "same"]}, "argument `presets`. Expected a preset, or a list of different presets"),
        ({"labels": ["card", "card"]}, "argument `labels`"),
        ({"labels": None}, "argument `labels`. Expected a value: `TextClassifier` needs one"),
        ({"label": LABELS}, "argument `label`. Expected an argument of `TextClassifier`: labels, multi_label, "),
        ({"trainable": True}, "argument `trainable`. Expected an argument of `TextClassifier`"),
        ({"pooling": "cls"}, "argument `pooling`. Expected no argument that is an entry of the space"),
        ({"task": "classifier"}, "argument `task`. Expected a class of `tfxfer.models`, or a subclass of one"),
        ({"task": keras.Model}, "argument `task`. Expected a class of `tfxfer.models`"),
        ({"task": tx.models.TextEmbedder}, "argument `labels`. Expected an argument of `TextEmbedder`: pooling, "),
        ({"losses": "CoSENT"}, "argument `losses`. Expected one of"),
        ({"optimizer": "adam"}, "argument `optimizer`. Expected a function of the learning rate to an optimizer"),
        ({"batches": [8]}, "argument `batches`. Expected a dict of options"),
        ({"batches": {"batch_size": 8}}, "`batch_size` is an entry of `space`, `seed` an argument of the hypermodel"),
        ({"seed": -1}, "argument `seed`"),
        ({"sequence_length": 99}, "argument `sequence_length`. Expected at most 32"),
        ({"space": ["frozen"]}, "argument `space`. Expected a dict of entry to values"),
        ({"space": {"freeze": 1}}, "argument `space`. Expected one of 'preset', 'frozen', "),
        ({"space": {"preset": "other"}}, "argument `space['preset']`. Expected one of"),
        ({"space": {"frozen": [0, 2]}}, "argument `space['frozen']`. Expected ints from 0 to 1"),
        ({"space": {"frozen": 0.5}}, "argument `space['frozen']`"),
        ({"space": {"unfreezing": "slow"}}, "argument `space['unfreezing']`. Expected one of 'none', 'gradual'"),
        ({"space": {"layer_decay": 1.5}}, "argument `space['layer_decay']`"),
        ({"space": {"pooling": ["mean", "median"]}}, "argument `space['pooling']`. Expected one of"),
        ({"space": {"pooling": {"min_value": "cls", "max_value": "max"}}}, "a list of values to choose from"),
        ({"space": {"head": "tree"}}, "argument `space['head']`. Expected one of 'linear', 'mlp'"),
        ({"space": {"hidden_dim": 0}}, "argument `space['hidden_dim']`"),
        ({"space": {"dropout": 1.0}}, "argument `space['dropout']`. Expected a number >= 0.0 and < 1.0"),
        ({"space": {"learning_rate": [1e-3, 0.0]}}, "argument `space['learning_rate']`"),
        ({"space": {"learning_rate": []}}, "An empty list leaves nothing to choose"),
        ({"space": {"batch_size": [8, 8]}}, "argument `space['batch_size']`. Expected distinct values"),
        ({"space": {"warmup": {"min_value": 0.1}}}, "Expected a dict with min_value and max_value"),
        ({"space": {"warmup": {"min_value": 0.1, "max_value": 0.1}}}, "Expected min_value < max_value"),
        ({"space": {"warmup": {"least": 0.1, "max_value": 0.2}}}, "Expected one of 'min_value', 'max_value', 'step'"),
    ],
)
def test_a_hypermodel_that_cannot_be_is_an_error_at_once(presets, arguments, said):
    arguments = {"task": tx.models.TextClassifier, "presets": presets[0], "labels": LABELS, **arguments}
    with pytest.raises(ValueError) as error:
        tx.tuning.HyperModel(**arguments)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            None,
            "argument `losses`. Expected names of losses, or a dict of name to function. Received: losses=None.",
        ),
        ("CosineLoss", "argument `losses`. Expected one of"),
        ([], "Expected names of losses, or a dict of name to a function"),
        ({"mine": "CoSENTLoss"}, "Expected functions that make a loss"),
        ({1: tx.losses.CoSENTLoss}, "Expected names that are strings"),
        ({"mine": tx.losses.CoSENTLoss()}, "Expected functions that make a loss"),
    ],
)
def test_losses_that_cannot_be_are_an_error_at_once(presets, losses, said):
    with pytest.raises(ValueError) as error:
        of_towers(presets[0], losses)
    assert said in str(error.value)


@pytest.mark.parametrize("missing", ["keras_tuner", "tensorboard"])
def test_where_keras_tuner_is_missing_the_error_says_how_to_install_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: `pip install tfxfer\[tune\]`"):
        tx.tuning.HyperModel  # noqa: B018


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Tuner'"):
        tx.tuning.Tuner  # noqa: B018
    assert {"Entry", "HyperModel", "best_model", "trials"} <= set(dir(tx.tuning))


@pytest.fixture(scope="module")
def small_model(small):
    return small.build(parameters(small))


def stream(rows):
    return tf.data.Dataset.from_tensor_slices((rows.columns[0], rows.y)).filter(lambda x, y: True)


def other_labels():
    return tx.data.labelled({"text": TEXTS, "label": TARGETS}, "text", "label", labels=LABELS[::-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda rows, model: {"x": tx.data.batches(rows, model.preprocessor)}, "argument `x`. Expected rows, as"),
        (lambda rows, model: {"x": rows, "validation_data": tx.data.batches(rows, model.preprocessor)}, "`validation_"),
        (lambda rows, model: {"x": TEXTS}, "argument `x`. Expected texts and targets"),
        (lambda rows, model: {"x": TEXTS, "y": ["loans"] * len(TEXTS)}, "loans"),
        (lambda rows, model: {"x": other_labels()}, "argument `x`. Expected rows with the hypermodel's labels"),
        (lambda rows, model: {"x": stream(rows)}, "Expected a known number of rows"),
        (lambda rows, model: {"x": rows, "batch_size": 8}, "argument `batch_size`. Expected no such argument"),
        (lambda rows, model: {"x": rows, "shuffle": True}, "argument `shuffle`. Expected no such argument"),
        (lambda rows, model: {"x": rows, "epochs": 0}, "argument `epochs`"),
    ],
)
def test_data_that_no_trial_could_train_on_end_the_search(small, small_model, rows, arguments, said):
    with pytest.raises(FatalError) as error:
        small.fit(parameters(small), small_model, **arguments(rows, small_model))
    assert said in str(error.value)


def test_epochs_are_given_once(presets, rows):
    hypermodel = of_classifiers(presets[0], space={"epochs": [1, 2]})
    hp = parameters(hypermodel)
    with pytest.raises(FatalError, match="no such argument with `epochs` in the space"):
        hypermodel.fit(hp, hypermodel.build(hp), rows, epochs=2)


def search(hypermodel, objective, folder, *data, **kwargs):
    tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=3, directory=folder)
    tuner.search(*data, verbose=0, **kwargs)
    return tuner


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (keras_tuner.Objective("val_accuracy", "max"), "Expected one of the values that training logs, loss, accura"),
        ([keras_tuner.Objective(name, "max") for name in ("accuracy", "val_f1")], "objective='val_f1'"),
        (None, "Expected the name of a value that training logs"),
    ],
)
def test_an_objective_that_nothing_writes_ends_the_search_before_its_first_step(small, rows, tmp_path, objective, said):
    steps = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    with pytest.raises(FatalError) as error:
        search(small, objective, tmp_path, rows, callbacks=[watch])
    assert said in str(error.value) and not steps


def test_what_callbacks_of_your_own_write_is_known_after_an_epoch(small, rows, tmp_path):
    seen = Seen()  # a custom callback may log anything
    with pytest.raises(FatalError, match="Expected one of the values that training logs, accuracy, loss"):
        search(small, keras_tuner.Objective("val_accuracy", "max"), tmp_path, rows, callbacks=[seen])
    assert [len(trial["logs"]) for trial in seen.trials] == [1]


def test_a_callback_that_does_not_fit_ends_the_search(small, rows, tmp_path):
    pairs = tx.callbacks.EvaluateTriplets((TEXTS, TEXTS, TEXTS))
    with pytest.raises(FatalError, match="for EvaluateTriplets"):
        search(small, "loss", tmp_path, rows, callbacks=[pairs])


class Failing(keras.callbacks.Callback):
    """Fails in the second step of every other trial."""

    trials = 0

    def __deepcopy__(self, memo):
        return self

    def on_train_begin(self, logs=None):
        self.trials += 1

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1 and self.trials % 2:
            raise ValueError("no luck")


def test_a_trial_that_fails_is_told_last_and_the_search_goes_on(presets, rows, tmp_path):
    space = {
        "frozen": 1,
        "unfreezing": "none",
        "pooling": None,
        "batch_size": 8,
        "head": "linear",
        "learning_rate": 1e-3,
    }
    hypermodel = of_classifiers(presets[0], space=space, optimizer=sgd)
    tuner = search(hypermodel, "loss", tmp_path, rows, callbacks=[Failing()])
    table = tx.tuning.trials(tuner)
    assert [row["status"] for row in table] == ["COMPLETED", "FAILED", "FAILED"]
    assert [row["score"] is None for row in table] == [False, True, True]
    assert [row["epoch"] for row in table] == [1, None, None]
    for trial in tuner.oracle.trials.values():
        assert trial.status == "COMPLETED" or "no luck" in trial.message


def test_results_are_asked_of_a_tuner_that_has_some(small, tmp_path):
    tuner = keras_tuner.RandomSearch(small, "loss", directory=tmp_path)
    assert tx.tuning.trials(tuner) == [] and str(tx.tuning.trials(tuner)) == "no trials"
    with pytest.raises(ValueError, match="Expected a tuner with a completed trial"):
        tx.tuning.best_model(tuner)
    worker = copy.copy(tuner)
    worker.oracle = object()  # as in a worker of a distributed search: no trials
    for wrong, remedy in ((None, "Received: tuner=None"), (worker, "only the chief knows")):
        for function in (tx.tuning.trials, tx.tuning.best_model):
            with pytest.raises(ValueError, match="Expected a tuner of Keras Tuner that knows its trials") as error:
                function(wrong)
            assert remedy in str(error.value)


# === Several processes ===

SCRIPT = """
    import json, sys
    import keras_tuner
    import tiny
    import tfxfer as tx

    preset, folder = sys.argv[1:]
    labels = ["card", "loan", "other"]
    rows = tx.data.labelled({"text": tiny.TEXTS, "label": tiny.LABELS}, "text", "label", labels=labels)
    space = {"frozen": 1, "unfreezing": "none", "pooling": None, "batch_size": [4, 8], "head": "linear"}
    hypermodel = tx.tuning.HyperModel(tx.models.TextClassifier, preset, labels=labels, space=space)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_loss", max_trials=4, seed=0, directory=folder)
    tuner.search(rows, validation_data=rows, epochs=2, verbose=0)
    if tuner.tuner_id == "chief":
        best = tx.tuning.best_model(tuner)
        loss = best.evaluate(tx.data.batches(rows, best.preprocessor, shuffle=False), verbose=0)[0]
        print(json.dumps({"trials": list(tx.tuning.trials(tuner)), "loss": loss}))
"""


@pytest.mark.slow  # three processes import TensorFlow, and the chief checks only every 20 s whether they are done
def test_a_chief_and_two_workers_complete_a_search(presets, tmp_path):
    tests = pathlib.Path(__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": port,
    }
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), presets[0], str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = []
    try:
        for name in ("chief", "tuner0", "tuner1"):
            own = {**environment, "KERASTUNER_TUNER_ID": name}
            processes.append(subprocess.Popen(command, env=own, **pipes))
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], [err[-2000:] for _, err in said]
    found = json.loads(said[0][0].splitlines()[-1])
    assert [row["status"] for row in found["trials"]] == ["COMPLETED"] * 4
    assert found["loss"] == pytest.approx(found["trials"][0]["score"], rel=1e-5)
