"""`benchmarks/gpu.py` runs without a GPU and without TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HIDE = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec.__func__
def find_spec(cls, name, path=None, target=None):
    hidden = name.partition(".")[0] in ("tensorflow", "tensorflow_text")
    return None if hidden else find(cls, name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
"""


@pytest.mark.slow
def test_gpu_benchmark_counts_its_shapes_and_needs_no_tensorflow(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    groups = ["vectors", "encode_tiny_bfloat16", "pairs_tiny_bfloat16", "classes_tiny_float32", "memory"]
    options = ["--cpu", "--sizes", "tiny", "--batches", "8", "--rounds", "1", "--slice", "0.01", "--chunk", "4"]
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *options, "--groups", *groups, "--results", tmp_path],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=True,
        cwd=tmp_path,
    )
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    ours = {each["cell"]["part"]: each["tfxfer"] for each in record["cells"]}
    assert sorted(ours) == ["classes", "encode", "pairs"]
    assert all(each["rows_per_second"] > 0 for each in ours.values())
    compiled = {cells: answer["compilations"] for cells, answer in record["prepared"].items()}
    assert compiled["encode_tiny_bfloat16"] == ours["encode"]["shapes"] <= 2  # eight short rows
    assert compiled["pairs_tiny_bfloat16"] == compiled["classes_tiny_float32"] == 1
    lowest = {each["kind"]: each["lowest_cosine"] for each in record["vectors"]}
    assert lowest["tfxfer float32 default"] > 0.999999 and lowest["tfxfer bfloat16 default"] > 0.9999
    in_chunks, in_one_pass = (each["peak_mib"] for each in record["memory"])
    assert 0 < in_chunks < in_one_pass
