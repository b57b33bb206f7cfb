"""Stopping and resuming: a run that was killed ends with the same result as one that was not."""

import itertools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx

TESTS = pathlib.Path(__file__).parent
TEXTS, LABELS = tiny.TEXTS * 2, tiny.LABELS * 2  # 4 batches of 4


class Kill(keras.callbacks.Callback):
    """Ends `fit` after `at` steps, before any callback that follows it in the list is called."""

    def __init__(self, at, how=KeyboardInterrupt):
        super().__init__()
        # The step counter is not a plain value, because a resumed run would restore it.
        self._at, self._how, self._steps = at, how, itertools.count(1)

    def on_train_batch_end(self, batch, logs=None):
        if next(self._steps) == self._at:
            if self._how is signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self._how


class Training:
    """A model that is trained, killed and trained again. One object is reused so that its step is traced once."""

    def __init__(self, model, fit):
        self.model, self._fit = model, fit
        model.optimizer.build(model.trainable_variables)
        self.fresh = [keras.ops.convert_to_numpy(v) for v in self.variables()]

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def state(self):
        return [keras.ops.convert_to_numpy(v) for v in self.variables()]

    def reset(self, scrambled=False):
        """Resets all variables; `scrambled` sets wrong values instead, which a resumed run has to restore."""
        for variable, value in zip(self.variables(), self.fresh, strict=True):
            variable.assign(value + np.asarray(1, value.dtype) if scrambled else value)

    def fit(self, *callbacks, scrambled=False, **kwargs):
        """Returns the history of a run, or `None` if it was killed, and the values of all variables at its end."""
        self.reset(scrambled)
        # The learning rate is an optimizer setting, which is compared before anything is restored.
        for variable, value in zip(self.variables(), self.fresh, strict=True):
            if variable.name == "learning_rate":
                variable.assign(value)
        try:
            history = self._fit(self.model, list(callbacks), **kwargs).history
        except KeyboardInterrupt:
            history = None
        return history, self.state()


def assert_same(one, other):
    assert one[0] == other[0]
    for here, there in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(here, there)


def perceptron(*, units=3, optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=3), keras.layers.Dense(units)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], **kwargs)
    return model


def points(rows=16):
    rng = np.random.default_rng(0)
    return tf.data.Dataset.from_tensor_slices((rng.normal(size=(rows, 2)), rng.integers(3, size=rows))).batch(4)


def on_points(model, callbacks, epochs=4, data=None, **kwargs):
    data = points() if data is None else data
    options = {"epochs": epochs, "verbose": 0}
    callbacks, data = tx.callbacks.introduce(model, data, callbacks=callbacks, **options)
    return model.fit(
        data, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, validation_data=points(), **kwargs
    )


# === Exactness ===


PLAIN = {
    "numbers": [1, -2.5, True, None, float("inf"), 10**20],
    ("a", 1): {"nested": (np.float32(0.1), [np.arange(6).reshape(2, 3).T])},
    3: np.array([1.5, -0.0], "bfloat16"),
    "none": np.zeros((0, 2), "float8_e4m3fn"),
}
NOT_PLAIN = (object(), {1, 2}, np.array([None]), [lambda: 0])


class Steps(keras.callbacks.Callback):
    """Records its calls, to check that each step and epoch is reported exactly once."""

    def __init__(self):
        super().__init__()
        self.heard, self._deep = [], {"last": (None, np.zeros(2, "bfloat16"))}
        self.plain = self.odd_0 = self.odd_1 = self.odd_2 = self.odd_3 = None

    def on_train_batch_begin(self, batch, logs=None):
        if not self.heard:
            self.plain = PLAIN
            self.odd_0, self.odd_1, self.odd_2, self.odd_3 = NOT_PLAIN
        self.heard.append(["begin", batch])

    def on_train_batch_end(self, batch, logs=None):
        self.heard.append(["end", batch, logs["loss"]])
        self._deep["last"] = (batch, self._deep["last"][1] + np.asarray(1, "bfloat16"))

    def on_epoch_end(self, epoch, logs=None):
        self.heard.append(["epoch", epoch])


def callbacks_with_state(folder):
    return {
        "steps": Steps(),
        "stop": keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True, min_delta=0.01),
        "plateau": keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.1),
        "log": keras.callbacks.CSVLogger(folder / "log.csv"),
        "best": keras.callbacks.ModelCheckpoint(folder / "best.keras", save_best_only=True),
        "evaluate": tx.callbacks.Evaluate(lambda model: {"sum": float(model.get_weights()[0].sum())}, every=3),
    }


OPTIMIZERS = {
    "schedule": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 16)),
    "average": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5),
    "accumulation": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=3, global_clipnorm=0.1),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1), dynamic_growth_steps=3),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_run_killed_twice_ends_as_one_that_was_not(kind, tmp_path):
    training = Training(perceptron(optimizer=OPTIMIZERS[kind]()), on_points)
    reference = training.fit()
    for kills in ([6, 5], [1, 13]):
        folder = tmp_path / "-".join(map(str, kills))
        for k, kill in enumerate(kills):
            resume = tx.callbacks.Resume(folder, every=1)
            killed = training.fit(Kill(kill + 1), resume, scrambled=k > 0)
            assert killed[0] is None and resume.resumed_at == ((kills[0] // 4, kills[0] % 4) if k else None)
        assert_same(training.fit(resume, scrambled=True), reference)
        assert resume.resumed_at == divmod(sum(kills), 4)


def test_the_state_of_other_callbacks_comes_back(tmp_path):
    training = Training(perceptron(), on_points)
    (tmp_path / "whole").mkdir()
    whole = callbacks_with_state(tmp_path / "whole")
    reference = training.fit(*whole.values(), epochs=9)
    assert 4 < len(reference[0]["loss"]) < 9 and whole["plateau"].best is not None  # early stopping ends it
    best = whole["stop"].best_epoch
    for kill in (2, 4 * best + 7):
        folder = tmp_path / str(kill)
        folder.mkdir()
        resume = tx.callbacks.Resume(folder / "run", every=1)
        # Resume may be anywhere in the list.
        before = callbacks_with_state(folder)
        killed = training.fit(resume, Kill(kill), *before.values(), epochs=9)
        assert killed[0] is None
        before["log"].csv_file.close()
        again = callbacks_with_state(folder)
        assert_same(training.fit(*again.values(), resume, epochs=9, scrambled=True), reference)
        assert resume.resumed_at is not None
        assert again["steps"].heard == whole["steps"].heard
        assert repr(again["steps"]._deep) == repr(whole["steps"]._deep)
        plain = again["steps"].plain
        assert plain is not PLAIN and repr(plain) == repr(PLAIN) == repr(whole["steps"].plain)
        assert plain[3].dtype == PLAIN[3].dtype and type(plain[("a", 1)]["nested"][0]) is np.float32
        assert [getattr(again["steps"], f"odd_{k}") for k in range(4)] == [None] * 4
        assert [getattr(whole["steps"], f"odd_{k}") for k in range(4)] == list(NOT_PLAIN)
        assert again["evaluate"].results == whole["evaluate"].results
        for name, attributes in {
            "stop": ("best", "best_epoch", "wait", "stopped_epoch", "min_delta"),
            "plateau": ("best", "wait", "cooldown_counter", "min_delta"),
            "best": ("best", "min_delta"),
            "log": ("append",),
        }.items():
            for attribute in attributes:
                assert getattr(again[name], attribute) == getattr(whole[name], attribute), (name, attribute)
        rows = [(f / "log.csv").read_text().splitlines() for f in (folder, tmp_path / "whole")]
        assert rows[0] == rows[1] and len(rows[0]) == 1 + len(reference[0]["loss"])


def test_a_run_that_is_done_returns_at_once_with_its_weights_and_history(tmp_path):
    training = Training(perceptron(), on_points)
    stopped = callbacks_with_state(tmp_path)
    reference = training.fit(*stopped.values(), tx.callbacks.Resume(tmp_path / "run"), epochs=9)
    again = callbacks_with_state(tmp_path)
    # More epochs do not continue a run that a callback has stopped.
    assert_same(training.fit(*again.values(), tx.callbacks.Resume(tmp_path / "run"), epochs=20), reference)
    assert again["steps"].heard == stopped["steps"].heard
    longer = training.fit(epochs=4)
    training.fit(tx.callbacks.Resume(tmp_path / "other"), epochs=2)
    assert_same(training.fit(tx.callbacks.Resume(tmp_path / "other"), epochs=4), longer)


def test_a_second_fit_starts_at_its_own_first_epoch(tmp_path):
    training = Training(perceptron(), on_points)
    training.fit(tx.callbacks.Resume(tmp_path), epochs=2)
    training.fit(tx.callbacks.Resume(tmp_path), epochs=3)
    assert len(on_points(training.model, [], epochs=2).history["loss"]) == 2


def test_swapped_averages_come_back(tmp_path):
    training = Training(perceptron(optimizer=OPTIMIZERS["average"]()), on_points)
    swap = keras.callbacks.SwapEMAWeights
    reference = training.fit(swap(swap_on_epoch=True))
    for kill in (9, 11):
        resume = tx.callbacks.Resume(tmp_path / str(kill), every=2)
        training.fit(swap(swap_on_epoch=True), Kill(kill), resume)
        assert_same(training.fit(swap(swap_on_epoch=True), resume, scrambled=True), reference)


class Decay(keras.callbacks.Callback):
    """Halves the learning rate when an epoch begins; resuming must not do this twice."""

    def on_epoch_begin(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        rate.assign(rate * 0.5)


def test_what_other_callbacks_do_when_an_epoch_begins_is_not_done_twice(tmp_path):
    training = Training(perceptron(), on_points)
    reference = training.fit(Decay())
    training.fit(Decay(), tx.callbacks.Resume(tmp_path, every=1), Kill(7))
    assert_same(training.fit(Decay(), tx.callbacks.Resume(tmp_path), scrambled=True), reference)


def test_steps_that_run_together_are_resumed(tmp_path):
    training = Training(perceptron(steps_per_execution=3), on_points)
    options = {"data": points(rows=32)}
    reference = training.fit(**options)
    training.fit(tx.callbacks.Resume(tmp_path, every=2), Kill(5), **options)  # steps per call: 3 + 3 + 2, 3 + 3
    resume = tx.callbacks.Resume(tmp_path, every=2)
    assert_same(training.fit(resume, scrambled=True, **options), reference)
    assert resume.resumed_at == (1, 3)
    model = perceptron(steps_per_execution=2)
    training.fit(tx.callbacks.Resume(tmp_path / "b", every=2), Kill(2), **options)
    with pytest.raises(ValueError, match="a divisor of 3"):
        on_points(model, [tx.callbacks.Resume(tmp_path / "b")], **options)


def test_data_of_unknown_length_are_resumed(tmp_path):
    data = points().filter(lambda x, y: True)
    training = Training(perceptron(), on_points)
    with pytest.warns(UserWarning, match="ran out of data"):
        reference = training.fit(data=data)
    with pytest.warns(UserWarning, match="ran out of data"):
        training.fit(tx.callbacks.Resume(tmp_path, every=1), Kill(8), data=data)
    with pytest.warns(UserWarning, match="ran out of data"):
        assert_same(training.fit(tx.callbacks.Resume(tmp_path, every=1), data=data, scrambled=True), reference)
    training.fit(tx.callbacks.Resume(tmp_path / "b", every=1), Kill(4), data=data)
    with pytest.raises(ValueError, match="data of more than 3 batches"):
        training.fit(tx.callbacks.Resume(tmp_path / "b"), data=data.take(2))


# === Models of this package ===


def test_classifier_on_strings_with_class_weights_is_resumed(tmp_path):
    """Combines shuffling, dropout, mid-epoch evaluation and half precision, on raw strings."""

    def fit(model, callbacks, **kwargs):
        dev = tx.callbacks.EvaluateClassification(tiny.TEXTS, tiny.LABELS, every=3)
        options = {"batch_size": 4, "epochs": 3, "verbose": 0, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}, **kwargs}
        return model.fit(TEXTS, LABELS, callbacks=[dev, *callbacks], **{"seed": 5, **options})

    keras.utils.set_random_seed(1)
    model = tiny.classifier(tmp_path, dtype="mixed_bfloat16")
    model.compile(tx.optimizers.AdamW(1e-2, use_ema=True))
    training = Training(model, fit)
    reference = training.fit()
    resume = tx.callbacks.Resume(tmp_path / "run", every=1)
    training.fit(resume, Kill(7))
    with pytest.raises(ValueError, match="seed of the data there: 5, here: 6"):
        training.fit(resume, seed=6)
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        training.fit(resume, steps_per_epoch=3)
    assert_same(training.fit(resume, scrambled=True), reference)
    assert resume.resumed_at == (1, 2)


def test_siamese_on_batches_is_resumed_under_loss_scaling(tmp_path):
    columns = (TEXTS, TEXTS[3:] + TEXTS[:3])
    embedder = tiny.embedder(tmp_path, dtype="mixed_float16")
    options = {"columns": "separate", "batch_size": 4, "seed": 3, "unique_texts": True}
    train = tx.data.batches((columns, np.arange(16.0)), embedder.preprocessor, **options)

    def fit(model, callbacks, first=2):
        train.epoch = first  # as if earlier epochs had been iterated
        return model.fit(train, epochs=2, verbose=0, callbacks=callbacks)

    model = tx.models.Siamese(embedder)
    inner = keras.optimizers.SGD(1e-2, momentum=0.9)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=3)
    model.compile(optimizer, loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    training = Training(model, fit)
    reference = training.fit()
    steps = int(train.cardinality())
    training.fit(tx.callbacks.Resume(tmp_path / "run", every=1), Kill(steps + 3))
    # A new process counts from 0. The checkpoint knows which epoch is next.
    assert_same(training.fit(tx.callbacks.Resume(tmp_path / "run"), scrambled=True, first=0), reference)


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_told_to_a_model_of_another_kind(mapped, tmp_path):
    texts, y = (TEXTS, np.arange(16.0))
    train = tx.data.batches((texts, y), tiny.preprocessor(tmp_path), batch_size=4, seed=0)
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in train.element_spec[0]}
    outputs = keras.layers.Embedding(len(tiny.VOCABULARY), 1)(inputs["token_ids"])
    real = keras.ops.expand_dims(keras.ops.cast(inputs["padding_mask"] + inputs["segment_ids"], "float32"), -1)
    model = keras.Model(inputs, keras.ops.mean(outputs * real, axis=1))
    model.compile("adam", "mse")

    def fit(model, callbacks):
        train.epoch = 0
        x = train.map(lambda x, y: (x, y)) if mapped else train
        callbacks, x = tx.callbacks.introduce(model, x, callbacks=callbacks, epochs=3, verbose=0)
        return model.fit(x, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)

    training = Training(model, fit)
    reference = training.fit()
    options = {"data": train} if mapped else {}
    training.fit(tx.callbacks.Resume(tmp_path / "run", every=1, **options), Kill(6))
    assert_same(training.fit(tx.callbacks.Resume(tmp_path / "run", **options), scrambled=True), reference)


def test_gradual_unfreezing_is_resumed_in_mid_epoch(tmp_path):
    def fit(model, callbacks):
        callbacks = [tx.callbacks.GradualUnfreezing(unit="steps"), *callbacks]
        done = model.fit(TEXTS, LABELS, batch_size=4, epochs=2, seed=2, verbose=0, callbacks=callbacks)
        thaws.append(callbacks[0].thaws)
        return done

    thaws = []
    keras.utils.set_random_seed(1)
    model = tiny.classifier(tmp_path)
    optimizer = keras.optimizers.AdamW(1e-2, use_ema=True, gradient_accumulation_steps=2)
    model.compile(tx.optimizers.allow_subsets(optimizer), run_eagerly=True)
    training = Training(model, fit)
    reference = training.fit()
    resume = tx.callbacks.Resume(tmp_path / "run", every=1)
    training.fit(resume, Kill(4))
    # In a new process, everything is unfrozen, and it is unknown when each part began to train.
    model.set_trainable(True)
    assert_same(training.fit(resume, scrambled=True), reference)
    assert resume.resumed_at == (0, 3)
    assert thaws[0] == thaws[1] and [thaw["step"] for thaw in thaws[0]] == [0, 1, 2]


def in_a_process(folder, kill=None, resume=True):
    """Trains as a script would: a new model, whose optimizer and metrics are not built before `fit`."""
    folder = pathlib.Path(folder)
    keras.utils.set_random_seed(11)
    model = tiny.classifier(folder)
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-2, 16)))

    class KillSoon(keras.callbacks.Callback):
        """Kills the process shortly after a step begins: in the middle of the step or of the write after it."""

        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == kill:
                threading.Timer(random.random() * 0.02, os.kill, [os.getpid(), signal.SIGKILL]).start()

    callbacks = [
        tx.callbacks.EvaluateClassification(tiny.TEXTS, tiny.LABELS),
        keras.callbacks.EarlyStopping("val_macro_f1", mode="max", patience=4, restore_best_weights=True),
        KillSoon(),
    ]
    if resume:
        callbacks.append(tx.callbacks.Resume(folder / "run", every=1))
    done = model.fit(TEXTS, LABELS, batch_size=4, epochs=4, verbose=0, callbacks=callbacks)
    (folder / "history.json").write_text(json.dumps([callbacks[-1].resumed_at if resume else None, done.history]))
    np.savez(folder / "weights.npz", *model.get_weights())


def python(code):
    """Runs code in a process that can import the package and the tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # starts three processes
def test_a_process_killed_twice_in_the_middle_of_steps_ends_as_one_that_was_not(tmp_path):
    def run(kill):
        return python(f"import test_resume; test_resume.in_a_process({str(tmp_path)!r}, {kill})")

    for kill in (6, 13):
        killed = run(kill)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        assert not (tmp_path / "history.json").exists()
    done = run(None)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed_at, history = json.loads((tmp_path / "history.json").read_text())
    assert resumed_at in ([3, 0], [3, 1], [3, 2])
    with np.load(tmp_path / "weights.npz") as weights:
        found = [weights[name] for name in weights.files]
    (tmp_path / "whole").mkdir()
    in_a_process(tmp_path / "whole", resume=False)
    assert json.loads((tmp_path / "whole" / "history.json").read_text())[1] == history
    with np.load(tmp_path / "whole" / "weights.npz") as weights:
        assert len(weights.files) == len(found)
        for name, value in zip(weights.files, found, strict=True):
            np.testing.assert_array_equal(weights[name], value)


@pytest.mark.slow  # starts another process and compiles
def test_a_run_is_resumed_in_mid_epoch_on_jax(tmp_path):
    code = f"""
        import os, pathlib
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        from test_resume import Kill, Training, assert_same
        folder = pathlib.Path({str(tmp_path)!r})
        texts, labels = ["my card", "a loan", "the bank", "good day"] * 4, ["card", "loan", "other", "other"] * 4

        def fit(model, callbacks):
            return model.fit(texts, labels, batch_size=4, epochs=3, seed=0, verbose=0, callbacks=callbacks)

        model = tiny.classifier(folder)
        model.compile(keras.optimizers.AdamW(1e-2))
        training = Training(model, fit)
        whole = training.fit()
        assert training.fit(tx.callbacks.Resume(folder / "run", every=1), Kill(7))[0] is None
        resume = tx.callbacks.Resume(folder / "run")
        assert_same(training.fit(resume, scrambled=True), whole)
        assert resume.resumed_at == (1, 2), resume.resumed_at
    """
    done = python(textwrap.dedent(code))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_stream_of_rows_is_resumed_in_its_middle(tmp_path, is_known):
    pre = tiny.preprocessor(tmp_path)

    def fit(callbacks):
        rows = tf.data.Dataset.from_tensor_slices((TEXTS * 2, np.arange(32) % 3))
        rows = rows if is_known else rows.filter(lambda text, label: True)
        # Eleven batches in windows of two, read again in each epoch.
        batches = tx.data.batches(rows, pre, 3, cache=False, window=2, seed=4)
        keras.utils.set_random_seed(1)
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in batches.element_spec[0]}
        states = keras.layers.Embedding(len(tiny.VOCABULARY), 4)(inputs["token_ids"])
        outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(states))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        callbacks, x = tx.callbacks.introduce(model, batches, callbacks=callbacks, epochs=2, verbose=0)
        try:
            model.fit(x, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
        except KeyboardInterrupt:
            return None
        return model.get_weights()

    with warnings.catch_warnings():  # Keras warns about any data of unknown length
        warnings.filterwarnings("ignore", "Your input ran out of data")
        whole = fit([])
        assert fit([tx.callbacks.Resume(tmp_path / "run", every=1), Kill(17)]) is None
        resume = tx.callbacks.Resume(tmp_path / "run")
        resumed = fit([resume])
    assert resume.resumed_at == (1, 5)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


# === Early stopping ===


class Weights(keras.callbacks.Callback):
    """Records the weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.by_epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.by_epoch.append(self.model.get_weights())


PAIRS = (tiny.TEXTS, tiny.TEXTS[3:] + tiny.TEXTS[:3])
RELEVANT = [[i] for i in range(8)]


def _siamese(folder):
    model = tx.models.Siamese(tiny.embedder(folder))
    return model, tx.losses.CoSENTLoss(), PAIRS, np.arange(8.0)


def _embedder(folder):
    return tiny.embedder(folder), tx.losses.BatchHardTripletLoss(), tiny.TEXTS, [0, 0, 1, 1, 2, 2, 0, 1]


def _siamese_classifier(folder):
    return tx.models.SiameseClassifier(tiny.embedder(folder), labels=["no", "yes"]), "auto", PAIRS, ["no", "yes"] * 4


def _classifier(folder):
    return tiny.classifier(folder), "auto", tiny.TEXTS, tiny.LABELS


def _regressor(folder):
    return tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder)), "auto", PAIRS, np.arange(8.0)


def _tagger(folder):
    return tiny.tagger(folder), "auto", tiny.WORD_ROWS, tiny.TAG_ROWS


STOPPING = {
    "classifier": (
        _classifier,
        lambda **kw: tx.callbacks.EvaluateClassification(tiny.TEXTS, tiny.LABELS, **kw),
        "val_macro_f1",
    ),
    "regressor": (
        _regressor,
        lambda **kw: tx.callbacks.EvaluateSimilarity(PAIRS, np.arange(8.0), **kw),
        "val_spearman",
    ),
    "siamese": (
        _siamese,
        lambda **kw: tx.callbacks.EvaluateRetrieval(*PAIRS, RELEVANT, ks=3, **kw),
        "val_mrr@3",
    ),
    "siamese classifier": (
        _siamese_classifier,
        lambda **kw: tx.callbacks.EvaluatePairClassification(PAIRS, [0, 1] * 4, **kw),
        "val_average_precision",
    ),
    "embedder": (
        _embedder,
        lambda **kw: tx.callbacks.EvaluateTriplets((*PAIRS, tiny.TEXTS[::-1]), **kw),
        "val_triplet_margin",
    ),
    "tagger": (
        _tagger,
        lambda **kw: tx.callbacks.EvaluateEntities(tiny.WORD_ROWS, tiny.TAG_ROWS, **kw),
        "val_entity_f1",
    ),
}


@pytest.mark.parametrize("task", STOPPING)
def test_early_stopping_on_an_evaluation_gives_back_the_best_epoch(task, tmp_path):
    make, evaluate, key = STOPPING[task]
    keras.utils.set_random_seed(0)
    model, loss, x, y = make(tmp_path)
    model.compile(keras.optimizers.Adam(0.03), loss=loss, run_eagerly=True)
    weights, scores = Weights(), evaluate(at_start=False)
    stop = keras.callbacks.EarlyStopping(key, mode="max", patience=2, restore_best_weights=True)
    history = model.fit(x, y, batch_size=8, epochs=8, seed=0, verbose=0, callbacks=[scores, stop, weights]).history
    best = int(np.argmax(history[key]))
    assert stop.best_epoch == best < len(history[key]) - 1
    assert len(history[key]) == best + 3 or len(history[key]) == 8
    for found, kept in zip(model.get_weights(), weights.by_epoch[best], strict=True):
        np.testing.assert_array_equal(found, kept)
    again = evaluate()
    again.set_model(model)
    again.on_epoch_end(0, logs := {})
    assert logs[key] == max(history[key])


# === Files ===


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A training, its uninterrupted result, and the directory with the checkpoint that a killed run left."""
    training = Training(perceptron(), on_points)
    reference, folder = training.fit(), tmp_path_factory.mktemp("cut_off")
    training.fit(tx.callbacks.Resume(folder, every=1), Kill(7))
    return training, reference, folder


def test_a_write_that_is_cut_short_leaves_the_checkpoint_before_it(cut_off, tmp_path, monkeypatch):
    training, reference, folder = cut_off
    folder = shutil.copytree(folder, tmp_path / "run")
    whole = (folder / "checkpoint.npz").read_bytes()

    def dies(*arguments, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array", dies)
        training.fit(tx.callbacks.Resume(folder, every=1), scrambled=True)
    assert (folder / "checkpoint.npz").read_bytes() == whole
    half = folder / "checkpoint.npz.123.part"
    half.write_bytes(whole[: len(whole) // 2])
    assert len(list(folder.iterdir())) == 2
    assert_same(training.fit(tx.callbacks.Resume(folder, every=1), scrambled=True), reference)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.npz"]


def test_a_full_disk_leaves_the_checkpoint_before_it_and_nothing_else(cut_off, tmp_path):
    training, _, folder = cut_off
    folder = shutil.copytree(folder, tmp_path / "run")
    whole = (folder / "checkpoint.npz").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, len(whole) - 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                training.fit(tx.callbacks.Resume(folder, every=1), scrambled=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [each.name for each in folder.iterdir()] == ["checkpoint.npz"]
        assert (folder / "checkpoint.npz").read_bytes() == whole


KEYS = ("identity", "epoch", "batch", "data_epoch", "stopped", "variables", "callbacks")


def write_checkpoint(folder, state, **arrays):
    """Writes a checkpoint: a NumPy .npz file in which one array holds the bytes of JSON."""
    text = np.frombuffer(json.dumps({"format": 1, **state}).encode(), "uint8")
    np.savez(folder / "checkpoint.npz", state=text, **arrays)


def test_a_checkpoint_is_a_file_of_numpys_with_its_state_in_json(cut_off):
    with np.load(cut_off[2] / "checkpoint.npz") as archive:
        state = json.loads(archive["state"].tobytes())
        assert set(archive.files) == {"state", *map(str, range(len(archive.files) - 1))}
    assert set(state) == {"format", *KEYS} and (state["format"], state["epoch"], state["batch"]) == (1, 1, 2)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100], lambda raw: b"", lambda raw: b"x" * 99, "flip", "format"])
def test_a_damaged_checkpoint_is_an_error(damage, tmp_path):
    path = tmp_path / "checkpoint.npz"
    write_checkpoint(tmp_path, {"format": 2} if damage == "format" else {}, **{"0": np.arange(500.0)})
    if damage == "flip":
        raw = bytearray(path.read_bytes())
        raw[-2000] ^= 1
        path.write_bytes(raw)
    elif damage != "format":
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="format 1, not 2" if damage == "format" else "can be read"):
        on_points(perceptron(), [tx.callbacks.Resume(tmp_path)])


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["missing", 1.5])
def test_a_checkpoint_with_wrong_content_is_an_error_that_names_it(key, value, tmp_path):
    state = {"identity": {}, "epoch": 1, "batch": 0, "data_epoch": None, "stopped": False}
    state |= {"variables": {}, "callbacks": [], key: value}
    if value == "missing":
        del state[key]
    write_checkpoint(tmp_path, state)
    with pytest.raises(ValueError, match=rf"`folder`.*checkpoint\.npz has .*'{key}'.*Delete it"):
        on_points(perceptron(), [tx.callbacks.Resume(tmp_path)])


# === Checkpoints of another training ===

DIFFERENT = {
    "class of the model": lambda: type("Other", (keras.Sequential,), {})(perceptron().layers),
    "variables of the model": lambda: perceptron(units=4),
    "optimizer there: Adam, here: SGD": lambda: perceptron(optimizer=keras.optimizers.SGD()),
    "learning_rate": lambda: perceptron(optimizer=keras.optimizers.Adam(0.06)),
    "beta_1": lambda: perceptron(optimizer=keras.optimizers.Adam(0.05, beta_1=0.5)),
    "loss there: .*from_logits.*True.*here: .*from_logits.*False": lambda: _compiled(
        keras.losses.SparseCategoricalCrossentropy()
    ),
    "loss there: .*SparseCategorical.*here: sparse_categorical": lambda: _compiled("sparse_categorical_crossentropy"),
    "dtype policies": lambda: _with_policy("mixed_bfloat16"),
}


def _compiled(loss):
    model = perceptron()
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


def _with_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        return perceptron()
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    Training(perceptron(), on_points).fit(tx.callbacks.Resume(folder, every=1), Kill(7))
    return folder


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_checkpoint_of_another_training_is_an_error_that_names_the_difference(what, checkpoint):
    model = DIFFERENT[what]()
    if not model.compiled:
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises(ValueError, match=what):
        on_points(model, [tx.callbacks.Resume(checkpoint)])
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_what_the_checkpoint_does_not_fit_is_an_error(checkpoint):
    resume = tx.callbacks.Resume(checkpoint)
    with pytest.raises(ValueError, match="batches of an epoch there: 4, here: 5"):
        on_points(perceptron(), [resume], data=points(20))
    with pytest.raises(ValueError, match=r"`epochs`.*>= 2"):
        on_points(perceptron(), [resume], epochs=1)


def test_a_thawed_optimizer_that_is_built_on_other_variables_is_an_error(checkpoint):
    model = perceptron()
    model.layers[0].trainable = False
    model.compile(keras.optimizers.Adam(0.05), model.loss)
    with pytest.raises(ValueError, match="variables of the optimizer"):
        on_points(model, [tx.callbacks.Resume(checkpoint)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: tx.callbacks.Resume(""),
        lambda: tx.callbacks.Resume(None),
        lambda: tx.callbacks.Resume("a", every=0),
        lambda: tx.callbacks.Resume("a", every="epoch"),
        lambda: tx.callbacks.Resume("a", data=points()),
        lambda: tx.callbacks.Resume("a", changed="optimizer"),
        lambda: tx.callbacks.Resume("a", changed=("loss", 1)),
    ],
)
def test_arguments_that_cannot_be_are_errors_at_construction(make):
    with pytest.raises(ValueError, match="Invalid value"):
        make()


def test_two_of_a_kind_are_an_error(tmp_path):
    one = tx.callbacks.Resume(tmp_path)
    for other in (tx.callbacks.Resume(tmp_path / "b"), keras.callbacks.BackupAndRestore(tmp_path / "c")):
        with pytest.raises(ValueError, match="one `Resume`"):
            on_points(perceptron(), [one, other])


def test_a_fit_that_introduces_no_one_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"`fit` introduces callbacks.*callbacks.introduce\(model"):
        perceptron().fit(points(), verbose=0, shuffle=False, callbacks=[tx.callbacks.Resume(tmp_path)])


# === Training data of task models ===


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A classifier killed in its second epoch: the checkpoint directory, and a function that trains it again."""
    folder = tmp_path_factory.mktemp("killed")

    def fit(*, callbacks, labels=LABELS, texts=TEXTS, names=("card", "loan", "other"), loss=None, weights=None):
        keras.utils.set_random_seed(1)
        model = tiny.classifier(folder, labels=list(names))
        model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), loss, run_eagerly=True)
        options = {"seed": 0, "batch_size": 4, "epochs": 2, "verbose": 0, "sample_weight": weights}
        return model.fit(texts, labels, callbacks=callbacks, **options)

    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[tx.callbacks.Resume(folder / "run", every=1), Kill(7)])
    return folder / "run", fit


OTHER = {
    "labels there: loan, here: other": {"names": ("card", "other", "loan")},
    "rows of the data": {"texts": ["Another text", *TEXTS[1:]]},
    "rows of the data there": {"texts": TEXTS[::-1], "labels": LABELS[::-1]},
    "rows of the data there: ": {"labels": ["loan", *LABELS[1:]]},
    "rows of the data there: [0-9a-f]{32}": {"weights": np.arange(16.0)},
    "loss there": {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")},
}


@pytest.mark.parametrize("said", OTHER)
def test_other_labels_rows_targets_weights_or_loss_are_an_error(said, killed):
    folder, fit = killed
    with pytest.raises(ValueError, match=f"{said}.*To resume anyway: `Resume"):
        fit(callbacks=[tx.callbacks.Resume(folder)], **OTHER[said])


def test_what_may_have_changed_is_no_error(killed, tmp_path):
    folder, fit = killed
    shutil.copytree(folder, tmp_path / "run")
    resume = tx.callbacks.Resume(tmp_path / "run", changed=("labels", "loss", "data"))
    options = {name: value for options in OTHER.values() for name, value in options.items()}
    assert len(fit(callbacks=[resume], **options).history["loss"]) == 2 and resume.resumed_at == (1, 2)


def test_other_rows_under_frozen_layers_are_an_error(tmp_path):
    def fit(texts, *callbacks):
        keras.utils.set_random_seed(1)
        model = tiny.classifier(tmp_path)
        tx.freezing.freeze(model, groups=["embeddings", "block_0"])
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
        short = tx.freezing.AboveFrozen(model)
        short.fit(texts, LABELS, batch_size=4, seed=0, epochs=2, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    whole = fit(TEXTS)
    with pytest.raises(KeyboardInterrupt):
        fit(TEXTS, tx.callbacks.Resume(tmp_path / "run", every=1), Kill(7))
    with pytest.raises(ValueError, match="rows of the data"):
        fit([text.replace("card", "loan") for text in TEXTS], tx.callbacks.Resume(tmp_path / "run"))
    for found, expected in zip(fit(TEXTS, tx.callbacks.Resume(tmp_path / "run")), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_batches_that_were_done_are_not_made_again(tmp_path, monkeypatch):
    preprocessor = tiny.preprocessor(tmp_path)
    train = tx.data.batches((TEXTS, np.arange(16.0)), preprocessor, batch_size=2, seed=0, bucket=False, prefetch=False)
    model = tx.models.TextRegressor(tiny.backbone(), preprocessor)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    train.epoch = 3
    with pytest.raises(KeyboardInterrupt):
        model.fit(train, verbose=0, callbacks=[tx.callbacks.Resume(tmp_path / "run", every=1), Kill(6)])
    whole = [y.numpy().tolist() for _, y in train.rest(3)]
    resume = tx.callbacks.Resume(tmp_path / "run")
    callbacks, dataset = tx.callbacks.introduce(model, train, callbacks=[resume], epochs=2, verbose=0)
    assert int(dataset.cardinality()) == 8
    train.epoch = 0
    assert [y.numpy().tolist() for _, y in dataset] == [y.numpy().tolist() for _, y in train.rest(0)]
    callbacks.on_train_begin()
    assert resume.resumed_at == (0, 5)
    asked = []
    monkeypatch.setattr(train, "rest", lambda *arguments: asked.append(arguments))
    found = [y.numpy().tolist() for _, y in dataset]
    assert found == [whole[5]] * 5 + whole[5:] and train.epoch == 4 and not asked
    assert [y.numpy().tolist() for _, y in dataset] != found  # epoch 4, from its first batch
    assert train.epoch == 5


class Loud(tx.callbacks.Resume):
    """A subclass that overrides a method that Keras calls."""

    def set_model(self, model):
        super().set_model(model)
        self.was_set = True


def test_subclasses_and_lists_of_the_user_s_own_work(killed, tmp_path):
    folder, fit = killed
    shutil.copytree(folder, tmp_path / "run")
    loud = Loud(tmp_path / "run")
    listed = keras.callbacks.CallbackList([loud], add_history=True, epochs=2)
    fit(callbacks=listed)
    assert loud.resumed_at == (1, 2) and loud.was_set
    assert [type(each).__name__ for each in listed.callbacks] == ["Loud", "History", "_Closing"]
