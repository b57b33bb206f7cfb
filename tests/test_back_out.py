"""Models written for sentence-transformers, transformers and PEFT, and read back; model cards; upload to the hub.

test_back_out_reference.py tests how the other libraries read these files.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny
import yaml

import tfxfer as tx
from tfxfer.backbones.families import FAMILIES

FOLDERS = (
    *(
        f"families/{name}"
        for name in "albert bert_cased deberta_v3 distil_bert electra gpt2 roberta xlm_roberta".split()
    ),
    *(f"families2/{name}" for name in "bert_unigram eurobert gemma3 gte llama_both_ways modernbert mpnet".split()),
    *(f"families2/{name}" for name in "nomic_bert openai_gpt qwen3 t5 t5_gated".split()),
)
SENTENCE_FOLDERS = (
    "st_bert_cls_dense_tanh",
    "st_e5",
    "st_gemma3",
    "st_mpnet_prompt_not_pooled",
    "st_nomic_default_prompt",
    "st_qwen3",
    "st_t5",
)
# Config entries that mean the same in another wording, or that no encoder here depends on.
OTHER_WORDS = {
    "pos_att_type": ("p2c|c2p", ["p2c", "c2p"]),
    "hidden_activation": ("gelu_new", "gelu_pytorch_tanh"),
    "type_vocab_size": (1, 2),  # RoBERTa's single segment vector is added to the positions
    "n_inner": (128, None),
}
# Encoder families that have blocks.
BLOCKS = [name for name in FAMILIES if name not in ("static", "separable_conv")]
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 32, "max_sequence_length": 32}


def randomize(model, seed=0):
    """Changes a model's weights at random so that every part matters."""
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def backbone_of(family, **arguments):
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "vocabulary_size": len(tiny.VOCABULARY), **arguments}
    return randomize(tx.backbones.Backbone(family, **sizes))


def embedder_of(folder, family="bert", **arguments):
    backbone = backbone_of(family)
    preprocessor = tiny.preprocessor(folder, segment_ids=backbone.has_segment_ids)
    return randomize(tx.models.TextEmbedder(backbone, preprocessor, **arguments), 1)


def read_json(file):
    return json.loads(file.read_text(encoding="utf-8"))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# === Encoders ===


@pytest.mark.parametrize("name", FOLDERS)
def test_a_written_encoder_is_read_to_the_bit_with_its_config_and_tokenizer(golden, tmp_path, name):
    found = tx.backbones.load(golden / name, sequence_length=40)
    tx.models.TextEmbedder(found.backbone, found.preprocessor).save_to_preset(tmp_path, format="huggingface")
    again = tx.backbones.load(tmp_path)
    for weight, expected in zip(again.backbone.weights, found.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    assert again.backbone.arguments == found.backbone.arguments
    assert again.preprocessor.sequence_length == 40
    assert again.preprocessor.tokenizer.spec == found.preprocessor.tokenizer.spec
    # Compare with the files that the reference wrote for the same encoder.
    expected, written = read_json(golden / name / "config.json"), read_json(tmp_path / "config.json")
    for key, value in written.items():
        if key in expected and not key.endswith("token_id"):
            assert value == expected[key] or (value, expected[key]) == OTHER_WORDS[key], key
    own, reference = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (tmp_path, golden / name))
    assert not set(own) - set(reference)
    assert all("pooler" in missing for missing in set(reference) - set(own))


@pytest.mark.parametrize("family", BLOCKS)
def test_every_family_has_a_way_back(tmp_path, family):
    backbone = backbone_of(family)
    preprocessor = tiny.preprocessor(tmp_path, segment_ids=backbone.has_segment_ids)
    tx.models.TextEmbedder(backbone, preprocessor).save_to_preset(tmp_path / "out", format="huggingface")
    again = tx.backbones.load(tmp_path / "out").backbone
    for weight, expected in zip(again.weights, backbone.weights, strict=True):
        # Gemma's files store the scales of its norms minus one.
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=0, atol=1e-7 if "gemma" in family else 0)
    kept = {name for name in backbone.arguments if "dropout" not in name or name in FAMILIES[family].config}
    assert {name: again.arguments[name] for name in kept} == {name: backbone.arguments[name] for name in kept}
    config = read_json(tmp_path / "out" / "config.json")
    assert config["architectures"] == [FAMILIES[family].architecture] and config["dtype"] == "float32"
    names = read_json(tmp_path / "out" / "tokenizer_config.json")["model_input_names"]
    assert ("token_type_ids" in names) == backbone.has_segment_ids
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_may_be_half_as_large(tmp_path, dtype):
    embedder = embedder_of(tmp_path, dense=[{"units": 4}])
    embedder.save_to_preset(tmp_path / "half", format="sentence-transformers", dtype=dtype)
    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        assert {value.dtype for value in safetensors.numpy.load_file(tmp_path / "half" / file).values()} == {
            np.dtype(kind)
        }
    assert read_json(tmp_path / "half" / "config.json")["dtype"] == dtype
    again = tx.models.TextEmbedder.from_preset(tmp_path / "half")
    for weight, expected in zip(again.weights, embedder.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy().astype(kind).astype("float32"))


def test_a_value_beyond_a_dtype_is_an_error(tmp_path):
    embedder = embedder_of(tmp_path)
    embedder.backbone.token_embedding.embeddings.assign(keras.ops.full((len(tiny.VOCABULARY), 8), 1e5))
    with pytest.raises(ValueError, match=r"room for the values of embeddings.word_embeddings.*bfloat16"):
        embedder.save_to_preset(tmp_path / "out", format="huggingface", dtype="float16")
    assert not (tmp_path / "out").exists()
    embedder.save_to_preset(tmp_path / "out", format="huggingface", dtype="bfloat16")


def test_adapters_are_merged_and_a_model_in_bfloat16_loses_nothing(tmp_path):
    embedder = embedder_of(tmp_path)
    tx.freezing.add_lora(embedder, rank=2, alpha=3)
    randomize(embedder, 3)
    embedder.save_to_preset(tmp_path / "merged", format="sentence-transformers")
    np.testing.assert_allclose(
        tx.models.TextEmbedder.from_preset(tmp_path / "merged").encode(tiny.TEXTS),
        embedder.encode(tiny.TEXTS),
        atol=1e-6,
    )
    assert embedder.backbone.lora is not None
    small = tiny.embedder(tmp_path, dtype="bfloat16")
    small.save_to_preset(tmp_path / "small", format="huggingface")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "small", dtype="bfloat16", pooling="mean", normalize=True)
    np.testing.assert_array_equal(again.encode(tiny.TEXTS), small.encode(tiny.TEXTS))


def test_a_quantized_model_has_no_way_back(tmp_path):
    embedder = embedder_of(tmp_path)
    embedder.backbone.parts.groups[0][0].feed_forward.intermediate.quantize("int8")
    with pytest.raises(ValueError, match="quantized to int8"):
        embedder.save_to_preset(tmp_path / "out", format="huggingface")


# === Embedders ===


@pytest.mark.parametrize("name", SENTENCE_FOLDERS)
def test_a_written_embedder_is_the_one_that_was_read(golden, tmp_path, name):
    embedder = tx.models.TextEmbedder.from_preset(golden / "families2" / name)
    embedder.save_to_preset(tmp_path / name, format="sentence-transformers")
    again = tx.models.TextEmbedder.from_preset(tmp_path / name)
    assert again.embedding_spec() == embedder.embedding_spec()
    assert again.preprocessor.tokenizer.spec == embedder.preprocessor.tokenizer.spec
    for weight, value in zip(again.weights, embedder.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value.numpy())
    if name == "st_mpnet_prompt_not_pooled":
        texts = read_json(golden / "families2" / "texts.json")["texts"][:3]
        np.testing.assert_array_equal(again.encode_query(texts), embedder.encode_query(texts))
    expected = read_json(golden / "families2" / name / "config_sentence_transformers.json")
    written = read_json(tmp_path / name / "config_sentence_transformers.json")
    for key in ("model_type", "default_prompt_name", "similarity_fn_name"):
        assert written[key] == expected[key]
    kinds = [
        [entry["type"].rpartition(".")[2] for entry in read_json(folder / "modules.json")]
        for folder in (tmp_path / name, golden / "families2" / name)
    ]
    assert kinds[0] == kinds[1]


def test_every_module_has_a_way_back(tmp_path):
    modules = [
        {"class": "Dropout", "rate": 0.3},
        {"class": "Dense", "units": 16, "activation": "tanh"},
        {"class": "Dense", "units": 16, "use_residual": True, "use_bias": False},
        {"class": "LayerNorm"},
        {
            "class": "Dense",
            "units": 6,
            "use_residual": True,
            "activation": {"name": "leaky_relu", "negative_slope": 0.01},
        },
        {"class": "Truncate", "units": 5},
        {"class": "Normalize"},
    ]
    prompts = {"query": "find: ", "document": "", "odd": "| \n"}
    made = {"pooling": ("max", "cls"), "modules": modules, "layer_start": 1, "prompts": prompts}
    embedder = embedder_of(tmp_path, **made, default_prompt_name="odd", similarity_fn_name="euclidean")
    embedder.save_to_preset(tmp_path / "out", format="sentence-transformers")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "out")
    np.testing.assert_array_equal(again.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS))
    spec = again.embedding_spec()
    # In sentence-transformers' format, truncation is a dense module of zeros and ones.
    assert [module["class"] for module in spec.modules][5] == "Dense"
    assert (spec.prompts, spec.pooling, spec.default_prompt_name) == (prompts, ("max", "cls"), "odd")
    assert (spec.layer_start, spec.similarity_fn_name) == (1, "euclidean")


def test_a_module_that_sentence_transformers_lacks_is_an_error(tmp_path):
    embedder = embedder_of(tmp_path, modules=[{"class": "LayerNorm", "epsilon": 1e-3}])
    with pytest.raises(ValueError, match=r"`epsilon`. Expected 1e-05"):
        embedder.save_to_preset(tmp_path / "out", format="sentence-transformers")
    embedder = embedder_of(tmp_path, dense=[{"units": 3, "activation": "exponential"}])
    with pytest.raises(ValueError, match=r"`activation`. Expected one that torch has"):
        embedder.save_to_preset(tmp_path / "out", format="sentence-transformers")


STATIC = pathlib.Path(__file__).parent / "golden" / "static"


def test_a_static_embedding_is_written_as_its_module(tmp_path):
    embedder = tx.models.TextEmbedder.from_preset(STATIC)
    embedder.save_to_preset(tmp_path / "out", format="sentence-transformers")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "out")
    assert again.embedding_spec() == embedder.embedding_spec()
    np.testing.assert_array_equal(again.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS))
    assert read_json(tmp_path / "out" / "modules.json")[0]["type"].endswith("StaticEmbedding")
    with pytest.raises(ValueError, match="'sentence-transformers' for the family 'static'"):
        embedder.save_to_preset(tmp_path / "other", format="huggingface")
    embedder.preprocessor.drop_unknown_tokens = True  # as in Model2Vec, but not in sentence-transformers
    with pytest.raises(ValueError, match=r"`drop_unknown_tokens`. Expected False"):
        embedder.save_to_preset(tmp_path / "other", format="sentence-transformers")
    other = embedder_of(tmp_path)
    other.preprocessor.add_special_tokens = False
    with pytest.raises(ValueError, match=r"`add_special_tokens`. Expected True"):
        other.save_to_preset(tmp_path / "other", format="huggingface")


def test_towers_are_written_as_their_embedder(tmp_path):
    embedder = embedder_of(tmp_path)
    tx.models.Siamese(embedder, decoder="cosine").save_to_preset(tmp_path / "towers", format="sentence-transformers")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "towers")
    np.testing.assert_array_equal(again.encode(tiny.TEXTS), embedder.encode(tiny.TEXTS))
    with pytest.raises(ValueError, match=r"'tfxfer' for a `SiameseClassifier`.*TextEmbedder"):
        tx.models.SiameseClassifier(embedder, labels=["a", "b"]).save_to_preset(tmp_path / "x", format="huggingface")


# === Classifiers ===


def pairs():
    return tiny.TEXTS, tiny.TEXTS[1:] + tiny.TEXTS[:1]


def with_a_reference_head(folder, family):
    """A classifier with the head of its family's class in transformers; the error message spells out that head."""
    backbone = backbone_of(family)
    preprocessor = tiny.preprocessor(folder, segment_ids=backbone.has_segment_ids)
    labels = ["card", "loan", "other"]
    plain = tx.models.TextClassifier(backbone, preprocessor, labels=labels)
    with pytest.raises(ValueError, match=r"head=layers.Head\(3") as error:
        plain.save_to_preset(folder / "plain", format="huggingface")
    pooling, head = re.search(r"pooling=(.+), head=(layers\.Head\(.+?\))\. ", str(error.value)).groups()
    made = {"pooling": eval(pooling, {"layers": tx.layers}), "head": eval(head, {"layers": tx.layers})}
    return randomize(tx.models.TextClassifier(backbone, preprocessor, labels=labels, **made), 2)


CLASSIFIERS = [name for name in BLOCKS if FAMILIES[name].head({}) is not None]


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifier_of_every_family_is_written_as_the_reference_has_it(tmp_path, family):
    model = with_a_reference_head(tmp_path, family)
    model.save_to_preset(tmp_path / "huggingface", format="huggingface")
    again = tx.models.TextClassifier.from_preset(tmp_path / "huggingface")
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=0, atol=1e-7 if "gemma" in family else 0)
    ids = {name: keras.ops.ones((1, 3), "int32") for name in model.input}
    np.testing.assert_allclose(again(ids), model(ids), atol=1e-5)
    assert again.labels == model.labels and not again.multi_label
    config = read_json(tmp_path / "huggingface" / "config.json")
    assert config["architectures"] == [FAMILIES[family].architecture.replace("Model", "ForSequenceClassification")]
    assert config["id2label"] == {"0": "card", "1": "loan", "2": "other"}
    prefix = FAMILIES[family].prefixes[-1]
    tensors = safetensors.numpy.load_file(tmp_path / "huggingface" / "model.safetensors")
    assert prefix + FAMILIES[family].anchor in tensors


@pytest.mark.parametrize(
    "head", ["linear", "mlp", tx.layers.Head(3, (7, 5), "tanh", norm_epsilon=1e-5, use_bias=False)]
)
def test_any_pooling_and_head_is_a_cross_encoder_of_modules(tmp_path, head):
    pooling = "mean" if head == "linear" else ("max", "cls")
    made = {"labels": ["a", "b", "c"], "multi_label": True, "pooling": pooling, "head": head, "dropout": 0.25}
    model = randomize(tx.models.TextClassifier(backbone_of("bert"), tiny.preprocessor(tmp_path), **made))
    with pytest.raises(ValueError, match=r"BertForSequenceClassification has another head.*'sentence-transformers'"):
        model.save_to_preset(tmp_path / "out", format="huggingface")
    model.save_to_preset(tmp_path / "out", format="sentence-transformers")
    again = tx.models.TextClassifier.from_preset(tmp_path / "out")
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    assert (again.labels, again.multi_label, again.pooling) == (model.labels, True, model.pooling)
    assert (again.head.dropout, again.head.hidden_dims) == (model.head.dropout, model.head.hidden_dims)
    np.testing.assert_allclose(tiny.outputs(again, pairs()), tiny.outputs(model, pairs()), atol=1e-6)
    dense = sorted((tmp_path / "out").glob("*_Dense"))[-1]
    assert read_json(dense / "config.json")["module_output_name"] == "scores"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("2_Dropout/config.json", {"dropout": 2}, "a number from 0 to 1"),
        ("3_Dense/config.json", {"use_residual": True}, "no use_residual"),
        ("3_Dense/config.json", {"module_output_name": "scores"}, "'sentence_embedding'"),
        ("5_Dense/config.json", {"module_output_name": "sentence_embedding"}, "'scores'"),
        (
            "5_Dense/config.json",
            {"activation_function": "torch.nn.modules.activation.Tanh"},
            "no activation of the output",
        ),
        ("config.json", {"id2label": {"0": "a"}}, "3 labels, one for each output"),
        ("1_Pooling/config.json", {"include_prompt": False}, "no default prompt"),
    ],
)
def test_cross_encoders_of_other_modules_are_errors(tmp_path, file, changes, message):
    made = {"labels": ["a", "b", "c"], "head": "mlp"}
    model = tx.models.TextClassifier(backbone_of("bert"), tiny.preprocessor(tmp_path), **made)
    model.save_to_preset(tmp_path / "out", format="sentence-transformers")
    file = tmp_path / "out" / file
    file.write_text(json.dumps({**read_json(file), **changes}))
    with pytest.raises(ValueError, match=message):
        tx.models.TextClassifier.from_preset(tmp_path / "out")


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("head", ["linear", "bert"])
def test_a_score_keeps_its_activation(tmp_path, head, activation):
    made = {"pooling": "cls", "head": tx.layers.Head(1, (8,), "tanh", hidden_dropout=0.0)} if head == "bert" else {}
    preprocessor = tiny.preprocessor(tmp_path)
    model = tx.models.TextRegressor(backbone_of("bert"), preprocessor, score_activation=activation, **made)
    randomize(model)
    for format in ("huggingface", "sentence-transformers")[head == "linear" :]:
        model.save_to_preset(tmp_path / format, format=format)
        again = tx.models.TextRegressor.from_preset(tmp_path / format)
        for weight, expected in zip(again.weights, model.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected.numpy())
        assert (again.score_activation, again.num_outputs) == (activation, 1)
        assert read_json(tmp_path / format / "config.json")["problem_type"] == "regression"


def test_a_classifier_that_the_reference_reads_otherwise_is_an_error(tmp_path):
    backbone, preprocessor = backbone_of("gpt2"), tiny.preprocessor(tmp_path, segment_ids=False)
    spec = preprocessor.tokenizer.spec
    spec.special["pad"] = spec.special["sep"]  # as in Qwen3's tokenizer: the end token is also the padding token
    head = {"pooling": "last", "head": tx.layers.Head(2, use_bias=False)}
    model = tx.models.TextClassifier(backbone, preprocessor, labels=["a", "b"], **head)
    with pytest.raises(ValueError, match="skips the padding token to find the last token"):
        model.save_to_preset(tmp_path / "out", format="huggingface")
    own = tx.models.TextClassifier(backbone, preprocessor, labels=["a", "b"], head=keras.layers.Dense(2))
    for format in ("huggingface", "sentence-transformers"):
        with pytest.raises(ValueError, match=r"another head, which would be pooling='last', head=layers.Head"):
            own.save_to_preset(tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_a_task_without_such_a_form_says_so(tmp_path):
    class Own(tx.models.TextTask):
        def __init__(self, backbone, preprocessor):
            super().__init__(backbone.input, backbone.output, backbone=backbone, preprocessor=preprocessor, top=[])

    model = Own(backbone_of("bert"), tiny.preprocessor(tmp_path))
    with pytest.raises(ValueError, match=r"'tfxfer' for a `Own`.*make a `TextEmbedder`"):
        model.save_to_preset(tmp_path / "out", format="sentence-transformers")


# === Folders ===


def test_a_folder_of_another_format_and_wrong_arguments_are_errors(tmp_path):
    embedder = embedder_of(tmp_path)
    embedder.save_to_preset(tmp_path / "own")
    for format in ("huggingface", "sentence-transformers"):
        with pytest.raises(ValueError, match=f"a model of the format '{format}'.*tfxfer.json"):
            embedder.save_to_preset(tmp_path / "own", format=format)
    embedder.save_to_preset(tmp_path / "st", format="sentence-transformers")
    with pytest.raises(ValueError, match=r"It contains modules.json"):
        embedder.save_to_preset(tmp_path / "st", format="huggingface")
    embedder.save_to_preset(tmp_path / "st", format="sentence-transformers")
    for wrong, message in (
        ({"format": "onnx"}, "one of 'tfxfer', 'sentence-transformers', 'huggingface'"),
        ({"format": "huggingface", "dtype": "int8"}, "one of 'float32', 'bfloat16', 'float16'"),
        ({"dtype": "float16"}, "keeps the model's own dtypes"),
        ({"preset_dir": "gs://bucket/model", "format": "huggingface"}, "gcloud storage"),
        ({"metadata": {"licence": "mit"}}, "one of 'name', 'description', 'repo_id', 'license'"),
        ({"metadata": {"metrics": {"f1": float("nan")}}}, "finite"),
        ({"metadata": {"tags": [1]}}, "a list of them"),
        ({"metadata": ["mit"]}, "a dict"),
    ):
        with pytest.raises(ValueError, match=message):
            embedder.save_to_preset(**{"preset_dir": tmp_path / "new", **wrong})
    assert not (tmp_path / "new").exists()
    bare = tx.models.TextEmbedder(backbone_of("bert"))
    with pytest.raises(ValueError, match="a model with a preprocessor"):
        bare.save_to_preset(tmp_path / "new", format="huggingface")


@pytest.mark.parametrize("format", ["sentence-transformers", "huggingface"])
def test_where_writing_fails_the_old_model_stays(tmp_path, monkeypatch, format):
    embedder = embedder_of(tmp_path)
    folder = tmp_path / "out"
    embedder.save_to_preset(folder, format=format)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tx.preprocessing.Tokenizer, "to_folder", full)  # after the weights and config.json
    randomize(embedder, 5)
    with pytest.raises(OSError, match="No space"):
        embedder.save_to_preset(folder, format=format)
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# === Cards ===


def header_of(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text


def run_blocks(text, folder, library):
    """Runs the code blocks of a card that import a library; returns the names that they define."""
    names = {}
    previous = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if f"import {library}" in block or f"from {library}" in block:
                exec(compile(block, "README.md", "exec"), names)
    finally:
        os.chdir(previous)
    return names


@pytest.mark.parametrize("format", ["tfxfer", "sentence-transformers", "huggingface"])
def test_a_card_says_what_it_was_told_and_its_code_runs(tmp_path, format):
    embedder = embedder_of(tmp_path, prompts={"query": "find | ", "document": ""}, pooling="cls")
    metadata = {
        "name": "Card: search",
        "description": "Finds answers about cards.",
        "license": "apache-2.0",
        "language": "en",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "datasets": ["PolyAI/banking77", "me/own: data"],
        "data": "Questions of customers, 2024.",
        "metrics": {"banking77": {"ndcg@10": np.float32(0.5), "mrr": 1}},
        "tags": ["bank"],
    }
    embedder.save_to_preset(tmp_path / "out", format=format, metadata=metadata)
    header, text = header_of(tmp_path / "out")
    library = {"huggingface": "transformers"}.get(format, format)
    assert header["library_name"] == library and header["pipeline_tag"] == "sentence-similarity"
    for key in ("license", "datasets"):
        assert header[key] == metadata[key]
    assert header["language"] == ["en"] and header["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert header["tags"] == list(dict.fromkeys([library, "tfxfer", "bank"])) and header["metrics"] == [
        "ndcg@10",
        "mrr",
    ]
    (result,) = header["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.5, 1.0] and result["dataset"]["name"] == "banking77"
    for expected in (
        "# Card: search",
        "Finds answers",
        "2024",
        "| banking77 | ndcg@10 | 0.5 |",
        "apache-2.0",
        "`query`",
    ):
        assert expected in text
    vectors = run_blocks(text, tmp_path / "out", "tfxfer")["vectors"]
    expected = embedder.encode(["Where is my card?", "My card has not arrived"])
    if format != "huggingface":  # which holds only the encoder
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert (library == "tfxfer") or f"from {library.replace('-', '_')} import" in text


def test_a_card_without_metadata_names_labels_and_a_repository_where_there_is_one(tmp_path):
    labels = ["card", "a `loan`", "Übertrag"]
    model = tx.models.TextClassifier(backbone_of("bert"), tiny.preprocessor(tmp_path), labels=labels)
    model.save_to_preset(tmp_path / "intents", format="sentence-transformers")
    header, text = header_of(tmp_path / "intents")
    assert header == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-classification",
        "tags": ["sentence-transformers", "tfxfer"],
    }
    assert "# intents" in text and "## Labels (3)" in text and '"a `loan`"' in text and '"Übertrag"' in text
    assert "model" in run_blocks(text, tmp_path / "intents", "tfxfer")
    model.save_to_preset(tmp_path / "intents", format="sentence-transformers", metadata={"repo_id": "me/intents"})
    text = header_of(tmp_path / "intents")[1]
    assert 'from_preset("hf://me/intents")' in text and 'CrossEncoder("me/intents")' in text


def test_a_card_of_somebody_else_stays_unless_there_are_metadata(tmp_path):
    embedder = embedder_of(tmp_path)
    file = tmp_path / "out" / "README.md"
    file.parent.mkdir()
    file.write_text("# Mine\n")
    embedder.save_to_preset(tmp_path / "out", format="huggingface")
    assert file.read_text() == "# Mine\n"
    embedder.save_to_preset(tmp_path / "out", format="huggingface", metadata={"name": "Theirs"})
    assert "# Theirs" in file.read_text()
    embedder.save_to_preset(tmp_path / "out", format="huggingface")
    assert "# out" in file.read_text()


# === The hub ===


class Hub(http.server.BaseHTTPRequestHandler):
    """A test server with what `create_repo`, `upload_folder` and `snapshot_download` need of the Hugging Face hub."""

    files: dict = {}
    commit = "1" * 40

    def log_message(self, *args):
        pass

    def answer(self, value, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        for name, found in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(found))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        url = f"http://{self.headers['Host']}/me/cards"
        if self.path == "/api/repos/create":
            self.answer({"url": url, "name": json.loads(body)["name"]})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{url}/commit/{self.commit}", "commitOid": self.commit, "pullRequestUrl": None})

    def do_GET(self):
        name = self.path.partition(f"/resolve/{self.commit}/")[2]
        if "/tree/" in self.path:
            self.answer(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                    for path, data in self.files.items()
                ]
            )
        elif not name:
            siblings = [{"rfilename": path} for path in self.files]
            self.answer({"id": "me/cards", "sha": self.commit, "siblings": siblings})
        elif name in self.files:
            self.answer(
                self.files[name], ETag=f'"{hashlib.sha1(self.files[name]).hexdigest()}"', X_Repo_Commit=self.commit
            )
        else:
            self.send_error(404)

    do_HEAD = do_GET


_PUSH = """
import sys
import huggingface_hub

api = huggingface_hub.HfApi(token="hf_stand_in")
api.create_repo("me/cards", exist_ok=True)
api.upload_folder(repo_id="me/cards", folder_path=sys.argv[1])
print(huggingface_hub.snapshot_download("me/cards", local_dir=sys.argv[2]))
"""


def test_a_folder_goes_to_the_hub_and_comes_back(tmp_path):
    embedder = embedder_of(tmp_path, dense=[{"units": 4}])
    embedder.save_to_preset(tmp_path / "out", format="sentence-transformers", metadata={"license": "mit"})
    Hub.files = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
    }
    try:
        arguments = [sys.executable, "-c", _PUSH, tmp_path / "out", tmp_path / "back"]
        subprocess.run(arguments, env={**os.environ, **own}, check=True, capture_output=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(Hub.files) == written
    again = tx.models.TextEmbedder.from_preset(tmp_path / "back")
    assert again.embedding_spec() == embedder.embedding_spec()
