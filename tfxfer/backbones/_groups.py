"""Freezing, frozen dropout, quantization and adapters by layer group, common to all encoders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfxfer import _check
from tfxfer._freezable import Freezable, switch
from tfxfer.backbones import _quantization, _refusals


class LayerGroups(_refusals.FixedWeights):
    """What encoders share in addition to their layers; a mixin for Keras models with `layer_groups()`, `_adapters`."""

    weights: list
    layer_groups: Callable[[], dict]
    _adapters: Any = None

    @property
    def trainable(self) -> bool:
        """Whether any weight trains; see `set_trainable` to set layer groups individually."""
        return any(weight.trainable for weight in self.weights)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self._hold()

    def set_trainable(self, flags: Mapping[str, bool]) -> None:
        """Sets the trainable flags of all weights in layer groups; with adapters, those of the adapters only.

        Args:
            flags: dict of group name to bool. Other groups remain unchanged.
        """
        groups = self.layer_groups()
        for name, flag in flags.items():
            for layer in groups[name]:
                switch(layer, flag)
        self._hold()

    @property
    def frozen_dropout(self) -> bool:
        """Whether frozen layers keep their dropout."""
        return self._frozen_dropout

    @frozen_dropout.setter
    def frozen_dropout(self, value: bool) -> None:
        self._frozen_dropout = bool(value)
        for layers in self.layer_groups().values():
            for layer in layers:
                if isinstance(layer, Freezable):
                    layer.frozen_dropout = self._frozen_dropout

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training steps keep only the input of each block and compute the block again in the backward pass.

        `False` by default. It saves most of the memory of a step and costs one more forward pass, about a third of the
        time. Gradients are the same. Read when a step is traced, like flags.

        Raises:
            ValueError: if set on an encoder whose blocks are KerasHub's layers.

        Reference: Chen et al., 2016, https://arxiv.org/abs/1604.06174.
        """
        return self._setting("gradient_checkpointing")

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._set("gradient_checkpointing", value, "KerasHub's are created under `keras.RematScope`")

    @property
    def fused_elementwise(self) -> bool:
        """Whether XLA compiles what lies between the matrix products of training steps on batches without padding.

        `False` by default. Each activation, and each dropout with its residual sum and norm, becomes one loop, in the
        forward and the backward pass. A program serves one number of tokens and takes about a second to compile, so it
        pays for texts that are cut to one length; batches with padding are computed as without the setting. Numbers
        change by rounding. Without effect on JAX, where a whole step is compiled, in eager execution, and on attention.
        Read when a step is traced, like flags.

        Raises:
            ValueError: if set on an encoder whose blocks are KerasHub's layers.
        """
        return self._setting("fused_elementwise")

    @fused_elementwise.setter
    def fused_elementwise(self, value: bool) -> None:
        self._set("fused_elementwise", value, "Compile the model with `jit_compile=True`")

    def _having(self, name):
        layers = [layer for layers in self.layer_groups().values() for layer in layers]
        return [layer for layer in layers if hasattr(layer, name)]

    def _setting(self, name):
        return any(getattr(layer, name) for layer in self._having(name))

    def _set(self, name, value, remedy):
        _check.instance(name, value, bool, "True or False")
        layers = self._having(name)
        if value and not layers:
            remedy = f"Set it on an encoder with blocks of tfxfer's own; {remedy}"
            raise _check.invalid(name, "False for this encoder", value, remedy)
        for layer in layers:
            setattr(layer, name, value)

    def runs_dropout(self, layer: Any) -> bool:
        """Returns whether a layer applies dropout in training."""
        return isinstance(layer, Freezable) and layer.is_training(True)

    def _frozen(self):
        """Returns the names of frozen layers, and the paths of frozen weights in layers that otherwise train."""
        found = []
        for layer in (layer for layers in self.layer_groups().values() for layer in layers):
            if not layer.trainable:
                found.append(layer.name)
            elif self.lora is None:  # with adapters, all other weights are frozen anyway
                found += [_path(layer, weight) for weight in layer.weights if not weight.trainable]
        return found

    def _freeze(self, names):
        """Freezes the layers and weights returned by `_frozen`."""
        layers = [layer for layers in self.layer_groups().values() for layer in layers]
        known = {layer.name: layer for layer in layers}
        known.update({_path(layer, weight): weight for layer in layers for weight in layer.weights})
        for name in names:
            _check.one_of("frozen", name, known)
            known[name].trainable = False

    # === Quantized weights ===

    def quantize(self, mode: str | None = None, config: Any = None, filters: Any = None) -> None:
        """Stores the weights of dense layers and embeddings in 8 or 4 bits; see `TextTask.quantize`."""
        _quantization.quantize(self._quantizable(), mode, config, filters)

    @property
    def quantization(self) -> dict[str, Any] | None:
        """A dict that maps layer positions to serialized `keras.quantizers` configurations, or `None`."""
        return _quantization.configs(self._quantizable())

    def _quantizable(self):
        return _quantization.quantizable(self.layer_groups())

    def _restore_quantization(self, quantization):
        _quantization.restore(self._quantizable(), quantization)

    # === Adapters ===

    @property
    def lora(self) -> Any:
        """The arguments passed to `enable_lora`, or `None` without adapters."""
        return self._adapters.settings

    def enable_lora(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        targets: str | Sequence[str] = ("query", "value"),
        groups: str | Sequence[str] | None = None,
    ) -> None:
        """Adds low-rank adapters to dense layers of the blocks and freezes all other weights.

        See `freezing.add_lora` for the arguments `rank`, `alpha`, `targets` and `groups`.
        """
        adapted = self._adapters.add(rank, alpha, targets, groups)
        self.set_trainable({name: name in adapted for name in self.layer_groups()})

    def merge_lora(self) -> None:
        """Adds the adapters to the kernels and removes them; groups that train then train all their weights."""
        _quantization.check_floats(self._quantizable(), "merge adapters")
        self._adapters.merge()
        for layers in self.layer_groups().values():
            for layer in layers:
                switch(layer, layer.trainable)

    def remove_lora(self) -> None:
        """Removes adapters that have no effect yet, without changing the kernels or the trainable flags."""
        self._adapters.remove()

    def lora_variables(self) -> dict[str, Any]:
        """Returns the adapters' variables by name: group, block within it, part, and `a` or `b`."""
        return self._adapters.variables_by_name()

    def _hold(self):
        """Keeps all weights except the adapters frozen, if there are adapters: Keras's flags apply to every weight."""
        if self._adapters is None or self._adapters.settings is None:
            return
        trained = {id(variable) for variable in self._adapters.variables_by_name().values()}
        for name, layers in self.layer_groups().items():
            for layer in layers:
                if name not in self._adapters.settings["groups"]:
                    layer.trainable = False
                for weight in layer.weights:
                    weight.trainable = layer.trainable and id(weight) in trained


def _path(layer, weight):
    """Returns the path of a weight starting at its layer, regardless of the layer's parents."""
    return weight.path[max(weight.path.find(f"{layer.name}/"), 0) :]
