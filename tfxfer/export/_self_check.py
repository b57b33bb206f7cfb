"""Sends the canaries of an export to a running server, and compares its answers with those in the export.

    python3 check.py http://localhost:8501

This file needs only Python, 3.10 or later. An export has it next to its versions; `tfxfer.export.check` is the same
function.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request
from typing import Any

CANARIES = pathlib.PurePath("assets.extra", "canaries.json")
TOLERANCE = 1e-3


def check(
    folder: str | os.PathLike[str],
    url: str = "http://localhost:8501",
    *,
    name: str | None = None,
    version: int | None = None,
    tolerance: float = TOLERANCE,
    timeout: float = 60.0,
) -> dict[str, Any]:
    """Sends the canaries of an export to a server, and compares its answers with those in the export.

    A canary is a text whose vectors and probabilities the exporting process wrote into the export. A server whose
    answers differ runs another version, a damaged file, or a build that computes incorrectly. Only numbers are
    compared: labels and ids follow from them, and may swap if two numbers are equal up to rounding.

    Args:
        folder: string or path. The model's base directory, which holds the numbered versions.
        url: string. The server's REST API. Defaults to `"http://localhost:8501"`.
        name: string. The model's name on the server. Defaults to the name in `models.config`, else the directory's.
        version: int. The version to check. Defaults to the newest one in the directory.
        tolerance: float. The largest difference of a number that passes. Defaults to 0.001: a GPU in TF32 differs by
            about that much, another CPU by 1e-5.
        timeout: float. Seconds to wait for an answer. Defaults to 60.

    Returns:
        A dict: `ok`, whether all signatures pass; `version`; and `signatures`, a dict of name to a dict of `ok`,
        `largest_difference`, and `error`, a string or `None`.

    Raises:
        ValueError: if the directory has no versions or no canaries.

    Example:

    ```python
    tx.export.check("serving/support", "http://localhost:8501")["ok"]
    ```
    """
    folder = pathlib.Path(folder)
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    version = max(numbers, default=None) if version is None else version
    file = folder / str(version) / CANARIES
    if not file.is_file():
        raise ValueError(f"Invalid value for argument `folder`. Expected an export with {CANARIES}. Received: {folder}")
    name = _name(folder) if name is None else name
    found = {}
    for signature, canary in json.loads(file.read_text(encoding="utf-8")).items():
        body = {"signature_name": signature, "instances": canary["instances"]}
        path = f"{url.rstrip('/')}/v1/models/{name}/versions/{version}:predict"
        try:
            largest = _largest_difference(_asked(path, body, timeout), canary["outputs"])
            error = None if largest <= tolerance else f"differs by {largest:.3g}"
        except (OSError, ValueError) as problem:
            largest, error = None, str(problem)
        found[signature] = {"ok": error is None, "largest_difference": largest, "error": error}
    return {"ok": all(each["ok"] for each in found.values()), "version": version, "signatures": found}


def _name(folder):
    """Returns the name in `models.config`, which the server reads, else the directory's name."""
    config = folder / "models.config"
    for line in config.read_text(encoding="utf-8").splitlines() if config.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == "name":
            return value.strip().strip("\"'")
    return folder.resolve().name


def _asked(path, body, timeout):
    """Returns the predictions of a REST call, a list with one entry per row."""
    request = urllib.request.Request(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer = json.loads(response.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"the server answers {error.code}: {error.read().decode('utf-8', 'replace')}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list):
        raise ValueError(f"the server answers {str(answer)[:200]}")
    return answer["predictions"]


def _largest_difference(rows, outputs):
    """Returns the largest difference between the numbers of an answer and the expected numbers.

    Args:
        rows: the predictions: dicts of the outputs, or the values if there is only one output.
        outputs: dict of name to the numbers of each row.
    """
    largest = 0.0
    for name, expected in outputs.items():
        if len(rows) != len(expected):
            raise ValueError(f"{len(rows)} answers to {len(expected)} rows")
        for row, values in zip(rows, expected, strict=True):
            given, values = _flat(row.get(name) if isinstance(row, dict) else row), _flat(values)
            if len(given) != len(values):
                raise ValueError(f"{len(given)} numbers in {name!r}, not {len(values)}")
            largest = max([largest, *(abs(one - other) for one, other in zip(given, values, strict=True))])
    return largest


def _flat(value):
    """Flattens nested lists of numbers; raises if they hold anything else."""
    if isinstance(value, list):
        return [number for each in value for number in _flat(each)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} instead of a number")
    return [float(value)]


def main():
    """Checks the export that contains this file; exits with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://localhost:8501", help="the server's REST API")
    parser.add_argument("--name", help="the model's name on the server, by default the one in models.config")
    parser.add_argument("--version", type=int, help="by default the newest version in this folder")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="the largest difference that passes")
    arguments = parser.parse_args()
    options = {"name": arguments.name, "version": arguments.version, "tolerance": arguments.tolerance}
    found = check(pathlib.Path(__file__).resolve().parent, arguments.url, **options)
    for signature, each in found["signatures"].items():
        sys.stdout.write(f"{signature}: {'ok' if each['ok'] else each['error']}\n")
    sys.stdout.write(f"version {found['version']}: {'ok' if found['ok'] else 'WRONG'}\n")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
