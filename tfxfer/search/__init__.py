"""Search by meaning: nearest vectors, paraphrases, hard negatives, small codes for large corpora."""

from tfxfer.search._align import Alignment, align
from tfxfer.search._index import Hits, SemanticIndex
from tfxfer.search._late_index import LateInteractionIndex
from tfxfer.search._negatives import hard_negatives
from tfxfer.search._paraphrases import Paraphrases, nearest_pairs, paraphrases
from tfxfer.search._quantize import Quantized, quantize
from tfxfer.search._sparse_index import SparseIndex
from tfxfer.search._teacher import teacher_scores
from tfxfer.search._top_k import TopK, top_k

__all__ = [
    "Alignment",
    "Hits",
    "LateInteractionIndex",
    "Paraphrases",
    "Quantized",
    "SemanticIndex",
    "SparseIndex",
    "TopK",
    "align",
    "hard_negatives",
    "nearest_pairs",
    "paraphrases",
    "quantize",
    "teacher_scores",
    "top_k",
]
