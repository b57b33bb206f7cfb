"""Encoding in several processes: bit-identical to one process, and errors that are reported."""

import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tiny

from tfxfer import models, search

TEXTS = [" ".join(tiny.WORDS.split()[i % 20 : i % 20 + i % 7]) + "?" * (i % 3) for i in range(300)]


@keras.saving.register_keras_serializable("test_workers")
class Fussy(models.TextEmbedder):
    """A custom embedder that cannot encode some texts."""

    def encode(self, texts, *args, **kwargs):
        if isinstance(texts, list) and b"bad" in texts:  # a worker receives bytes
            raise ArithmeticError("no number for this")
        return super().encode(texts, *args, **kwargs)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return Fussy(
        tiny.backbone(num_layers=2),
        tiny.preprocessor(tmp_path_factory.mktemp("workers")),
        prompts={"query": "where is ", "none": ""},
        default_prompt_name="none",
        include_prompt=False,
        pooling=("mean", "max"),
    )


@pytest.fixture(scope="module")
def workers(embedder):
    with embedder.workers(2) as made:
        yield made


OPTIONS = [
    {},
    {"prompt_name": "query"},
    {"prompt": "the card ", "normalize": False},
    {"truncate_dim": 3, "dtype": "float16"},
    {"dtype": "bfloat16", "batch_size": 7},
    {"output": "tokens"},
    {"batch_size": 1000},
]


def are_equal(found, expected):
    """Whether vectors, or lists of them, are bit-identical."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(are_equal, found, expected))
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_several_processes_give_the_bits_of_one(options, embedder, workers):
    expected = embedder.encode(TEXTS, **options)
    assert are_equal(embedder.encode(TEXTS, workers=workers, **options), expected)
    assert are_equal(workers.encode(tuple(TEXTS), **options), expected)
    for texts in ([], ["one"], TEXTS[:3]):
        assert are_equal(embedder.encode(texts, workers=workers, **options), embedder.encode(texts, **options))
    assert are_equal(workers.encode("my card", **options), embedder.encode("my card", **options))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"output": "tokens", "batch_size": 3}], ids=str)
def test_generators_stream_in_the_same_parts(options, embedder, workers):
    taken = []

    def rows():
        for i in range(1000):
            taken.append(i)
            yield TEXTS[i % 300]

    expected = list(embedder.encode(iter(TEXTS[i % 300] for i in range(1000)), **options))
    stream = embedder.encode(rows(), workers=workers, **options)
    first = next(stream)
    batch = options.get("batch_size", 32)
    assert are_equal(first, expected[0]) and len(taken) <= min(1000, 3 * 64 * batch)
    assert all(map(are_equal, stream, expected[1:]))
    next(embedder.encode(rows(), workers=workers, **options))  # the rest is never read
    assert are_equal(workers.encode(TEXTS[:40]), embedder.encode(TEXTS[:40]))


@pytest.mark.slow
def test_streams_that_are_read_in_turn_get_their_own_vectors(embedder, workers):
    others = [text[::-1] for text in TEXTS]
    streams = [embedder.encode(iter(texts * 2), 3, workers=workers) for texts in (TEXTS, others)]
    expected = [embedder.encode(iter(texts * 2), 3) for texts in (TEXTS, others)]
    for found in zip(*streams, *expected, strict=True):
        assert are_equal(found[0], found[2]) and are_equal(found[1], found[3])
        assert are_equal(workers.encode(TEXTS[:9], 3), embedder.encode(TEXTS[:9], 3))
    late = embedder.encode(iter(TEXTS * 3), 3, workers=(made := embedder.workers(2)))
    next(late)
    made.close()
    with pytest.raises(ValueError, match="ended ones"):
        list(late)


@pytest.mark.slow
def test_an_error_names_the_row_and_the_processes_go_on(embedder, workers):
    texts = [*TEXTS[:150], "bad", *TEXTS[150:]]
    with pytest.raises(
        RuntimeError, match=r"in row 150 \(counting from 0\), the text 'bad': Arithmetic.*no number"
    ) as e:
        embedder.encode(texts, workers=workers)
    assert isinstance(e.value.__cause__, ArithmeticError) and "In the worker" in e.value.__cause__.__notes__[0]
    with pytest.raises(RuntimeError, match="in row 700 "):
        list(embedder.encode(iter([*TEXTS, *TEXTS, *TEXTS[:100], "bad"]), 3, workers=workers))
    with pytest.raises(ValueError, match="row 1"):
        embedder.encode(["fine", None], workers=workers)
    assert are_equal(embedder.encode(TEXTS, workers=workers), embedder.encode(TEXTS))


@pytest.mark.slow
def test_workers_stand_for_the_embedder_in_an_index(embedder, workers):
    index, expected = (search.SemanticIndex(each, TEXTS[:60]) for each in (workers, embedder))
    assert np.array_equal(index.vectors, expected.vectors)
    assert index.search("my card", 3).ids.tolist() == expected.search("my card", 3).ids.tolist()
    assert are_equal(workers.encode_query(TEXTS[:5]), embedder.encode_query(TEXTS[:5]))
    assert are_equal(workers.encode_document(TEXTS[:5]), embedder.encode_document(TEXTS[:5]))


@pytest.mark.slow
def test_tables_are_written_by_several_processes(embedder, workers, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    for name, given in (("one", None), ("two", workers), ("own", 2)):
        embedder.predict_table(tmp_path / "in.jsonl", tmp_path / f"{name}.jsonl", batch_size=4, workers=given)
    one, two, own = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("one", "two", "own"))
    assert one == two == own
    embedder.encode(TEXTS, workers=workers, progress=True)
    assert "300/300" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_that_changed_or_has_no_workers_is_an_error(embedder, tmp_path):
    own = tiny.embedder(tmp_path)
    with own.workers(1) as made:
        expected = own.encode(TEXTS[:50])
        assert are_equal(made.encode(TEXTS[:50]), expected)
        weight = own.trainable_weights[0]
        weight.assign(weight + 1.0)
        with pytest.raises(ValueError, match="as it was when they were created"):
            made.encode(TEXTS)
        with pytest.raises(ValueError, match="as it was when they were created"):
            embedder.encode(TEXTS, workers=made)
    assert len(multiprocessing.active_children()) in (0, 2)  # those of the fixture, if it was created
    with pytest.raises(ValueError, match="ended ones"):
        made.encode(TEXTS)


@pytest.mark.slow
def test_a_killed_process_is_an_error_and_ends_the_others(embedder):
    before = set(multiprocessing.active_children())
    made = embedder.workers(2)
    started = set(multiprocessing.active_children()) - before

    def rows():
        for i in range(10_000):
            if i == 6000:
                os.kill(next(iter(started)).pid, signal.SIGKILL)
            yield TEXTS[i % 300]

    with pytest.raises(RuntimeError, match=r"Worker process \d+ was killed by signal 9.*smaller batches"):
        list(made.encode(rows()))
    assert not set(multiprocessing.active_children()) & started
    with pytest.raises(ValueError, match="ended ones"):
        made.encode(TEXTS)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_starts_says_that_memory_may_be_short(embedder):
    before = set(multiprocessing.active_children())
    made = embedder.workers(1)
    for process in set(multiprocessing.active_children()) - before:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"Worker process \d+ was killed by signal 9.*smaller batches"):
        made.encode(TEXTS)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import itertools, multiprocessing, pathlib, tempfile
import tiny

def main():
    embedder = tiny.embedder(pathlib.Path(tempfile.mkdtemp()))
    stream = embedder.encode((text for text in itertools.cycle(tiny.TEXTS)), workers=2)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    for part in stream:
        pass

{call}
"""


def script(tmp_path, call, **environment):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(path=[str(pathlib.Path(tiny.__file__).parent)], call=call))
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def is_running(pid):
    try:
        return " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_a_kill_of_the_process_ends_its_workers(sent, tmp_path):
    process = script(tmp_path, "if __name__ == '__main__':\n    main()")
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2, process.stderr.read()
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # a terminal sends it to all processes
    else:
        process.send_signal(sent)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == -sent and (sent == signal.SIGKILL or "KeyboardInterrupt" in error)
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


# A class that the script defines: each process imports the script, so it has the class too.
ON_JAX = """
import keras
from tfxfer import models

@keras.saving.register_keras_serializable("script")
class Own(models.TextEmbedder):
    pass

if __name__ == '__main__':
    folder = pathlib.Path(tempfile.mkdtemp())
    embedder = Own(tiny.backbone(), tiny.preprocessor(folder))
    texts = tiny.TEXTS * 10
    print(keras.config.backend(), (embedder.encode(texts) == embedder.encode(texts, workers=2)).all())
"""


@pytest.mark.slow
def test_a_class_of_ones_own_on_jax_is_computed_by_several_processes(tmp_path):
    process = script(tmp_path, ON_JAX, KERAS_BACKEND="jax")
    output, error = process.communicate(timeout=300)
    assert output.split() == ["jax", "True"], error


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    process = script(tmp_path, "main()")
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "needs `if __name__ == '__main__':`" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": 0}, "`count`"),
        ({}, "`count`"),
        ({"count": 2, "devices": ["cpu"]}, "`count`"),
        ({"devices": ["tpu:0"]}, "`devices`"),
        ({"devices": []}, "`devices`"),
        ({"count": 2, "threads": 0}, "`threads`"),
    ],
)
def test_bad_settings_of_workers_are_errors(arguments, said, embedder):
    with pytest.raises(ValueError, match=said):
        embedder.workers(**arguments)


def test_bad_workers_are_errors_and_little_work_needs_none(embedder):
    for given in (0, "two", 1.5):
        with pytest.raises(ValueError, match="`workers`"):
            embedder.encode(TEXTS, workers=given)
    assert are_equal(embedder.encode(["a", "b"], workers=4), embedder.encode(["a", "b"]))
    assert not re.search("Workers", repr(multiprocessing.active_children()))
