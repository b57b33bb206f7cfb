"""Evaluates searches on data sets in BEIR's folder layout: one data set, or several and their mean."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfxfer import _check, _neighbours, _texts, data
from tfxfer.evaluation import _retrieval, _runs

# Default number of documents per query in a run, as in BEIR.
DEPTH = 1000
# sentence-transformers' NanoBEIREvaluator uses these, and MAP at 100.
NANO_KS = (1, 3, 5, 10, 100)


def search_run(
    embedder: Any,
    queries: Any,
    corpus: Any,
    *,
    k: int = DEPTH,
    similarity: str = "cosine",
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 32,
    corpus_chunk: int = 50_000,
    progress: bool | None = None,
) -> dict[Any, dict[Any, float]]:
    """Searches a corpus exactly with an embedder and returns the results as a run.

    Args:
        embedder: an embedder, as in `retrieval`.
        queries: dict of id to string, or a list, whose ids are the indices from 0.
        corpus: dict of id to string, or a list.
        k: int. Number of documents per query. Defaults to 1000. A smaller corpus yields fewer.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        query_prompt: string prepended to each query. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string prepended to each document. Defaults to the embedder's prompt `"document"`, `"passage"`
            or `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        corpus_chunk: int. Number of documents whose vectors are held in memory at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        A dict of query id to a dict of document id to score, best first. Documents with equal scores keep the order of
        the corpus.

    Raises:
        ValueError: if an argument is invalid, or if `queries` or `corpus` is empty or holds a value that is not a
            string.

    Example:

    ```python
    queries, corpus, relevant = tx.data.read_beir("beir/scifact")
    run = tx.evaluation.search_run(embedder, queries, corpus, k=100)
    tx.data.write_run("scifact.run", run)
    tx.evaluation.run_scores(run, relevant, ks=(10, 100))
    ```
    """
    names, queries = _listed("queries", queries)
    ids, corpus = _listed("corpus", corpus)
    k = min(_check.integer("k", k), len(corpus))
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    options: dict[str, Any] = {"query_prompt": query_prompt, "document_prompt": document_prompt}
    options |= {"batch_size": batch_size, "corpus_chunk": _check.integer("corpus_chunk", corpus_chunk)}
    found, scores = _retrieval.search(embedder, queries, corpus, k, similarity=similarity, progress=progress, **options)
    return {
        name: dict(zip([ids[place] for place in row], values, strict=True))
        for name, row, values in zip(names, found.tolist(), scores.tolist(), strict=True)
    }


def _listed(argument, texts):
    """Returns the ids and the texts as lists."""
    places, listed = _retrieval.with_ids(argument, texts)
    return list(places), listed


def beir(
    model: Any,
    folder: Any,
    *,
    split: str = "test",
    ks: Sequence[int] = (1, 3, 5, 10, 100),
    k: int = DEPTH,
    rules: str = "trec_eval",
    title: str | None = " ",
    missing: str = "keep",
    ignore_identical_ids: bool = True,
    run_file: str | os.PathLike[str] | None = None,
    rows: bool = False,
    intervals: float | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Scores a search on a data set in BEIR's folder layout, as BEIR does.

    Args:
        model: an embedder, as in `retrieval`; or any other search: a function of queries and corpus, two dicts of id
            to text, that returns a run, a dict of query id to a dict of document id to score.
        folder: path of a directory that `data.read_beir` reads, or its result, a `data.RetrievalTask`.
        split: string. The split whose relevance judgments are used.
        ks: ints. Rank cutoffs of the scores.
        k: int. Number of documents that an embedder retrieves per query. Defaults to 1000.
        rules: `"trec_eval"` (default), `"ranx"` or `"sentence_transformers"`; see `run_scores`.
        title: string placed between a document's title and its text; see `data.read_beir`.
        missing: `"keep"` (default, as in BEIR) or `"raise"`; see `data.read_beir`.
        ignore_identical_ids: bool. Whether to drop a retrieved document whose id is that of the query, as BEIR does:
            in some of its data sets the queries are documents of the corpus.
        run_file: optional path. Writes the run to this file in TREC format; see `data.write_run`.
        rows: bool. Whether to add the scores of each query.
        intervals: float between 0 and 1, for example 0.95; see `run_scores`.
        **kwargs: for an embedder, those of `search_run` (`similarity`, prompts, `batch_size`, `corpus_chunk`,
            `progress`); for any search, those of `run_scores` (`ties`, `gains`, ..., `relevance_level`, `resamples`,
            `seed`).

    Returns:
        The dict of `run_scores`, plus `documents`, the size of the corpus.

    Raises:
        ValueError: as in `data.read_beir` and `run_scores`.

    Example:

    ```python
    tx.evaluation.beir(embedder, "beir/scifact", intervals=0.95)["ndcg@10"]
    tx.evaluation.beir(lambda queries, corpus: bm25_run(queries, corpus), "beir/scifact", run_file="bm25.run")
    ```

    Reference: Thakur et al., 2021, BEIR, https://arxiv.org/abs/2104.08663.
    """
    searching = {name: kwargs.pop(name) for name in _SEARCH_OPTIONS if name in kwargs}
    task = read_task(folder, split, title, missing)
    run = _run_of(model, task, k, ignore_identical_ids, searching)
    if run_file is not None:
        data.write_run(run_file, {query: found for query, found in run.items() if found})
    scores = _runs.run_scores(run, task.relevant, ks=ks, rules=rules, rows=rows, intervals=intervals, **kwargs)
    return {**scores, "documents": len(task.corpus)}


def read_task(folder, split="test", title=" ", missing="keep"):
    """Returns the task in a directory, or the given task if it is already loaded."""
    if isinstance(folder, data.RetrievalTask):
        return folder
    return data.read_beir(folder, split=split, title=title, missing=missing)


_SEARCH_OPTIONS = ("similarity", "query_prompt", "document_prompt", "batch_size", "corpus_chunk", "progress")


def _run_of(model, task, k, ignore_identical_ids, options):
    """Returns the run of a model or a function for the queries of a task."""
    if _texts.embedder_of(model) is not None:
        # One more than requested, because the query's own document may be among them.
        run: Any = search_run(model, task.queries, task.corpus, k=k + ignore_identical_ids, **options)
    elif isinstance(model, Callable) and not hasattr(model, "predict"):  # type: ignore[arg-type]
        if options:
            raise _check.invalid(next(iter(options)), "nothing for a search of your own", next(iter(options.values())))
        run = data.check_run("model", model(task.queries, task.corpus))
    else:
        raise _check.invalid("model", "an embedder, or a function of queries and corpus that returns a run", model)
    if ignore_identical_ids:
        run = {query: {one: score for one, score in found.items() if one != query} for query, found in run.items()}
    if _texts.embedder_of(model) is not None:
        run = {query: dict(list(found.items())[:k]) for query, found in run.items()}
    return run


def nano_beir(
    model: Any,
    folders: Any,
    *,
    split: str = "test",
    ks: Sequence[int] = NANO_KS,
    rules: str = "sentence_transformers",
    query_prompts: Mapping[str, str] | None = None,
    document_prompts: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Scores a search on several data sets in BEIR's folder layout and averages the scores: NanoBEIR's protocol.

    NanoBEIR consists of thirteen data sets with 50 queries and a few thousand documents each, small enough to score an
    embedder on all of them during training. Every data set has the same weight, regardless of its number of queries.

    Args:
        model: as in `beir`.
        folders: path of a directory with one subdirectory per data set, a list of paths, or a dict of name to path (or
            to the result of `data.read_beir`). A path in a list is named by its last part.
        split: string. The split whose relevance judgments are used. The data sets on the Hugging Face Hub call it
            `"train"`.
        ks: ints. Rank cutoffs of the scores. Defaults to those of sentence-transformers, with 100 for `map@100`.
        rules: `"sentence_transformers"` (default), `"trec_eval"` or `"ranx"`; see `run_scores`.
        query_prompts: dict of data set name to the string prepended to its queries. Other data sets use the
            embedder's prompt.
        document_prompts: the same for documents.
        **kwargs: as in `beir`, except `run_file`.

    Returns:
        A dict: the mean of each score over the data sets, and `datasets`, a dict of name to the result of `beir`.

    Raises:
        ValueError: if there are no data sets, two have the same name, a prompt names an unknown one, or as in `beir`.

    Example:

    ```python
    found = tx.evaluation.nano_beir(embedder, "nanobeir", split="train")
    found["ndcg@10"], found["datasets"]["NanoSciFact"]["ndcg@10"]
    ```

    Reference: the data sets are at https://huggingface.co/collections/zeta-alpha-ai/nanobeir. The protocol follows
    sentence-transformers' NanoBEIREvaluator.
    """
    if kwargs.get("run_file") is not None:
        raise _check.invalid("run_file", "nothing for several data sets", kwargs["run_file"], "Call `beir` for each.")
    named = named_folders(folders)
    prompts = {"query_prompt": dict(query_prompts or {}), "document_prompt": dict(document_prompts or {})}
    for name, given in prompts.items():
        check_prompts(f"{name}s", given, named)
    found = {}
    for name, folder in named.items():
        own = {option: given[name] for option, given in prompts.items() if name in given}
        found[name] = beir(model, folder, split=split, ks=ks, rules=rules, **{**kwargs, **own})
    keys = [key for key, value in next(iter(found.values())).items() if isinstance(value, float)]
    means = {key: sum(scores[key] for scores in found.values()) / len(found) for key in keys}
    return {**means, "datasets": found}


def check_prompts(argument, prompts, named):
    """Raises if a prompt names an unknown data set."""
    unknown = next((one for one in prompts or () if one not in named), None)
    if unknown is not None:
        raise _check.invalid(argument, f"names out of {', '.join(map(repr, named))}", unknown)


def named_folders(folders):
    """Returns a dict of name to path."""
    if isinstance(folders, Mapping):
        named = dict(folders)
    elif isinstance(folders, (str, os.PathLike)):
        inside = sorted(path for path in pathlib.Path(folders).glob("*") if (path / "qrels").is_dir())
        named = {path.name: path for path in inside}
    else:
        named = {}
        for path in map(pathlib.Path, folders):
            if path.name in named:
                raise _check.invalid("folders", "paths with different last parts, or a dict of name to path", path)
            named[path.name] = path
    if not named:
        raise _check.invalid("folders", "at least one data set, a folder with `qrels` in it", str(folders))
    return named
