"""Files in and next to an export: warm-up requests, description, labels, configuration, README."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer
from tfxfer import export, models

PAIRS = (["Where is my card?", "How much is a loan?", "good day"], ["My card was lost", "it's cost", "bank " * 9])
CORPUS = ["the card", "a loan", "the bank", "good"]
METADATA = {
    "preset": "tiny",
    "metrics": {"accuracy": np.float32(0.5), "confusion": np.eye(2, dtype=int)},
    "licence": "Apache-2.0; texts CC BY 4.0",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("assets")


@pytest.fixture(scope="module")
def entailment(folder):
    """A model with everything that an export can have: classes, embeddings, prompts, an index."""
    embedder = tiny.embedder(folder, prompts={"query": "where ", "passage": "a "})
    return models.SiameseClassifier(embedder, labels=["same", "line\nbreak", "über"])


@pytest.fixture(scope="module")
def paths(entailment, folder):
    regressor = models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    arguments = {"index": {"texts": CORPUS}, "max_batch_size": 12, "examples": PAIRS, "metadata": METADATA}
    arguments["warmup"] = "full"
    return {
        "entailment": export.saved_model(entailment, folder / "my model's", **arguments),
        "score": export.saved_model(regressor, folder / "score"),
    }


@pytest.fixture(scope="module")
def served(paths):
    return {name: tf.saved_model.load(path).signatures for name, path in paths.items()}


# === Warm-up ===


def records(path):
    file = pathlib.Path(path, "assets.extra", "tf_serving_warmup_requests")
    return [record.numpy() for record in tf.data.TFRecordDataset(str(file), None, 0)]


def inputs_of(log):
    """Returns the API, signature and inputs of a `PredictionLog`, read as the server reads them."""
    kind = log.WhichOneof("log_type")
    request = getattr(log, kind).request
    if kind == "predict_log":
        return "predict", request.model_spec.signature_name, {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
    examples = [example.SerializeToString() for example in request.input.example_list.examples]
    return kind.removesuffix("_log"), request.model_spec.signature_name, {"inputs": np.array(examples, object)}


@pytest.mark.parametrize("name", ["entailment", "score"])
def test_the_server_can_replay_every_warm_up_request(paths, served, name):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="no tensorflow-serving-api")
    described = export.describe(paths[name])["signatures"]
    sizes = {signature: [] for signature in described}
    found = records(paths[name])
    assert len(found) <= 1000
    for record in found:
        api, signature, inputs = inputs_of(apis.PredictionLog.FromString(record))
        assert api == described[signature]["api"] and set(inputs) == set(described[signature]["inputs"])
        [size] = {len(value) for value in inputs.values()}
        sizes[signature].append(size)
        answer = served[name][signature](**{key: tf.constant(value) for key, value in inputs.items()})
        assert all(value.shape[0] == size for value in answer.values())
    if name == "entailment":
        assert all(found == [1, 1, 8, 12] for found in sizes.values()), "each signature, one row up to the most"
    else:
        assert sizes.pop("serving_default") == [1, 8] and set(map(tuple, sizes.values())) == {(1,)}


def test_warm_up_texts_are_the_ones_given_a_long_one_among_them(paths):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="no tensorflow-serving-api")
    requests = [inputs_of(apis.PredictionLog.FromString(record)) for record in records(paths["entailment"])]
    asked = [inputs for _, signature, inputs in requests if signature == "classify"]
    assert {text.decode() for inputs in asked for text in inputs["text_b"]} == set(PAIRS[1])
    asked = [inputs["text"] for _, signature, inputs in requests if signature == "embed"]
    assert [len(texts[0]) for texts in asked[:2]] == [17, 19], "the first text, then the longest"


def test_a_short_warm_up_is_small_and_one_may_be_left_out(served, paths, folder):
    assert os.path.getsize(pathlib.Path(paths["score"], "assets.extra", "tf_serving_warmup_requests")) < 1500
    model = models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    path = export.saved_model(model, folder / "cold", warmup="none")
    assert "tf_serving_warmup_requests" not in os.listdir(pathlib.Path(path, "assets.extra"))
    with pytest.raises(ValueError, match="`warmup`"):
        export.saved_model(model, folder / "cold", warmup="long")


def test_what_is_said_of_requests_without_rows_stands_first(folder, paths):
    text = (folder / "score" / "README.md").read_text(encoding="utf-8")
    assert text.index("Never send a request without rows") < text.index("## Start the server")
    assert "NEVER answered" in (folder / "score" / "batching_parameters.txt").read_text(encoding="utf-8")
    assert "--enable_model_warmup=false" in text


def test_a_search_is_as_wide_as_a_small_index(served, paths):
    found = served["entailment"]["search"](query=tf.constant(["a", "b"]), k=tf.constant([9, 1]))
    assert found["ids"].shape == (2, 4) == (2, export.describe(paths["entailment"])["index"]["max_k"])
    assert sum(text != b"" for text in found["texts"].numpy()[0]) == 4


# === Description ===


def test_an_export_describes_itself(entailment, paths):
    found = export.describe(paths["entailment"])
    assert found["version"] == 1 and found["path"] == paths["entailment"]
    assert found["class"] == "SiameseClassifier" and found["pairs"] is True
    assert found["labels"] == ["same", "line\nbreak", "über"] and found["multi_label"] is False
    assert found["prompts"] == {"query": "where ", "passage": "a "} and found["sequence_length"] == 16
    assert found["index"] == {"texts": 4, "precision": "float32", "similarity": "cosine", "max_k": 4}
    assert found["metadata"]["metrics"] == {"accuracy": 0.5, "confusion": [[1, 0], [0, 1]]}
    assert found["metadata"]["licence"] == METADATA["licence"]
    assert found["versions"]["tfxfer"] == tfxfer.__version__ and found["versions"]["tensorflow"] == tf.__version__
    assert found["weights"]["parameters"] == entailment.count_params() and len(found["weights"]["sha256"]) == 64
    assert found["weights"]["sha256"] != export.describe(paths["score"])["weights"]["sha256"]
    assert found["signatures"]["search"]["inputs"] == {
        "query": {"dtype": "string", "shape": [None]},
        "k": {"dtype": "int32", "shape": [None]},
    }
    assert found["signatures"]["rank"]["outputs"] == {"scores": {"dtype": "float32", "shape": None}}


def test_the_base_folder_stands_for_its_newest_version(paths, tmp_path):
    whole = pathlib.Path(paths["score"], "assets.extra", "tfxfer.json")
    for number in ("9", "10", "x"):
        (tmp_path / number / "assets.extra").mkdir(parents=True)
        shutil.copy(whole, tmp_path / number / "assets.extra")
    expected = {**json.loads(whole.read_text(encoding="utf-8")), "version": 10, "path": str(tmp_path / "10")}
    assert export.describe(tmp_path) == expected
    assert export.describe(str(tmp_path / "9"))["version"] == 9
    assert export.describe(tmp_path / "x")["version"] is None
    for wrong in (tmp_path / "none", tmp_path / "x" / "assets.extra"):
        with pytest.raises(ValueError, match="`folder`"):
            export.describe(wrong)


def test_the_description_is_read_without_tensorflow(paths):
    program = "import json, sys; print(json.load(open(sys.argv[1], encoding='utf-8'))['labels'][2], *sys.modules)"
    file = pathlib.Path(paths["entailment"], "assets.extra", "tfxfer.json")
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, check=True)
    said = done.stdout.decode().split()
    assert said[0] == "über" and "tensorflow" not in said


def test_labels_lie_in_the_order_of_the_outputs_a_line_each(paths, served):
    lines = pathlib.Path(paths["entailment"], "assets", "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["same", "line break", "über"]
    answer = served["entailment"]["classify"](text_a=tf.constant(["a"]), text_b=tf.constant(["b"]))
    assert {label.decode() for label in answer["labels"].numpy()[0]} == {"same", "line\nbreak", "über"}


# === Configuration ===


def test_the_configuration_is_what_the_server_reads(paths, folder):
    configs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2", reason="no serving protos")
    from google.protobuf import text_format

    base = folder / "my model's"
    config = text_format.Parse((base / "models.config").read_text(), configs.ModelServerConfig())
    [served] = config.model_config_list.config
    assert (served.name, served.base_path, served.model_platform) == ("my_model_s", "/models/my_model_s", "tensorflow")
    text = re.sub("#.*", "", (base / "batching_parameters.txt").read_text())
    sizes = {name: int(value) for name, value in re.findall(r"(\w+) { value: (\d+) }", text)}
    assert sizes["max_execution_batch_size"] == 12 <= sizes["max_batch_size"]
    assert "pad_variable_length_inputs" not in text


# === README ===


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "base", "model"), [("entailment", "my model's", "my_model_s"), ("score",) * 3])
def test_the_readme_holds_a_rest_call_for_each_signature(paths, served, folder, name, base, model):
    described = export.describe(paths[name])["signatures"]
    asked = {}
    for block in blocks((folder / base / "README.md").read_text(encoding="utf-8"), "sh"):
        words = shlex.split(block)
        if words[0] == "curl" and "-d" in words:
            body = json.loads(words[words.index("-d") + 1])
            asked[body["signature_name"]] = words[1], body
        elif words[0] == "docker":
            assert f"$PWD:/models/{model}:ro" in words
    assert set(asked) == set(described) - {"serving_default"}
    for signature, (url, body) in asked.items():
        api = described[signature]["api"]
        assert url == f"http://localhost:8501/v1/models/{model}:{api}"
        assert set(body) == {"signature_name", "instances" if api == "predict" else "examples"}
        rows = body.get("instances") or body["examples"]
        keys = set(described[signature]["inputs"] if api == "predict" else described[signature]["features"])
        assert all(set(row) == keys for row in rows)
        if api == "predict":
            inputs = {key: tf.constant([row[key] for row in rows]) for key in keys}
            assert served[name][signature](**inputs), "the texts are answered as they stand"


def test_the_readmes_grpc_calls_ask_what_they_say(paths, served, folder):
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc", reason="no tensorflow-serving-api")
    from tensorflow_serving.apis import predict_pb2

    asked = []

    class Stub:
        """Answers a request like the server, with the signature that the request names."""

        def Predict(self, request, timeout):
            inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for key, value in self._run(request, inputs).items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

        def Classify(self, request, timeout):
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            return types.SimpleNamespace(result=self._run(request, {"inputs": tf.constant(examples)}))

        Regress = Classify

        def _run(self, request, inputs):
            asked.append((request.model_spec.name, request.model_spec.signature_name))
            return self.signatures[request.model_spec.signature_name](**inputs)

    for name, base, model in (("entailment", "my model's", "my_model_s"), ("score",) * 3):
        asked.clear()
        first, setup, *calls = blocks((folder / base / "README.md").read_text(encoding="utf-8"), "python")
        assert 'tf.saved_model.load("1")' in first
        names = {}
        exec(setup, names)
        names["stub"] = Stub()
        names["stub"].signatures = served[name]
        for call in calls:
            exec(call, names)
        with pytest.raises(ValueError, match="no rows"):  # because the server would never answer
            names["predict"]("serving_default", text=[])
        with pytest.raises(ValueError, match="no rows"):
            names["ask"](names["stub"].Classify, names["classification_pb2"].ClassificationRequest(), "x", [])
        described = set(export.describe(paths[name])["signatures"]) - {"serving_default"}
        assert asked and {signature for _, signature in asked} == described
        assert {asked_model for asked_model, _ in asked} == {model}


def test_the_readme_shows_what_was_answered(paths, served, folder):
    text = (folder / "score" / "README.md").read_text(encoding="utf-8")
    section = text[text.index("### regress\n") : text.index("### regress_examples")]
    texts = [row["text"] for row in json.loads(shlex.split(blocks(section, "sh")[0])[-1])["instances"]]
    shown = json.loads(blocks(section, "")[-1].removeprefix("outputs: "))
    np.testing.assert_allclose(shown, served["score"]["regress"](text=tf.constant(texts))["outputs"], rtol=1e-4)
