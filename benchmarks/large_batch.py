"""Batches that exceed memory: in-batch negatives in chunks, against one pass and sentence-transformers' cached loss.

A training step of multiple negatives ranking on caption pairs at each batch size, AdamW, dropout on, after one warm-up
step; peak memory of the process minus its memory before training. Each figure has its own process.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse

from benchmarks import _harness
from benchmarks.encode import weights_folder

SIDES = {"tfxfer, one pass": "keras", "tfxfer, chunks": "keras", "sentence-transformers, cached": "torch"}


def main():
    """Measures all sizes on all sides, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with caption_pairs/train.tsv")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--chunk", type=int, default=64, help="texts computed at a time")
    parser.add_argument("--one-pass-up-to", type=int, default=512, help="largest batch to try in one pass")
    arguments = parser.parse_args()
    results, workers = {}, []
    print(f"{'':30} {'pairs':>6} {'s a step':>9} {'pairs/s':>8} {'peak MiB':>9}")
    for size in arguments.sizes:
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
            worker = _harness.Worker(side, *(python if stack == "torch" else module), setup)
            answer = worker.ask()
            worker.close()
            workers.append(worker)
            results.setdefault(side, {})[size] = answer
            rate = size / answer["seconds"]
            print(f"{side:30} {size:6} {answer['seconds']:9.1f} {rate:8.1f} {answer['peak_mib']:9.0f}", flush=True)
    _harness.write("large_batch", {"chunk": arguments.chunk, "sides": results}, workers)


if __name__ == "__main__":
    main()
