"""SavedModels for TF Serving: strings in, answers out."""

from tfxfer.export._description import describe
from tfxfer.export._saved_model import saved_model

__all__ = ["describe", "saved_model"]
