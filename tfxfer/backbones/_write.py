"""Writes an encoder as a Hugging Face directory: config.json, model.safetensors and the tokenizer's files."""

import dataclasses
import json
from typing import Any

import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

from tfxfer import _check, _disk
from tfxfer._freezable import layers_within
from tfxfer.backbones import _checkpoint, _weights
from tfxfer.backbones._backbone import RATES, complete
from tfxfer.backbones.families import FAMILIES

CONFIG = "config.json"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
# The roles that transformers' configs name; the first three have defaults there.
_ROLES = ("pad", "bos", "eos", "cls", "sep", "mask")
TRANSFORMER = "Transformer"


@dataclasses.dataclass(frozen=True)
class Head:
    """The layers that a task's transformers class has above the encoder.

    Args:
        architecture: string. The class, e.g. `"BertForSequenceClassification"`.
        prefix: string. The prefix of the encoder's tensors in that class, e.g. `"bert."`.
        variables: dict of tensor name in that class to (variable, whether the tensor is its transpose).
        config: dict of additional entries of `config.json`.
    """

    architecture: str
    prefix: str
    variables: dict[str, Any]
    config: dict[str, Any]

    def tensors(self):
        """Returns the weights as arrays, by tensor name."""
        arrays = {
            name: (keras.ops.convert_to_numpy(variable), flag) for name, (variable, flag) in self.variables.items()
        }
        return {name: array.T if is_transposed else array for name, (array, is_transposed) in arrays.items()}


def write(folder, backbone, preprocessor, *, head=None, entries=None, dtype="float32"):
    """Writes an encoder, and the layers that a task has above it, for transformers 5 and for `load`.

    Adapters are merged into the kernels that they adapt.

    Args:
        folder: path of an existing directory.
        backbone: `Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        head: `Head`, or `None` for the encoder only.
        entries: dict of additional entries of `config.json`.
        dtype: string, a key of `DTYPES`.

    Raises:
        ValueError: if there is no preprocessor, the tokenizer cannot be written, or a weight is quantized or outside
            the range of `dtype`.
    """
    family = FAMILIES[backbone.family]
    if family.first_module != TRANSFORMER:
        raise _check.invalid("format", f"'sentence-transformers' for the family {family.name!r}", "huggingface")
    check_preprocessor(preprocessor)
    tensors = encoder_tensors(backbone, "" if head is None else head.prefix)
    if head is not None:
        tensors.update(head.tensors())
    save_tensors(folder / _checkpoint.WEIGHTS, tensors, dtype)
    written = {**config(backbone, preprocessor.tokenizer, dtype, head), **(entries or {})}
    _disk.write_json(folder / CONFIG, written)
    write_tokenizer(folder, backbone, preprocessor)


def check_preprocessor(preprocessor, add_special_tokens=True):
    """Raises if there is no preprocessor, or if it produces different ids than the written tokenizer will."""
    if preprocessor is None:
        raise _check.invalid("preprocessor", "a model with a preprocessor, whose tokenizer is also written", None)
    for name, expected in (("add_special_tokens", add_special_tokens), ("drop_unknown_tokens", False)):
        if getattr(preprocessor, name) != expected:
            remedy = "The other libraries support nothing else; use format='tfxfer'"
            raise _check.invalid(name, f"{expected} in the preprocessor", not expected, remedy)


def encoder_tensors(backbone, prefix=""):
    """Returns the tensors of an encoder under the names of its family, each with `prefix`."""
    check_not_quantized(backbone)
    return {f"{prefix}{name}": value for name, value in _weights.tensors(backbone).items()}


def check_not_quantized(model):
    """Raises for a model with a quantized layer, whose float weights cannot be recovered."""
    for layer in layers_within(model):
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise _check.invalid("format", f"'tfxfer' for a model that was quantized to {mode}", layer.path)


def config(backbone, tokenizer, dtype="float32", head=None):
    """Returns the `config.json` of an encoder with its tokenizer's ids, as a dict."""
    family = FAMILIES[backbone.family]
    found = {**family.to_config(backbone.arguments), "dtype": dtype}
    _check_read_back(family, backbone.arguments, found)
    for role in _ROLES:
        value = getattr(tokenizer, f"{role}_token_id")
        if value is not None or role in _ROLES[:3]:
            found.setdefault(f"{role}_token_id", value)
    return found if head is None else {**found, **head.config, "architectures": [head.architecture]}


def _check_read_back(family, arguments, found):
    """Raises for an encoder with a setting that the family's files have no entry for."""
    again = complete(family, family.from_config(found, CONFIG))
    for name, value in arguments.items():
        if name not in RATES and again[name] != value:
            remedy = "The other formats have no entry for it; use format='tfxfer'"
            raise _check.invalid(name, f"{again[name]!r}, as in every {family.architecture}", value, remedy)


def label_entries(labels):
    """Returns the entries of `config.json` that name the outputs."""
    names = list(map(str, labels))
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def write_tokenizer(folder, backbone, preprocessor):
    """Writes the tokenizer's files, so that its outputs are the inputs of the encoder's transformers class."""
    preprocessor.tokenizer.to_folder(
        folder, sequence_length=preprocessor.sequence_length, padding_side=preprocessor.padding_side
    )
    file = folder / "tokenizer_config.json"
    # Without segment ids, all tokens are in segment 0 there.
    spec = preprocessor.tokenizer.spec
    has_segments = backbone.has_segment_ids and any(segment for _, segment in [*spec.single, *spec.pair])
    names = ["input_ids", *(["token_type_ids"] if has_segments else []), "attention_mask"]
    _disk.write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "model_input_names": names})


def save_tensors(file, tensors, dtype="float32"):
    """Writes tensors as a safetensors file.

    Args:
        file: path.
        tensors: dict of name to array.
        dtype: string, a key of `DTYPES`.

    Raises:
        ValueError: if a finite value is beyond the range of `dtype`.
    """
    kind = DTYPES[_check.one_of("dtype", dtype, DTYPES)]
    with np.errstate(over="ignore"):
        cast = {name: np.ascontiguousarray(value, kind) for name, value in tensors.items()}
    for name, value in tensors.items():
        if not np.isfinite(cast[name]).all() and np.isfinite(value).all():
            raise _check.invalid("dtype", f"a dtype with room for the values of {name}", dtype, "Choose 'bfloat16'.")
    with _disk.replacing(file) as part:
        safetensors.numpy.save_file(cast, part, {"format": "pt"})
