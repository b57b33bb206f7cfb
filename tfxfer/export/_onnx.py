"""Export to ONNX with tf2onnx."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfxfer import _check
from tfxfer.export import _ids, _onnx_bits, _onnx_fuse

# The newest operator set that tf2onnx writes.
_OPSET = 18
# The largest difference of answers allowed, by the dtype of products.
_TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "int8": 0.1}


def onnx(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    pairs: bool = False,
    examples: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    tolerance: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Exports a model to ONNX, without its tokenizer, whose files are written next to it.

    For ONNX Runtime in any language. ONNX has no tokenizer: the caller turns strings into ids with the tokenizer files
    next to the model. To serve strings, see `saved_model`.

    | file | holds |
    |---|---|
    | `model.onnx` | the model: int32 ids in, float32 out |
    | `tokenizer.json`, `tokenizer_config.json` | the tokenizer, with the model's truncation and padding |
    | `labels.txt` | the class names, one per line |
    | `tags.json` | of a tagger: the tags and the transition scores |
    | `assets.extra/tfxfer.json` | the description that `describe` reads |
    | `README.md` | how to run it, from text to answer |

    Hugging Face's `tokenizers` loads the tokenizer in any language, and `preprocessing.Tokenizer.from_folder` loads it
    here. The model's inputs are `token_ids`, `padding_mask` (1 at real tokens), and `segment_ids` for families that
    have them, each int32 `(batch, length)`, or `(batch, 2, length)` for a `SiameseClassifier`; batch size and length
    are dynamic. The output is `embedding` `(batch, dim)` (for a `Siamese`, its embedder's), `probabilities`
    `(batch, classes)` or `outputs` `(batch, num_outputs)`. An embedder's prompts are not in the graph: prepend them to
    the texts. The scaling of a classifier's `calibrate` is in the graph; thresholds, rejection and sets are not, and
    the README says so. A tagger also takes `word_ids` `(batch, length)` and `word_mask` `(batch, words)`, and returns
    `emissions` `(batch, words, tags)`; the README has the few lines that find the best tags.

    Layer norms, exact GELUs and table look-ups are one node each (operator set 20). The written file is loaded, run on
    the examples in several shapes, and compared with `model.predict`. The directory appears atomically.

    | `dtype` | products | runs in | all-MiniLM-L6-v2: speed, lowest cosine, bytes |
    |---|---|---|---|
    | `"float32"` | float32 | any runtime | 1, 1, 90.3 MB |
    | `"float16"` | float16; made for GPUs | any runtime | -, 1.000, 45.2 MB |
    | `"int8"` | 8 bits, of weights and inputs in blocks of 64 | ONNX Runtime | 1.1 to 1.9, 0.997, 59.2 MB |

    Speed is relative to float32 in ONNX Runtime on a CPU: 1.1 for batches, 1.9 for single texts. 8-bit `litert` is
    faster. With every dtype, rounding is independent of the other rows in the batch.

    Args:
        model: a float32 model that `saved_model` accepts.
        folder: string or path. A directory on the local disk that does not exist yet or is empty.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts per row (a cross-encoder).
        examples: list of typical texts for the comparison; for pairs, a tuple of two lists. Defaults to five texts.
        dtype: string, see the table. Embeddings stay in float32 with `"int8"`. Defaults to `"float32"`.
        tolerance: float. The largest difference allowed, relative to the largest output if that is above 1. Defaults
            to 1e-5 (float32 in another order of summation), 1e-2 for `"float16"`, 0.1 for `"int8"`.
        metadata: dict of JSON values to keep with the model.

    Returns:
        The path of the directory.

    Raises:
        ImportError: if tf2onnx or onnxruntime is missing; `pip install "tfxfer[onnx]"` installs them.
        ValueError: if the model cannot be converted, differs by more than `tolerance`, does not compute in float32 or
            has 2 GB of weights; if the directory is not empty; if an argument is out of range.

    Example:

    ```python
    path = tx.export.onnx(embedder, "onnx/sts")
    tokenizer = tokenizers.Tokenizer.from_file(f"{path}/tokenizer.json")
    session = onnxruntime.InferenceSession(f"{path}/model.onnx")
    ```

    Reference: https://onnx.ai, https://github.com/onnx/tensorflow-onnx.
    """
    _check.one_of("dtype", dtype, _TOLERANCES)
    tolerance = _TOLERANCES[dtype] if tolerance is None else tolerance
    return _ids.write(
        _target(dtype), model, folder, pairs=pairs, examples=examples, tolerance=tolerance, metadata=metadata
    )


def _convert(graph, file, dtype):
    import onnx
    import tf2onnx

    proto, _ = tf2onnx.convert.from_function(
        graph.run, input_signature=graph.specs, opset=_OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
    )
    # tf2onnx writes operations that it does not know unconverted.
    unknown = {node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if unknown:
        raise ValueError(f"unsupported ops: {', '.join(sorted(unknown))}")
    sizes = ("batch", "2", "length") if len(graph.specs[0].shape) == 3 else ("batch", "length")
    for value in [*proto.graph.input, *proto.graph.output]:
        for size, name in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            if size.HasField("dim_param"):
                size.dim_param = name
    _onnx_fuse.fuse(proto)
    if dtype == "float16":
        proto = _onnx_bits.in_float16(proto)
    elif dtype == "int8" and not _onnx_bits.in_eight_bits(proto):
        raise ValueError("no product of a dense layer can be computed in 8 bits")
    file.write_bytes(proto.SerializeToString())


def _erfc(context, node, name, arguments):
    """Writes erfc, which the exact GELU uses and ONNX lacks, as 1 - erf."""
    import tf2onnx

    outputs = node.output
    kinds = {"shapes": [context.get_shape(outputs[0])], "dtypes": [context.get_dtype(outputs[0])]}
    [x] = node.input
    context.remove_node(node.name)
    erf = context.make_node("Erf", [x], **kinds)
    one = context.make_const(tf2onnx.utils.make_name("one"), np.array(1, "float32"))
    context.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, **kinds)


def _load(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, ids)[0]


def _target(dtype):
    return _ids.Target(
        name="ONNX",
        extra="onnx",
        packages=("tf2onnx", "onnxruntime"),
        file="model.onnx",
        convert=functools.partial(_convert, dtype=dtype),
        load=_load,
        readme={
            "package": "onnxruntime",
            "imports": "import onnxruntime",
            "load": 'session = onnxruntime.InferenceSession("{file}")',
            "call": 'session.run(["{output}"], ids)[0]',
        },
    )
