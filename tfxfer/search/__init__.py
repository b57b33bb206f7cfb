"""Semantic and lexical search; paraphrases, clusters, hard negatives, and quantization for large corpora."""

from tfxfer.search._align import Alignment, align
from tfxfer.search._bm25 import BM25Index
from tfxfer.search._clusters import Cluster, Clusters, clusters, community_detection
from tfxfer.search._fusion import fuse
from tfxfer.search._hybrid import HybridIndex
from tfxfer.search._index import SemanticIndex
from tfxfer.search._late_index import LateInteractionIndex
from tfxfer.search._negatives import hard_negatives
from tfxfer.search._paraphrases import Paraphrases, nearest_pairs, paraphrases
from tfxfer.search._quantize import Quantized, quantize
from tfxfer.search._records import Hits
from tfxfer.search._sparse_index import SparseIndex
from tfxfer.search._teacher import teacher_scores
from tfxfer.search._terms import words
from tfxfer.search._top_k import TopK, top_k

__all__ = [
    "Alignment",
    "BM25Index",
    "Cluster",
    "Clusters",
    "Hits",
    "HybridIndex",
    "LateInteractionIndex",
    "Paraphrases",
    "Quantized",
    "SemanticIndex",
    "SparseIndex",
    "TopK",
    "align",
    "clusters",
    "community_detection",
    "fuse",
    "hard_negatives",
    "nearest_pairs",
    "paraphrases",
    "quantize",
    "teacher_scores",
    "top_k",
    "words",
]
