"""Reads reference numbers in JSON, from the full set if it is present, otherwise from the shipped, compressed files."""

import gzip
import json
import pathlib

SHIPPED = pathlib.Path(__file__).parent / "golden"


def read(golden, name):
    """Returns the numbers in a file of the fixture `golden`, such as `"measures/retrieval"`."""
    whole = pathlib.Path(f"{golden}/{name}.json")
    return json.loads(whole.read_bytes() if whole.is_file() else gzip.decompress(shipped(name)))


def shipped(name):
    """Returns the gzip-compressed bytes of a shipped file."""
    return (SHIPPED / f"{name}.json.gz").read_bytes()
