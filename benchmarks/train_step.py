"""Training: tfxfer's `fit` against sentence-transformers' losses in a PyTorch loop, same rows, weights and batch size.

classifier: an epoch of Banking77, linear head on mean pooling; the rate over whole windows of 50 batches, so that the
    lengths of the sample match those of the epoch.
pairs: an epoch of STS-B with CoSENT, measured in the same way.
triplets: an epoch of NLI triplets with in-batch softmax and hard negatives, measured in the same way.
equal: a step of in-batch softmax on 2 x 32 texts of exactly 24 tokens, without padding.
rerank: a step of LambdaLoss (NDCG-Loss2++) on 8 lists of 8 documents, each pair of query and document of exactly 24
    tokens. sentence-transformers' class tokenizes within the step, all pairs at a time (`mini_batch_size=-1`); tfxfer
    pads the ids of cached rows.

Each in float32 and in bfloat16 (autocast; mixed_bfloat16), AdamW, dropout on; tfxfer's steps at equal shapes also with
`fused_elementwise`. On the PyTorch side, rows are in random order and each batch is padded to its longest row; tfxfer
uses `data.batches` with its defaults.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import random

from benchmarks import _harness
from benchmarks.encode import weights_folder

WINDOW = 50
LENGTH = 24
LISTS = DOCUMENTS = 8
# Words of a query; a pair has three special tokens.
QUERY_WORDS = 8
# Tasks that repeat a single batch.
FIXED = ("equal", "rerank")
BASELINE = "sentence-transformers float32"
SIDES = {
    BASELINE: ("torch", "float32"),
    "sentence-transformers autocast bfloat16": ("torch", "autocast"),
    "tfxfer float32": ("keras", "float32"),
    "tfxfer mixed_bfloat16": ("keras", "mixed_bfloat16"),
}
# Sides of `equal` only, which has no padding.
FUSED = {f"{name}, fused": SIDES[name] for name in SIDES if SIDES[name][0] == "keras"}
FOLDERS = {"classifier": "banking77", "pairs": "stsb", "triplets": "nli_triplets"}
TITLES = {
    "classifier": "Banking77, linear head, rows a second of an epoch",
    "pairs": "STS-B, CoSENT, pairs a second of an epoch",
    "triplets": "NLI triplets, in-batch softmax with hard negatives, triplets a second of an epoch",
    "equal": f"in-batch softmax, pairs a second, 2 texts of {LENGTH} tokens each",
    "rerank": f"LambdaLoss of a cross-encoder, documents a second, lists of {DOCUMENTS}, {LENGTH} tokens a pair",
}


def whole_words(weights):
    """Returns words that are single tokens, so that a text of n words has n tokens and the two special tokens."""
    lines = (pathlib.Path(weights) / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [word for word in lines if word.isascii() and word.isalpha() and word.islower() and len(word) > 3]


def setup_of(task, arguments):
    """Returns the settings of a task's workers."""
    weights = weights_folder()
    setup = {
        "workload": "train",
        "task": task,
        "weights": weights,
        "sequence_length": 128,
        "batch_size": arguments.batch_size,
        "warmup": 3,
    }
    if task == "equal":
        words, chance = whole_words(weights), random.Random(0)
        columns = [[" ".join(chance.sample(words, LENGTH - 2)) for _ in range(arguments.batch_size)] for _ in "ab"]
        return {**setup, "columns": columns, "length": LENGTH, "steps": 100}
    if task == "rerank":
        words, chance = whole_words(weights), random.Random(0)
        made = [
            {
                "query": " ".join(chance.sample(words, QUERY_WORDS)),
                "documents": [" ".join(chance.sample(words, LENGTH - 3 - QUERY_WORDS)) for _ in range(DOCUMENTS)],
                "grades": [chance.randrange(4) for _ in range(DOCUMENTS)],
            }
            for _ in range(LISTS)
        ]
        return {**setup, "rows": made, "length": LENGTH, "batch_size": LISTS * DOCUMENTS, "steps": 100}
    return {**setup, "train": str(arguments.data / FOLDERS[task] / "train.tsv")}


def measure(task, arguments):
    """Runs one task on all sides; returns the summary and the workers' versions."""
    setup = setup_of(task, arguments)
    scripts = {"torch": (arguments.torch_python, "_torch_worker"), "keras": (sys.executable, "_keras_worker")}
    workers = {
        name: _harness.Worker(name, *scripts[stack], {**setup, "dtype": dtype, "fused": name in FUSED})
        for name, (stack, dtype) in (SIDES | FUSED if task == "equal" else SIDES).items()
    }
    group = 1 if task in FIXED else WINDOW // arguments.batches
    rounds = arguments.steps if task in FIXED else arguments.windows * group
    print(f"\n{TITLES[task]}: {rounds} rounds of {arguments.batches} batches")
    answers = _harness.alternate(workers, lambda turn, name: {"batches": arguments.batches}, rounds)
    for worker in workers.values():
        worker.close()
    summary = _harness.compare(answers, BASELINE, group)
    for name, row in summary.items():
        row["ms_per_step"] = round(1000 * setup["batch_size"] / row["rows_per_second"], 1)
        row["places_per_real"] = {**workers[name].facts, **answers[name][-1]}["places_per_real"]
    _harness.show(f"{TITLES[task]}; ratio to {BASELINE}", summary, extra=("ms_per_step", "places_per_real"))
    return summary, list(workers.values())


def main():
    """Runs the requested tasks, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, help="folder with banking77/, stsb/ and nli_triplets/"
    )
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--tasks", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--windows", type=int, default=3, help=f"windows of {WINDOW} batches for an epoch's rate")
    parser.add_argument("--steps", type=int, default=8, help="rounds at equal shapes")
    parser.add_argument("--batches", type=int, default=5, help="batches per slice")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--name", default="train_step", help="name of the JSON file in results/, for another processor")
    arguments = parser.parse_args()
    if WINDOW % arguments.batches:
        parser.error(f"--batches has to divide {WINDOW}")

    # Tasks that are not requested keep their figures in the file.
    file = _harness.RESULTS / f"{arguments.name}.json"
    previous = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results, workers = {task: previous[task] for task in TITLES if task in previous}, []
    for task in arguments.tasks:
        results[task], used = measure(task, arguments)
        workers += used
    _harness.write(arguments.name, {"baseline": BASELINE, "batch_size": arguments.batch_size, **results}, workers)


if __name__ == "__main__":
    main()
