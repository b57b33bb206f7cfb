"""sentence-transformers folders: the reference's numbers, every module, and what is refused.

Reference: sentence-transformers 6.2.0, transformers 5.24.0, torch 2.14.1 (golden/families2/st_*). Modules that no
golden folder has are compared with NumPy.
"""

import json
import math
import re
import shutil

import keras
import numpy as np
import pytest
import tokenizers

import tfxfer as tx
from tfxfer import backbones

FOLDERS = (
    "st_bert_cls_dense_tanh",
    "st_e5",
    "st_e5_passage_only",
    "st_gemma3",
    "st_mpnet_prompt_not_pooled",
    "st_nomic_default_prompt",
    "st_qwen3",
    "st_t5",
)
# The reference's names of the poolings, and ours.
POOLING = {
    "cls": "cls",
    "lasttoken": "last",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."
RNG = np.random.default_rng(5)


def write_json(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def edit_json(file, **changes):
    write_json(file, {**json.loads(file.read_text()), **changes})


def write_tensors(file, **tensors):
    """Writes float32 tensors as a safetensors file; in their names, `__` means a dot."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor, "float32").tobytes()
        header[name.replace("__", ".")] = {
            "dtype": "F32",
            "shape": list(np.shape(tensor)),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(scope="session")
def texts(golden):
    found = json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))
    return found["texts"] if isinstance(found, dict) else found


@pytest.fixture
def folder_of(golden, tmp_path):
    """Copies a golden folder; `st_e5_passage_only` has the weights and tokenizer of `st_e5`."""

    def make(name, changed=None):
        folder = tmp_path / (changed or name)
        shutil.copytree(golden / "families2" / name, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        for file in ("model.safetensors", "tokenizer.json"):
            if not (folder / file).exists():
                shutil.copyfile(golden / "families2" / "st_e5" / file, folder / file)
        return folder

    return make


@pytest.fixture
def make_folder(golden, folder_of):
    """Makes a folder with the golden encoder `bert_one_file`, followed by the given modules, (kind, config) each."""

    def make(*modules, prefix=NEW, **config):
        folder = folder_of("bert_one_file")
        entries = [{"idx": 0, "name": "0", "path": "", "type": f"{prefix}Transformer"}]
        for i, (kind, settings) in enumerate(modules, 1):
            entries.append({"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": prefix + kind})
            write_json(folder / f"{i}_{kind}" / "config.json", settings)
        write_json(folder / "modules.json", entries)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False, **config})
        return folder

    return make


MEAN = ("Pooling", {"embedding_dimension": 32, "pooling_mode": "mean"})


def embedder_of(folder, **arguments):
    return tx.models.TextEmbedder.from_preset(folder, **arguments)


def states_of(embedder, texts):
    """The states of all layers at the real tokens of each text: a list of arrays `(layers, tokens, dim)`."""
    ids = embedder.preprocessor(texts)
    states = np.stack([np.asarray(state) for state in embedder.backbone.hidden_states()(ids)])
    mask = np.asarray(ids["padding_mask"]) == 1
    return [states[:, row, mask[row]] for row in range(len(texts))]


# === The reference's folders ===


def check_ids(embedder, expected, texts):
    """Compares the ids of texts with each prompt, truncated to the folder's limit, with the reference's."""
    prompts = embedder.prompts
    sides = {"encode": embedder.default_prompt_name, "encode_query": "query", "encode_document": "document"}
    for key, name in sides.items():
        ids = embedder.preprocessor([prompts.get(name, "") + text for text in texts])
        rows = zip(
            np.asarray(ids["token_ids"]), np.asarray(ids["padding_mask"]), expected[f"input_ids_{key}"], strict=True
        )
        for row, (found, mask, wanted) in enumerate(rows):
            assert found[mask == 1].tolist() == wanted[wanted >= 0].tolist(), (key, row)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_gives_the_references_numbers(folder_of, texts, name):
    folder = folder_of(name)
    embedder = embedder_of(folder)
    expected = dict(np.load(folder / "expected_st.npz"))
    found = {
        "encode": embedder.encode(texts, batch_size=5),
        "encode_query": embedder.encode_query(texts, 7),
        "encode_document": embedder.encode_document(texts),
        "own_prompt": embedder.encode(texts, prompt="about: "),
        "encode_truncate_dim_16_normalized": embedder.encode(texts, truncate_dim=16, normalize=True),
        **{key: embedder.encode(texts, prompt_name=key[7:]) for key in expected if key.startswith("prompt_")},
    }
    found["similarity"] = embedder.similarity(found["encode_query"], found["encode_document"])
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], atol=2e-5, rtol=0, err_msg=key)
    cut = "encode_truncate_dim_16" + "_normalized" * embedder.normalize  # ours normalizes again if the model normalizes
    np.testing.assert_allclose(embedder.encode(texts, truncate_dim=16), expected[cut], atol=2e-5, rtol=0)
    check_ids(embedder, expected, texts)
    # The reference pads Qwen3 on the left. Padding on the left, an array or a single text give the same numbers.
    embedder.preprocessor.padding_side = "left"
    np.testing.assert_allclose(embedder.encode_query(np.array(texts)), found["encode_query"], atol=4e-6, rtol=0)
    np.testing.assert_allclose(embedder.encode_query(texts[0]), found["encode_query"][0], atol=4e-6, rtol=0)
    assert embedder.encode_query([]).shape == (0, embedder.embedding_dim)


def test_the_poolings_are_the_references_on_either_padding_side_and_without_a_prompt(golden):
    expected = np.load(golden / "families2" / "poolings.npz")
    assert {key.split("/")[1] for key in expected} == set(POOLING)
    for name in ("bert_one_file", "qwen3", "qwen3_left"):
        states = np.load(golden / "families2" / name.removesuffix("_left") / "expected.npz")
        side = name.removeprefix("qwen3").removeprefix("bert_one_file")
        tokens, mask = states[f"last_hidden_state{side}"], states[f"attention_mask{side}"]
        for theirs, mode in POOLING.items():
            pooling = tx.layers.Pooling(mode)
            key = f"{name}/{theirs}"
            np.testing.assert_allclose(pooling(tokens, padding_mask=mask), expected[key], atol=2e-5)
            wanted = expected[f"{key}/without_prompt_3"]
            # If no token is left, the reference gives what the mode computes from nothing; ours gives zeros.
            wanted = np.where(np.isnan(wanted), 0.0, wanted)
            np.testing.assert_allclose(pooling(tokens, padding_mask=mask, prompt_length=3), wanted, atol=2e-5)


def test_a_folder_with_a_passage_prompt_alone_has_no_prompt_for_documents(folder_of):
    embedding = backbones.load(folder_of("st_e5_passage_only"), load_weights=False).embedding
    assert embedding.prompts == {"query": "query: ", "document": "", "passage": "passage: "}


def test_an_embedder_that_was_made_with_a_passage_prompt_has_it_for_documents(folder_of):
    embedder = embedder_of(folder_of("bert_one_file"), prompts={"passage": "it says: ", "other": "x "})
    plain, passage = embedder.encode(["a card"]), embedder.encode(["a card"], prompt_name="passage")
    assert np.abs(plain - passage).max() > 1e-3
    np.testing.assert_array_equal(embedder.encode_document(["a card"]), passage)
    np.testing.assert_array_equal(embedder.encode_query(["a card"]), plain)
    other = embedder.encode_document(["a card"], prompt_name="other")
    np.testing.assert_array_equal(other, embedder.encode(["x a card"]))
    np.testing.assert_array_equal(embedder.encode_document(["a card"], prompt=""), plain)


# === Prompts that are not pooled ===


def test_a_prompt_that_is_not_pooled_leaves_out_its_tokens_and_the_first_special_one(folder_of, texts):
    embedder = embedder_of(folder_of("st_mpnet_prompt_not_pooled"), pooling=("cls", "weighted_mean"), normalize=False)
    prompt = embedder.prompts["query"]
    number = embedder.prompt_length(prompt)
    [alone] = embedder.preprocessor([prompt])["token_ids"].numpy().tolist()
    assert number == len(alone) - 1  # all but the final special token
    assert embedder.prompt_length("") == 0
    for text, found in zip(texts, embedder.encode_query(texts), strict=True):
        [states] = states_of(embedder, [prompt + text])
        weights = np.arange(1, states.shape[1] + 1)[number:, None]
        kept = states[-1, number:]
        expected = np.concatenate([kept[0], (kept * weights).sum(axis=0) / weights.sum()])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_prompt_longer_than_the_sequence_leaves_the_final_special_token(folder_of):
    embedder = embedder_of(folder_of("st_mpnet_prompt_not_pooled"), sequence_length=6, normalize=False)
    prompt = "Represent the question about the money and the card: "
    assert embedder.prompt_length(prompt) == 5
    [states] = states_of(embedder, [prompt + "where"])
    np.testing.assert_allclose(embedder.encode("where", prompt=prompt), states[-1, -1], atol=1e-5)
    embedder.preprocessor.sequence_length = 30  # takes effect without a new model
    assert embedder.prompt_length(prompt) > 5
    [states] = states_of(embedder, [prompt + "where"])
    kept = states[-1, embedder.prompt_length(prompt) :]
    np.testing.assert_allclose(embedder.encode("where", prompt=prompt), kept.mean(axis=0), atol=1e-5)


def test_a_tokenizer_without_special_tokens_loses_all_of_a_text_that_the_prompt_pushes_out(golden, tmp_path):
    folder = golden / "families2" / "openai_gpt"
    embedder = embedder_of(folder, include_prompt=False, pooling="mean", sequence_length=4, normalize=False)
    prompt = "one two three four five six seven"
    assert embedder.prompt_length(prompt) == 4
    np.testing.assert_array_equal(embedder.encode(["a", ""], prompt=prompt), np.zeros((2, 32)))


def test_prompts_that_are_not_pooled_are_served_so(folder_of, texts, tmp_path):
    import tensorflow as tf

    embedder = embedder_of(folder_of("st_mpnet_prompt_not_pooled"), default_prompt_name="document")
    corpus = {"texts": texts[:5]}
    path = tx.export.saved_model(embedder, tmp_path / "served", index=corpus, max_k=5)
    served = tf.saved_model.load(path).signatures
    given = tf.constant(texts)
    query, document = embedder.encode_query(texts), embedder.encode_document(texts)
    for name, expected in (("serving_default", document), ("embed_query", query), ("embed_document", document)):
        np.testing.assert_allclose(served[name](text=given)["embedding"], expected, atol=1e-5, err_msg=name)
    shuffled = np.roll(np.arange(16), 3)
    scores = served["rank"](query=given, documents=tf.gather(given, shuffled))["scores"]
    np.testing.assert_allclose(scores, (query * document[shuffled]).sum(axis=1), atol=1e-5)
    cosines = served["similarity"](text_a=given, text_b=tf.gather(given, shuffled))["similarity"]
    np.testing.assert_allclose(cosines, (document * document[shuffled]).sum(axis=1), atol=1e-5)
    found = served["search"](query=given[:3], k=tf.constant([2, 5, 1]))
    best = np.argsort(-query[:3] @ document[:5].T, axis=1)
    assert found["ids"].numpy()[1].tolist() == best[1].tolist() and found["ids"].numpy()[0, 0] == best[0, 0]


# === Modules ===


def dense_config(inputs, units, activation="Tanh", **settings):
    path = f"torch.nn.modules.{'linear' if activation == 'Identity' else 'activation'}.{activation}"
    return {"in_features": inputs, "out_features": units, "bias": True, "activation_function": path, **settings}


@pytest.fixture
def many(make_folder):
    """A folder with every supported module, and a function that applies them to the states of all layers in NumPy."""
    layer_weights = np.array([0.5, -0.25, 2.0], "float32")
    first, bias, residual = RNG.normal(size=(20, 32)), RNG.normal(size=20), RNG.normal(size=(20, 32))
    second = RNG.normal(size=(20, 20)) / 4
    gamma, beta = RNG.normal(1, 0.3, 20), RNG.normal(size=20)
    folder = make_folder(
        ("WeightedLayerPooling", {"embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 0}),
        MEAN,
        ("Normalize", {}),
        ("Dense", dense_config(32, 20, use_residual=True)),
        ("Dropout", {"dropout": 0.4}),
        ("LayerNorm", {"dimension": 20}),
        ("Dense", dense_config(20, 20, "Sigmoid", bias=False, use_residual=True)),
        ("Normalize", {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}),
    )
    edit_json(folder / "config.json", output_hidden_states=True)
    write_tensors(folder / "1_WeightedLayerPooling" / "model.safetensors", layer_weights=layer_weights)
    write_tensors(
        folder / "4_Dense" / "model.safetensors", linear__weight=first, linear__bias=bias, residual__weight=residual
    )
    write_tensors(folder / "6_LayerNorm" / "model.safetensors", norm__weight=gamma, norm__bias=beta)
    write_tensors(folder / "7_Dense" / "model.safetensors", linear__weight=second)

    def compute(states):
        tokens = np.tensordot(layer_weights, states, axes=1) / layer_weights.sum()
        x = tokens.mean(axis=0)
        x = x / np.linalg.norm(x)
        x = np.tanh(first @ x + bias) + residual @ x
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gamma + beta
        x = 1 / (1 + np.exp(-(second @ x))) + x
        return x / np.linalg.norm(x)

    return folder, compute


def test_every_module_is_computed(many, texts):
    folder, compute = many
    embedder = embedder_of(folder)
    expected = [compute(states) for states in states_of(embedder, texts)]
    np.testing.assert_allclose(embedder.encode(texts), expected, atol=1e-5)
    spec = embedder.embedding_spec()
    assert spec == backbones.load(folder).embedding
    assert [module["class"] for module in spec.modules] == [
        *("Normalize", "Dense", "Dropout", "LayerNorm", "Dense", "Normalize")
    ]
    assert spec.normalize and embedder.normalize and [d["units"] for d in embedder.dense] == [20, 20]
    unscaled = embedder.encode(texts, normalize=False)
    lengths = np.linalg.norm(unscaled, axis=1, keepdims=True)
    assert np.abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(unscaled / lengths, expected, atol=1e-5)


def test_hidden_states_are_those_of_every_layer(golden, texts):
    folder = golden / "families2" / "bert_one_file"
    backbone = backbones.load(folder).backbone
    ids = backbones.load(folder).preprocessor(texts)
    states = [np.asarray(state) for state in backbone.hidden_states()(ids)]
    real = np.asarray(ids["padding_mask"]) == 1
    np.testing.assert_array_equal(states[2][real], np.asarray(backbone(ids))[real])
    # A backbone with only the first layer.
    first = backbones.Backbone("bert", **{**backbone.arguments, "num_layers": 1})
    first.set_weights(backbone.get_weights()[: len(first.weights)])
    np.testing.assert_allclose(states[1][real], np.asarray(first(ids))[real], atol=1e-6)
    below, _ = backbone.split(0)
    np.testing.assert_allclose(states[0][real], np.asarray(below(ids)), atol=1e-6)


def test_every_module_is_saved_and_loaded(many, texts, tmp_path):
    folder, _ = many
    embedder = embedder_of(folder, similarity_fn_name="manhattan", prompts={"query": "q "}, include_prompt=False)
    expected = embedder.encode_query(texts)
    embedder.save(tmp_path / "model.keras")
    embedder.save_to_preset(tmp_path / "preset")
    for again in (keras.saving.load_model(tmp_path / "model.keras"), embedder_of(tmp_path / "preset")):
        np.testing.assert_array_equal(again.encode_query(texts), expected)
        assert again.embedding_spec() == embedder.embedding_spec()
        assert (again.similarity_fn_name, again.include_prompt, again.layer_start) == ("manhattan", False, 0)
    again = embedder_of(tmp_path / "preset", normalize=False, similarity_fn_name="dot")
    np.testing.assert_allclose(again.encode_query(texts), embedder.encode_query(texts, normalize=False), atol=1e-6)
    assert again.similarity_fn_name == "dot"


def test_every_module_is_exported(many, texts, tmp_path):
    import tensorflow as tf

    embedder = embedder_of(many[0])
    path = tx.export.saved_model(embedder, tmp_path / "served")
    found = tf.saved_model.load(path).signatures["embed"](text=tf.constant(texts))["embedding"]
    np.testing.assert_allclose(found, embedder.encode(texts), atol=1e-5)


def test_modules_train_and_freeze_as_the_head_and_dropout_is_off_but_in_training(many, texts):
    embedder = embedder_of(many[0])
    head = embedder.layer_groups()["head"]
    names = {weight.path.split("/")[-2] for layer in head for weight in layer.weights}
    assert names == {"layer_pooling", "dense_0", "dense_0_residual", "layer_norm_0", "dense_1"}
    counted = [id(w) for layers in embedder.layer_groups().values() for layer in layers for w in layer.weights]
    assert sorted(counted) == sorted({id(w) for w in embedder.weights})
    x = embedder.preprocessor(texts[:4])
    np.testing.assert_array_equal(embedder(x, training=False), embedder(x))
    assert np.abs(np.asarray(embedder(x, training=True)) - np.asarray(embedder(x))).max() > 1e-3

    model = tx.models.Siamese(embedder)
    model.compile(keras.optimizers.SGD(0.5), loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    pairs = (texts[:4], texts[4:8])
    before = [w.numpy() for w in embedder.weights]
    model.set_trainable(["head"])
    embedder.backbone.frozen_dropout = False
    model.fit(pairs, [0.0, 1.0, 2.0, 3.0], verbose=0, seed=1)
    moved = {id(w) for w, old in zip(embedder.weights, before, strict=True) if not np.array_equal(w.numpy(), old)}
    assert moved == {id(w) for layer in head for w in layer.weights}

    embedder.set_trainable(False)
    # Frozen dropout is off. In training, attention does not round lengths up, which changes the last bits.
    np.testing.assert_allclose(embedder(x, training=True), embedder(x), atol=1e-6)


def test_a_frozen_backbone_is_cached_below_a_mean_over_its_layers(many):
    model = tx.models.Siamese(embedder_of(many[0]))
    model.set_trainable(["head"])
    model.compile(keras.optimizers.SGD(0.5), loss=tx.losses.CoSENTLoss())
    rows = tx.data.pairs({"a": ["my card", "a loan"], "b": ["the bank", "a"], "y": [0.0, 1.0]}, ("a", "b"), target="y")
    batches = tx.data.batches(rows, model.preprocessor, 2, columns="separate", shuffle=False)
    short = tx.freezing.AboveFrozen(model)
    found = np.concatenate([short(x).numpy() for x, *_ in short.cached(batches)])
    np.testing.assert_allclose(found, np.concatenate([model(x).numpy() for x, *_ in batches]), atol=1e-6)


def test_without_weights_the_modules_are_random(many):
    folder, _ = many
    spec = backbones.load(folder, load_weights=False).embedding
    assert spec.layer_weights is None and spec.layer_start == 0
    assert [m[name] for m in spec.modules for name in ("kernel", "bias", "gamma") if name in m] == [None] * 5
    embedder = embedder_of(folder, load_weights=False)
    assert embedder.embedding_spec().layer_weights.tolist() == [1.0, 1.0, 1.0]
    assert embedder.embedding_dim == 20


ORACLES = {
    "CELU": lambda x: np.where(x > 0, x, np.expm1(x)),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(x)),
    "GELU": lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "Hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "LogSigmoid": lambda x: -np.log1p(np.exp(-x)),
    "LogSoftmax": lambda x: x - np.log(np.exp(x).sum(axis=-1, keepdims=True)),
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Tanhshrink": lambda x: x - np.tanh(x),
}


def test_activations_are_torchs(make_folder):
    x = np.linspace(-8, 8, 32).astype("float32")
    folder = make_folder(MEAN, *(("Dense", dense_config(32, 32, name)) for name in ORACLES))
    for number in range(len(ORACLES)):
        # The kernel is zero, so for any input the activation is applied to the bias.
        file = folder / f"{number + 2}_Dense" / "model.safetensors"
        write_tensors(file, linear__weight=np.zeros((32, 32)), linear__bias=x)
    embedder = embedder_of(folder)
    outputs = [embedder.get_layer(f"dense_{number}").output for number in range(len(ORACLES))]
    found = keras.Model(embedder.input, outputs)(embedder.preprocessor(["a card"]))
    for (name, oracle), vectors in zip(ORACLES.items(), found, strict=True):
        np.testing.assert_allclose(vectors, oracle(x)[None], atol=1e-5, rtol=1e-5, err_msg=name)
    settings = embedder.get_config()["modules"]
    assert json.loads(json.dumps(settings)) == settings
    # The error for another activation lists the supported ones, all of which were tested above.
    edit_json(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.PReLU")
    with pytest.raises(ValueError, match="`activation_function`") as caught:
        backbones.load(folder)
    assert set(re.search(r"torch's ([\w, ]+)\.", str(caught.value))[1].split(", ")) == set(ORACLES)


def test_truncate_dim_of_a_folder_cuts_and_does_not_scale_again(make_folder, texts):
    folder = make_folder(MEAN, ("Normalize", {}))
    whole = embedder_of(folder).encode(texts)
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 12})
    embedder = embedder_of(folder)
    assert embedder.embedding_dim == 12
    np.testing.assert_allclose(embedder.encode(texts), whole[:, :12], atol=1e-6)
    scaled = embedder.encode(texts, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1.0, atol=1e-6)
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 40})
    with pytest.raises(ValueError, match="at most 32"):
        embedder_of(folder)


def test_pytorch_model_bin_holds_the_weights_of_modules_too(golden, make_folder, texts):
    folder = make_folder(MEAN, ("LayerNorm", {"dimension": 32}))
    with pytest.raises(ValueError, match=r"pytorch_model.bin.*2_LayerNorm"):
        embedder_of(folder)
    write_tensors(folder / "2_LayerNorm" / "model.safetensors", norm__weight=np.ones(32), norm__bias=np.zeros(32))
    vectors = embedder_of(folder).encode(texts)
    np.testing.assert_allclose(vectors.mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(axis=1), 1.0, atol=1e-4)


# === The constructor ===


def test_the_short_way_and_the_modules_are_one_model(folder_of, texts):
    folder = folder_of("st_gemma3")
    loaded = backbones.load(folder)
    spec = loaded.embedding
    parts = (loaded.backbone, loaded.preprocessor)
    short = tx.models.TextEmbedder(*parts, dense=[{k: v for k, v in d.items() if k != "class"} for d in spec.dense])
    long = tx.models.TextEmbedder(*parts, modules=spec.modules)
    np.testing.assert_array_equal(short.encode(texts), long.encode(texts))
    assert short.get_config()["modules"] == long.get_config()["modules"]
    np.testing.assert_allclose(long.encode(texts), np.load(folder / "expected_st.npz")["encode"], atol=2e-5)
    assert tx.models.TextEmbedder(*parts).embedding_spec().modules == [{"class": "Normalize"}]
    assert tx.models.TextEmbedder(*parts, normalize=False).embedding_spec().modules == []
    plain = embedder_of(folder, dense=[], normalize=False)
    assert plain.embedding_spec().modules == [] and plain.embedding_dim == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": [], "normalize": True}, "`normalize`"),
        ({"modules": [], "dense": [{"units": 3}]}, "`dense`"),
        ({"modules": ["Normalize"]}, "`modules`"),
        ({"modules": [{"class": "LSTM"}]}, "`class`.*'LSTM'"),
        ({"modules": [{"class": "Dense"}]}, r"`modules`.*Missing: \['units'\]"),
        ({"modules": [{"class": "Dropout", "p": 0.1}]}, "`modules`.*keys out of rate"),
        ({"modules": [{"class": "Dropout", "rate": 1.5}]}, "`rate`"),
        ({"modules": [{"class": "Truncate", "units": 33}]}, "at most 32"),
        ({"modules": [{"class": "Dense", "units": 3, "kernel": np.zeros((31, 3))}]}, r"`kernel` has shape \(32, 3\)"),
        ({"layer_start": 3}, "at most 2"),
        ({"layer_start": -1}, "`layer_start`"),
        ({"layer_start": 1, "layer_weights": [1.0]}, "each of the 2 layers"),
        ({"similarity_fn_name": "maxsim"}, "`similarity_fn_name`"),
    ],
)
def test_a_constructor_with_bad_arguments_says_which(golden, arguments, message):
    loaded = backbones.load(golden / "families2" / "bert_one_file", load_weights=False)
    with pytest.raises(ValueError, match=message):
        tx.models.TextEmbedder(loaded.backbone, loaded.preprocessor, **arguments)


def test_a_config_from_before_there_were_modules_is_read(golden):
    loaded = backbones.load(golden / "families2" / "bert_one_file", load_weights=False)
    dense = {"units": 3, "activation": "tanh", "use_bias": True}
    config = tx.models.TextEmbedder(loaded.backbone, loaded.preprocessor, dense=[dense]).get_config()
    for name in ("modules", "layer_start", "include_prompt", "similarity_fn_name"):
        config.pop(name)
    again = tx.models.TextEmbedder.from_config({**config, "dense": [dense], "normalize": True})
    assert [module["class"] for module in again.embedding_spec().modules] == ["Dense", "Normalize"]
    assert again.normalize and again.dense[0]["activation"] == "tanh" and again.similarity_fn_name == "cosine"


def test_specs_compare_by_value():
    def make(value):
        return backbones.EmbeddingSpec(dense=[{"units": 2, "kernel": np.full((2, 2), value)}], normalize=True)

    assert make(1.0) == make(1.0) and make(1.0) != make(2.0)
    assert make(1.0) != backbones.EmbeddingSpec(dense=[{"units": 2}], normalize=True)
    assert backbones.EmbeddingSpec(pooling=["mean"]) == backbones.EmbeddingSpec()
    assert backbones.EmbeddingSpec() != "mean"


# === Similarity ===


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_the_models_own(golden, name):
    loaded = backbones.load(golden / "families2" / "bert_one_file", load_weights=False)
    embedder = tx.models.TextEmbedder(loaded.backbone, similarity_fn_name=name)
    a, b = RNG.normal(size=(3, 5)).astype("float32"), RNG.normal(size=(4, 5)).astype("float32")
    b[0] = a[0]
    a[2] = 0
    oracle = {
        "cosine": lambda x, y: x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12),
        "dot": lambda x, y: x @ y,
        "euclidean": lambda x, y: -np.sqrt(((x - y) ** 2).sum()),
        "manhattan": lambda x, y: -np.abs(x - y).sum(),
    }[name]
    expected = [[oracle(x, y) for y in b] for x in a]
    found = embedder.similarity(a, b)
    assert found.dtype == np.float32 and found.shape == (3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(embedder.similarity(a[0], b.tolist()), expected[:1], atol=1e-5)
    assert embedder.similarity(a[:0], b).shape == (0, 4)
    for bad in (b[:, :4], np.full((1, 5), np.nan), b[None]):
        with pytest.raises(ValueError, match="`b`"):
            embedder.similarity(a, bad)


# === Lower-casing ===


@pytest.mark.parametrize(
    "name", ["families/bert_cased", "families/roberta", "families2/gemma3", "families/xlm_roberta"]
)
def test_do_lower_case_is_a_normalizer_before_the_tokenizers_own(golden, tmp_path, texts, name):
    folder = tmp_path / "cased"
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(golden / name / file, folder / file)
    write_json(
        folder / "modules.json",
        [
            {"path": "", "type": f"{OLD}Transformer"},
            {"path": "1_Pooling", "type": f"{OLD}Pooling"},
        ],
    )
    write_json(folder / "1_Pooling" / "config.json", {})
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True, "max_seq_length": 30})
    # What sentence-transformers 6.2 does.
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    own = reference.normalizer
    steps = [] if own is None else list(own) if isinstance(own, tokenizers.normalizers.Sequence) else [own]
    reference.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Lowercase(), *steps])
    reference.no_padding()
    given = [*texts, "  SPACE Before", "And After \t\n", " ΟΔΥΣΣΕΥΣ Σ", "İstanbul ǅ ẞ", "\u00a0NBSP\u3000", "   "]
    loaded = backbones.load(folder, load_weights=False)
    expected = [encoding.ids for encoding in reference.encode_batch(given, add_special_tokens=False)]
    assert loaded.preprocessor.tokenizer(given).to_list() == expected
    # The saved tokenizer lower-cases by itself, and nothing is done twice.
    loaded.preprocessor.tokenizer.to_folder(folder)
    again = backbones.load(folder, load_weights=False)
    assert again.preprocessor.tokenizer.spec == loaded.preprocessor.tokenizer.spec
    assert again.preprocessor.tokenizer(given).to_list() == expected


# === Configs ===


@pytest.mark.parametrize("prefix", [OLD, NEW])
def test_older_configs_are_read(make_folder, prefix):
    flags = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    folder = make_folder(
        ("WeightedLayerPooling", {"word_embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 1}),
        ("Pooling", flags),
        ("Dense", {"in_features": 64, "out_features": 8}),
        prefix=prefix,
        config_args={"output_hidden_states": True},
    )
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    write_tensors(folder / "1_WeightedLayerPooling" / "model.safetensors", layer_weights=[1.0, 3.0])
    write_tensors(folder / "3_Dense" / "model.safetensors", linear__weight=np.ones((8, 64)), linear__bias=np.ones(8))
    embedder = embedder_of(folder)
    found = embedder.embedding_spec()
    assert found.pooling == ("cls", "mean") and found.include_prompt
    assert (found.layer_start, found.layer_weights.tolist()) == (1, [1.0, 3.0])
    assert found.dense[0]["activation"] == "tanh"  # the reference's own default
    assert embedder.embedding_dim == 8 and embedder.preprocessor.sequence_length == 40
    # Nothing is lower-cased beyond what the tokenizer itself does.
    assert embedder.preprocessor.tokenizer.spec == tx.preprocessing.Tokenizer.from_folder(folder).spec


def test_the_longest_sequence_comes_from_either_config(make_folder):
    folder = make_folder(MEAN)
    assert backbones.load(folder, load_weights=False).preprocessor.sequence_length == 40
    edit_json(folder / "sentence_bert_config.json", max_seq_length=None)
    edit_json(folder / "tokenizer_config.json", model_max_length=33)
    assert backbones.load(folder, load_weights=False).preprocessor.sequence_length == 33
    edit_json(folder / "sentence_bert_config.json", tokenizer_args={"model_max_length": 21, "padding_side": "left"})
    assert backbones.load(folder, load_weights=False).preprocessor.sequence_length == 21
    edit_json(folder / "sentence_bert_config.json", tokenizer_args={})
    edit_json(folder / "tokenizer_config.json", model_max_length=10**30)
    assert backbones.load(folder, load_weights=False).preprocessor.sequence_length == 64
    (folder / "sentence_bert_config.json").unlink()
    assert backbones.load(folder, load_weights=False, sequence_length=9).preprocessor.sequence_length == 9


WEIGHTED = ("WeightedLayerPooling", {"embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 1})
LAYER_NORM = ("LayerNorm", {"dimension": 32})


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        *[
            ([MEAN, (name, {})], rf"`type`.*{name}.*modules\.json")
            for name in ("Router", "Asym", "CLIPModel", "BoW", "CNN", "LSTM", "WordEmbeddings", "WordWeights", "Mine")
        ],
        ([], "Transformer, Pooling"),
        ([MEAN, MEAN], "Transformer, Pooling.*modules.json"),
        ([MEAN, WEIGHTED], "Transformer, Pooling"),
        ([("Normalize", {}), MEAN], "Transformer, Pooling"),
        ([WEIGHTED], "Transformer, Pooling"),
        ([WEIGHTED, MEAN], r"`output_hidden_states`.*config\.json.*1_WeightedLayerPooling"),
        ([("Pooling", {"pooling_mode": "attention"})], r"`pooling_mode`.*1_Pooling/config\.json"),
        ([("Pooling", {"pooling_mode_first_tokens": True})], "pooling_mode_first_tokens"),
        ([("Pooling", {"include_prompt": "no"})], r"`include_prompt`.*1_Pooling/config\.json"),
        ([MEAN, ("Dense", {"in_features": 32})], r"`out_features`.*2_Dense/config\.json"),
        ([MEAN, ("Dense", dense_config(32, 8, "PReLU"))], r"`activation_function`.*PReLU.*2_Dense/config\.json"),
        ([MEAN, ("Dense", {**dense_config(32, 8), "activation_function": "mine.Act"})], "`activation_function`"),
        ([MEAN, ("Dense", dense_config(32, 8, module_input_name="token_embeddings"))], r"`module_input_name`.*2_Dense"),
        ([MEAN, ("Dense", dense_config(32, 8))], "2_Dense"),
        ([MEAN, ("LayerNorm", {})], r"`dimension`.*2_LayerNorm/config\.json"),
        ([MEAN, LAYER_NORM], "2_LayerNorm"),
        ([MEAN, ("Dropout", {"dropout": 1.5})], r"`dropout`.*2_Dropout/config\.json"),
        ([MEAN, ("Normalize", {"module_output_name": "x"})], r"`module_output_name`.*2_Normalize/config\.json"),
    ],
)
def test_a_module_that_is_not_computed_is_an_error_that_names_file_and_key(make_folder, modules, message):
    with pytest.raises(ValueError, match=message):
        backbones.load(make_folder(*modules))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "sentence_bert_config.json",
            {"model_args": {"rope_scaling": {}}},
            r"`model_args`.*rope_scaling.*_bert_config",
        ),
        ("sentence_bert_config.json", {"config_args": {"is_decoder": True}}, "`config_args`"),
        ("sentence_bert_config.json", {"max_seq_length": 2.5}, r"`max_seq_length`.*sentence_bert_config\.json"),
        ("sentence_bert_config.json", {"query_length": 32}, r"`query_length`.*sentence_bert_config\.json"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, r"`model_type`.*transformers\.json"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, r"`similarity_fn_name`.*\.json"),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, r"`prompts`.*config_sentence"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, r"`default_prompt_name`.*config_sentence"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, r"`truncate_dim`.*config_sentence"),
    ],
)
def test_a_config_that_asks_for_something_else_is_an_error_that_names_file_and_key(make_folder, file, changes, message):
    folder = make_folder(MEAN)
    write_json(folder / file, changes)
    with pytest.raises(ValueError, match=message):
        backbones.load(folder)


def test_weights_that_do_not_fit_their_config_are_an_error(make_folder):
    folder = make_folder(WEIGHTED, MEAN, LAYER_NORM)
    edit_json(folder / "config.json", output_hidden_states=True)
    write_tensors(folder / "3_LayerNorm" / "model.safetensors", norm__weight=np.ones(32), norm__bias=np.ones(32))
    for weights in ({"layer_weights": [1.0]}, {"other": [1.0, 1.0]}, {"layer_weights": [1.0, 1.0], "x": [1.0]}):
        write_tensors(folder / "1_WeightedLayerPooling" / "model.safetensors", **weights)
        with pytest.raises(ValueError, match="1_WeightedLayerPooling"):
            backbones.load(folder)
    write_tensors(folder / "1_WeightedLayerPooling" / "model.safetensors", layer_weights=[1.0, 1.0])
    edit_json(folder / "1_WeightedLayerPooling" / "config.json", layer_start=3)
    with pytest.raises(ValueError, match=r"`layer_start`.*1_WeightedLayerPooling/config\.json"):
        backbones.load(folder)


def test_folders_outside_and_missing_files_are_errors(make_folder):
    folder = make_folder(MEAN)
    for path in ("../other", "/etc", "a/../../b", "..\\b", 3):
        write_json(folder / "modules.json", [{"path": path, "type": f"{NEW}Transformer"}])
        with pytest.raises(ValueError, match=r"`path`.*modules\.json"):
            backbones.load(folder)
    write_json(folder / "modules.json", {"path": ""})
    with pytest.raises(ValueError, match="a list of modules"):
        backbones.load(folder)
    entries = [{"path": "", "type": f"{NEW}Transformer"}, {"path": "1_Pooling", "type": f"{NEW}Pooling"}]
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", [])
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json"):
        backbones.load(folder)
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json"):
        backbones.load(folder)


def test_prompts_without_any_text_stay_as_they_are(make_folder):
    folder = make_folder(MEAN)
    for prompts in ({}, {"query": "", "document": ""}):
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": None})
        embedding = backbones.load(folder, load_weights=False).embedding
        assert (embedding.prompts, embedding.similarity_fn_name) == (prompts, "cosine")
    assert json.loads((folder / "modules.json").read_text())[0]["path"] == ""
