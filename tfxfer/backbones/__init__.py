"""Pretrained encoders of eight families in one form, with all that belongs to them.

`load` resolves a preset to a `Pretrained`: the `Backbone`, the preprocessor, and an `EmbeddingSpec`.
"""

from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones._presets import PRESETS, Pretrained, load
from tfxfer.backbones._sentence_transformers import EmbeddingSpec

__all__ = ["PRESETS", "Backbone", "EmbeddingSpec", "Pretrained", "load"]
