"""What lies beside the versions: the server's configuration, each file written in one step."""

import re

from tfxfer import _check, _disk

BATCHING, MODELS = "batching_parameters.txt", "models.config"
_BATCH_SIZE = 32
# Rows that one request may hold: the server parts them into batches.
_REQUEST_SIZE = 1024

# Protobuf's text format, as far as parameters need it: `name: value`, and `name { ... }` of such fields.
_STRING = r'"(?:[^"\\\n]|\\.)*+"|\'(?:[^\'\\\n]|\\.)*+\''
_FIELD = rf"\w++\s*+:\s*+(?:{_STRING}|[\w.+-]++|\[[^\[\]{{}}]*+\])"
_END = r"\s*+[,;]?\s*+"
_FIELDS = re.compile(rf"\s*+(?:(?:{_FIELD}|\w++\s*+:?\s*+\{{\s*+(?:{_FIELD}{_END})*\}}){_END})*")
_COMMENT = re.compile(rf"({_STRING})|#.*")
_SIZES = ("max_batch_size", "max_execution_batch_size")

_BATCHING = """\
# Batching of TF Serving: --enable_batching=true --batching_parameters_file=.../{file}
# With batching, a request without rows, such as {{"inputs": {{"text": []}}}}, is NEVER answered and keeps its thread; a
# few of them stop the REST API of all models. No parameter here helps, nor does --rest_api_timeout_in_ms: clients must
# not send one. `export.recipes` writes a proxy that refuses them.
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
        ValueError: where the server would refuse a request of the size asked for, and with it the model, or could not
            read the file.
    """
    file = folder / BATCHING
    sizes = _sizes(folder, file) if file.exists() else {}
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
            _disk.write_text(folder / name, text)


def _sizes(folder, file):
    """Returns the batch sizes in the server's batching parameters by name."""
    remedy = "Mend the file, or delete it: a new one is then written."
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
