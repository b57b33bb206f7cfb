"""Smaller weights in an ONNX graph: float16, and products in eight bits."""

import numpy as np

# Inputs of a product that share a scale: the most that divides them.
_BLOCKS = (64, 32, 16)
# The runtime rounds the inputs of a product to eight bits too, block by block of a row.
_INT8_INPUTS = 4
_DOMAIN = "com.microsoft"


def in_float16(proto):
    """Returns the model with float16 weights and arithmetic; inputs and outputs keep their types."""
    from onnxruntime.transformers import float16

    return float16.convert_float_to_float16(proto, keep_io_types=True)


def in_eight_bits(proto):
    """Rounds, in place, the weights of products to eight bits, for ONNX Runtime's own operator `MatMulNBits`.

    Args:
        proto: `onnx.ModelProto`.

    Returns:
        How many products are in eight bits.
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
