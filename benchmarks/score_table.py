"""Rows per second and peak memory of `predict_table`, from ten thousand rows to a million, with a very small encoder.

    python benchmarks/score_table.py [--rows 10000 100000 1000000] [--formats csv parquet]

The model is a BERT of one layer, 16 wide, with random weights: this measures the path of the rows from file to file,
including tokenization, not the encoder. Rows are synthetic sentences of 4 to 24 words with three other columns; each
size has its own process. CPU seconds are those of all threads; memory is the peak of the process, next to its memory
once the model has answered its first rows. The result is printed and written to benchmarks/results/score_table.json.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)
WORDS = [f"word{i}" for i in range(2000)]
BATCH_SIZE = 256


def memory(key):
    """Returns the resident memory of this process in MB: `VmRSS` now, `VmHWM` at its peak."""
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) / 1024


def write_rows(path, count):
    """Writes rows to CSV without holding them in memory; Parquet is converted from that."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,text,source,number\n")
        for i in range(count):
            words = " ".join(rng.choices(WORDS, k=rng.randint(4, 24)))
            file.write(f'{i},"{words}, and so on",web,{i % 97}\n')


def classifier(folder):
    """A very small classifier."""
    from tfxfer import backbones, models, preprocessing

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS, ",", "and", "so", "on"]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = preprocessing.Tokenizer.from_folder(folder)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 32}
    backbone = backbones.Backbone("bert", vocabulary_size=tokenizer.vocabulary_size(), **sizes)
    preprocessor = preprocessing.TextPreprocessor(tokenizer, sequence_length=32)
    return models.TextClassifier(backbone, preprocessor, labels=["a", "b", "c"])


def measure(count, kind):
    """Measures one run in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source, output = folder / f"rows.{kind}", folder / f"scored.{kind}"
        write_rows(folder / "rows.csv", count)
        if kind == "parquet":
            import pyarrow.csv
            import pyarrow.parquet

            with pyarrow.csv.open_csv(folder / "rows.csv") as reader:
                with pyarrow.parquet.ParquetWriter(source, reader.schema) as writer:
                    for batch in reader:
                        writer.write_batch(batch)
        model = classifier(folder)
        write_rows(folder / "first.csv", 10_000)
        model.predict_table(folder / "first.csv", folder / "first_scored.csv", batch_size=BATCH_SIZE)
        before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
        done = model.predict_table(source, output, batch_size=BATCH_SIZE)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - start
        assert done["rows"] == done["answered"] == count  # noqa: S101
        return {
            "rows": count,
            "format": kind,
            "rows_per_second": round(count / seconds),
            "cpu_seconds": round(cpu, 1),
            "cpu_microseconds_per_row": round(1e6 * cpu / count, 1),
            "memory_before_mb": round(before),
            "memory_peak_mb": round(memory("VmHWM")),
            "source_mb": round(source.stat().st_size / 2**20, 1),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", default=["csv", "parquet"])
    parser.add_argument("--one", nargs=2, metavar=("ROWS", "FORMAT"), help="one run, in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(int(given.one[0]), given.one[1])))
        return
    found = []
    for kind in given.formats:
        for count in given.rows:
            command = [sys.executable, __file__, "--one", str(count), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "batch_size": BATCH_SIZE,
        "runs": found,
    }
    (HERE / "results" / "score_table.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
