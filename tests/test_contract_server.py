"""The contract server follows TF Serving's sources, so that what it accepts can be trusted."""

import base64
import concurrent.futures
import contextlib
import gzip
import os
import shutil
import tempfile
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

grpc = pytest.importorskip("grpc", reason="no grpcio")
pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="no tensorflow-serving-api")

import clients  # noqa: E402
from contract_server import __main__ as command_line  # noqa: E402
from contract_server import batching, errors, monitoring, rest  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
)

TEXT, FLOATS = tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None], tf.float32, "x")
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Handmade(tf.Module):
    """Signatures that show what a server does with them."""

    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(factor)

    def functions(self):
        def rows(x):
            return tf.fill(tf.shape(x)[:1], tf.shape(x)[0])

        made = {
            "serving_default": (lambda x: {"y": x * self.factor}, FLOATS),
            "rows": (lambda x: {"rows": rows(x), "x": x}, FLOATS),
            "strings": (lambda text: {"text": text, "text_bytes": text}, TEXT),
            "scalar": (lambda x: {"y": tf.reduce_sum(x)}, FLOATS),
            "three": (lambda x: {"y": tf.zeros([3])}, FLOATS),
            "uneven": (lambda x: {"y": x, "z": tf.zeros([3])}, FLOATS),
            "half": (lambda x: {"y": tf.cast(x, tf.bfloat16)}, FLOATS),
            "numbers": (lambda x: {"y": x / tf.zeros_like(x), "ok": x > 0, "n": tf.cast(x, tf.int64)}, FLOATS),
            "matrix": (lambda ids: {"sum": tf.reduce_sum(ids, 1)}, tf.TensorSpec([None, None], tf.int32, "ids")),
            "fails": (lambda x: {"y": tf.debugging.check_numerics(x, "not a number")}, FLOATS),
            "api_classify": (self.classify, tf.TensorSpec([None], tf.string, "inputs")),
            "api_regress": (self.regress, tf.TensorSpec([None], tf.string, "inputs")),
        }
        return {name: tf.function(made[0]).get_concrete_function(made[1]) for name, made in made.items()}

    def _x(self, inputs):
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"] * self.factor

    def classify(self, inputs):
        x = self._x(inputs)
        return {"classes": tf.repeat([["big", "small"]], tf.size(x), 0), "scores": tf.stack([x, 1 - x], 1)}

    def regress(self, inputs):
        return {"outputs": self._x(inputs)[:, tf.newaxis]}


def save(path, factor):
    module = Handmade(factor)
    tf.saved_model.save(module, str(path), signatures=module.functions())
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
    updater.replace_method_name("api_classify", CLASSIFY, "serve")
    updater.replace_method_name("api_regress", REGRESS, "serve")
    updater.save()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two versions, with factors 2 and 3."""
    folder = tmp_path_factory.mktemp("handmade")
    save(folder / "two", 2.0)
    shutil.copytree(folder / "two", folder / "three")
    save(folder / "three", 3.0)
    return folder


@contextlib.contextmanager
def serving(*flags):
    """Runs the server in this process; yields a client."""
    port, rest_port = clients.free_ports()
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(clients.MONITORING)
        file.flush()
        monitored = f"--monitoring_config_file={file.name}"
        stop = command_line.start([f"--port={port}", f"--rest_api_port={rest_port}", monitored, *map(str, flags)])
    client = clients.Client(port, rest_port)
    client.core = stop.core
    try:
        yield client
    finally:
        client.close()
        stop()


@pytest.fixture(scope="module")
def base(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(exported / "two", folder / "1")
    return folder


@pytest.fixture(scope="module")
def plain(base):
    """A server without batching."""
    with serving("--model_name=model", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0") as client:
        yield client


@pytest.fixture(scope="module")
def batched(base, tmp_path_factory):
    """A server that merges up to four rows and accepts requests of up to ten."""
    file = tmp_path_factory.mktemp("config") / "batching.txt"
    file.write_text(
        "max_batch_size { value: 10 } # rows of a request\nenable_large_batch_splitting { value: true }\n"
        "max_execution_batch_size { value: 4 } batch_timeout_micros: { value: 1000000 }\n"
        "num_batch_threads { value: 2 } max_enqueued_batches { value: 3 }"
    )
    flags = f"--model_base_path={base}", "--enable_batching", f"--batching_parameters_file={file}"
    with serving("--model_name", "model", "--file_system_poll_wait_seconds=0", *flags) as client:
        yield client


# === JSON ===


def b64(text):
    return {"b64": base64.b64encode(text).decode()}


ROWS = [{"rows": 2, "x": 7.0}, {"rows": 2, "x": 8.0}]
STRINGS = [
    {"text": "ü\x00", "text_bytes": b64("ü\x00".encode())},
    {"text": "\udcff", "text_bytes": b64(b"\xff")},  # how the client decodes bytes that are not UTF-8
]
ESCAPED = {"text": ["\U0001f600 \\ud800"], "text_bytes": [b64("\U0001f600 \\ud800".encode())]}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [1, 2.5]}, {"predictions": [2.0, 5.0]}),
        ({"instances": [{"x": 1}]}, {"predictions": [2.0]}),
        ({"inputs": [1]}, {"outputs": [2.0]}),
        ({"inputs": {"x": [1]}, "signature_name": "serving_default"}, {"outputs": [2.0]}),
        ({"inputs": []}, {"outputs": []}),  # without batching
        (b'{"inputs": [1], "inputs": [2]}', {"outputs": [2.0]}),  # the first of duplicate names counts
        (b'\xef\xbb\xbf {"inputs": [1]}', {"outputs": [2.0]}),
        (b'{"inputs": [1]} {"inputs": [2]} or anything \\ud800', {"outputs": [2.0]}),
        ({"signature_name": "rows", "instances": [7, 8]}, {"predictions": ROWS}),
        ({"signature_name": "rows", "inputs": [7, 8]}, {"outputs": {"rows": [2, 2], "x": [7.0, 8.0]}}),
        ({"signature_name": "matrix", "instances": [[1, 2], [3, 4]]}, {"predictions": [3, 7]}),
        ({"signature_name": "scalar", "inputs": [1, 2]}, {"outputs": 3.0}),
        ({"signature_name": "strings", "instances": ["ü\x00", b64(b"\xff")]}, {"predictions": STRINGS}),
        (b'{"signature_name": "strings", "instances": ["\xc3\xbc\\u0000", "\xff"]}', {"predictions": STRINGS}),
        (b'{"signature_name": "strings", "inputs": ["\\ud83d\\ude00 \\\\ud800"]}', {"outputs": ESCAPED}),
    ],
)
def test_rows_and_columns_are_answered_in_kind(plain, body, answer):
    assert plain.rest(body) == (200, answer)


def test_what_is_no_number_is_written_as_javascript_reads_it(plain):
    status, found = plain.rest(b'{"signature_name": "numbers", "inputs": [1, -1, NaN, 0]}')
    assert status == 200
    assert str(found["outputs"]["y"]) == "[inf, -inf, nan, nan]" and found["outputs"]["ok"] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "document is empty"),
        (b"{", "JSON Parse error"),
        (b"[1]", "not object"),
        (b"[" * 100_000, "JSON Parse error"),
        (b'{"inputs": [1], "inputs": ["a"], "instances": 1}', "only one of"),
        (b'{"inputs": ["\x01"]}', "JSON Parse error"),
        (b'{"signature_name": "strings", "inputs": ["\\ud800"]}', "surrogate"),
        (b'{"signature_name": "strings", "inputs": ["\\ud800\\u0041"]}', "surrogate"),
        ({"signature_name": 3, "inputs": [1]}, "must be a string"),
        ({"signature_name": "none", "inputs": [1]}, "not found"),
        ({}, "Missing 'inputs' or 'instances'"),
        ({"inputs": [1], "instances": [1]}, "only one of"),
        ({"instances": {"x": 1}}, "list/array"),
        ({"instances": []}, "No values"),
        ({"instances": [{"x": 1}, 2]}, "Expecting object"),
        ({"instances": [2, {"x": 1}]}, "Expecting value"),
        ({"instances": [{"z": 1}]}, "named input: z"),
        ({"instances": [{}]}, "keys must be equal"),
        ({"instances": ["1"]}, "not of expected type"),
        ({"instances": [True]}, "not of expected type"),
        ({"inputs": {"z": [1]}}, "Missing named input: x"),
        ({"inputs": [[1], 2]}, "incorrect level"),
        ({"inputs": [1, [2]]}, "unexpected level"),
        ({"signature_name": "matrix", "inputs": [[1, 2], [3]]}, "unexpected size"),
        ({"signature_name": "matrix", "instances": [[1, 2], [3]]}, "Expecting shape"),
        ({"signature_name": "matrix", "instances": [[1.5]]}, "not of expected type"),
        ({"signature_name": "matrix", "instances": [[2**31]]}, "not of expected type"),
        ({"signature_name": "strings", "instances": [{"b64": "%"}]}, "base64"),
        ({"signature_name": "strings", "inputs": [{"b65": "aa"}]}, "base64"),
        ({"signature_name": "half", "inputs": [1]}, "DT_BFLOAT16"),
        ({"signature_name": "scalar", "instances": [1]}, "no shape information"),
        ({"signature_name": "uneven", "instances": [1]}, "inconsistent batch size"),
        (b'{"signature_name": "fails", "inputs": [NaN]}', "not a number"),
    ],
)
def test_a_request_that_is_wrong_is_a_400_that_says_why(plain, body, said):
    status, found = plain.rest(body)
    assert status == 400 and list(found) == ["error"] and said in found["error"]


def test_paths_models_and_versions_that_are_not_there(plain):
    body = {"instances": [1]}
    assert plain.http("/v1/models/other:predict", body)[0] == 404
    assert plain.http("/v1/models/other")[0] == 404
    assert plain.http("/v1/models/model/versions/7:predict", body)[0] == 404
    assert plain.http("/v1/models/model/versions/7")[0] == 404
    assert plain.http("/v1/models/model/labels/stable:predict", body)[0] == 400
    assert plain.http("/v1/models/model:guess", body)[0] == 400
    assert plain.http("/v2/models", body)[0] == plain.http("/index.html")[0] == 404
    assert plain.http("/V1/Models/model/versions/1:Predict", body) == (200, {"predictions": [2.0]})
    assert plain.http("/v1/models/model?pretty=1")[0] == 404, "a query string is a part of the name"
    assert plain.http("/v1/models/model:predict?pretty=1", body)[0] == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
def test_another_method_is_malformed(plain, method):
    assert plain.http("/v1/models/model:predict", b'{"inputs": [1]}', method=method)[0] == 400


def test_a_body_may_be_packed(plain):
    body = gzip.compress(b'{"inputs": [1, 2]}')
    packed = {"Content-Encoding": "gzip"}
    assert plain.http("/v1/models/model:predict", body, headers=packed) == (200, {"outputs": [2.0, 4.0]})
    status, found = plain.http("/v1/models/model:predict", b'{"inputs": [1]}', headers=packed)
    assert status == 400 and "document is empty" in found["error"]


def test_status_and_metadata(plain):
    entry = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert plain.rest(None, "") == (200, {"model_version_status": [entry]})
    assert plain.rest(None, "/labels/unknown") == (200, {"model_version_status": [entry]}), "labels are not looked at"
    _, found = plain.rest(None, "/metadata")
    assert found["model_spec"]["version"] == "1"
    assert "__saved_model_init_op" in found["metadata"]["signature_def"]["signature_def"]
    signature = found["metadata"]["signature_def"]["signature_def"]["rows"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT" and set(signature["outputs"]) == {"x", "rows"}
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "model"
    assert plain.stub.GetModelMetadata(request).model_spec.version.value == 1
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "model"
    assert plain.models.GetModelStatus(request).model_version_status[0].state == 30


# === Classify and Regress ===


def test_examples_by_json(plain):
    ask = {"signature_name": "api_regress", "examples": [{"x": 1.5}, {"x": [0.5]}]}
    assert plain.rest(ask, ":regress") == (200, {"results": [3.0, 1.0]})
    ask = {"signature_name": "api_classify", "examples": [{"x": 0.25}]}
    assert plain.rest(ask, ":classify") == (200, {"results": [[["big", 0.5], ["small", 0.5]]]})
    ask = {"signature_name": "api_regress", "context": {"x": 2.0}, "examples": [{"other": b64(b"\xff")}]}
    assert plain.rest(ask, ":regress") == (200, {"results": [4.0]})
    for wrong, said in (
        ({"examples": [{"x": 1.5}]}, "No regression inputs or outputs"),
        ({"signature_name": "api_regress", "examples": []}, "examples"),
        ({"signature_name": "api_regress", "examples": [1]}, "JSON object"),
        ({"signature_name": "api_regress", "examples": [{"x": [1.5, 1]}]}, "element type"),
        ({"signature_name": "api_regress", "examples": [{"x": None}]}, "JSON type"),
        ({"signature_name": "api_regress", "examples": [{"y": 1.0}]}, "required"),
    ):
        status, found = plain.rest(wrong, ":regress")
        assert status == 400 and said in found["error"], found


def test_any_signature_that_fits_answers_classify_and_regress(exported, tmp_path):
    # The export is `api_classify` with the method name of Predict.
    module = Handmade(2.0)
    functions = module.functions()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": functions["api_classify"]})
    flags = "--model_name=model", f"--model_base_path={tmp_path}", "--file_system_poll_wait_seconds=0"
    ask = {"examples": [{"x": 0.25}]}
    with serving(*flags) as client:
        assert client.rest(ask, ":classify") == (200, {"results": [[["big", 0.5], ["small", 0.5]]]})
    with serving(*flags, "--enable_signature_method_name_check") as client:
        status, found = client.rest(ask, ":classify")
        assert status == 400 and "method_name" in found["error"]


def test_several_questions_in_one_call(plain):
    def ask(*tasks, model="model"):
        request = inference_pb2.MultiInferenceRequest()
        for signature, method in tasks:
            task = request.tasks.add(method_name=method)
            task.model_spec.name, task.model_spec.signature_name = model, signature
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(0.25)
        return plain.stub.MultiInference(request)

    [result] = ask(("api_classify", CLASSIFY)).results
    found = result.classification_result.classifications[0].classes
    assert [(each.label, each.score) for each in found] == [("big", 0.5), ("small", 0.5)]
    assert result.model_spec.version.value == 1
    [result] = ask(("api_regress", REGRESS)).results
    assert result.regression_result.regressions[0].value == 0.5
    for wrong, code in (
        ([("api_classify", CLASSIFY), ("api_regress", REGRESS)], grpc.StatusCode.INVALID_ARGUMENT),  # two inputs
        ([("api_classify", CLASSIFY)] * 2, grpc.StatusCode.INVALID_ARGUMENT),
        ([("api_classify", "tensorflow/serving/predict")], grpc.StatusCode.UNIMPLEMENTED),
        ([], grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask(*wrong)
        assert caught.value.code() == code


def test_codes_of_grpc(plain):
    def code(call, *arguments, **keywords):
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **keywords)
        return caught.value.code()

    assert plain.predict(x=[1.0, 2.0])["y"].tolist() == [2.0, 4.0]
    assert code(plain.of("other").predict, x=[1.0]) == grpc.StatusCode.NOT_FOUND
    assert code(plain.of("").predict, x=[1.0]) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(plain.predict, version=9, x=[1.0]) == grpc.StatusCode.NOT_FOUND
    assert code(plain.predict, "none", x=[1.0]) == grpc.StatusCode.FAILED_PRECONDITION
    assert code(plain.predict, z=[1.0]) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(plain.predict, x=[1.0], z=[1.0]) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(plain.predict, x=["text"]) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(plain.classify, "api_classify", []) == grpc.StatusCode.INVALID_ARGUMENT
    assert plain.predict("half", x=[1.0])["y"].dtype.name == "bfloat16", "only JSON cannot hold it"
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["x"].CopyFrom(clients.proto([1.0]))
    request.inputs["x"].tensor_shape.dim[0].size = -1
    assert code(plain.stub.Predict, request) == grpc.StatusCode.INVALID_ARGUMENT


# === Batching ===


def at_once(count, call):
    """Makes calls from threads that start together; returns their answers or errors."""
    barrier = threading.Barrier(count)

    def one(i):
        barrier.wait()
        try:
            return call(i)
        except grpc.RpcError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_requests_that_arrive_together_run_once_and_each_gets_its_own(batched):
    before = batched.runs()
    found = at_once(4, lambda i: batched.predict("rows", x=[float(i)]))
    assert batched.runs() == before + 1
    assert [each["x"].tolist() for each in found] == [[0.0], [1.0], [2.0], [3.0]]
    assert [each["rows"].tolist() for each in found] == [[4]] * 4
    # Requests for different signatures are not merged.
    names = ["rows", "serving_default"]
    at_once(2, lambda i: batched.predict(names[i], x=[1.0]))
    assert batched.runs() == before + 3


def test_a_large_request_is_parted_and_one_too_large_refused(batched):
    before = batched.runs()
    found = batched.predict("rows", x=[float(i) for i in range(10)])
    assert found["x"].tolist() == list(range(10)) and found["rows"].tolist() == [4] * 8 + [2] * 2
    assert batched.runs() == before + 3
    status, said = batched.rest({"instances": list(range(11))})
    assert status == 400 and "Task size 11 is larger than maximum input batch size 10" in said["error"]


def test_more_than_may_wait_is_unavailable():
    # One batch runs and three full batches wait: there is no room for another row until the first is done.
    running, finish = threading.Event(), threading.Event()

    def run(inputs):
        running.set()
        finish.wait()
        return [2 * inputs["x"]]

    limits = {"max_batch_size": 4, "num_batch_threads": 1, "max_enqueued_batches": 3}
    queue = batching.Queue(run, batching.Parameters(**limits))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(queue, {"x": np.ones(4)})]
        running.wait()
        answers += [pool.submit(queue, {"x": np.ones(4)}) for _ in range(3)]
        clients.wait(lambda: len(queue._tasks) == 3)
        with pytest.raises(errors.ServingError, match=r"queue .* is full") as refused:
            queue({"x": np.ones(1)})
        finish.set()
        assert all(each.result()[0].tolist() == [2.0] * 4 for each in answers)
    assert refused.value.code == errors.UNAVAILABLE
    assert queue({"x": np.ones(1)})[0].tolist() == [2.0]
    queue.close()


def test_outputs_need_the_batch_in_front_and_inputs_one_length(batched):
    for signature, body, said in (
        ("scalar", [1], "0 dimensions"),
        ("three", [1], "0th dimension"),
    ):
        status, found = batched.rest({"signature_name": signature, "inputs": body})
        assert status == 400, found
        assert any(part in found["error"] for part in said.split("|")), found
    assert batched.rest({"signature_name": "three", "inputs": [1, 2, 3]})[0] == 200
    found = at_once(2, lambda i: batched.rest({"signature_name": "matrix", "inputs": [[1] * (i + 1)]}))
    assert [status for status, _ in found] == [400, 400], "shapes that differ cannot be merged"


def test_one_bad_request_fails_those_it_is_merged_with_and_no_others(batched):
    found = at_once(2, lambda i: batched.rest(b'{"signature_name": "fails", "inputs": [%s]}' % (b"1", b"NaN")[i]))
    assert [status for status, _ in found] == [400, 400]
    assert batched.rest({"signature_name": "fails", "inputs": [1]})[0] == 200


def test_batching_parameters_are_read_and_checked(tmp_path):
    file = tmp_path / "batching.txt"
    for text, said in (
        ("max_batch { value: 3 }", "not batching parameters"),
        ("max_batch_size { value: 3", "not batching parameters"),
        ("max_execution_batch_size { value: 3 }", "splitting"),
        ("max_batch_size { value: 3 } allowed_batch_sizes: 2", "allowed_batch_sizes"),
    ):
        file.write_text(text)
        with pytest.raises(errors.ServingError, match=said):
            batching.read(file)
    file.write_text('thread_pool_name: { value: "a" } # x { }\nallowed_batch_sizes: 2 allowed_batch_sizes: 1000')
    found = batching.read(file)
    assert found.allowed_batch_sizes == (2, 1000) and found.execution_size == 1000
    for flags in ([], ["--model_base_path=x", "--batching_parameters_file=y"]):
        with pytest.raises(SystemExit):
            command_line.start(flags)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (clients.MONITORING, clients.METRICS),
        ("prometheus_config: {\n  path: '/counts'  # of runs\n  enable: true\n}", "/counts"),
        ("prometheus_config { enable: true }", clients.METRICS),
        ("prometheus_config { enable: false path: '/counts' }", None),
        ("prometheus_config { path: '/counts' }", None),
        ("# nothing\n", None),
    ],
)
def test_metrics_are_where_the_monitoring_configuration_has_them(tmp_path, text, path):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert monitoring.read(file) == path


@pytest.mark.parametrize("text", ["prometheus { enable: true }", "prometheus_config { enable: yes }", "enable: true"])
def test_another_monitoring_configuration_is_refused(tmp_path, text):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    with pytest.raises(errors.ServingError, match="not a monitoring configuration"):
        monitoring.read(file)


def test_without_a_monitoring_configuration_there_are_no_metrics(plain):
    assert plain.http(clients.METRICS)[0] == 200
    [port] = clients.free_ports(1)
    web = rest.start(plain.core, port)
    client = clients.Client(0, port)
    try:
        assert client.http(clients.METRICS)[0] == 404
        assert client.versions() == {1: "AVAILABLE"}
    finally:
        client.close()
        web.shutdown()
        web.server_close()


# === Requests without rows ===


@pytest.fixture
def narrow(base):
    """A server with batching and two threads for HTTP."""
    with serving(*flags_of(base), "--rest_api_num_threads=2") as client:
        yield client


def flags_of(base):
    return "--model_name=model", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0", "--enable_batching"


def test_with_batching_requests_without_rows_wait_for_ever_and_take_all_threads(narrow):
    assert narrow.rest({"inputs": [1]}) == (200, {"outputs": [2.0]})
    bodies = {"inputs": []}, {"signature_name": "strings", "inputs": {"text": []}}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(narrow.http, "/v1/models/model:predict", body, timeout=2) for body in bodies]
        time.sleep(0.5)
        with pytest.raises(OSError, match="timed out"):
            narrow.http("/v1/models/model", timeout=1)  # no thread is left for any model
        assert narrow.predict(x=[1.0])["y"].tolist() == [2.0], "gRPC has threads of its own"
    assert all(isinstance(each.exception(), OSError) for each in asked)


def test_on_request_they_are_answered(base):
    with serving(*flags_of(base), "--empty_requests=answer") as client:
        assert client.rest({"inputs": []}) == (200, {"outputs": []})


# === Versions ===


def place(folder, name, exported):
    """Puts a version into a folder in one step."""
    shutil.copytree(exported, folder / f"tmp-{name}")
    os.rename(folder / f"tmp-{name}", folder / name)


def test_the_largest_version_is_served_and_one_that_fails_leaves_the_old_one(exported, tmp_path):
    base = tmp_path / "base"
    place(base, "1", exported / "two")
    for name in ("tmp", "1a", ".2", "two"):
        (base / name).mkdir()
    with serving("--model_name=model", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0.1") as client:
        ask = {"instances": [1]}
        assert client.rest(ask) == (200, {"predictions": [2.0]})
        place(base, "2", exported / "three")
        clients.wait(lambda: client.versions() == {2: "AVAILABLE", 1: "END"})
        assert client.rest(ask) == (200, {"predictions": [3.0]}) and client.rest(ask, "/versions/1:predict")[0] == 404
        (base / "10").mkdir()
        clients.wait(lambda: client.versions().get(10) == "END")
        assert client.versions()[2] == "AVAILABLE" and client.rest(ask) == (200, {"predictions": [3.0]})
        # Removing the newer versions rolls back to the old one.
        (base / "10").rmdir()
        shutil.move(base / "2", tmp_path / "2")
        clients.wait(lambda: client.versions() == {2: "END", 1: "AVAILABLE"})
        assert client.rest(ask) == (200, {"predictions": [2.0]})
        # Restoring the newer version rolls forward again.
        shutil.move(tmp_path / "2", base / "2")
        clients.wait(lambda: client.versions()[2] == "AVAILABLE")


CONFIG = """
model_config_list {{ config {{
  name: "model" base_path: "{base}" model_platform: "tensorflow" {more}
}} }}
"""


def test_a_policy_holds_versions_and_labels_name_them(exported, tmp_path):
    base, file = tmp_path / "base", tmp_path / "models.config"
    place(base, "1", exported / "two")
    place(base, "2", exported / "three")

    def write(more):
        (tmp_path / "next").write_text(CONFIG.format(base=base, more=more))
        os.replace(tmp_path / "next", file)

    write("model_version_policy { all {} }")
    polls = "--model_config_file_poll_wait_seconds=0.1", "--file_system_poll_wait_seconds=0.1"
    with serving(f"--model_config_file={file}", *polls) as client:
        assert client.versions() == {1: "AVAILABLE", 2: "AVAILABLE"}
        assert client.rest({"instances": [1]}, "/versions/1:predict") == (200, {"predictions": [2.0]})
        write('model_version_policy { all {} } version_labels { key: "stable" value: 1 }')
        clients.wait(lambda: client.rest({"instances": [1]}, "/labels/stable:predict")[0] == 200)
        assert client.rest({"instances": [1]}, "/labels/stable:predict") == (200, {"predictions": [2.0]})
        assert len(client.rest(None, "/labels/stable")[1]["model_version_status"]) == 2
        write("model_version_policy { specific { versions: 1 } }")
        clients.wait(lambda: client.versions() == {1: "AVAILABLE", 2: "END"})
        assert client.rest({"instances": [1]}) == (200, {"predictions": [2.0]})
        # A gRPC call changes the config too.
        file.unlink()
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="model", base_path=str(base), model_platform="tensorflow")
        assert client.models.HandleReloadConfigRequest(request).status.error_code == 0
        assert client.versions() == {1: "END", 2: "AVAILABLE"}
        request.config.model_config_list.config[0].version_labels["old"] = 1
        assert "not currently available" in client.models.HandleReloadConfigRequest(request).status.error_message


# === Warm-up ===


def log(signature, rows, kind="predict_log"):
    found = prediction_log_pb2.PredictionLog()
    request = getattr(found, kind).request
    request.model_spec.signature_name = signature
    if kind == "predict_log":
        request.inputs["x"].CopyFrom(clients.proto([1.0] * rows))
    else:
        for _ in range(rows):
            request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return found.SerializeToString()


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([log("rows", 1), log("api_classify", 2, "classify_log"), log("api_regress", 3, "regress_log"), b""], None),
        ([log("rows", 1)] * 1000, None),
        ([log("rows", 1)] * 1001, "exceeds the maximum"),
        ([log("none", 1)], "not found"),
        ([log("rows", 9)], "larger than maximum"),
        ([b"\xff\xff"], "Failed to parse"),
        ([log("api_regress", 1, "classify_log")], "No classification inputs or outputs"),
    ],
)
def test_warm_up_is_replayed_and_fails_the_load(exported, tmp_path, records, said):
    place(tmp_path, "1", exported / "two")
    (tmp_path / "1" / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 8 }")
    flags = f"--model_base_path={tmp_path}", "--enable_batching", f"--batching_parameters_file={tmp_path}/batching.txt"
    if said:
        with pytest.raises(errors.ServingError, match=said), serving("--model_name=model", *flags):
            pass
        with serving("--model_name=model", *flags, "--enable_model_warmup=false") as client:
            assert client.runs() == 0
    else:
        with serving("--model_name=model", *flags) as client:
            assert client.runs() == len([record for record in records if record])
