"""Late interaction: tokens and vectors compared with loops, MaxSim, losses, the index with codes, exports."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import test_contracts
import tiny
from keras import ops

import tfxfer as tx
from tfxfer import losses, models, search

IDS = {token: i for i, token in enumerate(tiny.VOCABULARY)}
RNG = np.random.default_rng(0)
OPTIONS = {
    "dim": 4,
    "query_length": 9,
    "augment_queries": True,
    "query_marker": "how",
    "document_marker": "the",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def embedder(folder):
    return models.LateInteractionEmbedder(tiny.backbone(), tiny.preprocessor(folder), **OPTIONS)


def maxsim(query, document):
    """A loop over the tokens of a query and of a document, in float64."""
    total = 0.0
    for q in query:
        products = [float(np.dot(q.astype("float64"), d.astype("float64"))) for d in document]
        total += max(products) if products else 0.0
    return total


def matrix(queries, documents):
    return np.array([[maxsim(q, d) for d in documents] for q in queries])


# === Tokens and vectors ===


def tokens_of(ids, marker, limit, filled):
    """The tokens of one text as the model reads them, in plain Python."""
    read = [ids[0], *([IDS[marker]] if marker else []), *ids[1:]]
    if limit is not None and len(read) > limit:
        read = [*read[: limit - 1], ids[-1]]
    return read + [IDS["[MASK]"]] * (limit - len(read) if filled else 0)


def vectors_of(model, read, left_out=()):
    x = {"token_ids": np.array([read], "int32"), "padding_mask": np.ones((1, len(read)), "int32")}
    x["segment_ids"] = np.zeros_like(x["token_ids"])
    found = ops.convert_to_numpy(model.backbone(x))[0] @ model.projection.kernel.numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found[[token not in left_out for token in read]]


@pytest.mark.parametrize(
    ("side", "marked", "filled"),
    [("left", True, True), pytest.param("right", False, True, marks=pytest.mark.slow), ("right", True, False)],
)
def test_vectors_are_those_of_a_loop_over_tokens(folder, side, marked, filled):
    markers = {"query_marker": "how", "document_marker": "the"} if marked else {}
    preprocessor = tiny.preprocessor(folder, padding_side=side)
    options = {"dim": 4, "query_length": 7, "augment_queries": filled, **markers}
    model = models.LateInteractionEmbedder(tiny.backbone(), preprocessor, **options)
    packed = preprocessor(tiny.TEXTS)
    ids = [
        row[mask == 1].tolist()
        for row, mask in zip(*(packed[k].numpy() for k in ("token_ids", "padding_mask")), strict=True)
    ]
    punctuation = [IDS[mark] for mark in ".?!,"]
    outputs = [
        ops.convert_to_numpy(each(model.preprocess_samples(tiny.TEXTS))) for each in (model.query_model(), model)
    ]
    queries, documents = ([row[row.any(axis=1)] for row in side] for side in outputs)
    assert all(
        (side.any(axis=2)[:, :-1] >= side.any(axis=2)[:, 1:]).all() for side in outputs
    )  # vectors that count come first
    for row, query, document in zip(ids, queries, documents, strict=True):
        read = tokens_of(row, markers.get("query_marker"), 7, filled)
        np.testing.assert_allclose(query, vectors_of(model, read), atol=1e-5)
        read = tokens_of(row, markers.get("document_marker"), None, False)
        np.testing.assert_allclose(document, vectors_of(model, read, punctuation), atol=1e-5)
        assert len(query) == 7 or not filled


def test_a_document_with_a_marker_keeps_within_the_encoders_positions(folder):
    model = models.LateInteractionEmbedder(tiny.backbone(), tiny.preprocessor(folder, sequence_length=32), **OPTIONS)
    long = " ".join(["card"] * 100)
    ids = [IDS["[CLS]"], *[IDS["card"]] * 30, IDS["[SEP]"]]
    read = tokens_of(ids, "the", 32, False)
    np.testing.assert_allclose(tiny.outputs(model, [long])[0], vectors_of(model, read), atol=1e-5)


def test_texts_come_in_every_form(embedder):
    documents = embedder.encode_document(tiny.TEXTS)
    assert [each.shape[1] for each in documents] == [4] * 8 and len({len(each) for each in documents}) > 3
    np.testing.assert_allclose(embedder.encode_document(tiny.TEXTS[3]), documents[3], atol=1e-5)
    streamed = [row for part in embedder.encode_document(iter(tiny.TEXTS), 2) for row in part]
    predicted = embedder.predict(tiny.TEXTS, 3, verbose=0)
    for found in (streamed, predicted):
        for one, other in zip(found, documents, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert embedder.encode_query([]) == []
    assert embedder.encode_query("card", dtype="float16").dtype == "float16"
    with pytest.raises(ValueError, match=r"`texts`.*row 1"):
        embedder.encode_query(["card", 3])
    with pytest.raises(ValueError, match=r"`embedder`"):
        search.SemanticIndex(embedder, tiny.TEXTS)
    with pytest.raises(NotImplementedError, match="explain"):
        embedder.explain("card", "loan")


def test_similarity_and_rank_are_maxsim(embedder, blocks):
    queries, documents = embedder.encode_query(tiny.TEXTS[:3]), embedder.encode_document(tiny.TEXTS)
    documents = [*documents, np.zeros((0, 4), "float32")]
    expected = matrix(queries, documents)
    np.testing.assert_allclose(embedder.similarity(queries, documents), expected, atol=1e-5)
    ragged = [queries[0][:2], np.zeros((0, 4)), queries[1], queries[2][:5]]
    with blocks(10, 3):  # a few queries and documents at a time
        np.testing.assert_allclose(embedder.similarity(ragged, documents), matrix(ragged, documents), atol=1e-5)
    assert embedder.similarity([], documents).shape == (0, 9) and embedder.similarity(queries, []).shape == (3, 0)
    ranked = embedder.rank(tiny.TEXTS[0], tiny.TEXTS, k=3)
    assert [each.index for each in ranked] == np.argsort(-expected[0, :8], kind="stable")[:3].tolist()
    for wrong in ([np.zeros((2, 3))], [np.zeros(4)], [np.full((2, 4), np.nan)], "card"):
        with pytest.raises(ValueError, match="`b`"):
            embedder.similarity(queries, wrong)


def test_wrong_arguments_are_errors(folder, embedder):
    backbone, preprocessor = tiny.backbone(), tiny.preprocessor(folder)
    for name, value in (
        ("dim", 0),
        ("query_length", 3),
        ("query_length", 33),
        ("query_marker", "[unused0]"),
        ("document_marker", 3),
        ("skip_tokens", "stopwords"),
        ("skip_tokens", ["nothing"]),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            models.LateInteractionEmbedder(backbone, preprocessor, **{name: value})
    with pytest.raises(ValueError, match=r"`augment_queries`.*mask token"):
        models.LateInteractionEmbedder(backbone, augment_queries=True)
    with pytest.raises(ValueError, match="`chunk_size`"):
        models.Siamese(embedder, chunk_size=4)
    with pytest.raises(ValueError, match="`decoder`"):
        models.Siamese(embedder, decoder="cosine")
    frozen = models.LateInteractionEmbedder(backbone, preprocessor)
    tx.freezing.freeze(frozen, below=1)
    with pytest.raises(ValueError, match="Train the whole model"):
        tx.freezing.AboveFrozen(models.Siamese(frozen))


# === Losses and training ===


def tokens(*shape):
    """Random unit vectors, some of them left out (zero)."""
    x = RNG.normal(size=shape)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x * (RNG.uniform(size=(*shape[:-1], 1)) > 0.3)


def test_losses_equal_loops_over_rows():
    x = tokens(5, 3, 4, 6)
    x[2, 1] = 0.0  # a document without tokens
    real = [[[v for v in text if v.any()] for text in row] for row in x]
    documents = [row[1 + column] for column in range(2) for row in real]
    scores = 1.7 * matrix([row[0] for row in real], documents)
    expected = [np.log(np.sum(np.exp(row))) - row[i] for i, row in enumerate(scores)]
    for chunk in (1, 2, 8):
        found = losses.maxsim_ranking(tf.constant(x), 1.7, chunk_size=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(losses.score_ranking(tf.constant(scores)), expected, rtol=1e-8)

    teacher = RNG.normal(size=(5, 2))
    own = np.array([matrix(row[:1], row[1:])[0] for row in real]) / 0.3
    p = np.exp(teacher / 0.6) / np.exp(teacher / 0.6).sum(1, keepdims=True)
    q = np.exp(own) / np.exp(own).sum(1, keepdims=True)
    expected = 0.09 * np.sum(p * (np.log(p) - np.log(q)), axis=1)
    found = losses.maxsim_distillation(tf.constant(teacher), tf.constant(x), 0.3, teacher_temperature=0.6)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    with pytest.raises(ValueError, match=r"`y_pred`.*LateInteractionEmbedder"):
        losses.maxsim_ranking(tf.constant(x[:, 0]))
    with pytest.raises(ValueError, match=r"`scores`.*documents >= batch"):
        losses.score_ranking(tf.constant(scores[:, :2]))
    with pytest.raises(ValueError, match=r"`y_true`"):
        losses.maxsim_distillation(tf.constant(teacher[:, :1]), tf.constant(x))


def test_gradients_in_chunks_are_those_of_the_whole():
    x, found = tf.constant(tokens(5, 2, 4, 6)), []
    for chunk in (2, 8):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(losses.maxsim_ranking(x, 1.3, chunk_size=chunk))
        found.append(tape.gradient(value, x).numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    assert np.abs(found[0]).max() > 0.1


def test_towers_read_the_first_column_as_queries(embedder):
    model = models.Siamese(embedder)
    rows = (tiny.TEXTS, tiny.TEXTS[::-1], tiny.TEXTS[2:] + tiny.TEXTS[:2])
    y_pred = tiny.outputs(model, rows)
    sides = (model.embedder.encode_query, model.embedder.encode_document, model.embedder.encode_document)
    for column, (encode, texts) in enumerate(zip(sides, rows, strict=True)):
        for found, expected in zip(y_pred[:, column], encode(texts), strict=True):
            np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)
            assert not found[len(expected) :].any()


@pytest.mark.slow
def test_towers_train_and_come_back_from_files(folder, tmp_path):
    keras.utils.set_random_seed(0)
    model = models.Siamese(models.LateInteractionEmbedder(tiny.backbone(), tiny.preprocessor(folder), **OPTIONS))
    rows = (tiny.TEXTS, tiny.TEXTS[::-1], tiny.TEXTS[2:] + tiny.TEXTS[:2])
    model.compile(keras.optimizers.Adam(1e-2), loss=tx.losses.MaxSimRankingLoss(2.0))
    history = model.fit(rows, np.zeros(8), batch_size=4, epochs=8, seed=0, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    y_pred = tiny.outputs(model, rows)
    model.save(tmp_path / "towers.keras")
    again = keras.saving.load_model(tmp_path / "towers.keras")
    np.testing.assert_allclose(tiny.outputs(again, rows), y_pred, atol=1e-6)
    model.save_to_preset(tmp_path / "preset")
    taken = models.LateInteractionEmbedder.from_preset(tmp_path / "preset")
    for one, other in zip(taken.encode_query(tiny.TEXTS), model.embedder.encode_query(tiny.TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model.compile("sgd", loss=tx.losses.MaxSimDistillationLoss())
    assert np.isfinite(model.fit(rows, RNG.normal(size=(8, 2)), verbose=0).history["loss"]).all()


# === Search ===


def corpus(texts=40, dim=12):
    """Texts and their token vectors around a few centers; one text has no tokens."""
    centres = RNG.normal(size=(15, dim))
    found = []
    for i in range(texts):
        rows = centres[RNG.integers(0, 15, size=0 if i == 7 else RNG.integers(1, 9))]
        rows = rows + 0.3 * RNG.normal(size=(len(rows), dim))
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)).astype("float32"))
    return [f"text {i}" for i in range(texts)], found


def test_search_without_bits_is_exact_in_blocks(blocks):
    texts, vectors = corpus()
    queries = [vectors[3][:2], vectors[11], np.concatenate([vectors[20], vectors[5]])]
    index = search.LateInteractionIndex(None, texts[:9], embeddings=vectors[:9], bits=None)
    index.add(texts[9:], embeddings=vectors[9:])
    expected = matrix(queries, vectors)
    for held in (8192, 2):  # all texts, or a few at a time
        with blocks(1024, held):
            hits = index.search(queries, k=40)
        for row, ids, scores in zip(expected, hits.ids, hits.scores, strict=True):
            np.testing.assert_allclose(scores, np.sort(row)[::-1], atol=1e-5)
            np.testing.assert_allclose(row[ids], scores, atol=1e-5)
            assert sorted(ids) == list(range(40))
    one = index.search(queries[0], k=2)
    np.testing.assert_array_equal(one.ids, hits.ids[0, :2])
    assert one.texts == [texts[i] for i in one.ids]
    for found, given in zip(index.vectors([11, 7, 3]), (vectors[11], vectors[7], vectors[3]), strict=True):
        np.testing.assert_array_equal(found, given)
    with pytest.raises(ValueError, match="`nprobe`"):
        index.search(queries, nprobe=1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_come_back_as_a_loop_over_components_says(bits):
    texts, vectors = corpus(dim=11)  # not a whole number of bytes
    index = search.LateInteractionIndex(None, texts, embeddings=vectors, bits=bits, num_centroids=16)
    # The codec is private, but only a loop over its numbers can show that packing loses nothing.
    codec = index._codec
    flat = np.concatenate(vectors)
    expected = []
    for vector in flat:
        distances = [np.sum((vector.astype("float64") - centroid) ** 2) for centroid in codec.centroids]
        centroid = codec.centroids[int(np.argmin(distances))]
        rounded = []
        for component, centre in zip(vector, centroid, strict=True):
            place = sum(component - centre >= cut for cut in codec.cuts)
            rounded.append(centre + codec.values[place])
        expected.append(np.array(rounded) / np.linalg.norm(rounded))
    found = np.concatenate(index.vectors(np.arange(len(texts))))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cosines = np.sum(found * flat, axis=1)
    assert cosines.mean() > {1: 0.93, 2: 0.97, 4: 0.995}[bits]
    assert len(codec.values) == 2**bits and (np.diff(codec.values) > 0).all()
    # The search scores all texts with the rounded vectors.
    hits = index.search(vectors[3], k=40)
    expected = matrix([vectors[3]], index.vectors(np.arange(40)))[0]
    np.testing.assert_allclose(hits.scores, np.sort(expected)[::-1], atol=1e-5)


def test_candidates_are_the_texts_with_a_near_centroid():
    texts, vectors = corpus()
    index = search.LateInteractionIndex(None, texts, embeddings=vectors, bits=4, num_centroids=12)
    centroids, query = index._codec.centroids, vectors[3]  # private: they select the candidates
    whole = index.search(query, k=40)
    for nprobe in (1, 3, 12, 50):
        near = {int(i) for q in query for i in np.argsort(-(centroids @ q), kind="stable")[:nprobe]}
        expected = []
        for i, rows in enumerate(vectors):
            places = {int(np.argmin(np.sum((row - centroids) ** 2, axis=1))) for row in rows}
            expected += [i] if places & near else []
        hits = index.search(query, k=40, nprobe=nprobe)
        found = [i for i in hits.ids.tolist() if i >= 0]
        assert sorted(found) == expected
        order = [i for i in whole.ids.tolist() if i in expected]
        assert found == order and hits.texts[len(found) :] == [None] * (40 - len(found))
        assert np.isneginf(hits.scores[len(found) :]).all()
    assert len(expected) == 39  # all but the text without tokens


def test_an_index_saves_and_loads(embedder, tmp_path):
    for bits in (None, 2):
        index = search.LateInteractionIndex(embedder, tiny.TEXTS, bits=bits)
        hits = index.search("my card?", k=3)
        index.save(tmp_path / "index")
        again = search.LateInteractionIndex.load(tmp_path / "index", embedder)
        found = again.search(["my card?"], k=3)
        np.testing.assert_array_equal(found.ids[0], hits.ids)
        np.testing.assert_array_equal(found.scores[0], hits.scores)
        again.add(["good card"])
        assert again.search("my card?", k=9).ids.shape == (9,) and again.nbytes > index.nbytes
    sizes = {bits: search.LateInteractionIndex(embedder, tiny.TEXTS, bits=bits, num_centroids=2) for bits in (1, 4)}
    assert sizes[1].nbytes < sizes[4].nbytes
    file = tmp_path / "index" / "late_interaction_index.npz"
    content = file.read_bytes()
    other = search.LateInteractionIndex(embedder, tiny.TEXTS, bits=None)
    other.save(tmp_path / "other")
    for damaged in (b"", content[:-200], content[:3000] + b"x" + content[3001:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"`folder`.*late_interaction_index\.npz"):
            search.LateInteractionIndex.load(tmp_path / "index", None)
    assert repr(other) == f"LateInteractionIndex(8 texts, {sum(map(len, other.vectors(range(8))))} tokens, bits=None)"


def test_wrong_vectors_of_an_index_are_errors():
    texts, vectors = corpus(12)
    for given, name in (
        ({"bits": 3}, "bits"),
        ({"bits": None, "num_centroids": 4}, "num_centroids"),
        ({"embeddings": vectors[:3]}, "embeddings"),
        ({"embeddings": [*vectors[:11], vectors[11][:, 1:]]}, "embeddings"),
        ({"embeddings": [np.zeros((0, 12))] * 12}, "texts"),
        ({"embeddings": None}, "embedder"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            search.LateInteractionIndex(None, texts, **{"embeddings": vectors, **given})
    index = search.LateInteractionIndex(None, texts, embeddings=vectors, calibration=vectors[:5], num_centroids=500)
    for queries, name in (([], "queries"), (vectors[3][:, 1:], "queries"), ("card", "embedder")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            index.search(queries, 2)
    with pytest.raises(ValueError, match="`k`"):
        index.search(vectors[3], 13)


def test_retrieval_scores_it_by_its_own_similarity(embedder):
    queries, relevant = ["my card", "a loan", "money"], [[0], [2, 3], [3]]
    scores = matrix(embedder.encode_query(queries), embedder.encode_document(tiny.TEXTS))
    expected = tx.evaluation.retrieval_scores(np.argsort(-scores, axis=1, kind="stable"), relevant, ks=(1, 3))
    for model in (embedder, models.Siamese(embedder)):
        found = tx.evaluation.retrieval(model, queries, tiny.TEXTS, relevant, ks=(1, 3), corpus_chunk=3)
        assert {name: found[name] for name in expected} == expected
    with pytest.raises(ValueError, match="`query_prompt`"):
        tx.evaluation.retrieval(embedder, queries, tiny.TEXTS, relevant, query_prompt="query: ")
    tx.callbacks.EvaluateRetrieval(queries, tiny.TEXTS, relevant).check(models.Siamese(embedder))
    with pytest.raises(ValueError, match="`model`"):
        tx.callbacks.EvaluateSimilarity((["a", "b"], ["b", "c"]), [0.5, 0.1]).check(models.Siamese(embedder))


# === Serving ===


@pytest.mark.slow
def test_an_export_answers_as_python_does(embedder, tmp_path):
    served = tf.saved_model.load(tx.export.saved_model(models.Siamese(embedder), tmp_path / "served")).signatures
    for name, encode in (("embed_query", embedder.encode_query), ("embed_document", embedder.encode_document)):
        answer = {key: value.numpy() for key, value in served[name](text=tf.constant(tiny.TEXTS)).items()}
        for row, expected in enumerate(encode(tiny.TEXTS)):
            count = int(answer["counts"][row])
            np.testing.assert_allclose(answer["vectors"][row, :count], expected, atol=1e-5)
            assert count == len(expected) and not answer["vectors"][row, count:].any()
    documents = tf.constant([tiny.TEXTS[:4], tiny.TEXTS[4:]])
    scores = served["rank"](query=tf.constant(["my card?", "loan"]), documents=documents)["scores"].numpy()
    queries, found = embedder.encode_query(["my card?", "loan"]), embedder.encode_document(tiny.TEXTS)
    expected = np.stack([matrix(queries[:1], found[:4])[0], matrix(queries[1:], found[4:])[0]])
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    pairs = {"text_a": tf.constant(["my card?", "loan"]), "text_b": tf.constant(tiny.TEXTS[1:3])}
    expected = [maxsim(queries[0], found[1]), maxsim(queries[1], found[2])]
    np.testing.assert_allclose(served["similarity"](**pairs)["similarity"].numpy(), expected, atol=1e-4)


class Own(models.LateInteractionEmbedder):
    """A user's subclass, registered outside the package."""


@pytest.mark.slow
def test_a_users_subclass_and_new_markers_work(folder, embedder, tmp_path):
    marked = embedder.with_added_tokens(["[Q]"], special=True)
    # Token ids are those of the model's new vocabulary.
    own = keras.saving.register_keras_serializable("tests")(Own)(
        marked.backbone, marked.preprocessor, **{**OPTIONS, "query_marker": "[Q]"}
    )
    own.save(tmp_path / "own.keras")
    again = keras.saving.load_model(tmp_path / "own.keras")
    assert type(again) is Own and again.query_marker == "[Q]"
    for one, other in zip(again.encode_query(tiny.TEXTS), own.encode_query(tiny.TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    changed = models.LateInteractionEmbedder.from_model(again, skip_tokens=["card"], query_length=5)
    assert changed.encode_query("card").shape == (5, 4)
    assert len(changed.encode_document("card card")) == len(again.encode_document("card card")) - 2
    with pytest.raises(ValueError, match="`dim`"):
        models.LateInteractionEmbedder.from_model(again, dim=5)


@pytest.mark.slow
def test_jax_gives_tensorflows_numbers_and_trains(folder, embedder, tmp_path):
    sparse = tiny.sparse(folder, vocabulary_chunk=16)
    for name, model in (("late", embedder), ("sparse", sparse)):
        model.save(tmp_path / f"{name}.keras")
        np.save(
            tmp_path / f"{name}.npy",
            model.similarity(*(each(tiny.TEXTS) for each in (model.encode_query, model.encode_document))),
        )
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        losses = {{
            "late": tx.losses.MaxSimRankingLoss(),
            "sparse": tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot"),
        }}
        for name, loss in losses.items():
            model = keras.saving.load_model({str(tmp_path)!r} + "/" + name + ".keras")
            found = model.similarity(model.encode_query(tiny.TEXTS), model.encode_document(tiny.TEXTS))
            np.testing.assert_allclose(found, np.load({str(tmp_path)!r} + "/" + name + ".npy"), rtol=1e-4)
            decoder = tx.layers.FLOPSRegularization(0.1, 0.1, 2) if name == "sparse" else None
            towers = tx.models.Siamese(model, decoder=decoder)
            towers.compile(keras.optimizers.Adam(1e-2), loss=loss)
            history = towers.fit((tiny.TEXTS, tiny.TEXTS[::-1]), np.zeros(8), batch_size=4, epochs=3, verbose=0)
            assert np.isfinite(history.history["loss"]).all()
            if decoder is not None:
                assert int(decoder.steps) == 6
    """)
