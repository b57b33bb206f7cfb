"""Reading `config.json`: invalid values raise errors that name file and key; positions follow the padding id."""

import json
import math

import keras
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from tfxfer import backbones, models

# Private: the tests read thousands of configs. For each valid one, `load` would build an encoder and look for a
# tokenizer.
from tfxfer.backbones import _backbone, _config
from tfxfer.backbones.families import FAMILIES

SIZES = {"vocabulary_size": 40, "num_layers": 4, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
BAD = ("32", None, -1, 0, 1e12, 10**12, 1.5, math.nan, math.inf, True, [], {}, ["a"], {"a": 1}, "", -(10**12))


def write(folder, config):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def config_of(name):
    """A complete config.json of a family."""
    family = FAMILIES[name]
    given = {**SIZES, "max_sequence_length": 32, **({"head_dim": 4} if "head_dim" in family.options else {})}
    return family.to_config(_backbone.complete(family, given))


# === Values ===


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.config])
def test_no_value_of_a_config_does_more_than_raise_one_error_that_names_file_and_key(name, tmp_path):
    config = config_of(name)
    _config.read(write(tmp_path, config))  # the unchanged config is valid
    extra = ("rope_parameters", "rope_scaling", "layer_types", "head_dim", "architectures", "classifier_dropout")
    for key in (*config, *extra):
        for value in BAD:
            write(tmp_path, {**config, key: value})
            try:
                _, _, arguments = _config.read(tmp_path)
            except ValueError as error:
                message = str(error)
                assert message.startswith("Invalid value for argument `"), (key, value, message)
                assert str(tmp_path / "config.json") in message and len(message) < 1500, (key, value, message)
            else:
                sizes = [arguments[size] for size in SIZES]
                assert all(type(size) is int and 0 < size <= 2**24 for size in sizes), (key, value, sizes)


@pytest.mark.parametrize("value", ["32", -1, 0, 1e12, 10**12, 1.5, math.nan, True, [32], {"a": 1}])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_is_none_is_an_error_by_the_files_key(key, value, tmp_path):
    write(tmp_path, {**config_of("bert"), key: value})
    with pytest.raises(ValueError, match=rf"`{key}`.*whole number.*config.json"):
        backbones.load(tmp_path, load_weights=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"hidden_size": None}, "`hidden_size`.*a value"),
        ("bert", {"layer_norm_eps": None}, "`layer_norm_eps`.*1e-12"),
        ("bert", {"layer_norm_eps": 0}, "`layer_norm_eps`"),
        ("bert", {"hidden_dropout_prob": 1.5}, "`hidden_dropout_prob`"),
        ("bert", {"hidden_dropout_prob": "0.1"}, "`hidden_dropout_prob`"),
        ("bert", {"num_attention_heads": 3}, "`num_heads`.*`num_attention_heads` is num_heads"),
        ("roberta", {"pad_token_id": None}, "`pad_token_id`"),
        ("roberta", {"pad_token_id": -1}, "`pad_token_id`"),
        ("roberta", {"max_position_embeddings": 2}, "`max_sequence_length`.*`max_position_embeddings`"),
        ("modernbert", {"layer_types": ["full_attention"]}, "`layer_types`"),
        ("modernbert", {"layer_types": "full_attention"}, "`layer_types`.*a list"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "`global_attn_every_n_layers`"),
        ("llama", {"rope_theta": -1.0, "rope_parameters": None}, "`rope_theta`"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": "big"}}, "`rope_theta`.*rope_parameters"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "`rope_parameters`"),
        ("llama", {"is_causal": "no"}, "`is_causal`"),
        ("t5", {"feed_forward_proj": 3}, "`feed_forward_proj`"),
        ("gemma3_text", {"sliding_window_pattern": 0, "layer_types": None}, "`sliding_window_pattern`"),
        ("deberta_v3", {"max_position_embeddings": 10**6}, "`max_sequence_length`"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_says_what_is_expected(name, changes, message, tmp_path):
    write(tmp_path, {**config_of(name), **changes})
    with pytest.raises(ValueError, match=message) as caught:
        _config.read(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '"bert"', "null", "", "{", '{"model_type": "bert"', "\xff"])
def test_a_config_that_is_no_object_is_an_error_that_names_it(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json"):
        backbones.load(tmp_path)


def test_an_encoder_larger_than_memory_is_refused_before_it_is_made(tmp_path):
    sizes = {"hidden_size": 2**20, "num_attention_heads": 2**10, "intermediate_size": 2**22, "vocab_size": 2**20}
    write(tmp_path, {**config_of("bert"), **sizes})
    with pytest.raises(ValueError, match=r"at most \d+ weights"):
        backbones.load(tmp_path, load_weights=False)


# === Positions of RoBERTa's kind ===


def reference_positions(token_ids, padding_id):
    """Positions as in the reference: tokens other than padding count from the padding id + 1."""
    positions = np.full(token_ids.shape, padding_id)
    for row, ids in enumerate(token_ids):
        count = 0
        for place, token in enumerate(ids):
            if token != padding_id:
                count += 1
                positions[row, place] = padding_id + count
    return positions


@pytest.mark.parametrize("padding_id", [0, 1, 3])
def test_position_ids_are_the_references_shifted_by_the_padding_id(padding_id):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 6, (7, 9)).astype("int32")
    ids[:, 6:] = padding_id
    ids[0], ids[1, 0] = padding_id, padding_id
    mask = np.ones_like(ids)
    sizes = {**SIZES, "num_layers": 1, "max_sequence_length": 12}
    position_ids = backbones.Backbone("roberta", **sizes, pad_token_id=padding_id).parts.position_ids
    found = position_ids(mask, ids)
    np.testing.assert_array_equal(found, reference_positions(ids, padding_id) - padding_id)
    # Masked tokens get the position of padding, whichever id the tokenizer pads with.
    other = np.where(ids == padding_id, 5, ids)
    found = position_ids((ids != padding_id).astype("int32"), other)
    np.testing.assert_array_equal(found, reference_positions(ids, padding_id) - padding_id)


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tiny"), sequence_length=12)


def written(backbone, preprocessor, folder):
    """Saves an encoder in its family's format and returns its tensors."""
    models.TextEmbedder(backbone, preprocessor).save_to_preset(folder, format="huggingface")
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta", "camembert"])
@pytest.mark.parametrize("padding_id", [0, 1, 3])
def test_a_checkpoint_of_any_padding_id_reads_its_own_rows_of_the_position_table(
    name, padding_id, preprocessor, tmp_path
):
    keras.utils.set_random_seed(padding_id)
    sizes = {**SIZES, "vocabulary_size": len(tiny.VOCABULARY), "num_layers": 1}
    backbone = backbones.Backbone(name, **sizes, max_sequence_length=12, pad_token_id=padding_id)
    tensors = written(backbone, preprocessor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["max_position_embeddings"], config["pad_token_id"]) == (12 + padding_id + 1, padding_id)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(12 + padding_id + 1, 8)).astype("float32")  # including rows that are never read
    segments = rng.normal(size=(1, 8)).astype("float32")
    tensors["embeddings.position_embeddings.weight"] = table
    tensors["embeddings.token_type_embeddings.weight"] = segments
    save_file(tensors, tmp_path / "model.safetensors")
    read = backbones.load(tmp_path).backbone

    ids = np.array([[5, 9, 7, 12, 11], [6, padding_id, 8, padding_id, 2], [4, 5, 6, 7, 8]], "int32")
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], "int32")
    ids = np.where(mask == 1, ids, padding_id)
    words = tensors["embeddings.word_embeddings.weight"]
    x = words[ids] + table[reference_positions(ids, padding_id)] + segments[0]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * tensors["embeddings.LayerNorm.weight"] + tensors["embeddings.LayerNorm.bias"]
    found = np.asarray(read.hidden_states()({"token_ids": ids, "padding_mask": mask})[0])
    np.testing.assert_allclose(found[mask == 1], x[mask == 1], atol=1e-5)
    # The tokenizer here pads with id 0. Its padding id does not matter: real tokens keep their positions.
    other = np.where(mask == 1, ids, 0)
    found = np.asarray(read.hidden_states()({"token_ids": other, "padding_mask": mask})[0])
    np.testing.assert_allclose(found[mask == 1], x[mask == 1], atol=1e-5)
    # The rows in use are the same when the encoder is saved again.
    again = written(read, preprocessor, tmp_path / "again")["embeddings.position_embeddings.weight"]
    np.testing.assert_allclose(again[padding_id:], table[padding_id:] + segments, atol=1e-6)
