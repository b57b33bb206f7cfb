"""Two revisions of tfxfer against each other in one alternating run: sentences encoded and rows trained per second.

`git worktree add ../before REVISION` creates the folder for `--before`. Each side runs its own package and worker
script, with the interpreter that runs this file.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import random

from benchmarks import _harness
from benchmarks.encode import weights_folder
from benchmarks.train_step import setup_of

BEFORE, AFTER = "before", "after"


def measure(name, setup, request_of, arguments):
    """Runs one workload on both revisions; returns the summary."""
    roots = {BEFORE: arguments.before.resolve(), AFTER: _harness.ROOT}
    workers = {
        side: _harness.Worker(side, sys.executable, "_keras_worker", setup, root=root) for side, root in roots.items()
    }
    for side, worker in workers.items():  # the first call traces and is not timed
        worker.ask(**request_of(0, side))
    answers = _harness.alternate(workers, request_of, arguments.rounds, report=lambda line: None)
    for worker in workers.values():
        worker.close()
    summary = _harness.compare(answers, BEFORE)
    _harness.show(f"{name}; ratio to the revision before", summary)
    return summary, list(workers.values())


def main():
    """Runs the requested workloads, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, required=True, help="folder of the other revision")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77/ and nli_triplets/")
    parser.add_argument("--workloads", nargs="+", default=["encode", "classifier", "triplets", "equal"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "mixed_bfloat16"])
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()

    rows = _harness.read_tsv(arguments.data / "banking77" / "train.tsv")
    texts = random.Random(0).sample([row["text"] for row in rows], 512)
    results, workers = {}, []
    for workload in arguments.workloads:
        for dtype in arguments.dtypes:
            if workload == "encode":
                sizes = {"sequence_length": 256, "batch_size": arguments.batch_size}
                setup = {"workload": "encode", "weights": weights_folder(), **sizes}
                request = {"texts": texts, "variant": dtype}
            else:
                setup = {**setup_of(workload, arguments), "dtype": dtype}
                request = {"batches": 5}
            name = f"{workload} {dtype}"
            results[name], used = measure(name, setup, lambda turn, side, request=request: request, arguments)
            workers += used
    _harness.write("revisions", {"baseline": BEFORE, **results}, workers)


if __name__ == "__main__":
    main()
