"""Metrics that Keras's own lack."""

from tfxfer.metrics._accuracy import ClassAccuracy

__all__ = ["ClassAccuracy"]
