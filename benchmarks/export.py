"""Exports: savings, cost and accuracy of small weights, and whether memory stays flat over new words.

Dtypes: one embedder exported in float32, bfloat16 and int8. Bytes on disk; cosine of its vectors to the model's own on
the texts of STS-B's test rows; milliseconds of a call with 1, 8 and 32 of them, in turn, the median over rounds.

Memory: an export with a byte-level BPE tokenizer answers texts of words never seen before, in a process with only
TensorFlow and TF Text; resident bytes after each 10,000 words. The same for the tokenizer outside an export.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import tempfile
import textwrap
import time

import numpy as np

DTYPES = ("float32", "bfloat16", "int8")
BATCHES = (1, 8, 32)
WORDS = 100_000
GROWTH = """
    import json, sys
    import tensorflow as tf
    import tensorflow_text

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if len(sys.argv) > 3:
        import tfxfer as tx
        run = tx.preprocessing.Tokenizer.from_folder(sys.argv[1])
    else:
        run = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
    words, per_text, texts = int(sys.argv[2]), 10, 100
    found = []
    for start in range(0, words + 20_000, texts * per_text):
        numbers = range(start, start + texts * per_text)
        # Varying letters, so that merges differ: each word is new, and no word is longer than another.
        made = ["".join(chr(97 + (n * 7919 + 104729) // 26**i % 26) for i in range(8)) + str(n) for n in numbers]
        batch = tf.constant([" ".join(made[i : i + per_text]) for i in range(0, len(made), per_text)])
        run(batch) if len(sys.argv) > 3 else run(text=batch)
        if (start + texts * per_text) % 10_000 == 0:
            found.append(resident())
    print(json.dumps(found))
"""


def resident_bytes(path, *more):
    """Returns resident bytes after each 10,000 new words, without the first 20,000, which are warm-up."""
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    program = [sys.executable, "-c", textwrap.dedent(GROWTH), str(path), str(WORDS), *more]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": root if more else ""}
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])[1:]


def size_of(path):
    """Returns the bytes of a folder's files."""
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def main():
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with stsb")
    parser.add_argument("--bpe", type=pathlib.Path, help="Hugging Face folder with byte-level BPE, for memory")
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks/results/export.json"))
    arguments = parser.parse_args()

    import tensorflow as tf

    import tfxfer as tx

    embedder = tx.models.TextEmbedder.from_preset(arguments.preset)
    rows = tx.data.read(arguments.data / "stsb" / "test.tsv")
    texts = list(dict.fromkeys([*rows["sentence1"], *rows["sentence2"]]))
    expected = embedder.encode(texts)
    with tempfile.TemporaryDirectory() as scratch:
        served, dtypes = {}, {}
        for dtype in DTYPES:
            start = time.perf_counter()
            small = None if dtype == "float32" else dtype
            path = tx.export.saved_model(embedder, pathlib.Path(scratch, dtype), weights_dtype=small)
            dtypes[dtype] = {"seconds_export": round(time.perf_counter() - start, 1)}
            start = time.perf_counter()
            served[dtype] = tf.saved_model.load(path).signatures["serving_default"]
            dtypes[dtype]["seconds_load"] = round(time.perf_counter() - start, 1)
            dtypes[dtype]["megabytes"] = round(size_of(path) / 1e6, 1)
            parts = [served[dtype](text=tf.constant(texts[i : i + 64])) for i in range(0, len(texts), 64)]
            found = np.concatenate([part["embedding"].numpy() for part in parts])
            cosines = np.sum(found * expected, axis=1)
            dtypes[dtype] |= {
                "largest_difference": float(np.abs(found - expected).max()),
                "cosine_min": round(float(cosines.min()), 6),
                "cosine_mean": round(float(cosines.mean()), 6),
            }
        for size in BATCHES:
            batch, times = tf.constant(texts[:size]), {dtype: [] for dtype in DTYPES}
            for _ in range(arguments.rounds):
                for dtype in DTYPES:
                    start = time.perf_counter()
                    served[dtype](text=batch)
                    times[dtype].append(1e3 * (time.perf_counter() - start))
            for dtype in DTYPES:
                dtypes[dtype][f"ms_{size}"] = round(statistics.median(times[dtype][1:]), 1)
        memory = {}
        if arguments.bpe:
            small = tx.models.TextEmbedder.from_preset(arguments.bpe)
            path = tx.export.saved_model(small, pathlib.Path(scratch, "bpe"))
            memory = {"export": resident_bytes(path), "tokenizer": resident_bytes(arguments.bpe, "tokenizer")}

    names = list(dtypes["float32"])
    print(f"{'':20}" + "".join(f"{dtype:>12}" for dtype in DTYPES))
    for name in names:
        print(f"{name:20}" + "".join(f"{dtypes[dtype][name]:12.6g}" for dtype in DTYPES))
    if memory:
        print(f"\nresident megabytes over {WORDS:,} new words")
    for name, values in memory.items():
        print(f"{name:20}" + " ".join(f"{value / 1e6:.1f}" for value in values))
    result = {
        "preset": arguments.preset,
        "texts": len(texts),
        "dtypes": dtypes,
        "words": WORDS,
        "resident_bytes": memory,
        "packages": {name: importlib.metadata.version(name) for name in ("tensorflow", "tensorflow-text", "keras")},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
