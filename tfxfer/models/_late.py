"""Late-interaction embedders: one vector per token, compared token by token."""

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import ml_dtypes
import numpy as np
from keras import ops

from tfxfer import _check, _maxsim, _ops, backbones, optimizers
from tfxfer.layers._late import KeptTokens, LateTowers, MarkedTokens, UnitTokens
from tfxfer.models._from_preset import LateInteractionFromPreset
from tfxfer.models._kinds import OtherKind, knows_tokens, token_id
from tfxfer.models._predicts_rows import PredictsRows
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask

_PUNCTUATION = "punctuation"
# Prefixes of word pieces in vocabularies.
_PREFIXES = ("##", "▁", "Ġ")
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# The name of the part of the model that reads queries.
_QUERY = "query"
# A marker, and one token of the text between two special tokens.
_LEAST_LENGTH = 4


@keras.saving.register_keras_serializable("tfxfer")
class LateInteractionEmbedder(LateInteractionFromPreset, OtherKind, PredictsRows, TextTask):
    """Encodes each token of a text as a vector, for search that compares texts token by token (ColBERT).

    tokens -> query or document marker -> backbone -> dense layer to `dim` components -> unit length. `similarity` is
    MaxSim: for each token of the query, the largest cosine with a token of the document, summed over the query's
    tokens. It captures more than one vector per text, but needs one vector of memory per token;
    `search.LateInteractionIndex` compresses the vectors to a few bits.

    Queries and documents are encoded differently:

    | | queries | documents |
    |---|---|---|
    | marker | `query_marker` after the first token | `document_marker` after the first token |
    | length | truncated to `query_length`; with `augment_queries` padded to it with mask tokens | the preprocessor's |
    | tokens with a vector | all | all except `skip_tokens` |

    The mask tokens that pad queries learn to represent further terms. Here the query's other tokens attend to them like
    to real tokens; in ColBERT's published checkpoints they do not. Truncation keeps the last special token of a text.

    Args:
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        dim: int. Components of a token's vector. Defaults to 128, as in ColBERT.
        query_length: int >= 4. Maximum number of tokens of a query, including marker and special tokens. Defaults to
            32.
        augment_queries: bool. Whether to pad queries with mask tokens, as in ColBERT. Defaults to `False`: the encoder
            has to learn to use them, and short training runs do not achieve it (`docs/kinds.md`).
        query_marker: string. A token of the vocabulary that is inserted into each query, for example `"[unused0]"`.
            Defaults to `None`, no marker.
        document_marker: string. The same for documents, for example `"[unused1]"`.
        skip_tokens: `"punctuation"`, or a list of tokens of the vocabulary, which get no vector in documents. Defaults
            to `"punctuation"`: the vocabulary's tokens that are a single ASCII punctuation mark.
        token_ids: dict of the ids of these tokens, from a saved model. By default the tokenizer provides them.
        trainable: which layer groups train; see `set_trainable`. The dense layer is the group `"head"`.
        **kwargs: `name`.

    Input: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, and `segment_ids` for families that have them.
    Output: float32 `(batch, length, dim)`, with a marker one token longer than the input: the vectors of a document's
    tokens without the skipped ones, then zeros. `query_model()` is the model for queries.

    Train it in a `Siamese` whose first column is the query, with `losses.MaxSimRankingLoss` or, with a teacher's
    scores, `losses.MaxSimDistillationLoss`. The dense layer is initialized randomly: train the model before you use it.

    Raises:
        ValueError: if an argument is out of range, the vocabulary lacks a marker, or `augment_queries` is used with a
            tokenizer without a mask token.

    Example:

    ```python
    embedder = tx.models.LateInteractionEmbedder.from_preset("all_minilm_l6_v2", dim=64, sequence_length=128)
    model = tx.models.Siamese(embedder)
    model.compile(loss=tx.losses.MaxSimRankingLoss())
    model.fit(tx.data.pairs(rows, ("query", "document")), epochs=1)
    documents = embedder.encode_document(["Where is my card?", "My card has not arrived"])  # a list of (tokens, 64)
    embedder.similarity(embedder.encode_query(["lost card"]), documents)  # (1, 2)
    ```

    References:
        - [Khattab and Zaharia, 2020](https://arxiv.org/abs/2004.12832), ColBERT
        - [Santhanam et al., 2022](https://arxiv.org/abs/2112.01488), ColBERTv2: distillation, codes
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        dim: int = 128,
        query_length: int = 32,
        augment_queries: bool = False,
        query_marker: str | None = None,
        document_marker: str | None = None,
        skip_tokens: str | Sequence[str] = _PUNCTUATION,
        token_ids: Mapping[str, Any] | None = None,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone = backbones.adopt(backbone)

        # === Config ===
        self.dim = _check.integer("dim", dim)
        self.query_length = _check.integer("query_length", query_length, minimum=_LEAST_LENGTH)
        longest = backbone.max_sequence_length if getattr(backbone, "has_position_table", False) else None
        if longest is not None and self.query_length > longest:
            raise _check.invalid("query_length", f"an int <= {longest}, the encoder's positions", query_length)
        self.augment_queries = _check.instance("augment_queries", augment_queries, bool, "a bool")
        self.query_marker, self.document_marker = query_marker, document_marker
        self.skip_tokens = skip_tokens if isinstance(skip_tokens, str) else list(skip_tokens)
        saved = None if knows_tokens(preprocessor) else token_ids
        self._token_ids = ids = self._ids_of(preprocessor) if saved is None else dict(saved)

        # === Layers ===
        document_marks = MarkedTokens(ids["document_marker"], longest, None, name="document_marks")
        query_marks = MarkedTokens(ids["query_marker"], self.query_length, ids["filling"], name="query_marks")
        self.projection = keras.layers.Dense(self.dim, use_bias=False, dtype="float32", name="projection")
        unit = UnitTokens(name="token_vectors")

        # === Functional Model ===
        inputs = backbone.input

        def encoded(tokens, left_out):
            mask = KeptTokens(left_out)(tokens["token_ids"], tokens["padding_mask"])
            return unit(self.projection(backbone(tokens)), padding_mask=mask)

        outputs = encoded(document_marks(inputs), ids["skipped"])
        kwargs.setdefault("compile", False)  # no single loss suits every use
        super().__init__(
            inputs,
            outputs,
            backbone=backbone,
            preprocessor=preprocessor,
            top=[self.projection],
            trainable=trainable,
            **kwargs,
        )
        query_model = keras.Model(inputs, encoded(query_marks(inputs), ()), name="query_model")
        self._query_model = lambda: query_model  # hidden from Keras
        self._count_rows(_ops.counting_tokens(outputs))

    def _ids_of(self, preprocessor):
        """Returns the ids of the tokens named in arguments."""
        return {
            "query_marker": token_id("query_marker", preprocessor, self.query_marker),
            "document_marker": token_id("document_marker", preprocessor, self.document_marker),
            "filling": _mask_id(preprocessor) if self.augment_queries else None,
            "skipped": _skipped_ids(self.skip_tokens, preprocessor),
        }

    def query_model(self) -> keras.Model:
        """Returns the model for queries: from a dict of ids to `(batch, length, dim)`. It shares this model's layers.

        With `augment_queries`, the length is `query_length`.
        """
        return self._query_model()

    def make_towers(self, chunk_size: int | None) -> Any:
        """Returns the layer that reads the first column as queries and the others as documents.

        Raises:
            ValueError: if `chunk_size` is not `None`.
        """
        if chunk_size is not None:
            remedy = "Use smaller batches; `losses.MaxSimRankingLoss(chunk_size=...)` limits the comparison's memory."
            raise _check.invalid("chunk_size", "None for a late-interaction embedder", chunk_size, remedy)
        return LateTowers(self, name="towers")

    def _changeable(self):
        return (*super()._changeable(), "query_length", "augment_queries", "skip_tokens")

    def _auto_optimizer(self):
        return optimizers.Auto(2e-5, multipliers={"head": 10.0})  # only the dense layer is new

    def boundary(self) -> tuple[Any, Any, Any]:
        """Not supported: the encoder reads tokens with a marker, which differ between queries and documents.

        Raises:
            ValueError: always.
        """
        expected = "a model whose encoder reads the preprocessor's tokens as they are"
        raise _check.invalid("model", expected, self.name, "Train the whole model.")

    # === Encoding ===

    def encode_query(
        self,
        texts: Any,
        batch_size: int = 32,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        progress: bool | None = None,
    ) -> Any:
        """Encodes queries as token vectors.

        Args:
            texts: a string; a list, tuple, array, Series or other sequence of strings; or an iterator of strings, which
                is consumed in constant memory.
            batch_size: int. Batch size for inference. Defaults to 32.
            dtype: `"float32"`, `"float16"` or `"bfloat16"`: the dtype of the result, not of the computation. Defaults
                to `"float32"`.
            progress: bool. Whether to show a progress bar. By default, in a terminal or notebook if there are more than
                64 batches.

        Returns:
            An array `(tokens, dim)` for a string, a list of such arrays for a sequence; for an iterator, a generator of
            such lists in the order of the texts. Vectors have length 1.

        Raises:
            ValueError: if an element is not a string (the error names its row), or an argument is out of range.

        Example:

        ```python
        queries = embedder.encode_query(["how do I reset my card"])
        queries[0].shape  # (9, 128)
        ```
        """
        return self._encode(texts, _QUERY, batch_size, dtype, progress)

    def encode_document(
        self,
        texts: Any,
        batch_size: int = 32,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        progress: bool | None = None,
    ) -> Any:
        """Encodes documents as token vectors, without the skipped tokens.

        Args:
            texts: as in `encode_query`.
            batch_size: int. Batch size for inference. Defaults to 32.
            dtype: as in `encode_query`.
            progress: as in `encode_query`.

        Returns:
            The same types as `encode_query`.
        """
        return self._encode(texts, None, batch_size, dtype, progress)

    def _encode(self, texts, part, batch_size, dtype, progress):
        _check.one_of("dtype", dtype, _DTYPES)

        def encode(texts, progress):
            if not len(texts):
                return []
            return self._run_texts(texts, part, batch_size, progress, lambda rows: _ragged(rows, _DTYPES[dtype]))

        found = self._over_texts(texts, batch_size, progress, encode)
        return found[0] if isinstance(texts, (str, bytes)) else found

    def _part(self, part):
        return self.query_model() if part == _QUERY else super()._part(part)

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the vectors of documents, a list of float32 `(tokens, dim)`; see `encode_document`.

        Args:
            x: rows of texts, or batches, as in `fit`. For a generator of rows, the result is a generator of parts.
            batch_size: int. Batch size for inference. Defaults to 32.
            verbose: 0, 1 or `"auto"`. Whether to show a progress bar.
            steps: int. Number of batches to read, if `x` is batches.
            callbacks: must be `None`: rows differ in shape, so Keras's prediction loop is not used.
        """
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Returns the MaxSim of each query with each document; larger is closer.

        MaxSim is the sum over the query's tokens of the largest dot product with a token of the document; it is at most
        the number of the query's tokens. A document without tokens scores 0. The function is not symmetric: `a` are the
        queries.

        Args:
            a: list of float arrays `(tokens, dim)` from `encode_query`, or one such array.
            b: list of float arrays `(tokens, dim)` from `encode_document`, or one such array.

        Returns:
            A float32 array `(len(a), len(b))`.

        Raises:
            ValueError: if the arrays have another shape, or contain numbers that are not finite.
        """
        return _maxsim.scores(_maxsim.rows("a", a, self.dim), _maxsim.rows("b", b, self.dim))

    _instead_of_explain = "The products of token vectors show which tokens match."

    # === Serving ===

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `embed_document`, `embed_query`, `similarity` and `rank`; see `DescribesItself.signatures`."""

        def finish(vectors):
            counts = ops.sum(_ops.counting_tokens(vectors), axis=1)
            return {"vectors": vectors[:, : ops.maximum(ops.max(counts), 1)], "counts": counts}

        def compare(queries, documents):
            products = ops.matmul(queries, ops.transpose(documents, (0, 2, 1)))
            keep = ops.expand_dims(_ops.counting_tokens(documents) > 0, 1)
            return ops.sum(_ops.masked_max(products, keep), axis=-1)

        sides = (self.query_model(), self)
        purpose = (
            "The token vectors of each {}, `vectors` `(batch, n, dim)`. Row i has `counts[i]` of them, then zeros."
        )
        similar = "The MaxSim of a query, `text_a`, and a document, `text_b`, in each row."
        options: dict[str, Any] = {"compare": compare, "sides": sides}
        return [
            Signature("embed_document", "values", purpose.format("document"), finish=finish),
            Signature("embed_query", "values", purpose.format("query"), finish=finish, forward=sides[0]),
            Signature("similarity", "similarity", similar, **options),
            Signature("rank", "rank", **options),
        ]

    # === Saving ===

    def card_rows(self) -> dict[str, str]:
        """Returns the rows of the model card for vectors and lengths."""
        filled = ", padded with mask tokens" if self.augment_queries else ""
        return {
            "Vectors": f"{self.dim} components for each token, compared by MaxSim",
            "Queries": f"up to {self.query_length} tokens{filled}",
        }

    def get_config(self) -> dict[str, Any]:
        names = ("dim", "query_length", "augment_queries", "query_marker", "document_marker", "skip_tokens")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "token_ids": dict(self._token_ids)}


def _ragged(vectors, dtype):
    """Removes the padding after the vectors: returns a list with an array for each row."""
    counts = np.any(vectors != 0, axis=-1).sum(axis=1)
    return [row[:count].astype(dtype) for row, count in zip(vectors, counts, strict=True)]


def _mask_id(preprocessor):
    """Returns the id of the mask token; raises if there is none."""
    found = None if preprocessor is None else preprocessor.tokenizer.mask_token_id
    if found is None:
        expected = "False without a tokenizer that has a mask token to pad queries with"
        raise _check.invalid("augment_queries", expected, True)
    return int(found)


def _skipped_ids(skip_tokens, preprocessor):
    """Returns the ids of the tokens that get no vector in documents."""
    if isinstance(skip_tokens, str):
        _check.one_of("skip_tokens", skip_tokens, (_PUNCTUATION,), "Or pass a list of tokens.")
        vocabulary = () if preprocessor is None else preprocessor.tokenizer.vocabulary
        return [i for i, token in enumerate(vocabulary) if _without_prefix(token) in set(string.punctuation)]
    return sorted({token_id("skip_tokens", preprocessor, token) for token in skip_tokens})


def _without_prefix(token):
    prefix = next((each for each in _PREFIXES if token.startswith(each) and len(token) > len(each)), "")
    return token[len(prefix) :]
