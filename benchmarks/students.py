"""Small models distilled from a large one: size, speed and quality in one table.

    python benchmarks/students.py --data ../shared/data

The teacher is all-MiniLM-L6-v2. Its students see texts without labels: the sentences of STS-B's training set, and
Banking77's up to `--texts` in total.

| model | construction |
|---|---|
| teacher | six transformer blocks |
| 3 blocks | `with_blocks(3)`, without training |
| 3 blocks, taught | the same with an epoch on the teacher's vectors |
| convolutions | `conv_student`: three blocks of separable convolutions, some epochs on the teacher's vectors |
| static | `static_student`: a table of token vectors, no training |

Quality: Spearman of cosines on STS-B's test set; accuracy on Banking77's test set of a frozen probe (`freezing.probe`)
on the mean of the encoder's token vectors, fitted on `--probe` labeled texts. Speed: `encode` of 512 texts of Banking77
in CPU seconds, one thread, all models in turn, the median of `--rounds`. Results go to `results/students.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import os
import random
import statistics
import time
import types

THREADS = 1
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = str(THREADS)

import tfxfer as tx

# isort: split
import keras
import numpy as np

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
BATCH, CALL = 64, 512


def taught(student, texts, vectors, *, epochs, rate):
    """Trains a student on its teacher's vectors; returns it."""
    steps = -(-len(texts) // BATCH) * epochs
    optimizer = tx.optimizers.AdamW(tx.schedules.warmup_linear(rate, steps), weight_decay=0.01)
    student.compile(optimizer, loss=tx.losses.EmbeddingDistillationLoss("cosine"))
    student.fit(texts, vectors, batch_size=BATCH, epochs=epochs, seed=0, verbose=0)
    return student


def students(teacher, texts, *, epochs, report=print):
    """Yields the name of each model, the model, and the CPU seconds to make it."""
    start = time.process_time()
    vectors = teacher.encode(texts, batch_size=BATCH)
    report(f"vectors of {len(texts)} texts: {time.process_time() - start:.0f} s")
    yield "teacher", teacher, 0.0
    half = teacher.backbone.num_layers // 2
    yield f"{half} blocks", teacher.with_blocks(half), 0.0
    makes = {
        f"{half} blocks, taught": lambda: taught(teacher.with_blocks(half), texts, vectors, epochs=1, rate=2e-4),
        "convolutions": lambda: taught(tx.models.conv_student(teacher), texts, vectors, epochs=epochs, rate=2e-3),
        "static": lambda: tx.models.static_student(teacher),
    }
    for name, make in makes.items():
        start = time.process_time()
        made = make()
        yield name, made, time.process_time() - start


def spearman(model, pairs):
    """Returns the rank correlation of cosines with human scores."""
    columns = tuple([pair[name] for pair in pairs] for name in ("sentence1", "sentence2"))
    scores = np.array([float(pair["score"]) for pair in pairs])
    return tx.evaluation.similarity(model, columns, scores)["spearman"]


def probe_accuracy(model, train, test):
    """Returns the accuracy of a linear probe on the mean of the encoder's token vectors."""
    labels = sorted({row["label"] for row in train})
    classifier = tx.models.TextClassifier(model.backbone, model.preprocessor, labels=labels)
    tx.freezing.probe(
        classifier, *([row[name] for row in train] for name in ("text", "label")), penalties=(0.3, 0.1, 0.03), folds=3
    )
    found = classifier.classify([row["text"] for row in test], batch_size=BATCH).labels
    return statistics.fmean(a == row["label"] for a, row in zip(found, test, strict=True))


def rates(models, texts, rounds):
    """Returns the texts per CPU second of each model, in turn; other work on the machine does not count."""
    seconds = {name: [] for name in models}
    for model in models.values():
        model.encode(texts)
    for turn in range(rounds):
        names = list(models)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            models[name].encode(texts)
            seconds[name].append(time.process_time() - start)
    return {name: len(texts) / statistics.median(found) for name, found in seconds.items()}


def measured(teacher, stsb, banking, arguments, report=print):
    """Returns the rows of the table: a list of dicts."""
    sentences = list(dict.fromkeys(row[name] for row in stsb["train"] for name in ("sentence1", "sentence2")))
    others = random.Random(0).sample(banking["train"], len(banking["train"]))
    texts = (sentences + [row["text"] for row in others])[: arguments.texts]
    models, rows = {}, []
    for name, model, seconds in students(teacher, texts, epochs=arguments.epochs, report=report):
        models[name] = model
        weights = sum(int(np.prod(weight.shape)) for weight in model.weights)
        rows.append(
            {
                "model": name,
                "weights": weights,
                "weights_without_table": weights - int(np.prod(model.backbone.token_embedding.embeddings.shape)),
                "mb_float32": round(weights * 4 / 1e6, 1),
                "stsb_spearman": round(spearman(model, stsb["test"]), 4),
                "banking77_accuracy": round(probe_accuracy(model, others[: arguments.probe], banking["test"]), 4),
                "seconds_of_processor_to_make": round(seconds),
            }
        )
        report(rows[-1])
    found = rates(models, [row["text"] for row in others[:CALL]], arguments.rounds)
    return [{**row, "texts_per_second": round(found[row["model"]], 1)} for row in rows]


def show(rows):
    """Prints the table."""
    print(f"{'model':18}{'weights':>12}{'without table':>15}{'MB':>7}{'texts/s':>9}{'STS-B':>8}{'Banking77':>11}")
    for row in rows:
        print(
            f"{row['model']:18}{row['weights']:12,}{row['weights_without_table']:15,}{row['mb_float32']:7}"
            f"{row['texts_per_second']:9}{row['stsb_spearman']:8}{row['banking77_accuracy']:11}"
        )


def main():
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with banking77 and stsb")
    parser.add_argument("--texts", type=int, default=6000, help="texts that the students see")
    parser.add_argument("--probe", type=int, default=1500, help="labeled texts that the probe is fitted on")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the convolutional student")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed")
    arguments = parser.parse_args()
    start = time.process_time()
    keras.utils.set_random_seed(0)
    sets = {
        name: {part: _harness.read_tsv(arguments.data / name / f"{part}.tsv") for part in ("train", "test")}
        for name in ("stsb", "banking77")
    }
    teacher = tx.models.TextEmbedder.from_preset(PRESET, sequence_length=64)
    rows = measured(teacher, sets["stsb"], sets["banking77"], arguments)
    show(rows)
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    result = {
        "machine": {**_harness.machine(), "threads": THREADS},
        "preset": PRESET,
        **{name: getattr(arguments, name) for name in ("texts", "probe", "epochs", "rounds")},
        "rows": rows,
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("students", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
