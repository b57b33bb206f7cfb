"""`examples/embed_corpus_ray.py`: no text is lost or duplicated, and each gets its own vector."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny

from tfxfer import export

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "embed_corpus_ray.py"
# Ray has its own environment, because it is not part of this package's.
PYTHON = pathlib.Path(os.environ.get("TFXFER_RAY_PYTHON", ROOT / ".venv-ray" / "bin" / "python"))
ROWS = [(f"id {i}", f"{text}{' card' * (i % 4)}") for i, text in enumerate(tiny.TEXTS * 10)]


@pytest.fixture(scope="module")
def python():
    """A Python interpreter with Ray."""
    if importlib.util.find_spec("ray") is not None:
        return sys.executable
    if not PYTHON.exists():
        pytest.skip("no Ray: `make .venv-ray/.installed` makes its environment")
    return str(PYTHON)


def run(python, **arguments):
    given = [str(part) for name, value in arguments.items() for part in (f"--{name.replace('_', '-')}", value)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
    return subprocess.run(
        [python, str(SCRIPT), *given], capture_output=True, text=True, check=False, env=environment, timeout=600
    )


@pytest.mark.slow  # starts Ray, whose worker loads TensorFlow
def test_every_text_of_a_corpus_gets_its_vector_once(python, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow")
    embedder = tiny.embedder(tmp_path)
    model = export.saved_model(embedder, tmp_path / "serving" / "model")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, rows in (("a.jsonl", ROWS[:45]), ("b.jsonl", ROWS[45:])):
        lines = [json.dumps({"text": text, "id": number, "more": 1}) for number, text in rows]
        (corpus / name).write_text("\n".join(lines), encoding="utf-8")
    done = run(python, model=model, corpus=corpus, output=tmp_path / "out", block_rows=16, batch_size=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "80 texts embedded" in done.stdout
    found = [row for path in (tmp_path / "out").glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    assert sorted(row["id"] for row in found) == sorted(number for number, _ in ROWS)
    assert len({row["model_version"] for row in found}) == 1
    expected = dict(zip((number for number, _ in ROWS), embedder.encode([text for _, text in ROWS]), strict=True))
    for row in found:
        np.testing.assert_allclose(row["embedding"], expected[row["id"]], atol=1e-5)
    # A folder that is not empty belongs to another run.
    again = run(python, model=model, corpus=corpus, output=tmp_path / "out")
    assert again.returncode and "is not empty" in again.stderr
    other = run(python, model=model, corpus=corpus, output=tmp_path / "other", text="body")
    assert other.returncode and "no column body" in other.stderr
