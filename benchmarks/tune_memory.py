"""The memory of a search: the resident size of the process after each of 20 trials.

A random search for a classifier, one epoch per trial on a few rows of Banking77: little training, so that leaks of a
trial are visible. The search space is the default without the batch size, which determines the memory of a running
trial: the allocator keeps the peak, so the size would rise with the first trial of the largest batch. Sizes are
measured after garbage collection, which Keras Tuner also runs before the next trial. The first trials include one-time
allocations; the growth in the last line is from the fifth trial on.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import gc
import tempfile

import keras
import keras_tuner
import numpy as np
import psutil

import tfxfer as tx
from benchmarks import _harness

# Trials with one-time allocations: libraries, thread pools, the allocator's first arenas.
FIRST = 5


class Worker:
    """The facts about a process that `_harness.write` needs."""

    name = "tfxfer"
    versions = {"keras_tuner": keras_tuner.__version__, "tfxfer": tx.__version__}


def main():
    """Runs the search, prints the sizes and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77/train.tsv")
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rows", type=int, default=128)
    arguments = parser.parse_args()

    rows = tx.data.read(arguments.data / "banking77" / "train.tsv")
    labels = tx.data.labels(rows, "label")
    chosen = np.random.default_rng(0).permutation(len(rows))[: arguments.rows]
    some = {name: [rows[name][i] for i in chosen] for name in ("text", "label")}
    train = tx.data.labelled(some, "text", "label", labels=labels)
    options = {"labels": labels, "sequence_length": 64, "space": {"batch_size": 32}}
    hypermodel = tx.tuning.HyperModel(tx.models.TextClassifier, arguments.preset, **options)
    process, sizes = psutil.Process(), []

    class Tuner(keras_tuner.RandomSearch):
        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            keras.utils.clear_session()
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)
            print(f"trial {len(sizes):3}: {sizes[-1]:7.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        objective = keras_tuner.Objective("val_macro_f1", "max")
        tuner = Tuner(hypermodel, objective, max_trials=arguments.trials, seed=0, directory=folder)
        callbacks = [tx.callbacks.EvaluateClassification(train)]
        tuner.search(train, validation_data=train, callbacks=callbacks, epochs=1, verbose=0)
    steady = sizes[min(FIRST, len(sizes)) - 1 :]
    slope = float(np.polyfit(range(len(steady)), steady, 1)[0]) if len(steady) > 1 else 0.0
    print(f"from trial {FIRST} on: {min(steady):.0f} to {max(steady):.0f} MiB, {slope:+.1f} MiB a trial")
    result = {"preset": arguments.preset, "rows": arguments.rows, "mib": [round(size) for size in sizes]}
    _harness.write("tune_memory", {**result, "mib_a_trial": round(slope, 2)}, [Worker])


if __name__ == "__main__":
    main()
