"""Groups of texts that mean alike, named by their words."""

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
# Numbers in a block of similarities of centres to all rows: 64 MB.
_BLOCK = 2**24
# Words in the name of a cluster.
_NAMED = 3


class Cluster(NamedTuple):
    """A group of texts that `clusters` found.

    Attributes:
        name: string, its most telling words; all names of a result are different.
        words: list of strings, the most telling first.
        ids: int64 array, the places of its texts, the one nearest to the centre first.
    """

    name: str
    words: list[str]
    ids: np.ndarray


class Clusters(NamedTuple):
    """What `clusters` returns.

    Attributes:
        labels: int64 array `(texts,)`: the place of each text's cluster in `clusters`; -1 for none.
        clusters: list of `Cluster`, the largest first.
    """

    labels: np.ndarray
    clusters: list[Cluster]


def community_detection(
    embeddings: ArrayLike, *, threshold: float = 0.75, min_size: int = 10, progress: bool | None = None
) -> list[np.ndarray]:
    """Finds groups of vectors that lie close around one of them; how many there are need not be known.

    Each row is a possible centre, with the rows of at least that cosine around it. The centre with the most is taken
    first (of equal ones the lower row), then, without the rows that were taken, the next that is still free and has
    enough left; so groups do not overlap, and each has its centre in it. In sentence-transformers' function of this
    name a row that was taken may still be the centre of a group that it is not in.

    All pairs are compared, in blocks: some 64 MB are held besides the vectors and the groups.

    Args:
        embeddings: float array `(rows, dim)`.
        threshold: float from -1 to 1. The least cosine to the centre.
        min_size: int. The fewest rows of a group, its centre included.
        progress: bool. Whether to show a progress bar; by default over more than 100,000 rows, in a terminal.

    Returns:
        A list of int64 arrays, the largest group first (of equal ones the one found first); in each the centre first,
        then the nearest rows. Rows in no group are in no array.

    Raises:
        ValueError: for vectors that are not finite, or an argument out of range.

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
    """Groups texts by meaning and names each group by its most telling words.

    A word tells of a cluster if it is frequent there and not elsewhere: with tf its share of the cluster's words, f its
    count in all clusters, and A the mean number of words in a cluster, it weighs `tf max(0, ln((A + 1) / (f + 0.5)))`,
    the class-based TF-IDF of BERTopic with its weights for frequent words. So common words need no list of stop words
    where there are some ten clusters or more; with fewer, give one.

    Args:
        embedder: `models.TextEmbedder`, or anything with `encode(list of strings) -> (texts, dim)`; `None` where
            `embeddings` are given.
        texts: list of strings.
        num_clusters: int, for `"kmeans"`. Defaults to the square root of half the number of texts.
        embeddings: float array `(texts, dim)`: the vectors, where they are there already.
        method: `"kmeans"`, which puts each text into one of `num_clusters` (scikit-learn, on vectors of length 1); or
            `"communities"`, which takes the groups that `community_detection` finds, and leaves other texts out.
        threshold: float; see `community_detection`.
        min_size: int; see there.
        num_words: int. The most words of a cluster.
        tokenizer: function of a string to a list of words. Defaults to `words`, for texts in any script.
        stopwords: list of words that are no names.
        seed: int, for `"kmeans"`, so that the clusters are the same each time.
        prompt: string set before each text; by default the embedder's own.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        `Clusters(labels, clusters)`.

    Raises:
        ValueError: for no texts, vectors that do not fit, or more clusters than texts.

    Example:

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
    """Returns the rows of each cluster, the nearest to its centre first; the largest cluster first."""
    vectors = _neighbours.unit(vectors).astype("float32")
    made = sklearn.cluster.KMeans(count, n_init=3, random_state=seed)
    # Sums over several threads come in any order, and with them the last bits of the centres.
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # fewer different vectors than clusters
        labels = made.fit_predict(vectors)
    groups = []
    for label in range(count):
        rows = np.flatnonzero(labels == label)
        distances = np.linalg.norm(vectors[rows] - made.cluster_centers_[label], axis=1)
        groups.append(rows[np.lexsort((rows, distances))].astype("int64"))
    return sorted((rows for rows in groups if len(rows)), key=lambda rows: (-len(rows), rows.min()))


def _telling(groups, most):
    """The most telling words of each list of words; of equal ones the first in the alphabet."""
    counts = [collections.Counter(words) for words in groups]
    total: collections.Counter[str] = sum(counts, collections.Counter())
    mean = sum(total.values()) / max(len(groups), 1)
    found = []
    for own in counts:
        size = max(sum(own.values()), 1)
        weights = {
            word: n / size * max(0.0, float(np.log((mean + 1) / (total[word] + 0.5)))) for word, n in own.items()
        }
        # Words that are everywhere have no weight; they come last, the more frequent first.
        ordered = sorted((-weights[word], -n, word) for word, n in own.items())
        found.append([word for _, _, word in ordered[:most]])
    return found


def _names(telling):
    """A name for each list of words; one that is there already gets further words or a number."""
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
