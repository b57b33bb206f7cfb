"""Batches in memory that TensorFlow computes at a time."""

import concurrent.futures
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx

LIMITS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
TEXTS = [*tiny.TEXTS, "a card", "two loans and a card", "my", ""]


@pytest.fixture
def set_threads(monkeypatch):
    """Sets the limits on threads in the environment; the suite's own are of one thread."""

    def chosen(*values):
        for name, value in zip(LIMITS, values, strict=True):
            monkeypatch.setenv(name, value)

    return chosen


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that were started for batches. TensorFlow may keep some of them waiting."""
    found, pool = [], concurrent.futures.ThreadPoolExecutor

    def made(count):
        found.append(count)
        return pool(count)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", made)
    return found


class Watch(keras.layers.Layer):
    """Returns its input, and records how many batches are computed at the same time."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self._guard = 0, 0, threading.Lock()

    def call(self, x):
        x.set_shape([None])
        found = tf.py_function(self._watched, [x], tf.float32)
        found.set_shape([None])
        return found

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, "float32")

    def _watched(self, x):
        if (x.numpy() < 0).any():
            raise ValueError("below zero")
        with self._guard:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self._guard:
            self.now -= 1
        return x


def watched():
    """Returns a runner of numbers, and the layer that watches it."""
    watch, x = Watch(), keras.Input((), name="x")
    return tx.data.Runner(keras.Model({"x": x}, watch(x)), {"x": tx.data.NumberColumn()}), watch


@pytest.mark.parametrize(
    ("limits", "most"),
    [(("3", "0"), [3]), (("2", "4"), [2]), (("1", "1"), []), (("", "1"), []), (("64", "64"), [8])],
)
def test_as_many_batches_are_computed_at_a_time_as_threads_are_allowed(set_threads, threads, limits, most):
    set_threads(*limits)
    runner, watch = watched()
    x = np.random.default_rng(0).normal(size=200).astype("float32") ** 2
    np.testing.assert_array_equal(runner(x, batch_size=5), x)
    assert threads == most
    assert (watch.most > 1) == bool(most)


def test_without_a_limit_there_is_one_more_than_cores(monkeypatch, threads):
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    runner, watch = watched()
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    runner(np.arange(20.0, dtype="float32"), batch_size=5)
    assert watch.most == 1 and not threads
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    runner(np.arange(50.0, dtype="float32"), batch_size=5)
    assert threads == [3] and watch.most > 1


def test_large_batches_are_computed_one_at_a_time(set_threads):
    set_threads("4", "4")
    runner, watch = watched()
    x = np.arange(40_000, dtype="float32")
    np.testing.assert_array_equal(runner(x, batch_size=10_000), x)
    assert watch.most == 1


def test_the_error_of_a_batch_is_raised(set_threads):
    set_threads("3", "3")
    runner, _ = watched()
    x = np.arange(50, dtype="float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="below zero"):
        runner(np.where(x == 23, -1, x), batch_size=5)
    np.testing.assert_array_equal(runner(x, batch_size=5), x)


def test_functions_that_run_eagerly_compute_a_batch_at_a_time(set_threads):
    set_threads("3", "3")
    runner, watch = watched()
    tf.config.run_functions_eagerly(True)
    try:
        runner(np.arange(20.0, dtype="float32"), batch_size=5)
    finally:
        tf.config.run_functions_eagerly(False)
    assert watch.most == 1


KINDS = {
    "embedder": lambda folder, dtype: tiny.embedder(folder, dtype).encode,
    "classifier": lambda folder, dtype: _probabilities(tiny.classifier(folder, dtype)),
    "tagger": lambda folder, dtype: tiny.tagger(folder, dtype).extract,
}


def _probabilities(model):
    return lambda texts, batch_size: np.asarray(model.classify(texts, batch_size=batch_size).probabilities)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_a_batch_at_a_time_in_the_order_of_the_rows(tmp_path, set_threads, kind, dtype):
    run = KINDS[kind](tmp_path, dtype)
    set_threads("1", "1")
    expected = run(TEXTS * 5, batch_size=3)
    set_threads("4", "4")
    for _ in range(3):
        found = run(TEXTS * 5, batch_size=3)
        assert len(found) == len(expected) == 5 * len(TEXTS)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
