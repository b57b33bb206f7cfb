"""Search in a corpus of texts by the terms of sparse vectors."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse

from tfxfer import _check, _neighbours, _texts
from tfxfer.search import _one_file, _top_k
from tfxfer.search._records import Hits

_FILE = "sparse_index.npz"
# Number of texts encoded at a time.
_PART = 50_000


class SparseIndex:
    """Holds the sparse vectors of texts by term, and finds the texts with the largest dot product, exactly.

    It is an inverted index: for each term, it lists the texts that contain it. The cost of a query is the number of
    texts of each of its terms. The scores of a block of queries are held in memory at once, about 32 MB. A text takes 8
    bytes per term: 0.8 kB for 100 terms.

    Args:
        embedder: `models.SparseEmbedder`, or any object with `encode_query` and `encode_document` that map a list of
            strings to a `scipy.sparse` array `(texts, terms)`. May be `None` if `embeddings` is given and queries are
            vectors.
        texts: list or other iterable of strings.
        embeddings: `scipy.sparse` array `(texts, terms)`: the vectors, if already computed.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Raises:
        ValueError: if the corpus is empty, a text is not a string, or vectors do not match.

    Example:

    >>> vectors = scipy.sparse.csr_array([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]])
    >>> index = tx.search.SparseIndex(None, ["card", "loan"], embeddings=vectors)
    >>> hits = index.search(scipy.sparse.csr_array([[1.0, 0.25, 0.0]]), k=2)
    >>> hits.texts, hits.scores.tolist()
    ([['card', 'loan']], [[1.0, 0.5]])

    ```python
    index = tx.search.SparseIndex(sparse_embedder, texts)
    hits = index.search("Where is my card?", k=3)
    index.save("index")
    index = tx.search.SparseIndex.load("index", sparse_embedder)
    ```

    Reference: Formal et al., 2021, SPLADE, https://arxiv.org/abs/2107.05720.
    """

    def __init__(
        self,
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        self.embedder = embedder
        self.texts: list[str] = []
        self._vectors: Any = None
        self.add(texts, embeddings=embeddings, batch_size=batch_size, progress=progress)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self):
        return f"SparseIndex({len(self)} texts, {self._vectors.nnz} terms)"

    @property
    def nbytes(self) -> int:
        """Size of the vectors in bytes."""
        return self._vectors.data.nbytes + self._vectors.indices.nbytes + self._vectors.indptr.nbytes

    @property
    def vectors(self) -> Any:
        """The vectors, a float32 `scipy.sparse.csr_array` `(texts, terms)`."""
        return self._vectors.tocsr()

    def add(
        self,
        texts: Iterable[str],
        *,
        embeddings: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        """Adds texts; their ids continue the existing ones.

        Args:
            texts: list or other iterable of strings.
            embeddings: `scipy.sparse` array `(texts, terms)`: the vectors, if already computed.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.
        """
        texts = _texts.strings("texts", texts)
        dim = None if self._vectors is None else self._vectors.shape[1]
        if embeddings is None:
            options = {"batch_size": batch_size, "progress": progress}
            encode = _encoder(self.embedder, "encode_document")
            parts = [encode(texts[start : start + _PART], **options) for start in range(0, len(texts), _PART)]
            parts = [_rows("embedder", part, dim) for part in parts]
        else:
            parts = [_rows("embeddings", embeddings, dim)]
        count = sum(part.shape[0] for part in parts)
        if count != len(texts):
            raise _check.invalid("embeddings", f"{len(texts)} vectors, one for each text", f"{count} vectors")
        old = [] if self._vectors is None else [self._vectors]
        # By column: the texts of each term.
        self._vectors = scipy.sparse.csc_array(scipy.sparse.vstack([*old, *parts], format="csc"))
        self.texts.extend(texts)

    def search(
        self,
        queries: str | Sequence[str] | Any,
        k: int | None = None,
        *,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the texts with the largest dot product with each query.

        Args:
            queries: a string, a list of strings, or a `scipy.sparse` array `(queries, terms)`.
            k: int, at most the number of texts. Defaults to 10, or to all texts if there are fewer.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

        Returns:
            `Hits(ids, scores, texts)`. For one string, int64 and float32 `(k,)` and a list of k strings; for several,
            or for vectors, `(queries, k)` and a list of lists. Best first; the lower id wins ties. Texts without a term
            of the query have score 0 and fill the result if fewer than `k` share one.

        Raises:
            ValueError: if there are no queries, k exceeds the number of texts, or vectors have another size.
        """
        k = _top_k.check_k(k, len(self))
        is_one = isinstance(queries, (str, bytes))
        if not scipy.sparse.issparse(queries):
            names = _texts.strings("queries", [queries] if is_one else queries)
            encode = _encoder(self.embedder, "encode_query")
            queries = encode(names, batch_size=batch_size, progress=progress)
        queries = _rows("queries", queries, self._vectors.shape[1])
        if not queries.shape[0]:
            raise _check.invalid("queries", "at least one query", queries.shape)
        found = [self._best(queries[rows], k) for rows in self._blocks(queries.shape[0])]
        ids, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        texts = [[self.texts[i] for i in row] for row in ids.tolist()]
        return Hits(ids[0], scores[0], texts[0]) if is_one else Hits(ids, scores, texts)

    def _blocks(self, count):
        # The same number of scores at a time as for dense vectors: 32 MB in float32.
        step = max(_neighbours.QUERY_CHUNK * _neighbours.CORPUS_CHUNK // len(self), 1)
        return [slice(start, start + step) for start in range(0, count, step)]

    def _best(self, queries, k):
        best = _neighbours.Best(queries.shape[0], k)
        best.add((queries @ self._vectors.T).toarray())
        return best.result()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes texts and vectors to a directory that `load` reads; save the embedder separately.

        They are stored in one file, `sparse_index.npz`. An existing index in the directory is replaced atomically: if a
        save fails, the old one remains. Other files in the directory are kept.

        Args:
            folder: string or path on the local disk. Created if it does not exist.

        Raises:
            ValueError: if `folder` is a URL such as `gs://...`: save locally and copy the directory.
        """
        arrays = {"weights": self._vectors.data, "places": self._vectors.indices, "ends": self._vectors.indptr}
        # With more than 2^31 terms, scipy's own indices have 64 bits.
        arrays = {key: array if key == "weights" else array.astype("int64") for key, array in arrays.items()}
        _one_file.write(folder, _FILE, {"terms": self._vectors.shape[1]}, self.texts, arrays)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embedder: Any) -> Self:
        """Reads an index that `save` wrote.

        Args:
            folder: string or path.
            embedder: the embedder that the index was created with, for texts as queries; or `None`.

        Returns:
            `SparseIndex`.

        Raises:
            ValueError: if the directory contains no index or a damaged one; the message names the file.
        """

        def expected(settings, count):
            sizes = {"weights": ("float32", (None,)), "places": ("int64", (None,))}
            return {**sizes, "ends": ("int64", (settings["terms"] + 1,))}

        saved = _one_file.read(folder, _FILE, "SparseIndex.save", {"terms": int}, expected)
        made = object.__new__(cls)
        made.embedder, made.texts = embedder, saved.texts
        with saved.reader.guard(saved.file):
            parts = tuple(saved.arrays[key] for key in ("weights", "places", "ends"))
            made._vectors = scipy.sparse.csc_array(parts, shape=(len(saved.texts), saved.settings["terms"]))
            made._vectors.check_format()
        return made


def _encoder(embedder, method):
    found = getattr(embedder, method, None)
    if found is None:
        expected = f"a `models.SparseEmbedder`, or any object with `{method}(texts)`"
        raise _check.invalid("embedder", expected, embedder, "Or pass vectors instead of texts.")
    return found


def _rows(argument, vectors, dim):
    """Returns sparse vectors as a float32 `csr_array`; raises for another form or size, NaN or infinity."""
    if not scipy.sparse.issparse(vectors) or len(vectors.shape) != 2:
        expected = "a `scipy.sparse` array (rows, terms)"
        raise _check.invalid(argument, expected, getattr(vectors, "shape", vectors))
    if dim is not None and vectors.shape[1] != dim:
        raise _check.invalid(argument, f"vectors of {dim} terms, as the index has", vectors.shape)
    found = scipy.sparse.csr_array(vectors).astype("float32")
    if not np.isfinite(found.data).all():
        raise _check.invalid(argument, "finite numbers", found.data[~np.isfinite(found.data)][0])
    return found
