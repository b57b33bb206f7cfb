"""Labels that are probably wrong, and features that are computed only once."""

import collections
import importlib.util
import json

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

LABELS = ["card", "loan", "other"]
TEXTS = [f"{a} {b} {c}" for a in ("my card", "the loan", "a bank") for b in ("was", "is") for c in tiny.WORDS.split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("suspects")


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return tiny.classifier(folder)


def planted(classes, rows=300, noise=0.1, seed=0):
    """True labels, given labels of which some are wrong, and probabilities of a model that is right but unsure."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=rows)
    given = np.where(rng.uniform(size=rows) < noise, (true + rng.integers(1, classes, rows)) % classes, true)
    logits = rng.normal(0, 1.0, (rows, classes))
    logits[np.arange(rows), true] += 2.5
    p = np.exp(logits)
    return true, given, p / p.sum(axis=1, keepdims=True)


def by_loops(y, p, prune):
    """Confident learning as in the paper, row by row; rows whose label is the likeliest are not suspects."""
    rows, classes = p.shape
    members = [[i for i in range(rows) if y[i] == k] for k in range(classes)]
    thresholds = [sum(p[i][k] for i in found) / len(found) if found else 9.0 for k, found in enumerate(members)]
    counts = [[0] * classes for _ in range(classes)]
    for i in range(rows):
        above = [k for k in range(classes) if p[i][k] >= thresholds[k]]
        if above:
            counts[y[i]][max(above, key=lambda k: p[i][k])] += 1
    joint = []
    for k, row in enumerate(counts):
        total = sum(row)
        joint.append([len(members[k]) * c / total if total else len(members[k]) * (j == k) for j, c in enumerate(row)])
    rate, by_class = set(), set()
    for k in range(classes):
        for j in range(classes):
            if j != k:
                rate |= set(sorted(members[k], key=lambda i: p[i][k] - p[i][j])[: round(joint[k][j])])
        by_class |= set(sorted(members[k], key=lambda i: p[i][k])[: round(sum(joint[k]) - joint[k][k])])
    found = {"noise_rate": rate, "class": by_class, "both": rate & by_class}[prune]
    return joint, sorted(i for i in found if max(range(classes), key=lambda k: p[i][k]) != y[i])


# === Confident learning ===


@pytest.fixture(scope="module")
def five(folder):
    return tiny.classifier(folder, labels=list("abcde"))


def joint_of(found, labels):
    """The estimated numbers of wrong labels, as a matrix built from the confusions."""
    joint = np.zeros((len(labels), len(labels)))
    for each in found["confusions"]:
        joint[labels.index(each["label"]), labels.index(each["suggested"])] = each["rows"]
    return joint


@pytest.mark.parametrize("prune", ["noise_rate", "class", "both"])
def test_confident_learning_is_that_of_the_paper(five, prune):
    _, y, p = planted(5, noise=0.15)
    y[y == 4] = 0  # a class without rows
    joint, expected = by_loops(y, p, prune)
    texts = [str(i) for i in range(len(y))]
    found = tx.evaluation.suspect_labels(five, texts, y, probabilities=p, prune=prune)
    np.testing.assert_allclose(joint_of(found, five.labels), joint - np.diag(np.diag(joint)))
    assert sorted(row["index"] for row in found["suspects"]) == expected and len(expected) > 10
    assert found["noise"] == pytest.approx(1 - np.trace(joint) / len(y))


def test_of_rows_that_nobody_is_sure_of_the_labels_stay(classifier):
    p = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]])
    names = ["loan", "loan", "other", "other"]
    found = tx.evaluation.suspect_labels(classifier, list("abcd"), names, probabilities=p)
    assert found["suspects"] == found["confusions"] == [] and found["noise"] == 0


@pytest.mark.skipif(importlib.util.find_spec("cleanlab") is None, reason="no cleanlab")
@pytest.mark.parametrize("rank", ["self_confidence", "normalized_margin"])
def test_confident_learning_agrees_with_cleanlab(five, rank):
    from cleanlab import filter as cleanlab_filter

    _, y, p = planted(5, noise=0.15)
    texts = [str(i) for i in range(len(y))]
    found = tx.evaluation.suspect_labels(five, texts, y, probabilities=p, prune="noise_rate", rank=rank)
    ours = [row["index"] for row in found["suspects"]]
    options = {"filter_by": "prune_by_noise_rate", "return_indices_ranked_by": rank, "n_jobs": 1}
    theirs = cleanlab_filter.find_label_issues(y, p, **options).tolist()
    # If several labels are above their thresholds, cleanlab takes the likeliest of all labels. It also rounds so that
    # row sums are kept.
    assert len(set(ours) & set(theirs)) >= 0.9 * len(set(ours) | set(theirs))
    assert [i for i in ours if i in theirs] == [i for i in theirs if i in ours]


@pytest.mark.parametrize("rank", ["self_confidence", "normalized_margin"])
def test_planted_labels_are_found_with_probabilities_that_are_given(classifier, rank):
    true, given, p = planted(3, rows=len(TEXTS), noise=0.1, seed=1)
    names = [LABELS[i] for i in given]
    found = tx.evaluation.suspect_labels(classifier, TEXTS, names, probabilities=p, prune="noise_rate", rank=rank)
    suspects = [row["index"] for row in found["suspects"]]
    wrong = set(np.flatnonzero(true != given).tolist())
    assert len(wrong & set(suspects)) >= 0.6 * len(wrong) and len(wrong & set(suspects)) >= 0.5 * len(suspects)
    assert abs(found["noise"] - len(wrong) / len(TEXTS)) < 0.06
    for row in found["suspects"]:
        i = row["index"]
        others = {label: q for label, q in zip(LABELS, p[i], strict=True) if label != names[i]}
        assert row["text"] == TEXTS[i] and row["label"] == names[i]
        assert row["suggested"] == max(others, key=others.get)
        own = p[i][given[i]]
        assert row["score"] == pytest.approx(own if rank == "self_confidence" else (own - max(others.values()) + 1) / 2)
    scores = [row["score"] for row in found["suspects"]]
    assert scores == sorted(scores) and json.loads(json.dumps(found)) == found
    pairs = [row["rows"] for row in found["confusions"]]
    assert pairs == sorted(pairs, reverse=True) and sum(pairs) == pytest.approx(found["noise"] * len(TEXTS))
    assert found["agreement"] == np.mean(p.argmax(axis=1) == given) and found["rows"] == len(TEXTS)


def test_with_several_labels_each_is_judged_by_itself(folder):
    model = tiny.classifier(folder, multi_label=True)
    rng = np.random.default_rng(3)
    true = rng.integers(2, size=(len(TEXTS), 3))
    given = np.where(rng.uniform(size=true.shape) < 0.08, 1 - true, true)
    p = np.clip(np.where(true > 0, 0.8, 0.2) + rng.normal(0, 0.12, true.shape), 0.01, 0.99)
    found = tx.evaluation.suspect_labels(model, TEXTS, given, probabilities=p, prune="both")
    expected = {}
    for k in range(3):
        column = given[:, k]
        for i in by_loops(column, np.stack([1 - p[:, k], p[:, k]], axis=1), "both")[1]:
            expected.setdefault(i, []).append(k)
    assert {row["index"] for row in found["suspects"]} == set(expected)
    for row in found["suspects"]:
        i = row["index"]
        changed = [int(value) ^ (k in expected[i]) for k, value in enumerate(given[i])]
        names = [[label for label, one in zip(LABELS, ones, strict=True) if one] for ones in (given[i], changed)]
        assert [row["label"], row["suggested"]] == names
        assert row["score"] == pytest.approx(min(p[i][k] if given[i][k] else 1 - p[i][k] for k in expected[i]))
    assert abs(found["noise"] - np.mean(true != given)) < 0.04
    assert {row["label"] for row in found["confusions"]} == set(LABELS)


# === Held-out probabilities ===


def test_planted_labels_are_found_on_features(classifier):
    true = [0 if "card" in text else 1 if "loan" in text else 2 for text in TEXTS]
    features = 3.0 * np.eye(3)[true] + np.random.default_rng(0).normal(0, 0.5, (len(TEXTS), 3))
    names, wrong = [LABELS[i] for i in true], [3, 40, 77, 100, 131]
    for i in wrong:
        names[i] = LABELS[(true[i] + 1) % 3]
    found = tx.evaluation.suspect_labels(classifier, TEXTS, names, features=features)
    assert {row["index"] for row in found["suspects"]} == set(wrong)
    assert {row["suggested"] for row in found["suspects"]} <= {LABELS[true[i]] for i in wrong}
    assert found["noise"] == pytest.approx(5 / len(TEXTS), abs=0.02)


def test_by_default_the_encoder_makes_the_features(classifier):
    names = [LABELS[i % 3] for i in range(len(TEXTS))]
    expected = tx.evaluation.suspect_labels(classifier, TEXTS, names, features=classifier.head_features(TEXTS))
    dataset = tx.data.labelled({"t": TEXTS, "l": names}, "t", "l")
    assert tx.evaluation.suspect_labels(classifier, dataset) == expected
    assert tx.evaluation.suspect_labels(classifier, dataset, seed=1) != expected


def test_equal_texts_with_different_labels_are_told(classifier):
    texts, names = [*TEXTS[:30], TEXTS[4], TEXTS[4], TEXTS[7]], [LABELS[i % 2] for i in range(30)]
    names += ["card", "loan", names[7]]
    found = tx.evaluation.suspect_labels(classifier, texts, names)
    assert found["conflicts"] == [{"text": TEXTS[4], "indices": [4, 30, 31], "labels": ["card", "card", "loan"]}]


def test_a_label_of_one_text_is_no_suspect(classifier):
    p = np.tile([0.05, 0.9, 0.05], (8, 1))
    names = ["card", "card", *["loan"] * 6]  # both rows of "card" have the same text
    texts = ["a", "a", *"bcdefg"]
    assert tx.evaluation.suspect_labels(classifier, texts, names, probabilities=p)["suspects"] == []


def test_pairs_are_shown_as_pairs(classifier):
    firsts, seconds = TEXTS[:20], TEXTS[20:40]
    names, p = [LABELS[i % 3] for i in range(20)], np.random.default_rng(0).dirichlet(np.ones(3), 20)
    found = tx.evaluation.suspect_labels(classifier, (firsts, seconds), names, probabilities=p)
    assert found["suspects"] and all(
        row["text"] == (firsts[row["index"]], seconds[row["index"]]) for row in found["suspects"]
    )


@pytest.mark.slow
def test_rows_of_several_columns_are_judged_and_described(folder):
    model = tx.models.MultimodalClassifier(
        tiny.backbone(), tiny.preprocessor(folder), columns=tiny.columns(), labels=LABELS
    )
    rows = {"text": tiny.TEXTS * 3, "age": tiny.AGES * 3, "kind": tiny.KINDS * 3}
    found = tx.evaluation.suspect_labels(model, rows, [LABELS[i % 3] for i in range(24)])
    shown = [{"text": text, "kind": kind} for text, kind in zip(tiny.TEXTS, tiny.KINDS, strict=True)]
    assert [each["text"] for each in found["conflicts"]] == shown
    rows["age"] = list(range(24))  # equal texts with different ages
    assert tx.evaluation.suspect_labels(model, rows, [LABELS[i % 3] for i in range(24)])["conflicts"] == []
    described = tx.evaluation.reference(model, rows)
    assert set(described["values"]) == {"confidence", "tokens", "unknown", "distance"} and described["rows"] == 24
    assert described["values"]["tokens"][1] == 4 == len("the card was lost".split())  # categories add no tokens
    assert not tx.evaluation.drift(described, rows, model=model)["drifted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune": "all"}, "`prune`"),
        ({"rank": "p"}, "`rank`"),
        ({"folds": 1}, "`folds`"),
        ({"features": np.zeros((3, 2))}, "`features`"),
        ({"probabilities": np.full((3, 3), 1 / 3)}, "`probabilities`"),
        ({"probabilities": np.full((8, 3), 0.9)}, "sum to 1"),
        ({"features": np.zeros((8, 2)), "probabilities": np.zeros((8, 3))}, "`features`"),
    ],
)
def test_options_that_do_not_fit_are_errors(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        tx.evaluation.suspect_labels(classifier, tiny.TEXTS, tiny.LABELS, **arguments)


def test_what_cannot_be_judged_is_an_error(classifier, folder):
    with pytest.raises(ValueError, match="two different texts"):
        tx.evaluation.suspect_labels(classifier, ["a", "a"], ["card", "loan"])
    with pytest.raises(ValueError, match="a classifier"):
        tx.evaluation.suspect_labels(tiny.embedder(folder), ["a", "b"], ["card", "loan"])


# === Features ===


def test_features_are_what_the_head_reads(classifier, folder):
    features = classifier.head_features(TEXTS[:9])
    assert features.dtype == "float32" and features.shape == (9, 8)
    logits = keras.ops.convert_to_numpy(classifier.head(features))
    np.testing.assert_allclose(logits, classifier.predict(TEXTS[:9], verbose=0), atol=1e-5)
    assert classifier.head_features([]).shape == (0, 8)
    hidden = tiny.classifier(folder, head="mlp", pooling=("cls", "max"))
    assert hidden.feature_tensor().shape == (None, 16)
    with pytest.raises(ValueError, match="`features`"):
        hidden.head_outputs(features)
    with pytest.raises(ValueError, match="one vector for each row"):
        tiny.tagger(folder).head_features(tiny.WORD_ROWS)
    with pytest.raises(ValueError, match="`x`"):
        classifier.head_features(iter(TEXTS))


def test_texts_are_suggested_from_features_as_from_the_encoder(classifier, folder, monkeypatch):
    features = classifier.head_features(TEXTS)
    expected = classifier.suggest(TEXTS, 4)
    monkeypatch.setattr(classifier, "_runner", None)  # the encoder must not run
    found = classifier.suggest(TEXTS, 4, features=features)
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], atol=1e-5)
    texts = ["my card", "", "my card", "the loan"]
    found = classifier.suggest(texts, 9, features=features[:4])
    assert sorted(each.index for each in found) == [0, 3]
    for given, wrong in ((TEXTS, features[:3]), (TEXTS, features[:, :5]), (iter(TEXTS), features)):
        with pytest.raises(ValueError, match=r"`(features|texts)`"):
            classifier.suggest(given, 2, features=wrong)
    with pytest.raises(ValueError, match="`features`"):
        tiny.tagger(folder).suggest(TEXTS, 2, features=features)


@pytest.mark.slow
def test_pairs_are_suggested_from_features(classifier):
    pairs = (TEXTS, TEXTS[::-1])
    expected = [each[:2] for each in classifier.suggest(pairs, 3)]
    assert [each[:2] for each in classifier.suggest(pairs, 3, features=classifier.head_features(pairs))] == expected


@pytest.mark.slow
def test_several_labels_are_suggested_from_features(folder):
    model = tiny.classifier(folder, multi_label=True)
    expected = collections.Counter(each.index for each in model.suggest(TEXTS, 3))
    found = model.suggest(TEXTS, 3, features=model.head_features(TEXTS))
    assert collections.Counter(each.index for each in found) == expected
