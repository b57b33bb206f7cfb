"""Callbacks that set the learning rate: warm-up and the range test."""

import sys

import keras
import numpy as np
import pytest

from tfxfer import callbacks, optimizers, schedules

ROWS = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
TARGETS = ROWS @ np.arange(8.0, dtype="float32").reshape(4, 2)


def model_of(optimizer, **kwargs):
    """A model with dropout, because a range test must also restore the state of its seeds."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, name="low"), keras.layers.Dropout(0.1), keras.layers.Dense(2, name="high")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    if isinstance(optimizer, optimizers.Layerwise):
        optimizer.bind(model)
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *used, **kwargs):
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(ROWS, TARGETS, callbacks=list(used), **arguments)


class Rates(keras.callbacks.Callback):
    """Records the learning rate of each batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


# === WarmupCosine ===


@pytest.mark.parametrize(
    "wrap",
    [
        lambda optimizer: optimizer,
        lambda optimizer: keras.optimizers.LossScaleOptimizer(optimizers.Layerwise(optimizer, {"high": 2.0})),
    ],
)
def test_the_callback_trains_as_the_schedule_does(wrap):
    arguments = {"warmup": 3, "minimum": 0.01, "cycles": 2}
    schedule = schedules.warmup_cosine(0.1, 10, **arguments)
    trained = []
    for used, rate in (([callbacks.WarmupCosine(0.1, **arguments)], 0.7), ([], schedule)):
        optimizer = wrap(keras.optimizers.Adam(rate))
        model = model_of(keras.optimizers.Adam())
        if hasattr(optimizer, "inner_optimizer"):
            optimizer.inner_optimizer.bind(model)
        model.compile(optimizer, "mse")
        rates = Rates()
        history = fit(model, *used, rates)
        trained.append(model.get_weights())
        if used:
            np.testing.assert_allclose(rates.seen, [float(schedule(t)) for t in range(10)], rtol=1e-6)
            np.testing.assert_allclose(history.history["learning_rate"], [rates.seen[4], rates.seen[9]], rtol=1e-6)
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_callback_goes_on_at_the_optimizer_s_own_step():
    rates = Rates()
    model = model_of(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    fit(model, epochs=1)
    fit(model, callbacks.WarmupCosine(0.1, steps=20), rates, initial_epoch=1)
    schedule = schedules.warmup_cosine(0.1, 20)
    np.testing.assert_allclose(rates.seen, [float(schedule(t)) for t in range(5, 10)], rtol=1e-6)


def test_the_callback_has_nothing_to_set_where_there_is_a_schedule():
    model = model_of(keras.optimizers.SGD(schedules.warmup_cosine(0.1, 10)))
    with pytest.raises(ValueError, match=r"a plain learning rate.*Compile the model with a float"):
        fit(model, callbacks.WarmupCosine(0.1))


def test_the_callback_must_know_the_number_of_steps():
    def batches():
        for start in range(0, 40, 8):
            yield ROWS[start : start + 8], TARGETS[start : start + 8]

    with pytest.raises(ValueError, match="give `steps`"):
        model_of(keras.optimizers.SGD(0.1)).fit(
            batches(), callbacks=[callbacks.WarmupCosine(0.1)], verbose=0, shuffle=False
        )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": 0.1, "steps": 0}, "steps"),
        ({"learning_rate": 0.1, "steps": 5, "warmup": 6}, "warmup"),
        ({"learning_rate": 0.1, "warmup": -1}, "warmup"),
        ({"learning_rate": 0.1, "warmup": 1.0}, "warmup"),
        ({"learning_rate": 0.1, "minimum": 0.2}, "minimum"),
        ({"learning_rate": 0.1, "cycles": 0}, "cycles"),
    ],
)
def test_arguments_of_the_callback_are_checked_at_once(arguments, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        callbacks.WarmupCosine(**arguments)


# === LearningRateRange ===


def state(model):
    return [np.array(each.numpy()) for each in (*model.variables, *model.optimizer.variables)]


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_range_test_leaves_no_trace(decay):
    optimizer = keras.optimizers.Adam(0.003, use_ema=True)
    model = model_of(optimizers.Layerwise(optimizer, decay=decay) if decay else optimizer)
    fit(model)
    before = state(model)
    test = callbacks.LearningRateRange(minimum=1e-4, maximum=10.0, steps=12, divergence=1e9)
    fit(model, test, epochs=3)
    np.testing.assert_allclose(test.rates, 1e-4 * 1e5 ** (np.arange(12) / 11), rtol=1e-6)
    assert len(test.losses) == len(test.smoothed) == 12
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)
    test.restore()  # a second call has nothing left to do


def test_the_range_test_sees_the_loss_of_each_batch_at_its_rate():
    model = model_of(keras.optimizers.SGD(0.1))
    model.layers[1].rate = 0.0
    test = callbacks.LearningRateRange(minimum=1e-3, maximum=1e-2, steps=4, smoothing=0.5)
    by_hand, start = [], model.get_weights()
    for k in range(4):
        rows = slice(8 * k, 8 * k + 8)
        by_hand.append(model.evaluate(ROWS[rows], TARGETS[rows], verbose=0))
        model.optimizer.learning_rate = 1e-3 * 10 ** (k / 3)
        model.train_on_batch(ROWS[rows], TARGETS[rows])
    model.set_weights(start)
    fit(model, test)
    np.testing.assert_allclose(test.losses, by_hand, rtol=1e-5)
    for k in range(4):
        weights = 0.5 ** np.arange(k, -1, -1)
        np.testing.assert_allclose(test.smoothed[k], np.average(by_hand[: k + 1], weights=weights), rtol=1e-5)


def test_the_range_test_stops_where_the_loss_diverges():
    model = model_of(keras.optimizers.SGD(0.1))
    test = callbacks.LearningRateRange(minimum=1e-3, maximum=1e3, steps=100, smoothing=0.3)
    before = state(model)
    fit(model, test, epochs=20)
    assert 10 < len(test.losses) < 90
    assert not test.smoothed[-1] <= 4 * np.nanmin(test.smoothed)
    assert 1e-3 < test.suggestion < 1.0
    for one, other in zip(before, state(model), strict=False):
        np.testing.assert_array_equal(one, other)
    # A loss that is not finite also ends it.
    test = callbacks.LearningRateRange(minimum=1e10, maximum=1e30, steps=30, divergence=1e30)
    fit(model, test, epochs=20)
    assert len(test.losses) < 30 and not np.isfinite(test.losses[-1])
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_the_suggestion_is_where_the_loss_falls_fastest():
    test = callbacks.LearningRateRange(minimum=1e-6, maximum=1.0, steps=61, smoothing=0.0)
    assert test.suggestion is None
    test.rates = 1e-6 * 1e6 ** (np.arange(61) / 60)
    exponents = np.log10(test.rates)
    test.smoothed = 1 / (1 + np.exp(4 * (exponents + 3))) + np.where(exponents > -1, 10 * (exponents + 1), 0)
    assert test.suggestion == pytest.approx(1e-3)
    test.smoothed = np.append(test.smoothed[:-1], np.nan)
    assert test.suggestion == pytest.approx(1e-3)
    test.smoothed = exponents
    assert test.suggestion is None


def test_the_range_test_is_drawn(tmp_path):
    test = callbacks.LearningRateRange(minimum=1e-3, maximum=1.0, steps=10)
    with pytest.raises(ValueError, match="has run"):
        test.plot(tmp_path / "rates.png")
    fit(model_of(keras.optimizers.SGD(0.1)), test)
    test.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    test.plot(str(tmp_path / "rates.svg"))
    assert "<svg" in (tmp_path / "rates.svg").read_text()


def test_without_matplotlib_the_error_names_the_package(tmp_path, monkeypatch):
    test = callbacks.LearningRateRange()
    test.rates = test.losses = test.smoothed = np.ones(3)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        test.plot(tmp_path / "rates.png")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"minimum": 0.0}, "minimum"),
        ({"minimum": 0.1, "maximum": 0.1}, "maximum"),
        ({"steps": 1}, "steps"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"smoothing": -0.1}, "smoothing"),
        ({"divergence": 1.0}, "divergence"),
    ],
)
def test_arguments_of_the_range_test_are_checked_at_once(arguments, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        callbacks.LearningRateRange(**arguments)


def test_the_range_test_needs_a_plain_rate_enough_batches_and_one_batch_a_step():
    with pytest.raises(ValueError, match="a plain learning rate"):
        fit(model_of(keras.optimizers.SGD(schedules.warmup_cosine(0.1, 10))), callbacks.LearningRateRange(steps=5))
    model = model_of(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="The data have 5 batches: give `fit` more epochs"):
        fit(model, callbacks.LearningRateRange(steps=11))
    model = model_of(keras.optimizers.SGD(0.1), steps_per_execution=2)
    with pytest.raises(ValueError, match="argument `steps_per_execution`"):
        fit(model, callbacks.LearningRateRange(steps=5))
