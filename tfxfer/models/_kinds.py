"""Shared methods of embedders that do not produce one dense vector per text."""

import collections.abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tfxfer import _check, _texts, layers
from tfxfer.models import _ranking, _restoring, _rows

# Encoding shows its progress on more batches than this.
_LONG = 64

_Mixin: Any = object  # the class that uses this mixin has the methods of a Keras model


class OtherKind(_Mixin):
    """Mixin for embedders whose `encode_query`, `encode_document` and `similarity` belong together.

    Searches and evaluations for dense vectors check `compares_itself`, and let the embedder compare.
    """

    compares_itself = True
    # Whether `export.saved_model` with unchanged weights is the only export: apart from its encoder, the model reads
    # ids or the whole table, which smaller weights renumber, and its outputs have rows of any width.
    is_for_saved_models_alone = True

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        """Also reuses the embedder of a `Siamese`."""
        towers = pretrained.task
        saved = None if backbone_only else getattr(towers, "embedder", None)
        if not isinstance(saved, cls):
            return super()._from_pretrained(pretrained, arguments, backbone_only)
        is_whole = len(towers.weights) == len(saved.weights) or not towers.decoder_changes_embeddings()
        notice = None if is_whole else _restoring.notice(cls, pretrained.trained_task)
        return saved._with(arguments), notice

    def make_towers(self, chunk_size: int | None) -> Any:
        """Returns the layer that a `Siamese` trains, from the columns of rows to their embeddings.

        Args:
            chunk_size: as in `Siamese`.
        """
        return layers.SiameseTowers(self, chunk_size, name="towers")

    def rank(
        self, query: str, documents: Sequence[str], k: int | None = None, *, batch_size: int = 32
    ) -> list[_ranking.Ranked]:
        """Ranks documents by their `similarity` to a query, like `rank` of an export.

        Args:
            query: string.
            documents: list of strings.
            k: int. The maximum number of documents to return. Defaults to all.
            batch_size: int. Batch size for inference. Defaults to 32.

        Returns:
            A list of `Ranked(index, score, text)`, the best first: the document's index in `documents`, its score, and
            its text. With equal scores the earlier document comes first.
        """
        return _ranking.ranked(self._document_scores, query, documents, k, batch_size)

    def _document_scores(self, query, documents, batch_size):
        queries = self.encode_query([query], batch_size, progress=False)
        return self.similarity(queries, self.encode_document(documents, batch_size, progress=False))[0]

    def explain(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported: only dense embedders, classifiers and regressors have attributions."""
        raise NotImplementedError(f"A `{type(self).__name__}` has no `explain`. {self._instead_of_explain}")

    _instead_of_explain = ""

    def _read(self, texts):
        """Returns the texts as a tensor."""
        return self.input_columns()["text"].read(texts, "texts")

    def _over_texts(self, texts: Any, batch_size: int, progress: bool | None, encode: Callable) -> Any:
        """Returns `encode(tensor of texts, progress)` for a string or a sequence, or a generator for an iterator."""
        _check.integer("batch_size", batch_size)
        expected = "a string, a sequence of strings, or an iterator of strings"
        if isinstance(texts, (str, bytes)):
            return encode(self._read([texts]), False)
        if isinstance(texts, (set, frozenset, collections.abc.Mapping)) or not (
            hasattr(texts, "__len__") or isinstance(texts, collections.abc.Iterable)
        ):
            raise _check.invalid("texts", expected, texts)
        if isinstance(texts, tuple):  # a tuple of texts, not of columns
            strange = [i for i, text in enumerate(texts) if not isinstance(text, (str, bytes))]
            if strange:
                where = f"It is in row {strange[0]} (counting from 0)."
                raise _check.invalid("texts", expected, texts[strange[0]], where)
            texts = list(texts)
        if hasattr(texts, "__len__"):
            if progress is None:
                progress = len(texts) > _LONG * batch_size and _texts.is_watched()
            return encode(self._read(texts), progress)
        return _streamed(texts, batch_size, lambda part: encode(self._read(part), False))

    def _run_texts(self, texts, part, batch_size, progress, finish):
        return self._runner(texts, part)(texts, batch_size, progress=bool(progress), finish=finish)


def _streamed(texts, batch_size, encode):
    texts = iter(texts)
    while part := list(itertools.islice(texts, batch_size * _rows.STREAM_BATCHES)):
        yield encode(part)


def knows_tokens(preprocessor: Any) -> bool:
    """Returns whether there is a vocabulary; while a model is loaded from its file, the tokenizer has none yet."""
    return preprocessor is not None and preprocessor.tokenizer.has_vocabulary


def token_id(argument: str, preprocessor: Any, token: str | None) -> int | None:
    """Returns the id of the token in an argument; raises if the vocabulary does not have it."""
    if token is None:
        return None
    _check.instance(argument, token, str, "a token of the vocabulary, or None")
    if preprocessor is None:
        raise _check.invalid(argument, "None for a model without a preprocessor", token)
    vocabulary = preprocessor.tokenizer.vocabulary
    if token not in vocabulary:
        remedy = "Add it with `model.with_added_tokens([...], special=True)`, or choose an unused token."
        raise _check.invalid(argument, "a token of the vocabulary", token, remedy)
    return vocabulary.index(token)
