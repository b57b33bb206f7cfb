"""A dataset from rows of lists: queries, their documents, and a grade or score for each document."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns import GradesColumn
from tfxfer.data._datasets import with_texts
from tfxfer.data._examples import Examples
from tfxfer.data._rows import Faults, Rows, shown

SAMPLINGS = ("graded", "first", "random")
_LISTS = (list, tuple, np.ndarray)
_TOLD = {
    "graded": "those with the lowest grades, last ones first",
    "first": "the last ones",
    "random": "drawn at random",
}


def rankings(
    rows: Any,
    query: str = "query",
    documents: str = "documents",
    target: str | None = None,
    *,
    targets: Sequence[Any] | None = None,
    max_documents: int | None = None,
    sampling: Literal["graded", "first", "random"] = "graded",
    random_negatives: int = 0,
    corpus: Sequence[str] | None = None,
    seed: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Examples:
    """Makes a dataset of queries with lists of documents, and a number for each document.

    Rows of lists come from JSONL (`{"query": ..., "documents": [...], "grades": [...]}`) through `data.read`; from flat
    files through `group_rows`; from judgments through `lists_from_judgements`; from mined negatives through
    `lists_from_negatives`.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        query: name of the column of queries.
        documents: name of the column of lists of documents.
        target: name of the column of lists of numbers, one for each document: grades (larger is better, 0 is not
            relevant), or a teacher's scores. Defaults to `"grades"`, unless `targets` are given.
        targets: optional list with a list or array of numbers for each row, instead of `target`, as returned by
            `search.teacher_scores`.
        max_documents: int. The maximum number of documents in a row. `sampling` selects which documents of longer lists
            to keep; a warning counts the dropped ones. By default lists are not shortened.
        sampling: the documents of longer lists to keep, in their order: `"graded"`, the default, those with the highest
            numbers, and among equal ones the first; `"first"`, the first ones; or `"random"`.
        random_negatives: int >= 0. Documents of other rows to append to each list, with the grade 0, drawn at random;
            documents of any row of the same query are excluded. They count toward `max_documents`.
        corpus: list of strings to draw them from. Defaults to the documents of all rows.
        seed: int >= 0, for random choices. Defaults to 0, so that the rows are the same each time.
        on_error: `"raise"` or `"skip"` (skips broken rows, warns once, and counts them in the dataset's `skipped`).

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of ((query, documents), numbers), in the order of the rows: a string
        scalar, strings `(documents,)`, float32 `(documents,)`.

    Raises:
        ValueError: if a column does not exist, a query or document is not text, a list is empty, or the targets of a
            row differ in number from its documents or are not finite numbers; the message names file and line.

    Example:

    >>> rows = [{"query": "lost card", "documents": ["My card is gone", "Loans"], "grades": [2, 0]}]
    >>> next(rankings(rows).as_numpy_iterator())[1].tolist()
    [2.0, 0.0]

    ```python
    rows = tx.data.read("train.jsonl")
    train = tx.data.rankings(rows, target="grades", max_documents=16)
    reranker.fit(tx.data.batches(train, reranker, max_documents=64), epochs=2)
    ```
    """
    rows, faults = Rows.from_any(rows), Faults(on_error)
    _check.one_of("sampling", sampling, SAMPLINGS)
    max_documents = _check.integer("max_documents", max_documents, optional=True)
    _check.integer("random_negatives", random_negatives, minimum=0)
    rng = np.random.default_rng(0 if seed is None else _check.integer("seed", seed, minimum=0))
    if target is not None and targets is not None:
        raise _check.invalid("targets", "None with `target`", targets, "Pass a column or a list.")
    if targets is not None:
        if random_negatives:
            remedy = "Add them to the rows before scoring these with the teacher."
            raise _check.invalid("random_negatives", "0 with `targets`", random_negatives, remedy)
        if isinstance(targets, (str, bytes)) or not hasattr(targets, "__len__") or len(targets) != len(rows):
            count = len(targets) if hasattr(targets, "__len__") else targets
            raise _check.invalid("targets", f"a list of numbers for each of {len(rows)} rows", count)
        name, numbers = "targets", list(targets)
    else:
        name = "grades" if target is None else target
        numbers = rows[name]
    found = {}
    for i, (texts, values) in enumerate(zip(rows[documents], numbers, strict=True)):
        row = _row(rows, i, documents, name, texts, values, faults)
        if row is not None:
            found[i] = row
    found = with_texts(rows, [query], found, faults)
    faults.warn(f"rankings({rows!r})")
    lists = list(found.values())
    if max_documents is not None:
        own = max_documents - random_negatives
        if own < 1:
            expected = f"more than the {random_negatives} of `random_negatives`"
            raise _check.invalid("max_documents", expected, max_documents)
        lists = _cut(lists, own, sampling, rng)
    queries = [rows[query][i] for i in found]
    if random_negatives:
        lists = _with_negatives(queries, lists, random_negatives, corpus, rng)
    elif corpus is not None:
        raise _check.invalid("corpus", "None without `random_negatives`", corpus)
    counts = [len(texts) for texts, _ in lists]
    with tf.device("CPU:0"):
        lengths = tf.constant(counts, tf.int64)
        texts = tf.constant([text for each, _ in lists for text in each], tf.string)
        values = tf.constant(np.concatenate([each for _, each in lists]).astype("float32"))
        x = (tf.constant(queries, tf.string), tf.RaggedTensor.from_row_lengths(texts, lengths))
        y = tf.RaggedTensor.from_row_lengths(values, lengths)
    return Examples(x, y, targets=GradesColumn(), skipped=faults.counts)


def _row(rows, i, documents, target, texts, values, faults):
    """(texts, numbers) of one row; `None` if it is broken (the error is recorded)."""
    texts = document_list(rows, i, documents, texts, faults)
    return None if texts is None else numbers_of(rows, i, target, texts, values, faults)


def document_list(rows, i, column, texts, faults):
    """The documents of a row as a list; `None` if they are invalid (the error is recorded)."""
    place, remedy = rows.place(i), "Fix the row, drop it, or pass `on_error='skip'`."
    if not isinstance(texts, _LISTS):
        remedy = "For a file with one document per line: `data.group_rows`. For single documents: `data.pairs`."
        return faults.add(place, column, "not a list of documents", f": {shown(texts)}", remedy)
    texts = list(texts)
    if not texts:
        return faults.add(place, column, "no documents", "", remedy)
    for k, text in enumerate(texts):
        try:
            _check.text(column, text, i)
        except ValueError:
            detail = f": {shown(text)}, at index {k}"
            return faults.add(place, column, "a document that is not text", detail, remedy)
    return [text.decode() if isinstance(text, bytes) else text for text in texts]


def numbers_of(rows, i, column, texts, values, faults):
    """(texts, numbers) of a row; `None` if the numbers are invalid (the error is recorded)."""
    place, remedy = rows.place(i), "Fix the row, drop it, or pass `on_error='skip'`."
    if not isinstance(values, _LISTS):
        return faults.add(place, column, "not a list of numbers", f": {shown(values)}", remedy)
    values = list(values)
    if len(values) != len(texts):
        detail = f": {len(values)} for {len(texts)}"
        return faults.add(place, column, "numbers and documents that differ in count", detail, remedy)
    numbers = []
    for k, value in enumerate(values):
        try:
            number = math.nan if _check.is_missing(value) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            detail = f": {shown(value)}, at index {k}"
            return faults.add(place, column, "a value that is not a finite number", detail, remedy)
        numbers.append(number)
    return texts, np.array(numbers)


def _cut(lists, most, sampling, rng):
    """Shortens lists to at most `most` documents; warns about the dropped ones."""
    found, left_out = [], []
    for texts, numbers in lists:
        if len(texts) > most:
            left_out.append(len(texts) - most)
            if sampling == "random":
                kept = np.sort(rng.choice(len(texts), most, replace=False))
            else:
                kept = np.arange(len(texts)) if sampling == "first" else np.argsort(-numbers, kind="stable")
                kept = np.sort(kept[:most])
            texts, numbers = [texts[k] for k in kept], numbers[kept]
        found.append((texts, numbers))
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {len(lists)} lists had more than {most} documents of their own: {sum(left_out)} "
            f"documents are left out, {_TOLD[sampling]} (`sampling={sampling!r}`).",
            stacklevel=3,
        )
    return found


def _with_negatives(queries, lists, count, corpus, rng):
    """Appends documents of other rows to the lists."""
    given = [text for texts, _ in lists for text in texts] if corpus is None else _corpus(corpus)
    pool = list(dict.fromkeys(given))
    own: dict[str, set] = {}
    for query, (texts, _) in zip(queries, lists, strict=True):
        own.setdefault(query, set()).update(texts)
    found = []
    for query, (texts, numbers) in zip(queries, lists, strict=True):
        # Permutes the pool only until enough documents are found, because it may be large.
        drawn: dict[str, None] = {}
        draws = min(len(pool), 2 * count + len(own[query]))
        for k in rng.choice(len(pool), draws, replace=False, shuffle=True):
            if pool[k] not in own[query] and len(drawn) < count:
                drawn[pool[k]] = None
        if len(drawn) < count:
            expected = f"documents of other queries, at least {count} for {shown(query)}"
            raise _check.invalid("random_negatives", expected, count, "Give a larger `corpus`, or ask for fewer.")
        found.append(([*texts, *drawn], np.concatenate([numbers, np.zeros(count)])))
    return found


def _corpus(corpus):
    if isinstance(corpus, (str, bytes)) or not hasattr(corpus, "__len__"):
        raise _check.invalid("corpus", "a list of strings", corpus)
    return _check.strings("corpus", list(corpus))
