"""Metrics that Keras's own lack."""

from tfxfer.metrics._accuracy import ClassAccuracy, TagAccuracy

__all__ = ["ClassAccuracy", "TagAccuracy"]
