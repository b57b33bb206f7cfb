"""Fine-tunes an embedder on graded pairs with early stopping, and compares losses.

    python examples/similarity_sts.py --data ../shared/data/stsb

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `sentence1`, `sentence2` and `score` (0 to
5). First, CoSENT trains for up to `--epochs` epochs: AdamW, gradients clipped to norm 1, warmup for a tenth of the
steps, then cosine decay; the best epoch on dev is kept. Then each loss in the table trains for one epoch, again from
the pretrained weights. The contrastive loss follows the recipe of Siamese networks: similar and dissimilar pairs, Adam,
cosine decay. The test rows are used once per model.
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras

COLUMNS = ("sentence1", "sentence2")
ALIKE = 3.0  # A pair with this score or more is similar, for a loss with binary targets; STS-B's "roughly equivalent".


def graded(rows):
    """Returns the pairs with their scores."""
    return tx.data.pairs(rows, COLUMNS, target="score", target_range=(0, 5))


def alike_or_not(rows):
    """Returns the pairs with the target 1 (similar) or 0."""
    scores = [float(score) for score in rows["score"]]
    table = {name: rows[name] for name in COLUMNS}
    return tx.data.pairs({**table, "alike": [float(score >= ALIKE) for score in scores]}, COLUMNS, target="alike")


def alike_only(rows):
    """Returns the pairs that score at least `ALIKE + 1`, for in-batch negatives."""
    kept = [i for i, score in enumerate(rows["score"]) if float(score) >= ALIKE + 1]
    return tx.data.pairs({name: [rows[name][i] for i in kept] for name in COLUMNS}, COLUMNS)


# Name: loss, the function that makes its rows, optimizer.
RECIPES = {
    "CoSENT": (tx.losses.CoSENTLoss, graded, tx.optimizers.AdamW),
    "AnglE": (tx.losses.AnglELoss, graded, tx.optimizers.AdamW),
    "cosine regression": (tx.losses.CosineMSELoss, graded, tx.optimizers.AdamW),
    "contrastive": (tx.losses.ContrastiveLoss, alike_or_not, keras.optimizers.Adam),
    "multiple negatives": (tx.losses.MultipleNegativesRankingLoss, alike_only, tx.optimizers.AdamW),
}


def train(arguments, recipe, rows, dev, epochs, patience=None):
    """Trains from the pretrained weights; returns the embedder, the dev score of each epoch and the seconds."""
    loss, dataset, optimizer = RECIPES[recipe]
    keras.utils.set_random_seed(arguments.seed)
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128)
    model = tx.models.Siamese(embedder)
    options = {"unique_texts": recipe == "multiple negatives", "seed": arguments.seed}
    batches = tx.data.batches(dataset(rows), model, arguments.batch_size, **options)
    steps = epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=arguments.learning_rate, warmup_steps=steps // 10
    )
    # Clipping gives every batch equal weight; a ranking loss occasionally has a gradient many times the usual one.
    model.compile(optimizer(rate, global_clipnorm=1.0), loss=loss())
    callbacks = [tx.callbacks.EvaluateSimilarity(dev)]
    if patience is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping("val_spearman", mode="max", patience=patience, restore_best_weights=True)
        )
    start = time.perf_counter()
    history = model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=2)
    return embedder, [round(value, 4) for value in history.history["val_spearman"]], time.perf_counter() - start


def main():
    """Trains, evaluates, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--losses", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()

    rows, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    dev, test = graded(dev), graded(test)

    def score(embedder):
        return tx.evaluation.similarity(embedder, test, progress=False)["spearman"]

    untrained = score(tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=128))
    print(f"untrained: test Spearman {untrained:.4f}")
    results = {"untrained": untrained, "losses": {}}
    embedder, by_epoch, seconds = train(arguments, "CoSENT", rows, dev, arguments.epochs, patience=1)
    results["fine_tuned"] = {"test": score(embedder), "dev": by_epoch, "seconds": round(seconds)}
    print(f"fine-tuned: test Spearman {results['fine_tuned']['test']:.4f} (dev {by_epoch}, {seconds:.0f} s)")
    for recipe in arguments.losses:
        embedder, by_epoch, seconds = train(arguments, recipe, rows, dev, epochs=1)
        results["losses"][recipe] = {"test": score(embedder), "dev": by_epoch[-1], "seconds": round(seconds)}

    print(f"\n{'one epoch of':20} {'dev':>7} {'test':>7} {'seconds':>8}")
    for recipe, found in results["losses"].items():
        print(f"{recipe:20} {found['dev']:7.4f} {found['test']:7.4f} {found['seconds']:8}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
