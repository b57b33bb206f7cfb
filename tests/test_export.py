"""Exports: read by a process that knows nothing of this package."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import data, evaluation, export, models

TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "\x00 money", "[MASK] card [SEP]", "card " * 100]
READER = """
    import json, sys
    import numpy as np
    import tensorflow as tf
    import tensorflow_text

    assert not any(name.split(".")[0] in ("tfxfer", "keras_hub") for name in sys.modules)
    served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
    outputs = served(text=tf.constant(json.load(open(sys.argv[2]))))
    np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
"""


def serve(path, texts, folder):
    """Answers of an export in a process that imports tensorflow and tensorflow_text alone."""
    (folder / "texts.json").write_text(json.dumps(texts))
    program, answers = textwrap.dedent(READER), folder / "answers.npz"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", program, path, folder / "texts.json", answers],
        check=True,
        cwd=folder,
        env=environment,
        capture_output=True,
    )
    with np.load(answers, allow_pickle=True) as loaded:
        return {name: loaded[name] for name in loaded.files}


def test_served_embedder_equals_encode(tmp_path):
    embedder = tiny.embedder(tmp_path, pooling=("mean", "max"))
    path = export.saved_model(embedder, tmp_path / "embedder")
    assert path == str(tmp_path / "embedder" / "1")
    answers = serve(path, TEXTS, tmp_path)
    np.testing.assert_allclose(answers["embedding"], embedder.encode(TEXTS), atol=1e-5)


def test_served_classifier_equals_classify_and_ranks_labels(tmp_path):
    model = tiny.classifier(tmp_path)
    answers = serve(export.saved_model(model, tmp_path / "served"), TEXTS, tmp_path)
    expected = model.classify(TEXTS)
    np.testing.assert_allclose(answers["probabilities"], expected.probabilities, atol=1e-5)
    assert [label.decode() for label in answers["labels"][:, 0]] == expected.labels
    np.testing.assert_allclose(answers["scores"], -np.sort(-expected.probabilities, axis=1), atol=1e-5)
    labels = (tmp_path / "served" / "1" / "assets" / "labels.txt").read_text().splitlines()
    assert labels == model.labels


def test_served_regressor_and_multi_label_classifier_equal_their_models(tmp_path):
    regressor = models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path), num_outputs=2)
    several = tiny.classifier(tmp_path, multi_label=True)
    served = {
        name: tf.saved_model.load(export.saved_model(model, tmp_path / name)).signatures["serving_default"]
        for name, model in (("regressor", regressor), ("several", several))
    }
    texts = tf.constant(TEXTS)
    np.testing.assert_allclose(
        served["regressor"](text=texts)["outputs"], regressor.predict(TEXTS, verbose=0), atol=1e-5
    )
    np.testing.assert_allclose(
        served["several"](text=texts)["probabilities"], several.classify(TEXTS).probabilities, atol=1e-5
    )


def test_empty_batch_and_neighbours_are_answered(tmp_path):
    embedder = tiny.embedder(tmp_path)
    served = tf.saved_model.load(export.saved_model(embedder, tmp_path / "e")).signatures["serving_default"]
    assert served(text=tf.constant([], tf.string))["embedding"].shape == (0, 8)
    alone = served(text=tf.constant(["card"]))["embedding"]
    with_neighbours = served(text=tf.constant(["card", b"\xff\xfe card", "money " * 50]))["embedding"]
    np.testing.assert_allclose(with_neighbours[:1], alone, atol=1e-6)


def test_weights_are_stored_once(tmp_path):
    embedder = tiny.embedder(tmp_path)
    path = export.saved_model(embedder, tmp_path / "e")
    stored = tf.train.load_checkpoint(os.path.join(path, "variables", "variables")).get_variable_to_shape_map()
    numbers = sum(int(np.prod(shape)) for name, shape in stored.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    assert numbers == embedder.count_params()


def test_graph_has_no_python_and_no_mutable_table(tmp_path):
    path = export.saved_model(tiny.classifier(tmp_path), tmp_path / "c")
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    graph = loaded.graph.as_graph_def()
    operations = {node.op for f in graph.library.function for node in f.node_def} | {node.op for node in graph.node}
    assert not {op for op in operations if "PyFunc" in op or "MutableHashTable" in op}


def test_versions_count_up_and_none_is_overwritten(tmp_path):
    embedder = tiny.embedder(tmp_path)
    folder = tmp_path / "e"
    assert [export.saved_model(embedder, folder, version=v) for v in (3, None)] == [f"{folder}/3", f"{folder}/4"]
    with pytest.raises(ValueError, match="`version`"):
        export.saved_model(embedder, folder, version=3)
    assert sorted(os.listdir(folder)) == ["3", "4"]


def test_failed_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export.saved_model(tiny.embedder(tmp_path), tmp_path / "e")
    assert os.listdir(tmp_path / "e") == []


def test_warm_up_file_is_what_the_server_reads(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
    from tensorflow_serving.apis import prediction_log_pb2

    path = export.saved_model(tiny.embedder(tmp_path), tmp_path / "e")
    served = tf.saved_model.load(path).signatures["serving_default"]
    records = list(tf.data.TFRecordDataset(os.path.join(path, "assets.extra", "tf_serving_warmup_requests"), None, 0))
    assert 0 < len(records) <= 1000
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.signature_name == "serving_default" and list(request.inputs) == ["text"]
        assert served(text=tf.constant(tf.make_ndarray(request.inputs["text"])))["embedding"].shape[1] == 8


def test_what_cannot_be_exported_is_an_error(tmp_path):
    siamese = models.Siamese(tiny.embedder(tmp_path))
    with pytest.raises(ValueError, match=r"model\.embedder"):
        export.saved_model(siamese, tmp_path / "s")
    without = models.TextEmbedder(tiny.backbone())
    with pytest.raises(ValueError, match="preprocessor"):
        export.saved_model(without, tmp_path / "s")


def test_trained_model_repeats_its_scores_from_the_export(tmp_path):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(tmp_path, dropout=0.0)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=15, batch_size=4, seed=0, verbose=0)
    scores = evaluation.classification(model, data.labelled({"t": tiny.TEXTS, "l": tiny.LABELS}, "t", "l"))
    served = tf.saved_model.load(export.saved_model(model, tmp_path / "c")).signatures["serving_default"]
    labels = served(text=tf.constant(tiny.TEXTS))["labels"][:, 0].numpy()
    assert np.mean([a.decode() == b for a, b in zip(labels, tiny.LABELS, strict=True)]) == scores["accuracy"] > 0.8
