"""KerasHub backbones in task models: converted if we have the family, wrapped otherwise, or refused.

The expected numbers are those of the KerasHub backbone itself.
"""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

import tfxfer as tx

SIZES = {
    "vocabulary_size": len(tiny.VOCABULARY),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
GROUPED = {**SIZES, "num_query_heads": 2, "num_key_value_heads": 1}
GROUPED.pop("num_heads")
# Two key heads for four query heads, so that the order of sharing matters.
SHARED = {"num_query_heads": 4, "num_key_value_heads": 2}
GROUPS = {"num_layers": 4, "num_groups": 2, "num_inner_repetitions": 2}
LLAMA_3 = {"rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0, "rope_pretraining_sequence_length": 16}
# A class that is converted -> its family and further arguments.
KNOWN = {
    "BertBackbone": ("bert", {"max_sequence_length": 16, "dropout": 0.3, "num_segments": 3}),
    "RobertaBackbone": ("roberta", {"max_sequence_length": 16}),
    "XLMRobertaBackbone": ("xlm_roberta", {"max_sequence_length": 16}),
    "DistilBertBackbone": ("distil_bert", {"max_sequence_length": 16}),
    "AlbertBackbone": ("albert", {**GROUPS, "max_sequence_length": 16, "embedding_dim": 4, "num_segments": 3}),
    "DebertaV3Backbone": ("deberta_v3", {"max_sequence_length": 16, "bucket_size": 4}),
    "ElectraBackbone": ("electra", {"max_sequence_length": 16, "embedding_dim": 4, "num_segments": 3}),
    "GPT2Backbone": ("gpt2", {"max_sequence_length": 16}),
    "LlamaBackbone": ("llama", {**SHARED, "rope_max_wavelength": 500}),
    "QwenBackbone": ("qwen2", SHARED),
    "Qwen3Backbone": ("qwen3", {**SHARED, "head_dim": 6, "layer_norm_epsilon": 1e-3}),
}
# A class that is wrapped -> its arguments. The classes in `WRAPPED` differ most from one another.
WRAPPED = {
    "FNetBackbone": {**SIZES, "max_sequence_length": 16, "dropout": 0.5},
    "RoformerV2Backbone": {**SIZES, "head_size": 4, "dropout": 0.5},
    "XLNetBackbone": {**SIZES, "dropout": 0.5},
    "OPTBackbone": {**SIZES, "max_sequence_length": 16, "dropout": 0.5},
    "CLIPTextEncoder": {**SIZES, "embedding_dim": 8, "max_sequence_length": 16},
}
OTHERS = {
    "BloomBackbone": SIZES,
    "ESMBackbone": {**SIZES, "max_sequence_length": 16},
    "FalconBackbone": {**SIZES, "num_attention_heads": 2},
    "GPTNeoXBackbone": {**SIZES, "hidden_dim": 32, "intermediate_dim": 32},
    "GemmaBackbone": {**GROUPED, "head_dim": 4},
    "Gemma3Backbone": {**GROUPED, "head_dim": 4, "image_size": None},
    "Gemma4Backbone": {**GROUPED, "head_dim": 4, "image_size": None},
    "MistralBackbone": GROUPED,
    "Phi3Backbone": GROUPED,
    "Llama3Backbone": {**GROUPED, "rope_frequency_adjustment_factor": 8.0, **LLAMA_3},
}
# In these, padding affects the outputs of real tokens.
PADDING_MATTERS = {"FNetBackbone", "RoformerV2Backbone", "XLNetBackbone", "ESMBackbone"}


def make(name, **kwargs):
    """A KerasHub backbone with weights large enough that outputs differ between texts."""
    cls = getattr(keras_hub.models, name)
    if name in KNOWN:
        arguments = {**(GROUPED if KNOWN[name][0] in ("llama", "qwen2", "qwen3") else SIZES), **KNOWN[name][1]}
        if name == "ElectraBackbone":
            arguments["vocab_size"] = arguments.pop("vocabulary_size")
    else:
        arguments = {**WRAPPED, **OTHERS}[name]
        if name == "FNetBackbone" or "num_attention_heads" in arguments:
            arguments = {key: value for key, value in arguments.items() if key != "num_heads"}
    keras.utils.set_random_seed(0)
    made = cls(**{**arguments, **kwargs})
    rng = np.random.default_rng(0)
    made.set_weights([w + rng.normal(0, 0.2, w.shape).astype(w.dtype) for w in made.get_weights()])
    return made


def batch(model, padding_id=0):
    """Three rows of ids of different lengths, right-padded, as a dict of this model's inputs."""
    ids = np.array([[5, 6, 7, 8, 9, 0, 0], [5, 9, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 9]], "int32")
    mask = (ids > 0).astype("int32")
    found = {"token_ids": np.where(mask > 0, ids, padding_id), "padding_mask": mask}
    return {**found, "segment_ids": np.arange(21).reshape(3, 7) % 2 * mask} if model.has_segment_ids else found


def expected_of(hub, x):
    """The sequence output of a KerasHub backbone, called as its users do."""
    x = {**x, "position_ids": np.tile(np.arange(7), (3, 1))}
    output = hub({name: x[name] for name in hub.input})
    return ops.convert_to_numpy(output["sequence_output"] if isinstance(output, dict) else output)


def run(model, x, **kwargs):
    return ops.convert_to_numpy(model(x, **kwargs))


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("vocabulary"))


def classifier(hub, preprocessor, **kwargs):
    return tx.models.TextClassifier(hub, preprocessor, **{"labels": ["card", "loan", "other"], **kwargs})


# === Converted ===


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_family_comes_in_our_form_with_its_numbers(name):
    hub = make(name)
    backbone = tx.backbones.adopt(hub)
    assert type(backbone) is tx.backbones.Backbone and backbone.family == KNOWN[name][0]
    x = batch(backbone)
    real = x["padding_mask"].astype(bool)
    np.testing.assert_allclose(run(backbone, x)[real], expected_of(hub, x)[real], rtol=0, atol=2e-5)
    assert tx.backbones.adopt(backbone) is backbone
    before = expected_of(hub, x)
    backbone.set_weights([0 * w for w in backbone.get_weights()])
    np.testing.assert_array_equal(expected_of(hub, x), before, "the weights are copies")


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("LlamaBackbone", {"rope_position_scaling_factor": 2.0}),
        ("LlamaBackbone", {"rope_frequency_adjustment_factor": 8.0, **LLAMA_3}),
        ("QwenBackbone", {"use_sliding_window_attention": True, "sliding_window_size": 4}),
        ("Qwen3Backbone", {"sliding_window_size": 4}),
    ],
)
def test_a_variant_of_a_known_family_that_is_not_computed_here_is_wrapped(name, detail):
    hub = make(name, **detail)
    backbone = tx.backbones.adopt(hub)
    assert type(backbone) is tx.backbones.KerasHubBackbone and backbone.pooling == "last"
    x = batch(backbone)
    np.testing.assert_array_equal(run(backbone, x), expected_of(hub, x))


def test_an_epsilon_that_hugging_face_cannot_say_is_not_written(tmp_path):
    preprocessor = tiny.preprocessor(tmp_path, segment_ids=False)
    kept = tx.models.TextEmbedder(make("Qwen3Backbone", layer_norm_epsilon=1e-5), preprocessor)
    kept.save_to_preset(tmp_path / "kept", format="huggingface")
    model = tx.models.TextEmbedder(make("Qwen3Backbone"), preprocessor)
    assert (model.backbone.layer_norm_epsilon, model.backbone.head_norm_epsilon) == (1e-3, 1e-5)
    with pytest.raises(ValueError, match="argument `head_norm_epsilon`"):
        model.save_to_preset(tmp_path / "other", format="huggingface")
    model.save_to_preset(tmp_path / "own")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "own")
    np.testing.assert_array_equal(again.encode(tiny.TEXTS), model.encode(tiny.TEXTS))


def test_an_encoder_of_kerashub_in_16_bits_that_are_slower_says_so(monkeypatch):
    monkeypatch.delenv("TFXFER_MIXED_PRECISION")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.warns(UserWarning, match="computes in bfloat16, which is slower than float32 here: oneDNN is off"):
        wrapped = tx.backbones.KerasHubBackbone(make("FNetBackbone", dtype="mixed_bfloat16"))
    assert wrapped.dtype_policy.name == "mixed_bfloat16"


def test_a_backbone_taken_over_keeps_dtype_rates_and_flags():
    hub = make("BertBackbone", dtype="mixed_bfloat16")
    hub.get_layer("transformer_layer_0").trainable = False
    hub.get_layer("token_embedding").trainable = False
    backbone = tx.backbones.adopt(hub)
    assert backbone.dtype_policy.name == "mixed_bfloat16" and backbone.dropout == 0.3
    frozen = {weight.path for weight in backbone.weights if not weight.trainable}
    block = {weight.path for layer in backbone.layer_groups()["block_0"] for weight in layer.weights}
    assert frozen == block | {backbone.token_embedding.weights[0].path}
    assert not backbone.layer_groups()["block_0"][0].trainable, "without dropout, too"
    hub.trainable = False
    assert not tx.backbones.adopt(hub).trainable_weights


@pytest.mark.parametrize("task", ["classifier", "regressor", "embedder", "siamese"])
@pytest.mark.parametrize("name", ["BertBackbone", "FNetBackbone"])
def test_every_task_model_takes_a_keras_hub_backbone(name, task, preprocessor):
    hub = make(name)
    made = {
        "classifier": lambda: classifier(hub, preprocessor),
        "regressor": lambda: tx.models.TextRegressor(hub, preprocessor),
        "embedder": lambda: tx.models.TextEmbedder(hub, preprocessor),
        "siamese": lambda: tx.models.Siamese(tx.models.TextEmbedder(hub, preprocessor)),
    }[task]()
    texts = (tiny.TEXTS, tiny.TEXTS[::-1]) if task == "siamese" else tiny.TEXTS
    assert np.isfinite(made.predict(texts, verbose=0)).all()
    model = getattr(made, "embedder", made)
    x = {name: np.asarray(value) for name, value in preprocessor(tiny.TEXTS[:3]).items()}
    pooled = ops.convert_to_numpy(keras.Model(model.input, model.get_layer("pooling").output)(x))
    mask = x["padding_mask"][..., None]
    output = hub({name: x[name] for name in hub.input})["sequence_output"]
    np.testing.assert_allclose(pooled, (output * mask).numpy().sum(1) / mask.sum(1), atol=1e-5)


# === Wrapped ===


def check_wrapped(name):
    hub = make(name)
    backbone = tx.backbones.adopt(hub)
    assert type(backbone) is tx.backbones.KerasHubBackbone and backbone.family == name and backbone.hub() is hub
    assert tx.backbones.adopt(backbone) is backbone
    x = batch(backbone)
    real = x["padding_mask"].astype(bool)
    output = run(backbone, x)
    np.testing.assert_array_equal(output[real], expected_of(hub, x)[real])
    assert output.shape[-1] == backbone.hidden_dim and backbone.num_layers == 2
    assert backbone.vocabulary_size == len(tiny.VOCABULARY)
    assert backbone.token_embedding.weights[0].shape[0] == len(tiny.VOCABULARY)
    wide = run(backbone, {name: np.pad(value, [(0, 0), (0, 4)]) for name, value in x.items()})[:, :7]
    # If this fails because KerasHub fixed a mask, remove the name from both lists.
    assert (np.abs(wide - output)[real].max() > 1e-5) == (name in PADDING_MATTERS) == backbone.depends_on_padding
    groups = backbone.layer_groups()
    assert list(groups) == ["embeddings", "block_0", "block_1"]
    grouped = [id(weight) for layers in groups.values() for layer in layers for weight in layer.weights]
    assert sorted(grouped) == sorted({id(weight) for weight in backbone.weights})
    again = type(backbone).from_config(backbone.get_config())
    again.set_weights(backbone.get_weights())
    np.testing.assert_array_equal(run(again, x), output)
    return backbone, x, output


@pytest.mark.parametrize("name", WRAPPED)
def test_a_family_without_a_form_of_ours_is_wrapped_with_its_numbers(name):
    backbone, x, output = check_wrapped(name)
    states = backbone.hidden_states()(x)
    assert len(states) == 3
    np.testing.assert_array_equal(ops.convert_to_numpy(states[-1]), output)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_text_backbones_are_wrapped_too(name):
    backbone, x, output = check_wrapped(name)
    real = x["padding_mask"].astype(bool)
    states = [ops.convert_to_numpy(each)[real] for each in backbone.hidden_states()(x)]
    for number in range(0 if backbone.depends_on_padding else 3):
        below, above = backbone.split(number)
        again = ops.convert_to_numpy(above([below(x), ops.convert_to_tensor(x["padding_mask"])]))
        np.testing.assert_allclose(again[real], output[real], atol=1e-6)
        for wanted in ([0, 1, 2], [1], [0, 2]):
            below, above = backbone.split(number, wanted)
            found = above([below(x), ops.convert_to_tensor(x["padding_mask"])])
            for i, each in zip(wanted, found if isinstance(found, list) else [found], strict=True):
                np.testing.assert_allclose(ops.convert_to_numpy(each)[real], states[i], atol=1e-6)


def test_a_pooler_that_no_output_needs_is_left_out():
    hub = make("FNetBackbone")
    backbone = tx.backbones.adopt(hub)
    pooler = {id(weight) for weight in hub.get_layer("pooled_dense").weights}
    assert pooler and not pooler & {id(weight) for weight in backbone.weights}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(batch(backbone)) ** 3)
    assert all(g is not None for g in tape.gradient(loss, [w.value for w in backbone.trainable_variables]))


@pytest.mark.parametrize("name", ["RoformerV2Backbone", "ESMBackbone"])
def test_where_padding_is_read_off_an_id_the_mask_decides(name):
    backbone = tx.backbones.adopt(make(name))
    expected = run(backbone, batch(backbone))
    np.testing.assert_array_equal(run(backbone, batch(backbone, padding_id=4)), expected)


def dropouts(*layers):
    """The dropout layers among the attributes of layers, searched recursively."""
    found, waiting = {}, list(layers)
    while waiting:
        each = waiting.pop()
        if isinstance(each, (list, tuple, dict)):
            waiting.extend(each.values() if isinstance(each, dict) else each)
        elif isinstance(each, keras.layers.Layer) and id(each) not in found:
            found[id(each)] = each
            waiting.extend(vars(each).values())
    return [layer for layer in found.values() if isinstance(layer, keras.layers.Dropout)]


@pytest.mark.parametrize("name", [name for name in WRAPPED if name != "CLIPTextEncoder"])  # which has no dropout
def test_frozen_layers_of_a_wrapped_backbone_run_without_dropout_unless_they_are_to(name):
    backbone = tx.backbones.adopt(make(name))
    x = batch(backbone)
    still = run(backbone, x, training=False)

    def difference():
        return np.abs(run(backbone, x, training=True) - still).max()

    def rates():
        return [layer.rate for layer in dropouts(backbone.hub())]

    before = rates()
    assert difference() > 0.1 and backbone.dropout == max(before) == 0.5
    groups = dict.fromkeys(backbone.layer_groups(), False)
    backbone.set_trainable(groups)
    assert difference() == 0 and not backbone.trainable_weights
    backbone.set_trainable({"block_1": True})
    assert difference() > 1e-3
    backbone.set_trainable({"block_1": False})
    backbone.frozen_dropout = True
    assert difference() > 0.1
    again = type(backbone).from_config(backbone.get_config())
    assert again.frozen_dropout and not again.trainable_weights
    assert rates() == before, "the backbone's own again"


def test_single_weights_stay_frozen_through_a_file(tmp_path):
    backbone = tx.backbones.adopt(make("FNetBackbone"))
    backbone.layer_groups()["block_0"][0].weights[1].trainable = False
    flags = [weight.trainable for weight in backbone.weights]
    assert flags.count(False) == 1
    backbone.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    assert [weight.trainable for weight in again.weights] == flags


def test_a_text_too_long_for_the_position_table_is_an_error():
    backbone = tx.backbones.adopt(make("FNetBackbone"))
    assert backbone.has_position_table and backbone.max_sequence_length == 16
    ids = np.ones((1, 17), "int32")
    with pytest.raises(ValueError, match="max_sequence_length=16"):
        backbone({"token_ids": ids, "padding_mask": ids, "segment_ids": ids})


def test_decoders_pool_the_last_token_where_nothing_is_said():
    pooling = {name: tx.backbones.adopt(make(name)).pooling for name in ("FNetBackbone", "OPTBackbone")}
    assert pooling == {"FNetBackbone": "mean", "OPTBackbone": "last"}


# === Wrapped, in a task ===


@pytest.fixture(
    params=[
        "FNetBackbone",
        pytest.param("OPTBackbone", marks=pytest.mark.slow),
        pytest.param("RoformerV2Backbone", marks=pytest.mark.slow),
        pytest.param("XLNetBackbone", marks=pytest.mark.slow),
    ]
)
def wrapped(request, preprocessor):
    """A classifier on a wrapped backbone; its preprocessor has segment ids only if the backbone does."""
    hub = make(request.param, dropout=0.1)
    if "segment_ids" not in hub.input:
        preprocessor = tx.preprocessing.TextPreprocessor(preprocessor.tokenizer, 16, segment_ids=False)
    keras.utils.set_random_seed(0)
    return classifier(hub, preprocessor)


def test_a_wrapped_backbone_trains_freezes_and_is_saved_and_exported(wrapped, tmp_path):
    tx.freezing.freeze(wrapped, below=1)
    frozen = {weight.path: weight.numpy() for weight in wrapped.weights if not weight.trainable}
    assert frozen and list(wrapped.layer_groups()) == ["embeddings", "block_0", "block_1", "head"]
    wrapped.compile(keras.optimizers.Adam(0.02), run_eagerly=True)
    history = wrapped.fit(tiny.TEXTS, tiny.LABELS, batch_size=8, epochs=3, seed=0, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for weight in wrapped.weights:
        assert weight.trainable or np.array_equal(weight.numpy(), frozen[weight.path])
    # Batches of one text, because the outputs of some of these backbones depend on padding.
    texts = tiny.TEXTS[:4]

    def alone(model):
        return np.concatenate([run(model, model.preprocessor([text])) for text in texts])

    expected = alone(wrapped)
    wrapped.save_to_preset(tmp_path / "saved")
    again = tx.models.TextClassifier.from_preset(tmp_path / "saved")
    np.testing.assert_array_equal(alone(again), expected)
    assert [weight.trainable for weight in again.weights] == [weight.trainable for weight in wrapped.weights]
    half = tx.models.TextClassifier.from_preset(tmp_path / "saved", dtype="mixed_bfloat16")
    assert half.backbone.hub().dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_allclose(alone(half), expected, atol=0.1)
    served = tf.saved_model.load(tx.export.saved_model(wrapped, tmp_path / "export")).signatures["serving_default"]
    found = [served(text=tf.constant([text]))["probabilities"].numpy()[0] for text in texts]
    np.testing.assert_allclose(found, wrapped.probabilities(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "below"),
    [("OPTBackbone", 1), pytest.param("OPTBackbone", 2, marks=pytest.mark.slow), ("CLIPTextEncoder", 0)],
)
def test_training_above_frozen_layers_gives_the_weights_of_training_the_whole(name, below, preprocessor):
    preprocessor = tx.preprocessing.TextPreprocessor(preprocessor.tokenizer, 16, segment_ids=False)
    models = []
    for _ in range(2):
        hub = make(name)
        model = classifier(hub, preprocessor)
        tx.freezing.freeze(model, below=below)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        models.append(model)
    whole, above = models
    # The two get batches of different shapes, so dropout in the trainable layers would draw different numbers.
    for model in models:
        for layer in dropouts(model.backbone.hub()):
            layer.rate = 0.0
    batches = tx.data.batches((tiny.TEXTS, [0, 0, 1, 1, 2, 2, 0, 1]), preprocessor, 8, shuffle=False)
    whole.fit(batches, epochs=2, verbose=0)
    tx.freezing.AboveFrozen(above).fit(batches, epochs=2, verbose=0)
    for first, second in zip(whole.weights, above.weights, strict=True):
        np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-5, err_msg=first.path)


@pytest.mark.parametrize("name", ["FNetBackbone", "RoformerV2Backbone", "XLNetBackbone"])
def test_what_depends_on_padding_is_not_stored(name, preprocessor):
    model = classifier(make(name), preprocessor)
    tx.freezing.freeze(model, below=2)
    with pytest.raises(ValueError, match="results do not depend on padding"):
        tx.freezing.AboveFrozen(model)


def test_frozen_dropout_is_refused_above_frozen_layers(preprocessor):
    preprocessor = tx.preprocessing.TextPreprocessor(preprocessor.tokenizer, 16, segment_ids=False)
    model = classifier(make("OPTBackbone"), preprocessor)
    tx.freezing.freeze(model, below=1, dropout=True)
    with pytest.raises(ValueError, match="frozen layer groups without dropout"):
        tx.freezing.AboveFrozen(model)


def test_adapters_and_other_libraries_formats_refuse_a_wrapped_backbone(preprocessor, tmp_path):
    model = classifier(make("FNetBackbone"), preprocessor)
    for call in (
        lambda: tx.freezing.add_lora(model),
        lambda: tx.freezing.save_adapters(model, tmp_path / "a.safetensors"),
        lambda: model.save_to_preset(tmp_path / "out", "huggingface"),
        lambda: model.save_to_preset(tmp_path / "out", "sentence-transformers"),
    ):
        with pytest.raises(ValueError, match=r"Invalid value for argument `(model|format)`"):
            call()
    assert not (tmp_path / "out").exists() and len(model.trainable_weights) == len(model.weights)


def test_a_wrapped_backbone_is_quantized_saved_and_loaded(preprocessor, tmp_path):
    model = classifier(make("FNetBackbone"), preprocessor)
    x = batch(model.backbone)
    exact = run(model, x)
    model.quantize("int8")
    small = run(model, x)
    assert 0 < np.abs(small - exact).max() < 0.1 * np.abs(exact).max()
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(run(keras.saving.load_model(tmp_path / "model.keras"), x), small)


def test_a_backbone_that_keras_hub_quantized_is_wrapped_with_its_numbers(tmp_path):
    hub = make("BertBackbone", num_layers=1)
    hub.quantize("int8", filters=lambda layer: type(layer) in (keras.layers.Dense, keras.layers.EinsumDense))
    backbone = tx.backbones.adopt(hub)
    assert backbone.family == "BertBackbone"
    x = batch(backbone)
    output = run(backbone, x)
    np.testing.assert_array_equal(output, expected_of(hub, x))
    backbone.save(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(run(keras.saving.load_model(tmp_path / "backbone.keras"), x), output)


# === Refused ===


def images():
    return keras_hub.models.VGGBackbone(stackwise_num_repeats=[1], stackwise_num_filters=[8], image_shape=(16, 16, 3))


def with_adapters():
    hub = make("BertBackbone")
    hub.enable_lora(2)
    return hub


def plain():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (images, "It takes an input without a name"),
        (lambda: keras_hub.models.BartBackbone(**SIZES), "It has a decoder"),
        (
            lambda: keras_hub.models.SigLIPTextEncoder(**{**SIZES, "embedding_dim": 8}),
            r"output has the shape \(None, 8\)",
        ),
        (with_adapters, "save_to_preset"),
        (plain, "or a KerasHub text backbone"),
        (lambda: "bert_base_en", "or a KerasHub text backbone"),
        (lambda: None, "or a KerasHub text backbone"),
        (lambda: tx.models.TextEmbedder(tiny.backbone()), "Give the `backbone` of this model"),
    ],
    ids=["images", "decoder", "pooled", "adapters", "plain", "string", "none", "task"],
)
def test_what_is_no_text_encoder_is_an_error_that_names_the_argument(given, said):
    given = given()
    for call in (lambda: classifier(given, None), lambda: tx.models.TextEmbedder(given)):
        with pytest.raises(ValueError, match=rf"argument `backbone`.*{said}"):
            call()


def test_adapters_merged_by_keras_hub_are_taken_over(tmp_path):
    hub = with_adapters()
    for weight in hub.weights:
        if "lora" in weight.name:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    hub.save_to_preset(tmp_path / "merged")
    merged = keras_hub.models.Backbone.from_preset(str(tmp_path / "merged"))
    backbone = tx.backbones.adopt(merged)
    x = batch(backbone)
    real = x["padding_mask"].astype(bool)
    np.testing.assert_allclose(run(backbone, x)[real], expected_of(hub, x)[real], atol=2e-5)


# === Presets ===


def test_a_preset_of_an_unknown_family_loads_wrapped(tmp_path):
    hub = make("RoformerV2Backbone")
    tokenizer = keras_hub.models.RoformerV2Tokenizer(tiny.VOCABULARY, lowercase=True)
    hub.save_to_preset(tmp_path / "preset")
    tokenizer.save_to_preset(tmp_path / "preset")
    model = tx.models.TextEmbedder.from_preset(tmp_path / "preset", sequence_length=16, normalize=False)
    assert model.backbone.family == "RoformerV2Backbone" and model.preprocessor.sequence_length == 16
    x = {name: np.asarray(value) for name, value in model.preprocessor(["the card was lost"]).items()}
    assert x["token_ids"].tolist() == [
        [tiny.VOCABULARY.index(token) for token in "[CLS] the card was lost [SEP]".split()]
    ]
    output = hub({name: x[name] for name in hub.input}).numpy()
    np.testing.assert_allclose(model.encode(["the card was lost"]), output.mean(1), atol=1e-5)


def test_a_preset_whose_tokenizer_cannot_be_read_says_that_ids_go_in(tmp_path):
    hub = make("OPTBackbone")
    vocabulary = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}
    hub.save_to_preset(tmp_path / "preset")
    keras_hub.models.OPTTokenizer(vocabulary=vocabulary, merges=["a b"]).save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match=r"argument `preset`.*OPTTokenizer.*takes token ids.*preprocessor=None"):
        tx.models.TextClassifier.from_preset(tmp_path / "preset", labels=["a", "b"])
    backbone = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    model = tx.models.TextClassifier(backbone, preprocessor=None, labels=["a", "b"])
    assert run(model, batch(model.backbone)).shape == (3, 2)


def test_a_tokenizer_that_is_not_read_is_known_before_a_download(monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", download)
    monkeypatch.setattr(keras_hub.models.Tokenizer, "from_preset", download)
    with pytest.raises(ValueError, match=r"argument `preset`.*does not read a FNetTokenizer.*preprocessor=None"):
        tx.models.TextEmbedder.from_preset("f_net_base_en")


def test_presets_of_all_text_backbones_are_known_by_name(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", refuse)
    for name in ("f_net_base_en", "bert_base_en", "opt_125m_en"):
        with pytest.raises(ValueError, match=rf"Expected a KerasHub preset .*'{name}'"):
            tx.backbones.load(name)
    with pytest.raises(ValueError, match="no such name"):
        tx.backbones.load("resnet_50_imagenet")


def test_presets_are_of_the_family_of_their_own_class():
    families = {preset.name: preset.family for preset in tx.backbones.presets() if preset.source == "KerasHub"}
    assert (families["llama2_7b_en"], families["qwen3_0.6b_en"]) == ("llama", "qwen3")
    assert "llama3_8b_en" not in families, "its class is Llama's and has a form of its own"
