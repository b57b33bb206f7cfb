"""A cold start does no unnecessary work: imports, traces and initial weights."""

import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

LABELS = ["card", "loan"]
PAIRS = (tiny.TEXTS, tiny.TEXTS[3:] + tiny.TEXTS[:3])
NAMES = [LABELS[i % 2] for i in range(len(tiny.TEXTS))]
SCORES = np.linspace(0, 1, len(tiny.TEXTS)).astype("float32")


def layerwise():
    return tx.optimizers.Layerwise(tx.optimizers.AdamW(1e-3), {"head": 10.0}, decay=0.9)


# The model, its inputs and targets, and the arguments of `compile`.
TASKS = {
    "classifier": (lambda *parts: tx.models.TextClassifier(*parts, labels=LABELS), tiny.TEXTS, NAMES, {}),
    "metrics by name": (
        lambda *parts: tx.models.TextClassifier(*parts, labels=LABELS),
        tiny.TEXTS,
        NAMES,
        {"metrics": ["accuracy"], "optimizer": lambda: keras.optimizers.Nadam(1e-3)},
    ),
    "layerwise": (
        lambda *parts: tx.models.TextClassifier(*parts, labels=LABELS, trainable=["head", "block_0"]),
        tiny.TEXTS,
        NAMES,
        {"optimizer": layerwise},
    ),
    "regressor": (lambda *parts: tx.models.TextRegressor(*parts), tiny.TEXTS, SCORES, {"metrics": ["mae"]}),
    "siamese": (
        lambda *parts: tx.models.Siamese(tx.models.TextEmbedder(*parts)),
        PAIRS,
        SCORES,
        {"loss": tx.losses.CoSENTLoss},
    ),
    "decoder": (
        lambda *parts: tx.models.SiameseClassifier(tx.models.TextEmbedder(*parts), labels=LABELS),
        PAIRS,
        NAMES,
        {"weighted_metrics": ["accuracy"]},
    ),
    "tagger": (
        lambda *parts: tx.models.TokenTagger(*parts, tags=tiny.TAGS, head="crf"),
        tiny.WORD_ROWS,
        tiny.TAG_ROWS,
        {},
    ),
}


@pytest.fixture(params=TASKS)
def case(request, tmp_path):
    """A compiled model with its inputs and targets."""
    make, x, y, options = TASKS[request.param]
    model = make(tiny.backbone(), tiny.preprocessor(tmp_path))
    made = {name: value() if callable(value) else value for name, value in options.items()}
    model.compile(made.pop("optimizer", None) or tx.optimizers.AdamW(1e-3), **made)
    return model, x, y


@pytest.fixture
def traces(case, monkeypatch):
    """Counts the traces of training steps (`True`) and test steps (`False`); each trace computes the loss once."""
    found = {True: 0, False: 0}
    compute = type(case[0]).compute_loss

    def counted(self, *arguments, training=True, **named):
        found[training] += 1
        return compute(self, *arguments, training=training, **named)

    monkeypatch.setattr(type(case[0]), "compute_loss", counted)
    return found


def test_fit_and_evaluate_trace_a_step_once_whatever_comes_after(case, traces):
    model, x, y = case
    options = {"batch_size": 8, "verbose": 0}
    model.fit(x, y, epochs=2, **options)
    assert traces == {True: 1, False: 0}
    before = model.get_weights()
    model.fit(x, y, validation_data=(x, y), epochs=2, **options)
    model.evaluate(x, y, **options)
    assert traces == {True: 1, False: 1}
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("case", ["metrics by name", "siamese"], indirect=True)
def test_evaluate_before_fit_is_traced_once(case, traces):
    model, x, y = case
    first = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True) == pytest.approx(first)
    assert traces == {True: 0, False: 1}


def test_flags_that_a_callback_sets_before_the_first_step_hold(tmp_path):
    """The optimizer is built for the weights that train at the first step, not for those when `fit` is called."""

    class Freezes(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.set_trainable(["head"])

    model = tx.models.TextClassifier(tiny.backbone(), tiny.preprocessor(tmp_path), labels=LABELS)
    model.compile(tx.optimizers.AdamW(1e-2))
    before = model.backbone.get_weights()
    model.fit(tiny.TEXTS, NAMES, verbose=0, callbacks=[Freezes()])
    assert len(model.optimizer.variables) == 2 + 2 * len(model.trainable_variables)
    for a, b in zip(before, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["classifier", "siamese", "tagger"], indirect=True)
def test_nothing_is_rewritten_by_autograph(case, monkeypatch):
    from tensorflow.python.autograph.impl import api

    def refuse(entity, *_):
        raise AssertionError(f"{entity} is rewritten")

    model, x, y = case
    monkeypatch.setattr(api, "_convert_actual", refuse)
    model.fit(x, y, batch_size=8, validation_data=(x, y), verbose=0)
    model.fit(tx.data.batches(tx.data.Gate(model).read(x, y)[1], model, cache=False), verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)


def test_an_encoder_that_is_loaded_begins_with_zeros_and_leaves_the_seeds_as_they_were(tmp_path, monkeypatch):
    tiny.embedder(tmp_path).save_to_preset(tmp_path / "saved", format="huggingface")
    states, start, make = [], [], keras.Variable.__init__

    def made(self, initializer, shape=None, *args, **kwargs):
        make(self, initializer, shape, *args, **kwargs)
        if shape is not None and len(shape) == 2:
            start.append(np.abs(self.numpy()).max())

    for is_loaded in (False, True):
        random.seed(1)
        start.clear()
        with monkeypatch.context() as patched:
            patched.setattr(keras.Variable, "__init__", made)
            tx.backbones.load(tmp_path / "saved", load_weights=is_loaded)
        assert start and all((value == 0) == is_loaded for value in start)
        states.append(random.getstate())
    assert states[0] == states[1]


def test_importing_the_package_adds_nothing_heavy_to_tensorflow_keras_and_keras_hub():
    code = (
        "import sys, tensorflow, tensorflow_text, keras, keras_hub\n"
        "before = set(sys.modules)\n"
        "import tfxfer\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - {name.split('.')[0] for name in before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(done.stdout.split()) - sys.stdlib_module_names
    assert added <= {"tfxfer", "safetensors", "sentencepiece", "sklearn", "scipy", "regex"}
