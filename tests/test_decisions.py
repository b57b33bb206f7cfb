"""The parts of a decision, against NumPy loops and reference numbers (golden/calibration)."""

import json
import math

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from tfxfer import decisions


def array(value):
    return ops.convert_to_numpy(value)


def rows_of(seed, rows=150, classes=5, dim=6):
    """Returns logits, targets and features; logits and features separate the classes only roughly."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    logits = rng.normal(0, 1.5, (rows, classes)) + 2.0 * np.eye(classes)[targets]
    features = rng.normal(size=(classes, dim))[targets] * 2 + rng.normal(size=(rows, dim)) * np.arange(1, dim + 1) / 3
    return logits.astype("float32"), targets, features.astype("float32")


def again(part):
    """Restores a part from its configuration, serialized as JSON."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(part)))
    return keras.saving.deserialize_keras_object(config)


def test_every_part_comes_back_from_its_configuration_and_has_a_row_here():
    logits, targets, features = rows_of(20)
    probabilities = scipy.special.softmax(logits, axis=1)
    distant = {"features": features, "train": (features, targets)}
    table = {
        decisions.Scaling: decisions.Scaling("vector", penalty=2.0).fit(logits, targets),
        decisions.ConformalSets: decisions.ConformalSets("raps", coverage=0.7, by_class=True, penalty=0.2, free=1).fit(
            probabilities, targets
        ),
        decisions.Thresholds: decisions.Thresholds("recall", at=0.6).fit(probabilities, np.eye(5)[targets]),
        decisions.Rejection: decisions.Rejection("combined", coverage=0.9, k=2, max_rows=50, seed=7).fit(
            logits, targets, **distant
        ),
        decisions.Decisions: decisions.Decisions([5, 3, 1, 2, 4], scaling=decisions.Scaling().fit(logits, targets)),
    }
    assert set(table) == {value for value in vars(decisions).values() if isinstance(value, type)}
    for part in table.values():
        made = again(part)
        assert json.dumps(made.get_config()) == json.dumps(part.get_config())
        if part is not table[decisions.Decisions]:
            assert made.settings() == part.settings()
            for name, array_ in part.arrays.items():
                np.testing.assert_array_equal(made.arrays[name], array_)
                assert made.arrays[name].dtype == np.float32


# === Scaling ===


@pytest.fixture(scope="module")
def temperatures(golden):
    path = golden / "calibration" / "temperature.json"
    if not path.is_file():
        pytest.skip("no reference numbers of temperatures")
    return json.loads(path.read_text())


def test_temperatures_are_those_of_the_reference(temperatures):
    for case in temperatures["cases"]:
        logits, labels = np.array(case["logits"]), np.array(case["labels"])
        if case["temperature"] is None:
            with pytest.raises(ValueError, match="`targets`"):
                decisions.Scaling().fit(logits, labels)
            continue
        scaling = decisions.Scaling().fit(logits, labels)
        assert scaling.temperature == pytest.approx(case["temperature"], rel=1e-5), case["name"]
        loss = -scipy.special.log_softmax(array(scaling(logits)), axis=1)[np.arange(len(labels)), labels].mean()
        assert loss == pytest.approx(case["log_loss_after"], rel=1e-5)


def test_one_temperature_serves_all_labels_of_a_row():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (300, 4)).astype("float32")
    targets = (rng.random((300, 4)) < scipy.special.expit(logits / 1.7 + 0.1)).astype(int)
    found = decisions.Scaling().fit(logits, targets, multi_label=True).temperature

    def loss(temperature):
        z = logits.astype("float64") / temperature
        return np.mean(np.logaddexp(0, z) - targets * z)

    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_a_vector_is_where_the_penalised_loss_is_least(multi_label, penalty):
    logits, targets, _ = rows_of(2)
    if multi_label:
        targets = (np.random.default_rng(0).random(logits.shape) < scipy.special.expit(logits - 0.5)).astype(int)
    scaling = decisions.Scaling("vector", penalty=penalty).fit(logits, targets, multi_label=multi_label)
    scale, bias = (scaling.arrays[name].astype("float64") for name in ("scale", "bias"))
    np.testing.assert_allclose(array(scaling(logits)), logits * scale + bias, rtol=1e-5, atol=1e-5)

    def loss(values):
        z = logits * values[0] + values[1]
        if multi_label:
            total = sum(
                np.log1p(np.exp(x)) - y * x
                for row, ys in zip(z, targets, strict=True)
                for x, y in zip(row, ys, strict=True)
            )
        else:
            total = sum(np.log(np.exp(row).sum()) - row[y] for row, y in zip(z, targets, strict=True))
        deviation = values[0] * scaling.temperature - 1
        return total + penalty / 2 * (np.sum(deviation**2) + np.sum(values[1] ** 2))

    best, step = loss((scale, bias)), 0.02
    free = not multi_label and not penalty  # the same bias for all classes changes nothing
    for i in range(2 * logits.shape[1]):
        for sign in (-1, 1):
            moved = np.stack([scale, bias])
            moved.reshape(-1)[i] += sign * step
            assert loss(moved) > best - 1e-3, (i, sign, free)


def test_a_scale_and_a_bias_for_one_label_are_platts(temperatures):
    case = next(case for case in temperatures["cases"] if case["name"] == "binary")
    logits, labels = np.array(case["logits"]), np.array(case["labels"])
    scores = (logits[:, 1] - logits[:, 0])[:, None]
    scaling = decisions.Scaling("vector", penalty=0.0).fit(scores, labels[:, None], multi_label=True)
    expected = temperatures["binary_extra"]["platt_plain_labels"]
    z = scores[:, 0] * scaling.arrays["scale"][0] + scaling.arrays["bias"][0]
    loss = np.mean(np.logaddexp(0, z) - labels * z)
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
    assert scaling.arrays["scale"][0] == pytest.approx(expected["slope"], rel=2e-3)


def test_shares_of_classes_count_as_targets():
    logits, targets, _ = rows_of(3)
    shares = np.eye(logits.shape[1])[targets]
    one, other = (decisions.Scaling().fit(logits, each).temperature for each in (targets, shares))
    assert one == pytest.approx(other)
    with pytest.raises(ValueError, match=r"`targets`.*1 in each row"):
        decisions.Scaling().fit(logits, shares * 2)


# === Conformal sets ===


@pytest.fixture(scope="module")
def conformal(golden):
    path = golden / "calibration" / "conformal.json"
    if not path.is_file():
        pytest.skip("no reference numbers of conformal sets")
    return json.loads(path.read_text())


def test_sets_are_those_of_the_reference(conformal):
    count = 0
    for case in conformal:
        known, test = (np.array(case[f"{part}_probabilities"]) for part in ("calibration", "test"))
        for result in case["results"]:
            if result.get("crossing_class_added"):
                continue
            filled = result.get("top_class_if_empty", False)
            drawn = result.get("randomised", False)
            by_class = result["method"] == "lac_by_class"
            method = "lac" if by_class else result["method"]
            sets = decisions.ConformalSets(
                method, coverage=1 - result["alpha"], by_class=by_class, allow_empty=not filled
            )
            own = {"uniforms": np.array(case["calibration_uniforms"])} if drawn else {}
            new = {"uniforms": np.array(case["test_uniforms"])} if drawn else {}
            thresholds = np.array(result["threshold"], "float64")
            if np.isinf(thresholds).any():
                if not by_class:
                    with pytest.raises(ValueError, match=r"at least 9 rows for a coverage of 0.9"):
                        sets.fit(known, case["calibration_labels"], **own)
                    continue
                with pytest.warns(UserWarning, match="Each set holds the classes"):
                    sets.fit(known, case["calibration_labels"], **own)
            else:
                sets.fit(known, case["calibration_labels"], **own)
            np.testing.assert_allclose(sets.arrays["thresholds"], thresholds, atol=5e-6)
            members = array(sets.members(test, **new))
            np.testing.assert_array_equal(members, np.array(result["members"], bool))
            assert members[np.arange(len(test)), case["test_labels"]].mean() == pytest.approx(result["coverage"])
            np.testing.assert_array_equal(array(again(sets).members(test, **new)), members)
            count += 1
    assert count > 20


@pytest.mark.parametrize(("penalty", "free"), [(0.0, 0), (0.1, 0), (0.07, 2)])
@pytest.mark.parametrize("drawn", [False, True])
def test_adaptive_scores_are_those_of_a_loop(penalty, free, drawn):
    rng = np.random.default_rng(4)
    probabilities = scipy.special.softmax(rng.normal(0, 2, (20, 6)), axis=1).astype("float32")
    probabilities[0] = 1 / 6  # with ties, the lower class comes first
    uniforms = rng.random(20) if drawn else None
    for method in ("aps", "raps"):
        found = array(decisions.conformal_scores(probabilities, method, uniforms=uniforms, penalty=penalty, free=free))
        for row in range(20):
            order = sorted(range(6), key=lambda c: (-probabilities[row, c], c))
            total = 0.0
            for rank, c in enumerate(order, 1):
                total += float(probabilities[row, c])
                expected = total - (uniforms[row] * probabilities[row, c] if drawn else 0)
                expected += penalty * max(0, rank - free) if method == "raps" else 0
                assert found[row, c] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_cover_what_was_asked_for(method):
    logits, targets, _ = rows_of(5, rows=6000)
    probabilities = scipy.special.softmax(logits, axis=1)
    known, new = slice(0, 3000), slice(3000, None)
    sets = decisions.ConformalSets(method, coverage=0.8).fit(probabilities[known], targets[known])
    covered = array(sets.members(probabilities[new]))[np.arange(3000), targets[new]].mean()
    assert 0.78 < covered < 0.82
    sets = decisions.ConformalSets(method, coverage=0.8, by_class=True).fit(probabilities[known], targets[known])
    held = array(sets.members(probabilities[new]))[np.arange(3000), targets[new]]
    assert all(0.72 < held[targets[new] == each].mean() < 0.88 for each in range(5))


def test_the_rank_of_a_quantile_is_exact_for_round_numbers():
    for rows in (9, 19, 39, 99, 199, 999):
        for coverage in (0.5, 0.8, 0.9):
            probabilities = np.linspace(0, 1, rows)[:, None]
            sets = decisions.ConformalSets(coverage=coverage).fit(probabilities, np.zeros(rows, int))
            rank = -(-(rows + 1) * round(coverage * 10) // 10)
            assert sets.arrays["thresholds"] == pytest.approx(np.linspace(0, 1, rows)[rank - 1], abs=1e-5)


# === Thresholds ===


def f1(given, targets):
    hits = np.sum(given & targets)
    return 2 * hits / max(given.sum() + targets.sum(), 1)


def test_thresholds_are_the_best_of_all():
    rng = np.random.default_rng(6)
    probabilities = np.round(rng.random((80, 4)), 2).astype("float32")  # with ties
    targets = rng.random((80, 4)) < probabilities * [1, 0.8, 0.15, 0.9]
    best = decisions.Thresholds().fit(probabilities, targets.astype(int)).values
    precise = decisions.Thresholds("precision", at=0.7)
    with pytest.warns(UserWarning, match="precision of 0.7: 'c'. They are never given"):
        precise.fit(probabilities, targets, labels=list("abcd"))
    whole = decisions.Thresholds("recall", at=0.8).fit(probabilities, targets).values
    for i in range(4):
        p, y = probabilities[:, i], targets[:, i]
        cuts = [*np.unique(p), 2.0]
        assert f1(p >= best[i], y) == max(f1(p >= cut, y) for cut in cuts)
        reach = [cut for cut in np.unique(p) if y[p >= cut].mean() >= 0.7]
        assert bool(reach) == (precise.values[i] <= 1)
        if reach:
            np.testing.assert_array_equal(p >= precise.values[i], p >= min(reach))
        enough = [cut for cut in np.unique(p) if y[p >= cut].sum() >= 0.8 * y.sum()]
        np.testing.assert_array_equal(p >= whole[i], p >= max(enough))
    np.testing.assert_array_equal(array(again(precise).given(probabilities)), probabilities >= precise.values)


def test_a_label_without_rows_keeps_a_half_and_is_named():
    for goal in (decisions.Thresholds(), decisions.Thresholds("recall", at=0.5)):
        with pytest.warns(UserWarning, match=r"no row has them: 'b'"):
            goal.fit([[0.9, 0.3], [0.2, 0.8]], [[1, 0], [0, 0]], labels=["a", "b"])
        assert goal.values[1] == 0.5 and 0.2 < goal.values[0] < 0.9


# === Rejection ===


def loop_scores(method, logits, features, train, k):
    """Computes the scores with loops in float64."""
    probabilities = scipy.special.softmax(logits.astype("float64"), axis=1)
    ordered = np.sort(probabilities, axis=1)
    if method == "probability":
        return ordered[:, -1]
    if method == "margin":
        return ordered[:, -1] - ordered[:, -2]
    known, classes = train[0].astype("float64"), train[1]
    if method == "neighbours":
        found = []
        for z, row in zip(logits, features.astype("float64"), strict=True):
            own = [each for each, c in zip(known, classes, strict=True) if c == z.argmax()] or list(known)
            cosines = sorted(each @ row / np.linalg.norm(each) / np.linalg.norm(row) for each in own)
            found.append(cosines[-min(k, len(cosines))])
        return np.array(found)
    means = {each: known[classes == each].mean(axis=0) for each in np.unique(classes)}
    centred = np.stack([row - means[each] for row, each in zip(known, classes, strict=True)])
    n, dim = centred.shape
    sample = centred.T @ centred / n
    size = np.trace(sample) / dim
    apart = np.sum((sample - size * np.eye(dim)) ** 2) / dim
    noise = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in centred) / n**2 / dim
    share = min(noise, apart) / apart
    inverse = np.linalg.inv((1 - share) * sample + share * size * np.eye(dim))
    return np.array(
        [-min(math.sqrt((row - m) @ inverse @ (row - m)) for m in means.values()) for row in features.astype("float64")]
    )


@pytest.mark.parametrize("method", ["probability", "margin", "mahalanobis", "neighbours", "combined"])
def test_scores_are_those_of_loops_and_the_goals_are_met(method):
    logits, targets, features = rows_of(7)
    train = rows_of(8)[2], rows_of(8)[1]
    beyond = np.random.default_rng(9).normal(0, 3, (40, 6)).astype("float32")
    flat = np.random.default_rng(9).normal(0, 1, (40, 5)).astype("float32")
    own = {"features": features, "train": train} if method in ("mahalanobis", "neighbours", "combined") else {}
    outer = {"outside": flat, **({"outside_features": beyond} if own else {})}
    right = logits.argmax(axis=1) == targets
    rejection = decisions.Rejection(method, k=3).fit(logits, targets, **own)
    scores = array(rejection.scores(logits, features))
    if method != "combined":
        np.testing.assert_allclose(scores, loop_scores(method, logits, features, train, 3), rtol=2e-4, atol=2e-5)
    else:
        log_odds = np.array([row.max() - scipy.special.logsumexp(np.delete(row, row.argmax())) for row in logits])
        parts = [log_odds, loop_scores("neighbours", logits, features, train, 3)]
        expected = np.mean([(each - each.mean()) / each.std() for each in parts], axis=0)
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    accepted = scores >= rejection.threshold
    assert accepted.sum() == math.ceil(0.95 * len(logits))
    np.testing.assert_array_equal(array(again(rejection).accepts(logits, features)), accepted)

    rejection = decisions.Rejection(method, coverage=0.6, k=3).fit(logits, targets, **own, **outer)
    inner, far = array(rejection.accepts(logits, features)), array(rejection.accepts(flat, beyond))
    assert inner.sum() + far.sum() == math.ceil(0.6 * 190)
    rejection = decisions.Rejection(method, accuracy=0.4, k=3).fit(logits, targets, **own, **outer)
    inner, far = array(rejection.accepts(logits, features)), array(rejection.accepts(flat, beyond))
    scores = np.concatenate([array(rejection.scores(logits, features)), array(rejection.scores(flat, beyond))])
    is_right = np.concatenate([right, np.zeros(40)])
    most = max(np.sum(scores >= cut) for cut in scores if is_right[scores >= cut].mean() >= 0.4)
    assert inner.sum() + far.sum() == most and right[inner].sum() >= 0.4 * most


def test_classes_with_few_rows_or_none_are_measured_by_what_there_is():
    logits, targets, features = rows_of(14)
    train = rows_of(15)[2][:40], np.repeat([0, 1, 3, 3], [18, 2, 10, 10])  # no rows of classes 2 and 4
    rejection = decisions.Rejection("neighbours", k=3).fit(logits, targets, features=features, train=train)
    expected = loop_scores("neighbours", logits, features, train, 3)
    np.testing.assert_allclose(array(rejection.scores(logits, features)), expected, atol=1e-5)
    places = [2, 4, 0, 3, 1]
    other = again(rejection).reordered(places)
    np.testing.assert_allclose(array(other.scores(logits[:, places], features)), expected, atol=1e-5)
    none = array(rejection.scores(logits[:0], features[:0]))
    assert none.shape == (0,)


def test_rows_from_outside_weigh_the_parts_that_tell_them_apart():
    logits, targets, features = rows_of(10, rows=300)
    train = features[150:], targets[150:]
    logits, targets, features = logits[:150], targets[:150], features[:150]
    outside, far = logits[:60], -features[:60]  # confident logits: only the distance shows it
    own = {"features": features, "train": train}
    plain = decisions.Rejection("combined").fit(logits, targets, **own)
    told = decisions.Rejection("combined").fit(logits, targets, **own, outside=outside, outside_features=far)
    passed = [array(each.accepts(outside, far)).mean() for each in (plain, told)]
    assert passed[1] < passed[0] - 0.1, passed
    assert array(told.accepts(logits, features)).mean() == pytest.approx(0.95, abs=0.01)


def test_the_rows_that_are_kept_are_spread_over_the_classes():
    logits, targets, features = rows_of(12)
    train = np.concatenate([features, features, features]), np.repeat([0, 1, 2], [150, 290, 10])
    rejection = decisions.Rejection("neighbours", max_rows=30, k=1, seed=3)
    rejection.fit(logits, targets, features=features, train=train)
    rows = rejection.arrays["rows"]
    assert rows.shape == (30, 6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    rare = train[0][-10:] / np.linalg.norm(train[0][-10:], axis=1, keepdims=True)
    assert all(np.abs(rows - row).max(axis=1).min() < 1e-5 for row in rare)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: decisions.Scaling("platt"), "`method`.*'temperature', 'vector'"),
        (lambda: decisions.Scaling()([[1.0]]), "a fitted `Scaling`"),
        (lambda: decisions.Rejection("margin").accepts([[1.0, 2.0]]), "a fitted `Rejection`"),
        (lambda: decisions.Scaling().fit(np.zeros((0, 2)), []), "`logits`.*at least one row"),
        (lambda: decisions.Scaling().fit([[1.0, np.nan]], [0]), "`logits`.*finite.*row 0"),
        (lambda: decisions.Scaling().fit([[1.0, 2.0]] * 2, [0, 2]), "`targets`.*from 0 to 1.*row 1"),
        (lambda: decisions.Scaling().fit([[1.0, 2.0]], [[2, 0]], multi_label=True), "`targets`.*0 and 1"),
        (lambda: decisions.ConformalSets(coverage=1.0), "`coverage`"),
        (lambda: decisions.ConformalSets().fit(np.ones((8, 1)), [0] * 8), "at least 9 rows"),
        (lambda: decisions.conformal_scores([[1.0]], "lac", uniforms=[0.5]), "`uniforms`"),
        (lambda: decisions.Thresholds("precision"), "`at`.*required precision"),
        (lambda: decisions.Thresholds("f1", at=0.5), "`at`.*None"),
        (lambda: decisions.Rejection(keep=0.9, accuracy=0.9), "`accuracy`.*None if `keep` is given"),
        (lambda: decisions.Rejection("margin").fit([[1.0]], [0]), "no second class"),
        (lambda: decisions.Rejection("mahalanobis").fit([[1.0, 2.0]], [0]), "`features`"),
        (lambda: decisions.Rejection("neighbours").fit([[1.0, 2.0]], [0], features=[[1.0]]), "`train`"),
        (
            lambda: decisions.Rejection("probability", accuracy=0.9).fit([[1.0, 2.0]] * 2, [0, 1]),
            "best that a threshold.*0.5",
        ),
        (lambda: decisions.Rejection("margin").fit([[1.0, 2.0]], [[0.5, 0.5]]), "argmax"),
        (lambda: decisions.Decisions(["a"], scaling=decisions.Scaling()), "`scaling`.*fitted"),
        (lambda: decisions.Decisions(["a"], sets=3), "`sets`.*ConformalSets"),
    ],
)
def test_what_cannot_be_is_said_at_once(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_parts_for_another_order_of_classes_answer_alike():
    logits, targets, _ = rows_of(13)
    scaling = decisions.Scaling("vector").fit(logits, targets)
    probabilities = scipy.special.softmax(array(scaling(logits)), axis=1)
    sets = decisions.ConformalSets(by_class=True, coverage=0.8).fit(probabilities, targets)
    made = decisions.Decisions(list("abcde"), scaling=scaling, sets=sets)
    places = [3, 0, 4, 1, 2]
    other = again(made.with_labels([made.labels[i] for i in places], places))
    assert other.labels == list("daebc")
    np.testing.assert_allclose(array(other.scaling(logits[:, places])), array(scaling(logits))[:, places], atol=1e-6)
    members = array(other.sets.members(probabilities[:, places]))
    np.testing.assert_array_equal(members, array(sets.members(probabilities))[:, places])
    with pytest.raises(ValueError, match=r"`scaling`.*a part of 4 classes"):
        decisions.Decisions(list("abcd"), scaling=scaling)
