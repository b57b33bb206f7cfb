"""The encoders: compared with the reference implementation's hidden states, and used as Keras models."""

import functools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import families
import keras
import keras_hub
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfxfer import backbones
from tfxfer.backbones.families import FAMILIES

# Keras saves TensorFlow's variables through np.array, which numpy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FOLDERS = (*families.NAMES, *families.SHIPPED)
# One for each kind of block and each way to store it.
FEW = ("albert", "deberta_v3", "gemma3", "modernbert", "mpnet", "openai_gpt", "roberta", "t5_gated")
# Families with blocks; their tests do not apply to a table of vectors.
BLOCKS = tuple(name for name in FAMILIES if name != "static")
# All sizes differ, so that swapped dimensions are detected.
SIZES = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 16,
}
DETAILS = {
    "albert": {"embedding_dim": 6, "num_segments": 3, "num_groups": 2, "num_inner_repetitions": 2},
    "electra": {"embedding_dim": 6, "num_segments": 3},
    "bert": {"num_segments": 3},
    "deberta_v3": {"bucket_size": 4},
    "eurobert": {"num_key_value_heads": 1},
    "gemma3_text": {"head_dim": 6, "num_key_value_heads": 1, "sliding_window": 4, "is_causal": False},
    "llama": {"num_key_value_heads": 1},
    "modernbert": {"local_attention": 4},
    "mpnet": {"num_buckets": 8, "max_distance": 12},
    "qwen3": {"head_dim": 6, "num_key_value_heads": 1},
    "roberta": {"pad_token_id": 0},
    "separable_conv": {"num_heads": 1, "kernel_size": 4, "embedding_dim": 6},
    "t5": {"head_dim": 5, "is_gated": True, "num_buckets": 8, "max_distance": 12},
}


def small(family, **kwargs):
    return backbones.Backbone(family, **{**SIZES, **DETAILS.get(family, {}), **kwargs})


@functools.cache
def shared(family):
    """A small encoder that tests share."""
    return small(family)


def batch(backbone, token_ids, padding_mask):
    inputs = {"token_ids": np.asarray(token_ids, "int32"), "padding_mask": np.asarray(padding_mask, "int32")}
    if backbone.has_segment_ids:
        inputs["segment_ids"] = np.zeros_like(inputs["token_ids"])
    return inputs


def run(backbone, inputs):
    return keras.ops.convert_to_numpy(backbone(inputs))


@pytest.fixture(scope="module")
def loaded(golden):
    """The encoder, inputs and reference output of each golden directory, without rows that have no token."""
    result = {}
    for name in FOLDERS:
        backbone = backbones.load(families.folder(golden, name)).backbone
        _, ids, mask, hidden = families.expected(golden, name)
        result[name] = (backbone, batch(backbone, ids, mask), hidden)
    return result


@pytest.fixture(scope="module")
def saved(loaded, tmp_path_factory):
    """A function that saves encoders as `.keras` files with their inputs and outputs, and returns the directory."""
    folder = tmp_path_factory.mktemp("saved")

    def save(names):
        for name in names:
            backbone, inputs, _ = loaded[name]
            backbone.save(folder / f"{name}.keras")
            np.savez(folder / f"{name}.npz", output=run(backbone, inputs), **inputs)
        return folder

    return save


def shifted(inputs, before, after):
    """The same rows with more padding: `before` columns on the left and `after` on the right."""
    return {name: np.pad(value, ((0, 0), (before, after))) for name, value in inputs.items()}


def left_padded(inputs):
    """The same rows with their padding moved to the left."""
    lengths = inputs["padding_mask"].sum(1)
    width = inputs["padding_mask"].shape[1]
    columns = (np.arange(width)[None] - (width - lengths)[:, None]) % width
    return {name: np.take_along_axis(value, columns, 1) for name, value in inputs.items()}


@pytest.mark.parametrize("name", FOLDERS)
def test_hidden_states_equal_the_reference_implementations(loaded, name):
    backbone, inputs, expected = loaded[name]
    real = inputs["padding_mask"].astype(bool)
    np.testing.assert_allclose(run(backbone, inputs)[real], expected[real], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", families.OLDER_CONFIGS)
def test_older_configs_say_the_same(golden, loaded, name, tmp_path):
    folder = families.folder(golden, name)
    shutil.copy(folder / families.OLDER_CONFIGS[name], tmp_path / "config.json")
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / file, tmp_path)
    again = backbones.load(tmp_path).backbone
    backbone, inputs, _ = loaded[name]
    assert again.arguments == backbone.arguments
    np.testing.assert_array_equal(run(again, inputs), run(backbone, inputs))


def test_windows_hold_in_long_texts(golden, loaded):
    backbone = loaded["modernbert"][0]
    with np.load(golden / "families2" / "modernbert" / "expected.npz") as expected:
        inputs = batch(backbone, expected["input_ids_200"], expected["attention_mask_200"])
        real = inputs["padding_mask"].astype(bool)
        assert real.shape[1] > 100
        np.testing.assert_allclose(
            run(backbone, inputs)[real], expected["last_hidden_state_200"][real], rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("name", FOLDERS)
def test_neither_amount_nor_side_of_the_padding_changes_the_result(loaded, name):
    backbone, inputs, expected = loaded[name]
    rows = expected[inputs["padding_mask"].astype(bool)]
    for padded in (shifted(inputs, 0, 9), shifted(inputs, 9, 0), left_padded(inputs), shifted(inputs, 5, 3)):
        output = run(backbone, padded)
        assert np.isfinite(output).all()
        np.testing.assert_allclose(output[padded["padding_mask"].astype(bool)], rows, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "names", "tolerance"),
    [
        ("tensorflow", FEW[:4], 0),  # the same kernels give the same bits
        pytest.param("tensorflow", FOLDERS, 0, marks=pytest.mark.slow),
        ("jax", ("deberta_v3", "gemma3", "mpnet"), 2e-5),
        pytest.param("jax", FOLDERS, 2e-5, marks=pytest.mark.slow),
    ],
)
def test_a_fresh_process_reloads_the_same_numbers(saved, backend, names, tolerance):
    code = f"""
import sys, pathlib, numpy as np, keras
from tfxfer import backbones
errors = {{}}
for name in {names!r}:
    file = pathlib.Path({str(saved(names))!r}) / f"{{name}}.keras"
    arrays = dict(np.load(file.with_suffix(".npz")))
    expected = arrays.pop("output")
    model = keras.saving.load_model(file)
    # On JAX a call compiles each operation by itself; predict compiles once.
    output = model(arrays).numpy() if {backend!r} == "tensorflow" else model.predict(arrays, verbose=0)
    real = arrays["padding_mask"].astype(bool)
    errors[file.stem] = float(np.abs(output - expected)[real].max())
import json; print("RESULT", json.dumps([keras.backend.backend(), errors]))
"""
    pytest.importorskip(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "RESULT" in done.stdout, done.stderr[-2000:]
    used, errors = json.loads(done.stdout.split("RESULT", 1)[1])
    assert used == backend
    assert sorted(errors) == sorted(names)
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("family", BLOCKS)
def test_every_weight_is_in_one_layer_group_and_has_a_gradient(family):
    import tensorflow as tf

    backbone = small(family, dropout=0.0)
    groups = backbone.layer_groups()
    blocks = 2  # two layers; ALBERT here has two groups of blocks
    assert list(groups) == ["embeddings", *(f"block_{i}" for i in range(blocks))]
    grouped = [id(weight) for layers in groups.values() for layer in layers for weight in layer.weights]
    assert sorted(grouped) == sorted({id(weight) for weight in backbone.weights})
    inputs = batch(backbone, np.arange(14).reshape(2, 7), np.ones((2, 7)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(inputs, training=True) ** 3)
    gradients = tape.gradient(loss, [variable.value for variable in backbone.trainable_variables])
    assert all(gradient is not None for gradient in gradients)


def test_debertas_attention_equals_keras_hubs_also_beyond_its_buckets():
    hub = keras_hub.models.DebertaV3Backbone(**SIZES, **DETAILS["deberta_v3"])
    for weight in hub.weights:
        weight.assign(np.random.default_rng(weight.shape[0]).normal(size=weight.shape))
    backbone = backbones.adopt(hub)
    for length in (2, 9, 40):  # for one token KerasHub warns
        ids = np.arange(2 * length).reshape(2, length) % 50
        inputs = batch(backbone, ids, [[1] * length, [1] * (length // 2 + 1) + [0] * (length - length // 2 - 1)])
        real = inputs["padding_mask"].astype(bool)
        expected = keras.ops.convert_to_numpy(hub(inputs))
        np.testing.assert_allclose(run(backbone, inputs)[real], expected[real], rtol=0, atol=5e-4)


@pytest.mark.parametrize(("bucket_size", "max_distance"), [(256, 512), (16, 64), (4, 16)])
def test_debertas_buckets_follow_the_papers_formula(bucket_size, max_distance):
    sizes = {"num_layers": 1, "max_sequence_length": max_distance, "bucket_size": bucket_size}
    rows = small("deberta_v3", **sizes).parts.shared["relative_positions"].rows
    half = bucket_size // 2
    for distance in range(max_distance):
        row = distance
        if distance > half:
            quotient = math.log(distance / half) / math.log((max_distance - 1) / half)
            row = half + math.ceil(round(quotient * (half - 1), 9))
        assert rows[max_distance + distance] == bucket_size + min(row, bucket_size - 1)
        assert rows[max_distance - distance] == bucket_size - row


def test_shared_and_final_layers_belong_to_a_block():
    assert list(small("albert", num_groups=1).layer_groups()) == ["embeddings", "block_0"]
    assert small("gpt2").layer_groups()["block_1"][-1].name == "final_norm"
    assert "relative_positions" in [layer.name for layer in small("deberta_v3").layer_groups()["embeddings"]]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, "mixed_bfloat16") for family in BLOCKS), ("bert", "float32"), ("bert", "bfloat16")],
)
def test_config_and_dtype_policy_come_back(family, dtype):
    backbone = small(
        family,
        activation="silu",
        layer_norm_epsilon=1e-3,
        dropout=0.3,
        attention_dropout=0.2,
        embeddings_dropout=0.0,
        dtype=dtype,
        name="encoder",
    )
    again = backbones.Backbone.from_config(json.loads(json.dumps(backbone.get_config())))
    assert again.get_config() == backbone.get_config()
    assert again.dtype_policy.name == dtype
    assert again.token_embedding.embeddings.shape == backbone.token_embedding.embeddings.shape
    assert {w.dtype for w in again.weights} == {"bfloat16" if dtype == "bfloat16" else "float32"}
    again.set_weights(backbone.get_weights())
    inputs = batch(backbone, np.arange(14).reshape(2, 7), np.ones((2, 7)))
    output = again(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == ("float32" if dtype == "float32" else "bfloat16")
    np.testing.assert_array_equal(np.asarray(output, "float32"), np.asarray(backbone(inputs), "float32"))
    for block, _, _ in again.blocks():
        assert {norm.epsilon for norm in block.norms()} == {1e-3}
        rates = (block.feed_forward_dropout.rate, block.feed_forward.dropout.rate, block.attention.dropout.rate)
        assert 0.3 in rates[:2] and rates[2] == 0.2


def test_attributes_say_what_the_encoder_is():
    backbone = small("electra")
    assert (backbone.family, backbone.hidden_dim, backbone.num_layers) == ("electra", 12, 2)
    assert (backbone.max_sequence_length, backbone.vocabulary_size, backbone.has_segment_ids) == (16, 50, True)
    assert set(backbone.input) == {"token_ids", "padding_mask", "segment_ids"}
    assert set(small("roberta").input) == {"token_ids", "padding_mask"}
    assert backbone.output_shape == (None, None, 12)


def test_activations_differ_and_are_the_ones_named():
    outputs = {}
    for activation in ("gelu", "gelu_approximate", "relu", "silu"):
        keras.utils.set_random_seed(0)
        backbone = small("bert", activation=activation)
        outputs[activation] = run(backbone, batch(backbone, np.arange(14).reshape(2, 7), np.ones((2, 7))))
        function = backbone.blocks()[0][0].feed_forward.intermediate.activation
        assert function(np.array([-1.0], "float32")).shape == (1,)
    assert len({output.tobytes() for output in outputs.values()}) == 4


def test_dropout_is_active_in_training_only_and_each_rate_has_its_place():
    inputs = batch(small("bert"), np.arange(14).reshape(2, 7), np.ones((2, 7)))
    for rates in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"embeddings_dropout": 0.5}):
        backbone = small("bert", **{"dropout": 0.0, "attention_dropout": 0.0, "embeddings_dropout": 0.0, **rates})
        still = run(backbone, inputs)
        np.testing.assert_array_equal(still, run(backbone, inputs))
        assert not np.allclose(still, keras.ops.convert_to_numpy(backbone(inputs, training=True)))
    still = small("bert", dropout=0.0)
    output = keras.ops.convert_to_numpy(still(inputs, training=True))
    np.testing.assert_allclose(output, run(still, inputs), atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_approximate"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_gelu_has_the_values_and_gradients_of_its_formula(dtype, activation):
    feed_forward = small("bert", activation=activation, dropout=0.0, dtype=dtype).blocks()[0][0].feed_forward
    x = np.linspace(-9, 9, 733).astype("float32").astype("float64")
    if activation == "gelu":
        share = 0.5 * scipy.special.erfc(-x / math.sqrt(2))
        slope = share + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    else:
        share = scipy.special.expit(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))  # (1 + tanh(u)) / 2
        slope = share + x * share * (1 - share) * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2)
    # Dense layers that pass each number on: what is left is the activation.
    for layer in (feed_forward.intermediate, feed_forward.output_dense):
        eye = np.eye(*layer.kernel.shape)
        layer.set_weights([eye, np.zeros(layer.kernel.shape[1])])
    rows = tf.Variable(np.repeat(x[:, None], 12, axis=1), dtype=dtype)
    # TensorFlow's erf in float32 is within 3.3e-7; bfloat16 rounds x and the result to 2^-9.
    tolerance = {"float32": 1e-6, "float64": 8e-15, "bfloat16": 2**-7}[dtype] * (1 + np.abs(x))
    for training in (True, False):
        with tf.GradientTape() as tape:
            y = feed_forward(rows, training=training)
        gradient = tape.gradient(y, rows)
        assert y.dtype == gradient.dtype == dtype
        assert np.all(np.abs(tf.cast(y, "float64")[:, 3] - x * share) < tolerance)
        assert np.all(np.abs(tf.cast(gradient, "float64")[:, 3] - slope) < tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_scales_the_rest_and_its_gradient_has_the_same_places(rate, dtype):
    layer = small("bert", dropout=rate, dtype=dtype).blocks()[0][0].feed_forward_dropout
    x = tf.Variable(tf.ones((301, 333), dtype))  # an odd number of numbers
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    gradient = tape.gradient(y, x)
    np.testing.assert_array_equal(tf.cast(y, "float32"), tf.cast(gradient, "float32"))
    values = tf.cast(y, "float32").numpy()
    zero = values == 0
    # The deviation of a share of n numbers is sqrt(p (1 - p) / n); of rows and columns, too.
    for found, count in ((zero.mean(), zero.size), (zero.mean(0), 301), (zero.mean(1), 333)):
        assert np.all(np.abs(found - rate) < 5 * math.sqrt(rate * (1 - rate) / count))
    np.testing.assert_allclose(values[~zero], 1 / (1 - rate), rtol=1e-4 if dtype == "float32" else 8e-3)
    again = layer(x, training=True)
    assert not np.array_equal(tf.cast(again, "float32"), values)
    np.testing.assert_array_equal(layer(x, training=False), x)
    assert layer(tf.ones((0, 4), dtype), training=True).shape == (0, 4)


def test_dropout_draws_as_keras_does_and_xla_compiles_it_for_axes_of_unknown_size():
    layer = small("bert", dropout=0.3).blocks()[0][0].feed_forward_dropout
    plain = keras.layers.Dropout(0.3)
    state = layer.seed_generator.state.value
    plain.seed_generator.state.assign(state)
    x = tf.random.normal((5, 7))
    np.testing.assert_allclose(layer(x, training=True), plain(x, training=True), rtol=1e-6)

    @tf.function(jit_compile=True, autograph=False)
    def of_positive(x):
        rows = tf.boolean_mask(x, x[:, 0] > 0)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            y = layer(rows, training=True)
        return y, tape.gradient(y, rows)

    y, gradient = of_positive(x)
    assert y.shape == gradient.shape == (int(tf.reduce_sum(tf.cast(x[:, 0] > 0, tf.int32))), 7)


def test_frozen_layers_stay_frozen_after_reload(tmp_path):
    backbone = small("bert")
    for layer in backbone.layer_groups()["embeddings"] + backbone.layer_groups()["block_0"]:
        layer.trainable = False
    backbone.save(tmp_path / "frozen.keras")
    again = keras.saving.load_model(tmp_path / "frozen.keras")
    assert len(again.trainable_weights) == len(backbone.trainable_weights) == 16


def test_predict_and_graph_agree_with_eager_call():
    backbone = small("bert")
    inputs = batch(backbone, np.arange(14).reshape(2, 7), [[1] * 7, [1] * 4 + [0] * 3])
    np.testing.assert_allclose(backbone.predict(inputs, verbose=0), run(backbone, inputs), atol=1e-5)


def test_a_row_of_padding_alone_stays_finite():
    for family in BLOCKS:
        backbone = shared(family)
        assert np.isfinite(run(backbone, batch(backbone, np.zeros((2, 5)), [[1] * 5, [0] * 5]))).all()


def test_too_long_input_is_an_error_where_positions_are_a_table():
    ids = np.ones((1, 17), "int32")
    for family in BLOCKS:
        backbone = shared(family)
        if not FAMILIES[family].has_position_table:
            assert run(backbone, batch(backbone, ids, ids)).shape == (1, 17, 12)
        else:
            with pytest.raises(ValueError, match="max_sequence_length=16"):
                backbone(batch(backbone, ids, ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "t6"}, "Invalid value for argument `family`"),
        ({"num_heads": 5}, "a divisor of hidden_dim=12"),
        ({"hidden_dim": 0}, "`hidden_dim`"),
        ({"activation": "tanh"}, "`activation`"),
        ({"dropout": 1.5}, "`dropout`"),
        ({"layer_norm_epsilon": 0}, "`layer_norm_epsilon`"),
        ({"embedding_dim": 6}, "an argument of the family 'roberta'"),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(change, message):
    with pytest.raises(ValueError, match=message):
        backbones.Backbone(**{"family": "roberta", **SIZES, **change})


def ragged_rows(seed=0):
    """Ids of three rows of different lengths, and one batch with the same rows padded on either side."""
    chance = np.random.default_rng(seed)
    rows = [chance.integers(1, 50, (1, n)).astype("int32") for n in (3, 9, 5)]
    sides = [(0, 6), (0, 0), (4, 0)]
    batch = {
        "token_ids": np.concatenate([np.pad(row, ((0, 0), side)) for row, side in zip(rows, sides, strict=True)]),
        "padding_mask": np.concatenate(
            [np.pad(np.ones_like(row), ((0, 0), side)) for row, side in zip(rows, sides, strict=True)]
        ),
    }
    return rows, batch


def gradients_of(backbone, x, weights):
    """Gradients of a weighted sum over the real tokens; random weights make all components different."""
    import tensorflow as tf

    x = {**x, "segment_ids": np.zeros_like(x["token_ids"])} if backbone.has_segment_ids else x
    with tf.GradientTape() as tape:
        y = backbone(x, training=False)
        value = tf.reduce_sum(tf.boolean_mask(y, x["padding_mask"] == 1) ** 2 * weights)
    return [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(value, backbone.trainable_weights)]


@pytest.mark.parametrize("family", BLOCKS)
def test_gradients_of_a_padded_batch_are_the_sum_of_its_rows_alone(family):
    keras.utils.set_random_seed(1)
    backbone = small(family)
    rows, batch = ragged_rows()
    weights = np.random.default_rng(2).normal(size=(17, 12)).astype("float32")
    parts = np.split(weights, np.cumsum([row.shape[1] for row in rows])[:-1])
    alone = [
        gradients_of(backbone, {"token_ids": row, "padding_mask": np.ones_like(row)}, part)
        for row, part in zip(rows, parts, strict=True)
    ]
    for found, *expected in zip(gradients_of(backbone, batch, weights), *alone, strict=True):
        expected = sum(expected)
        # Sums over more tokens round in a different order; the error scales with the largest component.
        np.testing.assert_allclose(found, expected, atol=2e-5 + 1e-6 * np.abs(expected).max(), rtol=2e-4)


@pytest.mark.parametrize("family", BLOCKS)
def test_blocks_compute_real_tokens_only(family, monkeypatch):
    backbone = small(family)
    (block, _, _), *_ = backbone.blocks()
    seen = []
    call = type(block).call
    monkeypatch.setattr(type(block), "call", lambda self, x, *a, **k: (seen.append(x.shape), call(self, x, *a, **k))[1])
    _, batch = ragged_rows()
    gradients_of(backbone, batch, 1.0)
    assert set(seen) == {(17, 12)}


@pytest.mark.parametrize("family", ["bert", "deberta_v3", "gemma3_text", "mpnet"])
def test_xla_gives_the_same_numbers(family):
    import tensorflow as tf

    backbone = small(family)
    _, x = ragged_rows()
    x = {**x, "segment_ids": np.zeros_like(x["token_ids"])} if backbone.has_segment_ids else x
    real = x["padding_mask"] == 1
    compiled = tf.function(lambda x: backbone(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(x).numpy()[real], backbone(x).numpy()[real], atol=1e-5)


# === 16 bits where they are slower than 32 ===

SLOW_HERE = {
    "limited": (lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"), "bfloat16", "oneDNN is limited"),
    "off": (lambda patch: patch.setenv("TF_ENABLE_ONEDNN_OPTS", "0"), "bfloat16", "oneDNN is off"),
    "no instructions": (
        lambda patch: patch.setattr(pathlib.Path, "read_text", lambda *args, **kwargs: "flags\t: avx2 fma\n"),
        "bfloat16",
        "the processor has no instructions for",
    ),
    "float16": (lambda patch: None, "float16", "oneDNN has no fast product with a bias in float16"),
    "float16, off": (lambda patch: patch.setenv("TF_ENABLE_ONEDNN_OPTS", "0"), "float16", "oneDNN is off"),
}


@pytest.fixture
def anywhere(monkeypatch):
    """A CPU of which nothing is known; the tests' own setting is off."""
    for name in ("TFXFER_MIXED_PRECISION", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda *args, **kwargs: "")
    return monkeypatch


@pytest.mark.parametrize("where", SLOW_HERE)
def test_where_16_bits_are_slower_an_encoder_computes_in_float32_and_says_so(anywhere, where):
    made, dtype, reason = SLOW_HERE[where]
    made(anywhere)
    with pytest.warns(UserWarning, match=f"in float32, not in {dtype}: {reason}"):
        backbone = small("bert", dtype=f"mixed_{dtype}", dropout=0.0)
    whole = small("bert", dropout=0.0)
    whole.set_weights(backbone.get_weights())
    x = batch(backbone, [[5, 6, 7], [8, 9, 0]], [[1, 1, 1], [1, 1, 0]])
    found, expected = backbone(x), whole(x)
    assert keras.backend.standardize_dtype(found.dtype) == backbone.compute_dtype == dtype
    np.testing.assert_array_equal(tf.cast(found, "float32"), tf.cast(tf.cast(expected, dtype), "float32"))
    assert {layer.compute_dtype for group in backbone.layer_groups().values() for layer in group} == {"float32"}
    # Saved, it computes in 16 bits on a machine where they are fast.
    anywhere.setenv("TFXFER_MIXED_PRECISION", "always")
    again = backbones.Backbone.from_config(backbone.get_config())
    assert {layer.compute_dtype for group in again.layer_groups().values() for layer in group} == {dtype}


@pytest.mark.parametrize(
    "setting",
    [
        {},  # nothing is known of the processor
        {"ONEDNN_MAX_CPU_ISA": "avx512_core_amx"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "TFXFER_MIXED_PRECISION": "always"},
    ],
)
def test_elsewhere_it_computes_in_the_dtype_that_it_was_given(anywhere, recwarn, setting):
    for name, value in setting.items():
        anywhere.setenv(name, value)
    backbone = small("bert", dtype="mixed_bfloat16")
    assert {layer.compute_dtype for group in backbone.layer_groups().values() for layer in group} == {"bfloat16"}
    anywhere.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert small("bert").parts.embeddings.compute_dtype == "float32"
    assert not [each for each in recwarn if "computes in float32" in str(each.message)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_16_bits_stay_so_and_the_encoder_says_that_it_is_slow(anywhere, dtype):
    anywhere.setattr(pathlib.Path, "read_text", lambda *args, **kwargs: "flags\t: avx2 fma\n")
    with pytest.warns(UserWarning, match=f"computes in {dtype}, which is slower than float32 here"):
        backbone = small("bert", dtype=dtype)
    assert {weight.dtype for weight in backbone.weights} == {dtype}
    assert backbone.parts.embeddings.compute_dtype == dtype
