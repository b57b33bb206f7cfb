"""Trains triplet networks with three triplet losses on (premise, entailed, contradicting) sentences, SGD with decay.

    python examples/triplets_nli.py --data ../shared/data/nli_triplets

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `anchor`, `positive` and `negative`. Each
loss trains from the pretrained weights: SGD with momentum, gradients clipped to norm 1, cosine decay of the learning
rate, early stopping on the share of dev triplets whose anchor is closer to the positive. The hinge ignores triplets
that already satisfy the margin. The cross-entropy over the softmax of distances has no margin. Margin ranking is the
hinge on similarities.
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras

COLUMNS = ("anchor", "positive", "negative")
# Loss and learning rate. The gradient of a Euclidean distance stays the same as texts get closer, that of a cosine
# shrinks: the hinge uses a fifth of margin ranking's rate. The cross-entropy multiplies distances by 10; without
# clipping, its gradients collapse all texts to one point.
LOSSES = {
    "hinge": (tx.losses.TripletLoss, 0.01),
    "cross-entropy": (tx.losses.TripletCrossEntropyLoss, 0.005),
    "margin ranking": (tx.losses.TripletMarginRankingLoss, 0.05),
}


def train(arguments, loss, rows, dev):
    """Trains from the pretrained weights; returns the embedder and the seconds."""
    make_loss, learning_rate = LOSSES[loss]
    keras.utils.set_random_seed(arguments.seed)
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128)
    model = tx.models.Siamese(embedder)
    batches = tx.data.batches(tx.data.triplets(rows, COLUMNS), model, arguments.batch_size, seed=arguments.seed)
    steps = arguments.epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate or learning_rate, steps)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=1.0), loss=make_loss())
    callbacks = [
        tx.callbacks.EvaluateTriplets(dev),
        keras.callbacks.EarlyStopping("val_triplet_accuracy", mode="max", patience=1, restore_best_weights=True),
    ]
    start = time.perf_counter()
    model.fit(batches, epochs=arguments.epochs, callbacks=callbacks, verbose=2)
    return embedder, time.perf_counter() - start


def main():
    """Trains with each loss, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="default: the loss's own")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()

    rows, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    dev, test = tx.data.triplets(dev, COLUMNS), tx.data.triplets(test, COLUMNS)
    untrained = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128)
    results = {"untrained": tx.evaluation.triplets(untrained, test, progress=False)}
    for loss in arguments.losses:
        embedder, seconds = train(arguments, loss, rows, dev)
        results[loss] = {**tx.evaluation.triplets(embedder, test, progress=False), "seconds": round(seconds)}

    print(f"\n{'':16} {'test triplet accuracy':>22} {'margin':>8} {'seconds':>8}")
    for name, found in results.items():
        accuracy, margin = found["triplet_accuracy"], found["triplet_margin"]
        print(f"{name:16} {accuracy:22.4f} {margin:8.4f} {found.get('seconds', ''):>8}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
