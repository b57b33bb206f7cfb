"""Exports in servers and compiled clients, which run in processes that never import tfxfer.

`contract_server` replaces TF Serving; its docstring says what it imitates.
"""

import concurrent.futures
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
import tiny
from google.protobuf import text_format

grpc = pytest.importorskip("grpc", reason="no grpcio")
configs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2", reason="no tensorflow-serving-api")

import clients  # noqa: E402
import operations  # noqa: E402

from tfxfer import export, models  # noqa: E402

# Every kind of model needs servers and compilers in separate processes.
pytestmark = pytest.mark.slow

TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "\x00 money", "[MASK] card [SEP]", "card " * 100, "שלום card"]
OTHERS = TEXTS[3:] + TEXTS[:3]
CORPUS = ["the card", "a loan", "the bank", "good", "money was lost"]
PROMPTS = {"query": "where is ", "document": "the "}
PAIRS, LABELS = {"text_a": TEXTS, "text_b": OTHERS}, ["card", "loan", "other"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def trained(folder):
    """Models that together have all signatures."""
    parts = tiny.backbone(), tiny.preprocessor(folder)
    embedder = models.TextEmbedder(*parts, prompts=PROMPTS)
    made = {
        "entailment": models.SiameseClassifier(embedder, labels=["same", "other"], features=("u", "v", "u*v")),
        "tags": models.TextClassifier(*parts, labels=LABELS),
        "score": models.TextRegressor(*parts),
        "names": models.TokenTagger(*parts, tags=tiny.TAGS, head="crf"),
    }
    return {name: spread(model) for name, model in made.items()}


def spread(model, seed=0):
    """Makes the weights of the head large enough for answers to differ between texts."""
    rng = np.random.default_rng(seed)
    for layer in model.layer_groups()["head"]:
        layer.set_weights([weight + rng.normal(0, 1, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def bases(trained, folder):
    """The models' base directories."""
    arguments = {"entailment": {"index": {"texts": CORPUS}, "max_k": 4}, "score": {"pairs": True}}
    paths = [export.saved_model(model, folder / name, **arguments.get(name, {})) for name, model in trained.items()]
    return {name: pathlib.Path(path).parent for name, path in zip(trained, paths, strict=True)}


@pytest.fixture(scope="module")
def server(bases, folder):
    """A server that uses the files next to the versions: each `models.config`, and a batching configuration."""
    merged = configs.ModelServerConfig()
    for name, base in bases.items():
        config = text_format.Parse((base / "models.config").read_text(), configs.ModelServerConfig())
        assert config.model_config_list.config[0].base_path == f"/models/{name}"
        config.model_config_list.config[0].base_path = str(base)  # instead of the mount of `docker run`
        merged.MergeFrom(config)
    (folder / "models.config").write_text(text_format.MessageToString(merged))
    with clients.server_process(
        f"--model_config_file={folder}/models.config",
        "--enable_batching=true",
        f"--batching_parameters_file={bases['tags']}/batching_parameters.txt",
        "--file_system_poll_wait_seconds=0.2",
        model="tags",
    ) as client:
        yield client


@pytest.fixture(scope="module")
def answers(trained):
    """Maps (model, signature) to the inputs and to the outputs of the model in Python."""
    entailment, tags, score, names = trained.values()
    embedder = entailment.embedder
    queries = embedder.encode(TEXTS, prompt_name="query")
    documents = embedder.encode(OTHERS, prompt_name="document")
    embedding = {"embedding": embedder.encode(TEXTS)}
    values = score.predict((TEXTS, OTHERS), verbose=0)
    found = {
        ("entailment", "serving_default"): (PAIRS, classes(entailment, (TEXTS, OTHERS))),
        ("entailment", "classify"): (PAIRS, classes(entailment, (TEXTS, OTHERS))),
        ("entailment", "embed"): ({"text": TEXTS}, embedding),
        ("entailment", "embed_query"): ({"text": TEXTS}, {"embedding": queries}),
        ("entailment", "similarity"): (
            PAIRS,
            {"similarity": np.sum(embedding["embedding"] * embedder.encode(OTHERS), 1)},
        ),
        ("entailment", "rank"): ({"query": TEXTS, "documents": OTHERS}, {"scores": np.sum(queries * documents, 1)}),
        ("entailment", "search"): ({"query": TEXTS, "k": [2] * len(TEXTS)}, hits(embedder, queries)),
        ("tags", "serving_default"): ({"text": TEXTS}, classes(tags, TEXTS)),
        ("tags", "classify"): ({"text": TEXTS}, classes(tags, TEXTS)),
        ("names", "serving_default"): ({"text": TEXTS}, entities(names, TEXTS)),
        ("names", "extract"): ({"text": TEXTS}, entities(names, TEXTS)),
        ("score", "serving_default"): (PAIRS, {"outputs": values}),
        ("score", "regress"): (PAIRS, {"outputs": values}),
        ("score", "rank"): ({"query": TEXTS, "documents": OTHERS}, {"scores": values[:, 0]}),
    }
    return found


def classes(model, texts):
    probabilities = model.classify(texts).probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return {
        "labels": np.array(model.labels)[order],
        "scores": np.take_along_axis(probabilities, order, 1),
        "probabilities": probabilities,
    }


def entities(tagger, texts):
    found = tagger.extract(texts)
    width = -(-max(map(len, found)) // 16) * 16
    columns = {
        "labels": ("", lambda text, entity: entity.label),
        "texts": ("", lambda text, entity: entity.text),
        "starts": (-1, lambda text, entity: entity.start),
        "ends": (-1, lambda text, entity: entity.end),
        "byte_starts": (-1, lambda text, entity: len(text[: entity.start].encode())),
        "byte_ends": (-1, lambda text, entity: len(text[: entity.end].encode())),
        "scores": (0.0, lambda text, entity: entity.probability),
    }
    made = {
        name: np.array(
            [
                [of(text, entity) for entity in row] + [pad] * (width - len(row))
                for text, row in zip(texts, found, strict=True)
            ]
        )
        for name, (pad, of) in columns.items()
    }
    return {**made, "counts": np.array([len(row) for row in found])}


def hits(embedder, queries):
    scores = queries @ embedder.encode(CORPUS, prompt_name="document").T
    best = np.argsort(-scores, axis=1)[:, :4]
    shown = np.arange(4) < 2
    return {
        "ids": np.where(shown, best, -1),
        "texts": np.where(shown, np.array(CORPUS)[best], ""),
        "scores": np.where(shown, np.take_along_axis(scores, best, 1), 0),
    }


def check(found, expected):
    """Compares outputs: strings and integers exactly, floats to 1e-5."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        got = np.asarray(found[name])
        if got.dtype == object:
            got = np.array([text.decode() for text in got.reshape(-1)]).reshape(got.shape)
        if value.dtype.kind == "f":
            np.testing.assert_allclose(got, value, atol=1e-5, err_msg=name)
        else:
            assert got.tolist() == value.tolist(), name


# === Over HTTP and gRPC ===


def test_every_signature_answers_as_the_model_does(server, answers, trained, bases):
    asked = {name: set() for name in trained}
    for (model, signature), (inputs, expected) in answers.items():
        client = server.of(model)
        check(client.predict(signature, **inputs), expected)
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
        status, found = client.rest({"signature_name": signature, "instances": rows})
        assert status == 200, found
        if len(expected) == 1:
            check({next(iter(expected)): found["predictions"]}, expected)
        else:
            check({name: [row[name] for row in found["predictions"]] for name in found["predictions"][0]}, expected)
        status, found = client.rest({"signature_name": signature, "inputs": inputs})
        assert status == 200, found
        check(found["outputs"] if len(expected) > 1 else {next(iter(expected)): found["outputs"]}, expected)
        asked[model].add(signature)
    for model, base in bases.items():
        described = export.describe(base)["signatures"]
        left = {name for name, signature in described.items() if signature["api"] == "predict"} - asked[model]
        assert left <= {"embed_document"}


def test_rank_takes_lists_of_documents(server, trained):
    embedder = trained["entailment"].embedder
    queries, documents = TEXTS[:4], [OTHERS[i : i + 3] for i in range(0, 12, 3)]
    vectors = embedder.encode(OTHERS[:12], prompt_name="document").reshape(4, 3, -1)
    expected = {"scores": np.sum(embedder.encode(queries, prompt_name="query")[:, None] * vectors, -1)}
    client = server.of("entailment")
    check(client.predict("rank", query=queries, documents=documents), expected)
    rows = [{"query": query, "documents": texts} for query, texts in zip(queries, documents, strict=True)]
    status, found = client.rest({"signature_name": "rank", "instances": rows})
    assert status == 200, found
    check({"scores": found["predictions"]}, expected)


def test_classify_and_regress_take_examples(server, answers):
    single = [{"text": text} for text in TEXTS]
    pairs = [{"text_a": a, "text_b": b} for a, b in zip(TEXTS, OTHERS, strict=True)]
    for model, rows in (("tags", single), ("entailment", pairs)):
        expected = {key: value for key, value in answers[model, "classify"][1].items() if key != "probabilities"}
        ask = {"signature_name": "classify_examples", "examples": rows}
        status, found = server.of(model).rest(ask, ":classify")
        assert status == 200, found
        for rows_found in (server.of(model).classify("classify_examples", rows), found["results"]):
            labels, scores = ([[each[i] for each in row] for row in rows_found] for i in (0, 1))
            check({"labels": labels, "scores": scores}, expected)
    expected = {"outputs": answers["score", "regress"][1]["outputs"][:, 0]}
    check({"outputs": server.of("score").regress("regress_examples", pairs)}, expected)
    ask = {"signature_name": "regress_examples", "examples": pairs}
    check({"outputs": server.of("score").rest(ask, ":regress")[1]["results"]}, expected)
    status, found = server.of("score").rest({**ask, "examples": [{"text_a": "x"}]}, ":regress")
    assert status == 400 and "text_b" in found["error"]


def test_the_calls_of_the_readme_are_answered(server, bases):
    for name, base in bases.items():
        text = (base / "README.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(curl .*?)^```$", text, re.MULTILINE | re.DOTALL):
            words = shlex.split(block)
            path = words[1].removeprefix("http://localhost:8501")
            status, found = server.http(path, json.loads(words[-1]) if "-d" in words else None)
            assert status == 200 and path.startswith(f"/v1/models/{name}"), (path, found)


def test_requests_from_many_threads_are_merged_and_each_gets_its_own_answer(server, trained):
    texts = [f"{'card ' * (i % 7)}{tiny.WORDS.split()[i % 20]} {i}" for i in range(160)]
    expected = trained["tags"].classify(texts).probabilities
    before = server.runs()

    def ask(i):
        if i % 2:
            return server.predict("classify", text=[texts[i]])["probabilities"][0]
        status, found = server.rest({"signature_name": "classify", "instances": [texts[i]]})
        assert status == 200, found
        return found["predictions"][0]["probabilities"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(len(texts))))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert server.runs() - before < len(texts) * 0.8, "some were merged"
    # A request with more rows than fit a batch is split, and its outputs are concatenated.
    before = server.runs()
    np.testing.assert_allclose(server.predict("classify", text=texts)["probabilities"], expected, atol=1e-5)
    assert server.runs() - before == 160 / 32


def test_the_server_never_imported_what_made_the_exports(server, answers):
    check(server.predict("classify", text=TEXTS), answers["tags", "classify"][1])
    loaded = server.imported()
    assert {"tensorflow", "tensorflow_text", "grpc", "contract_server"} <= loaded
    assert not {name for name in loaded if name.split(".")[0] in ("tfxfer", "keras_hub", "keras_nlp")}


def test_no_request_fails_while_versions_come_and_go(server, trained, bases, folder):
    """The exporter writes a new version under load; later the version is removed."""
    texts = ["where is my card?", "a loan"]
    old = trained["tags"]
    new = spread(models.TextClassifier(old.backbone, old.preprocessor, labels=LABELS), seed=1)
    values = {1: old.classify(texts).probabilities, 2: new.classify(texts).probabilities}
    assert np.abs(values[1] - values[2]).max() > 0.01
    seen, errors, ended = [], [], threading.Event()

    def hammer(ask):
        while not ended.wait(0.01):
            try:
                found = np.asarray(ask())
                seen.append(next((n for n, value in values.items() if np.allclose(found, value, atol=1e-5)), found))
            except Exception as error:
                errors.append(error)

    def by_rest():
        status, found = server.rest({"inputs": texts, "signature_name": "classify"})
        assert status == 200, found
        return found["outputs"]["probabilities"]

    threads = [threading.Thread(target=hammer, args=(by_rest,)) for _ in range(2)]
    threads.append(threading.Thread(target=hammer, args=(lambda: server.predict(text=texts)["probabilities"],)))
    for thread in threads:
        thread.start()
    try:
        assert export.saved_model(new, bases["tags"]) == f"{bases['tags']}/2"
        clients.wait(lambda: server.versions() == {1: "END", 2: "AVAILABLE"}, 60)
        forward = len(seen)
        clients.wait(lambda: len(seen) > forward + 9)
        assert set(seen[forward + 3 :]) == {2}
        assert server.rest({"instances": texts}, "/versions/1:predict")[0] == 404
        # Roll back by moving the directory; a policy in `models.config` has the same effect.
        os.rename(bases["tags"] / "2", folder / "withdrawn")
        clients.wait(lambda: server.versions() == {1: "AVAILABLE", 2: "END"}, 60)
        back = len(seen)
        clients.wait(lambda: len(seen) > back + 9)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert set(seen[:3]) == {1} and set(seen[back + 3 :]) == {1} and set(seen) == {1, 2}


# === A compiled client ===


@pytest.fixture(scope="module")
def compiled(folder):
    """The C client, compiled against TensorFlow's wheel."""
    compiler = shutil.which("cc")
    home = pathlib.Path(tf.__file__).parent
    libraries = [home / "libtensorflow_cc.so.2", home / "libtensorflow_framework.so.2"]
    if compiler is None:
        pytest.skip("no C compiler")
    if not all(library.exists() for library in libraries):
        pytest.skip("the TensorFlow wheel has no C library")
    source, target = pathlib.Path(__file__).with_name("client.c"), folder / "client"
    command = [compiler, "-Wall", "-Werror", f"-I{home}/include", source, "-o", target, *libraries]
    subprocess.run([*command, f"-Wl,-rpath,{home}"], check=True, capture_output=True)
    return target


def test_a_compiled_client_gets_the_same_numbers(compiled, bases, answers):
    text_home = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
    libraries = ",".join(map(str, sorted((text_home / "python" / "ops").glob("*.so"))))
    for model, signature, output in (
        ("entailment", "embed", "embedding"),
        ("entailment", "classify", "probabilities"),
        ("score", "regress", "outputs"),
    ):
        path = bases[model] / "1"
        found = operations.saved_model(path).meta_graphs[0].signature_def[signature]
        inputs, expected = answers[model, signature]
        chosen = [i for i, text in enumerate(TEXTS) if not {"\x00"} & {text[:1], OTHERS[i][:1]}]  # no NUL in arguments
        arguments = []
        for name, texts in inputs.items():
            arguments += [*(["--"] if arguments else []), found.inputs[name].name.split(":")[0]]
            arguments += [texts[i] for i in chosen]
        operation, index = found.outputs[output].name.split(":")
        done = subprocess.run(
            [compiled, libraries, path, operation, index, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        rows = [[float(number) for number in line.split()] for line in done.stdout.splitlines()]
        np.testing.assert_allclose(rows, expected[output][chosen], atol=1e-5)


# === Operations of the graph ===


def test_graphs_hold_only_operations_that_a_server_has(bases):
    used = operations.check([base / "1" for base in bases.values()])
    assert {"FastBertNormalize", "HashTableV2", "ParseExampleV2", "VarHandleOp"} & used
