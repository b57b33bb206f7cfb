"""Scores over a whole data set, as plain dicts of floats.

A function that takes a model computes the vectors or predictions once and passes them to its counterpart whose name
ends in `_scores`, which takes arrays. Call that one directly if you already have the vectors.

A model only needs an `encode` method. This scores the first 64 components of a Matryoshka model:

```python
small = types.SimpleNamespace(encode=functools.partial(embedder.encode, truncate_dim=64))
tx.evaluation.similarity(small, test)
```
"""

from tfxfer._neighbours import SIMILARITIES
from tfxfer.evaluation._alike import (
    embedding_mse,
    embedding_mse_scores,
    paraphrase_mining,
    paraphrase_mining_scores,
    translation,
    translation_scores,
)
from tfxfer.evaluation._beir import beir, nano_beir, search_run
from tfxfer.evaluation._calibration import calibration_scores
from tfxfer.evaluation._classification import classification, classification_scores
from tfxfer.evaluation._compare import compare, compare_scores
from tfxfer.evaluation._curves import coverage_curve, precision_recall_curve
from tfxfer.evaluation._drift import drift, reference
from tfxfer.evaluation._entities import entity_calibration, entity_errors, entity_scores
from tfxfer.evaluation._pairs import (
    pair_classification,
    pair_classification_scores,
    similarity,
    similarity_scores,
)
from tfxfer.evaluation._report import report, report_scores
from tfxfer.evaluation._report_entities import report_entities
from tfxfer.evaluation._reranking import reranking, reranking_scores
from tfxfer.evaluation._retrieval import retrieval, retrieval_scores
from tfxfer.evaluation._runs import RULES, run_scores
from tfxfer.evaluation._suspects import suspect_labels
from tfxfer.evaluation._tagging import entities
from tfxfer.evaluation._tensorboard import projector
from tfxfer.evaluation._triplets import triplet_scores, triplets

__all__ = [
    "RULES",
    "SIMILARITIES",
    "beir",
    "calibration_scores",
    "classification",
    "classification_scores",
    "compare",
    "compare_scores",
    "coverage_curve",
    "drift",
    "embedding_mse",
    "embedding_mse_scores",
    "entities",
    "entity_calibration",
    "entity_errors",
    "entity_scores",
    "nano_beir",
    "pair_classification",
    "pair_classification_scores",
    "paraphrase_mining",
    "paraphrase_mining_scores",
    "precision_recall_curve",
    "projector",
    "reference",
    "report",
    "report_entities",
    "report_scores",
    "reranking",
    "reranking_scores",
    "retrieval",
    "retrieval_scores",
    "run_scores",
    "search_run",
    "similarity",
    "similarity_scores",
    "suspect_labels",
    "translation",
    "translation_scores",
    "triplet_scores",
    "triplets",
]
