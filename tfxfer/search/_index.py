"""A corpus of texts that is searched by meaning."""

import collections
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _disk, _neighbours, _saved_index, _texts
from tfxfer._saved_index import BACKENDS, RESCORE
from tfxfer.search import _faiss, _quantize, _top_k

Hits = collections.namedtuple("Hits", ["ids", "scores", "texts"])
Hits.__doc__ = "What `SemanticIndex.search` returns: ids, scores and texts, the best first."

# What is saved of an index beside its texts and vectors.
_PUBLIC = ("precision", "rescore", "multiplier", "similarity", "backend")
_PRIVATE = ("factory", "query_prompt", "document_prompt")
# Texts whose float vectors are held at a time while the index is made of codes.
_PART = 50_000


class SemanticIndex:
    """Holds the vectors of texts, as floats or as small codes, and finds the nearest ones to a query.

    | precision | memory | search |
    |---|---|---|
    | `"float32"` | 4 bytes a component | exact |
    | `"int8"` | 1 byte | exact over the rounded values, with float queries; `rescore="float32"` looks again |
    | `"binary"` | 1 bit | by the number of equal signs; the best `k * multiplier` are looked at again by `rescore` |

    nDCG@10 of all-MiniLM-L6-v2 where 680 captions look for their pair among 13,355 (`benchmarks/search.py`): float32
    0.385; int8 0.385; binary 0.339, re-scored by the bits themselves (which costs no memory) 0.361, by int8 0.385.

    Args:
        embedder: `models.TextEmbedder`, or anything with `encode(list of strings) -> (texts, dim)`. `None` where
            `embeddings` are given and queries are vectors.
        texts: list or other iterable of strings.
        embeddings: float array `(texts, dim)`: the vectors, where they are there already.
        precision: `"float32"`, `"int8"` or `"binary"`.
        rescore: `None`, or what the candidates are scored by again, with float queries: `"binary"`, `"int8"` or
            `"float32"`; the last two are held as well. The scores returned are the new ones. `"default"` is `"binary"`
            for binary codes, `None` for the others.
        multiplier: int. How many candidates are looked at again, times k. Defaults to 10, with which binary codes
            re-scored by int8 lose nothing in the figures above; 4 lose 0.006 of recall@10.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        calibration: float array of typical vectors: the ranges for int8. Defaults to the first 50,000 of the corpus.
        backend: `"exact"`, or `"faiss"` where that package is installed: worth it from some million texts on.
        factory: string, faiss's name of an index, e.g. `"HNSW32"` or `"IVF4096,Flat"`; it may be approximate. Defaults
            to an exhaustive search.
        query_prompt: string set before each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string set before each text. Defaults to the embedder's prompt `"document"`, `"passage"` or
            `"corpus"`, if it has one.
        batch_size: int. Texts computed at a time.
        progress: bool. Whether to show progress bars; by default on long work.

    Raises:
        ValueError: for an empty corpus, something that is no text, vectors that do not fit, or a re-scoring that the
            precision does not have.
        ImportError: for `backend="faiss"` without faiss; it names the package.

    Example:

    ```python
    index = tx.search.SemanticIndex(embedder, texts, precision="binary")
    hits = index.search("Where is my card?", k=3)
    for text, score in zip(hits.texts, hits.scores):
        print(round(float(score), 3), text)
    index.save("index")
    index = tx.search.SemanticIndex.load("index", embedder)
    ```

    Reference: Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084; Yamada et al., 2021, on binary codes that
    are scored again, https://arxiv.org/abs/2106.00882; Douze et al., 2024, faiss, https://arxiv.org/abs/2401.08281.
    """

    def __init__(
        self,
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: ArrayLike | None = None,
        precision: Literal["float32", "int8", "binary"] = "float32",
        rescore: str = "default",
        multiplier: int = 10,
        similarity: str = "cosine",
        calibration: ArrayLike | None = None,
        backend: Literal["exact", "faiss"] = "exact",
        factory: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        _check.one_of("precision", precision, RESCORE)
        rescore = ("binary" if precision == "binary" else None) if rescore == "default" else rescore
        if rescore not in RESCORE[precision]:
            options = ", ".join(map(repr, RESCORE[precision]))
            raise _check.invalid("rescore", f"one of {options} for precision={precision!r}", rescore)
        _check.one_of("similarity", similarity, ("cosine",) if precision == "binary" else _neighbours.SIMILARITIES)
        _check.one_of("backend", backend, BACKENDS)
        if factory is not None and backend != "faiss":
            raise _check.invalid("factory", "None unless `backend='faiss'`", factory)
        if backend == "faiss":
            _faiss.load()
        self.embedder = embedder
        self.texts = []
        self.precision, self.rescore, self.similarity, self.backend = precision, rescore, similarity, backend
        self.multiplier = _check.integer("multiplier", multiplier)
        self._factory = factory
        self._query_prompt, self._document_prompt = query_prompt, document_prompt
        self._calibration: Any = calibration
        self._searched: Any = None  # array, `Quantized` or `FaissIndex`
        self._rescoring: Any = None  # array or `Quantized`
        self.add(texts, embeddings=embeddings, batch_size=batch_size, progress=progress)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self):
        return f"SemanticIndex({len(self)} texts, {self.precision}, rescore={self.rescore}, {self.backend})"

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors or codes that are held; what faiss holds is not counted."""
        return sum(getattr(part, "nbytes", 0) for part in self._parts())

    def add(
        self,
        texts: Iterable[str],
        *,
        embeddings: ArrayLike | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        """Adds texts; their ids go on from those that are there. int8 codes keep the ranges of the first ones.

        Args:
            texts: list or other iterable of strings.
            embeddings: float array `(texts, dim)`, where the vectors are there already.
            batch_size: int. Texts computed at a time.
            progress: bool. Whether to show a progress bar; by default on long work.
        """
        texts = _texts.strings("texts", texts)
        if embeddings is not None:
            embeddings = _neighbours.matrix("embeddings", embeddings)
            if len(embeddings) != len(texts):
                raise _check.invalid("embeddings", f"{len(texts)} vectors, one for each text", embeddings.shape)
        prompt = _texts.prompt_for(self.embedder, self._document_prompt, _texts.DOCUMENT_PROMPTS)
        searched, rescoring = [], []
        for start in range(0, len(texts), _PART):
            part = slice(start, start + _PART)
            if embeddings is None:
                vectors = _texts.encode(
                    self.embedder, texts[part], batch_size=batch_size, prompt=prompt, progress=progress
                )
            else:
                vectors = embeddings[part]
            self._add(vectors, searched, rescoring)
        self._searched = self._joined(self._searched, searched)
        self._rescoring = self._joined(self._rescoring, rescoring)
        self.texts.extend(texts)

    def _add(self, vectors, searched, rescoring):
        vectors = _neighbours.matrix("embeddings", vectors).astype("float32", copy=False)
        if self._searched is not None:
            _top_k.check_dim("embeddings", vectors, self.embedding_dim)
        if self.similarity == "cosine":
            vectors = _neighbours.unit(vectors)
        codes = {None: None, "float32": vectors}
        if "int8" in (self.precision, self.rescore):
            codes["int8"] = _quantize.quantize(vectors, "int8", calibration=self._ranges(vectors))
        if "binary" in (self.precision, self.rescore):
            codes["binary"] = _quantize.quantize(vectors, "binary")
        if self.backend == "faiss":
            if self._searched is None:
                self._searched = _faiss.FaissIndex(vectors.shape[1], self.precision, self.similarity, self._factory)
            # faiss rounds by itself: it is given floats for its own int8.
            self._searched.add(codes["binary"] if self.precision == "binary" else vectors)
        else:
            searched.append(codes[self.precision])
        if self.rescore is not None and (self.rescore != self.precision or self.backend == "faiss"):
            rescoring.append(codes[self.rescore])

    def _ranges(self, vectors):
        if not isinstance(self._calibration, _quantize.Quantized):
            typical = vectors if self._calibration is None else self._calibration
            typical = _neighbours.matrix("calibration", typical)
            typical = _neighbours.unit(typical) if self.similarity == "cosine" else typical
            self._calibration = _quantize.quantize(typical[:1], "int8", calibration=typical)
        return self._calibration

    def _joined(self, old, parts):
        return _quantize.concatenate(([] if old is None else [old]) + parts) if parts else old

    def _parts(self):
        return [part for part in (self._searched, self._rescoring) if part is not None]

    @property
    def embedding_dim(self) -> int:
        """Components of a vector."""
        searched = self._searched
        return searched.dim if isinstance(searched, _faiss.FaissIndex) else searched.shape[1]

    @property
    def vectors(self) -> np.ndarray:
        """The finest vectors that are held, float32 `(texts, dim)`: of int8 codes the rounded ones.

        With a cosine they have length 1.

        Raises:
            ValueError: for an index that holds binary codes alone, or leaves its vectors to faiss.
        """
        for part in (self._rescoring, self._searched):
            if isinstance(part, np.ndarray) or getattr(part, "precision", None) == "int8":
                return _quantize.floats(part)
        raise _check.invalid("index", "an index with float32 or int8 vectors of its own", self)

    def search(
        self,
        queries: str | Sequence[str] | np.ndarray,
        k: int = 10,
        *,
        reranker: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the texts nearest to each query.

        Args:
            queries: a string, a list of strings, or a float array of vectors `(dim,)` or `(queries, dim)`.
            k: int, at most the number of texts.
            reranker: optional cross-encoder that scores the best `k * multiplier` again and puts them in order: a
                `models.TextRegressor` over pairs, a `models.TextClassifier` of two labels (the second counts), or a
                function of two lists of strings to a number for each row. Needs queries that are texts.
            batch_size: int. Texts computed at a time.
            progress: bool. Whether to show progress bars; by default on long work.

        Returns:
            `Hits(ids, scores, texts)`: for one query int64 and float32 `(k,)` and a list of k strings; for several
            `(queries, k)` and a list of lists. The best first, of equal scores the lower id (with faiss: as faiss has
            it; where an approximate index finds fewer, id -1, score -inf and text `None`).

        Raises:
            ValueError: for no queries, a k beyond the number of texts, or vectors of another size.
        """
        k = _top_k.check_k(k, len(self))
        is_one = isinstance(queries, (str, bytes))
        if is_one or not (isinstance(queries, np.ndarray) and queries.dtype.kind == "f"):
            names = _texts.strings("queries", [queries] if is_one else queries)
            prompt = _texts.prompt_for(self.embedder, self._query_prompt, _texts.QUERY_PROMPTS)
            vectors = _texts.encode(self.embedder, names, batch_size=batch_size, prompt=prompt, progress=progress)
        else:
            names, is_one = None, queries.ndim == 1
            vectors = queries[None] if is_one else queries
        vectors = _neighbours.matrix("queries", vectors).astype("float32", copy=False)
        _top_k.check_dim("queries", vectors, self.embedding_dim)
        if reranker is None:
            ids, scores = self._find(vectors, k, progress)
        else:
            if names is None:
                raise _check.invalid("queries", "texts where `reranker` is given", queries)
            ids, _ = self._find(vectors, min(k * self.multiplier, len(self)), progress)
            pairs = [(name, self.texts[i] if i >= 0 else "") for name, row in zip(names, ids, strict=True) for i in row]
            first, second = (list(column) for column in zip(*pairs, strict=True))
            scores = _texts.pair_scores(reranker, first, second, batch_size=batch_size, progress=progress)
            ids, scores = _top_k.best(ids, np.where(ids < 0, -np.inf, scores.reshape(ids.shape)), k)
        texts = [[self.texts[i] if i >= 0 else None for i in row] for row in ids.tolist()]
        return Hits(ids[0], scores[0], texts[0]) if is_one else Hits(ids, scores, texts)

    def _find(self, queries, k, progress):
        count = k if self.rescore is None else min(k * self.multiplier, len(self))
        searched = queries
        if self.precision == "binary":
            searched = _quantize.quantize(queries, "binary")
        if self.backend == "faiss":
            ids, scores = self._searched.search(searched, count)
        else:
            ids, scores = _top_k.top_k(searched, self._searched, count, similarity=self.similarity, progress=progress)
        if self.rescore is None:
            return ids, scores
        corpus = self._searched if self._rescoring is None else self._rescoring
        return _top_k.rescored(queries, corpus, ids, k, self.similarity)

    # === Saving ===

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes texts, codes and settings into a folder that `load` reads; the embedder is saved separately.

        An index that the folder holds already is replaced in one step: a save that fails, on a full disk for example,
        or is killed leaves the old one, and `load` at the same time reads one of the two. Other files in the folder
        stay.

        Args:
            folder: string or path on the local disk. Made if need be.

        Raises:
            ValueError: for a URL such as `gs://...`: save locally and copy the folder.
        """
        folder = _disk.local_path("folder", folder, kind="folder")
        settings = {key: getattr(self, key) for key in (*_PUBLIC, "embedding_dim")}
        settings |= {key: getattr(self, f"_{key}") for key in _PRIVATE}
        arrays: dict[str, Any] = {}
        for name in ("searched", "rescoring", "calibration"):
            part = getattr(self, f"_{name}")
            if isinstance(part, np.ndarray):
                arrays[name] = part
            elif isinstance(part, _quantize.Quantized):
                arrays |= {f"{name}.{key}": getattr(part, key) for key in ("codes", "scale", "offset")}
        arrays = {key: array for key, array in arrays.items() if array is not None}
        write_faiss = self._searched.save if self.backend == "faiss" else None
        _saved_index.write(folder, settings, self.texts, arrays, write_faiss)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embedder: Any) -> Self:
        """Reads an index that `save` wrote, and checks that its parts are complete and belong together.

        Args:
            folder: string or path.
            embedder: the embedder that the index was made with, for texts as queries; or `None`.

        Returns:
            `SemanticIndex`.

        Raises:
            ValueError: where the folder holds no index, or one with a part that is missing, damaged or another
                index's. The error names the file.
            ImportError: for an index of `backend="faiss"` without faiss; it names the package.
        """
        saved = _saved_index.read("folder", folder)
        made = object.__new__(cls)
        made.embedder, made.texts = embedder, saved.texts
        for key in _PUBLIC:
            setattr(made, key, saved.settings[key])
        for key in _PRIVATE:
            setattr(made, f"_{key}", saved.settings[key])
        dim = saved.settings["embedding_dim"]
        for name, precision in (("searched", made.precision), ("rescoring", made.rescore), ("calibration", "int8")):
            part = saved.arrays.get(name)
            if f"{name}.codes" in saved.arrays:
                codes, *steps = (saved.arrays.get(f"{name}.{key}") for key in ("codes", "scale", "offset"))
                part = _quantize.Quantized(precision, codes, dim, *steps)
            setattr(made, f"_{name}", part)
        if made.backend == "faiss":
            _faiss.load()
            with saved.reader.guard(saved.faiss):
                made._searched = _faiss.FaissIndex(dim, made.precision, made.similarity, made._factory)
                made._searched.load(saved.faiss)
            if len(made._searched) != len(made):
                raise saved.reader.error(saved.faiss, f"holds {len(made._searched)} vectors for {len(made)} texts")
        return made
