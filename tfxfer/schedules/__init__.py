"""Learning rate schedules that Keras lacks.

Each is a `keras.optimizers.schedules.LearningRateSchedule`, which any Keras optimizer accepts as its `learning_rate`
and which is saved with it. So is any composition of `Warmup`, `Restarts` and Keras's own schedules.
"""

from tfxfer.schedules._schedules import (
    Restarts,
    SlantedTriangular,
    Warmup,
    slanted_triangular,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
)

__all__ = [
    "Restarts",
    "SlantedTriangular",
    "Warmup",
    "slanted_triangular",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
]
