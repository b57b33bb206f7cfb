"""From 100 labeled reviews to a served classifier: a frozen probe, fine-tuning, an export, answers from the export.

    python examples/quickstart.py

Would the writer of a review recommend the garment? The reviews are in `examples/data/clothing_reviews`; output goes to
`runs/quickstart`.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data" / "clothing_reviews"
ROWS_A_CLASS, TEST_ROWS = 50, 1000
QUESTIONS = (
    "I love this dress! It fits perfectly and I get compliments whenever I wear it.",
    "The seams came apart after one wash, very disappointing. I sent it back.",
    "Lovely fabric, but it runs so small that I returned it.",
)


def say(start, text):
    """Prints the next step and the seconds since the start."""
    print(f"[{time.perf_counter() - start:3.0f} s] {text}", flush=True)


def sample(rows, seed):
    """Returns the texts and labels of `ROWS_A_CLASS` rows per label, chosen by the seed."""
    taken = []
    for label in sorted({row["recommended"] for row in rows}):
        taken += random.Random(seed).sample([row for row in rows if row["recommended"] == label], ROWS_A_CLASS)
    return [row["review"] for row in taken], [row["recommended"] for row in taken]


def classifier(preset):
    """Returns a classifier with a new head."""
    return tx.models.TextClassifier.from_preset(preset, labels=["no", "yes"], sequence_length=48)


def main():
    """Trains once per seed, prints the table, exports the last model and asks the export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=HERE.parent / "runs" / "quickstart")
    arguments = parser.parse_args()
    start = time.perf_counter()

    train, test = (list(tx.data.read(DATA / f"{name}.tsv")) for name in ("train", "test"))
    test = [row["review"] for row in test[:TEST_ROWS]], [row["recommended"] for row in test[:TEST_ROWS]]
    samples = [sample(train, seed) for seed in range(arguments.seeds)]
    found = {"frozen probe": [], "fine-tuned": []}

    say(start, f"loading {arguments.preset}, with its encoder frozen")
    model = classifier(arguments.preset)
    tx.freezing.freeze(model, groups=["embeddings", "block_*"])
    frozen = tx.freezing.AboveFrozen(model)  # computes the embedding of each test review once, for all probes
    held_out = tx.data.batches(test[0], model, 32, shuffle=False)
    for seed, (x, y) in enumerate(samples):
        say(
            start,
            f"sample {seed + 1} of {arguments.seeds}: a logistic regression on the embeddings of {len(x)} reviews",
        )
        tx.freezing.probe(model, x, y)
        probabilities = keras.ops.softmax(frozen.predict(held_out, verbose=0))
        found["frozen probe"].append(tx.evaluation.classification_scores(test[1], probabilities, model.labels))

    for seed, (x, y) in enumerate(samples):
        say(
            start,
            f"sample {seed + 1} of {arguments.seeds}: fine-tuning all layers; tracing the first step takes a while",
        )
        keras.utils.set_random_seed(seed)
        model = classifier(arguments.preset)
        model.compile()
        model.fit(x, y, batch_size=16, epochs=arguments.epochs, seed=seed, verbose=1 if sys.stdout.isatty() else 2)
        say(start, f"testing on {len(test[0])} reviews")
        found["fine-tuned"].append(tx.evaluation.classification(model, *test))

    print(
        f"\n{len(x)} training and {len(test[0])} test reviews; mean and standard deviation of {arguments.seeds} samples"
    )
    print(f"{'':14}  {'accuracy':13}  macro-F1")
    for name, scores in found.items():
        values = [[each[key] for each in scores] for key in ("accuracy", "macro_f1")]
        print(f"{name:14}  " + "  ".join(f"{np.mean(each):.3f} ± {np.std(each):.3f}" for each in values))
    print(
        "Fine-tuning pays off if the embeddings, which are trained to tell topics apart, do not hold the answer yet,\n"
        "as with opinions. If the probe is as good, keep the probe: it trains in a second."
    )

    served = tx.export.saved_model(model, arguments.output / "serving", keep=1)
    say(start, f"exported to {served}; answers from a process without Keras or tfxfer:")
    answers = subprocess.run(
        [sys.executable, str(HERE / "ask.py"), served, *QUESTIONS], check=True, capture_output=True, text=True
    )
    print(answers.stdout, end="")
    say(start, "done")


if __name__ == "__main__":
    main()
