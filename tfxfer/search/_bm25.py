"""Lexical search with BM25."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from tfxfer import _check, _disk, _parted, _texts
from tfxfer.search import _records, _rerank, _terms, _top_k
from tfxfer.search._records import Hits, Where

VARIANTS = ("robertson", "lucene", "atire", "bm25l", "bm25+")

_LAYOUT = _parted.Layout(
    "bm25.json",
    "bm25",
    {"texts": "texts.json", "words": "words.json", "arrays": "arrays.npz", "records": "records.json"},
)
_FORMAT = 1
_EXPECTED = "a folder that `BM25Index.save` wrote"
_REMEDY = "Save the index again, or copy the whole folder again from where it is complete."
_NUMBER = (int, float)
_KEYS = {
    "format": int,
    "variant": str,
    "k1": _NUMBER,
    "b": _NUMBER,
    "delta": _NUMBER,
    "stopwords": list,
    "tokenizer": bool,
    "stemmer": bool,
    "multiplier": int,
    "count": int,
    "files": dict,
}
_ARRAYS = {
    "terms": "int32",
    "ends": "int64",
    "data": "float64",
    "indices": "int32",
    "indptr": "int64",
    "absent": "float64",
}


class BM25Index:
    """Finds texts by the words that they share with a query; rare words count more, and long texts are penalized.

    BM25 finds names, numbers and rare terms that embedders blur, and needs no model. It does not find paraphrases;
    `HybridIndex` combines both kinds of search.

    With tf the count of a word in a text, df the number of texts with the word, N the number of all texts, and
    `q = 1 - b + b * length / mean length`, the score of a text is a sum over the query's words (repeated words count
    each time, unknown words not at all) of

    | `variant` | score of a word |
    |---|---|
    | `"robertson"` | ln(max(1, (N - df + 0.5) / (df + 0.5))) tf / (tf + k1 q): 0 if df >= N / 2 |
    | `"lucene"` | ln(1 + (N - df + 0.5) / (df + 0.5)) tf / (tf + k1 q) |
    | `"atire"` | ln(N / df) tf (k1 + 1) / (tf + k1 q) |
    | `"bm25l"` | ln((N + 1) / (df + 0.5)) (k1 + 1) (c + delta) / (k1 + c + delta), with c = tf / q |
    | `"bm25+"` | ln((N + 1) / df) (delta + tf (k1 + 1) / (tf + k1 q)) |

    The last two prevent long texts from losing to texts without the word, which get the value at tf = 0. The package
    bm25s computes the scores in float64.

    Args:
        texts: list or other iterable of strings. Empty ones are never found.
        ids: list of unique ints >= 0 or unique strings: the ids of the texts. By default they count from 0.
        metadata: dict of column name to list with one value per text: strings, numbers or bools, `None` for a missing
            value. Used by filters in `search`.
        variant: one of the variants in the table. Defaults to `"lucene"`, which gives no word a score of 0.
        k1: float >= 0. How slowly repeated occurrences of a word saturate; with 0, only its presence counts. Defaults
            to 1.5.
        b: float from 0 to 1. Strength of the length normalization. Defaults to 0.75.
        delta: float >= 0, for `"bm25l"` and `"bm25+"`. Defaults to 0.5.
        tokenizer: function that splits a string into a list of words. Defaults to `words`, for texts in any script.
        stopwords: list of words to ignore. By default all words count; common ones have little weight.
        stemmer: function that maps a word to its stem, for example `Stemmer.Stemmer("english").stemWord` from the
            package PyStemmer.
        multiplier: int. A reranker scores `k * multiplier` candidates. Defaults to 10.

    Raises:
        ValueError: if `texts` is empty, a text is not a string, or an argument is out of range.
        ImportError: if bm25s is not installed; the message names the package.

    Example:

    ```python
    index = tx.search.BM25Index(texts, metadata={"language": languages})
    hits = index.search("invoice 4711", k=3, where={"language": "en"})
    ```

    References:
        - [Robertson and Zaragoza, 2009](https://doi.org/10.1561/1500000019)
        - [Kamphuis et al., 2020](https://doi.org/10.1007/978-3-030-45442-5_4), the variants
        - [Lù, 2024](https://arxiv.org/abs/2407.03618), bm25s
    """

    def __init__(
        self,
        texts: Iterable[str],
        *,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
        variant: Literal["robertson", "lucene", "atire", "bm25l", "bm25+"] = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        delta: float = 0.5,
        tokenizer: Callable[[str], Sequence[str]] | None = None,
        stopwords: Iterable[str] | None = None,
        stemmer: Callable[[str], str] | None = None,
        multiplier: int = 10,
    ) -> None:
        self.variant = _check.one_of("variant", variant, VARIANTS)
        self.k1 = _check.number("k1", k1, minimum=0.0)
        self.b = _check.number("b", b, minimum=0.0, maximum=1.0)
        self.delta = _check.number("delta", delta, minimum=0.0)
        if self.k1 == 0 and variant == "bm25+":
            remedy = "Its score of a text without the word would be 0 / 0. A small k1 such as 1e-9 gives the limit."
            raise _check.invalid("k1", "a number > 0 for variant='bm25+'", k1, remedy)
        self.multiplier = _check.integer("multiplier", multiplier)
        _load()
        self._split = _terms.Terms(tokenizer, stopwords, stemmer)
        self._records = _records.Records()
        self._vocabulary: dict[str, int] = {}
        # The words of all texts, concatenated, and the end of each text.
        self._terms, self._ends = np.zeros(0, "int32"), np.zeros(0, "int64")
        self._model: Any = None  # created by the next search after a change
        self.add(texts, ids=ids, metadata=metadata)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self):
        return f"BM25Index({len(self)} texts, {len(self._vocabulary)} words, {self.variant}, k1={self.k1}, b={self.b})"

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of insertion."""
        return self._records.texts

    @property
    def ids(self) -> np.ndarray:
        """Ids of the texts, `(texts,)`: int64 or strings."""
        return self._records.ids

    @property
    def metadata(self) -> dict[str, np.ndarray]:
        """The columns for filters, arrays `(texts,)`; missing numbers are NaN, other missing values `None`."""
        return dict(self._records.columns)

    def add(
        self,
        texts: Iterable[str],
        *,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds texts. This changes the weights of all words, which the next search recomputes.

        Args:
            texts: list or other iterable of strings.
            ids: ids of the texts; required if the existing ids are strings. By default int ids continue after the
                highest one so far.
            metadata: the same columns as those of the existing texts.
        """
        texts = _texts.strings("texts", texts)
        checked = self._records.check(texts, ids, metadata)
        vocabulary, found = dict(self._vocabulary), []
        for row, text in enumerate(texts):
            found.append([vocabulary.setdefault(word, len(vocabulary)) for word in self._split(text, row)])
        ends = np.cumsum([len(each) for each in found], dtype="int64") + len(self._terms)
        terms = np.fromiter((term for each in found for term in each), "int32")
        self._terms, self._ends = np.concatenate([self._terms, terms]), np.concatenate([self._ends, ends])
        self._vocabulary, self._model = vocabulary, None
        self._records.add(texts, checked)

    def remove(self, ids: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        """Removes texts; the others keep their ids. The next search recomputes the weights of all words.

        Args:
            ids: list of ids.

        Raises:
            ValueError: if an id does not exist, or if no text would be left.
        """
        kept = self._records.kept(ids)
        lengths = np.diff(self._ends, prepend=0)
        used, terms = np.unique(self._terms[np.repeat(kept, lengths)], return_inverse=True)
        names = list(self._vocabulary)
        self._vocabulary = {names[old]: new for new, old in enumerate(used.tolist())}
        self._terms, self._ends = terms.astype("int32"), np.cumsum(lengths[kept])
        self._model = None
        self._records.keep(kept)

    # === Search ===

    def search(
        self,
        queries: str | Sequence[str],
        k: int | None = None,
        *,
        where: Where = None,
        reranker: Any = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Hits:
        """Finds the texts with the highest scores for each query, among those that share a word with it.

        Args:
            queries: a string or a list of strings. An empty query, or one of unknown words only, finds nothing.
            k: int, at most the number of texts. Defaults to 10, or to all texts if there are fewer.
            where: a filter on the metadata; see `SemanticIndex.search`. It does not change the weights of words.
            reranker: optional cross-encoder that reorders the best `k * multiplier`; see `SemanticIndex.search`.
            batch_size: int. Number of pairs that a reranker scores at a time.
            progress: bool. Whether a reranker shows a progress bar. By default, one is shown for long-running work.

        Returns:
            `Hits(ids, scores, texts)`. For one query, ids and float64 scores `(k,)` and a list of k strings; for a
            list, `(queries, k)` and a list of lists. Best first; ties keep the order of insertion. If fewer texts
            share a word, the rest has id -1 (`""` for string ids), score -inf and text `None`.

        Raises:
            ValueError: if there are no queries, or if k exceeds the number of texts.
        """
        k = _top_k.check_k(k, len(self))
        names, is_one = _rerank.queries_of(queries)
        allowed = self._records.select(where)
        count = k if reranker is None else min(k * self.multiplier, len(self))
        rows, scores = np.full((len(names), count), -1, "int64"), np.full((len(names), count), -np.inf)
        for i, name in enumerate(names):
            terms = self._known(name)
            if not terms:
                continue
            found, of_found = self._found(terms, allowed, count)
            rows[i, : len(found)], scores[i, : len(found)] = found, of_found
        if reranker is not None:
            options = {"batch_size": batch_size, "progress": progress}
            rows, scores = _rerank.reranked(names, rows, self.texts, reranker, k, **options)
        return self._records.hits(rows, scores, is_one)

    def scores(self, queries: str | Sequence[str]) -> np.ndarray:
        """Returns the scores of all texts, whether found or not: float64 `(texts,)`, or `(queries, texts)` for a list.

        Args:
            queries: a string or a list of strings.
        """
        names, is_one = _rerank.queries_of(queries)
        scores = np.zeros((len(names), len(self)))
        for row, name in zip(scores, names, strict=True):
            terms = self._known(name)
            if terms:
                row[:] = self._ready().get_scores_from_ids(terms)
        return scores[0] if is_one else scores

    def _known(self, query):
        return [self._vocabulary[word] for word in self._split(query) if word in self._vocabulary]

    def _found(self, terms, allowed, k):
        """Returns the best rows that contain one of the terms, and their scores."""
        model = self._ready()
        starts, indices = model.scores["indptr"], model.scores["indices"]
        rows = np.unique(np.concatenate([indices[starts[term] : starts[term + 1]] for term in set(terms)]))
        if allowed is not None:
            rows = rows[allowed[rows]]
        scores = model.get_scores_from_ids(terms)[rows]
        if len(rows) > k:
            near = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            rows, scores = rows[near], scores[near]
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def _ready(self):
        """Returns the bm25s index, rebuilt if texts have changed; requires at least one word."""
        if self._model is None:
            model = self._new_model()
            found = [part.tolist() for part in np.split(self._terms, self._ends[:-1])]
            vocabulary = {str(term): term for term in range(len(self._vocabulary))}
            model.index((found, vocabulary), create_empty_token=False, show_progress=False)
            self._model = model
        return self._model

    def _new_model(self):
        return _load().BM25(method=self.variant, k1=self.k1, b=self.b, delta=self.delta, dtype="float64")

    # === Saving ===

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes texts, words and weights to a directory that `load` reads. The tokenizer and stemmer are not saved.

        An existing index in the directory is replaced atomically, as in `SemanticIndex.save`.

        Args:
            folder: string or path on the local disk. Created if it does not exist.
        """
        folder = _disk.local_path("folder", folder, kind="folder")
        arrays = {"terms": self._terms, "ends": self._ends}
        if self._vocabulary:
            model = self._ready()
            arrays |= {name: model.scores[name] for name in ("data", "indices", "indptr")}
            arrays["absent"] = np.zeros(0) if model.nonoccurrence_array is None else model.nonoccurrence_array
        arrays = {name: np.asarray(array, _ARRAYS[name]) for name, array in arrays.items()}
        state = self._records.state()
        writers = {
            "texts": _parted.write_json(self.texts),
            "words": _parted.write_json(list(self._vocabulary)),
            "arrays": lambda path: _write_arrays(path, arrays),
            **({} if state is None else {"records": _parted.write_json(state)}),
        }
        manifest = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in ("variant", "k1", "b", "delta", "multiplier")},
            "stopwords": self._split.stopwords,
            "tokenizer": self._split.tokenizer is not None,
            "stemmer": self._split.stemmer is not None,
            "count": len(self),
        }
        _parted.write(_LAYOUT, folder, manifest, writers)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        tokenizer: Callable[[str], Sequence[str]] | None = None,
        stemmer: Callable[[str], str] | None = None,
    ) -> Self:
        """Reads an index that `save` wrote, and checks that its parts are complete and consistent.

        Args:
            folder: string or path.
            tokenizer: the function that the index was created with, if any.
            stemmer: the function that the index was created with, if any.

        Returns:
            `BM25Index`.

        Raises:
            ValueError: if the directory contains no index or a damaged one, in which case the message names the file;
                or if a tokenizer or stemmer is missing, or passed to an index that was created without one.
            ImportError: if bm25s is not installed; the message names the package.
        """
        _load()
        path = _disk.local_path("folder", folder, kind="folder")
        reader = _disk.Reader("folder", path, _EXPECTED, _REMEDY)
        given = {"tokenizer": tokenizer, "stemmer": stemmer}
        return _parted.read(reader, path / _LAYOUT.file, lambda: cls._read(reader, path, given))

    @classmethod
    def _read(cls, reader, folder, given):
        file = folder / _LAYOUT.file
        manifest = reader.json(file, _KEYS)
        if manifest["format"] != _FORMAT:
            raise reader.error(file, f"should be of format {_FORMAT}, not {manifest['format']!r}")
        for name, function in given.items():
            if manifest[name] != (function is not None):
                expected = f"the {name} that the index was made with" if manifest[name] else "None, as for this index"
                raise _check.invalid(name, expected, function)
        files = manifest["files"]
        needed = ["texts", "words", "arrays", *(["records"] if "records" in files else [])]
        reader.check_keys(file, files, dict.fromkeys(needed, dict), " in 'files'")
        paths = {part: _parted.checked_part(_LAYOUT, reader, folder, part, files[part]) for part in needed}
        texts, words = reader.json(paths["texts"]), reader.json(paths["words"])
        _parted.check_texts(reader, paths["texts"], texts)
        made = object.__new__(cls)
        with reader.guard(file):
            for name in ("variant", "k1", "b", "delta", "multiplier"):
                setattr(made, name, manifest[name])
            made._split = _terms.Terms(given["tokenizer"], None, given["stemmer"])
            made._split.set_stopwords(manifest["stopwords"])
        state = reader.json(paths["records"]) if "records" in paths else None
        with reader.guard(paths.get("records", file)):
            made._records = _records.Records.from_state(texts, state)
        made._vocabulary = {word: term for term, word in enumerate(words)}
        with reader.guard(paths["arrays"]), open(paths["arrays"], "rb") as opened:
            with np.load(opened, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            made._take(arrays, len(texts))
        return made

    def _take(self, arrays, count):
        """Takes over the arrays of a file; raises if they do not match."""
        if len(self._records) != count or len(arrays["ends"]) != count:
            raise ValueError(f"has {len(arrays['ends'])} rows for {count} texts")
        self._terms, self._ends, self._model = arrays["terms"], arrays["ends"], None
        if not self._vocabulary:
            return
        if len(arrays["indptr"]) != len(self._vocabulary) + 1:
            raise ValueError(f"has {len(arrays['indptr']) - 1} words, not {len(self._vocabulary)}")
        self._model = self._new_model()
        self._model.scores = {name: arrays[name] for name in ("data", "indices", "indptr")} | {"num_docs": count}
        self._model.nonoccurrence_array = arrays["absent"] if len(arrays["absent"]) else None


def _write_arrays(path, arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _load():
    """Returns the module `bm25s`.

    Raises:
        ImportError: if it is not installed; the message names the package.
    """
    # If bm25s can import JAX, it runs it once, which starts JAX's threads and reserves most of a GPU's memory. Without
    # JAX, bm25s uses numpy for the parts that are not used here.
    hidden = {} if "bm25s" in sys.modules else {name: sys.modules.get(name) for name in ("jax", "jax.lax")}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        found = importlib.import_module("bm25s")
    except ImportError as error:
        raise ImportError(
            "`search.BM25Index` requires the package bm25s: `pip install bm25s`, or `pip install tfxfer[bm25]`."
        ) from error
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    logger = logging.getLogger("bm25s")
    if logger.level == logging.DEBUG:  # bm25s sets this level on import, so every root handler gets its debug messages
        logger.setLevel(logging.WARNING)
    return found
