"""The modules between an embedder's pooling and its output; `backbones.EmbeddingSpec` lists them."""

import functools

import keras

from tfxfer import _check, layers
from tfxfer._freezable import Freezable
from tfxfer.backbones import _embedding


@keras.saving.register_keras_serializable("tfxfer")
class FreezableDropout(Freezable, keras.layers.Dropout):
    """Dropout that is inactive while its layer group is frozen."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=self.is_training(training))


class Module:
    """A module made of Keras layers: a function of vectors `(batch, dim)`. This base class is the identity.

    Args:
        settings: dict, one of `EmbeddingSpec.modules`.
        number: int. Index among the modules of the same class.
        width: int. Size of the input vectors.

    Attributes:
        settings: the settings without weights.
        width: int. Size of the output vectors.
        layers: list of the layers that have weights, or act only in training.
    """

    def __init__(self, settings, number, width):
        self.settings = {key: value for key, value in settings.items() if key not in _embedding.WEIGHTS}
        self.width = width
        self.layers = []
        self._make(self.settings, number)

    def _make(self, settings, number):
        pass

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def variables(self):
        """Returns a dict of name in the settings to weight, for the built layers."""
        return {}

    def load(self, settings):
        """Sets the weights that the settings contain; other weights are unchanged."""
        for name, variable in self.variables().items():
            value = settings.get(name)
            if value is None:
                continue
            if tuple(value.shape) != tuple(variable.shape):
                expected = f"a {self.settings['class']} whose `{name}` has shape {tuple(variable.shape)}"
                raise _check.invalid("modules", expected, tuple(value.shape))
            variable.assign(value)

    def spec(self):
        """Returns the settings with the current weights."""
        weights = {name: keras.ops.convert_to_numpy(variable) for name, variable in self.variables().items()}
        names = [name for name in _embedding.MODULES[self.settings["class"]] if name in _embedding.WEIGHTS]
        return {**self.settings, **{name: weights.get(name) for name in names}}


class _Dense(Module):
    def _make(self, settings, number):
        units = _check.integer("units", settings["units"])
        make = functools.partial(keras.layers.Dense, units, dtype="float32")
        activation = _activation(settings["activation"])
        dense = make(activation=activation, use_bias=settings["use_bias"], name=f"dense_{number}")
        self.layers = [dense]
        if settings["use_residual"] and units != self.width:
            self.layers.append(make(use_bias=False, name=f"dense_{number}_residual"))
        self.width = units

    def __call__(self, x):
        y = self.layers[0](x)
        if not self.settings["use_residual"]:
            return y
        return y + (self.layers[1](x) if len(self.layers) > 1 else x)

    def variables(self):
        dense = self.layers[0]
        found = {"kernel": dense.kernel, "bias": dense.bias}
        if len(self.layers) > 1:
            found["residual_kernel"] = self.layers[1].kernel
        return {name: variable for name, variable in found.items() if variable is not None}


class _LayerNorm(Module):
    def _make(self, settings, number):
        epsilon = _check.number("epsilon", settings["epsilon"], above=0)
        self.layers = [keras.layers.LayerNormalization(epsilon=epsilon, dtype="float32", name=f"layer_norm_{number}")]

    def variables(self):
        return {"gamma": self.layers[0].gamma, "beta": self.layers[0].beta}


class _Dropout(Module):
    def _make(self, settings, number):
        rate = _check.number("rate", settings["rate"], minimum=0, maximum=1)
        self.layers = [FreezableDropout(rate, dtype="float32", name=f"dropout_{number}")]


class _Normalize(Module):
    def _make(self, settings, number):
        self._norm = layers.UnitNorm(name=f"unit_norm_{number}" if number else "unit_norm")

    def __call__(self, x):
        return self._norm(x)


class _Truncate(Module):
    def _make(self, settings, number):
        self.width = _check.integer("units", settings["units"])

    def __call__(self, x):
        if self.width > x.shape[-1]:
            raise _check.invalid("units", f"at most {x.shape[-1]}, the size of the vectors to truncate", self.width)
        return x[:, : self.width]


_CLASSES = {
    "Dense": _Dense,
    "LayerNorm": _LayerNorm,
    "Dropout": _Dropout,
    "Normalize": _Normalize,
    "Truncate": _Truncate,
}


def make(modules, width):
    """Returns the `Module`s of a list of settings.

    Args:
        modules: list of dicts with all keys, as in `EmbeddingSpec.modules`.
        width: int. The size of the pooled vectors.
    """
    found, counts = [], dict.fromkeys(_CLASSES, 0)
    for settings in modules:
        kind = settings["class"]
        found.append(_CLASSES[kind](settings, counts[kind], width))
        counts[kind] += 1
        width = found[-1].width
    return found


def _activation(activation):
    """Returns the activation function for a name, a dict of a name with arguments, or `None`."""
    if not isinstance(activation, dict):
        return keras.activations.get(activation)
    arguments = dict(activation)
    return functools.partial(keras.activations.get(arguments.pop("name")), **arguments)
