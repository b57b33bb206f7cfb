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
import tiny

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


def test_steps_in_one_graph_each_count():
    optimizer = tx.optimizers.AdamW(0.1)
    variables = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(START)]
    optimizer.build(variables)

    @tf.function(autograph=False)
    def steps():
        for grads in GRADIENTS:
            optimizer.apply([tf.constant(each) for each in grads], variables)

    steps()
    for found, expected in zip(variables, trained(tx.optimizers.AdamW(0.1)), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


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


# Rows of three batches: a row alone, twice, three times.
SPARSE = [
    (np.array(rows), RNG.normal(size=(3, 3)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32"))
    for rows in ([0, 2, 2], [2, 2, 5], [0, 0, 0])
]
TABLE, KERNEL = RNG.normal(size=(6, 3)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32")


def stepped(optimizer, dense=False, compiled=False, scale=1.0):
    """A table and a kernel after the steps of `SPARSE`, with the table's gradient as rows or `dense`."""
    variables = [keras.Variable(TABLE), keras.Variable(KERNEL)]
    optimizer.build(variables)

    @tf.function(jit_compile=compiled)
    def step(rows, values, kernel):
        table = tf.IndexedSlices(values * scale, rows, tf.constant(TABLE.shape))
        optimizer.apply([tf.convert_to_tensor(table) if dense else table, kernel * scale], variables)

    for rows, values, kernel in SPARSE:
        step(tf.constant(rows, "int32"), tf.constant(values), tf.constant(kernel))
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.5}, {"global_clipnorm": 0.7}, {"global_clipnorm": 1e3}, {"clipvalue": 0.1}]
)
def test_norms_for_clipping_are_those_of_the_summed_rows(clip):
    expected = stepped(keras.optimizers.AdamW(0.1, weight_decay=0.2, **clip), dense=True)
    optimizer = tx.optimizers.AdamW(0.1, weight_decay=0.2, **clip)
    for found in (
        stepped(optimizer),
        stepped(tx.optimizers.Subset(tx.optimizers.AdamW(0.1, weight_decay=0.2, **clip))),
    ):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=ATOL)


def test_a_norm_that_is_not_finite_reaches_the_weights():
    variable = keras.Variable(TABLE)
    optimizer = tx.optimizers.AdamW(0.1, global_clipnorm=1.0)
    optimizer.build([variable])
    values = tf.constant([[1.0, float("inf"), 0.0]])
    optimizer.apply([tf.IndexedSlices(values, tf.constant([1]), tf.constant(TABLE.shape))], [variable])
    assert np.isnan(variable.numpy()[1]).any()


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, tx.optimizers.Subset], ids=["alone", "subset"])
def test_accumulated_gradients_make_the_step_of_their_mean(wrap):
    settings = {"weight_decay": 0.2, "global_clipnorm": 0.7}
    found = stepped(wrap(tx.optimizers.AdamW(0.1, gradient_accumulation_steps=3, **settings)))
    variables = [keras.Variable(TABLE), keras.Variable(KERNEL)]
    reference = keras.optimizers.AdamW(0.1, **settings)
    reference.build(variables)
    table = np.zeros(TABLE.shape, "float32")
    for rows, values, _ in SPARSE:
        np.add.at(table, rows, values)
    reference.apply([tf.constant(table / 3), tf.constant(sum(kernel for _, _, kernel in SPARSE) / 3)], variables)
    for a, b in zip(found, variables, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=ATOL)


def lazily(clip, rate=0.1, decay=0.2, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """The table after lazy steps, in float64, row by row."""
    table, first, second = TABLE.astype("float64"), np.zeros(TABLE.shape), np.zeros(TABLE.shape)
    for step, (rows, values, kernel) in enumerate(SPARSE, 1):
        gradient = np.zeros(TABLE.shape)
        np.add.at(gradient, rows, values.astype("float64"))
        norm = np.sqrt((gradient**2).sum() + (kernel.astype("float64") ** 2).sum())
        gradient *= min(1.0, clip / norm)
        for row in set(rows):
            first[row] = beta_1 * first[row] + (1 - beta_1) * gradient[row]
            second[row] = beta_2 * second[row] + (1 - beta_2) * gradient[row] ** 2
            table[row] *= 1 - rate * decay
            mean, square = first[row] / (1 - beta_1**step), second[row] / (1 - beta_2**step)
            table[row] -= rate * mean / (np.sqrt(square) + epsilon / np.sqrt(1 - beta_2**step))
    return table


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("wrap", ["alone", "subset", "loss scale"])
def test_lazy_embeddings_move_the_rows_of_the_batch_alone(wrap, compiled):
    optimizer = tx.optimizers.AdamW(0.1, weight_decay=0.2, global_clipnorm=0.7, lazy_embeddings=True)
    scale = 1.0
    if wrap == "subset":
        optimizer = tx.optimizers.Subset(optimizer)
    elif wrap == "loss scale":
        scale = 8.0
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    table, kernel = stepped(optimizer, compiled=compiled, scale=scale)
    np.testing.assert_allclose(table, lazily(0.7), atol=ATOL)
    np.testing.assert_array_equal(table[[1, 3, 4]], TABLE[[1, 3, 4]])
    expected = stepped(tx.optimizers.AdamW(0.1, weight_decay=0.2, global_clipnorm=0.7))[1]
    np.testing.assert_allclose(kernel, expected, atol=ATOL)


def test_lazy_embeddings_heed_what_does_not_decay():
    optimizer = tx.optimizers.AdamW(0.1, weight_decay=0.2, lazy_embeddings=True)
    variables = [keras.Variable(TABLE, name="table")]
    optimizer.exclude_from_weight_decay(var_names=["table"])
    optimizer.build(variables)
    rows, values, _ = SPARSE[0]
    optimizer.apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant(TABLE.shape))], variables)
    plain = tx.optimizers.AdamW(0.1, weight_decay=0.0)
    other = [keras.Variable(TABLE)]
    plain.build(other)
    plain.apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant(TABLE.shape))], other)
    np.testing.assert_allclose(variables[0].numpy(), other[0].numpy(), atol=ATOL)


def test_a_dense_gradient_of_a_table_moves_all_rows_as_ever():
    found = stepped(tx.optimizers.AdamW(0.1, weight_decay=0.2, lazy_embeddings=True), dense=True)
    expected = stepped(tx.optimizers.AdamW(0.1, weight_decay=0.2), dense=True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lazy_embeddings_train_a_model_and_come_back(tmp_path):
    model = tiny.classifier(tmp_path)
    table = model.backbone.token_embedding.embeddings
    before = table.numpy()
    model.compile(tx.optimizers.Layerwise(tx.optimizers.AdamW(0.1, lazy_embeddings=True), {"head": 2.0}))
    model.fit(["card"], ["card"], epochs=2, verbose=0)
    seen = np.unique(model.preprocess_samples(["card"])["token_ids"])
    moved = np.flatnonzero(np.abs(table.numpy() - before).max(axis=1))
    assert set(moved) <= set(seen) and len(moved) >= 2
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").optimizer.inner_optimizer.lazy_embeddings


@pytest.mark.parametrize(
    "arguments", [{"amsgrad": True}, {"gradient_accumulation_steps": 2}, {"lazy_embeddings": "yes"}], ids=str
)
def test_what_lazy_embeddings_cannot_do_is_an_error(arguments):
    with pytest.raises(ValueError, match="`lazy_embeddings`"):
        tx.optimizers.AdamW(0.1, **{"lazy_embeddings": True, **arguments})


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
