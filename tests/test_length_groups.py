"""Attention in groups of rows of similar length, which towers use in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfxfer as tx

SIZES = {"vocabulary_size": 40, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
LENGTH = 19
# Each family has another bias or other positions: none but padding, one number for each distance, vectors for each
# distance, windows and rotations, causal.
FAMILIES = ["bert", "t5", "deberta_v3", "modernbert", "gpt2"]


def encoder(family, dropout=0.0):
    """An encoder of `family` with a mean over the tokens."""
    backbone = tx.backbones.Backbone(family, max_sequence_length=LENGTH, dropout=dropout, **SIZES)
    generator = np.random.default_rng(0)
    for weight in backbone.trainable_variables:  # so large that attention tells tokens apart
        weight.assign(generator.normal(0, 0.5, weight.shape))
    vectors = tx.layers.Pooling("mean")(backbone(backbone.input), backbone.input["padding_mask"])
    return keras.Model(backbone.input, vectors)


def masks(kind, rows):
    """Padding masks of `rows` texts of 1 to `LENGTH` tokens."""
    generator = np.random.default_rng(rows)
    places, lengths = np.arange(LENGTH), generator.integers(1, LENGTH + 1, rows)[:, None]
    if kind == "left":
        return (places >= LENGTH - lengths).astype("int32")
    if kind == "gaps":
        return generator.integers(0, 2, (rows, LENGTH)).astype("int32")
    if kind == "empty":
        lengths[::3] = 0
    return (places < lengths).astype("int32")


def inputs(model, mask):
    """Random ids."""
    ids = np.random.default_rng(0).integers(1, SIZES["vocabulary_size"], mask.shape).astype("int32")
    x = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * mask}
    return {name: x[name] for name in model.input}


def step(model, x, compiled=False, graph=False):
    """The vectors of a training step, and the gradient of a loss on them for each weight."""
    weights = model.trainable_variables

    def compute():
        with tf.GradientTape() as tape:
            vectors = tf.reshape(model(x, training=True), (-1, SIZES["hidden_dim"]))
            loss = tf.reduce_sum(tf.cast(tf.range(1, tf.size(vectors) + 1), "float32") * tf.reshape(vectors, (-1,)))
        return vectors, [tf.convert_to_tensor(each) for each in tape.gradient(loss, [w.value for w in weights])]

    vectors, gradients = (tf.function(compute, jit_compile=compiled) if compiled or graph else compute)()
    return vectors.numpy(), {w.path: each.numpy() for w, each in zip(weights, gradients, strict=True)}


def assert_equal_steps(model, mask, compiled=False):
    """Holds a step of towers of one column against one of the encoder alone, which has no groups."""
    x = inputs(model, mask)
    vectors, gradients = step(model, x)
    towers = tx.layers.SiameseTowers(model)
    grouped, grouped_gradients = step(towers, {name: value[:, None] for name, value in x.items()}, compiled)
    np.testing.assert_allclose(grouped, vectors, atol=1e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for path, gradient in gradients.items():
        np.testing.assert_allclose(grouped_gradients[path], gradient, atol=1e-6 * largest, err_msg=path)


@pytest.mark.parametrize("kind", ["right", "left", "gaps", "empty"])
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_give_the_vectors_and_gradients_of_one_batch(family, kind):
    assert_equal_steps(encoder(family), masks(kind, 17))


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_batch_of_few_rows_leaves_groups_empty(rows):
    assert_equal_steps(encoder("bert"), masks("right", rows))


def test_an_empty_batch_has_empty_groups():
    # As on a replica without rows; eagerly, TensorFlow adds no bias to a matrix without rows.
    model = encoder("bert")
    x = {name: value[:, None] for name, value in inputs(model, masks("right", 0)).items()}
    vectors, gradients = step(tx.layers.SiameseTowers(model), x, graph=True)
    assert vectors.shape == (0, SIZES["hidden_dim"])
    assert not any(each.any() for each in gradients.values())


@pytest.mark.slow
def test_xla_compiles_groups():
    assert_equal_steps(encoder("bert"), masks("right", 9), compiled=True)


def test_scores_of_short_texts_are_as_wide_as_their_group(monkeypatch):
    found = []
    softmax = keras.ops.softmax

    def watched(x, *arguments, **options):
        found.append(tuple(x.shape))
        return softmax(x, *arguments, **options)

    model = encoder("bert")
    mask = (np.arange(LENGTH) < np.array([[3]] * 8 + [[9]] * 6 + [[19]] * 2)).astype("int32")
    x = inputs(model, mask)
    monkeypatch.setattr(keras.ops, "softmax", watched)
    towers = tx.layers.SiameseTowers(model)
    pairs = {name: value.reshape(8, 2, LENGTH) for name, value in x.items()}
    towers(pairs, training=True)
    assert found == [(2, 2, 19, 19), (6, 2, 9, 9), (8, 2, 3, 3)] * 2
    found.clear()
    towers(pairs, training=False)
    assert found == [(16, 2, 32, 32)] * 2  # inference pads to multiples of 16, for identical bits
    found.clear()
    model.get_layer(index=-2).trainable = False
    towers(pairs, training=True)  # frozen layers compute as in inference
    assert found == [(16, 2, 19, 19)] * 2


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_groups_train_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = encoder("bert", dropout=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    towers = tx.layers.SiameseTowers(model)
    x = {name: value.reshape(8, 2, LENGTH) for name, value in inputs(model, masks("right", 16)).items()}
    _, gradients = step(towers, x)
    assert all(np.isfinite(each).all() for each in gradients.values())
    assert all(np.abs(each).max() > 0 for path, each in gradients.items() if "key/bias" not in path)
