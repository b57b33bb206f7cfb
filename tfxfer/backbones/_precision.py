"""The dtype in which an encoder computes: 16 bits only where that is not slower than 32."""

import functools
import os
import pathlib
import warnings
from typing import Any

import keras

# Set to "always", encoders compute in 16 bits on any machine.
VARIABLE = "TFXFER_MIXED_PRECISION"

# The flags of x86 processors in /proc/cpuinfo with which oneDNN has products in bfloat16, and the names of
# ONEDNN_MAX_CPU_ISA with which it may use them.
_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}
_ALLOWED = {"AVX2_VNNI_2", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16"}
_ANY = {"", "ALL", "DEFAULT"}


def computing(policy: Any) -> Any:
    """Returns the dtype policy in which the layers of an encoder compute.

    With `mixed_bfloat16` on a processor without instructions for it, and with `mixed_float16` on any, that is float32:
    it is faster there (`benchmarks/README.md`) and more accurate. A warning says so. The encoder keeps its policy, and
    so the dtype of its output; a saved encoder computes in 16 bits where that pays. With weights in 16 bits, too, there
    is only the warning.

    Args:
        policy: dtype policy of the encoder.
    """
    reason = _slow(policy)
    if reason is None:
        return policy
    dtype = policy.compute_dtype
    if policy.variable_dtype == dtype:
        check(policy)
        return policy
    _say(
        f"The encoder computes in float32, not in {dtype}: {reason}, so that {dtype} would be slower. For {dtype} all "
        f"the same, set the environment variable {VARIABLE}=always."
    )
    return keras.DTypePolicy("float32")


def check(policy: Any) -> None:
    """Warns if layers compute in 16 bits where that is slower; `policy` is theirs."""
    reason = _slow(policy)
    if reason is not None:
        _say(
            f"The encoder computes in {policy.compute_dtype}, which is slower than float32 here: {reason}. Load it "
            "with dtype='float32'."
        )


@functools.cache
def _say(message):
    """Warns, once in a process."""
    warnings.warn(message, stacklevel=3)


def _slow(policy):
    """Returns why a policy with 16 bits is slower than float32 on this machine, or `None`."""
    dtype = policy.compute_dtype
    if dtype not in ("bfloat16", "float16") or os.environ.get(VARIABLE) == "always":
        return None
    backend = keras.config.backend()
    if backend not in ("tensorflow", "jax") or not _on_cpu():
        return None
    if backend == "jax":
        return "Keras's JAX backend computes on a CPU"
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return "oneDNN is off (TF_ENABLE_ONEDNN_OPTS=0)"
    if dtype == "float16":
        # With AVX-512 FP16, oneDNN computes a product with its bias by its reference code, a thousand times slower.
        return "oneDNN has no fast product with a bias in float16"
    highest = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if highest not in _ANY | _ALLOWED:
        return f"oneDNN is limited to {highest} (ONEDNN_MAX_CPU_ISA)"
    flags = _flags()
    if flags is not None and not flags & _FLAGS:
        return "the processor has no instructions for bfloat16"
    return None


def _on_cpu():
    """Returns whether the backend computes on a CPU."""
    return all(device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def _flags():
    """Returns the names of an x86 processor's instructions, or `None` if unknown."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split()) or None
