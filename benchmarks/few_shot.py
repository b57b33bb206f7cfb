"""Classifiers from a few rows per class, in the four ways of `models.few_shot`, over several draws of rows.

    python benchmarks/few_shot.py --data ../shared/data

Banking77 (77 classes), all-MiniLM-L6-v2, `--size` rows of each class of the training split, accuracy on the whole test
split. `setfit` is the published method: pairs of texts, cosines of 1 and 0, one epoch in batches of 16 at 2e-5, then a
logistic regression (Tunstall et al., 2022, https://arxiv.org/abs/2209.11055). `--pairs` is the number of pairs of each
kind for each text, 20 in the paper. With `--setfit-python`, an interpreter that has SetFit, that library trains on the
same rows in the same way. No choice used the test split: to compare settings, pass `--split dev`.

Results go to `results/few_shot.json` cell by cell; existing cells are not computed again. A cell holds the way, draw,
size, pairs and split, the accuracy and, unless it was paused, the seconds.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import random
import statistics
import time

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness
from benchmarks.encode import weights_folder

PRESET = "all_minilm_l6_v2"
WAYS = ("probe", "probe_then_finetune", "lora", "setfit")
LIBRARY = "SetFit"  # the library itself
PAIRED = ("setfit", LIBRARY)


def drawn(rows, size, draw):
    """Returns `size` rows of each class, in random order."""
    rows = random.Random(draw).sample(rows, len(rows))
    counts, taken = {}, []
    for row in rows:
        if counts.get(row["label"], 0) < size:
            taken.append(row)
            counts[row["label"]] = counts.get(row["label"], 0) + 1
    return taken


def score(way, train, test, draw, pairs):
    """Trains one model; returns its accuracy and notes."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(draw)
    start = time.perf_counter()
    texts, labels = [row["text"] for row in train], [row["label"] for row in train]
    options = {"num_pairs": pairs} if way == "setfit" else {}
    model = tx.models.few_shot(PRESET, texts, labels, way=way, seed=draw, sequence_length=64, **options)
    seconds = time.perf_counter() - start
    found = model.classify([row["text"] for row in test]).labels
    accuracy = float(np.mean([name == row["label"] for name, row in zip(found, test, strict=True)]))
    return {"rows": len(train), "accuracy": accuracy, "seconds": seconds}


def table(cells):
    """Formats means and standard deviations as lines of text."""
    lines = [f"{'way':22}{'pairs':>6}{'split':>7}{'draws':>7}{'accuracy':>10}{'deviation':>11}"]
    for key in sorted({(cell["way"], cell["pairs"] or 0, cell["split"], cell["size"]) for cell in cells}):
        names = ("way", "pairs", "split", "size")
        found = [c["accuracy"] for c in cells if all((c[n] or 0) == k for n, k in zip(names, key, strict=True))]
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        way, pairs, split, _ = key
        lines.append(f"{way:22}{pairs or '':>6}{split:>7}{len(found):7}{statistics.mean(found):10.3f}{spread:11.3f}")
    return "\n".join(lines)


def main():
    """Fills the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, LIBRARY), help="default: all")
    parser.add_argument("--setfit-python", help="interpreter with setfit, for the library's side")
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--size", type=int, default=8, help="rows a class")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each kind for each text")
    parser.add_argument("--split", default="test", choices=["dev", "test"])
    parser.add_argument("--output", type=pathlib.Path, default=_harness.RESULTS / "few_shot.json")
    arguments = parser.parse_args()
    ways = arguments.ways or (*WAYS, *([LIBRARY] if arguments.setfit_python else []))
    library = None
    if LIBRARY in ways and not arguments.setfit_python:
        parser.error("--ways SetFit needs --setfit-python, an interpreter that has setfit")
    if LIBRARY in ways:
        setup = {"weights": weights_folder()}
        library = _harness.Worker(LIBRARY, arguments.setfit_python, "_setfit_worker", setup)
    cells = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    rows = list(_harness.read_tsv(arguments.data / "banking77" / "train.tsv"))
    held_out = list(_harness.read_tsv(arguments.data / "banking77" / f"{arguments.split}.tsv"))
    for draw in arguments.draws:
        for way in ways:
            key = {"way": way, "draw": draw, "size": arguments.size, "split": arguments.split}
            key["pairs"] = arguments.pairs if way in PAIRED else None
            if any(key.items() <= cell.items() for cell in cells):
                continue
            train = drawn(rows, arguments.size, draw)
            if way == LIBRARY:
                found = library.ask(train=train, test=held_out, draw=draw, pairs=arguments.pairs)
            else:
                found = score(way, train, held_out, draw, arguments.pairs)
            cells.append({**key, **found})
            print(cells[-1], flush=True)
            part = arguments.output.with_suffix(".part")
            part.write_text(json.dumps(cells, indent=1) + "\n")
            part.replace(arguments.output)
    print(table(cells))
    if library is not None:
        library.close()


if __name__ == "__main__":
    main()
