"""A cold start: import, load, the first vector and the first training step, in a fresh process.

Each round starts and ends a process for each side, in turn; the first round is not counted, because it reads the files
from the disk. tfxfer traces its graphs in the first call of each kind; sentence-transformers on PyTorch has no graphs.
Seconds are wall and CPU seconds: on a machine with other work, the latter vary less. Each side uses one thread, as
tracing does: on a busy machine, two PyTorch threads wait for each other, and use up to eight times the CPU seconds of
one.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import statistics

from benchmarks import _harness
from benchmarks.encode import weights_folder

BASELINE, OWN = "sentence-transformers", "tfxfer"
BATCH = 16
QUESTIONS = _harness.ROOT / "examples" / "data" / "support_questions" / "train.tsv"


def measure(sides, setup, rounds):
    """Returns a worker of each side, and for each side the times of each of its processes."""
    workers, found = {}, {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            stack, python = sides[name]
            workers[name] = _harness.Worker(name, python, "_cold_worker", {**setup, "stack": stack})
            workers[name].close()
            if turn:
                found[name].append(workers[name].facts["laps"])
        print(f"  round {turn}/{rounds}", flush=True)
    return workers, found


def summary(found):
    """Returns seconds (median) and ratios to the baseline within rounds, by step and side."""
    result = {}
    for step in found[BASELINE][0]:
        result[step] = {}
        for place, kind in enumerate(("seconds", "cpu_seconds")):
            for name, rounds in found.items():
                row = result[step].setdefault(name, {})
                ratios = [
                    own[step][place] / other[step][place] for own, other in zip(rounds, found[BASELINE], strict=True)
                ]
                row[kind] = round(statistics.median(laps[step][place] for laps in rounds), 4)
                row[f"{kind}_ratio"] = round(statistics.median(ratios), 2)
    return result


def main():
    """Starts the processes, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=".venv-bench/bin/python", help="with sentence-transformers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    _harness.THREADS = arguments.threads
    rows = _harness.read_tsv(QUESTIONS)[:BATCH]  # of every intent
    setup = {"weights": weights_folder(), "texts": [r["text"] for r in rows], "labels": [r["label"] for r in rows]}
    sides = {BASELINE: ("torch", arguments.torch_python), OWN: ("keras", sys.executable)}
    workers, found = measure(sides, setup, arguments.rounds)
    steps = summary(found)
    width = max(map(len, steps))
    print(
        f"\n{'':{width}}  {BASELINE:>28}  {OWN:>28}  {'ratio':>14}\n{'':{width}}" + f"  {'s':>14}{'s of CPU':>14}" * 2
    )
    for step, row in steps.items():
        values = "  ".join(f"{row[n]['seconds']:14.3f}{row[n]['cpu_seconds']:14.3f}" for n in (BASELINE, OWN))
        own = row[OWN]
        print(f"{step:{width}}  {values}  {own['seconds_ratio']:7.2f}{own['cpu_seconds_ratio']:7.2f}")
    _harness.write("cold", {"rounds": arguments.rounds, "rows": len(rows), "steps": steps}, workers.values())


if __name__ == "__main__":
    main()
