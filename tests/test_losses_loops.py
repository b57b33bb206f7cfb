"""Every loss compared with loops in plain numpy that follow its formula: random data, every argument varied."""

import itertools
import math

import numpy as np
import pytest
from keras import ops

from tfxfer import losses

RNG = np.random.default_rng(7)
ROWS = RNG.normal(size=(7, 4, 5))  # query, positive, two negatives
LABELS = np.array([1, 0, 0, 1, 1, 0, 1])
SCORES = np.array([0.3, 0.1, 0.3, 0.9, 0.0, 0.5, 1.7])
IDS = np.array([2, 0, 2, 1, 0, 2, 9])  # the last is the only one of its class
N = range(len(ROWS))


def cos(u, v):
    return float(u @ v / math.sqrt(u @ u) / math.sqrt(v @ v))


DISTANCES = {
    "cosine": lambda u, v: 1 - cos(u, v),
    "euclidean": lambda u, v: math.sqrt(sum((a - b) ** 2 for a, b in zip(u, v, strict=True))),
    "squared_euclidean": lambda u, v: sum((a - b) ** 2 for a, b in zip(u, v, strict=True)),
    "manhattan": lambda u, v: sum(abs(a - b) for a, b in zip(u, v, strict=True)),
    "dot": lambda u, v: -float(u @ v),
}
SIMILARITIES = {
    **{name: lambda u, v, d=d: -d(u, v) for name, d in DISTANCES.items()},
    "cosine": cos,
    "dot": lambda u, v: float(u @ v),
}
distances = pytest.mark.parametrize("distance", DISTANCES)
similarities = pytest.mark.parametrize("similarity", SIMILARITIES)


def hinge(x):
    return max(0.0, x)


def lse(values):
    """log sum exp, without overflow."""
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def agree(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=tolerance, atol=tolerance)


# === Pairs ===


def shifted(distance, u, v):
    """The distance, with the reference's 1e-6 in the difference for the two distances that have it."""
    return DISTANCES[distance](u + 1e-6 if distance in ("euclidean", "manhattan") else u, v)


@distances
@pytest.mark.parametrize("margin", [0.2, 1.3, 6.0])
def test_contrastive(distance, margin):
    expected = []
    for (u, v), y in zip(ROWS[:, :2], LABELS, strict=True):
        d = shifted(distance, u, v)
        expected.append(0.5 * d**2 if y else 0.5 * hinge(margin - d) ** 2)
    agree(losses.contrastive(LABELS, ROWS[:, :2], margin, distance), expected)


@distances
@pytest.mark.parametrize("margin", [0.7, 6.0])
@pytest.mark.parametrize("labels", [LABELS, np.ones(7), np.zeros(7), np.eye(7)[2], 1 - np.eye(7)[2]])
def test_online_contrastive(distance, margin, labels):
    d = [shifted(distance, u, v) for u, v in ROWS[:, :2]]
    p, n = [x for x, y in zip(d, labels, strict=True) if y], [x for x, y in zip(d, labels, strict=True) if not y]
    far, close = min(n) if n else np.mean(p), max(p) if p else np.mean(n)
    expected = sum(x**2 for x in p if x > far) + sum(hinge(margin - x) ** 2 for x in n if x < close)
    agree(losses.online_contrastive(labels, ROWS[:, :2], margin, distance), expected)


def test_cosine_mse():
    expected = [(cos(u, v) - y) ** 2 for (u, v), y in zip(ROWS[:, :2], SCORES, strict=True)]
    agree(losses.cosine_mse(SCORES, ROWS[:, :2]), expected)


def ranked(similarities, scores):
    return math.log1p(sum(math.exp(similarities[i] - similarities[j]) for i in N for j in N if scores[i] < scores[j]))


@similarities
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_cosent(similarity, scale):
    s = [scale * SIMILARITIES[similarity](u, v) for u, v in ROWS[:, :2]]
    agree(losses.cosent(SCORES, ROWS[:, :2], scale, similarity), ranked(s, SCORES))


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("dim", [4, 5])
def test_angle(scale, dim):
    s = []
    for u, v in ROWS[:, :2, :dim]:
        u, v = (np.append(x, [0.0] * (dim % 2)) for x in (u, v))
        half = len(u) // 2
        z, w = u[:half] + 1j * u[half:], v[:half] + 1j * v[half:]
        product = (z * w.conj()).sum()  # real part: ac + bd, imaginary part: bc - ad
        s.append(scale * abs(product.real + product.imag) / np.linalg.norm(u) / np.linalg.norm(v))
    agree(losses.angle(SCORES, ROWS[:, :2, :dim], scale), ranked(s, SCORES))


# === Triplets ===


@distances
@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("value", [0.3, 2.0])
def test_three_forms_of_the_triplet_loss(distance, columns, value):
    d, s = DISTANCES[distance], SIMILARITIES[distance]
    hinges, entropies, rankings = [], [], []
    for a, p, *negatives in ROWS[:, :columns]:
        hinges.append(np.mean([hinge(d(a, p) - d(a, n) + value) for n in negatives]))
        rankings.append(np.mean([hinge(value - s(a, p) + s(a, n)) for n in negatives]))
        logits = [-value * d(a, p), *(-value * d(a, n) for n in negatives)]
        entropies.append(lse(logits) - logits[0])
    agree(losses.triplet(ROWS[:, :columns], value, distance), hinges)
    agree(losses.triplet_cross_entropy(ROWS[:, :columns], value, distance), entropies)
    agree(losses.triplet_margin_ranking(ROWS[:, :columns], value, distance), rankings)


# === Texts with class ids ===


def mined(texts, ids, distance):
    """Distances, and the indices of each text's positives and negatives."""
    d = [[DISTANCES[distance](u, v) for v in texts] for u in texts]
    n = range(len(texts))
    positives = [[j for j in n if ids[j] == ids[i] and j != i] for i in n]
    return d, positives, [[j for j in n if ids[j] != ids[i]] for i in n]


@distances
@pytest.mark.parametrize("margin", [0.1, 4.0])
def test_batch_all_and_semi_hard(distance, margin):
    texts = ROWS[:, 0]
    d, positives, negatives = mined(texts, IDS, distance)
    violated, semi = [], []
    for i in N:
        for p in positives[i]:
            violated += [t for t in (d[i][p] - d[i][n] + margin for n in negatives[i]) if t > 0]
            farther = [d[i][n] for n in negatives[i] if d[i][n] > d[i][p]]
            semi.append(hinge(d[i][p] - (min(farther) if farther else max(d[i][n] for n in negatives[i])) + margin))
    agree(losses.batch_all_triplet(IDS, texts, margin, distance), np.mean(violated))
    agree(losses.batch_semi_hard_triplet(IDS, texts, margin, distance), np.mean(semi))


def test_a_negative_as_far_as_the_positive_is_neither_farther_nor_hard():
    same = np.repeat(ROWS[:1, :2], 3, axis=0)
    for labels in ([1, 1, 1], [0, 0, 0], [1, 0, 1]):
        assert float(losses.online_contrastive(np.array(labels), same, 9.0, "dot")) == 0.0
    guide = np.ones((7, 2, 3))  # every pair is as similar as the row's own: nothing is left out
    directions = ("query_to_document", "query_to_query", "document_to_document")
    expected = ranking(ROWS[:, :2], 1.0, "cosine", directions, True)
    agree(losses.gist_embed(guide, ROWS[:, :2], 1.0), expected)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    texts = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])  # from the first: 1, 1 and 4
    # From the second: 1, 2 and 9. The other classes have one text each.
    expected = np.mean([hinge(1 - 4 + 3.5), hinge(1 - 2 + 3.5)])
    agree(losses.batch_semi_hard_triplet(np.array([0, 0, 1, 2]), texts, 3.5, "squared_euclidean"), expected)


@distances
@pytest.mark.parametrize("value", [0.3, 4.0])
@pytest.mark.parametrize("columns", [None, 2])
def test_batch_hard_and_its_soft_margin(distance, value, columns):
    rows = ROWS[:, 0] if columns is None else ROWS[:, :columns]
    texts, ids = rows.reshape(-1, 5), np.repeat(IDS, columns or 1)
    d, positives, negatives = mined(texts, ids, distance)
    hard, soft = [], []
    for i in range(len(texts)):
        gap = max(d[i][p] for p in positives[i] or [i]) - min(d[i][n] for n in negatives[i])
        hard.append(hinge(gap + value))
        soft.append(lse([0.0, value * gap]))
    hard, soft = (np.reshape(x, (7, -1)).mean(axis=1) for x in (hard, soft))
    agree(losses.batch_hard_triplet(IDS, rows, value, distance), hard)
    agree(losses.batch_hard_soft_margin_triplet(IDS, rows, value, distance), soft)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("columns", [None, 3])
def test_supervised_contrastive(temperature, columns):
    rows = ROWS[:, 0] if columns is None else ROWS[:, :columns]
    texts, ids = rows.reshape(-1, 5), np.repeat(IDS, columns or 1)
    _, positives, _ = mined(texts, ids, "cosine")
    expected = []
    for i, own in enumerate(positives):
        logits = {j: cos(texts[i], texts[j]) / temperature for j in range(len(texts)) if j != i}
        total = lse(list(logits.values()))
        expected.append(np.mean([total - logits[p] for p in own]) if own else 0.0)
    agree(losses.supervised_contrastive(IDS, rows, temperature), np.reshape(expected, (7, -1)).mean(axis=1))


# === In-batch negatives ===


def candidates(rows, i, direction):
    """(row, column) of the left text and of the right texts that a direction compares for row i, never with itself."""
    columns = range(1, rows.shape[1])
    documents = [(j, k) for k in columns for j in range(len(rows))]
    queries = [(j, 0) for j in range(len(rows))]
    return {
        "query_to_document": ((i, 0), documents),
        "document_to_query": ((i, 1), queries),
        "query_to_query": ((i, 0), [x for x in queries if x[0] != i]),
        "document_to_document": ((i, 1), [x for x in documents if x[0] != i]),
    }[direction]


def ranking(rows, scale, similarity, directions, joint, strength=0.0, mode="all"):
    chosen = {
        "all": lambda i, x: x != (i, 1),
        "in_batch": lambda i, x: x[0] != i,
        "hard": lambda i, x: x[0] == i and x != (i, 1),
    }[mode]
    values = []
    for i in range(len(rows)):
        sums = []
        for direction in directions:
            left, right = candidates(rows, i, direction)
            sums.append([])
            for x in right:
                s = SIMILARITIES[similarity](rows[left], rows[x])
                bonus = strength * s if direction == "query_to_document" and chosen(i, x) else 0.0
                sums[-1].append(scale * s + bonus)
        own = scale * SIMILARITIES[similarity](rows[i, 0], rows[i, 1])
        values.append((lse([x for some in sums for x in some]) if joint else np.mean([lse(s) for s in sums])) - own)
    return values


@similarities
@pytest.mark.parametrize("columns", [2, 3, 4])
def test_multiple_negatives_ranking(similarity, columns):
    rows = ROWS[:, :columns]
    expected = ranking(rows, 3.0, similarity, ["query_to_document"], True)
    agree(losses.multiple_negatives_ranking(rows, 3.0, similarity=similarity), expected)


OTHER_DIRECTIONS = ("document_to_query", "query_to_query", "document_to_document")
SUBSETS = [("query_to_document", *some) for n in range(4) for some in itertools.combinations(OTHER_DIRECTIONS, n)]


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
def test_multiple_negatives_ranking_in_one_softmax_over_directions(directions, columns):
    rows = ROWS[:, :columns]
    found = losses.multiple_negatives_ranking(rows, 5.0, directions=directions)
    agree(found, ranking(rows, 5.0, "cosine", directions, True))


def test_multiple_negatives_ranking_by_named_directions():
    both = ("query_to_document", "document_to_query")
    for directions, joint, expected in (
        ("symmetric", None, ranking(ROWS, 5.0, "cosine", both, False)),
        ("symmetric", True, ranking(ROWS, 5.0, "cosine", both, True)),
        (both, False, ranking(ROWS, 5.0, "cosine", both, False)),
        ("all", None, ranking(ROWS, 5.0, "cosine", SUBSETS[-1], True)),
    ):
        agree(losses.multiple_negatives_ranking(ROWS, 5.0, directions=directions, joint=joint), expected)


@pytest.mark.parametrize("mode", ["all", "in_batch", "hard"])
@pytest.mark.parametrize("directions", [SUBSETS[0], SUBSETS[-1]], ids="+".join)
def test_multiple_negatives_ranking_weighs_hard_negatives(mode, directions):
    found = losses.multiple_negatives_ranking(
        ROWS, 5.0, directions=directions, hardness_strength=4.0, hardness_mode=mode
    )
    agree(found, ranking(ROWS, 5.0, "cosine", directions, True, 4.0, mode))


def test_hardness_has_no_gradient_of_its_own():
    import tensorflow as tf

    # Central differences of a loss whose hardness is fixed at its value for ROWS.
    x, step = tf.constant(ROWS), 1e-6
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(losses.multiple_negatives_ranking(x, 5.0, hardness_strength=4.0))
    direction = RNG.normal(size=ROWS.shape)
    held = [[4.0 * cos(q, d) for d in ROWS[:, 1:].transpose(1, 0, 2).reshape(-1, 5)] for q in ROWS[:, 0]]

    def loss(rows):
        total = 0.0
        for i in N:
            _, right = candidates(rows, i, "query_to_document")
            logits = [
                5.0 * cos(rows[i, 0], rows[x]) + (held[i][k] if x != (i, 1) else 0.0) for k, x in enumerate(right)
            ]
            total += lse(logits) - 5.0 * cos(rows[i, 0], rows[i, 1])
        return total

    slope = (loss(ROWS + step * direction) - loss(ROWS - step * direction)) / (2 * step)
    assert (tape.gradient(value, x).numpy() * direction).sum() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize(("high", "low"), [(0.8, 0.3), (0.2, -0.5)])
def test_mega_batch_margin(columns, high, low):
    rows, expected = ROWS[:, :columns], []
    for i in N:
        others = [cos(rows[i, 0], rows[x]) for x in candidates(rows, i, "query_to_document")[1] if x != (i, 1)]
        expected.append(hinge(high - cos(rows[i, 0], rows[i, 1])) + hinge(max(others) - low))
    agree(losses.mega_batch_margin(rows, high, low), expected)


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize(("margin", "relative"), [(0.0, False), (0.3, False), (0.3, True), (-0.2, False)])
@pytest.mark.parametrize(("queries", "documents"), list(itertools.product([True, False], repeat=2)))
def test_gist_embed(columns, margin, relative, queries, documents):
    rows, guide = ROWS[:, :columns], RNG.normal(size=(7, columns, 3))
    guide[:, 1] += guide[:, 0]  # a guide that rates most positive pairs as similar
    expected = []
    for i in N:
        pair = cos(guide[i, 0], guide[i, 1])
        limit = pair - margin * (abs(pair) if relative else 1.0)
        compared = [((i, 0), x) for x in candidates(rows, i, "query_to_document")[1]]
        if queries:
            compared += [((i, 0), (j, 0)) for j in N if j != i]
        if documents:
            compared += [((i, 1), (j, 1)) for j in N if j != i]
        kept = [(a, b) for a, b in compared if cos(guide[a], guide[b]) <= limit or (a, b) == ((i, 0), (i, 1))]
        expected.append(lse([cos(rows[a], rows[b]) / 0.2 for a, b in kept]) - cos(rows[i, 0], rows[i, 1]) / 0.2)
    found = losses.gist_embed(
        guide,
        rows,
        0.2,
        margin=margin,
        relative=relative,
        contrast_queries=queries,
        contrast_documents=documents,
    )
    agree(found, expected)


# === Teachers ===


@similarities
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("columns", [3, 4])
def test_margin_mse(similarity, scale, columns):
    s, rows = SIMILARITIES[similarity], ROWS[:, :columns]
    teacher = RNG.normal(size=(7, columns - 2))
    expected = [
        np.mean([(scale * (s(q, p) - s(q, n)) - t) ** 2 for n, t in zip(negatives, margins, strict=True)])
        for (q, p, *negatives), margins in zip(rows, teacher, strict=True)
    ]
    agree(losses.margin_mse(teacher, rows, scale, similarity), expected)
    if columns == 3:
        agree(losses.margin_mse(teacher[:, 0], rows, scale, similarity), expected)


@similarities
@pytest.mark.parametrize(("student", "teacher"), [(0.5, 1.0), (2.0, 0.3)])
def test_distill_kl_div(similarity, student, teacher):
    s, y, expected = SIMILARITIES[similarity], RNG.normal(size=(7, 3)), []
    for (query, *documents), scores in zip(ROWS, y, strict=True):
        logits, targets = [s(query, d) / student for d in documents], [t / teacher for t in scores]
        log_q, log_p = [x - lse(logits) for x in logits], [x - lse(targets) for x in targets]
        expected.append(student**2 * sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    agree(losses.distill_kl_div(y, ROWS, student, teacher_temperature=teacher, similarity=similarity), expected)


def test_embedding_distillation():
    teacher = RNG.normal(size=ROWS.shape)
    pairs = [list(zip(x, y, strict=True)) for x, y in zip(ROWS, teacher, strict=True)]
    agree(losses.embedding_distillation(teacher, ROWS), [np.mean([np.mean((x - y) ** 2) for x, y in p]) for p in pairs])
    cosines = [np.mean([1 - cos(x, y) for x, y in p]) for p in pairs]
    agree(losses.embedding_distillation(teacher, ROWS, "cosine"), cosines)
    agree(losses.embedding_distillation(teacher[:, 0], ROWS[:, 0]), ((teacher[:, 0] - ROWS[:, 0]) ** 2).mean(1))


# === Around other losses ===


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_matryoshka(weights):
    found = losses.matryoshka(lambda y, x: losses.triplet(x, 0.3), None, ROWS, (2, 5, 3), weights)
    expected = np.zeros(7)
    for dim, weight in zip((2, 5, 3), weights or (1, 1, 1), strict=True):
        cut = ROWS[..., :dim] / np.linalg.norm(ROWS[..., :dim], axis=-1, keepdims=True)
        d = DISTANCES["euclidean"]
        expected += [weight * np.mean([hinge(d(a, p) - d(a, n) + 0.3) for n in ns]) for a, p, *ns in cut]
    agree(found, expected)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_global_orthogonal_regularization(weights):
    rows, terms = ROWS + 0.5, []
    for column in rows.transpose(1, 0, 2):
        cosines = [cos(u, v) for i, u in enumerate(column) for j, v in enumerate(column) if i != j]
        spread = hinge(np.mean(np.square(cosines)) - 1 / 5)
        terms.append(weights[0] * np.mean(cosines) ** 2 + weights[1] * spread)
    agree(losses.global_orthogonal_regularization(rows, *weights), np.mean(terms))
    agree(losses.global_orthogonal_regularization(rows[:, 0], *weights), terms[0])
