"""From a trained model to answers over HTTP: exports, serves, asks, rolls out a second version and rolls it back.

    python examples/serve.py
    docker compose -f examples/compose.yaml up              # then: TF Serving on the first line's export,
    python examples/serve.py --url http://localhost:8501    # ... and questions to it while it runs

The program fine-tunes a classifier of support questions (`examples/data/support_questions`) from MiniLM in two stages
and exports each as a version. Without `--url`, it starts `tensorflow_model_server` if that is installed, and otherwise
the test server in `examples/contract_server` (needs the extra `test`), which implements the same protocol. The client
is plain `urllib`, without TensorFlow or the tokenizer. Output goes to `runs/serve`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT, NAME = HERE.parent / "runs" / "serve", "support_questions"
BATCH_SIZE = 16
QUESTIONS = (
    "My tent should have been here on Monday, where is it?",
    "How do I get my money back for the jacket that doesn't fit?",
    "I can't log in any more, not even with a new password",
)
CONFIG = """\
model_config_list {{
  config {{
    name: "{name}"
    base_path: "{base_path}"
    model_platform: "tensorflow"{policy}
  }}
}}
"""
MONITORING = """\
# Of TF Serving: --monitoring_config_file=.../monitoring.config; what Prometheus reads, at the port of HTTP.
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""
DOCKER = """\
SERVE_FOLDER="{folder}" docker compose -f "{compose}" up
"""


# === The server's side ===


def write_config(file, base_path, version=None):
    """Writes which version to serve: the newest, or a given one. In one step, because the server may be reading."""
    policy = "" if version is None else f"\n    model_version_policy {{ specific {{ versions: {version} }} }}"
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(CONFIG.format(name=NAME, base_path=base_path, policy=policy), encoding="utf-8")
    os.replace(temporary, file)


@contextlib.contextmanager
def server(config, folder, log):
    """Starts a server on a model's directory and yields its URL."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    port, rest_port = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    command = [shutil.which("tensorflow_model_server")]
    if command == [None]:
        print("tensorflow_model_server is not installed: using the test server in examples/contract_server.")
        print("It implements TF Serving's protocol and is not TF Serving; it is slower, and not meant for production.")
        command = [sys.executable, str(HERE / "contract_server")]
    command += [f"--port={port}", f"--rest_api_port={rest_port}"]
    command += [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
    command += ["--enable_batching=true", f"--batching_parameters_file={folder / 'batching_parameters.txt'}"]
    command += ["--rest_api_num_threads=64", "--grpc_max_threads=64"]
    command += [f"--monitoring_config_file={folder / 'monitoring.config'}"]
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield f"http://localhost:{rest_port}"
    finally:
        process.terminate()
        process.wait()


# === The client's side, without TensorFlow ===


def get(url, body=None):
    """Returns the JSON response of a URL."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as response:
        return json.load(response)


def wait_for(url, version, seconds=120):
    """Waits until the given version answers, and no other."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            states = get(f"{url}/v1/models/{NAME}")["model_version_status"]
            if [state["version"] for state in states if state["state"] == "AVAILABLE"] == [str(version)]:
                return
        if time.monotonic() > end:
            raise SystemExit(f"version {version} did not answer at {url} within {seconds} s")
        time.sleep(0.2)


def ask(url, version):
    """Prints the label and score that the server returns for each question."""
    print(f"\nversion {version} answers:")
    found = get(f"{url}/v1/models/{NAME}:predict", {"instances": QUESTIONS})["predictions"]
    for question, answer in zip(QUESTIONS, found, strict=True):
        print(f"{answer['labels'][0]}\t{answer['scores'][0]:.3f}\t{question}")


# === All steps ===


def train(model, rows, epochs, test):
    """Trains for `epochs` more epochs; returns the scores on the test questions."""
    model.fit(rows["text"], rows["label"], batch_size=BATCH_SIZE, epochs=epochs, seed=0, verbose=2)
    found = tx.evaluation.classification(model, test["text"], test["label"])
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}


def main():
    """Trains, exports, serves, asks, rolls out and rolls back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="training epochs of each of the two versions")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--url", help="URL of a TF Serving that watches the output of an earlier run")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    folder = arguments.output.resolve() / NAME
    # In a container the directory has another path, the one in the exporter's models.config.
    config, base_path = folder / "local.config", folder
    if arguments.url:
        config, base_path = folder / "models.config", f"/models/{NAME}"
    if not arguments.url:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)

    rows, test = (tx.data.read(HERE / "data" / NAME / f"{name}.tsv") for name in ("train", "test"))
    labels = tx.data.labels(rows, "label")
    sizes = {"labels": labels, "sequence_length": arguments.sequence_length}
    model = tx.models.TextClassifier.from_preset(arguments.preset, **sizes)
    model.compile()
    metadata = {"preset": arguments.preset, "metrics": train(model, rows, arguments.epochs, test)}
    first = tx.export.describe(tx.export.saved_model(model, folder, metadata=metadata))
    write_config(config, base_path)
    (folder / "monitoring.config").write_text(MONITORING, encoding="utf-8")
    print(f"\nversion {first['version']}: {first['metadata']['metrics']}, in {first['path']}")
    print("\nTo run TF Serving itself on this directory:\n")
    print(DOCKER.format(folder=folder.parent, compose=HERE / "compose.yaml"))

    started = server(config, folder, arguments.output / "log")
    with contextlib.nullcontext(arguments.url) if arguments.url else started as url:
        wait_for(url, first["version"])
        ask(url, first["version"])

        metadata = {"preset": arguments.preset, "metrics": train(model, rows, arguments.epochs, test)}
        second = tx.export.describe(tx.export.saved_model(model, folder, metadata=metadata))
        print(f"\nversion {second['version']}: {second['metadata']['metrics']}; the server finds it by itself")
        wait_for(url, second["version"])
        ask(url, second["version"])

        print(f"\nback to version {first['version']}, by {config}")
        write_config(config, base_path, first["version"])
        wait_for(url, first["version"])
        ask(url, first["version"])


if __name__ == "__main__":
    main()
