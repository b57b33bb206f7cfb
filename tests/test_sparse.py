"""Sparse embedders: the head compared with a loop, encoding, sparsity in training, the index, exports, checkpoints."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny
from keras import ops

import tfxfer as tx
from tfxfer import data, models, search

SPECIAL = [tiny.VOCABULARY.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def embedder(folder):
    return tiny.sparse(folder)


@pytest.fixture(scope="module")
def vectors(embedder):
    return embedder.encode(tiny.TEXTS, batch_size=3)


# === The head ===


def loop(model, texts):
    """The vectors, computed by a loop over rows, positions and the vocabulary in float64."""
    x = {name: value.numpy() for name, value in model.preprocessor(texts).items()}
    states = ops.convert_to_numpy(model.backbone(x)).astype("float64")
    head = {weight.path.rsplit("head/", 1)[-1]: weight.numpy().astype("float64") for weight in model.head.weights}
    table = model.backbone.token_embedding.embeddings.numpy().astype("float64")
    found = np.zeros((len(texts), len(table)))
    for i in range(len(texts)):
        for j in range(x["token_ids"].shape[1]):
            if not x["padding_mask"][i, j]:
                continue
            if not model.pool_special_tokens and x["token_ids"][i, j] in SPECIAL:
                continue
            hidden = states[i, j] @ head["dense/kernel"] + head["dense/bias"]
            hidden = np.tanh(hidden)
            hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-12)
            logits = table @ (hidden * head["norm/gamma"] + head["norm/beta"]) + head["bias"]
            for term, logit in enumerate(logits):
                weight = np.log1p(max(logit, 0.0))
                found[i, term] = (
                    max(found[i, term], weight) if model.token_pooling == "max" else found[i, term] + weight
                )
    return found


@pytest.mark.parametrize(
    ("pooling", "special", "chunk"),
    [
        ("max", True, 2048),
        ("sum", False, 16),
        pytest.param("sum", True, 17, marks=pytest.mark.slow),
        pytest.param("max", False, 5, marks=pytest.mark.slow),
    ],
)
def test_vectors_are_those_of_a_loop_whatever_the_chunk(folder, pooling, special, chunk):
    options = {"token_pooling": pooling, "pool_special_tokens": special, "vocabulary_chunk": chunk}
    model = tiny.sparse(folder, head={"activation": "tanh"}, **options)
    found = tiny.outputs(model, tiny.TEXTS)
    np.testing.assert_allclose(found, loop(model, tiny.TEXTS), atol=2e-5)
    assert not found[tiny.TEXTS.index("")].any() or special


def test_gradients_in_chunks_are_those_of_the_whole(folder):
    found = []
    for chunk in (2048, 10):
        keras.utils.set_random_seed(0)
        model = tiny.sparse(folder, vocabulary_chunk=chunk)
        x = model.preprocess_samples(tiny.TEXTS)
        factors = np.random.default_rng(0).normal(size=(len(tiny.TEXTS), len(tiny.VOCABULARY))).astype("float32")
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(x) * factors)
        found.append([tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, model.trainable_variables)])
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-4 * max(np.abs(whole).max(), 1))


# === Encoding ===


def test_encode_keeps_what_is_not_zero_in_the_order_of_texts(embedder, vectors):
    assert isinstance(vectors, scipy.sparse.csr_array) and vectors.dtype == "float32"
    dense = tiny.outputs(embedder, tiny.TEXTS)
    np.testing.assert_allclose(vectors.toarray(), dense, atol=1e-5)
    assert vectors.nnz == np.count_nonzero(vectors.toarray())
    one = embedder.encode(tiny.TEXTS[3])
    np.testing.assert_allclose(one.toarray(), dense[3:4], atol=1e-5)
    streamed = scipy.sparse.vstack(list(embedder.encode(iter(tiny.TEXTS), batch_size=2)))
    np.testing.assert_allclose(streamed.toarray(), dense, atol=1e-5)
    assert embedder.encode([]).shape == (0, len(tiny.VOCABULARY))
    for given, row in (([tiny.TEXTS[0], None], "row 1"), (("card", ("a", "b")), "row 1"), ({"card"}, "sequence")):
        with pytest.raises(ValueError, match=f"`texts`.*{row}"):
            embedder.encode(given)


def test_the_largest_weights_are_kept(embedder, vectors):
    cut = embedder.encode(tiny.TEXTS, max_active_dims=3)
    assert (np.diff(cut.indptr) <= 3).all()
    for row, whole in zip(cut.toarray(), vectors.toarray(), strict=True):
        order = sorted(range(len(whole)), key=lambda i: (-whole[i], i))[:3]
        expected = [whole[i] if i in order else 0.0 for i in range(len(whole))]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    with pytest.raises(ValueError, match="`max_active_dims`"):
        embedder.encode(tiny.TEXTS, max_active_dims=0)


def test_words_are_the_tokens_of_the_heaviest_components(embedder, vectors):
    first = embedder.words(tiny.TEXTS, k=4)[0]
    row = vectors.toarray()[0]
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:4]
    assert [term.token for term in first] == [tiny.VOCABULARY[i] for i in order]
    assert [term.weight for term in first] == pytest.approx([row[i] for i in order], abs=1e-5)
    assert [each.token for each in embedder.words(tiny.TEXTS[0], k=4)] == [each.token for each in first]
    decoded = embedder.decode(vectors)
    assert [each.token for each in decoded[0][:4]] == [each.token for each in first]
    assert [len(terms) for terms in decoded] == np.diff(vectors.indptr).tolist()
    assert embedder.decode(vectors.toarray()) == decoded


def test_similarity_and_rank_are_dot_products(embedder, vectors):
    dense = vectors.toarray()
    expected = dense[:2] @ dense.T
    np.testing.assert_allclose(embedder.similarity(vectors[:2], vectors), expected, rtol=1e-5)
    np.testing.assert_allclose(embedder.similarity(dense[0], dense), expected[:1], rtol=1e-5)
    ranked = embedder.rank(tiny.TEXTS[0], tiny.TEXTS, k=3)
    assert [each.index for each in ranked] == np.argsort(-expected[0], kind="stable")[:3].tolist()
    for wrong in (dense[:, 1:], dense * np.nan):
        with pytest.raises(ValueError, match="`b`"):
            embedder.similarity(vectors, wrong)
    with pytest.raises(NotImplementedError, match="words"):
        embedder.explain("card", "loan")
    with pytest.raises(ValueError, match=r"`embedder`.*dense vectors"):
        search.SemanticIndex(embedder, tiny.TEXTS)


# === Training ===


def test_flops_are_added_in_training_with_a_quadratic_rise():
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("float32")
    layer = tx.layers.FLOPSRegularization(0.5, 0.25, warmup_steps=4)
    queries, documents = np.abs(x[:, 0]), np.abs(x[:, 1:]).reshape(-1, 5)
    whole = 0.5 * np.sum(queries.mean(0) ** 2) + 0.25 * np.sum(documents.mean(0) ** 2)
    for step in range(1, 7):
        np.testing.assert_array_equal(layer(x, training=True), x)
        assert float(sum(layer.losses)) == pytest.approx(whole * min(step / 4, 1) ** 2, rel=1e-5)
    layer(x)
    assert not layer.losses and int(layer.steps) == 6
    with pytest.raises(ValueError, match=r"`inputs`.*columns"):
        tx.layers.FLOPSRegularization()(x[:, 0])


@pytest.mark.slow
def test_towers_give_their_embedder_to_presets(folder, tmp_path):
    model = models.Siamese(tiny.sparse(folder), decoder=tx.layers.FLOPSRegularization())
    expected = ops.convert_to_numpy(model.embedder(model.embedder.preprocess_samples(tiny.TEXTS)))
    model.save_to_preset(tmp_path / "towers")
    taken = models.SparseEmbedder.from_preset(tmp_path / "towers", max_active_dims=5)
    assert taken.max_active_dims == 5
    taken.save_to_preset(tmp_path / "alone")
    towers = models.Siamese.from_preset(tmp_path / "alone", chunk_size=4)
    assert isinstance(towers.embedder, models.SparseEmbedder) and towers.chunk_size == 4
    np.testing.assert_allclose(tiny.outputs(towers.embedder, tiny.TEXTS), expected, atol=1e-6)
    with pytest.warns(UserWarning, match="trained `SparseEmbedder`"):
        models.TextEmbedder.from_preset(tmp_path / "alone")


@pytest.mark.slow
def test_training_in_towers_with_flops_leaves_fewer_terms_and_goes_on_from_a_file(folder, tmp_path):
    keras.utils.set_random_seed(0)
    model = models.Siamese(tiny.sparse(folder), decoder=tx.layers.FLOPSRegularization(0.3, 0.3, 4))
    before = model.embedder.encode(tiny.TEXTS).nnz
    loss = tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot")
    model.compile(keras.optimizers.Adam(1e-2), loss=loss)
    rows = (tiny.TEXTS, tiny.TEXTS[::-1])
    model.fit(rows, np.zeros(8), batch_size=4, epochs=6, seed=0, verbose=0)
    assert model.embedder.encode(tiny.TEXTS).nnz < 0.7 * before
    # Evaluation computes the loss without regularization.
    y_pred = tiny.outputs(model, rows)
    assert model.evaluate(rows, np.zeros(8), batch_size=8, verbose=0) == pytest.approx(
        float(loss(0.0, y_pred)), rel=1e-4
    )
    model.save(tmp_path / "towers.keras")
    again = keras.saving.load_model(tmp_path / "towers.keras")
    assert int(again.get_layer(model.layers[-1].name).steps) == 12
    np.testing.assert_allclose(tiny.outputs(again, rows), y_pred, atol=1e-6)
    again.fit(rows, np.zeros(8), batch_size=4, seed=0, verbose=0)
    assert int(again.get_layer(model.layers[-1].name).steps) == 14


@pytest.mark.slow
def test_training_above_frozen_layers_gives_the_same_weights(folder):
    found = []
    for short in (False, True):
        keras.utils.set_random_seed(0)
        model = models.Siamese(tiny.sparse(folder, vocabulary_chunk=16))
        tx.freezing.freeze(model, below=1)
        loss = tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot")
        model.compile(keras.optimizers.SGD(0.01), loss)
        trained = tx.freezing.AboveFrozen(model) if short else model
        rows = data.pairs([{"a": a, "b": b} for a, b in zip(tiny.TEXTS, tiny.TEXTS[::-1], strict=True)], ("a", "b"))
        trained.fit(data.batches(rows, model, 4, seed=0), epochs=3, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    model = tiny.sparse(folder, pool_special_tokens=False)
    with pytest.raises(ValueError, match="reads only the encoder's states"):
        model.boundary()


# === Sources of the head ===


def test_the_head_is_that_of_a_masked_language_model(folder):
    masked = tiny.masked(folder)
    model = models.SparseEmbedder.from_model(masked, token_pooling="sum")
    for ours, theirs in zip(model.head.weights, masked.head.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(ValueError, match=r"`head`.*is loaded"):
        models.SparseEmbedder.from_model(masked, head={"activation": "tanh"})
    for other in (tiny.embedder(folder), tiny.classifier(folder)):
        with pytest.raises(ValueError, match=r"masked language model.*backbone_only=True"):
            models.SparseEmbedder.from_model(other)
    assert models.SparseEmbedder.from_model(other, backbone_only=True).embedding_dim == len(tiny.VOCABULARY)


@pytest.mark.slow
def test_the_head_is_that_of_a_folder(folder, tmp_path):
    masked = tiny.masked(folder)
    model = models.SparseEmbedder.from_model(masked, token_pooling="sum")
    expected = tiny.outputs(model, tiny.TEXTS)
    masked.save_to_preset(tmp_path / "masked")
    model.save_to_preset(tmp_path / "checkpoint", format="huggingface")
    for preset in ("masked", "checkpoint"):
        again = models.SparseEmbedder.from_preset(tmp_path / preset, token_pooling="sum", sequence_length=16)
        np.testing.assert_allclose(tiny.outputs(again, tiny.TEXTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"`head`.*is loaded"):
        models.SparseEmbedder.from_preset(tmp_path / "checkpoint", head={"activation": "tanh"})


def test_wrong_arguments_are_errors(folder):
    backbone = tiny.backbone()
    for name, value in (("token_pooling", "mean"), ("max_active_dims", 0), ("vocabulary_chunk", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            models.SparseEmbedder(backbone, **{name: value})
    with pytest.raises(ValueError, match=r"`pool_special_tokens`.*preprocessor"):
        models.SparseEmbedder(backbone, pool_special_tokens=False)
    model = models.SparseEmbedder(backbone, tiny.preprocessor(folder))
    with pytest.raises(NotImplementedError, match="sparse"):
        model.quantize("int8")
    with pytest.raises(ValueError, match=r"`embedder`.*TextEmbedder"):
        models.SiameseClassifier(model, labels=["a", "b"])


# === Search ===


def test_the_index_finds_the_largest_dot_products_exactly(blocks):
    rng = np.random.default_rng(0)
    documents = scipy.sparse.random_array((60, 40), density=0.1, rng=rng, dtype="float32", format="csr")
    queries = scipy.sparse.random_array((7, 40), density=0.2, rng=rng, dtype="float32", format="csr")
    texts = [f"text {i}" for i in range(60)]
    index = search.SparseIndex(None, texts[:25], embeddings=documents[:25])
    index.add(texts[25:], embeddings=documents[25:].tocoo())
    expected = queries.toarray().astype("float64") @ documents.toarray().T
    for scores_held in (8_000_000, 130):
        with blocks(1, scores_held):
            hits = index.search(queries, k=50)
        for row, ids, scores, found in zip(expected, hits.ids, hits.scores, hits.texts, strict=True):
            order = np.lexsort((np.arange(60), -row.astype("float32")))[:50]
            np.testing.assert_allclose(scores, row[order], atol=1e-6)
            assert np.allclose(row[ids], row[order], atol=1e-6) and found == [texts[i] for i in ids]
            zeros = [int(i) for i in ids if row[i] == 0]
            assert zeros == sorted(zeros)  # equal scores are in the order of ids
    assert index.nbytes == documents.nnz * 8 + 41 * 4 and len(index) == 60
    assert abs(index.vectors - documents).max() == 0


def test_the_index_encodes_saves_and_loads(embedder, vectors, tmp_path):
    index = search.SparseIndex(embedder, tiny.TEXTS)
    hits = index.search(tiny.TEXTS[2], k=3)
    best = vectors.toarray() @ vectors.toarray()[2]
    np.testing.assert_allclose(hits.scores, np.sort(best)[::-1][:3], rtol=1e-4)
    assert hits.ids.shape == (3,) and hits.texts == [tiny.TEXTS[i] for i in hits.ids]
    index.save(tmp_path / "index")
    again = search.SparseIndex.load(tmp_path / "index", embedder)
    np.testing.assert_array_equal(again.search([tiny.TEXTS[2]], k=3).scores[0], hits.scores)
    again.add(["good card"])
    again.save(tmp_path / "index")
    assert len(search.SparseIndex.load(tmp_path / "index", None)) == len(tiny.TEXTS) + 1
    file = tmp_path / "index" / "sparse_index.npz"
    content = file.read_bytes()
    for damaged in (b"", content[:-200], content.replace(b"good card", b"bad card!")):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"`folder`.*sparse_index\.npz"):
            search.SparseIndex.load(tmp_path / "index", None)
    with pytest.raises(ValueError, match=r"`folder`"):
        search.LateInteractionIndex.load(tmp_path / "index", None)


def test_wrong_vectors_of_an_index_are_errors(embedder, vectors):
    for given, name in (
        ({"embeddings": vectors[:3]}, "embeddings"),
        ({"embeddings": vectors.toarray()}, "embeddings"),
        ({"embeddings": vectors * np.inf}, "embeddings"),
        ({}, "embedder"),
    ):
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"`{name}`"):
            search.SparseIndex(None, tiny.TEXTS, **given)
    index = search.SparseIndex(None, tiny.TEXTS, embeddings=vectors)
    for queries, k, name in ((vectors[:, 1:], 2, "queries"), (vectors, 9, "k"), (vectors[:0], 2, "queries")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            index.search(queries, k)
    with pytest.raises(ValueError, match="`embedder`"):
        index.search("card", 2)


def test_retrieval_scores_it_by_its_own_similarity(embedder, vectors):
    queries, relevant = ["my card", "a loan", "money"], [[0], [2, 3], [3]]
    scores = embedder.similarity(embedder.encode(queries), vectors)
    ids = np.argsort(-scores, axis=1, kind="stable")
    expected = tx.evaluation.retrieval_scores(ids, relevant, ks=(1, 3))
    for model in (embedder, models.Siamese(embedder)):
        found = tx.evaluation.retrieval(model, queries, tiny.TEXTS, relevant, ks=(1, 3), corpus_chunk=3)
        assert {name: found[name] for name in expected} == expected
    with pytest.raises(ValueError, match="`similarity`"):
        tx.evaluation.retrieval(embedder, queries, tiny.TEXTS, relevant, similarity="dot")
    tx.callbacks.EvaluateRetrieval(queries, tiny.TEXTS, relevant).check(models.Siamese(embedder))
    with pytest.raises(ValueError, match="`model`"):
        tx.callbacks.EvaluateSimilarity((["a", "b"], ["b", "c"]), [0.5, 0.1]).check(models.Siamese(embedder))


# === Serving ===


@pytest.mark.parametrize(("most", "chunk"), [pytest.param(None, 4096, marks=pytest.mark.slow), (4, 5)])
def test_an_export_answers_as_python_does(folder, tmp_path, most, chunk):
    model = tiny.sparse(folder, max_active_dims=most, vocabulary_chunk=chunk)  # some chunks, or a single one
    served = tf.saved_model.load(tx.export.saved_model(model, tmp_path / "served")).signatures
    answer = {name: value.numpy() for name, value in served["embed"](text=tf.constant(tiny.TEXTS)).items()}
    for row, terms in enumerate(model.words(tiny.TEXTS, k=None)):
        count = int(answer["counts"][row])
        assert count == len(terms)
        tokens = [tiny.VOCABULARY[int(i)] for i in answer["token_ids"][row, :count]]
        assert sorted(tokens) == sorted(term.token for term in terms)
        np.testing.assert_allclose(answer["weights"][row, :count], [term.weight for term in terms], atol=1e-5)
        assert (answer["token_ids"][row, count:] == -1).all() and not answer["weights"][row, count:].any()
    scores = served["rank"](query=tf.constant(["my card?"]), documents=tf.constant([tiny.TEXTS]))["scores"].numpy()[0]
    ranked = {each.index: each.score for each in model.rank("my card?", tiny.TEXTS)}
    np.testing.assert_allclose(scores, [ranked[i] for i in range(len(tiny.TEXTS))], rtol=1e-4, atol=1e-5)
    pairs = {"text_a": tf.constant(tiny.TEXTS), "text_b": tf.constant(tiny.TEXTS[::-1])}
    vectors = model.encode(tiny.TEXTS)
    expected = np.diag(model.similarity(vectors, vectors[::-1]))
    np.testing.assert_allclose(served["similarity"](**pairs)["similarity"].numpy(), expected, rtol=1e-4, atol=1e-5)
    for refused in ({"weights_dtype": "int8"}, {"explain": True}, {"adapters": {"a": "a.npz"}}):
        with pytest.raises(ValueError, match=f"`{next(iter(refused))}`"):
            tx.export.saved_model(model, tmp_path / "small", **refused)
    for write in (tx.export.onnx, tx.export.litert):
        with pytest.raises(ValueError, match=r"one row of numbers.*saved_model"):
            write(model, tmp_path / "other")


def test_more_tokens_are_further_components(embedder, vectors):
    grown = embedder.with_added_tokens(["iban"])
    found = tiny.outputs(grown, tiny.TEXTS)
    np.testing.assert_allclose(found[:, :-1], vectors.toarray(), atol=1e-5)
    assert grown.decode(tiny.outputs(grown, ["iban"])) and found.shape[1] == len(tiny.VOCABULARY) + 1
