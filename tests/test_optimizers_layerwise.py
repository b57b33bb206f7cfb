"""Learning rates by layer group, compared with loops and with other optimizers."""

import keras
import numpy as np
import pytest
import test_contracts
import tiny

from tfxfer import optimizers, schedules

GROUPS = {"bottom": 0.25, "middle": 0.5, "top": 3.0}
SHAPE = (4, 3)


class Grouped:
    """Layers in three groups, without a model around them."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.layers = {}
        for name in GROUPS:
            dense = keras.layers.Dense(SHAPE[1], name=f"{name}_dense")
            norm = keras.layers.LayerNormalization(name=f"{name}_norm")
            dense.build((None, SHAPE[0]))
            norm.build((None, SHAPE[1]))
            self.layers[name] = [dense, norm]
        for variable in self.variables:
            variable.assign(rng.normal(size=variable.shape))

    @property
    def variables(self):
        return [weight for layers in self.layers.values() for layer in layers for weight in layer.weights]

    def group_of(self, variable):
        return variable.path.partition("_")[0]

    def layer_groups(self):
        return self.layers

    def values(self):
        return [variable.numpy() for variable in self.variables]


def gradients(variables, steps, seed=1):
    rng = np.random.default_rng(seed)
    # The sizes differ between steps, so that Adam's momentum and velocity differ.
    return [
        [(rng.normal(size=each.shape) * 3**step % 2).astype("float32") for each in variables] for step in range(steps)
    ]


def adamw(value, grads, rates, decay, *, start=0, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """AdamW (Loshchilov & Hutter) for one array, with epsilon as in Keras; skips the first `start` steps."""
    value, m, v = value.astype("float64"), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        if step <= start:
            continue
        value = value - value * decay * rate
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient.astype("float64") ** 2
        own = step - start
        value = value - rate * np.sqrt(1 - beta_2**own) / (1 - beta_1**own) * m / (np.sqrt(v) + epsilon)
    return value


def momentum(value, grads, rates, decay, *, friction=0.8):
    value, velocity = value.astype("float64"), 0.0
    for gradient, rate in zip(grads, rates, strict=True):
        value = value - value * decay * rate
        velocity = friction * velocity - rate * gradient
        value = value + velocity
    return value


# === Effective rates ===


@pytest.mark.parametrize(
    ("make", "loop", "decay"),
    [
        (lambda rate: keras.optimizers.SGD(rate, momentum=0.8, weight_decay=0.3), momentum, 0.3),
        (lambda rate: keras.optimizers.Adam(rate), adamw, 0.0),
        (lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.3), adamw, 0.3),
        (lambda rate: optimizers.AdamW(rate, weight_decay=0.3), adamw, 0.3),
    ],
)
@pytest.mark.parametrize("excluded", [("bias", "beta", "gamma"), ()])
def test_each_group_moves_as_a_loop_with_its_own_rate_and_weight_decay(make, loop, decay, excluded):
    model, steps = Grouped(), 5
    optimizer = optimizers.Layerwise(
        make(schedules.warmup_linear(0.004, steps, 2)), GROUPS, exclude_from_weight_decay=excluded
    ).bind(model)
    before, grads = model.values(), gradients(model.variables, steps)
    for step in grads:
        optimizer.apply(step, model.variables)
    rates = 0.004 * np.array([0, 1 / 2, 1, 2 / 3, 1 / 3])
    for i, variable in enumerate(model.variables):
        factor = GROUPS[model.group_of(variable)]
        own = 0.0 if variable.name in excluded else decay
        expected = loop(before[i], [step[i] for step in grads], rates * factor, own)
        assert np.abs(expected - before[i]).max() > 1e-4
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6, err_msg=variable.path)


class Signs(keras.optimizers.Optimizer):
    """A custom optimizer with constant steps."""

    def update_step(self, gradient, variable, learning_rate):
        step = keras.ops.sign(gradient) * keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, keras.ops.cast(step, variable.dtype))


OPTIMIZERS = {
    **{
        name: lambda rate, name=name, **options: getattr(keras.optimizers, name)(rate, **options)
        for name in "Adadelta Adafactor Adagrad Adamax Ftrl Lamb Lion Muon Nadam RMSprop ScheduleFreeAdamW".split()
        if hasattr(keras.optimizers, name)
    },
    "Signs": lambda rate, **options: Signs(rate, **options),
    "AMSGrad": lambda rate, **options: keras.optimizers.AdamW(rate, amsgrad=True, weight_decay=0.1, **options),
}
OPTIONS = {
    "ema": {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
    "accumulation": {"gradient_accumulation_steps": 2, "clipnorm": 0.1},
    "clipping": {"clipvalue": 0.1, "weight_decay": 0.2},
    "loss scaling": {},
}


def run(optimizer, model, names, grads):
    """Applies the gradients of the variables of some groups."""
    chosen = [i for i, variable in enumerate(model.variables) if model.group_of(variable) in names]
    variables = [model.variables[i] for i in chosen]
    for step in grads:
        optimizer.apply([keras.ops.convert_to_tensor(step[i]) for i in chosen], variables)
    optimizer.finalize_variable_values(variables)


def compare(make, wrap=lambda optimizer: optimizer):
    """Compares one optimizer with rates by group to one optimizer per group, created with that rate."""
    together, apart = Grouped(), Grouped()
    grads = gradients(together.variables, 4)
    layerwise = optimizers.Layerwise(make(0.02), GROUPS, exclude_from_weight_decay=())
    run(wrap(layerwise.bind(together)), together, GROUPS, grads)
    for name, factor in GROUPS.items():
        run(wrap(make(0.02 * factor)), apart, [name], grads)
    for one, other, start in zip(together.variables, apart.variables, Grouped().values(), strict=True):
        assert np.abs(one.numpy() - start).max() > 1e-6
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6, err_msg=one.path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_moves_each_group_as_one_made_with_that_rate(name):
    compare(OPTIMIZERS[name])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("make", [keras.optimizers.AdamW, optimizers.AdamW])
def test_averages_accumulation_clipping_and_loss_scaling_go_with_rates_by_group(name, make):
    wrap = {"wrap": keras.optimizers.LossScaleOptimizer} if name == "loss scaling" else {}
    compare(lambda rate: make(rate, **OPTIONS[name]), **wrap)


def test_clipping_by_the_global_norm_sees_all_groups_as_without_rates():
    models = Grouped(), Grouped()
    made = [keras.optimizers.AdamW(0.02, global_clipnorm=0.1) for _ in models]
    grads = gradients(models[0].variables, 3)
    wrapped = optimizers.Layerwise(made[0], exclude_from_weight_decay=()).bind(models[0])
    run(wrapped, models[0], GROUPS, grads)
    run(made[1], models[1], GROUPS, grads)
    np.testing.assert_array_equal(models[0].values()[0], models[1].values()[0])


def test_decay_counts_the_groups_with_weights_from_the_top():
    model = Grouped()
    model.layers = {
        "input": [keras.layers.Dropout(0.1)],
        **model.layers,
        "unit_norm": [keras.layers.UnitNormalization()],
    }
    optimizer = optimizers.Layerwise(keras.optimizers.SGD(1.0), {"bottom": 3.0}, decay=0.8).bind(model)
    expected = {"bottom": 3 * 0.8**2, "middle": 0.8, "top": 1.0}
    assert optimizer.group_multipliers == pytest.approx(expected)
    before = model.values()
    optimizer.apply([np.ones(each.shape, "float32") for each in model.variables], model.variables)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_allclose(value - variable.numpy(), expected[model.group_of(variable)], atol=1e-6)


def test_patterns_name_groups_and_a_name_goes_before_a_pattern():
    model = Grouped()
    optimizer = optimizers.Layerwise(keras.optimizers.SGD(1.0), {"*": 0.5, "top": 2.0}).bind(model)
    assert optimizer.group_multipliers == {"bottom": 0.5, "middle": 0.5, "top": 2.0}


def test_a_plain_model_has_its_layers_for_groups_and_weights_outside_keep_the_rate():
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Sequential([keras.Input((4,)), shared, keras.layers.Dropout(0.1), keras.layers.Dense(4, name="last")])
    optimizer = optimizers.Layerwise(keras.optimizers.SGD(1.0), {"shared": 0.5}).bind(model)
    assert optimizer.group_multipliers == {"shared": 0.5, "last": 1.0}
    other = keras.Variable(np.zeros(2, "float32"))
    variables = [shared.bias, model.layers[-1].bias, other]
    optimizer.apply([np.ones(each.shape, "float32") for each in variables], variables)
    assert [float(each[0]) for each in variables] == [-0.5, -1.0, -1.0]


def test_the_learning_rate_is_the_optimizer_s_own_and_can_be_set():
    model, inner = Grouped(), keras.optimizers.SGD(1.0)
    optimizer = optimizers.Layerwise(inner, GROUPS).bind(model)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    scaled.learning_rate = 0.5
    assert float(inner.learning_rate) == float(optimizer.learning_rate) == 0.5
    before = model.values()[0]
    optimizer.apply([np.ones(each.shape, "float32") for each in model.variables], model.variables)
    np.testing.assert_allclose(before - model.values()[0], 0.5 * 0.25, atol=1e-6)
    optimizer.learning_rate = schedules.Warmup(2.0, 2)
    assert float(optimizer.learning_rate) == 1.0 and int(optimizer.iterations) == 1


# === Models ===


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layerwise")


def fit(model, **kwargs):
    return model.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, shuffle=False, verbose=0, **kwargs)


def seeds(model):
    """The states of the dropout layers' seed generators, which Keras does not save."""
    return [each for each in model.non_trainable_variables if "seed_generator" in each.path]


def test_compile_binds_the_groups_and_fit_moves_them_by_their_rates(folder):
    model = tiny.classifier(folder, dropout=0.0)
    start = [each.numpy() for each in model.variables]

    def moves(optimizer):
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        model.compile(optimizer)
        model.fit(tiny.TEXTS, tiny.LABELS, batch_size=8, shuffle=False, verbose=0)
        return [each.numpy() - value for each, value in zip(model.variables, start, strict=True)]

    plain = moves(keras.optimizers.SGD(0.1))
    optimizer = optimizers.Layerwise(keras.optimizers.SGD(0.1), {"head": 10.0, "block_*": 0.5}, decay=0.9)
    found = moves(optimizer)
    assert optimizer.group_multipliers == pytest.approx({"embeddings": 0.81, "block_0": 0.45, "head": 10.0})
    factors = {
        id(weight): optimizer.group_multipliers[name]
        for name, layers in model.layer_groups().items()
        for layer in layers
        for weight in layer.weights
    }
    checked = 0
    for variable, one, other in zip(model.variables, found, plain, strict=True):
        if variable.trainable:
            np.testing.assert_allclose(one, factors[id(variable)] * other, atol=2e-6, err_msg=variable.path)
            checked += np.abs(other).max() > 1e-4
    assert checked > 15


def plain_model(policy):
    """A plain Keras model, compiled with rates for its layers."""
    layers = [keras.layers.Dense(3, name="low", dtype=policy), keras.layers.Dense(2, name="high", dtype=policy)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    inner = keras.optimizers.AdamW(schedules.warmup_linear(0.02, 20), use_ema=True)
    optimizer = optimizers.Layerwise(inner, {"high": 3.0}).bind(model)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    return model


@pytest.mark.slow  # runs in its own process
def test_a_model_that_was_saved_trains_on_exactly_in_a_fresh_process(folder):
    rows = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    model = tiny.classifier(folder)
    inner = keras.optimizers.AdamW(schedules.warmup_cosine(0.02, 20), weight_decay=0.1)
    model.compile(optimizers.Layerwise(inner, {"head": 3.0}, decay=0.9, exclude_from_weight_decay="bias"))
    fit(model, epochs=2)
    plain = plain_model("mixed_float16")
    plain.fit(rows, rows[:, :2], batch_size=4, shuffle=False, verbose=0)
    model.save(folder / "model.keras")
    plain.save(folder / "plain.keras")
    np.savez(folder / "seeds.npz", *[each.numpy() for each in seeds(model)])
    fit(model, epochs=2)
    plain.fit(rows, rows[:, :2], batch_size=4, shuffle=False, verbose=0)
    for name, one in {"model": model, "plain": plain}.items():
        np.savez(folder / f"{name}.npz", *[each.numpy() for each in (*one.weights, *one.optimizer.variables)])
    test_contracts.run_afresh(f"""
        import pathlib, keras, numpy as np, tfxfer, tiny
        folder = pathlib.Path({str(folder)!r})
        model, plain = [keras.saving.load_model(folder / f"{{name}}.keras") for name in ("model", "plain")]
        for variable, value in zip([each for each in model.non_trainable_variables if "seed_generator" in each.path],
                                   np.load(folder / "seeds.npz").values(), strict=True):
            variable.assign(value)
        assert model.optimizer.group_multipliers == {{"embeddings": 0.9 * 0.9, "block_0": 0.9, "head": 3.0}}
        assert model.optimizer.get_config()["exclude_from_weight_decay"] == ["bias"]
        model.fit(tiny.TEXTS, tiny.LABELS, batch_size=4, shuffle=False, verbose=0, epochs=2)
        rows = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        try:
            plain.fit(rows, rows[:, :2], verbose=0)
        except ValueError as error:
            assert "optimizer.bind(model)" in str(error)
        else:
            raise SystemExit("trained without groups")
        plain.optimizer.inner_optimizer.bind(plain)
        plain.fit(rows, rows[:, :2], batch_size=4, shuffle=False, verbose=0)
        for name, one in {{"model": model, "plain": plain}}.items():
            stored = np.load(folder / f"{{name}}.npz")
            found = [each.numpy() for each in (*one.weights, *one.optimizer.variables)]
            assert len(found) == len(stored.files)
            for value, key in zip(found, stored.files, strict=True):
                np.testing.assert_array_equal(value, stored[key])
    """)


def test_the_file_holds_the_moments_once(folder):
    sizes = []
    for wrap in (lambda optimizer: optimizer, optimizers.Layerwise):
        model = tiny.classifier(folder)
        model.compile(wrap(keras.optimizers.Adam(0.01)))
        model.optimizer.build(model.trainable_variables)
        model.save(folder / "size.keras")
        sizes.append((folder / "size.keras").stat().st_size)
    assert sizes[1] < sizes[0] * 1.05


def test_averages_are_swapped_in_for_evaluation_by_keras_s_callback():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = optimizers.Layerwise(keras.optimizers.Adam(0.05, use_ema=True), decay=0.5).bind(model)
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=(8, 4))
    model.fit(x, x[:, :2], epochs=2, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
    averages = optimizer.inner_optimizer._model_variables_moving_average
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_allclose(variable.numpy(), average.numpy(), atol=1e-6)


# === JAX ===


@pytest.mark.slow  # runs in its own process, on a backend that compiles each operation
def test_rates_subsets_and_schedules_on_jax(tmp_path):
    import test_schedules

    rates = [[float(made(t)) for t in test_schedules.STEPS] for made, _ in test_schedules.CASES.values()]
    np.save(tmp_path / "rates.npy", rates)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import jax, keras, numpy as np
        import test_optimizers_layerwise as tests, test_optimizers_subset as subsets, test_schedules, tfxfer as tx

        for (name, (schedule, _)), rates in zip(
            test_schedules.CASES.items(), np.load({str(tmp_path / "rates.npy")!r}), strict=True
        ):
            found = jax.vmap(jax.jit(schedule))(np.array(test_schedules.STEPS))
            np.testing.assert_allclose(found, rates, atol=1e-7, err_msg=name)

        options = tests.OPTIONS["ema"] | tests.OPTIONS["accumulation"]
        tests.compare(lambda rate: tx.optimizers.AdamW(rate, **options))
        subsets.test_a_variable_that_starts_late_makes_the_steps_of_a_first_step()
        subsets.test_gradients_that_were_accumulated_before_a_freeze_are_forgotten()
        subsets.test_averages_go_to_their_own_variables_and_frozen_ones_do_not_move()
        for name in ("Nadam", "Adafactor"):
            subsets.test_a_variable_that_joins_late_steps_as_a_fresh_one(name)
        subsets.check_swapping()
        tests.check_fit()
        import test_callbacks_rates
        test_callbacks_rates.test_the_callback_goes_on_at_the_optimizer_s_own_step()
        test_callbacks_rates.test_the_range_test_leaves_no_trace(0.5)
    """)


def check_fit():
    """One `fit` in which a group unfreezes, with every option that may affect rates; the same on any backend."""
    for policy, options in {"mixed_bfloat16": {"jit_compile": True}, "mixed_float16": {}}.items():
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        low, high = keras.layers.Dense(3, name="low"), keras.layers.Dense(2, name="high")
        model = keras.Sequential([keras.Input((4,)), low, high])
        inner = keras.optimizers.AdamW(
            0.02, use_ema=True, ema_overwrite_frequency=3, gradient_accumulation_steps=2, global_clipnorm=1.0
        )
        optimizer = optimizers.Layerwise(inner, {"high": 2.0}, decay=0.5)
        model.compile(optimizer, "mse", **options)
        optimizer.bind(model)
        model.optimizer.build(model.trainable_variables)
        low.trainable = False
        before = [each.numpy() for each in model.weights]
        seen = {}

        def thaw(epoch, logs=None, model=model, low=low, seen=seen):
            if epoch == 2:
                seen["low"] = [each.numpy() for each in low.weights]
                low.trainable = True
                model.make_train_function(force=True)

        x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
        thawing = keras.callbacks.LambdaCallback(on_epoch_begin=thaw)
        model.fit(x, x[:, :2], batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[thawing])
        for value, found in zip(before, seen["low"], strict=False):
            np.testing.assert_array_equal(value, found)
        for value, variable in zip(before, model.weights, strict=True):
            assert 1e-3 < np.abs(variable.numpy() - value).max() < 1.0, variable.path
    keras.config.set_dtype_policy("float32")


def test_a_group_thaws_within_one_fit():
    check_fit()


# === Errors ===


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: optimizers.Layerwise("adam"), "a Keras optimizer"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), {"head": -1.0}), "argument `multipliers`.*freeze it"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), {"head": 0}), "argument `multipliers`.*freeze it"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), {"head": "2"}), "argument `multipliers`"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), {0: 2.0}), "argument `multipliers`"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), [2.0]), "argument `multipliers`"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), decay=0.0), "argument `decay`"),
        (lambda: optimizers.Layerwise(keras.optimizers.Adam(), decay=1.1), "argument `decay`"),
        (
            lambda: optimizers.Layerwise(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())),
            "without loss scaling.*wraps this optimizer",
        ),
        (lambda: optimizers.Layerwise(optimizers.Layerwise(keras.optimizers.Adam())), "one learning rate"),
        (lambda: optimizers.allow_subsets("adam"), "a Keras optimizer"),
        (lambda: optimizers.Subset(optimizers.Subset(keras.optimizers.Adam())), "one learning rate"),
    ],
)
def test_what_cannot_be_wrapped_or_multiplied_is_an_error_at_once(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("multipliers", "said"),
    [
        ({"blok_0": 2.0}, "'embeddings', 'block_0', 'head'.*multipliers='blok_0'"),
        ({"layer_*": 2.0}, r"patterns such as .* that match some.*layer_"),
        ({"block_*": 2.0, "*_0": 3.0}, "at most one pattern that matches group 'block_0'"),
    ],
)
def test_a_group_that_is_not_there_is_an_error_when_the_model_is_compiled(folder, multipliers, said):
    model = tiny.classifier(folder)
    with pytest.raises(ValueError, match=said):
        model.compile(optimizers.Layerwise(keras.optimizers.Adam(), multipliers))


def test_a_group_without_weights_has_no_rate():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Activation("relu", name="relu")])
    with pytest.raises(ValueError, match=r"groups that have weights.*relu"):
        optimizers.Layerwise(keras.optimizers.Adam(), {"relu": 2.0}).bind(model)


def test_an_optimizer_that_no_model_was_compiled_with_is_an_error_that_says_how():
    optimizer = optimizers.Layerwise(keras.optimizers.Adam(), {"head": 2.0})
    weight = keras.Variable(np.zeros(2, "float32"))
    with pytest.raises(ValueError, match=r"bound to a model's layer groups.*optimizer.bind\(model\)"):
        optimizer.apply([np.ones(2, "float32")], [weight])
    with pytest.raises(ValueError, match="bound to a model's layer groups"):
        _ = optimizer.group_multipliers


@pytest.mark.parametrize("method", ["_backend_update_step", "_backend_apply_gradients", "apply"])
def test_an_optimizer_that_makes_its_steps_elsewhere_is_an_error_at_once(method):
    elsewhere = type("Elsewhere", (keras.optimizers.SGD,), {method: lambda *args, **kwargs: None})
    with pytest.raises(ValueError, match=f"steps in `update_step`, not in `{method}`"):
        optimizers.Layerwise(elsewhere(0.1), GROUPS)
