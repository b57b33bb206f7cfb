"""Search with the optional package faiss."""

import importlib
import pathlib

import numpy as np

from tfxfer import _check, _neighbours
from tfxfer.search._engines import Engine

FACTORIES = {"float32": "Flat", "int8": "SQ8", "binary": "BFlat"}


def load():
    """Returns the module `faiss`.

    Raises:
        ImportError: if it is not installed; the message names the package.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            "`backend='faiss'` requires the package faiss-cpu (or faiss-gpu): `pip install faiss-cpu`. "
            "`backend='exact'` requires no other package."
        ) from error


class FaissIndex(Engine):
    """A faiss index. Removed vectors stay in it, and filters use faiss's id selectors."""

    name = "faiss"

    def _make(self):
        faiss = load()
        factory = self.factory or FACTORIES[self.precision]
        if self.precision == "binary":
            # faiss requires whole bytes; our codes consist of words of 8 bytes each.
            self.index = faiss.index_binary_factory(-(-self.dim // 64) * 64, factory)
        else:
            metric = faiss.METRIC_L2 if self.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
            self.index = faiss.index_factory(self.dim, factory, metric)

    def _prepare(self, vectors):
        if self.precision == "binary":
            return np.ascontiguousarray(vectors.codes).view("uint8")
        vectors = _neighbours.unit(vectors) if self.similarity == "cosine" else vectors
        return np.ascontiguousarray(vectors, "float32")

    def _add(self, vectors, numbers):
        # The first vectors train an index that requires training.
        if not self.index.is_trained:
            self.index.train(vectors)
        self.index.add(vectors)

    def _search(self, queries, k, numbers, live):
        queries = self._prepare(queries)
        if numbers is None and live.all():
            scores, found = self.index.search(queries, k)
        else:
            scores, found = self._selected(queries, k, np.flatnonzero(live))
        if self.precision == "binary":
            scores = 1 - 2 * scores.astype("float32") / self.dim
        elif self.similarity == "euclidean":
            scores = -np.sqrt(np.maximum(scores, 0.0))
        return np.asarray(found, "int64"), scores

    def _selected(self, queries, k, numbers):
        faiss = load()
        selector = faiss.IDSelectorBatch(numbers.astype("int64"))
        index = self.index if self.precision == "binary" else faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
        elif isinstance(index, faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        try:
            return self.index.search(queries, k, params=parameters)
        except RuntimeError as error:  # with a C++ stack trace
            remedy = "Use `backend='exact'`, or a factory such as 'Flat', 'SQ8', 'IVF...' or 'HNSW...'."
            expected = "an index that can leave rows out, as filters and removed texts require"
            received = self.factory or FACTORIES[self.precision]
            raise _check.invalid("factory", expected, received, remedy) from error

    def save(self, path):
        """Writes the index to a file."""
        faiss = load()
        write = faiss.write_index_binary if self.precision == "binary" else faiss.write_index
        write(self.index, str(pathlib.Path(path)))

    def load(self, path, labels=None):
        """Reads the index from a file that `save` wrote; raises if its vectors have another size."""
        faiss = load()
        read = faiss.read_index_binary if self.precision == "binary" else faiss.read_index
        found = read(str(pathlib.Path(path)))
        if found.d != self.index.d:
            raise ValueError(f"vectors of {found.d} components, not {self.index.d}")
        self.index = found
        count = int(found.ntotal)
        self.labels = np.arange(count) if labels is None else np.array(labels)
        if len(self.labels) != count:
            raise ValueError(f"holds {count} vectors for {len(self.labels)} labels")
