"""Texts together with numbers, categories, vectors and images."""

import json
import math
import re
import shlex
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny
from keras import ops

import tfxfer as tx

X = {"text": tiny.TEXTS, "age": tiny.AGES, "kind": tiny.KINDS}
RNG = np.random.default_rng(0)


def make(folder, num_layers=1, **kwargs):
    keras.utils.set_random_seed(0)
    arguments = {"columns": tiny.columns(), "labels": ["card", "loan", "other"], **kwargs}
    return tx.models.MultimodalClassifier(tiny.backbone(num_layers=num_layers), tiny.preprocessor(folder), **arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = make(tmp_path_factory.mktemp("multimodal"), num_layers=2)
    model.compile()
    model.fit(X, tiny.LABELS, 4, 3, verbose=0, seed=0)
    return model


# === Columns ===


def test_columns_have_mean_scale_and_names_of_the_training_rows():
    rows = {"age": ["20", None, "", 50, float("nan")], "kind": ["b", "a", None, "b", ""], "size": [3, 3, 3, 3, 3]}
    found = tx.data.tabular_columns(rows, numbers=["age", "size"], categories=["kind"])
    assert list(found) == ["age", "size", "kind"]
    assert (found["age"].mean, found["age"].scale) == (35.0, 15.0)
    assert (found["size"].mean, found["size"].scale) == (3.0, 1.0)  # all the same: nothing to divide by
    assert found["kind"].names == ["a", "b"] and found["kind"].size == 3
    np.testing.assert_array_equal(found["age"].read(rows["age"], "age"), [20, math.nan, math.nan, 50, math.nan])
    indices = found["kind"].encode(found["kind"].read(["b", "z", None, "a"], "kind"))
    assert indices.numpy().tolist() == [1, 2, 2, 0]


def test_rare_names_share_the_last_index():
    rows = {"kind": [*"aaabbc", 7.0], "code": [1, 2.0, 1, 3, None, 3, 3]}
    found = tx.data.tabular_columns({"kind": rows["kind"][:6]}, categories=["kind"], min_count=2)
    assert found["kind"].names == ["a", "b"]
    assert tx.data.tabular_columns({"kind": [*"aaabbc"]}, categories=["kind"], max_categories=1)["kind"].names == ["a"]
    assert tx.data.tabular_columns(rows, categories=["code"])["code"].names == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`numbers`.*the name of a column"),
        ({"numbers": "age"}, "`numbers`.*a list of names"),
        ({"numbers": ["height"]}, "`numbers`.*'height'"),
        ({"numbers": ["age"], "categories": ["age"]}, "`categories`.*'age'"),
        ({"numbers": ["kind"]}, "`kind`.*row 0"),
        ({"numbers": ["empty"]}, "`empty`.*at least one number"),
        ({"categories": ["share"]}, "`share`.*0.5.*row 0.*`numbers`"),
        ({"categories": ["kind"], "min_count": 9}, "`kind`.*at least 9 rows"),
        ({"categories": ["mixed"]}, "`mixed`.*one kind"),
    ],
)
def test_columns_that_cannot_be_are_errors(arguments, message):
    rows = {"age": [1, 2], "kind": ["a", "b"], "empty": [None, ""], "share": [0.5, 0.25], "mixed": [1, "1"]}
    with pytest.raises(ValueError, match=message):
        tx.data.tabular_columns(rows, **arguments)


def test_statistics_of_a_number_are_checked():
    column = tx.data.NumberColumn(2, missing="nan", mean=[1.0, 2.0], scale=np.array([0.5, 3.0]))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(column))
    assert again.get_config() == column.get_config()
    assert again.get_config() == {"size": 2, "missing": "nan", "mean": [1.0, 2.0], "scale": [0.5, 3.0]}
    for bad in ({"scale": 0.0}, {"mean": math.inf}, {"mean": [1.0]}, {"missing": "mean"}, {"size": 2, "scale": [1.0]}):
        with pytest.raises(ValueError, match=rf"`{[*bad][-1]}`"):
            tx.data.NumberColumn(**bad)
    with pytest.raises(ValueError, match="row 1"):
        tx.data.NumberColumn(missing="nan").read([1.0, math.inf], "age")


# === Layers ===


def test_numbers_are_scaled_and_missing_ones_marked():
    x = RNG.normal(size=(5, 2)).astype("float32")
    x[1, 0] = x[3, 1] = math.nan
    found = ops.convert_to_numpy(tx.layers.ScaledNumbers([1.0, -2.0], [0.5, 4.0], has_missing=True)(x))
    for row, values in zip(found, x, strict=True):
        for i, (mean, scale) in enumerate([(1.0, 0.5), (-2.0, 4.0)]):
            missing = math.isnan(values[i])
            assert row[i] == pytest.approx(0.0 if missing else (values[i] - mean) / scale, rel=1e-5)
            assert row[2 + i] == float(missing)
    assert np.isnan(ops.convert_to_numpy(tx.layers.ScaledNumbers()(x))).sum() == 2


@pytest.mark.parametrize("mode", tx.layers.FUSIONS)
@pytest.mark.parametrize("dim", [None, 4])
def test_fusion_equals_its_formula(mode, dim):
    if mode == "concat" and dim:
        with pytest.raises(ValueError, match="`dim`"):
            tx.layers.Fusion(mode, dim)
        return
    parts = [RNG.normal(size=(3, size)).astype("float32") for size in (3, 1, 5)]
    layer = tx.layers.Fusion(mode, dim)
    layer.build([part.shape for part in parts])
    layer.set_weights([RNG.normal(size=weight.shape) for weight in layer.get_weights()])
    weights = {weight.path.split("/", 1)[-1]: weight.numpy().astype("float64") for weight in layer.weights}
    found = ops.convert_to_numpy(layer(parts))
    for row in range(3):
        x = [part[row].astype("float64") for part in parts]
        whole = np.concatenate(x)
        if mode == "concat":
            expected = whole
        elif mode == "gate":
            expected = 0.0
            for i, each in enumerate(x):
                gate = 1 / (1 + np.exp(-(whole @ weights[f"gate_{i}/kernel"] + weights[f"gate_{i}/bias"])))
                expected = expected + gate * np.tanh(each @ weights[f"value_{i}/kernel"] + weights[f"value_{i}/bias"])
        else:
            values = [each @ weights[f"value_{i}/kernel"] for i, each in enumerate(x)]
            scores = [np.concatenate([values[0], value]) @ weights["scorer"].ravel() for value in values]
            scores = np.exp([score if score > 0 else 0.2 * score for score in scores])
            expected = sum(score * value for score, value in zip(scores, values, strict=True)) / scores.sum()
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape([part.shape for part in parts]) == found.shape


# === Models ===


def test_the_head_reads_the_text_and_every_column(tmp_path):
    model = make(tmp_path)
    dense = model.head.denses[-1]
    dense.kernel.assign(RNG.normal(size=dense.kernel.shape))
    logits = model.predict(X, verbose=0)
    embedder = tx.models.TextEmbedder(model.backbone, model.preprocessor, normalize=False)
    pooled = embedder.encode(tiny.TEXTS)
    column = model.columns["age"]
    for row in range(len(tiny.TEXTS)):
        age, kind = tiny.AGES[row], tiny.KINDS[row]
        number = [0.0, 1.0] if age is None else [(age - column.mean) / column.scale, 0.0]
        one_hot = [float(kind == name) for name in "abc"] + [float(kind == "")]
        expected = np.concatenate([pooled[row], number, one_hot]) @ dense.kernel.numpy() + dense.bias.numpy()
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-5)


def test_it_learns_what_only_a_column_says(tmp_path):
    model = make(tmp_path, labels=["old", "young"])
    model.compile()
    ages = np.array([20, 90] * 16)
    rows = {"text": ["good day!"] * 32, "age": ages, "kind": ["a"] * 32}
    names = ["old" if age > 50 else "young" for age in ages]
    model.fit(rows, names, 8, 4, verbose=0, seed=0)
    assert model.classify(rows).labels == names
    assert model.has_new_head() is False


def test_files_and_presets_give_the_same_model_back(trained, tmp_path):
    expected = trained.predict(X, verbose=0)
    trained.save(tmp_path / "model.keras")
    trained.save_to_preset(tmp_path / "preset")
    from_preset = tx.models.MultimodalClassifier.from_preset(tmp_path / "preset", columns=tiny.columns())
    for again in (keras.saving.load_model(tmp_path / "model.keras"), from_preset):
        np.testing.assert_allclose(again.predict(X, verbose=0), expected, atol=1e-6)
        assert again.columns["age"].mean == trained.columns["age"].mean
    other = {**tiny.columns(), "age": tx.data.NumberColumn(missing="nan")}
    with pytest.raises(ValueError, match=r"`columns`.*backbone_only"):
        tx.models.MultimodalClassifier.from_preset(tmp_path / "preset", columns=other)


def test_the_export_takes_columns_by_name_and_answers_as_it_does(trained, tmp_path):
    path = tx.export.saved_model(trained, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    ages = tf.constant([math.nan if age is None else age for age in tiny.AGES], tf.float32)
    found = served(
        text=tf.constant(tiny.TEXTS), age=ages, kind=tf.constant(["?" if k == "" else k for k in tiny.KINDS])
    )
    answer = trained.classify(X)
    np.testing.assert_allclose(found["probabilities"], answer.probabilities, atol=1e-6)
    assert [name.decode() for name in found["labels"][:, 0].numpy()] == answer.labels


@pytest.mark.parametrize("below", [1, 2])
def test_what_lies_above_frozen_layers_trains_to_the_same_weights(tmp_path, below):
    found = []
    for short in (False, True):
        model = make(tmp_path, num_layers=2, fusion="gate")
        tx.freezing.freeze(model, below=below)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        trained = tx.freezing.AboveFrozen(model) if short else model
        examples = tx.data.examples({**X, "label": tiny.LABELS}, model, "label")
        trained.fit(tx.data.batches(examples, model, 4, seed=0), epochs=2, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_its_probe_is_the_regression_on_text_and_columns(tmp_path):
    model = make(tmp_path)
    found = tx.freezing.probe(model, X, tiny.LABELS)
    features, dense = model.linear_head()
    assert features.shape[-1] == 8 + 2 + 4 and dense is model.head.denses[-1]
    assert found.rows == 8 and model.has_probed_head()


def test_columns_with_names_that_tensorflow_does_not_take_are_renamed_in_an_export(tmp_path):
    columns = {name: tx.data.NumberColumn() for name in ("class", "star rating", "größe", "2nd", "age")}
    model = make(tmp_path, columns=columns)
    rows = {"text": tiny.TEXTS, **{name: RNG.normal(size=8).tolist() for name in columns}}
    path = tx.export.saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    names = {"class": "class_", "star rating": "star_rating", "größe": "gr__e", "2nd": "column_2nd", "age": "age"}
    given = {names[name]: tf.constant(rows[name], tf.float32) for name in columns}
    found = served(text=tf.constant(tiny.TEXTS), **given)
    np.testing.assert_allclose(found["probabilities"], model.classify(rows).probabilities, atol=1e-6)
    purpose = tx.export.describe(path)["signatures"]["classify"]["purpose"]
    assert "`class_` is the column 'class'" in purpose and "'age'" not in purpose
    alike = {name: tx.data.NumberColumn() for name in ("star rating", "star_rating")}
    with pytest.raises(ValueError, match="'star rating', 'star_rating'"):
        tx.export.saved_model(make(tmp_path, columns=alike), tmp_path / "alike")


# === Images and vectors ===


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    keras.utils.set_random_seed(0)
    images = keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, name="conv")])
    columns = {"photo": tx.data.ImageColumn((8, 8)), "vector": tx.data.VectorColumn(3)}
    model = tx.models.MultimodalRegressor(
        tiny.backbone(), tiny.preprocessor(tmp_path_factory.mktemp("pictured")), columns=columns, image_backbone=images
    )
    rows = {
        "text": tiny.TEXTS,
        "photo": list(RNG.integers(0, 256, (8, 8, 8, 3))),
        "vector": RNG.normal(size=(8, 3)),
    }
    return model, rows


def test_images_and_vectors_are_modes_of_their_own(pictured):
    model, rows = pictured
    assert list(model.layer_groups()) == ["embeddings", "block_0", "image", "head"]
    conv = model.image_backbone.get_layer("conv")
    dense = model.head.denses[-1]
    dense.kernel.assign(RNG.normal(size=dense.kernel.shape))
    pooled = tx.models.TextEmbedder(model.backbone, model.preprocessor, normalize=False).encode(tiny.TEXTS)
    photos = np.stack(rows["photo"]).astype("float32") / 255
    vectors = ops.convert_to_numpy(conv(photos)).mean(axis=(1, 2))
    features = np.concatenate([pooled, vectors, rows["vector"]], axis=1)
    expected = features @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(model.predict(rows, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_an_image_backbone_is_frozen_as_a_group(pictured, tmp_path):
    model, rows = pictured
    model.set_trainable({"image": False})
    model.compile(keras.optimizers.SGD(0.1))
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.fit(rows, np.arange(8.0), epochs=1, verbose=0)
    moved = {weight.path for weight in model.weights if not np.array_equal(before[weight.path], weight.numpy())}
    assert moved and not any("conv" in path for path in moved)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(rows, verbose=0), model.predict(rows, verbose=0), atol=1e-6)
    assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights]
    model.set_trainable({"image": True})


class Counted(keras.layers.Layer):
    """Counts the images that it sees in eager execution."""

    seen = 0

    def call(self, inputs):
        if isinstance(inputs, tf.__internal__.EagerTensor):
            Counted.seen += len(inputs)
        return inputs


def with_photos(folder, *extra):
    images = keras.Sequential([Counted(), keras.layers.Rescaling(1 / 255), *extra, keras.layers.Conv2D(4, 3)])
    columns = {"photo": tx.data.ImageColumn((8, 8)), "age": tx.data.NumberColumn()}
    return tx.models.MultimodalRegressor(
        tiny.backbone(num_layers=2), tiny.preprocessor(folder), columns=columns, image_backbone=images
    )


def of_photos(model, folder, count=8, seed=1):
    """Mixes batches of rows whose photos are arrays with batches of the same photos in files."""
    photos = list(np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), "uint8"))
    files = []
    for i, photo in enumerate(photos):
        path = folder / f"{i}.png"
        path.write_bytes(tf.io.encode_png(photo).numpy())
        files.append(str(path))
    rows = {"text": tiny.TEXTS[:count], "age": [float(i) for i in range(count)]}
    examples = [
        tx.data.examples({**rows, "photo": each, "target": np.arange(float(count))}, model, "target")
        for each in (photos, files)
    ]
    parts = [tx.data.batches(each, model, 4, seed=0) for each in examples]
    return tx.data.mix(parts, seed=0)


@pytest.mark.parametrize("below", [1, 2])
def test_features_of_a_frozen_image_backbone_are_stored_and_train_to_the_same_weights(tmp_path, below):
    found = []
    for short in (False, True):
        keras.utils.set_random_seed(0)
        model = with_photos(tmp_path)
        tx.freezing.freeze(model, below=below)
        model.set_trainable({"image": False})
        model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
        trained = tx.freezing.AboveFrozen(model) if short else model
        batches = of_photos(model, tmp_path)
        Counted.seen = 0
        trained.fit(batches, epochs=3, verbose=0)
        found.append((Counted.seen, model.get_weights()))
    (seen, full), (seen_once, above) = found
    assert (seen, seen_once) == (3 * 16, 0)  # the features are computed in a graph, before the first epoch
    assert max(np.abs(weight).max() for weight in full) < 100  # it learns and does not diverge
    for a, b in zip(full, above, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_stored_features_of_images_are_found_again_on_disk_and_bound_by_their_size(tmp_path, monkeypatch):
    model, folder = with_photos(tmp_path), tmp_path / "cache"
    tx.freezing.freeze(model, below=2)
    model.set_trainable({"image": False})
    model.compile("sgd")
    few = tx.freezing.AboveFrozen(model, max_bytes=100)
    with pytest.raises(ValueError, match=r"`max_bytes`.*8 vectors of 8 x float32 and 16 vectors of 4 x float32"):
        few.fit(of_photos(model, tmp_path), verbose=0)
    assert few.cache_bytes == 0
    first = tx.freezing.AboveFrozen(model, folder=folder)
    first.evaluate(of_photos(model, tmp_path), verbose=0)
    assert len(list(folder.glob("*.bin"))) == 2 and first.cache_bytes == 4 * (8 * 8 + 16 * 4)
    again = with_photos(tmp_path)
    again.set_weights(model.get_weights())
    tx.freezing.freeze(again, below=2)
    again.set_trainable({"image": False})
    again.compile("sgd")
    second = tx.freezing.AboveFrozen(again, folder=folder)
    monkeypatch.setattr(second._store, "fill", None)  # nothing is computed
    assert second.evaluate(of_photos(again, tmp_path), verbose=0) == pytest.approx(
        first.evaluate(of_photos(model, tmp_path), verbose=0)
    )
    first.evaluate(of_photos(model, tmp_path, seed=2), verbose=0)
    assert len(list(folder.glob("*.bin"))) == 3  # the texts are the same
    kept = model.image_backbone.layers[-1]
    kept.kernel.assign(kept.kernel + 1)
    with pytest.raises(ValueError, match=r"'photo'.*unchanged"):
        first.fit(of_photos(model, tmp_path), verbose=0)
    kept.trainable = True
    with pytest.raises(ValueError, match=r"some train again.*'photo'"):
        first.fit(of_photos(model, tmp_path), verbose=0)


@pytest.mark.parametrize("layer", [keras.layers.Dropout(0.5), keras.layers.RandomFlip(), "trains"])
def test_images_that_differ_in_each_epoch_are_not_stored(tmp_path, layer):
    model = with_photos(tmp_path, *([] if layer == "trains" else [layer]))
    tx.freezing.freeze(model, below=2)
    model.set_trainable({"image": layer == "trains"})
    model.compile("sgd", run_eagerly=True)
    above = tx.freezing.AboveFrozen(model)
    Counted.seen = 0
    above.fit(of_photos(model, tmp_path), epochs=2, verbose=0)
    assert Counted.seen == 2 * 16 and above.cache_bytes == 4 * 8 * 8


def test_an_exports_readme_sends_images_that_are_made_by_a_program(pictured, tmp_path):
    model, rows = pictured
    path = tx.export.saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    photos = np.stack(rows["photo"]).astype("uint8")
    given = {"photo": photos, "vector": rows["vector"].astype("float32"), "text": np.array(tiny.TEXTS, object)}
    found = served(**{name: tf.constant(value) for name, value in given.items()})
    np.testing.assert_allclose(found["values"], model.predict(rows, verbose=0), atol=1e-5)
    readme = (tmp_path / "served" / "README.md").read_text(encoding="utf-8")
    [block] = [each for each in re.findall(r"^```sh\n(.*?)^```$", readme, re.M | re.S) if "python3 -c" in each]
    program = shlex.split(block)[: shlex.split(block).index("|")]
    body = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    assert np.shape(body["instances"][0]["photo"]) == (8, 8, 3) and len(block) < 1000
    [call] = re.findall(r"^    photo=(.*),$", readme, re.M)
    assert eval(call, {"tf": tf}).dtype == np.uint8


# === Bad input ===


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": {}}, "`columns`.*tabular_columns"),
        ({"columns": {"age": "number"}}, r"`columns\['age'\]`.*data.Column"),
        ({"columns": {"text": tx.data.NumberColumn()}}, "`columns`.*the text's column"),
        ({"columns": {"token_ids": tx.data.NumberColumn()}}, "`columns`.*input of the backbone"),
        ({"columns": {"photo": tx.data.ImageColumn((8, 8))}}, "`image_backbone`.*'photo'"),
        ({"image_backbone": keras.layers.Flatten()}, "`image_backbone`.*None"),
        ({"fusion": "sum"}, "`mode`"),
        ({"head": tx.layers.SeparableConvHead(3)}, "`head`.*'sequence'"),
        ({"columns": {"extra": tx.data.TextListColumn(None)}}, r"`columns\['extra'\]`"),
    ],
)
def test_what_cannot_be_is_an_error(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **arguments)


def test_rows_without_a_column_or_with_a_wrong_value_are_errors(trained):
    with pytest.raises(ValueError, match="'text', 'age', 'kind'"):
        trained.predict(tiny.TEXTS)
    with pytest.raises(ValueError, match=r"age.*row 1"):
        trained.predict({**X, "age": [1, "old", *tiny.AGES[2:]]})
    with pytest.raises(ValueError, match="pairs of texts"):
        trained.score_pairs(["a"], ["b"])
