"""Attention and GELU on the JAX backend, in a separate process."""

import test_contracts


def test_attention_and_gelu_on_jax_equal_the_plain_ones():
    test_contracts.run_afresh("""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import jax, jax.numpy as jnp, keras, numpy as np
        from scipy import special
        from tfxfer.backbones import _attention, _positions, _unpadding
        from tfxfer.backbones._parts import ACTIVATIONS

        random = np.random.default_rng(0)
        layer = _attention.Attention(24, 6, num_key_value_heads=2, dropout=0.1)
        layer.build()
        for weight in layer.weights:
            weight.assign(random.normal(size=weight.shape) * 0.3)
        calls = []
        attend = keras.ops.dot_product_attention
        def recorded(*args, bias, flash_attention, **kwargs):
            calls.append((bias.shape, flash_attention))
            return attend(*args, bias=bias, flash_attention=flash_attention, **kwargs)
        keras.ops.dot_product_attention = _attention.ops.dot_product_attention = recorded
        for length, causal in ((9, True), (64, False), (65, False)):
            mask = (np.arange(length) < np.array([[length], [length // 2 + 1]])).astype("int32")
            layout = (*_unpadding.TokenLayout()(mask), mask)
            positions = keras.ops.reshape(_positions.count_positions(mask), (-1,))
            x = random.normal(size=(2 * length, 24)).astype("float32")
            real = mask.reshape(-1) > 0
            bias = _positions.AttentionBias(causal=causal)([mask], positions)
            def run(x):
                return keras.ops.sum(layer(x, layout, bias)[real] ** 2), layer(x, layout, bias)[real]
            results = []
            for fused in (True, False):
                layer._is_fused = lambda training, fused=fused: fused
                (_, output), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(x)
                results.append((output, gradient))
            for own, plain in zip(*results):
                np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-4)
            # cuDNN's kernel needs the whole bias, and is left alone where it is the slower one.
            shape, flash = calls[-1]
            assert shape == (2, 1, length if causal or length == 64 else 1, length), (shape, length)
            assert flash is (None if length == 64 else False), (flash, length)

        # The GELU in 16 bits is the exact one, rounded once.
        for dtype, digits in (("bfloat16", 8), ("float16", 11), ("float32", 20)):
            x = jnp.asarray(np.linspace(-9, 9, 4001), dtype)
            wide = np.asarray(x, "float64")
            expected = 0.5 * wide * (1 + special.erf(wide / np.sqrt(2)))
            found = jax.jit(ACTIVATIONS["gelu"])(x)
            assert found.dtype == dtype
            np.testing.assert_allclose(np.asarray(found, "float64"), expected, rtol=2.0**-digits, atol=2e-6)
            gradient = jax.jit(jax.grad(lambda x: ACTIVATIONS["gelu"](x).sum()))(x)
            assert np.isfinite(np.asarray(gradient, "float32")).all()
    """)
