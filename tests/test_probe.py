"""Heads as regressions on frozen features, and how `fit` uses them."""

import warnings

import keras
import numpy as np
import pytest
import sklearn.linear_model
import tiny

import tfxfer as tx

# The solver itself, because it takes any features and targets; a probe computes its features from texts.
from tfxfer import _regression

# The sample of words, tested with fewer words than it is designed for.
from tfxfer.models import _probing

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(1.0, 2.0, (60, 5)).astype("float32")
CLASSES = np.argmax(FEATURES[:, :3] + RNG.normal(0, 1.5, (60, 3)), axis=1)
TEXTS, LABELS = tiny.TEXTS * 4, tiny.LABELS * 4


def scaled(features):
    """Scales features as the regression does."""
    centred = features - features.mean(axis=0)
    return centred / np.sqrt((centred**2).sum(axis=1).mean())


def classifier(folder, **kwargs):
    kwargs.setdefault("labels", ["card", "loan", "other"])
    return tx.models.TextClassifier(tiny.backbone(), tiny.preprocessor(folder), **kwargs)


# === The regression ===


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_logistic_regression_is_scikit_learns(penalty):
    found = _regression.fit(FEATURES, np.eye(3)[CLASSES], kind="classes", penalties=(penalty,))
    reference = sklearn.linear_model.LogisticRegression(C=1 / penalty, tol=1e-6).fit(scaled(FEATURES), CLASSES)
    ours = FEATURES @ found.kernel + found.bias
    theirs = reference.decision_function(scaled(FEATURES))
    # Softmax ignores a constant that is added to all classes.
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=5e-3)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_row_is_judged_by_a_regression_that_has_not_seen_its_text(kind, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    y = np.argmax(x[:, :3] + rng.normal(0, 1, (60, 3)), axis=1)
    targets = np.eye(3)[y] if kind == "classes" else (x[:, :2] > 0).astype("float64")
    groups = np.arange(60)
    groups[50:] = groups[:10]  # ten texts twice
    outputs, penalty = _regression.out_of_fold(x, targets, groups, kind=kind, folds=4, seed=3)
    again = _regression.out_of_fold(x, targets, groups, kind=kind, folds=4, seed=3)[0]
    np.testing.assert_array_equal(outputs, again)
    # Changing one row's target changes the outputs of the other folds only, which reveals the row's fold.
    changed = targets.copy()
    changed[50] = np.roll(changed[50], 1) if kind == "classes" else 1 - changed[50]
    monkeypatch.setattr(_regression, "PENALTIES", (penalty,))
    before, _ = _regression.out_of_fold(x, targets, groups, kind=kind, folds=4, seed=3)
    after, _ = _regression.out_of_fold(x, changed, groups, kind=kind, folds=4, seed=3)
    same = np.isclose(before, after, atol=1e-7).all(axis=1)
    assert same[50] and same[0], "a row's own target, or that of the same text, has no part in its probability"
    assert 10 <= same.sum() <= 20
    if kind == "classes":
        rest = ~same
        reference = sklearn.linear_model.LogisticRegression(C=1 / penalty, tol=1e-6).fit(scaled(x)[rest], y[rest])
        theirs = reference.decision_function(scaled(x)[same])
        ours = before[same] - before[same].mean(1, keepdims=True)
        np.testing.assert_allclose(ours, theirs - theirs.mean(1, keepdims=True), atol=0.1)


def test_sigmoids_and_ridge_are_scikit_learns():
    targets = np.stack([CLASSES == 0, CLASSES != 2], axis=1).astype("float32")
    found = _regression.fit(FEATURES, targets, kind="labels", penalties=(0.5,))
    for i in range(2):
        reference = sklearn.linear_model.LogisticRegression(C=2, tol=1e-6).fit(scaled(FEATURES), targets[:, i])
        theirs = reference.decision_function(scaled(FEATURES))
        np.testing.assert_allclose((FEATURES @ found.kernel + found.bias)[:, i], theirs, atol=5e-3)
    numbers = FEATURES[:, :2] + RNG.normal(0, 1, (60, 2))
    weights = RNG.uniform(0.5, 2, 60)
    found = _regression.fit(FEATURES, numbers, weights, kind="numbers", penalties=(0.3,))
    mean = np.average(FEATURES, axis=0, weights=weights)
    scale = np.sqrt(((FEATURES - mean) ** 2).sum(axis=1).mean())
    reference = sklearn.linear_model.Ridge(alpha=0.3).fit((FEATURES - mean) / scale, numbers, weights)
    np.testing.assert_allclose(
        FEATURES @ found.kernel + found.bias, reference.predict((FEATURES - mean) / scale), atol=1e-4
    )


def test_the_penalty_is_the_one_of_the_least_loss_of_held_out_rows():
    found = _regression.fit(FEATURES, np.eye(3)[CLASSES], kind="classes")
    assert found.penalty == min(found.losses, key=found.losses.get)
    noise = _regression.fit(FEATURES, np.eye(3)[RNG.integers(0, 3, 60)], kind="classes")
    assert noise.penalty > found.penalty  # noise needs a stronger penalty
    assert found.held_out.shape == (60, 3)
    right = np.mean(found.held_out.argmax(axis=1) == CLASSES)
    assert 0.6 < right < np.mean((FEATURES @ found.kernel + found.bias).argmax(axis=1) == CLASSES) + 0.1


def test_fewer_rows_than_features_give_the_same_as_all_coordinates():
    wide = RNG.normal(size=(12, 40))
    wide[:, :2] += 3 * np.eye(2)[RNG.integers(0, 2, 12)]
    targets = np.eye(2)[(wide[:, 0] > 1.5).astype(int)]
    for kind in ("classes", "numbers"):
        found = _regression.fit(wide, targets, kind=kind, penalties=(0.1,))
        again = _regression.fit(np.repeat(wide, 4, axis=0), np.repeat(targets, 4, axis=0), kind=kind, penalties=(0.4,))
        np.testing.assert_allclose(found.kernel, again.kernel, atol=2e-3)


def test_a_class_without_rows_is_unlikely_and_finite():
    found = _regression.fit(FEATURES, np.eye(4)[CLASSES], kind="classes")
    outputs = FEATURES @ found.kernel + found.bias
    assert np.isfinite(outputs).all() and (outputs.argmax(axis=1) != 3).all()
    one = _regression.fit(FEATURES[:1], np.eye(2)[[1]], kind="classes")
    assert not one.losses and (FEATURES @ one.kernel + one.bias).argmax(axis=1).all()


# === The head ===


def probed(model, texts):
    """Computes a model's outputs separately, from its features and the weights of its head."""
    features, dense = model.linear_head()
    below = keras.Model(model.input, features)
    return keras.ops.convert_to_numpy(below(model.preprocess_samples(texts)) @ dense.kernel + dense.bias)


def test_a_probe_is_the_regression_on_the_features_in_every_form_of_rows(tmp_path):
    model = classifier(tmp_path)
    features, _ = model.linear_head()
    below = keras.Model(model.input, features)
    inputs = keras.ops.convert_to_numpy(below(model.preprocess_samples(TEXTS)))
    targets = model.read_targets(LABELS)
    expected = _regression.fit(inputs, np.eye(3)[targets], kind="classes", penalties=(0.5,))
    ids = {name: np.asarray(values) for name, values in model.preprocess_samples(TEXTS).items()}
    batches = tx.data.batches(tx.data.labelled({"text": TEXTS, "label": LABELS}, "text", "label"), model, 8)
    forms = {
        "rows": (TEXTS, LABELS),
        "batches": (batches,),
        "ids": (ids, targets),
        "dataset": (tx.data.labelled({"text": TEXTS, "label": LABELS}, "text", "label").map(lambda *row: row),),
    }
    for name, given in forms.items():
        found = tx.freezing.probe(model, *given, penalties=[0.5])
        assert (found.penalty, found.rows, found.losses) == (0.5, 32, {}), name
        outputs = probed(model, TEXTS)
        np.testing.assert_allclose(outputs, inputs @ expected.kernel + expected.bias, atol=2e-3, err_msg=name)
    assert batches.epoch == 0
    np.testing.assert_allclose(tiny.outputs(model, TEXTS), outputs, atol=1e-5)


def test_probes_of_labels_numbers_and_pairs(tmp_path):
    several = classifier(tmp_path, multi_label=True)
    found = tx.freezing.probe(several, TEXTS, [[label] for label in LABELS])
    assert found.scores["micro_f1"] > 0.9 and several.classify(["cost"]).labels == [["loan"]]
    numbers = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    values = [len(text) / 10 for text in TEXTS]
    found = tx.freezing.probe(numbers, TEXTS, values)
    assert found.scores["r2"] > 0.9 and abs(numbers.scores(TEXTS) - values).mean() < 2 * found.scores["mae"] + 0.05
    pairs = tx.models.SiameseClassifier(tiny.embedder(tmp_path), labels=["same", "other"])
    texts = (TEXTS + TEXTS, TEXTS + TEXTS[1:] + TEXTS[:1])
    found = tx.freezing.probe(pairs, texts, ["same"] * 32 + ["other"] * 32)
    assert found.scores["accuracy"] > 0.9
    assert np.mean(np.array(pairs.classify(texts).labels) == np.array(["same"] * 32 + ["other"] * 32)) > 0.9


def test_weights_of_rows_are_heeded(tmp_path):
    model = classifier(tmp_path, labels=["card", "loan"])
    texts = ["my card"] * 4
    tx.freezing.probe(model, texts, ["card", "card", "card", "loan"], [1, 1, 1, 9], penalties=[1])
    assert tiny.outputs(model, ["my card"]).argmax() == 1
    tx.freezing.probe(model, texts, ["card", "card", "card", "loan"], penalties=[1])
    assert tiny.outputs(model, ["my card"]).argmax() == 0


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda folder: classifier(folder, head="mlp"), {}, "`model`.*one linear layer"),
        (tiny.embedder, {}, "`model`.*one linear layer"),
        (lambda folder: keras.Sequential(), {}, "`model`.*a task model"),
        (classifier, {"penalties": []}, "`penalties`"),
        (classifier, {"penalties": [0.0]}, "`penalties`"),
        (classifier, {"folds": 1}, "`folds`"),
    ],
)
def test_what_cannot_be_probed_is_an_error(tmp_path, make, options, said):
    model = make() if make is keras.Sequential else make(tmp_path)
    with pytest.raises(ValueError, match=said):
        tx.freezing.probe(model, TEXTS, LABELS, **options)


def test_endless_data_are_an_error_and_a_generator_is_run_once(tmp_path):
    model = classifier(tmp_path)
    rows = tx.data.labelled({"text": TEXTS, "label": LABELS}, "text", "label")
    with pytest.raises(ValueError, match=r"`x`.*finite"):
        tx.freezing.probe(model, rows.map(lambda *row: row).repeat())
    assert tx.freezing.probe(model, iter(zip(TEXTS, LABELS, strict=True))).rows == 32


# === Tags of words ===

WORDS, TAGS = tiny.WORD_ROWS * 3, tiny.TAG_ROWS * 3


def tagger(folder, **kwargs):
    keras.utils.set_random_seed(0)
    return tx.models.TokenTagger(tiny.backbone(), tiny.preprocessor(folder), **{"tags": tiny.TAGS, **kwargs})


def test_a_taggers_probe_is_the_regression_on_the_vectors_of_words(tmp_path):
    model = tagger(tmp_path)
    features, dense = model.linear_head()
    x = tx.data.Gate(model).encode_batch((WORDS,))
    vectors = keras.ops.convert_to_numpy(keras.Model(model.input, features)(x))
    vectors = np.concatenate([row[: len(words)] for row, words in zip(vectors, WORDS, strict=True)])
    tags = np.array([tiny.TAGS.index(tag) for row in TAGS for tag in row])
    weights = np.repeat(RNG.uniform(0.5, 2, len(WORDS)), [len(row) for row in TAGS])
    per_row = weights[np.cumsum([0, *(len(row) for row in TAGS)])[:-1]]
    expected = _regression.fit(vectors, np.eye(5)[tags], weights, kind="classes", penalties=(0.3,))
    found = tx.freezing.probe(model, WORDS, TAGS, per_row, penalties=[0.3], batch_size=4)
    assert (found.rows, found.penalty) == (len(tags), 0.3)
    outputs = vectors @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(outputs, vectors @ expected.kernel + expected.bias, atol=5e-3)
    assert tx.freezing.probe(model, WORDS, TAGS).scores["accuracy"] > 0.8
    with pytest.raises(ValueError, match=r"`model`.*A regression cannot start"):
        tx.freezing.probe(tagger(tmp_path, head="crf"), WORDS, TAGS)
    assert tagger(tmp_path, head=tx.layers.Head(5, (4,))).linear_head() is None


def test_a_new_linear_head_of_a_tagger_starts_as_a_probe(tmp_path):
    model = tagger(tmp_path, dropout=0.0)
    model.save(tmp_path / "new.keras")
    assert keras.saving.load_model(tmp_path / "new.keras").has_new_head()
    model.compile(tx.optimizers.Auto(1e-9), run_eagerly=True)
    model.fit(WORDS, TAGS, verbose=0)
    assert model.head_probe.scores["accuracy"] > 0.8 and not model.has_new_head()
    # The same with a custom optimizer, above frozen layers.
    other = tagger(tmp_path, head="probe", dropout=0.0)
    other.backbone.set_weights(model.backbone.get_weights())
    tx.freezing.freeze(other, below=1)
    other.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    tx.freezing.AboveFrozen(other).fit(WORDS, TAGS, verbose=0)
    best = tx.freezing.probe(model, WORDS, TAGS)
    assert other.head_probe.penalty == best.penalty
    np.testing.assert_allclose(other.head.get_weights()[0], model.head.get_weights()[0], atol=0.02)


def test_of_many_words_rare_tags_keep_all_and_frequent_ones_weigh_as_many_as_they_stand_for(monkeypatch):
    monkeypatch.setattr(_probing.Words, "MOST", 40)
    tags = RNG.choice([-1, 0, 0, 0, 0, 0, 0, 1, 2], (30, 12))
    tags[:, 0] = 0
    tags[:3, 1] = 4
    features = np.stack([tags, np.arange(360).reshape(30, 12)], axis=-1).astype("float32")
    weights = np.linspace(1, 2, 30)

    def sampled(batches):
        words = _probing.Words()
        for rows in np.array_split(np.arange(30), batches):
            words.add(features[rows], tags[rows], weights[rows])
        return words.arrays()

    found, kept, factors = sampled(7)
    assert len(kept) == len(found) <= 40 and 4 in kept and 3 not in kept and -1 not in kept
    assert (found[:, 0] == kept).all() and len(set(found[:, 1])) == len(found)
    assert (kept == 4).sum() == (tags == 4).sum()  # a rare tag keeps all its words
    for tag in (0, 1, 2, 4):
        rows = found[kept == tag, 1].astype(int) // 12
        each = (tags == tag).sum() / len(rows)
        np.testing.assert_allclose(factors[kept == tag], weights[rows] * each)
    for one, other in zip(sampled(7), sampled(7), strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(_probing.Words, "MOST", 1000)
    found, kept, factors = sampled(3)
    np.testing.assert_array_equal(kept, tags[tags >= 0])
    np.testing.assert_array_equal(factors, np.broadcast_to(weights[:, None], tags.shape)[tags >= 0])


# === In `fit` ===


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_a_new_head_starts_as_a_probe_of_ten_times_the_penalty(tmp_path, optimizer):
    model = classifier(tmp_path, head="linear" if optimizer == "auto" else "probe", dropout=0.0)
    model.compile(keras.optimizers.SGD(1e-6) if optimizer == "sgd" else tx.optimizers.Auto(1e-6), run_eagerly=True)
    assert model.has_new_head()
    model.fit(TEXTS, LABELS, batch_size=32, verbose=0)
    assert model.head_probe.scores["accuracy"] > 0.9 and not model.has_new_head()
    kept, model.head_probe = model.get_weights(), None
    model.fit(TEXTS, LABELS, batch_size=32, verbose=0)
    assert model.head_probe is None  # the head has already trained
    best = tx.freezing.probe(model, TEXTS, LABELS)
    tx.freezing.probe(model, TEXTS, LABELS, penalties=[10 * best.penalty])
    np.testing.assert_allclose(model.get_weights()[-2], kept[-2], atol=0.02 * abs(kept[-2]).max())


def test_a_head_that_is_not_new_keeps_its_weights(tmp_path):
    model = classifier(tmp_path, head="probe", dropout=0.0)
    model.save(tmp_path / "new.keras")
    assert keras.models.load_model(tmp_path / "new.keras").has_new_head()
    model.head.denses[0].kernel.assign(np.full((8, 3), 0.5))
    assert not model.has_new_head()
    model.save(tmp_path / "set.keras")
    assert not keras.models.load_model(tmp_path / "set.keras").has_new_head()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(TEXTS, LABELS, verbose=0)
    assert model.head_probe is None and (model.get_weights()[-2] == 0.5).all()
    given = keras.layers.Dense(3)
    given.build((None, 8))
    assert not classifier(tmp_path, head=given).has_new_head()
    assert classifier(tmp_path, head=keras.layers.Dense(3)).has_new_head()


def test_a_probe_starts_again_with_the_stronger_penalty_unless_the_optimizer_is_ones_own(tmp_path):
    model = classifier(tmp_path, dropout=0.0)
    tx.freezing.probe(model, TEXTS, LABELS)
    kept = model.get_weights()[-2]
    assert model.has_probed_head() and not model.has_new_head()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(TEXTS, LABELS, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[-2], kept)
    model.compile(tx.optimizers.Auto(1e-9), run_eagerly=True)
    model.fit(TEXTS, LABELS, verbose=0)
    assert np.square(model.get_weights()[-2]).sum() < 0.9 * np.square(kept).sum()
    assert not model.has_probed_head()


def test_class_weights_reach_the_start(tmp_path):
    model = classifier(tmp_path, labels=["card", "loan"], head="probe", dropout=0.0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(["my card"] * 4, ["card", "card", "card", "loan"], class_weight={"card": 1, "loan": 9}, verbose=0)
    assert model.classify(["my card"]).labels == ["loan"]


def test_a_probe_above_frozen_layers(tmp_path):
    whole, above = (classifier(tmp_path, head="probe", dropout=0.0) for _ in range(2))
    above.backbone.set_weights(whole.backbone.get_weights())
    for model in (whole, above):
        tx.freezing.freeze(model, below=1)
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    batches = tx.data.batches((TEXTS, above.read_targets(LABELS)), above, seed=0)
    whole.fit(batches, verbose=0)
    batches.epoch = 0
    short = tx.freezing.AboveFrozen(above)
    short.fit(short.cached(batches), verbose=0)
    np.testing.assert_allclose(above.get_weights()[-2], whole.get_weights()[-2], atol=1e-3)


def test_data_that_come_once_are_an_error_for_a_probe_only(tmp_path):
    rows = lambda: iter(zip(TEXTS, LABELS, strict=True))  # noqa: E731
    model = classifier(tmp_path, head="probe")
    model.compile()
    with pytest.raises(ValueError, match=r"`x`.*iterated over twice"):
        model.fit(rows(), batch_size=8, verbose=0)
    model = classifier(tmp_path)
    model.compile(run_eagerly=True)
    model.fit(rows(), batch_size=8, verbose=0)
    assert model.head_probe is None


def test_steps_that_cannot_teach_are_warned_of_with_what_a_probe_gives(tmp_path):
    model = classifier(tmp_path)
    model.compile(keras.optimizers.Adam(1e-6), run_eagerly=True)
    before = model.get_weights()
    with pytest.warns(UserWarning, match=r"8 steps .* new head .* accuracy (0\.9|1\.0).* held-out"):
        model.fit(TEXTS * 2, LABELS * 2, batch_size=8, verbose=0)
    assert abs(model.get_weights()[-2] - before[-2]).max() < 1e-4  # the head did not become the probe
    # No warning now that the model is fine-tuned, nor for large steps or few rows.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(TEXTS * 2, LABELS * 2, batch_size=64, verbose=0)
        for optimizer, times in ((keras.optimizers.Adam(1.0), 2), (keras.optimizers.Adam(1e-6), 1)):
            model = classifier(tmp_path)
            model.compile(optimizer, run_eagerly=True)
            model.fit(TEXTS * times, LABELS * times, batch_size=64, verbose=0)


@pytest.mark.parametrize("loss", ["mse", keras.losses.mean_absolute_error, keras.losses.Huber()])
def test_losses_of_numbers_by_name_function_or_object_start_as_a_probe(tmp_path, loss):
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    model.compile(loss=loss, run_eagerly=True)
    model.fit(TEXTS, [len(text) / 10 for text in TEXTS], batch_size=32, verbose=0)
    assert model.head_probe.scores["r2"] > 0.5


def test_a_loss_that_no_regression_stands_for_trains_from_the_new_head(tmp_path):
    loss = lambda y_true, y_pred: keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)  # noqa: E731
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    model.compile(loss=loss, run_eagerly=True)
    model.fit(TEXTS, [1.0] * len(TEXTS), batch_size=32, verbose=0)
    assert model.head_probe is None
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path), head="probe")
    model.compile(loss=loss, run_eagerly=True)
    with pytest.raises(ValueError, match=r"`model`.*a loss on logits or values"):
        model.fit(TEXTS, [1.0] * len(TEXTS), batch_size=32, verbose=0)


def test_under_a_frozen_encoder_the_head_keeps_the_penalty_that_predicts_best(tmp_path):
    model = classifier(tmp_path, dropout=0.0)
    tx.freezing.freeze(model, below=1)
    best = tx.freezing.probe(model, TEXTS, LABELS)
    kept = model.get_weights()[-2]
    model.compile(tx.optimizers.Auto(1e-9), run_eagerly=True)
    model.fit(TEXTS, LABELS, batch_size=32, verbose=0)
    assert model.head_probe.penalty == best.penalty
    np.testing.assert_allclose(model.get_weights()[-2], kept, atol=0.02 * abs(kept).max())


def test_no_epochs_change_no_weight_but_the_start(tmp_path):
    model = classifier(tmp_path)
    model.compile(run_eagerly=True)
    assert model.fit(TEXTS, LABELS, epochs=0, verbose=0).epoch == []
