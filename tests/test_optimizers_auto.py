"""The `Auto` optimizer, whose schedule `fit` plans."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx


class Rates(keras.callbacks.Callback):
    """Records the learning rate of each step."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(keras.ops.convert_to_tensor(self.model.optimizer.learning_rate)))


def rates(model, epochs=1, callbacks=(), **kwargs):
    """Returns the learning rates of a `fit` on eight rows, by default in two batches."""
    noted = Rates()
    options = {"batch_size": 4, "epochs": epochs, "verbose": 0, "callbacks": [*callbacks, noted], **kwargs}
    model.fit(tiny.TEXTS, np.arange(8.0), **options)
    return noted.rates


@pytest.fixture
def model(tmp_path):
    made = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    made.compile(tx.optimizers.Auto(0.1), run_eagerly=True)
    return made


def test_rates_rise_over_a_tenth_and_fall_to_zero_in_each_fit(model):
    planned = [0.05, 0.1, *(0.1 * (20 - step) / 18 for step in range(2, 20))]
    np.testing.assert_allclose(rates(model, 10), planned, rtol=1e-5)
    np.testing.assert_allclose(rates(model, 1), [0.1, 0.1], rtol=1e-5)


def test_a_fit_in_two_parts_has_the_rates_of_one(model, tmp_path):
    whole = rates(model, 2)
    first = rates(model, 2, [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: stop(model, epoch == 0))])
    model.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    again.compile(again.optimizer, again.loss, run_eagerly=True)
    np.testing.assert_allclose(first + rates(again, 2, initial_epoch=1), whole, rtol=1e-5)
    assert isinstance(again.optimizer, tx.optimizers.Auto)


def stop(model, is_time):
    model.stop_training = model.stop_training or is_time


def test_unknown_steps_keep_the_rate_after_a_rise(model):
    noted = Rates()
    rows = zip(tiny.TEXTS * 2, np.arange(16.0), strict=True)
    model.fit(iter(rows), batch_size=4, verbose=0, callbacks=[noted])
    np.testing.assert_allclose(noted.rates[:4], [0.001, 0.002, 0.003, 0.004], rtol=1e-5)


def test_a_rate_that_is_set_stays(model):
    set_rate = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 * (epoch + 1))
    np.testing.assert_allclose(rates(model, 2, [set_rate]), [0.01] * 2 + [0.02] * 2, rtol=1e-5)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    found = rates(model, 3, [plateau])
    assert found[4] == pytest.approx(0.1 * 2 / 5 / 2) and len(set(found[4:])) == 1
    with pytest.raises(ValueError, match=r"`learning_rate`.*a number"):
        model.optimizer.learning_rate = tx.schedules.warmup_linear(1e-3, 10)


@pytest.mark.parametrize(("given", "said"), [({"peak": 0}, "`peak`"), ({"weight_decay": -1}, "`weight_decay`")])
def test_arguments_out_of_range_are_an_error(given, said):
    with pytest.raises(ValueError, match=said):
        tx.optimizers.Auto(**given)


def test_what_compile_takes_by_itself(tmp_path):
    def optimizer(model, **kwargs):
        model.compile(**kwargs)
        config = model.optimizer.get_config()
        return type(model.optimizer), config["peak"], config["multipliers"]

    parts = (tiny.backbone(), tiny.preprocessor(tmp_path))
    assert optimizer(tx.models.TextRegressor(*parts)) == (tx.optimizers.Auto, 1e-4, {})
    assert optimizer(tx.models.TextRegressor(*parts, head="mlp")) == (tx.optimizers.Auto, 1e-4, {"head": 10.0})
    embedder = tx.models.TextEmbedder(*parts)
    assert optimizer(tx.models.Siamese(embedder), loss=tx.losses.CoSENTLoss()) == (tx.optimizers.Auto, 2e-5, {})
    assert optimizer(tx.models.SiameseClassifier(embedder, labels=["a", "b"])) == (tx.optimizers.Auto, 1e-4, {})
    assert optimizer(tx.models.TokenTagger(*parts, tags=tiny.TAGS)) == (tx.optimizers.Auto, 1e-4, {"head": 10.0})


@pytest.mark.parametrize(("rows", "epochs"), [(8, 10), (1000, 5), (4000, 4)])
def test_epochs_are_so_many_that_there_are_steps_enough(model, rows, epochs, monkeypatch):
    seen, history = {}, keras.callbacks.History()
    history.on_train_begin()
    monkeypatch.setattr(keras.Model, "fit", lambda self, *args, **kwargs: seen.update(kwargs) or history)
    model.fit((tiny.TEXTS * 500)[:rows], np.zeros(rows), batch_size=16, epochs="auto")
    assert seen["epochs"] == epochs
    with pytest.raises(ValueError, match=r"`epochs`.*unknown"):
        model.fit(iter([("a", 1.0)] * 4), epochs="auto")


def test_on_jax_rates_and_start_are_those_of_tensorflow(tmp_path):
    script = f"""
        import pathlib, sys
        sys.path.insert(0, {str(tiny.__file__.rsplit("/", 1)[0])!r})
        import keras, numpy as np, tiny
        import tfxfer as tx
        from test_optimizers_auto import rates
        model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(pathlib.Path({str(tmp_path)!r})))
        model.compile(tx.optimizers.Auto(0.1))
        print(keras.config.backend(), rates(model, 10), rates(model, 2), model.head_probe.rows)
    """
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    backend, *said = done.stdout.split()
    found = [float(each.strip("[],")) for each in said]
    planned = [0.05, 0.1, *(0.1 * (20 - step) / 18 for step in range(2, 20))]
    np.testing.assert_allclose(found, [*planned, 0.1, 0.1, 0.2 / 3, 0.1 / 3, 8], rtol=1e-5)
    assert backend == "jax"
