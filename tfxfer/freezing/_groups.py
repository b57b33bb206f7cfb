"""Freezing and unfreezing by layer group."""

from collections.abc import Sequence
from typing import Any

from tfxfer import _check


def freeze(
    model: Any, *, below: int | None = None, groups: str | Sequence[str] | None = None, dropout: bool | None = None
) -> None:
    """Freezes layer groups: their weights no longer train, and they run without dropout.

    The groups have the same names for every family of encoders, from the input upwards (`model.layer_groups()`):

    | group | contents |
    |---|---|
    | `"embeddings"` | token, position and segment tables, their layer norm; DeBERTa's relative positions |
    | `"block_0"`, `"block_1"`, ... | one transformer block each; ALBERT's shared blocks are one group |
    | `"head"` | everything trained above the encoder: a classifier's head, dense layers after the pooling, a decoder |

    There is no group for a pooler, because the encoders here have none. (BERT's dense layer on the first token was
    trained for another task and is left out.)

    Other groups remain unchanged. `compile`, `.keras` files and `save_to_preset` keep the flags, and a model created on
    the same backbone has them. An optimizer that has already made a step continues with the remaining variables
    (see `optimizers.allow_subsets`, also for moving averages).

    Args:
        model: `models.TextEmbedder`, `TextClassifier`, `TextRegressor`, `Siamese` or any other model of
            `tfxfer.models`. The embedder of a `Siamese` has the same layers and is frozen with it.
        below: int. Freezes the embeddings and the blocks `0 .. below - 1`: 0 freezes only the embeddings, the number of
            blocks the whole encoder.
        groups: a name, an `fnmatch` pattern (`"block_[0-3]"`, `"block_*"`), or several. Either this or `below`.
        dropout: bool. Whether this model's frozen layers keep their dropout, as in Keras. `None` keeps the model's
            setting, `model.frozen_dropout`, which is `False` by default: a frozen layer is a fixed function, noise in
            it only blurs the input of the layers above, and without dropout its output can be cached
            (`freezing.AboveFrozen`).

    Raises:
        ValueError: for a group that the model does not have, if `below` is out of range, or if not exactly one of
            `below` and `groups` is given.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    tx.freezing.freeze(model, below=4)  # blocks 4 and 5 and the head train
    tx.freezing.freeze(model, groups=["embeddings", "block_*"])  # only the head trains
    model.compile(tx.optimizers.AdamW(1e-4))
    ```

    Reference: Lee et al., 2019, What would Elsa do? Freezing layers during transformer fine-tuning,
    https://arxiv.org/abs/1911.03090.
    """
    if (below is None) == (groups is None):
        raise _check.invalid("groups", "either `below` or `groups`", {"below": below, "groups": groups})
    if dropout is not None and not isinstance(dropout, bool):
        raise _check.invalid("dropout", "True, False or None", dropout)
    names = _named(model, below, groups)
    if dropout is not None:
        model.frozen_dropout = dropout
    model.set_trainable(dict.fromkeys(names, False))


def unfreeze(model: Any, *, below: int | None = None, groups: str | Sequence[str] | None = None) -> None:
    """Unfreezes layer groups: all of them, those up to a block, or those named.

    If the model's optimizer has already made a step, this takes effect at the next `compile`, otherwise immediately. To
    unfreeze within one `fit`, use `callbacks.GradualUnfreezing`. In a model with adapters (`add_lora`), this unfreezes
    the adapters and the head.

    Args:
        model: as in `freeze`.
        below: int. Unfreezes the embeddings and the blocks `0 .. below - 1`.
        groups: a name, an `fnmatch` pattern, or several. Without `groups` and `below`, all groups.

    Raises:
        ValueError: for a group that the model does not have, if `below` is out of range, if both `below` and `groups`
            are given, or for groups without adapters in a model with adapters.

    Example:

    ```python
    tx.freezing.unfreeze(model, groups=["block_5", "head"])
    ```
    """
    if below is not None and groups is not None:
        raise _check.invalid("groups", "either `below` or `groups`", {"below": below, "groups": groups})
    if below is None and groups is None:
        check_model(model).set_trainable(True)
    else:
        model.set_trainable(dict.fromkeys(_named(model, below, groups), True))


def check_model(model):
    """Returns `model` if it has layer groups; raises otherwise."""
    if not hasattr(model, "layer_groups") or not hasattr(model, "set_trainable"):
        raise _check.invalid("model", "a model of `tfxfer.models`", model)
    return model


def _named(model, below, groups):
    names = list(check_model(model).layer_groups())
    if groups is not None:
        return _check.some_of("groups", groups, names)
    blocks = [name for name in names if name.startswith("block_")]
    if _check.integer("below", below, minimum=0) > len(blocks):
        raise _check.invalid("below", f"an int <= {len(blocks)}, the model's groups of blocks", below)
    return ["embeddings", *blocks[:below]]
