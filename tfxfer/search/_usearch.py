"""Search with the optional package usearch: an approximate graph search that finds most of the nearest vectors."""

import importlib

import numpy as np

from tfxfer import _check, _neighbours
from tfxfer.search import _quantize, _top_k
from tfxfer.search._engines import Engine

OPTIONS = ("connectivity", "expansion_add", "expansion_search")
_DTYPES = {"float32": "f32", "int8": "i8", "binary": "b1"}
_METRICS = {"cosine": "cos", "dot": "ip", "euclidean": "l2sq"}


def load():
    """Returns the module `usearch.index`.

    Raises:
        ImportError: if it is not installed; the message names the package.
    """
    try:
        return importlib.import_module("usearch.index")
    except ImportError as error:
        raise ImportError(
            "`backend='usearch'` requires the package usearch: `pip install usearch`. "
            "`backend='exact'` requires no other package."
        ) from error


class UsearchIndex(Engine):
    """A usearch index. Filtered searches are exact, over the vectors that match."""

    name = "usearch"

    def _make(self):
        if self.precision == "int8" and self.similarity != "cosine":
            remedy = "usearch's int8 does not keep lengths. Use `precision='float32'`, or faiss."
            raise _check.invalid("similarity", "'cosine' for int8 with usearch", self.similarity, remedy)
        self._options = _options(self.factory)
        is_binary = self.precision == "binary"
        size = -(-self.dim // 64) * 64 if is_binary else self.dim
        metric = "hamming" if is_binary else _METRICS[self.similarity]
        self.index = load().Index(ndim=size, metric=metric, dtype=_DTYPES[self.precision], **self._options)

    def _prepare(self, vectors):
        if self.precision == "binary":
            return np.ascontiguousarray(vectors.codes).view("uint8")
        return np.ascontiguousarray(vectors, "float32")

    def _add(self, vectors, numbers):
        self.index.add(numbers, vectors)

    def _remove(self, numbers):
        if len(numbers):
            self.index.remove(numbers)

    def _search(self, queries, k, numbers, live):
        if numbers is not None:
            return self._exact(queries, k, numbers)
        found = self.index.search(self._prepare(queries), k)
        keys, distances = (np.reshape(part, (len(queries), -1)) for part in (found.keys, found.distances))
        counts = np.reshape(getattr(found, "counts", len(found)), (-1, 1))
        is_there = np.arange(keys.shape[1]) < counts
        keys = np.where(is_there, keys.astype("int64"), -1)
        distances = np.where(is_there, distances, np.inf).astype("float32")
        if self.precision == "binary":
            scores = 1 - 2 * distances / self.dim
        else:
            scores = -np.sqrt(np.maximum(distances, 0)) if self.similarity == "euclidean" else 1 - distances
        return _top_k.filled(keys, scores, k)

    def _exact(self, queries, k, numbers):
        """Searches some vectors exhaustively; usearch returns them in blocks."""
        count = min(k, len(numbers))
        is_binary = self.precision == "binary"
        nearest = _neighbours.Nearest(
            queries.codes if is_binary else _quantize.floats(queries),
            count,
            "hamming" if is_binary else self.similarity,
        )
        for start in range(0, len(numbers), _neighbours.CORPUS_CHUNK):
            part = np.stack(self.index.get(numbers[start : start + _neighbours.CORPUS_CHUNK]))
            nearest.add(np.ascontiguousarray(part).view("uint64") if is_binary else part.astype("float32"))
        places, scores = nearest.result()
        scores = 1 + 2 * scores / np.float32(self.dim) if is_binary else scores
        return _top_k.filled(numbers[places], scores, k)

    def save(self, path):
        """Writes the index to a file."""
        self.index.save(str(path))

    def load(self, path, labels=None, *, mmap=False):
        """Reads the index from a file that `save` wrote, or maps it; raises if its vectors are of another kind."""
        found = load().Index.restore(str(path), view=mmap, **self._options)
        if found is None:
            raise ValueError("is no index of usearch")
        if (found.ndim, found.dtype, found.metric_kind) != (self.index.ndim, self.index.dtype, self.index.metric_kind):
            raise ValueError(f"vectors of {found.ndim} components, {found.dtype}, {found.metric_kind}")
        self.index = found
        self.labels = np.arange(len(found)) if labels is None else np.array(labels)
        if len(self) != len(found):
            raise ValueError(f"holds {len(found)} vectors for {len(self)} labels")


def _options(factory):
    """Parses settings such as `"connectivity=32,expansion_search=128"` into a dict of ints."""
    found: dict[str, int] = {}
    for part in (factory or "").split(",") if factory else []:
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in OPTIONS or not value.isdecimal() or not int(value) or name in found:
            expected = (
                f"settings of usearch such as 'connectivity=32,expansion_search=128', out of {', '.join(OPTIONS)}"
            )
            raise _check.invalid("factory", expected, factory)
        found[name] = int(value)
    return found
