"""Freezing and thawing by layer group."""

from collections.abc import Sequence
from typing import Any

from tfxfer import _check


def freeze(
    model: Any, *, below: int | None = None, groups: str | Sequence[str] | None = None, dropout: bool | None = None
) -> None:
    """Freezes layer groups: their weights stop moving, and they run without dropout.

    The groups have the same names for every family of encoders, from the input upwards (`model.layer_groups()`):

    | group | what is in it |
    |---|---|
    | `"embeddings"` | tables of tokens, positions and segments, their layer norm; DeBERTa's relative positions |
    | `"block_0"`, `"block_1"`, ... | one transformer block each; ALBERT's shared blocks are one group |
    | `"head"` | all that trains above the encoder: a classifier's head, dense layers behind the pooling, a decoder |

    There is no group for a pooler: the encoders here have none (the dense layer of BERT's that reads the first token
    was trained for another task, and is left out).

    Groups that are not named stay as they are. The flags are kept by `compile`, in `.keras` files, and by
    `save_to_preset`, and a model made on the same backbone has them. An optimizer that has made a step goes on with
    what is left (`optimizers.allow_subsets`, where it keeps moving averages).

    Args:
        model: `models.TextEmbedder`, `TextClassifier`, `TextRegressor`, `Siamese` or any other of `tfxfer.models`. The
            embedder of a `Siamese` is the same layers, and is frozen with it.
        below: int. Freezes the embeddings and the blocks `0 .. below - 1`; 0 means the embeddings alone, the number of
            blocks the whole encoder.
        groups: a name, a pattern as `fnmatch` has it (`"block_[0-3]"`, `"block_*"`), or several. Either this or
            `below`.
        dropout: bool. Whether frozen layers of this model keep their dropout, as they do in Keras. Off by default: a
            frozen layer is a fixed function, noise in it only blurs what the layers above learn from, and without it
            its output can be computed once (`freezing.AboveFrozen`). `None` leaves the model's setting,
            `model.frozen_dropout`.

    Raises:
        ValueError: for a group that the model does not have, `below` out of range, or not exactly one of both.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    tx.freezing.freeze(model, below=4)  # blocks 4 and 5 and the head train
    tx.freezing.freeze(model, groups=["embeddings", "block_*"])  # the head alone
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
    """Thaws layer groups: all of them, those up to a block, or those named.

    Takes effect at the next `compile` of a model whose optimizer has made a step, and before that at once. To thaw
    within one `fit` there is `callbacks.GradualUnfreezing`. In a model with adapters (`add_lora`) it is adapters that
    thaw, and the head.

    Args:
        model: as `freeze` has it.
        below: int. Thaws the embeddings and the blocks `0 .. below - 1`.
        groups: a name, a pattern, or several. Neither this nor `below` means all groups.

    Raises:
        ValueError: for a group that the model does not have, `below` out of range, both of them, or groups without
            adapters in a model with adapters.

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
    """Returns `model` where it has layer groups; raises otherwise."""
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
