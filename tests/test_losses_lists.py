"""Losses on lists of documents: compared with sentence-transformers 6.2 in float64, their properties, invalid input.

The numbers are in golden/rerank; they were computed without the library's cast to float32.
"""

import gzip
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfxfer import losses

ACTIVATIONS = {"identity": None, None: None, "sigmoid": "sigmoid", "tanh": "tanh"}


def read(golden, name):
    folder = golden / "rerank"
    whole = pathlib.Path(folder, f"{name}.json")
    if whole.is_file():
        return json.loads(whole.read_text())
    return json.loads(gzip.decompress((folder / "cases.json.gz").read_bytes()))[name]


def padded(rows, fill=np.nan, width=None):
    width = max(map(len, rows)) if width is None else width
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows])


def value_and_gradient(function, grades, scores, flat):
    """A loss on lists in float64 and its gradient by list; with `flat`, the loss gets all scores as one column."""
    flattened = tf.constant(np.concatenate([np.array(each, "float64") for each in scores])[:, None])
    with tf.GradientTape() as tape:
        tape.watch(flattened)
        rows = tf.RaggedTensor.from_row_lengths(flattened[:, 0], [len(each) for each in scores])
        # Infinite padding, because a loss must not read it.
        y_pred = flattened if flat else rows.to_tensor(np.inf)
        value = tf.reduce_mean(function(padded(grades), y_pred))
    gradient = tf.convert_to_tensor(tape.gradient(value, flattened)).numpy()[:, 0]
    return float(value), np.split(gradient, np.cumsum([len(each) for each in scores])[:-1])


def listwise(case):
    """The loss function of a case of `listwise.json`, with the arguments of the case."""
    config = dict(case["config"])
    config.pop("mini_batch_size", None)  # it never changes a value
    config["activation"] = ACTIVATIONS[config.pop("activation", None)]
    name = case["loss"]
    if "scheme" in config:
        config["weighting"] = config.pop("scheme")
    if "respect_input_order" in config:
        config["by_grade"] = not config.pop("respect_input_order")
    if "lambda_weight" in config:
        names = {"default": "exponential", "inverse_log2_masked": "log2", "inverse_rank_unmasked": "reciprocal"}
        found = config.pop("lambda_weight")
        config["discount"] = None if found is None else names[found]
    functions = {
        "LambdaLoss": losses.lambda_loss,
        "RankNetLoss": losses.rank_net,
        "ListNetLoss": losses.list_net,
        "ListMLELoss": losses.list_mle,
        "PListMLELoss": losses.position_list_mle,
        "ADRMSELoss": losses.adr_mse,
    }
    return lambda y_true, y_pred: functions[name](y_true, y_pred, **config)


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_listwise_losses_and_their_gradients_equal_the_reference(step, golden):
    reference = read(golden, "listwise")
    seen = set()
    for number, case in enumerate(reference["cases"][::step]):
        batch = reference["batches"][case["batch"]]
        ragged = len({len(each) for each in batch["scores"]}) > 1
        if case["config"].get("lambda_weight") == "inverse_rank_unmasked" and ragged:
            continue  # the reference adds the padding of shorter lists to the sum of the weights
        function = listwise(case)
        value, gradient = value_and_gradient(function, batch["labels"], batch["scores"], flat=number % 2)
        said = f"{case['loss']} {case['config']} {case['batch']}"
        assert value == pytest.approx(case["value"], abs=1e-8, rel=1e-8), said
        # Few of the shipped cases have gradients.
        for found, expected in zip(gradient, case.get("grad", gradient), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-8, rtol=1e-8, err_msg=said)
        seen.add(case["loss"])
    assert len(seen) == 6


def test_pointwise_losses_and_their_gradients_equal_the_reference(golden):
    functions = {
        "BinaryCrossEntropyLoss": (losses.PointwiseCrossentropyLoss, losses.pointwise_crossentropy),
        "MSELoss": (losses.PointwiseMSELoss, losses.pointwise_mse),
    }
    reductions = {"mean": "sum_over_batch_size", "sum": "sum", "none": None}
    count = 0
    for case in read(golden, "pointwise"):
        if case["loss"] not in functions:
            continue  # classes: `ClassCrossentropy`
        config, (cls, function) = case["config"], functions[case["loss"]]
        options = {"activation": ACTIVATIONS[config.get("activation")]}
        if "pos_weight" in config:
            options["positive_weight"] = config["pos_weight"]
        logits, labels = tf.constant(case["logits"], tf.float64), np.array(case["labels"])
        loss = cls(**options, reduction=reductions[config.get("reduction", "mean")], dtype="float64")
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits[:, None])
        np.testing.assert_allclose(value, case["value"], atol=1e-8, rtol=1e-8)
        gradient = tape.gradient(value, logits)
        np.testing.assert_allclose(gradient, case.get("grad", gradient), atol=1e-8, rtol=1e-8)
        np.testing.assert_allclose(function(labels, logits, **options), loss.call(labels, logits[:, None]))
        count += 1
    assert count >= 18


def test_margins_and_their_gradients_equal_the_reference(golden):
    for case in read(golden, "margin_mse"):
        logits, labels = np.array(case["logits"]), np.array(case["labels"], "float64")
        labels = labels[:, None] if labels.ndim == 1 else labels
        if case["form"].startswith("margin") or labels.shape[1] < logits.shape[1]:
            labels = np.concatenate([np.zeros((len(labels), 1)), -labels], axis=1)
        function = lambda y, x, a=ACTIVATIONS[case["activation"]]: losses.score_margin_mse(y, x, activation=a)  # noqa: E731
        value, gradient = value_and_gradient(function, labels.tolist(), logits.tolist(), flat=True)
        assert value == pytest.approx(case["value"], rel=1e-8)
        np.testing.assert_allclose(gradient, case.get("grad", gradient), atol=1e-8, rtol=1e-8)


def test_softmax_over_other_rows_documents_equals_the_reference(golden):
    for case in read(golden, "multiple_negatives"):
        logits = tf.constant(case["pair_logits"], tf.float64)
        columns = np.array(case["columns"])
        grades = np.zeros(columns.shape)
        grades[:, 0] = 1.0
        with tf.GradientTape() as tape:
            tape.watch(logits)
            documents = tf.reshape(tf.gather(logits, columns, batch_dims=1), (-1, 1))
            options = {"scale": case["scale"] or 1.0, "activation": ACTIVATIONS[case["activation"]]}
            value = tf.reduce_mean(losses.list_softmax(grades, documents, **options))
        assert float(value) == pytest.approx(case["value"], rel=1e-8)
        gradient = tf.convert_to_tensor(tape.gradient(value, logits))
        np.testing.assert_allclose(gradient, case.get("grad", gradient), atol=1e-8, rtol=1e-8)


# === Properties ===

RNG = np.random.default_rng(5)
GRADES = [[2.0, 0.0, 1.0], [1.0], [0.0, 3.0, 3.0, 1.0, 0.0]]
SCORES = [RNG.normal(size=len(each)).tolist() for each in GRADES]
FUNCTIONS = {
    "lambda": losses.lambda_loss,
    "rank_net": losses.rank_net,
    "list_net": losses.list_net,
    "list_mle": losses.list_mle,
    "position_list_mle": losses.position_list_mle,
    "adr_mse": losses.adr_mse,
    "pointwise_mse": losses.pointwise_mse,
    "list_softmax": losses.list_softmax,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_fills_up_a_list_and_the_order_of_its_documents_change_nothing(name):
    function = FUNCTIONS[name]
    expected, gradient = value_and_gradient(function, GRADES, SCORES, flat=True)
    wide = function(padded(GRADES, width=9), padded(SCORES, fill=1e30, width=9))
    assert float(np.mean(wide)) == pytest.approx(expected, rel=1e-12)
    # Equal grades in the last list keep their order, because the losses order equal grades by position.
    orders = [[2, 0, 1], [0], [1, 0, 3, 2, 4]]
    moved = [[[each[i] for i in order] for each, order in zip(rows, orders, strict=True)] for rows in (GRADES, SCORES)]
    value, other = value_and_gradient(function, *moved, flat=False)
    assert value == pytest.approx(expected, rel=1e-12)
    for one, order, two in zip(gradient, orders, other, strict=True):
        np.testing.assert_allclose(one[order], two, atol=1e-12)


def test_a_reference_order_of_a_hundred_documents_and_more_has_finite_weights():
    grades, scores = np.arange(400.0)[None, ::-1], RNG.normal(size=(1, 400))
    weights = 2.0 ** -np.arange(1, 401) - 2.0**-400
    terms = [np.log(np.exp(scores[0, i:]).sum()) - scores[0, i] for i in range(400)]
    expected = np.sum(weights * terms) / weights.sum()
    assert float(losses.position_list_mle(grades, scores)[0]) == pytest.approx(expected, rel=1e-9)
    assert np.isfinite(losses.position_list_mle(grades.astype("float32"), scores.astype("float32"))).all()


def test_several_positives_are_not_negatives_of_one_another():
    found = losses.list_softmax(np.array([[1.0, 2.0, 0.0]]), np.array([[0.3, -0.2, 0.1]]), scale=2.0, activation=None)
    expected = np.mean([np.log1p(np.exp(2.0 * (0.1 - each))) for each in (0.3, -0.2)])
    assert float(found[0]) == pytest.approx(expected, rel=1e-9)
    none = losses.list_softmax(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.3, -0.2], [0.3, 0.1]]))
    np.testing.assert_array_equal(none, [0.0, 0.0])


def test_another_number_of_scores_than_of_grades_is_no_number():
    grades = np.array([[1.0, 0.0], [1.0, np.nan]])
    for count, fits in ((2, False), (3, True), (10, True), (11, False)):
        value = losses.list_net(grades, np.zeros((count, 1)))
        assert np.isfinite(value).all() == fits, count


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.ListNetLoss()(np.zeros((2, 3)), np.zeros((2, 4))), r"`y_true`.*shape \(2, 4\)"),
        (lambda: losses.ListNetLoss()(np.zeros((2, 3, 1)), np.zeros((6, 1))), r"`y_true`.*\(lists, documents\)"),
        (lambda: losses.ListNetLoss()(np.zeros((2, 3)), np.zeros((2, 3, 1))), r"`y_pred`.*\(documents, 1\)"),
        (lambda: losses.ListNetLoss()([["a"]], np.zeros((1, 1))), r"numbers for ListNetLoss"),
        (lambda: losses.PointwiseCrossentropyLoss()([[0.0, 2.0]], np.zeros((2, 1))), r"\[0, 1\].*LambdaLoss"),
        (lambda: losses.LambdaLoss("ndcg"), r"`weighting`.*'lambda_rank'"),
        (lambda: losses.LambdaLoss(k=0), "`k`"),
        (lambda: losses.LambdaLoss(mu=-1), "`mu`"),
        (lambda: losses.RankNetLoss(sigma=0), "`sigma`"),
        (lambda: losses.RankNetLoss(reduction_log="e"), "`reduction_log`.*'natural'"),
        (lambda: losses.ListNetLoss("softmax"), "`activation`.*'sigmoid'"),
        (lambda: losses.ListMLELoss(by_grade=1), "`by_grade`"),
        (lambda: losses.PositionListMLELoss("log"), "`discount`.*'log2'"),
        (lambda: losses.ADRMSELoss(0), "`alpha`"),
        (lambda: losses.ListSoftmaxLoss(0), "`scale`"),
        (lambda: losses.PointwiseCrossentropyLoss(0), "`positive_weight`"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(call, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        call()


def test_a_grade_outside_0_to_1_makes_a_traced_crossentropy_nan():
    loss = tf.function(losses.PointwiseCrossentropyLoss())
    assert np.isnan(float(loss(tf.constant([[0.0, 2.0]]), tf.zeros((2, 1)))))
    assert np.isfinite(float(loss(tf.constant([[0.0, 1.0]]), tf.zeros((2, 1)))))
