"""Monitoring data of an export: canaries with their answers, and reference statistics."""

import json
import os
import pathlib
from typing import Any

import numpy as np

from tfxfer import _check, _disk
from tfxfer.evaluation import _drift
from tfxfer.export import _description, _self_check
from tfxfer.export._signatures import DEFAULT, Zeros

REFERENCE_FILE = pathlib.PurePath("assets.extra", "reference.json")
CHECK_FILE = "check.py"
_EXPECTED = "a folder that `export.saved_model` wrote with a reference"
# Rows sent to a server: enough for different lengths, with few numbers.
_ROWS = 8


def made(signatures, rows):
    """Returns the canaries of signatures: a dict of name to `instances`, the rows of a REST call, and `outputs`.

    Signatures of the Classify and Regress APIs are left out, since others return the same numbers. Signatures with
    images are left out because of their size.

    Args:
        signatures: dict of name to `Signature`.
        rows: list of `(first text, second text)`.
    """
    found = {}
    for name, signature in signatures.items():
        if name == DEFAULT or signature.api != "predict":
            continue
        values = signature.values(rows[:_ROWS])
        if any(isinstance(value, Zeros) for column in values.values() for value in column):
            continue
        answers = signature.answer(rows[:_ROWS])
        outputs = {key: _digits(value) for key, value in answers.items() if value.dtype.kind == "f"}
        if not all(np.isfinite(answers[key]).all() for key in outputs):
            continue  # JSON has no such numbers
        instances = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        found[name] = {"instances": instances, "outputs": outputs}
    return found


def _digits(array):
    """Rounds floats to seven digits, the precision of float32; returns nested lists."""
    flat = [float(f"{value:.7g}") for value in array.ravel().tolist()]
    return np.array(flat).reshape(array.shape).tolist()


def write(folder, canaries, reference):
    """Writes the canaries, and the reference if there is one, into a version's directory."""
    _disk.write_text(folder / _self_check.CANARIES, json.dumps(canaries, ensure_ascii=False, allow_nan=False) + "\n")
    if reference is not None:
        _disk.write_text(folder / REFERENCE_FILE, json.dumps(reference, ensure_ascii=False, allow_nan=False) + "\n")


def write_check(folder):
    """Writes the program that checks a server, next to the versions."""
    program = pathlib.Path(_self_check.__file__).read_text(encoding="utf-8")
    _disk.write_text(folder / CHECK_FILE, program)


def checked_reference(model, reference):
    """Returns a reference as plain JSON values; raises if it is invalid or describes another model."""
    if reference is None:
        return None
    _drift.check_reference("reference", reference)
    labels = list(model.labels) if hasattr(model, "labels") and hasattr(model, "classify") else None
    if reference["labels"] != labels:
        remedy = "Describe the exported model: `evaluation.reference(model, texts)`."
        raise _check.invalid("reference", f"one of a model with the labels {labels}", reference["labels"], remedy)
    return _description.plain("reference", dict(reference))


def reference(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the reference statistics of an export, for `evaluation.drift`.

    Reads one JSON file, `assets.extra/reference.json` in the version's directory.

    Args:
        folder: string or path. A version's directory, or the model's base directory for its newest version.

    Returns:
        The dict that `evaluation.reference` returned.

    Raises:
        ValueError: if the file is missing or damaged; the message names the file.

    Example:

    ```python
    found = tx.evaluation.drift(tx.export.reference("serving/support"), asked_today, model=model)
    ```
    """
    remedy = "Export the model again with `reference=tx.evaluation.reference(model, texts)`."
    folder = _description.version_folder(folder, REFERENCE_FILE, _EXPECTED, remedy)
    reader = _disk.Reader("folder", folder, _EXPECTED, remedy)
    found = reader.json(folder / REFERENCE_FILE, {"format": int, "rows": int, "values": dict})
    return _drift.check_reference("folder", found)
