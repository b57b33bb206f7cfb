"""Clusters of texts with similar meaning, named by their words."""

import collections
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import sklearn.cluster
import sklearn.exceptions
import threadpoolctl
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.search import _terms

METHODS = ("kmeans", "communities")
# Number of similarities between centers and all rows in a block: 64 MB.
_BLOCK = 2**24
# Number of words in the name of a cluster.
_NAMED = 3


class Cluster(NamedTuple):
    """A group of texts found by `clusters`.

    Attributes:
        name: string, its most characteristic words. Names are unique within a result.
        words: list of strings, the most characteristic first.
        ids: int64 array, the indices of its texts, the one nearest to the center first.
    """

    name: str
    words: list[str]
    ids: np.ndarray


class Clusters(NamedTuple):
    """The result of `clusters`.

    Attributes:
        labels: int64 array `(texts,)`: the index in `clusters` of each text's cluster; -1 if it is in none.
        clusters: list of `Cluster`, the largest first.
    """

    labels: np.ndarray
    clusters: list[Cluster]


def community_detection(
    embeddings: ArrayLike, *, threshold: float = 0.75, min_size: int = 10, progress: bool | None = None
) -> list[np.ndarray]:
    """Finds groups of vectors that lie close to one of them; the number of groups need not be known.

    Each row is a candidate center of a group that contains all rows with at least that cosine to it. The candidate with
    the largest group wins (the lower row in a tie), and its rows are removed. This repeats with the candidates that are
    still available and have enough rows left. Groups therefore do not overlap, and each contains its center. (In the
    function of the same name in sentence-transformers, a row that was already assigned can still be the center of
    another group, which then does not contain it.)

    All pairs are compared, in blocks: this takes about 64 MB in addition to the vectors and the groups.

    Args:
        embeddings: float array `(rows, dim)`.
        threshold: float from -1 to 1. Minimum cosine to the center. Defaults to 0.75.
        min_size: int. Minimum number of rows in a group, including its center. Defaults to 10.
        progress: bool. Whether to show a progress bar. By default, one is shown for more than 100,000 rows in a
            terminal or notebook.

    Returns:
        List of int64 arrays, the largest group first (in a tie, the one found first). Each array starts with the
        center, followed by the nearest rows. Rows without a group are in no array.

    Raises:
        ValueError: if vectors are not finite, or if an argument is out of range.

    Example:

    >>> found = community_detection([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.2]], threshold=0.9, min_size=2)
    >>> [group.tolist() for group in found]
    [[0, 2, 3]]
    """
    vectors = _neighbours.unit(_neighbours.matrix("embeddings", embeddings)).astype("float32")
    _check.number("threshold", threshold, minimum=-1.0, maximum=1.0)
    min_size = _check.integer("min_size", min_size)
    report = _texts.reporter(len(vectors), progress, "row")
    counts = np.zeros(len(vectors), "int64")
    for start in range(0, len(vectors), _neighbours.QUERY_CHUNK):
        rows = slice(start, start + _neighbours.QUERY_CHUNK)
        for first in range(0, len(vectors), _neighbours.CORPUS_CHUNK):
            scores = vectors[rows] @ vectors[first : first + _neighbours.CORPUS_CHUNK].T
            counts[rows] += np.count_nonzero(scores >= threshold, axis=1)
        if report is not None:
            report(len(counts[rows]))
    order = np.lexsort((np.arange(len(counts)), -counts))
    order = order[counts[order] >= min_size]
    is_free, found = np.ones(len(vectors), bool), []
    size = max(1, min(256, _BLOCK // max(len(vectors), 1)))
    while len(order := order[is_free[order]]):
        centres, order = order[:size], order[size:]
        for centre, scores in zip(centres, vectors[centres] @ vectors.T, strict=True):
            if not is_free[centre]:
                continue
            near = np.flatnonzero((scores >= threshold) & is_free)
            near = near[near != centre]
            if len(near) + 1 >= min_size:
                near = near[np.lexsort((near, -scores[near]))]
                found.append(np.concatenate([[centre], near]).astype("int64"))
                is_free[found[-1]] = False
    return sorted(found, key=len, reverse=True)


def clusters(
    embedder: Any,
    texts: Sequence[str],
    num_clusters: int | None = None,
    *,
    embeddings: ArrayLike | None = None,
    method: Literal["kmeans", "communities"] = "kmeans",
    threshold: float = 0.75,
    min_size: int = 10,
    num_words: int = 10,
    tokenizer: Callable[[str], Sequence[str]] | None = None,
    stopwords: Iterable[str] | None = None,
    seed: int = 0,
    prompt: str | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Clusters:
    """Groups texts by meaning and names each group by its most characteristic words.

    A word is characteristic of a cluster if it is frequent there and rare elsewhere. With tf its fraction of the
    cluster's words, f its count in all clusters, and A the mean number of words in a cluster, its weight is
    `tf max(0, ln((A + 1) / (f + 0.5)))`, the class-based TF-IDF of BERTopic with its weights for frequent words. With
    about ten clusters or more, common words therefore need no list of stop words; with fewer, pass one.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. May be `None` if
            `embeddings` is given.
        texts: list of strings.
        num_clusters: int, for `"kmeans"`. Defaults to the square root of half the number of texts.
        embeddings: float array `(texts, dim)`: the vectors, if already computed.
        method: `"kmeans"` (default), which assigns each text to one of `num_clusters` clusters (scikit-learn, on unit
            vectors); or `"communities"`, which uses the groups of `community_detection` and leaves out other texts.
        threshold: float; see `community_detection`.
        min_size: int; see `community_detection`.
        num_words: int. Maximum number of words per cluster. Defaults to 10.
        tokenizer: function that splits a string into a list of words. Defaults to `words`, for texts in any script.
        stopwords: list of words to exclude from the names.
        seed: int, for `"kmeans"`. With the same seed the clusters are the same each time.
        prompt: string prepended to each text. Defaults to the embedder's own.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        `Clusters(labels, clusters)`.

    Raises:
        ValueError: if `texts` is empty, vectors do not match, or there are more clusters than texts.

    Example:

    >>> texts = ["lost card", "card lost", "loan rate", "rate of a loan"]
    >>> vectors = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> found = tx.search.clusters(None, texts, 2, embeddings=vectors)
    >>> found.labels.tolist(), found.clusters[0].name
    ([0, 0, 1, 1], 'card, lost')

    ```python
    found = tx.search.clusters(embedder, texts, 20)
    for cluster in found.clusters:
        print(len(cluster.ids), cluster.name, texts[cluster.ids[0]])
    ```

    Reference: Grootendorst, 2022, BERTopic, https://arxiv.org/abs/2203.05794.
    """
    texts = _texts.strings("texts", texts)
    _check.one_of("method", method, METHODS)
    num_words, seed = _check.integer("num_words", num_words), _check.integer("seed", seed, minimum=0)
    if num_clusters is not None and method != "kmeans":
        raise _check.invalid("num_clusters", "None for method='communities'", num_clusters)
    count = _check.integer("num_clusters", num_clusters, optional=True)
    if count is not None and count > len(texts):
        raise _check.invalid("num_clusters", f"an int <= {len(texts)}, the number of texts", count)
    split = _terms.Terms(tokenizer, stopwords, None)
    if embeddings is None:
        embeddings = _texts.encode(embedder, texts, batch_size=batch_size, prompt=prompt, progress=progress)
    vectors = _neighbours.matrix("embeddings", embeddings)
    if len(vectors) != len(texts):
        raise _check.invalid("embeddings", f"{len(texts)} vectors, one for each text", vectors.shape)
    if method == "communities":
        groups = community_detection(vectors, threshold=threshold, min_size=min_size, progress=progress)
    else:
        groups = _kmeans(vectors, count or max(1, round((len(texts) / 2) ** 0.5)), seed)
    labels = np.full(len(texts), -1, "int64")
    for label, ids in enumerate(groups):
        labels[ids] = label
    telling = _telling([[word for i in ids for word in split(texts[i], int(i))] for ids in groups], num_words)
    names = _names(telling)
    return Clusters(labels, [Cluster(*each) for each in zip(names, telling, groups, strict=True)])


def _kmeans(vectors, count, seed):
    """Returns the rows of each cluster, nearest to its center first; the largest cluster first."""
    vectors = _neighbours.unit(vectors).astype("float32")
    made = sklearn.cluster.KMeans(count, n_init=3, random_state=seed)
    # With several threads the order of summation varies, and with it the last bits of the centers.
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # fewer distinct vectors than clusters
        labels = made.fit_predict(vectors)
    groups = []
    for label in range(count):
        rows = np.flatnonzero(labels == label)
        distances = np.linalg.norm(vectors[rows] - made.cluster_centers_[label], axis=1)
        groups.append(rows[np.lexsort((rows, distances))].astype("int64"))
    return sorted((rows for rows in groups if len(rows)), key=lambda rows: (-len(rows), rows.min()))


def _telling(groups, most):
    """Returns the most characteristic words of each list of words, ties in alphabetical order."""
    counts = [collections.Counter(words) for words in groups]
    total: collections.Counter[str] = sum(counts, collections.Counter())
    mean = sum(total.values()) / max(len(groups), 1)
    found = []
    for own in counts:
        size = max(sum(own.values()), 1)
        weights = {
            word: n / size * max(0.0, float(np.log((mean + 1) / (total[word] + 0.5)))) for word, n in own.items()
        }
        # Words that are common to all clusters have weight 0; they come last, the more frequent first.
        ordered = sorted((-weights[word], -n, word) for word, n in own.items())
        found.append([word for _, _, word in ordered[:most]])
    return found


def _names(telling):
    """Returns a name for each list of words; duplicates get further words or a number."""
    names: dict[str, None] = {}
    for words in telling:
        options = [", ".join(words[:end]) for end in range(min(_NAMED, len(words)), len(words) + 1)]
        name = next((option for option in options if option and option not in names), None)
        if name is None:
            base = options[0] or "no words"
            numbered = (base, *(f"{base} ({i})" for i in range(2, len(telling) + 2)))
            name = next(option for option in numbered if option not in names)
        names[name] = None
    return list(names)
