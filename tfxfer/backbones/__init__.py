"""Pretrained encoders of many families with one interface.

`load` turns a preset into a `Pretrained`: the `Backbone`, the preprocessor, an `EmbeddingSpec`, and a `HeadSpec` if the
checkpoint includes a trained classifier. `presets` lists what can be loaded.
"""

from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones._discovery import PRESETS, Preset, families_table, presets
from tfxfer.backbones._embedding import EmbeddingSpec
from tfxfer.backbones._heads import HeadSpec
from tfxfer.backbones._hub_backbone import KerasHubBackbone
from tfxfer.backbones._keras_hub import adopt
from tfxfer.backbones._presets import Pretrained, load

__all__ = [
    "PRESETS",
    "Backbone",
    "EmbeddingSpec",
    "HeadSpec",
    "KerasHubBackbone",
    "Preset",
    "Pretrained",
    "adopt",
    "families_table",
    "load",
    "presets",
]
