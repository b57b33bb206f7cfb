"""Scores of a teacher model for the documents of queries, to train a student with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check, _neighbours, _texts, data


def teacher_scores(
    teacher: Any,
    rows: Any,
    columns: Sequence[str] = ("query", "documents"),
    *,
    similarity: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Any:
    """Scores the documents of each row with a teacher, as targets for a student: reranker to embedder or the reverse.

    | teacher | rows | the student and its training |
    |---|---|---|
    | reranker | lists | a reranker: `data.rankings(rows, targets=scores)`, with `losses.ListNetLoss` and others |
    | reranker | lists | an embedder: `data.triplets_from_lists(rows, scores=scores)` |
    | reranker | triplets | an embedder: `data.triplets(rows, columns, targets=scores)`, `losses.DistillKLDivLoss` |
    | embedder | lists | a reranker, as above |

    Args:
        teacher: a `models.Reranker` or another model that scores pairs; a `models.TextEmbedder` or `models.Siamese`; or
            a function of two lists of strings that returns a number for each row.
        rows: `data.Rows`, or anything that `Rows.from_any` accepts.
        columns: names of the column of queries and of the column of lists of documents; or, for triplets, of two or
            more columns of single documents.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"` (distances negated), for an embedder. Defaults
            to its own.
        query_prompt: string prepended to each query, for an embedder. Defaults to its prompt `"query"`, if it has one.
        document_prompt: string prepended to each document, for an embedder. Defaults to its prompt `"document"`,
            `"passage"` or `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        For lists, a list with a float32 array `(documents,)` for each row. For columns of single documents, a float32
        array `(rows, documents)`; `scores[:, :1] - scores[:, 1:]` are the margins for `losses.MarginMSELoss`.

    Raises:
        ValueError: if a column does not exist, a list is empty, a text is not a string, or scores are not finite; the
            message names the row.

    Example:

    >>> rows = [{"query": "a b", "documents": ["b c", "a b d"]}, {"query": "c", "documents": ["c"]}]
    >>> shared = lambda first, second: [len({*a.split()} & {*b.split()}) for a, b in zip(first, second)]
    >>> [scores.tolist() for scores in teacher_scores(shared, rows)]
    [[1.0, 2.0], [1.0]]

    ```python
    scores = tx.search.teacher_scores(reranker, rows, ("anchor", "positive", "negative"))
    train = tx.data.triplets(rows, ("anchor", "positive", "negative"), targets=scores)
    siamese.compile(loss=tx.losses.DistillKLDivLoss())
    siamese.fit(train)
    ```

    Reference: Hofstätter et al., 2020, https://arxiv.org/abs/2010.02666.
    """
    rows = data.Rows.from_any(rows)
    if not isinstance(columns, (list, tuple)) or len(columns) < 2 or not all(isinstance(name, str) for name in columns):
        raise _check.invalid("columns", "names of columns: query, and documents", columns)
    queries = _texts.strings(columns[0], rows[columns[0]])
    lists = [_documents(rows, columns[1:], i) for i in range(len(rows))]
    counts = [len(texts) for texts in lists]
    second = [text for texts in lists for text in texts]
    embedder = _texts.embedder_of(teacher)
    if embedder is None:
        first = [query for query, count in zip(queries, counts, strict=True) for _ in range(count)]
        scores = _texts.pair_scores(teacher, first, second, batch_size=batch_size, progress=progress)
    else:
        similarity = similarity or getattr(embedder, "similarity_fn_name", None) or "cosine"
        _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
        options = {"batch_size": batch_size, "progress": progress}
        prompt = _texts.prompt_for(embedder, query_prompt, _texts.QUERY_PROMPTS)
        vectors = _texts.encode(embedder, queries, prompt=prompt, **options)
        # Score each text once: a document may be in many lists.
        places = {text: i for i, text in enumerate(dict.fromkeys(second))}
        prompt = _texts.prompt_for(embedder, document_prompt, _texts.DOCUMENT_PROMPTS)
        documents = _texts.encode(embedder, list(places), prompt=prompt, **options)
        scores = np.concatenate(
            [
                _neighbours.paired(vector[None], documents[[places[text] for text in texts]], similarity)
                for vector, texts in zip(vectors, lists, strict=True)
            ]
        )
    scores = np.asarray(scores, "float32")
    is_flat = not isinstance(rows[columns[1]][0], (list, tuple, np.ndarray))
    return scores.reshape(len(rows), -1) if is_flat else np.split(scores, np.cumsum(counts)[:-1])


def _documents(rows, names, i):
    """Returns the documents of a row."""
    values = [rows[name][i] for name in names]
    if len(names) == 1 and isinstance(values[0], (list, tuple, np.ndarray)):
        values = list(values[0])
        if not values:
            raise _check.invalid(names[0], f"at least one document in {rows.place(i)}", values)
    if not all(isinstance(value, (str, bytes)) for value in values):
        expected = f"texts, or lists of texts in one column, in {rows.place(i)}"
        raise _check.invalid(", ".join(names), expected, values)
    is_list = isinstance(rows[names[0]][0], (list, tuple, np.ndarray))
    if is_list != isinstance(rows[names[0]][i], (list, tuple, np.ndarray)):
        raise _check.invalid(names[0], "lists in every row, or texts in every row", values, f"{rows.place(i)} differs.")
    return [value.decode() if isinstance(value, bytes) else value for value in values]
