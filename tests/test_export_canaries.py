"""Canary requests for a server, and reference statistics, in an export."""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return tiny.classifier(folder)


@pytest.fixture(scope="module")
def base(folder, classifier):
    """The export of a classifier with a reference."""
    reference = tx.evaluation.reference(classifier, tiny.TEXTS)
    path = tx.export.saved_model(classifier, folder / "tags", examples=tiny.TEXTS[:3], reference=reference)
    return pathlib.Path(path).parent


@pytest.fixture(scope="module")
def served(base):
    return tf.saved_model.load(base / "1").signatures


@pytest.fixture(scope="module")
def canaries(base):
    return json.loads((base / "1" / "assets.extra" / "canaries.json").read_text(encoding="utf-8"))


def test_an_export_holds_texts_with_the_numbers_of_the_model(classifier, canaries):
    assert set(canaries) == {"classify"}
    found = canaries["classify"]
    assert found["instances"] == [{"text": text} for text in tiny.TEXTS[:3]]
    probabilities = classifier.classify(tiny.TEXTS[:3]).probabilities
    np.testing.assert_allclose(found["outputs"]["probabilities"], probabilities, rtol=1e-5)
    assert set(found["outputs"]) == {"scores", "probabilities"}  # the labels follow from them


def test_the_answers_are_those_of_the_graph_that_was_written(served, canaries):
    found = served["classify"](text=tf.constant(tiny.TEXTS[:3]))
    for name, values in canaries["classify"]["outputs"].items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


def test_a_reference_comes_back_from_an_export(base, classifier):
    expected = tx.evaluation.reference(classifier, tiny.TEXTS)
    assert tx.export.reference(base) == expected == tx.export.reference(base / "1")
    assert not tx.evaluation.drift(tx.export.reference(base), tiny.TEXTS, model=classifier)["drifted"]
    page = (base / "README.md").read_text(encoding="utf-8")
    assert "python3 check.py http://localhost:8501" in page and "reference.json` describes 8 typical texts" in page
    file = base / "1" / "assets.extra" / "reference.json"
    text = file.read_text()
    try:
        file.write_text(text[:50])
        with pytest.raises(ValueError, match=r"reference\.json"):
            tx.export.reference(base)
    finally:
        file.write_text(text)


def test_a_reference_of_another_model_is_an_error(folder, classifier):
    reference = tx.evaluation.reference(tiny.embedder(folder), tiny.TEXTS)
    for wrong in (reference, {"rows": 3}):
        with pytest.raises(ValueError, match="`reference`"):
            tx.export.saved_model(classifier, folder / "wrong", reference=wrong)
    assert not (folder / "wrong").exists()
    with pytest.raises(ValueError, match=r"reference\.json.*reference=tx\.evaluation\.reference"):
        tx.export.reference(folder)


class Server:
    """Answers REST calls like the newest version, without a server, by replacing `urllib`'s `urlopen`."""

    def __init__(self, monkeypatch, change=lambda answer: answer):
        self.asked, self.served = [], {}

        def urlopen(request, timeout):
            self.asked.append(request.full_url)
            body = json.loads(request.data)
            rows = body["instances"]
            signature = self.served[body["signature_name"]]
            found = signature(**{key: tf.constant([row[key] for row in rows]) for key in rows[0]})
            values = {key: value.numpy().tolist() for key, value in found.items()}
            [*columns] = values
            predictions = [
                {key: values[key][i] for key in columns} if len(columns) > 1 else values[columns[0]][i]
                for i in range(len(rows))
            ]
            text = json.dumps(change({"predictions": predictions}), default=lambda value: value.decode())
            return io.BytesIO(text.encode())

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_the_newest_version_is_asked_and_compared(base, served, monkeypatch):
    server = Server(monkeypatch)
    server.served = served
    found = tx.export.check(base)
    assert found["ok"] and found["version"] == 1 and found["signatures"]["classify"]["error"] is None
    assert found["signatures"]["classify"]["largest_difference"] < 1e-5
    assert server.asked == ["http://localhost:8501/v1/models/tags/versions/1:predict"]


@pytest.mark.slow
def test_every_signature_is_asked(folder, monkeypatch):
    server = Server(monkeypatch)
    embedder = tiny.embedder(folder, prompts={"query": "where is "})
    path = tx.export.saved_model(embedder, folder / "faq", index={"texts": tiny.TEXTS}, max_k=4)
    server.served = tf.saved_model.load(path).signatures
    found = tx.export.check(folder / "faq", "http://host:1/", name="other", version=1)
    assert found["ok"] and set(found["signatures"]) == {"embed", "embed_query", "similarity", "rank", "search"}
    assert server.asked[-1] == "http://host:1/v1/models/other/versions/1:predict"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda answer: {
                "predictions": [{**row, "scores": [s + 0.01 for s in row["scores"]]} for row in answer["predictions"]]
            },
            "differs by 0.01",
        ),
        (lambda answer: {"predictions": answer["predictions"][1:]}, "2 answers to 3 rows"),
        (
            lambda answer: {"predictions": [{"scores": [1.0]} for _ in answer["predictions"]]},
            "1 numbers in 'scores', not 3",
        ),
        (lambda answer: {"predictions": [{} for _ in answer["predictions"]]}, "None instead of a number"),
        (lambda answer: {"error": "no"}, "the server answers"),
    ],
)
def test_what_differs_is_told(base, served, monkeypatch, change, message):
    server = Server(monkeypatch, change)
    server.served = served
    found = tx.export.check(base)
    assert not found["ok"] and message in found["signatures"]["classify"]["error"]


def test_a_server_that_is_not_there_and_a_folder_without_canaries(base, tmp_path):
    found = tx.export.check(base, "http://localhost:9", timeout=2)
    assert not found["ok"] and found["signatures"]["classify"]["largest_difference"] is None
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="`folder`"):
            tx.export.check(folder)


@pytest.mark.slow
def test_the_program_beside_an_export_asks_a_server(base, tmp_path):
    pytest.importorskip("grpc", reason="no grpcio")
    clients = pytest.importorskip("clients", reason="no tensorflow-serving-api")
    model = tmp_path / "tags"
    shutil.copytree(base, model)
    with clients.server_process("--model_name=tags", f"--model_base_path={model}", model="tags") as client:
        ask = [sys.executable, "-I", "-S", model / "check.py", client.url]
        found = subprocess.run([*ask], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        assert found.stdout == "classify: ok\nversion 1: ok\n"
        file = model / "1" / "assets.extra" / "canaries.json"
        wrong = json.loads(file.read_text())
        wrong["classify"]["outputs"]["probabilities"][0][0] += 0.5
        file.write_text(json.dumps(wrong))
        found = subprocess.run([*ask], capture_output=True, text=True, check=False)
        assert found.returncode == 1 and "classify: differs by 0.5" in found.stdout
