"""The default recipe against a frozen probe and plain fine-tuning, on five data sets of 10 to 4,000 rows.

    python benchmarks/recipes.py --data ../shared/data

Three ways to train a model on all-MiniLM-L6-v2, scored on the test split, which no choice used:

- `probe`: `freezing.probe`, with the encoder frozen;
- `plain`: all layers with `AdamW(1e-4)`, 5 epochs, batches of 16, a new head;
- `auto`: `compile()` and `fit(epochs="auto", batch_size=16)`, with their defaults.

Sizes are rows per class (for numbers: twice as many rows in total), and 2,000 rows. Scores: accuracy (banking77;
clothing reviews: whether the garment is recommended; nli: a cross-encoder on pairs), mean average precision over all
labels and rows (goemotions), Spearman's rank correlation (query_wellformedness). Results go to `results/recipes.json`
cell by cell; existing cells are not computed again.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import random
import time

import tfxfer as tx

# isort: split
import keras
import scipy.stats
import sklearn.metrics

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
SIZES = (5, 10, 50, 2000)
BATCH_SIZE = 16
TEST_ROWS = 2000
WAYS = ("probe", "plain", "auto")


def banking77(rows):
    return [row["text"] for row in rows], [row["label"] for row in rows]


def clothing_reviews(rows):
    rows = [row for row in rows if row["review"].strip()]
    return [f"{row['title']}. {row['review']}" for row in rows], [row["recommended"] for row in rows]


def goemotions(rows):
    return [row["text"] for row in rows], [row["labels"].split() for row in rows]


def query_wellformedness(rows):
    return [row["text"] for row in rows], [float(row["score"]) for row in rows]


def nli(rows):
    return [(row["premise"], row["hypothesis"]) for row in rows], [row["label"] for row in rows]


SETS = {each.__name__: each for each in (query_wellformedness, banking77, goemotions, nli, clothing_reviews)}


def sample(targets, size, seed):
    """Returns the rows of a training set: up to `size` per class, or `size` in total from 2,000 on."""
    order = list(range(len(targets)))
    random.Random(seed).shuffle(order)
    if size >= 2000:
        return order[:size]
    if isinstance(targets[0], float):
        return order[: 2 * size]
    counts, taken = {}, []
    for row in order:
        labels = targets[row] if isinstance(targets[row], list) else [targets[row]]
        if any(counts.get(label, 0) < size for label in labels):
            taken.append(row)
            counts.update({label: counts.get(label, 0) + 1 for label in labels})
    return taken


def columns(texts):
    """Returns texts, or pairs as a tuple of two columns."""
    return tuple(map(list, zip(*texts, strict=True))) if isinstance(texts[0], tuple) else texts


def model_for(targets):
    """Returns a model with a new head for targets of one of the three kinds."""
    if isinstance(targets[0], float):
        return tx.models.TextRegressor.from_preset(PRESET, sequence_length=128)
    several = isinstance(targets[0], list)
    labels = sorted({label for row in targets for label in (row if several else [row])})
    return tx.models.TextClassifier.from_preset(PRESET, labels=labels, multi_label=several, sequence_length=128)


def score(model, texts, targets):
    """Returns the score of a model on a data set, and for two classes macro-F1 and the area under the ROC curve."""
    outputs = model.predict(columns(texts), verbose=0)
    if isinstance(targets[0], float):
        return {"score": float(scipy.stats.spearmanr(outputs[:, 0], targets).statistic)}
    truth = model.read_targets(targets)
    if model.multi_label:
        return {"score": float(sklearn.metrics.average_precision_score(truth, outputs, average="micro"))}
    found = {"score": float((outputs.argmax(axis=1) == truth).mean())}
    if outputs.shape[1] == 2:  # classes of unequal size, which accuracy hides
        found["macro_f1"] = float(sklearn.metrics.f1_score(truth, outputs.argmax(axis=1), average="macro"))
        found["auc"] = float(sklearn.metrics.roc_auc_score(truth, outputs[:, 1] - outputs[:, 0]))
    return found


def train(way, texts, targets, every_target, seed):
    """Trains a model in one of the three ways; returns it and notes."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, start = model_for(every_target), time.perf_counter()
    if way == "probe":
        found = tx.freezing.probe(model, columns(texts), targets)
        return model, {"penalty": found.penalty, "held_out": found.scores, "seconds": time.perf_counter() - start}
    model.compile(*([tx.optimizers.AdamW(1e-4)] if way == "plain" else []))
    epochs = 5 if way == "plain" else "auto"
    history = model.fit(columns(texts), targets, batch_size=BATCH_SIZE, epochs=epochs, seed=seed, verbose=0)
    return model, {"epochs": len(history.epoch), "seconds": time.perf_counter() - start}


def table(cells):
    """Formats the mean scores as lines of text."""
    lines = [f"{'':32}" + "".join(f"{way:>10}" for way in WAYS)]
    for name in SETS:
        for size in SIZES:
            found = {
                way: [c["score"] for c in cells if (c["set"], c["size"], c["way"]) == (name, size, way)] for way in WAYS
            }
            if all(found.values()):
                means = "".join(f"{sum(scores) / len(scores):10.3f}" for scores in found.values())
                lines.append(f"{name:22}{size:6} x{len(found['auto']):<2}{means}")
    return "\n".join(lines)


def main():
    """Fills the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=pathlib.Path, default=_harness.RESULTS / "recipes.json")
    arguments = parser.parse_args()
    cells = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    for seed in arguments.seeds:
        for name in arguments.sets:
            texts, targets = SETS[name](_harness.read_tsv(arguments.data / name / "train.tsv"))
            held_out = list(zip(*SETS[name](_harness.read_tsv(arguments.data / name / "test.tsv")), strict=True))
            if len(held_out) > TEST_ROWS:
                held_out = random.Random(0).sample(held_out, TEST_ROWS)
            for size in arguments.sizes:
                rows = sample(targets, size, seed)
                for way in WAYS:
                    key = {"set": name, "size": size, "seed": seed, "way": way}
                    if any(key.items() <= cell.items() for cell in cells):
                        continue
                    chosen = [texts[row] for row in rows], [targets[row] for row in rows]
                    model, notes = train(way, *chosen, targets, seed)
                    found = score(model, *map(list, zip(*held_out, strict=True)))
                    cells.append({**key, "rows": len(rows), **found, **notes})
                    print(cells[-1], flush=True)
                    part = arguments.output.with_suffix(".part")
                    part.write_text(json.dumps(cells, indent=1) + "\n")
                    part.replace(arguments.output)
    print(table(cells))


if __name__ == "__main__":
    main()
