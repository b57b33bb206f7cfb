"""The description of an export: JSON next to the graph, which can be read without TensorFlow."""

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
# The keys of a description, with the types of their values.
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
    """Returns a dict of number to path of the versions in a model's base directory, as TF Serving finds them."""
    found = {int(path.name): path for path in folder.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
    return dict(sorted(found.items()))


def describe(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the description of an export.

    Reads one JSON file, `assets.extra/tfxfer.json` in the version's directory; any other program can do the same.

    Args:
        folder: string or path. A version's directory, or the model's base directory for its newest version.

    Returns:
        A dict:

        | key | value |
        |---|---|
        | `version`, `path` | the version's number (`None` if the directory's name is not a number) and directory |
        | `class`, `name` | the model's class and name |
        | `signatures` | name to `api`, `purpose`, `inputs` and `outputs`; these by name to `dtype` and `shape` |
        | `labels`, `multi_label` | the class names in the order of the model's outputs; `None` without classes |
        | `decisions` | of a classifier: `threshold`, and the parts of `model.decisions` with settings; else `None` |
        | `tasks` | only for a `MultiTask`: name to `class`, `labels`, `multi_label` and `decisions` |
        | `adapters` | only with sets of adapters: their names |
        | `prompts`, `default_prompt_name` | of an embedder |
        | `index` | `texts`, `precision`, `similarity` and `max_k` of the exported index |
        | `pairs` | whether the model itself takes two texts |
        | `sequence_length` | maximum number of tokens of a text; of a tagger, tokens in a window |
        | `text_bytes` | bytes of a text that are read; `None` for all |
        | `weights` | `parameters`, `dtype` and `sha256` of the model's weights, before `weights_dtype` was applied |
        | `training` | `model.training_record`: a dict for each `fit` |
        | `metadata` | the `metadata` given to `saved_model`: preset, metrics, license |
        | `versions` | of tfxfer and its dependencies |
        | `created` | time in UTC |

    Raises:
        ValueError: if the file is missing or damaged; the message names the file.

    Example:

    ```python
    found = tx.export.describe("serving/intents")
    found["version"], found["labels"], found["metadata"]["metrics"]
    ```
    """
    folder = version_folder(folder, FILE, "a folder that `export.saved_model` wrote")
    remedy = "Export the model again, or copy the folder again from a complete one."
    reader = _disk.Reader("folder", folder, "a folder that `export.saved_model` wrote", remedy)
    found = reader.json(folder / FILE, _KEYS)
    number = int(folder.name) if re.fullmatch(r"[0-9]+", folder.name) else None
    return {"version": number, "path": str(folder), **found}


def version_folder(folder, file, expected, remedy=""):
    """Returns the version's directory that `folder` refers to, after checking that it holds a file.

    Args:
        folder: string or path. A version's directory, or the model's base directory for its newest version.
        file: path within a version's directory.
        expected: string. What `folder` should be, for the error.
        remedy: string, a sentence for the error.
    """
    folder = _disk.local_path("folder", folder)
    if not (folder / file).exists() and folder.is_dir():
        folder = next(reversed(versions_in(folder).values()), folder)
    if not (folder / file).exists():
        remedy = f"Neither it nor its newest version has {file}. {remedy}".strip()
        raise _check.invalid("folder", expected, str(folder), remedy)
    return folder


def of_model(model, signatures, *, pairs, index, weights_dtype, metadata, adapters=None):
    """Returns the description of a model: the dict of `describe` without `version` and `path`."""
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
    """Returns a classifier's decision settings as plain values; `None` if there are none."""
    made, threshold = getattr(model, "decisions", None), getattr(model, "threshold", None)
    found = {} if made is None else made.describe()
    if isinstance(threshold, dict):  # keyed by label, which is not always a string
        threshold = list(threshold.values())
    return {**({} if threshold is None else {"threshold": threshold}), **found} or None


def _tasks(model):
    """Describes each task of a model of several tasks."""
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
    """Returns the SHA-256 of all weights in the model's order, which identifies them."""
    found = hashlib.sha256()
    for weight in model.weights:
        found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()


def plain(argument, value):
    """Returns a value in JSON's types; numpy numbers and arrays become Python numbers and lists.

    Raises:
        ValueError: if JSON cannot hold the value, which includes NaN and infinity.
    """
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        remedy = f"{error}. Leave it out, or convert it to a string."
        raise _check.invalid(argument, "strings, finite numbers, lists and dicts", value, remedy) from error


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (pathlib.PurePath, datetime.date)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")
