"""Trains a Siamese network with a softmax decoder: concat -> dense -> softmax on (premise, hypothesis) pairs.

    python examples/siamese_nli.py --data ../shared/data/nli

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `premise`, `hypothesis` and `label`. First,
the decoder trains alone, on the vectors of the pretrained encoder; its scores are the baseline. Then all layers train:
Adam with cosine decay, early stopping on dev. The cosine of the embeddings is also scored, on telling entailment from
contradiction.
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np

COLUMNS = ("premise", "hypothesis")


def columns_of(rows):
    """Returns the two text columns."""
    return tuple(rows[name] for name in COLUMNS)


def train_decoder(arguments, model, rows):
    """Trains the decoder alone, on precomputed vectors."""
    y = np.array([model.labels.index(label) for label in rows["label"]])
    vectors = tx.data.embeddings(rows, COLUMNS, model.embedder)
    decoder = keras.Sequential([keras.Input(vectors.shape[1:]), model.get_layer("decoder")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decoder.compile(keras.optimizers.Adam(arguments.decoder_learning_rate), loss=loss)
    decoder.fit(vectors, y, batch_size=256, epochs=arguments.decoder_epochs, verbose=0)


def scores(model, rows):
    """Returns accuracy and macro-F1 of the decoder, and the cosine's average precision for entailment."""
    found = tx.evaluation.classification(model, columns_of(rows), rows["label"])
    sure = [i for i, label in enumerate(rows["label"]) if label != "neutral"]
    pairs = tuple([column[i] for i in sure] for column in columns_of(rows))
    entailed = [float(rows["label"][i] == "entailment") for i in sure]
    precision = tx.evaluation.pair_classification(model, pairs, entailed, progress=False)["average_precision"]
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"], "average_precision": precision}


def main():
    """Trains, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--decoder-epochs", type=int, default=20)
    parser.add_argument("--decoder-learning-rate", type=float, default=1e-3)
    parser.add_argument("--features", nargs="+", choices=list(tx.layers.FEATURES), default=["u", "v", "|u-v|", "u*v"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    rows, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128)
    labels = tx.data.labels(rows, "label")
    model = tx.models.SiameseClassifier(embedder, labels=labels, features=arguments.features)
    train_decoder(arguments, model, rows)
    results = {"decoder alone": scores(model, test)}

    dataset = tx.data.labelled(rows, COLUMNS, "label", labels=labels)
    batches = tx.data.batches(dataset, model, arguments.batch_size, seed=arguments.seed)
    steps = arguments.epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=arguments.learning_rate, warmup_steps=steps // 10
    )
    model.compile(keras.optimizers.Adam(rate))
    callbacks = [
        tx.callbacks.EvaluateClassification(columns_of(dev), dev["label"]),
        keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=1, restore_best_weights=True),
    ]
    start = time.perf_counter()
    model.fit(batches, epochs=arguments.epochs, callbacks=callbacks, verbose=2)
    seconds = round(time.perf_counter() - start)
    results["all layers"] = {**scores(model, test), "seconds": seconds}

    print(f"\n{'test':16} {'accuracy':>9} {'macro-F1':>9} {'cosine, AP of entailment':>25}")
    for name, found in results.items():
        print(f"{name:16} {found['accuracy']:9.4f} {found['macro_f1']:9.4f} {found['average_precision']:25.4f}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
