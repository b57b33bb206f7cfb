"""Takes a classifier to production: calibrated, able to reject texts, explained, monitored, served.

    python examples/production.py

The classifier predicts whether the writer of a review in `examples/data/clothing_reviews` recommends the garment.
Questions to a support desk (`examples/data/support_questions`) play the part of texts that arrive by mistake. Output
goes to `runs/production`; the run takes about two minutes on two cores.
"""

import argparse
import csv
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the export's ops)

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
QUESTIONS = (
    "I love this dress! It fits perfectly and I get compliments whenever I wear it.",
    "The seams came apart after one wash, very disappointing. I sent it back.",
    "How do I change the address of my order?",
)


def say(start, text):
    """Prints the next step and the seconds since the start."""
    print(f"\n[{time.perf_counter() - start:3.0f} s] {text}", flush=True)


def columns(rows):
    """Returns the texts and labels of rows."""
    return [row["review"] for row in rows], [row["recommended"] for row in rows]


def shown(scores, name):
    """Formats a score with its interval."""
    low, high = scores["intervals"][name]
    return f"{scores[name]:.3f} ({low:.3f} to {high:.3f})"


def main():
    """Runs all steps and prints the result of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=600)
    parser.add_argument("--output", type=pathlib.Path, default=HERE.parent / "runs" / "production")
    arguments = parser.parse_args()
    start = time.perf_counter()
    keras.utils.set_random_seed(0)

    train, others = (list(tx.data.read(DATA / "clothing_reviews" / f"{name}.tsv")) for name in ("train", "test"))
    # Each step needs rows that the steps before have not seen. The training rows are balanced; the rules for decisions
    # are fitted on rows with the natural frequencies of the labels.
    train = columns(train)
    calibration, dev = columns(others[:150]), columns(others[150:450])
    test = columns(others[450 : 450 + arguments.test_rows])
    elsewhere = [row["text"] for row in tx.data.read(DATA / "support_questions" / "train.tsv")]

    say(start, f"{len(train[0])} training reviews: a frozen probe, and the labels that it doubts")
    model = tx.models.TextClassifier.from_preset(arguments.preset, labels=["no", "yes"], sequence_length=48)
    tx.freezing.probe(model, *train)
    probe = tx.evaluation.classification(model, *test, rows=True)
    suspects = tx.evaluation.suspect_labels(model, *train, features=model.head_features(train[0], verbose=0))
    for row in suspects["suspects"][:3]:
        print(f"  {row['label']!r}, more likely {row['suggested']!r}: {row['text'][:90]}")

    say(start, f"fine-tuning for {arguments.epochs} epochs")
    model.compile()
    model.fit(*train, batch_size=16, epochs=arguments.epochs, seed=0, verbose=2)

    say(start, "calibrated probabilities, and when to answer")
    before = tx.evaluation.classification(model, *test)
    model.calibrate(*calibration)
    reject = tx.decisions.Rejection("combined", keep=0.95)
    model.fit_decisions(*dev, reject=reject, sets=tx.decisions.ConformalSets("lac", coverage=0.9), train=train)
    scores = tx.evaluation.classification(model, *test, intervals=0.95, rows=True)
    print(f"  accuracy {shown(scores, 'accuracy')}, on the answered reviews {scores['answered_accuracy']:.3f}")
    print(f"  calibration error {before['ece']:.3f} before, {scores['ece']:.3f} after")
    print(f"  the set holds the right label for {scores['set_coverage']:.3f} of the reviews (target: 0.9)")
    found = model.classify(elsewhere)
    print(f"  answered: {scores['coverage']:.3f} of the reviews, {np.mean(found.in_scope):.3f} of questions to support")
    compared = tx.evaluation.compare(scores, probe)["scores"]["accuracy"]
    low, high = compared["interval"]
    real = {"a": "fine-tuning is better", "b": "the probe is better", None: "too few rows to tell"}[compared["better"]]
    print(f"  accuracy minus the probe's: {compared['difference']:+.3f} ({low:+.3f} to {high:+.3f}): {real}")

    say(start, "explanations")
    for explanation in model.explain(list(QUESTIONS[:2])):
        words = sorted(explanation.words, key=lambda word: -abs(word.value))[:4]
        print(f"  {explanation.target}: " + ", ".join(f"{word.text} {word.value:+.2f}" for word in words))

    say(start, "drift of new texts from those of the test set")
    reference = tx.evaluation.reference(model, test[0])
    for name, texts in (("other reviews", dev[0]), ("questions to support", elsewhere)):
        checks = tx.evaluation.drift(reference, texts, model=model)["checks"]
        drifted = [check for check, result in checks.items() if result["drifted"]]
        print(f"  {name}: {', '.join(drifted) or 'no drift'}")

    metadata = {"data": "reviews of clothes", "license": "CC0-1.0", "metrics": {"test": scores}}
    del metadata["metrics"]["test"]["per_row"]
    path = tx.export.saved_model(
        model, arguments.output / "recommended", metadata=metadata, reference=reference, explain=True, keep=1
    )
    tx.export.recipes(arguments.output / "recommended")
    say(start, f"exported to {path}, with a README, files for servers, and texts to check a server")
    served = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(QUESTIONS))
    mine = model.classify(list(QUESTIONS))
    for row, question in enumerate(QUESTIONS):
        print(f"  {mine.labels[row] or 'no answer'} (set: {', '.join(mine.sets[row])}): {question}")
    alike = [
        np.allclose(served["probabilities"], mine.probabilities, atol=1e-5),
        np.array_equal(served["in_scope"], mine.in_scope),
        [[model.labels[i] for i in np.flatnonzero(given)] for given in served["set"].numpy()]
        == [sorted(given, key=model.labels.index) for given in mine.sets],
    ]
    print(f"  the export answers {'the same' if all(alike) else 'SOMETHING ELSE'}")

    say(start, "a table in, a table out")
    source, output = arguments.output / "reviews.csv", arguments.output / "scored.csv"
    with open(source, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "review"], *([i, text] for i, text in enumerate(test[0]))])
    done = model.predict_table(source, output, "review", overwrite=True)
    print(f"  {done['rows']} rows in {output}: {', '.join(next(iter(tx.data.read(output))))}")
    say(start, "done")


if __name__ == "__main__":
    main()
