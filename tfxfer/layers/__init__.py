"""Layers between an encoder and a loss: pooling, unit length, heads, Siamese towers, conditional random fields."""

from tfxfer.layers._connections import CONNECTIONS, READS, BlockPooling, DenselyConnectedHead
from tfxfer.layers._convolutions import SeparableConvHead
from tfxfer.layers._crf import CRF, ForbiddenStep
from tfxfer.layers._heads import COMPARISONS, FEATURES, Comparison, Head, SoftmaxDecoder
from tfxfer.layers._pooling import POOLING, DensePooling, Pooling, UnitNorm, WeightedLayerPooling, pooling_modes
from tfxfer.layers._towers import SiameseTowers
from tfxfer.layers._word_pooling import WORD_POOLING, WordPooling

__all__ = [
    "COMPARISONS",
    "CONNECTIONS",
    "CRF",
    "FEATURES",
    "POOLING",
    "READS",
    "WORD_POOLING",
    "BlockPooling",
    "Comparison",
    "DensePooling",
    "DenselyConnectedHead",
    "ForbiddenStep",
    "Head",
    "Pooling",
    "SeparableConvHead",
    "SiameseTowers",
    "SoftmaxDecoder",
    "UnitNorm",
    "WeightedLayerPooling",
    "WordPooling",
    "pooling_modes",
]
