"""Metrics that Keras lacks."""

from tfxfer.metrics._accuracy import ClassAccuracy, TagAccuracy
from tfxfer.metrics._perplexity import Perplexity

__all__ = ["ClassAccuracy", "Perplexity", "TagAccuracy"]
