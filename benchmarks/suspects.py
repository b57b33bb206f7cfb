"""The planted wrong labels that `evaluation.suspect_labels` finds, and the time of a call.

    python benchmarks/suspects.py --data ../shared/data

Banking77, 77 classes, the training set and the pretrained all-MiniLM-L6-v2, encoded once (`head_features`). For each
seed, 5 % of the rows get another label, drawn at random. Precision is the share of planted labels among the suspects
(the data set's original wrong labels count as false alarms), recall the share of planted labels that are found.
`suggest` chooses 77 of all texts, on the same features. Results go to `results/suspects.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import statistics
import time
import types

import numpy as np

import tfxfer as tx
from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
NOISE, BUDGET = 0.05, 77
PRUNE = ("class", "noise_rate", "both")


def planted(targets, labels, seed):
    """Returns the labels with a share of them changed, and which were changed."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(targets), round(NOISE * len(targets)), replace=False)
    names = list(targets)
    for row in rows:
        names[row] = rng.choice([label for label in labels if label != names[row]])
    return [str(name) for name in names], set(rows.tolist())


def rates(found, wrong):
    """Returns precision and recall of the found rows against the changed rows."""
    hits = len(set(found) & wrong)
    return {"precision": round(hits / max(len(found), 1), 4), "recall": round(hits / len(wrong), 4)}


def main():
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    start = time.process_time()
    rows = _harness.read_tsv(arguments.data / "banking77" / "train.tsv")
    texts, targets = ([row[name] for row in rows] for name in ("text", "label"))
    labels = sorted(set(targets))
    model = tx.models.TextClassifier.from_preset(PRESET, labels=labels, sequence_length=64)
    began = time.process_time()
    features = model.head_features(texts)
    encoding = time.process_time() - began
    print(f"{len(texts)} texts encoded in {encoding:.1f} s of the processor", flush=True)
    runs = []
    for seed in arguments.seeds:
        names, wrong = planted(targets, labels, seed)
        found = {}
        for prune in PRUNE:
            began = time.process_time()
            each = tx.evaluation.suspect_labels(model, texts, names, features=features, prune=prune, seed=seed)
            suspects = [row["index"] for row in each["suspects"]]
            suggested = [row["suggested"] == targets[row["index"]] for row in each["suspects"] if row["index"] in wrong]
            found[prune] = {
                "suspects": len(suspects),
                **rates(suspects, wrong),
                "precision_of_first_100": rates(suspects[:100], wrong)["precision"],
                "true_label_suggested": round(float(np.mean(suggested)), 4),
                "noise": round(each["noise"], 4),
                "seconds": round(time.process_time() - began, 1),
            }
            print(f"seed {seed} {prune:>10} {found[prune]}", flush=True)
        runs.append({"seed": seed, **found})
    began = time.process_time()
    model.suggest(texts, BUDGET, features=features)
    suggesting = time.process_time() - began
    mean = {
        prune: {name: round(statistics.fmean(run[prune][name] for run in runs), 4) for name in runs[0][prune]}
        for prune in PRUNE
    }
    for prune, values in mean.items():
        print(f"mean {prune:>12} {values}")
    print(f"suggest {suggesting:.2f} s")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "scipy")}
    result = {
        "preset": PRESET,
        "rows": len(texts),
        "noise": NOISE,
        "seconds_of_processor_to_encode": round(encoding, 1),
        "seconds_of_processor_to_suggest": round(suggesting, 2),
        "mean": mean,
        "runs": runs,
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("suspects", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
