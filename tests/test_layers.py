"""Pooling and heads against plain loops."""

import keras
import numpy as np
import pytest

from tfxfer import layers

RNG = np.random.default_rng(1)
X = RNG.normal(size=(5, 7, 3)).astype("float32")
# Rows with 7, 4, 1 and 0 real tokens, padded on the right; a row with 3, padded on the left.
MASK = np.array(
    [[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6, [0] * 7, [0] * 4 + [1] * 3],
    "int32",
)


def oracle(mode, tokens):
    n = len(tokens)
    if n == 0:
        return np.zeros(3)
    weights = np.arange(1, n + 1)
    return {
        "cls": lambda: tokens[0],
        "last": lambda: tokens[-1],
        "mean": lambda: tokens.mean(axis=0),
        "max": lambda: tokens.max(axis=0),
        "mean_sqrt_len": lambda: tokens.sum(axis=0) / np.sqrt(n),
        "weighted_mean": lambda: (tokens * weights[:, None]).sum(axis=0) / weights.sum(),
    }[mode]()


@pytest.mark.parametrize("mode", layers.POOLING)
def test_pooling_equals_a_loop_over_real_tokens(mode):
    expected = [oracle(mode, x[m == 1]) for x, m in zip(X, MASK, strict=True)]
    pooled = layers.Pooling(mode)(X, padding_mask=MASK)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_several_modes_are_concatenated_in_their_order():
    pooled = layers.Pooling(("max", "cls"))(X, padding_mask=MASK).numpy()
    np.testing.assert_array_equal(pooled[:, :3], layers.Pooling("max")(X, padding_mask=MASK))
    np.testing.assert_array_equal(pooled[:, 3:], layers.Pooling("cls")(X, padding_mask=MASK))


def test_pooling_ignores_what_stands_at_padding():
    spoiled = np.where(MASK[:, :, None] == 1, X, 1e6).astype("float32")
    for mode in layers.POOLING:
        expected = layers.Pooling(mode)(X, padding_mask=MASK)
        np.testing.assert_allclose(layers.Pooling(mode)(spoiled, padding_mask=MASK), expected, atol=1e-6)


def test_pooling_stays_in_float32_under_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        pooled = layers.Pooling()(X, padding_mask=MASK)
    finally:
        keras.config.set_dtype_policy("float32")
    assert pooled.dtype == "float32"
    np.testing.assert_array_equal(pooled, layers.Pooling()(X, padding_mask=MASK))


@pytest.mark.parametrize("mode", ["sum", (), ("mean", "median"), 3, None])
def test_unknown_pooling_is_an_error_that_lists_the_known(mode):
    with pytest.raises(ValueError, match="'weighted_mean'"):
        layers.Pooling(mode)


@pytest.mark.parametrize("mode", layers.WORD_POOLING)
def test_word_pooling_equals_a_loop_over_the_tokens_of_each_word(mode):
    ids = np.array([[-1, 0, 0, 0, 1, 2, -1], [-1, 0, 2, 2, 3, -1, -1], [-1] * 7, [-1, -1, -1, 1, 1, 1, 4], [0] * 7])
    mask = (ids[:, None, :] == np.arange(5)[None, :, None]).any(axis=-1)
    take = {"first": lambda t: t[0], "last": lambda t: t[-1], "mean": lambda t: t.mean(0), "max": lambda t: t.max(0)}
    expected = np.zeros((5, 5, 3))
    for row, word in zip(*np.nonzero(mask), strict=True):
        expected[row, word] = take[mode](X[row][ids[row] == word])
    np.testing.assert_allclose(layers.WordPooling(mode)(X, word_ids=ids, word_mask=mask), expected, atol=1e-6)


def test_unknown_word_pooling_is_an_error():
    with pytest.raises(ValueError, match=r"`mode`.*'first', 'last', 'mean', 'max'"):
        layers.WordPooling("cls")


def test_unit_norm_gives_length_one_and_leaves_zero_alone():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], "float32")
    np.testing.assert_allclose(layers.UnitNorm()(vectors)[:2], [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
    assert np.isfinite(layers.UnitNorm()(vectors)).all()


def test_head_equals_its_formula():
    head = layers.Head(2, hidden_dims=(4,), activation="relu", dropout=0.5)
    x = X[:, 0]
    outputs = head(x)
    w1, b1, w2, b2 = (w.numpy() for w in head.weights)
    np.testing.assert_allclose(outputs, np.maximum(x @ w1 + b1, 0.0) @ w2 + b2, atol=1e-6)


def test_head_drops_features_in_training_only():
    head = layers.Head(2, dropout=0.9)
    x = np.ones((4, 50), "float32")
    np.testing.assert_array_equal(head(x), head(x, training=False))
    assert np.abs(head(x, training=True) - head(x)).max() > 0


def test_head_with_norms_and_without_biases_equals_its_formula():
    head = layers.Head(
        2, (4,), "tanh", 0.0, hidden_dropout=0.5, use_bias=False, hidden_use_bias=False, norm_epsilon=0.1
    )
    x = X[:, 0]
    outputs = head(x)
    head.norms[0].gamma.assign([1.0, 2.0, 3.0, 4.0])
    w1, w2 = (dense.kernel.numpy() for dense in head.denses)
    assert len(head.weights) == 3
    y = np.tanh(x @ w1)
    y = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 0.1) * [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(head(x), y @ w2, atol=1e-6)
    assert np.abs(outputs - head(x)).max() > 0
    np.testing.assert_array_equal(layers.Head(2, dropout=0.2).hidden_dropout, 0.2)


def test_head_drops_before_hidden_layers_at_a_rate_of_their_own():
    x = np.ones((4, 50), "float32")
    quiet = layers.Head(2, (8,), dropout=0.0, hidden_dropout=0.0)
    np.testing.assert_array_equal(quiet(x), quiet(x, training=True))
    for rates in ({"dropout": 0.9, "hidden_dropout": 0.0}, {"dropout": 0.0, "hidden_dropout": 0.9}):
        head = layers.Head(2, (8,), **rates)
        assert np.abs(head(x, training=True) - head(x)).max() > 0


@pytest.mark.parametrize("mode", ["mean", ("cls", "max")])
def test_dense_pooling_equals_a_loop_over_real_tokens(mode):
    layer = layers.DensePooling(3, "relu", mode)
    pooled = layer(X, padding_mask=MASK)
    kernel, bias = (w.numpy() for w in layer.weights)
    tokens = np.maximum(X @ kernel + bias, 0.0)
    modes = (mode,) if isinstance(mode, str) else mode
    expected = [np.concatenate([oracle(name, x[m == 1]) for name in modes]) for x, m in zip(tokens, MASK, strict=True)]
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_outputs": 0},
        {"num_outputs": 2, "dropout": 1.0},
        {"num_outputs": 2.5},
        {"num_outputs": 2, "hidden_dropout": -0.1},
        {"num_outputs": 2, "norm_epsilon": 0},
    ],
)
def test_head_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Invalid value for argument"):
        layers.Head(**arguments)
