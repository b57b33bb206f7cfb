"""Optimizers: the fast AdamW, and rates by layer group and subsets of the variables around any."""

from tfxfer.optimizers._adamw import AdamW
from tfxfer.optimizers._layerwise import Layerwise
from tfxfer.optimizers._replica import TrainsAlone
from tfxfer.optimizers._subset import Subset, allow_subsets

__all__ = ["AdamW", "Layerwise", "Subset", "TrainsAlone", "allow_subsets"]
