"""Summarizes which layer groups train, and at which learning rate."""

import collections
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfxfer.freezing._groups import check_model

GroupSummary = collections.namedtuple("GroupSummary", ["group", "parameters", "trainable", "learning_rate"])
GroupSummary.__doc__ = (
    "A row of `freezing.summary`: name, number of weights, number of trainable weights, and their learning rate "
    "(`None` if none trains or there is no optimizer)."
)


def summary(model: Any, print_fn: Callable[[str], Any] = print) -> list[GroupSummary]:
    """Prints the trainable weights and the learning rate of each layer group.

    | column | value |
    |---|---|
    | `group` | name of the layer group, from the input upwards |
    | `parameters` | number of weights, including adapters |
    | `trainable` | number of weights that train |
    | `learning_rate` | the optimizer's current learning rate (a schedule's value at the current step), times the group's multiplier if the optimizer is an `optimizers.Layerwise` |

    Args:
        model: any model of `tfxfer.models`.
        print_fn: function that takes the table as a string; `None` prints nothing.

    Returns:
        A list of `GroupSummary`, one per group.

    Raises:
        ValueError: for a model without layer groups.

    Example:

    ```python
    tx.freezing.freeze(model, below=4)
    tx.freezing.summary(model)
    ```

    ```text
    group       parameters  trainable  learning rate
    embeddings  11,918,592          0              -
    block_0      1,774,464          0              -
    ...
    block_5      1,774,464  1,774,464          2e-05
    head             1,155      1,155         0.0002
    total       22,566,531  3,550,083
    ```
    """  # noqa: E501  (a table's row)
    groups = check_model(model).layer_groups()
    rates = _rates(getattr(model, "optimizer", None), groups)
    rows = []
    for name, layers in groups.items():
        trainable = _count(weight for layer in layers for weight in layer.weights if weight.trainable)
        rows.append(
            GroupSummary(
                name,
                _count(weight for layer in layers for weight in layer.weights),
                trainable,
                rates[name] if trainable else None,
            )
        )
    if print_fn is not None:
        print_fn(_table(rows))
    return rows


def _count(weights):
    # A weight shared by two layers of a group counts once.
    return sum(int(np.prod(weight.shape)) for weight in {id(weight): weight for weight in weights}.values())


def _rates(optimizer, groups):
    if optimizer is None:
        return dict.fromkeys(groups)
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    multipliers = {}
    while optimizer is not None:  # through wrappers, such as the one that scales the loss
        multipliers = getattr(optimizer, "group_multipliers", multipliers)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return {name: rate * multipliers.get(name, 1.0) for name in groups}


def _table(rows):
    lines = [("group", "parameters", "trainable", "learning rate")]
    for row in rows:
        rate = "-" if row.learning_rate is None else f"{row.learning_rate:.3g}"
        lines.append((row.group, f"{row.parameters:,}", f"{row.trainable:,}", rate))
    lines.append(("total", f"{sum(row.parameters for row in rows):,}", f"{sum(row.trainable for row in rows):,}", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        ).rstrip()
        for name, *cells in lines
    )
