"""Learning rate schedules."""

from typing import Any, Self

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from tfxfer import _check

_STEPS = "Count the batches of all epochs: `len(batches) * epochs`."


class _Around(LearningRateSchedule):
    """Wraps a schedule, or a constant rate."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        if not isinstance(schedule, LearningRateSchedule):
            expected = "a number > 0, or a `keras.optimizers.schedules.LearningRateSchedule`"
            try:
                schedule = _check.number("schedule", schedule, above=0.0)
            except ValueError:
                raise _check.invalid("schedule", expected, schedule) from None
        self.schedule = schedule

    def _rate(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return ops.convert_to_tensor(rate, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        return {"schedule": keras.saving.serialize_keras_object(schedule) if callable(schedule) else schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        if isinstance(config["schedule"], dict):
            config = {**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])}
        return cls(**config)


@keras.saving.register_keras_serializable("tfxfer")
class Warmup(_Around):
    """Adds a linear warmup from zero to any schedule, or to a constant rate.

        rate(t) = min(t / warmup_steps, 1) * schedule(max(t - warmup_steps, 0))

    The wrapped schedule starts, at its own step 0, when the warmup ends. Adam's first steps use estimates from only a
    few gradients, which is why fine-tuning without warmup can fail entirely (Mosbach et al., 2021).

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`, or float > 0 for a constant rate.
        warmup_steps: int >= 0. With 0 the schedule is unchanged.

    Raises:
        ValueError: if the rate is not positive, or the number of steps is negative.

    Example:

    >>> schedule = tx.schedules.Warmup(keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5), 4)
    >>> [round(float(schedule(step)), 3) for step in (0, 1, 4, 14)]
    [0.0, 0.25, 1.0, 0.5]

    Reference: [Mosbach et al., 2021](https://arxiv.org/abs/2006.04884).
    """

    def __init__(self, schedule: Any, warmup_steps: int) -> None:
        super().__init__(schedule)
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps, minimum=0)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        rate = self._rate(ops.maximum(step - self.warmup_steps, 0.0))
        return ops.minimum(step / self.warmup_steps, 1.0) * rate if self.warmup_steps else rate

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("tfxfer")
class Restarts(_Around):
    """Restarts any schedule every `period` steps.

        rate(t) = factor ** n * schedule(t - n * period)        n = min(floor(t / period), cycles - 1)

    After the last cycle the schedule continues from its current step: a finished decay stays at its end. For periods
    that grow from cycle to cycle, Keras has `CosineDecayRestarts`.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        period: float > 0. The steps of a cycle, not necessarily a whole number.
        cycles: int >= 1. The number of runs of the schedule, including the first.
        factor: float > 0. The ratio of each cycle's rates to those of the previous cycle. Defaults to 1.

    Raises:
        ValueError: if the period or the factor is not positive, or there is less than one cycle.

    Example:

    >>> schedule = tx.schedules.Restarts(keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0), 10, cycles=2)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 15, 20, 25)]
    [1.0, 0.5, 1.0, 0.5, 0.0, 0.0]

    Reference: [Loshchilov & Hutter, 2017](https://arxiv.org/abs/1608.03983).
    """

    def __init__(self, schedule: Any, period: float, cycles: int, factor: float = 1.0) -> None:
        super().__init__(_check.instance("schedule", schedule, LearningRateSchedule, "a `LearningRateSchedule`"))
        self.period = _check.number("period", period, above=0.0)
        self.cycles = _check.integer("cycles", cycles)
        self.factor = _check.number("factor", factor, above=0.0)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        cycle = ops.minimum(ops.floor(step / self.period), float(self.cycles - 1))
        return ops.power(self.factor, cycle) * self._rate(step - cycle * self.period)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "period": self.period, "cycles": self.cycles, "factor": self.factor}


@keras.saving.register_keras_serializable("tfxfer")
class SlantedTriangular(LearningRateSchedule):
    """Rises linearly for a few steps and falls linearly for the rest: ULMFiT's schedule.

        cut = floor(steps * cut_fraction)
        p(t) = t / cut                                              for t < cut
               1 - (t - cut) / (cut * (1 / cut_fraction - 1))       otherwise, not below 0
        rate(t) = learning_rate * (1 + p(t) * (ratio - 1)) / ratio

    It starts and ends at `learning_rate / ratio` and peaks at `cut`.

    Args:
        learning_rate: float > 0. The peak.
        steps: int >= 1. Batches in all epochs together.
        cut_fraction: float in `(0, 1)`. The fraction of the steps with a rising rate. Defaults to 0.1, as in the paper.
        ratio: float >= 1. The ratio of the peak to the lowest rate. Defaults to 32, as in the paper.

    Raises:
        ValueError: if an argument is out of range, or `cut` would be 0.

    Example:

    >>> schedule = tx.schedules.SlantedTriangular(0.01, steps=100)
    >>> [round(float(schedule(step)), 5) for step in (0, 5, 10, 55, 100)]
    [0.00031, 0.00516, 0.01, 0.00516, 0.00031]

    Reference: [Howard & Ruder, 2018](https://arxiv.org/abs/1801.06146).
    """

    def __init__(self, learning_rate: float, steps: int, cut_fraction: float = 0.1, ratio: float = 32.0) -> None:
        super().__init__()
        self.learning_rate = _check.number("learning_rate", learning_rate, above=0.0)
        self.steps = _check_steps(steps)
        self.cut_fraction = _check.number("cut_fraction", cut_fraction, above=0.0)
        self.ratio = _check.number("ratio", ratio, minimum=1.0)
        # Products that are whole numbers up to rounding errors stay whole.
        self._cut = int(self.steps * self.cut_fraction + 1e-9)
        if self.cut_fraction >= 1 or self._cut < 1:
            expected = "a number in (0, 1) that makes at least one rising step"
            raise _check.invalid("cut_fraction", expected, cut_fraction)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        fall = self._cut * (1.0 / self.cut_fraction - 1.0)
        part = ops.maximum(ops.minimum(step / self._cut, 1.0 - (step - self._cut) / fall), 0.0)
        return self.learning_rate * (1.0 + part * (self.ratio - 1.0)) / self.ratio

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "cut_fraction": self.cut_fraction,
            "ratio": self.ratio,
        }


def warmup_cosine(
    learning_rate: float, steps: int, warmup: float = 0.1, *, minimum: float = 0.0, cycles: int = 1
) -> Any:
    """Makes a schedule that rises linearly from 0 and falls along half a cosine.

        rate(t) = learning_rate * t / w                                             for t < w
                  minimum + (learning_rate - minimum) * (1 + cos(pi * u)) / 2       otherwise

    with w warmup steps and u = (t - w) / (steps - w), at most 1. With `cycles`, the decay happens that many times, each
    over the same number of steps; the warmup happens once.

    Args:
        learning_rate: float > 0. The peak.
        steps: int >= 1. Batches in all epochs together: `len(batches) * epochs`.
        warmup: int, or float in `[0, 1)`: the warmup steps, or their fraction of `steps`. Defaults to 0.1.
        minimum: float from 0 to `learning_rate`. The final rate. Defaults to 0.
        cycles: int >= 1. The number of decays: 2 means one restart. Defaults to 1.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if `learning_rate` is not positive, `minimum` is negative or above `learning_rate`, there is less
            than one step, or the warmup leaves too few steps for the decay.

    Example:

    >>> schedule = tx.schedules.warmup_cosine(2e-5, steps=720)
    >>> [f"{float(schedule(step)):.1e}" for step in (0, 36, 72, 396, 720)]
    ['0.0e+00', '1.0e-05', '2.0e-05', '1.0e-05', '0.0e+00']

    Reference: [Loshchilov & Hutter, 2017](https://arxiv.org/abs/1608.03983).
    """
    decay = keras.optimizers.schedules.CosineDecay
    return _decays(
        lambda peak, length, minimum: decay(peak, length, alpha=minimum / peak),
        *(learning_rate, steps, warmup, minimum, cycles),
    )


def warmup_linear(
    learning_rate: float, steps: int, warmup: float = 0.1, *, minimum: float = 0.0, cycles: int = 1
) -> Any:
    """Makes a schedule that rises linearly from 0 and falls linearly, as in BERT.

        rate(t) = learning_rate * t / w                                     for t < w
                  minimum + (learning_rate - minimum) * (1 - u)             otherwise

    with w warmup steps and u = (t - w) / (steps - w), at most 1.

    Args:
        learning_rate: float > 0. The peak.
        steps: int >= 1. Batches in all epochs together: `len(batches) * epochs`.
        warmup: int, or float in `[0, 1)`: the warmup steps, or their fraction of `steps`. Defaults to 0.1.
        minimum: float from 0 to `learning_rate`. The final rate. Defaults to 0.
        cycles: int >= 1. The number of decays: 2 means one restart. Defaults to 1.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: as `warmup_cosine`.

    Example:

    >>> schedule = tx.schedules.warmup_linear(1.0, steps=100)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]

    Reference: [Devlin et al., 2019](https://arxiv.org/abs/1810.04805).
    """
    return _decays(keras.optimizers.schedules.PolynomialDecay, learning_rate, steps, warmup, minimum, cycles)


def warmup_constant(learning_rate: float, steps: int, warmup: float = 0.1) -> Any:
    """Makes a schedule that rises linearly from 0 and then stays constant.

    Args:
        learning_rate: float > 0.
        steps: int >= 1. Batches in all epochs together; used if `warmup` is a fraction.
        warmup: int, or float in `[0, 1)`: the warmup steps, or their fraction of `steps`. Defaults to 0.1.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: as `warmup_cosine`.

    Example:

    >>> schedule = tx.schedules.warmup_constant(1.0, steps=100)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """
    learning_rate = _check.number("learning_rate", learning_rate, above=0.0)
    return Warmup(learning_rate, _warmup_steps(warmup, _check_steps(steps)))


def slanted_triangular(
    learning_rate: float, steps: int, cut_fraction: float = 0.1, ratio: float = 32.0, *, cycles: int = 1
) -> Any:
    """Makes ULMFiT's schedule, a short rise and a long decay; see `SlantedTriangular`.

    Args:
        learning_rate: float > 0. The peak.
        steps: int >= 1. Batches in all epochs together.
        cut_fraction: float in `(0, 1)`. The fraction of the steps with a rising rate. Defaults to 0.1.
        ratio: float >= 1. The ratio of the peak to the lowest rate. Defaults to 32.
        cycles: int >= 1. The number of consecutive triangles in `steps`. Defaults to 1.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: as `SlantedTriangular`, and if `cycles` does not divide `steps`.

    Example:

    >>> schedule = tx.schedules.slanted_triangular(0.01, steps=200, cycles=2)
    >>> [round(float(schedule(step)), 5) for step in (0, 10, 100, 110, 200)]
    [0.00031, 0.01, 0.00031, 0.01, 0.00031]
    """
    steps, cycles = _check_steps(steps), _check.integer("cycles", cycles)
    if steps % cycles:
        raise _check.invalid("cycles", f"an int that divides the {steps} steps", cycles)
    schedule = SlantedTriangular(learning_rate, steps // cycles, cut_fraction, ratio)
    return schedule if cycles == 1 else Restarts(schedule, steps // cycles, cycles)


def _decays(make, learning_rate, steps, warmup, minimum, cycles):
    """Adds a warmup before `cycles` decays, each made by `make(peak, length, minimum)`."""
    learning_rate = _check.number("learning_rate", learning_rate, above=0.0)
    steps = _check_steps(steps)
    warmup_steps = _warmup_steps(warmup, steps)
    minimum = _check.number("minimum", minimum, minimum=0.0, maximum=learning_rate)
    cycles = _check.integer("cycles", cycles)
    if steps - warmup_steps < cycles:
        raise _check.invalid("warmup", f"a warmup that leaves some of the {steps} steps for the decay", warmup)
    period = (steps - warmup_steps) / cycles
    decay = make(learning_rate, period, minimum)
    if cycles > 1:
        decay = Restarts(decay, period, cycles)
    return Warmup(decay, warmup_steps)


def _check_steps(steps):
    try:
        return _check.integer("steps", steps)
    except ValueError as error:
        raise ValueError(f"{error}. {_STEPS}") from None


def _warmup_steps(warmup, steps):
    if isinstance(warmup, float):
        return round(_check.number("warmup", warmup, minimum=0.0, maximum=1.0) * steps)
    warmup = _check.integer("warmup", warmup, minimum=0)
    if warmup > steps:
        raise _check.invalid("warmup", f"at most the {steps} steps of the training", warmup)
    return warmup
