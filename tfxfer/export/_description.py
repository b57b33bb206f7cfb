"""What an export says about itself: JSON beside the graph, read back without TensorFlow."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from tfxfer import _check, _disk
from tfxfer._version import __version__
from tfxfer.export import _signatures

FILE = pathlib.PurePath("assets.extra", "tfxfer.json")
_OR_NONE = type(None)
# What a description holds, with the types of the values.
_KEYS = {
    "class": str,
    "name": str,
    "signatures": dict,
    "labels": (list, _OR_NONE),
    "multi_label": (bool, _OR_NONE),
    "prompts": (dict, _OR_NONE),
    "default_prompt_name": (str, _OR_NONE),
    "index": (dict, _OR_NONE),
    "pairs": bool,
    "sequence_length": int,
    "text_bytes": (int, _OR_NONE),
    "weights": dict,
    "metadata": dict,
    "versions": dict,
    "created": str,
}
_PACKAGES = ("tensorflow", "tensorflow-text", "keras", "keras-hub", "numpy")


def versions_in(folder):
    """Returns the paths of the versions in a model's base folder by number, as TF Serving finds them."""
    found = {int(path.name): path for path in folder.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
    return dict(sorted(found.items()))


def describe(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what an export says about itself.

    It reads one JSON file, `assets.extra/tfxfer.json` in the version's folder; any other program can do the same.

    Args:
        folder: string or path: a version's folder, or the model's base folder, whose newest version is then meant.

    Returns:
        A dict:

        | key | value |
        |---|---|
        | `version`, `path` | the version's number (`None` in a folder of another name) and folder |
        | `class`, `name` | of the model |
        | `signatures` | name to `api`, `purpose`, `inputs` and `outputs`, these by name to `dtype` and `shape` |
        | `labels`, `multi_label` | the class names in the order of the model's outputs; `None` without classes |
        | `decisions` | of a classifier: `threshold`, and the parts of `model.decisions` with settings; else `None` |
        | `tasks` | of a `MultiTask` only: name to `class`, `labels`, `multi_label` and `decisions` |
        | `adapters` | with sets of adapters only: their names |
        | `prompts`, `default_prompt_name` | of an embedder |
        | `index` | `texts`, `precision`, `similarity` and `max_k` of an index shipped inside |
        | `pairs` | whether the model itself takes two texts |
        | `sequence_length` | tokens that a text is cut at; of a tagger, those of a window |
        | `text_bytes` | bytes of a text that are read; `None` for all |
        | `weights` | `parameters`, `dtype` and `sha256` of the model's own weights, before they were made small |
        | `training` | `model.training_record`: a dict for each `fit` |
        | `metadata` | what `saved_model` was given: preset, metrics, licence |
        | `versions` | of tfxfer and what it stands on |
        | `created` | time in UTC |

    Raises:
        ValueError: for a folder without such a file, or one whose file is damaged; it names the file.

    Example:

    ```python
    found = tx.export.describe("serving/intents")
    found["version"], found["labels"], found["metadata"]["metrics"]
    ```
    """
    folder = version_folder(folder, FILE, "a folder that `export.saved_model` wrote")
    remedy = "Export the model again, or copy the folder again from where it is complete."
    reader = _disk.Reader("folder", folder, "a folder that `export.saved_model` wrote", remedy)
    found = reader.json(folder / FILE, _KEYS)
    number = int(folder.name) if re.fullmatch(r"[0-9]+", folder.name) else None
    return {"version": number, "path": str(folder), **found}


def version_folder(folder, file, expected, remedy=""):
    """Returns the folder of the version that is meant, which holds a file.

    Args:
        folder: string or path: a version's folder, or the model's base folder, whose newest version is then meant.
        file: path within the folder of a version.
        expected: string. What `folder` should be, for the error.
        remedy: string, a sentence for the error.
    """
    folder = _disk.local_path("folder", folder)
    if not (folder / file).exists() and folder.is_dir():
        folder = next(reversed(versions_in(folder).values()), folder)
    if not (folder / file).exists():
        remedy = f"It has no {file}, nor has its newest version. {remedy}".strip()
        raise _check.invalid("folder", expected, str(folder), remedy)
    return folder


def of_model(model, signatures, *, pairs, index, weights_dtype, metadata, adapters=None):
    """Returns the description of a model: what `describe` returns, but for the version."""
    embedder = model.tower()
    return {
        "class": type(model).__name__,
        "name": model.name,
        "signatures": {name: _of_signature(signature) for name, signature in signatures.items()},
        "labels": _signatures.labels_of(model),
        **_tasks(model),
        **({} if adapters is None else {"adapters": list(adapters)}),
        "multi_label": getattr(model, "multi_label", None),
        "decisions": decisions_of(model),
        "prompts": getattr(embedder, "prompts", None),
        "default_prompt_name": getattr(embedder, "default_prompt_name", None),
        "index": None
        if index is None
        else {
            "texts": index.size,
            "precision": index.precision,
            "similarity": index.similarity,
            "max_k": index.max_k,
        },
        "pairs": bool(pairs),
        "sequence_length": model.preprocessor.sequence_length,
        "text_bytes": _signatures.text_bytes(model),
        "weights": {
            "parameters": model.count_params(),
            "dtype": weights_dtype or str(model.weights[0].dtype),
            "sha256": _sha256(model),
        },
        "training": model.training_record,
        "metadata": metadata,
        "versions": {"tfxfer": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def decisions_of(model):
    """Returns what a classifier decides by, in plain values; `None` for nothing."""
    made, threshold = getattr(model, "decisions", None), getattr(model, "threshold", None)
    found = {} if made is None else made.describe()
    if isinstance(threshold, dict):  # by label, which need be no string
        threshold = list(threshold.values())
    return {**({} if threshold is None else {"threshold": threshold}), **found} or None


def _tasks(model):
    """What a model of several tasks says of each."""
    parts = model.served_parts()
    if len(parts) == 1:
        return {}
    return {
        "tasks": {
            name: {
                "class": type(part).__name__,
                "labels": _signatures.labels_of(part),
                "multi_label": getattr(part, "multi_label", None),
                "decisions": decisions_of(part),
            }
            for name, part in parts.items()
        }
    }


def _of_signature(signature):
    function = signature.function
    positional, named = function.structured_input_signature
    specs = {spec.name: spec for spec in [*positional, *named.values()]}
    found = {"api": signature.api, "purpose": signature.purpose}
    found["inputs"] = {name: _of_tensor(spec) for name, spec in specs.items()}
    if signature.api != "predict":
        found["features"] = list(signature.roles)
    found["outputs"] = {name: _of_tensor(tensor) for name, tensor in function.structured_outputs.items()}
    return found


def _of_tensor(spec):
    return {"dtype": spec.dtype.name, "shape": None if spec.shape.rank is None else spec.shape.as_list()}


def _sha256(model):
    """A name for the very weights: the hash of all of them in the model's order."""
    found = hashlib.sha256()
    for weight in model.weights:
        found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()


def plain(argument, value):
    """Returns a value as JSON knows it; numpy's numbers and arrays become Python's.

    Raises:
        ValueError: for what JSON cannot hold, NaN and infinity included.
    """
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        remedy = f"{error}. Leave it out, or turn it into a string."
        raise _check.invalid(argument, "strings, finite numbers, lists and dicts", value, remedy) from error


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (pathlib.PurePath, datetime.date)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")
