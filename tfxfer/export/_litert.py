"""Export to LiteRT with TensorFlow's converter."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check, _quiet
from tfxfer.export import _eight_bits, _ids

DTYPES = ("float32", "int8")
# The largest difference of answers allowed: float32 in another order of summation; rounding to 8 bits.
TOLERANCES = {"float32": 1e-5, "int8": 0.1}
# The layers whose products stay in float32: of all layers, the inputs of the value projections lose most by rounding.
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
    """Exports a model to LiteRT, without its tokenizer, whose files are written next to it.

    LiteRT, formerly TensorFlow Lite, runs on phones and small devices. The export is that of `onnx`, with
    `model.tflite` instead of `model.onnx`: the other files, inputs, outputs, checks and errors are the same. The
    signature is `serving_default`. The file uses only LiteRT's built-in operations, so the plain runtime is enough.
    Batch size and length are dynamic; a runtime allocates its memory again when they change.

    Args:
        model: a float32 model that `saved_model` accepts.
        folder: string or path. A directory on the local disk that does not exist yet or is empty.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts per row (a cross-encoder).
        dtype: `"float32"` or `"int8"`. The dtype of the products of dense layers; `Engine` computes the same in this
            process, and documents speed and accuracy. Embeddings stay in float32.
        float_layers: regular expression of the names of layers whose products stay in float32 with `"int8"`; an empty
            string for none.
        examples: list of typical texts for the comparison; for pairs, a tuple of two lists. Defaults to five texts.
        tolerance: float. The largest difference allowed, relative to the largest output if that is above 1. Defaults
            to 1e-5 (float32 in another order of summation), and to 0.1 for `"int8"`.
        metadata: dict of JSON values to keep with the model.

    Returns:
        The path of the directory.

    Raises:
        ImportError: if ai-edge-litert is missing; `pip install "tfxfer[litert]"` installs it.
        ValueError: as in `onnx`.

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
            raise ValueError("no product of a dense layer can be computed in 8 bits")
    file.write_bytes(content)


def load(file: Any, threads: int = 1) -> Any:
    """Returns a function from a dict of arrays to the output of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet.without("INFO: Created TensorFlow Lite XNNPACK delegate"):
        # From memory: the file may be gone when the function is called.
        interpreter = Interpreter(model_content=file.read_bytes(), num_threads=threads)
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    [output] = runner.get_output_details()
    return lambda ids: runner(**ids)[output]


def target(dtype: str, float_layers: str) -> _ids.Target:
    """Returns LiteRT as a `Target`, with products of a dtype."""
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
