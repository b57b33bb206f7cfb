"""What task models inherit from Keras and KerasHub, where it needs another form to be right."""

from typing import Any, Literal, NoReturn

import keras

from tfxfer import _check, backbones
from tfxfer._freezable import layers_within
from tfxfer.backbones import _refusals
from tfxfer.models import _training

# Where the compile configuration keeps what an optimizer was built on: within the optimizer's own entry, as Keras hands
# every entry to `compile`.
_BUILT_ON = "built_on"


_Mixin: Any = object  # what is mixed in here has the methods of a Keras model


class _Presets:
    """The class property `presets`: what `from_preset` loads by name, as KerasHub lists it."""

    def __get__(self, instance, owner):
        return {row.name: {"metadata": {"description": row.description}} for row in backbones.presets()}


class KerasMethods(_refusals.FixedWeights, _Mixin):
    """Methods of Keras and KerasHub that task models override; a mixin."""

    presets = _Presets()

    def quantize(self, mode: Literal["int8", "int4"] | None = None, config: Any = None, filters: Any = None) -> None:
        """Stores the weights of the encoder's dense layers and embeddings in eight or four bits.

        Computation stays in the encoder's dtype: weights become floats again as they are used. What is above the
        encoder stays as it is: it is small. Biases and norms go on training, adapters can be added
        (`freezing.add_lora`), and `save`, `save_to_preset` and `export.saved_model` keep the weights as they are. The
        optimizer of a model that has trained starts anew: its state was for weights that are gone.

        | | lowest cosine | Spearman, STS-B test | bytes |
        |---|---|---|---|
        | all-MiniLM-L6-v2 | 1 | 0.8203 | 90.3 MB |
        | `"int8"` | 0.9963 | 0.8198 | 22.9 MB |
        | `"int8"`, activations in eight bits as well | 0.9824 | 0.8189 | 22.9 MB |
        | `"int4"` in blocks of 32 | 0.9087 | 0.8210 | 15.0 MB |
        | `"int4"`, in Keras's blocks of 128 | 0.8508 | 0.8240 | 12.4 MB |

        Cosines are those to the vectors of the float model, the lowest of 266 texts in many scripts.

        Args:
            mode: `"int8"` or `"int4"`. Keras's own `"int8"` quantizes activations too; here it does so with
                `config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=AbsMaxQuantizer(axis=-1))`.
            config: a `keras.quantizers.Int8QuantizationConfig` or `Int4QuantizationConfig`, such as
                `Int4QuantizationConfig(block_size=32)`.
            filters: which layers to quantize, as `keras.Model.quantize` has it: a regular expression for their names, a
                list of them, or a function of the layer. All by default.

        Raises:
            ValueError: for another mode (`"float8"`, `"gptq"`, `"awq"`), a model that is quantized already or computes
                in float16, filters that match no layer.

        Example:

        ```python
        embedder.quantize("int8")
        embedder.save("small.keras")
        ```
        """
        if hasattr(self, "jax_state_sync"):  # on that backend, the weights may be behind those of a training
            self.jax_state_sync()
        self.backbone.quantize(mode, config=config, filters=filters)
        for layer in layers_within(self):
            if isinstance(layer, keras.Model):
                layer.train_function = layer.test_function = layer.predict_function = None
                _renew_optimizer(layer)

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any) -> NoReturn:
        """Refuses: Keras's export takes token ids and stores every weight twice."""
        raise NotImplementedError(
            "`tfxfer.export.saved_model(model, folder)` writes an export with the tokenizer in the graph; "
            "`tfxfer.export.onnx` and `tfxfer.export.litert` write what is behind the tokenizer. For another format of "
            f"that, use `keras.Model(model.input, model.output).export(...)`. Received: format={format!r}"
        )

    def get_state_tree(self, value_format: str = "backend_tensor") -> Any:
        """Returns all variables of a compiled model as `keras.Model.get_state_tree`."""
        if not self.compiled:
            remedy = "Compile it first, or use `get_weights`"
            raise _check.invalid("model", "a compiled model: the tree holds its optimizer", self.name, remedy)
        return super().get_state_tree(value_format)

    # === Compile state ===

    def bind_optimizer(self) -> None:
        """Gives an `optimizers.Layerwise` the layer groups."""
        optimizer = getattr(self, "optimizer", None)
        while optimizer is not None and not hasattr(optimizer, "bind"):
            optimizer = getattr(optimizer, "inner_optimizer", None)  # within loss scaling
        if optimizer is not None:
            optimizer.bind(self)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile`, and which weights the optimizer was built on."""
        config = super().get_compile_config()
        optimizer = getattr(self, "optimizer", None)
        if not config or optimizer is None or not optimizer.built:
            return config
        # They may be more than what trains: those of layers that will thaw, or have been frozen since.
        places = {id(weight): i for i, weight in enumerate(self.weights)}
        built_on = [places[id(variable)] for variable in optimizer._trainable_variables if id(variable) in places]
        entry = _training.with_subset({**config}, optimizer)["optimizer"]
        entry = entry if isinstance(entry, dict) else keras.saving.serialize_keras_object(optimizer)
        return {**config, "optimizer": {**entry, _BUILT_ON: built_on}}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as a saved model was, its optimizer built on the same weights."""
        # Keras's own refuses where `compile` is overridden, as it is here for its defaults.
        entry = config.get("optimizer")
        built_on = entry.get(_BUILT_ON) if isinstance(entry, dict) else None
        self.compile(**keras.saving.deserialize_keras_object(config))
        # An optimizer that has not made a step has no state to restore: built, it would miss it in the file.
        if built_on is not None and self.optimizer is not None:
            weights = self.weights
            self.optimizer.build([weights[place] for place in built_on])


def _renew_optimizer(model):
    """Compiles a model that has trained as it was compiled, with an optimizer that has made no step."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    arguments = dict(model.compile_arguments)
    optimizer = arguments["optimizer"]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        arguments["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    model.compile(**arguments)
