"""Layers between an encoder and a loss: pooling, fusion, normalization, heads, towers, conditional random fields."""

from tfxfer.layers._connections import CONNECTIONS, READS, BlockPooling, DenselyConnectedHead
from tfxfer.layers._convolutions import SeparableConvHead
from tfxfer.layers._crf import CRF, ForbiddenStep
from tfxfer.layers._fusion import FUSIONS, Fusion, OneHot, ScaledNumbers
from tfxfer.layers._heads import COMPARISONS, FEATURES, Comparison, Head, SoftmaxDecoder
from tfxfer.layers._pooling import POOLING, DensePooling, Pooling, UnitNorm, WeightedLayerPooling, pooling_modes
from tfxfer.layers._sparse import FLOPSRegularization
from tfxfer.layers._towers import SiameseTowers
from tfxfer.layers._word_pooling import WORD_POOLING, WordPooling

__all__ = [
    "COMPARISONS",
    "CONNECTIONS",
    "CRF",
    "FEATURES",
    "FUSIONS",
    "POOLING",
    "READS",
    "WORD_POOLING",
    "BlockPooling",
    "Comparison",
    "DensePooling",
    "DenselyConnectedHead",
    "FLOPSRegularization",
    "ForbiddenStep",
    "Fusion",
    "Head",
    "OneHot",
    "Pooling",
    "ScaledNumbers",
    "SeparableConvHead",
    "SiameseTowers",
    "SoftmaxDecoder",
    "UnitNorm",
    "WeightedLayerPooling",
    "WordPooling",
    "pooling_modes",
]
