"""Batches in memory that TensorFlow computes at a time."""

import concurrent.futures
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
def pools(monkeypatch):
    """The pools of threads that were started for batches."""
    found = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        """Records its size and the most batches that it had at a time: one waits while the others are computed."""

        def __init__(self, threads):
            super().__init__(threads)
            self.threads, self.most, self._futures = threads, 0, []
            found.append(self)

        def submit(self, *args):
            self._futures.append(super().submit(*args))
            self.most = max(self.most, sum(not future.done() for future in self._futures))
            return self._futures[-1]

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    return found


class Slow(keras.layers.Layer):
    """Returns its input after a moment; fails on negative numbers."""

    def call(self, x):
        x.set_shape([None])
        found = tf.py_function(self._later, [x], tf.float32)
        found.set_shape([None])
        return found

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, "float32")

    def _later(self, x):
        if (x.numpy() < 0).any():
            raise ValueError("below zero")
        time.sleep(0.02)
        return x


def of_numbers():
    """Returns a runner of numbers, which gives them back slowly."""
    x = keras.Input((), name="x")
    return tx.data.Runner(keras.Model({"x": x}, Slow()(x)), {"x": tx.data.NumberColumn()})


@pytest.mark.parametrize(
    ("limits", "threads"),
    [(("3", "0"), [3]), (("2", "4"), [2]), (("1", "1"), []), (("", "1"), []), (("64", "64"), [8])],
)
def test_as_many_batches_are_computed_at_a_time_as_threads_are_allowed(set_threads, pools, limits, threads):
    set_threads(*limits)
    x = np.random.default_rng(0).normal(size=80).astype("float32") ** 2
    np.testing.assert_array_equal(of_numbers()(x, batch_size=5), x)
    assert [pool.threads for pool in pools] == threads
    assert all(1 < pool.most <= pool.threads + 1 for pool in pools)


def test_without_a_limit_there_is_one_more_than_cores(monkeypatch, pools):
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    runner, x = of_numbers(), np.arange(20, dtype="float32")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    runner(x, batch_size=5)
    assert not pools
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    runner(x, batch_size=20)
    assert not pools, "for one batch"
    runner(x, batch_size=5)
    assert [pool.threads for pool in pools] == [3]


def test_large_batches_are_computed_one_at_a_time(set_threads, pools):
    set_threads("4", "4")
    x = np.arange(40_000, dtype="float32")
    np.testing.assert_array_equal(of_numbers()(x, batch_size=10_000), x)
    assert [pool.most for pool in pools] == [1]


def test_the_error_of_a_batch_is_raised(set_threads):
    set_threads("3", "3")
    runner, x = of_numbers(), np.arange(50, dtype="float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="below zero"):
        runner(np.where(x == 23, -1, x), batch_size=5)
    np.testing.assert_array_equal(runner(x, batch_size=5), x)


def test_functions_that_run_eagerly_compute_a_batch_at_a_time(set_threads, pools):
    set_threads("3", "3")
    tf.config.run_functions_eagerly(True)
    try:
        of_numbers()(np.arange(20, dtype="float32"), batch_size=5)
    finally:
        tf.config.run_functions_eagerly(False)
    assert not pools


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
