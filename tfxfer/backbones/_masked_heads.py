"""The heads of Hugging Face's masked language models."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfxfer import _check
from tfxfer.backbones import _checkpoint, _heads, _write
from tfxfer.backbones.families import FAMILIES

TASK = "ForMaskedLM"


@dataclasses.dataclass(frozen=True)
class MaskedHeadSpec:
    """The head of a masked language model, in the form of this package's layer.

    Args:
        options: dict of the head's settings: `activation`, `norm_epsilon`, `transform_bias`, `norm_bias`.
        weights: dict of arrays: `"dense.kernel"`, `"dense.bias"`, `"norm.gamma"`, `"norm.beta"`, `"bias"`, as required
            by the options; `None` for random weights.
    """

    options: dict
    weights: dict | None = dataclasses.field(default=None, repr=False)

    def assign(self, head: Any) -> None:
        """Assigns the checkpoint's weights to the built layer."""
        for name, value in (self.weights or {}).items():
            variable(head, name).assign(value)


def variable(head, name):
    """Returns a weight of a head by its name in `MaskedHeadSpec.weights`."""
    for step in name.split("."):
        head = getattr(head, step)
    return head


def reader(folder, config, family, backbone, tensors):
    """Returns a function that reads the head of a directory, or `None` if there is no head.

    If the directory declares a head that is not supported, the function raises.
    """
    found = family.masked_head(config)
    names = config.get("architectures")
    is_named = isinstance(names, list) and any(isinstance(name, str) and name.endswith(TASK) for name in names)
    has_it = found is not None and (tensors is None or f"{found.dense}.weight" in tensors)
    if not is_named and (tensors is None or not has_it):
        return None
    return lambda: _read(folder, config, found if has_it else None, family, backbone, tensors)


def _read(folder, config, found, family, backbone, tensors):
    where = f"In {folder}. Pass `backbone_only=True` for a new head"
    if found is None or found.activation is None:
        expected = f"a supported masked language model head of the family {family.name!r}"
        raise _check.invalid("preset", expected, str(folder), where)
    if config.get("tie_word_embeddings") is False:
        raise _check.invalid("tie_word_embeddings", "True: logits from the embedding table", False, where)
    options = {name: getattr(found, name) for name in ("activation", "norm_epsilon", "transform_bias", "norm_bias")}
    if tensors is None:
        return MaskedHeadSpec(options)
    checkpoint = _checkpoint.Checkpoint(tensors, f"{found.dense}.weight", (), str(folder))
    units, rows = backbone.token_embedding.output_dim, backbone.vocabulary_size
    bias = next((name for name in found.bias if checkpoint.has(name)), found.bias[0])
    weights = {"dense.kernel": np.ascontiguousarray(checkpoint.take(f"{found.dense}.weight", (units, None)).T)}
    if found.transform_bias:
        weights["dense.bias"] = checkpoint.take(f"{found.dense}.bias", (units,))
    weights["norm.gamma"] = checkpoint.take(f"{found.norm}.weight", (units,))
    if found.norm_bias:
        weights["norm.beta"] = checkpoint.take(f"{found.norm}.bias", (units,))
    weights["bias"] = checkpoint.take(bias, (rows,))
    return MaskedHeadSpec(options, weights)


def written(backbone, head, options):
    """Returns the head of a model in the form of its family's transformers class.

    Args:
        backbone: `Backbone`.
        head: the layer.
        options: dict of its settings.

    Returns:
        (head, reason): a `_write.Head` and `None`, or `None` and why there is no such class.
    """
    family = FAMILIES[backbone.family]
    architecture = _heads.class_name(family, TASK)
    found = family.masked_head(family.to_config(backbone.arguments))
    if found is None:
        return None, f"{architecture} is not written by this package"
    other = {name: getattr(found, name) for name in options if getattr(found, name) != options[name]}
    if other:
        return None, f"{architecture} has another head, which would be head={dict(options, **other)!r}"
    names = {"dense.kernel": f"{found.dense}.weight", "norm.gamma": f"{found.norm}.weight", "bias": found.bias[0]}
    names |= {"dense.bias": f"{found.dense}.bias"} if found.transform_bias else {}
    names |= {"norm.beta": f"{found.norm}.bias"} if found.norm_bias else {}
    variables = {name: (variable(head, ours), ours == "dense.kernel") for ours, name in names.items()}
    return _write.Head(architecture, family.prefixes[-1], variables, {"tie_word_embeddings": True}), None


def default_options(backbone):
    """Returns the settings of a new head for a backbone: its family's if known, otherwise BERT's."""
    family = FAMILIES.get(getattr(backbone, "family", ""))
    found = None if family is None else family.masked_head(family.to_config(backbone.arguments))
    if found is not None and found.activation is not None:
        return {name: getattr(found, name) for name in ("activation", "norm_epsilon", "transform_bias", "norm_bias")}
    return {"activation": "gelu", "norm_epsilon": 1e-12, "transform_bias": True, "norm_bias": True}


def sees_both_sides(backbone):
    """Returns whether an encoder's tokens attend to the tokens after them."""
    family = FAMILIES.get(getattr(backbone, "family", ""))
    if family is None:  # among KerasHub's backbones, decoders pool the last token
        return backbone.pooling != "last"
    return not backbone.arguments.get("is_causal", family.is_causal)


def table_of(backbone):
    """Returns the built embedding layer of a backbone, to tie a head to; raises if there is no such layer."""
    table = backbone.token_embedding
    if not isinstance(table, keras.layers.Embedding):
        raise _check.invalid("backbone", "one with a `keras.layers.Embedding` of its tokens", type(table).__name__)
    return table
