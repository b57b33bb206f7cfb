"""Hybrid search by words and by vectors."""

import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _disk, _texts
from tfxfer.search import _bm25, _fusion, _index, _rerank, _top_k
from tfxfer.search._records import Hits, Where

_FILE = "hybrid.json"
_FORMAT = 1
_EXPECTED = "a folder that `HybridIndex.save` wrote"
_REMEDY = "Save the index again, or copy the whole folder again from where it is complete."
_SETTINGS = ("method", "rank_constant", "normalize", "weights", "candidates")
_KEYS = {"format": int, "folder": str, "method": str, "normalize": str, "weights": list, "candidates": int}


class HybridIndex:
    """Searches the same texts by words and by vectors and fuses the results; a reranker can reorder the best ones.

    BM25 finds names, numbers and rare terms; vectors find paraphrases.

    Args:
        lexical: `BM25Index`.
        semantic: `SemanticIndex` over the same texts and ids. Filters use the metadata of this index.
        method: `"reciprocal_rank"` or `"weighted"`; see `fuse`.
        weights: two numbers > 0, for words and for vectors. Defaults to ones.
        rank_constant: number >= 0; see `fuse`.
        normalize: `"min_max"` or `"z_score"`, for `"weighted"`; see `fuse`.
        candidates: int. Number of hits of each index to fuse; with more, agreement counts more. Defaults to 100.

    Raises:
        ValueError: if the indexes differ in texts or ids, or if an argument is out of range.

    Example:

    ```python
    index = tx.search.HybridIndex.from_texts(embedder, texts)
    hits = index.search(["invoice 4711 is wrong"], k=10, reranker=cross_encoder)
    ```
    """

    def __init__(
        self,
        lexical: _bm25.BM25Index,
        semantic: _index.SemanticIndex,
        *,
        method: Literal["reciprocal_rank", "weighted"] = "reciprocal_rank",
        weights: Sequence[float] | None = None,
        rank_constant: float = 60.0,
        normalize: Literal["min_max", "z_score"] = "min_max",
        candidates: int = 100,
    ) -> None:
        if not isinstance(lexical, _bm25.BM25Index):
            raise _check.invalid("lexical", "a `search.BM25Index`", lexical)
        if not isinstance(semantic, _index.SemanticIndex):
            raise _check.invalid("semantic", "a `search.SemanticIndex`", semantic)
        if not np.array_equal(lexical.ids, semantic.ids) or lexical.texts != semantic.texts:
            raise _check.invalid("semantic", "an index of the same texts and ids, in the same order", semantic)
        if set(lexical.metadata) not in (set(), set(semantic.metadata)):
            raise _check.invalid("lexical", "an index without metadata, or with those of `semantic`", lexical)
        # Distances are negative, so raw scores cannot be added.
        _check.one_of("normalize", normalize, _fusion.NORMALIZE[:2])
        self.lexical, self.semantic = lexical, semantic
        self._fusion = _fusion.Fusion(2, method, weights, rank_constant, normalize)
        self.candidates = _check.integer("candidates", candidates)

    @classmethod
    def from_texts(
        cls,
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: ArrayLike | None = None,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
        lexical: Mapping[str, Any] | None = None,
        semantic: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        **settings: Any,
    ) -> Self:
        """Creates both indexes from texts.

        Args:
            embedder: as in `SemanticIndex`.
            texts: list or other iterable of strings.
            embeddings: float array `(texts, dim)`: the vectors, if already computed.
            ids: as in `SemanticIndex`.
            metadata: as in `SemanticIndex`.
            lexical: dict of further arguments of `BM25Index`, for example `{"variant": "bm25+"}`.
            semantic: dict of further arguments of `SemanticIndex`, for example `{"precision": "int8"}`.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show progress bars. By default, they are shown for long-running work.
            **settings: further arguments of `HybridIndex`.
        """
        texts = list(texts) if not isinstance(texts, (str, bytes)) else texts
        both: dict[str, Any] = {"ids": ids, "metadata": metadata}
        words = _bm25.BM25Index(texts, **both, **(lexical or {}))
        options: dict[str, Any] = {"embeddings": embeddings, "batch_size": batch_size, "progress": progress}
        vectors = _index.SemanticIndex(embedder, texts, **both, **options, **(semantic or {}))
        return cls(words, vectors, **settings)

    def __len__(self) -> int:
        return len(self.semantic)

    def __repr__(self):
        return f"HybridIndex({self.lexical}, {self.semantic}, {self._fusion.method}, candidates={self.candidates})"

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of insertion."""
        return self.semantic.texts

    @property
    def ids(self) -> np.ndarray:
        """Ids of the texts, `(texts,)`: int64 or strings."""
        return self.semantic.ids

    @property
    def metadata(self) -> dict[str, np.ndarray]:
        """The columns for filters; see `SemanticIndex.metadata`."""
        return self.semantic.metadata

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
        """Adds texts to both indexes; an error leaves both unchanged.

        Args:
            texts: list or other iterable of strings.
            embeddings: float array `(texts, dim)`: the vectors, if already computed.
            ids: as in `SemanticIndex.add`.
            metadata: the same columns as those of the existing texts.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.
        """
        texts = _texts.strings("texts", texts)
        # Pass explicit ids to both: after a failed addition, they would count on from different numbers.
        given, _ = self.semantic._records.check(texts, ids, metadata)
        self.lexical.add(texts, ids=given, metadata=metadata if self.lexical.metadata else None)
        options: dict[str, Any] = {"embeddings": embeddings, "batch_size": batch_size, "progress": progress}
        try:
            self.semantic.add(texts, ids=given, metadata=metadata, **options)
        except BaseException:
            self.lexical.remove(given)
            raise

    def remove(self, ids: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        """Removes texts from both indexes; the others keep their ids.

        Args:
            ids: list of ids.
        """
        self.semantic.remove(ids)
        self.lexical.remove(ids)

    def search(
        self,
        queries: str | Sequence[str],
        k: int | None = None,
        *,
        where: Where = None,
        embeddings: ArrayLike | None = None,
        reranker: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the best texts for each query.

        Args:
            queries: a string or a list of strings.
            k: int, at most the number of texts. Defaults to 10, or to all texts if there are fewer.
            where: a filter on the metadata; see `SemanticIndex.search`.
            embeddings: float array, the vectors of the queries `(dim,)` or `(queries, dim)`, if already computed.
            reranker: optional cross-encoder that orders all candidates of both indexes; see `SemanticIndex.search`.
            batch_size: int. Number of texts, or of pairs for a reranker, computed at a time.
            progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

        Returns:
            `Hits(ids, scores, texts)`, as from `SemanticIndex.search`, with float64 fused scores or those of the
            reranker. The lower id wins ties of fused scores. If both indexes find fewer than k texts, the rest has id
            -1 (`""` for string ids), score -inf and text `None`.

        Raises:
            ValueError: if there are no queries, or if k exceeds the number of texts.
        """
        k = _top_k.check_k(k, len(self))
        names, is_one = _rerank.queries_of(queries)
        count = min(max(self.candidates, k), len(self))
        options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        asked: Any = names
        if embeddings is not None:
            asked = np.asarray(embeddings, "float32")
            asked = asked[None] if asked.ndim == 1 else asked
            if asked.ndim != 2 or len(asked) != len(names):
                raise _check.invalid("embeddings", f"{len(names)} vectors, one for each query", asked.shape)
        mask = self.semantic._records.select(where)
        both = [
            self.lexical.search(names, count, where=None if mask is None else lambda _: mask),
            self.semantic.search(asked, count, where=None if mask is None else lambda _: mask, **options),
        ]
        if reranker is None:
            hits = _fusion.fuse(
                both,
                k,
                method=self._fusion.method,
                weights=self._fusion.weights,
                rank_constant=self._fusion.rank_constant,
                normalize=self._fusion.normalize,
            )
            return Hits(hits.ids[0], hits.scores[0], hits.texts[0]) if is_one else hits
        rows = self._candidates(both)
        rows, scores = _rerank.reranked(names, rows, self.texts, reranker, k, **options)
        return self.semantic._records.hits(rows, scores, is_one)

    def _candidates(self, both):
        """Returns the rows that either index found, in row order, padded with -1."""
        places = {each: row for row, each in enumerate(self.ids.tolist())}
        no_id = self.semantic._records.no_id
        found = [
            sorted({places[each] for hits in both for each in hits.ids[query].tolist() if each != no_id})
            for query in range(len(both[0].ids))
        ]
        rows = np.full((len(found), max(map(len, found))), -1, "int64")
        for row, each in zip(rows, found, strict=True):
            row[: len(each)] = each
        return rows

    # === Saving ===

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes both indexes to a directory that `load` reads; save embedder, tokenizer and stemmer separately.

        An existing hybrid index in the directory is replaced atomically.

        Args:
            folder: string or path on the local disk. Created if it does not exist.
        """
        folder = _disk.local_path("folder", folder, kind="folder")
        folder.mkdir(parents=True, exist_ok=True)
        before = _named(folder)
        name = f"hybrid-{secrets.token_hex(8)}"
        settings = {key: getattr(self._fusion, key) for key in _SETTINGS[:-1]} | {"candidates": self.candidates}
        try:
            self.lexical.save(folder / name / "lexical")
            self.semantic.save(folder / name / "semantic")
            _disk.write_json(folder / _FILE, {"format": _FORMAT, "folder": name, **settings})
        finally:
            kept = _named(folder)
            for path in folder.glob("hybrid-*"):
                if path.name not in kept and (path.name in (*before, name) or _is_old(path)):
                    shutil.rmtree(path, ignore_errors=True)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        embedder: Any,
        *,
        tokenizer: Callable[[str], Sequence[str]] | None = None,
        stemmer: Callable[[str], str] | None = None,
        mmap: bool = False,
    ) -> Self:
        """Reads an index that `save` wrote.

        Args:
            folder: string or path.
            embedder: as in `SemanticIndex.load`.
            tokenizer: as in `BM25Index.load`.
            stemmer: as in `BM25Index.load`.
            mmap: bool. Whether vectors stay on disk; see `SemanticIndex.load`.

        Returns:
            `HybridIndex`.

        Raises:
            ValueError: if the directory contains no index or a damaged one; the message names the file.
        """
        path = _disk.local_path("folder", folder, kind="folder")
        reader = _disk.Reader("folder", path, _EXPECTED, _REMEDY)
        while True:
            found = reader.json(path / _FILE, _KEYS)
            if found["format"] != _FORMAT:
                raise reader.error(path / _FILE, f"should be of format {_FORMAT}, not {found['format']!r}")
            inner = path / found["folder"]
            if inner.parent != path:
                raise reader.error(path / _FILE, f"names {found['folder']!r}, which no save writes")
            try:
                lexical = _bm25.BM25Index.load(inner / "lexical", tokenizer=tokenizer, stemmer=stemmer)
                semantic = _index.SemanticIndex.load(inner / "semantic", embedder, mmap=mmap)
                break
            except ValueError:
                # A concurrent save has removed the directory that the manifest named.
                if reader.json(path / _FILE) == found:
                    raise
        with reader.guard(path / _FILE):
            return cls(lexical, semantic, **{key: found[key] for key in _SETTINGS})


def _named(folder):
    """Returns the names of the subdirectories that the manifest mentions."""
    reader = _disk.Reader("folder", folder, _EXPECTED, _REMEDY)
    try:
        return {reader.json(folder / _FILE, {"folder": str})["folder"]}
    except ValueError:
        return set()


def _is_old(path: pathlib.Path) -> bool:
    """Whether a subdirectory is left over from a save that was killed, and not from one that is in progress."""
    try:
        newest = max(each.stat().st_mtime for each in (path, *path.rglob("*")))
        return time.time() - newest >= _disk.DEAD
    except OSError:
        return False
