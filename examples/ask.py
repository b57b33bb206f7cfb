"""Asks an exported classifier, in a process that knows TensorFlow and TF Text alone: no Keras, no tfxfer.

    python examples/ask.py runs/quickstart/serving "Where is my parcel?" "I want my money back"
    python examples/ask.py runs/quickstart/serving < questions.txt

Prints a line for each text: label, probability, text.
"""

import pathlib
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of the tokenizer)

BATCH_SIZE = 64


def newest(folder):
    """The version that TensorFlow Serving would serve: the subfolder with the largest number."""
    return max(
        (path for path in pathlib.Path(folder).iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    )


def main():
    """Reads texts from the command line or from standard input and prints the answers."""
    folder, *texts = sys.argv[1:]
    texts = texts or sys.stdin.read().splitlines()
    answer = tf.saved_model.load(str(newest(folder))).signatures["serving_default"]
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        answers = answer(text=tf.constant(batch))
        labels, probabilities = answers["label"].numpy(), answers["probabilities"].numpy()
        for text, label, probability in zip(batch, labels, probabilities.max(axis=-1), strict=True):
            print(f"{label.decode()}\t{probability:.3f}\t{text}")


if __name__ == "__main__":
    main()
