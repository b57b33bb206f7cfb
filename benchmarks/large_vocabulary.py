"""A training step with a vocabulary of 250,000 tokens: what its token table costs, by optimizer.

    python benchmarks/large_vocabulary.py

An encoder of the size of paraphrase-multilingual-MiniLM-L12-v2 (12 layers, 384 wide, random weights), a classifier's
step on `--rows` texts of `--tokens` tokens, float32, one thread, gradients clipped to a global norm of 1, weight decay
0.01: Keras's AdamW, this package's, and this package's with `lazy_embeddings`. The models take turns in one process;
seconds are those of the processor, the median of `--rounds`. `without` is the step of an encoder with 1,000 tokens.
Results go to `results/large_vocabulary.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import os
import statistics
import time
import types

THREADS = 1
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = str(THREADS)

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness

SIZES = {"num_layers": 12, "num_heads": 12, "hidden_dim": 384, "intermediate_dim": 1536}
LARGE, SMALL = 250_037, 1_000
SETTINGS = {"weight_decay": 0.01, "global_clipnorm": 1.0}
SIDES = {
    "Keras AdamW": (LARGE, lambda: keras.optimizers.AdamW(2e-5, **SETTINGS)),
    "AdamW": (LARGE, lambda: tx.optimizers.AdamW(2e-5, **SETTINGS)),
    "AdamW, lazy_embeddings": (LARGE, lambda: tx.optimizers.AdamW(2e-5, lazy_embeddings=True, **SETTINGS)),
    "without": (SMALL, lambda: tx.optimizers.AdamW(2e-5, **SETTINGS)),
}


def make(vocabulary, optimizer, rows, tokens):
    """Returns a function that makes one step and returns the seconds of the processor."""
    keras.utils.set_random_seed(0)
    backbone = tx.backbones.Backbone("bert", vocabulary_size=vocabulary, max_sequence_length=128, **SIZES)
    vectors = tx.layers.Pooling("mean")(backbone(backbone.input), backbone.input["padding_mask"])
    model = keras.Model(backbone.input, keras.layers.Dense(2)(vectors))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=False)
    ids = np.random.default_rng(0).integers(1, vocabulary, (rows, tokens)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    y = np.arange(rows) % 2

    def step():
        start = time.process_time()
        model.train_on_batch(x, y)
        return time.process_time() - start

    step()
    return step


def main():
    """Measures all sides in turn, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    steps = {
        name: make(vocabulary, optimizer(), arguments.rows, arguments.tokens)
        for name, (vocabulary, optimizer) in SIDES.items()
    }
    seconds = {name: [] for name in steps}
    names = list(steps)
    for turn in range(arguments.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(steps[name]())
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(found, seconds["AdamW"], strict=True))
        for name, found in seconds.items()
    }
    for name in names:
        print(f"{name:26} {medians[name]:7.3f} s, to AdamW {ratios[name]:.2f}")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    result = {
        "machine": {**_harness.machine(), "threads": THREADS},
        **SIZES,
        "vocabulary": LARGE,
        **{name: getattr(arguments, name) for name in ("rows", "tokens", "rounds")},
        "seconds": medians,
        "ratios": ratios,
    }
    _harness.write("large_vocabulary", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
