"""Encoder weights in 8 or 4 bits, through Keras's own layers."""

import contextlib
import gc
import re

import keras

from tfxfer import _check
from tfxfer._freezable import layers_within

MODES = ("int8", "int4")
# Layers whose weights Keras quantizes. Exact types only: a subclass may compute something else.
_KINDS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding, keras.layers.ReversibleEmbedding)
_REMEDY = (
    'Use "int8" or "int4". For weights in half the bytes or fast training, use `dtype="mixed_bfloat16"`; '
    '`export.saved_model(..., weights_dtype="int8")` writes small files without changing the model'
)


def quantizable(groups):
    """Returns the layers of an encoder that can be quantized, by group and position, such as `"block_0/0/5"`.

    Args:
        groups: dict of group name to list of layers.
    """
    return {
        f"{name}/{i}/{j}": layer
        for name, layers in groups.items()
        for i, top in enumerate(layers)
        for j, layer in enumerate(layers_within(top))
        if type(layer) in _KINDS
    }


def quantize(layers, mode, config, filters):
    """Quantizes layers.

    Args:
        layers: dict of name to layer, as returned by `quantizable`.
        mode: string, one of `MODES`.
        config: a configuration of `keras.quantizers`; for `"int8"`, Keras's default one means weights only.
        filters: which layers to quantize, as in `keras.Model.quantize`.
    """
    _check.one_of("mode", mode, MODES, _REMEDY)
    done = [layer for layer in layers.values() if layer.quantization_mode is not None]
    if done:
        remedy = "Reload the float model to quantize it differently"
        raise _check.invalid("mode", "a model that is not quantized yet", mode, remedy)
    chosen = [layer for layer in layers.values() if _matches(layer, filters)]
    if not chosen:
        raise _check.invalid("filters", "filters that match dense layers or embeddings of the encoder", filters)
    if mode == "int8" and _is_default(config):
        config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    with _collecting_little():
        for layer in chosen:
            layer.quantize(mode, config=config)


def _is_default(config):
    """Returns whether a configuration is the one that Keras passes if only the mode is given."""
    default = keras.quantizers.Int8QuantizationConfig()
    return config is None or config.get_config() == default.get_config()


def _matches(layer, filters):
    # Same interpretation as in `keras.Model.quantize`.
    if filters is None:
        return True
    if callable(filters):
        return bool(filters(layer))
    patterns = [filters] if isinstance(filters, str) else filters
    _check.instance("filters", patterns, (list, tuple), "a regular expression, a list of them, or a function")
    return any(re.search(pattern, layer.name) for pattern in patterns)


def configs(layers):
    """Returns the serialized configurations of the quantized layers, by name; `None` if no layer is quantized.

    A layer that was created quantized by KerasHub has its configuration in its dtype policy.
    """
    found = {
        name: keras.saving.serialize_keras_object(layer.quantization_config)
        for name, layer in layers.items()
        if layer.quantization_mode is not None and layer.quantization_config is not None
    }
    return found or None


def restore(layers, serialized):
    """Quantizes layers with random weights as described by `configs`, so that weights from a file match."""
    if not serialized:
        return
    with _collecting_little():
        for name, config in serialized.items():
            config = keras.saving.deserialize_keras_object(config)
            layers[_check.one_of("quantization", name, layers)].quantize(config.mode, config=config)


@contextlib.contextmanager
def _collecting_little():
    """Exempts existing objects from garbage collections in this context.

    Keras runs one after each quantized layer, which takes half a second if there are many objects.
    """
    if gc.get_freeze_count():  # frozen by someone else
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check_floats(layers, action):
    """Raises if a layer is quantized; `action` is the operation that needs floats, for the message."""
    modes = {layer.quantization_mode for layer in layers.values()} - {None}
    if modes:
        remedy = "Do it before `quantize`. `save`, `save_to_preset` and `export.saved_model` keep quantized weights"
        raise _check.invalid("model", f"a model with float weights to {action}", ", ".join(sorted(modes)), remedy)
