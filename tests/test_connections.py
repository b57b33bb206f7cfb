"""Heads that read several blocks or token states: against plain loops, in tasks, above frozen layers."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from tfxfer import backbones, data, export, freezing, layers, models

RNG = np.random.default_rng(2)
POOLED = RNG.normal(size=(5, 3, 6)).astype("float32")
STATES = RNG.normal(size=(3, 5, 7, 6)).astype("float32")
# Rows of 7, 4, 1 and 0 real tokens with padding on the right, and a row of 3 with padding on the left.
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6, [0] * 7, [0] * 4 + [1] * 3], "int32")
ROWS = {"t": tiny.TEXTS, "l": tiny.LABELS}
# For each form of head: a function that makes it, and the pooling of its task.
HEADS = {
    "concat": (lambda: layers.DenselyConnectedHead(3, blocks=[0, 2], dropout=0.2), ("mean", "max")),
    "gated": (lambda: layers.DenselyConnectedHead(3, "gated", [1, 2], dropout=0.0), "cls"),
    "scalar_mix": (lambda: layers.DenselyConnectedHead(3, "scalar_mix", hidden_dims=(5,), dropout=0.0), "max"),
    "ladder": (lambda: layers.DenselyConnectedHead(3, "ladder", reduction=2), "mean"),
    "convolution": (lambda: layers.SeparableConvHead(3, (2, 3), 4), "mean"),
}


def forms(fast):
    """Returns all forms as parameters, all but those in `fast` marked as slow."""
    return [pytest.param(form, marks=() if form in fast else pytest.mark.slow) for form in HEADS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabulary")


def randomized(layer, *args, **kwargs):
    """Builds a layer by calling it on the arguments and randomizes its weights."""
    layer(*args, **kwargs)
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    return layer


def model(folder, form, below=None, seed=0):
    """Makes a classifier with a head from `HEADS`; the groups below `below` are frozen."""
    keras.utils.set_random_seed(seed)
    make, pooling = HEADS[form]
    labels = ["card", "loan", "other"]
    made = models.TextClassifier(
        tiny.backbone(num_layers=3), tiny.preprocessor(folder), labels=labels, head=make(), pooling=pooling
    )
    if below is not None:
        freezing.freeze(made, below=below)
    made.compile(keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=True)
    return made


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# === The layers ===


def test_concat_reads_all_vectors_side_by_side():
    head = randomized(layers.DenselyConnectedHead(2, dropout=0.0), POOLED)
    kernel, bias = (w.numpy() for w in head.weights)
    expected = np.concatenate([POOLED[:, 0], POOLED[:, 1], POOLED[:, 2]], axis=1) @ kernel + bias
    np.testing.assert_allclose(head(POOLED), expected, atol=1e-5)
    assert head.linear_output() is head.output_dense


def test_gates_start_as_the_mean_and_equal_their_formula():
    head = layers.DenselyConnectedHead(2, "gated")
    head(POOLED)
    np.testing.assert_allclose(head.connected(POOLED), POOLED.mean(axis=1), atol=1e-6)
    randomized(head, POOLED)
    slopes, bias = head.gate_weights.numpy(), head.gate_bias.numpy()
    expected = POOLED[:, 0]
    for k in (1, 2):
        gate = sigmoid(slopes[k - 1] * POOLED[:, k] + bias[k - 1])
        expected = gate * POOLED[:, k] + (1 - gate) * expected
    np.testing.assert_allclose(head.connected(POOLED), expected, atol=1e-6)
    assert head.linear_output() is None
    np.testing.assert_array_equal(layers.DenselyConnectedHead(2, "gated").connected(POOLED[:, :1]), POOLED[:, 0])


def test_the_scalar_mix_is_elmos():
    head = randomized(layers.DenselyConnectedHead(2, "scalar_mix"), POOLED)
    weights, scale = np.exp(head.mix_weights.numpy()), float(head.mix_scale)
    expected = scale * np.einsum("k,nkd->nd", weights / weights.sum(), POOLED)
    np.testing.assert_allclose(head.connected(POOLED), expected, atol=1e-5)


def normed(x, norm):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * norm.gamma.numpy() + norm.beta.numpy()


def dense(x, layer):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def attended(x, attention):
    """Computes self-attention over the tokens of one text, head by head."""
    query, key, value, output = (w.numpy() for w in attention.weights[0::2])
    query_bias, key_bias, value_bias, output_bias = (w.numpy() for w in attention.weights[1::2])
    found = output_bias.copy() + np.zeros((len(x), output.shape[-1]))
    for h in range(query.shape[1]):
        q, k = x @ query[:, h] + query_bias[h], x @ key[:, h] + key_bias[h]
        scores = q @ k.T / np.sqrt(query.shape[2])
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        found += shares @ (x @ value[:, h] + value_bias[h]) @ output[h]
    return found


def test_a_ladder_equals_a_loop_over_the_real_tokens_of_each_text():
    head = layers.DenselyConnectedHead(2, "ladder", activation="relu", reduction=2)
    randomized(head, list(STATES), padding_mask=MASK)
    found = ops.convert_to_numpy(head.connected(list(STATES), MASK))
    assert found.shape == (5, 9) and not found[3].any()
    for row in (0, 1, 2, 4):
        side, states = None, STATES[:, row][:, MASK[row] == 1]
        for block, each in zip(head.side_blocks, states, strict=True):
            x = dense(each, block.narrow)
            if side is not None:
                gate = sigmoid(float(block.gate) / 0.1)
                x = gate * x + (1 - gate) * side
            x = x + attended(normed(x, block.attention_norm), block.attention)
            y = np.maximum(dense(normed(x, block.feed_forward_norm), block.intermediate), 0)
            side = x + dense(y, block.output_dense)
        np.testing.assert_allclose(found[row], [*states[-1].mean(axis=0), *side.mean(axis=0)], atol=1e-4)


def convolved(tokens, kernel):
    """Computes a depthwise convolution over the tokens of one text, position by position."""
    size = len(kernel)
    found = np.zeros_like(tokens)
    for t in range(len(tokens)):
        for j in range(size):
            place = t + j - (size - 1) // 2
            if 0 <= place < len(tokens):
                found[t] += kernel[j] * tokens[place]
    return found


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_convolutions_equal_a_loop_over_real_tokens(mode):
    head = layers.SeparableConvHead(2, (2, 5, 1), 4, pooling=mode, activation="tanh")
    randomized(head, STATES[0], padding_mask=MASK)
    found = ops.convert_to_numpy(head.convolved(STATES[0], MASK))
    assert found.shape == (5, 12) and not found[3].any()
    for row in (0, 1, 2, 4):
        tokens = STATES[0, row][MASK[row] == 1]
        parts = [
            np.tanh(dense(convolved(tokens, kernel.numpy()), layer))
            for kernel, layer in zip(head.depthwise, head.pointwise, strict=True)
        ]
        expected = [getattr(part, mode)(axis=0) for part in parts]
        np.testing.assert_allclose(found[row], np.concatenate(expected), atol=1e-5)
    spoiled = np.where(MASK[..., None] == 1, STATES[0], 1e6).astype("float32")
    np.testing.assert_array_equal(head(spoiled, padding_mask=MASK), head(STATES[0], padding_mask=MASK))


def test_convolutions_of_unpadded_rows_are_those_of_keras():
    head = layers.SeparableConvHead(2, (4, 3), 5, activation="relu", dropout=0.0)
    randomized(head, STATES[0], padding_mask=MASK)
    parts = []
    for kernel, pointwise in zip(head.depthwise, head.pointwise, strict=True):
        reference = keras.layers.SeparableConv1D(5, kernel.shape[0], padding="same", activation="relu")
        reference.build((None, None, 6))
        reference.set_weights([kernel.numpy()[..., None], pointwise.kernel.numpy()[None], pointwise.bias.numpy()])
        parts.append(reference)
    for row in (0, 1, 4):
        tokens = STATES[:1, row][:, MASK[row] == 1]
        expected = np.concatenate([ops.convert_to_numpy(part(tokens)).max(axis=1) for part in parts], axis=1)
        np.testing.assert_allclose(head.convolved(STATES[0], MASK)[row : row + 1], expected, atol=1e-5)


def test_padding_on_either_side_and_its_amount_change_nothing():
    for layer, states in (
        (layers.SeparableConvHead(2, (2, 5), 4), STATES[0]),
        (layers.DenselyConnectedHead(2, "ladder", reduction=2), list(STATES)),
    ):
        randomized(layer, states, padding_mask=MASK)
        expected = layer(states, padding_mask=MASK)
        for sides in ((3, 0), (0, 4)):
            pad = lambda x, sides=sides: np.pad(x, [(0, 0), sides, (0, 0)], constant_values=9.0)  # noqa: E731
            found = layer(keras.tree.map_structure(pad, states), padding_mask=np.pad(MASK, [(0, 0), sides]))
            np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: layers.DenselyConnectedHead(2, "dense"), "`connection`.*'scalar_mix'"),
        (lambda: layers.DenselyConnectedHead(2, blocks="top"), "`blocks`.*list of numbers"),
        (lambda: layers.DenselyConnectedHead(2, blocks=[]), "`blocks`"),
        (lambda: layers.DenselyConnectedHead(2, blocks=[2, 1]), "`blocks`.*rising"),
        (lambda: layers.DenselyConnectedHead(2, blocks=[1, 1]), "`blocks`.*once"),
        (lambda: layers.DenselyConnectedHead(2, reduction=0), "`reduction`"),
        (lambda: layers.DenselyConnectedHead(2)(STATES), "`inputs`"),
        (lambda: layers.DenselyConnectedHead(2, "ladder")(POOLED, padding_mask=MASK), "`inputs`.*list"),
        (lambda: layers.SeparableConvHead(2, ()), "`kernel_sizes`"),
        (lambda: layers.SeparableConvHead(2, (3, 3)), "`kernel_sizes`.*once"),
        (lambda: layers.SeparableConvHead(2, (0,)), "`kernel_sizes`"),
        (lambda: layers.SeparableConvHead(2, pooling="cls"), "`pooling`"),
    ],
)
def test_bad_arguments_are_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# === In tasks ===


def by_hand(made, form, texts):
    """Computes the output of a task from the hidden states of each layer."""
    x = made.preprocessor(texts)
    states, mask = made.backbone.hidden_states()(x), x["padding_mask"]
    if form == "convolution":
        return made.head(states[-1], padding_mask=mask)
    chosen = [states[i + 1] for i in (range(3) if made.head.blocks == "all" else made.head.blocks)]
    if form == "ladder":
        return made.head(chosen, padding_mask=mask)
    pooling = layers.Pooling(HEADS[form][1])
    return made.head(np.stack([pooling(each, padding_mask=mask) for each in chosen], axis=1))


@pytest.mark.parametrize("form", forms(("convolution",)))
def test_a_task_gives_its_head_what_it_reads_and_comes_back_whole(form, folder, tmp_path):
    made = model(folder, form)
    expected = tiny.outputs(made, tiny.TEXTS)
    np.testing.assert_allclose(by_hand(made, form, tiny.TEXTS), expected, atol=1e-5)
    made.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(tiny.outputs(again, tiny.TEXTS), expected, atol=1e-6)
    made.save_to_preset(tmp_path / "preset")
    again = models.TextClassifier.from_preset(tmp_path / "preset", labels=["other", "loan", "card"], dropout=0.4)
    np.testing.assert_allclose(tiny.outputs(again, tiny.TEXTS), expected[:, ::-1], atol=1e-6)
    assert again.head.head.dropout == 0.4
    left = tiny.preprocessor(folder, padding_side="left")(tiny.TEXTS)
    np.testing.assert_allclose(made(left), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "below"),
    [
        pytest.param(form, below, marks=() if (form, below) == ("concat", 3) else pytest.mark.slow)
        for form in HEADS
        for below in (2, 3)
    ],
)
def test_training_above_kept_blocks_gives_the_weights_of_training_without(form, below, folder):
    whole, above = model(folder, form, below), model(folder, form, below)
    batches = lambda made: data.batches(  # noqa: E731
        data.labelled(ROWS, "t", "l", labels=made.labels), made.preprocessor, 4, seed=1
    )
    whole.fit(batches(whole), epochs=1, verbose=0)
    start = above.get_weights()
    short = freezing.AboveFrozen(above)
    short.fit(batches(above), epochs=1, verbose=0)
    for wanted, got in zip(whole.get_weights(), above.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(start, above.get_weights(), strict=True)) > 1e-3
    # The cache holds the text vectors or the token states of each block that is read below the cut.
    texts, tokens = (
        len(tiny.TEXTS),
        sum(int(tf.reduce_sum(above.preprocessor([t])["padding_mask"])) for t in tiny.TEXTS),
    )
    rows, dim = (texts, 8) if below == 3 and HEADS[form][0]().reads == "pooled_blocks" else (tokens, 8)
    read = {"concat": [1, 3], "gated": [2, 3], "convolution": [3]}.get(form, [1, 2, 3])
    kept = [i for i in read if i < below] + ([below] if max(read) >= below else [])
    modes = 2 if form == "concat" and rows == texts else 1
    assert short.cache_bytes == rows * dim * len(kept) * modes * 4
    with pytest.raises(ValueError, match=r"`max_bytes`.*bytes"):
        freezing.AboveFrozen(above, max_bytes=100).cached(batches(above))


@pytest.mark.parametrize("form", ["concat", "ladder"])
def test_no_backward_pass_goes_through_a_frozen_encoder(form, folder):
    made = model(folder, form, 3)
    x = {name: tf.constant(value) for name, value in tiny.inputs(made).items()}

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made(x, training=True) ** 2)
    assert tape.gradient(loss, [w.value for w in made.backbone.weights]) == [None] * len(made.backbone.weights)

    @tf.function
    def slopes(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(made(x, training=True) ** 2)
        return tape.gradient(loss, [w.value for w in made.trainable_variables])

    operations = slopes.get_concrete_function(x).graph.get_operations()
    backward = [op.name for op in operations if op.name.startswith("gradient_tape/")]
    assert backward and not [name for name in backward if "/block_" in name or "/embeddings" in name]


def test_the_states_of_several_layers_come_out_of_two_parts():
    backbone = backbones.Backbone(
        "gpt2", vocabulary_size=30, num_layers=3, num_heads=2, hidden_dim=8, intermediate_dim=12, max_sequence_length=9
    )
    x = {"token_ids": RNG.integers(0, 30, (5, 7)).astype("int32"), "padding_mask": MASK}
    expected = backbone.hidden_states()(x)
    real = MASK == 1
    for number in range(4):
        for states in ([0, 1, 2, 3], [1, 3], [0], [3], [1]):
            below, above = backbone.split(number, states)
            found = above([below(x), ops.convert_to_tensor(MASK)])
            found = found if isinstance(found, list) else [found]
            for i, each in zip(states, found, strict=True):
                np.testing.assert_allclose(each.numpy()[real], expected[i].numpy()[real], atol=1e-6)
    for states in ([], [1, 0], [4], [-1]):
        with pytest.raises(ValueError, match="`states`"):
            backbone.split(1, states)


class Ends(keras.layers.Layer):
    """A user-defined head: max pooling over a linear layer on the token states of the second block."""

    reads = "blocks"
    blocks = (1,)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def build(self, inputs_shape, padding_mask_shape=None):
        self.dense.build(inputs_shape[0])
        self.built = True

    def call(self, inputs, padding_mask):
        return layers.Pooling("max")(self.dense(inputs[0]), padding_mask=padding_mask)

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        return (inputs_shape[0][0], 3)


def test_a_head_of_ones_own_reads_what_it_says(folder):
    made = models.TextRegressor(tiny.backbone(num_layers=3), tiny.preprocessor(folder), num_outputs=3, head=Ends())
    x = made.preprocessor(tiny.TEXTS)
    state = made.backbone.hidden_states()(x)[2]
    np.testing.assert_allclose(made(x), made.head([state], padding_mask=x["padding_mask"]), atol=1e-6)
    freezing.freeze(made, below=3)
    made.compile("sgd", "mse", run_eagerly=True)
    short = freezing.AboveFrozen(made)
    batches = data.batches((tiny.TEXTS, np.zeros((8, 3), "float32")), made, 3, shuffle=False)
    found = np.concatenate([short(x).numpy() for x, _ in short.cached(batches)])
    np.testing.assert_allclose(found, tiny.outputs(made, tiny.TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("head", "options", "said"),
    [
        (lambda: layers.DenselyConnectedHead(3, blocks=[0, 3]), {}, r"`blocks`.*below 3"),
        (lambda: layers.DenselyConnectedHead(2), {}, r"`head`.*\(batch, 3\)"),
        (lambda: layers.SeparableConvHead(3), {"pooling": "max"}, "`pooling`.*pools them itself"),
    ],
)
def test_a_head_that_does_not_fit_is_an_error(folder, head, options, said):
    labels = ["card", "loan", "other"]
    with pytest.raises(ValueError, match=said):
        models.TextClassifier(
            tiny.backbone(num_layers=3), tiny.preprocessor(folder), labels=labels, head=head(), **options
        )


def test_the_output_layer_of_concat_starts_as_a_probe_and_the_others_cannot(folder):
    made = model(folder, "concat", 3)
    assert made.has_new_head()
    short = freezing.AboveFrozen(made)
    made.compile(run_eagerly=True)
    short.fit(tiny.TEXTS * 4, tiny.LABELS * 4, batch_size=32, epochs=1, verbose=0)
    assert made.head_probe.scores["accuracy"] > 0.9
    found = freezing.probe(made, tiny.TEXTS * 4, tiny.LABELS * 4)
    assert found.scores["accuracy"] > 0.9 and made.has_probed_head()
    assert made.classify(tiny.TEXTS).labels == tiny.LABELS
    with pytest.raises(ValueError, match=r"`model`.*A regression cannot start"):
        freezing.probe(model(folder, "convolution"), tiny.TEXTS, tiny.LABELS)
    for connection in layers.CONNECTIONS[1:]:
        assert layers.DenselyConnectedHead(3, connection).linear_output() is None
    assert layers.DenselyConnectedHead(3, hidden_dims=(4,)).linear_output() is None


@pytest.mark.slow
@pytest.mark.parametrize("form", HEADS)
def test_exports_answer_as_the_model_does(form, folder, tmp_path):
    made = model(folder, form)
    path = export.saved_model(made, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    expected = made.classify(tiny.TEXTS).probabilities
    np.testing.assert_allclose(served(text=tf.constant(tiny.TEXTS))["probabilities"], expected, atol=1e-5)
    assert json.dumps(made.get_config()["head"])
