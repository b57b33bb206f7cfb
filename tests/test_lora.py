"""Low-rank adapters: on every kind of block, merged, in files, and exported."""

import keras
import numpy as np
import pytest
import safetensors.numpy
import tiny
from keras import ops

import tfxfer as tx

FAMILIES = {
    "bert": {"num_layers": 2},
    "albert": {"embedding_dim": 6, "num_layers": 2},  # one block, used twice
    "deberta_v3": {"bucket_size": 4},
    "gpt2": {},
    "gemma3_text": {"head_dim": 6, "num_key_value_heads": 1},
}
SIZES = {
    "vocabulary_size": len(tiny.VOCABULARY),
    "num_layers": 1,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 16,
}
PARTS = ("query", "key", "value", "attention_output", "intermediate", "output")
GATED = ("gemma3_text",)
Y = np.array([0, 1, 1, 0], "int32")


def classifier(family="bert", dtype=None, seed=0, **sizes):
    keras.utils.set_random_seed(seed)
    backbone = tx.backbones.Backbone(family, **{**SIZES, **FAMILIES[family], "dropout": 0.0, **sizes}, dtype=dtype)
    return tx.models.TextClassifier(backbone, labels=["a", "b"], dropout=0.0)


def ids_of(model):
    ids = np.arange(28).reshape(4, 7).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.array([[1] * 7, [1] * 4 + [0] * 3] * 2, "int32")}
    return {**x, "segment_ids": 0 * ids} if model.backbone.has_segment_ids else x


def logits_of(model):
    return ops.convert_to_numpy(model(ids_of(model)))


def changed(model, **kwargs):
    """The model with adapters that change its outputs."""
    tx.freezing.add_lora(model, **{"rank": 2, **kwargs})
    for number, variable in enumerate(model.backbone.lora_variables().values()):
        variable.assign(np.random.default_rng(number).normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """A model with trained adapters on all dense layers, and its outputs and weights before they were added."""
    model = classifier(request.param)
    before, weights = logits_of(model), {w.path: w.numpy() for w in model.weights}
    tx.freezing.add_lora(model, rank=2, alpha=3.0, targets="*")
    np.testing.assert_array_equal(logits_of(model), before)  # new adapters change nothing
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), run_eagerly=True)
    model.fit(ids_of(model), Y, epochs=3, verbose=0)
    return model, before, weights


def test_adapters_and_head_move_and_nothing_else(pair):
    model, before, weights = pair
    adapters = model.backbone.lora_variables()
    parts = PARTS + ("gate",) * (model.backbone.family in GATED)
    groups = [name for name in model.layer_groups() if name.startswith("block_")]
    assert set(adapters) == {f"{group}/0/{part}/{key}" for group in groups for part in parts for key in "ab"}
    expected = {id(w) for w in [*adapters.values(), *model.head.weights]}
    assert {id(w) for w in model.trainable_weights} == expected
    for weight in model.weights:
        if weight.path in weights:
            assert np.array_equal(weight.numpy(), weights[weight.path]) == (id(weight) not in expected), weight.path
    # B starts at zero, so A has no gradient before the second step. A key's adapters have no effect where they shift
    # all scores equally.
    assert all(np.abs(w.numpy()).max() > 1e-3 for name, w in adapters.items() if name.endswith("b"))
    assert np.abs(logits_of(model) - before).max() > 0.1


def test_the_kernel_is_the_sum_of_the_paper(pair):
    model, _, weights = pair
    dense = model.backbone.blocks()[0][0].feed_forward.intermediate
    [kernel] = [value for path, value in weights.items() if path.endswith("0/feed_forward/intermediate/kernel")]
    bias = dense.bias.numpy() if dense.use_bias else 0.0
    a, b = (model.backbone.lora_variables()[f"block_0/0/intermediate/{key}"].numpy() for key in "ab")
    x = np.random.default_rng(0).normal(size=(5, 12)).astype("float32")
    expected = x @ (kernel + 3.0 / 2 * a @ b) + bias
    activation, dense.activation = dense.activation, None
    np.testing.assert_allclose(dense(x), expected, atol=1e-5)
    dense.activation = activation


def test_a_file_keeps_adapters_kernels_and_optimizer_to_the_bit(pair, tmp_path):
    model, _, _ = pair
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert again.backbone.lora == model.backbone.lora
    for found, expected in zip(again.weights, model.weights, strict=True):
        assert found.trainable == expected.trainable
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    for found, expected in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.slow
def test_merged_outputs_are_the_same_and_the_model_is_plain(pair, tmp_path):
    model, _, _ = pair
    expected = logits_of(model)
    merged = classifier(model.backbone.family, seed=1)
    merged.backbone.enable_lora(**model.backbone.lora)
    merged.set_weights(model.get_weights())
    tx.freezing.merge_lora(merged)
    np.testing.assert_allclose(logits_of(merged), expected, atol=1e-5)
    assert merged.backbone.lora is None and not merged.backbone.lora_variables()
    plain = classifier(model.backbone.family, seed=1)
    assert [w.shape for w in plain.weights] == [w.shape for w in merged.weights]
    plain.set_weights(merged.get_weights())
    np.testing.assert_allclose(logits_of(plain), expected, atol=1e-5)
    # A file with adapters also loads into a model without them; loading merges them.
    model.backbone.save_weights(tmp_path / "adapted.weights.h5")
    plain.backbone.set_weights([0 * w for w in plain.backbone.get_weights()])
    plain.backbone.load_weights(tmp_path / "adapted.weights.h5")
    np.testing.assert_allclose(logits_of(plain), expected, atol=1e-5)
    blocks = [w.trainable for layer in merged.layer_groups()["block_0"] for w in layer.weights]
    assert all(blocks) and not any(w.trainable for w in merged.backbone.token_embedding.weights)


def test_adapters_are_a_file_of_their_own(pair, tmp_path):
    model, _, _ = pair
    path = tmp_path / "adapters.safetensors"
    tx.freezing.save_adapters(model, path, head=True)
    tensors = safetensors.numpy.load_file(path)
    assert sum(v.size for v in tensors.values()) == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    fresh = classifier(model.backbone.family)  # the same encoder
    tx.freezing.load_adapters(fresh, path)
    np.testing.assert_array_equal(logits_of(fresh), logits_of(model))
    assert fresh.backbone.lora == model.backbone.lora
    tx.freezing.save_adapters(model, path)
    for variable in fresh.backbone.lora_variables().values():
        variable.assign(ops.zeros_like(variable))
    tx.freezing.load_adapters(fresh, path)  # replaces its adapters; the file has no head
    np.testing.assert_array_equal(logits_of(fresh), logits_of(model))


def test_adapters_of_a_real_encoders_shape_are_a_third_of_a_per_cent_of_it(tmp_path):
    # MiniLM-L6's sizes, except for the tables of tokens and positions; `missing` adds their other rows.
    sizes = {"num_heads": 12, "hidden_dim": 384, "intermediate_dim": 1536, "num_layers": 6}
    model = classifier(**sizes)
    tx.freezing.add_lora(model)
    adapters = sum(int(np.prod(w.shape)) for w in model.backbone.lora_variables().values())
    missing = (30522 - len(tiny.VOCABULARY) + 512 - 16) * 384
    total = sum(int(np.prod(w.shape)) for w in model.backbone.weights) - adapters + missing
    assert (adapters, total) == (73_728, 22_565_376)
    tx.freezing.save_adapters(model, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 0.004 * 4 * total


def test_some_blocks_get_adapters_and_all_else_is_frozen():
    model = classifier(num_layers=2)
    tx.freezing.add_lora(model, targets=["output"], groups="block_1")
    assert sorted(model.backbone.lora_variables()) == ["block_1/0/output/a", "block_1/0/output/b"]
    assert model.thawable_groups() == ["block_1", "head"]
    rows = {row.group: row.trainable for row in tx.freezing.summary(model, print_fn=None)}
    assert rows == {"embeddings": 0, "block_0": 0, "block_1": 8 * (20 + 12), "head": 26}
    tx.freezing.freeze(model, below=2)
    assert len(model.trainable_weights) == 2
    tx.freezing.unfreeze(model)
    assert len(model.trainable_weights) == 4
    model.trainable = False
    model.trainable = True  # Keras's own setter would unfreeze kernels and biases
    assert len(model.trainable_weights) == 4
    with pytest.raises(ValueError, match="merge_lora"):
        tx.freezing.unfreeze(model, groups=["embeddings"])


def test_plain_weights_in_a_model_with_adapters_start_them_anew(tmp_path):
    plain = classifier()
    plain.backbone.save_weights(tmp_path / "plain.weights.h5")
    model = changed(classifier(seed=1))
    model.backbone.load_weights(tmp_path / "plain.weights.h5")
    model.head.set_weights(plain.head.get_weights())
    np.testing.assert_allclose(logits_of(model), logits_of(plain), atol=1e-6)
    values = {name: np.abs(w.numpy()).max() for name, w in model.backbone.lora_variables().items()}
    assert all((value > 0) == name.endswith("a") for name, value in values.items())


@pytest.mark.slow
def test_mixed_precision_keeps_float32_adapters_and_merges_without_rounding(tmp_path):
    model = changed(classifier(dtype="mixed_bfloat16"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for found, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    exact = classifier()
    tx.freezing.add_lora(exact, rank=2)
    exact.set_weights(model.get_weights())
    expected = logits_of(exact)
    tx.freezing.merge_lora(model)
    plain = classifier()
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(logits_of(plain), expected, atol=1e-5)


@pytest.mark.slow
def test_an_exported_model_answers_with_its_adapters(tmp_path):
    import tensorflow as tf

    embedder = tiny.embedder(tmp_path)
    tx.freezing.add_lora(embedder, rank=2)
    plain = embedder.encode(tiny.TEXTS)
    for number, variable in enumerate(embedder.backbone.lora_variables().values()):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape))
    expected = embedder.encode(tiny.TEXTS)
    assert np.abs(expected - plain).max() > 0.01
    adapted = tx.export.saved_model(embedder, tmp_path / "adapted")
    tx.freezing.merge_lora(embedder)
    np.testing.assert_allclose(embedder.encode(tiny.TEXTS), expected, atol=1e-5)
    merged = tx.export.saved_model(embedder, tmp_path / "merged")
    for path in (adapted, merged):
        served = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(tiny.TEXTS))
        np.testing.assert_allclose(served["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"targets": ["query", "pooler"]}, "targets"),
        ({"targets": []}, "targets"),
        ({"groups": "embeddings"}, "groups"),
        ({"groups": "block_7"}, "groups"),
    ],
)
def test_wrong_arguments_are_errors_that_change_nothing(arguments, named):
    model = classifier()
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        tx.freezing.add_lora(model, **arguments)
    assert model.backbone.lora is None and len(model.trainable_weights) == len(model.weights)


def test_what_has_no_adapters_or_has_others_is_an_error(tmp_path):
    model, path = classifier(), tmp_path / "a.safetensors"
    for call in (tx.freezing.merge_lora, lambda model: tx.freezing.save_adapters(model, path)):
        with pytest.raises(ValueError, match="add_lora"):
            call(model)
    tx.freezing.add_lora(model, rank=2)
    with pytest.raises(ValueError, match="without adapters"):
        tx.freezing.add_lora(model)
    tx.freezing.save_adapters(model, path, head=True)
    other = classifier()
    tx.freezing.add_lora(other, rank=3)
    with pytest.raises(ValueError, match="merge_lora"):
        tx.freezing.load_adapters(other, path)
    with pytest.raises(ValueError, match="hidden_dim=24"):
        tx.freezing.load_adapters(classifier(hidden_dim=24), path)
    with pytest.raises(ValueError, match="family='gpt2'"):
        tx.freezing.load_adapters(classifier("gpt2"), path)
    embedder = tx.models.TextEmbedder(classifier().backbone)
    with pytest.raises(ValueError, match="head"):
        tx.freezing.load_adapters(embedder, path)
    with pytest.raises(ValueError, match="head"):
        tx.freezing.save_adapters(tx.models.TextEmbedder(model.backbone), path, head=True)
    three = tx.models.TextClassifier(classifier().backbone, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="'head/0'"):
        tx.freezing.load_adapters(three, path)
    assert three.backbone.lora is None


def test_a_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "other")
    for name in ("text", "other", "nothing"):
        with pytest.raises(ValueError, match="save_adapters"):
            tx.freezing.load_adapters(classifier(), tmp_path / name)


# === Loading that fails ===


def facts_of(model):
    """Everything that a failed load must leave unchanged."""
    optimizer = model.optimizer
    return (
        [weight.numpy().tobytes() for weight in model.weights],
        [weight.trainable for weight in model.weights],
        [layer.trainable for group in model.layer_groups().values() for layer in group],
        model.backbone.lora,
        optimizer,
        [variable.numpy().tobytes() for variable in optimizer.variables],
    )


def files(folder):
    """Writes adapters that fit and adapters with a wrong shape, which fail in different places."""
    tx.freezing.save_adapters(changed(classifier(num_layers=2)), folder / "fit", head=True)
    tensors = safetensors.numpy.load_file(folder / "fit")
    with safetensors.safe_open(str(folder / "fit"), "np") as file:
        metadata = file.metadata()
    tensors["block_1/0/value/b"] = tensors["block_1/0/value/b"][:, :-1].copy()
    safetensors.numpy.save_file(tensors, folder / "shape", metadata)
    return folder


def fails_at(model, name):
    """A `keras.Variable.assign` that runs out of memory the first time that an adapter gets the file's values."""
    real, calls = keras.Variable.assign, []

    def assign(self, value):
        if self is model.backbone.lora_variables().get(name) and isinstance(value, np.ndarray) and not calls:
            calls.append(1)
            raise MemoryError("no room")
        return real(self, value)

    return assign


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("fault", ["shape", "adding", "assigning", "assigning over"])
def test_loading_that_fails_leaves_the_model_as_it_was(quantized, fault, tmp_path, monkeypatch):
    model = classifier(num_layers=2)
    kernel = model.backbone.blocks()[0][0].attention.query.kernel
    if quantized:
        model.quantize("int8")
    else:
        kernel.assign(kernel * -0.0)  # signed zeros, which no addition preserves
    tx.freezing.freeze(model, below=1)
    if fault == "assigning over":
        changed(model)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), run_eagerly=True)
    model.fit(ids_of(model), Y, verbose=0)
    before, calls = facts_of(model), []
    path = files(tmp_path) / ("shape" if fault == "shape" else "fit")

    def fails(real, after):
        def call(*args, **kwargs):
            calls.append(1)
            if len(calls) == after:
                raise MemoryError("no room")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        if fault == "adding":
            patched.setattr(keras.layers.Dense, "enable_lora", fails(keras.layers.Dense.enable_lora, 3))
        elif fault.startswith("assigning"):
            patched.setattr(keras.Variable, "assign", fails_at(model, "block_1/0/query/a"))
        with pytest.raises((ValueError, MemoryError)):
            tx.freezing.load_adapters(model, path)
    after = facts_of(model)
    for one, other in zip(before, after, strict=True):
        assert one == other
    model.fit(ids_of(model), Y, verbose=0)
    tx.freezing.load_adapters(model, tmp_path / "fit")
    assert model.backbone.lora["rank"] == 2
