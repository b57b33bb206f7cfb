"""Memory and processor time of a training step on long texts, with and without `gradient_checkpointing`.

    python benchmarks/checkpointing.py

An encoder of 12 layers in the width of MiniLM, a classifier's step with AdamW and dropout on `--rows` texts of
`--tokens` tokens, float32. Each side is a process of its own; its peak memory is what the process held at most, minus
what it held after a step on one text of 8 tokens. Sides take turns; seconds are those of the processor. Results go to
`results/checkpointing.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import time
import types

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness

SIZES = {"num_layers": 12, "num_heads": 12, "hidden_dim": 384, "intermediate_dim": 1536}
VOCABULARY = 1000


def step(rows, tokens, checkpointing):
    """Returns the MiB, the seconds of the processor and the loss of one step."""
    keras.utils.set_random_seed(0)
    backbone = tx.backbones.Backbone("bert", vocabulary_size=VOCABULARY, max_sequence_length=tokens, **SIZES)
    backbone.gradient_checkpointing = checkpointing
    vectors = tx.layers.Pooling("mean")(backbone(backbone.input), backbone.input["padding_mask"])
    model = keras.Model(backbone.input, keras.layers.Dense(2)(vectors))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tx.optimizers.AdamW(1e-4), loss=loss, jit_compile=False)
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (rows, tokens)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    y = np.arange(rows) % 2
    model.train_on_batch({name: value[:1, :8] for name, value in x.items()}, y[:1])
    before, start = _harness.peak_mib(), time.process_time()
    value = float(model.train_on_batch(x, y))
    return {"mib": _harness.peak_mib() - before, "seconds": time.process_time() - start, "loss": value}


def main():
    """Measures both sides in turn, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "checkpointing"], help="one step in this process")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(step(arguments.rows, arguments.tokens, arguments.side == "checkpointing")))
        return
    found = {"plain": [], "checkpointing": []}
    sizes = ["--rows", str(arguments.rows), "--tokens", str(arguments.tokens)]
    for turn in range(arguments.rounds):
        for side in list(found)[:: 1 if turn % 2 else -1]:
            command = [sys.executable, __file__, *sizes, "--side", side]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[side].append(json.loads(answer.splitlines()[-1]))
            print(side, found[side][-1], flush=True)
    medians = {
        side: {name: statistics.median(each[name] for each in steps) for name in steps[0]}
        for side, steps in found.items()
    }
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*found.values(), strict=True)]
    for side, values in medians.items():
        print(f"{side:14} {values['mib']:8.0f} MiB {values['seconds']:7.1f} s")
    print(f"seconds, checkpointing to plain: {statistics.median(ratios):.2f}")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    result = {
        "machine": _harness.machine(),
        **SIZES,
        **{name: getattr(arguments, name) for name in ("rows", "tokens", "rounds")},
        "sides": medians,
        "ratio": statistics.median(ratios),
    }
    _harness.write("checkpointing", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
