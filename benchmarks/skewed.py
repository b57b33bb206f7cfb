"""Rare labels: weighted and focal losses, balanced sampling, and tuned thresholds.

    python benchmarks/skewed.py --data ../shared/data

Heads with one hidden layer on frozen features of all-MiniLM-L6-v2, over three seeds, on two sets:

- goemotions: 28 emotions, any number per text, from 0.2 % to 30 % of the rows; `--rows` rows of the training set;
- clothing reviews: whether the customer does not recommend the garment, 18 % of the rows, as one label of a model with
  `multi_label`.

Each way of training is scored on the test rows at a threshold of 0.5, and at thresholds with the largest F1 on the dev
rows (`decisions.Thresholds`); no choice uses test rows. For the plain way, a third column uses the lowest thresholds
with a precision of 0.5 on dev rows. Features are encoded once and cached in `--cache`. Results go to
`results/skewed.json`.
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
import warnings

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness
from benchmarks.decisions import Frozen
from tfxfer.decisions import Scaling, Thresholds

PRESET = "all_minilm_l6_v2"
WAYS = ("plain", "weighted", "weighted, root", "focal", "balanced sampling")
EPOCHS, BATCH, UNITS = 12, 128, 256


def weights_of(targets):
    """Returns the positive weights that balance rows with and without a label; at most 100."""
    share = np.maximum(targets.mean(axis=0), 1e-4)
    return np.minimum((1 - share) / share, 100.0)


def loss_of(way, targets):
    """Returns the loss of a way of training."""
    if way == "weighted":
        return tx.losses.WeightedBinaryCrossentropy(weights_of(targets).tolist())
    if way == "weighted, root":
        return tx.losses.WeightedBinaryCrossentropy(np.sqrt(weights_of(targets)).tolist())
    if way == "focal":
        return tx.losses.WeightedBinaryCrossentropy(gamma=2.0)
    return tx.losses.WeightedBinaryCrossentropy()


def sampled(way, targets, rng):
    """Returns the training rows: all, or the same number drawn by the rarest label of each row."""
    if way != "balanced sampling":
        return np.arange(len(targets))
    counts = np.maximum(targets.sum(axis=0), 1)
    none = max((targets.sum(axis=1) == 0).sum(), 1)
    chances = np.where(targets.any(axis=1), (targets / counts).max(axis=1), 1 / none)
    return rng.choice(len(targets), len(targets), p=chances / chances.sum())


def trained(way, features, targets, seed):
    """Trains a head in one of the ways; returns its function from features to logits."""
    keras.utils.set_random_seed(seed)
    rows = sampled(way, targets, np.random.default_rng(seed))
    head = keras.Sequential(
        [
            keras.layers.Dense(UNITS, "gelu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(targets.shape[1]),
        ]
    )
    steps = EPOCHS * -(-len(rows) // BATCH)
    head.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, steps)), loss_of(way, targets))
    head.fit(features[rows], targets[rows], batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return lambda features: head.predict(features, batch_size=2048, verbose=0)


def tuned(thresholds, probabilities, targets):
    """Returns thresholds fitted on dev rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels that are too rare for a threshold
        return thresholds.fit(probabilities, targets).values.tolist()


def score(targets, probabilities, labels, threshold):
    """Returns macro- and micro-F1, and the mean precision and recall over labels."""
    found = tx.evaluation.classification_scores(targets, probabilities, labels, threshold=threshold)
    each = list(found["per_class"].values())
    return {
        "macro_f1": statistics.fmean(row["f1"] for row in each),
        "micro_f1": found["micro_f1"],
        "precision": statistics.fmean(row["precision"] for row in each),
        "recall": statistics.fmean(row["recall"] for row in each),
    }


def measured(name, labels, parts, seeds, start):
    """Returns the scores of all ways on a data set, a dict for each way, seed and choice of thresholds."""
    rows = []
    for way in WAYS:
        for seed in seeds:
            run = trained(way, *parts["train"], seed)
            sigmoid = lambda logits: 1 / (1 + np.exp(-logits))  # noqa: E731
            dev, test = (sigmoid(run(parts[part][0])) for part in ("dev", "test"))
            y_dev, y_test = parts["dev"][1], parts["test"][1]
            cells = {"0.5": 0.5, "f1": tuned(Thresholds(), dev, y_dev)}
            if way == "plain":
                cells["precision 0.5"] = tuned(Thresholds("precision", at=0.5), dev, y_dev)
            scaling = Scaling().fit(run(parts["dev"][0]), y_dev, multi_label=True)
            ece = tx.evaluation.calibration_scores(y_test, test)["ece"]
            for thresholds, values in cells.items():
                found = score(y_test, test, labels, values)
                own = {"ece": ece, "temperature": scaling.temperature}
                rows.append({"set": name, "way": way, "thresholds": thresholds, "seed": seed, **found, **own})
            print(f"{name} {way} {seed}: {time.process_time() - start:.0f} s", flush=True)
    return rows


def goemotions(frozen, folder, count):
    """Returns the labels, and the parts of features and targets."""
    labels = (folder / "goemotions" / "labels.txt").read_text(encoding="utf-8").split()
    parts = {}
    for part in ("train", "dev", "test"):
        rows = _harness.read_tsv(folder / "goemotions" / f"{part}.tsv")[: count if part == "train" else None]
        targets = np.array([[label in row["labels"].split() for label in labels] for row in rows], "int64")
        parts[part] = frozen(f"goemotions_{part}", [row["text"] for row in rows]), targets
    return labels, parts


def clothing(frozen, folder):
    """Returns the same for reviews, with one label for garments that are not recommended."""
    parts = {}
    for part in ("train", "dev", "test"):
        rows = _harness.read_tsv(folder / "clothing_reviews" / f"{part}.tsv")
        texts = [f"{row['title']}. {row['review']}" for row in rows]
        targets = np.array([[int(row["recommended"] == "0")] for row in rows], "int64")
        parts[part] = frozen(f"reviews_{part}", texts), targets
    return ["not recommended"], parts


def main():
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=8000, help="training rows of goemotions")
    parser.add_argument("--cache", type=pathlib.Path, default=_harness.LOGS / "skewed.npz")
    arguments = parser.parse_args()
    start = time.process_time()
    frozen = Frozen(arguments.cache)
    sets = {
        "clothing reviews": clothing(frozen, arguments.data),
        "goemotions": goemotions(frozen, arguments.data, arguments.rows),
    }
    rows = []
    for name, (labels, parts) in sets.items():
        rows += measured(name, labels, parts, arguments.seeds, start)
    table = {}
    for row in rows:
        table.setdefault((row["set"], row["way"], row["thresholds"]), []).append(row)
    names = ("macro_f1", "micro_f1", "precision", "recall", "ece")
    made = []
    for (name, way, thresholds), cells in table.items():
        means = {key: round(statistics.fmean(cell[key] for cell in cells), 4) for key in names}
        spread = round(statistics.stdev(cell["macro_f1"] for cell in cells), 4) if len(cells) > 1 else None
        made.append({"set": name, "way": way, "thresholds": thresholds, **means, "macro_f1_deviation": spread})
        print(f"{name:>17}{way:>19}{thresholds:>15}" + "".join(f"{means[key]:11.4f}" for key in names))
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    result = {
        "preset": PRESET,
        "seeds": arguments.seeds,
        "head": {"units": UNITS, "epochs": EPOCHS, "batch_size": BATCH},
        "rows": {name: {part: len(x) for part, (x, _) in parts.items()} for name, (_, parts) in sets.items()},
        "means": made,
        "runs": rows,
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("skewed", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
