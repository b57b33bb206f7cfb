"""LiteRT, by TensorFlow's converter."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check
from tfxfer.export import _eight_bits, _ids

DTYPES = ("float32", "int8")
# The largest difference of answers that is allowed: float32 in another order of summation; roundings to eight bits.
TOLERANCES = {"float32": 1e-5, "int8": 0.1}
# The layers whose products stay in float32. Of all kinds, the inputs of the value projections lose most by rounding.
FLOAT_LAYERS = "value"


def litert(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    pairs: bool = False,
    dtype: Literal["float32", "int8"] = "float32",
    float_layers: str = FLOAT_LAYERS,
    examples: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
    tolerance: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Writes the part of a model behind its tokenizer for LiteRT, with the tokenizer's files beside it.

    LiteRT, once TensorFlow Lite, is for phones and small machines. As `onnx`, with `model.tflite` in place of
    `model.onnx`: the same files beside it, inputs, outputs, checks and errors. The signature is `serving_default`; only
    LiteRT's own operations are used, so that the plain runtime suffices. Batch and length are free; a runtime plans its
    memory anew where they change.

    Args:
        model: a model as `saved_model` takes it, in float32.
        folder: string or path, of a folder on the local disk that does not exist yet or is empty.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts a row (a cross-encoder).
        dtype: `"float32"` or `"int8"`: of the products of dense layers; what they cost and give is in `Engine`, which
            computes the same in this process. Embeddings stay in float32.
        float_layers: regular expression of the names of the layers whose products stay in float32, for `"int8"`; an
            empty string for none.
        examples: list of usual texts, which the comparison runs on; for pairs a tuple of two lists. Defaults to five.
        tolerance: float. The largest difference allowed; where an output is larger than 1, relative to the largest.
            Defaults to 1e-5, float32 in another order of summation; for `"int8"` to 0.1.
        metadata: dict of what is to be kept with the model, as far as JSON knows it.

    Returns:
        The path of the folder.

    Raises:
        ImportError: without ai-edge-litert, which `pip install "tfxfer[litert]"` brings.
        ValueError: as `onnx`.

    Example:

    ```python
    path = tx.export.litert(classifier, "litert/intents")
    runner = Interpreter(f"{path}/model.tflite").get_signature_runner("serving_default")  # of ai_edge_litert
    runner(**ids)["probabilities"]
    ```

    Reference: https://ai.google.dev/edge/litert.
    """
    _check.one_of("dtype", dtype, DTYPES)
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    return _ids.write(
        target(dtype, float_layers),
        model,
        folder,
        pairs=pairs,
        examples=examples,
        tolerance=tolerance,
        metadata=metadata,
    )


def _convert(graph, file, dtype, float_layers):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.run.get_concrete_function()], graph)
    content = converter.convert()
    if dtype == "int8":
        content, number = _eight_bits.in_eight_bits(content, float_layers)
        if not number:
            raise ValueError("no product of a dense layer was found that could be computed in eight bits")
    file.write_bytes(content)


def load(file: Any, threads: int = 1) -> Any:
    """Returns a function from a dict of arrays to the output of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    # From memory: the file may be gone when the function is called.
    interpreter = Interpreter(model_content=file.read_bytes(), num_threads=threads)
    runner = interpreter.get_signature_runner("serving_default")
    [output] = runner.get_output_details()
    return lambda ids: runner(**ids)[output]


def target(dtype: str, float_layers: str) -> _ids.Target:
    """Returns LiteRT as a target, with products of a dtype."""
    return _ids.Target(
        name="LiteRT",
        extra="litert",
        packages=("ai_edge_litert",),
        file="model.tflite",
        convert=functools.partial(_convert, dtype=dtype, float_layers=float_layers),
        load=load,
        readme={
            "package": "ai-edge-litert",
            "imports": "from ai_edge_litert.interpreter import Interpreter",
            "load": 'runner = Interpreter("{file}").get_signature_runner("serving_default")',
            "call": 'runner(**ids)["{output}"]',
        },
    )
