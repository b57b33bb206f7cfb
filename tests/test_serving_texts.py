"""Hostile texts give an answer or a clean error, never a crash, and do not affect their neighbors in the batch."""

import base64
import concurrent.futures
import functools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tiny

grpc = pytest.importorskip("grpc", reason="no grpcio")
pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="no tensorflow-serving-api")

import clients  # noqa: E402
import operations  # noqa: E402

from tfxfer import export, models  # noqa: E402

# These tests send megabytes of text through a server and through every kind of tokenizer.
pytestmark = pytest.mark.slow

NEIGHBOURS = ["Where is my card?", "good day", "How much is a loan, and when?"]
HOSTILE = {
    "bytes that are no UTF-8": [
        b"\xff\xfe card",
        b"card \xc3",
        b"\xc0\xaf\xe2\x82 card",  # overlong, truncated
        b"\xf5\x90\x80\x80",  # beyond Unicode
        bytes(range(256)),
        b"\xff" * 5_000_000,
    ],
    "lone surrogates": [b"\xed\xa0\x80 card", b"\xed\xbf\xbf\xed\xa0\x80", b"card\xed\xa0\xbd"],
    "NUL": [b"\x00", b"card\x00loan", b"\x00" * 1000, b"\x00" * 5_000_000],
    "5 MB": [
        b"card " * 1_000_000,
        b"x" * 5_000_000,
        b" " * 5_000_000,
        "卡é\u0301".encode() * 700_000,
        b"." * 5_000_000,
    ],
    "words of one character": [b"a " * 100_000, "卡 ".encode() * 100_000, b". " * 100_000],
    "nothing": [b"", b" ", b"\t\r\n", "\u200b\u00a0\ufeff".encode()],
    "right to left, combining, joined": [
        "שלום card \u202eevil\u202c".encode(),
        "مرحبا بالعالم".encode(),
        b"e" + "\u0301".encode() * 10_000,
        "\u0e49".encode() * 1000,
        "👩\u200d👩\u200d👧\u200d👦 🇩🇪".encode() * 100,
        "ＡＢＣ ﬁ ① \u1e9e İı".encode(),
    ],
    "special tokens": [
        b"[CLS] [SEP] [PAD] [MASK] [UNK]",
        b"<s></s><pad><mask><unk> <|endoftext|>",
        b"[SEP]" * 1000,
        "\u2581<s> ##card \u0120card".encode(),
    ],
    "code": [b"'; DROP TABLE cards; --", b"{{7*7}} ${jndi:ldap://x} %s%n %00", b"../../etc/passwd\n\r\n\r\n"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def mixed(texts):
    """Returns the texts with a neighbor before each and after the last, and the indices of the neighbors."""
    batch = []
    for i, text in enumerate(texts):
        batch += [NEIGHBOURS[i % 3].encode(), text]
    return [*batch, NEIGHBOURS[0].encode()], [*range(0, 2 * len(texts), 2), 2 * len(texts)]


def check_neighbours(run, texts):
    """Checks that a batch gives each text an answer, and the neighbors the same answer as without the texts."""
    alone = run([text.encode() for text in NEIGHBOURS])
    batch, places = mixed(texts)
    found = run(batch)
    assert len(found) == len(batch) and np.isfinite(found).all()
    expected = [alone[i % 3] for i in range(len(texts))] + [alone[0]]
    np.testing.assert_allclose(found[places], expected, atol=1e-6)
    return found


# === In one process, for each kind of tokenizer ===


@pytest.fixture(scope="module")
def exported(folder, request):
    """Makes an embedder and its export, once for each kind of tokenizer or weights."""

    @functools.cache
    def make(kind):
        name = {"byte-level BPE": "roberta", "SentencePiece": "xlm_roberta"}.get(kind)
        if name is None:
            embedder = tiny.embedder(folder)
        else:
            families = request.getfixturevalue("golden") / "families"
            embedder = models.TextEmbedder.from_preset(families / name, sequence_length=32)
        dtype = kind if kind in ("bfloat16", "int8") else None
        return embedder, export.saved_model(embedder, folder / kind, weights_dtype=dtype)

    return make


@pytest.fixture(scope="module", params=["WordPiece", "byte-level BPE", "SentencePiece"])
def embedder_and_path(request, exported):
    return exported(request.param)


@pytest.fixture(scope="module")
def embed(embedder_and_path):
    served = tf.saved_model.load(embedder_and_path[1])
    function = served.signatures["embed"]

    def run(texts):
        return function(text=tf.constant(texts, tf.string))["embedding"].numpy()

    run.keeps = served  # keeps its tables alive
    return run


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_leave_their_neighbours_unharmed(embed, kind):
    check_neighbours(embed, HOSTILE[kind])


def test_what_is_a_string_is_embedded_as_the_model_does(embedder_and_path, embed):
    embedder, _ = embedder_and_path
    texts = [text for texts in HOSTILE.values() for text in texts if len(text) < 30_000 and is_utf8(text)]
    assert len(texts) >= 20
    found = embedder.encode([text.decode() for text in texts])
    np.testing.assert_allclose(embed(texts), found, atol=1e-5)
    assert embed([]).shape == (0, embedder.embedding_dim)


def is_utf8(text):
    try:
        return text.decode() is not None
    except UnicodeDecodeError:
        return False


def test_a_long_text_is_read_as_far_as_the_model_reads(embedder_and_path, embed):
    embedder, path = embedder_and_path
    limit = export.describe(path)["text_bytes"]
    assert limit == 32_768
    text = "where is my card, and how much was the loan? " * 5_000
    np.testing.assert_allclose(embed([text.encode()]), embedder.encode([text]), atol=1e-5)
    # Bytes after the limit are ignored.
    head = b" " * (limit - 5) + b"card "
    np.testing.assert_array_equal(embed([head + b"loan"]), embed([head]))
    if "BPE" not in path:  # with BPE, spaces are tokens
        assert np.abs(embed([head[4:] + b"loan"]) - embed([head])).max() > 0.01


@pytest.mark.parametrize("kinds", [("WordPiece", "bfloat16", "int8"), ("byte-level BPE", "SentencePiece")])
def test_graphs_hold_only_operations_that_a_server_has(exported, kinds):
    operations.check([exported(kind)[1] for kind in kinds])


# === Through the server ===


@pytest.fixture(scope="module")
def served(folder):
    """Serves a model with signatures for vectors, classes and examples; yields the client."""
    made = models.SiameseClassifier(tiny.embedder(folder), labels=["same", "other"])
    base = pathlib.Path(export.saved_model(made, folder / "hostile")).parent
    flags = "--enable_batching", f"--batching_parameters_file={base}/batching_parameters.txt"
    with clients.server_process("--model_name=hostile", f"--model_base_path={base}", *flags, model="hostile") as client:
        yield client


def b64(text):
    return {"b64": base64.b64encode(text).decode()}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_server_answers_hostile_texts_and_goes_on(served, kind):
    def by_grpc(texts):
        return served.predict("embed", text=texts)["embedding"]

    def by_rest(texts):
        body = {"signature_name": "embed", "instances": [b64(text) for text in texts]}
        status, found = served.rest(body)
        assert status == 200, found
        return np.array(found["predictions"])

    def as_they_are(texts):
        strings = [json.dumps(text.decode("utf-8", "surrogateescape"), ensure_ascii=False) for text in texts]
        body = f'{{"signature_name": "embed", "inputs": [{", ".join(strings)}]}}'
        status, found = served.rest(body.encode("utf-8", "surrogateescape"))
        assert status == 200, found
        return np.array(found["outputs"])

    found = [check_neighbours(run, HOSTILE[kind]) for run in (by_grpc, by_rest, as_they_are)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)
    assert served.is_alive()


def test_requests_merged_with_hostile_ones_get_their_own_answer(served):
    alone = served.predict("embed", text=NEIGHBOURS)["embedding"]
    hostile = [text for texts in HOSTILE.values() for text in texts]
    before = served.runs()

    def ask(i):
        if i % 2:
            served.predict("embed", text=[hostile[i // 2]])
            return None
        return served.predict("embed", text=[NEIGHBOURS[i // 2 % 3]])["embedding"][0]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(2 * len(hostile))))[::2]
    np.testing.assert_allclose(found, [alone[i % 3] for i in range(len(hostile))], atol=1e-6)
    assert served.runs() - before < 2 * len(hostile), "some were merged"


def test_requests_that_are_wrong_are_clean_errors(served):
    good = {"text_a": "card", "text_b": "loan"}

    def ask(body, what=":predict"):
        status, found = served.rest(body, what)
        assert status == 400 and list(found) == ["error"], (status, found)
        assert served.is_alive()
        return found["error"]

    assert "surrogate" in ask(b'{"signature_name": "embed", "instances": ["card \\ud800"]}')
    assert "No values" in ask({"signature_name": "embed", "instances": []})
    for wrong in ([["card"]], [["card"], ["loan"]], 3, [None], [True], ["card", ["loan"]], {"a": "b"}):
        ask({"signature_name": "embed", "inputs": wrong})
    ask({"signature_name": "similarity", "inputs": {"text_a": ["a", "b"], "text_b": ["a"]}})
    ask({"signature_name": "similarity", "instances": [{"text_a": "a"}]})
    examples = {"signature_name": "classify_examples"}
    for wrong in ({"text_a": "x"}, {**good, "text_b": 3}, {**good, "text_b": ["x", "y"]}, {**good, "text_b": []}, {}):
        ask({**examples, "examples": [wrong]}, ":classify")
    ask({"signature_name": "classify_examples", "instances": [b64(b"no example")]})
    status, found = served.rest({**examples, "examples": [good]}, ":classify")
    assert status == 200 and len(found["results"][0]) == 2


# === The real model ===


@pytest.mark.slow
def test_the_real_model_is_served_as_it_is_and_stands_hostile_texts(minilm_folder, golden, folder):
    texts = json.loads((golden / "minilm_texts.json").read_text(encoding="utf-8"))["texts"]
    embedder = models.TextEmbedder.from_preset(minilm_folder)
    path = export.saved_model(embedder, folder / "minilm")
    operations.check([path])
    base = pathlib.Path(path).parent
    flags = "--enable_batching", f"--batching_parameters_file={base}/batching_parameters.txt"
    with clients.server_process("--model_name=minilm", f"--model_base_path={base}", *flags, model="minilm") as client:
        found = client.predict("embed", text=texts)["embedding"]
        np.testing.assert_allclose(found, embedder.encode(texts), atol=1e-5)
        assert np.abs(found - np.load(golden / "minilm_embeddings.npy")).max() < 2e-6
        for kind in HOSTILE.values():
            check_neighbours(lambda texts: client.predict("embed", text=texts)["embedding"], kind)
        assert "tfxfer" not in client.imported()
