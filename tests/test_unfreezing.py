"""Gradual unfreezing within one `fit`, against a loop with a separate optimizer for each group."""

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

# Two batches of four texts per epoch.
TEXTS, LABELS = tiny.TEXTS, tiny.LABELS
GROUPS = ("embeddings", "block_0", "block_1", "head")
SCHEDULE = keras.optimizers.schedules.PolynomialDecay(0.02, 12, 0.001)


# Before Keras 3.15, `SwapEMAWeights` uses the trainable variables, whichever the optimizer was built on.
SWAPS_WRONGLY = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15)


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("vocabulary"))


def classifier(preprocessor, dtype=None, dropout=0.0, num_layers=1):
    """A classifier with one or two blocks, the same each time."""
    keras.utils.set_random_seed(0)
    like = tiny.backbone(num_layers=num_layers)
    rates = dict.fromkeys(("dropout", "attention_dropout", "embeddings_dropout"), dropout)
    backbone = tx.backbones.Backbone.from_config({**like.get_config(), **rates, "dtype": dtype})
    backbone.set_weights(like.get_weights())
    return tx.models.TextClassifier(backbone, preprocessor, labels=["card", "loan", "other"], dropout=dropout)


def adam(**kwargs):
    return keras.optimizers.AdamW(SCHEDULE, weight_decay=0.1, **kwargs)


def weights_of(model):
    """The values of each group's weights."""
    return {
        name: [w.numpy() for layer in layers for w in layer.weights] for name, layers in model.layer_groups().items()
    }


def moved(before, after):
    """The groups in which at least one weight changed, even by one bit."""
    return [
        name for name in before if any(not np.array_equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    ]


class Snapshots(keras.callbacks.Callback):
    """Records all weights and the optimizer's steps at the beginning and after each batch."""

    def on_train_begin(self, logs=None):
        self.weights, self.steps = [weights_of(self.model)], [0]

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.weights.append(weights_of(self.model))
        self.steps.append(int(self.model.optimizer.iterations))


def fit(model, *callbacks, batch_size=4, **kwargs):
    """Trains without shuffling; returns the snapshots."""
    seen = Snapshots()
    model.fit(TEXTS, LABELS, batch_size, shuffle=False, verbose=0, callbacks=[*callbacks, seen], **kwargs)
    return seen


def looped(model, starts, steps, ema_momentum):
    """Trains on the same batches in a plain loop, with an AdamW for each group, created when the group starts.

    `starts` maps each group that trains to its first step; the schedule spans the whole training. Returns the moving
    averages of the groups' weights, each from the group's first step on.
    """
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    halves = [model.preprocess_samples(TEXTS[:4], LABELS[:4]), model.preprocess_samples(TEXTS[4:], LABELS[4:])]
    variables = {name: [w for layer in layers for w in layer.weights] for name, layers in model.layer_groups().items()}
    made, averages = {}, weights_of(model)
    for step in range(steps):
        x, y = halves[step % 2]
        training = [name for name in starts if starts[name] <= step]
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = iter(tape.gradient(value, [w.value for name in training for w in variables[name]]))
        for name in training:
            is_first = name not in made
            optimizer = made.setdefault(name, keras.optimizers.AdamW(0.1, weight_decay=0.1))
            optimizer.learning_rate = float(SCHEDULE(step))
            optimizer.apply([next(gradients) for _ in variables[name]], variables[name])
            momentum = 0.0 if is_first else ema_momentum
            averages[name] = [
                momentum * old + (1 - momentum) * w.numpy()
                for old, w in zip(averages[name], variables[name], strict=True)
            ]
    return averages


def assert_close(found, expected, tolerance):
    for name, values in expected.items():
        for value, other in zip(found[name], values, strict=True):
            np.testing.assert_allclose(value, other, atol=tolerance, err_msg=name)


def test_training_equals_a_loop_with_an_optimizer_for_each_group(preprocessor):
    model = classifier(preprocessor, num_layers=2)
    model.compile(adam(use_ema=True, ema_momentum=0.7))
    callback = tx.callbacks.GradualUnfreezing(lowest="block_0")
    seen = fit(model, callback, epochs=3)
    assert seen.steps == list(range(7))
    assert [(row["epoch"], row["step"], row["groups"][0]) for row in callback.thaws] == [
        (0, 0, "head"),
        (1, 2, "block_1"),
        (2, 4, "block_0"),
    ]
    expected = classifier(preprocessor, num_layers=2)
    averages = looped(expected, {"head": 0, "block_1": 2, "block_0": 4}, 6, 0.7)
    assert_close(seen.weights[-1], weights_of(expected), 2e-5)
    assert_close(weights_of(model), averages, 2e-5)  # with moving averages, `fit` ends with these
    assert moved(seen.weights[0], weights_of(model)) == list(GROUPS[1:])
    flags = {name: layers[0].trainable for name, layers in model.layer_groups().items()}
    assert flags == {"embeddings": False, "block_0": True, "block_1": True, "head": True}


def layerwise():
    return tx.optimizers.Layerwise(adam(), {"head": 2.0}, decay=0.5)


def momentum():
    return keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1)


def accumulating():
    return tx.optimizers.AdamW(0.01, weight_decay=0.1, gradient_accumulation_steps=2)


# The arguments of `compile`, the dtype policy and the batch size.
WAYS = {
    "mixed_bfloat16, accumulated, steps together": (
        lambda: {"optimizer": accumulating(), "steps_per_execution": 2},
        "mixed_bfloat16",
        4,
    ),
    "mixed_float16, layerwise": (lambda: {"optimizer": layerwise()}, "mixed_float16", 4),
    "averages that overwrite": (lambda: {"optimizer": adam(use_ema=True, ema_overwrite_frequency=2)}, None, 4),
    "jit": (lambda: {"optimizer": momentum(), "jit_compile": True}, None, 8),
    "adapters": (lambda: {"optimizer": adam()}, None, 4),
}


@pytest.mark.parametrize("way", WAYS)
def test_frozen_groups_keep_every_bit_and_thawed_ones_move(preprocessor, way):
    arguments, dtype, batch_size = WAYS[way]
    model = classifier(preprocessor, dtype)
    if way == "adapters":
        tx.freezing.add_lora(model, rank=2)
    model.compile(**arguments())
    seen = fit(model, tx.callbacks.GradualUnfreezing(at={"head": 0, "block_0": 1}), epochs=2, batch_size=batch_size)
    start, *rest = seen.weights
    halfway = rest[len(rest) // 2 - 1]
    assert moved(start, halfway) == ["head"]
    assert moved(halfway, weights_of(model)) == ["block_0", "head"]
    assert moved(start, weights_of(model)) == ["block_0", "head"]
    if way == "adapters":
        weights = {id(w) for w in model.backbone.lora_variables().values()}
        block = [w for layer in model.layer_groups()["block_0"] for w in layer.weights]
        for weight, before, after in zip(block, start["block_0"], weights_of(model)["block_0"], strict=True):
            assert np.array_equal(before, after) == (id(weight) not in weights), weight.path
    if "float16, l" not in way:  # where steps that overflow are skipped
        assert seen.steps[-1] == (2 if "accumulated" in way or batch_size == 8 else 4)
    assert all(np.isfinite(value).all() for values in weights_of(model).values() for value in values)


def test_a_group_thaws_amid_an_epoch_and_its_dropout_with_it(preprocessor):
    model = classifier(preprocessor, dropout=0.3)
    model.compile(keras.optimizers.Adam(0.01))

    def draws():
        return {
            name: [v.numpy()[1] for layer in layers for v in layer.variables if "seed" in v.path]
            for name, layers in model.layer_groups().items()
        }

    states = []
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: states.append(draws()))
    callback = tx.callbacks.GradualUnfreezing(every=3, unit="steps", lowest="block_0")
    seen = Snapshots()
    model.fit(TEXTS, LABELS, 4, epochs=3, shuffle=False, verbose=0, callbacks=[callback, seen, look])
    changes = [moved(a, b) for a, b in zip(seen.weights, seen.weights[1:], strict=False)]
    assert changes == [["head"]] * 3 + [["block_0", "head"]] * 3
    assert [row["step"] for row in callback.thaws] == [0, 3]
    assert not any(states[2]["block_0"]) and states[2]["head"] == [3]
    assert states[5]["block_0"] == [3, 3, 3] and not any(states[5]["embeddings"])


def test_training_that_is_taken_up_from_a_file_ends_the_same(preprocessor, tmp_path):
    path = str(tmp_path / "after {epoch}.keras")
    at = {"head": 0, "block_0": 1}
    model = classifier(preprocessor)
    model.compile(adam())
    fit(model, tx.callbacks.GradualUnfreezing(at=at), keras.callbacks.ModelCheckpoint(path), epochs=3)
    again = keras.saving.load_model(path.format(epoch=2))
    assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights]
    # Moments only of the variables that train at any time, and the number of batches that each has missed.
    assert len(again.optimizer.variables) == 2 + 2 * len(again.trainable_weights)
    assert type(again.optimizer) is tx.optimizers.Subset and max(again.optimizer.missed.numpy()) == 2
    fit(again, tx.callbacks.GradualUnfreezing(at=at), epochs=3, initial_epoch=2)
    assert_close(weights_of(again), weights_of(model), 1e-6)
    for found, expected in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


# === Moving averages ===


def swapping(preprocessor, folder, *callbacks, dtype=None, flags=None, **options):
    """Trains with averages swapped in for validation and checkpoints; returns the initial weights and those seen."""
    model = classifier(preprocessor, dtype)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5, **options))
    before, seen = weights_of(model), []
    if flags is not None:  # with an optimizer built on all variables
        model.optimizer.build(model.trainable_variables)
        model.set_trainable(flags)
    look = keras.callbacks.LambdaCallback(on_test_end=lambda logs: seen.append(weights_of(model)))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    path = str(folder / "after {epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    callbacks = [*callbacks, look, swap, save]
    fit(model, *callbacks, epochs=2, validation_data=(TEXTS, LABELS))
    seen.append(weights_of(model))
    for epoch in (1, 2):
        stored = classifier(preprocessor, dtype)
        stored.compile(model.optimizer)  # the file contains its state, too
        stored.load_weights(path.format(epoch=epoch))
        seen.append(weights_of(stored))
    return before, seen


@pytest.mark.parametrize(
    ("dtype", "options"), [(None, {}), ("mixed_float16", {}), (None, {"ema_overwrite_frequency": 2})]
)
def test_averages_that_are_swapped_in_are_the_values_of_what_is_frozen(preprocessor, tmp_path, dtype, options):
    callback = tx.callbacks.GradualUnfreezing(at={"head": 0, "block_0": 9})
    if SWAPS_WRONGLY:
        with pytest.raises(ValueError, match=r"`callbacks`.*SwapEMAWeights.*Keras 3\.15"):
            swapping(preprocessor, tmp_path, callback, dtype=dtype, **options)
        return
    before, seen = swapping(preprocessor, tmp_path, callback, dtype=dtype, **options)
    assert len(seen) == 5 and all(moved(before, each) == ["head"] for each in seen)


def test_swapping_averages_is_refused_where_keras_gives_them_to_others(preprocessor, monkeypatch):
    model = classifier(preprocessor)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True))
    monkeypatch.setattr(keras, "__version__", "3.14.1")
    callbacks = [keras.callbacks.SwapEMAWeights(), tx.callbacks.GradualUnfreezing()]
    with pytest.raises(ValueError, match=r"`callbacks`.*SwapEMAWeights.*3\.14\.1"):
        model.fit(tiny.TEXTS, tiny.LABELS, callbacks=callbacks, verbose=0)


def test_averages_of_what_flags_freeze_are_its_values_too(preprocessor, tmp_path):
    if SWAPS_WRONGLY:
        with pytest.raises(ValueError, match=r"`callbacks`.*SwapEMAWeights.*Keras 3\.15"):
            swapping(preprocessor, tmp_path, flags=["head"], ema_overwrite_frequency=2)
        return
    before, seen = swapping(preprocessor, tmp_path, flags=["head"], ema_overwrite_frequency=2)
    assert len(seen) == 5 and all(moved(before, each) == ["head"] for each in seen)


def test_averages_end_in_their_own_variables_when_a_part_is_frozen_after_training(preprocessor):
    model = classifier(preprocessor)
    inner = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
    model.compile(inner)
    fit(model)
    before = weights_of(model)
    model.set_trainable({"embeddings": False})
    seen = fit(model)
    assert moved(before, weights_of(model)) == ["block_0", "head"]
    averages = dict(zip(map(id, inner._trainable_variables), inner._model_variables_moving_average, strict=True))
    for weight in model.trainable_weights:
        np.testing.assert_array_equal(weight.numpy(), averages[id(weight)].numpy())
    assert type(model.optimizer) is tx.optimizers.Subset and model.optimizer.inner_optimizer is inner
    assert moved(seen.weights[-1], weights_of(model)) == ["block_0", "head"]


class Kill(keras.callbacks.Callback):
    """Interrupts `fit` after a number of batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_training_that_was_killed_amid_an_epoch_ends_the_same(preprocessor, tmp_path):
    def train(folder, *others):
        model = classifier(preprocessor, dropout=0.1)
        model.compile(adam())
        callback = tx.callbacks.GradualUnfreezing(every=2, unit="steps", lowest="block_0")
        callbacks = [callback, tx.callbacks.Resume(folder, every=1), *others]
        model.fit(TEXTS, LABELS, 2, seed=0, verbose=0, callbacks=callbacks)
        return model, callback

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", Kill(3))
    model, callback = train(tmp_path / "run")
    whole, other = train(tmp_path / "never killed")
    assert callback.thaws == other.thaws and [row["step"] for row in callback.thaws] == [0, 2]
    for found, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# === Errors ===


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"every": 1, "at": {"head": 0}}, "at"),
        ({"at": {}}, "at"),
        ({"at": ["head"]}, "at"),
        ({"at": {"head": -1}}, "at"),
        ({"at": {0: 1}}, "at"),
        ({"at": {"head": 0}, "lowest": "block_0"}, "lowest"),
        ({"unit": "batches"}, "unit"),
    ],
)
def test_a_schedule_that_is_none_is_an_error_at_once(arguments, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        tx.callbacks.GradualUnfreezing(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"at": {"head": 0, "block_1": 1}}, "'block_0'"),
        ({"at": {"head": 0, "block_[1-9]": 1}}, "block_"),
        ({"lowest": "block_5"}, "'block_0'"),
        ({"at": {"head": 1, "block_0": 2}}, "from the start"),
    ],
)
def test_a_schedule_beyond_the_model_is_an_error_before_training(preprocessor, arguments, said):
    model = classifier(preprocessor)
    with pytest.raises(ValueError, match=said):
        model.fit(TEXTS, LABELS, verbose=0, callbacks=[tx.callbacks.GradualUnfreezing(**arguments)])


def test_an_optimizer_built_on_too_little_is_an_error_that_says_what_to_do(preprocessor):
    model = classifier(preprocessor)
    tx.freezing.freeze(model, below=1)
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="compile"):
        model.fit(TEXTS, LABELS, verbose=0, callbacks=[tx.callbacks.GradualUnfreezing()])


def test_a_model_without_layer_groups_is_an_error():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model`"):
        tx.callbacks.GradualUnfreezing().set_model(plain)


def test_groups_at_any_time_follow_from_the_schedule(preprocessor, tmp_path):
    model = classifier(preprocessor, num_layers=2)

    def groups(callback, *times, of=model):
        callback.set_model(of)
        return [[GROUPS.index(name) for name in callback.groups_at(time)] for time in times]

    every = tx.callbacks.GradualUnfreezing(2)
    assert groups(every, 0, 1, 2, 4, 6, 99) == [[3], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    # Groups above the highest named one train from the start, other unnamed groups never. The first match counts.
    named = tx.callbacks.GradualUnfreezing(at={"block_0": 5, "block_*": 1})
    assert groups(named, 0, 1, 5, 99) == [[3], [2, 3], [1, 2, 3], [1, 2, 3]]
    # Without weights above the encoder, the encoder's last block starts.
    towers = tx.models.Siamese(tx.models.TextEmbedder(model.backbone, preprocessor), decoder="cosine")
    assert groups(tx.callbacks.GradualUnfreezing(), 0, 1, 2, of=towers) == [[2], [1, 2], [0, 1, 2]]
    tx.freezing.add_lora(towers, groups="block_1")
    assert groups(tx.callbacks.GradualUnfreezing(), 0, 9, of=towers) == [[2], [2]]
    with pytest.raises(ValueError, match="`at`"):
        groups(tx.callbacks.GradualUnfreezing(at={"block_1": 0, "embeddings": 1}), 0, of=towers)


def averaged():
    # Unlike Keras's AdamW on TensorFlow, it sums the gradients of a repeated token before squaring, as on JAX.
    return tx.optimizers.AdamW(SCHEDULE, weight_decay=0.1, use_ema=True)


@pytest.mark.slow  # starts a process in which JAX compiles each step
def test_it_thaws_on_jax_as_on_tensorflow(preprocessor, tmp_path):
    model = classifier(preprocessor)
    model.save(tmp_path / "model.keras")
    model.compile(averaged())
    fit(model, tx.callbacks.GradualUnfreezing(every=3, unit="steps"), epochs=4)
    np.savez(tmp_path / "expected.npz", *model.get_weights())
    code = f"""
        import os, sys
        os.environ["KERAS_BACKEND"] = "jax"
        sys.path.insert(0, {str(pathlib.Path(tiny.__file__).parent)!r})
        import keras, numpy as np, tfxfer as tx
        import test_unfreezing as here
        model = keras.saving.load_model({str(tmp_path / "model.keras")!r}, compile=False)
        model.compile(here.averaged())
        seen = here.fit(model, tx.callbacks.GradualUnfreezing(every=3, unit="steps"), epochs=4)
        changes = [here.moved(a, b) for a, b in zip(seen.weights, seen.weights[1:])]
        assert changes == [["head"]] * 3 + [["block_0", "head"]] * 3 + [["embeddings", "block_0", "head"]] * 2, changes
        expected = np.load({str(tmp_path / "expected.npz")!r})
        for found, name in zip(model.get_weights(), expected.files, strict=True):
            np.testing.assert_allclose(found, expected[name], atol=1e-4)
    """
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(pathlib.Path(tx.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
