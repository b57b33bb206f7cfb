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
_REMEDY = "Write it again with `save_adapters`, or copy it again from where it is complete."
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

    with A `(inputs, rank)` uniform in +- 1 / sqrt(inputs) and B `(rank, outputs)` zero, so that nothing changes before
    training. W, all biases, norms and embeddings stay as they are, to the bit. The adapters are those of Keras's dense
    layers and have the shapes of PEFT's. With rank 8 on query and value, MiniLM-L6 has 73,728 adapter weights (0.33 %
    of its 22.6 million), BERT base 294,912 (0.27 %).

    A training step saves the gradients and the update of what is not adapted: it takes some 0.7 of the time of full
    fine-tuning (MiniLM-L6, CPU). The gain is in memory and in what is stored (`save_adapters`). Rates some ten times
    those of full fine-tuning are usual. Compile the model afterwards.

    Frozen groups run without dropout; groups with adapters keep theirs. `freeze` and `unfreeze` work on the adapters.
    `model.save` keeps the adapters, and the model goes on training after `keras.saving.load_model`. Its file holds the
    adapted kernels twice, as they were and merged: it loads into a model without adapters, too.

    Args:
        model: any of `tfxfer.models`, on any family of encoders.
        rank: int. Defaults to 8, beyond which Hu et al. gain nothing on GLUE.
        alpha: float > 0. Defaults to `rank`, a factor of 1.
        targets: dense layers of a block: any of `"query"`, `"key"`, `"value"`, `"attention_output"`, `"gate"`
            (where the family has one), `"intermediate"`, `"output"` (patterns too: `"*"`). Query and value are
            Hu et al.'s choice.
        groups: blocks that get adapters, names or patterns; all by default. The blocks in front of the others are
            frozen wholly, and can be cached.

    Raises:
        ValueError: for a model that has adapters, an unknown target or group, a rank < 1.

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
    """Adds the adapters to the kernels and takes them away: the same outputs (to float rounding), a plain model.

    Groups that trained go on to train, with all their weights from now on; compile again before that.

    Args:
        model: a model with adapters.

    Raises:
        ValueError: for a model without.

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
    """Writes the adapters of a model, without the encoder: less than a per cent of its size.

    The file has safetensors' format; its metadata hold rank, alpha, targets, groups and the encoder's sizes. For
    MiniLM-L6 with rank 8 it has 0.3 MB, where the encoder has 90 MB. An existing file is replaced in one step, and
    stays as it is where writing fails.

    With `format="peft"` it is a folder of PEFT's (`adapter_config.json`, `adapter_model.safetensors`) for the encoder's
    class in transformers, or with `head` for `*ForSequenceClassification`. Parts that are one matrix there, such as
    GPT-2's `c_attn`, become one adapter whose rank is the sum of theirs: the same product, in as many numbers as its
    zeros need.

    Args:
        model: a model with adapters.
        path: string or path of the file, on the local disk; of the folder for PEFT.
        head: bool. Whether to write the weights of the group `"head"` as well, which a classifier is useless without.
            Off by default: adapters fit other heads too.
        format: `"tfxfer"` or `"peft"`.
        base_model: string. For PEFT, the checkpoint that the encoder came from, a hub id or a path: what
            `AutoPeftModel` loads the adapters on.

    Raises:
        ValueError: for a model without adapters, or without a head to write; for PEFT, a head that transformers
            lacks; a path that is a folder (for PEFT a file) or a URL such as `gs://...`.

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
    """Gives a model the adapters of a file, and the head where the file has one.

    A folder of PEFT's is read as well: LoRA on dense layers of the blocks, the same ones in each block that has some. A
    module that is several parts here, such as GPT-2's `c_attn`, becomes an adapter on each of them, with the same A.
    Adapters of several ranks are padded to the largest by zeros; several factors alpha / rank go into B.

    Args:
        model: a model on an encoder of the same shape, without adapters (they are added) or with such as the file's.
        path: string or path of a file by `save_adapters`, or of a PEFT folder.

    Raises:
        ValueError: for a file that is damaged or of another kind, an encoder of another family or size, a model with
            other adapters, or a head of another shape; for options of PEFT that change the computation (DoRA, trained
            biases, ...). The model is then as it was.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    tx.freezing.load_adapters(model, "card.safetensors")
    ```
    """
    path = _disk.local_path("path", path)
    reader = _disk.Reader("path", path, "a file that `save_adapters` wrote, or a folder of PEFT's", _REMEDY)
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
    """Where what is within fails, takes adapters that it added away again, and restores values, flags and optimizer."""
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
    """The adapters' variables by name; raises where there are none."""
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
            raise reader.error(path, f"has no JSON as {key!r} in its metadata ({error})") from error
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
            raise reader.error(path, f"holds {value.dtype} as {name!r}, where floats belong")
        if not np.isfinite(value).all():
            raise reader.error(path, f"holds numbers that are not finite as {name!r}")
        # Before a rank from a damaged file asks for more memory than there is.
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
