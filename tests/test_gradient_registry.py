"""Training leaves no gradients of our own in TensorFlow's registry, which would keep the graphs and weights."""

import gc

import keras
import numpy as np
import pytest
import tiny
from tensorflow.python.framework import ops as framework

import tfxfer as tx


def encoder(**kwargs):
    """An encoder with dropout and GELU."""
    return tx.backbones.Backbone(
        "bert",
        vocabulary_size=len(tiny.VOCABULARY),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
        dropout=0.1,
        **kwargs,
    )


def classifier(folder, **kwargs):
    return tx.models.TextClassifier(encoder(**kwargs), tiny.preprocessor(folder), labels=["card", "loan", "other"])


def fit_classifier(folder, **kwargs):
    model = classifier(folder, **kwargs)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(tiny.TEXTS, tiny.LABELS, batch_size=8, verbose=0)


def fit_towers(folder, chunk_size=None):
    embedder = tx.models.TextEmbedder(encoder(), tiny.preprocessor(folder))
    model = tx.models.Siamese(embedder, chunk_size=chunk_size)
    model.compile(keras.optimizers.SGD(0.1), tx.losses.MultipleNegativesRankingLoss())
    model.fit((tiny.TEXTS, tiny.TEXTS[::-1]), np.zeros(len(tiny.TEXTS)), batch_size=8, verbose=0)


def fit_tasks(folder):
    first = classifier(folder)
    second = tx.models.TextClassifier(first.backbone, first.preprocessor, labels=["card", "loan", "other"])
    model = tx.models.MultiTask({"a": first, "b": second})
    model.compile(keras.optimizers.SGD(0.1), conflicts="pcgrad")
    rows = tx.data.labelled({"text": tiny.TEXTS, "label": tiny.LABELS}, "text", "label", labels=first.labels)
    model.fit({"a": rows, "b": rows}, batch_size=4, verbose=0)


FITS = {
    "dropout and GELU": fit_classifier,
    "recomputed blocks": lambda folder: fit_classifier(folder, gradient_checkpointing=True),
    "chunks": lambda folder: fit_towers(folder, chunk_size=2),
    "groups of texts of like length": fit_towers,
    "projected conflicts": fit_tasks,
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "dropout and GELU" else pytest.param(kind, marks=pytest.mark.slow) for kind in FITS]
)
def test_training_leaves_no_gradient_in_the_registry_and_no_graph(tmp_path, kind):
    def left():
        keras.utils.clear_session()
        gc.collect()
        graphs = sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())
        return len(framework.gradient_registry.list()), graphs

    FITS[kind](tmp_path)  # the first time, TensorFlow makes graphs for the whole process
    before = left()
    FITS[kind](tmp_path)
    assert left() == before
