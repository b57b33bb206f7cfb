"""Sparse text embeddings: a weight for each token of the vocabulary, most of them zero."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import scipy.sparse
from keras import ops

from tfxfer import _check, backbones, optimizers
from tfxfer.backbones import _masked_heads, _write
from tfxfer.layers._late import KeptTokens
from tfxfer.layers._sparse import TOKEN_POOLING, SparsePooling
from tfxfer.models._from_preset import SparseFromPreset
from tfxfer.models._kinds import OtherKind, knows_tokens
from tfxfer.models._masked import MaskedLanguageModel, check_backbone, head_options
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask

Term = collections.namedtuple("Term", ["token", "weight"])
Term.__doc__ = "A token of the vocabulary with its weight in a sparse vector."


@keras.saving.register_keras_serializable("tfxfer")
class SparseEmbedder(SparseFromPreset, OtherKind, TextTask):
    """Encodes texts as sparse vectors that weight each token of the vocabulary by its relevance to the text (SPLADE).

    backbone -> the masked language model's head -> logits for each token of the vocabulary at each position ->
    `log(1 + relu(logits))`, its maximum or sum over the positions. A text gets weights for its own tokens and for
    plausible substitutes, so a search by shared tokens also finds texts with other words. `search.SparseIndex` is that
    search; `similarity` is the dot product.

    All real tokens of a text count as positions, including special tokens (`[CLS]`, `[SEP]`), as in SPLADE's models;
    `pool_special_tokens=False` excludes special tokens. They keep their components in the vocabulary either way.

    Memory: logits are computed for `vocabulary_chunk` tokens of the vocabulary at a time, and again for the gradient.
    For 32 texts of 128 tokens and a vocabulary of 30,522, the arrays take 34 MB instead of 500 MB. The vectors are
    dense within a batch, `(batch, vocabulary)`; `encode` keeps only the nonzero components.

    Args:
        backbone: `backbones.Backbone`, bidirectional and not quantized.
        preprocessor: `preprocessing.TextPreprocessor`.
        token_pooling: `"max"` or `"sum"` over the positions of a text. Defaults to `"max"`, as in SPLADE v2.
        pool_special_tokens: bool. Whether special tokens count as positions. Defaults to `True`.
        max_active_dims: int. Keeps only the largest weights of each text (on ties, those with lower ids) in `encode`,
            `similarity` of texts and exports, not in training. Defaults to `None`, which keeps all.
        head: dict of the head's settings, as in `MaskedLanguageModel`.
        vocabulary_chunk: int. The number of tokens of the vocabulary to compute at a time. Defaults to 2048.
        special_ids: ints. The ids of special tokens, which a saved model stores; by default those of the tokenizer.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, vocabulary_size)`, nonnegative; zeros for a row without positions.

    `from_preset` needs a masked language model and loads its head: a checkpoint `*ForMaskedLM` (as SPLADE's are), or a
    folder that a `MaskedLanguageModel` wrote. `from_model` takes a `MaskedLanguageModel`. Other presets have no such
    head; `backbone_only=True` creates a random one.

    Raises:
        ValueError: if the pooling is unknown, the preset has no such head, special tokens are excluded without a
            preprocessor that knows them, or the backbone is quantized or causal.

    Example:

    ```python
    embedder = tx.models.SparseEmbedder.from_preset("hf://naver/splade-cocondenser-ensembledistil")
    vectors = embedder.encode(["Where is my card?", "My card has not arrived"])  # scipy.sparse, (2, 30522)
    embedder.similarity(vectors, vectors)
    embedder.words("Where is my card?", k=5)  # [Term(token='card', weight=2.1), ...]

    model = tx.models.Siamese(embedder, decoder=tx.layers.FLOPSRegularization(5e-5, 3e-5, warmup_steps=1000))
    model.compile(loss=tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot"))
    ```

    References:
        - [Formal et al., 2021](https://arxiv.org/abs/2107.05720), SPLADE
        - [Formal et al., 2021](https://arxiv.org/abs/2109.10086), version 2: maximum pooling, distillation
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        token_pooling: str = "max",
        pool_special_tokens: bool = True,
        max_active_dims: int | None = None,
        head: Mapping[str, Any] | None = None,
        vocabulary_chunk: int = 2048,
        special_ids: Sequence[int] | None = None,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone = backbones.adopt(backbone)
        check_backbone(backbone)

        # === Config ===
        self.token_pooling = _check.one_of("token_pooling", token_pooling, TOKEN_POOLING)
        self.pool_special_tokens = _check.instance("pool_special_tokens", pool_special_tokens, bool, "a bool")
        self.max_active_dims = _check.integer("max_active_dims", max_active_dims, optional=True)
        self.vocabulary_chunk = _check.integer("vocabulary_chunk", vocabulary_chunk)
        self._head_options = head_options(head, backbone)
        self._special_ids = () if self.pool_special_tokens else _special_ids(preprocessor, special_ids)

        # === Layers ===
        places = KeptTokens(self._special_ids, name="places")
        self.head = SparsePooling(
            _masked_heads.table_of(backbone),
            token_pooling=self.token_pooling,
            vocabulary_chunk=self.vocabulary_chunk,
            **self._head_options,
            name="head",
        )

        # === Functional Model ===
        inputs = backbone.input
        states = backbone(inputs)
        self._states = lambda: states  # hidden from Keras
        mask = inputs["padding_mask"]
        if self._special_ids:
            mask = places(inputs["token_ids"], mask)
        outputs = self.head(states, padding_mask=mask)
        kwargs.setdefault("compile", False)  # no loss fits every use
        super().__init__(
            inputs,
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.head],
            trainable=trainable,
            **kwargs,
        )

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        task = pretrained.task
        if backbone_only or isinstance(task, cls) or isinstance(getattr(task, "embedder", None), cls):
            return super()._from_pretrained(pretrained, arguments, backbone_only)
        if isinstance(task, MaskedLanguageModel):
            options = dict(task.get_config()["head"])
        elif pretrained.read_masked_head is not None:
            spec = pretrained.read_masked_head()
            options = spec.options
        else:
            expected = "a masked language model, whose head computes the weights of tokens"
            remedy = "Train a `MaskedLanguageModel` on it first, or pass `backbone_only=True` for a random head."
            raise _check.invalid("preset", expected, pretrained.trained_task or pretrained.backbone.family, remedy)
        if arguments.get("head") is not None:
            expected = "None for a model with a head, which is loaded"
            raise _check.invalid("head", expected, arguments["head"], "Pass `backbone_only=True` for a new head")
        arguments = cls._preset_arguments(pretrained.embedding, {**arguments, "head": options})
        model = cls(backbone=pretrained.backbone, preprocessor=pretrained.preprocessor, **arguments)
        if isinstance(task, MaskedLanguageModel):
            for ours, theirs in zip(model.head.weights, task.head.weights, strict=True):
                ours.assign(theirs)
        else:
            spec.assign(model.head)
        return model, None

    def _changeable(self):
        names = ("token_pooling", "pool_special_tokens", "max_active_dims", "vocabulary_chunk")
        return (*super()._changeable(), *names)

    @property
    def embedding_dim(self) -> int:
        """Size of a vector: the number of rows of the embedding table."""
        return self.output_shape[-1]

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns where the encoder ends: (sequence, mask, None); see `DescribesItself.boundary`.

        Raises:
            ValueError: with `pool_special_tokens=False`, which also reads the ids, not only the encoder's states.
        """
        if not self.pool_special_tokens:
            remedy = "Train the whole model, or choose `pool_special_tokens=True`."
            raise _check.invalid("model", "a model that reads only the encoder's states", self.name, remedy)
        return self._states(), self.input["padding_mask"], None

    def _auto_optimizer(self):
        return optimizers.Auto(2e-5)  # the head is pretrained, too

    # === Encoding ===

    def encode(
        self,
        texts: Any,
        batch_size: int = 32,
        *,
        max_active_dims: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Encodes texts as sparse vectors.

        Texts are sorted by length and batched with little padding; the rows are returned in the order of the texts.
        Memory holds one batch of dense vectors, `batch_size * vocabulary_size` numbers, and the nonzero components of
        all texts.

        Args:
            texts: a string, a list, tuple, array, Series or another sequence of strings; or an iterator of strings,
                such as a file, which is consumed in constant memory.
            batch_size: int. Texts per batch.
            max_active_dims: int. Keeps only that many of the largest weights of each text. Defaults to the model's own.
            progress: bool. Whether to show a progress bar. By default, it is shown for more than 64 batches in a
                terminal or notebook.

        Returns:
            A float32 `scipy.sparse.csr_array` `(texts, vocabulary_size)`; a string gives one row. An iterator gives a
            generator of such arrays, which together contain all rows in order.

        Raises:
            ValueError: if a row is not a string (the error names the row), or an argument is out of range.

        Example:

        ```python
        vectors = embedder.encode(["Where is my card?", "My card has not arrived"])
        vectors.count_nonzero(axis=1)  # terms of each text
        ```
        """
        most = _check.integer("max_active_dims", max_active_dims, optional=True) or self.max_active_dims

        def encode(texts, progress):
            if not len(texts):
                return scipy.sparse.csr_array((0, self.embedding_dim), dtype="float32")
            return _stacked(self._run_texts(texts, None, batch_size, progress, lambda rows: _terms(rows, most)), self)

        return self._over_texts(texts, batch_size, progress, encode)

    def encode_query(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes search queries as sparse vectors: `encode`, as both sides are encoded the same way.

        Args:
            texts: as `encode` takes them.
            batch_size: int. Texts per batch.
            **kwargs: as in `encode`.
        """
        return self.encode(texts, batch_size, **kwargs)

    def encode_document(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes search documents as sparse vectors: `encode`, as both sides are encoded the same way.

        Args:
            texts: as `encode` takes them.
            batch_size: int. Texts per batch.
            **kwargs: as in `encode`.
        """
        return self.encode(texts, batch_size, **kwargs)

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Returns the dot product of each vector of `a` with each of `b`; larger is closer.

        Args:
            a: `scipy.sparse` or float array `(n, vocabulary_size)`, or one dense vector.
            b: the same, `(m, vocabulary_size)`.

        Returns:
            A float32 array `(n, m)`.

        Raises:
            ValueError: if the size differs, or numbers are not finite.
        """
        a, b = (sparse_rows(name, value, self.embedding_dim) for name, value in (("a", a), ("b", b)))
        return np.asarray((a @ b.T).toarray(), "float32")

    def words(self, texts: Any, k: int | None = 10, batch_size: int = 32) -> Any:
        """Returns the tokens with the largest weights in the vectors of texts.

        Args:
            texts: a string or a sequence of strings.
            k: int. The maximum number of tokens for each text; `None` for all nonzero ones. Defaults to 10.
            batch_size: int. Texts per batch.

        Returns:
            A list of `Term(token, weight)`, largest weight first; for several texts, a list of such lists. Tokens are
            spelled as in the vocabulary; on ties, the lower id comes first.

        Example:

        ```python
        embedder.words("Where is my card?", k=2)  # [Term(token='card', weight=2.1), Term(token='where', weight=1.3)]
        ```
        """
        found = self._named(self.encode(texts, batch_size, progress=False), k)
        return found[0] if isinstance(texts, (str, bytes)) else found

    def decode(self, outputs: Any) -> list:
        """Converts vectors from `encode` or `predict` to lists of `Term(token, weight)`; see `words`."""
        return self._named(sparse_rows("outputs", outputs, self.embedding_dim), None)

    def _named(self, vectors, k):
        k = _check.integer("k", k, optional=True)
        if self.preprocessor is None:
            raise _check.invalid("model", "a model with a preprocessor, which knows the names of tokens", self.name)
        vocabulary = self.preprocessor.tokenizer.vocabulary
        found = []
        for ids, weights in _rows_of(vectors):
            order = np.lexsort((ids, -weights))[:k]
            # The table may have more rows than the vocabulary has tokens.
            names = [vocabulary[i] if i < len(vocabulary) else f"[{i}]" for i in ids[order].tolist()]
            found.append([Term(name, weight) for name, weight in zip(names, weights[order].tolist(), strict=True)])
        return found

    _instead_of_explain = "`words` returns the tokens of its vectors."

    # === Serving ===

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `embed`, `similarity` and `rank`; see `DescribesItself.signatures`."""
        purpose = (
            "The terms of each text, the heaviest first: `token_ids`, numbers of lines in the vocabulary, and "
            "`weights`, `(batch, n)`. Row i has `counts[i]` of them; the columns after them hold -1 and 0."
        )

        def finish(vectors):
            counts = ops.sum(ops.cast(vectors > 0, "int32"), axis=-1)
            if self.max_active_dims is not None:
                counts = ops.minimum(counts, self.max_active_dims)
            weights, ids = ops.top_k(vectors, ops.maximum(ops.max(counts), 1))
            is_term = ops.arange(ops.shape(weights)[1], dtype="int32") < ops.expand_dims(counts, 1)
            return {
                "token_ids": ops.where(is_term, ids, ops.full_like(ids, -1)),
                "weights": ops.where(is_term, weights, ops.zeros_like(weights)),
                "counts": counts,
            }

        def compare(a, b):
            return ops.sum(self._pruned(a) * self._pruned(b), axis=-1)

        return [
            Signature("embed", "values", purpose, finish=finish),
            Signature("similarity", "similarity", "The dot product of the two texts of each row.", compare=compare),
            Signature("rank", "rank", compare=compare),
        ]

    def _pruned(self, vectors):
        """Keeps only the largest components of vectors."""
        if self.max_active_dims is None or self.max_active_dims >= self.embedding_dim:
            return vectors
        weights, ids = ops.top_k(vectors, self.max_active_dims)
        rows = ops.broadcast_to(ops.expand_dims(ops.arange(ops.shape(ids)[0], dtype="int32"), 1), ops.shape(ids))
        places = ops.reshape(ops.stack([rows, ops.cast(ids, "int32")], axis=-1), (-1, 2))
        return ops.scatter_update(ops.zeros_like(vectors), places, ops.reshape(weights, (-1,)))

    # === Saving ===

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None) -> None:
        """Raises `NotImplementedError`: the head computes with the embedding table itself."""
        raise NotImplementedError(
            "A sparse embedder's head computes with its encoder's embedding table, which cannot be quantized. "
            f"`search.SparseIndex` keeps the vectors of documents, so that only queries are encoded. Received: {mode=}"
        )

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes `*ForMaskedLM`, the form of SPLADE's checkpoints; see `TextTask.write_checkpoint`."""
        if format != "huggingface":
            super().write_checkpoint(folder, format, dtype)
        head, reason = _masked_heads.written(self.backbone, self.head, self._head_options)
        if head is None:
            raise _check.invalid("format", f"'tfxfer' for this model: {reason}", format)
        _write.write(folder, self.backbone, self.preprocessor, head=head, dtype=dtype)

    def card_rows(self) -> dict[str, str]:
        """Returns the model card's rows on vectors and pooling."""
        return {
            "Vectors": f"{self.embedding_dim} components, sparse, compared by the dot product",
            "Pooling": f"{self.token_pooling} of log(1 + relu(logits))",
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "token_pooling": self.token_pooling,
            "pool_special_tokens": self.pool_special_tokens,
            "max_active_dims": self.max_active_dims,
            "head": dict(self._head_options),
            "vocabulary_chunk": self.vocabulary_chunk,
            "special_ids": list(self._special_ids),
        }


def sparse_rows(argument: str, value: Any, dim: int) -> Any:
    """Returns vectors as a `csr_array` `(rows, dim)` of floats; raises if the size differs, or for NaN or infinity."""
    if not scipy.sparse.issparse(value):
        value = np.atleast_2d(keras.ops.convert_to_numpy(value) if hasattr(value, "dtype") else np.asarray(value))
    if len(value.shape) != 2 or value.shape[1] != dim or value.dtype.kind not in "fiu":
        raise _check.invalid(argument, f"vectors (rows, {dim}), sparse or dense", value.shape)
    found = scipy.sparse.csr_array(value)
    if not np.isfinite(found.data).all():
        raise _check.invalid(argument, "finite numbers", found.data[~np.isfinite(found.data)][0])
    return found


def _special_ids(preprocessor, saved):
    """The ids of the tokenizer's special tokens."""
    if not knows_tokens(preprocessor) and saved:
        return tuple(saved)
    if preprocessor is None:
        expected = "True for a model without a preprocessor, which knows the special tokens"
        raise _check.invalid("pool_special_tokens", expected, False)
    tokenizer = preprocessor.tokenizer
    return tuple(sorted({*map(int, tokenizer.special_token_ids), *map(int, tokenizer.spec.special.values())}))


def _terms(vectors, most):
    """The indices of the nonzero components of each dense vector, in order, and their values."""
    found = []
    for row in vectors:
        places = np.flatnonzero(row)
        if most is not None and len(places) > most:
            places = np.sort(places[np.argsort(-row[places], kind="stable")[:most]])
        found.append((places.astype("int32"), row[places]))
    return found


def _stacked(rows, model):
    """Stacks rows of indices and values to one sparse array."""
    ends = np.cumsum([0, *(len(places) for places, _ in rows)])
    parts = (np.concatenate([weights for _, weights in rows]), np.concatenate([places for places, _ in rows]), ends)
    return scipy.sparse.csr_array(parts, shape=(len(rows), model.embedding_dim), dtype="float32")


def _rows_of(vectors):
    """Yields the indices and the values of the nonzero components of each row."""
    for start, end in zip(vectors.indptr, vectors.indptr[1:], strict=False):
        ids, weights = vectors.indices[start:end], vectors.data[start:end]
        yield ids[weights != 0], weights[weights != 0]
