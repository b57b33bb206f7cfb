"""Evaluations during training: values in the logs, order, copies."""

import copy
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

PAIRS = (tiny.TEXTS, tiny.TEXTS[::-1])
SCORES = np.arange(8.0)
TRIPLETS = (tiny.TEXTS, tiny.TEXTS[::-1], tiny.TEXTS[3:] + tiny.TEXTS[:3])
ROWS = [{"query": "my card", "positives": ["the card"], "negatives": ["a loan", "day"]}]
RELEVANT = [[i] for i in range(8)]
TASKS = {
    name: tx.data.RetrievalTask({"q": tiny.TEXTS[0]}, {"a": tiny.TEXTS[1], "b": tiny.TEXTS[4]}, {"q": {right: 1}})
    for name, right in (("one", "a"), ("two", "b"))
}

EVALUATORS = {
    "similarity": (lambda **kw: tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, **kw), "val_spearman"),
    "pairs": (
        lambda **kw: tx.callbacks.EvaluatePairClassification(PAIRS, [0, 1] * 4, **kw),
        "val_average_precision",
    ),
    "triplets": (lambda **kw: tx.callbacks.EvaluateTriplets(TRIPLETS, **kw), "val_triplet_accuracy"),
    "retrieval": (
        lambda **kw: tx.callbacks.EvaluateRetrieval(tiny.TEXTS, tiny.TEXTS[::-1], RELEVANT, ks=3, **kw),
        "val_ndcg@3",
    ),
    "reranking": (lambda **kw: tx.callbacks.EvaluateReranking(ROWS, **kw), "val_ndcg@10"),
    "translation": (lambda **kw: tx.callbacks.EvaluateTranslation(PAIRS, **{"name": "bi", **kw}), "val_bi_accuracy"),
    "mining": (
        lambda **kw: tx.callbacks.EvaluateParaphraseMining(tiny.TEXTS, [(0, 1)], **{"name": "mine", **kw}),
        "val_mine_average_precision",
    ),
    "mse": (
        lambda **kw: tx.callbacks.EvaluateEmbeddingMSE(np.eye(8), tiny.TEXTS, **{"at_start": False, **kw}),
        "val_negative_mse",
    ),
    "nano": (lambda **kw: tx.callbacks.EvaluateNanoBEIR(TASKS, ks=3, **{"name": "n", **kw}), "val_n_ndcg@3"),
}
PLAIN = {
    "similarity": lambda m: tx.evaluation.similarity(m, PAIRS, SCORES)["spearman"],
    "pairs": lambda m: tx.evaluation.pair_classification(m, PAIRS, [0, 1] * 4)["average_precision"],
    "triplets": lambda m: tx.evaluation.triplets(m, TRIPLETS)["triplet_accuracy"],
    "retrieval": lambda m: tx.evaluation.retrieval(m, tiny.TEXTS, tiny.TEXTS[::-1], RELEVANT, ks=3)["ndcg@3"],
    "reranking": lambda m: tx.evaluation.reranking(m, ROWS)["ndcg@10"],
    "translation": lambda m: tx.evaluation.translation(m, PAIRS)["accuracy"],
    "mining": lambda m: tx.evaluation.paraphrase_mining(m, tiny.TEXTS, [(0, 1)])["average_precision"],
    "mse": lambda m: tx.evaluation.embedding_mse(m, np.eye(8), tiny.TEXTS)["negative_mse"],
    "nano": lambda m: tx.evaluation.nano_beir(m, TASKS, ks=3)["ndcg@3"],
}


@pytest.fixture
def siamese(tmp_path):
    keras.utils.set_random_seed(0)  # for dropout: results must not depend on the tests before
    model = tx.models.Siamese(tiny.embedder(tmp_path))
    model.compile(keras.optimizers.SGD(0.1), loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    return model


def fit(model, callbacks, epochs=2, **kwargs):
    return model.fit(PAIRS, SCORES, batch_size=4, epochs=epochs, seed=0, verbose=0, callbacks=callbacks, **kwargs)


def test_values_reach_history_and_the_callbacks_behind(siamese, tmp_path):
    evaluators = [make() for make, _ in EVALUATORS.values()]
    stop = keras.callbacks.EarlyStopping("val_ndcg@3", mode="max", patience=9)
    saved = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_pearson", mode="max", save_best_only=True)
    history = fit(siamese, [*evaluators, stop, saved]).history
    for kind, (_, key) in EVALUATORS.items():
        assert history[key][-1] == pytest.approx(PLAIN[kind](siamese.embedder)), kind
    for evaluator in evaluators:
        assert set(evaluator.keys()) <= set(history)
        assert [row["epoch"] for row in evaluator.results] == [0, 1]
    assert stop.best == max(history["val_ndcg@3"])
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert tx.evaluation.similarity(best, PAIRS, SCORES)["pearson"] == pytest.approx(max(history["val_pearson"]))


@pytest.mark.parametrize("kind", EVALUATORS)
def test_a_copy_evaluates_the_same_and_starts_afresh(kind, siamese):
    make, key = EVALUATORS[kind]
    evaluator, logs = make(), {}
    evaluator.set_model(siamese)
    evaluator.on_epoch_end(0, logs)
    copied = copy.deepcopy(evaluator)
    assert copied.results == [] and copied.model is None and len(evaluator.results) == 1
    copied.set_model(siamese)
    again = {}
    copied.on_epoch_end(0, again)
    assert again == logs and key in logs


def test_early_stopping_stops_on_a_score_that_does_not_rise(siamese):
    siamese.set_trainable(["embeddings"])
    siamese.compile(keras.optimizers.SGD(0.0), loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    evaluator = tx.callbacks.EvaluateSimilarity(PAIRS, SCORES)
    history = fit(siamese, [evaluator, keras.callbacks.EarlyStopping("val_spearman", mode="max", patience=1)], 9)
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize("other", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
def test_standing_behind_a_callback_that_follows_its_values_is_an_error(other, siamese):
    with pytest.raises(ValueError, match="put EvaluateSimilarity first"):
        fit(siamese, [other("val_pearson", mode="max"), tx.callbacks.EvaluateSimilarity(PAIRS, SCORES)])
    callbacks = [other("loss", mode="min"), tx.callbacks.EvaluateSimilarity(PAIRS, SCORES), other("val_pearson")]
    keras.callbacks.CallbackList(callbacks, model=siamese)


def test_two_evaluations_need_different_names(siamese):
    with pytest.raises(ValueError, match="give one a `name`"):
        fit(siamese, [tx.callbacks.EvaluateSimilarity(PAIRS, SCORES) for _ in range(2)])
    named = tx.callbacks.EvaluateSimilarity(PAIRS, SCORES[::-1], name="reverse", similarity=("cosine", "dot"))
    plain, logs = tx.callbacks.EvaluateSimilarity(PAIRS, SCORES), {}
    for callback in keras.callbacks.CallbackList([plain, named], model=siamese).callbacks:
        callback.on_epoch_end(0, logs)
    assert logs["val_reverse_spearman"] == pytest.approx(-logs["val_spearman"])
    assert set(logs) == {"val_spearman", "val_pearson", *named.keys()}
    assert "val_reverse_pearson_dot" in logs


class Seen(keras.callbacks.Callback):
    """Records the steps at which the logs contain a value."""

    def __init__(self, key):
        super().__init__()
        self.key, self.steps = key, []

    def on_train_batch_end(self, batch, logs=None):
        if self.key in logs:
            self.steps.append(batch)


@pytest.mark.parametrize("together", [1, 2])
def test_every_few_steps_values_are_in_the_logs_of_the_step(together, tmp_path):
    model = tx.models.Siamese(tiny.embedder(tmp_path))
    model.compile(keras.optimizers.SGD(0.1), loss=tx.losses.CoSENTLoss(), steps_per_execution=together)
    evaluator, seen = tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, every=3), Seen("val_spearman")
    texts = tuple(column * 2 for column in PAIRS)
    model.fit(texts, np.arange(16.0), batch_size=4, epochs=3, seed=0, verbose=0, callbacks=[evaluator, seen])
    steps = [row["step"] for row in evaluator.results]
    # 4 steps per epoch; an evaluation at the last step is not repeated at the end of the epoch.
    assert steps == ([3, 4, 6, 8, 9, 12] if together == 1 else [4, 6, 8, 10, 12])
    assert seen.steps == ([2, 1, 0, 3] if together == 1 else [3, 1, 1, 3])


def test_classifier_is_evaluated_by_name_and_index(tmp_path):
    model = tiny.classifier(tmp_path)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    rows = {"text": tiny.TEXTS, "label": tiny.LABELS}
    by_dataset = tx.callbacks.EvaluateClassification(tx.data.labelled(rows, "text", "label", labels=model.labels))
    by_name = tx.callbacks.EvaluateClassification(tiny.TEXTS, tiny.LABELS, name="named")
    history = model.fit(
        tiny.TEXTS,
        tiny.LABELS,
        epochs=2,
        verbose=0,
        seed=0,
        validation_data=(tiny.TEXTS, tiny.LABELS),
        callbacks=[by_dataset, by_name, keras.callbacks.EarlyStopping("val_named_macro_f1", mode="max", patience=5)],
    ).history
    assert history["val_accuracy"] == history["val_named_accuracy"]
    assert history["val_macro_f1"][-1] == tx.evaluation.classification(model, tiny.TEXTS, tiny.LABELS)["macro_f1"]
    assert "val_micro_f1" not in history


def test_classifier_of_several_labels_has_micro_f1(tmp_path):
    model = tiny.classifier(tmp_path, multi_label=True)
    labels = [["card"], ["loan", "card"], [], ["other"], ["other"], ["card"], ["card"], ["loan"]]
    evaluator = copy.deepcopy(tx.callbacks.EvaluateClassification(tiny.TEXTS, labels, threshold=0.4))
    evaluator.set_model(model)
    evaluator.on_epoch_end(0, logs := {})
    expected = tx.evaluation.classification(model, tiny.TEXTS, labels, threshold=0.4)
    assert logs == {f"val_{key}": expected[key] for key in ("accuracy", "macro_f1", "micro_f1")}


def test_labels_that_the_model_does_not_know_are_an_error_when_fit_starts(tmp_path):
    model = tiny.classifier(tmp_path)
    with pytest.raises(ValueError, match="cart"):
        model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, callbacks=[tx.callbacks.EvaluateClassification(["a"], ["cart"])])
    rows = tx.data.labelled({"t": ["a"], "l": ["card"]}, "t", "l", labels=["loan", "card"])
    with pytest.raises(ValueError, match=r"labels=model\.labels"):
        model.fit(tiny.TEXTS, tiny.LABELS, verbose=0, callbacks=[tx.callbacks.EvaluateClassification(rows)])


def test_a_model_that_cannot_be_evaluated_so_is_an_error_when_fit_starts(tmp_path, siamese):
    classifier = tiny.classifier(tmp_path)
    for make in (EVALUATORS["triplets"][0], EVALUATORS["retrieval"][0]):
        with pytest.raises(ValueError, match="`model`"):
            make().set_model(classifier)
    with pytest.raises(ValueError, match="`model`"):
        tx.callbacks.EvaluateClassification(["a"], ["card"]).set_model(siamese)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="model=embedder"):
        tx.callbacks.EvaluateSimilarity(PAIRS, SCORES).set_model(plain)


def test_part_of_a_trained_model_can_be_evaluated(siamese):
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    evaluator = tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, model=siamese.embedder)
    history = plain.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[evaluator]).history
    assert history["val_spearman"] == [PLAIN["similarity"](siamese)]


def test_cross_encoder_is_evaluated_on_pairs(tmp_path):
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    callbacks = [tx.callbacks.EvaluateSimilarity(PAIRS, SCORES), tx.callbacks.EvaluateReranking(ROWS)]
    logs = {}
    for callback in keras.callbacks.CallbackList(callbacks, model=model).callbacks:
        callback.on_epoch_end(0, logs)
    assert logs["val_spearman"] == PLAIN["similarity"](model) and "val_map" in logs


def test_any_function_of_the_model_can_be_a_score(siamese):
    evaluator, logs = tx.callbacks.Evaluate(lambda model: {"norm": 2, "name": "no number"}, name="own"), {}
    keras.callbacks.CallbackList([evaluator], model=siamese)
    evaluator.on_epoch_end(0, logs)
    assert logs == {"val_own_norm": 2.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: tx.callbacks.EvaluateSimilarity(PAIRS, [1.0]),
        lambda: tx.callbacks.EvaluateSimilarity(PAIRS),
        lambda: tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, every=0),
        lambda: tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, name=""),
        lambda: tx.callbacks.EvaluateSimilarity(PAIRS, SCORES, similarity="cos"),
        lambda: tx.callbacks.EvaluatePairClassification(PAIRS, SCORES),
        lambda: tx.callbacks.EvaluateTriplets(PAIRS),
        lambda: tx.callbacks.EvaluateRetrieval(["a"], [], [[0]]),
        lambda: tx.callbacks.EvaluateRetrieval(["a"], ["b"], [[0]], ks=0),
        lambda: tx.callbacks.EvaluateReranking([]),
        lambda: tx.callbacks.EvaluateTranslation((["a"], ["b", "c"])),
        lambda: tx.callbacks.EvaluateTranslation((["a"], ["b"]), match="id"),
        lambda: tx.callbacks.EvaluateParaphraseMining(["a", "b"], [(0, 2)]),
        lambda: tx.callbacks.EvaluateEmbeddingMSE(np.eye(3), ["a", "b"]),
        lambda: tx.callbacks.EvaluateNanoBEIR({}),
        lambda: tx.callbacks.EvaluateNanoBEIR(TASKS, query_prompts={"three": ""}),
        lambda: tx.callbacks.EvaluateClassification(["a"], ["b", "c"]),
        lambda: tx.callbacks.Evaluate("spearman"),
    ],
)
def test_rows_that_do_not_fit_are_errors_at_construction(make):
    with pytest.raises(ValueError, match="Invalid value"):
        make()


@pytest.mark.slow
def test_evaluation_in_mid_epoch_works_on_jax(tmp_path):
    tiny.embedder(tmp_path).save(tmp_path / "model.keras")
    code = f"""
        import os, sys
        os.environ["KERAS_BACKEND"] = "jax"
        sys.path.insert(0, {str(tx.__path__[0] + "/../tests")!r})
        import keras, numpy as np, tiny, tfxfer as tx
        embedder = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        siamese = tx.models.Siamese(embedder)
        siamese.compile(keras.optimizers.AdamW(1e-2), loss=tx.losses.CoSENTLoss())
        callback = tx.callbacks.EvaluateSimilarity((tiny.TEXTS, tiny.TEXTS[::-1]), np.arange(8.0), every=1)
        before = embedder.encode(tiny.TEXTS)
        columns = ((tiny.TEXTS * 2)[:12], (tiny.TEXTS * 2)[12:0:-1])
        siamese.fit(columns, np.arange(12.0), batch_size=4, verbose=0, callbacks=[callback])
        pearson = [row["val_pearson"] for row in callback.results]
        assert len(set(pearson)) == 3 and np.abs(embedder.encode(tiny.TEXTS) - before).max() > 1e-3
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# === Values before training and the best values ===


def _worse(folder):
    """A siamese model, pairs and their similarities, which training makes worse."""
    model = tx.models.Siamese(tiny.embedder(folder))
    model.compile(keras.optimizers.SGD(3.0), loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    pairs = (tiny.TEXTS, tiny.TEXTS[1:] + tiny.TEXTS[:1])
    first, second = (model.embedder.encode(texts, normalize=True) for texts in pairs)
    return model, pairs, (first * second).sum(axis=1)


def test_an_embedder_does_not_end_below_its_untrained_self_unawares(tmp_path):
    model, pairs, truth = _worse(tmp_path)
    kept, evaluate = model.get_weights(), tx.callbacks.EvaluateSimilarity(pairs, truth)
    with pytest.warns(UserWarning, match=r"'val_spearman' at 1\.0000 again, where it was before training"):
        model.fit(pairs, -truth, batch_size=8, verbose=0, callbacks=[evaluate])
    assert evaluate.before["val_spearman"] == pytest.approx(1) and evaluate.results[0]["val_spearman"] < 0.9
    for now, before in zip(model.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(now, before)
    evaluate = tx.callbacks.EvaluateSimilarity(pairs, truth, keep_best=False)
    with pytest.warns(UserWarning, match=r"'val_spearman' is .* after training, and was 1\.0000 before"):
        model.fit(pairs, -truth, batch_size=8, verbose=0, callbacks=[evaluate])
    assert any((now != before).any() for now, before in zip(model.get_weights(), kept, strict=True))


def test_the_best_of_several_evaluations_is_kept(tmp_path):
    model, pairs, truth = _worse(tmp_path)
    values, weights = iter([0.1, 0.5, 0.7, 0.7, 0.2]), []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())

    evaluate = tx.callbacks.Evaluate(lambda model: {"own": next(values)}, at_start=True, keep_best=True)
    history = model.fit(pairs, truth, batch_size=8, epochs=4, verbose=0, callbacks=[evaluate, Keep()]).history
    assert evaluate.before == {"val_own": 0.1} and history["val_own"] == [0.5, 0.7, 0.7, 0.2]
    for now, best in zip(model.get_weights(), weights[2], strict=True):  # of equal values, the later one
        np.testing.assert_array_equal(now, best)


def test_one_evaluation_keeps_the_best(tmp_path):
    model, pairs, truth = _worse(tmp_path)
    both = [tx.callbacks.Evaluate(lambda model: {"a": 1.0}, name=name, keep_best=True) for name in ("x", "y")]
    with pytest.raises(ValueError, match=r"`callbacks`.*one evaluation with `keep_best`"):
        model.fit(pairs, truth, verbose=0, callbacks=both)
