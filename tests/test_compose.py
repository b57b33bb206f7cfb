"""`examples/compose.yaml` against TF Serving's documented flags and what `examples/serve.py` writes.

The tests do not need Docker: a test server starts with the file's command line.
"""

import importlib.util
import pathlib
import subprocess
import sys

import pytest
import tiny
import yaml

from tfxfer import models

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
# https://www.tensorflow.org/tfx/serving/serving_config, sections "Model Server", "Monitoring", "Batching Configuration"
# and "Miscellaneous Flags", as of 2024; the numbers of threads are in the server's main.cc.
DOCUMENTED = {
    "allow_version_labels_for_unavailable_models",
    "batching_parameters_file",
    "enable_batching",
    "enable_model_warmup",
    "file_system_poll_wait_seconds",
    "grpc_max_threads",
    "model_base_path",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "model_name",
    "monitoring_config_file",
    "port",
    "rest_api_num_threads",
    "rest_api_port",
    "rest_api_timeout_in_ms",
}


@pytest.fixture(scope="module")
def service():
    """The only service of the file."""
    found = yaml.safe_load((EXAMPLES / "compose.yaml").read_text(encoding="utf-8"))
    assert list(found) == ["services"]
    [service] = found["services"].values()
    return service


@pytest.fixture(scope="module")
def flags(service):
    """The flags by name."""
    assert all(each.startswith("--") and each.count("=") == 1 for each in service["command"])
    return dict(each.removeprefix("--").split("=") for each in service["command"])


@pytest.fixture(scope="module")
def serve():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("serve", EXAMPLES / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mounted(service, folder=None):
    """The folder on the host and its path in the container; `folder` is the value of SERVE_FOLDER."""
    [volume] = service["volumes"]
    source, target, mode = volume.rsplit(":", 2)
    assert mode == "ro"
    variable, rest = source.removeprefix("${").split("}")
    name, default = variable.split(":-")
    assert name == "SERVE_FOLDER"
    return (EXAMPLES / f"{folder or default}{rest}").resolve(), pathlib.PurePosixPath(target)


def test_it_starts_the_server_of_the_image_with_documented_flags(service, flags):
    assert set(service) == {"image", "entrypoint", "command", "ports", "volumes"}
    assert service["image"].split(":")[0] == "tensorflow/serving"
    assert service["entrypoint"] == "tensorflow_model_server"
    assert len(flags) == len(service["command"])
    assert set(flags) <= DOCUMENTED
    assert service["ports"] == [f"{flags[name]}:{flags[name]}" for name in ("port", "rest_api_port")]


def test_it_mounts_the_folder_that_the_example_writes(service, flags, serve):
    source, target = mounted(service)
    assert source == serve.OUTPUT / serve.NAME
    assert str(target) == f"/models/{serve.NAME}"
    files = [pathlib.PurePosixPath(value) for name, value in flags.items() if name.endswith("_file")]
    assert {file.parent for file in files} == {target}


@pytest.mark.slow
def test_the_stand_in_answers_by_the_same_command_from_what_the_example_wrote(service, flags, serve, tmp_path):
    clients = pytest.importorskip("clients", reason="no grpcio or tensorflow-serving-api")
    (tmp_path / "files").mkdir()
    embedder = models.TextEmbedder(tiny.backbone(num_layers=2), tiny.preprocessor(tmp_path / "files"))
    embedder.save_to_preset(tmp_path / "preset")
    output = tmp_path / "serve"
    command = [sys.executable, EXAMPLES / "serve.py", "--preset", tmp_path / "preset", "--output", output]
    done = subprocess.run([*command, "--sequence-length=32", "--epochs=1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    source, target = mounted(service, output)
    # The container mounts the folder at `target`; without a container, it keeps its path on the host.
    config = source / "models.config"
    assert f'base_path: "{target}"' in config.read_text(encoding="utf-8")
    config.write_text(config.read_text(encoding="utf-8").replace(str(target), str(source)), encoding="utf-8")
    given = {name: value for name, value in flags.items() if not name.endswith("port")}
    given = [f"--{name}={value.replace(str(target), str(source))}" for name, value in given.items()]
    with clients.server_process(*given, model=serve.NAME) as client:
        assert client.versions() == {2: "AVAILABLE"}
        status, found = client.rest({"instances": list(serve.QUESTIONS)})
        assert status == 200 and len(found["predictions"]) == len(serve.QUESTIONS)
        assert client.runs() > 0
