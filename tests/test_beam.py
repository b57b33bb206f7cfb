"""`examples/embed_corpus_beam.py`: no text is lost or duplicated, even if workers are killed."""

import contextlib
import csv
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

from tfxfer import export

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "embed_corpus_beam.py"
# Beam has its own environment because it requires an older protobuf than the tokenizers' package.
PYTHON = pathlib.Path(os.environ.get("TFXFER_BEAM_PYTHON", ROOT / ".venv-beam" / "bin" / "python"))
PART_ROWS = 7
ROWS = [
    (f"id {i}", f"{text}{' card' * (i % 4)}" + (' "quoted"\nin two lines ü' if i % 5 == 0 else ""))
    for i, text in enumerate(tiny.TEXTS * 25)
]


@pytest.fixture(scope="module")
def python():
    """A Python interpreter with Apache Beam."""
    if importlib.util.find_spec("apache_beam") is not None:
        return sys.executable
    if not PYTHON.exists():
        pytest.skip("no Apache Beam: `make .venv-beam/.installed` makes its environment")
    return str(PYTHON)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny.embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(embedder, tmp_path_factory):
    return export.saved_model(embedder, tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """`ROWS` in four files, one per format, in the order of the file names."""
    arrow = pytest.importorskip("pyarrow", reason="no pyarrow")
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("corpus")
    quarters = [ROWS[start : start + 50] for start in range(0, 200, 50)]
    for name, delimiter, rows in (("a.tsv", "\t", quarters[0]), ("b.csv", ",", quarters[1])):
        encoding = "utf-8-sig" if name == "b.csv" else "utf-8"
        with open(folder / name, "w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *rows])
    lines = [json.dumps({"text": text, "id": number, "more": 1}, ensure_ascii=False) for number, text in quarters[2]]
    (folder / "c.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    table = arrow.table({"id": [number for number, _ in quarters[3]], "text": [text for _, text in quarters[3]]})
    pyarrow.parquet.write_table(table, folder / "d.parquet", row_group_size=20)
    return folder


def command(python, model, corpus, output, *more):
    arguments = ["--model", model, "--corpus", corpus / "*.*", "--output", output, "--part-rows", PART_ROWS, *more]
    return [python, str(SCRIPT), *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def parts(folder):
    return sorted(path for path in folder.glob("part-*")) if folder.is_dir() else []


def session(leader):
    """The command lines of a session's processes, by process id."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == leader:
                found[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue  # the process has ended
    return found


def wait_for(claim, seconds=120):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.005)


def read(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pydict()


@pytest.fixture(scope="module")
def killed(python, model, corpus, tmp_path_factory):
    """The output of an unfinished run with two workers: one was killed first, then everything else."""
    output = tmp_path_factory.mktemp("killed") / "out"
    two = ("--direct_running_mode=multi_processing", "--direct_num_workers=2", "--batch-size", 1)
    with open(output.parent / "log", "w") as log:
        process = subprocess.Popen(
            command(python, model, corpus, output, *two), stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: len(parts(output)) >= 2)
        worker = next(p for p, line in session(process.pid).items() if "sdk_worker_main" in line and "/sh" not in line)
        os.kill(worker, signal.SIGKILL)
        alone = len(parts(output))
        wait_for(lambda: len(parts(output)) > alone + 1)
    finally:
        for number in session(process.pid):
            with contextlib.suppress(ProcessLookupError):  # it ended when another did
                os.kill(number, signal.SIGKILL)
        process.wait()
    return output


@pytest.mark.slow  # runs Beam repeatedly, and each worker loads TensorFlow
@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="no /proc")
def test_a_run_whose_workers_were_killed_goes_on_and_each_text_is_there_once(
    killed, python, model, corpus, embedder, tmp_path
):
    expected = -(-50 // PART_ROWS) * 4
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in parts(killed)}
    assert 3 < len(before) < expected
    # A part that is written twice, as when a worker dies after the last step, is the same both times.
    again = parts(killed)[1]
    first_time = read(again)
    again.unlink()
    before.pop(again.name)
    done = run(python, model, corpus, killed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{expected} parts, {len(before)} of them done" in done.stdout
    assert f"200 texts in {expected} parts" in done.stdout
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in parts(killed)}
    assert list(after) == [f"part-{i:05d}-of-{expected:05d}.parquet" for i in range(expected)]
    assert {name: after[name] for name in before} == before, "what was done is left alone"
    second_time = read(again)
    assert second_time["id"] == first_time["id"]
    np.testing.assert_allclose(second_time["embedding"], first_time["embedding"], atol=1e-6)

    found = [read(path) for path in parts(killed)]
    assert [number for part in found for number in part["id"]] == [number for number, _ in ROWS]
    vectors = np.array([vector for part in found for vector in part["embedding"]], "float32")
    np.testing.assert_allclose(vectors, embedder.encode([text for _, text in ROWS]), atol=1e-5)
    assert len({version for part in found for version in part["model_version"]}) == 1
    assert not list(killed.glob("*unfinished*")) and not [p for p in killed.iterdir() if p.name.startswith(".")]
    # A repeated run has nothing to do; other arguments make it a different run.
    done = run(python, model, corpus, killed)
    assert f"{expected} parts, {expected} of them done" in done.stdout and done.returncode == 0
    other = run(python, model, corpus, killed, "--part-rows", 8)
    assert other.returncode and "another part_rows" in other.stderr


@pytest.mark.slow  # imports Beam
def test_what_cannot_be_embedded_is_named_with_its_place(python, model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "card"}\n{"id": 2, "text": null}\n')
    done = run(python, model, tmp_path, tmp_path / "out")
    assert done.returncode and "a.jsonl, row 1: no 'text' or 'id'" in done.stderr
    assert not parts(tmp_path / "out")
    (tmp_path / "b.tsv").write_text("id\ttext\n1\tcard\n2\n")
    done = run(python, model, tmp_path, tmp_path / "other")
    assert done.returncode and "b.tsv, before byte 17: 1 columns, the header has 2" in done.stderr
