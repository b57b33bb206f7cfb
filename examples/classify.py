"""Trains a classifier on a directory of labeled texts: linear probe, full fine-tuning, export.

    python examples/classify.py --data ../shared/data/banking77

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `text` and `label`. The probe is a logistic
regression on precomputed embeddings. Fine-tuning starts from the probe and trains every layer: a head that already fits
does not distort the pretrained features as a random one does (Kumar et al., 2022, https://arxiv.org/abs/2202.10054).
Finally, a process without Keras or tfxfer asks the exported model for the labels of the test texts, passed as strings.
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
import numpy as np
import sklearn.linear_model

HERE = pathlib.Path(__file__).resolve().parent


class Clock:
    """Returns the seconds since the previous call."""

    def __init__(self):
        self.start = time.perf_counter()

    def __call__(self):
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        return round(seconds, 1)


def probe(arguments, train, test):
    """Fits a logistic regression on the pretrained embeddings; returns it, their mean norm, and the results."""
    clock = Clock()
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=arguments.sequence_length)
    x_train, x_test = (embedder.encode(rows["text"], normalize=False) for rows in (train, test))
    lengths = np.linalg.norm(x_train, axis=1, keepdims=True)
    x_train, x_test = x_train / lengths, x_test / np.linalg.norm(x_test, axis=1, keepdims=True)
    seconds_encode = clock()
    model = sklearn.linear_model.LogisticRegression(C=10, max_iter=1000).fit(x_train, train["label"])
    accuracy = float(np.mean(model.predict(x_test) == np.array(test["label"])))
    result = {"accuracy": accuracy, "seconds_encode": seconds_encode, "seconds_fit": clock()}
    print(f"linear probe: test accuracy {accuracy:.4f} (embeddings {seconds_encode} s, fit {result['seconds_fit']} s)")
    return model, float(lengths.mean()), result


def fine_tune(arguments, train, dev, regression, length):
    """Trains all layers with AdamW, warmup for a tenth of the steps, then cosine decay; keeps the best epoch on dev."""
    labels = regression.classes_.tolist()
    model = tx.models.TextClassifier.from_preset(
        arguments.preset, labels=labels, sequence_length=arguments.sequence_length
    )
    if arguments.head == "probe":
        # The probe was fitted on unit vectors; the head receives the pooled vectors unnormalized.
        model.head.denses[-1].set_weights([regression.coef_.T / length, regression.intercept_])
    steps = arguments.epochs * -(-len(train) // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=arguments.learning_rate, warmup_steps=steps // 10
    )
    model.compile(tx.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0))

    stop = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=2, restore_best_weights=True)
    history = model.fit(
        train["text"],
        train["label"],
        arguments.batch_size,
        arguments.epochs,
        validation_data=(dev["text"], dev["label"]),
        seed=arguments.seed,
        callbacks=[stop],
        verbose=2,
    )
    return model, [round(float(value), 4) for value in history.history["val_accuracy"]]


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
    """Runs the three steps and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--head", choices=("probe", "random"), default="probe", help="initialization of the head")
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=pathlib.Path, default=HERE.parent / "runs" / "classify" / "serving")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    train, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    results = {"rows": [len(train), len(dev), len(test)]}
    regression, length, results["probe"] = probe(arguments, train, test)

    clock = Clock()
    model, val_accuracy = fine_tune(arguments, train, dev, regression, length)
    seconds = clock()
    found = tx.evaluation.classification(model, test["text"], test["label"])
    print(f"fine-tuned: test accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f} ({seconds} s)")

    served = tx.export.saved_model(model, arguments.export)
    labels = ask_the_export(served, test["text"])
    exported = float(np.mean(np.array(labels) == np.array(test["label"])))
    word = "equal" if exported == found["accuracy"] else "NOT equal"
    print(f"exported to {served}: test accuracy from strings {exported:.4f}, {word}")

    results["fine_tuned"] = {
        "accuracy": found["accuracy"],
        "macro_f1": found["macro_f1"],
        "accuracy_exported": exported,
        "val_accuracy": val_accuracy,
        "seconds": seconds,
    }
    results["settings"] = {
        name: getattr(arguments, name)
        for name in ("preset", "epochs", "batch_size", "learning_rate", "head", "sequence_length", "seed")
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
