"""Semantic search in a corpus of texts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _disk, _neighbours, _saved_index, _texts
from tfxfer._saved_index import BACKENDS, RESCORE
from tfxfer.search import _engines, _faiss, _quantize, _records, _rerank, _stored, _top_k, _usearch
from tfxfer.search._records import Hits, Where

# Settings of an index that are saved in addition to its texts and vectors.
_PUBLIC = ("precision", "rescore", "multiplier", "similarity", "backend")
_PRIVATE = ("factory", "query_prompt", "document_prompt")
# Number of texts whose float vectors are held at a time while codes are computed.
_PART = 50_000
_ENGINES: dict[str, Any] = {"faiss": _faiss, "usearch": _usearch}
_CLASSES: dict[str, Any] = {"faiss": _faiss.FaissIndex, "usearch": _usearch.UsearchIndex}


class SemanticIndex:
    """Holds the vectors of texts, as floats or as compact codes, and finds those nearest to a query.

    | precision | memory | search |
    |---|---|---|
    | `"float32"` | 4 bytes per component | exact |
    | `"int8"` | 1 byte | exact over the rounded values, with float queries; `rescore="float32"` rescores candidates |
    | `"binary"` | 1 bit | by the number of equal signs; `rescore` is applied to the best `k * multiplier` |

    nDCG@10 of all-MiniLM-L6-v2 with 680 captions as queries for their pairs among 13,355 (`benchmarks/search.py`):
    float32 0.385; int8 0.385; binary 0.339, rescored with the bits themselves (which takes no memory) 0.361, with int8
    0.385.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. May be `None` if
            `embeddings` is given and queries are vectors.
        texts: list or other iterable of strings.
        embeddings: float array `(texts, dim)`: the vectors, if already computed.
        ids: list of unique ints >= 0 or unique strings: the ids of the texts. By default they count from 0.
        metadata: dict of column name to list with one value per text: strings, numbers or bools, `None` for a missing
            value. Used by filters in `search`.
        precision: `"float32"` (default), `"int8"` or `"binary"`.
        rescore: `None`, `"binary"`, `"int8"` or `"float32"`: the representation that rescores the candidates with float
            queries. `"int8"` and `"float32"` vectors are then stored as well. The returned scores are the new ones.
            `"default"` is `"binary"` for binary codes and `None` otherwise.
        multiplier: int. `k * multiplier` candidates are rescored. Defaults to 10, with which binary codes rescored with
            int8 lose nothing in the figures above; with 4 they lose 0.006 of recall@10.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        calibration: float array `(rows, dim)` of typical vectors that determine the int8 ranges. Defaults to the first
            50,000 of the corpus.
        backend: `"exact"` (default), or `"faiss"` or `"usearch"` if that package is installed; they pay off from about
            a million texts. usearch's graph is approximate: it finds most of the nearest texts.
        factory: string. For faiss, the name of an index, for example `"HNSW32"` or `"IVF4096,Flat"`, which may be
            approximate; defaults to an exhaustive search. For usearch, its settings, for example
            `"connectivity=32,expansion_add=128,expansion_search=128"`; larger values find more but are slower.
        query_prompt: string prepended to each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string prepended to each text. Defaults to the embedder's prompt `"document"`, `"passage"` or
            `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Raises:
        ValueError: if the corpus is empty, a text is not a string, vectors do not match, or `precision` does not
            support `rescore`.
        ImportError: if the package of `backend` is not installed; the message names it.

    Example:

    >>> vectors = [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]
    >>> years = [2023, 2024, 2024]
    >>> index = tx.search.SemanticIndex(None, ["card", "loan", "cash"], embeddings=vectors, metadata={"year": years})
    >>> index.search(np.array([1.0, 0.1]), k=2).texts
    ['card', 'cash']
    >>> index.search(np.array([1.0, 0.1]), k=1, where={"year": 2024}).texts
    ['cash']

    ```python
    index = tx.search.SemanticIndex(embedder, texts, precision="binary", metadata={"year": years})
    hits = index.search("Where is my card?", k=3, where=lambda columns: columns["year"] >= 2024)
    for text, score in zip(hits.texts, hits.scores):
        print(round(float(score), 3), text)
    index.remove(hits.ids[:1])
    index.save("index")
    index = tx.search.SemanticIndex.load("index", embedder)
    ```

    References:
        - [Reimers and Gurevych, 2019](https://arxiv.org/abs/1908.10084)
        - [Yamada et al., 2021](https://arxiv.org/abs/2106.00882), rescoring of binary codes
        - [Douze et al., 2024](https://arxiv.org/abs/2401.08281), faiss
    """

    def __init__(
        self,
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: ArrayLike | None = None,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
        precision: Literal["float32", "int8", "binary"] = "float32",
        rescore: str = "default",
        multiplier: int = 10,
        similarity: str = "cosine",
        calibration: ArrayLike | None = None,
        backend: Literal["exact", "faiss", "usearch"] = "exact",
        factory: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        self._configure(
            embedder,
            precision=precision,
            rescore=rescore,
            multiplier=multiplier,
            similarity=similarity,
            calibration=calibration,
            backend=backend,
            factory=factory,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
        )
        self.add(texts, embeddings=embeddings, ids=ids, metadata=metadata, batch_size=batch_size, progress=progress)

    def _configure(
        self,
        embedder,
        *,
        precision="float32",
        rescore="default",
        multiplier=10,
        similarity="cosine",
        calibration=None,
        backend="exact",
        factory=None,
        query_prompt=None,
        document_prompt=None,
    ):
        _check.one_of("precision", precision, RESCORE)
        rescore = ("binary" if precision == "binary" else None) if rescore == "default" else rescore
        if rescore not in RESCORE[precision]:
            options = ", ".join(map(repr, RESCORE[precision]))
            raise _check.invalid("rescore", f"one of {options} for precision={precision!r}", rescore)
        _check.one_of("similarity", similarity, ("cosine",) if precision == "binary" else _neighbours.SIMILARITIES)
        _check.one_of("backend", backend, BACKENDS)
        if factory is not None and backend == "exact":
            raise _check.invalid("factory", "None unless `backend` is 'faiss' or 'usearch'", factory)
        if backend != "exact":
            _ENGINES[backend].load()
        self.embedder = embedder
        self.precision, self.rescore, self.similarity, self.backend = precision, rescore, similarity, backend
        self.multiplier = _check.integer("multiplier", multiplier)
        self._factory = factory
        self._query_prompt, self._document_prompt = query_prompt, document_prompt
        self._calibration: Any = calibration
        self._records = _records.Records()
        self._searched: Any = None  # array, `Quantized` or `Engine`
        self._rescoring: Any = None  # array or `Quantized`
        self._is_mapped = False

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self):
        return f"SemanticIndex({len(self)} texts, {self.precision}, rescore={self.rescore}, {self.backend})"

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of insertion."""
        return self._records.texts

    @property
    def ids(self) -> np.ndarray:
        """Ids of the texts, `(texts,)`: int64 or strings."""
        return self._records.ids

    @property
    def metadata(self) -> dict[str, np.ndarray]:
        """The columns for filters, arrays `(texts,)`; missing numbers are NaN, other missing values `None`."""
        return dict(self._records.columns)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the vectors or codes, in memory or mapped, excluding those held by faiss or usearch."""
        return sum(getattr(part, "nbytes", 0) for part in self._parts())

    def add(
        self,
        texts: Iterable[str],
        *,
        embeddings: ArrayLike | None = None,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        """Adds texts; an error leaves the index unchanged. int8 codes keep the existing ranges.

        Args:
            texts: list or other iterable of strings.
            embeddings: float array `(texts, dim)`: the vectors, if already computed.
            ids: ids of the texts; required if the existing ids are strings. By default int ids continue after the
                highest one so far.
            metadata: the same columns as those of the existing texts.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

        Raises:
            ValueError: as in `SemanticIndex`, if an id already exists, or if the index is on disk.
        """
        self._check_held("add")
        texts = _texts.strings("texts", texts)
        checked = self._records.check(texts, ids, metadata)
        if embeddings is not None:
            embeddings = _neighbours.matrix("embeddings", embeddings)
            if len(embeddings) != len(texts):
                raise _check.invalid("embeddings", f"{len(texts)} vectors, one for each text", embeddings.shape)
        searched, rescoring, calibration, engine = [], [], self._calibration, self._searched
        try:
            for start in range(0, len(texts), _PART):
                part = slice(start, start + _PART)
                if embeddings is None:
                    vectors = self._encoded(texts[part], batch_size, progress)
                else:
                    vectors = embeddings[part]
                self._add(vectors, searched, rescoring)
        except BaseException:
            self._calibration, self._searched = calibration, engine
            if isinstance(engine, _engines.Engine):
                engine.keep(np.arange(len(engine)) < len(self))
            raise
        self._searched = self._joined(self._searched, searched)
        self._rescoring = self._joined(self._rescoring, rescoring)
        self._records.add(texts, checked)

    def remove(self, ids: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        """Removes texts with their vectors; the others keep their ids.

        faiss keeps removed vectors and skips them; after many removals, create a new index.

        Args:
            ids: list of ids.

        Raises:
            ValueError: if an id does not exist, if no text would be left, or if the index is on disk.
        """
        self._check_held("remove")
        kept = self._records.kept(ids)
        if isinstance(self._searched, _engines.Engine):
            self._searched.keep(kept)
        else:
            self._searched = self._searched[kept]
        self._rescoring = None if self._rescoring is None else self._rescoring[kept]
        self._records.keep(kept)

    def _check_held(self, method):
        if self._is_mapped:
            remedy = "Load it without `mmap`, or write it again with `SemanticIndex.build`."
            raise _check.invalid("index", f"an index in memory for `{method}`", "one that is on disk", remedy)

    def _encoded(self, texts, batch_size, progress):
        prompt = _texts.prompt_for(self.embedder, self._document_prompt, _texts.DOCUMENT_PROMPTS)
        return _texts.encode(self.embedder, texts, batch_size=batch_size, prompt=prompt, progress=progress)

    def _add(self, vectors, searched, rescoring):
        vectors = _neighbours.matrix("embeddings", vectors).astype("float32", copy=False)
        if self._searched is not None or searched:
            dim = self.embedding_dim if self._searched is not None else searched[0].shape[1]
            _top_k.check_dim("embeddings", vectors, dim)
        if self.similarity == "cosine":
            vectors = _neighbours.unit(vectors)
        codes = {None: None, "float32": vectors}
        if "int8" in (self.precision, self.rescore):
            codes["int8"] = _quantize.quantize(vectors, "int8", calibration=self._ranges(vectors))
        if "binary" in (self.precision, self.rescore):
            codes["binary"] = _quantize.quantize(vectors, "binary")
        if self.backend != "exact":
            if self._searched is None:
                made = _CLASSES[self.backend](vectors.shape[1], self.precision, self.similarity, self._factory)
                self._searched = made
            # Engines quantize by themselves: they get floats for their own int8.
            self._searched.add(codes["binary"] if self.precision == "binary" else vectors)
        else:
            searched.append(codes[self.precision])
        if self.rescore is not None and (self.rescore != self.precision or self.backend != "exact"):
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
        """Number of components of a vector."""
        searched = self._searched
        return searched.dim if isinstance(searched, _engines.Engine) else searched.shape[1]

    @property
    def vectors(self) -> np.ndarray:
        """The most precise vectors of the index, float32 `(texts, dim)`; for int8 codes, the rounded ones.

        For the cosine they have length 1.

        Raises:
            ValueError: if the index has only binary codes, or leaves its vectors to faiss.
        """
        for part in (self._rescoring, self._searched):
            if isinstance(part, np.ndarray) or getattr(part, "precision", None) == "int8":
                return _quantize.floats(part)
        raise _check.invalid("index", "an index with float32 or int8 vectors of its own", self)

    def search(
        self,
        queries: str | Sequence[str] | np.ndarray,
        k: int | None = None,
        *,
        where: Where = None,
        reranker: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the texts nearest to each query.

        Args:
            queries: a string, a list of strings, or a float array of vectors `(dim,)` or `(queries, dim)`.
            k: int, at most the number of texts. Defaults to 10, or to all texts if there are fewer.
            where: a filter on the metadata; the search among the matching texts is as exact as without it. Either a
                dict of column name to the required value or a list of allowed values, for example
                `{"language": "en", "year": [2023, 2024]}`; all columns must match, and `None` matches a missing value.
                Or a function from the columns, a dict of arrays `(texts,)`, to a bool array:
                `lambda columns: columns["year"] >= 2024`.
            reranker: optional cross-encoder that rescores and reorders the best `k * multiplier`: a
                `models.TextRegressor` over pairs, a `models.TextClassifier` with two labels (the second counts), or a
                function of two lists of strings that returns a number for each row. Requires queries that are texts.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

        Returns:
            `Hits(ids, scores, texts)`. For one query, ids and float32 scores `(k,)` and a list of k strings; for
            several, `(queries, k)` and a list of lists. Best first; ties keep the order of insertion (with faiss and
            usearch, the order of those packages). If a filter leaves fewer texts, or an approximate index finds fewer,
            the rest has id -1 (`""` for string ids), score -inf and text `None`.

        Raises:
            ValueError: if there are no queries, k exceeds the number of texts, vectors have another size, a filter does
                not match the columns, or the faiss index does not support filters.
        """
        k = _top_k.check_k(k, len(self))
        allowed = self._records.select(where)
        if isinstance(queries, np.ndarray) and queries.dtype.kind == "f":
            names, is_one = None, queries.ndim == 1
            vectors = queries[None] if is_one else queries
        else:
            names, is_one = _rerank.queries_of(queries)
            prompt = _texts.prompt_for(self.embedder, self._query_prompt, _texts.QUERY_PROMPTS)
            vectors = _texts.encode(self.embedder, names, batch_size=batch_size, prompt=prompt, progress=progress)
        vectors = _neighbours.matrix("queries", vectors).astype("float32", copy=False)
        _top_k.check_dim("queries", vectors, self.embedding_dim)
        if reranker is None:
            rows, scores = self._find(vectors, k, progress, allowed)
        else:
            _rerank.check_texts(names, queries)
            rows, _ = self._find(vectors, min(k * self.multiplier, len(self)), progress, allowed)
            options = {"batch_size": batch_size, "progress": progress}
            rows, scores = _rerank.reranked(names, rows, self.texts, reranker, k, **options)
        return self._records.hits(rows, scores, is_one)

    def _find(self, queries, k, progress, allowed):
        count = k if self.rescore is None else min(k * self.multiplier, len(self))
        searched = queries
        if self.precision == "binary":
            searched = _quantize.quantize(queries, "binary")
        if self.backend != "exact":
            rows, scores = self._searched.search(searched, count, allowed)
        else:
            rows, scores = _top_k.find(searched, self._searched, count, self.similarity, progress, allowed)
        if self.rescore is None:
            return rows, scores
        corpus = self._searched if self._rescoring is None else self._rescoring
        return _top_k.rescored(queries, corpus, rows, k, self.similarity)

    # === Saving ===

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes texts, codes and settings to a directory that `load` reads; save the embedder separately.

        An existing index in the directory is replaced atomically: if a save fails, for example on a full disk, or is
        killed, the old index remains, and a concurrent `load` reads one of the two. Other files in the directory are
        kept.

        Args:
            folder: string or path on the local disk. Created if it does not exist.

        Raises:
            ValueError: if `folder` is a URL such as `gs://...`: save locally and copy the directory.
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
        write_engine = None
        if isinstance(self._searched, _engines.Engine):
            write_engine = self._searched.save
            if not self._searched.are_plain:
                arrays["labels"] = self._searched.labels
        _saved_index.write(folder, settings, self.texts, arrays, write_engine, self._records.state())

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: Any = None,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        **settings: Any,
    ) -> Self:
        """Writes an index whose vectors need not fit into memory, part by part, and opens it from disk.

        About 16,000 vectors are held in memory at a time, regardless of their total number; texts, ids and metadata
        are held in full. While writing, the disk needs space for the vectors twice.

        Args:
            folder: string or path on the local disk. An existing index in it is replaced atomically.
            embedder: as in `SemanticIndex`.
            texts: iterable of strings, for example a generator; it is consumed once.
            embeddings: the vectors, if already computed: a float array (for a large one,
                `numpy.load(file, mmap_mode="r")`), an iterable of arrays `(some texts, dim)`, or a list of paths of
                `.npy` files. Together they contain one vector for each text, in order.
            ids: as in `SemanticIndex`.
            metadata: as in `SemanticIndex`.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show progress bars. By default, they are shown for long-running work.
            **settings: further arguments of `SemanticIndex`, except `backend`: faiss and usearch hold their index in
                memory.

        Returns:
            `SemanticIndex`, as from `load(folder, embedder, mmap=True)`.

        Raises:
            ValueError: as in `SemanticIndex`, or if the number of vectors is not that of the texts.

        Example:

        ```python
        index = tx.search.SemanticIndex.build("index", embedder, (line.strip() for line in open("corpus.txt")))
        ```
        """
        if settings.get("backend", "exact") != "exact":
            remedy = "Create a `SemanticIndex` from it and save that."
            raise _check.invalid("backend", "'exact' for `build`", settings["backend"], remedy)
        folder = _disk.local_path("folder", folder, kind="folder")
        made = object.__new__(cls)
        made._configure(embedder, **settings)
        found: list[str] = []
        with _stored.Sinks(folder) as sinks:
            for part, vectors in _stored.parts(texts, embeddings):
                searched, rescoring = [], []
                if vectors is None:
                    vectors = made._encoded(part, batch_size, progress)
                made._add(vectors, searched, rescoring)
                made._searched = searched[0]  # the next part must have the same size
                sinks.append({"searched": searched, "rescoring": rescoring})
                found.extend(part)
            found = _texts.strings("texts", found)
            made._records.add(found, made._records.check(found, ids, metadata))
            made._searched, made._rescoring = sinks.result("searched"), sinks.result("rescoring")
            made.save(folder)
        return cls.load(folder, embedder, mmap=True)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embedder: Any, *, mmap: bool = False) -> Self:
        """Reads an index that `save` wrote, and checks that its parts are complete and consistent.

        Args:
            folder: string or path.
            embedder: the embedder that the index was created with, for texts as queries; or `None`.
            mmap: bool. Whether vectors stay on disk, for an index larger than memory: a search reads them in blocks,
                and the operating system caches what fits. Texts cannot be added or removed, and damage within the
                vectors is not detected, because they are not read here. Not supported for faiss. Defaults to `False`.

        Returns:
            `SemanticIndex`.

        Raises:
            ValueError: if the directory contains no index, or if a part is missing, damaged or belongs to another
                index. The message names the file.
            ImportError: if the faiss or usearch package of the index is not installed; the message names it.
        """
        saved = _saved_index.read("folder", folder, mmap=mmap)
        made = object.__new__(cls)
        made.embedder, made._is_mapped = embedder, bool(mmap)
        with saved.reader.guard(saved.reader.path / _saved_index.FILE):
            made._records = _records.Records.from_state(saved.texts, saved.records)
        for key in _PUBLIC:
            setattr(made, key, saved.settings[key])
        for key in _PRIVATE:
            setattr(made, f"_{key}", saved.settings[key])
        if mmap and made.backend == "faiss":
            raise _check.invalid("mmap", "False for an index of faiss, which holds its vectors", mmap)
        dim = saved.settings["embedding_dim"]
        for name, precision in (("searched", made.precision), ("rescoring", made.rescore), ("calibration", "int8")):
            part = saved.arrays.get(name)
            if f"{name}.codes" in saved.arrays:
                codes, *steps = (saved.arrays.get(f"{name}.{key}") for key in ("codes", "scale", "offset"))
                part = _quantize.Quantized(precision, codes, dim, *steps)
            setattr(made, f"_{name}", part)
        if made.backend != "exact":
            _ENGINES[made.backend].load()
            options = {"mmap": True} if mmap else {}
            with saved.reader.guard(saved.engine):
                made._searched = _CLASSES[made.backend](dim, made.precision, made.similarity, made._factory)
                made._searched.load(saved.engine, saved.arrays.get("labels"), **options)
            if len(made._searched) != len(made):
                raise saved.reader.error(saved.engine, f"holds {len(made._searched)} vectors for {len(made)} texts")
        return made
