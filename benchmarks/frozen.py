"""Savings from freezing: an epoch of Banking77 with frozen layers, their output recomputed or cached.

MiniLM (6 blocks) with a linear head, batch 32, AdamW, dropout on (off in frozen layers, except in PyTorch): full
fine-tuning; embeddings and 4 of 6 blocks frozen; the whole encoder frozen; the latter two without and with
`freezing.AboveFrozen`; and sentence-transformers' model in a PyTorch loop with the same layers frozen
(`requires_grad_(False)`).

Expected from the floating-point operations: a block costs one part forward and two backward. Full: 6 x 3 = 18. 4 of 6
frozen: 6 forward and 2 x 2 backward, 10 of 18 = 0.56. With the frozen output cached: 2 x 3, 6 of 18 = 0.33.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse

from benchmarks import _harness
from benchmarks.encode import weights_folder

WINDOW = 50
BASELINE = "tfxfer, all"
# Name: script, blocks frozen in addition to the embeddings, whether their output is cached.
SIDES = {
    BASELINE: ("keras", None, False),
    "tfxfer, 4 of 6 frozen": ("keras", 4, False),
    "tfxfer, 4 of 6 frozen, kept": ("keras", 4, True),
    "tfxfer, encoder frozen": ("keras", 6, False),
    "tfxfer, encoder frozen, kept": ("keras", 6, True),
    "sentence-transformers, all": ("torch", None, False),
    "sentence-transformers, 4 of 6 frozen": ("torch", 4, False),
    "sentence-transformers, encoder frozen": ("torch", 6, False),
}
WHOLE = "tfxfer, encoder frozen, kept"


def start(name, arguments):
    """Starts one side."""
    stack, frozen, cached = SIDES[name]
    python, module = {"torch": (arguments.torch_python, "_torch_worker"), "keras": (sys.executable, "_keras_worker")}[
        stack
    ]
    setup = {
        "workload": "train",
        "task": "classifier",
        "weights": weights_folder(),
        "sequence_length": 128,
        "batch_size": arguments.batch_size,
        "warmup": 3,
        "train": str(arguments.data / "banking77" / "train.tsv"),
        "dtype": "float32",
        "frozen": frozen,
        "cached": cached,
    }
    return _harness.Worker(name, python, module, setup)


def main():
    """Runs all sides in turn, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77/")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--windows", type=int, default=3, help=f"windows of {WINDOW} batches")
    parser.add_argument("--batches", type=int, default=10, help="batches per slice")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--dry-run", action="store_true", help="write no JSON")
    arguments = parser.parse_args()
    if WINDOW % arguments.batches:
        parser.error(f"--batches has to divide {WINDOW}")
    rows = len(_harness.read_tsv(arguments.data / "banking77" / "train.tsv"))
    epoch = rows // arguments.batch_size

    names = [BASELINE, *(name for name in arguments.sides if name != BASELINE)]
    workers = {name: start(name, arguments) for name in names}
    group = WINDOW // arguments.batches
    # If a batch takes a millisecond, a slice is an epoch, including the work that happens once per epoch.
    sizes = {name: epoch if name == WHOLE else arguments.batches for name in names}
    answers = _harness.alternate(workers, lambda turn, name: {"batches": sizes[name]}, arguments.windows * group)
    for worker in workers.values():
        worker.close()
    summary = _harness.compare(answers, BASELINE, group)
    for name, row in summary.items():
        row["seconds_per_epoch"] = round(epoch * arguments.batch_size / row["rows_per_second"], 2)
        row["time_to_full"] = round(1 / row["ratio"], 3)
        row.update({key: value for key, value in workers[name].facts.items() if key in ("fill_seconds", "cache_mib")})
        if "fill_seconds" in row:
            row["seconds_first_epoch"] = round(row["seconds_per_epoch"] + row["fill_seconds"], 2)
    columns = ("seconds_per_epoch", "time_to_full", "seconds_first_epoch", "cache_mib")
    _harness.show(f"Banking77, an epoch of {epoch} batches; ratio of speeds to {BASELINE}", summary, extra=columns)
    if not arguments.dry_run:
        facts = {"baseline": BASELINE, "batch_size": arguments.batch_size, "batches_per_epoch": epoch}
        _harness.write("frozen", {**facts, "sides": summary}, list(workers.values()))


if __name__ == "__main__":
    main()
