"""Methods inherited from Keras and KerasHub that task models must override."""

from typing import Any, Literal, NoReturn

import keras

from tfxfer import _check, backbones
from tfxfer._freezable import layers_within
from tfxfer.backbones import _refusals
from tfxfer.models import _training

# The key of the weights that an optimizer was built on. It is inside the optimizer's entry of the compile config, since
# Keras passes every entry to `compile`.
_BUILT_ON = "built_on"


_Mixin: Any = object  # the class that uses this mixin has the methods of a Keras model


class _Presets:
    """The class property `presets`: the names that `from_preset` loads, in KerasHub's format."""

    def __get__(self, instance, owner):
        return {row.name: {"metadata": {"description": row.description}} for row in backbones.presets()}


class KerasMethods(_refusals.FixedWeights, _Mixin):
    """Mixin with methods of Keras and KerasHub that task models override."""

    presets = _Presets()

    def quantize(self, mode: Literal["int8", "int4"] | None = None, config: Any = None, filters: Any = None) -> None:
        """Stores the weights of the encoder's dense layers and embeddings in eight or four bits.

        Computation stays in the encoder's dtype: weights are dequantized when they are used. Layers above the encoder
        are not quantized, because they are small. Biases and norms remain trainable, adapters can be added
        (`freezing.add_lora`), and `save`, `save_to_preset` and `export.saved_model` keep the quantized weights. If the
        model has been trained, its optimizer is reset, because its state belongs to the replaced weights.

        | | lowest cosine | Spearman, STS-B test | bytes |
        |---|---|---|---|
        | all-MiniLM-L6-v2 | 1 | 0.8203 | 90.3 MB |
        | `"int8"` | 0.9963 | 0.8198 | 22.9 MB |
        | `"int8"`, with 8-bit activations | 0.9824 | 0.8189 | 22.9 MB |
        | `"int4"`, block size 32 | 0.9087 | 0.8210 | 15.0 MB |
        | `"int4"`, block size 128 (Keras's default) | 0.8508 | 0.8240 | 12.4 MB |

        The cosine is between the vectors of the quantized and the float model, the lowest over 266 texts in many
        scripts.

        Args:
            mode: `"int8"` or `"int4"`. Unlike Keras, `"int8"` quantizes activations only with
                `config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=AbsMaxQuantizer(axis=-1))`.
            config: a `keras.quantizers.Int8QuantizationConfig` or `Int4QuantizationConfig`, for example
                `Int4QuantizationConfig(block_size=32)`.
            filters: which layers to quantize, as in `keras.Model.quantize`: a regular expression for their names, a
                list of them, or a function of the layer. Defaults to all.

        Raises:
            ValueError: if the mode is not supported (`"float8"`, `"gptq"`, `"awq"`), the model is already quantized or
                computes in float16, or the filters match no layer.

        Example:

        ```python
        embedder.quantize("int8")
        embedder.save("small.keras")
        ```
        """
        if hasattr(self, "jax_state_sync"):  # on JAX, the variables may be older than the training state
            self.jax_state_sync()
        self.backbone.quantize(mode, config=config, filters=filters)
        for layer in layers_within(self):
            if isinstance(layer, keras.Model):
                layer.train_function = layer.test_function = layer.predict_function = None
                _renew_optimizer(layer)

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any) -> NoReturn:
        """Not supported: Keras's export would take token ids and store every weight twice.

        `filepath` and `format` are those of `keras.Model.export`.
        """
        raise NotImplementedError(
            "`tfxfer.export.saved_model(model, folder)` writes an export with the tokenizer in the graph; "
            "`tfxfer.export.onnx` and `tfxfer.export.litert` write the model after the tokenizer. For other formats of "
            f"that, use `keras.Model(model.input, model.output).export(...)`. Received: format={format!r}"
        )

    def get_state_tree(self, value_format: str = "backend_tensor") -> Any:
        """Returns all variables of a compiled model, in the `value_format` of `keras.Model.get_state_tree`."""
        if not self.compiled:
            remedy = "Compile it first, or use `get_weights`"
            raise _check.invalid("model", "a compiled model: the tree holds its optimizer", self.name, remedy)
        return super().get_state_tree(value_format)

    # === Compile state ===

    def bind_optimizer(self) -> None:
        """Passes the layer groups to an `optimizers.Layerwise`."""
        optimizer = getattr(self, "optimizer", None)
        while optimizer is not None and not hasattr(optimizer, "bind"):
            optimizer = getattr(optimizer, "inner_optimizer", None)  # within loss scaling
        if optimizer is not None:
            optimizer.bind(self)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile`, and the indices of the weights that the optimizer was built on."""
        config = super().get_compile_config()
        optimizer = getattr(self, "optimizer", None)
        if not config or optimizer is None or not optimizer.built:
            return config
        # They may include weights that do not train: of layers that will be unfrozen, or were frozen later.
        places = {id(weight): i for i, weight in enumerate(self.weights)}
        built_on = [places[id(variable)] for variable in optimizer._trainable_variables if id(variable) in places]
        entry = _training.with_subset({**config}, optimizer)["optimizer"]
        entry = entry if isinstance(entry, dict) else keras.saving.serialize_keras_object(optimizer)
        return {**config, "optimizer": {**entry, _BUILT_ON: built_on}}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles from the saved arguments, and builds the optimizer on the same weights."""
        # Keras's own method refuses if `compile` is overridden, as it is here for its defaults.
        entry = config.get("optimizer")
        built_on = entry.get(_BUILT_ON) if isinstance(entry, dict) else None
        self.compile(**keras.saving.deserialize_keras_object(config))
        # An optimizer without a step has no state to restore: if built, it would miss its state in the file.
        if built_on is not None and self.optimizer is not None:
            weights = self.weights
            self.optimizer.build([weights[place] for place in built_on])


def _renew_optimizer(model):
    """Recompiles a trained model with the same arguments and a new optimizer."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    arguments = dict(model.compile_arguments)
    optimizer = arguments["optimizer"]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        arguments["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    model.compile(**arguments)
