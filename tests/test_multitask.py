"""Several tasks on one backbone: losses, gradients, mixtures, logs, files, exports."""

import itertools
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import test_contracts
import tiny

import tfxfer as tx
from tfxfer.data._task_batches import task_order  # private: a training run shows the shares no more exactly
from tfxfer.models import _balance  # private: a training step projects in one random order

SCORES = np.linspace(-1.0, 2.0, 8).astype("float32")
ROWS = {"intent": (tiny.TEXTS, tiny.LABELS), "quality": (tiny.TEXTS, SCORES)}
PAIRS = (tiny.TEXTS, tiny.TEXTS[::-1])
LABELS = ["card", "loan", "other"]


def tasks(folder, **kinds):
    """Task models with random heads on one small backbone without dropout."""
    keras.utils.set_random_seed(0)
    rates = dict.fromkeys(("dropout", "attention_dropout", "embeddings_dropout"), 0.0)
    backbone = tx.backbones.Backbone.from_config({**tiny.backbone().get_config(), **rates})
    backbone.set_weights(tiny.backbone().get_weights())
    parts = (backbone, tiny.preprocessor(folder))
    made = {
        "intent": lambda: tx.models.TextClassifier(*parts, labels=LABELS, dropout=0.0),
        "quality": lambda: tx.models.TextRegressor(*parts),
        "price": lambda: tx.models.TextRegressor(*parts),
        "similarity": lambda: tx.models.Siamese(tx.models.TextEmbedder(*parts)),
        "entities": lambda: tx.models.TokenTagger(*parts, tags=tiny.TAGS, dropout=0.0),
    }
    found = {name: made[kind]() for name, kind in kinds.items()}
    rng = np.random.default_rng(3)
    for task in found.values():
        for layer in task.layer_groups().get("head", ()):
            for weight in layer.weights:
                weight.assign(rng.normal(0, 0.5, weight.shape))
    return found


def multi(folder, **kinds):
    return tx.models.MultiTask(tasks(folder, **(kinds or {"intent": "intent", "quality": "quality"})))


@pytest.fixture
def model(tmp_path):
    return multi(tmp_path)


def gradients_of(task, x, y, weights):
    """The loss of a task on a batch and its gradients, computed with a separate tape."""
    ids = tx.data.Gate(task).encode_batch((x,))
    with tf.GradientTape() as tape:
        loss = task.loss(task.read_targets(y), task(ids, training=True))
    found = tape.gradient(loss, [weight.value for weight in weights], unconnected_gradients="zero")
    return float(loss), [tf.convert_to_tensor(each).numpy() for each in found]


def moves(model, x, y):
    """How far a step of SGD with a learning rate of 1 moves the weights: by their gradients."""
    before = [weight.numpy() for weight in model.trainable_weights]
    model.train_on_batch(x, y)
    return [old - weight.numpy() for old, weight in zip(before, model.trainable_weights, strict=True)]


# === Losses and gradients ===


def test_a_step_has_the_gradient_of_the_sum_of_weighted_losses(model):
    model.compile(keras.optimizers.SGD(1.0), loss_weights={"quality": 0.25}, run_eagerly=True)
    weights = model.trainable_weights
    parts = [gradients_of(model[name], *ROWS[name], weights) for name in ROWS]
    x, y = ({name: rows[i] for name, rows in ROWS.items()} for i in (0, 1))
    values = model.test_on_batch(x, y, return_dict=True)
    assert values["intent_loss"] == pytest.approx(parts[0][0], rel=1e-5)
    assert values["quality_loss"] == pytest.approx(parts[1][0], rel=1e-5)
    assert values["loss"] == pytest.approx(parts[0][0] + 0.25 * parts[1][0], rel=1e-5)
    for found, one, other in zip(moves(model, x, y), parts[0][1], parts[1][1], strict=True):
        np.testing.assert_allclose(found, one + 0.25 * other, atol=1e-5)


def test_a_step_of_one_task_leaves_the_heads_of_the_others(model):
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    _, expected = gradients_of(model["intent"], *ROWS["intent"], model.trainable_weights)
    found = moves(model, {"intent": tiny.TEXTS}, {"intent": tiny.LABELS})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    head = {id(weight) for weight in model["quality"].head.weights}
    still = [move for move, weight in zip(found, model.trainable_weights, strict=True) if id(weight) in head]
    assert len(still) == 2 and not any(np.any(move) for move in still)
    assert model.optimizer.iterations == 1


def test_learned_weights_are_the_formulas(model):
    model.compile(keras.optimizers.SGD(1.0), loss_weights="uncertainty", run_eagerly=True)
    start = np.array([0.3, -0.7], "float32")
    model.uncertainty.log_variances.assign(start)
    x, y = ({name: rows[i] for name, rows in ROWS.items()} for i in (0, 1))
    losses = [gradients_of(model[name], *ROWS[name], [])[0] for name in ROWS]
    expected = sum(np.exp(-s) * loss + s / 2 for s, loss in zip(start, losses, strict=True))
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
    model.train_on_batch(x, y)
    moved = start - model.uncertainty.log_variances.numpy()
    np.testing.assert_allclose(
        moved, [0.5 - np.exp(-s) * loss for s, loss in zip(start, losses, strict=True)], rtol=1e-4
    )
    assert any(weight is model.uncertainty.log_variances for weight in model.trainable_weights)
    assert model.uncertainty in model.layer_groups()["head"]
    assert float(_balance.UncertaintyWeights(["a", "b"])({"a": np.ones(()), "b": np.full((), 4.0)})) == pytest.approx(
        5.0
    )


def pcgrad(gradients, orders):
    """Algorithm 1 of Yu et al. on whole vectors."""
    found = np.array(gradients, "float64")
    for i, order in enumerate(orders):
        for j in order:
            product = found[i] @ gradients[j]
            if i != j and product < 0:
                found[i] = found[i] - product / (gradients[j] @ gradients[j]) * gradients[j]
    return found.sum(axis=0)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_conflicts_are_projected_as_the_papers_algorithm_does(count, shift):
    rng = np.random.default_rng(count)
    for _ in range(5):
        gradients = rng.normal(shift, 1.0, (count, 6)) * rng.uniform(0.1, 3.0, (count, 1))
        orders = np.array([rng.permutation(count) for _ in range(count)])
        weights = keras.ops.convert_to_numpy(_balance.projected(gradients @ gradients.T, orders))
        np.testing.assert_allclose(weights @ gradients, pcgrad(gradients, orders), atol=1e-5)
        if (gradients @ gradients.T >= 0).all():
            np.testing.assert_array_equal(weights, np.ones(count))
    none = np.zeros((count, count))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(_balance.projected(none, orders)), np.ones(count))


@pytest.mark.parametrize("count", [2, 3])
def test_a_step_without_conflicts_has_the_gradient_of_the_papers_algorithm(tmp_path, count):
    kinds = {"intent": "intent", "quality": "quality", "price": "price"}
    model = multi(tmp_path, **dict(list(kinds.items())[-count:]))
    # The same head with opposite errors, so that the gradients conflict.
    model["price"].head.set_weights(model["quality"].head.get_weights())
    values = model["quality"].predict_on_batch(tiny.TEXTS)[:, 0]
    rows = {**ROWS, "quality": (tiny.TEXTS, values + 1.0), "price": (tiny.TEXTS, values - SCORES**2 - 0.5)}
    rows = {name: rows[name] for name in model.tasks}
    model.compile(keras.optimizers.SGD(1.0), loss_weights={"price": 0.5}, conflicts="pcgrad", run_eagerly=True)
    shared = model.backbone.trainable_weights
    parts = [gradients_of(model[name], *given, shared)[1] for name, given in rows.items()]
    flat = np.array([np.concatenate([each.ravel() for each in part]) for part in parts], "float64")
    flat *= np.array([0.5 if name == "price" else 1.0 for name in rows])[:, None]
    assert (flat @ flat.T).min() < 0
    _, alone = gradients_of(model["price"], *rows["price"], model["price"].head.weights)
    x, y = ({name: given[i] for name, given in rows.items()} for i in (0, 1))
    found = dict(zip(map(id, model.trainable_weights), moves(model, x, y), strict=True))
    step = np.concatenate([found[id(weight)].ravel() for weight in shared])
    orders = itertools.product(itertools.permutations(range(count)), repeat=count)
    nearest = min(np.abs(step - pcgrad(flat, order)).max() for order in orders)
    assert nearest < 1e-5 * np.abs(step).max() + 1e-6
    assert np.abs(step - flat.sum(axis=0)).max() > 1e-2
    for weight, own in zip(model["price"].head.weights, alone, strict=True):  # from its task only
        np.testing.assert_allclose(found[id(weight)], 0.5 * own, atol=1e-5)


# === Mixtures ===


def test_an_epoch_has_as_many_batches_of_each_task_as_the_mixing_says():
    steps = [3, 40, 7]
    total = sum(steps)
    for mixing, temperature in (("size", 2.0), ("temperature", 1.0), ("temperature", 4.0), ("round_robin", 2.0)):
        order = task_order(steps, mixing, temperature)
        counts = np.bincount(order, minlength=3)
        power = {"size": 1.0, "temperature": 1 / temperature, "round_robin": 0.0}[mixing]
        exact = total * np.array(steps) ** power / np.sum(np.array(steps) ** power)
        assert counts.sum() == total and np.abs(counts - exact).max() < 1.0
    assert order[:4].tolist() == [0, 1, 2, 0]
    assert np.bincount(task_order([1, 1000], "temperature", 1.0)).tolist() == [1, 1000]


@pytest.mark.parametrize("mixing", tx.data.MIXINGS)
def test_batches_hold_rows_of_the_right_tasks_and_come_again(model, mixing):
    sizes = {"intent": 1, "quality": 4}
    rows = {}
    for name, given in ROWS.items():
        gate = tx.data.Gate(model[name])
        batches = gate.batches(*gate.read(*given), sizes[name], seed=0)
        rows[name] = tx.data.TaskRows("x", batches, gate)
    inputs = {name: task.input for name, task in model.tasks.items()}
    mixed = tx.data.task_batches(rows, inputs, mixing, temperature=2.0, seed=1)
    epochs = [list(mixed) for _ in range(2)]
    seen = [[tuple(len(y[name]) for name in y) for _, y in epoch] for epoch in epochs]
    counts = {"size": (8, 2), "temperature": (7, 3), "round_robin": (5, 5), "together": (8, 8)}[mixing]
    for epoch in seen:
        assert tuple(sum(size[k] > 0 for size in epoch) for k in (0, 1)) == counts
        assert all((size[0] > 0) + (size[1] > 0) == (2 if mixing == "together" else 1) for size in epoch)
    if mixing != "temperature":
        labels = np.sort(np.concatenate([y["intent"] for _, y in epochs[0]]))
        all_labels = np.sort(model["intent"].read_targets(tiny.LABELS))
        assert set(labels) <= set(all_labels) and (mixing == "round_robin" or (labels == all_labels).all())
    rest = list(mixed.rest(1, 3))
    assert len(rest) == len(epochs[1]) - 3 == int(mixed.rest(1, 3).cardinality())
    for (x, y), (other_x, other_y) in zip(rest, epochs[1][3:], strict=True):
        for name in y:
            np.testing.assert_array_equal(y[name], other_y[name])
            np.testing.assert_array_equal(x[name]["token_ids"], other_x[name]["token_ids"])


# === Training ===


def test_rows_are_weighed_as_the_task_alone_weighs_them(model):
    weights = np.arange(8.0)
    classes = {"card": 2.0, "loan": 0.5}
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model["intent"].compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    factors = weights * [classes.get(label, 1.0) for label in tiny.LABELS]
    expected = model["intent"].fit(tiny.TEXTS, tiny.LABELS, sample_weight=factors, batch_size=8, verbose=0)
    rows = {**ROWS, "intent": (tiny.TEXTS, tiny.LABELS, weights)}
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    history = model.fit(rows, class_weight={"intent": classes}, batch_size=8, verbose=0).history
    assert history["intent_loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
    balanced = model.fit(rows, class_weight={"intent": "balanced"}, batch_size=8, verbose=0).history["intent_loss"]
    assert balanced != pytest.approx(history["intent_loss"])


def train(folder, **kwargs):
    """Returns a model of two trained tasks, its rows, its history, and each call of the losses, by task."""
    parts = (tiny.backbone(), tiny.preprocessor(folder))
    embedder = tx.models.TextEmbedder(*parts, dense=[{"units": 4}])
    made = {"intent": tx.models.TextClassifier(*parts, labels=LABELS), "similarity": tx.models.Siamese(embedder)}
    model = tx.models.MultiTask(made)
    assert not model.compiled  # no default loss suits every Siamese
    model.compile(loss={"similarity": tx.losses.CoSENTLoss()}, loss_weights="uncertainty", **kwargs)
    traces = {"intent": [], "similarity": []}
    for name, task in made.items():
        compute = task.compute_loss
        task.compute_loss = lambda *rest, name=name, compute=compute, training=True: (
            traces[name].append(training) or compute(*rest, training=training)
        )
    rows = {"intent": (tiny.TEXTS, tiny.LABELS), "similarity": (PAIRS, SCORES)}
    dev = tx.data.labelled({"text": tiny.TEXTS, "label": tiny.LABELS}, "text", "label")
    callbacks = [
        tx.callbacks.EvaluateClassification(dev, model=model["intent"], name="dev"),
        keras.callbacks.EarlyStopping("val_intent_accuracy", mode="max", patience=9),
    ]
    history = model.fit(
        rows, batch_size=4, epochs=2, seed=0, verbose=0, validation_data={"intent": rows["intent"]}, callbacks=callbacks
    )
    for task in made.values():
        del task.compute_loss
    return model, rows, history.history, traces


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `train` returns with default settings: the losses are called once for each trace of a step."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def trained_eagerly(tmp_path_factory):
    """What `train` returns without graphs, which takes less time for few steps."""
    return train(tmp_path_factory.mktemp("eagerly"), run_eagerly=True)


def test_texts_of_a_task_are_augmented_in_training_alone(model):
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(ROWS, augment={"intent": tx.augmentation.Case("upper")}, verbose=0, seed=0)
    rows = tx.data.batches(ROWS["intent"], model["intent"], augment=tx.augmentation.Case("upper"))
    with pytest.raises(ValueError, match=r"without augmentation"):
        model.evaluate({"intent": rows})
    with pytest.raises(ValueError, match=r"`augment\['intent'\]`.*batches already"):
        model.fit({**ROWS, "intent": rows}, augment={"intent": tx.augmentation.Case("upper")})


def test_a_step_of_each_task_is_traced_once(trained):
    _, _, _, traces = trained
    assert traces == {"intent": [True, False], "similarity": [True]}


def test_logs_name_the_tasks(trained_eagerly):
    model, rows, history, _ = trained_eagerly
    assert set(history) >= {"loss", "intent_loss", "intent_accuracy", "similarity_loss", "val_intent_accuracy"}
    assert "val_dev_accuracy" in history and "val_similarity_loss" not in history
    assert history["val_loss"] != history["val_intent_loss"]  # `loss` is weighted
    values = model.evaluate({"intent": rows["intent"]}, verbose=0)
    assert set(values) == {"loss", "intent_loss", "intent_accuracy"}
    alone = model["intent"].evaluate(*rows["intent"], verbose=0, return_dict=True)
    assert values["intent_accuracy"] == alone["accuracy"] == history["val_intent_accuracy"][-1]
    assert values["intent_loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert values["loss"] == pytest.approx(
        np.exp(-model.uncertainty.log_variances.numpy()[0]) * alone["loss"]
        + model.uncertainty.log_variances.numpy()[0] / 2,
        rel=1e-5,
    )


def test_new_linear_heads_start_as_probes(trained_eagerly):
    model = trained_eagerly[0]
    assert model["intent"].head_probe.rows == 8
    assert type(model.optimizer).__name__ == "Auto" and set(model.optimizer.group_multipliers.values()) == {1.0}


def test_a_file_holds_what_is_shared_once_and_all_that_was_trained(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path / "multi.keras")
    with zipfile.ZipFile(tmp_path / "multi.keras") as file, h5py.File(file.open("model.weights.h5")) as weights:
        found = []
        weights.visititems(lambda name, each: found.append((name, getattr(each, "shape", None))))
    table = model.backbone.token_embedding.embeddings.shape
    assert len([name for name, shape in found if shape == table and "optimizer" not in name]) == 1
    again = keras.saving.load_model(tmp_path / "multi.keras")
    assert list(again) == ["intent", "similarity"] and len(again) == 2
    assert again["intent"].backbone is again["similarity"].embedder.backbone is again.backbone
    assert again["intent"].preprocessor is again["similarity"].preprocessor
    np.testing.assert_array_equal(again.uncertainty.log_variances, model.uncertainty.log_variances)
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) == 8
    assert len(again.optimizer.variables) == len(model.optimizer.variables)
    assert isinstance(again["similarity"].loss, tx.losses.CoSENTLoss)
    test_contracts.assert_equal(again(tiny.inputs(model)), model(tiny.inputs(model)))
    model.save_to_preset(tmp_path / "saved")
    taken = tx.models.MultiTask.from_preset(tmp_path / "saved")
    np.testing.assert_array_equal(
        taken["intent"].classify(tiny.TEXTS).probabilities, model["intent"].classify(tiny.TEXTS).probabilities
    )
    assert "`similarity`" in (tmp_path / "saved" / "README.md").read_text()


def test_an_export_answers_for_every_task_and_stores_the_weights_once(trained, tmp_path):
    model = trained[0]
    path = tx.export.saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(path).signatures
    assert {"intent_classify", "similarity_embed", "similarity_similarity", "serving_default"} <= set(served)
    texts = tf.constant(tiny.TEXTS)
    answers = model.answer({"intent": tiny.TEXTS})["intent"]
    np.testing.assert_allclose(served["intent_classify"](text=texts)["probabilities"], answers.probabilities, atol=1e-6)
    vectors = model["similarity"].embedder.encode(tiny.TEXTS)
    np.testing.assert_allclose(served["similarity_embed"](text=texts)["embedding"], vectors, atol=1e-6)
    size = pathlib.Path(path, "variables", "variables.data-00000-of-00001").stat().st_size
    assert 4 * model.backbone.count_params() < size < 2 * 4 * model.backbone.count_params()
    assert pathlib.Path(path, "assets", "labels_intent.txt").read_text().split() == LABELS
    assert tx.export.describe(path)["tasks"]["intent"]["labels"] == LABELS


def test_predict_answers_by_task(trained):
    model = trained[0]
    found = model.predict({"similarity": PAIRS, "intent": tiny.TEXTS}, verbose=0)
    assert found["intent"].shape == (8, 3) and found["similarity"].shape == (8, 2, 4)
    np.testing.assert_allclose(found["intent"], model["intent"].predict(tiny.TEXTS, verbose=0))
    assert model.decode({"intent": found["intent"]})["intent"].labels == model["intent"].classify(tiny.TEXTS).labels


def test_frozen_groups_stay_and_adapters_train(model):
    tx.freezing.freeze(model, groups=["embeddings", "block_*"])
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = model.backbone.get_weights()
    x, y = ({name: rows[i] for name, rows in ROWS.items()} for i in (0, 1))
    model.train_on_batch(x, y)
    for old, new in zip(before, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    tx.freezing.add_lora(model, rank=2)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    adapter = model.backbone.lora_variables()["block_0/0/query/b"]
    model.train_on_batch(x, y)
    assert np.any(adapter.numpy()) and model["intent"].backbone.lora == model.backbone.lora
    model.compile(tx.optimizers.Layerwise(keras.optimizers.SGD(0.1), {"head": 1e-9}), run_eagerly=True)
    heads = [weight.numpy() for weight in model["intent"].head.weights]
    model.train_on_batch(x, y)
    for old, new in zip(heads, model["intent"].head.weights, strict=True):
        np.testing.assert_allclose(old, new.numpy(), atol=1e-7)


# === Longer runs ===


class Stops(keras.callbacks.Callback):
    """Interrupts training after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    def train(callbacks):
        model = multi(tmp_path)
        model.compile(tx.optimizers.AdamW(1e-2), loss_weights="uncertainty")
        options = {"batch_size": 2, "epochs": 2, "seed": 0, "verbose": 0, "mixing": "temperature"}
        model.fit(ROWS, callbacks=callbacks, **options)
        return model.get_weights()

    expected = train([])
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train([tx.callbacks.Resume(folder, every=1), Stops(11)])
    resume = tx.callbacks.Resume(folder, every=1)
    for found, other in zip(train([resume]), expected, strict=True):
        np.testing.assert_array_equal(found, other)
    assert resume.resumed_at == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_groups_thaw_and_half_precision_trains_with_projected_gradients(tmp_path, dtype):
    keras.utils.set_random_seed(0)
    parts = (tiny.backbone(dtype=dtype), tiny.preprocessor(tmp_path))
    made = {
        "intent": tx.models.TextClassifier(*parts, labels=LABELS),
        "entities": tx.models.TokenTagger(*parts, tags=tiny.TAGS, head="crf"),
    }
    model = tx.models.MultiTask(made)
    model.compile(conflicts="pcgrad")
    assert (
        model.optimizer.dynamic_growth_steps
        if dtype == "mixed_float16"
        else model.optimizer.group_multipliers["head"] == 10.0
    )
    before = {id(weight): weight.numpy() for weight in model.trainable_weights}
    rows = {"intent": ROWS["intent"], "entities": (tiny.WORD_ROWS, tiny.TAG_ROWS)}
    thawing = tx.callbacks.GradualUnfreezing()
    history = model.fit(rows, batch_size=4, epochs=3, seed=0, verbose=0, callbacks=[thawing]).history
    assert [len(each["groups"]) for each in thawing.thaws] == [1, 2, 3]
    assert np.isfinite(history["loss"]).all()
    assert sum(np.any(before[id(weight)] != weight.numpy()) for weight in model.trainable_weights) > 10


@pytest.mark.slow
def test_jax_gives_tensorflows_numbers(tmp_path):
    model = multi(tmp_path)
    model.compile(keras.optimizers.SGD(0.1), loss_weights="uncertainty", conflicts="pcgrad")
    model.save(tmp_path / "model.keras")
    options = {"batch_size": 8, "epochs": 2, "seed": 0, "verbose": 0}
    expected = model.fit(ROWS, **options).history
    np.savez(tmp_path / "expected.npz", **expected)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import pathlib
        import keras, numpy as np, tiny, tfxfer as tx
        folder = pathlib.Path({str(tmp_path)!r})
        model = keras.saving.load_model(folder / "model.keras")
        rows = {{"intent": (tiny.TEXTS, tiny.LABELS), "quality": (tiny.TEXTS, np.array({SCORES.tolist()}))}}
        found = model.fit(rows, validation_data={{"intent": rows["intent"]}}, **{options!r}).history
        with np.load(folder / "expected.npz") as expected:
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, err_msg=name)
        assert found["val_intent_loss"][1] < found["intent_loss"][0]
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(rows, batch_size=8, verbose=0)
        assert len(model["intent"].classify(tiny.TEXTS).labels) == 8
    """)


# === Bad input ===


def on_two_backbones(folder):
    first = tasks(folder, intent="intent")["intent"]
    return {"intent": first, "quality": tx.models.TextRegressor(tiny.backbone(), first.preprocessor)}


def under_one_name(folder):
    found = tasks(folder, intent="intent")["intent"]
    other = tx.models.TextRegressor(found.backbone, found.preprocessor, name=found.name)
    return {"intent": found, "quality": other}


def with_one_head(folder):
    found = tasks(folder, intent="intent")["intent"]
    other = tx.models.TextClassifier(found.backbone, found.preprocessor, labels=LABELS, head=found.head)
    return {"intent": found, "topic": other}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: tasks(folder, intent="intent"), r"argument `tasks`.*at least two"),
        (on_two_backbones, r"argument `tasks\['quality'\]`.*backbone of tasks\['intent'\].*same object"),
        (under_one_name, r"argument `tasks\['quality'\]`.*another name.*name="),
        (with_one_head, r"argument `tasks\['topic'\]`.*head of its own"),
        (lambda folder: {**tasks(folder, intent="intent"), "a/b": 1}, r"argument `tasks`.*letters"),
        (lambda folder: {**tasks(folder, intent="intent"), "b": 1}, r"argument `tasks\['b'\]`.*task model"),
        (lambda folder: tasks(folder, a="intent", val_a="quality"), r"argument `tasks`.*logs clash"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(tmp_path, make, said):
    with pytest.raises(ValueError, match=said):
        tx.models.MultiTask(make(tmp_path))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m["intend"], r"argument `task`.*'intent', 'quality'"),
        (lambda m: m.compile(loss={"intend": "mse"}), r"argument `loss`.*'intent', 'quality'"),
        (lambda m: m.compile(loss="mse"), r"argument `loss`.*a dict with the tasks"),
        (lambda m: m.compile(loss_weights={"intent": -1.0}), r"argument `loss_weights\['intent'\]`.*>= 0"),
        (lambda m: m.compile(loss_weights="learned"), r"argument `loss_weights`.*'uncertainty'"),
        (lambda m: m.compile(conflicts="surgery"), r"argument `conflicts`.*'pcgrad'"),
        (lambda m: m.fit({"intent": ROWS["intent"]}), r"argument `x`.*every task.*rows of 'quality'"),
        (lambda m: m.fit(tiny.TEXTS, tiny.LABELS), r"argument `y`.*None for several tasks"),
        (lambda m: m.fit({**ROWS, "intent": ([], [])}), r"argument `x\['intent'\]\[0\]`.*at least one row"),
        (lambda m: m.fit({**ROWS, "intent": tiny.TEXTS}), r"argument `x\['intent'\]\[1\]`.*a target for each row"),
        (
            lambda m: m.fit({**ROWS, "intent": (tiny.TEXTS, ["cards", *tiny.LABELS[1:]])}),
            r"argument `x\['intent'\]\[1\]`.*row 0",
        ),
        (lambda m: m.fit(ROWS, mixing="sizes"), r"argument `mixing`.*'together'"),
        (lambda m: m.fit(ROWS, mixing="temperature", temperature=0.5), r"argument `temperature`.*>= 1"),
        (lambda m: m.fit(ROWS, class_weight={"quality": {"a": 1}}), r"argument `class_weight`.*one label a row"),
        (lambda m: m.fit(ROWS, validation_data={"intend": 1}), r"argument `validation_data`"),
        (lambda m: m.fit(ROWS, batch_size={"intent": 0}), r"argument `batch_size\['intent'\]`"),
        (
            lambda m: m.fit({**ROWS, "intent": tf.data.Dataset.from_tensors((["a"], [0])).repeat()}),
            r"argument `x\['intent'\]`.*finite number of batches",
        ),
        (lambda m: m.fit(ROWS, augment={"intend": tx.augmentation.Case("upper")}), r"argument `augment`"),
        (lambda m: m.evaluate({}), r"argument `x`.*at least one of the tasks"),
        (lambda m: m.predict(tiny.TEXTS), r"argument `x`.*a dict"),
        (lambda m: tx.export.saved_model(m, "nowhere", pairs=["intend"]), r"argument `pairs`"),
        (lambda m: tx.export.onnx(m, "nowhere"), r"argument `model`.*one task"),
        (lambda m: m.save_to_preset("nowhere", "huggingface"), r"argument `format`.*one by one"),
        (lambda m: m.with_added_tokens(["IBAN"]), r"argument `tokens`"),
        (lambda m: tx.freezing.probe(m, tiny.TEXTS, tiny.LABELS), r"argument `model`"),
        (lambda m: tx.freezing.AboveFrozen(m).fit(ROWS), r"argument `model`"),
    ],
)
def test_errors_name_the_argument(shared_model, call, said):
    with pytest.raises(ValueError, match=said):
        call(shared_model)


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory):
    return multi(tmp_path_factory.mktemp("shared"))


def test_conflicts_need_all_tasks_in_a_step(model):
    model.compile("sgd", conflicts="pcgrad")
    with pytest.raises(ValueError, match=r"argument `mixing`.*'together' with conflicts='pcgrad'"):
        model.fit(ROWS, mixing="size")


def test_a_preset_of_one_task_is_refused_and_one_of_several_gives_its_backbone(model, tmp_path):
    model.save_to_preset(tmp_path / "saved")
    with pytest.warns(UserWarning, match="trained `MultiTask`"):
        taken = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=["a", "b"])
    taken.save_to_preset(tmp_path / "one")
    with pytest.raises(ValueError, match=r"argument `preset`.*a saved `MultiTask`"):
        tx.models.MultiTask.from_preset(tmp_path / "one")
