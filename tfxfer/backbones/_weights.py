"""Puts a checkpoint's tensors into a `Backbone`."""

import operator

import numpy as np

from tfxfer.backbones import _families

_THIRDS = {"query": 0, "key": 1, "value": 2}


def assign(backbone, checkpoint):
    """Assigns each weight of a backbone from a checkpoint and checks that no tensor of the encoder is left over.

    Args:
        backbone: a `Backbone`.
        checkpoint: a `Checkpoint` of the same family.

    Raises:
        ValueError: a tensor is missing, has another shape, or is left over.
    """
    family = _families.FAMILIES[backbone.family]
    layers = {layer.name: layer for group in backbone.layer_groups().values() for layer in group}
    named = {**family.tensors, **dict([family.final] if family.final else [])}
    for path, name in named.items():
        layer, _, inner = path.partition(".")
        if layer in layers:
            target = layers[layer]
            _assign_layer(operator.attrgetter(inner)(target) if inner else target, checkpoint, name, family)
    for block, i, j in backbone.blocks():
        parts = _families.block_parts(block)
        for part, name in family.block_tensors.items():
            name = family.block.format(i, j) + name
            if family.fused_attention and part in _THIRDS:
                _assign_third(parts[part], checkpoint, name, _THIRDS[part])
            else:
                _assign_layer(parts[part], checkpoint, name, family)
    checkpoint.check_all_used()


def _assign_layer(layer, checkpoint, name, family):
    """Assigns one layer: a layer norm, a table of embeddings, or a dense layer."""
    if hasattr(layer, "gamma"):
        layer.gamma.assign(checkpoint.take(f"{name}.weight", layer.gamma.shape))
        layer.beta.assign(checkpoint.take(f"{name}.bias", layer.beta.shape))
    elif hasattr(layer, "position_embeddings"):
        layer.position_embeddings.assign(_positions(layer.position_embeddings.shape, checkpoint, name, family))
    elif hasattr(layer, "kernel"):
        kernel, bias = layer.kernel, layer.bias
        size, width = int(np.prod(kernel.shape)), int(np.prod(bias.shape))
        shape = (size // width, width)  # (inputs, outputs), as GPT-2 stores it; the others store the transpose
        if family.fused_attention:
            weight = checkpoint.take(f"{name}.weight", shape)
        else:
            weight = checkpoint.take(f"{name}.weight", shape[::-1]).T
        kernel.assign(weight.reshape(kernel.shape))
        bias.assign(checkpoint.take(f"{name}.bias", (width,)).reshape(bias.shape))
    else:
        table = layer.rel_embeddings if hasattr(layer, "rel_embeddings") else layer.embeddings
        table.assign(checkpoint.take(f"{name}.weight", table.shape))


def _assign_third(layer, checkpoint, name, third):
    """Assigns query, key or value from GPT-2's one tensor for all three."""
    inputs, width = layer.kernel.shape[0], int(np.prod(layer.bias.shape))
    columns = slice(third * width, (third + 1) * width)
    layer.kernel.assign(checkpoint.take(f"{name}.weight", (inputs, 3 * width))[:, columns].reshape(layer.kernel.shape))
    layer.bias.assign(checkpoint.take(f"{name}.bias", (3 * width,))[columns].reshape(layer.bias.shape))


def _positions(shape, checkpoint, name, family):
    """Returns the table of positions, from the first real position on.

    A family without segment ids may still have a segment table (RoBERTa); all its tokens are of segment 0, so that row
    is added to each position here.
    """
    table = checkpoint.take(f"{name}.weight", (shape[0] + family.position_offset, shape[1]))[family.position_offset :]
    segments = "embeddings.token_type_embeddings.weight"
    if not family.has_segment_ids and checkpoint.has(segments):
        table = table + checkpoint.take(segments, (None, shape[1]))[0]
    return table
