"""Keras's `plot_model` with models of this package; it needs pydot and Graphviz's program `dot`."""

import importlib.util
import shutil

import keras
import pytest
import tiny
from matplotlib import image

from tfxfer import models

HAS_PYDOT = importlib.util.find_spec("pydot") is not None
needs_pydot = pytest.mark.skipif(not HAS_PYDOT, reason="no pydot")
EVERYTHING = dict.fromkeys(("show_shapes", "show_dtype", "show_layer_names", "show_trainable", "expand_nested"), True)
MADE = {
    "embedder": lambda *parts: models.TextEmbedder(*parts),
    "classifier": lambda *parts: models.TextClassifier(*parts, labels=["card", "loan"]),
    "siamese": lambda *parts: models.Siamese(models.TextEmbedder(*parts)),
    "decoder": lambda *parts: models.SiameseClassifier(models.TextEmbedder(*parts), labels=["same", "other"]),
    "tagger": lambda *parts: models.TokenTagger(*parts, tags=tiny.TAGS, head="crf"),
    "backbone": lambda backbone, preprocessor: backbone,
}


@pytest.fixture(params=MADE)
def model(request, tmp_path):
    return MADE[request.param](tiny.backbone(), tiny.preprocessor(tmp_path))


def names(graph):
    """The labels of the nodes of a graph, including nested graphs."""
    inner = [name for part in graph.get_subgraphs() for name in names(part)]
    return inner + [node.get_label() or "" for node in graph.get_nodes()]


@needs_pydot
def test_the_graph_of_a_model_holds_its_layers(model):
    found = " ".join(names(keras.utils.model_to_dot(model, **EVERYTHING)))
    for layer in model.layers:
        if not isinstance(layer, keras.Model):  # nested models are drawn as their layers
            assert f"<b>{layer.name}</b>" in found


@needs_pydot
@pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz (`dot`)")
@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_a_picture_of_a_model_is_written(model, options, tmp_path):
    keras.utils.plot_model(model, tmp_path / "model.png", dpi=60, **options)
    pixels = image.imread(tmp_path / "model.png")
    assert min(pixels.shape[:2]) > 30 and pixels.std() > 0.01


def test_without_graphviz_or_pydot_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # has no `dot`
    said = "install graphviz .*https://graphviz" if HAS_PYDOT else "pip install pydot"
    with pytest.raises(ImportError, match=said):
        keras.utils.plot_model(tiny.backbone(), tmp_path / "model.png")
    assert not (tmp_path / "model.png").exists()
