"""Classifies texts with an exported model, in a process that imports only TensorFlow and TF Text: no Keras, no tfxfer.

    python examples/ask.py runs/quickstart/serving/1 "Where is my parcel?" "I want my money back"
    python examples/ask.py runs/quickstart/serving < questions.txt

The directory is that of a version or, for the newest, that of all versions. Prints one line per text: label,
probability, text.
"""

import os
import pathlib
import sys

# TensorFlow writes to standard error how it starts; its first lines do not obey the variable.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
errors = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
try:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)
finally:
    os.dup2(errors, 2)

BATCH_SIZE = 64


def main():
    """Reads texts from the command line or standard input and prints the answers."""
    folder, *texts = sys.argv[1:]
    texts = texts or sys.stdin.read().splitlines()
    versions = [path for path in pathlib.Path(folder).glob("*/saved_model.pb") if path.parent.name.isdigit()]
    if versions:
        folder = max(versions, key=lambda path: int(path.parent.name)).parent
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        answers = answer(text=tf.constant(batch))
        labels, scores = answers["labels"][:, 0].numpy(), answers["scores"][:, 0].numpy()  # most likely first
        for text, label, score in zip(batch, labels, scores, strict=True):
            print(f"{label.decode()}\t{score:.3f}\t{text}")


if __name__ == "__main__":
    main()
