"""Unit vectors in few bits: the nearest of some centroids, and what is left in one, two or four bits a component."""

import numpy as np
import sklearn.cluster

BITS = (1, 2, 4)
# Vectors that are compared with the centroids, or made floats again, at a time.
_ROWS = 16_384
# Residuals whose quantiles are taken.
_SAMPLE = 100_000


class ResidualCodec:
    """Turns unit vectors into codes and back.

    A vector is its nearest centroid and a residual; each component of a residual becomes one of `2^bits` intervals,
    which are the same for all components and hold as many residuals each. It comes back as the mean of the interval's
    residuals, and the sum is scaled to length 1 again.

    Args:
        centroids: float32 array `(count, dim)`.
        bits: int, one of `BITS`.
        cuts: float32 array `(2^bits - 1,)`, rising: where one interval ends.
        values: float32 array `(2^bits,)`: what each stands for.
    """

    def __init__(self, centroids, bits, cuts, values):
        self.centroids, self.bits, self.cuts, self.values = centroids, bits, cuts, values
        self._per_byte = 8 // bits
        shifts = bits * np.arange(self._per_byte)
        # For each byte the residuals that it stands for.
        self._table = values[(np.arange(256)[:, None] >> shifts) & (2**bits - 1)].astype("float32")

    @classmethod
    def fit(cls, vectors, bits, count, seed):
        """Finds centroids and intervals for vectors like some typical ones.

        Args:
            vectors: float32 array `(rows, dim)` of unit vectors, at least one.
            bits: int, one of `BITS`.
            count: int. Centroids, at most as many as there are rows.
            seed: int, of k-means and the sample.
        """
        if count < len(vectors):
            kmeans = sklearn.cluster.MiniBatchKMeans(
                count, batch_size=4096, max_iter=20, n_init=1, reassignment_ratio=0.0, random_state=seed
            )
            centroids = kmeans.fit(vectors).cluster_centers_.astype("float32")
        else:
            centroids = vectors.copy()
        rng = np.random.default_rng(seed)
        some = vectors[rng.choice(len(vectors), min(len(vectors), _SAMPLE), replace=False)]
        left = (some - centroids[nearest(some, centroids)]).ravel()
        cuts = np.quantile(left, np.arange(1, 2**bits) / 2**bits).astype("float32")
        places = np.searchsorted(cuts, left, side="right")
        counts = np.bincount(places, minlength=2**bits)
        sums = np.bincount(places, weights=left, minlength=2**bits)
        # An interval without residuals, as where all are equal, stands for its border.
        borders = np.concatenate([cuts, cuts[-1:]])
        values = np.where(counts > 0, sums / np.maximum(counts, 1), borders).astype("float32")
        return cls(centroids, bits, cuts, values)

    @property
    def dim(self):
        """Components of a vector."""
        return self.centroids.shape[1]

    @property
    def width(self):
        """Bytes of a vector's residual."""
        return -(-self.dim // self._per_byte)

    @property
    def nbytes(self):
        """Bytes of the centroids and intervals."""
        return self.centroids.nbytes + self.cuts.nbytes + self.values.nbytes

    def encode(self, vectors):
        """Returns the centroid of each vector, int32 `(rows,)`, and its residual, uint8 `(rows, width)`."""
        places = nearest(vectors, self.centroids)
        codes = np.zeros((len(vectors), self.width), "uint8")
        for start in range(0, len(vectors), _ROWS):
            rows = slice(start, start + _ROWS)
            left = vectors[rows] - self.centroids[places[rows]]
            intervals = np.searchsorted(self.cuts, left, side="right").astype("uint8")
            for place in range(self._per_byte):
                part = intervals[:, place :: self._per_byte]
                codes[rows, : part.shape[1]] |= part << np.uint8(self.bits * place)
        return places, codes

    def decode(self, places, codes):
        """Returns the vectors that codes stand for, float32 `(rows, dim)`, of length 1."""
        left = self._table[codes].reshape(len(codes), -1)[:, : self.dim]
        vectors = self.centroids[places] + left
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(vectors, centroids):
    """Returns the nearest centroid of each vector by the Euclidean distance, int32 `(rows,)`; of equals the first."""
    squares = 0.5 * np.sum(np.square(centroids), axis=1)
    found = np.zeros(len(vectors), "int32")
    for start in range(0, len(vectors), _ROWS):
        rows = slice(start, start + _ROWS)
        found[rows] = np.argmax(vectors[rows] @ centroids.T - squares, axis=1)
    return found
