"""Exports for ONNX Runtime and LiteRT: models that take ids, with the tokenizer's files next to them."""

import json
import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer
from tfxfer import export, models, preprocessing

FAMILIES = ("albert", "bert", "deberta_v3", "distil_bert", "electra", "gpt2", "roberta", "xlm_roberta")
# The packages that each export needs.
PACKAGES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "[MASK] card [SEP]", "card " * 100, "the " * 13]


def written_for(name, model, folder, **kwargs):
    """Exports for a target; skips the test if its packages are not installed."""
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"no {package}, of the extra `{name}`")
    return pathlib.Path(getattr(export, name)(model, folder, **kwargs))


def tokenized(path, texts, names):
    """Tokenizes with only Hugging Face's `tokenizers` and the file next to the model."""
    tokenizers = pytest.importorskip("tokenizers", reason="no tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    rows = tokenizer.encode_batch(texts)
    columns = {"token_ids": "ids", "padding_mask": "attention_mask", "segment_ids": "type_ids"}
    return {name: np.array([getattr(row, columns[name]) for row in rows], "int32") for name in names}


def loaded(name, path):
    """Loads only the exported file in the target's runtime; returns a function of ids."""
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda ids: session.run(None, ids)[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path / "model.tflite")).get_signature_runner("serving_default")
    [output] = runner.get_output_details()
    return lambda ids: runner(**ids)[output]


def without(name, monkeypatch, answer=None):
    """Replaces a target's packages, which may be missing, with fakes; `answer` computes their outputs from ids."""
    for package in PACKAGES[name]:
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    if answer is None:
        return
    if name == "onnx":
        graph = types.SimpleNamespace(node=[], input=[], output=[], initializer=[], ClearField=lambda field: None)
        proto = types.SimpleNamespace(graph=graph, opset_import=[], SerializeToString=lambda: b"model")
        session = types.SimpleNamespace(run=lambda outputs, ids: [answer(ids)])
        monkeypatch.setitem(sys.modules, "onnx", types.ModuleType("onnx"))
        sys.modules["onnx"].helper = None  # unused, because the graph has no nodes
        sys.modules["tf2onnx"].convert = types.SimpleNamespace(from_function=lambda *_, **__: (proto, None))
        sys.modules["onnxruntime"].InferenceSession = lambda *_, **__: session
        return

    class Runner:
        def get_output_details(self):
            return {"probabilities": {}}

        def __call__(self, **ids):
            return {"probabilities": answer(ids)}

    made = types.ModuleType("ai_edge_litert.interpreter")
    parts = {"get_signature_runner": lambda name: Runner(), "allocate_tensors": lambda: None}
    made.Interpreter = lambda *_, **__: types.SimpleNamespace(**parts)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    converter = types.SimpleNamespace(convert=lambda: b"model")
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_concrete_functions", lambda *_: converter)


@pytest.fixture(params=sorted(PACKAGES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return tiny.classifier(tmp_path_factory.mktemp("classifier"), labels=["card", "line\nbreak", "über"])


# === Outputs ===


def test_a_classifier_answers_as_predict_does_from_text_by_other_programs_alone(name, classifier, tmp_path):
    path = written_for(name, classifier, tmp_path / "out", metadata={"licence": "none"})
    run = loaded(name, path)
    for texts in (TEXTS, TEXTS[:1], TEXTS[3:5]):
        ids = tokenized(path, texts, classifier.input)
        expected = {key: value.numpy() for key, value in classifier.preprocessor(texts).items()}
        for key, value in expected.items():
            np.testing.assert_array_equal(ids[key], value)
        np.testing.assert_allclose(run(ids), classifier.classify(texts).probabilities, atol=1e-5)
    assert (path / "labels.txt").read_text(encoding="utf-8").splitlines() == ["card", "line break", "über"]
    assert all(export.describe(path)["versions"][package] for package in PACKAGES[name])
    # This package can read the tokenizer back, too.
    again = preprocessing.Tokenizer.from_folder(path)
    assert again.spec.tokens == classifier.preprocessor.tokenizer.spec.tokens
    np.testing.assert_array_equal(again(TEXTS).values, classifier.preprocessor.tokenizer(TEXTS).values)


def test_padding_on_either_side_changes_nothing(name, classifier, tmp_path):
    path = written_for(name, classifier, tmp_path / "out")
    run = loaded(name, path)
    left = preprocessing.TextPreprocessor(classifier.preprocessor.tokenizer, 16, padding_side="left")
    ids = {key: value.numpy() for key, value in left(TEXTS).items()}
    wider = {key: np.pad(value, [(0, 0), (5, 2)]) for key, value in ids.items()}
    np.testing.assert_allclose(run(ids), classifier.classify(TEXTS).probabilities, atol=1e-5)
    np.testing.assert_allclose(run(wider), classifier.classify(TEXTS).probabilities, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_converted_with_every_pooling(golden, name, family, tmp_path):
    modes = ("cls", "mean", "max", "last", "mean_sqrt_len", "weighted_mean")
    embedder = models.TextEmbedder.from_preset(golden / "families" / family, sequence_length=32, pooling=modes)
    path = written_for(name, embedder, tmp_path / "out")
    run = loaded(name, path)
    texts = json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]
    texts = [text for text in texts if text]  # an empty text is only padding for GPT-2, so its output is meaningless
    np.testing.assert_allclose(run(tokenized(path, texts, embedder.input)), embedder.encode(texts), atol=1e-5)
    assert export.describe(path)["parity"]["largest_difference"] < 1e-5


def pair_models(folder):
    preprocessor, backbone = tiny.preprocessor(folder), tiny.backbone()
    siamese = models.SiameseClassifier(models.TextEmbedder(backbone, preprocessor), labels=["same", "other"])
    return {
        "towers": siamese,
        "pairs": models.TextClassifier(backbone, preprocessor, labels=["a", "b"], multi_label=True),
        "embedder": models.Siamese(siamese.embedder),
        "score": models.TextRegressor(backbone, preprocessor, num_outputs=2),
    }


@pytest.mark.parametrize("kind", ["towers", "pairs", "embedder", "score"])
def test_the_readmes_program_gives_what_the_model_gives(name, kind, tmp_path, monkeypatch):
    model = pair_models(tmp_path)[kind]
    columns = (TEXTS[:5], TEXTS[2:7]) if kind in ("towers", "pairs") else TEXTS[:5]
    path = written_for(name, model, tmp_path / "my model", pairs=kind in ("towers", "pairs"), examples=columns)
    pytest.importorskip("tokenizers", reason="no tokenizers")
    [program] = re.findall(r"^```python\n(.*?)^```$", (path / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(path)
    names = {}
    exec(program, names)
    pairs = list(zip(TEXTS[:2], TEXTS[2:4], strict=True))
    asked = {"towers": [text for pair in pairs for text in pair], "pairs": pairs}.get(kind, TEXTS[:2])
    answers = {
        "towers": lambda: model.classify((TEXTS[:2], TEXTS[2:4])).probabilities,
        "pairs": lambda: model.classify((TEXTS[:2], TEXTS[2:4])).probabilities,
        "embedder": lambda: model.embedder.encode(TEXTS[:2]),
        "score": lambda: model.predict(TEXTS[:2], verbose=0),
    }
    np.testing.assert_allclose(names["run"](asked), answers[kind](), atol=1e-5)
    described = export.describe(path)
    assert described["format"] == name and described["pairs"] == (kind in ("towers", "pairs"))
    shapes = {key: value["shape"] for key, value in described["signatures"]["serving_default"]["inputs"].items()}
    assert shapes["token_ids"] == ([None, 2, None] if kind == "towers" else [None, None])


@pytest.mark.parametrize("head", ["linear", "crf"])
def test_a_taggers_emissions_and_the_readmes_decoder_give_its_tags(name, head, tmp_path, monkeypatch):
    model = tiny.tagger(tmp_path, head=head)
    path = written_for(name, model, tmp_path / "out")
    pytest.importorskip("tokenizers", reason="no tokenizers")
    [program] = re.findall(r"^```python\n(.*?)^```$", (path / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(path)
    names = {}
    exec(program, names)
    rows = [["my", "cards", "bank", "\u200b"], ["\u200b"], ["the", "money", "?"], ["is"]]
    assert names["run"](rows) == model.tag(rows)
    described = export.describe(path)["signatures"]["serving_default"]
    assert described["outputs"]["emissions"]["shape"] == [None, None, len(model.tags)]
    assert described["inputs"]["word_mask"]["shape"] == [None, None]


# === Errors ===


def fails(name, match, model, folder, kind=ValueError, **kwargs):
    before = sorted(folder.parent.iterdir())
    with pytest.raises(kind, match=match):
        getattr(export, name)(model, folder, **kwargs)
    assert sorted(folder.parent.iterdir()) == before, "nothing is left behind"


def test_what_cannot_be_exported_is_an_error_at_once(name, classifier, tmp_path, monkeypatch):
    without(name, monkeypatch)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "file").write_text("")
    fails(name, "`folder`", classifier, folder)
    folder = tmp_path / "other"
    fails(name, "`tolerance`", classifier, folder, tolerance=0)
    fails(name, "`examples`", classifier, folder, examples=[3])
    fails(name, "`metadata`", classifier, folder, metadata={"a": float("nan")})
    fails(name, "`model`.*a task model", classifier.backbone, folder)
    fails(name, "preprocessor", models.TextEmbedder(classifier.backbone), folder)
    small = tiny.embedder(tmp_path, dtype="mixed_bfloat16")
    fails(name, "float32.*mixed_bfloat16.*set_weights", small, folder)
    with monkeypatch.context() as patched:
        patched.setattr(type(classifier), "count_params", lambda self: 2**29)  # four bytes each
        fails(name, "2 GB", classifier, folder)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    fails(name, "TensorFlow backend", classifier, folder)


def test_an_answer_that_differs_is_an_error_and_nothing_is_written(name, classifier, tmp_path, monkeypatch):
    for wrong in (0.1, np.nan):
        without(name, monkeypatch, lambda ids, wrong=wrong: np.full((len(ids["token_ids"]), 3), wrong))
        fails(name, r"`model`.*model\.predict.*1e-05.*difference", classifier, tmp_path / "out")


class Bessel(keras.layers.Dense):
    """A head with an operation that only TensorFlow has."""

    def call(self, inputs):
        return tf.math.special.bessel_j0(super().call(inputs))


def test_what_cannot_be_converted_is_an_error_that_names_the_operation(name, classifier, tmp_path):
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"no {package}, of the extra `{name}`")
    model = models.TextClassifier(classifier.backbone, classifier.preprocessor, labels=["a", "b"], head=Bessel(2))
    fails(name, r"`model`.*BesselJ0.*saved_model", model, tmp_path / "out")


def test_a_missing_package_is_named_with_the_extra_that_has_it(name, classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name][0], None)
    match = rf"export\.{name}.*{PACKAGES[name][0]}.*tfxfer\[{name}\]"
    fails(name, match, classifier, tmp_path / "out", kind=ImportError)


def test_the_version_that_converted_is_kept(name, classifier, tmp_path):
    found = export.describe(written_for(name, classifier, tmp_path / "a" / "b"))
    assert found["versions"]["tfxfer"] == tfxfer.__version__
    assert all(found["versions"][package] for package in PACKAGES[name])
    assert found["labels"] == classifier.labels and found["version"] is None


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta_v3"])
def test_norms_activations_and_look_ups_are_a_node_each(family, golden, tmp_path):
    onnx = pytest.importorskip("onnx", reason="no onnx, of the extra `onnx`")
    folder = golden / ("families2" if family == "modernbert" else "families") / family
    embedder = models.TextEmbedder.from_preset(folder)
    proto = onnx.load(written_for("onnx", embedder, tmp_path / "out") / "model.onnx")
    onnx.checker.check_model(proto)
    kinds = [node.op_type for node in proto.graph.node]
    norms = [each for each in embedder._flatten_layers() if "norm" in each.name and each.weights and not each._layers]
    assert kinds.count("LayerNormalization") == len(norms) > 2
    assert "Erf" not in kinds and "Reciprocal" not in kinds and kinds.count("Gelu") == embedder.backbone.num_layers
    assert kinds.count("Gather") >= 1 and ("Less" in kinds) == (family == "deberta_v3")  # from its relative positions


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("name", PACKAGES)
def test_smaller_weights_are_checked_at_export_and_answer_nearly_alike(name, dtype, classifier, tmp_path):
    if (name, dtype) == ("litert", "float16"):
        with pytest.raises(ValueError, match=r"`dtype`.*float16"):
            written_for(name, classifier, tmp_path / "out", dtype=dtype)
        return
    expected = classifier.classify(tiny.TEXTS).probabilities
    path = written_for(name, classifier, tmp_path / "out", dtype=dtype)
    names = list(classifier.input)
    found = loaded(name, path)(tokenized(path, tiny.TEXTS, names))
    assert 1e-6 < np.abs(found - expected).max() < 0.1
    parity = json.loads((path / "assets.extra" / "tfxfer.json").read_text())["parity"]
    assert 0 < parity["largest_difference"] < parity["tolerance"]
    with pytest.raises(ValueError, match=r"1e-07.*difference"):
        written_for(name, classifier, tmp_path / "strict", dtype=dtype, tolerance=1e-7)
