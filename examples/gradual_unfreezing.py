"""Compares five ways to fine-tune on few rows for the same number of epochs: what trains, when, how fast, at what cost.

    python examples/gradual_unfreezing.py --data ../shared/data/banking77
    python examples/gradual_unfreezing.py --data ../shared/data/clothing_reviews --text title review \
        --label recommended --rows-per-class 100 --sequence-length 128

The directory holds `train.tsv`, `dev.tsv` and `test.tsv`; several `--text` columns are joined by a space. Each seed
draws its own rows, the same number of each class, and trains all five from the pretrained weights:

full: all layers from the first step, the head at ten times the rate of the others (in the other four as well);
head only: the encoder is frozen; its vectors are computed once, and the epochs train on those;
gradual: the head first, then one more block each epoch, from the output back (Howard and Ruder, 2018);
layer-wise decay: all layers, each block at 0.8 of the rate of the block above;
LoRA: low-rank matrices added to query and value of each block, and the head.

There is no early stopping and no selection of runs: the table shows the model after the last epoch. The learning rates
were chosen on dev rows (`--scored-on dev`).
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np

# Learning rates of all layers except the head.
RATES = {"full": 2e-4, "head only": 1e-3, "gradual": 2e-4, "layer-wise decay": 3e-4, "LoRA": 1e-3}
HEAD_FACTOR = 10.0


def read(folder, split, text, label):
    """Returns the texts and labels of a file; joins the texts of several columns."""
    rows = tx.data.read(folder / f"{split}.tsv")
    texts = [" ".join(filter(None, parts)) for parts in zip(*(rows[name] for name in text), strict=True)]
    return np.array(texts, object), np.array(rows[label])


def draw(labels, rows_per_class, seed):
    """Returns the numbers of `rows_per_class` random rows of each class; all rows of a class that has fewer."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == name][:rows_per_class] for name in np.unique(labels)])


def train(arguments, method, seed, texts, labels):
    """Trains one model; returns it, the number of weights that are trainable at the end, and the seconds."""
    keras.utils.set_random_seed(seed)
    model = tx.models.TextClassifier.from_preset(
        arguments.preset, labels=sorted(set(labels.tolist())), sequence_length=arguments.sequence_length
    )
    callbacks = []
    if method == "head only":
        model.set_trainable(["head"])
    elif method == "gradual":
        callbacks.append(tx.callbacks.GradualUnfreezing())
    elif method == "LoRA":
        tx.freezing.add_lora(model, rank=8)
    steps = arguments.epochs * -(-len(texts) // arguments.batch_size)
    rate = tx.schedules.warmup_cosine(arguments.learning_rate or RATES[method], steps=steps)
    model.compile(
        tx.optimizers.Layerwise(
            tx.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
            {"head": HEAD_FACTOR},
            decay=0.8 if method == "layer-wise decay" else None,
        )
    )
    start = time.perf_counter()
    trained = tx.freezing.AboveFrozen(model) if method == "head only" else model
    trained.fit(
        texts,
        labels,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        seed=seed,
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    return model, sum(int(np.prod(v.shape)) for v in model.trainable_variables), seconds


def main():
    """Trains all methods on all seeds, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--text", nargs="+", default=["text"], help="columns with the text")
    parser.add_argument("--label", default="label", help="column with the label")
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--rows-per-class", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="default: the method's own")
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--methods", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scored-on", choices=("dev", "test"), default="test")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    arguments = parser.parse_args()

    all_texts, all_labels = read(arguments.data, "train", arguments.text, arguments.label)
    scored = read(arguments.data, arguments.scored_on, arguments.text, arguments.label)
    runs = {method: [] for method in arguments.methods}
    for seed in arguments.seeds:
        numbers = draw(all_labels, arguments.rows_per_class, seed)
        for method in arguments.methods:
            model, weights, seconds = train(arguments, method, seed, all_texts[numbers], all_labels[numbers])
            found = tx.evaluation.classification(model, *scored)
            run = {"seed": seed, "seconds": round(seconds, 1), "trained": weights}
            runs[method].append({**run, "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]})
            print(f"seed {seed}, {method}: accuracy {found['accuracy']:.4f}, {seconds:.0f} s", flush=True)

    print(f"\n{len(numbers)} rows, {arguments.epochs} epochs; {arguments.scored_on}: mean and deviation over seeds")
    print(f"{'':18} {'accuracy':>16} {'macro-F1':>16} {'seconds':>8} {'weights trained':>16}")
    for method, found in runs.items():
        columns = []
        for name in ("accuracy", "macro_f1"):
            values = [run[name] for run in found]
            columns.append(f"{np.mean(values):.4f} +- {np.std(values):.4f}")
        seconds = np.median([run["seconds"] for run in found])
        print(f"{method:18} {columns[0]:>16} {columns[1]:>16} {seconds:8.1f} {found[0]['trained']:16,}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        arguments.output.write_text(json.dumps({"settings": settings, "runs": runs}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
