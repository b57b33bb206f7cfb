"""Splits a model at the end of its frozen part."""

import dataclasses
import hashlib
import json
import math
import uuid
import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check, models
from tfxfer._version import __version__
from tfxfer.backbones import _unpadding


@dataclasses.dataclass(frozen=True)
class Cut:
    """A model split into two parts, above a given number of frozen layer groups.

    Args:
        frozen: tuple of the names of the layer groups below.
        below: Keras model from ids to states or vectors.
        inputs: dict of the inputs of the upper part.
        outputs: the output of the upper part, which is that of the whole model.
        form: `"vectors"`, one per text, or the layout of token states: see `data._features.Tokens`.
        features: the tensor that the linear head reads, computed from `inputs`; `None` without a linear head.
        fixed: dict of the name of another input to a frozen model from it to the features of the same name in `inputs`.
    """

    frozen: tuple
    below: Any
    inputs: dict
    outputs: Any
    form: str
    features: Any
    fixed: dict


class StackColumns(keras.layers.Layer):
    """Stacks the columns of rows: `(batch, columns, ...)` to `(batch * columns, ...)`."""

    def call(self, inputs):
        return ops.reshape(inputs, (-1, *ops.shape(inputs)[2:]))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, *inputs.shape[2:]), inputs.dtype)


class Columns(keras.layers.Layer):
    """Inverts `StackColumns`: `(batch * columns, dim)` to `(batch, columns, dim)`, with `columns` taken from `like`."""

    def call(self, inputs, like):
        return ops.reshape(inputs, (*ops.shape(like)[:2], inputs.shape[-1]))

    def compute_output_spec(self, inputs, like):
        return keras.KerasTensor((*like.shape[:2], inputs.shape[-1]), inputs.dtype)


def tower_of(model):
    """Returns the part of a task model that computes one vector per text."""
    return _check.instance("model", model, models.TextTask, "a task model of `tfxfer.models`, or a subclass").tower()


def frozen_groups(model):
    """Returns the names of the frozen layer groups, from the lowest upwards to the first that trains."""
    names = []
    for name, layers in tower_of(model).backbone.layer_groups().items():
        if any(layer.trainable_variables for layer in layers):
            break
        names.append(name)
    return tuple(names)


def frozen_weights(model, groups):
    """Returns the weights of the given layer groups of the backbone."""
    found = tower_of(model).backbone.layer_groups()
    return [weight for name in groups for layer in found[name] for weight in layer.weights]


def check_dropout(model, groups):
    """Raises if layers of frozen groups run with dropout, so that their output varies."""
    backbone = tower_of(model).backbone
    rates = (backbone.dropout, backbone.attention_dropout, backbone.embeddings_dropout)
    found = backbone.layer_groups()
    noisy = [name for name in groups if any(backbone.runs_dropout(layer) for layer in found[name])]
    if noisy and any(rates):
        remedy = "Call `freezing.freeze(model, groups=..., dropout=False)` on these groups."
        raise _check.invalid("model", "frozen layer groups without dropout", noisy, remedy)


def cut(model):
    """Splits a model above its frozen groups.

    Returns:
        `Cut`.

    Raises:
        ValueError: if nothing is frozen, nothing trains, or the frozen part runs with dropout.
    """
    tower, groups = tower_of(model), frozen_groups(model)
    if not groups:
        remedy = "Freeze the lowest layer groups first: `freezing.freeze(model, below=4)`."
        raise _check.invalid("model", "a model whose layer group 'embeddings' is frozen", model.name, remedy)
    if not model.trainable_variables:
        raise _check.invalid("model", "a model with a layer group that trains", model.name)
    if getattr(tower.backbone, "depends_on_padding", False):
        expected = "an encoder whose results do not depend on padding, which is not stored"
        raise _check.invalid("model", expected, tower.backbone.family, "Train the model itself.")
    check_dropout(model, groups)
    is_siamese = tower is not model
    for name, why in (("all_layers", "its loss reads frozen layers"), ("twin", "it has two encoders")):
        if getattr(model, name, False):
            raise _check.invalid("model", f"towers without `{name}`", model.name, f"Train the model itself: {why}.")
    if is_siamese and model.chunk_size is not None and len(groups) < len(tower.backbone.layer_groups()):
        remedy = "Freeze the whole backbone, or make the model without `chunk_size`."
        raise _check.invalid("chunk_size", "None above stored token states", model.chunk_size, remedy)
    # A pooling with weights trains with the head: the stored output then ends before it, as if nothing is pooled.
    trains = len(groups) < len(tower.backbone.layer_groups()) or tower.boundary()[2] is None
    is_above_vectors = not (trains or _pooling_of(tower).weights)
    make = _above_vectors if is_above_vectors else _above_tokens
    fixed = _fixed(tower)
    below, inputs, above, form = make(tower, groups, is_siamese, fixed)
    head = model.linear_head()
    if not is_siamese:
        features = None if head is None else above(head[0], "features")
        return Cut(groups, below, inputs, above(tower.output, "top"), form, features, fixed)
    towers = model.get_layer("towers").output
    outputs = Columns(name="columns", dtype="float32")(above(tower.output, "top"), next(iter(inputs.values())))
    features = None if head is None else keras.Model(towers, head[0], name="features")(outputs)
    if towers is not model.output:
        outputs = keras.Model(towers, model.output, name="decoding")(outputs)
    return Cut(groups, below, inputs, outputs, form, features, fixed)


def _pooling_of(tower):
    """Returns the layers between the encoder's states and the pooled vectors, as a model."""
    sequence, mask, pooled = tower.boundary()
    return keras.Model([*_listed(sequence), mask], pooled)


def _listed(sequence):
    """Returns the states that a task reads, as a list."""
    return list(sequence) if isinstance(sequence, (list, tuple)) else [sequence]


def _between(tower):
    """Returns a JSON description of the layers between the encoder's states and the pooled vectors."""
    layers = [layer for layer in _pooling_of(tower).layers if not isinstance(layer, keras.layers.InputLayer)]
    return [[type(layer).__name__, _computed(layer.get_config())] for layer in layers]


def _fixed(tower):
    """Returns a model for each input whose features never change: nothing in it trains or draws random numbers."""
    found = {}
    for name, features in tower.input_features().items():
        part = keras.Model({name: tower.input[name]}, features, name=f"fixed_{uuid.uuid4().hex}")
        is_random = any(variable.name == "seed_generator_state" for variable in part.variables)
        # A layer that trains may also change weights that do not, like the means of a batch normalization.
        trains = part.trainable_variables or any(layer.trainable and layer.variables for layer in part.layers)
        if not is_random and not trains:
            found[name] = part
    return found


def _others(tower, fixed):
    """Returns the tensors that a tower computes without its encoder, by the name of the input, and inputs like them."""
    others = {name: tensor for name, tensor in tower.input.items() if name not in tower.backbone.input}
    others |= {name: part.output for name, part in fixed.items()}
    made = {name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in others.items()}
    return others, made


def _above_vectors(tower, groups, is_siamese, fixed):
    pooled = tower.boundary()[2]
    # Vectors of several blocks are stored concatenated.
    size = math.prod(pooled.shape[1:])
    flat = pooled if len(pooled.shape) == 2 else keras.layers.Reshape((size,), dtype=pooled.dtype)(pooled)
    below = keras.Model(tower.backbone.input, flat, name="below")
    inputs = x = keras.Input((None, size) if is_siamese else (size,), name="vectors")
    x = StackColumns(name="rows", dtype="float32")(x) if is_siamese else x
    x = x if flat is pooled else keras.layers.Reshape(pooled.shape[1:], dtype=pooled.dtype)(x)
    others, made = _others(tower, fixed)

    def above(output, name):
        if output is pooled:
            return x
        given = [pooled, *others.values()] if others else pooled
        return keras.Model(given, output, name=name)([x, *made.values()] if others else x)

    return below, {"vectors": inputs, **made}, above, "vectors"


def _above_tokens(tower, groups, is_siamese, fixed):
    sequence, mask, _ = tower.boundary()
    below, blocks = tower.backbone.split(len(groups) - 1, tower.read_layers())
    states = below.output
    # Keras weights a batch by the first dimension of the first input in alphabetical order: the mask's.
    inputs = {
        "padding_mask": keras.Input((None, None) if is_siamese else (None,), dtype="int32", name="padding_mask"),
        "token_states": keras.Input(batch_shape=states.shape, dtype=states.dtype, name="token_states"),
    }
    rows = inputs["padding_mask"]
    rows = StackColumns(name="rows", dtype="int32")(rows) if is_siamese else rows
    others, made = _others(tower, fixed)
    form = "padded" if len(states.shape) == 3 else "packed" if _unpadding.leaves_padding_out() else "flat"
    given = [*_listed(blocks([inputs["token_states"], rows])), rows, *made.values()]

    def above(output, name):
        return keras.Model([*_listed(sequence), mask, *others.values()], output, name=name)(given)

    return below, {**inputs, **made}, above, form


def key(model, made, sequences, dtype):
    """Returns a hash of everything that stored states or vectors depend on, as hexadecimal digits."""
    backbone = tower_of(model).backbone
    facts = {
        "config": _computed(backbone.get_config()),
        "frozen": made.frozen,
        "read": tower_of(model).read_layers(),
        "pooling": _between(tower_of(model)) if made.form == "vectors" else None,
        "dtype": dtype,
    }
    return _hash(facts, sequences, frozen_weights(model, made.frozen))


def key_of_input(part, values, dtype):
    """Returns a hash of everything that the stored features of another input depend on.

    Args:
        part: the model that computes the features.
        values: `data._features.Inputs`.
        dtype: string.
    """
    try:
        config = _numbered(part.get_config())
    except NotImplementedError:  # a layer of the user's without a config: nothing else reuses its features
        config = part.name
    return _hash({"config": config, "dtype": dtype}, values, part.weights)


def _hash(facts, values, weights):
    facts["versions"] = [__version__, keras.__version__, keras.config.backend()]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(values.digest())
    for weight in weights:
        array = np.ascontiguousarray(ops.convert_to_numpy(weight))
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.view("uint8").data)
    return digest.hexdigest()


def _computed(config):
    """Returns a config without the entries that name layers or set whether they train, which do not affect results."""
    if not isinstance(config, dict):
        return config
    left_out = ("name", "frozen", "frozen_dropout", "gradient_checkpointing", "fused_elementwise", "trainable")
    return {name: _computed(value) for name, value in config.items() if name not in left_out}


def _numbered(config):
    """Returns a config in which numbers replace the names of layers, which count up in a process."""
    numbers = {}

    def visit(value, key=None):
        if isinstance(value, dict):
            return {name: visit(each, name) for name, each in value.items() if name != "trainable"}
        if isinstance(value, (list, tuple)):
            return [visit(each) for each in value]
        if key == "name":
            numbers.setdefault(value, len(numbers))
        return numbers.get(value, value) if isinstance(value, str) else value

    return visit(config)


def sums(weights):
    """Returns a checksum of each weight: fast, and different if a number changes or two swap places."""
    found = []
    for weight in weights:
        array = np.ascontiguousarray(ops.convert_to_numpy(weight))
        found.append((array.shape, zlib.crc32(array.reshape(-1).view("uint8").data)))
    return found
