"""Training on the cached output of frozen layers: the result equals training without the cache."""

import gc
import json
import os
import shutil
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import backbones, callbacks, data, losses, models, optimizers

# `_store` is private: it limits the size of a directory of features. With `AboveFrozen`, each array would need its own
# model.
from tfxfer.freezing import AboveFrozen, _store

FAMILIES = {
    "roberta": {},
    "distil_bert": {},
    "albert": {"embedding_dim": 4, "num_groups": 2},
    "electra": {"embedding_dim": 4},
    "deberta_v3": {"bucket_size": 4},
    "gpt2": {},
}
LABELLED = {"t": [*tiny.TEXTS, *tiny.TEXTS[:3]], "u": [*tiny.TEXTS[::-1], *tiny.TEXTS[2:5]]}
LABELLED["l"] = [*tiny.LABELS, *tiny.LABELS[:3]]
LABELLED["y"] = [i / 10 for i in range(11)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabulary")


def classifier(folder, trainable=("block_1", "head"), **kwargs):
    keras.utils.set_random_seed(0)
    encoder = tiny.backbone(num_layers=2, dtype=kwargs.pop("dtype", None))
    model = models.TextClassifier(encoder, tiny.preprocessor(folder), labels=["card", "loan", "other"], **kwargs)
    model.set_trainable(list(trainable))
    return compiled(model)


def compiled(model, loss="auto", rate=0.05, eager=True):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss=loss, run_eagerly=eager)
    return model


def outputs(model, batches):
    """The outputs of a model for batches, row by row; eager, which is no slower than tracing for few batches."""
    return np.concatenate([model(x).numpy() for x, _ in batches])


def tokens_of(model):
    """The number of real tokens in the distinct texts of `LABELLED`."""
    return sum(int(tf.reduce_sum(model.preprocessor([text])["padding_mask"])) for text in tiny.TEXTS)


def labelled(model, batch_size=3, names=None, **kwargs):
    rows = data.labelled(LABELLED, "t", "l", labels=names)
    return data.batches(rows, model.preprocessor, batch_size, **{"seed": 1, **kwargs})


# === The same result ===


def task(kind, folder):
    """A compiled model with frozen layers, and a function that makes its batches."""
    keras.utils.set_random_seed(0)
    encoder, preprocessor = tiny.backbone(num_layers=2), tiny.preprocessor(folder)
    if kind == "classifier":
        return compiled(classifier(folder, head="mlp"), eager=False), labelled
    if kind == "cross-encoder":
        model = models.TextRegressor(encoder, preprocessor, pooling=["cls", "max"], dropout=0.1)
        model.set_trainable(["block_0", "block_1", "head"])
        rows = data.pairs(LABELLED, ("t", "u"), target="y")
        return compiled(model, rate=0.01), lambda model: data.batches(rows, model.preprocessor, 4, seed=2)
    embedder = models.TextEmbedder(encoder, preprocessor, dense=[{"units": 5, "activation": "tanh", "use_bias": True}])
    if kind == "embedder":
        embedder.set_trainable(["head"])
        rows = data.labelled(LABELLED, "t", "l", labels=["card", "loan", "other"])
        options = {"examples_per_class": 2, "seed": 3, "shuffle": True}
        make = lambda model: data.batches(rows, model.preprocessor, 4, **options)  # noqa: E731
        return compiled(embedder, losses.BatchAllTripletLoss(0.5)), make
    if kind == "triplets":
        model = models.Siamese(embedder)
        model.set_trainable(["block_1", "head"])
        columns = {"a": tiny.TEXTS, "p": tiny.TEXTS[2:] + tiny.TEXTS[:2], "n": tiny.TEXTS[5:] + tiny.TEXTS[:5]}
        rows = data.triplets(columns, ("a", "p", "n"))
        options = {"columns": "separate", "unique_texts": True, "seed": 4}
        loss = losses.MultipleNegativesRankingLoss(scale=5.0)
        return compiled(model, loss), lambda model: data.batches(rows, model.preprocessor, 3, **options)
    model = models.SiameseClassifier(embedder, labels=["card", "loan", "other"], dropout=0.2)
    model.set_trainable(["head"])
    rows = data.labelled(LABELLED, ("t", "u"), "l")  # names, which the model converts to numbers
    return compiled(model), lambda model: data.batches(rows, model.preprocessor, 4, columns="separate", seed=5)


@pytest.mark.parametrize("kind", ["classifier", "cross-encoder", "embedder", "triplets", "siamese classifier"])
def test_training_on_stored_features_gives_the_weights_of_training_without(kind, folder):
    model, batches = task(kind, folder)
    expected = model.fit(batches(model), epochs=2, verbose=0).history
    other, _ = task(kind, folder)
    start = other.get_weights()
    short = AboveFrozen(other)
    assert [v.path for v in short.trainable_variables] == [v.path for v in other.trainable_variables]
    history = short.fit(batches(other), epochs=2, verbose=0).history
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, atol=1e-5)
    for wanted, got in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(start, other.get_weights(), strict=True)) > 1e-3
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_without_a_trace(family, folder):
    encoder = backbones.Backbone(
        family,
        vocabulary_size=len(tiny.VOCABULARY),
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        max_sequence_length=16,
        **FAMILIES[family],
    )
    preprocessor = tiny.preprocessor(folder, segment_ids=encoder.has_segment_ids, padding_side="left")
    model = models.TextEmbedder(encoder, preprocessor, pooling=["mean", "last"])
    model.set_trainable(["block_1"])
    compiled(model, "mse")
    batches = data.batches((tiny.TEXTS, np.arange(8)), preprocessor, 3, shuffle=False)
    short = AboveFrozen(model)
    np.testing.assert_allclose(outputs(short, short.cached(batches)), outputs(model, batches), atol=2e-6)


def test_the_columns_of_towers_may_differ_in_number_and_texts_without_tokens_stay(folder):
    model = models.Siamese(models.TextEmbedder(tiny.backbone(num_layers=2), tiny.preprocessor(folder)))
    model.set_trainable(["block_1"])
    compiled(model, losses.MultipleNegativesRankingLoss())
    short = AboveFrozen(model)
    for count in (1, 2, 4):
        columns = tuple(tiny.TEXTS[i:] + tiny.TEXTS[:i] for i in range(count))
        batches = data.batches((columns, np.zeros(8)), model.preprocessor, 5, columns="separate", shuffle=False)
        got = outputs(short, short.cached(batches))
        assert got.shape == (8, count, 8)
        np.testing.assert_allclose(got, outputs(model, batches), atol=2e-6)


def test_a_batch_that_begins_with_a_row_of_no_tokens_is_computed_as_without(folder):
    preprocessor = tiny.preprocessor(folder, add_special_tokens=False)
    model = models.TextEmbedder(tiny.backbone(num_layers=2), preprocessor, normalize=False)
    model.set_trainable(["block_1"])
    short = AboveFrozen(compiled(model, "mse"))
    [wanted] = model(preprocessor(["my card"]))
    for texts in (["", "my card"], ["my card", ""]):
        batches = data.batches((texts, np.arange(2)), preprocessor, 2, shuffle=False)
        out = outputs(short, short.cached(batches))
        np.testing.assert_allclose(out[texts.index("my card")], wanted, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_changes_outputs_by_its_rounding(dtype, tolerance, folder):
    model = classifier(folder)
    batches = labelled(model, shuffle=False)
    short = AboveFrozen(model, dtype=dtype)
    got, expected = outputs(short, short.cached(batches)), outputs(model, batches)
    assert 0 < np.abs(got - expected).max() < tolerance
    assert short.feature_dtype == dtype and short.cache_bytes == tokens_of(model) * 8 * 2


def test_what_is_stored_has_the_precision_that_the_frozen_layers_compute_in(folder):
    model = classifier(folder, dtype="mixed_bfloat16")
    batches = labelled(model, shuffle=False)
    short = AboveFrozen(model)
    assert short.feature_dtype == "bfloat16"
    np.testing.assert_allclose(outputs(short, short.cached(batches)), outputs(model, batches), atol=1e-6)


# === Order, targets, callbacks ===


def test_batches_come_in_the_order_of_the_ids_and_count_epochs_with_them(folder):
    model = classifier(folder)
    batches, alike = labelled(model, names=model.labels), labelled(model, names=model.labels)
    stored = AboveFrozen(model).cached(batches)
    orders = []
    for _ in range(2):
        wanted = [(x["padding_mask"].numpy(), y.numpy()) for x, y in alike]
        got = [(x["padding_mask"].numpy(), y.numpy()) for x, y in stored]
        for (mask, y), (features_mask, z) in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(features_mask, mask)
            np.testing.assert_array_equal(z, y)
        orders.append(np.concatenate([y for _, y in got]))
    assert batches.epoch == stored.epoch == 2 and not np.array_equal(*orders)
    assert stored.cardinality() == batches.cardinality() and stored.seed == 1
    rest = [y.numpy() for _, y in stored.rest(1, 2)]
    np.testing.assert_array_equal(np.concatenate(rest), orders[1][6:])
    batches.epoch = 0
    np.testing.assert_array_equal(np.concatenate([y for _, y in stored]), orders[0])


def test_a_mix_of_batches_keeps_its_order(folder):
    model = classifier(folder)
    mixed = data.mix([labelled(model, names=model.labels), labelled(model, 2, names=model.labels)], seed=0)
    short = AboveFrozen(model)
    stored = short.cached(mixed)
    mixed.epoch = 0
    wanted = list(mixed)
    stored.epoch = 0
    for (x, y), (features, z) in zip(wanted, stored, strict=True):
        np.testing.assert_array_equal(z, y)
        np.testing.assert_allclose(short(features), model(x), atol=2e-6)


def test_equal_texts_are_stored_once_and_a_second_call_computes_nothing(folder, monkeypatch):
    model = classifier(folder)
    batches, short = labelled(model), AboveFrozen(model)
    assert short.cached(batches) is short.cached(batches)
    monkeypatch.setattr(data, "forward", None)
    short.cached(labelled(model, 5, seed=7))
    # Eleven rows have eight distinct texts.
    assert short.cache_bytes == tokens_of(model) * 8 * 4


def test_features_of_data_that_are_gone_are_let_go_when_others_are_computed(folder):
    short = AboveFrozen(classifier(folder))
    kept = labelled(short.full_model)
    lasting = weakref.ref(short.cached(kept))
    stored, sizes = [], []
    for fold in range(4):
        texts = [f"{text} {(fold + 1) * 'card '}" for text in tiny.TEXTS]
        short.fit(texts, tiny.LABELS, 4, validation_data=(texts[:3], tiny.LABELS[:3]), epochs=1, verbose=0)
        # Private: nothing else shows that an array is freed and not only unreachable from the cache.
        stored.append([weakref.ref(array) for array in short._store._arrays.values()])
        sizes.append(len(stored[-1]))
        del texts
    gc.collect()
    # The features of data that still exist, and those of the last fold, which may be needed again.
    assert sizes == [3, 3, 3, 3] and lasting() is short.cached(kept)
    alive = {id(ref()) for refs in stored[:-1] for ref in refs if ref() is not None}
    assert alive == {id(stored[-1][0]())}
    assert short.cache_bytes == sum(ref().nbytes for ref in stored[-1])


@pytest.mark.parametrize("trainable", [("block_1", "head"), ("head",)])
def test_features_live_as_long_as_what_iterates_over_them(folder, trainable):
    short = AboveFrozen(classifier(folder, trainable))
    iterator = iter(short.cached(labelled(short.full_model)).rest(0))
    del short
    gc.collect()
    assert sum(len(y) for _, y in iterator) == 11


def test_a_callback_list_and_averages_work_above_frozen_layers(folder):
    model = classifier(folder)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5), run_eagerly=True)
    model.fit(labelled(model), verbose=0)
    model.set_trainable(["head"])
    before = [each.numpy() for each in model.backbone.weights]
    short = AboveFrozen(model)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    listed = keras.callbacks.CallbackList([swap], add_history=True, model=short, epochs=2)
    assert len(short.fit(labelled(model), epochs=2, verbose=0, callbacks=listed).history["loss"]) == 2
    assert short.optimizer is model.optimizer and isinstance(model.optimizer, optimizers.Subset)
    for weight, value in zip(model.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_strings_validation_callbacks_and_checkpoints_work_as_with_the_whole_model(folder, tmp_path):
    model = classifier(folder)
    short = AboveFrozen(model)
    short.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    assert model.optimizer is short.optimizer and isinstance(model.loss, losses.ClassCrossentropy)
    evaluate = callbacks.EvaluateClassification(tiny.TEXTS, tiny.LABELS, model=model)
    history = short.fit(
        tiny.TEXTS,
        tiny.LABELS,
        batch_size=4,
        seed=0,
        validation_data=(tiny.TEXTS, tiny.LABELS),
        epochs=3,
        verbose=0,
        callbacks=[
            evaluate,
            keras.callbacks.EarlyStopping("val_accuracy", mode="max", restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", verbose=0),
        ],
    ).history
    loss, accuracy = model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0)
    assert max(history["val_accuracy"]) == pytest.approx(accuracy)
    assert short.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0) == pytest.approx([loss, accuracy], abs=1e-5)
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(saved, models.TextClassifier) and len(saved.classify(tiny.TEXTS).labels) == 8
    short.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    short.load_weights(tmp_path / "model.weights.h5")


def test_what_the_model_is_compiled_with_later_is_taken_over(folder):
    model = classifier(folder)
    short = AboveFrozen(model)
    compiled(model)
    short.fit(labelled(model), epochs=1, verbose=0)
    assert short.optimizer is model.optimizer and int(model.optimizer.iterations) == 4
    assert short.metrics[1] is not model.metrics[1]
    model.set_trainable(["head"])
    before = [v.numpy() for v in model.backbone.variables]
    compiled(model)
    short.fit(labelled(model), epochs=1, verbose=0)
    for variable, value in zip(model.backbone.variables, before, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), value)


# === A stale cache is impossible ===


def test_frozen_weights_that_change_or_thaw_are_an_error_in_the_next_epoch(folder):
    model = compiled(classifier(folder))
    short = AboveFrozen(model)
    batches = labelled(model)

    class Meddle(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = model.backbone.blocks()[0][0].trainable_variables or model.backbone.blocks()[0][0].weights
            kernel[0].assign(kernel[0] * 1.0001)

    with pytest.raises(ValueError, match=r"weights of .*block_0.*new `AboveFrozen"):
        short.fit(batches, epochs=2, verbose=0, callbacks=[Meddle()])
    assert batches.epoch == 1 or batches.epoch == 2  # the second epoch takes no step
    assert int(model.optimizer.iterations) == 4
    with pytest.raises(ValueError, match="weights"):
        short.cached(batches)
    short = AboveFrozen(model)
    model.set_trainable({"block_0": True})
    with pytest.raises(ValueError, match=r"train again.*block_0"):
        short.evaluate(batches, verbose=0)


@pytest.mark.parametrize("permute", [lambda a: a[::-1], lambda a: np.roll(a, 1, axis=-1), lambda a: -a])
def test_frozen_weights_that_change_places_are_an_error(folder, permute):
    model = compiled(classifier(folder))
    short, batches = AboveFrozen(model), labelled(model)
    short.cached(batches)
    kernel = model.backbone.blocks()[0][0].attention.query.kernel
    kernel.assign(permute(kernel.numpy()))
    with pytest.raises(ValueError, match=r"weights of .*block_0.*new `AboveFrozen"):
        short.cached(batches)


def test_a_cache_on_disk_serves_later_runs_with_the_same_weights_and_texts_only(folder, tmp_path, monkeypatch):
    computed, forward = [], data.forward
    monkeypatch.setattr(data, "forward", lambda *arguments: computed.append(1) or forward(*arguments))
    model = classifier(folder)
    batches = labelled(model, shuffle=False)

    def run(batches=batches, **kwargs):
        short = AboveFrozen(model, folder=tmp_path, **kwargs)
        x, _ = next(iter(short.cached(batches)))
        ids, _ = next(iter(batches))
        np.testing.assert_allclose(short(x), model(ids), atol=3e-3)
        return len(computed)

    assert run() == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".json"]
    assert run() == 1
    assert run(labelled(model, 4, shuffle=False, bucket=True)) == 1  # the same texts in a different order
    model.head.set_weights([w + 1 for w in model.head.get_weights()])
    assert run() == 1
    weight = model.backbone.blocks()[0][0].weights[-1]
    weight.assign(weight + 1e-6)
    assert run() == 2
    weight.assign(weight - 1e-6)
    assert run(dtype="float16") == 3
    model.set_trainable(["block_0", "block_1", "head"])
    assert run() == 4
    model.set_trainable(["head"])
    assert run() == 5
    model.set_trainable(["block_1", "head"])
    model.preprocessor.sequence_length = 5
    with pytest.raises(ValueError, match="preprocessor as it is now"):
        run()
    assert run(labelled(model, shuffle=False)) == 6
    assert len(list(tmp_path.glob("*.bin"))) == 6


def test_a_cache_that_was_not_finished_is_never_used(folder, tmp_path, monkeypatch):
    model = classifier(folder)
    batches = labelled(model, 11, shuffle=False)
    words, forward = tiny.WORDS.split(), data.forward
    many = [f"{first} {second}" for first in words for second in words]  # too many for one pass

    def broken(*arguments):
        run = forward(*arguments)
        passes = iter([run])
        return lambda x: next(passes, interrupted)(x)

    def interrupted(x):
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(data, "forward", broken)
        many = data.batches((many, np.zeros(len(many))), model.preprocessor, cache=True)
        AboveFrozen(model, folder=tmp_path).cached(many)
    assert not list(tmp_path.iterdir())
    expected = outputs(model, batches)
    AboveFrozen(model, folder=tmp_path).cached(batches)
    [found], [facts] = tmp_path.glob("*.bin"), tmp_path.glob("*.json")
    complete = found.read_bytes()

    def computed_anew():
        before = found.stat().st_ino
        short = AboveFrozen(model, folder=tmp_path)
        np.testing.assert_allclose(outputs(short, short.cached(batches)), expected, atol=1e-6)
        return found.stat().st_ino != before

    assert not computed_anew()
    found.write_bytes(complete[:-4])  # cut short
    assert computed_anew()
    facts.write_text(facts.read_text()[:20])
    assert computed_anew()
    facts.unlink()  # killed between the two files
    assert computed_anew()
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "key": "another"}))
    assert computed_anew()
    # A file left by a killed process has another name. It is removed if it is old and space is needed.
    left = tmp_path / f"{found.name}.00000000.part"
    left.write_bytes(complete)
    assert not computed_anew() and left.exists()
    facts.unlink()
    assert computed_anew() and left.exists()
    os.utime(left, (time.time() - 7200,) * 2)
    facts.unlink()
    assert computed_anew() and not left.exists()


def stored(folder, key, fill=1.0):
    """Stores an array of 800 bytes in a directory of at most 3,000 bytes."""
    return _store.Store(folder, 3000).fill(key, (100, 2), "float32", iter([np.full((100, 2), fill, "float32")]))


def test_a_folder_is_bounded_and_what_was_not_used_for_the_longest_goes(tmp_path):
    store = _store.Store(tmp_path, 3000)
    for number, key in enumerate("abc"):
        stored(tmp_path, key)
        os.utime(tmp_path / f"frozen-{key}.json", (1000 + number,) * 2)
    assert store.find("a", (100, 2), "float32") is not None  # now the most recent, and in use
    assert store.find("a", (100, 3), "float32") is not None and store.find("d", (100, 2), "float32") is None
    stored(tmp_path, "d")
    assert {path.stem for path in tmp_path.glob("*.bin")} == {"frozen-a", "frozen-c", "frozen-d"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000
    user = frozenset(["batches"])
    store.use("a", user)
    store.check_room([((500, 2), "float16")])
    with pytest.raises(ValueError, match=r"at least 4,800 bytes.*take 4,000, in addition to 800 in use"):
        store.check_room([((500, 2), "float32")])
    del user
    with pytest.raises(ValueError, match=r"at least 4,000 bytes"):
        store.check_room([((500, 2), "float32")])


# === Errors ===


def test_too_much_for_the_bound_is_said_with_the_bytes_before_anything_is_computed(folder, tmp_path, monkeypatch):
    model = classifier(folder)
    batches = labelled(model)
    monkeypatch.setattr(data, "forward", None)
    tokens = tokens_of(model)
    with pytest.raises(ValueError, match=rf"`max_bytes`.*{tokens * 32:,} bytes.*float16.*`folder`.*larger.*fewer"):
        AboveFrozen(model, max_bytes=tokens * 32 - 1).cached(batches)
    with pytest.raises(ValueError, match=rf"{tokens * 16:,} bytes"):
        AboveFrozen(model, max_bytes=100, dtype="float16", folder=tmp_path).cached(batches)
    usage = type("Usage", (), {"free": 7})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=rf"`folder`.*{tokens * 32:,} bytes of room, not 7"):
        AboveFrozen(model, folder=tmp_path).cached(batches)


def test_values_beyond_float16_are_an_error_that_names_bfloat16(folder):
    model = classifier(folder)
    norm = model.backbone.blocks()[0][0].feed_forward_norm
    norm.gamma.assign(norm.gamma * 1e6)
    with pytest.raises(ValueError, match="bfloat16"):
        AboveFrozen(model, dtype="float16").cached(labelled(model))


def noisy(model):
    model.set_trainable({"embeddings": False})
    model.backbone.frozen_dropout = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.set_trainable(True), "`model`.*'embeddings' is frozen.*freeze"),
        (lambda model: model.set_trainable({"embeddings": True}), "'embeddings' is frozen"),
        (lambda model: model.set_trainable(False), "a layer group that trains"),
        (noisy, r"without dropout.*embeddings.*block_0"),
    ],
)
def test_a_model_that_cannot_be_cut_is_an_error_that_says_why(change, message, folder):
    model = classifier(folder)
    change(model)
    with pytest.raises(ValueError, match=message):
        AboveFrozen(model)


def test_other_models_arguments_and_data_are_errors(folder):
    with pytest.raises(ValueError, match=r"`model`.*a task model"):
        AboveFrozen(keras.Sequential())
    embedder = models.TextEmbedder(tiny.backbone(num_layers=2), tiny.preprocessor(folder))
    towers = models.Siamese(embedder, chunk_size=2)
    towers.set_trainable(["block_1"])
    with pytest.raises(ValueError, match="`chunk_size`"):
        AboveFrozen(towers)
    model = compiled(classifier(folder))
    for arguments, named in (({"dtype": "int8"}, "`dtype`"), ({"max_bytes": 0}, "`max_bytes`")):
        with pytest.raises(ValueError, match=named):
            AboveFrozen(model, **arguments)
    short = AboveFrozen(model)
    with pytest.raises(ValueError, match=r"`batches`.*kept.*cache=True"):
        short.cached(labelled(model, cache=False))
    with pytest.raises(ValueError, match='columns="joint"'):
        short.cached(labelled(model, columns="separate"))
    with pytest.raises(ValueError, match=r"`batches`.*data.Batches"):
        short.cached(tiny.TEXTS)
    for x in (labelled(model).take(2), tiny.TEXTS, np.ones((3, 2))):
        with pytest.raises(ValueError, match=r"`[xy]`"):
            short.fit(x, verbose=0)
    stored = short.cached(labelled(model))
    with pytest.raises(ValueError, match="`batches`"):
        short.cached(stored)
    short.fit(stored.take(2), verbose=0)
