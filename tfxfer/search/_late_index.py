"""Late-interaction search in a corpus of texts, token by token."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import numpy as np

from tfxfer import _check, _maxsim, _neighbours, _texts
from tfxfer.search import _one_file, _residuals, _top_k
from tfxfer.search._records import Hits

_FILE = "late_interaction_index.npz"
# Number of texts encoded at a time; the codes are fitted on the tokens of the first of these chunks.
_PART = 4096
_FITTED = 262_144


class LateInteractionIndex:
    """Holds a vector for each token of the texts, as floats or in few bits, and finds the texts of largest MaxSim.

    | bits | bytes per token of 128 components | search |
    |---|---|---|
    | `None` | 512 | exact |
    | `4` | 68 | over the rounded vectors; with `nprobe` only over candidates |
    | `2` | 36 | the same |
    | `1` | 20 | the same |

    With bits, a vector is stored as its nearest centroid, found by k-means, and a residual with that many bits per
    component, as in ColBERTv2. Unlike there, an interval of residuals is decoded to their mean, not their median.

    Args:
        embedder: `models.LateInteractionEmbedder`, or any object with `encode_query` and `encode_document` that map a
            list of strings to a list of arrays `(tokens, dim)`. May be `None` if `embeddings` is given and queries are
            vectors.
        texts: list or other iterable of strings.
        embeddings: list of float arrays `(tokens, dim)`: the vectors, if already computed. With `bits` they are scaled
            to length 1.
        bits: `None`, 1, 2 or 4. Defaults to 2, as in ColBERTv2.
        num_centroids: int. Defaults to the power of 2 nearest to `4 sqrt(tokens)` of the texts they are fitted on
            (PLAID uses `16 sqrt(tokens)`), and at most the number of these tokens.
        calibration: list of float arrays `(tokens, dim)` of typical texts, for fitting centroids and intervals.
            Defaults to the first 4,096 texts. Of more than 262,144 tokens, a random sample is used.
        seed: int. Seed of k-means and of that sample.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Raises:
        ValueError: if the corpus is empty, a text is not a string, or vectors do not match.

    Example:

    >>> vectors = [np.eye(2), np.array([[0.0, 1.0]])]  # of two tokens, and of one
    >>> index = tx.search.LateInteractionIndex(None, ["lost card", "loan"], embeddings=vectors, bits=None)
    >>> hits = index.search(np.array([[1.0, 0.0], [0.5, 0.75]]), k=2)
    >>> hits.texts, hits.scores.tolist()
    (['lost card', 'loan'], [1.75, 0.75])

    ```python
    index = tx.search.LateInteractionIndex(late_interaction_embedder, texts, bits=2)
    hits = index.search("Where is my card?", k=3)
    index.save("index")
    index = tx.search.LateInteractionIndex.load("index", late_interaction_embedder)
    ```

    References:
        - [Santhanam et al., 2022](https://arxiv.org/abs/2112.01488), ColBERTv2: codes
        - [Santhanam et al., 2022](https://arxiv.org/abs/2205.09707), PLAID: candidates by centroid
    """

    def __init__(
        self,
        embedder: Any,
        texts: Iterable[str],
        *,
        embeddings: Sequence[np.ndarray] | None = None,
        bits: Literal[1, 2, 4] | None = 2,
        num_centroids: int | None = None,
        calibration: Sequence[np.ndarray] | None = None,
        seed: int = 0,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        if bits is not None and (isinstance(bits, bool) or bits not in _residuals.BITS):
            raise _check.invalid("bits", "None, 1, 2 or 4", bits)
        for name, value in (("num_centroids", num_centroids), ("calibration", calibration)):
            if bits is None and value is not None:
                raise _check.invalid(name, "None without `bits`", value)
        self.embedder = embedder
        self.texts: list[str] = []
        self.bits = bits
        self._num_centroids = _check.integer("num_centroids", num_centroids, optional=True)
        self._seed = _check.integer("seed", seed, minimum=0)
        self._codec: Any = None
        self._counts = np.zeros(0, "int64")  # tokens of each text
        self._places = np.zeros(0, "int32")  # the centroid of each token
        self._vectors: Any = None  # float32 `(tokens, dim)`, or uint8 codes of residuals
        self._lists: Any = None
        if calibration is not None:
            self._fit(_maxsim.rows("calibration", calibration), "calibration")
        self.add(texts, embeddings=embeddings, batch_size=batch_size, progress=progress)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self):
        return f"LateInteractionIndex({len(self)} texts, {len(self._vectors)} tokens, bits={self.bits})"

    @property
    def nbytes(self) -> int:
        """Size in bytes of the vectors or codes, including centroids."""
        held = self._vectors.nbytes + self._counts.nbytes + self._places.nbytes
        return held + (0 if self._codec is None else self._codec.nbytes)

    @property
    def embedding_dim(self) -> int:
        """Number of components of a token's vector."""
        return self._vectors.shape[1] if self._codec is None else self._codec.dim

    def vectors(self, ids: Any) -> list[np.ndarray]:
        """Returns the token vectors of some texts; with bits, the rounded ones.

        Args:
            ids: ints, indices of texts.

        Returns:
            A list of float32 arrays `(tokens, dim)`.
        """
        ids = np.asarray(ids, "int64").reshape(-1)
        if len(ids) and not (0 <= ids.min() and ids.max() < len(self)):
            raise _check.invalid("ids", f"ints from 0 to {len(self) - 1}", ids)
        flat, counts = self._flat(ids)
        return np.split(flat, np.cumsum(counts)[:-1]) if len(ids) else []

    def add(
        self,
        texts: Iterable[str],
        *,
        embeddings: Sequence[np.ndarray] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        """Adds texts; their ids continue the existing ones. Codes keep the existing centroids.

        Args:
            texts: list or other iterable of strings.
            embeddings: list of float arrays `(tokens, dim)`: the vectors, if already computed.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.
        """
        texts = _texts.strings("texts", texts)
        dim = None if self._vectors is None and self._codec is None else self.embedding_dim
        if embeddings is not None:
            embeddings = _maxsim.rows("embeddings", embeddings, dim)
            if len(embeddings) != len(texts):
                expected = f"{len(texts)} arrays, one for each text"
                raise _check.invalid("embeddings", expected, f"{len(embeddings)} arrays")
        counts, places, vectors = [self._counts], [self._places], [] if self._vectors is None else [self._vectors]
        for start in range(0, len(texts), _PART):
            part = slice(start, start + _PART)
            if embeddings is None:
                encode = _encoder(self.embedder, "encode_document")
                found = encode(texts[part], batch_size=batch_size, progress=progress)
                found = _maxsim.rows("embedder", found, dim)
            else:
                found = embeddings[part]
            if self.bits is not None and self._codec is None:
                self._fit(found, "texts")
            flat, sizes = _maxsim.joined(found)
            counts.append(sizes)
            if self.bits is not None:
                held, flat = self._codec.encode(_neighbours.unit(flat))
                places.append(held)
            vectors.append(flat)
            dim = found[0].shape[1]
        self._counts, self._places, self._vectors = map(np.concatenate, (counts, places, vectors))
        self.texts.extend(texts)
        self._lists = None

    def _fit(self, rows, argument):
        flat, _ = _maxsim.joined(rows)
        if not len(flat):
            raise _check.invalid(argument, "texts with at least one token to find centroids on", f"{len(rows)} texts")
        if len(flat) > _FITTED:
            flat = flat[np.random.default_rng(self._seed).choice(len(flat), _FITTED, replace=False)]
        count = self._num_centroids or 2 ** round(np.log2(4 * np.sqrt(len(flat))))
        flat = _neighbours.unit(flat)
        self._codec = _residuals.ResidualCodec.fit(flat, self.bits, min(count, len(flat)), self._seed)

    def _flat(self, ids):
        """Returns the concatenated token vectors of texts, and the number of tokens of each."""
        counts = self._counts[ids]
        starts = (np.cumsum(self._counts) - self._counts)[ids]
        # The position of each token: the start of its text plus the number of earlier tokens in it.
        before = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        tokens = np.repeat(starts, counts) + before
        if self._codec is None:
            return self._vectors[tokens], counts
        return self._codec.decode(self._places[tokens], self._vectors[tokens]), counts

    def search(
        self,
        queries: Any,
        k: int | None = None,
        *,
        nprobe: int | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the texts with the largest MaxSim to each query.

        Args:
            queries: a string, a list of strings, a float array `(tokens, dim)` or a list of such arrays.
            k: int, at most the number of texts. Defaults to 10, or to all texts if there are fewer.
            nprobe: int. Searches only texts with a token whose centroid is among the `nprobe` nearest to a token of the
                query; their scores do not change. Defaults to `None`: all texts.
            batch_size: int. Number of texts encoded at a time.
            progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

        Returns:
            `Hits(ids, scores, texts)`. For one query, int64 and float32 `(k,)` and a list of k strings; for several,
            `(queries, k)` and a list of lists. Best first; the lower id wins ties. If `nprobe` finds fewer texts, the
            rest has id -1, score -inf and text `None`.

        Raises:
            ValueError: if there are no queries, k exceeds the number of texts, vectors have another size, or `nprobe`
                is passed to an index without `bits`.
        """
        k = _top_k.check_k(k, len(self))
        nprobe = _check.integer("nprobe", nprobe, optional=True)
        if nprobe is not None and self._codec is None:
            raise _check.invalid("nprobe", "None for an index without `bits`, which has no centroids", nprobe)
        is_one = isinstance(queries, (str, bytes)) or (isinstance(queries, np.ndarray) and queries.ndim == 2)
        queries = [queries] if is_one else list(queries)
        if not queries:
            raise _check.invalid("queries", "at least one query", queries)
        if isinstance(queries[0], (str, bytes)):
            names = _texts.strings("queries", queries)
            encode = _encoder(self.embedder, "encode_query")
            queries = encode(names, batch_size=batch_size, progress=progress)
        queries = _maxsim.rows("queries", queries, self.embedding_dim)
        if nprobe is None:
            ids, scores = self._best(queries, np.arange(len(self)), k)
        else:
            found = [self._best([query], self._candidates(query, nprobe), k) for query in queries]
            ids, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        texts = [[self.texts[i] if i >= 0 else None for i in row] for row in ids.tolist()]
        return Hits(ids[0], scores[0], texts[0]) if is_one else Hits(ids, scores, texts)

    def _best(self, queries, candidates, k):
        """Returns the `k` best of some texts for each query; `candidates` are in increasing order of their ids."""
        best = _neighbours.Best(len(queries), k)
        # Limits the token vectors that are decoded to floats at a time: 32 MB at 128 components.
        for rows in _maxsim.blocks(self._counts[candidates], 8 * _neighbours.CORPUS_CHUNK):
            best.add(_maxsim.of_flat(queries, *self._flat(candidates[rows])))
        ids, scores = best.result()
        found = np.where(ids < 0, -1, candidates[ids]) if len(candidates) else ids
        return found, scores

    def _candidates(self, query, nprobe):
        """Returns the texts with a token near one of the query's."""
        nprobe = min(nprobe, len(self._codec.centroids))
        scores = query @ self._codec.centroids.T
        chosen = np.unique(np.argsort(-scores, axis=1, kind="stable")[:, :nprobe])
        starts, texts = self._inverted()
        parts = [texts[starts[i] : starts[i + 1]] for i in chosen]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, "int64")

    def _inverted(self):
        """Returns the start of each centroid's texts, and these texts; created on the first call."""
        if self._lists is None:
            tokens = np.repeat(np.arange(len(self)), self._counts)
            pairs = np.unique(self._places.astype("int64") * len(self) + tokens)
            bounds = np.arange(len(self._codec.centroids) + 1) * len(self)
            self._lists = (np.searchsorted(pairs, bounds), pairs % len(self))
        return self._lists

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes texts, codes and settings to a directory that `load` reads; save the embedder separately.

        They are stored in one file, `late_interaction_index.npz`. An existing index in the directory is replaced
        atomically: if a save fails, the old one remains. Other files in the directory are kept.

        Args:
            folder: string or path on the local disk. Created if it does not exist.

        Raises:
            ValueError: if `folder` is a URL such as `gs://...`: save locally and copy the directory.
        """
        arrays = {"counts": self._counts, "places": self._places, "vectors": self._vectors}
        if self._codec is not None:
            arrays |= {name: getattr(self._codec, name) for name in ("centroids", "cuts", "values")}
        settings = {"bits": self.bits, "dim": self.embedding_dim, "seed": self._seed}
        _one_file.write(folder, _FILE, settings, self.texts, arrays)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embedder: Any) -> Self:
        """Reads an index that `save` wrote.

        Args:
            folder: string or path.
            embedder: the embedder that the index was created with, for texts as queries; or `None`.

        Returns:
            `LateInteractionIndex`.

        Raises:
            ValueError: if the directory contains no index or a damaged one; the message names the file.
        """
        keys = {"bits": (int, type(None)), "dim": int, "seed": int}
        saved = _one_file.read(folder, _FILE, "LateInteractionIndex.save", keys, _expected)
        arrays, bits = saved.arrays, saved.settings["bits"]
        made = object.__new__(cls)
        made.embedder, made.texts, made.bits = embedder, saved.texts, bits
        made._num_centroids, made._seed, made._lists, made._codec = None, saved.settings["seed"], None, None
        made._counts, made._places, made._vectors = (arrays[key] for key in ("counts", "places", "vectors"))
        if bits is not None:
            parts = (arrays[key] for key in ("cuts", "values"))
            made._codec = _residuals.ResidualCodec(arrays["centroids"], bits, *parts)
        tokens, places = len(made._vectors), made._places
        in_range = not len(places) or (0 <= places.min() and places.max() < len(arrays.get("centroids", ())))
        if made._counts.min() < 0 or made._counts.sum() != tokens or len(places) not in (0, tokens) or not in_range:
            raise saved.reader.error(saved.file, "holds parts that do not belong together")
        return made


def _expected(settings, count):
    """Returns the dtypes and shapes of the arrays in a file."""
    bits, dim = settings["bits"], settings["dim"]
    found: dict[str, Any] = {"counts": ("int64", (count,)), "places": ("int32", (None,))}
    if bits not in _residuals.BITS:
        return {**found, "vectors": ("float32", (None, dim))}
    found |= {"vectors": ("uint8", (None, -(-dim * bits // 8))), "centroids": ("float32", (None, dim))}
    return {**found, "cuts": ("float32", (2**bits - 1,)), "values": ("float32", (2**bits,))}


def _encoder(embedder, method):
    found = getattr(embedder, method, None)
    if found is None:
        expected = f"a `models.LateInteractionEmbedder`, or any object with `{method}(texts)`"
        raise _check.invalid("embedder", expected, embedder, "Or pass vectors instead of texts.")
    return found
