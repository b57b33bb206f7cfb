"""Ranking documents for queries."""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfxfer import _check, data
from tfxfer.models._rows import STREAM_BATCHES

Ranked = collections.namedtuple("Ranked", ["index", "score", "text"])
Ranked.__doc__ = "A document that `rank` ordered: its index in the given list, its score, and its text."

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model


class Ranks(_Mixin):
    """Mixin with `rank`, for models that score pairs."""

    def rank(self, query: str, documents: Sequence[str], k: int | None = None, *, batch_size: int = 32) -> list[Ranked]:
        """Ranks documents by the model's score for the pair of query and document, as the export's `rank` does.

        Args:
            query: string.
            documents: list of strings.
            k: int. The maximum number of documents to return. Defaults to all.
            batch_size: int. Pairs per batch.

        Returns:
            A list of `Ranked(index, score, text)`, best first: the document's index in `documents`, its score and its
            text.

        Raises:
            ValueError: if the model does not return one score per pair; see `score_pairs`.
        """
        return ranked(self._document_scores, query, documents, k, batch_size)

    def _document_scores(self, query, documents, batch_size):
        return self.score_pairs([query] * len(documents), documents, batch_size)

    def rank_many(
        self,
        queries: Any,
        documents: Sequence[Sequence[str]] | None = None,
        k: int | None = None,
        *,
        batch_size: int = 32,
    ) -> Any:
        """Ranks the documents of many queries, as `rank` does for one; batches contain pairs of similar length.

        Args:
            queries: list of strings. Or a generator of (query, documents), which is consumed in constant memory.
            documents: list with a list of strings, possibly empty, for each query; omit it for a generator.
            k: int. The maximum number of documents to return for each query. Defaults to all.
            batch_size: int. Pairs per batch.

        Returns:
            A list with a list of `Ranked` for each query; for a generator, a generator of such lists.

        Raises:
            ValueError: if the form is unknown, and as `rank`; the error names the row.

        Example:

        ```python
        for query, found in zip(queries, reranker.rank_many(queries, candidates, k=10)):
            print(query, found[0].text, found[0].score)
        ```
        """
        _check.integer("k", k, optional=True)
        _check.integer("batch_size", batch_size)
        if isinstance(queries, Iterator):
            if documents is not None:
                remedy = "It yields (query, documents)."
                raise _check.invalid("documents", "None if `queries` is a generator", documents, remedy)
            return self._ranked_parts(queries, k, batch_size)
        if documents is None:
            raise _check.invalid("documents", "a list of documents for each query", documents)
        found = data.read_list("queries", queries)
        if isinstance(documents, (str, bytes)) or len(documents) != len(found):
            expected = f"a list of documents for each of {len(found)} queries"
            raise _check.invalid("documents", expected, documents)
        return self._ranked_lists(found, documents, k, batch_size)

    def _ranked_parts(self, rows, k, batch_size):
        """Yields results for a generator of (query, documents), several batches of pairs at a time."""
        part, pairs, row = [], 0, 0
        for each in rows:
            if not isinstance(each, tuple) or len(each) != 2 or not isinstance(each[0], (str, bytes)):
                expected = f"a generator of (query, documents); row {row} (counting from 0) is something else"
                raise _check.invalid("queries", expected, each)
            part.append(each)
            pairs, row = pairs + len(each[1]), row + 1
            if pairs >= batch_size * STREAM_BATCHES:
                yield from self._ranked_rows(part, k, batch_size, row)
                part, pairs = [], 0
        if part:
            yield from self._ranked_rows(part, k, batch_size, row)

    def _ranked_rows(self, rows, k, batch_size, end):
        queries, documents = zip(*rows, strict=True)
        return self._ranked_lists(queries, documents, k, batch_size, end - len(rows))

    def _ranked_lists(self, queries, documents, k, batch_size, first=0):
        lists = [data.read_list(f"documents[{first + i}]", each) for i, each in enumerate(documents)]
        flat = [text for texts in lists for text in texts]
        if not flat:
            return [[] for _ in lists]
        repeated = [query for query, texts in zip(queries, lists, strict=True) for _ in texts]
        scores = np.asarray(self.score_pairs(repeated, flat, batch_size))
        parts = np.split(scores, np.cumsum([len(texts) for texts in lists])[:-1])
        return [_best(own, texts, k) for own, texts in zip(parts, lists, strict=True)]


def ranked(score, query, documents, k, batch_size):
    """Ranks documents by a function from query, documents and batch size to scores; see `rank`."""
    if not isinstance(query, (str, bytes)):
        raise _check.invalid("query", "one string", query)
    documents = data.read_list("documents", documents)
    k = _check.integer("k", k, optional=True)
    if not documents:
        return []
    return _best(np.asarray(score(query, documents, batch_size)), documents, k)


def _best(scores, documents, k):
    order = np.argsort(-scores, kind="stable")[:k]
    return [Ranked(int(i), float(scores[i]), documents[i]) for i in order]
