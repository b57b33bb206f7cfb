"""Files with which other servers and clusters run an export, written next to it on request."""

import json
import os
import pathlib
import re
import shutil

from tfxfer import _check, _disk
from tfxfer.export import _description, _folder, _recipe_files, _recipe_triton

FOLDER = "recipes"
IMAGE = "tensorflow/serving:2.19.1"
_TYPES = {"int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}
# The attributes of a `tokenizers` encoding by the names of the model's inputs.
_COLUMNS = {"token_ids": "ids", "padding_mask": "attention_mask", "segment_ids": "type_ids"}


def recipes(
    folder: str | os.PathLike[str], *, image: str = IMAGE, storage_uri: str | None = None, overwrite: bool = False
) -> list[str]:
    """Writes files that run an export on other servers, into its subdirectory `recipes`.

    For a SavedModel, written by `saved_model`:

    | file | for |
    |---|---|
    | `refuse_empty.py` | a proxy in front of the REST API, which answers requests without rows itself |
    | `compose.yaml`, `monitoring.config` | Docker: server, proxy, metrics for Prometheus |
    | `kubernetes.yaml` | a Deployment and a Service, ready once the model answers |
    | `kserve.yaml` | KServe's TensorFlow runtime |
    | `Dockerfile`, `vertex.sh` | an image with the model in it, and Vertex AI |
    | `sagemaker.py` | packs the newest version as SageMaker's TensorFlow containers read it |
    | `fastapi_app.py`, `bento_service.py` | your own server in Python |

    For an ONNX model, written by `onnx`: `triton/`, a Triton model repository with the model, a Python backend that
    tokenizes with the files next to it, and an ensemble of both that takes strings (not for taggers).

    `README.md` there describes how to use each file. The tests start the files for TF Serving with a test server that
    implements its protocol; the others are checked against the documented formats, but their servers have not run
    them. A server needs TF Text's operations, which `tensorflow/serving` has: its C++ core of December 2025 on
    TensorFlow 2.21 has run exports, and they load in TensorFlow 2.12.1 with TF Text 2.12.1.

    Args:
        folder: string or path. A model's base directory, as given to `saved_model`, or a directory written by `onnx`.
        image: string. The image of TF Serving, pinned to a version.
        storage_uri: string. Where a cluster finds the base directory, e.g. `"gs://bucket/intents"`. Defaults to a
            placeholder.
        overwrite: bool. Whether to replace existing files. Defaults to `False`, which keeps them.

    Returns:
        The paths of the files written.

    Raises:
        ValueError: if the directory is not an export, or is one for LiteRT.

    Example:

    ```python
    tx.export.saved_model(classifier, "serving/intents")
    tx.export.recipes("serving/intents", storage_uri="gs://models/intents")
    ```
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    _check.instance("image", image, str, "the name of an image, with its version")
    described = _description.describe(folder)
    if described["version"] is not None and pathlib.Path(described["path"]) == folder:
        folder = folder.absolute().parent
    name = _folder.model_name(folder)
    if described.get("format") == "onnx":
        texts, copies = _triton(folder, name, described)
    elif described.get("format") is not None:
        remedy = "LiteRT runs inside an app; for a server, export with `saved_model` or `onnx`."
        raise _check.invalid("folder", "an export by `saved_model` or `onnx`", str(folder), remedy)
    else:
        texts, copies = _serving(name, described, image, storage_uri), {}
    written = []
    for file, text in texts.items():
        target = folder / FOLDER / file
        if overwrite or not target.exists():
            _disk.write_text(target, text)
            written.append(str(target))
    for file, source in copies.items():
        target = folder / FOLDER / file
        if overwrite or not target.exists():
            with _disk.replacing(target) as partial:
                shutil.copyfile(source, partial)
            written.append(str(target))
    return written


def _serving(name, described, image, storage_uri):
    """Returns the files for a SavedModel by name."""
    inputs = list(described["signatures"]["serving_default"]["inputs"])
    values = {
        "name": name,
        # Kubernetes names follow RFC 1123.
        "dns_name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50] or "model",
        "image": image,
        "storage_uri": storage_uri or f"gs://YOUR-BUCKET/{name}",
        "batching": _folder.BATCHING,
        "models": _folder.MODELS,
        "version": described["version"] or 1,
        "fields": "\n".join(f"    {each}: Texts" for each in inputs),
        "arguments": ", ".join(f"{each}: list[str]" for each in inputs),
        "inputs": json.dumps(inputs),
        "given": ", ".join(f"{json.dumps(each)}: {each}" for each in inputs),
        "class_name": "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", name)) or "Model",
    }
    files = {}
    for file, text in _recipe_files.FILES.items():
        for key, value in values.items():
            text = text.replace(f"<<{key}>>", str(value))
        files[file] = text
    return files


def _triton(folder, name, described):
    """Returns the files of Triton's model repository by name, and the files to copy into it."""
    signature = described["signatures"]["serving_default"]
    inputs, outputs = signature["inputs"], signature["outputs"]
    if not set(inputs) <= set(_COLUMNS):
        remedy = "It reads words; export it with `saved_model`, which splits raw texts into words."
        raise _check.invalid("folder", "an ONNX model that reads texts", str(folder), remedy)
    towers = len(next(iter(inputs.values()))["shape"]) == 3
    texts = 2 if towers or described["pairs"] else 1
    values = {
        "name": name,
        "texts": texts,
        "inputs": _tensors("input", inputs),
        "outputs": _tensors("output", outputs),
        "ids": _tensors("output", inputs),
        "to_model": _maps("input_map", inputs),
        "from_text": _maps("output_map", inputs),
        "from_model": _maps("output_map", outputs),
        "columns": repr({key: _COLUMNS[key] for key in inputs}),
        "towers": towers,
        "special": (folder / "README.md").read_text(encoding="utf-8").count("encode_special_tokens = True") > 0,
    }
    files = {}
    for file, text in _recipe_triton.FILES.items():
        for key, value in values.items():
            text = text.replace(f"<<{key}>>", str(value))
        files[f"triton/{file.replace('NAME', name)}"] = text
    copies = {
        f"triton/{name}/1/model.onnx": folder / "model.onnx",
        f"triton/{name}_text/1/tokenizer.json": folder / "tokenizer.json",
    }
    return {"README.md": _recipe_triton.README.replace("<<name>>", name), **files}, copies


def _tensors(kind, tensors):
    """Returns tensors in the text format of Triton's configuration, which leaves the batch dimension out."""
    found = []
    for name, tensor in tensors.items():
        sizes = ", ".join("-1" if size is None else str(size) for size in tensor["shape"][1:])
        found.append(f'{kind} {{ name: "{name}" data_type: {_TYPES[tensor["dtype"]]} dims: [ {sizes} ] }}')
    return "\n".join(found)


def _maps(kind, tensors):
    """Returns an ensemble's map for the tensors of a step; all keep their names."""
    return "\n".join(f'    {kind} {{ key: "{name}" value: "{name}" }}' for name in tensors)
