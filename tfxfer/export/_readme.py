"""The README of an export: how to start the server, and calls of each signature with real texts and answers."""

import json
import shlex

import numpy as np

from tfxfer import _disk
from tfxfer.export import _canaries, _folder
from tfxfer.export._signatures import Zeros

FILE = "README.md"
_SHOWN = 3  # numbers of a vector and entries of a list that are shown
_LABELS = 100  # labels that are listed

_HEAD = """\
# {name}

A `{kind}` exported by tfxfer {tfxfer}. It takes raw texts: the tokenizer is in the graph.

- version: {version}, created {created}
- weights: {parameters:,}, stored as {dtype}, sha256 `{sha256}`
- full description: `{version}/assets.extra/tfxfer.json`
{about}

> **Never send a request without rows.** With batching, TF Serving never answers a request such as
> `{{"inputs": {{"text": []}}}}`: it holds its thread, and about as many of them as the server has REST threads stop the
> REST API of all models. `--rest_api_timeout_in_ms` does not help. The clients below refuse to send one. If other
> clients can reach the server, put `recipes/refuse_empty.py` in front of it, which
> `python -c "import tfxfer; tfxfer.export.recipes('.')"` writes, or leave batching off.

## Start the server

In this folder:

```sh
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}:ro" -e MODEL_NAME={name} tensorflow/serving \\
  --enable_batching=true --batching_parameters_file=/models/{name}/{batching} \\
  --rest_api_num_threads=64 --grpc_max_threads=64
```

The server loads the newest version and, while it runs, each newer one that appears. To pin it to an older version,
name that version in `{models}` and start it with

```sh
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}:ro" tensorflow/serving \\
  --model_config_file=/models/{name}/{models} --model_config_file_poll_wait_seconds=60 \\
  --enable_batching=true --batching_parameters_file=/models/{name}/{batching} \\
  --rest_api_num_threads=64 --grpc_max_threads=64
```

Before a version answers, the server runs the requests in its `assets.extra/tf_serving_warmup_requests`. If many models
load at once and a slow first call is acceptable, `--enable_model_warmup=false` starts the server sooner.

To check whether it is ready:

```sh
curl http://localhost:8501/v1/models/{name}
```

To check that it answers as the model did at export, run this program, which needs only Python. It sends the texts in
`{version}/assets.extra/canaries.json`, compares the numbers, and exits with 1 if any differ:

```sh
python3 {check} http://localhost:8501
```
{reference}
Without a server, in Python with `tensorflow` and `tensorflow_text`:

```python
import tensorflow as tf
import tensorflow_text  # registers the tokenizer's operations

served = tf.saved_model.load("{version}").signatures["serving_default"]
```

Every answer belongs to the row of its input: the server merges rows of several requests and splits them again. Texts
are a flat list; a nested list is an error, and fails the requests that the server merged it with. {bytes_read} A REST
answer holds `predictions`, one for each row: the outputs by name, or the value itself if there is only one output;
`:classify` and `:regress` answer with `results`.

## Signatures

`serving_default`, which the server uses if a call names no signature, is `{own}`. The gRPC calls below are in Python
and need `pip install grpcio tensorflow tensorflow-serving-api`:

```python
import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("localhost:8500"))


def predict(signature, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "{name}"
    request.model_spec.signature_name = signature
    for key, value in inputs.items():
        if len(value) == 0:
            raise ValueError(f"{{key}} has no rows: with batching, the server would never answer")
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    outputs = stub.Predict(request, 10.0).outputs
    return {{key: tf.make_ndarray(value) for key, value in outputs.items()}}


def ask(call, request, signature, rows):
    request.model_spec.name = "{name}"
    request.model_spec.signature_name = signature
    if not rows:
        raise ValueError("no rows: with batching, the server would never answer")
    for row in rows:
        feature = request.input.example_list.examples.add().features.feature
        for key, text in row.items():
            feature[key].bytes_list.value.append(text.encode())
    return call(request, 10.0).result
```
"""
_REFERENCE = """
`{version}/assets.extra/reference.json` describes {rows:,} typical texts and the answers to them:
`tfxfer.evaluation.drift(tfxfer.export.reference("."), texts, model=model)` tests whether later texts look like these.
"""
_SIGNATURE = """
### {signature}

{purpose}

| | name | dtype | shape |
|---|---|---|---|
{table}

```sh
{rest}
```

```python
{call}
```
"""
_ANSWERS = """
Answers:

```
{answers}
```
"""


def write(target, description, signatures, rows, answers, reference=None, training=()):
    """Writes the README next to a version.

    Args:
        target: path of the version's directory.
        description: the dict that `describe` returns.
        signatures: dict of name to `Signature`.
        rows: the rows of the example calls.
        answers: dict of a signature's name to its answers for the rows; it need not hold every signature.
        reference: the reference statistics of the version, or `None`.
        training: a line for each training run of the model.
    """
    name = _folder.model_name(target.parent)
    own = next(key for key, value in signatures.items() if key != "serving_default")
    weights, text_bytes = description["weights"], description["text_bytes"]
    text = _HEAD.format(
        name=name,
        kind=description["class"],
        tfxfer=description["versions"]["tfxfer"],
        created=description["created"],
        version=target.name,
        own=own,
        about=_about(description, training),
        batching=_folder.BATCHING,
        check=_canaries.CHECK_FILE,
        reference="" if reference is None else _REFERENCE.format(version=target.name, rows=reference["rows"]),
        models=_folder.MODELS,
        bytes_read=f"The first {text_bytes:,} bytes of a text are read."
        if text_bytes
        else "A text of any length is read.",
        **weights,
    )
    for key, signature in signatures.items():
        if key == "serving_default":
            continue
        text += _SIGNATURE.format(
            name=name,
            signature=key,
            purpose=signature.purpose,
            table="\n".join(_table(description["signatures"][key])),
            rest=_rest(f"http://localhost:8501/v1/models/{name}:{signature.api}", _body(key, signature, rows)),
            call=_call(key, signature, rows),
        )
        if key in answers:
            text += _ANSWERS.format(
                answers="\n".join(f"{name}: {_shown(value)}" for name, value in answers[key].items())
            )
    _disk.write_text(target.parent / FILE, text)


def _about(description, training):
    """Returns the lines on the model's labels, decisions, metrics and training."""
    metadata, labels, decisions = description["metadata"], description["labels"], description["decisions"]
    lines = []
    if labels:
        more = ", ..." if len(labels) > _LABELS else ""
        lines.append(f"labels ({len(labels)}): {', '.join(f'`{label}`' for label in labels[:_LABELS])}{more}")
    for name, setting in (decisions or {}).items():
        lines.append(f"{name}: {_setting(setting)}")
    for name, value in metadata.items():
        if name != "metrics" or not isinstance(value, dict):
            lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
            continue
        nested = bool(value) and all(isinstance(each, dict) for each in value.values())
        for data, found in (value if nested else {"": value}).items():
            shown = "; ".join(f"{key} {_metric(found, key)}" for key in found if _is_metric(found[key]))
            lines.append(f"metrics{' on ' if data else ''}{data}: {shown}")
    lines += [f"trained {line}" for line in training]
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _setting(setting):
    if isinstance(setting, dict):
        return ", ".join(f"{key} {_setting(value)}" for key, value in setting.items())
    return f"{setting:.4g}" if isinstance(setting, float) else str(setting)


def _is_metric(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _metric(found, name):
    interval = (found.get("intervals") or {}).get(name) if isinstance(found.get("intervals"), dict) else None
    return f"{found[name]:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")


def _table(description):
    if description["api"] != "predict":
        yield from (f"| feature | `{name}` | string | one text |" for name in description["features"])
    else:
        yield from _tensors("input", description["inputs"])
    yield from _tensors("output", description["outputs"])


def _tensors(kind, tensors):
    for name, tensor in tensors.items():
        shape = "(batch,) or (batch, n)"
        if tensor["shape"] is not None:
            sizes = ["batch", *("n" if size is None else str(size) for size in tensor["shape"][1:])]
            shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        yield f"| {kind} | `{name}` | {tensor['dtype']} | {shape} |"


def _body(name, signature, rows):
    """Returns the body of a REST call in the row format."""
    key = "instances" if signature.api == "predict" else "examples"
    return {"signature_name": name, key: _by_row(signature.values(rows))}


def _rest(url, body):
    """Returns the REST call with a body; Python generates a body with long lists of zeros."""
    if not any(isinstance(value, Zeros) for row in body.get("instances", ()) for value in row.values()):
        return f"curl {url} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    program = f"import json; print(json.dumps({body!r}))"
    return f"python3 -c {shlex.quote(program)} |\n  curl {url} -d @-"


def _by_row(values):
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _call(name, signature, rows):
    """Returns the gRPC call in Python."""
    values = signature.values(rows)
    if signature.api == "predict":
        given = [f"    {key}={_argument(value, signature.dtype(key))}," for key, value in values.items()]
        return "\n".join([f"predict(\n    {name!r},", *given, ")"])
    kind = {"classify": "classification_pb2.Classification", "regress": "regression_pb2.Regression"}[signature.api]
    return f"ask(stub.{signature.api.title()}, {kind}Request(), {name!r}, {_by_row(values)!r})"


def _argument(value, dtype):
    """Returns a value as Python code, with the dtype that the server requires."""
    return repr(value) if dtype is None else f"tf.constant({value!r}, tf.{dtype}).numpy()"


def _shown(array):
    """Formats an array, truncated if it is long."""
    array = np.asarray(array)
    if array.ndim == 0:
        value = array.item()
        if isinstance(value, bytes):
            return json.dumps(value.decode(errors="replace"), ensure_ascii=False)
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    parts = [_shown(value) for value in array[:_SHOWN]]
    return f"[{', '.join(parts)}{f', ... ({len(array)})' if len(array) > _SHOWN else ''}]"
