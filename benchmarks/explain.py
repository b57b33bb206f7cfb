"""Whether explanations find the cause of an answer: words planted in real texts determine the label.

    python benchmarks/explain.py --data ../shared/data

One of two words is inserted into each text of Banking77 at a random position, and the label is that word. A classifier
on all-MiniLM-L6-v2 learns it from `--train` rows: as a probe on the frozen encoder, and fine-tuned. Measured on
`--rows` test rows that it classifies correctly:

| column | meaning |
|---|---|
| first | share of rows in which the planted word has the largest value of all words |
| error | the worst and the mean error of the integral, as a share of the sum of absolute values |
| agreement | mean rank correlation of integrated gradients and erasure |
| erasure first | share of rows in which the score falls most without the planted word |

by baseline, and by the number of steps. The last row is the sanity check of Adebayo et al. (2018): the same rows
explained by a model whose encoder has random weights. Results go to `results/explain.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import os
import random
import types

THREADS = 1
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = str(THREADS)

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
PLANTED = {"a": "velvet", "b": "copper"}
LENGTH = 48


def planted(texts, seed):
    """Returns texts with a word inserted into each, and the labels that it determines."""
    draw = random.Random(seed)
    labels = [draw.choice(sorted(PLANTED)) for _ in texts]
    found = []
    for text, label in zip(texts, labels, strict=True):
        words = text.split()
        words.insert(draw.randint(0, len(words)), PLANTED[label])
        found.append(" ".join(words))
    return found, labels


def trained(texts, labels, *, frozen):
    """Returns a classifier that has learned the labels."""
    keras.utils.set_random_seed(0)
    classifier = tx.models.TextClassifier.from_preset(PRESET, labels=sorted(PLANTED), sequence_length=LENGTH)
    if frozen:
        tx.freezing.probe(classifier, texts, labels)
    else:
        classifier.compile()
        classifier.fit(texts, labels, batch_size=16, epochs=2, seed=0, verbose=0)
    return classifier


def found_first(explanations, labels, value):
    """Returns the share of rows whose planted word has the largest value."""
    hits = []
    for each, label in zip(explanations, labels, strict=True):
        best = max(each.words, key=value)
        hits.append(PLANTED[label] in best.text)
    return float(np.mean(hits))


def measured(explanations, labels):
    """Returns the numbers of the table for some explanations."""
    off = [each.error / max(sum(abs(token.value) for token in each.tokens), 1e-3) for each in explanations]
    row = {
        "first": found_first(explanations, labels, lambda word: word.value),
        "worst error": float(np.max(off)),
        "mean error": float(np.mean(off)),
    }
    if explanations[0].words[0].erased is not None:
        agreements = [each.agreement for each in explanations if each.agreement is not None]
        row["agreement"] = float(np.mean(agreements))
        row["erasure first"] = found_first(explanations, labels, lambda word: word.erased)
    return row


def main(arguments=None):
    """Measures and prints; returns the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args(arguments)
    rows = {part: _harness.read_tsv(options.data / "banking77" / f"{part}.tsv") for part in ("train", "test")}
    read = {part: [row["text"] for row in found] for part, found in rows.items()}
    draw = random.Random(0)
    train, train_labels = planted(draw.sample(read["train"], options.train), 1)
    texts, labels = planted(draw.sample(read["test"], options.rows), 2)
    table = []
    for name, frozen in (("probe", True), ("fine-tuned", False)):
        classifier = trained(train, train_labels, frozen=frozen)
        said = classifier.classify(texts).labels
        right = [i for i, label in enumerate(labels) if said[i] == label]
        rows, truth = [texts[i] for i in right], [labels[i] for i in right]
        accuracy = len(right) / len(texts)
        settings = [{"baseline": each} for each in ("mask", "pad", "unknown", "zero")]
        settings += [{"baseline": "mask", "steps": steps} for steps in (8, 16, 64)]
        for i, setting in enumerate(settings):
            made = classifier.explain(rows, truth, tolerance=100.0, erasure=i == 0, **setting)
            table.append({"model": name, "accuracy": accuracy, **setting, **measured(made, truth)})
            _show(table[-1])
    classifier.backbone.set_weights(_shuffled(classifier.backbone.get_weights()))
    made = classifier.explain(rows, truth, tolerance=100.0, baseline="mask")
    table.append({"model": "random encoder", "accuracy": None, "baseline": "mask", **measured(made, truth)})
    _show(table[-1])
    names = ("tfxfer", "keras", "tensorflow", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    result = {
        "machine": {**_harness.machine(), "threads": THREADS},
        "rows": table,
        "train": options.train,
        "test": options.rows,
    }
    _harness.write("explain", result, [types.SimpleNamespace(versions=versions)])
    return table


def _shuffled(weights):
    draw = np.random.default_rng(0)
    return [draw.permutation(each.reshape(-1)).reshape(each.shape) for each in weights]


def _show(row):
    print(
        "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
