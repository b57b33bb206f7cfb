"""Texts to vectors."""

import collections.abc
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts, backbones, data, layers
from tfxfer.backbones import _embedding, _write, _write_sentence_transformers
from tfxfer.models import _modules, _rows, _usage
from tfxfer.models._from_preset import EmbedderFromPreset
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask

# Batches from which on `encode` shows its progress.
_LONG = 64
_OUTPUTS = ("embedding", "tokens")
# The name of the part of the model that gives the states of tokens.
_TOKENS = "tokens"
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@keras.saving.register_keras_serializable("tfxfer")
class TextEmbedder(EmbedderFromPreset, TextTask):
    """Turns texts into vectors that lie close together where the texts mean alike.

    backbone -> mean over several layers, if `layer_start` -> pooling -> dense layers and the like -> unit length, if
    `normalize`: the modules of a sentence-transformers model, with its numbers.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        pooling: one of `layers.POOLING`, or several. Defaults to `"mean"`.
        dense: list of dicts with `units`, `activation` and `use_bias`: layers after the pooling, as some checkpoints
            have them (their `kernel` and `bias`, if given, are loaded).
        normalize: bool. Whether vectors are scaled to length 1. Defaults to `True`, so that a dot product is a cosine.
        modules: list of dicts, all that follows the pooling, in place of `dense` and `normalize`: `Dense`, `LayerNorm`,
            `Dropout`, `Normalize` and `Truncate` in any order, as `backbones.EmbeddingSpec` describes them.
        layer_start: int. Pools a weighted mean over the states of this layer (0: the embeddings) to the last, with
            learned weights, in place of the last layer's; see `layers.WeightedLayerPooling`.
        layer_weights: float array, one number for each of these layers: their weights. Defaults to ones.
        include_prompt: bool. Whether the tokens of a prompt count in the pooling. Defaults to `True`.
        prompts: dict of name to prompt, a text that `encode` sets before each text.
        default_prompt_name: string. The prompt that `encode` uses unless told otherwise.
        similarity_fn_name: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`, what `similarity` computes. Defaults to
            `"cosine"`.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, those of the backbone that its flags say (all, unless it was frozen), and all above.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, dim)`.

    Raises:
        ValueError: for an unknown pooling, module, prompt name or layer group, or weights that do not fit.

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
            states = backbone.hidden_states().outputs[self.layer_start :]
            encoder = keras.Model(backbone.input, states, name="hidden_states")
            top.append(layers.WeightedLayerPooling(name="layer_pooling"))
        self._chain = _modules.make(modules, backbone.hidden_dim * len(self.pooling))
        top += [layer for module in self._chain for layer in module.layers]

        # === Functional Model ===
        inputs = backbone.input
        x = backbone(inputs) if self.layer_start is None else top[0](encoder(inputs))
        x = layers.Pooling(self.pooling, name="pooling")(x, padding_mask=inputs["padding_mask"])
        for module in self._chain:
            x = module(x)
        kwargs.setdefault("compile", False)  # there is no loss that would fit every use
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

    keeps_embedding = True

    def _with(self, arguments):
        if set(arguments) - {"trainable"}:
            return None  # made again by `_preset_arguments`, which brings all that was trained
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
        """The settings of the dense modules after the pooling, a list of dicts."""
        return [settings for settings in self._settings() if settings["class"] == "Dense"]

    @property
    def normalize(self) -> bool:
        """Whether vectors have unit length because the last module scales them."""
        return _embedding.is_normalized(self._settings())

    def _settings(self):
        """The modules after the pooling, without their weights."""
        return [dict(module.settings) for module in self._chain]

    @property
    def embedding_dim(self) -> int:
        """Size of a vector."""
        return self.output_shape[-1]

    def encode(
        self,
        texts: Any,
        batch_size: int = 32,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        output: Literal["embedding", "tokens"] = "embedding",
        progress: bool | None = None,
    ) -> Any:
        """Turns texts into vectors.

        Texts are sorted by length and batched without needless padding; the vectors come back in the order of the
        texts. Their values do not depend on batch size, order or neighbours (beyond float rounding).

        Args:
            texts: a string, a list, tuple, array, Series or another sequence of strings; or an iterator of strings,
                such as a file: it is consumed in constant memory.
            batch_size: int. Texts computed at a time.
            prompt: string set before each text.
            prompt_name: string, one of `prompts`. Defaults to `default_prompt_name`.
            normalize: bool. Whether to scale to length 1. Defaults to the model's own `normalize`; `False` gives the
                vectors before the model's last module, where that scales them.
            truncate_dim: int. Keeps the first components only (for Matryoshka models, Kusupati et al., 2022,
                https://arxiv.org/abs/2205.13147); scaled to length 1 again if vectors are normalised.
            dtype: `"float32"`, `"float16"` or `"bfloat16"`: of the result, not of the computation.
            output: `"embedding"`, one vector a text; or `"tokens"`, the encoder's vector for each token of a text,
                special tokens included, before pooling and what follows it.
            progress: bool. Whether to show a progress bar. By default on work of more than 64 batches,
                in a terminal or notebook.

        Returns:
            A string gives `(dim,)`, a sequence `(texts, dim)`, an iterator a generator of arrays `(some texts, dim)`
            which together are all vectors in order. With `output="tokens"` a text gives `(tokens, hidden_dim)`, several
            texts a list of such arrays.

        Raises:
            ValueError: for something that is no text, with its row, or an argument out of range.

        Example:

        ```python
        vectors = embedder.encode(["Where is my card?", "My card has not arrived"])
        vectors @ vectors.T  # cosines
        for part in embedder.encode(open("corpus.txt")): ...
        ```
        """
        _check.integer("batch_size", batch_size)
        truncate_dim = _check.integer("truncate_dim", truncate_dim, optional=True)
        if truncate_dim is not None and truncate_dim > self.embedding_dim:
            raise _check.invalid("truncate_dim", f"an int <= {self.embedding_dim}, the vectors' size", truncate_dim)
        _check.one_of("dtype", dtype, _DTYPES)
        prompt = self._prompt(prompt, prompt_name)

        _check.one_of("output", output, _OUTPUTS)
        if output == "tokens":
            for name, value in (("normalize", normalize), ("truncate_dim", truncate_dim)):
                if value is not None:
                    raise _check.invalid(name, 'None with output="tokens"', value)
        wanted = self.normalize if normalize is None else bool(normalize)

        def encode(texts, progress):
            if output == "tokens":
                states = self._encode_tokens(texts, prompt, batch_size, progress)
                return [each.astype(_DTYPES[dtype]) for each in states]
            vectors = self._encode(texts, prompt, batch_size, progress, wanted)
            return _finish(vectors, wanted and (truncate_dim is not None or not self.normalize), truncate_dim, dtype)

        if isinstance(texts, (str, bytes)):
            return encode(self._read([texts]), False)[0]
        if isinstance(texts, (set, frozenset, collections.abc.Mapping)) or not (
            hasattr(texts, "__len__") or isinstance(texts, collections.abc.Iterable)
        ):
            raise _check.invalid("texts", "a string, a sequence of strings, or an iterator of strings", texts)
        if hasattr(texts, "__len__"):
            return encode(self._read(texts), progress)
        parts = _parts(texts, batch_size * _rows.STREAM_BATCHES)
        return (encode(self._read(part), False) for part in parts)

    def _read(self, texts):
        """Texts as a tensor."""
        if isinstance(texts, tuple) and not all(isinstance(text, (str, bytes)) for text in texts):
            expected = "a string, a sequence of strings, or an iterator of strings"
            row = next(i for i, text in enumerate(texts) if not isinstance(text, (str, bytes)))
            raise _check.invalid("texts", expected, texts[row], f"It is in row {row} (counting from 0).")
        return self.input_columns()["text"].read(texts, "texts")

    def _prompt(self, prompt, prompt_name):
        if prompt is not None and prompt_name is not None:
            raise _check.invalid("prompt_name", "None where `prompt` is given", prompt_name)
        name = prompt_name or self.default_prompt_name
        if prompt is None and name is not None:
            prompt = self.prompts[_check.one_of("prompt_name", name, self.prompts)]
        return prompt or ""

    def _encode(self, texts, prompt, batch_size, progress, is_scaled):
        if not len(texts):
            return np.zeros((0, self.embedding_dim), "float32")
        part = (self.prompt_length(prompt), is_scaled or not self.normalize)
        return self._run_texts(texts, prompt, None if part == (0, True) else part, batch_size, progress)

    def _encode_tokens(self, texts, prompt, batch_size, progress):
        if not len(texts):
            return []

        def finish(outputs):
            states, mask = outputs
            return [row[real > 0] for row, real in zip(states, mask, strict=True)]

        return self._run_texts(texts, prompt, _TOKENS, batch_size, progress, finish)

    def _run_texts(self, texts, prompt, part, batch_size, progress, finish=None):
        if progress is None:
            progress = len(texts) > _LONG * batch_size and _texts.is_watched()
        texts = data.with_prefix(texts, prompt)
        return self._runner(texts, part)(texts, batch_size, progress=progress, finish=finish)

    def _part(self, part):
        """The model with a pooling that leaves a prompt out, and with or without the last module; or without both."""
        if part == _TOKENS:
            sequence, mask, _ = self.boundary()
            return keras.Model(self.input, [sequence, mask])
        prompt_length, is_whole = part
        pooling = self.get_layer("pooling")
        sequence, mask = pooling.input
        x = pooling(sequence, padding_mask=mask, prompt_length=prompt_length)
        for module in self._chain if is_whole else self._chain[:-1]:
            x = module(x)
        return keras.Model(self.input, x)

    def encode_query(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Turns the queries of a search into vectors: `encode` with the prompt `"query"`, if there is one.

        Args:
            texts: as `encode` takes them.
            batch_size: int. Texts computed at a time.
            **kwargs: as `encode` has them. `prompt` or `prompt_name` replace the prompt.

        Returns:
            What `encode` returns.

        Example:

        ```python
        queries = embedder.encode_query(["how do I reset my card"])
        embedder.similarity(queries, embedder.encode_document(documents))  # (1, number of documents)
        ```
        """
        return self._encode_as(_texts.QUERY_PROMPTS, texts, batch_size, kwargs)

    def encode_document(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Turns the documents of a search into vectors, with the prompt `"document"`, `"passage"` or `"corpus"`.

        The first of the three that there is; otherwise it is `encode`. Models that come from a sentence-transformers
        folder with any prompts have a prompt `"document"`, as there: an empty one unless the folder has its own. So a
        folder whose only prompts are `"query"` and `"passage"` encodes documents without a prompt.

        Args:
            texts: as `encode` takes them.
            batch_size: int. Texts computed at a time.
            **kwargs: as `encode` has them. `prompt` or `prompt_name` replace the prompt.

        Returns:
            What `encode` returns.
        """
        return self._encode_as(_texts.DOCUMENT_PROMPTS, texts, batch_size, kwargs)

    def _encode_as(self, names, texts, batch_size, arguments):
        if arguments.get("prompt") is None and arguments.get("prompt_name") is None:
            arguments = {**arguments, "prompt": _texts.prompt_for(self, None, names)}
        return self.encode(texts, batch_size, **arguments)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> np.ndarray:
        """Compares each vector of `a` with each of `b` by the model's `similarity_fn_name`; larger is closer.

        `"cosine"`, `"dot"`, or the negated distance for `"euclidean"` and `"manhattan"`.

        Args:
            a: float array `(n, dim)`, or `(dim,)` for one vector.
            b: float array `(m, dim)`, or `(dim,)` for one vector.

        Returns:
            A float32 array `(n, m)`.

        Raises:
            ValueError: for arrays of another shape, or with numbers that are not finite.

        Example:

        ```python
        vectors = embedder.encode(["Where is my card?", "My card has not arrived"])
        embedder.similarity(vectors, vectors[0]).shape  # (2, 1)
        ```
        """
        a, b = (_neighbours.matrix(name, np.atleast_2d(np.asarray(value))) for name, value in (("a", a), ("b", b)))
        if a.shape[1] != b.shape[1]:
            raise _check.invalid("b", f"vectors of {a.shape[1]} components, as `a` has them", b.shape)
        return _neighbours.pairwise(a, b, self.similarity_fn_name)

    def rank(
        self, query: str, documents: Sequence[str], k: int | None = None, *, batch_size: int = 32
    ) -> list[_rows.Ranked]:
        """Orders documents by how close they are to a query, as the export's `rank` does.

        Args:
            query: string.
            documents: list of strings.
            k: int. The most documents to return. Defaults to all.
            batch_size: int. Texts computed at a time.

        Returns:
            A list of `Ranked(index, score, text)`, the best first: the document's place in `documents`, its
            `similarity` to the query, and itself. Each side has the prompt that `encode_query` and `encode_document`
            set.

        Example:

        ```python
        embedder.rank("lost card", ["My card is gone", "What is a loan?"], k=1)[0].text  # "My card is gone"
        ```
        """
        return _rows.ranked(self._document_scores, query, documents, k, batch_size)

    def _document_scores(self, query, documents, batch_size):
        vectors = self.encode_document(documents, batch_size)
        return self.similarity(self.encode_query([query], batch_size), vectors)[0]

    def signatures(self, pairs: bool = False) -> list[Signature]:
        default = self.prompts.get(self.default_prompt_name or "", "")
        found = [Signature("embed", "vectors", "The vector of each text.", prompts=(default,))]
        for name, prompt in self.prompts.items():
            signature = f"embed_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
            if signature in [each.name for each in found]:
                names = sorted(self.prompts)
                raise _check.invalid("model", "prompts whose names differ in more than signs", names, "Rename one.")
            purpose = f"The vector of each text with the prompt {prompt!r} before it."
            found.append(Signature(signature, "vectors", purpose, prompts=(prompt,)))
        sides = [_texts.prompt_for(self, None, names) for names in (_texts.QUERY_PROMPTS, _texts.DOCUMENT_PROMPTS)]
        query, document = (default if prompt is None else prompt for prompt in sides)
        found.append(Signature("similarity", "similarity", prompts=(default, default)))
        found.append(Signature("rank", "rank", prompts=(query, document)))
        found.append(Signature("search", "search", prompts=(default,)))
        return found

    def prompt_length(self, prompt: str) -> int:
        """Returns how many tokens of each text the pooling leaves out behind a prompt.

        Those of the prompt and of what the tokenizer sets before it, where `include_prompt` is `False`; otherwise 0.
        Counted as sentence-transformers does: the tokens of the prompt alone, without a special one at their end.

        Args:
            prompt: string.

        Returns:
            An int.
        """
        if self.include_prompt or not prompt:
            return 0
        packed = self.preprocessor([prompt])
        ids = np.asarray(packed["token_ids"])[np.asarray(packed["padding_mask"]) == 1]
        tokenizer = self.preprocessor.tokenizer
        special = {*tokenizer.special_token_ids, *tokenizer.spec.special.values()}
        return len(ids) - int(len(ids) > 0 and int(ids[-1]) in special)

    def for_prompt(self, prompt: str) -> keras.Model:
        """Returns the model for texts behind a prompt: this one, unless the pooling leaves the prompt's tokens out.

        Args:
            prompt: string.

        Returns:
            A Keras model from a dict of ids, those of prompt and text together, to vectors; it shares this model's
            layers.
        """
        prompt_length = self.prompt_length(prompt)
        return self._part((prompt_length, True)) if prompt_length else self

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        arguments = (folder, self.backbone, self.preprocessor)
        if format == "huggingface":
            _write.write(*arguments, dtype=dtype)
        else:
            _write_sentence_transformers.write(*arguments, self.embedding_spec(), dtype=dtype)

    pipeline_tag = "sentence-similarity"

    def card_rows(self) -> dict[str, str]:
        return {
            "Vectors": f"{self.embedding_dim} components, compared by {self.similarity_fn_name}",
            "Pooling": ", ".join([*self.pooling, *(settings["class"] for settings in self._settings())]),
        }

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
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
    """Returns the modules after the pooling with all their settings; raises where they are given in both ways."""
    if modules is None:
        return _embedding.chain(dense, normalize is None or normalize)
    for name, value in (("dense", dense), ("normalize", normalize)):
        if value is not None and value != ():
            raise _check.invalid(name, "nothing where `modules` is given", value, "Put it among the modules.")
    return _embedding.complete_modules(modules)


def _check_layer_start(layer_start, backbone):
    layer_start = _check.integer("layer_start", layer_start, minimum=0, optional=True)
    if layer_start is not None and layer_start > backbone.num_layers:
        raise _check.invalid("layer_start", f"at most {backbone.num_layers}, the encoder's layers", layer_start)
    return layer_start


def _parts(texts, size):
    texts = iter(texts)
    while part := list(itertools.islice(texts, size)):
        yield part


def _finish(vectors, scale, truncate_dim, dtype):
    if truncate_dim is not None:
        vectors = vectors[:, :truncate_dim]
    if scale:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(_DTYPES[dtype])
