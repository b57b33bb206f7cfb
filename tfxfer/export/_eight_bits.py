"""Products in eight bits, in a LiteRT file."""

import re

import numpy as np

# What LiteRT's runtime reads as a model, and the version of a dense product whose weights alone are small.
_IDENTIFIER, _VERSION = b"TFL3", 12


def in_eight_bits(content: bytes, float_layers: str) -> tuple[bytes, int]:
    """Rounds the weights of dense layers in a LiteRT file to eight bits, a scale for each output.

    The runtime rounds the inputs of such a product as well, a scale and a zero point for each token: what stands beside
    a token in the batch changes nothing.

    Args:
        content: bytes of the file, with float32 weights.
        float_layers: regular expression of the names of layers whose weights stay as they are; empty for none.

    Returns:
        (content, number): the bytes of the new file, and how many products are in eight bits.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [code.builtinCode for code in model.operatorCodes]
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    number = 0
    for graph in model.subgraphs:
        found = [each for each in graph.operators if codes[each.opcodeIndex] == dense]
        readers = np.bincount([i for each in graph.operators for i in each.inputs if i >= 0])
        for each in found:
            kernel = graph.tensors[each.inputs[1]]
            data = model.buffers[kernel.buffer].data
            name = graph.tensors[each.outputs[0]].name.decode()
            is_kept = float_layers and re.search(rf"(^|[/;])({float_layers})(_\d+)?/", name)
            # A matrix that is computed, or that something else reads too, stays as it is.
            if is_kept or data is None or kernel.type != schema.TensorType.FLOAT32 or readers[each.inputs[1]] > 1:
                continue
            rounded, scales = _rounded(np.frombuffer(bytes(data), "float32").reshape(kernel.shape))
            model.buffers[kernel.buffer].data = rounded.view("uint8").ravel()
            kernel.type = schema.TensorType.INT8
            kernel.quantization = schema.QuantizationParametersT()
            kernel.quantization.scale = scales
            kernel.quantization.zeroPoint = np.zeros(len(scales), "int64")
            kernel.quantization.quantizedDimension = 0
            each.builtinOptions.asymmetricQuantizeInputs = True
            model.operatorCodes[each.opcodeIndex].version = _VERSION
            number += 1
    builder = flatbuffers.Builder(len(content) // 2)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output()), number


def _rounded(kernel):
    """Float32 `(outputs, inputs)` -> (int8 of the same shape, float32 scales `(outputs,)`)."""
    scales = np.abs(kernel).max(axis=1) / 127
    scales[scales == 0] = 1
    return np.round(kernel / scales[:, np.newaxis]).astype("int8"), scales.astype("float32")
