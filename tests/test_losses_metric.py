"""Losses for metric learning, over layers, for two encoders and with a memory, against references and loops.

References, in float64 with gradients (golden/dense_more): PyTorch Metric Learning 2.9.0, sentence-transformers 6.2.0,
and loops that agree with TensorFlow Similarity 0.17.1 and TensorFlow Addons 0.23 to the precision of float32.
"""

import math

import numpy as np
import pytest
import reference
from keras import ops
from test_losses_loops import DISTANCES, IDS, ROWS, SIMILARITIES, agree, cos, distances, hinge, lse, mined, similarities

from tfxfer import losses

TEXTS = ROWS[:, 0]
N = range(len(TEXTS))
RNG = np.random.default_rng(11)


def unit(x):
    """Scales rows to length 1."""
    return x / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True))


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def with_gradient(function, x):
    """Returns a value and its gradient with respect to `x`, in float64."""
    import tensorflow as tf

    x = tf.constant(np.asarray(x, "float64"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_mean(function(x))
    return float(value), tape.gradient(value, x).numpy()


def close(found, expected, what):
    expected = np.asarray(expected, "float64")
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(expected).max()), err_msg=what)


# === Reference numbers ===


def of_case(case, labels):
    """Returns the loss of one of the reference's cases as a function of the embeddings."""
    y, c = np.array(labels), case["config"]
    if c.get("defaults"):  # the defaults of PyTorch Metric Learning
        c = {"m": 0.4, "gamma": 80.0, "alpha": 2.0, "beta": 50.0, "base": 0.5, "miner_epsilon": None}
        c |= {"neg_margin": 1.0, "pos_margin": 0.0, "normalise": True}

    def lifted(function):
        def loss(x):
            x = unit(x) if c.get("normalise", True) else x
            return function(y, x, c["neg_margin"], positive_margin=c["pos_margin"])

        return loss

    def soft(x):
        values = losses.soft_nearest_neighbours(y, x, c["temperature"], epsilon=c["eps"])
        left_out = c["singletons"] == "left out"
        return values[np.array([np.sum(y == one) > 1 for one in y])] if left_out else values

    def multi_similarity(x):
        options = {"base": c["base"], "mining_margin": c["miner_epsilon"]}
        return losses.multi_similarity(y, x, c["alpha"], c["beta"], **options)

    def pn(x):
        return losses.pn(y, x, c["margin"], positive=c["positive"], negative=c["negative"].replace("-", "_"))

    return {
        "circle": lambda x: losses.circle(y, x, c["m"], c["gamma"]),
        "circle_distance_form": lambda x: losses.circle(y, x, c["margin"], c["gamma"], form="separate"),
        "multi_similarity": multi_similarity,
        "lifted_structure": lifted(losses.lifted_structure),
        "lifted_structure_addons": lambda x: losses.lifted_structure(y, x, c["margin"]),
        "generalized_lifted": lifted(losses.generalized_lifted_structure),
        "n_pairs": lambda x: losses.n_pairs(y, x, "cosine" if c["normalise"] else "dot"),
        "soft_nearest_neighbour": soft,
        "pn": pn,
    }[case["loss"]]


@pytest.mark.parametrize(
    ("name", "count"), [("mixed", 34), ("pairs", 36), ("overlapping", 36), ("one_class", 5), ("no_positives", 5)]
)
def test_losses_on_class_ids_equal_the_references_with_their_gradients(golden, name, count):
    numbers = reference.read(golden, "dense_more/metric_learning")
    cases = [case for case in numbers["cases"] if case["set"] == name]
    assert len(cases) == count
    for case in cases:
        given = numbers["sets"][name]
        value, gradient = with_gradient(of_case(case, given["labels"]), given["embeddings"])
        what = f"{case['loss']} {case['set']} {case['config']}"
        close(value, case["value"], what)
        if "grad" in case:
            close(gradient, case["grad"], what)


def test_pairs_in_rows_equal_the_reference_with_their_gradients(golden):
    rows = reference.read(golden, "dense_more/metric_learning")["rows"]
    x = np.stack([rows["a"], rows["b"]], axis=1)
    targets = {"n_pairs_rows": rows["labels"], "n_pairs_multilabel": rows["multilabels"]}
    for case in rows["cases"]:
        function, y = getattr(losses, case["loss"]), np.array(targets[case["loss"]])
        value, gradient = with_gradient(lambda x, f=function, y=y: f(y, x), x)
        close(value, case["value"], case["loss"])
        close(gradient, np.stack([case["grad_a"], case["grad_b"]], axis=1), case["loss"])


def test_contrastive_tension_equals_the_reference_with_its_gradients(golden):
    import tensorflow as tf

    numbers = reference.read(golden, "dense_more/contrastive_tension")
    x = np.stack([numbers["embeddings1"], numbers["embeddings2"]], axis=1)
    for case in numbers["cases"]:
        gradients = np.stack([case["grad_model1"], case["grad_model2"]], axis=1)
        if "labels_used" in case:
            y, factor = np.array(case["labels_used"]), case["scale_of_embeddings"]
            # The reference gives the gradient with respect to the encoder outputs. It sums where this test averages.
            value, gradient = with_gradient(lambda x, y=y: losses.contrastive_tension(y, x), x * factor)
            close(8 * value, case["value"], f"scale {factor}")
            close(8 * gradient, gradients, "gradient")
            continue
        similarity = {"cos": "cosine", "dot": "dot"}[case["similarity"]]
        logit, given = tf.constant(math.log(case["scale"]), tf.float64), tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch([logit, given])
            value = tf.reduce_mean(losses.contrastive_tension_in_batch(given, tf.exp(logit), similarity))
        close(float(value), case["value"], str(case))
        found = tape.gradient(value, [logit, given])
        close(float(found[0]), case["grad_logit_scale"], "scale")
        close(found[1].numpy(), gradients, "gradient")


BASES = {
    "multiple_negatives": lambda y, x: ops.mean(losses.multiple_negatives_ranking(x)),
    "cosine_similarity": lambda y, x: ops.mean(losses.cosine_mse(y, x)),
    "cosent": lambda y, x: losses.cosent(y, x),
}


@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_losses_over_layers_equal_the_reference_with_their_gradients(golden, step):
    numbers = reference.read(golden, "dense_more/adaptive_layer")
    mask = np.array(numbers["mask"], "float64")
    labels = np.array(numbers["labels"])
    for case in numbers["cases"][::step]:
        stacks = np.array(numbers["stacks"], "float64")[: case["columns"]]
        config, base = dict(case["config"]), BASES[case["base"]]
        for name in ("n_layers_per_step", "n_dims_per_step", "matryoshka_dims", "matryoshka_weights"):
            config.pop(name, None)
        names = {"layer_weighting": "weighting", "kl_div_weight": "kl_weight"}
        options = {"layers": case["layers"], **{names.get(name, name): value for name, value in config.items()}}
        dims, weights = case.get("dims_sorted"), case.get("weights_sorted")
        drawn = case.get("dims_per_layer")

        def loss(x, base=base, dims=dims, weights=weights, drawn=drawn, options=options):
            pooled = ops.sum(x * mask[None, None, ..., None], axis=3) / mask.sum(1)[None, None, :, None]
            # Dimensions are drawn separately for each layer: first for the last layer, then in the order of `layers`.
            left = iter(drawn or [])

            def of_layer(y, e):
                if dims is None:
                    return base(y, e)
                chosen = next(left) if drawn else dims
                return losses.matryoshka(base, y, e, chosen, [weights[dims.index(d)] for d in chosen])

            return losses.adaptive_layer(of_layer, labels, ops.transpose(pooled, (2, 0, 1, 3)), **options)

        value, gradient = with_gradient(loss, stacks)
        what = f"{case['loss']} {case['base']} {case['config']}"
        close(value, case["value"], what)
        close(gradient.sum((0, 2, 3, 4)), case["grad_sum_per_layer"], what)
        close(np.abs(gradient).sum((0, 2, 3, 4)), case["grad_abs_sum_per_layer"], what)
        if "grad" in case:
            close(gradient, case["grad"], what)
    assert len(numbers["cases"]) == 26


def test_five_batches_through_a_memory_equal_the_reference(golden):
    given = reference.read(golden, "dense_more/metric_learning")["cross_batch_memory"]
    inside = {"multi_similarity": losses.MultiSimilarityLoss(mining_margin=None), "circle": losses.CircleLoss()}
    # The reference's contrastive loss on all pairs of a batch has no counterpart here.
    cases = [case for case in given["cases"] if case["inner"] in inside]
    assert len(cases) == 4
    for case in cases:
        loss = losses.CrossBatchMemoryLoss(inside[case["inner"]], 6, case["memory_size"], dtype="float64")
        for number, (batch, step) in enumerate(zip(given["steps"], case["steps"], strict=True)):
            ids = np.array(batch["labels"])
            value, gradient = with_gradient(lambda x, ids=ids, loss=loss: loss(ids, x), batch["embeddings"])
            what = f"{case['inner']} {case['memory_size']} {number}"
            close(value, step["value"], what)
            close(gradient, step["grad"], what)
            _, kept, count = loss.state_variables
            assert ops.convert_to_numpy(kept)[-int(count) :, 0].tolist() == step["memory_labels"]


# === Loops, with every argument varied ===


def cosines():
    return [[cos(u, v) for v in TEXTS] for u in TEXTS], *mined(TEXTS, IDS, "cosine")[1:]


@pytest.mark.parametrize(("margin", "scale"), [(0.2, 3.0), (0.6, 40.0)])
def test_circle(margin, scale):
    s, positives, negatives = cosines()
    joint, separate = [], []
    for i in N:
        if not positives[i] or not negatives[i]:
            joint.append(0.0)
            separate.append(0.0)
            continue
        pull = lse([-scale * hinge(1 + margin - s[i][p]) * (s[i][p] - 1 + margin) for p in positives[i]])
        push = lse([scale * hinge(s[i][n] + margin) * (s[i][n] - margin) for n in negatives[i]])
        joint.append(softplus(pull + push))
        separate.append(softplus(pull) + softplus(push))
    agree(losses.circle(IDS, TEXTS, margin, scale), np.mean([x for x in joint if x > 0]))
    agree(losses.circle(IDS, TEXTS, margin, scale, form="separate"), np.mean(separate))


@pytest.mark.parametrize("mining_margin", [None, 0.0, 0.3])
@pytest.mark.parametrize(("alpha", "beta", "base"), [(2.0, 5.0, 0.5), (0.7, 20.0, -0.1)])
def test_multi_similarity(alpha, beta, base, mining_margin):
    s, positives, negatives = cosines()
    expected = []
    for i in N:
        p, n = positives[i], negatives[i]
        if mining_margin is not None:
            far, near = max((s[i][j] for j in n), default=-9), min((s[i][j] for j in p), default=9)
            p = [j for j in p if s[i][j] - mining_margin < far]
            n = [j for j in n if s[i][j] + mining_margin > near]
        pull = math.log(1 + sum(math.exp(-alpha * (s[i][j] - base)) for j in p)) / alpha
        expected.append(pull + math.log(1 + sum(math.exp(beta * (s[i][j] - base)) for j in n)) / beta)
    options = {"base": base, "mining_margin": mining_margin}
    agree(losses.multi_similarity(IDS, TEXTS, alpha, beta, **options), expected)


@distances
@pytest.mark.parametrize(("temperature", "epsilon"), [(1.0, 0.0), (0.4, 1e-3)])
def test_soft_nearest_neighbours(distance, temperature, epsilon):
    d, positives, negatives = mined(TEXTS, IDS, distance)
    expected = []
    for i in N:
        near = sum(math.exp(-d[i][j] / temperature) for j in positives[i])
        everything = near + sum(math.exp(-d[i][j] / temperature) for j in negatives[i])
        expected.append(-math.log(epsilon + near / everything) if positives[i] else 0.0)
    options = {"epsilon": epsilon}
    agree(losses.soft_nearest_neighbours(IDS, TEXTS, temperature, distance, **options), expected)


@distances
@pytest.mark.parametrize("margin", [None, 0.7])
@pytest.mark.parametrize("positive", ["hard", "easy"])
@pytest.mark.parametrize("negative", ["hard", "semi_hard", "easy"])
def test_pn(distance, margin, positive, negative):
    d, positives, negatives = mined(TEXTS, IDS, distance)
    expected = []
    for i in N:
        if not positives[i]:
            continue
        p = (max if positive == "hard" else min)(positives[i], key=lambda j: d[i][j])
        farthest = max(d[i][j] for j in positives[i])
        beyond = [j for j in negatives[i] if d[i][j] > farthest]
        if negative == "semi_hard" and beyond:
            n = min(beyond, key=lambda j: d[i][j])
        else:
            n = (min if negative == "hard" else max)(negatives[i], key=lambda j: d[i][j])
        gap = d[i][p] - min(d[i][n], d[p][n])
        expected.append(softplus(gap) if margin is None else hinge(gap + margin))
    options = {"positive": positive, "negative": negative}
    agree(losses.pn(IDS, TEXTS, margin, distance, **options), np.mean(expected))


@distances
@pytest.mark.parametrize(("margin", "positive_margin"), [(1.0, 0.0), (0.3, 0.2)])
def test_lifted_structure_and_its_generalisation(distance, margin, positive_margin):
    d, positives, negatives = mined(TEXTS, IDS, distance)
    pairs, texts = [], []
    for i in N:
        for j in positives[i]:
            pushed = [margin - d[k][n] for k in (i, j) for n in negatives[k]]
            pairs.append(hinge(lse(pushed) + d[i][j] - positive_margin) ** 2 / 2)
        pulled = lse([d[i][p] - positive_margin for p in positives[i]]) if positives[i] else 0.0
        texts.append(hinge(pulled + lse([margin - d[i][n] for n in negatives[i]])))
    options = {"positive_margin": positive_margin}
    agree(losses.lifted_structure(IDS, TEXTS, margin, distance, **options), np.mean(pairs))
    agree(losses.generalized_lifted_structure(IDS, TEXTS, margin, distance, **options), texts)


@similarities
def test_n_pairs_of_texts_of_rows_and_of_several_labels(similarity):
    s = SIMILARITIES[similarity]
    anchors = {one: [i for i in N if IDS[i] == one][:2] for one in dict.fromkeys(IDS.tolist())}
    pairs = [pair for pair in anchors.values() if len(pair) == 2]
    expected = []
    for a, p in pairs:
        expected.append(lse([s(TEXTS[a], TEXTS[q]) for _, q in pairs]) - s(TEXTS[a], TEXTS[p]))
    agree(losses.n_pairs(IDS, TEXTS, similarity), np.mean(expected))

    labels = RNG.integers(0, 2, (7, 4))
    labels[3] = 0
    for function, y, shared in (
        (losses.n_pairs_rows, IDS, IDS[:, None] == IDS),
        (losses.n_pairs_multilabel, labels, labels @ labels.T),
    ):
        expected = []
        for i in N:
            scores = [s(ROWS[i, 0], ROWS[j, 1]) for j in N]
            total = sum(shared[i])
            expected.append(sum(shared[i][j] / total * (lse(scores) - scores[j]) for j in N) if total else 0.0)
        agree(function(y, ROWS[:, :2], similarity), expected)


def test_contrastive_tension():
    y = np.array([1, 0, 0, 1, 1, 0, 1])
    expected = [softplus(float(u @ v)) - t * float(u @ v) for (u, v), t in zip(ROWS[:, :2], y, strict=True)]
    agree(losses.contrastive_tension(y, ROWS[:, :2]), expected)


@pytest.mark.parametrize("weighting", ["uniform", "log", "linear"])
@pytest.mark.parametrize("layers", [None, [2, 0]])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_adaptive_layers_alone_and_with_fewer_components(weighting, layers, temperature):
    stack = RNG.normal(size=(5, 2, 4, 6))
    options = {"layers": layers, "weighting": weighting, "last_layer_weight": 0.7, "prior_layers_weight": 1.3}
    options |= {"kl_weight": 0.4, "kl_temperature": temperature}
    below = layers or [0, 1, 2]
    weight = {"uniform": lambda n: 1.0, "log": lambda n: 1 / (1 + math.log(1 + n)), "linear": lambda n: 1 / (1 + n)}

    def softmax(x):
        return np.exp(x - lse(x.tolist()))

    divergence = 0.0
    for row, column, layer in ((r, c, n) for r in range(5) for c in range(2) for n in below if temperature):
        p, q = (softmax(stack[row, column, n] / temperature) for n in (3, layer))
        divergence += float(np.sum(p * np.log(p / q))) / 10

    def near(e, dims=(6,)):
        return np.array([sum(1 - cos(u[:d], v[:d]) for d in dims) for u, v in e])

    for dims in ((6,), (6, 3)):
        expected = 0.7 * near(stack[:, :, 3], dims) + 0.4 * temperature * divergence
        for layer in below:
            expected = expected + 1.3 * weight[weighting](layer) / len(below) * near(stack[:, :, layer], dims)
        base = lambda y, e: 1.0 - ops.sum(unit(e[:, 0]) * unit(e[:, 1]), axis=-1)  # noqa: E731
        if dims == (6,):
            agree(losses.adaptive_layer(base, None, stack, **options), expected)
        agree(losses.matryoshka_2d(base, None, stack, list(dims), **options), expected)


@pytest.mark.parametrize("size", [3, 9, 40])
@pytest.mark.parametrize("columns", [None, 2])
def test_a_memory_compares_with_the_texts_before(size, columns):
    inner = losses.GeneralizedLiftedStructureLoss(0.8, "manhattan", positive_margin=0.1)
    loss = losses.CrossBatchMemoryLoss(inner, 5, size, dtype="float64", reduction="none")
    kept = []
    for batch in range(3):
        x = RNG.normal(size=(4, 5) if columns is None else (4, columns, 5))
        ids = RNG.integers(-2, 3, 4) * 2**40  # beyond float32, and beyond int32
        flat, repeated = x.reshape(-1, 5), np.repeat(ids, columns or 1)
        first = len(kept)
        kept += [(vector, one, batch) for vector, one in zip(flat, repeated, strict=True)]
        memory = list(enumerate(kept))[-size:]
        d = DISTANCES["manhattan"]
        expected = []
        for i, (text, one) in enumerate(zip(flat, repeated, strict=True)):
            pulled = [d(text, v) - 0.1 for j, (v, c, _) in memory if c == one and j != first + i]
            pushed = [0.8 - d(text, v) for _, (v, c, _) in memory if c != one]
            expected.append(hinge((lse(pulled) if pulled else 0.0) + (lse(pushed) if pushed else 0.0)))
        expected = np.array(expected).reshape(4, -1).mean(axis=1)
        agree(loss(ids, x), expected)


# === Edge cases and errors ===

BATCH_LOSSES = [
    losses.CircleLoss(),
    losses.CircleLoss(form="separate"),
    losses.MultiSimilarityLoss(),
    losses.MultiSimilarityLoss(mining_margin=None),
    losses.SoftNearestNeighboursLoss(),
    losses.SoftNearestNeighboursLoss(epsilon=1e-9),
    losses.PNLoss(),
    losses.PNLoss(None, negative="hard"),
    losses.LiftedStructureLoss(),
    losses.GeneralizedLiftedStructureLoss(),
    losses.NPairsLoss(),
]


@pytest.mark.parametrize("loss", BATCH_LOSSES, ids=lambda loss: loss.name)
def test_duplicates_zeros_one_class_and_one_row_give_finite_gradients(loss):
    base = RNG.normal(size=(4, 5))
    for x, ids in (
        (np.repeat(base[:1], 4, axis=0), [0, 0, 1, 1]),  # the same text four times
        (np.zeros((4, 5)), [0, 0, 1, 1]),
        (base, [7, 7, 7, 7]),
        (base[:1], [3]),
        (1e4 * base, [0, 0, 1, 1]),
    ):
        value, gradient = with_gradient(lambda x, ids=ids: loss(np.array(ids), x), x)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "loss",
    [loss for loss in BATCH_LOSSES if not isinstance(loss, losses.NPairsLoss)],
    ids=lambda loss: loss.name,
)
def test_columns_of_a_row_are_texts_of_its_class(loss):
    pairs = RNG.normal(size=(4, 2, 5)).astype("float32")
    ids = np.array([4, 4, 1, 2])
    assert float(loss(ids, pairs)) == pytest.approx(float(loss(np.repeat(ids, 2), pairs.reshape(8, 5))), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: losses.CircleLoss(scale=0.0), "`scale`"),
        (lambda: losses.CircleLoss(form="sum"), "`form`.*'joint'"),
        (lambda: losses.MultiSimilarityLoss(alpha=0.0), "`alpha`"),
        (lambda: losses.MultiSimilarityLoss(mining_margin="0"), "`mining_margin`"),
        (lambda: losses.SoftNearestNeighboursLoss(0.0), "`temperature`"),
        (lambda: losses.SoftNearestNeighboursLoss(epsilon=-1.0), "`epsilon`"),
        (lambda: losses.PNLoss(positive="semi_hard"), "`positive`.*'easy'"),
        (lambda: losses.PNLoss(negative="semi-hard"), "`negative`.*'semi_hard'"),
        (lambda: losses.LiftedStructureLoss(positive_margin=None), "`positive_margin`"),
        (lambda: losses.NPairsLoss("cos"), "`similarity`.*'cosine'"),
        (lambda: losses.ContrastiveTensionInBatchLoss(0.0), "`scale`"),
        (lambda: losses.AdaptiveLayerLoss("cosent"), "`loss`"),
        (lambda: losses.AdaptiveLayerLoss(losses.CoSENTLoss(), layers=[]), "`layers`"),
        (lambda: losses.AdaptiveLayerLoss(losses.CoSENTLoss(), layers=[1, 1]), "`layers`"),
        (lambda: losses.AdaptiveLayerLoss(losses.CoSENTLoss(), weighting="exp"), "`weighting`.*'log'"),
        (lambda: losses.AdaptiveLayerLoss(losses.CoSENTLoss(), kl_temperature=-1.0), "`kl_temperature`"),
        (lambda: losses.Matryoshka2dLoss(losses.CoSENTLoss(), []), "`dims`"),
        (lambda: losses.CrossBatchMemoryLoss(losses.BatchHardTripletLoss(), 6), "`loss`.*`between`.*MultiSimilarity"),
        (lambda: losses.CrossBatchMemoryLoss(losses.CircleLoss(), 0), "`dim`"),
        (lambda: losses.CrossBatchMemoryLoss(losses.CircleLoss(), 6, 0), "`size`"),
        (lambda: losses.CrossBatchMemoryLoss(losses.CircleLoss(), 6, dtype="float16"), "`dtype`"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(make, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        make()


PAIRS, STACK = RNG.normal(size=(4, 2, 6)), RNG.normal(size=(4, 2, 3, 6))
SCORES, CLASSES = np.array([0.1, 0.9, 0.5, 0.5], "float32"), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("loss", "y_true", "y_pred", "said"),
    [
        *(
            (cls(), SCORES, PAIRS, "class ids of an int dtype")
            for cls in (losses.CircleLoss, losses.PNLoss, losses.MultiSimilarityLoss, losses.NPairsRowsLoss)
        ),
        (losses.CircleLoss(), CLASSES, STACK, r"\(batch, dim\) or \(batch, columns, dim\) for circle"),
        (losses.NPairsRowsLoss(), CLASSES, PAIRS[:, 0], r"\(batch, 2, dim\) for n_pairs_rows"),
        (losses.NPairsMultilabelLoss(), CLASSES, PAIRS, r"shape \(batch, labels\).*NPairsRowsLoss"),
        (losses.NPairsMultilabelLoss(), 2 * np.eye(4), PAIRS, "labels 1"),
        (losses.ContrastiveTensionLoss(), SCORES, PAIRS, "labels 1"),
        (losses.ContrastiveTensionInBatchLoss(), CLASSES, STACK, r"\(batch, 2, dim\) for contrastive_tension_in_batch"),
        (losses.AdaptiveLayerLoss(losses.CoSENTLoss()), SCORES, PAIRS, "all_layers=True"),
        (losses.AdaptiveLayerLoss(losses.CoSENTLoss(), layers=[2]), SCORES, STACK, "`layers`.*below 2"),
        (losses.Matryoshka2dLoss(losses.CoSENTLoss(), [8]), SCORES, STACK, "`dims`.*up to.* 6"),
        (losses.CrossBatchMemoryLoss(losses.CircleLoss(), 5), CLASSES, PAIRS, "dim=5.*model's size"),
        (losses.CrossBatchMemoryLoss(losses.CircleLoss(), 6), SCORES, PAIRS, "class ids of an int dtype"),
        (losses.CrossBatchMemoryLoss(losses.CircleLoss(), 6), np.eye(4, dtype=int), PAIRS, "class ids, shape"),
    ],
)
def test_input_that_does_not_fit_is_an_error_that_says_what_to_do(loss, y_true, y_pred, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        loss(y_true, y_pred)
