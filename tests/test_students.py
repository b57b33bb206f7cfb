"""Small models made from large ones: against NumPy loops, in training, and used like any other model."""

import functools
import importlib
import math
import pathlib
import types

import keras
import numpy as np
import pytest
import sklearn.decomposition
import tiny
from keras import ops

import tfxfer as tx

RNG = np.random.default_rng(4)
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6, [0] * 7, [0] * 4 + [1] * 3], "int32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabulary")


@pytest.fixture(scope="module")
def teacher(folder):
    keras.utils.set_random_seed(0)
    return tx.models.TextEmbedder(tiny.backbone(num_layers=3), tiny.preprocessor(folder), prompts={"query": "where "})


def convolutions(**sizes):
    """Makes an encoder of separable convolutions with random weights."""
    sizes = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 6, "kernel_size": 4, "dropout": 0.0, **sizes}
    made = tx.backbones.Backbone("separable_conv", **sizes)
    rng = np.random.default_rng(5)
    made.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in made.get_weights()])
    return made


# === The encoder ===


def dense(x, layer):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def normed(x, norm):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12) * norm.gamma.numpy() + norm.beta.numpy()


def gelu(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def mixed(x, kernel):
    found = np.zeros_like(x)
    for t in range(len(x)):
        for j, weights in enumerate(kernel):
            place = t + j - (len(kernel) - 1) // 2
            if 0 <= place < len(x):
                found[t] += weights * x[place]
    return found


def encoded(backbone, ids):
    """Computes the token states of one text."""
    parts = backbone.parts
    x = normed(parts.embeddings.token_embedding.embeddings.numpy()[ids], parts.embeddings.norm)
    x = dense(x, parts.embeddings.projection) if parts.embeddings.projection is not None else x
    for (block,) in parts.groups:
        y = mixed(normed(x, block.attention_norm), block.attention.depthwise.numpy())
        x = x + dense(y, block.attention.output_dense)
        y = gelu(dense(normed(x, block.feed_forward_norm), block.feed_forward.intermediate))
        x = x + dense(y, block.feed_forward.output_dense)
    return normed(x, parts.final_norm)


@pytest.mark.parametrize("embedding_dim", [3, 6])
def test_convolutions_equal_a_loop_over_each_text_wherever_padding_lies(embedding_dim):
    backbone = convolutions(embedding_dim=embedding_dim)
    ids = RNG.integers(0, 30, MASK.shape).astype("int32")
    found = ops.convert_to_numpy(backbone({"token_ids": ids, "padding_mask": MASK}))
    assert np.isfinite(found).all()
    for row in range(5):
        real = MASK[row] == 1
        if real.any():
            np.testing.assert_allclose(found[row][real], encoded(backbone, ids[row][real]), atol=1e-4)
    half = convolutions(embedding_dim=embedding_dim, dtype="mixed_bfloat16")
    rough = ops.convert_to_numpy(ops.cast(half({"token_ids": ids, "padding_mask": MASK}), "float32"))
    assert 0 < np.abs(rough - found)[MASK == 1].max() < 0.1 * np.abs(found).max()


def test_the_depthwise_part_is_that_of_keras():
    backbone = convolutions(num_layers=1)
    part = backbone.blocks()[0][0].attention
    reference = keras.layers.SeparableConv1D(6, 4, padding="same")
    reference.build((None, None, 6))
    weights = part.depthwise.numpy()[..., None], part.output_dense.kernel.numpy()[None], part.output_dense.bias.numpy()
    reference.set_weights(weights)
    x = RNG.normal(size=(1, 9, 6)).astype("float32")
    mask = np.ones((1, 9), "int32")
    layout = (np.arange(9, dtype="int32"), np.arange(9, dtype="int32")[None], mask)
    np.testing.assert_allclose(part(x[0], layout), reference(x)[0], atol=1e-5)


def test_heads_of_attention_and_other_libraries_are_errors(folder, tmp_path):
    with pytest.raises(ValueError, match=r"`num_heads`.*no heads"):
        convolutions(num_heads=2)
    backbone = convolutions(vocabulary_size=len(tiny.VOCABULARY))
    preprocessor = tiny.preprocessor(folder, segment_ids=False)
    for model in (
        tx.models.TextEmbedder(backbone, preprocessor),
        tx.models.TextClassifier(backbone, preprocessor, labels=["a", "b"]),
    ):
        for format in ("huggingface", "sentence-transformers"):
            with pytest.raises(ValueError, match="'tfxfer' for the family"):
                model.save_to_preset(tmp_path / "out", format=format)


# === The first blocks ===


def test_the_first_blocks_give_the_states_between(teacher, folder):
    small = teacher.with_blocks(2)
    x = teacher.preprocessor(tiny.TEXTS)
    states = teacher.backbone.hidden_states()(x)[2]
    pooled = tx.layers.Pooling()(states, padding_mask=x["padding_mask"])
    np.testing.assert_allclose(small(x), tx.layers.UnitNorm()(pooled), atol=1e-6)
    assert small.backbone.num_layers == 2 and small.prompts == teacher.prompts
    pair = tx.models.Siamese(teacher).with_blocks(2)
    np.testing.assert_allclose(pair.embedder(x), small(x), atol=1e-6)
    before = teacher.get_weights()
    small.backbone.set_weights([0 * w for w in small.backbone.get_weights()])  # the blocks are a copy
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_classifier_keeps_its_head_its_flags_and_the_final_norm(folder):
    sizes = {"num_layers": 3, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 32}
    backbone = tx.backbones.Backbone("gpt2", vocabulary_size=len(tiny.VOCABULARY), **sizes)
    backbone.set_weights([RNG.normal(0, 0.5, w.shape).astype("float32") for w in backbone.get_weights()])
    preprocessor = tiny.preprocessor(folder, segment_ids=False)
    model = tx.models.TextClassifier(backbone, preprocessor, labels=["a", "b"], head="mlp")
    model.set_trainable(["block_2", "head"])
    small = model.with_blocks(1)
    x = model.preprocessor(tiny.TEXTS)
    below, _ = backbone.split(1)
    real = ops.convert_to_numpy(x["padding_mask"]) == 1
    states = np.zeros((*real.shape, 8), "float32")
    states[real] = backbone.parts.final_norm(below(x))
    expected = model.head(tx.layers.Pooling()(states, padding_mask=real))
    np.testing.assert_allclose(small(x), expected, atol=1e-5)
    assert {w.path for w in small.trainable_weights} == {w.path for w in small.head.weights}


def test_blocks_of_several_kinds_keep_those_of_the_first(golden):
    model = tx.models.TextEmbedder.from_preset(str(golden / "families2" / "modernbert"))
    kinds = model.backbone.get_config()["layer_types"]
    assert len(set(kinds[:2])) == 2  # one with global and one with local attention
    small, x = model.with_blocks(2), model.preprocessor(["a b c", "b"])
    assert small.backbone.get_config()["layer_types"] == kinds[:2]
    below, _ = model.backbone.split(2)
    real = ops.convert_to_numpy(x["padding_mask"]) == 1
    expected = model.backbone.parts.final_norm(below(x))
    np.testing.assert_allclose(ops.convert_to_numpy(small.backbone(x))[real], expected, atol=1e-6)


def albert(teacher, **sizes):
    sizes = {"hidden_dim": 8, "num_heads": 2, "intermediate_dim": 16, "max_sequence_length": 32, **sizes}
    backbone = tx.backbones.Backbone("albert", vocabulary_size=len(tiny.VOCABULARY), embedding_dim=4, **sizes)
    return tx.models.TextEmbedder(backbone, teacher.preprocessor, normalize=False)


def adapted(teacher):
    model = tx.models.TextEmbedder(tiny.backbone(num_layers=2), teacher.preprocessor)
    tx.freezing.add_lora(model, rank=2)
    return model


def test_blocks_that_share_their_weights_are_left_out_too(teacher):
    model = albert(teacher, num_layers=3, num_groups=1)
    x = model.preprocessor(tiny.TEXTS)
    states = model.backbone.hidden_states([1])(x)
    states = states[0] if isinstance(states, list) else states
    expected = tx.layers.Pooling()(states, padding_mask=x["padding_mask"])
    np.testing.assert_allclose(model.with_blocks(1)(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "number", "said"),
    [
        (lambda t: albert(t, num_layers=4, num_groups=2), 2, "`number`.*do not repeat"),
        (adapted, 1, "`model`.*without adapters"),
        (lambda t: t, 4, "`number`.*from 1 to 3"),
        (lambda t: t, 0, "`number`"),
        (lambda t: tx.models.TextEmbedder(t.backbone, t.preprocessor, layer_start=1), 2, "`number`.*each block"),
        (
            lambda t: tx.models.TextClassifier(
                t.backbone, t.preprocessor, labels=["a", "b"], head=tx.layers.DenselyConnectedHead(2)
            ),
            2,
            "`number`.*each block",
        ),
    ],
)
def test_blocks_that_cannot_be_left_out_are_an_error(teacher, make, number, said):
    with pytest.raises(ValueError, match=said):
        make(teacher).with_blocks(number)


# === Students ===


def test_a_student_of_convolutions_learns_its_teachers_vectors(teacher, tmp_path):
    keras.utils.set_random_seed(1)
    student = tx.models.conv_student(teacher, num_layers=1, hidden_dim=4, kernel_size=3)
    assert type(student) is tx.models.TextEmbedder and student.embedding_dim == teacher.embedding_dim
    assert student.normalize and student.prompts == teacher.prompts
    table = teacher.backbone.token_embedding.embeddings.numpy()
    expected = sklearn.decomposition.PCA(4).fit_transform(table)
    found = student.backbone.token_embedding.embeddings.numpy()
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    student.compile(keras.optimizers.Adam(0.05), loss=tx.losses.EmbeddingDistillationLoss(), run_eagerly=True)
    x, targets = student.preprocessor(tiny.TEXTS), teacher.encode(tiny.TEXTS)
    losses = [float(student.train_on_batch(x, targets)) for _ in range(9)]
    assert losses[-1] < 0.7 * losses[0]
    student.save_to_preset(tmp_path / "student")
    again = tx.models.TextEmbedder.from_preset(tmp_path / "student")
    np.testing.assert_allclose(again.encode(tiny.TEXTS), student.encode(tiny.TEXTS), atol=1e-6)
    long = " ".join(tiny.TEXTS * 9)  # any length is accepted
    student.preprocessor.sequence_length = 400
    assert np.isfinite(student.encode([long])).all()


def test_a_students_classes_are_its_teachers_and_shares_teach_it(folder):
    teacher = tiny.classifier(folder, head="mlp", pooling="max")
    teacher.head.set_weights([RNG.normal(0, 1, w.shape) for w in teacher.head.get_weights()])
    student = tx.models.conv_student(teacher, num_layers=1, dropout=0.1, name="small")
    assert student.labels == teacher.labels and student.name == "small" and student.pooling == ("mean",)
    assert student.backbone.hidden_dim == 8 and "segment_ids" not in student.input
    student.compile(keras.optimizers.Adam(0.02), run_eagerly=True)
    shares = teacher.classify(tiny.TEXTS).probabilities
    history = student.fit(tiny.TEXTS, shares, epochs=2, batch_size=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def alone(teacher):
    """Encodes each token between special tokens; returns the mean of the teacher's three states."""
    ids = np.arange(len(tiny.VOCABULARY))
    cls, sep = (tiny.VOCABULARY.index(token) for token in ("[CLS]", "[SEP]"))
    rows = np.stack([np.full_like(ids, cls), ids, np.full_like(ids, sep)], axis=1).astype("int32")
    x = {"token_ids": rows, "padding_mask": np.ones_like(rows), "segment_ids": np.zeros_like(rows)}
    return ops.convert_to_numpy(teacher.backbone(x)).mean(axis=1)


@pytest.mark.parametrize(
    ("weighting", "dim"),
    [("sif", 3), pytest.param("zipf", 5, marks=pytest.mark.slow), pytest.param(None, None, marks=pytest.mark.slow)],
)
def test_a_static_student_is_the_mean_of_what_the_teacher_makes_of_each_token(teacher, weighting, dim):
    student = tx.models.static_student(teacher, dim=dim, weighting=weighting, batch_size=10)
    vectors = alone(teacher)
    count = len(vectors)
    ranks = np.arange(1, count + 1)
    shares = 1 / (ranks + 1) / (1 / (ranks + 1)).sum()
    weights = {"sif": 1e-4 / (1e-4 + shares), "zipf": np.log(1 + ranks), None: np.ones(count)}[weighting]
    if dim is not None:
        vectors = sklearn.decomposition.PCA(dim, svd_solver="full").fit_transform(vectors)
    vectors = vectors * weights[:, None]
    found = student.backbone.token_embedding.embeddings.numpy()
    np.testing.assert_allclose(found @ found.T, vectors @ vectors.T, rtol=1e-3, atol=1e-4 * np.abs(vectors).max() ** 2)
    # The vector of a text is the mean of its tokens, without special and unknown ones, scaled to unit length.
    ids = [tiny.VOCABULARY.index(token) for token in ("the", "bank", "##s", "was", "lost", "!")]
    mean = found[ids].mean(axis=0)
    np.testing.assert_allclose(student.encode(["The banks xyz was lost!"])[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert student.prompts == {} and student.backbone.family == "static"


def test_a_static_students_head_is_a_probe_away(folder, tmp_path):
    teacher = tiny.classifier(folder)
    student = tx.models.static_student(teacher, dim=6)
    assert tx.freezing.probe(student, tiny.TEXTS * 4, tiny.LABELS * 4).scores["accuracy"] > 0.8
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    assert again.classify(tiny.TEXTS).labels == student.classify(tiny.TEXTS).labels


def test_a_dense_layer_of_the_teachers_counts_in_its_static_student(teacher):
    dense = [{"units": 5, "activation": "tanh"}]
    deep = tx.models.TextEmbedder(teacher.backbone, teacher.preprocessor, dense=dense)
    student = tx.models.static_student(deep, dim=None, weighting=None)
    layer = next(each for each in deep.layers if isinstance(each, keras.layers.Dense))
    expected = np.tanh(alone(teacher) @ layer.kernel.numpy() + layer.bias.numpy())
    np.testing.assert_allclose(student.backbone.token_embedding.embeddings, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: tx.models.static_student(t, dim=9), "`dim`.*from 1 to 8"),
        (lambda t: tx.models.static_student(t, weighting="idf"), "`weighting`.*'zipf'"),
        (lambda t: tx.models.conv_student(t.backbone), "`teacher`.*task model"),
        (lambda t: tx.models.conv_student(tx.models.TextEmbedder(t.backbone)), "`teacher`.*preprocessor"),
        (lambda t: tx.models.conv_student(t, hidden_dim=0), "`hidden_dim`"),
        (
            lambda t: tx.models.static_student(
                tx.models.TextClassifier(
                    t.backbone, t.preprocessor, labels=["a", "b"], head=tx.layers.SeparableConvHead(2)
                )
            ),
            "`teacher`.*one vector",
        ),
    ],
)
def test_what_makes_no_student_is_an_error(teacher, make, said):
    with pytest.raises(ValueError, match=said):
        make(teacher)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tx.models.conv_student, tx.models.static_student])
def test_exports_of_students_answer_as_they_do(folder, tmp_path, make):
    import tensorflow as tf

    student = make(tiny.classifier(folder), **({"dim": 4} if make is tx.models.static_student else {}))
    path = tx.export.saved_model(student, tmp_path / "served")
    served = tf.saved_model.load(path).signatures["serving_default"]
    expected = student.classify(tiny.TEXTS).probabilities
    np.testing.assert_allclose(served(text=tf.constant(tiny.TEXTS))["probabilities"], expected, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_makes_a_row_for_each_model(folder, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).resolve().parent.parent))
    benchmark = importlib.import_module("benchmarks.students")
    keras.utils.set_random_seed(2)
    teacher = tiny.embedder(folder)
    teacher = tx.models.TextEmbedder(tiny.backbone(num_layers=2), teacher.preprocessor)
    monkeypatch.setattr(tx.models, "static_student", functools.partial(tx.models.static_student, dim=4))
    pairs = [
        {"sentence1": a, "sentence2": b, "score": i / 2}
        for i, (a, b) in enumerate(zip(tiny.TEXTS, tiny.TEXTS[1:], strict=False))
    ]
    labelled = [{"text": text, "label": label} for text, label in zip(tiny.TEXTS * 3, tiny.LABELS * 3, strict=True)]
    sets = [{"train": rows, "test": rows} for rows in (pairs, labelled)]
    arguments = types.SimpleNamespace(texts=8, probe=24, epochs=1, rounds=1)
    rows = benchmark.measured(teacher, *sets, arguments)
    benchmark.show(rows)
    names = ["teacher", "1 blocks", "1 blocks, taught", "convolutions", "static"]
    assert [row["model"] for row in rows] == names
    assert all(-1 <= row["stsb_spearman"] <= 1 and 0 <= row["banking77_accuracy"] <= 1 for row in rows)
    assert rows[1]["weights"] < rows[0]["weights"] and rows[-1]["weights_without_table"] == 0
    assert "Banking77" in capsys.readouterr().out
