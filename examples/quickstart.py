"""From 102 support questions to a served classifier: embed, fine-tune, export, ask.

    python examples/quickstart.py

The questions lie in `examples/data/support_questions`; what is written goes to `runs/quickstart`.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np
import sklearn.linear_model
import sklearn.metrics

HERE = pathlib.Path(__file__).resolve().parent
BATCH_SIZE = 16
LEARNING_RATE = 1e-4
QUESTIONS = (
    "My tent should have been here on Monday, where is it?",
    "How do I get my money back for the jacket that doesn't fit?",
    "I can't log in any more, not even with a new password",
)


def scores(name, y_true, y_pred):
    """One row of the results table."""
    accuracy = sklearn.metrics.accuracy_score(y_true, y_pred)
    return name, accuracy, sklearn.metrics.f1_score(y_true, y_pred, average="macro")


def without_training(embedder, train, test):
    """What the pretrained embeddings give as they are: the nearest class mean, and a linear probe."""
    x_train, x_test = embedder.encode(train["text"]), embedder.encode(test["text"])
    y_train = np.array(train["label"])
    names = sorted(set(y_train))
    means = np.stack([x_train[y_train == name].mean(axis=0) for name in names])
    nearest = [names[i] for i in (x_test @ means.T).argmax(axis=1)]
    probe = sklearn.linear_model.LogisticRegression(C=10, max_iter=1000).fit(x_train, y_train)
    return [
        scores("frozen, nearest class mean", test["label"], nearest),
        scores("frozen, logistic regression", test["label"], probe.predict(x_test)),
    ]


def fine_tune(train, dev, epochs, preset):
    """Trains all layers, the new head at ten times the rate: a tenth of the steps warm-up, then half a cosine."""
    model = tx.models.TextClassifier.from_preset(preset, labels=tx.data.labels(train, "label"), sequence_length=128)
    steps = epochs * -(-len(train) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=LEARNING_RATE, warmup_steps=steps // 10
    )
    optimizer = tx.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0)
    model.compile(tx.optimizers.Layerwise(optimizer, {"head": 10.0}))
    model.fit(
        train["text"],
        train["label"],
        batch_size=BATCH_SIZE,
        epochs=epochs,
        seed=0,
        validation_data=(dev["text"], dev["label"]),
        verbose=2,
    )
    return model


def main():
    """Runs the whole way and prints the results table and three answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=pathlib.Path, default=HERE.parent / "runs" / "quickstart")
    arguments = parser.parse_args()
    start = time.perf_counter()
    keras.utils.set_random_seed(0)

    folder = HERE / "data" / "support_questions"
    train, dev, test = (tx.data.read(folder / f"{name}.tsv") for name in ("train", "dev", "test"))
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128)
    table = without_training(embedder, train, test)

    model = fine_tune(train, dev, arguments.epochs, arguments.preset)
    found = tx.evaluation.classification(model, test["text"], test["label"])
    table.append(("fine-tuned", found["accuracy"], found["macro_f1"]))

    print(f"\n{len(train)} questions to train on, {len(test)} to test on, {len(model.labels)} intents")
    print(f"{'':28}  accuracy  macro-F1")
    for name, accuracy, macro_f1 in table:
        print(f"{name:28}  {accuracy:8.3f}  {macro_f1:8.3f}")

    served = tx.export.saved_model(model, arguments.output / "serving", keep=1)
    print(f"\nexported to {served}; asked in a process without Keras or tfxfer:")
    answers = subprocess.run(
        [sys.executable, str(HERE / "ask.py"), served, *QUESTIONS], check=True, capture_output=True, text=True
    )
    print(answers.stdout, end="")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
