"""Adding tokens: a model with a larger vocabulary and a row of the embedding table for each new token."""

import copy

import keras
import numpy as np

from tfxfer import _check, backbones


def with_added_tokens(model, tokens, special):
    """Makes a copy of a task model with new tokens; see `TextTask.with_added_tokens`."""
    old = model.preprocessor
    if old is None:
        raise _check.invalid("tokens", "a model with a preprocessor", tokens)
    if not isinstance(model.backbone, backbones.Backbone):
        raise _check.invalid("tokens", "a model on one of this package's own backbones", type(model.backbone).__name__)
    if model.backbone.quantization is not None:
        raise _check.invalid("tokens", "a model that is not quantized", tokens, "Add them before `quantize`")
    tokenizer = copy.deepcopy(old.tokenizer)
    count = tokenizer.vocabulary_size()
    tokenizer.add_tokens(tokens, special=special)
    rows = [_parts(old.tokenizer, token) for token in tokenizer.vocabulary[count:]]
    size = max(model.backbone.vocabulary_size, tokenizer.vocabulary_size())

    preprocessor = type(old)(tokenizer, **options_of(old))
    backbone = backbones.Backbone.from_config({**model.backbone.get_config(), "vocabulary_size": size})
    made = rebuilt(model, backbone, preprocessor)
    target = made.backbone.token_embedding.embeddings
    for ours, theirs in zip(made.weights, model.weights, strict=True):
        # Besides the table, a head may have weights for each token: the bias of a masked language model.
        has_tokens = ours is target or ours.shape != theirs.shape
        ours.assign(_grown(theirs, rows, count, size) if has_tokens else theirs)
    return made


def _grown(weight, rows, count, size):
    """Extends a weight with a row for each token by means of rows for the new ones.

    Args:
        weight: variable `(tokens, ...)`.
        rows: list of the previous ids of each new token.
        count: int. The id of the first new token.
        size: int. The number of rows to make.
    """
    table = keras.ops.convert_to_numpy(weight)
    mean = table.mean(axis=0, keepdims=True)
    grown = np.concatenate([table, np.repeat(mean, size - len(table), axis=0).astype(table.dtype)])
    for i, ids in enumerate(rows, count):
        grown[i] = table[ids].mean(axis=0) if len(ids) else mean[0]
    return grown


def _parts(tokenizer, token):
    """The previous ids of a token; empty if they are unknown."""
    ids = np.asarray(tokenizer([token])[0])
    return ids[ids != tokenizer.unk_token_id] if tokenizer.unk_token_id is not None else ids


def options_of(preprocessor):
    """The arguments of a preprocessor except its tokenizer."""
    config = preprocessor.get_config()
    return {name: value for name, value in config.items() if name not in ("tokenizer", "dtype", "name", "trainable")}


def rebuilt(model, backbone, preprocessor):
    """Makes the same task on another backbone, around a new embedder if the task has one."""
    config = model.get_config()
    if "embedder" in config:
        inner = {**model.embedder.get_config(), "backbone": backbone, "preprocessor": preprocessor}
        config["embedder"] = type(model.embedder).from_config(inner)
    else:
        config.update(backbone=backbone, preprocessor=preprocessor)
    return type(model).from_config(config)
