"""The value of labels that `suggest` asks for, against labels of the same number of random texts.

    python benchmarks/suggest.py --data ../shared/data

Banking77, 77 classes. Of 1,500 texts from its training set, 154 random ones are labeled first. Then a frozen probe on
all-MiniLM-L6-v2 (`freezing.probe`) is fitted, 77 more texts are chosen from the rest, and so on. Both ways begin with
the same labels; the score is the accuracy on the test set, which no choice uses. Results go to `results/suggest.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import random
import statistics
import time
import types

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
FIRST, MORE, ROUNDS, POOL = 154, 77, 2, 1500
WAYS = ("random", "suggest")


def accuracy(model, features, targets):
    """Returns the accuracy on features of the encoder, which is frozen."""
    logits = keras.ops.convert_to_numpy(model.head(features))
    return float((logits.argmax(axis=1) == model.read_targets(targets)).mean())


def choose(way, model, texts, rest, seed):
    """Returns the rows to label next, from those without a label."""
    if way == "random":
        return random.Random(seed).sample(rest, MORE)
    return [rest[found.index] for found in model.suggest([texts[row] for row in rest], MORE)]


def learn(way, model, texts, targets, test, seed):
    """Returns the test accuracy after each round of labels."""
    pool = random.Random(seed).sample(range(len(texts)), POOL)
    labelled, scores = pool[:FIRST], []
    for turn in range(ROUNDS + 1):
        tx.freezing.probe(model, [texts[row] for row in labelled], [targets[row] for row in labelled])
        scores.append(round(accuracy(model, *test), 4))
        if turn < ROUNDS:
            rest = sorted(set(pool) - set(labelled))
            labelled = [*labelled, *choose(way, model, texts, rest, 100 * seed + turn)]
    return scores


def main():
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    start = time.process_time()
    rows = {part: _harness.read_tsv(arguments.data / "banking77" / f"{part}.tsv") for part in ("train", "test")}
    texts, targets = ([row[name] for row in rows["train"]] for name in ("text", "label"))
    model = tx.models.TextClassifier.from_preset(PRESET, labels=sorted(set(targets)), sequence_length=64)
    embedder = tx.models.TextEmbedder(model.backbone, model.preprocessor, pooling=model.pooling, normalize=False)
    test = np.array(embedder.encode([row["text"] for row in rows["test"]])), [row["label"] for row in rows["test"]]
    cells = []
    print(f"{'labels':>16}" + "".join(f"{FIRST + turn * MORE:9}" for turn in range(ROUNDS + 1)))
    for seed in arguments.seeds:
        for way in WAYS:
            scores = learn(way, model, texts, targets, test, seed)
            cells.append({"seed": seed, "way": way, "accuracy": scores})
            print(f"{way:>12}{seed:4}" + "".join(f"{score:9.4f}" for score in scores), flush=True)
    means = {
        way: [
            round(statistics.fmean(values), 4)
            for values in zip(*(cell["accuracy"] for cell in cells if cell["way"] == way), strict=True)
        ]
        for way in WAYS
    }
    for way, scores in means.items():
        print(f"{way:>12}    " + "".join(f"{score:9.4f}" for score in scores) + "  mean")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    result = {
        "preset": PRESET,
        "labels": [FIRST + turn * MORE for turn in range(ROUNDS + 1)],
        "pool": POOL,
        "mean": means,
        "runs": cells,
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("suggest", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
