"""Losses and metrics on logits, against those of Keras and against loops."""

import math

import keras
import numpy as np
import pytest
import test_contracts
import tiny

import tfxfer as tx
from tfxfer import losses, metrics

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(6, 4)).astype("float32") * 3
INDICES = np.array([3, 0, 1, 1, 2, 0])
SHARES = RNG.dirichlet(np.ones(4), size=6).astype("float32")
HOT = RNG.integers(0, 2, (6, 4)).astype("float32")
WEIGHTS = np.array([0.5, 0.0, 2.0, 1.0, 3.0, 1.0], "float32")


# === One class ===


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("column", [False, True])
def test_indices_give_what_keras_gives(dtype, column):
    y = INDICES.astype(dtype)
    loss, keras_loss = losses.ClassCrossentropy(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for weights in (None, WEIGHTS):
        expected = float(keras_loss(y, LOGITS, weights))
        assert float(loss(y[:, None] if column else y, LOGITS, weights)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shares", [SHARES, SHARES.astype("float16"), np.eye(4, dtype="int32")[INDICES]])
def test_shares_give_what_keras_gives(shares, smoothing):
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    loss = losses.ClassCrossentropy(smoothing)
    for weights in (None, WEIGHTS):
        expected = float(keras_loss(shares, LOGITS, weights))
        assert float(loss(shares, LOGITS, weights)) == pytest.approx(expected, rel=1e-6)
    expected = float(keras_loss(np.eye(4)[INDICES], LOGITS))
    assert float(loss(INDICES, LOGITS)) == pytest.approx(expected, rel=1e-6)


def test_one_class_a_token_is_fine_too():
    tokens, y = RNG.normal(size=(2, 5, 3)).astype("float32"), RNG.integers(0, 3, (2, 5))
    expected = float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, tokens))
    assert float(losses.ClassCrossentropy()(y, tokens)) == pytest.approx(expected, rel=1e-6)
    assert float(losses.ClassCrossentropy()(np.eye(3)[y], tokens)) == pytest.approx(expected, rel=1e-6)


def test_indices_that_a_half_precise_loss_cannot_hold_are_told_apart():
    logits = np.zeros((2, 300), "float32")
    logits[:, 257] = 9.0  # bfloat16 rounds 257 to 256
    loss = losses.ClassCrossentropy(dtype="bfloat16")
    assert float(loss(np.array([257, 257]), logits)) < 0.1 < 8 < float(loss(np.array([256, 256]), logits))


def test_a_class_that_is_ruled_out_costs_nothing_and_has_no_gradient():
    import tensorflow as tf

    x = tf.constant([[1.0, -np.inf, 0.0]])
    for y in (np.array([0]), np.array([[1.0, 0.0, 0.0]])):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = losses.ClassCrossentropy()(y, x)
        assert float(value) == pytest.approx(math.log(1 + math.exp(-1)))
        assert np.isfinite(tape.gradient(value, x).numpy()).all()


BAD = [
    (np.array([0, 4, 0, 0, 0, 0]), r"indices 0 to 3.*y_true=4.*row 1"),
    (np.array([0, 0, -1, 0, 0, 0]), r"y_true=-1.*row 2"),
    (np.array([0, 0, 1.5, 0, 0, 0], "float32"), r"y_true=1\.5.*row 2"),
    (np.concatenate([SHARES[:5], [[1.0, 1.0, 0.0, 0.0]]]), r"y_true=\[1\.0, 1\.0, 0\.0, 0\.0\].*row 5.*Weighted"),
    (np.concatenate([[[1.5, -0.5, 0.0, 0.0]], SHARES[1:]]), r"shares >= 0.*row 0"),
    (np.concatenate([[[np.nan, 0.0, 0.0, 0.0]], SHARES[1:]]), r"row 0"),
    (np.zeros((6, 4), "int32"), r"sum to 1.*row 0"),
]


@pytest.mark.parametrize(("y", "said"), BAD)
def test_what_is_no_class_and_no_distribution_is_an_error_or_nan(y, said):
    import tensorflow as tf

    with pytest.raises(ValueError, match=f"(?s)`y_true`.*{said}"):
        losses.ClassCrossentropy()(y, LOGITS)
    traced = tf.function(losses.ClassCrossentropy(reduction=None))(tf.constant(y), tf.constant(LOGITS)).numpy()
    assert np.isnan(traced).sum() == (6 if not y.any() else 1)


@pytest.mark.parametrize(
    ("y", "logits", "said"),
    [
        (SHARES[:, :3], LOGITS, r"indices of shape \(6,\), or a share of each class of shape \(6, 4\).*\(6, 3\)"),
        (INDICES[:5], LOGITS, r"`y_true`"),
        (SHARES[None], LOGITS, r"`y_true`"),
        (INDICES, LOGITS[:, :1], r"`y_pred`.*two classes"),
        (np.array(list("abcdef")), LOGITS, r"numbers for ClassCrossentropy"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(y, logits, said):
    with pytest.raises(ValueError, match=said):
        losses.ClassCrossentropy()(y, logits)


def test_accuracy_takes_both_forms():
    for y, keras_metric in (
        (INDICES, keras.metrics.SparseCategoricalAccuracy()),
        (INDICES[:, None], keras.metrics.SparseCategoricalAccuracy()),
        (SHARES, keras.metrics.CategoricalAccuracy()),
        (np.eye(4, dtype="int32")[INDICES], keras.metrics.CategoricalAccuracy()),
    ):
        for weights in (None, WEIGHTS):
            found = [m(y, LOGITS, weights) for m in (metrics.ClassAccuracy(), keras_metric)]
            assert float(found[0]) == pytest.approx(float(found[1]))
            keras_metric.reset_state()
    metric = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(metrics.ClassAccuracy("acc", dtype="float64"))
    )
    assert isinstance(metric, metrics.ClassAccuracy) and (metric.name, metric.dtype) == ("acc", "float64")
    with pytest.raises(ValueError, match="`y_true`"):
        metric(SHARES[:, :2], LOGITS)


def test_a_classifier_learns_from_a_teachers_probabilities(tmp_path):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(tmp_path, dropout=0.0)
    teacher = np.random.default_rng(0).dirichlet(np.ones(3), size=8).astype("float32")
    model.compile(keras.optimizers.SGD(0.3), loss=losses.ClassCrossentropy(), metrics=[metrics.ClassAccuracy()])
    rows = (tiny.TEXTS, teacher)
    batches = tx.data.batches(rows, model.preprocessor, 8, shuffle=False)
    # No mode is given: Keras must know that larger is better.
    stop = keras.callbacks.EarlyStopping("accuracy", patience=25)
    history = keras.Model.fit(model, batches, epochs=25, shuffle=False, verbose=0, callbacks=[stop]).history
    entropy = -(teacher * np.log(teacher)).sum(axis=1).mean()
    assert history["loss"][0] > entropy + 0.2 > history["loss"][-1] >= entropy - 1e-4
    assert history["accuracy"][-1] > history["accuracy"][0]


# === Any number of labels ===


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [4.0, 0.5, 1.0, 9.0]])
@pytest.mark.parametrize("y", [HOT, SHARES])
def test_weighted_binary_crossentropy_is_torchs_formula(weights, gamma, y):
    expected = np.zeros(6)
    for i in range(6):
        for j in range(4):
            p, t = sigmoid(float(LOGITS[i, j])), float(y[i, j])
            weight = 1.0 if weights is None else weights[j]
            right = t * p + (1 - t) * (1 - p)
            loss = -(weight * t * math.log(p) + (1 - t) * math.log(1 - p))  # torch's pos_weight
            expected[i] += (1 - right) ** gamma * loss / 4
    found = losses.weighted_binary_crossentropy(y, LOGITS.astype("float64"), weights, gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    loss = losses.WeightedBinaryCrossentropy(weights, gamma=gamma)
    assert float(loss(y, LOGITS)) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(loss(y, LOGITS, WEIGHTS)) == pytest.approx((expected * WEIGHTS).mean(), rel=1e-5)
    probabilities = losses.WeightedBinaryCrossentropy(weights, gamma=gamma, from_logits=False)
    assert float(probabilities(y, 1 / (1 + np.exp(-LOGITS)))) == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("from_logits", [True, False])
def test_without_weights_the_values_are_keras_s(gamma, smoothing, from_logits):
    arguments = {"label_smoothing": smoothing, "from_logits": from_logits}
    y_pred = LOGITS if from_logits else 1 / (1 + np.exp(-LOGITS))
    found = float(losses.WeightedBinaryCrossentropy(gamma=gamma, **arguments)(HOT, y_pred))
    assert found == pytest.approx(float(keras.losses.BinaryFocalCrossentropy(gamma=gamma, **arguments)(HOT, y_pred)))
    if not gamma:
        assert found == pytest.approx(float(keras.losses.BinaryCrossentropy(**arguments)(HOT, y_pred)))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_gradients_are_finite_however_sure_the_model_is(gamma):
    import tensorflow as tf

    x = tf.constant([[-1e4, -100.0, 0.0, 100.0, 1e4]] * 2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = losses.WeightedBinaryCrossentropy([2.0] * 5, gamma=gamma)(np.array([[1] * 5, [0] * 5]), x)
    assert np.isfinite(float(value)) and np.isfinite(tape.gradient(value, x).numpy()).all()


def test_weights_by_name_are_put_in_the_labels_order():
    loss = losses.WeightedBinaryCrossentropy({"a": 2.0, "b": 3.0, "c": 4.0}, gamma=1.5, name="n", reduction="sum")
    assert loss.positive_weights == {"a": 2.0, "b": 3.0, "c": 4.0}
    ordered = loss.for_labels(["c", "a", "b"])
    assert ordered.positive_weights == (4.0, 2.0, 3.0)
    expected = losses.WeightedBinaryCrossentropy([4.0, 2.0, 3.0], gamma=1.5, name="n", reduction="sum")
    assert ordered.get_config() == expected.get_config()
    assert float(ordered(HOT[:, :3], LOGITS[:, :3])) == float(expected(HOT[:, :3], LOGITS[:, :3]))
    assert ordered.for_labels(["x", "y", "z"]) is ordered  # already in an order
    assert losses.WeightedBinaryCrossentropy().for_labels(["a"]).positive_weights is None
    numbers = losses.WeightedBinaryCrossentropy({3: 2.0, 5: 4.0})
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(numbers))
    assert again.positive_weights == {3: 2.0, 5: 4.0} and again.for_labels([5, 3]).positive_weights == (4.0, 2.0)
    array = losses.WeightedBinaryCrossentropy({np.str_("a"): np.float32(0.5), "b": 1})
    assert array.for_labels(["b", "a"]).positive_weights == (1.0, 0.5)


def test_what_class_weights_returns_can_be_used():
    y = np.array([[1, 0], [0, 0], [0, 1], [0, 1]])
    weights = tx.data.class_weights(y)  # negatives to positives: 3 to 1, 2 to 2
    loss = losses.WeightedBinaryCrossentropy(weights)
    expected = float(losses.WeightedBinaryCrossentropy([3.0, 1.0])(y, LOGITS[:4, :2]))
    assert float(loss(y, LOGITS[:4, :2])) == expected
    assert loss.for_labels(["loan", "card"]).positive_weights == (3.0, 1.0)
    assert loss.for_labels([0, 1]).positive_weights == (3.0, 1.0)


@pytest.mark.parametrize(
    ("weights", "labels", "said"),
    [
        ({"a": 1.0}, ["a", "b"], r"a weight for each of the labels.*no weight for \['b'\]"),
        ({"a": 1.0, "b": 1.0}, ["a"], r"no such label as \['b'\]"),
        ({"a": 1.0, "x": 1.0}, ["a", "b"], r"no weight for \['b'\] and no such label as \['x'\]"),
        ([1.0, 2.0], ["a", "b", "c"], "3 numbers, one for each label"),
        ({0: 1.0, 1: 2.0}, [1, 0], "could be these or their places.*a list of weights"),
        ({0: 1.0, 1: 2.0}, [1, 2], r"no weight for \['2'\] and no such label as \['0'\]"),
        ({0: 1.0, 1: 2.0}, ["a", "b", "c"], "no weight for"),
        ({"1": 1.0, "2": 2.0}, [1, 2], "no weight for"),
    ],
)
def test_weights_that_do_not_fit_the_labels_are_errors(weights, labels, said):
    with pytest.raises(ValueError, match=f"`positive_weights`.*{said}"):
        losses.WeightedBinaryCrossentropy(weights).for_labels(labels)


@pytest.mark.parametrize("weights", ["ab", 2.0, {1.0, 2.0}, [], {}, [1.0, 0.0], [-1.0], ["a"], {"a": None}, [np.nan]])
def test_weights_that_are_no_positive_numbers_are_errors(weights):
    with pytest.raises(ValueError, match="`positive_weights`"):
        losses.WeightedBinaryCrossentropy(weights)
    with pytest.raises(ValueError, match="`positive_weights`"):
        losses.WeightedBinaryCrossentropy([np.inf])


def test_targets_and_weights_that_do_not_fit_the_outputs_are_errors():
    import tensorflow as tf

    for make, y, said in [
        (lambda: losses.WeightedBinaryCrossentropy({"a": 1.0, "b": 1.0}), HOT[:, :2], r"for_labels\(model\.labels\)"),
        (lambda: losses.WeightedBinaryCrossentropy([1.0, 2.0, 3.0]), HOT[:, :2], "2 numbers, one for each output"),
        (lambda: losses.WeightedBinaryCrossentropy(), 2 * HOT[:, :2], r"0 or 1, or a share.*2\.0"),
        (lambda: losses.WeightedBinaryCrossentropy(), HOT[:, 0], r"0 and 1 for each label, shape \(6, 2\)"),
        (lambda: losses.WeightedBinaryCrossentropy(), HOT, r"0 and 1 for each label, shape \(6, 2\)"),
        (lambda: losses.WeightedBinaryCrossentropy(), np.array(list("abcdef")), "numbers for Weighted"),
    ]:
        with pytest.raises(ValueError, match=said):
            make()(y, LOGITS[:, :2])
    traced = tf.function(losses.WeightedBinaryCrossentropy())(tf.constant(2 * HOT), tf.constant(LOGITS))
    assert np.isnan(float(traced))
    for arguments in ({"gamma": -1.0}, {"label_smoothing": 2.0}, {"from_logits": 1}):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
            losses.WeightedBinaryCrossentropy(**arguments)


@pytest.mark.slow
def test_losses_and_accuracy_on_shares_are_the_same_on_jax(tmp_path):
    expected = [
        float(losses.ClassCrossentropy(0.1)(SHARES, LOGITS)),
        float(losses.ClassCrossentropy()(INDICES, LOGITS)),
        float(losses.WeightedBinaryCrossentropy([1.0, 2.0, 3.0, 4.0], gamma=0.5)(HOT, LOGITS)),
        float(metrics.ClassAccuracy()(SHARES, LOGITS)),
    ]
    np.savez(tmp_path / "given.npz", shares=SHARES, indices=INDICES, hot=HOT, logits=LOGITS, expected=expected)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import jax, numpy as np
        from tfxfer import losses, metrics
        given = np.load({str(tmp_path / "given.npz")!r})
        weighted = losses.WeightedBinaryCrossentropy([1.0, 2.0, 3.0, 4.0], gamma=0.5)
        found = [
            jax.jit(losses.ClassCrossentropy(0.1))(given["shares"], given["logits"]),
            jax.jit(losses.ClassCrossentropy())(given["indices"], given["logits"]),
            jax.jit(weighted)(given["hot"], given["logits"]),
            metrics.ClassAccuracy()(given["shares"], given["logits"]),
        ]
        np.testing.assert_allclose(found, given["expected"], rtol=1e-5)
        assert np.isnan(jax.jit(losses.ClassCrossentropy())(given["indices"] + 9, given["logits"]))
    """)
