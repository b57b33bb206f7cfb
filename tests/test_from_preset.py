"""`from_preset` on directories from `save_to_preset`: the whole task, or only its backbone with a warning."""

import json
import warnings

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx
from tfxfer import layers, models

PAIRS = (tiny.TEXTS[:4], tiny.TEXTS[4:])


def same(left, right, x=tiny.TEXTS):
    np.testing.assert_allclose(tiny.outputs(left, x), tiny.outputs(right, x), atol=1e-6)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    """Saves a classifier with non-default settings and weights away from their initial values."""
    folder = tmp_path_factory.mktemp("classifier")
    model = tiny.classifier(
        folder, multi_label=True, threshold=0.3, head="mlp", dropout=0.2, pooling=("cls", "max"), trainable=["head"]
    )
    rng = np.random.default_rng(3)
    model.set_weights([w + rng.normal(0, 0.1, w.shape).astype("float32") for w in model.get_weights()])
    model.preprocessor.tokenizer.special_tokens_in_strings = True
    model.save_to_preset(folder / "saved")
    return folder / "saved"


# === The whole task ===


def test_a_classifier_comes_back_whole(classifier_folder):
    saved = keras.saving.load_model(classifier_folder / "model.keras")
    model = models.TextClassifier.from_preset(classifier_folder)
    assert (model.labels, model.multi_label, model.threshold) == (["card", "loan", "other"], True, 0.3)
    assert (model.pooling, model.dropout, model.get_config()["head"]) == (("cls", "max"), 0.2, "mlp")
    assert model.preprocessor.tokenizer.special_tokens_in_strings and model.preprocessor.sequence_length == 16
    assert not model.backbone.trainable_weights and model.head.trainable_weights
    same(model, saved)
    names = model.classify(tiny.TEXTS).labels
    assert names == saved.classify(tiny.TEXTS, threshold=0.3).labels


def test_a_head_of_ones_own_comes_back(tmp_path):
    head = keras.Sequential([keras.layers.Dense(5, "relu"), keras.layers.Dense(3)], name="mine")
    model = tiny.classifier(tmp_path, head=head, pooling=layers.DensePooling(6, "tanh"))
    model.save_to_preset(tmp_path / "saved")
    again = models.TextClassifier.from_preset(tmp_path / "saved")
    same(again, model)
    with pytest.raises(ValueError, match=r"`labels`.*layer of your own"):
        models.TextClassifier.from_preset(tmp_path / "saved", labels=["loan", "card", "other"])


def test_a_regressor_comes_back_whole(tmp_path):
    model = models.TextRegressor(
        tiny.backbone(), tiny.preprocessor(tmp_path), num_outputs=2, score_activation="tanh", pooling="max"
    )
    model.save_to_preset(tmp_path / "saved")
    again = models.TextRegressor.from_preset(tmp_path / "saved")
    assert (again.num_outputs, again.score_activation, again.pooling) == (2, "tanh", ("max",))
    same(again, model, PAIRS)
    assert again.scores(PAIRS).shape == (4, 2)
    changed = models.TextRegressor.from_preset(tmp_path / "saved", score_activation=None)
    np.testing.assert_allclose(changed.scores(PAIRS), tiny.outputs(model, PAIRS), atol=1e-6)


def test_towers_come_back_whole(tmp_path):
    model = models.Siamese(tiny.embedder(tmp_path, pooling="max", prompts={"q": "where "}), decoder="dot", chunk_size=3)
    model.save_to_preset(tmp_path / "saved")
    again = models.Siamese.from_preset(tmp_path / "saved", chunk_size=3)
    assert (again.chunk_size, again.embedder.pooling, again.embedder.prompts) == (3, ("max",), {"q": "where "})
    same(again, model, PAIRS)
    assert models.Siamese.from_preset(tmp_path / "saved", chunk_size=2).chunk_size == 2
    embedder = models.TextEmbedder.from_preset(tmp_path / "saved")  # no trained part is left out
    np.testing.assert_allclose(embedder.encode(tiny.TEXTS), model.embedder.encode(tiny.TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match="`pooling`"):
        models.Siamese.from_preset(tmp_path / "saved", pooling="mean")


def test_a_siamese_classifier_comes_back_whole(tmp_path):
    model = models.SiameseClassifier(tiny.embedder(tmp_path), labels=["same", "other"], features=("u*v",), dropout=0.1)
    model.save_to_preset(tmp_path / "saved")
    again = models.SiameseClassifier.from_preset(tmp_path / "saved")
    assert again.labels == ["same", "other"] and again.get_config()["features"] == ["u*v"]
    same(again, model, PAIRS)
    assert type(models.Siamese.from_preset(tmp_path / "saved")) is models.SiameseClassifier
    other = models.SiameseClassifier.from_preset(tmp_path / "saved", labels=["other", "same"])
    x = tiny.outputs(model, PAIRS)
    np.testing.assert_allclose(tiny.outputs(other, PAIRS), x[:, ::-1], atol=1e-6)
    with pytest.warns(UserWarning, match="'same', 'other'"):
        assert models.SiameseClassifier.from_preset(tmp_path / "saved", labels=["a", "b", "c"]).output_shape[-1] == 3
    with pytest.warns(UserWarning, match=r"`TextEmbedder.from_preset`.*`SiameseClassifier`"):
        models.TextEmbedder.from_preset(tmp_path / "saved")


@keras.saving.register_keras_serializable("tfxfer_tests")
class Stars(models.TextClassifier):
    """A user-defined task: labels 1 to n and an additional argument."""

    def __init__(self, backbone, preprocessor=None, *, shift=0.0, **kwargs):
        self.shift = shift
        super().__init__(backbone, preprocessor, **kwargs)

    def get_config(self):
        return {**super().get_config(), "shift": self.shift}


def test_a_class_of_the_users_comes_back_by_its_own_name_and_its_bases(tmp_path):
    model = Stars(tiny.backbone(), tiny.preprocessor(tmp_path), labels=[1, 2, 3], shift=0.5)
    model.save_to_preset(tmp_path / "saved")
    for kind in (Stars, models.TextClassifier):
        again = kind.from_preset(tmp_path / "saved")
        assert type(again) is Stars and (again.shift, again.labels) == (0.5, [1, 2, 3])
        same(again, model)
    with pytest.raises(ValueError, match=r"`shift`.*0.5.*shift=1.0"):
        Stars.from_preset(tmp_path / "saved", shift=1.0)
    with pytest.raises(ValueError, match=r"`shift`.*0.5.*shift=1.0"):  # the saved class has this argument
        models.TextClassifier.from_preset(tmp_path / "saved", shift=1.0)
    with pytest.raises(ValueError, match=r"`shfit`.*an argument of the saved `Stars`"):
        models.TextClassifier.from_preset(tmp_path / "saved", shfit=1.0)
    tiny.classifier(tmp_path).save_to_preset(tmp_path / "plain")
    with pytest.warns(UserWarning, match=r"`Stars.from_preset`.*`TextClassifier`"):
        assert Stars.from_preset(tmp_path / "plain", labels=[1, 2], shift=2.0).shift == 2.0


def test_a_class_that_is_not_registered_is_an_error_that_says_so(tmp_path):
    tiny.classifier(tmp_path).save_to_preset(tmp_path / "saved")
    (tmp_path / "saved" / "model.keras").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"model.keras can be read.*imported and registered"):
        models.TextClassifier.from_preset(tmp_path / "saved")


def test_training_goes_on_with_the_optimizers_state(tmp_path):
    model = tiny.classifier(tmp_path)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, seed=0, verbose=0)
    model.save_to_preset(tmp_path / "saved")
    again = models.TextClassifier.from_preset(tmp_path / "saved")
    assert int(again.optimizer.iterations) == 2
    again.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, seed=1, verbose=0)
    assert int(again.optimizer.iterations) == 4


# === Arguments ===


def test_dtype_length_weights_and_special_tokens_are_overridden(classifier_folder):
    saved = models.TextClassifier.from_preset(classifier_folder)
    half = models.TextClassifier.from_preset(
        classifier_folder, dtype="mixed_bfloat16", sequence_length=8, special_tokens_in_strings=False
    )
    assert (half.backbone.compute_dtype, half.preprocessor.sequence_length) == ("bfloat16", 8)
    assert not half.preprocessor.tokenizer.special_tokens_in_strings
    for left, right in zip(half.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    short = [text[:12] for text in tiny.TEXTS]
    assert 0 < np.abs(tiny.outputs(half, short) - tiny.outputs(saved, short)).max() < 0.2
    with pytest.raises(ValueError, match="`sequence_length`"):
        models.TextClassifier.from_preset(classifier_folder, sequence_length=33)

    random = models.TextClassifier.from_preset(classifier_folder, load_weights=False)
    assert random.labels == saved.labels and random.threshold == 0.3
    assert [w.shape for w in random.get_weights()] == [w.shape for w in saved.get_weights()]
    assert all(not np.array_equal(new, old) for new, old in zip(random.get_weights(), saved.get_weights(), strict=True))
    assert len(random.classify(tiny.TEXTS).labels) == 8  # the vocabulary is loaded


def test_arguments_that_agree_or_change_nothing_trained_are_taken(classifier_folder):
    saved = models.TextClassifier.from_preset(classifier_folder)
    model = models.TextClassifier.from_preset(
        classifier_folder,
        labels=("card", "loan", "other"),
        multi_label=True,
        pooling=["cls", "max"],
        head="mlp",
        dropout=0.0,
        threshold=0.7,
        trainable=True,
        name="other_name",
    )
    assert (model.dropout, model.threshold, model.name) == (0.0, 0.7, "other_name")
    assert len(model.trainable_weights) == len(model.weights)
    same(model, saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, r"`pooling`.*'cls', 'max'.*backbone_only"),
        ({"head": "linear"}, r"`head`.*'mlp'"),
        ({"multi_label": False}, r"`multi_label`.*True"),
        ({"threshold": 1.5}, "`threshold`"),
    ],
)
def test_arguments_that_contradict_the_saved_ones_are_errors(classifier_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.TextClassifier.from_preset(classifier_folder, **arguments)


@pytest.mark.parametrize("preset", ["saved", "no_such_preset"])
@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (models.TextClassifier, {"label": ["a", "b"]}, r"`TextClassifier.from_preset`.*'label'.*`labels`"),
        (models.TextClassifier, {"num_outputs": 3}, r"'num_outputs'.*It takes labels, multi_label, "),
        (models.TextRegressor, {"labels": ["a", "b"]}, r"`TextRegressor.from_preset`.*'labels'"),
        (models.TextEmbedder, {"dropout": 0.1}, r"`TextEmbedder.from_preset`.*'dropout'"),
        (models.Siamese, {"labels": ["a", "b"]}, r"`Siamese.from_preset`.*'labels'"),
        (models.SiameseClassifier, {"label": ["a", "b"]}, r"`SiameseClassifier.from_preset`.*`labels`"),
    ],
)
def test_an_argument_that_the_class_does_not_have_is_an_error_before_anything_is_loaded(
    classifier_folder, preset, kind, arguments, message
):
    preset = classifier_folder if preset == "saved" else preset
    with pytest.raises(TypeError, match=message):
        kind.from_preset(preset, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: tiny.classifier(folder, droput=0.5), "`TextClassifier` got.*'droput'. Did you mean `dropout`?"),
        (lambda folder: tiny.embedder(folder, poolin="max"), "`TextEmbedder` got.*'poolin'. Did you mean `pooling`?"),
        (lambda folder: tiny.tagger(folder, scheem="IOB2"), "'scheem'. Did you mean `scheme`?"),
        (lambda folder: tiny.masked(folder, mask_ratio=0.5), "'mask_ratio'. Did you mean `mask_rate`?"),
        (lambda folder: tiny.sparse(folder, dim=4), "`SparseEmbedder` got.*'dim'. It takes .*vocabulary_chunk"),
        (lambda folder: models.Siamese(tiny.embedder(folder), chunksize=2), "'chunksize'. Did you mean `chunk_size`?"),
        (lambda folder: Rating(tiny.backbone(), trainble=False), "`Rating` got.*'trainble'. Did you mean `trainable`?"),
    ],
)
def test_an_argument_that_a_constructor_does_not_have_is_an_error(tmp_path, make, message):
    with pytest.raises(TypeError, match=message):
        make(tmp_path)


class Rating(models.TextTask):
    """A user's class, which passes on the arguments that it does not know."""

    def __init__(self, backbone, preprocessor=None, **kwargs):
        pooling, head = layers.Pooling("mean", name="pooling"), keras.layers.Dense(1, name="head")
        pooled = pooling(backbone(backbone.input), padding_mask=backbone.input["padding_mask"])
        parts = {"backbone": backbone, "preprocessor": preprocessor, "top": [head]}
        super().__init__(backbone.input, head(pooled), **parts, **kwargs)


def test_a_class_of_the_user_passes_on_the_arguments_of_every_model(tmp_path):
    model = Rating(tiny.backbone(), tiny.preprocessor(tmp_path), name="rating", compile=False, trainable=["head"])
    assert model.name == "rating" and not model.compiled
    assert {weight.path.split("/")[0] for weight in model.trainable_variables} == {"head"}


def test_a_trained_head_with_another_rate_of_dropout_keeps_its_weights(tmp_path):
    model = tiny.classifier(tmp_path, head=layers.Head(3, (5,), "relu", 0.2, name="head"), dropout=0.2)
    model.save_to_preset(tmp_path / "saved")
    models.TextClassifier.from_preset(tmp_path / "saved", head=layers.Head(3, (5,), "relu", 0.2, name="head"))
    with pytest.raises(ValueError, match="`head`"):
        models.TextClassifier.from_preset(tmp_path / "saved", head=layers.Head(3, (5,), "tanh", 0.2, name="head"))
    again = models.TextClassifier.from_preset(tmp_path / "saved", dropout=0.5, threshold=0.1)
    assert (again.head.dropout, again.head.hidden_dropout, again.dropout, again.threshold) == (0.5, 0.5, 0.5, 0.1)
    same(again, model)


def test_saved_labels_are_reordered_renamed_or_replaced_with_a_warning(classifier_folder):
    saved = models.TextClassifier.from_preset(classifier_folder)
    logits = tiny.outputs(saved, tiny.TEXTS)
    other = models.TextClassifier.from_preset(classifier_folder, labels=["other", "card", "loan"])
    assert other.labels == ["other", "card", "loan"] and other.multi_label
    np.testing.assert_allclose(tiny.outputs(other, tiny.TEXTS), logits[:, [2, 0, 1]], atol=1e-6)
    assert other.classify(tiny.TEXTS).labels == saved.classify(tiny.TEXTS).labels
    renamed = models.TextClassifier.from_preset(classifier_folder, labels={"card": "Karte", "loan": "x", "other": "y"})
    assert renamed.labels == ["Karte", "x", "y"]
    np.testing.assert_allclose(tiny.outputs(renamed, tiny.TEXTS), logits, atol=1e-6)
    with pytest.raises(ValueError, match="`labels`"):
        models.TextClassifier.from_preset(classifier_folder, labels={"card": "Karte"})
    with pytest.warns(UserWarning, match=r"`TextClassifier`.*'card', 'loan', 'other'") as caught:
        new = models.TextClassifier.from_preset(classifier_folder, labels=["a", "b"])
    assert caught[0].filename == __file__
    assert (new.labels, new.multi_label, new.threshold) == (["a", "b"], False, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.TextClassifier.from_preset(classifier_folder, labels=["a", "b"], backbone_only=True)


def test_a_model_without_a_preprocessor_comes_back_without(tmp_path):
    model = models.TextClassifier(tiny.backbone(), labels=["a", "b"])
    model.save_to_preset(tmp_path / "saved")
    again = models.TextClassifier.from_preset(tmp_path / "saved")
    assert again.preprocessor is None and again.labels == ["a", "b"]
    for arguments in ({"sequence_length": 8}, {"special_tokens_in_strings": True}):
        with pytest.raises(ValueError, match=r"`preset`.*preprocessor"):
            models.TextClassifier.from_preset(tmp_path / "saved", **arguments)


# === Another class ===


@pytest.mark.parametrize("kind", [models.TextEmbedder, models.TextRegressor, models.Siamese])
def test_another_class_takes_the_backbone_and_says_so_or_is_asked_to(classifier_folder, kind):
    with pytest.warns(UserWarning, match=rf"`{kind.__name__}.from_preset`.*`TextClassifier`.*backbone_only=True"):
        model = kind.from_preset(classifier_folder)
    saved = keras.saving.load_model(classifier_folder / "model.keras")
    for left, right in zip(model.backbone.get_weights(), saved.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert getattr(model, "pooling", ("cls", "max")) == ("cls", "max")
    kind.from_preset(classifier_folder, backbone_only=True)


def test_what_leaves_nothing_out_says_nothing(tmp_path):
    embedder = tiny.embedder(tmp_path, pooling="max")
    embedder.save_to_preset(tmp_path / "saved")
    classifier = models.TextClassifier.from_preset(tmp_path / "saved", labels=["a", "b"])
    assert classifier.pooling == ("max",)
    siamese = models.Siamese.from_preset(tmp_path / "saved")
    np.testing.assert_allclose(siamese.embedder.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS), atol=1e-6)
    changed = models.TextEmbedder.from_preset(tmp_path / "saved", normalize=False, prompts={"q": "x"})
    np.testing.assert_allclose(
        changed.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS, normalize=False), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="`labels`"):
        models.TextClassifier.from_preset(tmp_path / "saved")


def test_an_embedder_with_dense_layers_keeps_them_as_an_embedder_only(tmp_path):
    dense = [{"units": 4, "activation": "tanh", "use_bias": True}]
    embedder = tiny.embedder(tmp_path, dense=dense)
    embedder.save_to_preset(tmp_path / "saved")
    for again in (
        models.TextEmbedder.from_preset(tmp_path / "saved"),
        models.TextEmbedder.from_preset(tmp_path / "saved", prompts={"q": "x"}),
        models.Siamese.from_preset(tmp_path / "saved").embedder,
    ):
        np.testing.assert_allclose(again.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS), atol=1e-6)
    with pytest.warns(UserWarning, match="`TextEmbedder`"):
        models.TextClassifier.from_preset(tmp_path / "saved", labels=["a", "b"])


def test_the_threshold_can_be_set_and_is_checked(tmp_path):
    model = tiny.classifier(tmp_path, multi_label=True)
    assert model.threshold == 0.5
    model.threshold = 0.0
    assert all(len(names) == 3 for names in model.classify(tiny.TEXTS).labels)
    assert all(not names for names in model.classify(tiny.TEXTS, threshold=1.0).labels)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").threshold == 0.0
    for value in (-0.1, 1.1, "0.5"):
        with pytest.raises(ValueError, match="`threshold`"):
            model.threshold = value


def test_a_saved_folder_says_which_class_wrote_it(classifier_folder):
    assert json.loads((classifier_folder / "tfxfer.json").read_text())["class"] == "TextClassifier"
    loaded = tx.backbones.load(classifier_folder)
    assert loaded.trained_task == "TextClassifier" and loaded.task.backbone is loaded.backbone
