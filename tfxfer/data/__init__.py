"""Readers of rows, datasets of texts and targets, and batches of token ids padded to their own longest."""

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
