"""The REST API, as in http_rest_api_util.cc and json_tensor.cc."""

import base64
import binascii
import gzip
import http.server
import json
import logging
import re
import threading
import urllib.parse
import zlib

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, model_pb2, regression_pb2

from contract_server import calls, errors

LOG = logging.getLogger("contract_server")
ASK = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", re.IGNORECASE
)
TELL = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", re.IGNORECASE
)
# A JSON escape; a pair of surrogates counts as one.
ESCAPE = re.compile(r"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
LONE = re.compile(r"u[dD][89a-fA-F].{2}", re.DOTALL)
INTEGERS = {
    tf.int8: np.int32,
    tf.uint8: np.int32,
    tf.int16: np.int32,
    tf.int32: np.int32,
    tf.int64: np.int64,
    tf.uint32: np.uint32,
    tf.uint64: np.uint64,
}


# === Requests ===


def first_wins(pairs):
    """Builds an object; of several pairs with one name, the first wins."""
    found = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


DECODER = json.JSONDecoder(object_pairs_hook=first_wins)


def parse(body):
    """Returns the JSON object of a request and the name of its signature.

    As rapidjson does, accepts bytes that are not UTF-8 and rejects lone escaped surrogates.
    """
    if not body:
        raise errors.invalid("JSON Parse error: The document is empty")
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").lstrip(" \t\r\n")
    try:
        found, end = DECODER.raw_decode(text)  # what follows it is ignored
    except (ValueError, RecursionError) as error:
        found, end, failed = None, len(text), error
    else:
        failed = None
    for match in ESCAPE.finditer(text[:end]):
        if LONE.fullmatch(match[1]):
            raise errors.invalid(
                f"JSON Parse error: The surrogate pair in string is invalid. at offset: {match.start()}"
            )
    if failed is not None:
        raise errors.invalid(f"JSON Parse error: {failed}") from failed
    if not isinstance(found, dict):
        raise errors.invalid(f"JSON Value: {shown(found)} Is not object")
    name = found.get("signature_name", "")
    if not isinstance(name, str):
        raise errors.invalid(f"JSON Value: {shown(found)} 'signature_name' key must be a string value.")
    return found, name


def shown(value):
    """Formats a value for an error."""
    return json.dumps(value)[:300]


def is_base64(value):
    """Whether a value is bytes in their JSON form, `{"b64": ...}`."""
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def is_object(value):
    """Whether a value is a row of named inputs."""
    return isinstance(value, dict) and not is_base64(value)


def decoded(value):
    """Decodes a value in base64 to bytes."""
    try:
        text = value["b64"]
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.invalid("Unable to base64 decode") from error


def tensor(value, dtype):
    """Converts nested lists to an array with the shape of their first elements; any other shape is an error."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat = []
    _fill(value, 0, shape, dtype, flat)
    numpy_dtype = object if dtype == tf.string else dtype.as_numpy_dtype
    made = np.empty(len(flat), numpy_dtype)
    made[:] = flat
    return made.reshape(shape)


def _fill(value, level, shape, dtype, flat):
    if not isinstance(value, list):
        if level != len(shape):
            raise errors.invalid(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_single(value, dtype))
        return
    if level >= len(shape):
        raise errors.invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise errors.invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for inner in value:
        _fill(inner, level + 1, shape, dtype, flat)


def _single(value, dtype):
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if isinstance(value, dict):
            if not is_base64(value):
                raise errors.invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
            return decoded(value)
    elif dtype == tf.bool:
        if isinstance(value, bool):
            return value
    elif dtype in (tf.float32, tf.float64):
        if is_integer or isinstance(value, float):
            return value
    elif dtype in INTEGERS:
        limits = np.iinfo(INTEGERS[dtype])
        if is_integer and limits.min <= value <= limits.max:
            return value
    else:
        raise errors.ServingError(
            errors.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {dtype.name}"
        )
    raise errors.invalid(f"JSON Value: {shown(value)} is not of expected type: {dtype.name}")


def predict_inputs(body, version):
    """Returns the signature, the arrays by name, and whether the request is in rows."""
    found, name = parse(body)
    signature = version.signatures.get(name or calls.DEFAULT)
    if signature is None:
        raise errors.invalid(f'Serving signature name: "{name or calls.DEFAULT}" not found in signature def')
    dtypes = {key: tf.as_dtype(info.dtype) for key, info in signature.inputs.items()}
    if not dtypes:
        raise errors.invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in found and "inputs" in found:
        raise errors.invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in found:
        return signature, _from_rows(found["instances"], dtypes), True
    if "inputs" in found:
        return signature, _from_columns(found["inputs"], dtypes), False
    raise errors.invalid("Missing 'inputs' or 'instances' key")


def _from_rows(rows, dtypes):
    if not isinstance(rows, list):
        raise errors.invalid("Excepting 'instances' to be an list/array")
    if not rows:
        raise errors.invalid("No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise errors.invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required"
        )
    named = is_object(rows[0])
    found = {name: [] for name in dtypes}
    for index, row in enumerate(rows):
        if is_object(row) != named:
            raise errors.invalid(f"Expecting {'object' if named else 'value/list'} at item {index} of input list")
        row = row if named else {next(iter(dtypes)): row}
        for name in row:
            if name not in dtypes:
                raise errors.invalid(
                    f"Failed to process element: {index} key: {name} of 'instances' list. "
                    f"Error: JSON object: does not have named input: {name}"
                )
        if set(row) != set(dtypes):
            raise errors.invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} keys must be equal "
                f"to: {','.join(sorted(dtypes))}"
            )
        for name, value in row.items():
            found[name].append(tensor(value, dtypes[name]))
            first = found[name][0].shape
            if found[name][-1].shape != first:
                raise errors.invalid(f"Expecting shape {list(first)} but got: {list(found[name][-1].shape)}")
    return {name: np.stack(values) for name, values in found.items()}


def _from_columns(value, dtypes):
    if not is_object(value):
        if len(dtypes) > 1:
            raise errors.invalid(
                "inputs is a plain value/list, but expecting an object as multiple inputs are required"
            )
        [(name, dtype)] = dtypes.items()
        return {name: tensor(value, dtype)}
    for name in dtypes:
        if name not in value:
            raise errors.invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: tensor(value[name], dtype) for name, dtype in dtypes.items()}


def examples(body, request):
    """Fills a classification or regression request from JSON and returns it."""
    found, request.model_spec.signature_name = parse(body)
    has_context = "context" in found
    if has_context:
        _example(found["context"], request.input.example_list_with_context.context)
    rows = found.get("examples")
    if not isinstance(rows, list) or not rows:
        raise errors.invalid("key 'examples' is expected to be a list that is not empty")
    target = request.input.example_list_with_context if has_context else request.input.example_list
    for row in rows:
        _example(row, target.examples.add())
    return request


def _example(row, example):
    if not isinstance(row, dict):
        raise errors.invalid(f"Example must be JSON object but got JSON {type(row).__name__}")
    for name, values in row.items():
        feature = example.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            kind, value = _of_feature(name, value)
            if feature.WhichOneof("kind") not in (None, kind):
                raise errors.invalid(f"Unexpected element type in feature: {name}")
            getattr(feature, kind).value.append(value)


def _of_feature(name, value):
    if isinstance(value, bool):
        return "int64_list", int(value)
    if isinstance(value, str):
        return "bytes_list", value.encode("utf-8", "surrogateescape")
    if is_base64(value):
        return "bytes_list", decoded(value)
    if isinstance(value, float):
        return "float_list", value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise errors.invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", value
    raise errors.invalid(f"Feature: {name} has element with unexpected JSON type: {type(value).__name__}")


# === Answers ===


def predictions(outputs, in_rows):
    """Returns the JSON of the outputs of Predict; a single output appears without its name."""
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if not in_rows:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    sizes = set()
    for name, array in outputs.items():
        if array.ndim == 0:
            raise errors.invalid(f"Tensor name: {name} has no shape information ")
        sizes.add(array.shape[0])
        if len(sizes) > 1:
            raise errors.invalid(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]}")
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def _plain(name, array):
    dtype = tf.as_dtype(array.dtype)
    if dtype == tf.string:
        as_base64 = name.endswith("_bytes")
        return _mapped(array.tolist(), lambda value: _string(value, as_base64))
    if dtype not in (tf.float32, tf.float64, tf.bool, *INTEGERS):
        raise errors.invalid(f"Failed to write JSON value for tensor type: DT_{dtype.name.upper()}")
    return array.tolist()


def _mapped(value, function):
    return [_mapped(inner, function) for inner in value] if isinstance(value, list) else function(value)


def _string(value, as_base64):
    return {"b64": base64.b64encode(value).decode()} if as_base64 else value.decode("utf-8", "surrogateescape")


def metadata(name, number, version):
    """Returns a `GetModelMetadataResponse`."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in version.signatures.items():
        signatures.signature_def[key].CopyFrom(signature)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = number
    response.metadata["signature_def"].Pack(signatures)
    return response


# === The server ===


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, which stays open for further requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    # A query string is part of the path, and so of the model's name.

    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length is None:
            return self._send(411, {"error": "a request needs a Content-Length"})
        body = self.rfile.read(int(length))
        if self.headers.get("Content-Encoding", "").lower() == "gzip":
            try:
                body = gzip.decompress(body)
            except (OSError, EOFError, zlib.error):
                body = b""
        with self.server.threads:
            return self._answer(self.path, ASK.fullmatch(self.path), self._ask, body)

    def do_GET(self):
        with self.server.threads:
            if self.path == self.server.metrics:
                return self._send(200, self._metrics(), "text/plain")
            return self._answer(self.path, TELL.fullmatch(self.path), self._tell)

    def _malformed(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self._send(400, {"error": f"Malformed request: {self.command} {self.path}"})

    do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _malformed

    def _answer(self, path, match, act, *arguments):
        if not path.lower().startswith("/v1/"):
            return self._send(404, b"", "text/html")
        try:
            if match is None:
                raise errors.invalid(f"Malformed request: {self.command} {path}")
            return self._send(200, act(match, *arguments))
        except Exception as error:
            failed = errors.of(error)
            if failed.code == errors.INTERNAL:
                LOG.exception("a request failed")
            return self._send(errors.HTTP.get(failed.code, 500), {"error": failed.message})

    def _ask(self, match, body):
        core, spec, method = self.server.core, _spec(match), match[4].lower()
        try:
            _, version = core.get(spec)
            with version.used():
                answer = self._run(method, version, spec, body)
        except Exception as error:
            core.count(spec.name, errors.of(error))
            raise
        core.count(spec.name)
        return answer

    def _run(self, method, version, spec, body):
        if method == "predict":
            signature, inputs, in_rows = predict_inputs(body, version)
            return predictions(calls.run(version, signature, inputs), in_rows)
        if method == "classify":
            request = examples(body, classification_pb2.ClassificationRequest(model_spec=spec))
            found = calls.classify(version, request).result.classifications
            return {"results": [[[each.label, each.score] for each in row.classes] for row in found]}
        request = examples(body, regression_pb2.RegressionRequest(model_spec=spec))
        return {"results": [each.value for each in calls.regress(version, request).result.regressions]}

    def _tell(self, match):
        if match[1] is None:
            raise errors.invalid("Missing model name in request.")
        spec = _spec(match)
        if match[4] is None:
            return _as_json(self.server.core.status(spec))
        number, version = self.server.core.get(spec)
        with version.used():
            found = metadata(spec.name, number, version)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        found.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": _as_json(found.model_spec, names=True),
            "metadata": {"signature_def": _as_json(signatures, names=True)},
        }

    def _metrics(self):
        core = self.server.core
        lines = ["# TYPE :tensorflow:core:graph_runs counter"]
        lines.append(f":tensorflow:core:graph_runs{{}} {sum(model.runs() for model in core.models.values())}")
        lines.append("# TYPE :tensorflow:serving:request_count counter")
        for (name, code), count in sorted(core.requests.items()):
            lines.append(f':tensorflow:serving:request_count{{model_name="{name}",code="{code}"}} {count}')
        return ("\n".join(lines) + "\n").encode()

    def _send(self, status, content, kind="application/json"):
        if not isinstance(content, bytes):
            content = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format, *arguments):
        LOG.debug(format, *arguments)


def _spec(match):
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match[1]))
    if match[2]:
        if int(match[2]) >= 2**63:
            raise errors.invalid(f"Failed to convert version: {match[2]} to numeric.")
        spec.version.value = int(match[2])
    if match[3]:
        spec.version_label = urllib.parse.unquote(match[3])
    return spec


def _as_json(message, names=False):
    options = {"always_print_fields_with_no_presence": True, "preserving_proto_field_name": names}
    return json_format.MessageToDict(message, **options)


class _HTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def start(core, port, metrics=None, threads=64):
    """Answers in separate threads, with counts at the path `metrics`; returns the server, which has `shutdown`.

    At most `threads` requests are processed at a time.
    """
    server = _HTTPServer(("localhost", port), Handler)
    server.core, server.metrics, server.threads = core, metrics, threading.BoundedSemaphore(threads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
