"""Targets from another model: its scores or embeddings of the rows."""

import numpy as np

from tfxfer import _check


def read_targets(rows, targets, columns, argument="targets"):
    """Checks precomputed targets of `Rows` with `columns` text columns: returns float32 `(rows, ...)`."""
    expected = "a float array (rows,), (rows, n) or (rows, columns, dim)"
    try:
        values = np.asarray(targets)
        values = values if values.dtype == np.float32 else values.astype("float32")
    except (TypeError, ValueError) as error:
        raise _check.invalid(argument, expected, targets) from error
    if not 1 <= values.ndim <= 3 or 0 in values.shape:
        raise _check.invalid(argument, expected, f"an array of shape {values.shape}")
    if len(values) != len(rows):
        remedy = f"There are {len(rows)} rows; each needs its own, including those that `on_error='skip'` skips."
        raise _check.invalid(argument, expected, f"an array of shape {values.shape}", remedy)
    if values.ndim == 3 and values.shape[1] != columns:
        remedy = f"There are {columns} text columns; each needs an embedding, in their order."
        raise _check.invalid(argument, expected, f"an array of shape {values.shape}", remedy)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        raise _check.invalid(argument, "finite numbers", values[i].tolist(), f"They belong to {rows.place(i)}.")
    return values
