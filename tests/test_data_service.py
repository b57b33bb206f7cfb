"""Pipelines on a tf.data service: those that can run there give the same rows, others raise."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import data

ROWS = list(zip(tiny.TEXTS, tiny.LABELS, strict=True)) * 5
WORKER = """
    import sys, tensorflow as tf, tensorflow_text
    config = tf.data.experimental.service.WorkerConfig(dispatcher_address=sys.argv[1], heartbeat_interval_ms=100)
    worker = tf.data.experimental.service.WorkerServer(config)
    print("ready", flush=True)
    worker.join()
"""


def lines_of(folder):
    """Writes a file of labeled texts and returns the pipeline that a user would write for it."""
    path = folder / "rows.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in ROWS), encoding="utf-8")

    def parse(line):
        text, label = tf.unstack(tf.strings.split(line, "\t"), num=2)
        return text, label

    return tf.data.TextLineDataset([str(path)]).map(parse)


def tokenized(folder, model):
    return lines_of(folder).batch(8).map(lambda text, label: model.preprocess_samples(text, label))


@pytest.mark.slow  # starts two processes that import TensorFlow
def test_two_workers_tokenize_every_row_once(tmp_path):
    model = tiny.classifier(tmp_path)
    here = tokenized(tmp_path, model)
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    program = [sys.executable, "-c", textwrap.dedent(WORKER), address]
    workers = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
        there = data.distribute(here, dispatcher.target)

        def rows(dataset):
            return sorted(
                (tuple(ids[mask > 0].tolist()), int(y))
                for x, labels in dataset.as_numpy_iterator()
                for ids, mask, y in zip(x["token_ids"], x["padding_mask"], labels, strict=True)
            )

        assert rows(there) == rows(here)
        model.compile("adam")
        history = model.fit(there, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all() and len(history["loss"]) == 2
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_pipelines_with_python_in_them_are_refused(tmp_path):
    pre = tiny.preprocessor(tmp_path)
    rows = lines_of(tmp_path)
    called = rows.map(lambda text, y: (tf.numpy_function(lambda value: value, [text], tf.string), y))
    generated = tf.data.Dataset.from_generator(lambda: iter("ab"), output_signature=tf.TensorSpec((), tf.string))
    for refused, name in (
        (data.batches(rows, pre, 4), "PyFunc"),
        (data.batches(rows, pre, 4).take(1).prefetch(1), "PyFunc"),
        (called, "PyFunc"),
        (generated, "PyFunc"),
    ):
        with pytest.raises(ValueError, match=rf"`dataset`.*TensorFlow operations only.*{name}.*preprocess_samples"):
            data.distribute(refused, "grpc://localhost:5050")
    for address in ("localhost:5050", "grpc://localhost", None):
        with pytest.raises(ValueError, match=r"`service`.*grpc://host:5050"):
            data.distribute(rows, address)
    with pytest.raises(ValueError, match="`sharding`"):
        data.distribute(rows, "grpc://localhost:5050", sharding="rows")
    with pytest.raises(ValueError, match="`dataset`"):
        data.distribute(tiny.TEXTS, "grpc://localhost:5050")
