"""Scores of a search: queries against a corpus with some relevant documents for each."""

import collections.abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.evaluation import _weighted

KS = (1, 3, 5, 10)
# Marks ranks beyond the end of a corpus, whose documents are numbered from 0.
_NO_DOCUMENT = -1
RETRIEVAL_KEYS = ("accuracy", "precision", "recall", "mrr", "ndcg", "map")


def retrieval(
    embedder: Any,
    queries: Any,
    corpus: Any = None,
    relevant: Any = None,
    *,
    ks: Sequence[int] = KS,
    similarity: str = "cosine",
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 32,
    corpus_chunk: int = 50_000,
    rows: bool = False,
    intervals: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores an embedder on finding the relevant documents of a corpus.

    The corpus is encoded and searched in chunks, so neither its vectors nor its scores need to fit into memory at once.
    The search is exact.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`. A
            `models.Siamese` is scored by its embedder. A `SparseEmbedder` or `LateInteractionEmbedder` compares texts
            with its own `similarity` method: leave the arguments `similarity` and prompts at their defaults for these.
        queries: list of strings, or a dict of id to string. Or only a dataset from `data.pairs` without a target: the
            corpus then consists of all different second texts, and a query's relevant documents are the texts that it
            is paired with.
        corpus: list of strings, or a dict of id to string.
        relevant: the relevant documents of each query: a list (or, for queries with ids, a dict of query id), each
            entry a collection of document ids or a dict of document id to grade (a number > 0; 0 is not relevant). The
            ids of a list of documents are their indices, from 0.
        ks: ints. Rank cutoffs of the scores. They may exceed the size of the corpus; the ranks beyond it count as
            empty, so `precision@10` with 4 documents is at most 0.4, as in trec_eval and sentence-transformers.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"`.
        query_prompt: string prepended to each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string prepended to each document. Defaults to the embedder's prompt `"document"`, `"passage"`
            or `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        corpus_chunk: int. Number of documents whose vectors are held in memory at a time.
        rows: bool. Whether to add the scores of each query, with its id; see `retrieval_scores`.
        intervals: float between 0 and 1, for example 0.95; see `retrieval_scores`.
        resamples: int. Number of resamples of the queries for the intervals.
        seed: int. Seed of the resampling.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        The dict of `retrieval_scores`, plus `queries` and `documents`, their numbers.

    Raises:
        ValueError: if there are no documents or no queries, if a query has no relevant document, if a relevant document
            is not in the corpus, or if `ks` are not integers >= 1.

    Example:

    ```python
    tx.evaluation.retrieval(embedder, ["how to reset"], ["Press the button.", "We are closed."], [[0]], ks=(1, 2))
    tx.evaluation.retrieval(embedder, {"q1": "how to reset"}, {"d7": "Press the button.", ...}, {"q1": {"d7": 2}})
    ```

    Reference: Thakur et al., 2021, BEIR, https://arxiv.org/abs/2104.08663.
    """
    names = list(queries) if isinstance(queries, collections.abc.Mapping) else None
    queries, corpus, relevant = search_task(queries, corpus, relevant)
    ks = check_ks(ks)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    _check.integer("corpus_chunk", corpus_chunk)
    options = {"query_prompt": query_prompt, "document_prompt": document_prompt, "batch_size": batch_size}
    options |= {"similarity": similarity, "corpus_chunk": corpus_chunk, "progress": progress}
    ids, _ = search(embedder, queries, corpus, min(ks[-1], len(corpus)), **options)
    ids = np.pad(ids, ((0, 0), (0, ks[-1] - ids.shape[1])), constant_values=_NO_DOCUMENT)
    found = _scores(ids, relevant, ks)
    scores = {**_means(found), "queries": len(queries), "documents": len(corpus)}
    return {**scores, **_more(found, rows, intervals, resamples, seed, names)}


def search(
    embedder,
    queries,
    corpus,
    count,
    *,
    similarity="cosine",
    query_prompt=None,
    document_prompt=None,
    batch_size=32,
    corpus_chunk=50_000,
    progress=None,
):
    """Returns the indices of the nearest documents of each query and their scores, both `(queries, count)`.

    Args:
        embedder: as in `retrieval`.
        queries: list of strings.
        corpus: list of strings.
        count: int, at most the number of documents.
        similarity: as in `retrieval`, as are the other arguments.
        query_prompt: string or `None`.
        document_prompt: string or `None`.
        batch_size: int.
        corpus_chunk: int.
        progress: bool or `None`.
    """
    comparing = _texts.comparing(embedder)
    if comparing is not None:
        for name, value, usual in (
            ("similarity", similarity, "cosine"),
            ("query_prompt", query_prompt, None),
            ("document_prompt", document_prompt, None),
        ):
            if value != usual:
                expected = f"{usual!r}, the default, for a `{type(comparing).__name__}`, which has its own similarity"
                raise _check.invalid(name, expected, value)
        options = {"batch_size": batch_size, "progress": progress}
        return _compared(comparing, queries, corpus, count, corpus_chunk, options)
    prompt = _texts.prompt_for(embedder, query_prompt, _texts.QUERY_PROMPTS)
    vectors = _texts.encode(embedder, queries, batch_size=batch_size, prompt=prompt, progress=progress)
    prompt = _texts.prompt_for(embedder, document_prompt, _texts.DOCUMENT_PROMPTS)
    nearest = _neighbours.Nearest(vectors, count, similarity)
    for start in range(0, len(corpus), corpus_chunk):
        part = corpus[start : start + corpus_chunk]
        nearest.add(_texts.encode(embedder, part, batch_size=batch_size, prompt=prompt, progress=progress))
    return nearest.result()


def _compared(embedder, queries, corpus, k, chunk, options):
    """The same search, with the `similarity` method of an embedder of another kind."""
    vectors = embedder.encode_query(queries, **options)
    best = _neighbours.Best(len(queries), k)
    chunk = min(chunk, _neighbours.CORPUS_CHUNK)
    for start in range(0, len(corpus), chunk):
        best.add(embedder.similarity(vectors, embedder.encode_document(corpus[start : start + chunk], **options)))
    return best.result()


def retrieval_scores(
    ids: ArrayLike,
    relevant: Any,
    *,
    ks: Sequence[int] | None = None,
    rows: bool = False,
    intervals: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores the results of any search, in the order in which it returned them.

    For results with scores, `run_scores` breaks ties by the rules of trec_eval and other programs.

    Args:
        ids: int array `(queries, ranks)`, best first, as returned by `search.top_k`.
        relevant: list with a collection of ids, or a dict of id to grade, for each query.
        ks: ints, at most the number of ranks, because the results beyond it are unknown. Defaults to those of 1, 3, 5
            and 10 that do not exceed it.
        rows: bool. Whether to add the scores of each query.
        intervals: float between 0 and 1, for example 0.95. Adds `intervals`, a dict of score to `[low, high]`,
            percentiles of the mean over resamples of the queries.
        resamples: int. Number of resamples.
        seed: int. Seed of the resampling.

    Returns:
        A dict with the mean over the queries, for each k:

        - `accuracy@k`: whether a relevant document is among the first k;
        - `precision@k`: the number of relevant documents among the first k, divided by k;
        - `recall@k`: the same, divided by the number of relevant documents;
        - `mrr@k`: 1 / rank of the first relevant document, 0 beyond k;
        - `ndcg@k`: sum of grade / log2(rank + 1), divided by the value of the best order; grades default to 1;
        - `map@k`: sum of the precisions at the ranks of relevant documents, divided by k or the number of relevant
          documents, whichever is smaller, so that a perfect order scores 1.

        With `rows`, `per_query` is a dict of lists in query order: `query`, the ids or else indices, and each score.
        Pass it to `compare`.

    Raises:
        ValueError: if there are no queries, a query has no relevant document, or a k exceeds the number of ranks.

    Example:

    >>> retrieval_scores([[2, 0], [1, 0]], [{0}, {1, 2}], ks=(1, 2))["recall@2"]
    0.75

    The search determines the order of equal scores: the searches of this package put the lower id first.

    Reference: Järvelin and Kekäläinen, 2002, on nDCG, https://doi.org/10.1145/582415.582418; Manning et al., 2008,
    Introduction to Information Retrieval, chapter 8.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or not ids.size:
        raise _check.invalid("ids", "an array (queries, ranks), with at least one query", ids.shape)
    ks = check_ks([k for k in KS if k <= ids.shape[1]] if ks is None else ks, ids.shape[1])
    if len(relevant) != len(ids):
        raise _check.invalid("relevant", f"an entry for each of {len(ids)} queries", len(relevant))
    found = _scores(ids, [_grades(each, i, i) for i, each in enumerate(relevant)], ks)
    return {**_means(found), **_more(found, rows, intervals, resamples, seed)}


def check_ks(ks, ranks=None):
    """Returns the ks in order; raises if there are none, or if one exceeds the number of `ranks`, if given."""
    listed = [ks] if isinstance(ks, (int, np.integer)) else list(ks)
    if not listed:
        raise _check.invalid("ks", "at least one rank", ks)
    listed = sorted({_check.integer("ks", k) for k in listed})
    if ranks is not None and listed[-1] > ranks:
        raise _check.invalid("ks", f"ints <= {ranks}, the number of ranks", ks, "Omit the larger ones.")
    return listed


def search_task(queries, corpus=None, relevant=None):
    """Returns queries and documents as lists, and for each query a dict of document index to grade."""
    if corpus is None and relevant is None and _texts.is_dataset(queries):
        return _from_pairs(queries)
    query_ids, queries = with_ids("queries", queries)
    document_ids, corpus = with_ids("corpus", corpus)
    if isinstance(relevant, collections.abc.Mapping):
        missing = [one for one in query_ids if one not in relevant]
        if missing:
            raise _no_relevant(missing[0])
        strange = [one for one in relevant if one not in query_ids]
        if strange:
            raise _check.invalid("relevant", "ids of `queries`", strange[0])
        relevant = [relevant[one] for one in query_ids]
    if isinstance(relevant, (str, bytes)) or not hasattr(relevant, "__len__") or len(relevant) != len(queries):
        raise _check.invalid("relevant", f"an entry for each of {len(queries)} queries", relevant)
    places = []
    for name, row, each in zip(query_ids, range(len(queries)), relevant, strict=True):
        grades = _grades(each, name, row)
        strange = [one for one in grades if one not in document_ids]
        if strange:
            remedy = f"It belongs to query {name!r}: remove it or add the document."
            raise _check.invalid("relevant", "ids of `corpus`", strange[0], remedy)
        places.append({document_ids[one]: grade for one, grade in grades.items()})
    return queries, corpus, places


def with_ids(argument, texts):
    """Returns a dict of id to index, and the texts as a list."""
    if isinstance(texts, collections.abc.Mapping):
        listed = _texts.strings(argument, texts.values())
        return {name: i for i, name in enumerate(texts)}, listed
    listed = _texts.strings(argument, [] if texts is None else texts)
    return {i: i for i in range(len(listed))}, listed


def _from_pairs(dataset):
    (queries, documents), y = _texts.text_columns("queries", dataset, 2, "data.pairs")
    if np.any(y):
        raise _check.invalid("queries", "`data.pairs` without a target: each pair is a query and its answer", y)
    places = {text: i for i, text in enumerate(dict.fromkeys(documents))}
    relevant = {}
    for query, document in zip(queries, documents, strict=True):
        relevant.setdefault(query, {})[places[document]] = 1.0
    return list(relevant), list(places), list(relevant.values())


def _grades(given, name, row):
    """Returns the relevant documents of one query: a dict of id to grade > 0."""
    if isinstance(given, (str, bytes)) or not isinstance(given, collections.abc.Iterable):
        raise _check.invalid("relevant", "a list of ids, or a dict of id to grade, for each query", given)
    if not isinstance(given, collections.abc.Mapping):
        grades = {_plain(one): 1.0 for one in given}
    else:
        grades = {_plain(one): _check.number("relevant", grade, minimum=0.0) for one, grade in given.items()}
        grades = {one: grade for one, grade in grades.items() if grade > 0}
    if not grades:
        raise _no_relevant(name)
    return grades


def _plain(one):
    return one.item() if isinstance(one, np.generic) else one


def _no_relevant(name):
    return _check.invalid(
        "relevant",
        "at least one relevant document for each query",
        name,
        "That query has none: remove it, because its scores are undefined.",
    )


def _scores(ids, relevant, ks):
    """Returns the scores of each query, a dict of arrays; `relevant` has a dict of id to grade for each query."""
    ranks = ks[-1]
    gains = np.array([[r.get(i, 0.0) for i in row] for r, row in zip(relevant, ids[:, :ranks].tolist(), strict=True)])
    totals = np.array([len(each) for each in relevant])
    best = np.zeros_like(gains)
    for row, each in zip(best, relevant, strict=True):
        ideal = sorted(each.values(), reverse=True)[:ranks]
        row[: len(ideal)] = ideal
    position = np.arange(1, ranks + 1)
    hits = gains > 0
    found = np.cumsum(hits, axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    dcg = np.cumsum(gains / np.log2(position + 1), axis=1)
    best_dcg = np.cumsum(best / np.log2(position + 1), axis=1)
    precisions = np.cumsum(hits * found / position, axis=1)
    scores = {}
    for k in ks:
        scores[f"accuracy@{k}"] = found[:, k - 1] > 0
        scores[f"precision@{k}"] = found[:, k - 1] / k
        scores[f"recall@{k}"] = found[:, k - 1] / totals
        scores[f"mrr@{k}"] = np.where(first <= k, 1 / first, 0.0)
        scores[f"ndcg@{k}"] = dcg[:, k - 1] / best_dcg[:, k - 1]
        scores[f"map@{k}"] = precisions[:, k - 1] / np.minimum(k, totals)
    return scores


def _means(scores):
    return {key: float(np.mean(values)) for key, values in scores.items()}


def _more(found, rows, intervals, resamples, seed, names=None):
    """Returns the intervals and the scores of each query, as requested."""
    more: dict[str, Any] = {}
    if intervals is not None:
        values = {key: np.asarray(each, "float64") for key, each in found.items()}
        more["intervals"] = _weighted.of_means(values, intervals, resamples, seed)
    return {**more, **(_per_query(found, names) if rows else {})}


def _per_query(scores, names=None):
    queries = len(next(iter(scores.values())))
    columns = {key: np.asarray(values, "float64").tolist() for key, values in scores.items()}
    return {"per_query": {"query": list(range(queries)) if names is None else names, **columns}}
