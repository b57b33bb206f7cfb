"""Callbacks for `fit`: scores of an evaluation as values that `EarlyStopping` and `ModelCheckpoint` follow."""

from tfxfer.callbacks._base import Evaluate
from tfxfer.callbacks._evaluate import (
    EvaluateClassification,
    EvaluatePairClassification,
    EvaluateReranking,
    EvaluateRetrieval,
    EvaluateSimilarity,
    EvaluateTriplets,
)

__all__ = [
    "Evaluate",
    "EvaluateClassification",
    "EvaluatePairClassification",
    "EvaluateReranking",
    "EvaluateRetrieval",
    "EvaluateSimilarity",
    "EvaluateTriplets",
]
