"""What a task's head reads from an encoder: a vector per text, or token states, of one block or several."""

from typing import Any

import keras

from tfxfer import _check, layers
from tfxfer.layers._connections import block_numbers

_BY_BLOCKS = ("pooled_blocks", "blocks")


def of(head: Any) -> str:
    """Returns what a head reads: its attribute `reads`, one of `layers.READS`; `"pooled"` if it has none."""
    reads = getattr(head, "reads", "pooled")
    return _check.one_of("head", reads, layers.READS, "Set it with the attribute `reads` of the layer.")


def layers_of(head: Any, backbone: Any) -> tuple[int, ...] | None:
    """Returns the layers whose states a head reads, numbered as in `hidden_states`; `None` for the encoder's output.

    Args:
        head: the `head` argument of the task.
        backbone: the encoder.

    Raises:
        ValueError: if the encoder does not have a block.
    """
    if of(head) not in _BY_BLOCKS:
        return None
    count = backbone.num_layers
    blocks = block_numbers("blocks", getattr(head, "blocks", "all"))
    blocks = range(count) if blocks == "all" else blocks
    if not count or blocks[-1] >= count:
        expected = f"block numbers below {count}, the encoder's number of blocks" if count else "an encoder with blocks"
        raise _check.invalid("blocks", expected, list(blocks) or "all")
    return tuple(number + 1 for number in blocks)


def pooling_layer(pooling: Any, reads: str) -> Any:
    """Returns the layer between encoder and head, named "pooling"; `None` for a head that reads token states.

    Args:
        pooling: modes of `layers.POOLING`, or a Keras layer.
        reads: what the head reads.

    Raises:
        ValueError: if the head does not read this pooling.
    """
    if reads in ("sequence", "blocks"):
        if pooling not in (None, "mean"):
            remedy = "The head reads token states and pools them itself."
            raise _check.invalid("pooling", "None, the default", pooling, remedy)
        return None
    if pooling is None:
        raise _check.invalid("pooling", "a mode, several, or a Keras layer", None)
    if reads == "pooled_blocks":
        inner = pooling if isinstance(pooling, keras.layers.Layer) else layers.Pooling(pooling)
        return layers.BlockPooling(inner, name="pooling")
    if not isinstance(pooling, keras.layers.Layer):
        return layers.Pooling(pooling, name="pooling")
    if pooling.name != "pooling":
        return type(pooling).from_config({**pooling.get_config(), "name": "pooling"})
    return pooling


def states(backbone: Any, numbers: tuple[int, ...] | None) -> Any:
    """Returns the encoder's output as a Keras tensor or, for several layers, a list of their states."""
    if numbers is None:
        return backbone(backbone.input)
    made = backbone.hidden_states(numbers)(backbone.input)
    return list(made) if isinstance(made, (list, tuple)) else [made]
