"""Freezing by layer group: which weights train, where dropout applies, what is saved, what is printed."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import tfxfer as tx

FAMILIES = {
    "bert": {},
    "roberta": {},
    "distil_bert": {},
    "albert": {"embedding_dim": 4, "num_groups": 2},
    "electra": {"embedding_dim": 4},
    "deberta_v3": {"bucket_size": 4},
    "gpt2": {},
}
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 16,
}


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("vocabulary"))


def classifier(preprocessor, num_layers=2, **kwargs):
    return tx.models.TextClassifier(
        tiny.backbone(num_layers=num_layers), preprocessor, **{"labels": ["card", "loan", "other"], **kwargs}
    )


def training(model):
    """Returns the groups that train; checks that no group trains only in part."""
    flags = {
        name: {weight.trainable for layer in layers for weight in layer.weights}
        for name, layers in model.layer_groups().items()
    }
    assert all(len(found) <= 1 for found in flags.values()), flags
    return [name for name, found in flags.items() if found == {True}]


def backbone_and_ids(family, **kwargs):
    backbone = tx.backbones.Backbone(family, **{**SIZES, **FAMILIES[family], **kwargs})
    ids = np.arange(14).reshape(2, 7).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return backbone, {**x, "segment_ids": 0 * ids} if backbone.has_segment_ids else x


def test_groups_freeze_by_number_name_and_pattern(preprocessor):
    model = classifier(preprocessor)
    tx.freezing.freeze(model, below=1)
    assert training(model) == ["block_1", "head"]
    tx.freezing.freeze(model, groups="head")
    assert training(model) == ["block_1"], "the others stay as they are"
    tx.freezing.unfreeze(model)
    assert training(model) == ["embeddings", "block_0", "block_1", "head"]
    tx.freezing.freeze(model, groups=["embeddings", "block_[0-9]"])
    assert training(model) == ["head"]
    tx.freezing.unfreeze(model, groups="*_1")
    assert training(model) == ["block_1", "head"]
    tx.freezing.unfreeze(model, below=0)
    assert training(model) == ["embeddings", "block_1", "head"]
    tx.freezing.unfreeze(model)
    tx.freezing.freeze(model, below=2)
    assert training(model) == ["head"]
    tx.freezing.unfreeze(model)
    next(iter(model.layer_groups()["block_0"])).weights[0].trainable = False
    tx.freezing.unfreeze(model)
    assert len(training(model)) == 4, "down to each weight"


def test_flags_are_arguments_of_models_by_pattern_too(preprocessor):
    assert training(classifier(preprocessor, trainable=["block_[1-9]", "head"])) == ["block_1", "head"]
    assert training(classifier(preprocessor, trainable={"*": False, "head": True})) == ["head"]
    backbone = tiny.backbone(num_layers=2)
    backbone.set_trainable({"embeddings": False, "block_0": False})
    embedder = tx.models.TextEmbedder(backbone, preprocessor)
    assert training(embedder) == ["block_1"], "the backbone's own flags stay"
    assert training(tx.models.TextEmbedder(backbone, preprocessor, trainable=True)) == [
        "embeddings",
        "block_0",
        "block_1",
    ]


def test_towers_and_their_embedder_freeze_together(preprocessor):
    embedder = tx.models.TextEmbedder(tiny.backbone(num_layers=2), preprocessor)
    siamese = tx.models.SiameseClassifier(embedder, labels=["a", "b"], chunk_size=4)
    siamese.trainable = False  # Keras's own switch, which freezes whole models
    tx.freezing.unfreeze(siamese, groups=["block_1", "head"])
    assert training(siamese) == ["block_1", "head"] and training(embedder) == ["block_1"]
    before = {w.path: w.numpy() for w in siamese.weights}
    siamese.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    siamese.fit((tiny.TEXTS, tiny.TEXTS[::-1]), ["a", "b"] * 4, verbose=0)
    moved = [w.path for w in siamese.weights if not np.array_equal(w.numpy(), before[w.path])]
    assert moved and all(w.trainable == (w.path in moved) for w in siamese.weights if "key/bias" not in w.path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "groups"),
        ({"below": 1, "groups": "head"}, "groups"),
        ({"below": 3}, "below"),
        ({"below": -1}, "below"),
        ({"below": True}, "below"),
        ({"groups": "pooler"}, "groups"),
        ({"groups": ["head", "block_[2-9]"]}, "groups"),
        ({"groups": ["head", 3]}, "groups"),
        ({"below": 1, "dropout": 0.1}, "dropout"),
    ],
)
def test_what_is_not_there_is_an_error_that_changes_nothing(preprocessor, arguments, named):
    model = classifier(preprocessor)
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        tx.freezing.freeze(model, **arguments)
    if arguments and "dropout" not in arguments:
        with pytest.raises(ValueError, match=f"argument `{named}`"):
            tx.freezing.unfreeze(model, **arguments)
    assert len(training(model)) == 4


def test_a_model_without_groups_is_an_error():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for call in (
        lambda: tx.freezing.freeze(plain, below=1),
        lambda: tx.freezing.unfreeze(plain),
        lambda: tx.freezing.summary(plain),
        lambda: tx.freezing.add_lora(plain),
    ):
        with pytest.raises(ValueError, match="`model`"):
            call()


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_layers_run_without_dropout_unless_they_are_to(family):
    backbone, x = backbone_and_ids(family, dropout=0.5)
    still = ops.convert_to_numpy(backbone(x, training=False))

    def difference():
        return np.abs(ops.convert_to_numpy(backbone(x, training=True)) - still).max()

    assert difference() > 0.1
    everything = dict.fromkeys(backbone.layer_groups(), False)
    backbone.set_trainable(everything)
    assert difference() < 1e-6  # not every kernel repeats its sums to the bit
    for group in everything:  # each group has its own dropout
        backbone.set_trainable({group: True})
        assert difference() > 1e-4, group  # small weights, small noise
        backbone.set_trainable({group: False})
    backbone.frozen_dropout = True
    assert difference() > 0.1
    again = tx.backbones.Backbone.from_config(backbone.get_config())
    assert again.frozen_dropout and not again.trainable_weights


def test_a_frozen_head_is_without_dropout_and_the_switch_reaches_it(preprocessor):
    embedder = tx.models.TextEmbedder(tiny.backbone(), preprocessor)
    for model, texts in (
        (classifier(preprocessor, 1, head="mlp", dropout=0.5), tiny.TEXTS),
        (
            tx.models.SiameseClassifier(embedder, labels=["a", "b"], dropout=0.5),
            (tiny.TEXTS, tiny.TEXTS[::-1]),
        ),
        (tx.models.TokenTagger(tiny.backbone(), preprocessor, tags=tiny.TAGS, dropout=0.5), tiny.WORD_ROWS),
    ):
        x = tx.data.Gate(model).encode_batch((texts,))
        tx.freezing.freeze(model, groups="*")
        still = ops.convert_to_numpy(model(x, training=False))
        np.testing.assert_allclose(model(x, training=True), still, atol=1e-6)
        tx.freezing.freeze(model, groups="embeddings", dropout=True)
        tx.freezing.unfreeze(model, groups=["block_0"])
        tx.freezing.freeze(model, groups=["block_0"])
        assert model.frozen_dropout and not np.allclose(model(x, training=True), still, atol=1e-5)
        tx.freezing.freeze(model, groups="embeddings", dropout=False)
        np.testing.assert_allclose(model(x, training=True), still, atol=1e-6)


def test_flags_take_effect_in_a_model_that_has_trained(preprocessor):
    model = classifier(preprocessor, 1)
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1))
    model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, seed=0)
    tx.freezing.freeze(model, below=1)
    before = [w.numpy() for w in model.weights]
    model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, seed=0)
    assert int(model.optimizer.iterations) == 2
    for weight, old in zip(model.weights, before, strict=True):
        assert np.array_equal(weight.numpy(), old) != weight.trainable, weight.path


def test_flags_switch_and_optimizer_survive_files_and_compile(preprocessor, tmp_path, recwarn):
    model = classifier(preprocessor)
    model.compile(keras.optimizers.AdamW(1e-2), run_eagerly=True)
    model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, seed=0)
    tx.freezing.freeze(model, below=1, dropout=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert training(again) == ["block_1", "head"] and again.frozen_dropout
    for found, expected in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    again.compile(keras.optimizers.SGD(0.1))
    assert training(again) == ["block_1", "head"] and again.frozen_dropout
    model.save_to_preset(tmp_path / "preset")
    taken = tx.models.TextClassifier.from_preset(tmp_path / "preset", labels=["a", "b"], backbone_only=True)
    assert training(taken) == ["block_1", "head"] and taken.frozen_dropout
    recast = tx.models.TextEmbedder.from_preset(tmp_path / "preset", dtype="mixed_bfloat16", backbone_only=True)
    assert training(recast) == ["block_1"] and recast.frozen_dropout
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]


def test_flags_of_single_layers_survive_too(preprocessor, tmp_path):
    model = classifier(preprocessor, 1)
    model.backbone.parts.embeddings.position_embedding.trainable = False
    flags = [w.trainable for w in model.weights]
    assert flags.count(False) == 1
    model.save(tmp_path / "model.keras")
    assert [w.trainable for w in keras.saving.load_model(tmp_path / "model.keras").weights] == flags


def test_summary_says_what_trains_and_how_fast(preprocessor):
    model = classifier(preprocessor)
    tx.freezing.freeze(model, below=1)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(
        tx.optimizers.Layerwise(keras.optimizers.Adam(schedule), {"head": 5.0}, decay=0.5)
    )
    model.compile(optimizer)
    optimizer.inner_optimizer.inner_optimizer.iterations.assign(5)
    printed = []
    rows = tx.freezing.summary(model, print_fn=printed.append)
    counts = {
        name: sum(np.prod(w.shape) for layer in layers for w in layer.weights)
        for name, layers in model.layer_groups().items()
    }
    expected = {"embeddings": None, "block_0": None, "block_1": 0.05 * 0.5, "head": 0.05 * 5.0}
    for row in rows:
        assert row.parameters == counts[row.group]
        assert row.trainable == (0 if expected[row.group] is None else counts[row.group])
        assert row.learning_rate == (None if expected[row.group] is None else pytest.approx(expected[row.group]))
    lines = printed[0].splitlines()
    assert [line.split()[0] for line in lines] == ["group", *expected, "total"]
    assert lines[1].split()[1:] == [f"{counts['embeddings']:,}", "0", "-"]
    assert lines[-1].split()[1:] == [f"{sum(counts.values()):,}", f"{counts['block_1'] + counts['head']:,}"]


def test_summary_without_an_optimizer_or_printing(preprocessor, capsys):
    embedder = tx.models.TextEmbedder(tiny.backbone(), preprocessor)
    rows = tx.freezing.summary(embedder, print_fn=None)
    assert [row.group for row in rows] == ["embeddings", "block_0"]
    assert {row.learning_rate for row in rows} == {None} and not capsys.readouterr().out
    tx.freezing.summary(embedder)
    assert "block_0" in capsys.readouterr().out
