"""One export with several sets of adapters: each row uses its own set."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny

import tfxfer as tx

SETS = {"billing": {"rank": 2, "alpha": 3.0}, "travel": {"rank": 3, "targets": ["key", "output"]}}
ADAPTERS = ["travel", "", "billing", "billing", "travel", "", "travel", "billing"]


def randomised(model, seed):
    """Sets adapters and head to random values, as if they were trained."""
    rng = np.random.default_rng(seed)
    head = [weight for layer in model.layer_groups().get("head", ()) for weight in layer.weights]
    for variable in [*model.backbone.lora_variables().values(), *head]:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


def adapted(make, folder):
    """Returns a model for each set of adapters, and the adapter files."""
    keras.utils.set_random_seed(0)
    models, files = {"": make()}, {}
    for seed, (name, options) in enumerate(SETS.items()):
        keras.utils.set_random_seed(0)
        models[name] = make()
        tx.freezing.add_lora(models[name], **options)
        randomised(models[name], seed)
        files[name] = folder / f"{name}.safetensors"
        tx.freezing.save_adapters(models[name], files[name], head="head" in models[name].layer_groups())
    return models, files


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    models, files = adapted(lambda: tiny.classifier(folder), folder)
    before = models[""].get_weights()
    path = tx.export.saved_model(models[""], folder / "export", adapters=files)
    return models, files, before, path


def test_each_row_is_computed_with_its_own_set(classifiers):
    models, _, _, path = classifiers
    served = tf.saved_model.load(path).signatures["serving_default"]
    answers = {name: model.classify(tiny.TEXTS) for name, model in models.items()}
    assert np.abs(answers["billing"].probabilities - answers["travel"].probabilities).max() > 0.05
    for count in (8, 3, 1, 0):
        found = served(
            text=tf.constant(tiny.TEXTS[:count], tf.string), adapter=tf.constant(ADAPTERS[:count], tf.string)
        )
        expected = [answers[name].probabilities[i] for i, name in enumerate(ADAPTERS[:count])]
        np.testing.assert_allclose(found["probabilities"], np.reshape(expected, (count, 3)), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        served(text=tf.constant(["a card"]), adapter=tf.constant(["food"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one length"):
        served(text=tf.constant(["a card"]), adapter=tf.constant(["", ""]))


def test_the_backbone_is_stored_once_and_the_model_stays(classifiers, tmp_path):
    models, files, before, path = classifiers
    for old, new in zip(before, models[""].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert models[""].backbone.lora is None
    size = pathlib.Path(path, "variables", "variables.data-00000-of-00001").stat().st_size
    adapters = sum(file.stat().st_size for file in files.values())
    assert size < 4 * models[""].count_params() + 3 * adapters < 2 * 4 * models[""].count_params() + 3 * adapters
    found = tx.export.describe(path)
    assert found["adapters"] == list(SETS) and set(found["signatures"]["classify"]["inputs"]) == {"text", "adapter"}


@pytest.mark.slow
def test_vectors_and_numbers_choose_too(tmp_path):
    makers = {
        "embed": lambda: tiny.embedder(tmp_path, prompts={"query": "where is "}, default_prompt_name="query"),
        "regress": lambda: tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path)),
    }
    for name, make in makers.items():
        models, files = adapted(make, tmp_path)
        path = tx.export.saved_model(models[""], tmp_path / name, adapters=files)
        signatures = tf.saved_model.load(path).signatures
        assert not {"similarity", "rank", "search"} & set(signatures)
        [found] = signatures[name](text=tf.constant(tiny.TEXTS), adapter=tf.constant(ADAPTERS)).values()
        answers = {
            key: model.encode(tiny.TEXTS) if name == "embed" else model.predict(tiny.TEXTS, verbose=0)
            for key, model in models.items()
        }
        expected = [answers[key][i] for i, key in enumerate(ADAPTERS)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (tiny.classifier, {"adapters": {}}, "argument `adapters`.*a dict of name"),
        (tiny.classifier, {"adapters": {"": "a"}}, "argument `adapters`.*a dict of name"),
        (tiny.classifier, {"adapters": {"a": "nowhere.safetensors"}}, "argument `path`"),
        (tiny.classifier, {"adapters": {"a": "b"}, "weights_dtype": "int8"}, "argument `weights_dtype`.*None with"),
        (tiny.tagger, {"adapters": {"a": "b"}}, "argument `model`.*one text column"),
        (lambda folder: tx.models.Siamese(tiny.embedder(folder)), {"adapters": {"a": "b"}}, "Export the embedder"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path, make, options, said):
    with pytest.raises(ValueError, match=said):
        tx.export.saved_model(make(tmp_path), tmp_path / "export", **options)
