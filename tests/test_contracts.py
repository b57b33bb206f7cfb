"""Contracts of every public layer, loss and model, tested from tables with one row per class."""

import inspect
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import tfxfer as tx

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(4, 5, 6)).astype("float32")
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "int32")
PAIRS = RNG.normal(size=(4, 2, 6)).astype("float32")
SCORES = np.array([0.1, 0.9, 0.5, 0.5], "float32")
TRIPLETS = RNG.normal(size=(4, 3, 6)).astype("float32")
SAME = np.array([1, 0, 1, 0], "int32")
LOGITS = RNG.normal(size=(4, 3)).astype("float32")
WORD_IDS = np.array([[-1, 0, 1, 1, -1], [0, 2, 2, -1, -1], [-1, -1, -1, -1, -1], [0, 1, 2, 3, 3]], "int32")
WORD_MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], "int32")
STACKS = RNG.normal(size=(4, 2, 3, 6)).astype("float32")
MULTI_HOT = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], "int32")
EMISSIONS = RNG.normal(size=(4, 5, 3)).astype("float32")
TAGS = np.array([[0, 1, 2, 2, 0], [1, -1, 2, -1, -1], [0, 0, -1, 1, -1], [-1, -1, -1, -1, -1]], "int32")
# Token vectors, with zeros for ignored tokens; every text has at least one token.
LATE = RNG.normal(size=(4, 3, 5, 6)).astype("float32")
LATE[1, 0, 3:] = LATE[2, 1, 1:] = LATE[3, 2, 2:] = 0.0
# Grades of four lists of up to three documents, as integers and as shares; NaN is padding.
GRADES = np.array([[2, 0, 1], [1, 0, np.nan], [0, 3, 1], [1, np.nan, np.nan]], "float32")
SHARES = np.array([[1, 0, 0.5], [1, 0, np.nan], [0, 1, 1], [0.25, np.nan, np.nan]], "float32")
CRF = tx.layers.CRF(3, ([True, True, False], [[True, True, False], [True, True, True], [True, True, True]]))
CRF.build((None, None, 3))
CRF.set_weights([np.arange(9.0).reshape(3, 3) % 4 - 1.0, np.array([0.5, -0.5, 0.0]), np.array([0.0, 1.0, -1.0])])

# One row per layer: how to create it with arguments that are not defaults, and what to call it on.
LAYERS = {
    tx.layers.Pooling: (lambda: tx.layers.Pooling(["cls", "weighted_mean"]), (TOKENS, MASK)),
    tx.layers.DensePooling: (lambda: tx.layers.DensePooling(3, "tanh", ["cls", "mean"]), (TOKENS, MASK)),
    tx.layers.WordPooling: (lambda: tx.layers.WordPooling("max"), (TOKENS, WORD_IDS, WORD_MASK)),
    tx.layers.WeightedLayerPooling: (tx.layers.WeightedLayerPooling, ([TOKENS, 2.0 * TOKENS],)),
    tx.layers.ScaledNumbers: (
        lambda: tx.layers.ScaledNumbers([1.0, 2.0], [0.5, 3.0], has_missing=True),
        (TOKENS[:, 0, :2],),
    ),
    tx.layers.OneHot: (lambda: tx.layers.OneHot(3), (SAME,)),
    tx.layers.Fusion: (lambda: tx.layers.Fusion("attention", 5), ([TOKENS[:, 0], TOKENS[:, 1, :2]],)),
    tx.layers.UnitNorm: (lambda: tx.layers.UnitNorm(), (TOKENS,)),
    tx.layers.Head: (
        lambda: tx.layers.Head(
            3,
            hidden_dims=(4,),
            activation="relu",
            dropout=0.3,
            hidden_dropout=0.2,
            use_bias=False,
            hidden_use_bias=False,
            norm_epsilon=1e-5,
        ),
        (TOKENS[:, 0],),
    ),
    tx.layers.BlockPooling: (
        lambda: tx.layers.BlockPooling(tx.layers.Pooling(["cls", "max"])),
        ([TOKENS, 2.0 * TOKENS], MASK),
    ),
    tx.layers.DenselyConnectedHead: (
        lambda: tx.layers.DenselyConnectedHead(
            3, "ladder", [1, 2], hidden_dims=(4,), activation="relu", dropout=0.3, reduction=2
        ),
        ([TOKENS, 2.0 * TOKENS], MASK),
    ),
    tx.layers.SeparableConvHead: (
        lambda: tx.layers.SeparableConvHead(3, [2, 3], 4, pooling="mean", activation="gelu", dropout=0.3),
        (TOKENS, MASK),
    ),
    tx.layers.SoftmaxDecoder: (
        lambda: tx.layers.SoftmaxDecoder(3, ("u*v", "u"), hidden_dims=(4,), dropout=0.3),
        (TOKENS[:, :2],),
    ),
    tx.layers.FLOPSRegularization: (lambda: tx.layers.FLOPSRegularization(0.1, 0.2, 3), (PAIRS,)),
    tx.layers.Comparison: (lambda: tx.layers.Comparison("euclidean_distance"), (TOKENS,)),
    tx.layers.CRF: (
        lambda: tx.layers.CRF(6, (np.arange(6) != 2, np.eye(6) == 0, np.arange(6) != 1), dtype="float64"),
        (TOKENS, MASK),
    ),
    tx.layers.SiameseTowers: (
        lambda: tx.layers.SiameseTowers(tx.models.TextEmbedder(tiny.backbone(), pooling="max"), chunk_size=4),
        ({name: np.ones((3, 2, 4), "int32") for name in ("token_ids", "padding_mask", "segment_ids")},),
    ),
}


def held(*args):
    """A loss whose memory does not change, so that a second call finds the same memory as the first."""
    loss = tx.losses.CrossBatchMemoryLoss(*args)
    loss.remembers = False
    return loss


# Values that no loss over all layers has by default.
ADAPTIVE = {
    "layers": [1],
    "weighting": "log",
    "last_layer_weight": 2.0,
    "prior_layers_weight": 0.5,
    "kl_weight": 0.3,
    "kl_temperature": 0.7,
}
# One row per loss: how to create it with arguments that are not defaults, and a batch: y_true, y_pred.
LOSSES = {
    tx.losses.ContrastiveLoss: (
        lambda: tx.losses.ContrastiveLoss(0.7, "euclidean", name="c", reduction="sum"),
        (SAME, PAIRS),
    ),
    tx.losses.OnlineContrastiveLoss: (lambda: tx.losses.OnlineContrastiveLoss(0.9, "manhattan"), (SAME, PAIRS)),
    tx.losses.CosineMSELoss: (
        lambda: tx.losses.CosineMSELoss(name="c", reduction="sum"),
        (SCORES, PAIRS),
    ),
    tx.losses.CoSENTLoss: (
        lambda: tx.losses.CoSENTLoss(scale=5.0, similarity="dot", name="c", reduction="sum"),
        (SCORES, PAIRS),
    ),
    tx.losses.AnglELoss: (lambda: tx.losses.AnglELoss(scale=5.0, dtype="float64"), (SCORES, PAIRS)),
    tx.losses.TripletLoss: (lambda: tx.losses.TripletLoss(2.0, "squared_euclidean"), (SCORES, TRIPLETS)),
    tx.losses.TripletCrossEntropyLoss: (
        lambda: tx.losses.TripletCrossEntropyLoss(2.0, "cosine"),
        (SCORES, TRIPLETS),
    ),
    tx.losses.TripletMarginRankingLoss: (
        lambda: tx.losses.TripletMarginRankingLoss(2.0, "dot"),
        (SCORES, TRIPLETS),
    ),
    tx.losses.BatchAllTripletLoss: (lambda: tx.losses.BatchAllTripletLoss(2.0, "cosine"), (SAME, TRIPLETS[:, 0])),
    tx.losses.BatchHardTripletLoss: (lambda: tx.losses.BatchHardTripletLoss(2.0, "dot"), (SAME, PAIRS)),
    tx.losses.BatchSemiHardTripletLoss: (
        lambda: tx.losses.BatchSemiHardTripletLoss(2.0, "manhattan"),
        (SAME, TRIPLETS[:, 0]),
    ),
    tx.losses.BatchHardSoftMarginTripletLoss: (
        lambda: tx.losses.BatchHardSoftMarginTripletLoss(2.0, "squared_euclidean"),
        (SAME, TRIPLETS[:, 0]),
    ),
    tx.losses.SupervisedContrastiveLoss: (
        lambda: tx.losses.SupervisedContrastiveLoss(temperature=0.2),
        (SAME, TRIPLETS[:, 0]),
    ),
    tx.losses.MultipleNegativesRankingLoss: (
        lambda: tx.losses.MultipleNegativesRankingLoss(
            scale=5.0,
            similarity="dot",
            directions=("query_to_document", "document_to_query"),
            joint=False,
            hardness_strength=3.0,
            hardness_mode="hard",
            reduction="sum",
        ),
        (SCORES, TRIPLETS),
    ),
    tx.losses.MegaBatchMarginLoss: (lambda: tx.losses.MegaBatchMarginLoss(0.9, 0.1), (SCORES, PAIRS)),
    tx.losses.GISTEmbedLoss: (
        lambda: tx.losses.GISTEmbedLoss(
            0.5, margin=0.1, relative=True, contrast_queries=False, contrast_documents=False
        ),
        (TRIPLETS[..., :3], TRIPLETS),
    ),
    tx.losses.MarginMSELoss: (lambda: tx.losses.MarginMSELoss(3.0, "cosine"), (SCORES, TRIPLETS)),
    tx.losses.DistillKLDivLoss: (
        lambda: tx.losses.DistillKLDivLoss(0.5, teacher_temperature=2.0, similarity="cosine"),
        (PAIRS[..., 0], TRIPLETS),
    ),
    tx.losses.MaxSimRankingLoss: (
        lambda: tx.losses.MaxSimRankingLoss(2.0, chunk_size=3, reduction="sum"),
        (SCORES, LATE),
    ),
    tx.losses.MaxSimDistillationLoss: (
        lambda: tx.losses.MaxSimDistillationLoss(0.5, teacher_temperature=2.0),
        (PAIRS[..., 0], LATE),
    ),
    tx.losses.EmbeddingDistillationLoss: (
        lambda: tx.losses.EmbeddingDistillationLoss("cosine"),
        (TRIPLETS[:, :2], PAIRS),
    ),
    tx.losses.MatryoshkaLoss: (
        lambda: tx.losses.MatryoshkaLoss(tx.losses.BatchHardTripletLoss(2.0), [6, 3], [1.0, 0.5]),
        (SAME, PAIRS),
    ),
    tx.losses.GlobalOrthogonalRegularizationLoss: (
        lambda: tx.losses.GlobalOrthogonalRegularizationLoss(tx.losses.CoSENTLoss(3.0), 0.5, 2.0),
        (SCORES, PAIRS),
    ),
    tx.losses.CircleLoss: (lambda: tx.losses.CircleLoss(0.3, 5.0, form="separate"), (SAME, PAIRS)),
    tx.losses.MultiSimilarityLoss: (
        lambda: tx.losses.MultiSimilarityLoss(3.0, 5.0, base=0.2, mining_margin=0.4),
        (SAME, TRIPLETS[:, 0]),
    ),
    tx.losses.NPairsLoss: (lambda: tx.losses.NPairsLoss("cosine"), (np.arange(4), PAIRS)),
    tx.losses.NPairsRowsLoss: (lambda: tx.losses.NPairsRowsLoss("euclidean"), (SAME, PAIRS)),
    tx.losses.NPairsMultilabelLoss: (lambda: tx.losses.NPairsMultilabelLoss("cosine"), (MULTI_HOT, PAIRS)),
    tx.losses.SoftNearestNeighboursLoss: (
        lambda: tx.losses.SoftNearestNeighboursLoss(0.3, "cosine", epsilon=1e-3),
        (SAME, PAIRS),
    ),
    tx.losses.PNLoss: (
        lambda: tx.losses.PNLoss(0.7, "euclidean", positive="easy", negative="hard"),
        (SAME, PAIRS),
    ),
    tx.losses.LiftedStructureLoss: (
        lambda: tx.losses.LiftedStructureLoss(2.0, "cosine", positive_margin=0.1),
        (SAME, TRIPLETS[:, 0]),
    ),
    tx.losses.GeneralizedLiftedStructureLoss: (
        lambda: tx.losses.GeneralizedLiftedStructureLoss(2.0, "manhattan", positive_margin=0.2),
        (SAME, PAIRS),
    ),
    tx.losses.CrossBatchMemoryLoss: (lambda: held(tx.losses.MultiSimilarityLoss(), 6, 5), (SAME, TRIPLETS[:, 0])),
    tx.losses.ContrastiveTensionLoss: (
        lambda: tx.losses.ContrastiveTensionLoss(name="c", reduction="sum"),
        (SAME, PAIRS),
    ),
    tx.losses.ContrastiveTensionInBatchLoss: (
        lambda: tx.losses.ContrastiveTensionInBatchLoss(5.0, "dot"),
        (SCORES, PAIRS),
    ),
    tx.losses.AdaptiveLayerLoss: (
        lambda: tx.losses.AdaptiveLayerLoss(tx.losses.CoSENTLoss(3.0), **ADAPTIVE),
        (SCORES, STACKS),
    ),
    tx.losses.Matryoshka2dLoss: (
        lambda: tx.losses.Matryoshka2dLoss(tx.losses.CoSENTLoss(3.0), [6, 3], [1.0, 0.5], **ADAPTIVE),
        (SCORES, STACKS),
    ),
    tx.losses.ClassCrossentropy: (lambda: tx.losses.ClassCrossentropy(0.2, reduction="sum"), (SAME, LOGITS)),
    tx.losses.WeightedBinaryCrossentropy: (
        lambda: tx.losses.WeightedBinaryCrossentropy(
            {2: 0.5, 0: 3.0, 1: 2.0}, gamma=0.7, label_smoothing=0.1, from_logits=False
        ),
        (np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], "int32"), 1 / (1 + np.exp(-LOGITS))),
    ),
    tx.losses.TagCrossentropy: (
        lambda: tx.losses.TagCrossentropy({1: 0.5, 0: 3.0, 2: 2.0}, gamma=0.7, reduction="sum"),
        (TAGS, EMISSIONS),
    ),
    tx.losses.ChainCrossentropy: (
        lambda: tx.losses.ChainCrossentropy(CRF, tag_weights=[0.5, 3.0, 2.0], gamma=0.7),
        (TAGS, EMISSIONS),
    ),
}
LOSSES |= {
    tx.losses.PointwiseCrossentropyLoss: (
        lambda: tx.losses.PointwiseCrossentropyLoss(3.0, activation="tanh", reduction="sum"),
        (SHARES, LOGITS),
    ),
    tx.losses.PointwiseMSELoss: (lambda: tx.losses.PointwiseMSELoss("sigmoid"), (GRADES, LOGITS)),
    tx.losses.ScoreMarginMSELoss: (lambda: tx.losses.ScoreMarginMSELoss("tanh"), (GRADES, LOGITS)),
    tx.losses.ListSoftmaxLoss: (lambda: tx.losses.ListSoftmaxLoss(2.0, activation="tanh"), (GRADES, LOGITS)),
    tx.losses.LambdaLoss: (
        lambda: tx.losses.LambdaLoss(
            "lambda_rank", k=2, sigma=0.5, mu=3.0, eps=0.1, reduction_log="natural", activation="sigmoid"
        ),
        (GRADES, LOGITS),
    ),
    tx.losses.RankNetLoss: (
        lambda: tx.losses.RankNetLoss(2, sigma=0.5, reduction_log="natural", activation="tanh"),
        (GRADES, LOGITS),
    ),
    tx.losses.ListNetLoss: (lambda: tx.losses.ListNetLoss("tanh", reduction="sum"), (GRADES, LOGITS)),
    tx.losses.ListMLELoss: (lambda: tx.losses.ListMLELoss(False, activation="tanh"), (GRADES, LOGITS)),
    tx.losses.PositionListMLELoss: (
        lambda: tx.losses.PositionListMLELoss("reciprocal", by_grade=False, activation="tanh"),
        (GRADES, LOGITS),
    ),
    tx.losses.ADRMSELoss: (lambda: tx.losses.ADRMSELoss(2.0, activation="sigmoid"), (GRADES, LOGITS)),
}
# One row per model: how to create it in a folder, with arguments that are not defaults and with a dtype policy.
MODELS = {
    tx.models.TextEmbedder: lambda folder, dtype=None: tiny.embedder(
        folder,
        dtype,
        pooling=("mean", "max"),
        modules=[
            {"class": "Dense", "units": 5, "activation": "tanh", "use_residual": True},
            {"class": "LayerNorm", "epsilon": 1e-3},
            {"class": "Dropout", "rate": 0.3},
            {"class": "Normalize"},
        ],
        layer_start=0,
        include_prompt=False,
        prompts={"query": "where is "},
        default_prompt_name="query",
        similarity_fn_name="dot",
        trainable=["block_0", "head"],
    ),
    tx.models.SparseEmbedder: lambda folder, dtype=None: tiny.sparse(
        folder,
        dtype,
        token_pooling="sum",
        pool_special_tokens=False,
        max_active_dims=6,
        head={"activation": "tanh", "norm_epsilon": 1e-6, "transform_bias": False, "norm_bias": False},
        vocabulary_chunk=16,
        trainable=["block_0", "head"],
    ),
    tx.models.LateInteractionEmbedder: lambda folder, dtype=None: tx.models.LateInteractionEmbedder(
        tiny.backbone(dtype=dtype),
        tiny.preprocessor(folder),
        dim=4,
        query_length=9,
        augment_queries=True,
        query_marker="how",
        document_marker="the",
        skip_tokens=["?", "is"],
        trainable=["block_0", "head"],
    ),
    tx.models.TextClassifier: lambda folder, dtype=None: tiny.classifier(
        folder, dtype, pooling="cls", dropout=0.2, head="mlp", trainable={"embeddings": False}
    ),
    tx.models.TextRegressor: lambda folder, dtype=None: tx.models.TextRegressor(
        tiny.backbone(dtype=dtype), tiny.preprocessor(folder), num_outputs=2, pooling="max", trainable=["head"]
    ),
    tx.models.Reranker: lambda folder, dtype=None: tx.models.Reranker(
        tiny.backbone(dtype=dtype), tiny.preprocessor(folder), pooling="max", score_activation="sigmoid", head="mlp"
    ),
    tx.models.Siamese: lambda folder, dtype=None: tx.models.Siamese(
        tiny.embedder(folder, dtype, normalize=False), chunk_size=4
    ),
    tx.models.SiameseClassifier: lambda folder, dtype=None: tx.models.SiameseClassifier(
        tiny.embedder(folder, dtype), labels=["card", "loan", "other"], features=("u", "u*v"), hidden_dims=(6,)
    ),
    tx.models.MultimodalClassifier: lambda folder, dtype=None: tx.models.MultimodalClassifier(
        tiny.backbone(dtype=dtype),
        tiny.preprocessor(folder),
        columns=tiny.columns(),
        labels=["card", "loan", "other"],
        fusion="gate",
        pooling="max",
        dropout=0.2,
        trainable={"embeddings": False},
    ),
    tx.models.MultimodalRegressor: lambda folder, dtype=None: tx.models.MultimodalRegressor(
        tiny.backbone(dtype=dtype),
        tiny.preprocessor(folder),
        columns=tiny.columns(),
        num_outputs=2,
        fusion="attention",
        head="mlp",
        trainable=["head"],
    ),
    tx.models.TokenTagger: lambda folder, dtype=None: tiny.tagger(
        folder,
        dtype,
        scheme="BIO",
        head="crf",
        word_pooling="mean",
        split="whitespace",
        stride=5,
        dropout=0.2,
        temperature=1.5,
        trainable=["block_0", "head"],
    ),
    tx.models.MaskedLanguageModel: lambda folder, dtype=None: tiny.masked(
        folder,
        dtype,
        mask_rate=0.3,
        whole_words=True,
        mask_share=0.7,
        random_share=0.2,
        head={"activation": "tanh", "norm_epsilon": 1e-6, "transform_bias": False, "norm_bias": False},
        pooling=("cls", "max"),
        trainable=["block_0", "head"],
    ),
    tx.models.DenoisingAutoencoder: lambda folder, dtype=None: tx.models.DenoisingAutoencoder(
        tiny.backbone(dtype=dtype),
        tiny.preprocessor(folder),
        deletion_rate=0.4,
        num_layers=2,
        dropout=0.2,
        pooling=("cls", "max"),
        trainable=["block_0", "head"],
    ),
    tx.models.ContrastiveTension: lambda folder, dtype=None: tx.models.ContrastiveTension(
        tiny.embedder(folder, dtype, pooling="max", dense=[{"units": 5, "activation": "tanh"}], normalize=False),
        trainable=["block_0", "twin", "head"],
    ),
    tx.models.MultiTask: lambda folder, dtype=None: several_tasks(folder, dtype),
}


def several_tasks(folder, dtype):
    """Two tasks on one backbone, one of which uses an embedder."""
    embedder = tiny.embedder(folder, dtype, dense=[{"units": 5, "activation": "tanh"}])
    parts = (embedder.backbone, embedder.preprocessor)
    classifier = tx.models.TextClassifier(*parts, labels=["card", "loan", "other"], head="mlp")
    tasks = {"intent": classifier, "similarity": tx.models.Siamese(embedder)}
    return tx.models.MultiTask(tasks, trainable=["block_0", "head"])


def arrays(outputs):
    """A model's outputs as a list of arrays: one, or one for each task."""
    return [ops.convert_to_numpy(each) for each in keras.tree.flatten(outputs)]


def assert_equal(found, expected, **tolerance):
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0, "atol": 0, **tolerance})


def of_rows(x, take):
    """Takes the rows `take` of each input."""
    return keras.tree.map_structure(lambda value: value[take], x)


def public_classes(module, base):
    return {
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and not name.startswith("_")
        if value.__module__.startswith("tfxfer")
    }


def test_every_public_class_has_a_row():
    assert public_classes(tx.layers, keras.layers.Layer) == set(LAYERS)
    assert public_classes(tx.losses, keras.losses.Loss) == set(LOSSES)
    bases = {tx.models.TextTask, tx.models.Multimodal}  # test_own_task tests the first
    assert public_classes(tx.models, keras.Model) == {*MODELS, *bases}


def ids(cls):
    return cls.__name__


def from_config(loss):
    """Creates a loss from a loss's config, and binds it to the layer if it uses weights of a layer."""
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    return again.for_layer(CRF) if isinstance(loss, tx.losses.ChainCrossentropy) else again


@pytest.fixture(params=MODELS, ids=ids)
def make(request, tmp_path):
    """Creates the model of a row of the table, with the same weights each time."""

    def make(dtype=None):
        keras.utils.set_random_seed(0)
        return MODELS[request.param](tmp_path, dtype)

    return make


# === Layers ===


@pytest.mark.parametrize("cls", LAYERS, ids=ids)
def test_layer_comes_back_from_its_config(cls):
    make, _ = LAYERS[cls]
    layer = make()
    config = layer.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is cls and again.get_config().keys() == config.keys()
    assert {k: v for k, v in again.get_config().items() if k != "encoder"} == {
        k: v for k, v in config.items() if k != "encoder"
    }


@pytest.mark.parametrize("cls", LAYERS, ids=ids)
def test_layer_output_shape_is_what_it_says(cls):
    make, args = LAYERS[cls]
    layer = make()
    shapes = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, str(x.dtype)), args)
    assert layer(*args).shape == ops.convert_to_tensor(layer(*args)).shape
    assert tuple(layer(*shapes).shape) == tuple(layer(*args).shape)


@pytest.mark.parametrize("cls", LAYERS, ids=ids)
def test_layer_gradients_are_finite_at_zero_and_at_large_values(cls):
    import tensorflow as tf

    make, args = LAYERS[cls]
    if isinstance(args[0], dict) or cls is tx.layers.OneHot:
        pytest.skip("ids have no gradient")
    layer = make()
    for scale in (0.0, 1.0, 1e15):
        x = keras.tree.map_structure(lambda part: tf.constant(part * scale), args[0])  # noqa: B023
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x, *args[1:]) ** 1)
        assert all(np.isfinite(part.numpy()).all() for part in keras.tree.flatten(tape.gradient(value, x)))


# === Losses ===


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_comes_back_from_its_config(cls):
    make, (y_true, y_pred) = LOSSES[cls]
    loss = make()
    again = from_config(loss)
    assert type(again) is cls and again.get_config() == loss.get_config()
    assert float(again(y_true, y_pred)) == float(loss(y_true, y_pred))


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_row_has_no_default_arguments(cls):
    config = LOSSES[cls][0]().get_config()
    parameters = inspect.signature(cls.__init__).parameters
    own = set(config) - {"name", "reduction", "dtype"}
    assert own == {name for name in parameters if name not in ("self", "name", "kwargs", "crf")}
    assert all(config[name] != parameters[name].default for name in own)


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_does_not_depend_on_the_order_of_rows(cls):
    order = np.array([2, 0, 3, 1])
    make, (y_true, y_pred) = LOSSES[cls]
    assert float(make()(y_true[order], y_pred[order])) == pytest.approx(float(make()(y_true, y_pred)), rel=1e-5)


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_is_the_same_compiled_with_an_unknown_batch_size(cls):
    import tensorflow as tf

    make, (y_true, y_pred) = LOSSES[cls]
    loss, expected = make(), float(make()(y_true, y_pred))
    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in (y_true, y_pred)]
    assert float(tf.function(loss, input_signature=signature)(y_true, y_pred)) == pytest.approx(expected, rel=1e-5)
    compiled = tf.function(loss, jit_compile=True)
    assert float(compiled(tf.constant(y_true), tf.constant(y_pred))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_of_half_precision_is_computed_in_float32(cls):
    make, (y_true, y_pred) = LOSSES[cls]
    for dtype in ("float16", "bfloat16"):
        half = ops.cast(y_pred, dtype)
        value = make()(y_true, half)
        assert keras.backend.standardize_dtype(value.dtype) == make().dtype
        assert float(value) == float(make()(y_true, ops.cast(half, "float32")))


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_weighs_rows_or_says_that_it_cannot(cls):
    make, (y_true, y_pred) = LOSSES[cls]
    loss = make()
    weights = np.array([0.0, 1.0, 2.0, 3.0], "float32")
    if loss.per_row:
        rows = from_config(loss)
        rows.reduction = None
        rows = rows(y_true, y_pred)
        total = {"sum": np.sum, "sum_over_batch_size": np.mean}[loss.reduction]
        assert tuple(rows.shape) == (4,)
        expected = total(ops.convert_to_numpy(rows) * weights)
        assert float(loss(y_true, y_pred, weights)) == pytest.approx(expected, rel=1e-5)
    else:
        with pytest.raises(ValueError, match=r"`sample_weight`.*one number for the whole batch"):
            loss(y_true, y_pred, weights)
    assert float(loss(y_true, y_pred, 3.0)) == pytest.approx(3.0 * float(loss(y_true, y_pred)), rel=1e-5)


@pytest.mark.parametrize("cls", LOSSES, ids=ids)
def test_loss_gradients_are_finite_with_duplicates_zero_vectors_and_one_class(cls):
    import tensorflow as tf

    make, (y_true, y_pred) = LOSSES[cls]
    same = np.repeat(y_pred[:1], 4, axis=0)
    alike = np.repeat(y_pred[:, :1], y_pred.shape[1], axis=1)
    one = y_true[:1].repeat(4, axis=0)
    for batch in (same, alike, np.zeros_like(y_pred), y_pred[:1]):
        for labels in (y_true, one, np.zeros_like(y_true)):
            x = tf.constant(batch)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = make()(labels[: len(batch)], x)
            gradient = tape.gradient(value, x).numpy()
            assert np.isfinite(float(value)) and np.isfinite(gradient).all() and np.abs(gradient).max() < 1e4


# === Models ===


def test_model_comes_back_from_its_config(make):
    model = make()
    again = type(model).from_config(model.get_config())
    assert keras.saving.serialize_keras_object(again)["config"].keys() == model.get_config().keys()
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights]


def test_model_saves_and_loads_with_vocabulary_flags_and_numbers(make, tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = tiny.inputs(model)
    assert_equal(again(x), model(x))
    assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights]
    assert again.preprocessor.tokenizer.vocabulary == model.preprocessor.tokenizer.vocabulary


def run_afresh(program):
    """Runs a program in a new process, which can import this package and the tests' small models."""
    folders = [str(pathlib.Path(tiny.__file__).parent), str(pathlib.Path(tx.__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_models_are_loaded_by_a_fresh_process(tmp_path):
    for cls, make in MODELS.items():
        model = make(tmp_path)
        model.save(tmp_path / f"{cls.__name__}.keras")
        np.savez(tmp_path / f"{cls.__name__}.npz", *arrays(model(tiny.inputs(model))))
    run_afresh(f"""
        import pathlib, keras, numpy as np, tfxfer, tiny
        paths = sorted(pathlib.Path({str(tmp_path)!r}).glob("*.keras"))
        assert len(paths) == {len(MODELS)}
        for path in paths:
            model = keras.saving.load_model(path)
            with np.load(path.with_suffix(".npz")) as expected:
                for k, outputs in enumerate(keras.tree.flatten(model(tiny.inputs(model)))):
                    found = keras.ops.convert_to_numpy(outputs)
                    np.testing.assert_allclose(found, expected["arr_" + str(k)], atol=1e-6)
    """)


def test_model_gives_the_same_eagerly_compiled_and_in_predict(make):
    import tensorflow as tf

    model = make()
    x = tiny.inputs(model)
    eager = model(x)
    assert_equal(tf.function(model)(x), eager, rtol=1e-5, atol=1e-6)
    for given in (x, tiny.rows(model)):
        found = model.predict(given, batch_size=2, verbose=0)
        found = list(found.values()) if isinstance(found, dict) else [found]
        for rows, expected in zip(found, arrays(eager), strict=True):
            assert len(rows) == len(expected)
            for row, one in zip(rows, expected, strict=True):  # for words, `predict` returns no padding
                np.testing.assert_allclose(row, one[: len(row)], rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(make):
    model = make()
    for part in getattr(model, "tasks", {"": model}).values():
        check_padding(part, tiny.inputs(part))


def check_padding(model, x):
    expected = ops.convert_to_numpy(model(x))
    for left, right in ((0, 9), (3, 0)):
        padded = dict(x)
        of_rows = {"word_mask", "mask_positions", *getattr(model, "columns", ())}
        for name in x.keys() - of_rows:
            sides = [(0, 0)] * (x[name].ndim - 1) + [(left, right)]
            padded[name] = np.pad(x[name], sides, constant_values=-1 if name == "word_ids" else 0)
        if "mask_positions" in x:
            padded["mask_positions"] = np.where(x["mask_positions"] < 0, -1, x["mask_positions"] + left)
        found = ops.convert_to_numpy(model(padded))
        if hasattr(model, "query_model"):  # the tokens that count come first
            assert not found[:, expected.shape[1] :].any()
            found = found[:, : expected.shape[1]]
        if "decoder_ids" in x:
            found = found[:, left : left + expected.shape[1]]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        if "word_mask" in x and right:
            padded["word_mask"] = np.pad(x["word_mask"], [(0, 0), (0, right)])
            words = ops.convert_to_numpy(model(padded))[:, : expected.shape[1]]
            np.testing.assert_allclose(words, expected, atol=1e-5)


def test_order_of_the_batch_changes_nothing(make):
    model = make()
    x = tiny.inputs(model)
    order = np.array([3, 0, 4, 2, 1])
    assert_equal(model(of_rows(x, order)), [each[order] for each in arrays(model(x))], atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_near_the_exact_numbers(make, dtype):
    model, mixed = make(), make(dtype)
    mixed.set_weights(model.get_weights())
    x = tiny.inputs(model)
    for outputs, exact in zip(keras.tree.flatten(mixed(x)), arrays(model(x)), strict=True):
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
        assert np.abs(ops.convert_to_numpy(outputs) - exact).max() < 0.1 * max(np.abs(exact).max(), 1.0)


def test_one_training_step_moves_what_is_trainable_and_nothing_else(make):
    model = make()
    x = tiny.inputs(model)
    loss = lambda y, y_pred: ops.mean(ops.square(y_pred - 3.0))  # noqa: E731
    # A CRF's transitions are not part of its outputs: only its own loss reads them.
    loss = "auto" if getattr(model, "crf", None) is not None else loss
    y: dict = {}
    if hasattr(model, "tasks"):
        model.compile(keras.optimizers.SGD(0.1), loss=dict.fromkeys(model.tasks, loss))
        y = {"intent": np.zeros(5, "int32"), "similarity": np.zeros((5, 2, 5), "float32")}
    else:
        model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=[])
        shape = (5,) if hasattr(model, "labels") else model.compute_output_shape({k: v.shape for k, v in x.items()})
    trainable = [w.trainable for w in model.weights]
    before = [w.numpy() for w in model.weights]
    model.train_on_batch(x, y or (tiny.TAG_ROWS[:5] if hasattr(model, "tags") else np.zeros(shape, "int32")))
    for weight, old, trains in zip(model.weights, before, trainable, strict=True):
        assert np.isfinite(weight.numpy()).all()
        if not trains:
            np.testing.assert_array_equal(weight.numpy(), old, err_msg=weight.path)
    moved = [not np.array_equal(w.numpy(), old) for w, old in zip(model.weights, before, strict=True)]
    assert any(moved)


def test_all_weights_are_in_exactly_one_layer_group(make):
    model = make()
    grouped = [id(w) for layers in model.layer_groups().values() for layer in layers for w in layer.weights]
    assert sorted(grouped) == sorted(id(w) for w in model.weights)


def test_preset_folder_gives_the_backbone_to_another_task(make, tmp_path):
    model = make()
    model.save_to_preset(tmp_path / "saved")
    taken = tx.models.TextClassifier.from_preset(tmp_path / "saved", labels=["a", "b"], backbone_only=True)
    for old, new in zip(model.backbone.weights, taken.backbone.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())


@pytest.mark.slow
def test_jax_backend_gives_tensorflow_numbers_and_trains(tmp_path):
    embedder = tiny.embedder(tmp_path, pooling=("mean", "last"))
    embedder.save(tmp_path / "model.keras")
    np.save(tmp_path / "expected.npy", embedder.encode(tiny.TEXTS))
    run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        embedder = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        np.testing.assert_allclose(embedder.encode(tiny.TEXTS), np.load({str(tmp_path / "expected.npy")!r}), atol=1e-5)
        model = tx.models.TextClassifier(embedder.backbone, embedder.preprocessor, labels=["card", "loan", "other"])
        history = model.fit(tiny.TEXTS, tiny.LABELS, epochs=2, batch_size=4, seed=0, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        assert len(model.classify(tiny.TEXTS).labels) == 8
        table = {str(tmp_path / "rows.csv")!r}
        open(table, "w").write("text\\n" + "good day\\n" * 3)
        assert model.predict_table(table, table + ".jsonl")["answered"] == 3
        texts, labels = tiny.TEXTS[:4], tiny.LABELS[:4]  # a batch: JAX compiles a step for each shape
        heads = [tx.layers.DenselyConnectedHead(3, "ladder", reduction=2), tx.layers.SeparableConvHead(3, (2, 3), 4)]
        for head in heads:
            model = tx.models.TextClassifier(embedder.backbone, embedder.preprocessor, labels=model.labels, head=head)
            model.fit(texts, labels, epochs=1, batch_size=4, verbose=0)
        small = tx.models.conv_student(model, num_layers=1)
        small.fit(texts, model.classify(texts).probabilities, epochs=1, batch_size=4, verbose=0)
        assert np.isfinite(small.classify(texts).probabilities).all()
        siamese = tx.models.Siamese(embedder)
        siamese.compile("adamw", loss=tx.losses.CoSENTLoss())
        siamese.fit((texts, texts[::-1]), np.arange(4.0), batch_size=4, verbose=0)
    """)
