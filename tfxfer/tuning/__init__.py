"""Hypermodels for Keras Tuner."""
