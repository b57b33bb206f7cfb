"""Rerankers: training on lists and on pairs, ranking, evaluation, saving, exports, and distillation both ways."""

import keras
import numpy as np
import pytest
import test_contracts
import tiny

import tfxfer as tx
from tfxfer import callbacks, data, evaluation, export, freezing, losses, models, search

SIZES = [2, 4, 1, 3, 3, 5, 2]
ROWS = [
    {
        "query": tiny.TEXTS[i % 4],
        "documents": [tiny.TEXTS[(3 * i + k) % 5] + " card" * (k % 2) for k in range(size)],
        "grades": [float((i + 2 * k) % 3) for k in range(size)],
    }
    for i, size in enumerate(SIZES)
]
QUERIES, DOCUMENTS, GRADES = ([row[name] for row in ROWS] for name in ("query", "documents", "grades"))


def make(folder, **kwargs):
    keras.utils.set_random_seed(0)
    return models.Reranker(tiny.backbone(), tiny.preprocessor(folder), **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reranker")


@pytest.fixture(scope="module")
def model(folder):
    return make(folder, score_activation="sigmoid")


def flat():
    """The pairs of all rows."""
    return (
        [query for query, texts in zip(QUERIES, DOCUMENTS, strict=True) for _ in texts],
        [text for texts in DOCUMENTS for text in texts],
    )


# === Training ===


def test_the_loss_of_a_fit_on_lists_is_that_of_the_scores_that_predict_gives(folder):
    model = make(folder)
    logits = np.split(model.predict(flat(), verbose=0)[:, 0], np.cumsum(SIZES)[:-1])
    width = max(SIZES)
    padded = np.full((len(ROWS), width), np.nan), np.zeros((len(ROWS), width))
    for i, (grades, scores) in enumerate(zip(GRADES, logits, strict=True)):
        padded[0][i, : len(grades)], padded[1][i, : len(scores)] = grades, scores
    train = data.rankings(ROWS)
    for loss in (losses.LambdaLoss(), losses.ListNetLoss()):
        model.compile("sgd", loss=loss)
        expected = float(loss(*padded))
        assert model.evaluate(train, batch_size=len(ROWS), verbose=0) == pytest.approx(expected, rel=1e-4)
        assert model.test_on_batch((QUERIES, DOCUMENTS), GRADES) == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(model.fit((QUERIES, DOCUMENTS), GRADES, verbose=0, seed=0).history["loss"]).all()


@pytest.mark.slow
def test_a_reranker_learns_the_order_of_lists_and_reports_it(folder):
    model, train = make(folder), data.rankings(ROWS)
    judged = data.rankings([row for row in ROWS if 0 in row["grades"] and max(row["grades"]) > 0])
    model.compile(tx.optimizers.AdamW(3e-2), loss=losses.LambdaLoss())
    before = evaluation.reranking(model, judged)["ndcg@10"]
    batches = data.batches(train, model, max_documents=8, seed=0)
    history = model.fit(batches, epochs=12, verbose=0, callbacks=[callbacks.EvaluateReranking(judged)]).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    scores = evaluation.reranking(model, judged)
    assert history["val_ndcg@10"][-1] == pytest.approx(scores["ndcg@10"]) and scores["ndcg@10"] > max(before, 0.95)
    _, documents = judged.x
    given = [np.asarray(each, "float64") for each in judged.y.to_list()]
    found = model.scores(judged)
    assert [len(each) for each in found] == documents.row_lengths().numpy().tolist()
    assert evaluation.reranking_scores(given, [each.astype("float64") for each in found]) == pytest.approx(scores)


@pytest.mark.slow
def test_pairs_train_on_binary_labels_scores_and_keras_losses(folder):
    model = make(folder)
    pairs, labels = flat(), [float(grade > 0) for grades in GRADES for grade in grades]
    model.compile()
    assert isinstance(model.loss, losses.PointwiseCrossentropyLoss)
    history = model.fit(pairs, labels, epochs=2, verbose=0, seed=0).history
    assert np.isfinite(history["loss"]).all() and model.head_probe is not None  # the head starts from a regression
    rows = {"query": pairs[0], "document": pairs[1], "label": labels}
    model.compile("sgd", loss="mse")
    named = data.pairs(rows, ("query", "document"), target="label")
    expected = float(np.mean((model.predict(pairs, verbose=0)[:, 0] - np.array(labels)) ** 2))
    assert model.evaluate(named, verbose=0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_new_head_starts_from_a_regression_on_the_documents_of_lists(folder):
    rows = [{**row, "grades": [float(grade > 0) for grade in row["grades"]]} for row in ROWS]
    of_lists, of_pairs = make(folder), make(folder)
    grades = [grade for row in rows for grade in row["grades"]]
    found = []
    for model, given in ((of_lists, (data.rankings(rows),)), (of_pairs, (flat(), grades))):
        model.compile()
        freezing.probe(model, *given, penalties=(0.1,))
        found.append(model.linear_head()[1].get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)  # the order of rows affects when the iterations stop


def test_grades_and_lists_that_a_loss_does_not_take_are_errors(folder):
    model = make(folder)
    model.compile()
    with pytest.raises(ValueError, match=r"`y`.*\[0, 1\].*2\.0.*row 0.*LambdaLoss"):
        model.fit(data.rankings(ROWS), verbose=0)
    model.compile("sgd", loss=keras.losses.MeanSquaredError())
    for given in ((data.rankings(ROWS),), ((QUERIES, DOCUMENTS), GRADES)):
        with pytest.raises(ValueError, match=r"`y`.*one number in every row.*row 0.*reads pairs.*LambdaLoss"):
            model.fit(*given, verbose=0)
    model.compile("sgd", loss=losses.LambdaLoss())
    with pytest.raises(ValueError, match=r"`y`.*4 number.*one for each document.*3 number.*row 1"):
        model.fit((QUERIES, DOCUMENTS), [GRADES[0], GRADES[1][:3], *GRADES[2:]], verbose=0)
    with pytest.raises(ValueError, match=r"`x`.*two columns"):
        model.fit(QUERIES, GRADES, verbose=0)


@pytest.mark.slow
def test_what_is_trained_above_frozen_layers_is_what_the_whole_model_trains(folder):
    found = []
    for frozen in (False, True):
        model = make(folder)
        model.set_trainable(["head"])
        model.compile(keras.optimizers.SGD(0.1), loss=losses.ListNetLoss())
        batches = data.batches(data.rankings(ROWS), model, 3, seed=0)
        if frozen:
            above = freezing.AboveFrozen(model, progress=False)
            above.fit(above.cached(batches), epochs=2, verbose=0)
        else:
            model.fit(batches, epochs=2, verbose=0)
        found.append(model.head.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_generators_mixtures_and_several_tasks_take_lists(folder):
    model = make(folder)
    model.compile("sgd", loss=losses.ListNetLoss())
    rows = (((row["query"], row["documents"]), row["grades"]) for row in ROWS)
    assert np.isfinite(model.fit(rows, batch_size=3, verbose=0).history["loss"]).all()
    train = data.rankings(ROWS)
    mixed = data.mix([data.batches(train, model, 3, seed=seed) for seed in (0, 1)], seed=0)
    assert np.isfinite(model.fit(mixed, verbose=0).history["loss"]).all()
    assert np.isfinite(model.fit(train.batch(3), verbose=0).history["loss"]).all()
    weights = np.arange(len(ROWS), dtype="float32")
    history = model.fit((QUERIES, DOCUMENTS), GRADES, sample_weight=weights, validation_split=0.3, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()
    parts = (model.backbone, model.preprocessor)
    tasks = {"topic": models.TextClassifier(*parts, labels=["card", "loan", "other"]), "order": models.Reranker(*parts)}
    both = models.MultiTask(tasks)
    both.compile("sgd", loss={"topic": "auto", "order": losses.LambdaLoss()})
    for mixing in ("size", "together"):
        given = {"topic": (tiny.TEXTS, tiny.LABELS), "order": train}
        history = both.fit(given, batch_size=4, mixing=mixing, verbose=0).history
        assert np.isfinite(history["loss"]).all() and np.isfinite(history["order_loss"]).all()


# === Answers ===


def test_documents_are_ranked_by_score_for_one_query_and_for_many(model):
    found = model.rank(QUERIES[1], DOCUMENTS[1], k=3)
    scores = model.score_pairs([QUERIES[1]] * 4, DOCUMENTS[1])
    assert [each.index for each in found] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert [each.text for each in found] == [DOCUMENTS[1][each.index] for each in found]
    np.testing.assert_allclose([each.score for each in found], np.sort(scores)[::-1][:3], rtol=1e-6)
    many = model.rank_many([*QUERIES, "empty"], [*DOCUMENTS, []], k=3)
    assert [len(each) for each in many] == [*(min(size, 3) for size in SIZES), 0]
    for query, texts, each in zip(QUERIES, DOCUMENTS, many, strict=False):
        one = model.rank(query, texts, k=3)
        assert [(ranked.index, ranked.text) for ranked in each] == [(ranked.index, ranked.text) for ranked in one]
        np.testing.assert_allclose([r.score for r in each], [r.score for r in one], atol=1e-6)
    streamed = model.rank_many(zip(QUERIES, DOCUMENTS, strict=True), k=3, batch_size=2)
    assert next(streamed)[0].index == many[0][0].index
    assert [[each.index for each in row] for row in streamed] == [[each.index for each in row] for row in many[1:-1]]
    assert model.rank_many([], []) == [] and model.rank("a", []) == []


def test_a_generator_is_read_no_further_than_some_batches(model):
    read = []

    def rows():
        for i in range(50):
            read.append(i)
            yield QUERIES[1], DOCUMENTS[1] * 2

    found = model.rank_many(rows(), batch_size=2)
    assert len(next(found)) == 8 and len(read) == 16  # 64 batches of 2 pairs, 8 pairs per row
    assert len(list(found)) == 49


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.rank(["a"], ["b"]), "`query`.*one string"),
        (lambda m: m.rank("a", ["b"], k=0), "`k`"),
        (lambda m: m.rank("a", "b"), "`documents`"),
        (lambda m: m.rank_many(["a"]), "`documents`"),
        (lambda m: m.rank_many(["a"], [["b"], ["c"]]), "`documents`.*each of 1 queries"),
        (lambda m: m.rank_many(["a", "b"], [["b"], ["c", 3]]), r"`documents\[1\]`"),
        (lambda m: m.rank_many(iter([("a", ["b"])]), [["b"]]), "`documents`.*generator"),
        (lambda m: next(m.rank_many(iter([("a", ["b"]), "c"]))), "`queries`.*row 1"),
        (lambda m: m.rank_many(["a"], [["b"]], k=0), "`k`"),
        (lambda m: m.predict(["a"], verbose=0), "`x`.*2 text columns"),
    ],
)
def test_questions_of_another_form_are_errors(call, said, model):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        call(model)


def test_lists_are_predicted_as_their_pairs(model):
    expected = model.predict(flat(), verbose=0)
    for given in ((QUERIES, DOCUMENTS), data.rankings(ROWS)):
        found = model.predict(given, verbose=0)
        assert [each.shape for each in found] == [(size, 1) for size in SIZES]
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)
    scores = model.scores((QUERIES, DOCUMENTS))
    np.testing.assert_allclose(np.concatenate(scores), 1 / (1 + np.exp(-expected[:, 0])), atol=1e-6)


# === Files ===


@pytest.mark.slow
def test_a_cross_encoder_of_one_output_becomes_a_reranker(model, folder):
    regressor = models.TextRegressor(model.backbone, model.preprocessor, score_activation="tanh")
    expected = regressor.scores(flat())
    regressor.save_to_preset(folder / "regressor")
    regressor.save_to_preset(folder / "cross_encoder", format="sentence-transformers")
    makers = [
        models.Reranker.from_preset(folder / "regressor"),
        models.Reranker.from_preset(folder / "cross_encoder"),
        models.Reranker.from_model(regressor),
    ]
    for made in makers:
        assert type(made) is models.Reranker and made.score_activation == "tanh"
        np.testing.assert_allclose(made.scores(flat()), expected, atol=1e-6)
    model.save_to_preset(folder / "reranker", format="sentence-transformers")
    card = (folder / "reranker" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-ranking" in card and 'model.rank("' in card
    again = models.Reranker.from_preset(folder / "reranker")
    np.testing.assert_allclose(again.scores(flat()), model.scores(flat()), atol=1e-6)
    several = models.TextRegressor(model.backbone, model.preprocessor, num_outputs=2)
    with pytest.warns(UserWarning, match="head is left out"):
        assert models.Reranker.from_model(several).num_outputs == 1
    with pytest.raises(TypeError, match="num_outputs"):
        models.Reranker.from_preset(folder / "regressor", num_outputs=2)


class Marked(models.Reranker):
    """A user's own subclass."""


def test_an_export_ranks_as_python_does_without_being_told_of_pairs(model, folder):
    import tensorflow as tf

    own = Marked(model.backbone, model.preprocessor, score_activation="sigmoid")
    served = tf.saved_model.load(export.saved_model(own, folder / "served"))
    answer = served.signatures["rank"](query=tf.constant([QUERIES[1]]), documents=tf.constant([DOCUMENTS[1]]))
    expected = own.score_pairs([QUERIES[1]] * 4, DOCUMENTS[1])
    np.testing.assert_allclose(answer["scores"].numpy()[0], expected, atol=1e-5)
    order = [ranked.index for ranked in own.rank(QUERIES[1], DOCUMENTS[1])]
    assert np.argsort(-answer["scores"].numpy()[0], kind="stable").tolist() == order
    default = served.signatures["serving_default"](text_a=tf.constant(QUERIES[:1]), text_b=tf.constant(["a"]))
    np.testing.assert_allclose(default["outputs"], own.predict((QUERIES[:1], ["a"]), verbose=0), atol=1e-5)


# === Distillation ===


@pytest.mark.slow
def test_a_rerankers_scores_teach_an_embedder_and_an_embedders_a_reranker(model, folder):
    scores = search.teacher_scores(model, ROWS)
    assert [each.dtype for each in scores] == [np.float32] * len(ROWS)
    np.testing.assert_allclose(np.concatenate(scores), model.scores(flat()), atol=1e-6)
    wide = data.triplets_from_lists(ROWS, scores=scores)
    siamese = models.Siamese(tiny.embedder(folder))
    siamese.compile("sgd", loss=losses.MarginMSELoss())
    names = ("anchor", "positive", "negative_1")
    assert np.isfinite(siamese.fit(data.triplets(wide, names, target="margin_1"), verbose=0).history["loss"]).all()
    of_triplets = search.teacher_scores(model, wide, names)
    given = [wide["positive_score"], wide["negative_1_score"]]
    np.testing.assert_allclose(of_triplets, np.stack(given, axis=1), atol=1e-6)

    embedder = siamese.embedder
    back = search.teacher_scores(siamese, ROWS, query_prompt="a ", similarity="dot")
    for row, found in zip(ROWS, back, strict=True):
        query = embedder.encode(["a " + row["query"]])[0]
        np.testing.assert_allclose(found, embedder.encode(row["documents"]) @ query, atol=1e-5)
    student = make(folder)
    student.compile("sgd", loss=losses.ListNetLoss())
    assert np.isfinite(student.fit(data.rankings(ROWS, targets=back), verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (ROWS, ("query",), "`columns`"),
        (ROWS, ("query", "texts"), "`column`.*'texts'"),
        ([{"q": "a", "d": ["b"]}, {"q": "a", "d": []}], ("q", "d"), "`d`.*at least one document.*row 1"),
        ([{"q": "a", "d": ["b"]}, {"q": "a", "d": [3]}], ("q", "d"), "`d`.*row 1"),
        ([{"q": "a", "d": ["b"]}, {"q": "a", "d": "c"}], ("q", "d"), "`d`.*row 1 "),
        ([{"q": "a", "d": "b"}, {"q": None, "d": "c"}], ("q", "d"), "`q`.*row 1"),
    ],
)
def test_rows_that_no_teacher_can_score_are_errors(rows, columns, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        search.teacher_scores(lambda first, second: np.zeros(len(first)), rows, columns)


def test_mined_negatives_become_lists_with_the_embedders_scores(folder):
    pairs = ([text for text in tiny.TEXTS if text], [text + " card" for text in tiny.TEXTS if text])
    mined = search.hard_negatives(tiny.embedder(folder), pairs, num_negatives=2)
    rows = data.lists_from_negatives(mined)
    assert all(texts[0] == query + " card" for query, texts in zip(rows["query"], rows["documents"], strict=True))
    assert {len(texts) for texts in rows["documents"]} == {3} == {len(each) for each in rows["scores"]}
    assert data.rankings(rows, target="scores").y.shape[0] == len(rows)


@pytest.mark.slow
def test_a_reranker_trains_and_ranks_on_jax(folder, tmp_path):
    make(folder).save(tmp_path / "model.keras")
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, test_reranker, tfxfer as tx
        model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        train = tx.data.rankings(test_reranker.ROWS)
        for loss in (tx.losses.LambdaLoss(), tx.losses.ListNetLoss()):
            model.compile(keras.optimizers.SGD(0.1), loss=loss)
            logits = [each[:, 0] for each in model.predict(train, verbose=0)]
            width = max(map(len, logits))
            fill = lambda rows, value: np.array([[*row, *[value] * (width - len(row))] for row in rows], "float32")
            expected = float(loss(fill(test_reranker.GRADES, np.nan), fill(logits, 0.0)))
            assert abs(model.evaluate(train, batch_size=len(logits), verbose=0) - expected) < 1e-4
            before = model.get_weights()
            assert np.isfinite(model.fit(train, batch_size=3, verbose=0, seed=0).history["loss"]).all()
            assert any((one != other).any() for one, other in zip(before, model.get_weights()))
        model.fit(tx.data.batches(train, model, max_documents=8, seed=0), verbose=0)
        assert len(model.rank("my card", ["a loan", "the card"])) == 2
    """)
