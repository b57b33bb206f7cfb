"""Held-out quality: STS-B test Spearman after training, against sentence-transformers, in two orders of the rows.

Per seed, all-MiniLM-L6-v2 is trained on STS-B's train rows (CoSENT, batch 32, AdamW 2e-5 with weight decay 0.01,
warm-up for a tenth of the steps, then half a cosine, dropout on, no clipping) and scored on its test rows:

sentence-transformers: in PyTorch, rows in random order;
same order: tfxfer on the same batches;
by length: tfxfer with `data.batches(bucket=True)`, which groups rows of similar length.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import random
import statistics

from benchmarks import _harness
from benchmarks.encode import weights_folder

BASELINE = "sentence-transformers"
SIDES = {BASELINE: "torch", "tfxfer, same order": "keras", "tfxfer, by length": "keras"}


def main():
    """Trains seed by seed on all sides, prints the table and writes the JSON after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with stsb/train.tsv and stsb/test.tsv")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    setup = {
        "workload": "quality",
        "weights": weights_folder(),
        "train": str(arguments.data / "stsb" / "train.tsv"),
        "test": str(arguments.data / "stsb" / "test.tsv"),
        "sequence_length": 128,
        "batch_size": 32,
        "epochs": arguments.epochs,
    }
    count = len(_harness.read_tsv(setup["train"]))
    # Seeds that are not requested keep their figures in the file.
    name = f"quality_sts_{arguments.epochs}_epochs"
    file = _harness.RESULTS / f"{name}.json"
    previous = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else {}
    found = {side: [run for run in previous.get(side, ()) if run["seed"] not in arguments.seeds] for side in SIDES}
    for seed in arguments.seeds:
        chance = random.Random(seed)
        # Only full batches, so that the epochs can be joined into one list.
        orders = [chance.sample(range(count), count - count % setup["batch_size"]) for _ in range(arguments.epochs)]
        workers = []
        for side, stack in SIDES.items():
            python, module = (arguments.torch_python, "_torch_worker"), (sys.executable, "_keras_worker")
            worker = _harness.Worker(side, *(python if stack == "torch" else module), setup)
            answer = worker.ask(seed=seed, orders=None if side.endswith("by length") else orders)
            worker.close()
            workers.append(worker)
            found[side].append({"seed": seed, **answer})
            print(f"{side:24} seed {seed}: Spearman {answer['spearman']:.4f}, {answer['seconds']:.0f} s", flush=True)
        means = {side: round(statistics.mean(run["spearman"] for run in runs), 4) for side, runs in found.items()}
        print("mean so far: " + ", ".join(f"{side} {mean:.4f}" for side, mean in means.items()))
        _harness.write(name, {"epochs": arguments.epochs, "mean_spearman": means, "runs": found}, workers)


if __name__ == "__main__":
    main()
