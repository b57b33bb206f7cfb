"""Parts between the matrix products of a training step, each compiled into one loop by XLA.

TensorFlow computes a GELU, or dropout, a residual sum and a norm, as a dozen operations, each of which reads and writes
the whole matrix. XLA compiles them into one loop, but for one shape: a program for each number of tokens. So only
batches without padding use the programs, such as those of texts that are cut to one length.
"""

import contextlib
import contextvars

import keras
from keras import ops

from tfxfer import _ops
from tfxfer._fusing import can_compile, compiled_if
from tfxfer.backbones._unpadding import leaves_padding_out

_FULL = contextvars.ContextVar("full", default=None)


@contextlib.contextmanager
def fused(setting, tokens, padding_mask):
    """Context in which `either` takes programs for batches without padding, in graphs of TensorFlow.

    Args:
        setting: bool. Whether to use programs.
        tokens: tensor `(real tokens, dim)`.
        padding_mask: int tensor `(batch, length)`.
    """
    full = None
    if setting and can_compile() and leaves_padding_out() and not isinstance(tokens, keras.KerasTensor):
        full = ops.equal(ops.shape(tokens)[0], ops.size(padding_mask))
    token = _FULL.set(full)
    try:
        yield
    finally:
        _FULL.reset(token)


def is_fused():
    """Returns whether `either` takes programs for some batches."""
    return _FULL.get() is not None


def either(function, plain, *tensors, given=(), **constants):
    """Returns `plain(*tensors, *given)`, by a program of XLA if the batch has no padding; see `compiled_if`."""
    full = _FULL.get()
    if full is None:
        return plain(*tensors, *given)
    return compiled_if(full, function, plain, *tensors, given=given, **constants)


# === Functions ===


def gelu(x):
    """Returns the exact GELU."""
    wide = _wide(x)
    return ops.cast(0.5 * wide * (1.0 + ops.erf(wide * 0.5**0.5)), x.dtype)


def gelu_approximate(x):
    """Returns the GELU with a hyperbolic tangent."""
    return ops.cast(_ops.gelu(_wide(x), approximate=True), x.dtype)


def layer_norm(x, gamma, beta, epsilon):
    """Returns the layer norm over the last axis; the moments are in float32 at least."""
    wide = _wide(x)
    mean = ops.mean(wide, axis=-1, keepdims=True)
    centered = wide - mean
    scale = ops.rsqrt(ops.mean(ops.square(centered), axis=-1, keepdims=True) + epsilon)
    return ops.cast(centered * scale * ops.cast(gamma, wide.dtype) + ops.cast(beta, wide.dtype), x.dtype)


def normed_sum(part, x, gamma, beta, *kept, scale, epsilon):
    """Returns the layer norm of a residual sum, after dropout of `part` if it says which numbers stay."""
    part = part * (ops.cast(kept[0], part.dtype) * scale) if kept else part
    return layer_norm(part + x, gamma, beta, epsilon)


def _wide(x):
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
