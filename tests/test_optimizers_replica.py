"""Training leaves no state in TensorFlow, whatever the optimizer."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow.python.framework import ops as framework

import tfxfer as tx

OPTIMIZERS = {
    "ours": lambda: tx.optimizers.Layerwise(tx.optimizers.AdamW(0.01, clipnorm=1.0), decay=0.9),
    "Keras's": lambda: keras.optimizers.AdamW(0.01, use_ema=True, gradient_accumulation_steps=2),
    "scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replica")


def fit(folder, optimizer, above=False):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(folder)
    tx.freezing.freeze(model, below=1)
    model.compile(optimizer)
    trained = tx.freezing.AboveFrozen(model) if above else model
    trained.fit(tiny.TEXTS, tiny.LABELS, batch_size=8, seed=0, verbose=0)
    return model


def left():
    """The numbers of gradients in TensorFlow's registry, and of graphs and weights that still exist."""
    keras.utils.clear_session()
    gc.collect()
    graphs = sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())
    weights = sum(isinstance(thing, tf.Variable) for thing in gc.get_objects())
    return len(framework.gradient_registry.list()), graphs, weights


@pytest.mark.parametrize("optimizer, above", [("ours", False), ("Keras's", False), ("scaling", False), ("ours", True)])
def test_a_model_that_was_trained_leaves_no_graph_and_no_weight(folder, optimizer, above):
    before = left()
    fit(folder, OPTIMIZERS[optimizer](), above)
    assert left() == before


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_step_is_traced_once_and_makes_the_variables_that_keras_makes(folder, kind, monkeypatch):
    traced, step = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda self, *args: traced.append(1) or step(self, *args))

    def variables():
        keras.utils.clear_session()  # restarts the numbering of names
        return [each.path.split("/")[-1] for each in fit(folder, OPTIMIZERS[kind]()).optimizer.variables]

    found = variables()
    assert len(traced) == 1
    own = next(base for base in tx.models.TextClassifier.__mro__ if "make_train_function" in vars(base))
    assert own.__module__.startswith("tfxfer.")
    monkeypatch.delattr(own, "make_train_function")
    assert variables() == found
    assert len(traced) == 3, "Keras's own way now traces once, too"


def test_on_one_replica_the_step_is_keras_own(folder, monkeypatch):
    weights = fit(folder, OPTIMIZERS["Keras's"]()).get_weights()
    monkeypatch.delattr(tx.optimizers.TrainsAlone, "train_step")
    for one, other in zip(fit(folder, OPTIMIZERS["Keras's"]()).get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_strategy_still_sums_over_its_replicas(folder):
    x, y = np.eye(4, dtype="float32"), np.arange(4, dtype="float32")[:, None]

    class Linear(tx.optimizers.TrainsAlone, keras.Sequential):
        pass

    def made():
        model = Linear([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(0.5, momentum=0.5), "mse")
        return model

    def trained(model):
        model.fit(x, y, batch_size=4, verbose=0)
        return model.get_weights()

    alone = trained(made())
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored, model = trained(made()), made()
    outside = trained(model)
    assert np.abs(alone[0]).max() > 0.1
    for one, *others in zip(alone, mirrored, outside, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, rtol=1e-6)
