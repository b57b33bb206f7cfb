"""Every signature of every kind of model, called in a process that imports only TensorFlow and TF Text."""

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import export, models, search

# Private: searches with tied vectors and with each kind of index. Through exports, each would take seconds and need
# texts instead of vectors.
from tfxfer.export import _index

TEXTS = [*tiny.TEXTS, "cards", "ÜBER naïve card", "\x00 money", "[MASK] card [SEP]", "card " * 100, "שלום card"]
OTHERS = TEXTS[3:] + TEXTS[:3]
CORPUS = [*tiny.TEXTS, "where is the loan", "the money was found", "my cards"]
PROMPTS = {"query": "where is ", "document": "the "}
READER = """
    import pickle, sys
    import tensorflow as tf
    import tensorflow_text

    assert not any(name.split(".")[0] in ("tfxfer", "keras_hub") for name in sys.modules)
    loaded, found = {}, {}
    for key, (path, signature, inputs) in pickle.load(open(sys.argv[1], "rb")).items():
        if path not in loaded:
            loaded[path] = tf.saved_model.load(path).signatures
        outputs = loaded[path][signature](**{k: tf.constant(v) for k, v in inputs.items()})
        found[key] = {name: value.numpy() for name, value in outputs.items()}
    pickle.dump(found, open(sys.argv[2], "wb"))
"""


def example(**texts):
    """A serialized `tf.Example`."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])) for name, text in texts.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def cosines(a, b):
    return np.sum(a * b, axis=-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def trained(folder):
    """One model of each kind."""
    parts = tiny.backbone(), tiny.preprocessor(folder)
    embedder = models.TextEmbedder(*parts, prompts=PROMPTS, default_prompt_name="document", normalize=False)
    towers = models.TextEmbedder(*parts)
    return {
        "embedder": embedder,
        "tags": models.TextClassifier(*parts, labels=["card", "loan", "other"], multi_label=True),
        "relevance": models.TextClassifier(*parts, labels=["no", "yes"]),
        "numbers": models.TextRegressor(*parts, num_outputs=2),
        "score": models.TextRegressor(*parts),
        "entailment": models.SiameseClassifier(towers, labels=["same", "other"], features=("u", "v", "u*v")),
    }


@pytest.fixture(scope="module")
def index(trained):
    return search.SemanticIndex(trained["embedder"], CORPUS)


@pytest.fixture(scope="module")
def paths(trained, index, folder):
    """The exports."""
    arguments = {"embedder": {"index": index, "max_k": 4}, "relevance": {"pairs": True}, "score": {"pairs": True}}
    return {
        name: export.saved_model(model, folder / f"served_{name}", **arguments.get(name, {}))
        for name, model in trained.items()
    }


@pytest.fixture(scope="module")
def answers(paths, folder):
    """The answers of the exports, from a separate process."""
    pairs = {"text_a": TEXTS, "text_b": OTHERS}
    examples = {"inputs": [example(text=text) for text in TEXTS]}
    pair_examples = {"inputs": [example(text_a=a, text_b=b) for a, b in zip(TEXTS, OTHERS, strict=True)]}
    each = [TEXTS[i : i + 3] for i in range(0, 12, 3)]
    requests = {
        ("embedder", "serving_default"): {"text": TEXTS},
        ("embedder", "embed"): {"text": TEXTS},
        ("embedder", "embed_query"): {"text": TEXTS},
        ("embedder", "similarity"): pairs,
        ("embedder", "rank"): {"query": TEXTS, "documents": OTHERS},
        ("embedder", "rank", "lists"): {"query": TEXTS[:4], "documents": each},
        ("embedder", "search"): {"query": TEXTS[:6], "k": [3, 0, 4, 1, 99, -1]},
        ("tags", "serving_default"): {"text": TEXTS},
        ("tags", "classify_examples"): examples,
        ("relevance", "classify"): pairs,
        ("relevance", "classify_examples"): pair_examples,
        ("relevance", "rank"): {"query": TEXTS[:4], "documents": each},
        ("numbers", "serving_default"): {"text": TEXTS},
        ("score", "regress"): pairs,
        ("score", "regress_examples"): pair_examples,
        ("score", "rank"): {"query": TEXTS, "documents": OTHERS},
        ("entailment", "serving_default"): pairs,
        ("entailment", "embed"): {"text": TEXTS},
    }
    requests = {key: (paths[key[0]], key[1], inputs) for key, inputs in requests.items()}
    (folder / "requests").write_bytes(pickle.dumps(requests))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    program = [sys.executable, "-c", textwrap.dedent(READER), folder / "requests", folder / "answers"]
    subprocess.run(program, check=True, cwd=folder, env=environment, capture_output=True)
    return pickle.loads((folder / "answers").read_bytes())


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def texts_of(array):
    return np.vectorize(bytes.decode)(array).tolist()


# === Answers ===


def test_embed_equals_encode_with_each_prompt(trained, answers):
    embedder = trained["embedder"]
    for name in ("serving_default", "embed"):
        close(answers["embedder", name]["embedding"], embedder.encode(TEXTS))
    close(answers["embedder", "embed_query"]["embedding"], embedder.encode(TEXTS, prompt_name="query"))


def test_similarity_is_the_cosine_of_the_vectors(trained, answers):
    a, b = (trained["embedder"].encode(texts) for texts in (TEXTS, OTHERS))
    close(answers["embedder", "similarity"]["similarity"], cosines(a, b))


def test_an_embedder_ranks_by_the_cosine_behind_its_two_prompts(trained, answers):
    embedder = trained["embedder"]
    queries = embedder.encode(TEXTS, prompt_name="query")
    close(answers["embedder", "rank"]["scores"], cosines(queries, embedder.encode(OTHERS, prompt_name="document")))
    documents = embedder.encode(TEXTS[:12], prompt_name="document").reshape(4, 3, -1)
    close(answers["embedder", "rank", "lists"]["scores"], cosines(queries[:4, None], documents))


def test_search_finds_what_the_index_finds_and_fills_up_behind_k(index, answers):
    found = answers["embedder", "search"]
    hits = index.search(TEXTS[:6], k=4)
    for row, k in enumerate([3, 0, 4, 1, 4, 0]):
        assert found["ids"][row].tolist() == [*hits.ids[row][:k], *[-1] * (4 - k)]
        assert texts_of(found["texts"][row]) == [*hits.texts[row][:k], *[""] * (4 - k)]
        close(found["scores"][row], [*hits.scores[row][:k], *[0.0] * (4 - k)])


def test_classify_gives_probabilities_and_ranks_the_labels(trained, answers):
    model, found = trained["tags"], answers["tags", "serving_default"]
    expected = model.classify(TEXTS).probabilities
    close(found["probabilities"], expected)
    close(found["scores"], -np.sort(-expected, axis=1))
    order = np.argsort(-found["probabilities"], axis=1, kind="stable")
    assert texts_of(found["labels"]) == np.array(model.labels)[order].tolist()


@pytest.mark.parametrize(("name", "signature"), [("relevance", "classify"), ("entailment", "serving_default")])
def test_classify_takes_pairs_where_the_model_does(trained, answers, name, signature):
    expected = trained[name].classify((TEXTS, OTHERS))
    close(answers[name, signature]["probabilities"], expected.probabilities)
    assert texts_of(answers[name, signature]["labels"][:, 0]) == expected.labels


def test_the_classify_api_gives_the_same_as_classify(answers):
    for name, own in (("tags", "serving_default"), ("relevance", "classify")):
        found = answers[name, "classify_examples"]
        assert set(found) == {"classes", "scores"}, "the API takes these outputs and no others"
        close(found["scores"], answers[name, own]["scores"])
        assert np.array_equal(found["classes"], answers[name, own]["labels"])


def test_regress_gives_the_numbers(trained, answers):
    close(answers["numbers", "serving_default"]["outputs"], trained["numbers"].predict(TEXTS, verbose=0))
    expected = trained["score"].predict((TEXTS, OTHERS), verbose=0)
    for signature in ("regress", "regress_examples"):
        close(answers["score", signature]["outputs"], expected)


def test_a_cross_encoder_ranks_by_its_number_or_its_second_label(trained, answers):
    close(answers["score", "rank"]["scores"], trained["score"].predict((TEXTS, OTHERS), verbose=0)[:, 0])
    queries = [text for text in TEXTS[:4] for _ in range(3)]
    expected = trained["relevance"].classify((queries, TEXTS[:12])).probabilities[:, 1].reshape(4, 3)
    close(answers["relevance", "rank"]["scores"], expected)


def test_a_siamese_classifier_has_its_embedders_signatures(trained, answers):
    close(answers["entailment", "embed"]["embedding"], trained["entailment"].embedder.encode(TEXTS))


# === What a server requires ===


def test_the_signatures_of_each_kind_and_their_shapes(paths):
    def described(name):
        found = export.describe(paths[name])["signatures"]
        return {key: (set(value["inputs"]), set(value["outputs"])) for key, value in found.items()}

    embedding, pairs, classes = ({"text"}, {"embedding"}), {"text_a", "text_b"}, {"labels", "scores", "probabilities"}
    similar = {"similarity": (pairs, {"similarity"}), "rank": ({"query", "documents"}, {"scores"})}
    api = {"classify_examples": ({"inputs"}, {"classes", "scores"})}
    assert described("embedder") == {
        **dict.fromkeys(("serving_default", "embed", "embed_query", "embed_document"), embedding),
        **similar,
        "search": ({"query", "k"}, {"ids", "texts", "scores"}),
    }
    assert described("tags") == {**dict.fromkeys(("serving_default", "classify"), ({"text"}, classes)), **api}
    assert described("numbers") == dict.fromkeys(("serving_default", "regress"), ({"text"}, {"outputs"}))
    assert described("score") == {
        **dict.fromkeys(("serving_default", "regress"), (pairs, {"outputs"})),
        "regress_examples": ({"inputs"}, {"outputs"}),
        "rank": similar["rank"],
    }
    of_pairs = {**dict.fromkeys(("serving_default", "classify"), (pairs, classes)), **api}
    assert described("relevance") == {**of_pairs, "rank": similar["rank"]}
    assert described("entailment") == {**of_pairs, "embed": embedding, **similar}


def test_every_tensor_has_the_batch_in_front_and_a_dtype_that_rest_knows(paths):
    for path in paths.values():
        for name, signature in export.describe(path)["signatures"].items():
            for kind in ("inputs", "outputs"):
                for tensor, spec in signature[kind].items():
                    # The documents of `rank` may have one dimension or two.
                    assert (spec["shape"] is None and name == "rank") or spec["shape"][0] is None, (name, tensor)
                    assert spec["dtype"] in ("string", "float32", "int32", "int64"), (name, tensor)
                    assert not tensor.endswith("_bytes"), "the server would encode it"


def test_classify_and_regress_carry_the_names_of_their_apis(paths, sessions):
    def methods(name):
        _, graph = sessions(paths[name])
        return {key: value.method_name for key, value in graph.signature_def.items() if "init_op" not in key}

    predict = "tensorflow/serving/predict"
    assert methods("tags") == {
        "serving_default": predict,
        "classify": predict,
        "classify_examples": "tensorflow/serving/classify",
    }
    assert methods("score")["regress_examples"] == "tensorflow/serving/regress"


def test_an_empty_batch_is_answered(paths):
    none = tf.constant([], tf.string)
    served = tf.saved_model.load(paths["embedder"]).signatures
    assert served["embed"](text=none)["embedding"].shape == (0, 8)
    assert served["similarity"](text_a=none, text_b=none)["similarity"].shape == (0,)
    assert served["rank"](query=none, documents=none)["scores"].shape == (0,)
    assert served["rank"](query=tf.constant(["a"]), documents=tf.zeros([1, 0], tf.string))["scores"].shape == (1, 0)
    found = served["search"](query=none, k=tf.constant([], tf.int32))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (0, 4))


def run(session, graph, name, **inputs):
    """Runs a signature as the server does, without Python's checks of shapes."""
    from tensorflow.core.protobuf import config_pb2

    signature = graph.signature_def[name]
    options = config_pb2.CallableOptions(
        feed=[signature.inputs[key].name for key in inputs], fetch=[t.name for t in signature.outputs.values()]
    )
    values = [np.array(value, np.int32 if key == "k" else object) for key, value in inputs.items()]
    return dict(zip(signature.outputs, session._make_callable_from_options(options)(*values), strict=True))


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "said"),
    [
        ("embedder", "embed", {"text": [["a"], ["b"]]}, r"\[2,1\] is not compatible"),
        ("embedder", "embed", {"text": [["a", "b"]]}, r"\[1,2\] is not compatible"),
        ("embedder", "similarity", {"text_a": ["a", "b"], "text_b": ["a"]}, "`text_a` and `text_b` must have one"),
        ("embedder", "rank", {"query": ["a"], "documents": ["a", "b"]}, "`query` and `documents` must have one"),
        ("embedder", "search", {"query": ["a", "b"], "k": [1]}, "`query` and `k` must have one"),
        ("embedder", "search", {"query": ["a"], "k": [[1]]}, r"\[1,1\] is not compatible"),
        ("relevance", "classify", {"text_a": ["a"], "text_b": ["a", "b"]}, "`text_a` and `text_b` must have one"),
        ("relevance", "classify_examples", {"inputs": [example(text_a="a")]}, "text_b.*required"),
        ("relevance", "classify_examples", {"inputs": [b"no example"]}, "Could not parse"),
    ],
)
def test_a_request_of_the_wrong_shape_is_an_error_in_the_graph(paths, sessions, model, signature, inputs, said):
    session, graph = sessions(paths[model])
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        run(session, graph, signature, **inputs)
    right = {key: ["a"] if key != "k" else [1] for key in inputs}
    if signature != "classify_examples":
        assert run(session, graph, signature, **right), "the session goes on"


@pytest.fixture(scope="module")
def sessions():
    """Loads each export once, as the server does."""
    loaded = {}

    def load(path):
        if path not in loaded:
            with tf.Graph().as_default():
                session = tf.compat.v1.Session()
                loaded[path] = session, tf.compat.v1.saved_model.load(session, ["serve"], path)
        return loaded[path]

    yield load
    for session, _ in loaded.values():
        session.close()


def test_rows_do_not_depend_on_their_neighbours(paths, sessions):
    session, graph = sessions(paths["embedder"])
    alone = run(session, graph, "embed", text=["card"])["embedding"]
    many = run(session, graph, "embed", text=["card", b"\xff\xfe card", "money " * 50, ""])["embedding"]
    np.testing.assert_allclose(many[:1], alone, atol=1e-6)
    found = run(session, graph, "search", query=["card", "loan"], k=[4, 2])
    one = run(session, graph, "search", query=["card"], k=[4])
    assert found["ids"][:1].tolist() == one["ids"].tolist() and found["ids"].shape == (2, 4)


def test_a_batch_is_padded_to_its_own_longest_row(trained):
    # The forward pass gets ids as wide as the longest text, not as wide as the preprocessor allows.
    preprocessor = trained["embedder"].preprocessor
    assert preprocessor(tf.constant(["card", "my card"]))["token_ids"].shape == (2, 4)


# === Arguments ===


def test_what_a_model_has_no_use_for_is_an_error(trained, index, folder):
    for name, arguments, said in (
        ("embedder", {"pairs": True}, "`pairs`"),
        ("tags", {"pairs": 1}, "`pairs`"),
        ("tags", {"index": index}, "`index`.*TextClassifier"),
        ("embedder", {"index": {"texts": ["a"], "vectors": []}}, "`index`.*keys"),
        ("embedder", {"index": 3}, "`index`.*SemanticIndex"),
        ("embedder", {"index": folder}, "`index`.*SemanticIndex.save"),
        ("embedder", {"index": {"texts": ["a"], "ids": [1, 2]}}, "1 `ids`"),
        ("embedder", {"index": {"texts": ["a"], "embeddings": [[1.0]]}}, r"\(1, 8\)"),
        ("embedder", {"index": {"texts": ["a"], "similarity": "manhattan"}}, "`index`"),
        ("embedder", {"index": index, "max_k": 0}, "`max_k`"),
        ("tags", {"weights_dtype": "float16"}, "`weights_dtype`"),
        ("tags", {"max_batch_size": 0}, "`max_batch_size`"),
        ("tags", {"examples": "one text"}, "`examples`"),
        ("relevance", {"pairs": True, "examples": ["a"]}, "`examples`"),
        ("tags", {"metadata": {"metrics": {"loss": float("nan")}}}, "`metadata`"),
        ("tags", {"metadata": "MIT"}, "`metadata`.*dict"),
    ):
        with pytest.raises(ValueError, match=said):
            export.saved_model(trained[name], folder / "none", **arguments)
    assert not list((folder / "none").glob("[0-9]*"))


def test_prompts_whose_signatures_would_clash_are_an_error(tmp_path):
    embedder = tiny.embedder(tmp_path, prompts={"a b": "x ", "a_b": "z "})
    with pytest.raises(ValueError, match="prompts whose names"):
        export.saved_model(embedder, tmp_path / "e")


# === The index ===


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_search_in_the_graph_is_exact_and_puts_the_earlier_row_first(similarity):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50, 6)).astype("float32"), rng.normal(size=(7, 6)).astype("float32")
    vectors[30], queries[0] = vectors[10], vectors[10] + 1e-4  # two rows that tie, near a query
    names = [f"row {i}" for i in range(50)]
    made = _index.Index(names, names, vectors, similarity, None, max_k=99)
    found = made.search(tf.constant(queries), tf.constant([99] * 7))
    scores = queries.astype("float64") @ vectors.T
    if similarity == "cosine":
        scores /= np.linalg.norm(queries, axis=1, keepdims=True) * np.linalg.norm(vectors, axis=1)
    elif similarity == "euclidean":
        scores = -np.linalg.norm(queries[:, None].astype("float64") - vectors[None], axis=-1)
    order = np.argsort(-scores, axis=1, kind="stable")
    assert texts_of(found["ids"]) == np.array(names)[order].tolist()
    close(found["scores"], np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_an_index_of_codes_is_searched_as_the_index_searches_it(trained, folder, similarity):
    embedder = trained["embedder"]
    index = search.SemanticIndex(embedder, CORPUS, precision="int8", query_prompt="how much ", similarity=similarity)
    index.save(folder / "index")
    made = _index.make(folder / "index", embedder, 5)
    assert made.query_prompt == "how much " and made.precision == "int8"
    vectors = embedder.encode(TEXTS, prompt="how much ")
    found = made.search(tf.constant(vectors), tf.constant([5] * len(TEXTS)))
    hits = index.search(vectors, k=5)
    close(found["scores"], hits.scores)
    assert np.mean(found["ids"].numpy() == hits.ids) > 0.9, "rounding may part what nearly ties"


def test_a_corpus_without_vectors_is_encoded_behind_the_prompt_for_documents(trained):
    embedder = trained["embedder"]
    made = _index.make({"texts": CORPUS, "ids": range(100, 111)}, embedder, 2)
    own = embedder.encode(CORPUS, prompt_name="document")
    found = made.search(tf.constant(own), tf.constant([1] * 11))
    assert found["ids"][:, 0].numpy().tolist() == list(range(100, 111)) and made.query_prompt == PROMPTS["query"]
    close(found["scores"][:, 0], np.ones(11))


def test_an_index_that_cannot_be_searched_in_the_graph_is_an_error(trained, folder):
    embedder = trained["embedder"]
    vectors = embedder.encode(CORPUS, prompt_name="document")
    for arguments, said in (
        ({"precision": "binary"}, "float32 or int8"),
        ({"precision": "int8", "similarity": "euclidean"}, "int8' and a cosine"),
        ({"similarity": "manhattan"}, "similarity"),
    ):
        with pytest.raises(ValueError, match=said):
            _index.make(search.SemanticIndex(embedder, CORPUS, embeddings=vectors, **arguments), embedder, 3)
    other = search.SemanticIndex(embedder, CORPUS, embeddings=-vectors)
    with pytest.raises(ValueError, match=r"cosine -1\.0.*Encode the texts again"):
        _index.make(other, embedder, 3)
