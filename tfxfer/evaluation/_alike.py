"""Scores embedders on texts with the same meaning: translations, paraphrases, and agreement with a teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.evaluation import _measures

MATCHES = ("text", "position")
TRANSLATION_KEYS = ("accuracy", "source_to_target", "target_to_source")
MINING_KEYS = ("average_precision", "f1", "precision", "recall", "threshold")
MSE_KEYS = ("negative_mse", "mse", "cosine")


def translation(
    embedder: Any,
    texts: Any,
    *,
    match: str = "text",
    similarity: str = "cosine",
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on finding the translation of each text among all texts, in both directions (bitext mining).

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder.
        texts: a dataset from `data.pairs` without a target, or a tuple of two lists of strings, sources and
            translations.
        match: `"text"` (default) or `"position"`. Whether a nearest text is also right if it equals the text of the
            same row, or only if it is in the same row; see `translation_scores`.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `translation_scores`.

    Raises:
        ValueError: if the columns differ in length, or as in `translation_scores`.

    Example:

    ```python
    test = tx.data.pairs(tx.data.read("tatoeba.tsv"), ("english", "german"))
    tx.evaluation.translation(embedder, test)  # {"accuracy": ..., "source_to_target": ..., "target_to_source": ...}
    ```

    Reference: Artetxe and Schwenk, 2019, Massively Multilingual Sentence Embeddings, https://arxiv.org/abs/1812.10464.
    """
    columns = translation_columns(texts)
    _check.one_of("match", match, MATCHES)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    source, target = _measures.column_vectors(embedder, columns, batch_size, progress)
    return translation_scores(source, target, columns if match == "text" else None, similarity=similarity)


def translation_columns(texts):
    """Returns the sources and the translations, two lists of strings."""
    columns, y = _texts.text_columns("texts", texts, 2, "data.pairs")
    if len(columns) != 2:
        raise _check.invalid("texts", "two texts per row", len(columns))
    if y is not None and np.any(y):
        raise _check.invalid("texts", "`data.pairs` without a target: the two texts of a row are translations", y)
    return columns


def translation_scores(
    source: ArrayLike, target: ArrayLike, texts: Any = None, *, similarity: str = "cosine"
) -> dict[str, Any]:
    """Scores the vectors of texts and of their translations, row by row.

    Each source is matched with its nearest translation, and each translation with its nearest source. The lower row
    wins ties, as in sentence-transformers. A match is right if it is in the same row. If `texts` is given, a match in
    another row is also right if its text is equal, as in sentence-transformers.

    Args:
        source: float array `(rows, dim)`.
        target: float array `(rows, dim)`.
        texts: optional tuple of two lists of strings, the sources and their translations. If given, equal texts count
            as one text. (`translation` passes them with `match="text"`, but not with `match="position"`.)
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`.

    Returns:
        A dict: `source_to_target` and `target_to_source`, the fractions of texts whose match is right; `accuracy`, the
        mean of both; and `rows`.

    Raises:
        ValueError: if the vectors are empty, not finite or differ in shape, or if the number of texts differs from that
            of the vectors.

    Example:

    >>> source, target = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.2], [1.0, 0.1]]
    >>> found = translation_scores(source, target)
    >>> found["source_to_target"], found["target_to_source"]
    (0.0, 0.5)
    """
    source, target = _measures.vectors("source", source, target)
    if not len(source):
        raise _check.invalid("source", "at least one row", source.shape)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    sides = [list(range(len(source)))] * 2
    if texts is not None:
        sides = [_texts.strings("texts", column) for column in texts]
        if [len(side) for side in sides] != [len(source)] * 2:
            raise _check.invalid("texts", f"two lists of {len(source)} strings", [len(side) for side in sides])
    found = {}
    for name, queries, corpus, known in (
        ("source_to_target", source, target, sides[1]),
        ("target_to_source", target, source, sides[0]),
    ):
        nearest = _neighbours.top_k(queries, corpus, 1, similarity)[0][:, 0]
        found[name] = float(np.mean([known[place] == known[row] for row, place in enumerate(nearest.tolist())]))
    return {"accuracy": sum(found.values()) / 2, **found, "rows": len(source)}


def paraphrase_mining(
    embedder: Any,
    texts: Sequence[str],
    pairs: Any,
    *,
    transitive: bool = False,
    k: int = 100,
    max_pairs: int = 500_000,
    similarity: str = "cosine",
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on finding the pairs of texts with the same meaning among all pairs.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder.
        texts: list of strings, or a dict of id to string.
        pairs: the pairs of texts with the same meaning: int array `(pairs, 2)` of indices from 0. For a dict, pairs of
            ids.
        transitive: bool; see `paraphrase_mining_scores`.
        k: int. Maximum number of neighbors considered per text.
        max_pairs: int. Maximum number of pairs returned by the search.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `paraphrase_mining_scores`.

    Raises:
        ValueError: if there are fewer than two texts, or as in `paraphrase_mining_scores`.

    Example:

    ```python
    tx.evaluation.paraphrase_mining(embedder, questions, [(0, 17), (4, 5)])["average_precision"]
    ```
    """
    listed, pairs = mining_task(texts, pairs)
    vectors = _texts.encode(embedder, listed, batch_size=batch_size, progress=progress)
    options: dict[str, Any] = {"transitive": transitive, "k": k, "max_pairs": max_pairs, "similarity": similarity}
    return paraphrase_mining_scores(vectors, pairs, **options)


def mining_task(texts, pairs):
    """Returns the texts as a list, and the pairs as indices into it."""
    if not hasattr(texts, "items"):
        return _texts.strings("texts", texts), pairs
    places = {name: place for place, name in enumerate(texts)}
    found = []
    for row, pair in enumerate(pairs):
        strange = next((one for one in pair if one not in places), None)
        if strange is not None:
            raise _check.invalid("pairs", "pairs of ids of `texts`", strange, f"It is in pair {row}.")
        found.append([places[one] for one in pair])
    return _texts.strings("texts", texts.values()), found


def paraphrase_mining_scores(
    embeddings: ArrayLike,
    pairs: ArrayLike,
    *,
    transitive: bool = False,
    k: int = 100,
    max_pairs: int = 500_000,
    similarity: str = "cosine",
) -> dict[str, Any]:
    """Scores the vectors of texts on finding the pairs with the same meaning.

    Pairs of different rows are ranked by decreasing similarity: the `k` nearest other rows of each row, and the best
    `max_pairs` of these. Pairs of equal similarity count as one step of the ranking, so their order does not matter.

    Args:
        embeddings: float array `(texts, dim)`.
        pairs: int array `(pairs, 2)`: the pairs of rows with the same meaning, in any order; duplicates are allowed.
        transitive: bool. Whether to treat the relation as transitive: a-b and b-c imply a-c.
        k: int. Maximum number of neighbors considered per text.
        max_pairs: int. Maximum number of pairs returned by the search.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`.

    Returns:
        A dict:

        - `average_precision`: the sum of the precision at each right pair, divided by the number of labeled pairs,
          whether found or not;
        - `f1`: the best over all thresholds, with the `precision` and `recall` at that threshold;
        - `threshold`: the midpoint between the last similarity above the threshold and the next one;
        - `pairs`, `texts`: the numbers of labeled pairs and of texts.

    Raises:
        ValueError: if there are fewer than two texts or no pairs, if a pair joins a text with itself, or if a row does
            not exist.

    Example:

    >>> vectors = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    >>> paraphrase_mining_scores(vectors, [(0, 1)])["average_precision"]
    1.0
    """
    embeddings = _neighbours.matrix("embeddings", embeddings)
    rows = len(embeddings)
    if rows < 2:
        raise _check.invalid("embeddings", "at least two rows", embeddings.shape)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    k, max_pairs = min(_check.integer("k", k), rows - 1), _check.integer("max_pairs", max_pairs)
    known = labelled(pairs, rows, transitive)
    found, scores = _neighbours.nearest_pairs(embeddings, k, max_pairs, -np.inf, similarity)
    right = np.isin(found[:, 0] * rows + found[:, 1], known)
    # The last place of each group of equal scores.
    ends = np.flatnonzero(np.concatenate([scores[1:] != scores[:-1], [True]]))
    taken, hits = ends + 1.0, np.cumsum(right)[ends]
    precision, recall = hits / taken, hits / len(known)
    f1 = 2 * hits / (taken + len(known))
    best = int(np.argmax(f1))
    last = int(ends[best])
    return {
        "average_precision": float(np.sum(np.diff(hits, prepend=0) * precision) / len(known)),
        "f1": float(f1[best]),
        "precision": float(precision[best]),
        "recall": float(recall[best]),
        "threshold": float((scores[last] + scores[min(last + 1, len(scores) - 1)]) / 2),
        "pairs": len(known),
        "texts": rows,
    }


def labelled(pairs, rows, transitive):
    """Returns the labeled pairs as sorted numbers `first * rows + second`, without duplicates."""
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.dtype.kind not in "iu":
        raise _check.invalid("pairs", "an int array (pairs, 2) of at least one pair", pairs)
    wrong = (pairs < 0).any(axis=1) | (pairs >= rows).any(axis=1) | (pairs[:, 0] == pairs[:, 1])
    if wrong.any():
        row = int(np.argmax(wrong))
        expected = f"pairs of two different rows from 0 to {rows - 1}"
        raise _check.invalid("pairs", expected, pairs[row].tolist(), f"It is pair {row} (counting from 0).")
    if transitive:
        pairs = _closed(pairs.tolist())
    return np.unique(np.min(pairs, axis=1).astype("int64") * rows + np.max(pairs, axis=1))


def _closed(pairs):
    """Returns all pairs within each group of texts that the pairs connect."""
    group: dict[int, list[int]] = {}
    for first, second in pairs:
        one, other = group.get(first, [first]), group.get(second, [second])
        if one is not other:
            merged = one + other
            group.update(dict.fromkeys(merged, merged))
    groups = {id(members): members for members in group.values()}.values()
    return [(a, b) for members in groups for i, a in enumerate(members) for b in members[i + 1 :]]


def embedding_mse(
    student: Any,
    teacher: Any,
    texts: Any,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores a student on reproducing its teacher's vectors.

    Args:
        student: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder.
        teacher: the same kinds of object, or the teacher's vectors of the texts, a float array `(texts, dim)`.
        texts: list of strings. For a student that should map other texts to the same vectors (such as translations,
            for a student of another language), a tuple of two lists, the teacher's texts and the student's, or a
            dataset from `data.pairs` without a target.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `embedding_mse_scores`.

    Raises:
        ValueError: if the vectors differ in size, or the lists in length.

    Example:

    ```python
    tx.evaluation.embedding_mse(student, teacher, (english, german))["mse"]
    ```

    Reference: Reimers and Gurevych, 2020, Making Monolingual Sentence Embeddings Multilingual,
    https://arxiv.org/abs/2004.09813.
    """
    columns = mse_columns(texts)
    if _texts.embedder_of(teacher) is not None:
        teacher = _texts.encode(teacher, columns[0], batch_size=batch_size, progress=progress)
    elif not hasattr(teacher, "shape"):
        raise _check.invalid("teacher", "an embedder, or its vectors, a float array (texts, dim)", teacher)
    vectors = _texts.encode(student, columns[1], batch_size=batch_size, progress=progress)
    return embedding_mse_scores(vectors, teacher)


def mse_columns(texts):
    """Returns the teacher's texts and the student's, two lists of strings."""
    if isinstance(texts, tuple) or _texts.is_dataset(texts):
        return translation_columns(texts)
    texts = _texts.strings("texts", texts)
    return texts, texts


def embedding_mse_scores(student: ArrayLike, teacher: ArrayLike) -> dict[str, Any]:
    """Scores a student's vectors against its teacher's.

    Args:
        student: float array `(rows, dim)`.
        teacher: float array `(rows, dim)`.

    Returns:
        A dict: `mse`, the mean squared difference over components (sentence-transformers reports this times -100);
        `negative_mse`, for code that maximizes a score; `cosine`, the mean cosine similarity of the two; and `rows`.

    Raises:
        ValueError: if the vectors are empty, not finite or differ in shape.

    Example:

    >>> embedding_mse_scores([[1.0, 0.0]], [[0.0, 0.0]])["mse"]
    0.5
    """
    student, teacher = _measures.vectors("student", student, teacher)
    if not len(student):
        raise _check.invalid("student", "at least one row", student.shape)
    mse = float(np.mean(np.square(student.astype("float64") - teacher)))
    cosine = float(np.mean(_neighbours.paired(student, teacher, "cosine")))
    return {"negative_mse": -mse, "mse": mse, "cosine": cosine, "rows": len(student)}
