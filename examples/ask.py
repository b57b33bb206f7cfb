"""Classifies texts with an exported model, in a process that imports only TensorFlow and TF Text: no Keras, no tfxfer.

    python examples/ask.py runs/quickstart/serving/1 "Where is my parcel?" "I want my money back"
    python examples/ask.py runs/quickstart/serving/1 < questions.txt

Prints one line per text: label, probability, text.
"""

import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)

BATCH_SIZE = 64


def main():
    """Reads texts from the command line or standard input and prints the answers."""
    folder, *texts = sys.argv[1:]
    texts = texts or sys.stdin.read().splitlines()
    answer = tf.saved_model.load(folder).signatures["serving_default"]
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        answers = answer(text=tf.constant(batch))
        labels, scores = answers["labels"][:, 0].numpy(), answers["scores"][:, 0].numpy()  # most likely first
        for text, label, score in zip(batch, labels, scores, strict=True):
            print(f"{label.decode()}\t{score:.3f}\t{text}")


if __name__ == "__main__":
    main()
