"""Decisions from a classifier's outputs: calibrated probabilities, thresholds, rejected rows, sets of labels.

Each part is fitted on rows that the model was not trained on. It consists of a few arrays and functions in
`keras.ops`, so the same code runs in Python and in an export. Models own the parts: see `calibrate` and
`fit_decisions` of a classifier.
"""

from tfxfer.decisions._conformal import ConformalSets, conformal_scores
from tfxfer.decisions._decisions import Decisions
from tfxfer.decisions._rejection import Rejection
from tfxfer.decisions._scaling import Scaling
from tfxfer.decisions._thresholds import Thresholds

__all__ = ["ConformalSets", "Decisions", "Rejection", "Scaling", "Thresholds", "conformal_scores"]
