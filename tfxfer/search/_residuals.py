"""Compresses unit vectors to the nearest of some centroids and a residual of one, two or four bits per component."""

import numpy as np
import sklearn.cluster

BITS = (1, 2, 4)
# Number of vectors compared with the centroids, or decoded to floats, at a time.
_ROWS = 16_384
# Number of residuals whose quantiles are computed.
_SAMPLE = 100_000


class ResidualCodec:
    """Encodes unit vectors as codes and decodes them.

    A vector is encoded as its nearest centroid and a residual. Each component of a residual is assigned to one of
    `2^bits` intervals, which are the same for all components and contain equal numbers of residuals. It is decoded as
    the mean of the interval's residuals, and the sum is scaled to length 1.

    Args:
        centroids: float32 array `(count, dim)`.
        bits: int, one of `BITS`.
        cuts: float32 array `(2^bits - 1,)`, increasing: the ends of the intervals.
        values: float32 array `(2^bits,)`: the decoded value of each interval.
    """

    def __init__(self, centroids, bits, cuts, values):
        self.centroids, self.bits, self.cuts, self.values = centroids, bits, cuts, values
        self._per_byte = 8 // bits
        shifts = bits * np.arange(self._per_byte)
        # The residuals encoded in each byte.
        self._table = values[(np.arange(256)[:, None] >> shifts) & (2**bits - 1)].astype("float32")

    @classmethod
    def fit(cls, vectors, bits, count, seed):
        """Fits centroids and intervals to typical vectors.

        Args:
            vectors: float32 array `(rows, dim)` of unit vectors, at least one.
            bits: int, one of `BITS`.
            count: int. Number of centroids, at most the number of rows.
            seed: int. Seed of k-means and of the sample.
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
        # An interval without residuals, for example if all are equal, is decoded as its border.
        borders = np.concatenate([cuts, cuts[-1:]])
        values = np.where(counts > 0, sums / np.maximum(counts, 1), borders).astype("float32")
        return cls(centroids, bits, cuts, values)

    @property
    def dim(self):
        """Number of components of a vector."""
        return self.centroids.shape[1]

    @property
    def width(self):
        """Number of bytes of a vector's residual."""
        return -(-self.dim // self._per_byte)

    @property
    def nbytes(self):
        """Size in bytes of the centroids and intervals."""
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
        """Returns the decoded vectors, float32 `(rows, dim)`, with length 1."""
        left = self._table[codes].reshape(len(codes), -1)[:, : self.dim]
        vectors = self.centroids[places] + left
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(vectors, centroids):
    """Returns the nearest centroid of each vector by Euclidean distance, int32 `(rows,)`; the first wins ties."""
    squares = 0.5 * np.sum(np.square(centroids), axis=1)
    found = np.zeros(len(vectors), "int32")
    for start in range(0, len(vectors), _ROWS):
        rows = slice(start, start + _ROWS)
        found[rows] = np.argmax(vectors[rows] @ centroids.T - squares, axis=1)
    return found
