"""The conditional random field, the losses on tags, and the accuracy of tags.

The reference numbers (golden/crf) enumerate all sequences in float64; pytorch-crf 0.7.2 agrees with them to 1e-12.
"""

import functools
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_contracts
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfxfer import layers, losses, metrics

CASES = """
    one_tag two_tags one_step seven_tags four_tags_full large tiny ties zero_transitions bio_1_free bio_1 bio_2 bio_3
    bio_3_free bio_2_wrong_gold bioes_1 bioes_1_free bioes_2 bio_1_large
""".split()
WITH_SPANS = [name for name in CASES if name.startswith("bio")]
DTYPES = ("float64", "float32")
RNG = np.random.default_rng(3)
# O, B, I: an I may follow only a B or an I.
BIO = ([True, True, False], [[True, True, False], [True, True, True], [True, True, True]])
WEIGHTS = (RNG.normal(size=(3, 3)), RNG.normal(size=3), RNG.normal(size=3))


def layer(num_tags=3, allowed=BIO, dtype="float64", weights=WEIGHTS):
    crf = layers.CRF(num_tags, allowed, dtype=dtype)
    crf.build((None, None, num_tags))
    crf.set_weights(weights)
    return crf


def gradients(function, crf, emissions):
    """The gradients of a function of emissions with respect to the emissions and the weights of a layer."""
    emissions = tf.constant(emissions)
    with tf.GradientTape() as tape:
        tape.watch(emissions)
        value = function(emissions)
    variables = [emissions, *(w.value for w in crf.weights)]
    return [np.asarray(g) for g in tape.gradient(value, variables, unconnected_gradients="zero")]


# === The reference's numbers ===


@pytest.fixture(params=itertools.product(CASES, DTYPES), ids="-".join)
def case(request, golden):
    """A case in one dtype: its arrays, its description, the layer and the tolerance."""
    name, dtype = request.param
    with np.load(golden / "crf" / f"{name}.npz") as loaded:
        x = dict(loaded)
    about = json.loads((golden / "crf" / "cases.json").read_text(encoding="utf-8"))[name]
    allowed = (x["allowed_start"], x["allowed_transitions"], x["allowed_end"])
    scores = [np.where(np.isfinite(x[key]), x[key], 0.0) for key in ("transitions", "start", "end")]
    crf = layer(about["K"], allowed if about["constrained"] else None, dtype, scores)
    # Values far below 1 are differences of larger numbers.
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-6, "atol": 1e-6}
    return {**x, "emissions": x["emissions"].astype(dtype)}, about, crf, tolerance


def test_sums_and_best_sequences_are_the_references(case):
    x, _, crf, tolerance = case
    emissions, mask = x["emissions"], x["mask"]
    sums = crf.log_partition(emissions, mask)
    assert keras.backend.standardize_dtype(sums.dtype) == emissions.dtype
    np.testing.assert_allclose(sums, x["log_partition"], **tolerance)
    tags, scores = crf.decode(emissions, mask)
    np.testing.assert_array_equal(tags, x["viterbi"])
    np.testing.assert_allclose(scores, x["viterbi_score"], **tolerance)
    likelihoods = ops.convert_to_numpy(crf.log_likelihood(emissions, x["tags"], mask))
    possible = np.isfinite(x["log_likelihood"])
    np.testing.assert_allclose(likelihoods[possible], x["log_likelihood"][possible], **tolerance)
    assert (likelihoods[~possible] < -1e29).all() and np.isfinite(likelihoods).all()
    rows = [crf.forbidden_step(np.where(m, y, -1)[None]) is None for y, m in zip(x["tags"], mask, strict=True)]
    np.testing.assert_array_equal(rows, possible)


def test_marginals_and_gradients_are_the_references(case):
    x, about, crf, tolerance = case
    mask = x["mask"]
    np.testing.assert_allclose(crf.marginals(x["emissions"], mask), x["token_marginals"], **tolerance)
    found = gradients(lambda e: -ops.sum(crf.log_likelihood(e, x["tags"], mask)), crf, x["emissions"])
    # An impossible step has no gradient: its score is not a weight of the layer.
    steps = np.where(x["allowed_transitions"] | (not about["constrained"]), x["grad_transitions"], 0.0)
    for one, other in zip(found, (x["grad_emissions"], steps, x["grad_start"], x["grad_end"]), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def spans_of(about, length):
    """Yields every span of a case: first and last position, index of the type, its tags, and which tags may follow."""
    number = {tag: i for i, tag in enumerate(about["tags"])}
    for (start, end), (place, kind) in itertools.product(
        itertools.combinations_with_replacement(range(length), 2), enumerate(about["span_types"])
    ):
        count, follow = end - start + 1, np.ones(len(number), "bool")
        if about["scheme"] == "BIO":
            tags = [f"B-{kind}"] + [f"I-{kind}"] * (count - 1)
            follow[number[f"I-{kind}"]] = False
        else:
            tags = [f"S-{kind}"] if count == 1 else [f"B-{kind}", *[f"I-{kind}"] * (count - 2), f"E-{kind}"]
        yield start, end, place, [number[tag] for tag in tags], follow


@pytest.mark.parametrize("case", list(itertools.product(WITH_SPANS, DTYPES)), indirect=True, ids="-".join)
def test_the_probability_of_exactly_a_span_is_the_references(case):
    x, about, crf, tolerance = case
    rows, starts, ends, types, paths, follow = [], [], [], [], [], []
    for row, length in enumerate(x["mask"].sum(axis=1)):
        for start, end, place, tags, after in spans_of(about, length):
            path = np.zeros(about["T"], "int32")
            path[start : end + 1] = tags
            for values, value in zip(
                (rows, starts, ends, types, paths, follow), (row, start, end, place, path, after), strict=True
            ):
                values.append(value)
    # Each span gets its own row, because a row has one path.
    found = crf.segment_log_probabilities(
        x["emissions"][rows],
        x["mask"][rows],
        rows=np.arange(len(rows)),
        starts=starts,
        ends=ends,
        path=paths,
        follow=follow,
    )
    assert np.isfinite(found).all()
    expected = np.zeros(x["span_marginals"].shape)
    expected[rows, starts, ends, types] = np.exp(ops.convert_to_numpy(found))
    np.testing.assert_allclose(expected, x["span_marginals"], **tolerance)


# === Against a loop over all sequences ===


def enumerate_all(crf, emissions, positions):
    """All sequences over some positions of one text, and their probabilities."""
    transitions, start, end = (ops.convert_to_numpy(score) for score in crf.potentials())
    sequences = np.array(list(itertools.product(range(crf.num_tags), repeat=len(positions))))
    scores = []
    for y in sequences:
        score = start[y[0]] + end[y[-1]] + sum(transitions[a, b] for a, b in itertools.pairwise(y))
        scores.append(score + sum(emissions[t, tag] for t, tag in zip(positions, y, strict=True)))
    scores = np.exp(np.array(scores) - max(scores))
    return sequences, scores / scores.sum()


EMISSIONS = RNG.normal(size=(5, 5, 3)) * 2.0
Y = np.array([[0, 1, 2, 2, 0], [1, -1, 2, -1, -1], [-1, 0, -1, 1, 1], [-1, -1, -1, -1, -1], [-1, -1, -1, -1, 0]])


def conditionals(crf, emissions, y):
    """The probability of each tag of `y` given the tag before it; 0 where `y` has no tag."""
    found = np.zeros(y.shape)
    for row in range(len(y)):
        positions = np.flatnonzero(y[row] >= 0)
        if len(positions):
            sequences, shares = enumerate_all(crf, emissions[row], positions)
            tags = y[row, positions]
            for i, t in enumerate(positions):
                before = np.ones(len(shares), "bool") if i == 0 else sequences[:, i - 1] == tags[i - 1]
                found[row, t] = shares[before & (sequences[:, i] == tags[i])].sum() / shares[before].sum()
    return found


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 2.0]])
def test_losses_on_tags_are_the_mean_over_words(gamma, weights):
    crf, counts = layer(), Y >= 0
    w = np.where(counts, 1.0 if weights is None else np.take([0.5, 3.0, 2.0], Y), 0.0)
    logs = EMISSIONS - np.log(np.exp(EMISSIONS).sum(axis=-1, keepdims=True))
    softmax = np.exp(np.take_along_axis(logs, np.maximum(Y, 0)[..., None], axis=-1)[..., 0])
    options = {"tag_weights": weights, "gamma": gamma, "dtype": "float64"}
    for loss, p in (
        (losses.TagCrossentropy(**options), softmax),
        (losses.ChainCrossentropy(crf, **options), conditionals(crf, EMISSIONS, Y)),
    ):
        p = np.where(counts, p, 1.0)
        expected = w * (1.0 - p) ** gamma * -np.log(p)
        assert float(loss(Y, EMISSIONS)) == pytest.approx(expected.sum() / w.sum(), rel=1e-9)
        rows = np.array([1.0, 0.0, 2.0, 1.0, 0.5])
        weighted = (rows * expected.sum(axis=1)).sum() / w.sum()
        assert float(loss(Y, EMISSIONS, rows)) == pytest.approx(weighted, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_of_the_chain_are_those_of_differences(gamma):
    crf = layer()
    loss = losses.ChainCrossentropy(crf, tag_weights=[0.5, 3.0, 2.0], gamma=gamma, dtype="float64")
    rows = np.array([1.0, 0.0, 2.0, 1.0, 0.5])
    found = gradients(lambda e: loss(Y, e, rows), crf, EMISSIONS)
    call = tf.function(lambda e, *scores: loss_of(loss, scores, e, rows))
    scores = [ops.convert_to_numpy(score) for score in crf.potentials()]
    for place, gradient in enumerate(found):
        arrays = [EMISSIONS, *scores]
        direction = np.random.default_rng(place).normal(size=arrays[place].shape)
        direction *= arrays[place] > -1e29
        ends = []
        for sign in (-1e-5, 1e-5):
            moved = [a + sign * direction if i == place else a for i, a in enumerate(arrays)]
            ends.append(float(call(*moved)))
        assert (gradient * direction).sum() == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-6, abs=1e-9)


def loss_of(loss, scores, emissions, rows):
    values = losses.chain_crossentropy(Y, emissions, scores, loss.tag_weights, gamma=loss.gamma)
    return ops.mean(values * rows)


def test_gradients_of_the_sum_over_sequences_are_their_marginals():
    crf, mask = layer(), Y >= 0
    found = gradients(lambda e: ops.sum(crf.log_partition(e, mask)), crf, EMISSIONS)
    np.testing.assert_allclose(found[0], crf.marginals(EMISSIONS, mask), atol=1e-12)
    pairs, first, last = np.zeros((3, 3)), np.zeros(3), np.zeros(3)
    for row in range(len(Y)):
        positions = np.flatnonzero(mask[row])
        if len(positions):
            for y, share in zip(*enumerate_all(crf, EMISSIONS[row], positions), strict=True):
                np.add.at(pairs, (y[:-1], y[1:]), share)
                first[y[0]] += share
                last[y[-1]] += share
    for one, other in zip(found[1:], (pairs, first, last), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_parts_of_a_sequence_have_the_probability_of_all_sequences_that_hold_them():
    crf, mask = layer(), Y >= 0
    parts = [(0, 1, 3, [0, 1]), (0, 0, 4, [2]), (1, 0, 1, [0]), (1, 1, 4, [2]), (2, 3, 3, [1, 2]), (4, 0, 4, [])]
    rows, starts, ends, follow = zip(*parts, strict=True)
    follow = np.array([np.isin(range(3), each) for each in follow])
    found = crf.segment_log_probabilities(EMISSIONS, mask, rows=rows, starts=starts, ends=ends, path=Y, follow=follow)
    for (row, start, end, _), after, value in zip(parts, follow, np.asarray(found), strict=True):
        positions = np.flatnonzero(mask[row])
        sequences, shares = enumerate_all(crf, EMISSIONS[row], positions)
        inside = (positions >= start) & (positions <= end)
        holds = (sequences[:, inside] == Y[row, positions[inside]]).all(axis=1)
        following = np.flatnonzero(positions > end)
        if len(following):
            holds &= after[sequences[:, following[0]]]
        assert np.exp(value) == pytest.approx(shares[holds].sum(), rel=1e-9)
    nothing = np.zeros((1, 3), "bool")
    value = crf.segment_log_probabilities(EMISSIONS, mask, rows=[0], starts=[0], ends=[1], path=Y, follow=nothing)
    assert np.isfinite(value).all() and np.exp(value) == 0.0
    none = crf.segment_log_probabilities(EMISSIONS, mask, rows=[], starts=[], ends=[], path=Y, follow=nothing[:0])
    assert none.shape == (0,)


# === Masks ===


@functools.cache
def traced():
    """A function for batches of any length; returns the results per row, then the results per position."""
    crf = layer()

    def call(emissions, tags, mask):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(emissions)
            values = [crf.log_partition(emissions, mask), crf.log_likelihood(emissions, tags, mask)]
        path, score = crf.decode(emissions, mask)
        slopes = [tape.gradient(value, emissions) for value in values]
        return [*values, score], [*slopes, path, crf.marginals(emissions, mask)]

    specs = [tf.TensorSpec((None, None, 3), "float64"), tf.TensorSpec((None, None), "int32")]
    return tf.function(call, input_signature=[*specs, tf.TensorSpec((None, None), "bool")])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_gaps_in_the_mask_equal_the_sequence_without_them(seed, length):
    rng = np.random.default_rng(seed)
    emissions, tags = rng.normal(size=(4, length, 3)), rng.integers(0, 3, (4, length)).astype("int32")
    mask = rng.random((4, length)) < rng.random((4, 1))
    emissions[~mask] *= 50.0
    dense = np.full((4, length + 2, 3), 50.0)
    dense_tags, dense_mask = np.full((4, length + 2), 2, "int32"), np.zeros((4, length + 2), "bool")
    for row, keep in enumerate(mask):
        count = keep.sum()
        dense[row, :count], dense_tags[row, :count], dense_mask[row, :count] = emissions[row, keep], tags[row, keep], 1
    values, places = traced()(emissions, tags, mask)
    expected, dense_places = traced()(dense, dense_tags, dense_mask)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    for found, wanted, empty in zip(places, dense_places, (0.0, 0.0, -1, 0.0), strict=True):
        found, wanted = found.numpy(), wanted.numpy()
        np.testing.assert_allclose(found[mask], wanted[dense_mask], rtol=1e-9, atol=1e-12)
        assert (found[~mask] == empty).all() and (wanted[~dense_mask] == empty).all()


def test_what_stands_at_masked_positions_is_never_read():
    crf, mask = layer(), Y >= 0
    loss = losses.ChainCrossentropy(crf, gamma=0.5, dtype="float64")
    expected = gradients(lambda e: loss(Y, e), crf, EMISSIONS)
    for noise in (50.0, np.inf, np.nan):
        noisy = np.where(mask[..., None], EMISSIONS, noise)
        for one, other in zip(crf.decode(noisy, mask), crf.decode(EMISSIONS, mask), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(crf.marginals(noisy, mask), crf.marginals(EMISSIONS, mask))
        for one, other in zip(gradients(lambda e: loss(Y, e), crf, noisy), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        softmax = losses.TagCrossentropy(dtype="float64")
        assert float(softmax(Y, noisy)) == float(softmax(Y, EMISSIONS))


def test_rows_and_batches_without_words_have_no_loss_and_no_nan():
    crf, nothing = layer(), np.full_like(Y, -1)
    for gamma in (0.0, 0.5):
        for loss in (losses.ChainCrossentropy(crf, gamma=gamma), losses.TagCrossentropy(gamma=gamma)):
            assert float(loss(nothing, EMISSIONS)) == 0.0
            assert all((g == 0.0).all() for g in gradients(lambda e: loss(nothing, e), crf, EMISSIONS))  # noqa: B023
    mask = nothing >= 0
    np.testing.assert_array_equal(crf.log_partition(EMISSIONS, mask), np.zeros(5))
    np.testing.assert_array_equal(crf.log_likelihood(EMISSIONS, nothing, mask), np.zeros(5))
    tags, scores = crf.decode(EMISSIONS, mask)
    assert (np.asarray(tags) == -1).all() and (np.asarray(scores) == 0.0).all()


# === Impossible steps ===


def test_impossible_steps_have_no_probability_and_are_never_decoded():
    crf = layer(dtype="float32")
    rng = np.random.default_rng(0)
    emissions = (rng.normal(size=(64, 9, 3)) * 30.0).astype("float32")
    emissions[..., 2] += 60.0  # the impossible tag scores highest
    mask = rng.random((64, 9)) < 0.8
    assert crf.forbidden_step(ops.convert_to_numpy(crf.decode(emissions, mask)[0])) is None
    marginals = ops.convert_to_numpy(crf.marginals(emissions, mask))
    first = mask & (np.cumsum(mask, axis=1) == 1)
    assert (marginals[first][:, 2] == 0.0).all()
    np.testing.assert_allclose(marginals[mask].sum(axis=-1), 1.0, atol=1e-6)
    found = gradients(lambda e: ops.sum(crf.log_partition(e, mask)), crf, emissions)
    assert all(np.isfinite(g).all() for g in found) and found[1][0, 2] == 0.0 and found[2][2] == 0.0


def test_impossible_tags_and_sure_tags_give_finite_losses_and_gradients():
    wrong = np.array([[0, 2, 2, 0, 0], [2, 2, 0, 1, 2], [1, 2, 2, 2, 2], [0, 0, 0, 0, 0], [-1, 2, -1, 0, 2]])
    for dtype, gamma, size in [("float32", 0.0, 1e4), ("float32", 0.5, 1e4), ("float64", 2.0, 0.0)]:
        crf = layer(dtype=dtype)
        loss = losses.ChainCrossentropy(crf, gamma=gamma, dtype=dtype)
        sure = np.eye(3)[np.maximum(Y, 0)] * size
        for tags in (wrong, Y):
            for emissions in (sure, np.where(sure > 0, sure, -np.inf)):
                value = float(loss(tags, emissions.astype(dtype)))
                assert np.isfinite(value) and (value < 1e7) == (tags is Y)
                found = gradients(lambda e: loss(tags, e), crf, emissions.astype(dtype))  # noqa: B023
                assert all(np.isfinite(g).all() for g in found)


def test_an_impossible_step_is_found_with_its_place():
    crf = layers.CRF(3, (*BIO, [True, True, False]))
    step = layers.ForbiddenStep
    for tags, expected in [
        ([[0, 1, 2, 0], [1, 2, 2, 1]], None),
        ([[-1, -1], []], None),
        ([[0, 1], [2, 0]], step(1, 0, None, 2)),
        ([[-1, -1, 2, 0]], step(0, 2, None, 2)),
        ([[1, 0], [0], [1, 0, -100, 2]], step(2, 3, 0, 2)),
        (np.array([[0, 1, 2, -1]]), step(0, 2, 2, None)),
    ]:
        assert crf.forbidden_step(tags) == expected
        assert layers.CRF(3).forbidden_step(tags) is None
    for tags in ([[0, 1], [0, 3]], [[0.0, 1.0]], [["O"]], [[[0]]]):
        with pytest.raises(ValueError, match=r"`tags`.*ints below 3.*row [01]"):
            crf.forbidden_step(tags)


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ([True, True], "a tuple of bools"),
        ("ab", "a tuple of bools"),
        (([True, True],), "a tuple of bools"),
        (([1, 1], np.ones((2, 2), "bool")), "a tuple of bools"),
        (([True, True], [[True], [True, True]]), "a tuple of bools"),
        (([True, True], [True, True]), "a tuple of bools"),
        (([False, False], np.ones((2, 2), "bool")), "No sequence of 1 position is"),
        (([True, False], [[False, True], [False, False]]), "No sequence of 3 positions is"),
        (([True, False], np.eye(2) == 0, [True, False]), "No sequence of 2 positions is"),
    ],
)
def test_flags_that_do_not_fit_or_leave_no_sequence_are_errors(allowed, said):
    with pytest.raises(ValueError, match=f"(?s)`allowed`.*{said}"):
        layers.CRF(2, allowed)


def test_emissions_targets_and_weights_that_do_not_fit_are_errors():
    crf = layer()
    with pytest.raises(ValueError, match="`num_tags`"):
        layers.CRF(0)
    for call in (crf, crf.decode, crf.marginals):
        with pytest.raises(ValueError, match=r"`emissions`.*\(batch, length, 3\)"):
            call(EMISSIONS[..., :2])
    with pytest.raises(ValueError, match=r"`crf`.*for_layer"):
        losses.ChainCrossentropy()(Y, EMISSIONS)
    with pytest.raises(ValueError, match=r"`crf`.*potentials"):
        losses.ChainCrossentropy(keras.layers.Dense(3))
    for loss in (losses.ChainCrossentropy(crf), losses.TagCrossentropy()):
        for y, y_pred, said in [
            (Y[:, 0], EMISSIONS, r"`y_true`.*shape \(5, 5\)"),
            (Y[:, :4], EMISSIONS, r"`y_true`.*shape \(5, 5\)"),
            (Y, EMISSIONS[..., 0], r"`y_pred`.*\(batch, length, tags\)"),
            (np.where(Y == 2, 3, Y), EMISSIONS, r"`y_true`.*0 to 2, or -1.*y_true=3.*\[0, 2\] of the batch"),
            (np.where(Y == 2, 0.5, Y), EMISSIONS, r"`y_true`.*y_true=0\.5"),
            (Y.astype("str"), EMISSIONS, "numbers for"),
        ]:
            with pytest.raises(ValueError, match=said):
                loss(y, y_pred)
        with pytest.raises(ValueError, match=r"`sample_weight`.*one number for each row.*-1 at words"):
            loss(Y, EMISSIONS, np.ones((5, 5)))
        in_graph = tf.function(loss)(tf.constant(np.where(Y == 2, 3, Y)), tf.constant(EMISSIONS))
        assert np.isnan(float(in_graph))
        for arguments in ({"gamma": -1.0}, {"tag_weights": [1.0, 0.0]}, {"tag_weights": 2.0}):
            with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
                type(loss)(**arguments)
    for loss in (losses.ChainCrossentropy(crf, tag_weights=[1.0, 2.0]), losses.TagCrossentropy([1.0, 2.0])):
        with pytest.raises(ValueError, match=r"`tag_weights`.*3 numbers, one for each output"):
            loss(Y, EMISSIONS)


def test_weights_by_name_are_put_in_the_order_of_the_tags():
    names = {"O": 0.5, "I-LOC": 2.0, "B-LOC": 3.0}
    tags = ["O", "B-LOC", "I-LOC"]
    bound = losses.ChainCrossentropy(layer(), tag_weights=names, gamma=1.0, reduction="sum")
    for loss in (losses.TagCrossentropy(names, gamma=1.0, reduction="sum"), bound):
        ordered = loss.for_tags(tags)
        assert ordered.tag_weights == (0.5, 3.0, 2.0) and ordered.for_tags(tags) is ordered
        assert (ordered.gamma, ordered.reduction) == (1.0, "sum")
        with pytest.raises(ValueError, match=r"`tag_weights`.*in the order of the outputs.*for_tags\(tags\)"):
            loss(Y, EMISSIONS)
        with pytest.raises(ValueError, match=r"each of the tags.*no weight for \['B-PER'\]"):
            loss.for_tags([*tags, "B-PER"])
        with pytest.raises(ValueError, match=r"`tag_weights`.*2 numbers, one for each tag"):
            ordered.for_tags(tags[:2])
    assert bound.for_tags(tags).crf is bound.crf
    assert losses.TagCrossentropy().for_tags(tags).tag_weights is None


# === Precision, graphs, files ===


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        crf = layers.CRF(3, BIO)
        half = ops.cast(EMISSIONS * 100.0, dtype)
        outputs = crf(half)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(w.dtype == "float32" for w in crf.weights) and outputs.dtype == "float32"
    mask, exact = Y >= 0, ops.cast(half, "float32")
    for method in (crf.log_partition, crf.marginals, lambda e, m: crf.log_likelihood(e, Y, m)):
        found = method(half, mask)
        assert found.dtype == "float32" and np.isfinite(found).all()
        np.testing.assert_array_equal(found, method(exact, mask))
    assert layers.CRF(3, dtype="bfloat16").compute_dtype == "float32"
    assert layers.CRF.from_config(layer().get_config()).compute_dtype == "float64"


def training(crf, emissions, tags, mask):
    """The loss and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch(emissions)
        value = losses.ChainCrossentropy(crf, gamma=0.5)(tf.where(mask, tags, -1), emissions)
    return [value, *tape.gradient(value, [emissions, *(w.value for w in crf.weights)])]


def answers(crf, emissions, tags, mask):
    """The best sequence, its score, marginals, log probabilities of parts, and the sum over all sequences."""
    path, score = crf.decode(emissions, mask)
    rows, ends = tf.zeros((2,), "int32"), tf.constant([0, 2])
    parts = {"rows": rows, "starts": rows, "ends": ends, "path": path, "follow": tf.ones((2, 3), "bool")}
    found = crf.segment_log_probabilities(emissions, mask, **parts)
    return [path, score, crf.marginals(emissions, mask), found, crf.log_partition(emissions, mask)]


def batch(length):
    rng = np.random.default_rng(length)
    mask = rng.random((4, length)) < 0.7
    mask[0, 0] = True
    tags = np.where(mask, 1, 0).astype("int32")
    return rng.normal(size=(4, length, 3)).astype("float32"), tags, mask


SPECS = [tf.TensorSpec((None, None, 3), "float32"), *(tf.TensorSpec((None, None), x) for x in ("int32", "bool"))]


def test_one_graph_serves_all_lengths():
    crf = layer(dtype="float32")
    graph = tf.function(lambda *x: training(crf, *x), input_signature=SPECS)
    for length in (3, 8):
        x = [tf.constant(part) for part in batch(length)]
        for eager, found in zip(training(crf, *x), graph(*x), strict=True):
            np.testing.assert_allclose(found, eager, rtol=1e-5, atol=1e-6)
    assert graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("calls", [training, pytest.param(answers, marks=pytest.mark.slow)])
def test_xla_gives_the_same(calls):
    crf, x = layer(dtype="float32"), [tf.constant(part) for part in batch(8)]
    compiled = tf.function(lambda *x: calls(crf, *x), jit_compile=True)
    for found, expected in zip(compiled(*x), calls(crf, *x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_decodes_any_batch(tmp_path):
    crf = layer(dtype="float32")
    module = tf.Module()
    module.crf = crf
    module.decode = tf.function(lambda *x: answers(crf, *x), input_signature=SPECS)
    tf.saved_model.save(module, str(tmp_path))
    again = tf.saved_model.load(str(tmp_path))
    for length in (3, 8):
        x = [tf.constant(part) for part in batch(length)]
        for eager, found in zip(answers(crf, *x), again.decode(*x), strict=True):
            np.testing.assert_allclose(found, eager, rtol=1e-5, atol=1e-6)


# === Training ===


def words(rows=32, length=6, seed=0):
    """Words and tags: 0 for the word 1, 1 at the start and after the word 1, else 2; -1 at padding and some words."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 4, (rows, length))
    y = np.where(x == 1, 0, np.where(np.roll(x, 1, axis=1) == 1, 1, 2))
    y[:, 0] = np.where(x[:, 0] == 1, 0, 1)
    out = np.arange(length) >= rng.integers(1, length + 1, (rows, 1))
    return np.where(out, 0, x), np.where(out | (rng.random(x.shape) < 0.05), -1, y)


def tagger(head=None, mask_zero=False):
    """A model that sees one word at a time: only the tag before tells B from I."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(4, 8, mask_zero=mask_zero)(inputs)
    x = keras.layers.Dense(3)(x)
    return keras.Model(inputs, x if head is None else head(x))


@pytest.mark.parametrize(("policy", "mask_zero"), [("float32", True), ("mixed_float16", False)])
def test_fit_trains_the_weights_of_the_chain(policy, mask_zero):
    x, y = words()
    keras.config.set_dtype_policy(policy)
    try:
        crf = layers.CRF(3)
        model = tagger(crf, mask_zero)
    finally:
        keras.config.set_dtype_policy("float32")
    loss = losses.ChainCrossentropy().for_layer(crf)
    optimizer = keras.optimizers.Adam(0.1)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, loss=loss, metrics=[metrics.TagAccuracy()])
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < 0.4 * history[0]
    assert all(np.abs(w.numpy()).max() > 0.1 for w in crf.weights)
    tags = ops.convert_to_numpy(crf.decode(model.predict(x, verbose=0), y >= 0)[0])
    assert (tags == y)[y >= 0].mean() > 0.9
    likelihood = crf.log_likelihood(model.predict(x, verbose=0), y, y >= 0)
    expected = -float(ops.sum(likelihood)) / (y >= 0).sum()
    assert model.evaluate(x, y, batch_size=32, verbose=0)[0] == pytest.approx(expected, rel=1e-3)


def test_a_model_with_a_chain_comes_back_from_a_file(tmp_path):
    x, y = words()
    crf = layers.CRF(3, BIO, name="crf")
    model = tagger(crf)
    model.compile("sgd", loss=losses.ChainCrossentropy(crf, tag_weights=[0.5, 1.0, 2.0]))
    crf.set_weights(WEIGHTS)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    loaded = again.get_layer("crf")
    for one, other in zip(loaded.weights, crf.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    outputs = model.predict(x, verbose=0)
    np.testing.assert_array_equal(again.predict(x, verbose=0), outputs)
    np.testing.assert_array_equal(loaded.decode(outputs)[0], crf.decode(outputs)[0])
    with pytest.raises(ValueError, match="for_layer"):
        again.evaluate(x, y, verbose=0)
    again.compile("sgd", loss=again.loss.for_layer(loaded))
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


def test_without_scores_of_its_own_a_chain_is_a_softmax():
    zeros = [np.zeros((3, 3)), np.zeros(3), np.zeros(3)]
    crf = layer(allowed=None, weights=zeros)
    options = {"tag_weights": [1.0, 2.0, 3.0], "gamma": 0.5, "dtype": "float64"}
    expected = float(losses.TagCrossentropy(**options)(Y, EMISSIONS))
    assert float(losses.ChainCrossentropy(crf, **options)(Y, EMISSIONS)) == pytest.approx(expected, rel=1e-9)
    softmax = np.exp(EMISSIONS) / np.exp(EMISSIONS).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(crf.marginals(EMISSIONS), softmax, atol=1e-12)


@pytest.mark.slow
def test_the_chain_is_the_same_on_jax_and_trains_there(tmp_path):
    crf, mask = layer(dtype="float32"), Y >= 0
    loss = losses.ChainCrossentropy(crf, gamma=0.5)
    emissions = EMISSIONS.astype("float32")
    found = gradients(lambda e: loss(Y, e), crf, emissions)
    part = {"rows": [0, 2], "starts": [1, 3], "ends": [2, 4], "path": Y, "follow": [[True, False, True]] * 2}
    expected = [float(loss(Y, emissions)), *found, *crf.decode(emissions, mask), crf.marginals(emissions, mask)]
    expected += [crf.log_partition(emissions, mask), crf.segment_log_probabilities(emissions, mask, **part)]
    expected = {f"{i:02}": np.asarray(each) for i, each in enumerate(expected)}
    np.savez(tmp_path / "x.npz", *(w.numpy() for w in crf.weights), y=Y, emissions=emissions, **expected)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import jax, keras, numpy as np
        import test_crf
        from tfxfer import layers, losses, metrics
        x = dict(np.load({str(tmp_path / "x.npz")!r}))
        y, emissions, mask = x["y"], x["emissions"], x["y"] >= 0
        crf = layers.CRF(3, test_crf.BIO)
        crf.build((None, None, 3))
        crf.set_weights([x["arr_0"], x["arr_1"], x["arr_2"]])
        loss = losses.ChainCrossentropy(crf, gamma=0.5)

        @jax.jit
        def value(weights, emissions):
            with keras.StatelessScope(state_mapping=list(zip(crf.weights, weights))):
                return loss(y, emissions)

        found, slopes = jax.value_and_grad(value, argnums=(1, 0))([w.value for w in crf.weights], emissions)
        part = dict(rows=[0, 2], starts=[1, 3], ends=[2, 4], path=y, follow=[[True, False, True]] * 2)
        everything = [found, slopes[0], *slopes[1], *crf.decode(emissions, mask), crf.marginals(emissions, mask)]
        everything += [crf.log_partition(emissions, mask), crf.segment_log_probabilities(emissions, mask, **part)]
        for i, each in enumerate(everything):
            np.testing.assert_allclose(each, x[f"{{i:02}}"], rtol=1e-5, atol=1e-6, err_msg=str(i))

        inputs, targets = test_crf.words()
        for head, loss in ((layers.CRF(3), losses.ChainCrossentropy()), (None, losses.TagCrossentropy(gamma=0.5))):
            model = test_crf.tagger(head)
            loss = loss.for_layer(head) if head else loss
            model.compile(keras.optimizers.Adam(0.1), loss=loss, metrics=[metrics.TagAccuracy()])
            history = model.fit(inputs, targets, batch_size=16, epochs=8, verbose=0).history["loss"]
            assert history[-1] < 0.7 * history[0], history
            assert head is None or all(np.abs(w.numpy()).max() > 0.1 for w in head.weights)
    """)


# === Accuracy ===


def test_accuracy_of_tags_counts_words_and_weighs_them():
    best = EMISSIONS.argmax(axis=-1)
    counts = Y >= 0
    metric = metrics.TagAccuracy()
    metric.update_state(Y[:2], EMISSIONS[:2])
    metric.update_state(Y[2:], EMISSIONS[2:])
    assert float(metric.result()) == pytest.approx((best == Y)[counts].mean())
    rows = np.array([1.0, 2.0, 0.0, 1.0, 3.0])
    for weights in (rows, rows[:, None] * np.ones((5, 5))):
        fresh = metrics.TagAccuracy(name="a")
        expected = ((best == Y) * counts * rows[:, None]).sum() / (counts * rows[:, None]).sum()
        assert float(fresh(Y, EMISSIONS, weights)) == pytest.approx(expected)
    assert metrics.TagAccuracy.from_config(fresh.get_config()).name == "a"
    for y in (Y[:, 0], Y[:, :3], Y[..., None]):
        with pytest.raises(ValueError, match=r"`y_true`.*\(batch, length\)"):
            metric(y, EMISSIONS)
