"""Losses against the reference implementation and against loops.

Reference: sentence-transformers 6.2.0 on torch 2.15 in float64 (golden/losses.json).
"""

import json

import keras
import numpy as np
import pytest

from tfxfer import losses

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def reference(golden):
    return json.loads((golden / "losses.json").read_text())


def columns(reference, *names, dtype):
    return np.stack([np.array(reference["inputs"][name], dtype) for name in names], axis=1)


CASES = {
    "cosent/scale20": (losses.CoSENTLoss(), ("A", "P"), "score"),
    "cosine_similarity_mse": (losses.CosineSimilarityLoss(), ("A", "P"), "score"),
    "mnrl/pairs/scale20": (losses.MultipleNegativesRankingLoss(), ("A", "P"), None),
    "mnrl/triplets/scale20": (losses.MultipleNegativesRankingLoss(), ("A", "P", "N"), None),
    "mnrl/2neg/scale20": (losses.MultipleNegativesRankingLoss(), ("A", "P", "N", "N2"), None),
}


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-5)])
def test_loss_equals_the_reference(reference, key, dtype, tolerance):
    loss, names, target = CASES[key]
    loss = type(loss).from_config({**loss.get_config(), "dtype": dtype})
    y_true = np.array(reference["inputs"][target], dtype) if target else np.zeros(8, dtype)
    value = float(loss(y_true, columns(reference, *names, dtype=dtype)))
    assert value == pytest.approx(reference["values"][key], abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_cosent_equals_a_loop(scale):
    pairs, scores = RNG.normal(size=(6, 2, 4)), np.array([0.3, 0.1, 0.3, 0.9, 0.0, 0.5])
    u, v = pairs[:, 0], pairs[:, 1]
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    total = sum(np.exp(scale * (cosines[i] - cosines[j])) for i in range(6) for j in range(6) if scores[i] < scores[j])
    assert float(losses.cosent(scores, pairs, scale)) == pytest.approx(np.log1p(total), rel=1e-6)


def test_cosent_of_equal_scores_is_zero():
    assert float(losses.cosent(np.ones(4), RNG.normal(size=(4, 2, 3)))) == 0.0


def test_ranking_treats_further_columns_as_negatives_of_all():
    rows = RNG.normal(size=(3, 3, 4))
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    for i, value in enumerate(np.array(losses.multiple_negatives_ranking(rows, scale=7.0))):
        others = [7.0 * unit[i, 0] @ unit[j, k] for j in range(3) for k in (1, 2)]
        assert value == pytest.approx(np.log(np.sum(np.exp(others))) - 7.0 * unit[i, 0] @ unit[i, 1], rel=1e-5)


@pytest.mark.parametrize("cls", [losses.CoSENTLoss, losses.CosineSimilarityLoss, losses.MultipleNegativesRankingLoss])
def test_single_column_is_an_error_that_names_the_remedy(cls):
    with pytest.raises(ValueError, match=r"Siamese.*data\.pairs"):
        cls()(np.zeros(4), np.zeros((4, 1, 3)))


@pytest.mark.parametrize("scale", [0.0, -1.0, "20", float("nan")])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="`scale`"):
        losses.CoSENTLoss(scale=scale)


def test_loss_trains_in_float16_without_overflow():
    keras.config.set_dtype_policy("float32")
    pairs = RNG.normal(size=(4, 2, 8)).astype("float16")
    assert np.isfinite(float(losses.CoSENTLoss()(np.arange(4.0), pairs)))
