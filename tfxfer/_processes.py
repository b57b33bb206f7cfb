"""Processes that train one model together: `keras.distribution` on Keras's JAX backend."""

import json
import zlib
from typing import Any

import keras
import numpy as np


def distribution() -> Any:
    """Returns the current Keras distribution on the JAX backend, or `None`."""
    return keras.distribution.distribution() if keras.config.backend() == "jax" else None


def count() -> int:
    """Returns the number of processes that train one model; 1 if each process has its own model."""
    found = distribution()
    return 1 if found is None else int(found.num_processes)


def index() -> int:
    """Returns the index of this process among them, from 0."""
    if count() == 1:
        return 0
    import jax

    return int(jax.process_index())


def is_first() -> bool:
    """Whether this process writes the files that are written once."""
    return index() == 0


def wait(name: str) -> None:
    """Waits until all processes have reached the point of this name."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def differing(facts: dict[str, Any]) -> list[str]:
    """Returns the names of facts (JSON values) that differ between processes; all processes call this together."""
    if count() == 1:
        return []
    from jax.experimental import multihost_utils

    # All processes send arrays of the same shape: checksums of the values.
    names, sums = list(facts), [_sum(value) for value in facts.values()]
    first = np.asarray(multihost_utils.broadcast_one_to_all(np.array(sums, "uint32")))
    found = {name for name, here, there in zip(names, sums, first, strict=True) if here != int(there)}
    # All processes learn of it: one that trained on alone would wait for the others forever.
    flags = np.asarray([name in found for name in names], "int32")
    everywhere = np.asarray(multihost_utils.process_allgather(flags)).reshape(-1, len(names)).sum(axis=0)
    return [name for name, differing_there in zip(names, everywhere.tolist(), strict=True) if differing_there]


def _sum(value):
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())
