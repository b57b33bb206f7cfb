"""Converts PolyAI's Banking77 files to `train.tsv`, `dev.tsv` and `test.tsv` with the columns `text` and `label`.

    git clone https://github.com/PolyAI-LDN/task-specific-datasets
    python examples/banking77.py --source task-specific-datasets/banking_data --output banking77

The data set has no dev split. A hash of the text moves about a tenth of the training rows to `dev.tsv`, so equal texts
stay together and the split is reproducible.
"""

import argparse
import csv
import hashlib
import pathlib


def read(path):
    """Yields the text and label of each row; each run of whitespace in a text becomes one space."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield " ".join(row["text"].split()), row["category"]


def write(path, rows):
    """Writes rows of text and label as TSV with a header line; prints the number of rows."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows")


def is_dev(text):
    """Whether a training text belongs to the dev split."""
    return hashlib.sha256(text.encode()).digest()[0] < 256 // 10


def main():
    """Reads the two files and writes the three splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="directory with train.csv and test.csv")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    rows = list(read(arguments.source / "train.csv"))
    write(arguments.output / "train.tsv", [row for row in rows if not is_dev(row[0])])
    write(arguments.output / "dev.tsv", [row for row in rows if is_dev(row[0])])
    write(arguments.output / "test.tsv", list(read(arguments.source / "test.csv")))


if __name__ == "__main__":
    main()
