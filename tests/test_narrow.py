"""Kernels of dense layers that compute in 16 bits: cast once for several batches, and stored in 16 bits by exports."""

import keras
import numpy as np
import processor
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx

TEXTS = [*tiny.TEXTS, "a card", "two loans and a card", "my", ""]
DTYPES = ["mixed_bfloat16", "mixed_float16"]


def one_by_one(run):
    """Answers texts in a call each, whose single batch casts kernels in its own graph."""
    return np.concatenate([run([text]) for text in TEXTS])


def assert_one_by_one(found, run):
    """Asserts answers in batches against `one_by_one`: to the bit, if the processor sums products in one order."""
    tolerance = 0 if processor.kernels() == "oneDNN" else 1e-6
    np.testing.assert_allclose(found, one_by_one(run), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_batches_give_the_numbers_of_one(tmp_path, dtype):
    model = tiny.embedder(tmp_path, dtype)
    assert_one_by_one(model.encode(TEXTS, batch_size=2), model.encode)


def test_weights_that_changed_are_read_again(tmp_path):
    model, other = (tiny.classifier(tmp_path, "mixed_bfloat16", head="mlp") for _ in range(2))
    run = lambda texts: np.asarray(model.classify(texts, batch_size=2).probabilities)  # noqa: E731
    before = run(TEXTS)
    model.set_weights([weight * 1.5 for weight in model.get_weights()])
    other.set_weights(model.get_weights())
    found = run(TEXTS)
    assert not np.allclose(found, before)
    np.testing.assert_array_equal(found, np.asarray(other.classify(TEXTS, batch_size=2).probabilities))
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(tiny.TEXTS, tiny.LABELS, epochs=1, batch_size=4, verbose=0)
    trained = run(TEXTS)
    assert not np.array_equal(trained, found)
    assert_one_by_one(trained, run)


def test_kernels_with_adapters_in_8_bits_or_under_xla_are_read_as_before(tmp_path):
    model = tiny.embedder(tmp_path, "mixed_bfloat16")
    start = model.get_weights()
    first = model.encode(TEXTS, batch_size=2)
    tx.freezing.add_lora(model, rank=2)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1)
    adapted = model.encode(TEXTS, batch_size=2)
    assert not np.allclose(adapted, first)
    assert_one_by_one(adapted, model.encode)
    tx.freezing.merge_lora(model)
    assert_one_by_one(model.encode(TEXTS, batch_size=2), model.encode)
    model.quantize("int8")
    assert_one_by_one(model.encode(TEXTS, batch_size=2), model.encode)
    compiled = tiny.embedder(tmp_path, "mixed_bfloat16")
    compiled.set_weights(start)
    compiled.compile("sgd", jit_compile=True)
    np.testing.assert_allclose(compiled.encode(TEXTS, batch_size=8), first, atol=0.02)


def scores(entities):
    """Returns the probabilities of the entities of each text, in order."""
    return [np.float32(each.probability) for row in entities for each in row]


def weights(answer):
    """Returns the weights of a sparse embedder's rows, from the largest on; rows differ in length."""
    return [value for row in answer["weights"].numpy() for value in row if value]


# Makes a model; its answers in Python; the same numbers in an export's answer.
SERVED = {
    "embedder": (tiny.embedder, lambda model: model.encode(TEXTS), lambda answer: answer["embedding"]),
    "classifier": (
        lambda folder, dtype: tiny.classifier(folder, dtype, head="mlp"),
        lambda model: model.classify(TEXTS).probabilities,
        lambda answer: answer["probabilities"],
    ),
    "tagger": (
        tiny.tagger,
        lambda model: scores(model.extract(TEXTS)),
        lambda answer: [s for row, n in zip(answer["scores"], answer["counts"], strict=True) for s in row[:n].numpy()],
    ),
    "sparse": (
        tiny.sparse,
        lambda model: [value for row in model.encode(TEXTS).toarray() for value in -np.sort(-row) if value],
        weights,
    ),
}


@pytest.mark.parametrize(
    "kind", ["embedder", "classifier", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tagger", "sparse"))]
)
def test_an_export_holds_kernels_in_16_bits_and_answers_the_same(tmp_path, kind):
    make, in_python, of_answer = SERVED[kind]
    model = make(tmp_path, "mixed_bfloat16")
    path = str(tx.export.saved_model(model, tmp_path / "served"))
    answer = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(TEXTS))
    np.testing.assert_allclose(of_answer(answer), in_python(model), rtol=1e-6)
    kinds = tf.train.load_checkpoint(f"{path}/variables/variables").get_variable_to_dtype_map().values()
    kernels = [weight for weight in model.backbone.weights if weight.path.endswith("/kernel")]
    assert kernels and sum(kind == tf.bfloat16 for kind in kinds) == len(kernels)
