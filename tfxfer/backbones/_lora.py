"""Low-rank adapters on the dense layers of an encoder's blocks."""

import operator
from typing import Any

import keras
from keras import ops

from tfxfer import _check

# The name of a dense layer -> its path within a block.
TARGETS = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.output_dense",
    "gate": "feed_forward.gate",
    "intermediate": "feed_forward.intermediate",
    "output": "feed_forward.output_dense",
}


_BASE = ("kernel", "kernel_scale", "kernel_zero")


class Adapters(keras.layers.Layer):
    """The adapters of one encoder: creates, merges and saves them.

    The weights themselves are in the dense layers (Keras's `enable_lora`). Keras saves the merged kernel of such a
    layer and clears the adapters when it loads it; then neither matrix has a gradient. This layer, which Keras visits
    after those layers, saves and loads the base kernels and the adapters unchanged. A file with adapters therefore
    still loads, merged, into a model without adapters.

    Args:
        blocks: function without arguments that returns `Backbone.blocks()`.
    """

    def __init__(self, blocks):
        super().__init__(name="adapters", dtype="float32")
        self.built = True
        self.blocks = blocks
        self.settings: dict[str, Any] | None = None

    def targets(self):
        """Returns the dense layers with adapters by name, such as `"block_0/0/query"`: group, block within it, part."""
        if self.settings is None:
            return {}
        return {
            f"block_{group}/{number}/{target}": operator.attrgetter(TARGETS[target])(block)
            for block, group, number in self.blocks()
            for target in self.settings["targets"]
            if f"block_{group}" in self.settings["groups"]
        }

    def add(self, rank, alpha, targets, groups):
        """Creates adapters that have no effect yet; arguments as in `Backbone.enable_lora`.

        Returns:
            The names of the groups with adapters.
        """
        if self.settings is not None:
            raise _check.invalid("rank", "a model without adapters", rank, "Merge its adapters first.")
        available = dict.fromkeys(f"block_{group}" for _, group, _ in self.blocks())
        if not available:
            raise _check.invalid("rank", "an encoder with blocks; static embeddings have none", rank)
        block = self.blocks()[0][0]
        dense = [target for target, path in TARGETS.items() if operator.attrgetter(path)(block) is not None]
        settings = {
            "rank": _check.integer("rank", rank),
            "alpha": rank if alpha is None else _check.number("alpha", alpha, above=0),
            "targets": _check.some_of("targets", targets, dense),
            "groups": _check.some_of("groups", "block_*" if groups is None else groups, available),
        }
        self.settings = settings
        for dense in self.targets().values():
            limit = dense.kernel.shape[0] ** -0.5
            start = keras.initializers.RandomUniform(-limit, limit)
            dense.enable_lora(settings["rank"], lora_alpha=settings["alpha"], a_initializer=start)
        return settings["groups"]

    def merge(self):
        """Adds the adapters to the kernels and removes the adapters."""
        targets, self.settings = self.targets(), None
        for dense in targets.values():
            kernel = base_kernel(dense)
            low_rank = ops.matmul(dense.lora_kernel_a, dense.lora_kernel_b) * (dense.lora_alpha / dense.lora_rank)
            kernel.assign(ops.cast(kernel, "float32") + low_rank)
            _clear(dense)

    def remove(self):
        """Removes adapters that have no effect yet, even if only some were created; kernels remain bit-identical."""
        targets, self.settings = self.targets(), None
        for dense in targets.values():
            _clear(dense)

    def variables_by_name(self):
        """Returns the adapters' variables by name, such as `"block_0/0/query/a"`."""
        return {
            f"{name}/{key}": getattr(dense, f"lora_kernel_{key}")
            for name, dense in self.targets().items()
            for key in ("a", "b")
        }

    def save_own_variables(self, store):
        """Saves the adapters and the base weights under them, which Keras does not find."""
        for name, variable in self.variables_by_name().items():
            store[name.replace("/", ".")] = variable
        for name, dense in self.targets().items():
            for key, variable in base_variables(dense).items():
                store[f"{name}/{key}".replace("/", ".")] = variable

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved; without adapters in the file, initializes them at random."""
        if not store.keys():  # a file of a model without adapters: initialize them
            for dense in self.targets().values():
                limit = base_kernel(dense).shape[0] ** -0.5
                dense.lora_kernel_a.assign(keras.random.uniform(dense.lora_kernel_a.shape, -limit, limit))
            return
        for name, dense in self.targets().items():
            name = name.replace("/", ".")
            dense.lora_kernel_a.assign(store[f"{name}.a"])
            dense.lora_kernel_b.assign(store[f"{name}.b"])
            for key, variable in base_variables(dense).items():
                variable.assign(store[f"{name}.{key}"])


def _clear(dense):
    dense.lora_enabled, dense.lora_rank, dense.lora_alpha = False, None, None
    for name in ("lora_kernel_a", "lora_kernel_b"):
        if hasattr(dense, name):
            delattr(dense, name)


def base_variables(dense):
    """Returns the variables that make up a dense layer's kernel without adapters, by name.

    A quantized kernel also has scales and, in 4 bits, zero points.
    """
    return {weight.name: weight for weight in dense.weights if weight.name in _BASE}


def base_kernel(dense):
    """Returns the kernel variable of a dense layer; with adapters, Keras's `kernel` property returns the sum."""
    enabled, dense.lora_enabled = dense.lora_enabled, False
    try:
        return dense.kernel
    finally:
        dense.lora_enabled = enabled
