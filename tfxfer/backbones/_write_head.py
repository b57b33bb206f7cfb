"""Converts task models' heads to those of transformers' classifiers: the inverse of `_heads`."""

from typing import Any

import keras
import numpy as np

from tfxfer import layers
from tfxfer.backbones import _heads, _write, _write_sentence_transformers
from tfxfer.backbones.families import FAMILIES

# The settings that affect results; dropout rates do not.
_FORM = ("pooling", "is_late", "activation", "use_bias", "hidden_use_bias", "norm_epsilon")


def read(backbone, preprocessor, pooling, head, *, labels, problem_type, activation=None):
    """Returns the head of a task model in the form of its family's sequence classifiers.

    Args:
        backbone: `Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        pooling: tuple of modes of `layers.Pooling`, or a Keras layer.
        head: a Keras layer.
        labels: list of the outputs' names.
        problem_type: string, a `problem_type` of `config.json`.
        activation: Keras's name of the activation that turns outputs into scores; `None` for none.

    Returns:
        (head, reason): a `_write.Head` and `None`; or `None` and why transformers has no such class for the encoder,
        including the head that it would have.
    """
    family = FAMILIES[backbone.family]
    config = family.to_config(backbone.arguments)
    architecture = family.architecture.removesuffix("Model") + _heads.CLASSIFIER
    own = form(pooling, head, backbone.hidden_dim)
    if family.head(config) is None:
        return None, f"{architecture} is not written by this package"
    if own is not None:
        config |= family.head_to_config(own)
    found = family.head(config)
    if own is None or not _agree(own, found):
        return None, _expected(architecture, found, len(labels), backbone.hidden_dim)
    if found.pooling == "last" and _ends_with_padding_token(preprocessor):
        return None, "transformers skips the padding token to find the last token, but here it ends every text"
    prefix = family.prefixes[-1]
    entries = {
        **family.head_to_config(own),
        **_write.label_entries(labels),
        "problem_type": problem_type,
        # What a `CrossEncoder` applies to the logits; without this entry, a sigmoid to a single logit.
        "sentence_transformers": {"activation_fn": _write_sentence_transformers.torch_name(activation)},
    }
    return _write.Head(architecture, prefix, variables(found, prefix, pooling, head), entries), None


def read_tokens(backbone, head, tags):
    """Returns the head of a tagger in the form of its family's token classifiers; result as in `read`.

    Args:
        backbone: `Backbone`.
        head: `layers.Head` on the token vectors.
        tags: list of the outputs' names.
    """
    family = FAMILIES[backbone.family]
    config = family.to_config(backbone.arguments)
    architecture = _heads.class_name(family, _heads.TAGGER)
    if family.token_head(config) is None:
        return None, f"transformers has no {architecture}"
    own = form(("cls",), head, backbone.hidden_dim)
    entries = {} if own is None else family.token_head_to_config(own)
    found = family.token_head({**config, **entries})
    if own is None or not _agree(own, found):
        options = _options(found, backbone.hidden_dim)
        return None, f"{architecture} has another head, which would be head=layers.Head({len(tags)}{options})"
    prefix = family.prefixes[-1]
    variables_ = variables(found, prefix, None, head)
    return _write.Head(architecture, prefix, variables_, {**entries, **_write.label_entries(tags)}), None


def form(pooling, head, hidden_dim):
    """Returns the `HeadFormat` of a pooling and a head, without tensor names; `None` if they have no such form."""
    is_late = isinstance(pooling, layers.DensePooling)
    modes = pooling.pooling.modes if is_late else pooling
    if not isinstance(head, layers.Head) or not isinstance(modes, tuple) or len(modes) != 1:
        return None
    if is_late and (head.hidden_dims or pooling.units != hidden_dim):
        return None
    if head.hidden_dims not in ((), (hidden_dim,)):
        return None
    hidden = pooling.dense if is_late else head.denses[0]
    has_hidden = is_late or bool(head.hidden_dims)
    return _heads.HeadFormat(
        hidden="" if has_hidden else None,
        pooling=modes[0],
        is_late=is_late,
        activation=keras.activations.serialize(hidden.activation) if has_hidden else "tanh",
        dropout=head.dropout,
        hidden_dropout=head.hidden_dropout,
        use_bias=head.use_bias,
        hidden_use_bias=hidden.use_bias if has_hidden else True,
        norm_epsilon=head.norm_epsilon,
    )


def _agree(own, found):
    """Returns whether a head computes the same as the family's."""
    if (own.hidden is None) != (found.hidden is None):
        return False
    names = [name for name in _FORM if own.hidden is not None or name in ("pooling", "use_bias")]
    return all(getattr(own, name) == getattr(found, name) for name in names)


def _expected(architecture, found, num_outputs, hidden_dim):
    """Returns why a head cannot be written, and which head could be."""
    pooling = repr(found.pooling)
    if found.is_late:
        pooling = f"layers.DensePooling({hidden_dim}, {found.activation!r}, {found.pooling!r})"
    head = f"layers.Head({num_outputs}{_options(found, hidden_dim)})"
    return f"{architecture} has another head, which would be pooling={pooling}, head={head}"


def _options(found, hidden_dim):
    """Returns the arguments of a `layers.Head` after the number of outputs, as Python code."""
    options: dict[str, Any] = {} if found.use_bias else {"use_bias": False}
    if found.hidden is not None and not found.is_late:
        options |= {
            "hidden_dims": (hidden_dim,),
            "activation": found.activation,
            "hidden_dropout": found.hidden_dropout,
        }
        options |= {} if found.hidden_use_bias else {"hidden_use_bias": False}
        options |= {} if found.norm_epsilon is None else {"norm_epsilon": found.norm_epsilon}
    return "".join(f", {name}={value!r}" for name, value in options.items())


def _ends_with_padding_token(preprocessor):
    """Returns whether the reference would take a different token as the last one."""
    if preprocessor is None:
        return False
    packed = {name: np.asarray(value) for name, value in preprocessor(["a"]).items()}
    return packed["token_ids"][packed["padding_mask"] == 1][-1] == preprocessor.tokenizer.pad_token_id


def variables(found, prefix, pooling, head):
    """Returns the weights of a head by the names of transformers' tensors.

    Args:
        found: `HeadFormat` of the family.
        prefix: string. The prefix of the encoder's tensors.
        pooling: tuple of modes, or `layers.DensePooling`.
        head: `layers.Head`.

    Returns:
        A dict of name to (variable, whether the tensor is its transpose).
    """
    parts = [(found.output, head.denses[-1])]
    if found.hidden is not None:
        parts.append((found.hidden.format(prefix), pooling.dense if found.is_late else head.denses[0]))
    named = {}
    for name, dense in parts:
        named[f"{name}.weight"] = (dense.kernel, True)
        if dense.use_bias:
            named[f"{name}.bias"] = (dense.bias, False)
    if found.norm is not None:
        named[f"{found.norm}.weight"] = (head.norms[0].gamma, False)
    return named


def modules(pooling, head):
    """Returns the layers after the pooling as modules of an `EmbeddingSpec`, or `None` if they have no such form."""
    if not isinstance(head, layers.Head) or not isinstance(pooling, tuple):
        return None
    found = []
    for i, dense in enumerate(head.denses):
        is_last = i == len(head.denses) - 1
        rate = head.dropout if is_last else head.hidden_dropout
        if rate:
            found.append({"class": "Dropout", "rate": rate})
        found.append(
            {
                "class": "Dense",
                "units": dense.units,
                "activation": None if is_last else keras.activations.serialize(dense.activation),
                "use_bias": dense.use_bias,
                "use_residual": False,
                "kernel": keras.ops.convert_to_numpy(dense.kernel),
                "bias": keras.ops.convert_to_numpy(dense.bias) if dense.use_bias else None,
            }
        )
        if i < len(head.norms):
            gamma = keras.ops.convert_to_numpy(head.norms[i].gamma)
            found.append(
                {"class": "LayerNorm", "epsilon": head.norm_epsilon, "gamma": gamma, "beta": np.zeros_like(gamma)}
            )
    return found
