"""Files with which other servers and clusters run an export, written beside it on request."""

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
# The columns of an encoding of `tokenizers` by the names of the model's inputs.
_COLUMNS = {"token_ids": "ids", "padding_mask": "attention_mask", "segment_ids": "type_ids"}


def recipes(
    folder: str | os.PathLike[str], *, image: str = IMAGE, storage_uri: str | None = None, overwrite: bool = False
) -> list[str]:
    """Writes files beside an export that run it elsewhere, into its subfolder `recipes`.

    Beside a SavedModel, by `saved_model`:

    | file | for |
    |---|---|
    | `refuse_empty.py` | a proxy before the REST API, which answers requests without rows itself |
    | `compose.yaml`, `monitoring.config` | Docker: server, proxy, metrics for Prometheus |
    | `kubernetes.yaml` | a Deployment and a Service, ready once the model answers |
    | `kserve.yaml` | KServe's TensorFlow runtime |
    | `Dockerfile`, `vertex.sh` | an image with the model in it, and Vertex AI |
    | `sagemaker.py` | packs the newest version as SageMaker's TensorFlow containers read it |
    | `fastapi_app.py`, `bento_service.py` | a server of your own in Python |

    Beside an ONNX model, by `onnx`: `triton/`, a model repository of Triton with the model, a Python backend that
    tokenizes from the files beside it, and an ensemble of both that takes strings (not for taggers).

    `README.md` there says how to use each. The files for TF Serving are started in the tests, by a server that answers
    as TF Serving does; the others are held against the documented formats, and were not run by their servers. A server
    needs TF Text's operations, which `tensorflow/serving` has: exports were run by its C++ core of December 2025 on
    TensorFlow 2.21, and load in TensorFlow 2.12.1 with TF Text 2.12.1.

    Args:
        folder: string or path. A model's base folder, as `saved_model` takes it, or a folder by `onnx`.
        image: the image of TF Serving, pinned to a version.
        storage_uri: where a cluster finds the base folder, e.g. `"gs://bucket/intents"`. Defaults to a placeholder.
        overwrite: bool. Whether to replace files that are there; by default they stay as they are.

    Returns:
        The paths written.

    Raises:
        ValueError: for a folder that is no export, or one for LiteRT.

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
        remedy = "LiteRT runs within an app; export to `saved_model` or `onnx` for a server."
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
    """The files beside a SavedModel by name."""
    inputs = list(described["signatures"]["serving_default"]["inputs"])
    values = {
        "name": name,
        # As Kubernetes has names: RFC 1123.
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
    """The files of Triton's model repository by name, and the files that are copied into it."""
    signature = described["signatures"]["serving_default"]
    inputs, outputs = signature["inputs"], signature["outputs"]
    if not set(inputs) <= set(_COLUMNS):
        remedy = "It is given words; export it by `saved_model`, which finds them in raw texts."
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
    """Tensors in the text format of Triton's configuration; the batch is left out of their sizes."""
    found = []
    for name, tensor in tensors.items():
        sizes = ", ".join("-1" if size is None else str(size) for size in tensor["shape"][1:])
        found.append(f'{kind} {{ name: "{name}" data_type: {_TYPES[tensor["dtype"]]} dims: [ {sizes} ] }}')
    return "\n".join(found)


def _maps(kind, tensors):
    """What an ensemble calls the tensors of a step; all keep their names."""
    return "\n".join(f'    {kind} {{ key: "{name}" value: "{name}" }}' for name in tensors)
