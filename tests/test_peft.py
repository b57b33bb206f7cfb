"""Adapters in PEFT's format, compared with W + alpha / r B A in NumPy.

test_back_out_reference.py compares them with PEFT itself.
"""

import functools
import json
import os
import re

import keras
import numpy as np
import pytest
import safetensors.numpy
import tiny

import tfxfer as tx
from tfxfer.backbones.families import FAMILIES

FAMILY_NAMES = [name for name in FAMILIES if name not in ("static", "separable_conv")]
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 32, "max_sequence_length": 16}


def embedder(family, seed=0, **sizes):
    keras.utils.set_random_seed(seed)
    backbone = tx.backbones.Backbone(family, vocabulary_size=len(tiny.VOCABULARY), **{**SIZES, **sizes})
    rng = np.random.default_rng(seed)
    backbone.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in backbone.get_weights()])
    return tx.models.TextEmbedder(backbone)


def adapted(family, seed=0, **arguments):
    return with_adapters(embedder(family), seed, **arguments)


def with_adapters(model, seed=0, **arguments):
    tx.freezing.add_lora(model, **{"rank": 3, "alpha": 2, "targets": ["query", "value", "output"], **arguments})
    return fill(model, seed)


def fill(model, seed=0):
    for number, variable in enumerate(model.backbone.lora_variables().values()):
        variable.assign(np.random.default_rng([seed, number]).normal(0, 0.3, variable.shape))
    return model


def adapters_of(model):
    return {name: variable.numpy() for name, variable in model.backbone.lora_variables().items()}


def modules(backbone):
    """The dense modules of the blocks in transformers: each path, with the layers of ours that it combines."""
    family, found = FAMILIES[backbone.family], {}
    names = family.modules or family.tensors_in_block(backbone.arguments)
    for block, group, number in backbone.blocks():
        for name, parts in names.items():
            parts = parts if isinstance(parts, tuple) else (parts,)
            layers = [
                functools.reduce(lambda x, step: getattr(x, step, None), part.split("."), block) for part in parts
            ]
            if all(isinstance(layer, keras.layers.Dense) for layer in layers):
                found[(family.module_prefix or family.block_prefix).format(group, number) + name] = layers
    return found


def kernels_of(model):
    """The kernels of the modules that PEFT knows, `(outputs, inputs)`, including what adapters add."""
    return {
        path: np.concatenate([keras.ops.convert_to_numpy(layer.kernel).T for layer in layers])
        for path, layers in modules(model.backbone).items()
    }


def write(folder, tensors, **config):
    """Writes a folder as PEFT does."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none", "target_modules": ["any"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    arrays = {f"base_model.model.{name}": np.ascontiguousarray(value) for name, value in tensors.items()}
    safetensors.numpy.save_file(arrays, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def drawn(model, paths, rank=2, seed=0):
    """Random adapters for some modules, as PEFT's tensors: A `(rank, inputs)`, B `(outputs, rank)`."""
    rng, kernels, found = np.random.default_rng(seed), kernels_of(model), {}
    for path in paths:
        outputs, inputs = kernels[path].shape
        found[f"{path}.lora_A.weight"] = rng.normal(0, 0.5, (rank, inputs)).astype("float32")
        found[f"{path}.lora_B.weight"] = rng.normal(0, 0.5, (outputs, rank)).astype("float32")
    return found


def blocks(name, count=2):
    return [name.format(i) for i in range(count)]


# === Written ===


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_written_adds_to_each_matrix_what_the_adapters_add(family, tmp_path):
    model = embedder(family)
    before = kernels_of(model)
    after = kernels_of(with_adapters(model))
    tx.freezing.save_adapters(model, tmp_path / "peft", format="peft", base_model="me/base")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    tensors = safetensors.numpy.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert config["base_model_name_or_path"] == "me/base" and config["task_type"] == "FEATURE_EXTRACTION"
    assert config["fan_in_fan_out"] == (family in ("gpt2", "openai_gpt"))
    adapters = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    for path, kernel in before.items():
        expected = kernel
        if path in adapters:
            a, b = (tensors[f"base_model.model.{path}.lora_{key}.weight"] for key in "AB")
            rank = config["rank_pattern"].get(re.escape(path), config["r"])
            assert a.shape[0] == b.shape[1] == rank
            alpha = config["alpha_pattern"].get(re.escape(path), config["lora_alpha"])
            expected = kernel + alpha / rank * b @ a
            assert re.fullmatch(config["target_modules"], f"bert.{path}")
        else:
            assert not re.fullmatch(config["target_modules"], path)
        np.testing.assert_allclose(after[path], expected, atol=1e-6)
    assert len(adapters) == len({path for path in before if (before[path] != after[path]).any()})


@pytest.mark.parametrize("family", ["albert", "gpt2", "gte", "llama", "modernbert", "nomic_bert", "t5"])
def test_what_is_written_is_read_as_it_was(family, tmp_path):
    model = adapted(family, groups="block_0")
    tx.freezing.save_adapters(model, tmp_path, format="peft")
    again = embedder(family)
    tx.freezing.load_adapters(again, tmp_path)
    assert again.backbone.lora == model.backbone.lora
    for name, value in adapters_of(model).items():
        np.testing.assert_array_equal(adapters_of(again)[name], value)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_what_was_trained_further_elsewhere_is_read_too(family, tmp_path):
    model = adapted(family)
    tx.freezing.save_adapters(model, tmp_path, format="peft")
    # The combined matrices then no longer split into those of their parts.
    file = tmp_path / "adapter_model.safetensors"
    changed = {name: value + 0.1 for name, value in safetensors.numpy.load_file(file).items()}
    safetensors.numpy.save_file(changed, file, {"format": "pt", "tfxfer": json.dumps(model.backbone.lora)})
    other = embedder(family)
    tx.freezing.load_adapters(other, tmp_path)
    for path, kernel in kernels_of(embedder(family)).items():
        key = f"base_model.model.{path}.lora_"
        if f"{key}A.weight" in changed:
            kernel = kernel + 2 / 3 * changed[f"{key}B.weight"] @ changed[f"{key}A.weight"]
        np.testing.assert_allclose(kernels_of(other)[path], kernel, atol=1e-5)


def classifier(folder, **arguments):
    made = {"labels": ["a", "b", "c"], "pooling": "cls", **arguments}
    made.setdefault("head", tx.layers.Head(3, (8,), "tanh", hidden_dropout=0.0))
    return tx.models.TextClassifier(embedder("bert").backbone, tiny.preprocessor(folder), **made)


def test_a_head_that_the_reference_has_goes_along(tmp_path):
    model = classifier(tmp_path)
    tx.freezing.add_lora(model, rank=2)
    fill(model)
    tx.freezing.save_adapters(model, tmp_path / "peft", format="peft", head=True)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == ["classifier", "pooler"]
    tensors = safetensors.numpy.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    root = "base_model.model."
    np.testing.assert_array_equal(tensors[f"{root}classifier.weight"], model.head.denses[1].kernel.numpy().T)
    assert f"{root}bert.pooler.dense.bias" in tensors
    assert f"{root}bert.encoder.layer.1.attention.self.query.lora_A.weight" in tensors
    again = classifier(tmp_path)
    tx.freezing.load_adapters(again, tmp_path / "peft")
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    plain = classifier(tmp_path, head="linear")
    tx.freezing.add_lora(plain, rank=2)
    with pytest.raises(ValueError, match=r"`head`. Expected False with the format 'peft': BertFor.*another head"):
        tx.freezing.save_adapters(plain, tmp_path / "other", format="peft", head=True)
    tx.freezing.save_adapters(plain, tmp_path / "other", format="peft")
    with pytest.raises(ValueError, match=r"a head with classifier.weight, classifier.bias, bert.pooler"):
        write(tmp_path / "odd", {**drawn(plain, []), "classifier.weight": np.ones((3, 8), "float32")})
        (tmp_path / "odd" / "adapter_model.safetensors").unlink()
        more = {**tensors, f"{root}dense.weight": np.ones((8, 8), "float32")}
        safetensors.numpy.save_file(more, tmp_path / "odd" / "adapter_model.safetensors")
        tx.freezing.load_adapters(classifier(tmp_path), tmp_path / "odd")


def test_a_folder_is_replaced_as_a_whole_and_the_arguments_are_checked(tmp_path, monkeypatch):
    model = adapted("bert")
    tx.freezing.save_adapters(model, tmp_path / "peft", format="peft")
    before = {path.name: path.read_bytes() for path in (tmp_path / "peft").iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    fill(model, 4)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, "replace", full)  # fails first for the new config.json, next to the new tensors
        tx.freezing.save_adapters(model, tmp_path / "peft", format="peft")
    assert {path.name: path.read_bytes() for path in (tmp_path / "peft").iterdir()} == before
    for arguments, message in (
        ({"format": "onnx"}, "one of 'tfxfer', 'peft'"),
        ({"format": "peft", "head": True}, "False for a model without a classifier's head"),
    ):
        with pytest.raises(ValueError, match=message):
            tx.freezing.save_adapters(model, tmp_path / "new", **arguments)
    with pytest.raises(ValueError, match="gcloud storage"):
        tx.freezing.save_adapters(model, "gs://bucket/adapters", format="peft")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="There is a file of this name"):
        tx.freezing.save_adapters(model, tmp_path / "file", format="peft")


# === Read ===

CASES = {
    "bert": ("bert", blocks("encoder.layer.{}.attention.self.query") + blocks("encoder.layer.{}.output.dense"), {}),
    "bert under a task's prefix": ("bert", blocks("encoder.layer.{}.attention.self.key"), {"prefix": "bert."}),
    "one block": ("roberta", ["encoder.layer.1.attention.self.value"], {}),
    "gpt2, shared A": ("gpt2", blocks("h.{}.attn.c_attn") + blocks("h.{}.mlp.c_fc"), {"fan_in_fan_out": True}),
    "modernbert, shared A": ("modernbert", blocks("layers.{}.attn.Wqkv") + blocks("layers.{}.mlp.Wi"), {}),
    "rank-stabilized": ("bert", blocks("encoder.layer.{}.attention.self.query"), {"use_rslora": True}),
    "t5": ("t5", blocks("encoder.block.{}.layer.0.SelfAttention.q"), {}),
    "nomic": ("nomic_bert", blocks("layers.{}.self_attn.q_proj") + blocks("layers.{}.mlp.gate_proj"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_others_are_w_plus_alpha_by_r_b_a(case, tmp_path):
    family, paths, config = CASES[case]
    config = dict(config)
    prefix = config.pop("prefix", "")
    model = embedder(family)
    tensors = drawn(model, paths)
    expected = kernels_of(model)
    scale = 3 / np.sqrt(2) if config.get("use_rslora") else 3 / 2
    for path in paths:
        expected[path] = expected[path] + scale * tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]
    write(tmp_path / "peft", {prefix + name: value for name, value in tensors.items()}, **config)
    tx.freezing.load_adapters(model, tmp_path / "peft")
    for path, kernel in kernels_of(model).items():
        np.testing.assert_allclose(kernel, expected[path], atol=2e-6)
    assert model.backbone.lora["rank"] == 2


def test_ranks_and_factors_may_differ_by_module(tmp_path):
    model = embedder("bert")
    query, value = blocks("encoder.layer.{}.attention.self.query"), blocks("encoder.layer.{}.attention.self.value")
    tensors = {**drawn(model, query, rank=2), **drawn(model, value, rank=5, seed=1)}
    expected = kernels_of(model)
    for paths, scale in ((query, 3 / 2), (value, 7 / 5)):
        for path in paths:
            low_rank = tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]
            expected[path] = expected[path] + scale * low_rank
    config = {"rank_pattern": {"self.value": 5}, "alpha_pattern": {r"encoder\.layer\.\d+\.attention\.self\.value": 7}}
    write(tmp_path / "peft", tensors, **config)
    tx.freezing.load_adapters(model, tmp_path / "peft")
    assert model.backbone.lora["rank"] == 5
    for path, kernel in kernels_of(model).items():
        np.testing.assert_allclose(kernel, expected[path], atol=2e-6)
    # The adapters also load into a model that already has the same adapters.
    tx.freezing.load_adapters(model, tmp_path / "peft")
    with pytest.raises(ValueError, match="a model without adapters, or with"):
        tx.freezing.load_adapters(adapted("bert"), tmp_path / "peft")


Q0, Q1 = blocks("encoder.layer.{}.attention.self.query")


@pytest.mark.parametrize(
    ("paths", "config", "message"),
    [
        ([Q0, Q1], {"peft_type": "LOHA"}, "is of peft_type 'LOHA'"),
        ([Q0, Q1], {"use_dora": True}, "sets use_dora, which this package does not compute"),
        ([Q0, Q1], {"bias": "all"}, "biases that trained"),
        ([Q0, Q1], {"trainable_token_indices": [3]}, "sets trainable_token_indices"),
        ([Q0, Q1], {"a_new_option": {"x": 1}}, "sets a_new_option"),
        ([Q0, Q1], {"r": "two"}, "has a wrong value of 'r'"),
        ([Q0, Q1], {"alpha_pattern": {"(": 2}}, "cannot be read"),
        ([Q0, Q1, "encoder.layer.0.output.dense"], {}, "but not block_1/0/output"),
        ([], {}, "holds no adapters"),
    ],
)
def test_what_is_not_computed_here_is_an_error_and_changes_nothing(tmp_path, paths, config, message):
    model = embedder("bert")
    before = model.get_weights()
    write(tmp_path / "peft", drawn(model, paths), **config)
    with pytest.raises(ValueError, match=message):
        tx.freezing.load_adapters(model, tmp_path / "peft")
    assert model.backbone.lora is None
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "pooler.dense.lora_A.weight": t[f"{Q0}.lora_A.weight"]}, "pooler.dense with the shapes"),
        (lambda t: {name.replace("query", "other"): v for name, v in t.items()}, "not a dense layer of this encoder's"),
        (lambda t: {**t, f"{Q0}.lora_B.weight": np.ones((8, 9), "float32")}, "with the shapes"),
        (lambda t: {name: np.ones((2, 2), "float32") for name in t}, "a tensor 'block_0/0/query/a' of shape"),
        (lambda t: {**t, f"{Q0}.lora_A.weight": t[f"{Q0}.lora_A.weight"] * np.nan}, "not finite as 'encoder"),
        (lambda t: {**t, f"{Q0}.bias": np.ones(8, "float32")}, "without a classifier's head"),
    ],
)
def test_tensors_that_do_not_fit_are_errors(tmp_path, change, message):
    model = embedder("bert")
    write(tmp_path / "peft", change(drawn(model, [Q0, Q1])))
    with pytest.raises(ValueError, match=message):
        tx.freezing.load_adapters(model, tmp_path / "peft")
    assert model.backbone.lora is None


def test_a_damaged_folder_is_an_error_that_names_the_file(tmp_path):
    model = embedder("bert")
    folder = write(tmp_path / "peft", drawn(model, [Q0, Q1]))
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content, message in ((whole[:-9], "cannot be read"), (b"", "is empty"), (None, "is missing")):
        weights.unlink(missing_ok=True)
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(ValueError, match=f"adapter_model.safetensors {message}"):
            tx.freezing.load_adapters(model, folder)
    weights.write_bytes(whole)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json is not valid JSON"):
        tx.freezing.load_adapters(model, folder)


@pytest.mark.parametrize("family", ["bert", "deberta_v3", "gpt2", "modernbert", "t5"])
def test_targets_are_all_dense_layers_of_a_block(family):
    backbone = embedder(family).backbone
    backbone.enable_lora(1, targets="*")
    layers = [layer for parts in modules(backbone).values() for layer in parts]
    assert len(layers) == len(backbone.lora_variables()) / 2 and all(layer.lora_enabled for layer in layers)
