"""Embeddings of the texts of rows by another model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check
from tfxfer.data._datasets import text_names, with_texts
from tfxfer.data._rows import Faults, Rows
from tfxfer.data._targets import read_targets


def embeddings(rows: Any, texts: str | Sequence[str], embedder: Any, **kwargs: Any) -> np.ndarray:
    """Encodes the text columns of rows with a model, for losses that learn from its embeddings.

    A guide (GIST) or a teacher (distillation) runs once, before training, instead of in every step. Each distinct text
    is encoded only once.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        texts: name of a text column, or a tuple of names.
        embedder: an object with a method `encode(list of strings)` -> `(texts, dim)`: `models.TextEmbedder`, or a model
            of another package.
        **kwargs: further arguments of `embedder.encode`, e.g. `batch_size=64`.

    Returns:
        Float32 numpy array `(rows, columns, dim)`, for the `targets` of `pairs` and `triplets`.

    Raises:
        ValueError: if a text is missing or not a string, the embedder has no `encode`, or its embeddings have another
            shape or are not finite.

    Example:

    >>> class Lengths:
    ...     def encode(self, texts):
    ...         return [[len(text), 1.0] for text in texts]
    >>> rows = {"a": ["one", "three"], "b": ["one", "two"]}
    >>> embeddings(rows, ("a", "b"), Lengths()).tolist()
    [[[3.0, 1.0], [3.0, 1.0]], [[5.0, 1.0], [3.0, 1.0]]]

    ```python
    guide = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    train = tx.data.pairs(rows, ("question", "answer"), targets=tx.data.embeddings(rows, ("question", "answer"), guide))
    ```

    Reference: Solatorio, 2024, GISTEmbed, https://arxiv.org/abs/2402.16829.
    """
    rows, names = Rows.from_any(rows), text_names("texts", texts)
    if not callable(getattr(embedder, "encode", None)):
        raise _check.invalid("embedder", "a model with a method `encode`, such as `models.TextEmbedder`", embedder)
    with_texts(rows, names, dict.fromkeys(range(len(rows))), Faults("raise"))
    numbers = {}
    order = np.array([[numbers.setdefault(text, len(numbers)) for text in rows[name]] for name in names])
    found = np.asarray(embedder.encode(list(numbers), **kwargs))
    if found.ndim != 2 or len(found) != len(numbers):
        expected = f"a model that encodes {len(numbers)} texts to an array ({len(numbers)}, dim)"
        raise _check.invalid("embedder", expected, f"an array of shape {found.shape}")
    return read_targets(rows, found[order.T], len(names), argument="embedder")
