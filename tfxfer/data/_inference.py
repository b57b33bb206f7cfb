"""Texts to ids for running a model: all of a list, like lengths together, or one batch inside a pipeline."""

import numpy as np

from tfxfer.data._batches import _Packer, batches


def sorted_batches(x, preprocessor, batch_size=32, *, columns="joint", pad_to_multiple_of=1):
    """Batches texts by length, longest first, so that outputs can be put back into the texts' order.

    Args:
        x: list or array of strings, or a tuple of such columns.
        preprocessor: `preprocessing.TextPreprocessor`.
        batch_size: int. Rows in a batch.
        columns: what a tuple of columns becomes, `"joint"` or `"separate"`; see `batches`.
        pad_to_multiple_of: int from 1 to 8; see `batches`.

    Returns:
        `(dataset, order)`: the `Batches`, and the int array with `order[i]` the row that comes i-th.

    Raises:
        ValueError: as `batches` does.

    Example:

    ```python
    dataset, order = sorted_batches(["a long text about cards", "hi"], preprocessor)
    outputs[order] = keras.Model.predict(model, dataset)
    ```
    """
    dataset = batches(
        (x,),
        preprocessor,
        batch_size,
        columns=columns,
        shuffle=False,
        bucket=True,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return dataset, np.asarray(dataset.row_order())


def pack_columns(x, preprocessor):
    """Tokenises one batch of several text columns and lays them side by side, for Siamese towers.

    Args:
        x: tuple of string tensors `(batch,)`.
        preprocessor: `preprocessing.TextPreprocessor`.

    Returns:
        A dict of int32 `(batch, columns, length)`, with one length for all columns.
    """
    packer = _Packer(preprocessor, len(x), "separate", 1)
    return packer.pack(packer.tokenize(x)[0], ())
