"""Smaller weights in an ONNX graph: float16, and 8-bit products."""

import numpy as np

# Candidate numbers of inputs that share a scale; the largest that divides the inputs is used.
_BLOCKS = (64, 32, 16)
# The runtime also rounds the inputs of a product to 8 bits, block by block within a row.
_INT8_INPUTS = 4
_DOMAIN = "com.microsoft"


def in_float16(proto):
    """Returns the model with float16 weights and arithmetic; inputs and outputs keep their types."""
    from onnxruntime.transformers import float16

    return float16.convert_float_to_float16(proto, keep_io_types=True)


def in_eight_bits(proto):
    """Quantizes the weights of products to 8 bits, in place, for ONNX Runtime's operator `MatMulNBits`.

    Args:
        proto: `onnx.ModelProto`.

    Returns:
        The number of products in 8 bits.
    """
    from onnx import helper, numpy_helper

    graph, number = proto.graph, 0
    constants = {each.name: each for each in graph.initializer}
    rounded: dict = {}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        name = node.input[1]
        kernel = numpy_helper.to_array(constants[name])
        block = next((size for size in _BLOCKS if kernel.ndim == 2 and kernel.shape[0] % size == 0), None)
        if block is None or kernel.dtype != np.float32:
            continue
        if name not in rounded:
            values, scales = _rounded(kernel, block)
            rounded[name] = [
                numpy_helper.from_array(values, f"{name}/int8"),
                numpy_helper.from_array(scales, f"{name}/scales"),
            ]
        names = [each.name for each in rounded[name]]
        sizes = {"K": kernel.shape[0], "N": kernel.shape[1], "bits": 8, "block_size": block}
        made = helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            node.name,
            domain=_DOMAIN,
            accuracy_level=_INT8_INPUTS,
            **sizes,
        )
        node.CopyFrom(made)
        number += 1
    read = {name for node in graph.node for name in node.input}
    kept = [each for name, each in constants.items() if name in read]
    graph.ClearField("initializer")
    graph.initializer.extend([*kept, *(each for pair in rounded.values() for each in pair)])
    proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return number


def _rounded(kernel, block):
    """Float32 `(inputs, outputs)` -> (uint8 `(outputs, blocks, block)` around 128, scales `(outputs, blocks)`)."""
    blocks = kernel.T.reshape(kernel.shape[1], -1, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    scales[scales == 0] = 1
    return (np.round(blocks / scales) + 128).astype("uint8"), scales[..., 0].astype("float32")
