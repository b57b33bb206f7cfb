"""Engines: a copy of the weights that computes instead of the model."""

import keras
import numpy as np
import pytest
import tiny

from tfxfer import export, models

pytest.importorskip("ai_edge_litert", reason="no ai_edge_litert, of the extra `litert`")

TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "card " * 40, "the " * 9, "my money was lost " * 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture
def embedder(folder):
    return tiny.embedder(folder)


@pytest.fixture(scope="module")
def eight_bits(folder):
    """A classifier with an engine that computes in eight bits; tests do not change it."""
    model = tiny.classifier(folder)
    model.engine = export.Engine(model, "int8", threads=1)
    return model


def rows(model, texts):
    """Texts in the form that a model takes."""
    return (texts, texts[1:] + texts[:1]) if model.text_form == "separate" else texts


MAKES = {
    "embedder": lambda folder: tiny.embedder(folder, prompts={"query": "where is "}),
    "classifier": tiny.classifier,
    "regressor": lambda folder: models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder), num_outputs=2),
    "siamese": lambda folder: models.SiameseClassifier(tiny.embedder(folder), labels=["same", "other"]),
}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", MAKES)
def test_an_engine_answers_as_the_model_and_alike_whatever_the_batch(kind, dtype, folder):
    model = MAKES[kind](folder)
    expected = model.predict(rows(model, TEXTS), verbose=0)
    model.engine = export.Engine(model, dtype)
    found = model.predict(rows(model, TEXTS), verbose=0)
    close = {"float32": 1e-5, "int8": 0.1}[dtype]
    np.testing.assert_allclose(found, expected, atol=close * max(1, np.abs(expected).max()))
    assert (dtype == "int8") == (np.abs(found - expected).max() > 1e-4)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    for size in (1, 3, 5):
        columns = rows(model, TEXTS)
        mixed = (
            tuple([c[i] for i in order] for c in columns) if isinstance(columns, tuple) else [TEXTS[i] for i in order]
        )
        again = model.predict(mixed, batch_size=size, verbose=0)
        np.testing.assert_array_equal(again, found[order])  # bit for bit
    model.engine = None
    np.testing.assert_allclose(model.predict(rows(model, TEXTS), verbose=0), expected, atol=1e-6)


def test_all_that_reads_texts_goes_through_the_engine(eight_bits):
    model = eight_bits
    logits = model.predict(TEXTS, verbose=0)
    assert model.classify(TEXTS).probabilities == pytest.approx(np.asarray(keras.ops.softmax(logits)), abs=1e-6)
    parts = list(model.predict(iter(TEXTS), batch_size=2))
    np.testing.assert_array_equal(np.concatenate(parts), logits)
    assert model.predict([], verbose=0).shape == (0, 3)
    assert model.engine.dtype == "int8" and 0 < model.engine.difference < 0.1


def test_prompts_and_single_texts(folder):
    embedder = MAKES["embedder"](folder)
    expected = embedder.encode("my card", prompt_name="query")
    embedder.engine = export.Engine(embedder)
    np.testing.assert_allclose(embedder.encode("my card", prompt_name="query"), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"`engine`.*part of the model"):
        embedder.encode("my card", normalize=False)
    with pytest.raises(ValueError, match=r"`engine`.*part of the model"):
        embedder.encode("my card", output="tokens")


def test_layers_that_stay_in_float32_are_chosen_by_name(embedder):
    names = "query|key|value|output_dense|intermediate"
    with pytest.raises(ValueError, match="no product of a dense layer"):
        export.Engine(embedder, "int8", float_layers=names)
    expected, errors = embedder.encode(TEXTS), []
    for layers in ("", "query|key|value|output_dense"):
        embedder.engine = export.Engine(embedder, "int8", float_layers=layers)
        errors.append(np.abs(embedder.encode(TEXTS) - expected).mean())
    assert 0 < errors[1] < errors[0]


def test_weights_that_change_are_noticed(embedder, folder):
    engine = export.Engine(embedder)
    embedder.engine = engine
    weights = embedder.get_weights()
    embedder.set_weights([weight + 0.01 for weight in weights])
    with pytest.raises(ValueError, match=r"`engine`.*weights that have changed.*Make it again"):
        embedder.encode(TEXTS)
    embedder.set_weights(weights)
    embedder.encode(TEXTS)
    other = tiny.embedder(folder)
    with pytest.raises(ValueError, match=r"`engine`.*another model"):
        other.engine = engine


def test_training_ends_it(folder):
    model = tiny.classifier(folder)
    model.engine = export.Engine(model)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    with pytest.warns(UserWarning, match=r"model.engine"):
        model.fit(tiny.TEXTS, tiny.LABELS, verbose=0)
    assert model.engine is None
    model.predict(TEXTS, verbose=0)


def test_an_engine_is_not_saved(folder, tmp_path):
    model = tiny.classifier(folder)
    expected = model.predict(TEXTS, verbose=0)
    model.engine = export.Engine(model, "int8")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.engine is None
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), expected, atol=1e-5)


def test_batches_are_not_computed_by_the_model_unawares(eight_bits):
    with pytest.raises(ValueError, match=r"`engine`.*None for batches"):
        eight_bits.predict(tiny.inputs(eight_bits), verbose=0)
    with pytest.raises(ValueError, match=r"`engine`.*None for batches"):
        eight_bits.predict(TEXTS, verbose=0, callbacks=[keras.callbacks.Callback()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, "`dtype`.*'int4'"),
        ({"threads": 0}, "`threads`.*0"),
        ({"tolerance": -1.0}, "`tolerance`.*-1"),
        ({"dtype": "int8", "tolerance": 1e-6}, "LiteRT matches .*1e-06"),
        ({"examples": [3]}, "`examples`.*3"),
    ],
)
def test_what_cannot_be_is_an_error(arguments, message, embedder):
    with pytest.raises(ValueError, match=message):
        export.Engine(embedder, **arguments)


def test_models_of_words_and_of_other_columns_are_refused(folder):
    with pytest.raises(ValueError, match=r"`model`.*from texts alone.*TokenTagger"):
        export.Engine(tiny.tagger(folder))
    with pytest.raises(ValueError, match=r"`model`.*float32"):
        export.Engine(tiny.embedder(folder, dtype="mixed_bfloat16"))
