"""Reference numbers in JSON: the whole set where it is, and otherwise what is shipped, packed."""

import gzip
import json
import pathlib

SHIPPED = pathlib.Path(__file__).parent / "golden"


def read(golden, name):
    """The numbers of a file of the fixture `golden`, such as `"measures/retrieval"`."""
    whole = pathlib.Path(f"{golden}/{name}.json")
    return json.loads(whole.read_bytes() if whole.is_file() else gzip.decompress(shipped(name)))


def shipped(name):
    """The shipped file, packed."""
    return (SHIPPED / f"{name}.json.gz").read_bytes()
