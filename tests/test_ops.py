"""The arithmetic that layers, losses and metrics share."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from tensorflow.python.framework import ops as framework

# Private: layers, losses and metrics only show means, which hide where a distance or its gradient is wrong.
from tfxfer import _ops

# Private: what trains with them would hide where a gradient is taken, and how often something is computed.
from tfxfer._gradients import custom_gradient, remat

RNG = np.random.default_rng(3)
VECTORS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(2, 4, 3)))
quickly = settings(max_examples=20, deadline=None)


def gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(function(x))
    return tape.gradient(value, x).numpy()


def test_every_name_is_in_all_four_tables():
    tables = (_ops.DISTANCES, _ops.PAIRWISE_DISTANCES, _ops.SIMILARITIES, _ops.PAIRWISE_SIMILARITIES)
    assert all(set(table) == {"cosine", "euclidean", "squared_euclidean", "manhattan", "dot"} for table in tables)


@quickly
@given(VECTORS)
@pytest.mark.parametrize("name", _ops.DISTANCES)
def test_distances_are_symmetric_and_larger_where_similarities_are_smaller(name, vectors):
    u, v = vectors
    distance, similarity = (ops.convert_to_numpy(t[name](u, v)) for t in (_ops.DISTANCES, _ops.SIMILARITIES))
    np.testing.assert_allclose(ops.convert_to_numpy(_ops.DISTANCES[name](v, u)), distance, atol=1e-12)
    np.testing.assert_allclose(distance + similarity, np.full(4, 1.0 if name == "cosine" else 0.0), atol=1e-12)
    if name != "dot":
        assert (distance >= -1e-12).all()
        np.testing.assert_allclose(ops.convert_to_numpy(_ops.DISTANCES[name](u, u)), np.zeros(4), atol=1e-12)


@quickly
@given(VECTORS)
@pytest.mark.parametrize("name", ["euclidean", "manhattan"])
def test_metrics_keep_the_triangle_inequality(name, vectors):
    d = ops.convert_to_numpy(_ops.PAIRWISE_DISTANCES[name](vectors[0], vectors[0]))
    assert (d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-9).all()


@quickly
@given(VECTORS)
@pytest.mark.parametrize("name", _ops.DISTANCES)
def test_pairwise_is_row_by_row(name, vectors):
    u, v = vectors[0], vectors[1, :3]
    for rows, pairs in ((_ops.DISTANCES, _ops.PAIRWISE_DISTANCES), (_ops.SIMILARITIES, _ops.PAIRWISE_SIMILARITIES)):
        expected = ops.convert_to_numpy(rows[name](u[:, None], v[None]))
        np.testing.assert_allclose(ops.convert_to_numpy(pairs[name](u, v)), expected, atol=1e-9)
        assert pairs[name](u, v).shape == (4, 3)


@pytest.mark.parametrize("name", _ops.DISTANCES)
def test_pairwise_gradients_are_those_of_the_rows(name):
    u, v = RNG.normal(size=(2, 4, 3))
    rows = gradient(lambda x: _ops.DISTANCES[name](x[:, None], v[None]), u)
    np.testing.assert_allclose(gradient(lambda x: _ops.PAIRWISE_DISTANCES[name](x, v), u), rows, atol=1e-9)
    both = gradient(lambda x: _ops.DISTANCES[name](x[:, None], x[None]), u)
    np.testing.assert_allclose(gradient(lambda x: _ops.PAIRWISE_DISTANCES[name](x, x), u), both, atol=1e-9)


@pytest.mark.parametrize("name", ["euclidean", "squared_euclidean"])
def test_equal_rows_have_distance_zero_and_near_ones_stay_apart_in_float32(name):
    x = (RNG.normal(size=(3, 384)) * 1e-2 + 1.0).astype("float32")  # far from zero, close to one another
    x = np.concatenate([x, x[:1]])
    found = ops.convert_to_numpy(_ops.PAIRWISE_DISTANCES[name](x, x))
    exact = ops.convert_to_numpy(_ops.DISTANCES[name](x[:, None].astype("float64"), x[None].astype("float64")))
    assert found[0, 3] == 0.0 and not np.diag(found).any()
    np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("name", _ops.DISTANCES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e15])
def test_distance_gradients_are_finite_at_zero_and_at_equal_rows(name, scale):
    x = (RNG.normal(size=(4, 6)) * scale).astype("float32")
    for function in (
        lambda x: _ops.DISTANCES[name](x, x + 0.0),
        lambda x: _ops.DISTANCES[name](x, 0.0 * x),
        lambda x: _ops.PAIRWISE_DISTANCES[name](x, x),
    ):
        assert np.isfinite(gradient(function, x)).all()


def test_unit_norm_of_a_zero_vector_is_zero_with_no_gradient():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(_ops.unit_norm(x)), [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]], atol=1e-7)
    np.testing.assert_array_equal(gradient(_ops.unit_norm, x)[1:], np.zeros((2, 2)))
    half = ops.cast(x, "float16")
    assert np.isfinite(ops.convert_to_numpy(ops.cast(_ops.unit_norm(half), "float32"))).all()


def test_safe_sqrt_is_the_root_with_a_finite_gradient_at_zero():
    x = np.array([-1.0, 0.0, 4.0])
    np.testing.assert_array_equal(ops.convert_to_numpy(_ops.safe_sqrt(x)), [0.0, 0.0, 2.0])
    np.testing.assert_array_equal(gradient(_ops.safe_sqrt, x), [0.0, 0.0, 0.25])


# === Masked reductions ===


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e4, 1e30]))
def test_masked_reductions_are_those_of_what_is_kept(seed, scale):
    rng = np.random.default_rng(seed)
    x, keep = rng.normal(size=(3, 5)) * scale, rng.random((3, 5)) < 0.5
    for function, expected in (
        (_ops.masked_max, np.max),
        (_ops.masked_min, np.min),
        (_ops.masked_logsumexp, lambda kept: np.max(kept) + np.log(np.exp(kept - np.max(kept)).sum())),
        (lambda x, keep: _ops.masked_mean(x, keep, axis=-1), np.mean),
    ):
        values = [expected(row[mask]) if mask.any() else 0.0 for row, mask in zip(x, keep, strict=True)]
        np.testing.assert_allclose(ops.convert_to_numpy(function(x, keep)), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [_ops.masked_max, _ops.masked_min, _ops.masked_logsumexp, _ops.masked_mean])
def test_what_is_masked_gets_no_gradient(function):
    x = np.array([[1.0, np.float64(1e6), -1e6], [5.0, 5.0, 5.0]])
    keep = np.array([[True, False, False], [False, False, False]])
    np.testing.assert_array_equal(gradient(lambda x: function(x, keep), x), [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_logsumexp_where_counts_one_more_and_takes_any_size():
    for x in ([1.0, 2.0], [1e5, -1e5], [-1e5, -2e5]):
        found = float(_ops.logsumexp_where(np.array([*x, 1e9]), np.array([True, True, False])))
        assert found == pytest.approx(np.logaddexp(0.0, np.logaddexp(*x)), abs=1e-12)
    assert float(_ops.logsumexp_where(np.ones((2, 2)), np.zeros((2, 2), bool))) == 0.0


def test_masked_sum_takes_the_tokens_of_the_mask():
    x, mask = RNG.normal(size=(2, 3, 4)), np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    expected = [x[0, 0] + 2 * x[0, 2], np.zeros(4)]
    np.testing.assert_allclose(ops.convert_to_numpy(_ops.masked_sum(x, mask)), expected)


def test_lowest_is_within_half_precision():
    assert np.isfinite(ops.convert_to_numpy(ops.cast(_ops.LOWEST, "float16")))
    assert keras.backend.standardize_dtype(ops.cast(_ops.LOWEST, "float16").dtype) == "float16"


# === Gradients of our own ===

X = np.array([[1.0, 2.0], [3.0, 0.5]], "float32")


@custom_gradient
def tenfold(x, y):
    """`x * y` and `x`, with ten times their gradient."""

    def gradient(*args, upstream=None):
        first, second = args or upstream
        return 10 * (first * y + second), 10 * first * x

    return (x * y, ops.copy(x)), gradient


def total(x):
    first, second = tenfold(x, ops.sin(x))
    return ops.sum(first) + 3 * ops.sum(second)


def expected(x=X):
    return 10 * (np.sin(x) + 3) + 10 * x * np.cos(x)


def taped(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = total(x)
    return tape.gradient(value, x)


def outside(x):
    function = tf.function(total, autograph=False)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def in_a_loop(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, values = ops.scan(lambda carried, row: (carried, total(row)), ops.zeros(()), x)
        value = ops.sum(values)
    return tape.gradient(value, x)


WAYS = {
    "eager": taped,
    "tape inside": tf.function(taped, autograph=False),
    "tape outside": outside,
    "tape around a function in a function": tf.function(outside, autograph=False),
    "XLA": tf.function(taped, autograph=False, jit_compile=True),
    "loop": tf.function(in_a_loop, autograph=False),
    "unknown shape": tf.function(taped, input_signature=[tf.TensorSpec([None, None])], autograph=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_ours_wherever_it_is_taken(way):
    before = len(framework.gradient_registry.list())
    np.testing.assert_allclose(WAYS[way](tf.constant(X)), expected(), rtol=1e-5)
    if "function in a function" not in way:  # TensorFlow itself registers a gradient of the inner function
        assert len(framework.gradient_registry.list()) <= before + 1


def test_a_gradient_of_the_gradient_differentiates_what_was_computed():
    @tf.function(autograph=False)
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            found = taped(x)
        return outer.gradient(found, x)

    # The gradient of 10 * (first * y + second) by x, with y = sin(x): ours again has no part in it.
    np.testing.assert_allclose(second(tf.constant(X)), 20 * np.cos(X) - 10 * X * np.sin(X), rtol=1e-4)


def computed(arguments, weights):
    return ops.tanh(ops.matmul(arguments["x"], weights[0])) * ops.cast(arguments["ids"], "float32") + weights[1]


def test_the_gradient_of_some_rows_is_that_of_all():
    @tf.function(autograph=False)
    def rows(x, function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = ops.sum(tf.gather(function(x), [0, 0]))
        return tape.gradient(value, x)

    np.testing.assert_allclose(rows(tf.constant(X), lambda x: tenfold(x, x)[0]), [20 * X[0] * 2, 0 * X[1]])
    np.testing.assert_allclose(rows(tf.constant(X), remat(ops.square)), [4 * X[0], 0 * X[1]])


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_computed_again_has_the_gradient_of_what_is_kept(compiled):
    made = {"x": tf.constant(X), "ids": tf.constant([[1], [2]]), "keep": tf.constant([True, False])}
    weights = [tf.constant([[0.5, -1.0], [0.25, 2.0]]), tf.constant([0.1, 0.2])]
    counts = []

    def gradients(function):
        @tf.function(autograph=False, jit_compile=compiled)
        def run(made, weights):
            with tf.GradientTape() as tape:
                tape.watch([made["x"], *weights])
                value = ops.sum(ops.square(function(made, weights)))
            return tape.gradient(value, [made["x"], *weights])

        return run(made, weights)

    def counted(made, weights):
        counts.append(1)
        return computed(made, weights)

    for one, other in zip(gradients(remat(counted)), gradients(computed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(counts) == 2


def test_a_row_without_a_gradient_and_an_infinite_one_do_not_change_the_rest():
    @tf.function(autograph=False)
    def run(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = remat(ops.square)(x)
        return tape.gradient(value, x, output_gradients=upstream)

    x = tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(run(x, tf.constant([np.nan, 3.0])), [np.nan, 12.0])
    np.testing.assert_array_equal(run(x, tf.constant([np.inf, 3.0])), [np.inf, 12.0])
    assert run(x[:0], x[:0]).shape == (0,)
