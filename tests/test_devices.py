"""Training on several replicas of one host gives the results of one device on whole batches.

The cases are the functions below, which raise if results differ. Each runs in a separate process, in which TensorFlow
splits the CPU into two devices.
"""

import functools

import keras
import numpy as np
import pytest
import test_contracts
import tiny

import tfxfer as tx

TEXTS, LABELS = tiny.TEXTS[:7], tiny.LABELS[:7]  # batches of 4 and 3 rows; on two replicas, 2 + 2 and 2 + 1


@functools.cache  # two strategies in one process would give their collective operations the same numbers
def mirrored():
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def encoder(num_layers=1):
    """A backbone without dropout, because each replica draws different random numbers."""
    sizes = {"num_layers": num_layers, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    made = tx.backbones.Backbone(
        "bert", vocabulary_size=len(tiny.VOCABULARY), max_sequence_length=32, dropout=0.0, **sizes
    )
    rng = np.random.default_rng(0)
    made.set_weights([weight + rng.normal(0, 0.3, weight.shape).astype(weight.dtype) for weight in made.get_weights()])
    return made


def siamese(folder):
    return tx.models.Siamese(tx.models.TextEmbedder(encoder(), tiny.preprocessor(folder)))


def classifier(folder, num_layers=1, **kwargs):
    options = {"labels": ["card", "loan", "other"], "dropout": 0.0, **kwargs}
    return tx.models.TextClassifier(encoder(num_layers), tiny.preprocessor(folder), **options)


def made_on(strategy, make):
    keras.utils.set_random_seed(1)
    if strategy is None:
        return make()
    with strategy.scope():
        return make()


def assert_same(folder, make, *rows, epochs=2, tolerance=1e-5, **kwargs):
    """Trains on one device and on two, and compares weights and history."""
    found = []
    for strategy in (None, mirrored()):
        model = made_on(strategy, lambda: make(folder))
        options = {"batch_size": 4, "seed": 3, "epochs": epochs, "verbose": 0, **kwargs}
        history = model.fit(*rows, **options).history
        found.append((history, model.get_weights()))
    (one, weights), (two, others) = found
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for before, after in zip(weights, others, strict=True):
        np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)


def compiled(make, loss=None, optimizer=None):
    def build(folder):
        model = make(folder)
        options = {} if loss is None else {"loss": loss()}
        model.compile(keras.optimizers.SGD(0.1) if optimizer is None else optimizer(), **options)
        return model

    return build


def losses_are_those_of_the_whole_batch(folder):
    pairs = (TEXTS, tiny.TEXTS[1:8])
    assert_same(folder, compiled(siamese, tx.losses.CoSENTLoss), pairs, np.linspace(0, 1, 7, dtype="float32"))
    # A batch of five rows, and a last batch of one row, of which the second replica gets none.
    few = (pairs[0][:6], pairs[1][:6])
    assert_same(folder, compiled(siamese, tx.losses.CosineMSELoss), few, np.linspace(0, 1, 6), batch_size=5)
    assert_same(folder, compiled(siamese, tx.losses.MultipleNegativesRankingLoss), few, np.zeros(6), batch_size=5)


def weights_of_rows_and_losses_of_keras_count_alike(folder):
    assert_same(folder, compiled(classifier), TEXTS, LABELS, class_weight="balanced")
    assert_same(folder, compiled(classifier), TEXTS, LABELS, sample_weight=np.arange(1.0, 8.0))

    def regressor(folder):
        return tx.models.TextRegressor(encoder(), tiny.preprocessor(folder), dropout=0.0)

    assert_same(folder, compiled(regressor), TEXTS, np.linspace(0, 1, 7), validation_data=(TEXTS, np.linspace(1, 0, 7)))

    def tagger(folder):
        return tx.models.TokenTagger(encoder(), tiny.preprocessor(folder), tags=tiny.TAGS, dropout=0.0)

    assert_same(folder, compiled(tagger), tiny.WORD_ROWS[:5], tiny.TAG_ROWS[:5], batch_size=3)


def optimizers_make_the_same_steps(folder):
    # Epsilon is large because Adam's first steps are the signs of gradients, even of mere rounding errors.
    def adamw(**kwargs):
        return tx.optimizers.AdamW(1e-2, epsilon=1e-2, **kwargs)

    for optimizer in (
        lambda: tx.optimizers.Layerwise(adamw(), decay=0.8),
        lambda: tx.optimizers.Subset(adamw(use_ema=True)),
    ):
        assert_same(folder, compiled(classifier, optimizer=optimizer), TEXTS, LABELS, epochs=3)


def what_cannot_be_is_refused(folder):
    import tensorflow as tf

    accumulating = compiled(classifier, optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    model = made_on(mirrored(), lambda: accumulating(folder))
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps`.*None on several replicas"):
        model.fit(TEXTS, LABELS)

    class TwoOutputs(tx.optimizers.TrainsAlone, keras.Model):
        pass

    def two_outputs():
        inputs = keras.Input((2,))
        made = TwoOutputs(inputs, {name: keras.layers.Dense(2, name=name)(inputs) for name in ("own", "keras")})
        made.compile("sgd", loss={"own": tx.losses.ClassCrossentropy(), "keras": "mse"})
        return made

    with pytest.raises(ValueError, match=r"`loss`.*losses of one kind on several replicas"):
        made_on(mirrored(), two_outputs).fit(np.ones((4, 2)), {"own": np.ones(4, int), "keras": np.ones((4, 2))})
    model = made_on(tf.distribute.MultiWorkerMirroredStrategy(), lambda: compiled(classifier)(folder))
    with pytest.raises(ValueError, match=r"`strategy`.*MirroredStrategy.*keras\.distribution"):
        model.fit(TEXTS, LABELS)
    remembering = compiled(siamese, lambda: tx.losses.CrossBatchMemoryLoss(tx.losses.CircleLoss(), 8, 16))
    model, pairs = made_on(mirrored(), lambda: remembering(folder)), (TEXTS, TEXTS[::-1])
    with pytest.raises(ValueError, match=r"`loss`.*without a memory.*CrossBatchMemoryLoss"):
        model.fit(pairs, np.arange(7), verbose=0)
    model = made_on(mirrored(), lambda: tx.models.Reranker(encoder(), tiny.preprocessor(folder)))
    model.compile()
    lists = [{"query": text, "documents": TEXTS[:3], "grades": [1, 0, 0]} for text in TEXTS]
    with pytest.raises(ValueError, match=r"`x`.*pairs of query and document on several replicas"):
        model.fit(tx.data.rankings(lists), verbose=0)


class Kill(keras.callbacks.Callback):
    """Interrupts `fit` after a number of steps."""

    def __init__(self, at):
        super().__init__()
        self._left = iter(range(at))  # an iterator, because a resumed run would restore a plain value

    def on_train_batch_end(self, batch, logs=None):
        if next(self._left, None) is None:
            raise KeyboardInterrupt


def callbacks_do_their_work(folder):
    def callbacks(name, *others):
        return [
            tx.callbacks.EvaluateClassification(TEXTS, LABELS),
            keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=3, restore_best_weights=True),
            *others,
            tx.callbacks.Resume(folder / name, every=1),
        ]

    make = compiled(classifier, optimizer=lambda: tx.optimizers.AdamW(1e-2, epsilon=1e-2))
    results = []
    for strategy, name, kills in ((None, "one", []), (mirrored(), "two", []), (mirrored(), "killed", [3, 2])):
        for kill in [*kills, None]:
            model = made_on(strategy, lambda: make(folder))
            batches = tx.data.batches((TEXTS, LABELS), model, 4, seed=5)
            options = {"epochs": 3, "verbose": 0}
            try:
                others = [] if kill is None else [Kill(kill)]
                history = model.fit(batches, callbacks=callbacks(name, *others), **options).history
            except KeyboardInterrupt:
                continue
            assert batches.epoch == 3
        results.append((history, model.get_weights()))
    for history, weights in results[1:]:
        for name, values in results[0][0].items():
            np.testing.assert_allclose(history[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
        for one, other in zip(results[0][1], weights, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def frozen_parts_and_their_features_train_alike(folder):
    groups = ["block_1", "head"], ["head"]
    for trainable in groups:
        results = []
        for strategy, is_above in ((None, False), (mirrored(), False), (mirrored(), True)):

            def make(is_above=is_above, trainable=trainable):
                model = classifier(folder, num_layers=2)
                model.set_trainable(trainable)
                model.compile(keras.optimizers.SGD(0.1))
                return (model, tx.freezing.AboveFrozen(model)) if is_above else (model, model)

            model, trained = made_on(strategy, make)
            if is_above and trainable is groups[0]:
                with pytest.raises(ValueError, match=r"`strategy`.*one replica above the stored states of tokens"):
                    trained.fit(TEXTS, LABELS)
                continue
            history = trained.fit(TEXTS, LABELS, batch_size=4, seed=3, epochs=2, verbose=0).history
            results.append((history, model.get_weights(), model.predict(TEXTS, verbose=0)))
        for history, weights, answers in results[1:]:
            np.testing.assert_allclose(history["loss"], results[0][0]["loss"], rtol=1e-5)
            np.testing.assert_allclose(answers, results[0][2], rtol=1e-4, atol=1e-5)
            for one, other in zip(results[0][1], weights, strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


CASES = [
    losses_are_those_of_the_whole_batch,
    weights_of_rows_and_losses_of_keras_count_alike,
    optimizers_make_the_same_steps,
    what_cannot_be_is_refused,
    callbacks_do_their_work,
    frozen_parts_and_their_features_train_alike,
]


@pytest.mark.slow  # each trains several models, whose steps are traced for two replicas
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_on_two_replicas(case, tmp_path):
    test_contracts.run_afresh(f"""
        import pathlib, sys
        import tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        # Rewriting the graphs takes longer than running them.
        tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})
        import test_devices
        test_devices.{case.__name__}(pathlib.Path({str(tmp_path)!r}))
    """)
