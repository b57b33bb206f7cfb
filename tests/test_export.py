"""Exports: what is written, once and atomically, and what the export answers after training."""

import os
import pathlib
import re
import signal
import threading
import time
import warnings

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow.core.protobuf import saved_model_pb2
from test_damaged_files import PARAMETERS
from test_export_assets import inputs_of

from tfxfer import data, evaluation, export, models

# `saved_model` takes a second or more per case. Tests of parameters, warm-up requests, small weights, and killed or
# overtaken exports therefore replace its steps with quick ones, or call the steps directly.
from tfxfer.export import _folder, _saved_model, _signatures, _warmup, _weights

TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "\x00 money", "[MASK] card [SEP]", "card " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def model(folder):
    """A trained classifier."""
    keras.utils.set_random_seed(0)
    made = tiny.classifier(folder, dropout=0.0)
    made.compile(keras.optimizers.Adam(1e-2))
    made.fit(tiny.TEXTS, tiny.LABELS, epochs=15, batch_size=4, seed=0, verbose=0)
    return made


@pytest.fixture(scope="module")
def untrained(folder):
    """A classifier with random weights, for tests of the files of an export."""
    return tiny.classifier(folder)


@pytest.fixture(scope="module")
def towers(folder):
    """Siamese towers with their own decoder, which computes in chunks."""
    embedder = tiny.embedder(folder, pooling=("mean", "max"))
    return models.Siamese(embedder, decoder="cosine", chunk_size=2)


@pytest.fixture(scope="module")
def path(towers, folder):
    corpus = {"texts": ["my card", "a loan"], "ids": ["c", "l"]}
    return export.saved_model(towers, folder / "towers", index=corpus)


# === What is written ===


def test_trained_model_repeats_its_scores_from_the_export(model, folder):
    scores = evaluation.classification(model, data.labelled({"t": tiny.TEXTS, "l": tiny.LABELS}, "t", "l"))
    path = export.saved_model(model, folder / "classifier", metadata={"metrics": scores})
    assert path == str(folder / "classifier" / "1")
    served = tf.saved_model.load(path).signatures["serving_default"]
    labels = served(text=tf.constant(tiny.TEXTS))["labels"][:, 0].numpy()
    assert np.mean([a.decode() == b for a, b in zip(labels, tiny.LABELS, strict=True)]) == scores["accuracy"] > 0.8
    assert export.describe(path)["metadata"]["metrics"]["accuracy"] == scores["accuracy"]
    found = served(text=tf.constant(TEXTS))["probabilities"]
    np.testing.assert_allclose(found, model.classify(TEXTS).probabilities, atol=1e-5)


def test_siamese_towers_are_exported_as_their_embedder(towers, path):
    served = tf.saved_model.load(path).signatures
    vectors = towers.embedder.encode(TEXTS)
    np.testing.assert_allclose(served["serving_default"](text=tf.constant(TEXTS))["embedding"], vectors, atol=1e-5)
    pairs = TEXTS, TEXTS[::-1]
    similarity = served["similarity"](text_a=tf.constant(pairs[0]), text_b=tf.constant(pairs[1]))["similarity"]
    np.testing.assert_allclose(similarity, towers.predict(pairs, verbose=0)[:, 0], atol=1e-5)
    assert export.describe(path)["class"] == "Siamese"


def test_weights_are_stored_once_whatever_the_number_of_signatures(towers, path):
    variables = os.path.join(path, "variables", "variables")
    stored = tf.train.load_checkpoint(variables).get_variable_to_shape_map()
    shapes = [shape for name, shape in stored.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    index = 2 * towers.embedder.embedding_dim + 2 + 2  # vectors, ids, texts
    assert sum(int(np.prod(shape)) for shape in shapes) == towers.embedder.count_params() + index
    # The graph with the vocabulary, the description and the warm-up requests do not grow with the weights.
    rest = sum(size for name, size in files(path).items() if not name.startswith("variables"))
    assert rest < 1_000_000


def files(folder):
    """Relative paths and sizes of a folder's files."""
    found = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(name, folder): os.path.getsize(name) for name in found}


def operations(path):
    """The operations in an export, as node definitions."""
    saved = saved_model_pb2.SavedModel.FromString(pathlib.Path(path, "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def test_graph_has_no_python_no_xla_and_no_state_that_changes(path):
    found = operations(path)
    assert not [node.name for node in found if node.attr["_XlaMustCompile"].b]
    assert not {
        node.op for node in found if re.search("PyFunc|Mutable|Xla|Stack|Barrier|Queue|LookupTableInsert", node.op)
    }
    # Variables are assigned only when they are restored, never by a signature.
    for signature in tf.saved_model.load(path).signatures.values():
        graph = signature.graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        assert not [node.name for node in nodes if "Assign" in node.op]


# === Small weights ===


def rounded(weights, dtype, head):
    """The weights rounded to a small dtype, with a plain loop over groups of up to 32 numbers."""
    found = []
    for weight in weights:
        value = weight.numpy()
        if value.ndim < 2 or weight.path.endswith("bias") or id(weight) in head:
            found.append(value)
        elif dtype == "bfloat16":
            found.append(value.astype(ml_dtypes.bfloat16).astype("float32"))
        else:
            size = max(g for g in range(1, 33) if value.shape[-1] % g == 0)
            if size < 8:
                found.append(value)
                continue
            flat = value.reshape(-1, size).copy()
            for row in flat:
                scale = np.float16(np.abs(row).max() / 127)
                if np.float32(scale) < np.abs(row).max() / 127:
                    scale = np.nextafter(scale, np.float16(np.inf))
                row[:] = np.round(row / np.float32(scale or 1)) * np.float32(scale or 1)
            found.append(flat.reshape(value.shape))
    return found


@pytest.mark.parametrize(("dtype", "worst"), [("bfloat16", 2e-2), ("int8", 5e-2)])
def test_small_weights_answer_as_the_rounded_model_does(towers, folder, dtype, worst):
    embedder = towers.embedder
    exact = embedder.encode(TEXTS)
    path = export.saved_model(embedder, folder / dtype, weights_dtype=dtype)
    served = tf.saved_model.load(path).signatures["embed"](text=tf.constant(TEXTS))["embedding"]
    assert served.dtype == tf.float32
    assert 1e-5 < np.abs(served - exact).max() < worst
    before = embedder.get_weights()
    try:
        embedder.set_weights(rounded(embedder.weights, dtype, set()))
        np.testing.assert_allclose(served, embedder.encode(TEXTS), atol=1e-5)
    finally:
        embedder.set_weights(before)
    kinds = tf.train.load_checkpoint(os.path.join(path, "variables", "variables")).get_variable_to_dtype_map()
    assert tf.as_dtype(dtype) in kinds.values() and export.describe(path)["weights"]["dtype"] == dtype


@pytest.mark.parametrize("family", ["albert", "deberta_v3", "gpt2"])
def test_small_weights_fit_families_that_use_the_token_table_otherwise(golden, family):
    embedder = models.TextEmbedder.from_preset(golden / "families" / family, sequence_length=16)
    texts = tf.constant(["where is my card", "", "the the loan"])
    ids = embedder.preprocessor(texts)
    found = _weights.Weights(embedder, "bfloat16")(embedder, ids)
    embedder.set_weights(rounded(embedder.weights, "bfloat16", set()))
    np.testing.assert_allclose(found, embedder(ids), atol=1e-5)


def test_the_head_keeps_its_weights(model):
    weights = _weights.Weights(model, "int8")
    kinds = [[part.dtype.name for part in stored] for stored in weights._small]
    assert kinds and all(kind == ["int8", "float16"] for kind in kinds)
    head = {id(weight.value) for layer in model.layer_groups()["head"] for weight in layer.weights}
    assert head <= set(map(id, weights._kept))
    sizes = [sum(int(np.prod(part.shape)) * part.dtype.size for part in stored) for stored in weights._small]
    full = sum(4 * int(np.prod(weight.shape)) for weight in weights._variables.value)
    assert sum(sizes) <= full * (1 + 2 / 8) / 4  # groups of 8 here; groups of 32 in a real model


# === Versions ===


@pytest.fixture(scope="module")
def signatures(untrained):
    made = _signatures.Served(untrained).signatures(False)
    return {_signatures.DEFAULT: made["classify"], "classify": made["classify"]}


@pytest.fixture
def quick(signatures, monkeypatch):
    """Makes exports quick: traces the signatures once, and writes a few bytes instead of the graph."""

    def write(model, path, *_):
        (path / "saved_model.pb").write_bytes(b"graph")
        time.sleep(0.01)
        return signatures

    monkeypatch.setattr(_saved_model, "_write", write)
    return monkeypatch


def versions(folder):
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


def test_versions_count_up_and_none_is_overwritten(untrained, quick, tmp_path):
    assert [export.saved_model(untrained, tmp_path, version=v) for v in (3, None)] == [f"{tmp_path}/3", f"{tmp_path}/4"]
    with pytest.raises(ValueError, match="`version`"):
        export.saved_model(untrained, tmp_path, version=3)
    with pytest.raises(ValueError, match="`version`"):
        export.saved_model(untrained, tmp_path, version=0)
    # A name that the server would take for a version counts as one, even another spelling or a file.
    (tmp_path / "007").mkdir()
    (tmp_path / "8").write_text("")
    assert export.saved_model(untrained, tmp_path) == f"{tmp_path}/9"
    with pytest.raises(ValueError, match="`version`"):
        export.saved_model(untrained, tmp_path, version=7)
    # A name that the server would not take for a version does not count.
    (tmp_path / "²").mkdir()
    assert export.saved_model(untrained, str(tmp_path)) == f"{tmp_path}/10"


def test_exporters_at_the_same_time_get_a_number_each_and_none_is_seen_unfinished(untrained, quick, tmp_path):
    half, running = [], True

    def watch():
        while running:
            for number in versions(tmp_path):
                if not {"saved_model.pb", "assets.extra/tfxfer.json"} <= set(files(tmp_path / str(number))):
                    half.append(number)

    def write():
        found.append(export.saved_model(untrained, tmp_path))

    found = []
    watcher = threading.Thread(target=watch)
    exporters = [threading.Thread(target=write) for _ in range(6)]
    watcher.start()
    for thread in exporters:
        thread.start()
    for thread in exporters:
        thread.join()
    running = False
    watcher.join()
    assert sorted(found) == [f"{tmp_path}/{n}" for n in range(1, 7)] and versions(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert not half
    assert set(os.listdir(tmp_path)) - set("123456") == {
        "README.md",
        "check.py",
        "models.config",
        "batching_parameters.txt",
    }


def test_a_number_that_another_exporter_took_meanwhile_is_an_error(untrained, quick, tmp_path):
    def write(model, path, *arguments, before=_saved_model._write):
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "saved_model.pb").write_bytes(b"another's")
        return before(model, path, *arguments)

    quick.setattr(_saved_model, "_write", write)
    with pytest.raises(ValueError, match="`version`"):
        export.saved_model(untrained, tmp_path, version=5)
    assert files(tmp_path) == {"5/saved_model.pb": 9, **{n: s for n, s in files(tmp_path).items() if "/" not in n}}


def test_failed_export_leaves_nothing_behind(untrained, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export.saved_model(untrained, tmp_path)
    assert os.listdir(tmp_path) == []


def test_killed_export_leaves_nothing_that_is_served_and_is_cleared_away(untrained, quick, tmp_path):
    def write(model, path, *_):
        (path / "saved_model.pb").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the child does not need
        child = os.fork()
    if not child:
        _saved_model._write = write
        export.saved_model(untrained, tmp_path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    [left] = os.listdir(tmp_path)
    assert not re.fullmatch(r"\s*[+-]?\d.*", left), "the server takes numbers for versions"
    # Not immediately, because it may belong to a running export.
    assert export.saved_model(untrained, tmp_path).endswith("/1") and left in os.listdir(tmp_path)
    os.utime(tmp_path / left, (0, 0))
    assert export.saved_model(untrained, tmp_path).endswith("/2") and left not in os.listdir(tmp_path)


def test_what_cannot_be_exported_is_an_error(folder, monkeypatch):
    backbone = tiny.backbone()
    with pytest.raises(ValueError, match="preprocessor"):
        export.saved_model(models.TextEmbedder(backbone), folder / "s")
    with pytest.raises(ValueError, match=r"`model`.*a task model"):
        export.saved_model(backbone, folder / "s")
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="TensorFlow backend"):
        export.saved_model(models.TextEmbedder(backbone, tiny.preprocessor(folder)), folder / "s")
    assert not (folder / "s").exists()


# === Memory ===


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def new_words(start, texts, words):
    """Texts of words that no earlier text has."""
    numbers = iter(range(start, start + texts * words))
    return tf.constant([" ".join(f"w{next(numbers):x}q" for _ in range(words)) for _ in range(texts)])


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_memory_stays_flat_over_new_words_of_a_byte_level_bpe(golden, tmp_path):
    embedder = models.TextEmbedder.from_preset(golden / "families" / "roberta", sequence_length=32)
    path = export.saved_model(embedder, tmp_path / "bpe")
    assert not [node.op for node in operations(path) if "Mutable" in node.op]
    served = tf.saved_model.load(path).signatures["serving_default"]
    # A table that remembers each word costs 63 MB per 100,000 words, so 12.6 MB for the 20,000 words of each stretch.
    # Other parts of the process may allocate memory in one stretch, but not in all three.
    for run in (lambda texts: served(text=texts), embedder.preprocessor.tokenizer):
        for start in range(0, 10_000, 1_000):
            run(new_words(start, 100, 10))
        grown = []
        for first in (10_000, 30_000, 50_000):
            before = resident()
            for start in range(first, first + 20_000, 1_000):
                run(new_words(start, 100, 10))
            grown.append(resident() - before)
        assert min(grown) < 4_000_000


# === The server's files ===


def test_parameters_by_hand_are_read(tmp_path):
    (tmp_path / "batching_parameters.txt").write_text(PARAMETERS)
    assert _folder._sizes(tmp_path, tmp_path / "batching_parameters.txt") == {
        "max_batch_size": 20,
        "max_execution_batch_size": 16,
    }
    _folder.write_configuration(tmp_path / "new", 12)
    assert _folder.batch_size(tmp_path / "new", None) == 12


@pytest.mark.parametrize("length", range(0, len(PARAMETERS), 7))
def test_parameters_that_are_cut_anywhere_are_read_as_whole_fields_or_not_at_all(length, tmp_path):
    (tmp_path / "batching_parameters.txt").write_text(PARAMETERS[:length])
    try:
        assert _folder.batch_size(tmp_path, None) in (16, 20, 32)
    except ValueError as error:
        assert "batching_parameters.txt" in str(error)


def test_configuration_made_by_hand_stays_and_bounds_the_warm_up(tmp_path):
    file = tmp_path / "batching_parameters.txt"
    assert _folder.batch_size(tmp_path, None) == 32 and _folder.batch_size(tmp_path, 7) == 7
    file.write_text("# max_batch_size { value: 1 }\nmax_batch_size { value: 20 }\nbatch_timeout_micros { value: 9 }\n")
    assert _folder.batch_size(tmp_path, None) == 20
    _folder.write_configuration(tmp_path, None)
    assert file.read_text().endswith("batch_timeout_micros { value: 9 }\n")
    assert (tmp_path / "models.config").exists()
    with pytest.raises(ValueError, match="`max_batch_size`"):
        _folder.batch_size(tmp_path, 21)
    file.write_text("max_batch_size: { value: 64 } max_execution_batch_size: { value: 16 }")
    assert _folder.batch_size(tmp_path, None) == 16 and _folder.batch_size(tmp_path, 64) == 64


def test_records_of_any_length_are_read_and_no_more_than_the_server_takes(tmp_path):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="no tensorflow-serving-api")
    requests = [("predict", "embed", {"text": ["x" * 3**n, "ü"], "k": [n, -1]}) for n in range(11)]
    _warmup.write(tmp_path / "some", requests)
    for record, expected in zip(tf.data.TFRecordDataset(str(tmp_path / "some")), requests, strict=True):
        api, signature, inputs = inputs_of(apis.PredictionLog.FromString(record.numpy()))
        assert (api, signature) == expected[:2]
        assert [text.decode() for text in inputs["text"]] == expected[2]["text"]
        assert inputs["k"].tolist() == expected[2]["k"] and inputs["k"].dtype == np.int32
    _warmup.write(tmp_path / "many", requests * 200)
    assert sum(1 for _ in tf.data.TFRecordDataset(str(tmp_path / "many"))) == 1000


# === Old versions ===


@pytest.mark.parametrize(("keep", "left"), [(1, [7]), (2, [6, 7]), (3, [5, 6, 7]), (9, [2, 3, 5, 6, 7])])
def test_the_newest_versions_stay(tmp_path, keep, left):
    for number in (2, 3, 5, 6, 7):
        (tmp_path / str(number) / "assets").mkdir(parents=True)
        (tmp_path / str(number) / "assets" / "labels.txt").write_text("card")
    _saved_model.remove_old(tmp_path, tmp_path / "7", keep)
    assert versions(tmp_path) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, left))


def test_later_versions_than_the_one_that_was_written_stay(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
    _saved_model.remove_old(tmp_path, tmp_path / "2", 1)
    assert versions(tmp_path) == [2, 3]


def test_tensorflow_reports_no_directory_that_is_renamed(tmp_path, caplog):
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("INFO")  # as in an interactive session
    try:
        with caplog.at_level("INFO", "tensorflow"):
            export.saved_model(tiny.classifier(tmp_path), tmp_path / "export", warmup="none")
            logger.info("another line")
    finally:
        logger.setLevel(level)
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "written to" in line]
    assert not logger.filters
