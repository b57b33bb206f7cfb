"""Text embeddings."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts, backbones, layers
from tfxfer.backbones import _embedding, _write, _write_sentence_transformers
from tfxfer.models import _modules, _usage
from tfxfer.models._encoding import Encodes
from tfxfer.models._from_preset import EmbedderFromPreset
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask


@keras.saving.register_keras_serializable("tfxfer")
class TextEmbedder(EmbedderFromPreset, Encodes, TextTask):  # type: ignore[misc]  # `explain` takes two texts
    """Encodes texts as vectors that are close for texts with similar meanings.

    backbone -> mean over several layers, if `layer_start` -> pooling -> dense and other modules -> unit length, if
    `normalize`: the modules of a sentence-transformers model, with the same outputs.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        pooling: one of `layers.POOLING`, or several. Defaults to `"mean"`.
        dense: list of dicts with `units`, `activation` and `use_bias`: layers after the pooling, as in some checkpoints
            (`kernel` and `bias`, if given, are loaded).
        normalize: bool. Whether to scale vectors to length 1. Defaults to `True`, so that a dot product is a cosine.
        modules: list of dicts: all modules after the pooling, instead of `dense` and `normalize`. `Dense`, `LayerNorm`,
            `Dropout`, `Normalize` and `Truncate` in any order; see `backbones.EmbeddingSpec`.
        layer_start: int. If given, pools a mean over the states of this layer (0: the embeddings) to the last, with
            learned weights, instead of the last layer's states; see `layers.WeightedLayerPooling`.
        layer_weights: float array with one weight for each of these layers. Defaults to ones.
        include_prompt: bool. Whether the pooling includes the tokens of a prompt. Defaults to `True`.
        prompts: dict of name to prompt, a string that `encode` puts before each text.
        default_prompt_name: string. The name of the prompt that `encode` uses by default.
        similarity_fn_name: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`: the function of `similarity`. Defaults
            to `"cosine"`.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, the backbone keeps its flags (all of it trains, unless it was frozen), and everything above trains.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, dim)`.

    Raises:
        ValueError: if a pooling, module, prompt name or layer group is unknown, or weights have the wrong shape.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    embedder.encode(["Where is my card?", "My card has not arrived"]).shape  # (2, 384)
    ```

    Reference: Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084.
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        pooling: str | Sequence[str] = "mean",
        dense: Sequence[Mapping[str, Any]] = (),
        normalize: bool | None = None,
        modules: Sequence[Mapping[str, Any]] | None = None,
        layer_start: int | None = None,
        layer_weights: ArrayLike | None = None,
        include_prompt: bool = True,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str = "cosine",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        backbone = backbones.adopt(backbone)

        # === Config ===
        self.pooling = layers.pooling_modes(pooling)
        self.layer_start = _check_layer_start(layer_start, backbone)
        self.include_prompt = bool(include_prompt)
        self.prompts = dict(prompts or {})
        if default_prompt_name is not None:
            _check.one_of("default_prompt_name", default_prompt_name, self.prompts)
        self.default_prompt_name = default_prompt_name
        self.similarity_fn_name = _check.one_of("similarity_fn_name", similarity_fn_name, _neighbours.SIMILARITIES)
        modules = _check_modules(modules, dense, normalize)

        # === Layers ===
        top = []
        if self.layer_start is not None:
            encoder = backbone.hidden_states(range(self.layer_start, backbone.num_layers + 1))
            top.append(layers.WeightedLayerPooling(name="layer_pooling"))
        self._chain = _modules.make(modules, backbone.hidden_dim * len(self.pooling))
        top += [layer for module in self._chain for layer in module.layers]

        # === Functional Model ===
        inputs = backbone.input
        x = backbone(inputs) if self.layer_start is None else top[0](encoder(inputs))
        x = layers.Pooling(self.pooling, name="pooling")(x, padding_mask=inputs["padding_mask"])
        for module in self._chain:
            x = module(x)
        kwargs.setdefault("compile", False)  # no single loss suits every use
        super().__init__(
            inputs, x, backbone=backbone, preprocessor=preprocessor, top=top, trainable=trainable, **kwargs
        )
        for module, settings in zip(self._chain, modules, strict=True):
            module.load(settings)
        if layer_weights is not None:
            self._load_layer_weights(layer_weights)

    def _load_layer_weights(self, values):
        count = 0 if self.layer_start is None else self.backbone.num_layers + 1 - self.layer_start
        if np.shape(values) != (count,):
            expected = f"one number for each of the {count} layers from `layer_start` on"
            raise _check.invalid("layer_weights", expected, np.shape(values))
        self.get_layer("layer_pooling").layer_weights.assign(values)

    def layer_embeddings(self) -> keras.Model:
        """Returns a functional model on this embedder's layers that outputs one embedding per layer.

        Returns:
            A `keras.Model` from this embedder's inputs to float32 `(batch, layers, dim)`: one vector from the token
            embeddings, then one from each block's output, after the encoder's final norm, if it has one. The last is
            this embedder's output; the one of layer l > 0 equals the output of `with_blocks(l)`.

        Raises:
            ValueError: if the embedder has `layer_start`, so that its vectors are a mean over layers.
        """
        if self.layer_start is not None:
            raise _check.invalid("layer_start", "None for embeddings of single layers", self.layer_start)
        states = self.backbone.hidden_states().output
        norm = getattr(getattr(self.backbone, "parts", None), "final_norm", None)
        mask, pooling = self.input["padding_mask"], self.get_layer("pooling")
        found = []
        for state in states[:-1]:
            x = pooling(state if norm is None else norm(state), padding_mask=mask)
            for module in self._chain:
                x = module(x)
            found.append(x)
        return keras.Model(self.input, keras.ops.stack([*found, self.output], axis=1), name="layer_embeddings")

    keeps_embedding = True

    def read_layers(self) -> tuple[int, ...] | None:
        """Returns the indices of the layers from `layer_start`; see `DescribesItself.read_layers`."""
        return None if self.layer_start is None else tuple(range(self.layer_start, self.backbone.num_layers + 1))

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns the tensors at the end of the encoder: before the mean over layers, if there is one."""
        if self.layer_start is None:
            return super().boundary()
        pooling = self.get_layer("pooling")
        return keras.tree.flatten(self.get_layer("layer_pooling").input), pooling.input[1], pooling.output

    def _with(self, arguments):
        if set(arguments) - {"trainable"}:
            return None  # rebuilt by `_preset_arguments`, which keeps all trained weights
        return super()._with(arguments)

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        arguments = dict(arguments)
        if arguments.get("layer_start", embedding.layer_start) == embedding.layer_start:
            arguments.setdefault("layer_weights", embedding.layer_weights)
        if "modules" not in arguments:
            dense, normalize = arguments.pop("dense", None), arguments.pop("normalize", None)
            normalize = embedding.normalize if normalize is None else bool(normalize)
            modules = embedding.modules[:-1] if embedding.normalize else embedding.modules
            modules = modules if dense is None else backbones.EmbeddingSpec(dense=dense).modules
            arguments["modules"] = [*modules, *[{"class": "Normalize"}] * normalize]
        names = ("pooling", "layer_start", "include_prompt", "prompts", "default_prompt_name", "similarity_fn_name")
        for name in names:
            arguments.setdefault(name, getattr(embedding, name))
        return arguments

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns a `backbones.EmbeddingSpec` of the pooling, the modules with their weights, and the prompts."""
        weights = None
        if self.layer_start is not None:
            weights = keras.ops.convert_to_numpy(self.get_layer("layer_pooling").layer_weights)
        return backbones.EmbeddingSpec(
            pooling=self.pooling,
            modules=[module.spec() for module in self._chain],
            layer_start=self.layer_start,
            layer_weights=weights,
            include_prompt=self.include_prompt,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self.similarity_fn_name,
        )

    @property
    def dense(self) -> list[dict[str, Any]]:
        """List of dicts: the settings of the dense modules after the pooling."""
        return [settings for settings in self._settings() if settings["class"] == "Dense"]

    @property
    def normalize(self) -> bool:
        """Whether the last module scales vectors to unit length."""
        return _embedding.is_normalized(self._settings())

    def _settings(self):
        """Returns the settings of the modules after the pooling, without weights."""
        return [dict(module.settings) for module in self._chain]

    @property
    def embedding_dim(self) -> int:
        """Int. The number of components of a vector."""
        return self.output_shape[-1]

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `embed`, one `embed_<prompt>` for each prompt, `similarity`, `rank` and `search`.

        See `DescribesItself.signatures`.
        """
        default = self.prompts.get(self.default_prompt_name or "", "")
        found = [Signature("embed", "vectors", "The vector of each text.", prompts=(default,))]
        for name, prompt in self.prompts.items():
            signature = f"embed_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
            if signature in [each.name for each in found]:
                names = sorted(self.prompts)
                raise _check.invalid("model", "prompts whose names differ in letters or digits", names, "Rename one.")
            purpose = f"The vector of each text with the prompt {prompt!r} before it."
            found.append(Signature(signature, "vectors", purpose, prompts=(prompt,)))
        sides = [_texts.prompt_for(self, None, names) for names in (_texts.QUERY_PROMPTS, _texts.DOCUMENT_PROMPTS)]
        query, document = (default if prompt is None else prompt for prompt in sides)
        found.append(Signature("similarity", "similarity", prompts=(default, default)))
        found.append(Signature("rank", "rank", prompts=(query, document)))
        found.append(Signature("search", "search", prompts=(default,)))
        return found

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes a sentence-transformers directory, or only the encoder; see `TextTask.write_checkpoint`."""
        arguments = (folder, self.backbone, self.preprocessor)
        if format == "huggingface":
            _write.write(*arguments, dtype=dtype)
        else:
            _write_sentence_transformers.write(*arguments, self.embedding_spec(), dtype=dtype)

    pipeline_tag = "sentence-similarity"

    def card_rows(self) -> dict[str, str]:
        """Returns the rows of the model card for vectors and pooling."""
        return {
            "Vectors": f"{self.embedding_dim} components, compared by {self.similarity_fn_name}",
            "Pooling": ", ".join([*self.pooling, *(settings["class"] for settings in self._settings())]),
        }

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the code of the model card: how each library loads the model and encodes texts."""
        return _usage.embedder(self, format, repo_id)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pooling": list(self.pooling),
            "modules": self._settings(),
            "layer_start": self.layer_start,
            "include_prompt": self.include_prompt,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
        }


def _check_modules(modules, dense, normalize):
    """Returns the modules after the pooling with all their settings; raises if both forms are given."""
    if modules is None:
        return _embedding.chain(dense, normalize is None or normalize)
    for name, value in (("dense", dense), ("normalize", normalize)):
        if value is not None and value != ():
            raise _check.invalid(name, "no value together with `modules`", value, "Add it to the modules.")
    return _embedding.complete_modules(modules)


def _check_layer_start(layer_start, backbone):
    layer_start = _check.integer("layer_start", layer_start, minimum=0, optional=True)
    if layer_start is not None and layer_start > backbone.num_layers:
        raise _check.invalid("layer_start", f"at most {backbone.num_layers}, the encoder's layers", layer_start)
    return layer_start
