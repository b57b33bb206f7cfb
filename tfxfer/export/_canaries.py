"""What an export keeps to watch itself by: canaries with their answers, and reference statistics."""

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
# Rows that a server is asked: enough lengths, few numbers.
_ROWS = 8


def made(signatures, rows):
    """Returns the canaries of signatures: a dict of name to `instances`, rows of a REST call, and `outputs`.

    Signatures of the Classify and Regress API give what others give as well; those with images are left out for their
    size.

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
    """Returns floats of seven digits, as float32 has them, in nested lists."""
    flat = [float(f"{value:.7g}") for value in array.ravel().tolist()]
    return np.array(flat).reshape(array.shape).tolist()


def write(folder, canaries, reference):
    """Writes canaries, and a reference if there is one, into the folder of a version."""
    _disk.write_text(folder / _self_check.CANARIES, json.dumps(canaries, ensure_ascii=False, allow_nan=False) + "\n")
    if reference is not None:
        _disk.write_text(folder / REFERENCE_FILE, json.dumps(reference, ensure_ascii=False, allow_nan=False) + "\n")


def write_check(folder):
    """Writes the program that asks a server, beside the versions."""
    program = pathlib.Path(_self_check.__file__).read_text(encoding="utf-8")
    _disk.write_text(folder / CHECK_FILE, program)


def checked_reference(model, reference):
    """Returns a reference as JSON knows it; raises where it is none, or another model's."""
    if reference is None:
        return None
    _drift.check_reference("reference", reference)
    labels = list(model.labels) if hasattr(model, "labels") and hasattr(model, "classify") else None
    if reference["labels"] != labels:
        remedy = "Describe the model that is exported: `evaluation.reference(model, texts)`."
        raise _check.invalid("reference", f"one of a model with the labels {labels}", reference["labels"], remedy)
    return _description.plain("reference", dict(reference))


def reference(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the reference statistics that an export holds, for `evaluation.drift`.

    It reads one JSON file, `assets.extra/reference.json` in the version's folder.

    Args:
        folder: string or path: a version's folder, or the model's base folder, whose newest version is then meant.

    Returns:
        The dict that `evaluation.reference` made.

    Raises:
        ValueError: for a folder without such a file, or one whose file is damaged; it names the file.

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
