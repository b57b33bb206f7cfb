"""Held-out quality of batches by length against batches in random order: what the speed of `data.batches` costs.

Per seed and order, all-MiniLM-L6-v2 is trained on STS-B's train rows (CoSENT, batch 32, AdamW 2e-5, a tenth of the
steps warm-up, then half a cosine, dropout on) and scored on its test rows. The two orders differ in nothing else.
"""

import pathlib
import sys

# The `tokenize.py` beside this file would hide the standard library's from all that is imported below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import statistics
import time

import keras

import tfxfer as tx
from benchmarks import _harness

LEARNING_RATE = 2e-5
BATCH_SIZE = 32
COLUMNS = ("sentence1", "sentence2")


def train(arguments, rows, test, *, seed, bucket):
    """One training; returns the test Spearman and the seconds of `fit`."""
    keras.utils.set_random_seed(seed)
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2", sequence_length=128)
    batches = tx.data.batches(
        tx.data.pairs(rows, COLUMNS, target="score"),
        embedder.preprocessor,
        BATCH_SIZE,
        columns="separate",
        bucket=bucket,
        seed=seed,
    )
    steps = arguments.epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=LEARNING_RATE, warmup_steps=steps // 10
    )
    siamese = tx.models.Siamese(embedder)
    siamese.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss=tx.losses.CoSENTLoss())
    start = time.perf_counter()
    siamese.fit(batches, epochs=arguments.epochs, verbose=0)
    seconds = time.perf_counter() - start
    scores = tx.evaluation.similarity(embedder, tx.data.pairs(test, COLUMNS, target="score"), progress=False)
    return {"seed": seed, "spearman": round(scores["spearman"], 4), "seconds": round(seconds, 1)}


class _Versions:
    """Stands for a worker where the harness asks for versions."""

    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub")}


def main():
    """Trains seed by seed in both orders, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with stsb/train.tsv and stsb/test.tsv")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows, test = (tx.data.read(arguments.data / "stsb" / f"{name}.tsv") for name in ("train", "test"))
    found = {"by length": [], "random order": []}
    for seed in range(arguments.seeds):
        for name, runs in found.items():
            runs.append(train(arguments, rows, test, seed=seed, bucket=name == "by length"))
            last = runs[-1]
            print(f"{name:12}  seed {seed}: Spearman {last['spearman']:.4f}, {last['seconds']:.0f} s", flush=True)
    means = {name: round(statistics.mean(run["spearman"] for run in runs), 4) for name, runs in found.items()}
    print(f"\nmean test Spearman of {arguments.seeds} seeds: " + ", ".join(f"{n} {m:.4f}" for n, m in means.items()))
    _harness.write("quality", {"epochs": arguments.epochs, "mean_spearman": means, "runs": found}, [_Versions])


if __name__ == "__main__":
    main()
