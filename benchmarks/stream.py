"""Cost per row and memory of streamed training data, from ten thousand rows to ten million.

    python benchmarks/stream.py [--rows 10000 100000 1000000 10000000] [--window 50]

The pipeline generates the rows, sentences of 4 to 24 words with a label, instead of reading files, so that the disk is
not measured. `data.batches` reads them again in each epoch, one window in memory at a time, shuffled within a window,
tokenized and bucketed by length. Each size has its own process, which runs one epoch, then resumes it in the middle, as
`callbacks.Resume` does. CPU seconds are those of all threads; memory is the peak of the process, next to its memory
before the epoch. The result is printed and written to benchmarks/results/stream.json.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)
WORDS = [f"word{i}" for i in range(2000)]
BATCH_SIZE = 32


def memory(key):
    """Returns the resident memory of this process in MB: `VmRSS` now, `VmHWM` at its peak."""
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) / 1024


def preprocessor(folder):
    """Returns a WordPiece preprocessor whose vocabulary is the words."""
    from tfxfer import preprocessing

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return preprocessing.TextPreprocessor(preprocessing.Tokenizer.from_folder(folder), sequence_length=32)


def made_up(count):
    """Returns a dataset of rows that are computed from their indices and never held in memory."""
    import tensorflow as tf

    words = tf.constant(WORDS)

    def block(numbers):
        seed = tf.stack([numbers[0], 0])
        lengths = tf.random.stateless_uniform(tf.shape(numbers), seed, 4, 25, tf.int32)
        chosen = tf.random.stateless_uniform([tf.reduce_sum(lengths)], seed + 1, 0, len(WORDS), tf.int32)
        texts = tf.RaggedTensor.from_row_lengths(tf.gather(words, chosen), lengths)
        return tf.strings.reduce_join(texts, axis=-1, separator=" "), tf.cast(numbers % 3, tf.int32)

    return (
        tf.data.Dataset.range(count)
        .batch(1024)
        .map(block, deterministic=True)
        .unbatch()
        .apply(tf.data.experimental.assert_cardinality(count))
    )


def run(dataset):
    """Iterates over batches; returns (rows, seconds, CPU seconds, seconds to the first batch)."""
    rows, first, start, used = 0, None, time.perf_counter(), time.process_time()
    for _, y in dataset:
        first = time.perf_counter() - start if first is None else first
        rows += int(y.shape[0])
    return rows, time.perf_counter() - start, time.process_time() - used, first


def measure(count, window):
    """Measures one size in this process."""
    import tfxfer as tx

    with tempfile.TemporaryDirectory() as folder:
        made = preprocessor(pathlib.Path(folder))
        for _ in tx.data.batches(made_up(4096), made, BATCH_SIZE, cache=False, seed=0, window=window):
            pass  # one-time work
        batches = tx.data.batches(made_up(count), made, BATCH_SIZE, cache=False, seed=0, window=window)
        before = memory("VmRSS")
        rows, seconds, processor, _ = run(batches.rest(0))
        peak = memory("VmHWM") - before
        middle = int(batches.cardinality()) // 2
        left, _, _, first = run(batches.rest(0, middle).take(1))
        _, _, raw_processor, _ = run(made_up(count).batch(BATCH_SIZE))
    if rows != count or not left:
        raise SystemExit(f"{rows} rows of {count}, {left} in the middle")
    return {
        "rows": count,
        "rows_a_second": round(rows / seconds),
        "processor_us_a_row": round(1e6 * processor / rows, 2),
        "of_it_making_up_us": round(1e6 * raw_processor / rows, 2),
        "peak_mb": round(peak, 1),
        "seconds_to_the_middle": round(first, 2),
        "seconds_of_half_an_epoch": round(seconds / 2, 2),
    }


def main():
    """Measures each size in its own process, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--window", type=int, default=50, help="batches in a window, as in `data.batches`")
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results" / "stream.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.window)))
        return
    found = []
    for count in arguments.rows:
        command = [sys.executable, str(HERE / "stream.py"), "--one", str(count), "--window", str(arguments.window)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{name} {value:,}" for name, value in found[-1].items()), flush=True)
    import tensorflow as tf

    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__},
        "batch_size": BATCH_SIZE,
        "window": arguments.window,
        "sizes": found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
