"""LiteRT, by TensorFlow's converter."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfxfer.export import _ids


def litert(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    pairs: bool = False,
    examples: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
    tolerance: float = 1e-5,
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
        examples: list of usual texts, which the comparison runs on; for pairs a tuple of two lists. Defaults to five.
        tolerance: float. The largest difference allowed; where an output is larger than 1, relative to the largest.
            Defaults to 1e-5: float32 in another order of summation.
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
    return _ids.write(_TARGET, model, folder, pairs=pairs, examples=examples, tolerance=tolerance, metadata=metadata)


def _convert(graph, file):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.run.get_concrete_function()], graph)
    file.write_bytes(converter.convert())


def _load(file):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    [output] = runner.get_output_details()
    return lambda ids: runner(**ids)[output]


_TARGET = _ids.Target(
    name="LiteRT",
    extra="litert",
    packages=("ai_edge_litert",),
    file="model.tflite",
    convert=_convert,
    load=_load,
    readme={
        "package": "ai-edge-litert",
        "imports": "from ai_edge_litert.interpreter import Interpreter",
        "load": 'runner = Interpreter("{file}").get_signature_runner("serving_default")',
        "call": 'runner(**ids)["{output}"]',
    },
)
