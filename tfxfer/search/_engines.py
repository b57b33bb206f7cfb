"""Common base of the indexes of optional packages."""

import numpy as np

from tfxfer import _check


class Engine:
    """An index of another package with the interface of the exact search: larger scores are closer.

    The package numbers the vectors in the order of insertion; `labels` maps each to our row, -1 if it was removed.

    Args:
        dim: int. Number of components of a vector.
        precision: `"float32"`, `"int8"` or `"binary"`.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        factory: string, the settings of the package's index, or `None`.
    """

    name = ""

    def __init__(self, dim, precision, similarity, factory=None):
        if similarity == "manhattan":
            raise _check.invalid("similarity", f"'cosine', 'dot' or 'euclidean' for {self.name}", similarity)
        self.dim, self.precision, self.similarity, self.factory = dim, precision, similarity, factory
        self.labels = np.zeros(0, "int64")
        self._make()

    def __len__(self):
        return int(np.count_nonzero(self.labels >= 0))

    @property
    def are_plain(self):
        """Whether the package's numbers equal our rows."""
        return bool(np.array_equal(self.labels, np.arange(len(self.labels))))

    def add(self, vectors):
        """Adds float vectors `(rows, dim)` or binary codes."""
        first = len(self)
        self._add(self._prepare(vectors), np.arange(len(self.labels), len(self.labels) + len(vectors)))
        self.labels = np.concatenate([self.labels, np.arange(first, first + len(vectors))])

    def keep(self, kept):
        """Keeps only the rows of a mask; they are renumbered without gaps."""
        rows = np.where(kept, np.cumsum(kept) - 1, -1)
        live = np.flatnonzero(self.labels >= 0)
        gone = live[~kept[self.labels[live]]]
        self._remove(gone)
        self.labels[live] = rows[self.labels[live]]

    def search(self, queries, k, allowed=None):
        """Returns rows and scores `(queries, k)`; if fewer are found, the rest has row -1 and score -inf.

        Args:
            queries: float vectors or binary codes.
            k: int.
            allowed: bool `(rows,)`, the rows to search; `None` for all.
        """
        if allowed is not None and not allowed.any():
            return np.full((len(queries), k), -1, "int64"), np.full((len(queries), k), -np.inf, "float32")
        live = self.labels >= 0
        if allowed is not None:
            live[live] = allowed[self.labels[live]]
        is_all = allowed is None or bool(allowed.all())
        numbers, scores = self._search(queries, k, None if is_all else np.flatnonzero(live), live)
        found = numbers >= 0
        rows = np.where(found, self.labels[np.where(found, numbers, 0)], -1)
        return rows, np.where(rows < 0, -np.inf, scores).astype("float32")

    # === Hooks of each package ===

    def _make(self):
        """Sets `self.index` to an empty index."""
        raise NotImplementedError

    def _prepare(self, vectors):
        """Returns the vectors in the form that the package takes."""
        raise NotImplementedError

    def _add(self, vectors, numbers):
        raise NotImplementedError

    def _remove(self, numbers):
        """Removes vectors from the index, or keeps them there: they are never requested again."""

    def save(self, path):
        """Writes the package's index to a file."""
        raise NotImplementedError

    def _search(self, queries, k, numbers, live):
        """Returns numbers and scores; `numbers` are those to search, `None` for all that are `live`."""
        raise NotImplementedError
