"""Turns PolyAI's Banking77 files into `train.tsv`, `dev.tsv` and `test.tsv` with the columns `text` and `label`.

    git clone https://github.com/PolyAI-LDN/task-specific-datasets
    python examples/banking77.py --source task-specific-datasets/banking_data --output banking77

The set has no rows to choose by; about a tenth of the training rows becomes `dev.tsv`, picked by a hash of the text, so
that equal texts stay together and the split is always the same.
"""

import argparse
import csv
import hashlib
import pathlib


def read(path):
    """Yields text and label of each row; line breaks and tabs within a text become spaces."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield " ".join(row["text"].split()), row["category"]


def write(path, rows):
    """Writes rows of text and label as TSV with a header line; prints how many."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows")


def is_dev(text):
    """Whether a training text goes to the dev rows."""
    return hashlib.sha256(text.encode()).digest()[0] < 256 // 10


def main():
    """Reads the two files and writes the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    rows = list(read(arguments.source / "train.csv"))
    write(arguments.output / "train.tsv", [row for row in rows if not is_dev(row[0])])
    write(arguments.output / "dev.tsv", [row for row in rows if is_dev(row[0])])
    write(arguments.output / "test.tsv", list(read(arguments.source / "test.csv")))


if __name__ == "__main__":
    main()
