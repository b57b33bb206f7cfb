"""Templates of the files that `recipes` writes next to a SavedModel; `<<name>>` and the like are placeholders."""

_README = """\
# Running <<name>> on other servers

Written by `tfxfer.export.recipes`. Edit the files as you need: they are not overwritten. All of them serve the folder
above; its newest version was <<version>> when this was written.

The image is pinned: `<<image>>`. A server needs TF Text's operations, which the standard `tensorflow/serving` has.
TF Serving's C++ core of December 2025 on TensorFlow 2.21 has run exports, and they load in TensorFlow 2.12.1 with TF
Text 2.12.1.

| file | use |
|---|---|
| `refuse_empty.py` | `python refuse_empty.py --listen 8080 --server http://localhost:8501` |
| `compose.yaml` | `docker compose -f compose.yaml up`; send requests to port 8080 |
| `monitoring.config` | metrics for Prometheus at `/monitoring/prometheus/metrics` of port 8501 |
| `kubernetes.yaml` | put the folder above on the volume `<<dns_name>>`, then `kubectl apply -f kubernetes.yaml` |
| `kserve.yaml` | copy the version folders to `<<storage_uri>>`, then `kubectl apply -f kserve.yaml` |
| `Dockerfile` | `docker build -f recipes/Dockerfile -t <<dns_name>> .` in the folder above |
| `vertex.sh` | uploads that image's model to Vertex AI; set the variables at its top |
| `sagemaker.py` | `python sagemaker.py` writes `model.tar.gz` for SageMaker's TensorFlow inference containers |
| `fastapi_app.py` | `pip install fastapi uvicorn tensorflow tensorflow-text`; `uvicorn fastapi_app:app` |
| `bento_service.py` | `pip install bentoml tensorflow tensorflow-text`; `bentoml serve bento_service:<<class_name>>` |

Two things to know:

- With batching, TF Serving never answers a request without rows, and a few of them stop its REST API. `compose.yaml`
  and `kubernetes.yaml` expose only `refuse_empty.py` to clients. gRPC does not go through it: restrict port 8500 to
  clients that check their rows.
- `GET /v1/models/<<name>>` answers with 200 once the server has loaded a version; the readiness probes use it.
"""

_REFUSE_EMPTY = '''\
"""A proxy in front of TF Serving's REST API that answers requests without rows itself, with status 400.

With batching, TF Serving never answers such a request, and a few of them stop its REST API for all models. The proxy
also rejects a body that is not JSON or repeats a name in an object, as the server might read it differently.

    python refuse_empty.py --listen 8080 --server http://localhost:8501

It needs only Python's standard library. gRPC does not go through it.
"""

import argparse
import http.client
import http.server
import json
import urllib.parse
import zlib

LARGEST = 64 * 2**20  # bytes of a body, decompressed


def once(pairs):
    """Returns an object as a dict; raises ValueError if a name appears twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice in an object")
    return found


def checked(body, packed):
    """Returns the body, decompressed; raises ValueError if it has no rows or cannot be read."""
    if packed:
        unpacker = zlib.decompressobj(31)
        try:
            body = unpacker.decompress(body, LARGEST)
        except zlib.error as error:
            raise ValueError(f"not gzip: {error}") from error
        if not unpacker.eof:
            raise ValueError("the body is too large or incomplete")
    request = json.loads(body, object_pairs_hook=once)
    if not isinstance(request, dict):
        raise ValueError("the body is not a JSON object")
    for name in ("inputs", "instances", "examples"):
        value = request.get(name)
        columns = value.values() if isinstance(value, dict) else [value]
        if any(column == [] for column in columns):
            raise ValueError(f"{name} has no rows")
    return body


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    upstream = None  # the connection to the server; it stays open as long as this one

    def do_GET(self):
        self.forward(None)

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            self.close_connection = True
            return self.answer(413 if length.isdigit() else 411, json.dumps({"error": "Content-Length"}).encode())
        body = self.rfile.read(int(length))
        try:
            body = checked(body, self.headers.get("Content-Encoding", "").lower() == "gzip")
        except (ValueError, RecursionError) as error:
            return self.answer(400, json.dumps({"error": f"Refused: {error}"}).encode())
        return self.forward(body)

    def forward(self, body):
        """Forwards the request to the server and returns its answer to the client."""
        for attempt in range(2):
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection(self.server.upstream, timeout=self.server.timeout_s)
            try:
                headers = {"Content-Type": "application/json"} if body is not None else {}
                self.upstream.request(self.command, self.path, body, headers)
                response = self.upstream.getresponse()
                return self.answer(response.status, response.read(), response.headers.get("Content-Type"))
            except (OSError, http.client.HTTPException) as error:
                self.disconnect()  # the server may have closed the connection: try once more
                if attempt or isinstance(error, TimeoutError):
                    return self.answer(502, json.dumps({"error": f"No answer: {error}"}).encode())

    def disconnect(self):
        """Closes the connection to the server."""
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None

    def finish(self):
        self.disconnect()
        super().finish()

    def answer(self, status, content, kind="application/json"):
        """Answers the client."""
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Logs no requests."""


def start(port, upstream, timeout_s=60.0, host=""):
    """Returns the proxy, a server with `serve_forever` and `shutdown`."""
    made = http.server.ThreadingHTTPServer((host, port), Handler)
    made.daemon_threads = True
    made.upstream, made.timeout_s = urllib.parse.urlsplit(upstream).netloc, timeout_s
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", type=int, default=8080, help="port")
    parser.add_argument("--server", default="http://localhost:8501", help="TF Serving's REST API")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for an answer")
    given = parser.parse_args()
    start(given.listen, given.server, given.timeout).serve_forever()
'''

_COMPOSE = """\
# TF Serving with <<name>>, reached through the proxy that rejects requests without rows. In this folder:
#   docker compose -f compose.yaml up
services:
  tensorflow_serving:
    image: <<image>>
    entrypoint: tensorflow_model_server # the image's default adds a model name, which --model_config_file overrides
    command:
      - --port=8500
      - --rest_api_port=8501
      - --model_config_file=/models/<<name>>/<<models>>
      - --model_config_file_poll_wait_seconds=60
      - --enable_batching=true
      - --batching_parameters_file=/models/<<name>>/<<batching>>
      - --rest_api_num_threads=64 # one waits for each request; with four per core, the default, batches are small
      - --grpc_max_threads=64
      - --monitoring_config_file=/models/<<name>>/recipes/monitoring.config
    expose:
      - "8500" # gRPC, only for the services in this file: no proxy checks its requests
      - "8501" # HTTP
    volumes:
      - ..:/models/<<name>>:ro
    restart: unless-stopped
  refuse_empty:
    image: python:3.13-slim
    command: [python, /refuse_empty.py, --listen=8080, "--server=http://tensorflow_serving:8501"]
    ports:
      - "8080:8080"
    volumes:
      - ./refuse_empty.py:/refuse_empty.py:ro
    depends_on:
      - tensorflow_serving
    restart: unless-stopped
"""

_MONITORING = """\
# For TF Serving: --monitoring_config_file=.../monitoring.config
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""

_KUBERNETES = """\
# TF Serving with <<name>>: the volume claim `<<dns_name>>` holds the model's base folder, which contains this folder.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: <<dns_name>>
  labels: {app: <<dns_name>>}
spec:
  replicas: 2
  selector:
    matchLabels: {app: <<dns_name>>}
  template:
    metadata:
      labels: {app: <<dns_name>>}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8501"
        prometheus.io/path: /monitoring/prometheus/metrics
    spec:
      containers:
        - name: tensorflow-serving
          image: <<image>>
          command: [tensorflow_model_server]
          args:
            - --port=8500
            - --rest_api_port=8501
            - --model_config_file=/models/<<name>>/<<models>>
            - --model_config_file_poll_wait_seconds=60
            - --enable_batching=true
            - --batching_parameters_file=/models/<<name>>/<<batching>>
            - --rest_api_num_threads=64 # one waits for each request; with four per core, the default, batches are small
            - --grpc_max_threads=64
            - --monitoring_config_file=/models/<<name>>/recipes/monitoring.config
          ports:
            - {name: grpc, containerPort: 8500}
            - {name: rest, containerPort: 8501}
          # Loading runs the warm-up requests, so the first probe may take a while to succeed.
          startupProbe:
            httpGet: {path: /v1/models/<<name>>, port: rest}
            periodSeconds: 5
            failureThreshold: 120
          readinessProbe:
            httpGet: {path: /v1/models/<<name>>, port: rest}
            periodSeconds: 10
            timeoutSeconds: 5
          livenessProbe:
            httpGet: {path: /v1/models/<<name>>, port: rest}
            periodSeconds: 20
            timeoutSeconds: 10
            failureThreshold: 3
          resources:
            requests: {cpu: "1", memory: 2Gi}
            limits: {memory: 4Gi}
          volumeMounts:
            - {name: models, mountPath: /models/<<name>>, readOnly: true}
        - name: refuse-empty
          image: python:3.13-slim
          command: [python, /models/<<name>>/recipes/refuse_empty.py]
          args: [--listen=8080, "--server=http://localhost:8501"]
          ports:
            - {name: http, containerPort: 8080}
          resources:
            requests: {cpu: 100m, memory: 64Mi}
            limits: {memory: 512Mi}
          volumeMounts:
            - {name: models, mountPath: /models/<<name>>, readOnly: true}
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: <<dns_name>>, readOnly: true}
---
apiVersion: v1
kind: Service
metadata:
  name: <<dns_name>>
spec:
  selector: {app: <<dns_name>>}
  ports:
    - {name: http, port: 80, targetPort: http}
"""

_KSERVE = """\
# KServe's TensorFlow runtime, which runs TF Serving; <<storage_uri>> holds the version folders (1, 2, ...).
# It runs without batching, so requests without rows are answered.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: <<dns_name>>
spec:
  predictor:
    model:
      modelFormat: {name: tensorflow}
      protocolVersion: v1
      storageUri: <<storage_uri>>
      image: <<image>>
      resources:
        requests: {cpu: "1", memory: 2Gi}
        limits: {cpu: "2", memory: 4Gi}
"""

_DOCKERFILE = """\
# An image that contains the model. In the model's folder: docker build -f recipes/Dockerfile -t <<dns_name>> .
FROM <<image>>
COPY . /models/<<name>>
ENV MODEL_NAME=<<name>>
EXPOSE 8500 8501
"""

_VERTEX = """\
#!/bin/sh
# Uploads the model to Vertex AI as a custom container, which answers {"instances": [...]} with {"predictions": [...]}.
# It builds the image of the Dockerfile next to this file, which runs without batching.
set -eu
: "${PROJECT:?the project}" "${REGION:?for example europe-west4}" "${REPOSITORY:?in Artifact Registry}"
IMAGE="$REGION-docker.pkg.dev/$PROJECT/$REPOSITORY/<<dns_name>>:<<version>>"
docker build -f "$(dirname "$0")/Dockerfile" -t "$IMAGE" "$(dirname "$0")/.."
docker push "$IMAGE"
gcloud ai models upload \\
  --project="$PROJECT" \\
  --region="$REGION" \\
  --display-name=<<dns_name>> \\
  --container-image-uri="$IMAGE" \\
  --container-ports=8501 \\
  --container-health-route=/v1/models/<<name>> \\
  --container-predict-route=/v1/models/<<name>>:predict
"""

_SAGEMAKER = '''\
"""Packs the newest version for SageMaker's TensorFlow inference containers: `model.tar.gz`, with <<name>>/<version>/.

    python sagemaker.py [model.tar.gz]

Upload it to S3 and pass it as the model data of a `sagemaker.tensorflow.TensorFlowModel`. Batching is off there unless
the environment variable SAGEMAKER_TFS_ENABLE_BATCHING turns it on.
"""

import pathlib
import sys
import tarfile

FOLDER = pathlib.Path(__file__).resolve().parent.parent
NEWEST = max((path for path in FOLDER.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))

if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "model.tar.gz"
    with tarfile.open(target, "w:gz") as file:
        file.add(NEWEST, f"<<name>>/{NEWEST.name}")
    print(target)
'''

_FASTAPI = '''\
"""<<name>> with FastAPI: `uvicorn fastapi_app:app`, then POST the rows to /predict, a list of texts for each input.

The model is the newest version in the folder above, or the folder in the environment variable MODEL.
"""

import os
import pathlib
from typing import Annotated

import fastapi
import pydantic
import tensorflow as tf
import tensorflow_text  # registers the tokenizer's operations

FOLDERS = [path for path in pathlib.Path(__file__).resolve().parent.parent.iterdir() if path.name.isdigit()]
MODEL = os.environ.get("MODEL") or str(max(FOLDERS, key=lambda path: int(path.name)))
SERVED = tf.saved_model.load(MODEL)
ANSWER = SERVED.signatures["serving_default"]
Texts = Annotated[list[str], pydantic.Field(min_length=1, max_length=1024)]
app = fastapi.FastAPI(title="<<name>>")


class Rows(pydantic.BaseModel):
    """The inputs of the model, lists of equal length."""

<<fields>>


@app.get("/health")
def health():
    return {"model": MODEL}


@app.post("/predict")
def predict(rows: Rows):
    given = {name: getattr(rows, name) for name in <<inputs>>}
    if len({len(texts) for texts in given.values()}) > 1:
        raise fastapi.HTTPException(422, "inputs of different lengths")
    found = ANSWER(**{name: tf.constant(texts) for name, texts in given.items()})
    return {name: plain(value.numpy().tolist()) for name, value in found.items()}


def plain(value):
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
'''

_BENTO = '''\
"""<<name>> as a BentoML service: `bentoml serve bento_service:<<class_name>>`."""

import pathlib

import bentoml
import tensorflow as tf
import tensorflow_text  # registers the tokenizer's operations


@bentoml.service(resources={"cpu": "2"}, traffic={"timeout": 30})
class <<class_name>>:
    """Runs the newest version in the folder above on lists of texts."""

    def __init__(self) -> None:
        folders = [path for path in pathlib.Path(__file__).resolve().parent.parent.iterdir() if path.name.isdigit()]
        self.served = tf.saved_model.load(str(max(folders, key=lambda path: int(path.name))))
        self.answer = self.served.signatures["serving_default"]

    @bentoml.api
    def predict(self, <<arguments>>) -> dict:
        given = {<<given>>}
        found = self.answer(**{name: tf.constant(texts, tf.string) for name, texts in given.items()})
        return {name: plain(value.numpy().tolist()) for name, value in found.items()}


def plain(value):
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
'''

FILES = {
    "README.md": _README,
    "refuse_empty.py": _REFUSE_EMPTY,
    "compose.yaml": _COMPOSE,
    "monitoring.config": _MONITORING,
    "kubernetes.yaml": _KUBERNETES,
    "kserve.yaml": _KSERVE,
    "Dockerfile": _DOCKERFILE,
    "vertex.sh": _VERTEX,
    "sagemaker.py": _SAGEMAKER,
    "fastapi_app.py": _FASTAPI,
    "bento_service.py": _BENTO,
}
