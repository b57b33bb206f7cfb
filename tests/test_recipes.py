"""What `export.recipes` writes matches the documented formats; what can run without Docker is run."""

import contextlib
import gzip
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from test_compose import DOCUMENTED

from tfxfer import export

NAME = "my_Intents"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.classifier(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A model's base folder, with recipes."""
    made = tmp_path_factory.mktemp("serving") / NAME
    export.saved_model(model, made)
    written = export.recipes(made, storage_uri="gs://models/intents")
    assert sorted(written) == sorted(str(path) for path in (made / "recipes").iterdir())
    return made


def load(path):
    """Loads a file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def documents(folder, file):
    return list(yaml.safe_load_all((folder / "recipes" / file).read_text(encoding="utf-8")))


def flags(arguments):
    assert all(each.startswith("--") and each.count("=") == 1 for each in arguments)
    return dict(each.removeprefix("--").split("=") for each in arguments)


# === Writing ===


def test_what_was_changed_by_hand_stays(folder):
    file = folder / "recipes" / "compose.yaml"
    kept = file.read_text()
    file.write_text("mine")
    assert export.recipes(folder) == [] and file.read_text() == "mine"
    assert str(file) in export.recipes(folder / "1", storage_uri="gs://models/intents", overwrite=True)
    assert file.read_text() == kept
    assert not any("<<" in path.read_text() for path in (folder / "recipes").iterdir()), "all is filled in"


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"export\.saved_model"):
        export.recipes(tmp_path)
    with pytest.raises(ValueError, match="local disk"):
        export.recipes("gs://bucket/model")


def test_every_file_is_told_of(folder):
    text = (folder / "recipes" / "README.md").read_text()
    assert all(f"`{name}`" in text for name in os.listdir(folder / "recipes") if name != "README.md")
    assert "tensorflow/serving:2.19.1" in text


# === Docker, Kubernetes, KServe, Vertex, SageMaker ===


def test_compose_starts_the_server_with_documented_flags_behind_the_proxy(folder):
    [found] = documents(folder, "compose.yaml")
    server, proxy = found["services"]["tensorflow_serving"], found["services"]["refuse_empty"]
    assert server["image"] == "tensorflow/serving:2.19.1" and server["entrypoint"] == "tensorflow_model_server"
    assert set(flags(server["command"])) <= DOCUMENTED and "ports" not in server, "clients reach the proxy alone"
    assert server["volumes"] == [f"..:/models/{NAME}:ro"]
    assert proxy["ports"] == ["8080:8080"] and "--server=http://tensorflow_serving:8501" in proxy["command"]
    files = [value for name, value in flags(server["command"]).items() if name.endswith("_file")]
    assert all((folder / pathlib.PurePosixPath(file).relative_to(f"/models/{NAME}")).is_file() for file in files)


def test_kubernetes_is_ready_once_the_model_answers(folder):
    deployment, service = documents(folder, "kubernetes.yaml")
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == "my-intents"
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    server, proxy = pod["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for container in (server, proxy) for each in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": f"/v1/models/{NAME}", "port": "rest"} and ports["rest"] == 8501
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}] and ports["http"] == 8080
    [compose] = documents(folder, "compose.yaml")
    assert server["args"] == compose["services"]["tensorflow_serving"]["command"]
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    assert {mount["name"] for each in (server, proxy) for mount in each["volumeMounts"]} == volumes
    assert all(isinstance(value, str) for value in pod["metadata"]["annotations"].values())


def test_kserve_has_the_tensorflow_runtime(folder):
    [found] = documents(folder, "kserve.yaml")
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = found["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "tensorflow"} and model["storageUri"] == "gs://models/intents"


def test_the_image_and_vertex_ask_what_the_server_answers(folder):
    lines = (folder / "recipes" / "Dockerfile").read_text().splitlines()
    assert lines[1:] == [
        "FROM tensorflow/serving:2.19.1",
        f"COPY . /models/{NAME}",
        f"ENV MODEL_NAME={NAME}",
        "EXPOSE 8500 8501",
    ]
    script = folder / "recipes" / "vertex.sh"
    subprocess.run(["sh", "-n", script], check=True)
    given = dict(part.split("=", 1) for part in script.read_text().split() if part.startswith("--"))
    assert given["--container-health-route"] == f"/v1/models/{NAME}" and given["--container-ports"] == "8501"
    assert given["--container-predict-route"] == f"/v1/models/{NAME}:predict"


def test_sagemakers_archive_holds_name_version_and_model(folder, tmp_path):
    program = [sys.executable, folder / "recipes" / "sagemaker.py", tmp_path / "model.tar.gz"]
    subprocess.run(program, check=True, capture_output=True)
    with tarfile.open(tmp_path / "model.tar.gz") as file:
        names = file.getnames()
    assert f"{NAME}/1/saved_model.pb" in names and all(name.startswith(f"{NAME}/1") for name in names)


# === The proxy ===


@contextlib.contextmanager
def proxy(folder, behind, **options):
    """Runs the proxy in this process; yields its URL."""
    started = load(folder / "recipes" / "refuse_empty.py").start(0, behind, host="localhost", **options)
    thread = threading.Thread(target=started.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{started.server_address[1]}"
    finally:
        started.shutdown()
        started.server_close()
        thread.join()


@pytest.fixture(scope="module")
def served(folder):
    """The contract server with the flags of `compose.yaml`, and the proxy in front of it: a client of each."""
    clients = pytest.importorskip("clients", reason="no grpcio or tensorflow-serving-api")
    from contract_server import __main__ as command_line

    port, rest_port = clients.free_ports()
    [compose] = documents(folder, "compose.yaml")
    given = flags(compose["services"]["tensorflow_serving"]["command"])
    given.update(port=str(port), rest_api_port=str(rest_port), model_config_file_poll_wait_seconds="0")
    config = folder / "local.config"
    config.write_text((folder / "models.config").read_text().replace(f"/models/{NAME}", str(folder)))
    given["model_config_file"] = str(config)
    given = [f"--{name}={value.replace(f'/models/{NAME}', str(folder))}" for name, value in given.items()]
    stop = command_line.start([*given, "--rest_api_num_threads=2"])
    direct = clients.Client(port, rest_port, NAME)
    with proxy(folder, direct.url) as url:
        yield direct, clients.Client(port, int(url.rpartition(":")[2]), NAME)
    direct.close()
    stop()


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {"inputs": {"text": []}},
        {"instances": []},
        {"signature_name": "classify", "inputs": {"text": []}},
        b'{"inputs": [], "inputs": ["a"]}',  # the server takes the first
        b'{"inputs": ["a"], "inputs": []}',
        b'{"inputs": {"text": [], "text": ["a"]}}',
        b'{"inputs": []} and more',
        b'\xef\xbb\xbf{"inputs": []}',
        b"[]",
        b"",
        b"[" * 100_000,
    ],
)
def test_the_proxy_refuses_requests_without_rows_and_the_server_lives(served, body):
    direct, client = served
    status, found = client.rest(body)
    assert status == 400 and "Refused" in found["error"]
    assert direct.versions() == {1: "AVAILABLE"}


def test_the_proxy_hands_on_all_others(served, folder):
    direct, client = served
    for body in ({"instances": ["my card", ""]}, {"inputs": {"text": ["my card"]}}, {"inputs": [1]}, {}):
        assert client.rest(body) == direct.rest(body)
    ask = {"signature_name": "classify_examples", "examples": [{"text": "my card"}]}
    assert client.rest(ask, ":classify") == direct.rest(ask, ":classify") and client.rest(ask, ":classify")[0] == 200
    assert client.versions() == {1: "AVAILABLE"} and client.http("/monitoring/prometheus/metrics")[0] == 200
    packed, path = {"Content-Encoding": "gzip"}, f"/v1/models/{NAME}:predict"
    assert client.http(path, gzip.compress(b'{"inputs": ["my card"]}'), headers=packed)[0] == 200
    assert client.http(path, gzip.compress(b'{"inputs": []}'), headers=packed)[0] == 400
    assert client.http(path, b'{"inputs": ["a"]}', headers=packed)[0] == 400
    with proxy(folder, "http://localhost:9") as url:
        assert type(client)(0, int(url.rpartition(":")[2]), NAME).http("/v1/models/x")[0] == 502, "nobody is there"


# === Custom servers ===


def test_the_fastapi_program_answers_as_the_model(folder, model, monkeypatch):
    """FastAPI is not needed: routes are functions, and the checks of pydantic are not tested."""

    class App:
        def __init__(self, **options):
            self.routes = {}

        def route(self, path):
            return lambda function: self.routes.setdefault(path, function)

        get = post = route

    stub = types.SimpleNamespace(FastAPI=App, HTTPException=ValueError)
    fields = types.SimpleNamespace(BaseModel=types.SimpleNamespace, Field=lambda **options: options)
    monkeypatch.setitem(sys.modules, "fastapi", stub)
    monkeypatch.setitem(sys.modules, "pydantic", fields)
    module = load(folder / "recipes" / "fastapi_app.py")
    found = module.app.routes["/predict"](types.SimpleNamespace(text=tiny.TEXTS))
    labels, shares = model.classify(tiny.TEXTS)
    assert [row[0] for row in found["labels"]] == labels
    np.testing.assert_allclose(found["probabilities"], shares, atol=1e-6)
    assert module.app.routes["/health"]()["model"] == str(folder / "1")


def test_the_bento_program_answers_as_the_model(folder, model, monkeypatch):
    bento = types.SimpleNamespace(service=lambda **options: lambda kind: kind, api=lambda function: function)
    monkeypatch.setitem(sys.modules, "bentoml", bento)
    found = load(folder / "recipes" / "bento_service.py").MyIntents().predict(tiny.TEXTS)
    assert [row[0] for row in found["labels"]] == model.classify(tiny.TEXTS).labels


# === Triton ===

# The fields of ModelConfig, in Triton's model_config.proto, that are used and documented: (name, type, repeated).
SCHEMA = {
    "ModelConfig": [
        ("name", "string", False),
        ("platform", "string", False),
        ("backend", "string", False),
        ("max_batch_size", "int32", False),
        ("input", "ModelTensor", True),
        ("output", "ModelTensor", True),
        ("dynamic_batching", "ModelDynamicBatching", False),
        ("ensemble_scheduling", "ModelEnsembling", False),
        ("instance_group", "ModelInstanceGroup", True),
    ],
    "ModelTensor": [("name", "string", False), ("data_type", "DataType", False), ("dims", "int64", True)],
    "ModelDynamicBatching": [("max_queue_delay_microseconds", "uint64", False)],
    "ModelEnsembling": [("step", "Step", True)],
    "Step": [
        ("model_name", "string", False),
        ("model_version", "int64", False),
        ("input_map", "Entry", True),
        ("output_map", "Entry", True),
    ],
    "Entry": [("key", "string", False), ("value", "string", False)],
    "ModelInstanceGroup": [("count", "int32", False), ("kind", "Kind", False)],
}
ENUMS = {
    "DataType": ["TYPE_INVALID", "TYPE_INT32", "TYPE_INT64", "TYPE_FP32", "TYPE_STRING"],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU"],
}


@pytest.fixture(scope="module")
def config():
    """Parses a `config.pbtxt`."""
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    types_ = descriptor_pb2.FieldDescriptorProto
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            found = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in SCHEMA or kind in ENUMS:
                found.type, found.type_name = (
                    (types_.TYPE_MESSAGE if kind in SCHEMA else types_.TYPE_ENUM),
                    f".t.{kind}",
                )
            else:
                found.type = getattr(types_, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))
    return lambda path: text_format.Parse(path.read_text(), kind())


def onnx_folder(model, path, pairs=False, towers=False):
    """Writes what `export.onnx` writes, except for the model itself, whose conversion is slow."""
    path.mkdir()
    preprocessor = model.preprocessor
    preprocessor.tokenizer.to_folder(
        path, sequence_length=preprocessor.sequence_length, padding_side=preprocessor.padding_side
    )
    (path / "model.onnx").write_bytes(b"a model")
    (path / "README.md").write_text("tokenizer.encode_special_tokens = True")
    shape = [None, 2, None] if towers else [None, None]
    inputs = {name: {"dtype": "int32", "shape": shape} for name in model.input}
    outputs = {"probabilities": {"dtype": "float32", "shape": [None, 3]}}
    signature = {"api": "ids", "purpose": "", "inputs": inputs, "outputs": outputs}
    described = dict.fromkeys(["labels", "multi_label", "prompts", "default_prompt_name", "index", "text_bytes"])
    described.update({"class": "TextClassifier", "name": "x", "signatures": {"serving_default": signature}})
    described.update({"pairs": pairs, "sequence_length": 16, "weights": {}, "metadata": {}, "versions": {}})
    described.update(created="", format="onnx")
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "tfxfer.json").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize(("pairs", "towers"), [(False, False), (True, False), (True, True)])
def test_triton_has_a_repository_of_a_model_its_tokenizer_and_both(model, config, tmp_path, monkeypatch, pairs, towers):
    folder = onnx_folder(model, tmp_path / "intents", pairs, towers)
    export.recipes(folder)
    root = folder / "recipes" / "triton"
    assert (root / "intents" / "1" / "model.onnx").read_bytes() == b"a model"
    made = {name: config(root / name / "config.pbtxt") for name in ("intents", "intents_text", "intents_ensemble")}
    assert all(found.name == name and found.max_batch_size == 32 for name, found in made.items())
    network, text, both = made.values()
    assert (network.platform, text.backend, both.platform) == ("onnxruntime_onnx", "python", "ensemble")
    assert [tensor.name for tensor in network.input] == list(model.input) == [tensor.name for tensor in text.output]
    assert [list(tensor.dims) for tensor in network.input] == [[2, -1] if towers else [-1]] * len(model.input)
    assert list(text.input[0].dims) == list(both.input[0].dims) == [2 if pairs else 1]
    steps = both.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["intents_text", "intents"]
    given = {"text"}
    for step in steps:
        inputs, outputs = ({each.value for each in mapping} for mapping in (step.input_map, step.output_map))
        assert inputs <= given
        given |= outputs
    assert {tensor.name for tensor in both.output} <= given

    tensors = {}
    stub = types.SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: types.SimpleNamespace(as_numpy=lambda: request[name]),
        Tensor=lambda name, array: tensors.setdefault(name, array),
        InferenceResponse=lambda found: found,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
    pytest.importorskip("tokenizers")
    program = load(root / "intents_text" / "1" / "model.py").TritonPythonModel()
    program.initialize({"model_repository": str(root / "intents_text"), "model_version": "1"})
    firsts, seconds = tiny.TEXTS[:5], tiny.TEXTS[1:6]
    rows = list(zip(firsts, seconds, strict=True)) if pairs else [(each,) for each in firsts]
    program.execute([{"text": np.array([[text.encode() for text in row] for row in rows], object)}])
    if towers:
        expected = model.preprocessor([text for row in rows for text in row])
        expected = {name: np.reshape(value, (5, 2, -1)) for name, value in expected.items()}
    else:
        expected = model.preprocessor((firsts, seconds) if pairs else firsts)
    for name, value in tensors.items():
        assert value.dtype == np.int32
        np.testing.assert_array_equal(value, tf.convert_to_tensor(expected[name]))


def test_a_model_that_reads_words_has_no_repository(model, tmp_path):
    folder = onnx_folder(model, tmp_path / "tagger")
    file = folder / "assets.extra" / "tfxfer.json"
    file.write_text(file.read_text().replace('"token_ids"', '"word_ids"'))
    with pytest.raises(ValueError, match="saved_model"):
        export.recipes(folder)
    shutil.rmtree(folder / "assets.extra")
    with pytest.raises(ValueError, match=r"export\.saved_model"):
        export.recipes(folder)
