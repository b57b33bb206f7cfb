"""The server's configuration next to the versions, each file written atomically."""

import re

from tfxfer import _check, _disk

BATCHING, MODELS = "batching_parameters.txt", "models.config"
_BATCH_SIZE = 32
# Rows that one request may hold; the server splits them into batches.
_REQUEST_SIZE = 1024

# The part of protobuf's text format that the parameters use: `name: value`, and `name { ... }` of such fields.
_STRING = r'"(?:[^"\\\n]|\\.)*+"|\'(?:[^\'\\\n]|\\.)*+\''
_FIELD = rf"\w++\s*+:\s*+(?:{_STRING}|[\w.+-]++|\[[^\[\]{{}}]*+\])"
_END = r"\s*+[,;]?\s*+"
_FIELDS = re.compile(rf"\s*+(?:(?:{_FIELD}|\w++\s*+:?\s*+\{{\s*+(?:{_FIELD}{_END})*\}}){_END})*")
_COMMENT = re.compile(rf"({_STRING})|#.*")
_SIZES = ("max_batch_size", "max_execution_batch_size")

_BATCHING = """\
# Batching of TF Serving: --enable_batching=true --batching_parameters_file=.../{file}
# With batching, a request without rows, such as {{"inputs": {{"text": []}}}}, is NEVER answered and holds its thread; a
# few of them stop the REST API of all models. Neither a parameter here nor --rest_api_timeout_in_ms helps: clients must
# not send one. `export.recipes` writes a proxy that rejects them.
# A thread of the server waits for each request, so the number of threads bounds the batches: with the default of four
# per core, two cores merge 8 requests at most. Start it with --rest_api_num_threads=64 --grpc_max_threads=64, twice the
# rows computed at a time; 32 clients then got 1.5 times as many texts per second (tfxfer, benchmarks/batching.py).
# Rows of one request; a larger one is rejected.
max_batch_size {{ value: {request} }}
# Rows computed at a time. Larger requests are split, smaller ones are merged with others.
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {batch} }}
# How long a batch waits for more requests: the delay of a single request. With 8 clients or more, 0 to 10 ms gave the
# same throughput.
batch_timeout_micros {{ value: 2000 }}
# Batches that may wait, per signature; beyond that, the server answers UNAVAILABLE.
max_enqueued_batches {{ value: 128 }}
# pad_variable_length_inputs stays off: texts do not need it, and it reads past the end of requests that differ in rank
# (tensorflow/serving pull 4149).
"""
_MODELS = """\
# For TF Serving: --model_config_file=.../{file}. It serves the newest version. To return to an older one, name it:
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
    """Returns the served name of a model: the directory's name without characters special to URLs and shells."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", folder.resolve().name) or "model"


def batch_size(folder, asked):
    """Returns the most rows of a warm-up request: the size asked for, else the rows the server computes at a time.

    Raises:
        ValueError: if the server would reject a request of that size, and so the model, or could not read the file.
    """
    file = folder / BATCHING
    sizes = _sizes(folder, file) if file.exists() else {}
    limit = sizes.get("max_batch_size")
    if asked is None:
        return max(1, min(sizes.values(), default=_BATCH_SIZE))
    if limit is not None and asked > limit:
        raise _check.invalid("max_batch_size", f"an int <= {limit}, as in {file}", asked, "Edit that file first.")
    return asked


def write_configuration(folder, max_batch_size):
    """Writes the server's configuration files that are missing; existing files keep their manual changes."""
    batch = max_batch_size or _BATCH_SIZE
    texts = {
        BATCHING: _BATCHING.format(file=BATCHING, batch=batch, request=max(_REQUEST_SIZE, batch)),
        MODELS: _MODELS.format(file=MODELS, name=model_name(folder)),
    }
    for name, text in texts.items():
        if not (folder / name).exists():
            _disk.write_text(folder / name, text)


def _sizes(folder, file):
    """Returns the batch sizes in the server's batching parameters by name."""
    remedy = "Fix the file, or delete it: the export then writes a new one."
    reader = _disk.Reader("folder", folder, "a folder whose batching parameters can be read", remedy)
    text = _COMMENT.sub(lambda match: match[1] or "", reader.text(file)).strip()
    if not text:
        raise reader.error(file, "has no parameters")
    fields = _FIELDS.match(text)
    if fields is None or fields.end() < len(text):
        place = 0 if fields is None else fields.end()
        raise reader.error(file, f"is not in protobuf's text format, at {text[place : place + 40]!r}")
    sizes = {}
    for name in _SIZES:
        found = re.search(rf"\b{name}\b(?:\s*:?\s*{{\s*value\s*:\s*([1-9]\d*)\b)?", text)
        if found and not found[1]:
            raise reader.error(file, f"has no positive number for {name!r}")
        if found:
            sizes[name] = int(found[1])
    return sizes
