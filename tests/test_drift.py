"""Drift of texts from a reference: what a reference records, the statistical tests, and false alarms."""

import json

import keras
import numpy as np
import pytest
import scipy.stats
import tiny

import tfxfer as tx

LABELS = ["card", "loan", "other"]
TEXTS = [
    f"{a} {b} {c}" for a in ("my card", "the loan", "a bank zzz") for b in ("was", "is not") for c in tiny.WORDS.split()
]


class Answers:
    """A fake classifier and embedder. Texts are numbers; each one seeds the answer for its text."""

    multi_label, threshold = False, 0.5

    def __init__(self, classes=4, shift=0.0, sure=1.0, turn=0.0, multi_label=False):
        self.labels = [f"label {k}" for k in range(classes)]
        self.shift, self.sure, self.turn, self.multi_label = shift, sure, turn, multi_label

    def _each(self, texts, size, start):
        return np.stack([np.random.default_rng([start, int(text)]).normal(size=size) for text in texts])

    def classify(self, texts, **_):
        logits = self.sure * self._each(texts, len(self.labels), 0)
        logits[:, 0] += self.shift
        if self.multi_label:
            return tx.models.Classification(None, 1 / (1 + np.exp(-logits)))
        p = np.exp(logits)
        return tx.models.Classification(None, p / p.sum(axis=1, keepdims=True))

    def encode(self, texts, **_):
        vectors = self._each(texts, 5, 1) + np.array([2.0, 0, 0, 0, 0])
        vectors[:, 1] += self.turn
        return vectors


def numbers(start, count):
    return [str(i) for i in range(start, start + count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drift")


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return tiny.classifier(folder)


# === References ===


def test_a_reference_tells_labels_confidence_length_unknown_words_and_distance(classifier):
    found = tx.evaluation.reference(classifier, TEXTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    p = classifier.classify(TEXTS).probabilities
    assert found["labels"] == LABELS and found["label_rows"] == np.bincount(p.argmax(1), minlength=3).tolist()
    np.testing.assert_allclose(found["values"]["confidence"], p.max(axis=1), rtol=1e-5)
    words = [text.split() for text in TEXTS]  # each word is one token, known or [UNK]
    assert found["values"]["tokens"] == [len(row) for row in words]
    shares = [sum(word not in tiny.VOCABULARY for word in row) / len(row) for row in words]
    assert max(shares) > 0
    np.testing.assert_allclose(found["values"]["unknown"], shares, rtol=1e-6)
    vectors = classifier.head_features(TEXTS).astype("float64")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, distance in enumerate(found["values"]["distance"]):
        others = np.delete(vectors, i, axis=0).mean(axis=0)
        assert distance == pytest.approx(1 - vectors[i] @ others / np.linalg.norm(others), rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(found["center"], vectors.mean(axis=0), rtol=1e-5, atol=1e-7)
    for name, mean in found["means"].items():
        assert mean == pytest.approx(np.mean(found["values"][name]), rel=1e-5)


def test_texts_come_in_any_form(classifier):
    expected = tx.evaluation.reference(classifier, TEXTS)
    labels = [LABELS[i % 3] for i in range(len(TEXTS))]
    assert tx.evaluation.reference(classifier, np.array(TEXTS)) == expected
    assert tx.evaluation.reference(classifier, tx.data.labelled({"t": TEXTS, "l": labels}, "t", "l")) == expected


@pytest.mark.slow
def test_pairs_have_the_tokens_of_both_texts(classifier):
    expected = tx.evaluation.reference(classifier, TEXTS)
    pairs = tx.evaluation.reference(classifier, (TEXTS, TEXTS[::-1]))
    both = [a + b for a, b in zip(expected["values"]["tokens"], expected["values"]["tokens"][::-1], strict=True)]
    assert pairs["values"]["tokens"] == both


def test_every_kind_of_model_tells_what_it_can(folder, classifier):
    model = tiny.embedder(folder)
    embedder = tx.evaluation.reference(model, TEXTS)
    assert set(embedder["values"]) == {"tokens", "unknown", "distance"} and embedder["labels"] is None
    tagger = tx.evaluation.reference(tiny.tagger(folder), TEXTS[:4])
    assert set(tagger["values"]) == {"tokens", "unknown"} and tagger["center"] is None
    found = tx.evaluation.drift(embedder, TEXTS[::-1], model=model)
    assert set(found["checks"]) == {"tokens", "unknown", "distance"} and not found["drifted"]
    with pytest.raises(ValueError, match="`reference`"):
        tx.evaluation.drift(embedder, TEXTS, model=classifier)


def test_of_many_texts_a_sample_of_values_is_kept():
    found = tx.evaluation.reference(Answers(), numbers(0, 2100))
    assert found["rows"] == sum(found["label_rows"]) == 2100
    assert {len(each) for each in found["values"].values()} == {2000}
    whole = Answers().classify(numbers(0, 2100)).probabilities.max(axis=1)
    assert found["means"]["confidence"] == pytest.approx(whole.mean())
    other = tx.evaluation.reference(Answers(), numbers(0, 2100), seed=1)
    assert other["values"] != found["values"] and other["center"] == found["center"]


# === Tests ===


def test_checks_are_scipys():
    reference = tx.evaluation.reference(Answers(), numbers(0, 150))
    now = numbers(1000, 120)
    found = tx.evaluation.drift(reference, now, model=Answers(shift=0.4), level=0.1)
    p = Answers(shift=0.4).classify(now).probabilities
    counts = np.array([reference["label_rows"], np.bincount(p.argmax(1), minlength=4)])
    labels = found["checks"]["labels"]
    assert labels["p_value"] == pytest.approx(scipy.stats.chi2_contingency(counts, correction=False).pvalue)
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert labels["statistic"] == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2)
    one = labels["shares"]["label 0"]
    assert one["difference"] == pytest.approx(shares[1, 0] - shares[0, 0])
    assert one["interval"][0] < one["difference"] < one["interval"][1]
    before = np.array(reference["values"]["confidence"])
    check = found["checks"]["confidence"]
    expected = scipy.stats.ks_2samp(before, p.max(axis=1), method="asymp")
    assert (check["statistic"], check["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))
    welch = scipy.stats.ttest_ind(p.max(axis=1), before, equal_var=False).confidence_interval(0.9)
    assert check["interval"] == pytest.approx([welch.low, welch.high], rel=1e-5)
    assert check["difference"] == pytest.approx(p.max(axis=1).mean() - before.mean())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_p_values_are_adjusted_by_holm():
    reference = tx.evaluation.reference(Answers(), numbers(0, 80))
    found = tx.evaluation.drift(reference, numbers(100, 80), model=Answers(shift=0.3, sure=1.2, turn=0.3))["checks"]
    largest, left = 0.0, len(found)
    for check in sorted(found.values(), key=lambda check: check["p_value"]):
        largest, left = max(largest, min(1.0, left * check["p_value"])), left - 1
        assert check["adjusted_p_value"] == pytest.approx(largest) and check["drifted"] == (largest <= 0.05)
    assert any(check["adjusted_p_value"] > check["p_value"] for check in found.values())


class Counts:
    """A fake classifier that assigns each label to a given number of texts."""

    multi_label = False

    def __init__(self, counts):
        self.labels, self._counts = list("abcde"), counts

    def classify(self, texts, **_):
        return tx.models.Classification(None, np.eye(5)[np.repeat(range(5), self._counts)])


@pytest.mark.parametrize(
    ("before", "now", "table"),
    [
        ([60, 30, 3, 2, 0], [50, 40, 2, 1, 0], [[60, 30, 5], [50, 40, 3]]),
        ([5, 0, 0, 0, 0], [9, 0, 0, 0, 0], None),
    ],
)
def test_rare_labels_are_tested_together(before, now, table):
    reference = tx.evaluation.reference(Counts(before), numbers(0, sum(before)))
    found = tx.evaluation.drift(reference, numbers(0, sum(now)), model=Counts(now))["checks"]["labels"]
    expected = 1.0 if table is None else scipy.stats.chi2_contingency(table, correction=False).pvalue
    assert found["p_value"] == pytest.approx(expected) and not found["drifted"]


def test_with_several_labels_each_share_is_tested():
    model = Answers(multi_label=True)
    reference = tx.evaluation.reference(model, numbers(0, 80))
    now = Answers(multi_label=True, shift=1.5)
    found = tx.evaluation.drift(reference, numbers(500, 80), model=now)["checks"]["labels"]
    given = now.classify(numbers(500, 80)).probabilities >= 0.5
    rows = [(sum(given[:, k]), reference["label_rows"][k]) for k in range(4)]
    p = [scipy.stats.fisher_exact([[a, b], [80 - a, 80 - b]]).pvalue for a, b in rows]
    assert found["p_value"] == pytest.approx(min(1, 4 * min(p))) and found["drifted"]
    assert found["statistic"] == pytest.approx(max(abs(a - b) / 80 for a, b in rows))


@pytest.mark.parametrize("multi_label", [False, True])
def test_texts_of_the_same_kind_raise_few_alarms(multi_label):
    model, alarms = Answers(multi_label=multi_label), 0
    for trial in range(60):
        reference = tx.evaluation.reference(model, numbers(10_000 * trial, 60))
        alarms += tx.evaluation.drift(reference, numbers(10_000 * trial + 5000, 50), model=model, level=0.1)["drifted"]
    assert alarms <= 13  # at most 6 of 60 expected, plus three standard errors


@pytest.mark.parametrize(
    ("now", "check"),
    [
        (Answers(shift=1.0), "labels"),
        (Answers(sure=3.0), "confidence"),
        (Answers(turn=3.0), "distance"),
    ],
)
def test_what_changed_is_told(now, check):
    reference = tx.evaluation.reference(Answers(), numbers(0, 200))
    found = tx.evaluation.drift(reference, numbers(1000, 200), model=now)
    assert found["drifted"] and found["checks"][check]["drifted"]
    least = found["checks"][check]["statistic"] + 0.01
    assert not tx.evaluation.drift(reference, numbers(1000, 200), model=now, least=least)["checks"][check]["drifted"]


def test_other_words_and_lengths_are_told(classifier):
    reference = tx.evaluation.reference(classifier, TEXTS)
    strange = [text.replace("card", "qqq").replace("loan", "qqq") for text in TEXTS]
    found = tx.evaluation.drift(reference, strange, model=classifier)["checks"]
    assert found["unknown"]["drifted"] and found["unknown"]["difference"] > 0.1 and not found["tokens"]["drifted"]
    found = tx.evaluation.drift(reference, [f"{text} {text}" for text in TEXTS], model=classifier)["checks"]
    assert found["tokens"]["drifted"] and found["tokens"]["now"] == pytest.approx(2 * found["tokens"]["reference"])
    same = tx.evaluation.drift(reference, TEXTS, model=classifier)
    assert not same["drifted"] and same["checks"]["unknown"]["p_value"] == pytest.approx(1.0)


# === Errors ===


def test_what_is_no_reference_is_an_error(classifier):
    reference = tx.evaluation.reference(Answers(), numbers(0, 9))
    for wrong, message in (
        (None, "evaluation.reference"),
        ({"rows": 3}, "missing or wrong"),
        ({**reference, "format": 9}, "of format 1"),
        ({**reference, "labels": ["a"]}, "with the labels"),
        ({**reference, "center": [0.0]}, "components"),
    ):
        with pytest.raises(ValueError, match=message):
            tx.evaluation.drift(wrong, numbers(9, 9), model=Answers())
    for options in ({"level": 1.0}, {"least": 2.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            tx.evaluation.drift(reference, numbers(9, 9), model=Answers(), **options)
    for texts in ([], ["a"], "a text", ["a", None], iter(TEXTS)):
        with pytest.raises(ValueError, match="`texts`"):
            tx.evaluation.reference(classifier, texts)
    with pytest.raises(ValueError, match="`model`"):
        tx.evaluation.reference(object(), ["a", "b"])
