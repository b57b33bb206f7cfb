"""Maps the vectors of a new embedder into the space of an existing index."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _regression, _texts
from tfxfer.search import _index, _top_k

METHODS = ("affine", "orthogonal")
_KS = (1, 10)
# Tolerance for a vector's length to count as 1.
_UNIT = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """A map from the vectors of a new embedder into the space of an old one, created by `align`.

    Called with vectors of the new embedder, float `(rows, new dim)`, it returns vectors in the old space, float32
    `(rows, old dim)`.

    Args:
        kernel: float32 array `(new dim, old dim)`.
        bias: float32 array `(old dim,)`, or `None`.
        normalize: bool. Whether mapped vectors are scaled to length 1, as the old ones are.
        method: `"affine"` or `"orthogonal"`.
        scores: dict of scores that measure the cost of the map; see `align`.

    Example:

    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
    >>> alignment = Alignment(swap, None, normalize=False, method="orthogonal", scores={})
    >>> alignment([[1.0, 2.0]]).tolist()
    [[2.0, 1.0]]
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    normalize: bool
    method: str
    scores: dict[str, Any]

    def __call__(self, vectors: ArrayLike) -> np.ndarray:
        vectors = _neighbours.matrix("vectors", vectors)
        if vectors.shape[1] != len(self.kernel):
            expected = f"vectors of the new embedder, of {len(self.kernel)} components"
            raise _check.invalid("vectors", expected, vectors.shape)
        mapped = vectors @ self.kernel + (0.0 if self.bias is None else self.bias)
        return (_neighbours.unit(mapped) if self.normalize else mapped).astype("float32")

    def modules(self) -> list[dict[str, Any]]:
        """Returns the map as embedder modules, a list of dicts; see `backbones.EmbeddingSpec`."""
        weights = {"kernel": self.kernel, "bias": self.bias}
        dense = {"class": "Dense", "units": self.kernel.shape[1], "use_bias": self.bias is not None, **weights}
        return [dense, *([{"class": "Normalize"}] if self.normalize else [])]

    def embedder(self, new: Any) -> Any:
        """Returns the new embedder with the map appended: it encodes texts into the space of the old index.

        The result is a regular model: `encode`, `.keras` files, presets and exports include the map. It shares the
        layers of `new`, whose own vectors do not change.

        Args:
            new: the `models.TextEmbedder` that the map was fitted for; of a `models.Siamese`, its embedder is used.

        Raises:
            ValueError: if `new` is not such an embedder, or its vectors have another size.
        """
        new = _texts.embedder_of(new)
        if new is None or not hasattr(new, "embedding_spec") or not hasattr(new, "embedding_dim"):
            raise _check.invalid("new", "a `models.TextEmbedder`", new)
        if new.embedding_dim != len(self.kernel):
            expected = f"an embedder with vectors of {len(self.kernel)} components"
            raise _check.invalid("new", expected, new.embedding_dim)
        spec = new.embedding_spec()
        config = {**new.get_config(), "modules": [*spec.modules, *self.modules()], "layer_weights": spec.layer_weights}
        return type(new).from_config({**config, "backbone": new.backbone, "preprocessor": new.preprocessor})


def align(
    old: Any,
    new: Any,
    texts: Sequence[str] | None = None,
    *,
    method: Literal["affine", "orthogonal"] = "affine",
    held_out: float = 0.2,
    ks: Sequence[int] = _KS,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Alignment:
    """Fits a map from a new embedder's vectors into the space of an old index, and measures its cost in recall.

    A new embedder normally requires encoding the whole index again, because vectors of two models are not comparable.
    If that takes long, queries of the new embedder can search the old index through a map. **The map goes from new to
    old**: it approximates the old embedder's vector of a text from the new embedder's vector.

    | `method` | map | when |
    |---|---|---|
    | `"affine"` | `x A + b`, by ridge regression with a penalty chosen by cross-validation | several times as many texts as components |
    | `"orthogonal"` | `x Q`, `Q` the best rotation onto the old vectors (Procrustes); for different sizes, orthonormal rows or columns | few texts: it preserves cosines between new vectors |

    With 680 captions as queries for their pairs among 3,000, all-MiniLM-L6-v2 has a recall@10 of 0.741. Its first five
    blocks, fine-tuned, have 0.653 in their own index. In the old index they have 0.532 without a map, 0.585 with the
    orthogonal one and 0.665 with the affine one (`benchmarks/align.py`).

    Args:
        old: the content of the index: a `search.SemanticIndex` (whose texts are used), its vectors as a float array
            `(texts, dim)`, or the embedder that computed them.
        new: the new embedder; or its vectors of the texts, a float array `(texts, dim)`.
        texts: list of strings, at least 5 different ones, similar to those in the index. Not needed if `old` is an
            index or if both sides are arrays.
        method: `"affine"` (default) or `"orthogonal"`; see the table.
        held_out: float between 0 and 1. The fraction of texts held out for the scores, which are those of a map fitted
            on the other texts. The returned map is fitted on all texts.
        ks: ints. Rank cutoffs of the recall.
        seed: int. Seed of the choice of held-out texts.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        `Alignment`. Its `scores` use held-out texts as queries, which search the old vectors of all other texts:
        `recall@k`, the fraction of the old embedder's k nearest texts that are also found through the map;
        `unaligned_recall@k`, the same without the map if both embedders' vectors have one size, else `None`; `cosine`,
        the mean cosine between mapped and old vectors; and `texts` and `queries`, their numbers. These scores do not
        credit results of the new embedder that are better than the old one's. To measure the quality of the search
        itself, use labeled queries and `evaluation.retrieval_scores`.

    Raises:
        ValueError: if there are too few texts, vectors do not match, or the index contains only binary codes.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> new = rng.normal(size=(200, 4))
    >>> old = new @ rng.normal(size=(4, 3))
    >>> tx.search.align(old, new, ks=(1,)).scores["recall@1"]
    1.0

    ```python
    found = tx.search.align(index, new_embedder)
    found.scores["recall@10"]
    aligned = found.embedder(new_embedder)
    searched = tx.search.SemanticIndex(aligned, index.texts, embeddings=index.vectors)
    tx.export.saved_model(aligned, "serving/faq", index={"texts": index.texts, "embeddings": index.vectors})
    ```

    References:
        - [Schönemann, 1966](https://doi.org/10.1007/BF02289451), orthogonal Procrustes
        - [Smith et al., 2017](https://arxiv.org/abs/1702.03859), for word vectors
        - [Shen et al., 2020](https://arxiv.org/abs/2003.11942), indexes without re-encoding
    """  # noqa: E501  (a table's row)
    _check.one_of("method", method, METHODS)
    if not 0 < _check.number("held_out", held_out) < 1:
        raise _check.invalid("held_out", "a number > 0 and < 1", held_out)
    _check.integer("seed", seed, minimum=0)
    first, second = _pairs(old, new, texts, batch_size, progress)
    count = len(first)
    queries = max(1, round(held_out * count))
    ks = sorted({_check.integer("ks", k) for k in ([ks] if isinstance(ks, int) else ks)})
    if count < 5 or not ks or ks[-1] >= count:
        raise _check.invalid("texts", f"at least {max([5, *(k + 1 for k in ks)])} different texts", count)
    order = np.random.default_rng(seed).permutation(count)
    out, kept = np.sort(order[:queries]), np.sort(order[queries:])
    normalize = bool(np.all(np.abs(np.linalg.norm(first, axis=1) - 1) < _UNIT))
    kernel, bias = _fitted(first[kept], second[kept], method, normalize)
    scores = _scores(first, second, Alignment(kernel, bias, normalize, method, {}), out, ks)
    kernel, bias = _fitted(first, second, method, normalize)
    return Alignment(kernel, bias, normalize, method, scores)


def _pairs(old, new, texts, batch_size, progress):
    """Returns the vectors of different texts by the old and the new embedder, float64."""
    if isinstance(old, _index.SemanticIndex):
        if texts is not None:
            raise _check.invalid("texts", "None if `old` is an index, whose texts are used", texts)
        texts, old = old.texts, old.vectors
    sides, chosen, kept = {"old": old, "new": new}, None, None
    if texts is not None or not all(hasattr(side, "shape") for side in sides.values()):
        chosen = _texts.strings("texts", [] if texts is None else texts)
        first: dict[str, int] = {}
        for i, text in enumerate(chosen):
            first.setdefault(text, i)
        kept = list(first.values())
    found = []
    for name, side in sides.items():
        if hasattr(side, "shape"):
            vectors = _neighbours.matrix(name, side)
            if chosen is not None and len(vectors) != len(chosen):
                raise _check.invalid(name, f"{len(chosen)} vectors, one for each text", vectors.shape)
            vectors = vectors if kept is None else vectors[kept]
        else:
            prompt = _texts.prompt_for(_texts.embedder_of(side), None, _texts.DOCUMENT_PROMPTS)
            asked = [(chosen or [])[i] for i in kept or ()]
            vectors = _texts.encode(side, asked, batch_size=batch_size, prompt=prompt, progress=progress)
        found.append(vectors.astype("float64"))
    if len(found[0]) != len(found[1]):
        raise _check.invalid("new", f"{len(found[0])} vectors, as in `old`", found[1].shape)
    return found


def _fitted(old, new, method, normalize):
    """Returns the kernel and bias of the map from new to old vectors."""
    if method == "affine":
        fit = _regression.fit(new, old, kind="numbers")
        return fit.kernel.astype("float32"), fit.bias.astype("float32")
    left, values, right = np.linalg.svd(new.T @ old, full_matrices=False)
    kernel = left @ right
    if not normalize:  # lengths matter: apply the best factor
        kernel *= values.sum() / max(np.sum(np.square(new @ kernel)), 1e-12)
    return kernel.astype("float32"), None


def _scores(old, new, alignment, queries, ks):
    """Returns the scores of the map on the queries, which are rows of both sides; see `align`."""
    mapped = alignment(new[queries])
    expected = _found(old[queries], old, queries, ks[-1])
    scores: dict[str, Any] = {}
    for name, vectors in (("recall", mapped), ("unaligned_recall", new[queries])):
        if vectors.shape[1] != old.shape[1]:
            scores |= {f"{name}@{k}": None for k in ks}
            continue
        found = _found(vectors, old, queries, ks[-1])
        for k in ks:
            same = [
                len(set(one) & set(other))
                for one, other in zip(found[:, :k].tolist(), expected[:, :k].tolist(), strict=True)
            ]
            scores[f"{name}@{k}"] = float(np.mean(same)) / k
    cosine = _neighbours.paired(mapped, old[queries], "cosine")
    return {**scores, "cosine": float(cosine.mean()), "texts": len(old), "queries": len(queries)}


def _found(vectors, corpus, own, k):
    """Returns the k nearest rows of a corpus, excluding the query's own, int `(queries, k)`."""
    ids = _top_k.top_k(vectors, corpus, k + 1).ids
    # Drop the query itself from the k + 1 nearest or, if it is not among them, the last one.
    is_own = ids == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return ids[~is_own].reshape(len(ids), k)
