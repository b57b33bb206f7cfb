"""Runs Predict, Classify and Regress on a loaded version; requests and responses are protos."""

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, predict_pb2, regression_pb2

from contract_server import errors

DEFAULT = "serving_default"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
METHODS = ("tensorflow/serving/predict", CLASSIFY, REGRESS)


def predict(version, request):
    """Returns a `PredictResponse` without its model spec."""
    signature = version.signatures.get(request.model_spec.signature_name or DEFAULT)
    if signature is None:
        name = request.model_spec.signature_name or DEFAULT
        raise errors.ServingError(errors.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    response = predict_pb2.PredictResponse()
    inputs = {name: _array(name, value) for name, value in request.inputs.items()}
    for name, value in run(version, signature, inputs, list(request.output_filter)).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    return response


def _array(name, value):
    """Converts a tensor's message to an array; an invalid message is an error of the request."""
    shape = [dimension.size for dimension in value.tensor_shape.dim]
    if value.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise errors.invalid(f"Tensor {name!r} has an invalid shape: {shape}")
    try:
        return tf.make_ndarray(value)
    except Exception as error:
        raise errors.invalid(f"Tensor {name!r} cannot be read: {error}") from error


def run(version, signature, inputs, wanted=()):
    """Runs a signature on arrays by name; returns the outputs by name."""
    if version.check_methods and signature.method_name not in METHODS:
        message = f"Expected prediction signature method_name to be one of {METHODS}. Was: {signature.method_name}"
        raise errors.ServingError(errors.INTERNAL, message)
    if set(inputs) != set(signature.inputs):
        message = (
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} "
            f"len({sorted(inputs)}) != len({sorted(signature.inputs)}). "
            f"Sent extra: {sorted(set(inputs) - set(signature.inputs))}. "
            f"Missing but required: {sorted(set(signature.inputs) - set(inputs))}."
        )
        raise errors.invalid(message)
    for name in wanted:
        if name not in signature.outputs:
            raise errors.invalid(f"output tensor alias not found in signature: {name}")
        if wanted.count(name) > 1:
            raise errors.invalid(f"duplicate output tensor alias: {name}")
    names = wanted or sorted(signature.outputs)
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    values = version.run(feeds, [signature.outputs[name].name for name in names])
    return dict(zip(names, values, strict=True))


def classify(version, request):
    """Returns a `ClassificationResponse` without its model spec."""
    outputs, count = _of_examples(version, request, CLASSIFY, "classification", {"classes", "scores"})
    for name, dtype in (("classes", tf.string), ("scores", tf.float32)):
        value = outputs.get(name)
        if value is None:
            continue
        if value.ndim != 2:
            raise errors.invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(value.shape)}")
        if tf.as_dtype(value.dtype) != dtype:
            raise errors.invalid(f"Expected {name} Tensor of {dtype.name}. Got: {value.dtype}")
        if value.shape[0] != count:
            raise errors.invalid(f"Expected {name} output batch size of {count}. Got: {value.shape[0]}")
    if len({value.shape[1] for value in outputs.values()}) != 1:
        raise errors.invalid("Tensors class and score should match in dim_size(1).")
    response = classification_pb2.ClassificationResponse()
    for row in range(count):
        classes = response.result.classifications.add().classes
        for column in range(next(iter(outputs.values())).shape[1]):
            found = classes.add()
            if "classes" in outputs:
                found.label = outputs["classes"][row, column]
            if "scores" in outputs:
                found.score = outputs["scores"][row, column]
    return response


def regress(version, request):
    """Returns a `RegressionResponse` without its model spec."""
    outputs, count = _of_examples(version, request, REGRESS, "regression", {"outputs"})
    value = outputs["outputs"]
    if not (value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)):
        raise errors.invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(value.shape)}"
        )
    if value.shape[0] != count:
        raise errors.invalid(f"Input batch size did not match output batch size: {count} vs. {value.shape[0]}")
    if value.dtype != np.float32:
        raise errors.invalid(f"Expected output Tensor of DT_FLOAT. Got: {value.dtype}")
    response = regression_pb2.RegressionResponse()
    for number in value.reshape(-1):
        response.result.regressions.add(value=number)
    return response


def _of_examples(version, request, method, what, allowed):
    """Runs a signature of the Classify or Regress API; returns the outputs by name and the number of examples."""
    name = request.model_spec.signature_name or DEFAULT
    signature = version.signatures.get(name)
    if signature is None:
        raise errors.invalid(f"No signature was found with the name: {name}")
    if version.check_methods and signature.method_name != method:
        message = f"Expected {what} signature method_name to be {method}. Was: {signature.method_name}"
        raise errors.invalid(message)
    if len(signature.inputs) != 1:
        raise errors.invalid("Expected one input Tensor.")
    if not 1 <= len(signature.outputs) <= len(allowed):
        raise errors.invalid(f"Expected one to {len(allowed)} output Tensors, found {len(signature.outputs)}")
    outputs = sorted(set(signature.outputs) & allowed)
    if "inputs" not in signature.inputs or not outputs:
        raise errors.ServingError(errors.FAILED_PRECONDITION, f"No {what} inputs or outputs found in SignatureDef")
    examples = _serialized(request.input)
    values = version.run({signature.inputs["inputs"].name: examples}, [signature.outputs[key].name for key in outputs])
    return dict(zip(outputs, values, strict=True)), len(examples)


def _serialized(given):
    """Returns the examples of an `Input` as an array of bytes, each with the features of the context."""
    kind = given.WhichOneof("kind")
    if kind is None or not getattr(given, kind).examples:
        raise errors.invalid("Input is empty.")
    context = b""
    if isinstance(getattr(given, kind), input_pb2.ExampleListWithContext):
        context = given.example_list_with_context.context.SerializeToString()
    # Concatenated messages parse as one merged message.
    return np.array([context + example.SerializeToString() for example in getattr(given, kind).examples], object)


def multi_inference(version, request):
    """Returns a `MultiInferenceResponse`: Classify and Regress tasks on the same examples.

    Several tasks require signatures that share an input tensor; each signature that TensorFlow 2 exports has its own.
    """
    names, tensors = set(), set()
    for task in request.tasks:
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise errors.invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = task.model_spec.signature_name or DEFAULT
        if name in names:
            raise errors.invalid(f"Duplicate evaluation of signature: {name}")
        if task.method_name not in (CLASSIFY, REGRESS):
            raise errors.ServingError(errors.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        names.add(name)
        signature = version.signatures.get(name)
        tensors |= {info.name for info in signature.inputs.values()} if signature else set()
    if len(tensors) > 1:
        raise errors.invalid("Input tensor must be the same for all Signatures.")
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        ask = {"model_spec": task.model_spec, "input": request.input}
        found = response.results.add()
        if task.method_name == CLASSIFY:
            answer = classify(version, classification_pb2.ClassificationRequest(**ask))
            found.classification_result.CopyFrom(answer.result)
        else:
            answer = regress(version, regression_pb2.RegressionRequest(**ask))
            found.regression_result.CopyFrom(answer.result)
        found.model_spec.CopyFrom(task.model_spec)
    return response
