"""Searches for the settings of a classifier on few rows, with Keras Tuner.

    python examples/tune.py --data ../shared/data/banking77
    python examples/tune.py --data ../shared/data/banking77 --tuner hyperband --epochs 6

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `text` and `label`. The same number of rows
of each class is drawn. Each trial trains on these rows with its own settings, and the dev rows select the best trial.
The test rows are used once, at the end: for the best trial and for two settings that are not searched for. These are
the first guesses of the space, which are plain fine-tuning, and the settings of the other examples, with the head at
ten times the rate of the encoder. All train for the same number of epochs and keep the best one on dev.

The best model is exported. A process without Keras or tfxfer then asks the export for the labels of the test texts,
passed as strings.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import keras_tuner
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")
# The search covers the preset, how many blocks are frozen (none, half or all), whether they thaw, and these settings.
# Head and encoder have separate learning rates: the head is new, the encoder is pretrained.
SPACE = {
    "pooling": ["mean", "cls"],
    "head": "linear",
    "dropout": 0.1,
    "layer_decay": {"min_value": 0.7, "max_value": 1.0},
    "head_multiplier": {"min_value": 1.0, "max_value": 100.0, "sampling": "log"},
    "learning_rate": {"min_value": 3e-5, "max_value": 1e-3, "sampling": "log"},
    "warmup": 0.1,
    "batch_size": [16, 32],
}
SETTINGS = {"first guesses": {}, "by hand": {"learning_rate": 1e-4, "head_multiplier": 10.0}}


def draw(rows, rows_per_class, labels, seed):
    """Returns a dataset with the same number of rows of each class."""
    names = np.array(rows["label"])
    order = np.random.default_rng(seed).permutation(len(names))
    numbers = np.concatenate([order[names[order] == label][:rows_per_class] for label in labels])
    some = {column: [rows[column][i] for i in numbers] for column in ("text", "label")}
    return tx.data.labelled(some, "text", "label", labels=labels)


def make_tuner(arguments, hypermodel):
    """Returns the requested tuner."""
    options = {"seed": arguments.seed, "directory": arguments.folder, "project_name": arguments.tuner}
    options["overwrite"] = not arguments.resume
    if arguments.tuner == "hyperband":
        return keras_tuner.Hyperband(hypermodel, OBJECTIVE, max_epochs=arguments.epochs, **options)
    options["max_trials"] = arguments.trials
    if arguments.tuner == "random":
        return keras_tuner.RandomSearch(hypermodel, OBJECTIVE, **options)
    # The first third of the trials, at least two, is random: the optimizer needs scores to start from.
    return keras_tuner.BayesianOptimization(
        hypermodel, OBJECTIVE, num_initial_points=max(arguments.trials // 3, 2), **options
    )


def train(arguments, hypermodel, values, rows, callbacks):
    """Trains a model of the hypermodel with the given values; returns it and its best score on dev."""
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    hp.values.update(values)
    model = hypermodel.build(hp)
    name = OBJECTIVE.name
    best = keras.callbacks.EarlyStopping(name, mode="max", patience=arguments.epochs, restore_best_weights=True)
    history = hypermodel.fit(hp, model, rows, epochs=arguments.epochs, callbacks=[*callbacks, best], verbose=0)
    return model, max(history.history[name])


def ask_the_export(folder, texts):
    """Returns the labels that the exported model gives for texts, computed in a separate process."""
    run = subprocess.run(
        [sys.executable, str(HERE / "ask.py"), folder],
        input="\n".join(texts),
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split("\t")[0] for line in run.stdout.splitlines()]


def main():
    """Searches, compares, exports, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", nargs="+", default=["all_minilm_l6_v2"], help="one, or several to search over")
    parser.add_argument("--tuner", choices=("random", "hyperband", "bayesian"), default="bayesian")
    parser.add_argument("--trials", type=int, default=12, help="number of trials; hyperband has its own")
    parser.add_argument("--rows-per-class", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=4, help="epochs per trial; for hyperband, the maximum")
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=pathlib.Path, default=HERE.parent / "runs" / "tune", help="directory of the trials"
    )
    parser.add_argument("--resume", action="store_true", help="resume the search in --folder")
    parser.add_argument("--export", type=pathlib.Path, default=HERE.parent / "runs" / "tune" / "serving")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()

    train_rows, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    labels = tx.data.labels(train_rows, "label")
    rows = draw(train_rows, arguments.rows_per_class, labels, arguments.seed)
    callbacks = [tx.callbacks.EvaluateClassification(dev["text"], dev["label"])]
    options = {"space": SPACE, "sequence_length": arguments.sequence_length, "seed": arguments.seed}
    hypermodel = tx.tuning.HyperModel(tx.models.TextClassifier, arguments.preset, labels=labels, **options)
    tuner = make_tuner(arguments, hypermodel)
    start = time.perf_counter()
    epochs = {} if arguments.tuner == "hyperband" else {"epochs": arguments.epochs}
    tuner.search(rows, callbacks=callbacks, verbose=0, **epochs)
    seconds = round(time.perf_counter() - start, 1)
    table = tx.tuning.trials(tuner)
    print(table)
    print(f"{len(table)} trials on {int(rows.cardinality())} rows in {seconds} s\n")

    results = {}
    for name, values in SETTINGS.items():
        model, score = train(arguments, hypermodel, values, rows, callbacks)
        found = tx.evaluation.classification(model, test["text"], test["label"])
        results[name] = {"dev": score, "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}
    model = tx.tuning.best_model(tuner)
    found = tx.evaluation.classification(model, test["text"], test["label"])
    results["best trial"] = {"dev": table[0]["score"], "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}
    print(f"{'':14} {'dev':>8} {'test':>8} {'macro-F1':>9}")
    for name, row in results.items():
        print(f"{name:14} {row['dev']:8.4f} {row['accuracy']:8.4f} {row['macro_f1']:9.4f}")

    served = tx.export.saved_model(model, arguments.export)
    given = ask_the_export(served, test["text"])
    exported = float(np.mean(np.array(given) == np.array(test["label"])))
    word = "equal" if exported == found["accuracy"] else "NOT equal"
    print(f"exported to {served}: test accuracy from strings {exported:.4f}, {word}")

    if arguments.output:
        results["best trial"]["accuracy_exported"] = exported
        settings = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        report = {"settings": settings, "seconds": seconds, "trials": list(table), "results": results}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
