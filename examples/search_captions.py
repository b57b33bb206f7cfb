"""Searches for the other caption of an image, before and after training with in-batch negatives.

    python examples/search_captions.py --data ../shared/data/caption_pairs

The directory holds `train.tsv`, `dev.tsv` and `test.tsv` with the columns `anchor` and `positive`: two captions of one
image. The queries are the test anchors. The corpus is the positives of all three files, so the right caption of each
query is one among thousands. Training uses multiple negatives ranking with no caption twice in a batch, AdamW, warmup,
then cosine decay.
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras

COLUMNS = ("anchor", "positive")


def main():
    """Searches, trains, searches again; prints the table and some answers, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    rows, dev, test = (tx.data.read(arguments.data / f"{name}.tsv") for name in ("train", "dev", "test"))
    corpus = list(dict.fromkeys([*test["positive"], *dev["positive"], *rows["positive"]]))
    places = {text: place for place, text in enumerate(corpus)}
    relevant = [[places[text]] for text in test["positive"]]
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=64)

    def search():
        found = tx.evaluation.retrieval(embedder, test["anchor"], corpus, relevant, ks=(1, 5, 10), progress=False)
        return {name: round(value, 4) for name, value in found.items()}

    results = {"corpus": len(corpus), "queries": len(test), "before": search()}
    model = tx.models.Siamese(embedder)
    pairs = tx.data.pairs(rows, COLUMNS)
    batches = tx.data.batches(pairs, model, arguments.batch_size, unique_texts=True, seed=arguments.seed)
    steps = arguments.epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=arguments.learning_rate, warmup_steps=steps // 10
    )
    model.compile(tx.optimizers.AdamW(rate, global_clipnorm=1.0), loss=tx.losses.MultipleNegativesRankingLoss())
    callbacks = [
        tx.callbacks.EvaluateRetrieval(tx.data.pairs(dev, COLUMNS), ks=(10,)),
        keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", patience=1, restore_best_weights=True),
    ]
    start = time.perf_counter()
    model.fit(batches, epochs=arguments.epochs, callbacks=callbacks, verbose=2)
    results["seconds"] = round(time.perf_counter() - start)
    results["after"] = search()

    print(f"\n{len(test)} queries in {len(corpus)} captions")
    print(f"{'':8}" + "".join(f"{name:>12}" for name in ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")))
    for name in ("before", "after"):
        scores = (results[name][score] for score in ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10"))
        print(f"{name:8}" + "".join(f"{score:12.4f}" for score in scores))

    index = tx.search.SemanticIndex(embedder, corpus)
    for query in test["anchor"][:3]:
        found = index.search([query], k=3)
        print(f"\n{query}")
        for text, score in zip(found.texts[0], found.scores[0], strict=True):
            print(f"  {score:.3f}  {text}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
