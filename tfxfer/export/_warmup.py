"""TF Serving's warm-up file, written without TF Serving.

The file is a TFRecord of `tensorflow.serving.PredictionLog`. Every field on the path to a request is a message or a
string, so the wire format consists of numbers, lengths and contents. The numbers come from the published protos
(tensorflow/serving, apis/prediction_log.proto, predict.proto, classification.proto, regression.proto, input.proto,
model.proto). A test reads the result with the protos of `tensorflow-serving-api`.
"""

import tensorflow as tf

FILE = "tf_serving_warmup_requests"
# With more records than this, the server rejects the model.
MAX_RECORDS = 1000
# Fields of PredictionLog.
_LOGS = {"classify": 2, "regress": 3, "predict": 6}
_REQUEST = 1  # of all the logs
_MODEL_SPEC, _SIGNATURE_NAME = 1, 3
_INPUTS, _KEY, _VALUE = 2, 1, 2  # of PredictRequest, a map
_INPUT, _EXAMPLE_LIST, _EXAMPLES = 2, 1, 1  # of ClassificationRequest and RegressionRequest


KINDS = ("short", "full", "none")
# Rows of the batch in a short warm-up.
_FEW = 8


def requests(kind, signatures, rows, batch_size):
    """Returns the requests for `write`.

    Args:
        kind: one of `KINDS`. `"short"`: a short row for each signature, and a batch of short rows for the first;
            `"full"`: for each signature a row, the longest row, and batches up to the largest.
        signatures: dict of name to `Signature`; the first is the default one.
        rows: list of example rows, tuples of texts.
        batch_size: int. The most rows of a request.
    """
    if kind == "none":
        return []
    few = min(_FEW, batch_size)
    if kind == "full":
        longest = max(rows, key=lambda row: len(row[0]))
        batches = [rows[:1], [longest], *(_repeated(rows, size) for size in sorted({few, batch_size}))]
        wanted = [name for name, signature in signatures.items() if signature.warms_up]
        asked = [(name, batches[0]) for name in signatures]
        asked += [(name, batch) for batch in batches[1:] for name in wanted]
    else:
        short = sorted([row for row in rows if row[0].strip()] or rows, key=lambda row: len("".join(row)))[:2]
        asked = [(name, short[:1]) for name in signatures]
        asked.append((next(iter(signatures)), _repeated(short, few)))
    return [(signatures[name].api, name, signatures[name].request(batch)) for name, batch in asked]


def _repeated(rows, count):
    return [rows[i % len(rows)] for i in range(count)]


def write(path, requests):
    """Writes requests that TF Serving replays when it loads a model, before it answers the first one.

    Args:
        path: the file, `assets.extra/tf_serving_warmup_requests` in a version's folder.
        requests: list of `(api, signature, inputs)`: `"predict"`, `"classify"` or `"regress"`, the signature's name,
            and a dict of input name to a list; for `"classify"` and `"regress"` the only list holds serialized
            `tf.Example`s. At most `MAX_RECORDS` are written.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for api, signature, inputs in requests[:MAX_RECORDS]:
            writer.write(log(api, signature, inputs))


def log(api, signature, inputs):
    """Returns one request as a serialized `PredictionLog`."""
    request = _field(_MODEL_SPEC, _field(_SIGNATURE_NAME, signature.encode()))
    if api == "predict":
        for name, value in inputs.items():
            entry = _field(_KEY, name.encode()) + _field(_VALUE, tf.make_tensor_proto(value).SerializeToString())
            request += _field(_INPUTS, entry)
    else:
        [examples] = inputs.values()
        request += _field(_INPUT, _field(_EXAMPLE_LIST, b"".join(_field(_EXAMPLES, example) for example in examples)))
    return _field(_LOGS[api], _field(_REQUEST, request))


def _field(number, content):
    """Encodes a field of a message: its number with wire type 2 (length-delimited), its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
