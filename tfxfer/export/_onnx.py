"""ONNX, by tf2onnx."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfxfer import _check
from tfxfer.export import _ids, _onnx_bits, _onnx_fuse

# The newest that tf2onnx writes.
_OPSET = 18
# The largest difference of answers that is allowed, by the dtype of products.
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
    """Writes the part of a model behind its tokenizer as ONNX, with the tokenizer's files beside it.

    For ONNX Runtime in any language. ONNX has no tokenizer: strings become ids before, by the files that lie beside the
    model. To serve strings, see `saved_model`.

    | file | holds |
    |---|---|
    | `model.onnx` | the model: int32 ids in, float32 out |
    | `tokenizer.json`, `tokenizer_config.json` | the tokenizer, cutting and padding as the model's own |
    | `labels.txt` | the names of the classes, one a line |
    | `tags.json` | of a tagger: the tags, and the scores of what may follow what |
    | `assets.extra/tfxfer.json` | what `describe` reads |
    | `README.md` | how to ask it, from text to answer |

    Hugging Face's `tokenizers` read the tokenizer in any language, `preprocessing.Tokenizer.from_folder` here. The
    model's inputs are `token_ids`, `padding_mask` (1 at real tokens), and `segment_ids` for families that have them,
    each `(batch, length)`, for a `SiameseClassifier` `(batch, 2, length)`; both sizes are free. The output is
    `embedding` `(batch, dim)` (of a `Siamese`, its embedder's), `probabilities` `(batch, classes)` or `outputs`
    `(batch, num_outputs)`. An embedder's prompts are not in the graph: set them before the texts. Of what a classifier
    decides by, the scaling of `calibrate` is in the graph; thresholds, rejection and sets are not, as the README says.
    A tagger takes `word_ids` `(batch, length)` and `word_mask` `(batch, words)` as well, and gives `emissions`
    `(batch, words, tags)`; the README has the few lines that find the best tags.

    Layer norms, exact GELUs and look-ups in tables are one node each (operator set 20). What is written is loaded and
    run on the examples, in several shapes, and compared with `model.predict`. The folder appears in one step.

    | `dtype` | products | runs in | all-MiniLM-L6-v2: speed, lowest cosine, bytes |
    |---|---|---|---|
    | `"float32"` | float32 | any runtime | 1, 1, 90.3 MB |
    | `"float16"` | float16; made for GPUs | any runtime | -, 1.000, 45.2 MB |
    | `"int8"` | eight bits, of weights and inputs by blocks of 64 | ONNX Runtime | 1.1 to 1.9, 0.997, 59.2 MB |

    Speed is that of ONNX Runtime on a processor, next to its own in float32: 1.1 for batches, 1.9 for single texts.
    `litert` in eight bits is faster. None of them rounds by what stands in a batch.

    Args:
        model: a model as `saved_model` takes it, in float32.
        folder: string or path, of a folder on the local disk that does not exist yet or is empty.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts a row (a cross-encoder).
        examples: list of usual texts, which the comparison runs on; for pairs a tuple of two lists. Defaults to five.
        dtype: string, see the table. Embeddings stay in float32 with `"int8"`.
        tolerance: float. The largest difference allowed; where an output is larger than 1, relative to the largest.
            Defaults to 1e-5 (float32 in another order of summation), 1e-2 for `"float16"`, 0.1 for `"int8"`.
        metadata: dict of what is to be kept with the model, as far as JSON knows it.

    Returns:
        The path of the folder.

    Raises:
        ImportError: without tf2onnx and onnxruntime, which `pip install "tfxfer[onnx]"` brings.
        ValueError: for a model that cannot be converted or is not computed alike, one that does not compute in float32
            or has 2 GB of weights, a folder that is there already, or an argument out of range.

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
    # tf2onnx writes what it does not know as it is.
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
        raise ValueError("no product of a dense layer was found that could be computed in eight bits")
    file.write_bytes(proto.SerializeToString())


def _erfc(context, node, name, arguments):
    """Writes erfc, which the exact GELU is made of and ONNX lacks, as 1 - erf."""
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
