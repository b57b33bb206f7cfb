"""Low-rank adapters of a task model, and their files."""

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import safetensors
import safetensors.numpy

from tfxfer import _check, _disk
from tfxfer._freezable import switch
from tfxfer.freezing import _peft
from tfxfer.freezing._groups import check_model

_FORMAT = "tfxfer-lora-1"
_REMEDY = "Write it again with `save_adapters`, or copy a complete file again."
_LORA = {"rank": int, "alpha": (int, float), "targets": list, "groups": list}
_SIZES = {"family": str, "hidden_dim": int, "num_heads": int, "num_layers": int, "intermediate_dim": int}


def add_lora(
    model: Any,
    rank: int = 8,
    *,
    alpha: float | None = None,
    targets: str | Sequence[str] = ("query", "value"),
    groups: str | Sequence[str] | None = None,
) -> None:
    """Adds low-rank adapters to the encoder of a model and freezes the rest of the encoder; the head trains.

    The kernel of an adapted dense layer becomes

        W + alpha / rank * A B

    with A `(inputs, rank)` uniform in +- 1 / sqrt(inputs) and B `(rank, outputs)` zero, so that outputs do not change
    before training. W, all biases, norms and embeddings remain bit-identical. The adapters are those of Keras's dense
    layers and have the same shapes as PEFT's. With rank 8 on query and value, MiniLM-L6 has 73,728 adapter weights
    (0.33 % of its 22.6 million), BERT base 294,912 (0.27 %).

    A training step skips the gradients and updates of all weights without adapters: it takes about 0.7 of the time of
    full fine-tuning (MiniLM-L6, CPU). The main savings are memory and storage (`save_adapters`). Learning rates are
    usually about ten times those of full fine-tuning. Compile the model afterwards.

    Frozen groups run without dropout; groups with adapters keep theirs. `freeze` and `unfreeze` apply to the adapters.
    `model.save` saves the adapters, and training can resume after `keras.saving.load_model`. The file contains the
    adapted kernels twice, original and merged, so it also loads into a model without adapters.

    Args:
        model: any model of `tfxfer.models`, on any family of encoders.
        rank: int. Defaults to 8; beyond it, Hu et al. find no gain on GLUE.
        alpha: float > 0. Defaults to `rank`, a factor of 1.
        targets: dense layers of a block: any of `"query"`, `"key"`, `"value"`, `"attention_output"`, `"gate"`
            (if the family has one), `"intermediate"`, `"output"`, or patterns (`"*"`). Defaults to query and value, the
            choice of Hu et al.
        groups: blocks that get adapters, as names or patterns. Defaults to all. The blocks below them are frozen
            entirely, and their output can be cached.

    Raises:
        ValueError: for a model that already has adapters, an unknown target or group, or a rank < 1.

    Example:

    ```python
    tx.freezing.add_lora(model, rank=8)
    model.compile(tx.optimizers.AdamW(3e-4))
    model.fit(texts, labels, epochs=5)
    tx.freezing.save_adapters(model, "card.safetensors", head=True)
    tx.freezing.merge_lora(model)
    tx.export.saved_model(model, "serving/card")
    ```

    Reference: Hu et al., 2021, https://arxiv.org/abs/2106.09685.
    """
    check_model(model).backbone.enable_lora(rank, alpha=alpha, targets=targets, groups=groups)
    model.set_trainable({"head": True} if "head" in model.layer_groups() else {})


def merge_lora(model: Any) -> None:
    """Merges the adapters into the kernels: a plain model with the same outputs, to float rounding.

    Groups that trained continue to train, now with all their weights. Compile the model again before training.

    Args:
        model: a model with adapters.

    Raises:
        ValueError: for a model without adapters.

    Example:

    ```python
    tx.freezing.merge_lora(model)
    ```
    """
    _adapters(model)
    model.backbone.merge_lora()
    model.set_trainable({})


def save_adapters(
    model: Any,
    path: str | os.PathLike[str],
    *,
    head: bool = False,
    format: Literal["tfxfer", "peft"] = "tfxfer",
    base_model: str | None = None,
) -> None:
    """Saves the adapters of a model without the encoder, in less than one percent of its size.

    The file is a safetensors file; its metadata contain rank, alpha, targets, groups and the encoder's sizes. For
    MiniLM-L6 with rank 8, it takes 0.3 MB; the encoder takes 90 MB. An existing file is replaced atomically, and
    remains unchanged if writing fails.

    With `format="peft"`, the output is a PEFT directory (`adapter_config.json`, `adapter_model.safetensors`) for the
    encoder's transformers class, or with `head` for `*ForSequenceClassification`. Parts that transformers stores as one
    matrix, such as GPT-2's `c_attn`, become one adapter whose rank is the sum of their ranks: the same product, with
    additional zeros.

    Args:
        model: a model with adapters.
        path: string or path of the file, on the local disk; for PEFT, of the directory.
        head: bool. Whether to also save the weights of the group `"head"`, without which a classifier is useless.
            Defaults to `False`: adapters also work with other heads.
        format: `"tfxfer"` or `"peft"`.
        base_model: string. For PEFT, the checkpoint that the encoder came from, a hub id or a path, on which
            `AutoPeftModel` loads the adapters.

    Raises:
        ValueError: for a model without adapters, or without a head to save; for PEFT, a head that transformers does not
            have; if the path is a directory (for PEFT, a file) or a URL such as `gs://...`.

    Example:

    ```python
    tx.freezing.save_adapters(model, "card.safetensors", head=True)
    ```
    """
    is_peft = _check.one_of("format", format, ("tfxfer", "peft")) == "peft"
    path = _disk.local_path("path", path, kind="folder" if is_peft else "file")
    tensors = dict(_adapters(model))
    if is_peft:
        _peft.write(model, path, head=head, base_model=base_model)
        return
    if head:
        tensors.update(_head(model, "model"))
    metadata = {"format": _FORMAT, "lora": model.backbone.lora, "backbone": _sizes(model)}
    arrays = {name: np.ascontiguousarray(keras.ops.convert_to_numpy(value)) for name, value in tensors.items()}
    with _disk.replacing(path) as part:
        safetensors.numpy.save_file(arrays, part, {key: json.dumps(value) for key, value in metadata.items()})


def load_adapters(model: Any, path: str | os.PathLike[str]) -> None:
    """Loads adapters from a file into a model, and the head if the file has one.

    PEFT directories are also supported: LoRA on dense layers of the blocks, the same layers in each adapted block. A
    module that is several parts here, such as GPT-2's `c_attn`, becomes an adapter on each part, with the same A.
    Adapters of different ranks are padded with zeros to the largest; different factors alpha / rank are merged into B.

    Args:
        model: a model on an encoder of the same shape, without adapters (they are added) or with adapters of the same
            configuration.
        path: string or path of a file saved by `save_adapters`, or of a PEFT directory.

    Raises:
        ValueError: for a file that is damaged or of another kind, an encoder of another family or size, a model with
            other adapters, or a head of another shape; for PEFT options that change the computation (DoRA, trained
            biases, ...). The model then remains unchanged.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    tx.freezing.load_adapters(model, "card.safetensors")
    ```
    """
    path = _disk.local_path("path", path)
    reader = _disk.Reader("path", path, "a file written by `save_adapters`, or a PEFT folder", _REMEDY)
    sizes = _sizes(check_model(model))
    if _peft.is_folder(path):
        tensors, lora = _peft.read(reader, model)
    else:
        tensors, lora, sizes = _read(reader)
    for name, value in _sizes(check_model(model)).items():
        if sizes.get(name) != value:
            received = {name: sizes.get(name)}
            raise _check.invalid("path", f"adapters for an encoder with {name}={value!r}", received, f"In {path}.")
    if model.backbone.lora not in (None, lora):
        remedy = "Call `merge_lora(model)` first, or load into a model without adapters."
        raise _check.invalid("model", f"a model without adapters, or with {lora}", model.backbone.lora, remedy)
    tops = {name: value for name, value in tensors.items() if name.startswith("head/")}
    targets = _head(model, "path") if tops else {}
    _check_shapes(tops, targets, path)
    with _undone_on_error(model):
        if model.backbone.lora is None:
            with reader.guard(reader.path):
                add_lora(model, **lora)
        targets = {**targets, **_adapters(model)}
        _check_shapes(tensors, targets, path)
        for name, variable in targets.items():
            variable.assign(tensors[name])


@contextlib.contextmanager
def _undone_on_error(model):
    """On an error within the context, removes adapters that it added, and restores values, flags and optimizer."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    had_adapters = model.backbone.lora is not None
    wholes = [(whole, whole.trainable) for whole in (model, getattr(model, "embedder", model), model.backbone)]
    layers = [(layer, layer.trainable) for group in model.layer_groups().values() for layer in group]
    weights = [(weight, weight.trainable) for weight in model.weights]
    small = [*model.backbone.lora_variables().values(), *_head_weights(model)]
    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in small]
    optimizer = getattr(model, "optimizer", None)
    try:
        yield
    except BaseException:
        for variable, value in values:
            variable.assign(value)
        if not had_adapters and model.backbone.lora is not None:
            model.backbone.remove_lora()
            for whole, flag in wholes:
                if whole.trainable != flag:
                    whole.trainable = flag
            for layer, flag in layers:
                switch(layer, flag)
            for weight, flag in weights:
                weight.trainable = flag
            model.set_trainable({})
            if optimizer is not None:
                model.optimizer = optimizer
        raise


def _adapters(model):
    """Returns the adapters' variables by name; raises if there are none."""
    variables = check_model(model).backbone.lora_variables()
    if not variables:
        raise _check.invalid("model", "a model with adapters", model, "Add some: `freezing.add_lora(model)`.")
    return variables


def _head_weights(model):
    return [weight for layer in model.layer_groups().get("head", ()) for weight in layer.weights]


def _head(model, argument):
    weights = _head_weights(model)
    if not weights:
        raise _check.invalid(argument, "a model with weights above the encoder for the head", model)
    return {f"head/{i}": weight for i, weight in enumerate(weights)}


def _sizes(model):
    names = ("family", "hidden_dim", "num_heads", "num_layers", "intermediate_dim")
    return {name: getattr(model.backbone, name) for name in names}


def _read(reader):
    """Returns the tensors of a file, the arguments of `add_lora`, and the sizes of the encoder."""
    path = reader.path
    reader.check_file(path)
    with reader.guard(path), safetensors.safe_open(str(path), "np") as file:
        texts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    metadata = {}
    for key in set(texts) & {"format", "lora", "backbone"}:
        try:
            metadata[key] = json.loads(texts[key])
        except (ValueError, RecursionError) as error:
            raise reader.error(path, f"has invalid JSON as {key!r} in its metadata ({error})") from error
    if metadata.get("format") != _FORMAT:
        raise reader.error(path, f"is not of the format {_FORMAT!r}")
    reader.check_keys(path, metadata, {"lora": dict, "backbone": dict}, " in its metadata")
    lora, sizes = metadata["lora"], metadata["backbone"]
    reader.check_keys(path, lora, _LORA, " in its metadata's 'lora'")
    reader.check_keys(path, sizes, _SIZES, " in its metadata's 'backbone'")
    if not any(name.startswith("block_") for name in tensors):
        raise reader.error(path, "holds no adapters")
    for name, value in tensors.items():
        if value.dtype.kind != "f":
            raise reader.error(path, f"holds {value.dtype} as {name!r}, not floats")
        if not np.isfinite(value).all():
            raise reader.error(path, f"holds numbers that are not finite as {name!r}")
        # Checked before a rank from a damaged file requests too much memory.
        axis = {"a": -1, "b": 0}.get(name.rpartition("/")[2])
        if axis is not None and (value.shape or (0,))[axis] != lora["rank"]:
            raise reader.error(path, f"holds {name!r} of shape {value.shape}, which is not of rank {lora['rank']}")
    return tensors, {key: lora[key] for key in _LORA}, sizes


def _check_shapes(tensors, variables, path):
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    here = {name: tuple(variable.shape) for name, variable in variables.items()}
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            received = there.get(name)
            raise _check.invalid("path", f"a tensor {name!r} of shape {here.get(name)}", received, f"In {path}.")
