"""Schedules of the learning rate."""

from typing import Any, Self

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from tfxfer import _check

_STEPS = "Count the batches of all epochs: `len(batches) * epochs`."


class _Around(LearningRateSchedule):
    """A schedule that changes another one, or a constant rate."""

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
    """Leads up to any schedule, or to a constant rate, in a straight line from zero.

        rate(t) = min(t / warmup_steps, 1) * schedule(max(t - warmup_steps, 0))

    The schedule starts, at its own step 0, where the warm-up ends. Adam's first steps rest on estimates from a few
    gradients, which is why fine-tuning without warm-up may fail altogether (Mosbach et al., 2021).

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`, or float > 0 for a rate that then stays.
        warmup_steps: int. 0 changes nothing.

    Raises:
        ValueError: for a rate that is not positive, or a negative number of steps.

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
    """Starts any schedule anew each `period` steps.

        rate(t) = factor ** n * schedule(t - n * period)        n = min(floor(t / period), cycles - 1)

    After the last cycle the schedule goes on where it stands: a decay that has come to its end stays there. Where each
    period is to be longer than the one before, Keras has `CosineDecayRestarts`.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        period: number > 0 of steps, not necessarily whole.
        cycles: int. How often the schedule runs, the first time included.
        factor: float > 0 by which each cycle's rates differ from those of the cycle before.

    Raises:
        ValueError: for a period or a factor that is not positive, or fewer than one cycle.

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
    """Rises in a straight line for a short while and falls in one for the rest: ULMFiT's schedule.

        cut = floor(steps * cut_fraction)
        p(t) = t / cut                                              for t < cut
               1 - (t - cut) / (cut * (1 / cut_fraction - 1))       otherwise, not below 0
        rate(t) = learning_rate * (1 + p(t) * (ratio - 1)) / ratio

    It starts and ends at `learning_rate / ratio` and has its peak at `cut`.

    Args:
        learning_rate: float > 0. The peak.
        steps: int. Batches of all epochs together.
        cut_fraction: float in `(0, 1)`. The part of the steps in which the rate rises. Defaults to the paper's 0.1.
        ratio: float >= 1. How much smaller the lowest rate is than the peak. Defaults to the paper's 32.

    Raises:
        ValueError: for arguments out of range, and where `cut` would be 0.

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
        # What is a whole number but for the rounding of the product stays that number.
        self._cut = int(self.steps * self.cut_fraction + 1e-9)
        if self.cut_fraction >= 1 or self._cut < 1:
            expected = "a number in (0, 1) that makes at least one step of rise"
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
    """Makes a schedule that rises in a straight line from 0 and falls along half a cosine.

        rate(t) = learning_rate * t / w                                             for t < w
                  minimum + (learning_rate - minimum) * (1 + cos(pi * u)) / 2       otherwise

    with the w steps of warm-up and u = (t - w) / (steps - w), not above 1. With `cycles`, the fall happens so many
    times, each in the same number of steps; the warm-up once.

    Args:
        learning_rate: float > 0. The peak.
        steps: int. Batches of all epochs together: `len(batches) * epochs`.
        warmup: int, or float in `[0, 1)`: the steps of the rise, or their part of `steps`. Defaults to a tenth.
        minimum: float. The rate at the end.
        cycles: int. How often the rate falls: 2 stands for one restart.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: for rates below 0, `minimum` above `learning_rate`, fewer than one step, or a warm-up that leaves
            no steps.

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
    """Makes a schedule that rises in a straight line from 0 and falls in one: BERT's own.

        rate(t) = learning_rate * t / w                                     for t < w
                  minimum + (learning_rate - minimum) * (1 - u)             otherwise

    with the w steps of warm-up and u = (t - w) / (steps - w), not above 1.

    Args:
        learning_rate: float > 0. The peak.
        steps: int. Batches of all epochs together: `len(batches) * epochs`.
        warmup: int, or float in `[0, 1)`: the steps of the rise, or their part of `steps`. Defaults to a tenth.
        minimum: float. The rate at the end.
        cycles: int. How often the rate falls: 2 stands for one restart.

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
    """Makes a schedule that rises in a straight line from 0 and stays.

    Args:
        learning_rate: float > 0.
        steps: int. Batches of all epochs together; used where `warmup` is a part of them.
        warmup: int, or float in `[0, 1)`: the steps of the rise, or their part of `steps`. Defaults to a tenth.

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
    """Makes ULMFiT's schedule, a short rise and a long fall: see `SlantedTriangular`.

    Args:
        learning_rate: float > 0. The peak.
        steps: int. Batches of all epochs together.
        cut_fraction: float in `(0, 1)`. The part of the steps in which the rate rises.
        ratio: float >= 1. How much smaller the lowest rate is than the peak.
        cycles: int. How many triangles stand in `steps`, one behind the other.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: as `SlantedTriangular`, and where the triangles would not be whole steps long.

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
    """Puts a warm-up before `cycles` decays, each made by `make(peak, length, minimum)`."""
    learning_rate = _check.number("learning_rate", learning_rate, above=0.0)
    steps = _check_steps(steps)
    warmup_steps = _warmup_steps(warmup, steps)
    minimum = _check.number("minimum", minimum, minimum=0.0, maximum=learning_rate)
    cycles = _check.integer("cycles", cycles)
    if steps - warmup_steps < cycles:
        raise _check.invalid("warmup", f"a warm-up that leaves some of the {steps} steps for the decay", warmup)
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
