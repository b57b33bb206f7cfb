"""Learning rates over the course of a training: what Keras's own schedules lack.

Each is a `keras.optimizers.schedules.LearningRateSchedule`, which any Keras optimizer takes as its `learning_rate` and
which is saved with it; so is what one makes by putting `Warmup` and `Restarts` around Keras's own.
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
