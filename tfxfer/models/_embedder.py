"""Texts to vectors."""

import collections.abc
import itertools

import keras
import ml_dtypes
import numpy as np

from tfxfer import _check, _texts, backbones, layers
from tfxfer.models._task import TextTask

# Texts that `encode` takes from an iterator at a time: enough to sort by length, little to hold.
_STREAM_BATCHES = 64
# Batches from which on `encode` shows its progress.
_LONG = 64
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@keras.saving.register_keras_serializable("tfxfer")
class TextEmbedder(TextTask):
    """Turns texts into vectors that lie close together where the texts mean alike.

    backbone -> pooling -> dense layers, if any -> unit length, if `normalize`: the modules of a sentence-transformers
    model, with its numbers.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        pooling: one of `layers.POOLING`, or several. Defaults to `"mean"`.
        dense: list of dicts with `units`, `activation` and `use_bias`: layers behind the pooling, as some checkpoints
            have them (their `kernel` and `bias`, if given, are loaded).
        normalize: bool. Whether vectors are scaled to length 1. Defaults to `True`, so that a dot product is a cosine.
        prompts: dict of name to prompt, a text that `encode` sets before each text.
        default_prompt_name: string. The prompt that `encode` uses unless told otherwise.
        trainable: which layer groups train: a bool, a dict, or a list of names or patterns; see `set_trainable`. By
            default, those of the backbone that its flags say (all, unless it was frozen), and all above.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, dim)`.

    Raises:
        ValueError: for an unknown pooling, prompt name or layer group.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    embedder.encode(["Where is my card?", "My card has not arrived"]).shape  # (2, 384)
    ```

    Reference: Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084.
    """

    def __init__(
        self,
        backbone,
        preprocessor=None,
        *,
        pooling="mean",
        dense=(),
        normalize=True,
        prompts=None,
        default_prompt_name=None,
        trainable=None,
        **kwargs,
    ):
        # === Layers ===
        self.pooling = layers.pooling_modes(pooling)
        self.dense = [{key: d[key] for key in ("units", "activation", "use_bias")} for d in dense]
        self.normalize = bool(normalize)
        self.prompts = dict(prompts or {})
        if default_prompt_name is not None:
            _check.one_of("default_prompt_name", default_prompt_name, self.prompts)
        self.default_prompt_name = default_prompt_name
        denses = [keras.layers.Dense(**d, dtype="float32", name=f"dense_{i}") for i, d in enumerate(self.dense)]

        # === Functional Model ===
        inputs = backbone.input
        x = layers.Pooling(self.pooling, name="pooling")(backbone(inputs), padding_mask=inputs["padding_mask"])
        for layer in denses:
            x = layer(x)
        if self.normalize:
            x = layers.UnitNorm(name="unit_norm")(x)
        kwargs.setdefault("compile", False)  # there is no loss that would fit every use
        super().__init__(
            inputs, x, backbone=backbone, preprocessor=preprocessor, top=denses, trainable=trainable, **kwargs
        )
        for layer, d in zip(denses, dense, strict=True):
            if d.get("kernel") is not None:
                layer.set_weights([d["kernel"], d["bias"]] if d["use_bias"] else [d["kernel"]])

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        for name in ("pooling", "dense", "normalize", "prompts", "default_prompt_name"):
            arguments.setdefault(name, getattr(embedding, name))
        return arguments

    def embedding_spec(self):
        weights = [layer.get_weights() for layer in self._top]
        return backbones.EmbeddingSpec(
            pooling=self.pooling,
            dense=[
                {**d, "kernel": w[0], "bias": w[1] if d["use_bias"] else None}
                for d, w in zip(self.dense, weights, strict=True)
            ],
            normalize=self.normalize,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
        )

    @property
    def embedding_dim(self):
        """Size of a vector."""
        return self.output_shape[-1]

    def encode(
        self,
        texts,
        batch_size=32,
        *,
        prompt=None,
        prompt_name=None,
        normalize=None,
        truncate_dim=None,
        dtype="float32",
        progress=None,
    ):
        """Turns texts into vectors.

        Texts are sorted by length and batched without needless padding; the vectors come back in the order of the
        texts. Their values do not depend on batch size, order or neighbours (beyond float rounding).

        Args:
            texts: a string, a list, tuple, array or pandas column of strings, or any other iterator of strings, e.g. a
                generator over a file: that one is worked off in constant memory.
            batch_size: int. Texts computed at a time.
            prompt: string set before each text.
            prompt_name: string, one of `prompts`. Defaults to `default_prompt_name`.
            normalize: bool. Whether to scale to length 1. Defaults to the model's own `normalize`; `False` gives the
                vectors as pooling and dense layers leave them, also where the model scales.
            truncate_dim: int. Keeps the first components only (for Matryoshka models, Kusupati et al., 2022,
                https://arxiv.org/abs/2205.13147); scaled to length 1 again if vectors are normalised.
            dtype: `"float32"`, `"float16"` or `"bfloat16"`: of the result, not of the computation.
            progress: bool. Whether to show a progress bar. By default on work of more than 64 batches,
                in a terminal or notebook.

        Returns:
            A string gives `(dim,)`, a list or array `(texts, dim)`, an iterator a generator of arrays `(some texts,
            dim)` which together are all vectors in order.

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

        wanted = self.normalize if normalize is None else bool(normalize)

        def encode(texts, progress):
            vectors = self._encode(texts, prompt, batch_size, progress, None if wanted else self._unscaled)
            return _finish(vectors, wanted and (truncate_dim is not None or not self.normalize), truncate_dim, dtype)

        if isinstance(texts, (str, bytes)):
            return encode([texts], False)[0]
        if isinstance(texts, (list, tuple)) or hasattr(texts, "__array__"):
            return encode(list(texts) if isinstance(texts, tuple) else texts, progress)
        if isinstance(texts, collections.abc.Iterable):
            return (encode(part, False) for part in _parts(texts, batch_size * _STREAM_BATCHES))
        raise _check.invalid("texts", "a string, a list or array of strings, or an iterator of strings", texts)

    def _prompt(self, prompt, prompt_name):
        if prompt is not None and prompt_name is not None:
            raise _check.invalid("prompt_name", "None where `prompt` is given", prompt_name)
        name = prompt_name or self.default_prompt_name
        if prompt is None and name is not None:
            prompt = self.prompts[_check.one_of("prompt_name", name, self.prompts)]
        return prompt or ""

    @property
    def _unscaled(self):
        """The layer whose input are the vectors before they are scaled."""
        return "unit_norm" if self.normalize else None

    def _encode(self, texts, prompt, batch_size, progress, layer):
        if not len(texts):
            return np.zeros((0, self.embedding_dim), "float32")
        if prompt:
            texts = [prompt + (text.decode() if isinstance(text, bytes) else text) for text in texts]
        if progress is None:
            progress = len(texts) > _LONG * batch_size and _texts.is_watched()
        return self._runner(texts, layer)(texts, batch_size, progress=progress)

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": list(self.pooling),
            "dense": self.dense,
            "normalize": self.normalize,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }


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
