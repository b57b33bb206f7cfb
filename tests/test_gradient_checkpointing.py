"""Training steps that keep only the input of each block and compute the block again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_contracts
import tiny

import tfxfer as tx

SIZES = {"vocabulary_size": 40, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
LENGTH = 9


def encoder(family, **options):
    """An encoder of `family`, with a mean over the tokens."""
    backbone = tx.backbones.Backbone(family, max_sequence_length=LENGTH, **SIZES, **options)
    vectors = tx.layers.Pooling("mean")(backbone(backbone.input), backbone.input["padding_mask"])
    return backbone, keras.Model(backbone.input, vectors)


def inputs(model, columns=None):
    """Six texts of 1 to 9 tokens, in rows of `columns` texts."""
    mask = (np.arange(LENGTH) < np.array([9, 2, 5, 1, 7, 3])[:, None]).astype("int32")
    ids = np.random.default_rng(0).integers(1, SIZES["vocabulary_size"], mask.shape).astype("int32")
    x = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * mask}
    shape = mask.shape if columns is None else (-1, columns, LENGTH)
    return {name: x[name].reshape(shape) for name in model.input}


def step(model, x, graph):
    """The vectors of a training step, with dropout, and the gradients of a loss on them."""
    seeds = [each for each in model.non_trainable_variables if each.name == "seed_generator_state"]
    for i, seed in enumerate(seeds):
        seed.assign([i, 0])
    weights = model.trainable_variables

    def compute():
        with tf.GradientTape() as tape:
            vectors = tf.reshape(model(x, training=True), (-1, SIZES["hidden_dim"]))
            loss = tf.reduce_sum(tf.cast(tf.range(tf.size(vectors)), "float32") * tf.reshape(vectors, (-1,)))
        return vectors, [tf.convert_to_tensor(each) for each in tape.gradient(loss, [w.value for w in weights])]

    vectors, gradients = (tf.function(compute) if graph else compute)()
    return vectors.numpy(), [each.numpy() for each in gradients], [seed.numpy().tolist() for seed in seeds]


# Each family has another kind of input that needs a gradient, or none: a bias, vectors of distances, rotations.
@pytest.mark.parametrize(
    ("family", "graph", "columns"),
    [("bert", False, None), ("bert", True, 2), ("t5", False, None), ("deberta_v3", False, 2), ("modernbert", False, 3)],
)
def test_a_step_has_the_gradients_and_the_dropout_of_one_that_keeps_all(family, graph, columns):
    backbone, model = encoder(family, dropout=0.3)
    top = model if columns is None else tx.layers.SiameseTowers(model)
    vectors, gradients, seeds = step(top, inputs(model, columns), graph)
    backbone.gradient_checkpointing = True
    again, again_gradients, again_seeds = step(top, inputs(model, columns), graph)
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    largest = max(np.abs(each).max() for each in gradients)
    for found, expected in zip(again_gradients, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * largest)
    # No seed is used twice: in groups of rows, attention draws once for each group, which other dropouts need not do.
    assert all(a >= b for each, other in zip(again_seeds, seeds, strict=True) for a, b in zip(each, other, strict=True))
    assert columns or again_seeds == seeds


def test_blocks_are_computed_again(monkeypatch):
    calls = []
    compute = keras.layers.LayerNormalization.__call__

    def watched(layer, *arguments, **options):
        calls.append(layer.name)
        return compute(layer, *arguments, **options)

    backbone, model = encoder("bert")
    monkeypatch.setattr(keras.layers.LayerNormalization, "__call__", watched)
    step(model, inputs(model), graph=False)
    assert (calls.count("norm"), calls.count("attention_norm"), calls.count("feed_forward_norm")) == (1, 2, 2)
    calls.clear()
    backbone.gradient_checkpointing = True
    step(model, inputs(model), graph=False)
    assert (calls.count("norm"), calls.count("attention_norm"), calls.count("feed_forward_norm")) == (1, 4, 4)
    calls.clear()
    model(inputs(model), training=False)
    assert calls.count("attention_norm") == 2


def test_fit_trains_as_without_and_the_setting_comes_back(tmp_path):
    def trained(checkpointing):
        keras.utils.set_random_seed(0)
        model = tiny.classifier(tmp_path)
        model.gradient_checkpointing = checkpointing
        tx.freezing.freeze(model, groups=["embeddings"])
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, batch_size=4, verbose=0, seed=0)
        return model

    plain, model = trained(False), trained(True)
    assert not plain.gradient_checkpointing and model.gradient_checkpointing
    for weight, expected in zip(model.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), atol=1e-6, err_msg=weight.path)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.gradient_checkpointing and again.backbone.gradient_checkpointing
    again.gradient_checkpointing = False
    assert not again.backbone.gradient_checkpointing


def test_adapters_train(tmp_path):
    model = tiny.classifier(tmp_path)
    tx.freezing.add_lora(model, rank=2)
    model.gradient_checkpointing = True
    model.compile(keras.optimizers.SGD(0.1))
    before = [weight.numpy() for weight in model.trainable_variables]
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, batch_size=4, verbose=0, seed=0)
    moved = [
        np.abs(weight.numpy() - old).max() > 0 for weight, old in zip(model.trainable_variables, before, strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize(
    ("name", "remedy"), [("gradient_checkpointing", "RematScope"), ("fused_elementwise", "jit_compile")]
)
def test_what_cannot_be_set_is_an_error(tmp_path, name, remedy):
    import keras_hub

    model = tiny.classifier(tmp_path)
    with pytest.raises(ValueError, match=rf"`{name}`.*True or False"):
        setattr(model, name, "yes")
    hub = keras_hub.models.FNetBackbone(30, num_layers=1, hidden_dim=8, intermediate_dim=16)
    other = tx.models.TextClassifier(hub, model.preprocessor, labels=["card", "loan"])
    assert not getattr(other, name)
    setattr(other, name, False)
    with pytest.raises(ValueError, match=rf"`{name}`.*{remedy}"):
        setattr(other, name, True)


@pytest.mark.slow
def test_jax_computes_blocks_again():
    test_contracts.run_afresh("""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np
        import tfxfer as tx

        sizes = {"vocabulary_size": 40, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        ids = np.random.default_rng(0).integers(1, 40, (6, 9)).astype("int32")
        mask = (np.arange(9) < np.array([9, 2, 5, 1, 7, 3])[:, None]).astype("int32")
        x = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * mask}

        def trained(family, checkpointing):
            keras.utils.set_random_seed(0)
            backbone = tx.backbones.Backbone(family, max_sequence_length=9, dropout=0.3, **sizes)
            backbone.gradient_checkpointing = checkpointing
            vectors = tx.layers.Pooling("mean")(backbone(backbone.input), backbone.input["padding_mask"])
            model = keras.Model(backbone.input, keras.layers.Dense(1)(vectors))
            model.compile(keras.optimizers.SGD(0.05), loss="mse")
            own = {name: x[name] for name in model.input}
            losses = [model.train_on_batch(own, np.arange(6.0)) for _ in range(3)]
            return losses, [weight.numpy() for weight in model.weights]

        for family in ("bert", "t5"):
            losses, weights = trained(family, False)
            again, found = trained(family, True)
            np.testing.assert_allclose(again, losses, rtol=1e-4)
            for one, other in zip(found, weights):
                np.testing.assert_allclose(one, other, atol=1e-5)
    """)
