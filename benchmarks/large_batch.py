"""Batches that exceed memory: in-batch negatives in chunks, against one pass and sentence-transformers' cached loss.

Steps of multiple negatives ranking on caption pairs at each batch size, AdamW, dropout on, after a warm-up step. The
sides take turns, a step each; peak memory of the process minus its memory before training.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse

from benchmarks import _harness
from benchmarks.encode import weights_folder

BASELINE = "sentence-transformers, cached"
SIDES = {"tfxfer, one pass": "keras", "tfxfer, chunks": "keras", BASELINE: "torch"}


def main():
    """Measures all sizes on all sides, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with caption_pairs/train.tsv")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--chunk", type=int, default=64, help="texts computed at a time")
    parser.add_argument("--one-pass-up-to", type=int, default=512, help="largest batch to try in one pass")
    parser.add_argument("--rounds", type=int, default=4, help="measured steps at each size")
    arguments = parser.parse_args()
    results, workers = {}, []
    for size in arguments.sizes:
        sides = {}
        for side, stack in SIDES.items():
            if side.endswith("one pass") and size > arguments.one_pass_up_to:
                continue
            setup = {
                "workload": "large_batch",
                "weights": weights_folder(),
                "train": str(arguments.data / "caption_pairs" / "train.tsv"),
                "sequence_length": 128,
                "batch_size": size,
                "chunk": None if side.endswith("one pass") else arguments.chunk,
            }
            python, module = (arguments.torch_python, "_torch_worker"), (sys.executable, "_keras_worker")
            sides[side] = _harness.Worker(side, *(python if stack == "torch" else module), setup)
        workers += sides.values()
        answers = _harness.alternate(sides, lambda turn, name: {}, arguments.rounds)
        summary = _harness.compare(answers, BASELINE)
        for side, row in summary.items():
            row["seconds"] = round(size / row["rows_per_second"], 2)
            row["peak_mib"] = max(answer["peak_mib"] for answer in answers[side])
            sides[side].close()
        _harness.show(f"{size} pairs a step", summary, extra=("seconds", "peak_mib"))
        results[size] = summary
    _harness.write("large_batch", {"chunk": arguments.chunk, "sizes": results}, workers)


if __name__ == "__main__":
    main()
