"""TF Serving's warm-up file, written without TF Serving.

The file is a TFRecord of `tensorflow.serving.PredictionLog`. Of that message only the way to a `PredictRequest` is
declared here, with the field numbers of the published protos (tensorflow/serving, apis/prediction_log.proto,
predict.proto, model.proto); a test reads the result with the protos of `tensorflow-serving-api`.
"""

import functools

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TENSOR_FILE = "tensorflow/core/framework/tensor.proto"


@functools.cache
def _messages():
    """Returns the message class `PredictionLog`, made in a pool of its own that clashes with no other declaration."""
    pool = descriptor_pool.DescriptorPool()
    default = descriptor_pool.Default()

    def add(name):
        file = default.FindFileByName(name)
        for dependency in file.dependencies:
            add(dependency.name)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        pool.Add(copy)

    if not tf.make_tensor_proto(0):  # makes sure that TensorFlow has registered its protos
        raise RuntimeError("TensorFlow has no TensorProto.")
    add(_TENSOR_FILE)
    pool.Add(_declaration())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfxfer.serving.PredictionLog"))


def _declaration():
    file = descriptor_pb2.FileDescriptorProto(
        name="tfxfer/serving.proto", package="tfxfer.serving", syntax="proto3", dependency=[_TENSOR_FILE]
    )
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields, within=file.message_type):
        declared = within.add(name=name)
        for number, label, kind, field_name, type_name in fields:
            declared.field.add(name=field_name, number=number, label=label, type=kind, type_name=type_name)
        return declared

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    text, inner = field.TYPE_STRING, field.TYPE_MESSAGE
    message("ModelSpec", (1, one, text, "name", None), (3, one, text, "signature_name", None))
    request = message(
        "PredictRequest",
        (1, one, inner, "model_spec", ".tfxfer.serving.ModelSpec"),
        (2, many, inner, "inputs", ".tfxfer.serving.PredictRequest.InputsEntry"),
    )
    entry = message(
        "InputsEntry",
        (1, one, text, "key", None),
        (2, one, inner, "value", ".tensorflow.TensorProto"),
        within=request.nested_type,
    )
    entry.options.map_entry = True
    message("PredictLog", (1, one, inner, "request", ".tfxfer.serving.PredictRequest"))
    message("PredictionLog", (6, one, inner, "predict_log", ".tfxfer.serving.PredictLog"))
    return file


def write(path, requests, signature):
    """Writes requests that TF Serving replays when it loads a model.

    Args:
        path: the file, `assets.extra/tf_serving_warmup_requests` in a version's folder.
        requests: list of dicts of input name to what `tf.make_tensor_proto` takes; at most 1000, or loading fails.
        signature: string. The signature that is called.
    """
    log_class = _messages()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = log_class()
            predict = log.predict_log.request
            predict.model_spec.signature_name = signature
            for name, value in request.items():
                predict.inputs[name].ParseFromString(tf.make_tensor_proto(value).SerializeToString())
            writer.write(log.SerializeToString())
