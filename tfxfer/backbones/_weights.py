"""Maps a checkpoint's tensors to the weights of an encoder and back."""

import dataclasses

import keras
import numpy as np

from tfxfer import _check
from tfxfer.backbones import _parts
from tfxfer.backbones.families import FAMILIES

# A weight's name in Keras -> the suffix of the tensor's name.
SUFFIXES = {
    "kernel": "weight",
    "gamma": "weight",
    "scale": "weight",
    "embeddings": "weight",
    "bias": "bias",
    "beta": "bias",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint and the weights stored in it.

    Args:
        name: string. The tensor's name.
        kind: string. The weights' name in their layers, a key of `SUFFIXES`.
        parts: tuple of (name, layer). Several are concatenated along the outputs.
    """

    name: str
    kind: str
    parts: tuple


def entries(family, parts, arguments):
    """Yields an `Entry` for each tensor of an encoder, built or not.

    Args:
        family: `Family`.
        parts: `Parts`.
        arguments: dict of `Backbone`'s arguments.
    """
    for name, found in family.tensors.items():
        yield from _entries(name, found, parts)
    for i, group in enumerate(parts.groups):
        for j, block in enumerate(group):
            for name, found in family.tensors_in_block(arguments).items():
                yield from _entries(family.block_prefix.format(i, j) + name, found, block)


def _entries(name, found, root):
    found = found if isinstance(found, tuple) else (found,)
    layers = [(path, part_of(root, path)) for path in found]
    layers = [(path, layer) for path, layer in layers if layer is not None]
    if layers:
        for kind in shapes(layers[0][1]):
            yield Entry(f"{name}.{SUFFIXES[kind]}", kind, tuple(layers))


def part_of(root, path):
    """Returns the part at a dotted path, or `None` if the encoder does not have it."""
    for step in path.split("."):
        root = root.get(step) if isinstance(root, dict) else getattr(root, step, None)
    return root


def shapes(layer):
    """Returns the shapes of a layer's weights by name, whether or not it is built."""
    if isinstance(layer, keras.layers.Embedding):
        return {"embeddings": (layer.input_dim, layer.output_dim)}
    if isinstance(layer, keras.layers.Dense):
        found: dict[str, tuple] = {"kernel": (_parts.width(layer), layer.units)}
        return {**found, "bias": (layer.units,)} if layer.use_bias else found
    if isinstance(layer, keras.layers.RMSNormalization):
        return {"scale": (_parts.width(layer),)}
    found = {"gamma": (_parts.width(layer),)}
    return {**found, "beta": found["gamma"]} if layer.center else found


def tensor_shape(family, entry, arguments):
    """Returns the shape that a checkpoint's tensor must have."""
    found = [family.tensor_shape(path, entry.kind, shapes(layer)[entry.kind], arguments) for path, layer in entry.parts]
    whole = (*found[0][:-1], sum(shape[-1] for shape in found))
    is_transposed = entry.kind == "kernel" and not family.stores_kernels_by_input
    return whole[::-1] if is_transposed else whole


def check(family, parts, arguments, checkpoint):
    """Checks the sizes of an unbuilt encoder against a checkpoint before anything is read or allocated.

    Raises:
        ValueError: if a tensor is missing or has another shape.
    """
    for entry in entries(family, parts, arguments):
        name = _name(family, entry, checkpoint)
        expected, received = tensor_shape(family, entry, arguments), checkpoint.shape(name)
        if len(received) != len(expected) or any(e not in (None, r) for e, r in zip(expected, received, strict=True)):
            raise _check.invalid(
                "preset",
                f"the tensor {name!r} with shape {expected}, according to config.json",
                received,
                f"In {checkpoint.source}",
            )


def assign(backbone, checkpoint):
    """Assigns every weight of a backbone from a checkpoint, and checks that no tensor of the encoder is unused.

    Args:
        backbone: a `Backbone`.
        checkpoint: a `Checkpoint` of the same family.

    Raises:
        ValueError: if a tensor is missing, has another shape, or is unused.
    """
    family, arguments = FAMILIES[backbone.family], backbone.arguments
    for entry in entries(family, backbone.parts, arguments):
        value = checkpoint.take(_name(family, entry, checkpoint), tensor_shape(family, entry, arguments))
        if entry.kind == "kernel" and not family.stores_kernels_by_input:
            value = value.T
        at = 0
        for path, layer in entry.parts:
            variable = getattr(layer, entry.kind)
            width = shapes(layer)[entry.kind][-1]
            part = value if len(entry.parts) == 1 else value[..., at : at + width]
            variable.assign(family.from_tensor(path, entry.kind, part, arguments, checkpoint))
            at += width
    checkpoint.check_all_used(family.ignored)


def _name(family, entry, checkpoint):
    """Returns the name under which a checkpoint has an entry's tensor."""
    names = (entry.name, *family.same.get(entry.name, ()))
    return next((name for name in names if checkpoint.has(name)), entry.name)


def tensors(backbone):
    """Returns a backbone's weights as the tensors of its family's checkpoints: a dict of name to float32 array."""
    family, arguments = FAMILIES[backbone.family], backbone.arguments
    found = {}
    for entry in entries(family, backbone.parts, arguments):
        values = []
        for path, layer in entry.parts:
            value = np.asarray(keras.ops.convert_to_numpy(getattr(layer, entry.kind)), "float32")
            values.append(family.to_tensor(path, entry.kind, value, arguments))
        value = np.concatenate(values, axis=-1)
        is_transposed = entry.kind == "kernel" and not family.stores_kernels_by_input
        found[entry.name] = np.ascontiguousarray(value.T if is_transposed else value)
    return {**found, **family.extra_tensors(arguments)}
