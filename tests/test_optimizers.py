"""AdamW: Keras's numbers, or the paper's where Keras departs from it."""

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfxfer as tx

RNG = np.random.default_rng(0)
SHAPES = [(6, 3), (3,), (3, 2, 2)]
START = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
# A step of 0.1, to the precision that float32 leaves in 1 - 0.999 ** step.
ATOL = 0.1 * 1e-4
GRADIENTS = [[RNG.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(5)]
ROOT = pathlib.Path(__file__).resolve().parent.parent


def trained(optimizer, compiled=False, gradients=GRADIENTS):
    """The variables after a few steps."""
    variables = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(START)]
    optimizer.build(variables)
    step = tf.function(lambda *grads: optimizer.apply(grads, variables), jit_compile=compiled, autograph=False)
    for grads in gradients:
        step(*grads)
    optimizer.finalize_variable_values(variables)
    return [variable.numpy() for variable in variables]


ARGUMENTS = {
    "defaults": {},
    "strong decay": {"weight_decay": 0.5, "beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3},
    "no decay": {"weight_decay": 0.0},
    "amsgrad": {"amsgrad": True},
    "clipped": {"global_clipnorm": 0.5},
    "average": {"use_ema": True, "ema_momentum": 0.7},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scale": {"loss_scale_factor": 8.0},
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_adamw_moves_dense_weights_as_keras_does(arguments):
    ours = trained(tx.optimizers.AdamW(0.1, **arguments))
    theirs = trained(keras.optimizers.AdamW(0.1, **arguments))
    for a, b, start in zip(ours, theirs, START, strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL)
        assert np.abs(a - start).max() > 0.01


def test_adamw_follows_a_schedule_and_compiles():
    def schedule():
        return keras.optimizers.schedules.CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2)

    expected = trained(keras.optimizers.AdamW(schedule(), weight_decay=0.3))
    for compiled in (False, True):
        found = trained(tx.optimizers.AdamW(schedule(), weight_decay=0.3), compiled)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=ATOL)


def test_what_is_excluded_from_decay_does_not_decay():
    def make(kind):
        optimizer = kind(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["v1"])
        return optimizer

    for a, b in zip(trained(make(tx.optimizers.AdamW)), trained(make(keras.optimizers.AdamW)), strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL)


def test_a_row_that_comes_twice_moves_by_the_sum_of_its_gradients():
    rows = tf.constant([0, 2, 2])
    parts = [RNG.normal(size=(3, 3)).astype("float32") for _ in range(3)]
    variable = keras.Variable(START[0])
    optimizer = tx.optimizers.AdamW(0.1)
    optimizer.build([variable])
    step = tf.function(lambda part: optimizer.apply([tf.IndexedSlices(part, rows, tf.constant([6, 3]))], [variable]))
    dense = keras.Variable(START[0])
    reference = keras.optimizers.AdamW(0.1)
    reference.build([dense])
    for part in parts:
        step(part)
        whole = np.zeros((6, 3), "float32")
        np.add.at(whole, rows.numpy(), part)
        reference.apply([tf.constant(whole)], [dense])
    np.testing.assert_allclose(variable.numpy(), dense.numpy(), atol=ATOL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_weights_of_another_dtype_move_as_in_keras(dtype):
    def moved(kind):
        variable = keras.Variable(START[0], dtype=dtype)
        optimizer = kind(0.1)
        optimizer.build([variable])
        for grads in GRADIENTS:
            optimizer.apply([tf.cast(grads[0], dtype)], [variable])
        return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))

    np.testing.assert_array_equal(moved(tx.optimizers.AdamW), moved(keras.optimizers.AdamW))


def test_adamw_goes_on_after_saving_as_if_nothing_had_been(tmp_path):
    x, y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 1)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(tx.optimizers.AdamW(0.1, weight_decay=0.2, beta_1=0.8), loss="mse")
    model.fit(x, y, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is tx.optimizers.AdamW
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(x, y, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_adamw_is_keras_own_on_jax():
    code = """
        import keras, numpy as np, tfxfer as tx
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")
        weights = []
        for kind in (tx.optimizers.AdamW, keras.optimizers.AdamW):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile(kind(0.1), loss="mse")
            model.fit(x, y, epochs=3, verbose=0)
            weights.append(model.get_weights())
        assert all(np.array_equal(a, b) for a, b in zip(*weights))
    """
    code = textwrap.dedent(code)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True)
