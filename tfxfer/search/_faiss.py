"""Search by faiss, which is optional."""

import importlib
import pathlib

import numpy as np

from tfxfer import _check, _neighbours

FACTORIES = {"float32": "Flat", "int8": "SQ8", "binary": "BFlat"}


def load():
    """Returns the module `faiss`.

    Raises:
        ImportError: where it is missing; it names the package.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            "`backend='faiss'` needs the package faiss-cpu (or faiss-gpu): `pip install faiss-cpu`. "
            "`backend='exact'` needs nothing more."
        ) from error


class FaissIndex:
    """A faiss index that answers as the exact search does: larger scores are closer."""

    def __init__(self, dim, precision, similarity, factory=None):
        faiss = load()
        if similarity == "manhattan":
            raise _check.invalid("similarity", "'cosine', 'dot' or 'euclidean' for faiss", similarity)
        self.similarity, self.precision, self.dim = similarity, precision, dim
        factory = factory or FACTORIES[precision]
        if precision == "binary":
            # faiss takes whole bytes; the words of the codes are 8 each.
            self.index = faiss.index_binary_factory(-(-dim // 64) * 64, factory)
        else:
            metric = faiss.METRIC_L2 if similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
            self.index = faiss.index_factory(dim, factory, metric)

    def __len__(self):
        return int(self.index.ntotal)

    def add(self, vectors):
        """Adds float vectors `(rows, dim)` or binary codes; the first ones train an index that has to be trained."""
        vectors = self._prepare(vectors)
        if not self.index.is_trained:
            self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries, k):
        """Returns ids and scores `(queries, k)`; where an approximate index finds fewer, id -1 and score -inf."""
        scores, ids = self.index.search(self._prepare(queries), k)
        if self.precision == "binary":
            scores = 1 - 2 * scores.astype("float32") / self.dim
        elif self.similarity == "euclidean":
            scores = -np.sqrt(np.maximum(scores, 0.0))
        return np.asarray(ids, "int64"), np.where(ids < 0, -np.inf, scores).astype("float32")

    def save(self, path):
        """Writes the index to a file."""
        faiss = load()
        write = faiss.write_index_binary if self.precision == "binary" else faiss.write_index
        write(self.index, str(pathlib.Path(path)))

    def load(self, path):
        """Takes the index out of a file that `save` wrote; raises for one of vectors of another size."""
        faiss = load()
        read = faiss.read_index_binary if self.precision == "binary" else faiss.read_index
        found = read(str(pathlib.Path(path)))
        if found.d != self.index.d:
            raise ValueError(f"vectors of {found.d} components, not {self.index.d}")
        self.index = found

    def _prepare(self, vectors):
        if self.precision == "binary":
            return np.ascontiguousarray(vectors.codes).view("uint8")
        vectors = _neighbours.unit(vectors) if self.similarity == "cosine" else vectors
        return np.ascontiguousarray(vectors, "float32")
