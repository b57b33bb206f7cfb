"""Training steps in which XLA compiles what lies between the matrix products."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_gradient_checkpointing import LENGTH, SIZES, encoder, step

import tfxfer as tx


def inputs(backbone, lengths):
    """Texts of these lengths."""
    mask = (np.arange(LENGTH) < np.array(lengths)[:, None]).astype("int32")
    ids = np.random.default_rng(0).integers(1, SIZES["vocabulary_size"], mask.shape).astype("int32")
    x = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * mask}
    return {name: x[name] for name in backbone.input}


def programs(model, x, training=True):
    """The number of conditions in the graph of a step that call a program of XLA in one of their branches."""

    def compute():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=training))
        return tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    graph = tf.function(compute).get_concrete_function().graph
    functions = {each.signature.name: each for each in graph.as_graph_def().library.function}
    branches = [op.get_attr("then_branch").name for op in graph.get_operations() if op.type in ("If", "StatelessIf")]
    return sum(any(node.op.endswith("PartitionedCall") for node in functions[name].node_def) for name in branches)


FULL, PADDED = [LENGTH] * 4, [LENGTH, 3, 1, LENGTH]


# Post-norm with GELU; pre-norm with the other GELU; a gate and norms without shift.
@pytest.mark.parametrize(
    ("family", "lengths"),
    [
        pytest.param("bert", FULL, id="bert-full"),
        pytest.param("gpt2", PADDED, id="gpt2-padded"),
        *(
            pytest.param(family, lengths, id=f"{family}-{name}", marks=pytest.mark.slow)
            for family, lengths, name in (
                ("bert", PADDED, "padded"),
                ("gpt2", FULL, "full"),
                ("modernbert", FULL, "full"),
            )
        ),
    ],
)
def test_a_step_has_the_gradients_and_the_dropout_of_plain_operations(family, lengths):
    backbone, model = encoder(family, dropout=0.3)
    x = inputs(backbone, lengths)
    vectors, gradients, seeds = step(model, x, graph=True)
    backbone.fused_elementwise = True
    again, again_gradients, again_seeds = step(model, x, graph=True)
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    largest = max(np.abs(each).max() for each in gradients)
    for found, expected in zip(again_gradients, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * largest)
    assert again_seeds == seeds


def test_padding_leaves_the_bits_and_full_batches_run_programs():
    backbone, model = encoder("bert", dropout=0.3)
    full, padded = inputs(backbone, FULL), inputs(backbone, PADDED)
    expected = step(model, padded, graph=True)[0]
    assert programs(model, full) == 0
    backbone.fused_elementwise = True
    # In each of the two blocks a GELU and two norms, forward and backward.
    assert programs(model, full) == 12
    np.testing.assert_array_equal(step(model, padded, graph=True)[0], expected)
    assert programs(model, full, training=False) == 0


@pytest.mark.slow
def test_float64_keeps_its_digits():
    backbone, _ = encoder("bert", dropout=0.0, dtype="float64")
    x = inputs(backbone, FULL)
    expected = tf.function(lambda: backbone(x, training=True))().numpy()
    backbone.fused_elementwise = True
    found = tf.function(lambda: backbone(x, training=True))().numpy()
    assert found.dtype == "float64"
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
def test_sixteen_bits():
    backbone, model = encoder("bert", dropout=0.3, dtype="bfloat16")
    x = inputs(backbone, FULL)
    vectors, gradients, _ = step(model, x, graph=True)
    backbone.fused_elementwise = True
    again, again_gradients, _ = step(model, x, graph=True)
    assert again.dtype == vectors.dtype
    np.testing.assert_allclose(again.astype("float32"), vectors.astype("float32"), atol=0.1)
    largest = max(np.abs(each.astype("float32")).max() for each in gradients)
    for found, expected in zip(again_gradients, gradients, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), atol=0.05 * largest)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["keeps", "again"])
def test_fit_trains_as_without_and_the_setting_comes_back(tmp_path, checkpointing):
    def trained(fused):
        keras.utils.set_random_seed(0)
        model = tiny.classifier(tmp_path)
        model.fused_elementwise = fused
        model.gradient_checkpointing = checkpointing
        tx.freezing.freeze(model, groups=["embeddings"])
        model.compile(keras.optimizers.SGD(0.1))
        # Four texts without padding, and others.
        texts, labels = [tiny.TEXTS[0]] * 4 + tiny.TEXTS[:4], [tiny.LABELS[0]] * 4 + tiny.LABELS[:4]
        model.fit(texts, labels, epochs=2, batch_size=4, shuffle=False, verbose=0, seed=0)
        return model

    plain, model = trained(False), trained(True)
    assert not plain.fused_elementwise and model.fused_elementwise
    for weight, expected in zip(model.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), atol=1e-6, err_msg=weight.path)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.fused_elementwise and again.backbone.fused_elementwise
    again.fused_elementwise = False
    assert not again.backbone.fused_elementwise


@pytest.mark.slow
def test_a_step_that_xla_compiles_whole(tmp_path):
    def trained(fused):
        keras.utils.set_random_seed(0)
        model = tiny.classifier(tmp_path)
        model.fused_elementwise = fused
        model.compile(keras.optimizers.SGD(0.1), jit_compile=True)
        model.fit([tiny.TEXTS[0]] * 4, [tiny.LABELS[0]] * 4, epochs=2, batch_size=4, verbose=0, seed=0)
        return [weight.numpy() for weight in model.trainable_variables]

    for weight, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
