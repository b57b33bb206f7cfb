"""Losses on JAX, and on several devices: each in a process of its own."""

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


def test_loss_of_a_whole_batch_is_divided_by_the_number_of_replicas_as_keras_does():
    test_contracts.run_afresh("""
        import numpy as np, tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from tfxfer import losses
        rows, scores = np.random.default_rng(0).normal(size=(4, 2, 6)).astype("float32"), np.arange(4.0)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for loss in (losses.CoSENTLoss(), losses.CosineMSELoss()):
            values = strategy.experimental_local_results(strategy.run(tf.function(loss), (scores, rows)))
            np.testing.assert_allclose(sum(float(v) for v in values), float(loss(scores, rows)), rtol=1e-6)
    """)
