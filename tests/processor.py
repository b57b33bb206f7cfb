"""What the processor that tests run on can do."""

import os
import pathlib

WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


def flags():
    """The processor's instruction sets; none where the system does not list them, as on macOS."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def kernels():
    """Says whose kernels multiply matrices in this process; `None` where those in bfloat16 would end it.

    TensorFlow asks the processor, not oneDNN. Where ONEDNN_MAX_CPU_ISA keeps oneDNN from using AVX-512, it lacks the
    kernels that TensorFlow asks it for, and the process aborts.
    """
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" or "avx512f" not in flags():
        return "Eigen"
    return None if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_AVX512 else "oneDNN"
