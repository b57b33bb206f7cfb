"""Clients of a model server over plain HTTP and gRPC, with the published stubs; runs the contract server."""

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))  # the directory of `contract_server`
METRICS = "/monitoring/prometheus/metrics"
MONITORING = f'prometheus_config {{ enable: true, path: "{METRICS}" }}'
# Runs the server. On SIGUSR1 it prints the names of the modules that it has imported.
PROGRAM = """
import signal, sys
from contract_server.__main__ import main
signal.signal(signal.SIGUSR1, lambda *_: print(*sys.modules, flush=True))
main()
"""


def free_ports(count=2):
    """Returns `count` free ports."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Client:
    """A client of one model on a server.

    Args:
        port: int. The gRPC port.
        rest_port: int. The HTTP port.
        model: string. The name of the model.
    """

    def __init__(self, port, rest_port, model="model"):
        self.url, self.model = f"http://localhost:{rest_port}", model
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(f"localhost:{port}", options)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def of(self, model):
        """Returns a client of another model on the same connection."""
        other = object.__new__(Client)
        other.__dict__.update(self.__dict__, model=model)
        return other

    def http(self, path, body=None, *, method=None, headers=(), timeout=120):
        """Requests a path and returns the status and JSON (or text). Sends a dict as JSON, and bytes unchanged."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                status, content, kind = response.status, response.read(), response.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            with error:
                status, content, kind = error.code, error.read(), error.headers["Content-Type"]
        # The server writes strings unchanged, UTF-8 or not.
        text = content.decode("utf-8", "surrogateescape")
        return status, json.loads(text) if kind == "application/json" and text else text

    def rest(self, body, what=":predict"):
        """Returns the status and the JSON of a request to the model."""
        return self.http(f"/v1/models/{self.model}{what}", body)

    def predict(self, signature="", version=None, **inputs):
        """Returns the outputs of a Predict call as arrays."""
        request = predict_pb2.PredictRequest()
        self._address(request, signature, version)
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(proto(value))
        outputs = self.stub.Predict(request, 120.0).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    def classify(self, signature, rows):
        """Returns the labels and scores of a Classify call: a list of pairs for each row."""
        request = classification_pb2.ClassificationRequest()
        found = self._of_examples(request, self.stub.Classify, signature, rows).result.classifications
        return [[(each.label, each.score) for each in row.classes] for row in found]

    def regress(self, signature, rows):
        """Returns the values of a Regress call."""
        request = regression_pb2.RegressionRequest()
        found = self._of_examples(request, self.stub.Regress, signature, rows).result.regressions
        return [each.value for each in found]

    def _of_examples(self, request, call, signature, rows):
        self._address(request, signature)
        for row in rows:
            feature = request.input.example_list.examples.add().features.feature
            for name, text in row.items():
                feature[name].bytes_list.value.append(text if isinstance(text, bytes) else text.encode())
        return call(request, 120.0)

    def _address(self, request, signature, version=None):
        request.model_spec.name, request.model_spec.signature_name = self.model, signature
        if version is not None:
            request.model_spec.version.value = version

    def versions(self):
        """Returns the states of the model's versions by number."""
        status, found = self.http(f"/v1/models/{self.model}")
        assert status == 200, found
        return {int(each["version"]): each["state"] for each in found["model_version_status"]}

    def runs(self):
        """Returns how often the server has run a graph."""
        _, text = self.http(METRICS)
        return int(
            next(line for line in text.splitlines() if line.startswith(":tensorflow:core:graph_runs")).split()[1]
        )


def proto(value):
    """Converts a value to a `TensorProto`: strings to bytes, numbers to float32 or int32."""
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        array = np.array(value, object)
    return tf.make_tensor_proto(array.astype({"f": "float32", "i": "int32"}.get(array.dtype.kind, array.dtype)))


class Process(Client):
    """A client that also starts and stops its server process."""

    def start(self, command, log):
        self._process = subprocess.Popen(command, cwd=EXAMPLES, stdout=subprocess.PIPE, stderr=log, text=True)

    def is_alive(self):
        return self._process.poll() is None

    def imported(self):
        """Returns the modules that the server has imported."""
        self._process.send_signal(signal.SIGUSR1)
        return set(self._process.stdout.readline().split())

    def stop(self):
        self.close()
        self._process.terminate()
        self._process.communicate(timeout=60)
        return self._process.returncode


@contextlib.contextmanager
def server_process(*flags, model="model"):
    """Runs the contract server in a separate process and yields its client."""
    port, rest_port = free_ports()
    client = Process(port, rest_port, model)
    with tempfile.TemporaryFile("w+") as log, tempfile.NamedTemporaryFile("w") as monitoring:
        monitoring.write(MONITORING)
        monitoring.flush()
        flags = [f"--monitoring_config_file={monitoring.name}", *flags]

        def said():
            log.seek(0)
            return log.read()[-3000:]

        command = [sys.executable, "-c", PROGRAM, f"--port={port}", f"--rest_api_port={rest_port}", *flags]
        client.start(command, log)
        try:
            wait(lambda: not client.is_alive() or answers(client), 120)
            assert client.is_alive(), said()
            yield client
            assert client.is_alive(), said()
        finally:
            code = client.stop()
        assert code == 0, said()


def answers(client):
    try:
        return "AVAILABLE" in client.versions().values()
    except OSError:
        return False


def wait(condition, seconds=30):
    """Waits until a condition holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
