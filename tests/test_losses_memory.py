"""Tasks that train with a memory across batches, or on the states of all layers."""

import keras
import numpy as np
import pytest
import test_contracts
import tiny
from keras import ops

import tfxfer as tx

ROWS = {"text": tiny.TEXTS, "y": [0, 0, 1, 1, 2, 2, 0, 1]}


def memory(made):
    """The vectors and class ids that a model's loss remembers, and their number."""
    (loss,) = made.stateful_losses()
    return [ops.convert_to_numpy(variable) for variable in loss.state_variables]


def embedder(folder, size=12):
    """A compiled embedder without dropout, because files do not contain the seeds of dropout."""
    keras.utils.set_random_seed(0)
    off = dict.fromkeys(("dropout", "attention_dropout", "embeddings_dropout"), 0.0)
    backbone = tx.backbones.Backbone.from_config({**tiny.backbone().get_config(), **off})
    backbone.set_weights(tiny.backbone().get_weights())
    made = tx.models.TextEmbedder(backbone, tiny.preprocessor(folder))
    inner = tx.losses.MultiSimilarityLoss(mining_margin=None)
    made.compile(keras.optimizers.SGD(0.1, 0.9), loss=tx.losses.CrossBatchMemoryLoss(inner, 8, size))
    return made


def fit(made, epochs=1, callbacks=()):
    batches = tx.data.batches(tx.data.labelled(ROWS, "text", "y"), made, 4, seed=0)
    return made.fit(batches, epochs=epochs, verbose=0, callbacks=list(callbacks))


def assert_same(found, expected):
    """Compares weights and memory; files do not contain the seeds of dropout, which is off here."""
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(memory(found), memory(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_fills_the_memory_and_evaluation_leaves_it(tmp_path):
    made = embedder(tmp_path)
    assert memory(made)[2] == 0
    fit(made)
    before = memory(made)
    assert before[2] == 8 and np.abs(before[0][4:]).min() > 0
    texts, ids, _ = before
    assert not texts[:4].any() and set(ids[4:, 0]) == {0, 1, 2}
    made.evaluate(tiny.TEXTS, np.array(ROWS["y"]), verbose=0)
    for one, other in zip(memory(made), before, strict=True):
        np.testing.assert_array_equal(one, other)
    fit(made)
    assert memory(made)[2] == 12
    made.stateful_losses()[0].reset()
    assert memory(made)[2] == 0 and not memory(made)[0].any()


def test_a_file_keeps_the_memory_and_no_weight_has_it(tmp_path):
    made = embedder(tmp_path)
    fit(made)
    made.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert_same(again, made)
    assert {"memory_texts", "memory_ids", "memory_count"} <= {variable.name for variable in again.variables}
    assert not any("memory" in weight.path for weight in made.weights)
    fit(made)
    fit(again)
    assert_same(again, made)
    # A model that is not compiled, or that has another loss, reads only the weights.
    made.save_weights(tmp_path / "a.weights.h5")
    other = tiny.embedder(tmp_path)
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(other.encode(tiny.TEXTS), made.encode(tiny.TEXTS))
    made.save_to_preset(str(tmp_path / "preset"))
    back = tx.models.TextEmbedder.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(back.encode(tiny.TEXTS), made.encode(tiny.TEXTS), atol=1e-6)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_with_the_same_memory(tmp_path):
    whole = embedder(tmp_path)
    fit(whole, 3, [tx.callbacks.Resume(tmp_path / "whole")])
    for epochs in (2, 3):
        made = embedder(tmp_path)
        fit(made, epochs, [tx.callbacks.Resume(tmp_path / "parts")])
    assert_same(made, whole)


def test_what_cannot_keep_a_memory_refuses_it(tmp_path):
    made = embedder(tmp_path)
    tx.freezing.freeze(made, groups=["embeddings"], dropout=False)
    with pytest.raises(ValueError, match="a loss that remembers nothing"):
        tx.freezing.AboveFrozen(made)


def towers(folder, **kwargs):
    dense = [{"units": 5, "activation": "tanh"}]
    return tx.models.Siamese(
        tx.models.TextEmbedder(tiny.backbone(num_layers=2), tiny.preprocessor(folder), dense=dense),
        all_layers=True,
        **kwargs,
    )


def test_towers_over_all_layers_give_what_fewer_blocks_give(tmp_path):
    made = towers(tmp_path)
    x = made.preprocess_samples((tiny.TEXTS[:3], tiny.TEXTS[3:6]))
    found = ops.convert_to_numpy(made(x))
    assert found.shape == (3, 2, 3, 5) and made.output_shape == (None, None, 3, 5)
    for layer in (1, 2):
        expected = made.embedder.with_blocks(layer).encode(tiny.TEXTS[:6])
        np.testing.assert_allclose(found[:, :, layer].swapaxes(0, 1).reshape(6, 5), expected, atol=1e-5)
    in_chunks = towers(tmp_path, chunk_size=4)
    in_chunks.set_weights(made.get_weights())
    np.testing.assert_allclose(in_chunks(x), found, atol=1e-5)


def test_layers_below_a_final_norm_go_through_it_as_they_will_when_they_are_last(tmp_path):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 32}
    backbone = tx.backbones.Backbone("gpt2", vocabulary_size=len(tiny.VOCABULARY), **sizes)
    rng = np.random.default_rng(0)
    backbone.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in backbone.get_weights()])
    made = tx.models.TextEmbedder(backbone, tiny.preprocessor(tmp_path, segment_ids=False))
    x = made.preprocess_samples(tiny.TEXTS[:4])
    found = ops.convert_to_numpy(made.layer_embeddings()(x))
    np.testing.assert_allclose(found[:, 1], made.with_blocks(1).encode(tiny.TEXTS[:4]), atol=1e-5)


@pytest.mark.slow
def test_a_model_trained_over_all_layers_may_lose_the_top_ones(tmp_path):
    made = towers(tmp_path)
    loss = tx.losses.Matryoshka2dLoss(tx.losses.MultipleNegativesRankingLoss(), [5, 3])
    made.compile("adam", loss=loss, run_eagerly=True)
    before = made.embedder.with_blocks(1).encode(tiny.TEXTS)
    made.fit((tiny.TEXTS[:4], tiny.TEXTS[4:]), np.ones(4), verbose=0)
    small = made.embedder.with_blocks(1)
    assert np.abs(small.encode(tiny.TEXTS) - before).max() > 1e-5
    made.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert again.all_layers
    x = made.preprocess_samples((tiny.TEXTS[:3], tiny.TEXTS[3:6]))
    np.testing.assert_allclose(again(x), made(x), atol=1e-6)


def test_towers_over_all_layers_refuse_what_reads_one(tmp_path):
    with pytest.raises(ValueError, match=r"`decoder`.*`all_layers`"):
        towers(tmp_path, decoder="cosine")
    with pytest.raises(ValueError, match="`layer_start`"):
        tx.models.Siamese(tiny.embedder(tmp_path, layer_start=0), all_layers=True)
    made = towers(tmp_path)
    tx.freezing.freeze(made, groups=["embeddings"], dropout=False)
    made.compile("sgd", loss=tx.losses.AdaptiveLayerLoss(tx.losses.MultipleNegativesRankingLoss()))
    with pytest.raises(ValueError, match="towers without `all_layers`"):
        tx.freezing.AboveFrozen(made).fit((tiny.TEXTS[:4], tiny.TEXTS[4:]), np.ones(4), verbose=0)


@pytest.mark.slow
def test_a_memory_trains_and_comes_back_on_jax(tmp_path):
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import pathlib
        import keras, numpy as np, test_losses_memory as t
        folder = pathlib.Path({str(tmp_path)!r})
        made = t.embedder(folder)
        t.fit(made)
        assert t.memory(made)[2] == 8
        made.evaluate(t.tiny.TEXTS, np.array(t.ROWS["y"]), verbose=0)
        assert t.memory(made)[2] == 8
        made.save(folder / "a.keras")
        again = keras.models.load_model(folder / "a.keras")
        t.assert_same(again, made)
        towers = t.towers(folder)
        towers.compile("adam", loss=t.tx.losses.AdaptiveLayerLoss(t.tx.losses.MultipleNegativesRankingLoss()))
        towers.fit((t.tiny.TEXTS[:4], t.tiny.TEXTS[4:]), np.ones(4), verbose=0)
    """)
