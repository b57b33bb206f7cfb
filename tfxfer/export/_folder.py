"""What lies beside the versions: the server's configuration, each file written in one step."""

import os
import re
import uuid

from tfxfer import _check

BATCHING, MODELS = "batching_parameters.txt", "models.config"
_BATCH_SIZE = 32
# Rows that one request may hold: the server parts them into batches.
_REQUEST_SIZE = 1024

_BATCHING = """\
# Batching of TF Serving: --enable_batching=true --batching_parameters_file=.../{file}
# Rows of one request; a larger one is refused.
max_batch_size {{ value: {request} }}
# Rows computed at a time. Larger requests are parted, smaller ones merged with others.
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {batch} }}
# How long a batch waits for further requests. Longer: more throughput; shorter: less delay for a lone request.
batch_timeout_micros {{ value: 2000 }}
# What may wait, for each signature; beyond it the server answers UNAVAILABLE.
max_enqueued_batches {{ value: 128 }}
# pad_variable_length_inputs stays off: texts need none, and it reads past the end of requests that differ in rank
# (tensorflow/serving pull 4149).
"""
_MODELS = """\
# Of TF Serving: --model_config_file=.../{file}. The newest version is served; to go back to an older one, name it:
#   model_version_policy {{ specific {{ versions: 1 }} }}
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""


def model_name(folder):
    """The name that a model is served under: its folder's, without signs that a URL or a shell would read."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", folder.resolve().name) or "model"


def batch_size(folder, asked):
    """Returns how many rows a warm-up request may hold: what was asked for, else what the server computes at a time.

    Raises:
        ValueError: where the server would refuse a request of the size asked for, and with it the model.
    """
    file = folder / BATCHING
    text = re.sub("#.*", "", file.read_text(encoding="utf-8")) if file.is_file() else ""
    found = re.findall(r"\b(max_batch_size|max_execution_batch_size)\s*:?\s*{\s*value\s*:\s*(\d+)", text)
    sizes = {name: int(size) for name, size in found}
    limit = sizes.get("max_batch_size")
    if asked is None:
        return max(1, min(sizes.values(), default=_BATCH_SIZE))
    if limit is not None and asked > limit:
        raise _check.invalid("max_batch_size", f"an int <= {limit}, as {file} says", asked, "Edit that file first.")
    return asked


def write_configuration(folder, max_batch_size):
    """Writes the server's configuration where it is missing; what is there stays, with the changes made by hand."""
    batch = max_batch_size or _BATCH_SIZE
    texts = {
        BATCHING: _BATCHING.format(file=BATCHING, batch=batch, request=max(_REQUEST_SIZE, batch)),
        MODELS: _MODELS.format(file=MODELS, name=model_name(folder)),
    }
    for name, text in texts.items():
        if not (folder / name).exists():
            replace(folder / name, text)


def replace(path, text):
    """Writes a file in one step, so that nobody reads half of it."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
