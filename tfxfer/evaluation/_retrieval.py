"""Scores of a search: queries against a corpus, of which some documents are relevant."""

import collections.abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts
from tfxfer.evaluation import _weighted

KS = (1, 3, 5, 10)
# What stands at a rank beyond the end of a corpus, whose documents are numbered from 0.
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

    The corpus is encoded and searched in parts, so that neither its vectors nor its scores need to fit into memory at
    once; the search is exact.

    Args:
        embedder: `models.TextEmbedder`, or anything with `encode(list of strings) -> (texts, dim)`; a
            `models.Siamese` stands for its embedder. A `SparseEmbedder` or `LateInteractionEmbedder` compares texts by
            its own `similarity`: for these, the arguments `similarity` and prompts stay as they are.
        queries: list of strings, or a dict of id to string. Or what `data.pairs` made without a target, alone: the
            corpus is then all different second texts, and those that a first text is paired with are its relevant ones.
        corpus: list of strings, or a dict of id to string.
        relevant: the relevant documents of each query: a list (or, for queries with ids, a dict of query id) to a
            collection of document ids, or to a dict of document id to grade (a number > 0; 0 is not relevant). The ids
            of a list of documents are their places, from 0.
        ks: ints. The ranks at which the scores are cut. A corpus may be smaller: the ranks beyond it hold nothing, so
            that `precision@10` of 4 documents is 0.4 at most, as trec_eval and sentence-transformers count it.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`.
        query_prompt: string set before each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string set before each document. Defaults to the embedder's prompt `"document"`, `"passage"`
            or `"corpus"`, if it has one.
        batch_size: int. Texts computed at a time.
        corpus_chunk: int. Documents whose vectors are held at a time.
        rows: bool. Whether to add the scores of each query; see `retrieval_scores`. With ids, they are by these.
        intervals: float between 0 and 1, such as 0.95; see `retrieval_scores`.
        resamples: int. Resamples of the queries for the intervals.
        seed: int. Of the resamples.
        progress: bool. Whether to show progress bars; by default on long work.

    Returns:
        The dict of `retrieval_scores`, with `queries` and `documents`, the numbers of them.

    Raises:
        ValueError: for an empty corpus, no queries, a query without a relevant document, a relevant document that is
            not in the corpus, or `ks` that are not whole numbers >= 1.

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
    """Returns the places of the nearest documents of each query and their scores, both `(queries, count)`.

    Args:
        embedder: as `retrieval` takes it.
        queries: list of strings.
        corpus: list of strings.
        count: int, at most the number of documents.
        similarity: as `retrieval` has it, as are the others.
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
                expected = f"{usual!r}, the default, for a `{type(comparing).__name__}`, which compares by itself"
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
    """The same by the `similarity` of an embedder of another kind."""
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
    """Scores the results of any search, in the order in which it gave them.

    `run_scores` takes results with their scores, and orders equal ones by the rules of trec_eval and others.

    Args:
        ids: int array `(queries, ranks)`, the best first, as `search.top_k` returns them.
        relevant: list with a collection of ids, or a dict of id to grade, for each query.
        ks: ints, none larger than the number of ranks: what lies beyond them, the search has not said. Defaults to
            those of 1, 3, 5 and 10 that the ranks reach.
        rows: bool. Whether to add the scores of each query.
        intervals: float between 0 and 1, such as 0.95: adds `intervals`, a dict of score to `[low, high]`, percentiles
            of the mean over resamples of the queries.
        resamples: int. Their number.
        seed: int. Of the resamples.

    Returns:
        A dict with the mean over the queries, for each k:

        - `accuracy@k`: whether a relevant document is among the first k;
        - `precision@k`: relevant ones among the first k, divided by k;
        - `recall@k`: the same divided by the number of relevant ones;
        - `mrr@k`: 1 / rank of the first relevant one, 0 beyond k;
        - `ndcg@k`: sum of grade / log2(rank + 1), divided by that of the best order; grades are 1 where none are given;
        - `map@k`: sum of the precisions at the ranks of relevant documents, divided by the number of relevant ones or
          k, whichever is less, so that a perfect order gives 1.

        With `rows`, `per_query` is a dict of lists in the order of the queries: `query`, their ids or else places, and
        each score. `compare` takes it.

    Raises:
        ValueError: for no queries, a query without a relevant document, or a k beyond the number of ranks.

    Example:

    >>> retrieval_scores([[2, 0], [1, 0]], [{0}, {1, 2}], ks=(1, 2))["recall@2"]
    0.75

    Equal scores are the search's matter: the searches of this package put the lower id first.

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
    """Returns the ks in order; raises for none, or for one beyond the number of `ranks`, if given."""
    listed = [ks] if isinstance(ks, (int, np.integer)) else list(ks)
    if not listed:
        raise _check.invalid("ks", "at least one rank", ks)
    listed = sorted({_check.integer("ks", k) for k in listed})
    if ranks is not None and listed[-1] > ranks:
        raise _check.invalid("ks", f"ints <= {ranks}, the number of ranks", ks, "Leave out the larger ones.")
    return listed


def search_task(queries, corpus=None, relevant=None):
    """Returns queries and documents as lists, and for each query a dict of document's place to grade."""
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
            remedy = f"It belongs to query {name!r}; leave it out or add the document."
            raise _check.invalid("relevant", "ids of `corpus`", strange[0], remedy)
        places.append({document_ids[one]: grade for one, grade in grades.items()})
    return queries, corpus, places


def with_ids(argument, texts):
    """Returns a dict of id to place, and the texts as a list."""
    if isinstance(texts, collections.abc.Mapping):
        listed = _texts.strings(argument, texts.values())
        return {name: i for i, name in enumerate(texts)}, listed
    listed = _texts.strings(argument, [] if texts is None else texts)
    return {i: i for i in range(len(listed))}, listed


def _from_pairs(dataset):
    (queries, documents), y = _texts.text_columns("queries", dataset, 2, "data.pairs")
    if np.any(y):
        raise _check.invalid("queries", "`data.pairs` without a target: each pair is one of query and answer", y)
    places = {text: i for i, text in enumerate(dict.fromkeys(documents))}
    relevant = {}
    for query, document in zip(queries, documents, strict=True):
        relevant.setdefault(query, {})[places[document]] = 1.0
    return list(relevant), list(places), list(relevant.values())


def _grades(given, name, row):
    """What is relevant to one query: a dict of id to grade > 0."""
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
        "That query has none: leave it out, its scores are not defined.",
    )


def _scores(ids, relevant, ks):
    """The scores of each query, a dict of arrays; `relevant` has a dict of id to grade for each query."""
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
    """Intervals and the scores of each query, where they are asked for."""
    more: dict[str, Any] = {}
    if intervals is not None:
        values = {key: np.asarray(each, "float64") for key, each in found.items()}
        more["intervals"] = _weighted.of_means(values, intervals, resamples, seed)
    return {**more, **(_per_query(found, names) if rows else {})}


def _per_query(scores, names=None):
    queries = len(next(iter(scores.values())))
    columns = {key: np.asarray(values, "float64").tolist() for key, values in scores.items()}
    return {"per_query": {"query": list(range(queries)) if names is None else names, **columns}}
