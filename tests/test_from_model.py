"""From task A to task B: `from_model`, `from_preset` of a model of another class, and labels that both heads share."""

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx
from tfxfer import layers, models

LABELS = {"labels": ["yes", "no"]}
# Every class that a model can become, with the arguments that its constructor requires.
TARGETS = {
    models.TextClassifier: LABELS,
    models.TextRegressor: {},
    models.TextEmbedder: {},
    models.Siamese: {},
    models.SiameseClassifier: LABELS,
    models.TokenTagger: {"tags": ["O", "B-x"]},
}
# Every kind of head that the source model may have.
SOURCES = {
    "linear": lambda folder: tiny.classifier(folder, pooling=("cls", "max")),
    "mlp": lambda folder: tiny.classifier(folder, pooling=("cls", "max"), head="mlp", multi_label=True),
    "layers.Head": lambda folder: tiny.classifier(folder, pooling=("cls", "max"), head=layers.Head(3, (5,), "relu")),
    "own": lambda folder: tiny.classifier(
        folder, pooling=layers.DensePooling(6, mode=("cls", "max")), head=keras.Sequential([keras.layers.Dense(3)])
    ),
    "regressor": lambda folder: models.TextRegressor(
        tiny.backbone(), tiny.preprocessor(folder), pooling=("cls", "max"), num_outputs=2
    ),
    "embedder": lambda folder: tiny.embedder(folder, pooling=("cls", "max"), dense=[{"units": 4}]),
    "siamese": lambda folder: models.Siamese(tiny.embedder(folder, pooling=("cls", "max")), decoder="dot"),
    "siamese classifier": lambda folder: models.SiameseClassifier(
        tiny.embedder(folder, pooling=("cls", "max")), labels=["a", "b", "c"]
    ),
    "tagger": lambda folder: tiny.tagger(folder),
    "crf": lambda folder: tiny.tagger(folder, head="crf"),
}


def texts_of(model):
    return keras.ops.convert_to_numpy(model(tiny.inputs(model)))


def equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def adapted(model):
    tx.freezing.add_lora(model, rank=2)
    for variable in model.backbone.lora_variables().values():
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    return model


def quantized(model):
    model.quantize("int8")
    return model


def frozen(model):
    model.set_trainable({"embeddings": False})
    return model


STATES = {
    "adapters": adapted,
    "quantized": quantized,
    "tokens": lambda model: model.with_added_tokens(["IBAN"]),
    "frozen": frozen,
}


@pytest.mark.filterwarnings("ignore:.*head is left out")
@pytest.mark.parametrize("way", ["from_model", "from_preset"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_task_gives_backbone_and_pooling_to_every_other(source, way, tmp_path):
    model = SOURCES[source](tmp_path)
    given = model
    if way == "from_preset":
        model.save_to_preset(tmp_path / "saved")
        given = tmp_path / "saved"
    has_pooling = source not in ("tagger", "crf")
    for kind, arguments in TARGETS.items():
        made = getattr(kind, way)(given, **arguments)
        equal(made.backbone.weights, model.backbone.weights)
        assert made.backbone is not model.backbone and made.preprocessor is not model.preprocessor
        if kind is not models.TokenTagger:
            assert made.tower().pooling == (("cls", "max") if has_pooling else ("mean",))


@pytest.mark.filterwarnings("ignore:.*head is left out")
@pytest.mark.parametrize("state", STATES)
def test_the_backbone_stays_as_it_is_with_adapters_bits_tokens_and_flags(state, tmp_path):
    model = STATES[state](tiny.classifier(tmp_path))
    model.save_to_preset(tmp_path / "saved")
    packed = model.preprocessor(["my IBAN is lost", *tiny.TEXTS])
    states = keras.ops.convert_to_numpy(model.backbone(packed))
    for way, source in (
        (models.TextEmbedder.from_preset, tmp_path / "saved"),
        (models.TextRegressor.from_model, model),
    ):
        made = way(source)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(made.backbone(packed)), states, atol=1e-6)
        assert [w.trainable for w in made.backbone.weights] == [w.trainable for w in model.backbone.weights]
        assert made.backbone.lora == model.backbone.lora
        assert made.backbone.quantization == model.backbone.quantization
        assert made.preprocessor.tokenizer.vocabulary == model.preprocessor.tokenizer.vocabulary
    if state == "adapters":
        tx.freezing.merge_lora(made)
        assert made.backbone.lora is None
        np.testing.assert_allclose(keras.ops.convert_to_numpy(made.backbone(packed)), states, atol=1e-5)
    if state == "frozen":
        made = models.TextRegressor.from_model(model, trainable=True)
        assert len(made.trainable_weights) == len(made.weights)


def test_the_warning_says_what_is_left_out_and_where(tmp_path):
    model = tiny.classifier(tmp_path)
    said = r"`TextRegressor.from_model`.*the model is a trained `TextClassifier`.*backbone_only=True"
    with pytest.warns(UserWarning, match=said) as caught:
        models.TextRegressor.from_model(model)
    assert caught[0].filename == __file__
    models.TextRegressor.from_model(model, backbone_only=True)
    models.Siamese.from_model(tiny.embedder(tmp_path, normalize=False))


def test_a_copy_of_the_same_class_shares_nothing_and_a_shared_one_all(tmp_path):
    model = tiny.classifier(tmp_path, head="mlp", multi_label=True, threshold=0.3)
    model.preprocessor.sequence_length = 9
    made = models.TextClassifier.from_model(model, threshold=0.7)
    assert (made.threshold, made.multi_label, made.preprocessor.sequence_length) == (0.7, True, 9)
    np.testing.assert_allclose(texts_of(made), texts_of(model), atol=1e-6)
    assert not {id(w) for w in made.weights} & {id(w) for w in model.weights}
    before = model.get_weights()
    made.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    made.train_on_batch(tiny.TEXTS, [[label] for label in tiny.LABELS])
    made.preprocessor.tokenizer.add_tokens(["IBAN"])
    equal(model.get_weights(), before)
    assert "IBAN" not in model.preprocessor.tokenizer.vocabulary

    assert models.TextClassifier.from_model(model, share_backbone=True) is model
    regressor = models.TextRegressor.from_model(model, share_backbone=True, backbone_only=True)
    assert regressor.backbone is model.backbone and regressor.preprocessor is model.preprocessor
    other = models.TextClassifier.from_model(model, share_backbone=True, labels=["loan", "other", "card"])
    assert other.backbone is model.backbone and other.head is not model.head
    np.testing.assert_allclose(texts_of(other), texts_of(model)[:, [1, 2, 0]], atol=1e-6)


def test_bad_arguments_are_errors(tmp_path):
    model = tiny.classifier(tmp_path)
    with pytest.raises(ValueError, match=r"`model`.*a task model.*from_preset"):
        models.TextClassifier.from_model("all_minilm_l6_v2")
    with pytest.raises(ValueError, match=r"`model`.*constructor"):
        models.TextClassifier.from_model(model.backbone)
    with pytest.raises(ValueError, match="`share_backbone`"):
        models.TextClassifier.from_model(model, share_backbone=1)
    with pytest.raises(TypeError, match=r"`TextClassifier.from_model`.*'dtype'.*It takes"):
        models.TextClassifier.from_model(model, dtype="float16")
    with pytest.raises(TypeError, match=r"`TextRegressor.from_model`.*'labels'"):
        models.TextRegressor.from_model(model, labels=["a", "b"])
    with pytest.raises(ValueError, match=r"`labels`.*TextRegressor"):
        models.TextClassifier.from_model(models.TextRegressor.from_model(model, backbone_only=True))


# === Labels that both heads share ===


@pytest.mark.parametrize("source", ["linear", "mlp", "layers.Head", "siamese classifier"])
def test_labels_that_both_heads_know_keep_their_outputs(source, tmp_path):
    model = SOURCES[source](tmp_path)
    rng = np.random.default_rng(1)
    for weight in model.layer_groups()["head"][-1].weights:
        weight.assign(rng.normal(size=weight.shape))
    first, _, last = model.labels
    names = ["new", last, first, "newer"]
    expected = texts_of(model)[:, [2, 0]]
    kind = type(model)
    found = [kind.from_model(model, labels=names, keep_labels=True)]
    if source == "linear":
        model.save_to_preset(tmp_path / "saved")
        found.append(kind.from_preset(tmp_path / "saved", labels=names, keep_labels=True))
    for made in found:
        assert made.labels == names and made.multi_label == model.multi_label and not made.has_new_head()
        np.testing.assert_allclose(texts_of(made)[:, 1:3], expected, atol=1e-6)
        kernel, bias = (keras.ops.convert_to_numpy(w) for w in made._output_dense().weights)
        old = keras.ops.convert_to_numpy(model._output_dense().kernel)
        np.testing.assert_array_equal(kernel[:, 1:3], old[:, [2, 0]])
        assert (bias[[0, 3]] == 0).all() and 0 < np.abs(kernel[:, [0, 3]]).max() < 0.1
    fewer = kind.from_model(model, labels=[last], keep_labels=True) if kind is models.TextClassifier else None
    if fewer is not None and model.multi_label:
        np.testing.assert_allclose(texts_of(fewer), expected[:, :1], atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "crf"])
def test_tags_that_both_taggers_know_keep_scores_and_transitions(head, tmp_path):
    model = tiny.tagger(tmp_path, head=head)
    tags = ["B-new", "I-new", "O", "I-thing", "B-thing"]
    made = models.TokenTagger.from_model(model, tags=tags, keep_labels=True)
    places = {new: tiny.TAGS.index(tag) for new, tag in enumerate(tags) if tag in tiny.TAGS}
    kernels = [keras.ops.convert_to_numpy(each.head.denses[-1].kernel) for each in (made, model)]
    for new, old in places.items():
        np.testing.assert_array_equal(kernels[0][:, new], kernels[1][:, old])
    if head == "crf":
        for name in ("transitions", "start", "end"):
            new, old = (keras.ops.convert_to_numpy(getattr(each.crf, name)) for each in (made, model))
            rows = np.ix_(*[list(places)] * new.ndim), np.ix_(*[list(places.values())] * new.ndim)
            np.testing.assert_array_equal(new[rows[0]], old[rows[1]])
            others = np.ones(new.shape, bool)
            others[rows[0]] = False
            assert others.any() and np.abs(new[others]).max() < 0.5
    with pytest.raises(ValueError, match=r"`tags`.*some of the trained 'O'"):
        models.TokenTagger.from_model(model, tags=["B-new", "I-new"], keep_labels=True)


@pytest.mark.parametrize("kind", [models.TextClassifier, models.TokenTagger])
def test_a_checkpoints_head_keeps_its_labels_too(kind, tmp_path):
    name = "labels" if kind is models.TextClassifier else "tags"
    if kind is models.TextClassifier:
        model = tiny.classifier(tmp_path, pooling="cls", head=layers.Head(3, (8,), "tanh", 0.1, name="head"))
    else:
        model = tiny.tagger(tmp_path)
    model.save_to_preset(tmp_path / "written", format="huggingface")
    known = getattr(model, name)
    names = [*known[1:], "B-new"]
    made = kind.from_preset(tmp_path / "written", **{name: names}, keep_labels=True)
    assert getattr(made, name) == names
    old, new = (keras.ops.convert_to_numpy(each.head.denses[-1].kernel) for each in (model, made))
    np.testing.assert_array_equal(new[:, :-1], old[:, 1:])
    assert 0 < np.abs(new[:, -1]).max() < 0.1
    with pytest.warns(UserWarning, match="head is left out"):
        made = kind.from_preset(tmp_path / "written", **{name: names})
    assert not np.array_equal(made.head.denses[-1].kernel[:, :-1], old[:, 1:])


def test_labels_cannot_be_kept_where_there_are_none(tmp_path):
    model = tiny.classifier(tmp_path)
    kind = models.TextClassifier
    with pytest.raises(ValueError, match=r"`labels`.*some of the trained 'card', 'loan', 'other'"):
        kind.from_model(model, labels=["a", "b"], keep_labels=True)
    for source, more in ((tiny.embedder(tmp_path), {}), (model, {"backbone_only": True})):
        with pytest.raises(ValueError, match="`keep_labels`"):
            kind.from_model(source, labels=["card", "b"], keep_labels=True, **more)
    with pytest.raises(ValueError, match=r"`labels`.*layer of your own"):
        kind.from_model(SOURCES["own"](tmp_path), labels=["card", "b"], keep_labels=True)
    with pytest.raises(ValueError, match=r"`multi_label`"):
        kind.from_model(model, labels=["card", "b"], keep_labels=True, multi_label=True)
