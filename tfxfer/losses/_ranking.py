"""Losses that take the other rows of the batch as negatives, for rows of texts that belong together."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.losses import _base

QUERY_TO_DOCUMENT = "query_to_document"
# What each direction compares: the row's query or its positive document, with all queries or all documents.
DIRECTIONS = {
    QUERY_TO_DOCUMENT: ("query", "documents"),
    "document_to_query": ("positive", "queries"),
    "query_to_query": ("query", "queries"),
    "document_to_document": ("positive", "documents"),
}
# Sets of directions with a name of their own, and whether one softmax runs over all of them.
NAMED_DIRECTIONS = {
    QUERY_TO_DOCUMENT: ((QUERY_TO_DOCUMENT,), True),
    "symmetric": ((QUERY_TO_DOCUMENT, "document_to_query"), False),
    "all": (tuple(DIRECTIONS), True),
}
HARDNESS_MODES = ("all", "in_batch", "hard")


def _documents(y_pred):
    """All documents, column by column `(documents, dim)`, which of them are row i's own, and which its positive."""
    documents = ops.reshape(ops.transpose(y_pred[:, 1:], (1, 0, 2)), (-1, y_pred.shape[-1]))
    rows = ops.arange(ops.shape(y_pred)[0])
    positions = ops.expand_dims(ops.arange(ops.shape(documents)[0]), 0)
    own = positions % ops.shape(y_pred)[0] == ops.expand_dims(rows, 1)
    return documents, own, positions == ops.expand_dims(rows, 1)


def _directions(directions, joint):
    """Resolves and checks the argument `directions` to a tuple of directions, and `joint` to a bool."""
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
            "True with 'query_to_query' or 'document_to_document', which hold no positive that a softmax of their own "
            "could pick",
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
    """In-batch negatives: each query shall find its own document among all documents of the batch.

    `logsumexp_j S_ij - S_ii`, `S = scale * cos(Q, [D1; D2; ...])`: column 0 holds the queries, column 1 their
    documents, further columns hard negatives. `directions` widens the sum to other comparisons: the row's document with
    all queries, the row's query with the other queries, the row's document with the documents of other rows.

    Args:
        y_pred: float tensor `(batch, columns >= 2, dim)`.
        scale: float > 0. The inverse temperature, 20 by default.
        similarity: string. `"cosine"`, `"dot"` (then mind `scale`), or the name of a distance, whose negative is taken.
        directions: string or tuple. `"query_to_document"`; `"symmetric"` (also `"document_to_query"`, each in a softmax
            of its own); `"all"` (also `"query_to_query"` and `"document_to_document"`, in one softmax); or a tuple of
            these directions.
        joint: optional bool. Whether one softmax runs over all directions, or one over each and the mean is taken. By
            default as `directions` says; True for a tuple.
        hardness_strength: float >= 0. `hardness_strength * cos`, without gradient, is added to the logits of negative
            documents, so that hard ones weigh more. 0, the default, is off; 5 and 9 are used in the paper.
        hardness_mode: string. The negatives that get it: `"all"`, `"in_batch"` (of other rows) or `"hard"` (the row's
            own further columns).

    Returns:
        A tensor `(batch,)`.

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
    """Which documents are negatives that get a weight for being hard."""
    _check.one_of("hardness_mode", mode, HARDNESS_MODES)
    if mode == "in_batch":
        return ops.logical_not(own)
    return ops.logical_and(own, ops.logical_not(positive)) if mode == "hard" else ops.logical_not(positive)


def mega_batch_margin(y_pred: Any, positive_margin: float = 0.8, negative_margin: float = 0.3) -> Any:
    """The positive above one cosine, the hardest document of any other row below another.

    `max(0, positive_margin - cos(q, d)) + max(0, max over other documents of cos(q, d') - negative_margin)`; the row's
    own further columns count among the others.

    Args:
        y_pred: float tensor `(batch, columns >= 2, dim)`.
        positive_margin: float. The cosine that a pair shall reach.
        negative_margin: float. The cosine that no other document shall exceed.

    Returns:
        A tensor `(batch,)`; the second term is 0 in a batch of one pair.

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
    """In-batch negatives without those that a guide model takes for positives.

    As `multiple_negatives_ranking` with `scale = 1 / temperature` over query-document, query-query and
    document-document cosines; one is left out where the guide's cosine of the same two texts is above the guide's
    cosine of the row's own pair less `margin`. The pair itself is never left out.

    Args:
        y_true: float tensor `(batch, columns, guide_dim)`. The guide's embeddings of the same texts.
        y_pred: float tensor `(batch, columns >= 2, dim)`: query, document, hard negatives.
        temperature: float > 0.
        margin: float. How far below the pair's own guide cosine a negative has to be.
        relative: bool. Whether the margin is a share of that cosine.
        contrast_queries: bool. Whether queries are negatives of one another.
        contrast_documents: bool. Whether the documents of pairs are negatives of one another.

    Returns:
        A tensor `(batch,)`.

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
    """Each query shall find its own document among all of the batch (`multiple_negatives_ranking`).

    Also known as InfoNCE, NT-Xent or in-batch softmax. Rows with equal texts in one batch are false negatives of each
    other.

    Rows: two texts that belong together, further columns hard negatives; `y_true` is not read.

    Choose it: for search, paraphrases and question-answer pairs without labels; the first choice there. The larger the
    batch, the more negatives each query meets.

    Neighbours: `GISTEmbedLoss` leaves false negatives out, `MegaBatchMarginLoss` stops at margins, `TripletLoss` looks
    at the row's own negatives only. For pairs with scores `CoSENTLoss`.

    Args:
        scale: float > 0. The inverse temperature. Defaults to 20.
        similarity: string. `"cosine"` (default), `"dot"` (then mind `scale`), or the name of a distance, whose negative
            is taken.
        directions: string or tuple. `"query_to_document"` (default), best with hard negatives; `"symmetric"`, each
            document shall find its query too; `"all"`, one softmax over all comparisons, as in GTE, best with plain
            pairs; or a tuple of directions.
        joint: optional bool. One softmax over all directions, or the mean of one over each. By default as `directions`
            says; True for a tuple.
        hardness_strength: float >= 0. Weighs negative documents by how alike they are. Defaults to 0, off; 5 to 9 is
            usual.
        hardness_mode: string. The negatives that are weighed: `"all"` (default), `"in_batch"` or `"hard"`.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

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
    """Pairs above one cosine, the hardest other document of the batch below another (`mega_batch_margin`).

    Rows: two texts that belong together, further columns hard negatives; `y_true` is not read.

    Choose it: for paraphrase pairs and very large batches (500 and more), where the hardest negative is hard indeed.

    Neighbours: `MultipleNegativesRankingLoss` learns from all negatives and suits smaller batches.

    Args:
        positive_margin: float. The cosine that a pair shall reach. Defaults to 0.8.
        negative_margin: float. The cosine that no other document shall exceed. Defaults to 0.3.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

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
    """In-batch negatives without those that a guide model takes for positives (`gist_embed`).

    Rows: two texts that belong together, further columns hard negatives; `y_true` the guide's embeddings of all of them
    `(batch, columns, guide_dim)`.

    Choose it: for pairs of which many in one batch are about the same thing, with a good model at hand as guide.

    Neighbours: `MultipleNegativesRankingLoss` needs no guide; `EmbeddingDistillationLoss` copies the guide instead of
    asking it for negatives.

    Args:
        temperature: float > 0. Defaults to 0.01.
        margin: float. How far below the pair's own guide cosine a negative has to be. Defaults to 0; 0.05 leaves more
            out.
        relative: bool. Whether the margin is a share of that cosine. Defaults to False.
        contrast_queries: bool. Whether queries are negatives of one another. Defaults to True.
        contrast_documents: bool. Whether the documents of pairs are negatives of one another. Defaults to True.
        **kwargs: `reduction`, `name`, `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: for `y_true` that has not an embedding for each text.

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
