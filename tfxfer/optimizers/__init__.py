"""Optimizers: the fast AdamW, and rates by layer group around any optimizer."""

from tfxfer.optimizers._adamw import AdamW
from tfxfer.optimizers._layerwise import Layerwise
from tfxfer.optimizers._subset import allow_subsets

__all__ = ["AdamW", "Layerwise", "allow_subsets"]
