"""Everything that the package writes: a write that fails leaves the old files unchanged, and URLs are errors."""

import errno
import json
import os
import pathlib
import stat
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny
from test_frozen_cache import stored

from tfxfer import callbacks, evaluation, export, freezing, models, search

ROOT = pathlib.Path(__file__).resolve().parent.parent


def index(texts):
    return search.SemanticIndex(None, texts, embeddings=np.eye(len(texts), 4))


def adapted(folder, seed):
    model = tiny.classifier(folder)
    freezing.add_lora(model, rank=2)
    for variable in model.backbone.lora_variables().values():
        variable.assign(np.random.default_rng(seed).normal(size=variable.shape))
    return model


def ran(losses):
    """A learning rate range test that has finished."""
    found = callbacks.LearningRateRange(1e-5, 1e-1, len(losses))
    found.rates, found.losses = np.geomspace(1e-5, 1e-1, len(losses)), np.array(losses, float)
    found.smoothed = found.losses
    return found


def report(folder, shift):
    y = [0, 1, 1, 0]
    evaluation.report_scores(folder, y, [0.1 + shift, 0.8, 0.9, 0.2], history={"loss": [2.0, 1.0 + shift]})


# What is written -> a function that writes one of two contents (`k` is 0 or 1) to a folder.
WRITERS = {
    "save_to_preset": lambda folder, k, model: model(k).save_to_preset(folder / "preset"),
    "SemanticIndex": lambda folder, k, model: index(["a", "b", "c"][: 2 + k]).save(folder / "index"),
    "save_adapters": lambda folder, k, model: freezing.save_adapters(model(k), folder / "a.safetensors", head=True),
    "report": lambda folder, k, model: report(folder / "report", k / 10),
    "report_entities": lambda folder, k, model: evaluation.report_entities(
        folder / "report", [["B-x", "I-x"]], [["B-x", "OI"[k] + "-x" * k]]
    ),
    "projector": lambda folder, k, model: evaluation.projector(folder / "logs", np.eye(3) * (k + 1), ["a", "b", "c"]),
    "plot": lambda folder, k, model: ran([3, 2 - k, 1, 2]).plot(folder / "rates.svg"),
    "store": lambda folder, k, model: stored(folder, "key", k),
}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def modes(folder):
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


class Twice:
    """Two models with adapters, built on first use."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def __call__(self, k):
        if k not in self._made:
            self._made[k] = adapted(self._folder, k)
        return self._made[k]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Twice(tmp_path_factory.mktemp("vocabulary"))


@pytest.mark.parametrize("name", ["replace", "fsync", "link"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_failure_at_any_step_leaves_the_old_one_and_nothing_else(writer, name, model, tmp_path, monkeypatch):
    write = WRITERS[writer]
    before = os.umask(0o022)
    write(tmp_path, 0, model)
    os.umask(before)
    assert modes(tmp_path) <= {0o644, 0o755}
    old, failed = contents(tmp_path), 0
    for n in range(1, 30):
        calls, function = [], getattr(os, name)

        def called(*arguments, calls=calls, function=function, n=n, **kwargs):
            calls.append(arguments)
            if len(calls) >= n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(os, name, called)
            try:
                write(tmp_path, 1, model)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failed += 1
                # The features and their description are two files; without the second, the first is incomplete.
                assert contents(tmp_path) == old or writer == "store"
                continue
        break
    assert failed or name != "replace"
    found = contents(tmp_path)
    assert set(found) == set(old) or writer == "SemanticIndex"
    assert found != old and not [file for file in found if ".part" in file or ".commit" in file]


FULL = """
    import json, os, pathlib, resource, sys
    sys.path.insert(0, {tests!r})
    import test_writes as writes

    folder, found = pathlib.Path(sys.argv[1]), {{}}
    (folder / "vocabulary").mkdir()
    model = writes.Twice(folder / "vocabulary")
    for name, write in writes.WRITERS.items():
        base = folder / name
        base.mkdir()
        write(base, 0, model)
        before = writes.contents(base)
        for limit in (0, 100, 500, 2_000, 8_000, 20_000, 50_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write(base, 1, model)
                said = "written"
            except Exception as error:
                said = type(error).__name__
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            after = writes.contents(base)
            kept = {{file: after.get(file) for file in before}} == before and len(after) == len(before)
            found.setdefault(name, []).append([limit, said, kept])
            if said == "written":
                break
        else:
            write(base, 1, model)
        found[name].append(sorted(after))
    print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits")
def test_a_disk_that_takes_no_more_bytes_leaves_the_old_one(tmp_path):
    # A limit on file size makes every write fail with an error, including writes in C++ and Rust.
    program = textwrap.dedent(FULL.format(tests=str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(WRITERS)
    for name, (*rows, files) in found.items():
        failed = [row for row in rows if row[1] != "written"]
        assert failed, name
        assert all(kept for _, _, kept in failed) or name == "store", (name, rows)
        assert not [file for file in files if ".part" in file or ".commit" in file], (name, files)


def test_a_model_that_is_saved_over_another_is_loaded_and_other_files_stay(tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "README.md").write_text("mine")
    first, second = tiny.classifier(tmp_path), tiny.classifier(tmp_path, labels=["a", "b"])
    second.backbone.set_weights([weight + 1 for weight in second.backbone.get_weights()])
    for saved in (first, second):
        saved.save_to_preset(str(tmp_path / "preset"))
        again = keras.saving.load_model(tmp_path / "preset" / "model.keras")
        assert again.labels == saved.labels
        for here, there in zip(again.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(here, there)
    assert sorted(os.listdir(tmp_path / "preset")) == ["README.md", "model.keras", "tfxfer.json"]


# === Exports ===


def test_an_export_that_fails_at_its_last_steps_leaves_the_versions_and_files_before(tmp_path, monkeypatch):
    embedder = tiny.embedder(tmp_path)
    base = tmp_path / "base"
    export.saved_model(embedder, base)
    before = contents(base)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(os, name, full)
            export.saved_model(embedder, base)
        assert contents(base) == before and sorted(os.listdir(base)) == sorted(
            ["1", "README.md", "batching_parameters.txt", "check.py", "models.config"]
        )


# === URLs ===

URLS = {
    "save_to_preset": ("preset_dir", lambda url, model: model(0).save_to_preset(url)),
    "SemanticIndex.save": ("folder", lambda url, model: index(["a", "b"]).save(url)),
    "SemanticIndex.load": ("folder", lambda url, model: search.SemanticIndex.load(url, None)),
    "saved_model": ("folder", lambda url, model: export.saved_model(model(0), url)),
    "saved_model of an index": (
        "index",
        lambda url, model: export.saved_model(
            models.TextEmbedder(model(0).backbone, model(0).preprocessor), "base", index=url
        ),
    ),
    "onnx": ("folder", lambda url, model: export.onnx(model(0), url)),
    "litert": ("folder", lambda url, model: export.litert(model(0), url)),
    "describe": ("folder", lambda url, model: export.describe(url)),
    "save_adapters": ("path", lambda url, model: freezing.save_adapters(model(0), url)),
    "load_adapters": ("path", lambda url, model: freezing.load_adapters(model(0), url)),
    "AboveFrozen": ("folder", lambda url, model: freezing.AboveFrozen(model(0), folder=url)),
    "report": ("folder", lambda url, model: evaluation.report(url, history={"loss": [1.0]})),
    "report_scores": ("folder", lambda url, model: report(url, 0)),
    "report_entities": ("folder", lambda url, model: evaluation.report_entities(url, [["O"]], [["O"]])),
    "projector": ("folder", lambda url, model: evaluation.projector(url, np.eye(2), ["a", "b"])),
    "Projector": ("folder", lambda url, model: callbacks.Projector(url, ["a", "b"])),
    "Resume": ("folder", lambda url, model: callbacks.Resume(url)),
    "plot": ("path", lambda url, model: ran([3, 2, 1]).plot(url)),
}


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://bucket/x", pathlib.Path("gs://bucket/x")])
@pytest.mark.parametrize("call", URLS)
def test_a_url_is_refused_before_anything_is_made(call, url, model, tmp_path, monkeypatch):
    model(0)
    monkeypatch.chdir(tmp_path)
    argument, run = URLS[call]
    with pytest.raises(ValueError, match=rf"argument `{argument}`.*local disk.*copy it with.*(gcloud|aws)"):
        run(url, model)
    assert not [path for path in tmp_path.rglob("*") if path.name != "base"]


def test_a_preset_can_be_saved_where_the_process_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(0).save_to_preset(".")
    model(1).save_to_preset(".")
    again = keras.saving.load_model("model.keras")
    np.testing.assert_array_equal(again.get_weights()[0], model(1).get_weights()[0])
    found = os.listdir(tmp_path)
    assert {"model.keras", "tfxfer.json"} <= set(found) and not [name for name in found if name.startswith(".")]
