"""Ways to compute the vectors of texts on a CPU: speed, size, quality, and whether the batch changes a text's bits.

    python benchmarks/engines.py --data ../shared/data --torch-python .venv-bench/bin/python \
        --openvino-python .venv-openvino/bin/python --onnx-python .venv-onnx/bin/python

All use the weights of all-MiniLM-L6-v2, from strings to vectors, except for the static student, whose vectors differ.
Our ONNX files get their ids from Hugging Face's `tokenizers`, as sentence-transformers does. Its OpenVINO and ONNX
Runtime need an environment each; without one, their rows are left out. Quality: Spearman's correlation on the STS
benchmark's test split, and the lowest cosine to the model's own vectors of its first 256 sentences.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import random
import tempfile

import numpy as np
import scipy.stats

from benchmarks import _harness
from benchmarks.encode import cosines, weights_folder

BASELINE = "sentence-transformers float32"
SIDES = {
    BASELINE: ("torch", "float32"),
    "tfxfer float32": ("keras", "float32"),
    "tfxfer mixed_bfloat16": ("keras", "mixed_bfloat16"),
    "tfxfer Engine float32": ("keras", "engine float32"),
    "tfxfer Engine int8": ("keras", "engine int8"),
    "tfxfer SavedModel": ("keras", "saved_model"),
    "ONNX Runtime, tfxfer's float32": ("keras", "onnx float32"),
    "ONNX Runtime, tfxfer's int8": ("keras", "onnx int8"),
    "tfxfer static student": ("keras", "static"),
    "sentence-transformers, OpenVINO": ("openvino", "openvino"),
    "sentence-transformers, OpenVINO float32": ("openvino", "openvino float32"),
    "sentence-transformers, OpenVINO int8": ("openvino", "openvino int8"),
    "sentence-transformers, ONNX": ("onnx", "onnx"),
    "sentence-transformers, ONNX int8": ("onnx", "onnx int8"),
}
REFERENCE = "tfxfer float32"
CALIBRATION_TEXTS = 300  # sentence-transformers' own number


def quality(worker, variant, sentences, scores, folder):
    """Returns Spearman's correlation on sentence pairs, some vectors, and the rows whose bits the batch changes."""

    def vectors(texts, batch_size=None):
        path = f"{folder}/vectors.npy"
        worker.ask(variant=variant, texts=texts, save=path, **({"batch_size": batch_size} if batch_size else {}))
        return np.load(path)

    first, second = (vectors(column) for column in sentences)
    spearman = scipy.stats.spearmanr(cosines(first, second), scores).statistic
    some = sentences[0][:128]
    changed = (vectors(some, 1) != vectors(some)).any(axis=1)
    return first, {"sts_spearman": round(float(spearman), 4), "rows_changed_by_batch": int(changed.sum())}


def main():
    """Runs the comparison, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--openvino-python", help="interpreter with sentence-transformers[openvino]")
    parser.add_argument("--onnx-python", help="interpreter with sentence-transformers[onnx]")
    parser.add_argument("--slice", type=int, default=256, help="texts per call")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--name", default="engines", help="name of the JSON file in results/, for another processor")
    arguments = parser.parse_args()

    rows = _harness.read_tsv(arguments.data / "banking77" / "train.tsv")
    texts = random.Random(0).sample([row["text"] for row in rows], arguments.slice * arguments.rounds)
    setup = {
        "workload": "encode",
        "weights": weights_folder(),
        "sequence_length": 256,
        "batch_size": arguments.batch_size,
        "engines": True,
    }
    workers = {
        "torch": _harness.Worker("torch", arguments.torch_python, "_torch_worker", setup),
        "keras": _harness.Worker("keras", sys.executable, "_keras_worker", setup),
    }
    train = [row["sentence1"] for row in _harness.read_tsv(arguments.data / "stsb" / "train.tsv")]
    calibration = random.Random(0).sample(train, CALIBRATION_TEXTS)
    for backend, python in (("openvino", arguments.openvino_python), ("onnx", arguments.onnx_python)):
        if python:
            own = {**setup, "backend": backend, "calibration": calibration}
            workers[backend] = _harness.Worker(backend, python, "_optimum_worker", own)
    compared = {name: (workers[stack], variant) for name, (stack, variant) in SIDES.items() if stack in workers}
    pairs = _harness.read_tsv(arguments.data / "stsb" / "test.tsv")
    sentences = [row["sentence1"] for row in pairs], [row["sentence2"] for row in pairs]
    scores = [float(row["score"]) for row in pairs]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        reference, _ = quality(*compared[REFERENCE], sentences, scores, folder)
        for name, (worker, variant) in compared.items():
            vectors, found[name] = quality(worker, variant, sentences, scores, folder)
            if vectors.shape == reference.shape:
                found[name]["lowest_cosine"] = round(float(cosines(vectors[:256], reference[:256]).min()), 6)
    sizes = workers["keras"].ask(variant="sizes", texts=[])["sizes"]
    for backend in ("openvino", "onnx"):
        if backend in workers:
            sizes |= workers[backend].facts["sizes"]

    def request_of(turn, name):
        return {"texts": texts[turn * arguments.slice : (turn + 1) * arguments.slice]}

    sides = {name: (worker, {"variant": variant}) for name, (worker, variant) in compared.items()}
    summary = _harness.compare(_harness.alternate(sides, request_of, arguments.rounds), BASELINE)
    for name, row in summary.items():
        row.update({"lowest_cosine": "", **found[name], "megabytes": sizes.get(compared[name][1], "")})
    extra = ("sts_spearman", "lowest_cosine", "rows_changed_by_batch", "megabytes")
    title = f"Banking77 texts, batch {arguments.batch_size}, calls of {arguments.slice}; ratio to {BASELINE}"
    _harness.show(title, summary, extra=extra)
    result = {"slice": arguments.slice, "batch_size": arguments.batch_size, "baseline": BASELINE, "sides": summary}
    _harness.write(arguments.name, result, workers.values())
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
