"""Optimizers on a subset of their variables, compared with loops and with fresh optimizers."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_optimizers_layerwise import GROUPS, Grouped, adamw, gradients, run

from tfxfer import optimizers

WRAPPERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
ALL = {
    **{
        name: kind
        for name, kind in vars(keras.optimizers).items()
        if inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer) and name not in WRAPPERS
    },
    "tfxfer>AdamW": optimizers.AdamW,
}


def ones(variables):
    return [np.ones(each.shape, "float32") for each in variables]


# === Steps ===


def test_a_variable_that_starts_late_makes_the_steps_of_a_first_step():
    model = Grouped()
    optimizer = optimizers.Subset(keras.optimizers.Adam(0.004))
    optimizer.build(model.variables)
    before, grads = model.values(), gradients(model.variables, 9)
    late = [i for i, each in enumerate(model.variables) if model.group_of(each) == "bottom"]
    early = [i for i in range(len(before)) if i not in late]
    for step in grads[:4]:
        optimizer.apply([step[i] for i in early], [model.variables[i] for i in early])
    for i in late:
        np.testing.assert_array_equal(model.values()[i], before[i])
    for step in grads[4:]:
        optimizer.apply(step, model.variables)
    for i, variable in enumerate(model.variables):
        expected = adamw(before[i], [step[i] for step in grads], [0.004] * 9, 0.0, start=4 if i in late else 0)
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6, err_msg=variable.path)
    assert int(optimizer.iterations) == 9


def test_all_optimizers_of_keras_are_here():
    assert len(ALL) >= 14 and {"Adam", "Nadam", "Muon"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_variable_that_joins_late_steps_as_a_fresh_one(name):
    together, alone = Grouped(), Grouped()
    grads = gradients(together.variables, 8)
    made, fresh = (ALL[name](learning_rate=0.02) for _ in range(2))
    optimizer = optimizers.Subset(made)
    optimizer.build(together.variables)
    run(optimizer, together, ("middle", "top"), grads[:5])
    run(optimizer, together, GROUPS, grads[5:])
    run(fresh, alone, ("bottom",), grads[5:])
    start = Grouped().values()
    for i, variable in enumerate(together.variables):
        if together.group_of(variable) == "bottom":
            assert np.abs(variable.numpy() - start[i]).max() > 1e-6
            np.testing.assert_allclose(variable.numpy(), alone.values()[i], atol=2e-6, err_msg=variable.path)
    # Variables that train from the start move as they do without the wrapper.
    plain = Grouped()
    run(ALL[name](learning_rate=0.02), plain, ("middle", "top"), grads)
    for i, variable in enumerate(together.variables):
        if together.group_of(variable) != "bottom":
            np.testing.assert_allclose(variable.numpy(), plain.values()[i], atol=2e-6, err_msg=variable.path)


def steps_on(optimizer, variables):
    return lambda grads: optimizer.apply(grads, variables)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Nadam", {}),
        ("tfxfer>AdamW", {"weight_decay": 0.3, "global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.7}),
        ("tfxfer>AdamW", {"gradient_accumulation_steps": 2}),
    ],
)
def test_a_variable_that_joins_late_steps_in_a_graph_as_outside_of_one(name, options):
    start, found = Grouped().values(), []
    for compile_step in (functools.partial(tf.function, autograph=False), lambda function: function):
        model = Grouped()
        optimizer = optimizers.Layerwise(ALL[name](learning_rate=0.02, **options), {"top": 2.0}).bind(model)
        optimizer.build(model.variables)
        grads = gradients(model.variables, 8)
        for names, steps in ((("top",), grads[:4]), (GROUPS, grads[4:])):
            chosen = [i for i, variable in enumerate(model.variables) if model.group_of(variable) in names]
            apply = compile_step(steps_on(optimizer, [model.variables[i] for i in chosen]))
            for step in steps:
                apply([tf.constant(step[i]) for i in chosen])
        found.append([*model.values(), *(each.numpy() for each in optimizer.variables)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    for before, after in zip(start, found[0], strict=False):
        assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("name", ["Adam", "Nadam", "Muon", "tfxfer>AdamW"])
def test_an_optimizer_that_was_wrapped_goes_on_alone(name):
    values = []
    for wrap in (False, True):
        model, optimizer = Grouped(), ALL[name](learning_rate=0.02)
        grads = gradients(model.variables, 6)
        run(optimizers.Subset(optimizer) if wrap else optimizer, model, GROUPS, grads[:3])
        run(optimizer, model, GROUPS, grads[3:])
        assert type(optimizer) is ALL[name] and not set(dir(ALL[name])) & set(vars(optimizer)) - {"built"}
        values.append(np.concatenate([each.ravel() for each in model.values()]))
    np.testing.assert_allclose(*values, atol=1e-6)


def test_rates_by_group_leave_an_optimizer_that_goes_on_alone():
    model, inner = Grouped(), keras.optimizers.AdamW(0.02, weight_decay=0.3)
    run(optimizers.Layerwise(inner, {"top": 3.0}, decay=0.5).bind(model), model, GROUPS, gradients(model.variables, 2))
    start, other = model.values(), Grouped()
    fresh = keras.optimizers.AdamW(0.02, weight_decay=0.3)
    fresh.build(other.variables)
    for one, two in zip([*other.variables, *fresh.variables], [*model.variables, *inner.variables], strict=True):
        one.assign(two)
    more = gradients(model.variables, 3, seed=5)
    run(inner, model, GROUPS, more)
    run(fresh, other, GROUPS, more)
    for one, two, before in zip(model.values(), other.values(), start, strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, before)


def test_an_optimizer_in_mid_training_goes_on_as_keras_has_it():
    values = []
    for wrap in (False, True):
        model, optimizer = Grouped(), keras.optimizers.Adam(0.02)
        grads = gradients(model.variables, 4)
        run(optimizer, model, GROUPS, grads[:2])
        run(optimizers.allow_subsets(optimizer) if wrap else optimizer, model, GROUPS, grads[2:])
        values.append(model.values()[0])
    np.testing.assert_array_equal(*values)


def test_batches_that_were_missed_in_between_do_not_count_either():
    model, optimizer = Grouped(), optimizers.Subset(keras.optimizers.Adam(0.02))
    optimizer.build(model.variables)
    grads = gradients(model.variables, 9)
    run(optimizer, model, GROUPS, grads[:3])
    run(optimizer, model, ("top",), grads[3:6])
    run(optimizer, model, GROUPS, grads[6:])
    expected = adamw(Grouped().values()[0], [step[0] for step in [*grads[:3], *grads[6:]]], [0.02] * 6, 0.0)
    np.testing.assert_allclose(model.values()[0], expected, atol=1e-6)
    assert keras.ops.convert_to_numpy(optimizer.missed).tolist() == [3] * 8 + [0] * 4


def test_a_state_that_was_saved_knows_what_joined_late(tmp_path):
    def train(model, steps, *, low):
        model.layers[0].trainable = low
        model.compile(model.optimizer, "mse")
        model.optimizer.build(model.weights)
        x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
        model.fit(x, x[:, :2], batch_size=4, epochs=steps, shuffle=False, verbose=0)

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile(optimizers.Subset(keras.optimizers.Nadam(0.02)), "mse")
    train(model, 2, low=False)
    train(model, 1, low=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, optimizers.Subset)
    assert again.optimizer.missed.numpy().tolist() == [4, 4, 0, 0]
    for each in (model, again):
        train(each, 2, low=True)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    weights = [each.numpy() for each in model.optimizer.variables]
    again.optimizer.set_weights([each * 0 for each in weights])
    again.optimizer.set_weights(weights)
    assert again.optimizer.missed.numpy().tolist() == [4, 4, 0, 0]


class Plainly(keras.optimizers.Optimizer):
    """A user's momentum optimizer that assigns to Keras variables directly, not with the methods of optimizers."""

    def build(self, variables):
        super().build(variables)
        self.moments = [self.add_variable_from_reference(each, "moment") for each in variables]

    def update_step(self, gradient, variable, learning_rate):
        moment = self.moments[self._get_variable_index(variable)]
        rate = keras.ops.cast(learning_rate, "float32") / keras.ops.cast(self.iterations + 1, "float32")
        moment.assign(0.5 * moment + gradient)
        variable.assign(variable - rate * moment)


def test_an_optimizer_that_assigns_by_itself_keeps_its_state():
    values = []
    for wrap in (False, True):
        model, optimizer = Grouped(), Plainly(0.02)
        run(optimizers.Subset(optimizer) if wrap else optimizer, model, GROUPS, gradients(model.variables, 4))
        values.append([*model.values(), *(each.numpy() for each in optimizer.moments)])
    for one, other in zip(*values, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_gradients_that_were_accumulated_before_a_freeze_are_forgotten():
    model = Grouped()
    optimizer = optimizers.Subset(keras.optimizers.SGD(1.0, gradient_accumulation_steps=3))
    optimizer.build(model.variables)
    before, variables = model.values(), model.variables
    optimizer.apply(ones(variables), variables)
    optimizer.apply(ones(variables[4:]), variables[4:])
    optimizer.apply(ones(variables), variables)
    moved = [float(np.mean(value - each)) for value, each in zip(before, model.values(), strict=True)]
    np.testing.assert_allclose(moved, [1 / 3] * 4 + [1.0] * (len(moved) - 4), atol=1e-6)


def test_loss_scaling_is_looked_through():
    model, inner = Grouped(), keras.optimizers.Adam(0.02)
    scaled = keras.optimizers.LossScaleOptimizer(inner)
    scaled.build(model.variables)
    assert optimizers.allow_subsets(scaled) is scaled and isinstance(scaled.inner_optimizer, optimizers.Subset)
    assert optimizers.allow_subsets(scaled).inner_optimizer.inner_optimizer is inner
    layerwise = optimizers.Layerwise(keras.optimizers.Adam(0.02))
    assert optimizers.allow_subsets(layerwise) is layerwise
    before, variables = model.values(), model.variables[4:]
    scaled.apply(ones(variables), variables)
    scaled.finalize_variable_values(variables)
    moved = [not np.array_equal(one, other) for one, other in zip(before, model.values(), strict=True)]
    assert moved == [False] * 4 + [True] * (len(moved) - 4)
    assert len(scaled.variables) == 2 + 2 + len(inner.variables) + 1  # two of any optimizer, two of the loss scale


# === Moving averages ===


def test_averages_go_to_their_own_variables_and_frozen_ones_do_not_move():
    model = Grouped()
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=3)
    optimizer = optimizers.Subset(inner)
    optimizer.build(model.variables)
    before, grads = model.values(), gradients(model.variables, 8)
    trained = model.variables[4:]
    expected = [value.astype("float64") for value in before]
    averages = [None] * len(before)

    def step(values, active, index):
        for i in active:
            values[i] = values[i] - 0.1 * grads[index][i]
            averages[i] = values[i] if averages[i] is None else 0.6 * averages[i] + 0.4 * values[i]
            if (index + 1) % 3 == 0:
                values[i] = averages[i]

    for index in range(4):
        optimizer.apply(grads[index][4:], trained)
        step(expected, range(4, len(before)), index)
    kept = [each.numpy() for each in inner._model_variables_moving_average]
    for i in range(4):
        np.testing.assert_array_equal(model.values()[i], before[i])
        np.testing.assert_array_equal(kept[i], before[i])
    for index in range(4, 8):
        optimizer.apply(grads[index], model.variables)
        step(expected, range(len(before)), index)
    np.testing.assert_allclose(
        np.concatenate([v.ravel() for v in model.values()]), np.concatenate([v.ravel() for v in expected]), atol=1e-5
    )
    optimizer.finalize_variable_values(trained)
    for i, variable in enumerate(model.variables):
        np.testing.assert_allclose(variable.numpy(), averages[i] if i >= 4 else expected[i], atol=1e-5)


def check_swapping():
    """Checks that a frozen layer keeps its exact weights, whatever swaps averages in and out."""
    for policy, options in {
        "float32": {},
        "mixed_float16": {},
        "mixed_bfloat16": {"ema_overwrite_frequency": 2},
    }.items():
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        low, high = keras.layers.Dense(3), keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((4,)), low, high])
        optimizer = optimizers.Subset(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5, **options))
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
        low.trainable = False
        before, seen = [each.numpy() for each in model.weights], []
        look = keras.callbacks.LambdaCallback(
            on_test_end=lambda logs, low=low, seen=seen: seen.append([each.numpy() for each in low.weights])
        )
        x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        for _ in range(2):
            callbacks = [look, swap]
            model.fit(
                x, x[:, :2], batch_size=4, epochs=2, verbose=0, callbacks=callbacks, validation_data=(x, x[:, :2])
            )
        assert len(seen) == 4
        for values in [*seen, [each.numpy() for each in low.weights]]:
            for value, expected in zip(values, before, strict=False):
                np.testing.assert_array_equal(value, expected)
        assert all(not np.array_equal(a.numpy(), b) for a, b in zip(high.weights, before[2:], strict=True))
    keras.config.set_dtype_policy("float32")


def test_what_is_frozen_is_the_same_while_averages_are_swapped():
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15):
        pytest.skip("Keras's SwapEMAWeights goes by the variables that train before 3.15; `fit` refuses it")
    check_swapping()


def test_weights_that_are_set_while_frozen_are_their_averages_after_settle():
    model, inner = Grouped(), keras.optimizers.SGD(0.1, use_ema=True)
    optimizer = optimizers.Subset(inner)
    optimizer.settle()  # before there is anything to settle
    optimizer.build(model.variables)
    model.variables[0].assign(np.full(model.variables[0].shape, 7.0))
    model.variables[0].trainable = False
    optimizer.settle()
    averages = [each.numpy() for each in inner._model_variables_moving_average]
    assert np.all(averages[0] == 7)
    np.testing.assert_array_equal(averages[1], model.values()[1])


# === Elsewhere ===


def test_steps_in_a_graph_under_a_strategy_are_those_of_one_device():
    import tensorflow as tf

    values = []
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0"])):
        with strategy.scope() if strategy else tf.device("CPU:0"):
            keras.utils.set_random_seed(0)
            low, high = keras.layers.Dense(3), keras.layers.Dense(2)
            model = keras.Sequential([keras.Input((4,)), low, high])
            inner = keras.optimizers.Nadam(0.05, use_ema=True)
            model.compile(optimizers.Subset(inner), "mse")
            model.optimizer.build(model.trainable_variables)
        x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        for flag in (False, True):
            low.trainable = flag
            model.make_train_function(force=True)
            model.fit(x, x[:, :2], batch_size=4, epochs=1, shuffle=False, verbose=0)
        assert model.optimizer.missed.numpy().tolist() == [4, 4, 0, 0]
        values.append(np.concatenate([each.numpy().ravel() for each in model.weights]))
    np.testing.assert_allclose(*values, atol=1e-6)


def test_values_that_are_not_those_of_the_variables_are_an_error_on_a_backend_without_state():
    optimizer = optimizers.Subset(keras.optimizers.Adam())
    with pytest.raises(ValueError, match="stateless_apply"):
        optimizer.stateless_apply([], [], [])
