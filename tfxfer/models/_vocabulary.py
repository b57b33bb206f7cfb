"""New tokens: a model with a larger vocabulary and a row of its table for each."""

import copy

import keras
import numpy as np

from tfxfer import _check, backbones


def with_added_tokens(model, tokens, special):
    """Makes a copy of a task model that knows further tokens; see `TextTask.with_added_tokens`."""
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
    table = keras.ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    grown = np.concatenate([table, np.tile(table.mean(axis=0), (size - len(table), 1)).astype(table.dtype)])
    for i, ids in enumerate(rows, count):
        grown[i] = table[ids].mean(axis=0) if len(ids) else table.mean(axis=0)
    target = made.backbone.token_embedding.embeddings
    for ours, theirs in zip(made.weights, model.weights, strict=True):
        ours.assign(grown if ours is target else theirs)
    return made


def _parts(tokenizer, token):
    """The ids that a token was read as before; none where they are unknown."""
    ids = np.asarray(tokenizer([token])[0])
    return ids[ids != tokenizer.unk_token_id] if tokenizer.unk_token_id is not None else ids


def options_of(preprocessor):
    """The arguments of a preprocessor beside its tokenizer."""
    config = preprocessor.get_config()
    return {name: value for name, value in config.items() if name not in ("tokenizer", "dtype", "name", "trainable")}


def rebuilt(model, backbone, preprocessor):
    """The same task on another backbone; around an embedder where the task has one."""
    config = model.get_config()
    if "embedder" in config:
        inner = {**model.embedder.get_config(), "backbone": backbone, "preprocessor": preprocessor}
        config["embedder"] = type(model.embedder).from_config(inner)
    else:
        config.update(backbone=backbone, preprocessor=preprocessor)
    return type(model).from_config(config)
