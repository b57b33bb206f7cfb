"""Kernels of dense layers that compute in 16 bits, cast once rather than in each batch."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfxfer._freezable import layers_within

# Layers that read their kernel in their compute dtype only. Exact types only: a subclass may compute something else.
_KINDS = (keras.layers.Dense, keras.layers.EinsumDense)
_DTYPES = ("bfloat16", "float16")


def narrow_kernels(layer: Any) -> list[tuple[Any, str]]:
    """Returns the kernels that layers would cast to 16 bits in each call, each with that dtype.

    Args:
        layer: Keras layer or model; layers within it count, too.
    """
    found = {}
    for each in layers_within(layer):
        is_plain = type(each) in _KINDS and each.built and each.quantization_mode is None and not each.lora_enabled
        if is_plain and each.autocast and each.compute_dtype in _DTYPES and each.kernel.dtype != each.compute_dtype:
            found[id(each.kernel)] = (each.kernel, each.compute_dtype)
    return list(found.values())


@contextlib.contextmanager
def replaced(weights: Sequence[Any], values: Sequence[Any]) -> Iterator[None]:
    """Context in which layers compute with other values; these keep their dtype.

    Args:
        weights: Keras variables.
        values: tensors of the same shapes.
    """
    if not weights:
        yield
        return
    with keras.StatelessScope() as scope:
        for weight, value in zip(weights, values, strict=True):
            scope.add_update((weight, value))  # the scope's constructor would cast the value to the weight's dtype
        yield
