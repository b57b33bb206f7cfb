"""Encoding texts: vectors, their similarity, and ranking documents for a query."""

import collections.abc
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts, data
from tfxfer.models import _explaining, _ranking, _rows, _workers
from tfxfer.models._attributions import Explanation

# `encode` shows its progress on more batches than this.
_LONG = 64
_OUTPUTS = ("embedding", "tokens")
# The name of the part of the model that outputs the token states.
_TOKENS = "tokens"
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

_Mixin: Any = object  # the class that uses this mixin has the methods of an embedder


class Encodes(_Mixin):
    """Mixin with `encode` and related methods."""

    def encode(
        self,
        texts: Any,
        batch_size: int = 32,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        output: Literal["embedding", "tokens"] = "embedding",
        progress: bool | None = None,
        workers: int | _workers.Workers | None = None,
    ) -> Any:
        """Encodes texts as vectors.

        Texts are sorted by length and batched with little padding; the vectors are returned in the order of the texts.
        Their values do not depend on batch size, order or the other texts of a batch: bit for bit on TensorFlow and a
        processor with AVX-512 (also from an export), elsewhere up to float rounding. `export.Engine` produces the same
        bits on any processor.

        Args:
            texts: a string; a list, tuple, array, Series or other sequence of strings; or an iterator of strings, such
                as a file, which is consumed in constant memory.
            batch_size: int. Batch size for inference. Defaults to 32.
            prompt: string put before each text.
            prompt_name: string, a key of `prompts`. Defaults to `default_prompt_name`.
            normalize: bool. Whether to scale vectors to length 1. Defaults to the model's `normalize`; `False` returns
                the vectors before the model's last module, if that module scales them.
            truncate_dim: int. Keeps only the first components (for Matryoshka models, Kusupati et al., 2022,
                https://arxiv.org/abs/2205.13147); normalized vectors are scaled to length 1 again.
            dtype: `"float32"`, `"float16"` or `"bfloat16"`: the dtype of the result, not of the computation. Defaults
                to `"float32"`.
            output: `"embedding"`, one vector per text; or `"tokens"`, the encoder's vector for each token of a text,
                including special tokens, before the pooling. Defaults to `"embedding"`.
            progress: bool. Whether to show a progress bar. By default, in a terminal or notebook if there are more than
                64 batches.
            workers: int, the number of processes, or the result of `workers`, which describes when this is worthwhile.
                The vectors are identical bit for bit if each process has as many threads as this one.

        Returns:
            An array `(dim,)` for a string, `(texts, dim)` for a sequence; for an iterator, a generator of arrays
            `(some texts, dim)` in the order of the texts. With `output="tokens"`, an array `(tokens, hidden_dim)` for
            one text and a list of such arrays for several.

        Raises:
            ValueError: if an element is not a string (the error names its row), or an argument is out of range.
            RuntimeError: if a worker fails on a text (the error names its row), or a worker has ended.

        Example:

        ```python
        vectors = embedder.encode(["Where is my card?", "My card has not arrived"])
        vectors @ vectors.T  # cosines
        for part in embedder.encode(open("corpus.txt")): ...
        ```
        """
        _check.integer("batch_size", batch_size)
        truncate_dim = _check.integer("truncate_dim", truncate_dim, optional=True)
        if truncate_dim is not None and truncate_dim > self.embedding_dim:
            raise _check.invalid("truncate_dim", f"an int <= {self.embedding_dim}, the vectors' size", truncate_dim)
        _check.one_of("dtype", dtype, _DTYPES)
        prompt = self._prompt(prompt, prompt_name)

        _check.one_of("output", output, _OUTPUTS)
        if output == "tokens":
            for name, value in (("normalize", normalize), ("truncate_dim", truncate_dim)):
                if value is not None:
                    raise _check.invalid(name, 'None with output="tokens"', value)
        wanted = self.normalize if normalize is None else bool(normalize)

        def encode(texts, progress):
            if output == "tokens":
                states = self._encode_tokens(texts, prompt, batch_size, progress)
                return [each.astype(_DTYPES[dtype]) for each in states]
            vectors = self._encode(texts, prompt, batch_size, progress, wanted)
            return _finish(vectors, wanted and (truncate_dim is not None or not self.normalize), truncate_dim, dtype)

        if isinstance(texts, (str, bytes)):
            return encode(self._read([texts]), False)[0]
        if isinstance(texts, (set, frozenset, collections.abc.Mapping)) or not (
            hasattr(texts, "__len__") or isinstance(texts, collections.abc.Iterable)
        ):
            raise _check.invalid("texts", "a string, a sequence of strings, or an iterator of strings", texts)
        if workers is not None:
            options = {"prompt": prompt, "normalize": normalize, "truncate_dim": truncate_dim, "dtype": dtype}
            return self._encode_on(workers, texts, batch_size, progress, encode, {**options, "output": output})
        if hasattr(texts, "__len__"):
            return encode(self._read(texts), progress)
        parts = _parts(texts, batch_size * _rows.STREAM_BATCHES)
        return (encode(self._read(part), False) for part in parts)

    def workers(
        self, count: int | None = None, *, devices: Sequence[str] | None = None, threads: int | None = None
    ) -> _workers.Workers:
        """Starts processes that each encode with a copy of this model, for any number of calls.

        Each process takes some seconds to start, and the memory of TensorFlow and the model. This is worthwhile for
        minutes of work: on many cores that one process cannot keep busy, or on several GPUs. The cores are divided
        among the processes: with two processes on two cores, each has one thread.

        The batches are the same as with one process, so the vectors are identical bit for bit if the number of threads
        is the same (more threads may sum a matrix product in a different order). Vectors are returned in the order of
        the texts. An error in a process names the row and its text; a killed process also raises an error.

        A script needs `if __name__ == "__main__":` around its code, because each process imports it. Model classes that
        are defined in a notebook cannot be loaded by another process.

        Args:
            count: int. The number of processes. Defaults to the number of devices.
            devices: list of `"cpu"`, `"gpu:0"`, `"gpu:1"` and so on, one for each process. By default each process sees
                the same devices as this one.
            threads: int. Threads of each process for TensorFlow and NumPy. Defaults to the cores divided by the
                processes, limited by this process's `TF_NUM_INTRAOP_THREADS` and `OMP_NUM_THREADS`.

        Returns:
            `Workers`, a context manager; `close()` ends the processes.

        Raises:
            ValueError: if a device is unknown, a GPU does not exist, or the model has an engine.

        Example:

        ```python
        if __name__ == "__main__":
            with embedder.workers(4) as workers:
                for part in embedder.encode(open("corpus.txt"), workers=workers): ...
                index = tx.search.SemanticIndex(workers, texts)
        ```
        """
        return _workers.Workers(self, count, devices=devices, threads=threads)

    def _encode_on(self, workers, texts, batch_size, progress, here, options):
        """Encodes texts in other processes; uses `here` if there is too little work to start them."""
        is_own = not isinstance(workers, _workers.Workers)
        count = _check.integer("workers", workers) if is_own else len(workers)
        if not is_own:
            workers.check(self)

        def plan(part):
            prefixed = data.with_prefix(part, options["prompt"])
            return np.asarray(part), self._runner(prefixed).batches(prefixed, batch_size)

        if not hasattr(texts, "__len__"):
            parts = map(self._read, _parts(texts, batch_size * _rows.STREAM_BATCHES))
            return self._streamed_on(workers, map(plan, parts), options)
        texts = self._read(texts)
        if not len(texts):
            return here(texts, False)
        rows, batches = plan(texts)
        if len(batches) == 1 and is_own:
            return here(texts, progress)
        if progress is None:
            progress = len(rows) > _LONG * batch_size and _texts.is_watched()
        report = keras.utils.Progbar(len(rows), unit_name="text").add if progress else None
        with self.workers(min(count, len(batches))) if is_own else contextlib.nullcontext(workers) as made:
            [found] = made.run([(rows, batches)], options, report)
        return found

    def _streamed_on(self, workers, parts, options):
        is_own = not isinstance(workers, _workers.Workers)
        with self.workers(workers) if is_own else contextlib.nullcontext(workers) as made:
            yield from made.run(parts, options)

    def _read(self, texts):
        """Returns the texts as a tensor."""
        if isinstance(texts, tuple) and not all(isinstance(text, (str, bytes)) for text in texts):
            expected = "a string, a sequence of strings, or an iterator of strings"
            row = next(i for i, text in enumerate(texts) if not isinstance(text, (str, bytes)))
            raise _check.invalid("texts", expected, texts[row], f"It is in row {row} (counting from 0).")
        return self.input_columns()["text"].read(texts, "texts")

    def _prompt(self, prompt, prompt_name):
        if prompt is not None and prompt_name is not None:
            raise _check.invalid("prompt_name", "None together with `prompt`", prompt_name)
        name = prompt_name or self.default_prompt_name
        if prompt is None and name is not None:
            prompt = self.prompts[_check.one_of("prompt_name", name, self.prompts)]
        return prompt or ""

    def _encode(self, texts, prompt, batch_size, progress, is_scaled):
        if not len(texts):
            return np.zeros((0, self.embedding_dim), "float32")
        part = (self.prompt_length(prompt), is_scaled or not self.normalize)
        return self._run_texts(texts, prompt, None if part == (0, True) else part, batch_size, progress)

    def _encode_tokens(self, texts, prompt, batch_size, progress):
        if not len(texts):
            return []

        def finish(outputs):
            states, mask = outputs
            return [row[real > 0] for row, real in zip(states, mask, strict=True)]

        return self._run_texts(texts, prompt, _TOKENS, batch_size, progress, finish)

    def _run_texts(self, texts, prompt, part, batch_size, progress, finish=None):
        if progress is None:
            progress = len(texts) > _LONG * batch_size and _texts.is_watched()
        texts = data.with_prefix(texts, prompt)
        return self._runner(texts, part)(texts, batch_size, progress=progress, finish=finish)

    def _part(self, part):
        """Returns the model with a pooling that skips the prompt, with or without the last module; or token states."""
        if part == _TOKENS:
            sequence, mask, _ = self.boundary()
            return keras.Model(self.input, [sequence, mask])
        if isinstance(part, str):
            return super()._part(part)
        prompt_length, is_whole = part
        pooling = self.get_layer("pooling")
        sequence, mask = pooling.input
        x = pooling(sequence, padding_mask=mask, prompt_length=prompt_length)
        for module in self._chain if is_whole else self._chain[:-1]:
            x = module(x)
        return keras.Model(self.input, x)

    def encode_query(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes search queries: `encode` with the prompt `"query"`, if the model has one.

        Args:
            texts: as in `encode`.
            batch_size: int. Batch size for inference. Defaults to 32.
            **kwargs: passed to `encode`. `prompt` or `prompt_name` replace the default prompt.

        Returns:
            The result of `encode`.

        Example:

        ```python
        queries = embedder.encode_query(["how do I reset my card"])
        embedder.similarity(queries, embedder.encode_document(documents))  # (1, number of documents)
        ```
        """
        return self._encode_as(_texts.QUERY_PROMPTS, texts, batch_size, kwargs)

    def encode_document(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes search documents: `encode` with the prompt `"document"`, `"passage"` or `"corpus"`.

        It uses the first of the three that the model has; without any, it is the same as `encode`. As in
        sentence-transformers, a model loaded from a directory with prompts always has a prompt `"document"`, which is
        empty unless the directory defines it. A directory whose only prompts are `"query"` and `"passage"` therefore
        encodes documents without a prompt.

        Args:
            texts: as in `encode`.
            batch_size: int. Batch size for inference. Defaults to 32.
            **kwargs: passed to `encode`. `prompt` or `prompt_name` replace the default prompt.

        Returns:
            The result of `encode`.
        """
        return self._encode_as(_texts.DOCUMENT_PROMPTS, texts, batch_size, kwargs)

    def _encode_as(self, names, texts, batch_size, arguments):
        if arguments.get("prompt") is None and arguments.get("prompt_name") is None:
            arguments = {**arguments, "prompt": _texts.prompt_for(self, None, names)}
        return self.encode(texts, batch_size, **arguments)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> np.ndarray:
        """Computes the similarity of each vector of `a` to each vector of `b`; larger is closer.

        `similarity_fn_name` selects the function: `"cosine"`, `"dot"`, or the negated distance for `"euclidean"` and
        `"manhattan"`.

        Args:
            a: float array `(n, dim)`, or `(dim,)` for one vector.
            b: float array `(m, dim)`, or `(dim,)` for one vector.

        Returns:
            A float32 array `(n, m)`.

        Raises:
            ValueError: if the arrays have another shape, or contain numbers that are not finite.

        Example:

        ```python
        vectors = embedder.encode(["Where is my card?", "My card has not arrived"])
        embedder.similarity(vectors, vectors[0]).shape  # (2, 1)
        ```
        """
        a, b = (_neighbours.matrix(name, np.atleast_2d(np.asarray(value))) for name, value in (("a", a), ("b", b)))
        if a.shape[1] != b.shape[1]:
            raise _check.invalid("b", f"vectors of {a.shape[1]} components, like those of `a`", b.shape)
        return _neighbours.pairwise(a, b, self.similarity_fn_name)

    def explain(
        self,
        a: Any,
        b: Any,
        *,
        prompt: str | tuple[str, str] | None = None,
        steps: int = _explaining.STEPS,
        max_steps: int | None = None,
        tolerance: float = 0.05,
        baseline: Literal["pad", "mask", "unknown", "zero"] | None = None,
        erasure: bool = False,
        split: Literal["punctuation", "whitespace"] = "punctuation",
        batch_size: int = 64,
    ) -> list[Explanation]:
        """Explains which words make two texts similar or dissimilar, by integrated gradients.

        The explained number is the model's `similarity` between each text of `a` and the text of `b` in the same row.
        The words of `a` are explained with the vector of `b` fixed, and vice versa. The values of the words of one text
        add up to the similarity minus the similarity of the text without its words; each side has its own baseline.

        Args:
            a: a string, or a list of strings.
            b: a string, or a list of the same length as `a`.
            prompt: string put before each text, or a tuple with one for each side. Defaults to the model's default
                prompt. A prompt has no words; `rest` holds the contribution of its tokens.
            steps: as in `TextClassifier.explain`.
            max_steps: as in `TextClassifier.explain`.
            tolerance: as in `TextClassifier.explain`.
            baseline: as in `TextClassifier.explain`.
            erasure: as in `TextClassifier.explain`.
            split: as in `TextClassifier.explain`.
            batch_size: as in `TextClassifier.explain`.

        Returns:
            A list of `Explanation`, one for each row, with the words of both texts (`column` 0 and 1).

        Raises:
            ValueError: if an element is not a string (the error names its row), or the columns differ in length; and as
                in `TextClassifier.explain`.

        Example:

        ```python
        why = embedder.explain("Where is my parcel?", "My order has not arrived")[0]
        [(word.text, round(word.value, 2)) for word in why.top(3)]
        ```

        Reference: Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365.
        """
        options = _explaining.Options(steps, max_steps, tolerance, baseline, erasure, split, batch_size)
        given = prompt if isinstance(prompt, tuple) else (prompt, prompt)
        if len(given) != 2:
            raise _check.invalid("prompt", "a string, or a tuple of two", prompt)
        prompts = tuple(self._prompt(each, None) for each in given)
        return _explaining.explain_similarity(self, a, b, prompts, options)

    def rank(
        self, query: str, documents: Sequence[str], k: int | None = None, *, batch_size: int = 32
    ) -> list[_ranking.Ranked]:
        """Ranks documents by their similarity to a query, like `rank` of an export.

        Args:
            query: string.
            documents: list of strings.
            k: int. The maximum number of documents to return. Defaults to all.
            batch_size: int. Batch size for inference. Defaults to 32.

        Returns:
            A list of `Ranked(index, score, text)`, the best first: the document's index in `documents`, its
            `similarity` to the query, and its text. The prompts are those of `encode_query` and `encode_document`.

        Example:

        ```python
        embedder.rank("lost card", ["My card is gone", "What is a loan?"], k=1)[0].text  # "My card is gone"
        ```
        """
        return _ranking.ranked(self._document_scores, query, documents, k, batch_size)

    def _document_scores(self, query, documents, batch_size):
        vectors = self.encode_document(documents, batch_size)
        return self.similarity(self.encode_query([query], batch_size), vectors)[0]

    def table_columns(self, x: Any, batch_size: int = 32, **options: Any) -> dict[str, tuple[str, Any]]:
        """Returns the column `embedding`, the result of `encode`; see `WritesTables.table_columns`."""
        return {"embedding": ("vector", self.encode(x, batch_size, progress=False, **options))}

    def prompt_length(self, prompt: str) -> int:
        """Returns how many tokens at the start of each text the pooling skips because of a prompt.

        If `include_prompt` is `False`, these are the tokens of the prompt and the special tokens before it; otherwise
        0. As in sentence-transformers, the prompt is tokenized alone and a special token at its end is not counted.

        Args:
            prompt: string.

        Returns:
            An int.
        """
        if self.include_prompt or not prompt:
            return 0
        packed = self.preprocessor([prompt])
        ids = np.asarray(packed["token_ids"])[np.asarray(packed["padding_mask"]) == 1]
        tokenizer = self.preprocessor.tokenizer
        special = {*tokenizer.special_token_ids, *tokenizer.spec.special.values()}
        return len(ids) - int(len(ids) > 0 and int(ids[-1]) in special)

    def for_prompt(self, prompt: str) -> keras.Model:
        """Returns the model for texts with a prompt: this model, unless the pooling skips the prompt's tokens.

        Args:
            prompt: string.

        Returns:
            A Keras model from a dict of ids, of prompt and text together, to vectors. It shares this model's layers.
        """
        prompt_length = self.prompt_length(prompt)
        return self._part((prompt_length, True)) if prompt_length else self


def _parts(texts, size):
    texts = iter(texts)
    while part := list(itertools.islice(texts, size)):
        yield part


def _finish(vectors, scale, truncate_dim, dtype):
    if truncate_dim is not None:
        vectors = vectors[:, :truncate_dim]
    if scale:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(_DTYPES[dtype])
