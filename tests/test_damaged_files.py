"""Each kind of damage to each kind of file that the package reads back raises a `ValueError` that names the file.

`test_saved_index.py` tests damaged indexes, and `test_resume.py` damaged training checkpoints.
"""

import json
import re

import keras
import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tiny

from tfxfer import evaluation, export, freezing

DAMAGES = {
    "folder": lambda content: "folder",
    "empty": lambda content: b"",
    "blank": lambda content: b" \n",
    "cut in half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content.rstrip()[:-1],
    "not UTF-8": lambda content: content[:-3] + b"\xff\xfe" + content[-3:],
    "UTF-16": lambda content: content.decode("latin-1").encode("utf-16"),
    "zeros": lambda content: b"\0" * len(content),
}


def damage(file, change):
    content = change(file.read_bytes())
    file.unlink()
    if content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)


# === Descriptions of exports ===

DESCRIPTION = {
    "class": "TextClassifier",
    "name": "intents",
    "signatures": {"classify": {"api": "predict"}},
    "labels": ["card", "über"],
    "multi_label": False,
    "prompts": None,
    "default_prompt_name": None,
    "index": None,
    "pairs": False,
    "sequence_length": 16,
    "text_bytes": 32768,
    "weights": {"parameters": 3, "dtype": "float32", "sha256": "0" * 64},
    "metadata": {},
    "versions": {"tfxfer": "0.1.0"},
    "created": "2026-01-01T00:00:00+00:00",
}
CONTENTS = {
    "a list": [DESCRIPTION],
    "null": None,
    **{f"no {key}": {k: v for k, v in DESCRIPTION.items() if k != key} for key in DESCRIPTION},
    **{f"a number for {key}": {**DESCRIPTION, key: 1.5} for key in DESCRIPTION},
}


@pytest.fixture
def described(tmp_path):
    file = tmp_path / "1" / "assets.extra" / "tfxfer.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(DESCRIPTION, ensure_ascii=False), encoding="utf-8")
    return file


def test_a_description_is_read_by_its_own_keys(described):
    found = export.describe(described.parents[2])
    assert found == {"version": 1, "path": str(described.parents[1]), **DESCRIPTION}


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_description_is_an_error_that_names_it(change, described):
    damage(described, DAMAGES[change])
    for folder in (described.parents[1], described.parents[2]):
        with pytest.raises(ValueError, match=r"`folder`.*export\.saved_model.*Export the model again") as caught:
            export.describe(folder)
        assert f"{described} " in str(caught.value)


@pytest.mark.parametrize("change", CONTENTS)
def test_wrong_content_of_a_description_is_an_error(change, described):
    described.write_text(json.dumps(CONTENTS[change]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tfxfer\.json (has|holds) "):
        export.describe(described.parents[1])


# === The server's batching parameters (test_export.py reads valid ones) ===

PARAMETERS = """\
# max_batch_size { value: 1 }
max_batch_size { value: 20 };  # a comment
max_execution_batch_size: { value: 16 }
thread_pool_name { value: "a # b" }
allowed_batch_sizes: [1, 2]
allowed_batch_sizes: 16, pad_variable_length_inputs: true
batch_timeout_micros { value: -1 } num_batch_threads {}
"""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny.embedder(tmp_path_factory.mktemp("embedder"))


@pytest.mark.parametrize(
    "change",
    [
        *DAMAGES.values(),
        lambda content: b"# nothing else\n",
        lambda content: b"max_batch_size { value: 0 }",
        lambda content: b"max_batch_size { value: -5 }",
        lambda content: b"max_batch_size { value: many }",
        lambda content: b"max_batch_size { }",
        lambda content: b"max_batch_size: 20",
        lambda content: b"max_batch_size",
        lambda content: b"max_batch_size { value: 20",
        lambda content: b"} max_batch_size { value: 20 }",
        lambda content: b'{"max_batch_size": 20}',
        lambda content: b'thread_pool_name { value: "a }',
        lambda content: b"batch_timeout_micros { value: 9 } " * 500 + b"max_batch",
    ],
)
def test_damaged_parameters_are_an_error_that_names_them(change, embedder, tmp_path):
    file = tmp_path / "batching_parameters.txt"
    file.write_text(PARAMETERS)
    damage(file, change)
    with pytest.raises(ValueError, match=r"`folder`.*Fix the file, or delete it") as caught:
        export.saved_model(embedder, tmp_path)
    assert f"{file} " in str(caught.value)


def test_a_model_is_not_exported_beside_damaged_parameters(embedder, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "batching_parameters.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"batching_parameters\.txt is not UTF-8"):
        export.saved_model(embedder, tmp_path / "base")
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["batching_parameters.txt"]


# === TensorBoard's configuration ===


@pytest.mark.parametrize("change", ["folder", "not UTF-8"])
def test_a_damaged_projector_configuration_is_an_error_that_names_it(change, tmp_path):
    evaluation.projector(tmp_path, np.eye(2), ["a", "b"])
    file = tmp_path / "projector_config.pbtxt"
    damage(file, DAMAGES[change])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"`folder`.*Delete that file") as caught:
        evaluation.projector(tmp_path, np.eye(2), ["a", "b"], name="more")
    assert f"{file} " in str(caught.value) and sorted(tmp_path.iterdir()) == before


# === Adapters ===


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def adapted(folder):
    """The path of an adapter file that includes a head."""
    model = tiny.classifier(folder)
    freezing.add_lora(model, rank=2, targets=["query", "output"])
    freezing.save_adapters(model, folder / "whole.safetensors", head=True)
    return folder / "whole.safetensors"


def state(model):
    weights = [(weight.path, weight.trainable, weight.numpy().tobytes()) for weight in model.weights]
    flags = [layer.trainable for group in model.layer_groups().values() for layer in group]
    return weights, flags, model.backbone.trainable, model.backbone.lora, model.trainable


def check_adapters(path, folder, said="save_adapters"):
    """Checks that loading fails, names the file and leaves the model unchanged; returns the model."""
    model = tiny.classifier(folder)
    freezing.freeze(model, groups=["embeddings"])
    next(iter(model.layer_groups()["block_0"])).weights[0].trainable = False
    before = state(model)
    with pytest.raises(ValueError, match=rf"`path`.*{said}") as caught:
        freezing.load_adapters(model, path)
    assert str(path) in str(caught.value)
    assert state(model) == before
    return model


@pytest.mark.parametrize("change", [name for name in DAMAGES if name not in ("not UTF-8", "UTF-16")])
def test_a_damaged_file_of_adapters_is_an_error_that_names_it(change, adapted, folder, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapted.read_bytes())
    damage(path, DAMAGES[change])
    check_adapters(path, folder, "save_adapters.*Write it again")


@pytest.mark.parametrize("place", [0, 1, 7, 8, 9, 30, 200])
def test_a_header_with_a_wrong_byte_is_an_error(place, adapted, folder, tmp_path):
    content = bytearray(adapted.read_bytes())
    content[place] = 0xFF
    (tmp_path / "a.safetensors").write_bytes(content)
    check_adapters(tmp_path / "a.safetensors", folder)


def test_adapters_that_are_not_there_or_elsewhere_are_an_error(folder, tmp_path):
    check_adapters(tmp_path / "none.safetensors", folder, "is missing")
    with pytest.raises(ValueError, match=r"`path`.*gcloud storage cp"):
        freezing.load_adapters(tiny.classifier(folder), "gs://bucket/a.safetensors")


def without(name):
    return lambda values: values.pop(name)


METADATA = {
    "no format": without("format"),
    "another format": lambda m: m.update(format='"tfxfer-lora-9"'),
    "format that is no JSON": lambda m: m.update(format="tfxfer"),
    "no lora": without("lora"),
    "lora that is no JSON": lambda m: m.update(lora="{"),
    "lora as a list": lambda m: m.update(lora="[1]"),
    "lora as null": lambda m: m.update(lora="null"),
    "no backbone": without("backbone"),
    "backbone as a list": lambda m: m.update(backbone="[]"),
    "more than is known": lambda m: m.update(note="not JSON"),
}
LORA = {
    **{f"no {key}": without(key) for key in ("rank", "alpha", "targets", "groups")},
    "rank 0": lambda lora: lora.update(rank=0),
    "another rank": lambda lora: lora.update(rank=3),
    "a huge rank": lambda lora: lora.update(rank=10**12),
    "rank as text": lambda lora: lora.update(rank="2"),
    "rank true": lambda lora: lora.update(rank=True),
    "alpha 0": lambda lora: lora.update(alpha=0),
    "alpha as text": lambda lora: lora.update(alpha="1"),
    "an unknown target": lambda lora: lora.update(targets=["query", "pooler"]),
    "a number as target": lambda lora: lora.update(targets=[3]),
    "targets as text": lambda lora: lora.update(targets="query"),
    "fewer targets": lambda lora: lora.update(targets=["query"]),
    "other targets": lambda lora: lora.update(targets=["query", "key"]),
    "no targets": lambda lora: lora.update(targets=[]),
    "an unknown group": lambda lora: lora.update(groups=["block_7"]),
    "groups of groups": lambda lora: lora.update(groups=[["block_0"]]),
}
TENSORS = {
    "no tensors": lambda tensors: tensors.clear(),
    "a tensor less": without("block_0/0/query/a"),
    "a head less": without("head/0"),
    "a tensor more": lambda tensors: tensors.update(extra=np.zeros(2, "float32")),
    "another name": lambda tensors: tensors.update({"block_0/0/query/c": tensors.pop("block_0/0/query/b")}),
    "a shape": lambda tensors: tensors.update({"block_0/0/query/a": np.zeros((9, 2, 2), "float32")}),
    "a scalar": lambda tensors: tensors.update({"block_0/0/query/a": np.zeros((), "float32")}),
    "a head's shape": lambda tensors: tensors.update({"head/0": np.zeros((1,), "float32")}),
    "ints": lambda tensors: tensors.update({"block_0/0/query/a": tensors["block_0/0/query/a"].astype("int32")}),
    "NaN": lambda tensors: tensors["block_0/0/query/b"].fill(np.nan),
    "infinity": lambda tensors: tensors["head/0"].fill(np.inf),
}


@pytest.mark.parametrize("change", [*METADATA, *LORA, *TENSORS])
def test_wrong_content_of_adapters_is_an_error_that_names_the_file(change, adapted, folder, tmp_path):
    with safetensors.safe_open(str(adapted), "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).copy() for name in file.keys()}
    if change in METADATA:
        METADATA[change](metadata)
    elif change in LORA:
        lora = json.loads(metadata["lora"])
        LORA[change](lora)
        metadata["lora"] = json.dumps(lora)
    else:
        TENSORS[change](tensors)
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata)
    if change == "more than is known":
        freezing.load_adapters(tiny.classifier(folder), path)
        return
    check_adapters(path, folder, ".")


def test_a_model_is_trained_and_gets_adapters_after_a_load_that_failed(adapted, folder, tmp_path):
    with safetensors.safe_open(str(adapted), "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({**tensors, "extra": np.zeros(2, "float32")}, path, metadata)
    frozen = tiny.classifier(folder)
    frozen.trainable = False
    before = state(frozen)
    with pytest.raises(ValueError, match="'extra'"):
        freezing.load_adapters(frozen, path)
    assert state(frozen) == before
    model = check_adapters(path, folder, "'extra'")
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="'extra'"):
        freezing.load_adapters(model, path)
    model.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, epochs=1, verbose=0)
    freezing.load_adapters(model, adapted)
    for name, variable in model.backbone.lora_variables().items():
        np.testing.assert_array_equal(variable.numpy(), tensors[name])


def test_adapters_in_bfloat16_are_an_error_or_read(adapted, folder, tmp_path):
    # safetensors' numpy reader supports bfloat16 only in some versions, so the file has another dtype here.
    content = adapted.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    changed = re.sub(rb'"F32"', b'"I32"', header)
    path = tmp_path / "a.safetensors"
    path.write_bytes(content[:8] + changed + content[8 + len(header) :])
    check_adapters(path, folder, "int32")
