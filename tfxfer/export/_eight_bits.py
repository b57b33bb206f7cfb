"""8-bit matrix products in a LiteRT file."""

import re

import numpy as np

# The file identifier of a LiteRT model, and the version of a dense product with 8-bit weights and float inputs.
_IDENTIFIER, _VERSION = b"TFL3", 12


def in_eight_bits(content: bytes, float_layers: str) -> tuple[bytes, int]:
    """Quantizes the weights of dense layers in a LiteRT file to 8 bits, with one scale per output.

    The runtime also quantizes the inputs of such a product, with a scale and a zero point per token, so the other
    tokens in the batch change nothing.

    Args:
        content: bytes of the file, with float32 weights.
        float_layers: regular expression of the names of layers whose weights stay in float32; empty for none.

    Returns:
        (content, number): the bytes of the new file, and the number of products in 8 bits.
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
            # A matrix that is computed, or that another operation reads too, is not changed.
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
