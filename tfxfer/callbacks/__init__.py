"""Callbacks for `fit`: scores of an evaluation as values that `EarlyStopping` and `ModelCheckpoint` follow."""

from tfxfer._introduction import introduce
from tfxfer.callbacks._base import Evaluate
from tfxfer.callbacks._evaluate import (
    EvaluateClassification,
    EvaluateEntities,
    EvaluatePairClassification,
    EvaluateReranking,
    EvaluateRetrieval,
    EvaluateSimilarity,
    EvaluateTriplets,
)
from tfxfer.callbacks._evaluate_texts import (
    EvaluateEmbeddingMSE,
    EvaluateNanoBEIR,
    EvaluateParaphraseMining,
    EvaluateTranslation,
)
from tfxfer.callbacks._projector import Projector
from tfxfer.callbacks._rate_range import LearningRateRange
from tfxfer.callbacks._resume import Resume
from tfxfer.callbacks._unfreezing import GradualUnfreezing
from tfxfer.callbacks._warmup import WarmupCosine

__all__ = [
    "Evaluate",
    "EvaluateClassification",
    "EvaluateEmbeddingMSE",
    "EvaluateEntities",
    "EvaluateNanoBEIR",
    "EvaluatePairClassification",
    "EvaluateParaphraseMining",
    "EvaluateReranking",
    "EvaluateRetrieval",
    "EvaluateSimilarity",
    "EvaluateTranslation",
    "EvaluateTriplets",
    "GradualUnfreezing",
    "LearningRateRange",
    "Projector",
    "Resume",
    "WarmupCosine",
    "introduce",
]
