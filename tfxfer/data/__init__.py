"""Readers of rows, datasets of texts and targets, and batches of token ids.

Which function fits the rows?

| rows | dataset | batches |
|---|---|---|
| text and label | `labelled` | `batches(...)`; for losses that mine, `batches(..., examples_per_class=4)` |
| text and number | `regression` | `batches(...)` |
| two texts and a score | `pairs(..., target="score")` | `batches(..., columns="separate")` |
| two or more texts and a label | `labelled` with a tuple of names | the same, or `columns="joint"` for a pair |
| texts that belong together | `pairs`, `triplets` | `batches(..., columns="separate", unique_texts=True)` |
| few texts with labels | `pairs_from_labels`, `triplets_from_labels` | `batches(..., columns="separate")` |
| rows with what another model says of them | `pairs`, `triplets` with `targets=embeddings(...)` | the same |
| several of these at once | | `mix([batches, ...])` |
"""

from tfxfer.data._batches import Batches, batches
from tfxfer.data._datasets import Texts, labelled, pairs, regression, triplets
from tfxfer.data._embeddings import embeddings
from tfxfer.data._from_labels import pairs_from_labels, triplets_from_labels
from tfxfer.data._inference import TextRunner, pack_columns
from tfxfer.data._labels import class_weights, labels
from tfxfer.data._mix import mix
from tfxfer.data._read import read
from tfxfer.data._rows import Rows

__all__ = [
    "Batches",
    "Rows",
    "TextRunner",
    "Texts",
    "batches",
    "class_weights",
    "embeddings",
    "labelled",
    "labels",
    "mix",
    "pack_columns",
    "pairs",
    "pairs_from_labels",
    "read",
    "regression",
    "triplets",
    "triplets_from_labels",
]
