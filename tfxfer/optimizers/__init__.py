"""Optimizers: a fast AdamW, one that `fit` plans, and wrappers for rates by layer group and subsets of variables."""

from tfxfer.optimizers._adamw import AdamW
from tfxfer.optimizers._auto import Auto
from tfxfer.optimizers._layerwise import Layerwise
from tfxfer.optimizers._replica import TrainsAlone
from tfxfer.optimizers._subset import Subset, allow_subsets

__all__ = ["AdamW", "Auto", "Layerwise", "Subset", "TrainsAlone", "allow_subsets"]
