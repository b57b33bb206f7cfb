"""Conversion of other forms of rows to rows of lists, and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfxfer import _check
from tfxfer.data._datasets import text_names, with_texts
from tfxfer.data._rankings import document_list, numbers_of
from tfxfer.data._rows import Faults, Rows, fault, shown


def group_rows(rows: Any, by: str, lists: str | Sequence[str]) -> Rows:
    """Groups rows that belong together into one row with lists, for example one line per document of a query.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        by: name of the column to group by, for example the id of the query. The rows of a group need not be adjacent.
        lists: names of the columns that become lists, in the order of the rows. All other columns must be constant
            within a group.

    Returns:
        `Rows`, with groups in the order of their first rows, whose places they keep.

    Raises:
        ValueError: if a column does not exist, a row has no value of `by`, or rows of a group differ in another column;
            the message names file and line.

    Example:

    >>> flat = {"id": [1, 1, 2], "query": ["a", "a", "b"], "document": ["x", "y", "z"], "grade": ["1", "0", "2"]}
    >>> group_rows(flat, "id", ("document", "grade"))[0]
    {'id': 1, 'query': 'a', 'document': ['x', 'y'], 'grade': ['1', '0']}

    ```python
    flat = tx.data.read("train.tsv")  # query_id, query, document, grade
    rows = tx.data.group_rows(flat, "query_id", ("document", "grade"))
    train = tx.data.rankings(rows, "query", "document", "grade")
    ```
    """
    rows, listed = Rows.from_any(rows), text_names("lists", lists)
    for name in (by, *listed):
        rows[name]  # raises if there is none
    if by in listed:
        raise _check.invalid("lists", f"names of columns other than {by!r}", lists)
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(rows[by]):
        if _check.is_missing(key) or key == "" or isinstance(key, (list, dict)):
            raise fault(rows.place(i), by, f"no group: {shown(key)}", "Every row needs a value to group by.")
        groups.setdefault(key, []).append(i)
    for name in rows.columns:
        if name in listed:
            continue
        values = rows[name]
        for first, *others in groups.values():
            for i in others:
                if values[i] != values[first]:
                    problem = f"{shown(values[i])}, but {rows.place(first)} has {shown(values[first])}"
                    remedy = f"Rows of one {by!r} must have the same {name!r}; or name the column in `lists`."
                    raise fault(rows.place(i), name, problem, remedy)
    made = rows[[group[0] for group in groups.values()]]
    for name in listed:
        made._columns[name] = [[rows[name][i] for i in group] for group in groups.values()]
    return made


def lists_from_judgements(
    queries: Mapping[str, str], corpus: Mapping[str, str], relevant: Mapping[str, Mapping[str, float]]
) -> Rows:
    """Joins relevance judgments with their texts: one row per query, with the list of its judged documents.

    The arguments are those of `evaluation.retrieval`: dicts by id, as read from files in BEIR's or TREC's layout.
    Judgments of relevant documents only yield lists without negatives: add mined ones (`search.hard_negatives`), or
    random ones (`rankings(..., random_negatives=7, corpus=list(corpus.values()))`).

    Args:
        queries: dict of query id to text. Queries without judgments are skipped, and counted in `skipped`.
        corpus: dict of document id to text.
        relevant: dict of query id to a dict of document id to grade; or to a list or set of ids, each of grade 1.

    Returns:
        `Rows` of `query_id`, `query`, `document_ids`, `documents`, `grades`, in the order of `queries`.

    Raises:
        ValueError: if a judged query or document does not exist, or there are no judgments.

    Example:

    >>> rows = lists_from_judgements({"q": "fees"}, {"a": "Prices", "b": "Loans"}, {"q": {"a": 2, "b": 0}})
    >>> rows[0]["documents"], rows[0]["grades"]
    (['Prices', 'Loans'], [2, 0])
    """
    for argument, value in (("queries", queries), ("corpus", corpus), ("relevant", relevant)):
        _check.instance(argument, value, Mapping, "a dict by id")
    unknown = next((one for one in relevant if one not in queries), None)
    if unknown is not None:
        raise _check.invalid("relevant", "judgments of queries that have a text", unknown)
    made: dict[str, list] = {name: [] for name in ("query_id", "query", "document_ids", "documents", "grades")}
    for query, text in queries.items():
        judged = relevant.get(query)
        if not judged:
            continue
        if isinstance(judged, (str, bytes)) or not isinstance(judged, Iterable):
            raise _check.invalid("relevant", f"a dict of document id to grade for query {query!r}", judged)
        grades = dict(judged) if isinstance(judged, Mapping) else dict.fromkeys(judged, 1)
        absent = next((one for one in grades if one not in corpus), None)
        if absent is not None:
            remedy = f"Query {query!r} has a judgment of {absent!r}. Add the document, or remove the judgment."
            raise _check.invalid("corpus", "every document that is judged", f"{len(corpus)} documents", remedy)
        row = (query, text, list(grades), [corpus[one] for one in grades], list(grades.values()))
        for values, value in zip(made.values(), row, strict=True):
            values.append(value)
    if not made["query"]:
        raise _check.invalid("relevant", "judgments of at least one query", dict(relevant))
    rows = Rows(made, source="judgments")
    missing = len(queries) - len(rows)
    rows.skipped = {"no judgment": missing} if missing else {}
    return rows


def lists_from_negatives(
    rows: Any, anchor: str = "anchor", positive: str = "positive", negative: str = "negative"
) -> Rows:
    """Joins rows of anchor, positive and negatives, as mined by `search.hard_negatives`, into one row per anchor.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts, in either layout: one negative per row, or columns
            `negative_1`, `negative_2`...
        anchor: name of the column of anchors.
        positive: name of the column of positives.
        negative: name of the column of negatives, or the common prefix of several.

    Returns:
        `Rows` of `query`, `documents` (the positives, then the negatives, each text once) and `grades`, 1 and 0; with
        the columns `positive_score` and `negative_score` (`negative_1_score`...) also `scores`, for distillation.

    Raises:
        ValueError: if a column does not exist, a text is missing or not a string, or a text is both a positive and a
            negative of the same anchor; the message names file and line.

    Example:

    >>> mined = {"anchor": ["a", "a"], "positive": ["p", "p"], "negative": ["n", "m"]}
    >>> lists_from_negatives(mined)[0]
    {'query': 'a', 'documents': ['p', 'n', 'm'], 'grades': [1.0, 0.0, 0.0]}

    ```python
    mined = tx.search.hard_negatives(embedder, (questions, answers), num_negatives=7, layout="wide")
    train = tx.data.rankings(tx.data.lists_from_negatives(mined))
    ```
    """
    rows = Rows.from_any(rows)
    negatives = [name for name in rows.columns if re.fullmatch(rf"{re.escape(negative)}(_\d+)?", name)]
    if not negatives:
        raise _check.invalid("negative", f"a column of that name, or {negative}_1 and so on", rows.columns)
    texts = [positive, *negatives]
    with_texts(rows, [anchor, *texts], dict.fromkeys(range(len(rows))), Faults("raise"))
    scored = [f"{name}_score" for name in texts]
    has_scores = all(name in rows.columns for name in scored)
    found: dict[str, tuple[dict, dict]] = {}
    for i, query in enumerate(rows[anchor]):
        of_query = found.setdefault(query, ({}, {}))
        for name, score in zip(texts, scored, strict=True):
            own, other = of_query if name == positive else reversed(of_query)
            text = rows[name][i]
            if text in other:
                problem = f"{shown(text)} is a positive and a negative of {shown(query)}"
                raise fault(rows.place(i), name, problem, "Drop one of them.")
            own.setdefault(text, rows[score][i] if has_scores else None)
    made: dict[str, list] = {
        "query": list(found),
        "documents": [[*positives, *others] for positives, others in found.values()],
        "grades": [[1.0] * len(positives) + [0.0] * len(others) for positives, others in found.values()],
    }
    if has_scores:
        made["scores"] = [[*positives.values(), *others.values()] for positives, others in found.values()]
    return Rows(made, source="negatives")


def triplets_from_lists(
    rows: Any,
    query: str = "query",
    documents: str = "documents",
    target: str = "grades",
    *,
    scores: Sequence[Any] | None = None,
    num_negatives: int = 1,
    sampling: Literal["first", "random"] = "first",
    seed: int | None = None,
) -> Rows:
    """Makes rows of anchor, positive and negatives from lists, for the losses of embedders.

    There is one row per document with a grade above 0; its negatives are the other documents of the same list.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        query: name of the column of queries.
        documents: name of the column of lists of documents.
        target: name of the column of lists of grades.
        scores: optional list with a teacher's score for each document of each row, as returned by
            `search.teacher_scores`.
        num_negatives: int. Negatives per row.
        sampling: `"first"`, the first negatives of a list, or `"random"`, different ones for each positive.
        seed: int >= 0, for `"random"`. Defaults to 0.

    Returns:
        `Rows` of `anchor`, `positive`, `negative_1`...; with `scores` also `positive_score`, `negative_1_score`..., for
        `losses.DistillKLDivLoss`, and `margin_1`..., for `losses.MarginMSELoss`. Its `skipped` counts the positives
        with too few negatives.

    Raises:
        ValueError: if `rankings` would raise for the lists, `scores` differ in length, or no row remains.

    Example:

    >>> rows = [{"query": "a", "documents": ["p", "n", "m"], "grades": [1, 0, 0]}]
    >>> triplets_from_lists(rows, scores=[[5.0, 1.0, 2.0]])[0]["margin_1"]
    4.0

    ```python
    scores = tx.search.teacher_scores(reranker, rows, ("query", "documents"))
    distilled = tx.data.triplets_from_lists(rows, scores=scores, num_negatives=1)
    train = tx.data.triplets(distilled, ("anchor", "positive", "negative_1"), target="margin_1")
    siamese.compile(loss=tx.losses.MarginMSELoss())
    siamese.fit(train)
    ```
    """
    rows, faults = Rows.from_any(rows), Faults("raise")
    _check.integer("num_negatives", num_negatives)
    _check.one_of("sampling", sampling, ("first", "random"))
    rng = np.random.default_rng(0 if seed is None else _check.integer("seed", seed, minimum=0))
    with_texts(rows, [query], dict.fromkeys(range(len(rows))), faults)
    if scores is not None and len(scores) != len(rows):
        raise _check.invalid("scores", f"a list of scores for each of {len(rows)} rows", len(scores))
    numbers = range(1, num_negatives + 1)
    made: dict[str, list] = {name: [] for name in ("anchor", "positive", *(f"negative_{k}" for k in numbers))}
    if scores is not None:
        extra = ("positive_score", *(f"negative_{k}_score" for k in numbers), *(f"margin_{k}" for k in numbers))
        made |= {name: [] for name in extra}
    too_few = 0
    for i in range(len(rows)):
        texts = document_list(rows, i, documents, rows[documents][i], faults)
        _, grades = numbers_of(rows, i, target, texts, rows[target][i], faults)
        given = None
        if scores is not None:
            _, given = numbers_of(rows, i, "scores", texts, scores[i], faults)
        negatives = np.flatnonzero(grades <= 0)
        for place in np.flatnonzero(grades > 0):
            if len(negatives) < num_negatives:
                too_few += 1
                continue
            chosen = negatives[:num_negatives]
            if sampling == "random":
                chosen = np.sort(rng.choice(negatives, num_negatives, replace=False))
            row = [rows[query][i], texts[place], *(texts[k] for k in chosen)]
            if given is not None:
                row += [float(given[k]) for k in (place, *chosen)]
                row += [float(given[place] - given[k]) for k in chosen]
            for values, value in zip(made.values(), row, strict=True):
                values.append(value)
    if not made["anchor"]:
        expected = f"lists with a document above grade 0 and {num_negatives} others"
        raise _check.invalid("rows", expected, rows)
    found = Rows(made, source="lists")
    found.skipped = {"too few negatives": too_few} if too_few else {}
    return found
