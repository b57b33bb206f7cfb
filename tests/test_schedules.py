"""Schedules against loops in plain Python, and in optimizers."""

import math

import keras
import numpy as np
import pytest

from tfxfer import schedules

STEPS = (0, 1, 3, 6, 7, 20, 21, 39, 40, 57, 73, 74, 99, 100, 101, 250)


def cosine(t, peak, steps, warmup, minimum=0.0, cycles=1, fall=lambda u: (1 + math.cos(math.pi * u)) / 2):
    """The decay with warm-up and restarts, one step at a time."""
    if t < warmup:
        return peak * t / warmup
    length = (steps - warmup) / cycles
    t -= warmup
    for _ in range(cycles - 1):
        t = t - length if t >= length else t
    return minimum + (peak - minimum) * fall(min(t / length, 1.0))


def linear(*args, **kwargs):
    return cosine(*args, fall=lambda u: 1 - u, **kwargs)


def triangle(t, peak, steps, cut_fraction=0.1, ratio=32.0):
    """Equation 3 of the ULMFiT paper, except that the rate does not fall below its minimum."""
    cut = math.floor(steps * cut_fraction)
    p = t / cut if t < cut else max(1 - (t - cut) / (cut * (1 / cut_fraction - 1)), 0)
    return peak * (1 + p * (ratio - 1)) / ratio


def again(schedule):
    return keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))


CASES = {
    "cosine": (schedules.warmup_cosine(0.3, 100), lambda t: cosine(t, 0.3, 100, 10)),
    "cosine, no warm-up": (schedules.warmup_cosine(0.3, 100, warmup=0), lambda t: cosine(t, 0.3, 100, 0)),
    "cosine, minimum": (
        schedules.warmup_cosine(0.3, 100, 7, minimum=0.06),
        lambda t: cosine(t, 0.3, 100, 7, minimum=0.06),
    ),
    "cosine, three cycles": (
        schedules.warmup_cosine(0.3, 100, 0.2, minimum=0.01, cycles=3),
        lambda t: cosine(t, 0.3, 100, 20, minimum=0.01, cycles=3),
    ),
    "linear": (schedules.warmup_linear(0.3, 100, 0.2), lambda t: linear(t, 0.3, 100, 20)),
    "linear, two cycles": (
        schedules.warmup_linear(0.3, 100, 20, minimum=0.1, cycles=2),
        lambda t: linear(t, 0.3, 100, 20, minimum=0.1, cycles=2),
    ),
    "constant": (schedules.warmup_constant(0.3, 100, 0.07), lambda t: 0.3 * min(t / 7, 1)),
    "constant, no warm-up": (schedules.warmup_constant(0.3, 100, 0), lambda t: 0.3),
    "triangular": (schedules.slanted_triangular(0.3, 100), lambda t: triangle(t, 0.3, 100)),
    "triangular, odd numbers": (
        schedules.slanted_triangular(0.3, 101, 0.21, 7.0),
        lambda t: triangle(t, 0.3, 101, 0.21, 7.0),
    ),
    "triangular, cycles": (
        schedules.slanted_triangular(0.3, 100, 0.25, cycles=5),
        lambda t: triangle(t - min(t // 20, 4) * 20, 0.3, 20, 0.25),
    ),
    "any schedule": (
        schedules.Warmup(keras.optimizers.schedules.ExponentialDecay(0.3, 10, 0.5), 7),
        lambda t: min(t / 7, 1) * 0.3 * 0.5 ** (max(t - 7, 0) / 10),
    ),
    "falling restarts": (
        schedules.Restarts(keras.optimizers.schedules.PolynomialDecay(0.3, 20, 0.0), 20, cycles=3, factor=0.5),
        lambda t: 0.5 ** min(t // 20, 2) * linear(t - min(t // 20, 2) * 20, 0.3, 20, 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_schedule_equals_its_loop_and_comes_back_from_its_config(case):
    schedule, expected = CASES[case]
    expected = [expected(t) for t in STEPS]
    np.testing.assert_allclose([float(schedule(t)) for t in STEPS], expected, atol=1e-7)
    np.testing.assert_allclose([float(again(schedule)(t)) for t in STEPS], expected, atol=1e-7)


def test_a_peak_stands_where_the_warm_up_ends_and_nowhere_else():
    for schedule in (schedules.warmup_cosine(0.3, 50, 5), schedules.warmup_linear(0.3, 50, 5)):
        rates = [float(schedule(t)) for t in range(51)]
        assert np.argmax(rates) == 5 and rates[5] == np.float32(0.3) and rates[0] == rates[50] == 0.0
        assert np.all(np.diff(rates[5:]) < 0)


def test_a_part_of_the_steps_is_rounded_to_the_nearest():
    # 0.1 * 30 is 3.0000000000000004, which a ceiling would round up to 4.
    assert schedules.warmup_constant(1.0, 30, 0.1).warmup_steps == 3
    assert schedules.warmup_constant(1.0, 29, 0.1).warmup_steps == 3
    schedule = schedules.SlantedTriangular(1.0, 100, 0.29)  # 0.29 * 100 is 28.999999999999996
    assert [float(schedule(t)) == 1.0 for t in (28, 29, 30)] == [False, True, False]


def test_an_optimizer_follows_a_schedule_and_is_saved_with_it():
    optimizer = keras.optimizers.SGD(schedules.warmup_cosine(1.0, 10, 2))
    weight = keras.Variable([0.0])
    found = []
    for _ in range(10):
        before = float(weight[0])
        optimizer.apply([np.ones(1, "float32")], [weight])
        found.append(before - float(weight[0]))
    np.testing.assert_allclose(found, [cosine(t, 1.0, 10, 2) for t in range(10)], atol=1e-6)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert loaded.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("make", "named", "remedy"),
    [
        (lambda: schedules.warmup_cosine(-1e-5, 10), "learning_rate", ""),
        (lambda: schedules.warmup_cosine(0.0, 10), "learning_rate", ""),
        (lambda: schedules.warmup_cosine(1e-5, 0), "steps", "len(batches)"),
        (lambda: schedules.warmup_linear(1e-5, 10.5), "steps", "len(batches)"),
        (lambda: schedules.warmup_cosine(1e-5, 10, 11), "warmup", ""),
        (lambda: schedules.warmup_cosine(1e-5, 10, 10), "warmup", ""),
        (lambda: schedules.warmup_linear(1e-5, 10, 1.0), "warmup", ""),
        (lambda: schedules.warmup_linear(1e-5, 10, 1.5), "warmup", ""),
        (lambda: schedules.warmup_linear(1e-5, 10, -1), "warmup", ""),
        (lambda: schedules.warmup_linear(1e-5, 10, 5, cycles=6), "warmup", ""),
        (lambda: schedules.warmup_constant(1e-5, 10, 11), "warmup", ""),
        (lambda: schedules.warmup_constant(-1e-5, 10), "learning_rate", ""),
        (lambda: schedules.warmup_cosine(1e-5, 10, minimum=2e-5), "minimum", ""),
        (lambda: schedules.warmup_cosine(1e-5, 10, minimum=-1.0), "minimum", ""),
        (lambda: schedules.warmup_cosine(1e-5, 10, cycles=0), "cycles", ""),
        (lambda: schedules.slanted_triangular(1e-5, 10, cycles=3), "cycles", ""),
        (lambda: schedules.slanted_triangular(1e-5, 0), "steps", "len(batches)"),
        (lambda: schedules.slanted_triangular(1e-5, 9), "cut_fraction", ""),
        (lambda: schedules.slanted_triangular(1e-5, 9, 1.0), "cut_fraction", ""),
        (lambda: schedules.slanted_triangular(1e-5, 90, ratio=0.5), "ratio", ""),
        (lambda: schedules.slanted_triangular(-1e-5, 90), "learning_rate", ""),
        (lambda: schedules.Warmup("cosine", 3), "schedule", "LearningRateSchedule"),
        (lambda: schedules.Warmup(-0.1, 3), "schedule", "LearningRateSchedule"),
        (lambda: schedules.Warmup(0.1, -3), "warmup_steps", ""),
        (lambda: schedules.Restarts(0.1, 3, 2), "schedule", ""),
        (lambda: schedules.Restarts(schedules.Warmup(0.1, 3), 0, 2), "period", ""),
        (lambda: schedules.Restarts(schedules.Warmup(0.1, 3), 5, 0), "cycles", ""),
        (lambda: schedules.Restarts(schedules.Warmup(0.1, 3), 5, 2, factor=0), "factor", ""),
    ],
)
def test_what_makes_no_schedule_is_an_error_that_names_it(make, named, remedy):
    with pytest.raises(ValueError, match=f"argument `{named}`") as error:
        make()
    assert remedy in str(error.value)
