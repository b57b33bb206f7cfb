"""Names that task models and encoders inherit from Keras and KerasHub: each works, or its error says what to do.

One table has a row for each name of a stock model. A name that Keras adds has no row yet and fails the test.
"""

import copy
import dataclasses
import functools
import io
import json
import pickle
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

import tfxfer as tx

PAIRS = (tiny.TEXTS, tiny.TEXTS[::-1])
TAGS = [["card"], [], ["loan", "other"], ["loan"], ["other"], [], ["card", "loan"], ["loan"]]


@dataclasses.dataclass
class Case:
    """A model with its data and its outputs for them."""

    model: Any
    texts: Any
    targets: Any

    def __post_init__(self):
        self.ids = tx.data.Gate(self.model).encode_batch((self.texts,))
        self.expected = self.run(self.model)

    def run(self, model):
        return ops.convert_to_numpy(model(self.ids, training=False))

    def check(self, model, **tolerance):
        np.testing.assert_allclose(self.run(model), self.expected, **{"rtol": 0, "atol": 1e-6, **tolerance})


def make(kind, folder):
    """Returns a model after one training step, with trainable flags that are not the defaults."""
    keras.utils.set_random_seed(0)
    if kind == "embedder":
        return Case(tiny.embedder(folder, trainable=["block_0"]), tiny.TEXTS, None)
    model, texts, targets = {
        "classifier": lambda: (tiny.classifier(folder, trainable=["block_0", "head"]), tiny.TEXTS, tiny.LABELS),
        "multi_label": lambda: (tiny.classifier(folder, multi_label=True), tiny.TEXTS, TAGS),
        "regressor": lambda: (
            tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder)),
            tiny.TEXTS,
            np.arange(8.0),
        ),
        "siamese": lambda: (
            tx.models.Siamese(tiny.embedder(folder), decoder="cosine"),
            PAIRS,
            np.linspace(0, 1, 8)[:, None],
        ),
        "siamese_classifier": lambda: (
            tx.models.SiameseClassifier(tiny.embedder(folder), labels=["card", "loan", "other"]),
            PAIRS,
            tiny.LABELS,
        ),
        "tagger": lambda: (
            tiny.tagger(folder, head="crf"),
            [*tiny.WORD_ROWS, *tiny.WORD_ROWS[:2]],
            [*tiny.TAG_ROWS, *tiny.TAG_ROWS[:2]],
        ),
    }[kind]()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse" if kind in ("siamese", "regressor") else "auto")
    model.train_on_batch(texts, targets)
    return Case(model, texts, targets)


# Kinds that differ least from the others.
RARER = ("regressor", "siamese_classifier", "tagger")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make("classifier", tmp_path_factory.mktemp("classifier"))


def flags(model):
    return [weight.trainable for weight in model.weights]


# === Copies ===


def clone_model(case, folder):
    clone = keras.models.clone_model(case.model)
    weights = case.model.get_weights()
    assert not np.allclose(case.run(clone), case.expected, atol=1e-4), "new weights"
    clone.set_weights(weights)
    case.check(clone)
    clone.set_weights([0 * weight for weight in weights])
    case.check(case.model)
    assert clone.compiled == case.model.compiled
    if clone.compiled:
        assert type(clone.optimizer) is type(case.model.optimizer) and int(clone.optimizer.iterations) == 0


def check_copy(case, other, *, trains=False):
    model = case.model
    assert type(other) is type(model) and other.backbone is not model.backbone
    np.testing.assert_array_equal(case.run(other), case.expected)
    assert flags(other) == flags(model) and other.compiled == model.compiled
    assert other.preprocessor.tokenizer.vocabulary == model.preprocessor.tokenizer.vocabulary
    if model.compiled:
        for found, expected in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(found.numpy(), expected.numpy())
    if trains and model.compiled:
        other.train_on_batch(case.texts, case.targets)
        assert int(other.optimizer.iterations) == 2 and int(model.optimizer.iterations) == 1
    other.set_weights([0 * weight for weight in other.get_weights()])
    case.check(model)


def deepcopy(case, folder):
    check_copy(case, copy.deepcopy(case.model))


def pickled(case, folder):
    check_copy(case, pickle.loads(pickle.dumps(case.model)))


def saved(case, folder):
    case.model.save(folder / "model.keras")
    check_copy(case, keras.saving.load_model(folder / "model.keras"), trains=True)


def from_config(case, folder):
    again = type(case.model).from_config(case.model.get_config())
    again.set_weights(case.model.get_weights())
    case.check(again)
    assert flags(again) == flags(case.model)


def to_json(case, folder):
    text = case.model.to_json()
    again = keras.models.model_from_json(text)
    assert type(again) is type(case.model) and json.loads(text)["registered_name"].startswith("tfxfer>")
    again.set_weights(case.model.get_weights())
    case.check(again)


# === Weights ===


def weights_file(case, folder):
    other = copy.deepcopy(case.model)
    case.model.save_weights(folder / "a.weights.h5")
    other.set_weights([0 * weight for weight in other.get_weights()])
    other.load_weights(folder / "a.weights.h5")
    np.testing.assert_array_equal(case.run(other), case.expected)


def set_weights(case, folder):
    other = copy.deepcopy(case.model)
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.set_weights(case.model.get_weights())
    np.testing.assert_array_equal(case.run(other), case.expected)


def task_weights(case, folder):
    other = copy.deepcopy(case.model)
    head = [weight for layer in other.layer_groups().get("head", ()) for weight in layer.weights]
    assert case.model.has_task_weights() == bool(head)
    if not head:
        with pytest.raises(ValueError, match="no weights not in the `backbone`"):
            case.model.save_task_weights(folder / "a.weights.h5")
        return
    case.model.save_task_weights(folder / "a.weights.h5")
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.load_task_weights(folder / "a.weights.h5")
    own = {id(weight) for weight in head}
    for mine, theirs in zip(case.model.weights, other.weights, strict=True):
        np.testing.assert_allclose(theirs.numpy(), mine.numpy() + (id(theirs) not in own), atol=1e-6)


def own_variables(case, folder):
    store = {}
    case.model.save_own_variables(store)
    assert set(store) <= {"labels"}, "all weights are those of layers"
    case.model.load_own_variables(store)


def state_tree(case, folder):
    if not case.model.compiled:
        with pytest.raises(ValueError, match=r"a compiled model.*get_weights"):
            case.model.get_state_tree()
        return
    other = copy.deepcopy(case.model)
    other.set_weights([0 * weight for weight in other.get_weights()])
    other.set_state_tree(case.model.get_state_tree(value_format="numpy_array"))
    case.check(other)


# === Calls ===


def on_batch(case, folder):
    model = copy.deepcopy(case.model)
    for x in (case.texts, case.ids):
        np.testing.assert_allclose(model.predict_on_batch(x), case.expected, rtol=1e-6, atol=1e-6)
    if case.targets is None:
        return
    expected = model.evaluate(case.texts, case.targets, batch_size=8, verbose=0)
    np.testing.assert_allclose(model.test_on_batch(case.texts, case.targets), expected, rtol=1e-4)
    halves = np.array([0.0, 1.0] * 4)
    model.reset_metrics()  # Keras does this itself since 3.15
    weighed = model.test_on_batch(case.texts, case.targets, sample_weight=halves)
    assert np.ravel(weighed)[0] != pytest.approx(np.ravel(expected)[0])
    losses = []
    for _ in range(15):
        model.reset_metrics()
        losses.append(np.ravel(model.train_on_batch(case.texts, case.targets))[0])
    assert losses[-1] < losses[0]


def stateless_call(case, folder):
    model = case.model
    found, state = model.stateless_call(model.trainable_variables, model.non_trainable_variables, case.ids)
    np.testing.assert_allclose(ops.convert_to_numpy(found), case.expected, atol=1e-6)
    assert len(state) == len(model.non_trainable_variables)
    zeros = [0 * variable.numpy() for variable in model.trainable_variables]
    changed, _ = model.stateless_call(zeros, model.non_trainable_variables, case.ids)
    assert not np.allclose(ops.convert_to_numpy(changed), case.expected)


def shapes(case, folder):
    model = case.model
    sizes = {name: value.shape for name, value in case.ids.items()}
    specs = {name: keras.KerasTensor(size, "int32") for name, size in sizes.items()}
    assert tuple(model.compute_output_shape(sizes)) == case.expected.shape
    assert tuple(model.compute_output_spec(specs).shape) == case.expected.shape
    assert tuple(model.symbolic_call(specs).shape) == case.expected.shape
    assert model.output_shape[1:] == case.expected.shape[1:] or None in model.output_shape[1:]
    assert set(model.input) == set(sizes) and len(model.input_shape) == len(model.inputs) == len(sizes)
    assert model.compute_mask(case.ids, None) is None


def rematerialized_call(case, folder):
    with keras.RematScope(mode="list_of_layers", layer_names=[case.model.name]):
        model = type(case.model).from_config(case.model.get_config())
        model.set_weights(case.model.get_weights())
        found = model.rematerialized_call(lambda ids: model(ids))
    np.testing.assert_allclose(ops.convert_to_numpy(found(case.ids)), case.expected, atol=1e-6)


def summary(case, folder):
    lines = []
    case.model.summary(print_fn=lines.append)
    case.model.summary(expand_nested=True, show_trainable=True, print_fn=lines.append)
    text = "\n".join(map(str, lines))
    inner = ("towers",) if isinstance(case.model, tx.models.Siamese) else (case.model.backbone.name, "block_0")
    assert all(name in text for name in ("Preprocessor", *inner))
    trainable = sum(weight.numpy().size for weight in case.model.trainable_weights)
    assert f"Trainable params: {trainable:,} " in text
    assert case.model.count_params() == sum(weight.numpy().size for weight in case.model.weights)


def layers(case, folder):
    model = case.model
    assert model.get_layer(index=0) in model.layers and model.preprocessor not in model.layers
    name = "towers" if isinstance(model, tx.models.Siamese) else "pooling"
    assert model.get_layer(name) in model.layers
    with pytest.raises(ValueError, match="No such layer: pooler"):
        model.get_layer("pooler")


def presets(case, folder):
    listed = type(case.model).presets
    assert set(listed) == {row.name for row in tx.backbones.presets()} and "all_minilm_l6_v2" in listed
    assert "sentence encoder" in listed["all_minilm_l6_v2"]["metadata"]["description"]


def quantize(case, folder):
    model = copy.deepcopy(case.model)
    model.quantize("int8")
    assert any(weight.dtype == "int8" for weight in model.weights) and model.backbone.quantization
    small = case.run(model)
    assert 0 < np.abs(small - case.expected).max() < 0.05 * np.abs(case.expected).max() + 1e-3
    for found, expected in zip(model.predict(case.texts, verbose=0), small, strict=True):
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-6, atol=2e-6)
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_array_equal(case.run(again), small)


def compile_state(case, folder):
    config = case.model.get_compile_config()
    other = type(case.model).from_config(case.model.get_config())
    if config is None:
        assert not case.model.compiled
        return
    keras.saving.deserialize_keras_object(config)  # like stock models, for example in `clone_model`
    other.compile_from_config(config)
    assert len(other.optimizer.variables) == len(case.model.optimizer.variables)


def build(case, folder):
    case.model.build(None)  # KerasHub has a default for the argument since 0.32
    case.model.build_from_config(case.model.get_build_config())
    case.check(case.model)


def metrics(case, folder):
    model = copy.deepcopy(case.model)
    model.test_on_batch(case.texts, case.targets)
    results = model.get_metrics_result()
    assert set(results) == {"loss", "accuracy"} and results["loss"] > 0
    assert [metric.name for metric in model.metrics] == model.metrics_names
    assert len(model.metrics_variables) > 0 and model.losses == []
    model.reset_metrics()
    assert model.get_metrics_result()["accuracy"] == 0
    y = model.read_targets(case.targets)
    loss = float(model.compute_loss(y=y, y_pred=ops.convert_to_tensor(case.expected)))
    assert loss == pytest.approx(float(np.ravel(model.test_on_batch(case.texts, case.targets))[0]), rel=1e-5)


def no_export(case, folder):
    for format in ("tf_saved_model", "onnx", "litert"):
        with pytest.raises(NotImplementedError, match=r"tfxfer\.export\.saved_model"):
            case.model.export(folder / "out", format=format)
    assert not (folder / "out").exists()


def no_weights_of_its_own(case, folder):
    for call in (case.model.add_weight, case.model.add_variable):
        with pytest.raises(NotImplementedError, match="as `head`"):
            call(shape=(2,), initializer="zeros")


def no_loss_of_its_own(case, folder):
    for loss in (0.0, lambda: 0.0):
        with pytest.raises(NotImplementedError, match="Give `compile` a loss"):
            case.model.add_loss(loss)


def no_metric_of_its_own(case, folder):
    with pytest.raises(NotImplementedError, match=r"Model\.compile\(metrics"):
        case.model.add_metric(keras.metrics.Mean())


def not_a_quantized_layer(case, folder):
    with pytest.raises(NotImplementedError):
        case.model.quantized_call(case.ids)
    with pytest.raises(NotImplementedError):
        case.model.quantized_build((2, 2), "int8")
    assert case.model.quantization_mode is None and case.model.get_quantization_layer_structure("gptq") is None


# === The table ===

# A check of this file -> the public names that it covers.
ROWS = {
    saved: "save",
    from_config: "from_config get_config",
    to_json: "to_json",
    weights_file: "save_weights load_weights",
    set_weights: "get_weights set_weights weights variables",
    task_weights: "save_task_weights load_task_weights has_task_weights",
    own_variables: "save_own_variables load_own_variables",
    state_tree: "get_state_tree set_state_tree",
    on_batch: "train_on_batch test_on_batch predict_on_batch",
    stateless_call: "stateless_call trainable_variables non_trainable_variables",
    shapes: "compute_output_shape compute_output_spec symbolic_call input_shape output_shape input inputs compute_mask",
    rematerialized_call: "rematerialized_call",
    summary: "summary count_params",
    layers: "get_layer layers",
    presets: "presets",
    quantize: "quantize",
    compile_state: "get_compile_config compile_from_config",
    build: "build get_build_config build_from_config built",
    metrics: "metrics metrics_names metrics_variables get_metrics_result reset_metrics compute_loss losses",
    no_export: "export",
    no_weights_of_its_own: "add_weight add_variable",
    no_loss_of_its_own: "add_loss",
    no_metric_of_its_own: "add_metric",
    not_a_quantized_layer: "quantized_call quantized_build quantization_mode get_quantization_layer_structure",
}
# Names that other files test: strings as inputs and outputs, presets, flags.
ELSEWHERE = (
    "fit predict evaluate compile preprocess_samples from_preset save_to_preset trainable trainable_weights "
    "non_trainable_weights backbone preprocessor"
)
# What Keras calls in training, evaluation and prediction, all of which run above.
HOOKS = (
    "call make_train_function make_test_function make_predict_function train_step test_step predict_step "
    "compute_metrics stateless_compute_loss compiled_metrics compiled_loss train_function test_function "
    "predict_function stop_training"
)
# Attributes that can be read.
VALUES = (
    "name path dtype dtype_policy compute_dtype variable_dtype input_dtype input_spec output outputs output_names "
    "operations autocast supports_masking supports_jit jit_compile run_eagerly steps_per_execution "
    "unrolled_steps_per_execution optimizer loss compiled activity_regularizer call_signature_parameters "
    "distribute_strategy backbone_cls preprocessor_cls"
)
# A deprecated property that stock models of Keras 3.15 lack, too.
MISSING = "distribute_reduction_method"
# Copies, which Keras and Python make without a public method.
COPIES = (clone_model, deepcopy, pickled)
# Checks whose outcome depends on the kind of model; the others run on one kind.
VARYING = (saved, from_config, weights_file, task_weights, state_tree, on_batch, summary, quantize, no_export)


def names(row):
    return set(row.split())


def stock_names():
    """Returns the public names of a compiled stock model and of KerasHub's tasks."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("adam", "mse")
    return {name for name in {*dir(model), *dir(keras_hub.models.Task)} if not name.startswith("_")}


def test_every_inherited_name_has_exactly_one_row(classifier):
    rows = [names(row) for row in (*ROWS.values(), ELSEWHERE, HOOKS, VALUES, MISSING)]
    found = set().union(*rows)
    assert sum(map(len, rows)) == len(found), "a name in two rows"
    inherited = stock_names() & set(dir(classifier.model))
    assert inherited - found == set(), "new in Keras or KerasHub: a row is missing"
    assert found - inherited == set(), "gone from Keras or KerasHub"


@pytest.mark.parametrize("check", [*ROWS, *COPIES], ids=lambda check: check.__name__)
def test_inherited_methods_work_or_refuse(classifier, check, tmp_path):
    check(classifier, tmp_path)
    classifier.check(classifier.model, atol=0)


@pytest.mark.parametrize(
    "kind", ["multi_label", "embedder", "siamese", *(pytest.param(kind, marks=pytest.mark.slow) for kind in RARER)]
)
def test_inherited_methods_work_or_refuse_for_every_task(kind, tmp_path):
    case = make(kind, tmp_path)
    for check in (*COPIES, *VARYING):
        folder = tmp_path / check.__name__
        folder.mkdir()
        check(case, folder)
        case.check(case.model, atol=0)


def test_values_can_be_read(classifier):
    for name in names(VALUES):
        getattr(classifier.model, name)
    with pytest.raises(AttributeError):
        getattr(classifier.model, MISSING)


def test_methods_of_sequential_models_are_not_there(classifier):
    assert not hasattr(classifier.model, "pop") and not hasattr(classifier.model, "add")


# === Encoders ===


def bert():
    return tiny.backbone()


def fnet():
    sizes = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16}
    return tx.backbones.adopt(keras_hub.models.FNetBackbone(len(tiny.VOCABULARY), **sizes))


@pytest.mark.parametrize("make_encoder", [bert, fnet])
def test_inherited_methods_of_encoders_work(make_encoder, tmp_path):
    backbone = make_encoder()
    rows = set().union(*(names(row) for row in (*ROWS.values(), ELSEWHERE, HOOKS, VALUES, MISSING)))
    model = keras.Model(backbone.input, backbone.output)
    model.compile("adam", "mse")
    inherited = {name for name in set(dir(model)) & set(dir(backbone)) if not name.startswith("_")}
    assert inherited - rows == set()
    ids = np.arange(10).reshape(2, 5).astype("int32")
    case = Case.__new__(Case)
    case.model, case.ids = backbone, {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    case.expected = case.run(backbone)
    backbone.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    backbone.fit(case.ids, case.expected, verbose=0)
    np.testing.assert_allclose(backbone.predict(case.ids, verbose=0), case.expected, atol=1e-5)
    for check in (shapes, stateless_call, weights_file, set_weights, state_tree, own_variables):
        check(case, tmp_path)
    backbone.summary(expand_nested=True, print_fn=lambda line: None)
    assert backbone.get_layer(index=0) in backbone.layers
    backbone.quantize("int8")
    small = case.run(backbone)
    assert 0 < np.abs(small - case.expected).max() < 0.1
    backbone.save(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(case.run(keras.saving.load_model(tmp_path / "backbone.keras")), small)


@pytest.mark.parametrize("make_encoder", [bert, fnet])
def test_an_encoder_is_copied_as_a_whole(make_encoder, tmp_path):
    backbone = make_encoder()
    backbone.set_trainable({"embeddings": False})
    ids = np.arange(10).reshape(2, 5).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    expected = ops.convert_to_numpy(backbone(x))
    buffer = io.BytesIO(pickle.dumps(backbone))
    for again in (copy.deepcopy(backbone), pickle.load(buffer)):
        np.testing.assert_array_equal(ops.convert_to_numpy(again(x)), expected)
        assert flags(again) == flags(backbone) and type(again) is type(backbone)
    for recursive in (False, True) if make_encoder is bert else ():
        with pytest.raises(NotImplementedError, match=r"copy\.deepcopy"):
            keras.models.clone_model(backbone, recursive=recursive)
    for call in (backbone.add_weight, backbone.add_variable):
        with pytest.raises(NotImplementedError, match="as `head`"):
            call(shape=(1,))
    with pytest.raises(NotImplementedError, match="Give `compile` a loss"):
        backbone.add_loss(0.0)
    backbone.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(served.serve(x).numpy(), expected, atol=1e-6)


# === Quantized weights ===


@pytest.fixture(params=["int8", "int4"])
def mode(request):
    return request.param


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.quantize("float8"), r"argument `mode`.*'int8', 'int4'.*mixed_bfloat16"),
        (
            lambda model: model.quantize(
                config=keras.quantizers.GPTQConfig(dataset=["a"], tokenizer=str.split, sequence_length=2)
            ),
            r"argument `mode`.*'int8', 'int4'.*weights_dtype",
        ),
        (lambda model: model.quantize("gptq"), "GPTQConfig"),
        (lambda model: model.quantize("int3"), "Invalid quantization mode"),
        (lambda model: model.quantize(), "mode"),
        (lambda model: model.quantize("int8", filters="pooler"), "argument `filters`"),
        (lambda model: model.quantize("int8", filters=3), "argument `filters`"),
    ],
)
def test_other_modes_are_refused_and_change_nothing(classifier, call, said):
    with pytest.raises(ValueError, match=said):
        call(classifier.model)
    assert classifier.model.backbone.quantization is None
    classifier.check(classifier.model, atol=0)


@pytest.fixture(scope="module")
def quantized(classifier):
    """A function that returns a quantized copy of the classifier, made once for each mode; tests do not change it."""

    @functools.cache
    def make(mode):
        model = copy.deepcopy(classifier.model)
        model.quantize(mode)
        return model

    return make


def test_a_quantized_model_is_not_quantized_again(quantized, mode):
    model = quantized(mode)
    with pytest.raises(ValueError, match="is not quantized yet"):
        model.quantize("int8")
    embedder = tx.models.TextEmbedder(model.backbone, model.preprocessor)
    with pytest.raises(ValueError, match="'tfxfer' for a model that was quantized"):
        embedder.save_to_preset("nowhere", "huggingface")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: tx.export.saved_model(model, "nowhere", weights_dtype="bfloat16"), "argument `weights_dtype`"),
        (lambda model: model.with_added_tokens(["IBAN"]), r"argument `tokens`.*before `quantize`"),
    ],
)
def test_what_needs_float_weights_refuses_a_quantized_model(quantized, call, said):
    with pytest.raises(ValueError, match=said):
        call(quantized("int8"))


def test_int8_leaves_activations_alone_unless_asked(classifier):
    weights_only, default, both = (copy.deepcopy(classifier.model) for _ in range(3))
    weights_only.quantize(config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))
    default.quantize("int8")
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=keras.quantizers.AbsMaxQuantizer(axis=-1))
    both.quantize(config=config)
    np.testing.assert_array_equal(classifier.run(default), classifier.run(weights_only))
    assert not np.array_equal(classifier.run(both), classifier.run(default))
    again = copy.deepcopy(both)
    np.testing.assert_array_equal(classifier.run(again), classifier.run(both))


def test_filters_choose_layers_and_survive_a_file(classifier, tmp_path):
    model = copy.deepcopy(classifier.model)
    model.quantize("int4", filters=["query", "token_embedding"])
    quantized = [weight.path for weight in model.weights if weight.dtype == "int8" and "zero" not in weight.path]
    assert len(quantized) == 2 and "query" in " ".join(quantized) and "token_embedding" in " ".join(quantized)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(classifier.run(again), classifier.run(model))
    assert [weight.dtype for weight in again.weights] == [weight.dtype for weight in model.weights]


@pytest.mark.parametrize("order", ["quantized_first", "adapters_first"])
def test_adapters_on_quantized_weights_train_and_come_back_to_the_bit(classifier, mode, order, tmp_path):
    model = copy.deepcopy(classifier.model)
    steps = [lambda: model.quantize(mode), lambda: tx.freezing.add_lora(model, 2)]
    for step in steps if order == "quantized_first" else steps[::-1]:
        step()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), run_eagerly=True)
    fixed = {weight.path: weight.numpy() for weight in model.weights if not weight.trainable}
    before = model.backbone.lora_variables()["block_0/0/query/b"].numpy()
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, verbose=0)
    assert not np.array_equal(model.backbone.lora_variables()["block_0/0/query/b"].numpy(), before)
    for weight in model.weights:
        assert weight.trainable or np.array_equal(weight.numpy(), fixed[weight.path]), weight.path
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for found, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy(), err_msg=expected.path)
    np.testing.assert_array_equal(classifier.run(again), classifier.run(model))
    with pytest.raises(ValueError, match="float weights to merge adapters"):
        tx.freezing.merge_lora(model)
    tx.freezing.save_adapters(model, tmp_path / "adapters.safetensors", head=True)
    other = copy.deepcopy(classifier.model)
    other.quantize(mode)
    tx.freezing.load_adapters(other, tmp_path / "adapters.safetensors")
    np.testing.assert_allclose(classifier.run(other), classifier.run(model), atol=1e-6)


def test_a_quantized_model_is_exported_cached_and_freed_of_its_optimizer(classifier, mode, tmp_path):
    model = copy.deepcopy(classifier.model)
    assert model.optimizer.built
    model.quantize(mode)
    assert not model.optimizer.built and type(model.optimizer) is type(classifier.model.optimizer)
    assert float(model.optimizer.learning_rate) == float(classifier.model.optimizer.learning_rate)
    tx.freezing.freeze(model, below=1)
    batches = tx.data.batches((tiny.TEXTS, model.read_targets(tiny.LABELS)), model.preprocessor, 8)
    tx.freezing.AboveFrozen(model).fit(batches, epochs=2, verbose=0)
    probabilities = model.probabilities(model.predict(tiny.TEXTS, verbose=0))
    served = tf.saved_model.load(tx.export.saved_model(model, tmp_path / "export")).signatures["serving_default"]
    found = served(text=tf.constant(tiny.TEXTS))["probabilities"]
    np.testing.assert_allclose(found, probabilities, atol=1e-6)


def test_a_quantized_preset_takes_another_dtype(classifier, tmp_path):
    model = copy.deepcopy(classifier.model)
    model.quantize("int8")
    model.save_to_preset(tmp_path / "saved")
    half = tx.models.TextClassifier.from_preset(tmp_path / "saved", dtype="mixed_bfloat16")
    assert half.backbone.quantization == model.backbone.quantization
    np.testing.assert_allclose(classifier.run(half), classifier.run(model), atol=0.05)


def test_minilm_in_eight_bits_keeps_its_vectors(minilm_folder, golden, tmp_path):
    texts = json.loads((golden / "minilm_texts.json").read_text(encoding="utf-8"))["texts"]
    vectors = np.load(golden / "minilm_embeddings.npy")
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    embedder.quantize("int8")
    small = embedder.encode(texts)
    assert np.sum(small * vectors, axis=1).min() > 0.995  # 0.9963
    embedder.save(tmp_path / "small.keras")
    assert (tmp_path / "small.keras").stat().st_size < 25e6  # float 91 MB
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.encode(texts), small)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "expected"), [("int8", 0.8198), ("int4", 0.8240)])
def test_minilm_in_few_bits_keeps_its_sts_correlation(minilm_folder, real_data, mode, expected):
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    embedder.quantize(mode)
    rows = tx.data.read(real_data / "stsb" / "test.tsv")
    pairs = tx.data.pairs(rows, ("sentence1", "sentence2"), target="score")
    assert tx.evaluation.similarity(embedder, pairs)["spearman"] == pytest.approx(expected, abs=5e-4)  # float 0.8203
