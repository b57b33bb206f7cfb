"""Losses on JAX and on several devices, each in a separate process."""

import numpy as np
import pytest
import test_contracts


@pytest.mark.slow
def test_losses_on_jax_give_tensorflow_numbers_and_finite_gradients(tmp_path):
    expected = [float(make()(*args)) for make, args in test_contracts.LOSSES.values()]
    np.save(tmp_path / "expected.npy", expected)
    test_contracts.run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import jax, numpy as np
        jax.config.update("jax_enable_x64", True)  # one of the losses is in float64
        import test_contracts
        expected = np.load({str(tmp_path / "expected.npy")!r})
        for (make, (y_true, y_pred)), value in zip(test_contracts.LOSSES.values(), expected, strict=True):
            found, gradient = jax.jit(jax.value_and_grad(lambda x, y: make()(y, x)))(y_pred, y_true)
            np.testing.assert_allclose(found, value, rtol=1e-5, err_msg=make().name)
            assert np.isfinite(gradient).all(), make().name
    """)


# One loss for each way of handling replicas.
SOME = ["MultipleNegativesRankingLoss", "BatchHardTripletLoss", "CosineMSELoss", "TagCrossentropy", "MatryoshkaLoss"]


@pytest.mark.parametrize("names", [SOME, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_losses_on_replicas_with_unequal_parts_are_those_of_the_whole_batch(names):
    program = """
        import numpy as np, tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        import test_contracts
        from tfxfer import losses
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

        def values_and_gradients(loss, y, x, weights=None):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(y, x, weights)
            return value, tape.gradient(value, x)

        def parts(array):  # three quarters of the rows, and one quarter
            cut = -len(array) // 4
            made = [tf.constant(array[:cut]), tf.constant(array[cut:])]
            own = lambda context: made[context.replica_id_in_sync_group]
            return strategy.experimental_distribute_values_from_function(own)

        def check(loss, *arrays):
            expected, gradient = values_and_gradients(loss, *map(tf.constant, arrays))
            found = strategy.run(values_and_gradients, (loss, *map(parts, arrays)))
            values, gradients = (strategy.experimental_local_results(each) for each in found)
            np.testing.assert_allclose(sum(map(float, values)), float(expected), rtol=1e-5, err_msg=loss.name)
            if loss.reduction != "sum" or loss.compares_rows:  # by it Keras tells what the loss of a batch is
                np.testing.assert_allclose([float(v) * 2 for v in values], float(expected), rtol=1e-5)
            np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-4, atol=1e-6, err_msg=loss.name)

        names = NAMES
        for cls, (make, (y_true, y_pred)) in test_contracts.LOSSES.items():
            if names is None or cls.__name__ in names:
                check(make(), np.asarray(y_true), np.asarray(y_pred))
        y_true, y_pred = test_contracts.LOSSES[losses.CosineMSELoss][1]
        weights = np.arange(1.0, len(y_true) + 1).astype("float32")
        for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
            for loss in (losses.CosineMSELoss, losses.MultipleNegativesRankingLoss):
                check(loss(reduction=reduction), y_true, y_pred, weights)
        try:
            check(losses.MultipleNegativesRankingLoss(reduction="none"), y_true, y_pred)
        except ValueError as error:
            assert "`reduction`" in str(error)
        else:
            raise AssertionError("rows of other replicas cannot be told apart")
    """
    test_contracts.run_afresh(program.replace("NAMES", repr(names)))
