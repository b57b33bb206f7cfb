"""The capabilities of the processor that runs the tests."""

import os
import pathlib

WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


def flags():
    """The processor's instruction sets; empty if the system does not list them, as on macOS."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def kernels():
    """Returns whose kernels multiply matrices in this process; `None` if products in bfloat16 would abort it.

    TensorFlow checks the processor, not oneDNN. If ONEDNN_MAX_CPU_ISA prevents oneDNN from using AVX-512, oneDNN lacks
    the kernels that TensorFlow requests, and the process aborts.
    """
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" or "avx512f" not in flags():
        return "Eigen"
    return None if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_AVX512 else "oneDNN"
