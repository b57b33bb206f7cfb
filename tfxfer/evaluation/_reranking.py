"""Scores of reranking: how well the relevant candidates of each query are ranked first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check, _neighbours, _texts, data

RERANKING_KEYS = ("map", "mrr", "ndcg")


def reranking(
    model: Any,
    rows: Any,
    *,
    columns: Sequence[str] = ("query", "positives", "negatives"),
    k: int = 10,
    similarity: str = "cosine",
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder or a cross-encoder on ranking the positives of each query above its negatives.

    Args:
        model: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A `models.Siamese`
            is scored by its embedder. Or a cross-encoder: a `models.TextRegressor` over pairs, a
            `models.TextClassifier` with two labels (the second for texts that belong together), or a function of two
            lists of strings.
        rows: `data.Rows` or anything that `Rows.from_any` accepts, for example a list of dicts: a query, and a text or
            a list of texts for positives and for negatives. Or a dataset from `data.triplets`; or one from
            `data.rankings`, whose grades count in `ndcg` and are relevant if > 0 in the other scores.
        columns: the names of the three columns.
        k: int. Rank cutoff of `mrr` and `ndcg`. Rows may have fewer candidates.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`, for an embedder.
        query_prompt: string prepended to each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string prepended to each candidate. Defaults to the embedder's prompt `"document"`,
            `"passage"` or `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The dict of `reranking_scores`.

    Raises:
        ValueError: if a row has no query, positive or negative; the message names the row.

    Example:

    ```python
    rows = [{"query": "lost card", "positives": ["My card is gone"], "negatives": ["What is a loan?", "Hello"]}]
    tx.evaluation.reranking(embedder, rows)  # {"map": ..., "mrr@10": ..., "ndcg@10": ..., "rows": 1}
    ```

    Reference: Muennighoff et al., 2023, MTEB, https://arxiv.org/abs/2210.07316.
    """
    queries, candidates, relevant = ranking_task(rows, columns)
    _check.integer("k", k)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    embedder = _texts.embedder_of(model)
    if embedder is None:
        repeated = [query for query, each in zip(queries, candidates, strict=True) for _ in each]
        flat = [text for each in candidates for text in each]
        scores = _texts.pair_scores(model, repeated, flat, batch_size=batch_size, progress=progress)
        ends = np.cumsum([len(each) for each in candidates])[:-1]
        return reranking_scores(relevant, np.split(scores, ends), k=k)
    prompt = _texts.prompt_for(embedder, query_prompt, _texts.QUERY_PROMPTS)
    vectors = _texts.encode(embedder, queries, batch_size=batch_size, prompt=prompt, progress=progress)
    prompt = _texts.prompt_for(embedder, document_prompt, _texts.DOCUMENT_PROMPTS)
    places = {text: i for i, text in enumerate(dict.fromkeys(text for each in candidates for text in each))}
    documents = _texts.encode(embedder, list(places), batch_size=batch_size, prompt=prompt, progress=progress)
    scores = [
        _neighbours.paired(vector[None], documents[[places[text] for text in each]], similarity)
        for vector, each in zip(vectors, candidates, strict=True)
    ]
    return reranking_scores(relevant, scores, k=k)


def reranking_scores(relevant: Any, scores: Any, *, k: int = 10) -> dict[str, Any]:
    """Scores rankings of a few candidates each.

    Candidates with equal scores have no defined order, so none is assumed: `map` treats them as one step
    (scikit-learn's `average_precision_score`), `ndcg` averages over their orders (its `ndcg_score`), and `mrr` ranks
    the relevant one last among them. A model that scores all candidates equally gains nothing from their order.

    Args:
        relevant: list with an array `(candidates,)` for each query: grades >= 0, or bools.
        scores: list with a float array `(candidates,)` for each query; larger is better.
        k: int. Rank cutoff of `mrr` and `ndcg`.

    Returns:
        A dict: the means `map`, `mrr@k`, `ndcg@k` (grade / log2(rank + 1), divided by the value of the best order), and
        `rows`, the number of queries.

    Raises:
        ValueError: if there are no queries, if lengths do not match, or if the candidates of a query are not of both
            kinds, relevant and not.

    Example:

    >>> reranking_scores([[1, 0, 0]], [[0.5, 0.9, 0.1]])["mrr@10"]
    0.5

    Reference: Järvelin and Kekäläinen, 2002, https://doi.org/10.1145/582415.582418; McSherry and Najork, 2008, on ties,
    https://doi.org/10.1007/978-3-540-78646-7_38.
    """
    _check.integer("k", k)
    if len(relevant) != len(scores) or not len(scores):
        raise _check.invalid("scores", f"an array for each of {len(relevant)} queries, at least one", len(scores))
    found = []
    for row, (grades, each) in enumerate(zip(relevant, scores, strict=True)):
        grades, each = np.asarray(grades, "float64"), np.asarray(each, "float64")
        if grades.ndim != 1 or grades.shape != each.shape or not np.isfinite(each).all():
            raise _check.invalid("scores", f"{len(grades)} finite numbers in row {row}", each)
        if not np.isfinite(grades).all() or (grades < 0).any() or not (grades > 0).any() or (grades > 0).all():
            expected = f"grades >= 0 in row {row}, at least one candidate relevant and one not"
            raise _check.invalid("relevant", expected, grades)
        found.append(_row_scores(grades, each, k))
    means = np.mean(found, axis=0)
    return {"map": float(means[0]), f"mrr@{k}": float(means[1]), f"ndcg@{k}": float(means[2]), "rows": len(scores)}


def _row_scores(grades, scores, k):
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    hits = np.bincount(group, grades > 0)
    average_precision = np.sum(hits * np.cumsum(hits) / ends) / hits.sum()
    rank = ends[np.argmax(hits > 0)]
    discounts = np.where(np.arange(len(scores)) < k, 1 / np.log2(np.arange(len(scores)) + 2.0), 0.0)
    # All orders within a group of equal scores are equally likely, so each of its ranks gets the mean grade.
    mean_discounts = np.add.reduceat(discounts, ends - sizes) / sizes
    dcg = np.sum(np.bincount(group, grades) * mean_discounts)
    ideal = np.sum(np.sort(grades)[::-1] * discounts)
    return average_precision, (1 / rank if rank <= k else 0.0), dcg / ideal


def are_lists(rows):
    """Whether rows are a dataset from `data.rankings`."""
    is_pair = isinstance(rows, data.Examples) and isinstance(rows.x, tuple) and len(rows.x) == 2
    return is_pair and hasattr(rows.x[1], "row_lengths") and rows.y is not None


def ranking_task(rows, columns=("query", "positives", "negatives")):
    """Returns queries, their candidates (positives first) and arrays that mark the relevant ones.

    For `data.rankings`, the candidates keep their order, and the arrays are its grades.
    """
    if are_lists(rows):
        queries, documents = rows.x
        candidates = [[text.decode() for text in each] for each in documents.to_list()]
        grades = [np.asarray(each, "float64") for each in rows.y.to_list()]
        return [query.decode() for query in queries.numpy().tolist()], candidates, grades
    if _texts.is_dataset(rows):
        (queries, positives, *negatives), _ = _texts.text_columns("rows", rows, 3, "data.triplets")
        candidates = [list(each) for each in zip(positives, *negatives, strict=True)]
        return queries, candidates, [np.arange(len(each)) < 1 for each in candidates]
    if not isinstance(columns, (list, tuple)) or len(columns) != 3:
        raise _check.invalid("columns", "the names of three columns: query, positives, negatives", columns)
    rows = data.Rows.from_any(rows)
    if not len(rows):
        raise _check.invalid("rows", "at least one row", rows)
    queries = _texts.strings("rows", rows[columns[0]])
    candidates, relevant = [], []
    for row, (positives, negatives) in enumerate(zip(rows[columns[1]], rows[columns[2]], strict=True)):
        lists = []
        for name, texts in ((columns[1], positives), (columns[2], negatives)):
            listed = [texts] if isinstance(texts, str) else texts
            if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(t, str) for t in listed):
                raise _check.invalid(name, f"a text or a list of texts in {rows.place(row)}", texts)

            lists.append(listed)
        candidates.append([*lists[0], *lists[1]])
        relevant.append(np.arange(len(candidates[-1])) < len(lists[0]))
    return queries, candidates, relevant
