"""Losses with in-batch negatives, for rows of texts that belong together."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

QUERY_TO_DOCUMENT = "query_to_document"
# What each direction compares: the row's query or positive document, with all queries or all documents.
DIRECTIONS = {
    QUERY_TO_DOCUMENT: ("query", "documents"),
    "document_to_query": ("positive", "queries"),
    "query_to_query": ("query", "queries"),
    "document_to_document": ("positive", "documents"),
}
# Named sets of directions, and whether one softmax runs over all of them.
NAMED_DIRECTIONS = {
    QUERY_TO_DOCUMENT: ((QUERY_TO_DOCUMENT,), True),
    "symmetric": ((QUERY_TO_DOCUMENT, "document_to_query"), False),
    "all": (tuple(DIRECTIONS), True),
}
HARDNESS_MODES = ("all", "in_batch", "hard")


def _documents(y_pred):
    """Returns all documents by column `(documents, dim)` and masks of each row's own documents and its positive."""
    documents = ops.reshape(ops.transpose(y_pred[:, 1:], (1, 0, 2)), (-1, y_pred.shape[-1]))
    rows = ops.arange(ops.shape(y_pred)[0])
    positions = ops.expand_dims(ops.arange(ops.shape(documents)[0]), 0)
    own = positions % ops.shape(y_pred)[0] == ops.expand_dims(rows, 1)
    return documents, own, positions == ops.expand_dims(rows, 1)


def _directions(directions, joint):
    """Checks `directions` and `joint`; returns them as a tuple of directions and a bool."""
    named = NAMED_DIRECTIONS.get(directions) if isinstance(directions, str) else None
    listed = named[0] if named else [directions] if isinstance(directions, str) else list(directions)
    if not set(listed) <= set(DIRECTIONS) or QUERY_TO_DOCUMENT not in listed or len(set(listed)) < len(listed):
        raise _check.invalid(
            "directions",
            f"one of {', '.join(map(repr, NAMED_DIRECTIONS))}, or a tuple with {QUERY_TO_DOCUMENT!r} out of "
            f"{', '.join(map(repr, DIRECTIONS))}",
            directions,
        )
    joint = (named[1] if named else True) if joint is None else _check.instance("joint", joint, bool, "a bool or None")
    if not joint and {"query_to_query", "document_to_document"} & set(listed):
        raise _check.invalid(
            "joint",
            "True with 'query_to_query' or 'document_to_document', which hold no positive for a separate softmax",
            joint,
        )
    return tuple(listed), joint


def multiple_negatives_ranking(
    y_pred: Any,
    scale: float = 20.0,
    *,
    similarity: str = "cosine",
    directions: str | Sequence[str] = QUERY_TO_DOCUMENT,
    joint: bool | None = None,
    hardness_strength: float = 0.0,
    hardness_mode: str = "all",
) -> Any:
    """In-batch negatives: each query should score its own document above all others in the batch.

    `logsumexp_j S_ij - S_ii`, `S = scale * cos(Q, [D1; D2; ...])`: column 0 holds the queries, column 1 their
    documents, further columns hard negatives. `directions` extends the sum to other comparisons: the row's document
    with all queries, the row's query with the other queries, the row's document with the documents of other rows.

    Args:
        y_pred: float tensor `(batch, columns >= 2, dim)`.
        scale: float > 0. The inverse temperature, 20 by default.
        similarity: string. `"cosine"`, `"dot"` (then adjust `scale`), or the name of a distance, which is negated.
        directions: string or tuple. `"query_to_document"`; `"symmetric"` (adds `"document_to_query"`, in a separate
            softmax); `"all"` (also adds `"query_to_query"` and `"document_to_document"`, in one softmax); or a tuple of
            these directions.
        joint: optional bool. Whether one softmax runs over all directions; otherwise one runs over each and their mean
            is taken. By default a named set of `directions` decides; True for a tuple.
        hardness_strength: float >= 0. `hardness_strength * cos`, without gradient, is added to the logits of negative
            documents, so that hard ones weigh more. 0, the default, turns it off; the paper uses 5 and 9.
        hardness_mode: string. The negatives it applies to: `"all"`, `"in_batch"` (of other rows) or `"hard"` (the row's
            own further columns).

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `y_pred` has fewer than 2 columns; if `similarity`, `directions` or `hardness_mode` is unknown;
            if `joint` is False with directions that need one softmax.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], "float32")
    >>> [round(float(x), 4) for x in multiple_negatives_ranking(pairs)]  # both documents are alike: log 2
    [0.6931, 0.6931]
    """
    y_pred = _base.columns(y_pred, 2, "multiple_negatives_ranking")
    directions, joint = _directions(directions, joint)
    documents, own, positive = _documents(y_pred)
    compare = _ops.PAIRWISE_SIMILARITIES[_check.one_of("similarity", similarity, _ops.SIMILARITIES)]
    parts = {"query": y_pred[:, 0], "positive": y_pred[:, 1], "queries": y_pred[:, 0], "documents": documents}
    itself = own[:, : ops.shape(y_pred)[0]]
    masked = {"query_to_query": itself, "document_to_document": own}
    logits, keep = [], []
    for direction in directions:
        left, right = DIRECTIONS[direction]
        raw = compare(parts[left], parts[right])
        logits.append(scale * raw)
        keep.append(ops.logical_not(masked.get(direction, ops.zeros_like(raw, dtype="bool"))))
        if direction == QUERY_TO_DOCUMENT:
            reached = ops.sum(ops.where(positive, logits[-1], ops.zeros_like(raw)), axis=1)
            if hardness_strength:
                chosen = _hardness(hardness_mode, own, positive)
                logits[-1] += ops.where(chosen, hardness_strength * ops.stop_gradient(raw), ops.zeros_like(raw))
    if joint:
        return _ops.masked_logsumexp(ops.concatenate(logits, axis=1), ops.concatenate(keep, axis=1)) - reached
    sums = [_ops.masked_logsumexp(x, mask) for x, mask in zip(logits, keep, strict=True)]
    return sum(sums) / len(sums) - reached


def _hardness(mode, own, positive):
    """Returns the mask of the negatives that are weighted by hardness."""
    _check.one_of("hardness_mode", mode, HARDNESS_MODES)
    if mode == "in_batch":
        return ops.logical_not(own)
    return ops.logical_and(own, ops.logical_not(positive)) if mode == "hard" else ops.logical_not(positive)


def mega_batch_margin(y_pred: Any, positive_margin: float = 0.8, negative_margin: float = 0.3) -> Any:
    """Pushes each pair's cosine above one margin and that of the hardest negative below another.

    `max(0, positive_margin - cos(q, d)) + max(0, max over other documents of cos(q, d') - negative_margin)`; the others
    include the row's own further columns.

    Args:
        y_pred: float tensor `(batch, columns >= 2, dim)`.
        positive_margin: float. The cosine that a pair should reach.
        negative_margin: float. The cosine that no other document should exceed.

    Returns:
        A tensor `(batch,)`; the second term is 0 in a batch of one pair.

    Raises:
        ValueError: if `y_pred` has fewer than 2 columns.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], "float32")
    >>> [round(float(x), 4) for x in mega_batch_margin(pairs)]
    [0.7, 0.8]
    """
    y_pred = _base.columns(y_pred, 2, "mega_batch_margin")
    documents, _, positive = _documents(y_pred)
    cosines = _ops.pairwise_cosine_similarity(y_pred[:, 0], documents)
    reached = _ops.masked_max(cosines, positive)
    negative = ops.logical_not(positive)
    push = ops.relu(_ops.masked_max(cosines, negative) - negative_margin)
    push = ops.where(ops.any(negative, axis=1), push, ops.zeros_like(push))
    return ops.relu(positive_margin - reached) + push


def gist_embed(
    y_true: Any,
    y_pred: Any,
    temperature: float = 0.01,
    *,
    margin: float = 0.0,
    relative: bool = False,
    contrast_queries: bool = True,
    contrast_documents: bool = True,
) -> Any:
    """In-batch negatives, except those that a guide model considers positives.

    Like `multiple_negatives_ranking` with `scale = 1 / temperature` over query-document, query-query and
    document-document cosines. A cosine is ignored if the guide's cosine of the same two texts exceeds the guide's
    cosine of the row's own pair minus `margin`. The pair itself always counts.

    Args:
        y_true: float tensor `(batch, columns, guide_dim)`. The guide's embeddings of the same texts.
        y_pred: float tensor `(batch, columns >= 2, dim)`: query, document, hard negatives.
        temperature: float > 0.
        margin: float. How far below the guide's cosine of the pair a negative must be.
        relative: bool. Whether the margin is relative to that cosine.
        contrast_queries: bool. Whether queries are negatives of each other.
        contrast_documents: bool. Whether the documents of pairs are negatives of each other.

    Returns:
        A tensor `(batch,)`.

    Raises:
        ValueError: if `y_pred` has fewer than 2 columns, or `y_true` does not hold an embedding for each text.

    >>> pairs = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]], "float32")
    >>> [round(float(x), 4) for x in gist_embed(pairs, pairs)]  # twice the same text: as the guide is not surer, log 4
    [1.3863, 1.3863]
    >>> guide = np.array([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.6, 0.8]]], "float32")
    >>> [round(float(x), 4) for x in gist_embed(guide, pairs, margin=0.1)]  # the guide finds no negative
    [0.0, 0.0]
    """
    y_pred = _base.columns(y_pred, 2, "gist_embed")
    guide = _base.embeddings(y_true, y_pred, "guide")
    documents, own, positive = _documents(y_pred)
    guide_documents, _, _ = _documents(guide)
    itself = own[:, : ops.shape(y_pred)[0]]
    cosine = _ops.pairwise_cosine_similarity
    guided = cosine(guide[:, 0], guide_documents)
    pair = ops.expand_dims(_ops.masked_max(guided, positive), 1)
    limit = pair - margin * (ops.abs(pair) if relative else 1.0)
    logits = [cosine(y_pred[:, 0], documents)]
    keep = [ops.logical_or(guided <= limit, positive)]
    for column, contrasted in ((0, contrast_queries), (1, contrast_documents)):
        if contrasted:
            logits.append(cosine(y_pred[:, column], y_pred[:, column]))
            known = cosine(guide[:, column], guide[:, column]) <= limit
            keep.append(ops.logical_and(known, ops.logical_not(itself)))
    reached = _ops.masked_max(logits[0], positive) / temperature
    logits, keep = ops.concatenate(logits, axis=1) / temperature, ops.concatenate(keep, axis=1)
    return _ops.masked_logsumexp(logits, keep) - reached


@keras.saving.register_keras_serializable("tfxfer")
class MultipleNegativesRankingLoss(_base.CheckedLoss):
    """Each query should score its own document above all others in the batch (`multiple_negatives_ranking`).

    Also known as InfoNCE, NT-Xent or in-batch softmax. Rows with equal texts in one batch become false negatives of
    each other.

    Rows: two texts that belong together, further columns hold hard negatives; `y_true` is ignored.

    Choose it: for search, paraphrases and question-answer pairs without labels, as the first choice. A larger batch
    gives each query more negatives.

    See also: `GISTEmbedLoss` ignores false negatives, `MegaBatchMarginLoss` stops at margins, and `TripletLoss` uses
    only the row's own negatives. `CoSENTLoss` suits pairs with scores.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.
        similarity: string. `"cosine"` (default), `"dot"` (then adjust `scale`), or the name of a distance, which is
            negated.
        directions: string or tuple. `"query_to_document"` (default), best with hard negatives; `"symmetric"`, in which
            each document should also find its query; `"all"`, one softmax over all comparisons, as in GTE, best with
            plain pairs; or a tuple of directions.
        joint: optional bool. Whether one softmax runs over all directions; otherwise one runs over each and their mean
            is taken. By default a named set of `directions` decides; True for a tuple.
        hardness_strength: float >= 0. Weights negative documents by their similarity. Defaults to 0 (off); 5 to 9 is
            usual.
        hardness_mode: string. The negatives that are weighted: `"all"` (default), `"in_batch"` or `"hard"`.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `scale` is not above 0; if `similarity`, `directions` or `hardness_mode` is unknown; if `joint`
            is False with directions that need one softmax; if `y_pred` has fewer than 2 columns.

    Example:

    ```python
    model = tx.models.Siamese(embedder)
    model.compile("adamw", loss=tx.losses.MultipleNegativesRankingLoss(directions="symmetric"))
    ```

    Reference: Henderson et al., 2017, Efficient Natural Language Response Suggestion, https://arxiv.org/abs/1705.00652;
    all directions: Li et al., 2023, https://arxiv.org/abs/2308.03281; hardness: Lan et al., 2025,
    https://arxiv.org/abs/2503.04812.
    """

    labels = None

    def __init__(
        self,
        scale: float = 20.0,
        *,
        similarity: str = "cosine",
        directions: str | Sequence[str] = QUERY_TO_DOCUMENT,
        joint: bool | None = None,
        hardness_strength: float = 0.0,
        hardness_mode: str = "all",
        name: str = "multiple_negatives_ranking",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = _check.number("scale", scale, above=0.0)
        self.similarity = _check.one_of("similarity", similarity, _ops.SIMILARITIES)
        _directions(directions, joint)
        self.directions = directions if isinstance(directions, str) else tuple(directions)
        self.joint = joint
        self.hardness_strength = _check.number("hardness_strength", hardness_strength, minimum=0.0)
        self.hardness_mode = _check.one_of("hardness_mode", hardness_mode, HARDNESS_MODES)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return multiple_negatives_ranking(
            y_pred,
            self.scale,
            similarity=self.similarity,
            directions=self.directions,
            joint=self.joint,
            hardness_strength=self.hardness_strength,
            hardness_mode=self.hardness_mode,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "similarity": self.similarity,
            "directions": self.directions,
            "joint": self.joint,
            "hardness_strength": self.hardness_strength,
            "hardness_mode": self.hardness_mode,
        }


@keras.saving.register_keras_serializable("tfxfer")
class MegaBatchMarginLoss(_base.CheckedLoss):
    """Pushes each pair's cosine above one margin and the hardest negative's below another (`mega_batch_margin`).

    Rows: two texts that belong together, further columns hold hard negatives; `y_true` is ignored.

    Choose it: for paraphrase pairs in very large batches (500 and more), where the hardest negative is really hard.

    See also: `MultipleNegativesRankingLoss` learns from all negatives and suits smaller batches.

    Args:
        positive_margin: float. The cosine that a pair should reach. Defaults to 0.8.
        negative_margin: float. The cosine that no other document should exceed. Defaults to 0.3.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if a margin is outside `[-1, 1]`, or `y_pred` has fewer than 2 columns.

    Example:

    ```python
    model.compile("adamw", loss=tx.losses.MegaBatchMarginLoss())
    ```

    Reference: Wieting and Gimpel, 2018, ParaNMT-50M, https://arxiv.org/abs/1711.05732.
    """

    labels = None

    def __init__(
        self,
        positive_margin: float = 0.8,
        negative_margin: float = 0.3,
        *,
        name: str = "mega_batch_margin",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.positive_margin = _check.number("positive_margin", positive_margin, minimum=-1.0, maximum=1.0)
        self.negative_margin = _check.number("negative_margin", negative_margin, minimum=-1.0, maximum=1.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return mega_batch_margin(y_pred, self.positive_margin, self.negative_margin)

    def get_config(self) -> dict[str, Any]:
        margins = {"positive_margin": self.positive_margin, "negative_margin": self.negative_margin}
        return {**super().get_config(), **margins}


@keras.saving.register_keras_serializable("tfxfer")
class GISTEmbedLoss(_base.CheckedLoss):
    """In-batch negatives, except those that a guide model considers positives (`gist_embed`).

    Rows: two texts that belong together, further columns hold hard negatives; `y_true` the guide's embeddings of all
    texts `(batch, columns, guide_dim)`.

    Choose it: for batches with many pairs on the same topic, if a good guide model is available.

    See also: `MultipleNegativesRankingLoss` needs no guide; `EmbeddingDistillationLoss` copies the guide's embeddings
    instead of filtering negatives by them.

    Args:
        temperature: float > 0. Defaults to 0.01.
        margin: float. How far below the guide's cosine of the pair a negative must be. Defaults to 0; 0.05 filters more
            negatives.
        relative: bool. Whether the margin is relative to that cosine. Defaults to False.
        contrast_queries: bool. Whether queries are negatives of each other. Defaults to True.
        contrast_documents: bool. Whether the documents of pairs are negatives of each other. Defaults to True.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Raises:
        ValueError: if `y_true` does not hold an embedding for each text.

    Example:

    ```python
    guide = np.stack([guide.encode(queries), guide.encode(documents)], axis=1)
    model.compile("adamw", loss=tx.losses.GISTEmbedLoss())
    model.fit((queries, documents), guide)
    ```

    Reference: Solatorio, 2024, GISTEmbed, https://arxiv.org/abs/2402.16829.
    """

    def __init__(
        self,
        temperature: float = 0.01,
        *,
        margin: float = 0.0,
        relative: bool = False,
        contrast_queries: bool = True,
        contrast_documents: bool = True,
        name: str = "gist_embed",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = _check.number("temperature", temperature, above=0.0)
        self.margin = _check.number("margin", margin)
        self.relative = _check.instance("relative", relative, bool, "a bool")
        self.contrast_queries = _check.instance("contrast_queries", contrast_queries, bool, "a bool")
        self.contrast_documents = _check.instance("contrast_documents", contrast_documents, bool, "a bool")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        arguments = self._arguments()
        return gist_embed(y_true, y_pred, arguments.pop("temperature"), **arguments)

    def _arguments(self):
        names = ("temperature", "margin", "relative", "contrast_queries", "contrast_documents")
        return {name: getattr(self, name) for name in names}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments()}
